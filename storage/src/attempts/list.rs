//! A page of attempts, read without a query engine.
//!
//! Constraints: memory of the rows asked for and one row group's keys. Files and row
//! groups are read in the order of the page, and no further than its last row. If a page
//! has looked at enough before, it ends at the time where what is left begins: of the
//! rows that were found, those beyond that time are found again by the next page. One
//! page gets at least a millisecond further, however many files share it. First the
//! columns that rows are found by are read, then the whole rows.
//!
//! What was sent together under one id was sent at the same moments: those of one message
//! that was in it are looked up first, by its place, and then nothing else is read.
//!
//! ```text
//! files and row groups by the first time in the order of the page
//!     looked at | left: its first is the time where the page ends
//! ```

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap};

use hashbrown::HashMap;
use parquet::arrow::arrow_reader::{ArrowReaderMetadata, RowSelection, RowSelector};

use super::query::{AttemptKey, AttemptPage, AttemptQuery};
use super::read::{Extent, frames_of, look};
use super::schema::{Columns, footer, read};
use super::{AttemptFile, row_is_hidden};
use crate::files::FileReadError;
use crate::frame::{AttemptRow, AttemptsFrame};
use crate::store::Snapshot;

/// Whole rows that are decoded at once.
const WHOLE_ROWS: usize = 256;
/// Opening a file counts as looking at so many rows: it takes about as long.
const FILE_ROWS: usize = 4 * 1024;

/// Where a row that was found stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Found {
    /// In one of the frames.
    Frame(usize, usize),
    /// In one of the files: file, row group, row of the group.
    File(usize, usize, usize),
}

/// What may hold rows of the page.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Part {
    /// A file that is to be opened.
    File(usize),
    /// A row group of one that was: file, row group.
    Group(usize, usize),
}

/// The first rows of the page so far, by rank: one more than it has, which tells whether
/// there are more.
struct Best {
    most: usize,
    rows: BinaryHeap<(AttemptKey, Found)>,
}

impl Best {
    fn offer(&mut self, rank: AttemptKey, found: Found) {
        self.rows.push((rank, found));
        if self.rows.len() > self.most {
            self.rows.pop();
        }
    }

    /// Whether a row whose rank begins so can still be among them.
    fn takes(&self, rank: i64) -> bool {
        let last = self.rows.peek().filter(|_| self.rows.len() >= self.most);
        last.is_none_or(|((last, _), _)| rank <= *last)
    }
}

/// A page on its way.
struct Reading<'a> {
    snapshot: &'a Snapshot,
    query: &'a AttemptQuery,
    frames: Vec<AttemptsFrame>,
    files: Vec<&'a AttemptFile>,
    /// Of files that were opened.
    footers: HashMap<usize, ArrowReaderMetadata>,
    /// What was not looked at, by the rank of its first time.
    parts: BinaryHeap<Reverse<(i64, Part)>>,
    best: Best,
    looked_at: usize,
}

/// The page of a snapshot that a query asks for.
///
/// # Errors
/// [`FileReadError`].
pub(crate) fn page(snapshot: &Snapshot, query: &AttemptQuery) -> Result<AttemptPage, FileReadError> {
    if query.limit == 0 {
        return Ok(AttemptPage { done: true, ..AttemptPage::default() });
    }
    let (moments, looked_at) = moments(snapshot, query)?;
    let narrowed = moments.map(|times| AttemptQuery { made_at_ms: Some(times), ..query.clone() });
    let mut reading = Reading::new(snapshot, narrowed.as_ref().unwrap_or(query));
    let left = reading.read()?;
    let page = reading.finish(left)?;
    Ok(AttemptPage { looked_at: page.looked_at + looked_at, ..page })
}

/// When a delivery was sent, by the message that is known to be in it, whoever asks; and
/// how many rows were looked at for that. No times where that message is in no row, as of
/// an erased user, or not all of its rows were found before enough was looked at.
fn moments(snapshot: &Snapshot, query: &AttemptQuery) -> Result<(Option<Vec<i64>>, usize), FileReadError> {
    let (Some(_), Some(sequence)) = (&query.delivery, query.carried) else { return Ok((None, 0)) };
    let of_one = AttemptQuery {
        org: query.org.clone(),
        delivery: query.delivery.clone(),
        sequence: Some(sequence),
        limit: usize::MAX,
        look_max: query.look_max,
        ..AttemptQuery::default()
    };
    let mut reading = Reading::new(snapshot, &of_one);
    let left = reading.read()?;
    let mut times: Vec<i64> = reading.best.rows.iter().map(|(rank, _)| of_one.rank(*rank).0).collect();
    times.sort_unstable();
    times.dedup();
    let is_whole = left.is_none() && !times.is_empty();
    Ok((is_whole.then_some(times), reading.looked_at))
}

impl<'a> Reading<'a> {
    /// With what frames hold; nothing of the files was read.
    fn new(snapshot: &'a Snapshot, query: &'a AttemptQuery) -> Reading<'a> {
        let frames = frames_of(snapshot, &query.org);
        let mut best = Best { most: query.limit.saturating_add(1), rows: BinaryHeap::new() };
        for (at, frame) in frames.iter().enumerate() {
            for (index, row) in frame.iter().enumerate().filter(|(_, row)| shows(snapshot, query, row)) {
                best.offer(query.rank((row.at_ms, row.tie)), Found::Frame(at, index));
            }
        }
        let files = snapshot.attempts.of(&query.org).iter().filter(|file| query.may_be_in(file));
        let files: Vec<&AttemptFile> = files.collect();
        let mut parts = BinaryHeap::with_capacity(files.len());
        for (at, file) in files.iter().enumerate() {
            parts.push(Reverse((query.first_rank(times_of(file)), Part::File(at))));
        }
        Reading { snapshot, query, frames, files, footers: HashMap::new(), parts, best, looked_at: 0 }
    }

    /// Reads until nothing that is left can have a row of the page, or enough was looked
    /// at; then the rank of the first time that is left.
    fn read(&mut self) -> Result<Option<i64>, FileReadError> {
        let begin = self.query.first_rank(self.query.times());
        while let Some(Reverse((rank, part))) = self.parts.pop() {
            if !self.best.takes(rank) {
                break;
            }
            let is_enough = self.query.look_max.is_some_and(|most| self.looked_at >= most);
            if is_enough && rank > begin {
                return Ok(Some(rank));
            }
            match part {
                Part::File(file) => self.open(file)?,
                Part::Group(file, group) => self.look(file, group)?,
            }
        }
        Ok(None)
    }

    fn open(&mut self, at: usize) -> Result<(), FileReadError> {
        let (file, query) = (self.files[at], self.query);
        let footer = footer(file)?;
        for (group, metadata) in footer.metadata().row_groups().iter().enumerate() {
            let extent = Extent(metadata);
            let times = extent.numbers("created_at").unwrap_or_else(|| times_of(file));
            if query.may_be_in_group(&extent, times) {
                self.parts.push(Reverse((query.first_rank(times), Part::Group(at, group))));
            }
        }
        self.footers.insert(at, footer);
        self.looked_at += FILE_ROWS;
        Ok(())
    }

    fn look(&mut self, at: usize, group: usize) -> Result<(), FileReadError> {
        let Reading { snapshot, query, files, footers, best, .. } = self;
        let rows = look(files[at], &footers[&at], group, &query.columns(), |row, index| {
            if shows(snapshot, query, row) {
                best.offer(query.rank((row.at_ms, row.tie)), Found::File(at, group, index));
            }
        })?;
        self.looked_at += rows;
        Ok(())
    }

    /// The page of what was found before what is left.
    fn finish(mut self, left: Option<i64>) -> Result<AttemptPage, FileReadError> {
        let query = self.query;
        let mut found = std::mem::take(&mut self.best.rows).into_sorted_vec();
        found.retain(|((rank, _), _)| left.is_none_or(|left| *rank < left));
        let more = found.len() > query.limit;
        found.truncate(query.limit);
        let rows = self.whole_rows(found)?;
        Ok(AttemptPage { looked_at: self.looked_at, ..query.page(rows, more, left) })
    }

    /// The rows that were found, newest first.
    fn whole_rows(&self, found: Vec<(AttemptKey, Found)>) -> Result<Vec<AttemptRow>, FileReadError> {
        let mut rows: BTreeMap<Reverse<AttemptKey>, AttemptRow> = BTreeMap::new();
        let mut in_files: BTreeMap<(usize, usize), Vec<usize>> = BTreeMap::new();
        for (rank, found) in found {
            match found {
                Found::Frame(frame, row) => {
                    rows.insert(Reverse(self.query.rank(rank)), self.frames[frame].row(row).owned());
                }
                Found::File(file, group, row) => in_files.entry((file, group)).or_default().push(row),
            }
        }
        for ((file, group), mut places) in in_files {
            places.sort_unstable();
            let (footer, selection) = (&self.footers[&file], Some(selection(&places)));
            for block in read(self.files[file], footer, vec![group], &Columns::all(), selection, WHOLE_ROWS)?
            {
                let block = block?;
                for row in 0..block.rows() {
                    rows.insert(Reverse(block.key(row)), block.row(row).owned());
                }
            }
        }
        Ok(rows.into_values().collect())
    }
}

/// Earliest and latest time of a file.
fn times_of(file: &AttemptFile) -> (i64, i64) {
    (file.record().time_min, file.record().time_max)
}

/// Whether a row is asked for and may be shown.
fn shows(snapshot: &Snapshot, query: &AttemptQuery, row: &AttemptRow<&str>) -> bool {
    query.asks_for(row) && !row_is_hidden(&snapshot.hidden, &query.org, row)
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
