//! Events that a lane has taken and not decided yet, in the order it took them.
//!
//! Mostly an entry is one event. Events that are drawn together share an entry, which
//! is decided when all of them are.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use crate::event::Cursor;

/// The number of a taken event; rises.
pub(super) type Ticket = u64;

/// Taken events up to the first undecided one are forgotten.
#[derive(Debug, Default)]
pub(super) struct Taken {
    entries: VecDeque<Entry>,
    /// Ticket of the first entry.
    first: Ticket,
}

#[derive(Debug)]
struct Entry {
    at: Cursor,
    since: Instant,
    /// Events that are not decided, and whatever else holds it.
    left: u32,
}

impl Taken {
    pub(super) fn push(&mut self, at: Cursor) -> Ticket {
        self.entries.push_back(Entry { at, since: Instant::now(), left: 1 });
        self.first + self.entries.len() as u64 - 1
    }

    /// Adds an event to an entry that is not decided.
    pub(super) fn join(&mut self, ticket: Ticket) {
        if let Some(entry) = self.entry(ticket) {
            entry.left += 1;
        }
    }

    /// Notes that an event was delivered, or that its failure is durable.
    pub(super) fn decide(&mut self, ticket: Ticket) {
        self.decide_many(ticket, 1);
    }

    /// The same of several events of one entry.
    pub(super) fn decide_many(&mut self, ticket: Ticket, events: u32) {
        if let Some(entry) = self.entry(ticket) {
            entry.left = entry.left.saturating_sub(events);
        }
        while self.entries.front().is_some_and(|entry| entry.left == 0) {
            self.entries.pop_front();
            self.first += 1;
        }
    }

    fn entry(&mut self, ticket: Ticket) -> Option<&mut Entry> {
        let index = usize::try_from(ticket.checked_sub(self.first)?).ok()?;
        self.entries.get_mut(index)
    }

    /// Entries between the first undecided one and the newest.
    pub(super) fn len(&self) -> usize {
        self.entries.len()
    }

    /// The first undecided event.
    pub(super) fn lowest(&self) -> Option<Cursor> {
        self.entries.front().map(|entry| entry.at)
    }

    /// For how long the first undecided event has been so.
    pub(super) fn held_for(&self) -> Option<Duration> {
        self.entries.front().map(|entry| entry.since.elapsed())
    }

    /// Forgets all; tickets given before decide nothing any more.
    pub(super) fn clear(&mut self) {
        self.first += self.entries.len() as u64;
        self.entries.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_lowest_undecided_moves_only_over_what_is_decided() {
        let mut taken = Taken::default();
        let at = |sequence| Cursor { sequence, ordinal: 0 };
        let tickets: Vec<Ticket> = (1..=4).map(|sequence| taken.push(at(sequence))).collect();
        taken.decide(tickets[1]);
        taken.decide(tickets[2]);
        assert_eq!((taken.lowest(), taken.len()), (Some(at(1)), 4));
        taken.decide(tickets[0]);
        assert_eq!((taken.lowest(), taken.len()), (Some(at(4)), 1));
        taken.clear();
        let later = taken.push(at(9));
        taken.decide(tickets[3]);
        assert_eq!(taken.lowest(), Some(at(9)));
        taken.decide(later);
        assert_eq!(taken.lowest(), None);
    }

    #[test]
    fn an_entry_of_several_events_is_decided_with_the_last_of_them() {
        let mut taken = Taken::default();
        let at = |sequence| Cursor { sequence, ordinal: 0 };
        let shared = taken.push(at(1));
        taken.join(shared);
        taken.join(shared);
        let alone = taken.push(at(4));
        taken.decide_many(shared, 2);
        taken.decide(alone);
        assert_eq!((taken.lowest(), taken.len()), (Some(at(1)), 2));
        taken.decide(shared);
        assert_eq!((taken.lowest(), taken.len()), (None, 0));
        taken.join(shared);
        assert_eq!(taken.len(), 0);
    }
}
