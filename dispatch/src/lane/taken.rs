//! Events that a lane has taken and not decided yet, in the order it took them.
//!
//! Mostly an entry is one event. Events that are drawn together share an entry, which
//! is decided when all of them are, and let go as a whole.

use std::collections::VecDeque;

use super::job::ROOM_KEPT;
use crate::event::{Cursor, Place};

/// The number of a taken event; rises.
pub(super) type Ticket = u64;

/// Taken events up to the first undecided one are forgotten.
#[derive(Debug, Default)]
pub(super) struct Taken {
    entries: VecDeque<Entry>,
    /// Ticket of the first entry.
    first: Ticket,
    /// Events that joined entries.
    joined: usize,
}

#[derive(Debug)]
struct Entry {
    at: Cursor,
    place: Place,
    since_ms: i64,
    fate: Fate,
    /// Events that are not decided, and whatever else holds it.
    left: u32,
    /// Events that joined it.
    joined: Vec<(Cursor, Place)>,
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
        self.entries.push_back(Entry {
            at,
            place,
            since_ms: now_ms,
            fate: Fate::Undecided,
            left: 1,
            joined: Vec::new(),
        });
        self.first + self.entries.len() as u64 - 1
    }

    /// Adds an event to an entry that is not decided.
    pub(super) fn join(&mut self, ticket: Ticket, at: Cursor, place: Place) {
        let Some(entry) = self.entry(ticket) else { return };
        entry.left += 1;
        if entry.at != at {
            entry.joined.push((at, place));
            self.joined += 1;
        }
    }

    /// Notes that an event was delivered, or that its failure is durable.
    #[cfg(test)]
    pub(super) fn decide(&mut self, ticket: Ticket) {
        self.decide_many(ticket, 1);
    }

    /// Notes the same of several events of one entry.
    pub(super) fn decide_many(&mut self, ticket: Ticket, events: u32) {
        if let Some(entry) = self.entry(ticket) {
            entry.left = entry.left.saturating_sub(events);
            if entry.left == 0 && entry.fate == Fate::Undecided {
                entry.fate = Fate::Decided;
            }
        }
        self.forget_decided();
    }

    fn entry(&mut self, ticket: Ticket) -> Option<&mut Entry> {
        let index = usize::try_from(ticket.checked_sub(self.first)?).ok()?;
        self.entries.get_mut(index)
    }

    fn forget_decided(&mut self) {
        while self.entries.front().is_some_and(|entry| entry.fate != Fate::Undecided) {
            let gone = self.entries.pop_front();
            self.joined -= gone.map_or(0, |entry| entry.joined.len());
            self.first += 1;
        }
    }

    /// Entries between the first undecided one and the newest.
    pub(super) fn len(&self) -> usize {
        self.entries.len()
    }

    /// Events that joined them.
    pub(super) fn joined(&self) -> usize {
        self.joined
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
        let Some(index) = self.entries.partition_point(|entry| entry.at <= at).checked_sub(1) else {
            return false;
        };
        let entry = &self.entries[index];
        entry.at == at || entry.joined.binary_search_by_key(&at, |(at, _)| *at).is_ok()
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
                shed.ahead.extend(entry.joined.iter().map(|(_, place)| *place));
            }
        }
        self.forget_decided();
        shed
    }

    /// Gives back room that a burst took, once little is in it.
    pub(super) fn trim(&mut self) {
        if self.entries.capacity() > ROOM_KEPT && self.entries.len() <= ROOM_KEPT / 4 {
            self.entries.shrink_to(ROOM_KEPT / 2);
        }
    }

    /// Forgets all; tickets given before decide nothing any more.
    pub(super) fn clear(&mut self) {
        self.first += self.entries.len() as u64;
        self.entries.clear();
        self.joined = 0;
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

    #[test]
    fn an_entry_of_several_events_is_decided_with_the_last_of_them() {
        let mut taken = Taken::default();
        let shared = taken.push(at(1), place(1), 0);
        taken.join(shared, at(2), place(2));
        taken.join(shared, at(3), place(3));
        let alone = taken.push(at(4), place(4), 0);
        taken.decide_many(shared, 2);
        taken.decide(alone);
        assert_eq!((taken.lowest(), taken.len()), (Some(at(1)), 2));
        assert_eq!([1, 3, 4, 5].map(|sequence| taken.contains(at(sequence))), [true, true, true, false]);
        assert_eq!(taken.joined(), 2);
        taken.decide(shared);
        assert_eq!((taken.lowest(), taken.len(), taken.joined()), (None, 0, 0));
    }

    #[test]
    fn an_entry_of_several_events_is_let_go_as_a_whole_and_passed_over_as_a_whole() {
        let mut taken = Taken::default();
        let first = taken.push(at(1), place(1), 0);
        let shared = taken.push(at(2), place(2), 0);
        taken.join(shared, at(3), place(3));
        let shed = taken.shed(|ticket| ticket == first);
        assert_eq!(shed, Shed { from: Some(at(1)), ahead: vec![place(2), place(3)] });
        let shed = taken.shed(|ticket| ticket == shared);
        assert_eq!(shed, Shed { from: Some(at(2)), ahead: Vec::new() });
        assert!(taken.is_empty());
    }
}
