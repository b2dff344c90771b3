//! Messages: events found again, and ids that are taken once.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use systole_engine::Catalog;
use systole_engine::events::webhooks::Targets;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

use crate::fixture::{OPERATOR, TestServer, point, server};

const ENDPOINTS: &str = "/api/v1/webhooks/endpoints";
const MESSAGES: &str = "/api/v1/webhooks/messages";
const EVENTS: &str = "/api/v1/events";

impl TestServer {
    /// Makes an endpoint that is switched off: events are messages, and nothing is sent.
    pub(crate) async fn subscribe(&self, key: &str) {
        let wish = json!({"url": "https://receiver.example.org/hook", "active": false});
        self.post(ENDPOINTS, key, &wish).await.expect(201);
    }

    pub(crate) async fn publish(&self, key: &str, event: &Value) -> String {
        let answer = self.post(EVENTS, key, event).await.expect(202).json();
        answer["id"].as_str().unwrap().to_owned()
    }

    /// All rows of a list, page by page, and how many pages there were.
    pub(crate) async fn listed(&self, parameters: &str, key: &str) -> (Vec<Value>, usize) {
        let (mut rows, mut pages, mut iterator) = (Vec::new(), 0, String::new());
        loop {
            let path = format!("{MESSAGES}?{parameters}{iterator}");
            let page = self.get(&path, key).await.expect(200).json();
            rows.extend(page["data"].as_array().unwrap().iter().cloned());
            pages += 1;
            if page["done"] == json!(true) {
                return (rows, pages);
            }
            iterator = format!("&iterator={}", page["iterator"].as_str().unwrap());
        }
    }

    /// Waits until there are as many messages: those of samples follow within
    /// milliseconds.
    pub(crate) async fn settled(&self, count: usize) -> Vec<Value> {
        let deadline = Instant::now() + Duration::from_secs(30);
        loop {
            let (rows, _) = self.listed("limit=250", OPERATOR).await;
            if rows.len() == count {
                return rows;
            }
            assert!(Instant::now() < deadline, "{} of {count} messages", rows.len());
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    /// Publishes events of 4 KB, and brings everything into files.
    async fn publish_long(&self, count: usize) -> Vec<String> {
        let event = json!({"type": "check_in.created", "data": {"note": "x".repeat(4_000)}});
        let mut made = Vec::new();
        for _ in 0..count {
            made.push(self.publish(OPERATOR, &event).await);
        }
        self.post("/api/v1/admin/flush", OPERATOR, &json!({})).await.expect(200);
        made
    }

    async fn await_dropped(&self, id: &str) {
        let deadline = Instant::now() + Duration::from_secs(60);
        let answer = loop {
            let answer = self.get(&format!("{MESSAGES}/{id}"), OPERATOR).await;
            if answer.status != 200 || Instant::now() > deadline {
                break answer;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        };
        assert_eq!(answer.expect(410).code(), "message_dropped");
    }

    pub(crate) async fn message(&self, id: &str, key: &str) -> Value {
        self.get(&format!("{MESSAGES}/{id}"), key).await.expect(200).json()
    }
}

fn check_in(number: usize) -> Value {
    json!({"type": "check_in.created", "user_id": format!("u_{}", number % 3), "data": {"mood": number}})
}

pub(crate) fn ids(rows: &[Value]) -> Vec<&str> {
    rows.iter().map(|row| row["id"].as_str().unwrap()).collect()
}

#[tokio::test]
async fn events_since_the_first_endpoint_are_listed_newest_first_and_shown_with_their_payload() {
    let server = server().start().await;
    let early = server.publish(OPERATOR, &check_in(0)).await;
    server.bulk(&[point(0, 61.0)]).await.expect(200);
    let listed = server.get(MESSAGES, OPERATOR).await.expect(200).json();
    assert_eq!(listed, json!({"data": [], "iterator": null, "prev_iterator": null, "done": true}));
    server.subscribe(OPERATOR).await;
    let first = server.publish(OPERATOR, &check_in(1)).await;
    server.bulk(&[point(60, 62.0), point(61, 63.0)]).await.expect(200);
    // A correction, which is decided a little later, and nothing new.
    server.bulk(&[point(60, 64.0), point(61, 63.0)]).await.expect(200);
    let event = json!({"type": "BookAppointment", "data": {"at": 7}, "event_id": "book-7"});
    let last = server.publish(OPERATOR, &event).await;
    let rows = server.settled(4).await;
    let types: Vec<&str> = rows.iter().map(|row| row["type"].as_str().unwrap()).collect();
    assert_eq!(types, ["BookAppointment", "heart_rate.updated", "heart_rate.created", "check_in.created"]);
    assert_eq!((ids(&rows)[0], ids(&rows)[3]), (last.as_str(), first.as_str()));
    assert_eq!((&rows[0]["event_id"], &rows[0]["user_id"]), (&json!("book-7"), &Value::Null));
    assert_eq!((&rows[3]["event_id"], &rows[3]["user_id"]), (&Value::Null, &json!("u_1")));

    let shown = server.message(&last, OPERATOR).await;
    assert_eq!(shown["payload"]["data"], json!({"at": 7}));
    assert_eq!(shown["payload"]["timestamp"], shown["created_at"]);
    let corrected = server.message(ids(&rows)[1], OPERATOR).await;
    assert_eq!(corrected["payload"]["type"], json!("heart_rate.updated"));
    let data = &corrected["payload"]["data"];
    assert_eq!((&data["sample_count"], &data["samples"][0]["value"]), (&json!(1), &json!(64.0)));
    let created = server.message(ids(&rows)[2], OPERATOR).await;
    assert_eq!(created["payload"]["data"]["samples"].as_array().unwrap().len(), 2);

    server.get(&format!("{MESSAGES}/{early}"), OPERATOR).await.expect(404);
    for id in ["evt_", "evt_00000000000000000000000000", "message", "%20"] {
        let answer = server.get(&format!("{MESSAGES}/{id}"), OPERATOR).await.expect(404);
        assert_eq!(answer.code(), "unknown_message", "{id}");
    }
    // Ids are lower case.
    for id in [last.to_uppercase(), last.replace("evt_", "EVT_")] {
        for path in [format!("{MESSAGES}/{id}"), format!("{MESSAGES}/{id}/attempts")] {
            assert_eq!(server.get(&path, OPERATOR).await.expect(404).code(), "unknown_message", "{path}");
        }
        let resend = format!("{MESSAGES}/{id}/endpoints/ep_1/resend");
        let answer = server.post(&resend, OPERATOR, &json!({})).await.expect(404);
        assert_eq!(answer.code(), "unknown_message", "{resend}");
    }
    let acme = server.make_key("acme", &json!({"scopes": ["webhooks", "ingest"]})).await.key;
    server.subscribe(&acme).await;
    server.get(&format!("{MESSAGES}/{last}"), &acme).await.expect(404);
    assert_eq!(server.listed("limit=50", &acme).await.0, [Value::Null; 0]);
    server.assert_well("showing messages").await;
}

#[tokio::test]
async fn pages_go_forth_and_back_and_filters_hold_on_each() {
    let server = server().start().await;
    server.subscribe(OPERATOR).await;
    let mut made = Vec::new();
    for number in 0..23 {
        made.push(server.publish(OPERATOR, &check_in(number)).await);
    }
    server.settled(23).await;
    let middle = server.message(&made[11], OPERATOR).await["created_at"].as_str().unwrap().to_owned();
    made.reverse();
    let (rows, pages) = server.listed("limit=5", OPERATOR).await;
    assert_eq!((ids(&rows), pages), (made.iter().map(String::as_str).collect(), 5));
    let (rows, _) = server.listed("limit=4&user_id=u_1", OPERATOR).await;
    assert_eq!(rows.len(), 8);
    assert!(rows.iter().all(|row| row["user_id"] == json!("u_1")));
    let (newer, _) = server.listed(&format!("limit=3&since={middle}"), OPERATOR).await;
    let (older, _) = server.listed(&format!("limit=3&until={middle}"), OPERATOR).await;
    assert_eq!([ids(&newer), ids(&older)].concat(), made);
    assert_eq!(server.listed("event_type=check_in.created", OPERATOR).await.0.len(), 23);
    assert_eq!(server.listed("event_type=heart_rate.created", OPERATOR).await.0.len(), 0);

    let first = server.get(&format!("{MESSAGES}?limit=5"), OPERATOR).await.expect(200).json();
    assert_eq!(first["prev_iterator"], Value::Null);
    let follow = async |page: &Value, field: &str| {
        let path = format!("{MESSAGES}?limit=5&iterator={}", page[field].as_str().unwrap());
        server.get(&path, OPERATOR).await.expect(200).json()
    };
    let second = follow(&first, "iterator").await;
    assert_eq!(follow(&second, "prev_iterator").await["data"], first["data"]);
    // What came meanwhile lies before the first page.
    let late = server.publish(OPERATOR, &check_in(99)).await;
    server.settled(24).await;
    let back = follow(&second, "prev_iterator").await;
    assert_eq!(back["data"], first["data"]);
    let front = follow(&back, "prev_iterator").await;
    assert_eq!(ids(front["data"].as_array().unwrap()), [late.as_str()]);
    assert_eq!(follow(&front, "iterator").await["data"], first["data"]);

    let bound = server.make_key("default", &json!({"scopes": ["webhooks"], "user_id": "u_2"})).await.key;
    let (rows, _) = server.listed("limit=3", &bound).await;
    assert_eq!(rows.len(), 7);
    assert!(rows.iter().all(|row| row["user_id"] == json!("u_2")));
    server.get(&format!("{MESSAGES}?user_id=u_1"), &bound).await.expect(403);
    let (theirs, others) =
        (server.listed("user_id=u_2", OPERATOR).await.0, server.listed("user_id=u_1", OPERATOR).await.0);
    server.message(ids(&theirs)[0], &bound).await;
    server.get(&format!("{MESSAGES}/{}", ids(&others)[0]), &bound).await.expect(404);
    for (parameters, field) in [
        ("event_type=check_in.create", "event_type"),
        ("since=yesterday", "since"),
        ("user_id=a%20b", "user_id"),
        ("limit=251", "limit"),
        ("iterator=itr_0", "iterator"),
    ] {
        let answer = server.get(&format!("{MESSAGES}?{parameters}"), OPERATOR).await.expect(422).json();
        assert_eq!(answer["detail"][0]["loc"], json!(["query", field]), "{answer}");
    }
}

#[tokio::test]
async fn an_event_id_is_stored_once_also_by_many_at_a_time_and_after_a_flush() {
    let server = server().start().await;
    server.subscribe(OPERATOR).await;
    let event = json!({"type": "check_in.created", "data": {"mood": 1}, "event_id": "ci-1"});
    let together = futures_util::future::join_all((0..20).map(|_| server.publish(OPERATOR, &event))).await;
    let first = &together[0];
    assert!(together.iter().all(|id| id == first), "{together:?}");
    server.post("/api/v1/admin/flush", OPERATOR, &json!({})).await.expect(200);
    let other = json!({"type": "check_in.created", "data": {"mood": 2}, "event_id": "ci-1"});
    assert_eq!(server.publish(OPERATOR, &other).await, *first);
    assert_eq!(server.message(first, OPERATOR).await["payload"]["data"], json!({"mood": 1}));
    assert_ne!(
        server.publish(OPERATOR, &json!({"type": "check_in.created", "data": {}, "event_id": "ci-2"})).await,
        *first
    );
    let acme = server.make_key("acme", &json!({"scopes": ["ingest"]})).await.key;
    assert_ne!(server.publish(&acme, &event).await, *first);
    assert_eq!(server.settled(2).await.len(), 2);
    let mut of_users = Vec::new();
    for user in ["u_1", "u_2"] {
        let wish = json!({"scopes": ["ingest"], "user_id": user});
        let bound = server.make_key("default", &wish).await.key;
        let id = server.publish(&bound, &event).await;
        let again = server.make_key("default", &wish).await.key;
        assert_eq!(server.publish(&again, &event).await, id, "another key of {user}");
        assert_ne!(id, *first, "{user} does not meet the organisation's ids");
        of_users.push(id);
    }
    assert_ne!(of_users[0], of_users[1], "users do not meet each other's ids");
    assert_eq!(server.publish(OPERATOR, &event).await, *first);
    for name in ["message.failed", "endpoint.disabled"] {
        let answer =
            server.post(EVENTS, OPERATOR, &json!({"type": name, "data": {}})).await.expect(422).json();
        assert_eq!(answer["detail"][0]["type"], json!("not_publishable"), "{answer}");
    }
    let answer = server.post(EVENTS, OPERATOR, &json!({"type": "checkin.created", "data": {}})).await;
    let answer = answer.expect(422).json();
    assert!(answer.to_string().contains("did you mean check_in.created"), "{answer}");
}

#[tokio::test]
async fn an_erased_message_is_unknown_and_one_past_retention_is_gone_with_the_reason() {
    let server = server()
        .with(|settings| {
            settings.storage.segment_bytes = 64 * 1024;
            settings.dispatch.retention_bytes = Some(256 * 1024);
        })
        .start()
        .await;
    server.subscribe(OPERATOR).await;
    let erased = server.publish(OPERATOR, &check_in(1)).await;
    server.message(&erased, OPERATOR).await;
    let order = server.request("DELETE", "/api/v1/users/u_1").key(OPERATOR).send().await;
    order.expect(202);
    server.get(&format!("{MESSAGES}/{erased}"), OPERATOR).await.expect(404);
    assert_eq!(server.listed("limit=50", OPERATOR).await.0, [Value::Null; 0]);
    let made = server.publish_long(200).await;
    // Segment by segment, the oldest first.
    server.await_dropped(&made[50]).await;
    // The newest stay, and the list ends where they begin.
    server.message(made.last().unwrap(), OPERATOR).await;
    let (rows, _) = server.listed("limit=7", OPERATOR).await;
    assert!((10..150).contains(&rows.len()), "{}", rows.len());
    let newest: Vec<&str> = made.iter().rev().take(rows.len()).map(String::as_str).collect();
    assert_eq!(ids(&rows), newest);
}

#[tokio::test]
async fn attempts_are_listed_of_what_there_is_and_bad_filters_are_named() {
    let server = server().start().await;
    let wish = json!({"url": "https://receiver.example.org/hook", "active": false});
    let made = server.post(ENDPOINTS, OPERATOR, &wish).await.expect(201).json();
    let path = format!("{ENDPOINTS}/{}/attempts", made["id"].as_str().unwrap());
    let none = json!({"data": [], "iterator": null, "prev_iterator": null, "done": true});
    assert_eq!(server.get(&path, OPERATOR).await.expect(200).json(), none);
    let id = server.publish(OPERATOR, &check_in(1)).await;
    let of_message = format!("{MESSAGES}/{id}/attempts?status=failed&event_type=check_in.created");
    assert_eq!(server.get(&of_message, OPERATOR).await.expect(200).json(), none);
    server.get(&format!("{ENDPOINTS}/ep_nobody/attempts"), OPERATOR).await.expect(404);
    for (parameters, field) in
        [("status=pending", "status"), ("event_type=check", "event_type"), ("iterator=itr_1", "iterator")]
    {
        let answer = server.get(&format!("{path}?{parameters}"), OPERATOR).await.expect(422).json();
        assert_eq!(answer["detail"][0]["loc"], json!(["query", field]), "{answer}");
    }
    let bound = server.make_key("default", &json!({"scopes": ["webhooks"], "user_id": "u_2"})).await.key;
    server.get(&path, &bound).await.expect(404);
}

#[tokio::test]
async fn payloads_that_nobody_waits_for_go_once_their_time_is_over() {
    let hours = |hours: usize| {
        server().with(move |settings| {
            settings.storage.segment_bytes = 64 * 1024;
            settings.dispatch.retention_hours = hours;
        })
    };
    let (kept, dropped) = (hours(1).start().await, hours(0).start().await);
    for server in [&kept, &dropped] {
        server.subscribe(OPERATOR).await;
    }
    let (stays, goes) = (kept.publish_long(60).await, dropped.publish_long(60).await);
    dropped.await_dropped(&goes[0]).await;
    for id in &stays {
        kept.message(id, OPERATOR).await;
    }
    assert_eq!(kept.settled(60).await.len(), 60);
}

/// A receiver that answers every request with the status it holds now.
pub(crate) async fn receiver() -> (String, Arc<AtomicU16>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}/hook", listener.local_addr().unwrap());
    let status = Arc::new(AtomicU16::new(500));
    let answers = status.clone();
    tokio::spawn(async move {
        loop {
            let (mut stream, _) = listener.accept().await.unwrap();
            let answers = answers.clone();
            tokio::spawn(async move {
                let (mut request, mut part) = (Vec::new(), [0; 4096]);
                // Bodies are short: what comes in one piece ends with the event's braces,
                // or with those of the last event of a batch.
                while !request.ends_with(b"}}") && !request.ends_with(b"}]}") {
                    match stream.read(&mut part).await {
                        Ok(read) if read > 0 => request.extend_from_slice(&part[..read]),
                        _ => return,
                    }
                }
                let status = answers.load(Ordering::Relaxed);
                let answer = format!(
                    "HTTP/1.1 {status} So\r\ncontent-length: 4\r\nx-why: test\r\nconnection: close\r\n\r\nwhat"
                );
                // Who went away wants no answer.
                let _ = stream.write_all(answer.as_bytes()).await;
            });
        }
    });
    (url, status)
}

impl TestServer {
    /// Waits until as many attempts are listed, and gives them.
    async fn attempts(&self, path: &str, count: usize) -> Vec<Value> {
        let deadline = Instant::now() + Duration::from_secs(30);
        loop {
            let page = self.get(&format!("{path}/attempts"), OPERATOR).await.expect(200).json();
            let rows = page["data"].as_array().unwrap().clone();
            if rows.len() >= count {
                return rows;
            }
            assert!(Instant::now() < deadline, "{} of {count} attempts", rows.len());
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
}

#[tokio::test]
async fn what_failed_is_listed_sent_again_by_hand_and_seen_in_the_figures() {
    let open = Targets::parse(&["127.0.0.0/8".to_owned()]).unwrap();
    let server = server().with(|settings| settings.dispatch.allow_targets = open).start().await;
    let (url, status) = receiver().await;
    let made = server.post(ENDPOINTS, OPERATOR, &json!({"url": url})).await.expect(201).json();
    let endpoint = format!("{ENDPOINTS}/{}", made["id"].as_str().unwrap());
    let id = server.publish(OPERATOR, &check_in(1)).await;
    let failed = server.attempts(&endpoint, 1).await.remove(0);
    assert_eq!(
        (&failed["message_id"], &failed["status"], &failed["status_code"], &failed["trigger"]),
        (&json!(id), &json!("failed"), &json!(500), &json!("scheduled")),
    );
    assert_eq!((&failed["attempt_number"], &failed["response_body"]), (&json!(1), &json!("what")));
    assert_eq!(failed["response_headers"]["x-why"], json!("test"), "{failed}");
    let stats = server.get(&format!("{endpoint}/stats"), OPERATOR).await.expect(200).json();
    assert_eq!(
        (&stats["failed"], &stats["delivered"], &stats["active"]),
        (&json!(1), &json!(0), &json!(true))
    );

    status.store(200, Ordering::Relaxed);
    let message = format!("{MESSAGES}/{id}");
    let resend = format!("{message}/endpoints/{}/resend", made["id"].as_str().unwrap());
    let answer = server.post(&resend, OPERATOR, &json!({})).await.expect(202).json();
    assert_eq!(answer, json!({"id": id}));
    let again = server.attempts(&message, 2).await;
    assert_eq!((&again[0]["status"], &again[0]["trigger"]), (&json!("success"), &json!("manual")));
    assert_eq!(again[1]["id"], failed["id"]);
    let page = server.get(&format!("{message}/attempts?limit=1"), OPERATOR).await.expect(200).json();
    let next = format!("{message}/attempts?limit=1&iterator={}", page["iterator"].as_str().unwrap());
    let next = server.get(&next, OPERATOR).await.expect(200).json();
    assert_eq!((&page["done"], &next["done"], &next["data"][0]), (&json!(false), &json!(true), &failed));
    assert_eq!(page["prev_iterator"], Value::Null);
    let back = format!("{message}/attempts?limit=1&iterator={}", next["prev_iterator"].as_str().unwrap());
    let back = server.get(&back, OPERATOR).await.expect(200).json();
    assert_eq!((&back["data"], &back["prev_iterator"]), (&page["data"], &Value::Null));
    let of_messages = format!("{MESSAGES}?iterator={}", next["prev_iterator"].as_str().unwrap());
    server.get(&of_messages, OPERATOR).await.expect(422);

    let other = json!({"url": url, "filter_types": ["patient.created"]});
    let other = server.post(ENDPOINTS, OPERATOR, &other).await.expect(201).json();
    let to_other = format!("{message}/endpoints/{}/resend", other["id"].as_str().unwrap());
    let refused = server.post(&to_other, OPERATOR, &json!({})).await.expect(422).json();
    assert_eq!(refused["detail"][0]["type"], "unwanted", "it wants other events, and was made later");

    for what in ["recover", "replay-missing"] {
        let path = format!("{endpoint}/{what}");
        let misspelt = json!({"since": "2026-01-01T00:00:00Z", "untill": "2026-01-02T00:00:00Z"});
        let refused = server.post(&path, OPERATOR, &misspelt).await.expect(422).json();
        assert_eq!(refused["detail"][0]["type"], "unknown_field");
        server.post(&path, OPERATOR, &json!({"since": "2026-01-01T00:00:00Z"})).await.expect(202);
        let answer = server.post(&path, OPERATOR, &json!({})).await.expect(422).json();
        assert_eq!(answer["detail"][0]["loc"], json!(["body", "since"]));
    }
    let bound = server.make_key("default", &json!({"scopes": ["webhooks"], "user_id": "u_2"})).await.key;
    server.post(&resend, &bound, &json!({})).await.expect(404);
    server.get(&format!("{endpoint}/stats"), &bound).await.expect(404);
    assert_eq!(
        server.get(&format!("{message}/attempts"), &bound).await.expect(200).json()["data"],
        json!([])
    );
    let misspelt = json!({"event_typ": "check_in.created"});
    let refused = server.post(&format!("{endpoint}/test"), OPERATOR, &misspelt).await.expect(422).json();
    assert_eq!(refused["detail"][0]["type"], "unknown_field");
    let off = json!({"active": false}).to_string();
    server.request("PATCH", &endpoint).key(OPERATOR).body(off).send().await.expect(200);
    assert_eq!(server.post(&resend, OPERATOR, &json!({})).await.expect(409).code(), "endpoint_off");
    for what in ["recover", "replay-missing"] {
        // The second span has nothing in it.
        for since in ["2026-01-01T00:00:00Z", "2999-01-01T00:00:00Z"] {
            let asked = server.post(&format!("{endpoint}/{what}"), OPERATOR, &json!({"since": since})).await;
            assert_eq!(asked.expect(409).code(), "endpoint_off", "{what} since {since}");
        }
    }
}

#[tokio::test]
async fn a_receiver_that_is_gone_is_switched_off_and_that_is_a_message_once() {
    let open = Targets::parse(&["127.0.0.0/8".to_owned()]).unwrap();
    let server = server().with(|settings| settings.dispatch.allow_targets = open).start().await;
    let (url, status) = receiver().await;
    status.store(410, Ordering::Relaxed);
    let made = server.post(ENDPOINTS, OPERATOR, &json!({"url": url})).await.expect(201).json();
    let id = server.publish(OPERATOR, &check_in(1)).await;
    let rows = server.settled(2).await;
    assert_eq!((&rows[0]["type"], &rows[1]["id"]), (&json!("endpoint.disabled"), &json!(id)));
    let message = server.message(rows[0]["id"].as_str().unwrap(), OPERATOR).await;
    let (endpoint, data) = (made["id"].as_str().unwrap(), &message["payload"]["data"]);
    assert_eq!(*data, json!({"endpoint_id": endpoint, "reason": "gone", "failing_since": null}), "{message}");
    let shown = server.get(&format!("{ENDPOINTS}/{endpoint}"), OPERATOR).await.expect(200).json();
    assert_eq!(shown["active"], json!(false));
    // What was published is noted, and so nothing comes after a restart.
    let catalog = Catalog::open(server.data_dir()).unwrap();
    let deadline = Instant::now() + Duration::from_secs(30);
    while !catalog.unannounced_disabled(9).unwrap().is_empty() {
        assert!(Instant::now() < deadline, "it is not noted");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

#[tokio::test]
async fn the_id_of_a_batch_leads_to_the_events_in_it() {
    let open = Targets::parse(&["127.0.0.0/8".to_owned()]).unwrap();
    let server = server().with(|settings| settings.dispatch.allow_targets = open).start().await;
    let (url, _) = receiver().await;
    // What comes faster than it may be sent is ready together.
    let wish = json!({"url": url, "batch_events": 20, "rate_limit_per_second": 1});
    let made = server.post(ENDPOINTS, OPERATOR, &wish).await.expect(201).json();
    for number in 0..12 {
        server.publish(OPERATOR, &check_in(number)).await;
    }
    let endpoint = format!("{ENDPOINTS}/{}", made["id"].as_str().unwrap());
    let rows = server.attempts(&endpoint, 12).await;
    let carried = |row: &&Value| row["delivery_id"] != row["message_id"];
    let batch = rows.iter().find(carried).unwrap()["delivery_id"].as_str().unwrap().to_owned();
    let of_batch = |rows: &[Value]| -> BTreeSet<String> {
        let rows = rows.iter().filter(|row| row["delivery_id"] == json!(batch));
        rows.map(|row| row["message_id"].as_str().unwrap().to_owned()).collect()
    };
    let members = of_batch(&rows);
    assert!(members.len() > 1, "{rows:?}");

    let found = server.attempts(&format!("{MESSAGES}/{batch}"), members.len()).await;
    assert!(found.iter().all(|row| row["delivery_id"] == json!(batch)), "{found:?}");
    assert_eq!(of_batch(&found), members);
    server.post("/api/v1/admin/flush", OPERATOR, &json!({})).await.expect(200);
    let in_files = server.attempts(&format!("{MESSAGES}/{batch}"), members.len()).await;
    assert_eq!(of_batch(&in_files), members);
    let acme = server.make_key("acme", &json!({"scopes": ["webhooks"]})).await.key;
    let theirs = server.get(&format!("{MESSAGES}/{batch}/attempts"), &acme).await.expect(200).json();
    assert_eq!(theirs["data"], json!([]));

    let resend = format!("{MESSAGES}/{batch}/endpoints/{}/resend", made["id"].as_str().unwrap());
    let refusals = [
        server.get(&format!("{MESSAGES}/{batch}"), OPERATOR).await,
        server.post(&resend, OPERATOR, &json!({})).await,
    ];
    for refused in refusals {
        let refused = refused.expect(422).json();
        assert_eq!(refused["detail"][0]["type"], "several_events", "{refused}");
        let message = refused["detail"][0]["msg"].as_str().unwrap();
        assert!(message.contains("/attempts") && message.contains("WHERE delivery_id ="), "{message}");
    }
    for member in &members {
        server.message(member, OPERATOR).await;
    }
}

#[tokio::test]
async fn a_receiver_that_does_not_answer_is_a_connection_in_the_figures() {
    let open = Targets::parse(&["127.0.0.0/8".to_owned()]).unwrap();
    let server = server().with(|settings| settings.dispatch.allow_targets = open).start().await;
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}/hook", listener.local_addr().unwrap());
    server.post(ENDPOINTS, OPERATOR, &json!({"url": url})).await.expect(201);
    server.publish(OPERATOR, &check_in(1)).await;
    let _held = listener.accept().await.unwrap();
    let deadline = Instant::now() + Duration::from_secs(30);
    loop {
        let text = server.request("GET", "/metrics").send().await.expect(200).text();
        let shows = |line: &str| text.lines().any(|found| found == line);
        if shows("systole_webhook_connections_open 1") && shows("systole_webhook_in_flight 1") {
            break;
        }
        assert!(Instant::now() < deadline, "{text}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}
