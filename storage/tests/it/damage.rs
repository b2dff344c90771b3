//! Damaged data files: named once, left where they are, in nobody's way.

use std::fs;
use std::path::Path;

use systole_storage::{Sequence, StoreError, Unhurried};

use super::fixture::{TestStore, heart_rate};

const JUNE_2026: i64 = 1_782_805_500_000;

/// Flips a bit of a file.
fn flip(path: &Path) {
    let mut bytes = fs::read(path).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 4;
    fs::write(path, bytes).unwrap();
}

/// Cuts a file short.
fn cut(path: &Path) {
    let bytes = fs::read(path).unwrap();
    fs::write(path, &bytes[..bytes.len() / 2]).unwrap();
}

/// A store with runs of ten samples each, which are enough to be merged.
fn store_with_runs(data_dir: &Path, runs: i64) -> TestStore {
    let mut store = TestStore::open(data_dir);
    for run in 0..runs {
        store.commit(&heart_rate("u_1", JUNE_2026 + run * 100_000, 10));
        store.flush();
    }
    store
}

#[test]
fn a_damaged_run_is_left_out_and_the_others_are_merged() {
    for damage in [flip, cut] {
        let dir = tempfile::tempdir().unwrap();
        let mut store = store_with_runs(dir.path(), 9);
        let damaged = store.paths().remove(2);
        damage(&dir.path().join(&damaged));
        assert!(store.compact_some(), "eight are whole");
        assert_eq!(store.store.damaged_files(), [damaged.as_str()]);
        assert!(!store.compact_some());
        store.compact();
        let files = store.store.catalog().files().unwrap();
        let found: Vec<_> = files.iter().map(|file| (file.path.starts_with("runs/"), file.rows)).collect();
        assert_eq!(found, [(true, 10), (false, 80)]);
        assert_eq!(files[0].path, damaged);
        // Others that come later are merged as ever.
        for run in 10..18 {
            store.commit(&heart_rate("u_1", JUNE_2026 + run * 100_000, 10));
            store.flush();
        }
        assert!(store.compact_some());
        assert_eq!(store.store.damaged_files(), [damaged.as_str()]);
    }
}

#[test]
fn a_damaged_file_of_a_period_is_left_out_and_the_others_are_merged() {
    let dir = tempfile::tempdir().unwrap();
    let mut store = store_with_runs(dir.path(), 1);
    store.compact();
    let damaged = store.paths().remove(0);
    flip(&dir.path().join(&damaged));
    for run in 1..4 {
        store.commit(&heart_rate("u_1", JUNE_2026 + run * 100_000, 10));
        store.commit(&heart_rate("u_2", JUNE_2026 - 400 * 86_400_000, 1));
        store.flush();
        store.compact();
    }
    let files = store.store.catalog().files().unwrap();
    let periods: Vec<_> = files.iter().map(|file| (file.period.as_str(), file.rows)).collect();
    assert_eq!(periods, [("2025", 1), ("2026", 10), ("2026", 30)]);
    assert_eq!(store.store.damaged_files(), [damaged]);
}

#[test]
fn a_file_that_cannot_be_read_just_now_is_not_taken_for_a_damaged_one() {
    let dir = tempfile::tempdir().unwrap();
    let mut store = store_with_runs(dir.path(), 8);
    let path = dir.path().join(&store.paths()[3]);
    let aside = dir.path().join("aside");
    fs::rename(&path, &aside).unwrap();
    fs::create_dir(&path).unwrap();
    let failed = store.store.compact_some(Sequence(u64::MAX), &mut Unhurried);
    assert!(matches!(failed, Err(StoreError::Read(_))), "{failed:?}");
    assert_eq!(store.store.damaged_files(), [] as [String; 0]);
    fs::remove_dir(&path).unwrap();
    fs::rename(&aside, &path).unwrap();
    assert!(store.compact_some());
    assert_eq!(store.compact().rows_written, 80);
}
