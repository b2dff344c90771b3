//! How fast `systole check` reads a store of real size; in the tests a small one.
//!
//! SYSTOLE_FIGURES=1 cargo test --release -p systole-storage --test it check_figures -- --nocapture

use std::time::Instant;

use systole_storage::check::{CheckParts, MetricRule, Progress, check};
use systole_storage::{Sequence, Unhurried};

use super::fixture::{TestStore, heart_rate, real_sizes};

const ROWS_A_USER: usize = 2_000;
/// 2026-06-01T00:00:00Z
const START: i64 = 1_780_272_000_000;

#[test]
fn check_figures() {
    let users = if real_sizes() { 10_000 } else { 20 };
    let dir = tempfile::tempdir().unwrap();
    let mut store = TestStore::open(dir.path());
    for user in 0..users {
        let jitter = (user % 1000) as i64;
        store.commit(&heart_rate(&format!("user_{user:05}"), START + jitter, ROWS_A_USER));
        if (user + 1) % (users / 10) == 0 {
            store.flush();
        }
    }
    store.store.compact_whole(Sequence(u64::MAX), &|_| false, &mut Unhurried).unwrap();
    store.store.bury().unwrap();
    drop(store);
    for threads in [1, 2] {
        let started = Instant::now();
        let rule = MetricRule { unit: "bpm".to_owned(), hard_min: 1.0, hard_max: 300.0 };
        let checked = check(&CheckParts {
            default_days: None,
            data_dir: dir.path(),
            rules: &|_| {
                let rule = rule.clone();
                Ok(Box::new(move |_, _| Some(rule.clone())))
            },
            found: &|finding| panic!("{finding:?}"),
            progress: &Progress::default(),
            threads,
        })
        .unwrap();
        let seconds = started.elapsed().as_secs_f64();
        println!(
            "{threads} threads: {} files, {} rows, {:.1} MB in {seconds:.2} s: {:.1} M rows/s, {:.1} MB/s",
            checked.files,
            checked.rows,
            checked.bytes as f64 / 1e6,
            checked.rows as f64 / seconds / 1e6,
            checked.bytes as f64 / seconds / 1e6
        );
        assert_eq!(checked.rows, (users * ROWS_A_USER) as u64);
    }
}
