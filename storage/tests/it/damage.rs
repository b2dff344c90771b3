//! Damaged data files: named once, left where they are, in nobody's way.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::sync::Arc;

use systole_storage::files::{DataFile, erased_in, may_hold};
use systole_storage::frame::Tombstone;
use systole_storage::{Orders, Sequence, StoreError, Unhurried};

use super::fixture::{Samples, TestStore, everything_of, heart_rate, range_of};

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

/// Flushes the samples of a user apart from others'; returns the run.
fn run_of(store: &mut TestStore, samples: &Samples) -> String {
    let before = store.paths();
    store.commit(samples);
    store.flush_only();
    store.paths().into_iter().find(|path| !before.contains(path)).unwrap()
}

#[test]
fn orders_are_carried_out_in_all_files_but_the_damaged_ones() {
    let dir = tempfile::tempdir().unwrap();
    let mut store = TestStore::open(dir.path());
    let damaged = run_of(&mut store, &heart_rate("u_1", JUNE_2026, 10));
    run_of(&mut store, &heart_rate("u_2", JUNE_2026, 10));
    run_of(&mut store, &Samples { org: "acme", ..heart_rate("u_1", JUNE_2026, 10) });
    flip(&dir.path().join(&damaged));
    let user = |user| everything_of(user, false);
    let (first, second) = (store.erase("default", user("u_1")), store.erase("default", user("u_2")));
    let other = store.erase("acme", user("u_1"));
    let all = [first.clone(), second.clone(), other.clone()];
    let holds = |file: &Arc<DataFile>| Ok(!erased_in(file, &all)?.is_empty());
    let left = store.store.rewrite(Sequence(u64::MAX), &holds, &mut Unhurried).unwrap();
    let left: Vec<&str> = left.iter().map(|file| file.record.path.as_str()).collect();
    assert_eq!(left, [damaged.as_str()]);
    assert_eq!(store.paths(), [damaged.as_str()], "of the others nothing is left");
    let file = store.store.snapshot().files.iter().next().unwrap().clone();
    let may_hold = |order: &Tombstone| may_hold(&file, order);
    assert_eq!((may_hold(&first), may_hold(&second), may_hold(&other)), (true, false, false));
}

#[test]
fn of_a_damaged_segment_every_whole_frame_is_written_anew() {
    let dir = tempfile::tempdir().unwrap();
    let mut store = TestStore::open(dir.path());
    let users = ["user_one", "user_two", "user_three"];
    for (at, user) in users.iter().enumerate() {
        let org = if at == 0 { "acme" } else { "default" };
        store.commit(&Samples { org, ..heart_rate(user, JUNE_2026, 500) });
    }
    store.flush_only();
    let path = dir.path().join("journal/0000000001.segment");
    let contents = || fs::read(&path).unwrap();
    let has = |bytes: &[u8], name: &str| bytes.windows(name.len()).any(|part| part == name.as_bytes());
    // A value of the second frame.
    let mut bytes = contents();
    let middle = bytes.windows(8).position(|part| part == b"user_two").unwrap() - 1000;
    bytes[middle] ^= 4;
    fs::write(&path, &bytes).unwrap();
    let erased = |store: &mut TestStore, org, at: usize| store.erase(org, everything_of(users[at], false));
    let all = vec![
        erased(&mut store, "acme", 0),
        erased(&mut store, "default", 1),
        store.erase("acme", range_of(None, None, 0..1)),
    ];
    let orders = Orders::new(all.clone());
    for round in 0..2 {
        let broken = store.broken_segments(&orders);
        assert_eq!(broken.len(), 1, "{round}");
        assert!(has(&broken[0].bytes, users[1]) && !has(&broken[0].bytes, users[0]), "{round}");
        assert!(broken[0].fault.to_string().contains("0000000001.segment"), "{}", broken[0].fault);
        let expected: BTreeSet<String> = [all[1].id.clone(), all[2].id.clone()].into();
        assert_eq!(orders.maybe_in(&broken[0].bytes), expected, "{round}");
        let left = users.map(|user| has(&contents(), user));
        assert_eq!(left, [false, true, true], "{round}: what is broken stays, and what nobody erased");
    }
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
