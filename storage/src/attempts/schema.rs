//! The columns of a file of attempts, and rows read from them.

use std::sync::{Arc, LazyLock};

use arrow::array::{Array, ArrayRef, AsArray, BooleanArray, PrimitiveArray, RecordBatch, StringArray};
use arrow::datatypes::{
    ArrowPrimitiveType, DataType, Field, Schema, SchemaRef, TimeUnit, TimestampMillisecondType, UInt8Type,
    UInt16Type, UInt32Type, UInt64Type,
};
use parquet::arrow::ProjectionMask;
use parquet::arrow::arrow_reader::{
    ArrowReaderMetadata, ArrowReaderOptions, ParquetRecordBatchReader, ParquetRecordBatchReaderBuilder,
    RowSelection,
};

use crate::files::{CheckedFile, FileReadError};
use crate::frame::{AttemptRow, Trigger};

use super::AttemptFile;

/// The columns in order.
const NAMES: [&str; 21] = [
    "org",
    "created_at",
    "endpoint_id",
    "message_id",
    "delivery_id",
    "user_id",
    "event_type",
    "attempt_number",
    "trigger",
    "success",
    "status_code",
    "error",
    "duration_us",
    "url",
    "response_headers",
    "response_body",
    "sequence",
    "event_group",
    "chunk",
    "kind",
    "tie",
];

static SCHEMA: LazyLock<SchemaRef> = LazyLock::new(|| {
    let field = |name: &str| {
        let (kind, nullable) = match name {
            "created_at" => (DataType::Timestamp(TimeUnit::Millisecond, Some("UTC".into())), false),
            "attempt_number" | "event_group" => (DataType::UInt32, false),
            "trigger" | "kind" => (DataType::UInt8, false),
            "success" => (DataType::Boolean, false),
            "status_code" => (DataType::UInt16, true),
            "chunk" => (DataType::UInt16, false),
            "duration_us" | "sequence" | "tie" => (DataType::UInt64, false),
            "user_id" | "error" => (DataType::Utf8, true),
            _ => (DataType::Utf8, false),
        };
        Field::new(name, kind, nullable)
    };
    Arc::new(Schema::new(NAMES.map(field).to_vec()))
});

/// The Arrow schema of a file of attempts.
pub(crate) fn file_columns() -> SchemaRef {
    SCHEMA.clone()
}

/// Position of a column.
pub(super) fn column(name: &str) -> usize {
    NAMES.iter().position(|known| *known == name).expect("a column of the schema")
}

/// Columns that a row is found by, and its place.
const KEYS: [&str; 11] = [
    "created_at",
    "endpoint_id",
    "message_id",
    "user_id",
    "event_type",
    "success",
    "sequence",
    "event_group",
    "chunk",
    "kind",
    "tie",
];

/// Which columns are read; at least those that a row is found by.
#[derive(Clone, Debug)]
pub(crate) struct Columns(Vec<&'static str>);

impl Columns {
    /// Those that a row is found by, and its place.
    pub(crate) fn keys() -> Columns {
        Columns(KEYS.to_vec())
    }

    /// All.
    pub(crate) fn all() -> Columns {
        Columns(NAMES.to_vec())
    }

    /// Those that a row is found by, and others of the same names as the file's.
    pub(crate) fn keys_and(mut more: Vec<&'static str>) -> Columns {
        more.extend(KEYS);
        Columns(more)
    }
}

/// What a file says of itself.
pub(super) fn footer(file: &AttemptFile) -> Result<ArrowReaderMetadata, FileReadError> {
    let parquet = |source| FileReadError::Parquet { path: file.record().path.clone(), source };
    let reader = CheckedFile::open(file.data())?;
    let options = ArrowReaderOptions::new().with_schema(file_columns());
    ArrowReaderMetadata::load(&reader, options).map_err(parquet)
}

/// The rows of some row groups, in order, a batch at a time.
pub(super) fn read(
    file: &AttemptFile,
    footer: &ArrowReaderMetadata,
    groups: Vec<usize>,
    columns: &Columns,
    rows: Option<RowSelection>,
    batch_rows: usize,
) -> Result<Blocks, FileReadError> {
    let path = file.record().path.clone();
    let reader = CheckedFile::open(file.data())?;
    let builder = ParquetRecordBatchReaderBuilder::new_with_metadata(reader, footer.clone());
    let mask = ProjectionMask::columns(builder.parquet_schema(), columns.0.iter().copied());
    let mut builder = builder.with_projection(mask).with_row_groups(groups).with_batch_size(batch_rows);
    if let Some(rows) = rows {
        builder = builder.with_row_selection(rows);
    }
    match builder.build() {
        Ok(batches) => Ok(Blocks { path, batches }),
        Err(source) => Err(FileReadError::Parquet { path, source }),
    }
}

/// Every row of a file.
pub(crate) fn blocks_of(
    file: &AttemptFile,
    columns: &Columns,
    batch_rows: usize,
) -> Result<Blocks, FileReadError> {
    let footer = footer(file)?;
    let groups = (0..footer.metadata().num_row_groups()).collect();
    read(file, &footer, groups, columns, None, batch_rows)
}

/// Batches of rows.
pub(crate) struct Blocks {
    path: String,
    batches: ParquetRecordBatchReader,
}

impl Iterator for Blocks {
    type Item = Result<AttemptBlock, FileReadError>;

    fn next(&mut self) -> Option<Self::Item> {
        let batch = self.batches.next()?;
        let failed = |source| FileReadError::Parquet { path: self.path.clone(), source };
        Some(batch.map_err(|error| failed(error.into())).and_then(|batch| {
            AttemptBlock::new(&batch).ok_or_else(|| {
                let what = "a row is not as files of attempts have it".to_owned();
                failed(parquet::errors::ParquetError::General(what))
            })
        }))
    }
}

/// Some rows of a file; columns that were not read are empty.
#[derive(Debug)]
pub(crate) struct AttemptBlock {
    rows: usize,
    texts: Vec<Option<StringArray>>,
    at_ms: PrimitiveArray<TimestampMillisecondType>,
    number: Option<PrimitiveArray<UInt32Type>>,
    trigger: Option<PrimitiveArray<UInt8Type>>,
    success: BooleanArray,
    status_code: Option<PrimitiveArray<UInt16Type>>,
    duration_us: Option<PrimitiveArray<UInt64Type>>,
    sequence: PrimitiveArray<UInt64Type>,
    group: PrimitiveArray<UInt32Type>,
    chunk: PrimitiveArray<UInt16Type>,
    kind: PrimitiveArray<UInt8Type>,
    tie: PrimitiveArray<UInt64Type>,
}

impl AttemptBlock {
    /// `None` if a column that rows are found by is missing or of another type, or a
    /// trigger is unknown.
    pub(crate) fn new(batch: &RecordBatch) -> Option<AttemptBlock> {
        let array = |name: &str| batch.column_by_name(name).cloned();
        let text = |name: &&str| array(name).and_then(|array| array.as_string_opt::<i32>().cloned());
        fn numbers<T: ArrowPrimitiveType>(array: Option<ArrayRef>) -> Option<PrimitiveArray<T>> {
            array?.as_primitive_opt::<T>().cloned()
        }
        let trigger = numbers::<UInt8Type>(array("trigger"));
        let known = |triggers: &PrimitiveArray<UInt8Type>| {
            triggers.values().iter().all(|number| Trigger::from_number(*number).is_some())
        };
        if trigger.as_ref().is_some_and(|triggers| !known(triggers)) {
            return None;
        }
        Some(AttemptBlock {
            rows: batch.num_rows(),
            texts: NAMES.iter().map(text).collect(),
            at_ms: numbers(array("created_at"))?,
            number: numbers(array("attempt_number")),
            trigger,
            success: array("success")?.as_boolean_opt()?.clone(),
            status_code: numbers(array("status_code")),
            duration_us: numbers(array("duration_us")),
            sequence: numbers(array("sequence"))?,
            group: numbers(array("event_group"))?,
            chunk: numbers(array("chunk"))?,
            kind: numbers(array("kind"))?,
            tie: numbers(array("tie"))?,
        })
    }

    pub(crate) fn rows(&self) -> usize {
        self.rows
    }

    /// Time and tie, which rows are sorted by.
    pub(super) fn key(&self, row: usize) -> (i64, u64) {
        (self.at_ms.value(row), self.tie.value(row))
    }

    /// Whose attempt it is.
    pub(crate) fn org(&self, row: usize) -> &str {
        self.text("org", row).unwrap_or_default()
    }

    fn text(&self, name: &str, row: usize) -> Option<&str> {
        let texts = self.texts[column(name)].as_ref()?;
        texts.is_valid(row).then(|| texts.value(row))
    }

    /// A row; what was not read is empty.
    pub(crate) fn row(&self, row: usize) -> AttemptRow<&str> {
        let text = |name: &str| self.text(name, row).unwrap_or_default();
        let trigger = self.trigger.as_ref().map_or(0, |triggers| triggers.value(row));
        let status = self.status_code.as_ref().filter(|codes| codes.is_valid(row));
        AttemptRow {
            at_ms: self.at_ms.value(row),
            tie: self.tie.value(row),
            endpoint: text("endpoint_id"),
            message: text("message_id"),
            delivery: text("delivery_id"),
            sequence: self.sequence.value(row),
            group: self.group.value(row),
            chunk: self.chunk.value(row),
            kind: self.kind.value(row),
            user: self.text("user_id", row),
            event_type: text("event_type"),
            number: self.number.as_ref().map_or(0, |numbers| numbers.value(row)),
            trigger: Trigger::from_number(trigger).unwrap_or(Trigger::Scheduled),
            success: self.success.value(row),
            status_code: status.map(|codes| codes.value(row)),
            error: self.text("error", row),
            duration_us: self.duration_us.as_ref().map_or(0, |all| all.value(row)),
            url: text("url"),
            response_headers: text("response_headers"),
            response_body: text("response_body"),
        }
    }
}
