//! What of a lane must survive a crash: collected, and noted once it is durable.
//!
//! A lane without a row restarts at the position that all such lanes share. So it has one
//! while that position is before where it began, or in the midst of what it has drawn
//! together: else a restart brings it events of a time when it was off, or draws others
//! together. The shared position never goes back, as lanes that are at rest rely on it.

use std::ops::Range;
use std::sync::Arc;

use super::Lane;
use super::job::Origin;
use super::state::{Mode, State};
use crate::event::Cursor;
use crate::ledger::{Changes, Health};

/// A lane whose lowest undecided event is older than this no longer holds back the
/// position that all others share: it gets a row.
const HELD_MAX_MS: i64 = 2000;

/// What is saved of a lane.
pub(crate) struct Collected {
    /// Where the shared position must not go beyond.
    pub(crate) holds: Option<Cursor>,
    /// The first frame it still needs.
    pub(crate) needs: u64,
    tickets: usize,
    row: Option<Cursor>,
    health: Health,
    generation: u64,
    /// Its parts of what is saved.
    failed: Range<usize>,
    settled: Range<usize>,
    backlogs: Range<usize>,
    finished: usize,
    given_up: usize,
    notices: usize,
    /// Something of it is new to the catalog.
    pub(crate) is_new: bool,
    /// Events are under way: the next save looks at it in any case.
    pub(crate) is_busy: bool,
}

/// Where everybody is when lanes are collected.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Positions {
    /// The router.
    pub(crate) routed: Cursor,
    /// The shared position that the catalog has.
    pub(crate) saved: Cursor,
}

/// Where a restart of a lane begins.
struct Stand {
    /// The cursor that the catalog is to have, unless that is the shared position.
    row: Option<Cursor>,
    holds: Option<Cursor>,
}

/// What a lane does between two saves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Rest {
    /// Something that the next save must look at.
    Busy,
    /// Nothing, but it needs frames from here on.
    Needs(u64),
    /// Nothing at all.
    Idle,
}

impl Lane {
    /// Adds what must survive a crash to `changes`.
    pub(crate) fn collect(&self, at: Positions, changes: &mut Changes, now_ms: i64) -> Collected {
        self.state.lock().collect(&self.id, at, changes, now_ms)
    }

    /// What was collected is durable.
    pub(crate) fn saved(&self, collected: &Collected, changes: &Changes, now_ms: i64) {
        if collected.is_new {
            self.with(|state, _| state.saved(collected, changes, now_ms));
        }
    }
}

impl State {
    pub(super) fn collect(
        &self,
        id: &Arc<str>,
        at: Positions,
        changes: &mut Changes,
        now_ms: i64,
    ) -> Collected {
        let (failed, settled) = (changes.failed.len(), changes.settled.len());
        let backlogs = changes.backlogs.len();
        for place in &self.unsaved.failed {
            if let Some(exception) = self.exceptions.get(place) {
                changes.failed.push((id.to_string(), exception.clone()));
            }
        }
        changes.settled.extend(self.unsaved.settled.iter().map(|place| (id.to_string(), *place)));
        if self.unsaved.wiped {
            changes.wiped.push(id.to_string());
        }
        let Stand { row, holds } = self.stand(at, now_ms);
        let is_row_new = row != self.row || self.unsaved.wiped;
        if is_row_new {
            match row {
                Some(cursor) => changes.cursors.push((id.to_string(), cursor)),
                None => changes.caught_up.push(id.to_string()),
            }
        }
        let is_health_new = self.health != self.health_saved;
        if is_health_new {
            changes.health.push((id.to_string(), self.health));
        }
        let (dirty, finished) = self.backlogs.unsaved(now_ms);
        let is_backlog_new = !dirty.is_empty() || !finished.is_empty();
        changes.backlogs.extend(dirty.into_iter().map(|backlog| (id.to_string(), backlog)));
        changes.finished.extend(finished.iter().map(|number| (id.to_string(), *number)));
        changes.given_up.extend(self.unsaved.given_up.iter().map(|range| (id.to_string(), *range)));
        changes.notices.extend(self.unsaved.notices.iter().cloned());
        Collected {
            holds,
            needs: self.needs(self.lowest(at.routed)),
            tickets: self.unsaved.tickets.len(),
            row,
            health: self.health,
            generation: self.generation,
            failed: failed..changes.failed.len(),
            settled: settled..changes.settled.len(),
            backlogs: backlogs..changes.backlogs.len(),
            finished: finished.len(),
            given_up: self.unsaved.given_up.len(),
            notices: self.unsaved.notices.len(),
            is_new: is_row_new || is_health_new || is_backlog_new || !self.unsaved.is_empty(),
            is_busy: self.is_under_way(),
        }
    }

    /// The first event of its own that is not decided; what it gets from the router
    /// begins at `routed`.
    pub(super) fn lowest(&self, routed: Cursor) -> Option<Cursor> {
        let next = match &self.mode {
            // The router may have gone on since: what was drawn together is no longer whole.
            Mode::Live => Some(routed.max(self.restarts_from())),
            Mode::Behind(cursor) => Some(*cursor),
            Mode::Paused(pause) => Some(pause.from.unwrap_or(routed.max(self.restarts_from()))),
            Mode::Off => None,
        };
        self.taken.lowest().into_iter().chain(next).min()
    }

    fn stand(&self, Positions { routed, saved }: Positions, now_ms: i64) -> Stand {
        let Some(lowest) = self.lowest(routed) else { return Stand { row: None, holds: None } };
        if self.keeps_row(saved, now_ms) {
            return Stand { row: Some(lowest), holds: None };
        }
        // The shared position does not go back to it, but waits until it is there.
        Stand { row: (lowest < saved).then_some(lowest), holds: Some(lowest.max(saved)) }
    }

    /// Whether it has a row wherever the shared position goes.
    fn keeps_row(&self, saved: Cursor, now_ms: i64) -> bool {
        let since_ms = self.taken.held_since_ms();
        let is_held = since_ms.is_some_and(|since| now_ms.saturating_sub(since) > HELD_MAX_MS);
        let reads_itself = match &self.mode {
            Mode::Behind(_) => true,
            Mode::Paused(pause) => pause.from.is_some(),
            Mode::Live | Mode::Off => false,
        };
        reads_itself || is_held || self.is_drawing() || self.restarts_from() > saved
    }

    /// It must not restart before this: it began here, or has decided what was drawn
    /// together before.
    fn restarts_from(&self) -> Cursor {
        self.from.max(self.drawn)
    }

    /// The first frame that it needs.
    fn needs(&self, lowest: Option<Cursor>) -> u64 {
        let lowest = match &self.mode {
            // What has outlived its schedule is only skipped.
            Mode::Paused(pause) if self.taken.is_empty() => lowest.map(|at| at.max(pause.alive)),
            _ => lowest,
        };
        let waiting = self.exceptions.keys().next().map(|place| place.sequence);
        let cursors = lowest.into_iter().chain(self.backlogs.lowest()).map(|cursor| cursor.sequence);
        cursors.chain(waiting).min().unwrap_or(u64::MAX)
    }

    pub(super) fn saved(&mut self, collected: &Collected, changes: &Changes, now_ms: i64) {
        // Also if it began anew: what was given up before is noted all the same.
        self.unsaved.given_up.drain(..collected.given_up.min(self.unsaved.given_up.len()));
        self.unsaved.notices.drain(..collected.notices.min(self.unsaved.notices.len()));
        if self.generation != collected.generation {
            return;
        }
        self.unsaved.wiped = false;
        self.unsaved.needs = false;
        let told = collected.tickets.min(self.unsaved.tickets.len());
        let tickets: Vec<(Origin, u32)> = self.unsaved.tickets.drain(..told).collect();
        self.row = collected.row;
        self.health_saved = collected.health;
        for (_, saved) in &changes.failed[collected.failed.clone()] {
            // Unless it failed once more meanwhile.
            if self.exceptions.get(&saved.place) == Some(saved) {
                self.unsaved.failed.remove(&saved.place);
            }
        }
        for (_, place) in &changes.settled[collected.settled.clone()] {
            self.unsaved.settled.remove(place);
        }
        let records = changes.backlogs[collected.backlogs.clone()].iter().map(|(_, record)| record);
        self.backlogs.saved(records, collected.finished, now_ms);
        tickets.into_iter().for_each(|(origin, events)| self.decide(origin, events));
    }

    /// Whether events were taken that are not decided.
    fn is_under_way(&self) -> bool {
        !self.taken.is_empty() || self.backlogs.taken_len() > 0
    }

    /// Whether there is anything for the next save; `saved` is the shared position.
    pub(super) fn rest(&self, saved: Cursor) -> Rest {
        let is_saved =
            self.unsaved.is_empty() && self.health == self.health_saved && self.backlogs.is_saved();
        let stands = match &self.mode {
            Mode::Live => self.row.is_none() && self.restarts_from() <= saved,
            Mode::Behind(_) => false,
            Mode::Paused(pause) => match pause.from {
                Some(from) => self.row == Some(from),
                None => self.row.is_none() && self.restarts_from() <= saved,
            },
            Mode::Off => self.row.is_none(),
        };
        if !is_saved || !stands || self.is_under_way() {
            return Rest::Busy;
        }
        // What comes from the router holds nothing: it is before the position anyway.
        let own = match &self.mode {
            Mode::Paused(pause) => pause.alive_from(),
            _ => None,
        };
        match self.needs(own) {
            u64::MAX => Rest::Idle,
            needs => Rest::Needs(needs),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dialect::Dialect;
    use crate::endpoint::EndpointSettings;
    use crate::lane::delivery::Outcome;
    use crate::lane::gather::Shape;
    use crate::lane::tests::event;
    use crate::ledger::LaneRecord;

    fn at(sequence: u64) -> Cursor {
        Cursor { sequence, ordinal: 0 }
    }

    /// The row that a lane is to have, and where the shared position must not go beyond.
    fn stand(state: &State, routed: u64, saved: u64) -> (Option<Cursor>, Option<Cursor>) {
        let Stand { row, holds } = state.stand(Positions { routed: at(routed), saved: at(saved) }, 0);
        (row, holds)
    }

    #[test]
    fn a_lane_keeps_its_row_until_the_position_that_is_saved_is_where_it_began() {
        let mut state = State::begin(true, at(100));
        assert_eq!(stand(&state, 120, 51), (Some(at(100)), None));
        (state.mode, state.from) = (Mode::Live, at(120));
        for (routed, saved) in [(120, 51), (130, 119)] {
            assert_eq!(stand(&state, routed, saved), (Some(at(routed)), None));
        }
        assert_eq!(stand(&state, 130, 120), (None, Some(at(130))));
        state.row = Some(at(130));
        assert_eq!(state.rest(at(120)), Rest::Busy);
        state.row = None;
        assert_eq!([state.rest(at(119)), state.rest(at(120))], [Rest::Busy, Rest::Idle]);
    }

    #[test]
    fn the_shared_position_never_goes_back_to_a_lane_that_comes_from_behind() {
        let mut state = State::default();
        state.take(&event(50), false, 0);
        state.take(&event(210), false, 0);
        assert_eq!(stand(&state, 220, 200), (Some(at(50)), Some(at(200))));
        state.taken.decide(0);
        assert_eq!(stand(&state, 220, 200), (None, Some(at(210))));
    }

    #[test]
    fn a_lane_that_draws_together_has_a_row_where_that_began_until_the_position_is_behind_it() {
        let mut state = State::default();
        state.reshape(Shape::of(&EndpointSettings {
            coalesce_ms: Some(60_000),
            ..EndpointSettings::new(String::new(), Dialect::Standard)
        }));
        for sequence in [120, 160, 200] {
            state.offer(&event(sequence), 0);
        }
        for saved in [100, 120, 170, 201] {
            assert_eq!(stand(&state, 201, saved), (Some(at(120)), None));
        }
        state.close_ended_windows(u64::MAX);
        let job = state.next_job(0).unwrap();
        assert_eq!((job.members().len(), job.place.sequence), (3, 120));
        state.finish(&job, Outcome::Delivered, &[], 0);
        // Others hold back the position, and it must not begin in the midst of that.
        assert_eq!(stand(&state, 201, 150), (Some(at(201)), None));
        assert_eq!(stand(&state, 201, 201), (None, Some(at(201))));
    }

    #[test]
    fn a_lane_that_resumes_before_the_router_is_where_it_was_takes_nothing_from_before() {
        let record = LaneRecord {
            row: Some(at(200)),
            health: Health { failing_since_ms: Some(1), failed_ms: Some(0), paused_at_ms: Some(1) },
            ..LaneRecord::default()
        };
        let mut state = State::restored(true, record);
        let Mode::Paused(pause) = &mut state.mode else { panic!("it is paused") };
        pause.resumes = true;
        assert_eq!(state.resume(at(150), Cursor::default(), false, 0), None);
        assert_eq!(state.mode, Mode::Live);
        for sequence in [150, 199, 200] {
            state.offer(&event(sequence), 0);
        }
        assert_eq!((state.taken.lowest(), state.taken.len()), (Some(at(200)), 1));
        assert_eq!(state.backlogs.len(), 0);
    }
}
