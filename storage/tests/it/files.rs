//! Data files: their place, their columns, their checksums.

use std::fs;

use arrow::array::AsArray;
use arrow::datatypes::Int32Type;
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use systole_storage::files::COLUMN_NAMES;
use systole_storage::{LaneChanges, Sequence, Store, StoreError, StoreSettings};

use super::fixture::{Samples, TestStore, heart_rate};

const JUNE_2026: i64 = 1_782_805_500_000;

#[test]
fn a_flush_writes_one_sorted_run_whatever_it_holds() {
    let dir = tempfile::tempdir().unwrap();
    let mut store = TestStore::open(dir.path());
    for user in ["u_2", "u_1", "u_3"] {
        store.commit(&heart_rate(user, JUNE_2026, 3));
    }
    store.commit(&Samples { org: "acme", ..heart_rate("u_1", JUNE_2026, 2) });
    store.commit(&Samples { metric: "steps", ..heart_rate("u_1", JUNE_2026 - 366 * 86_400_000, 1) });
    store.flush();
    let files = store.store.catalog().files().unwrap();
    assert_eq!(store.paths(), ["runs/0-00000000000000000005.parquet"]);
    let sections = files[0].sections.iter();
    let sections: Vec<_> = sections.map(|it| (it.org.as_str(), it.metric.as_str(), it.rows)).collect();
    assert_eq!(sections, [("acme", "heart_rate", 2), ("default", "heart_rate", 9), ("default", "steps", 1)]);
    assert_eq!(files[0].sections[1].days, [(20_634, 9)]);
    let (names, users) = names_and_users(&dir.path().join(&files[0].path));
    assert_eq!(names, COLUMN_NAMES);
    let wanted: Vec<&str> = ["u_1"; 2].into_iter().chain(["u_1"; 3]).chain(["u_2"; 3]).collect();
    assert_eq!(users[..8], wanted);
}

fn names_and_users(path: &std::path::Path) -> (Vec<String>, Vec<String>) {
    let reader = ParquetRecordBatchReaderBuilder::try_new(fs::File::open(path).unwrap()).unwrap();
    let names = reader.schema().fields().iter().map(|field| field.name().clone()).collect();
    let batches = reader.build().unwrap().map(Result::unwrap);
    let users = batches.flat_map(|batch| {
        let users = batch.column(1).as_dictionary::<Int32Type>().clone();
        let texts = users.values().as_string::<i32>().clone();
        users.keys().values().iter().map(|&key| texts.value(key as usize).to_owned()).collect::<Vec<_>>()
    });
    (names, users.collect())
}

#[test]
fn rows_superseded_within_a_flush_are_not_written() {
    let dir = tempfile::tempdir().unwrap();
    let mut store = TestStore::open(dir.path());
    store.commit(&heart_rate("u_1", JUNE_2026, 10));
    store.commit(&Samples {
        rows: vec![(JUNE_2026, 99.0), (JUNE_2026 + 1000, 98.0)],
        ..heart_rate("u_1", 0, 1)
    });
    store.flush();
    assert_eq!(store.store.catalog().files().unwrap()[0].rows, 10);
}

#[test]
fn what_an_unfinished_flush_left_is_removed_and_other_files_stay() {
    let dir = tempfile::tempdir().unwrap();
    let mut store = TestStore::open(dir.path());
    store.commit(&heart_rate("u_1", JUNE_2026, 3));
    store.flush();
    store.commit(&heart_rate("u_1", JUNE_2026 + 5000, 3));
    let listed = dir.path().join(&store.store.catalog().files().unwrap()[0].path);
    // The flush of sequence 2 wrote its file, but its transaction never came.
    let stray = listed.with_file_name("0-00000000000000000002.parquet");
    let unfinished = listed.with_file_name("0-00000000000000000003.parquet.tmp");
    let foreign = dir.path().join("runs/_SUCCESS");
    drop(store);
    fs::copy(&listed, &stray).unwrap();
    fs::write(&unfinished, b"half").unwrap();
    fs::write(&foreign, b"").unwrap();
    TestStore::open(dir.path());
    assert!(listed.exists() && foreign.exists() && !stray.exists() && !unfinished.exists());
}

#[test]
fn a_start_cut_short_after_it_flushed_can_be_tried_again() {
    let dir = tempfile::tempdir().unwrap();
    let mut store = TestStore::open(dir.path());
    for batch in 0..100 {
        store.commit(&heart_rate("u_1", JUNE_2026 + batch * 1_000_000, 500));
    }
    drop(store);
    // A flush of the first samples wrote its file, but its transaction never came.
    let stray = dir.path().join("runs/0-00000000000000000002.parquet");
    fs::create_dir_all(stray.parent().unwrap()).unwrap();
    fs::write(&stray, b"unfinished").unwrap();
    // The start flushes while it replays, then ends at a damaged frame.
    let damaged = dir.path().join("journal/0000000010.segment");
    let whole = fs::read(&damaged).unwrap();
    let mut flipped = whole.clone();
    flipped[1000] ^= 1;
    fs::write(&damaged, &flipped).unwrap();
    TestStore::open_with(dir.path(), 64 * 1024).err().expect("a damaged frame");
    fs::write(&damaged, &whole).unwrap();
    let store = TestStore::open_with(dir.path(), 64 * 1024).unwrap();
    let snapshot = store.store.snapshot();
    let rows: u64 = snapshot.files.iter().map(|file| file.record.rows).sum();
    assert!(rows > 0 && !stray.exists());
    assert_eq!(rows + snapshot.active.sample_count(), 50_000);
}

#[test]
fn a_lost_catalog_stops_the_start_and_removes_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let mut store = TestStore::open(dir.path());
    for batch in 0..300 {
        store.commit(&heart_rate("u_1", JUNE_2026 + batch * 1_000_000, 100));
    }
    store.flush();
    let listed = dir.path().join(&store.store.catalog().files().unwrap()[0].path);
    store.commit(&heart_rate("u_2", JUNE_2026, 3));
    drop(store);
    let kept = dir.path().join("catalog.kept");
    fs::rename(dir.path().join("catalog.db"), &kept).unwrap();
    let _ = fs::remove_file(dir.path().join("catalog.db-wal"));
    let _ = fs::remove_file(dir.path().join("catalog.db-shm"));
    TestStore::try_open(dir.path()).err().expect("a journal without its beginning");
    assert!(listed.exists());
    // Also where the journal is whole: its samples are not those of the file.
    fs::remove_file(dir.path().join("catalog.db")).unwrap();
    fs::remove_dir_all(dir.path().join("journal")).unwrap();
    assert!(matches!(TestStore::try_open(dir.path()), Err(StoreError::Unlisted { .. })));
    assert!(listed.exists());
}

#[test]
fn a_catalog_of_a_later_time_stops_the_start_and_says_which_position() {
    let dir = tempfile::tempdir().unwrap();
    let mut store = TestStore::open(dir.path());
    store.commit(&heart_rate("u_1", JUNE_2026, 3));
    for routed in [1, 2] {
        let changes = LaneChanges { routed: Some(Sequence(routed)), ..LaneChanges::default() };
        store.store.catalog().save_lanes(&changes).unwrap();
        drop(store);
        match TestStore::try_open(dir.path()) {
            Ok(opened) => store = opened,
            Err(error) => {
                let said = error.to_string();
                assert!(said.contains("position routed is 2, beyond 1,"), "{said}");
                return;
            }
        }
    }
    panic!("what comes next would be taken for routed");
}

#[test]
fn a_missing_or_damaged_data_file_stops_the_start_and_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let mut store = TestStore::open(dir.path());
    store.commit(&heart_rate("u_1", JUNE_2026, 5000));
    store.flush();
    let record = store.store.catalog().files().unwrap().remove(0);
    drop(store);
    let path = dir.path().join(&record.path);
    let whole = fs::read(&path).unwrap();
    let mut flipped = whole.clone();
    flipped[whole.len() / 3] ^= 4;
    fs::write(&path, &flipped).unwrap();
    let error = TestStore::try_open(dir.path()).err().unwrap();
    let text = format!("{error:?}");
    assert!(text.contains("block: 0") && text.contains(&record.path), "{text}");
    fs::remove_file(&path).unwrap();
    assert!(matches!(TestStore::try_open(dir.path()), Err(StoreError::FileMissing { actual: None, .. })));
    fs::write(&path, &whole).unwrap();
    TestStore::open(dir.path());
}

#[test]
fn a_data_dir_is_used_by_one_process_at_a_time() {
    let dir = tempfile::tempdir().unwrap();
    let _store = TestStore::open(dir.path());
    let settings = StoreSettings {
        data_dir: dir.path().to_owned(),
        segment_bytes: 64 * 1024,
        flush_bytes: 1 << 20,
        series_bytes: 64 << 20,
    };
    assert!(matches!(Store::open(&settings), Err(StoreError::InUse { .. })));
}
