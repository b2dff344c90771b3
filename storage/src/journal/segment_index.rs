//! The index of a sealed segment: which of its frames concern whom.
//!
//! Constraints: a reader of one organisation reads the head and one section, and not
//! what is everybody's; nothing in it is needed to recover, so it is not synced, and
//! one that is missing or damaged is made anew from its segment.
//!
//! ```text
//! journal/0000000001.index
//!  0  [u8; 8] "SYSTSIDX"   8  u32 version   12  u32 crc32c of byte 16 to the owners' end
//! 16  u64 segment         24  u32 owners    28  u32 events with an id of their publisher
//! 32  i64 earliest        40  i64 latest    microseconds of commit
//! 48  owners x 32 bytes, by rising hash:
//!       u64 hash of the organisation, or VERDICTS   u64 place of its section
//!       u32 entries   u32 users   u32 crc32c of the section   u32 zero
//!     sections: entries x 24 bytes, by rising sequence:
//!       u64 sequence   u32 offset / 8   u32 frame bytes   u32 end of its users
//!       u8 1 if it has more users than are listed   3 zeros
//!     then users x u32, hashes of those whom a frame is about; padded to 8
//! ```
//!
//! Who writes: whoever needs it first, or the thread of [`super::SegmentIndexer`] soon
//! after the segment was sealed. When a segment is written anew its index goes first.

use std::collections::BTreeMap;
use std::io::{self, IoSlice};
use std::path::{Path, PathBuf};

use xxhash_rust::xxh3::xxh3_64;

use super::segment::SegmentId;
use crate::disk::{Disk, DiskFile};
use crate::frame::{Frame, Sequence};

/// The owner of verdicts, which concern several organisations.
const VERDICTS: u64 = 0;
/// Users listed of a frame; one with more may concern anybody.
const USERS_MAX: usize = 512;
const MAGIC: &[u8; 8] = b"SYSTSIDX";
const VERSION: u32 = 1;
const SUFFIX: &str = "index";
const HEAD_BYTES: usize = 48;
const OWNER_BYTES: usize = 32;
const ENTRY_BYTES: usize = 24;

/// Which frames a reader asks for. It may get others, too, where there is no index.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FrameFilter {
    owner: u64,
    user: Option<u32>,
}

impl FrameFilter {
    /// Samples and events of an organisation.
    #[must_use]
    pub fn org(org: &str) -> FrameFilter {
        FrameFilter { owner: owner_of(org), user: None }
    }

    /// Samples and events of an organisation about one user.
    #[must_use]
    pub fn user(org: &str, user: &str) -> FrameFilter {
        FrameFilter { owner: owner_of(org), user: Some(user_hash(user)) }
    }

    /// Verdicts of the classifier.
    #[must_use]
    pub fn verdicts() -> FrameFilter {
        FrameFilter { owner: VERDICTS, user: None }
    }

    /// Whether it asks for a frame.
    #[must_use]
    pub fn takes(&self, frame: &Frame) -> bool {
        let concerns = |user: &str| self.user.is_none_or(|wanted| wanted == user_hash(user));
        match frame {
            Frame::Samples(samples) => {
                self.owner == owner_of(samples.org())
                    && (self.user.is_none() || samples.groups().any(|group| concerns(group.user)))
            }
            Frame::Event(event) => {
                self.owner == owner_of(event.org())
                    && (self.user.is_none() || event.user().is_some_and(concerns))
            }
            Frame::Changes(..) => self.owner == VERDICTS,
            _ => false,
        }
    }
}

fn owner_of(org: &str) -> u64 {
    xxh3_64(org.as_bytes()).max(VERDICTS + 1)
}

fn user_hash(user: &str) -> u32 {
    xxh3_64(user.as_bytes()) as u32
}

/// A frame's place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Entry {
    pub(super) sequence: Sequence,
    pub(super) offset: u64,
    pub(super) bytes: u32,
    users_end: u32,
    anybody: bool,
}

/// What concerns one owner.
#[derive(Debug, Default)]
pub(super) struct Section {
    entries: Vec<Entry>,
    users: Vec<u32>,
}

impl Section {
    /// Bytes of memory it holds, about.
    pub(super) fn byte_len(&self) -> usize {
        self.entries.len() * size_of::<Entry>() + self.users.len() * 4
    }

    /// What a filter asks for behind `after`, oldest first.
    pub(super) fn behind(&self, after: Sequence, filter: FrameFilter) -> impl Iterator<Item = Entry> {
        let from = self.entries.partition_point(|entry| entry.sequence <= after);
        (from..self.entries.len()).filter(move |&at| self.concerns(at, filter)).map(|at| self.entries[at])
    }

    /// What a filter asks for before `before`, newest first.
    pub(super) fn before(&self, before: Sequence, filter: FrameFilter) -> impl Iterator<Item = Entry> {
        let end = self.entries.partition_point(|entry| entry.sequence < before);
        (0..end).rev().filter(move |&at| self.concerns(at, filter)).map(|at| self.entries[at])
    }

    fn concerns(&self, at: usize, filter: FrameFilter) -> bool {
        let Some(user) = filter.user else { return true };
        let from = if at == 0 { 0 } else { self.entries[at - 1].users_end as usize };
        let to = self.entries[at].users_end as usize;
        self.entries[at].anybody || self.users[from..to].contains(&user)
    }

    fn add(&mut self, sequence: Sequence, offset: u64, bytes: u32, users: &[u32]) {
        let anybody = users.len() > USERS_MAX;
        if !anybody {
            self.users.extend_from_slice(users);
        }
        let users_end = u32::try_from(self.users.len()).expect("a segment is far shorter");
        self.entries.push(Entry { sequence, offset, bytes, users_end, anybody });
    }

    fn write(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(self.entries.len() * ENTRY_BYTES + self.users.len() * 4 + 4);
        for entry in &self.entries {
            out.extend_from_slice(&entry.sequence.0.to_le_bytes());
            let eighths = u32::try_from(entry.offset / 8).expect("a segment is far shorter than 32 GiB");
            out.extend_from_slice(&eighths.to_le_bytes());
            out.extend_from_slice(&entry.bytes.to_le_bytes());
            out.extend_from_slice(&entry.users_end.to_le_bytes());
            out.extend_from_slice(&[u8::from(entry.anybody), 0, 0, 0]);
        }
        out.extend(self.users.iter().flat_map(|user| user.to_le_bytes()));
        out.resize(out.len().next_multiple_of(8), 0);
        out
    }

    fn read(bytes: &[u8], owner: &Owner) -> Option<Section> {
        let (entries, users) = bytes.split_at_checked(owner.entries as usize * ENTRY_BYTES)?;
        let entries: Vec<Entry> = entries
            .chunks_exact(ENTRY_BYTES)
            .map(|entry| Entry {
                sequence: Sequence(u64_at(entry, 0)),
                offset: u64::from(u32_at(entry, 8)) * 8,
                bytes: u32_at(entry, 12),
                users_end: u32_at(entry, 16),
                anybody: entry[20] != 0,
            })
            .collect();
        let users = users.get(..owner.users as usize * 4)?.chunks_exact(4);
        let users: Vec<u32> = users.map(|user| u32_at(user, 0)).collect();
        let rises = entries.is_sorted_by(|a, b| a.sequence < b.sequence && a.users_end <= b.users_end);
        let ends = entries.last().is_none_or(|last| last.users_end as usize <= users.len());
        (rises && ends).then_some(Section { entries, users })
    }
}

#[derive(Clone, Copy, Debug)]
struct Owner {
    hash: u64,
    at: u64,
    entries: u32,
    users: u32,
    crc32c: u32,
}

impl Owner {
    fn byte_len(&self) -> usize {
        (self.entries as usize * ENTRY_BYTES + self.users as usize * 4).next_multiple_of(8)
    }
}

/// Takes in a segment's frames, in order.
#[derive(Debug, Default)]
pub(super) struct IndexBuilder {
    sections: BTreeMap<u64, Section>,
    span: Option<(i64, i64)>,
    keys: u32,
    users: Vec<u32>,
}

impl IndexBuilder {
    /// Notes a frame that begins at `offset`.
    pub(super) fn add(&mut self, frame: &Frame, offset: u64) {
        let stamp = frame.header().stamp;
        let (earliest, latest) = self.span.unwrap_or((stamp.committed_at, stamp.committed_at));
        self.span = Some((earliest.min(stamp.committed_at), latest.max(stamp.committed_at)));
        self.users.clear();
        let owner = match frame {
            Frame::Samples(samples) => {
                self.users.extend(samples.groups().map(|group| user_hash(group.user)));
                self.users.sort_unstable();
                self.users.dedup();
                owner_of(samples.org())
            }
            Frame::Event(event) => {
                self.keys += u32::from(event.id().is_some());
                self.users.extend(event.user().map(user_hash));
                owner_of(event.org())
            }
            Frame::Changes(..) => VERDICTS,
            _ => return,
        };
        let bytes = u32::try_from(frame.header().frame_bytes()).expect("a frame is at most 64 MiB");
        self.sections.entry(owner).or_default().add(stamp.sequence, offset, bytes, &self.users);
    }

    /// The file's content.
    pub(super) fn finish(self, segment: SegmentId) -> Vec<u8> {
        let owners = self.sections.len();
        let mut out = vec![0; HEAD_BYTES + owners * OWNER_BYTES];
        let (earliest, latest) = self.span.unwrap_or_default();
        out[0..8].copy_from_slice(MAGIC);
        out[8..12].copy_from_slice(&VERSION.to_le_bytes());
        out[16..24].copy_from_slice(&segment.0.to_le_bytes());
        out[24..28].copy_from_slice(&u32::try_from(owners).expect("fewer than frames").to_le_bytes());
        out[28..32].copy_from_slice(&self.keys.to_le_bytes());
        out[32..40].copy_from_slice(&earliest.to_le_bytes());
        out[40..48].copy_from_slice(&latest.to_le_bytes());
        for (place, (hash, section)) in self.sections.iter().enumerate() {
            let (at, bytes) = (out.len() as u64, section.write());
            let owner = &mut out[HEAD_BYTES + place * OWNER_BYTES..][..OWNER_BYTES];
            owner[0..8].copy_from_slice(&hash.to_le_bytes());
            owner[8..16].copy_from_slice(&at.to_le_bytes());
            let entries = u32::try_from(section.entries.len()).expect("a segment is far shorter");
            owner[16..20].copy_from_slice(&entries.to_le_bytes());
            let users = u32::try_from(section.users.len()).expect("a segment is far shorter");
            owner[20..24].copy_from_slice(&users.to_le_bytes());
            owner[24..28].copy_from_slice(&crc32c::crc32c(&bytes).to_le_bytes());
            out.extend_from_slice(&bytes);
        }
        let crc = crc32c::crc32c(&out[16..HEAD_BYTES + owners * OWNER_BYTES]);
        out[12..16].copy_from_slice(&crc.to_le_bytes());
        out
    }
}

/// An index, its sections still where it was read from.
#[derive(Debug)]
pub(super) struct SegmentIndex {
    owners: Vec<Owner>,
    /// Events with an id of their publisher.
    pub(super) keys: u32,
    /// Microseconds of commit of its frames.
    pub(super) span: (i64, i64),
    source: Source,
}

#[derive(Debug)]
enum Source {
    File(Box<dyn DiskFile>),
    /// It could not be written.
    Memory(Vec<u8>),
}

impl SegmentIndex {
    /// Reads an index from its file; `None` if it is missing, damaged or another's.
    pub(super) fn open(disk: &dyn Disk, path: &Path, segment: SegmentId) -> Option<SegmentIndex> {
        let file = disk.open(path).ok()?;
        SegmentIndex::read(Source::File(file), segment)
    }

    /// An index that is in no file.
    pub(super) fn in_memory(bytes: Vec<u8>, segment: SegmentId) -> Option<SegmentIndex> {
        SegmentIndex::read(Source::Memory(bytes), segment)
    }

    fn read(source: Source, segment: SegmentId) -> Option<SegmentIndex> {
        let length = source.byte_len().ok()?;
        let head = source.bytes(0, HEAD_BYTES).ok()?;
        if head[0..8] != *MAGIC || u32_at(&head, 8) != VERSION || u64_at(&head, 16) != segment.0 {
            return None;
        }
        let end = HEAD_BYTES as u64 + u64::from(u32_at(&head, 24)) * OWNER_BYTES as u64;
        if end > length {
            return None;
        }
        let bytes = source.bytes(0, usize::try_from(end).ok()?).ok()?;
        if crc32c::crc32c(&bytes[16..]) != u32_at(&bytes, 12) {
            return None;
        }
        let owner = |bytes: &[u8]| Owner {
            hash: u64_at(bytes, 0),
            at: u64_at(bytes, 8),
            entries: u32_at(bytes, 16),
            users: u32_at(bytes, 20),
            crc32c: u32_at(bytes, 24),
        };
        let owners: Vec<Owner> = bytes[HEAD_BYTES..].chunks_exact(OWNER_BYTES).map(owner).collect();
        let span = (u64_at(&bytes, 32).cast_signed(), u64_at(&bytes, 40).cast_signed());
        Some(SegmentIndex { owners, keys: u32_at(&bytes, 28), span, source })
    }

    /// What concerns a filter's owner; `None` if it is damaged.
    pub(super) fn section(&self, filter: FrameFilter) -> Option<Section> {
        let Ok(at) = self.owners.binary_search_by_key(&filter.owner, |owner| owner.hash) else {
            return Some(Section::default());
        };
        let owner = self.owners[at];
        let bytes = self.source.bytes(owner.at, owner.byte_len()).ok()?;
        (crc32c::crc32c(&bytes) == owner.crc32c).then_some(())?;
        Section::read(&bytes, &owner)
    }

    /// The owner that a filter asks for.
    pub(super) fn owner(filter: FrameFilter) -> u64 {
        filter.owner
    }
}

impl Source {
    fn byte_len(&self) -> io::Result<u64> {
        match self {
            Source::File(file) => file.byte_len(),
            Source::Memory(bytes) => Ok(bytes.len() as u64),
        }
    }

    fn bytes(&self, at: u64, length: usize) -> io::Result<Vec<u8>> {
        let mut bytes = vec![0; length];
        match self {
            Source::File(file) => file.read_exact_at(&mut bytes, at)?,
            Source::Memory(whole) => {
                let from = usize::try_from(at).map_err(io::Error::other)?;
                let part = whole.get(from..from + length).ok_or(io::ErrorKind::UnexpectedEof)?;
                bytes.copy_from_slice(part);
            }
        }
        Ok(bytes)
    }
}

impl SegmentId {
    /// Where its index lies.
    pub(super) fn index_path(self, dir: &Path) -> PathBuf {
        dir.join(format!("{:010}.{SUFFIX}", self.0))
    }

    /// Whether a file is what is kept beside a segment.
    pub(crate) fn is_beside(path: &Path) -> bool {
        SegmentId::of_index_path(path).is_some() || SegmentId::of_keys_path(path).is_some()
    }

    /// The segment of an index, by its file's name.
    pub(super) fn of_index_path(path: &Path) -> Option<SegmentId> {
        id_of(path, SUFFIX)
    }
}

/// The number in a file's name, if it has this suffix.
pub(super) fn id_of(path: &Path, suffix: &str) -> Option<SegmentId> {
    if path.extension()? != suffix {
        return None;
    }
    path.file_stem()?.to_str()?.parse().ok().map(SegmentId)
}

/// Puts a file's content under a name that ends in `.tmp`; it counts once it is renamed.
pub(super) fn write_temporary(disk: &dyn Disk, path: &Path, bytes: &[u8]) -> io::Result<Box<dyn DiskFile>> {
    match disk.remove(path) {
        // What an attempt that failed may have left.
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let file = disk.create(path, 0)?;
    file.write_all_at(&mut [IoSlice::new(bytes)], 0)?;
    Ok(file)
}

pub(super) fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(bytes[at..at + 4].try_into().expect("four bytes"))
}

pub(super) fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(bytes[at..at + 8].try_into().expect("eight bytes"))
}
