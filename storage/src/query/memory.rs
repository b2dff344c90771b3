//! Rows that are still in buffers, as a sorted batch.

use std::convert::Infallible;

use arrow::array::RecordBatch;

use super::table::Scan;
use crate::buffer::GroupRef;
use crate::files::ColumnsBuilder;
use crate::frame::Sequence;
use crate::hidden::Hiding;
use crate::merge::{Part, in_file_order};

/// The rows of `groups` that the scan wants, sorted by (time, source, device),
/// each key once. All groups are of the scan's user and metric.
pub(super) fn sorted_rows(scan: &Scan, groups: &[GroupRef], hiding: Option<&Hiding>) -> RecordBatch {
    let wanted = groups.iter().filter_map(|found| wanted(scan, found));
    let mut parts: Vec<Part<'_>> = match hiding {
        None => wanted.collect(),
        Some(hiding) => wanted.flat_map(|part| visible(part, hiding)).collect(),
    };
    let mut columns = ColumnsBuilder::new(&scan.org, &scan.metric);
    let sorted = in_file_order(&mut parts, Sequence(u64::MAX), |run| {
        columns.push(run);
        Ok::<(), Infallible>(())
    });
    let Ok(()) = sorted;
    columns.finish()
}

/// The parts of a part that are not hidden.
fn visible<'a>(part: Part<'a>, hiding: &Hiding) -> Vec<Part<'a>> {
    let sequence = part.frame.header().stamp.sequence;
    let shows = |row: &usize| !hiding.hides(part.frame.recorded_at(*row), sequence);
    let rows: Vec<usize> = part.rows.clone().filter(shows).collect();
    let runs = rows.chunk_by(|a, b| a + 1 == *b);
    runs.map(|run| Part { rows: run[0]..run[run.len() - 1] + 1, ..part.clone() }).collect()
}

/// How many rows of `groups` the scan wants, superseded ones counted.
pub(super) fn count_rows(scan: &Scan, groups: &[GroupRef]) -> usize {
    groups.iter().filter_map(|found| wanted(scan, found)).map(|part| part.rows.len()).sum()
}

/// The part of a group that lies in the scan's window.
fn wanted<'a>(scan: &Scan, found: &'a GroupRef) -> Option<Part<'a>> {
    let (frame, group) = (&found.frame, found.group());
    if scan.source.as_ref().is_some_and(|source| source != group.source) {
        return None;
    }
    if scan.before.is_some_and(|before| frame.header().stamp.sequence >= before) {
        return None;
    }
    let first_at = |time: i64| {
        let (mut low, mut high) = (group.first, group.first + group.count);
        while low < high {
            let middle = usize::midpoint(low, high);
            if frame.recorded_at(middle) < time {
                low = middle + 1;
            } else {
                high = middle;
            }
        }
        low
    };
    let rows = first_at(scan.start)..first_at(scan.end);
    (!rows.is_empty()).then_some(Part { frame, group, rows })
}
