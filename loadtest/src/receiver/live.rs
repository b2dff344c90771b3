//! What a receiver counted, to read while it runs.
//!
//! Written with relaxed atomics, a few additions per request; a reader sees each
//! counter exactly, but not all of them at one instant.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use parking_lot::{Mutex, RwLock};

use super::route::Route;
use crate::histogram::Histogram;
use crate::tally::Tallies;

/// The counters of one receiver, and what its paths keep.
#[derive(Debug, Default)]
pub struct ReceiverLive {
    pub(super) counters: Counters,
    /// Latencies from commit to receipt.
    pub(super) latency: Mutex<Latency>,
    /// By path; added to by the receiver, never removed.
    pub(super) routes: RwLock<HashMap<String, Arc<Route>>>,
}

#[derive(Debug, Default)]
pub(super) struct Latency {
    whole: Histogram,
    /// Since they were last taken.
    recent: Histogram,
}

macro_rules! counters {
    ($($(#[$doc:meta])+ $name:ident,)+) => {
        #[derive(Debug, Default)]
        pub(super) struct Counters {
            $(pub(super) $name: AtomicU64,)+
        }

        /// What a receiver counted up to one moment.
        #[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
        pub struct ReceiverCounts {
            $($(#[$doc])+ pub $name: u64,)+
        }

        impl Counters {
            fn read(&self) -> ReceiverCounts {
                ReceiverCounts { $($name: self.$name.load(Ordering::Relaxed),)+ }
            }
        }
    };
}

counters! {
    /// POSTs whose body arrived whole.
    requests,
    /// Bytes of their bodies.
    bytes,
    /// With a good signature.
    verified,
    /// Refused: signed with another secret, or altered.
    refused_signature,
    /// Refused: signed more than 5 minutes away.
    refused_stale,
    /// Refused: without a header that the signature needs.
    refused_header,
    /// Refused: for a path without a secret.
    refused_path,
    /// Refused: body above the maximum.
    refused_size,
    /// Verified, but answered with a failure, as the path's behaviour wants.
    turned_away,
    /// Verified, and without an event id.
    unnamed,
    /// Events taken: verified, answered with 2xx, counted once for each path.
    events,
    /// Samples in them.
    samples,
    /// Events taken again.
    duplicates,
    /// Samples in those.
    samples_duplicate,
    /// Verified attempts at an event whose body was not that of its first attempt.
    bodies_changed,
    /// Events taken that could not be remembered: their repeats are not known.
    events_unkept,
    /// Bodies that are not JSON of a known shape; only where they are parsed.
    unreadable,
    /// Events whose `sample_count` is not their samples; only where they are parsed.
    sample_counts_wrong,
}

impl ReceiverCounts {
    /// All requests that were refused.
    pub fn refused(&self) -> u64 {
        self.refused_signature
            + self.refused_stale
            + self.refused_header
            + self.refused_path
            + self.refused_size
    }
}

impl ReceiverLive {
    /// The counters now.
    pub fn counts(&self) -> ReceiverCounts {
        self.counters.read()
    }

    /// From commit to receipt, of all events taken; empty unless switched on.
    pub fn latency(&self) -> Histogram {
        self.latency.lock().whole.clone()
    }

    /// The same, of the events taken since the last call.
    pub fn take_latency(&self) -> Histogram {
        std::mem::take(&mut self.latency.lock().recent)
    }

    /// Count and sum of the values of every series that a path was sent, by the
    /// `series_type` it was sent under; empty unless bodies are parsed.
    pub fn tallies(&self, path: &str) -> Tallies {
        let route = self.routes.read().get(path).cloned();
        route.map(|route| route.books.lock().tallies()).unwrap_or_default()
    }

    /// Events of which some chunks are missing, on all paths; 0 unless bodies are
    /// parsed.
    pub fn chunked_open(&self) -> u64 {
        self.routes.read().values().map(|route| route.books.lock().chunked_open()).sum()
    }
}

impl Latency {
    pub(super) fn record_micros(&mut self, micros: u64) {
        self.whole.record_micros(micros);
        self.recent.record_micros(micros);
    }
}

pub(super) fn add(counter: &AtomicU64, more: u64) {
    counter.fetch_add(more, Ordering::Relaxed);
}
