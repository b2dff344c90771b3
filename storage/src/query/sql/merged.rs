//! Parts whose rows are not yet the answer's rows: merged, superseded rows dropped.
//!
//! Constraints: a partition works on one part at a time, however many there are, so the
//! files that are open at once are those of as many parts as there are partitions.
//!
//! ```text
//! part: [ file | file | ... | buffers ]  each sorted by (user, time, source, device, sequence)
//!       -> merge -> keep the latest of equal keys -> the columns asked for
//! ```
//!
//! To the planner this is one leaf: it may neither reorder what is below nor push
//! conditions past the dropping of superseded rows. Those that may pass (over the key)
//! are in the file scans already.

use std::fmt;
use std::sync::Arc;

use arrow::datatypes::SchemaRef;
use datafusion::common::tree_node::TreeNodeRecursion;
use datafusion::error::Result;
use datafusion::execution::{SendableRecordBatchStream, TaskContext};
use datafusion::physical_expr::PhysicalExpr;
use datafusion::physical_plan::stream::RecordBatchStreamAdapter;
use datafusion::physical_plan::{
    DisplayAs, DisplayFormatType, ExecutionPlan, PlanProperties, ReplaceChildrenOptions,
};
use futures_util::{StreamExt, TryStreamExt};

use super::buffered::leaf_properties;

/// Plans of parts, run one after another in each partition.
#[derive(Debug)]
pub(super) struct MergedExec {
    /// Each of one partition.
    partitions: Vec<Vec<Arc<dyn ExecutionPlan>>>,
    properties: Arc<PlanProperties>,
}

impl MergedExec {
    /// Deals out `parts`, each with the number of its rows, to at most `partitions`.
    pub(super) fn new(
        schema: SchemaRef,
        mut parts: Vec<(u64, Arc<dyn ExecutionPlan>)>,
        partitions: usize,
    ) -> MergedExec {
        let count = parts.len().min(partitions).max(1);
        let mut dealt: Vec<(u64, Vec<Arc<dyn ExecutionPlan>>)> =
            (0..count).map(|_| (0, Vec::new())).collect();
        parts.sort_by_key(|(rows, _)| std::cmp::Reverse(*rows));
        for (rows, part) in parts {
            if let Some(least) = dealt.iter_mut().min_by_key(|(rows, _)| *rows) {
                least.0 += rows.max(1);
                least.1.push(part);
            }
        }
        let partitions = dealt.into_iter().map(|(_, parts)| parts).collect();
        MergedExec { partitions, properties: Arc::new(leaf_properties(schema, count)) }
    }
}

impl DisplayAs for MergedExec {
    fn fmt_as(&self, _: DisplayFormatType, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "MergedExec: parts={}", self.partitions.iter().map(Vec::len).sum::<usize>())
    }
}

impl ExecutionPlan for MergedExec {
    fn name(&self) -> &'static str {
        "MergedExec"
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

    fn execute(&self, partition: usize, context: Arc<TaskContext>) -> Result<SendableRecordBatchStream> {
        let parts = futures_util::stream::iter(self.partitions[partition].clone());
        // A part is opened when the one before it has ended.
        let rows = parts.map(move |part| part.execute(0, context.clone())).try_flatten();
        Ok(Box::pin(RecordBatchStreamAdapter::new(self.schema(), rows)))
    }
}
