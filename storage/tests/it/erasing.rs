//! Erasure on a machine that tests can stop: the order, its carrying-out step by step
//! as the engine does it, and the look for what is left.

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::{Arc, Mutex, mpsc};
use std::time::Duration;

use systole_storage::disk::{Disk, RealDisk};
use systole_storage::files::{DataFile, erased_in};
use systole_storage::frame::{Erased, Frame, Kind, SamplesFrame, Stamp, Tombstone, encode_tombstone};
use systole_storage::hidden::{EVERY_METRIC, Hidden, RetentionRule};
use systole_storage::series::{Newest, SeriesName};
use systole_storage::{
    Catalog, Commits, LatestValue, Orders, Sequence, Store, StoreError, StoreSettings, Unhurried,
};

use super::fixture::{Samples, TestStore, everything_of, heart_rate, range_of};
use super::machine::{
    DATA_DIR, EVERYTHING, Key, Machine, Promise, Refused, Rows, Running, SERIES_BYTES, Step, Work, all_rows,
};

/// What is to be erased.
#[derive(Clone, Debug)]
pub struct Order {
    pub org: &'static str,
    pub erased: Erased,
}

impl Order {
    /// Whether it covers a row of this user, metric and time, whenever it came.
    pub fn covers(&self, org: &str, user: &str, metric: &str, time: i64) -> bool {
        if self.org != org {
            return false;
        }
        match &self.erased {
            Erased::User { user: of, .. } => of == user,
            Erased::Range { user: of, metric: of_metric, start, end } => {
                of.as_deref().is_none_or(|of| of == user)
                    && of_metric.as_deref().is_none_or(|of| of == metric)
                    && (*start..*end).contains(&time)
            }
        }
    }

    /// Whether nothing is taken of the user any more.
    pub fn blocks(&self) -> bool {
        matches!(self.erased, Erased::User { block: true, .. })
    }
}

impl Running {
    /// Commits an order.
    pub(super) fn order(&mut self, order: &Order, promise: &mut Promise) -> Result<(), Refused> {
        self.given = self.given.next();
        let stamp = Stamp {
            sequence: self.given,
            synced: self.synced,
            ordering: self.given.0,
            committed_at: 1_782_805_500_000_000,
        };
        let tombstone = Tombstone {
            id: format!("era_{}", self.given),
            org: order.org.to_owned(),
            erased: order.erased.clone(),
            sequence: Sequence::ZERO,
            created_at: 0,
        };
        let bytes = encode_tombstone(&tombstone).seal(stamp);
        self.append(&[&bytes], vec![(self.given.0, Work::Order(order.clone()))], promise)?;
        self.store.publish_frames(&[Frame::parse(bytes.into()).unwrap()]);
        // The receipt is given when the catalog has it.
        Ok(self.store.record_tombstones()?)
    }

    /// Carries out the orders that wait, each step as the engine does it.
    pub(super) fn carry_out(&mut self) -> Result<(), Refused> {
        let orders = Orders::new(self.store.hidden().waiting());
        if orders.all().is_empty() {
            return Ok(());
        }
        self.store.record_tombstones()?;
        // Segments stay, as if somebody had still to read them.
        self.flush_buffers()?;
        let holds = |file: &Arc<DataFile>| Ok(!erased_in(file, orders.all())?.is_empty());
        self.store.rewrite(EVERYTHING, &holds, &mut Unhurried)?;
        self.store.erase_attempts(orders.all(), &mut Unhurried, &mut |_| ())?;
        self.rewrite_segments(&orders)?;
        set_newest(&self.store, &orders, self.synced)?;
        self.store.forget_blocked(&orders);
        self.store.checkpoint_series(self.store.flushed_position(), true)?;
        self.store.bury()?;
        let catalog = self.store.catalog();
        assert_eq!(catalog.garbage().map_err(StoreError::from)?, [] as [String; 0], "nobody reads them");
        catalog.finish_erasures(&orders.ids()).map_err(StoreError::from)?;
        assert!(catalog.empty_log().map_err(StoreError::from)?, "nobody reads the catalog");
        self.store.unhide(orders.all());
        Ok(())
    }

    fn rewrite_segments(&mut self, orders: &Orders) -> Result<(), Refused> {
        let current = self.writer.seal()?;
        let rewriter = self.log.rewriter();
        for id in rewriter.before(current) {
            rewriter.rewrite(id, |header, bytes| orders.emptied(header, bytes, &mut BTreeSet::new()))?;
            rewriter.rewrite(id, |header, bytes| {
                if header.kind == Kind::Samples as u8 {
                    check_frame(&SamplesFrame::parse(bytes.to_vec().into())?, orders);
                }
                Ok(None)
            })?;
        }
        Ok(())
    }

    /// Checks that nothing is left of what was erased, unless something waits for it.
    pub fn check_erased(&self, machine: &Machine, promise: &Promise, what: &str) {
        if !self.store.hidden().waiting().is_empty() {
            return;
        }
        let rows = all_rows(&self.store.snapshot(), &Hidden::default(), what);
        let left: Vec<_> = rows.iter().filter(|&(key, row)| promise.rows.get(key) != Some(row)).collect();
        assert!(left.is_empty(), "{what}: rows are left: {left:?}");
        machine.check_without(promise, what);
    }
}

/// Brings newest values right as the engine does, found without queries.
pub(super) fn set_newest(store: &Store, orders: &Orders, through: Sequence) -> Result<(), StoreError> {
    let snapshot = store.snapshot();
    let rows = all_rows(&snapshot, &snapshot.hidden, "newest");
    store.set_newest(orders, |org, user, metric| Ok((through, newest_of(&rows, org, user, metric))))
}

/// Takes newest values out of the map as the engine does, found without queries.
pub(super) fn forget_aged(running: &Running) -> Result<u64, StoreError> {
    let rows = all_rows(&running.store.snapshot(), &Hidden::default(), "newest");
    let find = |org: &str, user: &str, value: &LatestValue| {
        Ok((running.synced, newest_of(&rows, org, user, &value.metric)))
    };
    running.store.forget_aged(find)
}

/// The newest row of a user's metric.
pub(super) fn newest_of(rows: &Rows, org: &str, user: &str, metric: &str) -> Option<Newest> {
    let of_it = |key: &&Key| (key.0.as_str(), key.1.as_str(), key.2.as_str()) == (org, user, metric);
    let newest = rows.iter().filter(|(key, _)| of_it(key)).max_by_key(|(key, row)| (key.3, row.0));
    newest.map(|(key, row)| Newest { recorded_at: key.3, value: row.1, sequence: Sequence(row.0) })
}

impl Machine {
    /// Checks that no file has the name of a user of whom everything was erased.
    pub fn check_without(&self, promise: &Promise, what: &str) {
        let gone: Vec<&str> = promise.gone().collect();
        for path in self.disk.list(Path::new(DATA_DIR)).unwrap() {
            let file = self.disk.open(&path).unwrap();
            let mut bytes = vec![0; usize::try_from(file.byte_len().unwrap()).unwrap()];
            file.read_exact_at(&mut bytes, 0).unwrap();
            check_bytes(&bytes, &gone, &path, what);
        }
        for entry in std::fs::read_dir(self.catalog_dir.path()).unwrap() {
            let path = entry.unwrap().path();
            check_bytes(&std::fs::read(&path).unwrap(), &gone, &path, what);
        }
    }
}

/// Checks that a frame of the journal has no sample that an order covers.
fn check_frame(frame: &SamplesFrame, orders: &Orders) {
    let sequence = frame.header().stamp.sequence;
    for group in frame.groups() {
        for time in group.rows().map(|row| frame.recorded_at(row)) {
            let mut before = orders.all().iter().filter(|order| sequence <= order.sequence);
            let left = before
                .any(|order| order.org == frame.org() && order.erased.covers(group.user, group.metric, time));
            assert!(!left, "frame {sequence} still has {}/{} at {time}", group.user, group.metric);
        }
    }
}

fn check_bytes(bytes: &[u8], gone: &[&str], path: &Path, what: &str) {
    for user in gone {
        let holds = bytes.windows(user.len()).any(|part| part == user.as_bytes());
        assert!(!holds, "{what}: {} still has the name {user}", path.display());
    }
}

#[test]
fn newest_values_of_many_users_are_set_within_the_memory_of_the_map() {
    const USERS: i64 = 8_000;
    let machine = Machine::default();
    let (mut running, mut promise) = (machine.start_with(1 << 20, 1 << 20).unwrap(), Promise::default());
    let samples =
        |user: i64| Samples { rows: vec![(1, 1.0), (2, 2.0)], ..heart_rate(&format!("u_{user}"), 0, 0) };
    for first in (0..USERS).step_by(500) {
        let group = (first..first + 500).map(samples).collect();
        for step in [Step::Commit(group), Step::Flush, Step::Checkpoint] {
            running.run(&step, &mut promise).unwrap();
        }
    }
    let order = Order { org: "default", erased: range_of(None, None, 2..i64::MAX) };
    running.run(&Step::Erase(order), &mut promise).unwrap();
    let (store, orders) = (&running.store, Orders::new(running.store.hidden().waiting()));
    let (mut found, mut most) = (0, 0);
    let left = Newest { recorded_at: 1, value: 1.0, sequence: Sequence(1) };
    let find = |_: &str, _: &str, _: &str| {
        found += 1;
        most = most.max(store.series().stats().bytes);
        Ok::<_, StoreError>((running.synced, Some(left)))
    };
    store.set_newest(&orders, find).unwrap();
    assert_eq!(found, USERS);
    // What an update brings in may go a few updates later.
    assert!(most <= (SERIES_BYTES + SERIES_BYTES / 32) as u64, "{most} bytes");
    assert!(store.series().stats().evictions > 0, "all of them fit");
    for user in (0..USERS).step_by(40) {
        let latest = store.series().latest("default", &format!("u_{user}")).unwrap();
        assert_eq!((latest.len(), latest[0].recorded_at), (1, 1), "{user}");
    }
}

#[test]
fn a_sample_that_comes_while_the_newest_value_is_looked_for_is_the_newest() {
    let dir = tempfile::tempdir().unwrap();
    let mut store = TestStore::open(dir.path());
    let samples = |time: i64| Samples { rows: vec![(time, time as f64)], ..heart_rate("u_1", 0, 0) };
    let newest = |store: &TestStore| store.store.series().latest("default", "u_1").unwrap();
    let found =
        |time: i64, sequence: Sequence| Some(Newest { recorded_at: time, value: time as f64, sequence });
    let first = store.commit(&samples(10));
    store.commit(&samples(1000));
    store.erase("default", range_of(Some("u_1"), None, 900..2000));
    let (inner, orders) = (store.store.clone(), Orders::new(store.store.hidden().waiting()));
    // Older than the deleted one, newer than what is left.
    let came = |_: &str, _: &str, _: &str| {
        let through = store.last;
        store.commit(&samples(500));
        Ok::<_, StoreError>((through, found(10, first)))
    };
    inner.set_newest(&orders, came).unwrap();
    assert_eq!(newest(&store)[0].recorded_at, 500);

    // One that the map has and no snapshot yet.
    store.commit(&samples(1000));
    store.erase("default", range_of(Some("u_1"), None, 900..2000));
    let orders = Orders::new(store.store.hidden().waiting());
    let (before, mut asked) = (store.last, 0);
    let last = store.last.next();
    let name =
        SeriesName { org: "default", user: "u_1", metric: "heart_rate", source: "garmin", device: None };
    inner.series().advance(&name, 600, 600, found(600, last).unwrap());
    let published = |_: &str, _: &str, _: &str| {
        asked += 1;
        Ok::<_, StoreError>(if asked == 1 { (before, found(500, before)) } else { (last, found(600, last)) })
    };
    inner.set_newest(&orders, published).unwrap();
    assert_eq!((newest(&store)[0].recorded_at, asked), (600, 2));

    // The user is erased meanwhile.
    store.commit(&samples(700));
    store.commit(&samples(1000));
    store.erase("default", range_of(Some("u_1"), None, 900..2000));
    let orders = Orders::new(store.store.hidden().waiting());
    let erased = |_: &str, _: &str, _: &str| {
        let through = store.last;
        store.erase("default", everything_of("u_1", false));
        Ok::<_, StoreError>((through, found(700, through)))
    };
    inner.set_newest(&orders, erased).unwrap();
    assert_eq!(newest(&store), []);
}

/// Does something in the middle of the next transaction, and takes that back if it cannot be
/// done before the transaction ends.
#[derive(Default)]
struct Meanwhile(Mutex<Option<Box<dyn FnOnce() + Send>>>);

impl Commits for Meanwhile {
    fn before(&self) -> bool {
        let Some(work) = self.0.lock().unwrap().take() else { return true };
        let (done, waited) = mpsc::channel();
        std::thread::spawn(move || {
            work();
            done.send(())
        });
        waited.recv_timeout(Duration::from_secs(20)).is_ok()
    }

    fn after(&self) -> bool {
        true
    }
}

#[test]
fn an_order_hides_while_the_catalog_is_being_written() {
    let dir = tempfile::tempdir().unwrap();
    let commits = Arc::new(Meanwhile::default());
    let catalog = Arc::new(Catalog::open_watched(dir.path(), commits.clone()).unwrap());
    let settings = StoreSettings {
        data_dir: dir.path().to_owned(),
        segment_bytes: 64 * 1024,
        flush_bytes: 1 << 20,
        series_bytes: 1 << 20,
    };
    let store = Store::open_on(&settings, Arc::new(RealDisk), catalog.clone()).unwrap().store;
    let order = |number: u64| {
        let (store, sequence) = (store.clone(), Sequence(number));
        let erased = everything_of(&format!("u_{number}"), false);
        let (id, org) = (format!("era_{number}"), "default".to_owned());
        let tombstone = Tombstone { id, org, erased, sequence, created_at: 0 };
        let stamp = Stamp { sequence, synced: sequence, ordering: number, committed_at: 0 };
        let bytes = encode_tombstone(&tombstone).seal(stamp);
        move || store.publish_frames(&[Frame::parse(bytes.into()).unwrap()])
    };
    let waiting = || catalog.waiting_tombstones().unwrap().len();
    order(1)();
    *commits.0.lock().unwrap() = Some(Box::new(order(2)));
    store.record_tombstones().unwrap();
    assert_eq!((waiting(), store.hidden().waiting().len()), (1, 2));
    let rule = RetentionRule { metric: EVERY_METRIC.to_owned(), days: Some(1) };
    *commits.0.lock().unwrap() = Some(Box::new(order(3)));
    store.set_retention("default", vec![rule]).unwrap();
    assert_eq!((waiting(), store.hidden().waiting().len()), (1, 3));
    store.record_tombstones().unwrap();
    assert_eq!(waiting(), 3);
}
