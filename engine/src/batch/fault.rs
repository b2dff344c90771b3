//! Why a point is refused, in words for the person who sent it.

use std::fmt;

use crate::registry::Registry;

/// How many distinct unknown metrics of a request are compared with the known
/// ones. A comparison costs as much as some thousand points, and a sender who
/// has that many names wrong needs the list of metrics.
const NEAREST_PER_REQUEST_MAX: u32 = 16;
/// Longest piece of a sent text that a message repeats, in characters.
const QUOTED_CHARS_MAX: usize = 48;

/// Why a point is refused. The message may repeat the sent value: it is an
/// answer to the sender and does not belong into a log.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct Fault {
    /// The field as the API names it.
    pub field: &'static str,
    /// The cause.
    pub kind: FaultKind,
    /// What is wrong and what would be right.
    pub message: String,
}

impl Fault {
    #[cold]
    pub(super) fn new(field: &'static str, kind: FaultKind, message: fmt::Arguments<'_>) -> Fault {
        Fault { field, kind, message: message.to_string() }
    }
}

/// The causes. Their names are part of the API and do not change.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum FaultKind {
    /// No metric has this key or alias.
    UnknownMetric,
    /// The metric does not know this unit.
    UnknownUnit,
    /// The value lies outside the metric's hard bounds.
    OutOfRange,
    /// The value is infinite or no number.
    NotFinite,
    /// `recorded_at` cannot be read.
    TimestampMalformed,
    /// `recorded_at` has no offset from UTC.
    TimestampOffsetMissing,
    /// `recorded_at` lies before 1900 or too far ahead.
    TimestampOutOfRange,
    /// The user id has a length or a character it must not have.
    UserIdMalformed,
    /// The source has a length or a character it must not have.
    SourceMalformed,
    /// The device has a length or a character it must not have.
    DeviceMalformed,
    /// `zone_offset` cannot be read.
    ZoneOffsetMalformed,
    /// `ended_at` cannot be read.
    EndedAtMalformed,
    /// `ended_at` lies before `recorded_at`.
    EndedBeforeRecorded,
    /// The user was erased and is blocked.
    UserErased,
}

impl FaultKind {
    /// All of them, for the API's description.
    pub const ALL: [FaultKind; 14] = [
        FaultKind::UnknownMetric,
        FaultKind::UnknownUnit,
        FaultKind::OutOfRange,
        FaultKind::NotFinite,
        FaultKind::TimestampMalformed,
        FaultKind::TimestampOffsetMissing,
        FaultKind::TimestampOutOfRange,
        FaultKind::UserIdMalformed,
        FaultKind::SourceMalformed,
        FaultKind::DeviceMalformed,
        FaultKind::ZoneOffsetMalformed,
        FaultKind::EndedAtMalformed,
        FaultKind::EndedBeforeRecorded,
        FaultKind::UserErased,
    ];

    /// The `type` in the API's answers.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            FaultKind::UnknownMetric => "unknown_metric",
            FaultKind::UnknownUnit => "unknown_unit",
            FaultKind::OutOfRange => "out_of_range",
            FaultKind::NotFinite => "not_finite",
            FaultKind::TimestampMalformed => "timestamp_malformed",
            FaultKind::TimestampOffsetMissing => "timestamp_offset_missing",
            FaultKind::TimestampOutOfRange => "timestamp_out_of_range",
            FaultKind::UserIdMalformed => "user_id_malformed",
            FaultKind::SourceMalformed => "source_malformed",
            FaultKind::DeviceMalformed => "device_malformed",
            FaultKind::ZoneOffsetMalformed => "zone_offset_malformed",
            FaultKind::EndedAtMalformed => "ended_at_malformed",
            FaultKind::EndedBeforeRecorded => "ended_before_recorded",
            FaultKind::UserErased => "user_erased",
        }
    }
}

/// Finds the metrics that unknown names of a request may have meant. A sender
/// who misspells a name does so in every point, so the last answer is kept.
#[derive(Debug, Default)]
pub(super) struct Advice {
    name: String,
    nearest: String,
    searches: u32,
}

impl Advice {
    pub(super) fn clear(&mut self) {
        *self = Advice::default();
    }

    /// The fault of a point whose metric nobody knows.
    #[cold]
    pub(super) fn unknown_metric(&mut self, registry: &Registry, name: &str) -> Fault {
        let nearest = self.nearest(registry, name);
        let advice = if nearest.is_empty() { "; GET /api/v1/metrics lists all" } else { "; nearest: " };
        let message = format_args!("unknown metric {}{advice}{nearest}", Quoted(name));
        Fault::new("metric", FaultKind::UnknownMetric, message)
    }

    fn nearest(&mut self, registry: &Registry, name: &str) -> &str {
        if self.searches > 0 && self.name == name {
            return &self.nearest;
        }
        if self.searches == NEAREST_PER_REQUEST_MAX {
            return "";
        }
        self.searches += 1;
        name.clone_into(&mut self.name);
        self.nearest = registry.nearest(name).join(", ");
        &self.nearest
    }
}

/// A sent text in quotes, without control characters and not longer than a
/// person would read.
pub(super) struct Quoted<'a>(pub(super) &'a str);

impl fmt::Display for Quoted<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0.char_indices().nth(QUOTED_CHARS_MAX) {
            None => write!(f, "{:?}", self.0),
            Some((end, _)) => write!(f, "{:?} (cut)", &self.0[..end]),
        }
    }
}

/// A number as people write it; with an exponent only where digits would fill
/// the line.
pub(super) struct Number(pub(super) f64);

impl fmt::Display for Number {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let size = self.0.abs();
        if size == 0.0 || !size.is_finite() || (1e-6..1e15).contains(&size) {
            write!(f, "{}", self.0)
        } else {
            write!(f, "{:e}", self.0)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_kinds_are_distinct_snake_case() {
        let names = FaultKind::ALL.map(FaultKind::as_str);
        for (index, name) in names.iter().enumerate() {
            assert!(name.bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'_'), "{name}");
            assert!(!names[..index].contains(name), "{name}");
        }
    }

    #[test]
    fn quoted_texts_are_short_and_printable() {
        for (text, expected) in [
            ("°C", r#""°C""#.to_owned()),
            ("a\"\n\u{202e}", r#""a\"\n\u{202e}""#.to_owned()),
            (&"é".repeat(48), format!("\"{}\"", "é".repeat(48))),
            (&"é".repeat(49), format!("\"{}\" (cut)", "é".repeat(48))),
        ] {
            assert_eq!(Quoted(text).to_string(), expected);
        }
    }

    #[test]
    fn numbers_fit_on_a_line() {
        for (number, expected) in [
            (512.0, "512"),
            (36.6, "36.6"),
            (-0.5, "-0.5"),
            (0.0, "0"),
            (1e6, "1000000"),
            (1e300, "1e300"),
            (2.5e-9, "2.5e-9"),
            (f64::INFINITY, "inf"),
            (f64::NAN, "NaN"),
        ] {
            assert_eq!(Number(number).to_string(), expected);
        }
    }
}
