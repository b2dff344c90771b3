//! How long a bucket is, as a caller writes it.
//!
//! `1m 5m 15m 1h 1d 1w`, or an ISO 8601 duration of one kind: of time (`PT90M`),
//! of days (`P2D`), of weeks (`P1W`), or of months and years (`P3M`, `P1Y`). Time
//! has to divide a day, because buckets align to midnight.

/// Seconds of a day without a change of the clock.
pub(super) const DAY_SECONDS: i64 = 86_400;
/// Longest bucket: a century, in days, weeks and months.
const DAYS_MAX: u32 = 36_500;
const WEEKS_MAX: u32 = 5_200;
const MONTHS_MAX: u32 = 1_200;

/// The length of a bucket.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Resolution {
    /// Time on the clock; divides a day.
    Seconds(u32),
    /// Calendar days, counted from 1970-01-01.
    Days(u32),
    /// Weeks from Monday on, counted from 1969-12-29.
    Weeks(u32),
    /// Calendar months, counted from January of the year 0.
    Months(u32),
}

/// Why a text is no resolution.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ResolutionFault {
    /// Nothing that is known.
    #[error("must be 1m, 5m, 15m, 1h, 1d, 1w or an ISO 8601 duration such as PT30M, P2D, P1M")]
    Malformed,
    /// Zero or less.
    #[error("must be longer than zero")]
    NotPositive,
    /// `P1DT12H`, `P1M2D`.
    #[error("must be of one kind: hours, minutes and seconds, or days, or weeks, or months and years")]
    Mixed,
    /// `PT7M`: buckets would not meet midnight.
    #[error("must divide 24 hours, so that buckets begin at midnight; longer ones are days (P2D)")]
    NotOfADay,
    /// More than a century.
    #[error("must be at most a century")]
    TooLong,
}

impl Resolution {
    /// The resolution that `text` names.
    ///
    /// # Errors
    /// [`ResolutionFault`].
    pub fn parse(text: &str) -> Result<Resolution, ResolutionFault> {
        match text {
            "1m" => Ok(Resolution::Seconds(60)),
            "5m" => Ok(Resolution::Seconds(300)),
            "15m" => Ok(Resolution::Seconds(900)),
            "1h" => Ok(Resolution::Seconds(3600)),
            "1d" => Ok(Resolution::Days(1)),
            "1w" => Ok(Resolution::Weeks(1)),
            _ if text.contains('-') => Err(ResolutionFault::NotPositive),
            _ => Parts::parse(text).ok_or(ResolutionFault::Malformed)?.resolution(),
        }
    }
}

/// An ISO 8601 duration taken apart.
#[derive(Debug, Default)]
struct Parts {
    months: u64,
    weeks: u64,
    days: u64,
    seconds: u64,
}

impl Parts {
    fn parse(text: &str) -> Option<Parts> {
        let text = text.strip_prefix('P')?;
        let (date, time) = match text.split_once('T') {
            Some((date, time)) => (date, Some(time)),
            None => (text, None),
        };
        let mut parts = Parts::default();
        let (mut years, mut hours, mut minutes) = (0, 0, 0);
        let units: &mut [(u8, &mut u64)] = &mut [
            (b'Y', &mut years),
            (b'M', &mut parts.months),
            (b'W', &mut parts.weeks),
            (b'D', &mut parts.days),
        ];
        let mut any = fill(date, units)?;
        if let Some(time) = time {
            let units: &mut [(u8, &mut u64)] =
                &mut [(b'H', &mut hours), (b'M', &mut minutes), (b'S', &mut parts.seconds)];
            // A `T` with nothing behind it is no duration.
            any = fill(time, units)?.then_some(true)?;
        }
        parts.months += years * 12;
        parts.seconds += minutes * 60 + hours * 3600;
        any.then_some(parts)
    }

    fn resolution(&self) -> Result<Resolution, ResolutionFault> {
        let kinds = [self.seconds, self.days, self.weeks, self.months];
        match kinds.iter().filter(|length| **length > 0).count() {
            0 => return Err(ResolutionFault::NotPositive),
            1 => {}
            _ => return Err(ResolutionFault::Mixed),
        }
        let within = |length: u64, most: u32| match u32::try_from(length) {
            Ok(length) if length <= most => Ok(length),
            _ => Err(ResolutionFault::TooLong),
        };
        let day = DAY_SECONDS.cast_unsigned();
        match kinds {
            [seconds, 0, 0, 0] if seconds == day => Ok(Resolution::Days(1)),
            [seconds, 0, 0, 0] if seconds < day && day.is_multiple_of(seconds) => {
                within(seconds, u32::MAX).map(Resolution::Seconds)
            }
            [0, days, 0, 0] => within(days, DAYS_MAX).map(Resolution::Days),
            [0, 0, weeks, 0] => within(weeks, WEEKS_MAX).map(Resolution::Weeks),
            [0, 0, 0, months] => within(months, MONTHS_MAX).map(Resolution::Months),
            _ => Err(ResolutionFault::NotOfADay),
        }
    }
}

/// Reads numbers, each with its unit, in the units' order. `Some(false)` if there
/// is none, `None` if the text is something else.
fn fill(mut text: &str, mut units: &mut [(u8, &mut u64)]) -> Option<bool> {
    let any = !text.is_empty();
    while !text.is_empty() {
        let digits = text.bytes().take_while(u8::is_ascii_digit).count();
        // Nine digits of any unit are longer than a century and do not overflow.
        let number = text.get(..digits).filter(|digits| (1..=9).contains(&digits.len()))?.parse().ok()?;
        let unit = *text.as_bytes().get(digits)?;
        let at = units.iter().position(|(known, _)| *known == unit)?;
        *units[at].1 = number;
        units = &mut units[at + 1..];
        text = &text[digits + 1..];
    }
    Some(any)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn short_names_and_iso_durations_are_resolutions() {
        use Resolution::{Days, Months, Seconds, Weeks};
        for (text, expected) in [
            ("1m", Seconds(60)),
            ("15m", Seconds(900)),
            ("1h", Seconds(3600)),
            ("1d", Days(1)),
            ("1w", Weeks(1)),
            ("PT1S", Seconds(1)),
            ("PT90M", Seconds(5400)),
            ("PT1H30M", Seconds(5400)),
            ("PT6H", Seconds(21_600)),
            ("PT24H", Days(1)),
            ("P2D", Days(2)),
            ("P2W", Weeks(2)),
            ("P1M", Months(1)),
            ("P3M", Months(3)),
            ("P1Y", Months(12)),
            ("P1Y6M", Months(18)),
            ("P0Y1M", Months(1)),
        ] {
            assert_eq!(Resolution::parse(text), Ok(expected), "{text}");
        }
    }

    #[test]
    fn what_is_no_resolution_says_why() {
        use ResolutionFault::{Malformed, Mixed, NotOfADay, NotPositive, TooLong};
        for (text, expected) in [
            ("", Malformed),
            ("2h", Malformed),
            ("hour", Malformed),
            ("1M", Malformed),
            ("P", Malformed),
            ("PT", Malformed),
            ("P1DT", Malformed),
            ("P1H", Malformed),
            ("PT1D", Malformed),
            ("PT1.5H", Malformed),
            ("P1D1M", Malformed),
            ("P1D1D", Malformed),
            ("p1d", Malformed),
            ("PT1HX", Malformed),
            ("PT99999999999999999999S", Malformed),
            ("P0D", NotPositive),
            ("PT0S", NotPositive),
            ("-P1D", NotPositive),
            ("P-1D", NotPositive),
            ("P1DT12H", Mixed),
            ("P1M2D", Mixed),
            ("P1W1D", Mixed),
            ("PT7M", NotOfADay),
            ("PT5H", NotOfADay),
            ("PT36H", NotOfADay),
            ("PT48H", NotOfADay),
            ("PT999999999H", NotOfADay),
            ("P36501D", TooLong),
            ("P999999999Y", TooLong),
        ] {
            assert_eq!(Resolution::parse(text), Err(expected), "{text}");
        }
    }
}
