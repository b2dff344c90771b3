//! Which organisations have endpoints, and since when.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use arc_swap::ArcSwap;
use hashbrown::HashMap;
use systole_storage::Sequence;
use systole_storage::journal::Log;

/// Shared by the classifier, the router, the committer and the flush thread.
#[derive(Debug)]
pub(crate) struct Subscribed {
    log: Arc<Log>,
    /// The sequence behind which an organisation has an endpoint, active or not.
    orgs: ArcSwap<HashMap<String, u64>>,
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

    /// Replaces the organisations; frames are kept for readers while there are any.
    pub(crate) fn set(&self, orgs: HashMap<String, u64>) {
        let any = !orgs.is_empty();
        self.orgs.store(Arc::new(orgs));
        if any != self.log.is_watched() {
            self.log.watch(any);
        }
    }

    /// Adds an organisation at once; the frames committed from now on are seen with it.
    pub(crate) fn add(&self, org: &str, since: u64) {
        self.orgs.rcu(|orgs| {
            let mut orgs = HashMap::clone(orgs);
            let known = orgs.entry_ref(org).or_insert(since);
            *known = (*known).min(since);
            orgs
        });
        if !self.log.is_watched() {
            self.log.watch(true);
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
