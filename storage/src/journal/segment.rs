//! A segment: one preallocated file of the journal.
//!
//! ```text
//!  0  [u8; 8] "SYSTJRNL"   8  u32 version   12  u32 crc32c of bytes 16..64
//! 16  u64 id              24  u64 bytes     32  [u8; 32] zero
//! 64  frames
//! ```

use std::io::{self, IoSlice};
use std::path::{Path, PathBuf};

use crate::disk::{Disk, DiskFile};
use crate::frame::Sequence;

/// Bytes before the first frame.
pub const SEGMENT_HEADER_BYTES: u64 = 64;
/// Written into new segments; older versions stay readable.
pub(super) const SEGMENT_VERSION: u32 = 1;

const MAGIC: &[u8; 8] = b"SYSTJRNL";
const SUFFIX: &str = "segment";

/// The number of a segment; rises, is part of the file's name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SegmentId(pub u64);

impl SegmentId {
    pub(super) fn next(self) -> SegmentId {
        SegmentId(self.0 + 1)
    }

    pub(crate) fn path(self, dir: &Path) -> PathBuf {
        dir.join(format!("{:010}.{SUFFIX}", self.0))
    }

    /// The name its next file has while it is written.
    pub(super) fn temporary(self, dir: &Path) -> PathBuf {
        dir.join(format!("{:010}.{SUFFIX}.tmp", self.0))
    }

    /// The id in a file's name, or `None` for other files.
    pub(crate) fn of_path(path: &Path) -> Option<SegmentId> {
        if path.extension()? != SUFFIX {
            return None;
        }
        path.file_stem()?.to_str()?.parse().ok().map(SegmentId)
    }
}

/// A segment that takes no more frames.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SealedSegment {
    /// Which one.
    pub id: SegmentId,
    /// The last sequence in it, or one between that and the next segment's first;
    /// [`Sequence::ZERO`] if it holds no frame.
    pub last: Sequence,
    /// Length of its file.
    pub bytes: u64,
    /// When its last frame was committed, or a little later; microseconds since 1970.
    pub committed_at: i64,
}

/// An open segment with room for frames.
#[derive(Debug)]
pub(super) struct Segment {
    pub(super) id: SegmentId,
    pub(super) file: Box<dyn DiskFile>,
    /// Length of the file.
    pub(super) bytes: u64,
}

impl Segment {
    /// Makes a segment and its name durable.
    pub(super) fn prepare(disk: &dyn Disk, dir: &Path, id: SegmentId, bytes: u64) -> io::Result<Segment> {
        let path = id.path(dir);
        let file = match disk.create(&path, bytes) {
            // What an attempt that failed may have left; no frame is in it.
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                disk.remove(&path)?;
                disk.create(&path, bytes)?
            }
            created => created?,
        };
        let finish = || {
            file.write_all_at(&mut [IoSlice::new(&header(id, bytes))], 0)?;
            file.sync_data()?;
            disk.sync_dir(dir)
        };
        if let Err(error) = finish() {
            // Best effort: recovery removes a segment without a header, too.
            let _ = disk.remove(&path);
            return Err(error);
        }
        Ok(Segment { id, file, bytes })
    }

    /// Makes a file with these frames durable under `path`, which is no segment's name
    /// yet.
    pub(super) fn write_beside(
        disk: &dyn Disk,
        path: &Path,
        id: SegmentId,
        bytes: u64,
        frames: &[u8],
    ) -> io::Result<()> {
        match disk.remove(path) {
            // What an attempt that failed may have left.
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let file = disk.create(path, bytes)?;
        file.write_all_at(&mut [IoSlice::new(&header(id, bytes)), IoSlice::new(frames)], 0)?;
        file.sync_data()
    }

    /// Room behind the header.
    pub(super) fn capacity(bytes: u64) -> u64 {
        bytes - SEGMENT_HEADER_BYTES
    }

    /// Overwrites a range with zeros and makes that durable.
    pub(super) fn erase(&self, from: u64, to: u64) -> io::Result<()> {
        const PART: u64 = 1024 * 1024;
        let zeros = vec![0; usize::try_from(PART.min(to - from)).unwrap_or(0)];
        let mut at = from;
        while at < to {
            let part = usize::try_from(PART.min(to - at)).unwrap_or(zeros.len());
            self.file.write_all_at(&mut [IoSlice::new(&zeros[..part])], at)?;
            at += part as u64;
        }
        self.file.sync_data()
    }
}

fn header(id: SegmentId, bytes: u64) -> [u8; SEGMENT_HEADER_BYTES as usize] {
    let mut header = [0; SEGMENT_HEADER_BYTES as usize];
    header[0..8].copy_from_slice(MAGIC);
    header[8..12].copy_from_slice(&SEGMENT_VERSION.to_le_bytes());
    header[16..24].copy_from_slice(&id.0.to_le_bytes());
    header[24..32].copy_from_slice(&bytes.to_le_bytes());
    let crc = crc32c::crc32c(&header[16..]);
    header[12..16].copy_from_slice(&crc.to_le_bytes());
    header
}

/// What the first bytes of a segment say.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum HeaderState {
    Valid,
    /// Magic and checksum fit, but the format is of a later program.
    Version(u32),
    Broken,
}

pub(crate) fn read_header(bytes: &[u8], id: SegmentId) -> HeaderState {
    let Some(header) = bytes.get(..SEGMENT_HEADER_BYTES as usize) else {
        return HeaderState::Broken;
    };
    let number = |at: usize| u32::from_le_bytes(header[at..at + 4].try_into().expect("four bytes"));
    if &header[0..8] != MAGIC || number(12) != crc32c::crc32c(&header[16..]) {
        return HeaderState::Broken;
    }
    match number(8) {
        SEGMENT_VERSION if header[16..24] == id.0.to_le_bytes() => HeaderState::Valid,
        SEGMENT_VERSION => HeaderState::Broken,
        other => HeaderState::Version(other),
    }
}
