//! How a scan opens a data file: blocks checked, footers cached.

use std::ops::Range;
use std::sync::Arc;

use bytes::Bytes;
use datafusion::datasource::listing::PartitionedFile;
use datafusion::datasource::physical_plan::ParquetFileReaderFactory;
use datafusion::error::DataFusionError;
use datafusion::physical_plan::metrics::ExecutionPlanMetricsSet;
use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use parquet::arrow::arrow_reader::ArrowReaderOptions;
use parquet::arrow::async_reader::AsyncFileReader;
use parquet::errors::{ParquetError, Result as ParquetResult};
use parquet::file::metadata::{PageIndexPolicy, ParquetMetaData, ParquetMetaDataReader};
use quick_cache::Weighter;
use quick_cache::sync::Cache;

use crate::files::{CheckedFile, DataFile};

/// Footers and page indexes kept, bytes: about 50 KB for a file of a few
/// million rows, so some thousand files.
const CACHE_BYTES: u64 = 256 * 1024 * 1024;
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
        Ok(Box::new(CheckedReader { reader, path: data.record.path.clone(), footers: self.footers.clone() }))
    }
}

struct CheckedReader {
    reader: CheckedFile,
    path: String,
    footers: Arc<Cache<String, Arc<ParquetMetaData>, ByMemory>>,
}

impl CheckedReader {
    /// Files are named by their sequence and never rewritten, so a path stands
    /// for its content.
    fn metadata(&self) -> ParquetResult<Arc<ParquetMetaData>> {
        self.footers.get_or_insert_with(&self.path, || {
            let mut reader = ParquetMetaDataReader::new().with_page_index_policy(PageIndexPolicy::Optional);
            reader.try_parse(&self.reader)?;
            reader.finish().map(Arc::new)
        })
    }
}

impl AsyncFileReader for CheckedReader {
    fn get_bytes(&mut self, range: Range<u64>) -> BoxFuture<'_, ParquetResult<Bytes>> {
        // A local read on the query runtime's own thread: its neighbours are
        // other queries, bounded in number.
        let bytes = self.reader.read(range).map_err(|error| ParquetError::External(Box::new(error)));
        futures_util::future::ready(bytes).boxed()
    }

    fn get_metadata<'a>(
        &'a mut self,
        _options: Option<&'a ArrowReaderOptions>,
    ) -> BoxFuture<'a, ParquetResult<Arc<ParquetMetaData>>> {
        futures_util::future::ready(self.metadata()).boxed()
    }
}
