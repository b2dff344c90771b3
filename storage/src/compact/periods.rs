//! Which period a day's rows go to.
//!
//! A day of a metric with 30 million rows (about 40 MB) has files of its own; days with
//! fewer are kept as their month, and a month with fewer as its year. So a sparse metric
//! is one small file a year and not 365, and a user's month lies in few files: each file
//! a question opens costs it more than the rows it reads there. Where a finer period
//! exists already, a day's rows go there.

use std::collections::{BTreeMap, BTreeSet};

use crate::files::Period;

/// Rows from which days and months get files of their own.
const PERIOD_ROWS_MIN: u64 = 30_000_000;

/// The period of each day in `days`, a metric's rows by day.
pub(super) fn choose(days: &BTreeMap<i32, u64>, existing: &BTreeSet<Period>) -> BTreeMap<i32, Period> {
    let own_day = |day: i32, rows: u64| rows >= PERIOD_ROWS_MIN || existing.contains(&Period::Day(day));
    let mut months: BTreeMap<Period, u64> = BTreeMap::new();
    for (&day, &rows) in days.iter().filter(|&(&day, &rows)| !own_day(day, rows)) {
        *months.entry(Period::month_of(day)).or_default() += rows;
    }
    let period = |(&day, &rows): (&i32, &u64)| {
        let month = Period::month_of(day);
        let period = if own_day(day, rows) {
            Period::Day(day)
        } else if months[&month] >= PERIOD_ROWS_MIN || existing.contains(&month) {
            month
        } else {
            Period::year_of(day)
        };
        (day, period)
    };
    days.iter().map(period).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const JAN_1: i32 = 20_454;

    fn chosen(days: &[(i32, u64)], existing: &[Period]) -> Vec<String> {
        let periods = choose(&days.iter().copied().collect(), &existing.iter().copied().collect());
        periods.values().map(ToString::to_string).collect()
    }

    #[test]
    fn periods_grow_to_fit_their_rows() {
        assert_eq!(chosen(&[(JAN_1, PERIOD_ROWS_MIN - 1)], &[]), ["2026"]);
        assert_eq!(chosen(&[(JAN_1, PERIOD_ROWS_MIN)], &[]), ["2026-01-01"]);
        let half = PERIOD_ROWS_MIN / 2;
        assert_eq!(chosen(&[(JAN_1, half), (JAN_1 + 1, half)], &[]), ["2026-01", "2026-01"]);
        assert_eq!(chosen(&[(JAN_1, half), (JAN_1 + 40, half)], &[]), ["2026", "2026"]);
    }

    #[test]
    fn a_finer_period_that_exists_takes_the_rows_of_its_days() {
        let existing = [Period::Day(JAN_1), Period::month_of(JAN_1)];
        assert_eq!(
            chosen(&[(JAN_1, 1), (JAN_1 + 1, 1), (JAN_1 + 40, 1)], &existing),
            ["2026-01-01", "2026-01", "2026"]
        );
    }
}
