//! Several events of one series, printed as one.
//!
//! The samples stand in the order of the commits; of those with the same device and
//! time the last stays, as in a store. `ordering` and `timestamp` are the last
//! event's, so a receiver that keeps the greatest ordering keeps the right one.

use hashbrown::HashSet;
use systole_dispatch::Payload;
use systole_dispatch::event::Vocabulary;
use systole_dispatch::topic::TopicId;
use systole_storage::frame::SamplesFrame;

use super::{Part, Rows, Samples, Words, close_data, wider};

/// Events drawn together: of one user, metric and source.
pub(super) struct Joined {
    /// At least one, in the order of their commits.
    events: Vec<Samples>,
}

impl Joined {
    /// Draws events together; `None` if there are none.
    pub(super) fn of(mut events: Vec<Samples>) -> Option<Joined> {
        keep_last(&mut events);
        let total = events.iter().map(Samples::row_count).sum();
        events.last_mut()?.total = total;
        Some(Joined { events })
    }

    /// The event that prints the head of all; it knows how many samples there are.
    fn last(&self) -> &Samples {
        self.events.last().expect("there is at least one")
    }
}

/// Leaves of samples with the same device and time only the last.
fn keep_last(events: &mut [Samples]) {
    let mut seen: HashSet<(Option<&str>, i64)> = HashSet::new();
    for Samples { frame, parts, .. } in events.iter_mut().rev() {
        let frame: &SamplesFrame = frame;
        for part in parts.iter_mut().rev() {
            let device = frame.group(part.group).device;
            let mut kept = Vec::with_capacity(part.rows.len());
            part.rows.for_each(|row| kept.push(u32::try_from(row).expect("a frame is at most 64 MiB")));
            // From behind, so that of equal ones the last is seen first.
            kept.reverse();
            kept.retain(|row| seen.insert((device, frame.recorded_at(*row as usize))));
            kept.reverse();
            if kept.len() < part.rows.len() {
                *part = Part { group: part.group, rows: Rows::Some(kept) };
            }
        }
    }
}

impl Payload for Joined {
    fn is_erased(&self) -> bool {
        self.events.iter().any(Payload::is_erased)
    }

    fn timestamp(&self) -> &str {
        self.last().timestamp()
    }

    fn timestamp_ms(&self) -> i64 {
        self.last().timestamp_ms()
    }

    fn publisher_id(&self) -> Option<&str> {
        None
    }

    fn topic(&self) -> TopicId {
        self.last().topic()
    }

    fn user(&self) -> Option<&str> {
        self.last().user()
    }

    fn data_bytes(&self) -> usize {
        self.events.iter().map(Payload::data_bytes).sum()
    }

    fn write_data(&self, vocabulary: Vocabulary, thin: bool, out: &mut Vec<u8>) {
        let last = self.last();
        let words = Words::of(last.registry.metric(last.metric), vocabulary);
        let spans = self.events.iter().filter_map(Samples::span);
        let span = spans.reduce(wider).unwrap_or_default();
        // History only if there is nothing else in it.
        let is_backfill = self.events.iter().all(|event| event.is_backfill(span.1));
        last.write_head_of(&words, span, is_backfill, out);
        close_data(&self.events, &words, thin, out);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use serde_json::Value;
    use systole_dispatch::{EventKind, Place};
    use systole_storage::Sequence;
    use systole_storage::frame::{Columns, GroupSpec, Mark, Stamp, encode_samples};

    use super::*;
    use crate::events::erased::ErasedNow;
    use crate::events::topics::EventTopics;
    use crate::registry::Registry;

    /// 2026-06-30T07:45:00Z
    const BASE_MS: i64 = 1_782_805_500_000;

    /// An event of one frame: a device, and (second, value) of its samples.
    fn event(sequence: u64, device: &str, backfill: bool, samples: &[(i64, f64)]) -> Samples {
        let times: Vec<i64> = samples.iter().map(|(second, _)| BASE_MS + second * 1000).collect();
        let values: Vec<f64> = samples.iter().map(|(_, value)| *value).collect();
        let group = GroupSpec {
            user: "u_123",
            metric: "heart_rate",
            unit: "bpm",
            source: "garmin",
            device: Some(device),
            first: 0,
            count: u32::try_from(samples.len()).unwrap(),
        };
        let columns =
            Columns { recorded_at: &times, value: &values, zone: None, ended_at: None, daily: None };
        let mut draft = encode_samples("acme", backfill, &[group], columns);
        draft.mark_groups(|_, _| Mark::New).unwrap();
        let stamp = Stamp {
            sequence: Sequence(sequence),
            synced: Sequence(sequence - 1),
            ordering: 1000 + sequence,
            committed_at: (BASE_MS + sequence.cast_signed() * 1000) * 1000,
        };
        let frame = SamplesFrame::parse(draft.seal(stamp).into()).unwrap();
        let place = Place { sequence, group: 0, chunk: 0, kind: EventKind::Created };
        let words = (Arc::new(Registry::builtin()), &EventTopics::new());
        Samples::open(words, frame, None, place, ErasedNow::default()).unwrap()
    }

    fn data(joined: &Joined, thin: bool) -> Value {
        let mut out = Vec::new();
        joined.write_data(Vocabulary::Own, thin, &mut out);
        assert!(out.len() <= joined.data_bytes());
        serde_json::from_slice(&out).unwrap()
    }

    #[test]
    fn samples_stand_in_commit_order_and_of_equal_ones_the_last_stays() {
        let joined = Joined::of(vec![
            event(3, "a", false, &[(1, 61.0), (2, 62.0), (3, 63.0)]),
            event(5, "b", false, &[(0, 50.0), (2, 52.0)]),
            event(8, "a", false, &[(2, 72.0), (4, 74.0)]),
        ])
        .unwrap();
        assert_eq!(joined.timestamp(), "2026-06-30T07:45:08Z");
        let body = data(&joined, false);
        let list = body["samples"].as_array().unwrap();
        let printed: Vec<(&str, f64)> = list
            .iter()
            .map(|sample| (sample["source"]["device"].as_str().unwrap(), sample["value"].as_f64().unwrap()))
            .collect();
        assert_eq!(printed, [("a", 61.0), ("a", 63.0), ("b", 50.0), ("b", 52.0), ("a", 72.0), ("a", 74.0)]);
        assert_eq!((&body["sample_count"], &body["ordering"]), (&6.into(), &1008.into()));
        assert_eq!(body["start_time"], "2026-06-30T07:45:00Z");
        assert_eq!(body["end_time"], "2026-06-30T07:45:04Z");
        assert_eq!(body.get("backfill"), None);
        let thin = data(&joined, true);
        assert_eq!((&thin["sample_count"], thin.get("samples")), (&6.into(), None));
    }

    #[test]
    fn it_is_history_if_all_of_it_is() {
        let of = |flags: [bool; 2]| {
            let [first, second] = flags;
            let joined =
                Joined::of(vec![event(3, "a", first, &[(1, 1.0)]), event(4, "a", second, &[(2, 2.0)])]);
            data(&joined.unwrap(), true).get("backfill").is_some()
        };
        assert_eq!([[true, true], [true, false], [false, false]].map(of), [true, false, false]);
    }

    #[test]
    fn one_event_prints_what_it_prints_alone() {
        let alone = |samples: &Samples| {
            let mut out = Vec::new();
            samples.write_data(Vocabulary::Own, false, &mut out);
            serde_json::from_slice::<Value>(&out).unwrap()
        };
        let make = || event(3, "a", false, &[(1, 61.0), (2, 62.0)]);
        assert_eq!(data(&Joined::of(vec![make()]).unwrap(), false), alone(&make()));
        assert!(Joined::of(Vec::new()).is_none());
    }
}
