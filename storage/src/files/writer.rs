//! Writing one data file so that it is durable and whole or not there.

use std::collections::BTreeSet;
use std::io::{self, IoSlice, Write};
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use parquet::errors::ParquetError;
use parquet::file::writer::SerializedFileWriter;

use super::block::Block;
use super::blocks::{BLOCK_BYTES, BlockChecksums};
use super::encode::Encoder;
use super::layout::temporary;
use super::rows::{Names, Rows};
use super::run::Run;
use super::schema::{
    FileKind, PAGE_ROWS, ROW_GROUP_ROWS, SECTION_GROUP_ROWS, TEXT_BYTES, parquet_schema, writer_properties,
};
use super::sections::Sections;
use crate::catalog::{FileRecord, SectionRecord, now_ms};
use crate::disk::{Disk, DiskFile, is_full};
use crate::frame::Sequence;

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
    /// For the catalog. What the path says (organisation, metric, period, bucket) is
    /// for the caller to put in.
    pub record: FileRecord,
}

/// A data file being written; rows must come in file order: by (organisation,
/// metric, user, time, source, device, sequence).
///
/// It holds the rows of one row group (about 6 MiB) and encodes them at once.
pub struct SamplesFileWriter {
    root: PathBuf,
    record: FileRecord,
    output: SerializedFileWriter<BlockWriter>,
    encoder: Encoder,
    rows: Rows,
    sections: Sections,
}

impl SamplesFileWriter {
    /// Starts a file at a path below `root`, with `/`. What its name says (period
    /// and bucket) is for the caller to put into the record.
    ///
    /// # Errors
    /// [`FileWriteError`].
    pub fn create_at(
        disk: &dyn Disk,
        root: &Path,
        path: &str,
        kind: FileKind,
        level: u32,
    ) -> Result<SamplesFileWriter, FileWriteError> {
        let at = root.join(temporary(path));
        let blocks = BlockWriter::create(disk, root, path)?;
        let properties = Arc::new(writer_properties(kind, level));
        let parquet = |source| FileWriteError::Parquet { path: at.clone(), source };
        let output = SerializedFileWriter::new(blocks, parquet_schema(), properties).map_err(parquet)?;
        let encoder = Encoder::new(&output, kind, level).map_err(parquet)?;
        Ok(SamplesFileWriter {
            root: root.to_owned(),
            record: no_rows(path, level),
            output,
            encoder,
            rows: Rows::default(),
            sections: Sections::default(),
        })
    }

    /// Adds a run of rows, strictly rising in time.
    ///
    /// # Errors
    /// [`FileWriteError`].
    pub fn push(&mut self, run: &Run<'_>) -> Result<(), FileWriteError> {
        let first = run.rows.start;
        self.append(&run.names(), run.rows.len(), |rows, part| {
            run.copy_numbers(first + part.start..first + part.end, rows);
        })
    }

    /// Adds rows of a batch that was read from another file.
    ///
    /// # Errors
    /// [`FileWriteError`].
    pub fn push_rows(&mut self, block: &Block, rows: Range<usize>) -> Result<(), FileWriteError> {
        let mut first = rows.start;
        while first < rows.end {
            let end = block.text_run_end(first).min(rows.end);
            self.append(&block.names(first), end - first, |rows, part| {
                block.copy_numbers(first + part.start..first + part.end, rows);
            })?;
            first = end;
        }
        Ok(())
    }

    /// Rows of the same names, whose numbers `copy` appends.
    fn append(
        &mut self,
        names: &Names<'_>,
        count: usize,
        copy: impl Fn(&mut Rows, Range<usize>),
    ) -> Result<(), FileWriteError> {
        if self.rows.len() >= SECTION_GROUP_ROWS && self.sections.changes(names) {
            self.end_row_group()?;
        }
        let mut first = 0;
        while first < count {
            let end = count.min(first + ROW_GROUP_ROWS - self.rows.len());
            self.rows.push_names(names, end - first);
            copy(&mut self.rows, first..end);
            self.sections.add(names, &self.rows, end - first);
            first = end;
            let much_text = self.rows.len() >= PAGE_ROWS && self.rows.text_bytes() >= TEXT_BYTES;
            if self.rows.len() == ROW_GROUP_ROWS || much_text {
                self.end_row_group()?;
            }
        }
        Ok(())
    }

    /// Rows that are not encoded yet.
    pub(crate) fn waiting_rows(&self) -> usize {
        self.rows.len()
    }

    /// Bytes of what is encoded.
    pub(crate) fn written_bytes(&self) -> u64 {
        self.output.bytes_written() as u64
    }

    /// Encodes what waits, although a row group would hold more.
    pub(crate) fn end_row_group(&mut self) -> Result<(), FileWriteError> {
        let path = || self.root.join(temporary(&self.record.path));
        self.encoder
            .write(&self.rows, &mut self.output)
            .map_err(|source| FileWriteError::Parquet { path: path(), source })?;
        self.rows.clear();
        Ok(())
    }

    /// Ends the file and makes its content durable under its final name. The
    /// name itself is durable after [`sync_folders`].
    ///
    /// # Errors
    /// [`FileWriteError`].
    pub fn finish(mut self, disk: &dyn Disk) -> Result<WrittenFile, FileWriteError> {
        if self.rows.len() > 0 {
            self.end_row_group()?;
        }
        let temporary_path = self.root.join(temporary(&self.record.path));
        self.output.finish().map_err(|source| FileWriteError::Parquet { path: temporary_path, source })?;
        let mut record = self.record;
        let whole = self.output.inner_mut().finish(disk, &self.root, &record.path)?;
        (record.bytes, record.block_crc32c) = whole;
        let sections = self.sections.finish();
        sum_up(&mut record, &sections);
        record.sections = sections;
        Ok(WrittenFile { record })
    }
}

pub(crate) fn no_rows(path: &str, level: u32) -> FileRecord {
    FileRecord {
        path: path.to_owned(),
        org: String::new(),
        metric: String::new(),
        period: String::new(),
        bucket: 0,
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
        sections: Vec::new(),
        created_at: now_ms(),
    }
}

/// The whole file's statistics.
fn sum_up(record: &mut FileRecord, sections: &[SectionRecord]) {
    let users = || sections.iter().flat_map(|section| [&section.user_min, &section.user_max]);
    record.user_min = users().min().cloned().unwrap_or_default();
    record.user_max = users().max().cloned().unwrap_or_default();
    for section in sections {
        record.rows += section.rows;
        record.sequence_first = record.sequence_first.min(section.sequence_first);
        record.sequence_last = record.sequence_last.max(section.sequence_last);
        record.time_min = record.time_min.min(section.time_min);
        record.time_max = record.time_max.max(section.time_max);
    }
}

/// Makes the names of files and of the folders above them durable.
///
/// # Errors
/// [`FileWriteError::Io`].
pub fn sync_folders(disk: &dyn Disk, root: &Path, files: &[WrittenFile]) -> Result<(), FileWriteError> {
    sync_folders_of(disk, root, files.iter().map(|file| file.record.path.as_str()))
}

/// As [`sync_folders`], of files by their paths below `root`.
pub(crate) fn sync_folders_of<'a>(
    disk: &dyn Disk,
    root: &Path,
    paths: impl Iterator<Item = &'a str>,
) -> Result<(), FileWriteError> {
    let mut folders = BTreeSet::new();
    for path in paths {
        let mut folder = Path::new(path).parent();
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
pub(crate) struct BlockWriter {
    file: Box<dyn DiskFile>,
    at: u64,
    pending: Vec<u8>,
    sums: BlockChecksums,
}

impl BlockWriter {
    /// Starts the file of a path below `root`, under its temporary name.
    pub(crate) fn create(disk: &dyn Disk, root: &Path, path: &str) -> Result<BlockWriter, FileWriteError> {
        let at = root.join(temporary(path));
        let io = |path: &Path| {
            let path = path.to_owned();
            move |source| FileWriteError::Io { path, source }
        };
        if let Some(folder) = at.parent() {
            disk.create_dir_all(folder).map_err(io(folder))?;
        }
        // What an attempt that failed may have left.
        match disk.remove(&at) {
            Err(source) if source.kind() != io::ErrorKind::NotFound => return Err(io(&at)(source)),
            _ => {}
        }
        let file = disk.create(&at, 0).map_err(io(&at))?;
        Ok(BlockWriter { file, at: 0, pending: Vec::new(), sums: BlockChecksums::default() })
    }

    /// Makes what was written durable under its final name; the name itself is after
    /// [`sync_folders`]. Returns length and checksums.
    pub(crate) fn finish(
        &mut self,
        disk: &dyn Disk,
        root: &Path,
        path: &str,
    ) -> Result<(u64, Vec<u32>), FileWriteError> {
        let at = root.join(temporary(path));
        let io = |source| FileWriteError::Io { path: at.clone(), source };
        self.flush().map_err(io)?;
        self.file.sync_data().map_err(io)?;
        disk.rename(&at, &root.join(path)).map_err(io)?;
        Ok((self.at, std::mem::take(&mut self.sums).finish()))
    }
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
        if self.pending.is_empty() {
            return Ok(());
        }
        self.file.write_all_at(&mut [IoSlice::new(&self.pending)], self.at)?;
        self.sums.add(&self.pending);
        self.at += self.pending.len() as u64;
        self.pending.clear();
        Ok(())
    }
}
