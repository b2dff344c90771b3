//! Bodies: what an endpoint's settings make of a payload.

use super::{Lane, LaneConfig};
use crate::dialect::Envelope;
use crate::endpoint::PayloadSize;
use crate::event::Payload;

/// What a body holds beside its data, about.
pub(super) const ENVELOPE_BYTES: usize = 512;

/// The body of one event.
pub(super) fn render(
    lane: &Lane,
    config: &LaneConfig,
    id: &str,
    name: &str,
    payload: &dyn Payload,
) -> Vec<u8> {
    let settings = &config.settings;
    let envelope = Envelope {
        id,
        publisher_id: payload.publisher_id(),
        name,
        timestamp: payload.timestamp(),
        timestamp_ms: payload.timestamp_ms(),
        org: &lane.org,
        attributes: settings.attributes.as_ref(),
        send_organization_code: settings.send_organization_code,
    };
    let thin = settings.payload == PayloadSize::Thin;
    let mut body = Vec::with_capacity(payload.data_bytes() + ENVELOPE_BYTES);
    let data = |out: &mut Vec<u8>| payload.write_data(settings.dialect.vocabulary(), thin, out);
    settings.dialect.write_body(&envelope, data, &mut body);
    body
}
