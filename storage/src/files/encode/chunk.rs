//! A column chunk, page by page, with its offset index and its metadata.

use bytes::Bytes;
use parquet::basic::{BoundaryOrder, Compression, Encoding, PageType, Type, ZstdLevel};
use parquet::column::page::{CompressedPage, Page, PageWriteSpec, PageWriter};
use parquet::column::writer::ColumnCloseResult;
use parquet::errors::Result;
use parquet::file::metadata::{
    ColumnChunkMetaData, ColumnIndexBuilder, OffsetIndexBuilder, PageEncodingStats,
};
use parquet::file::statistics::Statistics;
use parquet::file::writer::{SerializedPageWriter, TrackedWrite};
use parquet::schema::types::ColumnDescPtr;
use zstd::bulk::Compressor;

/// An encoded column chunk, to be spliced into its row group.
#[derive(Debug)]
pub(super) struct Chunk {
    pub(super) bytes: Bytes,
    pub(super) close: ColumnCloseResult,
}

/// A zstd context that is used for all pages of a file.
pub(super) struct Zstd {
    compressor: Compressor<'static>,
    pub(super) level: ZstdLevel,
}

impl Zstd {
    pub(super) fn new(level: ZstdLevel) -> Result<Zstd> {
        Ok(Zstd { compressor: Compressor::new(level.compression_level())?, level })
    }

    pub(super) fn compress(&mut self, bytes: &[u8]) -> Result<Vec<u8>> {
        Ok(self.compressor.compress(bytes)?)
    }
}

/// Least and greatest value of each page of a text column.
pub(super) struct PageBounds {
    builder: ColumnIndexBuilder,
    last: Option<(Vec<u8>, Vec<u8>)>,
    ascending: bool,
}

impl PageBounds {
    pub(super) fn new() -> PageBounds {
        PageBounds { builder: ColumnIndexBuilder::new(Type::BYTE_ARRAY), last: None, ascending: true }
    }

    /// The next page's; every page holds a value.
    pub(super) fn push(&mut self, least: &[u8], greatest: &[u8]) {
        let bounds = (least.to_vec(), greatest.to_vec());
        if let Some(last) = &self.last {
            self.ascending &= last.0 <= bounds.0 && last.1 <= bounds.1;
        }
        self.builder.append(false, bounds.0.clone(), bounds.1.clone(), 0);
        self.last = Some(bounds);
    }
}

/// What a chunk says of itself besides its pages.
#[derive(Default)]
pub(super) struct Bounds {
    pub(super) statistics: Option<Statistics>,
    pub(super) pages: Option<PageBounds>,
}

/// Writes the pages of one column chunk.
pub(super) struct ChunkWriter<'a> {
    descr: ColumnDescPtr,
    zstd: Option<&'a mut Zstd>,
    sink: TrackedWrite<Vec<u8>>,
    offsets: OffsetIndexBuilder,
    encodings: Vec<PageEncodingStats>,
    dictionary_at: Option<i64>,
    data_at: Option<i64>,
    rows: usize,
    uncompressed: usize,
    compressed: usize,
}

impl<'a> ChunkWriter<'a> {
    pub(super) fn new(descr: ColumnDescPtr, zstd: Option<&'a mut Zstd>) -> ChunkWriter<'a> {
        ChunkWriter {
            descr,
            zstd,
            sink: TrackedWrite::new(Vec::new()),
            offsets: OffsetIndexBuilder::new(),
            encodings: Vec::new(),
            dictionary_at: None,
            data_at: None,
            rows: 0,
            uncompressed: 0,
            compressed: 0,
        }
    }

    /// The dictionary, plain; comes before the data.
    pub(super) fn dictionary(&mut self, bytes: &[u8], entries: usize) -> Result<()> {
        let page = Page::DictionaryPage {
            buf: self.compress(bytes)?,
            num_values: as_u32(entries),
            encoding: Encoding::PLAIN,
            is_sorted: false,
        };
        let spec = self.write(page, bytes.len(), Encoding::PLAIN)?;
        self.dictionary_at = Some(spec.offset.cast_signed());
        Ok(())
    }

    /// A page of `rows` rows, nulls counted: definition levels if the column has
    /// them, then values.
    pub(super) fn data(&mut self, bytes: &[u8], rows: usize, encoding: Encoding) -> Result<()> {
        let page = Page::DataPage {
            buf: self.compress(bytes)?,
            num_values: as_u32(rows),
            encoding,
            def_level_encoding: Encoding::RLE,
            rep_level_encoding: Encoding::RLE,
            statistics: None,
        };
        let spec = self.write(page, bytes.len(), encoding)?;
        self.data_at.get_or_insert(spec.offset.cast_signed());
        let size = i32::try_from(spec.compressed_size).expect("a page is under 2 GiB");
        self.offsets.append_offset_and_size(spec.offset.cast_signed(), size);
        self.offsets.append_row_count(rows as i64);
        self.rows += rows;
        Ok(())
    }

    fn compress(&mut self, bytes: &[u8]) -> Result<Bytes> {
        Ok(match &mut self.zstd {
            Some(zstd) => zstd.compress(bytes)?.into(),
            None => Bytes::copy_from_slice(bytes),
        })
    }

    fn write(&mut self, page: Page, uncompressed: usize, encoding: Encoding) -> Result<PageWriteSpec> {
        let page_type = page.page_type();
        self.count(page_type, encoding);
        let spec =
            SerializedPageWriter::new(&mut self.sink).write_page(CompressedPage::new(page, uncompressed))?;
        self.uncompressed += spec.uncompressed_size;
        self.compressed += spec.compressed_size;
        Ok(spec)
    }

    fn count(&mut self, page_type: PageType, encoding: Encoding) {
        match self.encodings.last_mut() {
            Some(last) if last.page_type == page_type && last.encoding == encoding => last.count += 1,
            _ => self.encodings.push(PageEncodingStats { page_type, encoding, count: 1 }),
        }
    }

    pub(super) fn finish(self, bounds: Bounds) -> Result<Chunk> {
        let mut encodings: Vec<Encoding> = self.encodings.iter().map(|pages| pages.encoding).collect();
        // Of the levels.
        encodings.push(Encoding::RLE);
        let compression = self.zstd.map_or(Compression::UNCOMPRESSED, |zstd| Compression::ZSTD(zstd.level));
        let mut metadata = ColumnChunkMetaData::builder(self.descr)
            .set_compression(compression)
            .set_encodings(encodings)
            .set_page_encoding_stats(self.encodings)
            .set_total_compressed_size(self.compressed as i64)
            .set_total_uncompressed_size(self.uncompressed as i64)
            .set_num_values(self.rows as i64)
            .set_data_page_offset(self.data_at.unwrap_or_default())
            .set_dictionary_page_offset(self.dictionary_at);
        if let Some(statistics) = bounds.statistics {
            metadata = metadata.set_statistics(statistics);
        }
        let column_index = bounds.pages.map(|mut pages| {
            let order = if pages.ascending { BoundaryOrder::ASCENDING } else { BoundaryOrder::UNORDERED };
            pages.builder.set_boundary_order(order);
            pages.builder.build()
        });
        Ok(Chunk {
            close: ColumnCloseResult {
                bytes_written: self.compressed as u64,
                rows_written: self.rows as u64,
                metadata: metadata.build()?,
                bloom_filter: None,
                column_index: column_index.transpose()?,
                offset_index: Some(self.offsets.build()),
            },
            bytes: self.sink.into_inner()?.into(),
        })
    }
}

fn as_u32(count: usize) -> u32 {
    u32::try_from(count).expect("a row group is far under 4 billion rows")
}
