//! A store on a machine that tests can stop: disk and catalog fail at the operation
//! they say, and the next machine has what the power loss left. Beside it the plain
//! map that tells what must be there.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use arrow::array::{AsArray, Float64Array};
use arrow::datatypes::Float64Type;
use parquet::arrow::arrow_reader::{ArrowReaderOptions, ParquetRecordBatchReaderBuilder};
use systole_storage::disk::Disk;
use systole_storage::files::{Block, CheckedFile, DataFile, block_schema};
use systole_storage::frame::{AttemptRow, Erased, SamplesFrame, Stamp};
use systole_storage::hidden::Hidden;
use systole_storage::journal::{AppendError, JournalWriter, Log, RewriteError};
use systole_storage::series::SeriesName;
use systole_storage::store::Snapshot;
use systole_storage::{
    CATALOG_FILE, Catalog, CompactionReport, Opened, Sequence, Store, StoreError, StoreSettings, Unhurried,
};
use tempfile::TempDir;

use super::erasing::Order;
use super::fixture::Samples;
use super::simulated_disk::{Fault, SimulatedDisk};

pub(super) const DATA_DIR: &str = "/data";
/// A few commits; long histories take several segments.
const SEGMENT_BYTES: u64 = 4096;
/// Less than the longest tail of the journal, so that a start flushes on its way.
const FLUSH_BYTES: usize = 4096;
/// What the series map takes at the least.
pub(super) const SERIES_BYTES: usize = 1024 * 1024;
pub(super) const EVERYTHING: Sequence = Sequence(u64::MAX);

/// Organisation, user, metric, milliseconds, source, device.
pub type Key = (String, String, String, i64, String, Option<String>);
/// The newest value of each key, and the sequence it came with.
pub type Rows = BTreeMap<Key, (u64, f64)>;
/// Time, sequence and value of a user's newest row by metric.
type NewestByMetric<'a> = BTreeMap<&'a str, (i64, u64, f64)>;

/// What is done to a store.
#[derive(Clone, Debug)]
pub enum Step {
    /// A group of requests, committed together.
    Commit(Vec<Samples>),
    /// A frame of an organisation's delivery attempts.
    Attempts(&'static str, Vec<AttemptRow>),
    /// Everything committed goes into files, and out of the journal.
    Flush,
    /// The most useful merge, if there is one.
    CompactSome,
    /// Every row into its period.
    Compact,
    /// Every file written anew.
    Rewrite,
    /// A checkpoint of the series map, if anything was flushed since the last.
    Checkpoint,
    /// An order to erase.
    Erase(Order),
    /// Takes what the orders cover out of everything.
    CarryOut,
    /// Stops and starts in order.
    Restart,
}

/// Why a step was not done.
#[derive(Debug, thiserror::Error)]
pub enum Refused {
    #[error("the journal took nothing")]
    Append(#[from] AppendError),
    #[error("segments were not removed")]
    Trim(#[from] std::io::Error),
    #[error("a segment was not written anew")]
    Rewrite(#[from] RewriteError),
    #[error("the store refused")]
    Store(#[from] StoreError),
}

impl Refused {
    /// Whether the disk was full, in the words of who was asked.
    pub fn is_full(&self) -> bool {
        match self {
            Refused::Append(AppendError::Full(_)) => true,
            Refused::Append(_) => false,
            Refused::Trim(error) | Refused::Rewrite(RewriteError::Io { source: error, .. }) => {
                systole_storage::disk::is_full(error)
            }
            Refused::Rewrite(_) => false,
            Refused::Store(error) => error.is_full(),
        }
    }

    /// Whether nothing goes on before a restart.
    pub fn needs_restart(&self) -> bool {
        matches!(self, Refused::Append(AppendError::Poisoned { .. }))
    }
}

/// What was promised, and what may be there beside it.
#[derive(Clone, Debug, Default)]
pub struct Promise {
    pub rows: Rows,
    /// A group that was on its way when the machine stopped: any number of its first
    /// frames may have become durable.
    pub on_its_way: Vec<(u64, Work)>,
    /// Attempts by organisation, with their places.
    pub(super) attempts: Vec<(&'static str, AttemptRow)>,
    /// The orders that were ever committed, with their sequences.
    pub(super) orders: Vec<(u64, Order)>,
    /// Organisation and user of whom something was ever committed.
    users: BTreeSet<(String, String)>,
    /// Of these, who was erased and has come with nothing since.
    erased: BTreeSet<(String, String)>,
    /// Who was erased for good.
    blocked: BTreeSet<(String, String)>,
}

/// What a frame brings.
#[derive(Clone, Debug)]
pub enum Work {
    Samples(Samples),
    /// With their places.
    Attempts(&'static str, Vec<AttemptRow>),
    Order(Order),
}

/// Disk and catalog of one machine.
pub struct Machine {
    pub disk: SimulatedDisk,
    /// The catalog's file. On a file system in memory where there is one: SQLite
    /// syncs, and that is not what is tried here.
    pub(super) catalog_dir: TempDir,
}

/// A store on a machine, with the committer's part played by the test.
pub struct Running {
    pub store: Arc<Store>,
    disk: SimulatedDisk,
    pub(super) writer: JournalWriter,
    pub(super) log: Arc<Log>,
    /// The last sequence that was given, also to a group that was refused.
    pub(super) given: Sequence,
    /// The last sequence that is durable.
    pub(super) synced: Sequence,
}

impl Default for Machine {
    fn default() -> Machine {
        Machine { disk: SimulatedDisk::default(), catalog_dir: memory_dir() }
    }
}

impl Machine {
    /// Starts the store of this machine. One at a time.
    pub fn start(&self) -> Result<Running, StoreError> {
        self.start_with(SEGMENT_BYTES, FLUSH_BYTES)
    }

    pub fn start_with(&self, segment_bytes: u64, flush_bytes: usize) -> Result<Running, StoreError> {
        let settings = StoreSettings {
            data_dir: PathBuf::from(DATA_DIR),
            segment_bytes,
            flush_bytes,
            series_bytes: SERIES_BYTES,
        };
        let catalog = Catalog::open_watched(self.catalog_dir.path(), Arc::new(self.disk.clone()))?;
        let disk = self.disk.clone();
        let opened = Store::open_on(&settings, Arc::new(self.disk.clone()), Arc::new(catalog))?;
        let Opened { store, writer, last, log, .. } = opened;
        Ok(Running { store, disk, writer, log, given: last, synced: last })
    }

    /// The machine after a power loss, or with no seed after the process was killed.
    /// Nothing may run on this one any more.
    pub fn after(&self, power_loss: Option<u64>) -> Machine {
        let disk = match power_loss {
            Some(seed) => self.disk.after_power_loss(seed),
            None => self.disk.after_kill(),
        };
        let catalog_dir = memory_dir();
        for name in [CATALOG_FILE.to_owned(), format!("{CATALOG_FILE}-wal")] {
            let from = self.catalog_dir.path().join(&name);
            if from.exists() {
                std::fs::copy(from, catalog_dir.path().join(name)).unwrap();
            }
        }
        Machine { disk, catalog_dir }
    }

    /// Data files on the disk.
    fn data_files(&self) -> BTreeSet<PathBuf> {
        let list = |folder| self.disk.list(&Path::new(DATA_DIR).join(folder)).unwrap();
        ["runs", "samples", "attempts", "latest"].into_iter().flat_map(list).collect()
    }

    /// Checks that the disk has the data files that the catalog lists, and no other.
    pub fn check_files(&self, running: &Running, what: &str) {
        let catalog = running.store.catalog();
        let mut listed: BTreeSet<String> =
            catalog.files().unwrap().into_iter().map(|file| file.path).collect();
        listed.extend(catalog.attempt_files().unwrap().into_iter().map(|attempts| attempts.file.path));
        listed.extend(catalog.checkpoints().unwrap().0.into_iter().map(|checkpoint| checkpoint.path));
        let listed: BTreeSet<PathBuf> = listed.iter().map(|path| Path::new(DATA_DIR).join(path)).collect();
        assert_eq!(self.data_files(), listed, "{what}: files on disk and in the catalog");
        assert_eq!(catalog.garbage().unwrap(), [] as [String; 0], "{what}");
        assert_eq!(catalog.unfinished().unwrap(), [] as [u64; 0], "{what}");
    }
}

fn memory_dir() -> TempDir {
    tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir()).unwrap()
}

impl Running {
    /// Does a step. What it acknowledges is promised from then on.
    pub fn run(&mut self, step: &Step, promise: &mut Promise) -> Result<(), Refused> {
        match step {
            Step::Commit(group) => self.commit(group, promise),
            Step::Attempts(org, rows) => self.commit_attempts(org, rows, promise),
            Step::Flush => self.flush(),
            Step::CompactSome => {
                self.compact_some_attempts()?;
                self.store.compact_some(EVERYTHING, &mut Unhurried)?;
                Ok(self.store.bury().map(drop)?)
            }
            Step::Compact => self.compact(false).map(drop),
            Step::Rewrite => self.compact(true).map(drop),
            Step::Checkpoint => {
                let flushed = self.store.catalog().flushed().map_err(StoreError::from)?;
                Ok(self.store.checkpoint_series(flushed.sequence, false).map(drop)?)
            }
            Step::Erase(order) => self.order(order, promise),
            Step::CarryOut => self.carry_out(),
            Step::Restart => unreachable!("whoever has the machine restarts it"),
        }
    }

    fn commit(&mut self, group: &[Samples], promise: &mut Promise) -> Result<(), Refused> {
        let hidden = self.store.hidden();
        // Of a blocked user nothing is taken but what was on its way in that moment.
        let taken = |samples: &&Samples| {
            !hidden.hides_user(samples.org, &samples.user, EVERYTHING)
                || hidden.waits_for(samples.org, &samples.user)
        };
        let group: Vec<&Samples> = group.iter().filter(taken).collect();
        if group.is_empty() {
            return Ok(());
        }
        let series = self.store.series();
        let sealed: Vec<(u64, Vec<u8>)> = group
            .iter()
            .map(|samples| {
                self.given = self.given.next();
                let stamp = Stamp {
                    sequence: self.given,
                    synced: self.synced,
                    ordering: self.given.0,
                    committed_at: 1_782_805_500_000_000,
                };
                let mut draft = samples.draft();
                draft
                    .mark_groups(|org, group| {
                        series.widen(&SeriesName::of(org, &group), group.earliest, group.latest)
                    })
                    .unwrap();
                (self.given.0, draft.seal(stamp))
            })
            .collect();
        let slices: Vec<&[u8]> = sealed.iter().map(|(_, bytes)| bytes.as_slice()).collect();
        let works = group.into_iter().cloned().map(Work::Samples);
        let on_its_way = sealed.iter().map(|(sequence, _)| *sequence).zip(works).collect();
        self.append(&slices, on_its_way, promise)?;
        let frames = sealed.into_iter().map(|(_, bytes)| SamplesFrame::parse(bytes.into()).unwrap());
        self.store.publish(&frames.collect::<Vec<_>>());
        Ok(())
    }

    /// Makes frames durable, and with them their work.
    pub(super) fn append(
        &mut self,
        frames: &[&[u8]],
        work: Vec<(u64, Work)>,
        promise: &mut Promise,
    ) -> Result<(), AppendError> {
        if let Err(error) = self.writer.append(frames) {
            if matches!(error, AppendError::Poisoned { .. }) {
                promise.on_its_way = work;
            }
            return Err(error);
        }
        self.synced = self.given;
        promise.on_its_way = work;
        promise.keep(frames.len());
        Ok(())
    }

    /// Flushes what was frozen, also before an error, and what is committed.
    pub(super) fn flush_buffers(&self) -> Result<(), StoreError> {
        self.store.freeze();
        for frozen in self.store.snapshot().frozen.clone() {
            self.store.flush(&frozen, EVERYTHING)?;
        }
        Ok(())
    }

    fn flush(&mut self) -> Result<(), Refused> {
        self.flush_buffers()?;
        let flushed = self.store.catalog().flushed().map_err(StoreError::from)?;
        self.writer.remove_through(flushed.sequence)?;
        Ok(())
    }

    fn compact(&self, rewrite: bool) -> Result<CompactionReport, Refused> {
        while self.compact_some_attempts()? {}
        let report = self.store.compact_whole(EVERYTHING, &|_| rewrite, &mut Unhurried)?;
        self.store.bury()?;
        Ok(report)
    }

    /// Checks that the store shows what was promised, each row once, and nothing else.
    /// Of a group that was on its way the frames count that became durable.
    pub fn check(&self, promise: &mut Promise, what: &str) {
        let snapshot = self.store.snapshot();
        let found = all_rows(&snapshot, &snapshot.hidden, what);
        let way = std::mem::take(&mut promise.on_its_way);
        promise.on_its_way = way.into_iter().take_while(|(sequence, _)| *sequence <= self.synced.0).collect();
        promise.keep(promise.on_its_way.len());
        if promise.rows != found {
            let missing: Vec<_> =
                promise.rows.iter().filter(|&(key, row)| found.get(key) != Some(row)).collect();
            let strange: Vec<_> =
                found.iter().filter(|&(key, row)| promise.rows.get(key) != Some(row)).collect();
            panic!("{what}: missing {missing:?}, not promised {strange:?}");
        }
        self.check_newest(promise, what);
        self.check_attempts(promise, what);
    }

    fn check_newest(&self, promise: &Promise, what: &str) {
        let mut newest: BTreeMap<(&str, &str), NewestByMetric<'_>> = BTreeMap::new();
        for ((org, user, metric, time, _, _), &(sequence, value)) in &promise.rows {
            let of_user = newest.entry((org, user)).or_default();
            let best = of_user.entry(metric).or_insert((*time, sequence, value));
            if (*time, sequence) >= (best.0, best.1) {
                *best = (*time, sequence, value);
            }
        }
        let hidden = self.store.hidden();
        for (org, user) in &promise.users {
            if hidden.hides_user(org, user, EVERYTHING) {
                continue;
            }
            // Where the newest value is being deleted readers find it among the samples.
            let latest = self.store.series().latest(org, user).unwrap();
            let (deleted, latest): (Vec<_>, Vec<_>) =
                latest.into_iter().partition(|it| hidden.deletes(org, user, it));
            let latest: Vec<_> =
                latest.iter().map(|it| (it.metric.as_str(), it.recorded_at, it.value)).collect();
            let metrics = newest.remove(&(org, user)).unwrap_or_default();
            let expected = metrics.into_iter().map(|(metric, it)| (metric, it.0, it.2));
            let shown = |it: &(&str, i64, f64)| !deleted.iter().any(|deleted| deleted.metric == it.0);
            let expected: Vec<_> = expected.filter(shown).collect();
            assert_eq!(latest, expected, "{what}: newest of {org}/{user}");
        }
    }

    /// Whether the machine it runs on has stopped.
    pub fn has_crashed(&self) -> bool {
        self.disk.has_crashed()
    }
}

impl Promise {
    /// The first `frames` of the group on its way are durable, the others are not.
    pub fn keep(&mut self, frames: usize) {
        let durable: Vec<(u64, Work)> = self.on_its_way.drain(..).take(frames).collect();
        for (sequence, work) in durable {
            match work {
                Work::Samples(samples) => self.add(sequence, samples),
                Work::Attempts(org, rows) => self.add_attempts(org, rows),
                Work::Order(order) => self.erase(sequence, order),
            }
        }
    }

    fn add(&mut self, sequence: u64, samples: Samples) {
        let user = (samples.org.to_owned(), samples.user.clone());
        if self.blocked.contains(&user) {
            return;
        }
        self.name(samples.org, &samples.user);
        for (time, value) in samples.rows {
            let device = samples.device.map(str::to_owned);
            let (org, metric) = (samples.org.to_owned(), samples.metric.to_owned());
            let key = (org, samples.user.clone(), metric, time, samples.source.to_owned(), device);
            self.rows.insert(key, (sequence, value));
        }
    }

    /// Something of a user came.
    pub(super) fn name(&mut self, org: &str, user: &str) {
        let user = (org.to_owned(), user.to_owned());
        self.erased.remove(&user);
        self.users.insert(user);
    }

    fn erase(&mut self, sequence: u64, order: Order) {
        self.rows.retain(|(org, user, metric, time, _, _), _| !order.covers(org, user, metric, *time));
        self.erase_attempts(sequence, &order);
        if let Some(user) = order.erased.user() {
            let user = (order.org.to_owned(), user.to_owned());
            if let Erased::User { block, .. } = order.erased {
                self.erased.insert(user.clone());
                if block {
                    self.blocked.insert(user.clone());
                }
            }
            self.users.insert(user);
        }
        self.orders.push((sequence, order));
    }

    /// Names of users whom no organisation knows any more.
    pub fn gone(&self) -> impl Iterator<Item = &str> {
        let known = |name: &str| self.users.iter().any(|user| user.1 == name && !self.erased.contains(user));
        self.erased.iter().map(|(_, name)| name.as_str()).filter(move |name| !known(name))
    }
}

/// The rows of a snapshot that are not hidden, of equal keys the one with the greatest
/// sequence. Read without any query: files batch by batch, buffers frame by frame.
pub(super) fn all_rows(snapshot: &Snapshot, hidden: &Hidden, what: &str) -> Rows {
    let mut found = Found { seen: BTreeSet::new(), newest: Rows::new(), hidden, what };
    for file in snapshot.files.iter() {
        rows_of_file(snapshot, file, &mut found);
    }
    for frame in snapshot.buffers().flat_map(|buffer| buffer.frames()) {
        let sequence = frame.header().stamp.sequence.0;
        for group in frame.groups() {
            for row in group.rows() {
                let names = [frame.org(), group.user, group.metric, group.source];
                found.add(names, group.device, frame.recorded_at(row), sequence, frame.value(row));
            }
        }
    }
    found.newest
}

struct Found<'a> {
    /// Keys with sequences.
    seen: BTreeSet<(Key, u64)>,
    newest: Rows,
    hidden: &'a Hidden,
    what: &'a str,
}

impl Found<'_> {
    fn add(&mut self, names: [&str; 4], device: Option<&str>, time: i64, sequence: u64, value: f64) {
        let [org, user, metric, source] = names.map(str::to_owned);
        let key = (org, user, metric, time, source, device.map(str::to_owned));
        assert!(
            self.seen.insert((key.clone(), sequence)),
            "{}: {key:?} of {sequence} is there twice",
            self.what
        );
        let hiding = self.hidden.of(names[0], names[2], names[1]);
        if hiding.is_some_and(|hiding| hiding.hides(time, Sequence(sequence))) {
            return;
        }
        let newest = self.newest.entry(key).or_insert((sequence, value));
        if sequence > newest.0 {
            *newest = (sequence, value);
        }
    }
}

fn rows_of_file(snapshot: &Snapshot, file: &Arc<DataFile>, found: &mut Found<'_>) {
    let options = ArrowReaderOptions::new().with_schema(block_schema());
    let reader = CheckedFile::open(file).unwrap();
    let builder = ParquetRecordBatchReaderBuilder::try_new_with_options(reader, options).unwrap();
    let mut keys: HashMap<String, u64> = HashMap::new();
    let mut rows = 0;
    for batch in builder.build().unwrap() {
        let batch = batch.unwrap();
        let values: Float64Array =
            batch.column_by_name("value").unwrap().as_primitive::<Float64Type>().clone();
        let block = Block::new(&batch).unwrap();
        rows += block.rows() as u64;
        for row in 0..block.rows() {
            let (org, user, metric) = (block.org(row), block.user(row), block.metric(row));
            let (time, sequence) = (block.recorded_at(row), block.sequence(row).0);
            let files = snapshot.files.find(org, user, metric, time, time + 1);
            assert!(
                files.iter().any(|it| Arc::ptr_eq(it, file)),
                "{}: nobody finds {user} at {time} in {}",
                found.what,
                file.record.path
            );
            *keys.entry(format!("{org}/{metric}")).or_default() += 1;
            let names = [org, user, metric, block.source(row)];
            found.add(names, block.device(row), time, sequence, values.value(row));
        }
    }
    assert_eq!(rows, file.record.rows, "{}: rows of {}", found.what, file.record.path);
    for section in &file.record.sections {
        let counted = keys.remove(&format!("{}/{}", section.org, section.metric));
        assert_eq!(counted, Some(section.rows), "{}: sections of {}", found.what, file.record.path);
    }
    assert!(keys.is_empty(), "{}: {keys:?} is in no section of {}", found.what, file.record.path);
}

/// A machine that is started again whenever it stops, and does what it is told to the
/// end, checked on the way.
pub struct Survivor {
    pub machine: Machine,
    /// `None` before the first start.
    running: Option<Running>,
    pub promise: Promise,
    what: String,
    /// Whether a fault has come.
    pub had_fault: bool,
    /// Steps that reported one.
    pub refusals: usize,
    /// Of these, how many said that the disk was full.
    pub full: usize,
}

impl Survivor {
    pub fn new(what: String) -> Survivor {
        Survivor {
            machine: Machine::default(),
            running: None,
            promise: Promise::default(),
            what,
            had_fault: false,
            refusals: 0,
            full: 0,
        }
    }

    /// Does a step, a second time if a fault met it.
    pub fn run(&mut self, step: &Step) {
        if self.running.is_none() || matches!(step, Step::Restart) {
            self.restart();
        }
        if let Step::Restart = step {
            return self.check();
        }
        let running = self.running.as_mut().unwrap();
        let done = running.run(step, &mut self.promise);
        self.had_fault |= self.machine.disk.has_failed();
        if self.machine.disk.has_crashed() {
            let operations = self.machine.disk.operations() as u64;
            return self.lose((!operations.is_multiple_of(3)).then_some(operations));
        }
        let Err(refused) = done else { return self.check_done(step) };
        assert!(self.had_fault, "{}: {step:?}: {refused:?}", self.what);
        self.take(&refused);
        let running = self.running.as_mut().unwrap();
        if let Err(again) = running.run(step, &mut self.promise) {
            panic!("{}: {step:?} again: {again:?}", self.what);
        }
        self.check_done(step);
    }

    fn check_done(&self, step: &Step) {
        if let (Step::CarryOut, Some(running)) = (step, &self.running) {
            running.check_erased(&self.machine, &self.promise, &self.what);
        }
    }

    /// Stops at once and starts again.
    pub fn lose(&mut self, power_loss: Option<u64>) {
        self.running = None;
        self.machine = self.machine.after(power_loss);
        self.restart();
        self.check();
    }

    /// Flushes and compacts all there is, and starts twice.
    pub fn finish(&mut self) {
        for step in [Step::Flush, Step::Compact] {
            self.run(&step);
            self.check();
        }
        for _ in 0..2 {
            self.run(&Step::Restart);
        }
        let running = self.running.as_ref().unwrap();
        self.machine.check_files(running, &self.what);
    }

    pub fn check(&mut self) {
        if let Some(running) = &self.running {
            running.check(&mut self.promise, &self.what);
        }
    }

    /// Rows in files.
    pub fn file_rows(&self) -> u64 {
        let snapshot = self.running.as_ref().unwrap().store.snapshot();
        snapshot.files.iter().map(|file| file.record.rows).sum()
    }

    fn take(&mut self, refused: &Refused) {
        self.refusals += 1;
        self.full += usize::from(refused.is_full());
        let disk = &self.machine.disk;
        if disk.last_fault() == Some(Fault::Full) && !disk.has_refused_commit() {
            assert!(refused.is_full() || refused.needs_restart(), "{}: {refused:?}", self.what);
        }
        // Nothing of it is seen, nothing else is lost.
        let mut promised = Promise { on_its_way: Vec::new(), ..self.promise.clone() };
        self.running.as_ref().unwrap().check(&mut promised, &self.what);
        if refused.needs_restart() {
            self.restart();
            self.check();
        }
    }

    fn restart(&mut self) {
        self.running = None;
        for _ in 0..3 {
            match self.machine.start() {
                Ok(running) => {
                    self.had_fault |= self.machine.disk.has_failed();
                    if self.machine.disk.has_crashed() {
                        self.machine = self.machine.after(Some(7));
                        continue;
                    }
                    self.running = Some(running);
                    return;
                }
                Err(error) => {
                    assert!(self.machine.disk.has_failed(), "{}: {error:?}", self.what);
                    self.had_fault = true;
                    self.refusals += 1;
                    self.full += usize::from(error.is_full());
                    if self.machine.disk.has_crashed() {
                        self.machine = self.machine.after(Some(8));
                    }
                }
            }
        }
        panic!("{}: it does not start", self.what);
    }
}
