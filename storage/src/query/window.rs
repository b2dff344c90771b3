//! A window newest first, cut into slices.
//!
//! Files are sorted oldest first. To answer newest first without holding the
//! whole window, it is read in slices from its end, each sorted oldest first and
//! handed out backwards. A slice grows while it finds little and shrinks when it
//! finds much, so memory stays near [`SLICE_ROWS`] rows for any density but a
//! burst within [`SLICE_MIN_MS`].

/// Rows a slice aims at.
const SLICE_ROWS: usize = 32 * 1024;
/// The first slice: two days of a watch are 10,000 to 20,000 samples.
const SLICE_FIRST_MS: i64 = 2 * 86_400_000;
/// No slice is shorter.
const SLICE_MIN_MS: i64 = 60_000;

/// Slices of `start..end`, from the end.
#[derive(Debug)]
pub(super) struct SlicesFromEnd {
    start: i64,
    end: i64,
    width: i64,
}

impl SlicesFromEnd {
    pub(super) fn new(start: i64, end: i64) -> SlicesFromEnd {
        SlicesFromEnd { start, end, width: SLICE_FIRST_MS }
    }

    /// The next slice; `None` when the window is done.
    pub(super) fn next(&mut self) -> Option<(i64, i64)> {
        if self.start >= self.end {
            return None;
        }
        let from = self.end.saturating_sub(self.width).max(self.start);
        let slice = (from, self.end);
        self.end = from;
        Some(slice)
    }

    /// Learns from what the last slice held.
    pub(super) fn found(&mut self, rows: usize) {
        if rows < SLICE_ROWS / 4 {
            self.width = self.width.saturating_mul(4);
        } else if rows > SLICE_ROWS * 2 {
            self.width = (self.width / 4).max(SLICE_MIN_MS);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slices_cover_the_window_once_whatever_they_find() {
        for rows in [0, SLICE_ROWS, 10 * SLICE_ROWS] {
            let mut slices = SlicesFromEnd::new(-5, 20 * 86_400_000);
            let mut expected_end = 20 * 86_400_000;
            while let Some((from, to)) = slices.next() {
                assert!(from < to);
                assert_eq!(to, expected_end);
                expected_end = from;
                slices.found(rows);
            }
            assert_eq!(expected_end, -5);
        }
    }

    #[test]
    fn a_century_without_samples_takes_few_slices() {
        let mut slices = SlicesFromEnd::new(-2_208_988_800_000, 1_800_000_000_000);
        let mut count = 0;
        while slices.next().is_some() {
            slices.found(0);
            count += 1;
        }
        assert!(count < 12, "{count}");
    }
}
