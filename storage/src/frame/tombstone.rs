//! The payload of a tombstone frame: what must not be seen any more.
//!
//! ```text
//!  0  u32 target      1 a user, 2 a part of a series
//!  4  u32 flags       bit 0: the user is blocked
//!  8  i64 start       16  i64 end      milliseconds, of a part
//! 24  u32 id, org, user, metric: their lengths; metric is u32::MAX for a user
//! 40  id, org, user, metric as UTF-8, one behind the other
//! ```
//!
//! It covers what has a lower sequence than its frame, and nothing that comes later.

use super::{Draft, FRAME_HEADER_BYTES, FrameFault, Header, Kind, u32_at, u64_at};
use crate::frame::Sequence;

const HEAD_BYTES: usize = 40;
const LENGTHS_AT: usize = 24;
const PARTS: usize = 4;
const ABSENT: u32 = u32::MAX;
const TARGET_USER: u32 = 1;
const TARGET_RANGE: u32 = 2;
const FLAG_BLOCK: u32 = 1;

/// What a tombstone covers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Erased {
    /// Everything of the user.
    User {
        /// Nothing is taken from the user any more.
        block: bool,
    },
    /// A metric's samples with `start <= recorded_at < end`.
    Range {
        /// Canonical metric key.
        metric: String,
        /// First millisecond.
        start: i64,
        /// First millisecond behind.
        end: i64,
    },
}

/// An order to erase.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tombstone {
    /// Of its receipt.
    pub id: String,
    /// Whose user it is.
    pub org: String,
    /// Whose samples are erased.
    pub user: String,
    /// Which of them.
    pub erased: Erased,
    /// Its place: what came before it is covered. [`Sequence::ZERO`] in drafts.
    pub sequence: Sequence,
    /// When it was committed, milliseconds since 1970; 0 in drafts.
    pub created_at: i64,
}

/// Encodes a tombstone; sequence and time are the committer's to give.
///
/// # Panics
/// If a text is longer than a frame: callers bound names far below.
#[must_use]
pub fn encode_tombstone(tombstone: &Tombstone) -> Draft {
    let Tombstone { id, org, user, erased, .. } = tombstone;
    let (target, flags, metric, start, end) = match erased {
        Erased::User { block } => (TARGET_USER, if *block { FLAG_BLOCK } else { 0 }, None, 0, 0),
        Erased::Range { metric, start, end } => (TARGET_RANGE, 0, Some(metric.as_str()), *start, *end),
    };
    let parts = [Some(id.as_str()), Some(org.as_str()), Some(user.as_str()), metric];
    let capacity = HEAD_BYTES + parts.iter().flatten().map(|part| part.len()).sum::<usize>();
    Draft::build(Kind::Tombstone, false, capacity, |out| {
        out.extend_from_slice(&target.to_le_bytes());
        out.extend_from_slice(&flags.to_le_bytes());
        out.extend_from_slice(&start.to_le_bytes());
        out.extend_from_slice(&end.to_le_bytes());
        for part in parts {
            let bytes = part.map_or(ABSENT, |part| u32::try_from(part.len()).expect("names are bounded"));
            out.extend_from_slice(&bytes.to_le_bytes());
        }
        parts.iter().flatten().for_each(|part| out.extend_from_slice(part.as_bytes()));
    })
}

/// What stands in the place of a frame that was erased as a whole.
#[must_use]
pub fn encode_erased() -> Draft {
    Draft::build(Kind::Erased, false, 8, |out| out.extend_from_slice(&[0; 8]))
}

impl Tombstone {
    /// Reads a sealed frame whose checksum is known to be right.
    ///
    /// # Errors
    /// [`FrameFault`] if the payload contradicts itself.
    pub fn parse(bytes: &[u8]) -> Result<Tombstone, FrameFault> {
        let fault = |what| FrameFault::Payload { what };
        let header = Header::read(bytes).ok_or(FrameFault::Length { payload_bytes: 0 })?;
        let end = FRAME_HEADER_BYTES + header.payload_bytes as usize;
        let payload = bytes.get(FRAME_HEADER_BYTES..end).ok_or(fault("shorter than its length"))?;
        if payload.len() < HEAD_BYTES {
            return Err(fault("shorter than its head"));
        }
        let mut rest = &payload[HEAD_BYTES..];
        let mut texts: [Option<String>; PARTS] = Default::default();
        for (index, text) in texts.iter_mut().enumerate() {
            let length = u32_at(payload, LENGTHS_AT + index * 4);
            if length != ABSENT {
                let (part, behind) =
                    rest.split_at_checked(length as usize).ok_or(fault("its parts do not add up"))?;
                *text = Some(std::str::from_utf8(part).map_err(|_| fault("a part is no text"))?.to_owned());
                rest = behind;
            }
        }
        let [Some(id), Some(org), Some(user), metric] = texts else {
            return Err(fault("a part is missing"));
        };
        let erased = match (u32_at(payload, 0), metric) {
            (TARGET_USER, None) => Erased::User { block: u32_at(payload, 4) & FLAG_BLOCK != 0 },
            (TARGET_RANGE, Some(metric)) => Erased::Range {
                metric,
                start: u64_at(payload, 8).cast_signed(),
                end: u64_at(payload, 16).cast_signed(),
            },
            _ => return Err(fault("unknown target")),
        };
        if !rest.is_empty() {
            return Err(fault("its parts do not add up"));
        }
        let (sequence, created_at) = (header.stamp.sequence, header.stamp.committed_at.div_euclid(1000));
        Ok(Tombstone { id, org, user, erased, sequence, created_at })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::frame::Stamp;

    #[test]
    fn a_tombstone_is_read_as_it_was_written_and_cut_frames_are_refused() {
        let stamp =
            Stamp { sequence: Sequence(7), synced: Sequence(6), ordering: 1, committed_at: 1_234_567 };
        let range = Erased::Range { metric: "heart_rate".into(), start: -5, end: i64::MAX };
        for erased in [Erased::User { block: true }, Erased::User { block: false }, range] {
            let tombstone = Tombstone {
                id: "era_1".into(),
                org: "acme".into(),
                user: "u_1".into(),
                erased,
                sequence: Sequence(7),
                created_at: 1234,
            };
            let bytes = encode_tombstone(&tombstone).seal(stamp);
            assert_eq!(Tombstone::parse(&bytes).unwrap(), tombstone);
            let length = FRAME_HEADER_BYTES + Header::read(&bytes).unwrap().payload_bytes as usize;
            for end in 0..length {
                assert!(Tombstone::parse(&bytes[..end]).is_err(), "{end}");
            }
        }
    }
}
