//! `systole check`: journal, catalog and data files of a stopped store, verified
//! against each other.
//!
//! Constraints: nothing is changed, not even repaired; memory is one segment of the
//! journal and a few batches of rows a thread, and about 70 bytes a series of the
//! checkpoints, at most 700 MB; a store that a server has open is refused.
//!
//! ```text
//! lock -> catalog: pages, version, positions, references, what each file's row says
//!      -> checkpoints of the series map: length, checksums, order
//!      -> journal: headers, frames, order, verdicts       (one job)
//!      -> each data file: length, blocks, footer, rows, and what the checkpoints say of
//!         them; each file of attempts                    (a job each, on all cores)
//!      -> what lies in the folders and is in no row; positions against the journal
//! ```
//!
//! A [`Fault`] is what a running server would refuse, miss or answer wrongly; a
//! [`Note`] is what the next start puts right by itself, or other people's business.
//! Not checked: what no second copy exists of (a value that was always wrong), and what
//! is computed anew at each start.

mod attempts;
mod catalog;
mod fault;
mod file;
mod folders;
mod journal;
mod rows;
mod series;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};

use parking_lot::Mutex;

use crate::attempts::ATTEMPTS_DIR;
use crate::catalog::{CATALOG_FILE, Catalog, CatalogError, FileRecord};
use crate::disk::{Disk, RealDisk};
use crate::files::{DataFile, FileSet, RUNS_DIR, SAMPLES_DIR};
use crate::frame::Sequence;
use crate::hidden::Hidden;
use crate::series::Told;
use crate::store::{JOURNAL_DIR, StoreError, load_hidden, lock};

pub use fault::{Fault, Finding, Note};

/// What the values of an organisation's metric must be.
#[derive(Clone, Debug, PartialEq)]
pub struct MetricRule {
    /// The unit they are stored in.
    pub unit: String,
    /// Lowest.
    pub hard_min: f64,
    /// Highest.
    pub hard_max: f64,
}

/// Says what holds for an organisation's metric; `None` if it has no such metric.
pub type Rules = Box<dyn Fn(&str, &str) -> Option<MetricRule> + Send + Sync>;

/// How far a check is; read it from another thread.
#[derive(Debug, Default)]
pub struct Progress {
    /// Data files, segments and checkpoints that are done.
    pub files_done: AtomicU64,
    /// Of so many.
    pub files: AtomicU64,
    /// Bytes of them that were read.
    pub bytes_done: AtomicU64,
    /// Of so many.
    pub bytes: AtomicU64,
}

/// What was looked at.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Checked {
    /// Data files.
    pub files: u64,
    /// Rows in them.
    pub rows: u64,
    /// Segments of the journal.
    pub segments: u64,
    /// Frames in them.
    pub frames: u64,
    /// Bytes of both.
    pub bytes: u64,
    /// What is wrong.
    pub faults: u64,
}

/// Why there was no check.
#[derive(Debug, thiserror::Error)]
pub enum CheckError {
    /// There is no data dir.
    #[error("there is no data in {}: it holds neither {CATALOG_FILE} nor samples nor a journal", path.display())]
    NoData {
        /// Where.
        path: PathBuf,
    },
    /// A server uses it, or the system refused.
    #[error("cannot check the store")]
    Store(#[from] StoreError),
    /// The catalog was written by another version.
    #[error("cannot check the store")]
    Version(#[source] CatalogError),
}

/// What a check runs with.
pub struct CheckParts<'a> {
    /// Where the store lies.
    pub data_dir: &'a Path,
    /// Makes the rules of metrics out of the catalog.
    pub rules: &'a (dyn Fn(&Catalog) -> Result<Rules, CatalogError> + Sync),
    /// How long samples are kept where no rule says; `None` for ever.
    pub default_days: Option<u32>,
    /// Called with each finding, from several threads.
    pub found: &'a (dyn Fn(&Finding) + Sync),
    /// Kept up to date.
    pub progress: &'a Progress,
    /// Threads.
    pub threads: usize,
}

/// What all parts of a check share.
struct Context<'a> {
    disk: Arc<dyn Disk>,
    data_dir: &'a Path,
    found: &'a (dyn Fn(&Finding) + Sync),
    progress: &'a Progress,
    faults: AtomicU64,
    rows: AtomicU64,
    /// Everything up to this is in files; unknown without a catalog.
    flushed: Option<Sequence>,
    rules: Rules,
    files: FileSet,
    /// What was erased or is aged need not be there.
    hidden: Hidden,
    /// What the checkpoints say of the series, if they are sound.
    told: Option<Told>,
    /// Something could not be read, so nobody knows what is not there.
    unread: AtomicBool,
}

impl Context<'_> {
    fn fault(&self, fault: Fault) {
        self.faults.fetch_add(1, Ordering::Relaxed);
        (self.found)(&Finding::Fault(fault));
    }

    fn note(&self, note: Note) {
        (self.found)(&Finding::Note(note));
    }

    fn read(&self, bytes: u64) {
        self.progress.bytes_done.fetch_add(bytes, Ordering::Relaxed);
    }

    fn done(&self) {
        self.progress.files_done.fetch_add(1, Ordering::Relaxed);
    }
}

/// Verifies the store of a data dir. Blocks until all of it was read.
///
/// # Errors
/// [`CheckError`] if there is nothing that can be checked; what is wrong with a store
/// goes to `found`.
pub fn check(parts: &CheckParts<'_>) -> Result<Checked, CheckError> {
    let data_dir = parts.data_dir;
    let any = [CATALOG_FILE, JOURNAL_DIR, SAMPLES_DIR, RUNS_DIR, ATTEMPTS_DIR];
    if !any.iter().any(|name| data_dir.join(name).exists()) {
        return Err(CheckError::NoData { path: data_dir.to_owned() });
    }
    let _lock = lock(data_dir)?;
    let disk: Arc<dyn Disk> = Arc::new(RealDisk);
    let none: Rules = Box::new(|_, _| None);
    let mut context = Context {
        disk: disk.clone(),
        data_dir,
        found: parts.found,
        progress: parts.progress,
        faults: AtomicU64::new(0),
        rows: AtomicU64::new(0),
        flushed: None,
        rules: none,
        files: FileSet::default(),
        hidden: Hidden::default(),
        told: None,
        unread: AtomicBool::new(false),
    };
    let mut records: Vec<FileRecord> = Vec::new();
    let mut knowledge = None;
    if let Some(catalog) = catalog::open(&context)? {
        match (parts.rules)(&catalog) {
            Ok(rules) => context.rules = rules,
            Err(error) => context.fault(Fault::catalog(&error)),
        }
        match load_hidden(&catalog) {
            Ok(hidden) => context.hidden = hidden.with_default_days(parts.default_days),
            Err(error) => context.fault(Fault::catalog(&error)),
        }
        if let Some(known) = catalog::check(&context, &catalog) {
            context.flushed = Some(known.flushed);
            records.clone_from(&known.files);
            knowledge = Some(known);
        }
    }
    let files: Vec<Arc<DataFile>> =
        records.into_iter().map(|record| Arc::new(DataFile::new(disk.clone(), data_dir, record))).collect();
    context.files = FileSet::default().with(&files);
    let attempts = knowledge.as_ref().map_or(&[][..], |known: &catalog::Known| &known.attempts);
    let attempts = attempts::files_of(&context, attempts);
    let segments = journal::segments(&context);
    let checkpoints = knowledge.as_ref().map_or(&[][..], |known| &known.checkpoints.0);
    let data = files.iter().chain(attempts.iter().map(|file| file.data()));
    let bytes: u64 = data.map(|file| file.record.bytes).sum::<u64>()
        + segments.byte_len()
        + checkpoints.iter().map(|checkpoint| checkpoint.bytes).sum::<u64>();
    let file_count = files.len() + attempts.len();
    parts.progress.files.store((file_count + segments.len() + checkpoints.len()) as u64, Ordering::Relaxed);
    parts.progress.bytes.store(bytes, Ordering::Relaxed);
    context.told = knowledge.as_ref().and_then(|known| series::check(&context, known));
    let journal = Mutex::new(None);
    let context = &context;
    run_jobs(parts.threads, file_count + 1, |job| match job.checked_sub(1) {
        // The longest one first.
        None => *journal.lock() = Some(journal::check(context, &segments)),
        Some(place) if place < files.len() => file::check(context, &files[place]),
        Some(place) => attempts::check(context, &attempts[place - files.len()]),
    });
    let journal = journal.into_inner().unwrap_or_default();
    if let Some(known) = &knowledge {
        catalog::check_positions(context, known, &journal);
        folders::check(context, known, &journal);
    }
    if journal.damaged == 0 && !context.unread.load(Ordering::Relaxed) {
        series::check_newest(context);
    }
    Ok(Checked {
        files: file_count as u64,
        rows: context.rows.load(Ordering::Relaxed),
        segments: segments.len() as u64,
        frames: journal.frames,
        bytes,
        faults: context.faults.load(Ordering::Relaxed),
    })
}

/// Runs `job` for 0..jobs on some threads, in order of their numbers.
fn run_jobs(threads: usize, jobs: usize, job: impl Fn(usize) + Sync) {
    let next = AtomicUsize::new(0);
    std::thread::scope(|scope| {
        for _ in 0..threads.clamp(1, jobs) {
            scope.spawn(|| {
                loop {
                    let number = next.fetch_add(1, Ordering::Relaxed);
                    if number >= jobs {
                        break;
                    }
                    job(number);
                }
            });
        }
    });
}
