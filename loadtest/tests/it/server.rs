//! A server by hand: reads HTTP/1.1 requests from a socket, remembers them, and
//! answers what the test's function says. No routes, no limits.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard};

use loadtest::{ApiKey, Server};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;

/// One request as it arrived.
#[derive(Debug, Clone)]
pub(crate) struct Seen {
    /// Its place among all requests, from 0.
    pub(crate) number: usize,
    pub(crate) method: String,
    pub(crate) path: String,
    pub(crate) body: Vec<u8>,
}

/// What to answer.
#[derive(Debug, Clone)]
pub(crate) enum Reply {
    Answer {
        status: u16,
        headers: &'static str,
        body: String,
    },
    /// Ends the connection instead.
    Hangup,
    /// Never answers.
    Silence,
}

type Script = dyn Fn(&Seen) -> Reply + Send + Sync;

pub(crate) struct TestServer {
    address: SocketAddr,
    seen: Arc<Mutex<Vec<Seen>>>,
    accepting: JoinHandle<()>,
}

impl Seen {
    pub(crate) fn is_ingest(&self) -> bool {
        self.path.starts_with("/api/v1/wearables/bulk-ingest?")
    }

    pub(crate) fn user_id(&self) -> String {
        let (_, user_id) = self.path.split_once("user_id=").expect("a user in the query");
        user_id.to_owned()
    }

    pub(crate) fn points(&self) -> Vec<serde_json::Value> {
        let body: serde_json::Value = serde_json::from_slice(&self.body).expect("a JSON body");
        body["data_points"].as_array().expect("points").clone()
    }
}

impl Reply {
    pub(crate) fn json(status: u16, body: impl Into<String>) -> Self {
        Self::Answer { status, headers: "", body: body.into() }
    }

    pub(crate) fn with_headers(self, headers: &'static str) -> Self {
        match self {
            Self::Answer { status, body, .. } => Self::Answer { status, headers, body },
            other => other,
        }
    }

    /// The answer of a healthy server to a batch.
    pub(crate) fn accepted(seen: &Seen) -> Self {
        let points = seen.body.windows(8).filter(|w| w == b"\"metric\"").count();
        Self::json(200, format!("{{\"accepted\": {points}}}"))
    }
}

impl TestServer {
    pub(crate) async fn start(script: impl Fn(&Seen) -> Reply + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let address = listener.local_addr().expect("a bound address");
        let seen = Arc::new(Mutex::new(Vec::new()));
        let accepting = tokio::spawn(accept(listener, Arc::clone(&seen), Arc::new(script)));
        Self { address, seen, accepting }
    }

    pub(crate) fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    pub(crate) fn client(&self) -> Server {
        Server::new(&self.url(), &ApiKey::new("avk_test")).expect("a good address")
    }

    pub(crate) fn seen(&self) -> Vec<Seen> {
        lock(&self.seen).clone()
    }

    pub(crate) fn ingests(&self) -> Vec<Seen> {
        self.seen().into_iter().filter(Seen::is_ingest).collect()
    }
}

impl Drop for TestServer {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

async fn accept(listener: TcpListener, seen: Arc<Mutex<Vec<Seen>>>, script: Arc<Script>) {
    loop {
        let (stream, _) = listener.accept().await.expect("an open listener");
        tokio::spawn(serve(stream, Arc::clone(&seen), Arc::clone(&script)));
    }
}

/// Answers one connection until either side ends it.
async fn serve(stream: TcpStream, seen: Arc<Mutex<Vec<Seen>>>, script: Arc<Script>) {
    let mut stream = BufReader::new(stream);
    while let Some((method, path, body)) = read_request(&mut stream).await {
        let request = {
            let mut all = lock(&seen);
            let request = Seen { number: all.len(), method, path, body };
            all.push(request.clone());
            request
        };
        match script(&request) {
            Reply::Answer { status, headers, body } => {
                let length = body.len();
                let answer =
                    format!("HTTP/1.1 {status} X\r\ncontent-length: {length}\r\n{headers}\r\n{body}");
                if stream.write_all(answer.as_bytes()).await.is_err() {
                    return;
                }
            }
            Reply::Hangup => return,
            Reply::Silence => std::future::pending().await,
        }
    }
}

/// Method, path and body of the next request; `None` at the end of the connection.
async fn read_request(stream: &mut BufReader<TcpStream>) -> Option<(String, String, Vec<u8>)> {
    let first = read_line(stream).await?;
    let mut words = first.split(' ').map(str::to_owned);
    let (method, path) = words.next().zip(words.next()).expect("a method and a path");
    let mut length = 0;
    let mut has_key = false;
    loop {
        let line = read_line(stream).await?;
        match line.split_once(": ") {
            Some(("content-length", value)) => length = value.parse().expect("a length"),
            Some(("x-api-key", value)) => has_key = value == "avk_test",
            Some(_) => {}
            None => break,
        }
    }
    assert!(has_key, "a request without its key");
    let mut body = vec![0; length];
    stream.read_exact(&mut body).await.ok()?;
    Some((method, path, body))
}

async fn read_line(stream: &mut BufReader<TcpStream>) -> Option<String> {
    let mut line = String::new();
    let bytes = stream.read_line(&mut line).await.ok()?;
    (bytes > 0).then(|| line.trim_end().to_owned())
}

fn lock(seen: &Mutex<Vec<Seen>>) -> MutexGuard<'_, Vec<Seen>> {
    seen.lock().expect("no test panics while it holds the lock")
}
