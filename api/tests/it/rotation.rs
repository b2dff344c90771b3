//! Rotation of secrets, keys of `v1a`, and secrets at rest, over HTTP and restarts.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use serde_json::{Value, json};
use systole::{Environment, Flags, Secret, Server, Settings, StartFault};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;

use crate::client::{Answer, Request};
use crate::fixture::OPERATOR;

const ENDPOINTS: &str = "/api/v1/webhooks/endpoints";
/// base64 of 32 zero bytes, and of 32 ones.
const ZEROS: &str = "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=";
const ONES: &str = "AQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQE=";

/// A server on a directory that outlives it.
struct On {
    server: Server,
}

impl On {
    async fn try_start(dir: &Path, master_key: Option<&str>) -> Result<On, StartFault> {
        let mut environment = Environment::new();
        environment.insert("SYSTOLE_DISPATCH_ALLOW_TARGETS".to_owned(), "127.0.0.0/8".to_owned());
        if let Some(key) = master_key {
            environment.insert("SYSTOLE_DISPATCH_MASTER_KEY".to_owned(), key.to_owned());
        }
        let mut settings = Settings::load(&Flags::default(), &environment).unwrap();
        settings.listen = "127.0.0.1:0".parse().unwrap();
        settings.admin_key = Some(Secret::new(OPERATOR.to_owned()));
        settings.data_dir = dir.to_owned();
        Ok(On { server: Server::start(settings).await? })
    }

    async fn start(dir: &Path) -> On {
        On::try_start(dir, None).await.unwrap()
    }

    async fn call(&self, method: &str, path: &str, body: &Value) -> Answer {
        let request = Request::new(self.server.address(), method, &format!("{ENDPOINTS}{path}"));
        let body = if body.is_null() { String::new() } else { body.to_string() };
        request.key(OPERATOR).body(body).send().await
    }

    async fn make(&self, wish: &Value) -> String {
        let made = self.call("POST", "", wish).await.expect(201).json();
        made["id"].as_str().unwrap().to_owned()
    }

    async fn key(&self, id: &str) -> Value {
        self.call("GET", &format!("/{id}/secret"), &Value::Null).await.expect(200).json()["key"].clone()
    }

    async fn rotate(&self, id: &str, wish: &Value) -> Value {
        let path = format!("/{id}/secret/rotate");
        self.call("POST", &path, wish).await.expect(200).json()["key"].clone()
    }
}

/// Takes deliveries and keeps their heads.
struct Receiver {
    url: String,
    heads: Arc<Mutex<Vec<String>>>,
}

impl Receiver {
    async fn start() -> Receiver {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}/hook", listener.local_addr().unwrap());
        let heads: Arc<Mutex<Vec<String>>> = Arc::default();
        let seen = heads.clone();
        tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                let mut bytes = Vec::new();
                let end = loop {
                    stream.read_buf(&mut bytes).await.unwrap();
                    if let Some(at) = bytes.windows(4).position(|four| four == b"\r\n\r\n") {
                        break at;
                    }
                };
                let head = String::from_utf8(bytes[..end].to_vec()).unwrap();
                let length = head.lines().find_map(|line| line.strip_prefix("content-length: "));
                let whole = end + 4 + length.unwrap().parse::<usize>().unwrap();
                while bytes.len() < whole {
                    stream.read_buf(&mut bytes).await.unwrap();
                }
                seen.lock().push(head);
                let answer = b"HTTP/1.1 204 No Content\r\nconnection: close\r\n\r\n";
                stream.write_all(answer).await.unwrap();
            }
        });
        Receiver { url, heads }
    }

    /// The head of the next delivery: an example that the server is asked for.
    async fn example(&self, server: &On, id: &str) -> Vec<(String, String)> {
        let before = self.heads.lock().len();
        server.call("POST", &format!("/{id}/test"), &Value::Null).await.expect(202);
        for _ in 0..1000 {
            if let Some(head) = self.heads.lock().get(before) {
                let fields = head.lines().filter_map(|line| line.split_once(": "));
                return fields.map(|(name, value)| (name.to_owned(), value.to_owned())).collect();
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        panic!("no delivery came");
    }
}

fn header<'a>(head: &'a [(String, String)], name: &str) -> Option<&'a str> {
    head.iter().find(|(found, _)| found == name).map(|(_, value)| value.as_str())
}

#[tokio::test]
async fn a_rotation_signs_with_both_keys_over_a_restart_until_its_grace_is_over() {
    let (dir, receiver) = (tempfile::tempdir().unwrap(), Receiver::start().await);
    let server = On::start(dir.path()).await;
    let standard = server.make(&json!({"url": receiver.url})).await;
    let avon = server.make(&json!({"url": receiver.url, "dialect": "avon"})).await;
    let first = server.key(&standard).await;
    let second = server.rotate(&standard, &json!({"grace_seconds": 4})).await;
    assert_ne!(first, second);
    assert_eq!(server.key(&standard).await, second);
    server.rotate(&avon, &json!({"grace_seconds": 4, "key": "another secret"})).await;
    server.server.stop().await;

    let server = On::start(dir.path()).await;
    assert_eq!(server.key(&standard).await, second);
    assert_eq!(server.key(&avon).await, "another secret");
    let both = receiver.example(&server, &standard).await;
    assert_eq!(header(&both, "webhook-signature").unwrap().matches("v1,").count(), 2, "{both:?}");
    let both = receiver.example(&server, &avon).await;
    assert_ne!(header(&both, "avon-signature"), header(&both, "avon-signature-next"));
    assert!(header(&both, "avon-signature-next").is_some(), "{both:?}");

    // No call and no restart ends a grace.
    tokio::time::sleep(Duration::from_secs(5)).await;
    let one = receiver.example(&server, &standard).await;
    assert_eq!(header(&one, "webhook-signature").unwrap().matches("v1,").count(), 1, "{one:?}");
    let one = receiver.example(&server, &avon).await;
    assert_eq!(header(&one, "avon-signature-next"), None, "{one:?}");
    server.server.stop().await;
}

#[tokio::test]
async fn a_rotation_without_grace_is_at_once_and_a_wrong_one_changes_nothing() {
    let (dir, receiver) = (tempfile::tempdir().unwrap(), Receiver::start().await);
    let server = On::start(dir.path()).await;
    let id = server.make(&json!({"url": receiver.url})).await;
    let first = server.key(&id).await;
    for (wish, field) in [
        (json!({"grace_seconds": -1}), "grace_seconds"),
        (json!({"grace_seconds": 604_801}), "grace_seconds"),
        (json!({"grace_seconds": "1"}), "grace_seconds"),
        (json!({"key": "short"}), "key"),
        (json!({"key": 7}), "key"),
    ] {
        let refused = server.call("POST", &format!("/{id}/secret/rotate"), &wish).await.expect(422).json();
        assert_eq!(refused["detail"][0]["loc"], json!(["body", field]), "{refused}");
    }
    server.call("POST", &format!("/{id}/secret/rotate"), &json!({"grace": 1})).await.expect(422);
    server.call("POST", "/ep_none/secret/rotate", &json!({})).await.expect(404);
    assert_eq!(server.key(&id).await, first);
    let second = server.rotate(&id, &json!({"grace_seconds": 0})).await;
    let one = receiver.example(&server, &id).await;
    assert_eq!(header(&one, "webhook-signature").unwrap().matches("v1,").count(), 1, "{one:?}");
    // The body may be left out, and the same key again begins no grace.
    let third = server.rotate(&id, &Value::Null).await;
    assert_ne!(second, third);
    assert_eq!(server.rotate(&id, &json!({"key": third})).await, third);
    let both = receiver.example(&server, &id).await;
    assert_eq!(header(&both, "webhook-signature").unwrap().matches("v1,").count(), 2, "{both:?}");
    // A secret that is set replaces both.
    let patch = json!({"secret": format!("whsec_{ONES}")});
    server.call("PATCH", &format!("/{id}"), &patch).await.expect(200);
    let one = receiver.example(&server, &id).await;
    assert_eq!(header(&one, "webhook-signature").unwrap().matches("v1,").count(), 1, "{one:?}");
    server.server.stop().await;
}

#[tokio::test]
async fn an_endpoint_of_v1a_shows_its_public_key_and_rotates_as_others_do() {
    let (dir, receiver) = (tempfile::tempdir().unwrap(), Receiver::start().await);
    let server = On::start(dir.path()).await;
    let id = server.make(&json!({"url": receiver.url, "signature": "v1a"})).await;
    let show = async || server.call("GET", &format!("/{id}"), &Value::Null).await.expect(200).json();
    let shown = show().await;
    assert_eq!(shown["signature"], "v1a");
    let public = shown["public_key"].as_str().unwrap().to_owned();
    assert!(public.starts_with("whpk_") && public.len() == 5 + 44, "{public}");
    assert!(server.key(&id).await.as_str().unwrap().starts_with("whsk_"));
    let head = receiver.example(&server, &id).await;
    assert!(header(&head, "webhook-signature").unwrap().starts_with("v1a,"), "{head:?}");
    server.rotate(&id, &json!({})).await;
    assert_ne!(show().await["public_key"], json!(public));
    let both = receiver.example(&server, &id).await;
    assert_eq!(header(&both, "svix-signature").unwrap().matches("v1a,").count(), 2, "{both:?}");
    for (wish, kind) in [
        (json!({"signature": "v2"}), "unknown_value"),
        (json!({"dialect": "avon"}), "standard_only"),
        (json!({"secret": format!("whsec_{ZEROS}")}), "malformed"),
    ] {
        let refused = server.call("PATCH", &format!("/{id}"), &wish).await.expect(422).json();
        assert_eq!(refused["detail"][0]["type"], kind, "{refused}");
    }
    // The other kind of signature comes with a key of its own.
    let changed =
        server.call("PATCH", &format!("/{id}"), &json!({"signature": "v1"})).await.expect(200).json();
    assert_eq!((&changed["signature"], changed.get("public_key")), (&json!("v1"), None));
    assert!(server.key(&id).await.as_str().unwrap().starts_with("whsec_"));
    server.server.stop().await;
}

/// Whether a text stands anywhere in the catalog's files.
fn holds(dir: &Path, text: &str) -> bool {
    let files = ["catalog.db", "catalog.db-wal"].map(|name| dir.join(name));
    files
        .iter()
        .filter_map(|file| std::fs::read(file).ok())
        .any(|bytes| bytes.windows(text.len()).any(|window| window == text.as_bytes()))
}

#[tokio::test]
async fn a_master_key_encrypts_what_is_there_and_what_comes_and_is_needed_from_then_on() {
    let dir = tempfile::tempdir().unwrap();
    let url = "https://receiver.example.org/";
    let server = On::start(dir.path()).await;
    let (old, new) = ("plain-secret-of-before", "plain-secret-of-later");
    let id = server.make(&json!({"url": url, "dialect": "avon", "secret": old})).await;
    server.server.stop().await;
    assert!(holds(dir.path(), old));

    let server = On::try_start(dir.path(), Some(ZEROS)).await.unwrap();
    assert_eq!(server.key(&id).await, old);
    let later = server.make(&json!({"url": url, "dialect": "avon", "secret": new})).await;
    let third = "plain-secret-of-a-rotation";
    server.rotate(&id, &json!({"key": third})).await;
    // Changes that are not about the secret write it too.
    server.call("PATCH", &format!("/{id}"), &json!({"active": false})).await.expect(200);
    assert!(holds(dir.path(), "sealed.1."));
    for secret in [old, new, third] {
        assert!(!holds(dir.path(), secret), "{secret}");
    }
    server.server.stop().await;

    for (key, what) in [(None, "is not set"), (Some(ONES), "another key")] {
        let fault = On::try_start(dir.path(), key).await.err().unwrap();
        assert!(matches!(&fault, StartFault::Setting { name: "dispatch.master_key", .. }), "{fault}");
        let text = fault.to_string();
        assert!(
            text.contains("dispatch.master_key") && text.contains(what) && !text.contains('\n'),
            "{text}"
        );
    }
    let server = On::try_start(dir.path(), Some(ZEROS)).await.unwrap();
    assert_eq!((server.key(&id).await, server.key(&later).await), (json!(third), json!(new)));
    server.server.stop().await;
}
