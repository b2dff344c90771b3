//! What writing data files costs, in bytes and in time. In the tests it runs in small, and
//! copies must hold what they were made of; figures come by
//!
//! ```text
//! SYSTOLE_FIGURES=1 cargo test --release -p systole-storage --test it writer_figures -- --nocapture
//! ```
//!
//! With `FIGURES_DIR` the files stay there for other readers.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use arrow::array::RecordBatch;
use parquet::arrow::ArrowWriter;
use parquet::arrow::arrow_reader::{
    ArrowReaderMetadata, ArrowReaderOptions, ParquetRecordBatchReaderBuilder,
};
use parquet::basic::{Compression, Encoding, ZstdLevel};
use parquet::file::properties::{EnabledStatistics, WriterProperties};
use systole_storage::Sequence;
use systole_storage::disk::RealDisk;
use systole_storage::files::{Block, COLUMN_NAMES, FileKind, SamplesFileWriter, WrittenFile, samples_schema};
use systole_storage::frame::{Columns, GroupSpec, SamplesFrame, Stamp, ZONE_UNKNOWN, encode_samples};

use super::fixture::real_sizes;
use super::writer::{blocks, whole};

const MIDNIGHT: i64 = 1_782_777_600_000;

/// Small numbers that look random and are always the same.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0.wrapping_mul(0x2545_F491_4F6C_DD1D)
    }

    fn unit(&mut self) -> f64 {
        (self.next() >> 11) as f64 / (1u64 << 53) as f64
    }

    /// Roughly normal, of deviation one.
    fn normal(&mut self) -> f64 {
        ((0..4).map(|_| self.unit()).sum::<f64>() - 2.0) * 3f64.sqrt()
    }
}

/// A value that wanders and is drawn back to its mean.
struct Walk {
    mean: f64,
    at: f64,
    step: f64,
    grain: f64,
}

impl Walk {
    fn next(&mut self, random: &mut Random) -> f64 {
        self.at += (self.mean - self.at) * 0.02 + random.normal() * self.step;
        (self.at / self.grain).round() * self.grain
    }
}

/// How one metric of the fleet comes.
struct Signal {
    metric: &'static str,
    unit: &'static str,
    /// Of a hundred users.
    users: u64,
    step_ms: i64,
    jitter_ms: i64,
    mean: f64,
    spread: f64,
    step: f64,
    grain: f64,
    ended: bool,
}

const fn signal(metric: &'static str, users: u64, step_s: i64, jitter_ms: i64) -> Signal {
    Signal {
        metric,
        unit: "count",
        users,
        step_ms: step_s * 1000,
        jitter_ms,
        mean: 72.0,
        spread: 12.0,
        step: 1.5,
        grain: 1.0,
        ended: false,
    }
}

/// One request's group.
struct Sent {
    frame: SamplesFrame,
    user: u64,
}

fn sent(
    signal: &Signal,
    user: u64,
    sequence: u64,
    at: i64,
    times: &[i64],
    values: &[f64],
    zone: i16,
) -> Sent {
    let names = (
        format!("{:032x}", (user + 1).wrapping_mul(0x9E37_79B9_7F4A_7C15)),
        format!("watch-{:08x}", user * 7919),
    );
    let group = GroupSpec {
        user: &names.0,
        metric: signal.metric,
        unit: signal.unit,
        source: ["apple", "garmin", "oura", "fitbit"][user as usize % 4],
        device: (!user.is_multiple_of(5)).then_some(&names.1),
        first: 0,
        count: times.len() as u32,
    };
    let ends: Vec<i64> = times.iter().map(|time| time + signal.step_ms).collect();
    let zones = vec![zone; times.len()];
    let columns = Columns {
        recorded_at: times,
        value: values,
        zone: (zone != ZONE_UNKNOWN).then_some(&zones),
        ended_at: signal.ended.then_some(&ends),
        daily: None,
    };
    let stamp = Stamp {
        sequence: Sequence(sequence),
        synced: Sequence::ZERO,
        ordering: sequence,
        committed_at: at * 1000,
    };
    let frame =
        SamplesFrame::parse(encode_samples("default", false, &[group], columns).seal(stamp).into()).unwrap();
    Sent { frame, user }
}

/// Plain heart rate: 1 Hz with gaps, 500 samples a request, one body after another.
fn heart_rate(users: u64, requests: u64) -> Vec<Sent> {
    let signal = signal("heart_rate", 100, 1, 0);
    let mut all = Vec::new();
    for user in 0..users {
        let mut random = Random(user + 99);
        let mean = 72.0 + random.normal() * 12.0;
        let mut walk = Walk { mean, at: mean, step: 1.5, grain: 1.0 };
        let mut time = MIDNIGHT + (user as i64 * 37 % 1000);
        for request in 0..requests {
            let mut times = Vec::new();
            for _ in 0..500 {
                time += if random.next().is_multiple_of(50) { 2000 } else { 1000 };
                times.push(time);
            }
            let values: Vec<f64> = times.iter().map(|_| walk.next(&mut random)).collect();
            let sequence = request * users + user * 7919 % users + 1;
            all.push(sent(
                &signal,
                user,
                sequence,
                MIDNIGHT + sequence as i64 * 13,
                &times,
                &values,
                ZONE_UNKNOWN,
            ));
        }
    }
    in_file_order(all)
}

fn in_file_order(mut all: Vec<Sent>) -> Vec<Sent> {
    all.sort_by(|a, b| a.frame.group(0).user.cmp(b.frame.group(0).user));
    all
}

/// One metric of users that sync every hour, for `days`.
fn of_fleet(signal: &Signal, users: u64, days: i64) -> Vec<Sent> {
    let mut all = Vec::new();
    for user in (0..users).filter(|user| user * 7919 % 100 < signal.users) {
        let mut random = Random(user * 31 + signal.step_ms as u64 + 5);
        let mean = signal.mean + random.normal() * signal.spread;
        let mut walk = Walk { mean, at: mean, step: signal.step, grain: signal.grain };
        let zone = [60, 120, -300, ZONE_UNKNOWN][user as usize % 4];
        let phase = random.next() as i64 & 0x3fff;
        for hour in 0..days * 24 {
            // Worn two hours of three.
            if random.next().is_multiple_of(3) {
                continue;
            }
            let from = MIDNIGHT + hour * 3_600_000;
            let slots = (3_600_000 / signal.step_ms).max(1);
            let mut jitter =
                || if signal.jitter_ms == 0 { 0 } else { (random.next() % signal.jitter_ms as u64) as i64 };
            let times: Vec<i64> =
                (0..slots).map(|slot| from + phase + slot * signal.step_ms + jitter()).collect();
            let values: Vec<f64> = times.iter().map(|_| walk.next(&mut random).max(0.0)).collect();
            let place = (user * 7919 + hour as u64 * 101) % users;
            let sequence = hour as u64 * users + place + 1;
            let at = from + 3_600_000 + (place as f64 / users as f64 * 3_600_000.0) as i64;
            all.push(sent(signal, user, sequence, at, &times, &values, zone));
        }
    }
    in_file_order(all)
}

fn fleet() -> Vec<Signal> {
    vec![
        signal("heart_rate", 20, 15, 0),
        Signal { metric: "heart_rate_watch", ..signal("heart_rate", 40, 60, 900) },
        Signal { metric: "heart_rate_burst", ..signal("heart_rate", 20, 7, 3000) },
        Signal {
            metric: "heart_rate_variability",
            grain: 0.1,
            step: 3.0,
            mean: 45.0,
            ..signal("", 55, 300, 0)
        },
        Signal {
            metric: "oxygen_saturation",
            mean: 97.0,
            spread: 1.0,
            step: 0.4,
            ..signal("", 55, 300, 1000)
        },
        Signal { metric: "steps", mean: 20.0, step: 15.0, ended: true, ..signal("", 60, 60, 0) },
        Signal { metric: "blood_glucose", mean: 110.0, step: 4.0, ..signal("", 5, 300, 0) },
        Signal {
            metric: "skin_temperature",
            mean: 34.0,
            spread: 0.5,
            step: 0.05,
            grain: 0.01,
            ..signal("", 15, 300, 0)
        },
    ]
}

/// CPU time of this thread.
fn cpu() -> Duration {
    let text = fs::read_to_string("/proc/thread-self/schedstat").unwrap();
    Duration::from_nanos(text.split(' ').next().unwrap().parse().unwrap())
}

struct Dir {
    path: PathBuf,
    _removed: Option<tempfile::TempDir>,
}

fn dir() -> Dir {
    match std::env::var_os("FIGURES_DIR") {
        Some(path) => Dir { path: path.into(), _removed: None },
        None => {
            let dir = tempfile::tempdir().unwrap();
            Dir { path: dir.path().to_owned(), _removed: Some(dir) }
        }
    }
}

fn write(root: &Path, path: &str, level: u32, sent: &[Sent]) -> (WrittenFile, Duration) {
    let before = cpu();
    let mut writer = SamplesFileWriter::create_at(&RealDisk, root, path, FileKind::Period, level).unwrap();
    sent.iter().for_each(|sent| writer.push(&whole(&sent.frame)).unwrap());
    let written = writer.finish(&RealDisk).unwrap();
    (written, cpu() - before)
}

fn copy(root: &Path, path: &str, level: u32, blocks: &[Block], slice: usize) -> (WrittenFile, Duration) {
    let before = cpu();
    let mut writer = SamplesFileWriter::create_at(&RealDisk, root, path, FileKind::Period, level).unwrap();
    for block in blocks {
        for first in (0..block.rows()).step_by(slice) {
            writer.push_rows(block, first..block.rows().min(first + slice)).unwrap();
        }
    }
    let written = writer.finish(&RealDisk).unwrap();
    (written, cpu() - before)
}

/// What a copy costs with arrow's own writer, set up for these columns.
fn by_arrow(path: &Path, level: i32) -> (usize, Duration) {
    let reader = ParquetRecordBatchReaderBuilder::try_new(fs::File::open(path).unwrap()).unwrap();
    let batches: Vec<RecordBatch> =
        reader.with_batch_size(8192).build().unwrap().map(Result::unwrap).collect();
    let mut properties = WriterProperties::builder()
        .set_max_row_group_row_count(Some(128 * 1024))
        .set_data_page_row_count_limit(8192)
        .set_write_batch_size(8192)
        .set_statistics_enabled(EnabledStatistics::Chunk);
    for name in ["recorded_at", "ended_at", "sequence", "received_at"] {
        properties = properties
            .set_column_dictionary_enabled(name.into(), false)
            .set_column_encoding(name.into(), Encoding::DELTA_BINARY_PACKED);
    }
    for name in ["recorded_at", "value"] {
        let zstd = Compression::ZSTD(ZstdLevel::try_new(level).unwrap());
        properties = properties.set_column_compression(name.into(), zstd);
    }
    for name in ["org", "metric", "unit", "device"] {
        properties = properties.set_column_statistics_enabled(name.into(), EnabledStatistics::None);
    }
    for name in ["user_id", "recorded_at"] {
        properties = properties.set_column_statistics_enabled(name.into(), EnabledStatistics::Page);
    }
    let before = cpu();
    let mut bytes = Vec::new();
    let mut writer = ArrowWriter::try_new(&mut bytes, samples_schema(), Some(properties.build())).unwrap();
    batches.iter().for_each(|batch| writer.write(batch).unwrap());
    writer.close().unwrap();
    (bytes.len(), cpu() - before)
}

fn speed(what: &str, rows: u64, taken: Duration) {
    let ns = taken.as_nanos() as f64 / rows as f64;
    eprintln!("{what:<44} {:>6.1} M rows/s {ns:>6.1} ns/row", 1000.0 / ns);
}

fn sizes(root: &Path, file: &WrittenFile) -> Vec<f64> {
    let opened = fs::File::open(root.join(&file.record.path)).unwrap();
    let loaded = ArrowReaderMetadata::load(&opened, ArrowReaderOptions::new()).unwrap();
    let mut bytes = vec![0.0; COLUMN_NAMES.len() + 1];
    for group in loaded.metadata().row_groups() {
        for (at, column) in group.columns().iter().enumerate() {
            bytes[at] += column.compressed_size() as f64;
        }
    }
    let columns: f64 = bytes.iter().sum();
    bytes[COLUMN_NAMES.len()] = file.record.bytes as f64 - columns;
    bytes
}

#[test]
fn figures() {
    let dir = dir();
    let root = dir.path.as_path();
    let (plain_users, fleet_users, days) = if real_sizes() { (400, 2000, 2) } else { (2, 100, 1) };
    let plain = heart_rate(plain_users, 10);
    let (first, taken) = write(root, "samples/0-plain.parquet", 0, &plain);
    speed("plain, from frames, level 0", first.record.rows, taken);
    let (file, taken) = write(root, "samples/1-plain.parquet", 1, &plain);
    speed("plain, from frames, level 1", file.record.rows, taken);
    let before = cpu();
    let read = blocks(&root.join(&file.record.path), 8192);
    speed("plain, reading and making blocks", file.record.rows, cpu() - before);
    for (slice, level) in [(8192, 0), (8192, 1), (500, 1), (10, 1), (1, 1)] {
        let (copied, taken) = copy(root, "samples/2-copy.parquet", level, &read, slice);
        assert_eq!(copied.record.rows, file.record.rows, "slices of {slice}");
        speed(&format!("plain, copy in slices of {slice}, level {level}"), copied.record.rows, taken);
    }
    for level in [1, 3] {
        let (bytes, taken) = by_arrow(&root.join(&file.record.path), level);
        speed(&format!("plain, copy by arrow's writer, zstd {level}"), file.record.rows, taken);
        eprintln!("    {:.3} bytes a row", bytes as f64 / file.record.rows as f64);
    }
    let mut columns = vec![("plain".to_owned(), file.record.rows as f64, sizes(root, &file))];
    let mut all = vec![0.0; COLUMN_NAMES.len() + 1];
    let mut rows = 0.0;
    let mut slowest = (0, Duration::ZERO);
    for signal in fleet() {
        let sent = of_fleet(&signal, fleet_users, days);
        let users = sent.chunk_by(|a, b| a.user == b.user).count();
        let (file, taken) = write(root, &format!("samples/1-{}.parquet", signal.metric), 1, &sent);
        slowest = (slowest.0 + file.record.rows, slowest.1 + taken);
        let bytes = sizes(root, &file);
        all.iter_mut().zip(&bytes).for_each(|(all, bytes)| *all += bytes);
        rows += file.record.rows as f64;
        columns.push((format!("{} ({users})", signal.metric), file.record.rows as f64, bytes));
    }
    speed("fleet, from frames, level 1", slowest.0, slowest.1);
    columns.push(("fleet".to_owned(), rows, all));
    for (name, rows, bytes) in columns {
        let total: f64 = bytes.iter().sum();
        eprintln!("\n{name}: {rows} rows, {:.3} bytes a row", total / rows);
        for (column, bytes) in COLUMN_NAMES.iter().chain(&["footer and indexes"]).zip(&bytes) {
            eprint!("  {column} {:.3}", bytes / rows);
        }
        eprintln!();
    }
}
