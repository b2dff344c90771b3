//! The small sizes, with counts and checksums that must not change.

use systole_benches::commit::{LOADS, submissions};
use systole_benches::deliver::{self, deliveries};
use systole_benches::query::{Place, Question, filled};
use systole_benches::{Size, decode, flush};

#[test]
fn decoding_makes_the_same_frames_as_ever() {
    for (shape, bytes, checksum) in [
        (decode::Shape::InOrder, 131_072, 0x8b8b_5363_287d_4c5b),
        (decode::Shape::FourMetrics, 134_784, 0xc7c531e703d3d6fd),
        (decode::Shape::NewestFirst, 131_072, 0x8b8b_5363_287d_4c5b),
        (decode::Shape::UserAPoint, 829_056, 0xe9e7c08c197559d3),
    ] {
        let outcome = decode::bodies(shape, Size::Small).outcome();
        println!("{outcome}");
        let expected = decode::Decoded { shape, samples: 8_000, frames: 16, bytes, checksum };
        assert_eq!(outcome, expected, "{outcome}");
    }
}

#[test]
fn a_body_sent_newest_first_is_the_same_frame() {
    let checksum = |shape| decode::bodies(shape, Size::Small).outcome().checksum;
    assert_eq!(checksum(decode::Shape::NewestFirst), checksum(decode::Shape::InOrder));
}

#[test]
fn every_submission_is_committed_in_no_more_syncs_than_batches() {
    for load in LOADS {
        let mut submissions = submissions(load, Size::Small);
        submissions.commit();
        let outcome = submissions.outcome();
        println!("{outcome}");
        assert_eq!((outcome.samples, outcome.batches), (16_000, 32), "{outcome}");
        assert_eq!((outcome.journal_bytes, outcome.checksum), (262_144, 0x45d371b05e594af5), "{outcome}");
        let fewest = 32 / (load.senders * load.in_flight).min(32) as u64;
        assert!((fewest..=32).contains(&outcome.groups), "{outcome}");
    }
}

#[test]
fn a_flush_writes_every_row_once_and_changes_no_answer() {
    for (shape, samples, rows, files, checksum) in [
        (flush::Shape::OneMetric, 20_000, 20_000, 1, 0x2df9f99cca8b6d4d),
        (flush::Shape::FourMetrics, 20_000, 20_000, 1, 0xa4a851e4ecf5e16a),
        (flush::Shape::ShortRequests, 2_000, 2_000, 1, 0x2415b73009a5e82),
        (flush::Shape::SentTwice, 20_000, 10_000, 1, 0xef0cb4c9157b8716),
        (flush::Shape::Hourly, 20_000, 20_000, 1, 0xc334cb458d7299c2),
    ] {
        let mut buffered = flush::buffered(shape, Size::Small);
        let before = buffered.answers();
        buffered.flush();
        let outcome = buffered.outcome();
        println!("{outcome}");
        assert_eq!(outcome.checksum, before, "{outcome}");
        let expected = flush::Flushed { shape, samples, rows, files, bytes: outcome.bytes, checksum };
        assert_eq!(outcome, expected, "{outcome}");
        // The encoder's version decides the bytes; a plain row is over 60.
        assert!(outcome.bytes < outcome.rows * 20, "{outcome}");
    }
}

#[test]
fn an_answer_does_not_depend_on_where_the_samples_lie() {
    for (place, files, buffered) in [
        (Place::Buffer, 0, 25_000),
        (Place::OneFile, 1, 0),
        (Place::EightFiles, 5, 0),
        (Place::FilesAndBuffer, 4, 5_000),
    ] {
        let filled = filled(place, Size::Small);
        let outcome = filled.outcome();
        println!("{outcome}");
        let rows = Question::ALL.map(|question| filled.ask(question, 3).rows);
        assert_eq!(rows, [500, 1_680, 4], "{outcome}");
        assert_eq!(
            (outcome.samples, outcome.files, outcome.buffered),
            (25_000, files, buffered),
            "{outcome}"
        );
        assert_eq!(outcome.checksum, 0xd73639efe49c9958, "{outcome}");
    }
}

#[test]
fn every_body_is_received_over_no_more_connections_than_were_needed_at_a_time() {
    for load in deliver::LOADS {
        let mut deliveries = deliveries(load, Size::Small);
        deliveries.post();
        let outcome = deliveries.outcome();
        println!("{outcome}");
        assert_eq!((outcome.deliveries, outcome.bytes), (640, 640 * load.body_bytes as u64), "{outcome}");
        assert!((1..=u64::from(load.in_flight)).contains(&outcome.connections), "{outcome}");
    }
}
