use proptest::prelude::*;
use systole_engine::timestamp::{
    Instant, TimestampFault, parse_offset, parse_rfc3339, write_offset, write_rfc3339,
};

const MINUTE_MS: i64 = 60_000;
const DAY_MS: i64 = 24 * 60 * MINUTE_MS;

#[test]
fn timestamps_are_read() {
    for (text, ms, offset_minutes) in [
        ("1970-01-01T00:00:00Z", 0, None),
        ("1970-01-01T00:00:00+00:00", 0, Some(0)),
        ("1970-01-01T00:00:00-00:00", 0, None),
        ("2026-06-30T07:45:00Z", 1_782_805_500_000, None),
        ("2026-06-30t07:45:00z", 1_782_805_500_000, None),
        ("2026-06-30 07:45:00Z", 1_782_805_500_000, None),
        ("2026-06-30T09:45:00+02:00", 1_782_805_500_000, Some(120)),
        ("2026-06-30T02:15:00-05:30", 1_782_805_500_000, Some(-330)),
        ("2026-07-01T07:44:00+23:59", 1_782_805_500_000, Some(1439)),
        ("2026-06-29T07:46:00-23:59", 1_782_805_500_000, Some(-1439)),
        ("2026-06-30T07:45:00.1Z", 1_782_805_500_100, None),
        ("2026-06-30T07:45:00.12Z", 1_782_805_500_120, None),
        ("2026-06-30T07:45:00.1239999999999999999999999Z", 1_782_805_500_123, None),
        ("2026-06-30T07:45:00.9999+00:00", 1_782_805_500_999, Some(0)),
        ("1969-12-31T23:59:59.9999Z", -1, None),
        ("1969-12-31T23:59:59.0001Z", -1000, None),
        ("2016-12-31T23:59:60Z", 1_483_228_800_000, None),
        ("2016-12-31T23:59:60.999Z", 1_483_228_800_000, None),
        ("2017-01-01T00:59:60+01:00", 1_483_228_800_000, Some(60)),
        ("2000-02-29T00:00:00Z", 951_782_400_000, None),
        ("2024-02-29T00:00:00Z", 1_709_164_800_000, None),
        ("1900-01-01T00:00:00Z", -2_208_988_800_000, None),
        ("0000-01-01T00:00:00Z", -62_167_219_200_000, None),
        ("9999-12-31T23:59:59.999Z", 253_402_300_799_999, None),
    ] {
        assert_eq!(parse_rfc3339(text), Ok(Instant { ms, offset_minutes }), "{text}");
    }
}

#[test]
fn what_is_no_timestamp_is_refused_with_its_cause() {
    use TimestampFault::{Malformed, Nonexistent, OffsetMalformed, OffsetMissing};
    for (text, fault) in [
        ("", Malformed),
        ("now", Malformed),
        ("1782805500000", Malformed),
        ("2026-06-30", Malformed),
        ("2026-06-30T07:45", Malformed),
        ("2026-06-30T07:45Z", Malformed),
        ("2026-6-30T07:45:00Z", Malformed),
        ("2026/06/30T07:45:00Z", Malformed),
        ("2026-06-30_07:45:00Z", Malformed),
        ("2026-06-30T07.45.00Z", Malformed),
        ("2026-06-30T07:45:0aZ", Malformed),
        ("+026-06-30T07:45:00Z", Malformed),
        ("２026-06-30T07:45:00Z", Malformed),
        ("\0\0\0\0\0\0\0\0\0\0T07:45:00Z", Malformed),
        ("2026-06-30T07:45:00.Z", Malformed),
        ("2026-06-30T07:45:00.+02:00", Malformed),
        ("2026-00-30T07:45:00Z", Nonexistent),
        ("2026-13-30T07:45:00Z", Nonexistent),
        ("2026-06-00T07:45:00Z", Nonexistent),
        ("2026-06-31T07:45:00Z", Nonexistent),
        ("2026-02-29T07:45:00Z", Nonexistent),
        ("1900-02-29T07:45:00Z", Nonexistent),
        ("2026-06-30T24:00:00Z", Nonexistent),
        ("2026-06-30T07:60:00Z", Nonexistent),
        ("2026-06-30T07:45:61Z", Nonexistent),
        ("0000-01-01T00:00:00+00:01", Nonexistent),
        ("9999-12-31T23:59:60Z", Nonexistent),
        ("9999-12-31T23:59:00-00:01", Nonexistent),
        ("2026-06-30T07:45:00", OffsetMissing),
        ("2026-06-30T07:45:00.123", OffsetMissing),
        ("2026-06-30T07:45:00,5Z", OffsetMalformed),
        ("2026-06-30T07:45:00ZZ", OffsetMalformed),
        ("2026-06-30T07:45:00 Z", OffsetMalformed),
        ("2026-06-30T07:45:00+2:00", OffsetMalformed),
        ("2026-06-30T07:45:00+0200", OffsetMalformed),
        ("2026-06-30T07:45:00+02", OffsetMalformed),
        ("2026-06-30T07:45:00+24:00", OffsetMalformed),
        ("2026-06-30T07:45:00+02:60", OffsetMalformed),
        ("2026-06-30T07:45:00+02:00 ", OffsetMalformed),
        ("2026-06-30T07:45:00 Europe/Berlin", OffsetMalformed),
    ] {
        assert_eq!(parse_rfc3339(text), Err(fault), "{text:?}");
    }
}

#[test]
fn every_offset_is_read_as_it_is_written() {
    for minutes in -1439..=1439 {
        let mut text = Vec::new();
        write_offset(minutes, &mut text);
        let text = String::from_utf8(text).expect("offsets are ASCII");
        let sign = if minutes < 0 { '-' } else { '+' };
        assert_eq!(text, format!("{sign}{:02}:{:02}", minutes.abs() / 60, minutes.abs() % 60));
        assert_eq!(parse_offset(&text), Ok(minutes), "{text}");
    }
}

#[test]
fn what_is_no_offset_is_refused() {
    for text in ["", "Z", "z", "02:00", "+2:00", "+0200", "+24:00", "+02:60", "+02:00 ", "−02:00", "+aa:bb"]
    {
        assert_eq!(parse_offset(text), Err(TimestampFault::OffsetMalformed), "{text:?}");
    }
    assert_eq!(parse_offset("-00:00"), Err(TimestampFault::OffsetUnknown));
}

#[test]
fn times_are_written_in_utc_with_milliseconds_only_if_there_are_some() {
    for (ms, text) in [
        (0, "1970-01-01T00:00:00Z"),
        (1_782_805_500_000, "2026-06-30T07:45:00Z"),
        (1_782_805_500_120, "2026-06-30T07:45:00.120Z"),
        (1_782_805_500_007, "2026-06-30T07:45:00.007Z"),
        (-1, "1969-12-31T23:59:59.999Z"),
        (-62_167_219_200_000, "0000-01-01T00:00:00Z"),
        (-62_167_219_200_001, "-0001-12-31T23:59:59.999Z"),
        (253_402_300_800_000, "+10000-01-01T00:00:00Z"),
        (i64::MIN, "-292275055-05-16T16:47:04.192Z"),
        (i64::MAX, "+292278994-08-17T07:12:55.807Z"),
    ] {
        assert_eq!(written(ms), text);
    }
}

#[test]
fn both_ends_of_every_month_of_ten_thousand_years_are_read_and_written() {
    let mut month_start = -719_528;
    for (year, month) in (0..=9999).flat_map(|year| (1..=12).map(move |month| (year, month))) {
        let days = days_of_month(year, month);
        for (day, of_month) in [(month_start, 1), (month_start + days - 1, days)] {
            let text = format!("{year:04}-{month:02}-{of_month:02}T00:00:00Z");
            let instant = Instant { ms: day * DAY_MS, offset_minutes: None };
            assert_eq!(parse_rfc3339(&text), Ok(instant), "{text}");
            assert_eq!(written(instant.ms), text);
        }
        let beyond = format!("{year:04}-{month:02}-{:02}T00:00:00Z", days + 1);
        assert_eq!(parse_rfc3339(&beyond), Err(TimestampFault::Nonexistent), "{beyond}");
        month_start += days;
    }
}

fn written(ms: i64) -> String {
    let mut text = Vec::new();
    write_rfc3339(ms, &mut text);
    String::from_utf8(text).expect("timestamps are ASCII")
}

fn is_leap(year: i64) -> bool {
    year % 4 == 0 && (year % 100 != 0 || year % 400 == 0)
}

fn days_of_month(year: i64, month: i64) -> i64 {
    const DAYS: [i64; 12] = [31, 28, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31];
    DAYS[month as usize - 1] + i64::from(month == 2 && is_leap(year))
}

/// Year, month and day by walking through the years and months: slow, and
/// nothing like the arithmetic it is compared with.
fn walked(mut days: i64) -> (i64, i64, i64) {
    let mut year = 1970;
    while days < 0 {
        year -= 1;
        days += 365 + i64::from(is_leap(year));
    }
    while days >= 365 + i64::from(is_leap(year)) {
        days -= 365 + i64::from(is_leap(year));
        year += 1;
    }
    let mut month = 1;
    while days >= days_of_month(year, month) {
        days -= days_of_month(year, month);
        month += 1;
    }
    (year, month, days + 1)
}

proptest! {
    #[test]
    fn a_written_time_is_read_back(ms in -62_167_219_200_000_i64..253_402_300_800_000) {
        prop_assert_eq!(parse_rfc3339(&written(ms)), Ok(Instant { ms, offset_minutes: None }));
    }

    #[test]
    fn local_times_of_any_shape_are_read(
        ms in -62_167_000_000_000_i64..253_402_000_000_000,
        offset in -1439_i16..=1439,
        beyond_ms in "[0-9]{0,12}",
        separator in prop::sample::select(vec!['T', 't', ' ']),
    ) {
        let local = ms + i64::from(offset) * MINUTE_MS;
        let (year, month, day) = walked(local.div_euclid(DAY_MS));
        let clock = local.rem_euclid(DAY_MS);
        let (hour, minute, second) = (clock / 3_600_000, clock / MINUTE_MS % 60, clock / 1000 % 60);
        let mut text = format!("{year:04}-{month:02}-{day:02}{separator}{hour:02}:{minute:02}:{second:02}");
        text += &format!(".{:03}{beyond_ms}", clock % 1000);
        let sign = if offset < 0 { '-' } else { '+' };
        text += &format!("{sign}{:02}:{:02}", offset.abs() / 60, offset.abs() % 60);
        prop_assert_eq!(parse_rfc3339(&text), Ok(Instant { ms, offset_minutes: Some(offset) }), "{}", text);
    }

    #[test]
    fn any_text_is_read_or_refused(text in "[-+0-9T:. Zz\u{0}é]{0,40}") {
        if let Ok(instant) = parse_rfc3339(&text) {
            prop_assert_eq!(parse_rfc3339(&written(instant.ms)).map(|again| again.ms), Ok(instant.ms));
        }
    }

    #[test]
    fn one_wrong_byte_never_passes_unseen(at in 0_usize..25, byte in 0_u8..128) {
        let text = "2026-06-30T07:45:00+02:00";
        let mut bytes = text.as_bytes().to_vec();
        bytes[at] = byte;
        let changed = String::from_utf8(bytes).expect("ASCII");
        let same = changed == text || (at == 10 && matches!(byte, b't' | b' '));
        if parse_rfc3339(&changed) == parse_rfc3339(text) {
            prop_assert!(same, "{}", changed);
        }
    }
}
