//! Writing one data file so that it is durable and whole or not there.

use std::collections::BTreeSet;
use std::io::{self, IoSlice, Write};
use std::path::{Path, PathBuf};

use parquet::arrow::ArrowWriter;
use parquet::errors::ParquetError;

use super::blocks::{BLOCK_BYTES, BlockChecksums};
use super::columns::{ColumnsBuilder, Run};
use super::layout::{Partition, temporary};
use super::schema::{samples_schema, writer_properties};
use crate::catalog::FileRecord;
use crate::disk::{Disk, DiskFile, is_full};
use crate::frame::Sequence;

/// Rows handed to the encoder at once.
const BATCH_ROWS: usize = 8 * 1024;
/// Bytes collected before they are written.
const WRITE_BYTES: usize = 16 * BLOCK_BYTES;

/// Why a data file was not written.
#[derive(Debug, thiserror::Error)]
pub enum FileWriteError {
    /// The disk refused.
    #[error("cannot write {}", path.display())]
    Io {
        /// The file or folder.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// The encoder refused.
    #[error("cannot encode {}", path.display())]
    Parquet {
        /// The file.
        path: PathBuf,
        /// What it said.
        #[source]
        source: ParquetError,
    },
}

impl FileWriteError {
    /// Whether the disk was full, which heals.
    #[must_use]
    pub fn is_full(&self) -> bool {
        match self {
            FileWriteError::Io { source, .. } => is_full(source),
            FileWriteError::Parquet { source: ParquetError::External(source), .. } => {
                source.downcast_ref::<io::Error>().is_some_and(is_full)
            }
            FileWriteError::Parquet { .. } => false,
        }
    }
}

/// A file that is durable under its final name.
#[derive(Debug)]
pub struct WrittenFile {
    /// For the catalog.
    pub record: FileRecord,
}

/// A data file being written; runs must come in file order.
pub struct SamplesFileWriter {
    root: PathBuf,
    record: FileRecord,
    writer: ArrowWriter<BlockWriter>,
    batch: ColumnsBuilder,
}

impl SamplesFileWriter {
    /// Starts a file of a partition. `sequence` names it: the last of its flush.
    ///
    /// # Errors
    /// [`FileWriteError`].
    pub fn create(
        disk: &dyn Disk,
        root: &Path,
        partition: &Partition,
        level: u32,
        sequence: Sequence,
    ) -> Result<SamplesFileWriter, FileWriteError> {
        let path = partition.file(level, sequence);
        let folder = root.join(partition.folder());
        disk.create_dir_all(&folder).map_err(|source| FileWriteError::Io { path: folder, source })?;
        let at = root.join(temporary(&path));
        // What an attempt that failed may have left.
        match disk.remove(&at) {
            Err(source) if source.kind() != io::ErrorKind::NotFound => {
                return Err(FileWriteError::Io { path: at, source });
            }
            _ => {}
        }
        let file = disk.create(&at, 0).map_err(|source| FileWriteError::Io { path: at.clone(), source })?;
        let output = BlockWriter { file, at: 0, pending: Vec::new(), sums: BlockChecksums::default() };
        let writer = ArrowWriter::try_new(output, samples_schema(), Some(writer_properties(level)))
            .map_err(|source| FileWriteError::Parquet { path: at, source })?;
        Ok(SamplesFileWriter {
            root: root.to_owned(),
            record: FileRecord {
                path,
                org: partition.org.clone(),
                metric: partition.metric.clone(),
                period: partition.period.to_string(),
                bucket: partition.bucket,
                bucket_bits: 0,
                level,
                sequence_first: Sequence(u64::MAX),
                sequence_last: Sequence::ZERO,
                rows: 0,
                bytes: 0,
                user_min: String::new(),
                user_max: String::new(),
                time_min: i64::MAX,
                time_max: i64::MIN,
                block_crc32c: Vec::new(),
            },
            writer,
            batch: ColumnsBuilder::new(&partition.org, &partition.metric),
        })
    }

    /// Adds a run of rows, strictly rising in time.
    ///
    /// # Errors
    /// [`FileWriteError`].
    pub fn push(&mut self, run: &Run<'_>) -> Result<(), FileWriteError> {
        self.note(run);
        let mut rest = run.rows.clone();
        while !rest.is_empty() {
            let room = BATCH_ROWS - self.batch.len();
            let end = rest.end.min(rest.start + room);
            self.batch.push(&Run { rows: rest.start..end, ..run.clone() });
            rest.start = end;
            if self.batch.len() == BATCH_ROWS {
                self.write_batch()?;
            }
        }
        Ok(())
    }

    /// Keeps the record's statistics.
    fn note(&mut self, run: &Run<'_>) {
        let record = &mut self.record;
        let sequence = run.frame.header().stamp.sequence;
        if record.rows == 0 {
            run.user.clone_into(&mut record.user_min);
        }
        if record.user_max != run.user {
            run.user.clone_into(&mut record.user_max);
        }
        record.rows += run.rows.len() as u64;
        record.sequence_first = record.sequence_first.min(sequence);
        record.sequence_last = record.sequence_last.max(sequence);
        record.time_min = record.time_min.min(run.frame.recorded_at(run.rows.start));
        record.time_max = record.time_max.max(run.frame.recorded_at(run.rows.end - 1));
    }

    /// Ends the file and makes its content durable under its final name. The
    /// name itself is durable after [`sync_folders`].
    ///
    /// # Errors
    /// [`FileWriteError`].
    pub fn finish(mut self, disk: &dyn Disk) -> Result<WrittenFile, FileWriteError> {
        if self.batch.len() > 0 {
            self.write_batch()?;
        }
        let temporary_path = self.root.join(temporary(&self.record.path));
        let parquet = |source| FileWriteError::Parquet { path: temporary_path.clone(), source };
        let io = |source| FileWriteError::Io { path: temporary_path.clone(), source };
        let mut output = self.writer.into_inner().map_err(parquet)?;
        output.flush().map_err(io)?;
        output.file.sync_data().map_err(io)?;
        let mut record = self.record;
        record.bytes = output.at;
        record.block_crc32c = output.sums.finish();
        disk.rename(&temporary_path, &self.root.join(&record.path)).map_err(io)?;
        Ok(WrittenFile { record })
    }

    fn write_batch(&mut self) -> Result<(), FileWriteError> {
        let batch = self.batch.finish();
        self.writer
            .write(&batch)
            .map_err(|source| FileWriteError::Parquet { path: self.root.join(&self.record.path), source })
    }
}

/// Makes the names of files and of the folders above them durable.
///
/// # Errors
/// [`FileWriteError::Io`].
pub fn sync_folders(disk: &dyn Disk, root: &Path, files: &[WrittenFile]) -> Result<(), FileWriteError> {
    let mut folders = BTreeSet::new();
    for file in files {
        let mut folder = Path::new(&file.record.path).parent();
        while let Some(path) = folder {
            folders.insert(root.join(path));
            folder = path.parent();
        }
    }
    // Children sort behind their parents, so this goes from the leaves up.
    for folder in folders.iter().rev() {
        disk.sync_dir(folder).map_err(|source| FileWriteError::Io { path: folder.clone(), source })?;
    }
    Ok(())
}

/// Collects bytes into large writes and checksums their blocks.
struct BlockWriter {
    file: Box<dyn DiskFile>,
    at: u64,
    pending: Vec<u8>,
    sums: BlockChecksums,
}

impl Write for BlockWriter {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.pending.extend_from_slice(bytes);
        if self.pending.len() >= WRITE_BYTES {
            self.flush()?;
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.write_all_at(&mut [IoSlice::new(&self.pending)], self.at)?;
        self.sums.add(&self.pending);
        self.at += self.pending.len() as u64;
        self.pending.clear();
        Ok(())
    }
}
