//! When the series map is written down, and how a start brings in what came after.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::series_of_files::load_series;
use super::{Store, StoreError};
use crate::files::{DataFile, FileReadError};
use crate::frame::Sequence;
use crate::hidden::Hidden;
use crate::series::{CheckpointReport, SeriesError, SeriesMap};

impl Store {
    /// Writes a checkpoint of the series map if one is due: `None` if not. The
    /// flush thread's, to be called after each flush and about every second, since
    /// memory may demand one between flushes.
    ///
    /// # Errors
    /// [`StoreError::Series`]; the map goes on and the next call tries again.
    pub fn checkpoint_series_if_due(&self) -> Result<Option<CheckpointReport>, StoreError> {
        let flushed = self.flushed_position();
        if !self.series.is_checkpoint_due(flushed, self.rows_unchecked.load(Ordering::Relaxed)) {
            return Ok(None);
        }
        self.checkpoint_series(flushed, false).map(Some)
    }

    /// Writes a checkpoint of the series map, up to a position that is in files,
    /// so that a start reads only later files. With `rewrite` what was forgotten
    /// is gone from all checkpoints when this returns.
    ///
    /// # Errors
    /// [`StoreError::Series`]; the map goes on and nothing is lost.
    pub fn checkpoint_series(
        &self,
        position: Sequence,
        rewrite: bool,
    ) -> Result<CheckpointReport, StoreError> {
        // Taken, not read: another thread may write a checkpoint at the same time.
        let rows = self.rows_unchecked.swap(0, Ordering::Relaxed);
        self.series.checkpoint(position, rewrite).map_err(|error| {
            self.rows_unchecked.fetch_add(rows, Ordering::Relaxed);
            error.into()
        })
    }

    /// Writes a checkpoint before rows that are in none are merged with others: a start
    /// reads all of a file for the sake of one row that no checkpoint has.
    pub(super) fn checkpoint_before(&self, inputs: &[Arc<DataFile>]) -> Result<(), StoreError> {
        let position = self.series.position();
        let are_newer = inputs.iter().any(|file| file.record.sequence_last > position);
        let are_older = inputs.iter().any(|file| file.record.sequence_first <= position);
        if are_newer && are_older {
            self.checkpoint_series(self.flushed_position(), false)?;
        }
        Ok(())
    }

    /// Everything through this is in files.
    #[must_use]
    pub fn flushed_position(&self) -> Sequence {
        Sequence(self.flushed.load(Ordering::Acquire))
    }
}

/// Brings in the rows that are not in the checkpoints, from those files that have
/// some. Returns how many files were read.
pub(super) fn load_newer<'a>(
    series: &SeriesMap,
    files: impl Iterator<Item = &'a Arc<DataFile>>,
    hidden: &Hidden,
) -> Result<u64, FileReadError> {
    let position = series.position();
    let mut read = 0;
    for file in files.filter(|file| file.record.sequence_last > position) {
        load_series(series, file, position, hidden)?;
        read += 1;
        relieve(series, position);
    }
    Ok(read)
}

/// Makes room in the map at a start, when no flush thread runs yet.
pub(super) fn relieve(series: &SeriesMap, position: Sequence) {
    if series.is_pressing()
        && let Err(error) = series.checkpoint(position, false)
    {
        warn(&error);
    }
}

fn warn(error: &SeriesError) {
    let error: &dyn std::error::Error = error;
    tracing::warn!(error, "no checkpoint of the series map; going on with more memory");
}
