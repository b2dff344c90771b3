//! Where queries run: a small runtime of its own, so many at once.

use std::sync::Arc;
use std::time::Duration;

use datafusion::execution::TaskContext;
use datafusion::execution::memory_pool::{FairSpillPool, TrackConsumersPool};
use datafusion::execution::runtime_env::RuntimeEnvBuilder;
use datafusion::prelude::{SessionConfig, SessionContext};
use tokio::runtime::{Builder, Runtime};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::answer::{Answer, AnswerStream, BucketStream, Page, Parts, SampleStream, Shape};
use super::bucket::Fold;
use super::metadata::CheckedReaders;
use super::state::{StateQuestion, StateRow};
use super::window::Density;
use super::{BucketQuery, QueryError, SamplesTable, SeriesQuery};
use crate::series::LatestValue;
use crate::store::Store;

/// How long a query waits for its turn.
const TURN_MAX: Duration = Duration::from_secs(5);
/// Consumers a memory error names.
const CONSUMERS_NAMED: usize = 5;

/// Runs queries over a store.
#[derive(Debug)]
pub struct QueryPool {
    store: Arc<Store>,
    readers: Arc<CheckedReaders>,
    context: Arc<TaskContext>,
    density: Arc<Density>,
    /// Queries that run at once; DataFusion's memory pool does not count what
    /// scans decode, so their number is bounded too. Full waits for [`TURN_MAX`].
    running: Arc<Semaphore>,
    runtime: Option<Runtime>,
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
            density: Arc::default(),
            running: Arc::new(Semaphore::new(concurrency.max(1))),
            runtime: Some(runtime),
        })
    }

    /// One user's samples of one metric, over one snapshot taken now.
    ///
    /// # Errors
    /// [`QueryError::Busy`], [`QueryError::Stopping`]; what fails later comes through the stream.
    pub async fn samples(&self, query: SeriesQuery) -> Result<SampleStream, QueryError> {
        let shape = Page { order: query.order, after: query.after.clone(), limit: query.limit };
        self.answer(query, shape).await
    }

    /// One user's samples of one metric in buckets, over one snapshot taken now.
    ///
    /// # Errors
    /// [`QueryError::Busy`], [`QueryError::Stopping`]; what fails later comes through the stream.
    pub async fn buckets(&self, query: BucketQuery) -> Result<BucketStream, QueryError> {
        let BucketQuery { series, bucketing, after } = query;
        let fold = Fold::new(bucketing, series.order, after, series.limit);
        self.answer(series, fold).await
    }

    async fn answer<S: Shape>(
        &self,
        query: SeriesQuery,
        shape: S,
    ) -> Result<AnswerStream<S::Item>, QueryError> {
        let permit = self.permit().await?;
        let parts = Parts {
            table: SamplesTable::new(&query.org, self.store.snapshot(), self.readers.clone()),
            query,
            context: self.context.clone(),
            density: self.density.clone(),
            running: self.running.clone(),
            permit,
        };
        let (answer, stream) = Answer::new(parts, shape);
        self.runtime.as_ref().ok_or(QueryError::Stopping)?.spawn(answer.run());
        Ok(stream)
    }

    /// The newest value of each metric of a user, sorted by metric. Runs where it is
    /// called and without a plan: it reads one entry of the series map and no file.
    ///
    /// # Errors
    /// [`QueryError`].
    pub async fn latest(&self, org: &str, user: &str) -> Result<Vec<LatestValue>, QueryError> {
        Ok(self.store.series().latest(org, user))
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

    async fn permit(&self) -> Result<OwnedSemaphorePermit, QueryError> {
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
