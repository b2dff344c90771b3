//! Rows of frames as an Arrow batch, for queries of what is in no file yet.

use std::sync::Arc;

use arrow::array::{
    ArrayRef, BooleanBuilder, DictionaryArray, Float64Array, Int16Builder, PrimitiveBuilder, RecordBatch,
    StringArray, TimestampMillisecondArray, TimestampMillisecondBuilder, UInt64Array,
};
use arrow::datatypes::Int32Type;
use hashbrown::HashMap;

use super::run::Run;
use super::schema::samples_schema;

/// Columns being filled; organisation and metric are the same in all rows.
#[derive(Debug)]
pub(crate) struct ColumnsBuilder {
    org: String,
    metric: String,
    user: Texts,
    recorded_at: Vec<i64>,
    value: Vec<f64>,
    unit: Texts,
    source: Texts,
    device: Texts,
    zone_minutes: Int16Builder,
    ended_at: TimestampMillisecondBuilder,
    is_daily_total: BooleanBuilder,
    sequence: Vec<u64>,
    received_at: Vec<i64>,
}

impl ColumnsBuilder {
    pub(crate) fn new(org: &str, metric: &str) -> ColumnsBuilder {
        ColumnsBuilder {
            org: org.to_owned(),
            metric: metric.to_owned(),
            user: Texts::default(),
            recorded_at: Vec::new(),
            value: Vec::new(),
            unit: Texts::default(),
            source: Texts::default(),
            device: Texts::default(),
            zone_minutes: Int16Builder::new(),
            ended_at: TimestampMillisecondBuilder::new(),
            is_daily_total: BooleanBuilder::new(),
            sequence: Vec::new(),
            received_at: Vec::new(),
        }
    }

    pub(crate) fn len(&self) -> usize {
        self.recorded_at.len()
    }

    /// Adds a run of rows: strings once, numbers column by column.
    pub(crate) fn push(&mut self, run: &Run<'_>) {
        let (frame, rows) = (run.frame, run.rows.clone());
        let stamp = frame.header().stamp;
        self.user.push(Some(run.user), rows.len());
        self.unit.push(Some(run.unit), rows.len());
        self.source.push(Some(run.source), rows.len());
        self.device.push(run.device, rows.len());
        self.sequence.extend(std::iter::repeat_n(stamp.sequence.0, rows.len()));
        self.received_at.extend(std::iter::repeat_n(stamp.committed_at.div_euclid(1000), rows.len()));
        self.recorded_at.extend(frame.recorded_at_of(rows.clone()));
        self.value.extend(frame.value_of(rows.clone()));
        if frame.has_zones() {
            rows.clone().for_each(|row| self.zone_minutes.append_option(frame.zone(row)));
        } else {
            self.zone_minutes.append_nulls(rows.len());
        }
        if frame.has_ends() {
            rows.clone().for_each(|row| self.ended_at.append_option(frame.ended_at(row)));
        } else {
            self.ended_at.append_nulls(rows.len());
        }
        if frame.has_daily_totals() {
            rows.for_each(|row| self.is_daily_total.append_option(frame.is_daily_total(row)));
        } else {
            self.is_daily_total.append_nulls(rows.len());
        }
    }

    /// The rows so far as a batch; the builder starts anew.
    pub(crate) fn finish(&mut self) -> RecordBatch {
        let rows = self.len();
        let time = |values: Vec<i64>| Arc::new(TimestampMillisecondArray::from(values).with_timezone("UTC"));
        let columns: Vec<ArrayRef> = vec![
            constant(&self.org, rows),
            self.user.finish(),
            constant(&self.metric, rows),
            time(std::mem::take(&mut self.recorded_at)),
            Arc::new(Float64Array::from(std::mem::take(&mut self.value))),
            self.unit.finish(),
            self.source.finish(),
            self.device.finish(),
            Arc::new(self.zone_minutes.finish()),
            Arc::new(self.ended_at.finish().with_timezone("UTC")),
            Arc::new(self.is_daily_total.finish()),
            Arc::new(UInt64Array::from(std::mem::take(&mut self.sequence))),
            time(std::mem::take(&mut self.received_at)),
        ];
        RecordBatch::try_new(samples_schema(), columns).expect("columns are built to the schema")
    }
}

fn constant(text: &str, rows: usize) -> ArrayRef {
    Arc::new(StringArray::from_iter_values(std::iter::repeat_n(text, rows)))
}

/// A dictionary column. Runs mostly repeat the text before, so the hash map is
/// asked only where it changes.
#[derive(Debug, Default)]
struct Texts {
    keys: PrimitiveBuilder<Int32Type>,
    values: Vec<String>,
    by_text: HashMap<String, i32>,
    last: Option<i32>,
}

impl Texts {
    /// The same text, or none, in `rows` rows.
    fn push(&mut self, text: Option<&str>, rows: usize) {
        let key = text.map(|text| match self.last {
            Some(last) if self.values[last.cast_unsigned() as usize] == text => last,
            _ => self.key(text),
        });
        self.last = key.or(self.last);
        match key {
            Some(key) => self.keys.append_value_n(key, rows),
            None => self.keys.append_nulls(rows),
        }
    }

    fn key(&mut self, text: &str) -> i32 {
        *self.by_text.entry_ref(text).or_insert_with(|| {
            self.values.push(text.to_owned());
            i32::try_from(self.values.len() - 1).expect("a batch holds under 2 billion rows")
        })
    }

    fn finish(&mut self) -> ArrayRef {
        let keys = self.keys.finish();
        let values = Arc::new(StringArray::from(std::mem::take(&mut self.values)));
        self.by_text.clear();
        self.last = None;
        Arc::new(DictionaryArray::<Int32Type>::new(keys, values))
    }
}
