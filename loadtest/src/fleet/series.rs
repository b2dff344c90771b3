//! What the simulated devices measure: the metrics with their units and ranges,
//! and the values of one series as a bounded random walk in tenths.
//!
//! Names and units are those of the server's metric registry, ranges lie inside the
//! plausible ones there, so that a value is never what a run stumbles over.

use crate::random::Random;

/// Which metrics a body holds.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Mix {
    /// `heart_rate` of one watch: one series per body, the shape of a device
    /// that syncs one long recording.
    #[default]
    HeartRate,
    /// Eight metrics of a watch and a phone in the order of their times, so that
    /// each point belongs to another series than the one before it: the costliest
    /// order for a server that groups by series.
    Fleet,
}

/// One metric as a device reports it; values are tenths of the unit.
#[derive(Debug)]
pub(super) struct Metric {
    pub(super) key: &'static str,
    pub(super) unit: &'static str,
    pub(super) source: &'static str,
    /// Name of the device, completed by the number of its variant.
    pub(super) device: &'static str,
    low: i64,
    high: i64,
    /// The farthest two neighbouring values lie apart.
    stride: i64,
    /// Values are multiples of this: 10 for metrics that are counted.
    grain: i64,
}

/// The rhythm of [`Mix::Fleet`]: 32 points, then again. Half are heart rate.
#[rustfmt::skip]
const FLEET_RHYTHM: [usize; 32] = [
    0, 1, 0, 3, 0, 2, 0, 6, 0, 3, 0, 4, 0, 5, 0, 7,
    0, 3, 0, 1, 0, 2, 0, 6, 0, 3, 0, 4, 0, 5, 0, 7,
];

const HEART_RATE: Metric = watch("heart_rate", "bpm", [480, 1_720, 30, 10]);

const FLEET: [Metric; 8] = [
    HEART_RATE,
    watch("hrv", "ms", [150, 1_200, 60, 1]),
    watch("spo2", "%", [920, 1_000, 10, 10]),
    phone("steps", "steps", [0, 600, 200, 10]),
    watch("respiratory_rate", "breaths/min", [100, 220, 8, 1]),
    watch("skin_temperature", "celsius", [300, 360, 2, 1]),
    phone("energy", "kcal", [1, 40, 6, 1]),
    watch("stress_score", "score", [50, 900, 50, 10]),
];

impl Mix {
    pub(super) fn metrics(self) -> &'static [Metric] {
        match self {
            Self::HeartRate => std::slice::from_ref(&HEART_RATE),
            Self::Fleet => &FLEET,
        }
    }

    /// The place in [`Mix::metrics`] of the metric of a body's `point`.
    pub(super) fn metric_of(self, point: usize) -> usize {
        match self {
            Self::HeartRate => 0,
            Self::Fleet => FLEET_RHYTHM[point % FLEET_RHYTHM.len()],
        }
    }
}

/// The values of one series, one after the other.
#[derive(Debug)]
pub(super) struct Walk {
    metric: &'static Metric,
    tenths: i64,
}

impl Walk {
    pub(super) fn new(metric: &'static Metric, random: &mut Random) -> Self {
        let tenths = draw(random, metric.low, metric.high);
        Self { metric, tenths }
    }

    /// The next value in tenths of the metric's unit.
    pub(super) fn next(&mut self, random: &mut Random) -> i64 {
        let Metric { low, high, stride, grain, .. } = *self.metric;
        let tenths = self.tenths + draw(random, -stride, stride);
        self.tenths = tenths.clamp(low, high);
        (self.tenths / grain * grain).max(low)
    }
}

const fn watch(key: &'static str, unit: &'static str, values: [i64; 4]) -> Metric {
    metric([key, unit, "garmin", "garmin-device"], values)
}

const fn phone(key: &'static str, unit: &'static str, values: [i64; 4]) -> Metric {
    metric([key, unit, "apple", "iphone-device"], values)
}

const fn metric(names: [&'static str; 4], values: [i64; 4]) -> Metric {
    let [key, unit, source, device] = names;
    let [low, high, stride, grain] = values;
    Metric { key, unit, source, device, low, high, stride, grain }
}

/// A number of `low..=high`.
fn draw(random: &mut Random, low: i64, high: i64) -> i64 {
    low + random.below(low.abs_diff(high) + 1) as i64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_stay_in_their_range_and_move() {
        let mut random = Random::seeded(9);
        for metric in Mix::Fleet.metrics() {
            let mut walk = Walk::new(metric, &mut random);
            let values: Vec<i64> = (0..5_000).map(|_| walk.next(&mut random)).collect();
            let within = metric.low..=metric.high;
            assert!(values.iter().all(|v| within.contains(v)), "{}", metric.key);
            assert!(values.iter().any(|v| *v != values[0]), "{}", metric.key);
        }
    }

    #[test]
    fn the_fleet_rhythm_names_every_metric() {
        for (place, metric) in FLEET.iter().enumerate() {
            assert!(FLEET_RHYTHM.contains(&place), "{}", metric.key);
        }
    }
}
