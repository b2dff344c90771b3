//! Connections to receivers, kept from exchange to exchange.
//!
//! ```text
//! exchange --> idle one of the host? --no--> dial --HTTP/1.1--> its own until its end
//!     '          ^                            |  '--HTTP/2----> shared by up to 64
//!     '----------'- put back <----------------'
//! ```
//!
//! A host is a scheme with a name and a port, so endpoints of one receiver share its
//! connections. An exchange that dials takes one that another puts back meanwhile, and
//! ends its dial: there are never more connections than there were exchanges at a time.
//! Every [`LOOK_INTERVAL`] those that were idle for too long or were closed are dropped.

use std::future::poll_fn;
use std::pin::pin;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Weak};
use std::time::Duration;

use bytes::Bytes;
use http_body_util::Full;
use hyper::Response;
use hyper::client::conn::http2;
use hyper::header;
use hyper_rustls::HttpsConnector;
use hyper_util::rt::{TokioExecutor, TokioTimer};
use parking_lot::Mutex;
use tokio::task::coop::unconstrained;
use tower_service::Service as _;

use crate::client::{
    CONNECTION_WINDOW_BYTES, HEAD_BYTES_MAX, PING_INTERVAL, PING_TIMEOUT, STREAM_WINDOW_BYTES,
};
use crate::connection::{Connection, Incame, Outgoing, Unanswered, read_body};
use crate::dialer::{BoxError, Dialer};
use crate::hosts::{Host, Hosts, Sender, Taken};
use crate::stream::Stream;
use crate::target::Target;

/// How often connections are looked at that nobody uses.
const LOOK_INTERVAL: Duration = Duration::from_secs(5);

/// Why there is no answer.
pub(crate) enum PoolFault {
    /// There is no connection.
    Connect(BoxError),
    /// There is one, and it broke.
    Exchange(hyper::Error),
    /// It ended before the request was written, which was answered all the same.
    Cut,
}

/// Dials, and keeps what it dialled. Clones are the same one.
#[derive(Clone)]
pub(crate) struct Pool(Arc<Shared>);

struct Shared {
    connector: HttpsConnector<Dialer>,
    hosts: Mutex<Hosts>,
    /// Somebody looks at the idle ones.
    is_looked_at: AtomicBool,
}

impl Pool {
    pub(crate) fn new(connector: HttpsConnector<Dialer>) -> Pool {
        Pool(Arc::new(Shared { connector, hosts: Mutex::default(), is_looked_at: AtomicBool::new(false) }))
    }

    /// Sends a request to a receiver and reads its answer. A connection that was closed
    /// while it was idle, before anything was sent, costs nothing.
    pub(crate) async fn send(&self, target: &Target, mut request: Outgoing) -> Result<Incame, PoolFault> {
        let host = (target.is_https(), target.authority().clone());
        loop {
            let (taken, is_new) = match self.0.take(&host) {
                Some(taken) => (taken, false),
                None => self.connect(&host, target).await?,
            };
            let answered = match taken {
                Taken::Own(connection) => self.exchange(&host, target, *connection, request).await,
                Taken::Shared(sender, number) => {
                    let _lent = Lent { shared: &self.0, host: &host, number };
                    exchange_shared(target, sender, request).await
                }
            };
            match answered {
                Ok(answer) => return Ok(answer),
                Err(Unanswered::Unsent(unsent, _)) if !is_new => request = *unsent,
                Err(Unanswered::Unsent(_, fault) | Unanswered::Broken(fault)) => {
                    return Err(PoolFault::Exchange(fault));
                }
                Err(Unanswered::Cut) => return Err(PoolFault::Cut),
            }
        }
    }

    async fn exchange(
        &self,
        host: &Host,
        target: &Target,
        mut connection: Connection,
        mut request: Outgoing,
    ) -> Result<Incame, Unanswered> {
        *request.uri_mut() = target.path().clone();
        request.headers_mut().insert(header::HOST, target.host_header().clone());
        let answer = connection.exchange(request).await?;
        if connection.is_ready() {
            connection.rest();
            self.0.hosts.lock().put_back(host, connection);
        }
        Ok(answer)
    }

    /// Dials, or takes what is put back meanwhile; and whether it was dialled.
    async fn connect(&self, host: &Host, target: &Target) -> Result<(Taken, bool), PoolFault> {
        self.look_often();
        let put_back = self.0.hosts.lock().put_back_to(host);
        let dialling = self.0.connector.clone().call(target.uri().clone());
        let mut dialling = pin!(dialling);
        loop {
            let notified = put_back.notified();
            // One may have come before.
            if let Some(taken) = self.0.take(host) {
                return Ok((taken, false));
            }
            tokio::select! {
                biased;
                dialled = &mut dialling => {
                    let stream = Stream::over(dialled.map_err(PoolFault::Connect)?);
                    return self.dialled(host, stream).await.map(|taken| (taken, true));
                }
                () = notified => {}
            }
        }
    }

    async fn dialled(&self, host: &Host, stream: Stream) -> Result<Taken, PoolFault> {
        if !stream.is_http2() {
            let connection = Connection::over(stream).await.map_err(PoolFault::Exchange)?;
            return Ok(Taken::Own(Box::new(connection)));
        }
        if let Some(first) = self.0.take(host) {
            // Another exchange was first, and this one has room there.
            return Ok(first);
        }
        let (sender, driver) = share(stream).await.map_err(PoolFault::Exchange)?;
        let streams_max = Arc::new(AtomicUsize::new(driver.current_max_send_streams()));
        tokio::spawn(drive(driver, streams_max.clone()));
        Ok(self.0.hosts.lock().share(host, sender, streams_max))
    }

    /// Looks at idle connections now and then, until the pool is dropped.
    fn look_often(&self) {
        if self.0.is_looked_at.swap(true, Ordering::Relaxed) {
            return;
        }
        let shared: Weak<Shared> = Arc::downgrade(&self.0);
        // Within a task's budget it would look at some, and take the others for open.
        tokio::spawn(unconstrained(async move {
            loop {
                tokio::time::sleep(LOOK_INTERVAL).await;
                let Some(shared) = shared.upgrade() else { break };
                shared.drop_unusable().await;
            }
        }));
    }
}

impl Shared {
    /// One that is there and open.
    fn take(&self, host: &Host) -> Option<Taken> {
        loop {
            // What is closed is dropped outside the lock.
            let mut taken = self.hosts.lock().take(host)?;
            if taken.is_usable() {
                return Some(taken);
            }
        }
    }

    /// Drops what was closed or idle for too long: host by host and outside the lock,
    /// which every exchange takes.
    async fn drop_unusable(&self) {
        let hosts = self.hosts.lock().names();
        for host in hosts {
            let mut idle = self.hosts.lock().take_out(&host);
            idle.retain_mut(Connection::is_usable);
            self.hosts.lock().bring_back(&host, idle);
            tokio::task::yield_now().await;
        }
    }
}

/// An exchange's part of a connection that it shares, given back however it ends.
struct Lent<'a> {
    shared: &'a Shared,
    host: &'a Host,
    number: u64,
}

impl Drop for Lent<'_> {
    fn drop(&mut self) {
        self.shared.hosts.lock().give_back(self.host, self.number);
    }
}

type Driver = http2::Connection<Stream, Full<Bytes>, TokioExecutor>;

/// A connection that exchanges share.
async fn share(stream: Stream) -> Result<(Sender, Driver), hyper::Error> {
    http2::Builder::new(TokioExecutor::new())
        .timer(TokioTimer::new())
        .max_header_list_size(HEAD_BYTES_MAX)
        .initial_stream_window_size(STREAM_WINDOW_BYTES)
        .initial_connection_window_size(CONNECTION_WINDOW_BYTES)
        .keep_alive_interval(PING_INTERVAL)
        .keep_alive_timeout(PING_TIMEOUT)
        .handshake(stream)
        .await
}

/// Runs it until its end, of which its exchanges are told, and notes at each of them how
/// many the receiver allows.
async fn drive(driver: Driver, streams_max: Arc<AtomicUsize>) {
    let mut driver = pin!(driver);
    let _ = poll_fn(|context| {
        let polled = driver.as_mut().poll(context);
        streams_max.store(driver.current_max_send_streams(), Ordering::Relaxed);
        polled
    })
    .await;
}

async fn exchange_shared(
    target: &Target,
    mut sender: Sender,
    mut request: Outgoing,
) -> Result<Incame, Unanswered> {
    // The host is part of it.
    *request.uri_mut() = target.uri().clone();
    request.headers_mut().remove(header::HOST);
    let response =
        sender.try_send_request(request).await.map_err(|mut fault| match fault.take_message() {
            Some(request) => Unanswered::Unsent(Box::new(request), fault.into_error()),
            None => Unanswered::Broken(fault.into_error()),
        })?;
    let (head, body) = Response::into_parts(response);
    let body = read_body(body).await.map_err(Unanswered::Broken)?;
    Ok((head, body))
}
