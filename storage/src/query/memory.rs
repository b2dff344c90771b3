//! Rows that are still in buffers, as a sorted batch.

use arrow::array::RecordBatch;

use super::table::Scan;
use crate::buffer::GroupRef;
use crate::files::{ColumnsBuilder, Row};

/// The rows of `groups` that the scan wants, sorted by (time, source, device,
/// sequence). All groups are of the scan's user and metric.
pub(super) fn sorted_rows(scan: &Scan, groups: &[GroupRef]) -> RecordBatch {
    let mut rows: Vec<Row<'_>> = Vec::new();
    // Groups come newest first; the other way round they are mostly sorted.
    for found in groups.iter().rev() {
        let group = found.group();
        if scan.source.as_ref().is_some_and(|source| source != group.source) {
            continue;
        }
        let stamp = found.frame.header().stamp;
        let wanted = group.rows().filter(|&row| scan.holds(found.frame.recorded_at(row)));
        rows.extend(wanted.map(|row| Row {
            user: group.user,
            unit: group.unit,
            recorded_at: found.frame.recorded_at(row),
            value: found.frame.value(row),
            source: group.source,
            device: group.device,
            zone_minutes: found.frame.zone(row),
            ended_at: found.frame.ended_at(row),
            is_daily_total: found.frame.is_daily_total(row),
            sequence: stamp.sequence,
            received_at: stamp.committed_at.div_euclid(1000),
        }));
    }
    let key = |row: &Row<'_>| (row.recorded_at, row.sequence);
    let order = |a: &Row<'_>, b: &Row<'_>| {
        (a.recorded_at, a.source, a.device, a.sequence).cmp(&(b.recorded_at, b.source, b.device, b.sequence))
    };
    if !rows.is_sorted_by(|a, b| key(a) <= key(b) && order(a, b).is_le()) {
        rows.sort_by(order);
    }
    let mut columns = ColumnsBuilder::new(&scan.org, &scan.metric);
    rows.iter().for_each(|row| columns.push(row));
    columns.finish()
}
