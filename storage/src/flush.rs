//! A frozen buffer into Parquet files.
//!
//! Constraints: one pass over the buffer, memory of one user's rows of one
//! metric plus the open row groups; one file per (organisation, metric, period,
//! bucket) it meets, so the number of files a flush makes does not depend on the
//! number of users.
//!
//! ```text
//! groups sorted by (org, metric, user) -> per user: runs in file order,
//!     superseded rows dropped -> the period's file
//! ```
//!
//! A flush that fails leaves no file behind and changes nothing: the buffer
//! stays readable and is flushed again.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::path::Path;

use crate::disk::Disk;
use crate::files::{
    FileWriteError, Partition, Period, Run, SamplesFileWriter, WrittenFile, day_of, sync_folders,
};
use crate::frame::{SamplesFrame, Sequence};
use crate::merge::{Part, in_file_order};

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
        for user in metric.chunk_by(|a, b| a.user == b.user) {
            let mut parts: Vec<Part<'_>> = user.iter().map(Piece::part).collect();
            in_file_order(&mut parts, settled, |run| writers.push(run))?;
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

impl<'a> Piece<'a> {
    fn part(&self) -> Part<'a> {
        let group = self.frame.group(self.group);
        Part { frame: self.frame, rows: group.rows(), group }
    }
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
    /// A run into the file of its period, or cut where the period changes.
    fn push(&mut self, run: &Run<'_>) -> Result<(), FileWriteError> {
        let mut rest = run.rows.clone();
        while !rest.is_empty() {
            let period = self.period_at(run, rest.start);
            let end = if self.period_at(run, rest.end - 1) == period {
                rest.end
            } else {
                (rest.start..rest.end).find(|&row| self.period_at(run, row) != period).unwrap_or(rest.end)
            };
            self.writer(period)?.push(&Run { rows: rest.start..end, ..run.clone() })?;
            rest.start = end;
        }
        Ok(())
    }

    fn period_at(&self, run: &Run<'_>, row: usize) -> Period {
        self.periods[&day_of(run.frame.recorded_at(row))]
    }

    fn writer(&mut self, period: Period) -> Result<&mut SamplesFileWriter, FileWriteError> {
        match self.open.entry(period) {
            Entry::Occupied(open) => Ok(open.into_mut()),
            Entry::Vacant(vacant) => {
                let (org, metric) = (self.org.to_owned(), self.metric.to_owned());
                let partition = Partition { org, metric, period, bucket: 0 };
                Ok(vacant.insert(SamplesFileWriter::create(self.disk, self.root, &partition, 0, self.last)?))
            }
        }
    }

    fn finish(self, written: &mut Vec<WrittenFile>) -> Result<(), FileWriteError> {
        for writer in self.open.into_values() {
            written.push(writer.finish(self.disk)?);
        }
        Ok(())
    }
}
