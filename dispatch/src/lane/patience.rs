//! What a receiver asks for with `Retry-After`: to be left alone for a while.
//!
//! Until then the lane begins no first attempt, no retry and no first probe; what is sent by
//! hand waits for nothing. A 2xx ends it. The wish is that of one delivery, which waits for
//! all of it, up to 10 h; the others wait for [`PATIENCE_MAX`] at most, so that who comes back
//! early gets live events within a minute whatever it asked for before. A restart forgets it,
//! unlike when each delivery that failed is due.

use std::ops::Range;
use std::time::Duration;

use super::pause::{PROBE_MAX, ms};
use super::state::{Mode, State};

/// How long other deliveries wait than the one that was asked to.
pub(super) const PATIENCE_MAX: Duration = PROBE_MAX;

/// How long a lane leaves its receiver alone.
#[derive(Debug, Default)]
pub(super) struct Patience {
    /// Since when and until when, milliseconds since 1970.
    asked: Range<i64>,
    /// It was ended, and nobody has looked since at what is ready.
    is_over: bool,
}

impl Patience {
    /// When it ends, if it has not. A clock that is set back ends it too.
    fn until(&self, now_ms: i64) -> Option<i64> {
        self.asked.contains(&now_ms).then_some(self.asked.end)
    }

    /// The latest wish of all counts.
    fn extend(&mut self, until_ms: i64, now_ms: i64) {
        let before_ms = self.until(now_ms).unwrap_or(until_ms);
        self.asked = now_ms..before_ms.max(until_ms);
    }
}

impl State {
    /// Until when the receiver asked to be left alone, if it did.
    pub(super) fn patient_until(&self, now_ms: i64) -> Option<i64> {
        self.patience.until(now_ms)
    }

    /// The receiver asked to be left alone.
    pub(super) fn be_patient(&mut self, wish: Duration, now_ms: i64) {
        if wish.is_zero() {
            return;
        }
        self.patience.extend(now_ms.saturating_add(ms(wish.min(PATIENCE_MAX))), now_ms);
        if let (Some(until_ms), Mode::Paused(pause)) = (self.patience.until(now_ms), &mut self.mode) {
            pause.next_ms = pause.next_ms.max(until_ms);
        }
    }

    /// It took something: what is ready may go.
    pub(super) fn end_patience(&mut self, now_ms: i64) {
        let is_over = self.patience.until(now_ms).is_some();
        self.patience = Patience { asked: 0..0, is_over };
    }

    /// Whether what is ready must wait; who asks looks at what is ready, if not.
    pub(super) fn is_patient(&mut self, now_ms: i64) -> bool {
        self.patience.is_over = false;
        self.patience.until(now_ms).is_some()
    }

    /// When the keeper is to look at what is ready, if nobody else does.
    pub(super) fn next_ready(&self, now_ms: i64) -> Option<i64> {
        if self.patience.is_over {
            return self.wants_worker(now_ms).then_some(now_ms);
        }
        self.patience.until(now_ms).filter(|_| !self.queues.is_empty())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dialect::Dialect;
    use crate::endpoint::EndpointSettings;
    use crate::event::Event;
    use crate::lane::delivery::Outcome;
    use crate::lane::gather::Shape;
    use crate::lane::job::{Job, Origin};
    use crate::lane::pause::Pause;
    use crate::lane::state::WINDOW_FIRST;
    use crate::lane::tests::event;

    fn failed(seconds: u64) -> Outcome {
        Outcome::Failed { retry_after: Some(Duration::from_secs(seconds)) }
    }

    /// A lane with so many events of different keys.
    fn lane(events: u64) -> State {
        let mut state = State { window: WINDOW_FIRST, ..State::default() };
        for sequence in 1..=events {
            state.offer(&Event { key: sequence, ..event(sequence) }, 0);
        }
        state
    }

    fn finish(state: &mut State, outcome: Outcome, now_ms: i64) {
        let job = state.next_job(now_ms).unwrap();
        state.finish(&job, outcome, Dialect::Standard.retries(), now_ms);
    }

    #[test]
    fn the_latest_wish_counts_and_a_clock_that_is_set_back_ends_it() {
        let mut patience = Patience::default();
        patience.extend(1_060, 1_000);
        patience.extend(1_030, 1_010);
        assert_eq!([1_010, 1_059, 1_060].map(|now| patience.until(now)), [Some(1_060), Some(1_060), None]);
        assert_eq!(patience.until(900), None);
        patience.extend(2_010, 2_000);
        assert_eq!(patience.until(2_000), Some(2_010));
    }

    #[test]
    fn nothing_begins_until_then_and_the_keeper_looks_then() {
        for rate in [None, Some(10)] {
            let mut state = lane(3);
            state.reshape(Shape::of(&EndpointSettings {
                rate_limit_per_second: rate,
                ..EndpointSettings::new(String::new(), Dialect::Standard)
            }));
            finish(&mut state, failed(2), 0);
            assert_eq!((state.next_job(1_999), state.next_wake(0)), (None, Some(2_000)), "{rate:?}");
            // Its own retry is due later, after 5 s.
            assert_eq!(state.next_job(2_000).map(|job| job.place.sequence), Some(2));
        }
    }

    #[test]
    fn a_success_ends_it_also_of_what_was_sent_by_hand() {
        let mut state = lane(4);
        let in_flight = state.next_job(0).unwrap();
        finish(&mut state, failed(3600), 0);
        assert_eq!(state.next_job(10), None);
        state.finish(&in_flight, Outcome::Delivered, Dialect::Standard.retries(), 10);
        finish(&mut state, failed(3600), 11);
        assert_eq!(state.next_job(20), None);
        state.answered(state.generation, 0, 20);
        assert_eq!(state.next_wake(20), Some(20));
        assert_eq!(state.next_job(20).map(|job| job.place.sequence), Some(4));
    }

    #[test]
    fn the_first_probe_waits_too() {
        let mut state = lane(30);
        state.failures_in_a_row = 18;
        let in_flight = state.next_job(0).unwrap();
        finish(&mut state, failed(600), 0);
        state.finish(&in_flight, failed(60), Dialect::Standard.retries(), 0);
        let Mode::Paused(pause) = &state.mode else { panic!("it only fails") };
        assert_eq!((pause.next_ms, state.next_wake(0)), (40_000, Some(40_000)));
        // Wishes of others that were in flight count as well.
        state.be_patient(Duration::from_secs(30), 20_000);
        assert_eq!(state.next_wake(20_000), Some(50_000));
        state.answered(state.generation, 0, 50);
        assert_eq!(state.next_wake(50), Some(50));
    }

    #[test]
    fn a_probe_that_asks_for_hours_is_followed_by_another_within_40_seconds() {
        let mut state = lane(30);
        state.mode = Mode::Paused(Pause::new(Some(event(1).cursor()), 0));
        let probe = Job::of(&event(1), Origin::Probe, state.generation);
        let Mode::Paused(pause) = &mut state.mode else { panic!("it is paused") };
        pause.is_out = true;
        pause.began(0);
        state.finish(&probe, failed(36_000), Dialect::Standard.retries(), 1_000);
        let Mode::Paused(pause) = &state.mode else { panic!("it is paused") };
        assert_eq!((pause.next_ms, pause.is_out), (41_000, false));
    }

    #[test]
    fn a_probe_that_waits_for_the_rate_is_looked_at_when_there_is_a_token() {
        let mut state = lane(1);
        state.reshape(Shape::of(&EndpointSettings {
            rate_limit_per_second: Some(1),
            ..EndpointSettings::new(String::new(), Dialect::Standard)
        }));
        let start_ms = 1_000_000;
        let mut taken = 0;
        while state.next_job(start_ms).is_some() {
            taken += 1;
            state.queues.push(Job::of(&Event { key: 100 + taken, ..event(100 + taken) }, Origin::Manual, 0));
        }
        state.queues.clear();
        let mut pause = Pause::new(Some(event(1).cursor()), start_ms);
        pause.probe = Some(Job::of(&event(1), Origin::Probe, state.generation));
        state.mode = Mode::Paused(pause);
        assert!(taken > 0 && state.send_probe(start_ms + 50));
        assert_eq!(state.next_job(start_ms + 50), None);
        let wake_ms = state.next_wake(start_ms + 50).expect("it is looked at again");
        assert!((start_ms + 51..=start_ms + 1_100).contains(&wake_ms), "{wake_ms}");
    }
}
