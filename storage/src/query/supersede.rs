//! Of equal keys the latest: the plan node behind the merge.
//!
//! Its input is one partition of one metric, sorted by (user_id, recorded_at,
//! source, device, sequence), without `user_id` where all rows are one user's. So
//! rows of one key are neighbours and the last of them has the greatest sequence.
//! The last row of a batch waits for the first of the next.
//!
//! Neighbours are compared a column at a time, and times first: where no two
//! neighbours have one time, nothing else is looked at.

use std::fmt;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use arrow::array::{Array, BooleanArray, RecordBatch};
use arrow::compute::kernels::cmp::distinct;
use arrow::compute::{concat_batches, filter_record_batch, or};
use arrow::datatypes::SchemaRef;
use arrow::error::ArrowError;
use datafusion::common::tree_node::TreeNodeRecursion;
use datafusion::error::{DataFusionError, Result};
use datafusion::execution::{RecordBatchStream, SendableRecordBatchStream, TaskContext};
use datafusion::physical_expr::PhysicalExpr;
use datafusion::physical_plan::{
    DisplayAs, DisplayFormatType, ExecutionPlan, PlanProperties, ReplaceChildrenOptions,
};
use futures_util::{Stream, StreamExt};

/// The columns of a key within one metric, those that differ most often first.
const KEY_COLUMNS: [&str; 4] = ["recorded_at", "user_id", "source", "device"];

/// Keeps the last of each run of rows with equal keys.
#[derive(Debug)]
pub(super) struct SupersedeExec {
    input: Arc<dyn ExecutionPlan>,
    /// Where the columns of the key stand, `recorded_at` first.
    keys: Arc<[usize]>,
}

impl SupersedeExec {
    pub(super) fn new(input: Arc<dyn ExecutionPlan>) -> Result<SupersedeExec> {
        let keys = key_columns(&input.schema())?;
        Ok(SupersedeExec { input, keys: keys.into() })
    }
}

/// Where the columns of the key stand, `recorded_at` first.
pub(super) fn key_columns(schema: &SchemaRef) -> Result<Vec<usize>, ArrowError> {
    let found = |name: &&&str| **name != "user_id" || schema.index_of(name).is_ok();
    KEY_COLUMNS.iter().filter(found).map(|name| schema.index_of(name)).collect()
}

impl DisplayAs for SupersedeExec {
    fn fmt_as(&self, _: DisplayFormatType, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SupersedeExec")
    }
}

impl ExecutionPlan for SupersedeExec {
    fn name(&self) -> &'static str {
        "SupersedeExec"
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
        mut children: Vec<Arc<dyn ExecutionPlan>>,
        _: ReplaceChildrenOptions,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        let input = children
            .pop()
            .ok_or_else(|| DataFusionError::Internal("SupersedeExec has one child".to_owned()))?;
        Ok(Arc::new(SupersedeExec::new(input)?))
    }

    fn with_new_children(
        self: Arc<Self>,
        mut children: Vec<Arc<dyn ExecutionPlan>>,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        let input = children
            .pop()
            .ok_or_else(|| DataFusionError::Internal("SupersedeExec has one child".to_owned()))?;
        Ok(Arc::new(SupersedeExec::new(input)?))
    }

    fn execute(&self, partition: usize, context: Arc<TaskContext>) -> Result<SendableRecordBatchStream> {
        let input = self.input.execute(partition, context)?;
        Ok(Box::pin(SupersedeStream { input, keys: self.keys.clone(), held: None }))
    }
}

struct SupersedeStream {
    input: SendableRecordBatchStream,
    keys: Arc<[usize]>,
    /// The last row so far: a later one may supersede it.
    held: Option<RecordBatch>,
}

impl SupersedeStream {
    fn accept(&mut self, batch: RecordBatch) -> Result<RecordBatch> {
        let batch = match self.held.take() {
            Some(held) => concat_batches(&batch.schema(), [&held, &batch])?,
            None => batch,
        };
        let (ready, held) = (batch.slice(0, batch.num_rows() - 1), batch.slice(batch.num_rows() - 1, 1));
        let kept = keep_last(&batch, &self.keys)?;
        self.held = Some(held);
        match kept {
            Some(kept) => Ok(filter_record_batch(&ready, &kept)?),
            None => Ok(ready),
        }
    }
}

/// Which rows but the last are not superseded by the next; `None` for all.
pub(super) fn keep_last(batch: &RecordBatch, keys: &[usize]) -> Result<Option<BooleanArray>, ArrowError> {
    let pairs = batch.num_rows() - 1;
    let mut differs: Option<BooleanArray> = None;
    for &key in keys {
        let column = batch.column(key);
        let found = distinct(&column.slice(0, pairs), &column.slice(1, pairs))?;
        let all = match differs {
            Some(before) => or(&before, &found)?,
            None => found,
        };
        if all.true_count() == all.len() {
            return Ok(None);
        }
        differs = Some(all);
    }
    Ok(differs)
}

impl Stream for SupersedeStream {
    type Item = Result<RecordBatch>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        loop {
            match ready!(self.input.poll_next_unpin(context)) {
                Some(Ok(batch)) if batch.num_rows() == 0 => {}
                Some(Ok(batch)) => match self.accept(batch) {
                    Ok(kept) if kept.num_rows() == 0 => {}
                    outcome => return Poll::Ready(Some(outcome)),
                },
                Some(Err(error)) => return Poll::Ready(Some(Err(error))),
                None => return Poll::Ready(self.held.take().map(Ok)),
            }
        }
    }
}

impl RecordBatchStream for SupersedeStream {
    fn schema(&self) -> SchemaRef {
        self.input.schema()
    }
}
