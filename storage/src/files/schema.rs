//! The columns of a data file and how each is encoded.

use std::sync::{Arc, LazyLock};

use arrow::datatypes::{DataType, Field, Schema, SchemaRef, TimeUnit};
use parquet::basic::{Compression, Encoding, ZstdLevel};
use parquet::file::metadata::SortingColumn;
use parquet::file::properties::{EnabledStatistics, WriterProperties, WriterVersion};
use parquet::schema::types::ColumnPath;

/// Rows in a row group: a user's window lies in one or two of them.
const ROW_GROUP_ROWS: usize = 128 * 1024;
/// Rows in a page, the unit the page index skips by.
const PAGE_ROWS: usize = 8 * 1024;

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

/// Times and sequences rise almost evenly, which delta packing stores in a few
/// bits; values of wearables are mostly few distinct numbers, which a dictionary
/// stores best (parquet gives up on it by itself where they are not).
///
/// Only times and values are compressed on top (times of a watch every few
/// seconds from 1.6 to 0.2 bytes a row). The pages of the other columns are runs
/// of a few bytes, and a codec costs a reader more than they hold: it is made
/// anew for every column of every file a query opens, which was a quarter of a
/// point query's work.
pub(super) fn writer_properties(level: u32) -> WriterProperties {
    let zstd = ZstdLevel::try_new(if level == 0 { 1 } else { 3 }).expect("a level zstd has");
    let mut builder = WriterProperties::builder()
        .set_writer_version(WriterVersion::PARQUET_1_0)
        .set_compression(Compression::UNCOMPRESSED)
        .set_max_row_group_row_count(Some(ROW_GROUP_ROWS))
        .set_data_page_row_count_limit(PAGE_ROWS)
        .set_write_batch_size(PAGE_ROWS)
        .set_statistics_enabled(EnabledStatistics::Chunk)
        .set_created_by(concat!("systole ", env!("CARGO_PKG_VERSION")).to_owned())
        .set_sorting_columns(Some(sorting_columns()));
    for name in ["recorded_at", "ended_at", "sequence", "received_at"] {
        let path = ColumnPath::from(name);
        builder = builder
            .set_column_dictionary_enabled(path.clone(), false)
            .set_column_encoding(path, Encoding::DELTA_BINARY_PACKED);
    }
    for name in ["recorded_at", "value"] {
        builder = builder.set_column_compression(ColumnPath::from(name), Compression::ZSTD(zstd));
    }
    // Constant in a file, or nothing a reader prunes by: comparing every row of
    // these for a minimum was a fifth of a flush.
    for name in ["org", "metric", "unit", "device"] {
        builder = builder.set_column_statistics_enabled(ColumnPath::from(name), EnabledStatistics::None);
    }
    for name in ["user_id", "recorded_at"] {
        builder = builder.set_column_statistics_enabled(ColumnPath::from(name), EnabledStatistics::Page);
    }
    builder.build()
}

fn sorting_columns() -> Vec<SortingColumn> {
    ["user_id", "recorded_at", "source", "device", "sequence"]
        .iter()
        .map(|name| SortingColumn {
            column_idx: i32::try_from(column(name)).expect("13 columns"),
            descending: false,
            nulls_first: true,
        })
        .collect()
}
