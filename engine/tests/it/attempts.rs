//! The delivery log from the queue to the disk and off it again.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use systole_engine::{AttemptQuery, AttemptRow, Engine, EngineSettings, Erased, Trigger};
use tempfile::TempDir;

const ORG: &str = "default";
/// Sorts before all others, so that bounds in files spell it.
const SECRET: &str = "00-erase-me-completely";

fn open(dir: &TempDir) -> Engine {
    Engine::open(EngineSettings { data_dir: dir.path().to_owned(), ..EngineSettings::default() }).unwrap()
}

fn row(number: u64, user: &str) -> AttemptRow<Arc<str>> {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
    AttemptRow {
        // Lately: what is long over is not kept.
        at_ms: i64::try_from(now.as_millis()).unwrap(),
        tie: 0,
        endpoint: "ep_1".into(),
        message: format!("evt_{number}").into(),
        delivery: format!("dlv_{number}").into(),
        sequence: 1,
        group: 0,
        chunk: 0,
        kind: 1,
        user: Some(user.into()),
        event_type: "steps.created".into(),
        number: 1,
        trigger: Trigger::Scheduled,
        success: true,
        status_code: Some(200),
        error: None,
        duration_us: 10,
        url: "https://example.org".into(),
        response_headers: "{}".into(),
        response_body: "".into(),
    }
}

fn every(org: &str) -> AttemptQuery {
    AttemptQuery { org: org.to_owned(), limit: usize::MAX, ..AttemptQuery::default() }
}

fn logged(engine: &Engine, org: &str) -> Vec<String> {
    let mut found: Vec<String> =
        engine.attempts(&every(org)).unwrap().rows.into_iter().map(|row| row.message).collect();
    found.sort();
    found
}

/// Waits for as many attempts as were recorded.
async fn await_logged(engine: &Engine, org: &str, count: usize) {
    let deadline = Instant::now() + Duration::from_secs(30);
    while logged(engine, org).len() < count {
        assert!(Instant::now() < deadline, "{} of {count}", logged(engine, org).len());
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn attempts_are_seen_within_moments_and_take_few_frames() {
    let dir = tempfile::tempdir().unwrap();
    let engine = open(&dir);
    let org: Arc<str> = ORG.into();
    for number in 0..2_000 {
        engine.attempt_queue().record(&org, [row(number, "u_1")]);
    }
    await_logged(&engine, ORG, 2_000).await;
    let groups = engine.stats().commit_groups;
    assert!(groups <= 5, "{groups} syncs for attempts that came at once");
    assert_eq!(engine.attempt_queue().dropped(), 0);
    engine.drain().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stop_keeps_what_was_recorded_until_then() {
    let dir = tempfile::tempdir().unwrap();
    let engine = open(&dir);
    let recording: Vec<_> = (0..4)
        .map(|thread| {
            let queue = engine.attempt_queue().clone();
            std::thread::spawn(move || {
                let org: Arc<str> = if thread % 2 == 0 { "default" } else { "acme" }.into();
                for number in 0..3_000 {
                    queue.record(&org, [row(thread * 10_000 + number, "u_1")]);
                }
            })
        })
        .collect();
    recording.into_iter().for_each(|thread| thread.join().unwrap());
    engine.drain().await;
    assert_eq!(engine.attempt_queue().dropped(), 0);
    // What comes behind the end is counted, not kept.
    engine.attempt_queue().record(&ORG.into(), [row(99_999, "u_1")]);
    assert_eq!(engine.attempt_queue().dropped(), 1);
    drop(engine);
    let engine = open(&dir);
    for (org, threads) in [("default", [0, 2]), ("acme", [1, 3])] {
        let numbers = threads.into_iter().flat_map(|thread| (0..3_000).map(move |at| thread * 10_000 + at));
        let mut expected: Vec<String> = numbers.map(|number| format!("evt_{number}")).collect();
        expected.sort();
        assert_eq!(logged(&engine, org), expected, "{org}");
    }
    engine.drain().await;
}

/// Files below a folder that spell a text.
fn files_with(dir: &Path, text: &str) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            found.extend(files_with(&path, text));
        } else if std::fs::read(&path).unwrap_or_default().windows(text.len()).any(|it| it == text.as_bytes())
        {
            found.push(path);
        }
    }
    found
}

#[tokio::test(flavor = "multi_thread")]
async fn an_erased_user_is_in_no_attempt_and_no_byte_of_it_is_left() {
    let dir = tempfile::tempdir().unwrap();
    let engine = open(&dir);
    let org: Arc<str> = ORG.into();
    let record = |from: u64, count: u64| {
        for number in from..from + count {
            let user = if number % 2 == 0 { SECRET } else { "u_2" };
            engine.attempt_queue().record(&org, [row(number, user)]);
        }
    };
    // Some in files, some in frames, some on their way when the order comes.
    record(0, 100);
    await_logged(&engine, ORG, 100).await;
    engine.flush().await.unwrap();
    record(100, 50);
    await_logged(&engine, ORG, 150).await;
    assert!(!files_with(dir.path(), SECRET).is_empty());
    record(150, 50);
    let user = Erased::User { user: SECRET.to_owned(), block: false };
    let id = engine.erase(ORG, user).await.unwrap();
    let users = || -> Vec<String> {
        engine.attempts(&every(ORG)).unwrap().rows.into_iter().filter_map(|row| row.user).collect()
    };
    assert!(users().iter().all(|user| user == "u_2"));
    record(200, 50);
    assert_eq!(engine.carry_out_erasures().await.unwrap(), 1);
    // Delivered before, told long after.
    record(250, 50);
    await_logged(&engine, ORG, 150).await;
    engine.flush().await.unwrap();
    assert_eq!(users(), vec!["u_2"; 150]);
    let receipt = engine.erasure(ORG, &id).await.unwrap().unwrap();
    assert!((75..=125).contains(&receipt.removed.attempts), "{receipt:?}");
    assert!(receipt.removed.files >= 1 && receipt.completed_at.is_some(), "{receipt:?}");
    assert_eq!(files_with(dir.path(), SECRET), [] as [PathBuf; 0]);
    engine.drain().await;
    drop(engine);
    assert_eq!(files_with(dir.path(), SECRET), [] as [PathBuf; 0]);
}
