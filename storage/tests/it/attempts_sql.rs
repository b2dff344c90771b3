//! The table `attempts`: what a statement sees of the delivery log.

use serde_json::json;
use systole_storage::{AttemptRow, Unhurried};

use super::fixture::{TestStore, attempt, everything_of};
use super::sql::Asker;

const JUNE_2026: i64 = 1_782_805_500_000;
const DAY: i64 = 86_400_000;

/// Attempts of two organisations in merged files, small ones and frames.
fn spread() -> (tempfile::TempDir, TestStore) {
    let dir = tempfile::tempdir().unwrap();
    let mut store = TestStore::open(dir.path());
    for round in 0..12_u64 {
        let rows: Vec<AttemptRow> = (1..=10)
            .map(|at| {
                let row = attempt(&format!("ep_{}", at % 2), round * 10 + at, at % 5 > 0);
                AttemptRow { at_ms: JUNE_2026 + (round % 3).cast_signed() * DAY, ..row }
            })
            .collect();
        store.commit_attempts("acme", &rows);
        store.commit_attempts("default", &rows[..1]);
        if round < 10 {
            store.flush();
        }
        if round == 6 {
            while store.store.compact_attempts(JUNE_2026 + DAY, &mut Unhurried).unwrap().is_some() {}
            store.store.bury().unwrap();
        }
    }
    (dir, store)
}

#[test]
fn a_statement_sees_the_attempts_of_its_organisation_wherever_they_stand() {
    let (_dir, store) = spread();
    let asker = Asker::new(&store);
    for (sql, expected) in [
        ("SELECT count(*) FROM attempts", json!([[120]])),
        (
            "SELECT endpoint_id, status, count(*) FROM attempts GROUP BY 1, 2 ORDER BY 1, 2",
            json!([
                ["ep_0", "failed", 12],
                ["ep_0", "success", 48],
                ["ep_1", "failed", 12],
                ["ep_1", "success", 48]
            ]),
        ),
        (
            "SELECT count(*), count(DISTINCT message_id) FROM attempts WHERE created_at >= TIMESTAMP '2026-07-01'",
            json!([[80, 80]]),
        ),
        ("SELECT count(*) FROM attempts WHERE created_at < TIMESTAMP '2026-07-01T00:00:00Z'", json!([[40]])),
        ("SELECT count(*) FROM attempts WHERE created_at > TIMESTAMP '2026-08-01'", json!([[0]])),
        ("SELECT count(*) FROM systole.public.attempts WHERE user_id = 'u_3'", json!([[17]])),
    ] {
        assert_eq!(json!(asker.rows("acme", sql)), expected, "{sql}");
    }
    assert_eq!(asker.rows("default", "SELECT count(*) FROM attempts"), [json!([12])]);
    assert_eq!(asker.rows("nobody", "SELECT count(*) FROM attempts"), [json!([0])]);
}

#[test]
fn all_columns_print_as_the_log_shows_them() {
    let dir = tempfile::tempdir().unwrap();
    let mut store = TestStore::open(dir.path());
    let failed = AttemptRow { number: 3, response_body: "née".into(), ..attempt("ep_1", 5, false) };
    let test = AttemptRow { at_ms: JUNE_2026 + 9, user: None, ..attempt("ep_2", 0, true) };
    let columns = "created_at, endpoint_id, message_id, delivery_id, user_id, event_type, attempt_number, trigger, \
                   status, status_code, error, duration_ms, url, response_headers, response_body";
    let expected = json!([
        [
            "2026-06-30T07:45:00.005Z",
            "ep_1",
            "evt_5",
            "dlv_ep_1_5",
            "u_5",
            "heart_rate.created",
            3,
            "scheduled",
            "failed",
            null,
            "connection refused",
            1.234,
            "https://example.org/hook",
            "{}",
            "née"
        ],
        [
            "2026-06-30T07:45:00.009Z",
            "ep_2",
            "evt_0",
            "dlv_ep_2_0",
            null,
            "steps.created",
            1,
            "test",
            "success",
            204,
            null,
            1.234,
            "https://example.org/hook",
            "{}",
            ""
        ],
    ]);
    store.commit_attempts("acme", &[failed, test]);
    for flushed in [false, true] {
        let asker = Asker::new(&store);
        for what in [columns, "*"] {
            let rows = asker.rows("acme", &format!("SELECT {what} FROM attempts ORDER BY created_at"));
            assert_eq!(json!(rows), expected, "{what}, {flushed}");
        }
        store.flush();
    }
}

#[test]
fn attempts_about_an_erased_user_are_in_no_answer() {
    let (_dir, mut store) = spread();
    let asker = Asker::new(&store);
    let count = "SELECT count(*) FROM attempts WHERE user_id = 'u_3'";
    let others = "SELECT count(*) FROM attempts WHERE user_id <> 'u_3'";
    let kept = asker.rows("acme", others);
    assert_ne!(asker.rows("acme", count), [json!([0])]);
    // Every message stands before it.
    for _ in 0..200 {
        store.commit_attempts("default", &[attempt("ep_1", 1, true)]);
    }
    let order = store.erase("acme", everything_of("u_3", false));
    assert_eq!(asker.rows("acme", count), [json!([0])]);
    store.flush();
    store.store.erase_attempts(std::slice::from_ref(&order), &mut Unhurried, &mut |_| {}).unwrap();
    store.store.unhide(&[order]);
    assert_eq!(asker.rows("acme", count), [json!([0])]);
    assert_eq!(asker.rows("acme", others), kept);
    assert_ne!(asker.rows("default", "SELECT count(*) FROM attempts"), [json!([0])]);
}
