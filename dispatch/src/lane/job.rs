//! A delivery to make, and the queues in which it waits.
//!
//! Live events go first. What is history, comes from a backlog or is tried again goes
//! behind them, but one in eight of what is sent, so that it never starves. At most
//! one delivery of a key is in flight; what was taken of a key from the router is sent
//! in the order it came.

use std::collections::VecDeque;

use hashbrown::{HashMap, HashSet};

use super::carried::Carried;
use super::taken::Ticket;
use super::windows::Drawn;
use crate::event::{Cursor, Event, Place};
use crate::ledger::Exception;

/// One in so many comes from the queue behind, if both have something.
const BEHIND_EACH: u32 = 8;

/// Bytes of data in one batch, about; one event that is longer goes alone.
const BATCH_BYTES_MAX: u64 = 4 * 1024 * 1024;

/// Committed events in one batch, where these were drawn together: at most 256 are in one
/// of its events.
const BATCH_MEMBERS_MAX: usize = 1024;

/// A delivery to make.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Job {
    /// The event, or what several begin with.
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
    /// The lane's when it was begun.
    pub(super) moves: u32,
    /// Goes behind live events.
    pub(crate) behind: bool,
    /// It is a notice: that it is given up is not announced.
    pub(crate) quiet: bool,
    /// Bytes of its data, about; 0 if that is not known.
    pub(super) bytes: u32,
    /// How many of its keys are in flight for it.
    pub(super) keys_held: usize,
    /// What it carries, unless that is one event as it was committed.
    pub(super) carried: Option<Box<Carried>>,
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

impl Origin {
    /// Whether two first attempts may go in one request.
    fn goes_with(self, other: Origin) -> bool {
        match (self, other) {
            (Origin::Live(_), Origin::Live(_)) => true,
            (Origin::Backlog { number, .. }, Origin::Backlog { number: other, .. }) => number == other,
            _ => false,
        }
    }
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
            moves: 0,
            behind: event.backfill || !matches!(origin, Origin::Live(_) | Origin::Probe),
            quiet: event.about.is_some(),
            bytes: event.bytes,
            keys_held: 0,
            carried: None,
        }
    }

    /// The first attempt of what was drawn together under one ticket.
    pub(super) fn drawn(drawn: Drawn, ticket: Ticket, generation: u64) -> Job {
        let Drawn { members, bytes, backfill } = drawn;
        let first = members[0];
        let origin = Origin::Live(ticket);
        let place = if members.len() > 1 { Place::of_drawn(&members) } else { first.place };
        let carried = (members.len() > 1).then(|| Box::new(Carried::drawn(members, origin)));
        Job {
            place,
            ordinal: first.ordinal,
            decided_at: first.decided_at,
            key: first.key,
            attempts: 0,
            origin,
            generation,
            moves: 0,
            behind: backfill,
            quiet: false,
            bytes,
            keys_held: 0,
            carried,
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
            moves: 0,
            behind: true,
            quiet: exception.quiet,
            bytes: 0,
            keys_held: 0,
            carried: Carried::of_exception(exception),
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

/// Room for so many jobs, or taken events, is kept by a lane that is at rest.
pub(super) const ROOM_KEPT: usize = 64;

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
    /// Jobs in `busy`.
    parked: usize,
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

    /// Jobs that are not in flight.
    pub(super) fn len(&self) -> usize {
        self.first.len() + self.behind.len() + self.parked
    }

    /// The next job whose keys are free, which is in flight from now on; others go
    /// behind the one in flight. A first attempt takes up to `batch` ready events
    /// with it.
    pub(super) fn next(&mut self, batch: usize) -> Option<Job> {
        while let Some(job) = self.pop() {
            if let Some(job) = self.hold_keys(job) {
                return Some(if batch > 1 { self.gather(job, batch) } else { job });
            }
        }
        None
    }

    /// Puts a job's keys in flight, or the job behind the first that is. Keys are
    /// taken in their order and kept meanwhile: so a batch gets all of its own in the
    /// end, and no two wait for each other.
    fn hold_keys(&mut self, mut job: Job) -> Option<Job> {
        while let Some(key) = job.keys().get(job.keys_held).copied() {
            if let Some(waiting) = self.busy.get_mut(&key) {
                waiting.push_back(job);
                self.parked += 1;
                return None;
            }
            self.busy.insert(key, VecDeque::new());
            job.keys_held += 1;
        }
        self.let_go(&job);
        Some(job)
    }

    /// Adds to a first attempt what else is ready to go with it.
    fn gather(&mut self, first: Job, most: usize) -> Job {
        let (origin, behind) = (first.origin, first.behind);
        let (mut bytes, mut members) = (u64::from(first.bytes), first.count());
        let mut own: HashSet<u64> = first.keys().iter().copied().collect();
        let mut jobs = vec![first];
        while jobs.len() < most {
            let queue = if behind { &mut self.behind } else { &mut self.first };
            let fits = |next: &Job| {
                next.origin.goes_with(origin)
                    && bytes + u64::from(next.bytes) <= BATCH_BYTES_MAX
                    && members + next.count() <= BATCH_MEMBERS_MAX
            };
            let Some(next) = queue.pop_front_if(|next| fits(next)) else { break };
            let (next_bytes, next_members) = (u64::from(next.bytes), next.count());
            // Behind one of its own key: the order within the batch is that of commits.
            let held = if own.contains(&next.key) {
                self.let_go(&next);
                Some(next)
            } else {
                self.hold_keys(next)
            };
            if let Some(next) = held {
                bytes += next_bytes;
                members += next_members;
                own.insert(next.key);
                jobs.push(next);
            }
        }
        Job::batch(jobs)
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

    /// Keys are no longer in flight: what waits for them is next.
    pub(super) fn release(&mut self, keys: &[u64]) {
        let mut waiting: Vec<Job> = keys.iter().filter_map(|key| self.busy.remove(key)).flatten().collect();
        if keys.len() > 1 {
            // Of one key they are in order; of several, what came first goes first.
            waiting.sort_by_key(Job::begins_at);
        }
        for job in waiting.into_iter().rev() {
            self.parked -= 1;
            // One of several keys keeps what it has, so it must get on with the others.
            let goes_behind = job.behind && job.keys().len() == 1;
            if goes_behind { self.behind.push_front(job) } else { self.first.push_front(job) }
        }
    }

    /// Takes out whatever is not in flight.
    pub(super) fn clear(&mut self) -> Vec<Job> {
        let mut jobs: Vec<Job> = self.first.drain(..).chain(self.behind.drain(..)).collect();
        jobs.extend(self.busy.values_mut().flat_map(|waiting| waiting.drain(..)));
        self.held.clear();
        self.parked = 0;
        for job in &jobs {
            self.release(&job.keys()[..job.keys_held]);
        }
        jobs
    }

    /// Takes out jobs that are not in flight.
    pub(super) fn take_out(&mut self, is_out: impl Fn(&Job) -> bool) -> Vec<Job> {
        let mut out = Vec::new();
        let mut keep = |job: &Job| {
            let stays = !is_out(job);
            if !stays {
                out.push(job.clone());
            }
            stays
        };
        self.first.retain(&mut keep);
        self.behind.retain(&mut keep);
        self.busy.values_mut().for_each(|waiting| waiting.retain(&mut keep));
        self.parked = self.busy.values().map(VecDeque::len).sum();
        for job in &out {
            self.let_go(job);
            self.release(&job.keys()[..job.keys_held]);
        }
        out
    }

    /// Gives back room that a burst took, once little is in it.
    pub(super) fn trim(&mut self) {
        for queue in [&mut self.first, &mut self.behind] {
            if queue.capacity() > ROOM_KEPT && queue.len() <= ROOM_KEPT / 4 {
                queue.shrink_to(ROOM_KEPT / 2);
            }
        }
        if self.busy.capacity() > ROOM_KEPT * 2 && self.busy.len() <= ROOM_KEPT / 4 {
            self.busy.shrink_to(ROOM_KEPT / 2);
        }
        if self.held.capacity() > ROOM_KEPT * 2 && self.held.len() <= ROOM_KEPT / 4 {
            self.held.shrink_to(ROOM_KEPT / 2);
        }
    }

    /// Jobs that are not in flight.
    pub(super) fn iter(&self) -> impl Iterator<Item = &Job> {
        self.first.iter().chain(&self.behind).chain(self.busy.values().flatten())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::{EventKind, Member};

    fn job(sequence: u64, key: u64, origin: Origin, behind: bool) -> Job {
        Job {
            place: Place { sequence, group: 0, chunk: 0, kind: EventKind::Created },
            ordinal: 0,
            decided_at: sequence,
            key,
            attempts: 0,
            origin,
            generation: 0,
            moves: 0,
            behind,
            quiet: false,
            bytes: 0,
            keys_held: 0,
            carried: None,
        }
    }

    #[test]
    fn room_that_a_burst_took_is_given_back() {
        let mut queues = Queues::default();
        for number in 0..512 {
            queues.push(job(number, number, Origin::Live(0), number % 2 == 0));
        }
        queues.trim();
        assert_eq!(drain(&mut queues).len(), 512);
        queues.trim();
        let room = [queues.first.capacity(), queues.behind.capacity(), queues.busy.capacity()];
        assert!(room.iter().all(|room| *room <= 2 * ROOM_KEPT), "{room:?}");
    }

    fn drain(queues: &mut Queues) -> Vec<u64> {
        std::iter::from_fn(|| {
            let job = queues.next(1)?;
            queues.release(job.keys());
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
        let first = queues.next(1).unwrap();
        let second = queues.next(1).unwrap();
        assert_eq!((first.place.sequence, second.place.sequence), (1, 2));
        assert_eq!(queues.next(1), None);
        queues.release(first.keys());
        assert_eq!(queues.next(1).map(|job| job.place.sequence), Some(3));
        assert_eq!(queues.clear().len(), 1);
        assert_eq!(queues.next(1), None);
    }

    fn sequences(job: &Job) -> Vec<u64> {
        job.members().iter().map(|member| member.place.sequence).collect()
    }

    /// A batch of these keys that is tried again.
    fn batch(sequence: u64, keys: &[u64]) -> Job {
        let jobs = keys.iter().map(|key| job(sequence, *key, Origin::Retry, true)).collect();
        Job { keys_held: 0, ..Job::batch(jobs) }
    }

    #[test]
    fn a_batch_takes_what_is_ready_and_leaves_what_is_not() {
        let mut queues = Queues::default();
        queues.push(job(1, 3, Origin::Live(0), false));
        let first = queues.next(1).unwrap();
        (2..).zip([1, 1, 3, 2]).for_each(|(sequence, key)| {
            queues.push(job(sequence, key, Origin::Live(sequence), false));
        });
        queues.push(job(6, 9, Origin::Retry, false));
        queues.push(job(7, 8, Origin::Live(7), false));
        let second = queues.next(10).unwrap();
        assert_eq!((sequences(&second), second.keys()), (vec![2, 3, 5], [1, 2].as_slice()));
        // What is tried again goes alone, and one that is alone goes as it is.
        assert_eq!(queues.next(10).map(|job| (job.place.sequence, job.is_own())), Some((6, false)));
        assert_eq!(queues.next(10).map(|job| (job.place.sequence, job.is_own())), Some((7, false)));
        assert_eq!((queues.next(10), queues.len()), (None, 1));
        queues.release(first.keys());
        queues.release(second.keys());
        assert_eq!(queues.next(10).map(|job| job.place.sequence), Some(4));
    }

    #[test]
    fn a_batch_is_bounded_by_count_and_by_bytes() {
        for (most, bytes, expected) in [(3, 10, vec![3, 3, 1]), (10, 1_500_000, vec![2, 2, 2, 1])] {
            let mut queues = Queues::default();
            (0..7).for_each(|key| queues.push(Job { bytes, ..job(key, key, Origin::Live(0), false) }));
            let counts: Vec<usize> =
                std::iter::from_fn(|| queues.next(most).map(|job| job.members().len())).collect();
            assert_eq!(counts, expected);
        }
    }

    #[test]
    fn a_batch_of_events_drawn_together_is_bounded_by_how_many_these_are() {
        let mut queues = Queues::default();
        for key in 0..7_u64 {
            let member = |index: u64| Member {
                place: job(1000 * key + index, key, Origin::Live(key), false).place,
                ordinal: 0,
                decided_at: 0,
                key,
                joined: index > 0,
                cut: 0,
            };
            let drawn = Drawn { members: (0..250).map(member).collect(), bytes: 10, backfill: false };
            queues.push(Job::drawn(drawn, key, 0));
        }
        let counts: Vec<usize> = std::iter::from_fn(|| queues.next(100).map(|job| job.count())).collect();
        assert_eq!(counts, [1000, 750]);
    }

    #[test]
    fn batches_that_are_tried_again_get_their_keys_although_others_want_them_too() {
        let mut queues = Queues::default();
        (1..=3).for_each(|key| queues.push(job(key, key, Origin::Live(0), false)));
        let mut flight: VecDeque<Job> = std::iter::from_fn(|| queues.next(1)).collect();
        queues.push(batch(10, &[3, 1]));
        queues.push(batch(20, &[2, 1, 3]));
        let mut tried = Vec::new();
        for round in 0..40 {
            (1..=3).for_each(|key| queues.push(job(100 + round, key, Origin::Live(0), false)));
            let done = flight.pop_front().unwrap();
            queues.release(done.keys());
            while let Some(next) = queues.next(1) {
                let is_free = |key: &u64| flight.iter().all(|other| !other.keys().contains(key));
                assert!(next.keys().iter().all(is_free), "{next:?}");
                tried.extend(next.is_own().then_some(next.place.sequence));
                flight.push_back(next);
            }
        }
        tried.sort_unstable();
        assert_eq!(tried, [10, 20]);
        let waiting = queues.len();
        assert_eq!((queues.clear().len(), queues.len()), (waiting, 0));
        flight.iter().for_each(|job| queues.release(job.keys()));
        assert!(queues.busy.is_empty(), "{:?}", queues.busy);
    }
}
