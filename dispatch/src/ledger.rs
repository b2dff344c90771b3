//! What is kept over restarts: positions and failures, never successes.
//!
//! A lane that keeps up has no row anywhere: one position, the lowest that any such
//! lane has not decided, stands for all of them; it never goes back. A lane that lags, is
//! paused or draws events together has its cursor, until the position is behind what it
//! has decided, a delivery that failed its exception, what is sent behind live events a
//! range. All that changed is saved in one transaction every [`SAVE_INTERVAL`], so what
//! a delivery costs does not grow with their number.

use std::fmt;
use std::ops::RangeInclusive;
use std::sync::Arc;
use std::time::Duration;

use crate::event::{Cursor, Member, Place};
use crate::notice::{EndpointDisabled, MessageFailed};

/// How often what changed is saved: what a crash makes the router read again.
pub const SAVE_INTERVAL: Duration = Duration::from_millis(200);

/// A delivery that failed and is tried again.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Exception {
    /// The event, or what several begin with.
    pub place: Place,
    /// How many events of its frame come before it.
    pub ordinal: u32,
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
    /// It is a notice: that it is given up is not announced.
    pub quiet: bool,
}

impl Exception {
    /// Where a reader stands that reads its event next.
    #[must_use]
    pub fn cursor(&self) -> Cursor {
        Cursor { sequence: self.place.sequence, ordinal: self.ordinal }
    }
}

/// How a lane has fared lately.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Health {
    /// When it began to fail, milliseconds since 1970; `None` if its last attempt
    /// succeeded.
    pub failing_since_ms: Option<i64>,
    /// When it failed last, milliseconds since 1970, rounded down to the hour: a lane that
    /// only fails costs one row an hour. `None` if its last attempt succeeded.
    pub failed_ms: Option<i64>,
    /// When it was paused, milliseconds since 1970, if it is.
    pub paused_at_ms: Option<i64>,
}

/// Events that are sent behind live ones.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Backlog {
    /// Which of the endpoint's it is; rises.
    pub number: u64,
    /// Which events of the range are sent.
    pub kind: BacklogKind,
    /// The first that was asked for.
    pub asked_from: Cursor,
    /// The first that is not decided.
    pub from: Cursor,
    /// All of them come before this.
    pub through: Cursor,
}

/// Which events of a range are sent. The numbers are part of the catalog.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum BacklogKind {
    /// All: they were committed while the lane was paused.
    Passed = 1,
    /// Those that were attempted or given up and never succeeded.
    Failed = 2,
    /// Those that were never attempted.
    Missing = 3,
}

impl BacklogKind {
    /// The kind with this number, if there is one.
    #[must_use]
    pub fn from_number(number: u8) -> Option<BacklogKind> {
        Some(match number {
            1 => BacklogKind::Passed,
            2 => BacklogKind::Failed,
            3 => BacklogKind::Missing,
            _ => return None,
        })
    }
}

/// Events that were given up: each of a range that was not answered 2xx.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct GivenUp {
    /// The first.
    pub from: Cursor,
    /// All of them come before this.
    pub through: Cursor,
    /// Milliseconds since 1970.
    pub at_ms: i64,
    /// It is not to be announced, or was.
    pub quiet: bool,
}

impl GivenUp {
    /// Whether an event is one of them.
    #[must_use]
    pub fn covers(&self, event: Cursor) -> bool {
        self.from <= event && event < self.through
    }
}

/// What changed since the last save.
#[derive(Clone, Debug, Default)]
pub struct Changes {
    /// Lanes without a row have decided everything up to this sequence.
    pub routed: u64,
    /// Frames up to this are needed by no lane.
    pub floor: u64,
    /// Endpoints whose lanes began anew: what is stored of them is forgotten first,
    /// but for what was given up.
    pub wiped: Vec<String>,
    /// Endpoints whose lanes have a row from now on, or one that moved.
    pub cursors: Vec<(String, Cursor)>,
    /// Endpoints whose lanes need none any more.
    pub caught_up: Vec<String>,
    /// How lanes fare that fared otherwise before.
    pub health: Vec<(String, Health)>,
    /// Deliveries that failed, or failed again.
    pub failed: Vec<(String, Exception)>,
    /// Exceptions that are over.
    pub settled: Vec<(String, Place)>,
    /// Ranges that are new, or whose beginning or end moved.
    pub backlogs: Vec<(String, Backlog)>,
    /// Ranges that are over, by number.
    pub finished: Vec<(String, u64)>,
    /// What was given up.
    pub given_up: Vec<(String, GivenUp)>,
    /// What is announced once all this is durable; not the ledger's.
    pub notices: Vec<MessageFailed>,
}

impl Changes {
    /// Rows that saving writes, beside the positions.
    #[must_use]
    pub fn row_count(&self) -> usize {
        self.wiped.len()
            + self.cursors.len()
            + self.caught_up.len()
            + self.health.len()
            + self.failed.len()
            + self.settled.len()
            + self.backlogs.len()
            + self.finished.len()
            + self.given_up.len()
    }
}

/// What is kept of one lane.
#[derive(Clone, Debug, Default)]
pub struct LaneRecord {
    /// What was committed before this is not the endpoint's.
    pub start: Cursor,
    /// Where it reads on by itself; without it the lane follows the router.
    pub row: Option<Cursor>,
    /// How it fares.
    pub health: Health,
    /// Deliveries that wait for another attempt.
    pub exceptions: Vec<Exception>,
    /// What is sent behind live events.
    pub backlogs: Vec<Backlog>,
}

/// Keeps what must survive a crash. Implementations block.
pub trait Ledger: fmt::Debug + Send + Sync {
    /// Makes changes durable, all or nothing; false if their floor is not the one by which
    /// frames go, though all else is durable: then the next save brings it again.
    ///
    /// # Errors
    /// [`LedgerFault`]; the changes come again with the next save.
    fn save(&self, changes: &Changes) -> Result<bool, LedgerFault>;

    /// Switches an endpoint off for good, ends what waits for it, and notes with it that this
    /// is to be announced; false if the endpoint is gone, or `is_ending` is false because
    /// somebody switched it meanwhile. In both cases calls `ended`. Nobody switches or changes
    /// the endpoint from before `is_ending` is called until `ended` has returned.
    ///
    /// # Errors
    /// [`LedgerFault`], without a call of `ended`; it is called again.
    fn switch_off(
        &self,
        disabled: &EndpointDisabled,
        is_ending: &dyn Fn() -> bool,
        ended: &dyn Fn(),
    ) -> Result<bool, LedgerFault>;

    /// What was given up of an endpoint's events in these frames.
    ///
    /// # Errors
    /// [`LedgerFault`].
    fn given_up(&self, endpoint: &str, sequences: RangeInclusive<u64>) -> Result<Vec<GivenUp>, LedgerFault>;
}

/// Why the ledger cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum LedgerFault {
    /// The disk was full, which heals.
    #[error("the disk is full")]
    DiskFull(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// Anything else.
    #[error("the catalog cannot be used")]
    Failed(#[source] Box<dyn std::error::Error + Send + Sync>),
}
