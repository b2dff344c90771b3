//! One user's rows of one metric in a window, straight out of one file.
//!
//! Constraints: reads the pages that the page index leads to and nothing else, in one
//! read where they lie close; holds the rows of a row group's pages at most. No plan:
//! rows of a user are neighbours and sorted by time, so what is wanted of a decoded
//! batch is a slice of it, found by halving.
//!
//! ```text
//! footer -> row groups that may hold the user
//!        -> page index -> ranges of rows -> pages, decoded -> the slice -> what shows
//! ```

use std::io::Read;
use std::ops::Range;
use std::sync::Arc;

use arrow::array::{Array, AsArray, BooleanArray, RecordBatch};
use arrow::compute::filter_record_batch;
use arrow::datatypes::{Int32Type, TimestampMillisecondType, UInt64Type};
use bytes::{Buf as _, Bytes};
use parquet::arrow::ProjectionMask;
use parquet::arrow::arrow_reader::{ArrowReaderMetadata, ParquetRecordBatchReaderBuilder, RowSelection};
use parquet::errors::{ParquetError, Result as ParquetResult};
use parquet::file::metadata::{ParquetMetaData, RowGroupMetaData};
use parquet::file::page_index::column_index::ColumnIndexMetaData;
use parquet::file::reader::{ChunkReader, Length};
use parquet::file::statistics::Statistics;

use super::footers::Footers;
use super::reads::Reads;
use super::table::Scan;
use crate::files::{CheckedFile, DataFile, column};
use crate::frame::Sequence;
use crate::hidden::Hiding;

/// Rows decoded at a time.
const BATCH_ROWS: usize = 32 * 1024;
/// Pages that lie within this many bytes are read at once: the columns of a row
/// group are neighbours, and each read checks whole blocks.
const WINDOW_BYTES: u64 = 1024 * 1024;

/// What is read, and with what.
pub(super) struct PointRead<'a> {
    pub(super) footers: &'a Footers,
    pub(super) scan: &'a Scan,
    /// What must not be shown of the series.
    pub(super) hiding: Option<&'a Hiding>,
    pub(super) reads: &'a Arc<Reads>,
    /// The columns of the answer.
    pub(super) columns: &'a [&'a str],
}

impl PointRead<'_> {
    /// Gives `take` the rows of a file, batch by batch in the file's order, until it
    /// says that it has enough. The batches have the file's columns that were asked
    /// for and perhaps others, by name.
    pub(super) fn file(
        &self,
        data: &Arc<DataFile>,
        take: &mut dyn FnMut(RecordBatch) -> bool,
    ) -> ParquetResult<()> {
        let outside = |error| ParquetError::External(Box::new(error));
        let file = CheckedFile::open(data).map_err(outside)?;
        let footer = self.footers.of_file(&file)?;
        let keys = self.keys(data);
        for index in self.row_groups(&footer, &keys) {
            let group = self.footers.of_group(&file, &footer, index)?;
            let rows = self.pages(&group, &keys);
            if rows.is_empty() {
                continue;
            }
            self.reads.row_group(&data.record.path, index);
            if !self.row_group(&file, &keys, group, rows, take)? {
                break;
            }
        }
        Ok(())
    }

    /// What the rows' texts have to be. Organisation and metric are constant in a file
    /// of a period.
    fn keys(&self, data: &DataFile) -> Vec<(&'static str, &str)> {
        let keys = [("org", &self.scan.org), ("metric", &self.scan.metric), ("user_id", &self.scan.user)];
        keys.iter()
            .skip(if data.is_run() { 0 } else { 2 })
            .map(|(name, text)| (*name, text.as_str()))
            .collect()
    }

    /// The row groups that may hold rows, by their statistics.
    fn row_groups(&self, footer: &ParquetMetaData, keys: &[(&str, &str)]) -> Vec<usize> {
        let may_hold = |(_, group): &(usize, &RowGroupMetaData)| {
            let named = keys.iter().all(|(name, text)| {
                let bounds = text_bounds(group, column(name));
                bounds.is_none_or(|(least, most)| least <= text.as_bytes() && text.as_bytes() <= most)
            });
            let times = time_bounds(group, column("recorded_at"));
            named && times.is_none_or(|(first, last)| first < self.scan.end && last >= self.scan.start)
        };
        footer.row_groups().iter().enumerate().filter(may_hold).map(|(index, _)| index).collect()
    }

    /// The rows of a row group that may be wanted, by its page index.
    fn pages(&self, group: &ArrowReaderMetadata, keys: &[(&str, &str)]) -> Vec<Range<usize>> {
        let all = usize::try_from(group.metadata().row_group(0).num_rows()).unwrap_or(0);
        let mut rows = vec![Range { start: 0, end: all }];
        for (name, text) in keys {
            let holds = |index: &ColumnIndexMetaData, page: usize| match index {
                ColumnIndexMetaData::BYTE_ARRAY(index) => {
                    let least = index.min_value(page).is_none_or(|least| least <= text.as_bytes());
                    least && index.max_value(page).is_none_or(|most| text.as_bytes() <= most)
                }
                _ => true,
            };
            narrow(group.metadata(), column(name), all, &mut rows, &holds);
        }
        let holds = |index: &ColumnIndexMetaData, page: usize| match index {
            ColumnIndexMetaData::INT64(index) => {
                let first = index.min_value(page).is_none_or(|first| *first < self.scan.end);
                first && index.max_value(page).is_none_or(|last| *last >= self.scan.start)
            }
            _ => true,
        };
        narrow(group.metadata(), column("recorded_at"), all, &mut rows, &holds);
        rows
    }

    /// Decodes ranges of a row group; false once `take` has enough.
    fn row_group(
        &self,
        file: &CheckedFile,
        keys: &[(&str, &str)],
        group: ArrowReaderMetadata,
        rows: Vec<Range<usize>>,
        take: &mut dyn FnMut(RecordBatch) -> bool,
    ) -> ParquetResult<bool> {
        let of_keys = keys.iter().map(|(name, _)| *name);
        let names = of_keys.chain(["recorded_at", "sequence"]).chain(self.columns.iter().copied());
        let leaves: Vec<usize> = names.map(column).collect();
        let metadata = group.metadata().clone();
        let window = Window::open(file.clone(), needed(&metadata, &leaves, &rows), self.reads)?;
        let total = usize::try_from(metadata.row_group(0).num_rows()).unwrap_or(0);
        let selected: usize = rows.iter().map(ExactSizeIterator::len).sum();
        let mask = ProjectionMask::leaves(metadata.file_metadata().schema_descr(), leaves);
        let reader = ParquetRecordBatchReaderBuilder::new_with_metadata(window, group)
            .with_projection(mask)
            .with_row_selection(RowSelection::from_consecutive_ranges(rows.into_iter(), total))
            .with_batch_size(selected.min(BATCH_ROWS))
            .build()?;
        for batch in reader {
            let batch = batch?;
            self.reads.looked_at(batch.num_rows());
            if let Some(batch) = self.wanted(&batch, keys)?
                && !take(batch)
            {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// The rows of a batch that are wanted.
    fn wanted(&self, batch: &RecordBatch, keys: &[(&str, &str)]) -> ParquetResult<Option<RecordBatch>> {
        let mut rows = 0..batch.num_rows();
        for (name, text) in keys {
            rows = neighbours(column_of(batch, name)?, rows, text);
        }
        let times = column_of(batch, "recorded_at")?.as_primitive::<TimestampMillisecondType>().values();
        let of_user = &times[rows.clone()];
        let start = self.scan.start.max(self.hiding.map_or(i64::MIN, Hiding::cutoff));
        let first = of_user.partition_point(|time| *time < start);
        let end = of_user.partition_point(|time| *time < self.scan.end);
        if first >= end {
            return Ok(None);
        }
        let batch = batch.slice(rows.start + first, end - first);
        self.shown(batch)
    }

    /// The rows of a series that are of the source asked for, old enough and not hidden.
    fn shown(&self, batch: RecordBatch) -> ParquetResult<Option<RecordBatch>> {
        let hiding =
            self.hiding.filter(|hiding| hiding.through() > Sequence::ZERO || !hiding.ranges().is_empty());
        if self.scan.source.is_none() && self.scan.before.is_none() && hiding.is_none() {
            return Ok(Some(batch));
        }
        let times = column_of(&batch, "recorded_at")?.as_primitive::<TimestampMillisecondType>();
        let sequences = column_of(&batch, "sequence")?.as_primitive::<UInt64Type>();
        let sources = match &self.scan.source {
            Some(source) => Some(Matches::of(column_of(&batch, "source")?, source)),
            None => None,
        };
        let shows = |row: usize| {
            let sequence = Sequence(sequences.value(row));
            sources.as_ref().is_none_or(|sources| sources.at(row))
                && self.scan.before.is_none_or(|before| sequence < before)
                && hiding.is_none_or(|hiding| !hiding.hides(times.value(row), sequence))
        };
        let kept: BooleanArray = (0..batch.num_rows()).map(|row| Some(shows(row))).collect();
        match kept.true_count() {
            0 => Ok(None),
            count if count == batch.num_rows() => Ok(Some(batch)),
            _ => Ok(Some(filter_record_batch(&batch, &kept)?)),
        }
    }
}

/// A column of a batch by its name.
fn column_of<'a>(batch: &'a RecordBatch, name: &str) -> ParquetResult<&'a Arc<dyn Array>> {
    batch.column_by_name(name).ok_or_else(|| ParquetError::General(format!("no column {name}")))
}

/// Which rows of a dictionary column have a text.
struct Matches<'a> {
    keys: &'a [i32],
    /// By key.
    matching: Vec<bool>,
}

impl Matches<'_> {
    fn of<'a>(column: &'a Arc<dyn Array>, text: &str) -> Matches<'a> {
        let dictionary = column.as_dictionary::<Int32Type>();
        let values = dictionary.values().as_string::<i32>();
        let matching = (0..values.len()).map(|key| values.is_valid(key) && values.value(key) == text);
        Matches { keys: dictionary.keys().values(), matching: matching.collect() }
    }

    fn at(&self, row: usize) -> bool {
        usize::try_from(self.keys[row]).is_ok_and(|key| self.matching.get(key) == Some(&true))
    }
}

/// The part of `rows` in which a sorted column has a text.
fn neighbours(column: &Arc<dyn Array>, rows: Range<usize>, text: &str) -> Range<usize> {
    let matches = Matches::of(column, text);
    let first = rows.clone().find(|row| matches.at(*row)).unwrap_or(rows.end);
    let end = (first..rows.end).find(|row| !matches.at(*row)).unwrap_or(rows.end);
    first..end
}

/// Keeps of `rows`, which rise, those of pages of a column for which `holds` is true.
fn narrow(
    metadata: &ParquetMetaData,
    column: usize,
    all: usize,
    rows: &mut Vec<Range<usize>>,
    holds: &dyn Fn(&ColumnIndexMetaData, usize) -> bool,
) {
    let index = metadata.column_index().and_then(|groups| groups.first()).and_then(|group| group.get(column));
    let offsets =
        metadata.offset_index().and_then(|groups| groups.first()).and_then(|group| group.get(column));
    let (Some(index), Some(offsets)) = (index, offsets) else { return };
    let pages = offsets.page_locations();
    if matches!(index, ColumnIndexMetaData::NONE) || index.num_pages() != pages.len() as u64 {
        return;
    }
    let begin = |page: usize| {
        pages.get(page).map_or(all, |page| usize::try_from(page.first_row_index).unwrap_or(all))
    };
    let kept = (0..pages.len()).filter(|page| holds(index, *page)).map(|page| begin(page)..begin(page + 1));
    let mut narrowed: Vec<Range<usize>> = Vec::new();
    for page in kept {
        for range in rows.iter() {
            let both = range.start.max(page.start)..range.end.min(page.end);
            match narrowed.last_mut() {
                _ if both.is_empty() => {}
                Some(last) if last.end == both.start => last.end = both.end,
                _ => narrowed.push(both),
            }
        }
    }
    *rows = narrowed;
}

/// The least and the greatest text of a column, as far as its statistics know.
fn text_bounds(group: &RowGroupMetaData, column: usize) -> Option<(&[u8], &[u8])> {
    match group.column(column).statistics()? {
        Statistics::ByteArray(texts) => Some((texts.min_bytes_opt()?, texts.max_bytes_opt()?)),
        _ => None,
    }
}

fn time_bounds(group: &RowGroupMetaData, column: usize) -> Option<(i64, i64)> {
    match group.column(column).statistics()? {
        Statistics::Int64(times) => Some((*times.min_opt()?, *times.max_opt()?)),
        _ => None,
    }
}

/// The bytes of a file from the first to the last page that rows of some columns need.
fn needed(metadata: &ParquetMetaData, leaves: &[usize], rows: &[Range<usize>]) -> Range<u64> {
    let group = metadata.row_group(0);
    let offsets = metadata.offset_index().and_then(|groups| groups.first());
    let mut needed: Option<Range<u64>> = None;
    let mut add = |part: Range<u64>| {
        let all = needed.get_or_insert(part.clone());
        *all = all.start.min(part.start)..all.end.max(part.end);
    };
    for &leaf in leaves {
        let (start, length) = group.column(leaf).byte_range();
        let Some(pages) = offsets.and_then(|offsets| offsets.get(leaf)).map(|index| index.page_locations())
        else {
            add(start..start + length);
            continue;
        };
        let place = |offset: i64| u64::try_from(offset).unwrap_or_default();
        // A dictionary stands before the first page.
        if let Some(first) = pages.first().filter(|first| place(first.offset) > start) {
            add(start..place(first.offset));
        }
        let number = |row: i64| usize::try_from(row).unwrap_or(usize::MAX);
        for (at, page) in pages.iter().enumerate() {
            let begin = number(page.first_row_index);
            let end = pages.get(at + 1).map_or(usize::MAX, |next| number(next.first_row_index));
            if rows.iter().any(|range| range.start < end && begin < range.end) {
                let size = u64::try_from(page.compressed_page_size).unwrap_or_default();
                add(place(page.offset)..place(page.offset) + size);
            }
        }
    }
    needed.unwrap_or_default()
}

/// A file of which a part was read ahead.
struct Window {
    file: CheckedFile,
    /// Where the part begins.
    start: u64,
    bytes: Bytes,
    reads: Arc<Reads>,
}

impl Window {
    /// Reads `part` ahead, unless it is too long to be read at once.
    fn open(file: CheckedFile, part: Range<u64>, reads: &Arc<Reads>) -> ParquetResult<Window> {
        let mut window = Window { file, start: part.start, bytes: Bytes::new(), reads: reads.clone() };
        if part.end - part.start <= WINDOW_BYTES {
            window.bytes = window.fetch(part)?;
        }
        Ok(window)
    }

    fn fetch(&self, part: Range<u64>) -> ParquetResult<Bytes> {
        self.reads.fetched(part.end - part.start);
        self.file.read(part).map_err(|error| ParquetError::External(Box::new(error)))
    }

    /// The bytes from `start` on that were read ahead.
    fn ahead(&self, start: u64) -> Option<Bytes> {
        let at = usize::try_from(start.checked_sub(self.start)?).ok()?;
        (at < self.bytes.len()).then(|| self.bytes.slice(at..))
    }
}

impl Length for Window {
    fn len(&self) -> u64 {
        self.file.byte_len()
    }
}

impl ChunkReader for Window {
    type T = Box<dyn Read + Send>;

    fn get_read(&self, start: u64) -> ParquetResult<Box<dyn Read + Send>> {
        Ok(match self.ahead(start) {
            Some(bytes) => {
                let behind = self.file.get_read(start + bytes.len() as u64)?;
                Box::new(bytes.reader().chain(behind))
            }
            None => Box::new(self.file.get_read(start)?),
        })
    }

    fn get_bytes(&self, start: u64, length: usize) -> ParquetResult<Bytes> {
        match self.ahead(start) {
            Some(bytes) if bytes.len() >= length => Ok(bytes.slice(..length)),
            _ => self.fetch(start..start + length as u64),
        }
    }
}
