//! What a statement's conditions say about where rows can lie.
//!
//! Conditions are not split into cases here: DataFusion's own pruning decides about
//! files and groups of frames by the extent of what they hold, and conditions over
//! nothing but organisation and metric are evaluated once a metric. Whatever is not
//! understood keeps everything, so the worst is to read in vain.

use std::collections::{BTreeSet, HashSet};
use std::sync::Arc;

use arrow::array::{
    ArrayRef, AsArray, BooleanArray, RecordBatch, StringViewArray, TimestampMillisecondArray,
};
use arrow::datatypes::Schema;
use datafusion::catalog::Session;
use datafusion::common::pruning::PruningStatistics;
use datafusion::common::tree_node::{TreeNode, TreeNodeRecursion};
use datafusion::common::{Column, DFSchema, ScalarValue};
use datafusion::error::Result;
use datafusion::logical_expr::Expr;
use datafusion::logical_expr::utils::conjunction;
use datafusion::physical_expr::PhysicalExpr;
use datafusion::physical_expr::utils::{Guarantee, LiteralGuarantee};
use datafusion::physical_optimizer::pruning::{PruningPredicate, PruningPredicateBuilder};

use super::schema::table_schema;

/// Columns that are one value in all rows of a metric.
const METRIC_COLUMNS: [&str; 2] = ["org", "metric"];
/// Columns that are equal in a row and the one that supersedes it. Only conditions
/// over these may be applied before superseded rows are dropped.
const KEY_COLUMNS: [&str; 6] = ["org", "metric", "user_id", "recorded_at", "source", "device"];

/// Whether a condition can be answered for a metric as a whole.
pub(super) fn decides_by_metric(condition: &Expr) -> bool {
    is_plain(condition) && reads_only(condition, &METRIC_COLUMNS)
}

/// Whether it reads nothing but these columns.
fn reads_only(condition: &Expr, columns: &[&str]) -> bool {
    condition.column_refs().iter().all(|column| columns.contains(&column.name.as_str()))
}

/// Whether it says the same of the same row, wherever it is evaluated.
pub(super) fn is_plain(condition: &Expr) -> bool {
    let mut plain = !condition.is_volatile();
    let visited = condition.apply(|expr| {
        let foreign = matches!(
            expr,
            Expr::ScalarSubquery(_)
                | Expr::InSubquery(_)
                | Expr::Exists(_)
                | Expr::OuterReferenceColumn(..)
                | Expr::Placeholder(_)
        );
        plain &= !foreign;
        Ok(if foreign { TreeNodeRecursion::Stop } else { TreeNodeRecursion::Continue })
    });
    plain && visited.is_ok()
}

/// Conditions of one scan.
#[derive(Clone, Debug)]
pub(super) struct Wanted {
    of_metric: Option<Arc<dyn PhysicalExpr>>,
    /// Over the table's columns; holds of every row that can be in the answer.
    pub(super) of_key: Option<Arc<dyn PhysicalExpr>>,
    pruning: Option<PruningPredicate>,
    users: Option<BTreeSet<String>>,
}

impl Wanted {
    pub(super) fn new(session: &dyn Session, conditions: &[Expr]) -> Result<Wanted> {
        let schema = table_schema();
        let names = DFSchema::try_from(schema.clone())?;
        let over = |columns: &[&str]| -> Result<Option<Arc<dyn PhysicalExpr>>> {
            let chosen = conditions.iter().filter(|it| is_plain(it) && reads_only(it, columns));
            let all = conjunction(chosen.cloned().map(unqualified).collect::<Result<Vec<_>>>()?);
            all.map(|all| session.create_physical_expr(all, &names)).transpose()
        };
        let of_key = over(&KEY_COLUMNS)?;
        let pruning = of_key.clone().and_then(|expr| {
            // What cannot be pruned by keeps everything.
            PruningPredicateBuilder::new().with_file_schema(schema).try_build(expr).ok()
        });
        let users = of_key.as_ref().and_then(users_of);
        Ok(Wanted { of_metric: over(&METRIC_COLUMNS)?, of_key, pruning, users })
    }

    /// The only users that can be in the answer.
    pub(super) fn users(&self) -> Option<&BTreeSet<String>> {
        self.users.as_ref()
    }

    pub(super) fn user(&self, user: &str) -> bool {
        self.users.as_ref().is_none_or(|users| users.contains(user))
    }

    /// Which of `metrics` hold what the conditions over them say.
    pub(super) fn metrics(&self, org: &str, metrics: &[&str]) -> Result<Vec<bool>> {
        let Some(condition) = &self.of_metric else {
            return Ok(vec![true; metrics.len()]);
        };
        let schema = table_schema();
        let columns = schema.fields().iter().map(|field| -> ArrayRef {
            match field.name().as_str() {
                "org" => Arc::new(StringViewArray::from_iter_values(metrics.iter().map(|_| org))),
                "metric" => Arc::new(StringViewArray::from_iter_values(metrics)),
                _ => arrow::array::new_null_array(field.data_type(), metrics.len()),
            }
        });
        let nullable: Vec<_> =
            schema.fields().iter().map(|field| field.as_ref().clone().with_nullable(true)).collect();
        let batch = RecordBatch::try_new(Arc::new(Schema::new(nullable)), columns.collect())?;
        let held = condition.evaluate(&batch)?.into_array(metrics.len())?;
        let held = held.as_boolean();
        Ok((0..metrics.len()).map(|at| arrow::array::Array::is_valid(held, at) && held.value(at)).collect())
    }

    /// Which of these can hold a row that is in the answer.
    pub(super) fn prune(&self, extents: &Extents<'_>) -> Vec<bool> {
        let everything = vec![true; extents.users.len()];
        match &self.pruning {
            Some(pruning) => pruning.prune(extents).unwrap_or(everything),
            None => everything,
        }
    }
}

/// Takes the names of tables off the columns: a scan knows its table.
pub(super) fn unqualified(condition: Expr) -> Result<Expr> {
    datafusion::logical_expr::expr_rewriter::unnormalize_cols([condition])
        .pop()
        .map_or_else(|| datafusion::common::internal_err!("a condition became none"), Ok)
}

/// The users that `condition` names, if it names all that it can hold of.
fn users_of(condition: &Arc<dyn PhysicalExpr>) -> Option<BTreeSet<String>> {
    let guarantees = LiteralGuarantee::analyze(condition);
    let named = guarantees.iter().find(|found| found.column.name == "user_id")?;
    if named.guarantee != Guarantee::In {
        return None;
    }
    let text = |value: &ScalarValue| value.try_as_str().flatten().map(str::to_owned);
    named.literals.iter().map(text).collect()
}

/// What some files or groups of frames of one metric span.
#[derive(Debug)]
pub(super) struct Extents<'a> {
    pub(super) org: &'a str,
    pub(super) metric: &'a str,
    /// First and last user of each.
    pub(super) users: Vec<(&'a str, &'a str)>,
    /// Earliest and latest time of each.
    pub(super) times: Vec<(i64, i64)>,
}

impl Extents<'_> {
    fn bounds(
        &self,
        column: &Column,
        of: fn((&str, &str)) -> String,
        time: fn((i64, i64)) -> i64,
    ) -> Option<ArrayRef> {
        let same = |text: &str| -> Option<ArrayRef> {
            Some(Arc::new(StringViewArray::from_iter_values(self.users.iter().map(|_| text))))
        };
        match column.name.as_str() {
            "org" => same(self.org),
            "metric" => same(self.metric),
            "user_id" => {
                Some(Arc::new(StringViewArray::from_iter_values(self.users.iter().map(|it| of(*it)))))
            }
            "recorded_at" => {
                let times = self.times.iter().map(|it| Some(time(*it)));
                Some(Arc::new(times.collect::<TimestampMillisecondArray>().with_timezone("UTC")))
            }
            _ => None,
        }
    }
}

impl PruningStatistics for Extents<'_> {
    fn min_values(&self, column: &Column) -> Option<ArrayRef> {
        self.bounds(column, |(first, _)| first.to_owned(), |(first, _)| first)
    }

    fn max_values(&self, column: &Column) -> Option<ArrayRef> {
        self.bounds(column, |(_, last)| last.to_owned(), |(_, last)| last)
    }

    fn num_containers(&self) -> usize {
        self.users.len()
    }

    fn null_counts(&self, _: &Column) -> Option<ArrayRef> {
        None
    }

    fn row_counts(&self) -> Option<ArrayRef> {
        None
    }

    fn contained(&self, _: &Column, _: &HashSet<ScalarValue>) -> Option<BooleanArray> {
        None
    }
}
