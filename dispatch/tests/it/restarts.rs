//! Stops, restarts and crashes.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use systole_dispatch::dispatcher::ManualFault;
use systole_dispatch::event::{Cursor, Event, PayloadSource as _};
use systole_dispatch::ledger::Exception;

use crate::world::{Draft, FIRST, Hook, IN_FLIGHT, Random, Reply, Run, World, comes_within, ids_of};

const SOON: Duration = Duration::from_secs(30);

/// It thinks for 0.4 s about all but what comes first.
fn slow_behind_first() -> Hook {
    Hook::willing_at_first(Reply::after(Duration::from_millis(400)))
}

#[test]
fn a_stop_lets_what_is_in_flight_end_and_leaves_the_rest_to_the_next_start() {
    let (world, hook) = (World::new(), slow_behind_first());
    world.endpoint("ep_1", &hook.url());
    let run = world.start();
    let mut events = world.log.append(&[Draft::of(FIRST)]);
    assert!(comes_within(SOON, || hook.count() == 1));
    events.extend(world.log.append_many(40, 40));
    assert!(comes_within(SOON, || hook.begun() == 1 + IN_FLIGHT));
    let began = Instant::now();
    run.stop();
    assert!(began.elapsed() < Duration::from_secs(3), "{:?}", began.elapsed());
    assert_eq!((hook.begun(), hook.count()), (1 + IN_FLIGHT, 1 + IN_FLIGHT), "nothing new begins");
    let run = world.start();
    assert!(comes_within(SOON, || hook.count() == 41));
    run.stop();
    assert_eq!(hook.count(), 41, "what ended was not sent again");
    assert_eq!(hook.taken(), ids_of(&events));
    assert_eq!(world.book.stored().routed, 41);
}

#[test]
fn retries_survive_a_restart_and_are_made_when_they_are_due() {
    let heals = Arc::new(AtomicBool::new(false));
    let healed = heals.clone();
    let (world, hook) = (
        World::new(),
        Hook::start(move |_| Reply::status(if healed.load(Ordering::Relaxed) { 200 } else { 500 })),
    );
    world.endpoint("ep_1", &hook.url());
    let run = world.start();
    let events = world.log.append_many(15, 10);
    assert!(comes_within(SOON, || hook.count() == 15));
    run.stop();
    assert_eq!(world.book.stored().exceptions.len(), 15);
    heals.store(true, Ordering::Relaxed);
    // Not due yet.
    let run = world.start();
    std::thread::sleep(Duration::from_millis(300));
    assert_eq!((hook.count(), run.stats().retries_waiting), (15, 15));
    run.stop();
    world.hurry(0);
    let run = world.start();
    assert!(comes_within(SOON, || hook.count() == 30 && world.book.stored().exceptions.is_empty()));
    run.stop();
    assert_eq!(hook.taken(), ids_of(&events));
}

#[test]
fn who_saves_behind_a_stop_passes_nothing_that_is_undecided() {
    let (world, hook) = (World::new(), slow_behind_first());
    let run = world.endpoint("ep_1", &hook.url()).start();
    let mut events = world.log.append(&[Draft::of(FIRST)]);
    assert!(comes_within(SOON, || hook.count() == 1));
    events.extend(world.log.append_many(40, 40));
    assert!(comes_within(SOON, || hook.begun() == 1 + IN_FLIGHT && run.stats().routed_sequence == 41));
    run.dispatcher.stop();
    assert!(hook.count() < 41);
    // A request that was on its way when the server stopped.
    let late = run.dispatcher.recover("ep_1", Cursor::behind(0), Cursor::behind(40));
    assert_eq!(late, Err(ManualFault::Stopping));
    assert_eq!(run.dispatcher.resend("ep_1", events[0].place, 1), Err(ManualFault::Stopping));
    run.stop();
    let run = world.start();
    assert!(comes_within(SOON, || hook.taken().len() == 41), "{} came", hook.taken().len());
    run.stop();
    assert_eq!(hook.taken(), ids_of(&events));
}

/// A world with an event whose retry is not due for an hour, and its endpoint.
fn failed_once(hook: &Hook) -> (World, Event) {
    let world = World::new();
    world.endpoint("ep_1", &hook.url());
    let event = world.log.append_many(1, 1).remove(0);
    let exception = Exception {
        place: event.place,
        ordinal: event.ordinal,
        decided_at: event.decided_at,
        key: event.key,
        attempts: 1,
        due_at_ms: world.now_ms() + 3_600_000,
        quiet: false,
        members: Arc::default(),
    };
    world.book.store(|stored| {
        stored.exceptions.insert(("ep_1".to_owned(), event.place), exception);
        stored.routed = 1;
    });
    (world, event)
}

#[test]
fn a_stop_sends_what_was_taken_to_be_sent_by_hand_and_takes_no_more() {
    let hook = Hook::start(|_| Reply::after(Duration::from_millis(100)));
    let (world, event) = failed_once(&hook);
    let run = world.start();
    let dispatcher = run.dispatcher.clone();
    let resend = || dispatcher.resend("ep_1", event.place, event.decided_at);
    (0..10).for_each(|_| resend().unwrap());
    let payload = world.source.open(event.place, event.decided_at).unwrap();
    dispatcher.send_example(run.lane("ep_1"), "evt_example".to_owned(), None, payload).unwrap();
    let mut taken = 11;
    // Four are in flight, the others wait for their turn.
    assert!(comes_within(SOON, || hook.begun() >= 4));
    let stopping = std::thread::spawn(move || run.stop());
    let refused = comes_within(SOON, || match resend() {
        Ok(()) => {
            taken += 1;
            false
        }
        Err(fault) => fault == ManualFault::Stopping,
    });
    assert!(refused);
    stopping.join().unwrap();
    assert_eq!(hook.count(), taken);
    assert_eq!(world.diary.attempts().iter().filter(|one| one.success).count(), taken);
    assert!(world.book.stored().exceptions.is_empty(), "what it took needs no retry, and that is saved");
}

#[test]
fn a_stop_waits_for_what_is_sent_by_hand_no_longer_than_for_what_is_in_flight() {
    let hook = Hook::start(|_| Reply::after(Duration::from_secs(60)));
    let (world, event) = failed_once(&hook);
    let run = world.start();
    (0..4).for_each(|_| run.dispatcher.resend("ep_1", event.place, event.decided_at).unwrap());
    assert!(comes_within(SOON, || hook.begun() == 4));
    let began = Instant::now();
    run.stop();
    let took = began.elapsed();
    assert!((Duration::from_secs(4)..Duration::from_secs(9)).contains(&took), "{took:?}");
    assert_eq!((hook.begun(), world.book.stored().exceptions.len()), (4, 1));
}

#[test]
fn a_save_or_a_look_that_panics_is_made_again_and_passes_nothing() {
    let (world, heals) = (World::new(), Arc::new(AtomicBool::new(false)));
    let healed = heals.clone();
    let hook = Hook::start(move |_| Reply::status(if healed.load(Ordering::Relaxed) { 200 } else { 500 }));
    world.book.watch("ep_1", &hook);
    let run = world.endpoint("ep_1", &hook.url()).start();
    world.book.panic(4);
    world.log.panic(4);
    let events = world.log.append_many(10, 10);
    assert!(comes_within(SOON, || world.book.panics() == 0));
    assert!(comes_within(SOON, || world.book.stored().exceptions.len() == 10));
    // The keeper wakes retries, the saver notes that they came to an end.
    heals.store(true, Ordering::Relaxed);
    world.pass(Duration::from_secs(10));
    assert!(comes_within(SOON, || hook.taken().len() == 10), "{}", hook.taken().len());
    assert!(comes_within(SOON, || world.book.stored().exceptions.is_empty()));
    run.stop();
    world.book.check_positions(&events);
    assert_eq!(world.book.stored().routed, 10);
}

/// Three endpoints over twenty lives: one keeps up, one fails a fifth, one lags and
/// fails a fifth. Every other life ends as by a crash: its last saves are lost.
fn live_and_die(seed: u64) {
    let heals = Arc::new(AtomicBool::new(false));
    let failing = |seed: u64, pause: Duration| {
        let (heals, random) = (heals.clone(), Arc::new(Mutex::new(Random(seed))));
        Hook::start(move |_| {
            let fails = random.lock().unwrap().below(5) == 0 && !heals.load(Ordering::Relaxed);
            Reply { status: if fails { 500 } else { 200 }, ..Reply::after(pause) }
        })
    };
    let hooks = [
        ("ep_willing", Hook::willing()),
        ("ep_failing", failing(seed, Duration::ZERO)),
        ("ep_slow", failing(seed + 1, Duration::from_millis(15))),
    ];
    let (world, mut random) = (World::new(), Random(seed));
    world.hurry(0);
    for (id, hook) in &hooks {
        world.endpoint(id, &hook.url());
        world.book.watch(id, hook);
    }
    for _ in 0..20 {
        let run = world.start();
        for _ in 0..random.below(4) {
            world.log.append_many(random.below(120), 50);
            std::thread::sleep(Duration::from_millis(random.below(60)));
        }
        let crashes = random.below(2) == 0;
        world.book.fail(crashes);
        run.stop();
        world.book.fail(false);
    }
    heals.store(true, Ordering::Relaxed);
    let run = world.start();
    let expected = ids_of(&world.log.events());
    let all = |run: &Run| {
        hooks.iter().all(|(_, hook)| hook.taken().len() == expected.len())
            && run.stats().retries_waiting == 0
            && run.stats().lanes_behind == 0
    };
    comes_within(SOON, || all(&run));
    assert!(comes_within(SOON, || world.book.stored().routed == world.log.head()));
    run.stop();
    for (id, hook) in &hooks {
        let taken = hook.taken();
        let missing: BTreeSet<&String> = expected.difference(&taken).collect();
        assert!(missing.is_empty(), "seed {seed}: {id} lost {} of {}", missing.len(), expected.len());
        assert_eq!(hook.most().1, 1, "seed {seed}: {id}");
    }
    world.book.check_positions(&world.log.events());
    let stored = world.book.stored();
    assert!(stored.exceptions.is_empty() && stored.rows.is_empty(), "seed {seed}: {stored:?}");
}

#[test]
fn nothing_is_lost_over_twenty_lives() {
    live_and_die(1);
}

#[test]
fn nothing_is_lost_over_twenty_other_lives() {
    live_and_die(1_000_003);
}

#[test]
fn a_lane_that_lags_goes_on_at_its_cursor_after_a_restart() {
    let pause = Arc::new(AtomicU64::new(20));
    let told = pause.clone();
    let hook = Hook::start(move |_| Reply::after(Duration::from_millis(told.load(Ordering::Relaxed))));
    let world = World::new();
    let run = world.endpoint("ep_1", &hook.url()).start();
    let events = world.log.append_many(2500, 400);
    assert!(comes_within(SOON, || run.lane("ep_1").is_behind() && hook.count() > 200));
    run.stop();
    let row = world.book.stored().rows["ep_1"];
    assert!(row.sequence > 100 && row.sequence < 1200, "{row:?}");
    pause.store(0, Ordering::Relaxed);
    let (before, run) = (hook.count(), world.start());
    assert!(comes_within(SOON, || hook.taken().len() == 2500 && world.book.stored().rows.is_empty()));
    run.stop();
    assert_eq!(hook.taken(), ids_of(&events));
    // Again only what was behind the first that was undecided.
    let again = hook.count() - 2500;
    assert!(again <= 512, "{again} again after {before}");
}
