//! Example events: what a test sends, rendered as real ones are.

use serde_json::{Map, Value};
use systole_dispatch::event::Vocabulary;
use systole_dispatch::topic::TopicId;
use systole_dispatch::{EventKind, Payload, Place};
use systole_storage::Sequence;
use systole_storage::frame::{Columns, GroupSpec, SamplesFrame, Stamp, encode_samples};

use super::erased::ErasedNow;
use super::fields::Fields;
use super::notices;
use super::payload::{Samples, Timestamp};
use super::topics::EventCatalogue;
use crate::registry::Metric;

/// The user that examples are about.
const EXAMPLE_USER: &str = "user_example";

/// An example of the type `name`: of samples, two of them from a minute ago; of a
/// published type, every documented field; of a notice, what one would say.
pub(super) fn example(catalogue: &EventCatalogue, name: &str, now_ms: i64) -> Box<dyn Payload> {
    if let Some(metric) = catalogue.metric_of(name)
        && let Some(samples) = samples(catalogue, metric, now_ms)
    {
        return Box::new(samples);
    }
    let published = catalogue.event_type(name);
    let topic = published.map_or(TopicId(0), |(topic, _)| topic);
    let documented = || published.map(|(_, known)| Fields::of(&known.system, &known.fields).example());
    let data = notices::example_data(name, now_ms).or_else(documented);
    let data = data.unwrap_or_else(|| Value::Object(Map::new()));
    Box::new(Made { topic, data: data.to_string(), timestamp: Timestamp::of(now_ms * 1000) })
}

fn samples(catalogue: &EventCatalogue, metric: &Metric, now_ms: i64) -> Option<Samples> {
    let middle = f64::midpoint(
        metric.soft_min.unwrap_or(metric.hard_min),
        metric.soft_max.unwrap_or_else(|| metric.hard_max.min(100.0).max(metric.hard_min)),
    )
    .round()
    .clamp(metric.hard_min, metric.hard_max);
    let group = GroupSpec {
        user: EXAMPLE_USER,
        metric: &metric.key,
        unit: &metric.unit,
        source: "garmin",
        device: Some("garmin-device-001"),
        first: 0,
        count: 2,
    };
    let minute = now_ms - now_ms.rem_euclid(60_000);
    let columns = Columns {
        recorded_at: &[minute - 120_000, minute - 60_000],
        value: &[middle, middle],
        zone: None,
        ended_at: None,
        daily: None,
    };
    let micros = now_ms.saturating_mul(1000);
    let stamp = Stamp {
        sequence: Sequence::ZERO,
        synced: Sequence::ZERO,
        ordering: micros.unsigned_abs(),
        committed_at: micros,
    };
    let mut draft = encode_samples("example", false, &[group], columns);
    draft.mark_groups(|_, _| systole_storage::frame::Mark::New).ok()?;
    let frame = SamplesFrame::parse(draft.seal(stamp).into()).ok()?;
    let place = Place { sequence: 0, group: 0, chunk: 0, kind: EventKind::Created };
    Samples::open(catalogue.parts(), frame, None, place, ErasedNow::default()).ok()
}

/// A payload that no frame holds.
struct Made {
    topic: TopicId,
    data: String,
    timestamp: Timestamp,
}

impl Payload for Made {
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
        None
    }

    fn data_bytes(&self) -> usize {
        self.data.len()
    }

    fn write_data(&self, _: Vocabulary, _: bool, out: &mut Vec<u8>) {
        out.extend_from_slice(self.data.as_bytes());
    }
}
