//! What the end of an attempt changes: it is decided, due again, or given up.
//!
//! ```text
//! 2xx, or unwanted --> decided
//! failed           --> an exception, due by the schedule; behind its last: given up
//! not sent         --> an exception as well, and no attempt
//! payload dropped  --> given up, whether it was tried or not
//! payload erased   --> given up if it was tried, else decided
//! ```

use std::collections::BTreeSet;
use std::time::Duration;

use super::carried::cursor_of;
use super::delivery::Outcome;
use super::job::{Job, Origin};
use super::patience::PATIENCE_MAX;
use super::pause::{PROBE_FIRST, live_tickets, ms};
use super::state::{Mode, State, WINDOW_MAX};
use crate::event::{Cursor, Place};
use crate::ledger::GivenUp;
use crate::notice::DisabledReason;

/// An endpoint that only fails for so long is switched off.
const FAILING_MAX_MS: i64 = 5 * DAY_MS;
/// Without a failure for longer than this it did not only fail.
const FAILURE_GAP_MAX_MS: i64 = FAILING_MAX_MS;
/// The same over a restart: the server was off for a part of it.
const RESTART_GAP_MAX_MS: i64 = DAY_MS;
const HOUR_MS: i64 = 3600 * 1000;
const DAY_MS: i64 = 24 * HOUR_MS;

/// What the end of an attempt asks of whoever made it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum After {
    Nothing,
    /// The delivery was given up: to be announced.
    GaveUp,
    /// The endpoint is to be switched off.
    SwitchOff(DisabledReason),
}

impl State {
    /// An attempt came to its end.
    pub(super) fn finish(&mut self, job: &Job, outcome: Outcome, retries: &[Duration], now_ms: i64) -> After {
        let is_former = job.moves != self.moves;
        self.flight.end(is_former, now_ms);
        if outcome == Outcome::Parked {
            return After::Nothing;
        }
        if let Some(succeeded) = outcome.succeeded() {
            self.attempted(job, succeeded);
        }
        // Of one that ends nothing is noted, as of one that was reset: at worst a restart
        // sends it again.
        let is_own = job.generation == self.generation && !self.is_ending;
        let after = if is_own { self.judge(job, outcome, retries, now_ms) } else { After::Nothing };
        self.queues.release(job.keys());
        after
    }

    /// An attempt was recorded.
    pub(super) fn attempted(&mut self, job: &Job, succeeded: bool) {
        if let Some(known) = &mut self.known {
            job.members().iter().for_each(|member| known.attempted(member.place, succeeded));
        }
    }

    fn judge(&mut self, job: &Job, outcome: Outcome, retries: &[Duration], now_ms: i64) -> After {
        let is_former = job.moves != self.moves;
        match outcome {
            Outcome::Parked => After::Nothing,
            Outcome::Delivered => {
                self.counts.delivered += 1;
                self.counts.last_success_ms = Some(now_ms);
                if !is_former {
                    self.succeeded(now_ms);
                }
                self.settle(job);
                After::Nothing
            }
            Outcome::Unwanted => {
                self.settle(job);
                After::Nothing
            }
            // Erased before it was tried: nobody is to hear of it.
            Outcome::Gone if job.origin != Origin::Retry => {
                self.settle(job);
                After::Nothing
            }
            Outcome::Gone | Outcome::Dropped => {
                self.settle(job);
                self.note_given_up(job, now_ms);
                After::GaveUp
            }
            Outcome::Unsent => self.put_off(job, retries, now_ms),
            Outcome::Unreadable => self.retry(job, Duration::ZERO, retries, now_ms),
            Outcome::SwitchedOff | Outcome::Failed { .. } if is_former => {
                self.counts.failed += 1;
                self.retry(job, Duration::ZERO, retries, now_ms)
            }
            Outcome::SwitchedOff => {
                self.failed(now_ms);
                After::SwitchOff(DisabledReason::Gone)
            }
            Outcome::Failed { retry_after } => {
                if self.failed(now_ms) {
                    return After::SwitchOff(DisabledReason::Failing);
                }
                let retry_after = retry_after.unwrap_or_default();
                self.be_patient(retry_after, now_ms);
                self.retry(job, retry_after, retries, now_ms)
            }
        }
    }

    fn succeeded(&mut self, now_ms: i64) {
        self.window = (self.window + 1).min(WINDOW_MAX);
        self.end_failing();
        self.end_patience(now_ms);
        if let Mode::Paused(pause) = &mut self.mode {
            pause.resumes = true;
        }
    }

    /// The receiver took something: it does not only fail.
    pub(super) fn end_failing(&mut self) {
        self.failures_in_a_row = 0;
        self.has_answered = true;
        self.health.failing_since_ms = None;
        self.health.failed_ms = None;
    }

    /// True if it has only failed for too long.
    fn failed(&mut self, now_ms: i64) -> bool {
        self.window = (self.window / 2).max(1);
        self.failures_in_a_row += 1;
        self.counts.failed += 1;
        let (before_ms, gap_max_ms) = match self.counts.last_failure_ms.replace(now_ms) {
            Some(before_ms) => (Some(before_ms), FAILURE_GAP_MAX_MS),
            // Only the hour is known: then 23 hours may count as a day.
            None => (self.health.failed_ms, RESTART_GAP_MAX_MS),
        };
        if before_ms.is_some_and(|before| now_ms.saturating_sub(before) > gap_max_ms) {
            self.health.failing_since_ms = None;
        }
        let since = *self.health.failing_since_ms.get_or_insert(now_ms);
        self.health.failed_ms = Some(now_ms - now_ms.rem_euclid(HOUR_MS));
        now_ms.saturating_sub(since) >= FAILING_MAX_MS
    }

    /// An event is done with.
    fn settle(&mut self, job: &Job) {
        match job.origin {
            Origin::Live(_) | Origin::Backlog { .. } if job.is_own() => {
                job.origins().into_iter().for_each(|(origin, events)| self.decide(origin, events));
            }
            Origin::Live(_) | Origin::Backlog { .. } => self.decide(job.origin, 1),
            Origin::Retry => {
                self.settle_exception(job.excepted_at());
                // What is left of it may have been cut anew meanwhile.
                self.settle_exception(job.place);
            }
            Origin::Manual => {}
            Origin::Probe => {
                self.ahead.insert(job.place);
                self.counts.passed = self.counts.passed.saturating_sub(1);
                if let Mode::Paused(pause) = &mut self.mode {
                    pause.decided(job);
                }
            }
        }
    }

    pub(super) fn settle_exception(&mut self, place: Place) -> bool {
        let Some(exception) = self.remove_exception(place) else { return false };
        self.due.remove(&(exception.due_at_ms, place));
        self.unsaved.failed.remove(&place);
        self.unsaved.settled.insert(place);
        true
    }

    pub(super) fn decide(&mut self, origin: Origin, events: u32) {
        match origin {
            Origin::Live(ticket) => self.taken.decide_many(ticket, events),
            Origin::Backlog { number, ticket, .. } => self.backlogs.decide(number, ticket),
            Origin::Retry | Origin::Probe | Origin::Manual => {}
        }
    }

    /// An attempt failed: another one is due by the schedule, or it is given up.
    fn retry(&mut self, job: &Job, retry_after: Duration, retries: &[Duration], now_ms: i64) -> After {
        if job.origin == Origin::Probe {
            // No longer: it is probed for the others' sake.
            let not_before_ms = now_ms.saturating_add(ms(retry_after.min(PATIENCE_MAX)));
            if let Mode::Paused(pause) = &mut self.mode {
                pause.failed(job, not_before_ms);
            }
            return After::Nothing;
        }
        let not_before_ms = now_ms.saturating_add(ms(retry_after));
        let Some(pause) = retries.get(job.attempts as usize) else {
            self.settle(job);
            self.note_given_up(job, now_ms);
            self.pause_if_failing(BTreeSet::new(), now_ms);
            return After::GaveUp;
        };
        let due_at_ms = not_before_ms.max(now_ms.saturating_add(ms(*pause)));
        self.wait(job, job.attempts + 1, due_at_ms, now_ms);
        After::Nothing
    }

    /// Nothing was sent: it is tried again, and that was no attempt.
    fn put_off(&mut self, job: &Job, retries: &[Duration], now_ms: i64) -> After {
        if job.origin == Origin::Probe {
            if let Mode::Paused(pause) = &mut self.mode {
                pause.unsent();
            }
            return After::Nothing;
        }
        let pause = retries.first().copied().unwrap_or(PROBE_FIRST);
        self.wait(job, job.attempts, now_ms.saturating_add(ms(pause)), now_ms);
        After::Nothing
    }

    /// A delivery waits to be tried again, so many attempts of it having been made.
    fn wait(&mut self, job: &Job, attempts: u32, due_at_ms: i64, now_ms: i64) {
        match job.origin {
            // No room for its failure: it rests with those that were not tried.
            Origin::Live(_) if !self.may_wait(job) => {
                for member in job.members() {
                    self.ahead.remove(&member.place);
                }
                self.pause_if_failing(live_tickets(job), now_ms);
            }
            _ => {
                self.except(job, attempts, due_at_ms);
                self.pause_if_failing(BTreeSet::new(), now_ms);
            }
        }
    }

    fn except(&mut self, job: &Job, attempts: u32, due_at_ms: i64) {
        let (place, was) = (job.place, job.excepted_at());
        // One that ended while it was in flight stays ended.
        let is_there = |place: &Place| self.exceptions.contains_key(place);
        if job.origin == Origin::Retry && !is_there(&place) && !is_there(&was) {
            return;
        }
        if was != place {
            // Something of it went: it is another one now.
            self.settle_exception(was);
        }
        self.insert_exception(job.exception(attempts, due_at_ms));
        self.due.insert((due_at_ms, place));
        self.unsaved.settled.remove(&place);
        self.unsaved.failed.insert(place);
        if job.origin != Origin::Retry {
            self.unsaved.tickets.extend(job.origins());
        }
    }

    fn note_given_up(&mut self, job: &Job, now_ms: i64) {
        self.counts.given_up += 1;
        for member in job.members() {
            let from = cursor_of(&member);
            let through = Cursor { ordinal: from.ordinal + 1, ..from };
            self.give_up_range(GivenUp { from, through, at_ms: now_ms, quiet: job.quiet });
        }
    }

    pub(super) fn give_up_range(&mut self, range: GivenUp) {
        self.unsaved.given_up.push(range);
        if let Some(known) = &mut self.known {
            known.gave_up(range);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dialect::Dialect;
    use crate::lane::pause::Pause;
    use crate::lane::state::WINDOW_FIRST;
    use crate::lane::tests::event;

    #[test]
    fn what_was_not_sent_is_tried_again_as_often_as_it_takes_and_was_no_attempt() {
        let retries = Dialect::Avycenna.retries();
        let mut state = State { window: WINDOW_FIRST, has_answered: true, ..State::default() };
        state.offer(&event(1), 0);
        let mut now_ms = 0;
        for _ in 0..100 {
            let job = state.next_job(now_ms).unwrap();
            assert_eq!(job.attempts, 0);
            assert_eq!(state.finish(&job, Outcome::Unsent, retries, now_ms), After::Nothing);
            now_ms += ms(retries[0]);
            assert!(state.wake(now_ms));
        }
        // The attempts that are made count from there on.
        let job = state.next_job(now_ms).unwrap();
        state.finish(&job, Outcome::Failed { retry_after: None }, retries, now_ms);
        assert_eq!(state.exceptions.first_key_value().map(|(_, failed)| failed.attempts), Some(1));
    }

    #[test]
    fn a_probe_that_was_not_sent_is_sent_when_the_next_one_is_due() {
        let mut state = State { window: WINDOW_FIRST, ..State::default() };
        state.mode = Mode::Paused(Pause::new(Some(event(1).cursor()), 0));
        for now_ms in [0, 10_000, 30_000, 70_000] {
            state.probe_with(event(1).cursor(), &event(1), now_ms);
            let probe = state.next_job(now_ms).unwrap();
            assert_eq!((probe.origin, probe.attempts), (Origin::Probe, 0));
            state.finish(&probe, Outcome::Unsent, Dialect::Standard.retries(), now_ms + 15);
            state.wake(now_ms + 9_999);
            assert_eq!(state.next_job(now_ms + 9_999), None);
        }
    }
}
