//! Sealed segments read through their indexes: only what concerns the reader, in both
//! directions, whatever becomes of the index files; ids of events beyond their segments.

use std::collections::BTreeSet;
use std::io::{self, IoSlice};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use systole_storage::disk::{Disk, DiskFile, RealDisk};
use systole_storage::frame::{
    Change, Columns, Frame, GroupChange, GroupSpec, Published, SamplesFrame, Stamp, Verdict, encode_changes,
    encode_published, encode_samples,
};
use systole_storage::journal::{EventKey, FrameFilter, JournalWriter, Log};
use systole_storage::store::JOURNAL_DIR;
use systole_storage::{Catalog, Draft, Opened, Sequence, Store, StoreSettings};
use tempfile::TempDir;

const SEGMENT_BYTES: u64 = 64 * 1024;
const BEGIN_MICROS: i64 = 1_782_805_500_000_000;

/// The real disk, which counts what is read, and remembers which files were let go.
#[derive(Clone, Debug, Default)]
struct CountingDisk(Arc<AtomicU64>, Arc<Mutex<BTreeSet<PathBuf>>>);

#[derive(Debug)]
struct CountingFile(Box<dyn DiskFile>, CountingDisk, PathBuf);

impl Disk for CountingDisk {
    fn create_dir_all(&self, dir: &Path) -> io::Result<()> {
        RealDisk.create_dir_all(dir)
    }

    fn list(&self, dir: &Path) -> io::Result<Vec<PathBuf>> {
        RealDisk.list(dir)
    }

    fn create(&self, path: &Path, bytes: u64) -> io::Result<Box<dyn DiskFile>> {
        Ok(Box::new(CountingFile(RealDisk.create(path, bytes)?, self.clone(), path.to_owned())))
    }

    fn open(&self, path: &Path) -> io::Result<Box<dyn DiskFile>> {
        Ok(Box::new(CountingFile(RealDisk.open(path)?, self.clone(), path.to_owned())))
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        RealDisk.rename(from, to)
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        RealDisk.remove(path)
    }

    fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        RealDisk.sync_dir(dir)
    }
}

impl DiskFile for CountingFile {
    fn byte_len(&self) -> io::Result<u64> {
        self.0.byte_len()
    }

    fn read_exact_at(&self, buf: &mut [u8], offset: u64) -> io::Result<()> {
        self.1.0.fetch_add(buf.len() as u64, Ordering::Relaxed);
        self.0.read_exact_at(buf, offset)
    }

    fn write_all_at(&self, slices: &mut [IoSlice<'_>], offset: u64) -> io::Result<()> {
        self.0.write_all_at(slices, offset)
    }

    fn sync_data(&self) -> io::Result<()> {
        self.0.sync_data()
    }

    fn let_go(&self) {
        self.0.let_go();
        self.1.1.lock().insert(self.2.clone());
    }
}

/// A journal of several organisations; the test plays the committer.
struct Journal {
    disk: CountingDisk,
    writer: JournalWriter,
    log: Arc<Log>,
    last: u64,
    dir: TempDir,
}

impl Journal {
    fn new() -> Journal {
        Journal::open(tempfile::tempdir().unwrap(), SEGMENT_BYTES)
    }

    fn open(dir: TempDir, segment_bytes: u64) -> Journal {
        let disk = CountingDisk::default();
        let settings = StoreSettings {
            data_dir: dir.path().to_owned(),
            segment_bytes,
            flush_bytes: 64 << 20,
            series_bytes: 64 << 20,
        };
        let catalog = Arc::new(Catalog::open(dir.path()).unwrap());
        let Opened { writer, log, last, .. } =
            Store::open_on(&settings, Arc::new(disk.clone()), catalog).unwrap();
        Journal { disk, writer, log, last: last.0, dir }
    }

    fn restart(self) -> Journal {
        drop((self.writer, self.log));
        Journal::open(self.dir, SEGMENT_BYTES)
    }

    fn commit(&mut self, draft: Draft) -> u64 {
        let synced = self.last;
        self.last += 1;
        let stamp = Stamp {
            sequence: Sequence(self.last),
            synced: Sequence(synced),
            ordering: self.last,
            committed_at: BEGIN_MICROS + 1_000_000 * self.last.cast_signed(),
        };
        let bytes = draft.seal(stamp);
        self.writer.append(&[&bytes]).unwrap();
        self.log.publish(stamp.sequence, [Frame::parse(bytes.into()).unwrap()]);
        self.last
    }

    /// Rounds of a frame an organisation, an event each third round, verdicts each tenth.
    fn fill(&mut self, orgs: usize, rounds: usize, samples: usize) {
        for round in 0..rounds {
            for org in 0..orgs {
                let (org, user) = (format!("org_{org}"), format!("u_{}", round % 7));
                self.commit(if round % 3 == 2 {
                    event(&org, (round % 2 == 0).then_some(&user), None)
                } else {
                    samples_of(&org, &[&user, "u_x"], samples)
                });
            }
            if round % 10 == 9 {
                let (sequence, verdict) = (Sequence(self.last), Verdict::of(&[Change::Updated]));
                let group = GroupChange { sequence, group: 0, rows: 1, verdict };
                self.commit(encode_changes(sequence, &[group]));
            }
        }
    }

    /// What a reader gets behind `after` and a filter asks for, about `bytes_max` bytes
    /// at a time.
    fn forward(&self, after: u64, filter: FrameFilter, bytes_max: usize) -> Vec<u64> {
        let mut cursor = self.log.cursor_of(Sequence(after), filter);
        let mut read = Vec::new();
        loop {
            let frames = cursor.next(bytes_max).unwrap();
            if frames.is_empty() {
                assert_eq!(cursor.position().0, self.last.max(after));
                return read;
            }
            read.extend(frames.iter().filter(|frame| filter.takes(frame)).map(|frame| frame.sequence().0));
        }
    }

    fn backward(&self, before: u64, filter: FrameFilter, bytes_max: usize) -> Vec<u64> {
        let mut cursor = self.log.reversed(Sequence(before), filter);
        let mut read = Vec::new();
        while !cursor.is_done() {
            let frames = cursor.next(bytes_max).unwrap();
            assert!(frames.iter().all(|frame| filter.takes(frame)));
            read.extend(frames.iter().map(|frame| frame.sequence().0));
        }
        read
    }

    /// What a filter asks for, found by looking at every frame.
    fn expected(&self, filter: FrameFilter) -> Vec<u64> {
        let mut cursor = self.log.cursor(Sequence::ZERO);
        let mut expected = Vec::new();
        loop {
            let frames = cursor.next(1 << 20).unwrap();
            if frames.is_empty() {
                return expected;
            }
            let taken = frames.iter().filter(|frame| filter.takes(frame));
            expected.extend(taken.map(|frame| frame.sequence().0));
        }
    }

    fn files(&self, suffix: &str) -> Vec<PathBuf> {
        let listed = RealDisk.list(&self.dir.path().join(JOURNAL_DIR)).unwrap();
        listed.into_iter().filter(|path| path.extension().is_some_and(|it| it == suffix)).collect()
    }

    fn keys(&self, since: i64) -> Vec<(String, u64, u64)> {
        let mut keys = Vec::new();
        let visit = |org: &str, key: EventKey| keys.push((org.to_owned(), key.hash, key.sequence.0));
        self.log.event_keys(since, visit).unwrap();
        keys.sort_by_key(|key| key.2);
        keys
    }
}

fn samples_of(org: &str, users: &[&str], samples: usize) -> Draft {
    let times: Vec<i64> = (0..samples * users.len()).map(|row| 1_000 * row as i64).collect();
    let values = vec![60.0; times.len()];
    let groups: Vec<GroupSpec<'_>> = users
        .iter()
        .enumerate()
        .map(|(at, user)| GroupSpec {
            user,
            metric: "heart_rate",
            unit: "bpm",
            source: "garmin",
            device: None,
            first: u32::try_from(at * samples).unwrap(),
            count: u32::try_from(samples).unwrap(),
        })
        .collect();
    let columns = Columns { recorded_at: &times, value: &values, zone: None, ended_at: None, daily: None };
    encode_samples(org, false, &groups, columns)
}

fn event(org: &str, user: Option<&String>, id: Option<&str>) -> Draft {
    let user = user.map(String::as_str);
    let data = "{\"mood\":4}";
    encode_published(&Published { org, user, name: "check_in.created", id, bound: false, data })
}

fn filters() -> [FrameFilter; 6] {
    [
        FrameFilter::org("org_0"),
        FrameFilter::org("org_3"),
        FrameFilter::org("nobody"),
        FrameFilter::user("org_1", "u_3"),
        FrameFilter::user("org_1", "u_x"),
        FrameFilter::verdicts(),
    ]
}

#[test]
fn a_lagging_reader_of_one_of_a_hundred_organisations_reads_about_a_hundredth() {
    const SHARE_BYTES: usize = 32 * 1024;
    let mut journal = Journal::open(tempfile::tempdir().unwrap(), 1 << 20);
    journal.fill(100, 120, 60);
    journal.writer.seal().unwrap();
    journal.commit(event("org_0", None, None));
    let whole: u64 = journal.files("segment").iter().map(|path| path.metadata().unwrap().len()).sum();
    assert!(whole > 16 << 20, "{whole}");
    // The first reader has the indexes made, which takes a pass over everything.
    assert_eq!(journal.forward(0, FrameFilter::org("org_0"), SHARE_BYTES).len(), 121);
    let before = journal.disk.0.load(Ordering::Relaxed);
    assert_eq!(journal.forward(0, FrameFilter::org("org_42"), SHARE_BYTES).len(), 120);
    let read = journal.disk.0.load(Ordering::Relaxed) - before;
    // Heads of indexes, sections and the segment without an index come on top.
    assert!(read < whole / 60 + 2 * SHARE_BYTES as u64, "{read} of {whole} bytes");
}

#[test]
fn readers_get_what_they_ask_for_in_both_directions_from_everywhere() {
    for watched in [false, true] {
        let mut journal = Journal::new();
        journal.fill(5, 40, 30);
        journal.log.watch(watched);
        journal.fill(5, 40, 30);
        assert!(journal.files("segment").len() > 3);
        for filter in filters() {
            let expected = journal.expected(filter);
            for from in (0..journal.last + 2).step_by(23) {
                for bytes_max in [0, 3_000, 1 << 20] {
                    let behind: Vec<u64> = expected.iter().copied().filter(|&at| at > from).collect();
                    assert_eq!(journal.forward(from, filter, bytes_max), behind, "behind {from}");
                    let before: Vec<u64> = expected.iter().rev().copied().filter(|&at| at < from).collect();
                    assert_eq!(journal.backward(from, filter, bytes_max.max(1)), before, "before {from}");
                }
            }
        }
        assert!(journal.expected(FrameFilter::user("org_1", "u_3")).len() > 5);
        assert_eq!(journal.expected(FrameFilter::org("nobody")), [0; 0]);
    }
}

#[test]
fn a_reader_that_goes_back_passes_over_segments_that_are_too_new() {
    let mut journal = Journal::new();
    journal.fill(5, 80, 30);
    let until = BEGIN_MICROS + 1_000_000 * 100;
    let filter = FrameFilter::org("org_0");
    assert!(!journal.backward(journal.last, filter, 1 << 20).is_empty());
    let before = journal.disk.0.load(Ordering::Relaxed);
    let mut cursor = journal.log.reversed(Sequence(u64::MAX), filter).until(until);
    let mut read = Vec::new();
    while !cursor.is_done() {
        read.extend(cursor.next(1 << 20).unwrap().iter().map(|frame| frame.sequence().0));
    }
    let bytes = journal.disk.0.load(Ordering::Relaxed) - before;
    read.retain(|&sequence| sequence < 100);
    let expected: Vec<u64> = journal.expected(filter).into_iter().rev().filter(|&at| at < 100).collect();
    assert_eq!(read, expected);
    let whole: u64 = journal.files("segment").iter().map(|path| path.metadata().unwrap().len()).sum();
    assert!(bytes < whole / 2, "{bytes} of {whole}");
}

#[test]
fn an_index_that_is_missing_or_damaged_is_made_anew() {
    let mut journal = Journal::new();
    journal.fill(5, 80, 30);
    let filter = FrameFilter::org("org_1");
    let expected = journal.expected(filter);
    assert_eq!(journal.forward(0, filter, 1 << 20), expected);
    let segments = journal.files("segment").len();
    let indexes = journal.files("index");
    assert!(indexes.len() >= segments - 2, "{} of {segments}", indexes.len());
    let whole = std::fs::read(&indexes[0]).unwrap();
    for at in (0..whole.len()).step_by(61).chain([0, 9, 13, 50]) {
        let mut damaged = whole.clone();
        damaged[at] ^= 0x10;
        std::fs::write(&indexes[0], &damaged).unwrap();
        journal = journal.restart();
        assert_eq!(journal.forward(0, filter, 1 << 20), expected, "byte {at}");
    }
    for content in [&whole[..0], &whole[..40], &whole[..whole.len() / 2]] {
        std::fs::write(&indexes[0], content).unwrap();
        journal = journal.restart();
        assert_eq!(journal.forward(0, filter, 1 << 20), expected);
        assert_eq!(journal.backward(u64::MAX, filter, 1 << 20).len(), expected.len());
    }
    std::fs::remove_file(&indexes[0]).unwrap();
    journal = journal.restart();
    assert_eq!(journal.forward(0, filter, 1 << 20), expected);
    assert_eq!(std::fs::read(&indexes[0]).unwrap(), whole);
}

#[test]
fn a_segment_that_is_written_anew_gets_its_index_anew() {
    let mut journal = Journal::new();
    journal.fill(5, 80, 30);
    let (erased, kept) = (FrameFilter::user("org_1", "u_3"), FrameFilter::user("org_1", "u_x"));
    let expected = journal.expected(kept);
    let samples = |journal: &Journal, filter| {
        let mut cursor = journal.log.cursor_of(Sequence::ZERO, filter);
        let mut samples = 0;
        loop {
            let frames = cursor.next(1 << 20).unwrap();
            if frames.is_empty() {
                return samples;
            }
            let taken = frames.iter().filter(|frame| filter.takes(frame)).filter_map(Frame::as_samples);
            samples += taken.map(SamplesFrame::sample_count).sum::<usize>();
        }
    };
    let all = samples(&journal, kept);
    assert!(samples(&journal, erased) > 0);
    let current = journal.writer.seal().unwrap();
    let rewriter = journal.log.rewriter();
    let mut rewritten = 0;
    for id in rewriter.before(current) {
        rewritten += usize::from(
            rewriter
                .rewrite(id, |header, bytes| {
                    if header.kind != 1 {
                        return Ok(None);
                    }
                    let frame = SamplesFrame::parse(bytes.to_vec().into())?;
                    Ok(frame.without(|group| frame.org() == "org_1" && group.user == "u_3"))
                })
                .unwrap()
                .changed,
        );
    }
    assert!(rewritten > 3, "{rewritten}");
    for _ in 0..2 {
        assert_eq!(journal.forward(0, kept, 1 << 20), expected);
        assert_eq!(samples(&journal, erased), 0);
        assert!(samples(&journal, kept) < all);
        journal = journal.restart();
    }
}

#[test]
fn ids_of_events_are_known_after_their_segments_are_gone_until_they_are_forgotten() {
    let mut journal = Journal::new();
    let mut expected = Vec::new();
    for round in 0..400 {
        let (org, id) = (format!("org_{}", round % 3), format!("ci-{round}"));
        let sequence = journal.commit(event(&org, None, Some(&id)));
        expected.push((org, EventKey::hash_of(&id), sequence));
        journal.commit(samples_of("org_0", &["u_1"], 20));
    }
    assert_eq!(journal.keys(0), expected);
    // What goes through segments as they are sealed.
    let indexing = std::thread::spawn({
        let indexer = journal.log.indexer(Duration::from_hours(24 * 36_500));
        move || indexer.run()
    });
    let deadline = Instant::now() + Duration::from_secs(60);
    let sealed: Vec<_> = journal.writer.sealed().to_vec();
    while !sealed.iter().all(|segment| journal.writer.index().may_go(segment.id)) {
        assert!(Instant::now() < deadline, "not indexed");
        std::thread::sleep(Duration::from_millis(5));
    }
    journal.log.stop();
    indexing.join().unwrap();
    assert_eq!(journal.files("index").len(), sealed.len());
    assert_eq!(journal.keys(0), expected);
    let half = sealed[sealed.len() / 2].last;
    assert!(journal.writer.remove_through(half).unwrap() > 1);
    assert_eq!(journal.files("index").len(), journal.writer.sealed().len());
    assert_eq!(journal.keys(0), expected);
    let since = BEGIN_MICROS + 1_000_000 * 21;
    let recent: Vec<_> = expected.iter().filter(|key| key.2 >= 21).cloned().collect();
    assert_eq!(journal.keys(since), recent);
    journal.log.forget_event_keys(BEGIN_MICROS + 1_000_000 * half.0.cast_signed() + 1).unwrap();
    let kept: Vec<_> = expected.iter().filter(|key| key.2 > half.0).cloned().collect();
    assert_eq!(journal.keys(0), kept);
}

#[test]
fn an_index_without_its_segment_goes_at_a_start() {
    let mut journal = Journal::new();
    journal.fill(5, 80, 30);
    assert!(!journal.forward(0, FrameFilter::org("org_1"), 1 << 20).is_empty());
    let index = &journal.files("index")[0];
    let orphan = index.with_file_name("0000009999.index");
    std::fs::copy(index, &orphan).unwrap();
    let journal = journal.restart();
    assert!(!orphan.exists());
    assert!(journal.files("index").len() > 2);
}

#[test]
fn the_systems_cache_lets_a_segment_go_once_it_is_indexed() {
    let mut journal = Journal::new();
    journal.fill(5, 80, 30);
    let sealed: BTreeSet<PathBuf> =
        journal.files("segment").into_iter().take(journal.writer.sealed().len()).collect();
    assert!(sealed.len() > 2);
    // The first has an index already.
    assert!(!journal.forward(0, FrameFilter::org("org_1"), 1 << 20).is_empty());
    let journal = journal.restart();
    let let_go = journal.disk.1.clone();
    let indexing = std::thread::spawn({
        let indexer = journal.log.indexer(Duration::from_hours(24));
        move || indexer.run()
    });
    let wait_for = |is_so: &dyn Fn() -> bool| {
        let deadline = Instant::now() + Duration::from_secs(60);
        while !is_so() {
            assert!(Instant::now() < deadline, "{:?}", let_go.lock());
            std::thread::sleep(Duration::from_millis(5));
        }
    };
    wait_for(&|| *let_go.lock() == sealed);
    // What was let go is still there, and goes again once it is not read any more.
    let_go.lock().clear();
    assert!(!journal.forward(0, FrameFilter::org("org_1"), 1 << 20).is_empty());
    wait_for(&|| !let_go.lock().is_empty());
    journal.log.stop();
    indexing.join().unwrap();
}
