//! What arrived, whole: every id with its bytes, every number and every sample.
//!
//! Unlike the books of a run for speed it forgets nothing and parses everything:
//! each event id with the hash of its body, each published number with its id, and of
//! each sample whether it came and with which value.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::sync::atomic::{AtomicU64, Ordering};

use parking_lot::Mutex;
use serde::Deserialize;
use xxhash_rust::xxh3::xxh3_128;

use super::plan::{Plan, SampleKey};
use crate::signature::Key;
use crate::sink::{Delivery, Take};

const OK: u16 = 200;
const UNAUTHORIZED: u16 = 401;
const FAILED: u16 = 500;

/// Everything that was received.
#[derive(Debug)]
pub(super) struct Books {
    key: Key,
    plan: Plan,
    /// Of this many events the first attempt is answered 500; 0 for none.
    fail_every: u64,
    /// One lock: the books must be right, not fast.
    pages: Mutex<Pages>,
    /// Events and samples that came for the first time, to look at while it runs.
    events: AtomicU64,
    samples: AtomicU64,
}

#[derive(Debug, Default)]
struct Pages {
    /// By event id.
    ids: HashMap<String, Page>,
    /// By published number: the id it first came under.
    numbers: HashMap<u64, String>,
    /// By writer, then by the sample's place: 0 never came, 1 came right, 2 came wrong.
    samples: Vec<Vec<u8>>,
    counts: Received,
}

/// What is known of one id.
#[derive(Debug, Clone, Copy)]
struct Page {
    /// Of the first body that came under it.
    hash: u128,
    /// Whether it was answered 200.
    taken: bool,
    /// The published number in it.
    number: Option<u64>,
}

/// What was counted of it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Received {
    /// Deliveries, all of them.
    pub deliveries: u64,
    /// Ids that were answered 200.
    pub ids: u64,
    /// Deliveries of an id that had been answered 200, with the same bytes.
    pub again: u64,
    /// First attempts that were answered 500 on purpose.
    pub failed: u64,
    /// Deliveries of an id with other bytes than before.
    pub changed: u64,
    /// Published numbers that came under a second id.
    pub twice: u64,
    /// Samples that came in a second event.
    pub samples_twice: u64,
    /// Samples whose value is not the one that was sent.
    pub wrong: u64,
    /// Deliveries whose signature is wrong.
    pub refused: u64,
    /// Bodies that this run did not cause.
    pub strange: u64,
}

#[derive(Deserialize)]
struct Body {
    data: Data,
}

#[derive(Deserialize)]
struct Data {
    number: Option<u64>,
    user_id: Option<String>,
    #[serde(default)]
    samples: Vec<Sample>,
}

#[derive(Deserialize)]
struct Sample {
    timestamp: String,
    value: f64,
}

impl Books {
    pub(super) fn new(key: Key, plan: Plan, fail_every: u64) -> Self {
        let pages = Pages { samples: vec![Vec::new(); plan.writers as usize], ..Pages::default() };
        let (events, samples) = (AtomicU64::new(0), AtomicU64::new(0));
        Self { key, plan, fail_every, pages: Mutex::new(pages), events, samples }
    }

    /// Published events and samples that came so far, each once.
    pub(super) fn arrived(&self) -> (u64, u64) {
        (self.events.load(Ordering::Relaxed), self.samples.load(Ordering::Relaxed))
    }

    pub(super) fn received(&self) -> Received {
        self.pages.lock().counts
    }

    /// Whether a published number came, under this id; it may have come under another
    /// before, which is a fault of its own.
    pub(super) fn has_event(&self, number: u64, id: &str) -> bool {
        let pages = self.pages.lock();
        pages.ids.get(id).is_some_and(|page| page.taken && page.number == Some(number))
    }

    /// How many of a writer's first samples did not come.
    pub(super) fn samples_missing(&self, writer: u64, acknowledged: u64) -> u64 {
        let pages = self.pages.lock();
        let came = pages.samples[writer as usize].iter().take(acknowledged as usize);
        acknowledged - came.filter(|state| **state > 0).count() as u64
    }

    /// Enters a body that came for the first time; the number in it.
    fn enter(&self, pages: &mut Pages, id: &str, body: &[u8]) -> Result<Option<u64>, serde_json::Error> {
        let Body { data } = serde_json::from_slice(body)?;
        if let Some(number) = data.number {
            match pages.numbers.entry(number) {
                Entry::Vacant(page) => {
                    page.insert(id.to_owned());
                    self.events.fetch_add(1, Ordering::Relaxed);
                }
                Entry::Occupied(page) => pages.counts.twice += u64::from(page.get() != id),
            }
            return Ok(data.number);
        }
        let user_id = data.user_id.unwrap_or_default();
        for Sample { timestamp, value } in data.samples {
            let Some(SampleKey { writer, place }) = self.plan.sample_of(&user_id, &timestamp) else {
                pages.counts.strange += 1;
                continue;
            };
            let right = value.to_bits() == self.plan.value(writer, place).to_bits();
            let states = &mut pages.samples[writer as usize];
            if states.len() <= place as usize {
                states.resize(place as usize + 1, 0);
            }
            let state = &mut states[place as usize];
            if *state == 0 {
                self.samples.fetch_add(1, Ordering::Relaxed);
            }
            pages.counts.samples_twice += u64::from(*state > 0);
            pages.counts.wrong += u64::from(!right);
            *state = if right { 1 } else { 2 };
        }
        Ok(None)
    }
}

impl Take for Books {
    fn take(&self, delivery: &Delivery<'_>) -> u16 {
        let genuine = self.key.verify(&delivery.headers(), delivery.body, delivery.at).is_ok();
        let mut pages = self.pages.lock();
        pages.counts.deliveries += 1;
        let id = delivery.header("webhook-id").unwrap_or_default();
        if !genuine || id.is_empty() {
            pages.counts.refused += 1;
            return UNAUTHORIZED;
        }
        let hash = xxh3_128(delivery.body);
        match pages.ids.get(id).copied() {
            Some(before) => {
                pages.counts.changed += u64::from(before.hash != hash);
                if before.taken {
                    pages.counts.again += u64::from(before.hash == hash);
                    return OK;
                }
            }
            None => {
                let fails = self.fail_every > 0 && (hash as u64).is_multiple_of(self.fail_every);
                if fails {
                    pages.counts.failed += 1;
                    pages.ids.insert(id.to_owned(), Page { hash, taken: false, number: None });
                    return FAILED;
                }
            }
        }
        pages.counts.ids += 1;
        let entered = self.enter(&mut pages, id, delivery.body);
        pages.counts.strange += u64::from(entered.is_err());
        let number = entered.ok().flatten();
        pages.ids.insert(id.to_owned(), Page { hash, taken: true, number });
        OK
    }
}

impl Received {
    /// What must not be, and what it means.
    pub(super) fn faults(&self) -> [(u64, &'static str); 6] {
        [
            (self.changed, "deliveries of an id with other bytes than before"),
            (self.twice, "published events that came under a second id"),
            (self.samples_twice, "samples that came in a second event"),
            (self.wrong, "samples with another value than was sent"),
            (self.refused, "deliveries whose signature is wrong"),
            (self.strange, "deliveries of something that this run did not send"),
        ]
    }
}
