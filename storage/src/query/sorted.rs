//! Parts of a series as one batch: sorted by (time, source, device, sequence), of equal
//! keys the latest.

use arrow::array::{AsArray, BooleanArray, BooleanBufferBuilder, RecordBatch, UInt32Array};
use arrow::compute::{concat_batches, filter_record_batch, take_record_batch};
use arrow::datatypes::{SchemaRef, TimestampMillisecondType, UInt64Type};
use arrow::error::ArrowError;

use super::chunk::Texts;
use super::supersede::{keep_last, key_columns};

/// Joins parts of which each is sorted in itself. Parts whose times do not overlap are
/// put one behind the other; only others are merged row by row.
pub(super) fn joined(schema: &SchemaRef, mut parts: Vec<RecordBatch>) -> Result<RecordBatch, ArrowError> {
    parts.retain(|part| part.num_rows() > 0);
    parts.sort_by_key(|part| times_of(part)[0]);
    let apart = parts.windows(2).all(|pair| {
        let before = times_of(&pair[0]);
        before[before.len() - 1] < times_of(&pair[1])[0]
    });
    let rows = match parts.len() {
        0 => return Ok(RecordBatch::new_empty(schema.clone())),
        1 => parts.remove(0),
        _ => concat_batches(schema, &parts)?,
    };
    latest(&if apart { rows } else { in_order(&rows)? })
}

fn times_of(batch: &RecordBatch) -> &[i64] {
    let column = batch.column_by_name("recorded_at").expect("every part has times");
    column.as_primitive::<TimestampMillisecondType>().values()
}

/// The rows in the order of their keys. What is sorted already is found to be.
fn in_order(rows: &RecordBatch) -> Result<RecordBatch, ArrowError> {
    let column = |name: &str| rows.column_by_name(name).expect("every part has its key");
    let times = times_of(rows);
    let (sources, devices) = (Texts::new(column("source")), Texts::new(column("device")));
    let sequences = column("sequence").as_primitive::<UInt64Type>().values();
    let count = u32::try_from(rows.num_rows()).expect("a slice holds under 4 billion rows");
    let mut order: Vec<u32> = (0..count).collect();
    order.sort_by(|a, b| {
        let (a, b) = (*a as usize, *b as usize);
        times[a]
            .cmp(&times[b])
            .then_with(|| sources.get(a).cmp(&sources.get(b)))
            .then_with(|| devices.get(a).cmp(&devices.get(b)))
            .then_with(|| sequences[a].cmp(&sequences[b]))
    });
    take_record_batch(rows, &UInt32Array::from(order))
}

/// The last row of each run of equal keys.
fn latest(rows: &RecordBatch) -> Result<RecordBatch, ArrowError> {
    match keep_last(rows, &key_columns(&rows.schema())?)? {
        None => Ok(rows.clone()),
        Some(but_last) => {
            let mut kept = BooleanBufferBuilder::new(rows.num_rows());
            kept.append_buffer(but_last.values());
            kept.append(true);
            filter_record_batch(rows, &BooleanArray::new(kept.finish(), None))
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use arrow::array::{Array, DictionaryArray, Float64Array, TimestampMillisecondArray, UInt64Array};
    use arrow::datatypes::{Field, Int32Type, Schema};

    use super::*;

    /// Time, source, device, sequence.
    type Row = (i64, &'static str, Option<&'static str>, u64);

    fn batch(rows: &[Row]) -> RecordBatch {
        let times = TimestampMillisecondArray::from_iter_values(rows.iter().map(|row| row.0));
        let sources: DictionaryArray<Int32Type> = rows.iter().map(|row| row.1).collect();
        let devices: DictionaryArray<Int32Type> = rows.iter().map(|row| row.2).collect();
        let columns: Vec<(&str, Arc<dyn Array>)> = vec![
            ("recorded_at", Arc::new(times)),
            ("value", Arc::new(Float64Array::from_iter_values(rows.iter().map(|row| row.3 as f64)))),
            ("source", Arc::new(sources)),
            ("device", Arc::new(devices)),
            ("sequence", Arc::new(UInt64Array::from_iter_values(rows.iter().map(|row| row.3)))),
        ];
        let fields: Vec<Field> = columns
            .iter()
            .map(|(name, column)| Field::new(*name, column.data_type().clone(), true))
            .collect();
        let columns = columns.into_iter().map(|(_, column)| column).collect();
        RecordBatch::try_new(Arc::new(Schema::new(fields)), columns).unwrap()
    }

    fn sequences(batch: &RecordBatch) -> Vec<u64> {
        batch.column_by_name("sequence").unwrap().as_primitive::<UInt64Type>().values().to_vec()
    }

    #[test]
    fn parts_are_merged_by_key_and_the_latest_stays() {
        let cases: [(&[&[Row]], &[u64]); 5] = [
            (&[], &[]),
            (&[&[(1, "a", None, 1), (1, "a", None, 2), (2, "a", None, 1)]], &[2, 1]),
            // Apart, given in any order.
            (&[&[(5, "a", None, 3)], &[(1, "a", None, 1), (2, "a", None, 2)]], &[1, 2, 3]),
            // Corrections of a later part, and other devices of the same time.
            (
                &[
                    &[(1, "a", None, 1), (2, "a", None, 1), (3, "a", None, 1)],
                    &[(2, "a", None, 7), (2, "a", Some("d"), 8), (3, "b", None, 9)],
                ],
                &[1, 7, 8, 1, 9],
            ),
            (&[&[(1, "a", None, 4)], &[(1, "a", None, 2)]], &[4]),
        ];
        for (parts, expected) in cases {
            let schema = batch(&[]).schema();
            let parts = parts.iter().map(|rows| batch(rows)).collect();
            assert_eq!(sequences(&joined(&schema, parts).unwrap()), expected);
        }
    }
}
