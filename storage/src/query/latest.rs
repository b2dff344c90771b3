//! The newest value of each metric of a user, out of the series map.

use std::sync::{Arc, LazyLock};

use arrow::array::{ArrayRef, AsArray, Float64Array, RecordBatch, StringArray, TimestampMillisecondArray};
use arrow::datatypes::{DataType, Field, Float64Type, Schema, SchemaRef, TimeUnit, TimestampMillisecondType};
use datafusion::datasource::memory::MemorySourceConfig;
use datafusion::error::Result;
use datafusion::physical_plan::ExecutionPlan;

use crate::series::LatestValue;
use crate::store::Store;

static SCHEMA: LazyLock<SchemaRef> = LazyLock::new(|| {
    let time = DataType::Timestamp(TimeUnit::Millisecond, Some("UTC".into()));
    Arc::new(Schema::new(vec![
        Field::new("user_id", DataType::Utf8, false),
        Field::new("metric", DataType::Utf8, false),
        Field::new("value", DataType::Float64, false),
        Field::new("recorded_at", time, false),
    ]))
});

/// One organisation's newest values, a row per user and metric.
#[derive(Debug)]
pub struct LatestTable {
    org: String,
    store: Arc<Store>,
}

impl LatestTable {
    pub(super) fn new(org: &str, store: Arc<Store>) -> LatestTable {
        LatestTable { org: org.to_owned(), store }
    }

    /// A plan of one user's rows, sorted by metric.
    pub(super) fn plan(&self, user: &str, projection: Option<Vec<usize>>) -> Result<Arc<dyn ExecutionPlan>> {
        let values = self.store.series().latest(&self.org, user);
        let users = std::iter::repeat_n(user, values.len());
        let times: TimestampMillisecondArray = values.iter().map(|value| Some(value.recorded_at)).collect();
        let columns: Vec<ArrayRef> = vec![
            Arc::new(StringArray::from_iter_values(users)),
            Arc::new(StringArray::from_iter_values(values.iter().map(|value| &value.metric))),
            Arc::new(values.iter().map(|value| Some(value.value)).collect::<Float64Array>()),
            Arc::new(times.with_timezone("UTC")),
        ];
        let batch = RecordBatch::try_new(SCHEMA.clone(), columns)?;
        Ok(MemorySourceConfig::try_new_exec(&[vec![batch]], SCHEMA.clone(), projection)?)
    }

    /// The values in the batches of [`LatestTable::plan`] with all columns.
    pub(super) fn values(batches: &[RecordBatch]) -> Vec<LatestValue> {
        let rows = batches.iter().flat_map(|batch| {
            let metrics = batch.column(1).as_string::<i32>();
            let values = batch.column(2).as_primitive::<Float64Type>();
            let times = batch.column(3).as_primitive::<TimestampMillisecondType>();
            (0..batch.num_rows()).map(move |row| LatestValue {
                metric: metrics.value(row).to_owned(),
                value: values.value(row),
                recorded_at: times.value(row),
            })
        });
        rows.collect()
    }
}
