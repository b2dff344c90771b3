//! Frames that were read from segments a moment ago, for whoever opens them next.
//!
//! A lane that lags reads frames to see whom they concern, and each of its deliveries asks
//! for its frame once more, to make a body of it. Without this that is a look into the
//! index, a file to open and a read for every delivery, which costs more than to send it.
//!
//! Constraints: at most [`BYTES_MAX`] of frames over all readers, the oldest go first;
//! beyond that a delivery reads its frame from its segment. If nobody used them for
//! [`UNUSED_MAX`] all are let go. Behind an erasure nothing is left of what was read before
//! it, or comes of a file that was opened before it.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use hashbrown::HashMap;
use hashbrown::hash_map::Entry;
use parking_lot::Mutex;

use crate::frame::{Frame, Sequence};

/// A lane takes 512 events at most, some megabytes of samples: enough for the lanes that
/// read at a time, and for as many that still send what they read before.
const BYTES_MAX: usize = 32 * 1024 * 1024;
/// How long frames are kept that nobody puts others behind, or asks for.
const UNUSED_MAX: Duration = Duration::from_secs(10);

/// Frames by sequence.
#[derive(Debug, Default)]
pub(super) struct Recent {
    kept: Mutex<Kept>,
    /// How often all were forgotten; raised under the lock.
    era: AtomicU64,
}

#[derive(Debug, Default)]
struct Kept {
    frames: HashMap<Sequence, Frame>,
    /// As they came.
    order: VecDeque<Sequence>,
    bytes: usize,
    used: Option<Instant>,
}

/// Between two times that all are forgotten. Frames of files that are opened in it may be
/// kept in it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Era(pub(super) u64);

impl Recent {
    /// To be asked for before a file is opened.
    pub(super) fn era(&self) -> Era {
        Era(self.era.load(Ordering::Acquire))
    }

    /// Keeps frames of files that were opened in `era`, as far as there is room.
    pub(super) fn keep<'a>(&self, era: Era, frames: impl Iterator<Item = &'a Frame>) {
        let mut kept = self.kept.lock();
        let kept = &mut *kept;
        if self.era() != era {
            return;
        }
        for frame in frames {
            if let Entry::Vacant(room) = kept.frames.entry(frame.sequence()) {
                room.insert(frame.clone());
                kept.order.push_back(frame.sequence());
                kept.bytes += frame.byte_len();
            }
        }
        while kept.bytes > BYTES_MAX
            && let Some(oldest) = kept.order.pop_front()
        {
            kept.bytes -= kept.frames.remove(&oldest).map_or(0, |frame| frame.byte_len());
        }
        kept.used = Some(Instant::now());
    }

    pub(super) fn has(&self, sequence: Sequence) -> bool {
        self.kept.lock().frames.contains_key(&sequence)
    }

    pub(super) fn find(&self, sequence: Sequence) -> Option<Frame> {
        let mut kept = self.kept.lock();
        let found = kept.frames.get(&sequence).cloned()?;
        kept.used = Some(Instant::now());
        Some(found)
    }

    /// Forgets all, and what is being read at this moment.
    pub(super) fn forget(&self) {
        let forgotten = {
            let mut kept = self.kept.lock();
            self.era.fetch_add(1, Ordering::AcqRel);
            std::mem::take(&mut *kept)
        };
        // Outside the lock: it may be a hundred thousand frames.
        drop(forgotten);
    }

    /// Lets all go if nobody used them lately.
    pub(super) fn let_go(&self, now: Instant) {
        let unused = {
            let mut kept = self.kept.lock();
            let is_unused = kept.used.is_some_and(|used| now.saturating_duration_since(used) >= UNUSED_MAX);
            is_unused.then(|| std::mem::take(&mut *kept))
        };
        drop(unused);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::frame::{Published, Stamp, encode_published};

    fn frame(sequence: u64, bytes: usize) -> Frame {
        let data = format!("{{\"filler\":\"{}\"}}", "x".repeat(bytes));
        let event = Published { org: "o", user: None, name: "n", id: None, bound: false, data: &data };
        let sequence = Sequence(sequence);
        let stamp = Stamp { sequence, synced: Sequence::ZERO, ordering: 1, committed_at: 1 };
        Frame::parse(encode_published(&event).seal(stamp).into()).unwrap()
    }

    #[test]
    fn the_oldest_go_when_there_is_no_room() {
        let recent = Recent::default();
        let frames: Vec<Frame> = (1..=40).map(|sequence| frame(sequence, 1024 * 1024)).collect();
        for _ in 0..2 {
            // Again is no more of them.
            frames.iter().for_each(|frame| recent.keep(recent.era(), [frame].into_iter()));
            let kept = (1..=40).filter(|sequence| recent.has(Sequence(*sequence))).collect::<Vec<_>>();
            assert_eq!(kept, (10..=40).collect::<Vec<_>>());
        }
        assert!(recent.kept.lock().bytes <= BYTES_MAX);
        assert_eq!(recent.find(Sequence(40)).map(|frame| frame.sequence()), Some(Sequence(40)));
        recent.keep(recent.era(), [&frame(41, BYTES_MAX)].into_iter());
        let kept = recent.kept.lock();
        assert_eq!((kept.frames.len(), kept.order.len(), kept.bytes), (0, 0, 0));
    }

    #[test]
    fn what_was_read_before_all_was_forgotten_is_not_kept() {
        let recent = Recent::default();
        let before = recent.era();
        recent.keep(before, [&frame(1, 10)].into_iter());
        recent.forget();
        recent.keep(before, [&frame(2, 10)].into_iter());
        assert!(!recent.has(Sequence(1)) && !recent.has(Sequence(2)));
        recent.keep(recent.era(), [&frame(2, 10)].into_iter());
        assert!(recent.has(Sequence(2)));
    }

    #[test]
    fn what_nobody_uses_is_let_go() {
        let recent = Recent::default();
        recent.keep(recent.era(), [&frame(1, 10)].into_iter());
        recent.let_go(Instant::now());
        assert!(recent.has(Sequence(1)));
        recent.let_go(Instant::now() + UNUSED_MAX);
        assert!(!recent.has(Sequence(1)));
        assert_eq!(recent.kept.lock().bytes, 0);
    }
}
