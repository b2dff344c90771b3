//! The flush thread: frozen buffers into files, oldest first.
//!
//! A flush that fails is logged, counted and tried again after a pause; its
//! buffer stays readable and its journal segments stay.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::time::{Duration, Instant};

use systole_storage::buffer::Buffer;
use systole_storage::{FlushReport, Sequence, Store, StoreError};
use tokio::sync::oneshot;

use crate::commit::Intake;
use crate::compactor::CompactorHandle;
use crate::stats::Counters;

/// Pause after a failed flush; doubles up to [`RETRY_MAX`].
const RETRY_MIN: Duration = Duration::from_millis(500);
/// Longest pause: how long after space is back a full disk is noticed.
const RETRY_MAX: Duration = Duration::from_secs(15);
/// How long the thread sleeps when nothing is to do.
const IDLE: Duration = Duration::from_secs(3600);

/// Who waits for a flush.
pub(crate) type FlushReply = oneshot::Sender<Result<FlushReport, FlushError>>;

/// Why a flush that was asked for did not happen. The samples are safe in the
/// journal, and the flush is tried again in the background.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FlushError {
    /// The disk is full.
    #[error("the disk is full")]
    DiskFull,
    /// The server is stopping.
    #[error("the server is stopping")]
    Stopping,
    /// Something else failed.
    #[error("the flush failed: {reason}")]
    Failed {
        /// The chain of causes.
        reason: String,
    },
}

/// Work for the flush thread.
#[derive(Debug)]
pub(crate) struct Job {
    /// What was frozen; `None` if there was nothing new.
    pub(crate) buffer: Option<Arc<Buffer>>,
    /// Answered when this buffer and all before it are in files.
    pub(crate) replies: Vec<FlushReply>,
}

/// The state of the flush thread.
pub(crate) struct Flusher {
    store: Arc<Store>,
    intake: Arc<Intake>,
    counters: Arc<Counters>,
    waiting: VecDeque<Arc<Buffer>>,
    retry: Duration,
    /// Up to where rows that were superseded may be dropped.
    settled: Box<dyn Fn() -> Sequence + Send>,
    /// Told of each flush.
    compactor: CompactorHandle,
}

impl Flusher {
    pub(crate) fn new(
        store: Arc<Store>,
        intake: Arc<Intake>,
        counters: Arc<Counters>,
        settled: Box<dyn Fn() -> Sequence + Send>,
        compactor: CompactorHandle,
    ) -> Flusher {
        // What a start could not flush for want of space.
        let waiting: VecDeque<Arc<Buffer>> = store.snapshot().frozen.iter().cloned().collect();
        intake.disk_full.store(!waiting.is_empty(), Ordering::Relaxed);
        let flusher = Flusher { store, intake, counters, waiting, retry: RETRY_MIN, settled, compactor };
        flusher.note_buffered();
        flusher
    }

    /// Runs until the committer is gone. What waits then is in the journal.
    pub(crate) fn run(mut self, jobs: &Receiver<Job>) {
        crate::priority::give_way();
        loop {
            let wait = if self.waiting.is_empty() { IDLE } else { self.retry };
            let replies = match jobs.recv_timeout(wait) {
                Ok(job) => {
                    self.waiting.extend(job.buffer);
                    job.replies
                }
                Err(RecvTimeoutError::Timeout) => Vec::new(),
                Err(RecvTimeoutError::Disconnected) => break,
            };
            let outcome = self.flush_waiting();
            for reply in replies {
                // Whoever asked may have gone.
                let _ = reply.send(outcome.clone());
            }
        }
        tracing::info!(waiting = self.waiting.len(), "flush thread stopped");
    }

    fn flush_waiting(&mut self) -> Result<FlushReport, FlushError> {
        let flushed = Sequence(self.counters.flushed_sequence.load(Ordering::Acquire));
        let mut total = FlushReport { sequence: flushed, ..FlushReport::default() };
        while let Some(buffer) = self.waiting.front() {
            let started = Instant::now();
            match self.store.flush(buffer, (self.settled)()) {
                Ok(report) => {
                    self.waiting.pop_front();
                    self.done(&report, started.elapsed());
                    total.files += report.files;
                    total.rows += report.rows;
                    total.bytes += report.bytes;
                    total.sequence = report.sequence;
                }
                Err(error) => return Err(self.failed(&error)),
            }
        }
        Ok(total)
    }

    fn done(&mut self, report: &FlushReport, took: Duration) {
        self.retry = RETRY_MIN;
        self.intake.disk_full.store(false, Ordering::Relaxed);
        self.note_buffered();
        self.counters.flushes.fetch_add(1, Ordering::Relaxed);
        self.counters.flushed_rows.fetch_add(report.rows, Ordering::Relaxed);
        self.counters.flushed_bytes.fetch_add(report.bytes, Ordering::Relaxed);
        self.counters.flushed_sequence.store(report.sequence.0, Ordering::Release);
        self.intake.wake();
        self.compactor.look();
        let millis = u64::try_from(took.as_millis()).unwrap_or(u64::MAX);
        tracing::info!(
            files = report.files,
            rows = report.rows,
            sequence = report.sequence.0,
            millis,
            "flushed"
        );
    }

    fn note_buffered(&self) {
        let buffered: usize = self.store.snapshot().buffers().map(|buffer| buffer.byte_len()).sum();
        self.intake.buffer_bytes.store(buffered as u64, Ordering::Relaxed);
    }

    fn failed(&mut self, error: &StoreError) -> FlushError {
        self.retry = (self.retry * 2).min(RETRY_MAX);
        self.counters.flush_failures.fetch_add(1, Ordering::Relaxed);
        self.intake.disk_full.store(error.is_full(), Ordering::Relaxed);
        let reason = chain(error);
        tracing::error!(reason, "flush failed, trying again");
        if error.is_full() { FlushError::DiskFull } else { FlushError::Failed { reason } }
    }
}

/// An error and its causes in one line.
pub(crate) fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text.push_str(": ");
        text.push_str(&cause.to_string());
        source = cause.source();
    }
    text
}
