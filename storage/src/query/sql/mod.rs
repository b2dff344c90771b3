//! SQL: read-only questions about one organisation.
//!
//! Constraints: a statement runs on threads of its own that give way to all others, so
//! that neither an acknowledgement nor a point query waits for a scan. Its time, its
//! rows and its memory are bounded, and so is how many run; dropping the answer ends it.
//! An answer streams: of one that is long, [`HOLD_BYTES`] and a few chunks are in memory.
//!
//! ```text
//! text -> parsed, checked -> planned over the tables of one organisation
//!      -> scan: [ plain files, split | parts merged, superseded rows dropped ]
//!      -> encoded -> channel -> answer
//! ```
//!
//! Isolation is by construction: a session is made for one statement, its catalog holds
//! three tables, and these were made of one organisation's files, frames and series. No
//! condition keeps other organisations out that could be left out.
//!
//! What it is not: there are no writes, no files, no settings, and nothing is spilled to
//! disk; a statement that needs more memory than there is fails.

mod attempts;
mod buffered;
mod date_trunc;
mod encode;
mod hidden;
mod latest;
mod merged;
mod neighbours;
mod newest;
mod parts;
mod run;
mod samples;
mod schema;
mod session;
mod statement;
mod wanted;

use std::sync::Arc;
use std::time::Duration;

use datafusion::error::DataFusionError;

pub use attempts::OrgAttempts;
pub use encode::SqlFormat;
pub use latest::OrgLatest;
pub(super) use run::Sql;
pub use run::{HOLD_BYTES, SqlAnswer};
pub use samples::OrgSamples;
pub use statement::STATEMENT_BYTES_MAX;

/// A statement to answer.
#[derive(Clone, Debug)]
pub struct SqlQuestion {
    /// Whose data it sees.
    pub org: String,
    /// The statement.
    pub text: String,
    /// How the answer is written.
    pub format: SqlFormat,
}

/// What a statement may take.
#[derive(Clone, Copy, Debug)]
pub struct SqlLimits {
    /// Statements that run at once; more wait.
    pub concurrency: usize,
    /// How long one may be worked on; waiting for its reader is not counted.
    pub timeout: Duration,
    /// Rows of an answer.
    pub rows_max: u64,
}

impl Default for SqlLimits {
    fn default() -> SqlLimits {
        SqlLimits { concurrency: 4, timeout: Duration::from_secs(60), rows_max: 1_000_000 }
    }
}

/// Why a statement has no or no further answer.
#[derive(Clone, Debug, thiserror::Error)]
pub enum SqlError {
    /// It is no statement, or one that fails by itself: syntax, names, types, a division
    /// by zero. The text is for its author.
    #[error("{0}")]
    Invalid(String),
    /// It is one that does not run here: a write, a setting, a file.
    #[error(
        "{0} is not allowed: one SELECT (or WITH, VALUES, EXPLAIN) over the tables {tables}",
        tables = session::TABLES
    )]
    NotAllowed(String),
    /// Its answer has too many rows.
    #[error("the answer has more than {max} rows; aggregate, or add a LIMIT")]
    Rows {
        /// The limit.
        max: u64,
    },
    /// It took too long.
    #[error("the statement ran longer than {seconds} s")]
    Timeout {
        /// The limit.
        seconds: f64,
    },
    /// It needs more memory than queries may take.
    #[error("the statement needs more memory than there is for queries")]
    Memory(#[source] Arc<DataFusionError>),
    /// Too many statements waited too long for their turn.
    #[error("the server runs all the statements it can")]
    Busy,
    /// The server is stopping.
    #[error("the server is stopping")]
    Stopping,
    /// Reading failed, or planning did by our fault; damage in a file is in the chain.
    #[error("the statement failed")]
    Failed(#[source] Arc<DataFusionError>),
}

impl From<DataFusionError> for SqlError {
    fn from(error: DataFusionError) -> SqlError {
        match error.find_root() {
            DataFusionError::ResourcesExhausted(_) => SqlError::Memory(Arc::new(error)),
            DataFusionError::SQL(fault, _) => SqlError::Invalid(parser_text(&fault.to_string())),
            DataFusionError::Plan(_)
            | DataFusionError::SchemaError(..)
            | DataFusionError::NotImplemented(_)
            | DataFusionError::Execution(_) => SqlError::Invalid(plan_text(&error)),
            DataFusionError::ArrowError(fault, _) if is_of_author(fault) => {
                SqlError::Invalid(fault.to_string())
            }
            // A condition that a scan asked.
            DataFusionError::ParquetError(fault) if is_of_condition(fault) => {
                SqlError::Invalid(fault.to_string())
            }
            DataFusionError::Collection(all) if !all.is_empty() => SqlError::Invalid(plan_text(&all[0])),
            _ => SqlError::Failed(Arc::new(error)),
        }
    }
}

/// Whether a kernel failed because of what it was asked, not of what it read.
fn is_of_author(fault: &arrow::error::ArrowError) -> bool {
    use arrow::error::ArrowError as A;
    matches!(
        fault,
        A::DivideByZero
            | A::ArithmeticOverflow(_)
            | A::CastError(_)
            | A::ParseError(_)
            | A::ComputeError(_)
            | A::InvalidArgumentError(_)
            | A::NotYetImplemented(_)
            | A::SchemaError(_)
    )
}

/// Whether a scan failed because of the condition it was given, not of the file.
fn is_of_condition(fault: &parquet::errors::ParquetError) -> bool {
    let parquet::errors::ParquetError::External(inner) = fault else {
        return false;
    };
    inner.downcast_ref::<arrow::error::ArrowError>().is_some_and(is_of_author)
}

fn parser_text(text: &str) -> String {
    text.trim_start_matches("sql parser error: ").to_owned()
}

/// What the planner said, and which tables there are if it found one that is not.
fn plan_text(error: &DataFusionError) -> String {
    let mut text = error.find_root().message().into_owned();
    if text.starts_with("table function ") {
        text.push_str("; there are no table functions here");
    } else if text.starts_with("table ") && text.contains("not found") || text.contains("failed to resolve") {
        text.push_str(&format!("; the tables are {}", session::TABLES));
    }
    text
}
