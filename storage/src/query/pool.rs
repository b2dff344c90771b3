//! Where queries run: a small runtime of its own, so many at once, and another for SQL.

use std::sync::Arc;
use std::time::Duration;

use arrow::array::RecordBatch;
use datafusion::error::DataFusionError;
use datafusion::execution::disk_manager::{DiskManagerBuilder, DiskManagerMode};
use datafusion::execution::memory_pool::{FairSpillPool, TrackConsumersPool};
use datafusion::execution::object_store::{ObjectStoreRegistry, ObjectStoreUrl};
use datafusion::execution::runtime_env::{RuntimeEnv, RuntimeEnvBuilder};
use datafusion::execution::{SendableRecordBatchStream, TaskContext};
use datafusion::object_store::ObjectStore;
use datafusion::object_store::memory::InMemory;
use datafusion::physical_plan::execute_stream;
use datafusion::prelude::{SessionConfig, SessionContext};
use futures_util::StreamExt;
use tokio::runtime::{Builder, Runtime};
use tokio::sync::mpsc::error::TrySendError;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use url::Url;

use super::chunk::SERIES_COLUMNS;
use super::memory::count_rows;
use super::metadata::CheckedReaders;
use super::sql::{Sql, SqlAnswer, SqlError, SqlLimits, SqlQuestion};
use super::state::{StateQuestion, StateRow};
use super::table::Located;
use super::window::{SLICE_ROWS_MAX, Slices};
use super::{Order, QueryError, SampleChunk, SamplesTable, Scan, SeriesQuery};
use crate::series::LatestValue;
use crate::store::Store;

/// Chunks that wait for a slow reader; then the query waits too.
const CHUNKS_AHEAD: usize = 2;
/// How long a query waits for its turn.
const TURN_MAX: Duration = Duration::from_secs(5);
/// What scans call the place of data files.
const FILES_URL: &str = "systole://files";
/// Consumers a memory error names.
const CONSUMERS_NAMED: usize = 5;

/// Runs queries over a store.
#[derive(Debug)]
pub struct QueryPool {
    pub(super) store: Arc<Store>,
    pub(super) readers: Arc<CheckedReaders>,
    pub(super) context: Arc<TaskContext>,
    /// Queries that run at once; DataFusion's memory pool does not count what
    /// scans decode, so their number is bounded too. Full waits for [`TURN_MAX`].
    pub(super) running: Arc<Semaphore>,
    pub(super) runtime: Option<Runtime>,
    sql: Sql,
}

/// An answer as it comes; dropping it cancels the query.
#[derive(Debug)]
pub struct SampleStream {
    chunks: mpsc::Receiver<Result<SampleChunk, QueryError>>,
}

impl SampleStream {
    /// The next samples; `None` at the end.
    pub async fn next(&mut self) -> Option<Result<SampleChunk, QueryError>> {
        self.chunks.recv().await
    }
}

impl QueryPool {
    /// Starts the runtimes, SQL with the default limits.
    ///
    /// # Errors
    /// The system's, if threads cannot be started.
    pub fn start(
        store: Arc<Store>,
        threads: usize,
        concurrency: usize,
        memory_bytes: usize,
    ) -> std::io::Result<QueryPool> {
        QueryPool::start_with(store, threads, concurrency, memory_bytes, SqlLimits::default())
    }

    /// Starts the runtimes, SQL with these limits.
    ///
    /// # Errors
    /// The system's, if threads cannot be started.
    pub fn start_with(
        store: Arc<Store>,
        threads: usize,
        concurrency: usize,
        memory_bytes: usize,
        limits: SqlLimits,
    ) -> std::io::Result<QueryPool> {
        let runtime = Builder::new_multi_thread()
            .worker_threads(threads.max(1))
            .thread_name("query")
            .enable_time()
            .build()?;
        let environment = environment(memory_bytes).map_err(std::io::Error::other)?;
        let readers: Arc<CheckedReaders> = Arc::default();
        let sql = Sql::start(store.clone(), readers.clone(), environment.clone(), threads, limits)?;
        let config = SessionConfig::new().with_target_partitions(1);
        let context = SessionContext::new_with_config_rt(config, environment).task_ctx();
        Ok(QueryPool {
            store,
            readers,
            context,
            running: Arc::new(Semaphore::new(concurrency.max(1))),
            runtime: Some(runtime),
            sql,
        })
    }

    /// The answer of a statement. It is given once it is whole, or once it is known that
    /// all its rows can come; what fails later comes through it.
    ///
    /// # Errors
    /// [`SqlError`].
    pub async fn sql(&self, question: SqlQuestion) -> Result<SqlAnswer, SqlError> {
        self.sql.answer(question).await
    }

    /// Statements that run now.
    #[must_use]
    pub fn sql_running(&self) -> usize {
        self.sql.running()
    }

    /// One user's samples of one metric, over one snapshot taken now.
    ///
    /// # Errors
    /// [`QueryError::Busy`], [`QueryError::Stopping`]; what fails later comes through the stream.
    pub async fn samples(&self, query: SeriesQuery) -> Result<SampleStream, QueryError> {
        let permit = self.permit().await?;
        let table = SamplesTable::new(&query.org, self.store.snapshot(), self.readers.clone());
        let (sender, chunks) = mpsc::channel(CHUNKS_AHEAD);
        let context = self.context.clone();
        let running = self.running.clone();
        let runtime = self.runtime.as_ref().ok_or(QueryError::Stopping)?;
        runtime.spawn(async move {
            let mut answer = Answer { query, table, context, sender, running, permit: Some(permit) };
            if let Err(error) = answer.run().await {
                // Nobody may be there to hear it.
                let _ = answer.sender.send(Err(error)).await;
            }
        });
        Ok(SampleStream { chunks })
    }

    /// The newest value of each metric of a user, sorted by metric. Of a user in
    /// memory it runs where it is called and reads one record; of an evicted one
    /// it reads files on the query runtime, in turn with other queries. So do metrics
    /// of which a part is being deleted.
    ///
    /// # Errors
    /// [`QueryError`].
    pub async fn latest(&self, org: &str, user: &str) -> Result<Vec<LatestValue>, QueryError> {
        // Before the map is read: what was deleted stands here until the map is right.
        let hidden = self.store.hidden();
        let values = self.of_map(org, user).await?;
        self.shown_latest(org, user, &hidden, values).await
    }

    async fn of_map(&self, org: &str, user: &str) -> Result<Vec<LatestValue>, QueryError> {
        if let Some(values) = self.store.series().latest_in_memory(org, user) {
            return Ok(values);
        }
        let permit = self.permit().await?;
        let runtime = self.runtime.as_ref().ok_or(QueryError::Stopping)?;
        let (store, org, user) = (self.store.clone(), org.to_owned(), user.to_owned());
        let reading = runtime.spawn_blocking(move || {
            let _permit = permit;
            store.series().latest(&org, &user)
        });
        let values = reading.await.map_err(|_| QueryError::Stopping)?;
        values.map_err(|error| DataFusionError::External(Box::new(error)).into())
    }

    /// What a series held before a frame, at some times. Runs on the calling
    /// thread, which must be none of a runtime; one at a time is meant to. A user
    /// that was evicted is read back, so that its next marks are exact.
    ///
    /// # Errors
    /// [`QueryError`].
    pub fn state_before(&self, question: &StateQuestion<'_>) -> Result<Vec<StateRow>, QueryError> {
        if let Err(error) = self.store.series().read_back(question.org, question.series.user) {
            let error: &dyn std::error::Error = &error;
            tracing::debug!(error, "a user is not read back, its marks stay 'look'");
        }
        let table = SamplesTable::new(question.org, self.store.snapshot(), self.readers.clone());
        let runtime = self.runtime.as_ref().ok_or(QueryError::Stopping)?;
        runtime.block_on(question.answer(&table, &self.context))
    }

    pub(super) async fn permit(&self) -> Result<OwnedSemaphorePermit, QueryError> {
        let turn = tokio::time::timeout(TURN_MAX, self.running.clone().acquire_owned()).await;
        turn.map_err(|_| QueryError::Busy)?.map_err(|_| QueryError::Stopping)
    }
}

/// What all queries share: memory, and nothing else. No query writes to the disk, and
/// none finds a file but those it is handed.
fn environment(memory_bytes: usize) -> Result<Arc<RuntimeEnv>, DataFusionError> {
    let pool = TrackConsumersPool::new(
        FairSpillPool::new(memory_bytes),
        std::num::NonZeroUsize::new(CONSUMERS_NAMED).expect("not zero"),
    );
    RuntimeEnvBuilder::new()
        .with_memory_pool(Arc::new(pool))
        .with_disk_manager_builder(DiskManagerBuilder::default().with_mode(DiskManagerMode::Disabled))
        .with_object_store_registry(Arc::new(NoStores))
        .build_arc()
}

/// A place that scans of data files name; what they read comes from [`CheckedReaders`].
pub(super) fn files_url() -> ObjectStoreUrl {
    ObjectStoreUrl::parse(FILES_URL).expect("the constant is a URL")
}

/// Object stores: an empty one for [`files_url`], and no way to add another.
#[derive(Debug)]
struct NoStores;

impl ObjectStoreRegistry for NoStores {
    fn register_store(&self, _: &Url, _: Arc<dyn ObjectStore>) -> Option<Arc<dyn ObjectStore>> {
        None
    }

    fn get_store(&self, url: &Url) -> Result<Arc<dyn ObjectStore>, DataFusionError> {
        match url.as_str().trim_end_matches('/') == FILES_URL {
            true => Ok(Arc::new(InMemory::new())),
            false => Err(DataFusionError::Plan("there are no files to read".to_owned())),
        }
    }
}

impl Drop for QueryPool {
    fn drop(&mut self) {
        self.running.close();
        if let Some(runtime) = self.runtime.take() {
            // May be dropped inside another runtime, which must not block.
            runtime.shutdown_background();
        }
    }
}

/// A series query at work.
struct Answer {
    query: SeriesQuery,
    table: SamplesTable,
    context: Arc<TaskContext>,
    sender: mpsc::Sender<Result<SampleChunk, QueryError>>,
    running: Arc<Semaphore>,
    /// Its place among the running queries; given up while the reader is slow.
    permit: Option<OwnedSemaphorePermit>,
}

/// Whether an answer goes on.
#[derive(PartialEq)]
enum Next {
    More,
    Done,
}

impl Answer {
    async fn run(&mut self) -> Result<(), QueryError> {
        let (start, end) = self.bounds();
        let located = self.table.locate(&self.query.user, &self.query.metric, start, end);
        let Some((start, end)) = located.clip(start, end) else {
            return Ok(());
        };
        match self.query.order {
            Order::Ascending => self.forwards(&located, start, end).await,
            Order::Descending => self.backwards(&located, start, end).await,
        }
    }

    /// The window, cut at the page's start.
    fn bounds(&self) -> (i64, i64) {
        let SeriesQuery { start, end, .. } = self.query;
        match (&self.query.after, self.query.order) {
            (Some(after), Order::Ascending) => (start.max(after.recorded_at), end),
            (Some(after), Order::Descending) => (start, end.min(after.recorded_at.saturating_add(1))),
            (None, _) => (start, end),
        }
    }

    /// The files' own order: streamed.
    async fn forwards(&mut self, located: &Located, start: i64, end: i64) -> Result<(), QueryError> {
        let mut slices = Slices::new(start, end, Order::Ascending);
        while let Some(slice) = slices.next() {
            let Some(mut batches) = self.open(located, slice, &mut slices)? else {
                continue;
            };
            let mut rows = 0;
            while let Some(batch) = batches.next().await {
                let batch = batch?;
                rows += batch.num_rows();
                if self.send(SampleChunk::new(&batch, Order::Ascending)).await == Next::Done {
                    return Ok(());
                }
            }
            // Behind a burst that was cut, slices grow again.
            slices.found(rows);
        }
        Ok(())
    }

    /// Against the files' order: slice by slice from the end.
    async fn backwards(&mut self, located: &Located, start: i64, end: i64) -> Result<(), QueryError> {
        let mut slices = Slices::new(start, end, Order::Descending);
        while let Some(slice) = slices.next() {
            let Some(batches) = self.whole(located, slice, &mut slices).await? else {
                continue;
            };
            for batch in batches.iter().rev() {
                if self.send(SampleChunk::new(batch, Order::Descending)).await == Next::Done {
                    return Ok(());
                }
            }
        }
        Ok(())
    }

    /// The stream of a slice; `None` if the buffers alone hold too much of it and
    /// it was handed back.
    fn open(
        &self,
        located: &Located,
        slice: (i64, i64),
        slices: &mut Slices,
    ) -> Result<Option<SendableRecordBatchStream>, QueryError> {
        let scan = self.scan(slice.0, slice.1);
        if count_rows(&scan, &located.groups) > SLICE_ROWS_MAX && slices.too_much(slice) {
            return Ok(None);
        }
        let plan = self.table.plan(&scan, located, &SERIES_COLUMNS)?;
        Ok(Some(execute_stream(plan, self.context.clone())?))
    }

    /// All rows of a slice; `None` if they are too many and it was handed back.
    async fn whole(
        &self,
        located: &Located,
        slice: (i64, i64),
        slices: &mut Slices,
    ) -> Result<Option<Vec<RecordBatch>>, QueryError> {
        let Some(mut stream) = self.open(located, slice, slices)? else {
            return Ok(None);
        };
        let (mut batches, mut rows) = (Vec::new(), 0);
        while let Some(batch) = stream.next().await {
            let batch = batch?;
            rows += batch.num_rows();
            batches.push(batch);
            if rows > SLICE_ROWS_MAX && slices.too_much(slice) {
                return Ok(None);
            }
        }
        slices.found(rows);
        Ok(Some(batches))
    }

    async fn send(&mut self, mut chunk: SampleChunk) -> Next {
        if let Some(after) = &self.query.after {
            chunk.skip_through(after);
        }
        if let Some(limit) = &mut self.query.limit {
            chunk.truncate(*limit);
            *limit -= chunk.len();
        }
        let done = self.query.limit == Some(0);
        let gone = !chunk.is_empty() && !self.hand_over(chunk).await;
        if done || gone { Next::Done } else { Next::More }
    }

    /// Gives a chunk to the reader; false if it is gone. A reader that is not
    /// ready keeps no place among the running queries.
    async fn hand_over(&mut self, chunk: SampleChunk) -> bool {
        let chunk = match self.sender.try_send(Ok(chunk)) {
            Ok(()) => return true,
            Err(TrySendError::Closed(_)) => return false,
            Err(TrySendError::Full(chunk)) => chunk,
        };
        self.permit = None;
        let taken = self.sender.send(chunk).await.is_ok();
        self.permit = self.running.clone().acquire_owned().await.ok();
        taken && self.permit.is_some()
    }

    fn scan(&self, start: i64, end: i64) -> Scan {
        Scan {
            org: self.query.org.clone(),
            user: self.query.user.clone(),
            metric: self.query.metric.clone(),
            source: self.query.source.clone(),
            start,
            end,
            before: None,
        }
    }
}
