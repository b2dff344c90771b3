//! Segments written anew: the same frames at the same places for every reader, without
//! what was erased.

use systole_storage::frame::{Frame, SamplesFrame};
use systole_storage::journal::LogCursor;

use super::fixture::TestJournal;

const SEGMENT_BYTES: u64 = 16 * 1024;

fn groups() -> Vec<Vec<usize>> {
    (0..30).map(|group| (0..group % 3 + 1).map(|frame| 5 + (group * 7 + frame * 3) % 40).collect()).collect()
}

/// Erases the samples of every third frame in sealed segments; returns how many segments
/// changed.
fn rewrite(journal: &mut TestJournal) -> usize {
    let current = journal.seal();
    let rewriter = journal.log().rewriter();
    let erased = |bytes: &[u8]| {
        let frame = SamplesFrame::parse(bytes.to_vec().into())?;
        let goes = frame.header().stamp.sequence.0.is_multiple_of(3);
        Ok(if goes { frame.without(|_| true) } else { None })
    };
    let segments = rewriter.before(current);
    segments.into_iter().filter(|id| rewriter.rewrite(*id, |_, bytes| erased(bytes)).unwrap().changed).count()
}

/// Reads on to the head: sequences, and how many samples each frame holds.
fn read(cursor: &mut LogCursor, bytes_max: usize) -> Vec<(u64, usize)> {
    let mut read = Vec::new();
    loop {
        let frames = cursor.next(bytes_max).unwrap();
        if frames.is_empty() {
            return read;
        }
        let samples = |frame: &Frame| (frame.sequence().0, frame.as_samples().unwrap().sample_count());
        read.extend(frames.iter().map(samples));
    }
}

#[test]
fn readers_find_every_frame_at_its_sequence_while_and_after_segments_are_written_anew() {
    let mut journal = TestJournal::new(SEGMENT_BYTES);
    for group in groups() {
        journal.commit(&group);
    }
    let all = read(&mut journal.cursor(0), 1 << 20);
    let (head, middle) = (journal.synced, journal.synced / 2);
    let mut open = journal.cursor(0);
    let begun = open.next(2000).unwrap().len();
    assert!(begun > 0 && begun < all.len());
    assert!(rewrite(&mut journal) > 2, "several segments are sealed");
    assert_eq!(rewrite(&mut journal), 0, "what is gone is gone once");
    // One that has the old file open may see the old frames of that file; it misses none.
    let rest: Vec<u64> = read(&mut open, 2000).iter().map(|frame| frame.0).collect();
    assert_eq!(rest, all[begun..].iter().map(|frame| frame.0).collect::<Vec<_>>());
    let expected: Vec<(u64, usize)> = all
        .iter()
        .map(|&(sequence, samples)| (sequence, if sequence % 3 == 0 { 0 } else { samples }))
        .collect();
    for bytes_max in [100, 3000, 1 << 20] {
        assert_eq!(read(&mut journal.cursor(0), bytes_max), expected);
        assert_eq!(read(&mut journal.cursor(middle), bytes_max), expected[middle as usize..]);
    }
    for sequence in [1, 3, middle, head] {
        let frame = journal.log().frame(systole_storage::Sequence(sequence)).unwrap();
        assert_eq!(
            (frame.sequence().0, frame.as_samples().unwrap().sample_count()),
            expected[sequence as usize - 1]
        );
    }
    // A start finds the same, whether it replays them or keeps them for readers.
    for flushed in [0, middle, head] {
        journal = journal.restart(flushed);
        assert_eq!(read(&mut journal.cursor(0), 3000), expected, "behind {flushed}");
    }
    journal.commit(&[9, 9]);
    assert_eq!(read(&mut journal.cursor(head), 3000), [(head + 1, 9), (head + 2, 9)]);
}

#[test]
fn a_keeping_reader_that_has_the_old_file_open_leaves_nothing_of_it_to_be_opened() {
    let mut journal = TestJournal::new(SEGMENT_BYTES);
    for group in groups() {
        journal.commit(&group);
    }
    let mut open = journal.cursor(0).keeping();
    let begun = open.next(2000).unwrap().len();
    assert!(begun > 0);
    rewrite(&mut journal);
    journal.log().forget_tail();
    // Erased or not, it is the frame that is there now.
    let samples_of = |sequence: u64| {
        let frame = journal.log().frame(systole_storage::Sequence(sequence)).unwrap();
        frame.as_samples().unwrap().sample_count()
    };
    assert!(!read(&mut open, 2000).is_empty());
    for sequence in 1..=journal.synced {
        assert_eq!(samples_of(sequence) == 0, sequence.is_multiple_of(3), "{sequence}");
    }
    let is_kept = |sequence: &u64| journal.log().is_in_memory(systole_storage::Sequence(*sequence));
    assert!((begun as u64 + 1..=journal.synced).all(|sequence| is_kept(&sequence)));
}

#[test]
fn a_segment_that_was_removed_does_not_come_back_by_being_written_anew() {
    let mut journal = TestJournal::new(SEGMENT_BYTES);
    for group in groups() {
        journal.commit(&group);
    }
    let current = journal.seal();
    let (rewriter, head) = (journal.log().rewriter(), journal.synced);
    let ids = rewriter.before(current);
    assert!(journal.remove_through(head) > 2);
    for id in ids {
        let all = |bytes: &[u8]| Ok(SamplesFrame::parse(bytes.to_vec().into())?.without(|_| true));
        assert!(!rewriter.rewrite(id, |_, bytes| all(bytes)).unwrap().changed);
    }
    assert_eq!(journal.segment_paths().len(), 1 + usize::from(journal.segment_paths().len() > 1));
    journal.restart(head);
}
