//! Frames and stores for the tests.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use systole_storage::catalog::Flushed;
use systole_storage::disk::Disk;
use systole_storage::files::{DataFile, erased_in};
use systole_storage::frame::{
    AttemptRow, Change, Columns, Erased, Frame, GroupChange, GroupSpec, Header, SamplesFrame, Stamp,
    Tombstone, Trigger, Verdict, encode_attempts, encode_changes, encode_samples, encode_tombstone,
};
use systole_storage::journal::{
    AppendError, Broken, JournalWriter, Log, LogCursor, LogError, SEGMENT_HEADER_BYTES, SealedSegment,
    SegmentId,
};
use systole_storage::series::SeriesName;
use systole_storage::store::JOURNAL_DIR;
use systole_storage::{
    Catalog, CompactionReport, Draft, Opened, Orders, Pace, Sequence, Store, StoreError, StoreSettings,
    Unhurried,
};
use tempfile::TempDir;

use super::simulated_disk::SimulatedDisk;

/// An order about all there is of a user.
pub fn everything_of(user: &str, block: bool) -> Erased {
    Erased::User { user: user.to_owned(), block }
}

/// An order about a range of one user's samples of one metric, or of all users', or of all
/// metrics.
pub fn range_of(user: Option<&str>, metric: Option<&str>, times: std::ops::Range<i64>) -> Erased {
    let owned = |text: Option<&str>| text.map(str::to_owned);
    Erased::Range { user: owned(user), metric: owned(metric), start: times.start, end: times.end }
}

/// Samples of one series, as a request would bring them.
#[derive(Clone, Debug)]
pub struct Samples {
    pub org: &'static str,
    pub user: String,
    pub metric: &'static str,
    pub source: &'static str,
    pub device: Option<&'static str>,
    /// (milliseconds, value), strictly rising in time.
    pub rows: Vec<(i64, f64)>,
}

/// `count` samples of a user's heart rate, a second apart from `start`.
pub fn heart_rate(user: &str, start: i64, count: usize) -> Samples {
    Samples {
        org: "default",
        user: user.to_owned(),
        metric: "heart_rate",
        source: "garmin",
        device: None,
        rows: (0..count).map(|at| (start + 1000 * at as i64, 60.0 + (at % 40) as f64)).collect(),
    }
}

impl Samples {
    pub fn draft(&self) -> Draft {
        let (times, values): (Vec<i64>, Vec<f64>) = self.rows.iter().copied().unzip();
        let group = GroupSpec {
            user: &self.user,
            metric: self.metric,
            unit: "bpm",
            source: self.source,
            device: self.device,
            first: 0,
            count: u32::try_from(times.len()).unwrap(),
        };
        let columns =
            Columns { recorded_at: &times, value: &values, zone: None, ended_at: None, daily: None };
        encode_samples(self.org, false, &[group], columns)
    }
}

/// A sealed frame of `bytes` bytes or a little more.
pub fn frame(sequence: u64, synced: u64, samples: usize) -> Vec<u8> {
    let stamp = Stamp {
        sequence: Sequence(sequence),
        synced: Sequence(synced),
        ordering: 1_000_000 + sequence,
        committed_at: 1_782_805_500_000_000,
    };
    heart_rate("u_1", sequence as i64 * 1_000_000, samples).draft().seal(stamp)
}

/// An attempt to deliver the message that stands in frame `sequence`; 0 is a test's.
pub fn attempt(endpoint: &str, sequence: u64, success: bool) -> AttemptRow {
    AttemptRow {
        at_ms: 1_782_805_500_000 + sequence.cast_signed(),
        tie: 0,
        endpoint: endpoint.to_owned(),
        message: format!("evt_{sequence}"),
        delivery: format!("dlv_{endpoint}_{sequence}"),
        sequence,
        group: 1,
        chunk: 2,
        kind: 1,
        user: Some(format!("u_{}", sequence % 7)),
        event_type: if sequence.is_multiple_of(2) { "steps.created" } else { "heart_rate.created" }
            .to_owned(),
        number: 1,
        trigger: if sequence == 0 { Trigger::Test } else { Trigger::Scheduled },
        success,
        status_code: success.then_some(204),
        error: (!success).then(|| "connection refused".to_owned()),
        duration_us: 1234,
        url: "https://example.org/hook".to_owned(),
        response_headers: "{}".to_owned(),
        response_body: String::new(),
    }
}

/// A store with the committer's part played by the test.
pub struct TestStore {
    pub store: Arc<Store>,
    log: Arc<Log>,
    writer: JournalWriter,
    pub last: Sequence,
}

impl TestStore {
    /// Waits for whoever has asked the one before for something, and lets go of it in a moment.
    pub fn open(data_dir: &Path) -> TestStore {
        let deadline = Instant::now() + Duration::from_secs(30);
        loop {
            match TestStore::try_open(data_dir) {
                Err(StoreError::InUse { .. }) if Instant::now() < deadline => {
                    thread::sleep(Duration::from_millis(10));
                }
                opened => return opened.unwrap(),
            }
        }
    }

    pub fn try_open(data_dir: &Path) -> Result<TestStore, StoreError> {
        TestStore::open_with(data_dir, 64 * 1024 * 1024)
    }

    pub fn open_with(data_dir: &Path, flush_bytes: usize) -> Result<TestStore, StoreError> {
        let settings = StoreSettings {
            data_dir: data_dir.to_owned(),
            segment_bytes: 64 * 1024,
            flush_bytes,
            series_bytes: 64 << 20,
        };
        let Opened { store, writer, last, log, .. } = Store::open(&settings)?;
        Ok(TestStore { store, log, writer, last })
    }

    /// Commits one request's samples.
    pub fn commit(&mut self, samples: &Samples) -> Sequence {
        self.commit_draft(samples.draft())
    }

    /// Commits one request.
    pub fn commit_draft(&mut self, mut draft: Draft) -> Sequence {
        let synced = self.last;
        self.last = self.last.next();
        let stamp =
            Stamp { sequence: self.last, synced, ordering: self.last.0, committed_at: 1_782_805_500_000_000 };
        let series = self.store.series();
        draft
            .mark_groups(|org, group| {
                series.widen(&SeriesName::of(org, &group), group.earliest, group.latest)
            })
            .unwrap();
        let bytes = draft.seal(stamp);
        self.writer.append(&[&bytes]).unwrap();
        self.store.publish(&[SamplesFrame::parse(bytes.into()).unwrap()]);
        self.last
    }

    /// Commits a frame of attempts; returns its rows with their places.
    pub fn commit_attempts(&mut self, org: &str, rows: &[AttemptRow]) -> Vec<AttemptRow> {
        let synced = self.last;
        self.last = self.last.next();
        let stamp =
            Stamp { sequence: self.last, synced, ordering: self.last.0, committed_at: 1_782_805_500_000_000 };
        let bytes = encode_attempts(org, rows).seal(stamp);
        self.writer.append(&[&bytes]).unwrap();
        let frame = Frame::parse(bytes.into()).unwrap();
        self.store.publish_frames(std::slice::from_ref(&frame));
        let Frame::Attempts(frame) = frame else { panic!("it holds attempts") };
        frame.iter().map(|row| row.owned()).collect()
    }

    /// Brings everything committed into files. The journal stays, as for deliveries that
    /// wait.
    pub fn flush_only(&mut self) {
        if let Some(frozen) = self.store.freeze() {
            self.store.flush(&frozen, Sequence(u64::MAX)).unwrap();
        }
    }

    /// Brings everything committed into files.
    pub fn flush(&mut self) {
        self.flush_only();
        let flushed = self.store.catalog().flushed().unwrap();
        self.writer.remove_through(flushed.sequence).unwrap();
    }

    /// Commits an order to erase.
    pub fn erase(&mut self, org: &str, erased: Erased) -> Arc<Tombstone> {
        let synced = self.last;
        self.last = self.last.next();
        let stamp =
            Stamp { sequence: self.last, synced, ordering: self.last.0, committed_at: 1_782_805_500_000_000 };
        let tombstone = Tombstone {
            id: format!("era_{}", self.last),
            org: org.to_owned(),
            erased,
            sequence: Sequence::ZERO,
            created_at: 0,
        };
        let bytes = encode_tombstone(&tombstone).seal(stamp);
        self.writer.append(&[&bytes]).unwrap();
        let frame = Frame::parse(bytes.into()).unwrap();
        self.store.publish_frames(std::slice::from_ref(&frame));
        let Frame::Tombstone(_, tombstone) = frame else { panic!("it is a tombstone") };
        tombstone
    }

    /// Takes what waiting orders cover out of the files and forgets the orders, as the
    /// engine does where nobody reads the journal.
    #[cfg(feature = "query")]
    pub fn carry_out(&mut self, pool: &systole_storage::query::QueryPool) {
        self.store.record_tombstones().unwrap();
        self.flush();
        let waiting = self.store.hidden().waiting();
        let holds = |file: &Arc<DataFile>| Ok(!erased_in(file, &waiting)?.is_empty());
        self.store.rewrite(Sequence(u64::MAX), &holds, &mut Merging(&self.store)).unwrap();
        self.store.bury().unwrap();
        for file in self.store.snapshot().files.iter() {
            assert!(!holds(file).unwrap(), "{} still holds what was erased", file.record.path);
        }
        let orders = Orders::new(waiting.clone());
        let find = |org: &str, user: &str, metric: &str| {
            Ok::<_, StoreError>((self.last, pool.newest(org, user, metric).unwrap()))
        };
        self.store.set_newest(&orders, find).unwrap();
        self.store.checkpoint_series(self.store.flushed_position(), true).unwrap();
        self.store.catalog().finish_erasures(&orders.ids()).unwrap();
        self.store.unhide(&waiting);
    }

    /// Commits the verdict that the first group of a frame replaced `rows` others.
    pub fn decide(&mut self, sequence: Sequence, rows: u32) {
        let change = GroupChange { sequence, group: 0, rows, verdict: Verdict::All(Change::Updated) };
        let synced = self.last;
        self.last = self.last.next();
        let stamp =
            Stamp { sequence: self.last, synced, ordering: self.last.0, committed_at: 1_782_805_500_000_000 };
        let bytes = encode_changes(sequence, &[change]).seal(stamp);
        self.writer.append(&[&bytes]).unwrap();
        self.store.publish_frames(&[Frame::parse(bytes.into()).unwrap()]);
    }

    /// Takes what orders cover out of the files.
    pub fn rewrite_files(&self, orders: &Orders) {
        let holds = |file: &Arc<DataFile>| Ok(!erased_in(file, orders.all())?.is_empty());
        self.store.rewrite(Sequence(u64::MAX), &holds, &mut Unhurried).unwrap();
        self.store.bury().unwrap();
    }

    /// Takes what orders cover out of the journal; returns how many segments changed.
    pub fn rewrite_segments(&mut self, orders: &Orders) -> usize {
        let current = self.writer.seal().unwrap();
        let rewriter = self.log.rewriter();
        let emptied =
            |id| rewriter.rewrite(id, |header, bytes| orders.emptied(header, bytes, &mut BTreeSet::new()));
        rewriter.before(current).into_iter().filter(|id| emptied(*id).unwrap().changed).count()
    }

    /// Takes what orders cover out of the journal; returns what is broken in it.
    pub fn broken_segments(&mut self, orders: &Orders) -> Vec<Broken> {
        let current = self.writer.seal().unwrap();
        let rewriter = self.log.rewriter();
        let emptied = |id| {
            let mut touched = BTreeSet::new();
            rewriter.rewrite(id, |header, bytes| orders.emptied(header, bytes, &mut touched)).unwrap()
        };
        rewriter.before(current).into_iter().filter_map(|id| emptied(id).broken).collect()
    }

    /// Merges what is ready to be merged; says whether there was something.
    pub fn compact_some(&mut self) -> bool {
        let report = self.store.compact_some(Sequence(u64::MAX), &mut Unhurried).unwrap();
        self.store.bury().unwrap();
        report.is_some()
    }

    /// Brings everything in files into its period.
    pub fn compact(&mut self) -> CompactionReport {
        let report = self.store.compact_whole(Sequence(u64::MAX), &|_| false, &mut Unhurried).unwrap();
        self.store.bury().unwrap();
        report
    }

    /// Paths of all files, as the catalog has them.
    pub fn paths(&self) -> Vec<String> {
        self.store.catalog().files().unwrap().into_iter().map(|file| file.path).collect()
    }
}

/// Merges what is ready before each file of a rewrite.
pub struct Merging<'a>(pub &'a Store);

impl Pace for Merging<'_> {
    fn go_on(&mut self, _: u64) -> bool {
        true
    }

    fn next_file(&mut self) {
        self.0.compact_some(Sequence(u64::MAX), &mut Unhurried).unwrap();
    }
}

/// A journal and its log, with the committer's part played by the test.
pub struct TestJournal {
    opened: Opened,
    segment_bytes: u64,
    /// The last sequence given to a frame, also of one that was refused.
    given: u64,
    /// The last sequence that is durable.
    pub synced: u64,
    dir: TempDir,
}

impl TestJournal {
    pub fn new(segment_bytes: u64) -> TestJournal {
        TestJournal::open(tempfile::tempdir().unwrap(), segment_bytes).unwrap()
    }

    /// Opens the files that `disk` has in `dir`, of which everything up to `flushed`
    /// counts as flushed.
    pub fn of_disk(
        disk: &SimulatedDisk,
        dir: &Path,
        segment_bytes: u64,
        flushed: u64,
    ) -> Result<TestJournal, StoreError> {
        let data_dir = tempfile::tempdir().unwrap();
        std::fs::create_dir(data_dir.path().join(JOURNAL_DIR)).unwrap();
        for path in disk.list(dir).unwrap() {
            let file = disk.open(&path).unwrap();
            let mut bytes = vec![0; usize::try_from(file.byte_len().unwrap()).unwrap()];
            file.read_exact_at(&mut bytes, 0).unwrap();
            let copy = data_dir.path().join(JOURNAL_DIR).join(path.file_name().unwrap());
            std::fs::write(copy, bytes).unwrap();
        }
        set_flushed(&Catalog::open(data_dir.path()).unwrap(), flushed);
        TestJournal::open(data_dir, segment_bytes)
    }

    fn open(dir: TempDir, segment_bytes: u64) -> Result<TestJournal, StoreError> {
        let data_dir = dir.path().to_owned();
        let opened = Store::open(&StoreSettings {
            data_dir,
            segment_bytes,
            flush_bytes: 64 << 20,
            series_bytes: 64 << 20,
        })?;
        let last = opened.last.0;
        Ok(TestJournal { opened, segment_bytes, given: last, synced: last, dir })
    }

    /// Stops and starts again; everything up to `flushed` is in files.
    pub fn restart(self, flushed: u64) -> TestJournal {
        self.try_restart(flushed).unwrap()
    }

    pub fn try_restart(self, flushed: u64) -> Result<TestJournal, StoreError> {
        set_flushed(self.opened.store.catalog(), flushed);
        drop(self.opened);
        TestJournal::open(self.dir, self.segment_bytes)
    }

    pub fn log(&self) -> &Arc<Log> {
        &self.opened.log
    }

    pub fn cursor(&self, after: u64) -> LogCursor {
        self.log().cursor(Sequence(after))
    }

    pub fn sealed(&self) -> &[SealedSegment] {
        self.opened.writer.sealed()
    }

    /// Makes a group durable; each number is a frame's samples.
    pub fn append(&mut self, group: &[usize]) -> Result<Vec<Frame>, AppendError> {
        let first = self.given + 1;
        self.given += group.len() as u64;
        let sealed: Vec<Vec<u8>> =
            (first..).zip(group).map(|(sequence, &samples)| frame(sequence, self.synced, samples)).collect();
        let slices: Vec<&[u8]> = sealed.iter().map(Vec::as_slice).collect();
        self.opened.writer.append(&slices)?;
        self.synced = self.given;
        Ok(sealed.into_iter().map(|bytes| Frame::parse(bytes.into()).unwrap()).collect())
    }

    /// Makes a group that was appended visible.
    pub fn publish(&self, frames: Vec<Frame>) {
        self.log().publish(Sequence(self.synced), frames);
    }

    /// Commits a group; returns its sequences.
    pub fn commit(&mut self, group: &[usize]) -> Vec<u64> {
        let frames = self.append(group).unwrap();
        let committed = sequences(&frames);
        self.publish(frames);
        committed
    }

    /// Gives sequences to a group of `frames` frames that is refused before anything is written.
    pub fn skip(&mut self, frames: u64) {
        self.given += frames;
    }

    /// Commits a group while no next segment can be made: a folder has its name. A
    /// group that needs one is refused with no sequences.
    pub fn commit_without_segments(&mut self, group: &[usize]) -> Vec<u64> {
        let newest = self.segment_paths().pop().unwrap();
        let number: u64 = newest.file_stem().unwrap().to_str().unwrap().parse().unwrap();
        let in_the_way = newest.with_file_name(format!("{:010}.segment", number + 1));
        std::fs::create_dir(&in_the_way).unwrap();
        let appended = self.append(group);
        std::fs::remove_dir(&in_the_way).unwrap();
        match appended {
            Ok(frames) => {
                let committed = sequences(&frames);
                self.publish(frames);
                committed
            }
            Err(AppendError::NoSegment(_)) => Vec::new(),
            Err(other) => panic!("{other}"),
        }
    }

    /// Seals the segment that frames go to.
    pub fn seal(&mut self) -> SegmentId {
        self.opened.writer.seal().unwrap()
    }

    /// Removes sealed segments through `position`; returns how many.
    pub fn remove_through(&mut self, position: u64) -> usize {
        self.opened.writer.remove_through(Sequence(position)).unwrap()
    }

    /// The segments, oldest first.
    pub fn segment_paths(&self) -> Vec<PathBuf> {
        let listed = std::fs::read_dir(self.dir.path().join(JOURNAL_DIR)).unwrap();
        let mut paths: Vec<PathBuf> = listed.map(|entry| entry.unwrap().path()).collect();
        paths.sort();
        paths
    }

    /// Where each frame lies.
    pub fn places(&self) -> Vec<Place> {
        let segments = self.segment_paths().into_iter();
        segments.flat_map(|path| places_in(&std::fs::read(&path).unwrap(), &path)).collect()
    }
}

/// A frame in a segment.
#[derive(Clone, Debug)]
pub struct Place {
    pub path: PathBuf,
    pub at: u64,
    pub header: Header,
}

impl Place {
    pub fn sequence(&self) -> u64 {
        self.header.stamp.sequence.0
    }

    /// Whether it is the first in its segment.
    pub fn is_first(&self) -> bool {
        self.at == SEGMENT_HEADER_BYTES
    }
}

/// The frames of a segment that is whole.
pub fn places_in(segment: &[u8], path: &Path) -> Vec<Place> {
    let mut at = SEGMENT_HEADER_BYTES as usize;
    let next = || {
        let header = segment.get(at..).and_then(Header::read).filter(|header| header.payload_bytes > 0)?;
        let place = Place { path: path.to_owned(), at: at as u64, header };
        at += header.frame_bytes();
        Some(place)
    };
    std::iter::from_fn(next).collect()
}

/// The sequences of frames that [`frame`] made, each with the content it was made with.
pub fn sequences(frames: &[Frame]) -> Vec<u64> {
    let sequence = |frame: &Frame| {
        let sequence = frame.sequence().0;
        assert_eq!(frame.as_samples().unwrap().recorded_at(0), sequence as i64 * 1_000_000);
        sequence
    };
    frames.iter().map(sequence).collect()
}

/// Reads up to the head, about `bytes_max` bytes at a time; what was read before an
/// error is read.
pub fn drain(cursor: &mut LogCursor, bytes_max: usize) -> (Vec<u64>, Option<LogError>) {
    let mut read = Vec::new();
    loop {
        match cursor.next(bytes_max) {
            Ok(frames) if frames.is_empty() => return (read, None),
            Ok(frames) => read.extend(sequences(&frames)),
            Err(error) => return (read, Some(error)),
        }
    }
}

/// Reads up to the head.
pub fn drained(cursor: &mut LogCursor, bytes_max: usize) -> Vec<u64> {
    let (read, error) = drain(cursor, bytes_max);
    assert!(error.is_none(), "{error:?} behind {read:?}");
    read
}

fn set_flushed(catalog: &Catalog, flushed: u64) {
    let flushed = Flushed { sequence: Sequence(flushed), ordering: 1_000_000 + flushed };
    catalog.commit_flush(&[], flushed).unwrap();
}

/// Whether figures are wanted of real sizes (`SYSTOLE_FIGURES=1`, in a release build) and
/// not only that what prints them still works.
pub(crate) fn real_sizes() -> bool {
    std::env::var_os("SYSTOLE_FIGURES").is_some()
}
