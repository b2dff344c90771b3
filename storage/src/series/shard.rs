//! The users whose hash begins with the same bits: records, an index over them,
//! and the hand of a clock that looks for one to evict.

use hashbrown::HashTable;

use super::record::{DIRTY, Record, TOUCHED, WRITING};
use super::{Newest, SeriesName};

/// A part of the map, behind its lock.
#[derive(Debug, Default)]
pub(super) struct Shard {
    records: Vec<Record>,
    /// Places in `records`.
    index: HashTable<u32>,
    /// Where the search for a record to evict goes on.
    hand: usize,
    /// Of one of its users, while that is looked for.
    pub(super) sought: Option<Box<Sought>>,
}

/// A metric whose newest value is being looked for among the samples.
#[derive(Debug)]
pub(super) struct Sought {
    org: String,
    user: String,
    metric: String,
    /// The newest sample that came since.
    pub(super) came: Option<Newest>,
}

impl Sought {
    pub(super) fn new(org: &str, user: &str, metric: &str) -> Sought {
        Sought { org: org.to_owned(), user: user.to_owned(), metric: metric.to_owned(), came: None }
    }

    pub(super) fn is_of(&self, org: &str, user: &str) -> bool {
        self.org == org && self.user == user
    }

    pub(super) fn is_metric_of(&self, org: &str, user: &str, metric: &str) -> bool {
        self.metric == metric && self.is_of(org, user)
    }

    /// Takes note of a sample if it is one of these.
    pub(super) fn meet(&mut self, name: &SeriesName<'_>, newest: Newest) {
        if self.is_metric_of(name.org, name.user, name.metric) {
            self.came = Some(newest.or_newer(self.came));
        }
    }
}

impl Shard {
    pub(super) fn find(&self, hash: u64, org: &str, user: &str) -> Option<usize> {
        let key = (hash, org.as_bytes(), user.as_bytes());
        let matches = |&at: &u32| self.records[at as usize].view().key() == key;
        self.index.find(spread(hash), matches).map(|&at| at as usize)
    }

    pub(super) fn records(&self) -> &[Record] {
        &self.records
    }

    pub(super) fn record(&mut self, at: usize) -> &mut Record {
        &mut self.records[at]
    }

    pub(super) fn records_mut(&mut self) -> &mut [Record] {
        &mut self.records
    }

    /// Adds a user that is not there.
    pub(super) fn insert(&mut self, record: Record) -> usize {
        if self.records.len() == self.records.capacity() {
            self.records.reserve_exact(self.records.len() / 8 + 4);
        }
        let at = self.records.len();
        let hash = spread(record.view().hash());
        self.records.push(record);
        let place = u32::try_from(at).expect("under 4 billion users a shard");
        let records = &self.records;
        self.index.insert_unique(hash, place, |&at| spread(records[at as usize].view().hash()));
        at
    }

    /// Takes out a record that is on disk and was not used for a round of the
    /// hand, which does not go further than `steps`.
    pub(super) fn evict(&mut self, steps: &mut usize) -> Option<Record> {
        while *steps > 0 && !self.records.is_empty() {
            *steps -= 1;
            self.hand %= self.records.len();
            let record = &mut self.records[self.hand];
            if record.view().has(DIRTY | WRITING | TOUCHED) {
                record.clear(TOUCHED);
                self.hand += 1;
            } else {
                return Some(self.remove(self.hand));
            }
        }
        None
    }

    /// Memory beside the records.
    pub(super) fn table_bytes(&self) -> usize {
        self.records.capacity() * size_of::<Record>() + self.index.allocation_size()
    }

    fn remove(&mut self, at: usize) -> Record {
        let moved = self.records.len() - 1;
        let hash_of = |at: usize| spread(self.records[at].view().hash());
        if let Ok(entry) = self.index.find_entry(hash_of(at), |&place| place as usize == at) {
            entry.remove();
        }
        if moved != at
            && let Some(place) = self.index.find_mut(hash_of(moved), |&place| place as usize == moved)
        {
            *place = at as u32;
        }
        self.records.swap_remove(at)
    }
}

/// The bits that all hashes of a shard share go where the table looks last.
fn spread(hash: u64) -> u64 {
    hash.rotate_left(32)
}
