//! Asking for samples in buckets.

use serde_json::{Value, json};

use crate::fixture::{OPERATOR, TestServer, point_with, server};

const STEPS: &str = "/api/v1/wearables/metric/steps?user_id=u1";

fn steps(time: &str, source: &str, value: f64) -> Value {
    point_with(
        json!({"metric": "steps", "unit": "count", "recorded_at": time, "source": source, "value": value}),
    )
}

/// Three days of steps in Berlin, in the middle of which the clock is put back; a
/// phone and a watch.
async fn autumn() -> TestServer {
    let server = server().start().await;
    let points = [
        steps("2025-10-25T12:00:00+02:00", "garmin", 100.0),
        // 00:30 on the 26th in Berlin, still the 25th in UTC.
        steps("2025-10-26T00:30:00+02:00", "garmin", 10.0),
        steps("2025-10-26T02:30:00+02:00", "garmin", 1.0),
        steps("2025-10-26T02:30:00+01:00", "garmin", 2.0),
        steps("2025-10-26T02:45:00+01:00", "apple", 4.0),
        steps("2025-10-26T23:30:00+01:00", "garmin", 20.0),
        steps("2025-10-27T00:30:00+01:00", "garmin", 1000.0),
    ];
    server.bulk(&points).await.expect(200);
    server
}

async fn buckets(server: &TestServer, parameters: &str) -> Value {
    let path = format!("{STEPS}&start=2025-10-01T00:00:00Z&end=2025-11-01T00:00:00Z&{parameters}");
    server.get(&path, OPERATOR).await.expect(200).json()
}

/// (start, source, value, count) of each bucket.
fn rows(answer: &Value) -> Vec<(String, String, f64, u64)> {
    let points = answer["data_points"].as_array().unwrap();
    let text = |value: &Value| value.as_str().unwrap_or("-").to_owned();
    let row = |point: &Value| {
        let count = point["count"].as_u64().unwrap();
        (text(&point["recorded_at"]), text(&point["source"]), point["value"].as_f64().unwrap(), count)
    };
    points.iter().map(row).collect()
}

fn row(start: &str, source: &str, value: f64, count: u64) -> (String, String, f64, u64) {
    (start.to_owned(), source.to_owned(), value, count)
}

#[tokio::test]
async fn days_follow_the_zone_over_a_change_of_its_clock() {
    let server = autumn().await;
    let berlin = buckets(&server, "resolution=1d&tz=Europe/Berlin").await;
    assert_eq!(
        rows(&berlin),
        [
            row("2025-10-26T23:00:00Z", "garmin", 1000.0, 1),
            row("2025-10-25T22:00:00Z", "garmin", 33.0, 4),
            row("2025-10-25T22:00:00Z", "apple", 4.0, 1),
            row("2025-10-24T22:00:00Z", "garmin", 100.0, 1),
        ]
    );
    assert_eq!(berlin["unit"], "steps");
    assert_eq!((&berlin["resolution"], &berlin["agg"]), (&json!("1d"), &json!("sum")));
    assert_eq!(berlin["tz"], "Europe/Berlin");
    let utc = buckets(&server, "resolution=1d&order=asc&source=garmin").await;
    assert_eq!(
        rows(&utc),
        [row("2025-10-25T00:00:00Z", "garmin", 110.0, 2), row("2025-10-26T00:00:00Z", "garmin", 1023.0, 4),]
    );
    let week = buckets(&server, "resolution=1w&tz=Europe/Berlin&combine=all&order=asc").await;
    assert_eq!(
        rows(&week),
        [row("2025-10-19T22:00:00Z", "-", 137.0, 6), row("2025-10-26T23:00:00Z", "-", 1000.0, 1)]
    );
    let month = buckets(&server, "resolution=P1M&combine=all").await;
    assert_eq!(rows(&month), [row("2025-10-01T00:00:00Z", "-", 1137.0, 7)]);
}

#[tokio::test]
async fn an_hour_that_the_clock_shows_twice_is_two_buckets() {
    let server = autumn().await;
    let hours = buckets(&server, "resolution=1h&tz=Europe/Berlin&order=asc").await;
    let rows = rows(&hours);
    assert_eq!(rows[2], row("2025-10-26T00:00:00Z", "garmin", 1.0, 1));
    assert_eq!(rows[3], row("2025-10-26T01:00:00Z", "apple", 4.0, 1));
    assert_eq!(rows[4], row("2025-10-26T01:00:00Z", "garmin", 2.0, 1));
}

#[tokio::test]
async fn recorded_days_are_those_of_the_wearers_clock() {
    let server = server().start().await;
    let points = [
        // The evening in Berlin, then the next one in New York, then an unknown place.
        steps("2026-01-01T23:30:00+01:00", "garmin", 1.0),
        steps("2026-01-02T23:30:00-05:00", "garmin", 2.0),
        steps("2026-01-02T00:30:00+01:00", "garmin", 4.0),
        steps("2026-01-05T23:30:00Z", "garmin", 8.0),
    ];
    server.bulk(&points).await.expect(200);
    let path = format!("{STEPS}&days=36500&resolution=1d&tz=recorded&order=asc");
    let answer = server.get(&path, OPERATOR).await.expect(200).json();
    let expected = json!([
        {"value": 1.0, "recorded_at": "2025-12-31T23:00:00Z", "source": "garmin", "count": 1, "zone_offset": "+01:00"},
        {"value": 6.0, "recorded_at": "2026-01-01T23:00:00Z", "source": "garmin", "count": 2, "zone_offset": "+01:00"},
        {"value": 8.0, "recorded_at": "2026-01-05T00:00:00Z", "source": "garmin", "count": 1},
    ]);
    assert_eq!(answer["data_points"], expected);
}

#[tokio::test]
async fn every_aggregate_is_offered_and_the_metrics_own_is_the_default() {
    let server = server().start().await;
    let points: Vec<_> = [(0, 60.0), (20, 80.0), (40, 70.0)]
        .iter()
        .map(|(second, value)| crate::fixture::point(*second, *value))
        .collect();
    server.bulk(&points).await.expect(200);
    for (agg, expected) in [
        ("", 70.0),
        ("avg", 70.0),
        ("min", 60.0),
        ("max", 80.0),
        ("sum", 210.0),
        ("count", 3.0),
        ("last", 70.0),
    ] {
        let agg = if agg.is_empty() { String::new() } else { format!("&agg={agg}") };
        let path = format!("/api/v1/wearables/metric/heart_rate?user_id=u1&days=36500&resolution=PT30M{agg}");
        let answer = server.get(&path, OPERATOR).await.expect(200).json();
        let point = &answer["data_points"][0];
        assert_eq!(
            *point,
            json!({"value": expected, "recorded_at": "2026-01-01T00:00:00Z", "source": "garmin", "count": 3}),
            "{agg}"
        );
        assert_eq!(answer["unit"], if agg == "&agg=count" { "count" } else { "bpm" });
    }
}

#[tokio::test]
async fn a_span_counts_where_it_starts() {
    let server = server().start().await;
    let mut span = steps("2026-01-01T00:59:00Z", "garmin", 500.0);
    span["ended_at"] = json!("2026-01-01T03:00:00Z");
    server.bulk(&[span]).await.expect(200);
    let path = format!("{STEPS}&days=36500&resolution=1h");
    let answer = server.get(&path, OPERATOR).await.expect(200).json();
    assert_eq!(rows(&answer), [row("2026-01-01T00:00:00Z", "garmin", 500.0, 1)]);
}

#[tokio::test]
async fn pages_of_buckets_join_to_the_answer_without_pages() {
    let server = autumn().await;
    for parameters in [
        "resolution=1h&tz=Europe/Berlin",
        "resolution=1d&tz=recorded&order=asc",
        "resolution=1d&combine=all",
        "resolution=15m&order=asc&agg=avg",
    ] {
        let all = buckets(&server, parameters).await;
        let all = all["data_points"].as_array().unwrap();
        for limit in 1..=all.len() {
            let mut found: Vec<Value> = Vec::new();
            let mut cursor = String::new();
            loop {
                let page = buckets(&server, &format!("{parameters}&limit={limit}{cursor}")).await;
                found.extend(page["data_points"].as_array().unwrap().clone());
                match page.get("next_cursor") {
                    Some(next) => cursor = format!("&cursor={}", next.as_str().unwrap()),
                    None => break,
                }
            }
            assert_eq!(found, *all, "{parameters} {limit}");
        }
    }
}

#[tokio::test]
async fn a_cursor_of_other_buckets_is_refused() {
    let server = autumn().await;
    let page = buckets(&server, "resolution=1h&limit=1").await;
    let cursor = page["next_cursor"].as_str().unwrap();
    for (parameters, status) in [
        ("resolution=1h", 200),
        ("resolution=PT1H&agg=sum&tz=UTC", 200),
        ("resolution=1d", 422),
        ("resolution=1h&tz=Europe/Berlin", 422),
        ("resolution=1h&agg=avg", 422),
        ("resolution=1h&combine=all", 422),
        ("order=desc", 422),
    ] {
        let path = format!(
            "{STEPS}&start=2025-10-01T00:00:00Z&end=2025-11-01T00:00:00Z&{parameters}&limit=1&cursor={cursor}"
        );
        server.get(&path, OPERATOR).await.expect(status);
    }
}
