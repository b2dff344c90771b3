//! Broken frames: torn is normal, damaged is loud and names the place.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use systole_storage::Sequence;
use systole_storage::disk::Disk;
use systole_storage::frame::padded;
use systole_storage::journal::{RecoverError, SEGMENT_HEADER_BYTES, recover};

use super::fixture::frame;
use super::simulated_disk::SimulatedDisk;

const DIR: &str = "/data/journal";

/// Frames in a group: what concurrent senders make of one sync.
const GROUP: u64 = 5;

/// Segments of frames 1 to 30 in groups of [`GROUP`], some of them across a
/// border; returns where each frame lies.
fn written() -> (SimulatedDisk, Vec<(PathBuf, usize, usize)>) {
    let disk = SimulatedDisk::default();
    let shared: Arc<dyn Disk> = Arc::new(disk.clone());
    let mut recovered = recover(&shared, Path::new(DIR), 8192, Sequence::ZERO, |_, _| Ok(())).unwrap();
    let mut places = Vec::new();
    let (mut segment, mut at) = (1, SEGMENT_HEADER_BYTES as usize);
    for first in (1..=30).step_by(GROUP as usize) {
        let frames: Vec<Vec<u8>> = (first..first + GROUP).map(|at| frame(at, first - 1, 30)).collect();
        let slices: Vec<&[u8]> = frames.iter().map(Vec::as_slice).collect();
        recovered.writer.append(&slices).unwrap();
        for bytes in &frames {
            assert_eq!(bytes.len(), padded(bytes.len()));
            if at + bytes.len() > 8192 {
                (segment, at) = (segment + 1, SEGMENT_HEADER_BYTES as usize);
            }
            places.push((PathBuf::from(format!("{DIR}/{segment:010}.segment")), at, bytes.len()));
            at += bytes.len();
        }
    }
    // A group lies across a border, or the tests prove less than they say.
    let across = |group: &[(PathBuf, usize, usize)]| group[0].0 != group[group.len() - 1].0;
    assert!(places.chunks(GROUP as usize).any(across));
    (disk, places)
}

/// All frames but those of the last group: they were synced before it.
const SYNCED: usize = 25;

fn reopen(disk: &SimulatedDisk) -> Result<Vec<u64>, RecoverError> {
    let shared: Arc<dyn Disk> = Arc::new(disk.clone());
    let mut seen = Vec::new();
    recover(&shared, Path::new(DIR), 8192, Sequence::ZERO, |header, _| {
        seen.push(header.stamp.sequence.0);
        Ok(())
    })?;
    Ok(seen)
}

#[test]
fn a_flipped_bit_in_any_synced_frame_is_named() {
    let (disk, places) = written();
    for (index, (path, at, len)) in places.iter().enumerate().take(SYNCED) {
        for byte in [0, 1, 4, 8, 16, 24, 40, 43, 48, len / 2, len - 8] {
            let disk = disk.after_kill();
            disk.corrupt(path, |content| content[at + byte] ^= 0x10);
            match reopen(&disk) {
                Err(RecoverError::Damaged { path: found, offset, .. }) => {
                    assert_eq!((&found, offset), (path, *at as u64), "frame {}, byte {byte}", index + 1);
                }
                other => panic!("frame {}, byte {byte}: {other:?}", index + 1),
            }
        }
    }
}

#[test]
fn a_zeroed_frame_in_the_middle_is_damage_not_the_end() {
    let (disk, places) = written();
    for (path, at, len) in &places[..SYNCED] {
        let disk = disk.after_kill();
        disk.corrupt(path, |content| content[*at..at + len].fill(0));
        assert!(matches!(reopen(&disk), Err(RecoverError::Damaged { .. })));
    }
}

#[test]
fn a_zeroed_end_of_a_segment_is_damage_too() {
    let (disk, places) = written();
    let last_segment = &places[29].0;
    let group = GROUP as usize;
    for (index, (path, at, _)) in places.iter().enumerate().filter(|(_, place)| place.0 != *last_segment) {
        let disk = disk.after_kill();
        disk.corrupt(path, |content| content[*at..].fill(0));
        let opened = reopen(&disk);
        // Zeros from a group's first frame to the end of the segment look like
        // the room a refused group left.
        let whole_part = index % group == 0 && places[index + group - 1].0 != *path;
        assert!(whole_part || matches!(opened, Err(RecoverError::Damaged { .. })), "{index}: {opened:?}");
    }
}

#[test]
fn a_broken_last_group_is_cut_off() {
    let (disk, places) = written();
    let (path, at, len) = &places[29];
    disk.corrupt(path, |content| content[at + len / 2..].fill(0));
    assert_eq!(reopen(&disk).unwrap(), (1..=29).collect::<Vec<_>>());
    // The second time there is nothing left to cut.
    assert_eq!(reopen(&disk).unwrap(), (1..=29).collect::<Vec<_>>());
}

#[test]
fn a_missing_segment_is_named() {
    let (disk, places) = written();
    disk.remove(&places[15].0).unwrap();
    assert!(matches!(reopen(&disk), Err(RecoverError::Gap { missing: 2, .. })));
}

#[test]
fn a_broken_segment_header_is_damage_only_if_frames_follow() {
    let (disk, places) = written();
    let broken = disk.after_kill();
    broken.corrupt(&places[15].0, |content| content[3] ^= 1);
    assert!(matches!(reopen(&broken), Err(RecoverError::Header { .. })));
    let unused = PathBuf::from(format!("{DIR}/0000000004.segment"));
    disk.create(&unused, 8192).unwrap();
    assert_eq!(reopen(&disk).unwrap().len(), 30);
}

#[test]
fn a_segment_of_a_later_version_is_refused() {
    let (disk, places) = written();
    disk.corrupt(&places[0].0, |content| content[8] = 9);
    assert!(matches!(reopen(&disk), Err(RecoverError::Version { version: 9, .. })));
}

/// A journal as version 1 wrote it: three frames in two groups.
#[test]
fn the_first_format_version_is_still_read() {
    let golden = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/journal-v1.segment");
    if std::env::var_os("SYSTOLE_WRITE_GOLDEN").is_some() {
        write_golden(&golden);
    }
    let bytes = std::fs::read(&golden).unwrap();
    let disk = SimulatedDisk::default();
    let path = PathBuf::from(format!("{DIR}/0000000001.segment"));
    disk.create(&path, 0).unwrap();
    disk.corrupt(&path, |content| *content = bytes);
    let shared: Arc<dyn Disk> = Arc::new(disk);
    let mut frames = Vec::new();
    let recovered = recover(&shared, Path::new(DIR), 4096, Sequence::ZERO, |header, bytes| {
        let frame = systole_storage::frame::SamplesFrame::parse(bytes)?;
        let group = frame.group(0);
        frames.push((
            header.stamp.sequence.0,
            header.stamp.ordering,
            group.user.to_owned(),
            group.count,
            frame.value(1),
        ));
        Ok(())
    })
    .unwrap();
    let frame = |sequence| (sequence, 1_000_000 + sequence, "u_1".to_owned(), 2, 61.0);
    assert_eq!(frames, [frame(1), frame(2), frame(3)]);
    assert_eq!(recovered.ordering, 1_000_003);
}

fn write_golden(path: &Path) {
    let dir = tempfile::tempdir().unwrap();
    let shared: Arc<dyn Disk> = Arc::new(systole_storage::disk::RealDisk);
    let mut recovered = recover(&shared, dir.path(), 4096, Sequence::ZERO, |_, _| Ok(())).unwrap();
    let frames = [frame(1, 0, 2), frame(2, 1, 2), frame(3, 1, 2)];
    recovered.writer.append(&[&frames[0]]).unwrap();
    recovered.writer.append(&[&frames[1], &frames[2]]).unwrap();
    std::fs::create_dir_all(path.parent().unwrap()).unwrap();
    std::fs::copy(dir.path().join("0000000001.segment"), path).unwrap();
}
