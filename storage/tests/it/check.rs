//! `systole check`: a sound store has no fault, and whatever is broken is named.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use arrow::array::{ArrayRef, Float64Array, RecordBatch, UInt32Array};
use parquet::arrow::ArrowWriter;
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use rusqlite::Connection;
use systole_storage::check::{
    CheckError, CheckParts, Checked, Fault, Finding, MetricRule, Note, Progress, check,
};
use systole_storage::files::{BLOCK_BYTES, samples_schema};
use systole_storage::{CATALOG_FILE, Sequence, Unhurried};
use tempfile::TempDir;

use super::fixture::{Samples, TestStore, heart_rate, places_in};

/// 2026-06-30T07:45:00Z
pub(super) const JUNE_2026: i64 = 1_782_805_500_000;
const DAY_MS: i64 = 86_400_000;

/// What a check found, on two threads.
pub(super) fn try_check(data_dir: &Path) -> Result<(Checked, Vec<Finding>), CheckError> {
    let (progress, findings) = (Progress::default(), Mutex::new(Vec::new()));
    let rule = |_: &str, metric: &str| {
        let rule = MetricRule { unit: "bpm".to_owned(), hard_min: 0.0, hard_max: 300.0 };
        ["heart_rate", "steps", "hrv"].contains(&metric).then_some(rule)
    };
    let checked = check(&CheckParts {
        data_dir,
        default_days: None,
        rules: &|_| Ok(Box::new(rule)),
        found: &|finding| findings.lock().unwrap().push(finding.clone()),
        progress: &progress,
        threads: 2,
    })?;
    let done = |counter: &std::sync::atomic::AtomicU64| counter.load(std::sync::atomic::Ordering::Relaxed);
    assert_eq!(done(&progress.files_done), done(&progress.files));
    let findings = findings.into_inner().unwrap();
    let faults = findings.iter().filter(|finding| matches!(finding, Finding::Fault(_))).count();
    assert_eq!(checked.faults, faults as u64);
    Ok((checked, findings))
}

pub(super) fn faults(data_dir: &Path) -> Vec<Fault> {
    let (_, findings) = try_check(data_dir).unwrap();
    let fault = |finding| if let Finding::Fault(fault) = finding { Some(fault) } else { None };
    findings.into_iter().filter_map(fault).collect()
}

pub(super) fn notes(data_dir: &Path) -> Vec<Note> {
    let (_, findings) = try_check(data_dir).unwrap();
    let note = |finding| match finding {
        Finding::Note(note) => note,
        Finding::Fault(fault) => panic!("{fault}"),
    };
    findings.into_iter().map(note).collect()
}

/// Organisations, metrics, years, devices and corrections, in files and in the journal.
pub(super) fn fill(store: &mut TestStore, round: i64) {
    let start = JUNE_2026 + round * 1_000_000;
    for user in ["u_1", "u_2", "u_3"] {
        store.commit(&heart_rate(user, start, 400));
        store.commit(&Samples { org: "acme", source: "apple", ..heart_rate(user, start, 300) });
        store.commit(&Samples { metric: "steps", device: Some("w-1"), ..heart_rate(user, start, 100) });
    }
    store.commit(&Samples { metric: "steps", ..heart_rate("u_1", start - 400 * DAY_MS, 30) });
    // Half of it again, with other values.
    let corrected =
        heart_rate("u_2", start, 200).rows.iter().map(|(time, value)| (*time, value + 1.0)).collect();
    store.commit(&Samples { rows: corrected, ..heart_rate("u_2", start, 0) });
}

pub(super) fn settle(store: &TestStore) {
    store.store.compact_whole(Sequence(u64::MAX), &|_| false, &mut Unhurried).unwrap();
    store.store.bury().unwrap();
}

/// A store with a run, period files and unflushed frames.
fn filled() -> TempDir {
    let dir = tempfile::tempdir().unwrap();
    let mut store = TestStore::open(dir.path());
    store.store.catalog().ensure_org("acme").unwrap();
    for round in 0..3 {
        fill(&mut store, round);
        store.flush();
    }
    settle(&store);
    fill(&mut store, 3);
    store.flush();
    fill(&mut store, 4);
    let paths: Vec<String> =
        store.store.catalog().files().unwrap().into_iter().map(|file| file.path).collect();
    assert!(paths.iter().any(|path| path.starts_with("runs/")), "{paths:?}");
    assert!(paths.iter().any(|path| path.starts_with("samples/org=acme/")), "{paths:?}");
    dir
}

pub(super) fn data_files(dir: &TempDir) -> Vec<PathBuf> {
    let catalog = systole_storage::Catalog::open_to_read(dir.path()).unwrap();
    catalog.files().unwrap().into_iter().map(|file| dir.path().join(file.path)).collect()
}

pub(super) fn sql(dir: &TempDir, statement: &str) {
    Connection::open(dir.path().join(CATALOG_FILE)).unwrap().execute_batch(statement).unwrap();
}

/// The write-ahead log of the catalog brought into its file.
pub(super) fn checkpoint(dir: &TempDir) {
    sql(dir, "PRAGMA journal_mode = DELETE;");
}

/// Runs `look` with one bit of a file flipped.
pub(super) fn with_flip<T>(path: &Path, at: usize, look: impl FnOnce() -> T) -> T {
    let whole = fs::read(path).unwrap();
    let mut flipped = whole.clone();
    flipped[at] ^= 1 << (at % 8);
    fs::write(path, &flipped).unwrap();
    let seen = look();
    fs::write(path, &whole).unwrap();
    seen
}

#[test]
fn a_sound_store_has_no_fault_at_any_point_of_its_life() {
    let dir = tempfile::tempdir().unwrap();
    let mut rows = 0;
    for round in 0..6 {
        let mut store = TestStore::open(dir.path());
        store.store.catalog().ensure_org("acme").unwrap();
        fill(&mut store, round);
        if round % 3 > 0 {
            store.flush();
            fill(&mut store, 10 + round);
        }
        if round == 4 {
            settle(&store);
        }
        drop(store);
        let (checked, findings) = try_check(dir.path()).unwrap();
        assert_eq!(findings, [], "round {round}");
        rows = rows.max(checked.rows);
    }
    assert!(rows > 10_000, "{rows}");
}

#[test]
fn a_check_changes_nothing() {
    let dir = filled();
    let everything = || {
        let mut files: Vec<(PathBuf, Vec<u8>)> = Vec::new();
        let mut folders = vec![dir.path().to_owned()];
        while let Some(folder) = folders.pop() {
            for entry in fs::read_dir(folder).unwrap() {
                let path = entry.unwrap().path();
                if path.is_dir() {
                    folders.push(path);
                } else if !path.to_str().unwrap().ends_with("-shm") {
                    files.push((path.clone(), fs::read(&path).unwrap()));
                }
            }
        }
        files.sort();
        files
    };
    checkpoint(&dir);
    let before = everything();
    assert_eq!(faults(dir.path()), []);
    assert_eq!(everything(), before);
}

#[test]
fn a_flipped_bit_anywhere_in_a_data_file_is_named_by_file_and_block() {
    let dir = filled();
    for path in data_files(&dir) {
        let bytes = fs::metadata(&path).unwrap().len() as usize;
        // First and last byte, the footer's length, and pages in between.
        for at in (0..bytes).step_by(bytes / 7 + 1).chain([bytes - 1, bytes - 6]) {
            let found = with_flip(&path, at, || faults(dir.path()));
            let [Fault::Block { path: named, fault }] = found.as_slice() else {
                panic!("{} at {at}: {found:?}", path.display())
            };
            assert!(path.ends_with(named), "{named}");
            assert_eq!(fault.offset, (at / BLOCK_BYTES * BLOCK_BYTES) as u64, "{at}");
        }
    }
}

#[test]
fn a_flipped_bit_in_any_durable_frame_is_named_by_segment_and_byte() {
    let dir = filled();
    let mut segments: Vec<PathBuf> =
        fs::read_dir(dir.path().join("journal")).unwrap().map(|entry| entry.unwrap().path()).collect();
    segments.sort();
    let mut frames = 0;
    for path in &segments {
        let places = places_in(&fs::read(path).unwrap(), path);
        // Behind the last frame of all nothing proves that it was whole.
        let proven =
            if Some(path) == segments.last() { places.len().saturating_sub(1) } else { places.len() };
        for place in &places[..proven] {
            let begin = place.at as usize;
            for at in [begin, begin + 9, begin + place.header.frame_bytes() / 2] {
                let found = with_flip(path, at, || faults(dir.path()));
                let [Fault::Journal { path: named, offset, .. }, ..] = found.as_slice() else {
                    panic!("{} at {at}: {found:?}", path.display())
                };
                assert!(path.ends_with(named) && *offset == place.at, "{named} {offset} {at}");
            }
            frames += 1;
        }
        let found = with_flip(path, 20, || faults(dir.path()));
        if !places.is_empty() {
            assert!(matches!(found.as_slice(), [Fault::Journal { offset: 0, .. }, ..]), "{found:?}");
        }
    }
    assert!(frames > 3, "{frames}");
}

#[test]
fn a_torn_tail_is_a_note() {
    let dir = filled();
    let mut segments: Vec<PathBuf> =
        fs::read_dir(dir.path().join("journal")).unwrap().map(|entry| entry.unwrap().path()).collect();
    segments.sort();
    let path = segments
        .iter()
        .rev()
        .find(|path| !places_in(&fs::read(path).unwrap(), path).is_empty())
        .expect("frames that are not flushed");
    let bytes = fs::read(path).unwrap();
    let last = places_in(&bytes, path).pop().unwrap();
    let found = with_flip(path, last.at as usize + 60, || notes(dir.path()));
    let expected = last.at;
    assert!(matches!(found.as_slice(), [Note::TornTail { offset, .. }] if *offset == expected), "{found:?}");
}

#[test]
fn a_broken_page_of_the_catalog_is_named() {
    let dir = filled();
    checkpoint(&dir);
    let path = dir.path().join(CATALOG_FILE);
    let bytes = fs::metadata(&path).unwrap().len() as usize;
    assert!(bytes > 8 * 4096, "{bytes}");
    for page in 1..bytes / 4096 {
        let found = with_flip(&path, page * 4096, || faults(dir.path()));
        assert!(
            found.iter().any(|fault| fault.to_string().starts_with(CATALOG_FILE)),
            "page {page}: {found:?}"
        );
    }
    let found = with_flip(&path, 3, || faults(dir.path()));
    assert!(matches!(found[0], Fault::Catalog { .. }), "{found:?}");
}

#[test]
fn whatever_the_catalog_says_wrongly_of_a_file_is_found() {
    let dir = filled();
    checkpoint(&dir);
    let catalog = dir.path().join(CATALOG_FILE);
    let whole = fs::read(&catalog).unwrap();
    let files = [
        "metric = 'steps_2'",
        "org = 'nobody'",
        "period = '2024'",
        "bucket = bucket + 1",
        "level = level + 1",
        "sequence_first = sequence_first + 1",
        "sequence_last = sequence_last + 1",
        "row_count = row_count + 1",
        "byte_count = byte_count + 1",
        "byte_count = byte_count - 1",
        "block_crc32c = substr(block_crc32c, 1, length(block_crc32c) - 1) || 'g'",
        "block_crc32c = '00000000'",
        "block_crc32c = block_crc32c || '00000000'",
    ];
    let sections = [
        "metric = 'hrv'",
        "org = 'default2'",
        "row_count = row_count + 1",
        "sequence_first = sequence_first + 1",
        "sequence_last = sequence_last + 1",
        "user_min = 'u_0'",
        "user_min = 'u_4'",
        "user_max = 'u_9'",
        "time_min = time_min - 1",
        "time_min = time_min + 1",
        "time_max = time_max + 1",
        "days = '1:1'",
        "path = 'runs/0-00000000000000000001.parquet'",
    ];
    let of_files =
        files.iter().map(|change| format!("UPDATE files SET {change} WHERE path LIKE 'samples/%'"));
    // A run's own columns are empty; its sections say it.
    let of_sections = sections.iter().flat_map(|change| {
        let first = "path IN (SELECT path FROM sections ORDER BY path DESC LIMIT 1) AND ordinal = 0";
        let run =
            "path LIKE 'runs/%' AND ordinal = (SELECT max(ordinal) FROM sections WHERE path LIKE 'runs/%')";
        [first, run].map(|place| format!("UPDATE sections SET {change} WHERE {place}"))
    });
    let others = [
        "DELETE FROM files WHERE path = (SELECT max(path) FROM files)",
        "DELETE FROM sections WHERE path LIKE 'runs/%' AND ordinal = 0",
        "UPDATE sections SET ordinal = ordinal + 7 WHERE path LIKE 'runs/%' AND ordinal = 0",
        "INSERT INTO garbage (path, created_at) SELECT max(path), 0 FROM files",
        "UPDATE positions SET sequence = sequence + 1000 WHERE name = 'flushed'",
        "UPDATE positions SET sequence = sequence - 1 WHERE name = 'flushed'",
        "INSERT INTO positions VALUES ('routed', 100000, 0)",
        "INSERT INTO positions VALUES ('classified', 100000, 0)",
        "DELETE FROM organisations WHERE id = 'acme'",
        "INSERT INTO lane_cursors VALUES ('ep_gone', 1, 0)",
        "INSERT INTO blocked_users VALUES ('gone', '00', 1)",
        "INSERT INTO retention VALUES ('gone', 'steps', 1)",
        "INSERT INTO erasures VALUES ('era_1', 'gone', 'u', NULL, 0, 0, 0, 1, 0, 0, 0, 0, 0, 1, NULL)",
        "INSERT INTO erasures VALUES ('era_1', 'default', 'u', NULL, 0, 0, 0, 99999, 0, 0, 0, 0, 0, 1, NULL)",
        "INSERT INTO api_keys VALUES ('key_1', 'gone', NULL, NULL, 'read', 'x', 1)",
    ];
    for statement in of_files.chain(of_sections).chain(others.iter().map(|other| (*other).to_owned())) {
        sql(&dir, &statement);
        let found = faults(dir.path());
        assert!(!found.is_empty(), "{statement}");
        let _ = fs::remove_file(dir.path().join("catalog.db-wal"));
        let _ = fs::remove_file(dir.path().join("catalog.db-shm"));
        fs::write(&catalog, &whole).unwrap();
    }
    assert_eq!(faults(dir.path()), []);
}

/// Writes a data file anew with other rows, and makes the catalog's checksums fit.
fn rewrite(dir: &TempDir, path: &Path, change: impl FnOnce(RecordBatch) -> RecordBatch) {
    let reader = ParquetRecordBatchReaderBuilder::try_new(fs::File::open(path).unwrap()).unwrap();
    let batches: Vec<RecordBatch> =
        reader.with_batch_size(1 << 20).build().unwrap().map(Result::unwrap).collect();
    let batch = change(arrow::compute::concat_batches(&samples_schema(), &batches).unwrap());
    let mut bytes = Vec::new();
    let mut writer = ArrowWriter::try_new(&mut bytes, samples_schema(), None).unwrap();
    writer.write(&batch).unwrap();
    writer.close().unwrap();
    let crcs: String =
        bytes.chunks(BLOCK_BYTES).map(|block| format!("{:08x}", crc32c::crc32c(block))).collect();
    fs::write(path, &bytes).unwrap();
    let name = path.strip_prefix(dir.path()).unwrap().display();
    sql(
        dir,
        &format!(
            "UPDATE files SET byte_count = {}, block_crc32c = '{crcs}' WHERE path = '{name}'",
            bytes.len()
        ),
    );
}

fn with_column(batch: &RecordBatch, name: &str, column: ArrayRef) -> RecordBatch {
    let mut columns = batch.columns().to_vec();
    columns[batch.schema().index_of(name).unwrap()] = column;
    RecordBatch::try_new(batch.schema(), columns).unwrap()
}

#[test]
fn rows_that_were_written_wrongly_are_found_though_every_checksum_fits() {
    let values = |batch: &RecordBatch, value: f64| {
        with_column(
            batch,
            "value",
            Arc::new(Float64Array::from_iter_values((0..batch.num_rows()).map(|_| value))),
        )
    };
    type Change<'a> = (&'a str, Box<dyn Fn(RecordBatch) -> RecordBatch + 'a>);
    let taken = |batch: &RecordBatch, rows: Vec<u32>| {
        arrow::compute::take_record_batch(batch, &UInt32Array::from(rows)).unwrap()
    };
    let changes: [Change<'_>; 6] = [
        (
            "order",
            Box::new(|batch| {
                let mut rows: Vec<u32> = (0..batch.num_rows() as u32).collect();
                rows.swap(2, 3);
                taken(&batch, rows)
            }),
        ),
        (
            "section without such",
            Box::new(|batch| {
                // The row before with a later sequence: in order, and a key twice.
                let mut rows: Vec<u32> = (0..batch.num_rows() as u32).collect();
                rows[3] = 2;
                let twice = taken(&batch, rows);
                let sequences = twice.column_by_name("sequence").unwrap();
                let sequences: &arrow::array::UInt64Array = arrow::array::AsArray::as_primitive(sequences);
                let mut raised: Vec<u64> = sequences.values().to_vec();
                raised[2] -= 1;
                with_column(&twice, "sequence", Arc::new(arrow::array::UInt64Array::from(raised)))
            }),
        ),
        ("within 0 and 300", Box::new(|batch| values(&batch, 301.0))),
        ("within 0 and 300", Box::new(|batch| values(&batch, f64::NAN))),
        ("within 0 and 300", Box::new(|batch| values(&batch, f64::NEG_INFINITY))),
        ("rows of", Box::new(|batch| batch.slice(0, batch.num_rows() - 1))),
    ];
    for (expected, change) in changes {
        let dir = filled();
        let path =
            data_files(&dir).into_iter().rfind(|path| path.starts_with(dir.path().join("samples"))).unwrap();
        rewrite(&dir, &path, change);
        let found = faults(dir.path());
        assert!(found.iter().any(|fault| fault.to_string().contains(expected)), "{expected}: {found:?}");
        let name = path.strip_prefix(dir.path()).unwrap().display().to_string();
        assert!(found.iter().all(|fault| fault.to_string().starts_with(&name)), "{found:?}");
    }
    // As it was: nothing is found.
    let dir = filled();
    let path = data_files(&dir).pop().unwrap();
    rewrite(&dir, &path, |batch| batch);
    assert_eq!(faults(dir.path()), []);
}

#[test]
fn what_lies_in_the_folders_is_listed_a_leftover_or_a_fault() {
    let dir = filled();
    let known = data_files(&dir).pop().unwrap();
    let folder = known.parent().unwrap();
    let put = |path: PathBuf| {
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, b"something").unwrap();
    };
    put(folder.join("0-00000000000000000099.parquet.tmp"));
    put(folder.join("notes.txt"));
    // Behind what is flushed: a flush that did not end.
    put(dir.path().join("runs/0-00000000000000000050.parquet"));
    sql(
        &dir,
        "INSERT INTO unfinished VALUES (777, 0); INSERT INTO garbage VALUES ('runs/1-00000000000000000005.parquet', 0)",
    );
    put(dir.path().join("runs/1-00000000000000000777.parquet"));
    put(dir.path().join("runs/1-00000000000000000005.parquet"));
    let mut kinds = BTreeSet::new();
    for note in notes(dir.path()) {
        kinds.insert(note.to_string().split_once(": ").unwrap().1.to_owned());
    }
    assert_eq!(kinds.len(), 5, "{kinds:?}");
    put(folder.join("0-00000000000000000001.parquet"));
    put(dir.path().join("runs/3-00000000000000000001.parquet"));
    let found = faults(dir.path());
    assert!(matches!(found.as_slice(), [Fault::Unlisted { .. }, Fault::Unlisted { .. }]), "{found:?}");
}

#[test]
fn ids_of_events_that_nothing_else_knows_are_read_too() {
    let dir = filled();
    let of = |number: u64| dir.path().join(format!("journal/{number:010}.keys"));
    // Those of a segment that is there are made anew.
    let mut segments = fs::read_dir(dir.path().join("journal")).unwrap().map(|entry| entry.unwrap().path());
    let segment = segments.find(|path| path.extension().is_some_and(|it| it == "segment")).unwrap();
    fs::write(segment.with_extension("keys"), b"something").unwrap();
    assert_eq!(faults(dir.path()).len(), 0);
    fs::write(of(1_000), b"something").unwrap();
    let found = faults(dir.path());
    let [Fault::Unreadable { path, .. }] = found.as_slice() else { panic!("{found:?}") };
    assert_eq!(path, "journal/0000001000.keys");
}

#[test]
fn of_a_journal_that_fits_nothing_a_part_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let mut store = TestStore::open(dir.path());
    for batch in 0..100 {
        store.commit(&Samples { metric: "unknown", ..heart_rate("u_1", JUNE_2026 + batch, 1) });
    }
    drop(store);
    let (_, findings) = try_check(dir.path()).unwrap();
    let of_frames = findings.iter().filter(|it| matches!(it, Finding::Fault(Fault::Journal { .. }))).count();
    assert_eq!(of_frames, 17, "{findings:?}");
}

#[test]
fn missing_and_cut_files_and_segments_are_named() {
    let dir = filled();
    for path in data_files(&dir) {
        let whole = fs::read(&path).unwrap();
        fs::remove_file(&path).unwrap();
        let found = faults(dir.path());
        assert!(
            matches!(found.as_slice(), [Fault::Missing { path: named }] if path.ends_with(named)),
            "{found:?}"
        );
        fs::write(&path, &whole[..whole.len() - 1]).unwrap();
        let found = faults(dir.path());
        assert!(found.iter().any(|fault| matches!(fault, Fault::Length { .. })), "{found:?}");
        fs::write(&path, &whole).unwrap();
    }
    let journal = dir.path().join("journal");
    fs::rename(&journal, dir.path().join("elsewhere")).unwrap();
    let found = faults(dir.path());
    assert!(matches!(found.as_slice(), [Fault::SegmentMissing { .. }, ..]), "{found:?}");
    fs::rename(dir.path().join("elsewhere"), &journal).unwrap();
    let mut segments: Vec<PathBuf> =
        fs::read_dir(&journal).unwrap().map(|entry| entry.unwrap().path()).collect();
    segments.sort();
    let framed: Vec<&PathBuf> =
        segments.iter().filter(|path| !places_in(&fs::read(path).unwrap(), path).is_empty()).collect();
    assert!(framed.len() > 1, "{framed:?}");
    for path in &framed[..framed.len() - 1] {
        let whole = fs::read(path).unwrap();
        fs::remove_file(path).unwrap();
        assert!(!faults(dir.path()).is_empty(), "{}", path.display());
        fs::write(path, whole).unwrap();
    }
    fs::remove_file(dir.path().join(CATALOG_FILE)).unwrap();
    let found = faults(dir.path());
    assert!(
        found.iter().any(|fault| matches!(fault, Fault::Missing { path } if path == CATALOG_FILE)),
        "{found:?}"
    );
}

#[test]
fn a_store_in_use_of_another_version_or_without_data_is_refused() {
    let dir = filled();
    let store = TestStore::open(dir.path());
    assert!(matches!(try_check(dir.path()), Err(CheckError::Store(_))));
    drop(store);
    for version in [1, 1000] {
        sql(&dir, &format!("PRAGMA user_version = {version}"));
        assert!(matches!(try_check(dir.path()), Err(CheckError::Version(_))), "{version}");
    }
    let empty = tempfile::tempdir().unwrap();
    assert!(matches!(try_check(empty.path()), Err(CheckError::NoData { .. })));
    assert_eq!(fs::read_dir(empty.path()).unwrap().count(), 0);
}
