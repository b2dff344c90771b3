//! Which event ids a path has seen, and with which body: the proof of "a stable
//! id and the same bytes at every attempt".
//!
//! An id is kept as 128 bits of its hash and its body as 63: 33 bytes in a table
//! that is between 7/16 and 7/8 full, 38 to 75 bytes each. Beyond the maximum a new
//! id is not kept: it still counts as seen once, but its repeats are not
//! recognised, and the receiver says how many those are.
//!
//! Sixteen shards, so that threads rarely wait for each other and a table that
//! grows stops one in sixteen.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::sync::atomic::{AtomicUsize, Ordering};

use parking_lot::Mutex;
use xxhash_rust::xxh3::{xxh3_64, xxh3_128_with_seed};

const SHARDS: usize = 16;

/// Ids of all paths of a receiver.
#[derive(Debug)]
pub(crate) struct Ids {
    ids_max: usize,
    kept: AtomicUsize,
    shards: [Mutex<HashMap<u128, Remembered>>; SHARDS],
}

#[derive(Debug, Clone, Copy)]
struct Remembered {
    /// Whether an attempt was taken: 1 bit. The rest is the hash of the first body.
    packed: u64,
}

/// What is known of an event that arrives.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Sighting {
    /// Never seen.
    First,
    /// Never seen, and there is no room to remember it.
    Unkept,
    /// Seen before.
    Again {
        /// An earlier attempt was answered with 2xx.
        taken: bool,
        /// Its body was this one, byte for byte.
        same_body: bool,
    },
}

impl Ids {
    pub(crate) fn new(ids_max: usize) -> Self {
        Self { ids_max, kept: AtomicUsize::new(0), shards: Default::default() }
    }

    /// Notes an attempt at `id` on a path, and whether it is `taken`.
    pub(crate) fn note(&self, path_seed: u64, id: &[u8], body: &[u8], taken: bool) -> Sighting {
        let key = xxh3_128_with_seed(id, path_seed);
        let now = Remembered::new(body, taken);
        let mut shard = self.shards[key as usize % SHARDS].lock();
        match shard.entry(key) {
            Entry::Occupied(mut entry) => {
                let before = *entry.get();
                entry.get_mut().packed |= u64::from(taken);
                Sighting::Again { taken: before.taken(), same_body: before.same_body(now) }
            }
            Entry::Vacant(_) if self.kept.load(Ordering::Relaxed) >= self.ids_max => Sighting::Unkept,
            Entry::Vacant(entry) => {
                entry.insert(now);
                self.kept.fetch_add(1, Ordering::Relaxed);
                Sighting::First
            }
        }
    }
}

impl Remembered {
    fn new(body: &[u8], taken: bool) -> Self {
        Self { packed: xxh3_64(body) & !1 | u64::from(taken) }
    }

    fn taken(self) -> bool {
        self.packed & 1 == 1
    }

    fn same_body(self, other: Self) -> bool {
        self.packed | 1 == other.packed | 1
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_is_first_once_for_each_path() {
        let ids = Ids::new(100);
        assert_eq!(ids.note(1, b"evt_1", b"a", true), Sighting::First);
        assert_eq!(ids.note(2, b"evt_1", b"a", true), Sighting::First);
        assert_eq!(ids.note(1, b"evt_2", b"a", true), Sighting::First);
        let again = Sighting::Again { taken: true, same_body: true };
        assert_eq!(ids.note(1, b"evt_1", b"a", true), again);
    }

    #[test]
    fn attempts_that_were_turned_away_are_no_taking() {
        let ids = Ids::new(100);
        assert_eq!(ids.note(1, b"evt_1", b"a", false), Sighting::First);
        for taken in [false, true] {
            let again = Sighting::Again { taken: false, same_body: true };
            assert_eq!(ids.note(1, b"evt_1", b"a", taken), again);
        }
        let other = Sighting::Again { taken: true, same_body: false };
        assert_eq!(ids.note(1, b"evt_1", b"b", true), other);
    }

    #[test]
    fn beyond_the_maximum_new_ids_are_not_kept_and_old_ones_still_known() {
        let ids = Ids::new(2);
        for id in [b"1", b"2"] {
            assert_eq!(ids.note(0, id, b"", true), Sighting::First);
        }
        for _ in 0..2 {
            assert_eq!(ids.note(0, b"3", b"", true), Sighting::Unkept);
        }
        assert!(matches!(ids.note(0, b"1", b"", true), Sighting::Again { .. }));
    }
}
