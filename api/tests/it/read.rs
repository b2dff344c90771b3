//! Asking for samples.

use std::time::Duration;

use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use crate::fixture::{OPERATOR, TestServer, point, point_with, server};

const SERIES: &str = "/api/v1/wearables/metric/heart_rate";

async fn fill(server: &TestServer, samples: u32) {
    for start in (0..samples).step_by(500) {
        let end = samples.min(start + 500);
        let points: Vec<_> = (start..end).map(|n| point(n, f64::from(n % 200) + 50.0)).collect();
        server.bulk(&points).await.expect(200);
    }
}

#[tokio::test]
async fn the_answer_has_avycennas_shape() {
    let server = server().start().await;
    server.bulk(&[point(0, 58.0), point(60, 62.0)]).await.expect(200);
    let path = format!("{SERIES}?user_id=u1&start=2026-01-01T00:00:00Z");
    let answer = server.get(&path, OPERATOR).await.expect(200);
    let text = "{\"metric\":\"heart_rate\",\"unit\":\"bpm\",\"data_points\":[\
        {\"value\":62.0,\"recorded_at\":\"2026-01-01T00:01:00Z\",\"source\":\"garmin\"},\
        {\"value\":58.0,\"recorded_at\":\"2026-01-01T00:00:00Z\",\"source\":\"garmin\"}]}";
    assert_eq!(answer.text(), text);
    assert_eq!(answer.header("content-type"), Some("application/json"));
    let alias = path.replace("heart_rate", "HKQuantityTypeIdentifierHeartRate");
    assert_eq!(server.get(&alias, OPERATOR).await.expect(200).text(), text);
    let nobody = server.get(&format!("{SERIES}?user_id=nobody"), OPERATOR).await.expect(200);
    assert_eq!(nobody.json()["data_points"], json!([]));
}

#[tokio::test]
async fn windows_are_half_open_and_days_count_back() {
    let server = server().start().await;
    fill(&server, 4).await;
    let count = async |parameters: &str| {
        let path = format!("{SERIES}?user_id=u1&{parameters}");
        server.get(&path, OPERATOR).await.expect(200).json()["data_points"].as_array().unwrap().len()
    };
    assert_eq!(count("start=2026-01-01T00:00:01Z&end=2026-01-01T00:00:03Z").await, 2);
    assert_eq!(count("start=2026-01-01T02:00:01%2B02:00&end=2026-01-01T02:00:03+02:00").await, 2);
    assert_eq!(count("end=2026-01-01T00:00:01Z").await, 1);
    assert_eq!(count("days=36500").await, 4);
    assert_eq!(count("days=0.001").await, 0);
    assert_eq!(count("source=apple&days=36500").await, 0);
}

#[tokio::test]
async fn pages_join_without_gap_or_repeat_in_both_directions() {
    let server = server().start().await;
    fill(&server, 25).await;
    server
        .bulk(&[point_with(json!({"source": "apple"})), point_with(json!({"source_device_id": "d"}))])
        .await
        .expect(200);
    let all = server.series("heart_rate", "order=asc").await;
    assert_eq!(all.len(), 27);
    for (order, limit) in [("asc", 1), ("asc", 10), ("desc", 9), ("desc", 27), ("asc", 100)] {
        let mut found: Vec<Value> = Vec::new();
        let mut cursor = String::new();
        let mut pages = 0;
        loop {
            let path = format!("{SERIES}?user_id=u1&days=36500&order={order}&limit={limit}{cursor}");
            let page = server.get(&path, OPERATOR).await.expect(200).json();
            found.extend(page["data_points"].as_array().unwrap().clone());
            pages += 1;
            match page.get("next_cursor") {
                Some(next) => cursor = format!("&cursor={}", next.as_str().unwrap()),
                None => break,
            }
        }
        if order == "desc" {
            found.reverse();
        }
        assert_eq!(found, all, "{order} {limit}");
        assert_eq!(pages, all.len().div_ceil(limit), "{order} {limit}");
    }
}

#[tokio::test]
async fn a_cursor_of_another_question_is_refused() {
    let server = server().start().await;
    fill(&server, 5).await;
    let page = server.get(&format!("{SERIES}?user_id=u1&days=36500&limit=2"), OPERATOR).await.json();
    let cursor = page["next_cursor"].as_str().unwrap();
    for parameters in [
        "user_id=u2&days=36500",
        "user_id=u1&days=30",
        "user_id=u1&days=36500&order=asc",
        "user_id=u1&days=36500&source=garmin",
        "user_id=u1&start=2026-01-01T00:00:00Z",
    ] {
        let path = format!("{SERIES}?{parameters}&limit=2&cursor={cursor}");
        let refused = server.get(&path, OPERATOR).await.expect(422).json();
        assert_eq!(refused["detail"][0]["type"], "other_query", "{parameters}");
    }
    let other_metric = format!("/api/v1/wearables/metric/steps?user_id=u1&days=36500&cursor={cursor}");
    server.get(&other_metric, OPERATOR).await.expect(422);
    let other_limit = format!("{SERIES}?user_id=u1&days=36500&limit=3&cursor={cursor}");
    server.get(&other_limit, OPERATOR).await.expect(200);
}

#[tokio::test]
async fn a_long_window_streams_whole() {
    let server = server().start().await;
    fill(&server, 20_000).await;
    let series = server.series("heart_rate", "order=asc").await;
    assert_eq!(series.len(), 20_000);
    let sum: f64 = series.iter().map(|point| point["value"].as_f64().unwrap()).sum();
    let expected: f64 = (0..20_000u32).map(|n| f64::from(n % 200) + 50.0).sum();
    assert_eq!(sum, expected);
    let limited = server.series("heart_rate", "order=asc&limit=15000").await;
    assert_eq!(limited, series[..15_000]);
}

#[tokio::test]
async fn a_client_that_does_not_read_is_cut_off_and_its_answer_has_no_end() {
    let setup = server().with(|settings| settings.http.write_timeout = Duration::from_millis(300));
    let server = setup.start().await;
    fill(&server, 86_000).await;
    let socket = tokio::net::TcpSocket::new_v4().unwrap();
    socket.set_recv_buffer_size(4096).unwrap();
    let mut stream = socket.connect(server.address).await.unwrap();
    let path = format!("{SERIES}?user_id=u1&days=36500");
    stream.write_all(&server.request("GET", &path).key(OPERATOR).bytes()).await.unwrap();
    tokio::time::sleep(Duration::from_millis(1500)).await;
    let mut bytes = Vec::new();
    let _ = stream.read_to_end(&mut bytes).await;
    assert!(bytes.starts_with(b"HTTP/1.1 200 OK"));
    assert!(!bytes.ends_with(b"0\r\n\r\n"), "the answer must not look whole");
    server.assert_well("a client that does not read").await;
}

#[tokio::test]
async fn latest_has_the_newest_value_of_each_metric() {
    let server = server().start().await;
    let steps = json!({"metric":"steps","value":9241,"unit":"count","recorded_at":"2026-01-01T20:00:00Z","source":"apple"});
    server.bulk(&[point(60, 62.0), point(0, 58.0), steps]).await.expect(200);
    let latest = server.get("/api/v1/wearables/latest?user_id=u1", OPERATOR).await.expect(200).json();
    let expected = json!({"latest": {
        "heart_rate": {"value": 62.0, "unit": "bpm", "recorded_at": "2026-01-01T00:01:00Z"},
        "steps": {"value": 9241.0, "unit": "steps", "recorded_at": "2026-01-01T20:00:00Z"},
    }});
    assert_eq!(latest, expected);
    let nobody = server.get("/api/v1/wearables/latest?user_id=nobody", OPERATOR).await.expect(200);
    assert_eq!(nobody.text(), "{\"latest\":{}}");
}

#[tokio::test]
async fn head_answers_as_get_without_a_body() {
    let server = server().start().await;
    fill(&server, 5000).await;
    for path in [
        "/health".to_owned(),
        format!("{SERIES}?user_id=u1&days=36500"),
        format!("{SERIES}?user_id=u1&days=1"),
    ] {
        let head = server.request("HEAD", &path).key(OPERATOR).send().await.expect(200);
        assert_eq!(head.header("content-type"), Some("application/json"), "{path}");
        let refused = server.request("HEAD", "/api/v1/wearables/latest").send().await;
        assert_eq!(refused.status, 401);
    }
    server.assert_well("HEAD").await;
}

#[tokio::test]
async fn the_registry_is_listed_to_any_caller() {
    let server = server().start().await;
    let key = server.make_key("default", &json!({"scopes": ["webhooks"]})).await.key;
    let listing = server.get("/api/v1/metrics", &key).await.expect(200).json();
    assert_eq!(listing["done"], true);
    let metrics = listing["data"].as_array().unwrap();
    let heart_rate = metrics.iter().find(|metric| metric["key"] == "heart_rate").unwrap();
    assert_eq!(heart_rate["unit"], "bpm");
    assert_eq!(heart_rate["hard_max"], 300.0);
    let hertz = json!({"unit": "Hz", "scale": 60.0, "offset": 0.0});
    assert!(heart_rate["unit_aliases"].as_array().unwrap().contains(&hertz), "{heart_rate}");
    server.request("GET", "/api/v1/metrics").send().await.expect(401);
}
