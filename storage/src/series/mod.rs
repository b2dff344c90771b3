//! The latest-and-span map: per (user, metric, source, device) the span
//! [earliest, latest] of everything committed, and per (user, metric) the newest
//! value.
//!
//! Constraints: an update is one shard lock and no allocation for a known
//! series, and costs the same for the user's thousandth series as for the first;
//! `/latest` reads one user's metrics and never scans. It is complete: at
//! start it is rebuilt from the files and the journal before the first request.
//! Its size grows with the series; nothing is evicted yet.
//!
//! Who writes: the committer (and recovery before it). Who reads: the committer
//! for its marks, queries for `/latest`.

use std::sync::atomic::{AtomicU64, Ordering};

use hashbrown::{DefaultHashBuilder, HashMap, HashTable};
use parking_lot::{Mutex, RwLock};
use xxhash_rust::xxh3::Xxh3;

use crate::frame::{Group, Mark, Sequence};

const SHARDS: usize = 64;
const ABSENT: u32 = u32::MAX;
/// Series of a user that are looked through one by one. A phone, a watch and a
/// ring have fewer; a sender that makes up devices has any number.
const SCANNED_MAX: usize = 32;

/// A sample that may be a series' newest.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Newest {
    /// Milliseconds since 1970.
    pub recorded_at: i64,
    /// In the canonical unit.
    pub value: f64,
    /// Of the frame it came with; of equal times the greater one counts.
    pub sequence: Sequence,
}

/// The names of a series.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SeriesName<'a> {
    /// Whose it is.
    pub org: &'a str,
    /// Who wears the device.
    pub user: &'a str,
    /// Canonical metric key.
    pub metric: &'a str,
    /// Who made the samples.
    pub source: &'a str,
    /// Which device.
    pub device: Option<&'a str>,
}

impl<'a> SeriesName<'a> {
    /// The series a group of a frame belongs to.
    #[must_use]
    pub fn of(org: &'a str, group: &Group<'a>) -> SeriesName<'a> {
        let Group { user, metric, source, device, .. } = *group;
        SeriesName { org, user, metric, source, device }
    }
}

/// A user's newest value of one metric, over all its sources and devices.
#[derive(Clone, Debug, PartialEq)]
pub struct LatestValue {
    /// Canonical metric key.
    pub metric: String,
    /// In the canonical unit.
    pub value: f64,
    /// Milliseconds since 1970.
    pub recorded_at: i64,
}

/// All series of the store.
#[derive(Debug)]
pub struct SeriesMap {
    names: Names,
    shards: Box<[Mutex<HashTable<User>>]>,
    series: AtomicU64,
}

#[derive(Debug)]
struct User {
    hash: u64,
    org: u32,
    id: Box<str>,
    series: Vec<Series>,
    /// Where each series stands, once there are more than [`SCANNED_MAX`].
    index: Option<Box<HashMap<SeriesKey, u32>>>,
    /// The newest durable sample of each metric: what `/latest` reads.
    newest: Vec<(u32, Newest)>,
}

/// Metric, source, device.
type SeriesKey = (u32, u32, u32);

#[derive(Debug)]
struct Series {
    key: SeriesKey,
    earliest: i64,
    latest: i64,
}

impl Default for SeriesMap {
    fn default() -> SeriesMap {
        SeriesMap {
            names: Names::default(),
            shards: (0..SHARDS).map(|_| Mutex::default()).collect(),
            series: AtomicU64::new(0),
        }
    }
}

impl SeriesMap {
    /// Widens a series' span by `earliest..=latest` and says how that lies to the
    /// span before. Called before the samples are durable: if they never become
    /// so, the span is too wide, which only makes the classifier look in vain.
    pub fn widen(&self, name: &SeriesName<'_>, earliest: i64, latest: i64) -> Mark {
        self.with(name, |series| series.widen(earliest, latest))
    }

    /// Takes in a durable run of samples, given by its newest one. Its span must
    /// have been widened before.
    pub fn advance(&self, name: &SeriesName<'_>, newest: Newest) {
        let metric = self.names.number(name.metric);
        self.with_user(name, |user| user.advance(metric, newest));
    }

    fn with<T>(&self, name: &SeriesName<'_>, change: impl FnOnce(&mut Series) -> T) -> T {
        let key = (
            self.names.number(name.metric),
            self.names.number(name.source),
            name.device.map_or(ABSENT, |device| self.names.number(device)),
        );
        self.with_user(name, |user| {
            let before = user.series.len();
            let outcome = change(user.series(key));
            self.series.fetch_add((user.series.len() - before) as u64, Ordering::Relaxed);
            outcome
        })
    }

    fn with_user<T>(&self, name: &SeriesName<'_>, change: impl FnOnce(&mut User) -> T) -> T {
        let org = self.names.number(name.org);
        let hash = user_hash(name.org, name.user);
        let mut shard = self.shard(hash).lock();
        let user = shard
            .entry(
                hash,
                |user| user.hash == hash && user.org == org && *user.id == *name.user,
                |user| user.hash,
            )
            .or_insert_with(|| User::new(hash, org, name.user))
            .into_mut();
        change(user)
    }

    /// The newest value of each metric of a user, sorted by metric.
    #[must_use]
    pub fn latest(&self, org: &str, user: &str) -> Vec<LatestValue> {
        let Some(org_number) = self.names.find(org) else {
            return Vec::new();
        };
        let hash = user_hash(org, user);
        let newest = {
            let shard = self.shard(hash).lock();
            let matches = |entry: &User| entry.hash == hash && entry.org == org_number && *entry.id == *user;
            shard.find(hash, matches).map_or_else(Vec::new, |user| user.newest.clone())
        };
        let mut values: Vec<LatestValue> = newest
            .into_iter()
            .map(|(metric, newest)| LatestValue {
                metric: self.names.text(metric),
                value: newest.value,
                recorded_at: newest.recorded_at,
            })
            .collect();
        values.sort_by(|a, b| a.metric.cmp(&b.metric));
        values
    }

    /// Forgets everything of a user.
    pub fn forget(&self, org: &str, user: &str) {
        let Some(org_number) = self.names.find(org) else { return };
        let hash = user_hash(org, user);
        let matches = |entry: &User| entry.hash == hash && entry.org == org_number && *entry.id == *user;
        if let Ok(entry) = self.shard(hash).lock().find_entry(hash, matches) {
            let (forgotten, _) = entry.remove();
            self.series.fetch_sub(forgotten.series.len() as u64, Ordering::Relaxed);
        }
    }

    /// Puts another newest value of a metric in place, or none.
    pub fn replace_newest(&self, org: &str, user: &str, metric: &str, newest: Option<Newest>) {
        let metric_number = self.names.number(metric);
        let name = SeriesName { org, user, metric, source: "", device: None };
        self.with_user(&name, |user| {
            user.newest.retain(|(known, _)| *known != metric_number);
            user.newest.extend(newest.map(|newest| (metric_number, newest)));
        });
    }

    /// How many series there are.
    #[must_use]
    pub fn series_count(&self) -> u64 {
        self.series.load(Ordering::Relaxed)
    }

    fn shard(&self, hash: u64) -> &Mutex<HashTable<User>> {
        // Not the bits the table inside uses for position and tag.
        &self.shards[(hash >> 40) as usize % SHARDS]
    }
}

impl User {
    fn new(hash: u64, org: u32, id: &str) -> User {
        User { hash, org, id: id.into(), series: Vec::new(), index: None, newest: Vec::new() }
    }

    /// The series with this key, made if it is new.
    fn series(&mut self, key: SeriesKey) -> &mut Series {
        let known = match &self.index {
            Some(index) => index.get(&key).map(|&at| at as usize),
            None => self.series.iter().position(|series| series.key == key),
        };
        let at = known.unwrap_or_else(|| self.add(key));
        &mut self.series[at]
    }

    fn add(&mut self, key: SeriesKey) -> usize {
        let place = |at: usize| u32::try_from(at).expect("under 4 billion series a user");
        let at = self.series.len();
        self.series.push(Series::new(key));
        match &mut self.index {
            Some(index) => {
                index.insert(key, place(at));
            }
            None if self.series.len() > SCANNED_MAX => {
                let places = self.series.iter().enumerate().map(|(at, series)| (series.key, place(at)));
                self.index = Some(Box::new(places.collect()));
            }
            None => {}
        }
        at
    }

    fn advance(&mut self, metric: u32, newest: Newest) {
        match self.newest.iter_mut().find(|(known, _)| *known == metric) {
            Some((_, best)) => best.replace_if_newer(newest),
            None => self.newest.push((metric, newest)),
        }
    }
}

impl Series {
    fn new(key: SeriesKey) -> Series {
        Series { key, earliest: i64::MAX, latest: i64::MIN }
    }

    fn widen(&mut self, earliest: i64, latest: i64) -> Mark {
        let disjoint = earliest > self.latest || latest < self.earliest;
        self.earliest = self.earliest.min(earliest);
        self.latest = self.latest.max(latest);
        if disjoint { Mark::New } else { Mark::Look }
    }
}

impl Newest {
    /// Later times win; of equal times the later received.
    fn replace_if_newer(&mut self, other: Newest) {
        if (other.recorded_at, other.sequence) >= (self.recorded_at, self.sequence) {
            *self = other;
        }
    }
}

/// The hash that places a user: in a shard here, in the buckets of a partition
/// on disk. XXH3 over organisation, a zero byte, user.
#[must_use]
pub fn user_hash(org: &str, user: &str) -> u64 {
    let mut hasher = Xxh3::new();
    hasher.update(org.as_bytes());
    hasher.update(&[0]);
    hasher.update(user.as_bytes());
    hasher.digest()
}

/// Numbers for names, in memory only: they never reach the disk. Split, so that
/// the committer and readers rarely meet.
#[derive(Debug, Default)]
struct Names {
    by_text: RwLock<HashMap<Box<str>, u32, DefaultHashBuilder>>,
    by_number: RwLock<Vec<Box<str>>>,
}

impl Names {
    fn number(&self, text: &str) -> u32 {
        if let Some(number) = self.find(text) {
            return number;
        }
        let mut by_text = self.by_text.write();
        let mut by_number = self.by_number.write();
        *by_text.entry(text.into()).or_insert_with(|| {
            by_number.push(text.into());
            u32::try_from(by_number.len() - 1).expect("under 4 billion names")
        })
    }

    fn find(&self, text: &str) -> Option<u32> {
        self.by_text.read().get(text).copied()
    }

    fn text(&self, number: u32) -> String {
        self.by_number.read()[number as usize].to_string()
    }
}
