//! Events that a lane has taken and not decided yet, in the order it took them.

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
    decided: bool,
}

impl Taken {
    pub(super) fn push(&mut self, at: Cursor) -> Ticket {
        self.entries.push_back(Entry { at, since: Instant::now(), decided: false });
        self.first + self.entries.len() as u64 - 1
    }

    /// Notes that an event was delivered, or that its failure is durable.
    pub(super) fn decide(&mut self, ticket: Ticket) {
        let Some(index) = ticket.checked_sub(self.first) else { return };
        if let Some(entry) = usize::try_from(index).ok().and_then(|index| self.entries.get_mut(index)) {
            entry.decided = true;
        }
        while self.entries.front().is_some_and(|entry| entry.decided) {
            self.entries.pop_front();
            self.first += 1;
        }
    }

    /// Events between the first undecided one and the newest.
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
}
