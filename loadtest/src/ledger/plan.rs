//! What is sent, as functions of a writer and a place: nothing of it is kept.
//!
//! Writer `w` publishes the numbers `w, w + writers, w + 2 * writers, ..`, each with
//! an `event_id` of its own, and sends samples of the places `0, 1, 2, ..`, one a
//! second of heart rate; after 100,000 of them (28 hours) it goes on with another user.

use crate::fleet::calendar::{parse_rfc3339, push_rfc3339};
use crate::random::spread;

/// 28 hours: they are all younger than the 48 from which samples count as history.
const PLACES_A_USER: u64 = 100_000;

/// What a run sends.
#[derive(Debug, Clone)]
pub(super) struct Plan {
    pub(super) prefix: String,
    pub(super) writers: u64,
    /// When the first sample of each user was, in Unix seconds.
    pub(super) first_second: u64,
}

/// One sample.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct SampleKey {
    pub(super) writer: u64,
    pub(super) place: u64,
}

impl Plan {
    /// Samples whose last one lies before `now`, in Unix seconds.
    pub(super) fn new(prefix: &str, writers: u64, now: u64) -> Self {
        let first_second = now.saturating_sub(PLACES_A_USER + 3_600);
        Self { prefix: format!("ledger-{prefix}"), writers, first_second }
    }

    pub(super) fn number(&self, writer: u64, turn: u64) -> u64 {
        turn * self.writers + writer
    }

    /// The body that publishes a number.
    pub(super) fn event(&self, number: u64) -> String {
        let (prefix, user) = (&self.prefix, number % 97);
        format!(
            r#"{{"type":"check_in.created","user_id":"{prefix}-e{user}","event_id":"{prefix}-{number}","data":{{"number":{number},"note":"{:016x}"}}}}"#,
            spread(number)
        )
    }

    /// The body with so many samples from a place on; all of one user, so that it may
    /// be shorter than asked for. Its samples.
    pub(super) fn batch(&self, writer: u64, first: u64, count: u64) -> (String, u64) {
        let count = count.min(PLACES_A_USER - first % PLACES_A_USER);
        let points: Vec<String> = (first..first + count).map(|place| self.point(writer, place)).collect();
        (format!(r#"{{"data_points":[{}]}}"#, points.join(",")), count)
    }

    /// 40 to 139.9 in tenths.
    pub(super) fn value(&self, writer: u64, place: u64) -> f64 {
        (400 + spread(place ^ writer << 40) % 1_000) as f64 / 10.0
    }

    /// Which sample a delivered one is; `None` if it is none of this run.
    pub(super) fn sample_of(&self, user_id: &str, timestamp: &str) -> Option<SampleKey> {
        let rest = user_id.strip_prefix(&self.prefix)?.strip_prefix("-s")?;
        let (writer, part) = rest.split_once('-')?;
        let (writer, part): (u64, u64) = (writer.parse().ok()?, part.parse().ok()?);
        let second = parse_rfc3339(timestamp.as_bytes())?.checked_sub(self.first_second)?;
        let inside = writer < self.writers && second < PLACES_A_USER;
        inside.then_some(SampleKey { writer, place: part * PLACES_A_USER + second })
    }

    fn point(&self, writer: u64, place: u64) -> String {
        let mut time = Vec::new();
        push_rfc3339(&mut time, self.first_second + place % PLACES_A_USER);
        let time = String::from_utf8_lossy(&time);
        let (prefix, part, value) = (&self.prefix, place / PLACES_A_USER, self.value(writer, place));
        format!(
            r#"{{"metric":"heart_rate","value":{value},"unit":"bpm","recorded_at":"{time}","source":"ledger","user_id":"{prefix}-s{writer}-{part}"}}"#
        )
    }
}

#[cfg(test)]
mod tests {
    use serde_json::Value;

    use super::*;

    #[test]
    fn every_sample_is_found_again_by_its_user_and_time() {
        let plan = Plan::new("t", 3, 1_782_800_000);
        for (writer, first) in [(0, 0), (2, 99_990), (1, 100_000), (2, 250_017)] {
            let (body, count) = plan.batch(writer, first, 20);
            assert_eq!(count, if first == 99_990 { 10 } else { 20 });
            let body: Value = serde_json::from_str(&body).expect("JSON");
            let points = body["data_points"].as_array().expect("points");
            assert_eq!(points.len() as u64, count);
            for (place, point) in (first..).zip(points) {
                let text = |field: &str| point[field].as_str().expect("a text").to_owned();
                let found = plan.sample_of(&text("user_id"), &text("recorded_at"));
                assert_eq!(found, Some(SampleKey { writer, place }));
                assert_eq!(point["value"].as_f64(), Some(plan.value(writer, place)));
            }
        }
        for (user, time) in [
            ("x", "2026-06-29T00:00:00Z"),
            ("ledger-t-s3-0", "2026-06-29T00:00:00Z"),
            ("ledger-t-s0-0", "1970-01-01T00:00:00Z"),
        ] {
            assert_eq!(plan.sample_of(user, time), None);
        }
    }

    #[test]
    fn numbers_of_writers_never_meet() {
        let plan = Plan::new("t", 4, 1_782_800_000);
        let mut numbers: Vec<u64> = (0..4)
            .flat_map(|writer| (0..10).map(move |turn| (writer, turn)))
            .map(|(w, t)| plan.number(w, t))
            .collect();
        numbers.sort_unstable();
        assert_eq!(numbers, (0..40).collect::<Vec<_>>());
        let event: Value = serde_json::from_str(&plan.event(7)).expect("JSON");
        assert_eq!((&event["data"]["number"], &event["event_id"]), (&7.into(), &"ledger-t-7".into()));
    }
}
