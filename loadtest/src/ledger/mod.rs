//! The delivery ledger under kills: what was acknowledged is delivered, once, as it
//! was, however often the server is killed.
//!
//! It starts the server's binary itself, on a data folder of its own, publishes events
//! and samples from several writers, kills the server by SIGKILL at random moments,
//! some of them while it recovers, and starts it again. Its receiver stays, fails the
//! first attempt of some events, so that retries lie over the kills, and remembers
//! everything.
//!
//! ```text
//! start -> load -> kill (-> start -> kill) -> start -> load -> .. -> load ends -> all is there -> compare
//! ```
//!
//! At the end: each acknowledged event came under the id that its 202 named, each
//! acknowledged sample came with its value, an id always had the same bytes, no
//! published number and no sample came under two ids. An id may come again: that is
//! counted, not wrong.

mod books;
mod plan;
mod report;
mod writer;

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use tokio::sync::watch;
use tokio::task::{JoinError, JoinSet, spawn_blocking};
use tokio::time::{Instant, sleep};

use books::Books;
pub use books::Received;
use plan::Plan;
pub use report::LedgerReport;
use writer::{Acknowledged, Desk, Kind};

use crate::client::{ApiKey, ClientError, Server};
use crate::deliver::{endpoint, made_secret};
use crate::process::{Binary, ProcessError, Running};
use crate::random::Random;
use crate::receiver::ReceiverError;
use crate::signature::{Dialect, Key, SecretError};
use crate::sink::Sink;
use crate::webhooks::{WebhookError, Webhooks};

/// The operator's key of the servers that are started here; they listen on 127.0.0.1.
const OPERATOR: &str = "avk_ledger_0123456789abcdef";
/// When a server is killed, counted from its first line.
const KILL_AFTER_MS: (u64, u64) = (50, 800);
/// Of this many restarts one is itself killed, while it recovers.
const KILLED_RECOVERY_EVERY: u64 = 3;
const RECOVERY_KILL_MS_MAX: u64 = 120;
/// How often the end is looked for.
const STEP: Duration = Duration::from_millis(50);
/// How long after the last expected event those that should not come may show.
const SETTLE: Duration = Duration::from_millis(500);

/// What to run.
#[derive(Debug, Clone)]
pub struct LedgerSettings {
    /// The server's program.
    pub binary: PathBuf,
    /// Where its data and its log go; must be empty.
    pub work_dir: PathBuf,
    /// Further settings of it, as environment variables.
    pub settings: Vec<(String, String)>,
    /// Kills under load.
    pub kills: u64,
    /// Seed of their moments.
    pub seed: u64,
    /// Writers of events, and as many of samples.
    pub writers: u64,
    /// Pause of a writer after each request.
    pub pause: Duration,
    /// The first attempt of every so many events is answered 500; 0 for none.
    pub fail_every: u64,
    /// How long the last deliveries may take.
    pub patience: Duration,
}

impl LedgerSettings {
    /// Small segments and buffers, so that rolls and flushes are under way all the time;
    /// 20 kills, 4 writers of each kind, a failure in 50.
    pub fn new(binary: PathBuf, work_dir: PathBuf) -> Self {
        let settings = [
            ("SYSTOLE_STORAGE_SEGMENT_BYTES", "1 MiB"),
            ("SYSTOLE_STORAGE_FLUSH_BYTES", "256 KiB"),
            ("SYSTOLE_STORAGE_FLUSH_INTERVAL_SECONDS", "0.2"),
        ];
        Self {
            binary,
            work_dir,
            settings: settings.map(|(name, value)| (name.to_owned(), value.to_owned())).to_vec(),
            kills: 20,
            seed: 1,
            writers: 4,
            pause: Duration::from_millis(2),
            fail_every: 50,
            patience: Duration::from_secs(60),
        }
    }
}

/// Why there is no report.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LedgerError {
    /// The server does not start.
    #[error("after {kills} kills the server does not start")]
    Process {
        /// How often it had been killed.
        kills: u64,
        /// What went wrong.
        #[source]
        source: ProcessError,
    },
    /// There is no receiver.
    #[error("the receiver cannot be started")]
    Receiver(#[from] ReceiverError),
    /// The secret of this run signs nothing; a bug.
    #[error("the run's secret signs nothing")]
    Secret(#[from] SecretError),
    /// The endpoint is not there.
    #[error("the webhook endpoint cannot be set up")]
    Webhook(#[from] WebhookError),
    /// What the server printed is no address.
    #[error("the server cannot be called")]
    Client(#[from] ClientError),
}

/// Runs it; `told` hears of every kill.
pub async fn ledger(
    settings: &LedgerSettings,
    told: impl Fn(u64, u64, u64),
) -> Result<LedgerReport, LedgerError> {
    let secret = made_secret();
    let since_1970 = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
    let plan = Plan::new(&settings.seed.to_string(), settings.writers, since_1970);
    let key = Key::prepare(Dialect::Standard, &secret)?;
    let books = Arc::new(Books::new(key, plan.clone(), settings.fail_every));
    let sink = Sink::start(1, Arc::clone(&books) as _)?;
    let begin = Instant::now();
    let mut servers = Servers::new(settings);
    servers.start().await?;
    let server = servers.current()?;
    Webhooks::new(&server).create(&endpoint(format!("{}/ledger", sink.url()), &secret)).await?;
    let desk = Arc::new(Desk {
        plan,
        server: servers.announced.subscribe(),
        enough: AtomicBool::new(false),
        pause: settings.pause,
        events: AtomicU64::new(0),
        samples: AtomicU64::new(0),
        unanswered: AtomicU64::new(0),
        put_off: AtomicU64::new(0),
    });
    let mut writers = JoinSet::new();
    for writer in 0..settings.writers {
        for kind in [Kind::Events, Kind::Samples] {
            writers.spawn(writer::write(Arc::clone(&desk), writer, kind));
        }
    }
    let mut random = Random::seeded(settings.seed);
    let (mut pending_events, mut pending_samples) = (0, 0);
    for kill in 1..=settings.kills {
        let moment = KILL_AFTER_MS.0 + random.below(KILL_AFTER_MS.1 - KILL_AFTER_MS.0);
        sleep(Duration::from_millis(moment)).await;
        let (events, samples) = desk.pending(&books);
        told(kill, events, samples);
        (pending_events, pending_samples) = (pending_events + events, pending_samples + samples);
        servers.kill().await;
        if kill % KILLED_RECOVERY_EVERY == 0 {
            servers.kill_recovery(Duration::from_millis(random.below(RECOVERY_KILL_MS_MAX))).await?;
        }
        servers.start().await?;
    }
    desk.enough.store(true, Ordering::Relaxed);
    let acknowledged = gather(writers).await;
    let end = Instant::now();
    let drained = drain(&books, &acknowledged, end + settings.patience).await.then(|| end.elapsed());
    sleep(SETTLE).await;
    let (events_missing, samples_missing) = missing(&books, &acknowledged);
    servers.kill().await;
    Ok(LedgerReport {
        kills: settings.kills,
        recoveries_killed: servers.recoveries_killed,
        seed: settings.seed,
        elapsed: begin.elapsed(),
        events: desk.events.load(Ordering::Relaxed),
        samples: desk.samples.load(Ordering::Relaxed),
        unanswered: desk.unanswered.load(Ordering::Relaxed),
        put_off: desk.put_off.load(Ordering::Relaxed),
        pending_events,
        pending_samples,
        events_missing,
        samples_missing,
        drained,
        received: books.received(),
        fault: acknowledged.into_iter().find_map(|writer| writer.fault),
        check: servers.check().await?,
    })
}

impl Desk {
    /// Events and samples that are acknowledged and not received yet.
    fn pending(&self, books: &Books) -> (u64, u64) {
        let (events, samples) = books.arrived();
        let open = |of: &AtomicU64, arrived| of.load(Ordering::Relaxed).saturating_sub(arrived);
        (open(&self.events, events), open(&self.samples, samples))
    }
}

/// The server, one process after the other.
struct Servers {
    binary: Binary,
    running: Option<Running>,
    /// What the writers send to.
    announced: watch::Sender<Option<Server>>,
    kills: u64,
    recoveries_killed: u64,
}

impl Servers {
    fn new(settings: &LedgerSettings) -> Self {
        let own = [("SYSTOLE_ADMIN_KEY", OPERATOR), ("SYSTOLE_DISPATCH_ALLOW_TARGETS", "127.0.0.0/8")];
        let own = own.map(|(name, value)| (name.to_owned(), value.to_owned()));
        let binary = Binary {
            path: settings.binary.clone(),
            data_dir: settings.work_dir.join("data"),
            log: settings.work_dir.join("server.log"),
            settings: settings.settings.iter().cloned().chain(own).collect(),
        };
        Self { binary, running: None, announced: watch::Sender::new(None), kills: 0, recoveries_killed: 0 }
    }

    async fn start(&mut self) -> Result<(), LedgerError> {
        let binary = self.binary.clone();
        let started = spawn_blocking(move || binary.start()).await.unwrap_or_else(pass_on);
        let running = started.map_err(|source| LedgerError::Process { kills: self.kills, source })?;
        let server = Server::new(running.url(), &ApiKey::new(OPERATOR))?;
        self.running = Some(running);
        self.announced.send_replace(Some(server));
        Ok(())
    }

    fn current(&self) -> Result<Server, ClientError> {
        let url = self.running.as_ref().map(Running::url).unwrap_or_default();
        Server::new(url, &ApiKey::new(OPERATOR))
    }

    async fn kill(&mut self) {
        let Some(running) = self.running.take() else { return };
        self.kills += 1;
        spawn_blocking(|| running.kill()).await.unwrap_or_else(pass_on);
        self.announced.send_replace(None);
    }

    async fn kill_recovery(&mut self, moment: Duration) -> Result<(), LedgerError> {
        let binary = self.binary.clone();
        let killed = spawn_blocking(move || binary.start_and_kill_after(moment)).await;
        self.recoveries_killed += 1;
        let killed = killed.unwrap_or_else(pass_on);
        killed.map_err(|source| LedgerError::Process { kills: self.kills, source })
    }

    async fn check(&self) -> Result<Result<(), String>, LedgerError> {
        let binary = self.binary.clone();
        let checked = spawn_blocking(move || binary.check()).await.unwrap_or_else(pass_on);
        checked.map_err(|source| LedgerError::Process { kills: self.kills, source })
    }
}

fn pass_on<T>(error: JoinError) -> T {
    std::panic::resume_unwind(error.into_panic())
}

async fn gather(mut writers: JoinSet<Acknowledged>) -> Vec<Acknowledged> {
    let mut all = Vec::new();
    while let Some(ended) = writers.join_next().await {
        all.push(ended.unwrap_or_else(pass_on));
    }
    all
}

/// Waits until everything is there; false if `until` came first.
async fn drain(books: &Books, acknowledged: &[Acknowledged], until: Instant) -> bool {
    while missing(books, acknowledged) != (0, 0) {
        if Instant::now() >= until {
            return false;
        }
        sleep(STEP).await;
    }
    true
}

/// Events and samples that were acknowledged and did not come.
fn missing(books: &Books, acknowledged: &[Acknowledged]) -> (u64, u64) {
    let (mut events, mut samples) = (0, 0);
    for writer in acknowledged {
        let lost = writer.events.iter().filter(|(number, id)| !books.has_event(*number, id));
        events += lost.count() as u64;
        samples += books.samples_missing(writer.writer, writer.samples);
    }
    (events, samples)
}
