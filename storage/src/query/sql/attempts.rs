//! The table `attempts` as SQL sees it: the delivery log of one organisation.
//!
//! Its rows are written once and never superseded, so files and frames are read side by
//! side, a batch at a time, in any order. Of a file only the columns are read that a
//! statement names, and those that say whether a row is hidden; files whose times cannot
//! be in the answer are not opened.

use std::collections::HashSet;
use std::fmt;
use std::sync::{Arc, LazyLock};

use arrow::array::{
    ArrayRef, BooleanArray, Float64Array, RecordBatch, RecordBatchOptions, StringViewArray,
    TimestampMillisecondArray, UInt16Array, UInt32Array,
};
use arrow::datatypes::{DataType, Field, Schema, SchemaRef, TimeUnit};
use async_trait::async_trait;
use datafusion::catalog::{Session, TableProvider};
use datafusion::common::pruning::PruningStatistics;
use datafusion::common::tree_node::TreeNodeRecursion;
use datafusion::common::{Column, DFSchema, ScalarValue};
use datafusion::datasource::TableType;
use datafusion::error::{DataFusionError, Result};
use datafusion::execution::{SendableRecordBatchStream, TaskContext};
use datafusion::logical_expr::utils::conjunction;
use datafusion::logical_expr::{Expr, TableProviderFilterPushDown};
use datafusion::physical_expr::PhysicalExpr;
use datafusion::physical_optimizer::pruning::PruningPredicateBuilder;
use datafusion::physical_plan::stream::RecordBatchStreamAdapter;
use datafusion::physical_plan::{
    DisplayAs, DisplayFormatType, ExecutionPlan, PlanProperties, ReplaceChildrenOptions,
};

use super::buffered::leaf_properties;
use super::wanted::{is_plain, unqualified};
use crate::attempts::{AttemptFile, Columns, blocks_of, row_is_hidden};
use crate::files::FileReadError;
use crate::frame::{AttemptRow, AttemptsFrame};
use crate::hidden::Hidden;
use crate::store::Snapshot;

/// Rows of a batch; each may have 16 KiB.
const BATCH_ROWS: usize = 1024;

/// The columns, and the file's column that each is made of.
const COLUMNS: [(&str, &str); 15] = [
    ("created_at", "created_at"),
    ("endpoint_id", "endpoint_id"),
    ("message_id", "message_id"),
    ("delivery_id", "delivery_id"),
    ("user_id", "user_id"),
    ("event_type", "event_type"),
    ("attempt_number", "attempt_number"),
    ("trigger", "trigger"),
    ("status", "success"),
    ("status_code", "status_code"),
    ("error", "error"),
    ("duration_ms", "duration_us"),
    ("url", "url"),
    ("response_headers", "response_headers"),
    ("response_body", "response_body"),
];

static SCHEMA: LazyLock<SchemaRef> = LazyLock::new(|| {
    let field = |(name, _): (&str, &str)| {
        let kind = match name {
            "created_at" => DataType::Timestamp(TimeUnit::Millisecond, Some("UTC".into())),
            "attempt_number" => DataType::UInt32,
            "status_code" => DataType::UInt16,
            "duration_ms" => DataType::Float64,
            _ => DataType::Utf8View,
        };
        Field::new(name, kind, ["user_id", "status_code", "error"].contains(&name))
    };
    Arc::new(Schema::new(COLUMNS.map(field).to_vec()))
});

/// One organisation's attempts over one snapshot; there is no other in it.
#[derive(Debug)]
pub struct OrgAttempts {
    org: Arc<str>,
    snapshot: Arc<Snapshot>,
    /// What the buffers held when the statement began.
    frames: Vec<AttemptsFrame>,
}

impl OrgAttempts {
    pub(super) fn new(org: &str, snapshot: Arc<Snapshot>) -> OrgAttempts {
        let of_org = |frame: &AttemptsFrame| frame.org() == org;
        let frames = snapshot.buffers().flat_map(|buffer| buffer.attempts()).filter(of_org).collect();
        OrgAttempts { org: org.into(), snapshot, frames }
    }
}

#[async_trait]
impl TableProvider for OrgAttempts {
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
        let columns: Vec<usize> = projection.cloned().unwrap_or_else(|| (0..COLUMNS.len()).collect());
        let files = wanted(session, filters, self.snapshot.attempts.of(&self.org))?;
        let partitions = session.config().target_partitions().min(files.len()).max(1);
        let mut parts: Vec<Vec<Part>> = vec![Vec::new(); partitions];
        parts[0].extend(self.frames.iter().cloned().map(Part::Frame));
        for (at, file) in files.into_iter().enumerate() {
            parts[at % partitions].push(Part::File(file));
        }
        let source = Source {
            org: self.org.clone(),
            hidden: self.snapshot.hidden.clone(),
            schema: Arc::new(SCHEMA.project(&columns)?),
            columns,
        };
        let properties = leaf_properties(source.schema.clone(), partitions);
        Ok(Arc::new(AttemptsExec { source: Arc::new(source), parts, properties: Arc::new(properties) }))
    }

    /// A condition over times leads to files; the planner asks it of each row all the same.
    fn supports_filters_pushdown(&self, filters: &[&Expr]) -> Result<Vec<TableProviderFilterPushDown>> {
        Ok(vec![TableProviderFilterPushDown::Inexact; filters.len()])
    }
}

/// The files that can hold a row for which the conditions hold.
fn wanted(session: &dyn Session, conditions: &[Expr], files: &[AttemptFile]) -> Result<Vec<AttemptFile>> {
    let of_time = |condition: &&Expr| {
        is_plain(condition) && condition.column_refs().iter().all(|column| column.name == "created_at")
    };
    let chosen = conditions.iter().filter(of_time).cloned().map(unqualified);
    let Some(all) = conjunction(chosen.collect::<Result<Vec<_>>>()?) else { return Ok(files.to_vec()) };
    let expr = session.create_physical_expr(all, &DFSchema::try_from(SCHEMA.clone())?)?;
    // What cannot be pruned by keeps everything.
    let kept = PruningPredicateBuilder::new()
        .with_file_schema(SCHEMA.clone())
        .try_build(expr)
        .and_then(|pruning| pruning.prune(&Times(files)))
        .unwrap_or_else(|_| vec![true; files.len()]);
    Ok(files.iter().zip(kept).filter(|(_, kept)| *kept).map(|(file, _)| file.clone()).collect())
}

/// What times files span.
#[derive(Debug)]
struct Times<'a>(&'a [AttemptFile]);

impl Times<'_> {
    fn of(&self, column: &Column, time: impl Fn(&AttemptFile) -> i64) -> Option<ArrayRef> {
        let times = || self.0.iter().map(|file| Some(time(file))).collect::<TimestampMillisecondArray>();
        (column.name == "created_at").then(|| Arc::new(times().with_timezone("UTC")) as ArrayRef)
    }
}

impl PruningStatistics for Times<'_> {
    fn min_values(&self, column: &Column) -> Option<ArrayRef> {
        self.of(column, |file| file.record().time_min)
    }

    fn max_values(&self, column: &Column) -> Option<ArrayRef> {
        self.of(column, |file| file.record().time_max)
    }

    fn num_containers(&self) -> usize {
        self.0.len()
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

/// Where rows stand.
#[derive(Clone, Debug)]
enum Part {
    Frame(AttemptsFrame),
    File(AttemptFile),
}

#[derive(Debug)]
struct Source {
    org: Arc<str>,
    hidden: Arc<Hidden>,
    /// Columns of the table.
    columns: Vec<usize>,
    schema: SchemaRef,
}

impl Source {
    /// The batches of a part, as they are asked for.
    fn batches(self: &Arc<Source>, part: Part) -> Box<dyn Iterator<Item = Result<RecordBatch>> + Send> {
        let source = self.clone();
        match part {
            Part::Frame(frame) => {
                let starts = (0..frame.len()).step_by(BATCH_ROWS);
                Box::new(starts.map(move |start| {
                    let end = frame.len().min(start + BATCH_ROWS);
                    source.batch((start..end).map(|row| frame.row(row)).collect())
                }))
            }
            Part::File(file) => match blocks_of(&file, &source.columns_of_file(), BATCH_ROWS) {
                Ok(blocks) => Box::new(blocks.map(move |block| {
                    let block = block.map_err(failed)?;
                    source.batch((0..block.rows()).map(|row| block.row(row)).collect())
                })),
                Err(error) => Box::new(std::iter::once(Err(failed(error)))),
            },
        }
    }

    fn columns_of_file(&self) -> Columns {
        Columns::keys_and(self.columns.iter().map(|&column| COLUMNS[column].1).collect())
    }

    fn batch(&self, mut rows: Vec<AttemptRow<&str>>) -> Result<RecordBatch> {
        if !self.hidden.is_empty(&self.org) {
            rows.retain(|row| !row_is_hidden(&self.hidden, &self.org, row));
        }
        let arrays = self.columns.iter().map(|&column| array(COLUMNS[column].0, &rows)).collect();
        let options = RecordBatchOptions::new().with_row_count(Some(rows.len()));
        Ok(RecordBatch::try_new_with_options(self.schema.clone(), arrays, &options)?)
    }
}

fn failed(error: FileReadError) -> DataFusionError {
    DataFusionError::External(Box::new(error))
}

/// A column of some rows.
fn array(name: &str, rows: &[AttemptRow<&str>]) -> ArrayRef {
    fn texts<'a>(
        rows: &[AttemptRow<&'a str>],
        text: impl Fn(&AttemptRow<&'a str>) -> Option<&'a str>,
    ) -> ArrayRef {
        Arc::new(rows.iter().map(text).collect::<StringViewArray>())
    }
    match name {
        "created_at" => {
            let times: TimestampMillisecondArray = rows.iter().map(|row| Some(row.at_ms)).collect();
            Arc::new(times.with_timezone("UTC"))
        }
        "endpoint_id" => texts(rows, |row| Some(row.endpoint)),
        "message_id" => texts(rows, |row| Some(row.message)),
        "delivery_id" => texts(rows, |row| Some(row.delivery)),
        "user_id" => texts(rows, |row| row.user),
        "event_type" => texts(rows, |row| Some(row.event_type)),
        "attempt_number" => Arc::new(rows.iter().map(|row| row.number).collect::<UInt32Array>()),
        "trigger" => texts(rows, |row| Some(row.trigger.as_str())),
        "status" => texts(rows, |row| Some(if row.success { "success" } else { "failed" })),
        "status_code" => Arc::new(rows.iter().map(|row| row.status_code).collect::<UInt16Array>()),
        "error" => texts(rows, |row| row.error),
        "duration_ms" => {
            // Exact below 285 years.
            Arc::new(rows.iter().map(|row| row.duration_us as f64 / 1000.0).collect::<Float64Array>())
        }
        "url" => texts(rows, |row| Some(row.url)),
        "response_headers" => texts(rows, |row| Some(row.response_headers)),
        "response_body" => texts(rows, |row| Some(row.response_body)),
        _ => unreachable!("a column of the table"),
    }
}

/// Reads parts one behind the other.
#[derive(Debug)]
struct AttemptsExec {
    source: Arc<Source>,
    /// By partition.
    parts: Vec<Vec<Part>>,
    properties: Arc<PlanProperties>,
}

impl DisplayAs for AttemptsExec {
    fn fmt_as(&self, _: DisplayFormatType, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let files = self.parts.iter().flatten().filter(|part| matches!(part, Part::File(_))).count();
        let frames = self.parts.iter().map(Vec::len).sum::<usize>() - files;
        write!(f, "AttemptsExec: files={files}, frames={frames}")
    }
}

impl ExecutionPlan for AttemptsExec {
    fn name(&self) -> &'static str {
        "AttemptsExec"
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

    fn execute(&self, partition: usize, _: Arc<TaskContext>) -> Result<SendableRecordBatchStream> {
        let source = self.source.clone();
        let parts = self.parts[partition].clone().into_iter();
        let batches = parts.flat_map(move |part| source.batches(part));
        Ok(Box::pin(RecordBatchStreamAdapter::new(self.schema(), futures_util::stream::iter(batches))))
    }
}
