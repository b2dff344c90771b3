//! Where queries run: a small runtime of its own, so many at once.

use std::sync::Arc;
use std::time::Duration;

use arrow::array::RecordBatch;
use datafusion::execution::memory_pool::{FairSpillPool, TrackConsumersPool};
use datafusion::execution::runtime_env::RuntimeEnvBuilder;
use datafusion::execution::{SendableRecordBatchStream, TaskContext};
use datafusion::physical_plan::{collect, execute_stream};
use datafusion::prelude::{SessionConfig, SessionContext};
use futures_util::StreamExt;
use tokio::runtime::{Builder, Runtime};
use tokio::sync::mpsc::error::TrySendError;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};

use super::chunk::SERIES_COLUMNS;
use super::memory::count_rows;
use super::metadata::CheckedReaders;
use super::state::{StateQuestion, StateRow};
use super::table::Located;
use super::window::{SLICE_ROWS_MAX, Slices};
use super::{LatestTable, Order, QueryError, SampleChunk, SamplesTable, Scan, SeriesQuery};
use crate::series::LatestValue;
use crate::store::Store;

/// Chunks that wait for a slow reader; then the query waits too.
const CHUNKS_AHEAD: usize = 2;
/// How long a query waits for its turn.
const TURN_MAX: Duration = Duration::from_secs(5);
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
    /// Starts the runtime.
    ///
    /// # Errors
    /// The system's, if threads cannot be started.
    pub fn start(
        store: Arc<Store>,
        threads: usize,
        concurrency: usize,
        memory_bytes: usize,
    ) -> std::io::Result<QueryPool> {
        let runtime = Builder::new_multi_thread()
            .worker_threads(threads.max(1))
            .thread_name("query")
            .enable_time()
            .build()?;
        let pool = TrackConsumersPool::new(
            FairSpillPool::new(memory_bytes),
            std::num::NonZeroUsize::new(CONSUMERS_NAMED).expect("not zero"),
        );
        let environment = RuntimeEnvBuilder::new()
            .with_memory_pool(Arc::new(pool))
            .build_arc()
            .map_err(std::io::Error::other)?;
        let config = SessionConfig::new().with_target_partitions(1);
        let context = SessionContext::new_with_config_rt(config, environment).task_ctx();
        Ok(QueryPool {
            store,
            readers: Arc::default(),
            context,
            running: Arc::new(Semaphore::new(concurrency.max(1))),
            runtime: Some(runtime),
        })
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

    /// The newest value of each metric of a user. Runs where it is called: it
    /// reads one entry of the series map and no file, but for metrics of which a part
    /// is being deleted.
    ///
    /// # Errors
    /// [`QueryError`].
    pub async fn latest(&self, org: &str, user: &str) -> Result<Vec<LatestValue>, QueryError> {
        // Before the map is read: what was deleted stands here until the map is right.
        let hidden = self.store.hidden();
        let plan = LatestTable::new(org, self.store.clone()).plan(user, None)?;
        let values = LatestTable::values(&collect(plan, self.context.clone()).await?);
        self.shown_latest(org, user, &hidden, values).await
    }

    /// What a series held before a frame, at some times. Runs on the calling
    /// thread, which must be none of a runtime; one at a time is meant to.
    ///
    /// # Errors
    /// [`QueryError`].
    pub fn state_before(&self, question: &StateQuestion<'_>) -> Result<Vec<StateRow>, QueryError> {
        let table = SamplesTable::new(question.org, self.store.snapshot(), self.readers.clone());
        let runtime = self.runtime.as_ref().ok_or(QueryError::Stopping)?;
        runtime.block_on(question.answer(&table, &self.context))
    }

    pub(super) async fn permit(&self) -> Result<OwnedSemaphorePermit, QueryError> {
        let turn = tokio::time::timeout(TURN_MAX, self.running.clone().acquire_owned()).await;
        turn.map_err(|_| QueryError::Busy)?.map_err(|_| QueryError::Stopping)
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
