//! Events of one series, drawn together while their window is open.
//!
//! Windows are cut at multiples of `coalesce_ms` of the events' `ordering`, the same
//! for all series, so that whoever reads the journal again from the beginning of a
//! window draws the same events together. A window of a series is cut earlier at 256
//! members or 2,500 samples, and the next one begins. An event that need not be taken,
//! because it waits for another attempt or is decided, counts like any other: so what is
//! read again is cut where it was before.
//!
//! Constraints: at most 4,096 series of a lane have open windows; then the oldest is
//! closed. At most 65,536 events join between the windows' beginning and their end;
//! then all of them are closed and others begin, from which a reader may begin too.
//! Parts of an event that is too long for one body are never drawn together with others:
//! who counts them must find them all.

use std::collections::VecDeque;

use hashbrown::HashMap;

use super::taken::Ticket;
use crate::event::{Event, EventKind, Member};

/// Members of one event: bounds what an exception of it takes.
const MEMBERS_MAX: usize = 256;
/// Samples of one event: Open Wearables' limit.
const SAMPLES_MAX: u32 = 2500;
/// Series whose windows are open.
const OPEN_MAX: usize = 4096;
/// Events that join, with 32 bytes each until all of them are decided: 2 MiB.
pub(super) const JOINED_MAX: usize = 65_536;

/// A lane's open windows. All of them have the same number and beginning: with the
/// first event of a later one they are closed.
#[derive(Debug, Default)]
pub(super) struct Windows {
    /// Which multiple they are.
    number: u64,
    /// What holds the lane's position at their beginning.
    ticket: Option<Ticket>,
    /// Events that joined since.
    joined: usize,
    open: HashMap<Series, Open>,
    /// Keys of `open`, oldest first; one that was cut meanwhile may stand here again.
    order: VecDeque<(u64, Series)>,
    cuts: u64,
}

/// What is drawn together: a key, what became of the samples, and whether they are
/// history.
type Series = (u64, EventKind, bool);

/// The window of a series.
#[derive(Debug, Default)]
struct Open {
    /// Its events in their order; `None` for one that need not be taken.
    events: Vec<Option<Member>>,
    /// Bytes of the data of those that are, about.
    bytes: u32,
    /// Samples of all of them.
    samples: u32,
    /// Tells it from an earlier one of the same series.
    cut: u64,
}

/// Events that were drawn together.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Drawn {
    pub(super) members: Vec<Member>,
    /// Bytes of their data, about.
    pub(super) bytes: u32,
    /// They are history.
    pub(super) backfill: bool,
}

impl Open {
    /// What is sent of it: neighbours, so that the first of them and their number say
    /// which they are.
    fn into_drawn(self, backfill: bool) -> Vec<Drawn> {
        let Open { events, bytes, .. } = self;
        let neighbours = events.split(Option::is_none).filter(|neighbours| !neighbours.is_empty());
        let draw = |neighbours: &[Option<Member>]| {
            let members = neighbours.iter().flatten().enumerate();
            let members = members.map(|(index, member)| Member { joined: index > 0, ..*member });
            Drawn { members: members.collect(), bytes, backfill }
        };
        neighbours.map(draw).collect()
    }
}

impl Windows {
    /// Whether an event may be drawn together with others.
    pub(super) fn takes(event: &Event) -> bool {
        matches!(event.place.kind, EventKind::Created | EventKind::Updated)
            && event.place.chunk == 0
            && event.samples < SAMPLES_MAX
    }

    /// The number of the window that an event falls into.
    pub(super) fn number_of(event: &Event, coalesce_ms: u32) -> u64 {
        event.ordering / (u64::from(coalesce_ms.max(1)) * 1000)
    }

    /// The ticket that holds their beginning, if an event may join windows of this
    /// number, which it does from then on.
    pub(super) fn join(&mut self, number: u64) -> Option<Ticket> {
        let ticket = self.ticket.filter(|_| self.number == number && self.joined < JOINED_MAX)?;
        self.joined += 1;
        Some(ticket)
    }

    /// Begins windows with an event; the old ones are closed already.
    pub(super) fn begin(&mut self, number: u64, ticket: Ticket) {
        debug_assert!(self.ticket.is_none(), "closed before others begin");
        (self.number, self.ticket, self.joined) = (number, Some(ticket), 1);
    }

    /// Adds an event to the window of its series, and appends what has to be cut. One that
    /// `is_known` need not be taken.
    pub(super) fn add(&mut self, event: &Event, is_known: bool, cut: &mut Vec<Drawn>) {
        let series = (event.key, event.place.kind, event.backfill);
        if self.open.get(&series).is_some_and(|open| open.samples + event.samples > SAMPLES_MAX) {
            self.cut(series, cut);
        }
        let next = self.cuts + 1;
        let open = self.open.entry(series).or_insert_with(|| Open { cut: next, ..Open::default() });
        if open.events.is_empty() {
            self.cuts = next;
            self.order.push_back((next, series));
        }
        open.events.push((!is_known).then_some(Member {
            place: event.place,
            ordinal: event.ordinal,
            decided_at: event.decided_at,
            key: event.key,
            joined: false,
            cut: 0,
        }));
        open.samples += event.samples;
        open.bytes = open.bytes.saturating_add(if is_known { 0 } else { event.bytes });
        if open.events.len() == MEMBERS_MAX {
            self.cut(series, cut);
        }
        while self.open.len() > OPEN_MAX {
            self.cut_oldest(cut);
        }
    }

    /// Cuts the window of an event's series, so that the event comes behind it.
    pub(super) fn cut_before(&mut self, event: &Event, cut: &mut Vec<Drawn>) {
        for kind in [EventKind::Created, EventKind::Updated] {
            self.cut((event.key, kind, false), cut);
            self.cut((event.key, kind, true), cut);
        }
    }

    /// Whether they end at or before an ordering.
    pub(super) fn end_by(&self, ordering: u64, coalesce_ms: u32) -> bool {
        self.end(coalesce_ms).is_some_and(|end| end <= ordering.saturating_add(1))
    }

    /// When they end, as an ordering, if any is open.
    pub(super) fn end(&self, coalesce_ms: u32) -> Option<u64> {
        let end = (self.number + 1).saturating_mul(u64::from(coalesce_ms.max(1)) * 1000);
        self.ticket.map(|_| end)
    }

    /// Closes all, oldest first; returns the ticket that held their beginning.
    pub(super) fn close(&mut self, cut: &mut Vec<Drawn>) -> Option<Ticket> {
        while !self.open.is_empty() {
            self.cut_oldest(cut);
        }
        self.order.clear();
        self.ticket.take()
    }

    fn cut(&mut self, series: Series, cut: &mut Vec<Drawn>) {
        if let Some(open) = self.open.remove(&series) {
            cut.extend(open.into_drawn(series.2));
        }
    }

    fn cut_oldest(&mut self, cut: &mut Vec<Drawn>) {
        if let Some((number, series)) = self.order.pop_front()
            && self.open.get(&series).is_some_and(|open| open.cut == number)
        {
            self.cut(series, cut);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::Place;
    use crate::topic::TopicId;

    fn event(sequence: u64, key: u64, ordering: u64, samples: u32) -> Event {
        Event {
            org: "o".into(),
            user: None,
            topic: TopicId(0),
            place: Place { sequence, group: 0, chunk: 0, kind: EventKind::Created },
            ordinal: 0,
            decided_at: sequence,
            key,
            ordering,
            samples,
            bytes: 100,
            backfill: false,
            about: None,
        }
    }

    fn sequences(drawn: &[Drawn]) -> Vec<Vec<u64>> {
        let of = |drawn: &Drawn| drawn.members.iter().map(|member| member.place.sequence).collect();
        drawn.iter().map(of).collect()
    }

    #[test]
    fn windows_are_multiples_of_the_ordering() {
        let number = |ordering| Windows::number_of(&event(1, 1, ordering, 1), 100);
        assert_eq!([0, 99_999, 100_000, 250_000].map(number), [0, 0, 1, 2]);
        let mut windows = Windows::default();
        assert!(!windows.end_by(u64::MAX, 100));
        windows.begin(1, 0);
        assert_eq!([199_998, 199_999, 200_000].map(|at| windows.end_by(at, 100)), [false, true, true]);
    }

    #[test]
    fn series_are_drawn_together_apart_and_in_order() {
        let (mut windows, mut cut) = (Windows::default(), Vec::new());
        windows.begin(0, 9);
        for sequence in 1..=6 {
            windows.add(&event(sequence, sequence % 2, sequence, 10), false, &mut cut);
        }
        let mut corrected = event(7, 1, 7, 10);
        corrected.place.kind = EventKind::Updated;
        windows.add(&corrected, false, &mut cut);
        assert!(cut.is_empty());
        assert_eq!((windows.join(0), windows.join(1)), (Some(9), None));
        assert_eq!(windows.close(&mut cut), Some(9));
        assert_eq!(sequences(&cut), [vec![1, 3, 5], vec![2, 4, 6], vec![7]]);
        let joined: Vec<bool> = cut[0].members.iter().map(|member| member.joined).collect();
        assert_eq!(joined, [false, true, true]);
        assert_eq!((windows.join(0), windows.close(&mut cut)), (None, None));
    }

    #[test]
    fn a_window_is_cut_at_its_limits_and_the_next_begins() {
        let cases = [(300, 1, vec![256, 44]), (30, 300, vec![8, 8, 8, 6]), (3, 2499, vec![1, 1, 1])];
        for (count, samples, expected) in cases {
            let (mut windows, mut cut) = (Windows::default(), Vec::new());
            windows.begin(0, 0);
            for sequence in 1..=count {
                windows.add(&event(sequence, 1, sequence, samples), false, &mut cut);
            }
            windows.close(&mut cut);
            assert_eq!(cut.iter().map(|drawn| drawn.members.len()).collect::<Vec<_>>(), expected);
            let all: Vec<u64> = sequences(&cut).concat();
            assert_eq!(all, (1..=count).collect::<Vec<_>>());
        }
    }

    #[test]
    fn with_too_many_series_the_oldest_is_closed() {
        // Also where one of them need not be taken.
        for (known, expected) in [(0, vec![vec![1], vec![2], vec![3]]), (2, vec![vec![1], vec![3]])] {
            let (mut windows, mut cut) = (Windows::default(), Vec::new());
            windows.begin(0, 0);
            // The first is cut for its size, so the second is the oldest.
            windows.add(&event(1, 0, 1, 2000), false, &mut cut);
            for sequence in 2..=OPEN_MAX as u64 + 3 {
                windows.add(&event(sequence, sequence - 2, sequence, 600), sequence == known, &mut cut);
            }
            assert_eq!(sequences(&cut), expected);
            assert_eq!(windows.open.len(), OPEN_MAX);
        }
    }

    #[test]
    fn what_need_not_be_taken_counts_and_only_neighbours_are_drawn_together() {
        let limits = [(300, 1, vec![vec![1, 2], (4..=256).collect(), (257..=300).collect()])];
        let by_samples = (10, 600, vec![vec![1, 2], vec![4], vec![5, 6, 7, 8], vec![9, 10]]);
        for (count, samples, expected) in limits.into_iter().chain([by_samples]) {
            let (mut windows, mut cut) = (Windows::default(), Vec::new());
            windows.begin(0, 0);
            for sequence in 1..=count {
                windows.add(&event(sequence, 1, sequence, samples), sequence == 3, &mut cut);
            }
            windows.close(&mut cut);
            assert_eq!(sequences(&cut), expected);
            assert!(cut.iter().all(|drawn| !drawn.members[0].joined));
        }
    }

    #[test]
    fn only_whole_events_of_samples_are_drawn_together() {
        let whole = event(1, 1, 1, 2499);
        let part = Event { place: Place { chunk: 1, ..whole.place }, ..whole.clone() };
        let published = Event { place: Place { kind: EventKind::Published, ..whole.place }, ..whole.clone() };
        let full = event(1, 1, 1, 2500);
        let takes = [&whole, &part, &published, &full].map(Windows::takes);
        assert_eq!(takes, [true, false, false, false]);
        let (mut windows, mut cut) = (Windows::default(), Vec::new());
        windows.begin(0, 0);
        windows.add(&whole, false, &mut cut);
        windows.cut_before(&full, &mut cut);
        assert_eq!(sequences(&cut), [vec![1]]);
    }
}
