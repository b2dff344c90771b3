//! Events drawn together, batches, and the rate of requests.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use systole_dispatch::endpoint::EndpointSettings;
use systole_dispatch::event::{Event, Payload, Vocabulary};
use systole_dispatch::topic::TopicId;
use systole_dispatch::{EventKind, PayloadFault, Place};

use crate::world::{
    Carried, Delivery, Draft, Hook, ORG, RESTING, Random, Reply, Run, Stored, World, comes_within,
    now_micros, open, place_of, settings,
};

const SOON: Duration = Duration::from_secs(30);

fn places(events: &[Event]) -> BTreeSet<Place> {
    events.iter().map(|event| event.place).collect()
}

/// Each event was taken, and none of them twice.
fn assert_each_once(hook: &Hook, events: &[Event]) {
    let got = hook.places();
    assert_eq!(got.iter().copied().collect::<BTreeSet<_>>(), places(events));
    assert_eq!(got.len(), events.len());
}

fn batches(url: &str, most: u32) -> EndpointSettings {
    EndpointSettings { batch_events: Some(most), ..settings(url) }
}

fn coalesced(url: &str, ms: u32) -> EndpointSettings {
    EndpointSettings { coalesce_ms: Some(ms), ..settings(url) }
}

#[test]
fn what_waits_goes_into_one_request_and_keys_stay_in_order() {
    let hook = Hook::start(|_| Reply::after(Duration::from_millis(20)));
    let world = World::new();
    let events = world.log.append_many(400, 9);
    let run = world.endpoint_with("ep_1", ORG, batches(&hook.url(), 10)).start();
    assert!(comes_within(SOON, || hook.places().len() >= 400), "{}", hook.places().len());
    run.stop();
    assert_each_once(&hook, &events);
    let deliveries = hook.deliveries();
    assert!(deliveries.len() < 120, "{} requests", deliveries.len());
    let mut by_key: BTreeMap<u64, Vec<Place>> = BTreeMap::new();
    for one in &deliveries {
        for event in &one.events {
            assert_eq!(event.name, "heart_rate.created");
            by_key.entry(event.key).or_default().push(place_of(&event.id));
        }
        if one.events.len() == 1 {
            assert_eq!(one.id, one.events[0].id, "one that is alone comes as it is");
            continue;
        }
        let (place, _) = open(&one.id);
        assert_eq!((place.kind, one.name.as_str()), (EventKind::Batch, "batch"));
        assert!(one.events.len() <= 10, "{}", one.events.len());
        let newest = one.events.iter().map(|event| event.sequences[0] % 1000).max().unwrap();
        assert!(
            one.body
                .starts_with(&format!(r#"{{"type":"batch","timestamp":"2026-06-30T07:45:01.{newest:03}Z","#))
        );
    }
    assert!(by_key.values().all(|places| places.is_sorted()));
    assert_eq!(hook.most().1, 1);
}

/// Fails what `fails` says, once each request.
fn failing_once(fails: impl Fn(&Delivery) -> bool + Send + Sync + 'static) -> Hook {
    Hook::start(move |delivery| {
        Reply::status(if delivery.earlier == 0 && fails(delivery) { 500 } else { 200 })
    })
}

/// What came under each id.
fn bodies(hook: &Hook) -> BTreeMap<String, Vec<Delivery>> {
    let mut bodies: BTreeMap<String, Vec<Delivery>> = BTreeMap::new();
    hook.deliveries().into_iter().for_each(|one| bodies.entry(one.id.clone()).or_default().push(one));
    bodies
}

/// Each id stands for the same bytes, and each event came under one id of its own or of what
/// it was drawn together with. For frames of one event each.
fn assert_ids_stand(hook: &Hook) {
    for (id, deliveries) in bodies(hook) {
        assert!(deliveries.iter().all(|one| one.body == deliveries[0].body), "{id}");
    }
    let mut drawn: BTreeMap<String, Vec<u64>> = BTreeMap::new();
    let mut ids: BTreeMap<u64, BTreeSet<String>> = BTreeMap::new();
    for Carried { id, sequences, .. } in hook.deliveries().into_iter().flat_map(|one| one.events) {
        for sequence in &sequences {
            ids.entry(*sequence).or_default().insert(id.clone());
        }
        let before = drawn.entry(id.clone()).or_insert_with(|| sequences.clone());
        assert_eq!(*before, sequences, "{id}");
    }
    ids.retain(|_, ids| ids.len() > 1);
    assert!(ids.is_empty(), "came under several ids: {ids:?}");
}

#[test]
fn a_failed_batch_comes_again_as_the_same_bytes_after_a_restart() {
    let (world, hook) = (World::new(), failing_once(|_| true));
    let events = world.log.append_many(60, 60);
    world.endpoint_with("ep_1", ORG, batches(&hook.url(), 8));
    let run = world.start();
    assert!(comes_within(SOON, || hook.deliveries().iter().map(|one| one.events.len()).sum::<usize>() == 60));
    run.stop();
    let stored = world.book.stored();
    let members: usize = stored.exceptions.values().map(|exception| exception.members.len().max(1)).sum();
    assert_eq!((members, stored.routed), (60, 60));
    world.hurry(0);
    let run = world.start();
    assert!(comes_within(SOON, || hook.places().len() == 60 && world.book.stored().exceptions.is_empty()));
    run.stop();
    assert_each_once(&hook, &events);
    for (id, deliveries) in bodies(&hook) {
        assert_eq!(deliveries.len(), 2, "{id}");
        assert_eq!(deliveries[0].body, deliveries[1].body, "{id}");
    }
}

#[test]
fn a_batch_of_which_an_event_went_is_cut_anew_under_another_id() {
    let (world, hook) = (World::new(), failing_once(|delivery| delivery.events.len() == 5));
    let events = world.log.append_many(5, 5);
    world.endpoint_with("ep_1", ORG, batches(&hook.url(), 5));
    let run = world.start();
    assert!(comes_within(SOON, || hook.count() == 1 && !world.book.stored().exceptions.is_empty()));
    let first = hook.deliveries();
    assert_eq!(first[0].events.len(), 5);
    // One while it waits, as the receipt of an erasure counts it, and one unnoticed.
    let (gone, later) = (events[1].place, events[3].place);
    for place in [gone, later] {
        world.source.tell(place, Some(PayloadFault::Gone));
    }
    assert_eq!(run.dispatcher.give_up(ORG, &|place| place == gone), 1);
    assert!(comes_within(SOON, || hook.places().len() == 3 && world.book.stored().exceptions.is_empty()));
    run.stop();
    let left: BTreeSet<Place> =
        places(&events).into_iter().filter(|one| ![gone, later].contains(one)).collect();
    assert_eq!(hook.places().into_iter().collect::<BTreeSet<_>>(), left);
    let deliveries = hook.deliveries();
    assert_eq!(deliveries.len(), 2);
    assert_ne!(deliveries[0].id, deliveries[1].id);
    assert_eq!(open(&deliveries[1].id).0.kind, EventKind::Batch);
}

#[test]
fn events_of_a_window_come_as_one_and_each_sample_once() {
    let (world, hook) = (World::new(), Hook::willing());
    let run = world.endpoint_with("ep_1", ORG, coalesced(&hook.url(), 300)).start();
    let mut events = Vec::new();
    for _ in 0..60 {
        events.extend(world.log.append_many(4, 3));
        std::thread::sleep(Duration::from_millis(10));
    }
    assert!(comes_within(SOON, || hook.places().len() >= 240), "{}", hook.places().len());
    assert!(comes_within(SOON, || world.book.stored().routed == world.log.head()));
    run.stop();
    assert_each_once(&hook, &events);
    let window = |sequence: &u64| events[*sequence as usize - 1].ordering / 300_000;
    let mut seen = BTreeSet::new();
    for one in hook.deliveries() {
        let event = &one.events[0];
        assert!(event.sequences.is_sorted());
        let windows: BTreeSet<u64> = event.sequences.iter().map(window).collect();
        assert_eq!(windows.len(), 1, "{event:?}");
        assert!(seen.insert((event.key, windows)), "two events of one key and window: {event:?}");
        let first = events[event.sequences[0] as usize - 1].place;
        let kind = if event.sequences.len() == 1 { first.kind } else { EventKind::Coalesced };
        let place = open(&one.id).0;
        assert_eq!((place.sequence, place.group, place.kind), (first.sequence, first.group, kind));
    }
    assert_ids_stand(&hook);
}

#[test]
fn a_window_with_one_event_and_parts_of_a_long_one_come_as_they_are() {
    let (world, hook) = (World::new(), Hook::willing());
    let long = Draft { samples: 2500, ..Draft::of(1) };
    let events = world.log.append(&[Draft::of(2), long.clone(), long]);
    let run = world.endpoint_with("ep_1", ORG, coalesced(&hook.url(), 100)).start();
    assert!(comes_within(SOON, || hook.count() == 3));
    run.stop();
    let got: BTreeSet<Place> = hook.deliveries().iter().map(|one| place_of(&one.id)).collect();
    assert_eq!(got, places(&events));
}

#[test]
fn what_was_drawn_together_survives_a_crash_and_fails_and_comes_again_as_the_same_bytes() {
    let (world, hook) = (World::new(), failing_once(|_| true));
    world.endpoint_with("ep_1", ORG, coalesced(&hook.url(), 400));
    // Dies while the window is open.
    let run = world.start();
    assert!(comes_within(SOON, || now_micros() % 400_000 < 40_000));
    let events = world.log.append_many(30, 3);
    std::thread::sleep(Duration::from_millis(50));
    world.book.fail(true);
    run.stop();
    world.book.fail(false);
    let run = world.start();
    let sequences = || hook.deliveries().iter().map(|one| one.events[0].sequences.len()).sum::<usize>();
    assert!(comes_within(SOON, || sequences() == 30), "{}", sequences());
    assert!(comes_within(SOON, || !world.book.stored().exceptions.is_empty()));
    run.stop();
    world.hurry(0);
    let run = world.start();
    assert!(comes_within(SOON, || hook.places().len() >= 30 && world.book.stored().exceptions.is_empty()));
    run.stop();
    assert_each_once(&hook, &events);
    for (id, deliveries) in bodies(&hook) {
        assert_eq!(deliveries.len(), 2, "{id}");
        assert_eq!(deliveries[0].body, deliveries[1].body, "{id}");
    }
}

/// Another endpoint holds back the position that both share, in the midst of a window that
/// is over.
#[test]
fn a_crash_sends_nothing_of_a_window_that_is_over_again_under_another_id() {
    let (world, hook) = (World::still(), Hook::willing());
    let slow = Hook::start(|delivery| {
        let takes_long = place_of(&delivery.id).sequence == 4 && delivery.earlier == 0;
        Reply::after(Duration::from_secs(if takes_long { 5 } else { 0 }))
    });
    world.endpoint("ep_slow", &slow.url());
    world.endpoint_with("ep_window", ORG, coalesced(&hook.url(), 500));
    let run = world.start();
    assert!(comes_within(SOON, || now_micros() % 500_000 < 200_000));
    world.log.append_many(6, 1);
    std::thread::sleep(Duration::from_millis(600));
    assert!(comes_within(SOON, || {
        world.pass(Duration::from_millis(10));
        hook.count() == 1
    }));
    // It is not to begin again before this, whatever the other one does.
    let position = || {
        let Stored { routed, rows, .. } = world.book.stored();
        rows.get("ep_window").map_or(routed + 1, |row| row.sequence)
    };
    assert!(comes_within(Duration::from_secs(2), || position() == 7), "{}", position());
    world.book.fail(true);
    run.stop();
    world.book.fail(false);
    let run = world.start();
    assert!(comes_within(SOON, || {
        world.pass(Duration::from_millis(10));
        slow.taken().len() == 6
    }));
    // Longer than a window takes.
    std::thread::sleep(Duration::from_millis(600));
    world.pass(Duration::from_secs(1));
    std::thread::sleep(Duration::from_millis(300));
    run.stop();
    assert_eq!(hook.count(), 1, "{:?}", hook.deliveries());
    assert_ids_stand(&hook);
}

/// Lives and deaths of endpoints that draw together, that batch, and that do both,
/// each failing a fifth of its requests.
#[test]
fn nothing_is_lost_over_lives_of_batches_and_windows() {
    let heals = Arc::new(AtomicBool::new(false));
    let failing = |seed: u64| {
        let (heals, random) = (heals.clone(), Arc::new(Mutex::new(Random(seed))));
        Hook::start(move |_| {
            let fails = random.lock().unwrap().below(5) == 0 && !heals.load(Ordering::Relaxed);
            Reply { status: if fails { 500 } else { 200 }, ..Reply::after(Duration::from_millis(2)) }
        })
    };
    let (world, mut random) = (World::new(), Random(5));
    world.hurry(0);
    let hooks = [("ep_batch", failing(1)), ("ep_window", failing(2)), ("ep_both", failing(3))];
    for (id, hook) in &hooks {
        let mut settings = settings(&hook.url());
        settings.batch_events = (*id != "ep_window").then_some(7);
        settings.coalesce_ms = (*id != "ep_batch").then_some(100);
        world.endpoint_with(id, ORG, settings);
        world.book.watch(id, hook);
    }
    for _ in 0..14 {
        let run = world.start();
        for _ in 0..random.below(4) {
            world.log.append_many(random.below(150), 20);
            std::thread::sleep(Duration::from_millis(random.below(120)));
        }
        let crashes = random.below(2) == 0;
        world.book.fail(crashes);
        run.stop();
        world.book.fail(false);
    }
    heals.store(true, Ordering::Relaxed);
    let run = world.start();
    let expected = places(&world.log.events());
    let taken = |hook: &Hook| hook.places().into_iter().collect::<BTreeSet<_>>();
    let all = |run: &Run| {
        hooks.iter().all(|(_, hook)| taken(hook).len() == expected.len()) && run.stats().retries_waiting == 0
    };
    comes_within(SOON, || all(&run));
    let is_level = |stored: &Stored| stored.routed == world.log.head() && stored.rows.is_empty();
    assert!(comes_within(SOON, || is_level(&world.book.stored())));
    run.stop();
    for (id, hook) in &hooks {
        let missing = expected.difference(&taken(hook)).count();
        assert_eq!(missing, 0, "{id} lost {missing} of {}", expected.len());
        assert_eq!(hook.most().1, 1, "{id}");
        assert_ids_stand(hook);
    }
    world.book.check_positions(&world.log.events());
    let stored = world.book.stored();
    assert!(stored.exceptions.is_empty() && stored.rows.is_empty(), "{stored:?}");
}

#[test]
fn a_rate_bounds_requests_of_every_kind() {
    let began = Arc::new(Mutex::new(Vec::new()));
    let times = began.clone();
    let hook = Hook::start(move |_| {
        times.lock().unwrap().push(Instant::now());
        Reply::status(200)
    });
    let world = World::new();
    let limited = EndpointSettings { rate_limit_per_second: Some(20), ..settings(&hook.url()) };
    let run = world.endpoint_with("ep_1", ORG, limited).start();
    let start = Instant::now();
    let events = world.log.append_many(70, 70);
    for number in 0..10 {
        let payload = Box::new(Example);
        run.dispatcher.send_example(run.lane("ep_1"), format!("evt_test_{number}"), None, payload).unwrap();
    }
    assert!(comes_within(SOON, || hook.begun() == 80), "{}", hook.begun());
    let took = start.elapsed();
    run.stop();
    assert!(took > Duration::from_millis(2900), "{took:?}");
    let began = began.lock().unwrap();
    let most = began.iter().map(|first| {
        began.iter().filter(|at| **at >= *first && **at < *first + Duration::from_secs(1)).count()
    });
    // One more, because they are counted where they arrive.
    assert!(most.max().unwrap() <= 41);
    assert_eq!(events.len(), 70);
}

struct Example;

impl Payload for Example {
    fn timestamp(&self) -> &str {
        "2026-06-30T07:45:01Z"
    }

    fn timestamp_ms(&self) -> i64 {
        1_782_805_501_000
    }

    fn publisher_id(&self) -> Option<&str> {
        None
    }

    fn topic(&self) -> TopicId {
        RESTING
    }

    fn user(&self) -> Option<&str> {
        None
    }

    fn data_bytes(&self) -> usize {
        64
    }

    fn write_data(&self, _: Vocabulary, _: bool, out: &mut Vec<u8>) {
        out.extend_from_slice(br#"{"sequence":0,"key":1000}"#);
    }
}
