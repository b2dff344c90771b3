//! What people ask for: one message again, everything that failed, everything that was
//! never sent; and what is kept of attempts and announced of them.

use std::sync::Arc;
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::Duration;

use systole_dispatch::attempt::Trigger;
use systole_dispatch::dispatcher::ManualFault;
use systole_dispatch::endpoint::EndpointSettings;
use systole_dispatch::event::{Cursor, Event, EventKind, PayloadSource as _};
use systole_dispatch::ledger::{Exception, GivenUp};
use systole_dispatch::notice::{MessageFailed, Notice};

use crate::world::{
    CHECK_IN, Draft, FAILED, Hook, ORG, Reply, World, comes_within, filter, id_of, ids_of, settings,
};

const SOON: Duration = Duration::from_secs(30);

fn obedient(status: u16) -> (Arc<AtomicU16>, Hook) {
    let told = Arc::new(AtomicU16::new(status));
    let status = told.clone();
    (told, Hook::start(move |_| Reply::status(status.load(Ordering::Relaxed))))
}

#[test]
fn every_attempt_is_recorded_with_what_was_sent_and_answered() {
    let (world, (told, hook)) = (World::new(), obedient(503));
    let run = world.endpoint("ep_1", &hook.url()).start();
    let events = world.log.append(&[Draft::of(1)]);
    assert!(comes_within(SOON, || world.book.stored().exceptions.len() == 1));
    told.store(200, Ordering::Relaxed);
    assert!(comes_within(SOON, || hook.count() == 2));
    let payload = world.source.open(events[0].place, 1).unwrap();
    let name = Some("heart_rate.created".to_owned());
    run.dispatcher.send_example(run.lane("ep_1"), "evt_example".to_owned(), name, payload).unwrap();
    assert!(comes_within(SOON, || world.diary.attempts().len() == 3));
    run.stop();
    let attempts = world.diary.attempts();
    let told: Vec<_> = attempts
        .iter()
        .map(|one| (one.number, one.trigger, one.success, one.status_code, one.place.is_some()))
        .collect();
    assert_eq!(
        told,
        [
            (1, Trigger::Scheduled, false, Some(503), true),
            (2, Trigger::Scheduled, true, Some(200), true),
            (1, Trigger::Test, true, Some(200), false),
        ]
    );
    for (attempt, id) in
        attempts.iter().zip([id_of(events[0].place), id_of(events[0].place), "evt_example".into()])
    {
        assert_eq!((&*attempt.message, &*attempt.delivery), (&*id, &*id));
        assert_eq!((&*attempt.endpoint, &*attempt.org, attempt.user.as_deref()), ("ep_1", ORG, Some("u_1")));
        assert_eq!((&*attempt.event_type, &*attempt.url), ("heart_rate.created", &*hook.url()));
        assert_eq!(&*attempt.response_headers, r#"{"content-length":"0"}"#);
        assert!(attempt.error.is_none() && world.now_ms() - attempt.started_at_ms < 20_000);
    }
}

#[test]
fn a_resend_waits_for_no_pause_and_its_failure_leaves_the_schedule_alone() {
    let (world, (told, hook)) = (World::new(), obedient(500));
    let run = world.endpoint("ep_1", &hook.url()).start();
    let events = world.log.append_many(60, 60);
    let lane = run.lane("ep_1");
    assert!(comes_within(SOON, || lane.is_paused() && lane.in_flight() == 0));
    assert!(comes_within(SOON, || world.book.stored().exceptions.len() == lane.exception_count()));
    let (waiting, before) = (world.book.stored().exceptions, hook.count());
    let first = events[0].place;
    run.dispatcher.resend("ep_1", first, 1).unwrap();
    assert!(comes_within(SOON, || world.diary.attempts().len() == before + 1));
    std::thread::sleep(Duration::from_millis(500));
    assert_eq!(world.book.stored().exceptions, waiting);
    let last = world.diary.attempts().pop().unwrap();
    assert_eq!((last.number, last.trigger, last.success), (2, Trigger::Manual, false));
    assert_eq!(*last.message, *id_of(first));
    let shown = || run.dispatcher.endpoint_stats("ep_1").unwrap().last_failure_ms;
    assert!(comes_within(SOON, || shown() >= Some(last.started_at_ms)), "{last:?}");
    // A success ends what waited, and shows that the receiver is back.
    told.store(200, Ordering::Relaxed);
    run.dispatcher.resend("ep_1", first, 1).unwrap();
    assert!(comes_within(SOON, || hook.taken().len() == 1 || !lane.is_paused()));
    assert!(comes_within(Duration::from_secs(3), || !lane.is_paused()), "nobody waited for a probe");
    assert!(comes_within(SOON, || hook.taken().len() >= 60 - waiting.len()));
    run.stop();
    let of_first = hook.deliveries().into_iter().filter(|one| one.id == id_of(first)).count();
    assert_eq!(of_first, 3, "its retry came to nothing");
    let again = world.start();
    assert_eq!(again.dispatcher.resend("ep_9", first, 1), Err(ManualFault::Unknown));
    again.lane("ep_1").switch_off();
    assert_eq!(again.dispatcher.resend("ep_1", first, 1), Err(ManualFault::Off));
    assert_eq!(again.dispatcher.recover("ep_1", Cursor::default(), Cursor::behind(9)), Err(ManualFault::Off));
}

#[test]
fn a_receiver_that_hangs_holds_up_no_resend_to_another() {
    let world = World::new();
    let (slow, quick) = (Hook::start(|_| Reply::after(Duration::from_secs(4))), Hook::willing());
    world.book.store(|stored| stored.routed = 1);
    let first = world.log.append_many(1, 1)[0].place;
    let run = world.endpoint("ep_slow", &slow.url()).endpoint("ep_quick", &quick.url()).start();
    let sent = (0..100).map(|_| run.dispatcher.resend("ep_slow", first, 1));
    let refused = sent.filter(|sent| *sent == Err(ManualFault::Busy)).count();
    assert_eq!(refused, 100 - 64);
    assert!(comes_within(SOON, || slow.begun() == 4));
    for number in 1..=20 {
        run.dispatcher.resend("ep_quick", first, 1).unwrap();
        assert!(comes_within(Duration::from_secs(2), || quick.count() == number), "{number}");
    }
    assert_eq!((slow.most().0, slow.count()), (4, 0), "the others wait for their endpoint");
    // What comes to an end makes room.
    assert!(comes_within(SOON, || slow.count() == 4));
    assert!(comes_within(SOON, || run.dispatcher.resend("ep_slow", first, 1).is_ok()));
    run.stop();
}

#[test]
fn what_waits_for_its_turn_ends_with_its_endpoint() {
    let (world, hook) = (World::new(), Hook::start(|_| Reply::after(Duration::from_secs(1))));
    world.book.store(|stored| stored.routed = 1);
    let first = world.log.append_many(1, 1)[0].place;
    let run = world.endpoint("ep_1", &hook.url()).start();
    (0..8).for_each(|_| run.dispatcher.resend("ep_1", first, 1).unwrap());
    let payload = world.source.open(first, 1).unwrap();
    run.dispatcher.send_example(run.lane("ep_1"), "evt_example".to_owned(), None, payload).unwrap();
    assert!(comes_within(SOON, || hook.begun() == 4));
    run.lane("ep_1").switch_off();
    assert!(comes_within(SOON, || hook.count() == 4));
    std::thread::sleep(Duration::from_millis(500));
    run.stop();
    assert_eq!(hook.begun(), 4);
}

#[test]
fn what_was_never_sent_comes_by_a_replay_and_nothing_else_does() {
    let (world, hook) = (World::new(), Hook::willing());
    let run = world.endpoint("ep_1", &hook.url()).start();
    let sent = world.log.append_many(40, 10);
    assert!(comes_within(SOON, || hook.count() == 40));
    let lane = run.lane("ep_1");
    lane.switch_off();
    let gap = world.log.append_many(300, 10);
    assert!(comes_within(SOON, || run.stats().routed_sequence == 340));
    lane.switch_on(Cursor::behind(340));
    let live = world.log.append_many(20, 10);
    assert!(comes_within(SOON, || hook.count() == 60));
    // The first ten of the gap are not asked for.
    let from = Cursor { sequence: 51, ordinal: 0 };
    let through = Cursor::behind(world.log.head());
    assert_eq!(run.dispatcher.replay_missing("ep_1", from, through), Ok(true));
    assert!(!world.book.stored().backlogs.is_empty() || hook.count() > 60, "it is durable");
    assert!(comes_within(SOON, || hook.count() == 350), "{}", hook.count());
    assert!(comes_within(SOON, || world.book.stored().backlogs.is_empty()));
    run.stop();
    assert_eq!(hook.count(), 350);
    assert_eq!(hook.taken(), ids_of(sent.iter().chain(&gap[10..]).chain(&live)));
    let manual = world.diary.attempts().into_iter().filter(|one| one.trigger == Trigger::Manual).count();
    assert_eq!(manual, 290);
}

#[test]
fn a_recovery_is_promised_only_once_it_is_durable() {
    let (world, (told, hook)) = (World::new(), obedient(500));
    let events = world.log.append_many(3, 3);
    world.book.store(|stored| {
        let noted = |event: &Event| GivenUp {
            from: event.cursor(),
            through: Cursor::behind(3),
            at_ms: 0,
            quiet: false,
        };
        stored.given_up = vec![("ep_1".to_owned(), noted(&events[0]))];
        stored.routed = 3;
    });
    let run = world.endpoint("ep_1", &hook.url()).start();
    told.store(200, Ordering::Relaxed);
    let ask = || run.dispatcher.recover("ep_1", Cursor::behind(0), Cursor::behind(3));
    world.book.fail(true);
    assert_eq!((ask(), ask()), (Err(ManualFault::Unsaved), Err(ManualFault::Unsaved)));
    world.book.panic(usize::MAX);
    assert_eq!(ask(), Err(ManualFault::Unsaved));
    world.book.fill(true);
    world.book.panic(0);
    world.book.fail(false);
    assert_eq!(ask(), Err(ManualFault::DiskFull));
    world.book.fill(false);
    assert!(ask().is_ok());
    assert!(comes_within(SOON, || hook.taken() == ids_of(&events)));
    assert!(comes_within(SOON, || world.book.stored().backlogs.is_empty()));
    run.stop();
    assert_eq!(hook.count(), 3, "asking again sends nothing twice");
}

#[test]
fn the_delivery_log_is_asked_about_many_frames_at_once() {
    let (world, hook) = (World::new(), Hook::willing());
    let events = world.log.append_many(3000, 300);
    world.book.store(|stored| stored.routed = 3000);
    let run = world.endpoint("ep_1", &hook.url()).start();
    let (from, through) = (Cursor::default(), Cursor::behind(3000));
    assert_eq!(run.dispatcher.replay_missing("ep_1", from, through), Ok(true));
    assert!(comes_within(SOON, || hook.taken().len() == 3000), "{}", hook.taken().len());
    let asked = world.diary.asked();
    assert_eq!(asked, [0..=255, 256..=1279, 1280..=3001]);
    // Again: nothing is missing, and nothing failed.
    assert!(comes_within(SOON, || world.book.stored().backlogs.is_empty()));
    assert_eq!(run.dispatcher.replay_missing("ep_1", from, through), Ok(true));
    assert_eq!(run.dispatcher.recover("ep_1", from, through), Ok(true));
    assert!(comes_within(SOON, || world.diary.asked().len() >= 6));
    assert!(comes_within(SOON, || world.book.stored().backlogs.is_empty()));
    run.stop();
    assert_eq!((hook.count(), hook.taken()), (3000, ids_of(&events)));
}

#[test]
fn answers_of_the_delivery_log_that_end_early_leave_nothing_out_and_send_nothing_twice() {
    let (world, hook) = (World::new(), Hook::willing());
    let run = world.endpoint("ep_1", &hook.url()).start();
    let sent = world.log.append_many(600, 100);
    assert!(comes_within(SOON, || hook.count() == 600 && world.diary.attempts().len() == 600));
    let lane = run.lane("ep_1");
    lane.switch_off();
    let gap = world.log.append_many(400, 100);
    assert!(comes_within(SOON, || run.stats().routed_sequence == 1000));
    lane.switch_on(Cursor::behind(1000));
    world.diary.answer_at_most(50);
    let through = Cursor::behind(1000);
    assert_eq!(run.dispatcher.replay_missing("ep_1", Cursor::default(), through), Ok(true));
    assert!(comes_within(SOON, || hook.taken().len() == 1000), "{}", hook.taken().len());
    assert!(comes_within(SOON, || world.book.stored().backlogs.is_empty()));
    run.stop();
    assert_eq!((hook.count(), hook.taken()), (1000, ids_of(sent.iter().chain(&gap))));
    let asked: Vec<u64> = world.diary.asked().iter().map(|sequences| *sequences.start()).collect();
    assert_eq!(asked[..12], [0, 51, 101, 151, 201, 251, 301, 351, 401, 451, 501, 551]);
}

#[test]
fn what_succeeds_while_a_recovery_reads_is_not_sent_again() {
    let (world, (told, hook)) = (World::new(), obedient(500));
    let run = world.endpoint("ep_1", &hook.url()).start();
    // They fail and wait for a retry, each behind many that are read for long.
    let events = world.log.append_many(10, 10);
    assert!(comes_within(SOON, || world.book.stored().exceptions.len() == 10));
    told.store(200, Ordering::Relaxed);
    world.log.slow_down(Duration::from_millis(50));
    let through = Cursor::behind(10);
    assert_eq!(run.dispatcher.recover("ep_1", Cursor::default(), through), Ok(true));
    assert!(comes_within(SOON, || !world.diary.asked().is_empty()));
    for event in &events {
        run.dispatcher.resend("ep_1", event.place, event.decided_at).unwrap();
    }
    assert!(comes_within(SOON, || run.lane("ep_1").backlog_count() == 0));
    assert!(comes_within(SOON, || hook.taken().len() == 10));
    std::thread::sleep(Duration::from_millis(300));
    run.stop();
    assert_eq!(hook.deliveries().iter().filter(|one| one.is_success()).count(), 10);
}

#[test]
fn a_replay_goes_on_after_a_restart_and_the_same_twice_is_one() {
    let (world, hook) = (World::new(), Hook::start(|_| Reply::after(Duration::from_millis(10))));
    world.log.append_many(1500, 300);
    world.book.store(|stored| stored.routed = 1500);
    let run = world.endpoint("ep_1", &hook.url()).start();
    let (from, through) = (Cursor::default(), Cursor::behind(1500));
    assert_eq!(run.dispatcher.replay_missing("ep_1", from, through), Ok(true));
    assert_eq!(run.dispatcher.replay_missing("ep_1", from, through), Ok(false));
    assert!(comes_within(SOON, || hook.count() > 200));
    run.stop();
    assert_eq!(world.book.stored().backlogs.len(), 1);
    let run = world.start();
    assert!(comes_within(SOON, || hook.taken().len() == 1500), "{}", hook.taken().len());
    assert!(comes_within(SOON, || world.book.stored().backlogs.is_empty()));
    run.stop();
    assert_eq!(hook.count(), 1500, "what was sent before the restart was attempted");
}

#[test]
fn a_notice_goes_only_to_endpoints_that_name_it_and_never_to_the_one_it_is_about() {
    let world = World::new();
    let hooks = [Hook::willing(), Hook::willing(), Hook::willing()];
    let named = |url: &str| EndpointSettings { filter_types: filter(&["message.failed"]), ..settings(url) };
    world.endpoint("ep_all", &hooks[0].url());
    world.endpoint_with("ep_named", ORG, named(&hooks[1].url()));
    world.endpoint_with("ep_about", ORG, named(&hooks[2].url()));
    let notice = Draft {
        user: None,
        topic: FAILED,
        kind: EventKind::Published,
        about: Some("ep_about"),
        ..Draft::of(1)
    };
    let other = Draft { topic: CHECK_IN, kind: EventKind::Published, ..Draft::of(2) };
    // Once by the router, and once by lanes that read for themselves.
    for round in 1..=2 {
        let run = world.start();
        world.log.append(&[notice.clone(), other.clone()]);
        assert!(comes_within(SOON, || hooks[..2].iter().all(|hook| hook.taken().len() == round)));
        std::thread::sleep(Duration::from_millis(300));
        run.stop();
        let names = ["ep_all", "ep_named", "ep_about"];
        let rows = names.map(|id| (id.to_owned(), Cursor { sequence: 1, ordinal: 0 }));
        world.book.store(|stored| stored.rows.extend(rows));
    }
    let counts = hooks.each_ref().map(|hook| hook.taken().len());
    assert_eq!(counts, [2, 2, 0]);
}

#[test]
fn what_is_given_up_is_announced_and_noted_but_for_notices() {
    let (world, (_, hook)) = (World::new(), obedient(500));
    let events = world.log.append_many(2, 2);
    for (event, quiet) in events.iter().zip([false, true]) {
        let exception = Exception {
            place: event.place,
            ordinal: event.ordinal,
            decided_at: event.decided_at,
            key: event.key,
            attempts: 7,
            due_at_ms: 0,
            quiet,
            members: Arc::default(),
        };
        world.book.store(|stored| {
            stored.exceptions.insert(("ep_1".to_owned(), event.place), exception);
            stored.routed = 2;
        });
    }
    let run = world.endpoint("ep_1", &hook.url()).start();
    assert!(comes_within(SOON, || world.book.stored().exceptions.is_empty()));
    assert!(comes_within(SOON, || world.book.stored().given_up.len() == 2));
    run.stop();
    let notices = world.board.notices();
    let [Notice::MessageFailed(failed)] = &notices[..] else { panic!("{notices:?}") };
    let MessageFailed { message, count, user, status_code, attempts, .. } = failed;
    let message = message.as_ref().unwrap();
    assert_eq!(message.id, id_of(events[0].place));
    assert_eq!(message.event_type.as_deref(), Some("heart_rate.created"));
    assert_eq!((*count, user.as_deref(), *status_code, *attempts), (Some(1), Some("u_1"), Some(500), 8));
    // Both were due at once, so either may have ended first.
    let mut noted: Vec<_> = world.book.stored().given_up.iter().map(|(_, range)| range.from).collect();
    noted.sort_unstable();
    assert_eq!(noted, [events[0].cursor(), events[1].cursor()]);
}
