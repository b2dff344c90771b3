//! Targets that the operator closes: endpoints that may not be called any more.

use std::path::Path;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use systole::{Secret, Server, Settings};
use systole_engine::events::webhooks::Targets;

use crate::client::{Answer, Request};
use crate::fixture::OPERATOR;
use crate::messages::receiver;

const ENDPOINTS: &str = "/api/v1/webhooks/endpoints";
const MESSAGES: &str = "/api/v1/webhooks/messages";

/// A server on a directory that outlives it.
struct On {
    server: Server,
}

impl On {
    async fn start(dir: &Path, open: &[&str]) -> On {
        let mut settings = Settings {
            listen: "127.0.0.1:0".parse().unwrap(),
            admin_key: Some(Secret::new(OPERATOR.to_owned())),
            data_dir: dir.to_owned(),
            ..Settings::default()
        };
        settings.dispatch.allow_targets = Targets::parse(open).unwrap();
        On { server: Server::start(settings).await.unwrap() }
    }

    async fn call(&self, method: &str, path: &str, body: &Value) -> Answer {
        let body = if body.is_null() { String::new() } else { body.to_string() };
        Request::new(self.server.address(), method, path).key(OPERATOR).body(body).send().await
    }

    async fn make(&self, url: &str) -> String {
        let made = self.call("POST", ENDPOINTS, &json!({ "url": url })).await.expect(201).json();
        made["id"].as_str().unwrap().to_owned()
    }

    async fn publish(&self) -> String {
        let event = json!({"type": "check_in.created", "data": {"mood": 1}});
        let made = self.call("POST", "/api/v1/events", &event).await.expect(202).json();
        made["id"].as_str().unwrap().to_owned()
    }

    /// Waits until a call's answer is as it is to be, and gives it.
    async fn await_answer(&self, path: &str, is_there: impl Fn(&Value) -> bool) -> Value {
        let deadline = Instant::now() + Duration::from_secs(30);
        loop {
            let answer = self.call("GET", path, &Value::Null).await.expect(200).json();
            if is_there(&answer) {
                return answer;
            }
            assert!(Instant::now() < deadline, "{path}: {answer}");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// Waits for an attempt to deliver a message to an endpoint with this outcome.
    async fn attempt(&self, message: &str, endpoint: &str, outcome: &str) -> Value {
        let path = format!("{MESSAGES}/{message}/attempts");
        let is_it = |row: &&Value| row["endpoint_id"] == endpoint && row["status"] == outcome;
        let page = self.await_answer(&path, |page| rows(page).iter().any(|row| is_it(&row))).await;
        rows(&page).iter().find(is_it).unwrap().clone()
    }
}

fn rows(page: &Value) -> &[Value] {
    page["data"].as_array().unwrap()
}

#[tokio::test]
async fn an_endpoint_that_may_not_be_called_any_more_fails_for_all_to_see_and_loses_nothing() {
    let (dir, (url, status)) = (tempfile::tempdir().unwrap(), receiver().await);
    status.store(200, Ordering::Relaxed);
    let server = On::start(dir.path(), &["127.0.0.0/8"]).await;
    let (kept, other) = (server.make(&url).await, server.make(&url).await);
    let first = server.publish().await;
    for id in [&kept, &other] {
        server.attempt(&first, id, "success").await;
    }
    server.server.stop().await;

    // The range is closed. What comes is tried, and is seen to fail.
    let server = On::start(dir.path(), &[]).await;
    let missed = server.publish().await;
    let failed = server.attempt(&missed, &kept, "failed").await;
    let error = failed["error"].as_str().unwrap();
    assert!(error.starts_with("not called: ") && error.contains("dispatch.allow_targets"), "{failed}");
    let (kept_path, other_path) = (format!("{ENDPOINTS}/{kept}"), format!("{ENDPOINTS}/{other}"));
    let waits = |stats: &Value| stats["retries_waiting"].as_u64() >= Some(1);
    let stats = server.await_answer(&format!("{kept_path}/stats"), waits).await;
    assert_eq!(stats["active"], json!(true), "{stats}");
    assert!(stats["failing_since"].is_string(), "{stats}");
    server.call("POST", &format!("{kept_path}/test"), &Value::Null).await.expect(202);
    let resend = format!("{MESSAGES}/{missed}/endpoints/{kept}/resend");
    server.call("POST", &resend, &Value::Null).await.expect(202);
    let since = json!({"since": "2026-01-01T00:00:00Z"});
    server.call("POST", &format!("{kept_path}/recover"), &since).await.expect(202);

    // What is not about the url can be changed, and it can be switched off, not on.
    for (path, change, expected) in [
        (&kept_path, json!({"description": "closed"}), 200),
        (&kept_path, json!({"url": format!("{url}/other")}), 422),
        (&other_path, json!({"active": false}), 200),
        (&other_path, json!({"name": "closed"}), 200),
        (&other_path, json!({"active": true}), 422),
    ] {
        let answer = server.call("PATCH", path, &change).await.expect(expected).json();
        if expected == 422 {
            assert_eq!(answer["detail"][0]["type"], "forbidden_target", "{change}: {answer}");
        }
    }
    server.call("POST", &format!("{kept_path}/secret/rotate"), &Value::Null).await.expect(200);
    server.server.stop().await;

    // Open again: what failed meanwhile is there still, and arrives.
    let server = On::start(dir.path(), &["127.0.0.0/8"]).await;
    server.call("POST", &resend, &Value::Null).await.expect(202);
    server.attempt(&missed, &kept, "success").await;
    server.call("PATCH", &other_path, &json!({"active": true})).await.expect(200);
    let last = server.publish().await;
    for id in [&kept, &other] {
        server.attempt(&last, id, "success").await;
    }
    server.server.stop().await;
}
