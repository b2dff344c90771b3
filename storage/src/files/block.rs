//! A batch of a data file's rows, ready to be merged into another file.
//!
//! Texts are looked at once, where they change; rows of a run are then copied
//! without a look at them.

use std::ops::Range;
use std::sync::{Arc, LazyLock};

use arrow::array::{Array, ArrayRef, AsArray, BooleanArray, RecordBatch};
use arrow::buffer::ScalarBuffer;
use arrow::datatypes::{
    DataType, Field, Float64Type, Int16Type, Int32Type, Schema, SchemaRef, TimestampMillisecondType,
    UInt64Type,
};

use super::rows::{Names, Rows};
use super::schema::{COLUMN_NAMES, samples_schema};
use crate::frame::{DAILY_FALSE, DAILY_TRUE, DAILY_UNKNOWN, ENDED_NONE, ZONE_UNKNOWN};

/// Rows compared at once while runs are looked for.
const STRIDE: usize = 64;

static SCHEMA: LazyLock<SchemaRef> = LazyLock::new(|| {
    let text = || DataType::Dictionary(Box::new(DataType::Int32), Box::new(DataType::Utf8));
    let field = |field: &Arc<Field>| match field.data_type() {
        DataType::Utf8 => Arc::new(Field::new(field.name(), text(), field.is_nullable())),
        _ => field.clone(),
    };
    Arc::new(Schema::new(samples_schema().fields().iter().map(field).collect::<Vec<_>>()))
});

/// The schema in which a [`Block`] takes its rows: all texts as dictionaries. Give it
/// to the reader (`ArrowReaderOptions::with_schema`).
#[must_use]
pub fn block_schema() -> SchemaRef {
    SCHEMA.clone()
}

/// A batch that is no block.
#[derive(Debug, thiserror::Error)]
pub enum BlockError {
    /// A column is missing or of another type.
    #[error("column {column} is not as data files have it")]
    Column {
        /// Its name.
        column: &'static str,
    },
}

/// See the module. Cheap to make: numbers are shared with the batch.
#[derive(Debug)]
pub struct Block {
    org: Texts,
    metric: Texts,
    user: Texts,
    unit: Texts,
    source: Texts,
    device: Texts,
    recorded_at: ScalarBuffer<i64>,
    value: ScalarBuffer<f64>,
    zone_minutes: Option<Vec<i16>>,
    ended_at: Option<Vec<i64>>,
    is_daily_total: Option<Vec<u8>>,
    sequence: ScalarBuffer<u64>,
    received_at: ScalarBuffer<i64>,
    /// Ends of runs of one (organisation, metric, user), rising.
    user_ends: Vec<usize>,
    /// Ends of runs in which no text changes, rising.
    text_ends: Vec<usize>,
}

impl Block {
    /// Takes a batch of [`block_schema`].
    ///
    /// # Errors
    /// [`BlockError`] if it is of another schema.
    pub fn new(batch: &RecordBatch) -> Result<Block, BlockError> {
        let column = |name: &'static str| {
            let at = COLUMN_NAMES.iter().position(|known| *known == name);
            let found = at.filter(|&at| {
                batch.num_columns() == COLUMN_NAMES.len()
                    && batch.column(at).data_type() == SCHEMA.field(at).data_type()
                    && (SCHEMA.field(at).is_nullable() || batch.column(at).null_count() == 0)
            });
            found.map(|at| batch.column(at)).ok_or(BlockError::Column { column: name })
        };
        let texts = |name| column(name).map(Texts::new);
        let time = |name| column(name).map(|array| array.as_primitive::<TimestampMillisecondType>());
        let mut block = Block {
            org: texts("org")?,
            metric: texts("metric")?,
            user: texts("user_id")?,
            unit: texts("unit")?,
            source: texts("source")?,
            device: texts("device")?,
            recorded_at: time("recorded_at")?.values().clone(),
            value: column("value")?.as_primitive::<Float64Type>().values().clone(),
            zone_minutes: some(column("zone_offset_minutes")?, |array| {
                array.as_primitive::<Int16Type>().iter().map(|zone| zone.unwrap_or(ZONE_UNKNOWN)).collect()
            }),
            ended_at: some(column("ended_at")?, |array| {
                let times = array.as_primitive::<TimestampMillisecondType>();
                times.iter().map(|time| time.unwrap_or(ENDED_NONE)).collect()
            }),
            is_daily_total: some(column("is_daily_total")?, |array| daily(array.as_boolean())),
            sequence: column("sequence")?.as_primitive::<UInt64Type>().values().clone(),
            received_at: time("received_at")?.values().clone(),
            user_ends: Vec::new(),
            text_ends: Vec::new(),
        };
        block.user_ends = ends(block.rows(), &[&block.org, &block.metric, &block.user]);
        let Block { org, metric, user, unit, source, device, .. } = &block;
        block.text_ends = ends(block.rows(), &[org, metric, user, unit, source, device]);
        Ok(block)
    }

    /// Number of rows.
    #[must_use]
    pub fn rows(&self) -> usize {
        self.recorded_at.len()
    }

    /// Whose row it is.
    #[must_use]
    pub fn org(&self, row: usize) -> &str {
        self.org.text(row).unwrap_or_default()
    }

    /// Canonical metric key.
    #[must_use]
    pub fn metric(&self, row: usize) -> &str {
        self.metric.text(row).unwrap_or_default()
    }

    /// Who wears the device.
    #[must_use]
    pub fn user(&self, row: usize) -> &str {
        self.user.text(row).unwrap_or_default()
    }

    /// Canonical unit.
    #[must_use]
    pub fn unit(&self, row: usize) -> &str {
        self.unit.text(row).unwrap_or_default()
    }

    /// Who made it.
    #[must_use]
    pub fn source(&self, row: usize) -> &str {
        self.source.text(row).unwrap_or_default()
    }

    /// Which device.
    #[must_use]
    pub fn device(&self, row: usize) -> Option<&str> {
        self.device.text(row)
    }

    /// When it was recorded, milliseconds.
    #[must_use]
    pub fn recorded_at(&self, row: usize) -> i64 {
        self.recorded_at[row]
    }

    /// When each row was recorded, milliseconds.
    #[must_use]
    pub fn times(&self) -> &[i64] {
        &self.recorded_at
    }

    /// Its request's place in the commit order.
    #[must_use]
    pub fn sequence(&self, row: usize) -> crate::frame::Sequence {
        crate::frame::Sequence(self.sequence[row])
    }

    /// The first row behind `row` that has another (organisation, metric, user).
    #[must_use]
    pub fn run_end(&self, row: usize) -> usize {
        end_behind(&self.user_ends, row)
    }

    /// The first row behind `row` in which any text changes.
    #[must_use]
    pub fn text_run_end(&self, row: usize) -> usize {
        end_behind(&self.text_ends, row)
    }

    pub(super) fn names(&self, row: usize) -> Names<'_> {
        Names {
            org: self.org(row),
            metric: self.metric(row),
            user: self.user(row),
            unit: self.unit(row),
            source: self.source(row),
            device: self.device(row),
        }
    }

    /// Appends the numbers of `range` to `rows`.
    pub(super) fn copy_numbers(&self, range: Range<usize>, rows: &mut Rows) {
        rows.recorded_at.extend_from_slice(&self.recorded_at[range.clone()]);
        rows.value.extend_from_slice(&self.value[range.clone()]);
        rows.sequence.extend_from_slice(&self.sequence[range.clone()]);
        rows.received_at.extend_from_slice(&self.received_at[range.clone()]);
        match &self.zone_minutes {
            Some(zones) => rows.zone_minutes.extend(zones[range.clone()].iter().copied()),
            None => rows.zone_minutes.push_none(range.len()),
        }
        match &self.ended_at {
            Some(ends) => rows.ended_at.extend(ends[range.clone()].iter().copied()),
            None => rows.ended_at.push_none(range.len()),
        }
        match &self.is_daily_total {
            Some(daily) => rows.is_daily_total.extend(daily[range].iter().copied()),
            None => rows.is_daily_total.push_none(range.len()),
        }
    }
}

/// What `convert` makes of a column, unless all of it is null.
fn some<T>(array: &ArrayRef, convert: impl FnOnce(&ArrayRef) -> Vec<T>) -> Option<Vec<T>> {
    (array.null_count() < array.len()).then(|| convert(array))
}

fn daily(array: &BooleanArray) -> Vec<u8> {
    let number = |daily| match daily {
        Some(true) => DAILY_TRUE,
        Some(false) => DAILY_FALSE,
        None => DAILY_UNKNOWN,
    };
    array.iter().map(number).collect()
}

/// A dictionary column of one batch.
#[derive(Debug)]
struct Texts {
    /// -1 where there is none.
    keys: ScalarBuffer<i32>,
    values: arrow::array::StringArray,
}

const NO_TEXT: i32 = -1;

impl Texts {
    fn new(array: &ArrayRef) -> Texts {
        let dictionary = array.as_dictionary::<Int32Type>();
        let keys = dictionary.keys();
        let keys = if keys.null_count() == 0 {
            keys.values().clone()
        } else {
            keys.iter().map(|key| key.unwrap_or(NO_TEXT)).collect()
        };
        Texts { keys, values: dictionary.values().as_string::<i32>().clone() }
    }

    fn text(&self, row: usize) -> Option<&str> {
        let key = self.keys[row];
        (key != NO_TEXT).then(|| self.values.value(key.cast_unsigned() as usize))
    }

    /// Marks the rows whose text differs from the row before.
    fn mark_changes(&self, changed: &mut [bool]) {
        let keys = &self.keys[..];
        let mut row = 1;
        while row < keys.len() {
            let end = keys.len().min(row + STRIDE);
            // Most strides hold one text: one comparison of bytes.
            if keys[row..end] != keys[row - 1..end - 1] {
                for at in row..end {
                    changed[at] |= keys[at] != keys[at - 1] && self.text(at) != self.text(at - 1);
                }
            }
            row = end;
        }
    }
}

/// Where runs end in which none of `columns` changes.
fn ends(rows: usize, columns: &[&Texts]) -> Vec<usize> {
    let mut changed = vec![false; rows];
    columns.iter().for_each(|column| column.mark_changes(&mut changed));
    let mut ends: Vec<usize> = (0..rows).filter(|&row| changed[row]).collect();
    if rows > 0 {
        ends.push(rows);
    }
    ends
}

fn end_behind(ends: &[usize], row: usize) -> usize {
    ends[ends.partition_point(|&end| end <= row)]
}
