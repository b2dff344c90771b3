//! Azodha's external events.
//!
//! `{"eventName","eventType"?,"eventSubType"?,"organizationId","organizationCode"?,
//! "attributes"?,"data"}`; attributes and code are what the endpoint's configuration said. Its page names no
//! signature header, so `x-azodha-signature` is ours; schedule and timeout are
//! `standard`'s.

use hyper::header::HeaderName;
use serde_json::Value;

use super::standard::{RETRIES, TIMEOUT_SECONDS};
use super::{Envelope, Manners, Scheme, write_json};
use crate::event::Vocabulary;

/// Events whose type and subtype its page names.
const KINDS: [(&str, &str, &str); 1] = [("SurveyAssessment", "SURVEY", "ASSESSMENT_COMPLETED")];

pub(super) static MANNERS: Manners = Manners {
    name: "azodha",
    write_opening,
    retries: &RETRIES,
    timeout_seconds: TIMEOUT_SECONDS,
    vocabulary: Vocabulary::Own,
    scheme: Scheme::Body {
        header: HeaderName::from_static("x-azodha-signature"),
        next: HeaderName::from_static("x-azodha-signature-next"),
        prefix: "",
    },
};

fn write_opening(envelope: &Envelope<'_>, out: &mut Vec<u8>) {
    out.extend_from_slice(br#"{"eventName":"#);
    write_json(envelope.name, out);
    if let Some((_, kind, subtype)) = KINDS.iter().find(|(name, _, _)| *name == envelope.name) {
        out.extend_from_slice(br#","eventType":"#);
        write_json(kind, out);
        out.extend_from_slice(br#","eventSubType":"#);
        write_json(subtype, out);
    }
    out.extend_from_slice(br#","organizationId":"#);
    write_json(envelope.org, out);
    if let Some(code) = organization_code(envelope) {
        out.extend_from_slice(br#","organizationCode":"#);
        write_json(code, out);
    }
    if let Some(attributes) = envelope.attributes {
        out.extend_from_slice(br#","attributes":"#);
        write_json(attributes, out);
    }
    out.extend_from_slice(br#","data":"#);
}

fn organization_code<'a>(envelope: &Envelope<'a>) -> Option<&'a Value> {
    let attributes = envelope.attributes.filter(|_| envelope.send_organization_code)?;
    attributes.get("organizationCode")
}
