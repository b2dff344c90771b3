//! How a scan of SQL opens a data file: blocks checked, footers cached.

use std::ops::Range;
use std::sync::Arc;

use bytes::Bytes;
use datafusion::datasource::listing::PartitionedFile;
use datafusion::datasource::physical_plan::ParquetFileReaderFactory;
use datafusion::error::DataFusionError;
use datafusion::physical_plan::metrics::ExecutionPlanMetricsSet;
use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use parquet::arrow::ARROW_SCHEMA_META_KEY;
use parquet::arrow::arrow_reader::ArrowReaderOptions;
use parquet::arrow::async_reader::AsyncFileReader;
use parquet::errors::{ParquetError, Result as ParquetResult};
use parquet::file::metadata::{
    FileMetaData, KeyValue, PageIndexPolicy, ParquetMetaData, ParquetMetaDataBuilder, ParquetMetaDataReader,
};
use quick_cache::Weighter;
use quick_cache::sync::Cache;

use crate::files::{CheckedFile, DataFile};

/// Footers and page indexes kept, bytes: about 50 KB for a file of a few
/// million rows, so some thousand files.
const CACHE_BYTES: u64 = 256 * 1024 * 1024;
/// Ranges that lie within this many bytes are read at once: the columns of a row
/// group are neighbours, and each read checks whole blocks.
const WINDOW_BYTES: u64 = 512 * 1024;
/// A guess of how many that are, which sizes the cache's tables.
const CACHE_ITEMS: usize = 4096;

#[derive(Clone, Debug)]
struct ByMemory;

impl Weighter<String, Arc<ParquetMetaData>> for ByMemory {
    fn weight(&self, _: &String, metadata: &Arc<ParquetMetaData>) -> u64 {
        metadata.memory_size() as u64
    }
}

/// Opens data files for scans; shared by all queries.
#[derive(Debug)]
pub(super) struct CheckedReaders {
    footers: Arc<Cache<String, Arc<ParquetMetaData>, ByMemory>>,
}

impl Default for CheckedReaders {
    fn default() -> CheckedReaders {
        CheckedReaders { footers: Arc::new(Cache::with_weighter(CACHE_ITEMS, CACHE_BYTES, ByMemory)) }
    }
}

impl ParquetFileReaderFactory for CheckedReaders {
    fn create_reader(
        &self,
        _partition: usize,
        file: PartitionedFile,
        _metadata_size_hint: Option<usize>,
        _metrics: &ExecutionPlanMetricsSet,
    ) -> Result<Box<dyn AsyncFileReader + Send>, DataFusionError> {
        let data = file.extension::<Arc<DataFile>>().ok_or_else(|| {
            DataFusionError::Internal("a scan of a file that is not the catalog's".to_owned())
        })?;
        let reader = CheckedFile::open(data).map_err(|error| DataFusionError::External(Box::new(error)))?;
        let (path, footers) = (data.record.path.clone(), self.footers.clone());
        Ok(Box::new(CheckedReader { reader, path, footers, window: (0, Bytes::new()) }))
    }
}

struct CheckedReader {
    reader: CheckedFile,
    path: String,
    footers: Arc<Cache<String, Arc<ParquetMetaData>, ByMemory>>,
    /// What was read last, and where it begins.
    window: (u64, Bytes),
}

impl CheckedReader {
    /// The bytes of a range, out of the window if they lie there.
    fn fetch(&mut self, range: Range<u64>) -> ParquetResult<Bytes> {
        let (begin, bytes) = &self.window;
        if range.start < *begin || range.end > begin + bytes.len() as u64 {
            let bytes = self.reader.read(range.clone());
            self.window = (range.start, bytes.map_err(|error| ParquetError::External(Box::new(error)))?);
        }
        let (begin, bytes) = &self.window;
        let at = |offset: u64| usize::try_from(offset - begin).expect("windows are smaller than memory");
        Ok(bytes.slice(at(range.start)..at(range.end)))
    }

    /// The bytes of several ranges; those that lie close are read at once.
    fn fetch_all(&mut self, ranges: &[Range<u64>]) -> ParquetResult<Vec<Bytes>> {
        let first = ranges.iter().map(|range| range.start).min().unwrap_or_default();
        let last = ranges.iter().map(|range| range.end).max().unwrap_or_default();
        if last - first <= WINDOW_BYTES {
            self.fetch(first..last)?;
        }
        ranges.iter().map(|range| self.fetch(range.clone())).collect()
    }

    /// Files are named by their sequence and never rewritten, so a path stands
    /// for its content.
    fn metadata(&self) -> ParquetResult<Arc<ParquetMetaData>> {
        self.footers.get_or_insert_with(&self.path, || {
            let mut reader = ParquetMetaDataReader::new().with_page_index_policy(PageIndexPolicy::Optional);
            reader.try_parse(&self.reader)?;
            Ok(Arc::new(without_arrow_schema(&reader.finish()?)))
        })
    }
}

/// A footer without the Arrow schema that the file was written from. That one makes
/// readers give texts as dictionaries, of which a scan would cast each row to the view
/// that SQL sees; without it the pages are decoded as views at once.
fn without_arrow_schema(footer: &ParquetMetaData) -> ParquetMetaData {
    let file = footer.file_metadata();
    let others = file.key_value_metadata().map(|all| {
        let is_other = |it: &&KeyValue| it.key != ARROW_SCHEMA_META_KEY;
        all.iter().filter(is_other).cloned().collect()
    });
    let file = FileMetaData::new(
        file.version(),
        file.num_rows(),
        file.created_by().map(str::to_owned),
        others,
        file.schema_descr_ptr(),
        file.column_orders().cloned(),
    );
    ParquetMetaDataBuilder::new(file)
        .set_row_groups(footer.row_groups().to_vec())
        .set_column_index(footer.column_index().cloned())
        .set_offset_index(footer.offset_index().cloned())
        .build()
}

impl AsyncFileReader for CheckedReader {
    fn get_bytes(&mut self, range: Range<u64>) -> BoxFuture<'_, ParquetResult<Bytes>> {
        // A local read on the query runtime's own thread: its neighbours are
        // other queries, bounded in number.
        futures_util::future::ready(self.fetch(range)).boxed()
    }

    fn get_byte_ranges(&mut self, ranges: Vec<Range<u64>>) -> BoxFuture<'_, ParquetResult<Vec<Bytes>>> {
        futures_util::future::ready(self.fetch_all(&ranges)).boxed()
    }

    fn get_metadata<'a>(
        &'a mut self,
        _options: Option<&'a ArrowReaderOptions>,
    ) -> BoxFuture<'a, ParquetResult<Arc<ParquetMetaData>>> {
        futures_util::future::ready(self.metadata()).boxed()
    }
}
