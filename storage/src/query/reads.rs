//! What a query reads of files, counted while it does.
//!
//! Bytes and row groups are counted where ranges of a file are fetched, rows by
//! DataFusion's scan: those that its filters looked at. Both stand in the query's
//! trace (level debug).

use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use datafusion::physical_plan::ExecutionPlan;
use hashbrown::HashMap;
use parking_lot::Mutex;
use parquet::file::metadata::ParquetMetaData;

use super::SeriesQuery;

/// Counts of one query.
#[derive(Debug, Default)]
pub struct Reads {
    bytes: AtomicU64,
    rows: AtomicU64,
    slices: AtomicU64,
    /// By file, which of its row groups.
    row_groups: Mutex<HashMap<String, Vec<bool>>>,
}

impl Reads {
    /// Bytes fetched from files, the checks' whole blocks not counted.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.bytes.load(Ordering::Relaxed)
    }

    /// Rows of files that filters looked at.
    #[must_use]
    pub fn rows(&self) -> u64 {
        self.rows.load(Ordering::Relaxed)
    }

    /// Plans that were run: parts of the window.
    #[must_use]
    pub fn slices(&self) -> u64 {
        self.slices.load(Ordering::Relaxed)
    }

    /// Row groups that something was fetched of, by file.
    #[must_use]
    pub fn row_groups(&self) -> Vec<usize> {
        let files = self.row_groups.lock();
        files.values().map(|touched| touched.iter().filter(|touched| **touched).count()).collect()
    }

    /// A range of a file's bytes was fetched.
    pub(super) fn fetched(&self, path: &str, metadata: &ParquetMetaData, range: &Range<u64>) {
        self.bytes.fetch_add(range.end - range.start, Ordering::Relaxed);
        let mut files = self.row_groups.lock();
        let touched = match files.get_mut(path) {
            Some(touched) => touched,
            None => files.entry(path.to_owned()).or_insert(vec![false; metadata.num_row_groups()]),
        };
        for (group, touched) in metadata.row_groups().iter().zip(touched) {
            if !*touched
                && group.columns().iter().any(|column| {
                    let (start, length) = column.byte_range();
                    start < range.end && range.start < start + length
                })
            {
                *touched = true;
            }
        }
    }

    /// A plan has run to its end.
    pub(super) fn count_rows(&self, plan: &Arc<dyn ExecutionPlan>) {
        self.slices.fetch_add(1, Ordering::Relaxed);
        self.rows.fetch_add(looked_at(plan), Ordering::Relaxed);
    }

    pub(super) fn trace(&self, query: &SeriesQuery) {
        if !tracing::enabled!(tracing::Level::DEBUG) {
            return;
        }
        let row_groups = self.row_groups();
        tracing::debug!(
            metric = query.metric,
            slices = self.slices(),
            files = row_groups.len(),
            row_groups = row_groups.iter().sum::<usize>(),
            row_groups_of_a_file = row_groups.iter().max().copied().unwrap_or_default(),
            rows = self.rows(),
            bytes = self.bytes(),
            "query read",
        );
    }
}

fn looked_at(plan: &Arc<dyn ExecutionPlan>) -> u64 {
    let own = plan.metrics().map_or(0, |metrics| {
        let names = ["pushdown_rows_matched", "pushdown_rows_pruned"];
        names.iter().filter_map(|name| metrics.sum_by_name(name)).map(|sum| sum.as_usize() as u64).sum()
    });
    plan.children().into_iter().map(looked_at).sum::<u64>() + own
}
