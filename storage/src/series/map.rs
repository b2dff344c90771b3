//! The map: updates, reads, eviction, reading back.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use arc_swap::ArcSwap;
use parking_lot::{Mutex, MutexGuard};

use super::checkpoint::Writer;
use super::layers::{Layers, Merge};
use super::record::{COMPLETE, DIRTY, Key, Record, TOUCHED, VAGUE};
use super::shard::{Shard, Sought};
use super::tally::{SeriesStats, Tally};
use super::{LatestValue, Newest, SeriesError, SeriesName, user_hash};
use crate::catalog::Catalog;
use crate::disk::Disk;
use crate::frame::{Mark, Sequence};

/// First bits of the hash that choose a shard: of 1 GiB a shard has 1 MiB, which
/// is copied in the time of a few hundred updates.
const SHARD_BITS: u32 = 10;
/// Records the clock's hand passes for one that is wanted.
const EVICT_STEPS: usize = 16;

/// All series of the store.
#[derive(Debug)]
pub struct SeriesMap {
    pub(super) disk: Arc<dyn Disk>,
    pub(super) data_dir: PathBuf,
    pub(super) catalog: Arc<Catalog>,
    /// Memory from which users are evicted. Dirty ones cannot be: beyond a
    /// quarter of it a checkpoint is due.
    pub(super) bytes_max: usize,
    pub(super) shards: Box<[Mutex<Shard>]>,
    /// Replaced by whoever holds `writer`.
    pub(super) layers: ArcSwap<Layers>,
    pub(super) tally: Tally,
    /// The greatest sequence that was taken in.
    advanced: AtomicU64,
    /// Held while a checkpoint is written.
    pub(super) writer: Mutex<Writer>,
}

impl SeriesMap {
    /// Opens the map with the catalog's checkpoints and as many users of them as
    /// fit. If one is missing or damaged all are dropped, and
    /// [`SeriesMap::position`] says that everything is to be brought in again.
    ///
    /// # Errors
    /// [`SeriesError`], if what is left of unfinished checkpoints cannot be
    /// removed or the catalog fails.
    pub fn open(
        disk: Arc<dyn Disk>,
        data_dir: &Path,
        catalog: Arc<Catalog>,
        bytes_max: usize,
    ) -> Result<SeriesMap, SeriesError> {
        let mut map = SeriesMap::empty(disk, data_dir, catalog, bytes_max);
        if let Err(error) = map.load() {
            tracing::error!(
                error = &error as &dyn std::error::Error,
                "a checkpoint cannot be used, reading all data files instead"
            );
            map = SeriesMap::empty(map.disk, data_dir, map.catalog, bytes_max);
            map.catalog.replace_checkpoints(&[], Sequence::ZERO)?;
        }
        map.remove_leftovers()?;
        Ok(map)
    }

    fn empty(disk: Arc<dyn Disk>, data_dir: &Path, catalog: Arc<Catalog>, bytes_max: usize) -> SeriesMap {
        let shards: Box<[Mutex<Shard>]> = (0..1 << SHARD_BITS).map(|_| Mutex::default()).collect();
        let tally = Tally::default();
        tally.table(0, size_of_val(&*shards));
        SeriesMap {
            disk,
            data_dir: data_dir.to_owned(),
            catalog,
            bytes_max,
            shards,
            layers: ArcSwap::default(),
            tally,
            advanced: AtomicU64::new(0),
            writer: Mutex::default(),
        }
    }

    /// Everything through this is in the checkpoints: a start need not bring it in.
    #[must_use]
    pub fn position(&self) -> Sequence {
        self.layers.load().position
    }

    /// Widens a series' span by `earliest..=latest` and says how that lies to the
    /// span before. Called before the samples are durable: if they never become
    /// so, the span is too wide, which only makes the classifier look in vain.
    pub fn widen(&self, name: &SeriesName<'_>, earliest: i64, latest: i64) -> Mark {
        self.update(name, None, |record| record.widen(Key::of(name), earliest, latest))
    }

    /// Takes in a durable run of samples, given by its span and its newest one.
    pub fn advance(&self, name: &SeriesName<'_>, earliest: i64, latest: i64, newest: Newest) {
        if newest.sequence.0 > self.advanced.load(Ordering::Relaxed) {
            self.advanced.fetch_max(newest.sequence.0, Ordering::Relaxed);
        }
        self.update(name, Some(newest), |record| record.advance(Key::of(name), earliest, latest, newest));
    }

    /// The newest value of each metric of a user, sorted by metric. Reads files
    /// if the user is not in memory.
    ///
    /// # Errors
    /// [`SeriesError`].
    pub fn latest(&self, org: &str, user: &str) -> Result<Vec<LatestValue>, SeriesError> {
        if let Some(values) = self.latest_in_memory(org, user) {
            return Ok(values);
        }
        let values = self.with_complete(org, user, |record, _| record.view().latest())?;
        Ok(values.unwrap_or_default())
    }

    /// As [`SeriesMap::latest`], without reading a file; `None` if one must be read.
    #[must_use]
    pub fn latest_in_memory(&self, org: &str, user: &str) -> Option<Vec<LatestValue>> {
        let hash = user_hash(org, user);
        let mut shard = self.shard(hash);
        let Some(at) = shard.find(hash, org, user) else {
            return (!self.layers.load().may_hold(hash)).then(Vec::new);
        };
        let record = shard.record(at);
        record.set(TOUCHED);
        record.view().has(COMPLETE).then(|| record.view().latest())
    }

    /// Brings an evicted user into memory, so that its next marks are exact. Reads
    /// files if the user is not there.
    ///
    /// # Errors
    /// [`SeriesError`].
    pub fn read_back(&self, org: &str, user: &str) -> Result<(), SeriesError> {
        let hash = user_hash(org, user);
        let partial = {
            let shard = self.shard(hash);
            match shard.find(hash, org, user) {
                Some(at) => !shard.records()[at].view().has(COMPLETE),
                None => self.layers.load().may_hold(hash),
            }
        };
        if partial { self.with_complete(org, user, |_, _| ()).map(drop) } else { Ok(()) }
    }

    /// Makes everything of a user through a sequence gone: in memory, and in the
    /// checkpoints for every reader from now on. Its bytes are gone there after
    /// the next checkpoint with `rewrite`. Reads no file.
    ///
    /// To be called in the order of the sequences, behind the last update of
    /// `through` and before the first one behind it. Called later, what came
    /// between counts only where it was newest, and the user's marks stay `Look`.
    pub fn forget(&self, org: &str, user: &str, through: Sequence) {
        let hash = user_hash(org, user);
        let late = self.advanced.load(Ordering::Relaxed) > through.0;
        let flags = COMPLETE | DIRTY | if late { VAGUE } else { 0 };
        let mut shard = self.shard(hash);
        // What was found of the user may be what is forgotten.
        shard.sought.take_if(|sought| sought.is_of(org, user));
        let at = match shard.find(hash, org, user) {
            Some(at) => at,
            None if self.layers.load().may_hold(hash) => {
                self.insert(&mut shard, Record::new(hash, org.as_bytes(), user.as_bytes(), 0))
            }
            None => return,
        };
        let record = shard.record(at);
        let before = record.measure();
        *record = record.after(through, flags);
        self.tally.changed(before, record.measure());
    }

    /// Begins to look for the newest sample of a metric that is there, in the place of a value
    /// whose sample went. What comes from now on is kept in mind for
    /// [`SeriesMap::replace_newest`]; everything before has a sequence up to the one returned.
    /// One at a time.
    pub fn seek_newest(&self, org: &str, user: &str, metric: &str) -> Sequence {
        let mut shard = self.shard(user_hash(org, user));
        shard.sought = Some(Box::new(Sought::new(org, user, metric)));
        Sequence(self.advanced.load(Ordering::Relaxed))
    }

    /// Puts `found`, or what came since it was looked for if that is newer, in the place of a
    /// newest value, or removes that. A value that is another one meanwhile stays. Reads files
    /// if the user is not in memory. False if some of the user was forgotten meanwhile: then
    /// nothing changed, and it is to be looked for again.
    ///
    /// # Errors
    /// [`SeriesError`]; then nothing changed.
    pub fn replace_newest(
        &self,
        org: &str,
        user: &str,
        old: &LatestValue,
        found: Option<Newest>,
    ) -> Result<bool, SeriesError> {
        let metric = old.metric.as_bytes();
        let replaced = self.with_complete(org, user, |record, sought| {
            let known = record.view().newest_of_metric(metric);
            if known.is_none_or(|known| !known.is(old)) {
                return true;
            }
            let Some(sought) = sought.take_if(|sought| sought.is_metric_of(org, user, &old.metric)) else {
                return false;
            };
            let newest = found.map(|found| found.or_newer(sought.came)).or(sought.came);
            record.replace(metric, newest);
            record.set(DIRTY);
            true
        })?;
        // Of a user that is not there nothing is to be replaced.
        Ok(replaced.unwrap_or(true))
    }

    /// How many pages [`SeriesMap::latest_of_page`] has.
    #[must_use]
    pub fn pages(&self) -> usize {
        self.shards.len()
    }

    /// The newest values of all users of an organisation that lie on a page, in
    /// memory or not. Every user lies on exactly one; a page is about a thousandth
    /// of them.
    ///
    /// # Errors
    /// [`SeriesError`].
    pub fn latest_of_page(
        &self,
        org: &str,
        page: usize,
    ) -> Result<Vec<(String, Vec<LatestValue>)>, SeriesError> {
        let users = self.latest_of_orgs(page, |of| of == org)?;
        Ok(users.into_iter().map(|(_, user, values)| (user, values)).collect())
    }

    /// As [`SeriesMap::latest_of_page`], of all organisations that are wanted: organisation,
    /// user, newest values.
    ///
    /// # Errors
    /// [`SeriesError`].
    pub fn latest_of_orgs(
        &self,
        page: usize,
        wanted: impl Fn(&str) -> bool,
    ) -> Result<Vec<(String, String, Vec<LatestValue>)>, SeriesError> {
        let wanted = |record: &Record| wanted(&String::from_utf8_lossy(record.view().org()));
        let mut memory: Vec<Record> = {
            let shard = self.shards[page].lock();
            let own = shard.records().iter().filter(|record| wanted(record));
            own.map(|record| Record::copy(record.view())).collect()
        };
        memory.sort_unstable_by(|a, b| a.view().key().cmp(&b.view().key()));
        let first = (page as u64) << (64 - SHARD_BITS);
        let last = first | (u64::MAX >> SHARD_BITS);
        let layers = self.layers.load_full();
        let mut merge = Merge::new(&layers.files, memory, first, last)?;
        let mut users = Vec::new();
        while let Some(record) = merge.next()? {
            let values = if wanted(&record) { record.view().latest() } else { Vec::new() };
            if !values.is_empty() {
                let text = |bytes| String::from_utf8_lossy(bytes).into_owned();
                users.push((text(record.view().org()), text(record.view().user()), values));
            }
        }
        Ok(users)
    }

    /// How many series are in memory.
    #[must_use]
    pub fn series_count(&self) -> u64 {
        self.tally.series()
    }

    /// What is counted, now.
    #[must_use]
    pub fn stats(&self) -> SeriesStats {
        let layers = self.layers.load();
        SeriesStats {
            checkpoint_files: layers.files.len() as u64,
            checkpoint_bytes: layers.files.iter().map(|layer| layer.record.bytes).sum(),
            ..self.tally.stats()
        }
    }

    pub(super) fn over_bound(&self) -> bool {
        self.tally.bytes() > self.bytes_max
    }

    pub(super) fn insert(&self, shard: &mut Shard, record: Record) -> usize {
        let table_before = shard.table_bytes();
        self.tally.came(record.measure());
        let at = shard.insert(record);
        self.tally.table(table_before, shard.table_bytes());
        at
    }

    /// Evicts users of a shard until memory is down to `bytes`, passing at most
    /// `steps` of them.
    pub(super) fn evict(&self, shard: &mut Shard, bytes: usize, mut steps: usize) {
        while self.tally.bytes() > bytes
            && let Some(record) = shard.evict(&mut steps)
        {
            self.tally.went(record.measure());
            self.tally.evictions.fetch_add(1, Ordering::Relaxed);
        }
    }

    fn update<T>(
        &self,
        name: &SeriesName<'_>,
        newest: Option<Newest>,
        change: impl FnOnce(&mut Record) -> T,
    ) -> T {
        let hash = user_hash(name.org, name.user);
        let mut shard = self.shard(hash);
        if let (Some(sought), Some(newest)) = (&mut shard.sought, newest) {
            sought.meet(name, newest);
        }
        let at = match shard.find(hash, name.org, name.user) {
            Some(at) => at,
            None => self.admit(&mut shard, hash, name.org, name.user),
        };
        let record = shard.record(at);
        let before = record.measure();
        let outcome = change(record);
        record.set(DIRTY | TOUCHED);
        let after = record.measure();
        self.tally.changed(before, after);
        if after.bytes > before.bytes && self.over_bound() {
            self.evict(&mut shard, self.bytes_max, EVICT_STEPS);
        }
        outcome
    }

    /// A record for a user that is not in memory. Its past may be in a file; that
    /// is asked under the lock, so that no checkpoint and eviction come between.
    fn admit(&self, shard: &mut Shard, hash: u64, org: &str, user: &str) -> usize {
        let known = self.layers.load().may_hold(hash);
        let flags = if known { 0 } else { COMPLETE };
        self.insert(shard, Record::new(hash, org.as_bytes(), user.as_bytes(), flags))
    }

    /// Runs something on a user's complete record, which is read back before if it
    /// must, and on what is sought in its shard; `None` if there is no such user. Files are
    /// read without the lock.
    fn with_complete<T>(
        &self,
        org: &str,
        user: &str,
        run: impl FnOnce(&mut Record, &mut Option<Box<Sought>>) -> T,
    ) -> Result<Option<T>, SeriesError> {
        let hash = user_hash(org, user);
        loop {
            let layers = self.layers.load_full();
            let stored = layers.find((hash, org.as_bytes(), user.as_bytes()))?;
            let mut shard = self.shard(hash);
            let found = shard.find(hash, org, user);
            let complete = found.is_some_and(|at| shard.records()[at].view().has(COMPLETE));
            // A checkpoint came between: what was read may have been forgotten.
            if !complete && !Arc::ptr_eq(&layers, &self.layers.load()) {
                continue;
            }
            let at = match (found, stored) {
                (Some(at), stored) => {
                    if !complete {
                        self.complete(shard.record(at), stored);
                    }
                    at
                }
                (None, Some(stored)) => {
                    self.tally.read_backs.fetch_add(1, Ordering::Relaxed);
                    self.insert(&mut shard, stored)
                }
                (None, None) => return Ok(None),
            };
            let mut sought = shard.sought.take();
            let record = shard.record(at);
            record.set(TOUCHED);
            let before = record.measure();
            let outcome = run(record, &mut sought);
            self.tally.changed(before, record.measure());
            shard.sought = sought;
            self.evict(&mut shard, self.bytes_max, EVICT_STEPS);
            return Ok(Some(outcome));
        }
    }

    fn complete(&self, record: &mut Record, stored: Option<Record>) {
        let before = record.measure();
        if let Some(stored) = stored {
            record.absorb(stored.view());
            self.tally.read_backs.fetch_add(1, Ordering::Relaxed);
        }
        record.set(COMPLETE);
        self.tally.changed(before, record.measure());
    }

    pub(super) fn shard(&self, hash: u64) -> MutexGuard<'_, Shard> {
        self.shards[(hash >> (64 - SHARD_BITS)) as usize].lock()
    }
}
