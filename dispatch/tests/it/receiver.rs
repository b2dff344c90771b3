//! A receiver that does as it is told, one connection after the other.

use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;

/// Says what to answer to a request, and takes its time.
pub(crate) type Ask = Arc<dyn Fn(String) -> Pin<Box<dyn Future<Output = Vec<u8>> + Send>> + Send + Sync>;

/// What it does with a request.
#[derive(Clone)]
pub(crate) enum Manner {
    /// Writes these bytes and keeps the connection.
    Answer(Vec<u8>),
    /// Writes these bytes, then closes the connection.
    AnswerAndClose(Vec<u8>),
    /// Writes what it is told and keeps the connection; does not keep the request.
    Ask(Ask),
    /// Writes these bytes, then one more from time to time.
    Drip(Vec<u8>, Duration),
    /// Writes these bytes as often as they are taken.
    Flood(Vec<u8>),
    /// Closes the connection without reading, so that the sender sees a reset.
    Reset,
    /// Never says anything.
    Silence,
}

/// Listens until it is dropped.
pub(crate) struct Receiver {
    pub(crate) address: SocketAddr,
    seen: Arc<Seen>,
    accepting: tokio::task::JoinHandle<()>,
}

#[derive(Default)]
struct Seen {
    accepted: AtomicUsize,
    closed: AtomicUsize,
    requests: Mutex<Vec<String>>,
}

impl Receiver {
    pub(crate) async fn start(manner: Manner) -> Receiver {
        Receiver::start_with(manner, None).await
    }

    pub(crate) async fn start_tls(manner: Manner, acceptor: TlsAcceptor) -> Receiver {
        Receiver::start_with(manner, Some(acceptor)).await
    }

    async fn start_with(manner: Manner, acceptor: Option<TlsAcceptor>) -> Receiver {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let seen = Arc::new(Seen::default());
        let accepting = tokio::spawn(accept(listener, manner, acceptor, seen.clone()));
        Receiver { address, seen, accepting }
    }

    pub(crate) fn url(&self) -> String {
        format!("http://{}/hook", self.address)
    }

    /// Connections that came in.
    pub(crate) fn accepted(&self) -> usize {
        self.seen.accepted.load(Ordering::SeqCst)
    }

    /// Whole requests, head and body.
    pub(crate) fn requests(&self) -> Vec<String> {
        self.seen.requests.lock().unwrap().clone()
    }

    /// Whether a connection ends within a time, whoever ended it.
    pub(crate) async fn closes_one_within(&self, time: Duration) -> bool {
        let closed = async {
            while self.seen.closed.load(Ordering::SeqCst) == 0 {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        tokio::time::timeout(time, closed).await.is_ok()
    }
}

impl Drop for Receiver {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

async fn accept(listener: TcpListener, manner: Manner, acceptor: Option<TlsAcceptor>, seen: Arc<Seen>) {
    loop {
        let (stream, _) = listener.accept().await.unwrap();
        seen.accepted.fetch_add(1, Ordering::SeqCst);
        let (manner, acceptor, seen) = (manner.clone(), acceptor.clone(), seen.clone());
        tokio::spawn(async move {
            serve_any(stream, manner, acceptor, &seen).await;
            seen.closed.fetch_add(1, Ordering::SeqCst);
        });
    }
}

async fn serve_any(stream: TcpStream, manner: Manner, acceptor: Option<TlsAcceptor>, seen: &Seen) {
    match (acceptor, manner) {
        (_, Manner::Reset) => reset(stream).await,
        (None, manner) => serve(stream, manner, seen).await,
        (Some(acceptor), manner) => {
            if let Ok(stream) = acceptor.accept(stream).await {
                serve(stream, manner, seen).await;
            }
        }
    }
}

async fn serve<S: AsyncRead + AsyncWrite + Unpin>(mut stream: S, manner: Manner, seen: &Seen) {
    while let Some(request) = read_request(&mut stream).await {
        if let Manner::Ask(ask) = &manner {
            if stream.write_all(&ask(request).await).await.is_err() {
                return;
            }
            continue;
        }
        seen.requests.lock().unwrap().push(request);
        if act(&mut stream, &manner).await.is_none() {
            return;
        }
    }
}

/// `None` if the connection is to end.
async fn act<S: AsyncRead + AsyncWrite + Unpin>(stream: &mut S, manner: &Manner) -> Option<()> {
    match manner {
        Manner::Answer(answer) => stream.write_all(answer).await.ok(),
        Manner::AnswerAndClose(answer) => {
            stream.write_all(answer).await.ok()?;
            None
        }
        Manner::Drip(answer, pause) => {
            stream.write_all(answer).await.ok()?;
            loop {
                tokio::time::sleep(*pause).await;
                stream.write_all(b"x").await.ok()?;
            }
        }
        Manner::Flood(answer) => loop {
            stream.write_all(answer).await.ok()?;
        },
        Manner::Silence => stream.read_u8().await.ok().map(drop),
        Manner::Ask(_) | Manner::Reset => None,
    }
}

/// One request by its content length; `None` once the connection ended.
async fn read_request<S: AsyncRead + Unpin>(stream: &mut S) -> Option<String> {
    let mut bytes = Vec::new();
    loop {
        if let Some(head) = bytes.windows(4).position(|four| four == b"\r\n\r\n") {
            let length = content_length(std::str::from_utf8(&bytes[..head]).unwrap());
            if bytes.len() >= head + 4 + length {
                return Some(String::from_utf8(bytes).unwrap());
            }
        }
        if stream.read_buf(&mut bytes).await.ok()? == 0 {
            return None;
        }
    }
}

fn content_length(head: &str) -> usize {
    let lengths = head.lines().filter_map(|line| line.strip_prefix("content-length: "));
    let lengths: Vec<usize> = lengths.map(|length| length.parse().unwrap()).collect();
    assert_eq!(lengths.len(), 1, "{head}");
    lengths[0]
}

/// A socket that is closed with bytes unread resets its connection.
async fn reset(stream: TcpStream) {
    stream.readable().await.unwrap();
    drop(stream);
}
