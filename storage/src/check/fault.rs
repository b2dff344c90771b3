//! What a check finds. Texts hold no user and no value: they end in logs.

use std::error::Error;

use crate::catalog::CATALOG_FILE;
use crate::files::BlockFault;
use crate::frame::Sequence;

/// One line of a check.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Finding {
    /// The store is damaged.
    Fault(Fault),
    /// Nothing is wrong, but somebody may want to know.
    Note(Note),
}

/// Damage. Paths are below the data dir.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Fault {
    /// The catalog cannot be read, or SQLite finds its pages damaged.
    #[error("{CATALOG_FILE}: {what}")]
    Catalog {
        /// What SQLite, or we, say.
        what: String,
    },
    /// A row of the catalog names something that is not there.
    #[error("{CATALOG_FILE}: {what} {name} belongs to {owner}, which is not there")]
    Orphan {
        /// Which kind of row.
        what: &'static str,
        /// Which row.
        name: String,
        /// Whom it names.
        owner: String,
    },
    /// A position lies behind the end of everything.
    #[error("{CATALOG_FILE}: the position {name} is {actual}, beyond the last sequence, {last}")]
    PositionBeyond {
        /// Which position.
        name: String,
        /// Where it is.
        actual: Sequence,
        /// The last sequence of journal and files.
        last: Sequence,
    },
    /// The catalog's row of a file contradicts itself.
    #[error("{path}: its {what} in the catalog is {actual}, expected {expected}")]
    Record {
        /// The file.
        path: String,
        /// Which statement.
        what: &'static str,
        /// What it says.
        actual: String,
        /// What it should say.
        expected: String,
    },
    /// A file of the catalog is not there.
    #[error("{path}: is missing")]
    Missing {
        /// The file.
        path: String,
    },
    /// The system does not read it.
    #[error("{path}: cannot be read: {what}")]
    Unreadable {
        /// The file.
        path: String,
        /// What the system said.
        what: String,
    },
    /// A data file has another length.
    #[error("{path}: has {actual} bytes, the catalog says {expected}")]
    Length {
        /// The file.
        path: String,
        /// In the catalog.
        expected: u64,
        /// On disk.
        actual: u64,
    },
    /// A block of a data file is not what was written.
    #[error("{path}: {fault}")]
    Block {
        /// The file.
        path: String,
        /// Which block, at which byte.
        fault: BlockFault,
    },
    /// The checksums fit and it is no data file all the same.
    #[error("{path}: is no data file: {what}")]
    Format {
        /// The file.
        path: String,
        /// What the reader says.
        what: String,
    },
    /// A row is not as it must be.
    #[error("{path}: row {row}: {what}")]
    Row {
        /// The file.
        path: String,
        /// Its number, from 0.
        row: u64,
        /// What is wrong with it.
        what: String,
    },
    /// The rows are not those the catalog describes.
    #[error("{path}: {what}: the catalog says {expected}, the rows {actual}")]
    Statistics {
        /// The file.
        path: String,
        /// Of which section, and which figure.
        what: String,
        /// In the catalog.
        expected: String,
        /// In the file.
        actual: String,
    },
    /// A data file that nothing lists.
    #[error("{path}: is a data file that the catalog does not list")]
    Unlisted {
        /// The file.
        path: String,
    },
    /// A checkpoint of the series map is not as it must be.
    #[error("{path}: {what}")]
    Checkpoint {
        /// The file, or their folder.
        path: String,
        /// What is wrong with it.
        what: String,
    },
    /// A segment of the journal is missing.
    #[error("{path}: is missing: {what}")]
    SegmentMissing {
        /// Its path.
        path: String,
        /// How that is known.
        what: String,
    },
    /// Something in the journal is broken.
    #[error("{path}: at byte {offset}: {what}")]
    Journal {
        /// The segment.
        path: String,
        /// Where the frame begins.
        offset: u64,
        /// What is wrong with it.
        what: String,
    },
}

impl Fault {
    pub(super) fn catalog(error: &dyn Error) -> Fault {
        Fault::Catalog { what: chain(error) }
    }
}

/// Nothing that needs a hand.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Note {
    /// The last group of the journal was cut short: it was never acknowledged.
    #[error("{path}: {bytes} bytes at byte {offset} are of a group that was never acknowledged")]
    TornTail {
        /// The segment.
        path: String,
        /// Where they begin.
        offset: u64,
        /// How many.
        bytes: u64,
    },
    /// A segment that was being made.
    #[error("{path}: was being made; the next start removes it")]
    UnusedSegment {
        /// The segment.
        path: String,
    },
    /// The next start removes it.
    #[error("{path}: {what}; the next start removes it")]
    Leftover {
        /// The file.
        path: String,
        /// What it is.
        what: &'static str,
    },
    /// It is not ours.
    #[error("{path}: is not a file of this program")]
    Foreign {
        /// The file.
        path: String,
    },
}

/// An error and what caused it, in one line.
pub(super) fn chain(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(error) = source {
        text.push_str(": ");
        text.push_str(&error.to_string());
        source = error.source();
    }
    text
}
