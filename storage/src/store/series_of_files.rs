//! The series map read back from data files.

use std::sync::Arc;

use arrow::array::{
    Array, ArrayRef, AsArray, Float64Array, Int32Array, RecordBatch, StringArray, TimestampMillisecondArray,
    UInt64Array,
};
use arrow::datatypes::{Float64Type, Int32Type, TimestampMillisecondType, UInt64Type};
use parquet::arrow::ProjectionMask;
use parquet::arrow::arrow_reader::{ArrowReaderOptions, ParquetRecordBatchReaderBuilder};

use crate::files::{CheckedFile, DataFile, FileReadError, block_schema};
use crate::frame::Sequence;
use crate::hidden::Hidden;
use crate::series::{Newest, SeriesMap, SeriesName};

/// Reads a file's series back, of the rows behind a position that were not erased: the
/// span and newest row of each run of one user, source and device. Aged rows count, as
/// they did when they came; readers look at the age of what they show.
pub(super) fn load_series(
    series: &SeriesMap,
    file: &Arc<DataFile>,
    after: Sequence,
    hidden: &Hidden,
) -> Result<(), FileReadError> {
    let parquet = |source| FileReadError::Parquet { path: file.record.path.clone(), source };
    let reader = CheckedFile::open(file)?;
    let options = ArrowReaderOptions::new().with_schema(block_schema());
    let builder = ParquetRecordBatchReaderBuilder::try_new_with_options(reader, options).map_err(parquet)?;
    let names = ["org", "user_id", "metric", "recorded_at", "value", "source", "device", "sequence"];
    let mask = ProjectionMask::columns(builder.parquet_schema(), names);
    let batches = builder.with_projection(mask).with_batch_size(64 * 1024).build().map_err(parquet)?;
    for batch in batches {
        let batch = batch.map_err(|error| parquet(error.into()))?;
        Rows::of(&batch).load(series, after, hidden);
    }
    Ok(())
}

/// The columns of a batch.
struct Rows<'a> {
    orgs: Texts<'a>,
    metrics: Texts<'a>,
    users: Texts<'a>,
    times: &'a TimestampMillisecondArray,
    values: &'a Float64Array,
    sources: Texts<'a>,
    devices: Texts<'a>,
    sequences: &'a UInt64Array,
}

/// A dictionary column.
struct Texts<'a> {
    keys: &'a Int32Array,
    values: &'a StringArray,
}

impl<'a> Texts<'a> {
    fn of(column: &'a ArrayRef) -> Texts<'a> {
        let column = column.as_dictionary::<Int32Type>();
        Texts { keys: column.keys(), values: column.values().as_string::<i32>() }
    }

    fn key(&self, row: usize) -> Option<i32> {
        self.keys.is_valid(row).then(|| self.keys.value(row))
    }

    fn text(&self, row: usize) -> Option<&'a str> {
        self.key(row).map(|key| self.values.value(key.cast_unsigned() as usize))
    }
}

impl<'a> Rows<'a> {
    fn of(batch: &'a RecordBatch) -> Rows<'a> {
        Rows {
            orgs: Texts::of(batch.column(0)),
            users: Texts::of(batch.column(1)),
            metrics: Texts::of(batch.column(2)),
            times: batch.column(3).as_primitive::<TimestampMillisecondType>(),
            values: batch.column(4).as_primitive::<Float64Type>(),
            sources: Texts::of(batch.column(5)),
            devices: Texts::of(batch.column(6)),
            sequences: batch.column(7).as_primitive::<UInt64Type>(),
        }
    }

    fn load(&self, series: &SeriesMap, after: Sequence, hidden: &Hidden) {
        let key = |row: usize| {
            let Rows { orgs, metrics, users, sources, devices, .. } = self;
            (orgs.key(row), metrics.key(row), users.key(row), sources.key(row), devices.key(row))
        };
        let newer: Vec<usize> =
            (0..self.sequences.len()).filter(|&row| self.sequences.value(row) > after.0).collect();
        for run in newer.chunk_by(|&a, &b| key(a) == key(b)) {
            self.load_run(series, run, hidden);
        }
    }

    /// Rows of one series in the order of time and, of equal times, of sequence.
    fn load_run(&self, series: &SeriesMap, run: &[usize], hidden: &Hidden) {
        let first = run[0];
        let name = SeriesName {
            org: self.orgs.text(first).unwrap_or_default(),
            user: self.users.text(first).unwrap_or_default(),
            metric: self.metrics.text(first).unwrap_or_default(),
            source: self.sources.text(first).unwrap_or_default(),
            device: self.devices.text(first),
        };
        let hiding = hidden.of(name.org, name.metric, name.user);
        let shows = |row: &&usize| {
            let (time, sequence) = (self.times.value(**row), Sequence(self.sequences.value(**row)));
            hiding.as_ref().is_none_or(|hiding| !hiding.erases(time, sequence))
        };
        let (Some(&first), Some(&last)) = (run.iter().find(&shows), run.iter().rev().find(&shows)) else {
            return;
        };
        let newest = Newest {
            recorded_at: self.times.value(last),
            value: self.values.value(last),
            sequence: Sequence(self.sequences.value(last)),
        };
        series.advance(&name, self.times.value(first), self.times.value(last), newest);
    }
}
