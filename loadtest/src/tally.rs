//! How many samples a series has and what their values add up to, exactly: the
//! three sides of a comparison (sent, stored, delivered) add the same values in
//! different orders, and floating sums would differ by it.
//!
//! A value counts as the nearest millionth. Values that print alike are equal
//! numbers, and those below 2^33 differ by less than half a millionth from their
//! decimal text, so equal samples have equal tallies; samples that differ by less
//! than a millionth do not show.

use std::collections::BTreeMap;

const MILLION: f64 = 1_000_000.0;
const MILLIONTHS_PER_TENTH: i128 = 100_000;

/// One metric of one user.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct SeriesName {
    /// Whose.
    pub user_id: String,
    /// The metric's key, or in a receiver's tally the `series_type` it was given.
    pub metric: String,
}

/// Count and sum of a series.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct SeriesTally {
    /// Samples.
    pub count: u64,
    /// Sum of their values, each rounded to the millionth.
    pub sum_millionths: i128,
}

/// Tallies by series.
pub type Tallies = BTreeMap<SeriesName, SeriesTally>;

impl SeriesTally {
    /// Adds one sample.
    pub fn add(&mut self, value: f64) {
        self.count += 1;
        self.sum_millionths += (value * MILLION).round() as i128;
    }

    /// Adds one sample whose value is given in tenths.
    pub(crate) fn add_tenths(&mut self, tenths: i64) {
        self.count += 1;
        self.sum_millionths += i128::from(tenths) * MILLIONTHS_PER_TENTH;
    }

    /// Adds everything that `other` counted.
    pub fn merge(&mut self, other: &Self) {
        self.count += other.count;
        self.sum_millionths += other.sum_millionths;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tenths_and_their_decimal_text_have_the_same_tally() {
        let (mut exact, mut read) = (SeriesTally::default(), SeriesTally::default());
        for tenths in (0..10_000_000).step_by(7) {
            let text = format!("{}.{}", tenths / 10, tenths % 10);
            exact.add_tenths(tenths);
            read.add(text.parse().expect("a number"));
        }
        assert_eq!(exact, read);
    }

    #[test]
    fn a_changed_value_changes_the_sum_and_not_the_count() {
        let (mut left, mut right) = (SeriesTally::default(), SeriesTally::default());
        left.add(36.6);
        right.add(36.7);
        assert_eq!(left.count, right.count);
        assert_ne!(left, right);
    }

    #[test]
    fn the_order_of_additions_does_not_matter() {
        let values = [0.1, 1e9, -3.3, 0.7];
        let (mut forth, mut back) = (SeriesTally::default(), SeriesTally::default());
        values.iter().for_each(|value| forth.add(*value));
        values.iter().rev().for_each(|value| back.add(*value));
        assert_eq!(forth, back);
        let mut twice = forth;
        twice.merge(&back);
        assert_eq!(twice.count, 8);
        assert_eq!(twice.sum_millionths, 2 * forth.sum_millionths);
    }
}
