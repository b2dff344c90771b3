//! Printing samples in AVYCENNA's shape, by hand into bytes.

use systole_engine::number::write_finite;
use systole_engine::timestamp::{TimestampWriter, write_offset, write_rfc3339};
use systole_engine::{Bucket, SampleRow};

/// A sample; `times` remembers the minute it printed last.
pub(super) fn put_sample(out: &mut Vec<u8>, times: &mut TimestampWriter, row: &SampleRow<'_>) {
    out.extend_from_slice(b"{\"value\":");
    put_number(out, row.value);
    out.extend_from_slice(b",\"recorded_at\":\"");
    times.write(row.recorded_at, out);
    out.extend_from_slice(b"\",\"source\":");
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

/// A bucket: its source only where buckets are per source, its offset only where
/// they go by each sample's own and it is known.
pub(super) fn put_bucket(out: &mut Vec<u8>, bucket: &Bucket) {
    out.extend_from_slice(b"{\"value\":");
    match bucket.value {
        Some(value) => put_number(out, value),
        None => out.extend_from_slice(b"null"),
    }
    out.extend_from_slice(b",\"recorded_at\":");
    put_time(out, bucket.start);
    if let Some(source) = &bucket.source {
        out.extend_from_slice(b",\"source\":");
        put_text(out, source);
    }
    out.extend_from_slice(b",\"count\":");
    out.extend_from_slice(itoa::Buffer::new().format(bucket.count).as_bytes());
    if let Some(minutes) = bucket.zone_minutes {
        out.extend_from_slice(b",\"zone_offset\":\"");
        write_offset(minutes, out);
        out.push(b'"');
    }
    out.push(b'}');
}

/// A number as JSON; whole ones print as `62.0`.
pub(super) fn put_number(out: &mut Vec<u8>, number: f64) {
    write_finite(number, out);
}

pub(super) fn put_time(out: &mut Vec<u8>, ms: i64) {
    out.push(b'"');
    write_rfc3339(ms, out);
    out.push(b'"');
}

/// A text as JSON, quotes included.
pub(super) fn put_text(out: &mut Vec<u8>, text: &str) {
    // Almost every name: nothing to escape.
    if text.bytes().all(|b| b >= b' ' && b != b'"' && b != b'\\') {
        out.push(b'"');
        out.extend_from_slice(text.as_bytes());
        out.push(b'"');
        return;
    }
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
        put_sample(&mut out, &mut TimestampWriter::default(), &row);
        let plain = r#"{"value":62.0,"recorded_at":"2026-06-30T07:45:00Z","source":"gar\"min"}"#;
        assert_eq!(String::from_utf8(out).unwrap(), plain);
        row.device = Some("d");
        row.zone_minutes = Some(-90);
        row.ended_at = Some(1_782_805_500_250);
        row.is_daily_total = Some(true);
        let mut out = Vec::new();
        put_sample(&mut out, &mut TimestampWriter::default(), &row);
        let full = r#"{"value":62.0,"recorded_at":"2026-06-30T07:45:00Z","source":"gar\"min","source_device_id":"d","zone_offset":"-01:30","ended_at":"2026-06-30T07:45:00.250Z","is_daily_total":true}"#;
        assert_eq!(String::from_utf8(out).unwrap(), full);
    }
}
