//! Reads of attempts without a query engine: the newest of some, and what became of
//! messages.
//!
//! Constraints: memory of the rows asked for and one row group's keys. Row groups are
//! read from the end of the file with the latest times on, and no further than the last
//! row that is asked for; first the columns that rows are found by, then the whole rows
//! that were found.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap};
use std::ops::RangeInclusive;

use hashbrown::HashMap;
use parquet::arrow::arrow_reader::{ArrowReaderMetadata, RowSelection, RowSelector};
use parquet::file::metadata::RowGroupMetaData;
use parquet::file::statistics::Statistics;

use super::schema::{Columns, column, footer, read};
use super::{AttemptFile, row_is_hidden};
use crate::files::FileReadError;
use crate::frame::{AttemptRow, AttemptsFrame};
use crate::store::Snapshot;

/// Rows of keys that are decoded at once.
const BATCH_ROWS: usize = 8 * 1024;
/// Whole rows that are.
const WHOLE_ROWS: usize = 256;

/// Which attempts.
#[derive(Clone, Debug, Default)]
pub struct AttemptQuery {
    /// Whose.
    pub org: String,
    /// Of this endpoint.
    pub endpoint: Option<String>,
    /// Of this message.
    pub message: Option<String>,
    /// The sequence of the message's place, if it is known: leads to the files.
    pub sequence: Option<u64>,
    /// About this user.
    pub user: Option<String>,
    /// With this outcome.
    pub success: Option<bool>,
    /// Made then or later, milliseconds.
    pub since_ms: Option<i64>,
    /// Made before, milliseconds.
    pub until_ms: Option<i64>,
    /// Of this type.
    pub event_type: Option<String>,
    /// Behind this row, in the order of the answer: its time and tie.
    pub before: Option<(i64, u64)>,
    /// At most so many.
    pub limit: usize,
}

impl AttemptQuery {
    /// Times that rows of the answer may have; empty if there is none.
    fn times(&self) -> (i64, i64) {
        let before = self.before.map_or(i64::MAX, |(at_ms, _)| at_ms);
        let until = self.until_ms.map_or(i64::MAX, |until| until.saturating_sub(1));
        (self.since_ms.unwrap_or(i64::MIN), before.min(until))
    }

    fn asks_for(&self, row: &AttemptRow<&str>) -> bool {
        let (first, last) = self.times();
        let is = |asked: &Option<String>, actual: &str| asked.as_deref().is_none_or(|it| it == actual);
        (first..=last).contains(&row.at_ms)
            && self.before.is_none_or(|before| (row.at_ms, row.tie) < before)
            && is(&self.endpoint, row.endpoint)
            && is(&self.message, row.message)
            && is(&self.event_type, row.event_type)
            && self.sequence.is_none_or(|sequence| row.sequence == sequence)
            && self.success.is_none_or(|success| row.success == success)
            && self.user.as_deref().is_none_or(|user| row.user == Some(user))
    }
}

/// Where a row that was found stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Found {
    /// In one of the frames.
    Frame(usize, usize),
    /// In one of the files: file, row group, row of the group.
    File(usize, usize, usize),
}

/// The newest rows so far, at most `limit`.
struct Newest {
    limit: usize,
    rows: BinaryHeap<Reverse<((i64, u64), Found)>>,
}

impl Newest {
    fn offer(&mut self, key: (i64, u64), found: Found) {
        self.rows.push(Reverse((key, found)));
        if self.rows.len() > self.limit {
            self.rows.pop();
        }
    }

    /// Whether a row of this time or an earlier one can still be among them.
    fn takes(&self, at_ms: i64) -> bool {
        let least = self.rows.peek().filter(|_| self.rows.len() >= self.limit);
        least.is_none_or(|Reverse(((least, _), _))| at_ms >= *least)
    }
}

/// The newest attempts of a snapshot that a query asks for, newest first.
///
/// # Errors
/// [`FileReadError`].
pub(crate) fn newest(snapshot: &Snapshot, query: &AttemptQuery) -> Result<Vec<AttemptRow>, FileReadError> {
    if query.limit == 0 {
        return Ok(Vec::new());
    }
    let shows =
        |row: &AttemptRow<&str>| query.asks_for(row) && !row_is_hidden(&snapshot.hidden, &query.org, row);
    let mut best = Newest { limit: query.limit, rows: BinaryHeap::new() };
    let frames = frames_of(snapshot, &query.org);
    for (at, frame) in frames.iter().enumerate() {
        for (index, row) in frame.iter().enumerate().filter(|(_, row)| shows(row)) {
            best.offer((row.at_ms, row.tie), Found::Frame(at, index));
        }
    }
    let (first, last) = query.times();
    let may_hold = |file: &&AttemptFile| {
        let record = file.record();
        record.time_min <= last
            && first <= record.time_max
            // Files do not say whether they hold rows without a place.
            && query.sequence.is_none_or(|sequence| sequence == 0 || file.may_hold(sequence, sequence))
            && query.user.as_deref().is_none_or(|it| *record.user_min <= *it && *it <= *record.user_max)
    };
    let mut files: Vec<&AttemptFile> = snapshot.attempts.of(&query.org).iter().filter(may_hold).collect();
    files.sort_by_key(|file| Reverse(file.record().time_max));
    let mut footers = HashMap::new();
    for (at, file) in files.iter().enumerate() {
        if !best.takes(file.record().time_max) {
            break;
        }
        let footer = footer(file)?;
        for (group, metadata) in footer.metadata().row_groups().iter().enumerate().rev() {
            let extent = Extent(metadata);
            let (earliest, latest) = extent.numbers("created_at").unwrap_or((i64::MIN, i64::MAX));
            let wanted = earliest <= last
                && first <= latest
                && best.takes(latest)
                && query.endpoint.as_deref().is_none_or(|it| extent.may_hold_text("endpoint_id", it))
                && query.sequence.is_none_or(|it| extent.may_hold_number("sequence", it, it));
            if wanted {
                look(file, &footer, group, |row, index| {
                    if shows(row) {
                        best.offer((row.at_ms, row.tie), Found::File(at, group, index));
                    }
                })?;
            }
        }
        footers.insert(at, footer);
    }
    whole_rows(&frames, &files, &footers, best)
}

/// The frames of an organisation's attempts that are in no file yet.
fn frames_of(snapshot: &Snapshot, org: &str) -> Vec<AttemptsFrame> {
    snapshot.buffers().flat_map(|buffer| buffer.attempts()).filter(|frame| frame.org() == org).collect()
}

/// Gives the keys of a row group's rows, each with its place in the group.
fn look(
    file: &AttemptFile,
    footer: &ArrowReaderMetadata,
    group: usize,
    mut row_found: impl FnMut(&AttemptRow<&str>, usize),
) -> Result<(), FileReadError> {
    let mut before = 0;
    for block in read(file, footer, vec![group], &Columns::keys(), None, BATCH_ROWS)? {
        let block = block?;
        (0..block.rows()).for_each(|row| row_found(&block.row(row), before + row));
        before += block.rows();
    }
    Ok(())
}

/// The rows that were found, newest first.
fn whole_rows(
    frames: &[AttemptsFrame],
    files: &[&AttemptFile],
    footers: &HashMap<usize, ArrowReaderMetadata>,
    best: Newest,
) -> Result<Vec<AttemptRow>, FileReadError> {
    let mut rows: BTreeMap<Reverse<(i64, u64)>, AttemptRow> = BTreeMap::new();
    let mut in_files: BTreeMap<(usize, usize), Vec<usize>> = BTreeMap::new();
    for Reverse((key, found)) in best.rows {
        match found {
            Found::Frame(frame, row) => {
                rows.insert(Reverse(key), frames[frame].row(row).owned());
            }
            Found::File(file, group, row) => in_files.entry((file, group)).or_default().push(row),
        }
    }
    for ((file, group), mut places) in in_files {
        places.sort_unstable();
        let footer = &footers[&file];
        let selection = Some(selection(&places));
        for block in read(files[file], footer, vec![group], &Columns::all(), selection, WHOLE_ROWS)? {
            let block = block?;
            for row in 0..block.rows() {
                rows.insert(Reverse(block.key(row)), block.row(row).owned());
            }
        }
    }
    Ok(rows.into_values().collect())
}

/// These rows of a group; rising.
fn selection(rows: &[usize]) -> RowSelection {
    let mut selectors = Vec::with_capacity(rows.len() * 2);
    let mut behind = 0;
    for &row in rows {
        if row > behind {
            selectors.push(RowSelector::skip(row - behind));
        }
        selectors.push(RowSelector::select(1));
        behind = row + 1;
    }
    RowSelection::from(selectors)
}

/// The place of a message: sequence, group, chunk, kind.
pub type AttemptPlace = (u64, u32, u16, u8);

/// Of each message with a place in `sequences` that was sent to an endpoint, whether any
/// attempt succeeded.
///
/// # Errors
/// [`FileReadError`].
pub(crate) fn outcomes(
    snapshot: &Snapshot,
    org: &str,
    endpoint: &str,
    sequences: RangeInclusive<u64>,
) -> Result<HashMap<AttemptPlace, bool>, FileReadError> {
    let (first, last) = (*sequences.start().max(&1), *sequences.end());
    let mut found: HashMap<AttemptPlace, bool> = HashMap::new();
    let mut add = |row: &AttemptRow<&str>| {
        if row.endpoint == endpoint && (first..=last).contains(&row.sequence) {
            *found.entry((row.sequence, row.group, row.chunk, row.kind)).or_default() |= row.success;
        }
    };
    frames_of(snapshot, org).iter().for_each(|frame| frame.iter().for_each(|row| add(&row)));
    for file in snapshot.attempts.of(org).iter().filter(|file| file.may_hold(first, last)) {
        let footer = footer(file)?;
        for (group, metadata) in footer.metadata().row_groups().iter().enumerate() {
            let extent = Extent(metadata);
            if extent.may_hold_text("endpoint_id", endpoint)
                && extent.may_hold_number("sequence", first, last)
            {
                look(file, &footer, group, |row, _| add(row))?;
            }
        }
    }
    Ok(found)
}

/// What the statistics of a row group say.
struct Extent<'a>(&'a RowGroupMetaData);

impl Extent<'_> {
    fn numbers(&self, name: &str) -> Option<(i64, i64)> {
        match self.0.column(column(name)).statistics()? {
            Statistics::Int64(numbers) => Some((*numbers.min_opt()?, *numbers.max_opt()?)),
            _ => None,
        }
    }

    /// Whether a number of this range may be in it; numbers of 64 bits, unsigned.
    fn may_hold_number(&self, name: &str, first: u64, last: u64) -> bool {
        self.numbers(name)
            .is_none_or(|(min, max)| min.cast_unsigned() <= last && first <= max.cast_unsigned())
    }

    fn may_hold_text(&self, name: &str, text: &str) -> bool {
        let Some(Statistics::ByteArray(texts)) = self.0.column(column(name)).statistics() else {
            return true;
        };
        let (Some(min), Some(max)) = (texts.min_opt(), texts.max_opt()) else { return true };
        // A bound that was cut short is still one.
        min.data() <= text.as_bytes() && text.as_bytes() <= max.data()
    }
}
