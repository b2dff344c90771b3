//! A lane that is paused: one event is tried now and then, everything else rests.

use std::collections::BTreeSet;
use std::time::Duration;

use xxhash_rust::xxh3::xxh3_64;

use super::job::{Job, Origin};
use super::state::{CARRIED_MAX, EXCEPTIONS_MAX, Mode, State, WINDOW_FIRST};
use super::taken::Ticket;
use crate::event::{Cursor, Event};
use crate::ledger::GivenUp;

/// Attempts that failed in a row until a lane pauses.
pub(super) const FAILURES_MAX: u32 = 20;
/// From the pause to the first probe; then twice as long each time, from start to
/// start.
pub(super) const PROBE_FIRST: Duration = Duration::from_secs(5);
/// Longest between two probes: who comes back has live events within a minute.
pub(super) const PROBE_MAX: Duration = Duration::from_secs(40);
/// Probes of one event; then the next one is tried, for it may be the event that the
/// receiver cannot take.
const PROBES_OF_ONE: u32 = 8;

/// What a paused lane knows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Pause {
    /// The first event that rests; `None` while nothing has come since.
    pub(super) from: Option<Cursor>,
    /// From here on an event to probe with is looked for.
    pub(super) at: Cursor,
    /// What comes before this has outlived its schedule and needs no payload.
    pub(super) alive: Cursor,
    /// What is probed with.
    pub(super) probe: Option<Job>,
    /// Something was found to probe with since the search began at `from`.
    found: bool,
    /// Probes of it.
    probes: u32,
    wait: Duration,
    /// When the next probe is due, milliseconds since 1970.
    pub(super) next_ms: i64,
    /// The probe is ready or in flight.
    pub(super) is_out: bool,
    /// There was nothing to probe with.
    pub(super) is_idle: bool,
    /// The receiver took something.
    pub(super) resumes: bool,
}

impl Pause {
    pub(super) fn new(from: Option<Cursor>, first_probe_ms: i64) -> Pause {
        Pause {
            from,
            at: from.unwrap_or_default(),
            alive: Cursor::default(),
            probe: None,
            found: false,
            probes: 0,
            wait: PROBE_FIRST,
            next_ms: first_probe_ms,
            is_out: false,
            is_idle: false,
            resumes: false,
        }
    }

    /// An event rests from now on; true if one to probe with was wanting.
    pub(super) fn pass(&mut self, event: Cursor) -> bool {
        if self.from.is_none() {
            self.from = Some(event);
            self.at = event;
        }
        std::mem::take(&mut self.is_idle)
    }

    /// Whether it is time for a probe.
    pub(super) fn is_due(&self, now_ms: i64) -> bool {
        !self.is_out && !self.resumes && !self.is_idle && self.next_ms <= now_ms
    }

    /// Whether it is time to look for what to probe with.
    pub(super) fn looks(&self, now_ms: i64) -> bool {
        self.is_due(now_ms) && self.from.is_some() && self.probe.is_none()
    }

    /// What comes before this was outlived by its schedule; from here on it is asked again.
    pub(super) fn alive_from(&self) -> Option<Cursor> {
        self.from.map(|from| from.max(self.alive))
    }

    /// A probe begins.
    pub(super) fn began(&mut self, now_ms: i64) {
        self.wait = (self.wait * 2).min(PROBE_MAX);
        self.next_ms = now_ms.saturating_add(ms(self.wait));
    }

    /// The next probe, and those after it, come as if it had just paused.
    fn begin_anew(&mut self, now_ms: i64) {
        (self.probes, self.wait, self.next_ms) = (0, PROBE_FIRST, now_ms);
        self.search_anew();
    }

    /// Looks for what to probe with from the first on that rests.
    fn search_anew(&mut self) {
        self.is_idle = false;
        self.found = self.probe.is_some();
        if let (None, Some(from)) = (&self.probe, self.from) {
            self.at = from;
        }
    }

    /// Nothing was found to probe with before `reached`, though it was looked for from the
    /// first on that rests: what comes before `alive` is owed no attempt any more.
    fn give_up(&mut self, reached: Cursor) -> Option<(Cursor, Cursor)> {
        let from = self.from.replace(reached)?;
        let through = self.alive.min(reached);
        (from < through).then_some((from, through))
    }

    /// The probe was not sent: it is when the next one is due.
    pub(super) fn unsent(&mut self) {
        self.is_out = false;
    }

    /// The event at the cursor failed once more.
    pub(super) fn failed(&mut self, job: &Job, not_before_ms: i64) {
        self.is_out = false;
        self.next_ms = self.next_ms.max(not_before_ms);
        self.probes += 1;
        if self.probes >= PROBES_OF_ONE {
            self.move_on(job.next_cursor());
        } else {
            self.probe = Some(Job { attempts: job.attempts + 1, keys_held: 0, ..job.clone() });
        }
    }

    /// The event at the cursor is decided: it was delivered, or is not to be.
    pub(super) fn decided(&mut self, job: &Job) {
        self.is_out = false;
        if self.from == Some(job.cursor()) {
            self.from = Some(job.next_cursor());
        }
        self.move_on(job.next_cursor());
    }

    /// Looks for another event from here on.
    pub(super) fn move_on(&mut self, at: Cursor) {
        self.at = self.at.max(at);
        self.probe = None;
        self.probes = 0;
    }

    /// Frames before the first that rests were dropped.
    pub(super) fn dropped(&mut self, through: Cursor) {
        if let Some(from) = &mut self.from {
            *from = (*from).max(through);
        }
        self.move_on(through);
    }
}

pub(super) fn ms(time: Duration) -> i64 {
    i64::try_from(time.as_millis()).unwrap_or(i64::MAX)
}

impl State {
    /// Whether it sends nothing but probes.
    pub(super) fn is_paused(&self) -> bool {
        matches!(self.mode, Mode::Paused(_))
    }

    /// Pauses it if it only fails, or has no room for what failed.
    pub(super) fn pause_if_failing(&mut self, unkept: BTreeSet<Ticket>, now_ms: i64) {
        let is_failing = self.failures_in_a_row >= FAILURES_MAX
            || self.exceptions.len() >= EXCEPTIONS_MAX
            || self.carried.len() >= CARRIED_MAX
            || !unkept.is_empty();
        if !is_failing {
            return;
        }
        match &self.mode {
            Mode::Live | Mode::Behind(_) => self.pause(unkept, now_ms),
            // What was in flight when it paused, and has no room as an exception.
            Mode::Paused(_) => self.rest_too(&unkept),
            Mode::Off => {}
        }
    }

    /// Everything that waits rests from now on.
    fn pause(&mut self, unkept: BTreeSet<Ticket>, now_ms: i64) {
        self.known = None;
        let waiting = self.queues.clear();
        let mut tickets = unkept;
        // What was to be drawn together is read again.
        tickets.extend(self.windows.close(&mut Vec::new()));
        let mut of_backlogs: BTreeSet<(u64, Ticket)> = BTreeSet::new();
        for job in waiting {
            match job.origin {
                Origin::Live(_) => tickets.extend(live_tickets(&job)),
                Origin::Backlog { number, ticket, .. } => drop(of_backlogs.insert((number, ticket))),
                Origin::Retry => {
                    if let Some(exception) = self.exceptions.get(&job.place) {
                        self.due.insert((exception.due_at_ms, job.place));
                    }
                }
                Origin::Probe | Origin::Manual => {}
            }
        }
        self.backlogs.shed(|number, ticket| of_backlogs.contains(&(number, ticket)));
        let shed = self.taken.shed(|ticket| tickets.contains(&ticket));
        self.counts.passed += tickets.len() as u64;
        self.ahead.extend(shed.ahead);
        let own = if let Mode::Behind(from) = self.mode { Some(from) } else { None };
        let first_ms = now_ms.saturating_add(ms(PROBE_FIRST));
        let first_ms = first_ms.max(self.patient_until(now_ms).unwrap_or(first_ms));
        self.mode = Mode::Paused(Pause::new(shed.from.or(own), first_ms));
        self.health.paused_at_ms = Some(now_ms);
    }

    fn rest_too(&mut self, unkept: &BTreeSet<Ticket>) {
        let shed = self.taken.shed(|ticket| unkept.contains(&ticket));
        if let (Mode::Paused(pause), Some(from)) = (&mut self.mode, shed.from) {
            self.ahead.extend(shed.ahead);
            if pause.from.is_none_or(|known| from < known) {
                pause.from = Some(from);
                pause.at = from;
            } else if pause.probe.is_none() {
                // It was looked for behind it already.
                pause.at = pause.at.min(from);
            }
        }
    }

    /// An event to probe with, found by a reader that stood at `at`.
    pub(super) fn probe_with(&mut self, at: Cursor, event: &Event, now_ms: i64) {
        let generation = self.generation;
        let Mode::Paused(pause) = &mut self.mode else { return };
        if pause.is_due(now_ms) && pause.at.max(pause.alive) == at && pause.probe.is_none() {
            pause.at = event.cursor();
            pause.found = true;
            pause.probe = Some(Job::of(event, Origin::Probe, generation));
        }
        self.send_probe(now_ms);
    }

    /// No event to probe with was found by a reader that stood at `from`, as far as `at`.
    pub(super) fn looked(&mut self, from: Cursor, at: Cursor) {
        if let Mode::Paused(pause) = &mut self.mode
            && pause.at.max(pause.alive) == from
            && pause.probe.is_none()
        {
            pause.at = at;
        }
    }

    /// A reader that stood at `start` found no event to probe with before `reached`: an exception
    /// that is due serves as well. If there is none, those that were probed with are once
    /// more; and if nothing rests that could be, what has outlived its schedule meanwhile is
    /// given up, which is returned.
    pub(super) fn probe_without(
        &mut self,
        start: Cursor,
        reached: Cursor,
        is_quiet: bool,
        now_ms: i64,
    ) -> Option<GivenUp> {
        let Mode::Paused(pause) = &mut self.mode else { return None };
        // It may have paused anew, or begun its search anew, while that was read.
        if pause.probe.is_some() || pause.at.max(pause.alive) != start {
            return None;
        }
        pause.at = pause.at.max(reached);
        if self.send_exception_as_probe(now_ms) {
            return None;
        }
        let has_landed = self.has_landed();
        let Mode::Paused(pause) = &mut self.mode else { return None };
        if pause.from.is_none_or(|from| from >= reached) {
            return None;
        }
        if pause.found {
            pause.search_anew();
            return None;
        }
        if !has_landed {
            // What comes back from before the pause may rest too.
            pause.is_idle = false;
            return None;
        }
        let (from, through) = pause.give_up(reached)?;
        let given_up = GivenUp { from, through, at_ms: now_ms, quiet: is_quiet };
        self.counts.passed = 0;
        self.unsaved.needs = true;
        self.give_up_range(given_up);
        Some(given_up)
    }

    /// The router went on while it was looked for what to probe with: that is looked at too.
    pub(super) fn look_on(&mut self) {
        if let Mode::Paused(pause) = &mut self.mode {
            pause.is_idle = false;
        }
    }

    /// The next probe is due now, whatever rests.
    pub(super) fn probe_anew(&mut self, now_ms: i64) {
        let Mode::Paused(pause) = &mut self.mode else { return };
        pause.begin_anew(now_ms);
        if pause.from.is_none() {
            // Nothing rests that could be tried, only what failed.
            self.advance_first(now_ms);
        }
    }

    pub(super) fn send_probe(&mut self, now_ms: i64) -> bool {
        let generation = self.generation;
        let Mode::Paused(pause) = &mut self.mode else { return false };
        if !pause.is_due(now_ms) {
            return false;
        }
        let Some(probe) = pause.probe.clone() else { return false };
        pause.is_out = true;
        self.queues.push(Job { generation, ..probe });
        true
    }

    /// What is due first is due now.
    fn advance_first(&mut self, now_ms: i64) {
        let Some((due_at_ms, place)) = self.due.pop_first() else { return };
        let due_at_ms = due_at_ms.min(now_ms);
        if let Some(exception) = self.exceptions.get_mut(&place) {
            exception.due_at_ms = due_at_ms;
            self.due.insert((due_at_ms, place));
        }
    }

    /// Sends the exception that is due first, if nothing else is out.
    pub(super) fn send_exception_as_probe(&mut self, now_ms: i64) -> bool {
        let generation = self.generation;
        let Mode::Paused(pause) = &mut self.mode else { return false };
        let due = self.due.first().filter(|(due, _)| *due <= now_ms).copied();
        let found = due.and_then(|(_, place)| self.exceptions.get(&place));
        let (Some(due), Some(exception)) = (due, found) else {
            pause.is_idle = true;
            return false;
        };
        self.due.remove(&due);
        pause.began(now_ms);
        self.queues.push(Job::retry(exception, generation));
        true
    }

    /// Joins the router where it is, once what was in flight when it paused has come to its
    /// end: of what rests, nothing else is left to come back. What rests becomes a range that
    /// is sent behind live events, but for what comes before `alive`: that has outlived its
    /// schedule and is given up, which is returned, and not to be announced if it `is_quiet`.
    pub(super) fn resume(
        &mut self,
        routed: Cursor,
        alive: Cursor,
        is_quiet: bool,
        now_ms: i64,
    ) -> Option<GivenUp> {
        let Mode::Paused(pause) = &self.mode else { return None };
        if !pause.resumes || pause.is_out || !self.has_landed() {
            return None;
        }
        let from = pause.from.unwrap_or(routed).min(routed);
        let begin = from.max(alive.min(routed));
        if begin < routed {
            self.backlogs.add_passed(begin, routed, std::mem::take(&mut self.ahead));
        }
        self.mode = Mode::Live;
        // After a restart the router may not be where the lane was.
        self.from = self.from.max(routed);
        self.window = WINDOW_FIRST;
        self.counts.passed = 0;
        self.health.paused_at_ms = None;
        self.wake_due(now_ms);
        if from >= begin {
            return None;
        }
        let given_up = GivenUp { from, through: begin, at_ms: now_ms, quiet: is_quiet };
        self.give_up_range(given_up);
        Some(given_up)
    }

    /// A restart finds many that are paused: their first probes come one after the other,
    /// within as long as is between two of one lane.
    pub(super) fn spread_probe(&mut self, id: &str, now_ms: i64) {
        if let Mode::Paused(pause) = &mut self.mode {
            let share = xxh3_64(id.as_bytes()) % ms(PROBE_MAX).cast_unsigned();
            pause.next_ms = now_ms.saturating_add(share.cast_signed());
        }
    }

    /// The receiver did not take something that was sent by hand, which is not held against it.
    pub(super) fn failed_by_hand(&mut self, moves: u32, now_ms: i64) {
        if moves == self.moves {
            self.counts.last_failure_by_hand_ms = Some(now_ms);
        }
    }

    /// The receiver took something that was sent by hand: it does not only fail, and need
    /// not wait for the next probe.
    pub(super) fn answered(&mut self, generation: u64, moves: u32, now_ms: i64) {
        if (generation, moves) != (self.generation, self.moves) {
            return;
        }
        self.end_failing();
        self.counts.last_success_ms = Some(now_ms);
        self.end_patience(now_ms);
        self.probe_anew(now_ms);
    }
}

/// Tickets of the lane's own events that a job carries.
pub(super) fn live_tickets(job: &Job) -> BTreeSet<Ticket> {
    let ticket = |(origin, _)| match origin {
        Origin::Live(ticket) => Some(ticket),
        _ => None,
    };
    job.origins().into_iter().filter_map(ticket).collect()
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::super::delivery::Outcome;
    use super::super::save::Positions;
    use super::super::state::Chore;
    use super::*;
    use crate::dialect::Dialect;
    use crate::event::{EventKind, Place};
    use crate::lane::tests::event;
    use crate::ledger::{Changes, Health, LaneRecord};

    fn job() -> Job {
        Job {
            place: Place { sequence: 5, group: 0, chunk: 0, kind: EventKind::Created },
            ordinal: 2,
            decided_at: 5,
            key: 1,
            attempts: 0,
            origin: Origin::Probe,
            generation: 0,
            moves: 0,
            behind: false,
            quiet: false,
            bytes: 0,
            keys_held: 0,
            carried: None,
        }
    }

    #[test]
    fn probes_come_after_5_seconds_and_then_twice_as_late_up_to_40() {
        let mut pause = Pause::new(Some(job().cursor()), 5_000);
        assert!(!pause.is_due(4_999) && pause.is_due(5_000));
        let mut starts = vec![5_000];
        for _ in 0..5 {
            let now = pause.next_ms;
            pause.is_out = true;
            pause.began(now);
            assert!(!pause.is_due(i64::MAX));
            // The attempt takes 3 s, which changes nothing.
            pause.failed(&job(), now + 3_000);
            starts.push(pause.next_ms);
        }
        assert_eq!(starts, [5_000, 15_000, 35_000, 75_000, 115_000, 155_000]);
    }

    #[test]
    fn what_succeeds_by_hand_ends_the_time_of_failing_unless_the_lane_began_anew_or_its_receiver_moved() {
        let mut state = State { failures_in_a_row: 19, generation: 1, moves: 1, ..State::default() };
        state.mode = Mode::Paused(Pause::new(None, 40_000));
        state.health.failing_since_ms = Some(7);
        state.answered(0, 1, 100);
        state.answered(1, 0, 100);
        assert_eq!((state.health.failing_since_ms, state.failures_in_a_row), (Some(7), 19));
        state.answered(1, 1, 100);
        assert_eq!((state.health.failing_since_ms, state.failures_in_a_row), (None, 0));
        assert!(matches!(&state.mode, Mode::Paused(pause) if pause.is_due(100)));
    }

    #[test]
    fn five_days_without_a_failure_begin_the_time_of_failing_anew() {
        const HOUR: i64 = 3_600_000;
        let mut state = State { mode: Mode::Paused(Pause::new(None, 0)), ..State::default() };
        let mut since = |hours: i64| {
            state.finish(&job(), Outcome::Failed { retry_after: None }, &[], hours * HOUR);
            state.health.failing_since_ms.map(|since| since / HOUR)
        };
        assert_eq!([1, 60, 110, 231, 300].map(&mut since), [1, 1, 1, 231, 231].map(Some));
    }

    #[test]
    fn a_day_without_a_failure_over_a_restart_begins_the_time_of_failing_anew() {
        let mut health = Health::default();
        let mut since = |minutes: i64| {
            let mut state = State::restored(true, LaneRecord { health, ..LaneRecord::default() });
            state.finish(&job(), Outcome::Failed { retry_after: None }, &[], minutes * 60_000);
            health = state.health;
            health.failing_since_ms.map(|since| since / 60_000)
        };
        let day_later = 25 * 60;
        let begun_anew = day_later + 24 * 60 + 1;
        assert_eq!([90, day_later, begun_anew].map(&mut since), [90, 90, begun_anew].map(Some));
    }

    #[test]
    fn a_lane_that_only_fails_costs_one_row_an_hour_and_one_that_answers_none() {
        let mut state = State { mode: Mode::Paused(Pause::new(None, 0)), ..State::default() };
        let id: Arc<str> = "ep_1".into();
        let mut save = |outcome, now_ms| {
            state.finish(&job(), outcome, &[], now_ms);
            let mut changes = Changes::default();
            let at = Positions { routed: Cursor::default(), saved: Cursor::default() };
            let collected = state.collect(&id, at, &mut changes, now_ms);
            state.saved(&collected, &changes, now_ms);
            changes.health.into_iter().map(|(_, health)| health).collect::<Vec<Health>>()
        };
        let probes = (0..24 * 3600_i64).step_by(40);
        let rows = probes.flat_map(|second| save(Outcome::Failed { retry_after: None }, second * 1000));
        assert_eq!(rows.count(), 24);
        assert_eq!(save(Outcome::Delivered, 86_400_000), [Health::default()]);
        assert_eq!(save(Outcome::Delivered, 86_400_001), []);
    }

    #[test]
    fn who_looks_for_a_probe_goes_on_where_that_ended_unless_something_before_it_rests_too() {
        let at = |sequence| Cursor { sequence, ordinal: 0 };
        let mut state = State { mode: Mode::Paused(Pause::new(Some(at(5)), 0)), ..State::default() };
        assert_eq!(state.chore(0), Some(Chore::Probe(at(5))));
        state.looked(at(5), at(4101));
        assert_eq!(state.chore(0), Some(Chore::Probe(at(4101))));
        let Mode::Paused(pause) = &mut state.mode else { panic!("it goes on") };
        (pause.from, pause.at) = (Some(at(3)), at(3));
        state.looked(at(4101), at(9000));
        assert_eq!(state.probe_without(at(4101), at(9000), false, 0), None);
        assert_eq!(state.chore(0), Some(Chore::Probe(at(3))));
        let Mode::Paused(pause) = &state.mode else { panic!("it goes on") };
        assert_eq!(pause.from, Some(at(3)), "nothing of it is given up");
    }

    #[test]
    fn a_lane_that_waits_for_a_save_to_resume_sends_what_is_due() {
        let mut state =
            State { window: WINDOW_FIRST, has_answered: true, failures_in_a_row: 19, ..State::default() };
        (1..=2).for_each(|key| assert!(state.offer(&Event { key, ..event(key) }, 0)));
        let jobs: Vec<Job> = (0..2).map(|_| state.next_job(0).unwrap()).collect();
        let retries = Dialect::Standard.retries();
        state.finish(&jobs[0], Outcome::Failed { retry_after: None }, retries, 10);
        state.finish(&jobs[1], Outcome::Delivered, retries, 10);
        let due_ms = 10 + ms(retries[0]);
        assert!(state.is_paused() && !state.taken.is_empty());
        assert_eq!((state.chore(10), state.next_wake(10)), (None, Some(due_ms)));
        assert!(state.wake(due_ms));
        assert_eq!(state.next_job(due_ms).map(|job| job.place), Some(jobs[0].place));
        state.taken.clear();
        assert_eq!((state.chore(10), state.next_wake(10)), (Some(Chore::Resume(None)), Some(10)));
    }

    /// Tries what there is to try until nothing is ready, and fails.
    fn fail_probe(state: &mut State, at: Cursor, now_ms: i64) {
        state.probe_with(at, &event(1), now_ms);
        let probe = state.next_job(now_ms).unwrap();
        assert_eq!((probe.place, probe.origin), (event(1).place, Origin::Probe));
        state.finish(&probe, Outcome::Failed { retry_after: None }, Dialect::Standard.retries(), now_ms);
    }

    #[test]
    fn what_rests_is_tried_again_and_again_until_it_has_outlived_its_schedule_and_is_given_up() {
        let (first, end) = (event(1).cursor(), Cursor::behind(9));
        let mut state = State { window: WINDOW_FIRST, ..State::default() };
        state.mode = Mode::Paused(Pause::new(Some(first), 0));
        let mut now_ms = 0;
        for _ in 0..3 {
            for probe in 0..PROBES_OF_ONE {
                if probe == 0 {
                    assert_eq!(state.chore(now_ms), Some(Chore::Probe(first)));
                    fail_probe(&mut state, first, now_ms);
                } else {
                    assert!(state.wake(now_ms));
                    let probe = state.next_job(now_ms).unwrap();
                    state.finish(&probe, Outcome::Failed { retry_after: None }, &[], now_ms);
                }
                now_ms = state.next_wake(now_ms).unwrap().max(now_ms + ms(PROBE_MAX));
            }
            // Nothing else is there to be tried.
            assert_eq!(state.chore(now_ms), Some(Chore::Probe(job_behind(&event(1)))));
            assert_eq!(state.probe_without(job_behind(&event(1)), end, false, now_ms), None);
        }
        let Mode::Paused(pause) = &mut state.mode else { panic!("it does not pause") };
        pause.alive = Cursor::behind(1);
        assert_eq!(state.chore(now_ms), Some(Chore::Probe(Cursor::behind(1))));
        let given_up = state.probe_without(Cursor::behind(1), end, false, now_ms).unwrap();
        assert_eq!((given_up.from, given_up.through), (first, Cursor::behind(1)));
        assert_eq!(
            (state.unsaved.given_up.len(), state.chore(i64::MAX), state.next_wake(now_ms)),
            (1, None, None)
        );
        assert_eq!(state.lowest(end), Some(end));
        // The next one that comes is tried.
        assert!(state.offer(&event(10), now_ms));
        assert_eq!(state.chore(now_ms), Some(Chore::Probe(end)));
    }

    fn job_behind(event: &Event) -> Cursor {
        Job::of(event, Origin::Probe, 0).next_cursor()
    }

    #[test]
    fn a_lane_resumes_once_what_was_in_flight_when_it_paused_has_come_to_its_end() {
        let mut state = State { window: WINDOW_FIRST, has_answered: true, ..State::default() };
        for sequence in 1000..1000 + EXCEPTIONS_MAX as u64 {
            let waits = Job { place: event(sequence).place, ..job() };
            state.insert_exception(waits.exception(1, i64::MAX));
        }
        (1..=3).for_each(|key| assert!(state.offer(&Event { key, ..event(key) }, 0)));
        let jobs: Vec<Job> = (0..3).map(|_| state.next_job(0).unwrap()).collect();
        let end = |state: &mut State, job: &Job, outcome| {
            state.finish(job, outcome, Dialect::Standard.retries(), 10);
        };
        // There is no room for one that failed.
        end(&mut state, &jobs[0], Outcome::Failed { retry_after: None });
        assert!(state.is_paused());
        end(&mut state, &jobs[2], Outcome::Delivered);
        let routed = Cursor::behind(3);
        assert_eq!((state.chore(10), state.next_wake(10)), (None, None));
        state.resume(routed, Cursor::default(), false, 10);
        assert!(state.is_paused());
        end(&mut state, &jobs[1], Outcome::Failed { retry_after: None });
        assert_eq!(state.chore(10), Some(Chore::Resume(Some(event(1).cursor()))));
        state.resume(routed, Cursor::default(), false, 10);
        assert_eq!((&state.mode, state.backlogs.passed()), (&Mode::Live, vec![(event(1).cursor(), routed)]));
        // It sends those that failed, and not the one that was delivered.
        assert_eq!([1, 2, 3].map(|at| state.backlogs.passes_over(&event(at))), [false, false, true]);
    }

    #[test]
    fn an_event_that_only_fails_is_left_for_the_next_one() {
        let mut pause = Pause::new(Some(job().cursor()), 0);
        let mut attempts = Vec::new();
        for _ in 0..8 {
            let job = pause.probe.clone().unwrap_or_else(job);
            attempts.push(job.attempts);
            pause.failed(&job, 0);
        }
        assert_eq!(attempts, [0, 1, 2, 3, 4, 5, 6, 7]);
        assert_eq!((pause.probe, pause.at, pause.from), (None, job().next_cursor(), Some(job().cursor())));
    }
}
