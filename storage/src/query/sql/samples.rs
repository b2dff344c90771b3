//! The table `samples` as SQL sees it: everything of one organisation.
//!
//! The plan has up to two branches. Files that hold each key once and share none with
//! others are one plain Parquet scan, which the planner may split, prune and filter as
//! it likes; everything else is a [`MergedExec`].

use std::sync::Arc;

use arrow::compute::SortOptions;
use arrow::datatypes::SchemaRef;
use async_trait::async_trait;
use datafusion::catalog::{Session, TableProvider};
use datafusion::common::stats::Precision;
use datafusion::common::{ScalarValue, Statistics};
use datafusion::datasource::TableType;
use datafusion::datasource::listing::PartitionedFile;
use datafusion::datasource::physical_plan::{
    FileGroup, FileGroupPartitioner, FileScanConfigBuilder, ParquetSource,
};
use datafusion::datasource::source::DataSourceExec;
use datafusion::datasource::table_schema::TableSchema;
use datafusion::error::{DataFusionError, Result};
use datafusion::logical_expr::{Expr, Operator, TableProviderFilterPushDown};
use datafusion::physical_expr::expressions::{BinaryExpr, Column, Literal};
use datafusion::physical_expr::utils::reassign_expr_columns;
use datafusion::physical_expr::{LexOrdering, PhysicalExpr, PhysicalSortExpr, conjunction};
use datafusion::physical_plan::ExecutionPlan;
use datafusion::physical_plan::empty::EmptyExec;
use datafusion::physical_plan::projection::ProjectionExec;
use datafusion::physical_plan::sorts::sort_preserving_merge::SortPreservingMergeExec;
use datafusion::physical_plan::union::UnionExec;

use super::buffered::BufferedExec;
use super::hidden::{ShownExec, may_hide};
use super::merged::MergedExec;
use super::parts::{Frames, Part, frames_of, parts_of};
use super::schema::{open_file_schema, run_schema, table_schema};
use super::wanted::{Wanted, decides_by_metric};
use crate::files::{DataFile, Section};
use crate::frame::{SamplesFrame, Sequence};
use crate::query::metadata::CheckedReaders;
use crate::query::pool::files_url;
use crate::query::supersede::SupersedeExec;
use crate::store::Snapshot;

/// The order of rows within one metric, in files and in memory.
const ORDER: [&str; 5] = ["user_id", "recorded_at", "source", "device", "sequence"];
/// Pieces a file is split into are not smaller than this: each opens it anew.
const SPLIT_BYTES_MIN: usize = 1024 * 1024;

/// Everything of one organisation over one snapshot; there is no other in it.
#[derive(Debug)]
pub struct OrgSamples {
    org: Arc<str>,
    snapshot: Arc<Snapshot>,
    /// What the buffers held when the statement began.
    frames: Frames,
    readers: Arc<CheckedReaders>,
}

impl OrgSamples {
    pub(super) fn new(org: &str, snapshot: Arc<Snapshot>, readers: Arc<CheckedReaders>) -> OrgSamples {
        let frames = frames_of(&snapshot, org);
        OrgSamples { org: org.into(), snapshot, frames, readers }
    }

    /// Without the frames of the buffers from `sequence` on.
    pub(super) fn before(self, sequence: Sequence) -> OrgSamples {
        let came_before = |frame: &&SamplesFrame| frame.header().stamp.sequence < sequence;
        OrgSamples { frames: self.frames.iter().filter(came_before).cloned().collect(), ..self }
    }

    fn plan(&self, wanted: &Wanted, columns: &[usize], partitions: usize) -> Result<Arc<dyn ExecutionPlan>> {
        let parts = parts_of(&self.snapshot, &self.org, &self.frames, wanted)?;
        let (direct, merged): (Vec<Part>, Vec<Part>) = parts.into_iter().partition(|part| {
            part.is_direct() && !part.files.iter().any(|section| may_hide(&self.snapshot.hidden, section))
        });
        let mut branches: Vec<Arc<dyn ExecutionPlan>> = Vec::new();
        if !direct.is_empty() {
            branches.push(self.direct(&direct, columns, partitions)?);
        }
        if !merged.is_empty() {
            let plans = merged
                .into_iter()
                .map(|part| Ok((part.rows(&self.frames), self.merge(part, wanted, columns)?)));
            let schema = Arc::new(table_schema().project(columns)?);
            branches.push(Arc::new(MergedExec::new(schema, plans.collect::<Result<_>>()?, partitions)));
        }
        match branches.len() {
            0 => Ok(Arc::new(EmptyExec::new(Arc::new(table_schema().project(columns)?)))),
            1 => Ok(branches.remove(0)),
            _ => UnionExec::try_new(branches),
        }
    }

    /// Files whose rows are the answer's, in any order.
    fn direct(&self, parts: &[Part], columns: &[usize], partitions: usize) -> Result<Arc<dyn ExecutionPlan>> {
        let files =
            parts.iter().flat_map(|part| part.files.iter().map(|it| self.listed(&part.metric, &it.file)));
        let whole = vec![FileGroup::new(files.collect())];
        let groups = FileGroupPartitioner::new()
            .with_target_partitions(partitions)
            .with_repartition_file_min_size(SPLIT_BYTES_MIN)
            .repartition_file_groups(&whole);
        let rows: u64 = parts.iter().flat_map(|part| &part.files).map(|section| section.rows).sum();
        let table = open_file_schema();
        let mut statistics = Statistics::new_unknown(table.table_schema());
        statistics.num_rows = Precision::Exact(usize::try_from(rows).unwrap_or(usize::MAX));
        let source = self.source(table.clone());
        let config = FileScanConfigBuilder::new(files_url(), Arc::new(source))
            .with_file_groups(groups.unwrap_or(whole))
            .with_statistics(statistics)
            .with_projection_indices(Some(places(columns, &table)?))?
            .build();
        Ok(DataSourceExec::from_data_source(config))
    }

    /// One part, merged, each key once.
    fn merge(&self, part: Part, wanted: &Wanted, columns: &[usize]) -> Result<Arc<dyn ExecutionPlan>> {
        let read = with_keys(columns)?;
        let mut inputs: Vec<Arc<dyn ExecutionPlan>> = Vec::new();
        let (files, groups) = (part.files.len(), part.groups.len());
        let (runs, of_periods): (Vec<&Section>, Vec<_>) = part.files.iter().partition(|it| it.file.is_run());
        for sections in [runs, of_periods].iter().filter(|sections| !sections.is_empty()) {
            inputs.push(self.sorted_files(&part.metric, sections, wanted, &read)?);
        }
        if groups > 0 {
            let buffered = BufferedExec::new(&self.org, &part.metric, &self.frames, part.groups, &read)?;
            inputs.push(Arc::new(buffered));
        }
        let mut plan = if inputs.len() == 1 { inputs.remove(0) } else { UnionExec::try_new(inputs)? };
        if plan.properties().partitioning.partition_count() > 1 {
            plan = Arc::new(SortPreservingMergeExec::new(file_order(&plan.schema())?, plan));
        }
        if files > 0 {
            plan = Arc::new(SupersedeExec::new(plan)?);
        }
        let hidden = &self.snapshot.hidden;
        if !hidden.is_empty(&self.org) || hidden.cutoff(&self.org, &part.metric) > i64::MIN {
            plan = Arc::new(ShownExec::new(plan, hidden.clone(), self.org.clone(), &part.metric)?);
        }
        let schema = plan.schema();
        let names = table_schema();
        let chosen = columns.iter().map(|&column| -> Result<(Arc<dyn PhysicalExpr>, String)> {
            let name = names.field(column).name();
            Ok((Arc::new(Column::new_with_schema(name, &schema)?), name.clone()))
        });
        Ok(Arc::new(ProjectionExec::try_new(chosen.collect::<Result<Vec<_>>>()?, plan)?))
    }

    /// One partition per file, each sorted in itself; all are runs, or none is. Rows that
    /// cannot be in the answer are left out by their key, so all that have one key are left
    /// out together. Of a run, all rows but those of the section are.
    fn sorted_files(
        &self,
        metric: &str,
        sections: &[&Section],
        wanted: &Wanted,
        columns: &[usize],
    ) -> Result<Arc<dyn ExecutionPlan>> {
        let groups = sections.iter().map(|it| FileGroup::new(vec![self.listed(metric, &it.file)]));
        let of_run = sections[0].file.is_run();
        let table = if of_run { run_schema() } else { open_file_schema() };
        let mut conditions = Vec::new();
        if of_run {
            conditions.push(equals("org", &self.org, table.table_schema())?);
            conditions.push(equals("metric", metric, table.table_schema())?);
        }
        if let Some(condition) = &wanted.of_key {
            conditions.push(reassign_expr_columns(condition.clone(), table.table_schema())?);
        }
        let mut source = self.source(table.clone());
        if !conditions.is_empty() {
            source = source.with_predicate(conjunction(conditions)).with_pushdown_filters(true);
        }
        let config = FileScanConfigBuilder::new(files_url(), Arc::new(source))
            .with_file_groups(groups.collect())
            .with_projection_indices(Some(places(columns, &table)?))?
            .with_output_ordering(vec![file_order(table.table_schema())?])
            .build();
        Ok(DataSourceExec::from_data_source(config))
    }

    fn source(&self, table: TableSchema) -> ParquetSource {
        ParquetSource::new(table)
            .with_parquet_file_reader_factory(self.readers.clone())
            .with_enable_page_index(true)
            .with_bloom_filter_on_read(false)
    }

    fn listed(&self, metric: &str, file: &Arc<DataFile>) -> PartitionedFile {
        let listed = PartitionedFile::new(file.record.path.clone(), file.record.bytes);
        let listed = listed.with_extension(Arc::clone(file));
        match file.is_run() {
            true => listed,
            false => listed.with_partition_values(vec![text(&self.org), text(metric)]),
        }
    }
}

fn text(text: &str) -> ScalarValue {
    ScalarValue::Utf8View(Some(text.to_owned()))
}

fn equals(name: &str, value: &str, schema: &SchemaRef) -> Result<Arc<dyn PhysicalExpr>> {
    let column = Arc::new(Column::new_with_schema(name, schema)?);
    Ok(Arc::new(BinaryExpr::new(column, Operator::Eq, Arc::new(Literal::new(text(value))))))
}

/// The places of the table's columns in what a file gives.
fn places(columns: &[usize], file: &TableSchema) -> Result<Vec<usize>> {
    let names = table_schema();
    let place = |&column: &usize| Ok(file.table_schema().index_of(names.field(column).name())?);
    columns.iter().map(place).collect()
}

/// `columns` and those that rows are merged by.
fn with_keys(columns: &[usize]) -> Result<Vec<usize>> {
    let names = table_schema();
    let mut all: Vec<usize> = ORDER.iter().map(|name| names.index_of(name)).collect::<Result<_, _>>()?;
    all.extend(columns);
    all.sort_unstable();
    all.dedup();
    Ok(all)
}

fn file_order(schema: &SchemaRef) -> Result<LexOrdering> {
    let options = SortOptions { descending: false, nulls_first: true };
    let sort = |name: &&str| -> Result<PhysicalSortExpr> {
        Ok(PhysicalSortExpr::new(Arc::new(Column::new_with_schema(name, schema)?), options))
    };
    let keys = ORDER.iter().map(sort).collect::<Result<Vec<_>>>()?;
    LexOrdering::new(keys).ok_or_else(|| DataFusionError::Internal("an order of no columns".to_owned()))
}

#[async_trait]
impl TableProvider for OrgSamples {
    fn schema(&self) -> SchemaRef {
        table_schema()
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
        let wanted = Wanted::new(session, filters)?;
        let all: Vec<usize> = (0..table_schema().fields().len()).collect();
        self.plan(&wanted, projection.unwrap_or(&all), session.config().target_partitions())
    }

    /// Conditions over organisation and metric choose files and groups, exactly; all
    /// others are asked here only to read less, and the planner asks them of each row.
    fn supports_filters_pushdown(&self, filters: &[&Expr]) -> Result<Vec<TableProviderFilterPushDown>> {
        let support = |filter: &&Expr| {
            if decides_by_metric(filter) {
                TableProviderFilterPushDown::Exact
            } else {
                TableProviderFilterPushDown::Inexact
            }
        };
        Ok(filters.iter().map(support).collect())
    }
}
