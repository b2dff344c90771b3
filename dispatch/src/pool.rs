//! Connections to receivers, kept from exchange to exchange.
//!
//! ```text
//! exchange --> idle one of the host? --no--> dial --HTTP/1.1--> its own until its end
//!     '          ^                            |  '--HTTP/2----> shared by all
//!     '----------'- put back <----------------'
//! ```
//!
//! A host is a scheme with a name and a port, so endpoints of one receiver share its
//! connections. An exchange that dials takes one that another puts back meanwhile, and
//! ends its dial: there are never more connections than there were exchanges at a time.
//! Every [`LOOK_INTERVAL`] those that were idle for too long or were closed are dropped.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Weak};
use std::time::Duration;

use bytes::Bytes;
use hashbrown::HashMap;
use http_body_util::Full;
use hyper::Response;
use hyper::client::conn::http2::{self, SendRequest};
use hyper::header;
use hyper::http::uri::Authority;
use hyper_rustls::HttpsConnector;
use hyper_util::rt::{TokioExecutor, TokioTimer};
use parking_lot::Mutex;
use tokio::sync::Notify;
use tokio::time::Instant;
use tower_service::Service as _;

use crate::client::{
    CONNECTION_WINDOW_BYTES, HEAD_BYTES_MAX, IDLE_PER_HOST_MAX, IDLE_TIMEOUT, PING_INTERVAL, PING_TIMEOUT,
    STREAM_WINDOW_BYTES,
};
use crate::connection::{Connection, Incame, Outgoing, Unanswered, read_body};
use crate::dialer::{BoxError, Dialer};
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
    hosts: Mutex<HashMap<Host, Kept>>,
    /// Somebody looks at the idle ones.
    is_looked_at: AtomicBool,
}

/// By whether it is called by TLS.
type Host = (bool, Authority);

/// What is kept of one host.
#[derive(Default)]
struct Kept {
    /// The one that was used last is at the end.
    idle: Vec<Connection>,
    /// By HTTP/2, and when it was used last.
    shared: Option<(SendRequest<Full<Bytes>>, Instant)>,
    /// Who dials is told that there is one.
    put_back: Arc<Notify>,
}

/// A connection for an exchange.
enum Taken {
    Own(Box<Connection>),
    Shared(SendRequest<Full<Bytes>>),
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
                Taken::Shared(sender) => exchange_shared(target, sender, request).await,
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
            self.put_back(host, connection);
        }
        Ok(answer)
    }

    /// Dials, or takes what is put back meanwhile; and whether it was dialled.
    async fn connect(&self, host: &Host, target: &Target) -> Result<(Taken, bool), PoolFault> {
        let put_back = self.0.hosts.lock().entry(host.clone()).or_default().put_back.clone();
        let dialling = self.0.connector.clone().call(target.uri().clone());
        let mut dialling = std::pin::pin!(dialling);
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
            // Another exchange was first, and one is enough.
            return Ok(first);
        }
        let (sender, driver) = share(stream).await.map_err(PoolFault::Exchange)?;
        tokio::spawn(async move {
            // Its exchanges are told what became of it.
            let _ = driver.await;
        });
        let mut hosts = self.0.hosts.lock();
        let kept = hosts.entry(host.clone()).or_default();
        kept.shared = Some((sender.clone(), Instant::now()));
        kept.put_back.notify_waiters();
        drop(hosts);
        self.look_often();
        Ok(Taken::Shared(sender))
    }

    fn put_back(&self, host: &Host, mut connection: Connection) {
        connection.rest();
        {
            let mut hosts = self.0.hosts.lock();
            let kept = hosts.entry_ref(host).or_default();
            if kept.idle.len() == IDLE_PER_HOST_MAX {
                return;
            }
            kept.idle.push(connection);
            kept.put_back.notify_waiters();
        }
        self.look_often();
    }

    /// Looks at idle connections now and then, until the pool is dropped.
    fn look_often(&self) {
        if self.0.is_looked_at.swap(true, Ordering::Relaxed) {
            return;
        }
        let shared: Weak<Shared> = Arc::downgrade(&self.0);
        tokio::spawn(async move {
            loop {
                tokio::time::sleep(LOOK_INTERVAL).await;
                let Some(shared) = shared.upgrade() else { break };
                shared.drop_unusable();
            }
        });
    }
}

impl Shared {
    /// One that is there and open.
    fn take(&self, host: &Host) -> Option<Taken> {
        loop {
            // What is closed is dropped outside the lock.
            let mut connection = {
                let mut hosts = self.hosts.lock();
                let kept = hosts.get_mut(host)?;
                if let Some((sender, used)) = &mut kept.shared
                    && !sender.is_closed()
                {
                    *used = Instant::now();
                    return Some(Taken::Shared(sender.clone()));
                }
                kept.idle.pop()?
            };
            if connection.idle_for() < IDLE_TIMEOUT && connection.is_ready() {
                return Some(Taken::Own(Box::new(connection)));
            }
        }
    }

    fn drop_unusable(&self) {
        let mut hosts = self.hosts.lock();
        hosts.retain(|_, kept| {
            kept.idle.retain_mut(|it| it.idle_for() < IDLE_TIMEOUT && it.is_ready());
            let is_used = |(sender, used): &(SendRequest<Full<Bytes>>, Instant)| {
                !sender.is_closed() && used.elapsed() < IDLE_TIMEOUT
            };
            kept.shared = kept.shared.take().filter(is_used);
            let is_dialled = Arc::strong_count(&kept.put_back) > 1;
            is_dialled || kept.shared.is_some() || !kept.idle.is_empty()
        });
    }
}

/// A connection that all exchanges share.
async fn share(
    stream: Stream,
) -> Result<(SendRequest<Full<Bytes>>, http2::Connection<Stream, Full<Bytes>, TokioExecutor>), hyper::Error> {
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

async fn exchange_shared(
    target: &Target,
    mut sender: SendRequest<Full<Bytes>>,
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
