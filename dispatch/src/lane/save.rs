//! What of a lane must survive a crash: collected, and noted once it is durable.

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
    /// Lanes without a row: the first event that is not decided.
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
    /// Adds what must survive a crash to `changes`; `routed` is where the router is.
    pub(crate) fn collect(&self, routed: Cursor, changes: &mut Changes, now_ms: i64) -> Collected {
        self.state.lock().collect(&self.id, routed, changes, now_ms)
    }

    /// What was collected is durable.
    pub(crate) fn saved(&self, collected: &Collected, changes: &Changes, now_ms: i64) {
        self.with(|state, _| state.saved(collected, changes, now_ms));
    }
}

impl State {
    pub(super) fn collect(
        &self,
        id: &Arc<str>,
        routed: Cursor,
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
        let row = self.row_at(now_ms, routed);
        if row != self.row || self.unsaved.wiped {
            match row {
                Some(cursor) => changes.cursors.push((id.to_string(), cursor)),
                None => changes.caught_up.push(id.to_string()),
            }
        }
        if self.health != self.health_saved {
            changes.health.push((id.to_string(), self.health));
        }
        let (dirty, finished) = self.backlogs.unsaved(now_ms);
        changes.backlogs.extend(dirty.into_iter().map(|backlog| (id.to_string(), backlog)));
        changes.finished.extend(finished.iter().map(|number| (id.to_string(), *number)));
        changes.given_up.extend(self.unsaved.given_up.iter().map(|range| (id.to_string(), *range)));
        changes.notices.extend(self.unsaved.notices.iter().cloned());
        let lowest = self.lowest(routed);
        Collected {
            holds: lowest.filter(|_| row.is_none()),
            needs: self.needs(lowest),
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
        }
    }

    /// The first event of its own that is not decided; what it gets from the router
    /// begins at `routed`.
    pub(super) fn lowest(&self, routed: Cursor) -> Option<Cursor> {
        let next = match &self.mode {
            Mode::Live => Some(routed.max(self.from)),
            Mode::Behind(cursor) => Some(*cursor),
            Mode::Paused(pause) => Some(pause.from.unwrap_or(routed.max(self.from))),
            Mode::Off => None,
        };
        self.taken.lowest().into_iter().chain(next).min()
    }

    /// The cursor that the catalog is to have.
    fn row_at(&self, now_ms: i64, routed: Cursor) -> Option<Cursor> {
        let since_ms = self.taken.held_since_ms();
        let is_held = since_ms.is_some_and(|since| now_ms.saturating_sub(since) > HELD_MAX_MS);
        let has_row = match &self.mode {
            Mode::Behind(_) => true,
            Mode::Live => is_held || self.from > routed,
            Mode::Paused(pause) => is_held || pause.from.is_some() || self.from > routed,
            Mode::Off => false,
        };
        if has_row { self.lowest(routed) } else { None }
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

    /// Whether there is anything for the next save.
    pub(super) fn rest(&self, routed: Cursor) -> Rest {
        let unsaved = &self.unsaved;
        let is_saved = unsaved.failed.is_empty()
            && unsaved.settled.is_empty()
            && unsaved.tickets.is_empty()
            && unsaved.given_up.is_empty()
            && unsaved.notices.is_empty()
            && !unsaved.wiped
            && !unsaved.needs
            && self.health == self.health_saved
            && self.backlogs.is_saved();
        let stands = match &self.mode {
            Mode::Live => self.row.is_none() && self.from <= routed,
            Mode::Behind(_) => false,
            Mode::Paused(pause) => match pause.from {
                Some(from) => self.row == Some(from),
                None => self.row.is_none() && self.from <= routed,
            },
            Mode::Off => self.row.is_none(),
        };
        if !is_saved || !stands || !self.taken.is_empty() || self.backlogs.taken_len() > 0 {
            return Rest::Busy;
        }
        // What comes from the router holds nothing: it is before the position anyway.
        let own = match &self.mode {
            Mode::Paused(pause) => pause.from.map(|from| from.max(pause.alive)),
            _ => None,
        };
        match self.needs(own) {
            u64::MAX => Rest::Idle,
            needs => Rest::Needs(needs),
        }
    }
}
