//! Dials only as long as an exchange wants the connection.
//!
//! An exchange that finds no idle connection begins to dial, and meanwhile takes what
//! another one puts back; the pool then dials to the end all the same, for nobody. A
//! connection is put back a moment after its answer was read, so each worker that goes
//! on at once would have two, and a receiver that accepts but never shakes hands would
//! get another one with each exchange. So:
//!
//! - a dial waits while its host has as many connections as exchanges, for then one is
//!   about to be put back or closed, and 50 ms at most;
//! - a dial ends once its exchange has another connection or is over.

use std::future::Future;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use hashbrown::HashMap;
use hyper::Uri;
use hyper::http::uri::{Authority, Scheme};
use hyper::rt::{Read, ReadBufCursor, Write};
use hyper_util::client::legacy::connect::{CaptureConnection, Connected, Connection};
use parking_lot::Mutex;
use tokio::sync::Notify;
use tower_service::Service;

use crate::dialer::BoxError;

/// How long a dial waits for a connection that is there and not put back: one whose
/// receiver neither ends its answer nor closes it.
const GRACE: Duration = Duration::from_millis(50);
/// Hosts that are remembered without a look at who uses them.
const HOSTS_MIN: usize = 1_024;

tokio::task_local! {
    /// The exchange that runs.
    static EXCHANGE: Exchange;
}

/// What a dial knows of its exchange.
#[derive(Clone)]
struct Exchange {
    host: Arc<Host>,
    /// Whether it has a connection.
    captured: CaptureConnection,
}

/// The hosts that are called; clones are the same.
#[derive(Clone, Default)]
pub(crate) struct Hosts(Arc<Mutex<HostMap>>);

#[derive(Default)]
struct HostMap {
    /// By whether they are called in the clear, and their authority.
    hosts: HashMap<(bool, Authority), Arc<Host>>,
    /// With so many it is looked which ones nobody uses.
    look_at: usize,
}

/// What there is of one host.
#[derive(Debug, Default)]
struct Host {
    exchanges: AtomicUsize,
    /// Those that are dialled too.
    connections: AtomicUsize,
    /// A connection was closed.
    closed: Notify,
}

/// An exchange, counted while it runs.
struct Running(Arc<Host>);

impl Drop for Running {
    fn drop(&mut self) {
        self.0.exchanges.fetch_sub(1, Ordering::AcqRel);
    }
}

/// A connection's place, from its dial to its end.
#[derive(Debug)]
struct Slot(Arc<Host>);

impl Drop for Slot {
    fn drop(&mut self) {
        self.0.connections.fetch_sub(1, Ordering::AcqRel);
        self.0.closed.notify_waiters();
    }
}

impl Hosts {
    /// Runs an exchange, so that its dials know it.
    pub(crate) async fn run<F: Future>(
        &self,
        uri: &Uri,
        captured: CaptureConnection,
        exchange: F,
    ) -> F::Output {
        let host = self.get(uri);
        host.exchanges.fetch_add(1, Ordering::AcqRel);
        let _running = Running(host.clone());
        EXCHANGE.scope(Exchange { host, captured }, exchange).await
    }

    fn get(&self, uri: &Uri) -> Arc<Host> {
        let Some(authority) = uri.authority() else { return Arc::default() };
        let key = (uri.scheme() == Some(&Scheme::HTTP), authority.clone());
        let mut map = self.0.lock();
        if map.hosts.len() >= map.look_at && !map.hosts.contains_key(&key) {
            map.hosts.retain(|_, host| Arc::strong_count(host) > 1);
            map.look_at = (2 * map.hosts.len()).max(HOSTS_MIN);
        }
        map.hosts.entry(key).or_default().clone()
    }
}

impl Host {
    /// A place for a connection, once one is missing or the wait was too long.
    async fn slot(self: &Arc<Host>) -> Slot {
        let missing = async {
            loop {
                let closed = self.closed.notified();
                if let Some(slot) = self.missing_slot() {
                    return slot;
                }
                closed.await;
            }
        };
        tokio::time::timeout(GRACE, missing).await.unwrap_or_else(|_| {
            self.connections.fetch_add(1, Ordering::AcqRel);
            Slot(self.clone())
        })
    }

    /// A place if there are more exchanges than connections.
    fn missing_slot(self: &Arc<Host>) -> Option<Slot> {
        let exchanges = self.exchanges.load(Ordering::Acquire);
        let more = |connections| (connections < exchanges).then_some(connections + 1);
        let added = self.connections.fetch_update(Ordering::AcqRel, Ordering::Acquire, more);
        added.is_ok().then(|| Slot(self.clone()))
    }
}

/// A connector whose dials end once nobody wants them.
#[derive(Clone)]
pub(crate) struct Wanted<C>(pub(crate) C);

/// Somebody else's connection came first. Nobody waits for this any more.
#[derive(Debug, thiserror::Error)]
#[error("the exchange has another connection, or is over")]
struct Unwanted;

impl<C> Service<Uri> for Wanted<C>
where
    C: Service<Uri, Error = BoxError>,
    C::Response: Send + 'static,
    C::Future: Send + 'static,
{
    type Response = Placed<C::Response>;
    type Error = BoxError;
    type Future = Pin<Box<dyn Future<Output = Result<Placed<C::Response>, BoxError>> + Send>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        self.0.poll_ready(context)
    }

    fn call(&mut self, uri: Uri) -> Self::Future {
        // Nothing is dialled before it is polled.
        let dialling = self.0.call(uri);
        let exchange = EXCHANGE.try_with(Exchange::clone);
        Box::pin(async move {
            match exchange {
                Ok(exchange) => exchange.dial(dialling).await,
                Err(_) => dialling.await.map(|stream| Placed { stream, _slot: None }),
            }
        })
    }
}

impl Exchange {
    async fn dial<T>(
        self,
        dialling: impl Future<Output = Result<T, BoxError>>,
    ) -> Result<Placed<T>, BoxError> {
        let Exchange { host, mut captured } = self;
        let dialled = async {
            let slot = host.slot().await;
            Ok(Placed { stream: dialling.await?, _slot: Some(slot) })
        };
        // It keeps being told of a connection that it lost under its request.
        if captured.connection_metadata().is_some() {
            return dialled.await;
        }
        tokio::select! {
            biased;
            _ = captured.wait_for_connection_metadata() => Err(Unwanted.into()),
            dialled = dialled => dialled,
        }
    }
}

/// A connection with its place among its host's.
pub(crate) struct Placed<S> {
    stream: S,
    _slot: Option<Slot>,
}

impl<S: Unpin> Placed<S> {
    fn stream(self: Pin<&mut Self>) -> Pin<&mut S> {
        Pin::new(&mut self.get_mut().stream)
    }
}

impl<S: Connection> Connection for Placed<S> {
    fn connected(&self) -> Connected {
        self.stream.connected()
    }
}

impl<S: Read + Unpin> Read for Placed<S> {
    fn poll_read(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: ReadBufCursor<'_>,
    ) -> Poll<io::Result<()>> {
        self.stream().poll_read(context, buffer)
    }
}

impl<S: Write + Unpin> Write for Placed<S> {
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

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_dial_waits_while_there_are_as_many_connections_as_exchanges() {
        let host = Arc::<Host>::default();
        host.exchanges.store(2, Ordering::Release);
        let first = host.slot().await;
        let _second = host.slot().await;
        assert!(host.missing_slot().is_none());
        let begun = tokio::time::Instant::now();
        let (_third, ()) = tokio::join!(host.slot(), async { drop(first) });
        assert_eq!(begun.elapsed(), Duration::ZERO, "one was closed");
        let _fourth = host.slot().await;
        assert!(begun.elapsed() >= GRACE, "none was, and it waits no longer");
        assert_eq!(host.connections.load(Ordering::Acquire), 3);
    }

    #[test]
    fn hosts_that_nobody_uses_are_forgotten() {
        let hosts = Hosts::default();
        let uri = |number: usize| Uri::try_from(format!("https://host{number}.example/a")).unwrap();
        let kept: Vec<_> = (0..10).map(|number| hosts.get(&uri(number))).collect();
        assert!(Arc::ptr_eq(&kept[3], &hosts.get(&uri(3))));
        let clear = hosts.get(&Uri::from_static("http://host3.example/"));
        assert!(!Arc::ptr_eq(&kept[3], &clear));
        (0..5 * HOSTS_MIN).for_each(|number| drop(hosts.get(&uri(number))));
        assert!(hosts.0.lock().hosts.len() <= HOSTS_MIN);
        assert!(Arc::ptr_eq(&kept[3], &hosts.get(&uri(3))));
    }
}
