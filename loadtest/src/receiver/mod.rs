//! A receiver of webhooks for demos, benches and tests: an HTTP/1.1 server that
//! verifies what it is sent and counts it.
//!
//! ```text
//! POST /path -- read whole (16 MiB) -- verify -- behave -- remember the id -- count
//!                                     key of    of the     (4 million at      samples,
//!                                     the path  path       most)              latency
//! ```
//!
//! It begins without secrets: an endpoint is registered with the receiver's URL,
//! the server makes the secret, and [`Receiver::expect`] tells it to the path.
//! Until then a request there is answered 401. Each path is a receiver of its own:
//! own secret, own [`Behaviour`], own ids; the counters are those of all paths.
//!
//! An event is *taken* when it is verified and answered with 2xx. One that is taken
//! again is a duplicate and its samples are not counted a second time. Attempts
//! that a behaviour fails are remembered too, so that a retry with other bytes
//! shows.
//!
//! Latency is from commit to receipt: this machine's clock when the body had been
//! read, minus the event's `ordering`, which is the server's clock at commit in
//! microseconds. It means something only if both run on one machine; an ordering
//! that lies ahead of the clock counts as 0.
//!
//! It runs on threads of its own, so that a busy caller does not slow it and it
//! can be measured apart. No TLS, no HTTP/2, no timeouts.

mod behaviour;
mod connection;
mod ids;
mod live;
mod route;
mod samples;

use std::io;
use std::net::{Ipv4Addr, SocketAddr, TcpListener as StdListener};
use std::sync::Arc;
use std::time::Duration;

use tokio::net::TcpListener;
use tokio::runtime::Runtime;
use tokio::sync::watch;
use tokio::task::{JoinHandle, JoinSet};
use tokio::time::{sleep, timeout};

pub use behaviour::Behaviour;
use connection::Shared;
pub(crate) use ids::{Ids, Sighting};
pub use live::{ReceiverCounts, ReceiverLive};
use route::Route;
pub(crate) use samples::Scan;

use crate::signature::{Dialect, Key, Secret, SecretError};

/// Twenty times what 2,500 samples take.
const BODY_BYTES_MAX: usize = 16 * 1_024 * 1_024;
/// Takes 280 MB once it is reached (38 to 75 bytes each), and nothing before.
const REMEMBER_IDS_DEFAULT: usize = 4_000_000;
/// Steps of niceness of threads that give way: a tenth of an ordinary one's weight.
const GIVES_WAY: i32 = 10;
/// How long answers in progress may take once the receiver stops.
const STOP_PATIENCE: Duration = Duration::from_secs(1);
/// When the system has no more sockets, until it is asked again.
const ACCEPT_PAUSE: Duration = Duration::from_millis(10);

/// How a receiver is started.
#[derive(Debug, Clone)]
pub struct ReceiverSettings {
    /// Where it listens; port 0 takes a free one.
    pub listen: SocketAddr,
    /// Threads that read, verify and count.
    pub threads: usize,
    /// How closely bodies are read.
    pub detail: Detail,
    /// Event ids that are remembered, 38 to 75 bytes each. Beyond that new events
    /// still count, but their repeats are not recognised
    /// ([`ReceiverCounts::events_unkept`]).
    pub remember_ids: usize,
    /// Records the time from commit to receipt.
    pub latency: bool,
    /// Its threads give way to others': it stands for machines that are elsewhere, and
    /// takes no CPU of what is measured.
    pub gives_way: bool,
}

impl Default for ReceiverSettings {
    /// A free port of 127.0.0.1, one thread, fast, 4 million ids, no latencies.
    fn default() -> Self {
        Self {
            listen: SocketAddr::from((Ipv4Addr::LOCALHOST, 0)),
            threads: 1,
            detail: Detail::Fast,
            remember_ids: REMEMBER_IDS_DEFAULT,
            latency: false,
            gives_way: false,
        }
    }
}

/// How closely a receiver reads bodies.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Detail {
    /// Samples are counted by a search for their first bytes.
    #[default]
    Fast,
    /// Bodies are parsed: sample counts are checked, series are tallied.
    Full,
}

/// Why there is no receiver.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ReceiverError {
    /// The address is taken, or not this machine's.
    #[error("a receiver cannot listen on {listen}")]
    Listen {
        /// Where.
        listen: SocketAddr,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// Threads or their event loop were not to be had.
    #[error("the receiver's threads cannot be started")]
    Threads(#[source] io::Error),
}

/// A running receiver; dropping it ends it at once.
#[derive(Debug)]
pub struct Receiver {
    address: SocketAddr,
    live: Arc<ReceiverLive>,
    stopping: watch::Sender<bool>,
    /// Ends when `stopping` says so.
    accepting: Option<JoinHandle<()>>,
    /// Taken when the receiver ends; never dropped in place, which would block.
    runtime: Option<Runtime>,
}

impl Receiver {
    /// Listens and serves, on threads of its own.
    pub fn start(settings: &ReceiverSettings) -> Result<Self, ReceiverError> {
        let listen = settings.listen;
        let listener = bind(listen).map_err(|source| ReceiverError::Listen { listen, source })?;
        let address = listener.local_addr().map_err(|source| ReceiverError::Listen { listen, source })?;
        let runtime = runtime(settings).map_err(ReceiverError::Threads)?;
        let listener = {
            let _inside = runtime.enter();
            TcpListener::from_std(listener).map_err(ReceiverError::Threads)?
        };
        let live = Arc::new(ReceiverLive::default());
        let (stopping, stop) = watch::channel(false);
        let shared = Arc::new(Shared {
            detail: settings.detail,
            gives_way: settings.gives_way,
            latency: settings.latency,
            live: Arc::clone(&live),
            ids: Ids::new(settings.remember_ids),
            scan: Scan::new(),
        });
        let accepting = Some(runtime.spawn(accept(listener, shared, stop)));
        Ok(Self { address, live, stopping, accepting, runtime: Some(runtime) })
    }

    /// Its address as `http://HOST:PORT`; a path goes behind it.
    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Its counters, to read at any time, also after it stopped.
    pub fn live(&self) -> Arc<ReceiverLive> {
        Arc::clone(&self.live)
    }

    /// From now on `path` takes what is signed with `secret`, and nothing else.
    pub fn expect(&self, path: &str, dialect: Dialect, secret: &Secret) -> Result<(), SecretError> {
        let key = Key::prepare(dialect, secret)?;
        self.route(path).expect(key);
        Ok(())
    }

    /// From now on `path` answers so.
    pub fn behave(&self, path: &str, behaviour: Behaviour) {
        self.route(path).behave(behaviour);
    }

    /// Stops accepting, lets answers in progress end for a second, ends.
    pub async fn stop(mut self) {
        self.stopping.send_replace(true);
        if let Some(accepting) = self.accepting.take()
            && let Err(error) = accepting.await
            && error.is_panic()
        {
            std::panic::resume_unwind(error.into_panic());
        }
    }

    fn route(&self, path: &str) -> Arc<Route> {
        let mut routes = self.live.routes.write();
        let route = routes.entry(path.to_owned()).or_insert_with(|| Arc::new(Route::new(path)));
        Arc::clone(route)
    }
}

impl Drop for Receiver {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

fn bind(listen: SocketAddr) -> io::Result<StdListener> {
    let listener = StdListener::bind(listen)?;
    listener.set_nonblocking(true)?;
    Ok(listener)
}

fn runtime(settings: &ReceiverSettings) -> io::Result<Runtime> {
    let mut builder = tokio::runtime::Builder::new_multi_thread();
    builder.worker_threads(settings.threads.max(1)).thread_name("receiver").enable_all();
    if settings.gives_way {
        // Where the system refuses, it takes its share like everybody.
        builder.on_thread_start(|| {
            let _ = rustix::process::nice(GIVES_WAY);
        });
    }
    builder.build()
}

async fn accept(listener: TcpListener, shared: Arc<Shared>, mut stop: watch::Receiver<bool>) {
    let mut connections = JoinSet::new();
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            Some(ended) = connections.join_next() => {
                pass_on(ended);
                continue;
            }
            _ = stop.wait_for(|stop| *stop) => break,
        };
        match accepted {
            Ok((stream, _)) => {
                // Without it answers wait for the peer's acknowledgement; where it
                // cannot be set they are late, not wrong.
                stream.set_nodelay(true).ok();
                connections.spawn(connection::serve(stream, Arc::clone(&shared), stop.clone()));
            }
            Err(_) => sleep(ACCEPT_PAUSE).await,
        }
    }
    drop(listener);
    let drained = timeout(STOP_PATIENCE, async {
        while let Some(ended) = connections.join_next().await {
            pass_on(ended);
        }
    });
    // What is still open after that is cut by dropping its task.
    drained.await.ok();
}

/// A connection that panicked is a bug of ours, not of its peer.
fn pass_on(ended: Result<(), tokio::task::JoinError>) {
    if let Err(error) = ended
        && error.is_panic()
    {
        std::panic::resume_unwind(error.into_panic());
    }
}
