//! Reads of the keys of attempts, and what became of messages.

use std::ops::RangeInclusive;

use hashbrown::HashMap;
use parquet::arrow::arrow_reader::ArrowReaderMetadata;
use parquet::file::metadata::RowGroupMetaData;
use parquet::file::statistics::Statistics;

use super::AttemptFile;
use super::schema::{Columns, column, footer, read};
use crate::files::FileReadError;
use crate::frame::{AttemptRow, AttemptsFrame};
use crate::store::Snapshot;

/// Rows of keys that are decoded at once.
const BATCH_ROWS: usize = 8 * 1024;

/// The frames of an organisation's attempts that are in no file yet.
pub(super) fn frames_of(snapshot: &Snapshot, org: &str) -> Vec<AttemptsFrame> {
    snapshot.buffers().flat_map(|buffer| buffer.attempts()).filter(|frame| frame.org() == org).collect()
}

/// Gives these columns of a row group's rows, each row with its place in the group; returns
/// how many there are.
pub(super) fn look(
    file: &AttemptFile,
    footer: &ArrowReaderMetadata,
    group: usize,
    columns: &Columns,
    mut row_found: impl FnMut(&AttemptRow<&str>, usize),
) -> Result<usize, FileReadError> {
    let mut before = 0;
    for block in read(file, footer, vec![group], columns, None, BATCH_ROWS)? {
        let block = block?;
        (0..block.rows()).for_each(|row| row_found(&block.row(row), before + row));
        before += block.rows();
    }
    Ok(before)
}

/// The place of a message: sequence, group, chunk, kind.
pub type AttemptPlace = (u64, u32, u16, u8);

/// What became of the messages of some frames.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct AttemptOutcomes {
    /// Of each that was sent, whether any attempt succeeded.
    pub by_place: HashMap<AttemptPlace, bool>,
    /// The last frame of which that is told.
    pub through: u64,
}

/// Outcomes of the first of some frames, as many as fit.
struct Found {
    outcomes: AttemptOutcomes,
    most: usize,
    /// With more than this the last frames are left out.
    full: usize,
}

impl Found {
    fn new(through: u64, most: usize) -> Found {
        let outcomes = AttemptOutcomes { by_place: HashMap::new(), through };
        Found { outcomes, most, full: most.saturating_mul(2) }
    }

    fn add(&mut self, place: AttemptPlace, succeeded: bool) {
        if place.0 > self.outcomes.through {
            return;
        }
        *self.outcomes.by_place.entry(place).or_default() |= succeeded;
        if self.outcomes.by_place.len() > self.full {
            self.shorten();
            // One frame may have more.
            self.full = self.full.max(2 * self.outcomes.by_place.len());
        }
    }

    /// Leaves out the last frames until there are no more than may be, or one frame's.
    fn shorten(&mut self) {
        let AttemptOutcomes { by_place, through } = &mut self.outcomes;
        if by_place.len() <= self.most {
            return;
        }
        let mut sequences: Vec<u64> = by_place.keys().map(|place| place.0).collect();
        let (before, over, _) = sequences.select_nth_unstable(self.most);
        let first = before.iter().copied().min().unwrap_or(*over);
        *through = first.max(over.saturating_sub(1));
        by_place.retain(|place, _| place.0 <= *through);
    }
}

/// Of each message with a place in `sequences` that was sent to an endpoint, whether any
/// attempt succeeded. Ends before the frame with which there would be more than `most`, but
/// not before the second that has any.
///
/// # Errors
/// [`FileReadError`].
pub(crate) fn outcomes(
    snapshot: &Snapshot,
    org: &str,
    endpoint: &str,
    sequences: RangeInclusive<u64>,
    most: usize,
) -> Result<AttemptOutcomes, FileReadError> {
    let (first, last) = (*sequences.start().max(&1), *sequences.end());
    let mut found = Found::new(last, most);
    let mut add = |row: &AttemptRow<&str>| {
        if row.endpoint == endpoint && row.sequence >= first {
            found.add((row.sequence, row.group, row.chunk, row.kind), row.success);
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
                look(file, &footer, group, &Columns::keys(), |row, _| add(row))?;
            }
        }
    }
    found.shorten();
    Ok(found.outcomes)
}

/// What the statistics of a row group say.
pub(super) struct Extent<'a>(pub(super) &'a RowGroupMetaData);

impl Extent<'_> {
    pub(super) fn numbers(&self, name: &str) -> Option<(i64, i64)> {
        match self.0.column(column(name)).statistics()? {
            Statistics::Int64(numbers) => Some((*numbers.min_opt()?, *numbers.max_opt()?)),
            _ => None,
        }
    }

    /// Whether a number of this range may be in it; numbers of 64 bits, unsigned.
    pub(super) fn may_hold_number(&self, name: &str, first: u64, last: u64) -> bool {
        self.numbers(name)
            .is_none_or(|(min, max)| min.cast_unsigned() <= last && first <= max.cast_unsigned())
    }

    pub(super) fn may_hold_text(&self, name: &str, text: &str) -> bool {
        let Some(Statistics::ByteArray(texts)) = self.0.column(column(name)).statistics() else {
            return true;
        };
        let (Some(min), Some(max)) = (texts.min_opt(), texts.max_opt()) else { return true };
        // A bound that was cut short is still one.
        min.data() <= text.as_bytes() && text.as_bytes() <= max.data()
    }
}
