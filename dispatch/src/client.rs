//! The pooled connections.
//!
//! By TLS (rustls, Mozilla's roots), or in the clear where [`Targets`] says so. Where
//! the receiver offers HTTP/2 by ALPN, up to 64 exchanges with it share one connection,
//! or as many as it allows; else it is HTTP/1.1 with keep-alive. Another connection to a
//! receiver resumes the TLS session of one before, so the full handshake is paid once.
//! One exchange:
//!
//! ```text
//! |<----------------------- one deadline -------------------------->|
//!  idle connection? else look up -> check -> dial -> TLS handshake
//!                                 write -> head -> body, 16 KiB at most
//! ```
//!
//! What is dialled is what was checked (see `dialer`). A redirect is an answer like any
//! other.
//!
//! A receiver may answer before it has read the body. A 2xx then counts once all is
//! written; if the connection ends before, or the exchange is reset by HTTP/2, the attempt
//! failed.
//!
//! A connection that the receiver closed while it was idle costs nothing: if hyper
//! can tell that nothing was sent, the request goes out on another one. If bytes had
//! left, the receiver may have them, and it is a failed attempt. A connection of HTTP/2
//! that went silent under its exchanges is found by pings.
//!
//! Look-ups are bounded (see `look_up`), and who waits for one does so within its
//! deadline. Connections of one receiver are bounded by the most exchanges that it had
//! at a time, those of all by a number that the client is told (see `room`). An exchange
//! for which there is no connection, or no socket, says nothing of the receiver.

use std::error::Error;
use std::fmt;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use hyper::header::{self, HeaderName, HeaderValue};
use hyper::http::response::Parts;
use hyper::{HeaderMap, Method, Request, StatusCode};
use hyper_rustls::{ConfigBuilderExt as _, HttpsConnectorBuilder};
use rustls::client::Resumption;
use rustls::{ClientConfig, ConfigBuilder, RootCertStore, WantsVerifier};

use crate::dialer::{BoxError, Dialer};
use crate::pool::{Pool, PoolFault};
use crate::request_body::RequestBody;
use crate::room::Standing;
use crate::target::{Target, TargetFault, Targets};

pub use crate::dialer::CONNECT_TIMEOUT;

/// Most bytes of an answer's body that are read: what the delivery log keeps.
pub const ANSWER_BYTES_MAX: usize = 16 * 1024;
/// What one connection reads ahead: far more than any receiver's head has, and a
/// bound on what a hostile one makes us hold. hyper looks at it between two reads, so
/// a head of up to twice as many bytes may pass; a longer one is a failed exchange.
pub const READ_BUFFER_BYTES_MAX: usize = 64 * 1024;
/// Most bytes of a head's fields by HTTP/2; a longer one is a failed exchange.
pub const HEAD_BYTES_MAX: u32 = 64 * 1024;
/// What one exchange of HTTP/2 is sent before it was read: an answer that is longer than
/// what is kept waits there and is cut.
pub(crate) const STREAM_WINDOW_BYTES: u32 = 64 * 1024;
/// What one connection of HTTP/2 is sent before it was read, over all its exchanges.
pub(crate) const CONNECTION_WINDOW_BYTES: u32 = 1024 * 1024;
/// How long a connection of HTTP/2 may be silent under its exchanges until it is asked
/// whether it is still there: below the shortest deadline, 10 s, so that the exchanges
/// after those that failed get another connection.
pub(crate) const PING_INTERVAL: Duration = Duration::from_secs(5);
/// How long the answer to that may take.
pub(crate) const PING_TIMEOUT: Duration = Duration::from_secs(5);
/// TLS sessions that are remembered, about 2 KB each; beyond it the oldest is forgotten
/// and its receiver costs a full handshake again.
const SESSIONS_MAX: usize = 4_096;
/// Connections that may be open unless somebody says otherwise, idle ones too, which
/// hold about 30 KB each: some for each of ten thousand receivers, half a gigabyte.
pub const CONNECTIONS_MAX: usize = 16 * 1024;
/// How long a connection is kept without a request: as long as most receivers do, so
/// that mostly they do not close it under a request, and well below the minutes after
/// which load balancers forget it silently.
pub const IDLE_TIMEOUT: Duration = Duration::from_secs(60);

const JSON: HeaderValue = HeaderValue::from_static("application/json");
const USER_AGENT: HeaderValue = HeaderValue::from_static(concat!("systole/", env!("CARGO_PKG_VERSION")));

/// Headers that belong to the connection or to the framing, which are ours: brought
/// by an endpoint, they would let its requests be read as others than they are. An
/// endpoint that asks for one is refused; here they are left out all the same.
pub(crate) static OURS: [HeaderName; 11] = [
    header::CONNECTION,
    header::CONTENT_LENGTH,
    header::EXPECT,
    header::HOST,
    HeaderName::from_static("http2-settings"),
    HeaderName::from_static("keep-alive"),
    HeaderName::from_static("proxy-connection"),
    header::TE,
    header::TRAILER,
    header::TRANSFER_ENCODING,
    header::UPGRADE,
];

/// Calls receivers over kept connections. Clones share the pool, which is dropped,
/// and its connections closed, with the last of them.
#[derive(Clone)]
pub struct Client {
    pub(crate) pool: Pool,
    /// What is known of whom it calls: whose connections of the pool it uses.
    pub(crate) standing: Standing,
    /// Shared with the dialer, which counts.
    open: Arc<AtomicU64>,
}

impl Client {
    /// A client that calls what `targets` allow, over so many connections at most, and
    /// trusts Mozilla's roots.
    #[must_use]
    pub fn new(targets: Arc<Targets>, connections_max: usize) -> Client {
        let config = tls().with_webpki_roots().with_no_client_auth();
        Client::with_config(targets, connections_max, config)
    }

    /// The same trusting these roots instead.
    #[must_use]
    pub fn with_roots(targets: Arc<Targets>, connections_max: usize, roots: RootCertStore) -> Client {
        let config = tls().with_root_certificates(roots).with_no_client_auth();
        Client::with_config(targets, connections_max, config)
    }

    fn with_config(targets: Arc<Targets>, connections_max: usize, mut config: ClientConfig) -> Client {
        config.resumption = Resumption::in_memory_sessions(SESSIONS_MAX);
        let open = Arc::new(AtomicU64::new(0));
        let connector = HttpsConnectorBuilder::new()
            .with_tls_config(config)
            .https_or_http()
            .enable_http1()
            .enable_http2()
            .wrap_connector(Dialer::new(targets, open.clone()));
        Client { pool: Pool::new(connector, connections_max), standing: Standing::Answers, open }
    }

    /// The same client for receivers that stand so: with other connections, of those that may
    /// be open together.
    pub(crate) fn of(&self, standing: Standing) -> Client {
        Client { standing, ..self.clone() }
    }

    /// Connections to receivers that are open now, idle ones too.
    #[must_use]
    pub fn open_connections(&self) -> u64 {
        self.open.load(Ordering::Relaxed)
    }

    /// Sends a body and reads the answer, whatever its status. The timeout is over
    /// everything, from the lookup to the answer's last byte. It may wait as long for room for
    /// a connection before, which is no part of that. Once it is over, or the future is
    /// dropped, the connection is closed, or the exchange reset by HTTP/2. If it was answered
    /// there, and only its body not taken, the connection gets no further exchanges some
    /// seconds later, and is closed, and the body dropped, behind its last.
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
        self.call(timeout).send(target, headers, body).await
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

impl Answer {
    pub(crate) fn of(head: Parts, body: Bytes) -> Answer {
        Answer {
            status: head.status,
            retry_after: retry_after(&head.headers, SystemTime::now()),
            headers: head.headers,
            body,
        }
    }
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
    /// The answer was a success, and the connection ended before the receiver had
    /// taken the whole request.
    #[error("answered before the whole request was taken")]
    Cut,
    /// As many connections were open as may be, until the deadline. Nothing was sent.
    #[error("not sent: too many connections are open")]
    NoRoom,
    /// The system gave no socket. Nothing was sent.
    #[error("not sent: {0}")]
    NoSocket(Cause),
}

impl PostFault {
    pub(crate) fn of_pool(fault: PoolFault) -> PostFault {
        match fault {
            PoolFault::Connect(fault) => PostFault::of_connect(fault),
            PoolFault::Exchange(fault) => PostFault::of_exchange(fault),
            PoolFault::Cut => PostFault::Cut,
        }
    }

    fn of_connect(fault: BoxError) -> PostFault {
        if let Some(refused) = find::<TargetFault>(fault.as_ref()) {
            return PostFault::Refused(refused.clone());
        }
        if causes(fault.as_ref()).filter_map(<dyn Error>::downcast_ref).any(is_without_socket) {
            return PostFault::NoSocket(Cause(fault));
        }
        match find::<rustls::Error>(fault.as_ref()) {
            Some(_) => PostFault::Tls(Cause(fault)),
            None => PostFault::Connect(Cause(fault)),
        }
    }

    /// Whether it says nothing of the receiver.
    pub(crate) fn is_ours(&self) -> bool {
        matches!(self, PostFault::NoRoom | PostFault::NoSocket(_))
    }

    /// A receiver that wants another certificate says so behind the handshake.
    fn of_exchange(fault: hyper::Error) -> PostFault {
        match find::<rustls::Error>(&fault) {
            Some(_) => PostFault::Tls(Cause(Box::new(fault))),
            None => PostFault::Exchange(Cause(Box::new(fault))),
        }
    }
}

/// What the layers below said, printed in one line.
#[derive(Debug)]
pub struct Cause(BoxError);

impl fmt::Display for Cause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&chain(self.0.as_ref()))
    }
}

/// ring by name: a second provider in the graph would make the default a panic.
fn tls() -> ConfigBuilder<ClientConfig, WantsVerifier> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = ClientConfig::builder_with_provider(provider);
    builder.with_safe_default_protocol_versions().expect("ring has what TLS 1.2 and 1.3 need")
}

/// The process, or the system, has no file or port left.
fn is_without_socket(fault: &io::Error) -> bool {
    // ENFILE and EMFILE, which have no kind.
    let is_out_of_files = matches!(fault.raw_os_error(), Some(23 | 24));
    is_out_of_files || fault.kind() == io::ErrorKind::AddrNotAvailable
}

/// Without what depends on the connection.
pub(crate) fn request(mut headers: HeaderMap, body: Bytes) -> Request<RequestBody> {
    // A look at the few there are is less than to ask for each of ours.
    if headers.keys().any(|name| OURS.contains(name)) {
        OURS.iter().for_each(|name| drop(headers.remove(name)));
    }
    headers.entry(header::CONTENT_TYPE).or_insert(JSON);
    headers.entry(header::USER_AGENT).or_insert(USER_AGENT);
    let mut request = Request::new(RequestBody::new(body));
    *request.method_mut() = Method::POST;
    *request.headers_mut() = headers;
    request
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

pub(crate) fn find<'a, T: Error + 'static>(fault: &'a (dyn Error + 'static)) -> Option<&'a T> {
    causes(fault).find_map(|fault| fault.downcast_ref())
}

/// A fault and what caused it, in one line.
pub(crate) fn chain(fault: &(dyn Error + 'static)) -> String {
    let mut texts: Vec<String> = causes(fault).map(ToString::to_string).collect();
    // An I/O error prints what it wraps as if it were itself.
    texts.dedup();
    texts.join(": ")
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

    #[test]
    fn a_fault_is_told_with_what_caused_it_each_cause_once() {
        let damaged = io::Error::other("0000000001.segment at byte 4096: malformed");
        let fault = crate::event::ReadFault::Failed(Box::new(damaged));
        assert_eq!(chain(&fault), "the journal cannot be read: 0000000001.segment at byte 4096: malformed");
    }

    #[test]
    fn a_dial_without_a_socket_says_nothing_of_the_receiver() {
        let (no_file, refused) = (io::Error::from_raw_os_error(24), io::ErrorKind::ConnectionRefused.into());
        let (no_port, timeout) = (io::ErrorKind::AddrNotAvailable.into(), io::ErrorKind::TimedOut.into());
        for (fault, expected) in [(no_file, true), (no_port, true), (refused, false), (timeout, false)] {
            let text = fault.to_string();
            let fault = PostFault::of_connect(Box::new(io::Error::other(fault)));
            assert_eq!(fault.is_ours(), expected, "{text}");
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
