//! Which bucket a time lies in.
//!
//! In a named zone, buckets are spans of time one behind the other:
//!
//! - Days, weeks and months begin at local midnight: 23, 24 or 25 hours a day. Of a
//!   midnight that the clock shows twice the later one counts, of one that it jumps
//!   over the jump.
//! - Hours and less begin where the clock on the wall reaches, or jumps over, a
//!   multiple of them since midnight. So an hour that the clock shows twice is two
//!   buckets, one that it leaves out is none, and six hours from midnight are 5, 6
//!   or 7 hours long. Where the clock is put back by half an hour (Lord Howe), the
//!   hour in which that happens is 90 minutes long.
//!
//! With each sample's own offset (none is UTC), days and longer go by the date on
//! the wearer's clock, whichever the offset, so that a day of travel is one bucket.
//! Hours and less begin at the instant at which that clock showed their start.
//!
//! Whole seconds: no zone and no resolution has parts of one.

use std::str::FromStr;

use chrono::{DateTime, Datelike, MappedLocalTime, NaiveDate, NaiveDateTime, Offset, TimeZone};
use chrono_tz::Tz;

use super::resolution::{DAY_SECONDS, Resolution};

/// The years 1 to 9999: samples and windows lie within, forged cursors need not.
const TIME_MIN: i64 = -62_135_596_800;
const TIME_MAX: i64 = 253_402_300_799;
/// No clock is further from UTC, in seconds; `zone_offset` takes less than a day.
const OFFSET_MAX: i64 = DAY_SECONDS;
/// 1970-01-01 is a Thursday: days from its week's Monday.
const MONDAY_OFFSET: i64 = 3;
/// 1970-01-01 in days from the year 1.
const EPOCH_DAYS_CE: i64 = 719_163;

/// Whose clock days and hours are those of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Zone {
    /// A zone of the IANA database, as compiled in.
    Named(Tz),
    /// Each sample's own offset.
    Recorded,
}

impl Zone {
    /// UTC.
    pub const UTC: Zone = Zone::Named(Tz::UTC);

    /// `recorded`, or the zone of an IANA name (`Europe/Berlin`).
    #[must_use]
    pub fn parse(text: &str) -> Option<Zone> {
        match text {
            "recorded" => Some(Zone::Recorded),
            name => Tz::from_str(name).ok().map(Zone::Named),
        }
    }

    /// The zone's name whose letters are those of `text` in another case.
    #[must_use]
    pub fn nearest(text: &str) -> Option<&'static str> {
        let names = chrono_tz::TZ_VARIANTS.iter().map(|zone| zone.name());
        names.into_iter().find(|name| name.eq_ignore_ascii_case(text))
    }
}

/// A bucket's place. Milliseconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Span {
    /// What tells it from others and orders them: its start, or with each sample's
    /// own offset and in days or longer, what the clock showed at its start.
    pub(super) key: i64,
    /// The first time that may lie in it.
    pub(super) from: i64,
    /// The first time behind it that may not.
    pub(super) to: i64,
}

/// Where a sample counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Found {
    pub(super) span: Span,
    /// Times `same.0..same.1` with the same offset lie in this bucket too.
    pub(super) same: (i64, i64),
}

/// Buckets of one resolution on one clock.
#[derive(Clone, Copy, Debug)]
pub(super) struct Calendar {
    pub(super) resolution: Resolution,
    pub(super) zone: Zone,
}

impl Calendar {
    /// The bucket of a time.
    pub(super) fn find(&self, ms: i64, offset_minutes: Option<i16>) -> Found {
        let time = seconds(ms);
        let offset = i64::from(offset_minutes.unwrap_or(0)) * 60;
        match (self.zone, self.resolution) {
            (Zone::Named(zone), Resolution::Seconds(every)) => {
                let clock = Clock { zone, every: i64::from(every) };
                Found::of((clock.start(time), clock.end(time)))
            }
            (Zone::Named(zone), _) => Found::of(self.days_of(zone, time)),
            (Zone::Recorded, Resolution::Seconds(every)) => {
                let start = time - (time + offset).rem_euclid(i64::from(every));
                Found::of((start, start + i64::from(every)))
            }
            (Zone::Recorded, _) => {
                let (first, next) = self.dates((time + offset).div_euclid(DAY_SECONDS));
                let same = (first * DAY_SECONDS - offset, next * DAY_SECONDS - offset);
                Found { span: recorded_dates(first, next), same: (same.0 * 1000, same.1 * 1000) }
            }
        }
    }

    /// The span of the bucket with this key.
    pub(super) fn span(&self, key: i64) -> Span {
        match (self.zone, self.resolution) {
            (Zone::Recorded, Resolution::Days(_) | Resolution::Weeks(_) | Resolution::Months(_)) => {
                let (first, next) = self.dates(seconds(key).div_euclid(DAY_SECONDS));
                recorded_dates(first, next)
            }
            (Zone::Recorded, Resolution::Seconds(every)) => {
                let start = seconds(key);
                Found::of((start, start + i64::from(every))).span
            }
            (Zone::Named(_), _) => self.find(key, None).span,
        }
    }

    /// When a bucket starts; `offset_minutes` is its oldest sample's own.
    pub(super) fn start(&self, key: i64, offset_minutes: Option<i16>) -> i64 {
        match (self.zone, self.resolution) {
            (Zone::Recorded, Resolution::Days(_) | Resolution::Weeks(_) | Resolution::Months(_)) => {
                key - i64::from(offset_minutes.unwrap_or(0)) * 60_000
            }
            _ => key,
        }
    }

    /// The days of the bucket that `day` lies in: the first, and the first behind.
    fn dates(&self, day: i64) -> (i64, i64) {
        let aligned = |shift: i64, length: u32| {
            let first = day - (day + shift).rem_euclid(i64::from(length));
            (first, first + i64::from(length))
        };
        match self.resolution {
            Resolution::Seconds(_) => (day, day + 1),
            Resolution::Days(days) => aligned(0, days),
            Resolution::Weeks(weeks) => aligned(MONDAY_OFFSET, weeks * 7),
            Resolution::Months(months) => {
                let month = month_of(day);
                let first = month - month.rem_euclid(i64::from(months));
                (first_day(first), first_day(first + i64::from(months)))
            }
        }
    }

    /// Start and end of the days around `time`.
    fn days_of(&self, zone: Tz, time: i64) -> (i64, i64) {
        let (mut first, mut next) = self.dates((time + offset(zone, time)).div_euclid(DAY_SECONDS));
        loop {
            let (start, end) = (midnight(zone, first), midnight(zone, next));
            if time < start {
                (first, next) = self.dates(first - 1);
            } else if time >= end {
                (first, next) = self.dates(next);
            } else {
                return (start, end);
            }
        }
    }
}

impl Found {
    /// A bucket that is the same for all offsets. Seconds.
    fn of((start, end): (i64, i64)) -> Found {
        let (from, to) = (start * 1000, end * 1000);
        Found { span: Span { key: from, from, to }, same: (from, to) }
    }
}

/// Dates on clocks of any offset.
fn recorded_dates(first: i64, next: i64) -> Span {
    Span {
        key: first * DAY_SECONDS * 1000,
        from: (first * DAY_SECONDS - OFFSET_MAX) * 1000,
        to: (next * DAY_SECONDS + OFFSET_MAX) * 1000,
    }
}

/// A clock whose multiples of `every` seconds since midnight begin buckets.
#[derive(Clone, Copy, Debug)]
struct Clock {
    zone: Tz,
    every: i64,
}

impl Clock {
    fn start(self, time: i64) -> i64 {
        let shift = offset(self.zone, time);
        let start = time - (time + shift).rem_euclid(self.every);
        if offset(self.zone, start) == shift {
            return start;
        }
        let change = last_change(self.zone, start, time);
        if self.begins_at(change) { change } else { self.start(change - 1) }
    }

    fn end(self, time: i64) -> i64 {
        let shift = offset(self.zone, time);
        let end = time - (time + shift).rem_euclid(self.every) + self.every;
        if offset(self.zone, end) == shift {
            return end;
        }
        let change = first_change(self.zone, time, end);
        if self.begins_at(change) { change } else { self.end(change) }
    }

    /// Whether the change of the clock at `change` reaches or jumps over a multiple.
    fn begins_at(self, change: i64) -> bool {
        let before = change + offset(self.zone, change - 1);
        let after = change + offset(self.zone, change);
        let jumped = after > before && after.div_euclid(self.every) > (before - 1).div_euclid(self.every);
        jumped || after.rem_euclid(self.every) == 0
    }
}

/// What a zone's clock is ahead of UTC, in seconds.
fn offset(zone: Tz, time: i64) -> i64 {
    if zone == Tz::UTC {
        return 0;
    }
    i64::from(zone.offset_from_utc_datetime(&naive(time)).fix().local_minus_utc())
}

/// The last time in `from+1..=to` with the offset of `to` and another before it.
fn last_change(zone: Tz, from: i64, to: i64) -> i64 {
    let shift = offset(zone, to);
    bisect(from, to, |time| offset(zone, time) == shift)
}

/// The first time in `from+1..=to` with another offset than `from`.
fn first_change(zone: Tz, from: i64, to: i64) -> i64 {
    let shift = offset(zone, from);
    bisect(from, to, |time| offset(zone, time) != shift)
}

/// A time in `from+1..=to` at which `holds` begins to hold; it does at `to`, not at
/// `from`.
fn bisect(mut from: i64, mut to: i64, holds: impl Fn(i64) -> bool) -> i64 {
    while to - from > 1 {
        let middle = from + (to - from) / 2;
        if holds(middle) {
            to = middle;
        } else {
            from = middle;
        }
    }
    to
}

/// When a day begins.
fn midnight(zone: Tz, day: i64) -> i64 {
    let local = day * DAY_SECONDS;
    if zone == Tz::UTC {
        return local;
    }
    let ahead = |offset: &<Tz as TimeZone>::Offset| i64::from(offset.fix().local_minus_utc());
    match zone.offset_from_local_datetime(&naive(local)) {
        MappedLocalTime::Single(offset) => local - ahead(&offset),
        MappedLocalTime::Ambiguous(one, other) => local - ahead(&one).min(ahead(&other)),
        MappedLocalTime::None => {
            let reached = |time: i64| time + offset(zone, time) >= local;
            bisect(local - 2 * OFFSET_MAX, local + 2 * OFFSET_MAX, reached)
        }
    }
}

fn seconds(ms: i64) -> i64 {
    ms.div_euclid(1000).clamp(TIME_MIN, TIME_MAX)
}

fn naive(time: i64) -> NaiveDateTime {
    DateTime::from_timestamp(time, 0).expect("times are clamped to the years 1 to 9999").naive_utc()
}

/// Months from January of the year 0.
fn month_of(day: i64) -> i64 {
    let date = i32::try_from(day + EPOCH_DAYS_CE).ok().and_then(NaiveDate::from_num_days_from_ce_opt);
    let date = date.expect("times are clamped to the years 1 to 9999");
    i64::from(date.year()) * 12 + i64::from(date.month0())
}

fn first_day(month: i64) -> i64 {
    let year = i32::try_from(month.div_euclid(12)).expect("times are clamped to the years 1 to 9999");
    let month = u32::try_from(month.rem_euclid(12) + 1).expect("from 1 to 12");
    let date = NaiveDate::from_ymd_opt(year, month, 1).expect("every month has a first day");
    i64::from(date.num_days_from_ce()) - EPOCH_DAYS_CE
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const ZONES: [&str; 10] = [
        "UTC",
        "Europe/Berlin",
        "America/New_York",
        "Australia/Lord_Howe",
        "Asia/Kathmandu",
        "America/St_Johns",
        "America/Sao_Paulo",
        "Pacific/Apia",
        "Africa/Casablanca",
        "Atlantic/Azores",
    ];

    fn at(text: &str) -> i64 {
        DateTime::parse_from_rfc3339(text).unwrap().timestamp_millis()
    }

    /// The starts of the buckets of a window, as a clock in the zone shows them.
    fn starts(zone: &str, resolution: &str, from: &str, to: &str) -> Vec<String> {
        let calendar =
            Calendar { resolution: Resolution::parse(resolution).unwrap(), zone: Zone::parse(zone).unwrap() };
        let Zone::Named(tz) = calendar.zone else { panic!("a named zone") };
        let (mut time, end) = (at(from), at(to));
        let mut starts = Vec::new();
        while time < end {
            let span = calendar.find(time, None).span;
            let local = tz.from_utc_datetime(&naive(span.from / 1000));
            starts.push(local.format("%d %H:%M%:z").to_string());
            time = span.to;
        }
        starts
    }

    #[test]
    fn berlins_clock_skips_an_hour_in_march_and_shows_one_twice_in_october() {
        let march = ("2026-03-29T00:30:00Z", "2026-03-29T02:00:00Z");
        assert_eq!(starts("Europe/Berlin", "1h", march.0, march.1), ["29 01:00+01:00", "29 03:00+02:00"],);
        let october = ("2026-10-25T00:00:00Z", "2026-10-25T03:00:00Z");
        assert_eq!(
            starts("Europe/Berlin", "1h", october.0, october.1),
            ["25 02:00+02:00", "25 02:00+01:00", "25 03:00+01:00"],
        );
        assert_eq!(
            starts("Europe/Berlin", "PT30M", october.0, "2026-10-25T02:00:00Z"),
            ["25 02:00+02:00", "25 02:30+02:00", "25 02:00+01:00", "25 02:30+01:00"],
        );
        // Six hours of the wall clock, of which the first take seven.
        assert_eq!(
            starts("Europe/Berlin", "PT6H", "2026-10-24T22:00:00Z", "2026-10-25T22:00:00Z"),
            ["25 00:00+02:00", "25 06:00+01:00", "25 12:00+01:00", "25 18:00+01:00"],
        );
        // The clock jumps over 02:00, where two hours would begin.
        assert_eq!(
            starts("Europe/Berlin", "PT2H", "2026-03-28T23:00:00Z", "2026-03-29T04:00:00Z"),
            ["29 00:00+01:00", "29 03:00+02:00", "29 04:00+02:00"],
        );
    }

    #[test]
    fn days_have_23_to_25_hours() {
        let hours = |zone: &str, time: &str| {
            let zone = Zone::parse(zone).unwrap();
            let span = Calendar { resolution: Resolution::Days(1), zone }.find(at(time), None).span;
            (span.to - span.from) as f64 / 3_600_000.0
        };
        for (zone, time, expected) in [
            ("Europe/Berlin", "2026-03-29T12:00:00Z", 23.0),
            ("Europe/Berlin", "2026-10-25T12:00:00Z", 25.0),
            ("Europe/Berlin", "2026-06-30T12:00:00Z", 24.0),
            ("America/New_York", "2026-03-08T18:00:00Z", 23.0),
            ("America/New_York", "2026-11-01T18:00:00Z", 25.0),
            ("Australia/Lord_Howe", "2026-04-05T01:00:00Z", 24.5),
            ("Australia/Lord_Howe", "2026-10-04T01:00:00Z", 23.5),
            ("Asia/Kathmandu", "2026-06-30T12:00:00Z", 24.0),
            // Its clock jumped from midnight to one o'clock.
            ("America/Sao_Paulo", "2018-11-04T12:00:00Z", 23.0),
            // It went from midnight back to eleven.
            ("America/Sao_Paulo", "2018-02-17T12:00:00Z", 25.0),
            // The day before was left out altogether.
            ("Pacific/Apia", "2011-12-30T12:00:00Z", 24.0),
            // At one past midnight the clock went back to eleven: midnight came twice.
            ("America/St_Johns", "2005-10-29T12:00:00Z", 25.0),
        ] {
            assert_eq!(hours(zone, time), expected, "{zone} {time}");
        }
    }

    #[test]
    fn half_hours_and_quarters_of_offset_keep_the_wall_clock() {
        assert_eq!(
            starts("Asia/Kathmandu", "1h", "2026-06-30T00:00:00Z", "2026-06-30T02:00:00Z"),
            ["30 05:00+05:45", "30 06:00+05:45", "30 07:00+05:45"],
        );
        // 02:00 at +11:00 is put back to 01:30 at +10:30: that hour takes 90 minutes.
        let april = ("2026-04-04T14:00:00Z", "2026-04-04T16:30:00Z");
        assert_eq!(
            starts("Australia/Lord_Howe", "1h", april.0, april.1),
            ["05 01:00+11:00", "05 02:00+10:30", "05 03:00+10:30"][..2],
        );
        assert_eq!(
            starts("Australia/Lord_Howe", "15m", "2026-04-04T14:30:00Z", "2026-04-04T15:30:00Z"),
            ["05 01:30+11:00", "05 01:45+11:00", "05 01:30+10:30", "05 01:45+10:30"],
        );
        // 02:00 at +10:30 becomes 02:30 at +11:00.
        assert_eq!(
            starts("Australia/Lord_Howe", "1h", "2026-10-03T14:30:00Z", "2026-10-03T17:00:00Z"),
            ["04 01:00+10:30", "04 02:30+11:00", "04 03:00+11:00"],
        );
    }

    #[test]
    fn weeks_begin_on_monday_and_months_on_their_first() {
        let zone = "Europe/Berlin";
        assert_eq!(
            starts(zone, "1w", "2026-06-30T12:00:00Z", "2026-07-07T12:00:00Z"),
            ["29 00:00+02:00", "06 00:00+02:00"]
        );
        assert_eq!(
            starts(zone, "P1M", "2026-02-15T00:00:00Z", "2026-04-15T00:00:00Z"),
            ["01 00:00+01:00", "01 00:00+01:00", "01 00:00+02:00"]
        );
        let quarter = Calendar { resolution: Resolution::Months(3), zone: Zone::UTC };
        let span = quarter.find(at("2026-06-30T07:45:00Z"), None).span;
        assert_eq!((span.from, span.to), (at("2026-04-01T00:00:00Z"), at("2026-07-01T00:00:00Z")));
        let two_days = Calendar { resolution: Resolution::Days(2), zone: Zone::UTC };
        assert_eq!(two_days.find(-1, None).span.from, -2 * 86_400_000);
    }

    #[test]
    fn recorded_days_go_by_the_wearers_date() {
        let calendar = Calendar { resolution: Resolution::Days(1), zone: Zone::Recorded };
        // The same evening in Berlin, the next morning in Auckland.
        let time = at("2026-06-30T21:00:00Z");
        let berlin = calendar.find(time, Some(120));
        let auckland = calendar.find(time, Some(720));
        assert_eq!(berlin.span.key, at("2026-06-30T00:00:00Z"));
        assert_eq!(auckland.span.key, at("2026-07-01T00:00:00Z"));
        assert_eq!(calendar.start(berlin.span.key, Some(120)), at("2026-06-29T22:00:00Z"));
        assert_eq!(calendar.find(time, None), calendar.find(time, Some(0)));
        let hours = Calendar { resolution: Resolution::Seconds(3600), zone: Zone::Recorded };
        assert_eq!(hours.find(time, Some(345)).span.key, at("2026-06-30T20:15:00Z"));
    }

    #[test]
    fn times_that_no_cursor_should_have_are_survived() {
        for resolution in ["1m", "1d", "P2W", "P100Y"] {
            for zone in ["UTC", "Europe/Berlin", "recorded"] {
                let resolution = Resolution::parse(resolution).unwrap();
                let calendar = Calendar { resolution, zone: Zone::parse(zone).unwrap() };
                for time in [i64::MIN, i64::MAX, 0] {
                    calendar.find(time, Some(i16::MAX));
                    calendar.span(time);
                }
            }
        }
    }

    fn calendars() -> impl Strategy<Value = Calendar> {
        let resolutions =
            ["1m", "15m", "PT20M", "1h", "PT2H", "PT6H", "PT8H", "PT12H", "1d", "P3D", "1w", "P1M", "P1Y"];
        (prop::sample::select(ZONES.to_vec()), prop::sample::select(resolutions.to_vec())).prop_map(
            |(zone, resolution)| Calendar {
                resolution: Resolution::parse(resolution).unwrap(),
                zone: Zone::parse(zone).unwrap(),
            },
        )
    }

    /// Times around a change of a zone's clock, if it has one in the year, in seconds.
    fn around_changes() -> impl Strategy<Value = i64> {
        (1950..2035i64, 0..366i64 * 1440)
            .prop_map(|(year, minute)| (first_day(year * 12) * 1440 + minute) * 60)
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(2000))]

        #[test]
        fn buckets_join_and_hold_every_time_once(calendar in calendars(), time in around_changes()) {
            let found = calendar.find(time * 1000, None);
            let Span { key, from, to } = found.span;
            prop_assert!(key == from && from <= time * 1000 && time * 1000 < to);
            prop_assert_eq!(calendar.find(from, None), found);
            prop_assert_eq!(calendar.find(to - 1, None), found);
            prop_assert_eq!(calendar.find(to, None).span.from, to);
            prop_assert_eq!(calendar.span(key), found.span);
        }

        /// Minute by minute, as the rule at the top of this file says it.
        #[test]
        fn hours_begin_where_the_wall_clock_reaches_or_jumps_over_them(
            zone in prop::sample::select(ZONES.to_vec()),
            every in prop::sample::select(vec![15i64, 20, 60, 120, 360, 720]),
            month in 0..240i64,
            minute in 0..31 * 1440i64,
        ) {
            let Some(Zone::Named(tz)) = Zone::parse(zone) else { unreachable!() };
            let wall = |minute: i64| minute + offset(tz, minute * 60).div_euclid(60);
            let begins = |minute: i64| {
                let (before, now) = (wall(minute - 1) + 1, wall(minute));
                now % every == 0 || now > before && (before..=now).any(|shown| shown % every == 0)
            };
            let minute = first_day(2010 * 12 + month) * 1440 + minute;
            let start = (0..).map(|back| minute - back).find(|minute| begins(*minute)).unwrap();
            let end = (1..).map(|ahead| minute + ahead).find(|minute| begins(*minute)).unwrap();
            let resolution = Resolution::Seconds(u32::try_from(every * 60).unwrap());
            let found = Calendar { resolution, zone: Zone::Named(tz) }.find(minute * 60_000, None);
            prop_assert_eq!(found.same, (start * 60_000, end * 60_000));
        }
    }
}
