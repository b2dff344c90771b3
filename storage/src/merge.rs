//! One user's groups of one metric brought into file order: by (time, source,
//! device, sequence), of equal keys the latest.
//!
//! Groups are sorted in themselves, and a user's groups mostly follow one
//! another in time; then they are runs as they stand, and no row is looked at.
//! Only where groups overlap are their rows sorted one by one.

use std::ops::Range;

use crate::files::Run;
use crate::frame::{Group, SamplesFrame, Sequence};

/// A group of a frame, or the part of it that is wanted.
#[derive(Clone, Debug)]
pub(crate) struct Part<'a> {
    pub(crate) frame: &'a SamplesFrame,
    pub(crate) group: Group<'a>,
    /// Rows of the frame; not empty.
    pub(crate) rows: Range<usize>,
}

impl<'a> Part<'a> {
    fn earliest(&self) -> i64 {
        self.frame.recorded_at(self.rows.start)
    }

    fn latest(&self) -> i64 {
        self.frame.recorded_at(self.rows.end - 1)
    }

    fn run(&self, rows: Range<usize>) -> Run<'a> {
        Run {
            metric: self.group.metric,
            user: self.group.user,
            unit: self.group.unit,
            source: self.group.source,
            device: self.group.device,
            frame: self.frame,
            rows,
        }
    }
}

/// Gives `take` the rows of `parts` in file order. A row is dropped if one with
/// its key follows whose sequence is at or below `settled`. Sorts `parts`.
pub(crate) fn in_file_order<'a, E>(
    parts: &mut [Part<'a>],
    settled: Sequence,
    mut take: impl FnMut(&Run<'a>) -> Result<(), E>,
) -> Result<(), E> {
    parts.sort_by_key(Part::earliest);
    let mut first = 0;
    while first < parts.len() {
        let mut end = first + 1;
        let mut latest = parts[first].latest();
        while end < parts.len() && parts[end].earliest() <= latest {
            latest = latest.max(parts[end].latest());
            end += 1;
        }
        match &parts[first..end] {
            [alone] => take(&alone.run(alone.rows.clone()))?,
            overlapping => interleaved(overlapping, settled, &mut take)?,
        }
        first = end;
    }
    Ok(())
}

/// A row of overlapping parts.
struct RowAt {
    recorded_at: i64,
    part: usize,
    row: usize,
}

fn interleaved<'a, E>(
    parts: &[Part<'a>],
    settled: Sequence,
    take: &mut impl FnMut(&Run<'a>) -> Result<(), E>,
) -> Result<(), E> {
    let key = |row: &RowAt| {
        let group = &parts[row.part].group;
        (row.recorded_at, group.source, group.device)
    };
    let sequence = |row: &RowAt| parts[row.part].frame.header().stamp.sequence;
    let of_part = |(part, at): (usize, &Part<'a>)| {
        let frame = at.frame;
        at.rows.clone().map(move |row| RowAt { recorded_at: frame.recorded_at(row), part, row })
    };
    let mut rows: Vec<RowAt> = parts.iter().enumerate().flat_map(of_part).collect();
    rows.sort_by(|a, b| key(a).cmp(&key(b)).then_with(|| sequence(a).cmp(&sequence(b))));
    // dedup_by drops its first argument, the later row; move that one into the
    // earlier one's place instead.
    rows.dedup_by(|later, earlier| {
        let superseded = key(later) == key(earlier) && sequence(later) <= settled;
        if superseded {
            std::mem::swap(later, earlier);
        }
        superseded
    });
    for run in rows.chunk_by(|a, b| a.part == b.part && a.row + 1 == b.row) {
        take(&parts[run[0].part].run(run[0].row..run[run.len() - 1].row + 1))?;
    }
    Ok(())
}
