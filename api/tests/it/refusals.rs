//! Every refusal by the table: what it answers, and that nothing else notices.

use serde_json::{Value, json};

use crate::client::Request;
use crate::fixture::{OPERATOR, TestServer, point, point_with, server};

const BULK: &str = "/api/v1/wearables/bulk-ingest?user_id=u1";
const SERIES: &str = "/api/v1/wearables/metric/heart_rate?user_id=u1";
const LATEST: &str = "/api/v1/wearables/latest?user_id=u1";

/// Sends the request, compares status and code, and looks after the server.
async fn check(server: &TestServer, request: Request, status: u16, code: &str) -> Value {
    let answer = request.send().await;
    let shown = String::from_utf8_lossy(&request.bytes()).chars().take(300).collect::<String>();
    assert_eq!((answer.status, answer.code()), (status, code.to_owned()), "{shown}\n{}", answer.text());
    assert!(answer.header("x-request-id").is_some(), "{shown}");
    assert_eq!(answer.header("content-type"), Some("application/json"), "{shown}");
    server.assert_well(&shown).await;
    answer.json()
}

#[tokio::test]
async fn malformed_bodies_are_400_and_name_the_byte() {
    let server = server().start().await;
    let cases: [(&[u8], &str); 9] = [
        (b"", "byte 0"),
        (b"{\"data_points\":[{\"value\":NaN}]}", "byte 25"),
        (b"{\"data_points\":[{\"value\":Infinity}]}", "byte 25"),
        (b"{\"data_points\":[{\"value\":1e400}]}", "byte 25"),
        (b"{\"data_points\":[", "byte 16"),
        (b"{'data_points':[]}", "byte 1"),
        (b"{\"data_points\":[]} trailing", "byte 19"),
        (b"{\"data_points\":[{\"metric\":\"\xff\"}]}", "byte 27"),
        (b"not json", "byte 0"),
    ];
    for (body, place) in cases {
        let request = server.request("POST", BULK).key(OPERATOR).body(body);
        let answer = check(&server, request, 400, "malformed_json").await;
        assert!(answer["detail"].as_str().unwrap().contains(place), "{answer}");
    }
    for encoding in ["gzip", "zstd"] {
        let request = server.request("POST", BULK).key(OPERATOR).header("Content-Encoding", encoding);
        check(&server, request.body("{\"data_points\":[]}"), 400, "malformed_encoding").await;
    }
}

#[tokio::test]
async fn bad_points_are_422_and_name_their_field() {
    let server = server().start().await;
    let cases = [
        (json!({"metric": "hart_rate"}), "metric"),
        (json!({"metric": null}), "metric"),
        (json!({"metric": 7}), "metric"),
        (json!({"value": "62"}), "value"),
        (json!({"value": true}), "value"),
        (json!({"value": 301}), "value"),
        (json!({"value": -1}), "value"),
        (json!({"unit": "furlongs"}), "unit"),
        (json!({"unit": null}), "unit"),
        (json!({"recorded_at": "2026-01-01T00:00:00"}), "recorded_at"),
        (json!({"recorded_at": "yesterday"}), "recorded_at"),
        (json!({"recorded_at": 1_782_805_500}), "recorded_at"),
        (json!({"recorded_at": "2999-01-01T00:00:00Z"}), "recorded_at"),
        (json!({"source": ""}), "source"),
        (json!({"source": "x".repeat(65)}), "source"),
        (json!({"source_device_id": 5}), "source_device_id"),
        (json!({"user_id": 5}), "user_id"),
        (json!({"user_id": "u2"}), "user_id"),
        (json!({"zone_offset": "two"}), "zone_offset"),
        (json!({"ended_at": "later"}), "ended_at"),
        (json!({"is_daily_total": 1}), "is_daily_total"),
    ];
    for (change, field) in cases {
        let body = json!({ "data_points": [point(5, 60.0), point_with(change.clone())] }).to_string();
        let request = server.request("POST", BULK).key(OPERATOR).body(body);
        let answer = check(&server, request, 422, "invalid").await;
        assert_eq!(
            answer["detail"][0]["loc"],
            json!(["body", "data_points", 1, field]),
            "{change}: {answer}"
        );
        assert_eq!(answer["rejected"], 1, "{change}");
        let one = server.request("POST", "/api/v1/wearables/ingest?user_id=u1").key(OPERATOR);
        let answer = check(&server, one.body(point_with(change).to_string()), 422, "invalid").await;
        assert_eq!(answer["detail"][0]["loc"], json!(["body", field]));
    }
    let unknown = json!({ "data_points": [point_with(json!({"metric": "hart_rate"}))] });
    let answer = server.post(BULK, OPERATOR, &unknown).await.json();
    assert!(answer["detail"][0]["msg"].as_str().unwrap().contains("heart_rate"), "{answer}");
}

#[tokio::test]
async fn bodies_of_another_shape_are_422() {
    let server = server().start().await;
    for (body, loc) in [
        ("[]", json!(["body"])),
        ("{}", json!(["body", "data_points"])),
        ("{\"data_points\":7}", json!(["body", "data_points"])),
        ("{\"data_points\":[]}", json!(["body", "data_points"])),
        ("{\"data_points\":[7]}", json!(["body", "data_points", 0])),
    ] {
        let request = server.request("POST", BULK).key(OPERATOR).body(body);
        let answer = check(&server, request, 422, "invalid").await;
        assert_eq!(answer["detail"][0]["loc"], loc, "{body}");
    }
}

#[tokio::test]
async fn parameters_that_cannot_be_are_422_and_named() {
    let server = server().start().await;
    let good = json!({ "data_points": [point(0, 60.0)] }).to_string();
    for (parameter, name) in
        [("partial=yes", "partial"), ("backfill=1", "backfill"), ("user_id=%20", "user_id")]
    {
        let path = format!("/api/v1/wearables/bulk-ingest?{parameter}");
        let request = server.request("POST", &path).key(OPERATOR).body(good.clone());
        let answer = check(&server, request, 422, "invalid").await;
        assert_eq!(answer["detail"][0]["loc"], json!(["query", name]), "{parameter}");
    }
    for (parameter, name, kind) in [
        ("days=0", "days", "out_of_range"),
        ("days=soon", "days", "out_of_range"),
        ("start=2026-01-01", "start", "malformed"),
        ("start=2026-01-01T00:00:00", "start", "malformed"),
        ("end=tomorrow", "end", "malformed"),
        ("days=1&end=2026-01-01T00:00:00Z", "days", "conflict"),
        ("order=up", "order", "wrong_type"),
        ("limit=0", "limit", "out_of_range"),
        ("limit=100001", "limit", "out_of_range"),
        ("limit=ten", "limit", "out_of_range"),
        ("cursor=garbage", "cursor", "malformed"),
        ("cursor=%00", "cursor", "malformed"),
        ("resolution=2h", "resolution", "malformed"),
        ("resolution=P0D", "resolution", "malformed"),
        ("resolution=-P1D", "resolution", "malformed"),
        ("resolution=P1DT1H", "resolution", "malformed"),
        ("resolution=PT7M", "resolution", "malformed"),
        ("resolution=P101Y", "resolution", "malformed"),
        ("resolution=1d&agg=median", "agg", "unknown_value"),
        ("resolution=1d&tz=Mars/Olympus", "tz", "unknown_value"),
        ("resolution=1d&tz=europe/berlin", "tz", "unknown_value"),
        ("resolution=1d&combine=some", "combine", "unknown_value"),
        ("agg=avg", "agg", "conflict"),
        ("tz=Europe/Berlin", "tz", "conflict"),
        ("combine=all", "combine", "conflict"),
    ] {
        let request = server.request("GET", &format!("{SERIES}&{parameter}")).key(OPERATOR);
        let answer = check(&server, request, 422, "invalid").await;
        assert_eq!(answer["detail"][0]["loc"], json!(["query", name]), "{parameter}");
        assert_eq!(answer["detail"][0]["type"], kind, "{parameter}");
    }
    let without_user = server.request("GET", "/api/v1/wearables/latest").key(OPERATOR);
    let answer = check(&server, without_user, 422, "invalid").await;
    assert_eq!(answer["detail"][0]["type"], "missing");
}

#[tokio::test]
async fn types_that_are_not_spoken_are_415() {
    let server = server().start().await;
    let post = || server.request("POST", BULK).key(OPERATOR).body("{\"data_points\":[]}");
    for (name, value, code) in [
        ("Content-Type", "text/csv", "unsupported_content_type"),
        ("Content-Type", "application/x-www-form-urlencoded", "unsupported_content_type"),
        ("Content-Type", "application/jsonp", "unsupported_content_type"),
        ("Content-Encoding", "br", "unsupported_content_encoding"),
        ("Content-Encoding", "gzip, zstd", "unsupported_content_encoding"),
    ] {
        check(&server, post().header(name, value), 415, code).await;
    }
    for (method, path) in [
        ("POST", "/api/v1/query"),
        ("POST", "/api/v1/events"),
        ("POST", "/api/v1/metrics"),
        ("POST", "/api/v1/api-keys"),
        ("POST", "/api/v1/webhooks/endpoints"),
        ("PUT", "/api/v1/retention"),
        ("POST", "/external-events/"),
    ] {
        let request = server.request(method, path).key(OPERATOR).body("{}");
        for encoding in ["gzip", "zstd", "br"] {
            let request = request.clone().header("Content-Encoding", encoding);
            let answer = check(&server, request, 415, "unsupported_content_encoding").await;
            let detail = answer["detail"].as_str().unwrap();
            assert!(detail.contains(encoding) && detail.ends_with("send the body as it is"), "{detail}");
        }
        let plain = request.header("Content-Encoding", "identity").send().await;
        assert_ne!(plain.status, 415, "{path}: {}", plain.text());
    }
    for accept in ["text/html", "application/json;q=0"] {
        let request = server.request("GET", LATEST).key(OPERATOR).header("Accept", accept);
        check(&server, request, 415, "unsupported_accept").await;
    }
    for accept in ["*/*", "text/html, application/json;q=0.9", "application/*"] {
        server.request("GET", LATEST).key(OPERATOR).header("Accept", accept).send().await.expect(200);
    }
}

#[tokio::test]
async fn paths_and_methods_that_do_not_exist_are_404_and_405() {
    let server = server().start().await;
    for path in ["/", "/api/v1/nothing", "/health/", "/api/v1/wearables/metric/", "/api/v1/api-keys/"] {
        let answer = check(&server, server.request("GET", path), 404, "unknown_path").await;
        assert!(answer["detail"].as_str().unwrap().contains(path), "{answer}");
    }
    for (method, path, allow) in [
        ("GET", "/api/v1/wearables/ingest", "POST, OPTIONS"),
        ("DELETE", "/health", "GET, HEAD, OPTIONS"),
        ("PUT", "/api/v1/api-keys", "POST, GET, HEAD, OPTIONS"),
        ("GET", "/api/v1/api-keys/key_1", "DELETE, OPTIONS"),
    ] {
        let request = server.request(method, path);
        assert_eq!(request.send().await.expect(405).header("allow"), Some(allow), "{method} {path}");
        check(&server, request, 405, "method_not_allowed").await;
        let options = server.request("OPTIONS", path).send().await.expect(204);
        assert_eq!(options.header("allow"), Some(allow));
    }
}

#[tokio::test]
async fn an_unknown_metric_is_404_and_names_the_nearest() {
    let server = server().start().await;
    let request = server.request("GET", "/api/v1/wearables/metric/hart_rate?user_id=u1").key(OPERATOR);
    let answer = check(&server, request, 404, "unknown_metric").await;
    assert!(answer["detail"].as_str().unwrap().contains("heart_rate"), "{answer}");
}

#[tokio::test]
async fn what_was_sent_is_repeated_in_quotes_and_cut() {
    let server = server().start().await;
    let long = "x".repeat(5000);
    let get = |path: String| server.request("GET", &path).key(OPERATOR);
    let accept = get(SERIES.to_owned()).header("Accept", &format!("text/{long}"));
    let content_type = server.request("POST", BULK).key(OPERATOR).header("Content-Type", &long);
    let content_encoding = server.request("POST", BULK).key(OPERATOR).header("Content-Encoding", &long);
    let scope = server.request("POST", "/api/v1/api-keys").key(OPERATOR);
    let cases = [
        (get(format!("/api/v1/wearables/metric/{long}?user_id=u1")), 404, "unknown_metric"),
        (get(format!("/{long}")), 404, "unknown_path"),
        (server.request("DELETE", &format!("/api/v1/api-keys/{long}")).key(OPERATOR), 404, "unknown_key"),
        (server.request(&long, "/health"), 405, "method_not_allowed"),
        (accept, 415, "unsupported_accept"),
        (content_type, 415, "unsupported_content_type"),
        (content_encoding, 415, "unsupported_content_encoding"),
        (get(format!("{SERIES}&order={long}")), 422, "invalid"),
        (get(format!("{SERIES}&days={long}")), 422, "invalid"),
        (get(format!("{SERIES}&limit={long}")), 422, "invalid"),
        (get(format!("{SERIES}&a=%zz{long}")), 422, "invalid"),
        (server.request("POST", &format!("{BULK}&partial={long}")).key(OPERATOR), 422, "invalid"),
        (scope.clone().body(json!({"scopes": [long]}).to_string()), 422, "invalid"),
        (scope.body(json!({"scopes": [{"a": long}]}).to_string()), 422, "invalid"),
    ];
    for (request, status, code) in cases {
        let answer = check(&server, request, status, code).await.to_string();
        assert!(answer.contains("xxxx") && answer.contains("(cut)"), "{answer}");
        assert!(answer.len() < 400, "{answer}");
    }
    let control = get("/api/v1/wearables/metric/a%0Ab?user_id=u1".to_owned());
    let answer = check(&server, control, 404, "unknown_metric").await;
    assert!(answer["detail"].as_str().unwrap().contains(r#""a\nb""#), "{answer}");
}

#[tokio::test]
async fn what_is_not_http_is_refused_and_noticed_by_nobody() {
    let server = server().start().await;
    let long = format!("GET /health HTTP/1.1\r\nX: {}\r\n\r\n", "x".repeat(100_000));
    for bytes in ["\u{16}\u{3}\u{1}", "GET\r\n\r\n", "GET / HTTP/9.9\r\n\r\n", long.as_str()] {
        let mut connection = crate::client::Connection::open(server.address).await;
        connection.send(bytes.as_bytes()).await;
        let answer = connection.answer().await;
        assert!(answer.is_none_or(|answer| (400..500).contains(&answer.status)));
    }
    server.assert_well("what is not http").await;
}
