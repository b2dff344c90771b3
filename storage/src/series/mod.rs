//! The latest-and-span map: per (user, metric, source, device) the span
//! [earliest, latest] of everything committed, and per (user, metric) the newest
//! value.
//!
//! Constraints: 10 million (user, metric) series at 20 metrics a user fit in
//! 1 GiB; memory is counted and bounded, and users that were not heard of for a
//! while are evicted and read back. An update is one shard lock, no file, and no
//! allocation for a known series. `/latest` of a user in memory reads one record,
//! of an evicted one at most a block of 32 KiB a checkpoint file. A start reads
//! checkpoints and what was flushed after them, never the history.
//!
//! ```text
//! memory    1024 shards by the hash's first bits: records (one piece of memory
//!           a user), an index over them, a clock's hand
//! disk      data/latest/<number>.series: records in the order of the hash;
//!           the first is the base, each later one has the users that changed.
//!           Listed in the catalog with the position they reach to.
//!
//! a user  = memory, if its record is complete
//!         = memory + newest file that has it + ... down to a complete record
//! ```
//! Life cycle of a record: made by a user's first sample, complete if no filter
//! of a checkpoint knows the user, else only what is new; dirty until a
//! checkpoint has it; then evicted when memory is short and nobody used it for a
//! round of the clock. Reading a user back completes the record. Records merge in
//! any order to the same (spans widen, newest is a maximum), so a checkpoint may
//! hold more than its position says, and bringing something in twice is harmless.
//!
//! Marks: `New` is said only of a complete record; of a user whose past lies in a
//! file the answer is `Look`, because the committer must not wait for a disk.
//! A wrong `New` would notify of a sample as new that was there; a wrong `Look`
//! only costs the classifier a look.
//!
//! Who writes: the committer (and recovery before it). Who reads: the committer
//! for its marks, queries for `/latest`. Checkpoints are the flush thread's.
//! Unenforced: `forget` comes between the last sample it is to forget and the
//! first one after it.

mod checkpoint;
mod file;
mod filter;
mod layers;
mod map;
mod record;
mod shard;
mod tally;
mod told;

use std::io;
use std::path::PathBuf;

use xxhash_rust::xxh3::xxh3_64;

use crate::catalog::CatalogError;
use crate::frame::{Group, Sequence};

pub use checkpoint::CheckpointReport;
pub use file::LATEST_DIR;
pub(crate) use file::is_checkpoint;
pub use map::SeriesMap;
pub use tally::SeriesStats;
pub(crate) use told::{Told, verify};

/// The longest organisation and user, which are 64 and 128 bytes, with a zero
/// between them.
const JOINED_BYTES: usize = 64 + 1 + 128;

/// A sample that may be a series' newest.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Newest {
    /// Milliseconds since 1970.
    pub recorded_at: i64,
    /// In the canonical unit.
    pub value: f64,
    /// Of the frame it came with; of equal times the greater one counts.
    pub sequence: Sequence,
}

/// The names of a series.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SeriesName<'a> {
    /// Whose it is.
    pub org: &'a str,
    /// Who wears the device.
    pub user: &'a str,
    /// Canonical metric key.
    pub metric: &'a str,
    /// Who made the samples.
    pub source: &'a str,
    /// Which device.
    pub device: Option<&'a str>,
}

impl<'a> SeriesName<'a> {
    /// The series a group of a frame belongs to.
    #[must_use]
    pub fn of(org: &'a str, group: &Group<'a>) -> SeriesName<'a> {
        let Group { user, metric, source, device, .. } = *group;
        SeriesName { org, user, metric, source, device }
    }
}

/// A user's newest value of one metric, over all its sources and devices.
#[derive(Clone, Debug, PartialEq)]
pub struct LatestValue {
    /// Canonical metric key.
    pub metric: String,
    /// In the canonical unit.
    pub value: f64,
    /// Milliseconds since 1970.
    pub recorded_at: i64,
    /// Of the frame it came with.
    pub sequence: Sequence,
}

/// Why a user could not be read back or a checkpoint not be written.
#[derive(Debug, thiserror::Error)]
pub enum SeriesError {
    /// The disk refused.
    #[error("cannot use the checkpoint {}", path.display())]
    Io {
        /// The file or folder.
        path: PathBuf,
        /// What it said.
        #[source]
        source: io::Error,
    },
    /// A checkpoint's bytes are not those that were written. Nothing is lost: a
    /// start without the file reads everything from the data files again.
    #[error(
        "the checkpoint {} is damaged at byte {offset}; stop, delete it, and the next start makes it anew",
        path.display()
    )]
    Damaged {
        /// The file.
        path: PathBuf,
        /// Where the block begins that does not match its checksum.
        offset: u64,
    },
    /// The catalog refused.
    #[error("the catalog failed")]
    Catalog(#[from] CatalogError),
}

impl SeriesError {
    /// Whether the disk was full, which heals.
    #[must_use]
    pub fn is_full(&self) -> bool {
        matches!(self, SeriesError::Io { source, .. } if crate::disk::is_full(source))
    }
}

/// The hash that places a user: in a shard here, in the buckets of a partition
/// on disk. XXH3 over organisation, a zero byte, user.
#[must_use]
pub fn user_hash(org: &str, user: &str) -> u64 {
    let mut joined = [0; JOINED_BYTES];
    let length = org.len() + 1 + user.len();
    let Some(joined) = joined.get_mut(..length) else {
        return long_user_hash(org, user);
    };
    joined[..org.len()].copy_from_slice(org.as_bytes());
    joined[org.len() + 1..].copy_from_slice(user.as_bytes());
    xxh3_64(joined)
}

/// Organisation and user that are longer than they may be.
#[cold]
fn long_user_hash(org: &str, user: &str) -> u64 {
    xxh3_64(&[org.as_bytes(), &[0], user.as_bytes()].concat())
}
