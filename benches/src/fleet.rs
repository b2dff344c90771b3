//! Users, devices and their points, from a seed.
//!
//! A fleet is a grid of requests: each user has windows that follow each other
//! in time, and every (user, window) is the same points whenever it is asked
//! for. Values walk at random in the steps a device reports.
//!
//! Not simulated: gaps, late syncs, sleep.

use systole_engine::timestamp::write_rfc3339;
use systole_engine::{Batch, Draft, Point, Registry};

use crate::checksum::spread;

/// The organisation of all samples.
pub const ORG: &str = "bench";
/// Time of the first sample, milliseconds: 2026-06-01T00:00:00Z.
pub const START_MS: i64 = 1_780_272_000_000;
/// What the clock says when requests are checked: 2027-06-01T00:00:00Z, behind
/// all samples.
pub const NOW_MS: i64 = 1_811_808_000_000;
/// Points of a body, the most a server takes unless configured.
pub const POINTS: usize = 500;
/// Length of `2026-06-01T00:00:00Z`.
const STAMP_BYTES: usize = 20;
const SEED: u64 = 1;

/// A metric as a device reports it.
#[derive(Clone, Copy, Debug)]
pub struct Signal {
    /// Canonical key.
    pub metric: &'static str,
    /// Canonical unit.
    pub unit: &'static str,
    /// Values are multiples of one over this.
    per_unit: u32,
    /// Range of the walk in these steps.
    steps: (u32, u32),
}

/// Whole beats a minute.
pub const HEART_RATE: Signal = Signal { metric: "heart_rate", unit: "bpm", per_unit: 1, steps: (48, 185) };
/// Tenths of a millisecond.
pub const HRV: Signal = Signal { metric: "hrv", unit: "ms", per_unit: 10, steps: (80, 1_800) };
/// Tenths of a percent.
pub const SPO2: Signal = Signal { metric: "spo2", unit: "%", per_unit: 10, steps: (920, 1_000) };
/// Whole steps.
pub const STEPS: Signal = Signal { metric: "steps", unit: "steps", per_unit: 1, steps: (0, 90) };

/// Who sends, and how often.
#[derive(Clone, Copy, Debug)]
pub struct Fleet {
    /// Number of users.
    pub users: usize,
    /// Requests of each.
    pub windows: usize,
    /// Points of a request.
    pub points: usize,
    /// What a request holds, in turns.
    pub signals: &'static [Signal],
    /// Seconds from one time of a request to the next.
    pub step_s: i64,
}

impl Fleet {
    /// Points of all requests.
    #[must_use]
    pub fn samples(&self) -> u64 {
        (self.users * self.windows * self.points) as u64
    }

    /// All requests as they come: every user's first, then every user's second.
    pub fn requests(&self) -> impl Iterator<Item = Request> {
        self.requests_of(0..self.windows)
    }

    /// The requests of some windows, as they come.
    pub fn requests_of(&self, windows: std::ops::Range<usize>) -> impl Iterator<Item = Request> {
        let fleet = *self;
        windows.flat_map(move |window| (0..fleet.users).map(move |user| fleet.request(user, window)))
    }

    /// The first millisecond behind all samples.
    #[must_use]
    pub fn end_ms(&self) -> i64 {
        let times = self.windows * self.points.div_ceil(self.signals.len());
        START_MS + times as i64 * self.step_s * 1000
    }

    /// One user's window.
    #[must_use]
    pub fn request(&self, user: usize, window: usize) -> Request {
        let times = self.points.div_ceil(self.signals.len());
        let first_s = (window * times) as i64 * self.step_s;
        let time =
            |point: usize| START_MS + (first_s + (point / self.signals.len()) as i64 * self.step_s) * 1000;
        let place = (user * self.windows + window) as u64;
        let mut walks: Vec<Walk> =
            (0u64..).zip(self.signals).map(|(turn, signal)| Walk::new(signal, place << 8 | turn)).collect();
        let turns = walks.len();
        Request {
            users: vec![user_id(user)],
            device: format!("watch-{user:07}"),
            signals: self.signals,
            stamps: stamps((0..self.points).map(time)),
            values: (0..self.points).map(|point| walks[point % turns].next()).collect(),
        }
    }
}

/// The user's number as an id.
#[must_use]
pub fn user_id(user: usize) -> String {
    format!("user-{user:07}")
}

/// The points of one request, as a body holds them.
#[derive(Clone, Debug)]
pub struct Request {
    /// In turns, one point each.
    users: Vec<String>,
    device: String,
    signals: &'static [Signal],
    /// One behind the other, [`STAMP_BYTES`] each.
    stamps: String,
    values: Vec<f64>,
}

impl Request {
    /// Number of points.
    #[must_use]
    pub fn len(&self) -> usize {
        self.values.len()
    }

    /// Whether it has none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.values.is_empty()
    }

    /// The same points, the newest first.
    #[must_use]
    pub fn newest_first(mut self) -> Request {
        assert_eq!(self.signals.len(), 1, "turns of several signals are not the same backwards");
        let stamps = self.stamps.as_bytes().chunks_exact(STAMP_BYTES).rev().flatten();
        self.stamps = stamps.map(|&byte| char::from(byte)).collect();
        self.values.reverse();
        self
    }

    /// The same points, each of another user: what a gateway sends.
    #[must_use]
    pub fn of_users(mut self, users: std::ops::Range<usize>) -> Request {
        self.users = users.map(user_id).collect();
        self
    }

    /// The points in their order.
    pub fn points(&self) -> impl Iterator<Item = Point<'_>> {
        let turns = self.users.iter().cycle().zip(self.signals.iter().cycle());
        let measured = (0..).step_by(STAMP_BYTES).zip(&self.values);
        measured.zip(turns).map(|((at, &value), (user, signal))| Point {
            user,
            metric: signal.metric,
            value,
            unit: signal.unit,
            recorded_at: &self.stamps[at..at + STAMP_BYTES],
            source: "watch",
            device: Some(&self.device),
            zone_offset: None,
            ended_at: None,
            is_daily_total: None,
        })
    }
}

/// Checks and encodes a request as the server does.
///
/// # Panics
/// If a point is refused: every point of a fleet is good.
pub fn draft(batch: &mut Batch, registry: &Registry, request: &Request) -> Draft {
    batch.clear(NOW_MS);
    for point in request.points() {
        if let Err(fault) = batch.push(registry, &point) {
            panic!("a good point was refused: {fault}");
        }
    }
    batch.encode(ORG, false)
}

fn stamps(times: impl Iterator<Item = i64>) -> String {
    let mut text = Vec::new();
    for (count, time) in (1..).zip(times) {
        write_rfc3339(time, &mut text);
        assert_eq!(text.len(), count * STAMP_BYTES, "times are whole seconds");
    }
    String::from_utf8(text).expect("timestamps are ASCII")
}

/// A value that moves by a step or two.
struct Walk {
    signal: Signal,
    state: u64,
    at: u32,
}

impl Walk {
    fn new(signal: &Signal, place: u64) -> Walk {
        let state = spread(SEED ^ spread(place));
        let (low, high) = signal.steps;
        Walk { signal: *signal, state, at: low + (state % u64::from(high - low)) as u32 }
    }

    fn next(&mut self) -> f64 {
        self.state = spread(self.state);
        let (low, high) = self.signal.steps;
        let moved = i64::from(self.at) + (self.state % 5) as i64 - 2;
        self.at = moved.clamp(i64::from(low), i64::from(high)) as u32;
        f64::from(self.at) / f64::from(self.signal.per_unit)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FLEET: Fleet = Fleet { users: 3, windows: 2, points: 8, signals: &[HEART_RATE, STEPS], step_s: 5 };

    #[test]
    fn windows_of_a_user_follow_each_other_and_metrics_take_turns() {
        let (first, second) = (FLEET.request(1, 0), FLEET.request(1, 1));
        let said: Vec<_> =
            first.points().chain(second.points()).map(|point| (point.metric, point.recorded_at)).collect();
        assert_eq!(said.len(), 16);
        assert_eq!(said[0], ("heart_rate", "2026-06-01T00:00:00Z"));
        assert_eq!(said[1], ("steps", "2026-06-01T00:00:00Z"));
        assert_eq!(said[7], ("steps", "2026-06-01T00:00:15Z"));
        assert_eq!(said[8], ("heart_rate", "2026-06-01T00:00:20Z"));
        assert_eq!(FLEET.end_ms(), START_MS + 40_000);
    }

    #[test]
    fn a_place_always_has_the_same_points_and_others_have_others() {
        let values = |user, window| FLEET.request(user, window).values;
        assert_eq!(values(2, 1), values(2, 1));
        assert_ne!(values(2, 1), values(2, 0));
        assert_ne!(values(2, 1), values(1, 1));
    }

    #[test]
    fn newest_first_is_the_same_points_backwards() {
        let request = Fleet { signals: &[HEART_RATE], ..FLEET }.request(0, 0);
        let said = |request: &Request| -> Vec<(String, u64)> {
            request.points().map(|point| (point.recorded_at.to_owned(), point.value.to_bits())).collect()
        };
        let mut expected = said(&request);
        expected.reverse();
        assert_eq!(said(&request.newest_first()), expected);
    }
}
