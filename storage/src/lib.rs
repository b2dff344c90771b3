//! What Systole keeps: the journal, the buffer, the Parquet files and the
//! catalog, and the tables that queries see.
//!
//! It knows samples, sequences, organisations and attempts to deliver something, which are
//! rows of texts and numbers to it. It does not know HTTP, JSON,
//! webhooks or who may ask: its callers have checked that. Only this crate names
//! arrow, parquet and (behind the feature `query`) datafusion.
//!
//! In reading order, which is the order of the data:
//!
//! - [`frame`]: one request's samples as bytes, the unit of everything behind
//! - [`disk`]: the few calls the journal and the files make
//! - [`journal`]: frames made durable, and read back at start
//! - [`buffer`]: durable frames that are not in files yet
//! - [`hidden`]: what must not be seen any more although its bytes may be there
//! - [`series`]: the newest value and the span of every series
//! - `merge`: one user's groups in file order
//! - `flush`: a frozen buffer into files
//! - [`files`]: the open Parquet files
//! - [`attempts`]: files of delivery attempts, and reads of them
//! - [`compact`]: runs into periods, small files into larger ones
//! - [`catalog`]: organisations, keys, files and positions, in SQLite
//! - [`store`]: all of it together, and the snapshot that readers take
//! - [`check`]: a stopped store, verified against itself
//! - `query`: DataFusion plans over a snapshot

pub mod attempts;
pub mod buffer;
pub mod catalog;
pub mod check;
pub mod compact;
pub mod disk;
pub mod files;
mod flush;
pub mod frame;
pub mod hidden;
pub mod journal;
mod merge;
#[cfg(feature = "query")]
pub mod query;
pub mod series;
pub mod store;

pub use attempts::{AttemptKey, AttemptOutcomes, AttemptPage, AttemptPlace, AttemptQuery, AttemptStep};
pub use catalog::{
    BacklogRecord, CATALOG_FILE, Catalog, CatalogError, Commits, CursorRecord, DisabledRecord, Dropped,
    EndpointChange, EndpointRecord, ErasureRecord, ExceptionRecord, GivenUpRecord, HealthRecord, KeyRecord,
    LaneChanges, LaneRanges, MetricRecord, PreviousSecret, Removed,
};
pub use compact::{Backlog, CompactionReport};
pub use frame::{AttemptRow, Draft, Sequence, Trigger, encode_attempts};
pub use series::{CheckpointReport, LatestValue, SeriesStats};
pub use store::{
    ErasedAttempts, FlushReport, Opened, Orders, Pace, Store, StoreError, StoreSettings, Unhurried,
};
