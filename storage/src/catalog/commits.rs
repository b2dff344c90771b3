//! A say in every commit, so that tests can stop the machine just before a
//! transaction is durable, or lose the answer just behind it.
//!
//! It hangs on SQLite's own hooks: no statement of the catalog passes it by, and a
//! transaction is there whole or not at all.

use std::path::Path;
use std::sync::Arc;

use rusqlite::ffi;

use super::{Catalog, CatalogError};

/// Asked about each transaction that writes. A machine that has stopped says no to
/// everything.
pub trait Commits: Send + Sync {
    /// A transaction is about to be durable. False takes all of it back, and the call
    /// that made it fails.
    fn before(&self) -> bool;

    /// A transaction is durable. False lets the call that made it fail all the same,
    /// like a commit whose answer was lost.
    fn after(&self) -> bool;
}

impl Catalog {
    /// Opens the catalog of a data dir, whose transactions `commits` is asked about
    /// from then on. SQLite's log is no longer brought into the file on the way, only
    /// when the catalog is closed.
    ///
    /// # Errors
    /// As [`Catalog::open`].
    pub fn open_watched(data_dir: &Path, commits: Arc<dyn Commits>) -> Result<Catalog, CatalogError> {
        let catalog = Catalog::open(data_dir)?;
        let before = commits.clone();
        {
            let mut connection = catalog.connection.lock();
            // SQLite takes true for: roll back.
            connection.commit_hook(Some(move || !before.before()))?;
            connection.wal_hook(Some(move |_: &mut rusqlite::hooks::Wal, _| {
                let lost = || rusqlite::Error::SqliteFailure(ffi::Error::new(ffi::SQLITE_IOERR), None);
                if commits.after() { Ok(()) } else { Err(lost()) }
            }))?;
        }
        Ok(catalog)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicBool, Ordering};

    use super::*;
    use crate::StoreError;
    use crate::catalog::Flushed;
    use crate::frame::Sequence;

    #[derive(Default)]
    struct Refuses {
        before: AtomicBool,
        after: AtomicBool,
    }

    impl Commits for Refuses {
        fn before(&self) -> bool {
            !self.before.load(Ordering::Relaxed)
        }

        fn after(&self) -> bool {
            !self.after.load(Ordering::Relaxed)
        }
    }

    fn flushed(sequence: u64) -> Flushed {
        Flushed { sequence: Sequence(sequence), ordering: sequence }
    }

    #[test]
    fn a_refused_transaction_is_not_there_and_one_whose_answer_is_lost_is() {
        let dir = tempfile::tempdir().unwrap();
        let commits = Arc::new(Refuses::default());
        let catalog = Catalog::open_watched(dir.path(), commits.clone()).unwrap();
        catalog.commit_flush(&[], flushed(1)).unwrap();
        commits.before.store(true, Ordering::Relaxed);
        catalog.commit_flush(&[], flushed(2)).unwrap_err();
        assert_eq!(catalog.flushed().unwrap(), flushed(1));
        commits.before.store(false, Ordering::Relaxed);
        commits.after.store(true, Ordering::Relaxed);
        catalog.commit_flush(&[], flushed(3)).unwrap_err();
        drop(catalog);
        assert_eq!(Catalog::open(dir.path()).unwrap().flushed().unwrap(), flushed(3));
    }

    #[test]
    fn a_catalog_without_room_says_so_and_heals() {
        let dir = tempfile::tempdir().unwrap();
        let catalog = Catalog::open(dir.path()).unwrap();
        let pages = |count: u32| {
            let connection = catalog.connection.lock();
            connection.pragma_update(None, "max_page_count", count).unwrap();
        };
        pages(1);
        let fill = || (0..1000).try_for_each(|org| catalog.ensure_org(&format!("{org:0200}")).map(drop));
        let error = fill().unwrap_err();
        assert!(StoreError::from(error).is_full());
        pages(100_000);
        fill().unwrap();
    }
}
