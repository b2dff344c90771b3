//! Files of delivery attempts: what the catalog says of each, then its bytes and rows.

use std::collections::HashSet;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use parquet::arrow::arrow_reader::{ArrowReaderMetadata, ArrowReaderOptions};

use super::fault::chain;
use super::{Context, Fault};
use crate::attempts::{AttemptFile, Columns, attempt_path, blocks_of, file_columns};
use crate::catalog::{AttemptFileRecord, FileRecord};
use crate::files::{BLOCK_BYTES, CheckedFile, Period, level_and_number};
use crate::frame::{AttemptRow, frame_of_tie};

/// Rows decoded at a time.
const BATCH_ROWS: usize = 1024;

/// Checks what the catalog says of a file against itself.
pub(super) fn check_record(context: &Context<'_>, attempts: &AttemptFileRecord) {
    let file = &attempts.file;
    let fault = |what, actual: &dyn ToString, expected: &dyn ToString| {
        context.fault(Fault::Record {
            path: file.path.clone(),
            what,
            actual: actual.to_string(),
            expected: expected.to_string(),
        });
    };
    let blocks = file.bytes.div_ceil(BLOCK_BYTES as u64);
    if file.block_crc32c.len() as u64 != blocks {
        fault("number of block checksums", &file.block_crc32c.len(), &blocks);
    }
    let number = level_and_number(file.path.as_ref()).map_or(0, |(_, number)| number);
    let place = attempt_path(&file.org, &file.period, file.level, number);
    if place != file.path {
        fault("path", &file.path, &place);
    }
    let Some(Period::Day(day)) = Period::parse(&file.period) else {
        return fault("day", &file.period, &"a day");
    };
    let times = Period::Day(day).times();
    let ordered = file.sequence_first <= file.sequence_last
        && file.time_min <= file.time_max
        && file.user_min <= file.user_max
        && file.rows > 0;
    if !ordered {
        fault("range", &"empty", &"a row or more");
    } else if !times.contains(&file.time_min) || !times.contains(&file.time_max) {
        fault("range of times", &"another day's", &file.period);
    }
}

pub(super) fn check(context: &Context<'_>, file: &AttemptFile) {
    // Its rows say nothing while its bytes are not those that were written.
    if super::file::check_bytes(context, file.data())
        && let Err(what) = check_rows(context, file)
    {
        context.fault(Fault::Format { path: file.record().path.clone(), what });
    }
    context.done();
}

/// Reads footer and rows; what the reader says if it cannot.
fn check_rows(context: &Context<'_>, file: &AttemptFile) -> Result<(), String> {
    let reader = CheckedFile::open(file.data()).map_err(|error| chain(&error))?;
    let own = ArrowReaderMetadata::load(&reader, ArrowReaderOptions::new()).map_err(|error| chain(&error))?;
    if own.schema().fields() != file_columns().fields() {
        return Err("its columns are others".to_owned());
    }
    let mut rows = Rows::new(context, file);
    for block in blocks_of(file, &Columns::all(), BATCH_ROWS).map_err(|error| chain(&error))? {
        let block = block.map_err(|error| chain(&error))?;
        (0..block.rows()).for_each(|row| rows.row(block.org(row), &block.row(row)));
    }
    rows.finish();
    Ok(())
}

/// The rows of a file against the catalog's description of them.
struct Rows<'a> {
    context: &'a Context<'a>,
    file: &'a AttemptFile,
    day: Range<i64>,
    rows: u64,
    previous: Option<(i64, u64)>,
    sequences: (u64, u64),
    messages: (u64, u64),
    times: (i64, i64),
    users: Option<(String, String)>,
    named: HashSet<&'static str>,
}

impl<'a> Rows<'a> {
    fn new(context: &'a Context<'a>, file: &'a AttemptFile) -> Rows<'a> {
        Rows {
            context,
            file,
            day: Period::parse(&file.record().period).map_or(i64::MIN..i64::MAX, Period::times),
            rows: 0,
            previous: None,
            sequences: (u64::MAX, 0),
            messages: (u64::MAX, 0),
            times: (i64::MAX, i64::MIN),
            users: None,
            named: HashSet::new(),
        }
    }

    fn row(&mut self, org: &str, row: &AttemptRow<&str>) {
        let key = (row.at_ms, row.tie);
        if org != self.file.record().org {
            self.fault("is another organisation's");
        }
        if !self.day.contains(&row.at_ms) {
            self.fault("is of another day");
        }
        if self.previous.is_some_and(|previous| previous >= key) {
            self.fault("is out of order");
        }
        self.previous = Some(key);
        self.rows += 1;
        let frame = frame_of_tie(row.tie).0;
        self.sequences = (self.sequences.0.min(frame), self.sequences.1.max(frame));
        self.times = (self.times.0.min(row.at_ms), self.times.1.max(row.at_ms));
        if row.sequence > 0 {
            self.messages = (self.messages.0.min(row.sequence), self.messages.1.max(row.sequence));
        }
        if let Some(user) = row.user {
            let (first, last) = self.users.get_or_insert_with(|| (user.to_owned(), user.to_owned()));
            if user < first.as_str() {
                user.clone_into(first);
            }
            if user > last.as_str() {
                user.clone_into(last);
            }
        }
    }

    /// Each kind of fault is named once, at its first row.
    fn fault(&mut self, what: &'static str) {
        if self.named.insert(what) {
            let (path, row) = (self.file.record().path.clone(), self.rows);
            self.context.fault(Fault::Row { path, row, what: what.to_owned() });
        }
    }

    fn finish(self) {
        let FileRecord { rows, sequence_first, sequence_last, time_min, time_max, .. } = self.file.record();
        let same = |what: &str, expected: String, actual: String| {
            if expected != actual {
                let path = self.file.record().path.clone();
                self.context.fault(Fault::Statistics { path, what: what.to_owned(), expected, actual });
            }
        };
        let range = |(first, last): (u64, u64)| format!("{first} to {last}");
        same("number of rows", rows.to_string(), self.rows.to_string());
        same("sequences", range((sequence_first.0, sequence_last.0)), range(self.sequences));
        same("sequences of messages", range(self.file.messages()), range(self.messages));
        same("times", format!("{time_min} to {time_max}"), format!("{} to {}", self.times.0, self.times.1));
        // Texts of a finding hold no user.
        let users = self.users.unwrap_or_default();
        let record = self.file.record();
        if (record.user_min.as_str(), record.user_max.as_str()) != (users.0.as_str(), users.1.as_str()) {
            same("users", "others".to_owned(), "not these".to_owned());
        }
        self.context.rows.fetch_add(self.rows, Ordering::Relaxed);
    }
}

/// What reads the files of the catalog.
pub(super) fn files_of(context: &Context<'_>, records: &[AttemptFileRecord]) -> Vec<AttemptFile> {
    let file = |record: &AttemptFileRecord| {
        AttemptFile::new(Arc::clone(&context.disk), context.data_dir, record.clone())
    };
    records.iter().map(file).collect()
}
