//! SplitMix64: 64 bits of state, the same numbers for the same seed on every
//! machine. Good enough to vary values and to pick users; not for secrets.

/// The odd constant by which the state moves on (Steele, Lea, Flood 2014).
const GAMMA: u64 = 0x9e37_79b9_7f4a_7c15;

/// A seeded sequence of numbers.
#[derive(Debug, Clone)]
pub(crate) struct Random {
    state: u64,
}

impl Random {
    pub(crate) fn seeded(seed: u64) -> Self {
        Self { state: seed }
    }

    pub(crate) fn next(&mut self) -> u64 {
        self.state = self.state.wrapping_add(GAMMA);
        mix(self.state)
    }

    /// A number of `0..bound`. The bias of the remainder is below `bound / 2^64`.
    pub(crate) fn below(&mut self, bound: u64) -> u64 {
        assert!(bound > 0, "a draw needs at least one outcome");
        self.next() % bound
    }
}

/// Spreads one number over all 64 bits: the draw number `n` without a sequence.
pub(crate) fn spread(number: u64) -> u64 {
    mix(number.wrapping_mul(GAMMA).wrapping_add(GAMMA))
}

fn mix(mut z: u64) -> u64 {
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_sequence_is_splitmix64() {
        let mut random = Random::seeded(1_234_567);
        assert_eq!(random.next(), 6_457_827_717_110_365_317);
        assert_eq!(random.next(), 3_203_168_211_198_807_973);
    }

    #[test]
    fn draws_stay_below_their_bound_and_reach_every_outcome() {
        let mut random = Random::seeded(1);
        let mut seen = [false; 7];
        for _ in 0..1_000 {
            seen[usize::try_from(random.below(7)).expect("a draw below 7")] = true;
        }
        assert_eq!(seen, [true; 7]);
    }
}
