//! A query at work, from its snapshot to what is handed out.
//!
//! Chunks of samples go through a [`Shape`]: as they are, or folded into buckets.
//! What it gives goes into a channel of [`ITEMS_AHEAD`]; a full one stops the query
//! and gives its place to others. A reader that is gone ends it at the next chunk.

use std::ops::Range;
use std::sync::Arc;

use arrow::array::RecordBatch;
use tokio::sync::mpsc::error::TrySendError;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};

use super::bucket::{Bucket, Fold};
use super::chunk::SERIES_COLUMNS;
use super::memory::count_rows;
use super::reads::Reads;
use super::table::{Located, Rows};
use super::window::{Density, SLICE_ROWS_MAX, Slices, Want};
use super::{Order, Position, QueryError, SampleChunk, SamplesTable, Scan, SeriesQuery};

/// Rows that are handed out and rendered at once: about a megabyte of JSON.
const CHUNK_ROWS: usize = 8 * 1024;
/// Items that wait for a slow reader; then the query waits too.
const ITEMS_AHEAD: usize = 2;

/// An answer as it comes; dropping it cancels the query.
#[derive(Debug)]
pub struct AnswerStream<T> {
    items: mpsc::Receiver<Result<T, QueryError>>,
    reads: Arc<Reads>,
}

/// Samples as they are.
pub type SampleStream = AnswerStream<SampleChunk>;

/// Samples in buckets.
pub type BucketStream = AnswerStream<Vec<Bucket>>;

impl<T> AnswerStream<T> {
    /// The next part; `None` at the end.
    pub async fn next(&mut self) -> Option<Result<T, QueryError>> {
        self.items.recv().await
    }

    /// What was read for it so far.
    #[must_use]
    pub fn reads(&self) -> &Reads {
        &self.reads
    }
}

/// What chunks of samples become. They come in the order asked for.
pub(super) trait Shape: Send + 'static {
    type Item: Send + 'static;

    /// The part of the window that has to be read.
    fn bounds(&self, start: i64, end: i64) -> (i64, i64);

    /// Takes a chunk in; gives what can be handed out by now.
    fn take(&mut self, chunk: SampleChunk) -> Result<Option<Self::Item>, QueryError>;

    /// Whether nothing that follows would change the answer.
    fn is_full(&self) -> bool;

    /// What is left, once nothing follows or nothing more is wanted.
    fn finish(&mut self) -> Option<Self::Item>;

    /// How much of the window it is likely to take.
    fn wants(&self) -> Want;
}

/// Samples as they are, within a page.
#[derive(Debug)]
pub(super) struct Page {
    pub(super) order: Order,
    pub(super) after: Option<Position>,
    pub(super) limit: Option<usize>,
}

impl Shape for Page {
    type Item = SampleChunk;

    fn bounds(&self, start: i64, end: i64) -> (i64, i64) {
        match (&self.after, self.order) {
            (Some(after), Order::Ascending) => (start.max(after.recorded_at), end),
            (Some(after), Order::Descending) => (start, end.min(after.recorded_at.saturating_add(1))),
            (None, _) => (start, end),
        }
    }

    fn take(&mut self, mut chunk: SampleChunk) -> Result<Option<SampleChunk>, QueryError> {
        if let Some(after) = &self.after {
            chunk.skip_through(after);
        }
        if let Some(limit) = &mut self.limit {
            chunk.truncate(*limit);
            *limit -= chunk.len();
        }
        Ok((!chunk.is_empty()).then_some(chunk))
    }

    fn is_full(&self) -> bool {
        self.limit == Some(0)
    }

    fn finish(&mut self) -> Option<SampleChunk> {
        None
    }

    fn wants(&self) -> Want {
        self.limit.map_or(Want::All, Want::Rows)
    }
}

impl Shape for Fold {
    type Item = Vec<Bucket>;

    fn bounds(&self, start: i64, end: i64) -> (i64, i64) {
        Fold::bounds(self, start, end)
    }

    fn take(&mut self, chunk: SampleChunk) -> Result<Option<Vec<Bucket>>, QueryError> {
        self.add(&chunk)?;
        Ok(self.ready(false))
    }

    fn is_full(&self) -> bool {
        Fold::is_full(self)
    }

    fn finish(&mut self) -> Option<Vec<Bucket>> {
        self.end();
        self.ready(true)
    }

    fn wants(&self) -> Want {
        if self.is_limited() { Want::Some } else { Want::All }
    }
}

/// What a query runs with.
pub(super) struct Parts {
    pub(super) query: SeriesQuery,
    pub(super) table: SamplesTable,
    pub(super) density: Arc<Density>,
    pub(super) running: Arc<Semaphore>,
    pub(super) permit: OwnedSemaphorePermit,
}

/// A query at work.
pub(super) struct Answer<S: Shape> {
    query: SeriesQuery,
    shape: S,
    table: SamplesTable,
    density: Arc<Density>,
    reads: Arc<Reads>,
    sender: mpsc::Sender<Result<S::Item, QueryError>>,
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

/// Rows in the pieces that are handed out, in the order asked for.
fn parts(rows: usize, order: Order) -> impl Iterator<Item = Range<usize>> {
    let count = rows.div_ceil(CHUNK_ROWS);
    (0..count).map(move |at| match order {
        Order::Ascending => at * CHUNK_ROWS..((at + 1) * CHUNK_ROWS).min(rows),
        Order::Descending => rows.saturating_sub((at + 1) * CHUNK_ROWS)..rows - at * CHUNK_ROWS,
    })
}

/// All rows of a slice, whose bounds are those of `scan`; `None` if they are too many
/// and it was handed back.
pub(super) fn read_slice(
    table: &SamplesTable,
    scan: &Scan,
    located: &Located,
    columns: &[&str],
    slices: &mut Slices,
) -> Result<Option<RecordBatch>, QueryError> {
    let slice = (scan.start, scan.end);
    if count_rows(scan, &located.groups) > SLICE_ROWS_MAX && slices.too_much(slice) {
        return Ok(None);
    }
    let rows = match table.read(scan, located, columns, SLICE_ROWS_MAX)? {
        Rows::TooMany if slices.too_much(slice) => return Ok(None),
        // A millisecond cannot be cut.
        Rows::TooMany => table.read(scan, located, columns, usize::MAX)?,
        rows => rows,
    };
    match rows {
        Rows::All(rows) => {
            slices.found(rows.num_rows());
            Ok(Some(rows))
        }
        Rows::TooMany => unreachable!("nothing is more than all"),
    }
}

impl<S: Shape> Answer<S> {
    pub(super) fn new(parts: Parts, shape: S) -> (Answer<S>, AnswerStream<S::Item>) {
        let (sender, items) = mpsc::channel(ITEMS_AHEAD);
        let reads = Arc::new(Reads::default());
        let Parts { query, table, density, running, permit } = parts;
        let permit = Some(permit);
        let stream = AnswerStream { items, reads: reads.clone() };
        (Answer { query, shape, table, density, reads, sender, running, permit }, stream)
    }

    /// Answers to the end, or as long as there is a reader.
    pub(super) async fn run(mut self) {
        let outcome = self.answer().await;
        self.reads.trace(&self.query);
        if let Err(error) = outcome {
            // Nobody may be there to hear it.
            let _ = self.sender.send(Err(error)).await;
        }
    }

    async fn answer(&mut self) -> Result<(), QueryError> {
        if self.shape.is_full() {
            return Ok(());
        }
        let (start, end) = self.shape.bounds(self.query.start, self.query.end);
        let mut located = self.table.locate(&self.query.user, &self.query.metric, start, end);
        located.reads = self.reads.clone();
        if let Some((start, end)) = located.clip(start, end)
            && self.slices(&located, start, end).await? == Next::Done
        {
            return Ok(());
        }
        if let Some(rest) = self.shape.finish() {
            self.hand_over(rest).await;
        }
        Ok(())
    }

    /// Slice by slice, in the order asked for: files are sorted oldest first, so newest
    /// first is read from the window's end.
    async fn slices(&mut self, located: &Located, start: i64, end: i64) -> Result<Next, QueryError> {
        let order = self.query.order;
        let width = self.density.width(&self.query.org, &self.query.metric, self.shape.wants());
        let mut slices = Slices::new(start, end, order, width);
        while let Some(slice) = slices.next() {
            let Some(rows) = self.read(located, slice, &mut slices)? else {
                continue;
            };
            for part in parts(rows.num_rows(), order) {
                let part = rows.slice(part.start, part.len());
                if self.send(SampleChunk::new(&part, order)).await? == Next::Done {
                    return Ok(Next::Done);
                }
            }
        }
        Ok(Next::More)
    }

    /// All rows of a slice; `None` if they are too many and it was handed back.
    fn read(
        &self,
        located: &Located,
        slice: (i64, i64),
        slices: &mut Slices,
    ) -> Result<Option<RecordBatch>, QueryError> {
        let rows = read_slice(&self.table, &self.scan(slice.0, slice.1), located, &SERIES_COLUMNS, slices)?;
        if let Some(rows) = &rows {
            self.density.learn(&self.query.org, &self.query.metric, rows.num_rows(), slice);
        }
        Ok(rows)
    }

    async fn send(&mut self, chunk: SampleChunk) -> Result<Next, QueryError> {
        let ready = self.shape.take(chunk)?;
        let full = self.shape.is_full();
        if let Some(item) = ready
            && !self.hand_over(item).await
        {
            return Ok(Next::Done);
        }
        if full {
            if let Some(rest) = self.shape.finish() {
                self.hand_over(rest).await;
            }
            return Ok(Next::Done);
        }
        if self.sender.is_closed() {
            return Ok(Next::Done);
        }
        // A fold may take many chunks in before it hands one out.
        tokio::task::consume_budget().await;
        Ok(Next::More)
    }

    /// Gives an item to the reader; false if it is gone. A reader that is not
    /// ready keeps no place among the running queries.
    async fn hand_over(&mut self, item: S::Item) -> bool {
        let item = match self.sender.try_send(Ok(item)) {
            Ok(()) => return true,
            Err(TrySendError::Closed(_)) => return false,
            Err(TrySendError::Full(item)) => item,
        };
        self.permit = None;
        let taken = self.sender.send(item).await.is_ok();
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
