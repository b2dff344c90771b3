//! Counters that a terminal can read while a run goes on, where the run stands,
//! and which batches were acknowledged: a uniform sample of 4,096 of them, for the
//! probes to ask about.
//!
//! Written by every worker with relaxed atomics, a dozen additions per request;
//! a reader sees each counter exactly, but not all of them at one instant.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::watch;

use super::Phase;
use crate::histogram::Histogram;
use crate::random::{Random, spread};

/// 32 KB, and enough users that the probes do not ask about a warm few.
const WRITTEN_MAX: usize = 4_096;

/// The counters of one run.
#[derive(Debug)]
pub struct Live {
    requests_sent: AtomicU64,
    bytes_sent: AtomicU64,
    batches_acknowledged: AtomicU64,
    samples_acknowledged: AtomicU64,
    requests_put_off: AtomicU64,
    batches_rejected: AtomicU64,
    connections_lost: AtomicU64,
    probes_answered: AtomicU64,
    /// Of acknowledged batches, since they were last taken.
    latency: Mutex<Histogram>,
    /// Written by the run, waited for by who wants to act with it.
    phase: watch::Sender<Phase>,
    /// Numbers of acknowledged batches; once full, a new one takes the place of
    /// a random old one, with such odds that all are equally likely to be here.
    written: Box<[AtomicU64]>,
}

/// The counters at one moment.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct LiveCounts {
    /// Batches put on the wire, repeated ones again.
    pub requests_sent: u64,
    /// Bytes of their bodies.
    pub bytes_sent: u64,
    /// Batches answered with 200.
    pub batches_acknowledged: u64,
    /// Samples in them.
    pub samples_acknowledged: u64,
    /// Answers 429 and 503, after which the batch was sent again.
    pub requests_put_off: u64,
    /// Batches given up after any other status.
    pub batches_rejected: u64,
    /// Connections that ended while a request was in flight.
    pub connections_lost: u64,
    /// Probes answered with 200.
    pub probes_answered: u64,
}

impl Live {
    /// Counters at zero.
    pub fn new() -> Self {
        let zero = || AtomicU64::new(0);
        Self {
            requests_sent: zero(),
            bytes_sent: zero(),
            batches_acknowledged: zero(),
            samples_acknowledged: zero(),
            requests_put_off: zero(),
            batches_rejected: zero(),
            connections_lost: zero(),
            probes_answered: zero(),
            latency: Mutex::default(),
            phase: watch::Sender::default(),
            written: (0..WRITTEN_MAX).map(|_| zero()).collect(),
        }
    }

    /// The counters now.
    pub fn counts(&self) -> LiveCounts {
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        LiveCounts {
            requests_sent: read(&self.requests_sent),
            bytes_sent: read(&self.bytes_sent),
            batches_acknowledged: read(&self.batches_acknowledged),
            samples_acknowledged: read(&self.samples_acknowledged),
            requests_put_off: read(&self.requests_put_off),
            batches_rejected: read(&self.batches_rejected),
            connections_lost: read(&self.connections_lost),
            probes_answered: read(&self.probes_answered),
        }
    }

    /// From sending a batch to its 200, of all acknowledged since the last call.
    pub fn take_latency(&self) -> Histogram {
        std::mem::take(&mut self.latency.lock())
    }

    /// Where the run stands, from now on.
    pub fn phases(&self) -> watch::Receiver<Phase> {
        self.phase.subscribe()
    }

    pub(super) fn enter(&self, phase: Phase) {
        self.phase.send_replace(phase);
    }

    pub(super) fn sent(&self, bytes: usize) {
        add(&self.requests_sent, 1);
        add(&self.bytes_sent, bytes as u64);
    }

    pub(super) fn acknowledged(&self, batch: u64, samples: u64, latency: Duration) {
        self.latency.lock().record(latency);
        add(&self.samples_acknowledged, samples);
        let earlier = self.batches_acknowledged.load(Ordering::Relaxed);
        let draw = spread(batch) % (earlier + 1);
        let place = if earlier < WRITTEN_MAX as u64 { earlier } else { draw };
        if let Some(slot) = self.written.get(place as usize) {
            // One more than the number, as zero means empty.
            slot.store(batch + 1, Ordering::Relaxed);
        }
        add(&self.batches_acknowledged, 1);
    }

    pub(super) fn put_off(&self) {
        add(&self.requests_put_off, 1);
    }

    pub(super) fn rejected(&self) {
        add(&self.batches_rejected, 1);
    }

    pub(super) fn lost(&self) {
        add(&self.connections_lost, 1);
    }

    pub(super) fn probed(&self) {
        add(&self.probes_answered, 1);
    }

    /// A random one of the batches acknowledged so far.
    pub(crate) fn written_batch(&self, random: &mut Random) -> Option<u64> {
        let filled = self.batches_acknowledged.load(Ordering::Relaxed);
        let bound = filled.min(WRITTEN_MAX as u64);
        if bound == 0 {
            return None;
        }
        let slot = &self.written[random.below(bound) as usize];
        slot.load(Ordering::Relaxed).checked_sub(1)
    }
}

impl Default for Live {
    fn default() -> Self {
        Self::new()
    }
}

fn add(counter: &AtomicU64, more: u64) {
    counter.fetch_add(more, Ordering::Relaxed);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_acknowledged_batches_are_probed() {
        let live = Live::new();
        let mut random = Random::seeded(3);
        assert_eq!(live.written_batch(&mut random), None);
        for batch in (0..40).step_by(2) {
            live.acknowledged(batch, 500, Duration::ZERO);
        }
        for _ in 0..200 {
            let batch = live.written_batch(&mut random).expect("a written batch");
            assert!(batch < 40 && batch.is_multiple_of(2));
        }
        assert_eq!(live.counts().samples_acknowledged, 10_000);
    }

    #[test]
    fn batches_of_the_whole_run_stay_equally_likely_to_be_probed() {
        let live = Live::new();
        for batch in 0..100_000 {
            live.acknowledged(batch, 1, Duration::ZERO);
        }
        let mut random = Random::seeded(4);
        let mut tenths = [0_u32; 10];
        for _ in 0..10_000 {
            let batch = live.written_batch(&mut random).expect("a written batch");
            tenths[(batch / 10_000) as usize] += 1;
        }
        assert!(tenths.iter().all(|n| (700..1_300).contains(n)), "{tenths:?}");
    }
}
