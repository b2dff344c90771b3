//! What is erased is not shown, not delivered, and in the end not on the disk; whenever
//! the server is killed.

use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::client::Caller;
use crate::ledger::Random;
use crate::receiver::Receiver;
use crate::server::{Server, Stopped, data_files, systole};

/// Sorts before all others, so that bounds in files spell it.
const ERASED: &str = "00-erase-me-completely";
const KEPT: &str = "11-keep-me";
const METRIC: &str = "heart_rate";
const POINTS: usize = 400;
const BULK: &str = "/api/v1/wearables/bulk-ingest";
const PATIENCE: Duration = Duration::from_secs(60);
const CYCLES: u64 = 6;
const SEED: u64 = 0x0e7a_5e00;
/// When a server is killed, counted from the call to compact.
const KILL_AFTER_MS_MAX: u64 = 120;

fn subscribed() -> Stopped {
    systole()
        .set("SYSTOLE_DISPATCH_ALLOW_TARGETS", "127.0.0.0/8")
        .set("SYSTOLE_STORAGE_SEGMENT_BYTES", "1 MiB")
}

/// Points of both users, one behind the other, so that frames hold both.
fn push(caller: &Caller, erased: &str, first: usize) {
    let point = |index: usize| {
        let user = if index.is_multiple_of(2) { erased } else { KEPT };
        let second = first + index / 2;
        json!({"metric": METRIC, "value": 60 + index % 30, "unit": "bpm", "source": "garmin", "user_id": user,
               "recorded_at": format!("2016-03-01T{:02}:{:02}:{:02}Z", second / 3600, second / 60 % 60, second % 60)})
    };
    let points: Vec<Value> = (0..POINTS).map(point).collect();
    caller.post(BULK, json!({ "data_points": points }).to_string()).expect(200);
}

fn order(caller: &Caller, user: &str) -> String {
    let answer: Value = caller.delete(&format!("/api/v1/users/{user}")).expect(202).json();
    answer["erasure_id"].as_str().unwrap().to_owned()
}

fn receipt(caller: &Caller, id: &str) -> Value {
    caller.get(&format!("/api/v1/erasures/{id}")).expect(200).json()
}

fn assert_hidden(caller: &Caller, user: &str, when: &str) {
    assert!(caller.series(user, METRIC).data_points.is_empty(), "{user} {when}");
    assert!(caller.latest(user).is_empty(), "{user} {when}");
    assert_eq!(caller.get(&format!("/api/v1/users/{user}/export")).expect(200).text(), "", "{user} {when}");
}

/// Files below the data dir whose bytes spell a text.
fn files_with(data_dir: &Path, text: &str) -> Vec<String> {
    let spells = |path: &std::path::PathBuf| {
        let bytes = std::fs::read(path).unwrap_or_default();
        bytes.windows(text.len()).any(|window| window == text.as_bytes())
    };
    let files = data_files(data_dir).into_iter().filter(spells);
    files.map(|path| path.strip_prefix(data_dir).unwrap().display().to_string()).collect()
}

impl Server {
    fn await_figure(&self, name: &str, reached: impl Fn(f64) -> bool) {
        let deadline = Instant::now() + PATIENCE;
        while !reached(self.figure(name)) {
            assert!(Instant::now() < deadline, "{name} is {} after {PATIENCE:?}", self.figure(name));
            thread::sleep(Duration::from_millis(20));
        }
    }
}

#[test]
fn nothing_of_an_erased_user_is_delivered_or_left_on_the_disk() {
    let receiver = Receiver::start();
    receiver.answer(500);
    let server = subscribed().start();
    let caller = server.operator();
    let wish = json!({ "url": receiver.url() }).to_string();
    caller.post("/api/v1/webhooks/endpoints", wish).expect(201);
    push(&caller, ERASED, 0);
    let event = json!({"type": "check_in.created", "user_id": ERASED, "data": {"who": ERASED}});
    caller.post("/api/v1/events", event.to_string()).expect(202);
    // All three fail and wait, which keeps the journal.
    server.await_figure("systole_webhook_retries_waiting", |waiting| waiting >= 3.0);
    server.flush();
    push(&caller, ERASED, 1000);
    server.await_figure("systole_webhook_retries_waiting", |waiting| waiting >= 5.0);
    for place in ["journal/", "runs/", "catalog"] {
        let spelt = files_with(server.data_dir(), ERASED);
        assert!(spelt.iter().any(|path| path.starts_with(place)), "{place} is not among {spelt:?}");
    }
    let id = order(&caller, ERASED);
    assert_hidden(&caller, ERASED, "at once");
    caller.post("/api/v1/admin/compact", b"").expect(200);
    assert_eq!(files_with(server.data_dir(), ERASED), Vec::<String>::new());
    assert!(!files_with(server.data_dir(), KEPT).is_empty(), "the other user is still spelt");
    let receipt = receipt(&caller, &id);
    assert_eq!(receipt["status"], "done");
    let removed = |what: &str| receipt["removed"][what].as_u64().unwrap();
    assert_eq!((removed("samples"), removed("deliveries")), (POINTS as u64, 3), "{receipt}");
    assert!(removed("files") >= 1 && removed("segments") >= 1, "{receipt}");

    receiver.answer(200);
    server.await_figure("systole_webhook_retries_waiting", |waiting| waiting == 0.0);
    let received = receiver.received();
    let about = |user: &str| received.events().filter(|event| event.data.user_id == user).count();
    assert_eq!((about(ERASED), about(KEPT), received.bodies.len()), (0, 2, 2));
    let server = server.kill().start();
    let caller = server.operator();
    assert_hidden(&caller, ERASED, "after a restart");
    assert_eq!(caller.series(KEPT, METRIC).data_points.len(), POINTS);
    // Sent later, it is a new user, and delivered.
    push(&caller, ERASED, 0);
    server.await_figure("systole_webhook_delivered_total", |delivered| delivered >= 1.0);
    assert_eq!(caller.series(ERASED, METRIC).data_points.len(), POINTS / 2);
}

#[test]
fn a_deletion_of_all_users_ends_deliveries_that_wait_and_leaves_what_lies_outside() {
    let receiver = Receiver::start();
    receiver.answer(500);
    let server = subscribed().start();
    let caller = server.operator();
    let wish = json!({ "url": receiver.url() }).to_string();
    caller.post("/api/v1/webhooks/endpoints", wish).expect(201);
    push(&caller, ERASED, 0);
    server.await_figure("systole_webhook_retries_waiting", |waiting| waiting >= 2.0);
    server.flush();
    push(&caller, ERASED, 1000);
    server.await_figure("systole_webhook_retries_waiting", |waiting| waiting >= 4.0);
    let first = "all_users=true&start=2016-03-01T00:00:00Z&end=2016-03-01T00:10:00Z";
    let answer = caller.delete(&format!("/api/v1/wearables/metric/{METRIC}?{first}")).expect(202);
    let answer: Value = answer.json();
    let id = answer["erasure_id"].as_str().unwrap();
    let server = server.kill().start();
    let caller = server.operator();
    let left = |caller: &Caller, when: &str| {
        for user in [ERASED, KEPT] {
            assert_eq!(caller.series(user, METRIC).data_points.len(), POINTS / 2, "{user} {when}");
        }
    };
    left(&caller, "after a kill");
    caller.post("/api/v1/admin/compact", b"").expect(200);
    left(&caller, "carried out");
    let receipt = receipt(&caller, id);
    let removed = |what: &str| receipt["removed"][what].as_u64().unwrap();
    assert_eq!((&receipt["status"], removed("samples")), (&json!("done"), POINTS as u64), "{receipt}");
    assert!(removed("files") >= 1 && removed("segments") >= 1 && removed("deliveries") <= 2, "{receipt}");
    receiver.answer(200);
    server.await_figure("systole_webhook_retries_waiting", |waiting| waiting == 0.0);
    server.await_figure("systole_webhook_delivered_total", |delivered| delivered >= 2.0);
    let received = receiver.received();
    let late = |user: &str| received.events().filter(|event| event.data.user_id == user).count();
    assert_eq!((late(ERASED), late(KEPT)), (1, 1));
    left(&server.kill().start().operator(), "after another kill");
}

#[test]
fn kills_at_random_moments_bring_nothing_erased_back_and_lose_nothing_else() {
    let mut random = Random(SEED);
    let receiver = Receiver::start();
    receiver.answer(500);
    let mut stopped = subscribed();
    let mut ids = Vec::new();
    for cycle in 0..CYCLES {
        let server = stopped.start();
        let caller = server.operator();
        if cycle == 0 {
            let wish = json!({ "url": receiver.url() }).to_string();
            caller.post("/api/v1/webhooks/endpoints", wish).expect(201);
        }
        let user = format!("{ERASED}-{cycle}");
        push(&caller, &user, cycle as usize * 1000);
        if cycle % 2 == 0 {
            server.flush();
        }
        push(&caller, &user, cycle as usize * 1000 + 300);
        ids.push((order(&caller, &user), user));
        // The last one is killed before anybody carries it out.
        if cycle + 1 < CYCLES {
            let compacting = caller.clone();
            let running = thread::spawn(move || {
                // It may be cut off.
                let connection = compacting.connect();
                connection.and_then(|mut it| it.send("POST", "/api/v1/admin/compact", b"")).is_ok()
            });
            thread::sleep(Duration::from_millis(random.below(KILL_AFTER_MS_MAX)));
            stopped = server.kill();
            let _ = running.join();
        } else {
            stopped = server.kill();
        }
        let server = stopped.start();
        let caller = server.operator();
        for (_, user) in &ids {
            assert_hidden(&caller, user, &format!("after kill {cycle}"));
        }
        let kept = caller.series(KEPT, METRIC).data_points.len();
        assert_eq!(kept, POINTS * (cycle as usize + 1), "after kill {cycle}");
        stopped = server.kill();
    }
    let server = stopped.start();
    let caller = server.operator();
    caller.post("/api/v1/admin/compact", b"").expect(200);
    assert_eq!(files_with(server.data_dir(), ERASED), Vec::<String>::new());
    for (id, _) in &ids {
        let receipt = receipt(&caller, id);
        assert_eq!((&receipt["status"], &receipt["removed"]["samples"]), (&json!("done"), &json!(POINTS)));
    }
    assert_eq!(caller.series(KEPT, METRIC).data_points.len(), POINTS * CYCLES as usize);
}
