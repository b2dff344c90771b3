//! The column of values: a sorted dictionary and packed keys, compressed.
//!
//! Values of wearables are mostly few distinct numbers. Keys of a sorted
//! dictionary in whole bytes leave zstd a text it can shorten (heart rate from 0.80
//! to 0.57 bytes a row); where they do not use their byte, packed bits are
//! shorter. A page of the chunk is tried both ways. Where values hardly repeat,
//! they stay plain.

use parquet::basic::Encoding;
use parquet::errors::Result;
use parquet::file::statistics::Statistics;
use parquet::schema::types::ColumnDescPtr;

use super::chunk::{Bounds, Chunk, ChunkWriter, Zstd};
use super::hybrid::{Hybrid, packed, width_of};
use super::runs::pages;

/// Longest dictionary: every reader of a page reads it, so it is kept to 128 KiB.
const ENTRIES_MAX: usize = 16 * 1024;
/// A dictionary must save something: each entry stands for this many rows.
const ROWS_PER_ENTRY: usize = 4;

/// The values of a row group.
pub(super) fn values(descr: ColumnDescPtr, values: &[f64], zstd: &mut Zstd) -> Result<Chunk> {
    let entries_max = ENTRIES_MAX.min(values.len() / ROWS_PER_ENTRY).max(1);
    match Distinct::of(values, entries_max) {
        Some(distinct) => by_dictionary(descr, &distinct, zstd),
        None => plain(descr, values, zstd),
    }
}

fn by_dictionary(descr: ColumnDescPtr, distinct: &Distinct, zstd: &mut Zstd) -> Result<Chunk> {
    let width = key_width(distinct, zstd)?;
    let bounds = Bounds { statistics: Some(statistics(&distinct.sorted)), pages: None };
    let mut writer = ChunkWriter::new(descr, Some(zstd));
    let plain: Vec<u8> = distinct.sorted.iter().flat_map(|value| value.to_le_bytes()).collect();
    writer.dictionary(&plain, distinct.sorted.len())?;
    for page in pages(distinct.keys.len()) {
        let rows = page.len();
        writer.data(&keys(&distinct.keys[page], width), rows, Encoding::RLE_DICTIONARY)?;
    }
    writer.finish(bounds)
}

/// The bits of a key that make the shorter pages.
fn key_width(distinct: &Distinct, zstd: &mut Zstd) -> Result<u32> {
    let bits = width_of(distinct.sorted.len());
    let whole_bytes = bits.next_multiple_of(8);
    if bits == whole_bytes {
        return Ok(bits);
    }
    let pages: Vec<_> = pages(distinct.keys.len()).collect();
    let tried = &distinct.keys[pages[pages.len() / 2].clone()];
    let as_bits = zstd.compress(&keys(tried, bits))?.len();
    let as_bytes = zstd.compress(&keys(tried, whole_bytes))?.len();
    Ok(if as_bytes < as_bits { whole_bytes } else { bits })
}

fn keys(page: &[u32], width: u32) -> Vec<u8> {
    let mut bytes = vec![width as u8];
    if width == 0 {
        let mut keys = Hybrid::new(&mut bytes, width);
        keys.push(0, page.len());
        keys.finish();
    } else {
        packed(&mut bytes, &mut page.to_vec(), width);
    }
    bytes
}

fn plain(descr: ColumnDescPtr, values: &[f64], zstd: &mut Zstd) -> Result<Chunk> {
    let mut writer = ChunkWriter::new(descr, Some(zstd));
    for page in pages(values.len()) {
        let bytes: Vec<u8> = values[page.clone()].iter().flat_map(|value| value.to_le_bytes()).collect();
        writer.data(&bytes, page.len(), Encoding::PLAIN)?;
    }
    writer.finish(Bounds { statistics: Some(statistics(values)), pages: None })
}

/// Least and greatest; no number is neither, and zero is both zeros.
fn statistics(values: &[f64]) -> Statistics {
    let numbers = || values.iter().copied().filter(|value| !value.is_nan());
    let least = numbers().min_by(f64::total_cmp).map(|least| if least == 0.0 { -0.0 } else { least });
    let greatest = numbers().max_by(f64::total_cmp).map(|most| if most == 0.0 { 0.0 } else { most });
    Statistics::double(least, greatest, None, Some(0), false)
}

/// Distinct values in rising order, and for each row which one it is.
struct Distinct {
    sorted: Vec<f64>,
    keys: Vec<u32>,
}

const EMPTY: u32 = u32::MAX;

impl Distinct {
    /// `None` if there are more than `entries_max`.
    fn of(values: &[f64], entries_max: usize) -> Option<Distinct> {
        // At most half full.
        let slots = (entries_max * 2).next_power_of_two().max(64);
        let shift = u64::BITS - slots.trailing_zeros();
        let mut table = vec![EMPTY; slots];
        let mut found: Vec<u64> = Vec::new();
        let mut keys = Vec::with_capacity(values.len());
        for value in values {
            let bits = value.to_bits();
            let mut slot = (bits.wrapping_mul(0x9E37_79B9_7F4A_7C15) >> shift) as usize;
            let key = loop {
                let key = table[slot];
                if key == EMPTY {
                    if found.len() == entries_max {
                        return None;
                    }
                    table[slot] = found.len() as u32;
                    found.push(bits);
                    break table[slot];
                }
                if found[key as usize] == bits {
                    break key;
                }
                slot = (slot + 1) % slots;
            };
            keys.push(key);
        }
        Some(Distinct::sorted(&found, keys))
    }

    fn sorted(found: &[u64], mut keys: Vec<u32>) -> Distinct {
        let mut order: Vec<u32> = (0..found.len() as u32).collect();
        order.sort_unstable_by(|&a, &b| {
            f64::from_bits(found[a as usize]).total_cmp(&f64::from_bits(found[b as usize]))
        });
        let mut place = vec![0; found.len()];
        for (at, &key) in (0..).zip(&order) {
            place[key as usize] = at;
        }
        keys.iter_mut().for_each(|key| *key = place[*key as usize]);
        Distinct { sorted: order.iter().map(|&key| f64::from_bits(found[key as usize])).collect(), keys }
    }
}
