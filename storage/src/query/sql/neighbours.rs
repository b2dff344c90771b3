//! Grouping by user without a table of groups.
//!
//! Files are sorted by user and, of one user, by time, so the rows of a group are
//! neighbours: a group begins where a column differs from the row before, and no row
//! is hashed. A group that goes on in the next batch is given twice, as one that goes on
//! in another partition is anyway; the final aggregation merges both.
//!
//! ```text
//! AggregateExec Partial  <- scan        becomes        NeighboursExec  <- scan
//! ```

use std::fmt;
use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, RecordBatch, UInt32Array};
use arrow::compute::kernels::cmp::distinct;
use arrow::compute::take;
use arrow::datatypes::{DataType, SchemaRef};
use datafusion::common::tree_node::{Transformed, TreeNode, TreeNodeRecursion};
use datafusion::config::ConfigOptions;
use datafusion::datasource::source::DataSourceExec;
use datafusion::error::{DataFusionError, Result};
use datafusion::execution::{SendableRecordBatchStream, TaskContext};
use datafusion::logical_expr::{EmitTo, GroupsAccumulator};
use datafusion::physical_expr::PhysicalExpr;
use datafusion::physical_expr::aggregate::AggregateFunctionExpr;
use datafusion::physical_expr::utils::collect_columns;
use datafusion::physical_optimizer::PhysicalOptimizerRule;
use datafusion::physical_plan::aggregates::{AggregateExec, AggregateMode};
use datafusion::physical_plan::coop::CooperativeExec;
use datafusion::physical_plan::filter::FilterExec;
use datafusion::physical_plan::projection::ProjectionExec;
use datafusion::physical_plan::repartition::RepartitionExec;
use datafusion::physical_plan::stream::RecordBatchStreamAdapter;
use datafusion::physical_plan::union::UnionExec;
use datafusion::physical_plan::{
    DisplayAs, DisplayFormatType, ExecutionPlan, PlanProperties, ReplaceChildrenOptions,
};
use futures_util::StreamExt as _;

use super::merged::MergedExec;

/// The column by which rows are neighbours.
const USER: &str = "user_id";
/// Columns that, within one user, are the same or change rarely from row to row.
const STEADY: [&str; 5] = [USER, "org", "metric", "unit", "recorded_at"];

/// Takes the table of groups out of plans that group samples by user.
#[derive(Debug)]
pub(super) struct GroupNeighbours;

impl PhysicalOptimizerRule for GroupNeighbours {
    fn optimize(&self, plan: Arc<dyn ExecutionPlan>, _: &ConfigOptions) -> Result<Arc<dyn ExecutionPlan>> {
        let changed = plan.transform_up(|node| {
            let without = node.downcast_ref::<AggregateExec>().and_then(NeighboursExec::in_place_of);
            Ok(match without {
                Some(plan) => Transformed::yes(Arc::new(plan) as Arc<dyn ExecutionPlan>),
                None => Transformed::no(node),
            })
        });
        Ok(changed?.data)
    }

    fn name(&self) -> &'static str {
        "group_neighbours"
    }

    fn schema_check(&self) -> bool {
        true
    }
}

/// Whether rows come in the order of files: the answer would be the same in any other.
fn is_sorted(plan: &Arc<dyn ExecutionPlan>) -> bool {
    if plan.is::<DataSourceExec>() || plan.is::<MergedExec>() {
        return true;
    }
    let keeps = plan.is::<CooperativeExec>()
        || plan.is::<FilterExec>()
        || plan.is::<ProjectionExec>()
        || plan.is::<UnionExec>()
        || plan.is::<RepartitionExec>();
    keeps && plan.children().into_iter().all(is_sorted)
}

/// Aggregates runs of rows that are equal in what they are grouped by.
#[derive(Debug)]
struct NeighboursExec {
    input: Arc<dyn ExecutionPlan>,
    keys: Vec<Arc<dyn PhysicalExpr>>,
    aggregates: Vec<Arc<AggregateFunctionExpr>>,
    /// Of the aggregation whose place it takes.
    properties: Arc<PlanProperties>,
}

impl NeighboursExec {
    /// What does the same as an aggregation, if neighbours are enough for it.
    fn in_place_of(plan: &AggregateExec) -> Option<NeighboursExec> {
        let (input, group) = (plan.input(), plan.group_expr());
        let is_plain = *plan.mode() == AggregateMode::Partial
            && group.is_single()
            && !group.is_empty()
            && plan.filter_expr().iter().all(Option::is_none)
            && plan.limit_options().is_none()
            && plan.dynamic_expressions_produced().is_empty();
        let is_steady = |aggregate: &Arc<AggregateFunctionExpr>| {
            aggregate.groups_accumulator_supported()
                && !aggregate.is_distinct()
                && aggregate.order_bys().is_empty()
        };
        let keys: Vec<Arc<dyn PhysicalExpr>> = group.expr().iter().map(|(key, _)| key.clone()).collect();
        let columns: Vec<_> = keys.iter().flat_map(collect_columns).collect();
        let fits = is_plain
            && plan.aggr_expr().iter().all(is_steady)
            && columns.iter().any(|column| column.name() == USER)
            && columns.iter().all(|column| STEADY.contains(&column.name()))
            && is_sorted(input);
        fits.then(|| NeighboursExec {
            input: input.clone(),
            keys,
            aggregates: plan.aggr_expr().to_vec(),
            properties: plan.properties().clone(),
        })
    }

    fn over(&self, mut children: Vec<Arc<dyn ExecutionPlan>>) -> Result<Arc<dyn ExecutionPlan>> {
        let input = children
            .pop()
            .ok_or_else(|| DataFusionError::Internal("NeighboursExec has one child".to_owned()))?;
        let (keys, aggregates) = (self.keys.clone(), self.aggregates.clone());
        Ok(Arc::new(NeighboursExec { input, keys, aggregates, properties: self.properties.clone() }))
    }
}

impl DisplayAs for NeighboursExec {
    fn fmt_as(&self, _: DisplayFormatType, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let keys: Vec<String> = self.keys.iter().map(ToString::to_string).collect();
        let aggregates: Vec<&str> = self.aggregates.iter().map(|it| it.name()).collect();
        write!(f, "NeighboursExec: gby=[{}], aggr=[{}]", keys.join(", "), aggregates.join(", "))
    }
}

impl ExecutionPlan for NeighboursExec {
    fn name(&self) -> &'static str {
        "NeighboursExec"
    }

    fn properties(&self) -> &Arc<PlanProperties> {
        &self.properties
    }

    fn children(&self) -> Vec<&Arc<dyn ExecutionPlan>> {
        vec![&self.input]
    }

    fn apply_expressions(
        &self,
        each: &mut dyn FnMut(&Arc<dyn PhysicalExpr>) -> Result<TreeNodeRecursion>,
    ) -> Result<TreeNodeRecursion> {
        let mut next = TreeNodeRecursion::Continue;
        for key in &self.keys {
            next = next.visit_sibling(|| each(key))?;
        }
        Ok(next)
    }

    fn replace_children(
        self: Arc<Self>,
        children: Vec<Arc<dyn ExecutionPlan>>,
        _: ReplaceChildrenOptions,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        self.over(children)
    }

    fn with_new_children(
        self: Arc<Self>,
        children: Vec<Arc<dyn ExecutionPlan>>,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        self.over(children)
    }

    fn execute(&self, partition: usize, context: Arc<TaskContext>) -> Result<SendableRecordBatchStream> {
        let input = self.input.execute(partition, context)?;
        let aggregates = self.aggregates.iter();
        let accumulate = |aggregate: &Arc<AggregateFunctionExpr>| {
            let (groups, arguments) = (aggregate.create_groups_accumulator()?, aggregate.expressions());
            Ok(Accumulated { groups, arguments })
        };
        let accumulators = aggregates.map(accumulate).collect::<Result<_>>()?;
        let mut runs =
            Runs { schema: self.schema(), keys: self.keys.clone(), accumulators, groups: Vec::new() };
        let states = input.map(move |batch| runs.aggregate(&batch?));
        Ok(Box::pin(RecordBatchStreamAdapter::new(self.schema(), states)))
    }
}

/// One aggregate.
struct Accumulated {
    /// Empty between two batches.
    groups: Box<dyn GroupsAccumulator>,
    /// What it is given.
    arguments: Vec<Arc<dyn PhysicalExpr>>,
}

/// The runs of one partition, a batch at a time.
struct Runs {
    schema: SchemaRef,
    keys: Vec<Arc<dyn PhysicalExpr>>,
    accumulators: Vec<Accumulated>,
    /// The group of each row.
    groups: Vec<usize>,
}

impl Runs {
    /// The partial states of a batch's groups.
    fn aggregate(&mut self, batch: &RecordBatch) -> Result<RecordBatch> {
        if batch.num_rows() == 0 {
            return Ok(RecordBatch::new_empty(self.schema.clone()));
        }
        let keys = evaluate(&self.keys, batch)?;
        let firsts = self.enter(&keys, batch.num_rows())?;
        let mut columns = Vec::with_capacity(self.schema.fields().len());
        for key in &keys {
            columns.push(take(key, &firsts, None)?);
        }
        for Accumulated { groups, arguments } in &mut self.accumulators {
            let values = evaluate(arguments, batch)?;
            groups.update_batch(&values, &self.groups, None, firsts.len())?;
            columns.extend(groups.state(EmitTo::All)?);
        }
        Ok(RecordBatch::try_new(self.schema.clone(), columns)?)
    }

    /// Gives each row its group; the first row of each group.
    fn enter(&mut self, keys: &[ArrayRef], rows: usize) -> Result<UInt32Array> {
        let mut begins = vec![false; rows];
        begins[0] = true;
        for key in keys {
            note_changes(key, &mut begins)?;
        }
        let mut firsts = Vec::new();
        self.groups.clear();
        for (row, begins) in (0_u32..).zip(begins) {
            if begins {
                firsts.push(row);
            }
            self.groups.push(firsts.len() - 1);
        }
        Ok(firsts.into())
    }
}

fn evaluate(expressions: &[Arc<dyn PhysicalExpr>], batch: &RecordBatch) -> Result<Vec<ArrayRef>> {
    let array = |expression: &Arc<dyn PhysicalExpr>| {
        expression.evaluate(batch).and_then(|value| value.into_array(batch.num_rows()))
    };
    expressions.iter().map(array).collect()
}

/// Marks the rows whose value is another than that of the row before.
fn note_changes(array: &ArrayRef, begins: &mut [bool]) -> Result<()> {
    if *array.data_type() == DataType::Utf8View && array.null_count() == 0 {
        let texts = array.as_string_view();
        for (row, pair) in (1..).zip(texts.views().windows(2)) {
            // Rows of one dictionary entry have one view; two views may still be one text.
            begins[row] |= pair[0] != pair[1] && texts.value(row - 1) != texts.value(row);
        }
        return Ok(());
    }
    let pairs = array.len() - 1;
    let differ = distinct(&array.slice(0, pairs), &array.slice(1, pairs))?;
    differ.values().set_indices().for_each(|pair| begins[pair + 1] = true);
    Ok(())
}

#[cfg(test)]
mod tests {
    use arrow::array::{Float64Array, StringViewArray, TimestampMillisecondArray};
    use arrow::datatypes::{Field, Schema, TimeUnit};
    use arrow::util::pretty::pretty_format_batches;
    use datafusion::datasource::MemTable;
    use datafusion::execution::SessionStateBuilder;
    use datafusion::physical_plan::displayable;
    use datafusion::prelude::{SessionConfig, SessionContext};

    use super::*;

    /// Users `0..users` in turn for `run` rows each, two partitions of several batches.
    fn samples(users: i64, run: i64) -> MemTable {
        let time = DataType::Timestamp(TimeUnit::Millisecond, Some("UTC".into()));
        let schema = Arc::new(Schema::new(vec![
            Field::new("user_id", DataType::Utf8View, false),
            Field::new("source", DataType::Utf8View, true),
            Field::new("recorded_at", time, false),
            Field::new("value", DataType::Float64, false),
        ]));
        let batch = |rows: std::ops::Range<i64>| {
            let user = |row: i64| format!("a user with a long name {:03}", row / run % users);
            let users: StringViewArray = rows.clone().map(|row| Some(user(row))).collect();
            let sources: StringViewArray =
                rows.clone().map(|row| (row % 3 > 0).then(|| format!("s{}", row % 3))).collect();
            let times: TimestampMillisecondArray =
                rows.clone().map(|row| Some(row % run * 3_600_000)).collect();
            let values: Float64Array = rows.map(|row| Some((row * 7 % 50) as f64)).collect();
            let columns: Vec<ArrayRef> = vec![
                Arc::new(users),
                Arc::new(sources),
                Arc::new(times.with_timezone("UTC")),
                Arc::new(values),
            ];
            RecordBatch::try_new(schema.clone(), columns).unwrap()
        };
        let partitions = vec![vec![batch(0..70), batch(70..71), batch(71..200)], vec![batch(200..500)]];
        MemTable::try_new(schema.clone(), partitions).unwrap()
    }

    async fn ask(text: &str, table: MemTable, with_rule: bool) -> (String, String) {
        let config = SessionConfig::new().with_target_partitions(2);
        let mut state = SessionStateBuilder::new().with_default_features().with_config(config);
        if with_rule {
            state = state.with_physical_optimizer_rule(Arc::new(GroupNeighbours));
        }
        let context = SessionContext::new_with_state(state.build());
        context.register_table("samples", Arc::new(table)).unwrap();
        let plan = context.sql(text).await.unwrap().create_physical_plan().await.unwrap();
        let shown = displayable(plan.as_ref()).indent(false).to_string();
        let rows = datafusion::physical_plan::collect(plan, context.task_ctx()).await.unwrap();
        (shown, pretty_format_batches(&rows).unwrap().to_string())
    }

    #[tokio::test]
    async fn groups_by_user_are_those_of_a_table_of_groups() {
        let day = "date_trunc('day', recorded_at)";
        let grouped = [
            "SELECT user_id, sum(value), count(*), avg(value), min(value), max(recorded_at) FROM samples GROUP BY 1 ORDER BY 1".to_owned(),
            format!("SELECT user_id, {day}, avg(value), count(source) FROM samples GROUP BY 1, 2 ORDER BY 1, 2"),
            "SELECT user_id, round(stddev(value), 6) FROM samples WHERE value > 7 GROUP BY 1 HAVING count(*) > 1 ORDER BY 1".to_owned(),
            "SELECT DISTINCT user_id FROM samples ORDER BY 1".to_owned(),
            "SELECT upper(user_id), sum(value) FROM samples GROUP BY 1 ORDER BY 2 DESC, 1 LIMIT 3".to_owned(),
        ];
        for (users, run) in [(1, 500), (7, 20), (40, 1), (3, 64)] {
            for text in &grouped {
                let (_, expected) = ask(text, samples(users, run), false).await;
                let (plan, found) = ask(text, samples(users, run), true).await;
                assert!(plan.contains("NeighboursExec"), "{text}\n{plan}");
                assert_eq!(found, expected, "{text}");
            }
        }
    }

    #[tokio::test]
    async fn what_is_not_by_user_or_not_a_plain_aggregate_keeps_its_table() {
        let others = [
            "SELECT source, sum(value) FROM samples GROUP BY 1 ORDER BY 1",
            "SELECT user_id, source, sum(value) FROM samples GROUP BY 1, 2 ORDER BY 1, 2",
            "SELECT sum(value) FROM samples",
            "SELECT user_id, count(DISTINCT source) FROM samples GROUP BY 1 ORDER BY 1",
            "SELECT user_id, sum(value) FILTER (WHERE value > 3) FROM samples GROUP BY 1 ORDER BY 1",
            "SELECT user_id, sum(value) FROM samples GROUP BY ROLLUP (user_id) ORDER BY 1",
        ];
        for text in others {
            let (_, expected) = ask(text, samples(7, 20), false).await;
            let (plan, found) = ask(text, samples(7, 20), true).await;
            assert_eq!(found, expected, "{text}");
            // A distinct count may be made of a grouping by user in itself.
            if !text.contains("DISTINCT") {
                assert!(!plan.contains("NeighboursExec"), "{text}\n{plan}");
            }
        }
    }
}
