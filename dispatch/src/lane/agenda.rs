//! Which lanes have something to do, so that ten thousand that have nothing cost
//! nothing.
//!
//! ```text
//! open     lanes that the next save must look at
//! timers   lanes by when the keeper must look at them
//! ```
//!
//! A lane notes itself whenever its state changes, under its own lock; the locks here
//! are taken inside that one and none is taken inside them.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use parking_lot::Mutex;

use super::save::Rest;
use super::state::State;
use super::{Lane, Post};
use crate::clock::Clock;
use crate::event::Cursor;

/// How soon a lane that could not be looked at is looked at again.
const LOOK_AGAIN_MS: i64 = 1000;
/// A position past everything.
const ANYWHERE: Cursor = Cursor { sequence: u64::MAX, ordinal: 0 };

/// Shared by all lanes of a dispatcher.
pub(crate) struct Agenda {
    clock: Clock,
    open: Mutex<Vec<Arc<Lane>>>,
    /// By time and a number that makes each entry its own.
    timers: Mutex<BTreeMap<(i64, u64), Arc<Lane>>>,
    last_timer: AtomicU64,
}

impl fmt::Debug for Agenda {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Lanes know of it as it does of them.
        f.debug_struct("Agenda").finish_non_exhaustive()
    }
}

/// Lanes that a save looks at. Those that it leaves here, be it that it panics, the
/// next one looks at too.
#[derive(Debug)]
pub(crate) struct Open<'a> {
    pub(crate) lanes: Vec<Arc<Lane>>,
    agenda: &'a Agenda,
}

impl Drop for Open<'_> {
    fn drop(&mut self) {
        self.agenda.open.lock().append(&mut self.lanes);
    }
}

/// Where a lane is noted.
#[derive(Debug, Default)]
pub(super) struct Slot {
    pub(super) is_open: bool,
    timer: Option<(i64, u64)>,
}

impl Agenda {
    pub(crate) fn new(clock: Clock) -> Agenda {
        Agenda { clock, open: Mutex::default(), timers: Mutex::default(), last_timer: AtomicU64::new(0) }
    }

    pub(crate) fn now_ms(&self) -> i64 {
        self.clock.now_ms()
    }

    /// Notes what a lane's state asks for.
    pub(super) fn note(&self, post: &Post, state: &State, now_ms: i64) {
        let mut slot = post.slot.lock();
        // Whether it is before the position that all share is for the saver to find out.
        if !slot.is_open
            && state.rest(ANYWHERE) == Rest::Busy
            && let Some(lane) = post.me.upgrade()
        {
            slot.is_open = true;
            self.open.lock().push(lane);
        }
        if let Some(wake_ms) = state.next_wake(now_ms) {
            self.wake(post, &mut slot, wake_ms);
        }
    }

    /// Has the keeper look at a lane, unless it does so before.
    fn wake(&self, post: &Post, slot: &mut Slot, wake_ms: i64) {
        if slot.timer.is_some_and(|(at, _)| at <= wake_ms) {
            return;
        }
        let Some(lane) = post.me.upgrade() else { return };
        let timer = (wake_ms, self.last_timer.fetch_add(1, Ordering::Relaxed));
        let mut timers = self.timers.lock();
        if let Some(old) = slot.timer.replace(timer) {
            timers.remove(&old);
        }
        timers.insert(timer, lane);
    }

    /// How long the keeper may rest, as far as is known.
    pub(crate) fn next_due(&self) -> Option<Duration> {
        let (next_ms, _) = *self.timers.lock().first_key_value()?.0;
        Some(Duration::from_millis(u64::try_from(next_ms.saturating_sub(self.now_ms())).unwrap_or(0)))
    }

    /// Lanes that the keeper must look at by now.
    pub(crate) fn due(&self) -> Vec<Arc<Lane>> {
        let now_ms = self.now_ms();
        let due = {
            let mut timers = self.timers.lock();
            let later = timers.split_off(&(now_ms.saturating_add(1), 0));
            std::mem::replace(&mut *timers, later)
        };
        due.into_iter().filter_map(|(timer, lane)| lane.rings(timer).then_some(lane)).collect()
    }

    /// Forgets all lanes: they know of the agenda as it does of them.
    pub(crate) fn clear(&self) {
        let timers = std::mem::take(&mut *self.timers.lock());
        let open = std::mem::take(&mut *self.open.lock());
        drop((timers, open));
    }

    /// Lanes that the next save must look at. Each stays noted until it
    /// [rests](Lane::rest), or is left in there.
    pub(crate) fn take_open(&self) -> Open<'_> {
        let lanes = std::mem::take(&mut *self.open.lock());
        Open { lanes, agenda: self }
    }
}

impl Lane {
    /// Its timer is over; false if it has another one by now.
    fn rings(&self, timer: (i64, u64)) -> bool {
        let Some(post) = self.post.get() else { return false };
        let mut slot = post.slot.lock();
        let is_its = slot.timer == Some(timer);
        if is_its {
            slot.timer = None;
        }
        is_its
    }

    /// It could not be looked at: it is a while later, whatever its state is.
    pub(crate) fn put_off(&self) {
        let Some(post) = self.post.get() else { return };
        let wake_ms = post.agenda.now_ms().saturating_add(LOOK_AGAIN_MS);
        post.agenda.wake(post, &mut post.slot.lock(), wake_ms);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicI64;

    use super::*;
    use crate::lane::Positions;
    use crate::lane::tests::event;
    use crate::ledger::{Changes, Exception, Health, LaneRecord};

    const LANES: u64 = 10_000;

    /// One in two is paused with a cursor and a retry, as receivers that are dead leave
    /// them.
    fn lane(number: u64) -> Arc<Lane> {
        let mut record = LaneRecord::default();
        if number.is_multiple_of(2) {
            let place = event(3).place;
            record.row = Some(Cursor { sequence: 5, ordinal: 0 });
            record.health = Health { failing_since_ms: Some(1), failed_ms: Some(0), paused_at_ms: Some(1) };
            record.exceptions = vec![Exception {
                place,
                ordinal: 0,
                decided_at: 3,
                key: 0,
                attempts: 1,
                due_at_ms: 9,
                quiet: false,
                members: Arc::default(),
            }];
        }
        Arc::new(Lane::restored(format!("ep_{number}"), "o".into(), crate::lane::tests::config(), record))
    }

    fn save(agenda: &Agenda, routed: Cursor) -> (usize, Vec<Rest>) {
        let mut open = agenda.take_open();
        let mut changes = Changes::default();
        let at = Positions { routed, saved: routed };
        let collected: Vec<_> =
            open.lanes.iter().map(|lane| lane.collect(at, &mut changes, agenda.now_ms())).collect();
        for (lane, collected) in open.lanes.iter().zip(&collected) {
            lane.saved(collected, &changes, agenda.now_ms());
        }
        let rests: Vec<Rest> = open.lanes.iter().map(|lane| lane.rest(routed)).collect();
        let mut busy = rests.iter().map(|rest| *rest == Rest::Busy);
        open.lanes.retain(|_| busy.next() == Some(true));
        (rests.len(), rests)
    }

    #[test]
    fn ten_thousand_lanes_that_have_nothing_to_do_are_not_looked_at() {
        let now_ms = Arc::new(AtomicI64::new(1000));
        let told = now_ms.clone();
        let agenda = Arc::new(Agenda::new(Clock::new(move || told.load(Ordering::Relaxed))));
        let lanes: Vec<Arc<Lane>> = (0..LANES).map(lane).collect();
        lanes.iter().for_each(|lane| lane.enlist(&agenda));
        let routed = Cursor::behind(10);
        let (looked, rests) = save(&agenda, routed);
        assert_eq!(looked as u64, LANES, "at first what they need is not known");
        let needing = rests.iter().filter(|rest| **rest == Rest::Needs(3)).count() as u64;
        let idle = rests.iter().filter(|rest| **rest == Rest::Idle).count() as u64;
        assert_eq!((needing, idle), (LANES / 2, LANES / 2));
        assert_eq!(save(&agenda, routed).0, 0);
        // Those that are paused are probed one after the other, and no others are due.
        for second in 1..=40 {
            now_ms.store(1000 + 1000 * second, Ordering::Relaxed);
            let due = agenda.due().len() as u64;
            assert!((50..250).contains(&due), "{due} in second {second}");
        }
        now_ms.store(100_000, Ordering::Relaxed);
        assert_eq!(agenda.due().len(), 0);
        // One gets an event, one that is paused lets it pass.
        assert!(lanes[1].offer(&event(11)) && !lanes[2].offer(&event(11)));
        assert_eq!(save(&agenda, routed).0, 1);
        assert_eq!(save(&agenda, routed), (1, vec![Rest::Busy]));
        agenda.clear();
        assert_eq!(Arc::strong_count(&lanes[4]), 1);
    }

    #[test]
    fn lanes_that_a_save_leaves_are_looked_at_by_the_next_one() {
        let agenda = Arc::new(Agenda::new(Clock::default()));
        let lanes: Vec<Arc<Lane>> = (0..3).map(lane).collect();
        lanes.iter().for_each(|lane| lane.enlist(&agenda));
        drop(std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            let open = agenda.take_open();
            assert!(open.lanes.is_empty(), "told to panic");
        })));
        assert_eq!(save(&agenda, Cursor::behind(10)).0, 3);
        assert_eq!(save(&agenda, Cursor::behind(10)).0, 0);
    }

    #[test]
    fn a_lane_that_is_put_off_is_looked_at_a_while_later() {
        let now_ms = Arc::new(AtomicI64::new(1000));
        let told = now_ms.clone();
        let agenda = Arc::new(Agenda::new(Clock::new(move || told.load(Ordering::Relaxed))));
        let lane = lane(2);
        lane.enlist(&agenda);
        now_ms.store(41_000, Ordering::Relaxed);
        assert_eq!(agenda.due().len(), 1);
        lane.put_off();
        for (ms, due) in [(41_999, 0), (42_000, 1), (49_000, 0)] {
            now_ms.store(ms, Ordering::Relaxed);
            assert_eq!(agenda.due().len(), due, "{ms}");
        }
    }
}
