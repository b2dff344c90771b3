//! A checkpoint file: users' records in the order of their hash, in blocks.
//!
//! Constraints: written once from front to back with memory of one block and the
//! index; a lookup reads one block of about 32 KiB; index and filter, about
//! 1.3 bytes a user, stay in memory while the file is listed.
//!
//! ```text
//! 0   SYSLATE1
//!     blocks: records one behind the other, each with its length (u32) before it
//!     index:  a block's first hash, offset (u64 each), length, crc32c (u32 each)
//!     filter: words of 64 bits
//! end-48  offset of the index, blocks, bytes of the filter, users, series (u64 each),
//!         crc32c of all from the index to here (u32), SYS1
//! ```
//! Life cycle: written under a temporary name, synced, renamed, its folder
//! synced, listed in the catalog; removed after the transaction that lists its
//! successor. A reader that still has it open goes on reading.

use std::io::IoSlice;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::SeriesError;
use super::filter::Filter;
use super::record::{Record, UserKey, View};
use crate::catalog::CheckpointRecord;
use crate::disk::{Disk, DiskFile};

/// The checkpoints' folder below the data dir.
pub const LATEST_DIR: &str = "latest";
/// How a checkpoint's name ends.
const SUFFIX: &str = ".series";
const TEMPORARY_SUFFIX: &str = ".series.tmp";

const MAGIC: &[u8; 8] = b"SYSLATE1";
const END_MAGIC: &[u8; 4] = b"SYS1";
/// A block ends with the record that reaches this.
const BLOCK_BYTES: usize = 32 * 1024;
/// Bytes collected before they are written.
const WRITE_BYTES: usize = 1024 * 1024;
const ENTRY_BYTES: usize = 24;
const END_BYTES: usize = 48;

/// Where a block lies.
#[derive(Clone, Copy, Debug)]
struct Block {
    first: u64,
    offset: u64,
    bytes: u32,
    crc: u32,
}

/// A checkpoint file that is open for reading.
#[derive(Debug)]
pub(super) struct Layer {
    pub(super) record: CheckpointRecord,
    pub(super) path: PathBuf,
    file: Box<dyn DiskFile>,
    blocks: Vec<Block>,
    filter: Filter,
}

/// Below the data dir.
pub(super) fn checkpoint_path(number: u64) -> String {
    format!("{LATEST_DIR}/{number:020}{SUFFIX}")
}

/// The number in a checkpoint's name.
pub(super) fn checkpoint_number(path: &str) -> Option<u64> {
    path.rsplit('/').next()?.strip_suffix(SUFFIX)?.parse().ok()
}

/// Whether a file is ours: a checkpoint, whole or begun.
pub(crate) fn is_checkpoint(path: &Path) -> bool {
    let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
    let stem = name.strip_suffix(TEMPORARY_SUFFIX).or_else(|| name.strip_suffix(SUFFIX));
    stem.is_some_and(|stem| stem.len() == 20 && stem.bytes().all(|byte| byte.is_ascii_digit()))
}

impl Layer {
    /// Opens a listed file and reads its index and filter.
    pub(super) fn open(
        disk: &dyn Disk,
        data_dir: &Path,
        record: CheckpointRecord,
    ) -> Result<Layer, SeriesError> {
        let path = data_dir.join(&record.path);
        let io = |source| SeriesError::Io { path: path.clone(), source };
        let damaged = |offset| SeriesError::Damaged { path: path.clone(), offset };
        let file = disk.open(&path).map_err(io)?;
        let bytes = file.byte_len().map_err(io)?;
        if bytes != record.bytes || bytes < (MAGIC.len() + END_BYTES) as u64 {
            return Err(damaged(bytes));
        }
        let mut end = [0; END_BYTES];
        file.read_exact_at(&mut end, bytes - END_BYTES as u64).map_err(io)?;
        let index_at = u64_at(&end, 0);
        let index_bytes = usize::try_from(bytes.saturating_sub(index_at)).unwrap_or(0);
        let (blocks, filter_bytes) = (u64_at(&end, 8) as usize, u64_at(&end, 16) as usize);
        let told = blocks.checked_mul(ENTRY_BYTES).and_then(|entries| entries.checked_add(filter_bytes));
        if &end[44..] != END_MAGIC || told.and_then(|told| told.checked_add(END_BYTES)) != Some(index_bytes) {
            return Err(damaged(bytes - END_BYTES as u64));
        }
        let mut index = vec![0; index_bytes];
        file.read_exact_at(&mut index, index_at).map_err(io)?;
        let checked = index_bytes - 8;
        if crc32c::crc32c(&index[..checked]).to_le_bytes() != index[checked..checked + 4] {
            return Err(damaged(index_at));
        }
        let (entries, rest) = index.split_at(blocks * ENTRY_BYTES);
        let blocks = entries.chunks_exact(ENTRY_BYTES).map(Block::read).collect();
        let filter = Filter::read(&rest[..filter_bytes]).ok_or_else(|| damaged(index_at))?;
        Ok(Layer { record, path, file, blocks, filter })
    }

    pub(super) fn may_hold(&self, hash: u64) -> bool {
        self.filter.may_hold(hash)
    }

    /// A user's record. Reads a block.
    pub(super) fn find(&self, key: UserKey<'_>) -> Result<Option<Record>, SeriesError> {
        if !self.may_hold(key.0) {
            return Ok(None);
        }
        let mut block = Vec::new();
        let from = self.blocks.partition_point(|block| block.first < key.0).saturating_sub(1);
        for (index, _) in self.blocks.iter().enumerate().skip(from).take_while(|(_, at)| at.first <= key.0) {
            self.read_block(index, &mut block)?;
            let mut at = 0;
            while let Some(view) = self.record_in(index, &block, &mut at)? {
                if view.key() == key {
                    return Ok(Some(Record::copy(view)));
                }
            }
        }
        Ok(None)
    }

    /// Reads all of it; what is wrong with it, if something is.
    pub(super) fn verify(&self) -> Result<Option<String>, SeriesError> {
        let (mut users, mut series) = (0, 0);
        let (mut block, mut last): (Vec<u8>, Option<Record>) = (Vec::new(), None);
        for (index, entry) in self.blocks.iter().enumerate() {
            self.read_block(index, &mut block)?;
            let mut at = 0;
            while let Some(view) = self.record_in(index, &block, &mut at)? {
                let wrong = |what: &str| Ok(Some(format!("record {users}: {what}")));
                if !view.is_sound() {
                    return wrong("contradicts itself");
                }
                if last.as_ref().is_some_and(|last| last.view().key() >= view.key()) {
                    return wrong("is not in the order of the users' hashes");
                }
                if view.hash() < entry.first {
                    return wrong("lies before the first of its block");
                }
                if !self.may_hold(view.hash()) {
                    return wrong("is not in the filter");
                }
                (users, series) = (users + 1, series + view.series() as u64);
                last = Some(Record::copy(view));
            }
        }
        let told = (self.record.users, self.record.series);
        let other =
            || format!("has {users} users and {series} series, the catalog says {} and {}", told.0, told.1);
        Ok(((users, series) != told).then(other))
    }

    /// Memory of index and filter.
    pub(super) fn byte_len(&self) -> usize {
        size_of::<Layer>() + self.blocks.capacity() * size_of::<Block>() + self.filter.byte_len()
    }

    fn read_block(&self, index: usize, block: &mut Vec<u8>) -> Result<(), SeriesError> {
        let at = &self.blocks[index];
        block.resize(at.bytes as usize, 0);
        let io = |source| SeriesError::Io { path: self.path.clone(), source };
        self.file.read_exact_at(block, at.offset).map_err(io)?;
        if crc32c::crc32c(block) == at.crc { Ok(()) } else { Err(self.damaged(index)) }
    }

    /// The record at a place in a block, moving behind it; `None` at the end.
    fn record_in<'a>(
        &self,
        index: usize,
        block: &'a [u8],
        at: &mut usize,
    ) -> Result<Option<View<'a>>, SeriesError> {
        let Some((length, rest)) = block[*at..].split_first_chunk::<4>() else {
            return Ok(None);
        };
        let length = u32::from_le_bytes(*length) as usize;
        let view = rest.get(..length).and_then(View::parse).ok_or_else(|| self.damaged(index))?;
        *at += 4 + length;
        Ok(Some(view))
    }

    fn damaged(&self, index: usize) -> SeriesError {
        SeriesError::Damaged { path: self.path.clone(), offset: self.blocks[index].offset }
    }
}

/// The records of a layer with hashes in a range, in order, a block at a time.
pub(super) struct Scan {
    layer: Arc<Layer>,
    last: u64,
    /// The next block to read.
    next: usize,
    block: Vec<u8>,
    at: usize,
}

impl Scan {
    pub(super) fn new(layer: &Arc<Layer>, first: u64, last: u64) -> Scan {
        let next = layer.blocks.partition_point(|block| block.first < first).saturating_sub(1);
        Scan { layer: layer.clone(), last, next, block: Vec::new(), at: 0 }
    }

    /// The next record with a hash of at least `first`.
    pub(super) fn next(&mut self, first: u64) -> Result<Option<Record>, SeriesError> {
        loop {
            while let Some(view) =
                self.layer.record_in(self.next.saturating_sub(1), &self.block, &mut self.at)?
            {
                if view.hash() > self.last {
                    return Ok(None);
                }
                if view.hash() >= first {
                    return Ok(Some(Record::copy(view)));
                }
            }
            if self.layer.blocks.get(self.next).is_none_or(|block| block.first > self.last) {
                return Ok(None);
            }
            self.layer.read_block(self.next, &mut self.block)?;
            self.next += 1;
            self.at = 0;
        }
    }
}

/// A checkpoint file being written; records must come in order.
pub(super) struct LayerWriter {
    data_dir: PathBuf,
    number: u64,
    file: Box<dyn DiskFile>,
    /// Bytes written to the file.
    written: u64,
    pending: Vec<u8>,
    block: Vec<u8>,
    block_first: u64,
    blocks: Vec<Block>,
    filter: Filter,
    users: u64,
    series: u64,
}

impl LayerWriter {
    /// Starts a file for about `users` users.
    pub(super) fn create(
        disk: &dyn Disk,
        data_dir: &Path,
        number: u64,
        users: u64,
    ) -> Result<LayerWriter, SeriesError> {
        let folder = data_dir.join(LATEST_DIR);
        disk.create_dir_all(&folder).map_err(|source| SeriesError::Io { path: folder, source })?;
        let path = temporary(data_dir, number);
        let file = disk.create(&path, 0).map_err(|source| SeriesError::Io { path, source })?;
        Ok(LayerWriter {
            data_dir: data_dir.to_owned(),
            number,
            file,
            written: 0,
            pending: MAGIC.to_vec(),
            block: Vec::with_capacity(2 * BLOCK_BYTES),
            block_first: 0,
            blocks: Vec::new(),
            filter: Filter::new(users),
            users: 0,
            series: 0,
        })
    }

    pub(super) fn users(&self) -> u64 {
        self.users
    }

    pub(super) fn add(&mut self, view: View<'_>) -> Result<(), SeriesError> {
        if self.block.is_empty() {
            self.block_first = view.hash();
        }
        self.filter.insert(view.hash());
        self.users += 1;
        self.series += view.series() as u64;
        let length = u32::try_from(view.bytes().len()).expect("a record is far below 4 GiB");
        self.block.extend_from_slice(&length.to_le_bytes());
        self.block.extend_from_slice(view.bytes());
        if self.block.len() >= BLOCK_BYTES { self.end_block() } else { Ok(()) }
    }

    /// Makes the file durable under its name and opens it. `record` tells what
    /// the catalog is to know beside sizes.
    pub(super) fn finish(
        mut self,
        disk: &dyn Disk,
        kind: &'static str,
        sequence: crate::frame::Sequence,
    ) -> Result<Layer, SeriesError> {
        self.end_block()?;
        let index_at = self.written + self.pending.len() as u64;
        let index = self.index(index_at);
        self.pending.extend_from_slice(&index);
        self.write()?;
        let from = temporary(&self.data_dir, self.number);
        self.file.sync_data().map_err(|source| SeriesError::Io { path: from.clone(), source })?;
        let record = CheckpointRecord {
            path: checkpoint_path(self.number),
            kind: kind.to_owned(),
            sequence,
            users: self.users,
            series: self.series,
            bytes: self.written,
        };
        let path = self.data_dir.join(&record.path);
        disk.rename(&from, &path).map_err(|source| SeriesError::Io { path: from, source })?;
        let folder = self.data_dir.join(LATEST_DIR);
        disk.sync_dir(&folder).map_err(|source| SeriesError::Io { path: folder, source })?;
        self.blocks.shrink_to_fit();
        Ok(Layer { record, path, file: self.file, blocks: self.blocks, filter: self.filter })
    }

    fn end_block(&mut self) -> Result<(), SeriesError> {
        if self.block.is_empty() {
            return Ok(());
        }
        self.blocks.push(Block {
            first: self.block_first,
            offset: self.written + self.pending.len() as u64,
            bytes: u32::try_from(self.block.len()).expect("a block is little more than a record"),
            crc: crc32c::crc32c(&self.block),
        });
        self.pending.append(&mut self.block);
        if self.pending.len() >= WRITE_BYTES { self.write() } else { Ok(()) }
    }

    fn write(&mut self) -> Result<(), SeriesError> {
        let written = self.file.write_all_at(&mut [IoSlice::new(&self.pending)], self.written);
        let path = || temporary(&self.data_dir, self.number);
        written.map_err(|source| SeriesError::Io { path: path(), source })?;
        self.written += self.pending.len() as u64;
        self.pending.clear();
        Ok(())
    }

    fn index(&self, index_at: u64) -> Vec<u8> {
        let mut index =
            Vec::with_capacity(self.blocks.len() * ENTRY_BYTES + self.filter.byte_len() + END_BYTES);
        self.blocks.iter().for_each(|block| block.write(&mut index));
        self.filter.write(&mut index);
        let numbers =
            [index_at, self.blocks.len() as u64, self.filter.byte_len() as u64, self.users, self.series];
        index.extend(numbers.iter().flat_map(|number| number.to_le_bytes()));
        let crc = crc32c::crc32c(&index);
        index.extend_from_slice(&crc.to_le_bytes());
        index.extend_from_slice(END_MAGIC);
        index
    }
}

impl Block {
    fn read(bytes: &[u8]) -> Block {
        let (first, offset) = (u64_at(bytes, 0), u64_at(bytes, 8));
        let lengths = u64_at(bytes, 16);
        Block { first, offset, bytes: lengths as u32, crc: (lengths >> 32) as u32 }
    }

    fn write(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.first.to_le_bytes());
        out.extend_from_slice(&self.offset.to_le_bytes());
        out.extend_from_slice(&self.bytes.to_le_bytes());
        out.extend_from_slice(&self.crc.to_le_bytes());
    }
}

/// Where a file that was not finished may lie.
pub(super) fn begun(data_dir: &Path, number: u64) -> [PathBuf; 2] {
    [temporary(data_dir, number), data_dir.join(checkpoint_path(number))]
}

fn temporary(data_dir: &Path, number: u64) -> PathBuf {
    data_dir.join(format!("{LATEST_DIR}/{number:020}{TEMPORARY_SUFFIX}"))
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(*bytes[at..].first_chunk().expect("the length was checked"))
}
