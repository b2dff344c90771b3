//! RFC 3339 timestamps, read and written.
//!
//! A timestamp is 20 bytes or longer: `2026-06-30T07:45:00Z`, or with a
//! fraction of any length and an offset, `2026-06-30T07:45:00.123456+02:00`.
//! Inside the program a time is milliseconds since 1970 in an `i64`.
//!
//! - Years are 0000 to 9999, before and after the offset is applied.
//! - A fraction is cut to milliseconds, never rounded, also before 1970.
//! - `t`, `z` and a space in place of `T` are understood.
//! - Second 60 is the first instant of the next minute, whatever its fraction:
//!   milliseconds since 1970 have no place for a leap second.
//! - `Z` and `-00:00` say that the local offset is unknown, `+00:00` that it is
//!   zero (RFC 3339, section 4.3).
//!
//! Nothing here allocates, and nothing knows the clock: whether a time is
//! plausible is decided where samples are validated.

use std::io::Write;

const MS_PER_SECOND: i64 = 1000;
const MS_PER_MINUTE: i64 = 60 * MS_PER_SECOND;
const MS_PER_DAY: i64 = 24 * 60 * MS_PER_MINUTE;
/// 0000-03-01 to 1970-01-01. Years that begin in March end with the leap day,
/// which makes the arithmetic regular.
const DAYS_TO_1970: i64 = 719_468;
const DAYS_PER_400_YEARS: i64 = 146_097;
/// 0000-01-01T00:00:00Z.
const EARLIEST_MS: i64 = -719_528 * MS_PER_DAY;
/// 9999-12-31T23:59:59.999Z.
const LATEST_MS: i64 = 2_932_897 * MS_PER_DAY - 1;

/// A moment, and the local offset it was written with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Instant {
    /// Milliseconds since 1970, UTC.
    pub ms: i64,
    /// Minutes that local time is ahead of UTC; `None` if unknown.
    pub offset_minutes: Option<i16>,
}

/// Why a text is no timestamp or no offset.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TimestampFault {
    /// It does not have the shape.
    #[error("is not RFC 3339, expected the form 2026-06-30T07:45:00Z or 2026-06-30T07:45:00+02:00")]
    Malformed,
    /// It has the shape, but the calendar or the clock has no such time.
    #[error("is no time that exists between the years 0000 and 9999")]
    Nonexistent,
    /// It ends before the offset.
    #[error("has no offset from UTC: append Z for UTC, or the local offset, for example +02:00")]
    OffsetMissing,
    /// The offset does not have the shape, or is a day or more.
    #[error("has no offset of the form +02:00, from -23:59 to +23:59")]
    OffsetMalformed,
    /// The offset is `-00:00`, which stands for an unknown one.
    #[error("has the offset -00:00, which means that the offset is unknown")]
    OffsetUnknown,
}

/// Reads a timestamp.
///
/// # Errors
/// [`TimestampFault`], never [`TimestampFault::OffsetUnknown`].
pub fn parse_rfc3339(text: &str) -> Result<Instant, TimestampFault> {
    Dates::default().parse(text)
}

/// Reads an offset, `+02:00`, as minutes that local time is ahead of UTC.
///
/// # Errors
/// [`TimestampFault::OffsetMalformed`] or [`TimestampFault::OffsetUnknown`].
pub fn parse_offset(text: &str) -> Result<i16, TimestampFault> {
    offset(text.as_bytes())
}

/// Appends a time in UTC with `Z`; milliseconds only if they are not zero.
/// Years beyond 9999 or before 0000 get a sign, as in ISO 8601.
pub fn write_rfc3339(ms: i64, out: &mut Vec<u8>) {
    let (year, month, day) = civil_from_days(ms.div_euclid(MS_PER_DAY));
    if let Ok(year @ 0..=9999) = u16::try_from(year) {
        out.extend_from_slice(&pair(year / 100));
        out.extend_from_slice(&pair(year % 100));
    } else {
        write!(out, "{year:+05}").expect("writing to memory does not fail");
    }
    let ms = ms.rem_euclid(MS_PER_DAY) as u32;
    let (seconds, fraction) = (ms / 1000, ms % 1000);
    let mut text = *b"-MM-DDTHH:MM:SS.mmmZ";
    for (at, number) in
        [(1, month), (4, day), (7, seconds / 3600), (10, seconds / 60 % 60), (13, seconds % 60)]
    {
        text[at..at + 2].copy_from_slice(&pair(number as u16));
    }
    if fraction == 0 {
        text[15] = b'Z';
        out.extend_from_slice(&text[..16]);
    } else {
        text[16] = b'0' + (fraction / 100) as u8;
        text[17..19].copy_from_slice(&pair((fraction % 100) as u16));
        out.extend_from_slice(&text);
    }
}

/// A writer of timestamps that remembers the minute it wrote last: the samples of a
/// series mostly follow each other within seconds.
#[derive(Debug, Default)]
pub struct TimestampWriter {
    minute: Option<i64>,
    /// What stands before each timestamp.
    lead: &'static [u8],
    /// That and the timestamp up to the seconds, `2026-06-30T07:45:`.
    prefix: Vec<u8>,
}

impl TimestampWriter {
    /// One that writes a text before each timestamp.
    #[must_use]
    pub fn with_lead(lead: &'static [u8]) -> TimestampWriter {
        TimestampWriter { lead, ..TimestampWriter::default() }
    }

    /// Appends what [`write_rfc3339`] appends.
    #[inline]
    pub fn write(&mut self, ms: i64, out: &mut Vec<u8>) {
        let minute = ms.div_euclid(MS_PER_MINUTE);
        if self.minute != Some(minute) {
            self.enter(minute);
        }
        out.extend_from_slice(&self.prefix);
        let rest = ms.rem_euclid(MS_PER_MINUTE) as u16;
        let ([s1, s0], fraction) = (pair(rest / 1000), rest % 1000);
        if fraction == 0 {
            out.extend_from_slice(&[s1, s0, b'Z']);
        } else {
            let [m1, m0] = pair(fraction % 100);
            out.extend_from_slice(&[s1, s0, b'.', b'0' + (fraction / 100) as u8, m1, m0, b'Z']);
        }
    }

    fn enter(&mut self, minute: i64) {
        self.minute = Some(minute);
        self.prefix.clear();
        self.prefix.extend_from_slice(self.lead);
        write_rfc3339(minute * MS_PER_MINUTE, &mut self.prefix);
        self.prefix.truncate(self.prefix.len() - "00Z".len());
    }
}

/// Appends an offset of less than 100 hours, `+02:00`.
pub fn write_offset(minutes: i16, out: &mut Vec<u8>) {
    let sign = if minutes < 0 { b'-' } else { b'+' };
    let [h1, h0] = pair(minutes.unsigned_abs() / 60);
    let [m1, m0] = pair(minutes.unsigned_abs() % 60);
    out.extend_from_slice(&[sign, h1, h0, b':', m1, m0]);
}

/// A reader of timestamps that remembers the date it saw last: the samples of a
/// request mostly lie within one day.
#[derive(Debug)]
pub(crate) struct Dates {
    text: [u8; 10],
    start_ms: i64,
}

impl Default for Dates {
    fn default() -> Dates {
        Dates { text: *b"1970-01-01", start_ms: 0 }
    }
}

impl Dates {
    /// Reads a timestamp; see [`parse_rfc3339`].
    #[inline]
    pub(crate) fn parse(&mut self, text: &str) -> Result<Instant, TimestampFault> {
        let (date, rest) = text.as_bytes().split_first_chunk().ok_or(TimestampFault::Malformed)?;
        if self.text != *date {
            self.start_ms = date_ms(date)?;
            self.text = *date;
        }
        let (clock, rest) = rest.split_first_chunk().ok_or(TimestampFault::Malformed)?;
        instant(self.start_ms + clock_ms(clock)?, clock_is_leap(clock), rest)
    }
}

/// The start of a date, `2026-06-30`.
fn date_ms(text: &[u8; 10]) -> Result<i64, TimestampFault> {
    let [y3, y2, y1, y0, b'-', m1, m0, b'-', d1, d0] = *text else {
        return Err(TimestampFault::Malformed);
    };
    let (century, year) = (digits(y3, y2)?, digits(y1, y0)?);
    let (year, month, day) = (century * 100 + year, digits(m1, m0)?, digits(d1, d0)?);
    if !(1..=12).contains(&month) || day == 0 || day > days_of_month(year, month) {
        return Err(TimestampFault::Nonexistent);
    }
    Ok(days_from_civil(year, month, day) * MS_PER_DAY)
}

/// The whole seconds of a time of day, `T07:45:00`.
#[inline]
fn clock_ms(text: &[u8; 9]) -> Result<i64, TimestampFault> {
    let [b'T' | b't' | b' ', h1, h0, b':', m1, m0, b':', s1, s0] = *text else {
        return Err(TimestampFault::Malformed);
    };
    let (hour, minute, second) = (digits(h1, h0)?, digits(m1, m0)?, digits(s1, s0)?);
    if hour > 23 || minute > 59 || second > 60 {
        return Err(TimestampFault::Nonexistent);
    }
    Ok(i64::from((hour * 60 + minute) * 60 + second) * MS_PER_SECOND)
}

#[inline]
fn clock_is_leap(text: &[u8; 9]) -> bool {
    text[7] == b'6'
}

/// Adds what follows the seconds: a fraction, if there is one, and the offset.
#[inline]
fn instant(seconds_ms: i64, leap: bool, rest: &[u8]) -> Result<Instant, TimestampFault> {
    let (fraction_ms, rest) = match rest {
        [b'.', rest @ ..] => fraction(rest)?,
        rest => (0, rest),
    };
    let local_ms = if leap { seconds_ms } else { seconds_ms + fraction_ms };
    let offset_minutes = match rest {
        [b'Z' | b'z'] => None,
        [] => return Err(TimestampFault::OffsetMissing),
        rest => match offset(rest) {
            Err(TimestampFault::OffsetUnknown) => None,
            minutes => Some(minutes?),
        },
    };
    let ms = local_ms - i64::from(offset_minutes.unwrap_or(0)) * MS_PER_MINUTE;
    if !(EARLIEST_MS..=LATEST_MS).contains(&ms) {
        return Err(TimestampFault::Nonexistent);
    }
    Ok(Instant { ms, offset_minutes })
}

/// The milliseconds of the digits at the start of `text`, and what follows.
fn fraction(text: &[u8]) -> Result<(i64, &[u8]), TimestampFault> {
    let count = text.iter().take_while(|byte| byte.is_ascii_digit()).count();
    if count == 0 {
        return Err(TimestampFault::Malformed);
    }
    let (digits, rest) = text.split_at(count);
    let digit = |at: usize| digits.get(at).map_or(0, |digit| i64::from(digit - b'0'));
    Ok((digit(0) * 100 + digit(1) * 10 + digit(2), rest))
}

fn offset(text: &[u8]) -> Result<i16, TimestampFault> {
    let [sign @ (b'+' | b'-'), h1, h0, b':', m1, m0] = *text else {
        return Err(TimestampFault::OffsetMalformed);
    };
    match (digits(h1, h0), digits(m1, m0)) {
        (Ok(0), Ok(0)) if sign == b'-' => Err(TimestampFault::OffsetUnknown),
        (Ok(hours @ 0..=23), Ok(minutes @ 0..=59)) => {
            let minutes = (hours * 60 + minutes) as i16;
            Ok(if sign == b'-' { -minutes } else { minutes })
        }
        _ => Err(TimestampFault::OffsetMalformed),
    }
}

#[inline]
fn digits(tens: u8, ones: u8) -> Result<u32, TimestampFault> {
    let (tens, ones) = (tens.wrapping_sub(b'0'), ones.wrapping_sub(b'0'));
    if tens > 9 || ones > 9 {
        return Err(TimestampFault::Malformed);
    }
    Ok(u32::from(tens) * 10 + u32::from(ones))
}

/// A number below 100 as two digits.
fn pair(number: u16) -> [u8; 2] {
    debug_assert!(number < 100);
    [b'0' + (number / 10) as u8, b'0' + (number % 10) as u8]
}

fn days_of_month(year: u32, month: u32) -> u32 {
    match month {
        2 if year.is_multiple_of(4) && (!year.is_multiple_of(100) || year.is_multiple_of(400)) => 29,
        2 => 28,
        4 | 6 | 9 | 11 => 30,
        _ => 31,
    }
}

/// Days from 1970-01-01 to a date of the proleptic Gregorian calendar.
fn days_from_civil(year: u32, month: u32, day: u32) -> i64 {
    // The year begins in March: months 3 to 14.
    let (year, month) = if month > 2 { (i64::from(year), month) } else { (i64::from(year) - 1, month + 12) };
    let day_of_year = i64::from((153 * (month - 3) + 2) / 5 + day - 1);
    let leap_days = year.div_euclid(4) - year.div_euclid(100) + year.div_euclid(400);
    365 * year + leap_days + day_of_year - DAYS_TO_1970
}

/// Year, month and day of the day that many days after 1970-01-01.
fn civil_from_days(days: i64) -> (i64, u32, u32) {
    let days = days + DAYS_TO_1970;
    let cycle = days.div_euclid(DAYS_PER_400_YEARS);
    let day_of_cycle = days.rem_euclid(DAYS_PER_400_YEARS);
    // Take the leap days out, so that 365 divides: one in 4 years (1,461 days),
    // none in the last of 100 (36,524), one again in the last of 400.
    let year_of_cycle =
        (day_of_cycle - day_of_cycle / 1_460 + day_of_cycle / 36_524 - day_of_cycle / 146_096) / 365;
    let day_of_year = day_of_cycle - (365 * year_of_cycle + year_of_cycle / 4 - year_of_cycle / 100);
    // Months from March on have 31, 30, 31, 30, 31 days, over and over: 153.
    let month_from_march = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month_from_march + 2) / 5 + 1;
    let month = if month_from_march < 10 { month_from_march + 3 } else { month_from_march - 9 };
    let year = cycle * 400 + year_of_cycle + i64::from(month <= 2);
    (year, month as u32, day as u32)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_remembered_minute_writes_what_is_written_without() {
        let mut writer = TimestampWriter::default();
        let minute = 29_713_425 * MS_PER_MINUTE;
        let beyond = 253_402_300_800_000;
        for ms in [
            0,
            1,
            59_999,
            60_000,
            -1,
            -60_000,
            -60_001,
            minute,
            minute + 7_089,
            minute + 7_890,
            beyond,
            LATEST_MS,
        ] {
            let (mut remembered, mut plain) = (Vec::new(), Vec::new());
            writer.write(ms, &mut remembered);
            write_rfc3339(ms, &mut plain);
            assert_eq!(String::from_utf8(remembered).unwrap(), String::from_utf8(plain).unwrap(), "{ms}");
        }
    }

    #[test]
    fn a_remembered_date_answers_for_its_own_text_only() {
        let mut dates = Dates::default();
        for (text, day) in [
            ("1970-01-02T00:00:00Z", Some(1)),
            ("1970-01-01T00:00:00Z", Some(0)),
            ("1970-01-01T00:00:60", None),
            ("1970-01-03T00:00:00Z", Some(2)),
            ("1970-02-30T00:00:00Z", None),
            ("1970-01-03T00:00:00Z", Some(2)),
            ("1970-01-32T00:00:00Z", None),
            ("1970-01-04 junk", None),
            ("1970-01-04T00:00:00Z", Some(3)),
            ("1970-01-01T00:00:00Z", Some(0)),
        ] {
            let instant = dates.parse(text);
            assert_eq!(instant, parse_rfc3339(text), "{text}");
            assert_eq!(instant.ok().map(|instant| instant.ms), day.map(|day| day * MS_PER_DAY), "{text}");
        }
    }
}
