//! Feeds against a server by hand: order, patience, and where they end.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use loadtest::feed::{Body, FeedError, Next, Progress, Source, feed, feed_on};
use serde_json::json;

use crate::server::{Reply, Seen, TestServer};

const TICK: Duration = Duration::from_secs(60);

/// Stages of ten bodies; the path names the stage and the body.
struct Stages {
    stages: u64,
    next: u64,
}

impl Source for Stages {
    fn next(&mut self) -> Next {
        let (stage, place) = (self.next / 11, self.next % 11);
        if stage == self.stages {
            return Next::End;
        }
        self.next += 1;
        if place == 10 { Next::Stage } else { Next::Body(body(stage, place)) }
    }
}

fn body(stage: u64, place: u64) -> Body {
    let path = Arc::from(format!("/{stage}/{place}"));
    Body { path, bytes: Bytes::from_static(b"{\"metric\":1}"), points: 1, due: None }
}

fn paths(server: &TestServer) -> Vec<String> {
    server.seen().into_iter().map(|seen| seen.path).collect()
}

#[tokio::test]
async fn a_stage_begins_when_all_of_the_one_before_is_acknowledged() {
    let refusals = Arc::new(Mutex::new(0));
    let script = move |seen: &Seen| {
        let mut refused = refusals.lock().expect("no panic");
        if seen.path == "/0/4" && *refused < 20 {
            *refused += 1;
            return Reply::json(429, "{}").with_headers("retry-after: 0\r\n");
        }
        Reply::accepted(seen)
    };
    let server = TestServer::start(script).await;
    let source = Stages { stages: 3, next: 0 };
    let report = feed(source, &server.client(), 4, TICK, |_, _| {}).await.expect("all of it");
    assert_eq!((report.fed.bodies, report.fed.points, report.fed.put_off), (30, 30, 20));
    assert_eq!(report.statuses, BTreeMap::from([(200, 30), (429, 20)]));
    let stages: Vec<u8> = paths(&server).iter().map(|path| path.as_bytes()[1]).collect();
    assert!(stages.is_sorted(), "{stages:?}");
}

#[tokio::test]
async fn lost_connections_cost_a_body_nothing() {
    let flaky = |seen: &Seen| match seen.number {
        3 | 9 => Reply::Hangup,
        _ => Reply::accepted(seen),
    };
    let server = TestServer::start(flaky).await;
    let source = Stages { stages: 2, next: 0 };
    let report = feed(source, &server.client(), 3, TICK, |_, _| {}).await.expect("all of it");
    assert_eq!((report.fed.bodies, report.fed.connections_lost), (20, 2));
    let mut acknowledged = paths(&server);
    acknowledged.sort();
    acknowledged.dedup();
    assert_eq!(acknowledged.len(), 20);
}

#[tokio::test]
async fn a_refused_or_half_acknowledged_body_ends_the_feed_and_is_named() {
    let server = TestServer::start(|seen| match seen.path.as_str() {
        "/0/5" => Reply::json(422, r#"{"code":"invalid"}"#),
        _ => Reply::accepted(seen),
    })
    .await;
    let source = Stages { stages: 2, next: 0 };
    let error = feed(source, &server.client(), 2, TICK, |_, _| {}).await.expect_err("a hole");
    assert!(matches!(&error, FeedError::Refused { number: 5, status: 422, .. }), "{error:?}");
    let server = TestServer::start(|_| Reply::json(200, r#"{"accepted":0}"#)).await;
    let source = Stages { stages: 2, next: 0 };
    let error = feed(source, &server.client(), 1, TICK, |_, _| {}).await.expect_err("a hole");
    assert!(matches!(error, FeedError::Acknowledgement { number: 0, points: 1, .. }));
}

#[tokio::test]
async fn a_feed_keeps_how_far_it_came() {
    let path: PathBuf = std::env::temp_dir().join(format!("loadtest-feed-{}.json", std::process::id()));
    let of = json!({ "stages": 2 });
    let server = TestServer::start(Reply::accepted).await;
    let progress = Progress::open(&path, of.clone()).expect("no file yet");
    let source = Stages { stages: 2, next: 0 };
    feed_on(source, progress, &server.client(), 2, TICK, |_, _| {}).await.expect("all of it");
    let again = Progress::open(&path, of).expect("the file");
    assert_eq!(again.bodies_done(), 20);
    std::fs::remove_file(&path).expect("the file is there");
}
