//! The store: buffer, files, series map and catalog as one thing with one
//! atomic snapshot.
//!
//! Promises: a snapshot sees each committed sample exactly once, in a buffer or
//! in a file; what was published before the snapshot was taken is in it. A start
//! brings back every durable sample and removes what an unfinished flush left.
//!
//! Who does what: the committer publishes and freezes, the flush thread flushes,
//! queries take snapshots. There is one of each of the first two.

mod attempts;
mod checkpoints;
mod compaction;
mod erasure;
mod orders;
mod series_of_files;
mod start;

use std::fs::File;
use std::io;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Weak};

use arc_swap::ArcSwap;
use parking_lot::Mutex;

use crate::attempts::{AttemptFile, AttemptSet, write_frames};
use crate::buffer::Buffer;
use crate::catalog::{Catalog, CatalogError, FileRecord, Flushed};
use crate::disk::{Disk, RealDisk, is_full};
use crate::files::{DataFile, FileReadError, FileSet, FileWriteError};
use crate::flush::write_run;
use crate::frame::{Erased, SamplesFrame, Sequence, Stamp, Tombstone};
use crate::hidden::Hidden;
use crate::journal::{JournalWriter, Log, RecoverError, recover};
use crate::series::{Newest, SeriesError, SeriesMap, SeriesName};
pub use attempts::ErasedAttempts;
use attempts::present_attempts;
use checkpoints::load_newer;
pub use compaction::{Pace, Unhurried};
pub(crate) use erasure::load_hidden;
pub use orders::Orders;
pub(crate) use start::lock;
use start::{Replay, present_files, remove_garbage, remove_unfinished};

/// The journal's folder below the data dir.
pub const JOURNAL_DIR: &str = "journal";

/// Sizes a store is opened with.
#[derive(Clone, Debug)]
pub struct StoreSettings {
    /// Where everything lies.
    pub data_dir: PathBuf,
    /// Length of a journal segment.
    pub segment_bytes: u64,
    /// Memory of a buffer from which it is flushed, also while replaying.
    pub flush_bytes: usize,
    /// Memory of the series map from which users are evicted.
    pub series_bytes: usize,
}

/// A store that has just been opened.
#[derive(Debug)]
pub struct Opened {
    /// The store.
    pub store: Arc<Store>,
    /// The journal's writer, for the committer.
    pub writer: JournalWriter,
    /// The last sequence that was ever durable.
    pub last: Sequence,
    /// The greatest `ordering` that was ever durable.
    pub ordering: u64,
    /// The journal, for its readers.
    pub log: Arc<Log>,
    /// Everything up to this is in files.
    pub flushed: Sequence,
}

/// Why a store cannot be opened or did not flush.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// Another process has it open.
    #[error("the data dir {} is in use by another process", data_dir.display())]
    InUse {
        /// Which.
        data_dir: PathBuf,
    },
    /// The system refused.
    #[error("cannot use {}", path.display())]
    Io {
        /// The file or folder.
        path: PathBuf,
        /// What it said.
        #[source]
        source: io::Error,
    },
    /// The catalog refused.
    #[error("the catalog failed")]
    Catalog(#[from] CatalogError),
    /// The journal cannot be read back.
    #[error("the journal cannot be recovered")]
    Journal(#[from] RecoverError),
    /// A file of the catalog is not there as it should be.
    #[error("the data file {path} has {actual:?} bytes, the catalog says {expected}")]
    FileMissing {
        /// Below the data dir.
        path: String,
        /// In the catalog.
        expected: u64,
        /// On disk; `None` if there is no such file.
        actual: Option<u64>,
    },
    /// A data file that no transaction lists and whose samples are not in the
    /// journal either: the catalog is lost, or of another time.
    #[error("the catalog does not list {}, and the journal no longer has its samples", path.display())]
    Unlisted {
        /// The file.
        path: PathBuf,
    },
    /// The catalog is newer than the rest, as where files were copied one after the other from
    /// a running server. What is committed from here on would be taken for known.
    #[error(
        "the catalog's position {name} is {actual}, beyond {last}, the last sequence of journal and files: \
         the data dir is not of one moment (run `systole check`, and copy it as a whole)"
    )]
    CatalogAhead {
        /// Which position.
        name: String,
        /// Where it is.
        actual: Sequence,
        /// The last sequence there is.
        last: Sequence,
    },
    /// A data file cannot be read.
    #[error("a data file cannot be read")]
    Read(#[from] FileReadError),
    /// A data file cannot be written.
    #[error("a data file cannot be written")]
    Write(#[from] FileWriteError),
    /// The series map's checkpoints cannot be used.
    #[error("a checkpoint of the series map failed")]
    Series(#[from] SeriesError),
}

impl StoreError {
    /// Whether the disk was full, which heals.
    #[must_use]
    pub fn is_full(&self) -> bool {
        match self {
            StoreError::Write(error) => error.is_full(),
            StoreError::Io { source, .. } | StoreError::Journal(RecoverError::Io { source, .. }) => {
                is_full(source)
            }
            StoreError::Catalog(error) | StoreError::Series(SeriesError::Catalog(error)) => error.is_full(),
            StoreError::Series(error) => error.is_full(),
            _ => false,
        }
    }
}

/// What a flush did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct FlushReport {
    /// Files written.
    pub files: u64,
    /// Rows in them.
    pub rows: u64,
    /// Bytes of them.
    pub bytes: u64,
    /// Everything up to this is in files.
    pub sequence: Sequence,
}

/// What a reader sees: immutable but for the active buffer, which only grows.
#[derive(Clone, Debug, Default)]
pub struct Snapshot {
    /// Takes what is committed.
    pub active: Arc<Buffer>,
    /// Being flushed, oldest first.
    pub frozen: Vec<Arc<Buffer>>,
    /// Everything before.
    pub files: Arc<FileSet>,
    /// Delivery attempts before those of the buffers.
    pub attempts: Arc<AttemptSet>,
    /// What of all this must not be seen any more.
    pub hidden: Arc<Hidden>,
}

impl Snapshot {
    /// All its buffers.
    pub fn buffers(&self) -> impl Iterator<Item = &Arc<Buffer>> {
        self.frozen.iter().chain([&self.active])
    }
}

/// Samples that are committed: in buffers, in files, and the newest of each
/// series.
#[derive(Debug)]
pub struct Store {
    data_dir: PathBuf,
    disk: Arc<dyn Disk>,
    catalog: Arc<Catalog>,
    series: SeriesMap,
    /// Swapped by the committer (freeze) and the flush thread (done).
    snapshot: ArcSwap<Snapshot>,
    /// Tombstones that are durable in the journal and not yet in the catalog, in commit
    /// order. The committer adds to them: held for a moment only.
    unrecorded: Mutex<Vec<Arc<Tombstone>>>,
    /// Held by whoever writes tombstones or rules into the catalog, until they are durable.
    recording: Mutex<()>,
    /// Files that were replaced, until their last reader is gone.
    graveyard: Mutex<Vec<Weak<DataFile>>>,
    /// Everything through this is in files. The flush thread's.
    flushed: AtomicU64,
    /// Rows flushed since the last checkpoint of the series map began.
    rows_unchecked: AtomicU64,
    /// Held while the store lives; another process finds it locked.
    _lock: Option<File>,
}

impl Store {
    /// Opens the store of a data dir, new or old.
    ///
    /// # Errors
    /// [`StoreError`]; a damaged journal or file is named.
    pub fn open(settings: &StoreSettings) -> Result<Opened, StoreError> {
        let lock = lock(&settings.data_dir)?;
        let catalog = Arc::new(Catalog::open(&settings.data_dir)?);
        Store::start(settings, Arc::new(RealDisk), catalog, Some(lock))
    }

    /// Opens the store of a data dir on some disk, with a catalog that lies elsewhere.
    /// The caller sees to it that nobody else has the two open.
    ///
    /// # Errors
    /// As [`Store::open`].
    pub fn open_on(
        settings: &StoreSettings,
        disk: Arc<dyn Disk>,
        catalog: Arc<Catalog>,
    ) -> Result<Opened, StoreError> {
        Store::start(settings, disk, catalog, None)
    }

    fn start(
        settings: &StoreSettings,
        disk: Arc<dyn Disk>,
        catalog: Arc<Catalog>,
        lock: Option<File>,
    ) -> Result<Opened, StoreError> {
        let data_dir = &settings.data_dir;
        let flushed = catalog.flushed()?;
        let settled = catalog.settled()?;
        remove_garbage(disk.as_ref(), data_dir, &catalog)?;
        let files = present_files(&disk, data_dir, catalog.files()?)?;
        let attempts = Arc::new(present_attempts(&disk, data_dir, &catalog)?);
        let hidden = load_hidden(&catalog)?;
        let series = SeriesMap::open(disk.clone(), data_dir, catalog.clone(), settings.series_bytes)?;
        let checkpointed = series.position();
        // The checkpoints may be older than these, which are not replayed any more.
        for tombstone in hidden.waiting().iter().filter(|tombstone| tombstone.sequence > checkpointed) {
            if let Erased::User { user, .. } = &tombstone.erased {
                series.forget(&tombstone.org, user, tombstone.sequence);
            }
        }
        let series_files = load_newer(&series, files.iter(), &hidden)?;
        let snapshot =
            Snapshot { files: Arc::new(files), attempts, hidden: Arc::new(hidden), ..Snapshot::default() };
        let store = Arc::new(Store {
            data_dir: data_dir.clone(),
            disk: disk.clone(),
            catalog,
            series,
            flushed: AtomicU64::new(flushed.sequence.0),
            rows_unchecked: AtomicU64::new(0),
            snapshot: ArcSwap::from_pointee(snapshot),
            unrecorded: Mutex::default(),
            recording: Mutex::default(),
            graveyard: Mutex::default(),
            _lock: lock,
        });
        let journal_dir = data_dir.join(JOURNAL_DIR);
        let mut replay = Replay {
            store: &store,
            flush_bytes: settings.flush_bytes,
            flushed: flushed.sequence,
            full: false,
            settled,
            failure: None,
        };
        let recovered =
            recover(&disk, &journal_dir, settings.segment_bytes, flushed.sequence, |header, bytes| {
                replay.frame(&header, bytes)
            });
        if let Some(failure) = replay.failure {
            return Err(failure);
        }
        let recovered = recovered?;
        store.record_tombstones()?;
        // An erasure that was stopped behind its last transaction may have left names there.
        if let Err(error) = store.catalog.empty_log() {
            let error = &error as &dyn std::error::Error;
            tracing::warn!(error, "the catalog's log is emptied later");
        }
        let known = &store.snapshot();
        if let Some(path) =
            remove_unfinished(disk.as_ref(), data_dir, known, flushed.sequence, recovered.last)?
        {
            return Err(StoreError::Unlisted { path });
        }
        tracing::info!(
            frames = recovered.frames,
            torn_bytes = recovered.torn_bytes,
            sequence = recovered.last.0,
            files = store.snapshot().files.len(),
            checkpointed = checkpointed.0,
            series_files,
            "store opened"
        );
        let last = recovered.last.max(flushed.sequence);
        let ahead = store.catalog.places()?.into_iter().find(|(_, position)| *position > last);
        if let Some((name, actual)) = ahead {
            return Err(StoreError::CatalogAhead { name, actual, last });
        }
        Ok(Opened {
            log: Arc::new(Log::new(disk, journal_dir, recovered.writer.index().clone(), last)),
            writer: recovered.writer,
            last,
            ordering: recovered.ordering.max(flushed.ordering),
            flushed: store.catalog.flushed()?.sequence,
            store,
        })
    }

    /// The catalog.
    #[must_use]
    pub fn catalog(&self) -> &Arc<Catalog> {
        &self.catalog
    }

    /// The newest value and span of every series.
    #[must_use]
    pub fn series(&self) -> &SeriesMap {
        &self.series
    }

    /// What is committed now.
    #[must_use]
    pub fn snapshot(&self) -> Arc<Snapshot> {
        self.snapshot.load_full()
    }

    /// Makes durable frames visible. The committer's.
    pub fn publish(&self, frames: &[SamplesFrame]) {
        for frame in frames {
            self.advance_series(frame);
        }
        self.snapshot.load().active.publish(frames);
    }

    /// Moves the position over a durable frame without samples. The committer's.
    pub fn advance(&self, stamp: &Stamp) {
        self.snapshot.load().active.advance(stamp);
    }

    /// Ends the active buffer and starts a new one; `None` if it is empty. The
    /// committer's, so that no publish comes between.
    pub fn freeze(&self) -> Option<Arc<Buffer>> {
        let frozen = self.snapshot.load().active.clone();
        if frozen.last() == Sequence::ZERO {
            return None;
        }
        let fresh = Arc::new(Buffer::default());
        self.snapshot.rcu(|snapshot| {
            let mut next = Snapshot::clone(snapshot);
            next.frozen.push(next.active);
            next.active = fresh.clone();
            next
        });
        Some(frozen)
    }

    /// Brings the oldest frozen buffer into files. The flush thread's; buffers
    /// must come in the order they were frozen. `settled` is the position up to
    /// which nobody will ask what a sample changed: only rows that were superseded
    /// at or below it are dropped.
    ///
    /// # Errors
    /// [`StoreError::Write`], [`StoreError::Catalog`]; then nothing changed and
    /// the buffer is still read.
    pub fn flush(&self, buffer: &Arc<Buffer>, settled: Sequence) -> Result<FlushReport, StoreError> {
        let frames = buffer.frames();
        let flushed = Flushed { sequence: buffer.last(), ordering: buffer.ordering() };
        let written = write_run(self.disk.as_ref(), &self.data_dir, &frames, settled)?;
        let records: Vec<FileRecord> = written.into_iter().map(|file| file.record).collect();
        let attempts =
            write_frames(self.disk.as_ref(), &self.data_dir, &buffer.attempts(), flushed.sequence)?;
        // Behind the position the journal no longer brings them back.
        self.record_tombstones()?;
        if let Err(error) = self.catalog.commit_flush_with(&records, &attempts, flushed) {
            // A commit that failed may have become durable all the same.
            if self.catalog.flushed()? != flushed {
                return Err(error.into());
            }
        }
        let report = FlushReport {
            files: records.len() as u64,
            rows: records.iter().map(|record| record.rows).sum(),
            bytes: records.iter().map(|record| record.bytes).sum(),
            sequence: flushed.sequence,
        };
        let added: Vec<Arc<DataFile>> =
            records.into_iter().map(|record| Arc::new(self.data_file(record))).collect();
        let attempts: Vec<AttemptFile> =
            attempts.into_iter().map(|record| self.attempt_file(record)).collect();
        self.snapshot.rcu(|snapshot| {
            let mut next = Snapshot::clone(snapshot);
            next.frozen.retain(|frozen| !Arc::ptr_eq(frozen, buffer));
            next.files = Arc::new(next.files.with(&added));
            next.attempts = Arc::new(next.attempts.with(&attempts));
            next
        });
        self.flushed.store(flushed.sequence.0, Ordering::Release);
        self.rows_unchecked.fetch_add(report.rows, Ordering::Relaxed);
        Ok(report)
    }

    fn data_file(&self, record: FileRecord) -> DataFile {
        DataFile::new(self.disk.clone(), &self.data_dir, record)
    }

    fn advance_series(&self, frame: &SamplesFrame) {
        let sequence = frame.header().stamp.sequence;
        for group in frame.groups().filter(|group| group.count > 0) {
            let value = frame.value(group.first + group.count - 1);
            let newest = Newest { recorded_at: group.latest, value, sequence };
            let name = SeriesName::of(frame.org(), &group);
            self.series.advance(&name, group.earliest, group.latest, newest);
        }
    }
}
