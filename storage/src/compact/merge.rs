//! Several sorted files as one, row by row where they interleave, slice by slice
//! where they do not.
//!
//! A slice is what one input has before the next input's row: mostly a user's
//! whole share of a flush, which is copied without a look at its rows.

use std::cmp::Ordering;
use std::ops::Range;
use std::sync::Arc;

use super::Hides;
use super::input::{Input, compare, compare_keys, compare_users};
use crate::files::{Block, DataFile, FileReadError};
use crate::frame::Sequence;

/// Gives `take` the rows of `files` in file order, as slices of one user and metric
/// each; hidden rows and those that were superseded at or below `settled` are left out.
/// Returns how many rows were read.
pub(crate) fn merge<E: From<FileReadError>>(
    files: &[Arc<DataFile>],
    settled: Sequence,
    hides: &Hides<'_>,
    mut take: impl FnMut(&Arc<Block>, Range<usize>) -> Result<(), E>,
) -> Result<u64, E> {
    let mut inputs = Vec::with_capacity(files.len());
    for file in files {
        inputs.extend(Input::open(file)?);
    }
    let mut read = 0;
    while let Some((first, second)) = two_least(&inputs) {
        let block = inputs[first].block().clone();
        let rows = slice(&inputs, first, second);
        read += rows.len() as u64;
        let kept = without_superseded(&inputs, first, second, rows.clone(), settled);
        for range in kept {
            visible(&block, range, hides, &mut take)?;
        }
        if !inputs[first].go_to(rows.end)? {
            inputs.swap_remove(first);
        }
    }
    Ok(read)
}

/// The inputs that stand at the least row and at the one that follows.
fn two_least(inputs: &[Input]) -> Option<(usize, Option<usize>)> {
    let head = |at: usize| (inputs[at].block().as_ref(), inputs[at].row());
    let (mut first, mut second) = (0, None);
    if inputs.is_empty() {
        return None;
    }
    for at in 1..inputs.len() {
        if compare(head(at), head(first)) == Ordering::Less {
            second = Some(first);
            first = at;
        } else if second.is_none_or(|second| compare(head(at), head(second)) == Ordering::Less) {
            second = Some(at);
        }
    }
    Some((first, second))
}

/// The rows of the first input's user that come before the second input's row.
fn slice(inputs: &[Input], first: usize, second: Option<usize>) -> Range<usize> {
    let (block, row) = (inputs[first].block(), inputs[first].row());
    let end = block.run_end(row);
    let Some(second) = second.map(|second| &inputs[second]) else {
        return row..end;
    };
    let other = (second.block().as_ref(), second.row());
    if compare_users((block, row), other) == Ordering::Less {
        return row..end;
    }
    let time = other.0.recorded_at(other.1);
    let before = row + block.times()[row..end].partition_point(|&at| at < time);
    // At the same time the order of all names decides, which is not worth a search.
    row..before.max(row + 1)
}

/// `rows` of the first input without those whose next row supersedes them.
fn without_superseded(
    inputs: &[Input],
    first: usize,
    second: Option<usize>,
    rows: Range<usize>,
    settled: Sequence,
) -> Vec<Range<usize>> {
    let input = &inputs[first];
    let block = input.block();
    let superseded = |row: usize, (next, at): (&Block, usize)| {
        next.sequence(at) <= settled
            && compare_users((block, row), (next, at)) == Ordering::Equal
            && compare_keys((block, row), (next, at)) == Ordering::Equal
    };
    let last = rows.end - 1;
    let own = input.behind(last);
    let other = second.map(|second| (inputs[second].block().as_ref(), inputs[second].row()));
    let follows = match (own, other) {
        (Some(own), Some(other)) => Some(if compare(own, other) == Ordering::Less { own } else { other }),
        (own, other) => own.or(other),
    };
    let end = if follows.is_some_and(|next| superseded(last, next)) { last } else { rows.end };
    if !input.may_repeat() {
        return Some(rows.start..end).filter(|kept| !kept.is_empty()).into_iter().collect();
    }
    let (mut kept, mut start) = (Vec::new(), rows.start);
    for row in rows.start..last {
        if superseded(row, (block, row + 1)) {
            if start < row {
                kept.push(start..row);
            }
            start = row + 1;
        }
    }
    if start < end {
        kept.push(start..end);
    }
    kept
}

/// Hands on the rows of one user's slice that are not hidden.
fn visible<E>(
    block: &Arc<Block>,
    rows: Range<usize>,
    hides: &Hides<'_>,
    take: &mut impl FnMut(&Arc<Block>, Range<usize>) -> Result<(), E>,
) -> Result<(), E> {
    let start = rows.start;
    let Some(hidden) = hides(block.org(start), block.metric(start), block.user(start)) else {
        return take(block, rows);
    };
    let mut start = rows.start;
    for row in rows.clone() {
        if hidden(block.recorded_at(row), block.sequence(row)) {
            if start < row {
                take(block, start..row)?;
            }
            start = row + 1;
        }
    }
    if start < rows.end { take(block, start..rows.end) } else { Ok(()) }
}
