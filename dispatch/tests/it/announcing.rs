//! What is announced of deliveries that were given up, over saves that fail and crashes.

use std::sync::Arc;
use std::time::Duration;

use systole_dispatch::endpoint::EndpointSettings;
use systole_dispatch::event::{Cursor, Event, PayloadFault};
use systole_dispatch::ledger::{Exception, GivenUp};
use systole_dispatch::notice::{MessageFailed, Notice};

use crate::world::{Hook, ORG, Reply, World, comes_within, id_of, settings};

const SOON: Duration = Duration::from_secs(30);

/// A world in which the last attempt of an event is due and fails.
fn last_attempt() -> (World, Hook, Event) {
    let (world, hook) = (World::new(), Hook::start(|_| Reply::status(500)));
    world.endpoint("ep_1", &hook.url());
    let event = world.log.append_many(1, 1).remove(0);
    let exception = Exception {
        place: event.place,
        ordinal: event.ordinal,
        decided_at: event.decided_at,
        key: event.key,
        attempts: 7,
        due_at_ms: 0,
        quiet: false,
        members: Arc::default(),
    };
    world.book.store(|stored| {
        stored.exceptions.insert(("ep_1".to_owned(), event.place), exception);
        stored.routed = 1;
    });
    (world, hook, event)
}

fn failed(world: &World) -> Vec<MessageFailed> {
    world.board.notices().into_iter().map(failed_of).collect()
}

fn failed_of(notice: Notice) -> MessageFailed {
    match notice {
        Notice::MessageFailed(failed) => failed,
        other => panic!("{other:?}"),
    }
}

#[test]
fn what_was_given_up_is_announced_once_that_is_durable() {
    let (world, hook, event) = last_attempt();
    world.book.fail(true);
    let run = world.start();
    assert!(comes_within(SOON, || hook.count() == 1));
    let refused = world.book.refused();
    assert!(comes_within(SOON, || world.book.refused() > refused + 1));
    assert_eq!(failed(&world), []);
    world.book.fail(false);
    assert!(comes_within(SOON, || failed(&world).len() == 1));
    assert!(world.book.stored().exceptions.is_empty());
    run.stop();
    let [failed] = &failed(&world)[..] else { panic!("announced twice") };
    assert_eq!(failed.message.as_ref().unwrap().id, id_of(event.place));
    let through = Cursor { ordinal: 1, ..event.cursor() };
    assert_eq!(failed.noted, [(event.cursor(), through)]);
    // The ledger finds by it what it has noted.
    let [(_, noted)] = &world.book.stored().given_up[..] else { panic!("not noted") };
    assert_eq!((noted.from, noted.through, noted.quiet), (event.cursor(), through, false));
}

#[test]
fn what_was_dropped_before_it_was_tried_is_announced_and_what_was_erased_is_not() {
    let (world, hook) = (World::new(), Hook::willing());
    // Of each kind one that lies in memory and one that does not.
    let events = world.log.append_many(6, 1);
    let [dropped, erased, plain] = [&events[0..2], &events[2..4], &events[4..6]];
    dropped.iter().for_each(|event| world.source.tell(event.place, Some(PayloadFault::Dropped)));
    erased.iter().for_each(|event| world.source.tell(event.place, Some(PayloadFault::Gone)));
    let run = world.endpoint("ep_1", &hook.url()).start();
    assert!(comes_within(SOON, || world.book.stored().routed == 6 && failed(&world).len() == 2));
    run.stop();
    let told = failed(&world);
    let ids: Vec<&str> = told.iter().filter_map(|failed| Some(&*failed.message.as_ref()?.id)).collect();
    assert_eq!(ids, [id_of(dropped[0].place), id_of(dropped[1].place)]);
    assert!(
        told.iter().all(|failed| failed.attempts == 0 && failed.error.as_deref() == Some("payload_gone"))
    );
    assert_eq!((world.book.stored().given_up.len(), hook.count()), (2, plain.len()));
    assert!(world.diary.attempts().iter().all(|attempt| attempt.success));
}

#[test]
fn what_a_crash_makes_try_again_is_announced_once() {
    let (world, hook, _) = last_attempt();
    world.book.fail(true);
    let run = world.start();
    assert!(comes_within(SOON, || hook.count() == 1));
    run.stop();
    world.book.fail(false);
    assert_eq!(failed(&world), []);
    let run = world.start();
    assert!(comes_within(SOON, || failed(&world).len() == 1));
    run.stop();
    assert_eq!((failed(&world).len(), hook.count()), (1, 2));
}

#[test]
fn what_was_not_announced_at_once_is_told_as_far_as_it_is_known() {
    let (world, hook) = (World::new(), Hook::willing());
    world.endpoint("ep_1", &hook.url());
    let events = world.log.append_many(5, 5);
    world.log.drop_through(2);
    let run = world.start_without_router();
    let given_up = |from: u64, through: Cursor| GivenUp {
        from: Cursor { sequence: from, ordinal: 0 },
        through,
        at_ms: 0,
        quiet: false,
    };
    let single = |sequence| given_up(sequence, Cursor { sequence, ordinal: 1 });
    let told = [single(4), single(2), given_up(3, Cursor::behind(5))].map(|given_up| {
        assert_eq!(run.dispatcher.failed_before("ep_gone", given_up), None);
        failed_of(run.dispatcher.failed_before("ep_1", given_up).unwrap())
    });
    run.stop();
    let [known, dropped, range] = &told;
    let message = known.message.as_ref().unwrap();
    assert_eq!(
        (&message.id, message.event_type.as_deref()),
        (&id_of(events[3].place), Some("heart_rate.created"))
    );
    assert_eq!((known.count, known.user.as_deref(), known.attempts), (Some(1), Some("u_1"), 0));
    assert_eq!((&dropped.message, dropped.count), (&None, Some(1)));
    assert_eq!((&range.message, range.count), (&None, None));
    let begin = |sequence| Cursor { sequence, ordinal: 0 };
    assert_eq!(known.noted, [(begin(4), Cursor { sequence: 4, ordinal: 1 })]);
    assert_eq!(range.noted, [(begin(3), Cursor::behind(5))]);
    assert!(told.iter().all(|failed| failed.error.is_some()));
}

#[test]
fn what_was_dropped_before_it_was_routed_is_announced_of_who_was_to_get_it() {
    let (world, hook) = (World::new(), Hook::willing());
    world.endpoint("ep_1", &hook.url());
    world.endpoint_with("ep_off", ORG, EndpointSettings { active: false, ..settings(&hook.url()) });
    let mut run = world.start_without_router();
    world.log.append_many(20, 4);
    world.log.drop_through(8);
    world.book.fail(true);
    run.route();
    assert!(comes_within(SOON, || hook.count() == 12));
    let refused = world.book.refused();
    assert!(comes_within(SOON, || world.book.refused() > refused + 1));
    assert_eq!(failed(&world), []);
    world.book.fail(false);
    assert!(comes_within(SOON, || failed(&world).len() == 1));
    run.stop();
    let [failed] = &failed(&world)[..] else { panic!("announced twice") };
    let (from, through) = (Cursor::behind(0), Cursor::behind(8));
    assert_eq!((&*failed.endpoint, failed.error.as_deref()), ("ep_1", Some("payload_gone")));
    assert_eq!((failed.from, failed.through, &failed.message), (from, through, &None));
    // A crash behind the save announces it all the same.
    assert_eq!(failed.noted, [(from, through)]);
    let [(endpoint, noted)] = &world.book.stored().given_up[..] else { panic!("not noted") };
    assert_eq!((endpoint.as_str(), noted.from, noted.through, noted.quiet), ("ep_1", from, through, false));
    let run = world.start_without_router();
    let again = failed_of(run.dispatcher.failed_before("ep_1", *noted).unwrap());
    run.stop();
    assert_eq!((again.error.as_deref(), again.noted), (Some("payload_gone"), vec![(from, through)]));
}
