//! A map whose versions share what they have in common.
//!
//! A change makes a new version and copies one path: a leaf of at most 16 entries and
//! a branch of 16 links a level, so among a million entries about a hundred words.
//! Readers keep the version they have; nothing they see moves.
//!
//! ```text
//! hash   63..60        59..56        55..52
//!        branch of 16  branch of 16  leaf of up to 16 entries
//! ```
//!
//! It is not for maps that one owner changes and reads alone: those are faster.

use std::borrow::Borrow;
use std::hash::{Hash, Hasher as _};
use std::sync::Arc;

use xxhash_rust::xxh3::Xxh3;

/// Links of a branch: four bits of the hash.
const FAN_OUT: usize = 16;
const LEVEL_BITS: u32 = 4;
/// Entries of a leaf before it becomes a branch, unless the hash is used up.
const LEAF_MAX: usize = 16;
/// A branch with no more entries than this becomes a leaf again. Half, so that no
/// entry that comes and goes makes it change each time.
const MERGE_MAX: usize = LEAF_MAX / 2;

/// A version of the map.
#[derive(Clone, Debug)]
pub struct Trie<K, V> {
    root: Node<K, V>,
    len: usize,
}

#[derive(Debug)]
enum Node<K, V> {
    Leaf(Arc<[(K, V)]>),
    Branch(Arc<[Node<K, V>; FAN_OUT]>),
}

impl<K, V> Clone for Node<K, V> {
    fn clone(&self) -> Node<K, V> {
        match self {
            Node::Leaf(entries) => Node::Leaf(entries.clone()),
            Node::Branch(children) => Node::Branch(children.clone()),
        }
    }
}

impl<K, V> Default for Node<K, V> {
    fn default() -> Node<K, V> {
        Node::Leaf(Arc::default())
    }
}

impl<K, V> Default for Trie<K, V> {
    fn default() -> Trie<K, V> {
        Trie { root: Node::default(), len: 0 }
    }
}

impl<K: Hash + Eq + Clone, V: Clone> Trie<K, V> {
    /// How many entries there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// The value of a key.
    #[must_use]
    pub fn get<Q: Hash + Eq + ?Sized>(&self, key: &Q) -> Option<&V>
    where
        K: Borrow<Q>,
    {
        let mut node = &self.root;
        let mut path = hash_of(key);
        loop {
            match node {
                Node::Leaf(entries) => {
                    return entries
                        .iter()
                        .find_map(|(known, value)| (known.borrow() == key).then_some(value));
                }
                Node::Branch(children) => node = &children[step(&mut path)],
            }
        }
    }

    /// The map with an entry added or replaced.
    #[must_use]
    pub fn with(&self, key: K, value: V) -> Trie<K, V> {
        let mut len = self.len;
        let root = self.root.with(hash_of(&key), 0, key, value, &mut len);
        Trie { root, len }
    }

    /// The map without an entry.
    #[must_use]
    pub fn without<Q: Hash + Eq + ?Sized>(&self, key: &Q) -> Trie<K, V>
    where
        K: Borrow<Q>,
    {
        match self.root.without(hash_of(key), key) {
            Some(root) => Trie { root, len: self.len - 1 },
            None => self.clone(),
        }
    }

    /// Calls `each` for all entries, in no order.
    pub fn for_each<'a>(&'a self, mut each: impl FnMut(&'a K, &'a V)) {
        self.root.for_each(&mut each);
    }
}

impl<K: Hash + Eq + Clone, V: Clone> Node<K, V> {
    fn with(&self, mut path: u64, depth: u32, key: K, value: V, len: &mut usize) -> Node<K, V> {
        match self {
            Node::Branch(children) => {
                let mut children = copy(children);
                let child = &mut children[step(&mut path)];
                *child = child.with(path, depth + 1, key, value, len);
                Node::Branch(Arc::new(children))
            }
            Node::Leaf(entries) => {
                note_copied(entries.len());
                let mut entries = entries.to_vec();
                match entries.iter_mut().find(|(known, _)| *known == key) {
                    Some(known) => known.1 = value,
                    None => {
                        entries.push((key, value));
                        *len += 1;
                    }
                }
                Node::of(entries, depth)
            }
        }
    }

    /// A node of entries that share the first `depth` steps of their paths.
    fn of(entries: Vec<(K, V)>, depth: u32) -> Node<K, V> {
        if entries.len() <= LEAF_MAX || depth * LEVEL_BITS >= u64::BITS {
            return Node::Leaf(entries.into());
        }
        note_copied(entries.len());
        let mut children: [Vec<(K, V)>; FAN_OUT] = Default::default();
        for entry in entries {
            let mut path = hash_of(&entry.0) << (depth * LEVEL_BITS);
            children[step(&mut path)].push(entry);
        }
        Node::Branch(Arc::new(children.map(|entries| Node::of(entries, depth + 1))))
    }

    /// The node without a key; `None` if it has none.
    fn without<Q: Eq + ?Sized>(&self, mut path: u64, key: &Q) -> Option<Node<K, V>>
    where
        K: Borrow<Q>,
    {
        match self {
            Node::Branch(children) => {
                let place = step(&mut path);
                let child = children[place].without(path, key)?;
                let mut children = copy(children);
                children[place] = child;
                Some(Node::merged(children))
            }
            Node::Leaf(entries) => {
                let place = entries.iter().position(|(known, _)| known.borrow() == key)?;
                note_copied(entries.len());
                let mut entries = entries.to_vec();
                entries.swap_remove(place);
                Some(Node::Leaf(entries.into()))
            }
        }
    }

    /// A branch of these, or a leaf if they hold little.
    fn merged(children: [Node<K, V>; FAN_OUT]) -> Node<K, V> {
        let count = children.iter().try_fold(0, |count, child| match child {
            Node::Leaf(entries) => Some(count + entries.len()),
            Node::Branch(_) => None,
        });
        if count.is_none_or(|count| count > MERGE_MAX) {
            return Node::Branch(Arc::new(children));
        }
        let leaves = children.iter().filter_map(|child| match child {
            Node::Leaf(entries) => Some(entries),
            Node::Branch(_) => None,
        });
        Node::Leaf(leaves.flat_map(|entries| entries.iter().cloned()).collect())
    }

    fn for_each<'a>(&'a self, each: &mut impl FnMut(&'a K, &'a V)) {
        match self {
            Node::Leaf(entries) => entries.iter().for_each(|(key, value)| each(key, value)),
            Node::Branch(children) => children.iter().for_each(|child| child.for_each(each)),
        }
    }
}

fn copy<K, V>(children: &Arc<[Node<K, V>; FAN_OUT]>) -> [Node<K, V>; FAN_OUT] {
    note_copied(FAN_OUT);
    <[Node<K, V>; FAN_OUT]>::clone(children)
}

/// The next link on a path.
fn step(path: &mut u64) -> usize {
    let link = *path >> (u64::BITS - LEVEL_BITS);
    *path <<= LEVEL_BITS;
    link as usize
}

fn hash_of<Q: Hash + ?Sized>(key: &Q) -> u64 {
    let mut hasher = Xxh3::new();
    key.hash(&mut hasher);
    hasher.finish()
}

#[cfg(not(test))]
fn note_copied(_: usize) {}

#[cfg(test)]
thread_local! {
    static COPIED: std::cell::Cell<usize> = const { std::cell::Cell::new(0) };
}

#[cfg(test)]
fn note_copied(entries: usize) {
    COPIED.with(|copied| copied.set(copied.get() + entries));
}

/// Entries and links that this thread copied so far.
#[cfg(test)]
pub(crate) fn copied() -> usize {
    COPIED.with(std::cell::Cell::get)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    /// Keys of which eight have the same hash.
    #[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
    struct Alike(u32);

    impl Hash for Alike {
        fn hash<H: std::hash::Hasher>(&self, state: &mut H) {
            (self.0 / 40).hash(state);
        }
    }

    fn entries<K: Hash + Eq + Clone + Ord>(trie: &Trie<K, u32>) -> BTreeMap<K, u32> {
        let mut all = BTreeMap::new();
        trie.for_each(|key, value| assert!(all.insert(key.clone(), *value).is_none()));
        all
    }

    fn compare_with_a_map<K: Hash + Eq + Clone + Ord + std::fmt::Debug>(key: impl Fn(u32) -> K) {
        let (mut trie, mut map, mut seed) = (Trie::default(), BTreeMap::new(), 1u32);
        for round in 0..20_000 {
            seed = seed.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            let name = key(seed >> 16 & 1023);
            // Grows and shrinks in turn.
            if seed >> 30 < if round / 4000 % 2 == 0 { 3 } else { 1 } {
                trie = trie.with(name.clone(), round);
                map.insert(name.clone(), round);
            } else {
                trie = trie.without(&name);
                map.remove(&name);
            }
            assert_eq!((trie.get(&name), trie.len()), (map.get(&name), map.len()), "{name:?}");
        }
        assert_eq!(entries(&trie), map);
        for name in map.keys() {
            trie = trie.without(name);
        }
        assert!(trie.is_empty() && matches!(trie.root, Node::Leaf(_)));
    }

    #[test]
    fn it_holds_what_an_ordinary_map_holds() {
        compare_with_a_map(|number| number.to_string());
    }

    #[test]
    fn keys_of_the_same_hash_are_told_apart() {
        compare_with_a_map(Alike);
    }

    #[test]
    fn a_version_stays_as_it_was() {
        let full = (0..500u32).fold(Trie::default(), |trie, key| trie.with(key, key));
        let before = entries(&full);
        let mut later = full.clone();
        for key in 0..500 {
            later = later.without(&key).with(key + 1000, 0);
        }
        assert_eq!(entries(&full), before);
        assert_eq!((full.len(), later.len()), (500, 500));
    }
}
