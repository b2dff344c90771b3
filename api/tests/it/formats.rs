//! Answers as CSV and Arrow.

use serde_json::json;

use crate::client::Answer;
use crate::fixture::{OPERATOR, TestServer, point, point_with, server};

const SERIES: &str = "/api/v1/wearables/metric/heart_rate?user_id=u1&days=36500";
const ARROW: &str = "application/vnd.apache.arrow.stream";
/// An Arrow stream's last bytes: a continuation mark and no message.
const ARROW_END: [u8; 8] = [255, 255, 255, 255, 0, 0, 0, 0];

async fn get(server: &TestServer, accept: &str, parameters: &str) -> Answer {
    let path = format!("{SERIES}&{parameters}");
    server.request("GET", &path).key(OPERATOR).header("Accept", accept).send().await
}

async fn small() -> TestServer {
    let server = server().start().await;
    let rich = point_with(json!({
        "source": "gar\"min, Inc.", "source_device_id": "d1", "zone_offset": "+02:00",
        "ended_at": "2026-01-01T00:00:30.5Z", "is_daily_total": true,
    }));
    server.bulk(&[rich, point(60, 58.5)]).await.expect(200);
    server
}

#[tokio::test]
async fn csv_has_a_header_row_and_quotes_what_needs_it() {
    let server = small().await;
    let answer = get(&server, "text/csv", "order=asc").await.expect(200);
    assert_eq!(answer.header("content-type"), Some("text/csv; charset=utf-8; header=present"));
    assert_eq!(answer.header("vary"), Some("accept"));
    let text = "recorded_at,value,unit,source,source_device_id,zone_offset,ended_at,is_daily_total\r\n\
        2026-01-01T00:00:00Z,62.0,bpm,\"gar\"\"min, Inc.\",d1,+02:00,2026-01-01T00:00:30.500Z,true\r\n\
        2026-01-01T00:01:00Z,58.5,bpm,garmin,,,,\r\n";
    assert_eq!(answer.text(), text);
    let answer = get(&server, "text/csv", "order=asc&resolution=1h&combine=all").await.expect(200);
    let text = "recorded_at,value,unit,source,count,zone_offset\r\n2026-01-01T00:00:00Z,60.25,bpm,,2,\r\n";
    assert_eq!(answer.text(), text);
    let empty = get(&server, "text/csv", "source=nobody").await.expect(200);
    assert_eq!(empty.text().lines().count(), 1);
}

#[tokio::test]
async fn pages_of_csv_and_arrow_carry_their_cursor_in_a_header() {
    let server = small().await;
    for accept in ["text/csv", ARROW] {
        let first = get(&server, accept, "limit=1").await.expect(200);
        let cursor = first.header("x-next-cursor").unwrap();
        let second = get(&server, accept, &format!("limit=1&cursor={cursor}")).await.expect(200);
        assert_eq!(second.header("x-next-cursor"), None, "{accept}");
        // A cursor does not know formats.
        let json = get(&server, "*/*", &format!("limit=1&cursor={cursor}")).await.expect(200).json();
        assert_eq!(json["data_points"][0]["source_device_id"], "d1");
        let refused = get(&server, accept, "limit=10001").await.expect(422).json();
        assert_eq!(refused["detail"][0]["type"], "out_of_range");
    }
    let csv = get(&server, "text/csv", "limit=1").await.text();
    assert_eq!(csv.lines().count(), 2);
}

#[tokio::test]
async fn long_answers_stream_in_every_format() {
    let server = server().start().await;
    let samples = 40_000;
    for start in (0..samples).step_by(500) {
        let points: Vec<_> = (start..start + 500).map(|n| point(n, f64::from(n % 200) + 50.0)).collect();
        server.bulk(&points).await.expect(200);
    }
    let csv = get(&server, "text/csv", "").await.expect(200);
    assert_eq!(csv.header("content-length"), None);
    assert_eq!(csv.text().lines().count(), samples as usize + 1);
    let arrow = get(&server, ARROW, "").await.expect(200);
    assert_eq!(arrow.header("content-type"), Some(ARROW));
    assert!(arrow.body.starts_with(&ARROW_END[..4]) && arrow.body.ends_with(&ARROW_END));
    // Times and values alone are 16 bytes each.
    assert!(arrow.body.len() > samples as usize * 16);
    let buckets = get(&server, ARROW, "resolution=PT1S&agg=count").await.expect(200);
    assert!(buckets.body.len() > samples as usize * 24 && buckets.body.ends_with(&ARROW_END));
    let page = get(&server, ARROW, "limit=9000").await.expect(200);
    assert!(page.header("x-next-cursor").is_some() && page.body.ends_with(&ARROW_END));
    let head = server.request("HEAD", SERIES).key(OPERATOR).header("Accept", ARROW).send().await.expect(200);
    assert_eq!(head.header("content-type"), Some(ARROW));
}

#[tokio::test]
async fn the_format_taken_most_gladly_is_answered() {
    let server = small().await;
    for (accept, expected) in [
        ("text/csv;q=0.5, application/json", "application/json"),
        ("text/csv, */*;q=0.1", "text/csv; charset=utf-8; header=present"),
        (ARROW, ARROW),
    ] {
        let answer = get(&server, accept, "").await.expect(200);
        assert_eq!(answer.header("content-type"), Some(expected), "{accept}");
    }
    let refused = get(&server, "image/png", "").await.expect(415);
    assert_eq!(refused.code(), "unsupported_accept");
    assert!(refused.text().contains("text/csv"), "{}", refused.text());
}
