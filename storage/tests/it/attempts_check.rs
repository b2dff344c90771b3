//! `systole check` of delivery attempts: sound ones have no fault, whatever is broken is
//! named.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use arrow::array::{ArrayRef, RecordBatch, StringArray, TimestampMillisecondArray, UInt64Array};
use parquet::arrow::ArrowWriter;
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use systole_storage::check::Fault;
use systole_storage::files::BLOCK_BYTES;
use systole_storage::{AttemptRow, CATALOG_FILE, Unhurried};
use tempfile::TempDir;

use super::check::{checkpoint, faults, sql, with_flip};
use super::fixture::{TestStore, attempt};

/// 2026-06-30T07:45:00Z
const JUNE_2026: i64 = 1_782_805_500_000;
const DAY: i64 = 86_400_000;

/// A store with merged files, small ones and frames of two days.
fn filled() -> TempDir {
    let dir = tempfile::tempdir().unwrap();
    let mut store = TestStore::open(dir.path());
    store.store.catalog().ensure_org("acme").unwrap();
    for round in 0..6_u64 {
        let day = (round % 2).cast_signed() * DAY;
        let rows: Vec<AttemptRow> = (0..5)
            .map(|at| {
                let row = attempt("ep_1", round * 5 + at, at > 0);
                AttemptRow { at_ms: row.at_ms + day, ..row }
            })
            .collect();
        store.commit_attempts(if round % 3 == 0 { "default" } else { "acme" }, &rows);
        if round < 5 {
            store.flush();
        }
        if round == 3 {
            while store.store.compact_attempts(JUNE_2026 + DAY, &mut Unhurried).unwrap().is_some() {}
            store.store.bury().unwrap();
        }
    }
    dir
}

fn paths(dir: &TempDir) -> Vec<PathBuf> {
    let catalog = systole_storage::Catalog::open_to_read(dir.path()).unwrap();
    catalog.attempt_files().unwrap().into_iter().map(|file| dir.path().join(file.file.path)).collect()
}

#[test]
fn sound_attempts_have_no_fault() {
    let dir = filled();
    assert_eq!(faults(dir.path()), []);
    let paths = paths(&dir);
    assert!(paths.len() >= 4, "{paths:?}");
}

#[test]
fn a_flipped_bit_of_a_file_of_attempts_is_named_by_file_and_block() {
    let dir = filled();
    for path in paths(&dir) {
        let name = path.strip_prefix(dir.path()).unwrap().to_str().unwrap().to_owned();
        let bytes = fs::metadata(&path).unwrap().len() as usize;
        for at in (0..bytes).step_by(bytes / 7) {
            let found = with_flip(&path, at, || faults(dir.path()));
            let named = |fault: &Fault| matches!(fault, Fault::Block { path, .. } if *path == name);
            assert!(found.len() == 1 && named(&found[0]), "{name}, byte {at}: {found:?}");
        }
    }
}

#[test]
fn whatever_the_catalog_says_wrongly_of_a_file_of_attempts_is_found() {
    let dir = filled();
    checkpoint(&dir);
    let catalog = dir.path().join(CATALOG_FILE);
    let whole = fs::read(&catalog).unwrap();
    let changes = [
        "org = 'nobody'",
        "day = '2026-06-29'",
        "day = '2026-06'",
        "level = level + 1",
        "sequence_first = sequence_first - 1",
        "sequence_last = sequence_last + 1",
        "message_first = message_first + 1",
        "message_last = message_last + 1",
        "row_count = row_count + 1",
        "byte_count = byte_count + 1",
        "user_min = ''",
        "user_max = 'u_9'",
        "time_min = time_min - 1",
        "time_max = time_max + 1",
        "time_max = time_max + 86400000",
        "block_crc32c = '00000000'",
        "block_crc32c = block_crc32c || '00000000'",
    ];
    let one = "path = (SELECT max(path) FROM attempt_files)";
    let mut statements: Vec<String> =
        changes.iter().map(|change| format!("UPDATE attempt_files SET {change} WHERE {one}")).collect();
    statements.push(format!("DELETE FROM attempt_files WHERE {one}"));
    statements
        .push("INSERT INTO garbage (path, created_at) SELECT max(path), 0 FROM attempt_files".to_owned());
    for statement in statements {
        sql(&dir, &statement);
        let found = faults(dir.path());
        assert!(!found.is_empty(), "{statement}");
        for suffix in ["wal", "shm"] {
            let _ = fs::remove_file(dir.path().join(format!("catalog.db-{suffix}")));
        }
        fs::write(&catalog, &whole).unwrap();
    }
    assert_eq!(faults(dir.path()), []);
}

/// Writes a file anew with other rows, and makes the catalog's checksums fit.
fn rewrite(dir: &TempDir, path: &Path, change: impl FnOnce(&RecordBatch) -> RecordBatch) {
    let reader = ParquetRecordBatchReaderBuilder::try_new(fs::File::open(path).unwrap()).unwrap();
    let batch = reader.build().unwrap().next().unwrap().unwrap();
    let batch = change(&batch);
    let mut bytes = Vec::new();
    let mut writer = ArrowWriter::try_new(&mut bytes, batch.schema(), None).unwrap();
    writer.write(&batch).unwrap();
    writer.close().unwrap();
    let crcs: String =
        bytes.chunks(BLOCK_BYTES).map(|block| format!("{:08x}", crc32c::crc32c(block))).collect();
    fs::write(path, &bytes).unwrap();
    let (name, length) = (path.strip_prefix(dir.path()).unwrap().display(), bytes.len());
    let set = format!("byte_count = {length}, block_crc32c = '{crcs}'");
    sql(dir, &format!("UPDATE attempt_files SET {set} WHERE path = '{name}'"));
}

fn with_column(batch: &RecordBatch, name: &str, column: ArrayRef) -> RecordBatch {
    let mut columns = batch.columns().to_vec();
    columns[batch.schema().index_of(name).unwrap()] = column;
    RecordBatch::try_new(batch.schema(), columns).unwrap()
}

#[test]
fn attempts_that_were_written_wrongly_are_found_though_every_checksum_fits() {
    let texts = |text: &'static str| -> ArrayRef { Arc::new(StringArray::from(vec![text; 5])) };
    let times = |first: i64, step: i64| -> ArrayRef {
        let times = (0..5).map(|row| Some(first + row * step));
        Arc::new(times.collect::<TimestampMillisecondArray>().with_timezone("UTC"))
    };
    let ties = |number: u64| -> ArrayRef { Arc::new(UInt64Array::from(vec![number; 5])) };
    type Change = Box<dyn Fn(&RecordBatch) -> RecordBatch>;
    let column = |name: &'static str, column: ArrayRef| -> Change {
        Box::new(move |batch| with_column(batch, name, column.clone()))
    };
    let cases: Vec<(&str, Change)> = vec![
        ("another organisation's", column("org", texts("nobody"))),
        ("another day", column("created_at", times(JUNE_2026 + 40 * DAY, 1))),
        ("out of order", column("created_at", times(JUNE_2026 + 100, -1))),
        ("the catalog says", column("tie", ties(1 << 40))),
        ("the catalog says", column("user_id", texts("u_0"))),
        ("the catalog says", Box::new(|batch| batch.slice(0, 4))),
        ("is no data file", Box::new(|batch| batch.project(&[0, 1, 2]).unwrap())),
    ];
    for (what, change) in cases {
        let dir = tempfile::tempdir().unwrap();
        let mut store = TestStore::open(dir.path());
        let rows: Vec<AttemptRow> = (1..6).map(|at| attempt("ep_1", at, true)).collect();
        store.commit_attempts("default", &rows);
        store.flush();
        drop(store);
        rewrite(&dir, &paths(&dir)[0], change);
        let found = faults(dir.path());
        assert!(found.iter().any(|fault| fault.to_string().contains(what)), "{what}: {found:?}");
    }
}

#[test]
fn a_lost_file_and_one_that_nobody_lists_are_named() {
    let dir = filled();
    let path = paths(&dir).remove(0);
    let elsewhere = path.with_file_name("1-00000000000000000999.parquet");
    fs::rename(&path, &elsewhere).unwrap();
    let found = faults(dir.path());
    assert!(found.iter().any(|fault| matches!(fault, Fault::Missing { .. })), "{found:?}");
    assert!(found.iter().any(|fault| matches!(fault, Fault::Unlisted { .. })), "{found:?}");
    assert_eq!(found.len(), 2, "{found:?}");
}
