//! What a lane reads for itself: its events while it lags, an event to probe with
//! while it is paused, the router's place when it resumes, and its backlogs.
//!
//! Reading may block, so it is done on threads that may, and a few lanes at a time. One
//! that has read for 200 ms goes behind those that wait. What a paused lane reads has
//! turns of its own, so that one that answers again waits for nobody's events; and so has
//! what somebody asked for, so that no number of recoveries holds up lanes that lag.

use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::Semaphore;

use super::announce::{PAYLOAD_GONE, SCHEDULE_OVER};
use super::backlog::{SLICE_EVENTS, Span};
use super::known::{KEPT_MAX, OUTCOMES_MAX};
use super::state::{Chore, Mode, State};
use super::{Lane, LaneConfig, pause};
use crate::client::chain;
use crate::dispatcher::Shared;
use crate::event::{Cursor, Event, EventReader, ReadFault, Step};
use crate::ledger::{BacklogKind, GivenUp};

/// Lanes that read at once, of each kind of turn but one.
const READERS_MAX: usize = 4;
/// Lanes that read at once what somebody asked for: fewer, for that waits behind live events
/// anyway, and takes disk and CPU from those that lag.
const ASKED_READERS_MAX: usize = 2;
/// How long a lane reads before others have their turn.
const TURN_MAX: Duration = Duration::from_millis(200);
/// Chores done before what was read is sent, and others have their turn.
const CHORES_AT_ONCE: usize = 4096;
/// Events looked at for one slice, or for a probe, of which few may be wanted.
const SLICE_READS_MAX: usize = 4096;

/// Which turn a chore waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Turn {
    /// To read events that are sent.
    Events,
    /// To look for an event to probe with.
    Probe,
    /// To join the router.
    Resume,
    /// To read events that somebody asked for.
    Asked,
}

impl Turn {
    pub(super) const ALL: [Turn; 4] = [Turn::Events, Turn::Probe, Turn::Resume, Turn::Asked];

    /// Lanes that have it at once.
    fn readers_max(self) -> usize {
        match self {
            Turn::Events | Turn::Probe | Turn::Resume => READERS_MAX,
            Turn::Asked => ASKED_READERS_MAX,
        }
    }

    /// Chores done in it before others have theirs.
    fn chores_max(self) -> usize {
        match self {
            Turn::Events | Turn::Asked => CHORES_AT_ONCE,
            // What a paused lane reads is short, or others have their turn meanwhile.
            Turn::Probe | Turn::Resume => 1,
        }
    }
}

impl Chore {
    pub(super) fn turn(self) -> Turn {
        match self {
            Chore::Backlog(span) if span.kind != BacklogKind::Passed => Turn::Asked,
            Chore::Follow(_) | Chore::Backlog(_) => Turn::Events,
            Chore::Probe(_) => Turn::Probe,
            Chore::Resume(_) => Turn::Resume,
        }
    }
}

/// The turns that a lane has, or waits for.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Turns([bool; Turn::ALL.len()]);

impl Turns {
    pub(super) fn has(self, turn: Turn) -> bool {
        self.0[turn as usize]
    }

    /// False if it is there already.
    fn add(&mut self, turn: Turn) -> bool {
        !std::mem::replace(&mut self.0[turn as usize], true)
    }

    fn remove(&mut self, turn: Turn) {
        self.0[turn as usize] = false;
    }
}

/// Turns to read the journal, over all lanes.
#[derive(Debug)]
pub(crate) struct ReadTurns {
    /// Of each kind; whoever finds none waits.
    turns: [Semaphore; Turn::ALL.len()],
    /// Room to keep what is known of a range; whoever finds none asks again.
    known: Arc<Semaphore>,
}

impl ReadTurns {
    pub(crate) fn new() -> ReadTurns {
        ReadTurns {
            turns: Turn::ALL.map(|turn| Semaphore::new(turn.readers_max())),
            known: Arc::new(Semaphore::new(KEPT_MAX)),
        }
    }

    fn of(&self, turn: Turn) -> &Semaphore {
        &self.turns[turn as usize]
    }
}

impl State {
    /// Others have their turn; `is_over` if the lane does not wait for another one.
    fn end_turn(&mut self, turn: Turn, is_over: bool, turns: &ReadTurns) {
        if is_over {
            self.turns.remove(turn);
        }
        if turn == Turn::Asked {
            self.keep_known(|| turns.known.clone().try_acquire_owned().ok());
        }
    }
}

/// A reader that is kept from chore to chore, and the user it is for.
#[derive(Default)]
struct Kept(Option<(Option<String>, Box<dyn EventReader>)>);

/// What a fill keeps from turn to turn.
#[derive(Default)]
struct Readers {
    /// Of the lane's own events, or for a probe.
    own: Kept,
    /// Of what is sent behind them.
    behind: Kept,
    /// Where the router was when it was asked last.
    routed: Cursor,
}

impl Kept {
    /// The reader of what may concern a lane, at a cursor.
    fn at(
        &mut self,
        shared: &Shared,
        org: &str,
        config: &LaneConfig,
        cursor: Cursor,
    ) -> &mut Box<dyn EventReader> {
        let user = &config.settings.user_id;
        if self.0.as_ref().is_some_and(|(of, reader)| of != user || reader.cursor() != cursor) {
            self.0 = None;
        }
        let begin = || (user.clone(), shared.log.reader_of(cursor, org, user.as_deref()));
        &mut self.0.get_or_insert_with(begin).1
    }
}

impl Lane {
    /// Reads on where reading may block, unless that is under way.
    pub(super) fn fill_soon(self: &Arc<Lane>, shared: &Arc<Shared>) {
        if shared.is_stopping() {
            return;
        }
        let begin = |state: &mut State, now_ms| {
            let turn = state.chore(now_ms)?.turn();
            state.turns.add(turn).then_some(turn)
        };
        let Some(turn) = self.with(begin) else { return };
        let (lane, shared) = (self.clone(), shared.clone());
        let handle = shared.crews.living.handle.clone();
        handle.spawn(async move {
            let mut readers = Readers::default();
            // Few at once: a thousand lanes that lag must not read all together.
            while let Ok(_turn) = shared.readers.of(turn).acquire().await {
                let (reader, filled) = (lane.clone(), shared.clone());
                let reading = tokio::task::spawn_blocking(move || {
                    let goes_on = reader.fill(&filled, turn, &mut readers);
                    reader.pump(&filled);
                    goes_on.then_some(readers)
                });
                match reading.await {
                    Ok(Some(kept)) => readers = kept,
                    Ok(None) => break,
                    Err(_) => {
                        tracing::error!(endpoint = &*lane.id, "reading for a lane panicked");
                        lane.with(|state, _| state.end_turn(turn, true, &shared.readers));
                        break;
                    }
                }
            }
        });
    }

    /// Does chores of one kind until there is nothing to read or no room, or its turn is
    /// over: then it is true, and the lane has to have another one.
    fn fill(self: &Arc<Lane>, shared: &Arc<Shared>, turn: Turn, readers: &mut Readers) -> bool {
        let begun = Instant::now();
        let Readers { own, behind, routed } = readers;
        for chores in 0.. {
            let Some((chore, failures)) = self.next_chore(shared, turn) else { break };
            if chores == turn.chores_max() || begun.elapsed() >= TURN_MAX {
                self.with(|state, _| state.end_turn(turn, false, &shared.readers));
                return true;
            }
            let goes_on = match chore {
                Chore::Follow(cursor) => self.follow(shared, own, routed, cursor),
                Chore::Probe(cursor) => self.find_probe(shared, own, cursor),
                Chore::Resume(from) => self.resume(shared, from),
                Chore::Backlog(span) => {
                    let goes_on = self.read_backlog(shared, behind, span);
                    self.pump(shared);
                    goes_on
                }
            };
            if failures > 0 {
                self.with(|state, _| {
                    let reading = &mut state.reading[turn as usize];
                    if reading.failures() == failures {
                        reading.succeeded();
                    }
                });
            }
            if !goes_on {
                self.with(|state, _| state.end_turn(turn, true, &shared.readers));
                break;
            }
        }
        let waits = |state: &mut State, now_ms| state.chore(now_ms).is_some_and(|chore| chore.turn() != turn);
        if self.with(waits) {
            self.fill_soon(shared);
        }
        false
    }

    /// What is to be read next in such a turn, and how many reads for one failed in a row; if
    /// there is nothing, the turn is given up.
    fn next_chore(&self, shared: &Shared, turn: Turn) -> Option<(Chore, u32)> {
        self.with(|state, now_ms| {
            let chore = state.chore(now_ms).filter(|chore| chore.turn() == turn && !shared.is_stopping());
            if chore.is_none() {
                state.end_turn(turn, true, &shared.readers);
            }
            chore.map(|chore| (chore, state.reading[turn as usize].failures()))
        })
    }

    fn fits(&self, shared: &Shared, event: &Event) -> bool {
        shared.wants(&self.id, &self.config.load().settings, event)
    }

    /// Whether it is still for the same user. Asked under its lock, behind a read: else the
    /// reader passed over what the new one is to get.
    fn is_for_user_of(&self, config: &LaneConfig) -> bool {
        self.config.load().settings.user_id == config.settings.user_id
    }

    /// Reads one event of its own; false once there is none, or it has joined the
    /// router, which was at `known` when that was asked last.
    fn follow(&self, shared: &Shared, kept: &mut Kept, known: &mut Cursor, cursor: Cursor) -> bool {
        if cursor >= *known {
            // Not for each event: the router holds it while it routes.
            *known = *shared.routed.lock();
        }
        let (through, config) = (*known, self.config());
        let reader = kept.at(shared, &self.org, &config, cursor);
        let wanted = |org: &str| (*org == *self.org).then_some(0);
        let step = reader.next(&wanted, through);
        let reached = reader.cursor();
        match step {
            Ok(Step::Event(event)) => {
                let fits = self.fits(shared, &event);
                self.with(|state, now_ms| {
                    if state.mode != Mode::Behind(cursor) || !self.is_for_user_of(&config) {
                        return;
                    }
                    state.mode = Mode::Behind(reached);
                    if fits {
                        state.counts.passed = state.counts.passed.saturating_sub(1);
                        let is_known = state.is_known(&event);
                        state.take(&event, is_known, now_ms);
                    }
                });
                true
            }
            Ok(Step::Pause) => {
                // Nobody routes meanwhile, so nothing can come between.
                let routed = shared.routed.lock();
                *known = *routed;
                self.with(|state, _| {
                    if state.mode != Mode::Behind(cursor) || !self.is_for_user_of(&config) {
                        return true;
                    }
                    if reached >= *routed {
                        state.from = reached;
                        state.mode = Mode::Live;
                        state.counts.passed = 0;
                        return true;
                    }
                    state.mode = Mode::Behind(reached);
                    reached != cursor || through != *routed
                })
            }
            Err(fault) => self.skip(shared, Turn::Events, fault, cursor, |state, to| {
                if state.mode == Mode::Behind(cursor) {
                    state.mode = Mode::Behind(to);
                }
            }),
        }
    }

    /// Looks for an event to probe with; true if it is to look on.
    fn find_probe(&self, shared: &Shared, kept: &mut Kept, cursor: Cursor) -> bool {
        // From the first on that rests, not from where it is looked for: what has outlived its
        // schedule holds no payloads.
        let rests_from = self.rests_from().unwrap_or(cursor).min(cursor);
        match self.alive_from(shared, rests_from) {
            Ok(alive) if alive > rests_from => {
                self.with(|state, _| {
                    if let Mode::Paused(pause) = &mut state.mode {
                        pause.alive = alive;
                        state.unsaved.needs = true;
                    }
                });
                if alive > cursor {
                    return true;
                }
            }
            Ok(_) => {}
            Err(fault) => return self.skip(shared, Turn::Probe, fault, cursor, |_, _| {}),
        }
        let (through, config) = (*shared.routed.lock(), self.config());
        let mut at = cursor;
        for _ in 0..SLICE_READS_MAX {
            let reader = kept.at(shared, &self.org, &config, at);
            let wanted = |org: &str| (*org == *self.org).then_some(0);
            match reader.next(&wanted, through) {
                Ok(Step::Event(event)) => {
                    let passes = !self.fits(shared, &event);
                    at = reader.cursor();
                    let rests = self.with(|state, now_ms| {
                        let rests =
                            passes || state.ahead.contains(&event.place) || state.is_excepted(event.place);
                        if !rests {
                            state.probe_with(cursor, &event, now_ms);
                        }
                        rests
                    });
                    if !rests {
                        return false;
                    }
                }
                Ok(Step::Pause) => {
                    let reached = reader.cursor();
                    self.found_none(shared, &config, cursor, reached);
                    return false;
                }
                Err(fault) => {
                    // Those before it that were tried, or outlived, are gone with it.
                    let from = self.first_at_rest().unwrap_or(at).min(at);
                    return self.skip(shared, Turn::Probe, fault, from, |state, to| {
                        if let Mode::Paused(pause) = &mut state.mode {
                            pause.dropped(to);
                        }
                    });
                }
            }
        }
        self.with(|state, _| {
            if self.is_for_user_of(&config) {
                state.looked(cursor, at);
            }
        });
        true
    }

    /// Nothing to probe with was found from `from` to `reached`.
    fn found_none(&self, shared: &Shared, config: &LaneConfig, from: Cursor, reached: Cursor) {
        let is_quiet = self.takes_only_notices();
        let given_up = {
            // Nobody routes meanwhile, so nothing can come between.
            let routed = shared.routed.lock();
            self.with(|state, now_ms| {
                if !self.is_for_user_of(config) {
                    return None;
                }
                let given_up = state.probe_without(from, reached, is_quiet, now_ms);
                if reached < *routed {
                    state.look_on();
                }
                let GivenUp { from, through, .. } = given_up?;
                if !is_quiet {
                    state.unsaved.notices.push(self.failed_range(from, through, SCHEDULE_OVER));
                }
                Some((from, through))
            })
        };
        if let Some((from, through)) = given_up {
            shared.counters.given_up();
            self.warn_of_range(from, through, SCHEDULE_OVER);
        }
    }

    /// The first event that rests since a pause.
    fn first_at_rest(&self) -> Option<Cursor> {
        match &self.state.lock().mode {
            Mode::Paused(pause) => pause.from,
            _ => None,
        }
    }

    /// The same of those that had not outlived their schedule when that was asked last.
    fn rests_from(&self) -> Option<Cursor> {
        match &self.state.lock().mode {
            Mode::Paused(pause) => pause.alive_from(),
            _ => None,
        }
    }

    /// Joins the router; what rests is sent behind live events.
    fn resume(&self, shared: &Shared, from: Option<Cursor>) -> bool {
        let alive = match from.map(|from| self.alive_from(shared, from)).transpose() {
            Ok(alive) => alive.unwrap_or_default(),
            Err(fault) => return self.skip(shared, Turn::Resume, fault, from.unwrap_or_default(), |_, _| {}),
        };
        let is_quiet = self.takes_only_notices();
        let given_up = {
            // Nobody routes meanwhile, so nothing can come between.
            let routed = shared.routed.lock();
            self.with(|state, now_ms| {
                let GivenUp { from, through, .. } = state.resume(*routed, alive, is_quiet, now_ms)?;
                if !is_quiet {
                    state.unsaved.notices.push(self.failed_range(from, through, SCHEDULE_OVER));
                }
                Some((from, through))
            })
        };
        tracing::info!(endpoint = &*self.id, "endpoint answers again: its lane resumes");
        if let Some((from, through)) = given_up {
            shared.counters.given_up();
            self.warn_of_range(from, through, SCHEDULE_OVER);
        }
        true
    }

    /// From where on events have not outlived the schedule of their attempts, which
    /// is counted from their commits.
    fn alive_from(&self, shared: &Shared, from: Cursor) -> Result<Cursor, ReadFault> {
        let retries = self.config.load().settings.dialect.retries();
        let schedule: std::time::Duration = retries.iter().sum();
        let oldest_ms = shared.clock.now_ms().saturating_sub(pause::ms(schedule));
        let is_alive = |sequence: u64| -> Result<bool, ReadFault> {
            Ok(shared.log.committed_ms(sequence)?.is_none_or(|ms| ms >= oldest_ms))
        };
        if is_alive(from.sequence)? {
            return Ok(from);
        }
        let (mut dead, mut alive) = (from.sequence, shared.routed.lock().sequence.max(from.sequence + 1));
        while alive - dead > 1 {
            let middle = dead + (alive - dead) / 2;
            if is_alive(middle)? { alive = middle } else { dead = middle }
        }
        Ok(Cursor { sequence: alive, ordinal: 0 })
    }

    /// Reads a slice of a range; false if there is nothing to read for now.
    fn read_backlog(&self, shared: &Shared, kept: &mut Kept, span: Span) -> bool {
        let through = match self.know(shared, span) {
            Ok(through) => through,
            Err(error) => {
                let error = chain(error.as_ref());
                if self.read_failed(Chore::Backlog(span).turn()) {
                    tracing::error!(endpoint = &*self.id, error, "cannot tell what is to be sent again");
                }
                return false;
            }
        };
        let config = self.config();
        let reader = kept.at(shared, &self.org, &config, span.at);
        let wanted = |org: &str| (*org == *self.org).then_some(0);
        let mut events = Vec::with_capacity(SLICE_EVENTS);
        let mut paused = false;
        let mut reads = 0;
        while events.len() < SLICE_EVENTS && reads < SLICE_READS_MAX {
            reads += 1;
            match reader.next(&wanted, through) {
                Ok(Step::Event(event)) if self.is_asked(shared, span, &event) => events.push(event),
                Ok(Step::Event(_)) => {}
                Ok(Step::Pause) => {
                    paused = true;
                    break;
                }
                Err(_) if !events.is_empty() => break,
                Err(fault) => {
                    let go_on = |state: &mut State, to| {
                        if state.backlogs.is_at(span) {
                            state.backlogs.reached(to);
                        }
                    };
                    return match fault {
                        // Somebody asked for what is gone, and nobody is owed it.
                        ReadFault::Dropped { through } if span.kind != BacklogKind::Passed => {
                            self.with(|state, _| go_on(state, Cursor::behind(through)));
                            true
                        }
                        fault => self.skip(shared, Chore::Backlog(span).turn(), fault, span.at, go_on),
                    };
                }
            }
        }
        let reached = reader.cursor();
        self.with(|state, now_ms| {
            if self.is_for_user_of(&config) {
                state.take_slice(span, &events, reached, now_ms);
            }
        });
        // What is not there yet may come.
        !paused || reached >= through
    }

    /// Whether an event of a range is to be taken, as far as can be told by now.
    fn is_asked(&self, shared: &Shared, span: Span, event: &Event) -> bool {
        self.fits(shared, event)
            && (span.kind == BacklogKind::Passed
                || self.state.lock().known.as_ref().is_none_or(|known| known.wants(event)))
    }

    /// Asks what became of the events with which a range that somebody asked for goes on,
    /// unless that is known; as far as it is, the range may be read.
    fn know(&self, shared: &Shared, span: Span) -> Result<Cursor, Box<dyn std::error::Error + Send + Sync>> {
        if span.kind == BacklogKind::Passed {
            return Ok(span.through);
        }
        let Some((sequences, is_whole)) = self.with(|state, _| state.begin_to_know(span)) else {
            return Ok(span.at);
        };
        let (first, mut last) = (*sequences.start(), *sequences.end());
        if !is_whole {
            // What is attempted from now on is noted.
            let outcomes = shared.deliveries.outcomes(&self.org, &self.id, sequences, OUTCOMES_MAX)?;
            last = outcomes.through.clamp(first, last);
            let given_up = shared.ledger.given_up(&self.id, first..=last)?;
            self.with(|state, _| state.learn(span, outcomes, given_up));
        }
        Ok(Cursor::behind(last).min(span.through))
    }

    /// A read for such a turn failed; true if the one before it did not.
    fn read_failed(&self, turn: Turn) -> bool {
        self.with(|state, now_ms| state.reading[turn as usize].failed(now_ms))
    }

    /// Goes on behind what was dropped; false if the journal cannot be read now.
    fn skip(
        &self,
        shared: &Shared,
        turn: Turn,
        fault: ReadFault,
        from: Cursor,
        go_on: impl FnOnce(&mut State, Cursor),
    ) -> bool {
        let ReadFault::Dropped { through } = fault else {
            // Said once, and tried again later and later: a place that stays damaged fills no log.
            if self.read_failed(turn) {
                tracing::error!(endpoint = &*self.id, error = chain(&fault), "cannot read events for a lane");
            }
            return false;
        };
        shared.counters.payload_gone();
        tracing::warn!(endpoint = &*self.id, through, "events were dropped before they were delivered");
        let to = Cursor::behind(through).max(from);
        self.warn_of_range(from, to, PAYLOAD_GONE);
        let quiet = self.takes_only_notices();
        self.with(|state, now_ms| {
            go_on(state, to);
            // Noted, so that a crash before it is announced does not lose it.
            state.give_up_range(GivenUp { from, through: to, at_ms: now_ms, quiet });
            if !quiet {
                state.unsaved.notices.push(self.failed_range(from, to, PAYLOAD_GONE));
            }
        });
        true
    }
}
