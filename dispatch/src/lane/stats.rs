//! A lane, seen from outside.

use super::Lane;
use super::state::Mode;
use crate::event::Cursor;

/// How a lane stands. Counts are since the start of the server.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LaneStats {
    /// Attempts that were answered 2xx.
    pub delivered: u64,
    /// Attempts that were not.
    pub failed: u64,
    /// Deliveries whose schedule ended, or whose payload was gone when they were tried
    /// again; a range that was given up as a whole is not counted.
    pub given_up: u64,
    /// Deliveries that wait for another attempt.
    pub retries_waiting: u64,
    /// Requests in flight.
    pub in_flight: u64,
    /// It only tries an event now and then.
    pub is_paused: bool,
    /// It takes no events.
    pub is_off: bool,
    /// Ranges that are sent behind live events.
    pub backlogs: u64,
    /// Events that are not decided, without retries and ranges. Those taken are
    /// counted; of a lane that lags or is paused also those that the router passed to
    /// it since the start of the server or of the lag, while what it had not read
    /// before a restart is not.
    pub lag_events: u64,
    /// The frame of the oldest event that is neither delivered nor an exception, if
    /// there is one before where the router is.
    pub oldest_undecided: Option<u64>,
    /// When that was committed, milliseconds since 1970.
    pub oldest_undecided_ms: Option<i64>,
    /// Milliseconds since 1970.
    pub last_success_ms: Option<i64>,
    /// Milliseconds since 1970.
    pub last_failure_ms: Option<i64>,
    /// When it began to fail, milliseconds since 1970, unless its last attempt
    /// succeeded.
    pub failing_since_ms: Option<i64>,
}

/// What is added up over all lanes.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Sums {
    pub(crate) retries_waiting: u64,
    pub(crate) retries_due: u64,
    pub(crate) in_flight: u64,
    pub(crate) behind: u64,
    pub(crate) paused: u64,
    pub(crate) backlogs: u64,
    pub(crate) lag_events: u64,
    /// The oldest undecided frame.
    pub(crate) oldest: Option<u64>,
}

impl Lane {
    /// How it stands, but for when the oldest undecided event was committed.
    pub(crate) fn stats(&self, routed: Cursor) -> LaneStats {
        let state = self.state.lock();
        let oldest = state.lowest(routed).into_iter().chain(state.backlogs.lowest()).min();
        LaneStats {
            delivered: state.counts.delivered,
            failed: state.counts.failed,
            given_up: state.counts.given_up,
            retries_waiting: state.exceptions.len() as u64,
            in_flight: state.workers as u64,
            is_paused: state.is_paused(),
            is_off: state.is_off(),
            backlogs: state.backlogs.len() as u64,
            lag_events: state.lag_events(),
            oldest_undecided: oldest.filter(|oldest| *oldest < routed).map(|oldest| oldest.sequence),
            oldest_undecided_ms: None,
            last_success_ms: state.counts.last_success_ms,
            last_failure_ms: state.counts.last_failure_ms.max(state.counts.last_failure_by_hand_ms),
            failing_since_ms: state.health.failing_since_ms,
        }
    }

    /// Adds how it stands to what is summed up.
    pub(crate) fn add_to(&self, sums: &mut Sums, routed: Cursor, now_ms: i64) {
        let state = self.state.lock();
        sums.retries_waiting += state.exceptions.len() as u64;
        // Those that are in flight or ready are due as well.
        let later = state.due.iter().rev().take_while(|(due, _)| *due > now_ms).count();
        sums.retries_due += (state.exceptions.len() - later.min(state.exceptions.len())) as u64;
        sums.in_flight += state.workers as u64;
        sums.behind += u64::from(matches!(state.mode, Mode::Behind(_)));
        sums.paused += u64::from(state.is_paused());
        sums.backlogs += state.backlogs.len() as u64;
        sums.lag_events += state.lag_events();
        let oldest = state.lowest(routed).into_iter().chain(state.backlogs.lowest()).min();
        let oldest = oldest.filter(|oldest| *oldest < routed).map(|oldest| oldest.sequence);
        sums.oldest = sums.oldest.into_iter().chain(oldest).min();
    }
}
