//! The shares that the fleet promises, proved by counting what it sends.

use std::collections::{BTreeMap, BTreeSet};

use super::classes::When;
use super::samples::Kept;
use super::*;

/// 2026-01-05, a Monday, 00:00.
const START: u64 = 490_968;

fn fleet(users: u64, density: f64) -> ReferenceFleet {
    let settings = ReferenceSettings { users, density, seed: 7, start_hour: START, prefix: "it".to_owned() };
    ReferenceFleet::new(&settings).expect("good settings")
}

fn days(from: u64, to: u64) -> impl Iterator<Item = u64> {
    START + from * 24..START + to * 24
}

/// Samples of each kind in these hours.
fn counts(fleet: &ReferenceFleet, hours: impl Iterator<Item = u64>) -> BTreeMap<Kind, u64> {
    let mut counts = BTreeMap::new();
    for delivery in hours.flat_map(|hour| fleet.deliveries(hour).collect::<Vec<_>>()) {
        *counts.entry(delivery.kind).or_default() += fleet.samples(&delivery).count() as u64;
    }
    counts
}

fn assert_near(measured: f64, wanted: f64, tolerance: f64, what: &str) {
    let off = (measured / wanted - 1.0).abs();
    assert!(off <= tolerance, "{what}: {measured} instead of {wanted}");
}

#[test]
fn every_class_has_its_share_and_its_samples_a_day() {
    let fleet = fleet(10_000, 1.0);
    for class in &CLASSES {
        let mut users = (0..fleet.users).filter(|user| fleet.class_of(*user).name == class.name);
        let user = users.next().expect("a user of each class");
        let share = (1 + users.count()) as f64 / fleet.users as f64 * 100.0;
        assert_near(share, class.percent as f64, 0.05, class.name);
        let hours = START + 24..START + 24 * 11;
        let delivery = Delivery { user, kind: Kind::Live, hours, at_second: 0 };
        let a_day = fleet.samples(&delivery).count() as f64 / 10.0;
        assert_near(a_day, class.samples_a_day as f64, 0.02, class.name);
    }
    assert_eq!(CLASSES.iter().map(|class| class.percent).sum::<u64>(), 100);
}

#[test]
fn the_twenty_metrics_are_all_measured_and_no_series_by_two_rhythms() {
    let rhythms = || CLASSES.iter().flat_map(|class| class.rhythms);
    let used: BTreeSet<usize> = rhythms().map(|rhythm| rhythm.metric).collect();
    assert_eq!(used.len(), METRICS.len());
    for class in &CLASSES {
        let series = class.rhythms.iter().map(|r| (r.metric, r.device.source, r.device.model));
        assert_eq!(series.collect::<BTreeSet<_>>().len(), class.rhythms.len(), "{}", class.name);
    }
    assert!(rhythms().any(|rhythm| rhythm.when == When::Bursts));
}

#[test]
fn the_morning_peak_is_three_to_four_times_the_mean() {
    let fleet = fleet(3_000, 0.02);
    let mut by_hour = [0_u64; 24];
    for hour in days(2, 3) {
        let live = fleet.deliveries(hour).filter(|delivery| delivery.kind == Kind::Live);
        by_hour[(hour - START) as usize % 24] +=
            live.map(|delivery| fleet.samples(&delivery).count() as u64).sum::<u64>();
    }
    let mean = by_hour.iter().sum::<u64>() as f64 / 24.0;
    let (hour, peak) = by_hour.iter().enumerate().max_by_key(|(_, count)| **count).expect("24 hours");
    let ratio = *peak as f64 / mean;
    assert!((3.0..=4.0).contains(&ratio), "{ratio} at {hour}: {by_hour:?}");
    assert_eq!(hour, 7);
}

#[test]
fn late_resent_and_corrected_samples_have_their_shares() {
    let fleet = fleet(3_000, 0.02);
    // From the 11th day on: what is 7 days late and corrected 3 days later is due by then.
    let counts = counts(&fleet, days(11, 21));
    let first = (counts[&Kind::Live] + counts[&Kind::Late]) as f64;
    assert_near(counts[&Kind::Late] as f64 / first, 0.02, 0.1, "late");
    assert_near(counts[&Kind::Resent] as f64 / first, 0.03, 0.1, "resent");
    assert_near(counts[&Kind::Corrected] as f64 / first, 0.005, 0.15, "corrected");
}

#[test]
fn a_hundredth_joins_each_day_with_30_to_90_days_of_history() {
    let fleet = fleet(2_000, 0.01);
    let all = days(0, 10).flat_map(|hour| fleet.deliveries(hour).collect::<Vec<_>>());
    let backfills: Vec<Delivery> = all.filter(|delivery| delivery.kind == Kind::Backfill).collect();
    assert_eq!(backfills.len(), 200);
    let lengths = backfills.iter().map(|delivery| (delivery.hours.end - delivery.hours.start) / 24);
    let lengths: Vec<u64> = lengths.collect();
    assert!(lengths.iter().all(|length| (30..=90).contains(length)), "{lengths:?}");
    assert_near(lengths.iter().sum::<u64>() as f64 / 200.0, 60.0, 0.08, "mean");
    assert_eq!(fleet.users_at(START + 9 * 24), 2_200);
    let users: BTreeSet<u64> = backfills.iter().map(|delivery| delivery.user).collect();
    assert_eq!(users, (2_000..2_200).collect());
}

#[test]
fn everything_a_person_measured_is_sent_once_before_it_is_repeated() {
    let fleet = fleet(300, 0.05);
    let mut first = BTreeSet::new();
    let mut again = 0;
    for hour in days(0, 12) {
        for delivery in fleet.deliveries(hour) {
            for sample in fleet.samples(&delivery) {
                let key = (
                    sample.user,
                    sample.metric.key,
                    sample.device.source,
                    sample.device.model,
                    sample.second,
                );
                match delivery.kind {
                    Kind::Resent | Kind::Corrected => {
                        again += 1;
                        assert!(first.contains(&key), "{delivery:?} repeats what never came");
                    }
                    _ => assert!(first.insert(key), "{delivery:?} brings {key:?} again"),
                }
            }
        }
    }
    assert!(again > 1_000);
    // Of user 0 nothing of the first days is missing once the late ones came.
    let hours = START..START + 4 * 24;
    let whole = Delivery { user: 0, kind: Kind::Live, hours, at_second: 0 };
    for sample in fleet.samples(&whole) {
        let key = (0, sample.metric.key, sample.device.source, sample.device.model, sample.second);
        assert!(first.contains(&key), "{key:?} never came");
    }
}

#[test]
fn what_is_held_is_what_was_sent_with_the_last_value_of_each_moment() {
    let fleet = fleet(200, 0.05);
    let mut sent: BTreeMap<u64, BTreeMap<(&str, &str, u64), i64>> = BTreeMap::new();
    for hour in days(0, 9) {
        for delivery in fleet.deliveries(hour) {
            for sample in fleet.samples(&delivery).filter(|sample| sample.metric.key == "steps") {
                let key = (sample.device.source, sample.device.model, sample.second);
                sent.entry(sample.user).or_default().insert(key, sample.tenths);
            }
        }
    }
    for (user, samples) in sent {
        let held = &fleet.held(user, 9 * 24)["steps"];
        let mut tally = crate::tally::SeriesTally::default();
        samples.values().for_each(|tenths| tally.add_tenths(*tenths));
        assert_eq!(held.tally, tally);
        let newest = samples.keys().map(|(.., second)| *second).max();
        assert_eq!(Some(held.newest.0), newest);
    }
}

#[test]
fn a_density_thins_every_series_alike_and_no_users() {
    let (whole, thin) = (fleet(500, 1.0), fleet(500, 0.01));
    let count = |fleet: &ReferenceFleet| {
        let delivery = |user| Delivery { user, kind: Kind::Live, hours: START..START + 240, at_second: 0 };
        (0..100).map(|user| fleet.samples(&delivery(user)).count()).collect::<Vec<_>>()
    };
    let (whole, thin) = (count(&whole), count(&thin));
    assert_near(thin.iter().sum::<usize>() as f64, whole.iter().sum::<usize>() as f64 / 100.0, 0.02, "thin");
    assert!(thin.iter().all(|count| *count > 0));
}

#[test]
fn kept_numbers_are_those_at_which_the_density_passes_a_whole_number() {
    for (density, phase) in [(1 << 32, 0), (1 << 31, 5), (123_456_789, 4_000_000_000), (4_294, 99)] {
        let whole = |number: u64| (number * density + phase) >> 32;
        let slow: Vec<u64> = (1_000..200_000).filter(|n| whole(n + 1) > whole(*n)).collect();
        let fast: Vec<u64> = Kept::new(1_000..200_000, density, phase).collect();
        assert_eq!(fast, slow);
    }
}

#[test]
fn values_stay_in_range_and_corrections_change_them() {
    let fleet = fleet(300, 1.0);
    let mut metrics = BTreeSet::new();
    let of_class = |class: &'static Class| {
        (0..fleet.users).filter(|user| fleet.class_of(*user).name == class.name).take(3).collect::<Vec<_>>()
    };
    for user in CLASSES.iter().flat_map(of_class) {
        let delivery = |kind| Delivery { user, kind, hours: START..START + 30, at_second: 0 };
        let whole: BTreeMap<_, _> = fleet
            .samples(&delivery(Kind::Live))
            .map(|s| ((s.metric.key, s.device.model, s.second), s))
            .collect();
        for sample in whole.values() {
            let shape = &sample.metric.shape;
            assert!((shape.low..=shape.high).contains(&sample.tenths), "{sample:?}");
            assert_eq!(sample.tenths % shape.grain, 0);
            metrics.insert(sample.metric.key);
        }
        for sample in fleet.samples(&delivery(Kind::Corrected)) {
            let before = whole[&(sample.metric.key, sample.device.model, sample.second)];
            let shape = &sample.metric.shape;
            assert_ne!(sample.tenths, before.tenths);
            assert!((shape.low..=shape.high).contains(&sample.tenths));
        }
    }
    assert_eq!(metrics.len(), METRICS.len());
}

#[test]
fn people_walk_some_thousand_steps_a_day() {
    let fleet = fleet(300, 1.0);
    for class in &CLASSES[..3] {
        let users: Vec<u64> =
            (0..300).filter(|user| fleet.class_of(*user).name == class.name).take(5).collect();
        let mut tenths = 0;
        for user in &users {
            let hours = START..START + 48;
            let delivery = Delivery { user: *user, kind: Kind::Live, hours, at_second: 0 };
            let devices = class.rhythms.iter().filter(|rhythm| METRICS[rhythm.metric].key == "steps").count();
            let steps = fleet.samples(&delivery).filter(|sample| sample.metric.key == "steps");
            tenths += steps.map(|sample| sample.tenths).sum::<i64>() / devices as i64;
        }
        let a_day = tenths / 10 / 2 / users.len() as i64;
        assert!((2_000..20_000).contains(&a_day), "{}: {a_day}", class.name);
    }
}

#[test]
fn equal_settings_send_equal_bytes_and_another_seed_others() {
    let render = |seed: u64| {
        let settings =
            ReferenceSettings { users: 300, density: 0.05, seed, start_hour: START, prefix: "s".to_owned() };
        let fleet = ReferenceFleet::new(&settings).expect("good settings");
        let mut body = Vec::new();
        for delivery in days(0, 1).flat_map(|hour| fleet.deliveries(hour).collect::<Vec<_>>()) {
            fleet.samples(&delivery).for_each(|sample| push_point(&mut body, &fleet, &sample));
        }
        body
    };
    assert!(render(1) == render(1));
    assert!(render(1) != render(2));
}

#[test]
fn deliveries_of_an_hour_come_in_time_and_each_user_has_one_turn() {
    let fleet = fleet(1_000, 1.0);
    let hour = START + 24 + 7;
    let all: Vec<Delivery> = fleet.deliveries(hour).collect();
    assert!(all.windows(2).all(|pair| pair[0].at_second <= pair[1].at_second));
    assert!(all.iter().all(|delivery| delivery.at_second / 3_600 == hour));
    let live: Vec<u64> = all.iter().filter(|d| d.kind == Kind::Live).map(|d| d.user).collect();
    assert_eq!(live.iter().collect::<BTreeSet<_>>().len(), live.len());
    assert!(live.len() > 700 && live[0].abs_diff(live[1]) > 100);
}

#[test]
fn settings_that_make_no_fleet_are_refused() {
    let good =
        ReferenceSettings { users: 1, density: 1.0, seed: 1, start_hour: START, prefix: "a".to_owned() };
    assert!(ReferenceFleet::new(&good).is_ok());
    for bad in [
        ReferenceSettings { users: 0, ..good.clone() },
        ReferenceSettings { density: 0.0, ..good.clone() },
        ReferenceSettings { density: f64::NAN, ..good.clone() },
        ReferenceSettings { start_hour: 1, ..good.clone() },
        ReferenceSettings { prefix: "a b".to_owned(), ..good.clone() },
    ] {
        assert!(ReferenceFleet::new(&bad).is_err(), "{bad:?}");
    }
}
