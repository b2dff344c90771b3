//! Posts to receivers of every manner.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use hyper::{HeaderMap, StatusCode};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{RootCertStore, ServerConfig, SupportedProtocolVersion};
use systole_dispatch::client::{ANSWER_BYTES_MAX, Answer, CONNECTIONS_MAX, Client, PostFault};
use systole_dispatch::target::Targets;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;
use tokio::runtime::Builder;
use tokio::sync::Notify;
use tokio_rustls::TlsAcceptor;

use crate::receiver::{Manner, Receiver};
use crate::world::comes_within;

pub(crate) const LONG: Duration = Duration::from_secs(20);
const NO_CONTENT: &str = "HTTP/1.1 204 No Content\r\n\r\n";

pub(crate) fn ourselves() -> Arc<Targets> {
    Arc::new(Targets::parse(&["127.0.0.0/8"]).unwrap())
}

pub(crate) fn client() -> Client {
    Client::new(ourselves(), CONNECTIONS_MAX)
}

fn answer(text: &str) -> Manner {
    Manner::Answer(text.as_bytes().to_vec())
}

/// Posts `{}`. The target was registered while our own addresses were open,
/// whatever the client thinks of them now.
pub(crate) async fn post(client: &Client, url: &str, timeout: Duration) -> Result<Answer, PostFault> {
    let target = ourselves().check_url(url).unwrap();
    client.post(&target, HeaderMap::new(), Bytes::from_static(b"{}"), timeout).await
}

/// A connection goes back to the pool a moment after its answer was read.
pub(crate) async fn settle() {
    tokio::time::sleep(Duration::from_millis(50)).await;
}

fn key(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/it/keys").join(name)
}

fn certificate() -> CertificateDer<'static> {
    CertificateDer::from_pem_file(key("tls.cert.pem")).unwrap()
}

pub(crate) fn acceptor() -> TlsAcceptor {
    TlsAcceptor::from(Arc::new(server_config(rustls::DEFAULT_VERSIONS)))
}

pub(crate) fn server_config(versions: &[&'static SupportedProtocolVersion]) -> ServerConfig {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = ServerConfig::builder_with_provider(provider).with_protocol_versions(versions).unwrap();
    let private = PrivateKeyDer::from_pem_file(key("tls.key.pem")).unwrap();
    config.with_no_client_auth().with_single_cert(vec![certificate()], private).unwrap()
}

pub(crate) fn trusting() -> Client {
    let mut roots = RootCertStore::empty();
    roots.add(certificate()).unwrap();
    Client::with_roots(ourselves(), CONNECTIONS_MAX, roots)
}

#[tokio::test]
async fn posts_share_one_connection() {
    let receiver = Receiver::start(answer("HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok")).await;
    let client = client();
    for _ in 0..5 {
        let answer = post(&client, &receiver.url(), LONG).await.unwrap();
        assert_eq!((answer.status, answer.body.as_ref()), (StatusCode::OK, b"ok".as_slice()));
        settle().await;
    }
    assert_eq!(receiver.requests().len(), 5);
    assert_eq!(receiver.accepted(), 1);
}

#[tokio::test]
async fn a_request_is_json_from_us_and_framed_by_us_alone() {
    let receiver = Receiver::start(answer(NO_CONTENT)).await;
    let target = ourselves().check_url(&format!("http://{}/a%20b?c=d", receiver.address)).unwrap();
    let mut headers = HeaderMap::new();
    for (name, value) in [
        ("x-own", "1"),
        ("content-length", "999"),
        ("transfer-encoding", "chunked"),
        ("host", "other"),
        ("expect", "100-continue"),
    ] {
        headers.insert(name, value.parse().unwrap());
    }
    client().post(&target, headers, Bytes::from_static(b"{\"a\":1}"), LONG).await.unwrap();
    let requests = receiver.requests();
    let mut lines: Vec<&str> = requests[0].split("\r\n").collect();
    assert_eq!(lines.remove(0), "POST /a%20b?c=d HTTP/1.1");
    assert_eq!(lines.pop(), Some("{\"a\":1}"));
    lines.sort_unstable();
    let host = format!("host: {}", receiver.address);
    let agent = format!("user-agent: systole/{}", env!("CARGO_PKG_VERSION"));
    assert_eq!(lines, ["", "content-length: 7", "content-type: application/json", &host, &agent, "x-own: 1"]);
}

#[tokio::test]
async fn headers_that_are_brought_go_before_ours() {
    let receiver = Receiver::start(answer(NO_CONTENT)).await;
    let target = ourselves().check_url(&receiver.url()).unwrap();
    let mut headers = HeaderMap::new();
    headers.insert("user-agent", "mine".parse().unwrap());
    headers.insert("content-type", "application/cloudevents+json".parse().unwrap());
    client().post(&target, headers, Bytes::from_static(b"{}"), LONG).await.unwrap();
    let request = &receiver.requests()[0];
    assert!(request.contains("user-agent: mine\r\n") && request.contains("cloudevents"), "{request}");
    assert!(!request.contains("systole/"), "{request}");
}

#[tokio::test]
async fn a_megabyte_arrives_whole() {
    let receiver = Receiver::start(answer(NO_CONTENT)).await;
    let target = ourselves().check_url(&receiver.url()).unwrap();
    let body = Bytes::from("0123456789abcdef".repeat(64 * 1024));
    client().post(&target, HeaderMap::new(), body.clone(), LONG).await.unwrap();
    assert!(receiver.requests()[0].as_bytes().ends_with(&body));
}

#[tokio::test]
async fn an_answer_that_drips_meets_the_deadline_and_loses_its_connection() {
    let head = b"HTTP/1.1 200 OK\r\ncontent-length: 100000\r\n\r\n".to_vec();
    for begun in [head, b"HTTP/1.1 2".to_vec()] {
        let receiver = Receiver::start(Manner::Drip(begun, Duration::from_millis(20))).await;
        let began = Instant::now();
        let fault = post(&client(), &receiver.url(), Duration::from_millis(200)).await.unwrap_err();
        assert!(matches!(fault, PostFault::Timeout { .. }), "{fault}");
        assert_eq!(fault.to_string(), "no whole answer within 200ms");
        assert!(began.elapsed() < Duration::from_secs(5), "{:?}", began.elapsed());
        assert!(receiver.closes_one_within(Duration::from_secs(5)).await);
    }
}

#[tokio::test]
async fn a_silent_receiver_meets_the_deadline_and_the_next_post_is_not_in_its_way() {
    let receiver = Receiver::start(Manner::Silence).await;
    let client = client();
    for posts in 1..=2 {
        let fault = post(&client, &receiver.url(), Duration::from_millis(100)).await.unwrap_err();
        assert!(matches!(fault, PostFault::Timeout { .. }), "{fault}");
        assert_eq!(receiver.accepted(), posts);
    }
}

#[tokio::test]
async fn a_huge_answer_is_cut_and_harms_nothing() {
    let answers = [
        format!("HTTP/1.1 200 OK\r\ncontent-length: 1000000000\r\n\r\n{}", "y".repeat(100_000)),
        format!("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n186a0\r\n{}\r\n", "y".repeat(100_000)),
        format!("HTTP/1.1 200 OK\r\nconnection: close\r\n\r\n{}", "y".repeat(100_000)),
    ];
    for huge in answers {
        let receiver = Receiver::start(Manner::Flood(huge.into())).await;
        let client = client();
        for _ in 0..2 {
            let answer = post(&client, &receiver.url(), LONG).await.unwrap();
            assert_eq!(answer.status, StatusCode::OK);
            assert_eq!(answer.body.len(), ANSWER_BYTES_MAX);
            assert!(answer.body.iter().all(|byte| *byte == b'y'));
        }
        assert!(receiver.closes_one_within(Duration::from_secs(5)).await);
        assert_eq!(receiver.accepted(), 2);
    }
}

#[tokio::test]
async fn a_head_that_is_too_long_is_a_failed_exchange() {
    for (bytes, expected) in [(30_000, true), (200_000, false)] {
        let head = format!("HTTP/1.1 204 No Content\r\nx-filler: {}\r\n\r\n", "x".repeat(bytes));
        let receiver = Receiver::start(answer(&head)).await;
        match post(&client(), &receiver.url(), LONG).await {
            Ok(answer) => assert!(expected, "{}", answer.status),
            Err(fault) => assert!(!expected && matches!(fault, PostFault::Exchange(_)), "{fault}"),
        }
    }
}

#[tokio::test]
async fn a_redirect_is_an_answer_and_is_not_followed() {
    let elsewhere = Receiver::start(answer(NO_CONTENT)).await;
    let head = format!("HTTP/1.1 302 Found\r\nlocation: {}\r\ncontent-length: 0\r\n\r\n", elsewhere.url());
    let receiver = Receiver::start(answer(&head)).await;
    let answer = post(&client(), &receiver.url(), LONG).await.unwrap();
    assert_eq!(answer.status, StatusCode::FOUND);
    assert_eq!(answer.headers["location"], elsewhere.url());
    settle().await;
    assert_eq!(elsewhere.accepted(), 0);
}

#[tokio::test]
async fn a_busy_receiver_says_when_to_come_back() {
    let head = "HTTP/1.1 429 Too Many Requests\r\nretry-after: 7\r\ncontent-length: 4\r\n\r\nbusy";
    let receiver = Receiver::start(answer(head)).await;
    let answer = post(&client(), &receiver.url(), LONG).await.unwrap();
    assert_eq!(answer.status, StatusCode::TOO_MANY_REQUESTS);
    assert_eq!(answer.retry_after, Some(Duration::from_secs(7)));
    assert_eq!(answer.body, "busy");
}

#[tokio::test]
async fn what_is_no_whole_answer_is_a_failed_exchange() {
    let cases = [
        Manner::Reset,
        Manner::AnswerAndClose(Vec::new()),
        Manner::AnswerAndClose(b"HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\nhalf".to_vec()),
        answer("SSH-2.0-OpenSSH_9.7\r\n\r\n"),
    ];
    for manner in cases {
        let receiver = Receiver::start(manner).await;
        let fault = post(&client(), &receiver.url(), LONG).await.unwrap_err();
        assert!(matches!(fault, PostFault::Exchange(_)), "{fault}");
        let text = fault.to_string();
        assert!(text.len() > "no whole answer: ".len() && !text.contains("client error"), "{text}");
    }
}

#[tokio::test]
async fn a_connection_that_was_closed_while_idle_costs_nothing() {
    let head = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok".to_vec();
    let receiver = Receiver::start(Manner::AnswerAndClose(head)).await;
    let client = client();
    for posts in 1..=3 {
        let answer = post(&client, &receiver.url(), LONG).await.unwrap();
        assert_eq!(answer.status, StatusCode::OK);
        assert_eq!(receiver.accepted(), posts);
        settle().await;
    }
}

#[tokio::test]
async fn where_nobody_listens_there_is_no_connection() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}/", listener.local_addr().unwrap());
    drop(listener);
    let fault = post(&client(), &url, LONG).await.unwrap_err();
    assert!(matches!(fault, PostFault::Connect(_)), "{fault}");
    assert!(fault.to_string().contains("refused"), "{fault}");
}

#[tokio::test]
async fn an_unknown_name_is_no_connection() {
    let fault = post(&client(), "http://nobody.invalid/", LONG).await.unwrap_err();
    assert!(matches!(fault, PostFault::Connect(_)), "{fault}");
}

#[tokio::test]
async fn what_is_not_open_is_not_dialled() {
    let receiver = Receiver::start(answer(NO_CONTENT)).await;
    let strict = Client::new(Arc::new(Targets::default()), 1);
    let port = receiver.address.port();
    for scheme in ["http", "https"] {
        for host in ["localhost", "127.0.0.1", "[::ffff:127.0.0.1]", "a.localhost"] {
            let fault = post(&strict, &format!("{scheme}://{host}:{port}/"), LONG).await.unwrap_err();
            assert!(matches!(fault, PostFault::Refused(_)), "{host}: {fault}");
            assert!(fault.to_string().contains("dispatch.allow_targets"), "{fault}");
        }
    }
    assert_eq!(receiver.accepted(), 0);
}

#[tokio::test]
async fn a_name_of_this_machine_is_called_where_it_is_open() {
    let receiver = Receiver::start(answer(NO_CONTENT)).await;
    let url = format!("http://localhost:{}/", receiver.address.port());
    assert_eq!(post(&client(), &url, LONG).await.unwrap().status, StatusCode::NO_CONTENT);
}

#[tokio::test]
async fn a_receiver_speaks_tls_under_its_name() {
    let receiver = Receiver::start_tls(answer(NO_CONTENT), acceptor()).await;
    let client = trusting();
    let url = format!("https://localhost:{}/", receiver.address.port());
    for _ in 0..3 {
        assert_eq!(post(&client, &url, LONG).await.unwrap().status, StatusCode::NO_CONTENT);
        settle().await;
    }
    assert_eq!(receiver.accepted(), 1);
}

#[tokio::test]
async fn connections_are_counted_while_they_are_open() {
    let client = client();
    assert_eq!(client.open_connections(), 0);
    let (kept, closed) =
        (Receiver::start(answer(NO_CONTENT)).await, b"HTTP/1.1 204 No Content\r\n\r\n".to_vec());
    let closing = Receiver::start(Manner::AnswerAndClose(closed)).await;
    for _ in 0..3 {
        post(&client, &kept.url(), LONG).await.unwrap();
        post(&client, &closing.url(), LONG).await.unwrap();
        settle().await;
    }
    assert_eq!(client.open_connections(), 1);
    let silent = Receiver::start(Manner::Silence).await;
    let url = silent.url();
    let waiting = post(&client, &url, Duration::from_millis(300));
    let (fault, open) = tokio::join!(waiting, async {
        settle().await;
        client.open_connections()
    });
    assert!(fault.is_err());
    assert_eq!(open, 2);
    settle().await;
    assert_eq!(client.open_connections(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_receiver_has_no_more_connections_than_exchanges_at_a_time() {
    const AT_ONCE: usize = 16;
    let receiver = Receiver::start(answer("HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok")).await;
    let (client, url) = (client(), receiver.url());
    let workers: Vec<_> = (0..AT_ONCE)
        .map(|_| {
            let (client, url) = (client.clone(), url.clone());
            tokio::spawn(async move {
                for _ in 0..200 {
                    post(&client, &url, LONG).await.unwrap();
                }
            })
        })
        .collect();
    for worker in workers {
        worker.await.unwrap();
    }
    assert_eq!(receiver.requests().len(), AT_ONCE * 200);
    // Where the machine stalls a connection may come back late.
    assert!(receiver.accepted() <= AT_ONCE + 4, "{} connections", receiver.accepted());
}

#[tokio::test]
async fn a_connection_too_many_takes_the_place_of_the_longest_idle() {
    let client = Client::new(ourselves(), 2);
    let receivers = [
        Receiver::start(answer(NO_CONTENT)).await,
        Receiver::start(answer(NO_CONTENT)).await,
        Receiver::start(answer(NO_CONTENT)).await,
    ];
    for number in [0, 1, 0, 2, 0, 1] {
        post(&client, &receivers[number].url(), LONG).await.unwrap();
        settle().await;
        assert!(client.open_connections() <= 2);
    }
    assert_eq!(receivers.each_ref().map(Receiver::accepted), [1, 2, 1]);
}

#[tokio::test]
async fn who_finds_no_room_for_a_connection_waits_and_says_nothing_of_the_receiver() {
    let (silent, willing) =
        (Receiver::start(Manner::Silence).await, Receiver::start(answer(NO_CONTENT)).await);
    let client = Client::new(ourselves(), 1);
    let (silent, url) = (silent.url(), willing.url());
    let holding = post(&client, &silent, Duration::from_secs(1));
    let waiting = async {
        settle().await;
        let fault = post(&client, &url, Duration::from_millis(100)).await.unwrap_err();
        assert!(matches!(fault, PostFault::NoRoom), "{fault}");
        // Each of them gets the one that there is.
        tokio::join!(post(&client, &url, LONG), post(&client, &url, LONG))
    };
    let (fault, (first, second)) = tokio::join!(holding, waiting);
    assert!(matches!(fault.unwrap_err(), PostFault::Timeout { .. }));
    assert!(first.is_ok() && second.is_ok());
    assert_eq!((willing.accepted(), client.open_connections()), (1, 1));
}

#[tokio::test]
async fn a_connection_that_becomes_idle_makes_room_for_who_waits() {
    let pause = Manner::Ask(Arc::new(|_| {
        Box::pin(async {
            tokio::time::sleep(Duration::from_millis(300)).await;
            NO_CONTENT.as_bytes().to_vec()
        })
    }));
    let (slow, quick) = (Receiver::start(pause).await, Receiver::start(answer(NO_CONTENT)).await);
    let client = Client::new(ourselves(), 1);
    let (slow, url) = (slow.url(), quick.url());
    let waiting = async {
        settle().await;
        post(&client, &url, Duration::from_secs(5)).await
    };
    let (first, second) = tokio::join!(post(&client, &slow, LONG), waiting);
    assert!(first.is_ok() && second.is_ok());
    assert_eq!(client.open_connections(), 1);
}

/// More of them than a task may poll at a time.
#[test]
fn connections_that_were_closed_are_all_dropped_at_the_next_look() {
    const AT_ONCE: usize = 64;
    let runtime = || Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    let (ours, theirs, client) = (runtime(), runtime(), client());
    // Hosts of one machine.
    let receivers: Vec<Receiver> = (0..4)
        .map(|_| {
            theirs.block_on(Receiver::start(Manner::Ask(Arc::new(|_| {
                Box::pin(async {
                    tokio::time::sleep(Duration::from_millis(500)).await;
                    NO_CONTENT.as_bytes().to_vec()
                })
            }))))
        })
        .collect();
    let posts: Vec<_> = (0..AT_ONCE * receivers.len())
        .map(|number| {
            let (client, url) = (client.clone(), receivers[number % receivers.len()].url());
            ours.spawn(async move { post(&client, &url, LONG).await })
        })
        .collect();
    for posted in posts {
        ours.block_on(posted).unwrap().unwrap();
    }
    assert!(client.open_connections() > 200, "{}", client.open_connections());
    drop(receivers);
    drop(theirs);
    assert!(comes_within(Duration::from_secs(12), || client.open_connections() == 0));
}

#[tokio::test]
async fn a_dial_ends_once_its_exchange_has_another_connection() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("https://localhost:{}/", listener.local_addr().unwrap().port());
    let dialled = Arc::new(Notify::new());
    let told = dialled.clone();
    let serving = tokio::spawn(async move {
        // The first one is served once another one was dialled, which never shakes hands.
        let (first, _) = listener.accept().await.unwrap();
        let mut first = acceptor().accept(first).await.unwrap();
        let mut request = [0; 4096];
        while first.read(&mut request).await.is_ok_and(|read| read > 0) {
            told.notified().await;
            first.write_all(NO_CONTENT.as_bytes()).await.unwrap();
        }
    });
    let client = trusting();
    let both = async {
        let second = async {
            while client.open_connections() < 1 {
                settle().await;
            }
            let posting = post(&client, &url, LONG);
            let counting = async {
                while client.open_connections() < 2 {
                    settle().await;
                }
                dialled.notify_one();
                settle().await;
                dialled.notify_one();
            };
            tokio::join!(posting, counting).0
        };
        tokio::join!(post(&client, &url, LONG), second)
    };
    let (first, second) = both.await;
    assert_eq!(
        (first.unwrap().status, second.unwrap().status),
        (StatusCode::NO_CONTENT, StatusCode::NO_CONTENT)
    );
    settle().await;
    assert_eq!(client.open_connections(), 1, "nobody waits for a handshake any more");
    drop(client);
    serving.await.unwrap();
}

#[tokio::test]
async fn a_certificate_that_does_not_hold_is_no_tls() {
    let receiver = Receiver::start_tls(answer(NO_CONTENT), acceptor()).await;
    let port = receiver.address.port();
    let cases = [
        (client(), format!("https://localhost:{port}/"), "UnknownIssuer"),
        (trusting(), format!("https://other.localhost:{port}/"), "not valid for name"),
    ];
    for (client, url, expected) in cases {
        let fault = post(&client, &url, LONG).await.unwrap_err();
        assert!(matches!(fault, PostFault::Tls(_)), "{fault}");
        assert!(fault.to_string().contains(expected), "{fault}");
    }
    assert!(receiver.requests().is_empty());
}

#[tokio::test]
async fn a_receiver_without_tls_is_no_tls() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("https://{}/", listener.local_addr().unwrap());
    let serving = async {
        let (mut stream, _) = listener.accept().await.unwrap();
        stream.write_all(b"HTTP/1.1 400 Bad Request\r\n\r\n").await.unwrap();
        stream
    };
    let client = client();
    let (fault, _stream) = tokio::join!(post(&client, &url, LONG), serving);
    let fault = fault.unwrap_err();
    assert!(matches!(fault, PostFault::Tls(_)), "{fault}");
}
