//! What changes a lane's state: pure, told the time, each call under the lane's lock.

use std::collections::{BTreeMap, BTreeSet};

use super::backlog::{Backlogs, SLICE_EVENTS, Span};
use super::doubt::Flight;
use super::fill::{Turn, Turns};
use super::gather::Shape;
use super::job::{Job, Origin, Queues};
use super::known::Known;
use super::patience::Patience;
use super::pause::Pause;
use super::rate::Bucket;
use super::taken::Taken;
use super::windows::Windows;
use crate::event::{Cursor, Event, Place};
use crate::ledger::{BacklogKind, Exception, GivenUp, Health, LaneRecord};
use crate::notice::MessageFailed;

/// Events taken and not decided: enough to keep a fast receiver busy between two
/// fills, small enough for ten thousand lanes.
pub(super) const TAKEN_MAX: usize = 512;
/// Requests in flight to a receiver that answers well.
pub(super) const WINDOW_MAX: usize = 64;
/// Requests in flight to begin with, once it is not doubtful; one more with each success,
/// half as many with each failure.
pub(super) const WINDOW_FIRST: usize = 8;
/// Deliveries that wait for another attempt; then the lane pauses.
pub(super) const EXCEPTIONS_MAX: usize = 1000;
/// Events in them, where a delivery carries several: with about 80 bytes each, 5 MiB.
pub(super) const CARRIED_MAX: usize = 65_536;
/// Live events taken although so many wait: else a lane that resumes would take none.
pub(super) const TAKEN_MIN: usize = WINDOW_FIRST;
/// How soon a lane that did not read on looks again.
const READ_AGAIN_MS: i64 = 100;
/// How soon one that could not read tries again; then twice as late up to a minute.
const READ_FAILED_MS: i64 = 1000;
const READ_FAILED_MAX_MS: i64 = 60_000;

/// Where a lane's events come from.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) enum Mode {
    /// The router offers them.
    #[default]
    Live,
    /// It reads them itself, from here on.
    Behind(Cursor),
    /// It tries one now and then.
    Paused(Pause),
    /// It takes none.
    Off,
}

/// What a lane knows of its deliveries.
#[derive(Debug, Default)]
pub(super) struct State {
    pub(super) mode: Mode,
    /// Raised when the lane begins anew: what was under way then is not its own.
    pub(super) generation: u64,
    /// How often the receiver moved: what came of a request to where it was before says
    /// nothing of it.
    pub(super) moves: u32,
    /// It begins nothing more, and is off once that is stored. Until then it keeps what
    /// waits, for a restart finds it on.
    pub(super) is_ending: bool,
    /// It takes no event before this: the router may still be on its way here.
    pub(super) from: Cursor,
    pub(super) taken: Taken,
    pub(super) queues: Queues,
    /// Workers that run.
    pub(super) workers: usize,
    pub(super) window: usize,
    pub(super) exceptions: BTreeMap<Place, Exception>,
    /// Exceptions by when they are due; none that is in flight or ready.
    pub(super) due: BTreeSet<(i64, Place)>,
    /// Events that are still to be read and need not be taken: they are decided, or
    /// were an exception when they were passed.
    pub(super) ahead: BTreeSet<Place>,
    pub(super) backlogs: Backlogs,
    /// Of the frames that are read next of a range that somebody asked for.
    pub(super) known: Option<Known>,
    pub(super) health: Health,
    pub(super) failures_in_a_row: u32,
    pub(super) flight: Flight,
    /// The receiver took something since the start, where it is now.
    pub(super) has_answered: bool,
    /// What the next save has to tell.
    pub(super) unsaved: Unsaved,
    /// Whether the catalog has a cursor of this lane.
    pub(super) row: Option<Cursor>,
    /// What the catalog has of its health.
    pub(super) health_saved: Health,
    /// Somebody reads the journal for this lane now, or waits to.
    pub(super) turns: Turns,
    /// Whether the journal can be read, by the kind of turn.
    pub(super) reading: [Reading; Turn::ALL.len()],
    pub(super) counts: Counts,
    /// How requests are made.
    pub(super) shape: Shape,
    /// Events that wait to be drawn together.
    pub(super) windows: Windows,
    /// Behind the last event that came into a window.
    pub(super) drawn: Cursor,
    /// Members of exceptions that carry several.
    pub(super) carried: BTreeSet<Place>,
    /// What is left of the rate.
    pub(super) bucket: Bucket,
    /// The receiver asked to be left alone.
    pub(super) patience: Patience,
}

/// Whether the journal can be read.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Reading {
    /// Reads that failed in a row.
    failures: u32,
    /// Nothing is read before; milliseconds since 1970.
    after_ms: i64,
}

impl Reading {
    /// A read failed; true if the one before it did not.
    pub(super) fn failed(&mut self, now_ms: i64) -> bool {
        let pause_ms = READ_FAILED_MS << self.failures.min(6);
        self.after_ms = now_ms.saturating_add(pause_ms.min(READ_FAILED_MAX_MS));
        self.failures = self.failures.saturating_add(1);
        self.failures == 1
    }

    pub(super) fn failures(self) -> u32 {
        self.failures
    }

    /// Something was read, or there was nothing to read.
    pub(super) fn succeeded(&mut self) {
        *self = Reading::default();
    }

    fn may_begin(self, now_ms: i64) -> bool {
        // A clock that is set back does not make it wait for longer.
        self.after_ms <= now_ms || self.after_ms > now_ms.saturating_add(READ_FAILED_MAX_MS)
    }
}

/// What is counted since the start.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Counts {
    pub(super) delivered: u64,
    pub(super) failed: u64,
    pub(super) given_up: u64,
    /// Events that passed and were not read yet.
    pub(super) passed: u64,
    pub(super) last_success_ms: Option<i64>,
    pub(super) last_failure_ms: Option<i64>,
    /// Of what was sent by hand, which is not held against the receiver.
    pub(super) last_failure_by_hand_ms: Option<i64>,
}

#[derive(Debug, Default)]
pub(super) struct Unsaved {
    pub(super) failed: BTreeSet<Place>,
    pub(super) settled: BTreeSet<Place>,
    /// Decided once their exceptions are durable: where they come from, and how many
    /// events of each.
    pub(super) tickets: Vec<(Origin, u32)>,
    pub(super) given_up: Vec<GivenUp>,
    /// What is announced once it is saved.
    pub(super) notices: Vec<MessageFailed>,
    /// Whatever the catalog has of this lane is of a time before it began anew.
    pub(super) wiped: bool,
    /// It needs other frames than it did.
    pub(super) needs: bool,
}

impl Unsaved {
    /// Whether there is nothing to tell.
    pub(super) fn is_empty(&self) -> bool {
        let Unsaved { failed, settled, tickets, given_up, notices, wiped, needs } = self;
        let is_told = failed.is_empty() && settled.is_empty() && tickets.is_empty();
        is_told && given_up.is_empty() && notices.is_empty() && !wiped && !needs
    }
}

/// What a lane has to read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Chore {
    /// Its events, from its own cursor on.
    Follow(Cursor),
    /// An event to probe with.
    Probe(Cursor),
    /// Where the router is, to join it there; this rests since the pause.
    Resume(Option<Cursor>),
    /// What is sent behind live events.
    Backlog(Span),
}

impl State {
    /// A lane that begins at a cursor of its own.
    pub(super) fn begin(is_active: bool, from: Cursor) -> State {
        let mode = if is_active { Mode::Behind(from) } else { Mode::Off };
        State { mode, from, row: is_active.then_some(from), window: WINDOW_FIRST, ..State::default() }
    }

    /// A lane as a restart finds it.
    pub(super) fn restored(is_active: bool, record: LaneRecord) -> State {
        if !is_active {
            return State { mode: Mode::Off, window: WINDOW_FIRST, ..State::default() };
        }
        let LaneRecord { start, row, health, exceptions, backlogs } = record;
        let members = exceptions.iter().flat_map(|exception| exception.members.iter());
        let carried: BTreeSet<Place> = members.map(|member| member.place).collect();
        let ahead: BTreeSet<Place> =
            exceptions.iter().map(|exception| exception.place).chain(carried.iter().copied()).collect();
        let mode = match (health.paused_at_ms, row) {
            // When it is probed is chosen once it is on an agenda.
            (Some(_), row) => Mode::Paused(Pause::new(row, 0)),
            (None, Some(from)) => Mode::Behind(from),
            (None, None) => Mode::Live,
        };
        State {
            mode,
            window: WINDOW_FIRST,
            from: row.unwrap_or(start),
            due: exceptions.iter().map(|exception| (exception.due_at_ms, exception.place)).collect(),
            exceptions: exceptions.into_iter().map(|exception| (exception.place, exception)).collect(),
            backlogs: Backlogs::restored(backlogs, &ahead),
            ahead,
            health,
            health_saved: health,
            row,
            carried,
            ..State::default()
        }
    }

    /// An event from the router; true if there is something to do now.
    pub(super) fn offer(&mut self, event: &Event, now_ms: i64) -> bool {
        if event.cursor() < self.from {
            return false;
        }
        match &mut self.mode {
            Mode::Off => return false,
            Mode::Behind(_) => {
                self.counts.passed += 1;
                return false;
            }
            Mode::Paused(pause) => {
                if self.exceptions.contains_key(&event.place) || self.carried.contains(&event.place) {
                    return false;
                }
                self.counts.passed += 1;
                return pause.pass(event.cursor());
            }
            Mode::Live => {}
        }
        let is_known = self.is_known(event);
        if !is_known && !self.has_room() {
            self.counts.passed = 1;
            self.mode = Mode::Behind(event.cursor());
            return false;
        }
        self.take(event, is_known, now_ms);
        self.wants_worker(now_ms)
    }

    /// Whether an event that is read in order need not be taken.
    pub(super) fn is_known(&mut self, event: &Event) -> bool {
        while self.ahead.first().is_some_and(|first| first.sequence < event.place.sequence) {
            self.ahead.pop_first();
        }
        self.is_excepted(event.place) || self.ahead.remove(&event.place)
    }

    /// Whether an event that somebody asked for waits already, or will come anyway.
    pub(super) fn will_send(&self, event: &Event) -> bool {
        let at = event.cursor();
        let rests = match &self.mode {
            Mode::Behind(from) => *from <= at,
            Mode::Paused(pause) => pause.from.is_some_and(|from| from <= at),
            Mode::Live | Mode::Off => false,
        };
        rests || self.is_excepted(event.place) || self.taken.contains(at) || self.backlogs.will_send(at)
    }

    /// Events that are not decided, as far as it knows of them.
    pub(super) fn lag_events(&self) -> u64 {
        self.counts.passed + self.taken.len() as u64
    }

    /// Whether it begins nothing.
    pub(super) fn is_off(&self) -> bool {
        self.is_ending || self.mode == Mode::Off
    }

    pub(super) fn wants_worker(&self, now_ms: i64) -> bool {
        !self.is_ending && !self.queues.is_empty() && self.workers < self.window(now_ms)
    }

    /// Whether it is time to read on.
    pub(super) fn wants_fill(&self, now_ms: i64) -> bool {
        let chore = self.chore(now_ms).filter(|chore| !self.turns.has(chore.turn()));
        match chore {
            Some(Chore::Follow(_)) => self.held() < TAKEN_MAX / 2,
            other => other.is_some(),
        }
    }

    /// What is to be read next, unless such a read failed a moment ago.
    pub(super) fn chore(&self, now_ms: i64) -> Option<Chore> {
        self.wanted(now_ms).filter(|chore| self.reading[chore.turn() as usize].may_begin(now_ms))
    }

    fn wanted(&self, now_ms: i64) -> Option<Chore> {
        if self.is_ending {
            return None;
        }
        match &self.mode {
            Mode::Off => None,
            Mode::Paused(pause) if pause.resumes => {
                // What is in flight may come to an end that changes what rests.
                (!pause.is_out && self.has_landed()).then_some(Chore::Resume(pause.from))
            }
            Mode::Paused(pause) => pause.looks(now_ms).then_some(Chore::Probe(pause.at.max(pause.alive))),
            Mode::Behind(from) if self.has_room() => Some(Chore::Follow(*from)),
            Mode::Behind(_) | Mode::Live => {
                let may_wait = self.exceptions.len() + self.held() + self.backlogs.taken_len();
                let fits = may_wait + SLICE_EVENTS < EXCEPTIONS_MAX
                    && self.carried.len() + SLICE_EVENTS < CARRIED_MAX;
                let span = self.backlogs.next_span().filter(|_| fits);
                span.map(Chore::Backlog)
            }
        }
    }

    /// Whether of what was taken nothing is left: it is decided, or stored as an exception. While
    /// something is, a restart reads it again, and would read a range behind it twice.
    pub(super) fn has_landed(&self) -> bool {
        self.taken.is_empty()
    }

    /// When the keeper is to look at it again.
    pub(super) fn next_wake(&self, now_ms: i64) -> Option<i64> {
        if self.is_ending {
            return None;
        }
        let due = self.due.first().map(|(due, _)| *due);
        let ready = self.next_ready(now_ms);
        let earlier = |own: Option<i64>| own.into_iter().chain(ready).min();
        let backs_off = self.wanted(now_ms).map(|chore| self.reading[chore.turn() as usize]);
        let backs_off = backs_off.filter(|reading| !reading.may_begin(now_ms));
        let reads = match backs_off {
            Some(reading) => Some(reading.after_ms),
            None => self.wants_fill(now_ms).then_some(now_ms + READ_AGAIN_MS),
        };
        match &self.mode {
            Mode::Off => None,
            // The probe may wait for the rate.
            Mode::Paused(pause) if pause.is_out => earlier(self.next_gather(now_ms)),
            // At once: what it waited for may be over by a save, behind which nobody reads.
            Mode::Paused(pause) if pause.resumes => {
                let reads = reads.map(|at| if backs_off.is_some() { at } else { now_ms });
                earlier([reads, due, self.next_gather(now_ms)].into_iter().flatten().min())
            }
            Mode::Paused(pause) if pause.is_idle => earlier(due.map(|due| due.max(pause.next_ms))),
            // Due already: it reads, or waits for its turn to.
            Mode::Paused(pause) if pause.next_ms < now_ms && pause.looks(now_ms) => earlier(reads),
            Mode::Paused(pause) => earlier(Some(pause.next_ms)),
            Mode::Live | Mode::Behind(_) => {
                [due, ready, reads, self.next_gather(now_ms)].into_iter().flatten().min()
            }
        }
    }

    /// Takes what was read of a range, as far as there is room; `reached` is where its
    /// reader stands.
    pub(super) fn take_slice(&mut self, span: Span, events: &[Event], reached: Cursor, now_ms: i64) {
        if !self.backlogs.is_at(span) || !matches!(self.mode, Mode::Live | Mode::Behind(_)) {
            return;
        }
        let is_asked = span.kind != BacklogKind::Passed;
        if is_asked && !self.known.as_ref().is_some_and(|known| known.is_whole(span)) {
            return;
        }
        for event in events {
            let waits = if is_asked { self.will_send(event) } else { self.is_excepted(event.place) };
            let is_unwanted = is_asked && self.known.as_ref().is_some_and(|known| !known.wants(event));
            if self.backlogs.passes_over(event) || waits || is_unwanted {
                continue;
            }
            if let Some((number, ticket, is_manual)) = self.backlogs.take(event, now_ms) {
                let origin = Origin::Backlog { number, ticket, is_manual };
                self.queues.push(Job::of(event, origin, self.generation));
            }
        }
        self.backlogs.reached(reached);
        if let Some(known) = self.known.as_mut().filter(|_| is_asked) {
            known.reached(reached);
        }
        if reached >= span.through {
            self.known = None;
        }
    }

    /// The next job whose key is free.
    pub(super) fn next_job(&mut self, now_ms: i64) -> Option<Job> {
        if self.is_ending {
            return None;
        }
        let mut job = self.next_shaped(now_ms)?;
        job.moves = self.moves;
        self.flight.begin(now_ms);
        if let (Mode::Paused(pause), Origin::Probe) = (&mut self.mode, job.origin) {
            pause.began(now_ms);
        }
        Some(job)
    }

    /// Does what is due by now; true if something is ready to be sent.
    pub(super) fn wake(&mut self, now_ms: i64) -> bool {
        if self.is_ending {
            return false;
        }
        match &mut self.mode {
            Mode::Off => false,
            Mode::Live | Mode::Behind(_) => self.wake_due(now_ms),
            // It waits for what was in flight, and for a save.
            Mode::Paused(pause) if pause.resumes => self.wake_due(now_ms),
            Mode::Paused(pause) => {
                if pause.is_idle && self.due.first().is_some_and(|(due, _)| *due <= now_ms) {
                    pause.is_idle = false;
                }
                if pause.is_due(now_ms) && pause.from.is_none() {
                    return self.send_exception_as_probe(now_ms);
                }
                self.send_probe(now_ms)
            }
        }
    }

    pub(super) fn wake_due(&mut self, now_ms: i64) -> bool {
        let mut woken = false;
        while let Some(&(due, place)) = self.due.first().filter(|(due, _)| *due <= now_ms) {
            self.due.remove(&(due, place));
            if let Some(exception) = self.exceptions.get(&place) {
                self.queues.push(Job::retry(exception, self.generation));
                woken = true;
            }
        }
        woken
    }

    /// A worker leaves: room that a burst took is given back once the last one does.
    pub(super) fn trim(&mut self) {
        if self.workers == 0 {
            self.queues.trim();
            self.taken.trim();
        }
    }

    /// A delivery that waits was made by hand.
    pub(super) fn end_exception(&mut self, place: Place) {
        if self.settle_exception(place) {
            self.queues.take_out(|job| job.origin == Origin::Retry && job.place == place);
        }
    }

    /// Ends what waits and is gone; how much that was. What is in flight finds nothing
    /// of its own when it ends.
    pub(super) fn give_up(&mut self, is_gone: impl Fn(Place) -> bool) -> u64 {
        let members = self.give_up_members(&is_gone);
        let places: Vec<Place> = self.exceptions.keys().copied().filter(|place| is_gone(*place)).collect();
        let retries = places.into_iter().filter(|place| self.settle_exception(*place)).count();
        let out = self.queues.take_out(|job| is_gone(job.place));
        let of_backlogs = out.iter().filter(|job| matches!(job.origin, Origin::Backlog { .. })).count();
        out.iter().for_each(|job| self.decide(job.origin, 1));
        if let Mode::Paused(pause) = &mut self.mode
            && let Some(probe) = pause.probe.clone().filter(|probe| is_gone(probe.place))
        {
            // One that is in flight ends by itself.
            if out.iter().any(|job| job.origin == Origin::Probe) || !pause.is_out {
                pause.decided(&probe);
            }
        }
        members + (retries + of_backlogs) as u64
    }

    /// What waits and could be gone.
    pub(super) fn waiting(&self) -> Vec<Place> {
        let queued = self.queues.iter().filter(|job| !job.is_own()).map(|job| job.place);
        let probe = match &self.mode {
            Mode::Paused(pause) => pause.probe.as_ref().map(|probe| probe.place),
            _ => None,
        };
        // Of what carries several each is asked after, of the queues only what is alone:
        // the others are cut anew when they are sent.
        let alone = self.exceptions.values().filter(|exception| exception.members.is_empty());
        let alone = alone.map(|exception| exception.place);
        alone.chain(self.carried.iter().copied()).chain(queued).chain(probe).collect()
    }

    /// Begins nothing more, and keeps what waits; false if it was off, or ends already.
    pub(super) fn begin_end(&mut self) -> bool {
        let was_on = !self.is_off();
        self.is_ending |= was_on;
        was_on
    }

    /// Forgets what waits; workers in flight find nothing of theirs.
    pub(super) fn reset(&mut self, mode: Mode) {
        self.taken.clear();
        self.queues.clear();
        let from = if let Mode::Behind(from) = mode { from } else { Cursor::default() };
        let given_up = std::mem::take(&mut self.unsaved.given_up);
        let notices = std::mem::take(&mut self.unsaved.notices);
        *self = State {
            mode,
            from,
            generation: self.generation + 1,
            moves: self.moves,
            taken: std::mem::take(&mut self.taken),
            queues: std::mem::take(&mut self.queues),
            workers: self.workers,
            flight: self.flight,
            window: WINDOW_FIRST,
            turns: self.turns,
            reading: self.reading,
            unsaved: Unsaved { wiped: true, given_up, notices, ..Unsaved::default() },
            counts: Counts { passed: 0, ..self.counts },
            shape: self.shape,
            bucket: self.bucket,
            has_answered: self.has_answered,
            ..State::default()
        };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_cannot_be_read_is_tried_later_and_later_and_said_once() {
        let mut reading = Reading::default();
        let mut pauses = Vec::new();
        for failure in 0..9 {
            assert_eq!(reading.failed(0), failure == 0);
            assert!(!reading.may_begin(reading.after_ms - 1) && reading.may_begin(reading.after_ms));
            pauses.push(reading.after_ms / 1000);
        }
        assert_eq!(pauses, [1, 2, 4, 8, 16, 32, 60, 60, 60]);
        let mut state = State { mode: Mode::Behind(Cursor::default()), ..State::default() };
        state.reading[Turn::Events as usize] = reading;
        assert_eq!((state.chore(0), state.next_wake(0)), (None, Some(60_000)));
        // What else it reads does not wait for that.
        state.mode = Mode::Paused(Pause::new(Some(Cursor::default()), 0));
        assert_eq!(state.chore(0), Some(Chore::Probe(Cursor::default())));
        reading.succeeded();
        assert!(reading.may_begin(0) && reading.failed(0));
    }
}
