//! What changes a lane's state: each call under the lane's lock, none of them waits.

use std::collections::VecDeque;
use std::time::Duration;

use super::{EXCEPTIONS_MAX, Job, Mode, State, TAKEN_MAX, Unsaved, now_ms};
use crate::event::{Cursor, Event, Place};
use crate::ledger::Exception;

impl State {
    pub(super) fn has_room(&self) -> bool {
        // All that is taken may fail.
        self.taken.len() < TAKEN_MAX && self.exceptions.len() + self.taken.len() < EXCEPTIONS_MAX
    }

    pub(super) fn wants_worker(&self) -> bool {
        !self.ready.is_empty() && self.workers < self.window
    }

    pub(super) fn wants_fill(&self) -> bool {
        matches!(self.mode, Mode::Behind(_))
            && !self.filling
            && self.taken.len() < TAKEN_MAX / 2
            && self.has_room()
    }

    pub(super) fn take(&mut self, event: &Event) {
        let ticket = self.taken.push(event.cursor());
        let Event { place, decided_at, key, .. } = *event;
        let generation = self.generation;
        self.ready.push_back(Job { place, decided_at, key, attempts: 0, ticket: Some(ticket), generation });
    }

    /// The next job whose key is free; others go behind the one in flight.
    pub(super) fn next_job(&mut self) -> Option<Job> {
        while let Some(job) = self.ready.pop_front() {
            match self.busy.get_mut(&job.key) {
                Some(waiting) => waiting.push_back(job),
                None => {
                    self.busy.insert(job.key, VecDeque::new());
                    return Some(job);
                }
            }
        }
        None
    }

    /// A key is no longer in flight: what waits for it is next.
    pub(super) fn release(&mut self, key: u64) {
        if let Some(waiting) = self.busy.remove(&key) {
            for job in waiting.into_iter().rev() {
                self.ready.push_front(job);
            }
        }
    }

    /// An event is done with.
    pub(super) fn settle(&mut self, job: &Job) {
        if job.generation != self.generation {
            return;
        }
        match job.ticket {
            Some(ticket) => self.taken.decide(ticket),
            None => {
                if self.exceptions.remove(&job.place).is_some() {
                    self.unsaved.failed.remove(&job.place);
                    self.unsaved.settled.insert(job.place);
                }
            }
        }
    }

    /// An attempt failed and another one is due after `pause`.
    pub(super) fn except(&mut self, job: &Job, pause: Duration) {
        let due_at_ms = now_ms().saturating_add(i64::try_from(pause.as_millis()).unwrap_or(i64::MAX));
        if job.generation != self.generation {
            return;
        }
        let Job { place, decided_at, key, attempts, ticket, .. } = *job;
        let exception =
            Exception { place, ordinal: 0, decided_at, key, attempts: attempts + 1, due_at_ms, quiet: false };
        self.exceptions.insert(place, exception);
        self.due.insert((due_at_ms, place));
        self.unsaved.failed.insert(place);
        self.unsaved.tickets.extend(ticket);
    }

    /// Ends a delivery that waits; false if it ended meanwhile. One that is in flight
    /// finds nothing of its own when it ends.
    pub(super) fn give_up(&mut self, place: Place) -> bool {
        let Some(exception) = self.exceptions.remove(&place) else { return false };
        self.due.remove(&(exception.due_at_ms, place));
        self.ready.retain(|job| job.place != place || job.ticket.is_some());
        self.unsaved.failed.remove(&place);
        self.unsaved.settled.insert(place);
        true
    }

    pub(super) fn wake_due(&mut self, now_ms: i64) -> bool {
        let mut woken = false;
        while let Some(&(due, place)) = self.due.first() {
            if due > now_ms {
                break;
            }
            self.due.pop_first();
            if let Some(exception) = self.exceptions.get(&place) {
                let Exception { place, decided_at, key, attempts, .. } = *exception;
                let generation = self.generation;
                self.ready.push_back(Job { place, decided_at, key, attempts, ticket: None, generation });
                woken = true;
            }
        }
        woken
    }

    /// Forgets what waits; workers in flight find nothing of theirs.
    pub(super) fn reset(&mut self, mode: Mode) {
        let (workers, window, generation) = (self.workers, self.window, self.generation + 1);
        let mut taken = std::mem::take(&mut self.taken);
        taken.clear();
        let busy = std::mem::take(&mut self.busy);
        let keys = busy.into_keys().map(|key| (key, VecDeque::new())).collect();
        let filling = self.filling;
        let unsaved = Unsaved { wiped: true, ..Unsaved::default() };
        let from = if let Mode::Behind(from) = mode { from } else { Cursor::default() };
        *self = State {
            mode,
            generation,
            from,
            taken,
            busy: keys,
            workers,
            window,
            filling,
            unsaved,
            ..State::default()
        };
    }
}
