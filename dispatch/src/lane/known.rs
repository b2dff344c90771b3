//! What is known of the frames that are read next of a range that somebody asked for:
//! which of their events were attempted, and whether any attempt succeeded.
//!
//! It is asked of the delivery log for up to 4,096 frames at once, as each question may
//! take a tenth of a second, and kept from slice to slice. What is attempted meanwhile is noted
//! here, so it never grows old: it begins empty, and what the log says is added to it.

use std::ops::RangeInclusive;

use hashbrown::HashMap;

use super::backlog::Span;
use super::state::State;
use crate::event::{Event, Place};
use crate::ledger::{BacklogKind, GivenUp};

/// Frames asked about at once, at most and at first.
const FRAMES_MAX: u64 = 4096;
const FRAMES_FIRST: u64 = 256;
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

    /// Adds what the delivery log and the ledger say of its frames.
    fn learn(&mut self, outcomes: HashMap<Place, bool>, given_up: Vec<GivenUp>) {
        for (place, succeeded) in outcomes {
            *self.outcomes.entry(place).or_default() |= succeeded;
        }
        self.given_up.extend(given_up);
        self.is_whole = true;
    }

    /// An event was attempted.
    pub(super) fn attempted(&mut self, place: Place, succeeded: bool) {
        if self.sequences.contains(&place.sequence) {
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
    /// is attempted from now on is noted.
    pub(super) fn begin_to_know(&mut self, span: Span) -> (RangeInclusive<u64>, bool) {
        if let Some(known) = self.known.as_ref().filter(|known| known.is_of(span)) {
            return (known.sequences.clone(), known.is_whole);
        }
        let mut known = Known::begin(span, self.known.as_ref());
        // The ledger does not know of these.
        self.unsaved.given_up.iter().for_each(|range| known.gave_up(*range));
        (self.known.insert(known).sequences.clone(), false)
    }

    /// Adds what the delivery log and the ledger say of them.
    pub(super) fn learn(&mut self, span: Span, outcomes: HashMap<Place, bool>, given_up: Vec<GivenUp>) {
        if let Some(known) = self.known.as_mut().filter(|known| known.is_of(span)) {
            known.learn(outcomes, given_up);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::{Cursor, EventKind};
    use crate::lane::tests::event;

    fn place(sequence: u64) -> Place {
        Place { sequence, group: 0, chunk: 0, kind: EventKind::Created }
    }

    fn span(kind: BacklogKind, sequence: u64) -> Span {
        Span { number: 1, kind, at: Cursor { sequence, ordinal: 2 }, through: Cursor::behind(100_000) }
    }

    fn outcomes(sequences: std::ops::Range<u64>, succeeded: bool) -> HashMap<Place, bool> {
        sequences.map(|sequence| (place(sequence), succeeded)).collect()
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
            known.learn(outcomes(10..13, false), vec![given_up]);
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
            known.learn(of_frame.collect(), Vec::new());
            before = Some(known);
        }
        assert_eq!(counts, [256, 1024, 4096, 4096, 1024, 256, 256, 1024]);
        let other = Known::begin(Span { number: 2, ..span(BacklogKind::Missing, 99_990) }, before.as_ref());
        assert_eq!(other.sequences, 99_990..=100_001);
    }
}
