//! A lane's state against a model: any order of offers, answers, pauses, resumes, saves,
//! crashes and restarts loses nothing.
//!
//! The model is a list of events and the set of those that were answered 2xx or given
//! up. In the end, with a receiver that takes everything, each event is in it. Beside it
//! stands what was sent under each id: always the same.

mod histories;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use super::carried::event_place;
use super::delivery::Outcome;
use super::gather::Shape;
use super::job::{Job, Origin};
use super::judge::After;
use super::pause::Pause;
use super::save::{Collected, Positions};
use super::state::{Chore, EXCEPTIONS_MAX, Mode, State, WINDOW_FIRST, WINDOW_MAX};
use crate::dialect::Dialect;
use crate::endpoint::EndpointSettings;
use crate::event::{Cursor, Event, EventKind, Place};
use crate::ledger::{Backlog, BacklogKind, Changes, Exception, GivenUp, Health, LaneRecord};
use crate::topic::TopicId;

const TAKEN_MAX: usize = 512;

/// SplitMix64, so that a seed gives the same run everywhere.
struct Random(u64);

impl Random {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ mixed >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ mixed >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        (mixed ^ mixed >> 31) % bound
    }
}

/// What a restart finds.
#[derive(Clone, Debug, Default)]
struct Stored {
    routed: u64,
    row: Option<Cursor>,
    health: Health,
    exceptions: BTreeMap<Place, Exception>,
    backlogs: BTreeMap<u64, Backlog>,
    given_up: Vec<GivenUp>,
    rows: usize,
}

impl Stored {
    fn apply(&mut self, changes: &Changes) {
        self.rows += changes.row_count();
        self.routed = changes.routed;
        for (_, cursor) in &changes.cursors {
            self.row = Some(*cursor);
        }
        if !changes.caught_up.is_empty() {
            self.row = None;
        }
        for (_, health) in &changes.health {
            self.health = *health;
        }
        self.exceptions.extend(changes.failed.iter().map(|(_, failed)| (failed.place, failed.clone())));
        for (_, place) in &changes.settled {
            self.exceptions.remove(place);
        }
        self.backlogs.extend(changes.backlogs.iter().map(|(_, range)| (range.number, *range)));
        for (_, number) in &changes.finished {
            self.backlogs.remove(number);
        }
        self.given_up.extend(changes.given_up.iter().map(|(_, range)| *range));
    }

    fn record(&self) -> LaneRecord {
        LaneRecord {
            start: Cursor::default(),
            row: self.row,
            health: self.health,
            exceptions: self.exceptions.values().cloned().collect(),
            backlogs: self.backlogs.values().copied().collect(),
        }
    }
}

/// How the receiver fares.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Receiver {
    Up,
    /// Fails one in so many.
    Flaky(u64),
    Down,
}

struct Model {
    random: Random,
    state: State,
    stored: Stored,
    events: Vec<Event>,
    times: Vec<i64>,
    routed: Cursor,
    now_ms: i64,
    receiver: Receiver,
    in_flight: Vec<Job>,
    decided: BTreeSet<Place>,
    first_try: usize,
    shape: Shape,
    /// Of the last event.
    ordering: u64,
    /// Requests that carried several events and were answered 2xx.
    composite: usize,
    /// Other lanes hold back the position that all share.
    is_held_back: bool,
    /// What was sent under each event's id.
    sent: BTreeMap<Place, Vec<Place>>,
    /// The ids under which each event was sent.
    ids: BTreeMap<Place, BTreeSet<Place>>,
}

impl Model {
    fn new(seed: u64) -> Model {
        Model {
            random: Random(seed),
            state: State { window: WINDOW_FIRST, ..State::default() },
            stored: Stored::default(),
            events: Vec::new(),
            times: Vec::new(),
            routed: Cursor { sequence: 1, ordinal: 0 },
            now_ms: 1_000_000,
            receiver: Receiver::Up,
            in_flight: Vec::new(),
            decided: BTreeSet::new(),
            first_try: 0,
            shape: Shape::default(),
            ordering: 0,
            composite: 0,
            is_held_back: false,
            sent: BTreeMap::new(),
            ids: BTreeMap::new(),
        }
    }

    /// One whose requests carry several events.
    fn shaped(seed: u64, coalesce_ms: Option<u32>, batch_events: Option<u32>) -> Model {
        let mut model = Model::new(seed);
        model.shape = Shape::of(&EndpointSettings {
            coalesce_ms,
            batch_events,
            ..EndpointSettings::new(String::new(), Dialect::Standard)
        });
        model.state.reshape(model.shape);
        model
    }

    /// Closes windows that have ended, as the keeper does.
    fn close_windows(&mut self) {
        if self.routed == Cursor::behind(self.events.len() as u64) {
            let now = u64::try_from(self.now_ms).unwrap() * 1000;
            self.state.close_ended_windows(now.max(self.ordering));
            self.ordering = self.ordering.max(now);
        }
    }

    fn append(&mut self, count: u64) {
        for _ in 0..count {
            let sequence = self.events.len() as u64 + 1;
            self.ordering = (self.ordering + 1).max(u64::try_from(self.now_ms).unwrap() * 1000);
            self.events.push(Event {
                org: "o".into(),
                user: None,
                topic: TopicId(0),
                place: Place { sequence, group: 0, chunk: 0, kind: EventKind::Created },
                ordinal: 0,
                decided_at: sequence,
                key: self.random.below(40),
                ordering: self.ordering,
                samples: 1,
                bytes: 100,
                backfill: self.random.below(10) == 0,
                about: None,
            });
            self.times.push(self.now_ms);
        }
    }

    /// The next event from a cursor on, before another.
    fn next(&self, from: Cursor, through: Cursor) -> Option<Event> {
        let at = usize::try_from(from.sequence.max(1) - 1).unwrap() + usize::from(from.ordinal > 0);
        self.events.get(at).filter(|event| event.cursor() < through).cloned()
    }

    fn route(&mut self, count: u64) {
        for _ in 0..count {
            let Some(event) = self.next(self.routed, Cursor { sequence: u64::MAX, ordinal: 0 }) else {
                return;
            };
            self.state.offer(&event, self.now_ms);
            self.routed = Cursor::behind(event.place.sequence);
        }
    }

    fn begin(&mut self, count: u64) {
        for _ in 0..count {
            if !self.state.wants_worker(self.now_ms) {
                return;
            }
            let Some(job) = self.state.next_job(self.now_ms) else { return };
            let is_free = |key: &u64| self.in_flight.iter().all(|other| !other.keys().contains(key));
            assert!(job.keys().iter().all(is_free), "two of one key");
            self.state.workers += 1;
            self.note(&job);
            self.in_flight.push(job);
        }
    }

    /// An id stands for the same events at each attempt.
    fn note(&mut self, job: &Job) {
        for event in job.members().chunk_by(|_, next| next.joined) {
            let id = event_place(event).0;
            let places: Vec<Place> = event.iter().map(|member| member.place).collect();
            for place in &places {
                self.ids.entry(*place).or_default().insert(id);
            }
            let before = self.sent.entry(id).or_insert_with(|| places.clone());
            assert_eq!(*before, places, "one id of two events");
        }
    }

    fn finish(&mut self) {
        if self.in_flight.is_empty() {
            return;
        }
        let at = usize::try_from(self.random.below(self.in_flight.len() as u64)).unwrap();
        let job = self.in_flight.swap_remove(at);
        let succeeds = match self.receiver {
            Receiver::Up => true,
            Receiver::Flaky(each) => self.random.below(each) != 0,
            Receiver::Down => false,
        };
        let outcome = match succeeds {
            true => Outcome::Delivered,
            false if self.random.below(50) == 0 => Outcome::Unreadable,
            false if self.random.below(20) == 0 => Outcome::Unsent,
            false => Outcome::Failed { retry_after: None },
        };
        if succeeds {
            self.first_try += usize::from(job.attempts == 0);
            self.composite += usize::from(job.is_own());
            self.decided.extend(job.members().iter().map(|member| member.place));
        }
        let after = self.state.finish(&job, outcome, Dialect::Standard.retries(), self.now_ms);
        self.state.workers -= 1;
        match after {
            After::GaveUp => self.decided.extend(job.members().iter().map(|member| member.place)),
            After::Nothing => {}
            After::SwitchOff(reason) => panic!("{reason:?}"),
        }
    }

    /// Does one chore, as `fill` does; false if there is none.
    fn fill(&mut self) -> bool {
        let Some(chore) = self.state.chore(self.now_ms) else { return false };
        match chore {
            Chore::Follow(from) => match self.next(from, self.routed) {
                Some(event) => {
                    self.state.mode = Mode::Behind(Cursor::behind(event.place.sequence));
                    let is_known = self.state.is_known(&event);
                    self.state.take(&event, is_known, self.now_ms);
                }
                None => {
                    // After a restart the router may be behind it.
                    self.state.from = from.max(self.routed);
                    self.state.mode = Mode::Live;
                }
            },
            Chore::Probe(from) => {
                let alive = self.alive();
                if let Mode::Paused(pause) = &mut self.state.mode
                    && pause.alive_from().is_some_and(|rests| rests < alive)
                {
                    pause.alive = alive;
                    if alive > from {
                        return true;
                    }
                }
                let mut at = from;
                while let Some(event) = self.next(at, self.routed) {
                    let known =
                        self.state.ahead.contains(&event.place) || self.state.is_excepted(event.place);
                    if !known {
                        self.state.probe_with(from, &event, self.now_ms);
                        return true;
                    }
                    at = Cursor::behind(event.place.sequence);
                }
                let given_up = self.state.probe_without(from, self.routed, false, self.now_ms);
                self.note_given_up(given_up);
            }
            Chore::Resume(_) => {
                let alive = self.alive();
                let given_up = self.state.resume(self.routed, alive, false, self.now_ms);
                self.note_given_up(given_up);
            }
            Chore::Backlog(span) => {
                let mut at = span.at;
                let mut events = Vec::new();
                while events.len() < 64 {
                    let Some(event) = self.next(at, span.through) else {
                        at = span.through;
                        break;
                    };
                    at = Cursor::behind(event.place.sequence);
                    events.push(event);
                }
                self.state.take_slice(span, &events, at, self.now_ms);
            }
        }
        true
    }

    /// The first event that has not outlived its schedule.
    fn alive(&self) -> Cursor {
        let schedule: Duration = Dialect::Standard.retries().iter().sum();
        let oldest_ms = self.now_ms - i64::try_from(schedule.as_millis()).unwrap();
        let alive = self.times.partition_point(|time| *time < oldest_ms) as u64 + 1;
        Cursor { sequence: alive, ordinal: 0 }
    }

    fn note_given_up(&mut self, range: Option<GivenUp>) {
        let covered =
            self.events.iter().filter(|event| range.is_some_and(|range| range.covers(event.cursor())));
        self.decided.extend(covered.map(|event| event.place));
    }

    fn collect(&mut self) -> (Collected, Changes) {
        let mut changes = Changes::default();
        let id: Arc<str> = "ep_1".into();
        let saved = Cursor::behind(self.stored.routed);
        let at = Positions { routed: self.routed, saved };
        let collected = self.state.collect(&id, at, &mut changes, self.now_ms);
        let mut holds = collected.holds.unwrap_or(self.routed).min(self.routed);
        if self.is_held_back {
            let most = self.routed.sequence - saved.sequence + 1;
            let other = Cursor { sequence: saved.sequence + self.random.below(most), ordinal: 0 };
            holds = holds.min(other);
        }
        changes.routed = holds.sequence - 1;
        assert!(changes.routed >= self.stored.routed, "the position goes back");
        (collected, changes)
    }

    fn save(&mut self) {
        let (collected, changes) = self.collect();
        self.stored.apply(&changes);
        self.state.saved(&collected, &changes, self.now_ms);
    }

    /// Starts again from what is stored; answers that were under way are lost.
    fn crash(&mut self) {
        if self.random.below(2) == 0 {
            // The last save came through, and nobody heard of it.
            let (_, changes) = self.collect();
            self.stored.apply(&changes);
        }
        for job in std::mem::take(&mut self.in_flight) {
            if self.receiver == Receiver::Up && self.random.below(2) == 0 {
                self.decided.extend(job.members().iter().map(|member| member.place));
            }
        }
        self.state = State::restored(true, self.stored.record());
        self.state.reshape(self.shape);
        self.routed = Cursor::behind(self.stored.routed);
    }

    fn pass(&mut self, ms: u64) {
        self.now_ms += i64::try_from(ms).unwrap();
    }

    fn check(&self) {
        let state = &self.state;
        assert!(self.shape != Shape::default() || state.taken.len() <= TAKEN_MAX);
        let waiting = state.exceptions.len();
        assert!(waiting <= EXCEPTIONS_MAX + WINDOW_MAX, "{waiting}");
        assert!(state.backlogs.taken_len() <= 128 && state.backlogs.len() <= 64);
        // What was passed comes in one range.
        assert!(state.backlogs.passed().is_sorted_by(|(_, through), (from, _)| through <= from));
        assert!(state.queues.iter().count() <= TAKEN_MAX + EXCEPTIONS_MAX + WINDOW_MAX + 128);
        assert!(state.ahead.len() <= TAKEN_MAX + EXCEPTIONS_MAX + WINDOW_MAX);
    }

    fn step(&mut self) {
        match self.random.below(100) {
            0..10 => {
                let count = self.random.below(60);
                self.append(count);
            }
            10..25 => {
                let count = self.random.below(100);
                self.route(count);
            }
            25..45 => {
                let count = 1 + self.random.below(16);
                self.begin(count);
            }
            45..75 => (0..16).for_each(|_| self.finish()),
            75..85 => {
                for _ in 0..64 {
                    if !self.fill() {
                        break;
                    }
                }
            }
            85..90 => self.save(),
            90..96 => {
                let ms = [100, 3_000, 41_000, 600_000][usize::try_from(self.random.below(4)).unwrap()];
                self.pass(ms);
                self.close_windows();
                self.state.wake(self.now_ms);
            }
            96..98 => {
                let each = 2 + self.random.below(6);
                self.receiver = match self.random.below(5) {
                    0 | 1 => Receiver::Up,
                    2 => Receiver::Flaky(each),
                    _ => Receiver::Down,
                };
            }
            98 => self.crash(),
            _ if self.random.below(4) == 0 => self.state.moves(self.now_ms),
            _ => {
                let hours = self.random.below(12);
                self.pass(hours * 3_600_000);
            }
        }
        self.check();
    }

    /// The receiver takes everything until nothing is left.
    fn come_to_rest(&mut self) {
        self.receiver = Receiver::Up;
        self.is_held_back = false;
        for _ in 0..20_000 {
            self.route(1000);
            self.close_windows();
            self.state.wake(self.now_ms);
            while self.fill() {
                self.check();
            }
            self.begin(100);
            (0..100).for_each(|_| self.finish());
            self.save();
            self.check();
            self.pass(200);
            if self.state.exceptions.is_empty() && self.is_level() {
                // What was decided by the last save is told by the next.
                self.save();
                return;
            }
            if self.in_flight.is_empty() && self.state.queues.is_empty() {
                self.pass(60_000);
            }
        }
        panic!("it does not come to rest: {:?}", self.state.mode);
    }

    fn is_level(&self) -> bool {
        let end = Cursor::behind(self.events.len() as u64);
        self.state.mode == Mode::Live
            && self.routed == end
            && self.state.taken.is_empty()
            && self.state.backlogs.len() == 0
    }
}
