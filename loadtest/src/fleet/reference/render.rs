//! A sample as a data point of a bulk-ingest body. It names its user: an
//! aggregator's bodies hold many.

use std::io::Write;

use super::{ReferenceFleet, Sample, Stands};
use crate::fleet::calendar::push_rfc3339;

/// Appends `{"user_id":...}`.
pub(crate) fn push_point(body: &mut Vec<u8>, fleet: &ReferenceFleet, sample: &Sample) {
    let Sample { user, metric, device, second, span_seconds, tenths, zone } = *sample;
    body.extend(b"{\"user_id\":\"");
    body.extend(fleet.prefix.as_bytes());
    write!(body, "-{user:07}\",\"metric\":\"").expect("writing to a Vec cannot fail");
    body.extend(metric.key.as_bytes());
    body.extend(b"\",\"value\":");
    push_tenths(body, tenths);
    body.extend(b",\"unit\":\"");
    body.extend(metric.unit.as_bytes());
    body.extend(b"\",\"recorded_at\":\"");
    push_rfc3339(body, second);
    if span_seconds > 0 {
        body.extend(b"\",\"ended_at\":\"");
        push_rfc3339(body, second + span_seconds);
    }
    if let Some(zone) = zone {
        body.extend(b"\",\"zone_offset\":\"");
        body.extend(zone.as_bytes());
    }
    if metric.stands == Stands::Day {
        body.extend(b"\",\"is_daily_total\":true,\"source\":\"");
    } else {
        body.extend(b"\",\"source\":\"");
    }
    body.extend(device.source.as_bytes());
    body.extend(b"\",\"source_device_id\":\"");
    body.extend(device.model.as_bytes());
    write!(body, "-{user:x}\"}}").expect("writing to a Vec cannot fail");
}

/// Appends `62.5`.
pub(crate) fn push_tenths(body: &mut Vec<u8>, tenths: i64) {
    assert!(tenths >= 0, "nothing that the fleet measures is below zero");
    push_number(body, tenths as u64 / 10);
    body.extend([b'.', b'0' + (tenths % 10) as u8]);
}

/// Appends a number; a tenth of what formatting costs, for what comes with every point.
fn push_number(body: &mut Vec<u8>, mut number: u64) {
    let mut digits = [0_u8; 20];
    let mut at = digits.len();
    loop {
        at -= 1;
        digits[at] = b'0' + (number % 10) as u8;
        number /= 10;
        if number == 0 {
            body.extend_from_slice(&digits[at..]);
            return;
        }
    }
}
