//! What is kept over restarts: positions and failures, never successes.
//!
//! A lane that keeps up has no row anywhere: one position, the lowest that any such
//! lane has not decided, stands for all of them. A lane that lags has its cursor, a
//! delivery that failed its exception. All that changed is saved in one transaction
//! every [`SAVE_INTERVAL`], so what a delivery costs does not grow with their number.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use crate::event::{Cursor, Member, Place};

/// How often what changed is saved: what a crash makes the router read again.
pub const SAVE_INTERVAL: Duration = Duration::from_millis(200);

/// A delivery that failed and is tried again.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Exception {
    /// The event, or what several begin with.
    pub place: Place,
    /// The frame that decided it.
    pub decided_at: u64,
    /// Hash of what is delivered one at a time.
    pub key: u64,
    /// Attempts made.
    pub attempts: u32,
    /// When the next one is due, milliseconds since 1970.
    pub due_at_ms: i64,
    /// What it carries, if it is a batch or was drawn together; else empty. Id and
    /// body follow from it.
    pub members: Arc<[Member]>,
}

/// What changed since the last save.
#[derive(Clone, Debug, Default)]
pub struct Changes {
    /// Lanes without a row have decided everything up to this sequence.
    pub routed: u64,
    /// Frames up to this are needed by no lane.
    pub floor: u64,
    /// Endpoints whose lanes began anew: what is stored of them is forgotten first.
    pub wiped: Vec<String>,
    /// Endpoints whose lanes have a row from now on, or one that moved.
    pub cursors: Vec<(String, Cursor)>,
    /// Endpoints whose lanes need none any more.
    pub caught_up: Vec<String>,
    /// Deliveries that failed, or failed again.
    pub failed: Vec<(String, Exception)>,
    /// Exceptions that are over.
    pub settled: Vec<(String, Place)>,
}

/// Keeps what must survive a crash. Implementations block.
pub trait Ledger: fmt::Debug + Send + Sync {
    /// Makes changes durable, all or nothing.
    ///
    /// # Errors
    /// [`LedgerFault`]; the changes come again with the next save.
    fn save(&self, changes: &Changes) -> Result<(), LedgerFault>;

    /// Switches an endpoint off for good: its receiver answered 410.
    ///
    /// # Errors
    /// [`LedgerFault`].
    fn switch_off(&self, endpoint: &str) -> Result<(), LedgerFault>;
}

/// The ledger cannot write.
#[derive(Debug, thiserror::Error)]
#[error("the catalog cannot be written")]
pub struct LedgerFault(#[source] pub Box<dyn std::error::Error + Send + Sync>);
