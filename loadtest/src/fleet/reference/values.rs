//! Values: a person's level, a drift that bends at every knot, and noise.

use super::metrics::{Metric, Shape};
use super::{Draw, Person, ReferenceFleet};

/// A drift bends so often.
const KNOT_SECONDS: u64 = 1_800;
/// What is drawn for; knots and seconds stay below 2^40.
const LEVEL: u64 = 0;
const DRIFT: u64 = 1 << 40;
const NOISE: u64 = 1 << 41;

impl ReferenceFleet {
    /// The value at this second, in tenths.
    pub(super) fn value(
        &self,
        person: &Person,
        place: usize,
        metric: &Metric,
        hour: u64,
        second: u64,
    ) -> i64 {
        let series = (place as u64) << 48;
        let draw = |number: u64| self.draw(Draw::Value, person.user, series | number);
        metric.shape.value(draw, second, person.sleeps_in(hour))
    }
}

impl Metric {
    /// The value of a series at this second, in tenths; `draw` answers numbers below
    /// 2^42 with bits of the series' own.
    pub(crate) fn value(&self, draw: impl Fn(u64) -> u64, second: u64) -> i64 {
        self.shape.value(draw, second, false)
    }
}

impl Shape {
    fn value(&self, draw: impl Fn(u64) -> u64, second: u64, asleep: bool) -> i64 {
        let drift = |knot: u64| around(draw(DRIFT | knot), self.drift);
        let (knot, into) = (second / KNOT_SECONDS, (second % KNOT_SECONDS) as i64);
        let (from, to) = (drift(knot), drift(knot + 1));
        let drifted = from + (to - from) * into / KNOT_SECONDS as i64;
        let noise = around(draw(NOISE | second), self.noise);
        let asleep = if asleep { self.asleep } else { 0 };
        self.cut(self.usual + around(draw(LEVEL), self.persons) + drifted + noise + asleep)
    }

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
