//! The payload of a changes frame: the classifier's verdict on `look` groups.
//!
//! ```text
//!  0  u64 through      every look group up to this sequence is decided
//!  8  u32 entries      u32 zero
//! 16  entries, each:
//!       u64 sequence   of the samples frame
//!       u32 group      u32 rows
//!       u8  verdict    0 unchanged, 1 created, 2 updated, 3 mixed; 7 zeros
//!       [u8]           only if mixed: two bits a row, padded to 8 bytes
//! ```
//!
//! A frame that a crash left without a verdict gets one after the restart; one that
//! has a verdict is never decided again.

use super::{Draft, FRAME_HEADER_BYTES, FrameFault, Kind, padded, u32_at, u64_at};
use crate::frame::{Header, Sequence};

const HEAD_BYTES: usize = 16;
const ENTRY_BYTES: usize = 24;
const MIXED: u8 = 3;
const ROWS_A_BYTE: usize = 4;

/// What a sample did to its series.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Change {
    /// The same was there before.
    Unchanged = 0,
    /// There was no sample at this time.
    Created = 1,
    /// There was one with another value.
    Updated = 2,
}

impl Change {
    fn from_bits(bits: u8) -> Change {
        match bits {
            1 => Change::Created,
            2 => Change::Updated,
            _ => Change::Unchanged,
        }
    }
}

/// What the samples of a group did.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// All the same.
    All(Change),
    /// Not all the same: two bits a row.
    Mixed(Box<[u8]>),
}

impl Verdict {
    /// The verdict on a group whose rows did `changes`.
    #[must_use]
    pub fn of(changes: &[Change]) -> Verdict {
        let first = changes.first().copied().unwrap_or(Change::Unchanged);
        if changes.iter().all(|change| *change == first) {
            return Verdict::All(first);
        }
        let mut packed = vec![0; changes.len().div_ceil(ROWS_A_BYTE)];
        for (row, change) in changes.iter().enumerate() {
            packed[row / ROWS_A_BYTE] |= (*change as u8) << (row % ROWS_A_BYTE * 2);
        }
        Verdict::Mixed(packed.into())
    }

    /// What row `row` of the group did.
    #[must_use]
    pub fn change(&self, row: usize) -> Change {
        match self {
            Verdict::All(change) => *change,
            Verdict::Mixed(packed) => {
                let byte = packed.get(row / ROWS_A_BYTE).copied().unwrap_or_default();
                Change::from_bits(byte >> (row % ROWS_A_BYTE * 2) & 3)
            }
        }
    }

    /// How many of `rows` rows did `change`.
    #[must_use]
    pub fn count(&self, rows: usize, change: Change) -> usize {
        match self {
            Verdict::All(all) if *all == change => rows,
            Verdict::All(_) => 0,
            Verdict::Mixed(_) => (0..rows).filter(|row| self.change(*row) == change).count(),
        }
    }
}

/// The verdict on one group.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GroupChange {
    /// Of the samples frame.
    pub sequence: Sequence,
    /// The group's index in it.
    pub group: u32,
    /// Its number of rows.
    pub rows: u32,
    /// What they did.
    pub verdict: Verdict,
}

/// A changes frame, read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Changes {
    /// Its own sequence.
    pub sequence: Sequence,
    /// Every look group up to this is decided, here or in an earlier frame.
    pub through: Sequence,
    /// Verdicts, by rising sequence and group.
    pub groups: Vec<GroupChange>,
}

/// Encodes verdicts.
#[must_use]
pub fn encode_changes(through: Sequence, groups: &[GroupChange]) -> Draft {
    let capacity = HEAD_BYTES + groups.len() * ENTRY_BYTES;
    Draft::build(Kind::Changes, false, capacity, |out| {
        out.extend_from_slice(&through.0.to_le_bytes());
        out.extend_from_slice(&u32::try_from(groups.len()).expect("far fewer groups").to_le_bytes());
        out.extend_from_slice(&[0; 4]);
        for group in groups {
            out.extend_from_slice(&group.sequence.0.to_le_bytes());
            out.extend_from_slice(&group.group.to_le_bytes());
            out.extend_from_slice(&group.rows.to_le_bytes());
            match &group.verdict {
                Verdict::All(change) => out.extend_from_slice(&[*change as u8, 0, 0, 0, 0, 0, 0, 0]),
                Verdict::Mixed(packed) => {
                    out.extend_from_slice(&[MIXED, 0, 0, 0, 0, 0, 0, 0]);
                    out.extend_from_slice(packed);
                    out.resize(FRAME_HEADER_BYTES + padded(out.len() - FRAME_HEADER_BYTES), 0);
                }
            }
        }
    })
}

impl Changes {
    /// Reads a sealed frame whose checksum is known to be right.
    ///
    /// # Errors
    /// [`FrameFault`] if the payload contradicts itself.
    pub fn parse(bytes: &[u8]) -> Result<Changes, FrameFault> {
        let fault = |what| FrameFault::Payload { what };
        let header = Header::read(bytes).ok_or(FrameFault::Length { payload_bytes: 0 })?;
        let end = FRAME_HEADER_BYTES + header.payload_bytes as usize;
        let payload = bytes.get(FRAME_HEADER_BYTES..end).ok_or(fault("shorter than its length"))?;
        if payload.len() < HEAD_BYTES {
            return Err(fault("shorter than its head"));
        }
        let mut groups = Vec::new();
        let mut rest = &payload[HEAD_BYTES..];
        for _ in 0..u32_at(payload, 8) {
            let entry = rest.get(..ENTRY_BYTES).ok_or(fault("verdicts reach beyond the frame"))?;
            rest = &rest[ENTRY_BYTES..];
            let rows = u32_at(entry, 12);
            let verdict = match entry[16] {
                MIXED => {
                    let bytes = (rows as usize).div_ceil(ROWS_A_BYTE);
                    let packed = rest.get(..padded(bytes)).ok_or(fault("rows reach beyond the frame"))?;
                    rest = &rest[padded(bytes)..];
                    Verdict::Mixed(packed[..bytes].into())
                }
                bits if bits < MIXED => Verdict::All(Change::from_bits(bits)),
                _ => return Err(fault("unknown verdict")),
            };
            let sequence = Sequence(u64_at(entry, 0));
            groups.push(GroupChange { sequence, group: u32_at(entry, 8), rows, verdict });
        }
        Ok(Changes { sequence: header.stamp.sequence, through: Sequence(u64_at(payload, 0)), groups })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::frame::Stamp;

    #[test]
    fn verdicts_are_read_as_they_were_written_and_cut_frames_are_refused() {
        use Change::{Created, Unchanged, Updated};
        let mixed = [Created, Unchanged, Updated, Updated, Created];
        let groups = [
            GroupChange { sequence: Sequence(7), group: 0, rows: 5, verdict: Verdict::of(&mixed) },
            GroupChange { sequence: Sequence(9), group: 3, rows: 2, verdict: Verdict::of(&[Updated; 2]) },
        ];
        assert_eq!(groups[1].verdict, Verdict::All(Updated));
        let stamp =
            Stamp { sequence: Sequence(12), synced: Sequence(11), ordering: 1, committed_at: 1_000_000 };
        let bytes = encode_changes(Sequence(11), &groups).seal(stamp);
        let read = Changes::parse(&bytes).unwrap();
        assert_eq!((read.sequence, read.through), (Sequence(12), Sequence(11)));
        assert_eq!(read.groups, groups);
        let rows: Vec<Change> = (0..5).map(|row| read.groups[0].verdict.change(row)).collect();
        assert_eq!(rows, mixed);
        assert_eq!(read.groups[0].verdict.count(5, Updated), 2);
        for end in 0..bytes.len() {
            assert!(Changes::parse(&bytes[..end]).is_err(), "{end}");
        }
    }
}
