//! The dispatcher: lanes, the router that feeds them, and what runs beside.
//!
//! ```text
//! router thread   reads events once, offers each to the lanes that want it
//! workers         on the dispatch runtime: render, sign, send
//! keeper          every 100 ms: exceptions that are due, lanes that lag
//! saver           every 200 ms: what must survive a crash, in one transaction
//! ```
//!
//! Whoever starts it keeps it, and stops it: requests in flight get some seconds to
//! end, then what is undecided is left to the next start.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use hashbrown::HashMap;
use parking_lot::Mutex;
use tokio::runtime::{Builder, Handle, Runtime};
use tokio::sync::{Semaphore, SemaphorePermit};

use crate::client::Client;
use crate::endpoint::EndpointSettings;
use crate::event::{Cursor, Event, EventKind, EventLog, Payload, PayloadSource, Place, ReadFault, Step};
use crate::id::IdCipher;
use crate::lane::{Collected, Lane, Outcome, now_ms, post_example};
use crate::ledger::{Changes, Ledger, SAVE_INTERVAL};
use crate::router::Router;
use crate::topic::Topics;

/// How often lanes are looked at for what is due.
const KEEPER_INTERVAL: Duration = Duration::from_millis(100);
/// Events routed between two looks at the lanes' joins.
const ROUTED_AT_ONCE: usize = 256;
/// Lanes that read the journal at once.
const READERS_MAX: usize = 4;
/// How long requests in flight may take to end at a stop.
const STOP_GRACE: Duration = Duration::from_secs(5);
/// Bodies are counted by this unit, as a semaphore counts to 2^29 or so.
const MEMORY_UNIT: usize = 1024;

/// Sizes a dispatcher runs with.
#[derive(Clone, Copy, Debug)]
pub struct DispatchSettings {
    /// Threads that render, sign and send.
    pub threads: usize,
    /// Bytes of bodies in flight to all receivers; beyond it deliveries wait.
    pub memory_bytes: usize,
}

impl Default for DispatchSettings {
    fn default() -> DispatchSettings {
        DispatchSettings { threads: 2, memory_bytes: 256 * 1024 * 1024 }
    }
}

/// What a dispatcher is made of.
pub struct DispatchParts {
    /// Sizes.
    pub settings: DispatchSettings,
    /// The bodies.
    pub source: Arc<dyn PayloadSource>,
    /// The events.
    pub log: Arc<dyn EventLog>,
    /// What survives.
    pub ledger: Arc<dyn Ledger>,
    /// What events are called.
    pub topics: Arc<Topics>,
    /// Connections to receivers.
    pub client: Client,
    /// Places as ids.
    pub ids: IdCipher,
    /// Lanes of the last run.
    pub lanes: Vec<Arc<Lane>>,
    /// Where the router begins.
    pub routed: Cursor,
}

/// What workers, router, keeper and saver share.
pub(crate) struct Shared {
    pub(crate) source: Arc<dyn PayloadSource>,
    pub(crate) log: Arc<dyn EventLog>,
    pub(crate) topics: Arc<Topics>,
    pub(crate) client: Client,
    pub(crate) ids: IdCipher,
    pub(crate) handle: Handle,
    /// Bodies in flight, in units of [`MEMORY_UNIT`]; full waits.
    memory: Memory,
    /// The same for lanes whose last attempt failed, so that receivers that hang do
    /// not hold what the others need.
    failing_memory: Memory,
    /// Turns to read the journal; full waits.
    pub(crate) readers: Semaphore,
    pub(crate) counters: Counters,
    /// Where the router is; held while it routes, so that a lane can join.
    pub(crate) routed: Mutex<Cursor>,
    /// The same for whoever only wants to know.
    routed_sequence: AtomicU64,
    /// Every event with an ordering up to this was routed.
    settled: AtomicU64,
    ledger: Arc<dyn Ledger>,
    lanes: Mutex<HashMap<String, Arc<Lane>>>,
    router: Router,
    stopping: AtomicBool,
}

impl fmt::Debug for Shared {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Shared").finish_non_exhaustive()
    }
}

/// What is counted.
#[derive(Debug, Default)]
pub(crate) struct Counters {
    delivered: AtomicU64,
    failed: AtomicU64,
    given_up: AtomicU64,
    payload_gone: AtomicU64,
    routed_events: AtomicU64,
    attempts: AtomicU64,
    attempt_nanos: AtomicU64,
    statements: AtomicU64,
}

/// Counters at one moment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct DispatchStats {
    /// Deliveries that were answered 2xx.
    pub delivered: u64,
    /// Attempts that were not.
    pub failed: u64,
    /// Deliveries whose schedule ended.
    pub given_up: u64,
    /// Deliveries whose payload was gone.
    pub payload_gone: u64,
    /// Events that were offered to lanes, each once a lane.
    pub routed_events: u64,
    /// Time that attempts took, together.
    pub attempt_nanos: u64,
    /// Attempts made.
    pub attempts: u64,
    /// Statements that saving took.
    pub statements: u64,
    /// Endpoints.
    pub endpoints: u64,
    /// Deliveries that wait for another attempt.
    pub retries_waiting: u64,
    /// Requests in flight.
    pub in_flight: u64,
    /// Lanes that read the journal themselves.
    pub lanes_behind: u64,
    /// Everything up to this sequence was routed.
    pub routed_sequence: u64,
}

impl Counters {
    pub(crate) fn delivered(&self) {
        self.delivered.fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn failed(&self) {
        self.failed.fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn given_up(&self) {
        self.given_up.fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn payload_gone(&self) {
        self.payload_gone.fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn observe(&self, took: Duration, _: &Outcome) {
        self.attempts.fetch_add(1, Ordering::Relaxed);
        let nanos = u64::try_from(took.as_nanos()).unwrap_or(u64::MAX);
        self.attempt_nanos.fetch_add(nanos, Ordering::Relaxed);
    }
}

/// A share of the bytes that bodies may hold.
struct Memory {
    permits: Semaphore,
    units: u32,
}

impl Memory {
    fn new(bytes: usize) -> Memory {
        let units = (bytes / MEMORY_UNIT).clamp(1, Semaphore::MAX_PERMITS.min(u32::MAX as usize));
        Memory { permits: Semaphore::new(units), units: u32::try_from(units).unwrap_or(u32::MAX) }
    }
}

impl Shared {
    /// Room for a body of `bytes`; one that is longer than all there is takes all of
    /// it. `None` when the server stops.
    pub(crate) async fn memory(&self, bytes: usize, failing: bool) -> Option<SemaphorePermit<'_>> {
        let memory = if failing { &self.failing_memory } else { &self.memory };
        let share = u32::try_from(bytes.div_ceil(MEMORY_UNIT)).unwrap_or(u32::MAX).min(memory.units);
        memory.permits.acquire_many(share).await.ok()
    }

    pub(crate) fn is_stopping(&self) -> bool {
        self.stopping.load(Ordering::Acquire)
    }

    /// Every event with an ordering up to this was routed.
    pub(crate) fn settled(&self) -> u64 {
        self.settled.load(Ordering::Acquire)
    }

    /// Finds out how far the events are that were routed.
    fn settle(&self) {
        let settled = self.log.settle();
        if *self.routed.lock() >= Cursor::behind(settled.head) {
            self.settled.fetch_max(settled.ordering, Ordering::AcqRel);
        }
    }

    /// Whether an endpoint wants an event of its organisation.
    pub(crate) fn wants(&self, settings: &EndpointSettings, event: &Event) -> bool {
        let user = settings.user_id.as_deref();
        user.is_none_or(|user| event.user.as_deref() == Some(user))
            && self.topics.get(event.topic).name_for(settings, event.place.kind).is_some()
    }

    /// A receiver answered that it wants nothing any more.
    pub(crate) fn switch_off(self: &Arc<Shared>, lane: &Arc<Lane>) {
        lane.deactivate();
        tracing::warn!(endpoint = lane.id, "endpoint switched off: its receiver answered 410");
        let (shared, lane) = (self.clone(), lane.clone());
        self.handle.spawn_blocking(move || {
            shared.reroute(&lane);
            if let Err(fault) = shared.ledger.switch_off(&lane.id) {
                tracing::error!(endpoint = lane.id, error = %fault, "could not store that an endpoint is off");
            }
        });
    }

    /// Puts a lane where its settings want it in the router's index, unless it was
    /// taken out meanwhile.
    fn reroute(&self, lane: &Arc<Lane>) {
        // Held, so that none is in the index that is not among the lanes.
        let lanes = self.lanes.lock();
        if lanes.contains_key(&lane.id) {
            self.router.set(lane, &self.topics);
        }
    }

    fn lanes(&self) -> Vec<Arc<Lane>> {
        self.lanes.lock().values().cloned().collect()
    }

    /// Gathers what must survive a crash and saves it, if there is anything new.
    fn save(&self, last: &mut (u64, u64)) {
        let routed = *self.routed.lock();
        let mut changes = Changes::default();
        let lanes = self.lanes();
        let collected: Vec<Collected> = lanes.iter().map(|lane| lane.collect(routed, &mut changes)).collect();
        let holds = collected.iter().filter_map(|lane| lane.holds).min().unwrap_or(routed).min(routed);
        changes.routed = holds.sequence.saturating_sub(1);
        let needs = collected.iter().map(|lane| lane.needs).min().unwrap_or(u64::MAX).min(holds.sequence);
        changes.floor = needs.saturating_sub(1);
        let rows = changes.wiped.len()
            + changes.cursors.len()
            + changes.caught_up.len()
            + changes.failed.len()
            + changes.settled.len();
        if rows == 0 && *last == (changes.routed, changes.floor) {
            return;
        }
        match self.ledger.save(&changes) {
            Ok(()) => {
                *last = (changes.routed, changes.floor);
                let positions = u64::from(!lanes.is_empty());
                self.counters.statements.fetch_add(rows as u64 + positions, Ordering::Relaxed);
                for (lane, collected) in lanes.iter().zip(&collected) {
                    lane.saved(collected, &changes);
                }
            }
            Err(fault) => {
                tracing::error!(error = %fault, "delivery positions could not be saved, trying again")
            }
        }
    }
}

/// Lanes and what runs for them.
#[derive(Debug)]
pub struct Dispatcher {
    shared: Arc<Shared>,
    runtime: Mutex<Option<Runtime>>,
}

impl Dispatcher {
    /// Starts runtime, keeper and saver; the router runs in [`Dispatcher::route`].
    ///
    /// # Errors
    /// The system's, if threads cannot be started.
    pub fn start(parts: DispatchParts) -> std::io::Result<Dispatcher> {
        let runtime = Builder::new_multi_thread()
            .worker_threads(parts.settings.threads.max(1))
            .thread_name("dispatch")
            .enable_all()
            .build()?;
        let router = Router::new(&parts.lanes, &parts.topics);
        let lanes = parts.lanes.into_iter().map(|lane| (lane.id.clone(), lane)).collect();
        let shared = Arc::new(Shared {
            source: parts.source,
            log: parts.log,
            topics: parts.topics,
            client: parts.client,
            ids: parts.ids,
            handle: runtime.handle().clone(),
            memory: Memory::new(parts.settings.memory_bytes / 4 * 3),
            failing_memory: Memory::new(parts.settings.memory_bytes / 4),
            readers: Semaphore::new(READERS_MAX),
            counters: Counters::default(),
            routed: Mutex::new(parts.routed),
            routed_sequence: AtomicU64::new(parts.routed.sequence.saturating_sub(1)),
            settled: AtomicU64::new(0),
            ledger: parts.ledger,
            lanes: Mutex::new(lanes),
            router,
            stopping: AtomicBool::new(false),
        });
        runtime.spawn(keep(shared.clone()));
        runtime.spawn(save_often(shared.clone()));
        Ok(Dispatcher { shared, runtime: Mutex::new(Some(runtime)) })
    }

    /// Routes events until the log stops. Blocks: give it a thread of its own.
    /// `wanted` tells from which sequence on an organisation has endpoints.
    pub fn route(&self, wanted: impl Fn(&str) -> Option<u64>) {
        let shared = &self.shared;
        let mut reader = shared.log.reader(*shared.routed.lock());
        loop {
            match self.route_some(&wanted, &mut reader) {
                Ok(true) if shared.is_stopping() => break,
                Ok(true) => {}
                Ok(false) => {
                    if !shared.log.wait(reader.seen()) || shared.is_stopping() {
                        break;
                    }
                }
                Err(ReadFault::Dropped { through }) => {
                    shared.counters.payload_gone();
                    tracing::error!(through, "events were dropped before they were routed");
                    let from = Cursor::behind(through);
                    *shared.routed.lock() = from;
                    reader = shared.log.reader(from);
                }
                Err(fault) => {
                    tracing::error!(error = %fault, "the router cannot read the journal, trying again");
                    std::thread::sleep(Duration::from_secs(1));
                }
            }
        }
        tracing::info!("router stopped");
    }

    /// Routes a few events; false at the end of what there is.
    fn route_some(
        &self,
        wanted: &impl Fn(&str) -> Option<u64>,
        reader: &mut Box<dyn crate::event::EventReader>,
    ) -> Result<bool, ReadFault> {
        let shared = &self.shared;
        let end = Cursor { sequence: u64::MAX, ordinal: 0 };
        let mut touched: Vec<Arc<Lane>> = Vec::new();
        let mut outcome = Ok(true);
        {
            let mut routed = shared.routed.lock();
            for _ in 0..ROUTED_AT_ONCE {
                match reader.next(wanted, end) {
                    Ok(Step::Event(event)) => {
                        // Behind the read: who registered before it is in there.
                        shared.router.routes().for_each(&event, &shared.topics, |lane| {
                            shared.counters.routed_events.fetch_add(1, Ordering::Relaxed);
                            if lane.offer(&event) && lane.touch() {
                                touched.push(lane.clone());
                            }
                        });
                    }
                    Ok(Step::Pause) => {
                        outcome = Ok(false);
                        break;
                    }
                    Err(fault) => {
                        outcome = Err(fault);
                        break;
                    }
                }
            }
            // Also after a fault: what was offered was routed.
            *routed = reader.cursor();
            shared.routed_sequence.store(routed.sequence.saturating_sub(1), Ordering::Relaxed);
        }
        touched.iter().for_each(|lane| lane.pump_touched(shared));
        outcome
    }

    /// Adds a lane.
    pub fn add(&self, lane: Arc<Lane>) {
        self.shared.lanes.lock().insert(lane.id.clone(), lane.clone());
        self.shared.reroute(&lane);
        lane.tend(&self.shared, now_ms());
    }

    /// Takes a lane out and ends what waits for it.
    pub fn remove(&self, id: &str) {
        let mut lanes = self.shared.lanes.lock();
        if let Some(lane) = lanes.remove(id) {
            lane.switch_off();
        }
        self.shared.router.remove(id);
    }

    /// The lane of an endpoint.
    #[must_use]
    pub fn lane(&self, id: &str) -> Option<Arc<Lane>> {
        self.shared.lanes.lock().get(id).cloned()
    }

    /// Ends deliveries of an organisation that wait for another attempt and for which
    /// `is_gone` is true; returns how many. Blocks.
    pub fn give_up(&self, org: &str, is_gone: &dyn Fn(Place) -> bool) -> u64 {
        let lanes = self.shared.lanes();
        lanes.iter().filter(|lane| *lane.org == *org).map(|lane| lane.give_up(is_gone)).sum()
    }

    /// A lane's settings changed.
    pub fn changed(&self, lane: &Arc<Lane>) {
        self.shared.reroute(lane);
    }

    /// Sends an example to one endpoint, once.
    pub fn send_example(&self, lane: Arc<Lane>, id: String, name: Option<String>, payload: Box<dyn Payload>) {
        let shared = self.shared.clone();
        self.shared.handle.spawn(async move { post_example(&shared, &lane, id, name, payload).await });
    }

    /// An event's id.
    #[must_use]
    pub fn id_of(&self, sequence: u64) -> String {
        let place = crate::event::Place { sequence, group: 0, chunk: 0, kind: EventKind::Published };
        self.shared.ids.seal(place, 0)
    }

    /// What is counted, now.
    #[must_use]
    pub fn stats(&self) -> DispatchStats {
        let counters = &self.shared.counters;
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        let lanes = self.shared.lanes();
        DispatchStats {
            delivered: read(&counters.delivered),
            failed: read(&counters.failed),
            given_up: read(&counters.given_up),
            payload_gone: read(&counters.payload_gone),
            routed_events: read(&counters.routed_events),
            attempt_nanos: read(&counters.attempt_nanos),
            attempts: read(&counters.attempts),
            statements: read(&counters.statements),
            endpoints: lanes.len() as u64,
            retries_waiting: lanes.iter().map(|lane| lane.exception_count() as u64).sum(),
            in_flight: lanes.iter().map(|lane| lane.in_flight() as u64).sum(),
            lanes_behind: lanes.iter().filter(|lane| lane.is_behind()).count() as u64,
            routed_sequence: self.shared.routed_sequence.load(Ordering::Relaxed),
        }
    }

    /// Begins no further delivery, lets those in flight end for some seconds, and
    /// saves where everybody is. Blocks; must not be called on a runtime's thread.
    pub fn stop(&self) {
        self.shared.stopping.store(true, Ordering::Release);
        let Some(runtime) = self.runtime.lock().take() else { return };
        let deadline = std::time::Instant::now() + STOP_GRACE;
        while std::time::Instant::now() < deadline
            && self.shared.lanes().iter().any(|lane| lane.in_flight() > 0)
        {
            std::thread::sleep(Duration::from_millis(20));
        }
        // Twice: failures of the last moment count as decided once they are saved.
        self.shared.save(&mut (0, 0));
        self.shared.save(&mut (0, 0));
        runtime.shutdown_timeout(Duration::from_secs(1));
        tracing::info!("deliveries parked");
    }
}

async fn keep(shared: Arc<Shared>) {
    let mut ticks = tokio::time::interval(KEEPER_INTERVAL);
    while !shared.is_stopping() {
        ticks.tick().await;
        let now = now_ms();
        shared.settle();
        for lane in shared.lanes() {
            lane.tend(&shared, now);
        }
    }
}

async fn save_often(shared: Arc<Shared>) {
    let mut ticks = tokio::time::interval(SAVE_INTERVAL);
    let mut last = (u64::MAX, u64::MAX);
    while !shared.is_stopping() {
        ticks.tick().await;
        let saver = shared.clone();
        let saved = tokio::task::spawn_blocking(move || {
            saver.save(&mut last);
            last
        });
        match saved.await {
            Ok(now) => last = now,
            Err(_) => break,
        }
    }
}
