//! Compaction: runs into periods, and what it must not lose.

use std::cell::RefCell;
use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::sync::Arc;

use systole_storage::compact::FILE_BYTES_MAX;
use systole_storage::files::{DataFile, erased_in};
use systole_storage::hidden::{EVERY_METRIC, RetentionRule};
use systole_storage::{Orders, Pace, Sequence, StoreError, Unhurried};

use super::fixture::{Merging, Samples, TestStore, everything_of, heart_rate};

const JUNE_2026: i64 = 1_782_805_500_000;
const DAY: i64 = 86_400_000;

fn rows(store: &TestStore) -> u64 {
    store.store.snapshot().files.iter().map(|file| file.record.rows).sum()
}

#[test]
fn rows_go_to_the_hive_partition_of_their_period() {
    let dir = tempfile::tempdir().unwrap();
    let mut store = TestStore::open(dir.path());
    store.commit(&heart_rate("u_1", JUNE_2026, 3));
    store.commit(&Samples { org: "acme", ..heart_rate("u_1", JUNE_2026, 2) });
    store.commit(&Samples { metric: "steps", ..heart_rate("u_1", JUNE_2026 - 366 * DAY, 1) });
    store.flush();
    store.compact();
    let name = "bucket=0/1-00000000000000000001.parquet";
    assert_eq!(
        store.paths(),
        [
            format!("samples/org=acme/metric=heart_rate/period=2026/{name}"),
            format!("samples/org=default/metric=heart_rate/period=2026/{name}"),
            format!("samples/org=default/metric=steps/period=2025/{name}"),
        ]
    );
    assert!(!dir.path().join("runs/0-00000000000000000003.parquet").exists());
    let record = &store.store.catalog().files().unwrap()[1];
    assert_eq!((record.org.as_str(), record.metric.as_str(), record.rows), ("default", "heart_rate", 3));
}

#[test]
fn rows_of_a_coarse_period_follow_when_a_finer_one_appears() {
    let dir = tempfile::tempdir().unwrap();
    let mut store = TestStore::open(dir.path());
    for (user, time) in [("u_1", JUNE_2026), ("u_1", JUNE_2026 - 60 * DAY), ("u_2", JUNE_2026)] {
        store.commit(&heart_rate(user, time, 10));
    }
    store.flush();
    store.compact();
    // As a compaction leaves it that met enough rows of June.
    let year = &store.store.snapshot().files.iter().next().unwrap().clone();
    let mut june = year.record.clone();
    june.path = year.record.path.replace("period=2026", "period=2026-06");
    june.period = "2026-06".to_owned();
    let path = dir.path().join(&june.path);
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::copy(&year.path, &path).unwrap();
    drop((store, year.clone()));
    let connection = rusqlite::Connection::open(dir.path().join(systole_storage::CATALOG_FILE)).unwrap();
    let copy = |table: &str, columns: &str, values: &str| {
        let sql = format!("INSERT INTO {table} ({columns}) SELECT {values} FROM {table}");
        connection.execute(&sql, [&june.path]).unwrap();
    };
    let rest =
        "org, metric, row_count, sequence_first, sequence_last, user_min, user_max, time_min, time_max";
    copy(
        "files",
        &format!("path, period, bucket, bucket_bits, level, byte_count, block_crc32c, created_at, {rest}"),
        &format!("?1, '2026-06', bucket, bucket_bits, level, byte_count, block_crc32c, created_at, {rest}"),
    );
    copy(
        "sections",
        &format!("path, ordinal, unique_keys, days, {rest}"),
        &format!("?1, ordinal, unique_keys, days, {rest}"),
    );
    drop(connection);
    let mut store = TestStore::open(dir.path());
    assert!(store.compact_some(), "the year's rows of June have a better place");
    store.compact();
    let files = store.store.catalog().files().unwrap();
    let periods: Vec<(&str, u64)> = files.iter().map(|file| (file.period.as_str(), file.rows)).collect();
    // The copy held May too, which the year keeps for its own.
    assert_eq!(periods.iter().map(|(_, rows)| rows).sum::<u64>(), 30, "{periods:?}");
    assert!(periods.iter().any(|&(period, rows)| period == "2026-06" && rows >= 20), "{periods:?}");
}

#[test]
fn superseded_rows_stay_until_it_is_decided_what_they_changed() {
    let dir = tempfile::tempdir().unwrap();
    let mut store = TestStore::open(dir.path());
    for value in [1.0, 2.0, 3.0] {
        store.commit(&Samples { rows: vec![(JUNE_2026, value)], ..heart_rate("u_1", 0, 1) });
        store.flush();
    }
    store.store.compact_whole(Sequence(2), &|_| false, &mut Unhurried).unwrap();
    let files = store.store.catalog().files().unwrap();
    assert_eq!((files.len(), files[0].rows, files[0].sections[0].unique), (1, 2, false));
    store.compact();
    let files = store.store.catalog().files().unwrap();
    assert_eq!((files.len(), files[0].rows, files[0].sections[0].unique), (1, 1, true));
    assert_eq!(store.compact().jobs, 0);
}

#[test]
fn eight_runs_are_merged_and_few_rows_wait_in_a_run() {
    let dir = tempfile::tempdir().unwrap();
    let mut store = TestStore::open(dir.path());
    for batch in 0..8 {
        assert!(!store.compact_some(), "{batch}");
        for user in 0..10 {
            store.commit(&heart_rate(&format!("u_{user}"), JUNE_2026 + batch * 40_000_000, 3_000));
        }
        store.commit(&Samples { metric: "steps", ..heart_rate("u_1", JUNE_2026 + batch * 1000, 1) });
        store.flush();
    }
    assert!(store.compact_some());
    let files = store.store.catalog().files().unwrap();
    let found: Vec<_> = files.iter().map(|file| (file.path.starts_with("runs/1-"), file.rows)).collect();
    assert_eq!(found, [(true, 8), (false, 240_000)]);
    assert!(!store.compact_some());
}

#[test]
fn files_that_were_replaced_go_with_their_last_reader() {
    let dir = tempfile::tempdir().unwrap();
    let mut store = TestStore::open(dir.path());
    store.commit(&heart_rate("u_1", JUNE_2026, 3));
    store.flush();
    let read = store.store.snapshot();
    let run = dir.path().join(&store.paths()[0]);
    store.compact();
    assert!(run.exists());
    drop(read);
    assert_eq!(store.store.bury().unwrap(), 1);
    assert!(!run.exists());
}

#[test]
fn a_start_removes_what_a_compaction_left() {
    let dir = tempfile::tempdir().unwrap();
    let mut store = TestStore::open(dir.path());
    store.commit(&heart_rate("u_1", JUNE_2026, 3));
    store.flush();
    let read = store.store.snapshot();
    let run = dir.path().join(&store.paths()[0]);
    store.compact();
    let whole = dir.path().join(&store.paths()[0]);
    // Another one wrote its file, and its transaction never came.
    let number = store.store.catalog().begin_compaction().unwrap();
    let stray = whole.with_file_name(format!("2-{number:020}.parquet"));
    fs::copy(&whole, &stray).unwrap();
    drop((read, store));
    assert!(run.exists());
    let store = TestStore::open(dir.path());
    assert!(!run.exists() && !stray.exists() && whole.exists());
    assert_eq!(rows(&store), 3);
    // What nobody explains is nobody's to remove.
    drop(store);
    fs::copy(&whole, &stray).unwrap();
    assert!(matches!(TestStore::try_open(dir.path()), Err(StoreError::Unlisted { .. })));
    assert!(stray.exists());
}

#[test]
fn a_compaction_that_is_stopped_changes_nothing() {
    struct Never;
    impl Pace for Never {
        fn go_on(&mut self, _: u64) -> bool {
            false
        }
    }
    let dir = tempfile::tempdir().unwrap();
    let mut store = TestStore::open(dir.path());
    for user in 0..10 {
        store.commit(&heart_rate(&format!("u_{user}"), JUNE_2026, 5_000));
    }
    store.flush();
    let before = store.paths();
    store.store.compact_whole(Sequence(u64::MAX), &|_| false, &mut Never).unwrap();
    assert_eq!(store.paths(), before);
    assert_eq!(store.store.catalog().unfinished().unwrap(), [] as [u64; 0]);
    assert_eq!(store.compact().rows_written, 50_000);
}

#[test]
fn many_runs_are_gathered_before_they_are_cut_into_periods() {
    let dir = tempfile::tempdir().unwrap();
    let mut store = TestStore::open(dir.path());
    for batch in 0..40 {
        store.commit(&heart_rate("u_1", JUNE_2026 + batch * DAY * 20, 50));
        store.commit(&heart_rate(&format!("u_{batch}"), JUNE_2026, 50));
        store.flush();
    }
    let report = store.compact();
    assert!(report.jobs > 2);
    assert_eq!((store.store.backlog().runs, rows(&store)), (0, 4_000 - 50));
    assert_eq!(store.paths().len(), 3, "a file for each of three years");
}

#[test]
fn a_file_may_be_rewritten_although_nothing_changed() {
    let dir = tempfile::tempdir().unwrap();
    let mut store = TestStore::open(dir.path());
    store.commit(&heart_rate("u_1", JUNE_2026, 3));
    store.flush();
    store.compact();
    let report = store.store.compact_whole(Sequence(u64::MAX), &|_| true, &mut Unhurried).unwrap();
    assert_eq!((report.jobs, report.rows_written), (1, 3));
    assert!(FILE_BYTES_MAX > 0 && Arc::strong_count(&store.store) == 1);
}

#[test]
fn what_is_merged_while_files_are_written_anew_loses_what_was_erased_too() {
    let dir = tempfile::tempdir().unwrap();
    let mut store = TestStore::open(dir.path());
    for run in 0..20 {
        for user in ["u_1", "u_2"] {
            store.commit(&heart_rate(user, JUNE_2026 + run * 100_000, 10));
        }
        store.flush();
    }
    let before: BTreeSet<String> = store.paths().into_iter().collect();
    let order = [store.erase("default", everything_of("u_1", false))];
    let holds = |file: &Arc<DataFile>| Ok::<bool, StoreError>(!erased_in(file, &order)?.is_empty());
    let held: RefCell<BTreeSet<String>> = RefCell::default();
    let which = |file: &Arc<DataFile>| {
        let holds = holds(file)?;
        held.borrow_mut().extend(holds.then(|| file.record.path.clone()));
        Ok(holds)
    };
    let damaged = store.store.rewrite(Sequence(u64::MAX), &which, &mut Merging(&store.store)).unwrap();
    assert!(damaged.is_empty());
    assert_eq!(*held.borrow(), before, "each of them held something");
    assert!(store.paths().len() < 10, "many were merged: {:?}", store.paths());
    assert!(store.store.snapshot().files.iter().all(|file| !holds(file).unwrap()));
    assert_eq!(rows(&store), 200);
    store.store.bury().unwrap();
    assert!(before.iter().all(|path| !dir.path().join(path).exists()));
}

/// Says of every file that it was written at `time`; the store is closed.
fn set_written(data_dir: &Path, time: i64) {
    let connection = rusqlite::Connection::open(data_dir.join(systole_storage::CATALOG_FILE)).unwrap();
    connection.execute("UPDATE files SET created_at = ?1", [time]).unwrap();
}

#[test]
fn a_run_that_was_written_anew_for_an_erasure_keeps_its_level_and_age() {
    let dir = tempfile::tempdir().unwrap();
    let mut store = TestStore::open(dir.path());
    for user in ["u_1", "u_2", "u_3"] {
        store.commit(&heart_rate(user, JUNE_2026, 3));
    }
    store.flush();
    drop(store);
    let now = chrono::Utc::now().timestamp_millis();
    set_written(dir.path(), now - 6 * DAY);
    let mut store = TestStore::open(dir.path());
    for (user, left) in [("u_1", 6), ("u_2", 3)] {
        store.erase("default", everything_of(user, false));
        store.rewrite_files(&Orders::new(store.store.hidden().waiting()));
        let files = store.store.catalog().files().unwrap();
        let found: Vec<_> = files.iter().map(|file| (file.level, file.created_at, file.rows)).collect();
        assert_eq!(found, [(1, now - 6 * DAY, left)], "{user}");
        assert!(store.paths()[0].starts_with("runs/1-") && !store.compact_some(), "{user}");
    }
    drop(store);
    set_written(dir.path(), now - 8 * DAY);
    let mut store = TestStore::open(dir.path());
    assert!(store.compact_some(), "its rows wait for longer than a run is kept");
    assert!(store.paths()[0].starts_with("samples/"));
}

#[test]
fn a_file_is_written_anew_when_many_of_its_rows_are_aged_or_the_first_long_since() {
    // Days back of the oldest rows and how many they are, days that samples are kept,
    // days since the file was written; whether the oldest go.
    let cases = [
        (40, 30, 20, 2, true),
        (40, 30, 20, 0, false),
        (40, 20, 20, 2, false),
        (40, 20, 9, 2, true),
        (40, 30, 41, 2, false),
    ];
    for (days_back, aged, kept_days, written_days, goes) in cases {
        let what =
            format!("{aged} rows of {days_back} days ago, kept for {kept_days}, written {written_days} ago");
        let dir = tempfile::tempdir().unwrap();
        let mut store = TestStore::open(dir.path());
        let now = chrono::Utc::now().timestamp_millis();
        store.commit(&heart_rate("u_1", now - days_back * DAY, aged));
        store.commit(&heart_rate("u_2", now - DAY / 2, 100 - aged));
        store.flush();
        store.compact();
        drop(store);
        set_written(dir.path(), now - written_days * DAY);
        let mut store = TestStore::open(dir.path());
        assert_eq!(rows(&store), 100);
        if store.paths().len() > 1 && !goes {
            // The year turned between the two, and all rows of one file are aged.
            continue;
        }
        let rule = |days| RetentionRule { metric: EVERY_METRIC.to_owned(), days: Some(days) };
        store.store.set_retention("default", vec![rule(kept_days)]).unwrap();
        while store.compact_some() {}
        let expected = if goes { 100 - aged as u64 } else { 100 };
        assert_eq!(rows(&store), expected, "{what}");
        assert!(!store.compact_some(), "{what}: once a day");
    }
}
