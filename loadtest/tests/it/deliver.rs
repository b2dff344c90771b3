//! Delivery at full speed, beside dead receivers and under kills, against stand-ins.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use loadtest::deliver::{self, DeliverError, DeliverReport, DeliverSettings, Scenario};
use loadtest::isolate::{IsolateReport, IsolateSettings, isolate};
use loadtest::ledger::{LedgerReport, LedgerSettings, ledger};
use serde_json::Value;

use crate::server::{Reply, TestServer};
use crate::systole::{Flaw, Systole};

const EVENTS: Scenario = Scenario::Events { bytes: 1_000, lines: 1 };
const SERIES: Scenario = Scenario::Series { points: 50 };
const NONE: Duration = Duration::ZERO;

/// A fifth of a second over 4 connections, every signature verified.
fn short(scenario: Scenario) -> DeliverSettings {
    DeliverSettings {
        connections: 4,
        users: 10,
        warmup: NONE,
        duration: Duration::from_millis(200),
        verify_every: 1,
        patience: Duration::from_secs(10),
        ..DeliverSettings::new(scenario, "it")
    }
}

async fn run(settings: &DeliverSettings, systole: &Systole) -> DeliverReport {
    let report = deliver::run(settings, &systole.server.client()).await;
    let report = report.expect("the server is there");
    assert_eq!(systole.endpoints_left(), 0);
    report
}

#[tokio::test(flavor = "multi_thread")]
async fn everything_acknowledged_is_delivered_once_beside_the_limit() {
    for (scenario, samples) in [(EVENTS, 0), (SERIES, 50)] {
        let systole = Systole::start(Flaw::None).await;
        let limit = Some(Duration::from_millis(100));
        let report = run(&DeliverSettings { limit, ..short(scenario) }, &systole).await;
        assert!(report.is_sound(), "{report}");
        let counted = report.counted;
        assert!(report.acknowledged > 20, "{report}");
        assert_eq!((counted.events, counted.samples), (report.acknowledged, report.acknowledged * samples));
        assert_eq!((counted.verified, counted.duplicates, counted.disordered), (counted.requests, 0, 0));
        assert_eq!(report.latency_whole.count, counted.events);
        let limit = report.limit.as_ref().expect("it was asked for");
        assert_eq!(limit.connections, report.receiver_connections);
        assert_eq!((limit.deliveries, limit.counted.refused), (limit.counted.events, 0));
        assert!(limit.bytes > limit.deliveries * 1_000, "the bodies of the run");
        assert!(report.limit_share().is_some_and(|share| share > 0.0));
        let beside = report.limit_beside.as_ref().expect("there is one endpoint");
        assert!(beside.taken_in > 0.0 && beside.limit.is_sound(), "{beside:?}");
        assert!(report.limit_beside_share().is_some_and(|share| share > 0.0));
        let json = report.to_json();
        assert_eq!((&json["sound"], &json["missing"]), (&true.into(), &0.into()));
        assert!(json["latency_us"]["p95"].is_u64());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn broken_promises_are_faults() {
    for (flaw, scenario, told) in [
        (Flaw::EventLost, EVENTS, "fault     1 events acknowledged and not delivered"),
        (Flaw::EventLost, SERIES, "fault     50 samples acknowledged and not delivered"),
        (Flaw::EventsRepeated, EVENTS, "events delivered again"),
        (Flaw::EventsRepeated, SERIES, "events delivered again"),
        (Flaw::SignatureWrong, EVENTS, "fault     1 deliveries whose signature is wrong"),
        (Flaw::EventsSwapped, EVENTS, "events behind a later one of the same user"),
    ] {
        let systole = Systole::start(flaw).await;
        // Only what is lost is waited for to the end.
        let patience =
            if flaw == Flaw::EventLost { Duration::from_millis(500) } else { Duration::from_secs(20) };
        let settings = DeliverSettings { patience, connections: 1, users: 1, ..short(scenario) };
        let report = run(&settings, &systole).await;
        assert!(!report.is_sound(), "{flaw:?}\n{report}");
        assert!(report.to_string().contains(told), "{flaw:?}\n{report}");
        assert_eq!(report.drained.is_none(), flaw == Flaw::EventLost, "{flaw:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn events_of_one_request_are_each_acknowledged_and_delivered_in_order() {
    // Each second request is refused behind its second line, and goes on there.
    for flaw in [Flaw::None, Flaw::LinesPutOff] {
        let systole = Systole::start(flaw).await;
        let scenario = Scenario::Events { bytes: 100, lines: 7 };
        let report = run(&DeliverSettings { users: 3, ..short(scenario) }, &systole).await;
        assert!(report.is_sound(), "{report}");
        assert!(report.acknowledged > 20, "{report}");
        assert_eq!((report.counted.events, report.counted.disordered), (report.acknowledged, 0));
        assert_eq!(report.latency_whole.count, report.counted.events);
        let events = systole.server.seen().into_iter().filter(|seen| seen.path == "/api/v1/events");
        let lines: Vec<usize> = events.map(|seen| seen.body.split(|byte| *byte == b'\n').count()).collect();
        assert!(lines.contains(&7), "{lines:?}");
        assert_eq!(lines.contains(&5), flaw == Flaw::LinesPutOff, "{lines:?}");
        // A request that is put off at the very end stays as it is.
        assert!(flaw != Flaw::None || report.acknowledged == report.statuses[&202_u16] * 7, "{report}");
        assert_eq!(report.to_json()["events_a_request"], 7);
    }
    let systole = Systole::start(Flaw::EventLost).await;
    let scenario = Scenario::Events { bytes: 100, lines: 7 };
    // No more than it delivers, or more than that one is missing at the end.
    let settings = DeliverSettings { patience: Duration::from_secs(3), rate: Some(700), ..short(scenario) };
    let report = run(&settings, &systole).await;
    assert!(report.to_string().contains("fault     1 events acknowledged and not delivered"), "{report}");
}

#[tokio::test(flavor = "multi_thread")]
async fn only_every_nth_signature_is_verified() {
    let systole = Systole::start(Flaw::None).await;
    let report = run(&DeliverSettings { verify_every: 7, ..short(EVENTS) }, &systole).await;
    assert!(report.is_sound(), "{report}");
    assert_eq!(report.counted.verified, report.counted.requests.div_ceil(7));
}

#[tokio::test(flavor = "multi_thread")]
async fn endpoints_share_the_users_by_organisations() {
    let systole = Systole::start(Flaw::None).await;
    let report = run(&DeliverSettings { endpoints: 3, ..short(SERIES) }, &systole).await;
    assert!(report.is_sound(), "{report}");
    assert_eq!(report.counted.events, report.acknowledged, "each event at one endpoint");
    let seen = systole.server.seen();
    let of = |org: &str| seen.iter().filter(|seen| seen.is_ingest() && seen.path.ends_with(org)).count();
    assert!((0..3).all(|org| of(&format!("&org=load-it-{org}")) > 0));
    let keys = seen.iter().filter(|seen| seen.path.starts_with("/api/v1/api-keys"));
    assert_eq!(keys.count(), 6, "made and deleted");
    let several = DeliverSettings { endpoints: 2, ..short(EVENTS) };
    let refused = deliver::run(&several, &systole.server.client()).await;
    assert!(matches!(refused, Err(DeliverError::Endpoints { endpoints: 2 })));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_offered_rate_is_kept_and_judged_by_its_times() {
    let systole = Systole::start(Flaw::None).await;
    let settings = DeliverSettings { rate: Some(100), duration: Duration::from_millis(500), ..short(EVENTS) };
    let report = run(&settings, &systole).await;
    assert!(report.is_sound(), "{report}");
    assert!((40..=60).contains(&report.acknowledged), "{report}");
    assert!(report.to_string().contains("p99; wanted < 50.00 ms"), "{report}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_refuses_events_is_a_fault() {
    let server = TestServer::start(|seen| match seen.path.as_str() {
        "/api/v1/events" => Reply::json(422, r#"{"code":"not_publishable"}"#),
        path if path.ends_with("/endpoints") => Reply::json(201, r#"{"id":"ep_1"}"#),
        _ => Reply::json(204, ""),
    })
    .await;
    let settings = DeliverSettings { duration: Duration::from_millis(50), patience: NONE, ..short(EVENTS) };
    let report = deliver::run(&settings, &server.client()).await.expect("it begins");
    assert!(!report.is_sound() && report.to_string().contains("not_publishable"), "{report}");
}

#[tokio::test(flavor = "multi_thread")]
async fn living_receivers_are_timed_with_and_without_dead_ones() {
    let systole = Systole::start(Flaw::None).await;
    let report = isolated(&systole).await;
    assert!(report.is_sound(), "{report}");
    assert_eq!((report.endpoints, report.dead), (20, 10));
    assert!(report.ratio().is_some() && report.dead_attempts > 0, "{report}");
    assert_eq!(systole.endpoints_left(), 0);
    let living = report.alive.latency.count + report.with_dead.latency.count;
    assert!(living < report.counted.events, "those that die are received and not timed");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_event_that_a_living_receiver_misses_is_a_fault() {
    // The seventh event is user 6's, who stays alive.
    let report = isolated(&Systole::start(Flaw::EventLost).await).await;
    assert!(!report.is_sound(), "{report}");
    assert!(report.to_string().contains("1 events to the living acknowledged and not delivered"), "{report}");
}

async fn isolated(systole: &Systole) -> IsolateReport {
    let settings = IsolateSettings {
        endpoints: 20,
        kinds: "refused=1,redirecting=1,resetting=1,failing=1".parse().expect("kinds"),
        rate: 200,
        connections: 1,
        settle: Duration::from_millis(100),
        duration: Duration::from_millis(300),
        patience: Duration::from_millis(500),
        pid: Some(std::process::id()),
        ..IsolateSettings::new("it")
    };
    let report = isolate(&settings, &systole.server.client(), |_, _| {}).await.expect("the server is there");
    assert!(report.memory_made.is_some() && report.with_dead.memory_most.is_some());
    report
}

/// A server in Python that keeps everything in one log, as a program.
fn python_server(folder: &Path) -> PathBuf {
    fs::create_dir_all(folder).expect("a folder");
    let path = folder.join("server.py");
    fs::write(&path, include_str!("ledger_server.py")).expect("a file");
    fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).expect("it is ours");
    path
}

async fn killed(name: &str, flaw: &str) -> LedgerReport {
    let folder = std::env::temp_dir().join(format!("loadtest-{name}-{}", std::process::id()));
    let mut settings = LedgerSettings {
        kills: 3,
        writers: 2,
        fail_every: 20,
        patience: Duration::from_secs(5),
        ..LedgerSettings::new(python_server(&folder), folder.clone())
    };
    settings.settings.push(("SYSTOLE_FLAW".to_owned(), flaw.to_owned()));
    let report = ledger(&settings, |_, _, _| {}).await.expect("it runs");
    fs::remove_dir_all(&folder).expect("it is ours");
    report
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_keeps_its_log_loses_nothing_under_kills() {
    let report = killed("ledger", "none").await;
    assert!(report.is_sound(), "{report}");
    assert_eq!((report.kills, report.recoveries_killed), (3, 1));
    assert!(report.events > 0 && report.samples > 0 && report.received.failed > 0, "{report}");
    assert!(report.received.ids > report.events, "events, and samples' events");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_killed_server_breaks_is_named() {
    for (flaw, told) in [
        ("lost", "events acknowledged and not delivered"),
        ("doubled", "published events that came under a second id"),
        ("changed", "deliveries of an id with other bytes than before"),
        ("value", "samples with another value than was sent"),
        ("check", "check: a fault"),
    ] {
        let report = killed(&format!("ledger-{flaw}"), flaw).await;
        assert!(!report.is_sound() && report.to_string().contains(told), "{flaw}\n{report}");
        assert_eq!(report.events_missing + report.samples_missing > 0, flaw == "lost", "{flaw}\n{report}");
    }
}

#[test]
fn the_program_says_what_each_command_takes() {
    for (name, flags) in [
        ("deliver", &["--rate", "--limit", "--endpoints", "--lines", "--verify-every", "--against"][..]),
        ("isolate", &["--endpoints", "--kinds", "--pid", "--strict"]),
        ("ledger", &["--kills", "--fail-every", "--set", "--work-dir"]),
    ] {
        let output = Command::new(env!("CARGO_BIN_EXE_loadtest")).args([name, "--help"]).output();
        let text = String::from_utf8(output.expect("the program starts").stdout).expect("text");
        assert!(flags.iter().all(|flag| text.contains(flag)), "{text}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn deliver_writes_its_report_and_compares_it_with_another() {
    let folder = std::env::temp_dir().join(format!("loadtest-deliver-{}", std::process::id()));
    fs::create_dir_all(&folder).expect("a folder");
    let file = folder.join("report.json");
    let systole = Systole::start(Flaw::None).await;
    let run = |more: &[&str]| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_loadtest"));
        command.args(["deliver", "series", "--key", "avk_test", "--connections", "2", "--users", "10"]);
        command.args(["--seconds", "0.2", "--warmup-seconds", "0", "--url", &systole.server.url()]);
        command.args(more).arg("--json").arg(&file);
        command
    };
    let against = ["--against", file.to_str().expect("text")];
    for (prefix, more) in [("first", [].as_slice()), ("second", against.as_slice())] {
        let mut command = run(more);
        // By default it is the second, in which both may begin.
        command.args(["--run-prefix", prefix]);
        let output = tokio::task::spawn_blocking(move || command.output()).await;
        let output = output.expect("no panic").expect("the program starts");
        let text = String::from_utf8_lossy(&output.stdout);
        assert!(output.status.success(), "{text}{}", String::from_utf8_lossy(&output.stderr));
        assert_eq!(text.contains("against   ingest"), !more.is_empty(), "{text}");
        let json: Value = serde_json::from_slice(&fs::read(&file).expect("a report")).expect("JSON");
        assert_eq!(json["sound"], true);
    }
    fs::remove_dir_all(&folder).expect("it is ours");
}
