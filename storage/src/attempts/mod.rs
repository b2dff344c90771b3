//! Delivery attempts in files: what a journal's frames of them become.
//!
//! Constraints: a file holds one organisation's attempts of one UTC day, sorted by
//! (time, tie), so that the newest come from the end of the last file; row groups are at
//! most `ROW_GROUP_ROWS` rows or `ROW_GROUP_BYTES`; files are checked as those of
//! samples are, block by block. Files of a day that is [`DAYS_KEPT`] days over are
//! removed.
//!
//! ```text
//! attempts/org=<o>/day=<2026-06-30>/<level>-<number>.parquet
//!
//! frames -> flush -> level 0, one file an organisation and day
//!        -> more than 8 of a level -> merged into one of the next
//!        -> the day is over        -> merged into one
//!        -> an order to erase      -> written anew without the user's rows
//! ```
//!
//! Names and life cycle are those of the files of samples: a flush's file is numbered by
//! the flush's last sequence, any other by its compaction; one transaction makes files
//! count, with the journal position or in the place of others; what was replaced is
//! removed with its last reader.
//!
//! What it is not: there are no corrections and no keys, a row is written once.

mod list;
mod merge;
mod query;
mod read;
mod schema;
mod set;
mod writer;

use crate::frame::{AttemptRow, Sequence, frame_of_tie};
use crate::hidden::Hidden;

pub(crate) use list::page;
pub use merge::may_be_about;
pub(crate) use merge::{MergeHalt, due_merge, erased_rows, merge_files};
pub use query::{AttemptKey, AttemptPage, AttemptQuery, AttemptStep};
pub(crate) use read::outcomes;
pub use read::{AttemptOutcomes, AttemptPlace};
pub(crate) use schema::{Columns, blocks_of, file_columns};
pub(crate) use set::attempt_path;
pub use set::{AttemptFile, AttemptSet};
use writer::AttemptsWriter;
pub(crate) use writer::write_frames;

/// The folder of attempts below the data dir.
pub const ATTEMPTS_DIR: &str = "attempts";
/// How many days attempts are kept.
pub const DAYS_KEPT: i64 = 30;
/// Most rows in a row group.
const ROW_GROUP_ROWS: usize = 64 * 1024;
/// A row group ends when about this many bytes of it are encoded, so that a reader of one
/// holds little: a row of a failure may have 16 KiB.
const ROW_GROUP_BYTES: usize = 8 * 1024 * 1024;

/// Whether an attempt is about an erased user: the message it delivered was committed
/// before the erasure, whenever the attempt was.
pub(crate) fn is_hidden(hidden: &Hidden, org: &str, user: Option<&str>, sequence: u64, tie: u64) -> bool {
    user.is_some_and(|user| hidden.hides_user(org, user, place_of(sequence, tie)))
}

/// Where the message of an attempt was committed; of one without a place, the attempt itself.
fn place_of(sequence: u64, tie: u64) -> Sequence {
    if sequence > 0 { Sequence(sequence) } else { frame_of_tie(tie) }
}

/// As `is_hidden`, of a whole row.
#[must_use]
pub fn row_is_hidden(hidden: &Hidden, org: &str, row: &AttemptRow<&str>) -> bool {
    is_hidden(hidden, org, row.user, row.sequence, row.tie)
}
