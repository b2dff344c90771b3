//! A number that stands for everything that was added, in its order.

/// The odd constant of SplitMix64 (Steele, Lea, Flood 2014).
const GAMMA: u64 = 0x9e37_79b9_7f4a_7c15;

/// A running checksum of numbers. Not for secrets.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Checksum(u64);

impl Checksum {
    pub(crate) fn add(&mut self, number: u64) {
        self.0 = spread(self.0 ^ number);
    }

    pub(crate) fn finish(self) -> u64 {
        self.0
    }
}

/// SplitMix64 at `state`: spreads a number over all 64 bits.
pub(crate) fn spread(state: u64) -> u64 {
    let mut z = state.wrapping_add(GAMMA);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_splitmix64() {
        let seed = 1_234_567;
        assert_eq!(spread(seed), 6_457_827_717_110_365_317);
        assert_eq!(spread(GAMMA.wrapping_add(seed)), 3_203_168_211_198_807_973);
    }

    #[test]
    fn the_order_counts() {
        let of = |numbers: [u64; 2]| {
            let mut checksum = Checksum::default();
            numbers.into_iter().for_each(|number| checksum.add(number));
            checksum.finish()
        };
        assert_ne!(of([1, 2]), of([2, 1]));
    }
}
