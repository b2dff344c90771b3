//! Where queries run: a small runtime of its own, so many at once, and another for SQL.

use std::sync::Arc;
use std::time::Duration;

use datafusion::error::DataFusionError;
use datafusion::execution::disk_manager::{DiskManagerBuilder, DiskManagerMode};
use datafusion::execution::memory_pool::{FairSpillPool, TrackConsumersPool};
use datafusion::execution::object_store::{ObjectStoreRegistry, ObjectStoreUrl};
use datafusion::execution::runtime_env::{RuntimeEnv, RuntimeEnvBuilder};
use datafusion::object_store::ObjectStore;
use datafusion::object_store::memory::InMemory;
use tokio::runtime::{Builder, Runtime};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use url::Url;

use super::answer::{Answer, AnswerStream, BucketStream, Page, Parts, SampleStream, Shape};
use super::bucket::Fold;
use super::footers::Footers;
use super::sql::{Sql, SqlAnswer, SqlError, SqlLimits, SqlQuestion};
use super::state::{StateQuestion, StateRow};
use super::window::Density;
use super::{BucketQuery, QueryError, SamplesTable, SeriesQuery};
use crate::series::LatestValue;
use crate::store::Store;

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
    pub(super) footers: Arc<Footers>,
    density: Arc<Density>,
    /// Queries that run at once; DataFusion's memory pool does not count what
    /// scans decode, so their number is bounded too. Full waits for [`TURN_MAX`].
    pub(super) running: Arc<Semaphore>,
    pub(super) runtime: Option<Runtime>,
    pub(super) sql: Sql,
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
        let (readers, footers) = (Arc::default(), Arc::<Footers>::default());
        let sql = Sql::start(store.clone(), readers, footers.clone(), environment, threads, limits)?;
        Ok(QueryPool {
            store,
            footers,
            density: Arc::default(),
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
            table: SamplesTable::new(&query.org, self.store.snapshot(), self.footers.clone()),
            query,
            density: self.density.clone(),
            running: self.running.clone(),
            permit,
        };
        let (answer, stream) = Answer::new(parts, shape);
        self.runtime.as_ref().ok_or(QueryError::Stopping)?.spawn(answer.run());
        Ok(stream)
    }

    /// The newest value of each metric of a user, sorted by metric. Of a user in
    /// memory it runs where it is called and reads one record; of an evicted one
    /// it reads files on the query runtime, in turn with other queries. So do metrics
    /// whose newest value is being deleted.
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
        let table = SamplesTable::new(question.org, self.store.snapshot(), self.footers.clone());
        question.answer(&table)
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
