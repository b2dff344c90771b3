//! What a series held before a frame: the question the classifier asks.
//!
//! Constraints: memory of one slice of the series and of the rows that were asked
//! for, however wide the window between the first and the last of them is.

use super::answer::read_slice;
use super::chunk::SERIES_COLUMNS;
use super::window::Slices;
use super::{Order, QueryError, SampleChunk, SamplesTable, Scan};
use crate::frame::Sequence;
use crate::series::SeriesName;

/// Which samples a series held before a frame.
#[derive(Clone, Copy, Debug)]
pub struct StateQuestion<'a> {
    /// Whose data.
    pub org: &'a str,
    /// The series.
    pub series: SeriesName<'a>,
    /// The times asked for, milliseconds, rising.
    pub times: &'a [i64],
    /// Only what was committed before this.
    pub before: Sequence,
}

/// A sample that was there.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct StateRow {
    /// Its place in the times asked for.
    pub index: usize,
    /// In the canonical unit.
    pub value: f64,
    /// Offset from UTC where it was recorded.
    pub zone_minutes: Option<i16>,
    /// End of its span, milliseconds.
    pub ended_at: Option<i64>,
}

impl StateQuestion<'_> {
    /// The rows that were there, by rising index.
    pub(super) fn answer(&self, table: &SamplesTable) -> Result<Vec<StateRow>, QueryError> {
        let mut rows = Vec::new();
        let (Some(&first), Some(&last)) = (self.times.first(), self.times.last()) else {
            return Ok(rows);
        };
        let end = last.saturating_add(1);
        let located = table.locate(self.series.user, self.series.metric, first, end);
        let mut slices = Slices::new(first, end, Order::Ascending, i64::MAX);
        while let Some(slice) = slices.next() {
            let scan = self.scan(slice);
            if let Some(found) = read_slice(table, &scan, &located, &SERIES_COLUMNS, &mut slices)? {
                self.pick(&SampleChunk::new(&found, Order::Ascending), &mut rows);
            }
        }
        Ok(rows)
    }

    /// Keeps the rows of the series at the times asked for.
    fn pick(&self, chunk: &SampleChunk, rows: &mut Vec<StateRow>) {
        for row in (0..chunk.len()).map(|at| chunk.row(at)) {
            if row.device != self.series.device {
                continue;
            }
            if let Ok(index) = self.times.binary_search(&row.recorded_at) {
                let (value, zone_minutes, ended_at) = (row.value, row.zone_minutes, row.ended_at);
                rows.push(StateRow { index, value, zone_minutes, ended_at });
            }
        }
    }

    fn scan(&self, (start, end): (i64, i64)) -> Scan {
        Scan {
            org: self.org.to_owned(),
            user: self.series.user.to_owned(),
            metric: self.series.metric.to_owned(),
            source: Some(self.series.source.to_owned()),
            start,
            end,
            before: Some(self.before),
        }
    }
}
