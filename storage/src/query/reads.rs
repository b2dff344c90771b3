//! What a query reads of files, counted while it does.
//!
//! Rows are those of the pages that were decoded, wanted or not. All stands in the
//! query's trace (level debug).

use std::sync::atomic::{AtomicU64, Ordering};

use hashbrown::HashMap;
use parking_lot::Mutex;

use super::SeriesQuery;

/// Counts of one query.
#[derive(Debug, Default)]
pub struct Reads {
    bytes: AtomicU64,
    rows: AtomicU64,
    slices: AtomicU64,
    /// By file, which of its row groups.
    row_groups: Mutex<HashMap<String, Vec<usize>>>,
}

impl Reads {
    /// Bytes fetched from files, the checks' whole blocks not counted.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.bytes.load(Ordering::Relaxed)
    }

    /// Rows of files that were decoded.
    #[must_use]
    pub fn rows(&self) -> u64 {
        self.rows.load(Ordering::Relaxed)
    }

    /// Parts of the window that were read.
    #[must_use]
    pub fn slices(&self) -> u64 {
        self.slices.load(Ordering::Relaxed)
    }

    /// Row groups that something was fetched of, by file.
    #[must_use]
    pub fn row_groups(&self) -> Vec<usize> {
        let files = self.row_groups.lock();
        files.values().map(Vec::len).collect()
    }

    /// Bytes of a file were fetched.
    pub(super) fn fetched(&self, bytes: u64) {
        self.bytes.fetch_add(bytes, Ordering::Relaxed);
    }

    /// Something of a row group of a file is fetched.
    pub(super) fn row_group(&self, path: &str, index: usize) {
        let mut files = self.row_groups.lock();
        match files.get_mut(path) {
            Some(touched) if touched.contains(&index) => {}
            Some(touched) => touched.push(index),
            None => drop(files.insert(path.to_owned(), vec![index])),
        }
    }

    /// Rows were decoded.
    pub(super) fn looked_at(&self, rows: usize) {
        self.rows.fetch_add(rows as u64, Ordering::Relaxed);
    }

    /// A part of the window was read to its end.
    pub(super) fn slice(&self) {
        self.slices.fetch_add(1, Ordering::Relaxed);
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
