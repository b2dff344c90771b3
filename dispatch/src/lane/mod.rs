//! A lane: one endpoint's deliveries.
//!
//! Constraints: at most 512 events are taken and not decided, at most 64 requests are
//! in flight, at most one of them for one (user, metric, source); at most 1,000
//! deliveries wait for another attempt, and 65,536 events in those that carry several.
//! A lane that has no room for an event lets it pass and lags: it has a cursor of its
//! own, reads the journal itself when there is room, and joins the router again where
//! that is.
//!
//! ```text
//! router --offer--> taken --> in flight --2xx--> decided
//!            |                    '--else--> exception (durable) --due--> in flight ...
//!            '-- no room: cursor --fill--> taken         '--schedule over--> given up
//! ```
//!
//! After 20 failures in a row, or with as many exceptions as it may have, it pauses: nothing of it is in
//! memory but the exceptions, which rest, and one event is tried now and then. The
//! first 2xx resumes it: it takes live events from where the router is, and what was
//! committed meanwhile becomes a range that is sent behind them.
//!
//! ```text
//! live, lagging --20 failures--> paused --2xx--> live, and [cursor, router) as a backlog
//! ```
//!
//! One that is to be switched off because its receiver says so, or only fails, begins
//! nothing more; what waits is forgotten once it is stored that it is off. A restart before
//! that finds it on, with all that waits.
//!
//! Who calls: the router offers, workers take jobs and finish them, the keeper wakes
//! what is due, the saver collects what must survive a crash. Every call holds the
//! lane's lock for a moment and none waits inside it. What changes the state is in
//! `state`, pure and told the time; `gather` and `windows` decide what goes into one
//! request, `patience` when none is sent, `known` what of an asked range is sent, `fill`
//! reads, `work` sends, `save` keeps.

mod agenda;
mod announce;
mod backlog;
mod carried;
mod delivery;
mod doubt;
mod fill;
mod gather;
mod job;
mod judge;
mod known;
mod manual;
#[cfg(test)]
mod model;
mod patience;
mod pause;
mod rate;
mod render;
mod save;
mod state;
mod stats;
mod taken;
mod windows;
mod work;

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock, Weak};

use arc_swap::ArcSwap;
use hyper::HeaderMap;
use parking_lot::Mutex;

use crate::dispatcher::Shared;
use crate::endpoint::EndpointSettings;
use crate::event::{Cursor, Event, Place};
use crate::ledger::{BacklogKind, Health, LaneRecord};
use crate::memory::Memory;
use crate::signer::Signer;
use crate::target::Target;
use gather::Shape;
use job::Job;
use state::{Mode, State};

pub(crate) use agenda::Agenda;
pub(crate) use backlog::Asked;
pub(crate) use fill::ReadTurns;
pub(crate) use manual::ManualRoom;
pub(crate) use save::{Collected, Positions, Rest};
pub use stats::LaneStats;
pub(crate) use stats::Sums;

/// What one lane's bodies hold at most until they are written.
const SHARE_BYTES: usize = 16 * 1024 * 1024;

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
    pub id: Arc<str>,
    /// Whose it is.
    pub org: Arc<str>,
    config: ArcSwap<LaneConfig>,
    state: Mutex<State>,
    /// What its bodies may hold of the memory for all; full waits.
    share: Memory,
    /// What its requests that are sent by hand may hold.
    manual: ManualRoom,
    /// The router has noted that there is work; its own.
    touched: AtomicBool,
    /// Who looks at it when, once a dispatcher has it.
    post: OnceLock<Post>,
}

/// A lane's place on the agenda.
#[derive(Debug)]
struct Post {
    agenda: Arc<Agenda>,
    me: Weak<Lane>,
    slot: Mutex<agenda::Slot>,
}

impl Lane {
    /// A lane that begins at a cursor of its own.
    #[must_use]
    pub fn new(id: impl Into<Arc<str>>, org: Arc<str>, config: LaneConfig, from: Cursor) -> Lane {
        let state = State::begin(config.settings.active, from);
        Lane::with_state(id.into(), org, config, state)
    }

    /// A lane as a restart finds it: without a row it follows the router.
    #[must_use]
    pub fn restored(id: impl Into<Arc<str>>, org: Arc<str>, config: LaneConfig, record: LaneRecord) -> Lane {
        let state = State::restored(config.settings.active, record);
        Lane::with_state(id.into(), org, config, state)
    }

    fn with_state(id: Arc<str>, org: Arc<str>, config: LaneConfig, mut state: State) -> Lane {
        state.reshape(Shape::of(&config.settings));
        Lane {
            id,
            org,
            config: ArcSwap::from_pointee(config),
            state: Mutex::new(state),
            share: Memory::new(SHARE_BYTES),
            manual: ManualRoom::of_lane(),
            touched: AtomicBool::new(false),
            post: OnceLock::new(),
        }
    }

    /// Puts it on an agenda, once.
    pub(crate) fn enlist(self: &Arc<Lane>, agenda: &Arc<Agenda>) {
        let post = Post { agenda: agenda.clone(), me: Arc::downgrade(self), slot: Mutex::default() };
        if self.post.set(post).is_ok() {
            self.with(|state, now_ms| {
                // Whatever it needs, the next save is to know.
                state.unsaved.needs = true;
                state.spread_probe(&self.id, now_ms);
            });
        }
    }

    /// Changes the state, and notes what is to be done about it.
    fn with<R>(&self, change: impl FnOnce(&mut State, i64) -> R) -> R {
        let mut state = self.state.lock();
        let now_ms = self.post.get().map(|post| post.agenda.now_ms()).unwrap_or_default();
        let result = change(&mut state, now_ms);
        if let Some(post) = self.post.get() {
            post.agenda.note(post, &state, now_ms);
        }
        result
    }

    /// What the lane did since the last save is saved, and the position `saved` that all
    /// share: whether it has to be looked at by the next one.
    pub(crate) fn rest(&self, saved: Cursor) -> Rest {
        let state = self.state.lock();
        let rest = state.rest(saved);
        if let (Some(post), true) = (self.post.get(), rest != Rest::Busy) {
            post.slot.lock().is_open = false;
        }
        rest
    }

    /// What it delivers by.
    #[must_use]
    pub fn config(&self) -> Arc<LaneConfig> {
        self.config.load_full()
    }

    /// Delivers by other settings from the next attempt on.
    pub fn reconfigure(&self, config: LaneConfig) {
        self.with(|state, now_ms| {
            let (shape, url) = (Shape::of(&config.settings), config.settings.url.clone());
            let before = self.config.swap(Arc::new(config));
            if before.settings.url != url {
                state.moves(now_ms);
            }
            state.reshape(shape);
        });
    }

    /// What a job is delivered by, which goes where the receiver is now.
    fn config_for(&self, job: &mut Job) -> Arc<LaneConfig> {
        let mut state = self.state.lock();
        if state.is_elsewhere(job) {
            let now_ms = self.post.get().map(|post| post.agenda.now_ms()).unwrap_or_default();
            state.redirect(job, now_ms);
        }
        self.config()
    }

    /// Ends everything that waits; what is in flight ends by itself.
    pub fn switch_off(&self) {
        self.with(|state, _| state.reset(Mode::Off));
    }

    /// Begins nothing more, of its own accord. What waits is kept until that is stored, and
    /// [`Lane::deactivated`] is called. How it fared until then; `None` if it was switched
    /// since that generation, was off, or ends already, or if its receiver moved since.
    fn deactivate(&self, generation: u64, moves: u32) -> Option<Health> {
        let end = |state: &mut State| state.moves == moves && self.begin_end(state, generation);
        self.with(|state, _| end(state).then_some(state.health))
    }

    /// The same for whoever has its state; false if it was switched since that generation,
    /// was off, or ends already.
    fn begin_end(&self, state: &mut State, generation: u64) -> bool {
        if state.generation != generation || !state.begin_end() {
            return false;
        }
        // Under its lock: who switches it on finds it off, and its settings come later.
        self.set_inactive();
        true
    }

    /// Notes in its settings that it takes nothing.
    fn set_inactive(&self) {
        self.config.rcu(|config| {
            let mut config = LaneConfig::clone(config);
            config.settings.active = false;
            config
        });
    }

    /// Whether a generation is about to end, and nobody has switched it since.
    pub(crate) fn is_ending(&self, generation: u64) -> bool {
        let state = self.state.lock();
        state.is_ending && state.generation == generation
    }

    /// That it is off is stored: ends everything that waits, unless it was switched since
    /// that generation. Called while nobody gives it other settings.
    pub(crate) fn deactivated(&self, generation: u64) {
        self.with(|state, _| {
            if state.is_ending && state.generation == generation {
                state.reset(Mode::Off);
                // Those it was given since are of a record that did not know yet.
                self.set_inactive();
            }
        });
    }

    /// Begins anew at a cursor. The router must know the lane already: it may join
    /// at once.
    pub fn switch_on(&self, from: Cursor) {
        self.with(|state, _| state.reset(Mode::Behind(from)));
    }

    /// Raised whenever it begins anew or ends.
    pub(crate) fn generation(&self) -> u64 {
        self.state.lock().generation
    }

    /// Whether it still takes what was meant for a generation.
    fn is_at(&self, generation: u64) -> bool {
        let state = self.state.lock();
        state.generation == generation && !state.is_off()
    }

    /// Adds a range of which some is sent again. A lane that is off takes none: it would hold
    /// the range's frames until somebody switches it.
    pub(crate) fn send_again(
        &self,
        kind: BacklogKind,
        from: Cursor,
        through: Cursor,
        routed: Cursor,
    ) -> Asked {
        self.with(|state, _| {
            // What comes behind the router comes by itself, but for what came before a lane
            // that was switched on ahead of it.
            let through = through.min(routed.max(state.from));
            match state.is_off() {
                true => Asked::Off,
                false => state.backlogs.add_asked(kind, from, through),
            }
        })
    }

    /// Whether its receiver has taken nothing since it failed before.
    fn fails_again(&self) -> bool {
        let state = self.state.lock();
        state.failures_in_a_row > 0 || state.is_paused()
    }

    /// Whether it only fails: it shares memory with others like it.
    pub(crate) fn is_failing(&self) -> bool {
        self.state.lock().is_failing()
    }

    /// Notes that there is work; false if that was noted before.
    pub(crate) fn touch(&self) -> bool {
        !self.touched.swap(true, Ordering::Relaxed)
    }

    /// Runs workers for what the router noted.
    pub(crate) fn pump_touched(self: &Arc<Lane>, shared: &Arc<Shared>) {
        self.touched.store(false, Ordering::Relaxed);
        self.tend(shared);
    }

    /// Ends deliveries that wait and for which `is_gone` is true; returns how many.
    pub fn give_up(&self, is_gone: &dyn Fn(Place) -> bool) -> u64 {
        let waiting = self.state.lock().waiting();
        // Outside the lock: it may read the journal.
        let mut gone: Vec<Place> = waiting.into_iter().filter(|place| is_gone(*place)).collect();
        if gone.is_empty() {
            return 0;
        }
        gone.sort_unstable();
        self.with(|state, _| state.give_up(|place| gone.binary_search(&place).is_ok()))
    }

    /// Deliveries that wait for another attempt.
    #[must_use]
    pub fn exception_count(&self) -> usize {
        self.state.lock().exceptions.len()
    }

    /// Whether it delivers no events.
    #[must_use]
    pub fn is_off(&self) -> bool {
        self.state.lock().is_off()
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

    /// Whether it only tries an event now and then.
    #[must_use]
    pub fn is_paused(&self) -> bool {
        self.state.lock().is_paused()
    }

    /// Ranges that are sent behind live events.
    #[must_use]
    pub fn backlog_count(&self) -> usize {
        self.state.lock().backlogs.len()
    }

    /// Takes an event from the router, or lets it pass. True if there is something to
    /// do now.
    pub(crate) fn offer(&self, event: &Event) -> bool {
        self.with(|state, now_ms| state.offer(event, now_ms))
    }

    /// Does what is due: wakes exceptions, probes, reads on, runs workers.
    pub(crate) fn tend(self: &Arc<Lane>, shared: &Arc<Shared>) {
        let reads = self.with(|state, now_ms| {
            state.close_ended_windows(shared.settled());
            state.wake(now_ms);
            state.wants_fill(now_ms)
        });
        self.pump(shared);
        if reads {
            self.fill_soon(shared);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dialect::Dialect;
    use crate::event::EventKind;
    use crate::lane::delivery::Outcome;
    use crate::lane::job::Job;
    use crate::lane::judge::After;
    use crate::signer::Secret;
    use crate::target::Targets;
    use crate::topic::TopicId;

    /// What an endpoint without wishes is delivered by.
    pub(super) fn config() -> LaneConfig {
        let settings = EndpointSettings::new("https://example.com/".to_owned(), Dialect::Standard);
        LaneConfig {
            target: Targets::default().check_url(&settings.url).unwrap(),
            signer: Signer::new(Dialect::Standard, &Secret::generate(Dialect::Standard).unwrap()).unwrap(),
            headers: HeaderMap::new(),
            number: 1,
            settings,
        }
    }

    #[test]
    fn what_is_stored_late_ends_nothing_of_a_lane_that_was_switched_on_again() {
        let lane = Lane::restored("ep_1", "o".into(), config(), LaneRecord::default());
        let first = lane.generation();
        assert!(lane.deactivate(first, 0).is_some());
        assert!(lane.is_off() && !lane.config().settings.active);
        assert_eq!(lane.deactivate(first, 0), None);
        lane.switch_on(Cursor::behind(1));
        assert!(!lane.is_ending(first));
        lane.deactivated(first);
        assert!(!lane.is_off());
        assert_eq!(lane.deactivate(first, 0), None, "what was answered before says nothing of it");
        assert!(!lane.is_off());
        let second = lane.generation();
        assert!(lane.deactivate(second, 0).is_some());
        lane.deactivated(first);
        assert!(lane.is_ending(second) && !lane.is_ending(first));
        lane.deactivated(second);
        assert!(lane.is_off() && !lane.is_ending(second));
    }

    #[test]
    fn a_lane_that_ends_or_is_off_takes_no_range_that_would_hold_its_frames() {
        let lane = Lane::restored("ep_1", "o".into(), config(), LaneRecord::default());
        let ask =
            || lane.send_again(BacklogKind::Failed, Cursor::behind(1), Cursor::behind(9), Cursor::behind(9));
        assert!(lane.deactivate(lane.generation(), 0).is_some());
        assert_eq!(ask(), Asked::Off);
        lane.deactivated(lane.generation());
        assert_eq!((ask(), lane.backlog_count()), (Asked::Off, 0));
        lane.switch_on(Cursor::behind(9));
        assert_eq!((ask(), lane.backlog_count()), (Asked::Added, 1));
    }

    #[test]
    fn what_came_before_a_lane_was_switched_on_is_sent_again_though_the_router_is_not_there_yet() {
        let lane = Lane::restored("ep_1", "o".into(), config(), LaneRecord::default());
        lane.switch_off();
        lane.switch_on(Cursor::behind(9));
        let asked =
            lane.send_again(BacklogKind::Missing, Cursor::behind(1), Cursor::behind(20), Cursor::behind(3));
        assert_eq!(asked, Asked::Added);
        let through = lane.with(|state, _| state.backlogs.next_span().map(|span| span.through));
        assert_eq!(through, Some(Cursor::behind(9)));
    }

    #[test]
    fn a_lane_that_ends_begins_nothing_and_keeps_what_waits() {
        let lane = Lane::restored("ep_1", "o".into(), config(), LaneRecord::default());
        (1..=3).for_each(|key| assert!(lane.offer(&Event { key, ..event(key) })));
        let (in_flight, failed) = lane.with(|state, _| (state.next_job(0), state.next_job(0)));
        let retries = Dialect::Standard.retries();
        let finish =
            |job: Job, outcome: Outcome| lane.with(|state, _| state.finish(&job, outcome, retries, 0));
        finish(failed.unwrap(), Outcome::Failed { retry_after: None });
        let generation = lane.generation();
        assert!(lane.deactivate(generation, 0).is_some());
        assert_eq!(finish(in_flight.unwrap(), Outcome::Failed { retry_after: None }), After::Nothing);
        lane.with(|state, _| {
            let due_ms = 3_600_000;
            assert!(!state.wake(due_ms) && !state.wants_worker(due_ms));
            assert_eq!((state.next_job(due_ms), state.chore(due_ms), state.next_wake(0)), (None, None, None));
            assert_eq!(
                (state.exceptions.len(), state.lowest(Cursor::behind(3))),
                (1, Some(event(1).cursor()))
            );
        });
        lane.deactivated(generation);
        assert_eq!(lane.exception_count(), 0);
    }

    /// An event of new samples that stands alone in its frame.
    pub(super) fn event(sequence: u64) -> Event {
        Event {
            org: "o".into(),
            user: None,
            topic: TopicId(0),
            place: Place { sequence, group: 0, chunk: 0, kind: EventKind::Created },
            ordinal: 0,
            decided_at: sequence,
            key: 0,
            ordering: sequence,
            samples: 1,
            bytes: 0,
            backfill: false,
            about: None,
        }
    }
}
