//! Erasure on a machine that tests can stop: the order, its carrying-out step by step
//! as the engine does it, and the look for what is left.

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::Arc;

use systole_storage::disk::Disk;
use systole_storage::files::{DataFile, erased_in};
use systole_storage::frame::{Erased, Frame, Stamp, Tombstone, encode_tombstone};
use systole_storage::hidden::Hidden;
use systole_storage::series::Newest;
use systole_storage::{Orders, Sequence, StoreError, Unhurried};

use super::machine::{DATA_DIR, EVERYTHING, Machine, Promise, Refused, Running, Work, all_rows};

/// What is to be erased.
#[derive(Clone, Debug)]
pub struct Order {
    pub org: &'static str,
    pub user: String,
    pub erased: Erased,
}

impl Order {
    /// Whether it covers a row of this user, metric and time, whenever it came.
    pub fn covers(&self, org: &str, user: &str, metric: &str, time: i64) -> bool {
        self.org == org
            && self.user == user
            && match &self.erased {
                Erased::User { .. } => true,
                Erased::Range { metric: of, start, end } => of == metric && (*start..*end).contains(&time),
            }
    }

    /// Whether nothing is taken of the user any more.
    pub fn blocks(&self) -> bool {
        self.erased == Erased::User { block: true }
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
            user: order.user.clone(),
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
        self.set_newest(&orders)?;
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
        }
        Ok(())
    }

    fn set_newest(&self, orders: &Orders) -> Result<(), Refused> {
        let snapshot = self.store.snapshot();
        for order in orders.all() {
            let Erased::Range { metric, .. } = &order.erased else { continue };
            let rows = all_rows(&snapshot, &snapshot.hidden, "newest");
            let of_it =
                |key: &&super::machine::Key| (&key.0, &key.1, &key.2) == (&order.org, &order.user, metric);
            let newest = rows.iter().filter(|(key, _)| of_it(key)).max_by_key(|(key, row)| (key.3, row.0));
            let newest = newest.map(|(key, row)| Newest {
                recorded_at: key.3,
                value: row.1,
                sequence: Sequence(row.0),
            });
            let series = self.store.series();
            series
                .replace_newest(&order.org, &order.user, metric, self.synced, newest)
                .map_err(StoreError::from)?;
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

fn check_bytes(bytes: &[u8], gone: &[&str], path: &Path, what: &str) {
    for user in gone {
        let holds = bytes.windows(user.len()).any(|part| part == user.as_bytes());
        assert!(!holds, "{what}: {} still has the name {user}", path.display());
    }
}
