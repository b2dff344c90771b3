//! A statement at work: planned and run on its own threads, read through a channel.

use std::collections::VecDeque;
use std::pin::pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};

use arrow::array::RecordBatch;
use bytes::Bytes;
use datafusion::catalog::TableProvider;
use datafusion::common::ScalarValue;
use datafusion::datasource::provider_as_source;
use datafusion::error::DataFusionError;
use datafusion::execution::SendableRecordBatchStream;
use datafusion::execution::context::SQLOptions;
use datafusion::execution::runtime_env::RuntimeEnv;
use datafusion::execution::session_state::SessionState;
use datafusion::functions_aggregate::expr_fn::count;
use datafusion::logical_expr::{Expr, LogicalPlan, LogicalPlanBuilder, lit};
use datafusion::physical_plan::{collect, execute_stream};
use futures_util::StreamExt;
use futures_util::future::{Either, select};
use tokio::runtime::{Builder, Runtime};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};

use super::encode::{CHUNK_ROWS, Encoder};
use super::session;
use super::statement::parse;
use super::{OrgSamples, SqlError, SqlFormat, SqlLimits, SqlQuestion};
use crate::frame::Sequence;
use crate::query::QueryError;
use crate::query::footers::Footers;
use crate::query::metadata::CheckedReaders;
use crate::store::{Snapshot, Store};

/// How much of an answer is held back until it is known to end well. What goes wrong up to
/// there has an error's status; behind it the connection is cut.
pub const HOLD_BYTES: usize = 8 * 1024 * 1024;
/// Chunks that wait for a slow reader; then the statement waits too.
const CHUNKS_AHEAD: usize = 2;
/// How long a statement waits for its turn.
const TURN_MAX: Duration = Duration::from_secs(5);
/// Planning is recursive, and so is dropping what was planned.
const STACK_BYTES: usize = 32 * 1024 * 1024;
/// How much more nice than others the threads are: a scan takes all the CPU there is.
const NICENESS: i32 = 10;

/// Runs statements.
#[derive(Debug)]
pub(in crate::query) struct Sql {
    base: SessionState,
    store: Arc<Store>,
    readers: Arc<CheckedReaders>,
    footers: Arc<Footers>,
    limits: SqlLimits,
    running: Arc<Semaphore>,
    /// One count at a time; more wait for as long as it takes.
    counting: Arc<Semaphore>,
    runtime: Option<Runtime>,
}

impl Sql {
    pub(in crate::query) fn start(
        store: Arc<Store>,
        readers: Arc<CheckedReaders>,
        footers: Arc<Footers>,
        environment: Arc<RuntimeEnv>,
        threads: usize,
        limits: SqlLimits,
    ) -> std::io::Result<Sql> {
        let runtime = Builder::new_multi_thread()
            .worker_threads(threads.max(1))
            .thread_name("sql")
            .thread_stack_size(STACK_BYTES)
            .on_thread_start(give_way)
            .enable_time()
            .build()?;
        Ok(Sql {
            base: session::base(environment, threads.max(1)),
            store,
            readers,
            footers,
            limits,
            running: Arc::new(Semaphore::new(limits.concurrency.max(1))),
            counting: Arc::new(Semaphore::new(1)),
            runtime: Some(runtime),
        })
    }

    /// Statements that run now.
    pub(in crate::query) fn running(&self) -> usize {
        self.limits.concurrency.max(1) - self.running.available_permits()
    }

    pub(in crate::query) async fn answer(&self, question: SqlQuestion) -> Result<SqlAnswer, SqlError> {
        let turn = tokio::time::timeout(TURN_MAX, self.running.clone().acquire_owned()).await;
        let permit = turn.map_err(|_| SqlError::Busy)?.map_err(|_| SqlError::Stopping)?;
        let (sender, messages) = mpsc::channel(CHUNKS_AHEAD);
        let runtime = self.runtime.as_ref().ok_or(SqlError::Stopping)?;
        let run = Run {
            base: self.base.clone(),
            store: self.store.clone(),
            readers: self.readers.clone(),
            footers: self.footers.clone(),
            sender,
            clock: Clock { spent: Duration::ZERO, limit: self.limits.timeout },
            rows_max: self.limits.rows_max,
            _permit: permit,
        };
        runtime.spawn(run.whole(question));
        SqlAnswer::begin(messages).await
    }

    /// How many samples of one organisation a condition holds of, as if nothing had come from
    /// frame `before` on that is still in memory. On the threads of statements, beside those
    /// that run, for as long as it takes.
    pub(in crate::query) async fn count(
        &self,
        org: &str,
        snapshot: Arc<Snapshot>,
        before: Sequence,
        condition: Expr,
    ) -> Result<u64, QueryError> {
        let permit = self.counting.clone().acquire_owned().await.map_err(|_| QueryError::Stopping)?;
        let runtime = self.runtime.as_ref().ok_or(QueryError::Stopping)?;
        let samples = OrgSamples::new(org, snapshot, self.readers.clone()).before(before);
        let state = self.base.clone();
        let counting = async move {
            let _permit = permit;
            let samples: Arc<dyn TableProvider> = Arc::new(samples);
            let rows = LogicalPlanBuilder::scan("samples", provider_as_source(samples), None)?;
            count_rows(&state, rows.filter(condition)?).await
        };
        Ok(runtime.spawn(counting).await.map_err(|_| QueryError::Stopping)??)
    }
}

/// How many rows a plan has.
async fn count_rows(state: &SessionState, rows: LogicalPlanBuilder) -> Result<u64, DataFusionError> {
    let counting = rows.aggregate(Vec::<Expr>::new(), [count(lit(1))])?.build()?;
    let counted = collect(state.create_physical_plan(&counting).await?, state.task_ctx()).await?;
    let found = counted.iter().find(|batch| batch.num_rows() > 0);
    match found.map(|batch| ScalarValue::try_from_array(batch.column(0), 0)).transpose()? {
        Some(ScalarValue::Int64(Some(rows))) => Ok(rows.unsigned_abs()),
        other => Err(DataFusionError::Internal(format!("a count is {other:?}"))),
    }
}

fn give_way() {
    if let Err(error) = rustix::process::nice(NICENESS) {
        tracing::debug!(%error, "an sql thread keeps its priority");
    }
}

impl Drop for Sql {
    fn drop(&mut self) {
        self.running.close();
        self.counting.close();
        if let Some(runtime) = self.runtime.take() {
            // May be dropped inside another runtime, which must not block.
            runtime.shutdown_background();
        }
    }
}

#[derive(Debug)]
enum Message {
    Chunk(Bytes),
    /// More is to come than is held back, and its rows are within the limit.
    Flows,
    End,
    Failed(SqlError),
}

/// An answer as it comes; dropping it ends the statement.
#[derive(Debug)]
pub struct SqlAnswer {
    held: VecDeque<Bytes>,
    /// `None` once all of it came.
    rest: Option<mpsc::Receiver<Message>>,
}

impl SqlAnswer {
    /// Waits until the answer is whole, or too long to be held.
    async fn begin(mut messages: mpsc::Receiver<Message>) -> Result<SqlAnswer, SqlError> {
        let mut held = VecDeque::new();
        loop {
            match messages.recv().await {
                Some(Message::Chunk(bytes)) => held.push_back(bytes),
                Some(Message::Flows) => return Ok(SqlAnswer { held, rest: Some(messages) }),
                Some(Message::End) => return Ok(SqlAnswer { held, rest: None }),
                Some(Message::Failed(error)) => return Err(error),
                None => return Err(ended_early()),
            }
        }
    }

    /// Its bytes, if all of them are here.
    #[must_use]
    pub fn whole(&self) -> Option<usize> {
        self.rest.is_none().then(|| self.held.iter().map(Bytes::len).sum())
    }

    /// The next bytes; `None` at the end. An answer that fails is not whole, however
    /// much of it came.
    pub fn poll_next(&mut self, context: &mut Context<'_>) -> Poll<Option<Result<Bytes, SqlError>>> {
        if let Some(bytes) = self.held.pop_front() {
            return Poll::Ready(Some(Ok(bytes)));
        }
        let Some(messages) = &mut self.rest else {
            return Poll::Ready(None);
        };
        loop {
            let outcome = match ready!(messages.poll_recv(context)) {
                Some(Message::Flows) => continue,
                Some(Message::Chunk(bytes)) => return Poll::Ready(Some(Ok(bytes))),
                Some(Message::End) => None,
                Some(Message::Failed(error)) => Some(Err(error)),
                None => Some(Err(ended_early())),
            };
            self.rest = None;
            return Poll::Ready(outcome);
        }
    }

    /// The next bytes; `None` at the end.
    pub async fn next(&mut self) -> Option<Result<Bytes, SqlError>> {
        std::future::poll_fn(|context| self.poll_next(context)).await
    }
}

fn ended_early() -> SqlError {
    let error = DataFusionError::Internal("a statement's task ended early".to_owned());
    SqlError::Failed(Arc::new(error))
}

/// The time a statement has left.
#[derive(Debug)]
struct Clock {
    spent: Duration,
    limit: Duration,
}

impl Clock {
    async fn run<T>(&mut self, work: impl Future<Output = T>) -> Result<T, SqlError> {
        let begun = Instant::now();
        let done = tokio::time::timeout(self.limit.saturating_sub(self.spent), work).await;
        self.spent += begun.elapsed();
        // Work that never waits is not interrupted, but its answer is late all the same.
        match done {
            Ok(done) if self.spent <= self.limit => Ok(done),
            _ => Err(SqlError::Timeout { seconds: self.limit.as_secs_f64() }),
        }
    }
}

/// Whether there is still somebody to answer.
enum Reader {
    There,
    Gone,
}

struct Run {
    base: SessionState,
    store: Arc<Store>,
    readers: Arc<CheckedReaders>,
    footers: Arc<Footers>,
    sender: mpsc::Sender<Message>,
    clock: Clock,
    rows_max: u64,
    /// Its place among those that run; its memory is taken as long.
    _permit: OwnedSemaphorePermit,
}

impl Run {
    async fn whole(mut self, question: SqlQuestion) {
        let sender = self.sender.clone();
        let (left, work) = (pin!(sender.closed()), pin!(self.run(&question)));
        let ended = match select(left, work).await {
            // The reader left: what the statement holds is dropped with its future.
            Either::Left(_) => return,
            Either::Right((ended, _)) => ended,
        };
        let last = match ended {
            Ok(Reader::There) => Message::End,
            Ok(Reader::Gone) => return,
            Err(error) => Message::Failed(error),
        };
        // Nobody may be there to hear it.
        let _ = sender.send(last).await;
    }

    async fn run(&mut self, question: &SqlQuestion) -> Result<Reader, SqlError> {
        let statement = parse(&question.text)?;
        let state = session::of_org(&self.base, &question.org, &self.store, &self.readers, &self.footers);
        let plan = self.clock.run(state.statement_to_plan(statement)).await??;
        only_reads(&plan)?;
        let rows = self.start(&state, &plan).await?;
        self.send_all(rows, question.format, &state, &plan).await
    }

    async fn start(
        &mut self,
        state: &SessionState,
        plan: &LogicalPlan,
    ) -> Result<SendableRecordBatchStream, SqlError> {
        let planned = self.clock.run(state.create_physical_plan(plan)).await??;
        Ok(execute_stream(planned, state.task_ctx())?)
    }

    async fn send_all(
        &mut self,
        mut rows: SendableRecordBatchStream,
        format: SqlFormat,
        state: &SessionState,
        plan: &LogicalPlan,
    ) -> Result<Reader, SqlError> {
        let mut encoder = Encoder::new(format, &rows.schema()).map_err(encoding)?;
        let (mut sent_rows, mut sent_bytes, mut flows) = (0, 0, false);
        while let Some(batch) = self.clock.run(rows.next()).await? {
            let batch = batch?;
            sent_rows += batch.num_rows() as u64;
            if sent_rows > self.rows_max {
                return Err(SqlError::Rows { max: self.rows_max });
            }
            for slice in slices(&batch, format) {
                let bytes = encoder.rows(&slice).map_err(encoding)?;
                sent_bytes += bytes.len();
                if self.sender.send(Message::Chunk(bytes)).await.is_err() {
                    return Ok(Reader::Gone);
                }
                if sent_bytes > HOLD_BYTES && !flows {
                    self.check_rows(state, plan).await?;
                    flows = true;
                    if self.sender.send(Message::Flows).await.is_err() {
                        return Ok(Reader::Gone);
                    }
                }
            }
        }
        let bytes = encoder.end().map_err(encoding)?;
        let sent = self.sender.send(Message::Chunk(bytes)).await;
        Ok(if sent.is_ok() { Reader::There } else { Reader::Gone })
    }

    /// Counts the rows of a long answer before the first of them is sent: a limit that is
    /// found out behind them could only cut the connection. Counting stops at the limit.
    async fn check_rows(&mut self, state: &SessionState, plan: &LogicalPlan) -> Result<(), SqlError> {
        let max = usize::try_from(self.rows_max).unwrap_or(usize::MAX);
        let limited = LogicalPlanBuilder::from(plan.clone()).limit(0, Some(max.saturating_add(1)))?;
        let rows = self.clock.run(count_rows(state, limited)).await??;
        if rows <= self.rows_max { Ok(()) } else { Err(SqlError::Rows { max: self.rows_max }) }
    }
}

/// Refuses what writes or changes anything, wherever in a plan it hides.
fn only_reads(plan: &LogicalPlan) -> Result<(), SqlError> {
    let options = SQLOptions::new().with_allow_ddl(false).with_allow_dml(false).with_allow_statements(false);
    options.verify_plan(plan).map_err(|fault| {
        let text = fault.find_root().message().into_owned();
        let named = text.rsplit(": ").next().unwrap_or_default().to_owned();
        SqlError::NotAllowed(named)
    })
}

/// A batch in pieces that are sent at once; readers of Arrow rather take it whole.
fn slices(batch: &RecordBatch, format: SqlFormat) -> impl Iterator<Item = RecordBatch> {
    let rows = if format == SqlFormat::Arrow { batch.num_rows().max(1) } else { CHUNK_ROWS };
    (0..batch.num_rows()).step_by(rows).map(move |at| batch.slice(at, rows.min(batch.num_rows() - at)))
}

fn encoding(fault: arrow::error::ArrowError) -> SqlError {
    SqlError::from(DataFusionError::from(fault))
}
