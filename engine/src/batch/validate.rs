//! The rules that every point obeys before it may enter a frame.
//!
//! In two halves. What a point names (user, metric, unit, source, device) is
//! checked once per spelling and request; what it measures (value and times) is
//! checked for each point. The first fault found is the one reported, names
//! first, so that the answer does not depend on what else the request holds.

use systole_storage::frame::{DAILY_FALSE, DAILY_TRUE, DAILY_UNKNOWN, ENDED_NONE, ZONE_UNKNOWN};

use super::Point;
use super::fault::{Advice, Fault, FaultKind, Number, Quoted};
use crate::registry::{Metric, MetricId, Registry, Scale};
use crate::timestamp::{Dates, TimestampFault, parse_offset, write_rfc3339};

/// Longest user id in bytes; its characters are ASCII.
const USER_BYTES_MAX: usize = 128;
/// Longest source in characters.
const SOURCE_CHARS_MAX: usize = 64;
/// Longest device in characters.
const DEVICE_CHARS_MAX: usize = 128;
/// 1900-01-01T00:00:00Z: before it no wearable existed, and a clock that was
/// never set does not reach it.
const RECORDED_MS_MIN: i64 = -2_208_988_800_000;
/// How far `recorded_at` may be ahead of the clock: a day total may be stamped
/// with the end of a day that has just begun in the east.
const AHEAD_MS_MAX: i64 = 24 * 60 * 60 * 1000;

/// What a point's value has to go through.
#[derive(Clone, Copy, Debug)]
pub(super) struct Rule {
    scale: Scale,
    hard_min: f64,
    hard_max: f64,
}

/// A point's measured half, as the columns hold it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Row {
    pub(super) recorded_at: i64,
    pub(super) value: f64,
    pub(super) zone: i16,
    pub(super) ended_at: i64,
    pub(super) daily: u8,
}

/// Checks what a point names.
pub(super) fn names<'r>(
    registry: &'r Registry,
    point: &Point<'_>,
    advice: &mut Advice,
) -> Result<(MetricId, &'r Metric, Rule), Fault> {
    let Some((id, metric)) = registry.resolve(point.metric) else {
        return Err(advice.unknown_metric(registry, point.metric));
    };
    let scale = metric.scale(point.unit).ok_or_else(|| unknown_unit(metric, point.unit))?;
    check_user(point.user)?;
    check_text("source", FaultKind::SourceMalformed, point.source, SOURCE_CHARS_MAX)?;
    if let Some(device) = point.device {
        check_text("source_device_id", FaultKind::DeviceMalformed, device, DEVICE_CHARS_MAX)?;
    }
    Ok((id, metric, Rule { scale, hard_min: metric.hard_min, hard_max: metric.hard_max }))
}

/// Checks what a point measures.
#[inline]
pub(super) fn row(
    registry: &Registry,
    rule: &Rule,
    point: &Point<'_>,
    now_ms: i64,
    dates: &mut Dates,
) -> Result<Row, Fault> {
    let value = rule.scale.apply(point.value);
    if !(rule.hard_min <= value && value <= rule.hard_max) {
        return Err(value_fault(registry, point, value));
    }
    let recorded =
        dates.parse(point.recorded_at).map_err(|fault| recorded_fault(point.recorded_at, fault))?;
    let latest = now_ms.saturating_add(AHEAD_MS_MAX);
    if !(RECORDED_MS_MIN..=latest).contains(&recorded.ms) {
        return Err(time_range_fault(recorded.ms, latest));
    }
    let zone = match point.zone_offset {
        None => recorded.offset_minutes,
        Some(text) => zone(text)?.or(recorded.offset_minutes),
    };
    let ended_at = match point.ended_at {
        None => ENDED_NONE,
        Some(text) => ended(text, recorded.ms, dates)?,
    };
    let daily = match point.is_daily_total {
        None => DAILY_UNKNOWN,
        Some(false) => DAILY_FALSE,
        Some(true) => DAILY_TRUE,
    };
    Ok(Row { recorded_at: recorded.ms, value, zone: zone.unwrap_or(ZONE_UNKNOWN), ended_at, daily })
}

fn check_user(user: &str) -> Result<(), Fault> {
    let fits = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_' | b':' | b'@' | b'-');
    if !user.is_empty() && user.len() <= USER_BYTES_MAX && user.bytes().all(fits) {
        return Ok(());
    }
    Err(Fault::new(
        "user_id",
        FaultKind::UserIdMalformed,
        format_args!(
            "user_id is {}, allowed are 1 to {USER_BYTES_MAX} characters of A-Z a-z 0-9 . _ : @ -",
            Quoted(user)
        ),
    ))
}

fn check_text(field: &'static str, kind: FaultKind, text: &str, chars_max: usize) -> Result<(), Fault> {
    // Four bytes a character is the most there is, so a long text is refused
    // without reading it.
    let short = !text.is_empty() && text.len() <= chars_max * 4 && text.chars().count() <= chars_max;
    if short && text.chars().all(is_printable) {
        return Ok(());
    }
    Err(Fault::new(
        field,
        kind,
        format_args!("{field} is {}, allowed are 1 to {chars_max} printable characters", Quoted(text)),
    ))
}

/// Whether a character may stand in a name that people read: no controls, no
/// line or paragraph separators, nothing that turns the direction of the text
/// around it, no byte order mark and no code that is no character. Non-breaking
/// spaces and joiners may: devices are called `Apple\u{a0}Watch`.
fn is_printable(character: char) -> bool {
    let code = u32::from(character);
    let noncharacter = code & 0xFFFE == 0xFFFE || (0xFDD0..=0xFDEF).contains(&code);
    !noncharacter
        && !character.is_control()
        && !matches!(character, '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}' | '\u{feff}' | '\u{fff9}'..='\u{fffb}')
}

fn zone(text: &str) -> Result<Option<i16>, Fault> {
    match parse_offset(text) {
        Ok(minutes) => Ok(Some(minutes)),
        Err(TimestampFault::OffsetUnknown) => Ok(None),
        Err(_) => Err(Fault::new(
            "zone_offset",
            FaultKind::ZoneOffsetMalformed,
            format_args!("zone_offset is {}, expected the form +02:00, from -23:59 to +23:59", Quoted(text)),
        )),
    }
}

fn ended(text: &str, recorded_ms: i64, dates: &mut Dates) -> Result<i64, Fault> {
    let ended = dates.parse(text).map_err(|fault| {
        Fault::new("ended_at", FaultKind::EndedAtMalformed, format_args!("ended_at {} {fault}", Quoted(text)))
    })?;
    if ended.ms < recorded_ms {
        return Err(Fault::new(
            "ended_at",
            FaultKind::EndedBeforeRecorded,
            format_args!("ended_at is {}, before recorded_at, {}", utc(ended.ms), utc(recorded_ms)),
        ));
    }
    Ok(ended.ms)
}

#[cold]
fn unknown_unit(metric: &Metric, unit: &str) -> Fault {
    let accepted = metric.units().collect::<Vec<_>>().join(", ");
    Fault::new(
        "unit",
        FaultKind::UnknownUnit,
        format_args!("unknown unit {} for {}; accepted: {accepted}", Quoted(unit), metric.key),
    )
}

#[cold]
fn value_fault(registry: &Registry, point: &Point<'_>, value: f64) -> Fault {
    let (_, metric) = registry.resolve(point.metric).expect("the names of the point were checked");
    let Metric { key, unit, hard_min, hard_max, .. } = metric;
    if !point.value.is_finite() {
        return Fault::new(
            "value",
            FaultKind::NotFinite,
            format_args!("{key} is {}, expected a finite number", Number(point.value)),
        );
    }
    let allowed = format!("allowed are {} to {} {unit}", Number(*hard_min), Number(*hard_max));
    let kind = FaultKind::OutOfRange;
    if metric.scale(point.unit) == Some(Scale::SAME) {
        return Fault::new("value", kind, format_args!("{key} is {} {unit}, {allowed}", Number(value)));
    }
    let sent = (Number(point.value), point.unit);
    Fault::new(
        "value",
        kind,
        format_args!("{key} is {} {unit} (sent as {} {}), {allowed}", Number(value), sent.0, sent.1),
    )
}

#[cold]
fn recorded_fault(text: &str, fault: TimestampFault) -> Fault {
    let kind = match fault {
        TimestampFault::OffsetMissing => FaultKind::TimestampOffsetMissing,
        _ => FaultKind::TimestampMalformed,
    };
    Fault::new("recorded_at", kind, format_args!("recorded_at {} {fault}", Quoted(text)))
}

#[cold]
fn time_range_fault(ms: i64, latest: i64) -> Fault {
    Fault::new(
        "recorded_at",
        FaultKind::TimestampOutOfRange,
        format_args!(
            "recorded_at is {}, allowed are {} to {}, 24 h ahead of the server's clock",
            utc(ms),
            utc(RECORDED_MS_MIN),
            utc(latest)
        ),
    )
}

fn utc(ms: i64) -> String {
    let mut text = Vec::new();
    write_rfc3339(ms, &mut text);
    String::from_utf8(text).expect("timestamps are ASCII")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_people_and_devices_are_printable() {
        for (character, expected) in [
            ('a', true),
            (' ', true),
            ('~', true),
            ('é', true),
            ('\u{301}', true),
            ('\u{a0}', true),
            ('\u{200d}', true),
            ('⌚', true),
            ('\u{2019}', true),
            ('\0', false),
            ('\n', false),
            ('\t', false),
            ('\u{7f}', false),
            ('\u{85}', false),
            ('\u{2028}', false),
            ('\u{202e}', false),
            ('\u{2066}', false),
            ('\u{feff}', false),
            ('\u{fdd0}', false),
            ('\u{1ffff}', false),
        ] {
            assert_eq!(is_printable(character), expected, "{character:?}");
        }
    }

    #[test]
    fn the_earliest_time_is_the_start_of_1900() {
        assert_eq!(utc(RECORDED_MS_MIN), "1900-01-01T00:00:00Z");
    }
}
