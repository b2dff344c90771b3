//! Rows into Arrow columns, a batch at a time.

use std::sync::Arc;

use arrow::array::{
    ArrayRef, BooleanBuilder, DictionaryArray, Float64Array, Int16Builder, Int32Array, RecordBatch,
    StringArray, TimestampMillisecondArray, TimestampMillisecondBuilder, UInt64Array,
};
use arrow::datatypes::Int32Type;
use hashbrown::HashMap;

use super::schema::samples_schema;
use crate::frame::Sequence;

/// One sample as it is written.
#[derive(Clone, Copy, Debug)]
pub struct Row<'a> {
    /// Who wears the device.
    pub user: &'a str,
    /// Canonical unit.
    pub unit: &'a str,
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
    /// Of its frame.
    pub sequence: Sequence,
    /// When it was committed, milliseconds.
    pub received_at: i64,
}

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

    pub(crate) fn push(&mut self, row: &Row<'_>) {
        self.user.push(Some(row.user));
        self.recorded_at.push(row.recorded_at);
        self.value.push(row.value);
        self.unit.push(Some(row.unit));
        self.source.push(Some(row.source));
        self.device.push(row.device);
        self.zone_minutes.append_option(row.zone_minutes);
        self.ended_at.append_option(row.ended_at);
        self.is_daily_total.append_option(row.is_daily_total);
        self.sequence.push(row.sequence.0);
        self.received_at.push(row.received_at);
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
    let keys = Int32Array::from(vec![0; rows]);
    let values = Arc::new(StringArray::from(vec![text]));
    Arc::new(DictionaryArray::<Int32Type>::new(keys, values))
}

/// A dictionary column. Sorted rows repeat the text before, so the hash map is
/// asked only where it changes.
#[derive(Debug, Default)]
struct Texts {
    keys: Vec<Option<i32>>,
    values: Vec<String>,
    by_text: HashMap<String, i32>,
    last: Option<i32>,
}

impl Texts {
    fn push(&mut self, text: Option<&str>) {
        let key = text.map(|text| match self.last {
            Some(last) if self.values[last.cast_unsigned() as usize] == text => last,
            _ => self.key(text),
        });
        self.last = key.or(self.last);
        self.keys.push(key);
    }

    fn key(&mut self, text: &str) -> i32 {
        *self.by_text.entry_ref(text).or_insert_with(|| {
            self.values.push(text.to_owned());
            i32::try_from(self.values.len() - 1).expect("a batch holds under 2 billion rows")
        })
    }

    fn finish(&mut self) -> ArrayRef {
        let keys = Int32Array::from(std::mem::take(&mut self.keys));
        let values = Arc::new(StringArray::from(std::mem::take(&mut self.values)));
        self.by_text.clear();
        self.last = None;
        Arc::new(DictionaryArray::<Int32Type>::new(keys, values))
    }
}
