//! What an event says, straight out of its frame.
//!
//! A payload is a pure function of the journal: of the frame, and for samples that
//! had to be compared of the changes frame that decided on them. So every attempt
//! prints the same bytes.
//!
//! ```text
//! {"user_id","provider","series_type","sample_count","ordering","start_time","end_time",
//!  "backfill"?,"chunk_index"?,"total_chunks"?,
//!  "samples":[{"timestamp","zone_offset","type","value","unit","source":{"provider","device"},
//!              "is_daily_total"}]}
//! ```
//!
//! `sample_count` is that of all parts; `start_time` and `end_time` are those of the
//! samples printed. What repeats from sample to sample is rendered once a group.

mod joined;

use std::ops::Range;
use std::sync::Arc;

use systole_dispatch::event::Vocabulary;
use systole_dispatch::topic::TopicId;
use systole_dispatch::{EventKind, Payload, PayloadFault, PayloadSource, Place};
use systole_storage::Sequence;
use systole_storage::frame::{Change, Changes, EventFrame, Frame, Group, SamplesFrame, Verdict};
use systole_storage::journal::LogError;

use super::erased::ErasedNow;
use super::reader::{EVENT_SAMPLES_MAX, JournalEvents, verdict_of};
use super::topics::EventTopics;
use crate::number::write_finite;
use crate::registry::{Metric, MetricId, Registry};
use crate::timestamp::{TimestampWriter, write_offset, write_rfc3339};
use joined::Joined;

/// Samples older than this at commit are history.
pub(super) const BACKFILL_AGE_MS: i64 = 48 * 3600 * 1000;
/// Bytes a sample takes in a body, about: what is allocated for it.
const SAMPLE_BYTES: usize = 184;

impl PayloadSource for JournalEvents {
    fn open(&self, place: Place, decided_at: u64) -> Result<Box<dyn Payload>, PayloadFault> {
        match self.frame(place.sequence)? {
            Frame::Event(frame) => {
                if self.erased.event(&frame) {
                    return Err(PayloadFault::Gone);
                }
                let topic = self.topics.of_event(frame.name()).ok_or(PayloadFault::Gone)?;
                let timestamp = Timestamp::of(frame.header().stamp.committed_at);
                Ok(Box::new(Published { frame, topic, timestamp, erased: self.erased.clone() }))
            }
            Frame::Samples(frame) => Ok(Box::new(self.samples(frame, place, decided_at)?)),
            _ => Err(PayloadFault::Gone),
        }
    }

    fn open_joined(&self, members: &[(Place, u64)]) -> Result<Box<dyn Payload>, PayloadFault> {
        let open = |(place, decided_at): &(Place, u64)| match self.frame(place.sequence)? {
            Frame::Samples(frame) => self.samples(frame, *place, *decided_at),
            _ => Err(PayloadFault::Gone),
        };
        let members: Vec<Samples> = members.iter().map(open).collect::<Result<_, _>>()?;
        let joined = Joined::of(members).ok_or(PayloadFault::Gone)?;
        Ok(Box::new(joined))
    }

    fn is_at_hand(&self, sequence: u64) -> bool {
        self.log.is_in_memory(Sequence(sequence))
    }

    fn erasures(&self) -> u64 {
        self.log.erasures()
    }
}

impl JournalEvents {
    fn frame(&self, sequence: u64) -> Result<Frame, PayloadFault> {
        self.log.frame(Sequence(sequence)).map_err(|error| match error {
            LogError::Gone { .. } if Sequence(sequence) <= self.log.removed() => PayloadFault::Dropped,
            LogError::Gone { .. } => PayloadFault::Gone,
            other => {
                let error = crate::flusher::chain(&other);
                tracing::error!(sequence, error, "a payload cannot be read");
                PayloadFault::Unreadable
            }
        })
    }

    fn samples(&self, frame: SamplesFrame, place: Place, decided_at: u64) -> Result<Samples, PayloadFault> {
        let changes = self.changes(place.sequence, decided_at)?;
        let registry = self.registries.of(frame.org());
        Samples::open((registry, &self.topics), frame, changes, place, self.erased.clone())
    }

    fn changes(&self, sequence: u64, decided_at: u64) -> Result<Option<Arc<Changes>>, PayloadFault> {
        if decided_at == sequence {
            return Ok(None);
        }
        match self.frame(decided_at)? {
            Frame::Changes(_, changes) => Ok(Some(changes)),
            _ => Err(PayloadFault::Gone),
        }
    }
}

/// When a frame was committed.
pub(super) struct Timestamp {
    pub(super) text: String,
    pub(super) ms: i64,
}

impl Timestamp {
    pub(super) fn of(committed_at_micros: i64) -> Timestamp {
        let ms = committed_at_micros.div_euclid(1000);
        let mut text = Vec::with_capacity(24);
        write_rfc3339(ms, &mut text);
        Timestamp { text: String::from_utf8(text).unwrap_or_default(), ms }
    }
}

/// A published event.
struct Published {
    frame: EventFrame,
    topic: TopicId,
    timestamp: Timestamp,
    erased: ErasedNow,
}

impl Payload for Published {
    fn is_erased(&self) -> bool {
        self.erased.event(&self.frame)
    }

    fn timestamp(&self) -> &str {
        &self.timestamp.text
    }

    fn timestamp_ms(&self) -> i64 {
        self.timestamp.ms
    }

    fn publisher_id(&self) -> Option<&str> {
        self.frame.id()
    }

    fn topic(&self) -> TopicId {
        self.topic
    }

    fn user(&self) -> Option<&str> {
        self.frame.user()
    }

    fn data_bytes(&self) -> usize {
        self.frame.data_bytes().len()
    }

    fn write_data(&self, _: Vocabulary, _: bool, out: &mut Vec<u8>) {
        out.extend_from_slice(self.frame.data_bytes());
    }
}

/// Samples of one event, or of one part of it.
pub(super) struct Samples {
    registry: Arc<Registry>,
    metric: MetricId,
    topic: TopicId,
    frame: SamplesFrame,
    timestamp: Timestamp,
    /// The event's first group.
    first: usize,
    /// Rows to print, group by group.
    parts: Vec<Part>,
    /// Samples of all parts of the event.
    total: usize,
    chunk: usize,
    erased: ErasedNow,
}

struct Part {
    group: usize,
    rows: Rows,
}

enum Rows {
    All(Range<usize>),
    Some(Vec<u32>),
}

impl Rows {
    fn len(&self) -> usize {
        match self {
            Rows::All(rows) => rows.len(),
            Rows::Some(rows) => rows.len(),
        }
    }

    /// Its rows `from..to`.
    fn part(self, from: usize, to: usize) -> Rows {
        match self {
            Rows::All(rows) => Rows::All(rows.start + from..rows.start + to),
            Rows::Some(rows) => Rows::Some(rows[from..to].to_vec()),
        }
    }

    fn first_and_last(&self) -> Option<(usize, usize)> {
        match self {
            Rows::All(rows) => (!rows.is_empty()).then(|| (rows.start, rows.end - 1)),
            Rows::Some(rows) => Some((*rows.first()? as usize, *rows.last()? as usize)),
        }
    }

    fn for_each(&self, mut each: impl FnMut(usize)) {
        match self {
            Rows::All(rows) => rows.clone().for_each(each),
            Rows::Some(rows) => rows.iter().for_each(|row| each(*row as usize)),
        }
    }
}

impl Samples {
    pub(super) fn open(
        (registry, topics): (Arc<Registry>, &EventTopics),
        frame: SamplesFrame,
        changes: Option<Arc<Changes>>,
        place: Place,
        erased: ErasedNow,
    ) -> Result<Samples, PayloadFault> {
        let first = place.group as usize;
        if first >= frame.group_count() || erased.groups(&frame, first) {
            return Err(PayloadFault::Gone);
        }
        let (metric, _) = registry.resolve(frame.group(first).metric).ok_or(PayloadFault::Gone)?;
        let topic = topics.of_metric(&registry, metric).ok_or(PayloadFault::Gone)?;
        let change = if place.kind == EventKind::Updated { Change::Updated } else { Change::Created };
        let all: Vec<Part> = frame
            .event_groups(first)
            .map(|group| Part { group, rows: changed(&frame, group, changes.as_deref(), change) })
            .collect();
        let total = all.iter().map(|part| part.rows.len()).sum();
        let chunk = usize::from(place.chunk);
        let parts = cut(all, chunk * EVENT_SAMPLES_MAX);
        let timestamp = Timestamp::of(frame.header().stamp.committed_at);
        Ok(Samples { registry, metric, topic, frame, timestamp, first, parts, total, chunk, erased })
    }

    /// Rows to print.
    fn row_count(&self) -> usize {
        self.parts.iter().map(|part| part.rows.len()).sum()
    }

    /// The earliest and the latest sample that is printed, if any is.
    fn span(&self) -> Option<(i64, i64)> {
        let spans = self.parts.iter().filter_map(|part| part.rows.first_and_last());
        let times = spans.map(|(first, last)| (self.frame.recorded_at(first), self.frame.recorded_at(last)));
        times.reduce(wider)
    }

    fn is_backfill(&self, latest: i64) -> bool {
        self.frame.header().is_backfill() || latest < self.timestamp.ms - BACKFILL_AGE_MS
    }

    fn write_head(&self, words: &Words<'_>, out: &mut Vec<u8>) {
        let (earliest, latest) = self.span().unwrap_or_default();
        self.write_head_of(words, (earliest, latest), self.is_backfill(latest), out);
        if self.total > EVENT_SAMPLES_MAX {
            out.extend_from_slice(b",\"chunk_index\":");
            write_number(self.chunk as u64, out);
            out.extend_from_slice(b",\"total_chunks\":");
            write_number(self.total.div_ceil(EVENT_SAMPLES_MAX) as u64, out);
        }
    }

    /// What stands before the samples, of events of every form.
    fn write_head_of(
        &self,
        words: &Words<'_>,
        (earliest, latest): (i64, i64),
        is_backfill: bool,
        out: &mut Vec<u8>,
    ) {
        let group = self.frame.group(self.first);
        out.extend_from_slice(b"{\"user_id\":");
        write_string(group.user, out);
        out.extend_from_slice(b",\"provider\":");
        write_string(group.source, out);
        out.extend_from_slice(b",\"series_type\":");
        write_string(words.code, out);
        out.extend_from_slice(b",\"sample_count\":");
        write_number(self.total as u64, out);
        out.extend_from_slice(b",\"ordering\":");
        write_number(self.frame.header().stamp.ordering, out);
        out.extend_from_slice(b",\"start_time\":\"");
        write_rfc3339(earliest, out);
        out.extend_from_slice(b"\",\"end_time\":\"");
        write_rfc3339(latest, out);
        out.push(b'"');
        if is_backfill {
            out.extend_from_slice(b",\"backfill\":true");
        }
    }

    fn write_samples(&self, part: &Part, words: &Words<'_>, out: &mut Vec<u8>) {
        let frame = &self.frame;
        let mut around = Around::new(&frame.group(part.group), words);
        let mut times = TimestampWriter::with_lead(b"{\"timestamp\":\"");
        part.rows.for_each(|row| {
            around.turn(frame.zone(row), frame.is_daily_total(row));
            times.write(frame.recorded_at(row), out);
            out.extend_from_slice(&around.between);
            write_finite(frame.value(row), out);
            out.extend_from_slice(&around.behind);
        });
    }
}

/// What stands around the time and the value of a sample: the same from sample to sample,
/// but where the zone or the kind of total changes.
struct Around {
    zone: Option<i16>,
    is_daily_total: Option<bool>,
    /// From the time to the value, and of it what follows the zone.
    between: Vec<u8>,
    typed: Vec<u8>,
    /// From the value to the next sample, and of it what precedes the kind of total.
    behind: Vec<u8>,
    sourced: Vec<u8>,
}

impl Around {
    /// Of a sample without a zone that does not say whether it is a day's total.
    fn new(group: &Group<'_>, words: &Words<'_>) -> Around {
        let mut typed = b"\"type\":".to_vec();
        write_string(words.code, &mut typed);
        typed.extend_from_slice(b",\"value\":");
        let mut sourced = b",\"unit\":".to_vec();
        write_string(words.unit, &mut sourced);
        sourced.extend_from_slice(b",\"source\":{\"provider\":");
        write_string(group.source, &mut sourced);
        sourced.extend_from_slice(b",\"device\":");
        match group.device {
            Some(device) => write_string(device, &mut sourced),
            None => sourced.extend_from_slice(b"null"),
        }
        sourced.extend_from_slice(b"},\"is_daily_total\":");
        let (between, behind) = (Vec::new(), Vec::new());
        let mut around = Around { zone: None, is_daily_total: None, between, typed, behind, sourced };
        around.set(None, None);
        around
    }

    #[inline]
    fn turn(&mut self, zone: Option<i16>, is_daily_total: Option<bool>) {
        if (self.zone, self.is_daily_total) != (zone, is_daily_total) {
            self.set(zone, is_daily_total);
        }
    }

    #[cold]
    fn set(&mut self, zone: Option<i16>, is_daily_total: Option<bool>) {
        (self.zone, self.is_daily_total) = (zone, is_daily_total);
        self.between.clear();
        match zone {
            None => self.between.extend_from_slice(b"\",\"zone_offset\":null,"),
            Some(minutes) => {
                self.between.extend_from_slice(b"\",\"zone_offset\":\"");
                write_offset(minutes, &mut self.between);
                self.between.extend_from_slice(b"\",");
            }
        }
        self.between.extend_from_slice(&self.typed);
        self.behind.clear();
        self.behind.extend_from_slice(&self.sourced);
        self.behind.extend_from_slice(match is_daily_total {
            None => b"null},",
            Some(true) => b"true},",
            Some(false) => b"false},",
        });
    }
}

impl Payload for Samples {
    fn is_erased(&self) -> bool {
        self.erased.groups(&self.frame, self.first)
    }

    fn timestamp(&self) -> &str {
        &self.timestamp.text
    }

    fn timestamp_ms(&self) -> i64 {
        self.timestamp.ms
    }

    fn publisher_id(&self) -> Option<&str> {
        None
    }

    fn topic(&self) -> TopicId {
        self.topic
    }

    fn user(&self) -> Option<&str> {
        Some(self.frame.group(self.first).user)
    }

    fn data_bytes(&self) -> usize {
        let names = self.parts.iter().map(|part| names_bytes(&self.frame.group(part.group))).max();
        data_bytes(self.row_count(), names.unwrap_or(0))
    }

    fn write_data(&self, vocabulary: Vocabulary, thin: bool, out: &mut Vec<u8>) {
        let words = Words::of(self.registry.metric(self.metric), vocabulary);
        self.write_head(&words, out);
        close_data([self], &words, thin, out);
    }
}

/// Appends the samples of events in their order, unless they are left out, and what
/// closes the data.
fn close_data<'a>(
    events: impl IntoIterator<Item = &'a Samples>,
    words: &Words<'_>,
    thin: bool,
    out: &mut Vec<u8>,
) {
    if !thin {
        out.extend_from_slice(b",\"samples\":[");
        let before = out.len();
        for event in events {
            event.parts.iter().for_each(|part| event.write_samples(part, words, out));
        }
        if out.len() > before {
            // The last comma.
            out.pop();
        }
        out.push(b']');
    }
    out.push(b'}');
}

fn wider(one: (i64, i64), other: (i64, i64)) -> (i64, i64) {
    (one.0.min(other.0), one.1.max(other.1))
}

/// The words a vocabulary has for a metric.
struct Words<'a> {
    code: &'a str,
    unit: &'a str,
}

impl Words<'_> {
    fn of(metric: &Metric, vocabulary: Vocabulary) -> Words<'_> {
        match (vocabulary, &metric.ow_code, &metric.ow_unit) {
            (Vocabulary::OpenWearables, Some(code), Some(unit)) => Words { code, unit },
            _ => Words { code: &metric.key, unit: &metric.unit },
        }
    }
}

/// Rows of a group that did `change`.
fn changed(frame: &SamplesFrame, index: usize, changes: Option<&Changes>, change: Change) -> Rows {
    let rows = frame.group(index).rows();
    match verdict_of(frame, index, changes) {
        Verdict::All(all) if all == change => Rows::All(rows),
        Verdict::All(_) => Rows::All(rows.start..rows.start),
        mixed => {
            let did = |row: &usize| mixed.change(row - rows.start) == change;
            let number = |row: usize| u32::try_from(row).expect("a frame is at most 64 MiB");
            Rows::Some(rows.clone().filter(did).map(number).collect())
        }
    }
}

/// The rows from number `skip` on, at most as many as one body holds.
fn cut(parts: Vec<Part>, mut skip: usize) -> Vec<Part> {
    let mut left = EVENT_SAMPLES_MAX;
    let mut kept = Vec::with_capacity(parts.len());
    for Part { group, rows } in parts {
        let from = skip.min(rows.len());
        skip -= from;
        let to = rows.len().min(from + left);
        left -= to - from;
        if from < to {
            kept.push(Part { group, rows: rows.part(from, to) });
        }
    }
    kept
}

/// About how many bytes a body has with so many samples.
pub(super) fn data_bytes(samples: usize, names: usize) -> usize {
    512 + names + samples * (SAMPLE_BYTES + names)
}

/// Bytes of the names that each sample of a group repeats.
pub(super) fn names_bytes(group: &Group<'_>) -> usize {
    group.source.len() + group.device.map_or(0, str::len) + group.unit.len() + group.metric.len()
}

fn write_number(number: u64, out: &mut Vec<u8>) {
    out.extend_from_slice(itoa::Buffer::new().format(number).as_bytes());
}

/// Appends a JSON string.
fn write_string(text: &str, out: &mut Vec<u8>) {
    out.push(b'"');
    let mut plain = 0;
    for (at, byte) in text.bytes().enumerate() {
        let escape: Option<&[u8]> = match byte {
            b'"' => Some(b"\\\""),
            b'\\' => Some(b"\\\\"),
            b'\n' => Some(b"\\n"),
            b'\r' => Some(b"\\r"),
            b'\t' => Some(b"\\t"),
            0x20.. => continue,
            _ => None,
        };
        out.extend_from_slice(&text.as_bytes()[plain..at]);
        plain = at + 1;
        match escape {
            Some(escape) => out.extend_from_slice(escape),
            None => out.extend_from_slice(format!("\\u{byte:04x}").as_bytes()),
        }
    }
    out.extend_from_slice(&text.as_bytes()[plain..]);
    out.push(b'"');
}

#[cfg(test)]
mod tests {
    use systole_storage::frame::{Columns, GroupChange, GroupSpec, Mark, Stamp, encode_samples};

    use super::*;

    /// 2026-06-30T07:45:01.123Z
    const COMMITTED_MS: i64 = 1_782_805_501_123;

    /// A frame of two devices' heart rates, `counts` samples a second apart each, from
    /// `start` on.
    fn frame(start: i64, counts: [u32; 2], marks: [Mark; 2]) -> SamplesFrame {
        let (mut times, mut values) = (Vec::new(), Vec::new());
        for (device, count) in counts.iter().enumerate() {
            let rows = i64::from(*count);
            times.extend((0..rows).map(|row| start + row * 1000));
            values.extend((0..rows).map(|row| 62.0 + device as f64 + row as f64 / 10_000.0));
        }
        let group = |device, first, count| GroupSpec {
            user: "u_123",
            metric: "hrv",
            unit: "ms",
            source: "garmin",
            device,
            first,
            count,
        };
        let groups = [group(None, 0, counts[0]), group(Some("w\"1"), counts[0], counts[1])];
        let used = groups.iter().filter(|group| group.count > 0).copied().collect::<Vec<_>>();
        let zone: Vec<i16> = times.iter().map(|_| 120).collect();
        let columns =
            Columns { recorded_at: &times, value: &values, zone: Some(&zone), ended_at: None, daily: None };
        let mut draft = encode_samples("acme", false, &used, columns);
        let mut marks = marks.into_iter();
        draft.mark_groups(|_, _| marks.next().unwrap()).unwrap();
        let stamp = Stamp {
            sequence: Sequence(7),
            synced: Sequence(6),
            ordering: 1_782_805_501_123_456,
            committed_at: COMMITTED_MS * 1000 + 456,
        };
        SamplesFrame::parse(draft.seal(stamp).into()).unwrap()
    }

    fn open(frame: &SamplesFrame, changes: Option<Changes>, kind: EventKind, chunk: u16) -> Samples {
        let place = Place { sequence: 7, group: 0, chunk, kind };
        let words = (Arc::new(Registry::builtin()), &EventTopics::new());
        Samples::open(words, frame.clone(), changes.map(Arc::new), place, ErasedNow::default()).unwrap()
    }

    fn data(samples: &Samples, vocabulary: Vocabulary, thin: bool) -> String {
        let mut out = Vec::new();
        samples.write_data(vocabulary, thin, &mut out);
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn a_body_prints_what_the_contract_says_to_the_byte() {
        let frame = frame(COMMITTED_MS - 1123, [1, 1], [Mark::New; 2]);
        let samples = open(&frame, None, EventKind::Created, 0);
        assert_eq!(samples.timestamp(), "2026-06-30T07:45:01.123Z");
        assert_eq!(samples.user(), Some("u_123"));
        let head = "{\"user_id\":\"u_123\",\"provider\":\"garmin\",\"series_type\":\"heart_rate_variability_rmssd\",\
            \"sample_count\":2,\"ordering\":1782805501123456,\"start_time\":\"2026-06-30T07:45:00Z\",\
            \"end_time\":\"2026-06-30T07:45:00Z\"";
        let sample = |value: &str, device: &str| {
            format!(
                "{{\"timestamp\":\"2026-06-30T07:45:00Z\",\"zone_offset\":\"+02:00\",\
                 \"type\":\"heart_rate_variability_rmssd\",\"value\":{value},\"unit\":\"ms\",\
                 \"source\":{{\"provider\":\"garmin\",\"device\":{device}}},\"is_daily_total\":null}}"
            )
        };
        let expected =
            format!("{head},\"samples\":[{},{}]}}", sample("62.0", "null"), sample("63.0", "\"w\\\"1\""));
        assert_eq!(data(&samples, Vocabulary::OpenWearables, false), expected);
        assert_eq!(data(&samples, Vocabulary::OpenWearables, true), format!("{head}}}"));
        let own = data(&samples, Vocabulary::Own, false);
        assert_eq!(own, expected.replace("heart_rate_variability_rmssd", "hrv"));
    }

    #[test]
    fn a_long_event_is_cut_into_parts_that_hold_each_sample_once() {
        let frame = frame(COMMITTED_MS - 9_000_000, [2600, 2500], [Mark::New; 2]);
        let mut seen = Vec::new();
        for chunk in 0..3 {
            let samples = open(&frame, None, EventKind::Created, chunk);
            let body: serde_json::Value =
                serde_json::from_str(&data(&samples, Vocabulary::Own, false)).unwrap();
            assert_eq!((&body["sample_count"], &body["total_chunks"]), (&5100.into(), &3.into()));
            assert_eq!(body["chunk_index"], chunk);
            let list = body["samples"].as_array().unwrap();
            assert_eq!(list.len(), if chunk == 2 { 100 } else { 2500 });
            let times = || list.iter().map(|sample| sample["timestamp"].as_str().unwrap());
            let bounds = (body["start_time"].as_str(), body["end_time"].as_str());
            assert_eq!(bounds, (times().min(), times().max()));
            seen.extend(
                list.iter()
                    .map(|sample| (sample["timestamp"].to_string(), sample["source"]["device"].to_string())),
            );
        }
        assert_eq!(seen.len(), 5100);
        assert_eq!(seen.into_iter().collect::<std::collections::HashSet<_>>().len(), 5100);
    }

    #[test]
    fn only_what_changed_is_printed_and_new_and_corrected_apart() {
        let frame = frame(COMMITTED_MS - 9_000, [4, 2], [Mark::Look, Mark::New]);
        let verdict = Verdict::of(&[Change::Unchanged, Change::Created, Change::Updated, Change::Updated]);
        let groups = vec![GroupChange { sequence: Sequence(7), group: 0, rows: 4, verdict }];
        let changes = Changes { sequence: Sequence(9), through: Sequence(8), groups };
        let values = |kind| {
            let samples = open(&frame, Some(changes.clone()), kind, 0);
            let body: serde_json::Value =
                serde_json::from_str(&data(&samples, Vocabulary::Own, false)).unwrap();
            let list = body["samples"].as_array().unwrap().clone();
            assert_eq!(body["sample_count"], list.len());
            list.iter().map(|sample| sample["value"].as_f64().unwrap()).collect::<Vec<_>>()
        };
        assert_eq!(values(EventKind::Created), [62.0001, 63.0, 63.0001]);
        assert_eq!(values(EventKind::Updated), [62.0002, 62.0003]);
    }

    #[test]
    fn samples_of_more_than_two_days_ago_are_history() {
        const TWO_DAYS_MS: i64 = 48 * 3_600_000;
        for (start, history) in [(COMMITTED_MS - TWO_DAYS_MS, false), (COMMITTED_MS - TWO_DAYS_MS - 1, true)]
        {
            let samples = open(&frame(start, [1, 0], [Mark::New; 2]), None, EventKind::Created, 0);
            assert_eq!(data(&samples, Vocabulary::Own, true).contains("\"backfill\":true"), history);
        }
    }

    #[test]
    fn strings_are_escaped_as_json_wants_it() {
        for text in ["", "garmin", "a\"b\\c", "line\nbreak\ttab\r", "\u{1}\u{1f}", "Müller’s Uhr 手表 ⌚"]
        {
            let mut out = Vec::new();
            write_string(text, &mut out);
            let read: String = serde_json::from_slice(&out).unwrap();
            assert_eq!(read, text);
        }
    }
}
