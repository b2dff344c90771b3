//! The payload of a tombstone frame: what must not be seen any more.
//!
//! ```text
//!  0  u32 target      1 a user, 2 a range of time
//!  4  u32 flags       bit 0: the user is blocked
//!  8  i64 start       16  i64 end      milliseconds, of a range
//! 24  u32 id, org, user, metric: their lengths; u32::MAX where there is none: the metric
//!     of a user, and of a range the user if it is of all users, the metric if of all metrics
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
    /// Everything of a user.
    User {
        /// Who it is.
        user: String,
        /// Nothing is taken from the user any more.
        block: bool,
    },
    /// Samples with `start <= recorded_at < end`.
    Range {
        /// Of this user; `None` of every user of the organisation.
        user: Option<String>,
        /// Of this metric, by its canonical key; `None` of every metric.
        metric: Option<String>,
        /// First millisecond.
        start: i64,
        /// First millisecond behind.
        end: i64,
    },
}

impl Erased {
    /// Whose samples are erased; `None` for those of every user of the organisation.
    #[must_use]
    pub fn user(&self) -> Option<&str> {
        match self {
            Erased::User { user, .. } => Some(user),
            Erased::Range { user, .. } => user.as_deref(),
        }
    }

    /// Whether nothing is taken from the user any more.
    #[must_use]
    pub fn blocks(&self) -> bool {
        matches!(self, Erased::User { block: true, .. })
    }

    /// Whether it is about a user's metric.
    #[must_use]
    pub fn is_about(&self, user: &str, metric: &str) -> bool {
        match self {
            Erased::User { user: of, .. } => of == user,
            Erased::Range { user: of_user, metric: of_metric, .. } => {
                of_user.as_ref().is_none_or(|of| of == user)
                    && of_metric.as_ref().is_none_or(|of| of == metric)
            }
        }
    }

    /// Whether it covers a sample, whenever that came.
    #[must_use]
    pub fn covers(&self, user: &str, metric: &str, recorded_at: i64) -> bool {
        let within = match self {
            Erased::User { .. } => true,
            Erased::Range { start, end, .. } => (*start..*end).contains(&recorded_at),
        };
        within && self.is_about(user, metric)
    }
}

/// An order to erase.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tombstone {
    /// Of its receipt.
    pub id: String,
    /// Whose data it is.
    pub org: String,
    /// What is erased of it.
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
    let Tombstone { id, org, erased, .. } = tombstone;
    let (target, flags, metric, start, end) = match erased {
        Erased::User { block, .. } => (TARGET_USER, if *block { FLAG_BLOCK } else { 0 }, None, 0, 0),
        Erased::Range { metric, start, end, .. } => (TARGET_RANGE, 0, metric.as_deref(), *start, *end),
    };
    let parts = [Some(id.as_str()), Some(org.as_str()), erased.user(), metric];
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
        let [Some(id), Some(org), user, metric] = texts else {
            return Err(fault("a part is missing"));
        };
        let erased = match (u32_at(payload, 0), user, metric) {
            (TARGET_USER, Some(user), None) => {
                Erased::User { user, block: u32_at(payload, 4) & FLAG_BLOCK != 0 }
            }
            (TARGET_RANGE, user, metric) => Erased::Range {
                user,
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
        Ok(Tombstone { id, org, erased, sequence, created_at })
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
        let user = |block| Erased::User { user: "u_1".into(), block };
        let range = |user: Option<&str>, metric: Option<&str>| Erased::Range {
            user: user.map(str::to_owned),
            metric: metric.map(str::to_owned),
            start: -5,
            end: i64::MAX,
        };
        for erased in [
            user(true),
            user(false),
            range(Some("u_1"), Some("heart_rate")),
            range(Some("u_1"), None),
            range(None, Some("heart_rate")),
            range(None, None),
        ] {
            let tombstone = Tombstone {
                id: "era_1".into(),
                org: "acme".into(),
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
