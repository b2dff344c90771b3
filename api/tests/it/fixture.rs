//! A server in this process, on a free port and a fresh directory.

use std::net::SocketAddr;
use std::path::Path;

use serde_json::{Value, json};
use systole::{Drained, Secret, Server, Settings};
use tempfile::TempDir;

use crate::client::{Answer, Request};

/// The operator key of every test server.
pub(crate) const OPERATOR: &str = "avk_operator-of-the-tests";

/// A server in the making.
pub(crate) struct Setup {
    settings: Settings,
}

/// A server with the defaults, but the operator key [`OPERATOR`].
pub(crate) fn server() -> Setup {
    let settings = Settings {
        listen: "127.0.0.1:0".parse().unwrap(),
        admin_key: Some(Secret::new(OPERATOR.to_owned())),
        ..Settings::default()
    };
    Setup { settings }
}

impl Setup {
    pub(crate) fn with(mut self, change: impl FnOnce(&mut Settings)) -> Setup {
        change(&mut self.settings);
        self
    }

    pub(crate) async fn start(mut self) -> TestServer {
        let dir = tempfile::tempdir().unwrap();
        self.settings.data_dir = dir.path().to_owned();
        let server = Server::start(self.settings).await.unwrap();
        TestServer { address: server.address(), server, dir }
    }
}

/// A running server; its directory goes with it.
pub(crate) struct TestServer {
    pub(crate) address: SocketAddr,
    pub(crate) server: Server,
    dir: TempDir,
}

impl TestServer {
    pub(crate) fn data_dir(&self) -> &Path {
        self.dir.path()
    }

    pub(crate) async fn stop(self) -> Drained {
        self.server.stop().await
    }

    pub(crate) fn request(&self, method: &str, path: &str) -> Request {
        Request::new(self.address, method, path)
    }

    pub(crate) async fn get(&self, path: &str, key: &str) -> Answer {
        self.request("GET", path).key(key).send().await
    }

    pub(crate) async fn post(&self, path: &str, key: &str, body: &Value) -> Answer {
        self.request("POST", path).key(key).body(body.to_string()).send().await
    }

    /// Sends points as the operator, for the user `u1`.
    pub(crate) async fn bulk(&self, points: &[Value]) -> Answer {
        let body = json!({ "data_points": points });
        self.post("/api/v1/wearables/bulk-ingest?user_id=u1", OPERATOR, &body).await
    }

    /// The points of a series of `u1`, as the operator sees them.
    pub(crate) async fn series(&self, metric: &str, parameters: &str) -> Vec<Value> {
        let path = format!("/api/v1/wearables/metric/{metric}?user_id=u1&days=36500&{parameters}");
        let answer = self.get(&path, OPERATOR).await.expect(200).json();
        answer["data_points"].as_array().unwrap().clone()
    }

    /// Makes a key; `wish` is the body of the call.
    pub(crate) async fn make_key(&self, org: &str, wish: &Value) -> Made {
        let path = format!("/api/v1/api-keys?org={org}");
        let made = self.post(&path, OPERATOR, wish).await.expect(201).json();
        let text = |field: &str| made[field].as_str().unwrap().to_owned();
        Made { id: text("id"), key: text("key") }
    }

    /// Fails the test unless the server takes a good point and shows it.
    pub(crate) async fn assert_well(&self, after: &str) {
        let answer = self.bulk(&[point(0, 61.0)]).await;
        assert_eq!(answer.status, 200, "after {after}: {}", answer.text());
        assert_eq!(answer.json(), json!({"accepted": 1}), "after {after}");
        let health = self.request("GET", "/health").send().await;
        assert_eq!(health.status, 200, "after {after}: {}", health.text());
    }
}

/// A key that was made.
pub(crate) struct Made {
    pub(crate) id: String,
    pub(crate) key: String,
}

/// A heart rate, `second` seconds after the beginning of 2026.
pub(crate) fn point(second: u32, value: f64) -> Value {
    let (hour, minute) = (second / 3600, second / 60 % 60);
    let time = format!("2026-01-01T{hour:02}:{minute:02}:{:02}Z", second % 60);
    json!({"metric":"heart_rate","value":value,"unit":"bpm","recorded_at":time,"source":"garmin"})
}

/// `point` with other fields; `null` takes a field away.
pub(crate) fn point_with(changes: Value) -> Value {
    let mut point = point(0, 62.0);
    let fields = point.as_object_mut().unwrap();
    for (name, value) in changes.as_object().unwrap() {
        if value.is_null() {
            fields.remove(name);
        } else {
            fields.insert(name.clone(), value.clone());
        }
    }
    point
}
