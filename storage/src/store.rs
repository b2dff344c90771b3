//! The store: buffer, files, series map and catalog as one thing with one
//! atomic snapshot.
//!
//! Promises: a snapshot sees each committed sample exactly once, in a buffer or
//! in a file; what was published before the snapshot was taken is in it. A start
//! brings back every durable sample and removes what no transaction lists.
//!
//! Who does what: the committer publishes and freezes, the flush thread flushes,
//! queries take snapshots. There is one of each of the first two.

use std::fs::{File, TryLockError};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use arc_swap::ArcSwap;
use arrow::array::{
    Array, AsArray, Float64Array, RecordBatch, StringArray, TimestampMillisecondArray, UInt64Array,
};
use arrow::datatypes::{Float64Type, Int32Type, TimestampMillisecondType, UInt64Type};
use parquet::arrow::ProjectionMask;
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;

use crate::buffer::Buffer;
use crate::catalog::{Catalog, CatalogError, FileRecord, Flushed};
use crate::disk::{Disk, RealDisk};
use crate::files::{
    CheckedFile, DataFile, FileReadError, FileSet, FileWriteError, SAMPLES_DIR, flush_sequence, is_temporary,
};
use crate::flush::write_frames;
use crate::frame::{FrameFault, Header, Kind, SamplesFrame, Sequence};
use crate::journal::{JournalWriter, RecoverError, recover};
use crate::series::{Newest, SeriesMap, SeriesName};

/// The journal's folder below the data dir.
pub const JOURNAL_DIR: &str = "journal";
const LOCK_FILE: &str = "lock";

/// Sizes a store is opened with.
#[derive(Clone, Debug)]
pub struct StoreSettings {
    /// Where everything lies.
    pub data_dir: PathBuf,
    /// Length of a journal segment.
    pub segment_bytes: u64,
    /// Memory of a buffer from which it is flushed, also while replaying.
    pub flush_bytes: usize,
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
    /// A data file cannot be read.
    #[error("a data file cannot be read")]
    Read(#[from] FileReadError),
    /// A data file cannot be written.
    #[error("a data file cannot be written")]
    Write(#[from] FileWriteError),
}

impl StoreError {
    /// Whether the disk was full, which heals.
    #[must_use]
    pub fn is_full(&self) -> bool {
        match self {
            StoreError::Write(error) => error.is_full(),
            StoreError::Catalog(CatalogError::Sql(error)) => {
                error.sqlite_error_code() == Some(rusqlite::ErrorCode::DiskFull)
            }
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
    /// Held while the store lives; another process finds it locked.
    _lock: File,
}

impl Store {
    /// Opens the store of a data dir, new or old.
    ///
    /// # Errors
    /// [`StoreError`]; a damaged journal or file is named.
    pub fn open(settings: &StoreSettings) -> Result<Opened, StoreError> {
        let data_dir = &settings.data_dir;
        let lock = lock(data_dir)?;
        let catalog = Arc::new(Catalog::open(data_dir)?);
        let disk: Arc<dyn Disk> = Arc::new(RealDisk);
        let flushed = catalog.flushed()?;
        let files = present_files(data_dir, catalog.files()?)?;
        let series = SeriesMap::default();
        for file in files.iter() {
            load_series(&series, file)?;
        }
        let snapshot = Snapshot { files: Arc::new(files), ..Snapshot::default() };
        let store = Arc::new(Store {
            data_dir: data_dir.clone(),
            disk: disk.clone(),
            catalog,
            series,
            snapshot: ArcSwap::from_pointee(snapshot),
            _lock: lock,
        });
        let journal_dir = data_dir.join(JOURNAL_DIR);
        let mut replay =
            Replay { store: &store, flush_bytes: settings.flush_bytes, full: false, failure: None };
        let recovered =
            recover(&disk, &journal_dir, settings.segment_bytes, flushed.sequence, |header, bytes| {
                replay.frame(&header, bytes)
            });
        if let Some(failure) = replay.failure {
            return Err(failure);
        }
        let recovered = recovered?;
        remove_strays(disk.as_ref(), data_dir, &store.snapshot().files, flushed.sequence, recovered.last)?;
        tracing::info!(
            frames = recovered.frames,
            torn_bytes = recovered.torn_bytes,
            sequence = recovered.last.0,
            files = store.snapshot().files.iter().count(),
            "store opened"
        );
        Ok(Opened {
            writer: recovered.writer,
            last: recovered.last.max(flushed.sequence),
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
    /// must come in the order they were frozen.
    ///
    /// # Errors
    /// [`StoreError::Write`], [`StoreError::Catalog`]; then nothing changed and
    /// the buffer is still read.
    pub fn flush(&self, buffer: &Arc<Buffer>) -> Result<FlushReport, StoreError> {
        let frames = buffer.frames();
        let ordering = frames.iter().map(|frame| frame.header().stamp.ordering).max().unwrap_or_default();
        let flushed = Flushed { sequence: buffer.last(), ordering };
        // Nothing classifies yet, so everything committed is settled.
        let written = write_frames(self.disk.as_ref(), &self.data_dir, &frames, flushed.sequence)?;
        let records: Vec<FileRecord> = written.into_iter().map(|file| file.record).collect();
        self.catalog.commit_flush(&records, flushed)?;
        let report = FlushReport {
            files: records.len() as u64,
            rows: records.iter().map(|record| record.rows).sum(),
            sequence: flushed.sequence,
        };
        let added: Vec<Arc<DataFile>> =
            records.into_iter().map(|record| Arc::new(DataFile::new(&self.data_dir, record))).collect();
        self.snapshot.rcu(|snapshot| {
            let mut next = Snapshot::clone(snapshot);
            next.frozen.retain(|frozen| !Arc::ptr_eq(frozen, buffer));
            next.files = Arc::new(next.files.with(&added));
            next
        });
        Ok(report)
    }

    fn advance_series(&self, frame: &SamplesFrame) {
        let sequence = frame.header().stamp.sequence;
        for group in frame.groups() {
            let name = SeriesName {
                org: frame.org(),
                user: group.user,
                metric: group.metric,
                source: group.source,
                device: group.device,
            };
            let last = group.first + group.count - 1;
            let newest = Newest { recorded_at: group.latest, value: frame.value(last), sequence };
            self.series.advance(&name, newest);
        }
    }

    fn widen_series(&self, frame: &SamplesFrame) {
        for group in frame.groups() {
            let name = SeriesName {
                org: frame.org(),
                user: group.user,
                metric: group.metric,
                source: group.source,
                device: group.device,
            };
            self.series.widen(&name, group.earliest, group.latest);
        }
    }
}

/// Frames from the journal into the buffer, flushed on the way so that a long
/// journal does not need more memory than a running server.
struct Replay<'a> {
    store: &'a Store,
    flush_bytes: usize,
    /// The disk is full: flushing waits until the flush thread runs.
    full: bool,
    failure: Option<StoreError>,
}

impl Replay<'_> {
    fn frame(&mut self, header: &Header, bytes: bytes::Bytes) -> Result<(), FrameFault> {
        if header.kind != Kind::Samples as u8 {
            return Err(FrameFault::Kind { kind: header.kind });
        }
        let frame = SamplesFrame::parse(bytes)?;
        self.store.widen_series(&frame);
        self.store.publish(&[frame]);
        if self.full || self.store.snapshot().active.byte_len() < self.flush_bytes {
            return Ok(());
        }
        let Some(frozen) = self.store.freeze() else { return Ok(()) };
        match self.store.flush(&frozen) {
            Ok(_) => Ok(()),
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

fn lock(data_dir: &Path) -> Result<File, StoreError> {
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

fn present_files(data_dir: &Path, records: Vec<FileRecord>) -> Result<FileSet, StoreError> {
    let mut files = Vec::with_capacity(records.len());
    for record in records {
        let file = DataFile::new(data_dir, record);
        let actual = std::fs::metadata(&file.path).ok().map(|metadata| metadata.len());
        if actual != Some(file.record.bytes) {
            return Err(StoreError::FileMissing {
                path: file.record.path,
                expected: file.record.bytes,
                actual,
            });
        }
        files.push(Arc::new(file));
    }
    Ok(FileSet::default().with(&files))
}

/// Removes what a flush that did not get to its end left in `samples/`: files
/// being written, and whole ones whose samples the journal still has. Other
/// people's files stay. A data file that is neither listed nor in the journal
/// means that the catalog is not the one that belongs here: nothing is removed.
fn remove_strays(
    disk: &dyn Disk,
    data_dir: &Path,
    files: &FileSet,
    flushed: Sequence,
    last: Sequence,
) -> Result<(), StoreError> {
    let samples = data_dir.join(SAMPLES_DIR);
    let known: std::collections::HashSet<&Path> = files.iter().map(|file| file.path.as_path()).collect();
    let listed = disk.list(&samples).map_err(|source| StoreError::Io { path: samples, source })?;
    let mut strays = Vec::new();
    for path in listed.iter().filter(|path| !known.contains(path.as_path())) {
        match (is_temporary(path), flush_sequence(path)) {
            (true, _) => strays.push(path),
            (false, Some(sequence)) if flushed < sequence && sequence <= last => strays.push(path),
            (false, Some(_)) => return Err(StoreError::Unlisted { path: path.clone() }),
            (false, None) => {}
        }
    }
    for path in strays {
        tracing::warn!(path = %path.display(), "removing what an unfinished flush left");
        disk.remove(path).map_err(|source| StoreError::Io { path: path.clone(), source })?;
    }
    Ok(())
}

/// Reads a file's series back: the span and newest row of each run of one user,
/// source and device.
fn load_series(series: &SeriesMap, file: &Arc<DataFile>) -> Result<(), StoreError> {
    let parquet = |source| FileReadError::Parquet { path: file.record.path.clone(), source };
    let reader = CheckedFile::open(file)?;
    let builder = ParquetRecordBatchReaderBuilder::try_new(reader).map_err(parquet)?;
    let names = ["user_id", "recorded_at", "value", "source", "device", "sequence"];
    let mask = ProjectionMask::columns(builder.parquet_schema(), names);
    let batches = builder.with_projection(mask).with_batch_size(64 * 1024).build().map_err(parquet)?;
    for batch in batches {
        let batch = batch.map_err(|error| parquet(error.into()))?;
        load_batch(series, &file.record, &batch);
    }
    Ok(())
}

fn load_batch(series: &SeriesMap, record: &FileRecord, batch: &RecordBatch) {
    let texts = |index: usize| {
        let column = batch.column(index).as_dictionary::<Int32Type>();
        (column.keys(), column.values().as_string::<i32>())
    };
    let (users, sources, devices) = (texts(0), texts(3), texts(4));
    let times: &TimestampMillisecondArray = batch.column(1).as_primitive::<TimestampMillisecondType>();
    let values: &Float64Array = batch.column(2).as_primitive::<Float64Type>();
    let sequences: &UInt64Array = batch.column(5).as_primitive::<UInt64Type>();
    let key = |row: usize| {
        let device = devices.0.is_valid(row).then(|| devices.0.value(row));
        (users.0.value(row), sources.0.value(row), device)
    };
    let mut first = 0;
    while first < batch.num_rows() {
        let mut last = first;
        while last + 1 < batch.num_rows() && key(last + 1) == key(first) {
            last += 1;
        }
        let text =
            |(_, values): (_, &StringArray), key: i32| values.value(key.cast_unsigned() as usize).to_owned();
        let (user, source, device) = key(first);
        let (user, source) = (text(users, user), text(sources, source));
        let device = device.map(|device| text(devices, device));
        let name = SeriesName {
            org: &record.org,
            user: &user,
            metric: &record.metric,
            source: &source,
            device: device.as_deref(),
        };
        series.widen(&name, times.value(first), times.value(last));
        let newest = Newest {
            recorded_at: times.value(last),
            value: values.value(last),
            sequence: Sequence(sequences.value(last)),
        };
        series.advance(&name, newest);
        first = last + 1;
    }
}
