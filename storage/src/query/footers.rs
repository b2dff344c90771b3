//! What point reads know of data files: footers with the statistics of the sort key,
//! and of the row groups that were asked for the page index, each by itself.
//!
//! A file of 100 million rows has 800 row groups and some megabytes of page index; a
//! question about one user needs those of one or two. So the first question after a
//! start costs a footer, and memory holds what is asked for.

use std::hash::{Hash, Hasher};
use std::sync::{Arc, LazyLock};

use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use hashbrown::Equivalent;
use parquet::arrow::arrow_reader::{ArrowReaderMetadata, ArrowReaderOptions};
use parquet::errors::Result as ParquetResult;
use parquet::file::metadata::{
    PageIndexPolicy, ParquetMetaData, ParquetMetaDataBuilder, ParquetMetaDataOptions, ParquetMetaDataReader,
    ParquetStatisticsPolicy,
};
use quick_cache::Weighter;
use quick_cache::sync::Cache;

use crate::files::{CheckedFile, column, samples_schema};

/// Footers kept, bytes: about 3 KB a row group.
const FOOTER_BYTES: u64 = 64 * 1024 * 1024;
/// Page indexes kept, bytes: about 20 KB a row group.
const GROUP_BYTES: u64 = 128 * 1024 * 1024;
/// Guesses of how many that are, which size the caches' tables.
const FOOTERS: usize = 4096;
const GROUPS: usize = 16 * 1024;

/// The columns that lead to a series, in the order rows are sorted by.
const KEY_COLUMNS: [&str; 4] = ["org", "metric", "user_id", "recorded_at"];

/// The columns of data files with every text as a dictionary: a text that repeats is
/// compared once.
static READ_SCHEMA: LazyLock<SchemaRef> = LazyLock::new(|| {
    let as_dictionary = |field: &Arc<Field>| match field.data_type() {
        DataType::Utf8 => {
            let texts = DataType::Dictionary(Box::new(DataType::Int32), Box::new(DataType::Utf8));
            Arc::new(Field::new(field.name(), texts, field.is_nullable()))
        }
        _ => field.clone(),
    };
    Arc::new(Schema::new(samples_schema().fields().iter().map(as_dictionary).collect::<Vec<_>>()))
});

/// A row group of a file, by the file's path and its number.
#[derive(Debug, PartialEq, Eq)]
struct GroupKey(String, usize);

/// The same, borrowed.
struct GroupAt<'a>(&'a str, usize);

impl Hash for GroupKey {
    fn hash<H: Hasher>(&self, state: &mut H) {
        GroupAt(&self.0, self.1).hash(state);
    }
}

impl Hash for GroupAt<'_> {
    fn hash<H: Hasher>(&self, state: &mut H) {
        (self.0, self.1).hash(state);
    }
}

impl Equivalent<GroupKey> for GroupAt<'_> {
    fn equivalent(&self, key: &GroupKey) -> bool {
        self.0 == key.0 && self.1 == key.1
    }
}

#[derive(Clone, Debug)]
struct ByMemory;

impl Weighter<String, Arc<ParquetMetaData>> for ByMemory {
    fn weight(&self, _: &String, metadata: &Arc<ParquetMetaData>) -> u64 {
        metadata.memory_size() as u64
    }
}

impl Weighter<GroupKey, ArrowReaderMetadata> for ByMemory {
    fn weight(&self, _: &GroupKey, group: &ArrowReaderMetadata) -> u64 {
        group.metadata().memory_size() as u64
    }
}

/// Footers and page indexes of data files; shared by all point reads. Files are named
/// by their number and never rewritten, so a path stands for its content.
#[derive(Debug)]
pub(super) struct Footers {
    files: Cache<String, Arc<ParquetMetaData>, ByMemory>,
    groups: Cache<GroupKey, ArrowReaderMetadata, ByMemory>,
}

impl Default for Footers {
    fn default() -> Footers {
        Footers {
            files: Cache::with_weighter(FOOTERS, FOOTER_BYTES, ByMemory),
            groups: Cache::with_weighter(GROUPS, GROUP_BYTES, ByMemory),
        }
    }
}

impl Footers {
    /// A file's footer, with statistics of [`KEY_COLUMNS`] only and no page index.
    pub(super) fn of_file(&self, file: &CheckedFile) -> ParquetResult<Arc<ParquetMetaData>> {
        self.files.get_or_insert_with(file.path(), || {
            let options = ParquetMetaDataOptions::new()
                .with_column_stats_policy(ParquetStatisticsPolicy::skip_except(&KEY_COLUMNS.map(column)))
                .with_encoding_stats_policy(ParquetStatisticsPolicy::SkipAll)
                .with_size_stats_policy(ParquetStatisticsPolicy::SkipAll);
            let mut reader = ParquetMetaDataReader::new()
                .with_page_index_policy(PageIndexPolicy::Skip)
                .with_metadata_options(Some(options));
            reader.try_parse(file)?;
            reader.finish().map(Arc::new)
        })
    }

    /// One row group of a file as if it were the file's only one, with its page index.
    pub(super) fn of_group(
        &self,
        file: &CheckedFile,
        footer: &ParquetMetaData,
        index: usize,
    ) -> ParquetResult<ArrowReaderMetadata> {
        if let Some(group) = self.groups.get(&GroupAt(file.path(), index)) {
            return Ok(group);
        }
        let metadata = ParquetMetaDataBuilder::new(footer.file_metadata().clone())
            .add_row_group(footer.row_group(index).clone())
            .build();
        // One behind the other: the two parts of the index lie apart, and one read of
        // both would be of everything between them.
        let (skip, read) = (PageIndexPolicy::Skip, PageIndexPolicy::Optional);
        let metadata = with_index(file, metadata, read, skip)?;
        let metadata = with_index(file, metadata, skip, read)?;
        let options = ArrowReaderOptions::new().with_schema(READ_SCHEMA.clone());
        let group = ArrowReaderMetadata::try_new(Arc::new(metadata), options)?;
        self.groups.insert(GroupKey(file.path().to_owned(), index), group.clone());
        Ok(group)
    }
}

fn with_index(
    file: &CheckedFile,
    metadata: ParquetMetaData,
    columns: PageIndexPolicy,
    offsets: PageIndexPolicy,
) -> ParquetResult<ParquetMetaData> {
    let mut reader = ParquetMetaDataReader::new_with_metadata(metadata)
        .with_column_index_policy(columns)
        .with_offset_index_policy(offsets);
    reader.read_page_indexes(file)?;
    reader.finish()
}
