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
