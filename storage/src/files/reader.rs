//! Reading a data file with its blocks checked.

use std::io::{self, Read};
use std::ops::Range;
use std::sync::Arc;

use bytes::Bytes;
use parquet::errors::{ParquetError, Result as ParquetResult};
use parquet::file::reader::{ChunkReader, Length};

use super::blocks::{BLOCK_BYTES, BlockFault, check_blocks};
use super::set::DataFile;
use crate::disk::DiskFile;

/// Why bytes of a data file cannot be trusted or had.
#[derive(Debug, thiserror::Error)]
pub enum FileReadError {
    /// The system refused.
    #[error("cannot read {path}")]
    Io {
        /// Below the data dir.
        path: String,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// The bytes are not those that were written.
    #[error("{path} is damaged")]
    Damaged {
        /// Below the data dir.
        path: String,
        /// Which block.
        #[source]
        source: BlockFault,
    },
    /// Its rows are not as data files have them.
    #[error("{path} is not a data file of this program")]
    Foreign {
        /// Below the data dir.
        path: String,
        /// Which column.
        #[source]
        source: super::block::BlockError,
    },
    /// The parquet reader refused.
    #[error("{path} is not readable as parquet")]
    Parquet {
        /// Below the data dir.
        path: String,
        /// What it said.
        #[source]
        source: ParquetError,
    },
}

impl FileReadError {
    /// The file, below the data dir.
    #[must_use]
    pub fn path(&self) -> &str {
        match self {
            FileReadError::Io { path, .. }
            | FileReadError::Damaged { path, .. }
            | FileReadError::Foreign { path, .. }
            | FileReadError::Parquet { path, .. } => path,
        }
    }

    /// Whether `file`, of which this was met, is damaged, unlike one that cannot be read
    /// just now. May read it to its end.
    pub(crate) fn is_damage(&self, file: &Arc<DataFile>) -> bool {
        match self {
            FileReadError::Io { source, .. } => {
                matches!(source.kind(), io::ErrorKind::UnexpectedEof | io::ErrorKind::NotFound)
            }
            FileReadError::Damaged { .. } | FileReadError::Foreign { .. } => true,
            // The reader of parquet keeps only the text of what it met below. What was
            // written and read as it should be and is none is damaged as well.
            FileReadError::Parquet { .. } => {
                check_whole(file).map_or_else(|error| error.is_damage(file), |()| true)
            }
        }
    }
}

/// Reads a file to its end.
fn check_whole(file: &Arc<DataFile>) -> Result<(), FileReadError> {
    let file = CheckedFile::open(file)?;
    let step = 16 * BLOCK_BYTES;
    (0..file.byte_len())
        .step_by(step)
        .try_for_each(|at| file.read(at..file.byte_len().min(at + step as u64)).map(drop))
}

/// An open data file; every byte it gives out was checked against the catalog.
#[derive(Clone, Debug)]
pub struct CheckedFile {
    file: Arc<dyn DiskFile>,
    data: Arc<DataFile>,
}

impl CheckedFile {
    /// Opens a file of the catalog.
    ///
    /// # Errors
    /// [`FileReadError::Io`].
    pub fn open(data: &Arc<DataFile>) -> Result<CheckedFile, FileReadError> {
        let file =
            data.open().map_err(|source| FileReadError::Io { path: data.record.path.clone(), source })?;
        Ok(CheckedFile { file, data: data.clone() })
    }

    /// Its path below the data dir.
    #[must_use]
    pub fn path(&self) -> &str {
        &self.data.record.path
    }

    /// Its length, as the catalog has it.
    #[must_use]
    pub fn byte_len(&self) -> u64 {
        self.data.record.bytes
    }

    /// The bytes of a range. Whole blocks are read and checked.
    ///
    /// # Errors
    /// [`FileReadError`].
    pub fn read(&self, range: Range<u64>) -> Result<Bytes, FileReadError> {
        let block = BLOCK_BYTES as u64;
        let first = range.start / block;
        let begin = first * block;
        let end = (range.end.div_ceil(block) * block).min(self.byte_len());
        let as_usize = |number: u64| usize::try_from(number).expect("files are smaller than memory");
        let mut bytes = vec![0; as_usize(end.saturating_sub(begin))];
        self.file
            .read_exact_at(&mut bytes, begin)
            .map_err(|source| FileReadError::Io { path: self.data.record.path.clone(), source })?;
        check_blocks(&bytes, as_usize(first), &self.data.record.block_crc32c)
            .map_err(|source| FileReadError::Damaged { path: self.data.record.path.clone(), source })?;
        Ok(Bytes::from(bytes).slice(as_usize(range.start - begin)..as_usize(range.end - begin)))
    }
}

impl Length for CheckedFile {
    fn len(&self) -> u64 {
        self.byte_len()
    }
}

impl ChunkReader for CheckedFile {
    type T = BlockByBlock;

    fn get_read(&self, start: u64) -> ParquetResult<BlockByBlock> {
        Ok(BlockByBlock { file: self.clone(), at: start, block: Bytes::new() })
    }

    fn get_bytes(&self, start: u64, length: usize) -> ParquetResult<Bytes> {
        self.read(start..start + length as u64).map_err(|error| ParquetError::External(Box::new(error)))
    }
}

/// A checked file from some offset on.
#[derive(Debug)]
pub struct BlockByBlock {
    file: CheckedFile,
    at: u64,
    block: Bytes,
}

impl Read for BlockByBlock {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        if self.block.is_empty() {
            let end = ((self.at / BLOCK_BYTES as u64 + 1) * BLOCK_BYTES as u64).min(self.file.byte_len());
            if self.at >= end {
                return Ok(0);
            }
            self.block = self.file.read(self.at..end).map_err(io::Error::other)?;
            self.at = end;
        }
        let part = self.block.split_to(buf.len().min(self.block.len()));
        buf[..part.len()].copy_from_slice(&part);
        Ok(part.len())
    }
}
