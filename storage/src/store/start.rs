//! The steps of a start: lock the folder, find its files, replay its journal,
//! remove what an unfinished flush left.

use std::collections::{BTreeSet, HashSet};
use std::fs::{File, TryLockError};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;

use super::checkpoints::relieve;
use super::{Snapshot, Store, StoreError};
use crate::attempts::ATTEMPTS_DIR;
use crate::buffer::Buffer;
use crate::catalog::{Catalog, FileRecord};
use crate::disk::Disk;
use crate::files::{DataFile, FileSet, RUNS_DIR, SAMPLES_DIR, is_temporary, level_and_number};
use crate::frame::{AttemptsFrame, FrameFault, Header, Kind, SamplesFrame, Sequence, Tombstone};

/// Held by the process that uses a data dir.
const LOCK_FILE: &str = "lock";

/// Frames from the journal into the buffer, flushed on the way so that a long
/// journal does not need more memory than a running server.
pub(super) struct Replay<'a> {
    pub(super) store: &'a Store,
    pub(super) flush_bytes: usize,
    /// How far the files reached before this start.
    pub(super) flushed: Sequence,
    /// Up to where it is decided what each sample changed; everything, if nobody
    /// wants to know.
    pub(super) settled: Sequence,
    /// The disk is full: flushing waits until the flush thread runs.
    pub(super) full: bool,
    pub(super) failure: Option<StoreError>,
}

impl Replay<'_> {
    /// Flushes after removing what an earlier flush of these samples left: once
    /// the position has moved, nothing would tell that they are in the journal.
    fn flush(&self, frozen: &Arc<Buffer>) -> Result<(), StoreError> {
        let store = self.store;
        let known = &store.snapshot();
        remove_unfinished(store.disk.as_ref(), &store.data_dir, known, self.flushed, frozen.last())?;
        store.flush(frozen, self.settled)?;
        relieve(&store.series, store.flushed_position());
        Ok(())
    }

    pub(super) fn frame(&mut self, header: &Header, bytes: Bytes) -> Result<(), FrameFault> {
        if header.kind == Kind::Tombstone as u8 {
            self.store.hide(&Arc::new(Tombstone::parse(&bytes)?));
        }
        match Kind::from_number(header.kind) {
            Some(Kind::Samples) => self.store.publish(&[SamplesFrame::parse(bytes)?]),
            Some(Kind::Attempts) => self.store.publish_attempts(&AttemptsFrame::parse(bytes)?),
            _ => {
                // Its readers find it in the journal; here only its place counts.
                self.store.advance(&header.stamp);
                return Ok(());
            }
        }
        if self.full || self.store.snapshot().active.byte_len() < self.flush_bytes {
            return Ok(());
        }
        let Some(frozen) = self.store.freeze() else { return Ok(()) };
        match self.flush(&frozen) {
            Ok(()) => Ok(()),
            // It stays readable, and the flush thread tries again once it runs.
            Err(error) if error.is_full() => {
                tracing::warn!("no room to flush while replaying; going on from memory");
                self.full = true;
                Ok(())
            }
            Err(error) => {
                self.failure = Some(error);
                Err(FrameFault::Payload { what: "it could not be flushed" })
            }
        }
    }
}

/// Takes the data dir for this process.
pub(crate) fn lock(data_dir: &Path) -> Result<File, StoreError> {
    let path = data_dir.join(LOCK_FILE);
    let io = |source| StoreError::Io { path: path.clone(), source };
    std::fs::create_dir_all(data_dir).map_err(io)?;
    let file = File::options().create(true).truncate(false).write(true).open(&path).map_err(io)?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => Err(StoreError::InUse { data_dir: data_dir.to_owned() }),
        Err(TryLockError::Error(source)) => Err(io(source)),
    }
}

/// The catalog's files, each there with its length.
pub(super) fn present_files(
    disk: &Arc<dyn Disk>,
    data_dir: &Path,
    records: Vec<FileRecord>,
) -> Result<FileSet, StoreError> {
    let mut files = Vec::with_capacity(records.len());
    for record in records {
        let file = DataFile::new(disk.clone(), data_dir, record);
        present(disk, &file)?;
        files.push(Arc::new(file));
    }
    Ok(FileSet::default().with(&files))
}

/// Says whether a file of the catalog is there with its length.
pub(super) fn present(disk: &Arc<dyn Disk>, file: &DataFile) -> Result<(), StoreError> {
    let (actual, expected) = (disk.byte_len(&file.path).ok(), file.record.bytes);
    if actual == Some(expected) {
        return Ok(());
    }
    Err(StoreError::FileMissing { path: file.record.path.clone(), expected, actual })
}

/// Removes what compactions left: files they had replaced, and files of compactions
/// that did not get to their end.
pub(super) fn remove_garbage(disk: &dyn Disk, data_dir: &Path, catalog: &Catalog) -> Result<(), StoreError> {
    let garbage = catalog.garbage()?;
    let paths: Vec<PathBuf> = garbage.iter().map(|path| data_dir.join(path)).collect();
    remove_for_good(disk, &paths)?;
    catalog.forget_garbage(&garbage)?;
    remove_abandoned(disk, data_dir, catalog)
}

/// Removes files of compactions that did not get to their end, whole or not; none may
/// be running.
pub(super) fn remove_abandoned(
    disk: &dyn Disk,
    data_dir: &Path,
    catalog: &Catalog,
) -> Result<(), StoreError> {
    let unfinished = catalog.unfinished()?;
    if unfinished.is_empty() {
        return Ok(());
    }
    let is_left = |path: &PathBuf| {
        let whole = if is_temporary(path) { path.with_extension("") } else { path.clone() };
        level_and_number(&whole).is_some_and(|(level, number)| level > 0 && unfinished.contains(&number))
    };
    let left: Vec<PathBuf> = data_files(disk, data_dir)?.into_iter().filter(is_left).collect();
    for path in &left {
        tracing::warn!(path = %path.display(), "removing what an unfinished compaction left");
    }
    remove_for_good(disk, &left)?;
    Ok(catalog.forget_unfinished(&unfinished)?)
}

/// Removes what a flush that did not get to its end left: files
/// being written, and whole ones whose samples the journal still has, which are
/// those behind `flushed` up to where the journal was read, `through`. Other
/// people's files stay. Returns a data file that is neither listed nor one of
/// these, if there is one.
pub(super) fn remove_unfinished(
    disk: &dyn Disk,
    data_dir: &Path,
    snapshot: &Snapshot,
    flushed: Sequence,
    through: Sequence,
) -> Result<Option<PathBuf>, StoreError> {
    let attempts = snapshot.attempts.iter().map(|file| file.data());
    let known: HashSet<&Path> =
        snapshot.files.iter().chain(attempts).map(|file| file.path.as_path()).collect();
    let (mut unfinished, mut unexplained) = (Vec::new(), None);
    for path in data_files(disk, data_dir)?.iter().filter(|path| !known.contains(path.as_path())) {
        let is_unfinished = match level_and_number(path) {
            Some((level, number)) => level == 0 && flushed.0 < number && number <= through.0,
            None => is_temporary(path),
        };
        if is_unfinished {
            tracing::warn!(path = %path.display(), "removing what an unfinished flush left");
            unfinished.push(path.clone());
        } else if level_and_number(path).is_some() {
            unexplained = Some(path.clone());
        }
    }
    // A power loss that brought one back would find its number flushed: the journal may have
    // been flushed in other pieces by then.
    remove_for_good(disk, &unfinished)?;
    Ok(unexplained)
}

/// What lies in the folders of data files.
fn data_files(disk: &dyn Disk, data_dir: &Path) -> Result<Vec<PathBuf>, StoreError> {
    let mut paths = Vec::new();
    for folder in [RUNS_DIR, SAMPLES_DIR, ATTEMPTS_DIR].map(|name| data_dir.join(name)) {
        paths.extend(disk.list(&folder).map_err(|source| StoreError::Io { path: folder, source })?);
    }
    Ok(paths)
}

/// Removes files so that no power loss brings one back: after this nobody may know
/// any more why it would be there.
pub(super) fn remove_for_good(disk: &dyn Disk, paths: &[PathBuf]) -> Result<(), StoreError> {
    for path in paths {
        remove(disk, path)?;
    }
    let folders: BTreeSet<&Path> = paths.iter().filter_map(|path| path.parent()).collect();
    for folder in folders {
        match disk.sync_dir(folder) {
            Err(source) if source.kind() != io::ErrorKind::NotFound => {
                return Err(StoreError::Io { path: folder.to_owned(), source });
            }
            _ => {}
        }
    }
    Ok(())
}

fn remove(disk: &dyn Disk, path: &Path) -> Result<(), StoreError> {
    match disk.remove(path) {
        Err(source) if source.kind() != io::ErrorKind::NotFound => {
            Err(StoreError::Io { path: path.to_owned(), source })
        }
        _ => Ok(()),
    }
}
