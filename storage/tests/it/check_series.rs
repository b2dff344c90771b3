//! `systole check` on checkpoints of the series map, and on stores of which something was
//! erased.

use std::fs;
use std::path::PathBuf;

use systole_storage::Orders;
use systole_storage::check::{Fault, Note};
use systole_storage::hidden::{EVERY_METRIC, RetentionRule};
use tempfile::TempDir;

use super::check::{JUNE_2026, checkpoint, data_files, faults, fill, notes, settle, sql, with_flip};
use super::erasing::set_newest;
use super::fixture::{Samples, TestStore, everything_of, heart_rate, range_of};

/// A round of samples that were recorded in 2013.
const LONG_AGO: i64 = -400_000;

/// A store with a large base, a delta with few users, and rows behind both.
fn checkpointed() -> TempDir {
    let dir = tempfile::tempdir().unwrap();
    let mut store = TestStore::open(dir.path());
    store.store.catalog().ensure_org("acme").unwrap();
    for round in 0..3 {
        match round {
            0 => {
                fill(&mut store, 0);
                for user in 0..300 {
                    store.commit(&heart_rate(&format!("w_{user}"), JUNE_2026, 2));
                }
            }
            1 => {
                for user in ["u_1", "u_9"] {
                    store.commit(&heart_rate(user, JUNE_2026 + 1_000_000, 20));
                }
            }
            _ => fill(&mut store, 2),
        }
        store.flush();
        // None of it stays in the journal.
        store.rewrite_segments(&Orders::new(Vec::new()));
        store.flush();
        if round < 2 {
            store.store.checkpoint_series(store.store.flushed_position(), false).unwrap();
        }
        assert_eq!(faults_of(store, &dir), [], "round {round}");
        store = TestStore::open(dir.path());
    }
    fill(&mut store, 3);
    drop(store);
    checkpoint(&dir);
    assert_eq!(checkpoints(&dir).len(), 2);
    dir
}

/// What a check says of a store that is stopped for it.
fn faults_of(store: TestStore, dir: &TempDir) -> Vec<Fault> {
    drop(store);
    faults(dir.path())
}

fn checkpoints(dir: &TempDir) -> Vec<PathBuf> {
    let catalog = systole_storage::Catalog::open_to_read(dir.path()).unwrap();
    catalog.checkpoints().unwrap().0.into_iter().map(|file| dir.path().join(file.path)).collect()
}

#[test]
fn a_flipped_bit_anywhere_in_a_checkpoint_is_named() {
    let dir = checkpointed();
    assert_eq!(faults(dir.path()), []);
    for path in checkpoints(&dir) {
        let bytes = fs::metadata(&path).unwrap().len() as usize;
        // The first eight bytes say what it is; nothing reads them.
        for at in (8..bytes).step_by(bytes / 40 + 1).chain([bytes - 1]) {
            let found = with_flip(&path, at, || faults(dir.path()));
            let [Fault::Checkpoint { path: named, .. }] = found.as_slice() else {
                panic!("{} at {at}: {found:?}", path.display())
            };
            assert!(path.ends_with(named), "{named}");
        }
        let whole = fs::read(&path).unwrap();
        fs::write(&path, &whole[..bytes - 1]).unwrap();
        assert!(matches!(faults(dir.path()).as_slice(), [Fault::Length { .. }]));
        fs::remove_file(&path).unwrap();
        let found = faults(dir.path());
        assert!(matches!(found.as_slice(), [Fault::Missing { path: named }] if path.ends_with(named)));
        fs::write(&path, whole).unwrap();
    }
    fs::write(dir.path().join("latest/00000000000000000099.series"), b"left").unwrap();
    assert!(matches!(notes(dir.path()).as_slice(), [Note::Leftover { .. }]));
}

#[test]
fn checkpoints_that_do_not_know_what_the_files_hold_are_named_by_the_row() {
    let dir = checkpointed();
    let catalog = dir.path().join(systole_storage::CATALOG_FILE);
    let whole = fs::read(&catalog).unwrap();
    let cases = [
        ("UPDATE checkpoints SET user_count = user_count + 1", "users and"),
        ("UPDATE checkpoints SET series_count = series_count - 1", "users and"),
        // The last flush is in none of them.
        (
            "UPDATE positions SET sequence = (SELECT sequence FROM positions WHERE name = 'flushed')
             WHERE name = 'checkpointed'",
            "within what the checkpoints know",
        ),
        ("UPDATE positions SET sequence = sequence + 1000 WHERE name = 'checkpointed'", "checkpointed"),
        ("DELETE FROM checkpoints WHERE path = (SELECT max(path) FROM checkpoints)", "newest value in the"),
        ("DELETE FROM checkpoints WHERE path = (SELECT min(path) FROM checkpoints)", "within what the"),
    ];
    for (statement, expected) in cases {
        sql(&dir, statement);
        checkpoint(&dir);
        let found = faults(dir.path());
        assert!(found.iter().any(|fault| fault.to_string().contains(expected)), "{statement}: {found:?}");
        fs::write(&catalog, &whole).unwrap();
    }
    // A file that is lost together with its row.
    let path = data_files(&dir).into_iter().next().unwrap();
    let name = path.strip_prefix(dir.path()).unwrap().display().to_string();
    fs::remove_file(&path).unwrap();
    sql(
        &dir,
        &format!("DELETE FROM files WHERE path = '{name}'; DELETE FROM sections WHERE path = '{name}'"),
    );
    let found = faults(dir.path());
    assert!(
        found.iter().any(|fault| fault.to_string().contains("newest values have no sample")),
        "{found:?}"
    );
}

#[test]
fn a_store_of_which_something_was_erased_has_no_fault_at_any_step() {
    let dir = tempfile::tempdir().unwrap();
    let mut store = TestStore::open(dir.path());
    store.store.catalog().ensure_org("acme").unwrap();
    store.store.catalog().ensure_org("default").unwrap();
    fill(&mut store, LONG_AGO);
    store.flush_only();
    settle(&store);
    fill(&mut store, LONG_AGO + 1);
    let correction = store.commit(&heart_rate("u_2", JUNE_2026 + LONG_AGO * 1_000_000, 5));
    store.decide(correction, 5);
    store.flush_only();
    store.store.checkpoint_series(store.store.flushed_position(), false).unwrap();
    store.erase("default", everything_of("u_2", false));
    store.erase("acme", everything_of("u_1", true));
    store.erase("default", range_of(Some("u_1"), Some("steps"), i64::MIN..i64::MAX));
    // The newest samples of all users but one's, and some between.
    store.erase("acme", range_of(None, None, JUNE_2026 + (LONG_AGO + 1) * 1_000_000..i64::MAX));
    let between = JUNE_2026 + LONG_AGO * 1_000_000;
    store.erase("default", range_of(None, Some("heart_rate"), between + 10_000..between + 20_000));
    // After its order, and on its way in the moment of the other.
    store.commit(&heart_rate("u_2", JUNE_2026 + LONG_AGO * 1_000_000, 5));
    store.commit(&Samples { org: "acme", ..heart_rate("u_1", JUNE_2026 + LONG_AGO * 1_000_000, 5) });
    store.store.record_tombstones().unwrap();
    store.flush_only();
    assert_eq!(faults_of(store, &dir), [], "ordered");

    let mut store = TestStore::open(dir.path());
    let orders = Orders::new(store.store.hidden().waiting());
    assert_eq!(orders.all().len(), 5);
    store.rewrite_files(&orders);
    assert_eq!(faults_of(store, &dir), [], "out of the files");

    store = TestStore::open(dir.path());
    assert!(store.rewrite_segments(&orders) > 0);
    assert_eq!(faults_of(store, &dir), [], "out of the journal");

    let store = TestStore::open(dir.path());
    set_newest(&store.store, &orders, store.store.flushed_position()).unwrap();
    store.store.forget_blocked(&orders);
    store.store.checkpoint_series(store.store.flushed_position(), true).unwrap();
    store.store.catalog().finish_erasures(&orders.ids()).unwrap();
    store.store.unhide(orders.all());
    assert_eq!(faults_of(store, &dir), [], "done");

    // What is aged leaves the files, and stays in the journal for its readers.
    let store = TestStore::open(dir.path());
    let rule = RetentionRule { metric: EVERY_METRIC.to_owned(), days: Some(1) };
    for org in ["default", "acme"] {
        store.store.set_retention(org, vec![rule.clone()]).unwrap();
    }
    let aged = |file: &std::sync::Arc<systole_storage::files::DataFile>| Ok(store.store.is_aged(file));
    store.store.rewrite(systole_storage::Sequence(u64::MAX), &aged, &mut systole_storage::Unhurried).unwrap();
    store.store.bury().unwrap();
    assert_eq!(store.paths(), [] as [String; 0]);
    assert_eq!(faults_of(store, &dir), [], "aged");

    let store = TestStore::open(dir.path());
    for org in ["default", "acme"] {
        store.store.set_retention(org, Vec::new()).unwrap();
    }
    assert_eq!(faults_of(store, &dir), [], "kept for ever again");
}
