//! What goes into one request, and when: windows, batches, keys and the rate.
//!
//! ```text
//! take --coalesce_ms--> windows --end, or cut--> ready --keys free, a token--> gather --> job
//!      '-----------------------------------------^
//! ```

use std::collections::{BTreeSet, VecDeque};
use std::time::Instant;

use hashbrown::HashSet;

use super::job::Job;
use super::windows::{Drawn, Windows};
use super::{EXCEPTIONS_MAX, State, TAKEN_MAX, Ticket};
use crate::dialect::Dialect;
use crate::endpoint::EndpointSettings;
use crate::event::{Event, Place};
use crate::ledger::Exception;

/// Bytes of data in one batch, about; one event that is longer goes alone.
const BATCH_BYTES_MAX: u64 = 4 * 1024 * 1024;

/// How an endpoint wants its requests.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Shape {
    coalesce_ms: Option<u32>,
    batch_events: Option<u32>,
    pub(super) rate_limit_per_second: Option<u32>,
}

impl Shape {
    pub(super) fn of(settings: &EndpointSettings) -> Shape {
        Shape {
            coalesce_ms: settings.coalesce_ms.filter(|ms| *ms > 0),
            // The other dialects' receivers know no such body.
            batch_events: settings.batch_events.filter(|_| settings.dialect == Dialect::Standard),
            rate_limit_per_second: settings.rate_limit_per_second,
        }
    }
}

impl State {
    /// Works by other settings from now on.
    pub(super) fn reshape(&mut self, shape: Shape) {
        if shape.coalesce_ms != self.shape.coalesce_ms {
            self.close_windows();
        }
        self.shape = shape;
    }

    /// Deliveries that are not decided, or that may come of what is taken.
    fn held(&self) -> usize {
        match self.shape.coalesce_ms {
            // Windows bound themselves.
            Some(_) => self.ready.len() + self.parked + self.workers,
            None => self.taken.len(),
        }
    }

    pub(super) fn has_room(&self) -> bool {
        // All that is held may fail.
        self.held() < TAKEN_MAX && self.exceptions.len() + self.held() < EXCEPTIONS_MAX
    }

    pub(super) fn has_much_room(&self) -> bool {
        self.held() < TAKEN_MAX / 2 && self.has_room()
    }

    pub(super) fn take(&mut self, event: &Event) {
        match self.shape.coalesce_ms {
            Some(coalesce_ms) => self.draw(event, coalesce_ms),
            None => {
                let ticket = self.taken.push(event.cursor());
                self.ready.push_back(Job::first(event, ticket, self.generation));
            }
        }
    }

    /// Adds an event to the window of its series.
    fn draw(&mut self, event: &Event, coalesce_ms: u32) {
        let number = Windows::number_of(event, coalesce_ms);
        let ticket = self.windows.ticket_of(number).unwrap_or_else(|| {
            self.close_windows();
            // This one is decided when the windows are closed.
            let ticket = self.taken.push(event.cursor());
            self.windows.begin(number, ticket);
            ticket
        });
        self.taken.join(ticket);
        let mut cut = Vec::new();
        if Windows::takes(event) {
            self.windows.add(event, &mut cut);
            self.ready_drawn(cut, ticket);
        } else {
            self.windows.cut_before(event, &mut cut);
            self.ready_drawn(cut, ticket);
            self.ready.push_back(Job::first(event, ticket, self.generation));
        }
    }

    /// Closes windows that can get no further event: all with an ordering up to
    /// `settled` were offered.
    pub(super) fn close_ended_windows(&mut self, settled: u64) {
        if self.shape.coalesce_ms.is_some_and(|coalesce_ms| self.windows.end_by(settled, coalesce_ms)) {
            self.close_windows();
        }
    }

    fn close_windows(&mut self) {
        let mut cut = Vec::new();
        if let Some(ticket) = self.windows.close(&mut cut) {
            self.ready_drawn(cut, ticket);
            self.taken.decide(ticket);
        }
    }

    fn ready_drawn(&mut self, drawn: Vec<Drawn>, ticket: Ticket) {
        let generation = self.generation;
        self.ready.extend(drawn.into_iter().map(|drawn| Job::drawn(drawn, ticket, generation)));
    }

    /// What is sent next, if its keys are free and the rate allows it.
    pub(super) fn next_job(&mut self) -> Option<Job> {
        if self.is_limited() {
            return None;
        }
        let first = self.next_ready()?;
        if let Some(rate) = self.shape.rate_limit_per_second {
            // There is a token: the lock was held since that was asked.
            let taken = self.bucket.take(Instant::now(), rate);
            debug_assert!(taken.is_ok(), "{taken:?}");
        }
        match self.shape.batch_events {
            Some(most) if first.ticket.is_some() => Some(self.gather(first, most as usize)),
            _ => Some(first),
        }
    }

    /// Whether the rate allows nothing now; notes until when.
    fn is_limited(&mut self) -> bool {
        let Some(rate) = self.shape.rate_limit_per_second else { return false };
        let now = Instant::now();
        let wait = self.bucket.wait(now, rate);
        self.limited_until = (!wait.is_zero() && !self.ready.is_empty()).then(|| now + wait);
        !wait.is_zero()
    }

    /// The next job whose keys are free; others go behind those in flight.
    fn next_ready(&mut self) -> Option<Job> {
        while let Some(job) = self.ready.pop_front() {
            if let Some(job) = self.hold_keys(job) {
                return Some(job);
            }
        }
        None
    }

    /// Puts a job's keys in flight, or the job behind the first that is. Keys are
    /// taken in their order and kept meanwhile: so a batch gets all of its own in the
    /// end, and no two wait for each other.
    fn hold_keys(&mut self, mut job: Job) -> Option<Job> {
        while let Some(key) = job.keys().get(job.held).copied() {
            if let Some(waiting) = self.busy.get_mut(&key) {
                waiting.push_back(job);
                self.parked += 1;
                return None;
            }
            self.busy.insert(key, VecDeque::new());
            job.held += 1;
        }
        Some(job)
    }

    /// Adds to a first attempt what else is ready to go with it.
    fn gather(&mut self, first: Job, most: usize) -> Job {
        let mut bytes = u64::from(first.bytes);
        let mut own: HashSet<u64> = HashSet::from_iter([first.key]);
        let mut jobs = vec![first];
        while jobs.len() < most
            && let Some(next) = self.ready.front()
            && next.ticket.is_some()
            && bytes + u64::from(next.bytes) <= BATCH_BYTES_MAX
            && let Some(next) = self.ready.pop_front()
        {
            let next_bytes = u64::from(next.bytes);
            // Behind one of its own key: the order within the batch is that of commits.
            let held = if own.contains(&next.key) { Some(next) } else { self.hold_keys(next) };
            if let Some(next) = held {
                bytes += next_bytes;
                own.insert(next.key);
                jobs.push(next);
            }
        }
        Job::batch(jobs)
    }

    /// Keys are no longer in flight: what waits for them is next.
    pub(super) fn release(&mut self, keys: &[u64]) {
        for waiting in keys.iter().filter_map(|key| self.busy.remove(key)) {
            self.parked -= waiting.len();
            for job in waiting.into_iter().rev() {
                self.ready.push_front(job);
            }
        }
    }

    /// Keys that are in flight because of a request, not of a job that waits.
    pub(super) fn keys_in_flight(&self) -> HashSet<u64> {
        let mut keys: HashSet<u64> = self.busy.keys().copied().collect();
        for job in self.ready.iter().chain(self.busy.values().flatten()) {
            for key in &job.keys()[..job.held] {
                keys.remove(key);
            }
        }
        keys
    }

    /// Whether an event waits for another attempt, alone or with others.
    pub(super) fn is_excepted(&self, place: Place) -> bool {
        self.exceptions.contains_key(&place) || self.carried.contains(&place)
    }

    pub(super) fn insert_exception(&mut self, exception: Exception) {
        self.carried.extend(exception.members.iter().map(|member| member.place));
        self.exceptions.insert(exception.place, exception);
    }

    pub(super) fn remove_exception(&mut self, place: Place) -> Option<Exception> {
        let exception = self.exceptions.remove(&place)?;
        for member in exception.members.iter() {
            self.carried.remove(&member.place);
        }
        Some(exception)
    }

    /// Ends the deliveries of these members of an exception, all or some; returns how
    /// many. What is left of it is cut anew.
    pub(super) fn give_up_members(&mut self, place: Place, gone: &BTreeSet<usize>) -> u64 {
        let Some(exception) = self.exceptions.get(&place) else { return 0 };
        if gone.len() >= exception.members.len() {
            return gone.len() as u64 * u64::from(self.give_up(place));
        }
        let mut job = Job::retry(exception, self.generation);
        let due_at_ms = exception.due_at_ms;
        let attempts = exception.attempts;
        job.cut_anew(gone);
        let left = Exception { attempts, ..job.exception(due_at_ms) };
        let is_due = self.due.contains(&(due_at_ms, place));
        // One that is ready or in flight finds out by itself, and comes to the same.
        self.forget_exception(place);
        if is_due {
            self.due.remove(&(due_at_ms, place));
            self.due.insert((due_at_ms, left.place));
        }
        self.unsaved.settled.remove(&left.place);
        self.unsaved.failed.insert(left.place);
        self.insert_exception(left);
        gone.len() as u64
    }

    /// An exception is over, here and at the next save.
    pub(super) fn forget_exception(&mut self, place: Place) {
        if self.remove_exception(place).is_some() {
            self.unsaved.failed.remove(&place);
            self.unsaved.settled.insert(place);
        }
    }
}
