//! The store across flushes and restarts.

use systole_storage::{KeyRecord, LatestValue, Sequence};

use super::fixture::{Samples, TestStore, heart_rate};

#[test]
fn latest_is_the_same_after_a_flush_and_after_restarts() {
    let dir = tempfile::tempdir().unwrap();
    let mut store = TestStore::open(dir.path());
    store.commit(&heart_rate("u_1", 1_000_000, 10));
    store.commit(&Samples { source: "apple", ..heart_rate("u_1", 1_005_000, 5) });
    store.commit(&Samples { metric: "steps", rows: vec![(5, 100.0)], ..heart_rate("u_1", 0, 1) });
    // A correction of the newest value, and a late sample that is not newest.
    store.commit(&Samples { rows: vec![(1_009_000, 77.0)], ..heart_rate("u_1", 0, 1) });
    store.commit(&heart_rate("u_1", 500, 2));
    let value = |metric: &str, value, recorded_at, sequence| LatestValue {
        metric: metric.to_owned(),
        value,
        recorded_at,
        sequence: Sequence(sequence),
    };
    let expected = [value("heart_rate", 77.0, 1_009_000, 4), value("steps", 100.0, 5, 3)];
    assert_eq!(store.store.series().latest("default", "u_1").unwrap(), expected);
    drop(store);
    let mut store = TestStore::open(dir.path());
    assert_eq!(store.store.series().latest("default", "u_1").unwrap(), expected);
    store.flush();
    assert_eq!(store.store.series().latest("default", "u_1").unwrap(), expected);
    drop(store);
    let store = TestStore::open(dir.path());
    assert_eq!(store.store.series().latest("default", "u_1").unwrap(), expected);
    assert_eq!(store.store.series().latest("acme", "u_1").unwrap(), []);
    assert_eq!(store.store.series().latest("default", "u_2").unwrap(), []);
}

#[test]
fn a_user_with_many_devices_has_one_latest_value_a_metric() {
    let dir = tempfile::tempdir().unwrap();
    let mut store = TestStore::open(dir.path());
    let devices: Vec<&'static str> = (0..200).map(|at| &*format!("d_{at}").leak()).collect();
    for (at, device) in (0i64..).zip(&devices) {
        store.commit(&Samples { device: Some(device), ..heart_rate("u_1", at * 10_000, 3) });
    }
    // An old sample of a device that is known: it is not the latest.
    store.commit(&Samples { device: Some(devices[150]), ..heart_rate("u_1", 5, 1) });
    assert_eq!(store.store.series().series_count(), 200);
    let latest = store.store.series().latest("default", "u_1").unwrap();
    assert_eq!((latest.len(), latest[0].recorded_at, latest[0].value), (1, 1_992_000, 62.0));
}

#[test]
fn a_long_journal_is_replayed_with_the_memory_of_one_buffer() {
    let dir = tempfile::tempdir().unwrap();
    let mut store = TestStore::open(dir.path());
    for batch in 0..200 {
        store.commit(&heart_rate("u_1", batch * 1_000_000, 500));
    }
    drop(store);
    let store = TestStore::open_with(dir.path(), 256 * 1024).unwrap();
    let snapshot = store.store.snapshot();
    assert!(snapshot.active.byte_len() < 256 * 1024);
    let flushed: u64 = snapshot.files.iter().map(|file| file.record.rows).sum();
    assert_eq!(flushed + snapshot.active.sample_count(), 100_000);
    assert!(snapshot.files.iter().count() > 3);
}

#[test]
fn a_start_after_a_kill_reads_no_file_that_was_merged_from_checkpointed_ones() {
    let dir = tempfile::tempdir().unwrap();
    let mut store = TestStore::open(dir.path());
    // Merged before any checkpoint: a start has to read them all, merged or not.
    for batch in 0..8 {
        store.commit(&heart_rate("u_1", batch * 100_000, 50));
        store.flush();
    }
    assert!(store.compact_some());
    store.compact();
    assert_eq!(store.store.series().position(), Sequence::ZERO);
    store.store.checkpoint_series(store.store.flushed_position(), false).unwrap();
    // A few rows more, which a merge puts into the file of all the others.
    store.commit(&heart_rate("u_1", 900_000, 3));
    store.flush();
    store.compact();
    let record = store.store.catalog().files().unwrap().remove(0);
    assert_eq!((store.paths().len(), record.rows), (1, 403));
    assert!(record.sequence_last <= store.store.series().position(), "a start would read the file");
    let expected = store.store.series().latest("default", "u_1").unwrap();
    assert_eq!(expected[0].recorded_at, 902_000);
    drop(store);
    // A start that read the file would end here.
    let path = dir.path().join(&record.path);
    let mut bytes = std::fs::read(&path).unwrap();
    bytes[100] ^= 4;
    std::fs::write(&path, bytes).unwrap();
    let store = TestStore::open(dir.path());
    assert_eq!(store.store.series().latest("default", "u_1").unwrap(), expected);
}

#[test]
fn sequences_go_on_after_a_flush_emptied_the_journal() {
    let dir = tempfile::tempdir().unwrap();
    let mut store = TestStore::open(dir.path());
    let first = store.commit(&heart_rate("u_1", 0, 1));
    store.flush();
    drop(store);
    let mut store = TestStore::open(dir.path());
    assert!(store.commit(&heart_rate("u_1", 1_000, 1)) > first);
}

#[test]
fn keys_belong_to_their_organisation() {
    let dir = tempfile::tempdir().unwrap();
    let store = TestStore::open(dir.path());
    let catalog = store.store.catalog();
    assert!(catalog.has_org("default").unwrap());
    assert!(catalog.ensure_org("acme").unwrap());
    assert!(!catalog.ensure_org("acme").unwrap());
    let key = KeyRecord {
        id: "key_1".to_owned(),
        org: "acme".to_owned(),
        user: Some("u_1".to_owned()),
        name: None,
        scopes: "ingest read".to_owned(),
        hash: [7; 32],
        created_at: 5,
    };
    catalog.insert_key(&key).unwrap();
    assert_eq!(catalog.find_key(&[7; 32]).unwrap(), Some(key.clone()));
    assert_eq!(catalog.find_key(&[8; 32]).unwrap(), None);
    assert_eq!(catalog.keys("default").unwrap(), []);
    assert_eq!(catalog.delete_key("default", "key_1").unwrap(), None);
    assert_eq!(catalog.delete_key("acme", "key_1").unwrap(), Some(key));
    assert_eq!(catalog.find_key(&[7; 32]).unwrap(), None);
    assert!(!format!("{:?}", catalog.keys("acme").unwrap()).contains('7'));
}
