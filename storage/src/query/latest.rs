//! The table `latest`: the newest value of each metric, out of the series map.

use std::sync::{Arc, LazyLock};

use arrow::array::{ArrayRef, Float64Array, RecordBatch, StringArray, TimestampMillisecondArray};
use arrow::datatypes::{DataType, Field, Schema, SchemaRef, TimeUnit};
use async_trait::async_trait;
use datafusion::catalog::{Session, TableProvider};
use datafusion::datasource::TableType;
use datafusion::datasource::memory::MemorySourceConfig;
use datafusion::error::{DataFusionError, Result};
use datafusion::logical_expr::{Expr, TableProviderFilterPushDown};
use datafusion::physical_plan::ExecutionPlan;

use super::table::equal_text;
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
    /// The table of one organisation.
    #[must_use]
    pub fn new(org: &str, store: Arc<Store>) -> LatestTable {
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
}

#[async_trait]
impl TableProvider for LatestTable {
    fn schema(&self) -> SchemaRef {
        SCHEMA.clone()
    }

    fn table_type(&self) -> TableType {
        TableType::Base
    }

    /// Plans scans of one user (`user_id = '...'`). Scans over all users come
    /// with SQL.
    async fn scan(
        &self,
        _session: &dyn Session,
        projection: Option<&Vec<usize>>,
        filters: &[Expr],
        _limit: Option<usize>,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        let user = filters.iter().find_map(|filter| equal_text(filter, "user_id")).ok_or_else(|| {
            DataFusionError::NotImplemented("a scan of latest needs user_id = '...'".to_owned())
        })?;
        self.plan(&user, projection.cloned())
    }

    fn supports_filters_pushdown(&self, filters: &[&Expr]) -> Result<Vec<TableProviderFilterPushDown>> {
        let support = |filter: &&Expr| match equal_text(filter, "user_id") {
            Some(_) => TableProviderFilterPushDown::Exact,
            None => TableProviderFilterPushDown::Unsupported,
        };
        Ok(filters.iter().map(support).collect())
    }
}
