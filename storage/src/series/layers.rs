//! The checkpoint files that count, oldest first, and what they say together.
//!
//! The oldest is the base, or a delta that nothing lies under; each later one
//! holds the users that changed since. A user's record is the newest one with
//! all older ones taken in, down to one that is complete.

use std::cmp::Ordering;
use std::sync::Arc;

use super::SeriesError;
use super::file::{Layer, Scan};
use super::record::{COMPLETE, Record, UserKey};
use crate::frame::Sequence;

/// A set of checkpoint files; never changed, only replaced.
#[derive(Debug, Default)]
pub(super) struct Layers {
    /// Oldest first.
    pub(super) files: Vec<Arc<Layer>>,
    /// Every update through this is in them.
    pub(super) position: Sequence,
}

impl Layers {
    /// False only if no file has the user.
    pub(super) fn may_hold(&self, hash: u64) -> bool {
        self.files.iter().any(|layer| layer.may_hold(hash))
    }

    /// A user's record, complete. Reads at most a block a file.
    pub(super) fn find(&self, key: UserKey<'_>) -> Result<Option<Record>, SeriesError> {
        let mut found: Option<Record> = None;
        for layer in self.files.iter().rev() {
            let Some(older) = layer.find(key)? else { continue };
            match &mut found {
                Some(record) => record.absorb(older.view()),
                None => found = Some(older),
            }
            if found.as_ref().is_some_and(|record| record.view().has(COMPLETE)) {
                break;
            }
        }
        if let Some(record) = &mut found {
            record.set(COMPLETE);
        }
        Ok(found)
    }

    pub(super) fn byte_len(&self) -> usize {
        self.files.iter().map(|layer| layer.byte_len()).sum()
    }

    /// The newest files that are merged next, by their place: a file is taken in
    /// once those newer than it are half its size together, so that there are
    /// few files and a byte is written again a logarithm of times. `None` if none
    /// are due.
    pub(super) fn due(&self) -> Option<usize> {
        let mut first = self.files.len().checked_sub(1)?;
        let mut bytes = self.files[first].record.bytes;
        while first > 0 && self.files[first - 1].record.bytes <= bytes.saturating_mul(2) {
            first -= 1;
            bytes = bytes.saturating_add(self.files[first].record.bytes);
        }
        (first + 1 < self.files.len()).then_some(first)
    }
}

/// Several ordered sources of records as one; of a user in several the older
/// records are taken into the newer.
pub(super) struct Merge {
    /// Newest first.
    sources: Vec<Source>,
    first: u64,
}

struct Source {
    head: Option<Record>,
    rest: Rest,
}

enum Rest {
    Memory(std::vec::IntoIter<Record>),
    File(Scan),
}

impl Merge {
    /// Files, oldest first, and above them records of the memory, in the range
    /// of hashes.
    pub(super) fn new(
        files: &[Arc<Layer>],
        memory: Vec<Record>,
        first: u64,
        last: u64,
    ) -> Result<Merge, SeriesError> {
        let scans = files.iter().rev().map(|layer| Rest::File(Scan::new(layer, first, last)));
        let mut sources = Vec::with_capacity(files.len() + 1);
        for mut rest in std::iter::once(Rest::Memory(memory.into_iter())).chain(scans) {
            sources.push(Source { head: rest.next(first)?, rest });
        }
        Ok(Merge { sources, first })
    }

    pub(super) fn next(&mut self) -> Result<Option<Record>, SeriesError> {
        let heads =
            self.sources.iter().enumerate().filter_map(|(at, source)| Some((at, source.head.as_ref()?)));
        let order = |a: &Record, b: &Record| a.view().key().cmp(&b.view().key());
        let Some((newest, _)) = heads.min_by(|a, b| order(a.1, b.1).then(a.0.cmp(&b.0))) else {
            return Ok(None);
        };
        let Some(mut merged) = self.sources[newest].take(self.first)? else { return Ok(None) };
        for source in &mut self.sources[newest + 1..] {
            let same = source.head.as_ref().is_some_and(|head| order(head, &merged) == Ordering::Equal);
            if same && let Some(older) = source.take(self.first)? {
                merged.absorb(older.view());
            }
        }
        Ok(Some(merged))
    }
}

impl Source {
    fn take(&mut self, first: u64) -> Result<Option<Record>, SeriesError> {
        let next = self.rest.next(first)?;
        Ok(std::mem::replace(&mut self.head, next))
    }
}

impl Rest {
    fn next(&mut self, first: u64) -> Result<Option<Record>, SeriesError> {
        match self {
            Rest::Memory(records) => Ok(records.next()),
            Rest::File(scan) => scan.next(first),
        }
    }
}
