//! The compaction thread: merges what the flushes left, at a bounded pace.
//!
//! Constraints: one job at a time; at most a share of one core's time,
//! `compaction_share`, as long as few runs wait, and as much as it gets when many do,
//! because every run is one more file that reads have to open. What counts is the CPU
//! time of this thread: on a busy machine, where it waits for its turn anyhow, it does
//! not sleep for that as well. A compaction that was asked for takes what it
//! gets; while it writes many files anew it merges between them if many runs wait. It
//! stops within some thousand rows of being told; what it had not finished is done again
//! by the next start.
//!
//! A job that fails is logged, counted and tried again after a pause; nothing was
//! changed by it. A file that is damaged is logged once and left out.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, Sender};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use systole_storage::attempts::AttemptFile;
use systole_storage::files::DataFile;
use systole_storage::frame::Tombstone;
use systole_storage::{CompactionReport, ErasedAttempts, Pace, Sequence, Store, StoreError};
use tokio::sync::oneshot;

use crate::flusher::{FlushError, chain};
use crate::priority::cpu_time;
use crate::stats::Counters;

/// How often it looks for something to do although no flush came: runs grow old,
/// and files lose their last readers.
const IDLE: Duration = Duration::from_secs(5);
/// Pause after a failed job.
const RETRY: Duration = Duration::from_secs(15);
/// Runs from which it no longer spares the CPU. A level has at most 7 in peace.
const RUNS_MANY: u64 = 24;
/// Longest single sleep, so that a stop is soon seen.
const SLEEP_MAX: Duration = Duration::from_millis(200);

/// How long a compaction that was asked for waits for the last readers of what it
/// replaced.
const LAST_READER_MAX: Duration = Duration::from_secs(10);
const LAST_READER_POLL: Duration = Duration::from_millis(5);

/// Who waits for a compaction.
pub(crate) type CompactReply = oneshot::Sender<Result<CompactionReport, FlushError>>;

/// What the thread is told.
pub(crate) enum Request {
    /// A flush is done: there may be something to merge.
    Look,
    /// Bring everything into its periods.
    Whole(CompactReply),
    /// Write files anew.
    Rewrite(Rewrite),
    /// Take attempts out of their files.
    Erase(EraseAttempts),
    /// Remove replaced files that nobody reads any more.
    Bury(std::sync::mpsc::Sender<Result<(), StoreError>>),
}

/// Says of a file whether it is to be written anew.
pub(crate) type Which = Box<dyn Fn(&Arc<DataFile>) -> Result<bool, StoreError> + Send>;

/// The damaged files among those that were to be written anew.
pub(crate) type Rewritten = Result<Vec<Arc<DataFile>>, StoreError>;

/// Files to be written anew without what is hidden.
pub(crate) struct Rewrite {
    which: Which,
    reply: std::sync::mpsc::Sender<Rewritten>,
}

/// Files of attempts that were written anew, and the damaged ones among all.
pub(crate) type ErasedFiles = (Vec<ErasedAttempts>, Result<Vec<AttemptFile>, StoreError>);

/// Orders whose attempts are to be taken out of their files.
pub(crate) struct EraseAttempts {
    orders: Vec<Arc<Tombstone>>,
    reply: std::sync::mpsc::Sender<ErasedFiles>,
}

/// Talks to the thread.
#[derive(Clone, Debug)]
pub(crate) struct CompactorHandle {
    requests: Sender<Request>,
    stopping: Arc<AtomicBool>,
}

impl CompactorHandle {
    /// A handle, and what the thread is made of.
    pub(crate) fn new() -> (CompactorHandle, Receiver<Request>) {
        let (requests, received) = mpsc::channel();
        (CompactorHandle { requests, stopping: Arc::default() }, received)
    }

    /// A flush is done.
    pub(crate) fn look(&self) {
        // A thread that is gone has nothing to do.
        let _ = self.requests.send(Request::Look);
    }

    /// Brings everything into its periods; answered when that is done.
    pub(crate) fn whole(&self, reply: CompactReply) {
        // If the thread is gone the reply is dropped, which its reader sees.
        let _ = self.requests.send(Request::Whole(reply));
    }

    /// Writes files anew without what is hidden, as soon as the job that runs is done.
    /// Blocks; `None` if the thread ended before.
    #[cfg_attr(not(feature = "query"), expect(dead_code, reason = "erasures need queries"))]
    pub(crate) fn rewrite(&self, which: Which) -> Option<Rewritten> {
        let (reply, outcome) = mpsc::channel();
        self.requests.send(Request::Rewrite(Rewrite { which, reply })).ok()?;
        outcome.recv().ok().filter(|_| !self.stopping.load(Ordering::Relaxed))
    }

    /// Takes attempts about erased users out of their files. Blocks; what was done counts
    /// also if it failed then. `None` if the thread ended before.
    #[cfg_attr(not(feature = "query"), expect(dead_code, reason = "erasures need queries"))]
    pub(crate) fn erase_attempts(&self, orders: Vec<Arc<Tombstone>>) -> Option<ErasedFiles> {
        let (reply, outcome) = mpsc::channel();
        self.requests.send(Request::Erase(EraseAttempts { orders, reply })).ok()?;
        outcome.recv().ok().filter(|_| !self.stopping.load(Ordering::Relaxed))
    }

    /// Removes replaced files that nobody reads any more, as soon as the job that runs is
    /// done and before the next. Blocks; `None` if the thread ended before.
    #[cfg_attr(not(feature = "query"), expect(dead_code, reason = "erasures need queries"))]
    pub(crate) fn bury(&self) -> Option<Result<(), StoreError>> {
        let (reply, outcome) = mpsc::channel();
        self.requests.send(Request::Bury(reply)).ok()?;
        outcome.recv().ok()
    }

    /// Ends the thread within some thousand rows.
    pub(crate) fn stop(&self) {
        self.stopping.store(true, Ordering::Relaxed);
        self.look();
    }
}

/// The state of the thread.
pub(crate) struct Compactor {
    store: Arc<Store>,
    counters: Arc<Counters>,
    /// Up to where superseded rows may be dropped.
    settled: Box<dyn Fn() -> Sequence + Send>,
    stopping: Arc<AtomicBool>,
    /// Of one core; 0 holds it, but for what is asked for.
    share: f64,
    /// Whether the last look began with attempts: they take turns with samples, so that
    /// neither waits while there is always something of the other.
    attempts_first: bool,
}

impl Compactor {
    pub(crate) fn new(
        store: Arc<Store>,
        counters: Arc<Counters>,
        settled: Box<dyn Fn() -> Sequence + Send>,
        handle: &CompactorHandle,
        share: f64,
    ) -> Compactor {
        let stopping = handle.stopping.clone();
        Compactor { store, counters, settled, stopping, share, attempts_first: false }
    }

    /// Runs until it is stopped.
    pub(crate) fn run(mut self, requests: &Receiver<Request>) {
        crate::priority::give_way();
        let mut due = Instant::now();
        while !self.stopping() {
            let outcome = match requests.recv_timeout(due.saturating_duration_since(Instant::now())) {
                Ok(Request::Bury(reply)) => {
                    // Whoever asked may have gone.
                    let _ = reply.send(self.store.bury().map(drop));
                    continue;
                }
                Ok(Request::Whole(reply)) => self.whole(reply),
                Ok(Request::Rewrite(rewrite)) => self.rewrite(&rewrite),
                Ok(Request::Erase(erase)) => self.erase_attempts(&erase),
                Ok(Request::Look) | Err(RecvTimeoutError::Timeout) => self.some(),
                Err(RecvTimeoutError::Disconnected) => break,
            };
            let outcome = outcome.and_then(|more| self.store.bury().map(|_| more));
            let pause = match outcome {
                Ok(true) => Duration::ZERO,
                Ok(false) => IDLE,
                Err(error) => {
                    self.counters.compaction_failures.fetch_add(1, Ordering::Relaxed);
                    tracing::error!(reason = chain(&error), "compaction failed, trying again");
                    RETRY
                }
            };
            due = Instant::now() + pause;
        }
        tracing::info!("compaction thread stopped");
    }

    fn stopping(&self) -> bool {
        self.stopping.load(Ordering::Relaxed)
    }

    /// The most useful job of samples, or of attempts; says whether there may be another.
    fn some(&mut self) -> Result<bool, StoreError> {
        if self.share == 0.0 {
            return Ok(false);
        }
        self.attempts_first = !self.attempts_first;
        let started = Instant::now();
        let mut pace = Budget::new(self, self.share);
        let mut report = None;
        for attempts in [self.attempts_first, !self.attempts_first] {
            if report.is_some() {
                break;
            }
            report = if attempts {
                self.store.compact_attempts(now_ms(), &mut pace)?
            } else {
                self.store.compact_some((self.settled)(), &mut pace)?
            };
        }
        if let Some(report) = &report {
            self.done(report, started.elapsed());
        }
        Ok(report.is_some())
    }

    fn whole(&self, reply: CompactReply) -> Result<bool, StoreError> {
        let started = Instant::now();
        let mut pace = Budget::new(self, 1.0);
        let outcome = self.store.compact_whole((self.settled)(), &|_| false, &mut pace);
        let outcome = outcome.and_then(|mut report| {
            while let Some(more) = self.store.compact_attempts(now_ms(), &mut pace)? {
                report = report.plus(more);
            }
            Ok(report)
        });
        // Whoever reads the folder next counts no row twice.
        let outcome = outcome.and_then(|report| self.bury_all().map(|()| report));
        let answer = match &outcome {
            Ok(_) if self.stopping() => Err(FlushError::Stopping),
            Ok(report) => {
                self.done(report, started.elapsed());
                unless_damaged(self.store.damaged_files(), *report)
            }
            Err(error) if error.is_full() => Err(FlushError::DiskFull),
            Err(error) => Err(FlushError::Failed { reason: chain(error) }),
        };
        // Whoever asked may have gone.
        let _ = reply.send(answer);
        outcome.map(|_| true)
    }

    /// Removes every replaced file, once its readers are done with it; a reader that
    /// takes longer than [`LAST_READER_MAX`] keeps its files until it ends.
    fn bury_all(&self) -> Result<(), StoreError> {
        let deadline = Instant::now() + LAST_READER_MAX;
        loop {
            self.store.bury()?;
            if !self.store.has_replaced_files() || self.stopping() || Instant::now() >= deadline {
                return Ok(());
            }
            std::thread::sleep(LAST_READER_POLL);
        }
    }

    fn rewrite(&self, rewrite: &Rewrite) -> Result<bool, StoreError> {
        let mut pace = Turns { budget: Budget::new(self, 1.0), has_failed: false };
        let outcome = self.store.rewrite((self.settled)(), &rewrite.which, &mut pace);
        // Their bytes go at once, unless somebody reads them.
        let outcome = outcome.and_then(|damaged| self.store.bury().map(|_| damaged));
        // Whoever asked may have gone.
        let _ = rewrite.reply.send(outcome);
        Ok(true)
    }

    fn erase_attempts(&self, erase: &EraseAttempts) -> Result<bool, StoreError> {
        let mut pace = Budget::new(self, 1.0);
        let mut erased = Vec::new();
        let outcome = self.store.erase_attempts(&erase.orders, &mut pace, &mut |file| erased.push(file));
        let outcome = outcome.and_then(|damaged| self.store.bury().map(|_| damaged));
        // Whoever asked may have gone.
        let _ = erase.reply.send((erased, outcome));
        Ok(true)
    }

    fn done(&self, report: &CompactionReport, took: Duration) {
        let counters = &self.counters;
        counters.compactions.fetch_add(report.jobs, Ordering::Relaxed);
        counters.compaction_rows.fetch_add(report.rows_read, Ordering::Relaxed);
        counters.compaction_read_bytes.fetch_add(report.bytes_read, Ordering::Relaxed);
        counters.compaction_written_bytes.fetch_add(report.bytes_written, Ordering::Relaxed);
        let millis = u64::try_from(took.as_millis()).unwrap_or(u64::MAX);
        tracing::info!(
            jobs = report.jobs,
            inputs = report.inputs,
            outputs = report.outputs,
            rows = report.rows_read,
            dropped = report.rows_read - report.rows_written,
            bytes_written = report.bytes_written,
            millis,
            "compacted"
        );
    }
}

/// The answer of a compaction of everything: not all is in its period if files are damaged.
fn unless_damaged(damaged: Vec<String>, report: CompactionReport) -> Result<CompactionReport, FlushError> {
    let Some(first) = damaged.first() else { return Ok(report) };
    let reason = format!("{} damaged files were left out, {first} among them", damaged.len());
    Err(FlushError::Failed { reason })
}

fn now_ms() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_millis()).unwrap_or(i64::MAX)
}

/// Sleeps until what was worked is no more than its share of the time that passed.
struct Budget<'a> {
    compactor: &'a Compactor,
    share: f64,
    /// When it began, or last had nothing to make up for.
    since: Instant,
    /// CPU time that this thread had taken then.
    cpu: Duration,
}

impl<'a> Budget<'a> {
    fn new(compactor: &'a Compactor, share: f64) -> Budget<'a> {
        Budget { compactor, share, since: Instant::now(), cpu: cpu_time() }
    }

    fn begin(&mut self) {
        (self.since, self.cpu) = (Instant::now(), cpu_time());
    }
}

impl Pace for Budget<'_> {
    fn go_on(&mut self, _: u64) -> bool {
        if self.share < 1.0 && self.compactor.store.backlog_runs() < RUNS_MANY {
            let worked = cpu_time().saturating_sub(self.cpu);
            let owed = sleep_owed(worked, self.since.elapsed(), self.share);
            if owed.is_zero() {
                // Time it did not get is no credit for a burst later.
                self.begin();
            } else {
                std::thread::sleep(owed.min(SLEEP_MAX));
            }
        } else {
            self.begin();
        }
        !self.compactor.stopping()
    }
}

/// Lets a merge have its turn before each file that is written anew, while many runs
/// wait: a rewrite of all files may take hours.
struct Turns<'a> {
    budget: Budget<'a>,
    /// A merge failed: the next is tried when the rewrite is done.
    has_failed: bool,
}

impl Pace for Turns<'_> {
    fn go_on(&mut self, rows: u64) -> bool {
        self.budget.go_on(rows)
    }

    fn next_file(&mut self) {
        let compactor = self.budget.compactor;
        let many = compactor.store.backlog_runs() >= RUNS_MANY && compactor.share > 0.0;
        if !many || self.has_failed {
            return;
        }
        let started = Instant::now();
        match compactor.store.compact_some((compactor.settled)(), &mut self.budget) {
            Ok(Some(report)) => compactor.done(&report, started.elapsed()),
            Ok(None) => {}
            Err(error) => {
                self.has_failed = true;
                compactor.counters.compaction_failures.fetch_add(1, Ordering::Relaxed);
                tracing::error!(
                    reason = chain(&error),
                    "a merge beside a rewrite failed, trying again later"
                );
            }
        }
    }
}

/// How long to sleep, so that `worked` CPU time is `share` of the time since.
fn sleep_owed(worked: Duration, passed: Duration, share: f64) -> Duration {
    worked.div_f64(share).saturating_sub(passed)
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use systole_storage::frame::{Columns, Frame, GroupSpec, Stamp, encode_samples};
    use systole_storage::{AttemptRow, Opened, StoreSettings, Trigger, encode_attempts};

    use super::*;

    /// A store with runs of one sample each, and as many files of attempts of one day.
    fn store_with_runs(data_dir: &Path, runs: u64) -> Arc<Store> {
        let (data_dir, mib) = (data_dir.to_owned(), 1 << 20);
        let settings = StoreSettings {
            data_dir,
            segment_bytes: mib as u64,
            flush_bytes: 64 * mib,
            series_bytes: 64 * mib,
        };
        let Opened { store, .. } = Store::open(&settings).unwrap();
        for run in 1..=runs {
            let stamp = |sequence| Stamp {
                sequence: Sequence(sequence),
                synced: Sequence::ZERO,
                ordering: sequence,
                committed_at: 0,
            };
            let group = GroupSpec {
                user: "u_1",
                metric: "steps",
                unit: "count",
                source: "garmin",
                device: None,
                first: 0,
                count: 1,
            };
            let columns = Columns {
                recorded_at: &[run.cast_signed()],
                value: &[1.0],
                zone: None,
                ended_at: None,
                daily: None,
            };
            let samples = encode_samples("acme", false, &[group], columns).seal(stamp(2 * run));
            let attempts = encode_attempts("acme", &[attempt()]).seal(stamp(2 * run + 1));
            let frames = [samples, attempts].map(|bytes| Frame::parse(bytes.into()).unwrap());
            store.publish_frames(&frames);
            let buffer = store.freeze().unwrap();
            store.flush(&buffer, Sequence::ZERO).unwrap();
        }
        store
    }

    fn attempt() -> AttemptRow {
        AttemptRow {
            at_ms: now_ms() - 2 * 86_400_000,
            tie: 0,
            endpoint: "ep_1".to_owned(),
            message: "evt_1".to_owned(),
            delivery: "dlv_1".to_owned(),
            sequence: 1,
            group: 0,
            chunk: 0,
            kind: 1,
            user: None,
            event_type: "steps.created".to_owned(),
            number: 1,
            trigger: Trigger::Scheduled,
            success: true,
            status_code: Some(204),
            error: None,
            duration_us: 1,
            url: String::new(),
            response_headers: String::new(),
            response_body: String::new(),
        }
    }

    fn compactor(store: &Arc<Store>, handle: &CompactorHandle) -> Compactor {
        Compactor::new(store.clone(), Arc::default(), Box::new(|| Sequence::ZERO), handle, 1.0)
    }

    #[test]
    fn samples_and_attempts_take_turns_while_there_is_always_more_of_both() {
        let dir = tempfile::tempdir().unwrap();
        let store = store_with_runs(dir.path(), 80);
        let (handle, _requests) = CompactorHandle::new();
        let mut compactor = compactor(&store, &handle);
        let attempts = || store.snapshot().attempts.iter().count();
        let (runs_before, attempts_before) = (store.backlog_runs(), attempts());
        assert!(compactor.some().unwrap() && compactor.some().unwrap());
        assert!(attempts() > 1 && attempts() < attempts_before, "{} files of attempts", attempts());
        assert!(store.backlog_runs() > 8 && store.backlog_runs() < runs_before);
    }

    #[test]
    fn replaced_files_are_removed_between_two_looks_for_a_merge() {
        let dir = tempfile::tempdir().unwrap();
        let store = store_with_runs(dir.path(), 40);
        let (handle, requests) = CompactorHandle::new();
        // Held up at each look for a merge of samples.
        let ((looks, looked), (go, held)) = (mpsc::channel(), mpsc::channel::<()>());
        let mut compactor = compactor(&store, &handle);
        compactor.settled = Box::new(move || {
            let _ = looks.send(());
            let _ = held.recv();
            Sequence::ZERO
        });
        let running = std::thread::spawn(move || compactor.run(&requests));
        looked.recv().unwrap();
        let (reply, buried) = mpsc::channel();
        handle.requests.send(Request::Bury(reply)).unwrap();
        go.send(()).unwrap();
        buried.recv_timeout(Duration::from_secs(60)).unwrap().unwrap();
        assert!(!store.has_replaced_files());
        handle.stop();
        drop(go);
        running.join().unwrap();
    }

    #[test]
    fn runs_that_pile_up_are_merged_while_files_are_written_anew() {
        let dir = tempfile::tempdir().unwrap();
        let store = store_with_runs(dir.path(), 30);
        let (handle, _requests) = CompactorHandle::new();
        let compactor = compactor(&store, &handle);
        let (reply, outcome) = mpsc::channel();
        let looked_at = Arc::new(std::sync::atomic::AtomicU64::new(0));
        let count = looked_at.clone();
        let which: Which = Box::new(move |_| {
            count.fetch_add(1, Ordering::Relaxed);
            Ok(false)
        });
        compactor.rewrite(&Rewrite { which, reply }).unwrap();
        assert!(outcome.recv().unwrap().unwrap().is_empty());
        assert_eq!(looked_at.load(Ordering::Relaxed), 30, "also those that were merged meanwhile");
        assert!(store.backlog_runs() < RUNS_MANY, "{} runs", store.backlog_runs());
    }

    #[test]
    fn a_thread_that_did_not_get_its_share_does_not_sleep() {
        let seconds = Duration::from_secs;
        assert_eq!(sleep_owed(seconds(2), seconds(2), 0.5), seconds(2), "alone on its core");
        assert_eq!(sleep_owed(seconds(2), seconds(3), 0.5), seconds(1));
        assert_eq!(sleep_owed(seconds(2), seconds(4), 0.5), Duration::ZERO, "it has waited as long already");
        assert_eq!(sleep_owed(seconds(1), seconds(10), 0.5), Duration::ZERO);
    }

    #[test]
    fn only_work_counts_as_cpu_time() {
        let before = cpu_time();
        std::thread::sleep(Duration::from_millis(200));
        assert!(cpu_time() - before < Duration::from_millis(100));
        let before = cpu_time();
        while cpu_time() - before < Duration::from_millis(20) {
            std::hint::black_box([0_u8; 4096].iter().sum::<u8>());
        }
    }
}
