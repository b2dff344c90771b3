//! SIGTERM: requests in flight are answered, what was acknowledged is there, exit 0.

use std::thread;
use std::time::{Duration, Instant};

use crate::load::Fleet;
use crate::server::{announce, systole};

const WRITERS: usize = 8;
const SEED: u64 = 0xd7a1;
const LOAD: Duration = Duration::from_millis(600);
/// `http.drain_seconds` of these tests.
const DRAIN_SECONDS: u64 = 10;
/// What the engine may take beside the requests, on a busy machine.
const SLACK: Duration = Duration::from_secs(5);
const PATIENCE: Duration = Duration::from_secs(DRAIN_SECONDS).saturating_add(SLACK);

#[test]
fn sigterm_under_load_exits_0_in_time_and_keeps_what_was_acknowledged() {
    let mut fleet = Fleet::new(WRITERS, SEED);
    let server = systole().set("SYSTOLE_HTTP_DRAIN_SECONDS", DRAIN_SECONDS).start();
    let (status, stopped, took) = fleet.load(server, |server, signals| {
        thread::sleep(LOAD);
        signals.expect_cut();
        let started = Instant::now();
        server.terminate();
        let (status, stopped) = server.wait(PATIENCE);
        (status, stopped, started.elapsed())
    });
    assert_eq!(status.code(), Some(0));
    let server = stopped.start();
    fleet.check(&server, "after a drain");
    let counts = fleet.counts();
    assert!(counts.batches > 0, "{counts:?}");
    assert_eq!(counts.unanswered_stored, 0, "a drain answers what it stores: {counts:?}");
    announce(&format!("drain: exit 0 after {} ms, {counts:?}", took.as_millis()));
}

#[test]
fn a_body_that_is_half_sent_at_sigterm_is_taken_and_answered() {
    let server = systole().set("SYSTOLE_HTTP_DRAIN_SECONDS", DRAIN_SECONDS).start();
    let body = br#"{"metric":"heart_rate","value":61.5,"unit":"bpm","recorded_at":"2016-02-01T00:00:00Z","source":"slow"}"#;
    let mut connection = server.operator().connect().unwrap();
    let head = connection.head("POST", "/api/v1/wearables/ingest?user_id=slow", body.len());
    connection.write(&head).unwrap();
    connection.write(&body[..40]).unwrap();
    thread::sleep(Duration::from_millis(100));
    server.terminate();
    thread::sleep(Duration::from_millis(300));
    assert!(server.operator().connect().is_err(), "a draining server accepts no connection");
    connection.write(&body[40..]).unwrap();
    let answer = connection.read_answer().unwrap().expect(200);
    assert!(answer.closes, "a draining server closes its connections");
    let (status, stopped) = server.wait(PATIENCE);
    assert_eq!(status.code(), Some(0));
    let samples = stopped.start().operator().series("slow", "heart_rate").data_points;
    assert_eq!(samples.iter().map(|sample| sample.value).collect::<Vec<_>>(), [61.5]);
}
