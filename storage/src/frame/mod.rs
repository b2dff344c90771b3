//! The frame: the unit of the journal, of a commit and of the buffer.
//!
//! Constraints: a frame is at most [`FRAME_BYTES_MAX`] long, begins on a
//! multiple of [`FRAME_ALIGN`] bytes and is self-contained: it carries its own
//! string table, so a frame can be read without any other file.
//!
//! ```text
//! offset  0  u32  payload_bytes     without header and padding
//!         4  u32  crc32c            over bytes 8 .. 48 + payload_bytes
//!         8  u64  sequence          position in the commit order
//!        16  u64  synced            last sequence durable before its group was written
//!        24  u64  ordering          microseconds, strictly rising
//!        32  i64  committed_at      microseconds since 1970, the clock at commit
//!        40  u8   kind
//!        41  u8   flags             bit 0: the batch was marked as backfill
//!        42  [u8; 6]                zero
//!        48  payload, then zeros up to a multiple of 8
//! ```
//!
//! All integers are little-endian. Life cycle: a [`Draft`] is encoded on the
//! request's thread, sealed by the committer (which knows sequence, ordering
//! and marks), written by the journal, then shared unchanged with the buffer.

mod attempts;
mod changes;
mod published;
mod samples;
mod tombstone;

use std::fmt;
use std::sync::Arc;

use bytes::Bytes;

pub use attempts::{ATTEMPT_ROWS_MAX, AttemptRow, AttemptsFrame, Trigger, encode_attempts, frame_of_tie};
pub use changes::{Change, Changes, GroupChange, Verdict, encode_changes};
pub use published::{EventFrame, Published, encode_published};
pub use samples::{
    Columns, DAILY_FALSE, DAILY_TRUE, DAILY_UNKNOWN, ENDED_NONE, Group, GroupSpec, Mark, SamplesFrame,
    ZONE_UNKNOWN, encode_samples,
};
pub use tombstone::{Erased, Tombstone, encode_erased, encode_tombstone};

/// Bytes before the payload.
pub const FRAME_HEADER_BYTES: usize = 48;
/// Frames begin on multiples of this, so that recovery can look for them.
pub const FRAME_ALIGN: usize = 8;
/// Longest frame. A request body is at most 16 MiB of JSON, and the shortest
/// point in JSON is longer than its columns in a frame; 64 MiB leaves room for
/// Arrow bodies.
pub const FRAME_BYTES_MAX: usize = 64 * 1024 * 1024;

const FLAG_BACKFILL: u8 = 1;

/// A position in the commit order: 16 bits of epoch (0 until several nodes take
/// over from each other), 48 bits of counter. Sequences rise, with gaps where a
/// write failed; they are never reused.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Sequence(pub u64);

impl Sequence {
    /// Before every frame.
    pub const ZERO: Sequence = Sequence(0);

    /// The position after this one.
    #[must_use]
    pub fn next(self) -> Sequence {
        Sequence(self.0 + 1)
    }
}

impl fmt::Debug for Sequence {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "#{}", self.0)
    }
}

impl fmt::Display for Sequence {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)
    }
}

/// What a frame holds. The numbers are on disk: never reuse one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Kind {
    /// Accepted samples of one request.
    Samples = 1,
    /// The classifier's verdict on `look` groups of an earlier frame.
    Changes = 2,
    /// An event handed in by a publisher.
    Event = 3,
    /// Delivery attempts.
    Attempts = 4,
    /// Management actions, for the audit trail.
    Audit = 5,
    /// What must not be seen any more: a user, or a part of a series.
    Tombstone = 6,
    /// Stands where an erased frame was.
    Erased = 7,
    /// An idempotency key and the answer it stands for.
    Key = 8,
}

impl Kind {
    /// The kind with this number, if there is one.
    #[must_use]
    pub fn from_number(number: u8) -> Option<Kind> {
        Some(match number {
            1 => Kind::Samples,
            2 => Kind::Changes,
            3 => Kind::Event,
            4 => Kind::Attempts,
            5 => Kind::Audit,
            6 => Kind::Tombstone,
            7 => Kind::Erased,
            8 => Kind::Key,
            _ => return None,
        })
    }
}

/// What the committer decides about a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stamp {
    /// Place in the commit order.
    pub sequence: Sequence,
    /// Last sequence that was durable before this frame's group was written.
    /// Recovery tells a torn group from damage by it.
    pub synced: Sequence,
    /// Microseconds, strictly rising from frame to frame.
    pub ordering: u64,
    /// The clock at commit, microseconds since 1970.
    pub committed_at: i64,
}

/// The fields of a frame's header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    /// Length of the payload in bytes.
    pub payload_bytes: u32,
    /// Checksum over everything behind it.
    pub crc32c: u32,
    /// What the committer decided.
    pub stamp: Stamp,
    /// The number of the kind; see [`Kind::from_number`].
    pub kind: u8,
    /// Flag bits.
    pub flags: u8,
}

impl Header {
    /// Reads a header; `None` if `bytes` is too short for one.
    #[must_use]
    pub fn read(bytes: &[u8]) -> Option<Header> {
        let header = bytes.get(..FRAME_HEADER_BYTES)?;
        Some(Header {
            payload_bytes: u32_at(header, 0),
            crc32c: u32_at(header, 4),
            stamp: Stamp {
                sequence: Sequence(u64_at(header, 8)),
                synced: Sequence(u64_at(header, 16)),
                ordering: u64_at(header, 24),
                committed_at: u64_at(header, 32) as i64,
            },
            kind: header[40],
            flags: header[41],
        })
    }

    /// Bytes from the frame's first to the next frame's first.
    #[must_use]
    pub fn frame_bytes(&self) -> usize {
        padded(FRAME_HEADER_BYTES + self.payload_bytes as usize)
    }

    /// Whether the sender marked the batch as history.
    #[must_use]
    pub fn is_backfill(&self) -> bool {
        self.flags & FLAG_BACKFILL != 0
    }
}

/// An encoded frame that has no place in the order yet.
#[derive(Debug)]
pub struct Draft {
    bytes: Vec<u8>,
    payload_bytes: usize,
}

impl Draft {
    /// A draft of `kind` whose payload `fill` appends to the buffer it is given.
    #[must_use]
    pub fn build(kind: Kind, backfill: bool, capacity: usize, fill: impl FnOnce(&mut Vec<u8>)) -> Draft {
        let mut bytes = Vec::with_capacity(padded(FRAME_HEADER_BYTES + capacity));
        bytes.resize(FRAME_HEADER_BYTES, 0);
        bytes[40] = kind as u8;
        bytes[41] = if backfill { FLAG_BACKFILL } else { 0 };
        fill(&mut bytes);
        let payload_bytes = bytes.len() - FRAME_HEADER_BYTES;
        bytes.resize(padded(bytes.len()), 0);
        Draft { bytes, payload_bytes }
    }

    /// Bytes the frame takes in the journal.
    #[must_use]
    pub fn frame_bytes(&self) -> usize {
        self.bytes.len()
    }

    /// What the frame holds.
    #[must_use]
    pub fn kind(&self) -> Option<Kind> {
        Kind::from_number(self.bytes[40])
    }

    /// The payload, for the committer to read and mark.
    pub(crate) fn payload_mut(&mut self) -> &mut [u8] {
        &mut self.bytes[FRAME_HEADER_BYTES..FRAME_HEADER_BYTES + self.payload_bytes]
    }

    /// Gives the frame its place and its checksum. The bytes do not change again.
    #[must_use]
    pub fn seal(mut self, stamp: Stamp) -> Vec<u8> {
        let payload_bytes = u32::try_from(self.payload_bytes).expect("frames are at most 64 MiB");
        self.bytes[0..4].copy_from_slice(&payload_bytes.to_le_bytes());
        self.bytes[8..16].copy_from_slice(&stamp.sequence.0.to_le_bytes());
        self.bytes[16..24].copy_from_slice(&stamp.synced.0.to_le_bytes());
        self.bytes[24..32].copy_from_slice(&stamp.ordering.to_le_bytes());
        self.bytes[32..40].copy_from_slice(&stamp.committed_at.to_le_bytes());
        let crc = crc32c::crc32c(&self.bytes[8..FRAME_HEADER_BYTES + self.payload_bytes]);
        self.bytes[4..8].copy_from_slice(&crc.to_le_bytes());
        self.bytes
    }
}

/// Why bytes are not a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FrameFault {
    /// The length is impossible or reaches beyond the bytes at hand.
    #[error("length of {payload_bytes} bytes does not fit")]
    Length {
        /// The length the header states.
        payload_bytes: u32,
    },
    /// The checksum does not match.
    #[error("checksum is {actual:#010x}, the header says {expected:#010x}")]
    Checksum {
        /// What the header says.
        expected: u32,
        /// What the bytes give.
        actual: u32,
    },
    /// The kind is not one this version knows.
    #[error("unknown frame kind {kind}")]
    Kind {
        /// The number found.
        kind: u8,
    },
    /// The payload contradicts itself.
    #[error("malformed payload: {what}")]
    Payload {
        /// What does not fit.
        what: &'static str,
    },
}

/// Checks the frame at the start of `bytes` and returns its header.
///
/// # Errors
/// [`FrameFault`] if length, checksum or kind is wrong.
pub fn verify(bytes: &[u8]) -> Result<Header, FrameFault> {
    let header = Header::read(bytes).ok_or(FrameFault::Length { payload_bytes: 0 })?;
    let fault = FrameFault::Length { payload_bytes: header.payload_bytes };
    if header.payload_bytes == 0 || header.payload_bytes as usize > FRAME_BYTES_MAX {
        return Err(fault);
    }
    let end = FRAME_HEADER_BYTES + header.payload_bytes as usize;
    // Before the checksum, so that a search for frames in foreign bytes rarely
    // computes one.
    if Kind::from_number(header.kind).is_none() || bytes[42..48] != [0; 6] {
        return Err(FrameFault::Kind { kind: header.kind });
    }
    let covered = bytes.get(8..end).ok_or(fault)?;
    let actual = crc32c::crc32c(covered);
    if actual != header.crc32c {
        return Err(FrameFault::Checksum { expected: header.crc32c, actual });
    }
    Ok(header)
}

/// A sealed frame, read as what it is.
#[derive(Clone, Debug)]
pub enum Frame {
    /// Samples of one request.
    Samples(SamplesFrame),
    /// Verdicts of the classifier.
    Changes(Header, Arc<Changes>),
    /// An event handed in by a publisher.
    Event(EventFrame),
    /// Deliveries that were tried.
    Attempts(AttemptsFrame),
    /// What must not be seen any more.
    Tombstone(Header, Arc<Tombstone>),
    /// A kind that nothing reads yet.
    Other(Header),
}

impl Frame {
    /// Reads a sealed frame whose checksum is known to be right.
    ///
    /// # Errors
    /// [`FrameFault`] if the payload contradicts itself or the kind is unknown.
    pub fn parse(bytes: Bytes) -> Result<Frame, FrameFault> {
        let header = Header::read(&bytes).ok_or(FrameFault::Length { payload_bytes: 0 })?;
        Ok(match Kind::from_number(header.kind).ok_or(FrameFault::Kind { kind: header.kind })? {
            Kind::Samples => Frame::Samples(SamplesFrame::parse(bytes)?),
            Kind::Changes => Frame::Changes(header, Arc::new(Changes::parse(&bytes)?)),
            Kind::Event => Frame::Event(EventFrame::parse(bytes)?),
            Kind::Attempts => Frame::Attempts(AttemptsFrame::parse(bytes)?),
            Kind::Tombstone => Frame::Tombstone(header, Arc::new(Tombstone::parse(&bytes)?)),
            _ => Frame::Other(header),
        })
    }

    /// The header.
    #[must_use]
    pub fn header(&self) -> &Header {
        match self {
            Frame::Samples(frame) => frame.header(),
            Frame::Changes(header, _) | Frame::Tombstone(header, _) | Frame::Other(header) => header,
            Frame::Event(frame) => frame.header(),
            Frame::Attempts(frame) => frame.header(),
        }
    }

    /// Its samples, if it holds samples.
    #[must_use]
    pub fn as_samples(&self) -> Option<&SamplesFrame> {
        match self {
            Frame::Samples(frame) => Some(frame),
            _ => None,
        }
    }

    /// Its place in the commit order.
    #[must_use]
    pub fn sequence(&self) -> Sequence {
        self.header().stamp.sequence
    }

    /// Bytes of memory it holds, about.
    #[must_use]
    pub fn byte_len(&self) -> usize {
        match self {
            Frame::Samples(frame) => frame.byte_len(),
            Frame::Event(frame) => frame.byte_len(),
            Frame::Attempts(frame) => frame.byte_len(),
            Frame::Changes(header, _) | Frame::Tombstone(header, _) | Frame::Other(header) => {
                header.frame_bytes()
            }
        }
    }
}

/// `bytes` rounded up to the frame alignment.
#[must_use]
pub fn padded(bytes: usize) -> usize {
    bytes.next_multiple_of(FRAME_ALIGN)
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(bytes[at..at + 4].try_into().expect("four bytes"))
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(bytes[at..at + 8].try_into().expect("eight bytes"))
}
