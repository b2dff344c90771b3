//! A receiver of webhooks as lean as HTTP/1.1 allows, for runs in which receiver,
//! load and server share the cores: a buffer a connection, no header map, one
//! prepared answer, keep-alive for as long as the peer wants it.
//!
//! ```text
//! bytes -- head (path, content-length) -- body -- Take -- status
//! ```
//!
//! What is done with a delivery is its [`Take`]'s: it runs on the sink's threads,
//! between the last byte of a request and the first of its answer. Chunked bodies,
//! heads above 16 KiB and bodies above 16 MiB end their connection; how many did so
//! is counted. No TLS, no HTTP/2.

use std::io;
use std::net::{Ipv4Addr, SocketAddr, TcpListener as StdListener};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::{Duration, SystemTime};

use hyper::HeaderMap;
use hyper::header::{HeaderName, HeaderValue};
use memchr::memmem;
use tokio::io::AsyncReadExt as _;
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::Runtime;
use tokio::time::sleep;

use crate::receiver::ReceiverError;

const HEAD_BYTES_MAX: usize = 16 * 1_024;
/// Twenty times what 2,500 samples take.
const BODY_BYTES_MAX: usize = 16 * 1_024 * 1_024;
/// An event of 500 samples; grows for more.
const BUFFER_BYTES: usize = 128 * 1_024;
/// When the system has no more sockets, until it is asked again.
const ACCEPT_PAUSE: Duration = Duration::from_millis(10);

/// One request, read whole.
#[derive(Debug, Clone, Copy)]
pub struct Delivery<'a> {
    /// Where it was posted to.
    pub path: &'a str,
    /// Its header lines.
    lines: &'a [u8],
    /// What it brought.
    pub body: &'a [u8],
    /// When its last byte had been read.
    pub at: SystemTime,
}

/// What looks at every delivery. Called from several threads at once.
pub trait Take: Send + Sync + 'static {
    /// The status that the delivery is answered with.
    fn take(&self, delivery: &Delivery<'_>) -> u16;
}

/// A running sink; dropping it ends it at once.
#[derive(Debug)]
pub struct Sink {
    address: SocketAddr,
    counts: Arc<SinkCounts>,
    /// Taken when the sink ends; never dropped in place, which would block.
    runtime: Option<Runtime>,
}

/// Connections of a sink.
#[derive(Debug, Default)]
pub struct SinkCounts {
    open: AtomicUsize,
    most: AtomicUsize,
    accepted: AtomicU64,
    broken: AtomicU64,
}

impl<'a> Delivery<'a> {
    /// The value of a header, if it is there and is text.
    pub fn header(&self, name: &str) -> Option<&'a str> {
        let mut pairs = self.pairs();
        let (_, value) = pairs.find(|(header, _)| header.eq_ignore_ascii_case(name.as_bytes()))?;
        str::from_utf8(value).ok()
    }

    /// All headers; those that no header map takes are left out.
    pub fn headers(&self) -> HeaderMap {
        let parsed = self.pairs().filter_map(|(name, value)| {
            Some((HeaderName::from_bytes(name).ok()?, HeaderValue::from_bytes(value).ok()?))
        });
        parsed.collect()
    }

    fn pairs(&self) -> impl Iterator<Item = (&'a [u8], &'a [u8])> + use<'a> {
        self.lines.split(|byte| *byte == b'\n').filter_map(|line| {
            let colon = line.iter().position(|byte| *byte == b':')?;
            Some((line[..colon].trim_ascii(), line[colon + 1..].trim_ascii()))
        })
    }
}

impl Sink {
    /// Listens on a free port of 127.0.0.1, on so many threads of its own.
    pub fn start(threads: usize, take: Arc<dyn Take>) -> Result<Self, ReceiverError> {
        let listen = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
        let refused = |source| ReceiverError::Listen { listen, source };
        let listener = StdListener::bind(listen).map_err(refused)?;
        listener.set_nonblocking(true).map_err(refused)?;
        let address = listener.local_addr().map_err(refused)?;
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(threads.max(1))
            .thread_name("sink")
            .enable_all()
            .build()
            .map_err(ReceiverError::Threads)?;
        let listener = {
            let _inside = runtime.enter();
            TcpListener::from_std(listener).map_err(ReceiverError::Threads)?
        };
        let counts = Arc::new(SinkCounts::default());
        runtime.spawn(accept(listener, take, Arc::clone(&counts)));
        Ok(Self { address, counts, runtime: Some(runtime) })
    }

    /// Its address as `http://HOST:PORT`; a path goes behind it.
    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Its connections, to read at any time.
    pub fn counts(&self) -> Arc<SinkCounts> {
        Arc::clone(&self.counts)
    }
}

impl Drop for Sink {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

impl SinkCounts {
    /// The most connections that were open at one time.
    pub fn most(&self) -> usize {
        self.most.load(Ordering::Relaxed)
    }

    /// Connections ever accepted.
    pub fn accepted(&self) -> u64 {
        self.accepted.load(Ordering::Relaxed)
    }

    /// Connections that were ended for what they sent.
    pub fn broken(&self) -> u64 {
        self.broken.load(Ordering::Relaxed)
    }
}

async fn accept(listener: TcpListener, take: Arc<dyn Take>, counts: Arc<SinkCounts>) {
    loop {
        let Ok((stream, _)) = listener.accept().await else {
            sleep(ACCEPT_PAUSE).await;
            continue;
        };
        // Without it answers wait for the peer's acknowledgement.
        stream.set_nodelay(true).ok();
        let (take, counts) = (Arc::clone(&take), Arc::clone(&counts));
        tokio::spawn(async move {
            counts.accepted.fetch_add(1, Ordering::Relaxed);
            let open = counts.open.fetch_add(1, Ordering::Relaxed) + 1;
            counts.most.fetch_max(open, Ordering::Relaxed);
            let ended = serve(stream, &*take).await;
            counts.open.fetch_sub(1, Ordering::Relaxed);
            counts.broken.fetch_add(u64::from(ended == End::Broken), Ordering::Relaxed);
        });
    }
}

/// How a connection ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum End {
    /// By its peer, or by the network.
    Closed,
    /// By us: it sent what this receiver does not read.
    Broken,
}

async fn serve(mut stream: TcpStream, take: &dyn Take) -> End {
    let mut buffer = vec![0; BUFFER_BYTES];
    let mut filled = 0;
    loop {
        let head = loop {
            match read_head(&buffer[..filled]) {
                Ok(Some(head)) => break head,
                Ok(None) => {}
                Err(Unreadable) => return End::Broken,
            }
            match stream.read(&mut buffer[filled..]).await {
                Ok(bytes) if bytes > 0 => filled += bytes,
                _ => return End::Closed,
            }
        };
        let end = head.bytes + head.body_bytes;
        if buffer.len() <= end {
            buffer.resize(end + 1, 0);
        }
        while filled < end {
            match stream.read(&mut buffer[filled..]).await {
                Ok(bytes) if bytes > 0 => filled += bytes,
                _ => return End::Closed,
            }
        }
        let status = {
            let Ok(path) = str::from_utf8(&buffer[head.path.clone()]) else { return End::Broken };
            let (lines, body) = (&buffer[head.path.end..head.bytes], &buffer[head.bytes..end]);
            take.take(&Delivery { path, lines, body, at: SystemTime::now() })
        };
        if answer(&stream, status).await.is_err() {
            return End::Closed;
        }
        // A peer that sends ahead of its answers is read in order.
        buffer.copy_within(end..filled, 0);
        filled -= end;
    }
}

/// The beginning of a request.
#[derive(Debug, PartialEq, Eq)]
struct Head {
    /// Where its path stands.
    path: std::ops::Range<usize>,
    /// With its empty line.
    bytes: usize,
    body_bytes: usize,
}

/// Not a request that this receiver reads.
#[derive(Debug, PartialEq, Eq)]
struct Unreadable;

/// The head at the beginning of `bytes`; `None` if it is not complete.
fn read_head(bytes: &[u8]) -> Result<Option<Head>, Unreadable> {
    let Some(end) = memmem::find(bytes, b"\r\n\r\n") else {
        return if bytes.len() > HEAD_BYTES_MAX { Err(Unreadable) } else { Ok(None) };
    };
    if !bytes.starts_with(b"POST ") {
        return Err(Unreadable);
    }
    let path_end = bytes[5..end].iter().position(|byte| *byte == b' ').ok_or(Unreadable)? + 5;
    let lines = &bytes[path_end..end];
    let head = Delivery { path: "", lines, body: &[], at: SystemTime::UNIX_EPOCH };
    let length = head.header("content-length").and_then(|length| length.parse().ok());
    let body_bytes = length.filter(|length| *length <= BODY_BYTES_MAX).ok_or(Unreadable)?;
    Ok(Some(Head { path: 5..path_end, bytes: end + 4, body_bytes }))
}

async fn answer(stream: &TcpStream, status: u16) -> io::Result<()> {
    let other;
    let mut left: &[u8] = match status {
        200 => b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n",
        status => {
            other = format!("HTTP/1.1 {status} -\r\ncontent-length: 0\r\n\r\n");
            other.as_bytes()
        }
    };
    while !left.is_empty() {
        match stream.try_write(left) {
            Ok(sent) => left = &left[sent..],
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => stream.writable().await?,
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    const REQUEST: &[u8] =
        b"POST /e/1 HTTP/1.1\r\nHost: a\r\nWebhook-Id: evt_1\r\nContent-Length: 2\r\n\r\n{}";

    #[test]
    fn a_head_is_read_whole_or_not_at_all() {
        for cut in 0..REQUEST.len() - 2 {
            assert_eq!(read_head(&REQUEST[..cut]), Ok(None), "{cut}");
        }
        let head = read_head(REQUEST).expect("readable").expect("whole");
        assert_eq!((&REQUEST[head.path.clone()], head.body_bytes), (&b"/e/1"[..], 2));
        assert_eq!(&REQUEST[head.bytes..], b"{}");
        let lines = &REQUEST[head.path.end..head.bytes];
        let delivery = Delivery { path: "/e/1", lines, body: b"{}", at: SystemTime::now() };
        assert_eq!(delivery.header("webhook-id"), Some("evt_1"));
        assert_eq!(delivery.header("webhook"), None);
        assert_eq!(delivery.headers().len(), 3);
    }

    #[test]
    fn what_it_does_not_read_is_no_request() {
        for bad in [
            "GET / HTTP/1.1\r\n\r\n",
            "POST / HTTP/1.1\r\ntransfer-encoding: chunked\r\n\r\n",
            "POST / HTTP/1.1\r\ncontent-length: 99999999999\r\n\r\n",
            "POST /\r\n\r\n",
        ] {
            assert_eq!(read_head(bad.as_bytes()), Err(Unreadable), "{bad}");
        }
        assert_eq!(read_head(&vec![b'x'; HEAD_BYTES_MAX + 1]), Err(Unreadable));
    }
}
