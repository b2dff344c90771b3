//! What is committed reaches its subscriber, whatever happens between.

use std::collections::{HashMap, HashSet};
use std::thread;
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::ledger::Random;
use crate::load::Fleet;
use crate::receiver::{Received, Receiver};
use crate::server::{Server, Stopped, announce, systole};

const CYCLES: u64 = 5;
const SEED: u64 = 0x0a0b_0c0d;
const WRITERS: usize = 6;
const KILL_AFTER_MS: std::ops::Range<u64> = 50..900;
/// How long what is left may take to arrive.
const PATIENCE: Duration = Duration::from_secs(60);
/// Nothing more has come for this long, although nothing is left.
const QUIET: Duration = Duration::from_millis(300);

/// A server that may call this machine, with small segments and buffers.
fn subscribed() -> Stopped {
    systole()
        .set("SYSTOLE_DISPATCH_ALLOW_TARGETS", "127.0.0.0/8")
        .set("SYSTOLE_STORAGE_SEGMENT_BYTES", "1 MiB")
        .set("SYSTOLE_STORAGE_FLUSH_BYTES", "256 KiB")
        .set("SYSTOLE_STORAGE_FLUSH_INTERVAL_SECONDS", "0.2")
}

impl Server {
    fn subscribe(&self, wish: &Value) -> String {
        let answer = self.operator().post("/api/v1/webhooks/endpoints", wish.to_string().as_bytes());
        let made: Value = answer.expect(201).json();
        made["id"].as_str().unwrap().to_owned()
    }

    /// Waits until every event was offered and delivered.
    pub(crate) fn await_quiet(&self) {
        let deadline = Instant::now() + PATIENCE;
        let busy = || {
            self.figure("systole_webhook_router_lag")
                + self.figure("systole_webhook_lanes_behind")
                + self.figure("systole_webhook_in_flight")
                + self.figure("systole_webhook_retries_waiting")
        };
        let mut quiet_since = Instant::now();
        while quiet_since.elapsed() < QUIET {
            if busy() > 0.0 {
                quiet_since = Instant::now();
            }
            assert!(Instant::now() < deadline, "deliveries are still under way after {PATIENCE:?}");
            thread::sleep(Duration::from_millis(20));
        }
    }
}

/// (user, series, time) and the value's bits.
type Row = (String, String, String, u64);

/// By (user, series, time) the greatest `ordering` and its value.
type Newest = HashMap<(String, String, String), (u64, f64)>;

/// Every sample that was delivered, and the last value of each by `ordering`.
fn delivered(received: &Received) -> (HashSet<Row>, Newest) {
    let (mut rows, mut last) = (HashSet::new(), HashMap::new());
    for event in received.events() {
        assert_eq!(event.data.sample_count, event.data.samples.len(), "{}", event.name);
        for sample in event.data.samples {
            let key = (event.data.user_id.clone(), event.data.series_type.clone(), sample.timestamp);
            let (user, series, time) = key.clone();
            rows.insert((user, series, time, sample.value.to_bits()));
            let newest = last.entry(key).or_insert((0, 0.0));
            if event.data.ordering > newest.0 {
                *newest = (event.data.ordering, sample.value);
            }
        }
    }
    (rows, last)
}

fn code(metric: &str) -> String {
    // Open Wearables' code of `hrv`.
    if metric == "hrv" { "heart_rate_variability_rmssd".to_owned() } else { metric.to_owned() }
}

fn check(received: &Received, fleet: &Fleet, when: &str) {
    assert_eq!(received.changed, Vec::<String>::new(), "ids that came with other bytes {when}");
    let (rows, last) = delivered(received);
    for ledger in fleet.ledgers() {
        for (user, metric, time, value) in ledger.acknowledged_rows() {
            let row = (user.to_owned(), code(metric), time, value.to_bits());
            assert!(rows.contains(&row), "acknowledged and not delivered {when}: {row:?} = {value}");
        }
        for (user, metric, time, value) in ledger.final_rows() {
            let newest = last.get(&(user.to_owned(), code(metric), time.clone()));
            assert_eq!(newest.map(|newest| newest.1), Some(value), "{user} {metric} {time} {when}");
        }
    }
}

#[test]
fn every_acknowledged_sample_is_delivered_through_kills_at_random_moments() {
    let number = |name: &str, default: u64| std::env::var(name).map_or(default, |text| text.parse().unwrap());
    let (cycles, seed) = (number("SYSTOLE_KILL_CYCLES", CYCLES), number("SYSTOLE_KILL_SEED", SEED));
    let (mut random, mut fleet) = (Random(seed), Fleet::new(WRITERS, seed));
    let receiver = Receiver::start();
    let server = subscribed().start();
    server.subscribe(&serde_json::json!({ "url": receiver.url() }));
    let mut stopped = server.kill();
    for cycle in 1..=cycles {
        let moment = KILL_AFTER_MS.start + random.below(KILL_AFTER_MS.end - KILL_AFTER_MS.start);
        stopped = fleet.load(stopped.start(), |server, signals| {
            thread::sleep(Duration::from_millis(moment));
            signals.expect_cut();
            server.kill()
        });
        if cycle % 3 == 0 {
            stopped.start_and_kill_after(Duration::from_millis(random.below(120)));
        }
        let server = stopped.start();
        fleet.check(&server, &format!("after kill {cycle} at {moment} ms of seed {seed}"));
        server.await_quiet();
        check(&receiver.received(), &fleet, &format!("after kill {cycle} at {moment} ms of seed {seed}"));
        stopped = server.kill();
    }
    let received = receiver.received();
    let counts = fleet.counts();
    assert!(counts.corrections > 0 && received.events().any(|event| event.name.ends_with(".updated")));
    announce(&format!(
        "webhooks: {cycles} kills of seed {seed}, {} events, {} delivered more than once, {counts:?}",
        received.bodies.len(),
        received.repeated,
    ));
}

#[test]
fn a_receiver_that_was_away_gets_everything_when_it_is_back() {
    let receiver = Receiver::start();
    let mut fleet = Fleet::new(2, 7);
    let server = subscribed().start();
    server.subscribe(&serde_json::json!({ "url": receiver.url() }));
    receiver.answer(503);
    let server = fleet.load(server, |server, signals| {
        thread::sleep(Duration::from_millis(500));
        signals.end();
        server
    });
    let server = server.kill().start();
    receiver.answer(200);
    fleet.check(&server, "after a restart");
    server.await_quiet();
    check(&receiver.received(), &fleet, "after the receiver was away");
}

#[test]
fn data_that_is_sent_again_unchanged_notifies_nobody_and_each_correction_once() {
    let receiver = Receiver::start();
    let server = subscribed().start();
    server.subscribe(&serde_json::json!({ "url": receiver.url() }));
    let send = |value: f64| {
        let point = serde_json::json!({"data_points": [{
            "metric": "heart_rate", "value": value, "unit": "bpm", "user_id": "u_1",
            "recorded_at": "2016-01-02T03:04:05Z", "source": "garmin"
        }]});
        server.operator().post("/api/v1/wearables/bulk-ingest", point.to_string().as_bytes()).expect(200);
    };
    let names = || {
        server.await_quiet();
        let mut events: Vec<(u64, String, f64)> = receiver
            .received()
            .events()
            .map(|event| (event.data.ordering, event.name, event.data.samples[0].value))
            .collect();
        events.sort_by_key(|event| event.0);
        events.into_iter().map(|(_, name, value)| (name, value)).collect::<Vec<_>>()
    };
    let created = |value| ("heart_rate.created".to_owned(), value);
    let updated = |value| ("heart_rate.updated".to_owned(), value);
    for value in [60.0, 60.0, 61.0, 61.0, 60.0] {
        send(value);
    }
    assert_eq!(names(), [created(60.0), updated(61.0), updated(60.0)]);
    server.flush();
    send(60.0);
    send(62.0);
    server.flush();
    send(62.0);
    assert_eq!(names(), [created(60.0), updated(61.0), updated(60.0), updated(62.0)]);
    assert_eq!(receiver.received().repeated, 0);
}
