//! Health, counters, request ids, the document, flush and drain.

use std::time::Duration;

use serde_json::json;

use crate::client::Connection;
use crate::fixture::{OPERATOR, point, server};

#[tokio::test]
async fn health_and_document_need_no_key() {
    let server = server().start().await;
    let health = server.request("GET", "/health").send().await.expect(200).json();
    assert_eq!(health["status"], "alive");
    let ready = server.request("GET", "/ready").send().await.expect(200).json();
    assert_eq!(ready["status"], "ready");
    let document = server.request("GET", "/openapi.json").send().await.expect(200).json();
    assert_eq!(document["openapi"], "3.1.0");
}

#[tokio::test]
async fn the_counters_count() {
    let server = server().start().await;
    server.bulk(&[point(0, 60.0), point(1, 61.0)]).await.expect(200);
    server.bulk(&[point(0, 900.0)]).await.expect(422);
    server.request("GET", "/api/v1/wearables/latest").send().await.expect(401);
    server.request("GET", "/nothing").send().await.expect(404);
    let answer = server.request("GET", "/metrics").send().await.expect(200);
    assert!(answer.header("content-type").unwrap().starts_with("text/plain; version=0.0.4"));
    let text = answer.text();
    for line in [
        "# TYPE systole_samples_accepted_total counter",
        "systole_samples_accepted_total 2",
        "systole_points_rejected_total 1",
        "systole_auth_rejected_total 1",
        "systole_ready 1",
        "systole_body_budget_used_bytes 0",
        "systole_sql_running 0",
        "systole_webhook_connections_open 0",
        "# TYPE systole_webhook_attempts_dropped_total counter",
        "systole_webhook_attempts_dropped_total 0",
        "# TYPE systole_commit_seconds histogram",
        "# TYPE systole_http_request_seconds histogram",
        "systole_http_requests_total{method=\"POST\",route=\"/api/v1/wearables/bulk-ingest\",status=\"2xx\"} 1",
        "systole_http_requests_total{method=\"POST\",route=\"/api/v1/wearables/bulk-ingest\",status=\"4xx\"} 1",
        "systole_http_requests_total{method=\"any\",route=\"none\",status=\"4xx\"} 1",
        "systole_http_request_seconds_count{method=\"POST\",route=\"/api/v1/wearables/bulk-ingest\"} 2",
    ] {
        assert!(text.lines().any(|found| found == line), "{line} is not in\n{text}");
    }
    for histogram in ["systole_commit_seconds", "systole_fsync_seconds"] {
        let infinite = format!("{histogram}_bucket{{le=\"+Inf\"}} ");
        let count = format!("{histogram}_count ");
        let value = |prefix: &str| text.lines().find_map(|line| line.strip_prefix(prefix)).map(str::to_owned);
        assert!(value(&infinite).is_some(), "{text}");
        assert_eq!(value(&infinite), value(&count), "{text}");
    }
}

#[tokio::test]
async fn every_answer_carries_a_request_id() {
    let server = server().start().await;
    let own = server.request("GET", "/health").header("x-request-id", "my.id-1").send().await;
    assert_eq!(own.header("x-request-id"), Some("my.id-1"));
    let mut seen = Vec::new();
    for bad in ["a b", "<script>", &"x".repeat(65)] {
        let answer = server.request("GET", "/nothing").header("x-request-id", bad).send().await;
        let id = answer.header("x-request-id").unwrap().to_owned();
        assert!(id.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-') && !seen.contains(&id), "{id}");
        seen.push(id);
    }
}

#[tokio::test]
async fn a_flush_answers_what_it_wrote_and_changes_no_answer() {
    let server = server().start().await;
    server.bulk(&[point(0, 60.0), point(1, 61.0)]).await.expect(200);
    let before = server.series("heart_rate", "").await;
    let flushed = server.post("/api/v1/admin/flush", OPERATOR, &json!({})).await.expect(200).json();
    for field in ["files", "rows", "sequence"] {
        assert!(flushed[field].is_u64(), "{flushed}");
    }
    assert_eq!(server.series("heart_rate", "").await, before);
    server.request("POST", "/api/v1/admin/flush").send().await.expect(401);
}

#[tokio::test]
async fn a_stop_lets_a_request_in_flight_end_and_closes_idle_connections() {
    let server = server().start().await;
    let mut idle = Connection::open(server.address).await;
    idle.send(&server.request("GET", "/health").bytes()).await;
    idle.answer().await.unwrap().expect(200);
    let mut busy = Connection::open(server.address).await;
    let body = json!({ "data_points": [point(0, 60.0)] }).to_string();
    let path = "/api/v1/wearables/bulk-ingest?user_id=u1";
    let bytes = server.request("POST", path).key(OPERATOR).body(body).bytes();
    let (first, rest) = bytes.split_at(bytes.len() - 5);
    busy.send(first).await;
    tokio::time::sleep(Duration::from_millis(100)).await;
    let stopping = tokio::spawn(server.stop());
    assert!(idle.is_closed_within(Duration::from_secs(5)).await);
    tokio::time::sleep(Duration::from_millis(100)).await;
    busy.send(rest).await;
    busy.answer().await.unwrap().expect(200);
    assert_eq!(stopping.await.unwrap().connections_cut, 0);
}

#[tokio::test]
async fn a_stop_cuts_what_does_not_end_in_time() {
    let server = server().with(|settings| settings.http.drain = Duration::from_millis(200)).start().await;
    let mut hanging = Connection::open(server.address).await;
    let request = server.request("POST", "/api/v1/wearables/ingest").key(OPERATOR).body(vec![b' '; 100]);
    hanging.send(&request.bytes()[..150]).await;
    tokio::time::sleep(Duration::from_millis(100)).await;
    assert_eq!(server.stop().await.connections_cut, 1);
}
