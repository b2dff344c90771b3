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
//! and no order is done before its bytes are gone. Where something is damaged, the orders
//! that it may hold something of are held up and tried again every hour, the others are
//! done. What the receipt counts are files and segments that really held something of the
//! order. Samples are counted beside the order; what is not counted before this begins is
//! not counted at all.
//!
//! The thread owns no data: files are written by the compaction thread, the journal's
//! current segment is sealed by the committer.

use std::cell::RefCell;
use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use parking_lot::Mutex;
use systole_storage::attempts::may_be_about;
use systole_storage::files::{DataFile, erased_in, may_hold};
use systole_storage::frame::{Erased, Frame, Tombstone};
use systole_storage::journal::{AppendError, Log, RewriteError};
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

/// How long orders rest that cannot be carried out because of damage.
const HELD_UP_PAUSE: Duration = Duration::from_secs(3600);

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
    #[error("the journal's current segment cannot be sealed")]
    Seal(#[from] AppendError),
    #[error("a journal segment cannot be written anew")]
    Segment(#[from] RewriteError),
    #[error("the newest value that is left cannot be found")]
    Query(#[from] QueryError),
    #[error("the flush before it failed")]
    Flush(#[from] FlushError),
    #[error("{path} is damaged, and may hold something of orders that wait")]
    Damaged { path: String },
    #[error("{files} files that were replaced are still being read")]
    StillRead { files: usize },
    #[error("the server is stopping")]
    Stopping,
}

impl Halt {
    /// Whether the disk was full, which heals.
    fn is_full(&self) -> bool {
        match self {
            Halt::Store(error) => error.is_full(),
            Halt::Catalog(error) => error.is_full(),
            Halt::Seal(error) => matches!(error, AppendError::Full(_)),
            Halt::Segment(error) => error.is_full(),
            _ => false,
        }
    }
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
    /// Orders that damage held up the last time, and until when they rest.
    pub(crate) resting: Option<(BTreeSet<String>, Instant)>,
    /// When the series map was last searched for values whose samples age took.
    pub(crate) swept: Option<Instant>,
}

/// Orders that are held up by damage.
#[derive(Default)]
struct HeldUp {
    /// Their ids.
    ids: BTreeSet<String>,
    /// The first damage that was met.
    why: Option<Halt>,
}

impl HeldUp {
    fn add(&mut self, ids: impl IntoIterator<Item = String>, why: Halt) {
        let before = self.ids.len();
        self.ids.extend(ids);
        if self.ids.len() > before {
            self.why.get_or_insert(why);
        }
    }

    /// The orders that are not.
    fn others(&self, orders: &Orders) -> Orders {
        let others = orders.all().iter().filter(|order| !self.ids.contains(&order.id));
        Orders::new(others.cloned().collect())
    }
}

/// The ids of those orders that `covers` names.
fn ids_of<'a>(
    orders: &'a Orders,
    covers: impl Fn(&Tombstone) -> bool + 'a,
) -> impl Iterator<Item = String> + 'a {
    orders.all().iter().filter(move |order| covers(order)).map(|order| order.id.clone())
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
        let rests = |order: &Tombstone| {
            let resting = self.resting.as_ref().filter(|(_, until)| Instant::now() < *until);
            resting.is_some_and(|(ids, _)| ids.contains(&order.id))
        };
        let waiting = self.store.hidden().waiting();
        let oldest = waiting.iter().filter(|order| !rests(order)).map(|order| order.created_at).min();
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
        let mut held_up = HeldUp::default();
        self.rewrite_files(&orders, &mut held_up)?;
        self.rewrite_attempts(&orders, &mut held_up)?;
        self.rewrite_segments(&orders, &mut held_up)?;
        self.log.forget_tail();
        let orders = self.set_newest(held_up.others(&orders), &mut held_up)?;
        if !orders.all().is_empty() {
            self.finish(&orders)?;
            let millis = u64::try_from(started.elapsed().as_millis()).unwrap_or(u64::MAX);
            tracing::info!(erasures = orders.all().len(), millis, "erasures carried out");
        }
        self.resting = Some((held_up.ids, Instant::now() + HELD_UP_PAUSE));
        held_up.why.map_or(Ok(orders.all().len()), Err)
    }

    /// Behind this nothing is left of the orders.
    fn finish(&mut self, orders: &Orders) -> Result<(), Halt> {
        self.store.forget_blocked(orders);
        self.store.checkpoint_series(self.store.flushed_position(), true)?;
        self.await_removal()?;
        self.store.catalog().finish_erasures(&orders.ids())?;
        self.empty_catalog_log()?;
        self.store.unhide(orders.all());
        Ok(())
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
    fn rewrite_files(&mut self, orders: &Arc<Orders>, held_up: &mut HeldUp) -> Result<(), Halt> {
        let held: Arc<Mutex<HashMap<String, Vec<String>>>> = Arc::default();
        let (asked, found) = (orders.clone(), held.clone());
        let which = move |file: &Arc<DataFile>| {
            let all = asked.all();
            let ids = erased_in(file, all)?.into_iter().map(|index| all[index].id.clone());
            let ids: Vec<String> = ids.collect();
            let holds = !ids.is_empty();
            if holds {
                found.lock().insert(file.record.path.clone(), ids);
            }
            Ok(holds)
        };
        let damaged = self.compactor.rewrite(Box::new(which)).ok_or(Halt::Stopping)??;
        let mut held = std::mem::take(&mut *held.lock());
        for file in damaged {
            let path = file.record.path.clone();
            // Of one that could be looked through, it is known what it holds.
            let ids = held.remove(&path);
            let ids = ids.unwrap_or_else(|| ids_of(orders, |order| may_hold(&file, order)).collect());
            held_up.add(ids, Halt::Damaged { path });
        }
        let mut counts = Counts::new();
        for (path, ids) in held {
            count(&mut counts, &ids, |removed| removed.files += 1);
            self.replaced.insert(path);
        }
        self.note(counts)
    }

    /// Has files of attempts that hold some about the users written without them.
    fn rewrite_attempts(&mut self, orders: &Orders, held_up: &mut HeldUp) -> Result<(), Halt> {
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
        for file in outcome? {
            let path = file.record().path.clone();
            held_up.add(ids_of(orders, |order| may_be_about(&file, order)), Halt::Damaged { path });
        }
        Ok(())
    }

    fn rewrite_segments(&self, orders: &Orders, held_up: &mut HeldUp) -> Result<(), Halt> {
        let (reply, current) = oneshot::channel();
        self.intake.request_seal(reply);
        let current = current.blocking_recv().map_err(|_| Halt::Stopping)??;
        let rewriter = self.log.rewriter();
        for id in rewriter.before(current) {
            if self.log.is_stopped() {
                return Err(Halt::Stopping);
            }
            let mut touched: BTreeSet<String> = BTreeSet::new();
            let rewritten =
                rewriter.rewrite(id, |header, bytes| orders.emptied(header, bytes, &mut touched))?;
            if let Some(broken) = rewritten.broken {
                held_up.add(orders.maybe_in(&broken.bytes), Halt::Segment(broken.fault));
            }
            if rewritten.changed {
                let mut counts = Counts::new();
                count(&mut counts, &touched, |removed| removed.segments += 1);
                self.note(counts)?;
            }
        }
        Ok(())
    }

    /// Brings the newest values right that lie in deleted ranges. Returns the orders
    /// without those for which the newest value that is left could not be read.
    fn set_newest(&self, mut orders: Orders, held_up: &mut HeldUp) -> Result<Orders, Halt> {
        loop {
            let mut failed = None;
            let set = self.store.set_newest(&orders, |org, user, metric| {
                if self.log.is_stopped() {
                    return Err(Halt::Stopping);
                }
                // Taken before the query, whose snapshot has everything up to there.
                let through = self.log.head();
                let newest = self.queries.newest(org, user, metric);
                if let Err(QueryError::Failed(_)) = &newest {
                    failed = Some((org.to_owned(), user.to_owned()));
                }
                Ok((through, newest?))
            });
            let why = match (set, &failed) {
                (Err(why), Some(_)) => why,
                (set, _) => return set.map(|()| orders),
            };
            let is_about = |order: &Tombstone| {
                let (org, user) = failed.as_ref().expect("it was looked at above");
                let of_user = order.erased.user().is_none_or(|of| of == user);
                order.org == *org && of_user && matches!(order.erased, Erased::Range { .. })
            };
            held_up.add(ids_of(&orders, is_about), why);
            orders = held_up.others(&orders);
        }
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
            self.compactor.bury().ok_or(Halt::Stopping)??;
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
        Halt::Stopping | Halt::Seal(AppendError::Poisoned { .. }) => FlushError::Stopping,
        Halt::Flush(error) => error,
        halt if halt.is_full() => FlushError::DiskFull,
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

#[cfg(test)]
mod tests {
    use std::io;

    use super::*;

    #[test]
    fn a_full_disk_is_told_whatever_step_met_it() {
        let full = || io::Error::from(io::ErrorKind::StorageFull);
        let path = || "0000000001.segment".into();
        for halt in [
            Halt::Seal(AppendError::Full(full())),
            Halt::Segment(RewriteError::Io { path: path(), source: full() }),
            Halt::Store(StoreError::Io { path: path(), source: full() }),
        ] {
            assert_eq!(answer(halt), FlushError::DiskFull);
        }
        let files = Halt::Seal(AppendError::NoSegment(io::Error::other("too many open files")));
        assert!(
            matches!(answer(files), FlushError::Failed { reason } if reason.contains("cannot be sealed"))
        );
    }
}
