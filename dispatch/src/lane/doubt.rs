//! Whether it is doubtful that a receiver answers, and what it gets until it does.
//!
//! ```text
//! took nothing yet, where it is now --.
//! failed twice in a row, or paused ---+--> doubtful: one request in flight, by the crew that
//!                                     |    gives way, over its half of the connections
//!                                     |    (see `crew` and `room`)
//! has requests in flight, and ended --'
//! none for SILENCE_MAX: nothing further until it ends one
//! ```
//!
//! A receiver that hangs holds a connection until the timeout, 15 s or more, and there are no
//! more of these than files may be open. A thousand such receivers with eight requests
//! each would take them all, and the others would wait for one behind them.

use super::job::{Job, Origin};
use super::state::{State, WINDOW_FIRST};

/// Failures in a row from which on it is doubtful that a receiver answers.
const DOUBT_MIN: u32 = 2;
/// Failures in a row from which on a receiver may hang: one or two happen to any.
const FAILING_MIN: u32 = 3;
/// How long a receiver may let all of its requests wait, what these wait for their payload,
/// memory or a connection included. One that always takes longer gets
/// its next ones as it answers, as many as its window has room for.
const SILENCE_MAX_MS: i64 = 2000;
/// Requests in flight to a receiver that is doubtful.
const WINDOW_DOUBTFUL: usize = 1;

/// Requests of a lane that are in flight.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Flight {
    /// Those that went where the receiver is.
    count: usize,
    /// Those that went where it was before.
    former: usize,
    /// When the last of the first ended, or the first of them began; milliseconds since 1970.
    ended_ms: i64,
}

impl Flight {
    pub(super) fn begin(&mut self, now_ms: i64) {
        if self.count == 0 {
            self.ended_ms = now_ms;
        }
        self.count += 1;
    }

    pub(super) fn end(&mut self, is_former: bool, now_ms: i64) {
        if is_former {
            self.former = self.former.saturating_sub(1);
            return;
        }
        self.count = self.count.saturating_sub(1);
        self.ended_ms = now_ms;
    }

    fn moves(&mut self) {
        self.former += std::mem::take(&mut self.count);
    }

    /// One that was to go where the receiver was goes where it is.
    fn redirect(&mut self, now_ms: i64) {
        self.former = self.former.saturating_sub(1);
        self.begin(now_ms);
    }

    fn is_silent(self, now_ms: i64) -> bool {
        self.count > 0 && now_ms.saturating_sub(self.ended_ms) >= SILENCE_MAX_MS
    }
}

impl State {
    /// Whether nobody knows that its receiver answers: it has no more than one request in
    /// flight, and shares threads and connections with others like it.
    pub(super) fn is_doubtful(&self, now_ms: i64) -> bool {
        !self.has_answered
            || self.failures_in_a_row >= DOUBT_MIN
            || self.is_paused()
            || self.flight.is_silent(now_ms)
    }

    /// Whether it only fails: it shares memory with others like it, whoever works for it.
    pub(super) fn is_failing(&self) -> bool {
        self.is_paused() || self.failures_in_a_row >= FAILING_MIN
    }

    /// Workers that may run.
    pub(super) fn window(&self, now_ms: i64) -> usize {
        let window = if self.is_doubtful(now_ms) { self.window.min(WINDOW_DOUBTFUL) } else { self.window };
        // What still waits for an answer from elsewhere holds up nothing.
        window + self.flight.former
    }

    /// The receiver is somewhere else from now on: nothing is known of it there, and if the
    /// lane is paused it is tried at once.
    pub(super) fn moves(&mut self, now_ms: i64) {
        self.moves += 1;
        self.flight.moves();
        self.window = WINDOW_FIRST;
        self.end_failing();
        self.has_answered = false;
        self.end_patience(now_ms);
        self.probe_anew(now_ms);
    }

    /// Whether a job was begun when the receiver was somewhere else.
    pub(super) fn is_elsewhere(&self, job: &Job) -> bool {
        job.moves != self.moves
    }

    /// A job that has sent nothing yet goes where the receiver is.
    pub(super) fn redirect(&mut self, job: &mut Job, now_ms: i64) {
        job.moves = self.moves;
        if job.origin != Origin::Manual {
            self.flight.redirect(now_ms);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::dialect::Dialect;
    use crate::event::Event;
    use crate::lane::delivery::Outcome;
    use crate::lane::judge::After;
    use crate::lane::pause::Pause;
    use crate::lane::state::Mode;
    use crate::lane::tests::event;

    /// Begins what may be in flight.
    fn begin(state: &mut State, now_ms: i64) -> Vec<Job> {
        let begin = || {
            let job = if state.wants_worker(now_ms) { state.next_job(now_ms) } else { None };
            state.workers += usize::from(job.is_some());
            job
        };
        std::iter::from_fn(begin).collect()
    }

    fn finish(state: &mut State, job: &Job, outcome: Outcome, now_ms: i64) -> After {
        state.workers -= 1;
        state.finish(job, outcome, Dialect::Standard.retries(), now_ms)
    }

    #[test]
    fn what_is_out_to_where_the_receiver_was_holds_up_nothing() {
        let mut state = State { window: WINDOW_FIRST, has_answered: true, ..State::default() };
        (1..=100).for_each(|key| assert!(state.offer(&Event { key, ..event(key) }, 0)));
        let former = begin(&mut state, 0);
        assert_eq!(former.len(), WINDOW_FIRST);
        state.moves(5_000);
        assert_eq!(begin(&mut state, 5_000).len(), 1);
        for job in &former {
            finish(&mut state, job, Outcome::Failed { retry_after: None }, 5_010);
        }
        assert_eq!((begin(&mut state, 5_010).len(), state.workers), (0, 1));
    }

    #[test]
    fn what_comes_back_from_where_the_receiver_was_says_nothing_of_it() {
        let patience = Outcome::Failed { retry_after: Some(Duration::from_secs(60)) };
        for outcome in [Outcome::Delivered, Outcome::SwitchedOff, patience] {
            let mut state = State { window: WINDOW_FIRST, has_answered: true, ..State::default() };
            (1..=100).for_each(|key| assert!(state.offer(&Event { key, ..event(key) }, 0)));
            let former = begin(&mut state, 0);
            state.moves(100);
            let own = begin(&mut state, 100);
            let ends: Vec<After> = former.iter().map(|job| finish(&mut state, job, outcome, 200)).collect();
            assert_eq!(ends, [After::Nothing; WINDOW_FIRST]);
            let counts = (state.counts.delivered, state.counts.failed);
            let of_all = WINDOW_FIRST as u64;
            assert_eq!(counts, if outcome == Outcome::Delivered { (of_all, 0) } else { (0, of_all) });
            // Each is decided, or due again.
            assert_eq!(state.exceptions.len() as u64, counts.1);
            assert_eq!((state.has_answered, state.failures_in_a_row), (false, 0));
            assert_eq!((state.health.failing_since_ms, state.patient_until(200)), (None, None));
            finish(&mut state, &own[0], Outcome::Delivered, 210);
            assert!(state.has_answered);
        }
    }

    #[test]
    fn a_paused_lane_tries_at_once_where_its_receiver_is_now() {
        let mut state = State { window: WINDOW_FIRST, has_answered: true, ..State::default() };
        state.health.failing_since_ms = Some(7);
        state.mode = Mode::Paused(Pause::new(Some(event(1).cursor()), 40_000));
        state.moves(1_000);
        assert_eq!((state.next_wake(1_000), state.health.failing_since_ms), (Some(1_000), None));
    }

    #[test]
    fn a_paused_lane_in_which_nothing_rests_tries_what_failed_there() {
        let mut state = State { window: WINDOW_FIRST, ..State::default() };
        assert!(state.offer(&event(1), 0));
        let failed = state.next_job(0).unwrap();
        state.finish(&failed, Outcome::Failed { retry_after: None }, Dialect::Standard.retries(), 0);
        state.mode = Mode::Paused(Pause::new(None, 0));
        state.wake(100);
        assert_eq!(state.next_job(100), None);
        state.moves(200);
        assert_eq!(state.next_wake(200), Some(200));
        state.wake(200);
        assert_eq!(state.next_job(200).map(|job| job.place), Some(failed.place));
    }

    #[test]
    fn a_job_that_has_sent_nothing_goes_where_the_receiver_is_and_speaks_of_it() {
        let mut state = State { window: WINDOW_FIRST, has_answered: true, ..State::default() };
        (1..=100).for_each(|key| assert!(state.offer(&Event { key, ..event(key) }, 0)));
        let mut former = begin(&mut state, 0);
        state.moves(100);
        assert!(state.is_elsewhere(&former[0]));
        state.redirect(&mut former[0], 100);
        // It is the one that may go there.
        assert_eq!(begin(&mut state, 100).len(), 0);
        assert_eq!(finish(&mut state, &former[1], Outcome::Delivered, 150), After::Nothing);
        assert!(!state.has_answered);
        finish(&mut state, &former[0], Outcome::Delivered, 200);
        assert!(state.has_answered);
    }

    #[test]
    fn a_lane_that_is_idle_is_not_silent() {
        let mut state = State { window: WINDOW_FIRST, has_answered: true, ..State::default() };
        (1..=2).for_each(|key| assert!(state.offer(&Event { key, ..event(key) }, 0)));
        let flight = begin(&mut state, 0);
        // Both end before either's worker leaves.
        for job in &flight {
            state.finish(job, Outcome::Delivered, Dialect::Standard.retries(), 10);
        }
        state.workers = 0;
        assert!(!state.is_doubtful(10_000));
    }

    #[test]
    fn one_request_is_in_flight_until_the_receiver_took_one_and_again_once_it_fails_or_is_silent() {
        let mut state = State { window: WINDOW_FIRST, ..State::default() };
        (1..=100).for_each(|key| assert!(state.offer(&Event { key, ..event(key) }, 0)));
        let first = begin(&mut state, 0);
        assert_eq!(first.len(), 1);
        finish(&mut state, &first[0], Outcome::Delivered, 10);
        let flight = begin(&mut state, 10);
        assert_eq!((flight.len(), state.is_doubtful(10)), (WINDOW_FIRST + 1, false));
        // One ended late: then the others have their time.
        assert!(state.is_doubtful(2_010));
        finish(&mut state, &flight[0], Outcome::Delivered, 2_500);
        assert!(!state.is_doubtful(4_499) && state.is_doubtful(4_500));
        assert_eq!(begin(&mut state, 4_500).len(), 0);
        finish(&mut state, &flight[1], Outcome::Delivered, 5_000);
        assert_eq!(begin(&mut state, 5_000).len(), 4, "two that ended, and two more");
        finish(&mut state, &flight[2], Outcome::Failed { retry_after: None }, 5_010);
        assert!(!state.is_doubtful(5_010));
        finish(&mut state, &flight[3], Outcome::Failed { retry_after: None }, 5_010);
        assert!(state.is_doubtful(5_010));
        assert_eq!(begin(&mut state, 5_010).len(), 0);
    }
}
