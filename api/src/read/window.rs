//! Which time a question is about.

use std::time::{SystemTime, UNIX_EPOCH};

use systole_engine::timestamp::parse_rfc3339;

use crate::error::{Entry, Quoted, Refusal};
use crate::route::Query;

/// The window of a question that does not say.
const DEFAULT_DAYS: f64 = 30.0;
/// The longest window in days: a century.
const DAYS_MAX: f64 = 36_500.0;
const DAY_MS: f64 = 86_400_000.0;
/// 1900-01-01, before which no sample lies.
const EARLIEST_MS: i64 = -2_208_988_800_000;
/// A day and a minute: samples may lie 24 h ahead of our clock, and what was
/// acknowledged must show in a window that names no end.
const AHEAD_MS: i64 = 86_460_000;

/// `[start, end)` in milliseconds, and how it was asked for.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Window {
    pub(super) start: i64,
    pub(super) end: i64,
    pub(super) asked: Asked,
}

/// The question's own words: the same on every page, while `days` moves on.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Asked {
    Days(f64),
    Span { start: Option<i64>, end: Option<i64> },
}

impl Window {
    pub(super) fn of(query: &Query) -> Result<Window, Refusal> {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let now = i64::try_from(now.as_millis()).unwrap_or(i64::MAX - AHEAD_MS);
        let (start, end) = (instant(query, "start")?, instant(query, "end")?);
        if start.is_none() && end.is_none() {
            let days = days(query)?;
            let start = now - (days * DAY_MS) as i64;
            return Ok(Window { start, end: now + AHEAD_MS, asked: Asked::Days(days) });
        }
        if query.get("days").is_some() {
            let message = "cannot be combined with start or end";
            return Err(Refusal::invalid(Entry::query("days", "conflict", message)));
        }
        let window = Window {
            start: start.unwrap_or(EARLIEST_MS),
            end: end.unwrap_or(now + AHEAD_MS),
            asked: Asked::Span { start, end },
        };
        if let (Some(start), Some(end)) = (start, end)
            && start > end
        {
            return Err(Refusal::invalid(Entry::query("end", "out_of_range", "lies before start")));
        }
        Ok(window)
    }
}

impl Window {
    /// `start` and `end`, both of which must be there.
    pub(crate) fn span(query: &Query) -> Result<(i64, i64), Refusal> {
        let needed = |name: &'static str| {
            let missing = || Refusal::invalid(Entry::query(name, "missing", "is needed"));
            instant(query, name)?.ok_or_else(missing)
        };
        let (start, end) = (needed("start")?, needed("end")?);
        if start >= end {
            return Err(Refusal::invalid(Entry::query("end", "out_of_range", "must lie behind start")));
        }
        Ok((start, end))
    }
}

fn days(query: &Query) -> Result<f64, Refusal> {
    let Some(text) = query.get("days") else { return Ok(DEFAULT_DAYS) };
    match text.parse::<f64>() {
        Ok(days) if days > 0.0 && days <= DAYS_MAX => Ok(days),
        _ => {
            let message = format!("must be a number above 0 and at most {DAYS_MAX}, not {}", Quoted(text));
            Err(Refusal::invalid(Entry::query("days", "out_of_range", message)))
        }
    }
}

/// A parameter that is a time, in milliseconds since 1970.
pub(crate) fn instant(query: &Query, name: &'static str) -> Result<Option<i64>, Refusal> {
    let Some(text) = query.get(name) else { return Ok(None) };
    let instant = parse_rfc3339(&repair_plus(text)).map_err(|fault| {
        let message = format!("must be an RFC 3339 time with an offset: {fault}");
        Refusal::invalid(Entry::query(name, "malformed", message))
    })?;
    Ok(Some(instant.ms))
}

/// In a query a bare `+` means a space: `...T00:00:00+02:00` arrives with one
/// where its sign stood, and there it can mean nothing else.
fn repair_plus(text: &str) -> String {
    let sign_at = text.len().saturating_sub("+02:00".len());
    match text.as_bytes().get(sign_at) {
        Some(b' ') if sign_at > "2026-06-30T".len() => {
            format!("{}+{}", &text[..sign_at], &text[sign_at + 1..])
        }
        _ => text.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn window(query: &str) -> Result<Window, Refusal> {
        Window::of(&Query::parse(Some(query)).unwrap())
    }

    #[test]
    fn a_window_is_days_back_or_a_half_open_span() {
        let days = window("days=2").unwrap();
        assert_eq!(days.end - days.start, 2 * 86_400_000 + AHEAD_MS);
        let span = window("start=2026-01-01T00:00:00Z&end=2026-01-02T00:00:00+02:00").unwrap();
        assert_eq!(span.end - span.start, 22 * 3_600_000);
        let encoded = window("start=2026-01-01T00:00:00Z&end=2026-01-02T00:00:00%2B02:00").unwrap();
        assert_eq!(encoded, span);
        assert_eq!(window("end=2026-01-02T00:00:00Z").unwrap().start, EARLIEST_MS);
    }

    #[test]
    fn a_window_that_cannot_be_is_refused() {
        for query in [
            "days=0",
            "days=-1",
            "days=36501",
            "days=NaN",
            "days=x",
            "start=yesterday",
            "start=2026-01-01",
            "start=2026-01-01T00:00:00",
            "days=1&start=2026-01-01T00:00:00Z",
            "start=2026-01-02T00:00:00Z&end=2026-01-01T00:00:00Z",
        ] {
            assert!(window(query).is_err(), "{query}");
        }
    }
}
