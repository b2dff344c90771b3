//! Seconds since 1970 as RFC 3339 in UTC, to the second, for the years 1970 to
//! 9999. Leap seconds do not exist here, as in Unix time.

const SECONDS_PER_DAY: u64 = 86_400;

/// Appends `2026-06-30T07:45:00Z`.
pub(crate) fn push_rfc3339(text: &mut Vec<u8>, unix_seconds: u64) {
    let (year, month, day) = date_of(unix_seconds / SECONDS_PER_DAY);
    let second = unix_seconds % SECONDS_PER_DAY;
    push_two(text, year / 100);
    push_two(text, year % 100);
    for (separator, number) in
        [(b'-', month), (b'-', day), (b'T', second / 3_600), (b':', second / 60 % 60), (b':', second % 60)]
    {
        text.push(separator);
        push_two(text, number);
    }
    text.push(b'Z');
}

/// The seconds of `2026-06-30T07:45:00Z`, milliseconds cut off; `None` for anything
/// else.
pub(crate) fn parse_rfc3339(text: &[u8]) -> Option<u64> {
    let text = text.strip_suffix(b"Z")?;
    let number = |range: std::ops::Range<usize>| -> Option<u64> {
        str::from_utf8(text.get(range)?).ok()?.parse().ok()
    };
    let marks = [(4, b'-'), (7, b'-'), (10, b'T'), (13, b':'), (16, b':')];
    if marks.iter().any(|(place, mark)| text.get(*place) != Some(mark)) {
        return None;
    }
    if text.len() > 19 && text[19] != b'.' {
        return None;
    }
    let (year, month, day) = (number(0..4)?, number(5..7)?, number(8..10)?);
    let days = days_of(year, month, day)?;
    Some(days * SECONDS_PER_DAY + number(11..13)? * 3_600 + number(14..16)? * 60 + number(17..19)?)
}

/// The day since 1970 of a date: searched for, since a run asks for one or two.
fn days_of(year: u64, month: u64, day: u64) -> Option<u64> {
    let first = year.checked_sub(1970)? * 365;
    (first..first + 3_000).find(|days| date_of(*days) == (year, month, day))
}

fn push_two(text: &mut Vec<u8>, number: u64) {
    assert!(number < 100, "two digits hold less than 100");
    text.extend([b'0' + (number / 10) as u8, b'0' + (number % 10) as u8]);
}

/// Year, month and day of a day since 1970: years are counted from March, so
/// that the leap day is the last of its year.
fn date_of(days: u64) -> (u64, u64, u64) {
    const DAYS_PER_ERA: u64 = 146_097;
    const DAYS_TO_1970: u64 = 719_468;
    let days = days + DAYS_TO_1970;
    let (era, day) = (days / DAYS_PER_ERA, days % DAYS_PER_ERA);
    let year = (day - day / 1_460 + day / 36_524 - day / 146_096) / 365;
    let day_of_year = day - (365 * year + year / 4 - year / 100);
    let month_from_march = (5 * day_of_year + 2) / 153;
    let day_of_month = day_of_year - (153 * month_from_march + 2) / 5 + 1;
    let month = (month_from_march + 2) % 12 + 1;
    let year = era * 400 + year + u64::from(month <= 2);
    (year, month, day_of_month)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn known_moments_print_as_rfc_3339() {
        for (seconds, text) in [
            (0, "1970-01-01T00:00:00Z"),
            (68_256_000, "1972-03-01T00:00:00Z"),
            (951_782_400, "2000-02-29T00:00:00Z"),
            (1_709_251_199, "2024-02-29T23:59:59Z"),
            (1_709_251_200, "2024-03-01T00:00:00Z"),
            (1_782_805_500, "2026-06-30T07:45:00Z"),
            (1_798_761_599, "2026-12-31T23:59:59Z"),
            (4_107_542_400, "2100-03-01T00:00:00Z"),
        ] {
            let mut printed = Vec::new();
            push_rfc3339(&mut printed, seconds);
            assert_eq!(parse_rfc3339(&printed), Some(seconds));
            assert_eq!(String::from_utf8(printed).as_deref(), Ok(text));
        }
    }

    #[test]
    fn times_that_are_none_are_not_read() {
        assert_eq!(parse_rfc3339(b"2026-06-30T07:45:00.123Z"), Some(1_782_805_500));
        for text in
            ["", "2026-06-30", "2026-02-30T00:00:00Z", "2026-06-30T07:45:00+01:00", "2026-06-30T07:45:00xZ"]
        {
            assert_eq!(parse_rfc3339(text.as_bytes()), None, "{text}");
        }
    }

    #[test]
    fn days_follow_each_other_for_four_centuries() {
        let mut before = date_of(0);
        for days in 1..146_097 {
            let (year, month, day) = date_of(days);
            let next_day = (before.0, before.1, before.2 + 1);
            let next_month = (before.0, before.1 + 1, 1);
            let next_year = (before.0 + 1, 1, 1);
            assert!([next_day, next_month, next_year].contains(&(year, month, day)));
            assert!(month <= 12 && day <= 31);
            before = (year, month, day);
        }
        assert_eq!(before, (2369, 12, 31));
    }
}
