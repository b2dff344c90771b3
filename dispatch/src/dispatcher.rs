//! The dispatcher: lanes, the router that feeds them, and what runs beside.
//!
//! ```text
//! router thread   reads events once, offers each to the lanes that want it
//! workers         of two crews: render, sign, send
//! keeper          when something of a lane is due, looks at it
//! saver thread    every 200 ms: what must survive a crash, in one transaction
//! ```
//!
//! Lanes of receivers that may not answer are worked for by a crew of their own, whose
//! thread gives way to the others' (see `crew`).
//!
//! Whoever starts it keeps it, and stops it: requests in flight, and those that were
//! taken to be sent by hand, get some seconds to end, then what is undecided is left to
//! the next start.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use hashbrown::HashMap;
use parking_lot::{Mutex, MutexGuard};
use tokio::runtime::Runtime;
use tokio::sync::Semaphore;

use crate::attempt::DeliveryLog;
use crate::client::{CONNECTIONS_MAX, Client, chain};
use crate::clock::Clock;
use crate::counters::Counters;
use crate::crew::Crews;
use crate::endpoint::EndpointSettings;
use crate::event::{Cursor, Event, EventKind, EventLog, Payload, PayloadSource, Place, ReadFault, Step};
use crate::id::IdCipher;
use crate::keeper::keep;
use crate::lane::{Agenda, Asked, Lane, LaneStats, ManualRoom, ReadTurns, Sums};
use crate::ledger::{BacklogKind, GivenUp, Ledger};
use crate::memory::Memory;
use crate::notice::{DisabledReason, EndpointDisabled, Notice, Notices};
use crate::promise::Promise;
use crate::room::Standing;
use crate::router::Router;
use crate::saver::{Save, Saver, save_often};
use crate::topic::Topics;

pub use crate::counters::DispatchStats;

/// Events routed between two looks at the lanes' joins.
const ROUTED_AT_ONCE: usize = 256;
/// How long requests in flight, or taken to be sent by hand, may take to end at a stop.
const STOP_GRACE: Duration = Duration::from_secs(5);
/// How soon it is tried again to store that an endpoint is off.
const STORE_AGAIN: Duration = Duration::from_secs(1);

/// Sizes a dispatcher runs with.
#[derive(Clone, Copy, Debug)]
pub struct DispatchSettings {
    /// Threads that render, sign and send.
    pub threads: usize,
    /// Bytes of bodies that are not written yet, to all receivers; beyond it deliveries
    /// wait.
    pub memory_bytes: usize,
    /// Connections to receivers that may be open, for whoever makes the client.
    pub connections_max: usize,
}

impl Default for DispatchSettings {
    fn default() -> DispatchSettings {
        DispatchSettings { threads: 2, memory_bytes: 256 * 1024 * 1024, connections_max: CONNECTIONS_MAX }
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
    /// What keeps attempts.
    pub deliveries: Arc<dyn DeliveryLog>,
    /// What publishes notices.
    pub notices: Arc<dyn Notices>,
    /// The time.
    pub clock: Clock,
    /// Lowers the calling thread's priority: called by threads that give way to those that
    /// deliver.
    pub give_way: fn(),
}

/// What workers, router, keeper and saver share.
pub(crate) struct Shared {
    pub(crate) source: Arc<dyn PayloadSource>,
    pub(crate) log: Arc<dyn EventLog>,
    pub(crate) topics: Arc<Topics>,
    pub(crate) crews: Crews,
    pub(crate) ids: IdCipher,
    pub(crate) deliveries: Arc<dyn DeliveryLog>,
    pub(crate) notices: Arc<dyn Notices>,
    pub(crate) clock: Clock,
    /// Of bodies until they are written; full waits.
    memory: Memory,
    /// The same for receivers that have neither taken anything nor failed, and for those that
    /// fail, so that who hangs does not hold what the others need.
    unknown_memory: Memory,
    failing_memory: Memory,
    /// Whoever stores that an endpoint is off. The ledger does so one by one, and threads that
    /// wait for it are missing elsewhere.
    switching: Semaphore,
    /// Turns to read the journal; full waits.
    pub(crate) readers: ReadTurns,
    pub(crate) counters: Counters,
    /// Where the router is; held while it routes, so that a lane can join.
    pub(crate) routed: Mutex<Cursor>,
    /// The same for whoever only wants to know.
    routed_sequence: AtomicU64,
    /// Every event with an ordering up to this was routed.
    settled: AtomicU64,
    promise: Mutex<Promise>,
    pub(crate) ledger: Arc<dyn Ledger>,
    pub(crate) agenda: Arc<Agenda>,
    pub(crate) saver: Mutex<Saver>,
    /// What requests that are sent by hand may hold, over all lanes.
    pub(crate) manual: ManualRoom,
    pub(crate) lanes: Mutex<HashMap<String, Arc<Lane>>>,
    router: Router,
    stopping: AtomicBool,
}

impl fmt::Debug for Shared {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Shared").finish_non_exhaustive()
    }
}

impl Shared {
    /// What bodies may hold for receivers that stand so; closed when the server stops.
    pub(crate) fn memory(&self, standing: Standing) -> &Memory {
        match standing {
            Standing::Answers => &self.memory,
            Standing::Unknown => &self.unknown_memory,
            Standing::Fails => &self.failing_memory,
        }
    }

    pub(crate) fn is_stopping(&self) -> bool {
        self.stopping.load(Ordering::Acquire)
    }

    /// Every event with an ordering up to this was routed.
    pub(crate) fn settled(&self) -> u64 {
        self.settled.load(Ordering::Acquire)
    }

    /// Finds out how far the events are that were routed.
    pub(crate) fn settle(&self) {
        let promised = self.log.settle();
        let routed = *self.routed.lock();
        if let Some(ordering) = self.promise.lock().keep(promised, routed) {
            self.settled.fetch_max(ordering, Ordering::AcqRel);
        }
    }

    /// Whether an endpoint wants an event of its organisation.
    pub(crate) fn wants(&self, endpoint: &str, settings: &EndpointSettings, event: &Event) -> bool {
        let user = settings.user_id.as_deref();
        user.is_none_or(|user| event.user.as_deref() == Some(user))
            && event.about.as_deref() != Some(endpoint)
            && self.topics.get(event.topic).name_for(settings, event.place.kind).is_some()
    }

    /// A receiver wants nothing any more, or only failed for too long: this generation of its
    /// lane begins nothing more, and forgets what waits once that is stored.
    pub(crate) fn switch_off(
        self: &Arc<Shared>,
        lane: &Arc<Lane>,
        generation: u64,
        reason: DisabledReason,
        failing_since_ms: Option<i64>,
    ) {
        tracing::warn!(endpoint = &*lane.id, reason = reason.as_str(), "endpoint switched off");
        let (endpoint, org, at_ms) = (lane.id.clone(), lane.org.clone(), self.clock.now_ms());
        let disabled = EndpointDisabled { endpoint, org, reason, failing_since_ms, at_ms };
        let (shared, lane) = (self.clone(), lane.clone());
        self.crews.living.handle.spawn(async move {
            while !shared.store_off(&lane, generation, &disabled).await && !shared.is_stopping() {
                tokio::time::sleep(STORE_AGAIN).await;
            }
        });
    }

    /// Stores that an endpoint is off, unless it was switched or deleted meanwhile, and
    /// announces it once no restart finds it on again; false if it could not be stored. A
    /// notice that finds no room is found in the ledger later.
    async fn store_off(
        self: &Arc<Shared>,
        lane: &Arc<Lane>,
        generation: u64,
        disabled: &EndpointDisabled,
    ) -> bool {
        let Ok(_turn) = self.switching.acquire().await else { return false };
        let (shared, lane, disabled) = (self.clone(), lane.clone(), disabled.clone());
        let stored = tokio::task::spawn_blocking(move || {
            let is_ending = || lane.is_ending(generation);
            let ended = || {
                // Not before: what came meanwhile is its own, if a restart finds it on.
                lane.deactivated(generation);
                shared.reroute(&lane);
            };
            match shared.ledger.switch_off(&disabled, &is_ending, &ended) {
                Ok(is_stored) => {
                    if is_stored {
                        shared.notices.publish(Notice::EndpointDisabled(disabled));
                    }
                }
                Err(fault) => {
                    tracing::error!(
                        endpoint = &*lane.id,
                        error = chain(&fault),
                        "cannot store that an endpoint is off, trying again"
                    );
                    return false;
                }
            }
            true
        });
        // One that panicked is tried again: nobody else ends the lane.
        stored.await.unwrap_or(false)
    }

    /// Puts a lane where its settings want it in the router's index, unless it was
    /// taken out meanwhile.
    fn reroute(&self, lane: &Arc<Lane>) {
        // Held, so that none is in the index that is not among the lanes.
        let lanes = self.lanes.lock();
        if lanes.contains_key(&*lane.id) {
            self.router.set(lane, &self.topics);
        }
    }

    /// Whether a request is in flight, or was taken to be sent by hand.
    fn is_busy(&self) -> bool {
        !self.manual.is_free() || self.lanes().iter().any(|lane| lane.in_flight() > 0)
    }

    /// Passes over what was dropped before it was routed, up to `through`: to each lane that
    /// was to be offered it, that is given up.
    fn miss(&self, through: Cursor) {
        let endpoints = {
            // Held, so that no save has the position without what was given up, and nobody
            // joins meanwhile.
            let mut routed = self.routed.lock();
            let from = std::mem::replace(&mut *routed, through);
            self.lanes().iter().filter(|lane| lane.miss(from, through)).count()
        };
        if endpoints > 0 {
            self.counters.payload_gone();
            let through = through.sequence.saturating_sub(1);
            tracing::error!(through, endpoints, "events were dropped before they were routed");
        }
    }

    fn lanes(&self) -> Vec<Arc<Lane>> {
        self.lanes.lock().values().cloned().collect()
    }
}

/// Why nothing is sent by hand.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ManualFault {
    /// No such endpoint.
    #[error("there is no such endpoint")]
    Unknown,
    /// It takes no events.
    #[error("the endpoint is switched off")]
    Off,
    /// Too much was asked for already.
    #[error("too many messages are being sent by hand")]
    Busy,
    /// The ledger cannot write. What was asked for may come all the same, and is not
    /// promised until asking again succeeds.
    #[error("what is to be sent again could not be stored")]
    Unsaved,
    /// The same, because the disk is full.
    #[error("the disk is full")]
    DiskFull,
    /// The server stops.
    #[error("the server is stopping")]
    Stopping,
}

/// Lanes and what runs for them.
#[derive(Debug)]
pub struct Dispatcher {
    shared: Arc<Shared>,
    threads: Mutex<Option<Threads>>,
}

/// While this is there no save is under way and none begins.
#[derive(Debug)]
#[must_use = "saves go on once it is dropped"]
pub struct SavesHeld<'a> {
    _saver: MutexGuard<'a, Saver>,
}

/// What runs until the stop.
#[derive(Debug)]
struct Threads {
    crews: [Runtime; 2],
    saver: JoinHandle<()>,
}

impl Dispatcher {
    /// Starts crews, keeper and saver; the router runs in [`Dispatcher::route`].
    ///
    /// # Errors
    /// The system's, if threads cannot be started.
    pub fn start(parts: DispatchParts) -> std::io::Result<Dispatcher> {
        let (crews, runtimes) = Crews::start(parts.settings.threads, parts.client, parts.give_way)?;
        let router = Router::new(&parts.lanes, &parts.topics);
        let lanes = parts.lanes.into_iter().map(|lane| (lane.id.to_string(), lane)).collect();
        let shared = Arc::new(Shared {
            source: parts.source,
            log: parts.log,
            topics: parts.topics,
            crews,
            ids: parts.ids,
            deliveries: parts.deliveries,
            notices: parts.notices,
            memory: Memory::new(parts.settings.memory_bytes / 2),
            unknown_memory: Memory::new(parts.settings.memory_bytes / 4),
            switching: Semaphore::new(1),
            failing_memory: Memory::new(parts.settings.memory_bytes / 4),
            readers: ReadTurns::new(),
            counters: Counters::default(),
            routed: Mutex::new(parts.routed),
            routed_sequence: AtomicU64::new(parts.routed.sequence.saturating_sub(1)),
            settled: AtomicU64::new(0),
            promise: Mutex::default(),
            ledger: parts.ledger,
            lanes: Mutex::new(lanes),
            agenda: Arc::new(Agenda::new(parts.clock.clone())),
            clock: parts.clock,
            saver: Mutex::new(Saver::new(parts.routed)),
            manual: ManualRoom::of_all(),
            router,
            stopping: AtomicBool::new(false),
        });
        shared.lanes().iter().for_each(|lane| lane.enlist(&shared.agenda));
        shared.crews.living.handle.spawn(keep(shared.clone()));
        let (saves, give_way) = (shared.clone(), parts.give_way);
        let saver = std::thread::Builder::new().name("delivery-saver".to_owned()).spawn(move || {
            give_way();
            save_often(&saves);
        })?;
        Ok(Dispatcher { shared, threads: Mutex::new(Some(Threads { crews: runtimes, saver })) })
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
                    shared.miss(Cursor::behind(through));
                    reader = shared.log.reader(Cursor::behind(through));
                }
                Err(fault) => {
                    tracing::error!(
                        error = chain(&fault),
                        "the router cannot read the journal, trying again"
                    );
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
                let step = reader.next(wanted, end);
                if step.is_ok() {
                    // Not behind a fault: what was dropped is not routed.
                    *routed = reader.cursor();
                }
                match step {
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
            shared.routed_sequence.store(routed.sequence.saturating_sub(1), Ordering::Relaxed);
        }
        touched.iter().for_each(|lane| lane.pump_touched(shared));
        outcome
    }

    /// Adds a lane.
    pub fn add(&self, lane: Arc<Lane>) {
        // Before the router knows it: whatever it takes is then looked at.
        lane.enlist(&self.shared.agenda);
        self.shared.lanes.lock().insert(lane.id.to_string(), lane.clone());
        self.shared.reroute(&lane);
        lane.tend(&self.shared);
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

    /// What can be said now of what was given up and not announced, if the endpoint is
    /// still there. May read disk.
    #[must_use]
    pub fn failed_before(&self, endpoint: &str, given_up: GivenUp) -> Option<Notice> {
        let failed = self.lane(endpoint)?.failed_before(&self.shared, given_up);
        Some(Notice::MessageFailed(failed))
    }

    /// Ends deliveries of an organisation that wait for another attempt and for which
    /// `is_gone` is true; returns how many. Blocks.
    pub fn give_up(&self, org: &str, is_gone: &dyn Fn(Place) -> bool) -> u64 {
        let lanes = self.shared.lanes();
        lanes.iter().filter(|lane| *lane.org == *org).map(|lane| lane.give_up(is_gone)).sum()
    }

    /// Waits for the save that is under way and lets none begin. For whoever forgets in the
    /// ledger what waits for an endpoint and then switches its lane: a save that looked at the
    /// lane before and was written behind that would bring it back. [`Ledger::save`] must not
    /// wait for what the caller holds.
    pub fn hold_saves(&self) -> SavesHeld<'_> {
        SavesHeld { _saver: self.shared.saver.lock() }
    }

    /// A lane's settings changed.
    pub fn changed(&self, lane: &Arc<Lane>) {
        self.shared.reroute(lane);
    }

    /// Looks at a lane for what it may do now.
    pub fn tend(&self, lane: &Arc<Lane>) {
        lane.tend(&self.shared);
    }

    /// Sends an example to one endpoint, once.
    ///
    /// # Errors
    /// [`ManualFault::Busy`], [`ManualFault::Stopping`].
    pub fn send_example(
        &self,
        lane: Arc<Lane>,
        id: String,
        name: Option<String>,
        payload: Box<dyn Payload>,
    ) -> Result<(), ManualFault> {
        self.send_by_hand(lane, |lane, shared, at| lane.send_example(shared, at, id, name, payload))
    }

    /// Sends an event to one endpoint once more, also while that is paused. A failure
    /// is recorded and leaves the schedule of the event alone; a success ends it.
    ///
    /// # Errors
    /// [`ManualFault`].
    pub fn resend(&self, endpoint: &str, place: Place, decided_at: u64) -> Result<(), ManualFault> {
        let lane = self.lane_that_is_on(endpoint)?;
        self.send_by_hand(lane, |lane, shared, at| lane.resend(shared, at, place, decided_at))
    }

    /// Whether an endpoint is to get an event, as it stands now.
    #[must_use]
    pub fn wants(&self, endpoint: &str, event: &Event) -> bool {
        self.lane(endpoint).is_some_and(|lane| self.shared.wants(&lane.id, &lane.config().settings, event))
    }

    /// Sends the events of a range once more that were attempted to an endpoint, or
    /// given up, and never succeeded, unless they wait for another attempt. They come
    /// behind live events, and that they are to come is durable when this returns.
    /// False if the same, from the same cursor on, is on its way already. Blocks.
    ///
    /// # Errors
    /// [`ManualFault`].
    pub fn recover(&self, endpoint: &str, from: Cursor, through: Cursor) -> Result<bool, ManualFault> {
        self.send_again(endpoint, BacklogKind::Failed, from, through)
    }

    /// The same for events that were never attempted to an endpoint, and are neither
    /// in flight nor waiting.
    ///
    /// # Errors
    /// [`ManualFault`].
    pub fn replay_missing(&self, endpoint: &str, from: Cursor, through: Cursor) -> Result<bool, ManualFault> {
        self.send_again(endpoint, BacklogKind::Missing, from, through)
    }

    fn send_again(
        &self,
        endpoint: &str,
        kind: BacklogKind,
        from: Cursor,
        through: Cursor,
    ) -> Result<bool, ManualFault> {
        let lane = self.lane_that_is_on(endpoint)?;
        let routed = *self.shared.routed.lock();
        let asked = lane.send_again(kind, from, through, routed);
        match asked {
            Asked::Added | Asked::Known => {}
            Asked::Full => return Err(ManualFault::Busy),
            // Since it was looked for.
            Asked::Off => return Err(ManualFault::Off),
        }
        match self.shared.save() {
            Save::Done => {}
            Save::DiskFull => return Err(ManualFault::DiskFull),
            Save::Failed if self.shared.is_stopping() => return Err(ManualFault::Stopping),
            Save::Failed => return Err(ManualFault::Unsaved),
        }
        lane.tend(&self.shared);
        Ok(asked == Asked::Added)
    }

    fn lane_that_is_on(&self, endpoint: &str) -> Result<Arc<Lane>, ManualFault> {
        let lane = self.lane(endpoint).ok_or(ManualFault::Unknown)?;
        if lane.is_off() { Err(ManualFault::Off) } else { Ok(lane) }
    }

    fn send_by_hand<F>(
        &self,
        lane: Arc<Lane>,
        send: impl FnOnce(Arc<Lane>, Arc<Shared>, u64) -> F,
    ) -> Result<(), ManualFault>
    where
        F: Future<Output = ()> + Send + 'static,
    {
        let shared = self.shared.clone();
        // A stop waits for who has a place, and gives none.
        let Some(place) = lane.manual_place(&shared) else {
            return Err(if shared.is_stopping() { ManualFault::Stopping } else { ManualFault::Busy });
        };
        // What is asked for is asked of the endpoint as it is now.
        let generation = lane.generation();
        let sending = send(lane, shared, generation);
        self.shared.crews.living.handle.spawn(async move {
            let _place = place;
            sending.await;
        });
        Ok(())
    }

    /// How an endpoint's lane stands. May read disk.
    #[must_use]
    pub fn endpoint_stats(&self, endpoint: &str) -> Option<LaneStats> {
        let lane = self.lane(endpoint)?;
        let routed = *self.shared.routed.lock();
        let stats = lane.stats(routed);
        let committed_ms = |sequence| self.shared.log.committed_ms(sequence).ok().flatten();
        let oldest_undecided_ms = stats.oldest_undecided.and_then(committed_ms);
        Some(LaneStats { oldest_undecided_ms, ..stats })
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
        let (routed, now_ms) = (*self.shared.routed.lock(), self.shared.clock.now_ms());
        let mut sums = Sums::default();
        lanes.iter().for_each(|lane| lane.add_to(&mut sums, routed, now_ms));
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
            retries_waiting: sums.retries_waiting,
            retries_due: sums.retries_due,
            in_flight: sums.in_flight,
            open_connections: self.shared.crews.living.client(Standing::Answers).open_connections(),
            lanes_behind: sums.behind,
            lanes_paused: sums.paused,
            backlogs: sums.backlogs,
            lag_events: sums.lag_events,
            oldest_undecided: sums.oldest.unwrap_or(routed.sequence),
            routed_sequence: self.shared.routed_sequence.load(Ordering::Relaxed),
        }
    }

    /// Begins no further delivery but those that were taken to be sent by hand, lets them
    /// and those in flight end for some seconds, and saves where everybody is. Blocks;
    /// must not be called on a runtime's thread.
    pub fn stop(&self) {
        self.shared.stopping.store(true, Ordering::Release);
        // Behind that: who gets no place finds out why.
        self.shared.manual.close();
        let Some(Threads { crews, saver }) = self.threads.lock().take() else { return };
        let deadline = std::time::Instant::now() + STOP_GRACE;
        while std::time::Instant::now() < deadline && self.shared.is_busy() {
            std::thread::sleep(Duration::from_millis(20));
        }
        // Twice: failures of the last moment count as decided once they are saved.
        self.shared.save();
        self.shared.save();
        self.shared.end_saving();
        saver.thread().unpark();
        if saver.join().is_err() {
            tracing::error!("the thread that saves deliveries panicked");
        }
        let [living, doubtful] = crews;
        doubtful.shutdown_background();
        living.shutdown_timeout(Duration::from_secs(1));
        tracing::info!("deliveries parked");
    }
}

impl Drop for Dispatcher {
    fn drop(&mut self) {
        // What it started ends by itself, if it was not stopped.
        self.shared.stopping.store(true, Ordering::Release);
    }
}
