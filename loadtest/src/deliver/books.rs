//! What the receiver of a run looks at: signatures, ids, samples, order, time.
//!
//! Every n-th signature is verified, since verifying all of them takes as long as
//! the server's signing, from the same cores. Everything else is looked at in every
//! delivery, by searches near the body's beginning.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::UNIX_EPOCH;

use bytes::Bytes;
use memchr::memmem::Finder;
use parking_lot::Mutex;
use xxhash_rust::xxh3::xxh3_64;

use super::load::NUMBER;
use super::receipts::Receipts;
use crate::histogram::Histogram;
use crate::receiver::{Ids, Scan, Sighting};
use crate::signature::Key;
use crate::sink::{Delivery, Take};

/// Kept for the limit loop: enough that it signs other bytes each time.
const BODIES_KEPT: usize = 64;
const BODIES_KEPT_BYTES_MAX: usize = 16 * 1_024 * 1_024;
/// Where a body's number, user and ordering stand.
const HEAD_BYTES_MAX: usize = 2_048;
const ORDER_SHARDS: usize = 16;
const OK: u16 = 200;
const UNAUTHORIZED: u16 = 401;

/// How a body is recognised.
#[derive(Debug)]
pub(crate) enum Content {
    /// Published events: their numbers, and how many users there are.
    Events {
        /// Where receipts are written down.
        receipts: Arc<Receipts>,
        /// A number's user is its remainder.
        users: u64,
        /// Whose events are timed.
        timed: Timed,
    },
    /// Events of samples: user and ordering.
    Series {
        /// From commit to receipt.
        latency: Mutex<Latencies>,
    },
    /// Nothing but ids and signatures.
    Bare,
}

/// Which users' events are timed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Timed {
    /// Those below this number ..
    pub(crate) users: u64,
    /// .. without so many of each hundred, spread evenly.
    pub(crate) without_percent: u64,
}

/// Of a whole run, and since they were last taken.
#[derive(Debug, Default)]
pub(crate) struct Latencies {
    pub(crate) whole: Histogram,
    pub(crate) recent: Histogram,
}

/// The books of one receiver.
#[derive(Debug)]
pub(crate) struct Books {
    key: Key,
    /// The signature of every so many deliveries is verified.
    verify_every: u64,
    content: Content,
    ids: Ids,
    scan: Scan,
    number: Finder<'static>,
    user: Finder<'static>,
    counters: Counters,
    /// By user and series: the last place in their order.
    order: [Mutex<HashMap<u64, u64>>; ORDER_SHARDS],
    kept: Mutex<Vec<Bytes>>,
}

#[derive(Debug, Default)]
struct Counters {
    requests: AtomicU64,
    bytes: AtomicU64,
    events: AtomicU64,
    samples: AtomicU64,
    verified: AtomicU64,
    refused: AtomicU64,
    duplicates: AtomicU64,
    bodies_changed: AtomicU64,
    ids_unkept: AtomicU64,
    unnamed: AtomicU64,
    strange: AtomicU64,
    disordered: AtomicU64,
}

/// What a receiver counted up to one moment.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counted {
    /// Deliveries, all of them.
    pub requests: u64,
    /// Bytes of their bodies.
    pub bytes: u64,
    /// Events, each once.
    pub events: u64,
    /// Samples in them.
    pub samples: u64,
    /// Deliveries whose signature was verified.
    pub verified: u64,
    /// Deliveries whose signature was verified and is wrong; answered 401.
    pub refused: u64,
    /// Events that came again.
    pub duplicates: u64,
    /// Events that came again with other bytes.
    pub bodies_changed: u64,
    /// Events beyond the ids that are remembered: their repeats are not known.
    pub ids_unkept: u64,
    /// Deliveries without an id.
    pub unnamed: u64,
    /// Bodies that nobody in this run caused.
    pub strange: u64,
    /// Events that came behind a later one of the same user and series.
    pub disordered: u64,
}

impl Timed {
    /// Everybody's.
    pub(crate) const ALL: Self = Self { users: u64::MAX, without_percent: 0 };

    /// Whether this user's events are.
    pub(crate) fn has(self, user: u64) -> bool {
        let percent = self.without_percent;
        user < self.users && (user % 100 + 1) * percent / 100 == user % 100 * percent / 100
    }
}

impl Books {
    pub(crate) fn new(key: Key, verify_every: u64, content: Content, remember_ids: usize) -> Self {
        Self {
            key,
            verify_every: verify_every.max(1),
            content,
            ids: Ids::new(remember_ids),
            scan: Scan::new(),
            number: Finder::new(NUMBER),
            user: Finder::new(b"\"user_id\":\""),
            counters: Counters::default(),
            order: Default::default(),
            kept: Mutex::default(),
        }
    }

    pub(crate) fn counted(&self) -> Counted {
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        let counters = &self.counters;
        Counted {
            requests: read(&counters.requests),
            bytes: read(&counters.bytes),
            events: read(&counters.events),
            samples: read(&counters.samples),
            verified: read(&counters.verified),
            refused: read(&counters.refused),
            duplicates: read(&counters.duplicates),
            bodies_changed: read(&counters.bodies_changed),
            ids_unkept: read(&counters.ids_unkept),
            unnamed: read(&counters.unnamed),
            strange: read(&counters.strange),
            disordered: read(&counters.disordered),
        }
    }

    /// Of everything so far, from acknowledgement (events) or commit (series).
    pub(crate) fn latency(&self) -> Histogram {
        match &self.content {
            Content::Events { receipts, .. } => receipts.latency(),
            Content::Series { latency } => latency.lock().whole.clone(),
            Content::Bare => Histogram::new(),
        }
    }

    /// Of what came since the last call.
    pub(crate) fn take_latency(&self) -> Histogram {
        match &self.content {
            Content::Events { receipts, .. } => receipts.take_latency(),
            Content::Series { latency } => std::mem::take(&mut latency.lock().recent),
            Content::Bare => Histogram::new(),
        }
    }

    /// Where receipts of events are written down.
    pub(crate) fn receipts(&self) -> Option<Arc<Receipts>> {
        match &self.content {
            Content::Events { receipts, .. } => Some(Arc::clone(receipts)),
            Content::Series { .. } | Content::Bare => None,
        }
    }

    /// What is missing of so many acknowledged events, and what came beyond them: events,
    /// or of requests with samples these.
    pub(crate) fn open(&self, acknowledged: u64, samples_a_request: u64) -> (u64, u64) {
        match &self.content {
            Content::Events { receipts, .. } => {
                let progress = receipts.progress(|_| true);
                (progress.missing, progress.unasked)
            }
            Content::Series { .. } | Content::Bare => {
                let (wanted, found) = (acknowledged * samples_a_request, self.counted().samples);
                (wanted.saturating_sub(found), found.saturating_sub(wanted))
            }
        }
    }

    /// Bodies as they came, a few of the first.
    pub(crate) fn bodies(&self) -> Vec<Bytes> {
        self.kept.lock().clone()
    }

    /// Whether it is to be looked into, and was signed with the secret.
    fn is_genuine(&self, delivery: &Delivery<'_>, place: u64) -> bool {
        if !place.is_multiple_of(self.verify_every) {
            return true;
        }
        let genuine = self.key.verify(&delivery.headers(), delivery.body, delivery.at).is_ok();
        add(if genuine { &self.counters.verified } else { &self.counters.refused }, 1);
        genuine
    }

    /// Counts an event, unless it was counted before.
    fn enter(&self, delivery: &Delivery<'_>) {
        let counters = &self.counters;
        let Some(id) = delivery.header("webhook-id") else {
            add(&counters.unnamed, 1);
            return;
        };
        let path = xxh3_64(delivery.path.as_bytes());
        match self.ids.note(path, id.as_bytes(), delivery.body, true) {
            Sighting::First => {}
            Sighting::Unkept => add(&counters.ids_unkept, 1),
            Sighting::Again { same_body, .. } => {
                add(&counters.duplicates, 1);
                add(&counters.bodies_changed, u64::from(!same_body));
                return;
            }
        }
        add(&counters.events, 1);
        match &self.content {
            Content::Events { receipts, users, timed } => {
                self.enter_event(delivery.body, path, receipts, *users, *timed);
            }
            Content::Series { latency } => self.enter_series(delivery, path, latency),
            Content::Bare => {}
        }
    }

    fn enter_event(&self, body: &[u8], path: u64, receipts: &Receipts, users: u64, timed: Timed) {
        let Some(number) = number_after(&self.number, body) else {
            add(&self.counters.strange, 1);
            return;
        };
        let user = number % users;
        if !receipts.received(number, timed.has(user)) {
            // Another id, and yet this event.
            add(&self.counters.duplicates, 1);
        }
        self.enter_order(path ^ user, number);
    }

    fn enter_series(&self, delivery: &Delivery<'_>, path: u64, latency: &Mutex<Latencies>) {
        let body = delivery.body;
        let (Some(ordering), Some(user)) = (self.scan.ordering(body), text_after(&self.user, body)) else {
            add(&self.counters.strange, 1);
            return;
        };
        add(&self.counters.samples, self.scan.samples(body));
        let now = delivery.at.duration_since(UNIX_EPOCH).unwrap_or_default().as_micros() as u64;
        {
            let mut latency = latency.lock();
            latency.whole.record_micros(now.saturating_sub(ordering));
            latency.recent.record_micros(now.saturating_sub(ordering));
        }
        self.enter_order(path ^ xxh3_64(user), ordering);
    }

    /// Notes a place in the order of a key.
    fn enter_order(&self, key: u64, place: u64) {
        let mut last = self.order[key as usize % ORDER_SHARDS].lock();
        let last = last.entry(key).or_insert(place);
        if *last > place {
            add(&self.counters.disordered, 1);
        } else {
            *last = place;
        }
    }

    fn keep(&self, body: &[u8], place: u64) {
        if place >= BODIES_KEPT as u64 {
            return;
        }
        let mut kept = self.kept.lock();
        if kept.iter().map(Bytes::len).sum::<usize>() + body.len() <= BODIES_KEPT_BYTES_MAX {
            kept.push(Bytes::copy_from_slice(body));
        }
    }
}

impl Take for Books {
    fn take(&self, delivery: &Delivery<'_>) -> u16 {
        let place = self.counters.requests.fetch_add(1, Ordering::Relaxed);
        add(&self.counters.bytes, delivery.body.len() as u64);
        if !self.is_genuine(delivery, place) {
            return UNAUTHORIZED;
        }
        self.enter(delivery);
        self.keep(delivery.body, place);
        OK
    }
}

impl Counted {
    /// What was counted after `earlier`.
    pub(crate) fn since(&self, earlier: &Self) -> Self {
        Self {
            requests: self.requests - earlier.requests,
            bytes: self.bytes - earlier.bytes,
            events: self.events - earlier.events,
            samples: self.samples - earlier.samples,
            verified: self.verified - earlier.verified,
            refused: self.refused - earlier.refused,
            duplicates: self.duplicates - earlier.duplicates,
            bodies_changed: self.bodies_changed - earlier.bodies_changed,
            ids_unkept: self.ids_unkept - earlier.ids_unkept,
            unnamed: self.unnamed - earlier.unnamed,
            strange: self.strange - earlier.strange,
            disordered: self.disordered - earlier.disordered,
        }
    }

    /// Whether as much came as so many acknowledged events, or requests with samples, cause.
    pub(crate) fn reaches(&self, acknowledged: u64, samples_a_request: u64) -> bool {
        match samples_a_request {
            0 => self.events >= acknowledged,
            samples => self.samples >= acknowledged * samples,
        }
    }

    /// What must not be, and what it means.
    pub(crate) fn faults(&self) -> [(u64, &'static str); 7] {
        [
            (self.refused, "deliveries whose signature is wrong"),
            (self.duplicates, "events delivered again"),
            (self.bodies_changed, "events delivered again with other bytes"),
            (self.ids_unkept, "events beyond the ids that are remembered: duplicates would not show"),
            (self.unnamed, "deliveries without an id"),
            (self.strange, "deliveries of something that this run did not send"),
            (self.disordered, "events behind a later one of the same user and series"),
        ]
    }
}

/// The number behind `needle` near the beginning of a body.
pub(crate) fn number_after(needle: &Finder<'_>, body: &[u8]) -> Option<u64> {
    let head = &body[..body.len().min(HEAD_BYTES_MAX)];
    let value = &head[needle.find(head)? + needle.needle().len()..];
    let digits = value.iter().take_while(|byte| byte.is_ascii_digit()).count();
    str::from_utf8(&value[..digits]).ok()?.parse().ok()
}

/// The text behind `needle`, up to its quote.
fn text_after<'a>(needle: &Finder<'_>, body: &'a [u8]) -> Option<&'a [u8]> {
    let head = &body[..body.len().min(HEAD_BYTES_MAX)];
    let value = &head[needle.find(head)? + needle.needle().len()..];
    Some(&value[..value.iter().position(|byte| *byte == b'"')?])
}

fn add(counter: &AtomicU64, more: u64) {
    counter.fetch_add(more, Ordering::Relaxed);
}
