//! Which organisations have endpoints, and since when.
//!
//! One endpoint more or less costs a path through the map of organisations, however
//! many there are.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use arc_swap::ArcSwap;
use hashbrown::HashMap;
use parking_lot::Mutex;
use systole_dispatch::trie::Trie;
use systole_storage::Sequence;
use systole_storage::journal::Log;

/// Shared by the classifier, the router, the committer and the flush thread.
#[derive(Debug)]
pub(crate) struct Subscribed {
    log: Arc<Log>,
    /// The sequence behind which an organisation has an endpoint, active or not.
    orgs: ArcSwap<Trie<Arc<str>, u64>>,
    /// Held while the organisations change.
    starts: Mutex<Starts>,
    /// Everything up to this is classified.
    classified: AtomicU64,
    /// Frames up to this are needed by no lane.
    floor: AtomicU64,
}

impl Subscribed {
    pub(crate) fn new(log: Arc<Log>) -> Subscribed {
        Subscribed {
            log,
            orgs: ArcSwap::default(),
            starts: Mutex::default(),
            classified: AtomicU64::new(0),
            floor: AtomicU64::new(u64::MAX),
        }
    }

    /// The sequence behind which an organisation's frames cause events, if it has
    /// an endpoint. Ask after the frames were read: then whoever is missing here
    /// came later.
    pub(crate) fn since(&self, org: &str) -> Option<u64> {
        self.orgs.load().get(org).copied()
    }

    /// Adds an endpoint's start, or one that it may turn out to have; the frames
    /// committed from now on are seen with it. Frames are kept for readers while
    /// there is any.
    pub(crate) fn add(&self, org: &str, start: u64) {
        let mut starts = self.starts.lock();
        let earliest = starts.add(org, start);
        self.orgs.store(Arc::new(self.orgs.load().with(org.into(), earliest)));
        if !self.log.is_watched() {
            self.log.watch(true);
        }
    }

    /// Takes back a start that was added.
    pub(crate) fn remove(&self, org: &str, start: u64) {
        let mut starts = self.starts.lock();
        let orgs = self.orgs.load();
        let orgs = match starts.remove(org, start) {
            Some(earliest) => orgs.with(org.into(), earliest),
            None => orgs.without(org),
        };
        let any = !orgs.is_empty();
        self.orgs.store(Arc::new(orgs));
        if !any && self.log.is_watched() {
            self.log.watch(false);
        }
    }

    /// Whether any organisation has an endpoint.
    pub(crate) fn is_any(&self) -> bool {
        !self.orgs.load().is_empty()
    }

    /// Up to where rows that were superseded may be dropped.
    pub(crate) fn settled(&self) -> Sequence {
        if self.is_any() { self.classified() } else { Sequence(u64::MAX) }
    }

    pub(crate) fn classified(&self) -> Sequence {
        Sequence(self.classified.load(Ordering::Acquire))
    }

    pub(crate) fn set_classified(&self, position: Sequence) {
        self.classified.store(position.0, Ordering::Release);
    }

    /// Up to where no lane needs the journal.
    pub(crate) fn floor(&self) -> Sequence {
        if self.is_any() { Sequence(self.floor.load(Ordering::Acquire)) } else { Sequence(u64::MAX) }
    }

    pub(crate) fn set_floor(&self, floor: u64) {
        self.floor.store(floor, Ordering::Release);
    }

    /// Makes the floor at most this, before a lane that needs more is registered.
    pub(crate) fn lower_floor(&self, floor: u64) {
        self.floor.fetch_min(floor, Ordering::AcqRel);
    }
}

/// Where the endpoints of each organisation start.
#[derive(Debug, Default)]
struct Starts {
    /// How many endpoints start behind a sequence.
    orgs: HashMap<String, BTreeMap<u64, usize>>,
}

impl Starts {
    /// Adds one; returns the organisation's earliest.
    fn add(&mut self, org: &str, start: u64) -> u64 {
        let starts = self.orgs.entry_ref(org).or_default();
        *starts.entry(start).or_default() += 1;
        starts.first_key_value().map_or(start, |(earliest, _)| *earliest)
    }

    /// Takes one back; returns the organisation's earliest that is left.
    fn remove(&mut self, org: &str, start: u64) -> Option<u64> {
        let starts = self.orgs.get_mut(org)?;
        if let Some(count) = starts.get_mut(&start) {
            *count -= 1;
            if *count == 0 {
                starts.remove(&start);
            }
        }
        let earliest = starts.first_key_value().map(|(earliest, _)| *earliest);
        if earliest.is_none() {
            self.orgs.remove(org);
        }
        earliest
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_organisation_starts_with_the_earliest_of_its_endpoints() {
        let mut starts = Starts::default();
        assert_eq!([7, 5, 5, 9].map(|start| starts.add("o", start)), [7, 5, 5, 5]);
        assert_eq!(starts.add("p", 3), 3);
        assert_eq!([5, 5, 9].map(|start| starts.remove("o", start)), [Some(5), Some(7), Some(7)]);
        assert_eq!(starts.remove("o", 7), None);
        assert_eq!(starts.remove("q", 7), None);
        assert_eq!(starts.orgs.keys().collect::<Vec<_>>(), ["p"]);
    }
}
