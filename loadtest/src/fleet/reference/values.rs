//! Values: a person's level, a drift that bends at every knot, and noise.

use super::metrics::{Metric, Shape};
use super::{Draw, Person, ReferenceFleet};

/// A drift bends so often; days' values bend each week.
const KNOT_SECONDS: u64 = 1_800;

impl ReferenceFleet {
    /// The value at this second, in tenths.
    pub(super) fn value(&self, person: &Person, place: usize, metric: &Metric, hour: u64, second: u64) -> i64 {
        let shape = &metric.shape;
        let series = (place as u64) << 48;
        let level = self.draw(Draw::Value, person.user, series);
        let drift = |knot: u64| around(self.draw(Draw::Value, person.user, series | 1 << 40 | knot), shape.drift);
        let (knot, into) = (second / KNOT_SECONDS, (second % KNOT_SECONDS) as i64);
        let (from, to) = (drift(knot), drift(knot + 1));
        let drifted = from + (to - from) * into / KNOT_SECONDS as i64;
        let noise = around(self.draw(Draw::Value, person.user, series | 1 << 41 | second), shape.noise);
        let asleep = if person.sleeps_in(hour) { shape.asleep } else { 0 };
        shape.cut(shape.usual + around(level, shape.persons) + drifted + noise + asleep)
    }
}

impl Shape {
    fn cut(&self, tenths: i64) -> i64 {
        tenths.clamp(self.low, self.high) / self.grain * self.grain
    }

    /// Another value for the same moment, inside the range and never the same.
    pub(super) fn corrected(&self, tenths: i64, key: u64) -> i64 {
        let step = self.grain * (1 + (crate::random::spread(key) % 3) as i64);
        if tenths + step <= self.high { tenths + step } else { tenths - step }
    }
}

/// A number of `-reach..=reach` that is more often near 0: the mean of two.
fn around(draws: u64, reach: i64) -> i64 {
    let outcomes = 2 * reach as u64 + 1;
    let (left, right) = ((draws >> 32) % outcomes, (draws & 0xffff_ffff) % outcomes);
    ((left + right) / 2) as i64 - reach
}
