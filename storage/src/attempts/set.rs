//! The files of attempts that a snapshot reads.

use std::path::Path;
use std::sync::Arc;

use hashbrown::HashMap;

use super::ATTEMPTS_DIR;
use crate::catalog::{AttemptFileRecord, FileRecord};
use crate::disk::Disk;
use crate::files::DataFile;

/// A file of attempts of the catalog.
#[derive(Clone, Debug)]
pub struct AttemptFile {
    data: Arc<DataFile>,
    /// See [`AttemptFileRecord::messages`].
    messages: (u64, u64),
}

impl AttemptFile {
    /// The file of `record` in a data dir.
    #[must_use]
    pub fn new(disk: Arc<dyn Disk>, data_dir: &Path, record: AttemptFileRecord) -> AttemptFile {
        let data = Arc::new(DataFile::new(disk, data_dir, record.file));
        AttemptFile { data, messages: record.messages }
    }

    /// What reads it.
    #[must_use]
    pub fn data(&self) -> &Arc<DataFile> {
        &self.data
    }

    /// What the catalog says of it.
    #[must_use]
    pub fn record(&self) -> &FileRecord {
        &self.data.record
    }

    /// Smallest and greatest sequence of its messages.
    #[must_use]
    pub fn messages(&self) -> (u64, u64) {
        self.messages
    }

    /// Whether it may hold an attempt of a message with one of these sequences.
    #[must_use]
    pub(super) fn may_hold(&self, first: u64, last: u64) -> bool {
        self.messages.0 <= last && first <= self.messages.1
    }
}

/// Files of attempts by organisation; immutable, shared by snapshots.
#[derive(Clone, Debug, Default)]
pub struct AttemptSet {
    by_org: HashMap<String, Arc<Vec<AttemptFile>>>,
}

impl AttemptSet {
    /// This set and `added`.
    #[must_use]
    pub fn with(&self, added: &[AttemptFile]) -> AttemptSet {
        let mut set = self.clone();
        for file in added {
            let files = Arc::make_mut(set.by_org.entry_ref(file.record().org.as_str()).or_default());
            files.retain(|known| known.record().path != file.record().path);
            files.push(file.clone());
        }
        set
    }

    /// This set without `removed`.
    #[must_use]
    pub fn without(&self, removed: &[AttemptFile]) -> AttemptSet {
        let mut set = self.clone();
        for file in removed {
            if let Some(files) = set.by_org.get_mut(file.record().org.as_str()) {
                Arc::make_mut(files).retain(|known| known.record().path != file.record().path);
            }
        }
        set.by_org.retain(|_, files| !files.is_empty());
        set
    }

    /// An organisation's files.
    #[must_use]
    pub fn of(&self, org: &str) -> &[AttemptFile] {
        self.by_org.get(org).map_or(&[], |files| files.as_slice())
    }

    /// Every file.
    pub fn iter(&self) -> impl Iterator<Item = &AttemptFile> {
        self.by_org.values().flat_map(|files| files.iter())
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.by_org.is_empty()
    }
}

/// A file of attempts, below the data dir.
pub(crate) fn attempt_path(org: &str, day: &str, level: u32, number: u64) -> String {
    format!("{ATTEMPTS_DIR}/org={org}/day={day}/{level}-{number:020}.parquet")
}
