//! The twenty metrics that the reference fleet measures, with the units of the
//! server's registry and ranges inside its plausible ones.
//!
//! A value is a whole number of tenths. It is a person's own level, plus a drift
//! that bends every half hour or so, plus noise from sample to sample, cut to the
//! range and to the grain of the sensor: the entropy that a column of such values
//! has, and no pattern that a file format could exploit and real data lack. What
//! counts movement stands at its least about half of the time, as people sit; some
//! thousand steps a day come of it.

/// What a sample of a metric stands for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stands {
    /// A moment.
    Moment,
    /// The time from its start to its end, both sent.
    Span,
    /// A whole day.
    Day,
}

/// One metric as devices report it; values are tenths of the unit.
#[derive(Debug)]
pub struct Metric {
    /// Its key in the registry.
    pub key: &'static str,
    /// Its unit there.
    pub unit: &'static str,
    /// What a sample stands for.
    pub stands: Stands,
    pub(super) shape: Shape,
}

/// Where values lie, in tenths.
#[derive(Debug, Clone, Copy)]
pub(super) struct Shape {
    pub(super) low: i64,
    pub(super) high: i64,
    /// Around which the levels of persons lie.
    pub(super) usual: i64,
    /// How far they lie from it.
    pub(super) persons: i64,
    /// How far the drift leads from a person's level.
    pub(super) drift: i64,
    /// How far a sample lies from the drift.
    pub(super) noise: i64,
    /// Values are multiples of this: 10 for what is counted.
    pub(super) grain: i64,
    /// Added while the person is asleep.
    pub(super) asleep: i64,
}

pub(super) const HEART_RATE: usize = 0;
pub(super) const STEPS: usize = 1;
pub(super) const ENERGY: usize = 2;
pub(super) const DISTANCE: usize = 3;
pub(super) const BASAL_ENERGY: usize = 4;
pub(super) const FLIGHTS: usize = 5;
pub(super) const HRV: usize = 6;
pub(super) const SPO2: usize = 7;
pub(super) const RESPIRATORY_RATE: usize = 8;
pub(super) const SKIN_TEMPERATURE: usize = 9;
pub(super) const STRESS: usize = 10;
pub(super) const BODY_BATTERY: usize = 11;
pub(super) const RESTING_HEART_RATE: usize = 12;
pub(super) const SLEEP: usize = 13;
pub(super) const SLEEP_DEEP: usize = 14;
pub(super) const SLEEP_REM: usize = 15;
pub(super) const SLEEP_EFFICIENCY: usize = 16;
pub(super) const READINESS: usize = 17;
pub(super) const GLUCOSE: usize = 18;
pub(super) const VO2_MAX: usize = 19;

/// All of them; the order is that of the constants above.
#[rustfmt::skip]
pub static METRICS: [Metric; 20] = [
    //                                                         low,  high, usual, persons, drift, noise, grain, asleep
    metric("heart_rate", "bpm", Stands::Moment,              [  400, 1_900,   880, 200,   250,    25, 10, -180]),
    metric("steps", "steps", Stands::Span,                   [    0, 1_600,     0, 100,   700,   300, 10,    0]),
    metric("energy", "kcal", Stands::Span,                   [    1,   120,     5,   3,    25,     5,  1,    0]),
    metric("distance", "meters", Stands::Span,               [    0, 2_400,     0, 150, 1_000,   400, 10,    0]),
    metric("basal_energy", "kcal", Stands::Span,             [  100,   300,   180,  60,     8,     3,  1,   -5]),
    metric("flights_climbed", "count", Stands::Span,         [   10,    60,    20,  10,    20,    20, 10,    0]),
    metric("hrv", "ms", Stands::Moment,                      [   80, 1_600,   480, 400,   200,   120,  1,  150]),
    metric("spo2", "%", Stands::Moment,                      [  900, 1_000,   975,  15,    10,    10, 10,   -5]),
    metric("respiratory_rate", "breaths/min", Stands::Moment,[   80,   260,   150,  25,    15,    10,  5,  -20]),
    metric("skin_temperature", "celsius", Stands::Moment,    [  300,   372,   338,   8,     8,     2,  1,    6]),
    metric("stress_score", "score", Stands::Moment,          [    0, 1_000,   350, 150,   250,    60, 10, -150]),
    metric("garmin_body_battery", "percent", Stands::Moment, [   50, 1_000,   550, 150,   300,    20, 10,  100]),
    metric("resting_heart_rate", "bpm", Stands::Day,         [  380,   900,   580, 120,    20,    20, 10,    0]),
    metric("sleep_duration", "hours", Stands::Day,           [   30,   110,    72,   8,     8,     8,  1,    0]),
    metric("sleep_deep", "hours", Stands::Day,               [    2,    30,    13,   3,     3,     3,  1,    0]),
    metric("sleep_rem", "hours", Stands::Day,                [    2,    36,    17,   4,     4,     4,  1,    0]),
    metric("sleep_efficiency", "percent", Stands::Day,       [  600, 1_000,   880,  50,    30,    40, 10,    0]),
    metric("readiness_score", "score", Stands::Day,          [  300, 1_000,   780, 100,    60,    60, 10,    0]),
    metric("interstitial_glucose", "mg_dl", Stands::Moment,  [  500, 2_600, 1_100, 200,   350,    25, 10, -100]),
    metric("vo2_max", "ml_kg_min", Stands::Day,              [  200,   650,   400, 120,     5,     3,  1,    0]),
];

const fn metric(key: &'static str, unit: &'static str, stands: Stands, shape: [i64; 8]) -> Metric {
    let [low, high, usual, persons, drift, noise, grain, asleep] = shape;
    Metric { key, unit, stands, shape: Shape { low, high, usual, persons, drift, noise, grain, asleep } }
}
