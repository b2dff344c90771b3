//! What is counted of deliveries, and what whoever asks is told.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// What is counted.
#[derive(Debug, Default)]
pub(crate) struct Counters {
    pub(crate) delivered: AtomicU64,
    pub(crate) failed: AtomicU64,
    pub(crate) given_up: AtomicU64,
    pub(crate) payload_gone: AtomicU64,
    pub(crate) routed_events: AtomicU64,
    pub(crate) attempts: AtomicU64,
    pub(crate) attempt_nanos: AtomicU64,
    pub(crate) statements: AtomicU64,
}

/// Counters at one moment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct DispatchStats {
    /// Deliveries that were answered 2xx.
    pub delivered: u64,
    /// Attempts that were not.
    pub failed: u64,
    /// Deliveries whose schedule ended.
    pub given_up: u64,
    /// Deliveries whose payload was gone.
    pub payload_gone: u64,
    /// Events that were offered to lanes, each once a lane.
    pub routed_events: u64,
    /// Time that attempts took, together.
    pub attempt_nanos: u64,
    /// Attempts made.
    pub attempts: u64,
    /// Statements that saving took.
    pub statements: u64,
    /// Endpoints.
    pub endpoints: u64,
    /// Deliveries that wait for another attempt.
    pub retries_waiting: u64,
    /// Requests in flight.
    pub in_flight: u64,
    /// Connections to receivers that are open, idle ones too.
    pub open_connections: u64,
    /// Those of them that are due, or under way.
    pub retries_due: u64,
    /// Lanes that read the journal themselves.
    pub lanes_behind: u64,
    /// Lanes that only try an event now and then.
    pub lanes_paused: u64,
    /// Ranges that are sent behind live events.
    pub backlogs: u64,
    /// Events that were offered to lanes and are not decided, retries and ranges apart.
    pub lag_events: u64,
    /// The frame of the oldest event that some lane has not decided, exceptions apart;
    /// the first that is not routed if there is none.
    pub oldest_undecided: u64,
    /// Everything up to this sequence was routed.
    pub routed_sequence: u64,
}

impl Counters {
    pub(crate) fn delivered(&self) {
        self.delivered.fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn failed(&self) {
        self.failed.fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn given_up(&self) {
        self.given_up.fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn payload_gone(&self) {
        self.payload_gone.fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn observe(&self, took: Duration) {
        self.attempts.fetch_add(1, Ordering::Relaxed);
        let nanos = u64::try_from(took.as_nanos()).unwrap_or(u64::MAX);
        self.attempt_nanos.fetch_add(nanos, Ordering::Relaxed);
    }
}
