//! Avon Health's webhooks.
//!
//! `{"event","created_at","object"}`, the time in milliseconds since 1970. Its own
//! documents name no schedule and no timeout: both are `standard`'s.

use hyper::header::HeaderName;

use super::standard::{RETRIES, TIMEOUT_SECONDS};
use super::{Envelope, Manners, Scheme, write_json};
use crate::event::Vocabulary;

pub(super) static MANNERS: Manners = Manners {
    name: "avon",
    write_opening,
    retries: &RETRIES,
    timeout_seconds: TIMEOUT_SECONDS,
    vocabulary: Vocabulary::Own,
    scheme: Scheme::Body {
        header: HeaderName::from_static("avon-signature"),
        next: HeaderName::from_static("avon-signature-next"),
        prefix: "",
    },
};

fn write_opening(envelope: &Envelope<'_>, out: &mut Vec<u8>) {
    out.extend_from_slice(br#"{"event":"#);
    write_json(envelope.name, out);
    out.extend_from_slice(br#","created_at":"#);
    write_json(&envelope.timestamp_ms, out);
    out.extend_from_slice(br#","object":"#);
}
