//! Printing samples and buckets as lines of CSV, as RFC 4180 has it. Columns carry
//! the names of JSON's fields; what is not known is an empty field.

use systole_engine::timestamp::{TimestampWriter, write_offset, write_rfc3339};
use systole_engine::{Bucket, SampleRow, put_csv_text};

use super::json::put_number;

pub(super) const SAMPLES_HEADER: &[u8] =
    b"recorded_at,value,unit,source,source_device_id,zone_offset,ended_at,is_daily_total\r\n";
pub(super) const BUCKETS_HEADER: &[u8] = b"recorded_at,value,unit,source,count,zone_offset\r\n";

pub(super) fn put_sample(out: &mut Vec<u8>, times: &mut TimestampWriter, unit: &str, row: &SampleRow<'_>) {
    times.write(row.recorded_at, out);
    out.push(b',');
    put_number(out, row.value);
    out.push(b',');
    put_csv_text(out, unit);
    out.push(b',');
    put_csv_text(out, row.source);
    out.push(b',');
    if let Some(device) = row.device {
        put_csv_text(out, device);
    }
    out.push(b',');
    if let Some(minutes) = row.zone_minutes {
        write_offset(minutes, out);
    }
    out.push(b',');
    if let Some(ended_at) = row.ended_at {
        write_rfc3339(ended_at, out);
    }
    out.push(b',');
    if let Some(daily) = row.is_daily_total {
        out.extend_from_slice(if daily { b"true" } else { b"false" });
    }
    out.extend_from_slice(b"\r\n");
}

pub(super) fn put_bucket(out: &mut Vec<u8>, unit: &str, bucket: &Bucket) {
    write_rfc3339(bucket.start, out);
    out.push(b',');
    if let Some(value) = bucket.value {
        put_number(out, value);
    }
    out.push(b',');
    put_csv_text(out, unit);
    out.push(b',');
    if let Some(source) = &bucket.source {
        put_csv_text(out, source);
    }
    out.push(b',');
    out.extend_from_slice(itoa::Buffer::new().format(bucket.count).as_bytes());
    out.push(b',');
    if let Some(minutes) = bucket.zone_minutes {
        write_offset(minutes, out);
    }
    out.extend_from_slice(b"\r\n");
}
