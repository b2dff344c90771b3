//! Ids that publishers give their events: the same is stored once.
//!
//! Ids are scoped: a publisher that is bound to a user has that user's, all others have the
//! organisation's, so nobody bound to a user can take another's id.
//!
//! Constraints: an id is remembered for at least [`HOURS`] hours and up to one more, 16
//! bytes each, at most [`IDS_MAX`] an organisation; beyond that the oldest are forgotten.
//! A look-up is a hash and some binary searches. Nothing is written here: ids are in the
//! journal's frames and in what outlives its segments, which a start reads back.
//!
//! ```text
//! publish -> claim -> in the journal -> known
//!              '-- whoever brings the same id meanwhile waits for what becomes of it
//! ```
//!
//! Only hashes are kept, so [`Claim::Known`] may be another id's event: whoever asks
//! looks at the frame while that is there.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};

use hashbrown::HashMap;
use parking_lot::Mutex;
use systole_storage::Sequence;
use systole_storage::journal::{EventKey, Log, LogError};
use tokio::sync::watch;

/// How long an id is remembered at least.
pub(crate) const HOURS: i64 = 24;
/// Most ids of an organisation: a day of 115 events a second, 160 MB.
const IDS_MAX: usize = 10_000_000;
/// Ids that are in one hash map; more are sorted and put aside.
const RECENT_MAX: usize = 1_000_000;
const HOUR_MS: i64 = 3_600_000;

/// What is known of an id.
#[derive(Debug)]
pub(crate) enum Claim {
    /// An event with this id, or with one of the same hash, is in the journal.
    Known(Sequence),
    /// Somebody else is publishing it; ends when that is decided.
    Pending(watch::Receiver<()>),
    /// It is new, and nobody else's until this is dropped.
    Mine(Claimed),
}

/// The ids of all organisations.
#[derive(Debug)]
pub(crate) struct EventIds {
    orgs: Mutex<HashMap<String, OrgIds>>,
    /// The hour in which all organisations were looked through last.
    expired: AtomicI64,
    /// Most ids of an organisation, and of one period.
    limits: (usize, usize),
}

/// Sorted by hash.
#[derive(Debug)]
struct Period {
    hour: i64,
    ids: Box<[(u64, Sequence)]>,
}

#[derive(Debug, Default)]
struct OrgIds {
    /// Being published.
    pending: HashMap<String, watch::Sender<()>>,
    /// Those of `hour`.
    recent: HashMap<u64, Sequence>,
    hour: i64,
    /// Those before, oldest first.
    periods: VecDeque<Period>,
}

impl OrgIds {
    /// Forgets what is too old, and puts the ids of past hours aside.
    fn advance(&mut self, now_ms: i64, limits: (usize, usize)) {
        let hour = now_ms.div_euclid(HOUR_MS).max(self.hour);
        if hour > self.hour || self.recent.len() >= limits.1 {
            self.put_aside();
            self.hour = hour;
        }
        while self.periods.front().is_some_and(|oldest| oldest.hour < hour - HOURS) {
            self.periods.pop_front();
        }
        while self.len() >= limits.0 && self.periods.pop_front().is_some() {}
    }

    fn put_aside(&mut self) {
        if self.recent.is_empty() {
            return;
        }
        let mut ids: Vec<(u64, Sequence)> = std::mem::take(&mut self.recent).into_iter().collect();
        ids.sort_unstable();
        self.periods.push_back(Period { hour: self.hour, ids: ids.into() });
    }

    fn find(&self, hash: u64) -> Option<Sequence> {
        let aside = |period: &Period| {
            let at = period.ids.binary_search_by_key(&hash, |(hash, _)| *hash).ok()?;
            Some(period.ids[at].1)
        };
        self.recent.get(&hash).copied().or_else(|| self.periods.iter().rev().find_map(aside))
    }

    fn len(&self) -> usize {
        self.recent.len() + self.periods.iter().map(|period| period.ids.len()).sum::<usize>()
    }

    fn is_empty(&self) -> bool {
        self.pending.is_empty() && self.recent.is_empty() && self.periods.is_empty()
    }
}

impl EventIds {
    /// Nothing is known yet.
    pub(crate) fn new() -> Arc<EventIds> {
        EventIds::with_limits(IDS_MAX, RECENT_MAX)
    }

    fn with_limits(ids_max: usize, recent_max: usize) -> Arc<EventIds> {
        Arc::new(EventIds {
            orgs: Mutex::default(),
            expired: AtomicI64::new(0),
            limits: (ids_max, recent_max),
        })
    }

    /// Takes in what the journal knows. Blocks.
    pub(crate) fn load(&self, log: &Log, now_ms: i64) -> Result<(), LogError> {
        let mut found: HashMap<String, Vec<EventKey>> = HashMap::new();
        log.event_keys((now_ms - HOURS * HOUR_MS) * 1000, |org, key| {
            found.entry_ref(org).or_default().push(key);
        })?;
        for (org, mut keys) in found {
            keys.sort_unstable_by_key(|key| (key.committed_at, key.sequence));
            for key in keys {
                self.insert(&org, key.hash, key.sequence, key.committed_at.div_euclid(1000));
            }
        }
        Ok(())
    }

    /// Asks for an id as it is scoped. `other` is one of the same hash that turned out to be another.
    pub(crate) fn claim(
        self: &Arc<EventIds>,
        org: &str,
        id: &str,
        other: Option<Sequence>,
        now_ms: i64,
    ) -> Claim {
        let hash = EventKey::hash_of(id);
        let hour = now_ms.div_euclid(HOUR_MS);
        if self.expired.fetch_max(hour, Ordering::Relaxed) < hour {
            self.expire(now_ms);
        }
        let mut orgs = self.orgs.lock();
        let ids = orgs.entry_ref(org).or_default();
        ids.advance(now_ms, self.limits);
        if let Some(pending) = ids.pending.get(id) {
            return Claim::Pending(pending.subscribe());
        }
        if let Some(known) = ids.find(hash).filter(|known| other != Some(*known)) {
            return Claim::Known(known);
        }
        ids.pending.insert(id.to_owned(), watch::Sender::new(()));
        Claim::Mine(Claimed { ids: self.clone(), org: org.to_owned(), id: id.to_owned() })
    }

    /// Forgets what is too old, also of organisations that publish nothing any more.
    fn expire(&self, now_ms: i64) {
        self.orgs.lock().retain(|_, ids| {
            ids.advance(now_ms, self.limits);
            !ids.is_empty()
        });
    }

    fn insert(&self, org: &str, hash: u64, sequence: Sequence, committed_ms: i64) {
        let mut orgs = self.orgs.lock();
        let ids = orgs.entry_ref(org).or_default();
        ids.advance(committed_ms, self.limits);
        ids.recent.insert(hash, sequence);
    }
}

/// An id that is being published.
#[derive(Debug)]
pub(crate) struct Claimed {
    ids: Arc<EventIds>,
    org: String,
    id: String,
}

impl Claimed {
    /// The event is durable.
    pub(crate) fn keep(self, sequence: Sequence, now_ms: i64) {
        self.ids.insert(&self.org, EventKey::hash_of(&self.id), sequence, now_ms);
        // Dropped behind it: whoever waits finds it known.
    }
}

impl Drop for Claimed {
    fn drop(&mut self) {
        let mut orgs = self.ids.orgs.lock();
        if let Some(ids) = orgs.get_mut(self.org.as_str()) {
            // The sender with it, which wakes those that wait.
            ids.pending.remove(self.id.as_str());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: i64 = 1_782_805_500_000;

    fn publish(ids: &Arc<EventIds>, org: &str, id: &str, sequence: u64, now_ms: i64) {
        match ids.claim(org, id, None, now_ms) {
            Claim::Mine(claimed) => claimed.keep(Sequence(sequence), now_ms),
            other => panic!("{id}: {other:?}"),
        }
    }

    fn known(ids: &Arc<EventIds>, org: &str, id: &str, now_ms: i64) -> Option<u64> {
        match ids.claim(org, id, None, now_ms) {
            Claim::Known(sequence) => Some(sequence.0),
            Claim::Mine(_) => None,
            Claim::Pending(_) => panic!("{id} is nobody's"),
        }
    }

    #[test]
    fn an_id_is_known_for_a_day_in_its_organisation_and_then_forgotten() {
        let ids = EventIds::new();
        publish(&ids, "acme", "ci-1", 7, NOW);
        for later in [0, 1, 12 * HOUR_MS, HOURS * HOUR_MS - 1] {
            assert_eq!(known(&ids, "acme", "ci-1", NOW + later), Some(7), "{later} ms later");
        }
        assert_eq!(known(&ids, "beta", "ci-1", NOW), None);
        assert_eq!(known(&ids, "acme", "ci-2", NOW), None);
        assert_eq!(known(&ids, "acme", "ci-1", NOW + (HOURS + 1) * HOUR_MS), None);
        ids.expire(NOW + (HOURS + 1) * HOUR_MS);
        assert!(ids.orgs.lock().is_empty());
    }

    #[test]
    fn who_brings_an_id_that_is_being_published_waits_for_what_becomes_of_it() {
        let ids = EventIds::new();
        let claim = || ids.claim("acme", "ci-1", None, NOW);
        let (Claim::Mine(failed), Claim::Pending(waiting)) = (claim(), claim()) else {
            panic!("not claimed")
        };
        drop(failed);
        assert!(waiting.has_changed().is_err(), "the sender is gone");
        let (Claim::Mine(kept), Claim::Pending(waiting)) = (claim(), claim()) else {
            panic!("not claimed anew")
        };
        kept.keep(Sequence(9), NOW);
        assert!(waiting.has_changed().is_err());
        assert!(matches!(claim(), Claim::Known(Sequence(9))));
        // One that turned out to be another of the same hash does not stand in the way.
        assert!(matches!(ids.claim("acme", "ci-1", Some(Sequence(9)), NOW), Claim::Mine(_)));
    }

    #[test]
    fn beyond_the_limit_the_oldest_are_forgotten() {
        let ids = EventIds::with_limits(100, 10);
        for number in 0..250 {
            publish(&ids, "acme", &format!("ci-{number}"), number, NOW);
        }
        let remembered = |number: &u64| known(&ids, "acme", &format!("ci-{number}"), NOW) == Some(*number);
        assert!((160..250).all(|number| remembered(&number)));
        assert!(!(0..149).any(|number| remembered(&number)));
        assert!(ids.orgs.lock()["acme"].len() <= 100);
    }
}
