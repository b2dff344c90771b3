//! What endpoints are asked for, over HTTP: what is refused and why, what stays as it was, and
//! what a receiver gets of it.

use std::sync::Arc;

use serde_json::{Value, json};
use systole_engine::events::webhooks::{MasterKey, Targets};

use crate::fixture::{OPERATOR, TestServer, server};
use crate::receiver::Receiver;

const ENDPOINTS: &str = "/api/v1/webhooks/endpoints";
/// Public, and never called: nothing is committed for endpoints that have it.
const URL: &str = "https://receiver.example.org/hook";
/// base64 of 32 zero bytes.
const ZEROS: &str = "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=";

/// A server that may call this machine.
async fn calling(master_key: Option<&str>) -> TestServer {
    let key = master_key.map(|key| Arc::new(MasterKey::parse(key).unwrap()));
    let setup = server().with(|settings| {
        settings.dispatch.allow_targets = Targets::parse(&["127.0.0.0/8"]).unwrap();
        settings.dispatch.master_key = key;
    });
    setup.start().await
}

/// Makes an endpoint; gives its path.
async fn make(server: &TestServer, wish: &Value) -> String {
    let made = server.post(ENDPOINTS, OPERATOR, wish).await.expect(201).json();
    format!("{ENDPOINTS}/{}", made["id"].as_str().unwrap())
}

async fn patch(server: &TestServer, path: &str, change: &Value, status: u16) -> Value {
    let request = server.request("PATCH", path).key(OPERATOR).body(change.to_string());
    request.send().await.expect(status).json()
}

/// Where and of which kind each entry of a refusal is.
fn entries(refused: &Value) -> Vec<(Value, String)> {
    let entry = |entry: &Value| (entry["loc"].clone(), entry["type"].as_str().unwrap().to_owned());
    refused["detail"].as_array().unwrap().iter().map(entry).collect()
}

fn message(refused: &Value) -> &str {
    refused["detail"][0]["msg"].as_str().unwrap()
}

#[tokio::test]
async fn all_that_is_wrong_with_the_fields_of_a_body_is_told_at_once() {
    let server = server().start().await;
    let path = make(&server, &json!({ "url": URL })).await;
    let wrong = json!({
        "url": 5, "name": 5, "foo": 1, "dialect": "x", "timeout_seconds": "5", "active": 1, "secret": 7,
        "filter_types": ["heartrate.created"], "headers": [], "payload": "huge", "coalesce_ms": 1
    });
    let expected = [
        ("foo", "unknown_field"),
        ("url", "wrong_type"),
        ("dialect", "unknown_dialect"),
        ("name", "wrong_type"),
        ("filter_types", "unknown_event_type"),
        ("headers", "wrong_type"),
        ("secret", "wrong_type"),
        ("active", "wrong_type"),
        ("timeout_seconds", "wrong_type"),
        ("coalesce_ms", "out_of_range"),
        ("payload", "unknown_value"),
    ];
    let expected = expected.map(|(field, kind)| (json!(["body", field]), kind.to_owned()));
    let refused = server.post(ENDPOINTS, OPERATOR, &wrong).await.expect(422).json();
    assert_eq!(entries(&refused), expected, "{refused}");
    let before = server.get(&path, OPERATOR).await.expect(200).json();
    let refused = patch(&server, &path, &wrong, 422).await;
    assert_eq!(entries(&refused), expected, "{refused}");
    assert_eq!(server.get(&path, OPERATOR).await.expect(200).json(), before);
}

#[tokio::test]
async fn a_field_that_no_endpoint_has_is_named_in_its_place_with_the_one_that_was_meant() {
    let server = server().start().await;
    for (name, meant) in [
        ("filterTypes", Some("filter_types")),
        ("event_types", Some("filter_types")),
        ("channels", Some("filter_types")),
        ("rateLimitPerSecond", Some("rate_limit_per_second")),
        ("colour", None),
    ] {
        let mut wish = json!({ "url": URL });
        wish[name] = json!(1);
        let refused = server.post(ENDPOINTS, OPERATOR, &wish).await.expect(422).json();
        assert_eq!(entries(&refused), [(json!(["body", name]), "unknown_field".to_owned())], "{refused}");
        let hint =
            message(&refused).split_once("; did you mean ").map(|(_, meant)| meant.trim_end_matches('?'));
        assert_eq!(hint, meant, "{refused}");
    }
}

#[tokio::test]
async fn a_number_of_another_type_is_told_apart_from_one_out_of_range_and_shown_as_it_was_sent() {
    let server = server().start().await;
    for (value, kind, shown) in [
        (json!("5"), "wrong_type", r#"not "5""#),
        (json!(true), "wrong_type", "not true"),
        (json!(1.5), "wrong_type", "not 1.5"),
        (json!([1]), "wrong_type", "not [1]"),
        (json!(0), "out_of_range", "not 0"),
        (json!(-3), "out_of_range", "not -3"),
        (json!(1u64 << 40), "out_of_range", "not 1099511627776"),
    ] {
        let wish = json!({"url": URL, "timeout_seconds": value});
        let refused = server.post(ENDPOINTS, OPERATOR, &wish).await.expect(422).json();
        assert_eq!(entries(&refused), [(json!(["body", "timeout_seconds"]), kind.to_owned())], "{refused}");
        assert!(message(&refused).ends_with(shown), "{refused}");
    }
}

#[tokio::test]
async fn a_url_is_refused_for_what_it_is_or_for_where_it_leads() {
    let server = server().start().await;
    let (long, label) = (format!("{URL}/{}", "x".repeat(2048)), "a".repeat(64));
    let malformed = [
        "",
        "abc",
        "https://example.org:99999/",
        "https://example.org:0/",
        "https://example.org/#part",
        "https://user@example.org/",
        "ftp://example.org/",
        "https:example.org",
        "https:///x",
        "https://example..org/",
        "https://exam ple.org/",
        " https://example.org/",
        "https://example.org/\n",
        &format!("https://{label}.org/"),
    ];
    let cases = malformed.map(|url| (url, "malformed"));
    let others = [
        (long.as_str(), "too_long"),
        ("http://example.org/", "forbidden_target"),
        ("https://10.0.0.1/", "forbidden_target"),
        ("https://localhost/", "forbidden_target"),
    ];
    for (url, kind) in cases.into_iter().chain(others) {
        let refused = server.post(ENDPOINTS, OPERATOR, &json!({ "url": url })).await.expect(422).json();
        assert_eq!(entries(&refused), [(json!(["body", "url"]), kind.to_owned())], "{url:?}: {refused}");
    }
}

#[tokio::test]
async fn lists_that_are_too_long_are_told_apart_from_what_is_no_list() {
    let server = server().start().await;
    let names = vec!["heart_rate.created"; 1025];
    let headers: serde_json::Map<_, _> = (0..21).map(|number| (format!("x-{number}"), json!("1"))).collect();
    for (field, value, shown) in [("filter_types", json!(names), "1025"), ("headers", json!(headers), "21")] {
        let mut wish = json!({ "url": URL });
        wish[field] = value;
        let refused = server.post(ENDPOINTS, OPERATOR, &wish).await.expect(422).json();
        assert_eq!(entries(&refused), [(json!(["body", field]), "too_many".to_owned())], "{refused}");
        assert!(message(&refused).contains(shown), "{refused}");
    }
}

#[tokio::test]
async fn a_header_is_refused_for_its_own_reason() {
    let server = server().start().await;
    for (headers, reason) in [
        (json!({"X-A": "a\r\nb: c"}), "has a control character or a line end"),
        (json!({"X-A": "v".repeat(4097)}), "4097 bytes, at most 4096"),
        (json!({"X-A": "sealed.1.AAAA"}), "begins with sealed."),
        (json!({"X-A": " a"}), "begins or ends with white space"),
        (json!({"X-A": "a\t"}), "begins or ends with white space"),
        (json!({"X-Token": "a", "x-token": "a"}), "which are one header"),
        (json!({"X-A": "[redacted]"}), "the endpoint has no header of this name"),
        (json!({"Host": "example.org"}), "belongs to the request"),
    ] {
        let wish = json!({"url": URL, "headers": headers});
        let refused = server.post(ENDPOINTS, OPERATOR, &wish).await.expect(422).json();
        assert_eq!(
            entries(&refused),
            [(json!(["body", "headers"]), "forbidden_header".to_owned())],
            "{headers}: {refused}"
        );
        assert!(message(&refused).contains(reason), "{headers}: {refused}");
    }
}

#[tokio::test]
async fn a_header_that_is_sent_back_as_it_is_shown_keeps_its_value() {
    for master_key in [None, Some(ZEROS)] {
        let (server, receiver) = (calling(master_key).await, Receiver::start().await);
        let headers = json!({"Authorization": "Bearer first", "X-Old": "gone"});
        let path = make(&server, &json!({"url": receiver.url("/hook"), "headers": headers})).await;
        let shown = server.get(&path, OPERATOR).await.expect(200).json()["headers"].clone();
        assert_eq!(shown, json!({"Authorization": "[redacted]", "X-Old": "[redacted]"}));
        let change = json!({"headers": {"authorization": shown["Authorization"], "X-New": "second"}});
        let changed = patch(&server, &path, &change, 200).await;
        let names = json!({"Authorization": "[redacted]", "X-New": "[redacted]"});
        assert_eq!(changed["headers"], names, "{changed}");
        let unknown = json!({"headers": {"Authorization": "[redacted]", "X-Old": "[redacted]"}});
        let refused = patch(&server, &path, &unknown, 422).await;
        assert!(
            message(&refused).contains("\"X-Old\"") && message(&refused).contains("send its value"),
            "{refused}"
        );
        server.post(&format!("{path}/test"), OPERATOR, &json!({})).await.expect(202);
        let came = receiver.await_came("/hook", 1).await;
        let head = came[0].head.to_ascii_lowercase();
        assert!(head.contains("authorization: bearer first\r\n"), "{head}");
        assert!(head.contains("x-new: second\r\n") && !head.contains("x-old"), "{head}");
    }
}

#[tokio::test]
async fn a_dialect_that_the_kept_secret_does_not_fit_asks_for_one_with_it() {
    let server = server().start().await;
    let secret = "a-secret-of-another-dialect";
    let path = make(&server, &json!({"url": URL, "dialect": "avon", "secret": secret})).await;
    let refused = patch(&server, &path, &json!({"dialect": "standard"}), 422).await;
    assert_eq!(entries(&refused), [(json!(["body", "secret"]), "malformed".to_owned())]);
    let text = message(&refused);
    assert!(text.contains("does not fit this dialect; send `secret` with it, whsec_"), "{text}");
    assert!(!text.contains("leave it out"), "{text}");
    let fitting = json!({"dialect": "standard", "secret": format!("whsec_{ZEROS}")});
    assert_eq!(patch(&server, &path, &fitting, 200).await["dialect"], "standard");
    // One that is brought is still judged by itself.
    let refused = patch(&server, &path, &json!({ "secret": secret }), 422).await;
    assert!(message(&refused).contains("does not begin with whsec_"), "{refused}");
}

#[tokio::test]
async fn a_test_of_what_the_server_publishes_itself_is_like_a_real_one() {
    let (server, receiver) = (calling(None).await, Receiver::start().await);
    let path =
        make(&server, &json!({"url": receiver.url("/hook"), "filter_types": ["message.failed"]})).await;
    server.post(&format!("{path}/test"), OPERATOR, &json!({})).await.expect(202);
    let failed = receiver.await_came("/hook", 1).await[0].json();
    let data = &failed["data"];
    assert_eq!(
        (&failed["type"], &data["event_type"]),
        (&json!("message.failed"), &json!("heart_rate.created"))
    );
    assert!(data["endpoint_id"].as_str().unwrap().starts_with("ep_"), "{failed}");
    assert!(data["message_id"].as_str().unwrap().starts_with("evt_"), "{failed}");
    let numbers = ["message_count", "status_code", "attempt_count"].map(|field| data[field].as_u64());
    assert_eq!(numbers, [Some(1), Some(503), Some(8)], "{failed}");
    server
        .post(&format!("{path}/test"), OPERATOR, &json!({"event_type": "endpoint.disabled"}))
        .await
        .expect(202);
    let disabled = receiver.await_came("/hook", 2).await[1].json();
    assert_eq!(disabled["data"]["reason"], "failing");
    assert!(disabled["data"]["failing_since"].as_str().unwrap() < disabled["timestamp"].as_str().unwrap());
    let types = server.get("/api/v1/webhooks/event-types", OPERATOR).await.expect(200).json();
    let listed = |name: &str| {
        let known = types["data"].as_array().unwrap().iter().find(|known| known["name"] == name);
        known.unwrap()["schema"]["properties"]["data"]["properties"].clone()
    };
    assert_eq!(listed("message.failed")["attempt_count"]["type"], "integer");
    assert_eq!(listed("endpoint.disabled")["reason"]["enum"], json!(["failing", "gone"]));
    assert_eq!(listed("endpoint.disabled")["failing_since"]["format"], "date-time");
}
