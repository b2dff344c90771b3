//! One user's series and newest values in one piece of memory, which is also
//! how they lie in a checkpoint.
//!
//! Constraints: about 60 bytes a series beside its names; finding a series
//! compares two bytes a series and reads names only of the one that matches; a
//! change of a known series writes in place. A user has at most [`SERIES_MAX`]
//! series of their own: what a sender that makes up devices adds beyond counts
//! in one series a metric, so that a record cannot grow without end.
//!
//! ```text
//! 0   user's hash                                       u64
//! 8   flags                                             u8, then three zeros
//! 12  series s, metrics m, bytes of texts t             u32 each
//! 24  s tags: 16 bits of the hash of metric, source, device
//!     s spans: metric, source, device (places in texts), earliest, latest     28 bytes
//!     m newest: metric (place in texts), recorded_at, value, sequence          28 bytes
//!     t bytes of texts: length (u16) and text; organisation, user, then names
//! ```
//! All numbers are little-endian. Texts are the record's own, so that a record
//! can be copied anywhere.

use std::cmp::Ordering;

use xxhash_rust::xxh3::xxh3_64;

use super::{LatestValue, Newest, SeriesName, user_hash};
use crate::frame::{Mark, Sequence};

/// Series of a user that are told apart.
pub(super) const SERIES_MAX: usize = 1024;

/// The record holds everything there is of its user, whatever older records say.
pub(super) const COMPLETE: u8 = 1;
/// Spans may be too narrow: every mark is `Look`.
pub(super) const VAGUE: u8 = 2;
/// In memory: changed since it was last written.
pub(super) const DIRTY: u8 = 4;
/// In memory: part of the checkpoint being written.
pub(super) const WRITING: u8 = 8;
/// In memory: used since the clock's hand came by.
pub(super) const TOUCHED: u8 = 16;
/// What of the flags is kept on disk.
const KEPT: u8 = COMPLETE | VAGUE;

const FLAGS_AT: usize = 8;
const SERIES_AT: usize = 12;
const METRICS_AT: usize = 16;
const TEXTS_AT: usize = 20;
const HEAD_BYTES: usize = 24;
const TAG_BYTES: usize = 2;
const SPAN_BYTES: usize = 28;
const NEWEST_BYTES: usize = 28;
/// In place of a device: none.
const ABSENT: u32 = u32::MAX;

/// A user's place in the order of checkpoints.
pub(super) type UserKey<'a> = (u64, &'a [u8], &'a [u8]);

/// Names of a series within a user.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) struct Key<'a> {
    metric: &'a [u8],
    source: &'a [u8],
    device: Option<&'a [u8]>,
}

impl<'a> Key<'a> {
    /// Metric, source and device.
    pub(super) fn parts(self) -> (&'a [u8], &'a [u8], Option<&'a [u8]>) {
        (self.metric, self.source, self.device)
    }

    pub(super) fn of(name: &SeriesName<'a>) -> Key<'a> {
        let device = name.device.map(str::as_bytes);
        Key { metric: name.metric.as_bytes(), source: name.source.as_bytes(), device }
    }

    /// The series that stands for all beyond [`SERIES_MAX`]: no sender has an
    /// empty source.
    fn rest(self) -> Key<'a> {
        Key { source: b"", device: None, ..self }
    }

    fn tag(self) -> u16 {
        let device = self.device.map_or(0, |device| !xxh3_64(device));
        let hash = xxh3_64(self.metric) ^ xxh3_64(self.source).rotate_left(21) ^ device.rotate_left(42);
        (hash >> 48) as u16
    }
}

/// A record's bytes, wherever they lie.
#[derive(Clone, Copy)]
pub(super) struct View<'a>(&'a [u8]);

impl<'a> View<'a> {
    /// The bytes as a record; `None` if their lengths do not agree.
    pub(super) fn parse(bytes: &'a [u8]) -> Option<View<'a>> {
        let view = View(bytes);
        if bytes.len() < HEAD_BYTES {
            return None;
        }
        let texts = view.u32_at(TEXTS_AT) as usize;
        (view.texts_at().checked_add(texts)? == bytes.len()).then_some(view)
    }

    /// Whether its places lead to texts, its hash is that of its user, and its spans have
    /// an order. A record that is not cannot be read.
    pub(super) fn is_sound(self) -> bool {
        let Some(places) = self.places() else { return false };
        let is_text = |place: u32| places.binary_search(&place).is_ok();
        let is_series = |index: usize| {
            let at = self.span_at(index);
            let device = self.u32_at(at + 8);
            let named = is_text(self.u32_at(at)) && is_text(self.u32_at(at + 4));
            let (earliest, latest) = self.span(index);
            let tag = HEAD_BYTES + index * TAG_BYTES;
            named
                && (device == ABSENT || is_text(device))
                && self.0[tag..tag + TAG_BYTES] == self.key_of(index).tag().to_le_bytes()
                && earliest <= latest
        };
        let is_newest = |index: usize| is_text(self.u32_at(self.newest_at() + index * NEWEST_BYTES));
        places.len() > 1
            && user_hash(&as_text(self.org()), &as_text(self.user())) == self.hash()
            && (0..self.series()).all(is_series)
            && (0..self.metrics()).all(is_newest)
    }

    /// Where its texts begin, rising; `None` if they do not fill their place.
    fn places(self) -> Option<Vec<u32>> {
        let texts = &self.0[self.texts_at()..];
        let (mut places, mut at) = (Vec::new(), 0);
        while at < texts.len() {
            let (length, rest) = texts[at..].split_first_chunk::<2>()?;
            let length = usize::from(u16::from_le_bytes(*length));
            std::str::from_utf8(rest.get(..length)?).ok()?;
            places.push(u32::try_from(at).ok()?);
            at += 2 + length;
        }
        Some(places)
    }

    pub(super) fn bytes(self) -> &'a [u8] {
        self.0
    }

    pub(super) fn hash(self) -> u64 {
        self.u64_at(0)
    }

    pub(super) fn key(self) -> UserKey<'a> {
        (self.hash(), self.org(), self.user())
    }

    pub(super) fn org(self) -> &'a [u8] {
        self.text(0)
    }

    pub(super) fn user(self) -> &'a [u8] {
        self.text(2 + self.org().len() as u32)
    }

    pub(super) fn has(self, flags: u8) -> bool {
        self.0[FLAGS_AT] & flags != 0
    }

    pub(super) fn series(self) -> usize {
        self.u32_at(SERIES_AT) as usize
    }

    pub(super) fn is_empty(self) -> bool {
        self.series() == 0 && self.metrics() == 0
    }

    /// The newest values, sorted by metric.
    pub(super) fn latest(self) -> Vec<LatestValue> {
        let mut values: Vec<LatestValue> = self
            .newest()
            .map(|(metric, newest)| LatestValue {
                metric: String::from_utf8_lossy(metric).into_owned(),
                value: newest.value,
                recorded_at: newest.recorded_at,
                sequence: newest.sequence,
            })
            .collect();
        values.sort_by(|a, b| a.metric.cmp(&b.metric));
        values
    }

    /// The newest value of one metric.
    pub(super) fn newest_of_metric(self, metric: &[u8]) -> Option<Newest> {
        let at = self.find_text(metric).and_then(|place| self.find_newest(place))?;
        Some(self.newest_of(at))
    }

    pub(super) fn newest(self) -> impl Iterator<Item = (&'a [u8], Newest)> {
        (0..self.metrics()).map(move |index| {
            let at = self.newest_at() + index * NEWEST_BYTES;
            (self.text(self.u32_at(at)), self.newest_of(at))
        })
    }

    pub(super) fn spans(self) -> impl Iterator<Item = (Key<'a>, i64, i64)> {
        (0..self.series()).map(move |index| {
            let (earliest, latest) = self.span(index);
            (self.key_of(index), earliest, latest)
        })
    }

    fn key_of(self, index: usize) -> Key<'a> {
        let at = self.span_at(index);
        let device = self.u32_at(at + 8);
        Key {
            metric: self.text(self.u32_at(at)),
            source: self.text(self.u32_at(at + 4)),
            device: (device != ABSENT).then(|| self.text(device)),
        }
    }

    fn span(self, index: usize) -> (i64, i64) {
        let at = self.span_at(index);
        (self.u64_at(at + 12).cast_signed(), self.u64_at(at + 20).cast_signed())
    }

    fn find(self, key: Key<'_>) -> Option<usize> {
        let tag = key.tag().to_le_bytes();
        let tags = &self.0[HEAD_BYTES..HEAD_BYTES + self.series() * TAG_BYTES];
        let found = tags.chunks_exact(TAG_BYTES).enumerate().filter(|(_, stored)| **stored == tag);
        found.map(|(index, _)| index).find(|&index| self.key_of(index) == key)
    }

    /// Where the newest value of a metric lies, named by its place in the texts.
    fn find_newest(self, metric: u32) -> Option<usize> {
        (0..self.metrics())
            .map(|index| self.newest_at() + index * NEWEST_BYTES)
            .find(|&at| self.u32_at(at) == metric)
    }

    fn find_text(self, text: &[u8]) -> Option<u32> {
        let texts = &self.0[self.texts_at()..];
        let mut at = 0;
        while at < texts.len() {
            let length = usize::from(u16::from_le_bytes([texts[at], texts[at + 1]]));
            if &texts[at + 2..at + 2 + length] == text {
                return Some(at as u32);
            }
            at += 2 + length;
        }
        None
    }

    fn newest_of(self, at: usize) -> Newest {
        Newest {
            recorded_at: self.u64_at(at + 4).cast_signed(),
            value: f64::from_bits(self.u64_at(at + 12)),
            sequence: Sequence(self.u64_at(at + 20)),
        }
    }

    fn text(self, place: u32) -> &'a [u8] {
        let at = self.texts_at() + place as usize;
        let length = usize::from(u16::from_le_bytes([self.0[at], self.0[at + 1]]));
        &self.0[at + 2..at + 2 + length]
    }

    fn metrics(self) -> usize {
        self.u32_at(METRICS_AT) as usize
    }

    fn span_at(self, index: usize) -> usize {
        HEAD_BYTES + self.series() * TAG_BYTES + index * SPAN_BYTES
    }

    fn newest_at(self) -> usize {
        self.span_at(self.series())
    }

    fn texts_at(self) -> usize {
        self.newest_at() + self.metrics() * NEWEST_BYTES
    }

    fn u32_at(self, at: usize) -> u32 {
        u32::from_le_bytes(*self.0[at..].first_chunk().expect("a record ends with its texts"))
    }

    fn u64_at(self, at: usize) -> u64 {
        u64::from_le_bytes(*self.0[at..].first_chunk().expect("a record ends with its texts"))
    }
}

/// A record of one's own.
#[derive(Clone, Debug)]
pub(super) struct Record(Box<[u8]>);

/// What of a record the map counts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Measure {
    pub(super) bytes: usize,
    pub(super) series: usize,
    pub(super) dirty: bool,
}

impl Record {
    pub(super) fn new(hash: u64, org: &[u8], user: &[u8], flags: u8) -> Record {
        let texts = [text(org), text(user)].concat();
        let mut bytes = Vec::with_capacity(HEAD_BYTES + texts.len());
        bytes.extend_from_slice(&hash.to_le_bytes());
        bytes.extend_from_slice(&[flags, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
        bytes.extend_from_slice(&(texts.len() as u32).to_le_bytes());
        bytes.extend_from_slice(&texts);
        Record(bytes.into_boxed_slice())
    }

    /// A copy as it is written to disk.
    pub(super) fn copy(view: View<'_>) -> Record {
        let mut record = Record(view.0.into());
        record.0[FLAGS_AT] &= KEPT;
        record
    }

    pub(super) fn view(&self) -> View<'_> {
        View(&self.0)
    }

    pub(super) fn set(&mut self, flags: u8) {
        self.0[FLAGS_AT] |= flags;
    }

    pub(super) fn clear(&mut self, flags: u8) {
        self.0[FLAGS_AT] &= !flags;
    }

    pub(super) fn measure(&self) -> Measure {
        Measure {
            // What an allocator takes for it.
            bytes: (self.0.len() + 8).next_multiple_of(16),
            series: self.view().series(),
            dirty: self.view().has(DIRTY),
        }
    }

    /// Widens a span and says how the new times lie to what was there.
    pub(super) fn widen(&mut self, key: Key<'_>, earliest: i64, latest: i64) -> Mark {
        let index = self.series_of(key);
        let outside = |(from, to): (i64, i64)| earliest > to || latest < from;
        let view = self.view();
        let span = view.span(index);
        let certain = view.has(COMPLETE) && !view.has(VAGUE);
        // Merging records may have put a series' past into the rest.
        let rest = if view.series() < SERIES_MAX { None } else { view.find(key.rest()) };
        let new = certain && outside(span) && rest.is_none_or(|rest| outside(view.span(rest)));
        self.put_span(index, span.0.min(earliest), span.1.max(latest));
        if new { Mark::New } else { Mark::Look }
    }

    /// Takes in a durable run of samples: its span and its newest sample.
    pub(super) fn advance(&mut self, key: Key<'_>, earliest: i64, latest: i64, newest: Newest) {
        let index = self.series_of(key);
        let span = self.view().span(index);
        if earliest < span.0 || latest > span.1 {
            self.put_span(index, span.0.min(earliest), span.1.max(latest));
        }
        let metric = self.view().u32_at(self.view().span_at(index));
        self.advance_metric(metric, newest);
    }

    /// Sets or removes a metric's newest value.
    pub(super) fn replace(&mut self, metric: &[u8], newest: Option<Newest>) {
        if let Some(at) = self.view().find_text(metric).and_then(|place| self.view().find_newest(place)) {
            self.cut(at, NEWEST_BYTES);
        }
        if let Some(newest) = newest {
            let metric = self.place_of(metric);
            self.advance_metric(metric, newest);
        }
    }

    /// Takes in what an older record of the same user says.
    pub(super) fn absorb(&mut self, older: View<'_>) {
        if self.view().has(COMPLETE) {
            return;
        }
        for (key, earliest, latest) in older.spans() {
            let index = self.series_of(key);
            let span = self.view().span(index);
            self.put_span(index, span.0.min(earliest), span.1.max(latest));
        }
        for (metric, newest) in older.newest() {
            let metric = self.place_of(metric);
            self.advance_metric(metric, newest);
        }
        self.0[FLAGS_AT] |= older.0[FLAGS_AT] & KEPT;
    }

    /// What is left when everything through a sequence is erased.
    pub(super) fn after(&self, through: Sequence, flags: u8) -> Record {
        let view = self.view();
        let mut rest = Record::new(view.hash(), view.org(), view.user(), flags);
        for (metric, newest) in view.newest().filter(|(_, newest)| newest.sequence > through) {
            let metric = rest.place_of(metric);
            rest.advance_metric(metric, newest);
        }
        rest
    }

    fn advance_metric(&mut self, metric: u32, newest: Newest) {
        let Some(at) = self.view().find_newest(metric) else {
            let entry = [&metric.to_le_bytes()[..], &newest_bytes(newest)].concat();
            self.insert(&[(self.view().texts_at(), &entry)], 0, 1, 0);
            return;
        };
        if newest.beats(&self.view().newest_of(at)) {
            self.0[at + 4..at + NEWEST_BYTES].copy_from_slice(&newest_bytes(newest));
        }
    }

    /// The series with this key, made if it is new.
    fn series_of(&mut self, key: Key<'_>) -> usize {
        if let Some(index) = self.view().find(key) {
            return index;
        }
        if self.view().series() < SERIES_MAX {
            return self.add(key);
        }
        let rest = key.rest();
        self.view().find(rest).unwrap_or_else(|| self.add(rest))
    }

    fn add(&mut self, key: Key<'_>) -> usize {
        let metric = self.place_of(key.metric);
        let source = self.place_of(key.source);
        let device = key.device.map_or(ABSENT, |device| self.place_of(device));
        let mut span = Vec::with_capacity(SPAN_BYTES);
        for place in [metric, source, device] {
            span.extend_from_slice(&place.to_le_bytes());
        }
        span.extend_from_slice(&i64::MAX.to_le_bytes());
        span.extend_from_slice(&i64::MIN.to_le_bytes());
        let index = self.view().series();
        let inserts = [
            (HEAD_BYTES + index * TAG_BYTES, &key.tag().to_le_bytes()[..]),
            (self.view().newest_at(), &span[..]),
        ];
        self.insert(&inserts, 1, 0, 0);
        index
    }

    /// Where a text lies, added if it is new.
    fn place_of(&mut self, name: &[u8]) -> u32 {
        if let Some(place) = self.view().find_text(name) {
            return place;
        }
        let place = self.view().u32_at(TEXTS_AT);
        let entry = text(name);
        self.insert(&[(self.0.len(), &entry)], 0, 0, entry.len() as u32);
        place
    }

    fn put_span(&mut self, index: usize, earliest: i64, latest: i64) {
        let at = self.view().span_at(index);
        self.0[at + 12..at + 20].copy_from_slice(&earliest.to_le_bytes());
        self.0[at + 20..at + 28].copy_from_slice(&latest.to_le_bytes());
    }

    /// Puts bytes in at rising places and raises the counts.
    fn insert(&mut self, inserts: &[(usize, &[u8])], series: u32, metrics: u32, texts: u32) {
        let added: usize = inserts.iter().map(|(_, bytes)| bytes.len()).sum();
        let mut bytes = Vec::with_capacity(self.0.len() + added);
        let mut from = 0;
        for (at, part) in inserts {
            bytes.extend_from_slice(&self.0[from..*at]);
            bytes.extend_from_slice(part);
            from = *at;
        }
        bytes.extend_from_slice(&self.0[from..]);
        self.0 = bytes.into_boxed_slice();
        self.raise(SERIES_AT, series);
        self.raise(METRICS_AT, metrics);
        self.raise(TEXTS_AT, texts);
    }

    /// Takes a newest value out.
    fn cut(&mut self, at: usize, length: usize) {
        self.0 = [&self.0[..at], &self.0[at + length..]].concat().into_boxed_slice();
        let metrics = self.view().u32_at(METRICS_AT) - 1;
        self.0[METRICS_AT..METRICS_AT + 4].copy_from_slice(&metrics.to_le_bytes());
    }

    fn raise(&mut self, at: usize, by: u32) {
        let raised = self.view().u32_at(at) + by;
        self.0[at..at + 4].copy_from_slice(&raised.to_le_bytes());
    }
}

impl Newest {
    /// Whether it is this value.
    pub(crate) fn is(&self, value: &LatestValue) -> bool {
        (self.recorded_at, self.sequence) == (value.recorded_at, value.sequence)
    }

    /// The newer of both.
    pub(super) fn or_newer(self, other: Option<Newest>) -> Newest {
        other.filter(|other| !self.beats(other)).unwrap_or(self)
    }

    /// Later times win; of equal times the later received.
    fn beats(&self, other: &Newest) -> bool {
        let order = self.recorded_at.cmp(&other.recorded_at).then(self.sequence.cmp(&other.sequence));
        order != Ordering::Less
    }
}

fn newest_bytes(newest: Newest) -> [u8; NEWEST_BYTES - 4] {
    let mut bytes = [0; NEWEST_BYTES - 4];
    bytes[..8].copy_from_slice(&newest.recorded_at.to_le_bytes());
    bytes[8..16].copy_from_slice(&newest.value.to_bits().to_le_bytes());
    bytes[16..].copy_from_slice(&newest.sequence.0.to_le_bytes());
    bytes
}

fn as_text(bytes: &[u8]) -> std::borrow::Cow<'_, str> {
    String::from_utf8_lossy(bytes)
}

fn text(name: &[u8]) -> Vec<u8> {
    let length = u16::try_from(name.len()).expect("names were checked to be short before they got here");
    [&length.to_le_bytes()[..], name].concat()
}
