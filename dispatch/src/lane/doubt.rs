//! Whether it is doubtful that a receiver answers, and what it gets until it does.
//!
//! ```text
//! took nothing yet, where it is now --.
//! failed twice in a row, or paused ---+--> doubtful: one request in flight, by the crew that
//!                                     |    gives way, over its half of the connections
//!                                     |    (see `crew` and `pool`)
//! has requests in flight, and ended --'
//! none for SILENCE_MAX: nothing further until it ends one
//! ```
//!
//! A receiver that hangs holds a connection until the timeout, 15 s or more, and there are no
//! more of these than files may be open. A thousand such receivers with eight requests
//! each would take them all, and the others would wait for one behind them.

use super::state::State;

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
    count: usize,
    /// Of those that went where the receiver was before, as far as none has ended since.
    former: usize,
    /// When the last one ended, or the first began; milliseconds since 1970.
    ended_ms: i64,
}

impl Flight {
    fn begin(&mut self, now_ms: i64) {
        if self.count == 0 {
            self.ended_ms = now_ms;
        }
        self.count += 1;
    }

    fn end(&mut self, now_ms: i64) {
        self.count = self.count.saturating_sub(1);
        self.former = self.former.saturating_sub(1);
        self.ended_ms = now_ms;
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

    pub(super) fn begins_request(&mut self, now_ms: i64) {
        self.flight.begin(now_ms);
    }

    pub(super) fn ends_request(&mut self, now_ms: i64) {
        self.flight.end(now_ms);
    }

    /// The receiver is somewhere else from now on.
    pub(super) fn moves(&mut self, now_ms: i64) {
        self.has_answered = false;
        self.failures_in_a_row = 0;
        self.flight = Flight { former: self.flight.count, ended_ms: now_ms, ..self.flight };
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dialect::Dialect;
    use crate::event::Event;
    use crate::lane::delivery::Outcome;
    use crate::lane::job::Job;
    use crate::lane::state::WINDOW_FIRST;
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

    fn finish(state: &mut State, job: &Job, outcome: Outcome, now_ms: i64) {
        state.finish(job, outcome, Dialect::Standard.retries(), now_ms);
        state.workers -= 1;
    }

    #[test]
    fn what_is_out_to_where_the_receiver_was_holds_up_nothing() {
        let mut state = State { window: WINDOW_FIRST, has_answered: true, ..State::default() };
        (1..=100).for_each(|key| assert!(state.offer(&Event { key, ..event(key) }, 0)));
        let former = begin(&mut state, 0);
        assert_eq!(former.len(), WINDOW_FIRST);
        state.moves(5_000);
        assert_eq!(begin(&mut state, 5_000).len(), 1);
        former.iter().for_each(|job| finish(&mut state, job, Outcome::Failed { retry_after: None }, 5_010));
        assert_eq!((begin(&mut state, 5_010).len(), state.workers), (0, 1));
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
