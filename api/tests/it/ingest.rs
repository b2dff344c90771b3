//! Taking samples in.

use std::io::Write as _;

use serde_json::{Value, json};

use crate::client::{Connection, Request};
use crate::fixture::{OPERATOR, point, point_with, server};

const ONE: &str = "/api/v1/wearables/ingest";
const BULK: &str = "/api/v1/wearables/bulk-ingest";

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

#[tokio::test]
async fn what_was_acknowledged_is_seen_by_the_next_read() {
    let server = server().start().await;
    let documented = json!({
        "metric": "heart_rate", "value": 62.0, "unit": "bpm", "recorded_at": "2026-06-30T07:45:00Z",
        "source": "garmin", "source_device_id": "garmin-device-001", "user_id": "u1"
    });
    let answer = server.post(ONE, OPERATOR, &documented).await.expect(200);
    assert_eq!(answer.json(), json!({"accepted": 1}));
    let answer = server.bulk(&[point(0, 58.0), point(1, 59.5)]).await.expect(200);
    assert_eq!(answer.json(), json!({"accepted": 2}));
    let series = server.series("heart_rate", "").await;
    let values: Vec<_> = series.iter().map(|point| point["value"].as_f64().unwrap()).collect();
    assert_eq!(values, [62.0, 59.5, 58.0]);
    assert_eq!(series[0]["source_device_id"], "garmin-device-001");
}

#[tokio::test]
async fn five_hundred_points_are_taken_and_one_more_is_refused() {
    let server = server().start().await;
    let mut points: Vec<Value> = (0..500).map(|second| point(second, 60.0)).collect();
    assert_eq!(server.bulk(&points).await.expect(200).json(), json!({"accepted": 500}));
    assert_eq!(server.series("heart_rate", "").await.len(), 500);
    points.push(point(500, 60.0));
    let refused = server.bulk(&points).await.expect(422).json();
    assert_eq!(refused["detail"][0]["loc"], json!(["body", "data_points"]));
    assert_eq!(refused["detail"][0]["type"], "too_many");
}

#[tokio::test]
async fn sending_again_changes_nothing_and_another_value_replaces() {
    let server = server().start().await;
    for _ in 0..2 {
        server.bulk(&[point(0, 60.0), point(1, 61.0)]).await.expect(200);
    }
    server.bulk(&[point(1, 70.0), point(1, 71.0)]).await.expect(200);
    let series = server.series("heart_rate", "order=asc").await;
    assert_eq!(series.len(), 2);
    assert_eq!(series[1]["value"], 71.0);
}

#[tokio::test]
async fn one_bad_point_stores_nothing_unless_partial_is_asked_for() {
    let server = server().start().await;
    let points = [point(0, 60.0), point_with(json!({"value": "60"})), point(2, 900.0), point(3, 63.0)];
    let refused = server.bulk(&points).await.expect(422).json();
    assert_eq!(refused["code"], "invalid");
    assert_eq!(refused["rejected"], 2);
    assert_eq!(refused["detail"][0]["loc"], json!(["body", "data_points", 1, "value"]));
    assert_eq!(refused["detail"][0]["type"], "wrong_type");
    assert_eq!(refused["detail"][1]["loc"], json!(["body", "data_points", 2, "value"]));
    assert_eq!(refused["detail"][1]["type"], "out_of_range");
    assert!(server.series("heart_rate", "").await.is_empty());

    let body = json!({ "data_points": points });
    let path = format!("{BULK}?user_id=u1&partial=true");
    let stored = server.post(&path, OPERATOR, &body).await.expect(200).json();
    assert_eq!((&stored["accepted"], &stored["rejected"]), (&json!(2), &json!(2)));
    assert_eq!(stored["detail"].as_array().unwrap().len(), 2);
    assert_eq!(server.series("heart_rate", "").await.len(), 2);

    let body = json!({ "data_points": [point(0, 900.0)] });
    let none = server.post(&path, OPERATOR, &body).await.expect(200).json();
    assert_eq!((&none["accepted"], &none["rejected"]), (&json!(0), &json!(1)));
}

#[tokio::test]
async fn the_first_hundred_bad_points_are_named_and_all_counted() {
    let server = server().start().await;
    let points = vec![point(0, 0.0); 150];
    let refused = server.bulk(&points).await.expect(422).json();
    assert_eq!(refused["detail"].as_array().unwrap().len(), 100);
    assert_eq!(refused["rejected"], 150);
}

#[tokio::test]
async fn units_aliases_offsets_and_optional_fields_are_understood() {
    let server = server().start().await;
    let points = [
        point_with(json!({"unit": "Hz", "value": 1.0})),
        point_with(json!({"metric": "HEART_RATE", "recorded_at": "2026-01-02T02:00:00.1239+02:00"})),
        point_with(json!({
            "recorded_at": "2026-01-03T00:00:00Z", "zone_offset": "-05:30", "ended_at": "2026-01-03T00:01:00Z",
            "is_daily_total": true, "source_device_id": "d\"1", "unknown": {"x": [1, 2, {}]}
        })),
    ];
    server.bulk(&points).await.expect(200);
    let expected = json!([
        {"value": 60.0, "recorded_at": "2026-01-01T00:00:00Z", "source": "garmin"},
        {"value": 62.0, "recorded_at": "2026-01-02T00:00:00.123Z", "source": "garmin", "zone_offset": "+02:00"},
        {"value": 62.0, "recorded_at": "2026-01-03T00:00:00Z", "source": "garmin", "source_device_id": "d\"1",
         "zone_offset": "-05:30", "ended_at": "2026-01-03T00:01:00Z", "is_daily_total": true},
    ]);
    assert_eq!(Value::from(server.series("heart_rate", "order=asc").await), expected);
}

#[tokio::test]
async fn the_user_comes_from_the_key_the_query_or_the_point() {
    let server = server().start().await;
    let bound = server.make_key("default", &json!({"scopes": ["ingest", "read"], "user_id": "u1"})).await.key;
    let named = point_with(json!({"user_id": "u1"}));
    let other = point_with(json!({"user_id": "u2"}));
    let query = format!("{ONE}?user_id=u1");
    let other_query = format!("{ONE}?user_id=u2");
    let cases = [
        (bound.as_str(), ONE, &point(0, 60.0), 200, ""),
        (&bound, ONE, &named, 200, ""),
        (&bound, &query, &named, 200, ""),
        (&bound, ONE, &other, 403, "other_user"),
        (&bound, &other_query, &point(0, 60.0), 403, "other_user"),
        (OPERATOR, ONE, &named, 200, ""),
        (OPERATOR, &query, &named, 200, ""),
        (OPERATOR, ONE, &point(0, 60.0), 422, "missing"),
        (OPERATOR, &query, &other, 422, "user_mismatch"),
        (OPERATOR, "/api/v1/wearables/ingest?user_id=a%20b", &named, 422, "malformed"),
    ];
    for (key, path, point, status, kind) in cases {
        let answer = server.post(path, key, point).await.expect(status).json();
        let found = answer["detail"][0]["type"].as_str().or(answer["code"].as_str()).unwrap_or_default();
        assert_eq!(found, kind, "{path} {point}: {answer}");
    }
}

#[tokio::test]
async fn compressed_and_chunked_bodies_are_read() {
    let server = server().start().await;
    let body = json!({ "data_points": [point(0, 60.0)] }).to_string().into_bytes();
    let to = |encoding: &str, body: Vec<u8>| {
        let request = server.request("POST", "/api/v1/wearables/bulk-ingest?user_id=u1").key(OPERATOR);
        request.header("Content-Encoding", encoding).body(body)
    };
    for request in [
        to("gzip", gzip(&body)),
        to("zstd", zstd::encode_all(body.as_slice(), 3).unwrap()),
        to("zstd", zstd::encode_all(body.as_slice(), 3).unwrap()).chunked(),
        to("identity", body.clone()),
        to("identity", body.clone()).chunked(),
        to("GZIP", gzip(&body)).header("Content-Type", "Application/JSON; charset=utf-8"),
    ] {
        assert_eq!(request.send().await.expect(200).json(), json!({"accepted": 1}));
    }
    let long = json!({ "data_points": vec![point_with(json!({"note": "x".repeat(2000)})); 400] });
    let request = to("identity", long.to_string().into_bytes()).chunked();
    assert_eq!(request.send().await.expect(200).json(), json!({"accepted": 400}));
}

#[tokio::test]
async fn a_connection_takes_requests_one_after_the_other_and_pipelined() {
    let server = server().start().await;
    let mut connection = Connection::open(server.address).await;
    let request = |second: u32| {
        let body = json!({ "data_points": [point(second, 60.0)] });
        let request = Request::new(server.address, "POST", "/api/v1/wearables/bulk-ingest?user_id=u1");
        request.key(OPERATOR).header("x-request-id", &format!("r{second}")).body(body.to_string())
    };
    for second in 0..3 {
        connection.send(&request(second).bytes()).await;
        connection.answer().await.unwrap().expect(200);
    }
    let pipelined: Vec<u8> = (3..20).flat_map(|second| request(second).bytes()).collect();
    connection.send(&pipelined).await;
    for second in 3..20 {
        let answer = connection.answer().await.unwrap().expect(200);
        assert_eq!(answer.header("x-request-id"), Some(format!("r{second}").as_str()));
    }
    assert_eq!(server.series("heart_rate", "").await.len(), 20);
}

#[tokio::test]
async fn a_client_that_leaves_in_the_middle_leaves_nothing_behind() {
    let server = server().start().await;
    for cut in [10, 100, 400] {
        let mut connection = Connection::open(server.address).await;
        let body = json!({ "data_points": vec![point(0, 60.0); 100] }).to_string();
        let request = server.request("POST", "/api/v1/wearables/bulk-ingest?user_id=u1").key(OPERATOR);
        connection.send(&request.body(body).bytes()[..cut]).await;
    }
    server.assert_well("clients that left").await;
    let used = "systole_body_budget_used_bytes 0";
    for _ in 0..100 {
        if server.request("GET", "/metrics").send().await.expect(200).text().contains(used) {
            return;
        }
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    }
    panic!("the byte budget was not given back");
}
