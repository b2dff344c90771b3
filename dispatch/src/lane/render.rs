//! Bodies: what an endpoint's settings make of a payload.

use std::sync::Arc;

use super::{Lane, LaneConfig};
use crate::dialect::{BatchWriter, Envelope};
use crate::dispatcher::Shared;
use crate::endpoint::{EndpointSettings, PayloadSize};
use crate::event::{EventKind, Payload, Place};
use crate::topic::Topic;

/// What a body holds beside its data, about.
const ENVELOPE_BYTES: usize = 512;

/// An event that is about to be sent.
pub(super) struct Opened {
    pub(super) place: Place,
    /// It is the endpoint's own: drawn together for it.
    pub(super) is_own: bool,
    /// Whether its samples are new or corrected.
    pub(super) kind: EventKind,
    pub(super) topic: Arc<Topic>,
    pub(super) payload: Box<dyn Payload>,
}

impl Opened {
    /// The name under which an endpoint gets it; `None` if it no longer wants it, or
    /// was bound to another user since.
    pub(super) fn name(&self, settings: &EndpointSettings) -> Option<&str> {
        let bound = settings.user_id.as_deref();
        if bound.is_some_and(|user| self.payload.user() != Some(user)) {
            return None;
        }
        self.topic.name_for(settings, self.kind)
    }
}

/// About how many bytes a body of these has.
pub(super) fn body_bytes(events: &[Opened]) -> usize {
    events.iter().map(|event| event.payload.data_bytes() + ENVELOPE_BYTES).sum()
}

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

/// The body of a batch; its time is the newest event's.
pub(super) fn render_batch(shared: &Shared, config: &LaneConfig, events: &[Opened]) -> Vec<u8> {
    let settings = &config.settings;
    let (vocabulary, thin) = (settings.dialect.vocabulary(), settings.payload == PayloadSize::Thin);
    let newest = events.iter().max_by_key(|event| event.payload.timestamp_ms());
    let timestamp = newest.map_or("", |event| event.payload.timestamp());
    let mut body = Vec::with_capacity(body_bytes(events) + ENVELOPE_BYTES);
    let mut batch = BatchWriter::begin(timestamp, &mut body);
    for event in events {
        let id = shared.ids.seal(event.place, if event.is_own { config.number } else { 0 });
        let name = event.name(settings).unwrap_or_default();
        batch.event(&id, name, event.payload.timestamp(), |out| {
            event.payload.write_data(vocabulary, thin, out);
        });
    }
    batch.end();
    body
}
