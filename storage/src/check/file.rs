//! One data file: its bytes against the catalog's checksums, then its rows.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use parquet::arrow::arrow_reader::{
    ArrowReaderMetadata, ArrowReaderOptions, ParquetRecordBatchReaderBuilder,
};

use super::fault::chain;
use super::rows::RowCheck;
use super::{Context, Fault};
use crate::files::{BLOCK_BYTES, Block, CheckedFile, DataFile, block_schema, check_blocks, samples_schema};

/// Bytes read at a time.
const READ_BLOCKS: usize = 16;
/// Rows decoded at a time.
const BATCH_ROWS: usize = 8 * 1024;
/// Broken blocks that are named; a file with more is lost anyhow.
const BROKEN_BLOCKS_MAX: usize = 16;

pub(super) fn check(context: &Context<'_>, file: &Arc<DataFile>) {
    // Its rows say nothing while its bytes are not those that were written.
    if check_bytes(context, file) {
        check_content(context, file);
    } else {
        context.unread.store(true, Ordering::Relaxed);
    }
    context.done();
}

/// Whether all its bytes are those that were written; reports what is not.
pub(super) fn check_bytes(context: &Context<'_>, file: &Arc<DataFile>) -> bool {
    let record = &file.record;
    let path = || record.path.clone();
    let unreadable = |error: std::io::Error| {
        context.fault(Fault::Unreadable { path: path(), what: error.to_string() });
        false
    };
    let actual = match context.disk.byte_len(&file.path) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            context.fault(Fault::Missing { path: path() });
            context.read(record.bytes);
            return false;
        }
        Err(error) => return unreadable(error),
        Ok(actual) => actual,
    };
    if actual != record.bytes {
        context.fault(Fault::Length { path: path(), expected: record.bytes, actual });
    }
    let open = match file.open() {
        Ok(open) => open,
        Err(error) => return unreadable(error),
    };
    let mut bytes = vec![0; READ_BLOCKS * BLOCK_BYTES];
    let (mut at, mut broken) = (0, 0);
    let end = actual.min(record.bytes);
    while at < end {
        let part = usize::try_from(end - at).unwrap_or(usize::MAX).min(bytes.len());
        let part = &mut bytes[..part];
        if let Err(error) = open.read_exact_at(part, at) {
            return unreadable(error);
        }
        let first = usize::try_from(at).unwrap_or(usize::MAX) / BLOCK_BYTES;
        for (block, content) in (first..).zip(part.chunks(BLOCK_BYTES)) {
            if let Err(fault) = check_blocks(content, block, &record.block_crc32c) {
                broken += 1;
                if broken <= BROKEN_BLOCKS_MAX {
                    context.fault(Fault::Block { path: path(), fault });
                }
            }
        }
        at += part.len() as u64;
        context.read(part.len() as u64);
    }
    actual == record.bytes && broken == 0
}

fn check_content(context: &Context<'_>, file: &Arc<DataFile>) {
    let path = || file.record.path.clone();
    if let Err(what) = check_rows(context, file) {
        context.unread.store(true, Ordering::Relaxed);
        context.fault(Fault::Format { path: path(), what });
    }
}

/// Reads footer and rows; what the reader says if it cannot.
fn check_rows(context: &Context<'_>, file: &Arc<DataFile>) -> Result<(), String> {
    let record = &file.record;
    let said = |error: parquet::errors::ParquetError| chain(&error);
    let reader = CheckedFile::open(file).map_err(|error| chain(&error))?;
    let own = ArrowReaderMetadata::load(&reader, ArrowReaderOptions::new()).map_err(said)?;
    if own.schema().fields() != samples_schema().fields() {
        return Err("its columns are others".to_owned());
    }
    let rows = own.metadata().file_metadata().num_rows();
    if u64::try_from(rows).ok() != Some(record.rows) {
        context.fault(Fault::Statistics {
            path: record.path.clone(),
            what: "number of rows in the footer".to_owned(),
            expected: record.rows.to_string(),
            actual: rows.to_string(),
        });
    }
    let options = ArrowReaderOptions::new().with_schema(block_schema());
    let builder = ParquetRecordBatchReaderBuilder::try_new_with_options(reader, options).map_err(said)?;
    let batches = builder.with_batch_size(BATCH_ROWS).build().map_err(said)?;
    let mut rows = RowCheck::new(context, file);
    for batch in batches {
        let block = batch.map_err(|error| chain(&error)).map(|batch| Block::new(&batch));
        rows.block(&block?.map_err(|error| chain(&error))?);
    }
    rows.finish();
    Ok(())
}
