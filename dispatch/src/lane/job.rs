//! A delivery to make, and the queues in which it waits.
//!
//! Live events go first. What is history, comes from a backlog or is tried again goes
//! behind them, but one in eight of what is sent, so that it never starves. At most
//! one delivery of a key is in flight; what was taken of a key from the router is sent
//! in the order it came.

use std::collections::VecDeque;

use hashbrown::HashMap;

use super::taken::Ticket;
use crate::event::{Cursor, Event, Place};
use crate::ledger::Exception;

/// One in so many comes from the queue behind, if both have something.
const BEHIND_EACH: u32 = 8;

/// A delivery to make.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Job {
    pub(crate) place: Place,
    /// Events of its frame before it.
    pub(crate) ordinal: u32,
    pub(crate) decided_at: u64,
    pub(crate) key: u64,
    /// Attempts made before.
    pub(crate) attempts: u32,
    pub(crate) origin: Origin,
    /// The lane's when it was made.
    pub(crate) generation: u64,
    /// Goes behind live events.
    pub(crate) behind: bool,
    /// It is a notice: that it is given up is not announced.
    pub(crate) quiet: bool,
}

/// Where a delivery comes from, which is where its end is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Origin {
    /// It was committed just now, or the lane has come to it.
    Live(Ticket),
    /// A range that is sent behind live events.
    Backlog {
        /// The range's number.
        number: u64,
        /// Its ticket there.
        ticket: Ticket,
        /// Somebody asked for the range.
        is_manual: bool,
    },
    /// It failed before.
    Retry,
    /// The event at the cursor of a lane that is paused.
    Probe,
    /// Somebody asked for it; the lane does not know of it.
    Manual,
}

impl Job {
    /// A first attempt.
    pub(super) fn of(event: &Event, origin: Origin, generation: u64) -> Job {
        Job {
            place: event.place,
            ordinal: event.ordinal,
            decided_at: event.decided_at,
            key: event.key,
            attempts: 0,
            origin,
            generation,
            behind: event.backfill || !matches!(origin, Origin::Live(_) | Origin::Probe),
            quiet: event.about.is_some(),
        }
    }

    /// Another attempt.
    pub(super) fn retry(exception: &Exception, generation: u64) -> Job {
        Job {
            place: exception.place,
            ordinal: exception.ordinal,
            decided_at: exception.decided_at,
            key: exception.key,
            attempts: exception.attempts,
            origin: Origin::Retry,
            generation,
            behind: true,
            quiet: exception.quiet,
        }
    }

    /// Where a reader stands that reads its event next.
    pub(crate) fn cursor(&self) -> Cursor {
        Cursor { sequence: self.place.sequence, ordinal: self.ordinal }
    }

    /// Where a reader stands that has read its event.
    pub(crate) fn next_cursor(&self) -> Cursor {
        Cursor { sequence: self.place.sequence, ordinal: self.ordinal + 1 }
    }
}

/// What is ready to be sent, and the keys in flight. Bounded by what a lane takes.
#[derive(Debug, Default)]
pub(super) struct Queues {
    first: VecDeque<Job>,
    behind: VecDeque<Job>,
    /// Keys of live events in the queue behind, with how many there are: live events
    /// of these keys go there too, so that they keep their order.
    held: HashMap<u64, u32>,
    /// Keys in flight, with what waits for them.
    busy: HashMap<u64, VecDeque<Job>>,
    /// Jobs given since the last one from behind.
    since_behind: u32,
}

impl Queues {
    pub(super) fn push(&mut self, mut job: Job) {
        if matches!(job.origin, Origin::Live(_)) {
            job.behind |= self.held.contains_key(&job.key);
            if job.behind {
                *self.held.entry(job.key).or_default() += 1;
            }
        }
        if job.behind { self.behind.push_back(job) } else { self.first.push_back(job) }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.first.is_empty() && self.behind.is_empty()
    }

    /// The next job whose key is free, which is in flight from now on; others go
    /// behind the one in flight.
    pub(super) fn next(&mut self) -> Option<Job> {
        while let Some(job) = self.pop() {
            match self.busy.get_mut(&job.key) {
                Some(waiting) => waiting.push_back(job),
                None => {
                    self.busy.insert(job.key, VecDeque::new());
                    self.let_go(&job);
                    return Some(job);
                }
            }
        }
        None
    }

    fn pop(&mut self) -> Option<Job> {
        let Some(next) = self.behind.front() else {
            self.since_behind = 0;
            return self.first.pop_front();
        };
        let is_its_turn = self.since_behind + 1 >= BEHIND_EACH && !self.overtakes(next);
        if is_its_turn || self.first.is_empty() {
            self.since_behind = 0;
            return self.behind.pop_front();
        }
        self.since_behind = (self.since_behind + 1).min(BEHIND_EACH);
        self.first.pop_front()
    }

    /// Whether a job from behind would go before what came before it.
    fn overtakes(&self, job: &Job) -> bool {
        matches!(job.origin, Origin::Live(_)) && self.first.iter().any(|first| first.key == job.key)
    }

    fn let_go(&mut self, job: &Job) {
        if !job.behind || !matches!(job.origin, Origin::Live(_)) {
            return;
        }
        if let Some(held) = self.held.get_mut(&job.key) {
            *held -= 1;
            if *held == 0 {
                self.held.remove(&job.key);
            }
        }
    }

    /// A key is no longer in flight: what waits for it is next.
    pub(super) fn release(&mut self, key: u64) {
        for job in self.busy.remove(&key).into_iter().flatten().rev() {
            if job.behind { self.behind.push_front(job) } else { self.first.push_front(job) }
        }
    }

    /// Takes out whatever is not in flight.
    pub(super) fn clear(&mut self) -> Vec<Job> {
        let mut jobs: Vec<Job> = self.first.drain(..).chain(self.behind.drain(..)).collect();
        jobs.extend(self.busy.values_mut().flat_map(|waiting| waiting.drain(..)));
        self.held.clear();
        jobs
    }

    /// Takes out jobs that are not in flight.
    pub(super) fn take_out(&mut self, is_out: impl Fn(&Job) -> bool) -> Vec<Job> {
        let mut out = Vec::new();
        let mut keep = |job: &Job| {
            let stays = !is_out(job);
            if !stays {
                out.push(*job);
            }
            stays
        };
        self.first.retain(&mut keep);
        self.behind.retain(&mut keep);
        self.busy.values_mut().for_each(|waiting| waiting.retain(&mut keep));
        out.iter().for_each(|job| self.let_go(job));
        out
    }

    /// Jobs that are not in flight.
    pub(super) fn iter(&self) -> impl Iterator<Item = &Job> {
        self.first.iter().chain(&self.behind).chain(self.busy.values().flatten())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::EventKind;

    fn job(sequence: u64, key: u64, origin: Origin, behind: bool) -> Job {
        Job {
            place: Place { sequence, group: 0, chunk: 0, kind: EventKind::Created },
            ordinal: 0,
            decided_at: sequence,
            key,
            attempts: 0,
            origin,
            generation: 0,
            behind,
            quiet: false,
        }
    }

    fn drain(queues: &mut Queues) -> Vec<u64> {
        std::iter::from_fn(|| {
            let job = queues.next()?;
            queues.release(job.key);
            Some(job.place.sequence)
        })
        .collect()
    }

    #[test]
    fn history_goes_behind_live_events_and_never_starves() {
        let mut queues = Queues::default();
        (0..3).for_each(|number| queues.push(job(100 + number, 100 + number, Origin::Live(0), true)));
        (0..20).for_each(|number| queues.push(job(number, number, Origin::Live(0), false)));
        let order = drain(&mut queues);
        assert_eq!(order.len(), 23);
        let behind: Vec<usize> = (0..23).filter(|at| order[*at] >= 100).collect();
        assert_eq!(behind, [7, 15, 22]);
    }

    #[test]
    fn a_live_event_waits_for_history_of_its_key_but_not_for_a_backlog() {
        let mut queues = Queues::default();
        let backlog = Origin::Backlog { number: 1, ticket: 0, is_manual: false };
        queues.push(job(1, 7, Origin::Live(0), true));
        queues.push(job(2, 8, backlog, true));
        queues.push(job(3, 7, Origin::Live(1), false));
        queues.push(job(4, 8, Origin::Live(2), false));
        assert_eq!(drain(&mut queues), [4, 1, 2, 3]);
        // The key is free again.
        queues.push(job(5, 9, Origin::Live(3), true));
        queues.push(job(6, 7, Origin::Live(4), false));
        assert_eq!(drain(&mut queues), [6, 5]);
    }

    #[test]
    fn history_does_not_overtake_what_came_before_it_of_its_key() {
        let mut queues = Queues::default();
        (0..12).for_each(|number| queues.push(job(number, number, Origin::Live(0), false)));
        queues.push(job(20, 11, Origin::Live(0), true));
        assert_eq!(drain(&mut queues), [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 20]);
    }

    #[test]
    fn one_of_a_key_is_in_flight_and_the_others_follow_in_their_order() {
        let mut queues = Queues::default();
        (1..=4).for_each(|number| queues.push(job(number, number % 2, Origin::Live(0), false)));
        let first = queues.next().unwrap();
        let second = queues.next().unwrap();
        assert_eq!((first.place.sequence, second.place.sequence), (1, 2));
        assert_eq!(queues.next(), None);
        queues.release(first.key);
        assert_eq!(queues.next().map(|job| job.place.sequence), Some(3));
        assert_eq!(queues.clear().len(), 1);
        assert_eq!(queues.next(), None);
    }
}
