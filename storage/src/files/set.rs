//! The files a snapshot reads.

use std::hash::{Hash, Hasher};
use std::io;
use std::ops::Deref;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Weak};

use hashbrown::{Equivalent, HashMap};
use parking_lot::Mutex;

use super::layout::is_run;
use crate::catalog::{FileRecord, SectionRecord};
use crate::disk::{Disk, DiskFile};
use crate::series::user_hash;

/// A data file of the catalog.
#[derive(Debug)]
pub struct DataFile {
    /// What the catalog says of it.
    pub record: FileRecord,
    /// Where it lies.
    pub path: PathBuf,
    disk: Arc<dyn Disk>,
    /// Its descriptor while anybody reads it: reads name their offset, so all
    /// readers of a file share one.
    open: Mutex<Weak<dyn DiskFile>>,
    /// Found damaged since the start.
    damaged: AtomicBool,
}

impl DataFile {
    /// The file of `record` in a data dir.
    #[must_use]
    pub fn new(disk: Arc<dyn Disk>, data_dir: &Path, record: FileRecord) -> DataFile {
        let closed: Weak<NeverOpen> = Weak::new();
        DataFile {
            path: data_dir.join(&record.path),
            record,
            disk,
            open: Mutex::new(closed),
            damaged: AtomicBool::new(false),
        }
    }

    /// Whether it was found damaged: merges leave it where it is.
    #[must_use]
    pub fn is_damaged(&self) -> bool {
        self.damaged.load(Ordering::Relaxed)
    }

    /// Notes that it is damaged; false if that was known.
    pub(crate) fn set_damaged(&self) -> bool {
        !self.damaged.swap(true, Ordering::Relaxed)
    }

    /// Opens it, or gives the descriptor that is open.
    ///
    /// # Errors
    /// The system's.
    pub fn open(&self) -> io::Result<Arc<dyn DiskFile>> {
        let mut open = self.open.lock();
        if let Some(file) = open.upgrade() {
            return Ok(file);
        }
        let file: Arc<dyn DiskFile> = Arc::from(self.disk.open(&self.path)?);
        *open = Arc::downgrade(&file);
        Ok(file)
    }

    /// Whether it is a run: rows of several metrics, with organisation and metric
    /// first in its order.
    #[must_use]
    pub fn is_run(&self) -> bool {
        is_run(&self.record.path)
    }

    /// Whether the rows of users with this hash go to this file's bucket.
    fn holds(&self, user_hash: u64) -> bool {
        bucket_of(user_hash, self.record.bucket_bits) == self.record.bucket
    }
}

/// The bucket of a user among `2^bits`: the top bits of the user's hash.
#[must_use]
pub fn bucket_of(hash: u64, bits: u32) -> u32 {
    let top = hash.checked_shr(u64::BITS - bits).unwrap_or(0);
    u32::try_from(top).expect("buckets have at most 32 bits")
}

/// What a [`Weak`] of no file points at.
#[derive(Debug)]
enum NeverOpen {}

impl DiskFile for NeverOpen {
    fn byte_len(&self) -> io::Result<u64> {
        match *self {}
    }

    fn read_exact_at(&self, _: &mut [u8], _: u64) -> io::Result<()> {
        match *self {}
    }

    fn write_all_at(&self, _: &mut [io::IoSlice<'_>], _: u64) -> io::Result<()> {
        match *self {}
    }

    fn sync_data(&self) -> io::Result<()> {
        match *self {}
    }
}

/// The rows of one organisation's metric in a file.
#[derive(Clone, Debug)]
pub struct Section {
    /// The file they stand in.
    pub file: Arc<DataFile>,
    /// Which of its sections.
    index: usize,
}

impl Deref for Section {
    type Target = SectionRecord;

    fn deref(&self) -> &SectionRecord {
        &self.file.record.sections[self.index]
    }
}

/// Data files by organisation and metric; immutable, shared by snapshots.
#[derive(Clone, Debug, Default)]
pub struct FileSet {
    files: HashMap<String, Arc<DataFile>>,
    sections: HashMap<(String, String), Arc<Vec<Section>>>,
    bytes: u64,
}

/// A borrowed key of [`FileSet::sections`].
struct Series<'a>(&'a str, &'a str);

impl Hash for Series<'_> {
    fn hash<H: Hasher>(&self, state: &mut H) {
        (self.0, self.1).hash(state);
    }
}

impl Equivalent<(String, String)> for Series<'_> {
    fn equivalent(&self, key: &(String, String)) -> bool {
        (self.0, self.1) == (key.0.as_str(), key.1.as_str())
    }
}

impl FileSet {
    /// This set and `added`.
    #[must_use]
    pub fn with(&self, added: &[Arc<DataFile>]) -> FileSet {
        let mut set = self.clone();
        for file in added {
            for (index, section) in file.record.sections.iter().enumerate() {
                let key = (section.org.clone(), section.metric.clone());
                let of_metric = Arc::make_mut(set.sections.entry(key).or_default());
                of_metric.push(Section { file: file.clone(), index });
            }
            set.bytes += file.record.bytes;
            set.files.insert(file.record.path.clone(), file.clone());
        }
        set
    }

    /// This set without `removed`.
    #[must_use]
    pub fn without(&self, removed: &[Arc<DataFile>]) -> FileSet {
        let mut set = self.clone();
        for file in removed {
            if set.files.remove(&file.record.path).is_none() {
                continue;
            }
            set.bytes -= file.record.bytes;
            for section in &file.record.sections {
                let key = (section.org.clone(), section.metric.clone());
                if let Some(of_metric) = set.sections.get_mut(&key) {
                    Arc::make_mut(of_metric).retain(|section| !Arc::ptr_eq(&section.file, file));
                    if of_metric.is_empty() {
                        set.sections.remove(&key);
                    }
                }
            }
        }
        set
    }

    /// The files that may hold rows of a user's metric in `start..end`.
    #[must_use]
    pub fn find(&self, org: &str, user: &str, metric: &str, start: i64, end: i64) -> Vec<Arc<DataFile>> {
        let hash = user_hash(org, user);
        let holds = |section: &&Section| {
            section.time_min < end
                && section.time_max >= start
                && *section.user_min <= *user
                && *user <= *section.user_max
                && section.file.holds(hash)
        };
        self.of(org, metric).iter().filter(holds).map(|section| section.file.clone()).collect()
    }

    /// The sections of an organisation's metric.
    #[must_use]
    pub fn of(&self, org: &str, metric: &str) -> &[Section] {
        self.sections.get(&Series(org, metric)).map_or(&[], |sections| sections.as_slice())
    }

    /// The metrics of an organisation that have rows in files, unordered.
    pub fn metrics_of(&self, org: &str) -> impl Iterator<Item = &str> {
        self.sections.keys().filter(move |key| key.0 == org).map(|key| key.1.as_str())
    }

    /// Every organisation and metric with its sections.
    pub fn series(&self) -> impl Iterator<Item = (&str, &str, &[Section])> {
        self.sections.iter().map(|(key, sections)| (key.0.as_str(), key.1.as_str(), sections.as_slice()))
    }

    /// Every file.
    pub fn iter(&self) -> impl Iterator<Item = &Arc<DataFile>> {
        self.files.values()
    }

    /// How many files there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.files.len()
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.files.is_empty()
    }

    /// How many of them are runs.
    #[must_use]
    pub fn run_count(&self) -> u64 {
        self.files.values().filter(|file| file.is_run()).count() as u64
    }

    /// Their bytes together.
    #[must_use]
    pub fn byte_len(&self) -> u64 {
        self.bytes
    }

    /// Whether it has exactly this file.
    #[must_use]
    pub fn contains(&self, file: &Arc<DataFile>) -> bool {
        self.files.get(&file.record.path).is_some_and(|known| Arc::ptr_eq(known, file))
    }
}
