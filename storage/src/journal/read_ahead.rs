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
//! sealed --indexed--> no reader within SEGMENTS_AHEAD before it --> let go
//!                     a lane that lags is on its way to it      --> kept, looked at again
//! ```
//!
//! Who writes: readers of segments, as they open and leave one. Who reads: the indexer.

use std::collections::BTreeMap;
use std::sync::Arc;

use parking_lot::Mutex;

use super::segment::SegmentId;

/// Segments that a reader finds in memory before it: with those of 64 MiB a gigabyte, some
/// seconds for a lane that catches up. What is beyond comes from the disk in its turn.
const SEGMENTS_AHEAD: u64 = 16;

/// The segments that are being read, each with how many read it.
#[derive(Clone, Debug, Default)]
pub(super) struct Readers(Arc<Mutex<BTreeMap<SegmentId, usize>>>);

/// Somebody reads a segment, until it is dropped.
#[derive(Debug)]
pub(super) struct Reading {
    readers: Readers,
    id: SegmentId,
}

impl Readers {
    pub(super) fn begin(&self, id: SegmentId) -> Reading {
        *self.0.lock().entry(id).or_default() += 1;
        Reading { readers: self.clone(), id }
    }

    /// Whether somebody reads this segment, or one from which it is not far.
    pub(super) fn come_to(&self, id: SegmentId) -> bool {
        let first = SegmentId(id.0.saturating_sub(SEGMENTS_AHEAD));
        self.0.lock().range(first..=id).next().is_some()
    }
}

impl Drop for Reading {
    fn drop(&mut self) {
        let mut reading = self.readers.0.lock();
        if let Some(count) = reading.get_mut(&self.id) {
            *count -= 1;
            if *count == 0 {
                reading.remove(&self.id);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn readers_come_to_what_is_not_far_before_them() {
        let readers = Readers::default();
        assert!(!readers.come_to(SegmentId(7)));
        let (first, second) = (readers.begin(SegmentId(7)), readers.begin(SegmentId(7)));
        assert!(readers.come_to(SegmentId(7)) && readers.come_to(SegmentId(7 + SEGMENTS_AHEAD)));
        assert!(!readers.come_to(SegmentId(6)) && !readers.come_to(SegmentId(8 + SEGMENTS_AHEAD)));
        drop(first);
        assert!(readers.come_to(SegmentId(7)));
        drop(second);
        assert!(!readers.come_to(SegmentId(7)));
    }
}
