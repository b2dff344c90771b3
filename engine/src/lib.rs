//! What happens between a decoded request and everything that follows from it:
//! validation against the metric registry, the ring, the committer that owns the
//! order, the flush, start and drain.
//!
//! It does not know HTTP or JSON (its caller decodes and renders) and does not
//! know how samples lie on disk (`systole-storage` does). Only this crate names
//! crossbeam.
//!
//! In reading order:
//!
//! - [`registry`]: the metrics, their units and ranges
//! - [`timestamp`]: RFC 3339 in and out
//! - `number`: numbers out
//! - [`batch`]: one request's points, validated, as columns
//! - [`budget`]: bytes that bodies and queued frames may hold
//! - [`commit`]: submissions, the ring and the committer
//! - `erasure`: orders to erase, carried out
//! - `events`: what a commit causes, and what subscribers are told
//! - `flusher`: frozen buffers into files
//! - [`priority`]: which threads give way to which
//! - [`stats`]: what is counted
//! - [`engine`]: all of it together
//! - [`check`]: a stopped store, verified

pub mod batch;
pub mod budget;
pub mod check;
pub mod commit;
mod compactor;
pub mod engine;
#[cfg(feature = "query")]
mod erasure;
#[cfg_attr(not(feature = "query"), expect(dead_code, reason = "events are published beside webhooks"))]
mod event_ids;
#[cfg(feature = "query")]
pub mod events;
mod flusher;
#[cfg(feature = "query")]
pub mod number;
pub mod priority;
pub mod registry;
pub mod stats;
pub mod timestamp;

pub use batch::{Batch, Fault, FaultKind, Point};
pub use budget::{ByteBudget, Permit};
pub use commit::{Ack, CommitError, Committed, SubmitError};
pub use engine::{Engine, EngineSettings, Health, OpenError};
#[cfg(feature = "query")]
pub use engine::{EraseError, PublishError, Publishing};
pub use flusher::FlushError;
pub use registry::{AddMetricError, Added, Metric, MetricId, Registry};
pub use stats::{HistogramSnapshot, Stats};
pub use systole_storage::frame::{Erased, Published};
pub use systole_storage::hidden::{BlockedUsers, EVERY_METRIC, RetentionRule};
#[cfg(feature = "query")]
pub use systole_storage::query::{
    Aggregation, Bucket, BucketPosition, BucketQuery, BucketStream, Bucketing, EncodeError, ExportStream,
    Order, Position, QueryError, Resolution, SampleChunk, SampleRow, SampleStream, SeriesArrow, SeriesQuery,
    SqlAnswer, SqlError, SqlFormat, SqlLimits, SqlQuestion, Zone, put_csv_text,
};
pub use systole_storage::{
    AttemptPage, AttemptQuery, AttemptRow, AttemptStep, CATALOG_FILE, Catalog, CatalogError,
    CompactionReport, Draft, ErasureRecord, FlushReport, KeyRecord, LatestValue, Sequence, Trigger,
};
