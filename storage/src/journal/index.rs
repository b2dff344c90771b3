//! Where frames stand in the segments, for readers that begin in the middle.
//!
//! Constraints: memory of one mark for each [`MARK_BYTES`] of journal, 16 KiB for a
//! full segment; a mark is made by the writer as it appends, or by a scan when a
//! reader first asks for a segment that a start did not read.
//!
//! Who writes: the writer, and recovery before it. Who reads: log cursors.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use parking_lot::{Condvar, Mutex, RwLock};

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
    /// Told when a segment is begun, and so another sealed.
    sealed: Condvar,
}

#[derive(Debug, Default)]
struct State {
    segments: BTreeMap<SegmentId, SegmentMarks>,
    /// Segments with an index of their frames beside them.
    indexed: BTreeSet<SegmentId>,
    /// Segments that cannot be gone through.
    unreadable: BTreeSet<SegmentId>,
    /// Everything up to this may be gone.
    removed: Sequence,
}

/// The segment in which a frame is looked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Located {
    pub(super) id: SegmentId,
    /// Of its file.
    pub(super) generation: u32,
    /// Its first frame.
    pub(super) first: Sequence,
    /// No later sequence is in it, if it is sealed.
    pub(super) last: Option<Sequence>,
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
        let begun = !state.segments.contains_key(&segment);
        let segment = state.segments.entry(segment).or_default();
        if begun {
            self.sealed.notify_all();
        }
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

    /// Sealed segments behind `id`, oldest first.
    pub(super) fn sealed_behind(&self, id: SegmentId) -> Vec<SegmentId> {
        let state = self.state.lock();
        let mut behind: Vec<SegmentId> = state.segments.range(id.next()..).map(|(id, _)| *id).collect();
        behind.pop();
        behind
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
        state.unreadable.remove(&segment);
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

    /// The generation of a segment's file, if it is there.
    pub(super) fn generation(&self, segment: SegmentId) -> Option<u32> {
        self.state.lock().segments.get(&segment).map(|known| known.generation)
    }

    /// Every segment that holds frames, with the generation of its file, oldest first.
    pub(super) fn all(&self) -> Vec<(SegmentId, u32)> {
        let state = self.state.lock();
        let holding = state.segments.iter().filter(|(_, known)| !known.marks.is_empty());
        holding.map(|(id, known)| (*id, known.generation)).collect()
    }

    /// Whether a segment has an index beside it.
    pub(super) fn is_indexed(&self, segment: SegmentId) -> bool {
        self.state.lock().indexed.contains(&segment)
    }

    /// Notes that a segment has an index beside it, or none any more, unless its file is
    /// of another generation by now.
    pub(super) fn set_indexed(&self, segment: SegmentId, generation: u32, indexed: bool) {
        let mut state = self.state.lock();
        match state.segments.get(&segment) {
            Some(known) if known.generation == generation && indexed => {
                state.indexed.insert(segment);
            }
            Some(known) if known.generation == generation => {
                state.indexed.remove(&segment);
            }
            _ => {}
        }
    }

    /// Notes what a start found beside the segments.
    pub(super) fn note_indexed(&self, indexed: BTreeSet<SegmentId>) {
        self.state.lock().indexed = indexed;
    }

    /// Forgets a segment's index; true if it had one, which the caller removes.
    pub(super) fn take_indexed(&self, segment: SegmentId) -> bool {
        self.state.lock().indexed.remove(&segment)
    }

    /// Notes that a segment cannot be gone through.
    pub(super) fn set_unreadable(&self, segment: SegmentId) {
        self.state.lock().unreadable.insert(segment);
    }

    /// The oldest sealed segment without an index, unless it cannot have one.
    pub(super) fn unindexed(&self) -> Option<(SegmentId, u32)> {
        let state = self.state.lock();
        let current = state.segments.iter().rev().find(|(_, known)| !known.marks.is_empty())?.0;
        let sealed = state.segments.range(..current).filter(|(_, known)| !known.marks.is_empty());
        let mut without = sealed
            .filter(|(id, _)| !state.indexed.contains(id) && !state.unreadable.contains(id))
            .map(|(id, known)| (*id, known.generation));
        without.next()
    }

    /// Whether what must outlive a segment is durable.
    #[must_use]
    pub fn may_go(&self, segment: SegmentId) -> bool {
        let state = self.state.lock();
        let empty = state.segments.get(&segment).is_none_or(|known| known.marks.is_empty());
        empty || state.indexed.contains(&segment) || state.unreadable.contains(&segment)
    }

    /// Waits until another segment is sealed, at most `timeout` long.
    pub(super) fn wait_sealed(&self, timeout: Duration) {
        let mut state = self.state.lock();
        self.sealed.wait_for(&mut state, timeout);
    }

    /// Where the first frame behind `after` may be; `Err` if frames behind it are gone.
    pub(super) fn locate_behind(&self, after: Sequence) -> Result<Option<Located>, Sequence> {
        let state = self.state.lock();
        if after < state.removed {
            return Err(state.removed);
        }
        let found = state.holding().rev().find(|(_, first)| *first <= after.next());
        Ok(found.or_else(|| state.holding().next()).map(|found| state.located(found)))
    }

    /// Where the last frame before `before` is, if it is not gone.
    pub(super) fn locate_before(&self, before: Sequence) -> Option<Located> {
        let state = self.state.lock();
        state.holding().rev().find(|(_, first)| *first < before).map(|found| state.located(found))
    }

    /// The last mark of a segment before `before`, and where the next one is.
    pub(super) fn mark_before(&self, segment: SegmentId, before: Sequence) -> Option<(Mark, Option<u64>)> {
        let state = self.state.lock();
        let marks = &state.segments.get(&segment)?.marks;
        let behind = marks.partition_point(|mark| mark.sequence < before);
        let mark = marks.get(behind.checked_sub(1)?)?;
        Some((*mark, marks.get(behind).map(|next| next.offset)))
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

impl State {
    /// The segments that hold frames, oldest first, each with its first one.
    fn holding(&self) -> impl DoubleEndedIterator<Item = (SegmentId, Sequence)> {
        self.segments.iter().filter_map(|(id, known)| Some((*id, known.marks.first()?.sequence)))
    }

    fn located(&self, (id, first): (SegmentId, Sequence)) -> Located {
        let mut behind = self.segments.range(id.next()..);
        let next = behind.find_map(|(_, known)| known.marks.first());
        Located {
            id,
            generation: self.segments.get(&id).map_or(0, |known| known.generation),
            first,
            last: next.map(|next| Sequence(next.sequence.0 - 1)),
        }
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
