//! Checkpoints: the users that changed into a file, files into one, and which of
//! them count.
//!
//! A checkpoint takes the records that changed, shard by shard, which is the
//! order of the hash, and writes them as a delta; the catalog then lists it in
//! one transaction with the position. Deltas are merged with each other and with
//! the base by size. Until the transaction the old set counts, after it the new
//! one; files that are not listed are removed, at the latest by the next start.
//! A record is dirty until its delta is listed, so that nothing is evicted that
//! no reader finds.

use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use super::SeriesError;
use super::file::{LATEST_DIR, Layer, LayerWriter, begun, checkpoint_number, is_checkpoint};
use super::layers::{Layers, Merge};
use super::map::SeriesMap;
use super::record::{COMPLETE, DIRTY, Record, WRITING};
use super::shard::Shard;
use crate::catalog::CheckpointRecord;
use crate::frame::Sequence;

/// Part of the memory that may be dirty before a checkpoint is due.
const DIRTY_PART: usize = 4;
/// Eighths of the memory that are left when eviction has made room.
const ROOM_EIGHTHS: usize = 7;
/// How long after a checkpoint the next one may come that memory does not demand.
const PAUSE: Duration = Duration::from_secs(300);
/// Flushed rows from which the pause is not waited for: a start reads them in a
/// few seconds.
const ROWS_MAX: u64 = 16_000_000;

/// What a checkpoint did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CheckpointReport {
    /// Users written as changed.
    pub users: u64,
    /// Bytes written, those of merges included.
    pub bytes: u64,
    /// Files merged into others.
    pub merged: u64,
}

/// What the writer of checkpoints keeps from one to the next.
#[derive(Debug)]
pub(super) struct Writer {
    /// Of the next file.
    next_number: u64,
    /// Files that no longer count and are still there.
    gone: Vec<PathBuf>,
    /// Files whose transaction failed, which may have become durable all the same:
    /// they stay until another one says that they do not count.
    doubtful: Vec<PathBuf>,
    last: Instant,
    /// The shard at which making room begins.
    room_at: usize,
}

impl Default for Writer {
    fn default() -> Writer {
        Writer { next_number: 1, gone: Vec::new(), doubtful: Vec::new(), last: Instant::now(), room_at: 0 }
    }
}

impl SeriesMap {
    /// Writes what changed since the last checkpoint and merges files where that
    /// is due. `position` is one up to which every update was taken in. With
    /// `rewrite` all files become one, which no longer has what was forgotten, and
    /// those before it are gone so that no power loss brings one back. One at a time;
    /// reads and updates go on beside it.
    ///
    /// # Errors
    /// [`SeriesError`]; then what was not written is still dirty, and with `rewrite`
    /// older files may be left.
    pub fn checkpoint(&self, position: Sequence, rewrite: bool) -> Result<CheckpointReport, SeriesError> {
        let mut writer = self.writer.lock();
        let mut report = CheckpointReport::default();
        self.remove_gone(&mut writer);
        self.write_delta(&mut writer, position, &mut report)?;
        if rewrite && !self.layers.load().files.is_empty() {
            self.merge(&mut writer, 0, &mut report)?;
        }
        loop {
            let due = self.layers.load().due();
            let Some(first) = due else { break };
            self.merge(&mut writer, first, &mut report)?;
        }
        writer.last = Instant::now();
        self.make_room(&mut writer);
        if rewrite {
            self.remove_for_good(&mut writer)?;
        }
        Ok(report)
    }

    /// Whether a checkpoint should be written: memory demands it, or a start would
    /// have much to bring in. `flushed` is what is in files, `rows` how many of
    /// those are not in a checkpoint.
    #[must_use]
    pub fn is_checkpoint_due(&self, flushed: Sequence, rows: u64) -> bool {
        if self.is_pressing() {
            return true;
        }
        let behind = flushed > self.position();
        behind && (rows >= ROWS_MAX || self.writer.lock().last.elapsed() >= PAUSE)
    }

    /// Whether memory demands a checkpoint, because what cannot be evicted is too
    /// much of it.
    #[must_use]
    pub fn is_pressing(&self) -> bool {
        let dirty = self.tally.dirty_bytes();
        let part = self.bytes_max / DIRTY_PART;
        dirty >= part || self.over_bound() && dirty >= part / DIRTY_PART
    }

    /// Opens what the catalog lists and takes as many users into memory as leaves
    /// room for new ones.
    pub(super) fn load(&self) -> Result<(), SeriesError> {
        let (records, position) = self.catalog.checkpoints()?;
        let mut files = Vec::with_capacity(records.len());
        for record in records {
            let mut writer = self.writer.lock();
            writer.next_number = checkpoint_number(&record.path).unwrap_or(0).max(writer.next_number) + 1;
            files.push(Arc::new(Layer::open(self.disk.as_ref(), &self.data_dir, record)?));
        }
        let layers = Layers { files, position };
        self.publish(layers);
        let layers = self.layers.load_full();
        let mut merge = Merge::new(&layers.files, Vec::new(), 0, u64::MAX)?;
        while self.tally.bytes() < self.bytes_max / 4 * 3
            && let Some(mut record) = merge.next()?
        {
            record.set(COMPLETE);
            let mut shard = self.shard(record.view().hash());
            self.insert(&mut shard, record);
        }
        Ok(())
    }

    /// Removes files of checkpoints that did not get to be listed or no longer are.
    pub(super) fn remove_leftovers(&self) -> Result<(), SeriesError> {
        let folder = self.data_dir.join(LATEST_DIR);
        let layers = self.layers.load();
        let listed = self.disk.list(&folder).map_err(|source| SeriesError::Io { path: folder, source })?;
        let listed_here = |path: &PathBuf| layers.files.iter().any(|layer| layer.path == *path);
        for path in listed.into_iter().filter(|path| is_checkpoint(path) && !listed_here(path)) {
            self.disk.remove(&path).map_err(|source| SeriesError::Io { path, source })?;
        }
        Ok(())
    }

    fn write_delta(
        &self,
        writer: &mut Writer,
        position: Sequence,
        report: &mut CheckpointReport,
    ) -> Result<(), SeriesError> {
        let layers = self.layers.load_full();
        let position = position.max(layers.position);
        let written = self.written_delta(writer, layers, position);
        if let Ok(Some(layer)) = &written {
            report.users += layer.record.users;
            report.bytes += layer.record.bytes;
        }
        self.settle(written.is_ok());
        written.map(drop)
    }

    /// The delta, listed and published; `None` if nothing had changed.
    fn written_delta(
        &self,
        writer: &mut Writer,
        layers: Arc<Layers>,
        position: Sequence,
    ) -> Result<Option<Arc<Layer>>, SeriesError> {
        let kind = if layers.files.is_empty() { "base" } else { "delta" };
        let users = self.tally.dirty_users();
        let layer = self.write(writer, users, kind, position, |file| {
            for shard in &self.shards {
                let changed = self.take_changed(&mut shard.lock());
                for record in sorted(changed) {
                    file.add(record.view())?;
                }
            }
            Ok(())
        })?;
        if layer.is_none() && position == layers.position {
            return Ok(None);
        }
        let mut files = layers.files.clone();
        files.extend(layer.clone());
        self.replace(writer, layer.as_ref(), Layers { files, position }, Vec::new())?;
        Ok(layer)
    }

    /// Copies of what changed in a shard, which is being written from now on.
    fn take_changed(&self, shard: &mut Shard) -> Vec<Record> {
        let mut changed = Vec::new();
        for record in shard.records_mut().iter_mut().filter(|record| record.view().has(DIRTY)) {
            changed.push(Record::copy(record.view()));
            let before = record.measure();
            record.clear(DIRTY);
            record.set(WRITING);
            self.tally.changed(before, record.measure());
        }
        changed
    }

    /// Ends the writing of records: they are covered, or dirty again.
    fn settle(&self, covered: bool) {
        for shard in &self.shards {
            let mut shard = shard.lock();
            for record in shard.records_mut().iter_mut().filter(|record| record.view().has(WRITING)) {
                let before = record.measure();
                record.clear(WRITING);
                if !covered {
                    record.set(DIRTY);
                }
                self.tally.changed(before, record.measure());
            }
        }
    }

    /// Merges the files from place `first` on into one.
    fn merge(
        &self,
        writer: &mut Writer,
        first: usize,
        report: &mut CheckpointReport,
    ) -> Result<(), SeriesError> {
        let layers = self.layers.load_full();
        let (kept, merged) = layers.files.split_at(first);
        let is_base = kept.is_empty();
        let users = merged.iter().map(|layer| layer.record.users).sum();
        let position = merged.iter().map(|layer| layer.record.sequence).max().unwrap_or_default();
        let kind = if is_base { "base" } else { "delta" };
        let layer = self.write(writer, users, kind, position, |file| {
            let mut merge = Merge::new(merged, Vec::new(), 0, u64::MAX)?;
            while let Some(mut record) = merge.next()? {
                if is_base {
                    record.set(COMPLETE);
                }
                // Nothing is left under a base that an empty record could hide.
                if !is_base || !record.view().is_empty() {
                    file.add(record.view())?;
                }
            }
            Ok(())
        })?;
        let mut files = kept.to_vec();
        files.extend(layer.clone());
        report.merged += merged.len() as u64;
        report.bytes += layer.as_ref().map_or(0, |layer| layer.record.bytes);
        let gone = merged.iter().map(|layer| layer.path.clone()).collect();
        self.replace(writer, layer.as_ref(), Layers { files, position: layers.position }, gone)
    }

    /// Writes a file that is durable and not listed yet; `None` if nothing was
    /// added to it.
    fn write(
        &self,
        writer: &mut Writer,
        users: u64,
        kind: &'static str,
        sequence: Sequence,
        fill: impl FnOnce(&mut LayerWriter) -> Result<(), SeriesError>,
    ) -> Result<Option<Arc<Layer>>, SeriesError> {
        if users == 0 {
            return Ok(None);
        }
        let number = writer.next_number;
        writer.next_number += 1;
        let disk = self.disk.as_ref();
        let written = LayerWriter::create(disk, &self.data_dir, number, users).and_then(|mut file| {
            fill(&mut file)?;
            if file.users() == 0 { Ok(None) } else { file.finish(disk, kind, sequence).map(Some) }
        });
        let layer = match written {
            Ok(Some(layer)) => layer,
            other => {
                writer.gone.extend(begun(&self.data_dir, number));
                self.remove_gone(writer);
                return other.map(|_| None);
            }
        };
        self.tally.checkpoint_bytes_written.fetch_add(layer.record.bytes, Ordering::Relaxed);
        Ok(Some(Arc::new(layer)))
    }

    /// Makes other files count: in the catalog, then for readers; then those that
    /// no longer do are removed.
    fn replace(
        &self,
        writer: &mut Writer,
        added: Option<&Arc<Layer>>,
        layers: Layers,
        gone: Vec<PathBuf>,
    ) -> Result<(), SeriesError> {
        let records: Vec<CheckpointRecord> = layers.files.iter().map(|layer| layer.record.clone()).collect();
        if let Err(error) = self.catalog.replace_checkpoints(&records, layers.position) {
            writer.doubtful.extend(added.map(|layer| layer.path.clone()));
            return Err(error.into());
        }
        self.publish(layers);
        let Writer { gone: all, doubtful, .. } = writer;
        all.extend(gone.into_iter().chain(doubtful.drain(..)));
        self.remove_gone(writer);
        Ok(())
    }

    /// Removes files that no longer count; what cannot be removed is tried again
    /// at the next checkpoint.
    fn remove_gone(&self, writer: &mut Writer) {
        writer.gone.retain(|path| match self.disk.remove(path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                tracing::warn!(path = %path.display(), %error, "a checkpoint that does not count cannot be removed yet");
                true
            }
            _ => false,
        });
    }

    /// Removes what no longer counts and sees to it that no power loss brings it back,
    /// nor what was removed before.
    fn remove_for_good(&self, writer: &mut Writer) -> Result<(), SeriesError> {
        self.remove_gone(writer);
        let folder = self.data_dir.join(LATEST_DIR);
        if let Some(path) = writer.gone.first() {
            let source = io::Error::other("it was replaced and cannot be removed");
            return Err(SeriesError::Io { path: path.clone(), source });
        }
        match self.disk.sync_dir(&folder) {
            Err(source) if source.kind() != io::ErrorKind::NotFound => {
                Err(SeriesError::Io { path: folder, source })
            }
            _ => Ok(()),
        }
    }

    fn publish(&self, layers: Layers) {
        self.tally.layers(layers.byte_len());
        self.layers.store(Arc::new(layers));
    }

    /// Evicts what was not used for a round, so that updates need not.
    fn make_room(&self, writer: &mut Writer) {
        let wanted = self.bytes_max / 8 * ROOM_EIGHTHS;
        // The first round forgets who was used, the second evicts.
        for _ in 0..2 * self.shards.len() {
            if self.tally.bytes() <= wanted {
                return;
            }
            writer.room_at = (writer.room_at + 1) % self.shards.len();
            let mut shard = self.shards[writer.room_at].lock();
            let steps = shard.records().len();
            self.evict(&mut shard, wanted, steps);
        }
    }
}

fn sorted(mut records: Vec<Record>) -> Vec<Record> {
    records.sort_unstable_by(|a, b| a.view().key().cmp(&b.view().key()));
    records
}
