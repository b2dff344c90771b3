//! The columns of a data file and how each is encoded.

use std::sync::{Arc, LazyLock};

use arrow::datatypes::{DataType, Field, Schema, SchemaRef, TimeUnit};
use parquet::arrow::{ArrowSchemaConverter, add_encoded_arrow_schema_to_metadata};
use parquet::basic::{Compression, Encoding, ZstdLevel};
use parquet::file::metadata::SortingColumn;
use parquet::file::properties::{EnabledStatistics, WriterProperties, WriterVersion};
use parquet::schema::types::{ColumnPath, TypePtr};

/// Most rows in a row group: a user's window lies in one or two of them.
pub(super) const ROW_GROUP_ROWS: usize = 128 * 1024;
/// A row group of this many rows ends where organisation or metric change.
pub(super) const SECTION_GROUP_ROWS: usize = 32 * 1024;
/// A row group ends when its texts have this many bytes, so that a reader of one
/// user never reads a longer dictionary. It has a page of rows at least.
pub(super) const TEXT_BYTES: usize = 1024 * 1024;
/// Rows in a page, the unit the page index skips by.
pub(super) const PAGE_ROWS: usize = 8 * 1024;

/// The columns in order; names are part of the open promise.
pub const COLUMN_NAMES: [&str; 13] = [
    "org",
    "user_id",
    "metric",
    "recorded_at",
    "value",
    "unit",
    "source",
    "device",
    "zone_offset_minutes",
    "ended_at",
    "is_daily_total",
    "sequence",
    "received_at",
];

static SCHEMA: LazyLock<SchemaRef> = LazyLock::new(|| {
    let text = || DataType::Dictionary(Box::new(DataType::Int32), Box::new(DataType::Utf8));
    let time = || DataType::Timestamp(TimeUnit::Millisecond, Some("UTC".into()));
    Arc::new(Schema::new(vec![
        // Plain strings, though dictionaries on disk as well: readers of hive
        // partitions take both from the path, too, and want one type.
        Field::new("org", DataType::Utf8, false),
        Field::new("user_id", text(), false),
        Field::new("metric", DataType::Utf8, false),
        Field::new("recorded_at", time(), false),
        Field::new("value", DataType::Float64, false),
        Field::new("unit", text(), false),
        Field::new("source", text(), false),
        Field::new("device", text(), true),
        Field::new("zone_offset_minutes", DataType::Int16, true),
        Field::new("ended_at", time(), true),
        Field::new("is_daily_total", DataType::Boolean, true),
        Field::new("sequence", DataType::UInt64, false),
        Field::new("received_at", time(), false),
    ]))
});

/// The Arrow schema of data files and of the tables over them.
#[must_use]
pub fn samples_schema() -> SchemaRef {
    SCHEMA.clone()
}

/// Position of a column.
pub(crate) fn column(name: &str) -> usize {
    COLUMN_NAMES.iter().position(|known| *known == name).expect("a column of the schema")
}

/// What a file holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FileKind {
    /// A flush's rows of all organisations and metrics, or several flushes'.
    Run,
    /// One organisation's rows of one metric in one period.
    Period,
}

/// The codec of a level: first files are read little before they are merged.
pub(super) fn zstd_level(level: u32) -> ZstdLevel {
    ZstdLevel::try_new(if level == 0 { 1 } else { 3 }).expect("a level zstd has")
}

/// What a file says of itself, and how the columns are encoded that parquet's
/// encoders write: differences, compressed (times of a watch every few seconds
/// from 1.6 to 0.2 bytes a row). `encode` writes the others.
///
/// Runs and bits are not compressed: they are a few bytes, and a codec costs a
/// reader more than they hold. It is made anew for every column of every file a
/// query opens, which was a quarter of a point query's work.
pub(super) fn writer_properties(kind: FileKind, level: u32) -> WriterProperties {
    let mut builder = WriterProperties::builder()
        .set_writer_version(WriterVersion::PARQUET_1_0)
        .set_compression(Compression::UNCOMPRESSED)
        .set_dictionary_enabled(false)
        .set_data_page_row_count_limit(PAGE_ROWS)
        .set_write_batch_size(PAGE_ROWS)
        .set_statistics_enabled(EnabledStatistics::Chunk)
        .set_created_by(concat!("systole ", env!("CARGO_PKG_VERSION")).to_owned())
        .set_sorting_columns(Some(sorting_columns(kind)));
    for name in ["recorded_at", "ended_at", "sequence", "received_at"] {
        builder = builder
            .set_column_encoding(ColumnPath::from(name), Encoding::DELTA_BINARY_PACKED)
            .set_column_compression(ColumnPath::from(name), Compression::ZSTD(zstd_level(level)));
    }
    builder = builder.set_column_statistics_enabled("recorded_at".into(), EnabledStatistics::Page);
    let mut properties = builder.build();
    add_encoded_arrow_schema_to_metadata(&SCHEMA, &mut properties);
    properties
}

/// The Arrow schema as Parquet has it.
pub(super) fn parquet_schema() -> TypePtr {
    let schema = ArrowSchemaConverter::new().convert(&SCHEMA).expect("every type of the schema has its like");
    schema.root_schema_ptr()
}

/// The order of a file's rows.
fn sorting_columns(kind: FileKind) -> Vec<SortingColumn> {
    let of_period = ["user_id", "recorded_at", "source", "device", "sequence"];
    let of_run = ["org", "metric"];
    let first: &[&str] = if kind == FileKind::Run { &of_run } else { &[] };
    first
        .iter()
        .chain(&of_period)
        .map(|name| SortingColumn {
            column_idx: i32::try_from(column(name)).expect("13 columns"),
            descending: false,
            nulls_first: true,
        })
        .collect()
}
