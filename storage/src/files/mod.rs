//! Parquet files: the open form of the samples.
//!
//! Constraints: a file of a period holds one organisation, metric, period and
//! bucket, its rows sorted by (user, time, source, device, sequence); a run holds
//! what a flush or a merge had, sorted by (organisation, metric) first. Row groups
//! are about 128 Ki rows and pages about 8 Ki, so that one user's window costs one
//! or two row groups and a few pages; each 64 KiB block has a CRC-32C in the
//! catalog, checked at every read.
//!
//! ```text
//! runs/<level>-<number>.parquet
//! samples/org=<o>/metric=<m>/period=<2026-06-30 | 2026-06 | 2026>/bucket=<b>/<level>-<number>.parquet
//! ```
//!
//! Life cycle: written under a temporary name, synced, renamed, folder synced,
//! listed in the catalog in the transaction that moves the journal position,
//! visible with the next snapshot. What an unfinished flush left is
//! removed at start.

mod block;
mod blocks;
#[cfg(feature = "query")]
mod columns;
mod encode;
mod erased;
mod layout;
mod reader;
mod rows;
mod run;
mod schema;
mod sections;
mod set;
mod writer;

pub use block::{Block, BlockError, block_schema};
pub use blocks::{BLOCK_BYTES, BlockFault, check_blocks};
#[cfg(feature = "query")]
pub(crate) use columns::ColumnsBuilder;
#[cfg(feature = "query")]
pub(crate) use erased::may_cover;
pub use erased::{erased_in, may_hold};
pub(crate) use layout::{DAY_MS, day_of, temporary};
pub use layout::{
    Partition, Period, RUNS_DIR, SAMPLES_DIR, is_run, is_temporary, level_and_number, run_file,
};
pub use reader::{BlockByBlock, CheckedFile, FileReadError};
pub use run::Run;
#[cfg(feature = "query")]
pub(crate) use schema::column;
pub use schema::{COLUMN_NAMES, FileKind, samples_schema};
pub use set::{DataFile, FileSet, Section, bucket_of};
pub(crate) use writer::{BlockWriter, no_rows, sync_folders_of};
pub use writer::{FileWriteError, SamplesFileWriter, WrittenFile, sync_folders};
