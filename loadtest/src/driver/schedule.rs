//! Hands out batch numbers, each once and in order, and in a paced run the time
//! at which each is due: number `n` at `n * points / rate` seconds.
//!
//! Due times do not wait for the server: connections that fall behind find their
//! batches already due, and their latency counts from then.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::time::Instant;

use super::Scenario;

#[derive(Debug)]
pub(super) struct Schedule {
    next: AtomicU64,
    batches_max: u64,
    /// Seconds from one due time to the next, in a paced run.
    interval_seconds: Option<f64>,
    /// When the first worker asked.
    begin: OnceLock<Instant>,
}

/// A batch to send, and when.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Turn {
    pub(super) number: u64,
    /// `None` for at once.
    pub(super) due: Option<Instant>,
}

impl Schedule {
    pub(super) fn new(scenario: &Scenario) -> Self {
        let points = scenario.fleet.points() as f64;
        let rate = scenario.rate_samples_per_second;
        Self {
            next: AtomicU64::new(0),
            batches_max: scenario.batches_max.unwrap_or(u64::MAX),
            interval_seconds: rate.map(|samples| points / samples as f64),
            begin: OnceLock::new(),
        }
    }

    /// The next batch; `None` once all were handed out.
    pub(super) fn take(&self) -> Option<Turn> {
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        let due = self.interval_seconds.map(|interval| {
            let begin = *self.begin.get_or_init(Instant::now);
            begin + Duration::from_secs_f64(interval * number as f64)
        });
        (number < self.batches_max).then_some(Turn { number, due })
    }
}

#[cfg(test)]
mod tests {
    use std::time::SystemTime;

    use super::*;
    use crate::fleet::{Fleet, FleetSettings};

    fn scenario() -> Scenario {
        let settings = FleetSettings::new("test", SystemTime::now());
        let fleet = Fleet::prepare(&settings).expect("good settings");
        Scenario::new(fleet, 1, Duration::from_secs(1))
    }

    #[test]
    fn paced_batches_are_due_at_even_distances() {
        let paced = Scenario { rate_samples_per_second: Some(50_000), ..scenario() };
        let schedule = Schedule::new(&paced);
        let dues: Vec<Instant> =
            (0..4).map(|_| schedule.take().and_then(|turn| turn.due).expect("a due time")).collect();
        for pair in dues.windows(2) {
            assert_eq!((pair[1] - pair[0]).as_micros(), 10_000);
        }
    }

    #[test]
    fn a_limited_run_hands_out_its_batches_and_no_more() {
        let limited = Scenario { batches_max: Some(3), ..scenario() };
        let schedule = Schedule::new(&limited);
        let numbers: Vec<u64> = std::iter::from_fn(|| schedule.take()).map(|t| t.number).collect();
        assert_eq!(numbers, [0, 1, 2]);
        assert_eq!(schedule.take(), None);
    }
}
