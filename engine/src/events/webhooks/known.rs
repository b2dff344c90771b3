//! The endpoints there are, as the catalog has them.
//!
//! An organisation may have 100,000 of them, and all organisations share one lock. So nobody
//! who holds it walks them: they are found by id, and those of an organisation, or of one of
//! its users, lie sorted as lists show them. A page looks at what it shows and one endpoint on
//! either side; how many there are is a count.

use std::collections::BTreeSet;
use std::ops::Bound;
use std::sync::Arc;

use hashbrown::HashMap;
use systole_storage::EndpointRecord;

use crate::events::settings::StoredSettings as _;

/// An endpoint's place in lists: when it was made, then its id.
pub type ListPlace = (i64, String);

/// Which part of a list is asked for. The endpoint at a place may be gone.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ListFrom {
    /// Its beginning.
    Start,
    /// What comes behind a place.
    Behind(ListPlace),
    /// What comes before a place.
    Before(ListPlace),
}

/// All endpoints. Whoever shows one shares its record, and reads it without the lock.
#[derive(Debug, Default)]
pub(in crate::events) struct KnownEndpoints {
    by_id: HashMap<String, Known>,
    by_org: HashMap<String, OfOrg>,
}

#[derive(Debug)]
struct Known {
    record: Arc<EndpointRecord>,
    /// The only user it gets events about, under whom it is listed.
    user: Option<String>,
}

/// An organisation's endpoints.
#[derive(Debug, Default)]
struct OfOrg {
    all: BTreeSet<ListPlace>,
    /// None of these is empty.
    of_users: HashMap<String, BTreeSet<ListPlace>>,
}

impl KnownEndpoints {
    /// Every record, in no order.
    pub(in crate::events) fn records(&self) -> impl Iterator<Item = &EndpointRecord> {
        self.by_id.values().map(|known| &*known.record)
    }

    /// An endpoint's record.
    pub(in crate::events) fn get(&self, id: &str) -> Option<&Arc<EndpointRecord>> {
        note_looked_at();
        self.by_id.get(id).map(|known| &known.record)
    }

    /// An endpoint's record, of which anything may change but by what it is listed:
    /// organisation, user and when it was made.
    pub(in crate::events) fn get_mut(&mut self, id: &str) -> Option<&mut EndpointRecord> {
        self.by_id.get_mut(id).map(|known| Arc::make_mut(&mut known.record))
    }

    /// How many endpoints an organisation has, or has for one of its users.
    pub(in crate::events) fn count(&self, org: &str, user: Option<&str>) -> usize {
        self.places(org, user).map_or(0, BTreeSet::len)
    }

    /// The `limit` endpoints of an organisation, or of one of its users, that a page shows,
    /// and one more on either side if there is one: it tells whether the list goes on there.
    pub(in crate::events) fn page(
        &self,
        org: &str,
        user: Option<&str>,
        from: &ListFrom,
        limit: usize,
    ) -> Vec<Arc<EndpointRecord>> {
        let Some(places) = self.places(org, user) else { return Vec::new() };
        let shown = limit.saturating_add(1);
        let places: Vec<&ListPlace> = match from {
            ListFrom::Start => places.iter().take(shown).collect(),
            ListFrom::Behind(place) => {
                let before = places.range(..=place).next_back();
                let behind = places.range((Bound::Excluded(place), Bound::Unbounded));
                before.into_iter().chain(behind.take(shown)).collect()
            }
            ListFrom::Before(place) => {
                let behind = places.range(place..).next();
                let before = places.range(..place).rev();
                let mut backwards: Vec<_> = behind.into_iter().chain(before.take(shown)).collect();
                backwards.reverse();
                backwards
            }
        };
        places.into_iter().filter_map(|(_, id)| self.get(id).cloned()).collect()
    }

    /// Adds an endpoint, or changes the one that has its id.
    pub(in crate::events) fn put(&mut self, record: EndpointRecord) -> Arc<EndpointRecord> {
        self.remove(&record.id);
        // Settings that cannot be read are shown to no user.
        let user = record.settings().ok().and_then(|settings| settings.user_id);
        let place = place(&record);
        let of_org = self.by_org.entry_ref(&record.org).or_default();
        if let Some(user) = &user {
            of_org.of_users.entry_ref(user).or_default().insert(place.clone());
        }
        of_org.all.insert(place);
        let (id, record) = (record.id.clone(), Arc::new(record));
        self.by_id.insert(id, Known { record: record.clone(), user });
        record
    }

    /// Takes an endpoint out.
    pub(in crate::events) fn remove(&mut self, id: &str) -> Option<Arc<EndpointRecord>> {
        let Known { record, user } = self.by_id.remove(id)?;
        if let Some(of_org) = self.by_org.get_mut(&record.org) {
            of_org.remove(&place(&record), user.as_deref());
            if of_org.all.is_empty() {
                self.by_org.remove(&record.org);
            }
        }
        Some(record)
    }

    fn places(&self, org: &str, user: Option<&str>) -> Option<&BTreeSet<ListPlace>> {
        let of_org = self.by_org.get(org)?;
        match user {
            None => Some(&of_org.all),
            Some(user) => of_org.of_users.get(user),
        }
    }
}

impl OfOrg {
    fn remove(&mut self, place: &ListPlace, user: Option<&str>) {
        self.all.remove(place);
        let Some(user) = user else { return };
        if let Some(of_user) = self.of_users.get_mut(user) {
            of_user.remove(place);
            if of_user.is_empty() {
                self.of_users.remove(user);
            }
        }
    }
}

impl FromIterator<EndpointRecord> for KnownEndpoints {
    fn from_iter<I: IntoIterator<Item = EndpointRecord>>(records: I) -> KnownEndpoints {
        let mut known = KnownEndpoints::default();
        for record in records {
            known.put(record);
        }
        known
    }
}

fn place(record: &EndpointRecord) -> ListPlace {
    (record.created_at, record.id.clone())
}

#[cfg(not(test))]
fn note_looked_at() {}

#[cfg(test)]
thread_local! {
    static LOOKED_AT: std::cell::Cell<usize> = const { std::cell::Cell::new(0) };
}

#[cfg(test)]
fn note_looked_at() {
    LOOKED_AT.with(|looked_at| looked_at.set(looked_at.get() + 1));
}

#[cfg(test)]
mod tests {
    use systole_dispatch::dialect::Dialect;
    use systole_dispatch::endpoint::EndpointSettings;
    use systole_storage::Sequence;

    use super::*;

    fn record(id: &str, org: &str, user: Option<&str>, created_at: i64) -> EndpointRecord {
        let settings = EndpointSettings {
            user_id: user.map(str::to_owned),
            ..EndpointSettings::new("https://example.org/".to_owned(), Dialect::Standard)
        };
        EndpointRecord {
            id: id.to_owned(),
            number: 1,
            org: org.to_owned(),
            settings: serde_json::to_string(&settings).unwrap(),
            secret: "whsec_x".to_owned(),
            previous: None,
            start: Sequence(1),
            created_at,
            updated_at: created_at,
        }
    }

    /// Of two organisations and four users, three made in each millisecond, and ids in
    /// another order than these.
    fn many(count: usize) -> Vec<EndpointRecord> {
        let users = [None, Some("u_1"), Some("u_2"), None];
        let record = |number: usize| {
            let (id, org) = (format!("ep_{:05}", number * 7919 % count), ["acme", "other"][number % 2]);
            record(&id, org, users[number / 2 % 4], number as i64 / 3)
        };
        (0..count).map(record).collect()
    }

    /// What a list was before it had an order of its own.
    fn sorted(records: &[EndpointRecord], org: &str, user: Option<&str>) -> Vec<ListPlace> {
        let is_listed = |record: &&EndpointRecord| {
            let of = record.settings().unwrap().user_id;
            record.org == org && (user.is_none() || of.as_deref() == user)
        };
        let mut places: Vec<ListPlace> = records.iter().filter(is_listed).map(place).collect();
        places.sort();
        places
    }

    fn ids(page: &[Arc<EndpointRecord>]) -> Vec<ListPlace> {
        page.iter().map(|record| place(record)).collect()
    }

    #[test]
    fn a_page_is_the_part_of_the_sorted_list_with_one_more_on_either_side() {
        let mut records = many(60);
        let mut known: KnownEndpoints = records.iter().cloned().collect();
        // Places whose endpoint is gone, and places that never were one's.
        for number in [5, 12, 30] {
            known.remove(&records[number].id);
        }
        let mut places: Vec<ListPlace> = records.iter().map(place).collect();
        places.extend([(-1, "ep".to_owned()), (7, "ep_zzz".to_owned()), (99, String::new())]);
        let gone = [5, 12, 30].map(|number| records[number].id.clone());
        records.retain(|record| !gone.contains(&record.id));
        for (org, user) in [("acme", None), ("other", None), ("acme", Some("u_1")), ("other", Some("u_2"))] {
            let all = sorted(&records, org, user);
            assert_eq!(known.count(org, user), all.len());
            for limit in [1, 2, 7, 100] {
                let page = |from: ListFrom| ids(&known.page(org, user, &from, limit));
                assert_eq!(page(ListFrom::Start), all[..all.len().min(limit + 1)]);
                for place in &places {
                    let start = all.partition_point(|one| one <= place);
                    let end = all.len().min(start + limit + 1);
                    let behind = &all[start.saturating_sub(1)..end];
                    assert_eq!(page(ListFrom::Behind(place.clone())), behind, "{place:?} {limit}");
                    let end = all.partition_point(|one| one < place);
                    let before = &all[end.saturating_sub(limit + 1)..all.len().min(end + 1)];
                    assert_eq!(page(ListFrom::Before(place.clone())), before, "{place:?} {limit}");
                }
            }
        }
        assert_eq!(known.page("nobody", None, &ListFrom::Start, 9), []);
        assert_eq!(known.page("acme", Some("u_9"), &ListFrom::Start, 9), []);
    }

    #[test]
    fn an_endpoint_is_listed_under_the_user_it_is_for_now() {
        let mut known = KnownEndpoints::default();
        known.put(record("ep_1", "acme", Some("u_1"), 1));
        known.put(record("ep_2", "acme", Some("u_1"), 2));
        let counts =
            |known: &KnownEndpoints| [None, Some("u_1"), Some("u_2")].map(|user| known.count("acme", user));
        assert_eq!(counts(&known), [2, 2, 0]);
        known.put(record("ep_1", "acme", Some("u_2"), 1));
        assert_eq!(counts(&known), [2, 1, 1]);
        known.put(record("ep_2", "acme", None, 2));
        assert_eq!(counts(&known), [2, 0, 1]);
        known.put(EndpointRecord { settings: "{".to_owned(), ..record("ep_3", "acme", None, 3) });
        assert_eq!((counts(&known), known.count("other", None)), ([3, 0, 1], 0));
        known.get_mut("ep_1").unwrap().updated_at = 9;
        assert_eq!(known.page("acme", Some("u_2"), &ListFrom::Start, 9)[0].updated_at, 9);
        for id in ["ep_1", "ep_2", "ep_3"] {
            assert_eq!(known.remove(id).unwrap().id, id);
        }
        assert!(known.remove("ep_1").is_none() && known.by_org.is_empty() && known.by_id.is_empty());
    }

    #[test]
    fn a_page_and_a_count_look_at_no_endpoint_that_is_not_shown() {
        let known: KnownEndpoints = many(10_000).into_iter().collect();
        let looked_at = |work: &dyn Fn()| {
            let before = LOOKED_AT.get();
            work();
            LOOKED_AT.get() - before
        };
        let middle = || (1_700, "ep".to_owned());
        for from in [ListFrom::Start, ListFrom::Behind(middle()), ListFrom::Before(middle())] {
            for user in [None, Some("u_1")] {
                let page = looked_at(&|| assert!(known.page("acme", user, &from, 50).len() >= 51));
                assert!(page <= 52, "{page} for {from:?} of {user:?}");
            }
        }
        let counted = looked_at(&|| assert_eq!(known.count("acme", None), 5_000));
        assert_eq!(counted + looked_at(&|| assert_eq!(known.count("acme", Some("u_1")), 1_250)), 0);
    }
}
