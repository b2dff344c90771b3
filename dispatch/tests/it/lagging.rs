//! Endpoints that do not keep up, and a journal that does not.

use std::collections::BTreeSet;
use std::net::TcpListener;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use systole_dispatch::endpoint::EndpointSettings;
use systole_dispatch::event::{Cursor, Event, EventKind};
use systole_dispatch::ledger::{Backlog, BacklogKind, Exception, Health};
use systole_dispatch::notice::Notice;

use crate::world::{
    CHECK_IN, Delivery, Draft, FIRST, Hook, IN_FLIGHT, ORG, Reply, World, comes_within, filter, ids_of,
    now_ms, settings,
};

const SOON: Duration = Duration::from_secs(30);
const LONG: Duration = Duration::from_secs(20);
/// Most deliveries that wait for another attempt, and most in flight; the lane's.
const EXCEPTIONS_MAX: usize = 1000;
const WINDOW_FIRST: usize = 8;
/// Events that take a lane seconds to read.
const MANY: u64 = 20_000;

/// Where nobody listens.
fn refused_url() -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    format!("http://{}/hook", listener.local_addr().unwrap())
}

#[test]
fn a_dead_endpoint_slows_no_other_and_is_paused_with_a_cursor() {
    let (world, living) = (World::new(), Hook::willing());
    let silent = Hook::start(|_| Reply::after(Duration::from_secs(3600)));
    world.endpoint("ep_living", &living.url()).endpoint("ep_refused", &refused_url());
    world.endpoint_with("ep_silent", ORG, EndpointSettings { timeout_seconds: 1, ..settings(&silent.url()) });
    world.book.watch("ep_living", &living);
    let run = world.start();
    let began = Instant::now();
    let events = world.log.append_many(5000, 500);
    assert!(comes_within(LONG, || living.count() >= 5000), "{}", living.count());
    let took = began.elapsed();
    assert!(took < Duration::from_secs(15), "{took:?}");
    assert_eq!(living.taken(), ids_of(&events));
    for dead in ["ep_refused", "ep_silent"] {
        // One request after the other times out.
        assert!(comes_within(2 * LONG, || run.lane(dead).is_paused()), "{dead}");
        assert!(comes_within(SOON, || world.book.stored().rows.contains_key(dead)), "{dead}");
    }
    assert!(run.lane("ep_refused").exception_count() < 40, "the others rest where they are");
    // The living one has no row, and the others do not hold back its position.
    assert!(comes_within(SOON, || world.book.stored().routed == 5000), "{}", world.book.stored().routed);
    assert!(comes_within(SOON, || !world.book.stored().rows.contains_key("ep_living")));
    run.stop();
    world.book.check_positions(&events);
    assert_eq!(living.count(), 5000);
}

#[test]
fn receivers_that_hang_leave_connections_to_the_others() {
    let (world, living) = (World::new(), Hook::willing());
    let silent = Hook::start(|_| Reply::after(Duration::from_secs(3600)));
    world.limit_connections(8);
    world.endpoint("ep_living", &living.url());
    let only_check_ins = EndpointSettings {
        filter_types: filter(&["check_in.created"]),
        timeout_seconds: 60,
        ..settings(&silent.url())
    };
    for number in 0..12 {
        world.endpoint_with(&format!("ep_{number}"), ORG, only_check_ins.clone());
    }
    let run = world.start();
    let mut events = world.log.append(&[Draft::of(FIRST)]);
    assert!(comes_within(SOON, || living.count() == 1));
    events.extend(world.log.append(&[Draft { topic: CHECK_IN, kind: EventKind::Published, ..Draft::of(1) }]));
    // Half of the connections, and none of those that the others have.
    assert!(comes_within(SOON, || silent.begun() == 4), "{}", silent.begun());
    events.extend(world.log.append_many(500, 50));
    assert!(comes_within(SOON, || living.count() == 502), "{}", living.count());
    assert_eq!((living.taken(), silent.begun()), (ids_of(&events), 4));
    run.stop();
}

#[test]
fn receivers_that_failed_before_leave_connections_to_those_of_which_nothing_is_known() {
    // Time stands still: what failed is not tried again.
    let (world, new) = (World::still(), [Hook::willing(), Hook::willing()]);
    world.limit_connections(8);
    let check_ins = |hook: &Hook| EndpointSettings {
        filter_types: filter(&["check_in.created"]),
        ..settings(&hook.url())
    };
    for (number, hook) in new.iter().enumerate() {
        world.endpoint_with(&format!("ep_new_{number}"), ORG, check_ins(hook));
    }
    let failing: Vec<Hook> = (0..6)
        .map(|_| {
            let asked = AtomicUsize::new(0);
            let fails_and_hangs = move |_: &Delivery| match asked.fetch_add(1, Ordering::Relaxed) {
                0..3 => Reply::status(500),
                _ => Reply::after(Duration::from_secs(3600)),
            };
            Hook::start(fails_and_hangs)
        })
        .collect();
    for (number, hook) in failing.iter().enumerate() {
        let heart_rates = EndpointSettings {
            filter_types: filter(&["heart_rate.created"]),
            timeout_seconds: 60,
            ..settings(&hook.url())
        };
        world.endpoint_with(&format!("ep_{number}"), ORG, heart_rates);
    }
    let run = world.start();
    world.log.append_many(3, 3);
    assert!(comes_within(SOON, || failing.iter().all(|hook| hook.count() == 3)));
    world.log.append_many(1, 1);
    let hanging = || failing.iter().map(|hook| hook.begun() - 3).sum::<usize>();
    assert!(comes_within(SOON, || hanging() == 2), "{}", hanging());
    world.log.append(&[Draft { topic: CHECK_IN, kind: EventKind::Published, ..Draft::of(1) }]);
    assert!(comes_within(SOON, || new.iter().all(|hook| hook.count() == 1)));
    assert_eq!(hanging(), 2, "a quarter of the connections");
    run.stop();
}

#[test]
fn receivers_that_never_finish_a_handshake_hold_no_memory() {
    let (world, quick) = (World::new(), Hook::willing());
    // A quarter of it, for those of which nothing is known, has room for two bodies.
    world.limit_memory(256 * 1024);
    world.source.fill(32 * 1024);
    // The system accepts, and nobody reads.
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("https://{}/hook", silent.local_addr().unwrap());
    let of = |name, url: &str| EndpointSettings { filter_types: filter(&[name]), ..settings(url) };
    for number in 0..6 {
        world.endpoint_with(&format!("ep_{number}"), ORG, of("heart_rate.created", &url));
    }
    world.endpoint_with("ep_quick", ORG, of("check_in.created", &quick.url()));
    let run = world.start();
    let events = world.log.append_many(1, 1);
    assert!(comes_within(SOON, || run.stats().in_flight == 6));
    std::thread::sleep(Duration::from_millis(300));
    world.log.append(&[Draft { topic: CHECK_IN, kind: EventKind::Published, ..Draft::of(1) }]);
    // Below the timeout of the others.
    assert!(comes_within(Duration::from_secs(8), || quick.count() == 1));
    assert_eq!(world.source.opens(events[0].place), 0, "who is called gets no body before it answers");
    run.stop();
}

#[test]
fn a_receiver_that_never_answered_gets_one_request_at_a_time() {
    let (world, silent) = (World::new(), Hook::start(|_| Reply::after(Duration::from_secs(3600))));
    let run = world.endpoint("ep_1", &silent.url()).start();
    world.log.append_many(50, 50);
    assert!(comes_within(SOON, || silent.begun() == 1));
    assert!(!comes_within(Duration::from_millis(300), || silent.begun() > 1));
    run.stop();
}

#[test]
fn a_receiver_that_fell_silent_gets_nothing_further_until_it_answers() {
    let (world, slow) = (World::new(), Hook::willing_at_first(Reply::after(Duration::from_secs(8))));
    let run = world.endpoint("ep_1", &slow.url()).start();
    world.log.append(&[Draft::of(FIRST)]);
    assert!(comes_within(SOON, || slow.count() == 1));
    world.log.append_many(3, 3);
    assert!(comes_within(SOON, || slow.begun() == 4));
    std::thread::sleep(Duration::from_millis(2_100));
    world.log.append_many(50, 50);
    assert!(!comes_within(Duration::from_millis(500), || slow.begun() > 4));
    assert!(comes_within(SOON, || slow.count() == 4));
    // Nobody but these answers looks at what waits: the window is as wide as it was, and wider.
    assert!(comes_within(Duration::from_secs(5), || slow.begun() >= 4 + IN_FLIGHT), "{}", slow.begun());
    run.stop();
}

#[test]
fn receivers_that_think_for_long_hold_no_memory_of_the_others() {
    let (world, quick) = (World::new(), Hook::willing());
    // Half of it has room for three bodies at a time.
    world.limit_memory(256 * 1024);
    world.source.fill(32 * 1024);
    let slow =
        ["ep_1", "ep_2", "ep_3"].map(|id| (id, Hook::willing_at_first(Reply::after(Duration::from_secs(8)))));
    for (id, hook) in &slow {
        world.endpoint(id, &hook.url());
    }
    let run = world.endpoint("ep_quick", &quick.url()).start();
    let mut events = world.log.append(&[Draft::of(FIRST)]);
    assert!(comes_within(SOON, || slow.iter().all(|(_, hook)| hook.count() == 1)));
    events.extend(world.log.append_many(40, 40));
    assert!(comes_within(Duration::from_secs(6), || quick.count() == 41), "{}", quick.count());
    for (id, hook) in &slow {
        assert!(comes_within(SOON, || hook.begun() == 1 + IN_FLIGHT), "{id}: {}", hook.begun());
    }
    assert_eq!(quick.taken(), ids_of(&events));
    run.stop();
}

/// Retries of events, due in an hour.
fn wait_for_an_hour(world: &World, events: &[Event]) {
    world.book.store(|stored| {
        for event in events {
            let Event { place, ordinal, decided_at, key, .. } = *event;
            let exception = Exception {
                place,
                ordinal,
                decided_at,
                key,
                attempts: 2,
                due_at_ms: now_ms() + 3_600_000,
                quiet: false,
                members: Arc::default(),
            };
            stored.exceptions.insert(("ep_1".to_owned(), place), exception);
        }
        stored.routed = events.len() as u64;
    });
}

#[test]
fn a_dead_endpoint_has_no_more_retries_waiting_than_it_may() {
    let (world, dead) =
        (World::new(), Hook::start(|_| Reply { status: 500, ..Reply::after(Duration::from_millis(2)) }));
    let waiting = world.log.append_many(EXCEPTIONS_MAX as u64 - 1, 500);
    wait_for_an_hour(&world, &waiting);
    let run = world.endpoint("ep_1", &dead.url()).start();
    world.log.append_many(2000, 500);
    let lane = run.lane("ep_1");
    assert!(comes_within(SOON, || lane.is_paused()));
    let mut most = 0;
    comes_within(Duration::from_secs(2), || {
        most = most.max(lane.exception_count());
        false
    });
    run.stop();
    assert!(most <= EXCEPTIONS_MAX + WINDOW_FIRST, "{most} deliveries wait for another attempt");
}

#[test]
fn lanes_that_read_for_long_let_another_one_have_its_turn() {
    let (world, hook) = (World::new(), Hook::willing());
    let events = world.log.append_many(5000, 400);
    let unwanted = EndpointSettings { filter_types: filter(&["check_in.created"]), ..settings(&hook.url()) };
    let behind = |sequence| Cursor { sequence, ordinal: 0 };
    for number in 0..4 {
        let id = format!("ep_{number}");
        world.endpoint_with(&id, ORG, unwanted.clone());
        world.book.store(|stored| stored.rows.extend([(id, behind(1))]));
    }
    world.endpoint("ep_last", &hook.url());
    world.book.store(|stored| {
        stored.rows.insert("ep_last".to_owned(), behind(4991));
        stored.routed = 5000;
    });
    world.log.slow_down(Duration::from_millis(1));
    // All their events take four of them five seconds.
    let run = world.start_without_router();
    assert!(comes_within(Duration::from_secs(3), || hook.count() == 10), "{}", hook.count());
    assert_eq!(run.stats().lanes_behind, 4);
    world.log.slow_down(Duration::ZERO);
    assert!(comes_within(SOON, || run.stats().lanes_behind == 0));
    run.stop();
    assert_eq!(hook.taken(), ids_of(&events[4990..]));
}

#[test]
fn many_recoveries_hold_up_no_lane_that_lags() {
    const RECOVERIES: usize = 64;
    /// Frames that the delivery log is asked about at first: a turn is over behind them.
    const TURN_READS: usize = 256;
    let (world, hook) = (World::new(), Hook::willing());
    let events = world.log.append_many(5000, 400);
    let unwanted = EndpointSettings { filter_types: filter(&["check_in.created"]), ..settings(&hook.url()) };
    let (from, through) = (Cursor::behind(0), Cursor::behind(5000));
    let asked = Backlog { number: 1, kind: BacklogKind::Missing, asked_from: from, from, through };
    for number in 0..RECOVERIES {
        let id = format!("ep_{number}");
        world.endpoint_with(&id, ORG, unwanted.clone());
        world.book.store(|stored| {
            stored.backlogs.insert((id, 1), asked);
            stored.routed = 5000;
        });
    }
    world.endpoint("ep_last", &hook.url());
    world.log.slow_down(Duration::from_millis(5));
    let run = world.start_without_router();
    assert!(comes_within(SOON, || world.log.users().len() >= 2));
    run.lane("ep_last").switch_on(Cursor { sequence: 4991, ordinal: 0 });
    assert!(comes_within(SOON, || hook.count() == 10), "{}", hook.count());
    let reads = world.log.reads();
    world.log.slow_down(Duration::ZERO);
    run.stop();
    assert!(reads < RECOVERIES * TURN_READS / 2, "{reads} reads came before it");
    assert_eq!(hook.taken(), ids_of(&events[4990..]));
}

/// Lanes that want nothing of many events before them; those from `paused` on are paused.
fn idle_readers(world: &World, url: &str, count: usize, paused: usize) {
    let unwanted = EndpointSettings { filter_types: filter(&["check_in.created"]), ..settings(url) };
    world.log.append_many(MANY, 400);
    for number in 0..count {
        let id = format!("idle_{number}");
        world.endpoint_with(&id, ORG, unwanted.clone());
        world.book.store(|stored| {
            stored.rows.insert(id.clone(), Cursor { sequence: 1, ordinal: 0 });
            if number >= paused {
                stored.health.insert(id, pause(world));
            }
            stored.routed = MANY;
        });
    }
}

fn pause(world: &World) -> Health {
    Health { failing_since_ms: Some(world.now_ms()), paused_at_ms: Some(world.now_ms()), ..Health::default() }
}

#[test]
fn a_lane_that_answers_again_waits_for_nobody_who_reads_for_long() {
    let (world, hook) = (World::new(), Hook::willing());
    idle_readers(&world, &hook.url(), 8, 4);
    let tried = world.log.events().swap_remove(9);
    wait_for_an_hour(&world, std::slice::from_ref(&tried));
    world.endpoint("ep_1", &hook.url());
    world.book.store(|stored| {
        stored.health.insert("ep_1".to_owned(), pause(&world));
        stored.routed = MANY;
    });
    world.log.slow_down(Duration::from_millis(1));
    let run = world.start_without_router();
    // Probes are due, and one lane has nothing to probe with yet.
    world.pass(Duration::from_secs(60));
    assert!(comes_within(SOON, || world.log.users().len() == 8));
    world.pass(Duration::from_secs(3600));
    assert!(comes_within(SOON, || !run.lane("ep_1").is_paused()));
    let (reads, stats) = (world.log.reads(), run.stats());
    assert_eq!((stats.lanes_behind, stats.lanes_paused), (4, 4));
    world.log.slow_down(Duration::ZERO);
    run.stop();
    assert!(reads < 2 * MANY as usize, "{reads} reads came before it");
    assert_eq!(hook.taken(), ids_of([&tried]));
}

#[test]
fn lanes_that_look_for_a_probe_for_long_let_another_one_look() {
    let (world, hook) = (World::new(), Hook::willing());
    idle_readers(&world, &hook.url(), 4, 0);
    world.endpoint("ep_last", &hook.url());
    world.book.store(|stored| {
        stored.health.insert("ep_last".to_owned(), pause(&world));
    });
    world.log.slow_down(Duration::from_micros(300));
    let run = world.start();
    world.pass(Duration::from_secs(60));
    assert!(comes_within(SOON, || world.log.users().len() == 4));
    let event = world.log.append_many(1, 1);
    assert!(comes_within(SOON, || hook.count() == 1));
    let reads = world.log.reads();
    world.log.slow_down(Duration::ZERO);
    run.stop();
    // Those before it looked at 4,096 events each, or twice as many.
    assert!(reads < 3 * MANY as usize, "{reads} reads came before it");
    assert_eq!(hook.taken(), ids_of(&event));
}

#[test]
fn a_lane_of_one_user_reads_what_is_about_that_user_alone() {
    let (world, hook) = (World::new(), Hook::willing());
    let of = |user: &'static str| Draft { user: Some(user), ..Draft::of(1) };
    let events: Vec<Event> = (0..3000)
        .flat_map(|number| world.log.append(&[of(if number % 300 == 7 { "u_2" } else { "u_1" })]))
        .collect();
    let bound = EndpointSettings { user_id: Some("u_2".to_owned()), ..settings(&hook.url()) };
    world.endpoint_with("ep_1", ORG, bound);
    world.book.store(|stored| {
        stored.rows.insert("ep_1".to_owned(), Cursor { sequence: 1, ordinal: 0 });
        stored.routed = 3000;
    });
    let run = world.start();
    assert!(comes_within(SOON, || hook.count() == 10 && run.stats().lanes_behind == 0));
    run.stop();
    assert_eq!(hook.taken(), ids_of(events.iter().filter(|event| event.user.as_deref() == Some("u_2"))));
    assert!(world.log.reads() < 20, "{} reads", world.log.reads());
}

#[test]
fn a_lane_that_gets_another_user_while_it_reads_passes_over_nothing_of_that_one() {
    let (world, hook) = (World::new(), Hook::willing());
    let bound = |user: &str| EndpointSettings {
        user_id: Some(user.to_owned()),
        filter_types: filter(&["check_in.created"]),
        ..settings(&hook.url())
    };
    // What the endpoint is for at first it does not want, so it reads on and on.
    world.log.append_many(3000, 400);
    world.endpoint_with("ep_1", ORG, bound("u_1"));
    world.book.store(|stored| {
        stored.rows.insert("ep_1".to_owned(), Cursor { sequence: 1, ordinal: 0 });
        stored.routed = 3000;
    });
    world.log.slow_down(Duration::from_millis(1));
    let run = world.start();
    assert!(comes_within(SOON, || world.log.reads() > 10));
    run.reconfigure("ep_1", bound("u_2"));
    let check_in = Draft { user: Some("u_2"), topic: CHECK_IN, kind: EventKind::Published, ..Draft::of(1) };
    let events: Vec<Event> = (0..5).flat_map(|_| world.log.append(std::slice::from_ref(&check_in))).collect();
    assert!(comes_within(SOON, || hook.count() == 5 && run.stats().lanes_behind == 0));
    world.log.slow_down(Duration::ZERO);
    run.stop();
    assert_eq!(hook.taken(), ids_of(&events));
    assert_eq!(world.log.users(), [Some("u_1".to_owned()), Some("u_2".to_owned())]);
    assert!(world.log.reads() < 3000, "{} reads", world.log.reads());
}

#[test]
fn a_lane_that_was_full_catches_up_and_joins_the_router() {
    let (world, slow) = (World::new(), Hook::start(|_| Reply::after(Duration::from_millis(2))));
    world.book.watch("ep_1", &slow);
    let run = world.endpoint("ep_1", &slow.url()).start();
    let events = world.log.append_many(5000, 400);
    assert!(comes_within(SOON, || run.lane("ep_1").is_behind()));
    assert!(comes_within(LONG, || slow.count() >= 5000), "{}", slow.count());
    assert!(comes_within(SOON, || !run.lane("ep_1").is_behind() && world.book.stored().rows.is_empty()));
    assert!(comes_within(SOON, || world.book.stored().routed == 5000));
    let saved = world.book.saved();
    assert!(saved.iter().any(|saved| !saved.changes.cursors.is_empty()));
    assert!(saved.iter().any(|saved| saved.changes.caught_up == ["ep_1"]));
    let more = world.log.append_many(100, 10);
    assert!(comes_within(SOON, || slow.count() >= 5100), "{}", slow.count());
    run.stop();
    assert_eq!(slow.count(), 5100);
    assert_eq!(slow.taken(), ids_of(events.iter().chain(&more)));
    assert_eq!(slow.most().1, 1);
    world.book.check_positions(&world.log.events());
}

#[test]
fn a_lane_that_lags_keeps_the_order_of_each_key() {
    let (world, slow) = (World::new(), Hook::start(|_| Reply::after(Duration::from_millis(1))));
    let run = world.endpoint("ep_1", &slow.url()).start();
    for _ in 0..30 {
        world.log.append_many(60, 7);
        std::thread::sleep(Duration::from_millis(10));
    }
    assert!(comes_within(LONG, || slow.count() >= 1800), "{}", slow.count());
    run.stop();
    for key in 0..7 {
        let of_key: Vec<String> =
            slow.deliveries().into_iter().filter(|one| one.key == key).map(|one| one.body).collect();
        let sequences: Vec<u64> = of_key.iter().map(|body| sequence_of(body)).collect();
        assert!(sequences.is_sorted_by(|one, next| one < next), "{key}: {sequences:?}");
    }
}

fn sequence_of(body: &str) -> u64 {
    let body: serde_json::Value = serde_json::from_str(body).unwrap();
    body["data"]["sequence"].as_u64().unwrap()
}

#[test]
fn a_journal_that_cannot_be_read_for_a_while_delays_and_loses_nothing() {
    let (world, hook) = (World::new(), Hook::start(|_| Reply::after(Duration::from_millis(2))));
    let run = world.endpoint("ep_1", &hook.url()).start();
    let events = world.log.append_many(700, 100);
    world.log.fail(2);
    let more = world.log.append_many(700, 100);
    // While the lane reads for itself.
    comes_within(SOON, || hook.count() >= 900);
    world.log.fail(2);
    assert!(comes_within(SOON, || hook.count() >= 1400), "{}", hook.count());
    run.stop();
    assert_eq!(hook.count(), 1400);
    assert_eq!(hook.taken(), ids_of(events.iter().chain(&more)));
}

#[test]
fn what_was_dropped_before_it_was_routed_is_counted_and_the_rest_goes_on() {
    let (world, hook) = (World::new(), Hook::willing());
    let mut run = world.endpoint("ep_1", &hook.url()).start_without_router();
    let events = world.log.append_many(20, 4);
    world.log.drop_through(8);
    run.route();
    assert!(comes_within(SOON, || hook.count() == 12));
    assert_eq!(run.stats().payload_gone, 1);
    run.stop();
    assert_eq!(hook.taken(), ids_of(&events[8..]));
    assert_eq!(world.book.stored().routed, 20);
}

#[test]
fn what_was_dropped_under_a_lane_is_announced_unless_it_can_only_be_notices() {
    let (world, hook) = (World::new(), Hook::willing());
    world.log.append_many(40, 4);
    world.log.drop_through(20);
    let notices = EndpointSettings { filter_types: filter(&["message.failed"]), ..settings(&hook.url()) };
    world.endpoint("ep_all", &hook.url()).endpoint_with("ep_notices", ORG, notices);
    world.book.store(|stored| {
        let begin = Cursor { sequence: 1, ordinal: 0 };
        stored.rows.extend(["ep_all", "ep_notices"].map(|id| (id.to_owned(), begin)));
        stored.routed = 40;
    });
    let run = world.start();
    assert!(comes_within(SOON, || hook.count() == 20 && run.stats().payload_gone == 2));
    assert!(comes_within(SOON, || !world.board.notices().is_empty()));
    run.stop();
    let announced = world.board.notices();
    let [Notice::MessageFailed(failed)] = &announced[..] else { panic!("{announced:?}") };
    assert_eq!((&*failed.endpoint, failed.error.as_deref()), ("ep_all", Some("payload_gone")));
}

#[test]
fn what_was_dropped_under_a_lane_that_lags_is_counted_and_the_rest_goes_on() {
    let (world, hook) = (World::new(), Hook::start(|_| Reply::after(Duration::from_millis(5))));
    let run = world.endpoint("ep_1", &hook.url()).start();
    let events = world.log.append_many(3000, 400);
    let lane = run.lane("ep_1");
    assert!(comes_within(SOON, || lane.is_behind() && run.stats().routed_sequence == 3000));
    world.log.drop_through(2900);
    assert!(comes_within(SOON, || !lane.is_behind() && lane.in_flight() == 0));
    assert_eq!(run.stats().payload_gone, 1);
    run.stop();
    let taken = hook.taken();
    let last: BTreeSet<String> = ids_of(&events[2900..]);
    assert!(taken.is_superset(&last));
    assert!(taken.len() < 2900, "{}", taken.len());
    assert_eq!(hook.count(), taken.len());
}
