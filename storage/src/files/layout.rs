//! Where a row's file lies.

use std::fmt;
use std::path::Path;

/// The open folder below the data dir.
pub const SAMPLES_DIR: &str = "samples";
/// Where a flush's files lie until they are brought into their periods.
pub const RUNS_DIR: &str = "runs";

const TEMPORARY_SUFFIX: &str = ".tmp";
pub(crate) const DAY_MS: i64 = 86_400_000;

/// A span of UTC days that is kept together: a day, a month or a year.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Period {
    /// Days since 1970.
    Day(i32),
    /// Year and month, from 1.
    Month(i32, u8),
    /// A year.
    Year(i32),
}

/// Days since 1970 of a time in milliseconds.
pub(crate) fn day_of(ms: i64) -> i32 {
    i32::try_from(ms.div_euclid(DAY_MS)).expect("times lie between 1900 and tomorrow")
}

impl Period {
    /// The month of a day.
    #[must_use]
    pub fn month_of(day: i32) -> Period {
        let (year, month, _) = civil(day);
        Period::Month(year, month)
    }

    /// The year of a day.
    #[must_use]
    pub fn year_of(day: i32) -> Period {
        Period::Year(civil(day).0)
    }

    /// Reads what [`Period`] prints.
    #[must_use]
    pub fn parse(text: &str) -> Option<Period> {
        // Years of four digits: times lie between 1900 and tomorrow.
        let number = |range: std::ops::Range<usize>| text.get(range)?.parse::<u16>().ok();
        let year = i32::from(number(0..4)?);
        let month = || u8::try_from(number(5..7)?).ok();
        match text.len() {
            4 => Some(Period::Year(year)),
            7 => Some(Period::Month(year, month()?)),
            10 => Some(Period::Day(day_number(year, month()?, u8::try_from(number(8..10)?).ok()?))),
            _ => None,
        }
    }
}

impl fmt::Display for Period {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Period::Day(day) => {
                let (year, month, day) = civil(day);
                write!(f, "{year:04}-{month:02}-{day:02}")
            }
            Period::Month(year, month) => write!(f, "{year:04}-{month:02}"),
            Period::Year(year) => write!(f, "{year:04}"),
        }
    }
}

/// Year, month and day of a day since 1970, in the proleptic Gregorian calendar.
/// Counts in eras of 400 years that begin on 1 March.
fn civil(day: i32) -> (i32, u8, u8) {
    let shifted = day + 719_468;
    let era = shifted.div_euclid(146_097);
    let of_era = shifted.rem_euclid(146_097);
    let year_of_era = (of_era - of_era / 1_460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted_month = (5 * of_year + 2) / 153;
    let day_of_month = of_year - (153 * shifted_month + 2) / 5 + 1;
    let month = if shifted_month < 10 { shifted_month + 3 } else { shifted_month - 9 };
    let year = year_of_era + era * 400 + i32::from(month <= 2);
    let small = |number: i32| u8::try_from(number).expect("months and days are small");
    (year, small(month), small(day_of_month))
}

/// Days since 1970 of a date: the inverse of [`civil`].
fn day_number(year: i32, month: u8, day: u8) -> i32 {
    let shifted_year = year - i32::from(month <= 2);
    let era = shifted_year.div_euclid(400);
    let year_of_era = shifted_year.rem_euclid(400);
    let shifted_month = (i32::from(month) + 9) % 12;
    let of_year = (153 * shifted_month + 2) / 5 + i32::from(day) - 1;
    let of_era = year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + of_year;
    era * 146_097 + of_era - 719_468
}

/// What a folder of data files holds.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Partition {
    /// Whose rows.
    pub org: String,
    /// Canonical metric key.
    pub metric: String,
    /// When they were recorded.
    pub period: Period,
    /// Which share of the users.
    pub bucket: u32,
}

impl Partition {
    /// Its folder below the data dir.
    #[must_use]
    pub fn folder(&self) -> String {
        format!(
            "{SAMPLES_DIR}/org={}/metric={}/period={}/bucket={}",
            self.org, self.metric, self.period, self.bucket
        )
    }

    /// A file in it, below the data dir.
    #[must_use]
    pub fn file(&self, level: u32, number: u64) -> String {
        format!("{}/{level}-{number:020}.parquet", self.folder())
    }
}

/// A run, below the data dir. A flush's run (level 0) is numbered by its last
/// sequence, any other by its compaction.
#[must_use]
pub fn run_file(level: u32, number: u64) -> String {
    format!("{RUNS_DIR}/{level}-{number:020}.parquet")
}

/// Whether a file below the data dir is a run.
#[must_use]
pub fn is_run(path: &str) -> bool {
    path.strip_prefix(RUNS_DIR).is_some_and(|rest| rest.starts_with('/'))
}

/// The name a file has while it is written.
pub(super) fn temporary(path: &str) -> String {
    format!("{path}{TEMPORARY_SUFFIX}")
}

/// Whether a path is of a file that was being written.
#[must_use]
pub fn is_temporary(path: &Path) -> bool {
    path.to_str().is_some_and(|path| path.ends_with(TEMPORARY_SUFFIX))
}

/// Level and number in the name of a data file, or `None` if it is not one.
#[must_use]
pub fn level_and_number(path: &Path) -> Option<(u32, u64)> {
    let (level, number) = path.file_name()?.to_str()?.strip_suffix(".parquet")?.split_once('-')?;
    if number.len() != 20 {
        return None;
    }
    Some((level.parse().ok()?, number.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn periods_print_as_calendar_dates() {
        for (ms, day, month, year) in [
            (0, "1970-01-01", "1970-01", "1970"),
            (1_782_805_500_000, "2026-06-30", "2026-06", "2026"),
            (-1, "1969-12-31", "1969-12", "1969"),
            (-2_208_988_800_000, "1900-01-01", "1900-01", "1900"),
            (951_782_400_000, "2000-02-29", "2000-02", "2000"),
        ] {
            let number = day_of(ms);
            assert_eq!(Period::Day(number).to_string(), day);
            assert_eq!(Period::month_of(number).to_string(), month);
            assert_eq!(Period::year_of(number).to_string(), year);
            for period in [Period::Day(number), Period::month_of(number), Period::year_of(number)] {
                assert_eq!(Period::parse(&period.to_string()), Some(period));
            }
        }
    }

    #[test]
    fn a_file_lies_in_its_hive_partition() {
        let partition = Partition {
            org: "default".into(),
            metric: "heart_rate".into(),
            period: Period::Month(2026, 6),
            bucket: 0,
        };
        assert_eq!(
            partition.file(0, 42),
            "samples/org=default/metric=heart_rate/period=2026-06/bucket=0/0-00000000000000000042.parquet"
        );
    }
}
