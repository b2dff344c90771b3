//! Receivers that offer HTTP/2, and TLS sessions that are resumed.

use std::convert::Infallible;
use std::future::pending;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use bytes::Bytes;
use http_body_util::{BodyExt as _, Full};
use hyper::body::Incoming;
use hyper::server::conn::http2::Builder;
use hyper::service::service_fn;
use hyper::{Request, Response, StatusCode, Version};
use hyper_util::rt::{TokioExecutor, TokioIo};
use rustls::HandshakeKind;
use systole_dispatch::client::{ANSWER_BYTES_MAX, Answer, Client, PostFault};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;

use crate::client::{LONG, post, server_config, settle, trusting};
use crate::early::{body, send};

/// How long a body is held at most that a receiver does not take though it has answered,
/// and some more: 2 s until it is late, 2 s of rest behind the last exchange, 5 s to a look.
const LET_GO: Duration = Duration::from_secs(15);

/// A receiver whose paths behave in their own ways.
struct Http2 {
    address: SocketAddr,
    accepted: Arc<AtomicUsize>,
    requests: Arc<Mutex<Vec<Request<Bytes>>>>,
}

impl Http2 {
    async fn start() -> Http2 {
        Http2::with_streams(200).await
    }

    /// One that allows so many exchanges at a time over one connection.
    async fn with_streams(most: u32) -> Http2 {
        let mut serving = Builder::new(TokioExecutor::new());
        serving.max_concurrent_streams(most);
        Http2::serving(serving).await
    }

    /// One that takes so many bytes of each exchange unread, and far more of all.
    async fn with_window(bytes: u32) -> Http2 {
        let mut serving = Builder::new(TokioExecutor::new());
        serving.initial_stream_window_size(bytes).initial_connection_window_size(64 * 1024 * 1024_u32);
        Http2::serving(serving).await
    }

    async fn serving(serving: Builder<TokioExecutor>) -> Http2 {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let mut config = server_config(rustls::DEFAULT_VERSIONS);
        config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        let receiver = Http2 { address, accepted: Arc::default(), requests: Arc::default() };
        let (accepted, requests) = (receiver.accepted.clone(), receiver.requests.clone());
        let acceptor = TlsAcceptor::from(Arc::new(config));
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                accepted.fetch_add(1, Ordering::SeqCst);
                let (acceptor, requests) = (acceptor.clone(), requests.clone());
                let serving = serving.clone();
                tokio::spawn(async move {
                    let stream = TokioIo::new(acceptor.accept(stream).await.unwrap());
                    let service = service_fn(move |request| answer(request, requests.clone()));
                    let _ = serving.serve_connection(stream, service).await;
                });
            }
        });
        receiver
    }

    fn url(&self, path: &str) -> String {
        format!("https://localhost:{}/{path}", self.address.port())
    }

    fn accepted(&self) -> usize {
        self.accepted.load(Ordering::SeqCst)
    }
}

async fn answer(
    request: Request<Incoming>,
    requests: Arc<Mutex<Vec<Request<Bytes>>>>,
) -> Result<Response<Full<Bytes>>, Infallible> {
    let path = request.uri().path().to_owned();
    let mut response = Response::new(Full::new(Bytes::from_static(b"ok")));
    if let Some(then) = path.strip_prefix("/early-") {
        *response.status_mut() = match then {
            "refuse" => StatusCode::PAYLOAD_TOO_LARGE,
            "fail-read" | "fail-hold" => StatusCode::INTERNAL_SERVER_ERROR,
            _ => StatusCode::ACCEPTED,
        };
        match then {
            "read" | "fail-read" => drop(tokio::spawn(async move {
                settle().await;
                let whole = read(request).await;
                requests.lock().unwrap().push(whole);
            })),
            "hold" | "fail-hold" => drop(tokio::spawn(async move {
                pending::<()>().await;
                drop(request);
            })),
            // Nobody reads it: the exchange is reset behind the answer.
            _ => drop(request),
        }
        return Ok(response);
    }
    let whole = read(request).await;
    requests.lock().unwrap().push(whole);
    match path.as_str() {
        "/never" => pending().await,
        "/huge" => *response.body_mut() = Full::new(Bytes::from(vec![b'y'; 10_000_000])),
        "/head" => {
            let value = "x".repeat(200_000).parse().unwrap();
            response.headers_mut().insert("x-filler", value);
        }
        "/moved" => *response.status_mut() = StatusCode::FOUND,
        _ => {}
    }
    Ok(response)
}

async fn read(request: Request<Incoming>) -> Request<Bytes> {
    let (head, body) = request.into_parts();
    Request::from_parts(head, body.collect().await.unwrap().to_bytes())
}

#[tokio::test]
async fn exchanges_with_a_receiver_of_http2_share_one_connection() {
    let (receiver, client) = (Http2::start().await, trusting());
    let url = receiver.url("hook");
    post(&client, &url, LONG).await.unwrap();
    let posts: Vec<_> = (0..50)
        .map(|_| {
            let (client, url) = (client.clone(), url.clone());
            tokio::spawn(async move { post(&client, &url, LONG).await })
        })
        .collect();
    for posted in posts {
        let answer = posted.await.unwrap().unwrap();
        assert_eq!((answer.status, answer.body.as_ref()), (StatusCode::OK, b"ok".as_slice()));
    }
    assert_eq!((receiver.accepted(), client.open_connections()), (1, 1));
    let requests = receiver.requests.lock().unwrap();
    assert_eq!(requests.len(), 51);
    for request in &*requests {
        assert_eq!((request.version(), request.body().as_ref()), (Version::HTTP_2, b"{}".as_slice()));
        assert_eq!(request.headers()["content-type"], "application/json");
    }
}

#[tokio::test]
async fn exchanges_beyond_what_a_connection_of_http2_takes_get_another() {
    for (most, at_once) in [(4, 4), (200, 64)] {
        let (receiver, client) = (Http2::with_streams(most).await, trusting());
        // The receiver says how many it allows.
        for _ in 0..2 {
            post(&client, &receiver.url("hook"), LONG).await.unwrap();
            settle().await;
        }
        let waiting: Vec<_> = (0..at_once)
            .map(|_| {
                let (client, url) = (client.clone(), receiver.url("never"));
                tokio::spawn(async move { post(&client, &url, LONG).await })
            })
            .collect();
        while receiver.requests.lock().unwrap().len() < 2 + at_once {
            settle().await;
        }
        assert_eq!(receiver.accepted(), 1);
        for _ in 0..3 {
            let answer = post(&client, &receiver.url("hook"), Duration::from_secs(5)).await.unwrap();
            assert_eq!(answer.status, StatusCode::OK);
        }
        assert_eq!(receiver.accepted(), 2);
        waiting.iter().for_each(tokio::task::JoinHandle::abort);
        settle().await;
        post(&client, &receiver.url("hook"), LONG).await.unwrap();
        assert_eq!(receiver.accepted(), 2);
    }
}

#[tokio::test]
async fn an_exchange_of_http2_that_never_ends_meets_its_deadline_and_harms_no_other() {
    let (receiver, client) = (Http2::start().await, trusting());
    let began = Instant::now();
    for _ in 0..3 {
        let fault = post(&client, &receiver.url("never"), Duration::from_millis(200)).await.unwrap_err();
        assert!(matches!(fault, PostFault::Timeout { .. }), "{fault}");
        assert_eq!(post(&client, &receiver.url("hook"), LONG).await.unwrap().status, StatusCode::OK);
    }
    assert!(began.elapsed() < Duration::from_secs(10), "{:?}", began.elapsed());
    assert_eq!(receiver.accepted(), 1);
}

#[tokio::test]
async fn an_answer_by_http2_is_cut_and_not_followed() {
    let (receiver, client) = (Http2::start().await, trusting());
    for _ in 0..3 {
        let answer = post(&client, &receiver.url("huge"), LONG).await.unwrap();
        assert_eq!((answer.status, answer.body.len()), (StatusCode::OK, ANSWER_BYTES_MAX));
        assert_eq!(post(&client, &receiver.url("moved"), LONG).await.unwrap().status, StatusCode::FOUND);
    }
    let fault = post(&client, &receiver.url("head"), LONG).await.unwrap_err();
    assert!(matches!(fault, PostFault::Exchange(_)), "{fault}");
    assert_eq!(post(&client, &receiver.url("hook"), LONG).await.unwrap().status, StatusCode::OK);
}

#[tokio::test]
async fn a_success_by_http2_is_one_only_with_the_whole_request() {
    let (receiver, client, body) = (Http2::start().await, trusting(), body());
    let fault = send(&client, &receiver.url("early-drop"), &body, LONG).await.unwrap_err();
    assert!(matches!(fault, PostFault::Cut), "{fault}");
    let answer = send(&client, &receiver.url("early-read"), &body, LONG).await.unwrap();
    assert_eq!((answer.status, answer.body.as_ref()), (StatusCode::ACCEPTED, b"ok".as_slice()));
    while receiver.requests.lock().unwrap().is_empty() {
        settle().await;
    }
    assert!(receiver.requests.lock().unwrap()[0].body() == &body);
    // A refusal needs no whole request.
    let answer = send(&client, &receiver.url("early-refuse"), &body, LONG).await.unwrap();
    assert_eq!(answer.status, StatusCode::PAYLOAD_TOO_LARGE);
    assert_eq!(post(&client, &receiver.url("hook"), LONG).await.unwrap().status, StatusCode::OK);
    assert_eq!(receiver.accepted(), 1, "what was cut harmed no other");
    let timeout = Duration::from_millis(500);
    let fault = send(&client, &receiver.url("early-hold"), &body, timeout).await.unwrap_err();
    assert!(matches!(fault, PostFault::Timeout { .. }), "{fault}");
}

/// The memory of a body, and what is told once it is released.
struct Memory {
    bytes: Vec<u8>,
    _held: Arc<()>,
}

impl AsRef<[u8]> for Memory {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

/// Sends a body of 300 kB, and says whether its memory is held: more than once.
async fn send_held(client: &Client, url: &str, timeout: Duration) -> (Result<Answer, PostFault>, Arc<()>) {
    let held = Arc::new(());
    let body = Bytes::from_owner(Memory { bytes: vec![b'7'; 300_000], _held: held.clone() });
    (send(client, url, &body, timeout).await, held)
}

fn is_held(held: &Arc<()>) -> bool {
    Arc::strong_count(held) > 1
}

async fn holds_with_window(window: u32, path: &str) {
    let (receiver, client) = (Http2::with_window(window).await, trusting());
    let (hook, nothing) = (receiver.url("hook"), Bytes::new());
    // Its window is known once it has answered.
    send(&client, &hook, &nothing, LONG).await.unwrap();
    settle().await;
    let (answered, held) = send_held(&client, &receiver.url(path), Duration::from_secs(2)).await;
    match answered {
        Ok(answer) => assert_eq!(answer.status, StatusCode::INTERNAL_SERVER_ERROR, "{window} {path}"),
        Err(fault) => assert!(matches!(fault, PostFault::Timeout { .. }), "{window} {path}: {fault}"),
    }
    assert!(is_held(&held), "{window} {path}: nobody takes it");
    let began = Instant::now();
    while is_held(&held) {
        assert!(began.elapsed() < LET_GO, "{window} {path}");
        settle().await;
    }
    settle().await;
    assert_eq!((receiver.accepted(), client.open_connections()), (1, 0), "{window} {path}");
    assert_eq!(send(&client, &hook, &nothing, LONG).await.unwrap().status, StatusCode::OK);
    assert_eq!(receiver.accepted(), 2, "{window} {path}");
}

#[tokio::test]
async fn a_body_that_a_receiver_of_http2_answers_and_never_takes_is_let_go() {
    tokio::join!(
        holds_with_window(0, "early-hold"),
        holds_with_window(0, "early-fail-hold"),
        holds_with_window(65_535, "early-hold"),
        holds_with_window(65_535, "early-fail-hold"),
    );
}

#[tokio::test]
async fn a_body_that_is_never_taken_is_let_go_while_other_exchanges_go_on() {
    let (receiver, client) = (Http2::with_window(65_535).await, trusting());
    let (answered, held) = send_held(&client, &receiver.url("early-fail-hold"), LONG).await;
    assert_eq!(answered.unwrap().status, StatusCode::INTERNAL_SERVER_ERROR);
    let began = Instant::now();
    while is_held(&held) {
        assert!(began.elapsed() < LET_GO);
        assert_eq!(post(&client, &receiver.url("hook"), LONG).await.unwrap().status, StatusCode::OK);
        settle().await;
    }
    post(&client, &receiver.url("hook"), LONG).await.unwrap();
    assert_eq!(receiver.accepted(), 2);
}

#[tokio::test]
async fn a_receiver_of_http2_that_answers_early_and_reads_later_keeps_its_connection() {
    let (receiver, client) = (Http2::with_window(65_535).await, trusting());
    let (answered, held) = send_held(&client, &receiver.url("early-fail-read"), LONG).await;
    assert_eq!(answered.unwrap().status, StatusCode::INTERNAL_SERVER_ERROR);
    while receiver.requests.lock().unwrap().is_empty() {
        settle().await;
    }
    assert_eq!(receiver.requests.lock().unwrap()[0].body().len(), 300_000);
    settle().await;
    assert!(!is_held(&held));
    // A look, and one more.
    tokio::time::sleep(Duration::from_secs(11)).await;
    assert_eq!(post(&client, &receiver.url("hook"), LONG).await.unwrap().status, StatusCode::OK);
    assert_eq!((receiver.accepted(), client.open_connections()), (1, 1));
}

/// Answers one request a connection, and says how each of them shook hands.
async fn closing(config: rustls::ServerConfig) -> (SocketAddr, Arc<Mutex<Vec<HandshakeKind>>>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let acceptor = TlsAcceptor::from(Arc::new(config));
    let kinds: Arc<Mutex<Vec<HandshakeKind>>> = Arc::default();
    let seen = kinds.clone();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let mut stream = acceptor.accept(stream).await.unwrap();
            let mut head = [0; 4096];
            assert!(stream.read(&mut head).await.unwrap() > 0);
            seen.lock().unwrap().push(stream.get_ref().1.handshake_kind().unwrap());
            let answer = b"HTTP/1.1 204 No Content\r\nconnection: close\r\n\r\n";
            stream.write_all(answer).await.unwrap();
            let _ = stream.shutdown().await;
        }
    });
    (address, kinds)
}

#[tokio::test]
async fn a_full_handshake_is_paid_once() {
    for version in [&rustls::version::TLS13, &rustls::version::TLS12] {
        let (address, kinds) = closing(server_config(&[version])).await;
        let client = trusting();
        for _ in 0..5 {
            post(&client, &format!("https://localhost:{}/", address.port()), LONG).await.unwrap();
            settle().await;
        }
        let kinds = kinds.lock().unwrap();
        let full = kinds.iter().filter(|kind| **kind != HandshakeKind::Resumed).count();
        assert_eq!((kinds.len(), full), (5, 1), "{version:?} {kinds:?}");
    }
}
