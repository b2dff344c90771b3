//! Questions around what is hidden: the newest value that still shows, and how much an
//! erasure took out of sight.
//!
//! The series map knows one newest value a metric. When a part of a series is deleted
//! it may be the deleted one; until the deletion is carried out and the map is right
//! again, such metrics are looked up in the samples. So are those whose newest value age
//! may have taken, under a rule that is no longer there.
//!
//! What an order took from one user is counted by point reads; what one took from all users
//! by a plan over the organisation, one at a time, on the threads of SQL statements.

use std::sync::Arc;

use arrow::array::AsArray;
use arrow::datatypes::{Float64Type, TimestampMillisecondType, UInt64Type};
use datafusion::common::ScalarValue;
use datafusion::logical_expr::{Expr, col, lit};

use super::answer::read_slice;
use super::chunk::SERIES_COLUMNS;
use super::window::{SLICE_FIRST_MS, Slices};
use super::{Order, QueryError, QueryPool, SamplesTable, Scan};
use crate::frame::{Erased, Sequence, Tombstone};
use crate::hidden::Hidden;
use crate::series::{LatestValue, Newest};
use crate::store::Snapshot;

impl QueryPool {
    /// `values` of the series map without what is hidden, and what shows instead.
    pub(super) async fn shown_latest(
        &self,
        org: &str,
        user: &str,
        hidden: &Hidden,
        mut values: Vec<LatestValue>,
    ) -> Result<Vec<LatestValue>, QueryError> {
        for value in take_hidden(org, user, hidden, &mut values) {
            values.extend(self.latest_left(org, user, value.metric).await?);
            values.sort_unstable_by(|a, b| a.metric.cmp(&b.metric));
        }
        Ok(values)
    }

    /// The newest value of a metric that shows, found among the samples.
    async fn latest_left(
        &self,
        org: &str,
        user: &str,
        metric: String,
    ) -> Result<Option<LatestValue>, QueryError> {
        let _permit = self.permit().await?;
        let (table, scan) = (self.table(org), whole(org, user, &metric));
        let runtime = self.runtime.as_ref().ok_or(QueryError::Stopping)?;
        let newest = runtime.spawn(async move { newest(&table, &scan).await });
        Ok(newest.await.map_err(|_| QueryError::Stopping)??.map(|newest| of_metric(metric, newest)))
    }

    /// The newest sample of a metric that is there, of whatever age. Runs on the calling
    /// thread, which must be none of a runtime.
    ///
    /// # Errors
    /// [`QueryError`].
    pub fn newest(&self, org: &str, user: &str, metric: &str) -> Result<Option<Newest>, QueryError> {
        self.newest_until(org, user, metric, i64::MAX)
    }

    /// As [`QueryPool::newest`], of those that were recorded at this time at the latest.
    ///
    /// # Errors
    /// [`QueryError`].
    pub fn newest_until(
        &self,
        org: &str,
        user: &str,
        metric: &str,
        last: i64,
    ) -> Result<Option<Newest>, QueryError> {
        let snapshot = self.store.snapshot();
        let hidden = Arc::new(snapshot.hidden.of_any_age(org));
        let snapshot = Arc::new(Snapshot { hidden, ..Snapshot::clone(&snapshot) });
        let table = SamplesTable::new(org, snapshot, self.footers.clone());
        let scan = Scan { end: last.saturating_add(1), ..whole(org, user, metric) };
        let runtime = self.runtime.as_ref().ok_or(QueryError::Stopping)?;
        runtime.block_on(newest(&table, &scan))
    }

    /// How many samples a tombstone took out of sight: those that showed before it. Of one
    /// user they are of those `metrics`. Of all users a sample is not counted that was sent
    /// again behind the tombstone and is in a file before this is asked.
    ///
    /// # Errors
    /// [`QueryError`].
    pub async fn count_erased(&self, tombstone: &Tombstone, metrics: Vec<String>) -> Result<u64, QueryError> {
        let snapshot = self.store.snapshot();
        let before = Arc::new(snapshot.hidden.before(tombstone));
        let snapshot = Arc::new(Snapshot { hidden: before, ..Snapshot::clone(&snapshot) });
        let Some(user) = tombstone.erased.user() else {
            let condition = covered_of_all(tombstone);
            return self.sql.count(&tombstone.org, snapshot, tombstone.sequence, condition).await;
        };
        let _permit = self.permit().await?;
        let table = SamplesTable::new(&tombstone.org, snapshot, self.footers.clone());
        let scans = metrics.iter().filter_map(|metric| covered(tombstone, user, metric));
        let scans: Vec<Scan> = scans.collect();
        let counting = async move {
            let mut total = 0;
            for scan in scans {
                total += count(&table, &scan).await?;
            }
            Ok(total)
        };
        let runtime = self.runtime.as_ref().ok_or(QueryError::Stopping)?;
        runtime.spawn(counting).await.map_err(|_| QueryError::Stopping)?
    }

    fn table(&self, org: &str) -> SamplesTable {
        SamplesTable::new(org, self.store.snapshot(), self.footers.clone())
    }
}

/// Takes out of a user's newest values what is hidden; those among them in whose place
/// another value may show, since they are being deleted or may be gone by their age.
pub(super) fn take_hidden(
    org: &str,
    user: &str,
    hidden: &Hidden,
    values: &mut Vec<LatestValue>,
) -> Vec<LatestValue> {
    if hidden.hides_user(org, user, Sequence(u64::MAX)) {
        values.clear();
    }
    // Asked once: mostly samples are kept for ever.
    let ages = hidden.drops(org);
    values.retain(|value| !ages || value.recorded_at >= hidden.cutoff(org, &value.metric));
    let may_be_gone = |value: &mut LatestValue| {
        hidden.deletes(org, user, value)
            || ages && hidden.may_be_dropped(org, &value.metric, value.recorded_at)
    };
    values.extract_if(.., may_be_gone).collect()
}

/// The newest value of a metric that shows, found among the samples.
pub(super) async fn newest_left(
    table: &SamplesTable,
    org: &str,
    user: &str,
    metric: String,
) -> Result<Option<LatestValue>, QueryError> {
    let newest = newest(table, &whole(org, user, &metric)).await?;
    Ok(newest.map(|newest| of_metric(metric, newest)))
}

fn of_metric(metric: String, newest: Newest) -> LatestValue {
    let Newest { value, recorded_at, sequence } = newest;
    LatestValue { metric, value, recorded_at, sequence }
}

fn whole(org: &str, user: &str, metric: &str) -> Scan {
    Scan {
        org: org.to_owned(),
        user: user.to_owned(),
        metric: metric.to_owned(),
        source: None,
        start: i64::MIN,
        end: i64::MAX,
        before: None,
    }
}

/// What a tombstone covers of a user's metric.
fn covered(tombstone: &Tombstone, user: &str, metric: &str) -> Option<Scan> {
    if !tombstone.erased.is_about(user, metric) {
        return None;
    }
    let (start, end) = match tombstone.erased {
        Erased::User { .. } => (i64::MIN, i64::MAX),
        Erased::Range { start, end, .. } => (start, end),
    };
    Some(Scan { start, end, before: Some(tombstone.sequence), ..whole(&tombstone.org, user, metric) })
}

/// What a tombstone covers of all users.
fn covered_of_all(tombstone: &Tombstone) -> Expr {
    let before = col("sequence").lt(lit(tombstone.sequence.0));
    let Erased::Range { metric, start, end, .. } = &tombstone.erased else { return before };
    let time = |time: i64| lit(ScalarValue::TimestampMillisecond(Some(time), Some("UTC".into())));
    let within = before.and(col("recorded_at").gt_eq(time(*start))).and(col("recorded_at").lt(time(*end)));
    match metric {
        Some(metric) => within.and(col("metric").eq(lit(metric.as_str()))),
        None => within,
    }
}

/// The newest row of a scan: of equal times the one that was received last.
async fn newest(table: &SamplesTable, scan: &Scan) -> Result<Option<Newest>, QueryError> {
    let mut best: Option<Newest> = None;
    each_slice(table, scan, Order::Descending, |batch| {
        let times = batch.column(0).as_primitive::<TimestampMillisecondType>();
        let values = batch.column(1).as_primitive::<Float64Type>();
        let sequences = batch.column(7).as_primitive::<UInt64Type>();
        for row in 0..batch.num_rows() {
            let (recorded_at, sequence) = (times.value(row), Sequence(sequences.value(row)));
            if best.is_none_or(|best| (best.recorded_at, best.sequence) < (recorded_at, sequence)) {
                best = Some(Newest { recorded_at, value: values.value(row), sequence });
            }
        }
        // Older slices hold nothing newer.
        best.is_none()
    })
    .await?;
    Ok(best)
}

async fn count(table: &SamplesTable, scan: &Scan) -> Result<u64, QueryError> {
    let mut rows = 0;
    each_slice(table, scan, Order::Ascending, |batch| {
        rows += batch.num_rows() as u64;
        true
    })
    .await?;
    Ok(rows)
}

/// Gives `take` the rows of a scan slice by slice; it says after each slice whether to
/// go on.
async fn each_slice(
    table: &SamplesTable,
    scan: &Scan,
    order: Order,
    mut take: impl FnMut(&arrow::array::RecordBatch) -> bool,
) -> Result<(), QueryError> {
    let located = table.locate(&scan.user, &scan.metric, scan.start, scan.end);
    let Some((start, end)) = located.clip(scan.start, scan.end) else { return Ok(()) };
    let mut slices = Slices::new(start, end, order, SLICE_FIRST_MS);
    while let Some(slice) = slices.next() {
        let part = Scan { start: slice.0, end: slice.1, ..scan.clone() };
        let Some(rows) = read_slice(table, &part, &located, &SERIES_COLUMNS, &mut slices)? else {
            continue;
        };
        if rows.num_rows() > 0 && !take(&rows) {
            break;
        }
        tokio::task::consume_budget().await;
    }
    Ok(())
}
