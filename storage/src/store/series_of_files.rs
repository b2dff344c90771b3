//! The series map read back from data files.

use std::sync::Arc;

use arrow::array::{
    Array, AsArray, Float64Array, RecordBatch, StringArray, TimestampMillisecondArray, UInt64Array,
};
use arrow::datatypes::{Float64Type, Int32Type, TimestampMillisecondType, UInt64Type};
use parquet::arrow::ProjectionMask;
use parquet::arrow::arrow_reader::{ArrowReaderOptions, ParquetRecordBatchReaderBuilder};

use crate::files::{CheckedFile, DataFile, FileReadError, block_schema};
use crate::frame::Sequence;
use crate::hidden::Hidden;
use crate::series::{Newest, SeriesMap, SeriesName};

/// Reads a file's series back: the span and newest row of each run of one user,
/// source and device.
pub(super) fn load_series(
    series: &SeriesMap,
    file: &Arc<DataFile>,
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
        load_batch(series, &batch, hidden);
    }
    Ok(())
}

fn load_batch(series: &SeriesMap, batch: &RecordBatch, hidden: &Hidden) {
    let texts = |index: usize| {
        let column = batch.column(index).as_dictionary::<Int32Type>();
        (column.keys(), column.values().as_string::<i32>())
    };
    let (orgs, users, metrics, sources, devices) = (texts(0), texts(1), texts(2), texts(5), texts(6));
    let times: &TimestampMillisecondArray = batch.column(3).as_primitive::<TimestampMillisecondType>();
    let values: &Float64Array = batch.column(4).as_primitive::<Float64Type>();
    let sequences: &UInt64Array = batch.column(7).as_primitive::<UInt64Type>();
    let key = |row: usize| {
        let device = devices.0.is_valid(row).then(|| devices.0.value(row));
        let (org, metric) = (orgs.0.value(row), metrics.0.value(row));
        (org, metric, users.0.value(row), sources.0.value(row), device)
    };
    let mut first = 0;
    while first < batch.num_rows() {
        let mut last = first;
        while last + 1 < batch.num_rows() && key(last + 1) == key(first) {
            last += 1;
        }
        let text =
            |(_, values): (_, &StringArray), key: i32| values.value(key.cast_unsigned() as usize).to_owned();
        let (org, metric, user, source, device) = key(first);
        let (org, metric) = (text(orgs, org), text(metrics, metric));
        let (user, source) = (text(users, user), text(sources, source));
        let device = device.map(|device| text(devices, device));
        let name = SeriesName {
            org: &org,
            user: &user,
            metric: &metric,
            source: &source,
            device: device.as_deref(),
        };
        let rows = first..last + 1;
        first = last + 1;
        let hiding = hidden.of(&org, &metric, &user);
        let shows = |row: &usize| {
            let (time, sequence) = (times.value(*row), Sequence(sequences.value(*row)));
            hiding.as_ref().is_none_or(|hiding| !hiding.hides(time, sequence))
        };
        let (Some(earliest), Some(newest)) = (rows.clone().find(&shows), rows.rev().find(&shows)) else {
            continue;
        };
        series.widen(&name, times.value(earliest), times.value(newest));
        let newest = Newest {
            recorded_at: times.value(newest),
            value: values.value(newest),
            sequence: Sequence(sequences.value(newest)),
        };
        series.advance(&name, newest);
    }
}
