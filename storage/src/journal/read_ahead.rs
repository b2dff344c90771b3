//! Which sealed segments somebody is about to read, and which the system's page cache need
//! not keep.
//!
//! A sealed segment is gone through once, for its index. Whoever keeps up reads frames from
//! memory, so mostly nobody reads it again until it is removed. Left alone, its pages push
//! those of data files out, and each page of the next segment has to be a new one: on a
//! virtual machine its first touch is a fault in the host, 8 us for 4 KiB, more than
//! everything else that a frame of that size costs the journal.
//!
//! ```text
//! sealed, indexed --> read lately, it or one within SEGMENTS_AHEAD before it? --no--> let go
//!                           '--yes--> kept, looked at again
//! ```
//!
//! Who writes: readers of segments, at each read. Who reads: the indexer.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use super::segment::SegmentId;

/// Segments that a reader finds in memory before it: with those of 64 MiB a gigabyte, some
/// seconds for a lane that catches up. What is beyond comes from the disk in its turn.
const SEGMENTS_AHEAD: u64 = 16;
/// How long after its last read a segment is one that is being read: a lane that lags stops
/// to read while it sends what it has read.
const READ_LATELY: Duration = Duration::from_secs(10);

/// The segments that were read, and when last.
#[derive(Debug, Default)]
pub(super) struct Reads(Mutex<BTreeMap<SegmentId, Instant>>);

impl Reads {
    pub(super) fn note(&self, id: SegmentId, now: Instant) {
        self.0.lock().insert(id, now);
    }

    /// Forgets what was not read lately, and adds it to `cached`.
    pub(super) fn end(&self, cached: &mut BTreeSet<SegmentId>, now: Instant) {
        self.0.lock().retain(|id, read| {
            let is_recent = now.saturating_duration_since(*read) < READ_LATELY;
            if !is_recent {
                cached.insert(*id);
            }
            is_recent
        });
    }

    /// Whether somebody reads this segment, or one from which it is not far.
    pub(super) fn come_to(&self, id: SegmentId) -> bool {
        let first = SegmentId(id.0.saturating_sub(SEGMENTS_AHEAD));
        self.0.lock().range(first..=id).next().is_some()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_come_to_what_is_not_far_before_them_for_a_while() {
        let (reads, begin, mut cached) = (Reads::default(), Instant::now(), BTreeSet::new());
        assert!(!reads.come_to(SegmentId(7)));
        reads.note(SegmentId(7), begin);
        assert!(reads.come_to(SegmentId(7)) && reads.come_to(SegmentId(7 + SEGMENTS_AHEAD)));
        assert!(!reads.come_to(SegmentId(6)) && !reads.come_to(SegmentId(8 + SEGMENTS_AHEAD)));
        reads.note(SegmentId(7), begin + READ_LATELY / 2);
        reads.end(&mut cached, begin + READ_LATELY);
        assert!(reads.come_to(SegmentId(7)) && cached.is_empty());
        reads.end(&mut cached, begin + 2 * READ_LATELY);
        assert!(!reads.come_to(SegmentId(7)));
        assert_eq!(cached, BTreeSet::from([SegmentId(7)]));
    }
}
