//! Receivers that are down for long, and what becomes of their endpoints. The clock stands
//! still but for what is said to pass.

use std::sync::atomic::{AtomicBool, AtomicU16, Ordering};
use std::sync::{Arc, Condvar, Mutex};
use std::time::Duration;

use systole_dispatch::EventKind;
use systole_dispatch::endpoint::EndpointSettings;
use systole_dispatch::event::Cursor;
use systole_dispatch::notice::{DisabledReason, MessageFailed, Notice};

use crate::world::{
    Draft, FAILED, Hook, ORG, Reply, Run, World, comes_within, filter, id_of, ids_of, place_of, settings,
};

const SOON: Duration = Duration::from_secs(30);
const HOUR: Duration = Duration::from_secs(3600);

/// Answers what it is told last, and lets through a gate what it takes.
struct Obedient {
    status: AtomicU16,
    gate: Mutex<Gate>,
    moved: Condvar,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Gate {
    Open,
    /// For one, and shut behind it.
    Ajar,
    Shut,
}

impl Obedient {
    fn start(status: u16) -> (Told, Hook) {
        let told = Arc::new(Obedient {
            status: AtomicU16::new(status),
            gate: Mutex::new(Gate::Open),
            moved: Condvar::new(),
        });
        let judge = told.clone();
        (Told(told), Hook::start(move |_| Reply::status(judge.status())))
    }

    fn status(&self) -> u16 {
        let status = self.status.load(Ordering::Relaxed);
        if status == 200 {
            let gate = self.gate.lock().unwrap();
            let mut gate = self.moved.wait_while(gate, |gate| *gate == Gate::Shut).unwrap();
            if *gate == Gate::Ajar {
                *gate = Gate::Shut;
            }
        }
        status
    }

    fn answer(&self, status: u16) {
        self.status.store(status, Ordering::Relaxed);
    }

    fn gate(&self, gate: Gate) {
        *self.gate.lock().unwrap() = gate;
        self.moved.notify_all();
    }
}

/// Lets those through that wait, so that a test that fails ends.
struct Told(Arc<Obedient>);

impl std::ops::Deref for Told {
    type Target = Obedient;

    fn deref(&self) -> &Obedient {
        &self.0
    }
}

impl Drop for Told {
    fn drop(&mut self) {
        self.gate(Gate::Open);
    }
}

/// An endpoint that is paused after some of 60 events.
fn paused() -> (World, Hook, Run, Told) {
    let (world, (told, hook)) = (World::still(), Obedient::start(500));
    let run = world.endpoint("ep_1", &hook.url()).start();
    world.log.append_many(60, 30);
    assert!(comes_within(SOON, || run.lane("ep_1").is_paused()));
    assert!(comes_within(SOON, || run.lane("ep_1").in_flight() == 0));
    // What was tried is durable, and the cursor stands behind it.
    let tried = hook.count() as u64;
    let row = || world.book.stored().rows.get("ep_1").map(|row| row.sequence);
    assert!(comes_within(SOON, || row() == Some(tried + 1)), "{:?} {tried}", row());
    let is_paused = || world.book.stored().health["ep_1"].paused_at_ms.is_some();
    assert!(comes_within(SOON, is_paused));
    (world, hook, run, told)
}

/// Nothing waits any more.
fn is_level(world: &World, run: &Run) -> bool {
    let stored = world.book.stored();
    stored.routed == world.log.head()
        && stored.rows.is_empty()
        && stored.backlogs.is_empty()
        && stored.exceptions.is_empty()
        && stored.health.is_empty()
        && run.stats().lanes_paused == 0
}

#[test]
fn after_20_failures_in_a_row_only_the_event_at_the_cursor_is_tried() {
    let (world, hook, run, _told) = paused();
    let before = hook.count();
    assert!((20..=28).contains(&before), "{before}");
    let cursor = world.book.stored().rows["ep_1"];
    // Retries are due after 5 s, and rest.
    for (number, pause) in [5, 10, 20, 40, 40].into_iter().enumerate() {
        world.pass(Duration::from_secs(pause));
        assert!(comes_within(SOON, || hook.count() == before + number + 1), "{number}");
    }
    std::thread::sleep(Duration::from_millis(500));
    assert_eq!(hook.count(), before + 5);
    let probes = &hook.deliveries()[before..];
    assert!(probes.iter().all(|probe| place_of(&probe.id).sequence == cursor.sequence), "{probes:?}");
    let numbers: Vec<u32> = world.diary.attempts()[before..].iter().map(|one| one.number).collect();
    assert_eq!(numbers, [1, 2, 3, 4, 5]);
    let stats = run.dispatcher.endpoint_stats("ep_1").unwrap();
    assert!(stats.is_paused && stats.failing_since_ms.is_some(), "{stats:?}");
    assert_eq!(stats.oldest_undecided, Some(cursor.sequence), "{stats:?}");
    assert_eq!(stats.lag_events, 60 - before as u64, "{stats:?}");
    assert_eq!(run.stats().lanes_paused, 1);
    run.stop();
}

#[test]
fn who_comes_back_after_a_day_gets_live_events_at_once_and_the_backlog_behind_them() {
    let (world, hook, run, told) = paused();
    // A day of events, over a restart.
    run.stop();
    let run = world.start();
    assert!(run.lane("ep_1").is_paused());
    for _ in 0..24 {
        world.pass(HOUR);
        world.log.append_many(50, 30);
    }
    assert!(comes_within(SOON, || run.stats().routed_sequence == 1260));
    let stored = world.book.stored();
    assert!(stored.exceptions.len() < 40 && stored.backlogs.is_empty(), "{stored:?}");
    assert!(comes_within(SOON, || run.lane("ep_1").in_flight() == 0));
    let before = hook.count();
    told.gate(Gate::Ajar);
    told.answer(200);
    world.pass(Duration::from_secs(41));
    assert!(comes_within(SOON, || !run.lane("ep_1").is_paused()));
    let live = world.log.append(&[Draft::of(100)]);
    assert!(comes_within(SOON, || run.stats().routed_sequence == 1261));
    told.gate(Gate::Open);
    assert!(comes_within(SOON, || is_level(&world, &run)), "{:?}", world.book.stored());
    run.stop();
    assert_eq!(hook.taken(), ids_of(&world.log.events()), "everything comes in the end");
    let after: Vec<String> = hook.deliveries().drain(before..).map(|one| one.id).collect();
    let came = after.iter().position(|id| *id == id_of(live[0].place)).unwrap();
    // The probe, what was in flight when it came, and one in eight from behind it; answered in
    // any order, of as many as may be in flight.
    assert!(came < 64, "{came} of {} came before a live event", after.len());
    assert_eq!(hook.most().1, 1);
    assert!(world.board.notices().is_empty(), "nothing was given up");
}

#[test]
fn what_has_outlived_its_schedule_is_given_up_as_one_range_and_comes_by_a_recovery() {
    let (world, hook, run, told) = paused();
    let cursor = world.book.stored().rows["ep_1"];
    world.pass(30 * HOUR);
    let young = world.log.append_many(10, 10);
    assert!(comes_within(SOON, || run.stats().routed_sequence == 70));
    told.answer(200);
    world.pass(Duration::from_secs(41));
    assert!(comes_within(SOON, || is_level(&world, &run)), "{:?}", world.book.stored());
    let notices = world.board.notices();
    let [Notice::MessageFailed(range)] = &notices[..] else { panic!("{notices:?}") };
    let MessageFailed { from, through, message: None, .. } = range else { panic!("{range:?}") };
    // The event at the cursor was what it was tried with.
    assert!((cursor.sequence..=cursor.sequence + 1).contains(&from.sequence), "{range:?} {cursor:?}");
    assert_eq!(*through, Cursor { sequence: 61, ordinal: 0 });
    assert!(hook.taken().is_superset(&ids_of(&young)));
    let missing = 70 - hook.taken().len();
    assert!(missing >= 30, "{missing}");
    // Somebody asks for what failed, twice.
    let all = (Cursor::default(), Cursor::behind(world.log.head()));
    assert_eq!(run.dispatcher.recover("ep_1", all.0, all.1), Ok(true));
    assert!(comes_within(SOON, || hook.taken().len() == 70 && is_level(&world, &run)));
    let attempts = world.diary.attempts();
    let manual = attempts.iter().filter(|one| one.trigger.as_str() == "manual").count();
    assert_eq!(manual, missing, "only what was given up was sent again");
    assert_eq!(run.dispatcher.recover("ep_1", all.0, all.1), Ok(true));
    assert!(comes_within(SOON, || is_level(&world, &run)));
    run.stop();
    assert_eq!(world.diary.attempts().len(), attempts.len(), "nothing is left to recover");
}

#[test]
fn who_takes_only_notices_announces_nothing_of_a_range_that_it_gave_up() {
    let (world, (told, hook)) = (World::still(), Obedient::start(500));
    let names = filter(&["message.failed", "endpoint.disabled"]);
    let settings = EndpointSettings { filter_types: names, ..settings(&hook.url()) };
    let run = world.endpoint_with("ep_1", ORG, settings).start();
    let notice = |key| Draft {
        user: None,
        topic: FAILED,
        kind: EventKind::Published,
        about: Some("ep_2"),
        ..Draft::of(key)
    };
    (0..60).for_each(|key| drop(world.log.append(&[notice(key)])));
    assert!(comes_within(SOON, || run.lane("ep_1").is_paused() && run.lane("ep_1").in_flight() == 0));
    world.pass(30 * HOUR);
    (60..65).for_each(|key| drop(world.log.append(&[notice(key)])));
    assert!(comes_within(SOON, || run.stats().routed_sequence == 65));
    told.answer(200);
    world.pass(Duration::from_secs(41));
    assert!(comes_within(SOON, || is_level(&world, &run)), "{:?}", world.book.stored());
    run.stop();
    assert!(world.board.notices().is_empty(), "{:?}", world.board.notices());
    // It is noted all the same, for a recovery.
    let given_up = world.book.stored().given_up;
    let [(_, range)] = &given_up[..] else { panic!("{given_up:?}") };
    assert!(range.quiet && range.through == Cursor { sequence: 61, ordinal: 0 }, "{range:?}");
}

#[test]
fn an_endpoint_that_only_fails_for_5_days_is_switched_off_and_that_is_announced() {
    let (world, hook, run, _told) = paused();
    world.book.fail_switch_offs(1);
    for _ in 0..6 {
        assert!(!run.lane("ep_1").is_off());
        let before = hook.count();
        world.pass(20 * HOUR);
        // The answer is heard before time passes on.
        assert!(comes_within(SOON, || hook.count() > before && run.lane("ep_1").in_flight() == 0));
    }
    assert!(comes_within(SOON, || run.lane("ep_1").is_off()));
    // Stored and announced in the end.
    assert!(comes_within(SOON, || !world.board.notices().is_empty()));
    assert_eq!(world.book.switch_offs(), [("ep_1".to_owned(), DisabledReason::Failing)]);
    assert!(comes_within(SOON, || world.book.stored().exceptions.is_empty()));
    run.stop();
    let notices = world.board.notices();
    let [Notice::EndpointDisabled(disabled)] = &notices[..] else { panic!("{notices:?}") };
    assert_eq!(world.book.disabled(), std::slice::from_ref(disabled), "the ledger has what is announced");
    assert_eq!((&*disabled.endpoint, disabled.reason), ("ep_1", DisabledReason::Failing));
    let days = (disabled.at_ms - disabled.failing_since_ms.unwrap()) / 86_400_000;
    assert_eq!((disabled.at_ms, days), (world.now_ms(), 5));
    assert!(world.book.stored().rows.is_empty() && world.book.stored().health.is_empty());
}

#[test]
fn a_day_in_which_the_server_was_off_begins_the_5_days_anew() {
    let (world, hook, run, _told) = paused();
    let before = hook.count();
    run.stop();
    world.pass(26 * HOUR);
    let run = world.start();
    world.pass(Duration::from_secs(41));
    assert!(comes_within(SOON, || hook.count() > before && run.lane("ep_1").in_flight() == 0));
    let since = run.dispatcher.endpoint_stats("ep_1").unwrap().failing_since_ms;
    assert_eq!(since, Some(world.now_ms()));
    run.stop();
    let stored = world.book.stored().health["ep_1"];
    let hour = world.now_ms() / 3_600_000 * 3_600_000;
    assert_eq!((stored.failing_since_ms, stored.failed_ms), (since, Some(hour)));
}

#[test]
fn one_success_ends_what_would_have_switched_off() {
    let (world, hook, run, told) = paused();
    told.answer(200);
    world.pass(4 * 24 * HOUR);
    assert!(comes_within(SOON, || is_level(&world, &run)), "{:?}", world.book.stored());
    told.answer(500);
    world.pass(2 * 24 * HOUR);
    let before = hook.count();
    world.log.append_many(3, 3);
    assert!(comes_within(SOON, || hook.count() > before));
    assert!(!run.lane("ep_1").is_off());
    run.stop();
    assert_eq!(world.book.switch_offs(), []);
}

#[test]
fn who_took_what_was_sent_by_hand_did_not_only_fail() {
    let (world, takes) = (World::still(), Arc::<AtomicBool>::default());
    let taking = takes.clone();
    // The first event alone, and no other.
    let hook = Hook::start(move |delivery| {
        let is_first = place_of(&delivery.id).sequence == 1;
        Reply::status(if is_first && taking.load(Ordering::Relaxed) { 200 } else { 500 })
    });
    let run = world.endpoint("ep_1", &hook.url()).start();
    let first = world.log.append_many(60, 30).swap_remove(0);
    let lane = run.lane("ep_1");
    assert!(comes_within(SOON, || lane.is_paused() && lane.in_flight() == 0));
    let fail_for_20_hours = || {
        let before = hook.count();
        world.pass(20 * HOUR);
        assert!(comes_within(SOON, || hook.count() > before && lane.in_flight() == 0));
    };
    (0..5).for_each(|_| fail_for_20_hours());
    takes.store(true, Ordering::Relaxed);
    let before = hook.count();
    run.dispatcher.resend("ep_1", first.place, first.decided_at).unwrap();
    // It is tried at once, and fails.
    assert!(comes_within(SOON, || hook.count() == before + 2 && lane.in_flight() == 0));
    let since = || run.dispatcher.endpoint_stats("ep_1").unwrap().failing_since_ms;
    assert!(comes_within(SOON, || since() == Some(world.now_ms())));
    (0..5).for_each(|_| fail_for_20_hours());
    assert!(lane.is_paused() && !lane.is_off());
    run.stop();
    assert_eq!(world.book.switch_offs(), []);
}
