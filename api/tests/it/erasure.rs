//! Erasure, deletion, export and retention, over HTTP.

use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::client::Answer;
use crate::fixture::{OPERATOR, TestServer, point, point_with, server};

const BULK: &str = "/api/v1/wearables/bulk-ingest";

impl TestServer {
    async fn delete(&self, path: &str, key: &str) -> Answer {
        self.request("DELETE", path).key(key).send().await
    }

    async fn order(&self, path: &str) -> String {
        let answer = self.delete(path, OPERATOR).await.expect(202).json();
        answer["erasure_id"].as_str().unwrap().to_owned()
    }

    async fn receipt(&self, id: &str) -> Value {
        self.get(&format!("/api/v1/erasures/{id}"), OPERATOR).await.expect(200).json()
    }

    async fn latest(&self, user: &str, key: &str) -> Value {
        let path = format!("/api/v1/wearables/latest?user_id={user}");
        self.get(&path, key).await.expect(200).json()["latest"].clone()
    }

    async fn whole(&self, metric: &str, user: &str, key: &str) -> Vec<Value> {
        let path = format!("/api/v1/wearables/metric/{metric}?user_id={user}&days=36500&order=asc");
        self.get(&path, key).await.expect(200).json()["data_points"].as_array().unwrap().clone()
    }

    async fn push(&self, user: &str, points: &[Value]) {
        let body = json!({ "data_points": points });
        self.post(&format!("{BULK}?user_id={user}"), OPERATOR, &body).await.expect(200);
    }

    /// The whole answer of a statement that counts.
    async fn count(&self, rows: &str, key: &str) -> u64 {
        let statement = json!({ "sql": format!("SELECT count(*) FROM {rows}") });
        self.post("/api/v1/query", key, &statement).await.expect(200).json()["rows"][0][0].as_u64().unwrap()
    }

    async fn compact(&self) {
        self.post("/api/v1/admin/compact", OPERATOR, &json!({})).await.expect(200);
    }

    async fn export(&self, user: &str, key: &str) -> String {
        self.get(&format!("/api/v1/users/{user}/export"), key).await.expect(200).text()
    }
}

fn points(seconds: std::ops::Range<u32>) -> Vec<Value> {
    seconds.map(|second| point(second, 60.0 + f64::from(second % 30))).collect()
}

fn spo2(second: u32) -> Value {
    point_with(json!({"metric": "spo2", "unit": "%", "value": 97,
        "recorded_at": format!("2026-01-01T00:00:{second:02}Z")}))
}

#[tokio::test]
async fn an_erased_user_is_gone_at_once_and_what_is_sent_later_makes_a_new_one() {
    let server = server().start().await;
    server.push("u1", &points(0..100)).await;
    server.post("/api/v1/admin/flush", OPERATOR, &json!({})).await.expect(200);
    server.push("u1", &points(90..150)).await;
    server.push("u2", &points(0..10)).await;
    let id = server.order("/api/v1/users/u1").await;
    let receipt = server.receipt(&id).await;
    assert_eq!(receipt["status"], "running");
    assert_eq!(receipt["removed"]["samples"], 150, "{receipt}");
    for round in ["hidden", "carried out"] {
        assert!(server.whole("heart_rate", "u1", OPERATOR).await.is_empty(), "{round}");
        assert_eq!(server.latest("u1", OPERATOR).await, json!({}), "{round}");
        assert_eq!(server.export("u1", OPERATOR).await, "", "{round}");
        assert_eq!(server.whole("heart_rate", "u2", OPERATOR).await.len(), 10, "{round}");
        server.compact().await;
    }
    let receipt = server.receipt(&id).await;
    assert_eq!((&receipt["status"], &receipt["removed"]["samples"]), (&json!("done"), &json!(150)));
    assert!(receipt["removed"]["files"].as_u64().unwrap() >= 1, "{receipt}");
    assert!(receipt["completed_at"].is_string(), "{receipt}");
    server.push("u1", &points(5..7)).await;
    assert_eq!(server.whole("heart_rate", "u1", OPERATOR).await.len(), 2);
    assert_eq!(server.latest("u1", OPERATOR).await["heart_rate"]["recorded_at"], "2026-01-01T00:00:06Z");
    server.compact().await;
    assert_eq!(server.whole("heart_rate", "u1", OPERATOR).await.len(), 2);
}

#[tokio::test]
async fn an_order_is_carried_out_within_its_time_though_nobody_asks_for_it() {
    let deadline = Duration::from_secs(4);
    let server = server().with(|settings| settings.storage.erasure_deadline = deadline).start().await;
    server.push("u1", &points(0..100)).await;
    server.post("/api/v1/admin/flush", OPERATOR, &json!({})).await.expect(200);
    server.push("u2", &points(0..10)).await;
    let id = server.order("/api/v1/users/u1").await;
    let ordered = Instant::now();
    assert_eq!(server.receipt(&id).await["status"], "running", "it waits for others");
    // Half of the time to be due, and what a busy machine takes.
    while server.receipt(&id).await["status"] == "running" {
        assert!(ordered.elapsed() < Duration::from_secs(60), "nobody carried it out");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    assert!(ordered.elapsed() > deadline / 4, "it was not pooled");
    let removed = &server.receipt(&id).await["removed"];
    assert_eq!((&removed["samples"], &removed["files"]), (&json!(100), &json!(1)), "{removed}");
    assert!(server.whole("heart_rate", "u1", OPERATOR).await.is_empty());
    assert_eq!(server.whole("heart_rate", "u2", OPERATOR).await.len(), 10);
}

#[tokio::test]
async fn a_damaged_file_holds_up_the_orders_it_may_have_something_of_and_no_other() {
    let server = server().start().await;
    let acme = server.make_key("acme", &json!({"scopes": ["ingest", "admin"]})).await.key;
    server.push("u1", &points(0..100)).await;
    server.post("/api/v1/admin/flush", OPERATOR, &json!({})).await.expect(200);
    let run = std::fs::read_dir(server.data_dir().join("runs")).unwrap().next().unwrap().unwrap().path();
    let mut bytes = std::fs::read(&run).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 4;
    std::fs::write(&run, bytes).unwrap();
    server.push("u2", &points(0..10)).await;
    let theirs = json!({ "data_points": points(0..10) });
    server.post(&format!("{BULK}?user_id=u1"), &acme, &theirs).await.expect(200);
    let held_up = server.order("/api/v1/users/u1").await;
    let done = server.order("/api/v1/users/u2").await;
    let of_acme = server.delete("/api/v1/users/u1", &acme).await.expect(202).json()["erasure_id"].clone();
    for _ in 0..2 {
        let answer = server.post("/api/v1/admin/compact", OPERATOR, &json!({})).await;
        assert_eq!((answer.status, answer.code()), (503, "flush_failed".to_owned()));
        assert_eq!(server.receipt(&held_up).await["status"], "running");
        assert_eq!(server.receipt(&done).await["status"], "done");
        let path = format!("/api/v1/erasures/{}", of_acme.as_str().unwrap());
        assert_eq!(server.get(&path, &acme).await.expect(200).json()["status"], "done");
    }
    let metrics = server.get("/metrics", OPERATOR).await.expect(200).text();
    assert!(metrics.contains("\nsystole_damaged_files 1\n"), "{metrics}");
}

#[tokio::test]
async fn a_user_that_comes_back_before_the_erasure_is_carried_out_keeps_what_is_new() {
    let server = server().start().await;
    server.push("u1", &points(0..50)).await;
    server.order("/api/v1/users/u1").await;
    // Of the same keys and of others.
    server.push("u1", &points(40..60)).await;
    let again = server.whole("heart_rate", "u1", OPERATOR).await;
    assert_eq!(again.len(), 20);
    let second = server.order("/api/v1/users/u1").await;
    assert_eq!(server.receipt(&second).await["removed"]["samples"], 20);
    server.push("u1", &points(10..11)).await;
    server.compact().await;
    assert_eq!(server.whole("heart_rate", "u1", OPERATOR).await.len(), 1);
    assert_eq!(server.receipt(&second).await["status"], "done");
}

#[tokio::test]
async fn nothing_is_taken_from_a_user_that_is_blocked_before_and_after_the_erasure_is_done() {
    let server = server().start().await;
    server.push("u1", &points(0..5)).await;
    server.order("/api/v1/users/u1?block=true").await;
    let acme = server.make_key("acme", &json!({"scopes": ["ingest", "read"]})).await.key;
    for round in ["hidden", "carried out"] {
        let single = server.post("/api/v1/wearables/ingest?user_id=u1", OPERATOR, &point(9, 60.0)).await;
        assert_eq!((single.status, single.code()), (403, "user_erased".to_owned()), "{round}");
        let mixed = json!({"data_points": [
            point_with(json!({"user_id": "u2"})), point_with(json!({"user_id": "u1"}))
        ]});
        let answer = server.post(BULK, OPERATOR, &mixed).await.expect(422).json();
        assert_eq!(
            (&answer["rejected"], &answer["detail"][0]["type"], &answer["detail"][0]["loc"]),
            (&json!(1), &json!("user_erased"), &json!(["body", "data_points", 1, "user_id"])),
            "{round}"
        );
        let answer = server.post(&format!("{BULK}?partial=true"), OPERATOR, &mixed).await.expect(200).json();
        assert_eq!((&answer["accepted"], &answer["rejected"]), (&json!(1), &json!(1)), "{round}");
        let event = json!({"type": "check_in.created", "user_id": "u1", "data": {}});
        let answer = server.post("/api/v1/events", OPERATOR, &event).await;
        assert_eq!((answer.status, answer.code()), (403, "user_erased".to_owned()), "{round}");
        // The same name in another organisation is another user.
        server.post("/api/v1/wearables/ingest?user_id=u1", &acme, &point(9, 60.0)).await.expect(200);
        assert!(server.whole("heart_rate", "u1", OPERATOR).await.is_empty(), "{round}");
        assert_eq!(server.whole("heart_rate", "u1", &acme).await.len(), 1, "{round}");
        server.compact().await;
    }
}

#[tokio::test]
async fn a_range_of_a_metric_is_deleted_and_the_newest_value_that_is_left_shows() {
    let server = server().start().await;
    server.push("u1", &points(0..40)).await;
    server.push("u1", &(0..40).map(spo2).collect::<Vec<_>>()).await;
    let path = "/api/v1/wearables/metric/heart_rate?user_id=u1";
    for wrong in ["", "&start=2026-01-01T00:00:30Z", "&start=2026-01-01T00:00:30Z&end=2026-01-01T00:00:30Z"] {
        server.delete(&format!("{path}{wrong}"), OPERATOR).await.expect(422);
    }
    server.delete("/api/v1/wearables/metric/heart_rate", OPERATOR).await.expect(422);
    let id = server.order(&format!("{path}&start=2026-01-01T00:00:30Z&end=2027-01-01T00:00:00Z")).await;
    assert_eq!(server.receipt(&id).await["removed"]["samples"], 10);
    for round in ["hidden", "carried out"] {
        assert_eq!(server.whole("heart_rate", "u1", OPERATOR).await.len(), 30, "{round}");
        assert_eq!(server.whole("spo2", "u1", OPERATOR).await.len(), 40, "{round}");
        let latest = server.latest("u1", OPERATOR).await;
        assert_eq!(latest["heart_rate"]["recorded_at"], "2026-01-01T00:00:29Z", "{round}");
        assert_eq!(latest["spo2"]["recorded_at"], "2026-01-01T00:00:39Z", "{round}");
        server.compact().await;
    }
    assert_eq!(server.receipt(&id).await["status"], "done");
    server.push("u1", &points(35..36)).await;
    assert_eq!(server.whole("heart_rate", "u1", OPERATOR).await.len(), 31);
    assert_eq!(server.latest("u1", OPERATOR).await["heart_rate"]["recorded_at"], "2026-01-01T00:00:35Z");
}

#[tokio::test]
async fn a_range_of_a_metric_is_deleted_of_all_users_of_one_organisation() {
    let server = server().start().await;
    let acme = server.make_key("acme", &json!({"scopes": ["ingest", "read"]})).await.key;
    for user in ["u1", "u2"] {
        server.push(user, &points(0..40)).await;
        server.push(user, &(0..40).map(spo2).collect::<Vec<_>>()).await;
        let theirs = json!({ "data_points": points(0..40) });
        server.post(&format!("{BULK}?user_id={user}"), &acme, &theirs).await.expect(200);
    }
    server.compact().await;
    // One more round in a run, with corrections, and one in memory.
    server.push("u1", &points(20..50).into_iter().map(corrected).collect::<Vec<_>>()).await;
    server.post("/api/v1/admin/flush", OPERATOR, &json!({})).await.expect(200);
    server.push("u3", &points(0..40)).await;
    let path = "/api/v1/wearables/metric/heart_rate?all_users=true";
    let id = server.order(&format!("{path}&start=2026-01-01T00:00:10Z&end=2026-01-01T00:01:00Z")).await;
    let receipt = server.receipt(&id).await;
    assert_eq!((&receipt["status"], &receipt["removed"]["samples"]), (&json!("running"), &json!(100)));
    // Sent later, for the deleted time.
    server.push("u2", &points(20..22)).await;
    for round in ["hidden", "carried out"] {
        for (user, left, newest) in [("u1", 10, 9), ("u2", 12, 21), ("u3", 10, 9)] {
            let what = format!("{user} {round}");
            assert_eq!(server.whole("heart_rate", user, OPERATOR).await.len(), left, "{what}");
            let latest = server.latest(user, OPERATOR).await;
            let newest = format!("2026-01-01T00:00:{newest:02}Z");
            assert_eq!(latest["heart_rate"]["recorded_at"], newest, "{what}");
            let by_sql = format!(
                "latest WHERE metric = 'heart_rate' AND user_id = '{user}' AND recorded_at = '{newest}'"
            );
            assert_eq!(server.count(&by_sql, OPERATOR).await, 1, "{what}");
            let spo2 = if user == "u3" { 0 } else { 40 };
            assert_eq!(server.whole("spo2", user, OPERATOR).await.len(), spo2, "{what}");
            assert_eq!(server.export(user, OPERATOR).await.lines().count(), left + spo2, "{what}");
            let buckets = format!(
                "/api/v1/wearables/metric/heart_rate?user_id={user}&days=36500&resolution=1h&combine=all"
            );
            let buckets = server.get(&buckets, OPERATOR).await.expect(200).json();
            assert_eq!(buckets["data_points"][0]["count"], left, "{what}");
        }
        assert_eq!(server.count("samples WHERE metric = 'heart_rate'", OPERATOR).await, 32, "{round}");
        assert_eq!(server.count("latest WHERE metric = 'heart_rate'", OPERATOR).await, 3, "{round}");
        assert_eq!(server.count("samples", &acme).await, 80, "{round}");
        assert_eq!(server.whole("heart_rate", "u2", &acme).await.len(), 40, "{round}");
        server.compact().await;
    }
    let receipt = server.receipt(&id).await;
    assert_eq!((&receipt["status"], &receipt["removed"]["samples"]), (&json!("done"), &json!(100)));
    // The file of the period and the run; u3 was flushed to be carried out.
    assert!(receipt["removed"]["files"].as_u64().unwrap() >= 2, "{receipt}");
    assert!(receipt["removed"]["segments"].as_u64().unwrap() >= 1, "{receipt}");
    assert_eq!(server.count("latest WHERE metric = 'heart_rate'", OPERATOR).await, 3);
}

#[tokio::test]
async fn a_range_of_all_metrics_is_deleted_of_one_user_or_of_all() {
    let server = server().start().await;
    for user in ["u1", "u2", "u3"] {
        server.push(user, &points(0..40)).await;
        server.push(user, &(0..30).map(spo2).collect::<Vec<_>>()).await;
    }
    let deleted = "/api/v1/wearables/metric/*?start=2026-01-01T00:00:20Z&end=2026-01-01T00:00:30Z";
    let of_one = server.order(&format!("{deleted}&user_id=u1")).await;
    assert_eq!(server.receipt(&of_one).await["removed"]["samples"], 20);
    assert_eq!(server.count("samples WHERE user_id = 'u1'", OPERATOR).await, 50);
    assert_eq!(server.count("samples WHERE user_id <> 'u1'", OPERATOR).await, 140);
    let of_all = server.order(&format!("{}&all_users=true", deleted.replace('*', "%2A"))).await;
    assert_eq!(server.receipt(&of_all).await["removed"]["samples"], 40);
    for round in ["hidden", "carried out"] {
        for user in ["u1", "u2", "u3"] {
            assert_eq!(server.whole("heart_rate", user, OPERATOR).await.len(), 30, "{user} {round}");
            assert_eq!(server.whole("spo2", user, OPERATOR).await.len(), 20, "{user} {round}");
            let latest = server.latest(user, OPERATOR).await;
            assert_eq!(latest["heart_rate"]["recorded_at"], "2026-01-01T00:00:39Z", "{user} {round}");
            assert_eq!(latest["spo2"]["recorded_at"], "2026-01-01T00:00:19Z", "{user} {round}");
        }
        server.compact().await;
    }
    assert_eq!(server.receipt(&of_all).await["status"], "done");
}

#[tokio::test]
async fn all_users_are_meant_only_where_a_whole_organisation_s_admin_says_so() {
    let server = server().start().await;
    server.push("u1", &points(0..5)).await;
    let key = async |wish: Value| server.make_key("default", &wish).await.key;
    let bound = key(json!({"scopes": ["admin"], "user_id": "u1"})).await;
    let others = key(json!({"scopes": ["read", "ingest", "webhooks"]})).await;
    let times = "start=2026-01-01T00:00:00Z&end=2027-01-01T00:00:00Z";
    for metric in ["heart_rate", "*"] {
        for (key, parameters, expected) in [
            (bound.as_str(), format!("all_users=true&{times}"), (403, "key_bound", Value::Null)),
            (&bound, format!("all_users=true&user_id=u1&{times}"), (403, "key_bound", Value::Null)),
            (&bound, format!("user_id=u2&{times}"), (403, "other_user", Value::Null)),
            (&others, format!("all_users=true&{times}"), (403, "scope_missing", Value::Null)),
            (OPERATOR, format!("all_users=true&user_id=u1&{times}"), (422, "invalid", json!("conflict"))),
            (OPERATOR, format!("all_users=yes&{times}"), (422, "invalid", json!("wrong_type"))),
            (OPERATOR, format!("all_users=false&{times}"), (422, "invalid", json!("missing"))),
            (OPERATOR, times.to_owned(), (422, "invalid", json!("missing"))),
            (OPERATOR, "all_users=true".to_owned(), (422, "invalid", json!("missing"))),
        ] {
            let answer = server.delete(&format!("/api/v1/wearables/metric/{metric}?{parameters}"), key).await;
            let found = (answer.status, answer.code(), answer.json()["detail"][0]["type"].clone());
            assert_eq!(found, (expected.0, expected.1.to_owned(), expected.2), "{parameters}");
        }
    }
    let unknown = format!("/api/v1/wearables/metric/heart_rat?all_users=true&{times}");
    assert_eq!(server.delete(&unknown, OPERATOR).await.code(), "unknown_metric");
    assert_eq!(server.count("samples", OPERATOR).await, 5, "nothing was deleted");
    // A bound key's own user, as before.
    server.delete(&format!("/api/v1/wearables/metric/*?{times}"), &bound).await.expect(202);
    assert_eq!(server.count("samples", OPERATOR).await, 0);
}

/// Points with every optional field, several metrics, sources and corrections.
fn rich() -> Vec<Value> {
    let mut points = points(0..600);
    points.extend((0..300).map(|second| {
        let minute = second / 60;
        point_with(json!({"metric": "steps", "unit": "count", "value": second,
            "recorded_at": format!("2026-02-01T03:{minute:02}:{:02}.{:03}+02:00", second % 60, second),
            "ended_at": format!("2026-02-01T04:{minute:02}:{:02}+02:00", second % 60),
            "source": "apple", "source_device_id": format!("watch {}", second % 3),
            "is_daily_total": second % 2 == 0}))
    }));
    points.push(point_with(
        json!({"value": 61.123456789012345, "zone_offset": "-03:30", "source": "gär\"min"}),
    ));
    points
}

#[tokio::test]
async fn an_export_that_is_ingested_again_gives_the_same_answers() {
    let server = server().start().await;
    for part in rich().chunks(500) {
        server.push("u1", part).await;
    }
    server.post("/api/v1/admin/flush", OPERATOR, &json!({})).await.expect(200);
    server.push("u1", &points(100..110).into_iter().map(corrected).collect::<Vec<_>>()).await;
    let acme = server.make_key("acme", &json!({"scopes": ["ingest", "read"]})).await.key;
    let answer = server.get("/api/v1/users/u1/export", OPERATOR).await.expect(200);
    assert_eq!(answer.header("content-type"), Some("application/x-ndjson"));
    let lines: Vec<Value> = answer.text().lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(lines.len(), 901);
    for part in lines.chunks(500) {
        server.post(BULK, &acme, &json!({ "data_points": part })).await.expect(200);
    }
    for metric in ["heart_rate", "steps", "spo2"] {
        let there = server.whole(metric, "u1", &acme).await;
        assert_eq!(server.whole(metric, "u1", OPERATOR).await, there, "{metric}");
    }
    assert_eq!(server.latest("u1", OPERATOR).await, server.latest("u1", &acme).await);
    assert_eq!(server.export("u1", OPERATOR).await, server.export("u1", &acme).await);
}

fn corrected(mut point: Value) -> Value {
    point["value"] = json!(99.5);
    point
}

#[tokio::test]
async fn an_export_is_parquet_where_that_is_asked_for_and_only_of_whom_the_key_is_bound_to() {
    let server = server().start().await;
    server.push("u1", &points(0..200)).await;
    let ask = |accept: &str| {
        server.request("GET", "/api/v1/users/u1/export").key(OPERATOR).header("Accept", accept)
    };
    let answer = ask("application/vnd.apache.parquet").send().await.expect(200);
    assert_eq!(answer.header("content-type"), Some("application/vnd.apache.parquet"));
    let (begin, end) = (&answer.body[..4], &answer.body[answer.body.len() - 4..]);
    assert_eq!((begin, end), (&b"PAR1"[..], &b"PAR1"[..]));
    ask("text/html").send().await.expect(415);
    let scopes = json!({"scopes": ["read"], "user_id": "u2"});
    let bound = server.make_key("default", &scopes).await.key;
    server.get("/api/v1/users/u1/export", &bound).await.expect(403);
    assert_eq!(server.export("u2", &bound).await, "");
    server.get("/api/v1/users/a%20b/export", OPERATOR).await.expect(422);
}

#[tokio::test]
async fn samples_older_than_their_metric_is_kept_do_not_show_and_leave_the_disk() {
    let server = server().start().await;
    let old = |metric: &str, unit: &str| {
        point_with(json!({"metric": metric, "unit": unit, "value": 50,
        "recorded_at": "2020-01-01T00:00:00Z"}))
    };
    server.push("u1", &[old("heart_rate", "bpm"), old("weight", "kg")]).await;
    let put = |body: Value| server.request("PUT", "/api/v1/retention").key(OPERATOR).body(body.to_string());
    for (wrong, kind) in [
        (json!({}), "missing"),
        (json!({"retention": 1}), "wrong_type"),
        (json!({"retention": [{"metric": "heart_rat", "days": 1}]}), "unknown_metric"),
        (json!({"retention": [{"metric": "*", "days": 0}]}), "out_of_range"),
        (json!({"retention": [{"metric": "*", "days": 1}, {"metric": "*", "days": 2}]}), "conflict"),
    ] {
        let answer = put(wrong).send().await.expect(422).json();
        assert_eq!(answer["detail"][0]["type"], kind, "{answer}");
    }
    assert_eq!(server.whole("heart_rate", "u1", OPERATOR).await.len(), 1);
    let rules = json!([{"metric": "*", "days": 365}, {"metric": "weight", "days": null}]);
    let answer = put(json!({ "retention": rules })).send().await.expect(200).json();
    assert_eq!(answer, json!({"retention": rules, "default_days": null}));
    assert_eq!(server.get("/api/v1/retention", OPERATOR).await.expect(200).json(), answer);
    // Stored, and not shown.
    server.push("u1", &[old("heart_rate", "bpm")]).await;
    for round in ["in memory", "in files"] {
        assert!(server.whole("heart_rate", "u1", OPERATOR).await.is_empty(), "{round}");
        assert_eq!(server.whole("weight", "u1", OPERATOR).await.len(), 1, "{round}");
        let latest = server.latest("u1", OPERATOR).await;
        assert_eq!(latest.as_object().unwrap().keys().collect::<Vec<_>>(), ["weight"], "{round}");
        server.compact().await;
    }
    assert!(!server.export("u1", OPERATOR).await.contains("heart_rate"));
    put(json!({"retention": []})).send().await.expect(200);
    for round in ["removed", "out of the newest values"] {
        assert!(server.whole("heart_rate", "u1", OPERATOR).await.is_empty(), "{round}");
        let latest = server.latest("u1", OPERATOR).await;
        assert_eq!(latest.as_object().unwrap().keys().collect::<Vec<_>>(), ["weight"], "{round}");
        assert_eq!(server.count("latest", OPERATOR).await, 1, "{round}");
        server.compact().await;
    }
    server.push("u1", &[old("heart_rate", "bpm")]).await;
    assert_eq!(server.latest("u1", OPERATOR).await["heart_rate"]["value"], 50.0);
    assert_eq!(server.count("latest", OPERATOR).await, 2);
}

#[tokio::test]
async fn erasures_stay_within_their_organisation_and_need_an_admin() {
    let server = server().start().await;
    server.push("u1", &points(0..5)).await;
    let acme = server.make_key("acme", &json!({"scopes": ["admin"]})).await.key;
    let reader = server.make_key("default", &json!({"scopes": ["read", "ingest"]})).await.key;
    for path in ["/api/v1/users/u1", "/api/v1/wearables/metric/heart_rate?user_id=u1"] {
        server.delete(path, &reader).await.expect(403);
    }
    let theirs = server.delete("/api/v1/users/u1", &acme).await.expect(202).json();
    assert_eq!(server.whole("heart_rate", "u1", OPERATOR).await.len(), 5);
    let id = server.order("/api/v1/users/u1").await;
    let answer = server.get(&format!("/api/v1/erasures/{id}"), &acme).await;
    assert_eq!((answer.status, answer.code()), (404, "unknown_erasure".to_owned()));
    let theirs = format!("/api/v1/erasures/{}", theirs["erasure_id"].as_str().unwrap());
    server.get(&theirs, &acme).await.expect(200);
    server.get("/api/v1/erasures/era_0", OPERATOR).await.expect(404);
    let bound = server.make_key("default", &json!({"scopes": ["admin"], "user_id": "u2"})).await.key;
    server.delete("/api/v1/users/u1", &bound).await.expect(403);
    server.delete("/api/v1/users/u2", &bound).await.expect(202);
    server.get("/api/v1/retention", &bound).await.expect(403);
}
