//! Columns of few changes, encoded run by run: a dictionary page and pages of
//! keys. No row is looked at.

use std::ops::Range;

use hashbrown::HashMap;
use parquet::basic::Encoding;
use parquet::data_type::ByteArray;
use parquet::errors::Result;
use parquet::file::statistics::Statistics;
use parquet::schema::types::ColumnDescPtr;

use super::chunk::{Bounds, Chunk, ChunkWriter, PageBounds, Zstd};
use super::hybrid::{Hybrid, width_of};
use crate::files::rows::{ABSENT, Texts};
use crate::files::schema::PAGE_ROWS;

/// Whether a column's least and greatest values are kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kept {
    No,
    OfChunk,
    OfPages,
}

/// A dictionary this long is compressed: it is most of its chunk, and every
/// reader of the chunk reads it.
const DICTIONARY_BYTES_PLAIN: usize = 16 * 1024;

/// A column of texts.
pub(super) fn texts(descr: ColumnDescPtr, texts: &Texts, kept: Kept, zstd: &mut Zstd) -> Result<Chunk> {
    let zstd = (texts.plain.len() > DICTIONARY_BYTES_PLAIN).then_some(zstd);
    let mut bounds = Bounds::default();
    if kept != Kept::No {
        let keys = 0..texts.len() as u32;
        let range = least_and_greatest(texts, keys);
        let bytes = |text: &[u8]| Some(ByteArray::from(text));
        let nulls = texts.runs.iter().filter(|run| run.0 == ABSENT).map(|run| run.1 as u64).sum();
        bounds.statistics = range.map(|(least, greatest)| {
            Statistics::byte_array(bytes(least), bytes(greatest), None, Some(nulls), false)
        });
    }
    let mut pages = (kept == Kept::OfPages).then(PageBounds::new);
    let dictionary = Dictionary { plain: &texts.plain, entries: texts.len() };
    let mut writer = ChunkWriter::new(descr.clone(), zstd);
    dictionary.write(&mut writer, descr.max_def_level() > 0, &texts.runs, |page| {
        if let Some(pages) = &mut pages {
            let keys = page.iter().map(|run| run.0).filter(|&key| key != ABSENT);
            if let Some((least, greatest)) = least_and_greatest(texts, keys) {
                pages.push(least, greatest);
            }
        }
    })?;
    bounds.pages = pages;
    writer.finish(bounds)
}

fn least_and_greatest(texts: &Texts, keys: impl Iterator<Item = u32>) -> Option<(&[u8], &[u8])> {
    let mut texts = keys.map(|key| texts.text(key));
    let first = texts.next()?;
    Some(texts.fold((first, first), |(least, greatest), text| (least.min(text), greatest.max(text))))
}

/// A column of numbers whose runs were found to be few.
pub(super) fn numbers<T: Plain>(descr: ColumnDescPtr, runs: &[(Option<T>, usize)]) -> Result<Chunk> {
    let mut keys: HashMap<T, u32> = HashMap::new();
    let mut plain = Vec::new();
    let keyed: Vec<(u32, usize)> = runs
        .iter()
        .map(|&(number, rows)| {
            let Some(number) = number else { return (ABSENT, rows) };
            let next = keys.len() as u32;
            let key = *keys.entry(number).or_insert_with(|| {
                number.write(&mut plain);
                next
            });
            (key, rows)
        })
        .collect();
    let nulls = runs.iter().filter(|run| run.0.is_none()).map(|run| run.1 as u64).sum();
    let range = keys.keys().min().copied().zip(keys.keys().max().copied());
    let bounds = Bounds { statistics: Some(T::statistics(range, nulls)), pages: None };
    let dictionary = Dictionary { plain: &plain, entries: keys.len() };
    let mut writer = ChunkWriter::new(descr.clone(), None);
    dictionary.write(&mut writer, descr.max_def_level() > 0, &keyed, |_| {})?;
    writer.finish(bounds)
}

/// A column without any value.
pub(super) fn nothing(descr: ColumnDescPtr, rows: usize, statistics: Statistics) -> Result<Chunk> {
    let mut writer = ChunkWriter::new(descr, None);
    for page in pages(rows) {
        let mut bytes = Vec::new();
        levels(&mut bytes, &[(ABSENT, page.len())]);
        writer.data(&bytes, page.len(), Encoding::PLAIN)?;
    }
    writer.finish(Bounds { statistics: Some(statistics), pages: None })
}

/// The pages of a row group.
pub(super) fn pages(rows: usize) -> impl Iterator<Item = Range<usize>> {
    (0..rows).step_by(PAGE_ROWS).map(move |first| first..rows.min(first + PAGE_ROWS))
}

/// Runs of equal numbers, or `None` if there are more than `most`.
pub(super) fn runs_of<T: Copy + PartialEq>(
    numbers: &[T],
    none: Option<T>,
    most: usize,
) -> Option<Vec<(Option<T>, usize)>> {
    let mut runs: Vec<(Option<T>, usize)> = Vec::new();
    for run in numbers.chunk_by(T::eq) {
        if runs.len() == most {
            return None;
        }
        let number = Some(run[0]).filter(|_| none != Some(run[0]));
        runs.push((number, run.len()));
    }
    Some(runs)
}

/// A number as parquet's plain encoding and statistics have it.
pub(super) trait Plain: Copy + Ord + std::hash::Hash {
    fn write(self, out: &mut Vec<u8>);
    fn statistics(range: Option<(Self, Self)>, nulls: u64) -> Statistics;
}

impl Plain for i64 {
    fn write(self, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.to_le_bytes());
    }

    fn statistics(range: Option<(i64, i64)>, nulls: u64) -> Statistics {
        let (least, greatest) = range.unzip();
        Statistics::int64(least, greatest, None, Some(nulls), false)
    }
}

impl Plain for u64 {
    fn write(self, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.to_le_bytes());
    }

    fn statistics(range: Option<(u64, u64)>, nulls: u64) -> Statistics {
        i64::statistics(range.map(|(least, greatest)| (least.cast_signed(), greatest.cast_signed())), nulls)
    }
}

impl Plain for i16 {
    fn write(self, out: &mut Vec<u8>) {
        out.extend_from_slice(&i32::from(self).to_le_bytes());
    }

    fn statistics(range: Option<(i16, i16)>, nulls: u64) -> Statistics {
        let (least, greatest) = range.unzip();
        Statistics::int32(least.map(i32::from), greatest.map(i32::from), None, Some(nulls), false)
    }
}

struct Dictionary<'a> {
    plain: &'a [u8],
    entries: usize,
}

impl Dictionary<'_> {
    /// Writes itself and the pages of `runs`; shows each page's runs to `see`.
    fn write(
        &self,
        writer: &mut ChunkWriter<'_>,
        nullable: bool,
        runs: &[(u32, usize)],
        mut see: impl FnMut(&[(u32, usize)]),
    ) -> Result<()> {
        writer.dictionary(self.plain, self.entries)?;
        let width = width_of(self.entries);
        let mut page: Vec<(u32, usize)> = Vec::new();
        let mut bytes = Vec::new();
        let mut rows = 0;
        let mut put = |page: &mut Vec<(u32, usize)>, rows: &mut usize| {
            see(page);
            bytes.clear();
            if nullable {
                levels(&mut bytes, page);
            }
            bytes.push(width as u8);
            let mut keys = Hybrid::new(&mut bytes, width);
            page.iter().filter(|run| run.0 != ABSENT).for_each(|&(key, count)| keys.push(key, count));
            keys.finish();
            page.clear();
            writer.data(&bytes, std::mem::take(rows), Encoding::RLE_DICTIONARY)
        };
        for &(key, mut count) in runs {
            while count > 0 {
                let now = count.min(PAGE_ROWS - rows);
                page.push((key, now));
                rows += now;
                count -= now;
                if rows == PAGE_ROWS {
                    put(&mut page, &mut rows)?;
                }
            }
        }
        if rows > 0 {
            put(&mut page, &mut rows)?;
        }
        Ok(())
    }
}

/// Definition levels of a page: their length, then runs of 0 (null) and 1.
fn levels(out: &mut Vec<u8>, page: &[(u32, usize)]) {
    let at = out.len();
    out.extend_from_slice(&[0; 4]);
    let mut levels = Hybrid::new(out, 1);
    page.iter().for_each(|&(key, count)| levels.push(u32::from(key != ABSENT), count));
    levels.finish();
    let bytes = (out.len() - at - 4) as u32;
    out[at..at + 4].copy_from_slice(&bytes.to_le_bytes());
}
