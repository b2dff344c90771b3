//! The files a snapshot reads.

use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Weak};

use hashbrown::HashMap;
use parking_lot::Mutex;

use crate::catalog::FileRecord;

/// A data file of the catalog.
#[derive(Debug)]
pub struct DataFile {
    /// What the catalog says of it.
    pub record: FileRecord,
    /// Where it lies.
    pub path: PathBuf,
    /// Its descriptor while anybody reads it: reads name their offset, so all
    /// readers of a file share one.
    open: Mutex<Weak<File>>,
}

impl DataFile {
    /// The file of `record` in a data dir.
    #[must_use]
    pub fn new(data_dir: &Path, record: FileRecord) -> DataFile {
        DataFile { path: data_dir.join(&record.path), record, open: Mutex::default() }
    }

    /// Opens it, or gives the descriptor that is open.
    ///
    /// # Errors
    /// The system's.
    pub fn open(&self) -> io::Result<Arc<File>> {
        let mut open = self.open.lock();
        if let Some(file) = open.upgrade() {
            return Ok(file);
        }
        let file = Arc::new(File::open(&self.path)?);
        *open = Arc::downgrade(&file);
        Ok(file)
    }
}

/// Data files by organisation and metric; immutable, shared by snapshots.
#[derive(Clone, Debug, Default)]
pub struct FileSet {
    files: HashMap<(String, String), Vec<Arc<DataFile>>>,
}

impl FileSet {
    /// This set and `added`.
    #[must_use]
    pub fn with(&self, added: &[Arc<DataFile>]) -> FileSet {
        let mut set = self.clone();
        for file in added {
            let key = (file.record.org.clone(), file.record.metric.clone());
            set.files.entry(key).or_default().push(file.clone());
        }
        set
    }

    /// The files that may hold rows of a user's metric in `start..end`.
    #[must_use]
    pub fn find(&self, org: &str, user: &str, metric: &str, start: i64, end: i64) -> Vec<Arc<DataFile>> {
        let holds = |file: &&Arc<DataFile>| {
            let record = &file.record;
            record.time_min < end
                && record.time_max >= start
                && *record.user_min <= *user
                && *user <= *record.user_max
        };
        self.of(org, metric).iter().filter(holds).cloned().collect()
    }

    /// The files of an organisation's metric.
    #[must_use]
    pub fn of(&self, org: &str, metric: &str) -> &[Arc<DataFile>] {
        // The key is a pair of owned strings; looking it up costs two short
        // allocations per query, not per row.
        self.files.get(&(org.to_owned(), metric.to_owned())).map_or(&[], Vec::as_slice)
    }

    /// The metrics an organisation has files of.
    #[cfg(feature = "query")]
    pub(crate) fn metrics_of(&self, org: &str) -> impl Iterator<Item = &str> {
        self.files.keys().filter(move |(owner, _)| owner == org).map(|(_, metric)| metric.as_str())
    }

    /// Every file.
    pub fn iter(&self) -> impl Iterator<Item = &Arc<DataFile>> {
        self.files.values().flatten()
    }
}
