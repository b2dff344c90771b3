//! A frozen buffer into Parquet files.
//!
//! Constraints: one pass over the buffer, memory of one user's rows of one
//! metric plus the open row groups; one file per (organisation, metric, period,
//! bucket) it meets, so the number of files a flush makes does not depend on the
//! number of users.
//!
//! ```text
//! groups sorted by (org, metric, user) -> per user: rows by (time, source, device, sequence)
//!     -> superseded rows dropped -> the row's period's file
//! ```
//!
//! A flush that fails leaves no file behind and changes nothing: the buffer
//! stays readable and is flushed again.

use std::collections::BTreeMap;
use std::path::Path;

use crate::disk::Disk;
use crate::files::{
    FileWriteError, Partition, Period, Row, SamplesFileWriter, WrittenFile, day_of, sync_folders,
};
use crate::frame::{SamplesFrame, Sequence};

/// A day's rows of a metric get a file of their own from this number on; below
/// it days are kept as months, then as years, so that sparse metrics do not
/// leave a small file a day.
const PERIOD_ROWS_MIN: u64 = 1_000_000;

/// Writes the samples of `frames` into new files, durable when this returns.
/// `settled` is the position up to which it is decided what each row changed:
/// a row is dropped as superseded only by one at or below it.
pub(crate) fn write_frames(
    disk: &dyn Disk,
    root: &Path,
    frames: &[SamplesFrame],
    settled: Sequence,
) -> Result<Vec<WrittenFile>, FileWriteError> {
    let Some(last) = frames.iter().map(|frame| frame.header().stamp.sequence).max() else {
        return Ok(Vec::new());
    };
    let mut written = Vec::new();
    let result = write_metrics(disk, root, frames, settled, last, &mut written);
    match result.and_then(|()| sync_folders(disk, root, &written)) {
        Ok(()) => Ok(written),
        Err(error) => {
            for file in &written {
                // Best effort: a start removes what the catalog does not list.
                let _ = disk.remove(&root.join(&file.record.path));
            }
            Err(error)
        }
    }
}

fn write_metrics(
    disk: &dyn Disk,
    root: &Path,
    frames: &[SamplesFrame],
    settled: Sequence,
    last: Sequence,
    written: &mut Vec<WrittenFile>,
) -> Result<(), FileWriteError> {
    let groups = sorted_groups(frames);
    for metric in groups.chunk_by(|a, b| (a.org, a.metric) == (b.org, b.metric)) {
        let mut writers = PeriodWriters {
            disk,
            root,
            org: metric[0].org,
            metric: metric[0].metric,
            last,
            periods: choose_periods(metric),
            open: BTreeMap::new(),
        };
        let mut rows = Vec::new();
        for user in metric.chunk_by(|a, b| a.user == b.user) {
            collect_rows(user, settled, &mut rows);
            for row in &rows {
                writers.push(&row.row(user[0].user))?;
            }
        }
        writers.finish(written)?;
    }
    Ok(())
}

/// A group of a frame with the names it is sorted by.
struct Piece<'a> {
    org: &'a str,
    metric: &'a str,
    user: &'a str,
    frame: &'a SamplesFrame,
    group: usize,
}

fn sorted_groups(frames: &[SamplesFrame]) -> Vec<Piece<'_>> {
    let mut pieces: Vec<Piece<'_>> = Vec::new();
    for frame in frames {
        let org = frame.org();
        pieces.extend(frame.groups().enumerate().map(|(index, group)| Piece {
            org,
            metric: group.metric,
            user: group.user,
            frame,
            group: index,
        }));
    }
    // Stable, so that a user's pieces stay in commit order.
    pieces.sort_by(|a, b| (a.org, a.metric, a.user).cmp(&(b.org, b.metric, b.user)));
    pieces
}

/// Which period each day's rows go to.
fn choose_periods(pieces: &[Piece<'_>]) -> BTreeMap<i32, Period> {
    let mut days: BTreeMap<i32, u64> = BTreeMap::new();
    for piece in pieces {
        let group = piece.frame.group(piece.group);
        let (first, last) = (day_of(group.earliest), day_of(group.latest));
        if first == last {
            *days.entry(first).or_default() += group.count as u64;
        } else {
            for row in group.rows() {
                *days.entry(day_of(piece.frame.recorded_at(row))).or_default() += 1;
            }
        }
    }
    let mut months: BTreeMap<Period, u64> = BTreeMap::new();
    for (&day, &rows) in days.iter().filter(|&(_, &rows)| rows < PERIOD_ROWS_MIN) {
        *months.entry(Period::month_of(day)).or_default() += rows;
    }
    let period = |(&day, &rows): (&i32, &u64)| {
        let month = Period::month_of(day);
        let period = if rows >= PERIOD_ROWS_MIN {
            Period::Day(day)
        } else if months[&month] >= PERIOD_ROWS_MIN {
            month
        } else {
            Period::year_of(day)
        };
        (day, period)
    };
    days.iter().map(period).collect()
}

/// A row of one user and metric, by where it stands.
struct RowAt<'a> {
    recorded_at: i64,
    source: &'a str,
    device: Option<&'a str>,
    unit: &'a str,
    sequence: Sequence,
    frame: &'a SamplesFrame,
    row: usize,
}

impl<'a> RowAt<'a> {
    fn key(&self) -> (i64, &'a str, Option<&'a str>) {
        (self.recorded_at, self.source, self.device)
    }

    fn row(&self, user: &'a str) -> Row<'a> {
        Row {
            user,
            unit: self.unit,
            recorded_at: self.recorded_at,
            value: self.frame.value(self.row),
            source: self.source,
            device: self.device,
            zone_minutes: self.frame.zone(self.row),
            ended_at: self.frame.ended_at(self.row),
            is_daily_total: self.frame.is_daily_total(self.row),
            sequence: self.sequence,
            received_at: self.frame.header().stamp.committed_at.div_euclid(1000),
        }
    }
}

/// One user's rows in file order, without those that a settled row supersedes.
fn collect_rows<'a>(pieces: &[Piece<'a>], settled: Sequence, rows: &mut Vec<RowAt<'a>>) {
    rows.clear();
    for piece in pieces {
        let group = piece.frame.group(piece.group);
        let sequence = piece.frame.header().stamp.sequence;
        rows.extend(group.rows().map(|row| RowAt {
            recorded_at: piece.frame.recorded_at(row),
            source: group.source,
            device: group.device,
            unit: group.unit,
            sequence,
            frame: piece.frame,
            row,
        }));
    }
    let order = |a: &RowAt<'_>, b: &RowAt<'_>| a.key().cmp(&b.key()).then(a.sequence.cmp(&b.sequence));
    if !rows.is_sorted_by(|a, b| order(a, b).is_lt()) {
        rows.sort_by(order);
    }
    // dedup_by drops its first argument, the later row; move the later one into
    // the earlier one's place instead.
    rows.dedup_by(|later, earlier| {
        let superseded = later.key() == earlier.key() && later.sequence <= settled;
        if superseded {
            std::mem::swap(later, earlier);
        }
        superseded
    });
}

/// The files one organisation's metric goes to, opened as their first row comes.
struct PeriodWriters<'a> {
    disk: &'a dyn Disk,
    root: &'a Path,
    org: &'a str,
    metric: &'a str,
    last: Sequence,
    periods: BTreeMap<i32, Period>,
    open: BTreeMap<Period, SamplesFileWriter>,
}

impl PeriodWriters<'_> {
    fn push(&mut self, row: &Row<'_>) -> Result<(), FileWriteError> {
        let period = self.periods[&day_of(row.recorded_at)];
        if !self.open.contains_key(&period) {
            let partition =
                Partition { org: self.org.to_owned(), metric: self.metric.to_owned(), period, bucket: 0 };
            let writer = SamplesFileWriter::create(self.disk, self.root, &partition, 0, self.last)?;
            self.open.insert(period, writer);
        }
        self.open.get_mut(&period).expect("opened above").push(row)
    }

    fn finish(self, written: &mut Vec<WrittenFile>) -> Result<(), FileWriteError> {
        for writer in self.open.into_values() {
            written.push(writer.finish(self.disk)?);
        }
        Ok(())
    }
}
