//! What goes into one request, and when: windows, batches and the rate.
//!
//! ```text
//! take --coalesce_ms--> windows --end, or cut--> queues --keys free, a token--> gather --> job
//!      '-----------------------------------------^
//! ```
//!
//! Only what is new to a lane is drawn together: a probe, a retry, what somebody asked
//! for and what comes from a range behind live events stay as they are.

use std::collections::BTreeSet;
use std::time::Duration;

use super::Lane;
use super::job::{Job, Origin};
use super::state::{CARRIED_MAX, EXCEPTIONS_MAX, Mode, State, TAKEN_MAX, TAKEN_MIN};
use super::taken::Ticket;
use super::windows::{Drawn, JOINED_MAX, Windows};
use crate::dialect::Dialect;
use crate::endpoint::EndpointSettings;
use crate::event::{Cursor, Event, Place};
use crate::ledger::Exception;

/// How soon it is looked again whether a window has ended that should have.
const CLOSE_AGAIN_MS: i64 = 20;

/// Events drawn together and not decided, or behind one that is not: what is left of
/// closed windows while others are open.
const JOINED_TAKEN_MAX: usize = 4 * JOINED_MAX;

/// How an endpoint wants its requests.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Shape {
    coalesce_ms: Option<u32>,
    batch_events: Option<u32>,
    rate_limit_per_second: Option<u32>,
}

impl Shape {
    pub(super) fn of(settings: &EndpointSettings) -> Shape {
        Shape {
            coalesce_ms: settings.coalesce_ms.filter(|ms| *ms > 0),
            // The other dialects' receivers know no such body.
            batch_events: settings.batch_events.filter(|_| settings.dialect == Dialect::Standard),
            rate_limit_per_second: settings.rate_limit_per_second,
        }
    }
}

impl Lane {
    /// Waits until the rate allows a request that does not come from the queues.
    pub(super) async fn turn(&self) {
        loop {
            let wait = self.with(|state, now_ms| {
                let rate = state.shape.rate_limit_per_second?;
                state.bucket.take(since_1970(now_ms), rate).err()
            });
            let Some(wait) = wait else { return };
            tokio::time::sleep(wait).await;
        }
    }
}

impl State {
    /// Works by other settings from now on.
    pub(super) fn reshape(&mut self, shape: Shape) {
        if shape.coalesce_ms != self.shape.coalesce_ms {
            self.close_windows();
        }
        self.shape = shape;
    }

    /// Deliveries of the lane's own that may come of what is taken.
    pub(super) fn held(&self) -> usize {
        match self.shape.coalesce_ms {
            // Windows bound themselves.
            Some(_) => self.queues.len() + self.workers,
            None => self.taken.len(),
        }
    }

    /// Room for another event of the lane's own.
    pub(super) fn has_room(&self) -> bool {
        // All that is taken may fail.
        let held = self.held();
        let may_wait = self.exceptions.len() + held + self.backlogs.taken_len();
        let fits = held < TAKEN_MAX && self.taken.joined() < JOINED_TAKEN_MAX;
        let may_fail = may_wait < EXCEPTIONS_MAX && self.carried.len() < CARRIED_MAX;
        fits && (may_fail || held < TAKEN_MIN)
    }

    /// Room for a first attempt that failed to wait for another one.
    pub(super) fn may_wait(&self, job: &Job) -> bool {
        let carried = if job.is_own() { job.count() } else { 0 };
        self.exceptions.len() < EXCEPTIONS_MAX && self.carried.len() + carried <= CARRIED_MAX
    }

    /// Takes an event that is read in order. One that `is_known` need not be taken, and
    /// only keeps its place in its window.
    pub(super) fn take(&mut self, event: &Event, is_known: bool, now_ms: i64) {
        match self.shape.coalesce_ms {
            Some(coalesce_ms) => self.draw(event, is_known, coalesce_ms, now_ms),
            None if is_known => {}
            None => {
                let ticket = self.taken.push(event.cursor(), event.place, now_ms);
                self.queues.push(Job::of(event, Origin::Live(ticket), self.generation));
            }
        }
    }

    /// Adds an event to the window of its series.
    fn draw(&mut self, event: &Event, is_known: bool, coalesce_ms: u32, now_ms: i64) {
        let number = Windows::number_of(event, coalesce_ms);
        let ticket = self.windows.join(number).unwrap_or_else(|| {
            self.close_windows();
            // What this one holds is decided when the windows are closed.
            let ticket = self.taken.push(event.cursor(), event.place, now_ms);
            self.windows.begin(number, ticket);
            ticket
        });
        self.drawn = Cursor { ordinal: event.ordinal + 1, ..event.cursor() };
        if !is_known {
            self.taken.join(ticket, event.cursor(), event.place);
        }
        let mut cut = Vec::new();
        if Windows::takes(event) {
            self.windows.add(event, is_known, &mut cut);
            self.queue_drawn(cut, ticket);
        } else {
            self.windows.cut_before(event, &mut cut);
            self.queue_drawn(cut, ticket);
            if !is_known {
                self.queues.push(Job::of(event, Origin::Live(ticket), self.generation));
            }
        }
    }

    /// Closes windows that can get no further event: all with an ordering up to
    /// `settled` were routed. Whoever is live was offered them.
    pub(super) fn close_ended_windows(&mut self, settled: u64) {
        let has_ended =
            self.shape.coalesce_ms.is_some_and(|coalesce_ms| self.windows.end_by(settled, coalesce_ms));
        if has_ended && self.mode == Mode::Live {
            self.close_windows();
        }
    }

    fn close_windows(&mut self) {
        let mut cut = Vec::new();
        if let Some(ticket) = self.windows.close(&mut cut) {
            self.queue_drawn(cut, ticket);
            self.taken.decide_many(ticket, 1);
        }
    }

    fn queue_drawn(&mut self, drawn: Vec<Drawn>, ticket: Ticket) {
        let generation = self.generation;
        drawn.into_iter().for_each(|drawn| self.queues.push(Job::drawn(drawn, ticket, generation)));
    }

    /// Whether its windows hold something that is not decided: whoever reads it again must
    /// begin where they did.
    pub(super) fn is_drawing(&self) -> bool {
        self.shape.coalesce_ms.is_some() && !self.taken.is_empty()
    }

    /// When windows end or the rate allows a request.
    pub(super) fn next_gather(&self, now_ms: i64) -> Option<i64> {
        let end = self.shape.coalesce_ms.and_then(|coalesce_ms| self.windows.end(coalesce_ms));
        let end_ms = end.filter(|_| self.mode == Mode::Live).map(|end| {
            i64::try_from(end / 1000).unwrap_or(i64::MAX).saturating_add(1).max(now_ms + CLOSE_AGAIN_MS)
        });
        let may_send = self.wants_worker(now_ms) && self.patient_until(now_ms).is_none();
        let limited = self.shape.rate_limit_per_second.filter(|_| may_send);
        let token_ms = limited.map(|rate| {
            let wait = self.bucket.wait(since_1970(now_ms), rate);
            now_ms.saturating_add(super::pause::ms(wait)).saturating_add(1)
        });
        [end_ms, token_ms].into_iter().flatten().min()
    }

    /// What is sent next, if its keys are free, and the receiver and the rate allow it.
    pub(super) fn next_shaped(&mut self, now_ms: i64) -> Option<Job> {
        if self.is_patient(now_ms) {
            return None;
        }
        let now = since_1970(now_ms);
        if let Some(rate) = self.shape.rate_limit_per_second
            && !self.bucket.wait(now, rate).is_zero()
        {
            return None;
        }
        let job = self.queues.next(self.shape.batch_events.map_or(1, |most| most as usize))?;
        if let Some(rate) = self.shape.rate_limit_per_second {
            let taken = self.bucket.take(now, rate);
            debug_assert!(taken.is_ok(), "{taken:?}");
        }
        Some(job)
    }

    /// Whether an event waits for another attempt, alone or with others.
    pub(super) fn is_excepted(&self, place: Place) -> bool {
        self.exceptions.contains_key(&place) || self.carried.contains(&place)
    }

    pub(super) fn insert_exception(&mut self, exception: Exception) {
        if let Some(before) = self.remove_exception(exception.place) {
            self.due.remove(&(before.due_at_ms, exception.place));
        }
        self.carried.extend(exception.members.iter().map(|member| member.place));
        self.exceptions.insert(exception.place, exception);
    }

    pub(super) fn remove_exception(&mut self, place: Place) -> Option<Exception> {
        let exception = self.exceptions.remove(&place)?;
        for member in exception.members.iter() {
            self.carried.remove(&member.place);
        }
        Some(exception)
    }

    /// Ends what is gone of exceptions that carry several events; returns how many
    /// events that were. What is left of one is cut anew.
    pub(super) fn give_up_members(&mut self, is_gone: &impl Fn(Place) -> bool) -> u64 {
        let of = |exception: &Exception| -> BTreeSet<usize> {
            let members = exception.members.iter().enumerate();
            members.filter(|(_, member)| is_gone(member.place)).map(|(index, _)| index).collect()
        };
        let found: Vec<(Place, BTreeSet<usize>)> = self
            .exceptions
            .values()
            .map(|exception| (exception.place, of(exception)))
            .filter(|(_, gone)| !gone.is_empty())
            .collect();
        for (place, gone) in &found {
            self.cut_exception(*place, gone);
        }
        found.iter().map(|(_, gone)| gone.len() as u64).sum()
    }

    fn cut_exception(&mut self, place: Place, gone: &BTreeSet<usize>) {
        let Some(exception) = self.exceptions.get(&place).cloned() else { return };
        let due_at_ms = exception.due_at_ms;
        // One that is in flight finds out by itself, and comes to the same.
        let queued = self.queues.take_out(|job| job.origin == Origin::Retry && job.place == place);
        let rests = !queued.is_empty() || self.due.contains(&(due_at_ms, place));
        self.settle_exception(place);
        if gone.len() >= exception.members.len() {
            return;
        }
        let mut job = Job::retry(&exception, self.generation);
        job.cut_anew(gone);
        let left = job.exception(exception.attempts, due_at_ms);
        let place = left.place;
        self.insert_exception(left);
        if rests {
            self.due.insert((due_at_ms, place));
        }
        self.unsaved.settled.remove(&place);
        self.unsaved.failed.insert(place);
    }
}

fn since_1970(now_ms: i64) -> Duration {
    Duration::from_millis(u64::try_from(now_ms).unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::event::Member;
    use crate::lane::delivery::Outcome;
    use crate::lane::state::WINDOW_FIRST;
    use crate::lane::tests::event as lane_event;

    const KEYS: u64 = 300;

    fn event(sequence: u64) -> Event {
        Event { key: sequence % KEYS, bytes: 100, ..lane_event(sequence) }
    }

    /// Draws together what comes within a minute.
    fn drawing() -> State {
        let mut state = State { window: WINDOW_FIRST, ..State::default() };
        state.reshape(Shape { coalesce_ms: Some(60_000), ..Shape::default() });
        state
    }

    /// Sequences of what is drawn together of events of one minute.
    fn drawn(events: std::ops::RangeInclusive<u64>) -> BTreeSet<Vec<u64>> {
        drawn_by(drawing(), events)
    }

    fn drawn_by(mut state: State, events: std::ops::RangeInclusive<u64>) -> BTreeSet<Vec<u64>> {
        let mut drawn = BTreeSet::new();
        let sequences = |job: &Job| job.members().iter().map(|member| member.place.sequence).collect();
        let mut send = |state: &mut State| {
            while let Some(job) = state.next_job(0) {
                drawn.insert(sequences(&job));
                state.finish(&job, Outcome::Delivered, &[], 0);
            }
        };
        for sequence in events {
            state.offer(&event(sequence), 0);
            send(&mut state);
        }
        state.reshape(Shape::default());
        send(&mut state);
        assert!(state.mode == Mode::Live && state.taken.is_empty());
        drawn
    }

    #[test]
    fn full_windows_are_closed_and_who_begins_behind_them_draws_the_same() {
        let (first, last) = (1, JOINED_MAX as u64 + 1000);
        let begin = JOINED_MAX as u64 + 1;
        let all = drawn(first..=last);
        let (before, behind): (Vec<_>, Vec<_>) = all.into_iter().partition(|drawn| drawn[0] < begin);
        assert_eq!(behind.into_iter().collect::<BTreeSet<_>>(), drawn(begin..=last));
        let reach = before.iter().flatten().max();
        assert_eq!((reach, before.iter().flatten().count()), (Some(&(begin - 1)), JOINED_MAX));
    }

    /// A delivery of events that are drawn together, or of one, that waits for a retry.
    fn waiting(sequences: &[u64]) -> Exception {
        let member = |(index, sequence): (usize, &u64)| Member {
            place: event(*sequence).place,
            ordinal: 0,
            decided_at: *sequence,
            key: sequence % KEYS,
            joined: index > 0,
            cut: 0,
        };
        let members: Vec<Member> = sequences.iter().enumerate().map(member).collect();
        let is_one = members.len() == 1;
        Exception {
            place: if is_one { members[0].place } else { Place::of_drawn(&members) },
            ordinal: 0,
            decided_at: sequences[0],
            key: sequences[0] % KEYS,
            attempts: 1,
            due_at_ms: 0,
            members: if is_one { Arc::default() } else { members.into() },
            quiet: false,
        }
    }

    #[test]
    fn who_reads_again_draws_the_others_as_before_where_some_wait_for_a_retry() {
        let (first, last) = (1, JOINED_MAX as u64 + 1000);
        let mut all = drawn(first..=last);
        let mut state = drawing();
        for (index, sequences) in all.clone().into_iter().enumerate() {
            // Also the first, with which the windows begin.
            if index % 3 == 0 {
                state.insert_exception(waiting(&sequences));
                all.remove(&sequences);
            }
        }
        assert_eq!(drawn_by(state, first..=last), all);
    }

    /// One request in 19 succeeds, so that it does not pause for want of any.
    #[test]
    fn events_that_wait_for_a_retry_are_bounded_whatever_a_request_carries() {
        let (mut state, mut sequence, mut requests) = (drawing(), 0, 0_u32);
        state.reshape(Shape { batch_events: Some(100), ..state.shape });
        while state.mode == Mode::Live {
            sequence += 1;
            state.offer(&event(sequence), 0);
            while let Some(job) = state.next_job(0) {
                requests += 1;
                assert!(job.count() <= 1024, "{} events in one request", job.count());
                let outcome = match requests.is_multiple_of(19) {
                    true => Outcome::Delivered,
                    false => Outcome::Failed { retry_after: None },
                };
                state.finish(&job, outcome, Dialect::Standard.retries(), 0);
            }
            assert!(state.carried.len() <= CARRIED_MAX, "{}", state.carried.len());
            assert!(sequence < 10 * CARRIED_MAX as u64, "it takes without end");
        }
        assert!(matches!(state.mode, Mode::Paused(_)), "{:?}", state.mode);
        assert!(state.carried.len() > CARRIED_MAX - 1024 && state.exceptions.len() < EXCEPTIONS_MAX);
    }

    #[test]
    fn what_joins_behind_a_delivery_that_takes_its_time_is_bounded() {
        let (mut state, mut sequence, mut slow) = (drawing(), 0, None);
        while state.mode == Mode::Live {
            sequence += 1;
            state.offer(&event(sequence), 0);
            slow = slow.or_else(|| state.next_job(0));
            while let Some(job) = state.next_job(0) {
                state.finish(&job, Outcome::Delivered, &[], 0);
            }
            assert!(sequence < 10 * JOINED_TAKEN_MAX as u64, "it takes without end");
        }
        assert!((JOINED_TAKEN_MAX..=JOINED_TAKEN_MAX + 8).contains(&state.taken.joined()));
        assert_eq!(
            (state.mode.clone(), state.has_room()),
            (Mode::Behind(Cursor { sequence, ordinal: 0 }), false)
        );
        // What waits for its key comes with it.
        let mut next = slow;
        while let Some(job) = next {
            state.finish(&job, Outcome::Delivered, &[], 0);
            next = state.next_job(0);
        }
        assert!(state.has_room() && state.taken.joined() < JOINED_MAX, "{}", state.taken.joined());
    }
}
