//! Queries over a snapshot of buffers and files: point reads, and SQL by DataFusion.
//!
//! Constraints: a point query (one user, one metric) touches the files whose
//! statistics hold the user and the window, of each the pages that hold them,
//! and the user's own groups in the buffers; its memory is bounded by a slice of
//! the window, however long the window is. Queries run on a runtime of their
//! own, so that a scan never delays an acknowledgement.
//!
//! ```text
//! snapshot -> [ file | file | ... | rows in memory ]    each sorted by time
//!          -> joined, the latest of equal keys -> chunks -> channel
//! ```
//!
//! Organisation is part of how files and groups are found; no read can leave it
//! out. A point query needs no plan: one of DataFusion's costs a millisecond before it
//! reads a byte. Buckets ([`Bucketing`]) are folded from the chunks of a point query, by
//! calendars of their own. SQL over everything of an organisation is apart: see [`sql`].

mod answer;
mod bucket;
mod calendar;
mod chunk;
mod csv;
mod encoder;
mod erased;
mod export;
mod footers;
mod memory;
mod metadata;
mod point;
mod pool;
mod reads;
mod resolution;
mod series_arrow;
mod sorted;
pub mod sql;
mod state;
mod supersede;
mod table;
mod window;

use std::sync::Arc;

use datafusion::error::DataFusionError;

pub use answer::{AnswerStream, BucketStream, SampleStream};
pub use bucket::{Aggregation, Bucket, BucketPosition, Bucketing};
pub use calendar::Zone;
pub use chunk::{SampleChunk, SampleRow};
pub use csv::put_csv_text;
pub use encoder::{BatchEncoder, EncodeError, Encoding};
pub use export::ExportStream;
pub use pool::QueryPool;
pub use reads::Reads;
pub use resolution::{Resolution, ResolutionFault};
pub use series_arrow::SeriesArrow;
pub use sql::{SqlAnswer, SqlError, SqlFormat, SqlLimits, SqlQuestion};
pub use state::{StateQuestion, StateRow};
pub use table::{SamplesTable, Scan};

/// In which order samples come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Order {
    /// Oldest first.
    Ascending,
    /// Newest first.
    Descending,
}

/// A place in a series: where a page ended.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Position {
    /// Milliseconds since 1970.
    pub recorded_at: i64,
    /// Who made the sample.
    pub source: String,
    /// Which device.
    pub device: Option<String>,
}

/// One user's samples of one metric.
#[derive(Clone, Debug)]
pub struct SeriesQuery {
    /// Whose data.
    pub org: String,
    /// Who wears the device.
    pub user: String,
    /// Canonical metric key.
    pub metric: String,
    /// Only this source.
    pub source: Option<String>,
    /// First millisecond of the window.
    pub start: i64,
    /// First millisecond behind the window.
    pub end: i64,
    /// In which order.
    pub order: Order,
    /// At most so many samples.
    pub limit: Option<usize>,
    /// Only samples behind this place in the order asked for.
    pub after: Option<Position>,
}

/// One user's samples of one metric, in buckets.
#[derive(Clone, Debug)]
pub struct BucketQuery {
    /// Which samples. Its `limit` counts buckets; it has no `after`.
    pub series: SeriesQuery,
    /// In which buckets.
    pub bucketing: Bucketing,
    /// Only buckets behind this place in the order asked for.
    pub after: Option<BucketPosition>,
}

/// Why a query has no or no further answer.
#[derive(Clone, Debug, thiserror::Error)]
pub enum QueryError {
    /// Too many queries waited too long for their turn.
    #[error("the server answers all the queries it can")]
    Busy,
    /// The query runtime is stopping.
    #[error("the server is stopping")]
    Stopping,
    /// The query needs more memory than queries may take.
    #[error("the query needs more memory than it may take; ask for a shorter window")]
    Memory(#[source] Arc<DataFusionError>),
    /// Reading or planning failed; damage in a file is in the chain.
    #[error("the query failed")]
    Failed(#[source] Arc<DataFusionError>),
}

impl From<DataFusionError> for QueryError {
    fn from(error: DataFusionError) -> QueryError {
        match error.find_root() {
            DataFusionError::ResourcesExhausted(_) => QueryError::Memory(Arc::new(error)),
            _ => QueryError::Failed(Arc::new(error)),
        }
    }
}
