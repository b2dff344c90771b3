//! The rows of a row group that is being collected, column by column.
//!
//! Constraints: at most [`ROW_GROUP_ROWS`](super::schema::ROW_GROUP_ROWS) rows, 32
//! to 43 bytes each, and about 1 MiB of text. Texts are kept as runs, since they
//! mostly stay for hundreds of rows; numbers as they come, which is a copy.

use std::hash::BuildHasher;

use hashbrown::{DefaultHashBuilder, HashTable};

use crate::frame::{DAILY_UNKNOWN, ENDED_NONE, ZONE_UNKNOWN};

/// The texts of a row.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Names<'a> {
    pub(super) org: &'a str,
    pub(super) metric: &'a str,
    pub(super) user: &'a str,
    pub(super) unit: &'a str,
    pub(super) source: &'a str,
    pub(super) device: Option<&'a str>,
}

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Rows {
    pub(super) org: Texts,
    pub(super) metric: Texts,
    pub(super) user: Texts,
    pub(super) unit: Texts,
    pub(super) source: Texts,
    pub(super) device: Texts,
    pub(super) recorded_at: Vec<i64>,
    pub(super) value: Vec<f64>,
    pub(super) zone_minutes: Sparse<i16>,
    pub(super) ended_at: Sparse<i64>,
    pub(super) is_daily_total: Sparse<u8>,
    pub(super) sequence: Vec<u64>,
    pub(super) received_at: Vec<i64>,
}

impl Rows {
    pub(super) fn len(&self) -> usize {
        self.recorded_at.len()
    }

    /// Bytes of the texts, each counted once.
    pub(super) fn text_bytes(&self) -> usize {
        let Rows { org, metric, user, unit, source, device, .. } = self;
        [org, metric, user, unit, source, device].iter().map(|texts| texts.plain.len()).sum()
    }

    /// The texts of the next `rows` rows; their numbers must follow.
    pub(super) fn push_names(&mut self, names: &Names<'_>, rows: usize) {
        self.org.push(Some(names.org), rows);
        self.metric.push(Some(names.metric), rows);
        self.user.push(Some(names.user), rows);
        self.unit.push(Some(names.unit), rows);
        self.source.push(Some(names.source), rows);
        self.device.push(names.device, rows);
    }

    /// Empties it and keeps its memory.
    pub(super) fn clear(&mut self) {
        let Rows { org, metric, user, unit, source, device, .. } = self;
        [org, metric, user, unit, source, device].into_iter().for_each(Texts::clear);
        self.recorded_at.clear();
        self.value.clear();
        self.zone_minutes.clear();
        self.ended_at.clear();
        self.is_daily_total.clear();
        self.sequence.clear();
        self.received_at.clear();
    }
}

/// The key of a text that is absent.
pub(super) const ABSENT: u32 = u32::MAX;

/// A column of texts as runs over a dictionary.
#[derive(Debug, Default)]
pub(super) struct Texts {
    /// The distinct texts as parquet's plain encoding has them: u32 length, bytes.
    pub(super) plain: Vec<u8>,
    /// Where each begins in `plain`.
    starts: Vec<usize>,
    by_text: HashTable<u32>,
    hasher: DefaultHashBuilder,
    /// Key and rows; neighbours differ.
    pub(super) runs: Vec<(u32, usize)>,
}

impl Texts {
    /// Distinct texts.
    pub(super) fn len(&self) -> usize {
        self.starts.len()
    }

    /// The bytes of the text with this key.
    pub(super) fn text(&self, key: u32) -> &[u8] {
        text_at(&self.plain, self.starts[key as usize])
    }

    pub(super) fn push(&mut self, text: Option<&str>, rows: usize) {
        if let Some((key, count)) = self.runs.last_mut() {
            let last = (*key != ABSENT).then(|| text_at(&self.plain, self.starts[*key as usize]));
            if last == text.map(str::as_bytes) {
                *count += rows;
                return;
            }
        }
        let key = text.map_or(ABSENT, |text| self.key(text));
        self.runs.push((key, rows));
    }

    fn key(&mut self, text: &str) -> u32 {
        let Texts { plain, starts, by_text, hasher, .. } = self;
        let hash = hasher.hash_one(text.as_bytes());
        let same = |&key: &u32| text_at(plain, starts[key as usize]) == text.as_bytes();
        if let Some(&key) = by_text.find(hash, same) {
            return key;
        }
        let key = u32::try_from(starts.len()).expect("a row group is far under 4 billion rows");
        let bytes = u32::try_from(text.len()).expect("texts are short");
        starts.push(plain.len());
        plain.extend_from_slice(&bytes.to_le_bytes());
        plain.extend_from_slice(text.as_bytes());
        by_text.insert_unique(hash, key, |&key| hasher.hash_one(text_at(plain, starts[key as usize])));
        key
    }

    fn clear(&mut self) {
        self.plain.clear();
        self.starts.clear();
        self.by_text.clear();
        self.runs.clear();
    }
}

fn text_at(plain: &[u8], start: usize) -> &[u8] {
    let (bytes, rest) = plain[start..].split_first_chunk().expect("a length stands there");
    &rest[..u32::from_le_bytes(*bytes) as usize]
}

/// A number with a value that stands for none.
pub(super) trait MayLack: Copy + PartialEq {
    const NONE: Self;
}

impl MayLack for i16 {
    const NONE: i16 = ZONE_UNKNOWN;
}

impl MayLack for i64 {
    const NONE: i64 = ENDED_NONE;
}

impl MayLack for u8 {
    const NONE: u8 = DAILY_UNKNOWN;
}

/// A column that is mostly empty from end to end.
#[derive(Debug, Default)]
pub(super) struct Sparse<T> {
    /// No value at all while this is empty.
    values: Vec<T>,
    rows: usize,
}

impl<T: MayLack> Sparse<T> {
    /// The values, or `None` if no row has one.
    pub(super) fn values(&self) -> Option<&[T]> {
        (!self.values.is_empty()).then_some(&self.values)
    }

    pub(super) fn push_none(&mut self, rows: usize) {
        self.rows += rows;
        if !self.values.is_empty() {
            self.values.resize(self.rows, T::NONE);
        }
    }

    pub(super) fn extend(&mut self, values: impl ExactSizeIterator<Item = T>) {
        self.values.resize(self.rows, T::NONE);
        self.rows += values.len();
        self.values.extend(values);
    }

    fn clear(&mut self) {
        self.values.clear();
        self.rows = 0;
    }
}
