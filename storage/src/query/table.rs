//! One user's samples of one metric, over one snapshot.

use std::sync::Arc;

use arrow::array::RecordBatch;
use arrow::compute::cast;
use arrow::datatypes::{Field, SchemaRef};
use arrow::error::ArrowError;
use datafusion::error::Result;

use super::footers::Footers;
use super::memory::sorted_rows;
use super::point::PointRead;
use super::reads::Reads;
use super::sorted::joined;
use crate::buffer::GroupRef;
use crate::files::{DataFile, samples_schema};
use crate::frame::Sequence;
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
    footers: Arc<Footers>,
}

impl SamplesTable {
    pub(super) fn new(org: &str, snapshot: Arc<Snapshot>, footers: Arc<Footers>) -> SamplesTable {
        SamplesTable { org: org.to_owned(), snapshot, footers }
    }

    /// Where the rows of a user's metric in a window may lie.
    pub(super) fn locate(&self, user: &str, metric: &str, start: i64, end: i64) -> Located {
        let org = self.org.as_str();
        let groups = self.snapshot.buffers().flat_map(|buffer| buffer.find(org, user, metric, start, end));
        let files = self.snapshot.files.find(org, user, metric, start, end);
        Located { groups: groups.collect(), files, reads: Arc::default() }
    }

    /// The scan's rows, sorted by (recorded_at, source, device), each key once, if they are not
    /// more than `most`. Reads where it is called.
    pub(super) fn read(&self, scan: &Scan, located: &Located, columns: &[&str], most: usize) -> Result<Rows> {
        let schema = Arc::new(samples_schema().project(&positions(columns)?)?);
        let hiding = self.snapshot.hidden.of(&scan.org, &scan.metric, &scan.user);
        let hiding = hiding.as_ref();
        let point = PointRead { footers: &self.footers, scan, hiding, reads: &located.reads, columns };
        let mut found: Vec<RecordBatch> = Vec::new();
        let mut rows = 0;
        for file in located.files.iter().filter(|file| overlaps(file, scan)) {
            point.file(file, &mut |batch| {
                rows += batch.num_rows();
                found.push(batch);
                rows <= most
            })?;
            if rows > most {
                return Ok(Rows::TooMany);
            }
        }
        let buffered = sorted_rows(scan, &located.groups, hiding);
        let parts = found.iter().chain([&buffered]).map(|part| projected(part, &schema));
        located.reads.slice();
        Ok(Rows::All(joined(&schema, parts.collect::<Result<_, _>>()?)?))
    }
}

/// What came of a scan.
pub(super) enum Rows {
    /// All its rows.
    All(RecordBatch),
    /// There are more than asked for at most.
    TooMany,
}

fn positions(columns: &[&str]) -> Result<Vec<usize>, ArrowError> {
    columns.iter().map(|name| samples_schema().index_of(name)).collect()
}

/// The columns of a schema, in its types.
fn projected(batch: &RecordBatch, schema: &SchemaRef) -> Result<RecordBatch, ArrowError> {
    let column = |field: &Arc<Field>| {
        let position = batch.schema_ref().index_of(field.name())?;
        let column = batch.column(position);
        if column.data_type() == field.data_type() {
            Ok(column.clone())
        } else {
            cast(column, field.data_type())
        }
    };
    RecordBatch::try_new(schema.clone(), schema.fields().iter().map(column).collect::<Result<_, _>>()?)
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
