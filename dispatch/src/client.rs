//! The pooled connections.
//!
//! HTTP/1.1 with keep-alive, by TLS (rustls, Mozilla's roots) or in the clear where
//! [`Targets`] says so. One exchange:
//!
//! ```text
//! |<----------------------- one deadline -------------------------->|
//!  idle connection? else look up -> check -> dial -> TLS handshake
//!                                 write -> head -> body, 16 KiB at most
//! ```
//!
//! What is dialled is what was checked: the resolver hands on only addresses it asked
//! [`Targets`] about, and refuses a name if any of its addresses is forbidden; literal
//! addresses are checked at each dial too. A redirect is an answer like any other.
//!
//! A connection that the receiver closed while it was idle costs nothing: if hyper
//! can tell that nothing was sent, the request goes out on another one. If bytes had
//! left, the receiver may have them, and it is a failed attempt.
//!
//! Not bounded here: the number of connections a receiver has at a time (a lane's
//! window bounds it), and lookups, of which each takes a blocking thread of the
//! runtime until the system's resolver gives up.

use std::error::Error;
use std::fmt;
use std::future::{Future, ready};
use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::{Duration, SystemTime};

use bytes::{Bytes, BytesMut};
use http_body_util::{BodyExt as _, Full};
use hyper::body::Incoming;
use hyper::header::{self, HeaderName, HeaderValue};
use hyper::http::uri::Scheme;
use hyper::{HeaderMap, Method, Request, Response, StatusCode, Uri};
use hyper_rustls::{ConfigBuilderExt as _, HttpsConnector, HttpsConnectorBuilder};
use hyper_util::client::legacy;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::client::legacy::connect::dns::Name;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use rustls::{ClientConfig, ConfigBuilder, RootCertStore, WantsVerifier};
use tokio::net::TcpStream;
use tower_service::Service;

use crate::target::{Target, TargetFault, Targets, is_localhost};

/// Most bytes of an answer's body that are read: what the delivery log keeps.
pub const ANSWER_BYTES_MAX: usize = 16 * 1024;
/// What one connection reads ahead: far more than any receiver's head has, and a
/// bound on what a hostile one makes us hold. hyper looks at it between two reads, so
/// a head of up to twice as many bytes may pass; a longer one is a failed exchange.
pub const READ_BUFFER_BYTES_MAX: usize = 64 * 1024;
/// How long a dial may take, over all addresses of a name: three lost packets. So a
/// host that swallows packets is told from one that thinks, and a dual-stack name
/// with one dead address is still reached before the shortest deadline, 10 s.
pub const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// Idle connections kept for one receiver, as many as a lane's window has at its
/// widest; what is more is closed after its answer.
pub const IDLE_PER_HOST_MAX: usize = 64;
/// How long a connection is kept without a request: as long as most receivers do, so
/// that mostly they do not close it under a request, and well below the minutes after
/// which load balancers forget it silently.
pub const IDLE_TIMEOUT: Duration = Duration::from_secs(60);

const JSON: HeaderValue = HeaderValue::from_static("application/json");
const USER_AGENT: HeaderValue = HeaderValue::from_static(concat!("systole/", env!("CARGO_PKG_VERSION")));

/// Headers that belong to the connection or to the framing, which are ours: brought
/// by an endpoint, they would let its requests be read as others than they are.
const OURS: [HeaderName; 9] = [
    header::CONNECTION,
    header::CONTENT_LENGTH,
    header::EXPECT,
    header::HOST,
    HeaderName::from_static("keep-alive"),
    header::TE,
    header::TRAILER,
    header::TRANSFER_ENCODING,
    header::UPGRADE,
];

/// Calls receivers over kept connections. Clones share the pool, which is dropped,
/// and its connections closed, with the last of them.
#[derive(Clone)]
pub struct Client {
    pool: legacy::Client<HttpsConnector<Dialer>, Full<Bytes>>,
}

impl Client {
    /// A client that calls what `targets` allow and trusts Mozilla's roots.
    #[must_use]
    pub fn new(targets: Arc<Targets>) -> Client {
        Client::with_config(targets, tls().with_webpki_roots().with_no_client_auth())
    }

    /// The same trusting these roots instead.
    #[must_use]
    pub fn with_roots(targets: Arc<Targets>, roots: RootCertStore) -> Client {
        Client::with_config(targets, tls().with_root_certificates(roots).with_no_client_auth())
    }

    fn with_config(targets: Arc<Targets>, config: ClientConfig) -> Client {
        let connector = HttpsConnectorBuilder::new()
            .with_tls_config(config)
            .https_or_http()
            .enable_http1()
            .wrap_connector(Dialer::new(targets));
        let pool = legacy::Client::builder(TokioExecutor::new())
            .pool_timer(TokioTimer::new())
            .pool_idle_timeout(IDLE_TIMEOUT)
            .pool_max_idle_per_host(IDLE_PER_HOST_MAX)
            .retry_canceled_requests(true)
            .http1_max_buf_size(READ_BUFFER_BYTES_MAX)
            .build(connector);
        Client { pool }
    }

    /// Sends a body and reads the answer, whatever its status. The timeout is over
    /// everything, from the lookup to the answer's last byte; once it is over, or the
    /// future is dropped, the connection is closed.
    ///
    /// The body is JSON and we are `systole/<version>` unless the headers say
    /// otherwise. Those that frame the request or lead the connection (`host`,
    /// `content-length`, `connection` and the like) are left out.
    ///
    /// # Errors
    /// [`PostFault`] if there is no whole answer.
    pub async fn post(
        &self,
        target: &Target,
        headers: HeaderMap,
        body: Bytes,
        timeout: Duration,
    ) -> Result<Answer, PostFault> {
        let exchange = self.exchange(request(target, headers, body));
        tokio::time::timeout(timeout, exchange).await.unwrap_or(Err(PostFault::Timeout { timeout }))
    }

    async fn exchange(&self, request: Request<Full<Bytes>>) -> Result<Answer, PostFault> {
        let response = self.pool.request(request).await.map_err(PostFault::of_request)?;
        let (head, body) = Response::into_parts(response);
        let retry_after = retry_after(&head.headers, SystemTime::now());
        let body = read_body(body).await.map_err(PostFault::of_body)?;
        Ok(Answer { status: head.status, retry_after, headers: head.headers, body })
    }
}

impl fmt::Debug for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Client").finish_non_exhaustive()
    }
}

/// What a receiver said.
#[derive(Clone, Debug)]
pub struct Answer {
    /// Whether it took the event.
    pub status: StatusCode,
    /// How long it wants to be left alone, if it says so.
    pub retry_after: Option<Duration>,
    /// All its headers.
    pub headers: HeaderMap,
    /// The first [`ANSWER_BYTES_MAX`] bytes of its body.
    pub body: Bytes,
}

/// Why there is no answer. Each prints its causes too, as it ends up in the delivery
/// log that subscribers read; none prints a header, a body or a url.
#[derive(Debug, thiserror::Error)]
pub enum PostFault {
    /// The deadline came first.
    #[error("no whole answer within {timeout:?}")]
    Timeout {
        /// How long was waited.
        timeout: Duration,
    },
    /// The address may not be called. Nothing was sent.
    #[error("not called: {0}")]
    Refused(TargetFault),
    /// There is no connection: the name is unknown, or nobody listens. Nothing was
    /// sent.
    #[error("no connection: {0}")]
    Connect(Cause),
    /// There is a connection but no TLS, mostly for the receiver's certificate.
    #[error("no TLS: {0}")]
    Tls(Cause),
    /// The connection broke or the answer is not HTTP. The receiver may have the
    /// event.
    #[error("no whole answer: {0}")]
    Exchange(Cause),
}

impl PostFault {
    fn of_request(fault: legacy::Error) -> PostFault {
        if let Some(refused) = find::<TargetFault>(&fault) {
            return PostFault::Refused(refused.clone());
        }
        let is_tls = find::<rustls::Error>(&fault).is_some();
        let is_connect = fault.is_connect();
        let cause = Cause(Box::new(fault));
        match (is_tls, is_connect) {
            (true, _) => PostFault::Tls(cause),
            (false, true) => PostFault::Connect(cause),
            (false, false) => PostFault::Exchange(cause),
        }
    }

    fn of_body(fault: hyper::Error) -> PostFault {
        PostFault::Exchange(Cause(Box::new(fault)))
    }
}

/// What the layers below said, printed in one line.
#[derive(Debug)]
pub struct Cause(BoxError);

impl fmt::Display for Cause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // The pool's own level only says that there was an error.
        let inner = causes(self.0.as_ref()).filter(|fault| !fault.is::<legacy::Error>());
        let mut texts: Vec<String> = inner.map(ToString::to_string).collect();
        // An I/O error prints what it wraps as if it were itself.
        texts.dedup();
        f.write_str(&texts.join(": "))
    }
}

type BoxError = Box<dyn Error + Send + Sync>;
type Dialing = Pin<Box<dyn Future<Output = Result<TokioIo<TcpStream>, BoxError>> + Send>>;
type LookingUp = Pin<Box<dyn Future<Output = Result<std::vec::IntoIter<SocketAddr>, BoxError>> + Send>>;

/// Dials what may be called. The connectors differ in what their resolvers let
/// through: a resolver is told a name, but not what it is looked up for.
#[derive(Clone)]
struct Dialer {
    targets: Arc<Targets>,
    https: HttpConnector<Resolver>,
    http: HttpConnector<Resolver>,
}

impl Dialer {
    fn new(targets: Arc<Targets>) -> Dialer {
        let connector = |https| {
            let mut connector =
                HttpConnector::new_with_resolver(Resolver { targets: targets.clone(), https });
            // The layer above it speaks TLS, so it sees `https` as well.
            connector.enforce_http(false);
            // A request is written in one go; there is nothing to wait for.
            connector.set_nodelay(true);
            connector.set_connect_timeout(Some(CONNECT_TIMEOUT));
            connector
        };
        Dialer { https: connector(true), http: connector(false), targets }
    }

    /// Literal addresses never reach the resolver.
    fn check_literal(&self, uri: &Uri, https: bool) -> Result<(), TargetFault> {
        let host = uri.host().unwrap_or_default();
        let bare = host.trim_start_matches('[').trim_end_matches(']');
        bare.parse().map_or(Ok(()), |address| self.targets.check_address(host, address, https))
    }
}

impl Service<Uri> for Dialer {
    type Response = TokioIo<TcpStream>;
    type Error = BoxError;
    type Future = Dialing;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, uri: Uri) -> Dialing {
        let https = uri.scheme() == Some(&Scheme::HTTPS);
        if let Err(fault) = self.check_literal(&uri, https) {
            return Box::pin(ready(Err(fault.into())));
        }
        let connector = if https { &mut self.https } else { &mut self.http };
        let connecting = connector.call(uri);
        Box::pin(async move { Ok(connecting.await?) })
    }
}

/// Looks names up, and says no to those that lead where they may not.
#[derive(Clone)]
struct Resolver {
    targets: Arc<Targets>,
    https: bool,
}

impl Service<Name> for Resolver {
    type Response = std::vec::IntoIter<SocketAddr>;
    type Error = BoxError;
    type Future = LookingUp;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, name: Name) -> LookingUp {
        let resolver = self.clone();
        Box::pin(async move {
            let addresses = look_up(name.as_str()).await?;
            resolver.check(name.as_str(), &addresses)?;
            Ok(addresses.into_iter())
        })
    }
}

impl Resolver {
    /// All or none: a name with one forbidden address is up to something.
    fn check(&self, name: &str, addresses: &[SocketAddr]) -> Result<(), TargetFault> {
        addresses.iter().try_for_each(|address| self.targets.check_address(name, address.ip(), self.https))
    }
}

/// The addresses of a name; the port is for the connector to set. Names of this
/// machine stand for the one address they were judged by at registration.
async fn look_up(name: &str) -> io::Result<Vec<SocketAddr>> {
    if is_localhost(name) {
        return Ok(vec![(IpAddr::from(Ipv4Addr::LOCALHOST), 0).into()]);
    }
    let addresses: Vec<SocketAddr> = tokio::net::lookup_host((name, 0)).await?.collect();
    if addresses.is_empty() { Err(io::ErrorKind::NotFound.into()) } else { Ok(addresses) }
}

/// ring by name: a second provider in the graph would make the default a panic.
fn tls() -> ConfigBuilder<ClientConfig, WantsVerifier> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = ClientConfig::builder_with_provider(provider);
    builder.with_safe_default_protocol_versions().expect("ring has what TLS 1.2 and 1.3 need")
}

fn request(target: &Target, mut headers: HeaderMap, body: Bytes) -> Request<Full<Bytes>> {
    for name in &OURS {
        headers.remove(name);
    }
    headers.entry(header::CONTENT_TYPE).or_insert(JSON);
    headers.entry(header::USER_AGENT).or_insert(USER_AGENT);
    let mut request = Request::new(Full::new(body));
    *request.method_mut() = Method::POST;
    *request.uri_mut() = target.uri().clone();
    *request.headers_mut() = headers;
    request
}

/// Reads to the end, so that the connection can be kept, or to the limit; then the
/// rest is dropped with the connection.
async fn read_body(mut body: Incoming) -> Result<Bytes, hyper::Error> {
    let mut read = BytesMut::new();
    while read.len() < ANSWER_BYTES_MAX
        && let Some(frame) = body.frame().await
    {
        if let Ok(data) = frame?.into_data() {
            let room = ANSWER_BYTES_MAX - read.len();
            read.extend_from_slice(&data[..data.len().min(room)]);
        }
    }
    Ok(read.freeze())
}

/// `Retry-After` in seconds or as a date; what is neither is no wish.
fn retry_after(headers: &HeaderMap, now: SystemTime) -> Option<Duration> {
    let text = headers.get(header::RETRY_AFTER)?.to_str().ok()?.trim();
    if let Ok(seconds) = text.parse() {
        return Some(Duration::from_secs(seconds));
    }
    let until = httpdate::parse_http_date(text).ok()?;
    Some(until.duration_since(now).unwrap_or_default())
}

fn find<'a, T: Error + 'static>(fault: &'a (dyn Error + 'static)) -> Option<&'a T> {
    causes(fault).find_map(|fault| fault.downcast_ref())
}

/// A fault and what caused it.
fn causes<'a>(fault: &'a (dyn Error + 'static)) -> impl Iterator<Item = &'a (dyn Error + 'static)> {
    std::iter::successors(Some(fault), |&fault: &&'a (dyn Error + 'static)| {
        match fault.downcast_ref::<io::Error>() {
            // An I/O error's source is that of the error it wraps, which would be missed.
            Some(io) => io.get_ref().map(|inner| inner as &(dyn Error + 'static)),
            None => fault.source(),
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn resolver(allow: &[&str], https: bool) -> Resolver {
        Resolver { targets: Arc::new(Targets::parse(allow).unwrap()), https }
    }

    fn addresses(texts: &[&str]) -> Vec<SocketAddr> {
        texts.iter().map(|text| (text.parse::<IpAddr>().unwrap(), 0).into()).collect()
    }

    #[test]
    fn a_name_with_one_forbidden_address_is_refused() {
        let cases: [(&[&str], bool, &[&str], bool); 7] = [
            (&[], true, &["1.1.1.1", "2606:4700::1"], true),
            (&[], true, &["1.1.1.1", "127.0.0.1"], false),
            (&[], true, &["::ffff:10.0.0.1"], false),
            (&["127.0.0.0/8"], true, &["1.1.1.1", "127.0.0.1"], true),
            (&["127.0.0.0/8"], false, &["127.0.0.1", "127.0.0.2"], true),
            (&["127.0.0.0/8"], false, &["127.0.0.1", "1.1.1.1"], false),
            (&["127.0.0.0/8"], false, &["127.0.0.1", "::1"], false),
        ];
        for (allow, https, texts, expected) in cases {
            let checked = resolver(allow, https).check("receiver.example", &addresses(texts));
            assert_eq!(checked.is_ok(), expected, "{texts:?} {checked:?}");
        }
    }

    #[test]
    fn literal_addresses_are_checked_at_each_dial() {
        let dialer = Dialer::new(Arc::new(Targets::parse(&["127.0.0.0/8"]).unwrap()));
        let cases = [
            ("http://127.0.0.1:1/", true),
            ("http://[::ffff:7f00:1]/", true),
            ("http://[::1]/", false),
            ("http://10.0.0.1/", false),
            ("http://8.8.8.8/", false),
            ("https://8.8.8.8/", true),
            ("https://169.254.169.254/", false),
            ("https://receiver.example/", true),
        ];
        for (uri, expected) in cases {
            let uri = Uri::from_static(uri);
            let https = uri.scheme() == Some(&Scheme::HTTPS);
            assert_eq!(dialer.check_literal(&uri, https).is_ok(), expected, "{uri}");
        }
    }

    /// `0x7f.1` is a name to us and 127.0.0.1 to the system's resolver.
    #[tokio::test]
    async fn what_the_resolver_says_is_judged_at_each_dial() {
        for uri in ["https://0x7f.1:1/", "http://0x7f.1:1/"] {
            let fault = Dialer::new(Arc::default()).call(Uri::from_static(uri)).await.unwrap_err();
            let refused = find::<TargetFault>(fault.as_ref());
            assert!(matches!(refused, Some(TargetFault::Forbidden { .. })), "{fault:?}");
        }
    }

    #[tokio::test]
    async fn names_of_this_machine_are_what_they_were_judged_by() {
        for name in ["localhost", "a.localhost", "LocalHost."] {
            assert_eq!(look_up(name).await.unwrap(), addresses(&["127.0.0.1"]));
        }
    }

    #[test]
    fn retry_after_is_read_as_seconds_or_as_a_date() {
        // 2015-10-21 07:28:00 UTC, less 90 s.
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(1_445_412_480 - 90);
        let cases = [
            ("120", Some(120)),
            (" 0 ", Some(0)),
            ("Wed, 21 Oct 2015 07:28:00 GMT", Some(90)),
            ("Wednesday, 21-Oct-15 07:28:00 GMT", Some(90)),
            ("Wed, 21 Oct 2015 07:00:00 GMT", Some(0)),
            ("-5", None),
            ("1.5", None),
            ("99999999999999999999", None),
            ("soon", None),
        ];
        for (text, seconds) in cases {
            let headers = HeaderMap::from_iter([(header::RETRY_AFTER, HeaderValue::from_static(text))]);
            assert_eq!(retry_after(&headers, now), seconds.map(Duration::from_secs), "{text}");
        }
        assert_eq!(retry_after(&HeaderMap::new(), now), None);
    }
}
