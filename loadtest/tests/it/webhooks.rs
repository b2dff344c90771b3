//! The management client: what it asks for, and what it makes of the answers.

use loadtest::report::error_chain;
use loadtest::{EndpointSettings, WebhookError, Webhooks};

use crate::server::{Reply, Seen, TestServer};

/// Answers as the server's API promises.
fn promised(seen: &Seen) -> Reply {
    match (seen.method.as_str(), seen.path.as_str()) {
        ("POST", "/api/v1/webhooks/endpoints") => Reply::json(201, r#"{"id":"ep_1","active":true}"#),
        ("GET", "/api/v1/webhooks/endpoints/ep_1/secret") => Reply::json(200, r#"{"key":"whsec_c2VjcmV0"}"#),
        ("DELETE", "/api/v1/webhooks/endpoints/ep_1") => Reply::json(204, ""),
        _ => Reply::json(404, r#"{"code":"not_found"}"#),
    }
}

#[tokio::test]
async fn an_endpoint_is_made_asked_for_its_secret_and_deleted() {
    let server = TestServer::start(promised).await;
    let webhooks = Webhooks::new(&server.client());
    let endpoint = EndpointSettings::new("http://127.0.0.1:1/hook");
    let id = webhooks.create(&endpoint).await.expect("201");
    let secret = webhooks.secret(&id).await.expect("200");
    webhooks.delete(&id).await.expect("204");
    assert_eq!((id.as_str(), secret), ("ep_1", "whsec_c2VjcmV0".into()));
    let asked: serde_json::Value = serde_json::from_slice(&server.seen()[0].body).expect("JSON");
    assert_eq!(asked["url"], "http://127.0.0.1:1/hook");
}

#[tokio::test]
async fn a_refusal_is_told_with_its_reason() {
    let refuse = |_: &Seen| Reply::json(422, r#"{"code":"invalid","detail":"loopback is not allowed"}"#);
    let server = TestServer::start(refuse).await;
    let webhooks = Webhooks::new(&server.client());
    let error = webhooks.create(&EndpointSettings::new("http://127.0.0.1:1/")).await;
    let error = error.expect_err("422");
    assert!(matches!(error, WebhookError::Status { .. }));
    assert!(error_chain(&error).contains("loopback is not allowed"), "{error}");
}

#[tokio::test]
async fn an_answer_without_its_field_is_no_success() {
    let server = TestServer::start(|_| Reply::json(201, r#"{"endpoint":"ep_1"}"#)).await;
    let webhooks = Webhooks::new(&server.client());
    let error = webhooks.create(&EndpointSettings::new("http://127.0.0.1:1/")).await;
    assert!(matches!(error.expect_err("no id"), WebhookError::Field { field: "id", .. }));
}
