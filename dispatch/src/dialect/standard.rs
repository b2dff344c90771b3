//! Standard Webhooks, as Open Wearables (by way of Svix) sends them.
//!
//! `{"type","timestamp","data"}`. The signature covers id, time and body, so a
//! receiver can refuse what is replayed; libraries of Svix look for `svix-*`, those
//! of Standard Webhooks for `webhook-*`, and both are sent. Schedule and timeout are
//! Svix's.

use std::time::Duration;

use hyper::header::HeaderName;

use super::{Envelope, Manners, Scheme, StandardHeaders, write_json};
use crate::event::Vocabulary;

/// 5 s, 5 min, 30 min, 2 h, 5 h, 10 h, 10 h.
pub(super) const RETRIES: [Duration; 7] = [
    Duration::from_secs(5),
    Duration::from_mins(5),
    Duration::from_mins(30),
    Duration::from_hours(2),
    Duration::from_hours(5),
    Duration::from_hours(10),
    Duration::from_hours(10),
];

pub(super) const TIMEOUT_SECONDS: u32 = 15;

static HEADERS: [StandardHeaders; 2] = [
    StandardHeaders {
        id: HeaderName::from_static("webhook-id"),
        timestamp: HeaderName::from_static("webhook-timestamp"),
        signature: HeaderName::from_static("webhook-signature"),
    },
    StandardHeaders {
        id: HeaderName::from_static("svix-id"),
        timestamp: HeaderName::from_static("svix-timestamp"),
        signature: HeaderName::from_static("svix-signature"),
    },
];

pub(super) static MANNERS: Manners = Manners {
    name: "standard",
    write_opening,
    retries: &RETRIES,
    timeout_seconds: TIMEOUT_SECONDS,
    vocabulary: Vocabulary::OpenWearables,
    scheme: Scheme::Standard { headers: &HEADERS },
};

fn write_opening(envelope: &Envelope<'_>, out: &mut Vec<u8>) {
    out.extend_from_slice(br#"{"type":"#);
    write_json(envelope.name, out);
    out.extend_from_slice(br#","timestamp":"#);
    write_json(envelope.timestamp, out);
    out.extend_from_slice(br#","data":"#);
}
