//! Ids that publishers gave their events, kept longer than the events.
//!
//! Constraints: 24 bytes an id; a segment without such events has no file; the file is
//! durable before the segment's index counts, and so before the segment may go.
//!
//! ```text
//! journal/0000000001.keys
//!  0  [u8; 8] "SYSTKEYS"   8  u32 version   12  u32 crc32c of byte 16 to the end
//! 16  u64 segment         24  i64 latest    microseconds of commit
//! 32  u32 organisations   36  u32 zero
//! 40  organisations, each:
//!       u32 bytes of its id   u32 keys   its id, padded to 8
//!       keys x (u64 hash of the event's id, u64 sequence, i64 committed at)
//! ```
//!
//! Only hashes are kept: whoever asks compares the id itself with the frame as long as
//! that is there.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};

use xxhash_rust::xxh3::xxh3_64;

use super::segment::SegmentId;
use super::segment_index::{id_of, u32_at, u64_at, write_temporary};
use crate::disk::Disk;
use crate::frame::{Frame, Sequence};

const MAGIC: &[u8; 8] = b"SYSTKEYS";
const VERSION: u32 = 1;
const SUFFIX: &str = "keys";
const HEAD_BYTES: usize = 40;
const KEY_BYTES: usize = 24;

/// An event that brought an id.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EventKey {
    /// Of the id as it is scoped, by [`EventKey::hash_of`].
    pub hash: u64,
    /// The event's place.
    pub sequence: Sequence,
    /// Microseconds since 1970.
    pub committed_at: i64,
}

impl EventKey {
    /// What stands for an id as it is scoped.
    #[must_use]
    pub fn hash_of(id: &str) -> u64 {
        xxh3_64(id.as_bytes())
    }
}

/// The keys of one segment.
#[derive(Debug, Default)]
pub(super) struct SegmentKeys {
    orgs: BTreeMap<String, Vec<EventKey>>,
    latest: i64,
}

impl SegmentKeys {
    /// Notes a frame, if it is an event with an id.
    pub(super) fn add(&mut self, frame: &Frame) {
        let Frame::Event(event) = frame else { return };
        let Some(id) = event.scoped_id() else { return };
        let stamp = event.header().stamp;
        let key = EventKey {
            hash: EventKey::hash_of(&id),
            sequence: stamp.sequence,
            committed_at: stamp.committed_at,
        };
        self.latest = self.latest.max(stamp.committed_at);
        match self.orgs.get_mut(event.org()) {
            Some(keys) => keys.push(key),
            None => drop(self.orgs.insert(event.org().to_owned(), vec![key])),
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.orgs.is_empty()
    }

    /// When the last of them was committed, in microseconds.
    pub(super) fn latest(&self) -> i64 {
        self.latest
    }

    /// Calls `visit` with each key, in commit order within an organisation.
    pub(super) fn for_each(&self, visit: &mut dyn FnMut(&str, EventKey)) {
        for (org, keys) in &self.orgs {
            keys.iter().for_each(|key| visit(org, *key));
        }
    }

    /// Makes the file durable.
    pub(super) fn write(&self, disk: &dyn Disk, dir: &Path, segment: SegmentId) -> io::Result<()> {
        let path = segment.keys_path(dir);
        let temporary = path.with_extension("keys.tmp");
        let file = write_temporary(disk, &temporary, &self.encode(segment))?;
        file.sync_data()?;
        disk.rename(&temporary, &path)?;
        disk.sync_dir(dir)
    }

    fn encode(&self, segment: SegmentId) -> Vec<u8> {
        let mut out = vec![0; HEAD_BYTES];
        out[0..8].copy_from_slice(MAGIC);
        out[8..12].copy_from_slice(&VERSION.to_le_bytes());
        out[16..24].copy_from_slice(&segment.0.to_le_bytes());
        out[24..32].copy_from_slice(&self.latest.to_le_bytes());
        out[32..36].copy_from_slice(&number(self.orgs.len()).to_le_bytes());
        for (org, keys) in &self.orgs {
            out.extend_from_slice(&number(org.len()).to_le_bytes());
            out.extend_from_slice(&number(keys.len()).to_le_bytes());
            out.extend_from_slice(org.as_bytes());
            out.resize(out.len().next_multiple_of(8), 0);
            for key in keys {
                out.extend_from_slice(&key.hash.to_le_bytes());
                out.extend_from_slice(&key.sequence.0.to_le_bytes());
                out.extend_from_slice(&key.committed_at.to_le_bytes());
            }
        }
        let crc = crc32c::crc32c(&out[16..]);
        out[12..16].copy_from_slice(&crc.to_le_bytes());
        out
    }

    /// Reads a segment's file; `None` if it is missing, damaged or another's.
    pub(super) fn read(disk: &dyn Disk, dir: &Path, segment: SegmentId) -> io::Result<Option<SegmentKeys>> {
        let file = match disk.open(&segment.keys_path(dir)) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            opened => opened?,
        };
        let mut bytes = vec![0; usize::try_from(file.byte_len()?).map_err(io::Error::other)?];
        file.read_exact_at(&mut bytes, 0)?;
        Ok(SegmentKeys::decode(&bytes, segment))
    }

    fn decode(bytes: &[u8], segment: SegmentId) -> Option<SegmentKeys> {
        let head = bytes.get(..HEAD_BYTES)?;
        if head[0..8] != *MAGIC || u32_at(head, 8) != VERSION || u64_at(head, 16) != segment.0 {
            return None;
        }
        (crc32c::crc32c(&bytes[16..]) == u32_at(head, 12)).then_some(())?;
        let mut keys = SegmentKeys { latest: u64_at(head, 24).cast_signed(), ..SegmentKeys::default() };
        let mut rest = &bytes[HEAD_BYTES..];
        for _ in 0..u32_at(head, 32) {
            let (lengths, behind) = rest.split_at_checked(8)?;
            let (name, count) = (u32_at(lengths, 0) as usize, u32_at(lengths, 4) as usize);
            let (padded, behind) = behind.split_at_checked(name.next_multiple_of(8))?;
            let (of_org, behind) = behind.split_at_checked(count * KEY_BYTES)?;
            let of_org = of_org.chunks_exact(KEY_BYTES).map(|key| EventKey {
                hash: u64_at(key, 0),
                sequence: Sequence(u64_at(key, 8)),
                committed_at: u64_at(key, 16).cast_signed(),
            });
            keys.orgs.insert(std::str::from_utf8(&padded[..name]).ok()?.to_owned(), of_org.collect());
            rest = behind;
        }
        Some(keys)
    }
}

impl SegmentId {
    /// Where the ids of its events lie.
    pub(super) fn keys_path(self, dir: &Path) -> PathBuf {
        dir.join(format!("{:010}.{SUFFIX}", self.0))
    }

    /// The segment of a file of ids, by its name.
    pub(crate) fn of_keys_path(path: &Path) -> Option<SegmentId> {
        id_of(path, SUFFIX)
    }

    /// Whether its file of ids can be read, and is what was written.
    pub(crate) fn has_whole_keys(self, disk: &dyn Disk, dir: &Path) -> bool {
        SegmentKeys::read(disk, dir, self).is_ok_and(|keys| keys.is_some())
    }
}

fn number(length: usize) -> u32 {
    u32::try_from(length).expect("a segment is far shorter")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::frame::{Published, Stamp, encode_published};

    fn event(org: &str, id: Option<&str>, sequence: u64) -> Frame {
        let stamp = Stamp {
            sequence: Sequence(sequence),
            synced: Sequence(0),
            ordering: sequence,
            committed_at: 1_000 * sequence.cast_signed(),
        };
        let event = Published { org, user: None, name: "check_in.created", id, bound: false, data: "{}" };
        Frame::parse(encode_published(&event).seal(stamp).into()).unwrap()
    }

    #[test]
    fn keys_are_read_as_they_were_written_and_no_changed_byte_is_taken() {
        let mut keys = SegmentKeys::default();
        let frames =
            [event("acme", Some("a"), 1), event("beta_org", Some("b"), 2), event("acme", Some("c"), 3)];
        frames.iter().for_each(|frame| keys.add(frame));
        keys.add(&event("acme", None, 4));
        let bytes = keys.encode(SegmentId(7));
        let read = SegmentKeys::decode(&bytes, SegmentId(7)).unwrap();
        assert_eq!((read.latest(), &read.orgs), (3_000, &keys.orgs));
        let mut seen = Vec::new();
        read.for_each(&mut |org, key| seen.push((org.to_owned(), key.hash, key.sequence.0)));
        let expected = [("acme", "a", 1), ("acme", "c", 3), ("beta_org", "b", 2)]
            .map(|(org, id, at)| (org.to_owned(), EventKey::hash_of(id), at));
        assert_eq!(seen, expected);
        assert!(SegmentKeys::decode(&bytes, SegmentId(8)).is_none());
        for at in 0..bytes.len() {
            let mut changed = bytes.clone();
            changed[at] ^= 1;
            assert!(SegmentKeys::decode(&changed, SegmentId(7)).is_none(), "{at}");
            assert!(SegmentKeys::decode(&bytes[..at], SegmentId(7)).is_none(), "{at}");
        }
    }
}
