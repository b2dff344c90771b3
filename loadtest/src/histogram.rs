//! Latencies, in microseconds from 0 to 2^32 - 1 (71 minutes; more is counted
//! there), each kept to within 1/128 (0.8 %) of its value; the maximum is exact.
//!
//! Log-linear: values below 256 have a bucket each, every further doubling has
//! 128 buckets of equal width.
//!
//! ```text
//! value     0 .. 255 | 256 .. 511 | 512 .. 1023 | ...
//! width            1 |          2 |           4 | ...
//! ```
//!
//! A histogram is 26 KB and belongs to one task; recording is an index and an
//! addition, without locks or allocation. At the end the tasks' histograms are
//! merged, which loses nothing: the merged one equals one that saw every value.

use std::time::Duration;

/// Buckets per doubling, as a power of two: 128 keeps the error below 0.8 %.
const PRECISION_BITS: u32 = 7;
const BUCKETS_PER_DOUBLING: usize = 1 << PRECISION_BITS;
/// 71 minutes: longer than any request that a run waits for.
const VALUE_MAX: u64 = u32::MAX as u64;
const BUCKETS: usize = bucket_of(VALUE_MAX) + 1;

/// Counts of latencies by size.
#[derive(Clone, PartialEq, Eq)]
pub struct Histogram {
    counts: Box<[u64; BUCKETS]>,
    count: u64,
    max: u64,
}

/// What a reader wants of a histogram, in microseconds.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Percentiles {
    /// How many latencies were recorded.
    pub count: u64,
    /// Half of them were at most this.
    pub p50: u64,
    /// 90 % of them were at most this.
    pub p90: u64,
    /// 95 % of them were at most this.
    pub p95: u64,
    /// 99 % of them were at most this.
    pub p99: u64,
    /// 99.9 % of them were at most this.
    pub p99_9: u64,
    /// The longest, exactly.
    pub max: u64,
}

impl Histogram {
    /// An empty histogram.
    pub fn new() -> Self {
        Self { counts: Box::new([0; BUCKETS]), count: 0, max: 0 }
    }

    /// Counts one latency.
    pub fn record(&mut self, latency: Duration) {
        let micros = u64::try_from(latency.as_micros()).unwrap_or(VALUE_MAX);
        self.record_micros(micros);
    }

    /// Counts one latency given in microseconds.
    pub fn record_micros(&mut self, micros: u64) {
        let value = micros.min(VALUE_MAX);
        self.counts[bucket_of(value)] += 1;
        self.count += 1;
        self.max = self.max.max(value);
    }

    /// Adds everything that `other` counted.
    pub fn merge(&mut self, other: &Self) {
        for (mine, theirs) in self.counts.iter_mut().zip(other.counts.iter()) {
            *mine += theirs;
        }
        self.count += other.count;
        self.max = self.max.max(other.max);
    }

    /// How many latencies were recorded.
    pub fn count(&self) -> u64 {
        self.count
    }

    /// The longest latency in microseconds, 0 if there is none.
    pub fn max(&self) -> u64 {
        self.max
    }

    /// The latency in microseconds that `per_mille` of 1,000 do not exceed, by
    /// nearest rank. Never below the true value and at most 1/128 above it; 0 if
    /// nothing was recorded.
    pub fn percentile(&self, per_mille: u64) -> u64 {
        assert!(per_mille <= 1_000, "a percentile is at most the whole");
        let rank = (self.count * per_mille).div_ceil(1_000).max(1);
        let mut seen = 0;
        for (bucket, count) in self.counts.iter().enumerate() {
            seen += count;
            if seen >= rank {
                return highest_of(bucket).min(self.max);
            }
        }
        self.max
    }

    /// The percentiles that every report prints.
    pub fn percentiles(&self) -> Percentiles {
        Percentiles {
            count: self.count,
            p50: self.percentile(500),
            p90: self.percentile(900),
            p95: self.percentile(950),
            p99: self.percentile(990),
            p99_9: self.percentile(999),
            max: self.max,
        }
    }
}

impl Default for Histogram {
    fn default() -> Self {
        Self::new()
    }
}

impl std::fmt::Debug for Histogram {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.percentiles().fmt(f)
    }
}

/// The bucket of a value: its top 8 bits, and how far they were shifted.
const fn bucket_of(value: u64) -> usize {
    let shift = (u64::BITS - 1 - (value | 1).leading_zeros()).saturating_sub(PRECISION_BITS);
    shift as usize * BUCKETS_PER_DOUBLING + (value >> shift) as usize
}

/// The greatest value that falls into a bucket.
const fn highest_of(bucket: usize) -> u64 {
    if bucket < 2 * BUCKETS_PER_DOUBLING {
        return bucket as u64;
    }
    let shift = bucket / BUCKETS_PER_DOUBLING - 1;
    let top = (bucket - shift * BUCKETS_PER_DOUBLING) as u64;
    ((top + 1) << shift) - 1
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::random::Random;

    /// Values of every size, from single microseconds to minutes.
    fn values(seed: u64, count: usize) -> Vec<u64> {
        let mut random = Random::seeded(seed);
        let value = |random: &mut Random| random.next() >> (33 + random.below(31));
        (0..count).map(|_| value(&mut random)).collect()
    }

    fn filled(values: &[u64]) -> Histogram {
        let mut histogram = Histogram::new();
        values.iter().for_each(|v| histogram.record_micros(*v));
        histogram
    }

    #[test]
    fn percentiles_agree_with_a_sorted_vec_within_one_part_in_128() {
        for (seed, count) in [(1, 1), (2, 2), (3, 10), (4, 999), (5, 1_000), (6, 50_000)] {
            let mut sorted = values(seed, count);
            let histogram = filled(&sorted);
            sorted.sort_unstable();
            for per_mille in [0, 1, 10, 250, 500, 900, 990, 999, 1_000] {
                let rank = (count * per_mille).div_ceil(1_000).max(1);
                let exact = sorted[rank - 1];
                let told = histogram.percentile(per_mille as u64);
                assert!(told >= exact, "{told} is below {exact} at {per_mille}");
                assert!(told - exact <= exact / 128, "{told} is far above {exact}");
            }
            assert_eq!(histogram.max(), sorted[count - 1]);
            assert_eq!(histogram.count(), count as u64);
        }
    }

    #[test]
    fn every_value_lies_in_its_bucket_and_buckets_leave_no_gap() {
        for bucket in 1..BUCKETS {
            let lowest = highest_of(bucket - 1) + 1;
            assert_eq!(bucket_of(lowest), bucket);
            assert_eq!(bucket_of(highest_of(bucket)), bucket);
        }
        assert_eq!(highest_of(BUCKETS - 1), VALUE_MAX);
    }

    #[test]
    fn merged_histograms_equal_one_that_saw_every_value() {
        let (left, right) = (values(7, 3_000), values(8, 5_000));
        let mut merged = filled(&left);
        merged.merge(&filled(&right));
        assert_eq!(merged, filled(&[left, right].concat()));
    }

    #[test]
    fn small_values_are_exact_and_huge_ones_are_counted_at_the_end() {
        let histogram = filled(&[3, 200, 255]);
        assert_eq!(histogram.percentile(1), 3);
        assert_eq!(histogram.percentile(500), 200);
        assert_eq!(filled(&[u64::MAX]).percentiles().p50, VALUE_MAX);
    }

    #[test]
    fn an_empty_histogram_answers_zero() {
        assert_eq!(Histogram::new().percentiles(), Percentiles::default());
    }
}
