//! A lane: one endpoint's deliveries.
//!
//! Constraints: at most 512 events are taken and not decided, at most 64 requests are
//! in flight, at most one of them for one (user, metric, source); at most 1,000
//! deliveries wait for another attempt. A lane that has no room for an event lets it pass and lags: it has a cursor of its own, reads
//! the journal itself when there is room, and joins the router again where that is.
//!
//! ```text
//! router --offer--> taken --> in flight --2xx--> decided
//!            |                    '--else--> exception (durable) --due--> in flight ...
//!            '-- no room: cursor --fill--> taken         '--schedule over--> given up
//! ```
//!
//! Who calls: the router offers, workers take jobs and finish them, the keeper wakes
//! what is due, the saver collects what must survive a crash. Every call holds the
//! lane's lock for a moment and none waits inside it.

mod delivery;
mod gather;
mod job;
mod rate;
mod render;
mod state;
mod taken;
mod windows;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use arc_swap::ArcSwap;
use hashbrown::{HashMap, HashSet};
use hyper::HeaderMap;
use parking_lot::Mutex;

use crate::dispatcher::Shared;
use crate::endpoint::EndpointSettings;
use crate::event::{Cursor, Event, EventReader, Place, ReadFault, Step};
use crate::ledger::{Changes, Exception};
use crate::signer::Signer;
use crate::target::Target;
use gather::Shape;
use job::Job;
use rate::Bucket;
use taken::{Taken, Ticket};
use windows::Windows;

pub(crate) use delivery::{Outcome, post_example};

/// Events taken and not decided: enough to keep a fast receiver busy between two
/// fills, small enough for ten thousand lanes.
const TAKEN_MAX: usize = 512;
/// Requests in flight to a receiver that answers well.
const WINDOW_MAX: usize = 64;
/// Requests in flight to begin with; one more with each success, half as many with
/// each failure.
const WINDOW_FIRST: usize = 8;
/// Deliveries that wait for another attempt; then the lane takes no more.
const EXCEPTIONS_MAX: usize = 1000;
/// A lane whose lowest undecided event is older than this no longer holds back the
/// position that all others share: it gets a row.
const HELD_MAX: Duration = Duration::from_secs(2);

/// What a lane needs to know to deliver; replaced as a whole.
#[derive(Clone, Debug)]
pub struct LaneConfig {
    /// What the subscriber asked for.
    pub settings: EndpointSettings,
    /// Where deliveries go.
    pub target: Target,
    /// Signs them.
    pub signer: Signer,
    /// The endpoint's own headers.
    pub headers: HeaderMap,
    /// The endpoint's number: part of the ids of what is its own, its batches and
    /// what is drawn together for it. 24 bits.
    pub number: u32,
}

/// One endpoint's deliveries.
#[derive(Debug)]
pub struct Lane {
    /// `ep_...`
    pub id: String,
    /// Whose it is.
    pub org: Arc<str>,
    config: ArcSwap<LaneConfig>,
    state: Mutex<State>,
    /// Its last attempt failed: it shares memory with others like it.
    failing: AtomicBool,
    /// The router has noted that there is work; its own.
    touched: AtomicBool,
}

#[derive(Debug, Default)]
struct State {
    mode: Mode,
    /// Raised when the lane begins anew: what was under way then is not its own.
    generation: u64,
    /// It takes no event before this: the router may still be on its way here.
    from: Cursor,
    taken: Taken,
    /// Ready to be sent, in order.
    ready: VecDeque<Job>,
    /// Keys in flight, with what waits for them.
    busy: HashMap<u64, VecDeque<Job>>,
    /// Workers that run.
    workers: usize,
    window: usize,
    exceptions: BTreeMap<Place, Exception>,
    /// Exceptions by when they are due; none that is in flight or ready.
    due: BTreeSet<(i64, Place)>,
    /// What the next save has to tell.
    unsaved: Unsaved,
    /// Whether the catalog has a cursor of this lane.
    row: Option<Cursor>,
    /// Somebody reads the journal for this lane now.
    filling: bool,
    /// How requests are made.
    shape: Shape,
    /// Events that wait to be drawn together.
    windows: Windows,
    /// Members of exceptions that carry several.
    carried: HashSet<Place>,
    /// Jobs in `busy`.
    parked: usize,
    /// What is left of the rate.
    bucket: Bucket,
    /// When the rate allows the next request, if one waits for that.
    limited_until: Option<Instant>,
    /// A timer runs for it.
    timer: bool,
}

#[derive(Debug, Default)]
struct Unsaved {
    failed: BTreeSet<Place>,
    settled: BTreeSet<Place>,
    /// Decided once their exceptions are durable: tickets, and how many events of each.
    tickets: Vec<(Ticket, u32)>,
    /// Whatever the catalog has of this lane is of a time before it began anew.
    wiped: bool,
}

/// Where a lane's events come from.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Mode {
    /// The router offers them.
    #[default]
    Live,
    /// It reads them itself, from here on.
    Behind(Cursor),
    /// It takes none.
    Off,
}

/// What is saved of a lane.
pub(crate) struct Collected {
    /// Lanes without a row: the first event that is not decided.
    pub(crate) holds: Option<Cursor>,
    /// The first frame it still needs.
    pub(crate) needs: u64,
    tickets: usize,
    row: Option<Cursor>,
    generation: u64,
    /// Its parts of what is saved.
    failed: Range<usize>,
    settled: Range<usize>,
}

impl Lane {
    /// A lane that begins at a cursor of its own.
    #[must_use]
    pub fn new(id: String, org: Arc<str>, config: LaneConfig, from: Cursor) -> Lane {
        let active = config.settings.active;
        let mode = if active { Mode::Behind(from) } else { Mode::Off };
        let row = active.then_some(from);
        Lane::with_state(id, org, config, State { mode, from, row, ..State::default() })
    }

    /// A lane as a restart finds it: without a row it follows the router.
    #[must_use]
    pub fn restored(
        id: String,
        org: Arc<str>,
        config: LaneConfig,
        row: Option<Cursor>,
        exceptions: Vec<Exception>,
    ) -> Lane {
        let mode = match (config.settings.active, row) {
            (false, _) => Mode::Off,
            (true, Some(from)) => Mode::Behind(from),
            (true, None) => Mode::Live,
        };
        let exceptions = if config.settings.active { exceptions } else { Vec::new() };
        let due = exceptions.iter().map(|exception| (exception.due_at_ms, exception.place)).collect();
        let from = row.unwrap_or_default();
        let mut state = State { mode, from, row, due, ..State::default() };
        exceptions.into_iter().for_each(|exception| state.insert_exception(exception));
        Lane::with_state(id, org, config, state)
    }

    fn with_state(id: String, org: Arc<str>, config: LaneConfig, state: State) -> Lane {
        let shape = Shape::of(&config.settings);
        Lane {
            id,
            org,
            config: ArcSwap::from_pointee(config),
            state: Mutex::new(State { window: WINDOW_FIRST, shape, ..state }),
            failing: AtomicBool::new(false),
            touched: AtomicBool::new(false),
        }
    }

    /// What it delivers by.
    #[must_use]
    pub fn config(&self) -> Arc<LaneConfig> {
        self.config.load_full()
    }

    /// Delivers by other settings from the next attempt on.
    pub fn reconfigure(&self, config: LaneConfig) {
        let shape = Shape::of(&config.settings);
        self.config.store(Arc::new(config));
        self.state.lock().reshape(shape);
    }

    /// Ends everything that waits; what is in flight ends by itself.
    pub fn switch_off(&self) {
        self.state.lock().reset(Mode::Off);
    }

    /// As [`Lane::switch_off`], because the receiver said so.
    pub(crate) fn deactivate(&self) {
        let mut config = LaneConfig::clone(&self.config.load());
        config.settings.active = false;
        self.config.store(Arc::new(config));
        self.switch_off();
    }

    /// Begins anew at a cursor. The router must know the lane already: it may join
    /// at once.
    pub fn switch_on(&self, from: Cursor) {
        self.state.lock().reset(Mode::Behind(from));
    }

    /// Whether its last attempt failed.
    pub(crate) fn is_failing(&self) -> bool {
        self.failing.load(Ordering::Relaxed)
    }

    /// Notes that there is work; false if that was noted before.
    pub(crate) fn touch(&self) -> bool {
        !self.touched.swap(true, Ordering::Relaxed)
    }

    /// Runs workers for what the router noted.
    pub(crate) fn pump_touched(self: &Arc<Lane>, shared: &Arc<Shared>) {
        self.touched.store(false, Ordering::Relaxed);
        self.pump(shared);
    }

    /// Ends deliveries that wait for another attempt and for whose event `is_gone` is
    /// true; returns how many. What carries others too is cut anew.
    pub fn give_up(&self, is_gone: &dyn Fn(Place) -> bool) -> u64 {
        let waiting: Vec<Exception> = self.state.lock().exceptions.values().cloned().collect();
        // Outside the lock: it may read the journal.
        let ended = waiting.iter().map(|exception| {
            let Exception { place, members, .. } = exception;
            if members.is_empty() {
                return if is_gone(*place) { u64::from(self.state.lock().give_up(*place)) } else { 0 };
            }
            let gone = members.iter().enumerate().filter(|(_, member)| is_gone(member.place));
            let gone: BTreeSet<usize> = gone.map(|(index, _)| index).collect();
            if gone.is_empty() { 0 } else { self.state.lock().give_up_members(*place, &gone) }
        });
        ended.sum()
    }

    /// Deliveries that wait for another attempt.
    #[must_use]
    pub fn exception_count(&self) -> usize {
        self.state.lock().exceptions.len()
    }

    /// Whether it takes no events.
    #[must_use]
    pub fn is_off(&self) -> bool {
        self.state.lock().mode == Mode::Off
    }

    /// Workers that deliver now.
    #[must_use]
    pub fn in_flight(&self) -> usize {
        self.state.lock().workers
    }

    /// Whether it reads the journal itself.
    #[must_use]
    pub fn is_behind(&self) -> bool {
        matches!(self.state.lock().mode, Mode::Behind(_))
    }

    /// Takes an event from the router, or lets it pass and lags from there. True if
    /// there is work for a worker.
    pub(crate) fn offer(&self, event: &Event) -> bool {
        let mut state = self.state.lock();
        let known = event.cursor() < state.from || state.is_excepted(event.place);
        if state.mode != Mode::Live || known {
            return false;
        }
        if !state.has_room() {
            tracing::debug!(endpoint = self.id, "lane lags: it reads the journal itself from here");
            state.mode = Mode::Behind(event.cursor());
            return false;
        }
        state.take(event);
        state.wants_worker()
    }

    /// Runs workers for what is ready.
    pub(crate) fn pump(self: &Arc<Lane>, shared: &Arc<Shared>) {
        loop {
            let job = {
                let mut state = self.state.lock();
                if !state.wants_worker() {
                    return;
                }
                let Some(job) = state.next_job() else {
                    self.wait_for_turn(&mut state, shared);
                    return;
                };
                state.workers += 1;
                job
            };
            let (lane, shared_too) = (self.clone(), shared.clone());
            shared.handle.spawn(async move { lane.work(&shared_too, job).await });
        }
    }

    /// One worker: delivers until nothing is ready or the window has shrunk.
    async fn work(self: Arc<Lane>, shared: &Arc<Shared>, first: Job) {
        let mut job = first;
        loop {
            let outcome = if shared.is_stopping() {
                Outcome::Parked
            } else {
                delivery::deliver(shared, &self, &mut job).await
            };
            // What was sent before the lane began anew says nothing about it now.
            if outcome == Outcome::SwitchedOff && self.state.lock().generation == job.generation {
                shared.switch_off(&self);
            }
            let (next, low) = {
                let mut state = self.state.lock();
                self.finish(&mut state, shared, &job, outcome);
                let next = if state.workers > state.window { None } else { state.next_job() };
                if next.is_none() {
                    state.workers -= 1;
                }
                (next, state.wants_fill())
            };
            if low {
                self.fill_soon(shared);
            }
            match next {
                Some(next) => job = next,
                None => break,
            }
        }
        // What came between the last look and the end.
        if !shared.is_stopping() {
            self.pump(shared);
        }
    }

    /// Has workers run again when the rate allows it.
    fn wait_for_turn(self: &Arc<Lane>, state: &mut State, shared: &Arc<Shared>) {
        let Some(until) = state.limited_until.filter(|_| !state.timer && !shared.is_stopping()) else {
            return;
        };
        state.timer = true;
        let (lane, shared) = (self.clone(), shared.clone());
        let handle = shared.handle.clone();
        handle.spawn(async move {
            tokio::time::sleep_until(until.into()).await;
            lane.state.lock().timer = false;
            if !shared.is_stopping() {
                lane.pump(&shared);
            }
        });
    }

    /// Waits until the rate allows a request that does not come from the queue.
    pub(crate) async fn turn(&self) {
        loop {
            let wait = {
                let mut state = self.state.lock();
                let Some(rate) = state.shape.rate_limit_per_second else { return };
                match state.bucket.take(Instant::now(), rate) {
                    Ok(()) => return,
                    Err(wait) => wait,
                }
            };
            tokio::time::sleep(wait).await;
        }
    }

    fn finish(&self, state: &mut State, shared: &Shared, job: &Job, outcome: Outcome) {
        let counters = &shared.counters;
        if let Outcome::Delivered | Outcome::Failed { .. } = outcome {
            self.failing.store(outcome != Outcome::Delivered, Ordering::Relaxed);
        }
        match outcome {
            Outcome::Parked => return,
            Outcome::Delivered => {
                counters.delivered();
                state.window = (state.window + 1).min(WINDOW_MAX);
                state.settle(job);
            }
            Outcome::Unwanted => state.settle(job),
            Outcome::Gone => {
                counters.payload_gone();
                tracing::warn!(endpoint = self.id, sequence = job.place.sequence, "payload gone, given up");
                state.settle(job);
            }
            Outcome::SwitchedOff => counters.failed(),
            Outcome::Failed { retry_after } => {
                counters.failed();
                state.window = (state.window / 2).max(1);
                let retries = self.config.load().settings.dialect.retries();
                match retries.get(job.attempts as usize) {
                    Some(pause) => state.except(job, (*pause).max(retry_after.unwrap_or_default())),
                    None => {
                        counters.given_up();
                        let attempts = job.attempts + 1;
                        tracing::warn!(endpoint = self.id, attempts, "delivery given up");
                        state.settle(job);
                    }
                }
            }
        }
        state.release(job.keys());
    }

    /// What the keeper does now and then: wakes exceptions that are due, closes windows
    /// that have ended, and reads on for a lane that lags.
    pub(crate) fn tend(self: &Arc<Lane>, shared: &Arc<Shared>, now_ms: i64) {
        let (woken, low) = {
            let mut state = self.state.lock();
            state.wake_due(now_ms);
            if state.mode == Mode::Live {
                // Whoever is live was offered all that the router has read.
                state.close_ended_windows(shared.settled());
            }
            (state.wants_worker(), state.wants_fill())
        };
        if woken {
            self.pump(shared);
        }
        if low {
            self.fill_soon(shared);
        }
    }

    /// Reads on where reading may block, unless that is under way.
    fn fill_soon(self: &Arc<Lane>, shared: &Arc<Shared>) {
        {
            let mut state = self.state.lock();
            if state.filling || shared.is_stopping() {
                return;
            }
            state.filling = true;
        }
        let (lane, shared) = (self.clone(), shared.clone());
        let handle = shared.handle.clone();
        handle.spawn(async move {
            // Few at once: a thousand lanes that lag must not read all together.
            let Ok(_turn) = shared.readers.acquire().await else { return };
            let (reader, id_owner) = (shared.clone(), lane.clone());
            let reading = tokio::task::spawn_blocking(move || {
                lane.fill(&reader);
                lane.pump(&reader);
            });
            if reading.await.is_err() {
                tracing::error!(endpoint = id_owner.id, "reading for a lane panicked");
                id_owner.state.lock().filling = false;
            }
        });
    }

    /// Reads events until the lane has no room or has caught up.
    fn fill(&self, shared: &Shared) {
        let mut reader: Option<Box<dyn EventReader>> = None;
        loop {
            let through = *shared.routed.lock();
            let mut state = self.state.lock();
            let Mode::Behind(cursor) = state.mode else { break };
            if !state.has_room() || shared.is_stopping() {
                break;
            }
            drop(state);
            let reader = reader.get_or_insert_with(|| shared.log.reader(cursor));
            if reader.cursor() != cursor {
                // It was switched off and on, or somebody else moved it.
                *reader = shared.log.reader(cursor);
            }
            let wanted = |org: &str| (*org == *self.org).then_some(0);
            match reader.next(&wanted, through) {
                Ok(Step::Event(event)) => {
                    let config = self.config.load();
                    let fits = shared.wants(&config.settings, &event);
                    state = self.state.lock();
                    if state.mode != Mode::Behind(cursor) {
                        continue;
                    }
                    state.mode = Mode::Behind(reader.cursor());
                    if fits && !state.is_excepted(event.place) {
                        state.take(&event);
                    }
                }
                Ok(Step::Pause) => {
                    let reached = reader.cursor();
                    // Nobody routes meanwhile, so nothing can come between.
                    let routed = shared.routed.lock();
                    state = self.state.lock();
                    if state.mode != Mode::Behind(cursor) {
                        continue;
                    }
                    if reached >= *routed {
                        state.from = reached;
                        state.mode = Mode::Live;
                        break;
                    }
                    state.mode = Mode::Behind(reached);
                    if reached == cursor && through == *routed {
                        break;
                    }
                }
                Err(ReadFault::Dropped { through }) => {
                    shared.counters.payload_gone();
                    tracing::warn!(
                        endpoint = self.id,
                        through,
                        "events were dropped before they were delivered"
                    );
                    state = self.state.lock();
                    if state.mode == Mode::Behind(cursor) {
                        state.mode = Mode::Behind(Cursor::behind(through).max(cursor));
                    }
                }
                Err(fault) => {
                    tracing::error!(endpoint = self.id, error = %fault, "cannot read events for a lane");
                    break;
                }
            }
        }
        self.state.lock().filling = false;
    }

    /// Adds what must survive a crash to `changes`; `routed` is where the router is.
    pub(crate) fn collect(&self, routed: Cursor, changes: &mut Changes) -> Collected {
        let state = self.state.lock();
        let (failed, settled) = (changes.failed.len(), changes.settled.len());
        for place in &state.unsaved.failed {
            if let Some(exception) = state.exceptions.get(place) {
                changes.failed.push((self.id.clone(), exception.clone()));
            }
        }
        changes.settled.extend(state.unsaved.settled.iter().map(|place| (self.id.clone(), *place)));
        let lowest = match (state.taken.lowest(), state.mode) {
            (Some(lowest), _) => Some(lowest),
            (None, Mode::Live) => Some(routed.max(state.from)),
            (None, Mode::Behind(cursor)) => Some(cursor),
            (None, Mode::Off) => None,
        };
        let held = state.taken.held_for().is_some_and(|held| held > HELD_MAX);
        let row = match state.mode {
            Mode::Behind(_) => lowest,
            Mode::Live if held || state.from > routed => lowest,
            _ => None,
        };
        if state.unsaved.wiped {
            changes.wiped.push(self.id.clone());
        }
        if row != state.row || state.unsaved.wiped {
            match row {
                Some(cursor) => changes.cursors.push((self.id.clone(), cursor)),
                None => changes.caught_up.push(self.id.clone()),
            }
        }
        let waiting = state.exceptions.keys().next().map(|place| place.sequence);
        let needs = lowest.map(|cursor| cursor.sequence).into_iter().chain(waiting).min();
        Collected {
            holds: lowest.filter(|_| row.is_none()),
            needs: needs.unwrap_or(u64::MAX),
            tickets: state.unsaved.tickets.len(),
            row,
            generation: state.generation,
            failed: failed..changes.failed.len(),
            settled: settled..changes.settled.len(),
        }
    }

    /// What was collected is durable.
    pub(crate) fn saved(&self, collected: &Collected, changes: &Changes) {
        let mut state = self.state.lock();
        if state.generation != collected.generation {
            return;
        }
        state.unsaved.wiped = false;
        let told = collected.tickets.min(state.unsaved.tickets.len());
        let tickets: Vec<(Ticket, u32)> = state.unsaved.tickets.drain(..told).collect();
        for (ticket, events) in tickets {
            state.taken.decide_many(ticket, events);
        }
        state.row = collected.row;
        for (_, saved) in &changes.failed[collected.failed.clone()] {
            // Unless it failed once more meanwhile.
            if state.exceptions.get(&saved.place) == Some(saved) {
                state.unsaved.failed.remove(&saved.place);
            }
        }
        for (_, place) in &changes.settled[collected.settled.clone()] {
            state.unsaved.settled.remove(place);
        }
    }
}

/// Milliseconds since 1970.
pub(crate) fn now_ms() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_millis()).unwrap_or(i64::MAX)
}
