//! A data file as a stream of sorted rows.

use std::cmp::Ordering;
use std::sync::Arc;

use arrow::datatypes::SchemaRef;
use parquet::arrow::arrow_reader::{
    ArrowReaderOptions, ParquetRecordBatchReader, ParquetRecordBatchReaderBuilder,
};

use crate::files::{Block, CheckedFile, DataFile, FileReadError, block_schema};

/// Rows decoded at once.
const BATCH_ROWS: usize = 8 * 1024;

/// See the module. It stands at one row until it ends, and knows the one behind.
pub(super) struct Input {
    file: Arc<DataFile>,
    batches: ParquetRecordBatchReader,
    block: Arc<Block>,
    row: usize,
    /// Read ahead, so that a block's last row has a next one.
    next: Option<Arc<Block>>,
    /// No two of its rows have one key.
    unique: bool,
}

impl Input {
    /// Opens a file at its first row; `None` if it has none.
    pub(super) fn open(file: &Arc<DataFile>) -> Result<Option<Input>, FileReadError> {
        let parquet = |source| FileReadError::Parquet { path: file.record.path.clone(), source };
        let schema: SchemaRef = block_schema();
        let options = ArrowReaderOptions::new().with_schema(schema);
        let reader = CheckedFile::open(file)?;
        let builder = ParquetRecordBatchReaderBuilder::try_new_with_options(reader, options);
        let batches = builder.and_then(|builder| builder.with_batch_size(BATCH_ROWS).build());
        let mut batches = batches.map_err(parquet)?;
        let Some(block) = next_block(file, &mut batches)? else {
            return Ok(None);
        };
        let next = next_block(file, &mut batches)?;
        let unique = file.record.sections.iter().all(|section| section.unique);
        Ok(Some(Input { file: file.clone(), batches, block, row: 0, next, unique }))
    }

    /// The rows it stands in.
    pub(super) fn block(&self) -> &Arc<Block> {
        &self.block
    }

    /// The row it stands at.
    pub(super) fn row(&self) -> usize {
        self.row
    }

    /// Whether two of its rows may have one key.
    pub(super) fn may_repeat(&self) -> bool {
        !self.unique
    }

    /// Where the row behind `row` of this block stands, in this or the next block.
    pub(super) fn behind(&self, row: usize) -> Option<(&Block, usize)> {
        if row + 1 < self.block.rows() {
            return Some((&self.block, row + 1));
        }
        self.next.as_deref().map(|next| (next, 0))
    }

    /// Goes on to row `to` of this block, or to the next block; false at the end.
    pub(super) fn go_to(&mut self, to: usize) -> Result<bool, FileReadError> {
        self.row = to;
        if to < self.block.rows() {
            return Ok(true);
        }
        let Some(next) = self.next.take() else {
            return Ok(false);
        };
        (self.block, self.row) = (next, 0);
        self.next = next_block(&self.file, &mut self.batches)?;
        Ok(true)
    }
}

fn next_block(
    file: &Arc<DataFile>,
    batches: &mut ParquetRecordBatchReader,
) -> Result<Option<Arc<Block>>, FileReadError> {
    let path = || file.record.path.clone();
    loop {
        let Some(batch) = batches.next() else {
            return Ok(None);
        };
        let batch = batch.map_err(|error| FileReadError::Parquet { path: path(), source: error.into() })?;
        if batch.num_rows() > 0 {
            let block =
                Block::new(&batch).map_err(|source| FileReadError::Foreign { path: path(), source })?;
            return Ok(Some(Arc::new(block)));
        }
    }
}

/// Organisation, metric and user, which come first in the order of rows.
pub(super) fn compare_users(a: (&Block, usize), b: (&Block, usize)) -> Ordering {
    let orgs = a.0.org(a.1).cmp(b.0.org(b.1));
    orgs.then_with(|| a.0.metric(a.1).cmp(b.0.metric(b.1))).then_with(|| a.0.user(a.1).cmp(b.0.user(b.1)))
}

/// Two rows of one user and metric, by key.
pub(super) fn compare_keys(a: (&Block, usize), b: (&Block, usize)) -> Ordering {
    let times = a.0.recorded_at(a.1).cmp(&b.0.recorded_at(b.1));
    times
        .then_with(|| a.0.source(a.1).cmp(b.0.source(b.1)))
        .then_with(|| a.0.device(a.1).cmp(&b.0.device(b.1)))
}

/// The whole order of rows.
pub(super) fn compare(a: (&Block, usize), b: (&Block, usize)) -> Ordering {
    compare_users(a, b)
        .then_with(|| compare_keys(a, b))
        .then_with(|| a.0.sequence(a.1).cmp(&b.0.sequence(b.1)))
}
