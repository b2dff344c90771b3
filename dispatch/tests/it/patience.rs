//! Receivers that ask to be left alone with `Retry-After`. The clock stands still but for
//! what is said to pass.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use crate::world::{Hook, Reply, World, comes_within, ids_of};

const SOON: Duration = Duration::from_secs(30);

/// Long enough for what must not come to have come.
fn wait() {
    std::thread::sleep(Duration::from_millis(400));
}

#[test]
fn who_asks_to_be_left_alone_gets_nothing_until_then_but_what_is_sent_by_hand() {
    // In seconds; who asked is waited for up to 10 h, its others for 40 s.
    for (asked, heard, own) in [(20, 20, 20), (u64::MAX, 40, 36_000)] {
        let (world, busy) = (World::still(), Arc::new(AtomicU64::new(asked)));
        let wish = busy.clone();
        let hook = Hook::start(move |_| match wish.load(Ordering::Relaxed) {
            0 => Reply::status(200),
            seconds => Reply { retry_after: Some(seconds), ..Reply::status(503) },
        });
        let run = world.endpoint("ep_1", &hook.url()).start();
        let mut events = world.log.append_many(1, 1);
        let lane = run.lane("ep_1");
        assert!(comes_within(SOON, || lane.exception_count() == 1 && lane.in_flight() == 0));
        events.extend(world.log.append_many(600, 300));
        assert!(comes_within(SOON, || run.stats().routed_sequence == 601));
        let before = hook.count();
        world.pass(Duration::from_secs(heard - 1));
        wait();
        assert_eq!((before, hook.count()), (1, 1), "{asked}");
        // Its failure asks nothing of the lane.
        run.dispatcher.resend("ep_1", events[1].place, events[1].decided_at).unwrap();
        assert!(comes_within(SOON, || hook.count() == 2));
        busy.store(0, Ordering::Relaxed);
        world.pass(Duration::from_secs(1));
        // The others lag, and are read while the clock goes on.
        assert!(comes_within(SOON, || {
            world.pass(Duration::from_millis(10));
            hook.taken().len() >= 600
        }));
        world.pass(Duration::from_secs(own - heard));
        assert!(comes_within(SOON, || {
            world.pass(Duration::from_millis(10));
            hook.taken().len() == 601
        }));
        run.stop();
        assert_eq!((hook.taken(), hook.count()), (ids_of(&events), 603));
    }
}

#[test]
fn what_is_taken_by_hand_ends_the_wish() {
    let (world, busy) = (World::still(), Arc::new(AtomicU64::new(3600)));
    let wish = busy.clone();
    let hook = Hook::start(move |_| match wish.load(Ordering::Relaxed) {
        0 => Reply::status(200),
        seconds => Reply { retry_after: Some(seconds), ..Reply::status(429) },
    });
    let run = world.endpoint("ep_1", &hook.url()).start();
    let first = world.log.append_many(1, 1).remove(0);
    let lane = run.lane("ep_1");
    assert!(comes_within(SOON, || lane.exception_count() == 1 && lane.in_flight() == 0));
    let others = world.log.append_many(10, 10);
    wait();
    assert_eq!(hook.count(), 1);
    busy.store(0, Ordering::Relaxed);
    run.dispatcher.resend("ep_1", first.place, first.decided_at).unwrap();
    assert!(comes_within(SOON, || hook.taken().len() == 11), "{}", hook.taken().len());
    run.stop();
    assert!(hook.taken().is_superset(&ids_of(&others)));
}

#[test]
fn the_first_probe_of_a_pause_waits_for_the_wish_but_not_for_long() {
    let (world, answers) = (World::still(), Arc::<AtomicU64>::default());
    let answered = answers.clone();
    let hook = Hook::start(move |_| match answered.fetch_add(1, Ordering::Relaxed) {
        // As many in a row as a lane allows, and then one that says for how long.
        0..19 => Reply::status(500),
        _ => Reply { retry_after: Some(600), ..Reply::status(503) },
    });
    let run = world.endpoint("ep_1", &hook.url()).start();
    world.log.append_many(60, 60);
    let lane = run.lane("ep_1");
    assert!(comes_within(SOON, || lane.is_paused() && lane.in_flight() == 0));
    let before = hook.count();
    world.pass(Duration::from_secs(35));
    wait();
    assert_eq!(hook.count(), before);
    world.pass(Duration::from_secs(6));
    assert!(comes_within(SOON, || hook.count() == before + 1));
    run.stop();
}
