//! Printing samples in AVYCENNA's shape, by hand into bytes.

use systole_engine::timestamp::{write_offset, write_rfc3339};
use systole_engine::{Position, SampleChunk, SampleRow};

use super::cursor::Cursor;

/// One answer of `/metric/{metric}` as it is printed.
pub(super) struct Page {
    metric: String,
    unit: String,
    /// Samples this page may still print; `None` without a `limit`.
    left: Option<usize>,
    /// The last sample that a limited page printed.
    last: Option<Position>,
    /// There was at least one sample behind the last.
    more: bool,
    printed_any: bool,
    /// Everything of the cursor but its position.
    cursor: Cursor,
}

impl Page {
    pub(super) fn new(metric: &str, unit: &str, limit: Option<usize>, cursor: Cursor) -> Page {
        Page {
            metric: metric.to_owned(),
            unit: unit.to_owned(),
            left: limit,
            last: None,
            more: false,
            printed_any: false,
            cursor,
        }
    }

    pub(super) fn head(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(b"{\"metric\":");
        put_text(out, &self.metric);
        out.extend_from_slice(b",\"unit\":");
        put_text(out, &self.unit);
        out.extend_from_slice(b",\"data_points\":[");
    }

    /// Prints up to `rows_max` rows of `chunk` from row `from` on and returns the
    /// row to go on with.
    pub(super) fn rows(
        &mut self,
        chunk: &SampleChunk,
        from: usize,
        rows_max: usize,
        out: &mut Vec<u8>,
    ) -> usize {
        let end = chunk.len().min(from.saturating_add(rows_max));
        for index in from..end {
            let row = chunk.row(index);
            match &mut self.left {
                None => {}
                Some(0) => {
                    self.more = true;
                    return chunk.len();
                }
                Some(left) => {
                    *left -= 1;
                    if *left == 0 {
                        self.last = Some(position(&row));
                    }
                }
            }
            if self.printed_any {
                out.push(b',');
            }
            self.printed_any = true;
            put_sample(out, &row);
        }
        end
    }

    /// Whether nothing more is to be printed but the end.
    pub(super) fn is_full(&self) -> bool {
        self.more
    }

    pub(super) fn tail(&mut self, out: &mut Vec<u8>) {
        out.push(b']');
        if let (true, Some(after)) = (self.more, self.last.take()) {
            self.cursor.after = after;
            out.extend_from_slice(b",\"next_cursor\":\"");
            out.extend_from_slice(self.cursor.encode().as_bytes());
            out.push(b'"');
        }
        out.push(b'}');
    }
}

fn position(row: &SampleRow<'_>) -> Position {
    Position {
        recorded_at: row.recorded_at,
        source: row.source.to_owned(),
        device: row.device.map(str::to_owned),
    }
}

fn put_sample(out: &mut Vec<u8>, row: &SampleRow<'_>) {
    out.extend_from_slice(b"{\"value\":");
    put_number(out, row.value);
    out.extend_from_slice(b",\"recorded_at\":");
    put_time(out, row.recorded_at);
    out.extend_from_slice(b",\"source\":");
    put_text(out, row.source);
    put_optional(out, row);
    out.push(b'}');
}

/// The fields that not every sample has.
pub(super) fn put_optional(out: &mut Vec<u8>, row: &SampleRow<'_>) {
    if let Some(device) = row.device {
        out.extend_from_slice(b",\"source_device_id\":");
        put_text(out, device);
    }
    if let Some(minutes) = row.zone_minutes {
        out.extend_from_slice(b",\"zone_offset\":\"");
        write_offset(minutes, out);
        out.push(b'"');
    }
    if let Some(ended_at) = row.ended_at {
        out.extend_from_slice(b",\"ended_at\":");
        put_time(out, ended_at);
    }
    if let Some(daily) = row.is_daily_total {
        out.extend_from_slice(b",\"is_daily_total\":");
        out.extend_from_slice(if daily { b"true" } else { b"false" });
    }
}

/// A number as JSON; whole ones print as `62.0`.
pub(super) fn put_number(out: &mut Vec<u8>, number: f64) {
    out.extend_from_slice(zmij::Buffer::new().format_finite(number).as_bytes());
}

pub(super) fn put_time(out: &mut Vec<u8>, ms: i64) {
    out.push(b'"');
    write_rfc3339(ms, out);
    out.push(b'"');
}

/// A text as JSON, quotes included.
pub(super) fn put_text(out: &mut Vec<u8>, text: &str) {
    serde_json::to_writer(out, text).expect("writing to memory cannot fail");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_print_as_json_that_reads_back() {
        for (number, text) in [(62.0, "62.0"), (0.1, "0.1"), (-7.25, "-7.25"), (0.0, "0.0")] {
            let mut out = Vec::new();
            put_number(&mut out, number);
            assert_eq!(out, text.as_bytes());
        }
        for number in [1e16, 1e300, 5e-324, 123_456_789.125, 1e6] {
            let mut out = Vec::new();
            put_number(&mut out, number);
            assert_eq!(serde_json::from_slice::<f64>(&out).unwrap(), number);
        }
    }

    #[test]
    fn a_sample_prints_only_what_it_has() {
        let mut row = SampleRow {
            recorded_at: 1_782_805_500_000,
            value: 62.0,
            source: "gar\"min",
            device: None,
            zone_minutes: None,
            ended_at: None,
            is_daily_total: None,
        };
        let mut out = Vec::new();
        put_sample(&mut out, &row);
        let plain = r#"{"value":62.0,"recorded_at":"2026-06-30T07:45:00Z","source":"gar\"min"}"#;
        assert_eq!(String::from_utf8(out).unwrap(), plain);
        row.device = Some("d");
        row.zone_minutes = Some(-90);
        row.ended_at = Some(1_782_805_500_250);
        row.is_daily_total = Some(true);
        let mut out = Vec::new();
        put_sample(&mut out, &row);
        let full = r#"{"value":62.0,"recorded_at":"2026-06-30T07:45:00Z","source":"gar\"min","source_device_id":"d","zone_offset":"-01:30","ended_at":"2026-06-30T07:45:00.250Z","is_daily_total":true}"#;
        assert_eq!(String::from_utf8(out).unwrap(), full);
    }
}
