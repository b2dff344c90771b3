//! A window cut into slices.
//!
//! Files are sorted oldest first. To answer newest first without holding the
//! whole window, it is read in slices from its end, each sorted oldest first and
//! handed out backwards. A slice grows while it finds little and shrinks when it
//! finds much; one that would hold more than [`SLICE_ROWS_MAX`] rows is handed
//! back and cut. Oldest first, files stream, and slices only bound the rows that
//! are copied from buffers. So memory is bounded for any density but that of a
//! single millisecond.

use std::hash::BuildHasher;

use quick_cache::sync::Cache;

use super::Order;

/// Rows a slice aims at.
const SLICE_ROWS: usize = 32 * 1024;
/// Rows a slice may hold.
pub(super) const SLICE_ROWS_MAX: usize = 4 * SLICE_ROWS;
/// Rows that cost a scan hardly more than fewer: those of a page of a file.
const PAGE_ROWS: usize = 4 * 1024;
/// The first slice from the end for a page, while nothing is known: two days of a
/// watch are 10,000 to 20,000 samples.
pub(super) const SLICE_FIRST_MS: i64 = 2 * 86_400_000;
/// The first slice for a whole window, while nothing is known.
const SLICE_WHOLE_MS: i64 = 32 * 86_400_000;
/// Organisations' metrics whose density is kept in mind.
const DENSITIES: usize = 4096;
/// What a new density weighs against those before.
const DENSITY_WEIGHT: f64 = 0.2;

/// How much of a window a query is likely to take.
#[derive(Clone, Copy, Debug)]
pub(super) enum Want {
    /// The first so many rows.
    Rows(usize),
    /// A part that is not known.
    Some,
    /// All of it.
    All,
}

/// How dense series of a metric are, learned from the slices that were read. It
/// only sizes the first slice: a wrong guess costs a plan more, or a cut.
#[derive(Debug)]
pub(super) struct Density {
    /// Rows per millisecond, by organisation and metric.
    rows_per_ms: Cache<u64, f64>,
    hasher: std::hash::RandomState,
}

impl Default for Density {
    fn default() -> Density {
        Density { rows_per_ms: Cache::new(DENSITIES), hasher: std::hash::RandomState::new() }
    }
}

impl Density {
    /// The first slice's width.
    pub(super) fn width(&self, org: &str, metric: &str, want: Want) -> i64 {
        let known = self.rows_per_ms.get(&self.hasher.hash_one((org, metric)));
        let rows = match want {
            Want::Rows(rows) => (rows * 2).clamp(PAGE_ROWS, SLICE_ROWS),
            Want::Some => PAGE_ROWS,
            Want::All => SLICE_ROWS,
        };
        match (known, want) {
            // A cast of what is too large saturates.
            (Some(density), _) => ((rows as f64 / density) as i64).max(1),
            (None, Want::All) => SLICE_WHOLE_MS,
            (None, _) => SLICE_FIRST_MS,
        }
    }

    /// A slice held so many rows.
    pub(super) fn learn(&self, org: &str, metric: &str, rows: usize, (start, end): (i64, i64)) {
        if rows == 0 || start >= end {
            return;
        }
        let key = self.hasher.hash_one((org, metric));
        let seen = rows as f64 / (end - start) as f64;
        let before = self.rows_per_ms.get(&key).unwrap_or(seen);
        self.rows_per_ms.insert(key, before + (seen - before) * DENSITY_WEIGHT);
    }
}

/// Slices of `start..end`, in the order asked for.
#[derive(Debug)]
pub(super) struct Slices {
    start: i64,
    end: i64,
    width: i64,
    order: Order,
}

impl Slices {
    /// Slices of which the first is `width` wide.
    pub(super) fn new(start: i64, end: i64, order: Order, width: i64) -> Slices {
        Slices { start, end, width, order }
    }

    /// The next slice; `None` when the window is done.
    pub(super) fn next(&mut self) -> Option<(i64, i64)> {
        if self.start >= self.end {
            return None;
        }
        Some(match self.order {
            Order::Ascending => {
                let to = self.start.saturating_add(self.width).min(self.end);
                (std::mem::replace(&mut self.start, to), to)
            }
            Order::Descending => {
                let from = self.end.saturating_sub(self.width).max(self.start);
                (from, std::mem::replace(&mut self.end, from))
            }
        })
    }

    /// Learns from what the last slice held.
    pub(super) fn found(&mut self, rows: usize) {
        if rows < SLICE_ROWS / 4 {
            self.width = self.width.saturating_mul(4);
        } else if rows > SLICE_ROWS * 2 {
            self.width = (self.width / 4).max(1);
        }
    }

    /// Takes back the slice `from..to`, which holds too much, and makes the next
    /// one shorter. False if it cannot be shorter.
    pub(super) fn too_much(&mut self, (from, to): (i64, i64)) -> bool {
        if to - from <= 1 {
            return false;
        }
        match self.order {
            Order::Ascending => self.start = from,
            Order::Descending => self.end = to,
        }
        self.width = ((to - from) / 4).max(1);
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slices_cover_the_window_once_whatever_they_find() {
        // Short: a series that is always too dense is read by the millisecond.
        const WINDOW: (i64, i64) = (-5, 2000);
        for order in [Order::Ascending, Order::Descending] {
            for rows in [0, SLICE_ROWS, 10 * SLICE_ROWS] {
                let mut slices = Slices::new(WINDOW.0, WINDOW.1, order, SLICE_FIRST_MS);
                let mut handed_back = 0;
                let mut covered = Vec::new();
                while let Some(slice) = slices.next() {
                    if rows > SLICE_ROWS_MAX && handed_back < 5 && slices.too_much(slice) {
                        handed_back += 1;
                        continue;
                    }
                    covered.push(slice);
                    slices.found(rows);
                }
                if order == Order::Descending {
                    covered.reverse();
                }
                assert_eq!((covered[0].0, covered[covered.len() - 1].1), WINDOW);
                assert!(covered.windows(2).all(|pair| pair[0].1 == pair[1].0), "{order:?} {rows}");
            }
        }
    }

    #[test]
    fn a_century_without_samples_takes_few_slices() {
        let mut slices =
            Slices::new(-2_208_988_800_000, 1_800_000_000_000, Order::Descending, SLICE_FIRST_MS);
        let mut count = 0;
        while slices.next().is_some() {
            slices.found(0);
            count += 1;
        }
        assert!(count < 12, "{count}");
    }

    #[test]
    fn a_millisecond_cannot_be_cut() {
        for order in [Order::Ascending, Order::Descending] {
            let mut slices = Slices::new(0, 3, order, SLICE_FIRST_MS);
            let slice = slices.next().unwrap();
            assert!(slices.too_much(slice));
            let slice = slices.next().unwrap();
            assert_eq!(slice.1 - slice.0, 1);
            assert!(!slices.too_much(slice));
        }
    }
}
