//! Rows that are still in buffers, streamed in file order.
//!
//! Constraints: a buffer holds millions of rows, which are there already; beside them a
//! batch and the order of one user's rows are in memory at a time. Each key comes once.

use std::convert::Infallible;
use std::fmt;
use std::ops::Range;
use std::sync::Arc;

use arrow::array::RecordBatch;
use arrow::datatypes::SchemaRef;
use datafusion::common::tree_node::TreeNodeRecursion;
use datafusion::error::Result;
use datafusion::execution::{SendableRecordBatchStream, TaskContext};
use datafusion::physical_expr::{EquivalenceProperties, PhysicalExpr};
use datafusion::physical_plan::execution_plan::{Boundedness, EmissionType};
use datafusion::physical_plan::stream::RecordBatchStreamAdapter;
use datafusion::physical_plan::{
    DisplayAs, DisplayFormatType, ExecutionPlan, Partitioning, PlanProperties, ReplaceChildrenOptions,
};

use super::parts::{Frames, GroupAt};
use super::schema::{as_shown, table_schema};
use crate::files::{ColumnsBuilder, Run};
use crate::frame::{SamplesFrame, Sequence};
use crate::merge::{Part, in_file_order};

/// The rows of some groups of one metric, sorted by (user, time, source, device).
#[derive(Debug)]
pub(super) struct BufferedExec {
    source: Arc<Buffered>,
    properties: Arc<PlanProperties>,
}

#[derive(Debug)]
struct Buffered {
    org: Arc<str>,
    metric: Arc<str>,
    frames: Frames,
    /// Sorted by user, and by commit order within one.
    groups: Vec<GroupAt>,
    /// Columns of the table.
    columns: Vec<usize>,
}

impl BufferedExec {
    pub(super) fn new(
        org: &Arc<str>,
        metric: &Arc<str>,
        frames: &Frames,
        groups: Vec<GroupAt>,
        columns: &[usize],
    ) -> Result<BufferedExec> {
        let schema: SchemaRef = Arc::new(table_schema().project(columns)?);
        let source = Buffered {
            org: org.clone(),
            metric: metric.clone(),
            frames: frames.clone(),
            groups,
            columns: columns.to_vec(),
        };
        Ok(BufferedExec { source: Arc::new(source), properties: Arc::new(leaf_properties(schema, 1)) })
    }
}

/// What a node is that makes rows by itself.
pub(super) fn leaf_properties(schema: SchemaRef, partitions: usize) -> PlanProperties {
    PlanProperties::new(
        EquivalenceProperties::new(schema),
        Partitioning::UnknownPartitioning(partitions),
        EmissionType::Incremental,
        Boundedness::Bounded,
    )
}

impl DisplayAs for BufferedExec {
    fn fmt_as(&self, _: DisplayFormatType, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "BufferedExec: metric={}, groups={}", self.source.metric, self.source.groups.len())
    }
}

impl ExecutionPlan for BufferedExec {
    fn name(&self) -> &'static str {
        "BufferedExec"
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
        let rows = Rows {
            source: self.source.clone(),
            next_group: 0,
            runs: Vec::new(),
            next_run: 0,
            batch_rows: context.session_config().batch_size(),
        };
        let stream = futures_util::stream::iter(rows);
        Ok(Box::pin(RecordBatchStreamAdapter::new(self.schema(), stream)))
    }
}

/// Neighbouring rows of a group, as they come out.
struct RunAt {
    group: GroupAt,
    rows: Range<usize>,
}

struct Rows {
    source: Arc<Buffered>,
    /// The first group of the next user.
    next_group: usize,
    /// The rows of this user, in order.
    runs: Vec<RunAt>,
    next_run: usize,
    batch_rows: usize,
}

impl Rows {
    /// Brings the next user's rows into order; false if there is none.
    fn next_user(&mut self) -> bool {
        let (source, first) = (self.source.clone(), self.next_group);
        self.runs.clear();
        self.next_run = 0;
        let user = |at: &GroupAt| at.of(&source.frames).1.user;
        let Some(rest) = source.groups.get(first..).filter(|rest| !rest.is_empty()) else {
            return false;
        };
        let mine = rest.iter().take_while(|at| user(at) == user(&rest[0])).count();
        self.next_group += mine;
        let part = |at: &GroupAt| {
            let (frame, group) = at.of(&source.frames);
            Part { frame, rows: group.rows(), group }
        };
        let mut parts: Vec<Part<'_>> = rest[..mine].iter().map(part).collect();
        let places = Places::new(&rest[..mine], &source.frames);
        let sorted = in_file_order(&mut parts, Sequence(u64::MAX), |run| {
            self.runs.push(RunAt { group: places.of(run), rows: run.rows.clone() });
            Ok::<(), Infallible>(())
        });
        let Ok(()) = sorted;
        true
    }

    fn fill(&mut self, columns: &mut ColumnsBuilder) {
        while columns.len() < self.batch_rows {
            if self.next_run == self.runs.len() {
                if !self.next_user() {
                    return;
                }
                continue;
            }
            let run = &mut self.runs[self.next_run];
            let end = run.rows.end.min(run.rows.start + self.batch_rows - columns.len());
            let (frame, group) = run.group.of(&self.source.frames);
            columns.push(&Run {
                metric: group.metric,
                user: group.user,
                unit: group.unit,
                source: group.source,
                device: group.device,
                frame,
                rows: run.rows.start..end,
            });
            run.rows.start = end;
            if run.rows.is_empty() {
                self.next_run += 1;
            }
        }
    }
}

/// A user's groups by where they begin: (address of the frame, first row).
struct Places(Vec<(usize, usize, GroupAt)>);

impl Places {
    fn new(groups: &[GroupAt], frames: &[SamplesFrame]) -> Places {
        let place = |at: &GroupAt| {
            let (frame, group) = at.of(frames);
            (address(frame), group.first, *at)
        };
        let mut places: Vec<_> = groups.iter().map(place).collect();
        places.sort_unstable_by_key(|(frame, first, _)| (*frame, *first));
        Places(places)
    }

    /// The group that a run is of.
    fn of(&self, run: &Run<'_>) -> GroupAt {
        let begin = (address(run.frame), run.rows.start);
        let behind = self.0.partition_point(|(frame, first, _)| (*frame, *first) <= begin);
        self.0[behind - 1].2
    }
}

fn address(frame: &SamplesFrame) -> usize {
    std::ptr::from_ref(frame).addr()
}

impl Iterator for Rows {
    type Item = Result<RecordBatch>;

    fn next(&mut self) -> Option<Result<RecordBatch>> {
        let mut columns = ColumnsBuilder::new(&self.source.org, &self.source.metric);
        self.fill(&mut columns);
        if columns.len() == 0 {
            return None;
        }
        Some(as_shown(&columns.finish(), &self.source.columns))
    }
}
