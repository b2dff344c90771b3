//! What is counted. Counting is an atomic addition; nothing here locks.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use systole_storage::SeriesStats;

/// Upper bounds of the latency buckets, seconds: a commit takes from a fraction
/// of a millisecond to the seconds of a drowning disk.
const SECONDS: &[f64] = &[0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0];

/// Counters at one moment.
#[derive(Clone, Debug, Default)]
pub struct Stats {
    /// Samples acknowledged since start.
    pub samples_accepted: u64,
    /// Requests committed since start.
    pub batches_committed: u64,
    /// Groups written, which is the number of syncs.
    pub commit_groups: u64,
    /// Bytes appended to the journal.
    pub journal_bytes: u64,
    /// Sealed and current segments of the journal.
    pub journal_segments: u64,
    /// Frames waiting in the ring.
    pub ring_frames: u64,
    /// Bytes of the body budget taken.
    pub body_budget_used_bytes: u64,
    /// Samples in buffers.
    pub buffer_samples: u64,
    /// Memory of buffers.
    pub buffer_bytes: u64,
    /// Flushes done.
    pub flushes: u64,
    /// Flushes that failed and are tried again.
    pub flush_failures: u64,
    /// Rows flushed.
    pub flushed_rows: u64,
    /// Bytes of the files that flushes wrote.
    pub flushed_bytes: u64,
    /// Compaction jobs done.
    pub compactions: u64,
    /// Compactions that failed and are tried again.
    pub compaction_failures: u64,
    /// Rows that compactions read.
    pub compaction_rows: u64,
    /// Bytes of the files that compactions read.
    pub compaction_read_bytes: u64,
    /// Bytes of the files that compactions wrote.
    pub compaction_written_bytes: u64,
    /// Runs, and how data files lie in periods.
    pub backlog: systole_storage::Backlog,
    /// Data files.
    pub files: u64,
    /// Files that were found damaged since the start.
    pub damaged_files: u64,
    /// Bytes of data files.
    pub file_bytes: u64,
    /// The map of newest values and spans.
    pub series: SeriesStats,
    /// Checkpoints of the map that failed and are tried again.
    pub checkpoint_failures: u64,
    /// Last committed sequence.
    pub sequence: u64,
    /// Last sequence that is in files.
    pub flushed_sequence: u64,
    /// From submission to acknowledgement, per request.
    pub commit_seconds: HistogramSnapshot,
    /// Write and sync of a group.
    pub fsync_seconds: HistogramSnapshot,
}

/// A histogram at one moment.
#[derive(Clone, Debug, Default)]
pub struct HistogramSnapshot {
    /// Upper bounds of the buckets, rising.
    pub bounds: &'static [f64],
    /// Observations per bucket; one more than bounds, for those above the last.
    pub counts: Vec<u64>,
    /// Sum of all observations.
    pub sum: f64,
    /// Number of observations.
    pub count: u64,
}

/// A histogram of durations.
#[derive(Debug)]
pub(crate) struct Histogram {
    counts: [AtomicU64; SECONDS.len() + 1],
    sum_nanos: AtomicU64,
}

impl Default for Histogram {
    fn default() -> Histogram {
        Histogram { counts: std::array::from_fn(|_| AtomicU64::new(0)), sum_nanos: AtomicU64::new(0) }
    }
}

impl Histogram {
    pub(crate) fn observe(&self, duration: Duration) {
        let seconds = duration.as_secs_f64();
        let bucket = SECONDS.partition_point(|&bound| bound < seconds);
        self.counts[bucket].fetch_add(1, Ordering::Relaxed);
        let nanos = u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX);
        self.sum_nanos.fetch_add(nanos, Ordering::Relaxed);
    }

    pub(crate) fn snapshot(&self) -> HistogramSnapshot {
        let counts: Vec<u64> = self.counts.iter().map(|count| count.load(Ordering::Relaxed)).collect();
        HistogramSnapshot {
            bounds: SECONDS,
            count: counts.iter().sum(),
            counts,
            sum: Duration::from_nanos(self.sum_nanos.load(Ordering::Relaxed)).as_secs_f64(),
        }
    }
}

/// Counters the committer and the flush thread raise.
#[derive(Debug, Default)]
pub(crate) struct Counters {
    pub(crate) samples_accepted: AtomicU64,
    pub(crate) batches_committed: AtomicU64,
    pub(crate) commit_groups: AtomicU64,
    pub(crate) journal_bytes: AtomicU64,
    pub(crate) journal_segments: AtomicU64,
    pub(crate) sequence: AtomicU64,
    pub(crate) flushes: AtomicU64,
    pub(crate) flush_failures: AtomicU64,
    pub(crate) flushed_rows: AtomicU64,
    pub(crate) flushed_bytes: AtomicU64,
    pub(crate) compactions: AtomicU64,
    pub(crate) compaction_failures: AtomicU64,
    pub(crate) compaction_rows: AtomicU64,
    pub(crate) compaction_read_bytes: AtomicU64,
    pub(crate) compaction_written_bytes: AtomicU64,
    pub(crate) flushed_sequence: AtomicU64,
    pub(crate) checkpoint_failures: AtomicU64,
    pub(crate) commit_seconds: Histogram,
    pub(crate) fsync_seconds: Histogram,
}
