//! What becomes of an attempt that fails.

use std::io::{Read as _, Write as _};
use std::net::TcpListener;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use hyper::HeaderMap;
use systole_dispatch::dialect::Dialect;
use systole_dispatch::endpoint::EndpointSettings;
use systole_dispatch::event::{EventKind, PayloadFault};
use systole_dispatch::ledger::Exception;

use crate::world::{
    CHECK_IN, Draft, Hook, ORG, Reply, World, comes_within, filter, id_of, ids_of, now_ms, place_of,
    settings, signer,
};

const SOON: Duration = Duration::from_secs(30);

/// Answers every `n`th request 500.
fn failing_each(n: usize) -> Hook {
    let requests = Arc::new(AtomicUsize::new(1));
    Hook::start(move |_| {
        let fails = requests.fetch_add(1, Ordering::Relaxed).is_multiple_of(n);
        Reply::status(if fails { 500 } else { 200 })
    })
}

#[test]
fn positions_are_saved_once_the_attempts_before_them_are_durable() {
    let (world, hook) = (World::new(), Hook::willing());
    let run = world.endpoint("ep_1", &hook.url()).start();
    world.log.append_many(50, 50);
    assert!(comes_within(SOON, || world.book.stored().routed == 50));
    assert_eq!(world.diary.settled(), 50);
    run.stop();
}

#[test]
fn a_connection_that_is_closed_while_the_body_is_made_costs_no_attempt() {
    let world = World::new();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}/hook", listener.local_addr().unwrap());
    let run = world.endpoint("ep_1", &url).start();
    world.source.hold();
    world.log.append_many(1, 1);
    listener.set_nonblocking(true).unwrap();
    let accept = || {
        let mut accepted = None;
        assert!(comes_within(SOON, || {
            accepted = accepted.take().or_else(|| listener.accept().ok());
            accepted.is_some()
        }));
        let (stream, _) = accepted.unwrap();
        stream.set_nonblocking(false).unwrap();
        stream.set_read_timeout(Some(SOON)).unwrap();
        stream
    };
    let first = accept();
    assert!(comes_within(SOON, || world.source.held() == 1));
    drop(first);
    std::thread::sleep(Duration::from_millis(100));
    world.source.let_go();
    let mut second = accept();
    let mut request = [0; 64 * 1024];
    assert!(second.read(&mut request).unwrap() > 0);
    second.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n").unwrap();
    assert!(comes_within(SOON, || !world.diary.attempts().is_empty()));
    run.stop();
    let attempts = world.diary.attempts();
    let told: Vec<_> = attempts.iter().map(|one| (one.number, one.success)).collect();
    assert_eq!(told, [(1, true)], "{attempts:?}");
}

#[test]
fn routed_never_passes_what_was_neither_answered_nor_saved_as_failed() {
    let (world, failing, willing) = (World::new(), failing_each(3), Hook::willing());
    world.book.watch("ep_1", &failing);
    world.book.watch("ep_2", &willing);
    let run = world.endpoint("ep_1", &failing.url()).endpoint("ep_2", &willing.url()).start();
    for _ in 0..60 {
        world.log.append_many(8, 40);
        world.log.append(&[Draft::of(1), Draft::of(2), Draft::of(1)]);
        std::thread::sleep(Duration::from_millis(15));
    }
    let events = world.log.events();
    let head = world.log.head();
    assert!(comes_within(SOON, || failing.count() >= events.len() && world.book.stored().routed == head));
    run.stop();
    world.book.check_positions(&events);
    let saved = world.book.saved();
    let rising = saved.iter().filter(|saved| saved.changes.routed > 0 && saved.changes.routed < head).count();
    assert!(rising >= 3, "{rising} of {} saves were under way", saved.len());
    let failures = saved.iter().flat_map(|saved| &saved.changes.failed).count();
    assert!(failures >= events.len() / 4, "{failures}");
    assert_eq!(willing.taken(), ids_of(&events));
}

#[test]
fn a_retry_carries_the_same_id_and_bytes_and_a_fresh_timestamp() {
    let world = World::new();
    let hook = Hook::start(|delivery| Reply::status(if delivery.earlier == 0 { 500 } else { 200 }));
    let run = world.endpoint("ep_1", &hook.url()).start();
    let events = world.log.append(&[Draft::of(1), Draft::of(2), Draft::of(1)]);
    assert!(comes_within(SOON, || world.book.stored().exceptions.len() == 3));
    assert!(comes_within(SOON, || hook.count() == 6), "{}", hook.count());
    assert!(comes_within(SOON, || world.book.stored().exceptions.is_empty()));
    let stats = run.stats();
    assert_eq!((stats.retries_waiting, stats.delivered, stats.failed), (0, 3, 3));
    run.stop();
    let deliveries = hook.deliveries();
    for event in &events {
        let of_event: Vec<_> = deliveries.iter().filter(|one| one.id == id_of(event.place)).collect();
        let [first, second] = of_event[..] else { panic!("{of_event:?}") };
        assert_eq!(first.body, second.body);
        let seconds = |one: &crate::world::Delivery| one.headers["webhook-timestamp"].parse::<u64>().unwrap();
        assert!((4..=8).contains(&(seconds(second) - seconds(first))), "{of_event:?}");
        for one in of_event {
            let mut expected = HeaderMap::new();
            signer(Dialect::Standard).sign(&one.id, seconds(one), one.body.as_bytes(), &mut expected);
            for (name, value) in &expected {
                assert_eq!(one.headers[name.as_str()], value.to_str().unwrap(), "{name}");
            }
        }
    }
    let settled: Vec<_> = world.book.saved().into_iter().flat_map(|saved| saved.changes.settled).collect();
    assert_eq!(settled.len(), 3, "{settled:?}");
}

#[test]
fn a_retry_is_due_by_the_schedule_or_when_a_busy_receiver_wishes() {
    let cases = [
        (Dialect::Standard, 500, None, 5),
        (Dialect::Standard, 500, Some(120), 5),
        (Dialect::Standard, 302, Some(120), 5),
        (Dialect::Standard, 429, None, 5),
        (Dialect::Standard, 429, Some(1), 5),
        (Dialect::Standard, 429, Some(120), 120),
        (Dialect::Standard, 503, Some(3000), 3000),
        (Dialect::Standard, 503, Some(u64::MAX), 36_000),
        (Dialect::Avycenna, 500, None, 30),
        (Dialect::Avycenna, 503, Some(10), 30),
        (Dialect::Avycenna, 429, Some(90), 90),
    ];
    let world = World::new();
    let mut hooks = Vec::new();
    for (number, (dialect, status, retry_after, _)) in cases.into_iter().enumerate() {
        let hook = Hook::start(move |_| Reply { retry_after, ..Reply::status(status) });
        world.endpoint_with(
            &format!("ep_{number:02}"),
            ORG,
            EndpointSettings { dialect, ..settings(&hook.url()) },
        );
        hooks.push(hook);
    }
    let began = now_ms();
    let run = world.start();
    let event = world.log.append(&[Draft::of(1)]).remove(0);
    assert!(comes_within(Duration::from_secs(4), || world.book.stored().exceptions.len() == cases.len()));
    let ended = now_ms();
    run.stop();
    for (((endpoint, place), exception), case) in world.book.stored().exceptions.into_iter().zip(cases) {
        let pause = case.3 * 1000;
        let Exception { attempts, due_at_ms, key, decided_at, .. } = exception;
        assert_eq!((place, attempts, key, decided_at), (event.place, 1, 1, 1), "{endpoint}");
        assert!((began + pause..=ended + pause).contains(&due_at_ms), "{case:?}: {}", due_at_ms - began);
    }
}

#[test]
fn a_delivery_is_given_up_after_the_last_attempt_of_the_schedule() {
    let (world, hook) = (World::new(), Hook::start(|_| Reply::status(500)));
    let events = world.log.append_many(2, 2);
    for (event, attempts) in events.iter().zip([6, 7]) {
        let exception = Exception {
            place: event.place,
            ordinal: event.ordinal,
            decided_at: event.decided_at,
            key: event.key,
            attempts,
            due_at_ms: 0,
            members: Arc::default(),
            quiet: false,
        };
        world.book.store(|stored| {
            stored.exceptions.insert(("ep_1".to_owned(), event.place), exception);
            stored.routed = 2;
        });
    }
    let run = world.endpoint("ep_1", &hook.url()).start();
    assert!(comes_within(SOON, || hook.count() == 2));
    assert!(comes_within(SOON, || world.book.stored().exceptions.len() == 1));
    let stats = run.stats();
    assert_eq!((stats.given_up, stats.failed, stats.retries_waiting), (1, 2, 1));
    run.stop();
    let left = world.book.stored().exceptions.into_values().next().unwrap();
    assert_eq!((left.place, left.attempts), (events[0].place, 7));
    assert!(left.due_at_ms > now_ms() + 35_000_000, "{left:?}");
}

#[test]
fn a_floor_that_was_not_taken_is_brought_by_the_next_saves_until_it_is() {
    let (world, hook) = (World::new(), Hook::willing());
    world.book.refuse_floor(true);
    let run = world.endpoint("ep_1", &hook.url()).start();
    world.log.append_many(3, 3);
    let saves_at = |floor| world.book.saved().iter().filter(|saved| saved.changes.floor == floor).count();
    assert!(comes_within(SOON, || saves_at(3) > 2), "though nothing changes");
    world.book.refuse_floor(false);
    let saves = || world.book.saved().len();
    // One that had begun, and one that brings it.
    let (before, pause) = (saves(), Duration::from_millis(500));
    assert!(comes_within(SOON, || saves() > before));
    std::thread::sleep(pause);
    let settled = saves();
    std::thread::sleep(pause);
    assert_eq!(saves(), settled, "all is as it was");
    run.stop();
}

#[test]
fn what_is_erased_between_its_opening_and_its_sending_is_not_sent() {
    let (world, hook) = (World::new(), Hook::willing());
    // Of each kind one that lies in memory and one that does not.
    let events = world.log.append_many(4, 4);
    let [erased, plain] = [&events[..2], &events[2..]];
    erased.iter().for_each(|event| world.source.erase_once_opened(event.place));
    let run = world.endpoint("ep_1", &hook.url()).start();
    assert!(comes_within(SOON, || hook.count() >= 2 && world.book.stored().routed == 4));
    assert_eq!(hook.taken(), ids_of(plain));
    assert_eq!(run.stats().payload_gone, 2);
    run.stop();
}

#[test]
fn a_payload_that_is_gone_is_given_up_and_one_that_is_unreadable_is_tried_again() {
    let (world, hook) = (World::new(), Hook::willing());
    // Of each kind one that lies in memory and one that does not.
    let events = world.log.append_many(6, 1);
    let [gone, unreadable, plain] = [&events[0..2], &events[2..4], &events[4..6]];
    gone.iter().for_each(|event| world.source.tell(event.place, Some(PayloadFault::Gone)));
    unreadable.iter().for_each(|event| world.source.tell(event.place, Some(PayloadFault::Unreadable)));
    let run = world.endpoint("ep_1", &hook.url()).start();
    assert!(comes_within(SOON, || hook.count() == 2 && world.book.stored().routed == 6));
    assert_eq!(world.book.stored().exceptions.len(), 2);
    assert_eq!(hook.taken(), ids_of(plain));
    let stats = run.stats();
    assert_eq!((stats.payload_gone, stats.retries_waiting, stats.failed), (2, 2, 2));
    run.stop();
    unreadable.iter().for_each(|event| world.source.tell(event.place, None));
    world.hurry(0);
    let run = world.start();
    assert!(comes_within(SOON, || hook.count() == 4 && world.book.stored().exceptions.is_empty()));
    run.stop();
    assert_eq!(hook.taken(), ids_of(events[2..].iter()));
    let opens: Vec<usize> = events.iter().map(|event| world.source.opens(event.place)).collect();
    assert_eq!(opens, [1, 1, 2, 2, 1, 1]);
}

#[test]
fn a_delivery_that_panics_is_tried_again_and_holds_up_none() {
    let (world, hook) = (World::new(), Hook::willing());
    // All of one key; of those that panic one lies in memory and one does not.
    let events = world.log.append_many(20, 1);
    events[..2].iter().for_each(|event| world.source.panic(event.place, true));
    let run = world.endpoint("ep_1", &hook.url()).start();
    assert!(comes_within(SOON, || hook.count() == 18 && world.book.stored().exceptions.len() == 2));
    assert!(comes_within(SOON, || run.lane("ep_1").in_flight() == 0));
    events[..2].iter().for_each(|event| world.source.panic(event.place, false));
    world.pass(Duration::from_secs(5));
    assert!(comes_within(SOON, || hook.count() == 20 && world.book.stored().exceptions.is_empty()));
    run.stop();
    assert_eq!(hook.taken(), ids_of(&events));
}

#[test]
fn what_finds_no_connection_is_tried_again_and_says_nothing_of_the_receiver() {
    let world = World::new();
    world.limit_connections(1);
    let (slow, quick) = (Hook::start(|_| Reply::after(Duration::from_secs(4))), Hook::willing());
    let of = |name, hook: &Hook| EndpointSettings { filter_types: filter(&[name]), ..settings(&hook.url()) };
    world.endpoint_with("ep_slow", ORG, of("heart_rate.created", &slow));
    let quickly = EndpointSettings { timeout_seconds: 1, ..of("check_in.created", &quick) };
    let run = world.endpoint_with("ep_quick", ORG, quickly).start();
    world.log.append(&[Draft::of(1)]);
    assert!(comes_within(SOON, || slow.begun() == 1));
    world.log.append(&[Draft { topic: CHECK_IN, kind: EventKind::Published, ..Draft::of(2) }]);
    assert!(comes_within(SOON, || world.book.stored().exceptions.len() == 1));
    let stats = run.dispatcher.endpoint_stats("ep_quick").unwrap();
    assert!(stats.failing_since_ms.is_none() && world.diary.attempts().is_empty(), "{stats:?}");
    assert!(comes_within(SOON, || slow.count() == 1));
    world.pass(Duration::from_secs(5));
    assert!(comes_within(SOON, || quick.count() == 1 && world.book.stored().exceptions.is_empty()));
    run.stop();
}

#[test]
fn what_a_delivery_waits_for_a_connection_is_no_part_of_its_timeout() {
    let world = World::new();
    world.limit_connections(1);
    let [slow, late] = [4, 3].map(|seconds| Hook::start(move |_| Reply::after(Duration::from_secs(seconds))));
    let of = |name, hook: &Hook| EndpointSettings { filter_types: filter(&[name]), ..settings(&hook.url()) };
    world.endpoint_with("ep_slow", ORG, of("heart_rate.created", &slow));
    let of_late = EndpointSettings { timeout_seconds: 5, ..of("check_in.created", &late) };
    let run = world.endpoint_with("ep_late", ORG, of_late).start();
    world.log.append(&[Draft::of(1)]);
    assert!(comes_within(SOON, || slow.begun() == 1));
    world.log.append(&[Draft { topic: CHECK_IN, kind: EventKind::Published, ..Draft::of(2) }]);
    // It has the connection after 4 s, and the answer 7 s after it began.
    assert!(comes_within(SOON, || late.count() == 1 && run.lane("ep_late").in_flight() == 0));
    let stats = run.dispatcher.endpoint_stats("ep_late").unwrap();
    assert!(stats.failing_since_ms.is_none() && world.book.stored().exceptions.is_empty(), "{stats:?}");
    run.stop();
    assert_eq!(late.begun(), 1);
}

#[test]
fn a_ledger_that_fails_delays_and_loses_nothing() {
    let (world, failing, willing) = (World::new(), failing_each(10), Hook::willing());
    world.book.watch("ep_1", &failing);
    world.book.watch("ep_2", &willing);
    world.endpoint("ep_1", &failing.url()).endpoint("ep_2", &willing.url());
    world.book.fail(true);
    let run = world.start();
    let events = world.log.append_many(1000, 100);
    // Who takes everything needs no ledger.
    assert!(comes_within(SOON, || willing.count() == 1000), "{}", willing.count());
    assert!(comes_within(SOON, || world.book.refused() >= 3));
    assert!(run.lane("ep_1").is_behind(), "it takes no more than it may forget");
    assert!(world.book.stored().exceptions.is_empty());
    assert_eq!(world.book.stored().routed, 0);
    world.book.fail(false);
    assert!(comes_within(SOON, || failing.count() >= 1000 && !run.lane("ep_1").is_behind()));
    assert!(comes_within(SOON, || world.book.stored().routed == 1000), "{}", world.book.stored().routed);
    run.stop();
    world.book.check_positions(&events);
    assert_eq!(willing.count(), 1000);
    // Those that failed are waiting: nothing is lost.
    let mut got = failing.taken();
    let waiting = world.book.stored().exceptions.into_keys().map(|(_, place)| id_of(place));
    got.extend(waiting);
    assert_eq!(got, ids_of(&events));
    assert!(failing.deliveries().iter().all(|one| place_of(&one.id).sequence <= 1000));
}
