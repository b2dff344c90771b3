//! The table `latest` as SQL sees it: the newest value of each user and metric of one
//! organisation, out of the series map, a page at a time. Where the map's value is being
//! deleted or may be gone by its age, the one that shows instead is looked up among the
//! samples: a few by point reads, those of several pages together by plans over `samples`.

use std::collections::BTreeSet;
use std::fmt;
use std::sync::{Arc, LazyLock};

use arrow::array::{ArrayRef, Float64Array, RecordBatch, StringViewArray, TimestampMillisecondArray};
use arrow::datatypes::{DataType, Field, Schema, SchemaRef, TimeUnit};
use async_trait::async_trait;
use datafusion::catalog::{Session, TableProvider};
use datafusion::common::ScalarValue;
use datafusion::common::tree_node::TreeNodeRecursion;
use datafusion::datasource::TableType;
use datafusion::error::{DataFusionError, Result};
use datafusion::execution::session_state::SessionState;
use datafusion::execution::{SendableRecordBatchStream, TaskContext};
use datafusion::logical_expr::{BinaryExpr, Expr, Operator, TableProviderFilterPushDown};
use datafusion::physical_expr::PhysicalExpr;
use datafusion::physical_plan::stream::RecordBatchStreamAdapter;
use datafusion::physical_plan::{
    DisplayAs, DisplayFormatType, ExecutionPlan, PlanProperties, ReplaceChildrenOptions,
};

use super::OrgSamples;
use super::buffered::leaf_properties;
use super::newest::{Missing, newest_of};
use crate::hidden::Hidden;
use crate::query::SamplesTable;
use crate::query::erased::{newest_left, take_hidden};
use crate::query::footers::Footers;
use crate::query::metadata::CheckedReaders;
use crate::series::{LatestValue, SeriesError};
use crate::store::Store;

static SCHEMA: LazyLock<SchemaRef> = LazyLock::new(|| {
    let time = DataType::Timestamp(TimeUnit::Millisecond, Some("UTC".into()));
    Arc::new(Schema::new(vec![
        Field::new("user_id", DataType::Utf8View, false),
        Field::new("metric", DataType::Utf8View, false),
        Field::new("value", DataType::Float64, false),
        Field::new("recorded_at", time, false),
    ]))
});

/// Values that are looked up one by one; more are by a plan.
const POINT_READS_MAX: usize = 16;
/// Values that are looked up together.
const MISSING_MAX: usize = 16 * 1024;
/// Values in memory while some are looked up: about 10 MB.
const VALUES_MAX: usize = 64 * 1024;

/// One organisation's newest values; there is no other in it.
#[derive(Debug)]
pub struct OrgLatest {
    org: Arc<str>,
    store: Arc<Store>,
    readers: Arc<CheckedReaders>,
    footers: Arc<Footers>,
}

impl OrgLatest {
    pub(super) fn new(
        org: &str,
        store: Arc<Store>,
        readers: Arc<CheckedReaders>,
        footers: Arc<Footers>,
    ) -> OrgLatest {
        OrgLatest { org: org.into(), store, readers, footers }
    }
}

#[async_trait]
impl TableProvider for OrgLatest {
    fn schema(&self) -> SchemaRef {
        SCHEMA.clone()
    }

    fn table_type(&self) -> TableType {
        TableType::Base
    }

    async fn scan(
        &self,
        session: &dyn Session,
        projection: Option<&Vec<usize>>,
        filters: &[Expr],
        _limit: Option<usize>,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        let columns: Vec<usize> = projection.cloned().unwrap_or_else(|| (0..SCHEMA.fields().len()).collect());
        let schema = Arc::new(SCHEMA.project(&columns)?);
        let source = Source {
            org: self.org.clone(),
            store: self.store.clone(),
            readers: self.readers.clone(),
            footers: self.footers.clone(),
            session: session.as_any().downcast_ref::<SessionState>().cloned(),
            columns,
            users: filters.iter().find_map(|filter| named(filter, "user_id")),
            metrics: filters.iter().find_map(|filter| named(filter, "metric")),
        };
        Ok(Arc::new(LatestExec {
            source: Arc::new(source),
            properties: Arc::new(leaf_properties(schema, 1)),
        }))
    }

    /// A condition that names users leads to them, one that names metrics keeps others from
    /// being looked up; the planner asks both of each row all the same.
    fn supports_filters_pushdown(&self, filters: &[&Expr]) -> Result<Vec<TableProviderFilterPushDown>> {
        Ok(vec![TableProviderFilterPushDown::Inexact; filters.len()])
    }
}

/// The texts of a column that a condition names, if it can hold of no other: `=`, `IN`, and
/// what `AND` and `OR` make of them.
fn named(condition: &Expr, name: &str) -> Option<BTreeSet<String>> {
    let is_column = |expr: &Expr| matches!(expr, Expr::Column(column) if column.name == name);
    let text = |expr: &Expr| match expr {
        Expr::Literal(value, _) => ScalarValue::try_as_str(value).flatten().map(str::to_owned),
        _ => None,
    };
    match condition {
        Expr::BinaryExpr(BinaryExpr { left, op: Operator::Eq, right }) => {
            let value = if is_column(left) { Some(right) } else { is_column(right).then_some(left) };
            Some(BTreeSet::from([text(value?)?]))
        }
        Expr::BinaryExpr(BinaryExpr { left, op: Operator::And, right }) => {
            named(left, name).or_else(|| named(right, name))
        }
        Expr::BinaryExpr(BinaryExpr { left, op: Operator::Or, right }) => {
            let (mut texts, more) = (named(left, name)?, named(right, name)?);
            texts.extend(more);
            Some(texts)
        }
        Expr::InList(list) if !list.negated && is_column(&list.expr) => list.list.iter().map(text).collect(),
        _ => None,
    }
}

#[derive(Debug)]
struct Source {
    org: Arc<str>,
    store: Arc<Store>,
    readers: Arc<CheckedReaders>,
    footers: Arc<Footers>,
    /// For plans; `None` if the planner is another one than ours.
    session: Option<SessionState>,
    columns: Vec<usize>,
    /// Only these.
    users: Option<BTreeSet<String>>,
    /// Only these.
    metrics: Option<BTreeSet<String>>,
}

/// Values of some pages.
#[derive(Default)]
struct Pages {
    values: Vec<(String, LatestValue)>,
    /// In whose place others may show.
    missing: Vec<Missing>,
}

impl Source {
    fn pages(&self) -> usize {
        match &self.users {
            Some(_) => 1,
            None => self.store.series().pages(),
        }
    }

    /// The rows of a page, or of several if some of their values are to be looked up, and the
    /// page behind them.
    async fn rows_from(&self, first: usize, context: &Arc<TaskContext>) -> Result<(RecordBatch, usize)> {
        // Before the map is read: what was deleted stands here until the map is right.
        let hidden = self.store.hidden();
        let (mut page, mut pages) = (first, Pages::default());
        let is_full = |pages: &Pages| pages.missing.len() >= MISSING_MAX || pages.values.len() >= VALUES_MAX;
        loop {
            self.read(page, &hidden, &mut pages)?;
            page += 1;
            if pages.missing.is_empty() || is_full(&pages) || page >= self.pages() {
                break;
            }
        }
        let Pages { mut values, missing } = pages;
        values.extend(self.left(missing, context).await?);
        Ok((batch(&values)?.project(&self.columns)?, page))
    }

    /// Adds the values of a page.
    fn read(&self, page: usize, hidden: &Hidden, pages: &mut Pages) -> Result<()> {
        let series = self.store.series();
        let users = match &self.users {
            Some(users) => {
                users.iter().map(|user| Ok((user.clone(), series.latest(&self.org, user)?))).collect()
            }
            None => series.latest_of_page(&self.org, page),
        };
        let users: Vec<_> = users.map_err(|error: SeriesError| DataFusionError::External(Box::new(error)))?;
        for (user, mut values) in users {
            if let Some(metrics) = &self.metrics {
                values.retain(|value| metrics.contains(&value.metric));
            }
            let hides = take_hidden(&self.org, &user, hidden, &mut values);
            pages.missing.extend(hides.into_iter().map(|value| Missing { user: user.clone(), value }));
            pages.values.extend(values.into_iter().map(|value| (user.clone(), value)));
        }
        Ok(())
    }

    /// What shows in the place of values.
    async fn left(
        &self,
        missing: Vec<Missing>,
        context: &Arc<TaskContext>,
    ) -> Result<Vec<(String, LatestValue)>> {
        // Newer than what hides them, so it hides as much at least.
        let snapshot = self.store.snapshot();
        let found = match &self.session {
            Some(session) if missing.len() > POINT_READS_MAX => {
                let samples = OrgSamples::new(&self.org, snapshot, self.readers.clone());
                newest_of(&samples, session, context, &missing).await?
            }
            _ => {
                let table = SamplesTable::new(&self.org, snapshot, self.footers.clone());
                let mut found = Vec::with_capacity(missing.len());
                for Missing { user, value } in &missing {
                    let left = newest_left(&table, &self.org, user, value.metric.clone()).await;
                    found.push(left.map_err(|error| DataFusionError::External(Box::new(error)))?);
                }
                found
            }
        };
        let left = missing.into_iter().zip(found);
        Ok(left.filter_map(|(missing, value)| Some((missing.user, value?))).collect())
    }
}

fn batch(values: &[(String, LatestValue)]) -> Result<RecordBatch> {
    let rows = || values.iter();
    let times: TimestampMillisecondArray = rows().map(|(_, value)| Some(value.recorded_at)).collect();
    let columns: Vec<ArrayRef> = vec![
        Arc::new(StringViewArray::from_iter_values(rows().map(|(user, _)| user))),
        Arc::new(StringViewArray::from_iter_values(rows().map(|(_, value)| &value.metric))),
        Arc::new(rows().map(|(_, value)| Some(value.value)).collect::<Float64Array>()),
        Arc::new(times.with_timezone("UTC")),
    ];
    Ok(RecordBatch::try_new(SCHEMA.clone(), columns)?)
}

/// Reads pages as they are asked for.
#[derive(Debug)]
struct LatestExec {
    source: Arc<Source>,
    properties: Arc<PlanProperties>,
}

impl DisplayAs for LatestExec {
    fn fmt_as(&self, _: DisplayFormatType, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "LatestExec: pages={}", self.source.pages())
    }
}

impl ExecutionPlan for LatestExec {
    fn name(&self) -> &'static str {
        "LatestExec"
    }

    fn properties(&self) -> &Arc<PlanProperties> {
        &self.properties
    }

    fn children(&self) -> Vec<&Arc<dyn ExecutionPlan>> {
        Vec::new()
    }

    fn apply_expressions(
        &self,
        _: &mut dyn FnMut(&Arc<dyn PhysicalExpr>) -> Result<TreeNodeRecursion>,
    ) -> Result<TreeNodeRecursion> {
        Ok(TreeNodeRecursion::Continue)
    }

    fn replace_children(
        self: Arc<Self>,
        _: Vec<Arc<dyn ExecutionPlan>>,
        _: ReplaceChildrenOptions,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        Ok(self)
    }

    fn with_new_children(self: Arc<Self>, _: Vec<Arc<dyn ExecutionPlan>>) -> Result<Arc<dyn ExecutionPlan>> {
        Ok(self)
    }

    fn execute(&self, _: usize, context: Arc<TaskContext>) -> Result<SendableRecordBatchStream> {
        let source = self.source.clone();
        let rows = futures_util::stream::try_unfold(0, move |page| {
            let (source, context) = (source.clone(), context.clone());
            async move {
                if page >= source.pages() {
                    return Ok(None);
                }
                source.rows_from(page, &context).await.map(Some)
            }
        });
        Ok(Box::pin(RecordBatchStreamAdapter::new(self.schema(), rows)))
    }
}

#[cfg(test)]
mod tests {
    use datafusion::logical_expr::{col, lit};

    use super::*;

    #[test]
    fn a_condition_names_what_it_can_hold_of() {
        let (one, other) = (|| col("metric").eq(lit("steps")), || lit("spo2").eq(col("metric")));
        let by_user = || col("user_id").eq(lit("u_1"));
        let list = |negated| col("metric").in_list(vec![lit("steps"), lit("spo2")], negated);
        let both: Option<&[&str]> = Some(&["spo2", "steps"]);
        for (condition, expected) in [
            (one(), Some(&["steps"][..])),
            (list(false), both),
            (one().or(other()), both),
            (one().or(other()).and(by_user()), both),
            (by_user().and(one()).or(other().and(by_user())), both),
            (list(true), None),
            (one().or(by_user()), None),
            (by_user(), None),
            (col("metric").gt(lit("steps")), None),
            (col("metric").eq(col("user_id")), None),
        ] {
            let found = named(&condition, "metric");
            let found: Option<Vec<&str>> = found.as_ref().map(|all| all.iter().map(String::as_str).collect());
            assert_eq!(found.as_deref(), expected, "{condition}");
        }
    }
}
