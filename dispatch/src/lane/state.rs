//! What changes a lane's state: each call under the lane's lock, none of them waits.

use std::collections::VecDeque;
use std::time::Duration;

use super::{Job, Mode, State, Unsaved, now_ms};
use crate::event::{Cursor, Place};

impl State {
    pub(super) fn wants_worker(&self) -> bool {
        !self.ready.is_empty() && self.workers < self.window
    }

    pub(super) fn wants_fill(&self) -> bool {
        matches!(self.mode, Mode::Behind(_)) && !self.filling && self.has_much_room()
    }

    /// An event is done with.
    pub(super) fn settle(&mut self, job: &Job) {
        if job.generation != self.generation {
            return;
        }
        for (ticket, events) in job.tickets() {
            self.taken.decide_many(ticket, events);
        }
        if job.ticket.is_none() {
            self.forget_exception(job.excepted_at());
            self.forget_exception(job.place);
        }
    }

    /// An attempt failed and another one is due after `pause`.
    pub(super) fn except(&mut self, job: &Job, pause: Duration) {
        let due_at_ms = now_ms().saturating_add(i64::try_from(pause.as_millis()).unwrap_or(i64::MAX));
        if job.generation != self.generation {
            return;
        }
        if job.excepted_at() != job.place {
            // Something of it went: it is another one now.
            self.forget_exception(job.excepted_at());
        }
        let exception = job.exception(due_at_ms);
        self.due.insert((due_at_ms, job.place));
        self.unsaved.settled.remove(&job.place);
        self.unsaved.failed.insert(job.place);
        self.insert_exception(exception);
        self.unsaved.tickets.extend(job.tickets());
    }

    /// Ends a delivery that waits; false if it ended meanwhile. One that is in flight
    /// finds nothing of its own when it ends.
    pub(super) fn give_up(&mut self, place: Place) -> bool {
        let Some(exception) = self.exceptions.get(&place) else { return false };
        self.due.remove(&(exception.due_at_ms, place));
        self.forget_exception(place);
        let mut held = Vec::new();
        self.ready.retain(|job| {
            let stays = job.place != place || job.ticket.is_some();
            if !stays {
                held.extend_from_slice(&job.keys()[..job.held]);
            }
            stays
        });
        self.release(&held);
        true
    }

    pub(super) fn wake_due(&mut self, now_ms: i64) {
        while let Some(&(due, place)) = self.due.first() {
            if due > now_ms {
                break;
            }
            self.due.pop_first();
            if let Some(exception) = self.exceptions.get(&place) {
                self.ready.push_back(Job::retry(exception, self.generation));
            }
        }
    }

    /// Forgets what waits; workers in flight find nothing of theirs.
    pub(super) fn reset(&mut self, mode: Mode) {
        let (workers, window, generation) = (self.workers, self.window, self.generation + 1);
        let mut taken = std::mem::take(&mut self.taken);
        taken.clear();
        let keys = self.keys_in_flight().into_iter().map(|key| (key, VecDeque::new())).collect();
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
            shape: self.shape,
            bucket: self.bucket,
            timer: self.timer,
            ..State::default()
        };
    }
}
