//! Answers: rows of a series, in order, without Arrow in sight.

use arrow::array::{
    Array, ArrayRef, AsArray, BooleanArray, Float64Array, Int16Array, PrimitiveArray, RecordBatch,
    StringArray, TimestampMillisecondArray,
};
use arrow::datatypes::{Float64Type, Int16Type, Int32Type, TimestampMillisecondType};
use std::ops::Range;

use super::{Order, Position};

/// The columns a series query reads, by their names in the table.
pub(super) const SERIES_COLUMNS: [&str; 8] = [
    "recorded_at",
    "value",
    "source",
    "device",
    "zone_offset_minutes",
    "ended_at",
    "is_daily_total",
    "sequence",
];

/// One sample.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct SampleRow<'a> {
    /// Milliseconds since 1970.
    pub recorded_at: i64,
    /// In the canonical unit.
    pub value: f64,
    /// Who made it.
    pub source: &'a str,
    /// Which device.
    pub device: Option<&'a str>,
    /// Offset from UTC where it was recorded.
    pub zone_minutes: Option<i16>,
    /// End of its span, milliseconds.
    pub ended_at: Option<i64>,
    /// Whether it stands for the whole day.
    pub is_daily_total: Option<bool>,
}

/// Some samples of an answer.
#[derive(Clone, Debug)]
pub struct SampleChunk {
    recorded_at: TimestampMillisecondArray,
    value: Float64Array,
    source: Texts,
    device: Texts,
    zone_minutes: Int16Array,
    ended_at: TimestampMillisecondArray,
    is_daily_total: BooleanArray,
    /// The part of the columns that belongs to the answer, oldest first.
    rows: Range<usize>,
    order: Order,
}

impl SampleChunk {
    /// A batch with the columns [`SERIES_COLUMNS`], sorted oldest first.
    pub(super) fn new(batch: &RecordBatch, order: Order) -> SampleChunk {
        let time = |index: usize| batch.column(index).as_primitive::<TimestampMillisecondType>().clone();
        SampleChunk {
            recorded_at: time(0),
            value: batch.column(1).as_primitive::<Float64Type>().clone(),
            source: Texts::new(batch.column(2)),
            device: Texts::new(batch.column(3)),
            zone_minutes: batch.column(4).as_primitive::<Int16Type>().clone(),
            ended_at: time(5),
            is_daily_total: batch.column(6).as_boolean().clone(),
            rows: 0..batch.num_rows(),
            order,
        }
    }

    /// Number of samples.
    #[must_use]
    pub fn len(&self) -> usize {
        self.rows.len()
    }

    /// Whether it has none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }

    /// Sample `index` in the order asked for.
    ///
    /// # Panics
    /// If there is no such sample.
    #[must_use]
    pub fn row(&self, index: usize) -> SampleRow<'_> {
        assert!(index < self.len());
        match self.order {
            Order::Ascending => self.at(self.rows.start + index),
            Order::Descending => self.at(self.rows.end - 1 - index),
        }
    }

    /// Drops everything up to and including `position` in the order asked for.
    pub(super) fn skip_through(&mut self, position: &Position) {
        let key = (position.recorded_at, position.source.as_str(), position.device.as_deref());
        match self.order {
            Order::Ascending => self.rows.start = self.first(|row| row > key),
            Order::Descending => self.rows.end = self.first(|row| row >= key),
        }
    }

    /// Keeps the first `limit` in the order asked for.
    pub(super) fn truncate(&mut self, limit: usize) {
        let surplus = self.len().saturating_sub(limit);
        match self.order {
            Order::Ascending => self.rows.end -= surplus,
            Order::Descending => self.rows.start += surplus,
        }
    }

    /// The first row, oldest first, from which `holds` is true.
    fn first(&self, holds: impl Fn((i64, &str, Option<&str>)) -> bool) -> usize {
        let (mut low, mut high) = (self.rows.start, self.rows.end);
        while low < high {
            let middle = usize::midpoint(low, high);
            let row = self.at(middle);
            if holds((row.recorded_at, row.source, row.device)) {
                high = middle;
            } else {
                low = middle + 1;
            }
        }
        low
    }

    fn at(&self, row: usize) -> SampleRow<'_> {
        SampleRow {
            recorded_at: self.recorded_at.value(row),
            value: self.value.value(row),
            source: self.source.get(row).unwrap_or_default(),
            device: self.device.get(row),
            zone_minutes: self.zone_minutes.is_valid(row).then(|| self.zone_minutes.value(row)),
            ended_at: self.ended_at.is_valid(row).then(|| self.ended_at.value(row)),
            is_daily_total: self.is_daily_total.is_valid(row).then(|| self.is_daily_total.value(row)),
        }
    }
}

/// A dictionary column of strings.
#[derive(Clone, Debug)]
pub(super) struct Texts {
    keys: PrimitiveArray<Int32Type>,
    values: StringArray,
}

impl Texts {
    pub(super) fn new(column: &ArrayRef) -> Texts {
        let dictionary = column.as_dictionary::<Int32Type>();
        Texts { keys: dictionary.keys().clone(), values: dictionary.values().as_string::<i32>().clone() }
    }

    pub(super) fn get(&self, row: usize) -> Option<&str> {
        self.keys.is_valid(row).then(|| self.values.value(self.keys.value(row).cast_unsigned() as usize))
    }
}
