//! The series map: what is kept, what is evicted, what a start reads.

use std::io::IoSlice;
use std::path::Path;
use std::sync::Arc;

use systole_storage::Catalog;
use systole_storage::disk::Disk;
use systole_storage::frame::{Mark, Sequence};
use systole_storage::series::{LATEST_DIR, LatestValue, Newest, SeriesMap, SeriesName};
use tempfile::TempDir;

use super::fixture::{TestStore, heart_rate};
use super::simulated_disk::SimulatedDisk;

/// A map over a simulated disk with a catalog of its own.
pub struct TestMap {
    pub map: SeriesMap,
    pub disk: SimulatedDisk,
    pub catalog: Arc<Catalog>,
    pub dir: TempDir,
    bytes_max: usize,
}

impl TestMap {
    pub fn new(bytes_max: usize) -> TestMap {
        let dir = tempfile::tempdir().unwrap();
        let catalog = Arc::new(Catalog::open(dir.path()).unwrap());
        TestMap::open(SimulatedDisk::default(), catalog, dir, bytes_max)
    }

    fn open(disk: SimulatedDisk, catalog: Arc<Catalog>, dir: TempDir, bytes_max: usize) -> TestMap {
        let map = SeriesMap::open(Arc::new(disk.clone()), dir.path(), catalog.clone(), bytes_max).unwrap();
        TestMap { map, disk, catalog, dir, bytes_max }
    }

    /// The map that a start finds on what is left of the disk.
    pub fn reopen(self, disk: SimulatedDisk) -> TestMap {
        TestMap::open(disk, self.catalog, self.dir, self.bytes_max)
    }

    /// Takes in one sample.
    pub fn put(&self, user: &str, metric: &str, recorded_at: i64, sequence: u64) -> Mark {
        self.put_of(&name(user, metric), recorded_at, sequence)
    }

    pub fn put_of(&self, name: &SeriesName<'_>, recorded_at: i64, sequence: u64) -> Mark {
        let mark = self.map.widen(name, recorded_at, recorded_at);
        let newest = Newest { recorded_at, value: sequence as f64, sequence: Sequence(sequence) };
        self.map.advance(name, recorded_at, recorded_at, newest);
        mark
    }

    /// Puts another newest value in the place of a metric's, if it has one.
    pub fn replace(&self, user: &str, metric: &str, found: Option<Newest>) {
        let Some(old) = self.newest(user, metric) else { return };
        self.map.seek_newest("default", user, metric);
        assert!(self.map.replace_newest("default", user, &old, found).unwrap());
    }

    fn newest(&self, user: &str, metric: &str) -> Option<LatestValue> {
        let latest = self.map.latest("default", user).unwrap();
        latest.into_iter().find(|value| value.metric == metric)
    }

    pub fn latest(&self, user: &str) -> Vec<(String, i64, f64)> {
        plain(self.map.latest("default", user).unwrap())
    }

    /// Every file below the checkpoints' folder.
    pub fn files(&self) -> Vec<std::path::PathBuf> {
        self.disk.list(&self.dir.path().join(LATEST_DIR)).unwrap()
    }

    /// What a file holds.
    fn bytes(&self, path: &Path) -> Vec<u8> {
        let file = self.disk.open(path).unwrap();
        let mut bytes = vec![0; usize::try_from(file.byte_len().unwrap()).unwrap()];
        file.read_exact_at(&mut bytes, 0).unwrap();
        bytes
    }

    /// What the catalog lists, as paths.
    pub fn listed(&self) -> Vec<std::path::PathBuf> {
        let records = self.catalog.checkpoints().unwrap().0;
        records.iter().map(|record| self.dir.path().join(&record.path)).collect()
    }
}

pub fn name<'a>(user: &'a str, metric: &'a str) -> SeriesName<'a> {
    SeriesName { org: "default", user, metric, source: "garmin", device: None }
}

pub fn plain(values: Vec<LatestValue>) -> Vec<(String, i64, f64)> {
    values.into_iter().map(|value| (value.metric, value.recorded_at, value.value)).collect()
}

fn one(metric: &str, recorded_at: i64, value: f64) -> Vec<(String, i64, f64)> {
    vec![(metric.to_owned(), recorded_at, value)]
}

#[test]
fn marks_are_new_only_outside_of_what_was_there() {
    let map = TestMap::new(1 << 30);
    let spans = [((10, 20), Mark::New), ((21, 30), Mark::New), ((5, 9), Mark::New), ((9, 10), Mark::Look)];
    for ((earliest, latest), mark) in spans {
        assert_eq!(map.map.widen(&name("u_1", "heart_rate"), earliest, latest), mark);
    }
    let other = SeriesName { device: Some("d_1"), ..name("u_1", "heart_rate") };
    assert_eq!(map.map.widen(&other, 10, 20), Mark::New);
}

#[test]
fn an_evicted_user_is_answered_from_the_checkpoint_and_marks_look_until_read_back() {
    let map = TestMap::new(0);
    assert_eq!(map.put("u_1", "heart_rate", 10, 1), Mark::New);
    map.map.checkpoint(Sequence(1), false).unwrap();
    assert_eq!((map.map.stats().users, map.map.stats().evictions), (0, 1));
    assert_eq!(map.latest("u_1"), one("heart_rate", 10, 1.0));
    // Far from what was there, but the committer cannot know.
    assert_eq!(map.put("u_1", "heart_rate", 1000, 2), Mark::Look);
    assert_eq!(map.put("u_1", "steps", 5, 3), Mark::Look);
    let both = [one("heart_rate", 1000, 2.0), one("steps", 5, 3.0)].concat();
    assert_eq!(map.latest("u_1"), both);
    // Now its past is known again.
    assert_eq!(map.put("u_1", "heart_rate", 2000, 4), Mark::New);
    assert_eq!(map.put("u_1", "heart_rate", 10, 5), Mark::Look);
    assert_eq!(map.put("u_2", "heart_rate", 10, 6), Mark::New);
    assert!(map.map.stats().read_backs >= 2);
}

#[test]
fn a_new_user_beside_many_evicted_ones_is_new() {
    let map = TestMap::new(0);
    for user in 0..2000 {
        map.put(&format!("u_{user}"), "steps", 10, 1);
    }
    map.map.checkpoint(Sequence(1), false).unwrap();
    let new = (0..2000).filter(|user| map.put(&format!("v_{user}"), "steps", 10, 2) == Mark::New).count();
    assert!(new > 1900, "{new} of 2000");
    assert!((0..2000).all(|user| map.put(&format!("u_{user}"), "steps", 10, 3) == Mark::Look));
}

#[test]
fn a_forgotten_user_is_gone_at_once_and_its_bytes_after_a_rewrite() {
    let map = TestMap::new(0);
    map.put("u_forgotten", "heart_rate", 10, 1);
    map.put("u_2", "heart_rate", 10, 2);
    map.map.checkpoint(Sequence(2), false).unwrap();
    map.map.forget("default", "u_forgotten", Sequence(3));
    assert_eq!(map.latest("u_forgotten"), []);
    assert_eq!(map.put("u_forgotten", "steps", 10, 4), Mark::New);
    map.map.checkpoint(Sequence(4), false).unwrap();
    assert_eq!(map.latest("u_forgotten"), one("steps", 10, 4.0));
    map.map.forget("default", "u_forgotten", Sequence(5));
    map.map.checkpoint(Sequence(5), true).unwrap();
    assert_eq!(map.latest("u_forgotten"), []);
    assert_eq!(map.files(), map.listed());
    let holds = |path: &Path| {
        let bytes = map.bytes(path);
        let holds = |text: &[u8]| bytes.windows(text.len()).any(|window| window == text);
        (holds(b"u_forgotten"), holds(b"u_2"))
    };
    assert_eq!(map.files().iter().map(|path| holds(path)).collect::<Vec<_>>(), [(false, true)]);
}

#[test]
fn a_user_forgotten_too_late_never_gets_a_wrong_new() {
    let map = TestMap::new(1 << 30);
    map.put("u_1", "heart_rate", 10, 1);
    map.put("u_1", "heart_rate", 20, 3);
    map.map.forget("default", "u_1", Sequence(2));
    assert_eq!(map.latest("u_1"), one("heart_rate", 20, 3.0));
    assert_eq!(map.put("u_1", "heart_rate", 20, 4), Mark::Look);
}

#[test]
fn a_replaced_newest_value_is_not_brought_back_by_an_older_checkpoint() {
    let map = TestMap::new(0);
    map.put("u_1", "heart_rate", 50, 1);
    map.map.checkpoint(Sequence(1), false).unwrap();
    let older = Newest { recorded_at: 20, value: 7.0, sequence: Sequence(1) };
    map.replace("u_1", "heart_rate", Some(older));
    assert_eq!(map.latest("u_1"), one("heart_rate", 20, 7.0));
    map.map.checkpoint(Sequence(2), false).unwrap();
    assert_eq!(map.latest("u_1"), one("heart_rate", 20, 7.0));
    map.replace("u_1", "heart_rate", None);
    assert_eq!(map.latest("u_1"), []);
}

#[test]
fn what_comes_while_a_newest_value_is_looked_for_counts_also_if_it_is_older_than_that() {
    let newest = |at: i64| Some(Newest { recorded_at: at, value: 7.0, sequence: Sequence(1) });
    for (found, came, expected) in [
        (None, 30, (30, 2.0)),
        (newest(20), 30, (30, 2.0)),
        (newest(40), 30, (40, 7.0)),
        (None, 60, (60, 2.0)),
    ] {
        let map = TestMap::new(0);
        map.put("u_1", "heart_rate", 50, 1);
        let old = map.newest("u_1", "heart_rate").unwrap();
        assert_eq!(map.map.seek_newest("default", "u_1", "heart_rate"), Sequence(1));
        map.put("u_1", "heart_rate", came, 2);
        map.put("u_1", "steps", 45, 3);
        map.put("u_2", "heart_rate", 45, 4);
        map.map.checkpoint(Sequence(4), false).unwrap();
        assert!(map.map.replace_newest("default", "u_1", &old, found).unwrap());
        assert_eq!(map.latest("u_1")[0], ("heart_rate".to_owned(), expected.0, expected.1));
        // It counted once.
        map.replace("u_1", "heart_rate", None);
        assert_eq!(map.latest("u_1"), one("steps", 45, 3.0));
    }
}

#[test]
fn nothing_that_was_found_of_a_user_counts_once_the_user_is_forgotten() {
    let map = TestMap::new(0);
    map.put("u_1", "heart_rate", 50, 1);
    map.put("u_2", "heart_rate", 50, 2);
    let older = Newest { recorded_at: 20, value: 7.0, sequence: Sequence(1) };
    for (through, ends, left) in [(0, false, one("heart_rate", 50, 1.0)), (1, true, Vec::new())] {
        let old = map.newest("u_1", "heart_rate").unwrap();
        map.map.seek_newest("default", "u_1", "heart_rate");
        map.map.forget("default", "u_1", Sequence(through));
        let done = map.map.replace_newest("default", "u_1", &old, Some(older)).unwrap();
        assert_eq!((done, map.latest("u_1")), (ends, left), "{through}");
    }
}

#[test]
fn series_beyond_a_users_share_are_counted_together_and_never_wrongly_new() {
    let map = TestMap::new(1 << 30);
    let devices: Vec<String> = (0..5000).map(|device| format!("d_{device}")).collect();
    let of = |device: &'_ usize| SeriesName { device: Some(&devices[*device]), ..name("u_1", "steps") };
    for device in 0..5000 {
        map.put_of(&of(&device), device as i64, 1);
    }
    assert!(map.map.series_count() <= 1025);
    assert!(map.map.stats().bytes < 400_000, "{}", map.map.stats().bytes);
    assert!((0..5000).all(|device| map.map.widen(&of(&device), device as i64, device as i64) == Mark::Look));
    assert_eq!(map.map.widen(&of(&4999), 10_000, 10_001), Mark::New);
}

/// A checkpoint of version 1: user `u_1` of `default` with one series and value.
const VERSION_1: &[u8] = include_bytes!("../golden/checkpoint-v1.series");

#[test]
fn a_checkpoint_of_version_1_is_written_and_read_as_ever() {
    let map = TestMap::new(0);
    let name = SeriesName { device: Some("venu-3"), ..name("u_1", "heart_rate") };
    map.put_of(&name, 1_782_805_500_000, 7);
    map.map.checkpoint(Sequence(9), false).unwrap();
    assert_eq!(map.bytes(&map.listed()[0]), VERSION_1);

    let old = TestMap::new(1 << 30);
    let (records, position) = map.catalog.checkpoints().unwrap();
    old.catalog.replace_checkpoints(&records, position).unwrap();
    let file = old.disk.create(&old.listed()[0], 0).unwrap();
    file.write_all_at(&mut [IoSlice::new(VERSION_1)], 0).unwrap();
    let disk = old.disk.clone();
    let old = old.reopen(disk);
    assert_eq!((old.map.position(), old.map.series_count()), (Sequence(9), 1));
    assert_eq!(old.latest("u_1"), one("heart_rate", 1_782_805_500_000, 7.0));
    assert_eq!(old.map.widen(&name, 1_782_805_500_000, 1_782_805_500_000), Mark::Look);
    assert_eq!(old.map.widen(&name, 1_782_805_500_001, 1_782_805_500_001), Mark::New);
}

#[test]
fn pages_hold_every_user_of_an_organisation_once_in_memory_or_not() {
    let map = TestMap::new(0);
    let put = |from: usize, to: usize, sequence| {
        for user in from..to {
            map.put(&format!("u_{user}"), "steps", 10, sequence);
            let acme = SeriesName { org: "acme", ..name("u_1", "steps") };
            map.put_of(&acme, 99, sequence);
        }
    };
    put(0, 3000, 1);
    map.map.checkpoint(Sequence(1), false).unwrap();
    put(2000, 4000, 2);
    let pages = (0..map.map.pages()).flat_map(|page| map.map.latest_of_page("default", page).unwrap());
    let mut users: Vec<(String, f64)> = pages.map(|(user, values)| (user, values[0].value)).collect();
    users.sort_by(|a, b| a.0.cmp(&b.0));
    let mut expected: Vec<(String, f64)> =
        (0..4000).map(|user| (format!("u_{user}"), if user < 2000 { 1.0 } else { 2.0 })).collect();
    expected.sort_by(|a, b| a.0.cmp(&b.0));
    assert_eq!(users, expected);
}

#[test]
fn checkpoints_stay_few_and_a_byte_is_written_a_few_times() {
    let map = TestMap::new(1 << 30);
    for round in 0..100u64 {
        for user in 0..50 {
            map.put(&format!("u_{}", round * 25 + user), "steps", 10, round + 1);
        }
        map.map.checkpoint(Sequence(round + 1), false).unwrap();
        let stats = map.map.stats();
        assert!(stats.checkpoint_files <= 9, "{stats:?}");
        assert_eq!(map.files(), map.listed());
    }
    let stats = map.map.stats();
    let amplification = stats.checkpoint_bytes_written as f64 / stats.checkpoint_bytes as f64;
    assert!(amplification < 14.0, "{amplification}");
}

#[test]
fn a_user_in_memory_takes_the_bound_and_no_more() {
    let bound = 1 << 20;
    let map = TestMap::new(bound);
    for user in 0..20_000 {
        map.put(&format!("u_{user}"), "steps", 10, user + 1);
        if map.map.is_pressing() {
            map.map.checkpoint(Sequence(user + 1), false).unwrap();
        }
        assert!(map.map.stats().bytes < bound as u64 * 5 / 4, "{:?}", map.map.stats());
    }
    assert!(map.map.stats().evictions > 5_000, "{:?}", map.map.stats());
    assert!((0..20_000).all(|user| map.latest(&format!("u_{user}")) == one("steps", 10, user as f64 + 1.0)));
}

#[test]
fn a_damaged_checkpoint_is_named_by_reads_and_made_anew_by_a_start() {
    let map = TestMap::new(0);
    for user in 0..2000 {
        map.put(&format!("u_{user}"), "steps", 10, 1);
    }
    map.map.checkpoint(Sequence(1), false).unwrap();
    let path = map.listed().pop().unwrap();
    map.disk.corrupt(&path, |bytes| bytes[5000] ^= 1);
    let failed: Vec<String> = (0..2000)
        .filter_map(|user| map.map.latest("default", &format!("u_{user}")).err())
        .map(|error| error.to_string())
        .collect();
    assert!(!failed.is_empty() && failed.len() < 2000, "{}", failed.len());
    assert!(failed[0].contains(path.to_str().unwrap()) && failed[0].contains("byte 8"), "{}", failed[0]);
    // A start with room for everything finds it and wants everything again.
    let disk = map.disk.clone();
    let map = TestMap::open(disk, map.catalog, map.dir, 1 << 30);
    assert_eq!(map.map.position(), Sequence::ZERO);
    assert_eq!((map.files(), map.listed()), (vec![], vec![]));
}

#[test]
fn a_start_reads_only_files_behind_the_checkpoint() {
    let dir = tempfile::tempdir().unwrap();
    let mut store = TestStore::open(dir.path());
    for batch in 0..20 {
        store.commit(&heart_rate(&format!("u_{batch}"), batch * 1_000_000, 10));
        store.flush();
    }
    store.store.checkpoint_series(store.store.flushed_position(), false).unwrap();
    let old = store.store.catalog().files().unwrap();
    store.commit(&heart_rate("u_3", 90_000_000, 10));
    store.flush();
    store.commit(&heart_rate("u_4", 95_000_000, 10));
    drop(store);
    // Whoever reads these finds that they are damaged.
    for file in &old {
        std::fs::write(dir.path().join(&file.path), vec![7; file.bytes as usize]).unwrap();
    }
    let store = TestStore::open(dir.path());
    let series = store.store.series();
    for (user, recorded_at) in [("u_0", 9_000), ("u_3", 90_009_000), ("u_4", 95_009_000)] {
        assert_eq!(series.latest("default", user).unwrap()[0].recorded_at, recorded_at, "{user}");
    }
    assert_eq!(series.widen(&name("u_19", "heart_rate"), 19_000_000, 19_000_000), Mark::Look);
    assert_eq!(series.widen(&name("u_19", "heart_rate"), 99_000_000, 99_000_000), Mark::New);
}

#[test]
fn a_start_without_its_checkpoints_reads_everything_again() {
    let dir = tempfile::tempdir().unwrap();
    let mut store = TestStore::open(dir.path());
    store.commit(&heart_rate("u_1", 1_000_000, 10));
    store.flush();
    store.store.checkpoint_series(store.store.flushed_position(), false).unwrap();
    drop(store);
    std::fs::remove_dir_all(dir.path().join(LATEST_DIR)).unwrap();
    let store = TestStore::open(dir.path());
    assert_eq!(store.store.series().latest("default", "u_1").unwrap()[0].recorded_at, 1_009_000);
}
