//! The buffer: committed frames that are not in Parquet yet, as they are.
//!
//! Constraints: publishing costs one short lock per group and no copy; a lookup
//! of one (organisation, user, metric) touches only its own groups. Memory is
//! bounded by whoever freezes and flushes it ([`Buffer::byte_len`] counts frames
//! and index); the buffer itself refuses nothing, because what reaches it is
//! already durable.
//!
//! ```text
//! frames  [frame, frame, ...]                         in commit order
//! attempts [frame, frame, ...]                        delivery attempts, in commit order
//! index   hash(org, user, metric) -> newest entry -> older entry -> ...
//!         entry = (frame, group, older)               64 shards
//! ```
//!
//! Life cycle: active (the committer publishes into it), frozen (being flushed,
//! still read), dropped with the last snapshot that holds it.

use std::hash::{BuildHasherDefault, Hasher};
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use hashbrown::HashMap;
use parking_lot::{Mutex, RwLock};
use xxhash_rust::xxh3::Xxh3;

use crate::frame::{AttemptsFrame, Group, SamplesFrame, Sequence, Stamp};

const SHARDS: usize = 64;
/// Memory the index takes for one group: an entry and a share of the map.
const GROUP_INDEX_BYTES: usize = 48;
const NONE: u32 = u32::MAX;

/// Committed samples and attempts in memory.
#[derive(Debug)]
pub struct Buffer {
    frames: RwLock<Vec<SamplesFrame>>,
    attempts: RwLock<Vec<AttemptsFrame>>,
    shards: Box<[Mutex<Shard>]>,
    bytes: AtomicUsize,
    samples: AtomicU64,
    last: AtomicU64,
    ordering: AtomicU64,
}

#[derive(Debug, Default)]
struct Shard {
    newest: HashMap<u64, u32, BuildHasherDefault<Hashed>>,
    entries: Vec<Entry>,
}

#[derive(Clone, Copy, Debug)]
struct Entry {
    frame: u32,
    group: u32,
    older: u32,
}

/// A group of a frame that the reader keeps alive.
#[derive(Clone, Debug)]
pub struct GroupRef {
    /// The frame it stands in.
    pub frame: SamplesFrame,
    /// Its index there.
    pub index: usize,
}

impl GroupRef {
    /// The group.
    #[must_use]
    pub fn group(&self) -> Group<'_> {
        self.frame.group(self.index)
    }
}

impl Default for Buffer {
    fn default() -> Buffer {
        Buffer {
            frames: RwLock::default(),
            attempts: RwLock::default(),
            shards: (0..SHARDS).map(|_| Mutex::default()).collect(),
            bytes: AtomicUsize::new(0),
            samples: AtomicU64::new(0),
            last: AtomicU64::new(0),
            ordering: AtomicU64::new(0),
        }
    }
}

impl Buffer {
    /// Makes committed frames visible, in commit order. Only the committer, or
    /// recovery before it, calls this.
    pub fn publish(&self, frames: &[SamplesFrame]) {
        let first = {
            let mut all = self.frames.write();
            let first = all.len();
            all.extend_from_slice(frames);
            first
        };
        for (offset, frame) in frames.iter().enumerate() {
            self.index(u32::try_from(first + offset).expect("a buffer holds under 4 billion frames"), frame);
            let bytes = frame.byte_len() + frame.group_count() * GROUP_INDEX_BYTES;
            self.bytes.fetch_add(bytes, Ordering::Relaxed);
            self.samples.fetch_add(frame.sample_count() as u64, Ordering::Relaxed);
            self.advance(&frame.header().stamp);
        }
    }

    /// Makes a committed frame of attempts visible. Only the committer, or recovery
    /// before it, calls this.
    pub fn publish_attempts(&self, frame: &AttemptsFrame) {
        self.attempts.write().push(frame.clone());
        self.bytes.fetch_add(frame.byte_len(), Ordering::Relaxed);
        self.advance(&frame.header().stamp);
    }

    /// Moves the position over a committed frame without samples, so that a flush
    /// of this buffer settles it too.
    pub fn advance(&self, stamp: &Stamp) {
        self.ordering.fetch_max(stamp.ordering, Ordering::Relaxed);
        self.last.fetch_max(stamp.sequence.0, Ordering::Release);
    }

    fn index(&self, frame_index: u32, frame: &SamplesFrame) {
        let org = frame.org();
        for (group_index, group) in (0u32..).zip(frame.groups()) {
            let hash = series_hash(org, group.user, group.metric);
            let mut shard = self.shards[shard_of(hash)].lock();
            let position = u32::try_from(shard.entries.len()).expect("a shard holds under 4 billion groups");
            let older = shard.newest.insert(hash, position).unwrap_or(NONE);
            shard.entries.push(Entry { frame: frame_index, group: group_index, older });
        }
    }

    /// The groups of one user's metric that overlap `start..end`, newest first.
    #[must_use]
    pub fn find(&self, org: &str, user: &str, metric: &str, start: i64, end: i64) -> Vec<GroupRef> {
        let entries = self.entries(series_hash(org, user, metric));
        let frames = self.frames.read();
        let groups = entries.iter().map(|entry| GroupRef {
            frame: frames[entry.frame as usize].clone(),
            index: entry.group as usize,
        });
        groups
            .filter(|found| {
                let group = found.group();
                // Equal hashes are not yet equal names.
                found.frame.org() == org
                    && group.user == user
                    && group.metric == metric
                    && group.earliest < end
                    && group.latest >= start
            })
            .collect()
    }

    fn entries(&self, hash: u64) -> Vec<Entry> {
        let shard = self.shards[shard_of(hash)].lock();
        let mut found = Vec::new();
        let mut next = shard.newest.get(&hash).copied().unwrap_or(NONE);
        while next != NONE {
            let entry = shard.entries[next as usize];
            found.push(entry);
            next = entry.older;
        }
        found
    }

    /// Every frame, in commit order.
    #[must_use]
    pub fn frames(&self) -> Vec<SamplesFrame> {
        self.frames.read().clone()
    }

    /// Every frame of attempts, in commit order.
    #[must_use]
    pub fn attempts(&self) -> Vec<AttemptsFrame> {
        self.attempts.read().clone()
    }

    /// Memory of frames and index.
    #[must_use]
    pub fn byte_len(&self) -> usize {
        self.bytes.load(Ordering::Relaxed)
    }

    /// Samples in it.
    #[must_use]
    pub fn sample_count(&self) -> u64 {
        self.samples.load(Ordering::Relaxed)
    }

    /// The greatest `ordering` of its frames and of what it was moved over.
    #[must_use]
    pub fn ordering(&self) -> u64 {
        self.ordering.load(Ordering::Relaxed)
    }

    /// Sequence of the newest frame; [`Sequence::ZERO`] if there is none.
    #[must_use]
    pub fn last(&self) -> Sequence {
        Sequence(self.last.load(Ordering::Acquire))
    }
}

fn series_hash(org: &str, user: &str, metric: &str) -> u64 {
    let mut hasher = Xxh3::new();
    for part in [org, user, metric] {
        hasher.update(part.as_bytes());
        hasher.update(&[0]);
    }
    hasher.digest()
}

/// The top bits choose the shard, so that the map inside still sees the others.
fn shard_of(hash: u64) -> usize {
    (hash >> 58) as usize
}

/// Keys are hashes already.
#[derive(Default)]
struct Hashed(u64);

impl Hasher for Hashed {
    fn write(&mut self, _: &[u8]) {
        unreachable!("keys are u64");
    }

    fn write_u64(&mut self, hash: u64) {
        // The shard's bits are equal for all its keys, and hashbrown tags by the
        // top seven.
        self.0 = hash.rotate_left(12);
    }

    fn finish(&self) -> u64 {
        self.0
    }
}
