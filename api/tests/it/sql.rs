//! Asking in SQL.

use std::time::Duration;

use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use crate::client::Answer;
use crate::fixture::{OPERATOR, TestServer, point, point_with, server};

const QUERY: &str = "/api/v1/query";
/// A statement that needs little and never ends.
const ENDLESS: &str =
    "WITH RECURSIVE n AS (SELECT 1 AS i UNION ALL SELECT i + 1 FROM n) SELECT max(i) FROM n";

async fn ask(server: &TestServer, key: &str, sql: &str) -> Answer {
    server.post(QUERY, key, &json!({ "sql": sql })).await
}

async fn fill(server: &TestServer, samples: u32) {
    for start in (0..samples).step_by(500) {
        let end = samples.min(start + 500);
        let points: Vec<_> = (start..end).map(|n| point(n, f64::from(n % 200) + 50.0)).collect();
        server.bulk(&points).await.expect(200);
    }
}

#[tokio::test]
async fn an_answer_has_columns_and_rows_before_and_behind_a_flush() {
    let server = server().start().await;
    server.bulk(&[point(0, 58.0), point(60, 62.0), point_with(json!({"source": "apple"}))]).await.expect(200);
    server.bulk(&[point(60, 64.0)]).await.expect(200);
    for _ in 0..2 {
        let sql = "SELECT date_trunc('day', recorded_at) AS day, avg(value) AS mean, count(*) AS n \
                   FROM samples WHERE metric = 'heart_rate' AND source = 'garmin' GROUP BY 1";
        let answer = ask(&server, OPERATOR, sql).await.expect(200);
        assert_eq!(answer.header("content-type"), Some("application/json"));
        let text = "{\"columns\":[{\"name\":\"day\",\"type\":\"timestamp\"},{\"name\":\"mean\",\"type\":\"float64\"},\
            {\"name\":\"n\",\"type\":\"int64\"}],\"rows\":[[\"2026-01-01T00:00:00Z\",61.0,2]]}";
        assert_eq!(answer.text(), text);
        let latest = ask(&server, OPERATOR, "SELECT * FROM latest").await.expect(200).json();
        assert_eq!(latest["rows"], json!([["u1", "heart_rate", 64.0, "2026-01-01T00:01:00Z"]]));
        server.post("/api/v1/admin/flush", OPERATOR, &json!({})).await.expect(200);
    }
    let request = server.request("POST", QUERY).key(OPERATOR).body(r#"{"sql":"SELECT 1 AS one"}"#);
    let csv = request.clone().header("Accept", "text/csv").send().await.expect(200);
    assert_eq!(
        (csv.text().as_str(), csv.header("content-type").unwrap()),
        ("one\r\n1\r\n", "text/csv; charset=utf-8; header=present")
    );
    let arrow =
        request.clone().header("Accept", "application/vnd.apache.arrow.stream").send().await.expect(200);
    assert_eq!(arrow.header("content-type"), Some("application/vnd.apache.arrow.stream"));
    assert_eq!(arrow.body[..4], [0xff; 4]);
    let other = request.header("Accept", "text/html").send().await.expect(415);
    assert_eq!(other.code(), "unsupported_accept");
}

#[tokio::test]
async fn a_caller_sees_its_own_organisation_and_needs_no_user() {
    let server = server().start().await;
    let reader = server.make_key("acme", &json!({"scopes": ["ingest", "read"]})).await;
    let bound = server.make_key("acme", &json!({"scopes": ["ingest", "read"], "user_id": "u1"})).await;
    let sender = server.make_key("acme", &json!({"scopes": ["ingest"]})).await;
    server.bulk(&[point(0, 58.0), point(1, 58.0)]).await.expect(200);
    let body = json!({"data_points": [point_with(json!({"user_id": "u1"}))]});
    server.post("/api/v1/wearables/bulk-ingest", &sender.key, &body).await.expect(200);
    let count = "SELECT count(*) FROM samples";
    assert_eq!(ask(&server, OPERATOR, count).await.expect(200).json()["rows"], json!([[2]]));
    assert_eq!(ask(&server, &reader.key, count).await.expect(200).json()["rows"], json!([[1]]));
    let of_acme = server.post(&format!("{QUERY}?org=acme"), OPERATOR, &json!({ "sql": count })).await;
    assert_eq!(of_acme.expect(200).json()["rows"], json!([[1]]));
    let foreign = server.post(&format!("{QUERY}?org=default"), &reader.key, &json!({ "sql": count })).await;
    assert_eq!(foreign.expect(403).code(), "other_organisation");
    assert_eq!(ask(&server, &bound.key, count).await.expect(403).code(), "key_bound");
    assert_eq!(ask(&server, &sender.key, count).await.expect(403).code(), "scope_missing");
    server.request("POST", QUERY).body(r#"{"sql":"SELECT 1"}"#).send().await.expect(401);
}

#[tokio::test]
async fn what_does_not_run_says_why() {
    let server = server().start().await;
    server.bulk(&[point(0, 58.0)]).await.expect(200);
    for (sql, code, part) in [
        ("DELETE FROM samples", "sql_not_allowed", "DELETE FROM is not allowed"),
        ("INSERT INTO samples SELECT * FROM samples", "sql_not_allowed", "INSERT INTO is not allowed"),
        ("CREATE TABLE a AS SELECT * FROM samples", "sql_not_allowed", "samples, latest and attempts"),
        (
            "CREATE EXTERNAL TABLE a STORED AS CSV LOCATION '/etc/passwd'",
            "sql_not_allowed",
            "CREATE EXTERNAL TABLE",
        ),
        ("COPY samples TO '/tmp/a.csv'", "sql_not_allowed", "COPY"),
        ("SET datafusion.execution.target_partitions = 64", "sql_not_allowed", "SET"),
        ("SHOW TABLES", "sql_not_allowed", "SHOW"),
        ("EXPLAIN ANALYZE SELECT 1", "sql_not_allowed", "EXPLAIN ANALYZE"),
        ("SELECT * INTO a FROM samples", "sql_not_allowed", "is not allowed"),
        ("SELECT 1; SELECT 2", "sql_not_allowed", "several statements"),
        ("SELECT * FROM deliveries", "sql_invalid", "samples, latest and attempts"),
        ("SELECT * FROM information_schema.tables", "sql_invalid", "samples, latest and attempts"),
        ("SELECT * FROM '/etc/passwd'", "sql_invalid", "samples, latest and attempts"),
        ("SELECT * FROM read_csv('/etc/passwd')", "sql_invalid", "no table functions"),
        ("SELEC 1", "sql_invalid", "SELEC"),
        ("SELECT 1 / 0", "sql_invalid", "ivide by zero"),
        ("SELECT valeu FROM samples", "sql_invalid", "valeu"),
    ] {
        let answer = ask(&server, OPERATOR, sql).await.expect(422);
        assert_eq!(answer.code(), code, "{sql}: {}", answer.text());
        assert!(answer.json()["detail"].as_str().unwrap().contains(part), "{sql}: {}", answer.text());
    }
    let long = json!({"sql": format!("SELECT '{}'", "x".repeat(2 * 1024 * 1024))});
    assert_eq!(server.post(QUERY, OPERATOR, &long).await.expect(413).code(), "body_too_large");
    let deep = format!("SELECT {}1{}", "(".repeat(10_000), ")".repeat(10_000));
    assert_eq!(ask(&server, OPERATOR, &deep).await.expect(422).code(), "sql_invalid");
    assert_eq!(server.post(QUERY, OPERATOR, &json!({})).await.expect(422).code(), "invalid");
    server.assert_well("statements that do not run").await;
}

#[tokio::test]
async fn limits_have_their_statuses() {
    let setup = server().with(|settings| {
        settings.query.memory_bytes = 8 * 1024 * 1024;
        settings.query.sql.rows_max = 1000;
        settings.query.sql.concurrency = 1;
    });
    let small = setup.start().await;
    fill(&small, 1500).await;
    let too_many = ask(&small, OPERATOR, "SELECT * FROM samples").await.expect(422);
    assert_eq!(too_many.code(), "too_many_rows");
    assert!(too_many.text().contains("1000 rows"));
    let sql = "SELECT count(DISTINCT a.value * 1000000 + b.sequence * 1000 + a.sequence + length(b.user_id)), \
               count(DISTINCT concat(a.recorded_at, b.recorded_at)) FROM samples a CROSS JOIN samples b";
    assert_eq!(ask(&small, OPERATOR, sql).await.expect(422).code(), "query_too_large");
    let fine = ask(&small, OPERATOR, "SELECT * FROM samples LIMIT 1000").await.expect(200);
    assert_eq!(fine.json()["rows"].as_array().unwrap().len(), 1000);
    let short = server().with(|settings| settings.query.sql.timeout = Duration::from_millis(500));
    let too_long = ask(&short.start().await, OPERATOR, ENDLESS).await;
    assert_eq!(too_long.expect(408).code(), "query_timeout");
}

#[tokio::test]
async fn a_client_that_leaves_or_does_not_read_holds_no_place() {
    let setup = server().with(|settings| {
        settings.query.sql.concurrency = 1;
        settings.query.sql.timeout = Duration::from_secs(600);
        settings.query.sql.rows_max = 100_000_000;
    });
    let server = setup.start().await;
    fill(&server, 2000).await;
    let leave = async |sql: &str, read: usize| {
        let request = server.request("POST", QUERY).key(OPERATOR).body(json!({ "sql": sql }).to_string());
        let mut stream = tokio::net::TcpStream::connect(server.address).await.unwrap();
        stream.write_all(&request.bytes()).await.unwrap();
        let mut head = vec![0; read];
        stream.read_exact(&mut head).await.unwrap();
        tokio::time::sleep(Duration::from_millis(300)).await;
        let metrics = server.request("GET", "/metrics").send().await.expect(200).text();
        assert!(metrics.contains("\nsystole_sql_running 1\n"), "{metrics}");
        // It answers in time only if the place is free again.
        drop(stream);
        let count = ask(&server, OPERATOR, "SELECT count(*) FROM samples").await.expect(200);
        assert_eq!(count.json()["rows"], json!([[2000]]), "{sql}");
        String::from_utf8(head).unwrap()
    };
    leave(ENDLESS, 0).await;
    let head = leave("SELECT a.*, b.value FROM samples a CROSS JOIN samples b", 100_000).await;
    assert!(head.starts_with("HTTP/1.1 200") && head.contains("chunked"), "{}", &head[..200]);
}

#[tokio::test]
async fn a_long_answer_that_cannot_be_finished_is_no_whole_answer() {
    let server = server().with(|settings| settings.query.sql.rows_max = 100_000_000).start().await;
    fill(&server, 1000).await;
    // The last of a million rows divides by zero, far behind the first bytes.
    let sql = "SELECT a.*, b.user_id AS other FROM (SELECT 2 AS n) c CROSS JOIN (samples a CROSS JOIN samples b) \
               WHERE 1 / (CASE WHEN a.recorded_at > '2026-01-01T00:16:30Z' THEN c.n - 2 ELSE 1 END) = 1";
    let request = server.request("POST", QUERY).key(OPERATOR).body(json!({ "sql": sql }).to_string());
    match request.try_send().await {
        None => {}
        // Or it was found out before the first byte was sent.
        Some(answer) => assert_eq!(answer.expect(422).code(), "sql_invalid"),
    }
    let rows = |answer: &Value| answer["rows"].as_array().unwrap().len();
    let whole = ask(
        &server,
        OPERATOR,
        "SELECT a.*, b.user_id AS other FROM samples a CROSS JOIN (SELECT * FROM samples LIMIT 200) b",
    )
    .await;
    assert_eq!(rows(&whole.expect(200).json()), 200_000);
    server.assert_well("an answer that was cut").await;
}
