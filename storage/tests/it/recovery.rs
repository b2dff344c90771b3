//! A start from a journal that is much longer than a buffer: what it takes in memory,
//! and in time.
//!
//! ```text
//! SYSTOLE_FIGURES=1 cargo test --release -p systole-storage --test it recovery_speed -- --nocapture
//! ```

use std::path::Path;
use std::time::Instant;

use systole_storage::frame::Stamp;
use systole_storage::store::Opened;
use systole_storage::{Sequence, Store, StoreSettings};

use super::fixture::{heart_rate, real_sizes};
use super::series_memory::peak_bytes;

const START: i64 = 1_782_777_600_000;
/// What the server flushes at.
const FLUSH_BYTES: usize = 128 << 20;

/// Writes frames of `samples` samples, each of the next of `users` users, in groups.
fn write_journal(settings: &StoreSettings, frames: u64, users: u64, samples: usize) {
    let Opened { mut writer, .. } = Store::open(settings).unwrap();
    let group = 64;
    for synced in (0..frames).step_by(group) {
        let sealed: Vec<Vec<u8>> = (synced + 1..=frames.min(synced + group as u64))
            .map(|sequence| {
                let stamp = Stamp {
                    sequence: Sequence(sequence),
                    synced: Sequence(synced),
                    ordering: sequence,
                    committed_at: 1_782_805_500_000_000,
                };
                let start = START + (sequence / users * samples as u64 * 1000).cast_signed();
                heart_rate(&format!("user-{:06}", sequence % users), start, samples).draft().seal(stamp)
            })
            .collect();
        writer.append(&sealed.iter().map(Vec::as_slice).collect::<Vec<_>>()).unwrap();
    }
}

fn settings(dir: &Path, segment_bytes: u64, flush_bytes: usize) -> StoreSettings {
    StoreSettings { data_dir: dir.to_owned(), segment_bytes, flush_bytes, series_bytes: 64 << 20 }
}

/// Peak of a start from a journal of so many frames of 500 samples.
fn peak_of_start(frames: u64) -> i64 {
    let dir = tempfile::tempdir().unwrap();
    let settings = settings(dir.path(), 1 << 20, 2 << 20);
    write_journal(&settings, frames, 50, 500);
    let (peak, opened) = peak_bytes(|| Store::open(&settings).unwrap());
    let snapshot = opened.store.snapshot();
    let rows: u64 = snapshot.files.iter().map(|file| file.record.rows).sum();
    let buffered: u64 = snapshot.buffers().map(|buffer| buffer.sample_count()).sum();
    assert_eq!(rows + buffered, frames * 500);
    assert!(snapshot.files.len() >= 3);
    peak
}

#[test]
fn a_long_journal_takes_no_more_memory_than_a_short_one() {
    let (short, long) = (peak_of_start(1_000), peak_of_start(8_000));
    // 8 and 64 MiB of frames.
    assert!(long < 24 << 20, "{short} bytes for a short one, {long} for a long one");
    assert!(long < short + (4 << 20), "{short} bytes for a short one, {long} for a long one");
}

#[test]
fn recovery_speed() {
    let dir = tempfile::tempdir().unwrap();
    let settings = settings(dir.path(), 64 << 20, FLUSH_BYTES);
    let (frames, users, samples) = if real_sizes() { (60_000, 20_000, 500) } else { (60, 20, 500) };
    write_journal(&settings, frames, users, samples);
    let begun = Instant::now();
    let opened = Store::open(&settings).unwrap();
    let seconds = begun.elapsed().as_secs_f64();
    let rows = frames * samples as u64;
    let snapshot = opened.store.snapshot();
    let flushed: u64 = snapshot.files.iter().map(|file| file.record.rows).sum();
    let buffered: u64 = snapshot.buffers().map(|buffer| buffer.sample_count()).sum();
    assert_eq!(flushed + buffered, rows);
    let rate = rows as f64 / seconds / 1e6;
    println!("{rows} samples in {seconds:.2} s: {rate:.1} M/s; {} runs", snapshot.files.len());
}
