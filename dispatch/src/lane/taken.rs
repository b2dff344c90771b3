//! Events that a lane has taken and not decided yet, in the order it took them.

use std::collections::VecDeque;

use crate::event::{Cursor, Place};

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
    place: Place,
    since_ms: i64,
    fate: Fate,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fate {
    Undecided,
    Decided,
    /// It was let go and will be read again.
    LetGo,
}

/// What is left of taken events when those that wait are let go.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Shed {
    /// The first that was let go.
    pub(super) from: Option<Cursor>,
    /// Those behind it that are decided or in flight: a reader that begins at `from`
    /// passes them over.
    pub(super) ahead: Vec<Place>,
}

impl Taken {
    pub(super) fn push(&mut self, at: Cursor, place: Place, now_ms: i64) -> Ticket {
        self.entries.push_back(Entry { at, place, since_ms: now_ms, fate: Fate::Undecided });
        self.first + self.entries.len() as u64 - 1
    }

    /// Notes that an event was delivered, or that its failure is durable.
    pub(super) fn decide(&mut self, ticket: Ticket) {
        let Some(index) = ticket.checked_sub(self.first) else { return };
        if let Some(entry) = usize::try_from(index).ok().and_then(|index| self.entries.get_mut(index)) {
            entry.fate = Fate::Decided;
        }
        self.forget_decided();
    }

    fn forget_decided(&mut self) {
        while self.entries.front().is_some_and(|entry| entry.fate != Fate::Undecided) {
            self.entries.pop_front();
            self.first += 1;
        }
    }

    /// Events between the first undecided one and the newest.
    pub(super) fn len(&self) -> usize {
        self.entries.len()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// The first undecided event.
    pub(super) fn lowest(&self) -> Option<Cursor> {
        self.entries.front().map(|entry| entry.at)
    }

    /// Since when the first undecided event has been so.
    pub(super) fn held_since_ms(&self) -> Option<i64> {
        self.entries.front().map(|entry| entry.since_ms)
    }

    /// Whether an event is here, decided or not.
    pub(super) fn contains(&self, at: Cursor) -> bool {
        self.entries.binary_search_by_key(&at, |entry| entry.at).is_ok()
    }

    /// Lets go of what waits.
    pub(super) fn shed(&mut self, waits: impl Fn(Ticket) -> bool) -> Shed {
        let mut shed = Shed::default();
        for (ticket, entry) in (self.first..).zip(&mut self.entries) {
            if entry.fate == Fate::Undecided && waits(ticket) {
                entry.fate = Fate::LetGo;
                shed.from.get_or_insert(entry.at);
            } else if shed.from.is_some() && entry.fate != Fate::LetGo {
                shed.ahead.push(entry.place);
            }
        }
        self.forget_decided();
        shed
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
    use crate::event::EventKind;

    fn at(sequence: u64) -> Cursor {
        Cursor { sequence, ordinal: 0 }
    }

    fn place(sequence: u64) -> Place {
        Place { sequence, group: 0, chunk: 0, kind: EventKind::Created }
    }

    fn taken(sequences: std::ops::RangeInclusive<u64>) -> (Taken, Vec<Ticket>) {
        let mut taken = Taken::default();
        let tickets =
            sequences.map(|sequence| taken.push(at(sequence), place(sequence), sequence as i64)).collect();
        (taken, tickets)
    }

    #[test]
    fn the_lowest_undecided_moves_only_over_what_is_decided() {
        let (mut taken, tickets) = taken(1..=4);
        taken.decide(tickets[1]);
        taken.decide(tickets[2]);
        assert_eq!((taken.lowest(), taken.len()), (Some(at(1)), 4));
        taken.decide(tickets[0]);
        assert_eq!((taken.lowest(), taken.len()), (Some(at(4)), 1));
        taken.clear();
        let later = taken.push(at(9), place(9), 0);
        taken.decide(tickets[3]);
        assert_eq!(taken.lowest(), Some(at(9)));
        taken.decide(later);
        assert_eq!(taken.lowest(), None);
    }

    #[test]
    fn what_waits_is_let_go_and_what_comes_behind_it_is_told() {
        let (mut taken, tickets) = taken(1..=6);
        taken.decide(tickets[3]);
        // 1 and 5 are in flight, 4 was delivered.
        let waits = [tickets[1], tickets[2], tickets[5]];
        let shed = taken.shed(|ticket| waits.contains(&ticket));
        assert_eq!(shed, Shed { from: Some(at(2)), ahead: vec![place(4), place(5)] });
        // What was let go is not decided, though something before it is let go too.
        let shed = taken.shed(|ticket| ticket == tickets[0]);
        assert_eq!(shed, Shed { from: Some(at(1)), ahead: vec![place(4), place(5)] });
        assert_eq!(taken.lowest(), Some(at(5)));
        taken.decide(tickets[4]);
        assert!(taken.is_empty());
    }
}
