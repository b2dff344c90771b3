//! What is known of the frames that are read next of a range that somebody asked for:
//! which of their events were attempted, and whether any attempt succeeded.
//!
//! It is asked of the delivery log for up to 4,096 frames at once, as each question may
//! take a tenth of a second, and kept from slice to slice. What is attempted meanwhile is noted
//! here, so it never grows old: it begins empty, and what the log says is added to it.
//!
//! Constraints: at most 65,536 outcomes, or those of one frame. Of all lanes 16 keep theirs
//! while others have their turn to read; the others, and who pauses, ask again.

use std::ops::RangeInclusive;

use hashbrown::HashMap;
use tokio::sync::OwnedSemaphorePermit;

use super::backlog::Span;
use super::state::{Mode, State};
use crate::attempt::Outcomes;
use crate::event::{Cursor, Event, Place};
use crate::ledger::{BacklogKind, GivenUp};

/// Frames asked about at once, at most and at first.
const FRAMES_MAX: u64 = 4096;
const FRAMES_FIRST: u64 = 256;
/// Outcomes of one answer, but for those of its first frame: about 3 MiB.
pub(super) const OUTCOMES_MAX: usize = 65_536;
/// Lanes that keep what they know from turn to turn.
pub(super) const KEPT_MAX: usize = 16;
/// With more outcomes than this fewer frames are asked about the next time: about 1 MiB.
const OUTCOMES_MANY: usize = 16_384;
/// With fewer than this, more are.
const OUTCOMES_FEW: usize = OUTCOMES_MANY / 8;
/// By how much.
const STEP: u64 = 4;

/// What is known of some frames of one range.
#[derive(Debug)]
pub(super) struct Known {
    number: u64,
    kind: BacklogKind,
    sequences: RangeInclusive<u64>,
    outcomes: HashMap<Place, bool>,
    given_up: Vec<GivenUp>,
    /// The log has said all it knows.
    is_whole: bool,
    /// Everything before this was read.
    at: Cursor,
    /// It is kept from turn to turn.
    room: Option<OwnedSemaphorePermit>,
}

impl Known {
    /// Nothing yet, of the frames with which a span begins; `before` is of those before
    /// them.
    fn begin(span: Span, before: Option<&Known>) -> Known {
        let frames =
            before.filter(|before| before.number == span.number).map_or(FRAMES_FIRST, Known::next_frames);
        let first = span.at.sequence;
        Known {
            number: span.number,
            kind: span.kind,
            sequences: first..=first.saturating_add(frames - 1).min(span.through.sequence),
            outcomes: HashMap::new(),
            given_up: Vec::new(),
            is_whole: false,
            at: span.at,
            room: None,
        }
    }

    fn next_frames(&self) -> u64 {
        let frames = self.sequences.end() - self.sequences.start() + 1;
        match self.outcomes.len() {
            OUTCOMES_MANY.. => (frames / STEP).max(1),
            OUTCOMES_FEW.. => frames,
            _ => (frames * STEP).clamp(FRAMES_FIRST, FRAMES_MAX),
        }
    }

    /// Whether it is of the frame with which a span begins.
    fn is_of(&self, span: Span) -> bool {
        self.number == span.number && self.sequences.contains(&span.at.sequence)
    }

    /// Whether a slice of a span can be judged by it.
    pub(super) fn is_whole(&self, span: Span) -> bool {
        self.is_whole && self.is_of(span)
    }

    /// Adds what the delivery log and the ledger say of its frames, or of the first of them.
    fn learn(&mut self, Outcomes { by_place, through }: Outcomes, given_up: Vec<GivenUp>) {
        let (first, last) = (*self.sequences.start(), *self.sequences.end());
        self.sequences = first..=through.clamp(first, last);
        self.outcomes.retain(|place, _| self.sequences.contains(&place.sequence));
        for (place, succeeded) in by_place {
            *self.outcomes.entry(place).or_default() |= succeeded;
        }
        self.given_up.extend(given_up);
        self.is_whole = true;
    }

    /// Everything before this was read.
    pub(super) fn reached(&mut self, at: Cursor) {
        self.at = self.at.max(at);
    }

    /// An event was attempted.
    pub(super) fn attempted(&mut self, place: Place, succeeded: bool) {
        // What was read is not asked about again.
        if place.sequence >= self.at.sequence && self.sequences.contains(&place.sequence) {
            *self.outcomes.entry(place).or_default() |= succeeded;
        }
    }

    /// Events were given up.
    pub(super) fn gave_up(&mut self, range: GivenUp) {
        let is_before = range.through.sequence < *self.sequences.start();
        if !is_before && range.from.sequence <= *self.sequences.end() {
            self.given_up.push(range);
        }
    }

    /// Whether an event was asked for.
    pub(super) fn wants(&self, event: &Event) -> bool {
        match (self.kind, self.outcomes.get(&event.place)) {
            (BacklogKind::Passed, _) => true,
            (BacklogKind::Failed, Some(succeeded)) => !succeeded,
            (BacklogKind::Failed, None) => self.given_up.iter().any(|range| range.covers(event.cursor())),
            (BacklogKind::Missing, outcome) => outcome.is_none(),
        }
    }
}

impl State {
    /// The frames with which a span begins, and whether all is known of them. If not, what
    /// is attempted from now on is noted. `None` if the span is not read any more.
    pub(super) fn begin_to_know(&mut self, span: Span) -> Option<(RangeInclusive<u64>, bool)> {
        if !matches!(self.mode, Mode::Live | Mode::Behind(_)) {
            return None;
        }
        if let Some(known) = self.known.as_ref().filter(|known| known.is_of(span)) {
            return Some((known.sequences.clone(), known.is_whole));
        }
        let mut known = Known::begin(span, self.known.as_ref());
        known.room = self.known.as_mut().and_then(|before| before.room.take());
        // The ledger does not know of these.
        self.unsaved.given_up.iter().for_each(|range| known.gave_up(*range));
        Some((self.known.insert(known).sequences.clone(), false))
    }

    /// Forgets what is known, unless there is room to keep it until the lane reads on.
    pub(super) fn keep_known(&mut self, room: impl FnOnce() -> Option<OwnedSemaphorePermit>) {
        let Some(known) = &mut self.known else { return };
        known.room = known.room.take().or_else(room);
        if known.room.is_none() {
            self.known = None;
        }
    }

    /// Adds what the delivery log and the ledger say of them.
    pub(super) fn learn(&mut self, span: Span, outcomes: Outcomes, given_up: Vec<GivenUp>) {
        if let Some(known) = self.known.as_mut().filter(|known| known.is_of(span)) {
            known.learn(outcomes, given_up);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::sync::Arc;

    use tokio::sync::Semaphore;

    use super::*;
    use crate::event::EventKind;
    use crate::lane::tests::event;

    fn place(sequence: u64) -> Place {
        Place { sequence, group: 0, chunk: 0, kind: EventKind::Created }
    }

    fn span(kind: BacklogKind, sequence: u64) -> Span {
        Span { number: 1, kind, at: Cursor { sequence, ordinal: 2 }, through: Cursor::behind(100_000) }
    }

    fn outcomes(sequences: std::ops::Range<u64>, succeeded: bool, through: u64) -> Outcomes {
        Outcomes { by_place: sequences.map(|sequence| (place(sequence), succeeded)).collect(), through }
    }

    #[test]
    fn what_is_attempted_while_the_log_is_asked_counts() {
        let wanted = |kind| {
            let mut known = Known::begin(span(kind, 10), None);
            // 10 failed before and succeeds while the log is asked, which knows no more
            // of 11 than that it failed.
            known.attempted(place(10), true);
            assert!(!known.is_whole(span(kind, 10)));
            let given_up =
                GivenUp { from: Cursor::behind(13), through: Cursor::behind(14), at_ms: 0, quiet: false };
            known.learn(outcomes(10..13, false, u64::MAX), vec![given_up]);
            known.attempted(place(12), true);
            known.gave_up(GivenUp {
                from: Cursor::behind(14),
                through: Cursor::behind(15),
                at_ms: 0,
                quiet: false,
            });
            assert!(known.is_whole(span(kind, 11)));
            (10..17).filter(|sequence| known.wants(&event(*sequence))).collect::<Vec<u64>>()
        };
        assert_eq!(wanted(BacklogKind::Failed), [11, 14, 15]);
        assert_eq!(wanted(BacklogKind::Missing), [13, 14, 15, 16]);
    }

    #[test]
    fn an_answer_that_ends_early_is_of_the_frames_it_tells_of() {
        let mut known = Known::begin(span(BacklogKind::Missing, 10), None);
        known.attempted(place(40), true);
        known.attempted(place(60), true);
        known.learn(outcomes(10..50, true, 49), Vec::new());
        let whole = |sequence| known.is_whole(span(BacklogKind::Missing, sequence));
        assert_eq!([10, 49, 50].map(whole), [true, true, false]);
        assert_eq!((known.outcomes.len(), known.next_frames()), (40, FRAMES_FIRST));
        // It tells of the first frame at least.
        let mut known = Known::begin(span(BacklogKind::Missing, 10), None);
        known.learn(outcomes(10..11, true, 3), Vec::new());
        assert_eq!(known.sequences, 10..=10);
    }

    #[test]
    fn what_was_read_is_not_noted() {
        let mut known = Known::begin(span(BacklogKind::Missing, 10), None);
        known.learn(outcomes(0..0, true, u64::MAX), Vec::new());
        known.reached(Cursor { sequence: 100, ordinal: 3 });
        (10..=100).for_each(|sequence| known.attempted(place(sequence), true));
        assert_eq!(known.outcomes.len(), 1, "of the frame that is read");
    }

    #[test]
    fn what_is_known_is_kept_while_there_is_room_and_until_the_lane_pauses() {
        let (room, span) = (Arc::new(Semaphore::new(1)), span(BacklogKind::Missing, 10));
        let keep = || room.clone().try_acquire_owned().ok();
        let knowing = || {
            let mut state = State::default();
            assert!(state.begin_to_know(span).is_some());
            state.learn(span, outcomes(10..20, true, 19), Vec::new());
            state.keep_known(keep);
            state
        };
        let (mut kept, forgotten) = (knowing(), knowing());
        assert_eq!((kept.known.is_some(), forgotten.known.is_some()), (true, false));
        // The next question keeps the room.
        let next = Span { at: Cursor::behind(19), ..span };
        assert_eq!(kept.begin_to_know(next), Some((20..=275, false)));
        kept.keep_known(|| None);
        assert!(kept.known.is_some());
        kept.failures_in_a_row = u32::MAX;
        kept.pause_if_failing(BTreeSet::new(), 0);
        assert_eq!((kept.begin_to_know(next), room.available_permits()), (None, 1));
    }

    #[test]
    fn more_frames_are_asked_about_where_there_are_few_attempts() {
        let (mut at, mut counts, mut before) = (1, Vec::new(), None);
        for attempts in [0, 0, 0, OUTCOMES_MANY, OUTCOMES_MANY, OUTCOMES_FEW, 1, 1] {
            let span = span(BacklogKind::Failed, at);
            let mut known = Known::begin(span, before.as_ref());
            assert!(known.is_of(span) && known.sequences.contains(&at));
            let frames = known.sequences.clone();
            counts.push(frames.end() - frames.start() + 1);
            at = frames.end() + 1;
            // Of one frame, as it may be.
            let of_frame = (0..attempts).map(|group| (Place { group: group as u32, ..place(0) }, true));
            known.learn(Outcomes { by_place: of_frame.collect(), through: u64::MAX }, Vec::new());
            before = Some(known);
        }
        assert_eq!(counts, [256, 1024, 4096, 4096, 1024, 256, 256, 1024]);
        let other = Known::begin(Span { number: 2, ..span(BacklogKind::Missing, 99_990) }, before.as_ref());
        assert_eq!(other.sequences, 99_990..=100_001);
    }
}
