//! Many events in one request, one a line.

use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::client::{Connection, Request};
use crate::fixture::{OPERATOR, TestServer, server};
use crate::messages::ids;

const EVENTS: &str = "/api/v1/events";
const BULK: &str = "/api/v1/wearables/bulk-ingest?user_id=u1";
const MIB: usize = 1024 * 1024;

impl TestServer {
    fn event_lines(&self, key: &str, body: impl Into<Vec<u8>>) -> Request {
        self.request("POST", EVENTS).key(key).header("Content-Type", "application/x-ndjson").body(body)
    }

    async fn budget_used(&self) -> u64 {
        let text = self.request("GET", "/metrics").send().await.expect(200).text();
        let used = text.lines().find_map(|line| line.strip_prefix("systole_body_budget_used_bytes "));
        used.unwrap().parse().unwrap()
    }
}

fn line(number: usize) -> String {
    json!({"type": "check_in.created", "user_id": format!("u_{}", number % 3), "data": {"mood": number}})
        .to_string()
}

/// An event of this length.
fn long(bytes: usize) -> String {
    let event = |note: &str| format!(r#"{{"type":"check_in.created","data":{{"note":"{note}"}}}}"#);
    event(&"x".repeat(bytes - event("").len()))
}

fn made(answer: &Value) -> Vec<&str> {
    answer["ids"].as_array().unwrap().iter().map(|id| id.as_str().unwrap()).collect()
}

fn chunk(text: &str) -> Vec<u8> {
    format!("{:x}\r\n{text}\r\n", text.len()).into_bytes()
}

#[tokio::test]
async fn events_of_many_lines_are_durable_in_the_order_of_their_lines() {
    // With one place in the ring nearly each line waits for room.
    for (ring_slots, count) in [(1024, 700), (1, 60)] {
        let server = server().with(|settings| settings.ingest.ring_slots = ring_slots).start().await;
        server.subscribe(OPERATOR).await;
        let body: String = (0..count).map(|number| line(number) + "\n").collect();
        let whole = server.event_lines(OPERATOR, body.clone()).send().await.expect(202).json();
        let parts = server.event_lines(OPERATOR, body.trim_end()).chunked().send().await.expect(202).json();
        let rows = server.settled(2 * count).await;
        let mut expected = [made(&whole), made(&parts)].concat();
        expected.reverse();
        assert_eq!(ids(&rows), expected, "{ring_slots} places");
        let last = server.message(expected[0], OPERATOR).await;
        assert_eq!(last["payload"]["data"], json!({"mood": count - 1}));
        assert_eq!(server.budget_used().await, 0);
    }
}

#[tokio::test]
async fn a_body_of_more_events_than_one_may_have_is_taken_up_to_there() {
    let server = server().start().await;
    let body = "{\"type\":\"OpenTele\",\"data\":{}}\n".repeat(100_001);
    let answer = server.event_lines(OPERATOR, body).send().await.expect(413).json();
    assert_eq!((&answer["code"], &answer["line"]), (&json!("too_many_lines"), &json!(100_001)));
    assert_eq!((&answer["accepted"], made(&answer).len()), (&json!(100_000), 100_000));
    assert_eq!(server.budget_used().await, 0);
}

#[tokio::test]
async fn the_first_line_that_is_refused_ends_a_body_behind_those_before() {
    let server = server().start().await;
    server.subscribe(OPERATOR).await;
    server.request("DELETE", "/api/v1/users/u_9?block=true").key(OPERATOR).send().await.expect(202);
    let bad = [
        (r#"{"type":"check_in.create","data":{}}"#, 422),
        (r#"{"type":"heart_rate.created","data":{}}"#, 422),
        (r#"{"type":"check_in.created"}"#, 422),
        (r#"{"type":"check_in.created","data":{},"eventId":"1"}"#, 422),
        (r#"{"type":"check_in.created","data":{},"event_id":""}"#, 422),
        ("[]", 422),
        (r#"{"type":"check_in.created","data":{}"#, 400),
        (r#"{"type":"check_in.created","data":{}} {}"#, 400),
        (r#"{"type":"check_in.created","user_id":"u_9","data":{}}"#, 403),
    ];
    for (place, (bad, status)) in bad.into_iter().enumerate() {
        let alone = server.request("POST", EVENTS).key(OPERATOR).body(bad).send().await;
        let alone = alone.expect(status).json();
        let body = format!("{}\n\n{}\r\n{bad}\n{}\n", line(1), line(2), line(3));
        let answer = server.event_lines(OPERATOR, body).send().await.expect(status).json();
        assert_eq!((&answer["code"], &answer["detail"]), (&alone["code"], &alone["detail"]), "{bad}");
        assert_eq!((&answer["accepted"], &answer["line"]), (&json!(2), &json!(4)), "{bad}");
        let rows = server.settled(2 * (place + 1)).await;
        let listed = ids(&rows);
        assert_eq!(made(&answer), [listed[1], listed[0]], "{bad}");
    }
    // Nothing before it.
    let answer = server.event_lines(OPERATOR, "nothing\n").send().await.expect(400).json();
    let taken = (&answer["accepted"], &answer["line"], &answer["ids"]);
    assert_eq!(taken, (&json!(0), &json!(1), &json!([])), "{answer}");
    server.assert_well("bad lines").await;
}

#[tokio::test]
async fn every_line_is_for_the_user_of_a_bound_key() {
    let server = server().start().await;
    server.subscribe(OPERATOR).await;
    let bound = server.make_key("default", &json!({"scopes": ["ingest"], "user_id": "u_1"})).await.key;
    let own = r#"{"type":"check_in.created","data":{}}"#;
    let body = format!("{own}\n{}\n{own}", line(2));
    let answer = server.event_lines(&bound, body).send().await.expect(403).json();
    let taken = (&answer["code"], &answer["accepted"], &answer["line"]);
    assert_eq!(taken, (&json!("other_user"), &json!(1), &json!(2)), "{answer}");
    let rows = server.settled(1).await;
    assert_eq!((ids(&rows), &rows[0]["user_id"]), (made(&answer), &json!("u_1")));
    let reader = server.make_key("default", &json!({"scopes": ["read"]})).await.key;
    let answer = server.event_lines(&reader, own).send().await.expect(403).json();
    assert_eq!((&answer["code"], &answer["line"]), (&json!("scope_missing"), &Value::Null));
}

#[tokio::test]
async fn every_line_that_names_nobody_is_for_the_user_that_the_query_names() {
    let server = server().start().await;
    server.subscribe(OPERATOR).await;
    let nobodys = r#"{"type":"check_in.created","data":{}}"#;
    let send = async |user: &str, body: String| {
        let path = format!("{EVENTS}?user_id={user}");
        let request = server.request("POST", &path).key(OPERATOR);
        request.header("Content-Type", "application/x-ndjson").body(body).send().await
    };
    let answer = send("u_1", format!("{nobodys}\n{}\n{}\n{nobodys}\n", line(1), line(2))).await;
    let answer = answer.expect(422).json();
    let entry = &answer["detail"][0];
    assert_eq!((&entry["loc"], &entry["type"]), (&json!(["body", "user_id"]), &json!("user_mismatch")));
    assert_eq!((&answer["accepted"], &answer["line"]), (&json!(2), &json!(3)), "{answer}");
    let rows = server.settled(2).await;
    assert!(rows.iter().all(|row| row["user_id"] == "u_1"), "{rows:?}");
    // What is wrong with the query is no matter of a line.
    let answer = send("a%20b", nobodys.to_owned()).await.expect(422).json();
    assert_eq!((&answer["detail"][0]["loc"], &answer["line"]), (&json!(["query", "user_id"]), &Value::Null));
}

#[tokio::test]
async fn an_event_id_that_comes_twice_in_one_body_is_one_event() {
    let server = server().start().await;
    server.subscribe(OPERATOR).await;
    let event =
        |id: &str, mood: usize| json!({"type": "check_in.created", "data": {"mood": mood}, "event_id": id});
    let known = server.publish(OPERATOR, &event("ci-0", 0)).await;
    let lines = [("ci-1", 1), ("ci-0", 2), ("ci-1", 3), ("ci-2", 4), ("ci-1", 5)];
    let body = lines.map(|(id, mood)| event(id, mood).to_string()).join("\n");
    let send = |_| {
        let request = server.event_lines(OPERATOR, body.clone());
        async move { request.send().await.expect(202).json() }
    };
    for answer in futures_util::future::join_all((0..4).map(send)).await {
        let made = made(&answer);
        assert_eq!((made[1], made[2], made[4]), (known.as_str(), made[0], made[0]), "{answer}");
        assert_ne!(made[0], made[3]);
    }
    assert_eq!(server.settled(3).await.len(), 3);
}

#[tokio::test]
async fn a_line_is_as_long_as_one_event_may_be_and_no_longer() {
    let server = server().start().await;
    let (longest, endless) = (long(MIB), "x".repeat(MIB + 2));
    for behind in [format!("{}\n{}\n", long(MIB + 1), line(1)), endless.clone(), format!("{endless}\n")] {
        let request = server.event_lines(OPERATOR, format!("\n{longest}\r\n{behind}"));
        for request in [request.clone(), request.chunked()] {
            let answer = request.send().await.expect(413).json();
            let taken = (&answer["code"], &answer["accepted"], &answer["line"]);
            assert_eq!(taken, (&json!("line_too_long"), &json!(1), &json!(3)), "{}", answer["detail"]);
        }
    }
    server.assert_well("long lines").await;
}

#[tokio::test]
async fn a_body_without_an_event_says_so() {
    let server = server().start().await;
    for body in ["", "\n", " \r\n\t\n\n"] {
        for request in [server.event_lines(OPERATOR, body), server.event_lines(OPERATOR, body).chunked()] {
            let answer = request.send().await.expect(422).json();
            assert_eq!(answer["detail"][0]["loc"], json!(["body"]), "{body:?} {answer}");
            assert_eq!(answer["detail"][0]["type"], json!("missing"), "{body:?} {answer}");
        }
    }
}

#[tokio::test]
async fn one_event_alone_comes_under_any_other_content_type_as_before() {
    let server = server().start().await;
    for content_type in [None, Some("application/json"), Some("text/plain"), Some("application/x-ndjsonl")] {
        let send = |body: String| {
            let request = server.request("POST", EVENTS).key(OPERATOR).body(body);
            let request = match content_type {
                Some(content_type) => request.header("Content-Type", content_type),
                None => request,
            };
            async move { request.send().await }
        };
        let answer = send(line(1)).await.expect(202).json();
        assert_eq!(answer, json!({"id": answer["id"]}));
        let answer = send(format!("{}\n{}\n", line(1), line(2))).await.expect(400).json();
        assert_eq!((&answer["code"], &answer["line"]), (&json!("malformed_json"), &Value::Null));
    }
    let request = server.event_lines(OPERATOR, line(1)).header("Content-Encoding", "gzip");
    assert_eq!(request.send().await.expect(415).code(), "unsupported_content_encoding");
}

#[tokio::test]
async fn a_body_may_take_the_whole_budget_and_no_more_than_a_body_may() {
    const BODY_BYTES_MAX: usize = 256 * 1024;
    let setup = server().with(|settings| {
        settings.ingest.body_bytes_max = BODY_BYTES_MAX;
        settings.ingest.inflated_bytes_max = BODY_BYTES_MAX;
        settings.ingest.body_budget_bytes = BODY_BYTES_MAX;
    });
    let server = setup.start().await;
    let mut body = String::new();
    while body.len() + 1_000 < BODY_BYTES_MAX {
        let number = body.len();
        body.push_str(&format!("{}\n{}\n", long(400), line(number)));
    }
    let count = body.lines().count();
    let request = server.event_lines(OPERATOR, body.clone());
    for request in [request.clone(), request.chunked()] {
        assert_eq!(made(&request.send().await.expect(202).json()).len(), count);
        assert_eq!(server.budget_used().await, 0);
    }
    let request = server.event_lines(OPERATOR, body.repeat(2));
    let answer = request.send().await.expect(413).json();
    assert_eq!((&answer["code"], &answer["line"]), (&json!("body_too_large"), &Value::Null));
    let answer = request.chunked().send().await.expect(413).json();
    assert_eq!(answer["code"], json!("body_too_large"));
    let accepted = made(&answer).len();
    assert!(accepted > 0);
    assert_eq!((&answer["accepted"], &answer["line"]), (&json!(accepted), &json!(accepted + 1)));
}

#[tokio::test]
async fn lines_that_came_before_a_client_went_away_are_published_and_hold_nothing() {
    let server = server().start().await;
    server.subscribe(OPERATOR).await;
    let with_id = r#"{"type":"check_in.created","event_id":"ci_1","data":{}}"#;
    let mut publishing = Connection::open(server.address).await;
    let whole = server.event_lines(OPERATOR, "").chunked().bytes();
    publishing.send(&whole[..whole.len() - b"0\r\n\r\n".len()]).await;
    publishing.send(&chunk(&format!("{}\n{with_id}\n{{\"type\":", line(1)))).await;
    let rows = server.settled(2).await;
    drop(publishing);
    let deadline = Instant::now() + Duration::from_secs(30);
    while server.budget_used().await > 0 {
        assert!(Instant::now() < deadline, "the budget is held");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    // Its id is decided.
    let again = server.event_lines(OPERATOR, with_id).send().await.expect(202).json();
    assert_eq!(made(&again), [ids(&rows)[0]]);
}

#[tokio::test]
async fn a_body_that_does_not_go_on_says_what_was_taken_of_it() {
    let setup = server().with(|settings| settings.http.body_timeout = Duration::from_millis(500));
    let server = setup.start().await;
    let mut publishing = Connection::open(server.address).await;
    let whole = server.event_lines(OPERATOR, "").chunked().bytes();
    publishing.send(&whole[..whole.len() - b"0\r\n\r\n".len()]).await;
    publishing.send(&chunk(&format!("{}\n{}\n{{", line(1), line(2)))).await;
    let answer = publishing.answer().await.unwrap().expect(408).json();
    assert_eq!(
        (&answer["code"], &answer["accepted"], &answer["line"]),
        (&json!("body_timeout"), &json!(2), &json!(3))
    );
    assert_eq!(made(&answer).len(), 2);
}

#[tokio::test]
async fn a_spent_budget_is_429_before_the_first_line_and_waited_for_behind_it() {
    let setup = server().with(|settings| {
        settings.ingest.body_bytes_max = MIB;
        settings.ingest.inflated_bytes_max = MIB;
        settings.ingest.body_budget_bytes = MIB;
    });
    let server = setup.start().await;
    server.subscribe(OPERATOR).await;
    let mut publishing = Connection::open(server.address).await;
    let whole = server.event_lines(OPERATOR, "").chunked().bytes();
    let end = b"0\r\n\r\n";
    publishing.send(&whole[..whole.len() - end.len()]).await;
    publishing.send(&chunk(&(line(1) + "\n"))).await;
    server.settled(1).await;

    let mut holding = Connection::open(server.address).await;
    let whole = server.request("POST", BULK).key(OPERATOR).body(vec![b' '; MIB - 2_000]).bytes();
    holding.send(&whole[..whole.len() - 10]).await;
    let deadline = Instant::now() + Duration::from_secs(30);
    while server.budget_used().await < MIB as u64 - 2_000 {
        assert!(Instant::now() < deadline, "the budget is not taken");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    let request = server.event_lines(OPERATOR, long(3_000));
    for request in [request.clone(), request.chunked()] {
        let refused = request.send().await.expect(429);
        assert_eq!((refused.header("retry-after"), refused.code().as_str()), (Some("1"), "budget_spent"));
    }
    publishing.send(&chunk(&(long(3_000) + "\n"))).await;
    publishing.send(end).await;
    let early = tokio::time::timeout(Duration::from_millis(200), publishing.answer()).await;
    assert!(early.is_err(), "it waits");
    holding.send(&whole[whole.len() - 10..]).await;
    holding.answer().await.unwrap().expect(400);
    let answer = publishing.answer().await.unwrap().expect(202).json();
    let rows = server.settled(2).await;
    let listed = ids(&rows);
    assert_eq!(made(&answer), [listed[1], listed[0]]);
}
