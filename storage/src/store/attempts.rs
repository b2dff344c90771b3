//! Delivery attempts in the store: visible when they are committed, in files after a
//! flush, merged and aged by the compaction thread, gone with the user they are about.

use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::compaction::leave_out;
use super::start::{present, remove_for_good};
use super::{Pace, Snapshot, Store, StoreError};
use crate::attempts::{
    AttemptFile, AttemptOutcomes, AttemptPage, AttemptQuery, AttemptSet, DAYS_KEPT, MergeHalt, attempt_path,
    due_merge, erased_rows, merge_files, outcomes, page, row_is_hidden,
};
use crate::catalog::{AttemptFileRecord, Catalog};
use crate::compact::CompactionReport;
use crate::disk::Disk;
use crate::files::{DAY_MS, Period, sync_folders_of, temporary};
use crate::frame::{AttemptRow, AttemptsFrame, Tombstone};
use crate::hidden::Hidden;

/// A file of attempts that was written anew, or removed, because it held rows about
/// erased users.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ErasedAttempts {
    /// Which, below the data dir.
    pub path: String,
    /// How many rows each of the orders took away.
    pub rows: Vec<u64>,
}

/// The catalog's files of attempts, each there with its length.
pub(super) fn present_attempts(
    disk: &Arc<dyn Disk>,
    data_dir: &Path,
    catalog: &Catalog,
) -> Result<AttemptSet, StoreError> {
    let mut files = Vec::new();
    for record in catalog.attempt_files()? {
        let file = AttemptFile::new(disk.clone(), data_dir, record);
        present(disk, file.data())?;
        files.push(file);
    }
    Ok(AttemptSet::default().with(&files))
}

impl Store {
    /// The page of attempts that a query asks for; those about erased users are left out.
    ///
    /// # Errors
    /// [`StoreError::Read`].
    pub fn attempts(&self, query: &AttemptQuery) -> Result<AttemptPage, StoreError> {
        Ok(page(&self.snapshot(), query)?)
    }

    /// Of each message with a place in `sequences` that was sent to an endpoint, whether
    /// any attempt succeeded. What has no place is left out. Ends before the frame with
    /// which there would be more than `most`, but not before the second that has any.
    ///
    /// # Errors
    /// [`StoreError::Read`].
    pub fn attempt_outcomes(
        &self,
        org: &str,
        endpoint: &str,
        sequences: RangeInclusive<u64>,
        most: usize,
    ) -> Result<AttemptOutcomes, StoreError> {
        Ok(outcomes(&self.snapshot(), org, endpoint, sequences, most)?)
    }

    /// Makes durable attempts visible. The committer's, and recovery's.
    pub(super) fn publish_attempts(&self, frame: &AttemptsFrame) {
        self.snapshot.load().active.publish_attempts(frame);
    }

    /// Removes files of attempts of days that are over for longer than attempts are
    /// kept, or does one merge that is due; `None` if there is nothing to do, or the
    /// pace said so. The compaction thread's.
    ///
    /// # Errors
    /// [`StoreError`]; then nothing changed.
    pub fn compact_attempts(
        &self,
        now_ms: i64,
        pace: &mut dyn Pace,
    ) -> Result<Option<CompactionReport>, StoreError> {
        let attempts = self.snapshot().attempts.clone();
        let aged: Vec<AttemptFile> = attempts.iter().filter(|file| is_aged(file, now_ms)).cloned().collect();
        if !aged.is_empty() {
            self.replace_attempts(&aged, None, &[])?;
            return Ok(Some(report(&aged, None, 0)));
        }
        loop {
            let Some(files) = due_merge(&attempts, now_ms) else { return Ok(None) };
            let level = files.iter().map(|file| file.record().level).max().unwrap_or_default() + 1;
            match self.rewrite_attempts(&files, level, &|_| true, pace) {
                Err(StoreError::Read(error)) if leave_out(files.iter().map(AttemptFile::data), &error) => {}
                done => return done,
            }
        }
    }

    /// Takes rows about erased users out of the files. The compaction thread's. Ends
    /// early if the pace says so. Returns damaged files, which stay as they are.
    ///
    /// # Errors
    /// [`StoreError`]; files that were replaced stay so, and `done` was told of each.
    pub fn erase_attempts(
        &self,
        orders: &[Arc<Tombstone>],
        pace: &mut dyn Pace,
        done: &mut dyn FnMut(ErasedAttempts),
    ) -> Result<Vec<AttemptFile>, StoreError> {
        let hidden = Hidden::of_all(orders);
        let attempts = self.snapshot().attempts.clone();
        let mut damaged = Vec::new();
        for file in attempts.iter() {
            if !pace.go_on(0) {
                break;
            }
            match self.erase_from(file, orders, &hidden, pace) {
                Ok(erased) => erased.into_iter().for_each(&mut *done),
                Err(StoreError::Read(error)) if leave_out([file.data()], &error) => {
                    damaged.push(file.clone())
                }
                Err(error) => return Err(error),
            }
        }
        Ok(damaged)
    }

    /// Takes rows that are hidden out of one file; `None` if it has none, or the pace
    /// ended it.
    fn erase_from(
        &self,
        file: &AttemptFile,
        orders: &[Arc<Tombstone>],
        hidden: &Hidden,
        pace: &mut dyn Pace,
    ) -> Result<Option<ErasedAttempts>, StoreError> {
        let rows = erased_rows(file, orders)?;
        if rows.iter().all(|&rows| rows == 0) {
            return Ok(None);
        }
        let kept = |row: &AttemptRow<&str>| !row_is_hidden(hidden, &file.record().org, row);
        let level = file.record().level.max(1);
        let written = self.rewrite_attempts(std::slice::from_ref(file), level, &kept, pace)?;
        Ok(written.map(|_| ErasedAttempts { path: file.record().path.clone(), rows }))
    }

    /// Puts one file in the place of others; `None` if the pace ended it.
    fn rewrite_attempts(
        &self,
        files: &[AttemptFile],
        level: u32,
        kept: &dyn Fn(&AttemptRow<&str>) -> bool,
        pace: &mut dyn Pace,
    ) -> Result<Option<CompactionReport>, StoreError> {
        let number = self.catalog.begin_compaction()?;
        let (disk, root) = (self.disk.as_ref(), self.data_dir.as_path());
        let merged = merge_files((disk, root), files, (level, number), kept, &mut |rows| pace.go_on(rows));
        let merged = merged.and_then(|merged| {
            let path = merged.file.iter().map(|file| file.file.path.as_str());
            sync_folders_of(disk, root, path)?;
            Ok(merged)
        });
        match merged {
            Ok(merged) => {
                let report = report(files, merged.file.as_ref(), merged.rows_read);
                self.replace_attempts(files, merged.file, &[number])?;
                Ok(Some(report))
            }
            Err(halt) => {
                let record = files[0].record();
                self.abandon_attempts(&record.org, &record.period, level, number);
                match halt {
                    MergeHalt::Stopped => Ok(None),
                    MergeHalt::Read(error) => Err(error.into()),
                    MergeHalt::Write(error) => Err(error.into()),
                }
            }
        }
    }

    /// Gives the room of a merge back that did not get to its end. Best effort, as for
    /// files of samples.
    fn abandon_attempts(&self, org: &str, day: &str, level: u32, number: u64) {
        let path = attempt_path(org, day, level, number);
        let paths: Vec<PathBuf> =
            [temporary(&path), path].iter().map(|path| self.data_dir.join(path)).collect();
        let removed = remove_for_good(self.disk.as_ref(), &paths);
        let forgotten =
            removed.and_then(|()| self.catalog.forget_unfinished(&[number]).map_err(StoreError::from));
        if let Err(error) = forgotten {
            tracing::warn!(
                error = &error as &dyn std::error::Error,
                "an unfinished merge of attempts left files"
            );
        }
    }

    fn replace_attempts(
        &self,
        removed: &[AttemptFile],
        added: Option<AttemptFileRecord>,
        numbers: &[u64],
    ) -> Result<(), StoreError> {
        let paths: Vec<&str> = removed.iter().map(|file| file.record().path.as_str()).collect();
        if let Err(error) = self.catalog.replace_attempt_files(numbers, &paths, added.as_slice()) {
            // A commit that failed may have become durable all the same.
            let listed = self.catalog.attempt_files()?;
            if listed.iter().any(|attempts| paths.contains(&attempts.file.path.as_str())) {
                return Err(error.into());
            }
        }
        let added: Vec<AttemptFile> = added.into_iter().map(|record| self.attempt_file(record)).collect();
        self.snapshot.rcu(|snapshot| {
            let attempts = Arc::new(snapshot.attempts.without(removed).with(&added));
            Snapshot { attempts, ..Snapshot::clone(snapshot) }
        });
        self.graveyard.lock().extend(removed.iter().map(|file| Arc::downgrade(file.data())));
        Ok(())
    }

    pub(super) fn attempt_file(&self, record: AttemptFileRecord) -> AttemptFile {
        AttemptFile::new(self.disk.clone(), &self.data_dir, record)
    }
}

/// Whether a file's day is over for longer than attempts are kept.
fn is_aged(file: &AttemptFile, now_ms: i64) -> bool {
    let day = Period::parse(&file.record().period);
    day.is_some_and(|day| day.times().end.saturating_add(DAYS_KEPT * DAY_MS) <= now_ms)
}

fn report(read: &[AttemptFile], written: Option<&AttemptFileRecord>, rows_read: u64) -> CompactionReport {
    CompactionReport {
        jobs: 1,
        inputs: read.len() as u64,
        outputs: u64::from(written.is_some()),
        rows_read,
        rows_written: written.map_or(0, |file| file.file.rows),
        bytes_read: read.iter().map(|file| file.record().bytes).sum(),
        bytes_written: written.map_or(0, |file| file.file.bytes),
    }
}
