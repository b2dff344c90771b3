//! Segments that are kept for readers although everything in them is flushed: a
//! start does not read them, readers do.

use std::path::Path;
use std::sync::Arc;

use systole_storage::Sequence;
use systole_storage::StoreError;
use systole_storage::disk::Disk;
use systole_storage::journal::{JournalWriter, LogError, RecoverError, Recovered, recover};

use super::fixture::{Place, TestJournal, drain, drained, frame, places_in};
use super::simulated_disk::{Fault, SimulatedDisk};

const DIR: &str = "/data/journal";
const SEGMENT_BYTES: u64 = 4096;
/// Groups that end inside segments, fill them, span and outgrow them.
const GROUPS: &[&[usize]] =
    &[&[1], &[3, 40, 2], &[100], &[1, 1, 1, 1], &[120, 120], &[400], &[5], &[60, 1, 200], &[90, 90, 90]];

fn open(disk: &SimulatedDisk, from: u64, seen: &mut Vec<u64>) -> Result<Recovered, RecoverError> {
    let shared: Arc<dyn Disk> = Arc::new(disk.clone());
    recover(&shared, Path::new(DIR), SEGMENT_BYTES, Sequence(from), |header, _| {
        seen.push(header.stamp.sequence.0);
        Ok(())
    })
}

/// Appends [`GROUPS`] behind `last` until one fails; returns what was acknowledged.
fn append_groups(writer: &mut JournalWriter, mut last: u64) -> Vec<u64> {
    let mut acknowledged = Vec::new();
    for group in GROUPS {
        let frames: Vec<Vec<u8>> =
            (last + 1..).zip(*group).map(|(sequence, &samples)| frame(sequence, last, samples)).collect();
        let slices: Vec<&[u8]> = frames.iter().map(Vec::as_slice).collect();
        if writer.append(&slices).is_err() {
            break;
        }
        acknowledged.extend(last + 1..=last + group.len() as u64);
        last += group.len() as u64;
    }
    acknowledged
}

/// A journal of [`GROUPS`] twice over, and where its frames lie.
fn written() -> (SimulatedDisk, Vec<Place>) {
    let disk = SimulatedDisk::default();
    let mut writer = open(&disk, 0, &mut Vec::new()).unwrap().writer;
    let first = append_groups(&mut writer, 0);
    append_groups(&mut writer, *first.last().unwrap());
    let places: Vec<Place> = disk
        .list(Path::new(DIR))
        .unwrap()
        .iter()
        .flat_map(|path| {
            let file = disk.open(path).unwrap();
            let mut bytes = vec![0; usize::try_from(file.byte_len().unwrap()).unwrap()];
            file.read_exact_at(&mut bytes, 0).unwrap();
            places_in(&bytes, path)
        })
        .collect();
    assert!(places.iter().filter(|place| place.is_first()).count() > 6);
    // Segments begin with a group and inside one, or the tests prove less than they say.
    for inside in [false, true] {
        assert!(places.iter().any(|place| place.is_first() && begins_inside_a_group(place) == inside));
    }
    (disk, places)
}

fn begins_inside_a_group(place: &Place) -> bool {
    place.header.stamp.synced.0 + 1 != place.sequence()
}

/// The frames of segments that a start behind `from` has no need of, but for each
/// segment's first.
fn settled(places: &[Place], from: u64) -> Vec<&Place> {
    let needed = places.iter().rfind(|place| place.is_first() && place.sequence() <= from + 1).unwrap();
    places.iter().filter(|place| place.path < needed.path && !place.is_first()).collect()
}

#[test]
fn a_start_visits_exactly_what_lies_behind_its_position() {
    let (disk, places) = written();
    let last = places.last().unwrap().sequence();
    for from in 0..=last {
        let disk = disk.after_kill();
        let mut seen = Vec::new();
        let recovered = open(&disk, from, &mut seen).unwrap();
        assert_eq!(seen, (from + 1..=last).collect::<Vec<_>>());
        assert_eq!((recovered.last.0, recovered.frames), (last, last - from));
        assert_eq!(recovered.writer.index().removed(), Sequence::ZERO);
        // Whichever were read: the same segments are sealed, with the same last frames.
        let whole = open(&disk, 0, &mut Vec::new()).unwrap();
        assert_eq!(recovered.writer.sealed(), whole.writer.sealed(), "from {from}");
        assert_eq!(recovered.writer.byte_len(), whole.writer.byte_len());
    }
}

#[test]
fn settled_segments_are_not_read_beyond_their_first_frame() {
    let (disk, places) = written();
    let last = places.last().unwrap().sequence();
    for from in 0..=last {
        let disk = disk.after_kill();
        let settled = settled(&places, from);
        for place in &settled {
            let at = usize::try_from(place.at).unwrap();
            disk.corrupt(&place.path, |content| content[at..at + place.header.frame_bytes()].fill(0xa5));
        }
        let mut seen = Vec::new();
        open(&disk, from, &mut seen).unwrap_or_else(|error| panic!("from {from}: {error}"));
        assert_eq!(seen, (from + 1..=last).collect::<Vec<_>>());
        // A start that needs them does find the damage.
        if let Some(first) = settled.first() {
            let opened = open(&disk, 0, &mut Vec::new());
            assert!(
                matches!(&opened, Err(RecoverError::Damaged { path, offset, .. })
                    if (path, *offset) == (&first.path, first.at)),
                "from {from}: {opened:?}"
            );
        }
    }
}

#[test]
fn a_broken_first_frame_of_a_settled_segment_is_named_at_the_start() {
    let (disk, places) = written();
    let from = places.last().unwrap().sequence() - 4;
    let path = &settled(&places, from)[0].path.clone();
    for place in places.iter().filter(|place| place.is_first() && place.path <= *path) {
        for byte in [0, 4, 8, 16, 24, 40, 50] {
            let disk = disk.after_kill();
            disk.corrupt(&place.path, |content| content[usize::try_from(place.at).unwrap() + byte] ^= 4);
            let opened = open(&disk, from, &mut Vec::new());
            assert!(
                matches!(&opened, Err(RecoverError::Damaged { path, offset, .. })
                    if (path, *offset) == (&place.path, place.at)),
                "{}, byte {byte}: {opened:?}",
                place.sequence()
            );
        }
    }
}

#[test]
fn damage_in_a_settled_segment_is_left_to_the_reader_which_names_it() {
    let (disk, places) = written();
    let last = places.last().unwrap().sequence();
    let from = last - 2;
    for place in settled(&places, from) {
        let disk = disk.after_kill();
        let byte = usize::try_from(place.at).unwrap() + 60;
        disk.corrupt(&place.path, |content| content[byte] ^= 1);
        let journal = TestJournal::of_disk(&disk, Path::new(DIR), SEGMENT_BYTES, from).unwrap();
        let (read, error) = drain(&mut journal.cursor(0), 5_000);
        assert_eq!(read, (1..place.sequence()).collect::<Vec<_>>());
        assert!(
            matches!(&error, Some(LogError::Damaged { path, offset, .. })
                if (path.file_name(), *offset) == (place.path.file_name(), place.at)),
            "{}: {error:?}",
            place.sequence()
        );
        // Behind it a reader goes on, or names it if it has to pass over it.
        let (read, error) = drain(&mut journal.cursor(place.sequence()), 5_000);
        let named = matches!(&error, Some(LogError::Damaged { offset, .. }) if *offset == place.at);
        assert!(named && read.is_empty() || read.last() == Some(&last), "{error:?} behind {read:?}");
    }
}

#[test]
fn retained_segments_are_read_from_the_beginning_after_a_restart() {
    let mut journal = TestJournal::new(SEGMENT_BYTES);
    let mut kept = Vec::new();
    for round in 0..8 {
        kept.extend(GROUPS.iter().flat_map(|group| journal.commit(group)));
        journal.skip(round % 3);
        kept.extend(journal.commit(&[2]));
        let flushed = kept[kept.len() * round as usize / 8];
        journal = journal.restart(flushed);
        let mut from_the_beginning = journal.cursor(0);
        assert_eq!(drained(&mut from_the_beginning, 5_000), kept, "flushed {flushed}");
        for (index, &after) in kept.iter().enumerate().step_by(5) {
            assert_eq!(drained(&mut journal.cursor(after), 5_000), kept[index + 1..], "behind {after}");
        }
        for &sequence in &kept {
            assert_eq!(journal.log().frame(Sequence(sequence)).unwrap().sequence().0, sequence);
        }
        // It goes on behind them.
        let more = journal.commit(&[7, 7]);
        assert_eq!(drained(&mut from_the_beginning, 5_000), more);
        kept.extend(more);
    }
}

#[test]
fn retained_segments_go_when_their_readers_are_past_them() {
    let mut journal = TestJournal::new(SEGMENT_BYTES);
    let kept: Vec<u64> = GROUPS.iter().flat_map(|group| journal.commit(group)).collect();
    let sealed = journal.sealed().to_vec();
    let mut journal = journal.restart(*kept.last().unwrap());
    assert_eq!(journal.sealed(), sealed);
    for (at, segment) in sealed.iter().enumerate() {
        assert_eq!(journal.remove_through(segment.last.0 - 1), 0);
        assert_eq!(journal.remove_through(segment.last.0), 1);
        assert_eq!(journal.log().removed(), segment.last);
        assert_eq!(journal.segment_paths().len(), sealed.len() - at);
        let behind: Vec<u64> = kept.iter().copied().filter(|&sequence| sequence > segment.last.0).collect();
        assert_eq!(drained(&mut journal.cursor(segment.last.0), 5_000), behind);
    }
}

#[test]
fn what_is_gone_is_known_after_a_restart_wherever_the_oldest_segment_begins() {
    let mut inside = [0, 0];
    for removed in 1.. {
        let mut journal = TestJournal::new(SEGMENT_BYTES);
        let kept: Vec<u64> = GROUPS.iter().flat_map(|group| journal.commit(group)).collect();
        let Some(through) = journal.sealed().get(removed - 1).map(|sealed| sealed.last) else { break };
        assert_eq!(journal.remove_through(through.0), removed);
        assert_eq!(journal.log().removed(), through);
        inside[usize::from(begins_inside_a_group(&journal.places()[0]))] += 1;
        let last = *kept.last().unwrap();
        for flushed in [through.0, through.0 + 1, last] {
            journal = journal.restart(flushed);
            assert_eq!(journal.log().removed(), through, "flushed {flushed}");
            let behind: Vec<u64> = kept.iter().copied().filter(|&sequence| sequence > through.0).collect();
            assert_eq!(drained(&mut journal.cursor(through.0), 5_000), behind);
            for after in [0, through.0 - 1] {
                let (read, error) = drain(&mut journal.cursor(after), 5_000);
                assert_eq!(read, [0; 0]);
                assert!(
                    matches!(error, Some(LogError::Gone { removed }) if removed == through),
                    "behind {after}: {error:?}"
                );
            }
        }
    }
    assert!(inside.iter().all(|&count| count > 1), "{inside:?}");
}

#[test]
fn nothing_is_gone_after_a_restart_of_a_journal_that_was_never_cut() {
    for refused in 0..3 {
        let mut journal = TestJournal::new(SEGMENT_BYTES);
        journal.skip(refused);
        let kept: Vec<u64> = GROUPS.iter().flat_map(|group| journal.commit(group)).collect();
        assert_eq!(journal.log().removed(), Sequence::ZERO);
        let journal = journal.restart(0);
        assert_eq!(journal.log().removed(), Sequence::ZERO, "{refused} sequences were refused at first");
        assert_eq!(drained(&mut journal.cursor(0), 5_000), kept);
    }
}

/// Behind a gap nothing tells whether the oldest frame begins a group or stands inside
/// one: what may have been there counts as gone, and no more.
#[test]
fn sequences_refused_before_the_oldest_segment_count_as_gone_after_a_restart() {
    let mut journal = TestJournal::new(SEGMENT_BYTES);
    let end = *journal.commit(&[100, 100]).last().unwrap();
    journal.skip(3);
    let kept = journal.commit(&[200]);
    assert_eq!(journal.remove_through(end), 1);
    assert_eq!(journal.log().removed().0, end);
    assert_eq!(drained(&mut journal.cursor(end), 5_000), kept);
    let journal = journal.restart(end);
    assert_eq!(journal.log().removed().0, kept[0] - 1);
    assert_eq!(drained(&mut journal.cursor(kept[0] - 1), 5_000), kept);
}

#[test]
fn a_crash_while_and_after_a_start_that_keeps_settled_segments_loses_nothing() {
    let (disk, places) = written();
    let last = places.last().unwrap().sequence();
    for from in [0, 1, 5, last / 2, last - 3, last] {
        let mut crashes = 0;
        for operation in 0.. {
            let what = format!("from {from}, operation {operation}");
            // A start, then groups behind it; the power goes at one of their operations.
            let running = disk.after_kill();
            running.fault_at(operation, Fault::Crash);
            let acknowledged = match open(&running, from, &mut Vec::new()) {
                Ok(mut recovered) => append_groups(&mut recovered.writer, last),
                Err(_) => Vec::new(),
            };
            if running.operations() <= operation {
                break;
            }
            crashes += 1;
            for seed in 0..2 {
                let disk = running.after_power_loss(seed);
                let mut seen = Vec::new();
                let recovered =
                    open(&disk, from, &mut seen).unwrap_or_else(|error| panic!("{what}: {error}"));
                let known: Vec<u64> = (from + 1..=last).chain(acknowledged.iter().copied()).collect();
                assert!(seen.starts_with(&known), "{what}: {seen:?}");
                assert_eq!(recovered.writer.index().removed(), Sequence::ZERO);
                // All of it is still there for a reader from the beginning.
                drop(recovered);
                let mut all = Vec::new();
                open(&disk, 0, &mut all).unwrap_or_else(|error| panic!("{what}: {error}"));
                assert_eq!(all, (1..=from).chain(seen).collect::<Vec<_>>(), "{what}");
            }
        }
        assert!(crashes > 20, "only {crashes} operations");
    }
}

#[test]
fn a_crash_while_retained_segments_are_removed_leaves_the_newer_ones() {
    let (disk, places) = written();
    let last = places.last().unwrap().sequence();
    for operation in 0.. {
        let running = disk.after_kill();
        let mut writer = open(&running, last, &mut Vec::new()).unwrap().writer;
        let sealed = writer.sealed().to_vec();
        let before = running.operations();
        running.fault_at(operation, Fault::Crash);
        let _ = writer.remove_through(Sequence(last));
        if running.operations() - before <= operation {
            break;
        }
        for seed in 0..8 {
            let what = format!("operation {operation}, seed {seed}");
            let disk = running.after_power_loss(seed);
            let recovered =
                open(&disk, last, &mut Vec::new()).unwrap_or_else(|error| panic!("{what}: {error}"));
            let left = recovered.writer.sealed();
            assert!(sealed.ends_with(left), "{what}: {left:?}");
            // What is gone is known to the frame.
            let gone = sealed.len().checked_sub(left.len() + 1).map_or(Sequence::ZERO, |at| sealed[at].last);
            assert_eq!(recovered.writer.index().removed(), gone, "{what}");
            assert_eq!(recovered.last.0, last, "{what}");
        }
    }
}

#[test]
fn what_was_removed_and_never_flushed_is_missed_at_the_start() {
    let mut journal = TestJournal::new(SEGMENT_BYTES);
    for group in GROUPS {
        journal.commit(group);
    }
    let through = journal.sealed()[1].last.0;
    assert_eq!(journal.remove_through(through), 2);
    let opened = journal.try_restart(0).map(drop);
    assert!(matches!(opened, Err(StoreError::Journal(RecoverError::Damaged { .. }))), "{opened:?}");
}
