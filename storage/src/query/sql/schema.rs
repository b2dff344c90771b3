//! The columns that SQL sees, and how those of data files become them.
//!
//! Texts are views: DataFusion groups by them several times faster than by the
//! dictionaries that the files hold (it has no table of groups for those), and a view of a
//! dictionary's text is 16 bytes copied.

use std::sync::{Arc, LazyLock};

use arrow::array::{ArrayRef, RecordBatch};
use arrow::compute::cast;
use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use datafusion::datasource::table_schema::TableSchema;
use datafusion::error::Result;

use crate::files::samples_schema;

static TABLE: LazyLock<SchemaRef> = LazyLock::new(|| {
    let fields = samples_schema().fields().iter().map(|field| shown(field)).collect::<Vec<_>>();
    Arc::new(Schema::new(fields))
});

/// Columns that a file in a metric's folder has in its path.
const IN_PATH: [&str; 2] = ["org", "metric"];

static OPEN_FILE: LazyLock<TableSchema> = LazyLock::new(|| {
    let (path, file): (Vec<_>, Vec<_>) =
        TABLE.fields().iter().cloned().partition(|field| IN_PATH.contains(&field.name().as_str()));
    TableSchema::builder(Arc::new(Schema::new(file))).with_table_partition_cols(path).build()
});

fn shown(field: &Field) -> Field {
    match field.data_type() {
        DataType::Utf8 | DataType::Dictionary(..) => field.clone().with_data_type(DataType::Utf8View),
        _ => field.clone(),
    }
}

/// The columns of `samples`.
pub(super) fn table_schema() -> SchemaRef {
    TABLE.clone()
}

/// The same columns where a file gives those of its path behind its own, as
/// constants that are never decoded.
pub(super) fn open_file_schema() -> TableSchema {
    OPEN_FILE.clone()
}

/// The columns of a run, which holds other metrics and organisations too.
pub(super) fn run_schema() -> TableSchema {
    TableSchema::from(table_schema())
}

/// Some columns of a batch of [`samples_schema`], by their places there, as SQL sees them.
pub(super) fn as_shown(batch: &RecordBatch, columns: &[usize]) -> Result<RecordBatch> {
    let schema = Arc::new(TABLE.project(columns)?);
    let arrays = columns.iter().zip(schema.fields()).map(|(&column, field)| -> Result<ArrayRef> {
        let array = batch.column(column);
        match array.data_type() == field.data_type() {
            true => Ok(array.clone()),
            false => Ok(cast(array, field.data_type())?),
        }
    });
    Ok(RecordBatch::try_new(schema.clone(), arrays.collect::<Result<_>>()?)?)
}
