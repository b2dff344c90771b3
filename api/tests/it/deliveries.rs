//! Deliveries through a server and its journal to a receiver that keeps what comes.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use serde_json::{Value, json};
use systole_engine::events::webhooks::Targets;
use tokio::net::TcpListener;

use crate::client::Answer;
use crate::fixture::{OPERATOR, Setup, TestServer, point, server};
use crate::messages::ids;
use crate::receiver::{Receiver, eventually};

const ENDPOINTS: &str = "/api/v1/webhooks/endpoints";
const MESSAGES: &str = "/api/v1/webhooks/messages";
const CHECK_IN: &str = "check_in.created";
const PATIENT: &str = "patient.created";
/// Where most endpoints have their deliveries sent.
const HOOK: &str = "/hook";
/// Long events that are more than a forgetful server keeps.
const OUTGROWING: usize = 40;
/// Attempts that fail in a row until an endpoint is paused.
const FAILURES_MAX: usize = 20;

/// A server that may call this machine.
fn calling() -> Setup {
    let open = Targets::parse(&["127.0.0.0/8"]).unwrap();
    server().with(|settings| settings.dispatch.allow_targets = open)
}

/// One that keeps few payloads.
fn forgetful() -> Setup {
    calling().with(|settings| {
        settings.storage.segment_bytes = 64 * 1024;
        settings.dispatch.retention_bytes = Some(256 * 1024);
    })
}

/// An endpoint of a server.
struct Endpoint<'a> {
    server: &'a TestServer,
    id: String,
    path: String,
}

impl<'a> Endpoint<'a> {
    async fn make(server: &'a TestServer, wish: &Value) -> Endpoint<'a> {
        let made = server.post(ENDPOINTS, OPERATOR, wish).await.expect(201).json();
        let id = made["id"].as_str().unwrap().to_owned();
        Endpoint { server, path: format!("{ENDPOINTS}/{id}"), id }
    }

    async fn change(&self, patch: &Value) {
        let request = self.server.request("PATCH", &self.path).key(OPERATOR).body(patch.to_string());
        request.send().await.expect(200);
    }

    async fn switch(&self, active: bool) {
        self.change(&json!({ "active": active })).await;
    }

    async fn ask(&self, what: &str, body: &Value) -> Answer {
        self.server.post(&format!("{}/{what}", self.path), OPERATOR, body).await
    }

    /// Publishes an event that is answered so at [`HOOK`], and waits for the attempt.
    async fn deliver(&self, receiver: &Receiver, event: &Value, status: u16) -> String {
        receiver.answer(HOOK, status);
        let id = self.server.publish(OPERATOR, event).await;
        attempts(self.server, &format!("{MESSAGES}/{id}"), 1).await;
        id
    }

    async fn stats(&self) -> Value {
        self.server.get(&format!("{}/stats", self.path), OPERATOR).await.expect(200).json()
    }

    /// Waits until its stats are as they are to be, and gives them.
    async fn await_stats(&self, is_so: impl Fn(&Value) -> bool) -> Value {
        eventually(async || {
            let stats = self.stats().await;
            if is_so(&stats) { Ok(stats) } else { Err(stats.to_string()) }
        })
        .await
    }

    /// Waits until everything is decided but what waits for a retry.
    async fn await_quiet(&self) -> Value {
        let is_quiet = |stats: &Value| {
            let counts = ["in_flight", "backlogs", "lag_events"];
            counts.iter().all(|count| stats[*count] == 0) && stats["lag_seconds"] == 0.0
        };
        self.await_stats(is_quiet).await
    }

    /// A page of its attempts.
    async fn page(&self, parameters: &str) -> Value {
        let path = format!("{}/attempts?{parameters}", self.path);
        self.server.get(&path, OPERATOR).await.expect(200).json()
    }

    /// The pages of its attempts, newest first, and the same as one finds them going back.
    async fn pages(&self, parameters: &str) -> [Vec<Value>; 2] {
        let mut forth = vec![self.page(parameters).await];
        while let Some(page) = forth.last().filter(|page| page["done"] == false) {
            let iterator = page["iterator"].as_str().unwrap();
            let next = self.page(&format!("{parameters}&iterator={iterator}")).await;
            forth.push(next);
        }
        let mut back = vec![forth[forth.len() - 1].clone()];
        while let Some(iterator) = back[back.len() - 1]["prev_iterator"].as_str() {
            let before = self.page(&format!("{parameters}&iterator={iterator}")).await;
            back.push(before);
        }
        back.reverse();
        [forth, back]
    }
}

/// The newest attempts of an endpoint or a message, once there are as many.
async fn attempts(server: &TestServer, of: &str, count: usize) -> Vec<Value> {
    eventually(async || {
        let page = server.get(&format!("{of}/attempts?limit=250"), OPERATOR).await.expect(200).json();
        let rows = page["data"].as_array().unwrap().clone();
        if rows.len() >= count { Ok(rows) } else { Err(format!("{} of {count} attempts", rows.len())) }
    })
    .await
}

async fn created_at(server: &TestServer, id: &str) -> Value {
    server.message(id, OPERATOR).await["created_at"].clone()
}

/// Waits until the exposition has all these lines, and gives it.
async fn await_metrics(server: &TestServer, lines: &[&str]) -> String {
    eventually(async || {
        let text = server.request("GET", "/metrics").send().await.expect(200).text();
        let missing = lines.iter().find(|line| !text.lines().any(|found| found == **line));
        match missing {
            None => Ok(text),
            Some(missing) => Err(format!("{missing} is not in\n{text}")),
        }
    })
    .await
}

fn event(name: &str, number: usize) -> Value {
    json!({"type": name, "user_id": "u_1", "data": {"number": number}})
}

/// An endpoint that is paused, and the messages that failed. Nothing else waits for it, and
/// their retries come after 30 s.
async fn paused<'a>(
    server: &'a TestServer,
    receiver: &Receiver,
    filter: &[&str],
) -> (Endpoint<'a>, Vec<String>) {
    receiver.answer("/failing", 500);
    let wish = json!({"url": receiver.url("/failing"), "dialect": "avycenna", "filter_types": filter});
    let endpoint = Endpoint::make(server, &wish).await;
    await_metrics(server, &["systole_webhook_lanes_behind 0"]).await;
    let mut failed = Vec::new();
    for number in 0..FAILURES_MAX {
        failed.push(server.publish(OPERATOR, &event(PATIENT, number)).await);
    }
    let all = |stats: &Value| stats["paused"] == true && stats["retries_waiting"] == FAILURES_MAX;
    endpoint.await_stats(all).await;
    (endpoint, failed)
}

/// Publishes more than is kept, and waits until a message is dropped.
async fn outgrow(server: &TestServer, id: &str) {
    let long = json!({"type": CHECK_IN, "data": {"note": "x".repeat(16_000)}});
    for _ in 0..OUTGROWING {
        server.publish(OPERATOR, &long).await;
    }
    server.post("/api/v1/admin/flush", OPERATOR, &json!({})).await.expect(200);
    eventually(async || match server.get(&format!("{MESSAGES}/{id}"), OPERATOR).await {
        answer if answer.status == 410 => Ok(()),
        answer => Err(answer.text()),
    })
    .await;
}

#[tokio::test]
async fn recover_sends_again_what_failed_in_its_span_and_waits_for_no_retry() {
    let (server, receiver) = (calling().start().await, Receiver::start().await);
    // Its first retry comes after 30 s.
    let wish = json!({"url": receiver.url(HOOK), "dialect": "avycenna"});
    let endpoint = Endpoint::make(&server, &wish).await;
    let before = endpoint.deliver(&receiver, &event(CHECK_IN, 0), 500).await;
    let first = endpoint.deliver(&receiver, &event(CHECK_IN, 1), 500).await;
    let taken = endpoint.deliver(&receiver, &event(CHECK_IN, 2), 200).await;
    // Which ends the retries.
    endpoint.switch(false).await;
    server.publish(OPERATOR, &event(CHECK_IN, 3)).await;
    endpoint.switch(true).await;
    // The attempts so far are in files, and the later ones are not.
    server.post("/api/v1/admin/flush", OPERATOR, &json!({})).await.expect(200);
    let second = endpoint.deliver(&receiver, &event(CHECK_IN, 4), 500).await;
    endpoint.switch(false).await;
    endpoint.switch(true).await;
    let waiting = endpoint.deliver(&receiver, &event(CHECK_IN, 5), 500).await;
    let behind = endpoint.deliver(&receiver, &event(CHECK_IN, 6), 500).await;
    receiver.answer(HOOK, 200);
    let mut expected = BTreeMap::from([
        (before.clone(), vec![500]),
        (first.clone(), vec![500]),
        (taken, vec![200]),
        (second.clone(), vec![500]),
        (waiting, vec![500]),
        (behind.clone(), vec![500]),
    ]);
    assert_eq!(receiver.answered(HOOK), expected);

    let (since, until) = (created_at(&server, &first).await, created_at(&server, &behind).await);
    let span = json!({"since": since, "until": until});
    let answer = endpoint.ask("recover", &span).await.expect(202).json();
    assert_eq!(answer, json!({"endpoint_id": endpoint.id, "since": since, "until": until}));
    let stats = endpoint.await_quiet().await;
    assert_eq!(stats["retries_waiting"], 2, "{stats}");
    for id in [&first, &second] {
        expected.insert(id.clone(), vec![500, 200]);
    }
    assert_eq!(receiver.answered(HOOK), expected);
    let came = receiver.came(HOOK);
    let bodies: Vec<&[u8]> =
        came.iter().filter(|delivery| delivery.id == first).map(|delivery| &delivery.body[..]).collect();
    assert_eq!(bodies[0], bodies[1]);
    let rows = attempts(&server, &format!("{MESSAGES}/{first}"), 2).await;
    let shown = |row: &Value| [row["trigger"].clone(), row["status"].clone()];
    assert_eq!([shown(&rows[0]), shown(&rows[1])], [["manual", "success"], ["scheduled", "failed"]]);

    // Up to now if it does not say until when.
    let since = json!({"since": created_at(&server, &before).await});
    let answer = endpoint.ask("recover", &since).await.expect(202).json();
    assert_eq!(answer["until"], Value::Null);
    endpoint.await_quiet().await;
    expected.insert(before, vec![500, 200]);
    assert_eq!(receiver.answered(HOOK), expected);
}

#[tokio::test]
async fn replay_missing_sends_what_came_while_an_endpoint_was_off_and_nothing_twice() {
    let (server, receiver) = (calling().start().await, Receiver::start().await);
    let wish = json!({"url": receiver.url(HOOK), "dialect": "avycenna"});
    let endpoint = Endpoint::make(&server, &wish).await;
    let (mut expected, mut sent) = (BTreeMap::new(), Vec::new());
    for (number, status) in [200, 500, 200].into_iter().enumerate() {
        sent.push(endpoint.deliver(&receiver, &event(CHECK_IN, number), status).await);
        expected.insert(sent[number].clone(), vec![status]);
    }
    endpoint.switch(false).await;
    let mut gap = Vec::new();
    for number in 3..6 {
        gap.push(server.publish(OPERATOR, &event(CHECK_IN, number)).await);
    }
    endpoint.switch(true).await;
    let later = endpoint.deliver(&receiver, &event(CHECK_IN, 6), 200).await;
    expected.insert(later, vec![200]);
    endpoint.await_quiet().await;
    assert_eq!(receiver.answered(HOOK), expected);

    expected.extend(gap.iter().map(|id| (id.clone(), vec![200])));
    let since = json!({"since": created_at(&server, &sent[0]).await});
    for round in ["asked for", "asked for again"] {
        endpoint.ask("replay-missing", &since).await.expect(202);
        endpoint.await_quiet().await;
        assert_eq!(receiver.answered(HOOK), expected, "{round}");
    }
    for id in &gap {
        let rows = attempts(&server, &format!("{MESSAGES}/{id}"), 1).await;
        let triggers: Vec<&Value> = rows.iter().map(|row| &row["trigger"]).collect();
        assert_eq!(triggers, ["manual"], "{id}");
    }
}

#[tokio::test]
async fn what_retention_dropped_is_410_with_the_reason_to_whoever_wants_it_again() {
    let (server, receiver) = (forgetful().start().await, Receiver::start().await);
    let wish = json!({"url": receiver.url(HOOK), "dialect": "avycenna", "filter_types": [PATIENT]});
    let endpoint = Endpoint::make(&server, &wish).await;
    let first = endpoint.deliver(&receiver, &event(PATIENT, 1), 500).await;
    let last = endpoint.deliver(&receiver, &event(PATIENT, 2), 500).await;
    let (since, until) = (created_at(&server, &first).await, created_at(&server, &last).await);
    outgrow(&server, &last).await;

    let resend = |id: &str| format!("{MESSAGES}/{id}/endpoints/{}/resend", endpoint.id);
    let span = json!({"since": since, "until": until});
    for refused in [
        server.post(&resend(&first), OPERATOR, &json!({})).await,
        server.post(&resend(&last), OPERATOR, &json!({})).await,
        endpoint.ask("recover", &span).await,
        endpoint.ask("replay-missing", &span).await,
    ] {
        let refused = refused.expect(410);
        assert_eq!(refused.code(), "message_dropped");
        assert!(refused.text().contains("payloads are kept for a time"), "{}", refused.text());
    }
    // Something of this one is kept.
    endpoint.ask("recover", &json!({ "since": since })).await.expect(202);
    endpoint.await_quiet().await;
    assert_eq!(receiver.answered(HOOK), BTreeMap::from([(first.clone(), vec![500]), (last, vec![500])]));
    // The delivery log knows of it still.
    let rows = attempts(&server, &format!("{MESSAGES}/{first}"), 1).await;
    assert_eq!((rows.len(), &rows[0]["status"]), (1, &json!("failed")));
}

#[tokio::test]
async fn a_thin_body_is_the_full_one_without_its_samples() {
    let (server, receiver) = (calling().start().await, Receiver::start().await);
    for payload in ["full", "thin"] {
        let url = receiver.url(&format!("/{payload}"));
        Endpoint::make(&server, &json!({"url": url, "payload": payload})).await;
    }
    server.bulk(&[point(0, 61.0), point(60, 62.0)]).await.expect(200);
    let full = receiver.await_came("/full", 1).await.remove(0);
    let thin = receiver.await_came("/thin", 1).await.remove(0);
    assert_eq!(thin.id, full.id);
    let mut body = full.json();
    let samples = body["data"].as_object_mut().unwrap().remove("samples").unwrap();
    assert_eq!(samples.as_array().unwrap().len(), 2);
    assert_eq!(body["data"]["sample_count"], 2);
    assert_eq!(thin.json(), body);
}

#[tokio::test]
async fn stats_say_what_became_of_deliveries_and_when() {
    const TIMES: [&str; 3] = ["last_success_at", "last_failure_at", "failing_since"];
    let (server, receiver) = (calling().start().await, Receiver::start().await);
    let wish = json!({"url": receiver.url(HOOK), "dialect": "avycenna"});
    let endpoint = Endpoint::make(&server, &wish).await;
    let figures = |mut stats: Value| {
        for time in TIMES {
            stats.as_object_mut().unwrap().remove(time).unwrap();
        }
        stats
    };
    let expected = |delivered: u64, failed: u64, retries_waiting: u64, active: bool| {
        json!({
            "delivered": delivered, "failed": failed, "given_up": 0, "retries_waiting": retries_waiting,
            "in_flight": 0, "backlogs": 0, "paused": false, "active": active, "lag_events": 0,
            "lag_seconds": 0.0
        })
    };
    let fresh = endpoint.await_quiet().await;
    assert_eq!(TIMES.map(|time| &fresh[time]), [&Value::Null; 3], "{fresh}");
    assert_eq!(figures(fresh), expected(0, 0, 0, true));

    for number in 0..3 {
        endpoint.deliver(&receiver, &event(CHECK_IN, number), 200).await;
    }
    let taken = endpoint.await_quiet().await;
    assert!(taken["last_success_at"].is_string(), "{taken}");
    assert_eq!((&taken["last_failure_at"], &taken["failing_since"]), (&Value::Null, &Value::Null));
    assert_eq!(figures(taken.clone()), expected(3, 0, 0, true));

    endpoint.deliver(&receiver, &event(CHECK_IN, 3), 500).await;
    let failed = endpoint.await_quiet().await;
    assert!(failed["last_failure_at"].is_string(), "{failed}");
    assert_eq!(failed["failing_since"], failed["last_failure_at"]);
    assert_eq!(failed["last_success_at"], taken["last_success_at"]);
    assert_eq!(figures(failed.clone()), expected(3, 1, 1, true));

    // A test is not counted, and says that the receiver answers.
    receiver.answer(HOOK, 200);
    endpoint.ask("test", &json!({})).await.expect(202);
    let tested = endpoint.await_stats(|stats| stats["failing_since"].is_null()).await;
    assert_eq!(tested["last_failure_at"], failed["last_failure_at"]);
    assert_eq!(figures(tested), expected(3, 1, 1, true));
    endpoint.switch(false).await;
    assert_eq!(figures(endpoint.stats().await), expected(3, 1, 0, false));
}

#[tokio::test]
async fn attempts_are_found_by_outcome_type_and_time_and_page_by_page() {
    const STATUSES: [u16; 7] = [200, 500, 200, 200, 500, 200, 500];
    let (server, receiver) = (calling().start().await, Receiver::start().await);
    let wish = json!({"url": receiver.url(HOOK), "dialect": "avycenna"});
    let endpoint = Endpoint::make(&server, &wish).await;
    let (mut made, mut times) = (Vec::new(), Vec::new());
    for (number, status) in STATUSES.into_iter().enumerate() {
        let name = if number % 3 == 0 { PATIENT } else { CHECK_IN };
        let id = endpoint.deliver(&receiver, &event(name, number), status).await;
        let rows = attempts(&server, &format!("{MESSAGES}/{id}"), 1).await;
        times.push(rows[0]["created_at"].as_str().unwrap().to_owned());
        made.push(id);
    }
    // Which ends the retries.
    endpoint.switch(false).await;
    let between = |since: usize, until: usize| format!("since={}&until={}", times[since], times[until]);
    let cases = [
        (String::new(), vec![6, 5, 4, 3, 2, 1, 0]),
        ("status=success".to_owned(), vec![5, 3, 2, 0]),
        ("status=failed".to_owned(), vec![6, 4, 1]),
        (format!("event_type={PATIENT}"), vec![6, 3, 0]),
        (format!("since={}", times[2]), vec![6, 5, 4, 3, 2]),
        (format!("until={}", times[4]), vec![3, 2, 1, 0]),
        (between(2, 5), vec![4, 3, 2]),
        (between(5, 2), vec![]),
        (format!("status=failed&event_type={CHECK_IN}&{}", between(1, 6)), vec![4, 1]),
    ];
    let numbers = |page: &Value| -> Vec<usize> {
        let number = |row: &Value| made.iter().position(|id| row["message_id"] == *id).unwrap();
        page["data"].as_array().unwrap().iter().map(number).collect()
    };
    for round in ["in the journal", "in files"] {
        for (parameters, expected) in &cases {
            for limit in [1, 2, 250] {
                let mut chunks: Vec<Vec<usize>> = expected.chunks(limit).map(<[usize]>::to_vec).collect();
                if chunks.is_empty() {
                    chunks.push(Vec::new());
                }
                for pages in endpoint.pages(&format!("limit={limit}&{parameters}")).await {
                    let found: Vec<Vec<usize>> = pages.iter().map(numbers).collect();
                    assert_eq!(found, chunks, "{parameters}, {limit} a page, {round}");
                }
            }
        }
        server.post("/api/v1/admin/flush", OPERATOR, &json!({})).await.expect(200);
    }
    let of_message = format!("{MESSAGES}/{}/attempts", made[0]);
    for (status, count) in [("success", 1), ("failed", 0)] {
        let path = format!("{of_message}?status={status}");
        let page = server.get(&path, OPERATOR).await.expect(200).json();
        assert_eq!(page["data"].as_array().unwrap().len(), count, "{status}: {page}");
    }
}

#[tokio::test]
async fn an_endpoint_that_is_gone_is_announced_to_who_asked_for_that_and_to_nobody_else() {
    let (server, receiver) = (calling().start().await, Receiver::start().await);
    receiver.answer("/gone", 410);
    let wish = |path: &str, filter: &[&str]| json!({"url": receiver.url(path), "filter_types": filter});
    let gone = Endpoint::make(&server, &wish("/gone", &[CHECK_IN, "endpoint.disabled"])).await;
    Endpoint::make(&server, &wish("/watching", &["endpoint.disabled"])).await;
    let of_user = json!({
        "url": receiver.url("/of_user"), "filter_types": ["endpoint.disabled"], "user_id": "u_1"
    });
    Endpoint::make(&server, &of_user).await;
    let plain = Endpoint::make(&server, &json!({"url": receiver.url("/plain")})).await;
    let first = server.publish(OPERATOR, &event(CHECK_IN, 1)).await;
    let announced = receiver.await_came("/watching", 1).await.remove(0);
    let body = announced.json();
    assert_eq!(body["type"], "endpoint.disabled");
    assert_eq!(body["data"], json!({"endpoint_id": gone.id, "reason": "gone", "failing_since": null}));
    assert_eq!(server.message(&announced.id, OPERATOR).await["payload"], body);

    receiver.answer("/gone", 200);
    gone.switch(true).await;
    let last = server.publish(OPERATOR, &event(CHECK_IN, 2)).await;
    for (endpoint, path) in [(&gone, "/gone"), (&plain, "/plain")] {
        receiver.await_message(path, &last).await;
        endpoint.await_quiet().await;
    }
    let expected = |status: u16| BTreeMap::from([(first.clone(), vec![status]), (last.clone(), vec![200])]);
    assert_eq!(receiver.answered("/gone"), expected(410));
    assert_eq!(receiver.answered("/plain"), expected(200));
    assert_eq!(receiver.answered("/watching"), BTreeMap::from([(announced.id, vec![200])]));
    assert_eq!(receiver.answered("/of_user"), BTreeMap::new());
}

#[tokio::test]
async fn a_delivery_whose_payload_is_gone_is_announced_to_who_asked_for_that_and_to_nobody_else() {
    let (server, receiver) = (forgetful().start().await, Receiver::start().await);
    let (failing, failed) = paused(&server, &receiver, &[PATIENT, "message.failed"]).await;
    outgrow(&server, failed.last().unwrap()).await;
    // What was dropped still lies in memory, until an erasure is carried out.
    server.request("DELETE", "/api/v1/users/u_9").key(OPERATOR).send().await.expect(202);
    server.post("/api/v1/admin/compact", OPERATOR, &json!({})).await.expect(200);
    let wish = json!({"url": receiver.url("/watching"), "filter_types": ["message.failed"]});
    Endpoint::make(&server, &wish).await;
    let plain = Endpoint::make(&server, &json!({"url": receiver.url("/plain")})).await;

    // A paused endpoint tries what is due first at once where its receiver is now.
    failing.change(&json!({"url": receiver.url("/moved")})).await;
    let announced = receiver.await_came("/watching", 1).await.remove(0);
    let body = announced.json();
    assert_eq!(body["type"], "message.failed");
    let expected = json!({
        "endpoint_id": failing.id, "message_id": failed[0], "event_type": null, "message_count": 1,
        "status_code": null, "error": "payload_gone", "attempt_count": 1
    });
    assert_eq!(body["data"], expected);
    let stats = failing.stats().await;
    assert!(stats["given_up"].as_u64() >= Some(1), "{stats}");

    let last = server.publish(OPERATOR, &event(CHECK_IN, 1)).await;
    receiver.await_message("/plain", &last).await;
    plain.await_quiet().await;
    assert_eq!(receiver.answered("/plain"), BTreeMap::from([(last, vec![200])]));
    for path in ["/failing", "/moved"] {
        let others = receiver.answered(path);
        assert!(others.keys().all(|id| failed.contains(id)), "{path}: {others:?}");
    }
}

#[tokio::test]
async fn what_was_dropped_before_it_was_tried_is_announced_and_nothing_else_is_missing() {
    let (server, receiver) = (forgetful().start().await, Receiver::start().await);
    let wish = json!({"url": receiver.url("/watching"), "filter_types": ["message.failed"]});
    Endpoint::make(&server, &wish).await;
    let wish = json!({"url": receiver.url(HOOK), "filter_types": [CHECK_IN], "rate_limit_per_second": 1});
    let slow = Endpoint::make(&server, &wish).await;
    let first = server.publish(OPERATOR, &event(CHECK_IN, 0)).await;
    outgrow(&server, &first).await;
    // What was dropped still lies in memory, until an erasure is carried out.
    server.request("DELETE", "/api/v1/users/u_9").key(OPERATOR).send().await.expect(202);
    server.post("/api/v1/admin/compact", OPERATOR, &json!({})).await.expect(200);
    slow.change(&json!({"rate_limit_per_second": null})).await;

    let announced = eventually(async || {
        let (came, announced) = (receiver.answered(HOOK).len(), receiver.came("/watching"));
        let all = came + announced.len() == 1 + OUTGROWING;
        if all { Ok(announced) } else { Err(format!("{came} came, announced {announced:?}")) }
    })
    .await;
    assert!(!announced.is_empty());
    for delivery in &announced {
        let data = &delivery.json()["data"];
        let expected = json!([slow.id, "payload_gone", 0, 1]);
        let found = ["endpoint_id", "error", "attempt_count", "message_count"].map(|name| data[name].clone());
        assert_eq!(json!(found), expected);
        let id = data["message_id"].as_str().unwrap();
        assert!(!receiver.answered(HOOK).contains_key(id), "{id} was delivered");
    }
    slow.await_stats(|stats| stats["given_up"] == announced.len()).await;
}

#[tokio::test]
async fn two_requests_within_a_window_come_as_one_event_in_the_order_of_their_commits() {
    const COALESCE_MS: u64 = 4_000;
    let (server, receiver) = (calling().start().await, Receiver::start().await);
    let wish = json!({"url": receiver.url(HOOK), "coalesce_ms": COALESCE_MS});
    let endpoint = Endpoint::make(&server, &wish).await;
    // Windows are cut at multiples of their length, so half of one is left for the requests.
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
    let into_ms = u64::try_from(now.as_millis()).unwrap() % COALESCE_MS;
    if into_ms > COALESCE_MS / 2 {
        tokio::time::sleep(Duration::from_millis(COALESCE_MS - into_ms)).await;
    }
    server.bulk(&[point(60, 62.0)]).await.expect(200);
    server.bulk(&[point(0, 61.0)]).await.expect(200);

    let came = receiver.await_came(HOOK, 1).await.remove(0);
    let body = came.json();
    let data = &body["data"];
    let sample = |sample: &Value| [sample["timestamp"].clone(), sample["value"].clone()];
    let samples: Vec<[Value; 2]> = data["samples"].as_array().unwrap().iter().map(sample).collect();
    let (earlier, later) = (json!("2026-01-01T00:00:00Z"), json!("2026-01-01T00:01:00Z"));
    assert_eq!(samples, [[later.clone(), json!(62.0)], [earlier.clone(), json!(61.0)]]);
    assert_eq!((&data["sample_count"], &body["type"]), (&json!(2), &json!("heart_rate.created")));
    assert_eq!((&data["start_time"], &data["end_time"]), (&earlier, &later));
    let messages = server.settled(2).await;
    assert_eq!(body["timestamp"], messages[0]["created_at"]);

    // The delivery log has it under each event's id.
    let rows = attempts(&server, &endpoint.path, 2).await;
    assert!(rows.iter().all(|row| row["delivery_id"] == came.id), "{rows:?}");
    let carried: BTreeSet<&str> = rows.iter().map(|row| row["message_id"].as_str().unwrap()).collect();
    let listed: BTreeSet<&str> = ids(&messages).into_iter().collect();
    assert_eq!(carried, listed);
    endpoint.await_quiet().await;
    assert_eq!(receiver.came(HOOK).len(), 1);
}

#[tokio::test]
async fn the_figures_are_the_documented_ones_and_say_how_deliveries_stand() {
    let guide = include_str!("../../../docs/webhooks.md");
    let (server, receiver) = (calling().start().await, Receiver::start().await);
    let (failing, _) = paused(&server, &receiver, &[PATIENT]).await;
    let off = json!({"url": receiver.url(HOOK), "filter_types": ["BookAppointment"], "active": false});
    Endpoint::make(&server, &off).await;
    let wish = json!({"url": receiver.url(HOOK), "filter_types": [CHECK_IN]});
    let taking = Endpoint::make(&server, &wish).await;
    for number in 0..3 {
        taking.deliver(&receiver, &event(CHECK_IN, number), 200).await;
    }
    taking.ask("test", &json!({})).await.expect(202);
    // There nobody answers, so what is due first stays under way.
    let silent = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}/", silent.local_addr().unwrap());
    failing.change(&json!({"url": url, "timeout_seconds": 60})).await;

    let expected = [
        "systole_webhook_endpoints 3",
        "systole_webhook_events_total 23",
        "systole_webhook_attempts_total 23",
        "systole_webhook_attempts_dropped_total 0",
        // With the test, which is no attempt.
        "systole_webhook_delivered_total 4",
        "systole_webhook_failed_total 20",
        "systole_webhook_given_up_total 0",
        "systole_webhook_payload_gone_total 0",
        "systole_webhook_retries_waiting 20",
        "systole_webhook_retries_due 1",
        "systole_webhook_in_flight 1",
        "systole_webhook_connections_open 1",
        "systole_webhook_lanes_behind 0",
        "systole_webhook_lanes_paused 1",
        "systole_webhook_backlogs 0",
        "systole_webhook_router_lag 0",
    ];
    let text = await_metrics(&server, &expected).await;
    let documented: BTreeSet<&str> = guide
        .lines()
        .filter_map(|line| line.strip_prefix("| `systole_webhook_")?.split('`').next())
        .collect();
    let shown: BTreeSet<&str> =
        text.lines().filter_map(|line| line.strip_prefix("systole_webhook_")?.split(' ').next()).collect();
    assert!(documented.len() >= 19, "{documented:?}");
    assert_eq!(shown, documented);
}

#[tokio::test]
async fn the_very_first_event_lags_since_it_was_published() {
    let server = calling().start().await;
    let silent = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}/", silent.local_addr().unwrap());
    Endpoint::make(&server, &json!({"url": url, "timeout_seconds": 60})).await;
    let published = Instant::now();
    server.publish(OPERATOR, &event(CHECK_IN, 0)).await;
    let under_way = ["systole_webhook_in_flight 1", "systole_webhook_lag_events 1"];
    await_metrics(&server, &under_way).await;
    tokio::time::sleep(Duration::from_millis(5)).await;

    let text = await_metrics(&server, &under_way).await;
    let lag = text.lines().find_map(|line| line.strip_prefix("systole_webhook_lag_seconds ")).unwrap();
    // Clocks of the wall and of the test may differ by a step.
    let waited = published.elapsed().as_secs_f64() + 60.0;
    let lag: f64 = lag.parse().unwrap();
    assert!(lag > 0.0 && lag <= waited, "{lag} s, and published {waited} s ago at most");
}
