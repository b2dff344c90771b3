//! The simulated fleet as data: up to 64 windows of 500 points every 5 seconds
//! (at most 44 hours, all of them past), 4 variants of each, about 72 KB a body
//! and 19 MB in all, prepared once and then only shared.
//!
//! The user travels in the query string, so one prepared body is a new set of
//! samples for every user it is sent for. Batch number `n` is a fixed place:
//!
//! ```text
//!           user 0   user 1   ..  user U-1   user U ..  (new users, when the
//! window 0  n = 0    1        ..  U-1        W*U ..      W windows are used up)
//! window 1  U        U+1      ..  2U-1
//! ..
//! window W-1
//! ```
//!
//! Numbers are handed out in order, so a user's next window comes with the next
//! pass over the users, times only move forward within a user, and no (user,
//! metric, time) comes twice in a run. Windows begin 44 hours back: inside a
//! 7-day query, younger than the 48 hours from which a server calls samples
//! history, and never in the future.
//!
//! A body's samples are tallied while it is rendered, so that what was sent can be
//! compared with what was stored and delivered, to the last value.
//!
//! Not simulated: gaps, late syncs, corrections, sleep; the [`mod@reference`] fleet has
//! them. A variant's values are the same for all users that share it.

pub(crate) mod calendar;
pub mod reference;
mod series;

use std::io::Write;
use std::time::{SystemTime, UNIX_EPOCH};

use bytes::Bytes;

use crate::random::Random;
use crate::tally::SeriesTally;
pub use series::Mix;
use series::Walk;

/// Seconds between the points of a body; optical sensors report every 1 to 5.
const STEP_SECONDS: u64 = 5;
/// 44.4 hours: stays below the 48 hours from which samples count as history.
const SPAN_SECONDS_MAX: u64 = 160_000;
/// More windows than a run of minutes uses up, whatever the points of a body.
const WINDOWS_MAX: u64 = 64;
/// Different bodies per window, so that neighbouring users do not send the same
/// bytes, yet few enough that a pass over the users stays in the CPU's cache.
const VARIANTS: u64 = 4;
/// Twenty times the server's usual limit, for servers that are configured wider.
const POINTS_MAX: usize = 10_000;
/// Leaves room for the user's number in the 128 characters of a user id.
const RUN_PREFIX_CHARS_MAX: usize = 64;

/// What a fleet is made from; equal settings make equal bytes.
#[derive(Debug, Clone)]
pub struct FleetSettings {
    /// Tells the users of one run from those of another: 1-64 characters of
    /// `A-Z a-z 0-9 . _ : @ -`.
    pub run_prefix: String,
    /// Users of a pass, at least 1.
    pub users: u64,
    /// Points of a body, 1 to 10,000; a server takes 500 unless configured.
    pub points: usize,
    /// Which metrics a body holds.
    pub mix: Mix,
    /// Seed of the values.
    pub seed: u64,
    /// No sample is younger than this.
    pub now: SystemTime,
}

impl FleetSettings {
    /// 20,000 users with 500 points of heart rate a body, seed 1.
    pub fn new(run_prefix: impl Into<String>, now: SystemTime) -> Self {
        Self { run_prefix: run_prefix.into(), users: 20_000, points: 500, mix: Mix::HeartRate, seed: 1, now }
    }
}

/// Users and prepared bodies.
#[derive(Debug)]
pub struct Fleet {
    run_prefix: String,
    users: u64,
    points: usize,
    mix: Mix,
    /// Where the first window begins, in Unix seconds.
    first_second: u64,
    /// By window, then by variant; shared with the requests in flight.
    bodies: Vec<Bytes>,
    /// What each body holds, by the mix's metrics.
    tallies: Vec<Vec<SeriesTally>>,
}

/// One body for one user.
#[derive(Debug, Clone)]
pub struct Batch {
    /// Its place in the run.
    pub number: u64,
    /// Whose samples these are.
    pub user_id: String,
    /// `{"data_points":[...]}`, shared, not copied.
    pub body: Bytes,
}

/// A half-open span of time, in Unix seconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Span {
    /// Its first second.
    pub start_second: u64,
    /// The second behind it.
    pub end_second: u64,
}

/// Why a fleet cannot be made.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum FleetError {
    /// A pass needs a user.
    #[error("a fleet needs at least one user")]
    NoUsers,
    /// Zero points, or more than a body may have.
    #[error("a body has 1 to {POINTS_MAX} points, not {points}")]
    Points {
        /// What was asked for.
        points: usize,
    },
    /// The prefix does not fit into a user id.
    #[error(
        "the run prefix {run_prefix:?} is not 1-{RUN_PREFIX_CHARS_MAX} characters of A-Z a-z 0-9 . _ : @ -"
    )]
    RunPrefix {
        /// What was asked for.
        run_prefix: String,
    },
    /// The clock stands too near to 1970 for windows that go back from it.
    #[error("the clock stands at {unix_seconds} s after 1970, before the fleet's first window")]
    Clock {
        /// What the clock said.
        unix_seconds: u64,
    },
}

impl Span {
    /// The query string that asks for it: `start=...&end=...` in RFC 3339.
    pub fn query(&self) -> String {
        let mut query = b"start=".to_vec();
        calendar::push_rfc3339(&mut query, self.start_second);
        query.extend(b"&end=");
        calendar::push_rfc3339(&mut query, self.end_second);
        String::from_utf8(query).expect("times are ASCII")
    }
}

impl Fleet {
    /// Renders every body of the fleet; takes about 0.1 s.
    pub fn prepare(settings: &FleetSettings) -> Result<Self, FleetError> {
        check(settings)?;
        let window_seconds = settings.points as u64 * STEP_SECONDS;
        let windows = (SPAN_SECONDS_MAX / window_seconds).min(WINDOWS_MAX);
        let first_second = first_second(settings.now, windows * window_seconds)?;
        let mut bodies = vec![Bytes::new(); (windows * VARIANTS) as usize];
        let mut tallies = vec![Vec::new(); bodies.len()];
        for variant in 0..VARIANTS {
            let mut device = Device::new(settings, variant);
            for window in 0..windows {
                let place = (window * VARIANTS + variant) as usize;
                let (body, tally) = device.body(settings.points, first_second + window * window_seconds);
                (bodies[place], tallies[place]) = (body, tally);
            }
        }
        Ok(Self {
            run_prefix: settings.run_prefix.clone(),
            users: settings.users,
            points: settings.points,
            mix: settings.mix,
            first_second,
            bodies,
            tallies,
        })
    }

    /// The batch with this number. Every number is another (user, window).
    pub fn batch(&self, number: u64) -> Batch {
        let body = self.bodies[self.body_of(number)].clone();
        Batch { number, user_id: self.user_id_of_batch(number), body }
    }

    /// What the batch with this number holds: each metric's key, how many samples,
    /// and what their values add up to.
    pub fn tallies_of_batch(&self, number: u64) -> impl Iterator<Item = (&'static str, SeriesTally)> {
        let keys = self.metrics();
        keys.zip(self.tallies[self.body_of(number)].iter().copied()).filter(|(_, tally)| tally.count > 0)
    }

    /// The keys of the metrics that bodies hold.
    pub fn metrics(&self) -> impl Iterator<Item = &'static str> + use<> {
        self.mix.metrics().iter().map(|metric| metric.key)
    }

    /// The half-open span of time that all samples lie in, 44.4 hours at most.
    pub fn span(&self) -> Span {
        let seconds = self.windows() * self.points as u64 * STEP_SECONDS;
        Span { start_second: self.first_second, end_second: self.first_second + seconds }
    }

    /// The user id of the batch with this number.
    pub fn user_id_of_batch(&self, number: u64) -> String {
        self.user_id(self.user_of(number))
    }

    /// Whether a user belongs to this fleet.
    pub fn has_user(&self, user_id: &str) -> bool {
        let number = user_id.strip_prefix(&self.user_prefix());
        number.is_some_and(|digits| !digits.is_empty() && digits.bytes().all(|b| b.is_ascii_digit()))
    }

    /// Users of a pass.
    pub fn users(&self) -> u64 {
        self.users
    }

    /// Points of a body.
    pub fn points(&self) -> usize {
        self.points
    }

    /// Which metrics a body holds.
    pub fn mix(&self) -> Mix {
        self.mix
    }

    /// Windows that a user gets, one per pass, before new users take over.
    pub fn windows(&self) -> u64 {
        self.bodies.len() as u64 / VARIANTS
    }

    /// The place among the bodies of a batch's body.
    fn body_of(&self, number: u64) -> usize {
        let window = number / self.users % self.windows();
        (window * VARIANTS + self.user_of(number) % VARIANTS) as usize
    }

    fn user_of(&self, number: u64) -> u64 {
        let generation = number / self.users / self.windows();
        generation * self.users + number % self.users
    }

    fn user_id(&self, user: u64) -> String {
        format!("{}{user:07}", self.user_prefix())
    }

    fn user_prefix(&self) -> String {
        format!("load-{}-", self.run_prefix)
    }
}

/// The watch and phone that all users of one variant wear.
struct Device {
    mix: Mix,
    variant: u64,
    random: Random,
    /// One per metric of the mix.
    walks: Vec<Walk>,
    /// Size of the last body, so that the next one is allocated once.
    body_bytes: usize,
}

impl Device {
    fn new(settings: &FleetSettings, variant: u64) -> Self {
        let mut random = Random::seeded(settings.seed.wrapping_add(variant << 32));
        let metrics = settings.mix.metrics().iter();
        let walks = metrics.map(|m| Walk::new(m, &mut random)).collect();
        Self { mix: settings.mix, variant, random, walks, body_bytes: 0 }
    }

    /// The next body, and what it holds by the mix's metrics.
    fn body(&mut self, points: usize, first_second: u64) -> (Bytes, Vec<SeriesTally>) {
        let mut body = Vec::with_capacity(self.body_bytes + 1_024);
        let mut tallies = vec![SeriesTally::default(); self.walks.len()];
        body.extend(b"{\"data_points\":[");
        for point in 0..points {
            if point > 0 {
                body.push(b',');
            }
            let place = self.mix.metric_of(point);
            let tenths = self.walks[place].next(&mut self.random);
            tallies[place].add_tenths(tenths);
            self.push_point(&mut body, place, tenths, first_second + point as u64 * STEP_SECONDS);
        }
        body.extend(b"]}");
        self.body_bytes = body.len();
        (Bytes::from(body), tallies)
    }

    fn push_point(&self, body: &mut Vec<u8>, place: usize, tenths: i64, second: u64) {
        let metric = &self.mix.metrics()[place];
        write!(
            body,
            r#"{{"metric":"{}","value":{}.{},"unit":"{}","recorded_at":""#,
            metric.key,
            tenths / 10,
            tenths % 10,
            metric.unit
        )
        .expect("writing to a Vec cannot fail");
        calendar::push_rfc3339(body, second);
        write!(
            body,
            r#"","source":"{}","source_device_id":"{}-{:03}"}}"#,
            metric.source, metric.device, self.variant
        )
        .expect("writing to a Vec cannot fail");
    }
}

fn check(settings: &FleetSettings) -> Result<(), FleetError> {
    if settings.users == 0 {
        return Err(FleetError::NoUsers);
    }
    let points = settings.points;
    if !(1..=POINTS_MAX).contains(&points) {
        return Err(FleetError::Points { points });
    }
    let run_prefix = &settings.run_prefix;
    if !is_plain_prefix(run_prefix) {
        let run_prefix = run_prefix.clone();
        return Err(FleetError::RunPrefix { run_prefix });
    }
    Ok(())
}

/// The Unix seconds of the midnight, UTC, at which a date like `2026-06-01` begins.
pub fn second_of_date(date: &str) -> Option<u64> {
    let midnight = format!("{date}T00:00:00Z");
    calendar::parse_rfc3339(midnight.as_bytes()).filter(|_| date.len() == 10)
}

/// Whether user ids may begin so.
pub(crate) fn is_plain_prefix(prefix: &str) -> bool {
    let plain = |b: u8| b.is_ascii_alphanumeric() || b"._:@-".contains(&b);
    (1..=RUN_PREFIX_CHARS_MAX).contains(&prefix.len()) && prefix.bytes().all(plain)
}

/// The first second of a span that ends before `now`.
fn first_second(now: SystemTime, span_seconds: u64) -> Result<u64, FleetError> {
    let since_1970 = now.duration_since(UNIX_EPOCH).unwrap_or_default();
    let unix_seconds = since_1970.as_secs();
    unix_seconds.checked_sub(span_seconds).ok_or(FleetError::Clock { unix_seconds })
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, BTreeSet};
    use std::time::Duration;

    use serde_json::Value;

    use super::*;

    const NOW_SECONDS: u64 = 1_782_805_501;

    fn settings() -> FleetSettings {
        let now = UNIX_EPOCH + Duration::from_secs(NOW_SECONDS);
        FleetSettings::new("test", now)
    }

    fn prepared(settings: &FleetSettings) -> Fleet {
        Fleet::prepare(settings).expect("good settings")
    }

    fn points(body: &Bytes) -> Vec<Value> {
        let body: Value = serde_json::from_slice(body).expect("a body is JSON");
        body["data_points"].as_array().expect("points").clone()
    }

    fn text<'a>(point: &'a Value, field: &str) -> &'a str {
        point[field].as_str().expect("a text field")
    }

    #[test]
    fn bodies_of_500_points_have_52_to_78_kb() {
        for mix in [Mix::HeartRate, Mix::Fleet] {
            let fleet = prepared(&FleetSettings { mix, ..settings() });
            for body in &fleet.bodies {
                assert!((52_000..=78_000).contains(&body.len()), "{} bytes", body.len());
            }
        }
    }

    #[test]
    fn a_point_has_the_bulk_shape() {
        let fleet = prepared(&settings());
        let body = fleet.batch(0).body;
        let head = br#"{"data_points":[{"metric":"heart_rate","value":"#;
        assert!(body.starts_with(head));
        let points = points(&body);
        assert_eq!(points.len(), 500);
        let first = &points[0];
        let fields: Vec<&String> = first.as_object().expect("an object").keys().collect();
        let names = ["metric", "recorded_at", "source", "source_device_id", "unit", "value"];
        assert!(names.iter().all(|n| fields.iter().any(|f| f == n)));
        assert_eq!(fields.len(), names.len());
        assert_eq!(text(first, "unit"), "bpm");
        assert!(first["value"].is_f64());
        assert_eq!(text(first, "source_device_id"), "garmin-device-000");
    }

    #[test]
    fn a_fleet_body_mixes_eight_metrics_of_two_sources() {
        let fleet = prepared(&FleetSettings { mix: Mix::Fleet, ..settings() });
        let mut counts: BTreeMap<String, usize> = BTreeMap::new();
        let mut sources = BTreeSet::new();
        for point in points(&fleet.batch(0).body) {
            *counts.entry(text(&point, "metric").to_owned()).or_default() += 1;
            sources.insert(text(&point, "source").to_owned());
        }
        assert_eq!(counts.len(), 8);
        assert!(counts.values().all(|n| *n >= 30), "{counts:?}");
        assert_eq!(sources.len(), 2);
    }

    #[test]
    fn the_tally_of_a_batch_is_what_its_body_says() {
        for mix in [Mix::HeartRate, Mix::Fleet] {
            let fleet = prepared(&FleetSettings { mix, users: 3, points: 20, ..settings() });
            for number in [0, 1, 7, 200] {
                let mut parsed: BTreeMap<String, SeriesTally> = BTreeMap::new();
                for point in points(&fleet.batch(number).body) {
                    let metric = text(&point, "metric").to_owned();
                    parsed.entry(metric).or_default().add(point["value"].as_f64().expect("a number"));
                }
                let told: BTreeMap<String, SeriesTally> =
                    fleet.tallies_of_batch(number).map(|(key, tally)| (key.to_owned(), tally)).collect();
                assert_eq!(told, parsed, "batch {number}");
            }
        }
    }

    #[test]
    fn every_moment_lies_in_the_fleets_span() {
        let fleet = prepared(&FleetSettings { users: 1, points: 2_000, ..settings() });
        let query = fleet.span().query();
        let moments: Vec<String> = (0..fleet.windows())
            .flat_map(|number| points(&fleet.batch(number).body))
            .map(|point| text(&point, "recorded_at").to_owned())
            .collect();
        let (start, end) = query.strip_prefix("start=").and_then(|q| q.split_once("&end=")).expect("both");
        assert_eq!(moments[0], start);
        assert!(moments.iter().all(|moment| moment.as_str() < end));
        assert_eq!(end, "2026-06-30T07:45:01Z");
    }

    #[test]
    fn no_user_gets_a_moment_twice_even_after_the_windows_ran_out() {
        let small = FleetSettings { users: 3, points: 2_000, ..settings() };
        let fleet = prepared(&small);
        assert_eq!(fleet.windows(), 16);
        let mut seen = BTreeSet::new();
        let mut users = BTreeSet::new();
        for number in 0..3 * 16 * 2 + 5 {
            let batch = fleet.batch(number);
            assert_eq!(batch.user_id, fleet.user_id_of_batch(number));
            for point in points(&batch.body).iter().step_by(499) {
                let moment = text(point, "recorded_at").to_owned();
                assert!(seen.insert((batch.user_id.clone(), moment)), "batch {number}");
            }
            assert!(fleet.has_user(&batch.user_id));
            users.insert(batch.user_id);
        }
        assert_eq!(users.len(), 9);
        assert!(!fleet.has_user("load-test2-0000001") && !fleet.has_user("load-test-"));
    }

    #[test]
    fn times_rise_through_a_users_windows_and_never_reach_the_future() {
        for points_of_a_body in [1, 500, 10_000] {
            let fleet = prepared(&FleetSettings { users: 1, points: points_of_a_body, ..settings() });
            let mut moments = Vec::new();
            for number in 0..fleet.windows() {
                let points = points(&fleet.batch(number).body);
                moments.extend(points.iter().map(|p| text(p, "recorded_at").to_owned()));
            }
            assert!(moments.is_sorted_by(|a, b| a < b));
            assert!(moments[0].as_str() > "2026-06-28T08:00:00Z");
            assert!(moments[moments.len() - 1].as_str() < "2026-06-30T07:45:01Z");
        }
    }

    #[test]
    fn equal_settings_make_equal_bytes_and_another_seed_other_values() {
        let fleet = prepared(&settings());
        assert_eq!(fleet.bodies, prepared(&settings()).bodies);
        let other = prepared(&FleetSettings { seed: 2, ..settings() });
        assert_ne!(fleet.bodies[0], other.bodies[0]);
        assert_ne!(fleet.bodies[0], fleet.bodies[1]);
    }

    #[test]
    fn settings_that_no_server_would_take_are_refused() {
        let long = "x".repeat(65);
        for bad in [
            FleetSettings { users: 0, ..settings() },
            FleetSettings { points: 0, ..settings() },
            FleetSettings { points: 10_001, ..settings() },
            FleetSettings { run_prefix: String::new(), ..settings() },
            FleetSettings { run_prefix: "a b".to_owned(), ..settings() },
            FleetSettings { run_prefix: long, ..settings() },
            FleetSettings { now: UNIX_EPOCH, ..settings() },
        ] {
            assert!(Fleet::prepare(&bad).is_err(), "{bad:?}");
        }
    }
}
