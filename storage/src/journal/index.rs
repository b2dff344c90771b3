//! Where frames stand in the segments, for readers that begin in the middle.
//!
//! Constraints: memory of one mark for each [`MARK_BYTES`] of journal, 16 KiB for a
//! full segment; a mark is made by the writer as it appends, or by a scan when a
//! reader first asks for a segment that a start did not read.
//!
//! Who writes: the writer, and recovery before it. Who reads: log cursors.

use std::collections::BTreeMap;

use parking_lot::{Mutex, RwLock};

use super::segment::SegmentId;
use crate::frame::Sequence;

/// Journal bytes from one mark to the next: what a reader reads in vain at most.
pub(super) const MARK_BYTES: u64 = 64 * 1024;

/// A frame's place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Mark {
    pub(super) sequence: Sequence,
    pub(super) offset: u64,
}

/// The marks of a segment, rising.
#[derive(Clone, Debug, Default)]
pub(super) struct SegmentMarks {
    /// The first is the segment's first frame.
    marks: Vec<Mark>,
    /// Whether it has marks beyond the first frame.
    scanned: bool,
    /// How often its file was replaced: marks are those of one file.
    generation: u32,
}

/// What the journal holds, by segment.
#[derive(Debug, Default)]
pub struct JournalIndex {
    state: Mutex<State>,
    /// Written while a segment's file is removed or replaced; read between a look here
    /// and the opening of the file.
    pub(super) names: RwLock<()>,
}

#[derive(Debug, Default)]
struct State {
    segments: BTreeMap<SegmentId, SegmentMarks>,
    /// Everything up to this may be gone.
    removed: Sequence,
}

/// Where to begin to read for frames behind a sequence.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Start {
    /// Here.
    At(SegmentId, u64),
    /// In this segment, which has to be scanned first, and the generation of its file.
    Unscanned(SegmentId, u32),
    /// Frames behind it are gone; the first that is not is behind this one.
    Gone(Sequence),
    /// No frame is behind it.
    Nothing,
}

impl JournalIndex {
    /// Notes a frame; frames come in order.
    pub(super) fn note(&self, segment: SegmentId, mark: Mark) {
        let mut state = self.state.lock();
        let segment = state.segments.entry(segment).or_default();
        segment.scanned = true;
        if segment.marks.last().is_none_or(|last| mark.offset - last.offset >= MARK_BYTES) {
            segment.marks.push(mark);
        }
    }

    /// Notes only where a segment's frames begin.
    pub(super) fn note_first(&self, segment: SegmentId, mark: Mark) {
        let marks = SegmentMarks { marks: vec![mark], scanned: false, generation: 0 };
        self.state.lock().segments.insert(segment, marks);
    }

    /// Puts the marks of a scan in place, unless the file was replaced meanwhile.
    pub(super) fn note_scan(&self, segment: SegmentId, generation: u32, marks: Vec<Mark>) {
        let mut state = self.state.lock();
        if let Some(known) = state.segments.get_mut(&segment).filter(|known| known.generation == generation) {
            *known = SegmentMarks { marks, scanned: true, generation };
        }
    }

    /// Puts the marks of a segment's new file in place; false if the segment was
    /// removed. The caller holds `names`.
    pub(super) fn replace(&self, segment: SegmentId, marks: Vec<Mark>) -> bool {
        let mut state = self.state.lock();
        let Some(known) = state.segments.get_mut(&segment) else { return false };
        *known = SegmentMarks { marks, scanned: true, generation: known.generation + 1 };
        true
    }

    /// Segments before `current` that hold frames, oldest first.
    pub(super) fn before(&self, current: SegmentId) -> Vec<SegmentId> {
        self.state.lock().segments.range(..current).map(|(id, _)| *id).collect()
    }

    /// Whether it has this segment.
    pub(super) fn contains(&self, segment: SegmentId) -> bool {
        self.state.lock().segments.contains_key(&segment)
    }

    /// Forgets frames that were refused after they were noted.
    pub(super) fn cut_back(&self, segment: SegmentId, offset: u64) {
        if let Some(known) = self.state.lock().segments.get_mut(&segment) {
            known.marks.retain(|mark| mark.offset < offset);
        }
    }

    /// Forgets a removed segment, whose last frame was `last`.
    pub(super) fn remove(&self, segment: SegmentId, last: Sequence) {
        let mut state = self.state.lock();
        state.segments.remove(&segment);
        state.removed = state.removed.max(last);
    }

    /// Says that everything up to `sequence` may be gone.
    pub(super) fn set_removed(&self, sequence: Sequence) {
        self.state.lock().removed = sequence;
    }

    /// The last sequence that may be gone: a reader behind it missed frames.
    #[must_use]
    pub fn removed(&self) -> Sequence {
        self.state.lock().removed
    }

    /// Where the first frame behind `after` is looked for.
    pub(super) fn start(&self, after: Sequence) -> Start {
        let state = self.state.lock();
        if after < state.removed {
            return Start::Gone(state.removed);
        }
        let wanted = after.next();
        let begun = |marks: &SegmentMarks| marks.marks.first().is_some_and(|first| first.sequence <= wanted);
        let found = state.segments.iter().rev().find(|(_, marks)| begun(marks));
        // Sequences have gaps, so the first frame of all may lie behind `wanted`.
        let found = found.or_else(|| state.segments.iter().find(|(_, marks)| !marks.marks.is_empty()));
        let Some((&id, segment)) = found else { return Start::Nothing };
        if !segment.scanned {
            return Start::Unscanned(id, segment.generation);
        }
        let at = segment.marks.partition_point(|mark| mark.sequence <= wanted).saturating_sub(1);
        Start::At(id, segment.marks[at].offset)
    }

    /// The segment behind `segment` that holds frames.
    pub(super) fn following(&self, segment: SegmentId) -> Option<(SegmentId, u64)> {
        let state = self.state.lock();
        let mut behind = state.segments.range(segment.next()..);
        behind.find_map(|(id, marks)| Some((*id, marks.marks.first()?.offset)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mark(sequence: u64, offset: u64) -> Mark {
        Mark { sequence: Sequence(sequence), offset }
    }

    #[test]
    fn a_reader_begins_at_or_before_the_frame_it_wants() {
        let index = JournalIndex::default();
        assert_eq!(index.start(Sequence(0)), Start::Nothing);
        index.note_first(SegmentId(1), mark(3, 64));
        for (sequence, offset) in [(10, 64), (11, 1000), (12, 64 + MARK_BYTES), (20, 64 + 3 * MARK_BYTES)] {
            index.note(SegmentId(2), mark(sequence, offset));
        }
        index.note(SegmentId(4), mark(30, 64));
        let at = |id, offset| Start::At(SegmentId(id), offset);
        for (after, start) in [
            (0, Start::Unscanned(SegmentId(1), 0)),
            (8, Start::Unscanned(SegmentId(1), 0)),
            (9, at(2, 64)),
            (11, at(2, 64 + MARK_BYTES)),
            (15, at(2, 64 + MARK_BYTES)),
            (28, at(2, 64 + 3 * MARK_BYTES)),
            (29, at(4, 64)),
            (100, at(4, 64)),
        ] {
            assert_eq!(index.start(Sequence(after)), start, "{after}");
        }
        assert_eq!(index.following(SegmentId(2)), Some((SegmentId(4), 64)));
        assert_eq!(index.following(SegmentId(4)), None);
        index.remove(SegmentId(1), Sequence(9));
        assert_eq!(index.start(Sequence(8)), Start::Gone(Sequence(9)));
        assert_eq!(index.start(Sequence(9)), at(2, 64));
        index.cut_back(SegmentId(4), 64);
        assert_eq!(index.following(SegmentId(2)), None);
    }
}
