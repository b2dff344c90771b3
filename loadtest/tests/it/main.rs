//! Runs against a server by hand: what is counted, what is reported, what is sent.

mod deliver;
mod delivery;
mod demo;
mod feed;
mod judged;
mod program;
mod receiver;
mod server;
mod systole;
mod webhooks;

use std::collections::BTreeSet;
use std::future::pending;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use loadtest::report::error_chain;
use loadtest::{DriverError, Fleet, FleetSettings, Ledger, Live, Phase, Report, Scenario, Tallies};
use server::{Reply, TestServer};
use tokio::net::TcpListener;
use tokio::time::sleep;

/// Longer than any test may take: runs here end by their batches or signals.
const LONG: Duration = Duration::from_secs(60);
const POINTS: u64 = 20;

/// Three users, 20 points a body, 8 connections, `batches` batches.
fn scenario(batches: u64) -> Scenario {
    let fleet = Fleet::prepare(&FleetSettings {
        users: 3,
        points: POINTS as usize,
        ..FleetSettings::new("it", SystemTime::now())
    });
    Scenario {
        warmup: Duration::ZERO,
        batches_max: Some(batches),
        ..Scenario::new(fleet.expect("good settings"), 8, LONG)
    }
}

async fn run(scenario: Scenario, server: &TestServer) -> Report {
    let live = Arc::new(Live::new());
    let report = loadtest::run(scenario, &server.client(), &live, pending()).await;
    let report = report.expect("the server is there");
    assert_eq!(live.counts().samples_acknowledged, report.samples_acknowledged);
    report
}

#[tokio::test]
async fn every_acknowledged_sample_is_counted_once() {
    let server = TestServer::start(Reply::accepted).await;
    let report = run(scenario(100), &server).await;
    let seen = server.ingests();
    assert_eq!(seen.len(), 100);
    assert_eq!(report.samples_acknowledged, 100 * POINTS);
    assert_eq!(report.samples_measured, 100 * POINTS);
    assert_eq!(report.latency.count, 100);
    assert_eq!(report.requests_sent, 100);
    assert_eq!(report.bytes_sent, seen.iter().map(|s| s.body.len() as u64).sum::<u64>());
    assert_eq!(report.statuses.into_iter().collect::<Vec<_>>(), [(200, 100)]);
    assert_eq!((report.samples_unsure, report.connections_lost), (0, 0));
    assert_eq!(report.first_error, None);
}

#[tokio::test]
async fn every_user_and_moment_sent_is_unique() {
    let server = TestServer::start(Reply::accepted).await;
    run(scenario(500), &server).await;
    let mut moments = BTreeSet::new();
    let mut users = BTreeSet::new();
    for seen in server.ingests() {
        for point in seen.points() {
            let moment = point["recorded_at"].as_str().expect("a time").to_owned();
            assert!(moments.insert((seen.user_id(), moment)));
        }
        users.insert(seen.user_id());
    }
    assert_eq!(moments.len() as u64, 500 * POINTS);
    // 64 windows for 3 users are 192 batches: 500 take three sets of users.
    assert_eq!(users.len(), 9);
}

#[tokio::test]
async fn busy_answers_are_waited_out_and_lose_nothing() {
    let busy = |seen: &server::Seen| match seen.number % 3 {
        0 => Reply::json(429, r#"{"code":"busy"}"#).with_headers("retry-after: 0\r\n"),
        _ => Reply::accepted(seen),
    };
    let server = TestServer::start(busy).await;
    let report = run(scenario(60), &server).await;
    assert_eq!(report.samples_acknowledged, 60 * POINTS);
    assert_eq!(report.samples_unsure, 0);
    assert_eq!(report.statuses[&200], 60);
    assert_eq!(report.statuses[&429] + 60, report.requests_sent);
    assert!(report.statuses[&429] >= 20);
    let first = report.first_error.expect("the first 429");
    assert!(first.contains("429") && first.contains("busy"), "{first}");
}

#[tokio::test]
async fn retry_after_is_honoured_up_to_one_second() {
    let failing = |seen: &server::Seen| match seen.number {
        0 => Reply::json(503, "{}").with_headers("retry-after: 30\r\n"),
        _ => Reply::accepted(seen),
    };
    let server = TestServer::start(failing).await;
    let begin = Instant::now();
    let report = run(scenario(1), &server).await;
    let waited = begin.elapsed();
    assert!((1_000..10_000).contains(&waited.as_millis()), "{waited:?}");
    assert_eq!(report.samples_acknowledged, POINTS);
    assert!(report.latency.max >= 1_000_000, "the wait belongs to the latency");
    let seen = server.ingests();
    assert_eq!((&seen[0].path, &seen[0].body), (&seen[1].path, &seen[1].body));
}

#[tokio::test]
async fn lost_connections_are_counted_reopened_and_their_batch_sent_again() {
    let flaky = |seen: &server::Seen| match seen.number {
        10 | 20 => Reply::Hangup,
        _ => Reply::accepted(seen),
    };
    let server = TestServer::start(flaky).await;
    let report = run(scenario(40), &server).await;
    assert_eq!(report.connections_lost, 2);
    assert_eq!(report.requests_sent, 42);
    assert_eq!(report.samples_acknowledged, 40 * POINTS);
    assert_eq!(report.samples_unsure, 0);
    assert!(report.first_error.expect("the loss").contains("connection"));
}

#[tokio::test]
async fn the_first_error_body_is_reported_and_the_run_goes_on() {
    let picky = |seen: &server::Seen| match seen.number {
        3 => Reply::json(422, r#"{"code":"invalid","detail":"value out of range"}"#),
        _ => Reply::accepted(seen),
    };
    let server = TestServer::start(picky).await;
    let report = run(scenario(40), &server).await;
    assert_eq!(report.samples_acknowledged, 39 * POINTS);
    assert_eq!(report.samples_unsure, 0);
    assert_eq!(report.statuses[&422], 1);
    assert!(report.first_error.expect("the 422").contains("value out of range"));
}

#[tokio::test]
async fn a_wrong_key_ends_the_run_at_once() {
    let server = TestServer::start(|_| Reply::json(401, r#"{"code":"unauthorized"}"#)).await;
    let report = run(Scenario { batches_max: None, ..scenario(0) }, &server).await;
    assert!(report.measured < Duration::from_secs(10));
    assert_eq!(report.statuses[&401], 8);
    assert_eq!((report.samples_acknowledged, report.samples_unsure), (0, 0));
    assert!(!report.is_sound());
}

#[tokio::test]
async fn a_200_that_acknowledges_less_is_a_wrong_answer() {
    let server = TestServer::start(|_| Reply::json(200, r#"{"accepted":19}"#)).await;
    let report = run(scenario(2), &server).await;
    assert_eq!(report.answers_wrong, 2);
    assert_eq!(report.samples_acknowledged, 0);
    assert_eq!(report.samples_unsure, 2 * POINTS);
    assert!(!report.is_sound());
}

#[tokio::test]
async fn a_stop_signal_ends_the_run_and_what_is_in_flight_is_still_counted() {
    let server = TestServer::start(Reply::accepted).await;
    let endless = Scenario { batches_max: None, duration: None, ..scenario(0) };
    let live = Arc::new(Live::new());
    let stop = sleep(Duration::from_millis(100));
    let report = loadtest::run(endless, &server.client(), &live, stop).await;
    let report = report.expect("the server is there");
    assert_eq!(report.samples_acknowledged, server.ingests().len() as u64 * POINTS);
    assert_eq!(report.samples_unsure, 0);
    assert!(report.samples_acknowledged > 0);
}

#[tokio::test]
async fn a_silent_server_is_left_after_the_drain_and_its_samples_stay_unsure() {
    let mute = |seen: &server::Seen| match seen.number {
        0..=9 => Reply::accepted(seen),
        _ => Reply::Silence,
    };
    let server = TestServer::start(mute).await;
    let short = Scenario {
        batches_max: None,
        duration: Some(Duration::from_millis(200)),
        drain: Duration::from_millis(50),
        ..scenario(0)
    };
    let report = run(short, &server).await;
    assert_eq!(report.samples_acknowledged, 10 * POINTS);
    assert_eq!(report.samples_unsure, 8 * POINTS);
}

#[tokio::test]
async fn the_ledger_tells_what_was_acknowledged_from_what_is_in_doubt_or_refused() {
    let script = |seen: &server::Seen| match seen.number {
        4 => Reply::json(422, "{}"),
        5 => Reply::json(500, "{}"),
        _ => Reply::accepted(seen),
    };
    let server = TestServer::start(script).await;
    let ledger = Arc::new(Ledger::new());
    let kept = Scenario { ledger: Some(Arc::clone(&ledger)), ..scenario(20) };
    let fleet = Arc::clone(&kept.fleet);
    let report = run(kept, &server).await;
    let samples = |tallies: Tallies| tallies.values().map(|tally| tally.count).sum::<u64>();
    assert_eq!(samples(ledger.acknowledged(&fleet)), 18 * POINTS);
    assert_eq!(samples(ledger.in_doubt(&fleet)), POINTS);
    assert_eq!((report.samples_acknowledged, report.samples_unsure), (18 * POINTS, POINTS));
}

#[tokio::test]
async fn the_phases_of_a_run_can_be_waited_for() {
    let server = TestServer::start(Reply::accepted).await;
    let live = Arc::new(Live::new());
    let mut phases = live.phases();
    let short = Scenario {
        batches_max: None,
        warmup: Duration::from_millis(20),
        duration: Some(Duration::from_millis(50)),
        ..scenario(0)
    };
    let client = server.client();
    assert_eq!(*phases.borrow(), Phase::Warmup);
    let watching = tokio::spawn(async move {
        let measured = *phases.wait_for(|phase| *phase > Phase::Warmup).await.expect("the run lives");
        let ended = *phases.wait_for(|phase| *phase > Phase::Measured).await.expect("the run lives");
        [measured, ended]
    });
    let report = loadtest::run(short, &client, &live, pending()).await.expect("the server is there");
    assert_eq!(watching.await.expect("no panic"), [Phase::Measured, Phase::Draining]);
    assert_eq!(live.take_latency().count(), report.samples_acknowledged / POINTS);
    assert_eq!(live.take_latency().count(), 0);
}

#[tokio::test]
async fn warmup_is_acknowledged_but_not_measured() {
    let server = TestServer::start(Reply::accepted).await;
    let warm = Scenario {
        batches_max: None,
        warmup: Duration::from_millis(150),
        duration: Some(Duration::from_millis(150)),
        ..scenario(0)
    };
    let report = run(warm, &server).await;
    assert!(report.samples_measured > 0);
    assert!(report.samples_measured < report.samples_acknowledged);
    assert_eq!(report.latency.count * POINTS, report.samples_measured);
}

#[tokio::test]
async fn a_paced_run_offers_its_rate_and_not_more() {
    let server = TestServer::start(Reply::accepted).await;
    let paced = Scenario {
        batches_max: None,
        duration: Some(Duration::from_millis(500)),
        rate_samples_per_second: Some(4_000),
        ..scenario(0)
    };
    let report = run(paced, &server).await;
    let offered = 4_000.0 * report.measured.as_secs_f64();
    let acknowledged = report.samples_acknowledged as f64;
    let slack = (8 * POINTS) as f64;
    assert!(acknowledged <= offered + slack, "{acknowledged} of {offered}");
    assert!(acknowledged >= offered / 2.0, "{acknowledged} of {offered}");
}

#[tokio::test]
async fn a_paced_run_charges_the_time_that_a_batch_was_late() {
    let slow = |seen: &server::Seen| match seen.number {
        0 => Reply::json(429, "{}").with_headers("retry-after: 1\r\n"),
        _ => Reply::accepted(seen),
    };
    let server = TestServer::start(slow).await;
    let paced = Scenario { connections: 1, rate_samples_per_second: Some(200), ..scenario(5) };
    let report = run(paced, &server).await;
    // Due every 100 ms, all behind the first, which took 1 s.
    assert_eq!(report.latency.count, 5);
    assert!(report.latency.p50 >= 700_000, "{:?}", report.latency);
}

#[tokio::test]
async fn probes_ask_about_written_users_and_keep_their_own_figures() {
    let script = |seen: &server::Seen| match seen.is_ingest() {
        true => Reply::accepted(seen),
        false => Reply::json(200, r#"{"latest":{"heart_rate":{"recorded_at":"x"}}}"#),
    };
    let server = TestServer::start(script).await;
    let probed = Scenario {
        batches_max: None,
        duration: Some(Duration::from_millis(200)),
        rate_samples_per_second: Some(2_000),
        probe_interval: Some(Duration::from_millis(5)),
        ..scenario(0)
    };
    let report = run(probed, &server).await;
    let mut written = BTreeSet::new();
    let mut paths = BTreeSet::new();
    for seen in server.seen() {
        if seen.is_ingest() {
            written.insert(seen.user_id());
        } else {
            assert!(written.contains(&seen.user_id()), "{} is not written yet", seen.path);
            paths.insert(seen.path.split("user_id").next().unwrap_or_default().to_owned());
        }
    }
    let asked: Vec<&str> = paths.iter().map(String::as_str).collect();
    let latest = "/api/v1/wearables/latest?";
    assert_eq!(asked, [latest, "/api/v1/wearables/metric/heart_rate?days=7&"]);
    assert_eq!(report.probes.len(), 2);
    for probe in &report.probes {
        assert!(probe.latency.count > 0 && probe.answers_empty == 0, "{probe:?}");
    }
    assert!(report.is_sound());
}

#[tokio::test]
async fn an_acknowledged_user_that_cannot_be_read_is_a_fault() {
    let blind = |seen: &server::Seen| match seen.is_ingest() {
        true => Reply::accepted(seen),
        false => Reply::json(200, r#"{"latest":{}}"#),
    };
    let server = TestServer::start(blind).await;
    let probed = Scenario {
        batches_max: None,
        duration: Some(Duration::from_millis(200)),
        probe_interval: Some(Duration::from_millis(5)),
        ..scenario(0)
    };
    let report = run(probed, &server).await;
    assert!(report.probes[0].answers_empty > 0);
    assert!(report.samples_acknowledged > 0 && !report.is_sound());
}

#[tokio::test]
async fn a_refused_connection_is_an_error_before_anything_is_sent() {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let address = listener.local_addr().expect("a bound address");
    drop(listener);
    let server = loadtest::Server::new(&format!("http://{address}"), &"avk_test".into());
    let server = server.expect("a good address");
    let live = Arc::new(Live::new());
    let error = loadtest::run(scenario(1), &server, &live, pending()).await;
    let error = error.expect_err("nobody listens");
    assert!(matches!(error, DriverError::Open { number: 1, .. }));
    assert!(error_chain(&error).contains(&address.to_string()), "{error:?}");
    assert_eq!(live.counts().requests_sent, 0);
}

#[tokio::test]
async fn scenarios_that_cannot_run_are_refused() {
    let server = TestServer::start(Reply::accepted).await;
    for bad in [
        Scenario { connections: 0, ..scenario(1) },
        Scenario { connections: 10_001, ..scenario(1) },
        Scenario { rate_samples_per_second: Some(0), ..scenario(1) },
        Scenario { probe_interval: Some(Duration::ZERO), ..scenario(1) },
    ] {
        let live = Arc::new(Live::new());
        let refused = loadtest::run(bad, &server.client(), &live, pending()).await;
        assert!(refused.is_err());
    }
    assert!(server.seen().is_empty());
}
