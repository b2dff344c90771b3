//! The journal's readers: each frame once and in order, from memory or from disk.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use proptest::prelude::*;
use systole_storage::disk::Disk;
use systole_storage::frame::{Draft, FRAME_HEADER_BYTES, Frame, Kind, Published, Stamp, encode_published};
use systole_storage::journal::{Log, LogCursor, LogError, recover};
use systole_storage::{Opened, Sequence, Store, StoreSettings};

use super::fixture::{Place, TestJournal, drain, drained, frame, sequences};
use super::simulated_disk::{Fault, SimulatedDisk};

const SEGMENT_BYTES: u64 = 4096;
/// Samples of the frames of each group: some fill, span and outgrow segments.
const GROUPS: &[&[usize]] =
    &[&[1], &[3, 40, 2], &[100], &[1, 1, 1, 1], &[120, 120], &[400], &[5], &[60, 1, 200], &[2, 2]];
/// How much a cursor is asked for at a time: one frame, some, all.
const LIMITS: &[usize] = &[0, 1, 300, 5_000, 1 << 20, usize::MAX];
/// Longer than any test waits that goes well.
const LONG: Duration = Duration::from_secs(60);

fn commit_groups(journal: &mut TestJournal) -> Vec<u64> {
    GROUPS.iter().flat_map(|group| journal.commit(group)).collect()
}

/// Every position is a start for a cursor, each reads what lies behind it.
fn assert_readable_from_everywhere(journal: &TestJournal, kept: &[u64], limits: &[usize]) {
    for after in 0..=journal.synced + 1 {
        let behind: Vec<u64> = kept.iter().copied().filter(|&sequence| sequence > after).collect();
        for &limit in limits {
            let mut cursor = journal.cursor(after);
            assert_eq!(drained(&mut cursor, limit), behind, "behind {after}, {limit} bytes at a time");
            assert_eq!(cursor.position().0, behind.last().copied().unwrap_or(after));
            assert_eq!(drained(&mut cursor, limit), [0; 0], "twice");
        }
    }
}

#[test]
fn a_cursor_that_keeps_up_touches_no_disk() {
    let mut journal = TestJournal::new(SEGMENT_BYTES);
    journal.log().watch(true);
    let kept = commit_groups(&mut journal);
    // With no file there is nothing else to read from.
    for path in journal.segment_paths() {
        std::fs::remove_file(path).unwrap();
    }
    assert_readable_from_everywhere(&journal, &kept, &LIMITS[1..]);
    assert!(kept.iter().all(|&sequence| journal.log().is_in_memory(Sequence(sequence))));
}

#[test]
fn an_unwatched_journal_is_read_from_disk() {
    for segment_bytes in [1024, SEGMENT_BYTES, 1 << 20] {
        let mut journal = TestJournal::new(segment_bytes);
        let kept = commit_groups(&mut journal);
        assert_readable_from_everywhere(&journal, &kept, LIMITS);
        assert!(!kept.iter().any(|&sequence| journal.log().is_in_memory(Sequence(sequence))));
    }
}

#[test]
fn frames_from_before_somebody_watched_are_read_from_disk() {
    let mut journal = TestJournal::new(SEGMENT_BYTES);
    let mut kept = commit_groups(&mut journal);
    let on_disk = kept.len();
    journal.log().watch(true);
    kept.extend(commit_groups(&mut journal));
    assert_readable_from_everywhere(&journal, &kept, LIMITS);
    let in_memory = |sequence: &u64| journal.log().is_in_memory(Sequence(*sequence));
    assert_eq!(kept.iter().position(in_memory), Some(on_disk));
}

#[test]
fn a_cursor_goes_from_disk_to_memory_and_back() {
    for &limit in LIMITS {
        let mut journal = TestJournal::new(SEGMENT_BYTES);
        let mut cursor = journal.cursor(0);
        let (mut kept, mut read) = (Vec::new(), Vec::new());
        for round in 0..12 {
            // Watched and not, read to the head and lagging, in all combinations.
            journal.log().watch(round % 2 == 0);
            kept.extend(commit_groups(&mut journal));
            read.extend(sequences(&cursor.next(limit).unwrap()));
            if round % 4 < 2 {
                read.extend(drained(&mut cursor, limit));
            }
        }
        read.extend(drained(&mut cursor, limit));
        assert_eq!(read, kept, "{limit} bytes at a time");
    }
}

#[test]
fn a_cursor_in_the_middle_of_a_long_segment_finds_its_frame() {
    let mut journal = TestJournal::new(1 << 20);
    // Marks are 64 KiB apart: some fall on a frame, some frames are longer.
    let kept: Vec<u64> =
        [9_000, 100, 1, 5_000, 3, 12_000].iter().flat_map(|&samples| journal.commit(&[samples; 3])).collect();
    assert_eq!(journal.segment_paths().len(), 2);
    assert_readable_from_everywhere(&journal, &kept, LIMITS);
    let journal = journal.restart(15);
    assert_readable_from_everywhere(&journal, &kept, LIMITS);
}

#[test]
fn frames_that_no_longer_fit_into_memory_are_read_from_disk() {
    let mut journal = TestJournal::new(8 << 20);
    journal.log().watch(true);
    // 80 MiB of frames, memory is for 64 of them.
    let kept: Vec<u64> = (0..20).flat_map(|_| journal.commit(&[1 << 18])).collect();
    let in_memory = |sequence: &&u64| journal.log().is_in_memory(Sequence(**sequence));
    assert_eq!(kept.iter().filter(in_memory).count(), 15);
    for after in [0, 4, 5, 6, 19] {
        assert_eq!(drained(&mut journal.cursor(after), 1 << 20), kept[after as usize..], "behind {after}");
    }
}

#[test]
fn frames_of_every_kind_are_read_in_their_order() {
    let dir = tempfile::tempdir().unwrap();
    let settings = StoreSettings {
        data_dir: dir.path().to_owned(),
        segment_bytes: 4096,
        flush_bytes: 64 << 20,
        series_bytes: 64 << 20,
    };
    let Opened { mut writer, log, store, .. } = Store::open(&settings).unwrap();
    let stamp = |sequence| Stamp {
        sequence: Sequence(sequence),
        synced: Sequence(0),
        ordering: sequence,
        committed_at: 1_782_805_500_000_000,
    };
    let event = Published {
        org: "acme",
        user: None,
        name: "check_in.created",
        id: Some("ci-1"),
        bound: false,
        data: "{}",
    };
    let frames = [
        encode_published(&event).seal(stamp(1)),
        frame(2, 0, 3),
        Draft::build(Kind::Audit, false, 1, |payload| payload.push(7)).seal(stamp(3)),
    ];
    writer.append(&[&frames[0], &frames[1], &frames[2]]).unwrap();
    for watched in [false, true] {
        log.watch(watched);
        log.publish(Sequence(3), frames.iter().map(|bytes| Frame::parse(bytes.clone().into()).unwrap()));
        let read = log.cursor(Sequence::ZERO).next(1 << 20).unwrap();
        assert!(
            matches!(&read[..], [Frame::Event(event), Frame::Samples(samples), Frame::Other(_)]
                if event.id() == Some("ci-1") && samples.sample_count() == 3),
            "{read:?}"
        );
    }
    drop(store);
}

#[test]
fn an_unknown_frame_is_not_found_and_each_kept_one_is() {
    let mut journal = TestJournal::new(SEGMENT_BYTES);
    let mut kept = Vec::new();
    for (round, watched) in [false, true, false].into_iter().enumerate() {
        journal.log().watch(watched);
        journal.skip(round as u64 + 1);
        kept.extend(commit_groups(&mut journal));
        assert_found_are(&journal, &kept);
    }
    let through = journal.sealed()[2].last.0;
    assert_eq!(journal.remove_through(through), 3);
    kept.retain(|&sequence| sequence > through);
    assert_found_are(&journal, &kept);
    let journal = journal.restart(through);
    assert_found_are(&journal, &kept);
}

fn assert_found_are(journal: &TestJournal, kept: &[u64]) {
    for sequence in 0..journal.synced + 3 {
        match journal.log().frame(Sequence(sequence)) {
            Ok(frame) => {
                assert!(kept.contains(&sequence), "{sequence} is not kept");
                assert_eq!(sequences(&[frame]), [sequence]);
            }
            Err(LogError::Gone { .. }) => assert!(!kept.contains(&sequence), "{sequence} is kept"),
            Err(other) => panic!("{sequence}: {other}"),
        }
    }
}

#[test]
fn refused_groups_leave_gaps_that_no_cursor_stops_at() {
    for watched in [false, true] {
        let mut journal = TestJournal::new(SEGMENT_BYTES);
        journal.log().watch(watched);
        let mut cursor = journal.cursor(0);
        let (mut kept, mut read, mut refused) = (Vec::new(), Vec::new(), 0);
        for (round, group) in GROUPS.iter().cycle().take(4 * GROUPS.len()).enumerate() {
            match round % 3 {
                0 => {
                    let committed = journal.commit_without_segments(group);
                    refused += usize::from(committed.is_empty());
                    kept.extend(committed);
                }
                1 => journal.skip(group.len() as u64),
                _ => kept.extend(journal.commit(group)),
            }
            read.extend(drained(&mut cursor, 300));
            assert_eq!(read, kept, "round {round}");
        }
        assert!(refused > 3, "only {refused} groups were refused after a part was written");
        assert_readable_from_everywhere(&journal, &kept, LIMITS);
        assert_found_are(&journal, &kept);
    }
}

/// What a disk that is full once leaves of [`GROUPS`]: what was kept, and whether the
/// journal was closed by it. `None` if the disk has no such operation.
fn written_to_a_full_disk(disk: &SimulatedDisk, operation: usize) -> Option<(Vec<u64>, bool)> {
    let shared: Arc<dyn Disk> = Arc::new(disk.clone());
    let mut writer =
        recover(&shared, Path::new("/journal"), SEGMENT_BYTES, Sequence::ZERO, |_, _| Ok(())).unwrap().writer;
    let before = disk.operations();
    disk.fault_at(operation, Fault::Full);
    let (mut kept, mut given, mut closed) = (Vec::new(), 0, false);
    for group in GROUPS {
        let synced = kept.last().copied().unwrap_or(0);
        let first = given + 1;
        given += group.len() as u64;
        let frames: Vec<Vec<u8>> =
            (first..).zip(*group).map(|(sequence, &samples)| frame(sequence, synced, samples)).collect();
        let slices: Vec<&[u8]> = frames.iter().map(Vec::as_slice).collect();
        match writer.append(&slices) {
            Ok(()) => kept.extend(first..=given),
            Err(error) => closed |= matches!(error, systole_storage::journal::AppendError::Poisoned { .. }),
        }
    }
    (disk.operations() - before > operation).then_some((kept, closed))
}

#[test]
fn what_a_full_disk_refused_is_read_by_no_cursor() {
    let mut refusals = 0;
    for operation in 0.. {
        let disk = SimulatedDisk::default();
        let Some((kept, closed)) = written_to_a_full_disk(&disk, operation) else { break };
        let what = format!("operation {operation}");
        let journal = TestJournal::of_disk(&disk, Path::new("/journal"), SEGMENT_BYTES, 0).expect(&what);
        // As after a restart the first sequences may be a gap: the readers go on behind it.
        let read = drained(&mut journal.cursor(journal.log().removed().0), 300);
        // A group that closed the journal was not refused for good.
        assert!(read == kept || closed && read.starts_with(&kept), "{what}: {read:?}, not {kept:?}");
        assert_found_are(&journal, &read);
        refusals += usize::from(!closed);
    }
    assert!(refusals > 10, "only {refusals} refusals");
}

#[test]
fn a_frame_that_is_durable_but_not_published_is_seen_by_nobody() {
    for watched in [false, true] {
        for &limit in LIMITS {
            let mut journal = TestJournal::new(SEGMENT_BYTES);
            journal.log().watch(watched);
            let mut kept = Vec::new();
            let mut at_head = journal.cursor(0);
            for group in GROUPS {
                let head = journal.log().head();
                let frames = journal.append(group).unwrap();
                let hidden = sequences(&frames);
                assert_eq!(drained(&mut at_head, limit), [0; 0]);
                for after in [0, head.0.saturating_sub(1), head.0, hidden[0], hidden[hidden.len() - 1]] {
                    let behind = kept.iter().copied().filter(|&sequence| sequence > after);
                    assert_eq!(drained(&mut journal.cursor(after), limit), behind.collect::<Vec<_>>());
                }
                for &sequence in &hidden {
                    let found = journal.log().frame(Sequence(sequence));
                    assert!(matches!(found, Err(LogError::Gone { .. })), "{found:?}");
                    assert!(!journal.log().is_in_memory(Sequence(sequence)));
                }
                assert_eq!(journal.log().head(), head);
                journal.publish(frames);
                assert_eq!(drained(&mut at_head, limit), hidden);
                kept.extend(hidden);
            }
        }
    }
}

#[test]
fn what_a_keeping_reader_read_from_segments_is_opened_without_the_disk_until_all_is_forgotten() {
    let mut journal = TestJournal::new(SEGMENT_BYTES);
    let kept = commit_groups(&mut journal);
    let in_memory = |journal: &TestJournal| {
        let is_there = |&sequence: &u64| journal.log().is_in_memory(Sequence(sequence));
        kept.iter().copied().filter(is_there).collect::<Vec<u64>>()
    };
    // Others leave nothing behind.
    assert_eq!(drained(&mut journal.cursor(0), 300), kept);
    assert_eq!(in_memory(&journal), [0; 0]);
    assert_eq!(drained(&mut journal.cursor(0).keeping(), 300), kept);
    assert_eq!(in_memory(&journal), kept);
    journal.log().forget_tail();
    assert_eq!(in_memory(&journal), [0; 0]);
    assert_eq!(drained(&mut journal.cursor(0).keeping(), 300), kept);
    // What was removed is gone, though it was kept.
    let removed = journal.sealed()[1].last;
    journal.remove_through(removed.0);
    let left: Vec<u64> = kept.iter().copied().filter(|&sequence| sequence > removed.0).collect();
    assert_eq!(in_memory(&journal), left);
    for path in journal.segment_paths() {
        std::fs::remove_file(path).unwrap();
    }
    for &sequence in &kept {
        match journal.log().frame(Sequence(sequence)) {
            Ok(frame) => assert_eq!(frame.sequence(), Sequence(sequence)),
            Err(fault) => assert!(sequence <= removed.0 && matches!(fault, LogError::Gone { .. }), "{fault}"),
        }
    }
}

/// A journal whose frames lie on disk, in groups of three, some of them across a border.
fn on_disk() -> (TestJournal, Vec<Place>) {
    let mut journal = TestJournal::new(SEGMENT_BYTES);
    for _ in 0..10 {
        journal.commit(&[12, 30, 20]);
    }
    let places = journal.places();
    assert_eq!(places.len(), 30);
    let across = |group: &[Place]| group[0].path != group[2].path;
    assert!(places.chunks(3).any(across) && places.iter().filter(|place| place.is_first()).count() > 3);
    (journal, places)
}

/// Flips each bit of some bytes of each frame, then runs `check` with the frame's place.
fn with_each_flip(bytes: impl Fn(&Place) -> Vec<u64>, check: impl Fn(&TestJournal, &Place, &str)) {
    let (journal, places) = on_disk();
    for place in &places {
        let whole = std::fs::read(&place.path).unwrap();
        let file = File::options().write(true).open(&place.path).unwrap();
        for at in bytes(place).into_iter().map(|byte| place.at + byte) {
            let right = whole[usize::try_from(at).unwrap()];
            for bit in 0..8 {
                file.write_all_at(&[right ^ 1 << bit], at).unwrap();
                check(
                    &journal,
                    place,
                    &format!("frame {}, byte {}, bit {bit}", place.sequence(), at - place.at),
                );
            }
            file.write_all_at(&[right], at).unwrap();
        }
    }
}

/// The frames before a damaged one are given, then it is named, again and again.
fn assert_named(journal: &TestJournal, place: &Place, what: &str) {
    let damaged = place.sequence();
    for (after, limit) in [(0, 1 << 20), (0, 1), (damaged - 1, 1 << 20)] {
        let mut cursor = journal.cursor(after);
        for before in [(after + 1..damaged).collect(), Vec::new()] {
            let (read, error) = drain(&mut cursor, limit);
            assert_eq!(read, before, "{what}, behind {after}");
            assert!(
                matches!(&error, Some(LogError::Damaged { path, offset, .. })
                    if (path, *offset) == (&place.path, place.at)),
                "{what}, behind {after}: {error:?}"
            );
            assert_eq!(cursor.position().0, damaged - 1, "{what}");
        }
    }
    let found = journal.log().frame(Sequence(damaged));
    assert!(matches!(found, Err(LogError::Damaged { .. })), "{what}: {found:?}");
}

#[test]
fn a_flipped_bit_in_a_payload_is_named() {
    let bytes = |place: &Place| {
        let end = FRAME_HEADER_BYTES as u64 + u64::from(place.header.payload_bytes);
        vec![48, 49, 60, 100, end / 2, end - 9, end - 1]
    };
    with_each_flip(bytes, assert_named);
}

#[test]
fn a_flipped_bit_in_the_checksum_or_the_fields_behind_the_sequence_is_named() {
    with_each_flip(|_| (4..8).chain(16..48).collect(), assert_named);
}

#[test]
fn a_flipped_bit_in_the_length_is_named() {
    with_each_flip(|_| (0..4).collect(), assert_named);
}

#[test]
fn a_flipped_bit_in_the_sequence_is_named() {
    with_each_flip(|_| (8..16).collect(), assert_named);
}

#[test]
fn a_damaged_frame_never_makes_a_cursor_skip_or_miss_another() {
    let check = |journal: &TestJournal, place: &Place, what: &str| {
        for after in [place.sequence(), place.sequence() + 1, place.sequence() + 3] {
            let (read, error) = drain(&mut journal.cursor(after), 1 << 20);
            let behind: Vec<u64> = (after + 1..=30).collect();
            assert!(behind.starts_with(&read), "{what}, behind {after}: {read:?}");
            let named = matches!(&error, Some(LogError::Damaged { path, .. }) if *path == place.path);
            assert!(read == behind || named, "{what}, behind {after}: {error:?}, read {read:?}");
        }
    };
    with_each_flip(|_| (0..48).chain([60]).collect(), check);
}

#[test]
fn a_file_that_cannot_be_read_is_named_and_costs_no_frame() {
    let (journal, places) = on_disk();
    let place = &places[15];
    let whole = std::fs::read(&place.path).unwrap();
    let first = places.iter().find(|other| other.path == place.path).unwrap().sequence();
    std::fs::write(&place.path, &whole[..usize::try_from(place.at).unwrap() + 10]).unwrap();
    let mut cursor = journal.cursor(0);
    let (mut read, error) = drain(&mut cursor, 1 << 20);
    assert!(error.is_some() && read.len() as u64 >= first - 1, "{error:?}, {read:?}");
    std::fs::write(&place.path, whole).unwrap();
    read.extend(drained(&mut cursor, 1 << 20));
    assert_eq!(read, (1..=30).collect::<Vec<u64>>());
}

/// Opens a cursor in the oldest segment, removes segments, and checks that it misses
/// none of their frames without saying so.
fn assert_removal_is_told(groups: &[&[usize]]) {
    let mut removals = 0;
    for (&limit, removed) in LIMITS.iter().flat_map(|limit| (1..9).map(move |removed| (limit, removed))) {
        let mut journal = TestJournal::new(SEGMENT_BYTES);
        let kept: Vec<u64> = groups.iter().flat_map(|group| journal.commit(group)).collect();
        let Some(through) = journal.sealed().get(removed - 1).map(|sealed| sealed.last) else { continue };
        // The cursor lags behind what is in memory, so it keeps its segment open.
        journal.log().watch(true);
        let mut cursor = journal.cursor(0);
        let mut read = sequences(&cursor.next(1).unwrap());
        assert_eq!(journal.remove_through(through.0), removed);
        let (rest, error) = drain(&mut cursor, limit);
        read.extend(rest);
        assert!(kept.starts_with(&read), "{removed} removed, {limit} bytes at a time: read {read:?}");
        // What it still had open it may read, what lies behind is missed.
        let gone = matches!(error, Some(LogError::Gone { removed }) if removed == through);
        assert!(gone || read == kept, "{removed} removed: {error:?} behind {read:?}, through {through}");
        cursor.seek(through);
        assert_eq!(cursor.position(), through);
        let behind: Vec<u64> = kept.iter().copied().filter(|&sequence| sequence > through.0).collect();
        assert_eq!(drained(&mut cursor, limit), behind);
        removals += 1;
    }
    assert!(removals > 2 * LIMITS.len(), "only {removals} removals");
}

#[test]
fn a_cursor_whose_segments_were_removed_under_it_says_so() {
    assert_removal_is_told(GROUPS);
}

#[test]
fn a_cursor_in_a_group_across_segments_says_that_some_were_removed_under_it() {
    assert_removal_is_told(&[&[60; 16]]);
}

#[test]
fn readers_beside_a_writer_read_every_frame_once() {
    let mut journal = TestJournal::new(SEGMENT_BYTES);
    let log = journal.log().clone();
    let reader = |limit: usize| {
        let log = log.clone();
        thread::spawn(move || read_along(&log, limit))
    };
    let readers: Vec<_> = [0, 300, 5_000, 1 << 20].into_iter().map(reader).collect();
    let mut kept = Vec::new();
    for round in 0..60 {
        log.watch(round % 3 > 0);
        if round % 5 == 0 {
            journal.skip(2);
        }
        if round % 7 == 0 {
            kept.extend(journal.commit_without_segments(&[90, 30, 60]));
        }
        kept.extend(commit_groups(&mut journal));
    }
    log.stop();
    for reader in readers {
        assert_eq!(reader.join().unwrap(), kept);
    }
}

fn read_along(log: &Arc<Log>, limit: usize) -> Vec<u64> {
    let mut cursor = log.cursor(Sequence::ZERO);
    let mut read = Vec::new();
    while !log.is_stopped() {
        log.wait_beyond(cursor.position(), Duration::from_millis(1));
        read.extend(sequences(&cursor.next(limit).unwrap()));
    }
    read.extend(drained(&mut cursor, limit));
    read
}

/// Waits in a thread of its own behind the head, does `wake` until it is awake, and
/// returns what the wait said.
fn woken_by(journal: &TestJournal, wake: impl Fn()) -> bool {
    let (log, head) = (journal.log().clone(), journal.log().head());
    let begun = Instant::now();
    let waiter = thread::spawn(move || log.wait_beyond(head, LONG));
    while !waiter.is_finished() && begun.elapsed() < LONG {
        wake();
        thread::yield_now();
    }
    let said = waiter.join().unwrap();
    assert!(begun.elapsed() < LONG, "it was not woken");
    said
}

#[test]
fn waiting_ends_with_a_commit_a_nudge_and_a_stop() {
    let mut journal = TestJournal::new(SEGMENT_BYTES);
    journal.log().watch(true);
    let head = journal.log().head();
    let begun = Instant::now();
    let (log, told) = (journal.log().clone(), Instant::now());
    let waiter = thread::spawn(move || log.wait_beyond(head, LONG));
    journal.commit(&[1]);
    assert!(waiter.join().unwrap());
    assert!(told.elapsed() < LONG);
    // Something is there already: no wait at all.
    assert!(journal.log().wait_beyond(head, LONG));
    assert!(!woken_by(&journal, || journal.log().nudge()));
    assert!(!woken_by(&journal, || journal.log().stop()));
    // For good, also if there is something to read.
    assert!(!journal.log().wait_beyond(journal.log().head(), LONG));
    assert!(!journal.log().wait_beyond(head, LONG));
    assert!(journal.log().is_stopped() && begun.elapsed() < LONG);
}

#[test]
fn waiting_ends_after_its_time_and_finds_what_came_unwatched() {
    let mut journal = TestJournal::new(SEGMENT_BYTES);
    let (short, begun) = (Duration::from_millis(20), Instant::now());
    assert!(!journal.log().wait_beyond(Sequence::ZERO, short));
    assert!(begun.elapsed() >= short);
    journal.commit(&[1]);
    assert!(journal.log().wait_beyond(Sequence::ZERO, LONG));
    assert!(!journal.log().wait_beyond(Sequence(1), short));
    assert!(!journal.log().wait_beyond(Sequence(9), short));
}

#[derive(Clone, Debug)]
enum Step {
    Commit(Vec<usize>),
    /// A group for which no next segment can be made.
    CommitWithoutSegments(Vec<usize>),
    /// A group that was refused before a byte was written.
    Skip(u64),
    Watch(bool),
    /// A cursor reads once.
    Read(usize, usize),
    /// A cursor reads to the head.
    Drain(usize, usize),
    /// A cursor goes to a place: a part of the way to the head, in 256ths.
    Seek(usize, u8),
    Remove(u8),
    /// Everything up to a place is flushed, then a restart.
    Restart(u8),
}

const CURSORS: usize = 3;

fn group() -> impl Strategy<Value = Vec<usize>> {
    let samples = prop_oneof![6 => 1..30usize, 3 => 30..240usize, 1 => 240..900usize];
    prop::collection::vec(samples, 1..6)
}

fn limit() -> impl Strategy<Value = usize> {
    prop_oneof![0..20_000usize, Just(0), Just(usize::MAX)]
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        8 => group().prop_map(Step::Commit),
        3 => group().prop_map(Step::CommitWithoutSegments),
        1 => (1..4u64).prop_map(Step::Skip),
        2 => any::<bool>().prop_map(Step::Watch),
        8 => (0..CURSORS, limit()).prop_map(|(cursor, limit)| Step::Read(cursor, limit)),
        2 => (0..CURSORS, limit()).prop_map(|(cursor, limit)| Step::Drain(cursor, limit)),
        2 => (0..CURSORS, any::<u8>()).prop_map(|(cursor, part)| Step::Seek(cursor, part)),
        2 => any::<u8>().prop_map(Step::Remove),
        1 => any::<u8>().prop_map(Step::Restart),
    ]
}

/// What was committed, and what of it is gone.
struct Model {
    journal: TestJournal,
    cursors: Vec<LogCursor>,
    /// Every sequence ever committed.
    committed: Vec<u64>,
    /// What a reader may be told is gone.
    removed: u64,
}

impl Model {
    fn new(segment_bytes: u64) -> Model {
        let journal = TestJournal::new(segment_bytes);
        let cursors = (0..CURSORS).map(|_| journal.cursor(0)).collect();
        Model { journal, cursors, committed: Vec::new(), removed: 0 }
    }

    fn part(&self, part: u8) -> u64 {
        self.journal.synced * u64::from(part) / 256
    }

    fn behind(&self, position: u64) -> Vec<u64> {
        self.committed.iter().copied().filter(|&sequence| sequence > position).collect()
    }

    /// A cursor sees the frames behind its position, none left out, or is told that
    /// some are gone. False if it saw none.
    fn read(&mut self, cursor: usize, limit: usize) -> bool {
        let position = self.cursors[cursor].position().0;
        let behind = self.behind(position);
        match self.cursors[cursor].next(limit) {
            Ok(frames) => {
                let read = sequences(&frames);
                assert!(behind.starts_with(&read), "read {read:?} of {behind:?}");
                assert_eq!(read.is_empty(), behind.is_empty(), "nothing was read of {behind:?}");
                !read.is_empty()
            }
            Err(LogError::Gone { removed }) => {
                assert_eq!(removed.0, self.removed);
                assert!(position < self.removed, "nothing behind {position} is gone");
                assert_eq!(self.cursors[cursor].position().0, position);
                false
            }
            Err(other) => panic!("behind {position}: {other}"),
        }
    }

    fn remove(&mut self, position: u64) {
        let going: Vec<u64> = self.journal.sealed().iter().map(|sealed| sealed.last.0).collect();
        let going = going.into_iter().take_while(|&last| last <= position);
        self.removed = going.clone().last().unwrap_or(self.removed).max(self.removed);
        assert_eq!(going.count(), self.journal.remove_through(position));
        assert_eq!(self.journal.log().removed().0, self.removed);
    }

    fn restart(mut self, position: u64) -> Model {
        let positions: Vec<u64> = self.cursors.iter().map(|cursor| cursor.position().0).collect();
        let oldest = self.journal.places().first().map(Place::sequence);
        self.journal = self.journal.restart(position.max(self.removed));
        self.cursors = positions.into_iter().map(|position| self.journal.cursor(position)).collect();
        // Sequences that were refused before the oldest frame may count as gone.
        let removed = self.journal.log().removed().0;
        assert!(removed >= self.removed && oldest.is_none_or(|oldest| removed < oldest), "{removed}");
        self.removed = removed;
        self
    }

    fn step(mut self, step: &Step) -> Model {
        match step {
            Step::Commit(group) => self.committed.extend(self.journal.commit(group)),
            Step::CommitWithoutSegments(group) => {
                self.committed.extend(self.journal.commit_without_segments(group));
            }
            Step::Skip(frames) => self.journal.skip(*frames),
            Step::Watch(watched) => self.journal.log().watch(*watched),
            Step::Read(cursor, limit) => drop(self.read(*cursor, *limit)),
            Step::Drain(cursor, limit) => while self.read(*cursor, *limit) {},
            Step::Seek(cursor, part) => {
                let position = Sequence(self.part(*part));
                self.cursors[*cursor].seek(position);
                assert_eq!(self.cursors[*cursor].position(), position);
            }
            Step::Remove(part) => self.remove(self.part(*part)),
            Step::Restart(part) => {
                let position = self.part(*part);
                self = self.restart(position);
            }
        }
        self
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn any_order_of_commits_reads_and_removals_reads_like_a_list(
        segment_bytes in prop::sample::select(vec![1024, SEGMENT_BYTES, 200_000]),
        steps in prop::collection::vec(step(), 1..60),
    ) {
        let mut model = Model::new(segment_bytes);
        for step in &steps {
            model = model.step(step);
        }
        for cursor in 0..CURSORS {
            while model.read(cursor, 1 << 20) {}
        }
        for sequence in 0..model.journal.synced + 2 {
            let kept = sequence > model.removed && model.committed.contains(&sequence);
            let found = model.journal.log().frame(Sequence(sequence));
            let in_memory = model.journal.log().is_in_memory(Sequence(sequence));
            prop_assert!(found.is_ok() == (kept || in_memory), "{}: {:?}", sequence, found);
        }
    }
}

/// What is promised about the ordering of frames to come holds for every frame that is
/// not visible yet, also for those whose group was stamped before the question.
#[test]
fn no_frame_that_comes_has_an_ordering_that_was_promised_away() {
    let mut journal = TestJournal::new(SEGMENT_BYTES);
    // Nothing is being committed: everything up to now is settled, and stays so though
    // the clock steps back.
    assert_eq!(journal.log().settle(1_000), (Sequence(0), 1_000));
    assert_eq!(journal.log().settle(900), (Sequence(0), 1_000));
    assert_eq!(journal.log().begin_group(), 1_000);
    // A group has its stamps and is not visible: nothing new is promised.
    assert_eq!(journal.log().settle(5_000), (Sequence(0), 1_000));
    journal.commit(&[1, 1]);
    journal.log().end_group(1_002);
    assert_eq!(journal.log().begin_group(), 1_000);
    assert_eq!(journal.log().settle(5_000), (Sequence(2), 1_002));
    // One that is refused used its stamps up, too.
    journal.log().end_group(1_003);
    assert_eq!(journal.log().settle(500), (Sequence(2), 1_003));
    assert_eq!(journal.log().begin_group(), 1_003);
}
