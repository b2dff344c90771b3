//! The engine: a store with its threads, from open to drain.
//!
//! Threads it owns, in the order the data passes them: `committer`,
//! `journal-spare`, `flush`, `journal-index`, and the query runtime. A panic in one of them is
//! seen by [`Engine::health`]; the committer's closes the intake.

use std::path::PathBuf;
use std::sync::atomic::Ordering;
use std::sync::{Arc, mpsc};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use parking_lot::Mutex;
use systole_storage::journal::Log;
use systole_storage::{
    Catalog, CatalogError, CompactionReport, Draft, FlushReport, Sequence, Store, StoreError, StoreSettings,
};
use tokio::sync::oneshot;

use crate::budget::{ByteBudget, Permit};
use crate::commit::{Ack, Committer, CommitterParts, Intake, SubmitError};
use crate::compactor::{Compactor, CompactorHandle};
use crate::flusher::{FlushError, Flusher};
use crate::registry::{AddMetricError, Added, Metric, Registries, Registry};
use crate::stats::{Counters, Stats};

/// Sizes and times an engine runs with.
#[derive(Clone, Debug)]
pub struct EngineSettings {
    /// Where everything lies.
    pub data_dir: PathBuf,
    /// Frames that may wait for the committer; more is 429.
    pub ring_slots: usize,
    /// Bytes that bodies in flight and waiting frames may hold; more is 429.
    pub body_budget_bytes: usize,
    /// Memory of a buffer from which it is flushed.
    pub flush_bytes: usize,
    /// Age of a buffer's first sample from which it is flushed.
    pub flush_interval: Duration,
    /// Memory of all buffers from which ingest is refused (429) until a flush
    /// is done.
    pub buffer_bytes_max: usize,
    /// Length of a journal segment.
    pub segment_bytes: u64,
    /// Share of one core that compaction takes while few files wait; 0 holds it.
    pub compaction_share: f64,
    /// Memory of newest values and spans from which users that were not heard of
    /// are left to the disk.
    pub series_bytes: usize,
    /// Threads of the query runtime.
    pub query_threads: usize,
    /// Queries that run at once; more wait.
    pub query_concurrency: usize,
    /// Memory that queries' sorts and merges may take together.
    pub query_memory_bytes: usize,
    /// What an SQL statement may take.
    #[cfg(feature = "query")]
    pub sql: systole_storage::query::SqlLimits,
    /// Journal kept for deliveries that wait; beyond it the oldest are given up.
    /// `None` is a tenth of the disk.
    pub retention_bytes: Option<u64>,
    /// How long payloads of deliveries that are over stay, so that they can be asked for
    /// again.
    pub retention: Duration,
    /// How long the bytes of what was erased may stay.
    pub erasure_deadline: Duration,
    /// How long samples are kept where an organisation has no rule; `None` for ever.
    pub retention_days: Option<u32>,
    /// What webhooks are run with.
    #[cfg(feature = "query")]
    pub webhooks: crate::events::webhooks::WebhookSettings,
}

impl Default for EngineSettings {
    fn default() -> EngineSettings {
        const MIB: usize = 1024 * 1024;
        EngineSettings {
            data_dir: PathBuf::from("data"),
            ring_slots: 1024,
            body_budget_bytes: 256 * MIB,
            flush_bytes: 128 * MIB,
            flush_interval: Duration::from_secs(3600),
            buffer_bytes_max: 512 * MIB,
            segment_bytes: 64 * MIB as u64,
            compaction_share: 0.5,
            series_bytes: 1024 * MIB,
            query_threads: 2,
            query_concurrency: 32,
            query_memory_bytes: 256 * MIB,
            #[cfg(feature = "query")]
            sql: Default::default(),
            retention_bytes: None,
            retention: Duration::from_hours(72),
            erasure_deadline: Duration::from_secs(24 * 3600),
            retention_days: None,
            #[cfg(feature = "query")]
            webhooks: Default::default(),
        }
    }
}

/// Why an engine does not open.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// The store does not open.
    #[error("the data dir cannot be opened")]
    Store(#[from] StoreError),
    /// The metrics of organisations cannot be read.
    #[error("the catalog cannot be read")]
    Catalog(#[from] CatalogError),
    /// Webhooks do not start.
    #[cfg(feature = "query")]
    #[error("cannot start webhooks")]
    Webhooks(#[from] crate::events::webhooks::WebhookStartError),
    /// The ids of events cannot be read back.
    #[cfg(feature = "query")]
    #[error("the ids of events cannot be read back")]
    EventIds(#[from] systole_storage::journal::LogError),
    /// A thread or runtime cannot be started.
    #[error("cannot start the {what}")]
    Start {
        /// Which.
        what: &'static str,
        /// What the system said.
        #[source]
        source: std::io::Error,
    },
}

/// How the engine is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Health {
    /// Its threads run.
    pub alive: bool,
    /// It takes samples.
    pub ready: bool,
    /// Why not.
    pub fault: Option<String>,
}

/// A running engine. Clones are the same one.
#[derive(Clone, Debug)]
pub struct Engine {
    inner: Arc<Inner>,
}

struct Inner {
    settings: EngineSettings,
    registries: Arc<Registries>,
    store: Arc<Store>,
    log: Arc<Log>,
    intake: Arc<Intake>,
    budget: Arc<ByteBudget>,
    counters: Arc<Counters>,
    compactor: CompactorHandle,
    /// Up to where superseded rows may be dropped.
    settled: Position,
    /// In drain order; taken by whoever drains.
    threads: Mutex<Vec<(&'static str, JoinHandle<()>)>>,
    #[cfg(feature = "query")]
    queries: Arc<systole_storage::query::QueryPool>,
    #[cfg(feature = "query")]
    webhooks: Arc<crate::events::webhooks::Webhooks>,
    #[cfg(feature = "query")]
    event_ids: Arc<crate::event_ids::EventIds>,
    #[cfg(feature = "query")]
    attempts: crate::events::attempts::AttemptQueue,
    #[cfg(feature = "query")]
    notices: crate::events::NoticeQueue,
    #[cfg(feature = "query")]
    eraser: crate::erasure::EraserHandle,
}

impl std::fmt::Debug for Inner {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Inner").field("settings", &self.settings).finish_non_exhaustive()
    }
}

impl Engine {
    /// Opens the data dir and starts the threads. Blocks while it recovers.
    ///
    /// # Errors
    /// [`OpenError`].
    pub fn open(settings: EngineSettings) -> Result<Engine, OpenError> {
        let opened = Store::open(&StoreSettings {
            data_dir: settings.data_dir.clone(),
            segment_bytes: settings.segment_bytes,
            flush_bytes: settings.flush_bytes,
            series_bytes: settings.series_bytes,
        })?;
        let (store, log) = (opened.store, opened.log);
        store.set_default_retention(settings.retention_days)?;
        let intake = Intake::new(settings.ring_slots);
        let counters = Arc::new(Counters::default());
        counters.sequence.store(opened.last.0, Ordering::Relaxed);
        counters.flushed_sequence.store(opened.flushed.0, Ordering::Relaxed);
        let registries = Arc::new(Registries::load(store.catalog())?);
        #[cfg(feature = "query")]
        let query = query::Parts::start(&settings, &store, &log, &registries, &intake)?;
        #[cfg(feature = "query")]
        let (floor, settled) = query.positions();
        #[cfg(not(feature = "query"))]
        let (floor, settled): (Position, Position) = (Arc::new(everything), Arc::new(everything));
        #[cfg(feature = "query")]
        let retention = query.retention(settings.retention);
        #[cfg(not(feature = "query"))]
        let retention = Box::new(|| None);
        let (flushes, jobs) = mpsc::channel();
        let preparer = opened.writer.preparer();
        let committer = Committer::new(CommitterParts {
            store: store.clone(),
            writer: opened.writer,
            log: log.clone(),
            floor: boxed(&floor),
            retention_bytes: settings.retention_bytes.unwrap_or_else(|| tenth_of_disk(&settings.data_dir)),
            retention,
            intake: intake.clone(),
            counters: counters.clone(),
            flushes,
            flush_bytes: settings.flush_bytes,
            flush_interval: settings.flush_interval,
            last: opened.last,
            ordering: opened.ordering,
        });
        let (handle, requests) = CompactorHandle::new();
        let flusher =
            Flusher::new(store.clone(), intake.clone(), counters.clone(), boxed(&settled), handle.clone());
        let compactor = Compactor::new(
            store.clone(),
            counters.clone(),
            boxed(&settled),
            &handle,
            settings.compaction_share,
        );
        let guard = EndOnDrop(intake.clone());
        let run_committer = move || {
            let _guard = guard;
            committer.run();
        };
        let flush_guard = PoisonOnPanic { intake: intake.clone(), thread: "flush" };
        let run_flush = move || {
            let _guard = flush_guard;
            flusher.run(&jobs);
        };
        let committer = spawn("committer", run_committer)?;
        intake.attach(committer.1.thread().clone());
        let spare = spawn("journal-spare", move || preparer.run())?;
        let flush = spawn("flush", run_flush)?;
        let compact_guard = PoisonOnPanic { intake: intake.clone(), thread: "compaction" };
        let compaction = spawn("compaction", move || {
            let _guard = compact_guard;
            compactor.run(&requests);
        })?;
        let indexer = log.indexer(Duration::from_hours(crate::event_ids::HOURS.unsigned_abs()));
        let index = spawn("journal-index", move || {
            crate::priority::give_way();
            indexer.run();
        })?;
        #[cfg_attr(not(feature = "query"), expect(unused_mut, reason = "queries have threads of their own"))]
        let mut threads = vec![compaction, committer, spare, flush, index];
        #[cfg(feature = "query")]
        let event_ids = query.event_ids.clone();
        #[cfg(feature = "query")]
        let (queries, webhooks, attempts, notices) = query.run(&intake, &mut threads)?;
        #[cfg(feature = "query")]
        let eraser = query::start_eraser(
            crate::erasure::Eraser {
                store: store.clone(),
                log: log.clone(),
                queries: queries.clone(),
                webhooks: webhooks.clone(),
                attempts: attempts.clone(),
                compactor: handle.clone(),
                intake: intake.clone(),
                deadline: settings.erasure_deadline,
                replaced: Default::default(),
                resting: None,
                swept: None,
            },
            &mut threads,
        )?;
        let inner = Inner {
            registries,
            budget: ByteBudget::new(settings.body_budget_bytes),
            settings,
            store,
            log,
            intake,
            counters,
            compactor: handle,
            settled,
            threads: Mutex::new(threads),
            #[cfg(feature = "query")]
            queries,
            #[cfg(feature = "query")]
            webhooks,
            #[cfg(feature = "query")]
            event_ids,
            #[cfg(feature = "query")]
            attempts,
            #[cfg(feature = "query")]
            notices,
            #[cfg(feature = "query")]
            eraser,
        };
        Ok(Engine { inner: Arc::new(inner) })
    }

    /// The metrics that an organisation can name now.
    #[must_use]
    pub fn registry(&self, org: &str) -> Arc<Registry> {
        self.inner.registries.of(org)
    }

    /// Adds a metric of its own to an organisation; it is durable, and taken and found
    /// by everything, when this returns. Blocks.
    ///
    /// # Errors
    /// [`AddMetricError`]; then nothing was added.
    pub fn add_metric(&self, org: &str, metric: Metric) -> Result<Added, AddMetricError> {
        let announce = |metric: &Metric| {
            #[cfg(feature = "query")]
            self.inner.webhooks.announce(metric);
            #[cfg(not(feature = "query"))]
            let _ = metric;
        };
        self.inner.registries.add(self.catalog(), org, metric, announce)
    }

    /// Organisations and keys.
    #[must_use]
    pub fn catalog(&self) -> &Arc<Catalog> {
        self.inner.store.catalog()
    }

    /// Bytes for bodies; take them before reading one.
    #[must_use]
    pub fn budget(&self) -> &Arc<ByteBudget> {
        &self.inner.budget
    }

    /// Hands in an encoded batch. It is durable and visible when the [`Ack`]
    /// resolves to `Ok`.
    ///
    /// # Errors
    /// [`SubmitError`]; then nothing of it was kept.
    pub fn submit(&self, draft: Draft, samples: u32, permit: Permit) -> Result<Ack, SubmitError> {
        let inner = &self.inner;
        inner.intake.submit(draft, samples, permit, inner.settings.buffer_bytes_max as u64)
    }

    /// Brings everything committed before the call into files.
    ///
    /// # Errors
    /// [`FlushError`]; nothing is lost, and the flush is tried again.
    pub async fn flush(&self) -> Result<FlushReport, FlushError> {
        if self.inner.intake.stopping() {
            return Err(FlushError::Stopping);
        }
        let (reply, report) = oneshot::channel();
        self.inner.intake.request_flush(reply);
        report.await.unwrap_or(Err(FlushError::Stopping))
    }

    /// Brings everything committed before the call into the files of its period,
    /// without superseded rows, and carries out the erasures that wait.
    ///
    /// # Errors
    /// [`FlushError`]; nothing is lost.
    pub async fn compact(&self) -> Result<CompactionReport, FlushError> {
        // One that is held up keeps nobody from the rest.
        #[cfg(feature = "query")]
        let erased = self.carry_out_erasures().await;
        let flushed = self.flush().await?;
        self.wait_settled(flushed.sequence).await;
        let (reply, report) = oneshot::channel();
        self.inner.compactor.whole(reply);
        let report = report.await.unwrap_or(Err(FlushError::Stopping));
        #[cfg(feature = "query")]
        erased?;
        report
    }

    /// Waits until it is decided what everything up to `sequence` changed, which
    /// takes milliseconds unless the classifier lags; then some rows stay for the
    /// next compaction.
    async fn wait_settled(&self, sequence: Sequence) {
        let deadline = std::time::Instant::now() + SETTLE_MAX;
        while (self.inner.settled)() < sequence && std::time::Instant::now() < deadline {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    /// How it is.
    #[must_use]
    pub fn health(&self) -> Health {
        let dead = self.dead_thread();
        let fault =
            self.inner.intake.poison().or_else(|| dead.map(|name| format!("the {name} thread ended")));
        Health { alive: dead.is_none(), ready: fault.is_none() && !self.inner.intake.stopping(), fault }
    }

    /// A thread that ended although nobody stopped it.
    fn dead_thread(&self) -> Option<&'static str> {
        let threads = self.inner.threads.lock();
        threads.iter().find(|(_, handle)| handle.is_finished()).map(|(name, _)| *name)
    }

    /// What is counted, now.
    #[must_use]
    pub fn stats(&self) -> Stats {
        let inner = &self.inner;
        let counters = &inner.counters;
        let read = |counter: &std::sync::atomic::AtomicU64| counter.load(Ordering::Relaxed);
        let snapshot = inner.store.snapshot();
        Stats {
            samples_accepted: read(&counters.samples_accepted),
            batches_committed: read(&counters.batches_committed),
            commit_groups: read(&counters.commit_groups),
            journal_bytes: read(&counters.journal_bytes),
            journal_segments: read(&counters.journal_segments),
            ring_frames: inner.intake.ring.len() as u64,
            body_budget_used_bytes: inner.budget.used() as u64,
            buffer_samples: snapshot.buffers().map(|buffer| buffer.sample_count()).sum(),
            buffer_bytes: snapshot.buffers().map(|buffer| buffer.byte_len() as u64).sum(),
            flushes: read(&counters.flushes),
            flush_failures: read(&counters.flush_failures),
            flushed_rows: read(&counters.flushed_rows),
            flushed_bytes: read(&counters.flushed_bytes),
            compactions: read(&counters.compactions),
            compaction_failures: read(&counters.compaction_failures),
            compaction_rows: read(&counters.compaction_rows),
            compaction_read_bytes: read(&counters.compaction_read_bytes),
            compaction_written_bytes: read(&counters.compaction_written_bytes),
            backlog: inner.store.backlog(),
            files: snapshot.files.len() as u64,
            damaged_files: inner.store.damaged_files().len() as u64,
            file_bytes: snapshot.files.byte_len(),
            series: inner.store.series().stats(),
            checkpoint_failures: read(&counters.checkpoint_failures),
            sequence: read(&counters.sequence),
            flushed_sequence: read(&counters.flushed_sequence),
            commit_seconds: counters.commit_seconds.snapshot(),
            fsync_seconds: counters.fsync_seconds.snapshot(),
        }
    }

    /// Takes no more batches, commits those that wait, ends the threads. What is
    /// not in files stays in the journal.
    pub async fn drain(&self) {
        tracing::info!(waiting = self.inner.intake.ring.len(), "draining: committing what waits");
        self.inner.intake.stop();
        let threads = std::mem::take(&mut *self.inner.threads.lock());
        let inner = self.inner.clone();
        let joined = tokio::task::spawn_blocking(move || {
            // Who reads the journal along ends first, so that positions are final.
            inner.log.stop();
            inner.compactor.stop();
            #[cfg(feature = "query")]
            inner.eraser.stop();
            #[cfg(feature = "query")]
            inner.webhooks.stop();
            // Nothing is delivered any more: what was announced, and the last attempts, go
            // with the last groups.
            #[cfg(feature = "query")]
            inner.notices.stop();
            #[cfg(feature = "query")]
            inner.attempts.stop();
            for (name, handle) in threads {
                if handle.join().is_err() {
                    tracing::error!(thread = name, "thread had panicked");
                }
            }
        });
        if joined.await.is_err() {
            tracing::error!("draining was cut short");
        }
        tracing::info!("drained");
    }
}

#[cfg(feature = "query")]
mod publish;
#[cfg(feature = "query")]
mod query;

#[cfg(feature = "query")]
pub use publish::{PublishError, Publishing};
#[cfg(feature = "query")]
pub use query::EraseError;

/// How long a compaction waits for the classifier.
const SETTLE_MAX: Duration = Duration::from_secs(10);

/// A question for a position.
type Position = Arc<dyn Fn() -> Sequence + Send + Sync>;

fn boxed(position: &Position) -> Box<dyn Fn() -> Sequence + Send> {
    let position = position.clone();
    Box::new(move || position())
}

/// Every position: where nobody reads along.
#[cfg(not(feature = "query"))]
fn everything() -> Sequence {
    Sequence(u64::MAX)
}

/// How much journal is kept for deliveries unless a setting says.
fn tenth_of_disk(data_dir: &std::path::Path) -> u64 {
    match rustix::fs::statvfs(data_dir) {
        Ok(disk) => disk.f_blocks.saturating_mul(disk.f_frsize) / 10,
        Err(error) => {
            tracing::warn!(%error, "cannot ask for the size of the disk; the journal is not bounded");
            u64::MAX
        }
    }
}

/// Ends the intake with the committer, however that ends, so that senders get an
/// answer.
struct EndOnDrop(Arc<Intake>);

impl Drop for EndOnDrop {
    fn drop(&mut self) {
        if thread::panicking() {
            self.0.set_poison("the committer panicked");
        }
        self.0.end();
    }
}

/// Closes the intake if a thread it needs panics.
struct PoisonOnPanic {
    intake: Arc<Intake>,
    thread: &'static str,
}

impl Drop for PoisonOnPanic {
    fn drop(&mut self) {
        if thread::panicking() {
            self.intake.set_poison(&format!("the {} thread panicked", self.thread));
        }
    }
}

fn spawn(
    name: &'static str,
    run: impl FnOnce() + Send + 'static,
) -> Result<(&'static str, JoinHandle<()>), OpenError> {
    let handle = thread::Builder::new().name(name.to_owned()).spawn(run);
    handle.map(|handle| (name, handle)).map_err(|source| OpenError::Start { what: name, source })
}
