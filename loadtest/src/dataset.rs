//! The data set that reads are judged by: every user has the same number of
//! heart-rate samples, evenly over 30 days, and nineteen sparser metrics beside
//! them. 20,000 users with 5,000 samples are 100 million rows of heart rate and 20
//! million of the others.
//!
//! Bodies come by slices of time, in each slice one of every user, as months of
//! syncs would: no user lies together until something sorts them.
//!
//! ```text
//! body       user 0  user 1  ..  user U-1
//! slice 0    0       1       ..  U-1
//! slice 1    U       U+1     ..
//! ```
//!
//! A body is a function of its number, so a feed that was interrupted goes on in
//! the middle.

use std::ops::Range;
use std::sync::Arc;

use bytes::Bytes;
use serde_json::{Value, json};

use crate::feed::{Body, Next, Source};
use crate::fleet::calendar::push_rfc3339;
use crate::fleet::is_plain_prefix;
use crate::fleet::reference::{METRICS, Metric, Stands, push_tenths};
use crate::random::spread;

const SECONDS_PER_DAY: u64 = 86_400;
/// How far the samples reach back.
pub const DAYS: u64 = 30;
/// A server takes as many points unless configured otherwise.
const POINTS_MAX: u64 = 500;
/// A point of one user: 120 to 180 bytes.
const POINT_BYTES: usize = 190;

/// How many of a thousand heart-rate samples there are of each metric, by its place.
/// With 5,000: steps every two hours, energy every six, the others once a day or two.
#[rustfmt::skip]
const PER_MILLE: [u64; METRICS.len()] = [
    1_000, 72, 24, 12, 12, 6, 6, 6, 6, 6,
    6, 6, 6, 6, 6, 6, 6, 6, 6, 6,
];

/// What the data set is made from; equal settings make equal bytes.
#[derive(Debug, Clone)]
pub struct DatasetSettings {
    /// Users, at least 1.
    pub users: u64,
    /// Heart-rate samples of each, 1 to 2,592,000 (one a second).
    pub samples: u64,
    /// Seed of the values.
    pub seed: u64,
    /// Behind the newest sample, in Unix seconds.
    pub end_second: u64,
    /// Begins every user id: 1-64 characters of `A-Z a-z 0-9 . _ : @ -`.
    pub prefix: String,
}

/// Why there is no such data set.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum DatasetError {
    /// Nobody, or nothing.
    #[error("a data set has at least one user, with 1 to 2592000 samples")]
    Size,
    /// Times before 1970.
    #[error("a data set ends after January 1970")]
    End,
    /// The prefix does not fit into a user id.
    #[error("the prefix {prefix:?} is not 1-64 characters of A-Z a-z 0-9 . _ : @ -")]
    Prefix {
        /// What was asked for.
        prefix: String,
    },
}

/// The data set; a few numbers, and functions of them.
#[derive(Debug, Clone)]
pub struct Dataset {
    settings: DatasetSettings,
    slices: u64,
}

impl Dataset {
    /// The data set of these settings.
    pub fn new(settings: DatasetSettings) -> Result<Self, DatasetError> {
        let span = DAYS * SECONDS_PER_DAY;
        if settings.users == 0 || !(1..=span).contains(&settings.samples) {
            return Err(DatasetError::Size);
        }
        if settings.end_second <= span {
            return Err(DatasetError::End);
        }
        let prefix = &settings.prefix;
        if !is_plain_prefix(prefix) {
            return Err(DatasetError::Prefix { prefix: prefix.clone() });
        }
        // Each series may put one more sample into a slice than its even share.
        let points = POINTS_MAX - METRICS.len() as u64;
        let slices = points_of_user(settings.samples).div_ceil(points);
        Ok(Self { settings, slices })
    }

    /// Bodies in all.
    pub fn bodies(&self) -> u64 {
        self.slices * self.settings.users
    }

    /// Points in all bodies.
    pub fn points(&self) -> u64 {
        points_of_user(self.settings.samples) * self.settings.users
    }

    /// What tells this data set from others.
    pub fn identity(&self) -> Value {
        let DatasetSettings { users, samples, seed, end_second, prefix } = &self.settings;
        json!({ "users": users, "samples": samples, "seed": seed, "end_second": end_second, "prefix": prefix })
    }

    /// The body with this number.
    pub fn body(&self, number: u64) -> Body {
        let (slice, user) = (number / self.settings.users, number % self.settings.users);
        let mut bytes = Vec::with_capacity(POINTS_MAX as usize * POINT_BYTES);
        bytes.extend(b"{\"data_points\":[");
        let mut points = 0;
        for (place, metric) in METRICS.iter().enumerate() {
            let count = count_of(place, self.settings.samples);
            let numbers = count * slice / self.slices..count * (slice + 1) / self.slices;
            points += numbers.end - numbers.start;
            self.push_series(&mut bytes, user, place, metric, numbers, count);
        }
        if points > 0 {
            bytes.pop();
        }
        bytes.extend(b"]}");
        let path = format!("/api/v1/wearables/bulk-ingest?user_id={}", user_id(&self.settings.prefix, user));
        Body { path: Arc::from(path), bytes: Bytes::from(bytes), points, due: None }
    }

    /// Points of one series, each with a comma behind it.
    fn push_series(
        &self,
        bytes: &mut Vec<u8>,
        user: u64,
        place: usize,
        metric: &Metric,
        numbers: Range<u64>,
        count: u64,
    ) {
        let key = spread(spread(self.settings.seed ^ ((place as u64) << 48)) ^ user);
        let (begin, step) =
            (self.settings.end_second - DAYS * SECONDS_PER_DAY, DAYS * SECONDS_PER_DAY / count);
        let head = format!("{{\"metric\":\"{}\",\"unit\":\"{}\",\"value\":", metric.key, metric.unit);
        let tail = format!("\",\"source\":\"garmin\",\"source_device_id\":\"fenix8-{user:x}\"}},");
        for number in numbers {
            let second = begin + number * step;
            let tenths = metric.value(|what| spread(key.wrapping_add(what)), second);
            bytes.extend(head.as_bytes());
            push_tenths(bytes, tenths);
            if metric.stands == Stands::Day {
                bytes.extend(b",\"is_daily_total\":true");
            }
            bytes.extend(b",\"recorded_at\":\"");
            push_rfc3339(bytes, second);
            if metric.stands == Stands::Span {
                bytes.extend(b"\",\"ended_at\":\"");
                push_rfc3339(bytes, second + step);
            }
            bytes.extend(tail.as_bytes());
        }
    }

    /// The bodies from this one on.
    pub fn source(self, first: u64) -> DatasetSource {
        DatasetSource { numbers: first..self.bodies(), dataset: self }
    }
}

/// The bodies of a data set, in order.
#[derive(Debug)]
pub struct DatasetSource {
    dataset: Dataset,
    numbers: Range<u64>,
}

impl Source for DatasetSource {
    fn next(&mut self) -> Next {
        self.numbers.next().map_or(Next::End, |number| Next::Body(self.dataset.body(number)))
    }
}

/// The id of a user of the data set.
pub fn user_id(prefix: &str, user: u64) -> String {
    format!("{prefix}-{user:07}")
}

fn count_of(place: usize, samples: u64) -> u64 {
    (samples * PER_MILLE[place] / 1_000).max(1)
}

fn points_of_user(samples: u64) -> u64 {
    (0..METRICS.len()).map(|place| count_of(place, samples)).sum()
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, BTreeSet};

    use super::*;

    const END: u64 = 1_782_864_000;

    fn dataset(users: u64, samples: u64) -> Dataset {
        let settings = DatasetSettings { users, samples, seed: 1, end_second: END, prefix: "d".to_owned() };
        Dataset::new(settings).expect("good settings")
    }

    #[test]
    fn the_judged_data_set_is_100_million_rows_of_heart_rate_and_19_sparser_metrics() {
        let whole = dataset(20_000, 5_000);
        assert_eq!(count_of(0, 5_000) * 20_000, 100_000_000);
        let others = whole.points() - 100_000_000;
        assert!((15_000_000..25_000_000).contains(&others), "{others}");
        assert!((1..METRICS.len()).all(|place| count_of(place, 5_000) < 500));
    }

    #[test]
    fn the_bodies_hold_each_sample_once_in_the_30_days() {
        let dataset = dataset(3, 1_200);
        let mut samples = BTreeSet::new();
        let mut of_metric: BTreeMap<String, u64> = BTreeMap::new();
        let mut points = 0;
        let numbers = dataset.bodies();
        for number in 0..numbers {
            let body = dataset.body(number);
            assert!((1..=500).contains(&body.points), "{}", body.points);
            let json: Value = serde_json::from_slice(&body.bytes).expect("JSON");
            let all = json["data_points"].as_array().expect("points");
            assert_eq!(all.len() as u64, body.points);
            for point in all {
                let [metric, time] =
                    ["metric", "recorded_at"].map(|f| point[f].as_str().expect("text").to_owned());
                assert!(("2026-06-01T00:00:00Z".."2026-07-01T00:00:00Z").contains(&time.as_str()), "{time}");
                *of_metric.entry(metric.clone()).or_default() += 1;
                assert!(samples.insert((body.path.to_string(), metric, time)));
                points += 1;
            }
        }
        assert_eq!(points, dataset.points());
        assert_eq!(of_metric["heart_rate"], 3 * 1_200);
        assert_eq!(of_metric.len(), 20);
    }

    #[test]
    fn a_source_goes_on_where_it_is_told() {
        let dataset = dataset(4, 1_000);
        let (bodies, third) = (dataset.bodies(), dataset.body(2));
        let mut source = dataset.source(2);
        let Next::Body(first) = source.next() else { panic!("a body") };
        assert_eq!((first.path, first.bytes), (third.path, third.bytes));
        let left = std::iter::from_fn(|| matches!(source.next(), Next::Body(_)).then_some(())).count();
        assert_eq!(left as u64, bodies - 3);
    }

    #[test]
    fn settings_that_make_no_data_set_are_refused() {
        let good = DatasetSettings { users: 1, samples: 1, seed: 1, end_second: END, prefix: "d".to_owned() };
        assert!(Dataset::new(good.clone()).is_ok());
        for bad in [
            DatasetSettings { users: 0, ..good.clone() },
            DatasetSettings { samples: 2_592_001, ..good.clone() },
            DatasetSettings { end_second: 5, ..good.clone() },
            DatasetSettings { prefix: String::new(), ..good },
        ] {
            assert!(Dataset::new(bad).is_err());
        }
    }
}
