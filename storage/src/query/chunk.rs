//! Answers: rows of a series, in order, without Arrow in sight.

use arrow::array::{
    Array, ArrayRef, AsArray, BooleanArray, Float64Array, Int16Array, PrimitiveArray, RecordBatch,
    StringArray, TimestampMillisecondArray, UInt32Array,
};
use arrow::compute::take;
use arrow::datatypes::{Float64Type, Int16Type, Int32Type, TimestampMillisecondType};
use std::ops::Range;
use std::sync::Arc;

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

impl SampleRow<'_> {
    /// Its place in a series.
    #[must_use]
    pub fn position(&self) -> Position {
        Position {
            recorded_at: self.recorded_at,
            source: self.source.to_owned(),
            device: self.device.map(str::to_owned),
        }
    }
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

    /// The columns as slices, for whoever reads every row.
    pub(super) fn columns(&self) -> ChunkColumns<'_> {
        ChunkColumns {
            recorded_at: self.recorded_at.values(),
            value: self.value.values(),
            source_keys: self.source.keys.values(),
            sources: &self.source.values,
            zone_minutes: &self.zone_minutes,
        }
    }

    /// The rows of the columns that belong to the answer, oldest first.
    pub(super) fn rows(&self) -> Range<usize> {
        self.rows.clone()
    }

    /// Some samples, counted in the order asked for, as columns in that order: the
    /// columns [`SERIES_COLUMNS`] but the sequence, texts as they are.
    pub(super) fn columns_in_order(&self, rows: Range<usize>) -> Vec<ArrayRef> {
        let (start, length) = match self.order {
            Order::Ascending => (self.rows.start + rows.start, rows.len()),
            Order::Descending => (self.rows.end - rows.end, rows.len()),
        };
        let texts = |texts: &Texts| -> ArrayRef {
            let rows = start..start + length;
            match self.order {
                Order::Ascending => Arc::new(rows.map(|row| texts.get(row)).collect::<StringArray>()),
                Order::Descending => Arc::new(rows.rev().map(|row| texts.get(row)).collect::<StringArray>()),
            }
        };
        let numbers = |column: &dyn Array| -> ArrayRef {
            let slice = column.slice(start, length);
            match self.order {
                Order::Ascending => slice,
                Order::Descending => reversed(&slice),
            }
        };
        vec![
            numbers(&self.recorded_at),
            numbers(&self.value),
            texts(&self.source),
            texts(&self.device),
            numbers(&self.zone_minutes),
            numbers(&self.ended_at),
            numbers(&self.is_daily_total),
        ]
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

fn reversed(column: &ArrayRef) -> ArrayRef {
    let rows = u32::try_from(column.len()).expect("a chunk holds under 2 billion rows");
    let backwards = UInt32Array::from_iter_values((0..rows).rev());
    take(column, &backwards, None).expect("every index is a row of the column")
}

/// The columns of a chunk that aggregation reads.
#[derive(Debug)]
pub(super) struct ChunkColumns<'a> {
    pub(super) recorded_at: &'a [i64],
    pub(super) value: &'a [f64],
    source_keys: &'a [i32],
    pub(super) sources: &'a StringArray,
    zone_minutes: &'a Int16Array,
}

impl ChunkColumns<'_> {
    /// Which of `sources` made a row. A sample always has one.
    pub(super) fn source_key(&self, row: usize) -> usize {
        self.source_keys[row].cast_unsigned() as usize
    }

    pub(super) fn zone_minutes(&self, row: usize) -> Option<i16> {
        self.zone_minutes.is_valid(row).then(|| self.zone_minutes.value(row))
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
