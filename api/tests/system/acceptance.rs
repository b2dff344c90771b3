//! Real input: what 33 people's watches recorded in 2016, and the answers computed
//! from their files by other means.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use serde::Deserialize;

use crate::client::Caller;
use crate::samples::Sample;
use crate::server::{announce, systole};

/// Points of one request: the server's default limit.
const POINTS_MAX: usize = 500;
/// Means are computed in another order than theirs.
const MEAN_TOLERANCE: f64 = 1e-9;
/// Pages that end nowhere in particular.
const PAGE_LIMIT: usize = 97;
/// Users whose series are read by pages as well.
const PAGED_USERS: usize = 3;

/// `expected.json`.
#[derive(Deserialize)]
struct Expected {
    bulk: BTreeMap<String, BulkBody>,
    totals: Totals,
    users: BTreeMap<String, BTreeMap<String, ExpectedSeries>>,
}

#[derive(Deserialize)]
struct BulkBody {
    user_id: String,
}

#[derive(Deserialize)]
struct Totals {
    points: usize,
}

#[derive(Deserialize)]
struct ExpectedSeries {
    unit: String,
    count: usize,
    first_recorded_at: String,
    last_recorded_at: String,
    last_value: f64,
    sum: f64,
    mean: f64,
    min: f64,
    max: f64,
    days: BTreeMap<String, ExpectedDay>,
}

#[derive(Deserialize)]
struct ExpectedDay {
    count: usize,
    sum: Option<f64>,
    mean: Option<f64>,
}

/// The input and its answers.
struct RealInput {
    folder: PathBuf,
    expected: Expected,
}

#[test]
fn real_input_is_answered_as_computed_before_and_after_flush_kill_and_repetition() {
    let Some(input) = RealInput::find() else { return };
    let server = systole().start();
    input.push_bulk_bodies(&server.operator());
    input.push_points(&server.operator());
    input.check(&server.operator(), "before a flush");
    server.flush();
    input.check(&server.operator(), "after a flush");
    let server = server.kill().start();
    input.check(&server.operator(), "after kill -9 and restart");
    input.push_bulk_bodies(&server.operator());
    input.push_points(&server.operator());
    input.check(&server.operator(), "after pushing everything once more");
    server.flush();
    input.check(&server.operator(), "after the second flush");
    input.check_pages(&server.operator());
}

#[test]
fn real_input_is_answered_as_computed_after_a_kill_without_any_flush() {
    let Some(input) = RealInput::find() else { return };
    let server = systole().start();
    input.push_bulk_bodies(&server.operator());
    input.push_points(&server.operator());
    let server = server.kill().start();
    input.check(&server.operator(), "from the journal alone");
    input.check_pages(&server.operator());
}

impl RealInput {
    /// The input where it is; says so loudly where it is not.
    fn find() -> Option<RealInput> {
        let folder = match std::env::var_os("SYSTOLE_ACCEPTANCE_DATA") {
            Some(folder) => PathBuf::from(folder),
            None => Path::new(env!("CARGO_MANIFEST_DIR")).join("../../shared/data"),
        };
        match fs::read(folder.join("expected.json")) {
            Ok(bytes) => Some(RealInput { folder, expected: serde_json::from_slice(&bytes).unwrap() }),
            Err(fault) => {
                let line = format!("ACCEPTANCE DATA NOT FOUND in {}: {fault}", folder.display());
                announce(&line);
                let required = std::env::var("SYSTOLE_ACCEPTANCE_REQUIRED").is_ok_and(|text| text == "1");
                assert!(!required, "{line}, but SYSTOLE_ACCEPTANCE_REQUIRED is 1");
                None
            }
        }
    }

    /// Sends the bodies as they lie there, the user beside them.
    fn push_bulk_bodies(&self, caller: &Caller) {
        for (name, body) in &self.expected.bulk {
            let path = format!("/api/v1/wearables/bulk-ingest?user_id={}", body.user_id);
            let bytes = fs::read(self.folder.join("bulk").join(name)).unwrap();
            caller.post(&path, bytes).expect(200);
        }
    }

    /// Sends all points, each with its user.
    fn push_points(&self, caller: &Caller) {
        let text = fs::read_to_string(self.folder.join("points.ndjson")).unwrap();
        let points: Vec<&str> = text.lines().collect();
        assert_eq!(points.len(), self.expected.totals.points);
        for part in points.chunks(POINTS_MAX) {
            let body = format!("{{\"data_points\":[{}]}}", part.join(","));
            let answer = caller.post("/api/v1/wearables/bulk-ingest", body).expect(200);
            assert_eq!(answer.text(), format!("{{\"accepted\":{}}}", part.len()));
        }
    }

    fn check(&self, caller: &Caller, when: &str) {
        let mut points = 0;
        for (user, metrics) in &self.expected.users {
            let latest = caller.latest(user);
            assert_eq!(
                latest.keys().collect::<Vec<_>>(),
                metrics.keys().collect::<Vec<_>>(),
                "{user} {when}"
            );
            for (metric, expected) in metrics {
                let what = format!("{metric} of {user} {when}");
                let series = caller.series(user, metric);
                assert_eq!((&series.metric, &series.unit), (metric, &expected.unit), "{what}");
                expected.check(&series.data_points, &what);
                let newest = &latest[metric];
                let newest = (newest.value, &newest.unit, &newest.recorded_at);
                assert_eq!(
                    newest,
                    (expected.last_value, &expected.unit, &expected.last_recorded_at),
                    "{what}"
                );
                points += series.data_points.len();
            }
        }
        assert_eq!(points, self.expected.totals.points, "{when}");
    }

    /// Pages in both orders hold the rows of the whole answer.
    fn check_pages(&self, caller: &Caller) {
        for user in self.expected.users.keys().take(PAGED_USERS) {
            for metric in self.expected.users[user].keys() {
                let mut whole = caller.series(user, metric).data_points;
                assert_eq!(
                    caller.series_by_pages(user, metric, "asc", PAGE_LIMIT),
                    whole,
                    "{metric} of {user}"
                );
                whole.reverse();
                assert_eq!(
                    caller.series_by_pages(user, metric, "desc", PAGE_LIMIT),
                    whole,
                    "{metric} of {user}"
                );
            }
        }
    }
}

impl ExpectedSeries {
    /// Compares with samples that are sorted by time.
    fn check(&self, samples: &[Sample], what: &str) {
        assert!(samples.is_sorted_by(|a, b| a.recorded_at < b.recorded_at), "{what} is not ascending");
        assert_eq!(samples.len(), self.count, "count of {what}");
        let (first, last) = (samples.first().unwrap(), samples.last().unwrap());
        assert_eq!(first.recorded_at, self.first_recorded_at, "first of {what}");
        assert_eq!(last.recorded_at, self.last_recorded_at, "last of {what}");
        assert_eq!(last.value, self.last_value, "last value of {what}");
        let values = || samples.iter().map(|sample| sample.value);
        assert_eq!(values().sum::<f64>(), self.sum, "sum of {what}");
        assert_close(values().sum::<f64>() / samples.len() as f64, self.mean, &format!("mean of {what}"));
        assert_eq!(values().fold(f64::INFINITY, f64::min), self.min, "minimum of {what}");
        assert_eq!(values().fold(f64::NEG_INFINITY, f64::max), self.max, "maximum of {what}");
        self.check_days(samples, what);
    }

    fn check_days(&self, samples: &[Sample], what: &str) {
        let mut days: BTreeMap<&str, (usize, f64)> = BTreeMap::new();
        for sample in samples {
            let day = days.entry(&sample.recorded_at[.."2016-01-01".len()]).or_default();
            *day = (day.0 + 1, day.1 + sample.value);
        }
        assert_eq!(days.keys().collect::<Vec<_>>(), self.days.keys().collect::<Vec<_>>(), "days of {what}");
        for ((name, (count, sum)), expected) in days.iter().zip(self.days.values()) {
            assert_eq!(*count, expected.count, "count on {name} of {what}");
            assert_eq!(*sum, expected.sum.unwrap_or(*sum), "sum on {name} of {what}");
            let mean = sum / *count as f64;
            assert_close(mean, expected.mean.unwrap_or(mean), &format!("mean on {name} of {what}"));
        }
    }
}

#[track_caller]
fn assert_close(actual: f64, expected: f64, what: &str) {
    let near = (actual - expected).abs() <= MEAN_TOLERANCE * expected.abs();
    assert!(near, "{what} is {actual}, not {expected}");
}
