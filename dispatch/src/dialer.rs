//! Dials receivers.
//!
//! What is dialled is what was checked: the resolver hands on only addresses it asked
//! [`Targets`] about, and refuses a name if any of its addresses is forbidden; literal
//! addresses are checked at each dial too. So a name that leads elsewhere between
//! registration and dial, or between look-up and dial, gains nothing.

use std::error::Error;
use std::future::{Future, ready};
use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use hyper::Uri;
use hyper::http::uri::Scheme;
use hyper::rt::{Read, ReadBufCursor, Write};
use hyper_util::client::legacy::connect::dns::Name;
use hyper_util::client::legacy::connect::{Connected, Connection, HttpConnector};
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;
use tower_service::Service;

use crate::look_up::LookUps;
use crate::target::{TargetFault, Targets, is_localhost};

/// How long a dial may take, over all addresses of a name: three lost packets. So a
/// host that swallows packets is told from one that thinks, and a dual-stack name
/// with one dead address is still reached before the shortest deadline, 10 s.
pub const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// What the system takes from a receiver before it was read. Left to itself it takes up to
/// 32 MB from one that answers without end, on Linux. Of an answer little more is ever read.
const RECEIVE_BUFFER_BYTES: usize = 64 * 1024;

pub(crate) type BoxError = Box<dyn Error + Send + Sync>;
type Dialing = Pin<Box<dyn Future<Output = Result<Dialled, BoxError>> + Send>>;
type LookingUp = Pin<Box<dyn Future<Output = Result<std::vec::IntoIter<SocketAddr>, BoxError>> + Send>>;

/// Dials what may be called. The connectors differ in what their resolvers let
/// through: a resolver is told a name, but not what it is looked up for.
#[derive(Clone)]
pub(crate) struct Dialer {
    targets: Arc<Targets>,
    open: Arc<AtomicU64>,
    https: HttpConnector<Resolver>,
    http: HttpConnector<Resolver>,
}

impl Dialer {
    /// `open` counts the connections that are there.
    pub(crate) fn new(targets: Arc<Targets>, open: Arc<AtomicU64>) -> Dialer {
        let look_ups = LookUps::of_system();
        let connector = |https| {
            let resolver = Resolver { targets: targets.clone(), look_ups: look_ups.clone(), https };
            let mut connector = HttpConnector::new_with_resolver(resolver);
            // The layer above it speaks TLS, so it sees `https` as well.
            connector.enforce_http(false);
            // A request is written in one go; there is nothing to wait for.
            connector.set_nodelay(true);
            connector.set_recv_buffer_size(Some(RECEIVE_BUFFER_BYTES));
            connector.set_connect_timeout(Some(CONNECT_TIMEOUT));
            connector
        };
        Dialer { https: connector(true), http: connector(false), targets, open }
    }

    /// Literal addresses never reach the resolver.
    fn check_literal(&self, uri: &Uri, https: bool) -> Result<(), TargetFault> {
        let host = uri.host().unwrap_or_default();
        let bare = host.trim_start_matches('[').trim_end_matches(']');
        bare.parse().map_or(Ok(()), |address| self.targets.check_address(host, address, https))
    }
}

impl Service<Uri> for Dialer {
    type Response = Dialled;
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
        let open = self.open.clone();
        Box::pin(async move { Ok(Dialled::new(connecting.await?, open)) })
    }
}

/// A connection, counted while it is there.
pub(crate) struct Dialled {
    stream: TokioIo<TcpStream>,
    open: Arc<AtomicU64>,
}

impl Dialled {
    fn new(stream: TokioIo<TcpStream>, open: Arc<AtomicU64>) -> Dialled {
        open.fetch_add(1, Ordering::Relaxed);
        Dialled { stream, open }
    }

    fn stream(self: Pin<&mut Self>) -> Pin<&mut TokioIo<TcpStream>> {
        Pin::new(&mut self.get_mut().stream)
    }
}

impl Drop for Dialled {
    fn drop(&mut self) {
        self.open.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Connection for Dialled {
    fn connected(&self) -> Connected {
        self.stream.connected()
    }
}

impl Read for Dialled {
    fn poll_read(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: ReadBufCursor<'_>,
    ) -> Poll<io::Result<()>> {
        self.stream().poll_read(context, buffer)
    }
}

impl Write for Dialled {
    fn poll_write(self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.stream().poll_write(context, bytes)
    }

    fn poll_flush(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.stream().poll_flush(context)
    }

    fn poll_shutdown(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.stream().poll_shutdown(context)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.stream().poll_write_vectored(context, slices)
    }
}

/// Looks names up, and says no to those that lead where they may not.
#[derive(Clone)]
struct Resolver {
    targets: Arc<Targets>,
    look_ups: LookUps,
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
            let addresses = resolver.look_up(name.as_str()).await?;
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

    /// The addresses of a name; the port is for the connector to set. Names of this
    /// machine stand for the one address they were judged by at registration.
    async fn look_up(&self, name: &str) -> io::Result<Vec<SocketAddr>> {
        if is_localhost(name) {
            return Ok(vec![(IpAddr::from(Ipv4Addr::LOCALHOST), 0).into()]);
        }
        self.look_ups.look_up(name).await
    }
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsFd as _;

    use tokio::io::AsyncWriteExt as _;
    use tokio::net::{TcpListener, TcpSocket};

    use super::*;
    use crate::client::find;

    fn resolver(allow: &[&str], https: bool) -> Resolver {
        let targets = Arc::new(Targets::parse(allow).unwrap());
        Resolver { targets, look_ups: LookUps::of_system(), https }
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
        let dialer = Dialer::new(Arc::new(Targets::parse(&["127.0.0.0/8"]).unwrap()), Arc::default());
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
            let fault =
                Dialer::new(Arc::default(), Arc::default()).call(Uri::from_static(uri)).await.err().unwrap();
            let refused = find::<TargetFault>(fault.as_ref());
            assert!(matches!(refused, Some(TargetFault::Forbidden { .. })), "{fault:?}");
        }
    }

    /// Left to itself it takes more ahead the more of an answer is read.
    #[tokio::test]
    async fn the_system_takes_no_more_ahead_however_much_of_an_answer_is_read() {
        const READ_BYTES: usize = 16 * 1024 * 1024;
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        tokio::spawn(async move {
            let answer = vec![b'x'; 64 * 1024];
            loop {
                let (mut stream, _) = listener.accept().await.unwrap();
                while stream.write_all(&answer).await.is_ok() {}
            }
        });
        let targets = Arc::new(Targets::parse(&["127.0.0.0/8"]).unwrap());
        let mut dialer = Dialer::new(targets, Arc::default());
        for scheme in ["http", "https"] {
            let uri: Uri = format!("{scheme}://{address}/").parse().unwrap();
            let dialled = dialer.call(uri).await.unwrap();
            let stream = dialled.stream.inner();
            let (mut read, mut buffer) = (0, vec![0; 64 * 1024]);
            while read < READ_BYTES {
                stream.readable().await.unwrap();
                read += stream.try_read(&mut buffer).unwrap_or_default();
            }
            let same = stream.as_fd().try_clone_to_owned().unwrap();
            let bytes = TcpSocket::from_std_stream(same.into()).recv_buffer_size().unwrap() as usize;
            // Linux adds as much for itself.
            assert!(bytes <= 2 * RECEIVE_BUFFER_BYTES, "{scheme}: {bytes}");
        }
    }

    #[tokio::test]
    async fn names_of_this_machine_are_what_they_were_judged_by() {
        for name in ["localhost", "a.localhost", "LocalHost."] {
            assert_eq!(resolver(&[], true).look_up(name).await.unwrap(), addresses(&["127.0.0.1"]));
        }
    }
}
