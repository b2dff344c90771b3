//! Receivers that answer before they have read, or say more than they were asked.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use bytes::Bytes;
use hyper::{HeaderMap, StatusCode};
use systole_dispatch::client::{Answer, Client, PostFault};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::TcpSocket;
use tokio_rustls::TlsAcceptor;

use crate::client::{LONG, acceptor, client, ourselves, post, settle, trusting};

/// Longer than what the system takes of it while nobody reads.
const BODY_BYTES: usize = 16 * 1024 * 1024;
const ACCEPTED: &[u8] = b"HTTP/1.1 202 Accepted\r\ncontent-length: 0\r\n\r\n";
const LAST: &[u8] = b"HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: 2\r\n\r\nok";
const TOO_LARGE: &[u8] = b"HTTP/1.1 413 Content Too Large\r\ncontent-length: 0\r\n\r\n";

const UNASKED: &[u8] = b"HTTP/1.1 500 Unasked\r\ncontent-length: 0\r\n\r\n";
const READ_AFTER: Duration = Duration::from_millis(100);

/// What it does once it has answered a head.
#[derive(Clone, Copy)]
enum Then {
    /// Reads the body, after a while.
    Reads,
    /// Closes the connection, after a while.
    Closes,
    /// Nothing.
    Hangs,
    /// Reads the body, and says after a while what nobody asked for.
    SaysMore,
}

/// Listens until its runtime ends, and keeps the bodies that came whole.
struct Early {
    address: SocketAddr,
    accepted: Arc<AtomicUsize>,
    bodies: Arc<Mutex<Vec<Vec<u8>>>>,
}

impl Early {
    async fn start(answer: &'static [u8], then: Then, tls: Option<TlsAcceptor>) -> Early {
        let socket = TcpSocket::new_v4().unwrap();
        socket.set_recv_buffer_size(64 * 1024).unwrap();
        socket.bind("127.0.0.1:0".parse().unwrap()).unwrap();
        let listener = socket.listen(16).unwrap();
        let address = listener.local_addr().unwrap();
        let early = Early { address, accepted: Arc::default(), bodies: Arc::default() };
        let (accepted, bodies) = (early.accepted.clone(), early.bodies.clone());
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                accepted.fetch_add(1, Ordering::SeqCst);
                let (tls, bodies) = (tls.clone(), bodies.clone());
                tokio::spawn(async move {
                    match tls {
                        Some(tls) => serve(tls.accept(stream).await.unwrap(), answer, then, &bodies).await,
                        None => serve(stream, answer, then, &bodies).await,
                    }
                });
            }
        });
        early
    }

    fn accepted(&self) -> usize {
        self.accepted.load(Ordering::SeqCst)
    }

    /// Whether so many bodies came, and each is this one. What the system still holds
    /// of the last is read first.
    async fn got(&self, bodies: usize, body: &[u8]) -> bool {
        while self.bodies.lock().unwrap().len() < bodies {
            settle().await;
        }
        self.bodies.lock().unwrap().iter().all(|got| got == body)
    }
}

async fn serve<S: AsyncRead + AsyncWrite + Unpin>(
    mut stream: S,
    answer: &[u8],
    then: Then,
    bodies: &Mutex<Vec<Vec<u8>>>,
) {
    while let Some((mut body, length)) = read_head(&mut stream).await {
        stream.write_all(answer).await.unwrap();
        stream.flush().await.unwrap();
        match then {
            Then::Hangs => std::future::pending().await,
            Then::Closes | Then::Reads | Then::SaysMore => tokio::time::sleep(READ_AFTER).await,
        }
        if matches!(then, Then::Closes) {
            return;
        }
        while body.len() < length {
            if stream.read_buf(&mut body).await.unwrap_or_default() == 0 {
                return;
            }
        }
        bodies.lock().unwrap().push(body);
        if matches!(then, Then::SaysMore) {
            stream.write_all(UNASKED).await.unwrap();
        }
    }
}

/// The beginning of a request's body, and how long all of it is.
async fn read_head<S: AsyncRead + Unpin>(stream: &mut S) -> Option<(Vec<u8>, usize)> {
    let mut bytes = Vec::new();
    loop {
        if let Some(end) = bytes.windows(4).position(|four| four == b"\r\n\r\n") {
            let body = bytes.split_off(end + 4);
            let head = String::from_utf8(bytes).unwrap();
            let length = head.lines().find_map(|line| line.strip_prefix("content-length: ")).unwrap();
            return Some((body, length.parse().unwrap()));
        }
        let mut some = [0; 1024];
        match stream.read(&mut some).await {
            Ok(read) if read > 0 => bytes.extend_from_slice(&some[..read]),
            _ => return None,
        }
    }
}

/// A body of which no two parts are alike.
pub(crate) fn body() -> Bytes {
    (0..BODY_BYTES / 8).flat_map(|number: usize| number.to_le_bytes()).collect()
}

pub(crate) async fn send(
    client: &Client,
    url: &str,
    body: &Bytes,
    timeout: Duration,
) -> Result<Answer, PostFault> {
    let target = ourselves().check_url(url).unwrap();
    client.post(&target, HeaderMap::new(), body.clone(), timeout).await
}

#[tokio::test]
async fn a_body_is_written_whole_though_its_answer_comes_first() {
    let body = body();
    for tls in [None, Some(acceptor())] {
        let (client, scheme) = if tls.is_some() { (trusting(), "https") } else { (client(), "http") };
        let early = Early::start(ACCEPTED, Then::Reads, tls).await;
        let url = format!("{scheme}://localhost:{}/", early.address.port());
        for posts in 1..=2 {
            let answer = send(&client, &url, &body, LONG).await.unwrap();
            assert_eq!(answer.status, StatusCode::ACCEPTED);
            assert!(early.got(posts, &body).await, "{scheme}");
        }
        assert_eq!(early.accepted(), 1, "{scheme}: the connection is kept");
    }
}

#[tokio::test]
async fn a_body_is_written_whole_though_its_answer_is_the_last() {
    let (body, early) = (body(), Early::start(LAST, Then::Reads, None).await);
    let answer = send(&client(), &format!("http://{}/", early.address), &body, LONG).await.unwrap();
    assert_eq!((answer.status, answer.body.as_ref()), (StatusCode::OK, b"ok".as_slice()));
    assert!(early.got(1, &body).await);
}

#[tokio::test]
async fn a_success_without_the_whole_request_is_none() {
    let body = body();
    for answer in [ACCEPTED, LAST] {
        let early = Early::start(answer, Then::Closes, None).await;
        let fault = send(&client(), &format!("http://{}/", early.address), &body, LONG).await.unwrap_err();
        assert!(matches!(fault, PostFault::Cut), "{fault}");
        let early = Early::start(answer, Then::Hangs, None).await;
        let timeout = Duration::from_millis(300);
        let fault = send(&client(), &format!("http://{}/", early.address), &body, timeout).await.unwrap_err();
        assert!(matches!(fault, PostFault::Timeout { .. }), "{fault}");
    }
}

#[tokio::test]
async fn a_refusal_needs_no_whole_request() {
    let (body, early) = (body(), Early::start(TOO_LARGE, Then::Hangs, None).await);
    let began = Instant::now();
    let answer = send(&client(), &format!("http://{}/", early.address), &body, LONG).await.unwrap();
    assert_eq!(answer.status, StatusCode::PAYLOAD_TOO_LARGE);
    assert!(began.elapsed() < LONG / 2, "{:?}", began.elapsed());
}

#[tokio::test]
async fn what_a_receiver_says_unasked_is_no_answer() {
    let doubled = b"HTTP/1.1 204 No Content\r\n\r\nHTTP/1.1 500 Unasked\r\ncontent-length: 0\r\n\r\n";
    for (answer, then) in [(doubled.as_slice(), Then::Reads), (ACCEPTED, Then::SaysMore)] {
        let early = Early::start(answer, then, None).await;
        let (client, url) = (client(), format!("http://{}/", early.address));
        for posts in 1..=3 {
            assert!(post(&client, &url, LONG).await.unwrap().status.is_success());
            assert_eq!(early.accepted(), posts);
            tokio::time::sleep(2 * READ_AFTER).await;
        }
    }
}
