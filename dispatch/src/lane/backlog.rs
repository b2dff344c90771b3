//! Ranges of events that a lane sends behind live ones, one after the other, in the
//! order they were added.
//!
//! Constraints: at most 64 ranges, of which one is read at a time, and at most 128 of
//! its events are taken and not decided.

use std::collections::{BTreeSet, VecDeque};

use super::taken::{Taken, Ticket};
use crate::event::{Cursor, Event, Place};
use crate::ledger::{Backlog, BacklogKind};

/// Ranges of one lane; then the last one is made longer, which may send again what
/// lies between.
const RANGES_MAX: usize = 64;
/// Events of a range taken and not decided: few, for live events need the room.
pub(super) const BACKLOG_TAKEN_MAX: usize = 128;
/// Events of a range read at once.
pub(super) const SLICE_EVENTS: usize = 64;
/// How often a range's beginning is saved as it moves: what a crash sends again.
const SAVE_EACH_MS: i64 = 1000;

/// A range to read on in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Span {
    pub(super) number: u64,
    pub(super) kind: BacklogKind,
    pub(super) at: Cursor,
    pub(super) through: Cursor,
}

/// What comes of a range that somebody asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Asked {
    /// It is sent behind those before it.
    Added,
    /// It is on its way already, or there is nothing in it.
    Known,
    /// There are too many ranges.
    Full,
    /// The lane takes none.
    Off,
}

/// The ranges of a lane.
#[derive(Debug, Default)]
pub(super) struct Backlogs {
    ranges: VecDeque<Range>,
    last_number: u64,
    /// Numbers of those that are over and not saved as such.
    finished: Vec<u64>,
}

#[derive(Debug)]
struct Range {
    number: u64,
    kind: BacklogKind,
    asked_from: Cursor,
    /// Read up to here.
    at: Cursor,
    through: Cursor,
    taken: Taken,
    /// Events behind `at` that are decided or wait elsewhere.
    ahead: BTreeSet<Place>,
    saved: Option<Backlog>,
    saved_ms: i64,
}

impl Range {
    fn record(&self) -> Backlog {
        let Range { number, kind, asked_from, through, .. } = *self;
        Backlog { number, kind, asked_from, from: self.from(), through }
    }

    /// The first that is not decided.
    fn from(&self) -> Cursor {
        self.taken.lowest().unwrap_or(self.at)
    }

    /// Whether the next save has to tell of it.
    fn is_dirty(&self, now_ms: i64) -> bool {
        let Some(saved) = self.saved else { return true };
        let moved = saved.from != self.from() && now_ms >= self.saved_ms.saturating_add(SAVE_EACH_MS);
        moved || saved.through != self.through
    }
}

impl Backlogs {
    /// As a restart finds them; `ahead` wait for another attempt.
    pub(super) fn restored(records: Vec<Backlog>, ahead: &BTreeSet<Place>) -> Backlogs {
        let mut backlogs = Backlogs::default();
        for record in records {
            let Backlog { number, kind, asked_from, from, through } = record;
            let within = |place: &&Place| (from.sequence..=through.sequence).contains(&place.sequence);
            backlogs.last_number = backlogs.last_number.max(number);
            backlogs.ranges.push_back(Range {
                number,
                kind,
                asked_from,
                at: from,
                through,
                taken: Taken::default(),
                ahead: ahead.iter().filter(within).copied().collect(),
                saved: Some(record),
                saved_ms: 0,
            });
        }
        backlogs.ranges.make_contiguous().sort_by_key(|range| range.number);
        backlogs
    }

    /// Adds what came while the lane was paused.
    pub(super) fn add_passed(&mut self, from: Cursor, through: Cursor, ahead: BTreeSet<Place>) {
        let is_full = self.ranges.len() >= RANGES_MAX;
        let last = self.ranges.back_mut().filter(|last| last.kind == BacklogKind::Passed);
        match last.filter(|last| is_full || last.through == from) {
            Some(last) => {
                last.through = last.through.max(through);
                last.ahead.extend(ahead);
            }
            None => self.push(BacklogKind::Passed, from, through, ahead),
        }
    }

    /// Adds what somebody asked for.
    pub(super) fn add_asked(&mut self, kind: BacklogKind, from: Cursor, through: Cursor) -> Asked {
        let same = self.ranges.iter_mut().find(|range| range.kind == kind && range.asked_from == from);
        if let Some(same) = same {
            same.through = same.through.max(through);
            return Asked::Known;
        }
        if from >= through {
            return Asked::Known;
        }
        if self.ranges.len() >= RANGES_MAX {
            return Asked::Full;
        }
        self.push(kind, from, through, BTreeSet::new());
        Asked::Added
    }

    fn push(&mut self, kind: BacklogKind, from: Cursor, through: Cursor, ahead: BTreeSet<Place>) {
        self.last_number += 1;
        self.ranges.push_back(Range {
            number: self.last_number,
            kind,
            asked_from: from,
            at: from,
            through,
            taken: Taken::default(),
            ahead,
            saved: None,
            saved_ms: 0,
        });
    }

    pub(super) fn len(&self) -> usize {
        self.ranges.len()
    }

    /// What came while the lane was paused, range by range.
    #[cfg(test)]
    pub(super) fn passed(&self) -> Vec<(Cursor, Cursor)> {
        let passed = self.ranges.iter().filter(|range| range.kind == BacklogKind::Passed);
        passed.map(|range| (range.from(), range.through)).collect()
    }

    /// Events taken and not decided.
    pub(super) fn taken_len(&self) -> usize {
        self.ranges.iter().map(|range| range.taken.len()).sum()
    }

    /// The first undecided event of all ranges.
    pub(super) fn lowest(&self) -> Option<Cursor> {
        self.ranges.iter().map(Range::from).min()
    }

    /// Whether an event is taken, or comes with what was passed.
    pub(super) fn will_send(&self, event: Cursor) -> bool {
        self.ranges.iter().any(|range| {
            let is_passed = range.kind == BacklogKind::Passed && range.from() <= event;
            range.taken.contains(event) || is_passed && event < range.through
        })
    }

    /// What is to be read next, if there is room for a slice.
    pub(super) fn next_span(&self) -> Option<Span> {
        let Range { number, kind, at, through, .. } = *self.ranges.front()?;
        let has_room = self.taken_len() + SLICE_EVENTS <= BACKLOG_TAKEN_MAX;
        (at < through && has_room).then_some(Span { number, kind, at, through })
    }

    /// Whether a reader of this span is still wanted.
    pub(super) fn is_at(&self, span: Span) -> bool {
        let front = self.ranges.front();
        front.is_some_and(|range| range.number == span.number && range.at == span.at)
    }

    /// Whether the range knows that an event need not be sent.
    pub(super) fn passes_over(&mut self, event: &Event) -> bool {
        self.ranges.front_mut().is_some_and(|range| range.ahead.remove(&event.place))
    }

    /// Takes an event of the range that is read.
    pub(super) fn take(&mut self, event: &Event, now_ms: i64) -> Option<(u64, Ticket, bool)> {
        let range = self.ranges.front_mut()?;
        let ticket = range.taken.push(event.cursor(), event.place, now_ms);
        Some((range.number, ticket, range.kind != BacklogKind::Passed))
    }

    /// The range that is read was read up to here.
    pub(super) fn reached(&mut self, at: Cursor) {
        if let Some(range) = self.ranges.front_mut() {
            range.at = range.at.max(at.min(range.through));
        }
        self.finish();
    }

    /// An event of a range was decided.
    pub(super) fn decide(&mut self, number: u64, ticket: Ticket) {
        if let Some(range) = self.ranges.iter_mut().find(|range| range.number == number) {
            range.taken.decide_many(ticket, 1);
        }
        self.finish();
    }

    fn finish(&mut self) {
        while let Some(range) =
            self.ranges.pop_front_if(|range| range.at >= range.through && range.taken.is_empty())
        {
            self.finished.push(range.number);
        }
    }

    /// Lets go of what waits, which is read again.
    pub(super) fn shed(&mut self, waits: impl Fn(u64, Ticket) -> bool) {
        for range in &mut self.ranges {
            let shed = range.taken.shed(|ticket| waits(range.number, ticket));
            if let Some(from) = shed.from {
                range.at = from;
                range.ahead.extend(shed.ahead);
            }
        }
    }

    /// What the next save has to tell; the ranges it tells of, and those that are over.
    pub(super) fn unsaved(&self, now_ms: i64) -> (Vec<Backlog>, &[u64]) {
        let dirty = self.ranges.iter().filter(|range| range.is_dirty(now_ms));
        (dirty.map(Range::record).collect(), &self.finished)
    }

    /// Whether a save, now or later, has something to tell.
    pub(super) fn is_saved(&self) -> bool {
        let stands = |range: &Range| range.saved == Some(range.record());
        self.finished.is_empty() && self.ranges.iter().all(stands)
    }

    /// These were saved.
    pub(super) fn saved<'a>(
        &mut self,
        records: impl Iterator<Item = &'a Backlog>,
        finished: usize,
        now_ms: i64,
    ) {
        for record in records {
            if let Some(range) = self.ranges.iter_mut().find(|range| range.number == record.number) {
                range.saved = Some(*record);
                range.saved_ms = now_ms;
            }
        }
        self.finished.drain(..finished.min(self.finished.len()));
    }
}
