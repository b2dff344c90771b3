//! A receiver of webhooks: it answers by the path that is called, and keeps what came.

use std::collections::{BTreeMap, HashMap};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use serde_json::Value;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};

/// How long a test waits for anything.
const PATIENCE: Duration = Duration::from_secs(30);

/// Asks until there is an answer; an error says what there is instead.
pub(crate) async fn eventually<T>(mut ask: impl AsyncFnMut() -> Result<T, String>) -> T {
    let deadline = Instant::now() + PATIENCE;
    loop {
        match ask().await {
            Ok(found) => return found,
            Err(still) => assert!(Instant::now() < deadline, "{still}"),
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// Answers by the path that is called, and keeps what came.
pub(crate) struct Receiver {
    address: SocketAddr,
    shared: Arc<Shared>,
}

#[derive(Default)]
struct Shared {
    /// What is answered on a path instead of 200.
    statuses: Mutex<HashMap<String, u16>>,
    came: Mutex<Vec<Delivery>>,
}

/// A request, and what it was answered.
#[derive(Clone, Debug)]
pub(crate) struct Delivery {
    pub(crate) path: String,
    pub(crate) id: String,
    /// Request line and headers.
    pub(crate) head: String,
    pub(crate) body: Vec<u8>,
    pub(crate) status: u16,
}

impl Delivery {
    pub(crate) fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap()
    }
}

impl Receiver {
    pub(crate) async fn start() -> Receiver {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let receiver = Receiver { address: listener.local_addr().unwrap(), shared: Arc::default() };
        let shared = receiver.shared.clone();
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(serve(stream, shared.clone()));
            }
        });
        receiver
    }

    pub(crate) fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.address)
    }

    /// Answers with this status on a path from now on.
    pub(crate) fn answer(&self, path: &str, status: u16) {
        self.shared.statuses.lock().insert(path.to_owned(), status);
    }

    /// What came to a path, in its order.
    pub(crate) fn came(&self, path: &str) -> Vec<Delivery> {
        let came = self.shared.came.lock();
        came.iter().filter(|delivery| delivery.path == path).cloned().collect()
    }

    /// What the deliveries to a path were answered, by their ids.
    pub(crate) fn answered(&self, path: &str) -> BTreeMap<String, Vec<u16>> {
        let mut by_id: BTreeMap<String, Vec<u16>> = BTreeMap::new();
        for Delivery { id, status, .. } in self.came(path) {
            by_id.entry(id).or_default().push(status);
        }
        by_id
    }

    /// Waits until as many deliveries came to a path, and gives them.
    pub(crate) async fn await_came(&self, path: &str, count: usize) -> Vec<Delivery> {
        eventually(async || match self.came(path) {
            came if came.len() >= count => Ok(came),
            came => Err(format!("{} of {count} deliveries to {path}", came.len())),
        })
        .await
    }

    /// Waits until a message came to a path.
    pub(crate) async fn await_message(&self, path: &str, id: &str) {
        eventually(async || {
            let came = self.answered(path);
            if came.contains_key(id) { Ok(()) } else { Err(format!("{id} is not in {came:?}")) }
        })
        .await;
    }
}

async fn serve(mut stream: TcpStream, shared: Arc<Shared>) {
    let Some((path, id, head, body)) = request(&mut stream).await else { return };
    let status = shared.statuses.lock().get(&path).copied().unwrap_or(200);
    shared.came.lock().push(Delivery { path, id, head, body, status });
    let answer = format!("HTTP/1.1 {status} So\r\ncontent-length: 0\r\nconnection: close\r\n\r\n");
    // Who went away wants no answer.
    let _ = stream.write_all(answer.as_bytes()).await;
}

/// Path, `webhook-id`, head and body of a request; `None` if it does not come whole.
async fn request(stream: &mut TcpStream) -> Option<(String, String, String, Vec<u8>)> {
    let mut bytes: Vec<u8> = Vec::new();
    let head_bytes = loop {
        if let Some(at) = bytes.windows(4).position(|four| four == b"\r\n\r\n") {
            break at + 4;
        }
        if stream.read_buf(&mut bytes).await.ok()? == 0 {
            return None;
        }
    };
    let head = String::from_utf8(bytes[..head_bytes].to_vec()).unwrap();
    let field = |name: &str| head.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(": "));
    let (path, id) = (head.split(' ').nth(1)?.to_owned(), field("webhook-id")?.to_owned());
    let length: usize = field("content-length")?.parse().ok()?;
    while bytes.len() < head_bytes + length {
        if stream.read_buf(&mut bytes).await.ok()? == 0 {
            return None;
        }
    }
    Some((path, id, head, bytes.split_off(head_bytes)))
}
