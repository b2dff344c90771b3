//! Rows that must not be seen left out of a merged stream: the plan node behind
//! [`SupersedeExec`](crate::query::supersede::SupersedeExec).
//!
//! What is hidden is asked once for each run of rows of one user; where nothing is,
//! batches pass as they are. A row that supersedes another has a greater sequence, so
//! what hides it hides the other too.

use std::fmt;
use std::sync::Arc;

use arrow::array::{AsArray, BooleanArray, RecordBatch};
use arrow::compute::filter_record_batch;
use arrow::datatypes::{TimestampMillisecondType, UInt64Type};
use datafusion::common::tree_node::TreeNodeRecursion;
use datafusion::error::{DataFusionError, Result};
use datafusion::execution::{SendableRecordBatchStream, TaskContext};
use datafusion::physical_expr::PhysicalExpr;
use datafusion::physical_plan::stream::RecordBatchStreamAdapter;
use datafusion::physical_plan::{
    DisplayAs, DisplayFormatType, ExecutionPlan, PlanProperties, ReplaceChildrenOptions,
};
use futures_util::StreamExt;

use crate::files::{Section, may_cover};
use crate::frame::Sequence;
use crate::hidden::Hidden;

/// Whether something of a section may be hidden.
pub(super) fn may_hide(hidden: &Hidden, section: &Section) -> bool {
    hidden.cutoff(&section.org, &section.metric) > section.time_min
        || hidden.waiting_of(&section.org).any(|tombstone| may_cover(tombstone, section))
}

/// One organisation's rows of one metric without those that are hidden.
#[derive(Debug)]
pub(super) struct ShownExec {
    input: Arc<dyn ExecutionPlan>,
    question: Arc<Question>,
}

#[derive(Debug)]
struct Question {
    hidden: Arc<Hidden>,
    org: Arc<str>,
    metric: String,
    user: usize,
    recorded_at: usize,
    sequence: usize,
}

impl ShownExec {
    pub(super) fn new(
        input: Arc<dyn ExecutionPlan>,
        hidden: Arc<Hidden>,
        org: Arc<str>,
        metric: &str,
    ) -> Result<ShownExec> {
        let schema = input.schema();
        let place = |name: &str| Ok::<_, DataFusionError>(schema.index_of(name)?);
        let question = Question {
            hidden,
            org,
            metric: metric.to_owned(),
            user: place("user_id")?,
            recorded_at: place("recorded_at")?,
            sequence: place("sequence")?,
        };
        Ok(ShownExec { input, question: Arc::new(question) })
    }

    fn over(&self, mut children: Vec<Arc<dyn ExecutionPlan>>) -> Result<Arc<dyn ExecutionPlan>> {
        let input = children.pop();
        let input = input.ok_or_else(|| DataFusionError::Internal("ShownExec has one child".to_owned()))?;
        Ok(Arc::new(ShownExec { input, question: self.question.clone() }))
    }
}

impl Question {
    /// The rows of a batch that show.
    fn shown(&self, batch: &RecordBatch) -> Result<RecordBatch> {
        let users = batch.column(self.user).as_string_view();
        let times = batch.column(self.recorded_at).as_primitive::<TimestampMillisecondType>().values();
        let sequences = batch.column(self.sequence).as_primitive::<UInt64Type>().values();
        let mut shown: Option<Vec<bool>> = None;
        let mut start = 0;
        while start < batch.num_rows() {
            let user = users.value(start);
            let end = (start + 1..batch.num_rows()).find(|&row| users.value(row) != user);
            let end = end.unwrap_or(batch.num_rows());
            if let Some(hiding) = self.hidden.of(&self.org, &self.metric, user) {
                let shown = shown.get_or_insert_with(|| vec![true; batch.num_rows()]);
                for row in start..end {
                    shown[row] = !hiding.hides(times[row], Sequence(sequences[row]));
                }
            }
            start = end;
        }
        match shown {
            Some(shown) => Ok(filter_record_batch(batch, &BooleanArray::from(shown))?),
            None => Ok(batch.clone()),
        }
    }
}

impl DisplayAs for ShownExec {
    fn fmt_as(&self, _: DisplayFormatType, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ShownExec")
    }
}

impl ExecutionPlan for ShownExec {
    fn name(&self) -> &'static str {
        "ShownExec"
    }

    fn properties(&self) -> &Arc<PlanProperties> {
        self.input.properties()
    }

    fn children(&self) -> Vec<&Arc<dyn ExecutionPlan>> {
        vec![&self.input]
    }

    fn maintains_input_order(&self) -> Vec<bool> {
        vec![true]
    }

    fn apply_expressions(
        &self,
        _: &mut dyn FnMut(&Arc<dyn PhysicalExpr>) -> Result<TreeNodeRecursion>,
    ) -> Result<TreeNodeRecursion> {
        Ok(TreeNodeRecursion::Continue)
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
        let (schema, question) = (input.schema(), self.question.clone());
        let shown = input.map(move |batch| question.shown(&batch?));
        Ok(Box::pin(RecordBatchStreamAdapter::new(schema, shown)))
    }
}
