//! The payload of a samples frame: one request's samples as columns, grouped
//! by (user, metric, source, device), each group sorted by time.
//!
//! ```text
//!  0  u32 groups   u32 samples   u32 columns   u32 string_bytes
//! 16  u32 org_at   u32 org_bytes
//! 24  groups x 72 bytes:
//!        user, metric, unit, source, device: (u32 at, u32 bytes) into the
//!          strings; a device that is absent has at = u32::MAX
//!        u32 first, u32 count      its rows in the columns
//!        i64 earliest, i64 latest  milliseconds, of its rows
//!        u8 mark                   see Mark; set by the committer; bit 7: erased, then
//!                                  first and count are 0
//!        3 zeros, u32 rows         how many it had, if it is erased
//!     i64 recorded_at[samples]     milliseconds since 1970
//!     f64 value[samples]           in the canonical unit
//!     i16 zone[samples]            minutes; only with COLUMN_ZONE; padded to 8
//!     i64 ended_at[samples]        milliseconds; only with COLUMN_ENDED
//!     u8  daily[samples]           only with COLUMN_DAILY; padded to 8
//!     strings
//! ```
//!
//! Rows of a group are strictly rising in time: of equal keys in one request
//! only the last stays, and that is decided before the frame is encoded.

mod emptied;

use std::ops::Range;

use bytes::Bytes;

use super::{Draft, FRAME_HEADER_BYTES, FrameFault, Header, Kind, padded, u32_at, u64_at};

/// `zone` of a sample whose offset is not known.
pub const ZONE_UNKNOWN: i16 = i16::MIN;
/// `ended_at` of a sample that has none.
pub const ENDED_NONE: i64 = i64::MIN;
/// `daily` of a sample that does not say.
pub const DAILY_UNKNOWN: u8 = 0;
/// `daily` of a sample that is no daily total.
pub const DAILY_FALSE: u8 = 1;
/// `daily` of a daily total.
pub const DAILY_TRUE: u8 = 2;

const COLUMN_ZONE: u32 = 1;
const COLUMN_ENDED: u32 = 2;
const COLUMN_DAILY: u32 = 4;

const HEAD_BYTES: usize = 24;
const GROUP_BYTES: usize = 72;
const MARK_AT: usize = 64;
/// In the byte of the mark.
const ERASED: u8 = 0x80;
const ERASED_ROWS_AT: usize = 68;
const ORG_AT: usize = 16;
const ABSENT: u32 = u32::MAX;

/// What the committer found out about a group.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Mark {
    /// Not decided yet; only in drafts.
    Undecided = 0,
    /// Disjoint from everything its series had: all its samples are new.
    New = 1,
    /// Overlaps its series' span: the classifier has to look.
    Look = 2,
}

/// A group to encode; its rows are `first .. first + count` of the columns.
#[derive(Clone, Copy, Debug)]
pub struct GroupSpec<'a> {
    /// Who wears the device.
    pub user: &'a str,
    /// Canonical metric key.
    pub metric: &'a str,
    /// Canonical unit of the metric.
    pub unit: &'a str,
    /// Who made the samples.
    pub source: &'a str,
    /// Which device, if it is known.
    pub device: Option<&'a str>,
    /// First row.
    pub first: u32,
    /// Number of rows, at least 1.
    pub count: u32,
}

/// The columns to encode, all of one length. Optional columns are left out when
/// no sample of the request has a value there.
#[derive(Clone, Copy, Debug)]
pub struct Columns<'a> {
    /// Milliseconds since 1970, strictly rising within a group.
    pub recorded_at: &'a [i64],
    /// Canonical values.
    pub value: &'a [f64],
    /// Minutes, or [`ZONE_UNKNOWN`].
    pub zone: Option<&'a [i16]>,
    /// Milliseconds, or [`ENDED_NONE`].
    pub ended_at: Option<&'a [i64]>,
    /// [`DAILY_UNKNOWN`], [`DAILY_FALSE`] or [`DAILY_TRUE`].
    pub daily: Option<&'a [u8]>,
}

/// Encodes one request's samples.
///
/// # Panics
/// If the columns differ in length or a group reaches beyond them: our bug.
#[must_use]
pub fn encode_samples(org: &str, backfill: bool, groups: &[GroupSpec<'_>], columns: Columns<'_>) -> Draft {
    let samples = columns.recorded_at.len();
    assert_eq!(samples, columns.value.len());
    let mut strings = Strings::default();
    let org_ref = strings.add(org);
    let layout = Layout::new(groups.len(), samples, column_bits(&columns));
    let string_guess = groups.len().min(8) * 96 + 64;
    Draft::build(Kind::Samples, backfill, layout.strings_at + string_guess, |out| {
        let start = out.len();
        out.resize(start + HEAD_BYTES, 0);
        for group in groups {
            put_group(out, &mut strings, group, columns.recorded_at);
        }
        put_columns(out, start, &columns, samples);
        debug_assert_eq!(out.len() - start, layout.strings_at);
        out.extend_from_slice(strings.bytes.as_bytes());
        let head = &mut out[start..start + HEAD_BYTES];
        for (at, number) in [
            (0, as_u32(groups.len())),
            (4, as_u32(samples)),
            (8, layout.columns),
            (12, as_u32(strings.bytes.len())),
            (16, org_ref.0),
            (20, org_ref.1),
        ] {
            head[at..at + 4].copy_from_slice(&number.to_le_bytes());
        }
    })
}

fn column_bits(columns: &Columns<'_>) -> u32 {
    let mut bits = 0;
    if columns.zone.is_some() {
        bits |= COLUMN_ZONE;
    }
    if columns.ended_at.is_some() {
        bits |= COLUMN_ENDED;
    }
    if columns.daily.is_some() {
        bits |= COLUMN_DAILY;
    }
    bits
}

fn put_group(out: &mut Vec<u8>, strings: &mut Strings, group: &GroupSpec<'_>, times: &[i64]) {
    let rows = &times[group.first as usize..(group.first + group.count) as usize];
    let device = group.device.map_or((ABSENT, 0), |device| strings.add(device));
    for (at, bytes) in [
        strings.add(group.user),
        strings.add(group.metric),
        strings.add(group.unit),
        strings.add(group.source),
        device,
    ] {
        out.extend_from_slice(&at.to_le_bytes());
        out.extend_from_slice(&bytes.to_le_bytes());
    }
    out.extend_from_slice(&group.first.to_le_bytes());
    out.extend_from_slice(&group.count.to_le_bytes());
    out.extend_from_slice(&rows[0].to_le_bytes());
    out.extend_from_slice(&rows[rows.len() - 1].to_le_bytes());
    out.extend_from_slice(&[Mark::Undecided as u8, 0, 0, 0, 0, 0, 0, 0]);
}

fn put_columns(out: &mut Vec<u8>, start: usize, columns: &Columns<'_>, samples: usize) {
    out.extend(columns.recorded_at.iter().flat_map(|time| time.to_le_bytes()));
    out.extend(columns.value.iter().flat_map(|value| value.to_le_bytes()));
    if let Some(zone) = columns.zone {
        assert_eq!(zone.len(), samples);
        out.extend(zone.iter().flat_map(|minutes| minutes.to_le_bytes()));
        out.resize(start + padded(out.len() - start), 0);
    }
    if let Some(ended_at) = columns.ended_at {
        assert_eq!(ended_at.len(), samples);
        out.extend(ended_at.iter().flat_map(|time| time.to_le_bytes()));
    }
    if let Some(daily) = columns.daily {
        assert_eq!(daily.len(), samples);
        out.extend_from_slice(daily);
        out.resize(start + padded(out.len() - start), 0);
    }
}

/// The string table of a frame; a string that was just added is not repeated.
#[derive(Default)]
struct Strings {
    bytes: String,
    recent: Vec<(u32, u32)>,
}

impl Strings {
    /// How many of the latest strings are compared: user, metric, unit, source
    /// and device of the last groups, which is where repetition lies.
    const RECENT: usize = 12;

    fn add(&mut self, text: &str) -> (u32, u32) {
        for &(at, len) in self.recent.iter().rev() {
            if self.bytes.as_bytes()[at as usize..(at + len) as usize] == *text.as_bytes() {
                return (at, len);
            }
        }
        let entry = (as_u32(self.bytes.len()), as_u32(text.len()));
        self.bytes.push_str(text);
        if self.recent.len() == Self::RECENT {
            self.recent.remove(0);
        }
        self.recent.push(entry);
        entry
    }
}

/// Where the columns lie in a payload, as offsets from its start.
#[derive(Clone, Copy, Debug)]
struct Layout {
    groups: usize,
    samples: usize,
    columns: u32,
    recorded_at: usize,
    value: usize,
    zone: usize,
    ended_at: usize,
    daily: usize,
    strings_at: usize,
}

impl Layout {
    fn new(groups: usize, samples: usize, columns: u32) -> Layout {
        let has = |bit: u32, bytes: usize| if columns & bit == 0 { 0 } else { padded(bytes) };
        let recorded_at = HEAD_BYTES + groups * GROUP_BYTES;
        let value = recorded_at + samples * 8;
        let zone = value + samples * 8;
        let ended_at = zone + has(COLUMN_ZONE, samples * 2);
        let daily = ended_at + has(COLUMN_ENDED, samples * 8);
        let strings_at = daily + has(COLUMN_DAILY, samples);
        Layout { groups, samples, columns, recorded_at, value, zone, ended_at, daily, strings_at }
    }

    fn read(payload: &[u8]) -> Result<(Layout, usize), FrameFault> {
        if payload.len() < HEAD_BYTES {
            return Err(FrameFault::Payload { what: "shorter than its head" });
        }
        let (groups, samples) = (u32_at(payload, 0) as usize, u32_at(payload, 4) as usize);
        let string_bytes = u32_at(payload, 12) as usize;
        if groups > payload.len() || samples > payload.len() {
            return Err(FrameFault::Payload { what: "more groups or samples than bytes" });
        }
        let layout = Layout::new(groups, samples, u32_at(payload, 8));
        if layout.strings_at + string_bytes != payload.len() {
            return Err(FrameFault::Payload { what: "columns and strings do not add up" });
        }
        Ok((layout, string_bytes))
    }
}

/// A group of a frame as it is read.
#[derive(Clone, Copy, Debug)]
pub struct Group<'a> {
    /// Who wears the device.
    pub user: &'a str,
    /// Canonical metric key.
    pub metric: &'a str,
    /// Canonical unit.
    pub unit: &'a str,
    /// Who made the samples.
    pub source: &'a str,
    /// Which device.
    pub device: Option<&'a str>,
    /// First row in the frame's columns.
    pub first: usize,
    /// Number of rows.
    pub count: usize,
    /// Time of the first row, milliseconds.
    pub earliest: i64,
    /// Time of the last row, milliseconds.
    pub latest: i64,
    /// The committer's verdict.
    pub mark: Mark,
    /// Rows it had before it was erased; it has none now. 0 if it was not.
    pub erased_rows: usize,
}

impl Group<'_> {
    /// Its rows in the frame's columns.
    #[must_use]
    pub fn rows(&self) -> Range<usize> {
        self.first..self.first + self.count
    }
}

/// A samples frame, immutable and cheap to clone.
#[derive(Clone, Debug)]
pub struct SamplesFrame {
    bytes: Bytes,
    header: Header,
    layout: Layout,
}

impl SamplesFrame {
    /// Reads a sealed frame whose checksum is known to be right, and checks
    /// that every reference in it lies inside it.
    ///
    /// # Errors
    /// [`FrameFault`] if the payload contradicts itself.
    pub fn parse(bytes: Bytes) -> Result<SamplesFrame, FrameFault> {
        let header = Header::read(&bytes).ok_or(FrameFault::Length { payload_bytes: 0 })?;
        let end = FRAME_HEADER_BYTES + header.payload_bytes as usize;
        let payload = bytes
            .get(FRAME_HEADER_BYTES..end)
            .ok_or(FrameFault::Length { payload_bytes: header.payload_bytes })?;
        let (layout, _) = Layout::read(payload)?;
        let frame = SamplesFrame { bytes: bytes.slice(..end), header, layout };
        frame.check()?;
        Ok(frame)
    }

    fn check(&self) -> Result<(), FrameFault> {
        let view = self.view();
        let absent = |at: usize| u32_at(view.payload, at) == ABSENT;
        if view.text(ORG_AT).is_none() {
            return Err(FrameFault::Payload { what: "organisation outside the strings" });
        }
        for index in 0..self.layout.groups {
            let base = HEAD_BYTES + index * GROUP_BYTES;
            let named = (0..4).all(|field| view.text(base + field * 8).is_some());
            if !named || !(absent(base + 32) || view.text(base + 32).is_some()) {
                return Err(FrameFault::Payload { what: "group names outside the strings" });
            }
            let group = view.group(index);
            let empty = group.count == 0 && group.erased_rows == 0;
            if empty || group.first + group.count > self.layout.samples {
                return Err(FrameFault::Payload { what: "group rows outside the columns" });
            }
        }
        Ok(())
    }

    /// The header.
    #[must_use]
    pub fn header(&self) -> &Header {
        &self.header
    }

    /// Bytes of memory it holds.
    #[must_use]
    pub fn byte_len(&self) -> usize {
        self.bytes.len()
    }

    /// The organisation all its samples belong to.
    #[must_use]
    pub fn org(&self) -> &str {
        self.view().text(ORG_AT).unwrap_or_default()
    }

    /// Number of groups.
    #[must_use]
    pub fn group_count(&self) -> usize {
        self.layout.groups
    }

    /// Number of samples.
    #[must_use]
    pub fn sample_count(&self) -> usize {
        self.layout.samples
    }

    /// Group `index`.
    ///
    /// # Panics
    /// If there is no such group.
    #[must_use]
    pub fn group(&self, index: usize) -> Group<'_> {
        self.view().group(index)
    }

    /// All groups in order.
    pub fn groups(&self) -> impl Iterator<Item = Group<'_>> {
        (0..self.layout.groups).map(|index| self.group(index))
    }

    /// Time of row `row`, milliseconds.
    #[inline]
    #[must_use]
    pub fn recorded_at(&self, row: usize) -> i64 {
        u64_at(self.payload(), self.layout.recorded_at + row * 8) as i64
    }

    /// Value of row `row`.
    #[inline]
    #[must_use]
    pub fn value(&self, row: usize) -> f64 {
        f64::from_bits(u64_at(self.payload(), self.layout.value + row * 8))
    }

    /// Times of `rows`, milliseconds.
    pub fn recorded_at_of(&self, rows: Range<usize>) -> impl ExactSizeIterator<Item = i64> {
        self.eights(self.layout.recorded_at, rows).map(i64::from_le_bytes)
    }

    /// Values of `rows`.
    pub fn value_of(&self, rows: Range<usize>) -> impl ExactSizeIterator<Item = f64> {
        self.eights(self.layout.value, rows).map(f64::from_le_bytes)
    }

    fn eights(&self, column: usize, rows: Range<usize>) -> impl ExactSizeIterator<Item = [u8; 8]> {
        let bytes = &self.payload()[column + rows.start * 8..column + rows.end * 8];
        bytes.as_chunks().0.iter().copied()
    }

    /// Offset from UTC of row `row` in minutes.
    #[inline]
    #[must_use]
    pub fn zone(&self, row: usize) -> Option<i16> {
        if self.layout.columns & COLUMN_ZONE == 0 {
            return None;
        }
        let at = self.layout.zone + row * 2;
        let minutes = i16::from_le_bytes(self.payload()[at..at + 2].try_into().expect("two bytes"));
        (minutes != ZONE_UNKNOWN).then_some(minutes)
    }

    /// End of the span of row `row`, milliseconds.
    #[inline]
    #[must_use]
    pub fn ended_at(&self, row: usize) -> Option<i64> {
        if self.layout.columns & COLUMN_ENDED == 0 {
            return None;
        }
        let time = u64_at(self.payload(), self.layout.ended_at + row * 8) as i64;
        (time != ENDED_NONE).then_some(time)
    }

    /// Whether row `row` stands for the whole day.
    #[inline]
    #[must_use]
    pub fn is_daily_total(&self, row: usize) -> Option<bool> {
        if self.layout.columns & COLUMN_DAILY == 0 {
            return None;
        }
        match self.payload()[self.layout.daily + row] {
            DAILY_FALSE => Some(false),
            DAILY_TRUE => Some(true),
            _ => None,
        }
    }

    /// Whether any row has an offset.
    #[must_use]
    pub fn has_zones(&self) -> bool {
        self.layout.columns & COLUMN_ZONE != 0
    }

    /// Whether any row has an end.
    #[must_use]
    pub fn has_ends(&self) -> bool {
        self.layout.columns & COLUMN_ENDED != 0
    }

    /// Whether any row says if it is a daily total.
    #[must_use]
    pub fn has_daily_totals(&self) -> bool {
        self.layout.columns & COLUMN_DAILY != 0
    }

    fn payload(&self) -> &[u8] {
        &self.bytes[FRAME_HEADER_BYTES..]
    }

    fn view(&self) -> View<'_> {
        View { payload: self.payload(), layout: self.layout }
    }
}

impl Draft {
    /// Calls `decide` for each group of a samples draft and writes its verdict
    /// into the payload.
    ///
    /// # Errors
    /// [`FrameFault`] if the draft was not made by [`encode_samples`].
    pub fn mark_groups(&mut self, mut decide: impl FnMut(&str, Group<'_>) -> Mark) -> Result<(), FrameFault> {
        let payload = self.payload_mut();
        let (layout, _) = Layout::read(payload)?;
        for index in 0..layout.groups {
            let view = View { payload, layout };
            let mark = decide(view.text(ORG_AT).unwrap_or_default(), view.group(index));
            payload[HEAD_BYTES + index * GROUP_BYTES + MARK_AT] = mark as u8;
        }
        Ok(())
    }
}

/// A payload and where its parts lie; reads names and groups of drafts and
/// frames alike.
#[derive(Clone, Copy)]
struct View<'a> {
    payload: &'a [u8],
    layout: Layout,
}

impl<'a> View<'a> {
    fn group(self, index: usize) -> Group<'a> {
        assert!(index < self.layout.groups);
        let base = HEAD_BYTES + index * GROUP_BYTES;
        let name = |field: usize| self.text(base + field * 8);
        Group {
            user: name(0).unwrap_or_default(),
            metric: name(1).unwrap_or_default(),
            unit: name(2).unwrap_or_default(),
            source: name(3).unwrap_or_default(),
            device: name(4),
            first: u32_at(self.payload, base + 40) as usize,
            count: u32_at(self.payload, base + 44) as usize,
            earliest: u64_at(self.payload, base + 48) as i64,
            latest: u64_at(self.payload, base + 56) as i64,
            mark: match self.payload[base + MARK_AT] & !ERASED {
                1 => Mark::New,
                2 => Mark::Look,
                _ => Mark::Undecided,
            },
            erased_rows: match self.payload[base + MARK_AT] & ERASED {
                0 => 0,
                _ => u32_at(self.payload, base + ERASED_ROWS_AT) as usize,
            },
        }
    }

    /// The string whose reference stands at `at`. Parsing checked that every
    /// reference is whole, so `None` means that the name is absent.
    fn text(self, at: usize) -> Option<&'a str> {
        let (start, len) = (u32_at(self.payload, at), u32_at(self.payload, at + 4));
        if start == ABSENT {
            return None;
        }
        let begin = self.layout.strings_at + start as usize;
        let bytes = self.payload.get(begin..begin + len as usize)?;
        std::str::from_utf8(bytes).ok()
    }
}

fn as_u32(number: usize) -> u32 {
    u32::try_from(number).expect("frames are at most 64 MiB")
}
