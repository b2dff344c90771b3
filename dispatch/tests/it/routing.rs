//! Which events reach which endpoints, and how many at a time.

use std::collections::BTreeMap;
use std::time::Duration;

use systole_dispatch::EventKind;
use systole_dispatch::endpoint::{EndpointSettings, Timeseries};
use systole_dispatch::event::Event;

use crate::world::{
    CHECK_IN, Delivery, Draft, GLUCOSE, HEART_RATE, Hook, ORG, RESTING, Random, Reply, World, comes_within,
    filter, id_of, ids_of, place_of, settings,
};

const SOON: Duration = Duration::from_secs(30);

/// An endpoint, and which events it is to get.
struct Case {
    org: &'static str,
    change: fn(&mut EndpointSettings),
    wants: fn(&Event) -> bool,
}

const CASES: [Case; 7] = [
    Case { org: ORG, change: |_| {}, wants: |_| true },
    Case {
        org: ORG,
        change: |settings| settings.user_id = Some("u_2".to_owned()),
        wants: |event| event.user.as_deref() == Some("u_2"),
    },
    Case {
        org: ORG,
        change: |settings| settings.filter_types = filter(&["series.glucose.created"]),
        wants: |event| event.topic == GLUCOSE,
    },
    Case {
        org: ORG,
        change: |settings| settings.filter_types = filter(&["heart_rate.updated", "check_in.created"]),
        wants: |event| match event.topic {
            CHECK_IN => true,
            GLUCOSE => false,
            _ => event.place.kind == EventKind::Updated,
        },
    },
    // Both names of one topic: once.
    Case {
        org: ORG,
        change: |settings| {
            settings.filter_types = filter(&["heart_rate.created", "series.resting_heart_rate.created"]);
        },
        wants: |event| event.topic == RESTING || event.topic == HEART_RATE,
    },
    Case {
        org: ORG,
        change: |settings| {
            settings.user_id = Some("u_1".to_owned());
            settings.filter_types = filter(&["heart_rate.created", "heart_rate.updated"]);
            settings.timeseries = Timeseries::Granular;
        },
        wants: |event| {
            event.user.as_deref() == Some("u_1") && (event.topic == RESTING || event.topic == HEART_RATE)
        },
    },
    Case { org: "org_2", change: |_| {}, wants: |_| true },
];

fn draft(random: &mut Random) -> Draft {
    let topic = [RESTING, HEART_RATE, GLUCOSE, CHECK_IN][random.below(4) as usize];
    let kind = match (topic, random.below(3)) {
        (CHECK_IN, _) => EventKind::Published,
        (_, 0) => EventKind::Updated,
        _ => EventKind::Created,
    };
    Draft {
        org: if random.below(4) == 0 { "org_2" } else { ORG },
        user: [Some("u_1"), Some("u_2"), Some("u_3"), None][random.below(4) as usize],
        topic,
        kind,
        key: random.below(12),
        samples: 1,
        backfill: false,
        about: None,
    }
}

#[test]
fn events_reach_the_endpoints_that_want_them_once_and_in_order_per_key() {
    let (world, mut random) = (World::new(), Random(1));
    let hooks: Vec<Hook> = CASES.iter().map(|_| Hook::willing()).collect();
    for (number, (case, hook)) in CASES.iter().zip(&hooks).enumerate() {
        let mut settings = settings(&hook.url());
        (case.change)(&mut settings);
        world.endpoint_with(&format!("ep_{number}"), case.org, settings);
    }
    let run = world.start();
    for _ in 0..200 {
        let drafts: Vec<Draft> = (0..random.below(4)).map(|_| draft(&mut random)).collect();
        world.log.append(&drafts);
    }
    let events = world.log.events();
    let expected = |case: &Case| -> Vec<Event> {
        let wanted = events.iter().filter(|event| *event.org == *case.org && (case.wants)(event));
        wanted.cloned().collect()
    };
    let all: usize = CASES.iter().map(|case| expected(case).len()).sum();
    comes_within(SOON, || hooks.iter().map(Hook::count).sum::<usize>() >= all);
    // What is sent twice would come now.
    std::thread::sleep(Duration::from_millis(100));
    run.stop();
    for (number, (case, hook)) in CASES.iter().zip(&hooks).enumerate() {
        let by_key = |pairs: Vec<(u64, String)>| {
            let mut by_key: BTreeMap<u64, Vec<String>> = BTreeMap::new();
            pairs.into_iter().for_each(|(key, id)| by_key.entry(key).or_default().push(id));
            by_key
        };
        let expected = expected(case);
        assert!(expected.len() > 10, "ep_{number}");
        let wanted = expected.iter().map(|event| (event.key, id_of(event.place))).collect();
        let got = hook.deliveries().into_iter().map(|one| (one.key, one.id)).collect();
        assert_eq!(by_key(got), by_key(wanted), "ep_{number}");
    }
}

#[test]
fn an_event_comes_under_the_name_that_the_filter_gives_it() {
    let cases: [(&[&str], Timeseries, EventKind, &str); 6] = [
        (
            &["heart_rate.created", "series.resting_heart_rate.created"],
            Timeseries::Group,
            EventKind::Created,
            "series.resting_heart_rate.created",
        ),
        (&["heart_rate.created"], Timeseries::Group, EventKind::Updated, "heart_rate.created"),
        (&["heart_rate.updated"], Timeseries::Group, EventKind::Updated, "heart_rate.updated"),
        (
            &["heart_rate.created"],
            Timeseries::Granular,
            EventKind::Created,
            "series.resting_heart_rate.created",
        ),
        (&[], Timeseries::Group, EventKind::Updated, "heart_rate.updated"),
        (&[], Timeseries::Granular, EventKind::Updated, "series.resting_heart_rate.updated"),
    ];
    for (names, timeseries, kind, expected) in cases {
        let (world, hook) = (World::new(), Hook::willing());
        let filter_types = filter(names).filter(|names| !names.is_empty());
        world.endpoint_with(
            "ep_1",
            ORG,
            EndpointSettings { filter_types, timeseries, ..settings(&hook.url()) },
        );
        let events = world.log.append(&[Draft { kind, ..Draft::of(1) }]);
        let run = world.start();
        assert!(comes_within(SOON, || hook.count() > 0), "{names:?}");
        run.stop();
        let deliveries = hook.deliveries();
        assert_eq!((deliveries[0].name.as_str(), deliveries.len()), (expected, 1), "{names:?}");
        assert_eq!(place_of(&deliveries[0].id), events[0].place);
    }
}

#[test]
fn one_key_has_one_delivery_in_flight_while_others_go_beside_it() {
    let world = World::new();
    let failing = |delivery: &Delivery| {
        let fails = delivery.earlier == 0 && place_of(&delivery.id).sequence.is_multiple_of(7);
        Reply { status: if fails { 500 } else { 200 }, ..Reply::after(Duration::from_millis(10)) }
    };
    let hook = Hook::start(failing);
    let willing = Hook::start(|_| Reply::after(Duration::from_millis(10)));
    let run = world.endpoint("ep_1", &hook.url()).endpoint("ep_2", &willing.url()).start();
    world.log.append_many(240, 8);
    assert!(comes_within(SOON, || hook.count() == 240 && willing.count() == 240), "{}", hook.count());
    assert!(comes_within(SOON, || world.book.stored().routed == 240));
    run.stop();
    // The retries share the keys of what comes meanwhile.
    world.hurry(200);
    let run = world.start();
    world.log.append_many(240, 8);
    assert!(comes_within(SOON, || willing.count() >= 480 && hook.count() >= 480 + 34), "{}", hook.count());
    run.stop();
    assert_eq!(willing.taken(), ids_of(&world.log.events()));
    let (most, most_of_a_key) = willing.most();
    assert_eq!(most_of_a_key, 1);
    assert!((6..=8).contains(&most), "{most}");
    assert_eq!(hook.most().1, 1);
}
