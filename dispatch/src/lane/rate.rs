//! A bound on requests a second.
//!
//! A token bucket that holds one second's worth: `rate` tokens, one more each `1 /
//! rate` seconds. So in no second are more than `2 * rate` requests begun, and in the
//! long run no more than `rate` a second. It is one number, the time at which the
//! bucket would be full again.

use std::time::{Duration, Instant};

const SECOND: Duration = Duration::from_secs(1);

/// One lane's tokens.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Bucket {
    /// When it is full again; a time gone by means now.
    full_at: Option<Instant>,
}

impl Bucket {
    /// How long until there is a token; zero if there is one.
    pub(super) fn wait(&self, now: Instant, rate: u32) -> Duration {
        let pause = pause(rate);
        let full_in = self.full_at.map_or(Duration::ZERO, |at| at.saturating_duration_since(now));
        (full_in + pause).saturating_sub(SECOND.max(pause))
    }

    /// Takes a token, or says how long until there is one.
    pub(super) fn take(&mut self, now: Instant, rate: u32) -> Result<(), Duration> {
        match self.wait(now, rate) {
            Duration::ZERO => {
                self.full_at = Some(self.full_at.map_or(now, |at| at.max(now)) + pause(rate));
                Ok(())
            }
            wait => Err(wait),
        }
    }
}

/// From one token to the next; rounded up, so that no rate is exceeded in the long run.
fn pause(rate: u32) -> Duration {
    Duration::from_nanos(1_000_000_000_u64.div_ceil(u64::from(rate.max(1))))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// SplitMix64.
    fn random(state: &mut u64) -> u64 {
        *state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = *state;
        mixed = (mixed ^ mixed >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ mixed >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ mixed >> 31
    }

    /// When requests begin if `asks` says how long each one comes after the one before.
    fn begin(rate: u32, asks: impl IntoIterator<Item = Duration>) -> Vec<Duration> {
        let (mut bucket, mut now, mut begun) = (Bucket::default(), Duration::ZERO, Vec::new());
        let base = Instant::now();
        for pause in asks {
            now += pause;
            while let Err(wait) = bucket.take(base + now, rate) {
                assert!(wait > Duration::ZERO && wait <= SECOND, "{wait:?}");
                now += wait;
            }
            begun.push(now);
        }
        begun
    }

    fn check(rate: u32, begun: &[Duration]) {
        let mut first = 0;
        for (index, at) in begun.iter().enumerate() {
            while *at - begun[first] >= SECOND {
                first += 1;
            }
            let within = index - first + 1;
            assert!(within <= 2 * rate as usize, "{within} in a second at {rate}");
        }
        let allowed = begun.last().unwrap().as_secs_f64() * f64::from(rate) + f64::from(rate);
        assert!(begun.len() as f64 <= allowed + 1e-6, "{} of {allowed} at {rate}", begun.len());
    }

    #[test]
    fn no_second_has_more_than_a_bucket_and_its_refill_whatever_comes() {
        let mut seed = 1;
        for round in 0..300 {
            let rate = 1 + (random(&mut seed) % [3, 40, 10_000][round % 3]) as u32;
            // Crowds, pauses, and a steady stream near the rate.
            let mean = Duration::from_secs(1) / rate;
            let asks = (0..3000).map(|_| match random(&mut seed) % 100 {
                0 => SECOND * (random(&mut seed) % 4) as u32,
                1..=60 => Duration::ZERO,
                _ => mean * (random(&mut seed) % 300) as u32 / 100,
            });
            check(rate, &begin(rate, asks));
        }
    }

    #[test]
    fn who_always_waits_gets_the_rate_and_a_bucket_at_first() {
        for rate in [1, 3, 7, 1000, 10_000] {
            let begun = begin(rate, std::iter::repeat_n(Duration::ZERO, 11 * rate as usize));
            let took = begun.last().unwrap().as_secs_f64();
            assert!((took - 10.0).abs() < 0.01, "{took} s at {rate}");
            assert_eq!(begun.iter().filter(|at| **at == Duration::ZERO).count(), rate as usize);
        }
    }
}
