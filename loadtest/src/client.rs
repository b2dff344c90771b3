//! One keep-alive HTTP/1.1 connection with one request in flight: plain TCP
//! without Nagle, no TLS, no proxy, no redirects, no timeouts (a caller that
//! wants one drops the future, and with it the connection).
//!
//! hyper's connection is polled by the task that waits for the answer, not by a
//! task of its own: a request costs no wake-up of another thread. Bodies are
//! shared with the socket's write, not copied.
//!
//! It does not reconnect and does not repeat a request; whether a request that
//! was lost took effect is for the caller to judge.

use std::fmt;
use std::future::poll_fn;
use std::io;
use std::pin::{Pin, pin};
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::client::conn::http1::{self, SendRequest};
use hyper::header::{CONTENT_TYPE, HOST, HeaderName, HeaderValue, RETRY_AFTER};
use hyper::{HeaderMap, Method, Request, StatusCode, Uri};
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;

/// The port of `http://` addresses that name none.
const HTTP_PORT: u16 = 80;
const API_KEY: HeaderName = HeaderName::from_static("x-api-key");

/// An API key; prints as `[redacted]`.
#[derive(Clone)]
pub struct ApiKey(String);

impl ApiKey {
    /// Takes the key as the server printed it.
    pub fn new(key: impl Into<String>) -> Self {
        Self(key.into())
    }
}

impl From<&str> for ApiKey {
    fn from(key: &str) -> Self {
        Self::new(key)
    }
}

impl fmt::Debug for ApiKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("[redacted]")
    }
}

/// A server to call, and the key to call it with.
#[derive(Debug, Clone)]
pub struct Server {
    /// `host:port`, for the dial and for the `Host` header.
    authority: String,
    host: HeaderValue,
    /// Marked sensitive, so that it prints as such.
    key: Option<HeaderValue>,
}

/// What a server answered.
#[derive(Debug, Clone)]
pub struct Answer {
    /// Its status.
    pub status: StatusCode,
    /// `Retry-After`, where it was given in seconds.
    pub retry_after: Option<Duration>,
    /// The whole body.
    pub body: Bytes,
}

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ClientError {
    /// Not an address that can be called.
    #[error("{url:?} is not an address of the form http://HOST:PORT")]
    Address {
        /// What was given.
        url: String,
    },
    /// A key that fits into no header.
    #[error("the API key has characters that a header cannot carry")]
    Key(#[source] hyper::header::InvalidHeaderValue),
    /// Nobody listens there, or the network does not lead there.
    #[error("no connection to http://{authority}")]
    Connect {
        /// Where to.
        authority: String,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// A path that is no path.
    #[error("a request for {path:?} cannot be made")]
    Path {
        /// What was given.
        path: String,
        /// What is wrong with it.
        #[source]
        source: hyper::http::Error,
    },
    /// The connection ended before the answer was complete; whether the request
    /// took effect is unknown.
    #[error("the connection ended before the answer was complete")]
    Lost(#[source] hyper::Error),
}

impl Server {
    /// A server at `http://HOST:PORT`, called with `key`.
    pub fn new(url: &str, key: &ApiKey) -> Result<Self, ClientError> {
        let mut key = HeaderValue::from_str(&key.0).map_err(ClientError::Key)?;
        key.set_sensitive(true);
        Ok(Self { key: Some(key), ..Self::without_key(url)? })
    }

    /// A server at `http://HOST:PORT` that asks for no key.
    pub fn without_key(url: &str) -> Result<Self, ClientError> {
        let authority = authority_of(url).ok_or_else(|| ClientError::Address { url: url.to_owned() })?;
        let host =
            HeaderValue::from_str(&authority).map_err(|_| ClientError::Address { url: url.to_owned() })?;
        Ok(Self { authority, host, key: None })
    }

    /// The address as `http://HOST:PORT`.
    pub fn url(&self) -> String {
        format!("http://{}", self.authority)
    }

    /// `host:port`.
    pub(crate) fn authority(&self) -> &str {
        &self.authority
    }

    /// The headers of every request, as they go over the wire.
    pub(crate) fn head_lines(&self) -> Vec<u8> {
        let mut lines = [b"host: ", self.host.as_bytes(), b"\r\n"].concat();
        if let Some(key) = &self.key {
            lines.extend([b"x-api-key: ", key.as_bytes(), b"\r\n"].concat());
        }
        lines
    }

    /// Opens a connection.
    pub async fn connect(&self) -> Result<Connection, ClientError> {
        let stream = self
            .dial()
            .await
            .map_err(|source| ClientError::Connect { authority: self.authority.clone(), source })?;
        let handshake = http1::handshake(TokioIo::new(stream)).await;
        let (sender, io) = handshake.map_err(ClientError::Lost)?;
        Ok(Connection { sender, io: Some(Box::pin(io)), host: self.host.clone(), key: self.key.clone() })
    }

    pub(crate) async fn dial(&self) -> io::Result<TcpStream> {
        let stream = TcpStream::connect(&self.authority).await?;
        stream.set_nodelay(true)?;
        Ok(stream)
    }
}

type Io = http1::Connection<TokioIo<TcpStream>, Full<Bytes>>;

/// One open connection.
#[derive(Debug)]
pub struct Connection {
    sender: SendRequest<Full<Bytes>>,
    /// Reads and writes the socket while a request waits; `None` once it ended.
    io: Option<Pin<Box<Io>>>,
    host: HeaderValue,
    key: Option<HeaderValue>,
}

impl Connection {
    /// Asks for `path`, which may have a query string.
    pub async fn get(&mut self, path: &str) -> Result<Answer, ClientError> {
        let request = self.request(Method::GET, path, Bytes::new())?;
        self.send(request).await
    }

    /// Sends a JSON body to `path`, which may have a query string.
    pub async fn post(&mut self, path: &str, body: Bytes) -> Result<Answer, ClientError> {
        self.post_with(path, HeaderMap::new(), body).await
    }

    /// The same with further headers.
    pub async fn post_with(
        &mut self,
        path: &str,
        headers: HeaderMap,
        body: Bytes,
    ) -> Result<Answer, ClientError> {
        let mut request = self.request(Method::POST, path, body)?;
        let json = HeaderValue::from_static("application/json");
        request.headers_mut().extend(headers);
        request.headers_mut().insert(CONTENT_TYPE, json);
        self.send(request).await
    }

    /// Changes what is at `path` by a JSON body.
    pub async fn patch(&mut self, path: &str, body: Bytes) -> Result<Answer, ClientError> {
        let mut request = self.request(Method::PATCH, path, body)?;
        request.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        self.send(request).await
    }

    /// Deletes what is at `path`.
    pub async fn delete(&mut self, path: &str) -> Result<Answer, ClientError> {
        let request = self.request(Method::DELETE, path, Bytes::new())?;
        self.send(request).await
    }

    fn request(&self, method: Method, path: &str, body: Bytes) -> Result<Request<Full<Bytes>>, ClientError> {
        let mut request = Request::builder()
            .method(method)
            .uri(path)
            .header(HOST, self.host.clone())
            .body(Full::new(body))
            .map_err(|source| ClientError::Path { path: path.to_owned(), source })?;
        if let Some(key) = &self.key {
            request.headers_mut().insert(API_KEY, key.clone());
        }
        Ok(request)
    }

    async fn send(&mut self, request: Request<Full<Bytes>>) -> Result<Answer, ClientError> {
        let Self { sender, io, .. } = self;
        let mut exchange = pin!(exchange(sender, request));
        poll_fn(|cx| {
            let early = exchange.as_mut().poll(cx);
            if early.is_ready() {
                return early;
            }
            if let Some(open) = io
                && open.as_mut().poll(cx).is_ready()
            {
                // Dropping it fails what still waits for it.
                *io = None;
            }
            exchange.as_mut().poll(cx)
        })
        .await
        .map_err(ClientError::Lost)
    }
}

async fn exchange(
    sender: &mut SendRequest<Full<Bytes>>,
    request: Request<Full<Bytes>>,
) -> Result<Answer, hyper::Error> {
    sender.ready().await?;
    let (head, body) = sender.send_request(request).await?.into_parts();
    Ok(Answer {
        status: head.status,
        retry_after: retry_after(&head.headers),
        body: body.collect().await?.to_bytes(),
    })
}

fn retry_after(headers: &HeaderMap) -> Option<Duration> {
    let seconds = headers.get(RETRY_AFTER)?.to_str().ok()?;
    seconds.trim().parse().ok().map(Duration::from_secs)
}

/// `host:port` of a plain `http://` address without a path.
fn authority_of(url: &str) -> Option<String> {
    let uri: Uri = url.parse().ok()?;
    let host = uri.host().filter(|host| !host.is_empty())?;
    let bare = matches!(uri.path(), "" | "/") && uri.query().is_none();
    let anonymous = !uri.authority()?.as_str().contains('@');
    let plain = uri.scheme_str() == Some("http");
    (bare && plain && anonymous).then(|| format!("{host}:{}", uri.port_u16().unwrap_or(HTTP_PORT)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_read_with_and_without_a_port() {
        for (url, authority) in [
            ("http://127.0.0.1:8080", "127.0.0.1:8080"),
            ("http://localhost:8080/", "localhost:8080"),
            ("http://[::1]:9000", "[::1]:9000"),
            ("http://systole.example", "systole.example:80"),
        ] {
            assert_eq!(authority_of(url).as_deref(), Some(authority));
        }
    }

    #[test]
    fn addresses_that_cannot_be_called_are_refused() {
        let key = ApiKey::new("avk_test");
        for url in ["", "127.0.0.1:8080", "https://a:1", "http://a:1/base", "http://u@a:1", "http://a:1?q"] {
            let refused = Server::new(url, &key);
            assert!(matches!(refused, Err(ClientError::Address { .. })), "{url}");
        }
    }

    #[test]
    fn a_key_never_prints() {
        let key = ApiKey::new("avk_secret");
        let server = Server::new("http://localhost:1", &key).expect("a good address");
        assert!(!format!("{key:?} {server:?}").contains("secret"));
    }

    #[test]
    fn retry_after_is_read_in_seconds_only() {
        let told = |text: &'static str| {
            let mut headers = HeaderMap::new();
            headers.insert(RETRY_AFTER, HeaderValue::from_static(text));
            retry_after(&headers)
        };
        assert_eq!(told("2"), Some(Duration::from_secs(2)));
        assert_eq!(told("Fri, 31 Dec 2027 23:59:59 GMT"), None);
        assert_eq!(retry_after(&HeaderMap::new()), None);
    }
}
