//! Endpoints that are switched off, on, bound to others and taken away.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU16, Ordering};
use std::time::Duration;

use systole_dispatch::endpoint::EndpointSettings;
use systole_dispatch::event::Cursor;
use systole_dispatch::lane::Lane;
use systole_dispatch::notice::DisabledReason;

use crate::world::{
    Draft, FIRST, Hook, IN_FLIGHT, ORG, Reply, World, comes_within, config, ids_of, place_of, settings,
};

const SOON: Duration = Duration::from_secs(30);

/// Answers what it is told last.
fn obedient(status: u16) -> (Arc<AtomicU16>, Hook) {
    let told = Arc::new(AtomicU16::new(status));
    let status = told.clone();
    (told, Hook::start(move |_| Reply::status(status.load(Ordering::Relaxed))))
}

#[test]
fn a_receiver_that_says_410_is_switched_off_and_gets_nothing_more() {
    let (world, other) = (World::new(), Hook::willing());
    let (told, hook) = obedient(500);
    let run = world.endpoint("ep_1", &hook.url()).endpoint("ep_2", &other.url()).start();
    world.log.append_many(15, 15);
    assert!(comes_within(SOON, || world.book.stored().routed == 15));
    run.stop();
    assert_eq!((world.book.stored().exceptions.len(), other.count()), (15, 15));
    world.hurry(1000);
    told.store(410, Ordering::Relaxed);
    let run = world.start();
    world.log.append_many(5, 1);
    assert!(comes_within(SOON, || !world.book.switch_offs().is_empty()));
    let lane = run.lane("ep_1");
    assert!(lane.is_off() && !lane.is_behind() && !lane.config().settings.active);
    assert!(comes_within(SOON, || lane.exception_count() == 0), "its waiting retries end");
    assert_eq!(hook.count(), 16);
    world.log.append_many(100, 10);
    assert!(comes_within(SOON, || other.count() == 120));
    assert!(comes_within(SOON, || world.book.stored().exceptions.is_empty()));
    // Longer than the retries were to wait.
    std::thread::sleep(Duration::from_millis(1200));
    run.stop();
    assert_eq!(world.book.switch_offs(), [("ep_1".to_owned(), DisabledReason::Gone)]);
    assert_eq!(hook.begun(), 16);
    assert_eq!(world.book.stored().routed, 120, "who is off holds nothing back");
    let run = world.start();
    world.log.append_many(3, 3);
    assert!(comes_within(SOON, || other.count() == 123));
    run.stop();
    assert_eq!(hook.begun(), 16);
}

#[test]
fn an_end_before_a_switch_off_is_stored_loses_nothing_that_waits() {
    let (world, (told, hook)) = (World::new(), obedient(500));
    let run = world.endpoint("ep_1", &hook.url()).start();
    let mut events = world.log.append_many(15, 15);
    assert!(comes_within(SOON, || world.book.stored().exceptions.len() == 15));
    world.book.fail_switch_offs(usize::MAX);
    told.store(410, Ordering::Relaxed);
    events.extend(world.log.append_many(5, 1));
    let lane = run.lane("ep_1");
    assert!(comes_within(SOON, || lane.is_off() && lane.in_flight() == 0));
    let begun = hook.begun();
    events.extend(world.log.append_many(5, 5));
    assert!(comes_within(SOON, || run.stats().routed_sequence == 25));
    // Some saves.
    std::thread::sleep(Duration::from_millis(700));
    run.stop();
    let stored = world.book.stored();
    assert_eq!((stored.exceptions.len(), hook.begun()), (15, begun), "{stored:?}");
    told.store(200, Ordering::Relaxed);
    world.hurry(0);
    let run = world.start();
    assert!(comes_within(SOON, || hook.taken() == ids_of(&events)), "{:?}", hook.taken());
    run.stop();
    assert_eq!((world.book.switch_offs(), world.board.notices()), (vec![], vec![]));
}

#[test]
fn a_switch_off_whose_notice_finds_no_room_is_stored_once_and_left_to_the_ledger() {
    let (world, (_, hook)) = (World::new(), obedient(410));
    world.board.refuse(1);
    let run = world.endpoint("ep_1", &hook.url()).start();
    world.log.append_many(1, 1);
    assert!(comes_within(SOON, || !world.book.switch_offs().is_empty()));
    // Longer than until it would be stored again.
    std::thread::sleep(Duration::from_millis(1500));
    run.stop();
    assert_eq!(world.book.switch_offs(), [("ep_1".to_owned(), DisabledReason::Gone)]);
    assert_eq!(world.board.notices(), []);
}

#[test]
fn a_switch_off_that_panics_is_stored_all_the_same() {
    let (world, (_, hook)) = (World::new(), obedient(410));
    world.book.panic_switch_offs(1);
    let run = world.endpoint("ep_1", &hook.url()).start();
    world.log.append_many(1, 1);
    assert!(comes_within(SOON, || world.board.notices().len() == 1));
    run.stop();
    assert_eq!(world.book.switch_offs(), [("ep_1".to_owned(), DisabledReason::Gone)]);
    assert_eq!(world.book.stored().routed, 1, "it holds nothing back");
}

#[test]
fn who_is_switched_on_again_before_that_was_stored_is_not_announced() {
    let (world, (told, hook)) = (World::new(), obedient(410));
    world.book.fail_switch_offs(1);
    let run = world.endpoint("ep_1", &hook.url()).start();
    world.log.append_many(1, 1);
    let lane = run.lane("ep_1");
    assert!(comes_within(SOON, || lane.is_off() && lane.in_flight() == 0));
    told.store(200, Ordering::Relaxed);
    run.reconfigure("ep_1", settings(&hook.url()));
    lane.switch_on(Cursor::behind(1));
    let events = world.log.append_many(1, 1);
    assert!(comes_within(SOON, || hook.taken() == ids_of(&events)));
    // Longer than until it would be stored.
    std::thread::sleep(Duration::from_millis(1500));
    run.stop();
    assert_eq!((world.book.switch_offs(), world.board.notices()), (vec![], vec![]));
}

#[test]
fn settings_that_come_before_a_switch_off_is_stored_leave_the_lane_where_no_event_is_offered() {
    let (world, (_, hook)) = (World::new(), obedient(410));
    world.book.fail_switch_offs(usize::MAX);
    let run = world.endpoint("ep_1", &hook.url()).start();
    world.log.append_many(1, 1);
    let lane = run.lane("ep_1");
    assert!(comes_within(SOON, || lane.is_off() && lane.in_flight() == 0));
    // As a rotation does it, whose record does not know yet.
    run.reconfigure("ep_1", settings(&hook.url()));
    world.book.fail_switch_offs(0);
    assert!(comes_within(SOON, || world.board.notices().len() == 1));
    assert!(lane.is_off() && !lane.config().settings.active);
    let offered = run.stats().routed_events;
    world.log.append_many(5, 5);
    assert!(comes_within(SOON, || run.stats().routed_sequence == 6));
    assert_eq!((run.stats().routed_events, hook.begun()), (offered, 1));
    run.stop();
}

#[test]
fn a_410_to_many_at_once_is_answered_by_those_in_flight_only() {
    let world = World::new();
    let hook = Hook::willing_at_first(Reply { status: 410, ..Reply::after(Duration::from_millis(50)) });
    let run = world.endpoint("ep_1", &hook.url()).start();
    world.log.append(&[Draft::of(FIRST)]);
    assert!(comes_within(SOON, || hook.count() == 1));
    world.log.append_many(600, 600);
    assert!(comes_within(SOON, || run.lane("ep_1").is_off() && run.lane("ep_1").in_flight() == 0));
    std::thread::sleep(Duration::from_millis(500));
    run.stop();
    assert_eq!(hook.begun(), 1 + IN_FLIGHT);
}

#[test]
fn an_endpoint_bound_to_another_user_gets_nothing_of_the_old_one() {
    let world = World::new();
    let of = |user: &'static str, key| Draft { user: Some(user), ..Draft::of(key) };
    // The first two of the old user are in flight, or failed, when it is bound anew.
    let hook = Hook::start(|delivery| {
        let fails = place_of(&delivery.id).sequence == 1;
        Reply { status: if fails { 500 } else { 200 }, ..Reply::after(Duration::from_millis(300)) }
    });
    let bound = |user: &str| EndpointSettings { user_id: Some(user.to_owned()), ..settings(&hook.url()) };
    let run = world.endpoint_with("ep_1", ORG, bound("u_1")).start();
    let failing = world.log.append(&[of("u_1", 1)]);
    assert!(comes_within(SOON, || world.book.stored().routed == 1));
    run.stop();
    world.hurry(1000);
    let run = world.start();
    // Some wait behind the key in flight, the last ones for the router.
    let first = world.log.append(&[of("u_1", 2)]);
    (0..700).for_each(|_| drop(world.log.append(&[of("u_1", 2), of("u_2", 3)])));
    assert!(comes_within(SOON, || hook.begun() == 2 && run.lane("ep_1").is_behind()));
    run.reconfigure("ep_1", bound("u_2"));
    let last = world.log.append(&[of("u_1", 4), of("u_2", 4)]);
    assert!(comes_within(SOON, || hook.taken().is_superset(&ids_of(&last[1..]))));
    // The retry of the old user's comes to nothing.
    assert!(comes_within(SOON, || world.book.stored().exceptions.is_empty()));
    run.stop();
    let mut got = hook.taken();
    ids_of(first.iter()).iter().for_each(|id| assert!(got.remove(id)));
    let of_new = world.log.events().into_iter().filter(|event| event.user.as_deref() == Some("u_2"));
    let of_new: Vec<_> = of_new.collect();
    assert!(got.is_subset(&ids_of(&of_new)), "something of the old user was sent");
    let of_failing = hook.deliveries().into_iter().filter(|one| one.id == *ids_of(&failing).first().unwrap());
    assert_eq!(of_failing.count(), 1);
}

#[test]
fn an_endpoint_switched_off_and_on_begins_at_the_new_cursor() {
    let world = World::new();
    let (told, hook) = obedient(500);
    let run = world.endpoint("ep_1", &hook.url()).start();
    world.log.append_many(15, 5);
    assert!(comes_within(SOON, || world.book.stored().routed == 15));
    run.stop();
    world.hurry(1500);
    let run = world.start();
    let lane = run.lane("ep_1");
    assert_eq!(lane.exception_count(), 15);
    run.reconfigure("ep_1", EndpointSettings { active: false, ..settings(&hook.url()) });
    lane.switch_off();
    assert_eq!(lane.exception_count(), 0);
    told.store(200, Ordering::Relaxed);
    world.log.append_many(30, 5);
    assert!(comes_within(SOON, || world.book.stored().exceptions.is_empty()));
    assert!(comes_within(SOON, || world.book.stored().routed == 45));
    assert_eq!(hook.begun(), 15);
    let from = world.log.head();
    run.reconfigure("ep_1", settings(&hook.url()));
    lane.switch_on(Cursor::behind(from));
    let events = world.log.append_many(30, 5);
    assert!(comes_within(SOON, || hook.count() >= 45));
    // Longer than the retries were to wait.
    std::thread::sleep(Duration::from_millis(1600));
    run.stop();
    assert_eq!(hook.taken(), ids_of(&events));
    assert_eq!(hook.count(), 45);
}

#[test]
fn a_stale_save_brings_nothing_back() {
    for switches_on in [false, true] {
        let world = World::new();
        let (told, hook) = obedient(500);
        let run = world.endpoint("ep_1", &hook.url()).start();
        world.log.append_many(12, 5);
        assert!(comes_within(SOON, || world.book.stored().exceptions.len() == 12));
        // The next save is under way with what failed since.
        world.book.hold();
        world.log.append_many(6, 5);
        assert!(comes_within(SOON, || hook.count() == 18 && world.book.held() == 1));
        let lane = run.lane("ep_1");
        run.reconfigure("ep_1", EndpointSettings { active: false, ..settings(&hook.url()) });
        lane.switch_off();
        let from = world.log.head();
        if switches_on {
            run.reconfigure("ep_1", settings(&hook.url()));
            lane.switch_on(Cursor::behind(from));
        }
        told.store(503, Ordering::Relaxed);
        world.log.append_many(7, 7);
        let sent = if switches_on { 25 } else { 18 };
        assert!(comes_within(SOON, || hook.count() == sent), "{}", hook.count());
        world.book.let_go();
        let wiped = || world.book.saved().iter().any(|saved| saved.changes.wiped == ["ep_1"]);
        assert!(comes_within(SOON, wiped));
        assert!(comes_within(SOON, || world.book.stored().routed == 25));
        let left = world.book.stored().exceptions;
        assert_eq!(left.len(), sent - 18, "{left:?}");
        assert!(left.keys().all(|(_, place)| place.sequence > from), "{left:?}");
        run.stop();
        assert_eq!(world.book.stored().exceptions, left);
        assert_eq!(hook.begun(), sent);
        let wipes = world.book.saved().iter().filter(|saved| !saved.changes.wiped.is_empty()).count();
        assert_eq!(wipes, 1, "what is wiped is wiped once");
    }
}

#[test]
fn who_holds_saves_waits_for_the_one_under_way_and_none_begins_meanwhile() {
    let (world, (_, hook)) = (World::new(), obedient(500));
    let run = world.endpoint("ep_1", &hook.url()).start();
    world.book.hold();
    world.log.append_many(1, 1);
    assert!(comes_within(SOON, || world.book.held() == 1));
    let holds = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let holder = scope.spawn(|| {
            let held = run.dispatcher.hold_saves();
            holds.store(true, Ordering::Relaxed);
            world.log.append_many(3, 3);
            assert!(comes_within(SOON, || world.diary.attempts().len() == 4));
            let saved = world.book.saved().len();
            // Some saves.
            std::thread::sleep(Duration::from_millis(700));
            assert_eq!(world.book.saved().len(), saved);
            drop(held);
        });
        std::thread::sleep(Duration::from_millis(200));
        let is_early = holds.load(Ordering::Relaxed);
        world.book.let_go();
        holder.join().unwrap();
        assert!(!is_early, "a save was under way");
    });
    assert!(comes_within(SOON, || world.book.stored().exceptions.len() == 4));
    run.stop();
}

#[test]
fn an_answer_to_what_was_sent_before_the_switch_says_nothing_about_what_came_after() {
    let world = World::new();
    let hook = Hook::start(|delivery| {
        let old = place_of(&delivery.id).sequence <= 8;
        Reply {
            status: if old { 500 } else { 200 },
            pause: Duration::from_millis(if old { 500 } else { 0 }),
            retry_after: None,
        }
    });
    let run = world.endpoint("ep_1", &hook.url()).start();
    world.log.append_many(8, 8);
    assert!(comes_within(SOON, || hook.begun() == 8));
    let lane = run.lane("ep_1");
    lane.switch_off();
    lane.switch_on(Cursor::behind(8));
    // The same keys, of which the old ones are still in flight.
    let events = world.log.append_many(80, 8);
    assert!(comes_within(SOON, || hook.count() == 88));
    assert!(comes_within(SOON, || world.book.stored().routed == 88));
    assert_eq!(lane.exception_count(), 0);
    run.stop();
    assert_eq!(hook.taken(), ids_of(&events));
    assert_eq!(hook.most().1, 1);
    assert!(world.book.stored().exceptions.is_empty());
}

#[test]
fn a_410_to_what_was_sent_before_the_switch_does_not_switch_off_again() {
    let (old, new) =
        (Hook::start(|_| Reply { status: 410, ..Reply::after(Duration::from_millis(300)) }), Hook::willing());
    let world = World::new();
    let run = world.endpoint("ep_1", &old.url()).start();
    world.log.append_many(1, 1);
    assert!(comes_within(SOON, || old.begun() == 1));
    let lane = run.lane("ep_1");
    run.reconfigure("ep_1", EndpointSettings { active: false, ..settings(&old.url()) });
    lane.switch_off();
    // It moved, and is switched on again where it is now.
    run.reconfigure("ep_1", settings(&new.url()));
    lane.switch_on(Cursor::behind(1));
    let events = world.log.append_many(1, 1);
    assert!(comes_within(SOON, || old.count() == 1));
    comes_within(Duration::from_secs(1), || new.count() == 1);
    run.stop();
    assert_eq!(world.book.switch_offs(), []);
    assert_eq!(new.taken(), ids_of(&events));
}

/// What was sent before its owner moved it is answered where nobody wants it any more.
#[test]
fn a_410_from_where_an_endpoint_was_before_does_not_switch_it_off_where_it_is() {
    let old = Hook::start(|_| Reply { status: 410, ..Reply::after(Duration::from_millis(700)) });
    // No retry comes due.
    let (world, new) = (World::still(), Hook::willing());
    let run = world.endpoint("ep_1", &old.url()).start();
    let first = world.log.append_many(1, 1);
    assert!(comes_within(SOON, || old.begun() == 1));
    run.reconfigure("ep_1", settings(&new.url()));
    let lane = run.lane("ep_1");
    assert!(comes_within(SOON, || lane.exception_count() == 1), "it is tried again");
    let events = world.log.append_many(1, 1);
    assert!(comes_within(SOON, || new.count() == 1));
    assert!(!lane.is_off() && lane.config().settings.active);
    // The same of what is sent by hand.
    run.reconfigure("ep_1", settings(&old.url()));
    run.dispatcher.resend("ep_1", first[0].place, 1).unwrap();
    assert!(comes_within(SOON, || old.begun() == 2));
    run.reconfigure("ep_1", settings(&new.url()));
    assert!(comes_within(SOON, || world.diary.attempts().len() == 3));
    // Longer than it takes to end the lane.
    std::thread::sleep(Duration::from_millis(100));
    assert!(!lane.is_off());
    run.stop();
    assert_eq!((world.book.switch_offs(), new.taken()), (vec![], ids_of(&events)));
}

/// The router may be behind the head: the classifier comes before it.
#[test]
fn an_endpoint_begins_at_its_cursor_though_the_router_is_not_there_yet() {
    let (world, hook, toggled) = (World::new(), Hook::willing(), Hook::willing());
    let mut run = world.endpoint("ep_1", &toggled.url()).start_without_router();
    world.log.append_many(20, 4);
    let from = Cursor::behind(world.log.head());
    run.dispatcher.add(Arc::new(Lane::new("ep_2", ORG.into(), config(settings(&hook.url())), from)));
    run.lane("ep_1").switch_off();
    run.lane("ep_1").switch_on(from);
    // The keeper looks at both.
    std::thread::sleep(Duration::from_millis(300));
    run.route();
    let events = world.log.append_many(10, 4);
    assert!(comes_within(SOON, || hook.count() >= 10 && toggled.count() >= 10));
    assert!(comes_within(SOON, || world.book.stored().routed == 30));
    run.stop();
    let expected = ids_of(&events);
    let early = |hook: &Hook| hook.taken().difference(&expected).count();
    assert_eq!((early(&hook), early(&toggled)), (0, 0), "events from before they began");
    assert_eq!((hook.taken(), toggled.taken()), (expected.clone(), expected.clone()));
}

/// Another endpoint holds back the position that both share, and the clock stands still, so
/// that it does so for as long as it takes.
#[test]
fn a_crash_brings_nothing_of_the_time_when_an_endpoint_was_off() {
    let (world, hook, shut) = (World::still(), Hook::willing(), Arc::new(AtomicBool::new(true)));
    let is_shut = shut.clone();
    let slow = Hook::start(move |_| {
        while is_shut.load(Ordering::Relaxed) {
            std::thread::sleep(Duration::from_millis(5));
        }
        Reply::status(200)
    });
    let opens = OnDrop(shut);
    let run = world.endpoint("ep_1", &hook.url()).endpoint("ep_slow", &slow.url()).start();
    world.log.append_many(20, 4);
    assert!(comes_within(SOON, || hook.count() == 20));
    let lane = run.lane("ep_1");
    lane.switch_off();
    world.log.append_many(30, 4);
    assert!(comes_within(SOON, || run.stats().routed_sequence == 50));
    lane.switch_on(Cursor::behind(50));
    // It looks where the router is.
    world.pass(Duration::from_millis(200));
    assert!(comes_within(SOON, || !lane.is_behind()));
    // Some saves.
    std::thread::sleep(Duration::from_millis(700));
    let stored = world.book.stored();
    assert_eq!((stored.routed, stored.rows.contains_key("ep_1")), (0, true), "{stored:?}");
    let live = world.log.append_many(10, 4);
    assert!(comes_within(SOON, || hook.count() == 30));
    world.book.fail(true);
    drop(opens);
    run.stop();
    world.book.fail(false);
    let run = world.start();
    world.pass(Duration::from_millis(200));
    assert!(comes_within(SOON, || slow.taken().len() == 60 && world.book.stored().rows.is_empty()));
    assert!(comes_within(SOON, || world.book.stored().routed == 60));
    run.stop();
    let came: BTreeSet<u64> = hook.deliveries().iter().map(|one| place_of(&one.id).sequence).collect();
    assert!((21..=50).all(|sequence| !came.contains(&sequence)), "{came:?}");
    assert!(hook.taken().is_superset(&ids_of(&live)));
}

/// Lets go of who waits, also if the test fails.
struct OnDrop(Arc<AtomicBool>);

impl Drop for OnDrop {
    fn drop(&mut self) {
        self.0.store(false, Ordering::Relaxed);
    }
}

#[test]
fn an_endpoint_that_is_taken_away_gets_nothing_more() {
    let (world, other) = (World::new(), Hook::willing());
    let (_, hook) = obedient(500);
    let run = world.endpoint("ep_1", &hook.url()).endpoint("ep_2", &other.url()).start();
    world.log.append_many(10, 2);
    assert!(comes_within(SOON, || hook.count() == 10 && other.count() == 10));
    run.dispatcher.remove("ep_1");
    assert!(run.dispatcher.lane("ep_1").is_none());
    world.log.append_many(10, 2);
    assert!(comes_within(SOON, || other.count() == 20));
    assert!(comes_within(SOON, || world.book.stored().routed == 20));
    assert_eq!(run.stats().endpoints, 1);
    run.stop();
    assert_eq!(hook.begun(), 10);
}

#[test]
fn what_waits_for_its_payload_goes_where_the_endpoint_is_by_then() {
    let new = Hook::willing_at_first(Reply::after(Duration::from_secs(8)));
    let (world, old) = (World::new(), Hook::willing());
    let run = world.endpoint("ep_1", &old.url()).start();
    world.source.hold();
    let events = world.log.append(&[Draft::of(FIRST)]);
    assert!(comes_within(SOON, || world.source.held() == 1));
    run.reconfigure("ep_1", settings(&new.url()));
    world.source.let_go();
    assert!(comes_within(SOON, || new.count() == 1));
    assert_eq!((old.begun(), new.taken()), (0, ids_of(&events)));
    // It is known that it answers there.
    world.log.append_many(50, 50);
    assert!(comes_within(Duration::from_secs(5), || new.begun() == 1 + IN_FLIGHT), "{}", new.begun());
    run.stop();
}

#[test]
fn what_waits_for_its_payload_ends_with_its_endpoint() {
    for is_taken_away in [false, true] {
        let (world, hook) = (World::new(), Hook::willing());
        let run = world.endpoint("ep_1", &hook.url()).start();
        world.source.hold();
        world.log.append_many(1, 1);
        assert!(comes_within(SOON, || world.source.held() == 1));
        let lane = run.lane("ep_1");
        if is_taken_away {
            run.dispatcher.remove("ep_1")
        } else {
            lane.switch_off()
        }
        world.source.let_go();
        assert!(comes_within(SOON, || lane.in_flight() == 0));
        run.stop();
        assert_eq!((hook.begun(), world.diary.attempts().len()), (0, 0));
    }
}
