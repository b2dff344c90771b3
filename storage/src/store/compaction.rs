//! The store's side of compaction: a job from its inputs to the snapshot that has
//! its outputs, and the removal of what nobody reads any more.

use std::collections::HashSet;
use std::path::PathBuf;
use std::sync::Arc;

use super::start::{remove_abandoned, remove_for_good};
use super::{Snapshot, Store, StoreError};
use crate::attempts::AttemptFile;
use crate::catalog::FileRecord;
use crate::compact::{
    Backlog, CompactionReport, Hides, Job, MergeError, Numbers, Outputs, Work, merge, next_job, whole_store,
};
use crate::files::{DataFile, FileReadError};
use crate::frame::Sequence;

/// What a compaction asks while it goes on.
pub trait Pace {
    /// Called for each few thousand rows. Waits if the compaction is to take less of
    /// the machine; false ends it, and nothing has changed.
    fn go_on(&mut self, rows: u64) -> bool;

    /// Called before each file that [`Store::rewrite`] looks at. Merges may be done
    /// meanwhile.
    fn next_file(&mut self) {}
}

/// As fast as it can.
#[derive(Clone, Copy, Debug, Default)]
pub struct Unhurried;

impl Pace for Unhurried {
    fn go_on(&mut self, _: u64) -> bool {
        true
    }
}

/// Rows between two questions to the [`Pace`].
const PACE_ROWS: u64 = 16 * 1024;

impl Store {
    /// Does the most useful job of compaction, if there is one. The compaction
    /// thread's; one at a time.
    ///
    /// # Errors
    /// [`StoreError`]; then nothing changed.
    pub fn compact_some(
        &self,
        settled: Sequence,
        pace: &mut dyn Pace,
    ) -> Result<Option<CompactionReport>, StoreError> {
        let now = crate::catalog::now_ms();
        let hidden = self.hidden();
        loop {
            let files = self.snapshot().files.clone();
            let job = next_job(&files, now, &|org, metric| hidden.cutoff(org, metric));
            let Some(job) = job else { return Ok(None) };
            match self.compact(&job, settled, pace) {
                Err(StoreError::Read(error)) if leave_out(&job.inputs, &error) => {}
                done => return Ok(done?.map(|(report, _)| report)),
            }
        }
    }

    /// Brings every run into its periods, makes each partition one file without
    /// superseded rows, and rewrites every file that `rewrite` names; damaged files stay
    /// as they are. The compaction thread's. Ends early, with what it did, if the pace
    /// says so.
    ///
    /// # Errors
    /// [`StoreError`]; jobs that were done stay done.
    pub fn compact_whole(
        &self,
        settled: Sequence,
        rewrite: &dyn Fn(&DataFile) -> bool,
        pace: &mut dyn Pace,
    ) -> Result<CompactionReport, StoreError> {
        let mut total = CompactionReport::default();
        let mut written: HashSet<String> = HashSet::new();
        // What is flushed meanwhile is for the next compaction, or there would be no end.
        let present: HashSet<String> = self.snapshot().files.iter().map(path_of).collect();
        loop {
            let files = self.snapshot().files.clone();
            let done = |file: &DataFile| written.contains(&file.record.path);
            let meant =
                |file: &DataFile| present.contains(&file.record.path) || written.contains(&file.record.path);
            let Some(job) = whole_store(&files, &meant, rewrite, &done) else { break };
            let done = match self.compact(&job, settled, pace) {
                Err(StoreError::Read(error)) if leave_out(&job.inputs, &error) => continue,
                done => done?,
            };
            let Some((report, paths)) = done else { break };
            total = total.plus(report);
            written.extend(paths);
        }
        Ok(total)
    }

    /// Writes each of the files anew that `which` names, without what is hidden in it.
    /// The compaction thread's. Ends early if the pace says so. Returns damaged files,
    /// which stay as they are.
    ///
    /// What is merged meanwhile (see [`Pace::next_file`]) has lost what is hidden on its
    /// way; `which` is asked of the files it was merged from all the same, so that it
    /// knows every file that held something.
    ///
    /// # Errors
    /// [`StoreError`]; files that were replaced stay so.
    pub fn rewrite(
        &self,
        settled: Sequence,
        which: &dyn Fn(&Arc<DataFile>) -> Result<bool, StoreError>,
        pace: &mut dyn Pace,
    ) -> Result<Vec<Arc<DataFile>>, StoreError> {
        let files = self.snapshot().files.clone();
        let mut damaged = Vec::new();
        for file in files.iter() {
            if !pace.go_on(0) {
                break;
            }
            pace.next_file();
            let rewritten = which(file).and_then(|named| {
                let is_there = self.snapshot().files.contains(file);
                if named && is_there { self.rewrite_one(file, settled, pace) } else { Ok(()) }
            });
            match rewritten {
                Err(StoreError::Read(error)) if leave_out([file], &error) => damaged.push(file.clone()),
                rewritten => rewritten?,
            }
        }
        Ok(damaged)
    }

    fn rewrite_one(
        &self,
        file: &Arc<DataFile>,
        settled: Sequence,
        pace: &mut dyn Pace,
    ) -> Result<(), StoreError> {
        if self.is_aged(file) {
            return self.replace(std::slice::from_ref(file), Vec::new(), &[]);
        }
        let work = if file.is_run() { Work::Gather } else { Work::Period };
        self.compact(&Job { inputs: vec![file.clone()], work }, settled, pace).map(drop)
    }

    /// Whether all samples of a file are older than they are kept.
    #[must_use]
    pub fn is_aged(&self, file: &DataFile) -> bool {
        let hidden = self.hidden();
        let sections = &file.record.sections;
        !sections.is_empty()
            && sections.iter().all(|section| section.time_max < hidden.cutoff(&section.org, &section.metric))
    }

    /// Paths of files that were found damaged since the start, sorted.
    #[must_use]
    pub fn damaged_files(&self) -> Vec<String> {
        let snapshot = self.snapshot();
        let attempts = snapshot.attempts.iter().map(AttemptFile::data);
        let damaged = snapshot.files.iter().chain(attempts).filter(|file| file.is_damaged());
        let mut paths: Vec<String> = damaged.map(path_of).collect();
        paths.sort();
        paths
    }

    /// How much there is to compact.
    #[must_use]
    pub fn backlog(&self) -> Backlog {
        Backlog::of(&self.snapshot().files)
    }

    /// Runs that wait to be merged.
    #[must_use]
    pub fn backlog_runs(&self) -> u64 {
        self.snapshot.load().files.run_count()
    }

    /// One job; `None` if it was stopped. Returns what it did and the files it made.
    fn compact(
        &self,
        job: &Job,
        settled: Sequence,
        pace: &mut dyn Pace,
    ) -> Result<Option<(CompactionReport, Vec<String>)>, StoreError> {
        self.checkpoint_before(&job.inputs)?;
        let files = self.snapshot().files.clone();
        let places = |org: &str, metric: &str| job.places(&files, org, metric);
        let numbers = Numbers::new(&self.catalog);
        let mut outputs = Outputs::new(self.disk.as_ref(), &self.data_dir, numbers, job.levels(), &places);
        let mut unasked = 0;
        let hidden = self.hidden();
        let hides: &Hides<'_> = &|org, metric, user| {
            let hiding = hidden.of(org, metric, user)?;
            Some(Box::new(move |recorded_at, sequence| hiding.hides(recorded_at, sequence)))
        };
        let merged = merge::<MergeError>(&job.inputs, settled, hides, |block, rows| {
            unasked += rows.len() as u64;
            if unasked >= PACE_ROWS && !pace.go_on(std::mem::take(&mut unasked)) {
                return Err(MergeError::Stopped);
            }
            outputs.push(block, rows)
        });
        let finished = merged.and_then(|rows_read| Ok((rows_read, outputs.finish()?)));
        let (rows_read, (mut records, rows_written)) = match finished {
            Ok(finished) => finished,
            Err(error) => {
                self.abandon(outputs);
                return if let MergeError::Stopped = error { Ok(None) } else { Err(error.into()) };
            }
        };
        let numbers = outputs.into_numbers();
        if job.cleans_run() {
            records.iter_mut().for_each(|record| record.created_at = job.inputs[0].record.created_at);
        }
        let report = CompactionReport {
            jobs: 1,
            inputs: job.inputs.len() as u64,
            outputs: records.len() as u64,
            rows_read,
            rows_written,
            bytes_read: job.inputs.iter().map(|file| file.record.bytes).sum(),
            bytes_written: records.iter().map(|record| record.bytes).sum(),
        };
        let paths = records.iter().map(|record| record.path.clone()).collect();
        self.replace(&job.inputs, records, &numbers)?;
        Ok(Some((report, paths)))
    }

    /// Gives the room of a job back that did not get to its end. Best effort: a start
    /// removes what bears an unfinished number, and everything half written.
    fn abandon(&self, outputs: Outputs<'_>) {
        let (paths, numbers) = outputs.into_leftovers();
        let paths: Vec<PathBuf> = paths.iter().map(|path| self.data_dir.join(path)).collect();
        let removed = remove_for_good(self.disk.as_ref(), &paths);
        let forgotten =
            removed.and_then(|()| self.catalog.forget_unfinished(&numbers).map_err(StoreError::from));
        if let Err(error) = forgotten {
            tracing::warn!(error = &error as &dyn std::error::Error, "an unfinished compaction left files");
        }
    }

    /// Puts files in the place of others, in the catalog and then for readers.
    fn replace(
        &self,
        removed: &[Arc<DataFile>],
        added: Vec<FileRecord>,
        numbers: &[u64],
    ) -> Result<(), StoreError> {
        let paths: Vec<&str> = removed.iter().map(|file| file.record.path.as_str()).collect();
        if let Err(error) = self.catalog.replace_files(numbers, &paths, &added) {
            // A commit that failed may have become durable all the same.
            let listed = self.catalog.files()?;
            if listed.iter().any(|file| paths.contains(&file.path.as_str())) {
                return Err(error.into());
            }
        }
        let added: Vec<Arc<DataFile>> =
            added.into_iter().map(|record| Arc::new(self.data_file(record))).collect();
        self.snapshot.rcu(|snapshot| {
            let files = Arc::new(snapshot.files.without(removed).with(&added));
            Snapshot { files, ..Snapshot::clone(snapshot) }
        });
        self.graveyard.lock().extend(removed.iter().map(Arc::downgrade));
        Ok(())
    }

    /// Whether replaced files wait for their last reader.
    #[must_use]
    pub fn has_replaced_files(&self) -> bool {
        !self.graveyard.lock().is_empty()
    }

    /// Removes replaced files that nobody reads any more; returns how many. Removes also
    /// what a merge left that failed: nothing else would know of it when what it holds is
    /// erased. The compaction thread's.
    ///
    /// # Errors
    /// [`StoreError`]; what is left is removed by the next call or the next start.
    pub fn bury(&self) -> Result<usize, StoreError> {
        remove_abandoned(self.disk.as_ref(), &self.data_dir, &self.catalog)?;
        let unread = {
            let mut graveyard = self.graveyard.lock();
            let before = graveyard.len();
            graveyard.retain(|file| file.strong_count() > 0);
            before - graveyard.len()
        };
        if unread == 0 && !self.graveyard.lock().is_empty() {
            return Ok(0);
        }
        let waiting: HashSet<String> = {
            let graveyard = self.graveyard.lock();
            graveyard.iter().filter_map(|file| file.upgrade()).map(|file| file.record.path.clone()).collect()
        };
        let dead: Vec<String> =
            self.catalog.garbage()?.into_iter().filter(|path| !waiting.contains(path)).collect();
        let paths: Vec<PathBuf> = dead.iter().map(|path| self.data_dir.join(path)).collect();
        remove_for_good(self.disk.as_ref(), &paths)?;
        if !dead.is_empty() {
            self.catalog.forget_garbage(&dead)?;
        }
        Ok(dead.len())
    }
}

/// Whether an error says that one of `files` is damaged. It is known from then on, and
/// logged once.
pub(super) fn leave_out<'a>(
    files: impl IntoIterator<Item = &'a Arc<DataFile>>,
    error: &FileReadError,
) -> bool {
    let met = files.into_iter().find(|file| file.record.path == error.path());
    let Some(file) = met.filter(|file| error.is_damage(file)) else { return false };
    if file.set_damaged() {
        let (path, error) = (error.path(), error as &dyn std::error::Error);
        tracing::error!(path, error, "a data file is damaged; merges and erasures leave it out");
    }
    true
}

fn path_of(file: &Arc<DataFile>) -> String {
    file.record.path.clone()
}

impl From<MergeError> for StoreError {
    fn from(error: MergeError) -> StoreError {
        match error {
            MergeError::Read(error) => error.into(),
            MergeError::Write(error) => error.into(),
            MergeError::Catalog(error) => error.into(),
            MergeError::Stopped => unreachable!("a stop is no error to anybody"),
        }
    }
}
