//! What a body says, in two degrees.
//!
//! Fast: a vectorised search for the bytes that begin every sample and cannot
//! stand inside a JSON string, and for `ordering` near the body's beginning.
//! Nothing is parsed and nothing is checked.
//!
//! Full: the body is parsed, `sample_count` is compared with the samples (over all
//! chunks of an event), and counts and sums are kept per (user, series).
//!
//! The chunks of an event find each other by path, name, user, provider, series
//! and ordering. An endpoint whose filter leaves out `.updated` gets new and
//! corrected samples of one request under one name; if both are chunked, their
//! chunks are taken for those of one event.

use std::borrow::Cow;
use std::collections::HashMap;
use std::hash::{DefaultHasher, Hash, Hasher};

use memchr::memmem::Finder;
use serde::Deserialize;

use crate::tally::{SeriesName, SeriesTally, Tallies};

/// Begins every sample, and nothing else: a body's own timestamp is not its first
/// field, and a quote inside a JSON string has a backslash before it.
const SAMPLE_HEAD: &[u8] = b"{\"timestamp\":";
/// The head of a body: type, timestamp, user, provider, counts, ordering.
const HEAD_BYTES_MAX: usize = 2_048;

/// Searches of the fast degree, prepared once.
#[derive(Debug)]
pub(crate) struct Scan {
    sample: Finder<'static>,
    ordering: Finder<'static>,
    event_id: Finder<'static>,
}

impl Scan {
    pub(crate) fn new() -> Self {
        Self {
            sample: Finder::new(SAMPLE_HEAD),
            ordering: Finder::new(b"\"ordering\":"),
            event_id: Finder::new(b"\"event_id\":\""),
        }
    }

    /// The samples of a body.
    pub(crate) fn samples(&self, body: &[u8]) -> u64 {
        self.sample.find_iter(body).count() as u64
    }

    /// Microseconds at commit by the server's clock, of the body's first event.
    pub(crate) fn ordering(&self, body: &[u8]) -> Option<u64> {
        let value = after(&self.ordering, body)?;
        let digits = value.iter().take_while(|byte| byte.is_ascii_digit()).count();
        str::from_utf8(&value[..digits]).ok()?.parse().ok()
    }

    /// The id inside a body of AVYCENNA's.
    pub(crate) fn event_id<'a>(&self, body: &'a [u8]) -> Option<&'a [u8]> {
        let value = after(&self.event_id, body)?;
        let end = value.iter().position(|byte| *byte == b'"')?;
        (end > 0).then(|| &value[..end])
    }
}

fn after<'a>(needle: &Finder<'_>, body: &'a [u8]) -> Option<&'a [u8]> {
    let head = &body[..body.len().min(HEAD_BYTES_MAX)];
    let at = needle.find(head)?;
    Some(&head[at + needle.needle().len()..])
}

/// What the full degree keeps of one path.
#[derive(Debug, Default)]
pub(super) struct Books {
    /// By user, then by series.
    tallies: HashMap<String, HashMap<String, SeriesTally>>,
    /// Events of which chunks are missing, by the hash of what they share.
    chunked: HashMap<u64, Chunks>,
}

#[derive(Debug, Default)]
struct Chunks {
    seen: u32,
    samples: u64,
}

/// What one body added.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Entered {
    /// Samples in it.
    pub(super) samples: u64,
    /// Events whose `sample_count` is not the number of their samples.
    pub(super) counts_wrong: u64,
}

#[derive(Deserialize)]
struct Body<'a> {
    #[serde(borrow, rename = "type", alias = "event")]
    name: Option<Cow<'a, str>>,
    #[serde(borrow)]
    data: Option<Data<'a>>,
    #[serde(borrow, default)]
    events: Vec<Event<'a>>,
}

/// One event of a batch.
#[derive(Deserialize)]
struct Event<'a> {
    #[serde(borrow, rename = "type")]
    name: Cow<'a, str>,
    #[serde(borrow)]
    data: Data<'a>,
}

/// Events that are not of samples lack most of it.
#[derive(Deserialize)]
struct Data<'a> {
    #[serde(borrow)]
    user_id: Option<Cow<'a, str>>,
    #[serde(borrow)]
    provider: Option<Cow<'a, str>>,
    #[serde(borrow)]
    series_type: Option<Cow<'a, str>>,
    sample_count: Option<u64>,
    ordering: Option<u64>,
    total_chunks: Option<u32>,
    samples: Option<Vec<Sample>>,
}

#[derive(Deserialize)]
struct Sample {
    value: f64,
}

impl Books {
    /// Enters a body; an error says that it is not JSON of a known shape.
    pub(super) fn enter(&mut self, body: &[u8]) -> Result<Entered, serde_json::Error> {
        let body: Body<'_> = serde_json::from_slice(body)?;
        let mut entered = Entered::default();
        if let Some(data) = &body.data {
            self.enter_event(body.name.as_deref().unwrap_or_default(), data, &mut entered);
        }
        for event in &body.events {
            self.enter_event(&event.name, &event.data, &mut entered);
        }
        Ok(entered)
    }

    /// Events of which chunks are missing.
    pub(super) fn chunked_open(&self) -> u64 {
        self.chunked.len() as u64
    }

    pub(super) fn tallies(&self) -> Tallies {
        let mut all = Tallies::new();
        for (user_id, series) in &self.tallies {
            for (metric, tally) in series {
                let name = SeriesName { user_id: user_id.clone(), metric: metric.clone() };
                all.insert(name, *tally);
            }
        }
        all
    }

    fn enter_event(&mut self, name: &str, data: &Data<'_>, entered: &mut Entered) {
        let Some(samples) = &data.samples else {
            return;
        };
        let count = samples.len() as u64;
        entered.samples += count;
        entered.counts_wrong += u64::from(!self.count_is_right(name, data, count));
        let tally = self.tally_of(data);
        samples.iter().for_each(|sample| tally.add(sample.value));
    }

    /// False once an event is complete and its `sample_count` is another number.
    fn count_is_right(&mut self, name: &str, data: &Data<'_>, count: u64) -> bool {
        let Some(total_chunks) = data.total_chunks else {
            return data.sample_count == Some(count);
        };
        let key = data.key(name);
        let chunks = self.chunked.entry(key).or_default();
        chunks.seen += 1;
        chunks.samples += count;
        if chunks.seen < total_chunks {
            return true;
        }
        let samples = chunks.samples;
        self.chunked.remove(&key);
        data.sample_count == Some(samples)
    }

    /// A series' tally; a known one is found without allocating its name.
    fn tally_of(&mut self, data: &Data<'_>) -> &mut SeriesTally {
        let user_id = data.user_id.as_deref().unwrap_or_default();
        let series_type = data.series_type.as_deref().unwrap_or_default();
        if !self.tallies.contains_key(user_id) {
            self.tallies.insert(user_id.to_owned(), HashMap::new());
        }
        let series = self.tallies.get_mut(user_id).expect("it was put there");
        if !series.contains_key(series_type) {
            series.insert(series_type.to_owned(), SeriesTally::default());
        }
        series.get_mut(series_type).expect("it was put there")
    }
}

impl Data<'_> {
    fn key(&self, name: &str) -> u64 {
        let mut hasher = DefaultHasher::new();
        (name, &self.user_id, &self.provider, &self.series_type, self.ordering).hash(&mut hasher);
        hasher.finish()
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn event(user_id: &str, values: &[f64]) -> Value {
        let sample = |value: &f64| {
            format!(
                r#"{{"timestamp":"2026-06-30T07:45:00Z","type":"heart_rate","value":{value:?},
                "source":{{"provider":"garmin","device":"a \"{{\\\"timestamp\\\":\" b"}}}}"#
            )
        };
        let samples: Vec<String> = values.iter().map(sample).collect();
        let text = format!(
            r#"{{"type":"heart_rate.created","timestamp":"2026-06-30T07:45:01.123Z",
            "data":{{"user_id":"{user_id}","provider":"garmin","series_type":"heart_rate",
            "sample_count":{},"ordering":1782805501123456,"samples":[{}]}}}}"#,
            values.len(),
            samples.join(",")
        );
        serde_json::from_str(&text).expect("JSON")
    }

    /// The bytes as a server writes them: `timestamp` first in a sample.
    fn bytes(event: &Value) -> Vec<u8> {
        let data = &event["data"];
        let samples: Vec<String> = data["samples"]
            .as_array()
            .expect("samples")
            .iter()
            .map(|sample| {
                let (value, source) = (&sample["value"], &sample["source"]);
                format!(r#"{{"timestamp":"x","value":{value},"source":{source}}}"#)
            })
            .collect();
        let mut head = data.clone();
        head.as_object_mut().expect("an object").remove("samples");
        let head = head.to_string();
        let head = head.strip_suffix('}').expect("an object");
        let (name, samples) = (&event["type"], samples.join(","));
        format!(r#"{{"type":{name},"timestamp":"t","data":{head},"samples":[{samples}]}}}}"#).into_bytes()
    }

    fn chunk(of: &Value, index: u32, total: u32, count: u64) -> Vec<u8> {
        let mut event = of.clone();
        event["data"]["chunk_index"] = json!(index);
        event["data"]["total_chunks"] = json!(total);
        event["data"]["sample_count"] = json!(count);
        bytes(&event)
    }

    #[test]
    fn the_fast_count_is_the_parsed_count_whatever_strings_say() {
        for values in [&[][..], &[62.0], &[62.0, 63.5, 60.1]] {
            let body = bytes(&event("u_1", values));
            let entered = Books::default().enter(&body).expect("a good body");
            assert_eq!(Scan::new().samples(&body), values.len() as u64);
            assert_eq!(entered, Entered { samples: values.len() as u64, counts_wrong: 0 });
        }
    }

    #[test]
    fn ordering_and_event_id_are_read_from_the_head_of_a_body() {
        let scan = Scan::new();
        let body = bytes(&event("u_1", &[62.0]));
        assert_eq!(scan.ordering(&body), Some(1_782_805_501_123_456));
        assert_eq!(scan.event_id(&body), None);
        let avycenna = br#"{"event":"x","event_id":"evt_1","data":{}}"#;
        assert_eq!(scan.event_id(avycenna), Some(&b"evt_1"[..]));
        assert_eq!(scan.ordering(avycenna), None);
        assert_eq!(scan.event_id(br#"{"event_id":""}"#), None);
        assert_eq!(scan.event_id(br#"{"event_id":"evt"#), None);
    }

    #[test]
    fn tallies_are_kept_per_user_and_series() {
        let mut books = Books::default();
        for (user_id, values) in [("u_1", &[62.0, 63.5][..]), ("u_2", &[70.0]), ("u_1", &[1.0])] {
            books.enter(&bytes(&event(user_id, values))).expect("a good body");
        }
        let tallies: Vec<(String, SeriesTally)> =
            books.tallies().into_iter().map(|(name, tally)| (name.user_id, tally)).collect();
        let tally = |count, sum_millionths| SeriesTally { count, sum_millionths };
        let (first, second) = (tally(3, 126_500_000), tally(1, 70_000_000));
        assert_eq!(tallies, [("u_1".to_owned(), first), ("u_2".to_owned(), second)]);
    }

    #[test]
    fn a_sample_count_that_is_not_the_samples_is_counted() {
        let mut wrong = event("u_1", &[62.0]);
        wrong["data"]["sample_count"] = json!(2);
        let entered = Books::default().enter(&bytes(&wrong)).expect("a good body");
        assert_eq!(entered, Entered { samples: 1, counts_wrong: 1 });
    }

    #[test]
    fn sample_counts_are_those_of_all_chunks_in_any_order() {
        let mut books = Books::default();
        let (long, short) = (event("u_1", &[1.0, 2.0]), event("u_1", &[3.0]));
        let first = books.enter(&chunk(&short, 1, 2, 3)).expect("a good body");
        assert_eq!((first.counts_wrong, books.chunked_open()), (0, 1));
        let second = books.enter(&chunk(&long, 0, 2, 3)).expect("a good body");
        assert_eq!((second.counts_wrong, books.chunked_open()), (0, 0));
        books.enter(&chunk(&short, 1, 2, 4)).expect("a good body");
        let wrong = books.enter(&chunk(&long, 0, 2, 4)).expect("a good body");
        assert_eq!((wrong.counts_wrong, books.chunked_open()), (1, 0));
    }

    #[test]
    fn events_without_samples_and_batches_of_events_are_understood() {
        let mut books = Books::default();
        let other = br#"{"type":"check_in.created","timestamp":"t","data":{"user_id":"u_1","note":1}}"#;
        assert_eq!(books.enter(other).expect("a good body"), Entered::default());
        let one = event("u_1", &[62.0]);
        let batch = json!({"type": "batch", "timestamp": "t", "events": [
            {"id": "evt_1", "type": one["type"], "timestamp": "t", "data": one["data"]},
            {"id": "evt_2", "type": one["type"], "timestamp": "t", "data": one["data"]},
        ]});
        let entered = books.enter(batch.to_string().as_bytes()).expect("a good body");
        assert_eq!(entered, Entered { samples: 2, counts_wrong: 0 });
        assert!(books.enter(b"{\"type\":").is_err());
    }
}
