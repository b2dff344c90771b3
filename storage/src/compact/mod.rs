//! Compaction: runs into periods, small files into larger ones, superseded rows out.
//!
//! Constraints: memory of one batch of each input and the open row groups, however
//! large the files are; at most 16 inputs a job; files of at most
//! [`FILE_BYTES_MAX`] bytes. Rows carry their sequences, so any files may be merged
//! in any order: of equal keys the greatest sequence wins, and the lesser row is
//! dropped once nobody will ask what the greater one changed (`settled`).
//!
//! ```text
//! plan:   flush -> run -> run -> ... 8 of a level --.
//!                                                   merge -> period files, where enough rows wait
//!                                                         -> a run of the next level, the rest
//!         files of a period, 6 of a size ---------- merge -> one file, or one a bucket
//! merge:  inputs by (org, metric, user, time, source, device, sequence)
//!         -> slices of rows -> hidden and superseded rows out -> output of period and bucket
//! ```
//!
//! Life cycle of a job: it takes a number from the catalog, which marks its files
//! as leftovers should it not get to its end; writes and syncs them; one transaction
//! puts them in the place of its inputs; the next snapshot reads them; the inputs are
//! removed when the last reader of an older snapshot is gone.

mod input;
mod merge;
mod output;
mod periods;
mod plan;

use std::sync::Arc;

use crate::files::DataFile;

pub(crate) use merge::merge;
pub(crate) use output::{MergeError, Numbers, Outputs};
pub use plan::Backlog;
pub(crate) use plan::{Job, Work, next_job, whole_store};

/// Most bytes of a file. A period that would need more is cut into buckets of users.
pub const FILE_BYTES_MAX: u64 = 512 * 1024 * 1024;

/// What one job did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CompactionReport {
    /// Jobs done.
    pub jobs: u64,
    /// Files read and replaced.
    pub inputs: u64,
    /// Files written.
    pub outputs: u64,
    /// Rows read.
    pub rows_read: u64,
    /// Rows written; the others were superseded or hidden.
    pub rows_written: u64,
    /// Bytes of the inputs.
    pub bytes_read: u64,
    /// Bytes written.
    pub bytes_written: u64,
}

impl CompactionReport {
    /// Both together.
    #[must_use]
    pub fn plus(self, other: CompactionReport) -> CompactionReport {
        CompactionReport {
            jobs: self.jobs + other.jobs,
            inputs: self.inputs + other.inputs,
            outputs: self.outputs + other.outputs,
            rows_read: self.rows_read + other.rows_read,
            rows_written: self.rows_written + other.rows_written,
            bytes_read: self.bytes_read + other.bytes_read,
            bytes_written: self.bytes_written + other.bytes_written,
        }
    }
}

/// Which rows of a user's metric a merge leaves out, by time and sequence.
pub(crate) type Drops<'a> = Box<dyn Fn(i64, crate::frame::Sequence) -> bool + 'a>;

/// Asked once for each (organisation, metric, user); mostly there is nothing.
pub(crate) type Hides<'a> = dyn Fn(&str, &str, &str) -> Option<Drops<'a>> + 'a;

/// Bytes of some files.
fn byte_len(files: &[Arc<DataFile>]) -> u64 {
    files.iter().map(|file| file.record.bytes).sum()
}
