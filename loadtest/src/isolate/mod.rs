//! Whether dead receivers harm the living: many endpoints of one user each, a steady
//! rate of events about all of them, first with every receiver alive, then with a part
//! of them dead, and the times of those that stay alive in both.
//!
//! ```text
//! endpoints made -> load, all alive: p99 -> a part gets dead URLs -> load: it fails -> load: p99 -> deleted
//! ```
//!
//! Each event reaches one endpoint. Times are from acknowledgement to receipt, as in
//! [`crate::deliver`]. Living receivers are one sink, dead ones one `dead` receiver
//! a kind: what a server keeps apart must be endpoints, not hosts.

mod dead;
mod report;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use tokio::task::{JoinHandle, JoinSet};
use tokio::time::{Instant, sleep};

use dead::Dead;
pub use dead::{DeadError, Kind, Shares, SharesError};
pub use report::{IsolateReport, P99_RATIO_MAX, Phase};

use crate::client::Server;
use crate::deliver::books::{Books, Content, Timed};
use crate::deliver::load::{Events, Load};
use crate::deliver::receipts::Receipts;
use crate::deliver::sender::{self, Offer, Sent};
use crate::deliver::{endpoint, made_secret, wait};
use crate::lean::LeanError;
use crate::observe::{Exposition, Memory};
use crate::receiver::ReceiverError;
use crate::report::error_chain;
use crate::signature::{Dialect, Key, Secret, SecretError};
use crate::sink::Sink;
use crate::webhooks::{EndpointId, EndpointSettings, WebhookError, Webhooks};

/// Endpoints that are made, changed or deleted at a time.
const HANDS: usize = 8;
/// How often progress is told.
const TOLD_EVERY: u64 = 1_000;
/// How often the server's memory is looked at.
const LOOK: Duration = Duration::from_millis(250);
const STEP: Duration = Duration::from_millis(50);
/// Ids that are remembered.
const REMEMBER_IDS: usize = 4_000_000;

/// What to run.
#[derive(Debug, Clone)]
pub struct IsolateSettings {
    /// Endpoints, a user each.
    pub endpoints: u64,
    /// How many of each hundred die.
    pub dead_percent: u64,
    /// Of which kinds.
    pub kinds: Shares,
    /// Events a second, about all users in turn.
    pub rate: u64,
    /// Size of an event's data.
    pub event_bytes: usize,
    /// Connections that publish.
    pub connections: u64,
    /// Load before each measured phase; the dead fail in it.
    pub settle: Duration,
    /// Length of each measured phase.
    pub duration: Duration,
    /// How long deliveries to the living may take once a load has ended.
    pub patience: Duration,
    /// Threads of the living receiver.
    pub receiver_threads: usize,
    /// The server's process, for its memory; else by what it says on `/metrics`.
    pub pid: Option<u32>,
    /// Tells the users of one run from those of another.
    pub run_prefix: String,
}

impl IsolateSettings {
    /// 10,000 endpoints, half of them dead in every way, 1,000 events a second, 20 s each.
    pub fn new(run_prefix: impl Into<String>) -> Self {
        Self {
            endpoints: 10_000,
            dead_percent: 50,
            kinds: Shares::even(),
            rate: 1_000,
            event_bytes: 1_000,
            connections: 16,
            settle: Duration::from_secs(20),
            duration: Duration::from_secs(20),
            patience: Duration::from_secs(30),
            receiver_threads: 1,
            pid: None,
            run_prefix: run_prefix.into(),
        }
    }
}

/// Why there is no report.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum IsolateError {
    /// There is no receiver.
    #[error("the receiver cannot be started")]
    Receiver(#[from] ReceiverError),
    /// There are no dead ones.
    #[error("the dead receivers cannot be started")]
    Dead(#[from] DeadError),
    /// An endpoint is not there.
    #[error("a webhook endpoint cannot be set up")]
    Webhook(#[from] WebhookError),
    /// The secret of this run signs nothing; a bug.
    #[error("the run's secret signs nothing")]
    Secret(#[from] SecretError),
    /// The load did not begin.
    #[error("a connection of the load was not opened")]
    Load(#[from] LeanError),
}

/// Runs it; `told` hears how many endpoints are made, changed and deleted.
pub async fn isolate(
    settings: &IsolateSettings,
    server: &Server,
    told: impl Fn(&str, u64),
) -> Result<IsolateReport, IsolateError> {
    let secret = made_secret();
    let prefix = format!("isolate-{}", settings.run_prefix);
    let events = Events::new(&prefix, settings.endpoints, settings.connections, settings.event_bytes);
    let living = Timed { users: settings.endpoints, without_percent: settings.dead_percent };
    let receipts = Arc::new(Receipts::new());
    let content = Content::Events { receipts: Arc::clone(&receipts), users: events.users, timed: living };
    let key = Key::prepare(Dialect::Standard, &secret)?;
    let books = Arc::new(Books::new(key, 10, content, REMEMBER_IDS));
    let sink = Sink::start(settings.receiver_threads, Arc::clone(&books) as _)?;
    let dead = Dead::start(&secret)?;
    let run = Run { settings, server, living, receipts, books, users: events.users, events };
    let mut made = Vec::new();
    let driven = run.drive(&sink, &dead, &secret, &mut made, &told).await;
    let left_behind = delete(server, &made, &told).await;
    let mut report = driven?;
    report.left_behind = left_behind;
    Ok(report)
}

/// What all phases of a run read.
struct Run<'a> {
    settings: &'a IsolateSettings,
    server: &'a Server,
    living: Timed,
    receipts: Arc<Receipts>,
    books: Arc<Books>,
    /// A multiple of the connections: those beyond the endpoints have none.
    users: u64,
    events: Events,
}

impl Run<'_> {
    async fn drive(
        &self,
        sink: &Sink,
        dead: &Dead,
        secret: &Secret,
        made: &mut Vec<(u64, EndpointId)>,
        told: &impl Fn(&str, u64),
    ) -> Result<IsolateReport, IsolateError> {
        let memory_before = self.memory().await;
        let since = Instant::now();
        self.make(sink, secret, made, told).await?;
        let set_up = since.elapsed();
        let memory_made = self.memory().await;
        let (alive, turns) = self.phase(0).await?;
        self.kill(dead, made, told).await?;
        let (with_dead, _) = self.phase(turns).await?;
        let progress = self.receipts.progress(|number| self.living.has(number % self.users));
        Ok(IsolateReport {
            endpoints: self.settings.endpoints,
            dead: (0..self.settings.endpoints).filter(|user| !self.living.has(*user)).count() as u64,
            kinds: self.settings.kinds.to_string(),
            rate: self.settings.rate,
            set_up,
            memory_before,
            memory_made,
            alive,
            with_dead,
            missing: progress.missing,
            dead_attempts: dead.attempts(),
            redirects_followed: dead.followed(),
            counted: self.books.counted(),
            left_behind: None,
        })
    }

    /// Makes an endpoint for each user.
    async fn make(
        &self,
        sink: &Sink,
        secret: &Secret,
        made: &mut Vec<(u64, EndpointId)>,
        told: &impl Fn(&str, u64),
    ) -> Result<(), WebhookError> {
        let webhooks = Webhooks::new(self.server);
        let mut hands = JoinSet::new();
        for user in 0..self.settings.endpoints {
            let settings = EndpointSettings {
                user_id: Some(self.events.user_id(user)),
                ..endpoint(format!("{}/live", sink.url()), secret)
            };
            let webhooks = webhooks.clone();
            hands.spawn(async move { webhooks.create(&settings).await.map(|id| (user, id)) });
            if hands.len() >= HANDS {
                take_made(&mut hands, made, told).await?;
            }
        }
        while !hands.is_empty() {
            take_made(&mut hands, made, told).await?;
        }
        made.sort_unstable();
        Ok(())
    }

    /// Gives the endpoints that die the addresses of dead receivers.
    async fn kill(
        &self,
        dead: &Dead,
        made: &[(u64, EndpointId)],
        told: &impl Fn(&str, u64),
    ) -> Result<(), WebhookError> {
        let webhooks = Webhooks::new(self.server);
        let mut hands = JoinSet::new();
        let dying = made.iter().filter(|(user, _)| !self.living.has(*user));
        for (number, (_, id)) in (0_u64..).zip(dying) {
            let (webhooks, id) = (webhooks.clone(), id.clone());
            let url = dead.url(self.settings.kinds.kind_of(number));
            hands.spawn(async move { webhooks.redirect(&id, &url).await });
            if hands.len() >= HANDS {
                join(&mut hands).await?;
            }
            if (number + 1).is_multiple_of(TOLD_EVERY) {
                told("dead", number + 1);
            }
        }
        while !hands.is_empty() {
            join(&mut hands).await?;
        }
        Ok(())
    }

    /// A load from `first_turn` on, of which the second part is measured.
    async fn phase(&self, first_turn: u64) -> Result<(Phase, u64), IsolateError> {
        let settings = self.settings;
        let load = Load::Events(self.events.clone());
        let mut offer = Offer::new(load, self.server, Some(settings.rate as f64));
        offer.receipts = Some(Arc::clone(&self.receipts));
        let offer = Arc::new(offer);
        let sending =
            tokio::spawn(sender::join(sender::start(&offer, settings.connections, first_turn).await?));
        let watch = self.watch();
        wait(settings.settle, &sending).await;
        let (before, begin) = (offer.acknowledged(), Instant::now());
        self.receipts.take_latency();
        wait(settings.duration, &sending).await;
        let (latency, measured) = (self.receipts.take_latency().percentiles(), begin.elapsed());
        let acknowledged = offer.acknowledged() - before;
        offer.stop();
        let Sent { unsure, first_error, turns, .. } =
            sending.await.unwrap_or_else(|error| std::panic::resume_unwind(error.into_panic()));
        let end = Instant::now();
        let drained = self.drain(end + settings.patience).await.then(|| end.elapsed());
        let exposition = Exposition::fetch(self.server).await.unwrap_or_default();
        let gauge = |name| exposition.get(name);
        let phase = Phase {
            acknowledged,
            measured,
            latency,
            drained,
            unsure,
            first_error,
            memory_most: watch.end().await,
            retries_waiting: gauge("systole_webhook_retries_waiting"),
            lanes_behind: gauge("systole_webhook_lanes_behind"),
        };
        Ok((phase, turns))
    }

    /// Waits until nothing of the living is missing; false if `until` came first.
    async fn drain(&self, until: Instant) -> bool {
        while self.receipts.progress(|number| self.living.has(number % self.users)).missing > 0 {
            if Instant::now() >= until {
                return false;
            }
            sleep(STEP).await;
        }
        true
    }

    async fn memory(&self) -> Option<u64> {
        resident(self.settings.pid, self.server).await
    }

    /// Looks at the server's memory until it is ended.
    fn watch(&self) -> Watch {
        let (most, done) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicBool::new(false)));
        let (pid, server) = (self.settings.pid, self.server.clone());
        let (seen, ended) = (Arc::clone(&most), Arc::clone(&done));
        let looking = tokio::spawn(async move {
            while !ended.load(Ordering::Relaxed) {
                if let Some(bytes) = resident(pid, &server).await {
                    seen.fetch_max(bytes, Ordering::Relaxed);
                }
                sleep(LOOK).await;
            }
        });
        Watch { most, done, looking }
    }
}

/// The most memory that was seen.
struct Watch {
    most: Arc<AtomicU64>,
    done: Arc<AtomicBool>,
    looking: JoinHandle<()>,
}

impl Watch {
    async fn end(self) -> Option<u64> {
        self.done.store(true, Ordering::Relaxed);
        self.looking.await.unwrap_or_else(|error| std::panic::resume_unwind(error.into_panic()));
        Some(self.most.load(Ordering::Relaxed)).filter(|bytes| *bytes > 0)
    }
}

/// Bytes that the server has in memory, as far as anybody tells.
async fn resident(pid: Option<u32>, server: &Server) -> Option<u64> {
    match pid {
        Some(pid) => Memory::of(pid).map(|memory| memory.resident),
        None => {
            let exposition = Exposition::fetch(server).await.ok()?;
            exposition.get("process_resident_memory_bytes").map(|bytes| bytes as u64)
        }
    }
}

type Hands<T> = JoinSet<Result<T, WebhookError>>;

async fn take_made(
    hands: &mut Hands<(u64, EndpointId)>,
    made: &mut Vec<(u64, EndpointId)>,
    told: &impl Fn(&str, u64),
) -> Result<(), WebhookError> {
    if let Some(one) = join(hands).await? {
        made.push(one);
        if (made.len() as u64).is_multiple_of(TOLD_EVERY) {
            told("made", made.len() as u64);
        }
    }
    Ok(())
}

async fn join<T: 'static>(hands: &mut Hands<T>) -> Result<Option<T>, WebhookError> {
    match hands.join_next().await {
        Some(ended) => ended.unwrap_or_else(|error| std::panic::resume_unwind(error.into_panic())).map(Some),
        None => Ok(None),
    }
}

/// Deletes every endpoint; the first reason why one is left behind.
async fn delete(server: &Server, made: &[(u64, EndpointId)], told: &impl Fn(&str, u64)) -> Option<String> {
    let (webhooks, left_behind) = (Webhooks::new(server), Mutex::new(None));
    let mut hands: Hands<()> = JoinSet::new();
    let note = |ended: Result<Option<()>, WebhookError>| {
        if let Err(error) = ended {
            left_behind.lock().get_or_insert_with(|| error_chain(&error));
        }
    };
    for (number, (_, id)) in (1_u64..).zip(made) {
        let (webhooks, id) = (webhooks.clone(), id.clone());
        hands.spawn(async move { webhooks.delete(&id).await });
        if hands.len() >= HANDS {
            note(join(&mut hands).await);
        }
        if number.is_multiple_of(TOLD_EVERY) {
            told("deleted", number);
        }
    }
    while !hands.is_empty() {
        note(join(&mut hands).await);
    }
    left_behind.into_inner()
}
