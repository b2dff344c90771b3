//! The receiver over a socket: what it takes, refuses, remembers, and how it fails.

use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use hyper::header::HeaderValue;
use hyper::{HeaderMap, StatusCode};
use loadtest::signature::TIMESTAMP_TOLERANCE;
use loadtest::{
    Answer, Behaviour, ClientError, Connection, Detail, Dialect, Key, Receiver, ReceiverCounts,
    ReceiverSettings, Secret, Server,
};
use tokio::io::AsyncReadExt;
use tokio::time::timeout;

const SECRET: &str = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";
const PATH: &str = "/hook";

/// A receiver that expects `SECRET` at `PATH`, and a sender that holds it.
struct Pair {
    receiver: Receiver,
    connection: Connection,
    key: Key,
}

impl Pair {
    async fn start() -> Self {
        Self::with(&ReceiverSettings::default(), Dialect::Standard).await
    }

    async fn with(settings: &ReceiverSettings, dialect: Dialect) -> Self {
        let receiver = Receiver::start(settings).expect("a free port");
        let secret = Secret::new(SECRET);
        receiver.expect(PATH, dialect, &secret).expect("a good secret");
        let connection = connect(&receiver).await;
        Self { receiver, connection, key: Key::prepare(dialect, &secret).expect("a good secret") }
    }

    async fn post(&mut self, id: &str, body: &str) -> Result<Answer, ClientError> {
        let headers = self.key.sign(id, body.as_bytes(), SystemTime::now());
        self.post_with(PATH, headers, body).await
    }

    async fn post_with(&mut self, path: &str, headers: HeaderMap, body: &str) -> Result<Answer, ClientError> {
        let body = Bytes::from(body.to_owned());
        self.connection.post_with(path, headers, body).await
    }

    async fn status(&mut self, id: &str, body: &str) -> u16 {
        self.post(id, body).await.expect("an answer").status.as_u16()
    }

    fn counts(&self) -> ReceiverCounts {
        self.receiver.live().counts()
    }
}

async fn connect(receiver: &Receiver) -> Connection {
    let server = Server::without_key(&receiver.url()).expect("a good address");
    server.connect().await.expect("the receiver listens")
}

/// An event as the server writes it.
fn event(user_id: &str, values: &[f64], ordering: u64) -> String {
    let sample = |value| {
        format!(
            r#"{{"timestamp":"2026-06-30T07:45:00Z","value":{value:?},"source":{{"provider":"garmin"}}}}"#
        )
    };
    let samples: Vec<String> = values.iter().map(sample).collect();
    format!(
        r#"{{"type":"heart_rate.created","timestamp":"2026-06-30T07:45:01.123Z","data":{{"user_id":"{user_id}","provider":"garmin","series_type":"heart_rate","sample_count":{},"ordering":{ordering},"samples":[{}]}}}}"#,
        values.len(),
        samples.join(",")
    )
}

#[tokio::test]
async fn verified_events_are_taken_and_their_samples_counted() {
    let mut pair = Pair::start().await;
    for (id, values) in [("evt_1", &[62.0, 63.0][..]), ("evt_2", &[64.0])] {
        assert_eq!(pair.status(id, &event("u_1", values, 1)).await, 200);
    }
    let counts = pair.counts();
    assert_eq!((counts.requests, counts.verified, counts.events, counts.samples), (2, 2, 2, 3));
    assert_eq!((counts.refused(), counts.duplicates, counts.unnamed), (0, 0, 0));
}

#[tokio::test]
async fn each_reason_of_a_refusal_is_counted_apart_and_takes_nothing() {
    let mut pair = Pair::start().await;
    let body = event("u_1", &[62.0], 1);
    let now = SystemTime::now();
    let old = now - TIMESTAMP_TOLERANCE - Duration::from_secs(5);
    let good = pair.key.sign("evt_1", body.as_bytes(), now);
    let mut bare = good.clone();
    bare.remove("webhook-timestamp");
    for (path, headers, body) in [
        (PATH, good.clone(), body.replace("62.0", "63.0")),
        (PATH, pair.key.sign("evt_1", body.as_bytes(), old), body.clone()),
        (PATH, bare, body.clone()),
        ("/nobody", good, body.clone()),
    ] {
        let answer = pair.post_with(path, headers, &body).await.expect("an answer");
        assert_eq!(answer.status, StatusCode::UNAUTHORIZED);
    }
    let counts = pair.counts();
    let refused =
        [counts.refused_signature, counts.refused_stale, counts.refused_header, counts.refused_path];
    assert_eq!(refused, [1; 4]);
    assert_eq!((counts.refused(), counts.verified, counts.events, counts.samples), (4, 0, 0, 0));
}

#[tokio::test]
async fn a_path_takes_events_from_the_moment_its_secret_is_known() {
    let receiver = Receiver::start(&ReceiverSettings::default()).expect("a free port");
    let connection = connect(&receiver).await;
    let key = Key::prepare(Dialect::Standard, &SECRET.into()).expect("a good secret");
    let mut pair = Pair { receiver, connection, key };
    assert_eq!(pair.status("evt_1", "{}").await, 401);
    pair.receiver.expect(PATH, Dialect::Standard, &SECRET.into()).expect("a good secret");
    assert_eq!(pair.status("evt_1", "{}").await, 200);
    let counts = pair.counts();
    assert_eq!((counts.refused_path, counts.events), (1, 1));
}

#[tokio::test]
async fn an_event_taken_twice_is_a_duplicate_and_its_samples_count_once() {
    let mut pair = Pair::start().await;
    let body = event("u_1", &[62.0, 63.0], 1);
    for _ in 0..3 {
        assert_eq!(pair.status("evt_1", &body).await, 200);
    }
    let counts = pair.counts();
    assert_eq!((counts.events, counts.duplicates), (1, 2));
    assert_eq!((counts.samples, counts.samples_duplicate), (2, 4));
    assert_eq!(counts.bodies_changed, 0);
    pair.status("evt_1", &event("u_1", &[70.0], 1)).await;
    assert_eq!(pair.counts().bodies_changed, 1);
}

#[tokio::test]
async fn one_event_is_taken_once_on_each_path() {
    let mut pair = Pair::start().await;
    pair.receiver.expect("/other", Dialect::Standard, &SECRET.into()).expect("a good secret");
    let body = event("u_1", &[62.0], 1);
    let headers = pair.key.sign("evt_1", body.as_bytes(), SystemTime::now());
    for path in [PATH, "/other"] {
        pair.post_with(path, headers.clone(), &body).await.expect("an answer");
    }
    let counts = pair.counts();
    assert_eq!((counts.events, counts.samples, counts.duplicates), (2, 2, 0));
}

#[tokio::test]
async fn attempts_that_fail_take_nothing_and_the_retry_is_compared_with_them() {
    let mut pair = Pair::start().await;
    let status = StatusCode::INTERNAL_SERVER_ERROR;
    pair.receiver.behave(PATH, Behaviour::FailFirst { requests: 2, status });
    let body = event("u_1", &[62.0], 1);
    assert_eq!(pair.status("evt_1", &body).await, 500);
    assert_eq!(pair.status("evt_2", &body).await, 500);
    assert_eq!(pair.status("evt_1", &body).await, 200);
    assert_eq!(pair.status("evt_2", &event("u_2", &[62.0], 1)).await, 200);
    let counts = pair.counts();
    assert_eq!((counts.verified, counts.turned_away, counts.events, counts.duplicates), (4, 2, 2, 0));
    assert_eq!((counts.samples, counts.bodies_changed), (2, 1));
}

#[tokio::test]
async fn ids_beyond_the_maximum_are_counted_as_not_remembered() {
    let settings = ReceiverSettings { remember_ids: 1, ..ReceiverSettings::default() };
    let mut pair = Pair::with(&settings, Dialect::Standard).await;
    for id in ["evt_1", "evt_2", "evt_2", "evt_1"] {
        pair.status(id, "{}").await;
    }
    let counts = pair.counts();
    assert_eq!((counts.events, counts.events_unkept, counts.duplicates), (3, 2, 1));
}

#[tokio::test]
async fn avycenna_events_are_known_by_the_id_inside_their_signed_body() {
    let mut pair = Pair::with(&ReceiverSettings::default(), Dialect::Avycenna).await;
    let first = r#"{"event":"a","event_id":"evt_1","timestamp":"t","data":{}}"#;
    let second = first.replace("evt_1", "evt_2");
    for body in [first, &second, first] {
        assert_eq!(pair.status("header", body).await, 200);
    }
    assert_eq!(pair.status("header", "{}").await, 200);
    let counts = pair.counts();
    assert_eq!((counts.events, counts.duplicates, counts.unnamed), (3, 1, 1));
}

#[tokio::test]
async fn full_detail_tallies_series_and_checks_sample_counts() {
    let settings = ReceiverSettings { detail: Detail::Full, ..ReceiverSettings::default() };
    let mut pair = Pair::with(&settings, Dialect::Standard).await;
    pair.status("evt_1", &event("u_1", &[62.0, 63.5], 1)).await;
    pair.status("evt_2", &event("u_1", &[1.0], 2).replace("\"sample_count\":1", "\"sample_count\":9")).await;
    pair.status("evt_2", &event("u_1", &[5.0], 2)).await;
    pair.status("evt_3", "no json").await;
    let counts = pair.counts();
    assert_eq!((counts.samples, counts.sample_counts_wrong, counts.unreadable), (3, 1, 1));
    let tallies = pair.receiver.live().tallies(PATH);
    let kept: Vec<_> = tallies.iter().map(|(name, tally)| (name.metric.as_str(), *tally)).collect();
    assert_eq!(kept.len(), 1);
    assert_eq!((kept[0].0, kept[0].1.count, kept[0].1.sum_millionths), ("heart_rate", 3, 126_500_000));
}

#[tokio::test]
async fn latency_is_from_the_ordering_to_the_receipt() {
    let settings = ReceiverSettings { latency: true, ..ReceiverSettings::default() };
    let mut pair = Pair::with(&settings, Dialect::Standard).await;
    let commit = SystemTime::now() - Duration::from_secs(2);
    let micros = commit.duration_since(UNIX_EPOCH).expect("after 1970").as_micros() as u64;
    pair.status("evt_1", &event("u_1", &[62.0], micros)).await;
    pair.status("evt_1", &event("u_1", &[62.0], micros)).await;
    let live = pair.receiver.live();
    assert_eq!(live.latency().count(), 1, "a duplicate is not timed");
    assert!((2_000_000..10_000_000).contains(&live.latency().max()));
    assert_eq!((live.take_latency().count(), live.take_latency().count()), (1, 0));
}

#[tokio::test]
async fn every_fault_answers_as_it_says() {
    let mut pair = Pair::start().await;
    for (behaviour, status) in [
        (Behaviour::Status(StatusCode::INTERNAL_SERVER_ERROR), 500),
        (Behaviour::Redirect { location: HeaderValue::from_static("http://127.0.0.1:1/") }, 302),
        (Behaviour::Gone, 410),
        (Behaviour::Busy { retry_after_seconds: 7 }, 429),
        (Behaviour::Huge { bytes: 3_000_000 }, 200),
        (Behaviour::Status(StatusCode::NO_CONTENT), 204),
        (Behaviour::Accept, 200),
    ] {
        pair.receiver.behave(PATH, behaviour.clone());
        let answer = pair.post("evt_1", "{}").await.expect("an answer");
        assert_eq!(answer.status.as_u16(), status, "{behaviour:?}");
        let retry_after = (status == 429).then_some(Duration::from_secs(7));
        assert_eq!(answer.retry_after, retry_after, "{behaviour:?}");
        let bytes = if matches!(behaviour, Behaviour::Huge { .. }) { 3_000_000 } else { 0 };
        assert_eq!(answer.body.len(), bytes, "{behaviour:?}");
    }
    assert_eq!(pair.counts().turned_away, 4);
}

#[tokio::test]
async fn slow_answers_are_slow_and_their_event_is_taken_before() {
    let mut pair = Pair::start().await;
    let pause = Duration::from_millis(20);
    for behaviour in [Behaviour::Sleep(pause * 5), Behaviour::Drip { pause, bytes: 6 }] {
        pair.receiver.behave(PATH, behaviour.clone());
        let begin = Instant::now();
        assert_eq!(pair.status("evt_1", "{}").await, 200);
        assert!(begin.elapsed() >= pause * 5, "{behaviour:?} took {:?}", begin.elapsed());
    }
    pair.receiver.behave(PATH, Behaviour::Sleep(Duration::from_secs(60)));
    let patience = Duration::from_millis(200);
    assert!(timeout(patience, pair.status("evt_2", "{}")).await.is_err());
    assert_eq!(pair.counts().events, 2);
}

#[tokio::test]
async fn a_reset_is_a_reset_and_no_end() {
    let mut pair = Pair::start().await;
    pair.receiver.behave(PATH, Behaviour::Reset);
    let address = pair.receiver.url().replace("http://", "");
    let lost = pair.post("evt_1", "{}").await.expect_err("no answer");
    assert!(matches!(lost, ClientError::Lost(_)));
    let mut socket = tokio::net::TcpStream::connect(address).await.expect("the receiver listens");
    let request = b"POST /hook HTTP/1.1\r\nhost: x\r\ncontent-length: 2\r\n\r\n{}";
    tokio::io::AsyncWriteExt::write_all(&mut socket, request).await.expect("a fresh socket");
    let ended = socket.read(&mut [0; 16]).await.expect_err("no end, an error");
    assert_eq!(ended.kind(), std::io::ErrorKind::ConnectionReset);
    let counts = pair.counts();
    assert_eq!((counts.turned_away, counts.events, counts.refused_header), (1, 0, 1));
}

#[tokio::test]
async fn a_failing_path_fails_unsigned_requests_too_and_a_good_one_refuses_them() {
    let mut pair = Pair::start().await;
    for (behaviour, status) in [
        (Behaviour::Gone, StatusCode::GONE),
        (Behaviour::Sleep(Duration::ZERO), StatusCode::UNAUTHORIZED),
        (Behaviour::Accept, StatusCode::UNAUTHORIZED),
    ] {
        pair.receiver.behave(PATH, behaviour);
        let answer = pair.post_with(PATH, HeaderMap::new(), "{}").await.expect("an answer");
        assert_eq!(answer.status, status);
    }
    assert_eq!(pair.counts().refused_header, 3);
}

#[tokio::test]
async fn bodies_above_the_maximum_are_refused() {
    let mut pair = Pair::start().await;
    let long = " ".repeat(16 * 1_024 * 1_024 + 1);
    let answer = pair.post("evt_1", &long).await;
    assert!(answer.is_err() || answer.is_ok_and(|a| a.status == StatusCode::PAYLOAD_TOO_LARGE));
    let counts = pair.counts();
    assert_eq!((counts.refused_size, counts.refused(), counts.requests), (1, 1, 0));
}

#[tokio::test]
async fn a_stopped_receiver_is_gone_and_its_counters_stay() {
    let mut pair = Pair::start().await;
    pair.status("evt_1", "{}").await;
    let (live, url) = (pair.receiver.live(), pair.receiver.url());
    // The idle connection ends with it.
    timeout(Duration::from_secs(5), pair.receiver.stop()).await.expect("it stops");
    assert_eq!(live.counts().events, 1);
    let server = Server::without_key(&url).expect("a good address");
    assert!(matches!(server.connect().await, Err(ClientError::Connect { .. })));
    assert!(pair.connection.get("/").await.is_err());
}

#[tokio::test]
async fn an_address_that_is_taken_is_named() {
    let pair = Pair::start().await;
    let listen = pair.receiver.url().replace("http://", "").parse().expect("an address");
    let error = Receiver::start(&ReceiverSettings { listen, ..ReceiverSettings::default() });
    let error = error.expect_err("the port is taken");
    assert!(error.to_string().contains(&listen.to_string()));
}
