//! How a single value is read and printed.

use std::time::Duration;

use toml::Value;

const UNITS: [(&str, usize); 3] = [("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10)];

/// A whole number, from TOML or from text.
pub(super) fn count(value: &Value) -> Result<usize, String> {
    match value {
        Value::Integer(number) => usize::try_from(*number).ok(),
        Value::String(text) => text.trim().parse().ok(),
        _ => None,
    }
    .ok_or_else(|| format!("must be a whole number, not {}", show(value)))
}

/// Bytes: a whole number, or text such as `16 MiB`.
pub(super) fn size(value: &Value) -> Result<usize, String> {
    let bytes = match value {
        Value::String(text) => size_of_text(text.trim()),
        value => count(value).ok(),
    };
    bytes
        .ok_or_else(|| format!("must be a number of bytes or a text such as \"16 MiB\", not {}", show(value)))
}

fn size_of_text(text: &str) -> Option<usize> {
    for (unit, bytes) in UNITS {
        if let Some(number) = text.strip_suffix(unit) {
            return number.trim().parse::<usize>().ok()?.checked_mul(bytes);
        }
    }
    text.parse().ok()
}

/// Seconds, not less than a millisecond.
pub(super) fn seconds(value: &Value) -> Result<Duration, String> {
    let number = match value {
        Value::Integer(number) => Some(*number as f64),
        Value::Float(number) => Some(*number),
        Value::String(text) => text.trim().parse().ok(),
        _ => None,
    };
    number
        .filter(|seconds| (0.001..=1e9).contains(seconds))
        .map(Duration::from_secs_f64)
        .ok_or_else(|| format!("must be a number of seconds from 0.001 up, not {}", show(value)))
}

/// Bytes in the largest unit that divides them.
pub(super) fn print_size(bytes: usize) -> String {
    UNITS
        .iter()
        .find(|(_, unit)| bytes > 0 && bytes.is_multiple_of(*unit))
        .map_or_else(|| bytes.to_string(), |(name, unit)| format!("{} {name}", bytes / unit))
}

/// A value as a fault shows it.
pub(super) fn show(value: &Value) -> String {
    match value {
        Value::String(text) => format!("{text:?}"),
        Value::Integer(number) => number.to_string(),
        Value::Float(number) => number.to_string(),
        Value::Boolean(flag) => flag.to_string(),
        Value::Datetime(_) => "a date".to_owned(),
        Value::Array(_) => "a list".to_owned(),
        Value::Table(_) => "a table".to_owned(),
    }
}
