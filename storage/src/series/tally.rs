//! What the map counts of itself. Counting is an atomic addition, and only where
//! something grew or changed its state.

use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};

use super::record::Measure;

/// Counters at one moment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SeriesStats {
    /// Users in memory.
    pub users: u64,
    /// Series in memory.
    pub series: u64,
    /// Memory of records, tables, and indexes of checkpoints.
    pub bytes: u64,
    /// Memory of records that no checkpoint has yet.
    pub dirty_bytes: u64,
    /// Users evicted since start.
    pub evictions: u64,
    /// Users read back since start.
    pub read_backs: u64,
    /// Bytes of checkpoint files written since start.
    pub checkpoint_bytes_written: u64,
    /// Checkpoint files.
    pub checkpoint_files: u64,
    /// Bytes of checkpoint files.
    pub checkpoint_bytes: u64,
}

#[derive(Debug, Default)]
pub(super) struct Tally {
    users: AtomicI64,
    series: AtomicI64,
    /// Of records and tables.
    bytes: AtomicI64,
    dirty_bytes: AtomicI64,
    dirty_users: AtomicI64,
    /// Of the indexes of checkpoint files.
    layer_bytes: AtomicU64,
    pub(super) evictions: AtomicU64,
    pub(super) read_backs: AtomicU64,
    pub(super) checkpoint_bytes_written: AtomicU64,
}

impl Tally {
    /// A record is there.
    pub(super) fn came(&self, record: Measure) {
        self.users.fetch_add(1, Ordering::Relaxed);
        self.changed(Measure::default(), record);
    }

    /// A record is gone.
    pub(super) fn went(&self, record: Measure) {
        self.users.fetch_sub(1, Ordering::Relaxed);
        self.changed(record, Measure::default());
    }

    /// A record is other than it was.
    pub(super) fn changed(&self, before: Measure, after: Measure) {
        if before == after {
            return;
        }
        let add = |to: &AtomicI64, before: usize, after: usize| {
            if before != after {
                to.fetch_add(after as i64 - before as i64, Ordering::Relaxed);
            }
        };
        let dirty = |measure: Measure| if measure.dirty { measure.bytes } else { 0 };
        add(&self.bytes, before.bytes, after.bytes);
        add(&self.series, before.series, after.series);
        add(&self.dirty_bytes, dirty(before), dirty(after));
        add(&self.dirty_users, usize::from(before.dirty), usize::from(after.dirty));
    }

    /// A table has another size.
    pub(super) fn table(&self, before: usize, after: usize) {
        self.bytes.fetch_add(after as i64 - before as i64, Ordering::Relaxed);
    }

    pub(super) fn layers(&self, bytes: usize) {
        self.layer_bytes.store(bytes as u64, Ordering::Relaxed);
    }

    /// All memory.
    pub(super) fn bytes(&self) -> usize {
        (read(&self.bytes) + self.layer_bytes.load(Ordering::Relaxed)) as usize
    }

    pub(super) fn dirty_bytes(&self) -> usize {
        read(&self.dirty_bytes) as usize
    }

    pub(super) fn dirty_users(&self) -> u64 {
        read(&self.dirty_users)
    }

    pub(super) fn series(&self) -> u64 {
        read(&self.series)
    }

    pub(super) fn stats(&self) -> SeriesStats {
        SeriesStats {
            users: read(&self.users),
            series: self.series(),
            bytes: self.bytes() as u64,
            dirty_bytes: read(&self.dirty_bytes),
            evictions: self.evictions.load(Ordering::Relaxed),
            read_backs: self.read_backs.load(Ordering::Relaxed),
            checkpoint_bytes_written: self.checkpoint_bytes_written.load(Ordering::Relaxed),
            ..SeriesStats::default()
        }
    }
}

/// Additions of several threads may be seen in another order.
fn read(counter: &AtomicI64) -> u64 {
    counter.load(Ordering::Relaxed).max(0).unsigned_abs()
}
