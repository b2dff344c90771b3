//! Connections to receivers, kept from exchange to exchange.
//!
//! ```text
//! exchange --> idle one of the host? --no--> dial --HTTP/1.1--> its own until its end
//!     '          ^                            |  '--HTTP/2----> shared by up to 64
//!     '----------'- put back <----------------'
//! ```
//!
//! A host is a scheme with a name and a port, so endpoints of one receiver share its
//! connections; those of which nothing is known have others (see `crew`), and so have those
//! that fail. An exchange that dials takes one that another puts back meanwhile, and ends its
//! dial: there are never more connections than there were exchanges at a time.
//! Over all hosts so many may be open as the pool is told (see `room`). If there is no room for
//! one more, the one that was idle for longest is closed, or the first that becomes idle and
//! that nobody of its host waits for.
//! Every [`LOOK_INTERVAL`] those that were idle for too long or were closed are dropped,
//! and those of HTTP/2 cut whose receiver has answered and does not take the bodies (see
//! `hosts`).

use std::future::{Future, poll_fn};
use std::pin::pin;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock, Weak};
use std::time::Duration;

use hyper::Response;
use hyper::client::conn::http2;
use hyper::header;
use hyper::rt::Executor;
use hyper_rustls::HttpsConnector;
use hyper_util::rt::TokioTimer;
use parking_lot::{Mutex, MutexGuard};
use tokio::sync::oneshot;
use tokio::task::AbortHandle;
use tokio::task::coop::unconstrained;
use tower_service::Service as _;

use crate::client::{
    CONNECTION_WINDOW_BYTES, HEAD_BYTES_MAX, PING_INTERVAL, PING_TIMEOUT, STREAM_WINDOW_BYTES,
};
use crate::connection::{Connection, Incame, Outgoing, Unanswered, read_body};
use crate::dialer::{BoxError, Dialer};
use crate::hosts::{Host, Hosts, Sender, Taken};
use crate::request_body::RequestBody;
use crate::room::{Rooms, Standing, Wait};
use crate::stream::Stream;
use crate::target::Target;

/// How often connections are looked at that nobody uses.
const LOOK_INTERVAL: Duration = Duration::from_secs(5);

/// Exchanges of one host that a connection has while other hosts wait for room.
const EXCHANGES_MAX: u32 = 64;

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
    /// By standing: the threads that call who may not answer are of lower priority, and hold
    /// no lock that the others wait for, unless there is no room.
    hosts: [Mutex<Hosts>; 3],
    rooms: Rooms,
    /// Somebody looks at the idle ones of that standing.
    is_looked_at: [AtomicBool; 3],
}

impl Pool {
    pub(crate) fn new(connector: HttpsConnector<Dialer>, connections_max: usize) -> Pool {
        Pool(Arc::new(Shared {
            connector,
            hosts: Default::default(),
            rooms: Rooms::for_connections(connections_max),
            is_looked_at: Default::default(),
        }))
    }

    /// A connection to a receiver that is there and open.
    pub(crate) fn kept(&self, target: &Target, standing: Standing) -> Option<Line<'_>> {
        let host = Host::of(target, standing);
        let taken = self.0.take(&host)?;
        Some(Line { pool: self, host, taken: Some(taken), is_new: false })
    }

    /// A connection to a receiver: one that is dialled, or was put back meanwhile. `wait`
    /// tells whether it waits for room for one.
    pub(crate) async fn made(
        &self,
        target: &Target,
        standing: Standing,
        wait: &Wait,
    ) -> Result<Line<'_>, PoolFault> {
        let host = Host::of(target, standing);
        let (taken, is_new) = self.connect(&host, target, standing, wait).await?;
        wait.end();
        Ok(Line { pool: self, host, taken: Some(taken), is_new })
    }

    /// Sends a request to a receiver and reads its answer, over `line` if there is one. A
    /// connection that was closed while it was idle, before anything was sent, costs nothing.
    pub(crate) async fn send(
        &self,
        mut line: Option<Line<'_>>,
        target: &Target,
        standing: Standing,
        mut request: Outgoing,
        wait: &Wait,
    ) -> Result<Incame, PoolFault> {
        loop {
            let given = line.take().and_then(Line::if_open);
            let (mut line, is_new) = match given.or_else(|| self.kept(target, standing)) {
                Some(line) => (line, false),
                None => {
                    // Boxed, as what is rare and long would make every delivery's task as long.
                    let line = Box::pin(self.made(target, standing, wait)).await?;
                    let is_new = line.is_new;
                    (line, is_new)
                }
            };
            let answered = match line.taken.take() {
                Some(Taken::Own(connection)) => self.exchange(&line.host, target, connection, request).await,
                Some(Taken::Shared(sender, number)) => {
                    let mut lent = Lent { shared: &self.0, host: &line.host, number, written: None };
                    Box::pin(exchange_shared(target, sender, request, &mut lent.written)).await
                }
                None => unreachable!("only this takes it, once"),
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
        mut connection: Box<Connection>,
        mut request: Outgoing,
    ) -> Result<Incame, Unanswered> {
        *request.uri_mut() = target.path().clone();
        request.headers_mut().insert(header::HOST, target.host_header().clone());
        let answer = connection.exchange(request).await?;
        self.0.put_back(host, connection);
        Ok(answer)
    }

    /// Dials, or takes what is put back meanwhile; and whether it was dialled.
    async fn connect(
        &self,
        host: &Host,
        target: &Target,
        standing: Standing,
        wait: &Wait,
    ) -> Result<(Taken, bool), PoolFault> {
        self.look_often(standing);
        let put_back = self.0.hosts(host).put_back_to(host);
        let mut dialling = pin!(self.0.dial(target, standing, wait));
        loop {
            let notified = put_back.notified();
            // One may have come before.
            if let Some(taken) = self.0.take(host) {
                return Ok((taken, false));
            }
            tokio::select! {
                biased;
                dialled = &mut dialling => {
                    return self.dialled(host, dialled?).await.map(|taken| (taken, true));
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
        let (sender, driver, connection) = share(stream).await.map_err(PoolFault::Exchange)?;
        let streams_max = Arc::new(AtomicUsize::new(driver.current_max_send_streams()));
        let driver = tokio::spawn(drive(driver, streams_max.clone())).abort_handle();
        Ok(self.0.hosts(host).share(host, sender, streams_max, [driver, connection]))
    }

    /// Looks at idle connections to receivers that stand so, now and then, until the pool
    /// is dropped.
    fn look_often(&self, standing: Standing) {
        if self.0.is_looked_at[standing as usize].swap(true, Ordering::Relaxed) {
            return;
        }
        let shared: Weak<Shared> = Arc::downgrade(&self.0);
        // Within a task's budget it would look at some, and take the others for open.
        tokio::spawn(unconstrained(async move {
            loop {
                tokio::time::sleep(LOOK_INTERVAL).await;
                let Some(shared) = shared.upgrade() else { break };
                shared.drop_unusable(standing).await;
            }
        }));
    }
}

impl Shared {
    fn hosts(&self, host: &Host) -> MutexGuard<'_, Hosts> {
        self.hosts[host.standing as usize].lock()
    }

    /// One that is there and open.
    fn take(&self, host: &Host) -> Option<Taken> {
        loop {
            // What is closed is dropped outside the lock.
            let mut taken = self.hosts(host).take(host)?;
            if taken.is_usable() {
                return Some(taken);
            }
        }
    }

    /// Keeps one whose exchange ended, if another may follow.
    fn put_back(&self, host: &Host, mut connection: Box<Connection>) {
        if !connection.is_ready() {
            return;
        }
        connection.rest();
        let goes_on = connection.exchanges() < EXCHANGES_MAX;
        let is_wanted = self.hosts(host).put_back(host, connection);
        if !(is_wanted && goes_on) {
            self.make_room(host.standing);
        }
    }

    async fn dial(&self, target: &Target, standing: Standing, wait: &Wait) -> Result<Stream, PoolFault> {
        let places = self.rooms.places(standing, wait, || self.make_room(standing)).await;
        let dialled = self.connector.clone().call(target.uri().clone()).await;
        Ok(Stream::over(dialled.map_err(PoolFault::Connect)?, places))
    }

    /// Closes what was idle for longest, if an exchange waits for room that this gives. To be
    /// called by who waits from now on, and once more whenever something became idle, to a
    /// receiver that stands so.
    fn make_room(&self, standing: Standing) {
        let [answering, unknown, failing] = &self.hosts;
        let close = |of: &[&Mutex<Hosts>]| {
            // Dropped outside the lock.
            drop(of.iter().find_map(|hosts| hosts.lock().take_longest_idle()));
        };
        if standing == Standing::Fails && self.rooms.failing.is_waited_for() {
            close(&[failing]);
        }
        if standing != Standing::Answers && self.rooms.apart.is_waited_for() {
            close(&[failing, unknown]);
        }
        if self.rooms.of_all.is_waited_for() {
            // Whom the first call may not answer anyway.
            close(&[failing, unknown, answering]);
        }
    }

    /// Drops what was closed or idle for too long: host by host and outside the lock,
    /// which every exchange takes.
    async fn drop_unusable(&self, standing: Standing) {
        let hosts = self.hosts[standing as usize].lock().names();
        for host in hosts {
            let mut idle = self.hosts(&host).take_out(&host);
            idle.retain_mut(|(_, connection)| connection.is_usable());
            let kept = idle.len();
            self.hosts(&host).bring_back(&host, idle);
            (0..kept).for_each(|_| self.make_room(standing));
            tokio::task::yield_now().await;
        }
    }
}

/// A connection for one exchange. Without one it is left to others when it is dropped.
pub(crate) struct Line<'a> {
    pool: &'a Pool,
    host: Host,
    /// `None` once its exchange began.
    taken: Option<Taken>,
    /// It was dialled just now.
    is_new: bool,
}

impl Line<'_> {
    /// The same if the receiver has not closed it while it waited for its exchange.
    fn if_open(mut self) -> Option<Self> {
        let is_open = self.taken.as_mut().is_some_and(Taken::is_usable);
        is_open.then_some(self)
    }
}

impl Drop for Line<'_> {
    fn drop(&mut self) {
        match self.taken.take() {
            Some(Taken::Own(connection)) => self.pool.0.put_back(&self.host, connection),
            Some(Taken::Shared(_, number)) => {
                drop(Lent { shared: &self.pool.0, host: &self.host, number, written: None });
            }
            None => {}
        }
    }
}

/// An exchange's part of a connection that it shares, given back however it ends.
struct Lent<'a> {
    shared: &'a Shared,
    host: &'a Host,
    number: u64,
    /// Of the request's body, once there is one.
    written: Option<oneshot::Receiver<()>>,
}

impl Drop for Lent<'_> {
    fn drop(&mut self) {
        let written = self.written.take();
        let is_wanted = self.shared.hosts(self.host).give_back(self.host, self.number, written);
        if !is_wanted {
            self.shared.make_room(self.host.standing);
        }
    }
}

/// Runs what hyper has of one connection of HTTP/2: a task that reads and writes, and
/// has the socket and what is to be written; then some for each exchange, which end with
/// the exchange or with that one. hyper begins that one first, at the handshake.
#[derive(Clone, Default)]
struct Tasks(Arc<OnceLock<AbortHandle>>);

impl<F> Executor<F> for Tasks
where
    F: Future + Send + 'static,
    F::Output: Send + 'static,
{
    fn execute(&self, task: F) {
        let task = tokio::spawn(task);
        // Only the first is kept.
        let _ = self.0.set(task.abort_handle());
    }
}

type Driver = http2::Connection<Stream, RequestBody, Tasks>;

/// A connection that exchanges share, and what cuts it.
async fn share(stream: Stream) -> Result<(Sender, Driver, AbortHandle), hyper::Error> {
    let tasks = Tasks::default();
    let (sender, driver) = http2::Builder::new(tasks.clone())
        .timer(TokioTimer::new())
        .max_header_list_size(HEAD_BYTES_MAX)
        .initial_stream_window_size(STREAM_WINDOW_BYTES)
        .initial_connection_window_size(CONNECTION_WINDOW_BYTES)
        .keep_alive_interval(PING_INTERVAL)
        .keep_alive_timeout(PING_TIMEOUT)
        .handshake(stream)
        .await?;
    let connection = tasks.0.get().cloned().expect("hyper has begun it at the handshake");
    Ok((sender, driver, connection))
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

/// Sends a request over a connection of HTTP/2 and reads the answer; a success is one only
/// with the whole request. Whether that was written is left to who has the connection.
async fn exchange_shared(
    target: &Target,
    mut sender: Sender,
    mut request: Outgoing,
    written: &mut Option<oneshot::Receiver<()>>,
) -> Result<Incame, Unanswered> {
    // The host is part of it.
    *request.uri_mut() = target.uri().clone();
    request.headers_mut().remove(header::HOST);
    let written = written.insert(request.body_mut().written());
    let response =
        sender.try_send_request(request).await.map_err(|mut fault| match fault.take_message() {
            Some(request) => Unanswered::Unsent(Box::new(request), fault.into_error()),
            None => Unanswered::Broken(fault.into_error()),
        })?;
    let (head, mut body) = Response::into_parts(response);
    let read = read_body(&mut body).await.map_err(Unanswered::Broken)?;
    if head.status.is_success() {
        // The rest of the answer is held meanwhile: without it the exchange would be reset.
        written.await.map_err(|_| Unanswered::Cut)?;
    }
    drop(body);
    Ok((head, read))
}
