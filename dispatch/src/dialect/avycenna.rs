//! Avycenna's webhooks.
//!
//! `{"event","event_id","timestamp","data"}`; `event_id` is what receivers tell
//! repetitions by, so a publisher's own id goes before ours. It has the shortest
//! schedule and timeout of all.

use std::time::Duration;

use hyper::header::HeaderName;

use super::{Envelope, Manners, Scheme, write_json};
use crate::event::Vocabulary;

/// 30 s, 5 min, 1 h.
const RETRIES: [Duration; 3] = [Duration::from_secs(30), Duration::from_mins(5), Duration::from_hours(1)];

pub(super) static MANNERS: Manners = Manners {
    name: "avycenna",
    write_opening,
    retries: &RETRIES,
    timeout_seconds: 10,
    vocabulary: Vocabulary::Own,
    scheme: Scheme::Body {
        header: HeaderName::from_static("x-avycenna-signature"),
        next: HeaderName::from_static("x-avycenna-signature-next"),
        prefix: "sha256=",
    },
};

fn write_opening(envelope: &Envelope<'_>, out: &mut Vec<u8>) {
    out.extend_from_slice(br#"{"event":"#);
    write_json(envelope.name, out);
    out.extend_from_slice(br#","event_id":"#);
    write_json(envelope.publisher_id.unwrap_or(envelope.id), out);
    out.extend_from_slice(br#","timestamp":"#);
    write_json(envelope.timestamp, out);
    out.extend_from_slice(br#","data":"#);
}
