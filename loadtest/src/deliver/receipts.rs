//! When each published event was acknowledged and when it was received, by its
//! number: which are missing, and how long the others took.
//!
//! Either may come first: a server may deliver before its answer reached the
//! publisher, which counts as no time at all. One atomic an event: who comes first
//! leaves the time, who comes second takes it.
//!
//! ```text
//! 0 -- acknowledged --> time, tag 1 -- received ------> done, difference
//!  '-- received ------> timed, tag 2 - acknowledged --> done, 0 if it is timed
//! ```

use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use tokio::time::Instant;

use crate::histogram::Histogram;

const CHUNK: u64 = 65_536;
/// 268 million events, more than a run of hours publishes; a chunk takes 512 KiB
/// once it is used.
const CHUNKS: usize = 4_096;
const TAG_BITS: u32 = 2;
const ACKNOWLEDGED: u64 = 1;
const RECEIVED: u64 = 2;
const DONE: u64 = 3;
/// Of what was received first: how long that took counts.
const TIMED: u64 = 1;

/// Times of all events of a run. Written by publishers and receivers.
#[derive(Debug)]
pub(crate) struct Receipts {
    begin: Instant,
    chunks: Box<[OnceLock<Box<[AtomicU64]>>]>,
    latency: Mutex<Latency>,
}

#[derive(Debug, Default)]
struct Latency {
    whole: Histogram,
    /// Since it was last taken.
    recent: Histogram,
}

/// How far the events are.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Progress {
    /// Acknowledged and received.
    pub(crate) done: u64,
    /// Acknowledged only.
    pub(crate) missing: u64,
    /// Received only.
    pub(crate) unasked: u64,
}

impl Receipts {
    pub(crate) fn new() -> Self {
        let chunks = (0..CHUNKS).map(|_| OnceLock::new()).collect();
        Self { begin: Instant::now(), chunks, latency: Mutex::default() }
    }

    /// The publisher was told that the event is durable.
    pub(crate) fn acknowledged(&self, number: u64) {
        let now = self.micros();
        let Some(slot) = self.slot(number) else { return };
        match slot.compare_exchange(0, now << TAG_BITS | ACKNOWLEDGED, Ordering::SeqCst, Ordering::SeqCst) {
            Err(found) if found % (1 << TAG_BITS) == RECEIVED => {
                slot.store(DONE, Ordering::SeqCst);
                if found >> TAG_BITS == TIMED {
                    self.latency.lock().record(Duration::ZERO);
                }
            }
            _ => {}
        }
    }

    /// The receiver has it; `timed` counts how long that took. False if it had it before.
    pub(crate) fn received(&self, number: u64, timed: bool) -> bool {
        let now = self.micros();
        let Some(slot) = self.slot(number) else { return true };
        let first = if timed { TIMED << TAG_BITS | RECEIVED } else { RECEIVED };
        match slot.compare_exchange(0, first, Ordering::SeqCst, Ordering::SeqCst) {
            Ok(_) => true,
            Err(found) if found % (1 << TAG_BITS) == ACKNOWLEDGED => {
                slot.store(DONE, Ordering::SeqCst);
                if timed {
                    let since = found >> TAG_BITS;
                    self.latency.lock().record(Duration::from_micros(now.saturating_sub(since)));
                }
                true
            }
            Err(_) => false,
        }
    }

    /// How far the events are whose numbers `of` wants.
    pub(crate) fn progress(&self, of: impl Fn(u64) -> bool) -> Progress {
        let mut progress = Progress::default();
        for (place, chunk) in self.chunks.iter().enumerate() {
            for (offset, slot) in chunk.get().into_iter().flatten().enumerate() {
                let state = slot.load(Ordering::SeqCst) % (1 << TAG_BITS);
                if state == 0 || !of(place as u64 * CHUNK + offset as u64) {
                    continue;
                }
                match state {
                    ACKNOWLEDGED => progress.missing += 1,
                    RECEIVED => progress.unasked += 1,
                    _ => progress.done += 1,
                }
            }
        }
        progress
    }

    /// Of everything so far.
    pub(crate) fn latency(&self) -> Histogram {
        self.latency.lock().whole.clone()
    }

    /// Of what came since the last call.
    pub(crate) fn take_latency(&self) -> Histogram {
        std::mem::take(&mut self.latency.lock().recent)
    }

    fn micros(&self) -> u64 {
        self.begin.elapsed().as_micros() as u64
    }

    /// `None` for a number that no publisher of this run has.
    fn slot(&self, number: u64) -> Option<&AtomicU64> {
        let chunk = self.chunks.get((number / CHUNK) as usize)?;
        let chunk = chunk.get_or_init(|| (0..CHUNK).map(|_| AtomicU64::new(0)).collect());
        Some(&chunk[(number % CHUNK) as usize])
    }
}

impl Latency {
    fn record(&mut self, latency: Duration) {
        self.whole.record(latency);
        self.recent.record(latency);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_event_is_done_whichever_side_comes_first() {
        let receipts = Receipts::new();
        receipts.acknowledged(3);
        assert!(receipts.received(3, true));
        assert!(receipts.received(70_000, true));
        receipts.acknowledged(70_000);
        assert_eq!(receipts.progress(|_| true), Progress { done: 2, missing: 0, unasked: 0 });
        assert_eq!(receipts.latency().count(), 2);
        assert_eq!(receipts.take_latency().count(), 2);
        assert_eq!(receipts.take_latency().count(), 0);
    }

    #[test]
    fn what_is_missing_unasked_or_received_again_is_told() {
        let receipts = Receipts::new();
        receipts.acknowledged(1);
        assert!(receipts.received(2, true));
        assert!(!receipts.received(2, true));
        assert_eq!(receipts.progress(|_| true), Progress { done: 0, missing: 1, unasked: 1 });
        assert_eq!(receipts.progress(|number| number == 1).unasked, 0);
        assert!(receipts.received(1, false));
        assert!(!receipts.received(1, true));
        assert_eq!(receipts.progress(|_| true), Progress { done: 1, missing: 0, unasked: 1 });
        assert!(receipts.received(4, false));
        receipts.acknowledged(4);
        assert_eq!(receipts.latency().count(), 0, "they were not to be timed");
        assert!(receipts.received(u64::MAX, true), "no number of a run");
    }
}
