//! One user's samples of one metric, over one snapshot.

use std::sync::Arc;

use arrow::compute::SortOptions;
use arrow::datatypes::{DataType, SchemaRef};
use datafusion::common::ScalarValue;
use datafusion::datasource::listing::PartitionedFile;
use datafusion::datasource::memory::MemorySourceConfig;
use datafusion::datasource::physical_plan::{FileGroup, FileScanConfigBuilder, ParquetSource};
use datafusion::datasource::source::DataSourceExec;
use datafusion::error::{DataFusionError, Result};
use datafusion::logical_expr::Operator;
use datafusion::physical_expr::expressions::{BinaryExpr as PhysicalBinary, Column, Literal};
use datafusion::physical_expr::{LexOrdering, PhysicalExpr, PhysicalSortExpr};
use datafusion::physical_plan::ExecutionPlan;
use datafusion::physical_plan::empty::EmptyExec;
use datafusion::physical_plan::sorts::sort_preserving_merge::SortPreservingMergeExec;
use datafusion::physical_plan::union::UnionExec;

use super::memory::sorted_rows;
use super::metadata::CheckedReaders;
use super::pool::files_url;
use super::reads::Reads;
use super::supersede::SupersedeExec;
use crate::buffer::GroupRef;
use crate::files::{DataFile, samples_schema};
use crate::frame::Sequence;
use crate::hidden::Hiding;
use crate::store::Snapshot;

/// What a scan wants: one user's metric in a window.
#[derive(Clone, Debug)]
pub struct Scan {
    /// Whose data.
    pub org: String,
    /// Who wears the device.
    pub user: String,
    /// Canonical metric key.
    pub metric: String,
    /// Only this source.
    pub source: Option<String>,
    /// First millisecond.
    pub start: i64,
    /// First millisecond behind.
    pub end: i64,
    /// Only what was committed before this frame, as if nothing had come since.
    pub before: Option<Sequence>,
}

/// One organisation's samples, each key once with its latest value.
#[derive(Debug)]
pub struct SamplesTable {
    org: String,
    snapshot: Arc<Snapshot>,
    readers: Arc<CheckedReaders>,
}

impl SamplesTable {
    pub(super) fn new(org: &str, snapshot: Arc<Snapshot>, readers: Arc<CheckedReaders>) -> SamplesTable {
        SamplesTable { org: org.to_owned(), snapshot, readers }
    }

    /// Where the rows of a user's metric in a window may lie.
    pub(super) fn locate(&self, user: &str, metric: &str, start: i64, end: i64) -> Located {
        let org = self.org.as_str();
        let groups = self.snapshot.buffers().flat_map(|buffer| buffer.find(org, user, metric, start, end));
        let files = self.snapshot.files.find(org, user, metric, start, end);
        Located { groups: groups.collect(), files, reads: Arc::default() }
    }

    /// A plan of one partition that gives the scan's rows with all columns,
    /// sorted by (recorded_at, source, device), each key once.
    pub(super) fn plan(
        &self,
        scan: &Scan,
        located: &Located,
        columns: &[&str],
    ) -> Result<Arc<dyn ExecutionPlan>> {
        let schema = samples_schema();
        let projection: Vec<usize> =
            columns.iter().map(|name| schema.index_of(name)).collect::<Result<_, _>>()?;
        let hiding = self.snapshot.hidden.of(&scan.org, &scan.metric, &scan.user);
        let hiding = hiding.as_ref();
        let mut inputs: Vec<Arc<dyn ExecutionPlan>> = Vec::new();
        let files: Vec<&Arc<DataFile>> = located.files.iter().filter(|file| overlaps(file, scan)).collect();
        let (runs, of_periods): (Vec<_>, Vec<_>) = files.into_iter().partition(|file| file.is_run());
        for files in [runs, of_periods].iter().filter(|files| !files.is_empty()) {
            inputs.push(self.file_scan(scan, files, &located.reads, projection.clone(), hiding)?);
        }
        let rows = sorted_rows(scan, &located.groups, hiding);
        if rows.num_rows() > 0 {
            inputs.push(MemorySourceConfig::try_new_exec(
                &[vec![rows]],
                schema.clone(),
                Some(projection.clone()),
            )?);
        }
        let single = match inputs.len() {
            0 => return Ok(Arc::new(EmptyExec::new(Arc::new(schema.project(&projection)?)))),
            1 => inputs.remove(0),
            _ => UnionExec::try_new(inputs)?,
        };
        let merged: Arc<dyn ExecutionPlan> = if single.properties().partitioning.partition_count() > 1 {
            Arc::new(SortPreservingMergeExec::new(series_order(&single.schema())?, single))
        } else {
            single
        };
        Ok(Arc::new(SupersedeExec::new(merged)?))
    }

    /// One partition per file: each is sorted in itself. All are runs, or none is.
    fn file_scan(
        &self,
        scan: &Scan,
        files: &[&Arc<DataFile>],
        reads: &Arc<Reads>,
        projection: Vec<usize>,
        hiding: Option<&Hiding>,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        let schema = samples_schema();
        let source = ParquetSource::new(schema.clone())
            .with_parquet_file_reader_factory(self.readers.clone())
            .with_predicate(predicate(scan, files[0].is_run(), hiding, &schema)?)
            .with_pushdown_filters(true)
            .with_enable_page_index(true)
            .with_bloom_filter_on_read(false);
        let groups = files.iter().map(|file| {
            let listed = PartitionedFile::new(file.record.path.clone(), file.record.bytes);
            FileGroup::new(vec![listed.with_extension(Arc::clone(file)).with_extension(Arc::clone(reads))])
        });
        let config = FileScanConfigBuilder::new(files_url(), Arc::new(source))
            .with_file_groups(groups.collect())
            .with_projection_indices(Some(projection))?
            .with_output_ordering(vec![series_order(&schema)?])
            .build();
        Ok(DataSourceExec::from_data_source(config))
    }
}

/// The parts of a snapshot that a query reads, found once.
#[derive(Clone, Debug)]
pub(super) struct Located {
    pub(super) groups: Vec<GroupRef>,
    pub(super) files: Vec<Arc<DataFile>>,
    /// Counts what is read of them.
    pub(super) reads: Arc<Reads>,
}

impl Located {
    /// The part of a window in which something may lie.
    pub(super) fn clip(&self, start: i64, end: i64) -> Option<(i64, i64)> {
        let files = self.files.iter().map(|file| (file.record.time_min, file.record.time_max));
        let groups = self.groups.iter().map(|found| {
            let group = found.group();
            (group.earliest, group.latest)
        });
        let spans = files.chain(groups);
        let (earliest, latest) = spans.reduce(|all, one| (all.0.min(one.0), all.1.max(one.1)))?;
        let clipped = (start.max(earliest), end.min(latest.saturating_add(1)));
        (clipped.0 < clipped.1).then_some(clipped)
    }
}

fn overlaps(file: &DataFile, scan: &Scan) -> bool {
    file.record.time_min < scan.end && file.record.time_max >= scan.start
}

/// The order of rows within one user and metric, in files and in memory.
fn series_order(schema: &SchemaRef) -> Result<LexOrdering> {
    let options = SortOptions { descending: false, nulls_first: true };
    let sort = |name: &str| -> Result<PhysicalSortExpr> {
        Ok(PhysicalSortExpr::new(Arc::new(Column::new_with_schema(name, schema)?), options))
    };
    let keys =
        ["recorded_at", "source", "device", "sequence"].map(sort).into_iter().collect::<Result<Vec<_>>>()?;
    LexOrdering::new(keys).ok_or_else(|| DataFusionError::Internal("an order of no columns".to_owned()))
}

/// `[org = o AND metric = m AND] user_id = u AND recorded_at >= start AND recorded_at < end [AND source = s]
/// [AND sequence < n]`, and nothing that is hidden.
/// Organisation and metric are constant in a file of a period, and asked of runs.
/// Pages are skipped by it and rows filtered, so it holds exactly.
fn predicate(
    scan: &Scan,
    of_run: bool,
    hiding: Option<&Hiding>,
    schema: &SchemaRef,
) -> Result<Arc<dyn PhysicalExpr>> {
    let compare = |name: &str, operator: Operator, value: ScalarValue| -> Result<Arc<dyn PhysicalExpr>> {
        let column = Arc::new(Column::new_with_schema(name, schema)?);
        Ok(Arc::new(PhysicalBinary::new(column, operator, Arc::new(Literal::new(value)))))
    };
    let text = |text: &str| {
        ScalarValue::Dictionary(Box::new(DataType::Int32), Box::new(ScalarValue::Utf8(Some(text.to_owned()))))
    };
    let plain = |text: &str| ScalarValue::Utf8(Some(text.to_owned()));
    let time = |ms: i64| ScalarValue::TimestampMillisecond(Some(ms), Some("UTC".into()));
    let start = scan.start.max(hiding.map_or(i64::MIN, Hiding::cutoff));
    let mut parts = Vec::new();
    if of_run {
        parts.push(compare("org", Operator::Eq, plain(&scan.org))?);
        parts.push(compare("metric", Operator::Eq, text(&scan.metric))?);
    }
    parts.extend([
        compare("user_id", Operator::Eq, text(&scan.user))?,
        compare("recorded_at", Operator::GtEq, time(start))?,
        compare("recorded_at", Operator::Lt, time(scan.end))?,
    ]);
    if let Some(source) = &scan.source {
        parts.push(compare("source", Operator::Eq, text(source))?);
    }
    if let Some(before) = scan.before {
        parts.push(compare("sequence", Operator::Lt, ScalarValue::UInt64(Some(before.0)))?);
    }
    if let Some(hiding) = hiding.filter(|hiding| hiding.through() > Sequence::ZERO) {
        parts.push(compare("sequence", Operator::Gt, ScalarValue::UInt64(Some(hiding.through().0)))?);
    }
    for range in hiding.map_or(&[][..], Hiding::ranges) {
        let outside = [
            compare("recorded_at", Operator::Lt, time(range.start))?,
            compare("recorded_at", Operator::GtEq, time(range.end))?,
            compare("sequence", Operator::Gt, ScalarValue::UInt64(Some(range.through.0)))?,
        ];
        let outside =
            outside.into_iter().reduce(|all, part| Arc::new(PhysicalBinary::new(all, Operator::Or, part)));
        parts.extend(outside);
    }
    let all = parts.into_iter().reduce(|all, part| Arc::new(PhysicalBinary::new(all, Operator::And, part)));
    all.ok_or_else(|| DataFusionError::Internal("a predicate of no parts".to_owned()))
}
