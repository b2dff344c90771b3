//! Erasures: from the order to the receipt.
//!
//! ```text
//! order -> tombstone in the journal -> hidden -> catalog -> 202
//!   later, pooled, or at once with a compaction:
//! flush -> deliveries end -> files without it -> segments without it -> newest values
//!       -> old files gone -> receipt
//! ```
//!
//! Constraints: each file and segment is written once for all orders that wait; orders
//! are carried out when the oldest has waited half of its time, `erasure_deadline`. A
//! step that fails is logged and everything is tried again: nothing is shown meanwhile,
//! and no order is done before its bytes are gone. What the receipt counts are files and
//! segments that really held something of the order. Samples are counted beside the order;
//! what is not counted before this begins is not counted at all.
//!
//! The thread owns no data: files are written by the compaction thread, the journal's
//! current segment is sealed by the committer.

use std::cell::RefCell;
use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use parking_lot::Mutex;
use systole_storage::files::{DataFile, erased_in};
use systole_storage::frame::Frame;
use systole_storage::journal::{Log, RewriteError};
use systole_storage::query::{QueryError, QueryPool};
use systole_storage::{CatalogError, Orders, Removed, Store, StoreError};
use tokio::sync::oneshot;

use crate::commit::Intake;
use crate::compactor::CompactorHandle;
use crate::events::attempts::AttemptQueue;
use crate::events::webhooks::Webhooks;
use crate::flusher::{FlushError, chain};

/// How often it looks whether orders are due and files are aged; more often where the
/// deadline is so short that this would be late.
const LOOK: Duration = Duration::from_secs(60);
/// How often the series map is searched for values whose samples age took.
const AGED_PAUSE: Duration = Duration::from_secs(24 * 3600);
/// How long it waits for the last readers of replaced files.
const READERS_MAX: Duration = Duration::from_secs(60);
/// Between two looks whether they are gone.
const READERS_LOOK: Duration = Duration::from_millis(20);
/// How often the catalog's log is tried to be emptied beside other processes.
const LOG_TRIES: u32 = 50;

/// Who waits for orders to be carried out; told how many were.
pub(crate) type EraseReply = oneshot::Sender<Result<usize, FlushError>>;

/// What the thread is told.
#[derive(Debug)]
pub(crate) enum Request {
    /// Carry out what waits, now.
    CarryOut(EraseReply),
    /// End.
    Stop,
}

/// Why orders were not carried out to the end. They go on waiting, and hide.
#[derive(Debug, thiserror::Error)]
enum Halt {
    #[error("the store failed")]
    Store(#[from] StoreError),
    #[error("the catalog failed")]
    Catalog(#[from] CatalogError),
    #[error("a journal segment cannot be written anew")]
    Segment(#[from] RewriteError),
    #[error("the newest value that is left cannot be found")]
    Query(#[from] QueryError),
    #[error("the flush before it failed")]
    Flush(#[from] FlushError),
    #[error("{files} files that were replaced are still being read")]
    StillRead { files: usize },
    #[error("the server is stopping")]
    Stopping,
}

/// The state of the thread.
pub(crate) struct Eraser {
    pub(crate) store: Arc<Store>,
    pub(crate) log: Arc<Log>,
    pub(crate) queries: Arc<QueryPool>,
    pub(crate) webhooks: Arc<Webhooks>,
    pub(crate) attempts: AttemptQueue,
    pub(crate) compactor: CompactorHandle,
    pub(crate) intake: Arc<Intake>,
    /// By when the bytes are gone.
    pub(crate) deadline: Duration,
    /// Files that held something erased and were replaced, until they are gone.
    pub(crate) replaced: BTreeSet<String>,
    /// When the series map was last searched for values whose samples age took.
    pub(crate) swept: Option<Instant>,
}

/// What orders took away, by their ids.
type Counts = HashMap<String, Removed>;

/// The orders that cover something of the event at a group of a frame.
fn of_event(orders: &Orders, frame: &Frame, first: usize) -> BTreeSet<String> {
    match frame {
        Frame::Event(event) => orders.of_event(event).into_iter().collect(),
        Frame::Samples(samples) if first < samples.group_count() => {
            let groups = samples.event_groups(first);
            groups.flat_map(|index| orders.of_group(samples, &samples.group(index))).collect()
        }
        _ => BTreeSet::new(),
    }
}

impl Eraser {
    /// Runs until it is stopped.
    pub(crate) fn run(mut self, requests: &Receiver<Request>) {
        crate::priority::give_way();
        let look = LOOK.min(self.deadline / 4);
        loop {
            let reply = match requests.recv_timeout(look) {
                Ok(Request::CarryOut(reply)) => Some(reply),
                Ok(Request::Stop) | Err(RecvTimeoutError::Disconnected) => break,
                Err(RecvTimeoutError::Timeout) => None,
            };
            if reply.is_none() && !self.is_due() {
                self.drop_aged();
                self.forget_aged(false);
                continue;
            }
            let outcome = self.carry_out();
            if let Err(halt) = &outcome
                && !matches!(halt, Halt::Stopping)
            {
                tracing::error!(reason = chain(halt), "erasures wait on: a step failed");
            }
            self.drop_aged();
            self.forget_aged(reply.is_some());
            if let Some(reply) = reply {
                // Whoever asked may have gone.
                let _ = reply.send(outcome.map_err(answer));
            }
        }
        tracing::info!("erasure thread stopped");
    }

    /// Whether the oldest order has waited half of its time.
    fn is_due(&self) -> bool {
        let oldest = self.store.hidden().waiting().iter().map(|job| job.created_at).min();
        let half = i64::try_from(self.deadline.as_millis() / 2).unwrap_or(i64::MAX);
        oldest.is_some_and(|oldest| now_ms().saturating_sub(oldest) >= half)
    }

    fn carry_out(&mut self) -> Result<usize, Halt> {
        let orders = Arc::new(Orders::new(self.store.hidden().waiting()));
        if orders.all().is_empty() {
            return Ok(0);
        }
        let started = Instant::now();
        // What was attempted and is not in the journal yet is there or nowhere behind this.
        self.attempts.forget(orders.all());
        self.attempts.settle();
        // Behind this everything they cover is in files, and in the journal.
        self.flush()?;
        self.store.catalog().end_counts(&orders.ids())?;
        self.end_deliveries(&orders)?;
        self.rewrite_files(&orders)?;
        self.rewrite_attempts(&orders)?;
        self.rewrite_segments(&orders)?;
        self.log.forget_tail();
        self.set_newest(&orders)?;
        self.store.forget_blocked(&orders);
        self.store.checkpoint_series(self.store.flushed_position(), true)?;
        self.await_removal()?;
        let ids = orders.ids();
        self.store.catalog().finish_erasures(&ids)?;
        self.empty_catalog_log()?;
        self.store.unhide(orders.all());
        let millis = u64::try_from(started.elapsed().as_millis()).unwrap_or(u64::MAX);
        tracing::info!(erasures = ids.len(), millis, "erasures carried out");
        Ok(ids.len())
    }

    fn flush(&self) -> Result<(), Halt> {
        self.store.record_tombstones()?;
        let (reply, report) = oneshot::channel();
        self.intake.request_flush(reply);
        report.blocking_recv().unwrap_or(Err(FlushError::Stopping))?;
        Ok(())
    }

    fn end_deliveries(&self, orders: &Orders) -> Result<(), Halt> {
        let counts: RefCell<Counts> = RefCell::default();
        let orgs: BTreeSet<&str> = orders.all().iter().map(|order| order.org.as_str()).collect();
        for org in orgs {
            self.webhooks.give_up(org, &|frame, first| {
                let ids = of_event(orders, frame, first);
                count(&mut counts.borrow_mut(), &ids, |removed| removed.deliveries += 1);
                !ids.is_empty()
            });
        }
        self.note(counts.into_inner())
    }

    /// Has files that hold something of the orders written without it.
    fn rewrite_files(&mut self, orders: &Arc<Orders>) -> Result<(), Halt> {
        let held: Arc<Mutex<HashMap<String, Vec<String>>>> = Arc::default();
        let (orders, found) = (orders.clone(), held.clone());
        let which = move |file: &Arc<DataFile>| {
            let all = orders.all();
            let ids = erased_in(file, all)?.into_iter().map(|index| all[index].id.clone());
            let ids: Vec<String> = ids.collect();
            let holds = !ids.is_empty();
            if holds {
                found.lock().insert(file.record.path.clone(), ids);
            }
            Ok(holds)
        };
        self.compactor.rewrite(Box::new(which)).ok_or(Halt::Stopping)??;
        let mut counts = Counts::new();
        for (path, ids) in held.lock().drain() {
            count(&mut counts, &ids, |removed| removed.files += 1);
            self.replaced.insert(path);
        }
        self.note(counts)
    }

    /// Has files of attempts that hold some about the users written without them.
    fn rewrite_attempts(&mut self, orders: &Orders) -> Result<(), Halt> {
        let all = orders.all();
        let (erased, outcome) = self.compactor.erase_attempts(all.to_vec()).ok_or(Halt::Stopping)?;
        let mut counts = Counts::new();
        for file in erased {
            for (order, &rows) in all.iter().zip(&file.rows).filter(|(_, rows)| **rows > 0) {
                let removed = counts.entry(order.id.clone()).or_default();
                removed.attempts += rows;
                removed.files += 1;
            }
            self.replaced.insert(file.path);
        }
        self.note(counts)?;
        Ok(outcome?)
    }

    fn rewrite_segments(&self, orders: &Orders) -> Result<(), Halt> {
        let (reply, current) = oneshot::channel();
        self.intake.request_seal(reply);
        let current = current.blocking_recv().map_err(|_| Halt::Stopping)?;
        let rewriter = self.log.rewriter();
        for id in rewriter.before(current) {
            if self.log.is_stopped() {
                return Err(Halt::Stopping);
            }
            let mut touched: BTreeSet<String> = BTreeSet::new();
            if rewriter.rewrite(id, |header, bytes| orders.emptied(header, bytes, &mut touched))? {
                let mut counts = Counts::new();
                count(&mut counts, &touched, |removed| removed.segments += 1);
                self.note(counts)?;
            }
        }
        Ok(())
    }

    /// Brings the newest values right that lie in deleted ranges.
    fn set_newest(&self, orders: &Orders) -> Result<(), Halt> {
        self.store.set_newest(orders, |org, user, metric| {
            if self.log.is_stopped() {
                return Err(Halt::Stopping);
            }
            // Taken before the query, whose snapshot has everything up to there.
            let through = self.log.head();
            Ok((through, self.queries.newest(org, user, metric)?))
        })
    }

    /// Waits until the last readers of replaced files are gone, and so the files.
    fn await_removal(&mut self) -> Result<(), Halt> {
        let deadline = Instant::now() + READERS_MAX;
        loop {
            let garbage: BTreeSet<String> = self.store.catalog().garbage()?.into_iter().collect();
            self.replaced.retain(|path| garbage.contains(path));
            if self.replaced.is_empty() {
                return Ok(());
            }
            if self.log.is_stopped() {
                return Err(Halt::Stopping);
            }
            if Instant::now() > deadline {
                return Err(Halt::StillRead { files: self.replaced.len() });
            }
            self.compactor.look();
            std::thread::sleep(READERS_LOOK);
        }
    }

    /// The names in the receipts and in rows of files were overwritten; what the log
    /// still has of them goes too.
    fn empty_catalog_log(&self) -> Result<(), Halt> {
        for _ in 0..LOG_TRIES {
            if self.store.catalog().empty_log()? {
                return Ok(());
            }
            std::thread::sleep(READERS_LOOK);
        }
        tracing::warn!("another process reads the catalog; its log is emptied with the next erasure");
        Ok(())
    }

    /// Has files go whose samples are all older than they are kept.
    fn drop_aged(&self) {
        let store = self.store.clone();
        if !store.snapshot().files.iter().any(|file| store.is_aged(file)) {
            return;
        }
        let dropped = self.compactor.rewrite(Box::new(move |file| Ok(store.is_aged(file))));
        if let Some(Err(error)) = dropped {
            tracing::error!(reason = chain(&error), "aged files could not be removed, trying again");
        }
    }

    /// Takes newest values out of the series map whose samples age took, once a day or when
    /// asked.
    fn forget_aged(&mut self, asked: bool) {
        let rests = self.swept.is_some_and(|at| at.elapsed() < AGED_PAUSE);
        if rests && !asked || !self.store.hidden().drops_some() {
            return;
        }
        self.swept = Some(Instant::now());
        let forgotten = self.store.forget_aged(|org, user, value| {
            if self.log.is_stopped() {
                return Err(Halt::Stopping);
            }
            // Taken before the query, whose snapshot has everything up to there.
            let through = self.log.head();
            Ok((through, self.queries.newest_until(org, user, &value.metric, value.recorded_at)?))
        });
        match forgotten {
            Ok(0) | Err(Halt::Stopping) => {}
            Ok(values) => tracing::info!(values, "newest values went with their aged samples"),
            Err(halt) => {
                tracing::error!(reason = chain(&halt), "newest values of aged samples stay a day more");
            }
        }
    }

    fn note(&self, counts: Counts) -> Result<(), Halt> {
        let removed: Vec<(String, Removed)> = counts.into_iter().collect();
        if !removed.is_empty() {
            self.store.catalog().add_removed(&removed)?;
        }
        Ok(())
    }
}

fn count<'a>(counts: &mut Counts, ids: impl IntoIterator<Item = &'a String>, add: impl Fn(&mut Removed)) {
    for id in ids {
        add(counts.entry(id.clone()).or_default());
    }
}

/// What whoever asked is told.
fn answer(halt: Halt) -> FlushError {
    match halt {
        Halt::Stopping => FlushError::Stopping,
        Halt::Flush(error) => error,
        Halt::Store(error) if error.is_full() => FlushError::DiskFull,
        other => FlushError::Failed { reason: chain(&other) },
    }
}

fn now_ms() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_millis()).unwrap_or(i64::MAX)
}

/// Talks to the thread.
#[derive(Clone, Debug)]
pub(crate) struct EraserHandle(pub(crate) Sender<Request>);

impl EraserHandle {
    /// Carries out what waits.
    pub(crate) async fn carry_out(&self) -> Result<usize, FlushError> {
        let (reply, outcome) = oneshot::channel();
        self.0.send(Request::CarryOut(reply)).map_err(|_| FlushError::Stopping)?;
        outcome.await.unwrap_or(Err(FlushError::Stopping))
    }

    /// Ends the thread; what waits goes on waiting.
    pub(crate) fn stop(&self) {
        // One that is gone needs no stop.
        let _ = self.0.send(Request::Stop);
    }
}
