//! The disk as the journal and the flush see it: a few calls behind a trait, so
//! that tests can crash at each of them and decide what the power loss kept.
//!
//! Promises an implementation makes: what `sync_data` covered survives power
//! loss; a name survives once `sync_dir` of its folder returned; everything else
//! may be lost or torn in any combination.

mod real;

use std::fmt::Debug;
use std::io::{self, IoSlice};
use std::path::{Path, PathBuf};

pub use real::RealDisk;

/// A folder tree on some medium.
pub trait Disk: Debug + Send + Sync {
    /// Makes a folder and its parents.
    ///
    /// # Errors
    /// The medium's.
    fn create_dir_all(&self, dir: &Path) -> io::Result<()>;

    /// All files below `dir`, sorted by path. A missing folder is empty.
    ///
    /// # Errors
    /// The medium's.
    fn list(&self, dir: &Path) -> io::Result<Vec<PathBuf>>;

    /// A new file of `bytes` zeros whose blocks are allocated, so that writing
    /// into it later needs no space. Neither content nor name is durable yet.
    ///
    /// # Errors
    /// `AlreadyExists`, `StorageFull` or the medium's.
    fn create(&self, path: &Path, bytes: u64) -> io::Result<Box<dyn DiskFile>>;

    /// An existing file, for reading and writing.
    ///
    /// # Errors
    /// `NotFound` or the medium's.
    fn open(&self, path: &Path) -> io::Result<Box<dyn DiskFile>>;

    /// The length of a file.
    ///
    /// # Errors
    /// `NotFound` or the medium's.
    fn byte_len(&self, path: &Path) -> io::Result<u64> {
        self.open(path)?.byte_len()
    }

    /// Renames, replacing what is there.
    ///
    /// # Errors
    /// The medium's.
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()>;

    /// Removes a file.
    ///
    /// # Errors
    /// The medium's.
    fn remove(&self, path: &Path) -> io::Result<()>;

    /// Makes the names in `dir` durable.
    ///
    /// # Errors
    /// The medium's.
    fn sync_dir(&self, dir: &Path) -> io::Result<()>;
}

/// An open file. Reads and writes name their offset; there is no cursor.
pub trait DiskFile: Debug + Send + Sync {
    /// Its length in bytes.
    ///
    /// # Errors
    /// The medium's.
    fn byte_len(&self) -> io::Result<u64>;

    /// Fills `buf` from `offset`.
    ///
    /// # Errors
    /// `UnexpectedEof` if the file ends before; the medium's.
    fn read_exact_at(&self, buf: &mut [u8], offset: u64) -> io::Result<()>;

    /// Writes all slices one behind the other from `offset`.
    ///
    /// # Errors
    /// `StorageFull` or the medium's; some of the bytes may be written.
    fn write_all_at(&self, slices: &mut [IoSlice<'_>], offset: u64) -> io::Result<()>;

    /// Makes content and length durable.
    ///
    /// # Errors
    /// The medium's. What a failed sync covered is in an unknown state, and a
    /// second call may succeed without having written it.
    fn sync_data(&self) -> io::Result<()>;

    /// Says that nobody reads it soon: what the system caches of it makes room for others.
    /// A hint: what is not durable stays, and a medium without a cache has nothing to do.
    fn let_go(&self) {}
}

/// Whether the medium ran out of room, which heals, unlike other failures.
#[must_use]
pub fn is_full(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
}
