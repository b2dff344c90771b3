//! A map in parts: a copy shares all of them, and a change of the copy copies only the part
//! it falls into.
//!
//! Constraints: up to [`WHOLE_MAX`] entries are one part, more are [`PARTS`], and stay so. A
//! change of a map that shares nothing copies nothing, so many can be put in one by one.

use std::borrow::Borrow;
use std::hash::Hash;
use std::sync::Arc;

use hashbrown::HashMap;
use hashbrown::hash_map::Entry;
use xxhash_rust::xxh3::xxh3_64;

/// Parts of a map that has many entries.
const PARTS: usize = 256;
/// Entries of a map that is one part: about as many as there are parts to share otherwise.
const WHOLE_MAX: usize = 256;

/// A map whose copies share what is equal in them.
#[derive(Clone, Debug, Default)]
pub(super) struct Shards<K, V> {
    /// None before the first entry, then one, then [`PARTS`] by a hash of the key.
    parts: Vec<Arc<HashMap<K, V>>>,
    len: usize,
}

impl<K, V> Shards<K, V>
where
    K: Hash + Eq + Clone + AsRef<[u8]>,
    V: Clone + Default,
{
    pub(super) fn is_empty(&self) -> bool {
        self.len == 0
    }

    pub(super) fn get<Q>(&self, key: &Q) -> Option<&V>
    where
        K: Borrow<Q>,
        Q: Hash + Eq + AsRef<[u8]> + ?Sized,
    {
        self.parts.get(self.place(key.as_ref()))?.get(key)
    }

    pub(super) fn values(&self) -> impl Iterator<Item = &V> {
        self.parts.iter().flat_map(|part| part.values())
    }

    /// The value of a key, made if it is new.
    pub(super) fn or_default(&mut self, key: K) -> &mut V {
        match self.parts.len() {
            0 => self.parts.push(Arc::default()),
            1 if self.len >= WHOLE_MAX => self.split(),
            _ => {}
        }
        let place = self.place(key.as_ref());
        match Arc::make_mut(&mut self.parts[place]).entry(key) {
            Entry::Occupied(known) => known.into_mut(),
            Entry::Vacant(free) => {
                self.len += 1;
                free.insert(V::default())
            }
        }
    }

    /// Keeps the entries of which `keep`, which may change them, says so. It is asked only in
    /// parts that hold one that `stays` does not hold of.
    pub(super) fn retain(&mut self, stays: impl Fn(&V) -> bool, mut keep: impl FnMut(&mut V) -> bool) {
        for part in self.parts.iter_mut().filter(|part| !part.values().all(&stays)) {
            let part = Arc::make_mut(part);
            let before = part.len();
            part.retain(|_, value| keep(value));
            self.len -= before - part.len();
        }
    }

    fn split(&mut self) {
        let whole = self.parts.pop().map(Arc::unwrap_or_clone).unwrap_or_default();
        // One empty part for all, until something comes into them.
        self.parts = vec![Arc::default(); PARTS];
        for (key, value) in whole {
            let place = self.place(key.as_ref());
            Arc::make_mut(&mut self.parts[place]).insert(key, value);
        }
    }

    fn place(&self, key: &[u8]) -> usize {
        if self.parts.len() < PARTS { 0 } else { xxh3_64(key) as usize % PARTS }
    }

    /// How many entries lie in parts that `other` does not share.
    #[cfg(test)]
    pub(super) fn unshared(&self, other: &Shards<K, V>) -> usize {
        let shared =
            |place: usize| other.parts.get(place).is_some_and(|part| Arc::ptr_eq(part, &self.parts[place]));
        (0..self.parts.len()).filter(|&place| !shared(place)).map(|place| self.parts[place].len()).sum()
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use super::*;

    thread_local! {
        static COPIES: Cell<usize> = const { Cell::new(0) };
    }

    /// Counts its copies.
    #[derive(Debug, Default, PartialEq)]
    struct Counted(usize);

    impl Clone for Counted {
        fn clone(&self) -> Counted {
            COPIES.set(COPIES.get() + 1);
            Counted(self.0)
        }
    }

    fn filled(entries: usize) -> Shards<String, Counted> {
        let mut map: Shards<String, Counted> = Shards::default();
        for entry in 0..entries {
            map.or_default(format!("key {entry}")).0 = entry;
        }
        map
    }

    #[test]
    fn entries_are_found_whatever_their_number() {
        for entries in [0, 1, WHOLE_MAX, WHOLE_MAX + 1, 10_000] {
            let map = filled(entries);
            assert_eq!((map.len, map.is_empty(), map.values().count()), (entries, entries == 0, entries));
            assert!((0..entries).all(|entry| map.get(&*format!("key {entry}")) == Some(&Counted(entry))));
            assert_eq!(map.get("key"), None);
        }
    }

    #[test]
    fn what_shares_nothing_copies_nothing_and_one_more_entry_copies_one_part() {
        COPIES.set(0);
        let mut map = filled(10_000);
        assert_eq!(COPIES.get(), 0);
        for entry in 0..10_000 {
            let before = map.clone();
            map.or_default(format!("more {entry}"));
            assert!(before.len < map.len && map.unshared(&before) < 200, "{entry}");
        }
        // A whole map each time would be 150 million.
        assert!(COPIES.get() < 1_000_000, "{}", COPIES.get());
    }

    #[test]
    fn only_parts_that_lose_something_are_copied() {
        let map = filled(10_000);
        let mut less = map.clone();
        COPIES.set(0);
        less.retain(|value| value.0 != 7, |value| value.0 != 7);
        assert_eq!((less.len, less.get("key 7")), (9_999, None));
        assert!(COPIES.get() < 200 && less.unshared(&map) < 200, "{}", COPIES.get());
        assert_eq!(map.get("key 7"), Some(&Counted(7)));
        less.retain(|_| false, |_| false);
        assert!(less.is_empty() && less.values().next().is_none());
    }
}
