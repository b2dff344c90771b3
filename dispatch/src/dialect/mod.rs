//! Body, headers and retries of each system that is replaced.
//!
//! A receiver keeps the code it has: it reads the body it always read and checks the
//! signature it always checked. Everything of one dialect stands in its own file,
//! collected in one `Manners`; a fifth is a file, a variant and two lines here.
//!
//! | dialect | body | signature |
//! |---|---|---|
//! | [`standard`](Dialect::Standard) | `{"type","timestamp","data"}` | `webhook-signature: v1,<base64>` over id, time and body, the same as `svix-*` |
//! | [`avycenna`](Dialect::Avycenna) | `{"event","event_id","timestamp","data"}` | `x-avycenna-signature: sha256=<hex>` over the body |
//! | [`avon`](Dialect::Avon) | `{"event","created_at","object"}` | `avon-signature: <hex>` over the body |
//! | [`azodha`](Dialect::Azodha) | `{"eventName","organizationId",...,"data"}` | `x-azodha-signature: <hex>` over the body |
//!
//! In every body the data stands last, so that it is written once, behind the
//! opening and straight into the bytes that are signed and sent. The order of the
//! members is part of the dialect: a body is the same at each attempt.

mod avon;
mod avycenna;
mod azodha;
mod batch;
mod standard;

use std::time::Duration;

use hyper::header::HeaderName;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::event::Vocabulary;

pub use batch::{BATCH_NAME, BatchWriter};

/// How bodies, headers and retries look.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Dialect {
    /// Open Wearables, Svix, Standard Webhooks.
    #[default]
    Standard,
    /// Avycenna's webhooks.
    Avycenna,
    /// Avon Health's webhooks.
    Avon,
    /// Azodha's external events.
    Azodha,
}

impl Dialect {
    /// Every dialect.
    pub const ALL: [Dialect; 4] = [Dialect::Standard, Dialect::Avycenna, Dialect::Avon, Dialect::Azodha];

    /// The dialect of this name, if there is one.
    #[must_use]
    pub fn parse(name: &str) -> Option<Dialect> {
        Dialect::ALL.into_iter().find(|dialect| dialect.as_str() == name)
    }

    /// Its name in settings and requests.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        self.manners().name
    }

    /// Appends a whole body: the opening, what `data` appends (one JSON value), the
    /// closing.
    pub fn write_body(self, envelope: &Envelope<'_>, data: impl FnOnce(&mut Vec<u8>), out: &mut Vec<u8>) {
        (self.manners().write_opening)(envelope, out);
        data(out);
        out.push(b'}');
    }

    /// The waits after the first, second, ... failed attempt; then it is given up.
    #[must_use]
    pub fn retries(self) -> &'static [Duration] {
        self.manners().retries
    }

    /// How long a whole exchange may take unless the endpoint says otherwise.
    #[must_use]
    pub fn timeout_default_seconds(self) -> u32 {
        self.manners().timeout_seconds
    }

    /// Which words its bodies print for metrics and units.
    #[must_use]
    pub fn vocabulary(self) -> Vocabulary {
        self.manners().vocabulary
    }

    /// How it signs.
    pub(crate) fn scheme(self) -> &'static Scheme {
        &self.manners().scheme
    }

    fn manners(self) -> &'static Manners {
        match self {
            Dialect::Standard => &standard::MANNERS,
            Dialect::Avycenna => &avycenna::MANNERS,
            Dialect::Avon => &avon::MANNERS,
            Dialect::Azodha => &azodha::MANNERS,
        }
    }
}

/// What a body says besides its data.
#[derive(Clone, Copy, Debug)]
pub struct Envelope<'a> {
    /// `evt_...`
    pub id: &'a str,
    /// The id its publisher brought, if it did.
    pub publisher_id: Option<&'a str>,
    /// The event type, as it is printed.
    pub name: &'a str,
    /// Commit time, RFC 3339.
    pub timestamp: &'a str,
    /// The same in milliseconds since 1970.
    pub timestamp_ms: i64,
    /// Whose event it is.
    pub org: &'a str,
    /// The endpoint's attributes.
    pub attributes: Option<&'a Map<String, Value>>,
    /// Whether the endpoint wants its organisation's code.
    pub send_organization_code: bool,
}

/// Everything of one dialect.
struct Manners {
    name: &'static str,
    /// Appends a body up to where its data begins; a `}` behind the data closes it.
    write_opening: fn(&Envelope<'_>, &mut Vec<u8>),
    retries: &'static [Duration],
    timeout_seconds: u32,
    vocabulary: Vocabulary,
    scheme: Scheme,
}

/// What is signed, and how the signature is sent.
pub(crate) enum Scheme {
    /// Standard Webhooks: id, time and body under the decoded key, HMAC-SHA256 or ed25519.
    Standard {
        /// Each prefix gets the same `id`, `timestamp` and `signature` header.
        headers: &'static [StandardHeaders],
    },
    /// HMAC-SHA256 of the body under the key's own text, in hex.
    Body {
        /// Where the signature stands.
        header: HeaderName,
        /// Where the new key's stands while the old one still signs.
        next: HeaderName,
        /// What stands before the hex digits.
        prefix: &'static str,
    },
}

/// The three headers of Standard Webhooks under one prefix.
pub(crate) struct StandardHeaders {
    pub(crate) id: HeaderName,
    pub(crate) timestamp: HeaderName,
    pub(crate) signature: HeaderName,
}

/// Appends a JSON value.
fn write_json(value: &(impl Serialize + ?Sized), out: &mut Vec<u8>) {
    serde_json::to_writer(out, value).expect("a Vec takes everything, and strings and JSON values are JSON");
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    const ENVELOPE: Envelope<'_> = Envelope {
        id: "evt_0123456789abcdefghjkmnpqrs",
        publisher_id: None,
        name: "heart_rate.created",
        timestamp: "2026-06-30T07:45:01.123Z",
        timestamp_ms: 1_782_805_501_123,
        org: "org_1",
        attributes: None,
        send_organization_code: false,
    };

    fn body(dialect: Dialect, envelope: &Envelope<'_>) -> String {
        let mut out = b"before ".to_vec();
        dialect.write_body(envelope, |out| out.extend_from_slice(br#"{"n":1}"#), &mut out);
        String::from_utf8(out).unwrap().strip_prefix("before ").unwrap().into()
    }

    #[test]
    fn bodies_are_what_each_receiver_reads() {
        let cases = [
            (
                Dialect::Standard,
                r#"{"type":"heart_rate.created","timestamp":"2026-06-30T07:45:01.123Z","data":{"n":1}}"#,
            ),
            (
                Dialect::Avycenna,
                r#"{"event":"heart_rate.created","event_id":"evt_0123456789abcdefghjkmnpqrs","timestamp":"2026-06-30T07:45:01.123Z","data":{"n":1}}"#,
            ),
            (Dialect::Avon, r#"{"event":"heart_rate.created","created_at":1782805501123,"object":{"n":1}}"#),
            (
                Dialect::Azodha,
                r#"{"eventName":"heart_rate.created","organizationId":"org_1","data":{"n":1}}"#,
            ),
        ];
        for (dialect, expected) in cases {
            assert_eq!(body(dialect, &ENVELOPE), expected);
        }
    }

    #[test]
    fn avycenna_prints_the_id_that_a_publisher_brought() {
        let envelope = Envelope { publisher_id: Some("evt_5nXyZaBc"), ..ENVELOPE };
        assert!(body(Dialect::Avycenna, &envelope).contains(r#""event_id":"evt_5nXyZaBc","#));
        assert!(!body(Dialect::Standard, &envelope).contains("evt_5nXyZaBc"));
    }

    #[test]
    fn azodha_sends_the_organization_code_only_if_it_is_asked_for_and_there() {
        let attributes = json!({"organizationCode": "OC-1", "ward": "3"});
        let attributes = attributes.as_object();
        let cases = [
            (
                attributes,
                true,
                r#""organizationCode":"OC-1","attributes":{"organizationCode":"OC-1","ward":"3"},"#,
            ),
            (
                attributes,
                false,
                r#""organizationId":"org_1","attributes":{"organizationCode":"OC-1","ward":"3"},"#,
            ),
            (None, true, r#""organizationId":"org_1","data""#),
        ];
        for (attributes, send_organization_code, expected) in cases {
            let body = body(Dialect::Azodha, &Envelope { attributes, send_organization_code, ..ENVELOPE });
            assert!(body.contains(expected), "{body}");
        }
    }

    #[test]
    fn azodha_names_the_type_of_a_survey() {
        let survey = body(Dialect::Azodha, &Envelope { name: "SurveyAssessment", ..ENVELOPE });
        let expected = r#"{"eventName":"SurveyAssessment","eventType":"SURVEY","eventSubType":"ASSESSMENT_COMPLETED","organizationId":"org_1","data":{"n":1}}"#;
        assert_eq!(survey, expected);
    }

    #[test]
    fn no_text_breaks_out_of_its_string() {
        let evil = "a\"b\\c\n\u{1}é⌚\u{2028}";
        let attributes = json!({evil: evil, "organizationCode": evil});
        let envelope = Envelope {
            id: evil,
            publisher_id: Some(evil),
            name: evil,
            timestamp: evil,
            timestamp_ms: -1,
            org: evil,
            attributes: attributes.as_object(),
            send_organization_code: true,
        };
        for (dialect, members) in Dialect::ALL.into_iter().zip([3, 4, 3, 5]) {
            let body = body(dialect, &envelope);
            let parsed: Value = serde_json::from_str(&body).unwrap();
            assert_eq!(parsed.as_object().unwrap().len(), members, "{body}");
            let name = ["type", "event", "eventName"].iter().find_map(|name| parsed.get(name)).unwrap();
            assert_eq!(name, evil);
        }
    }

    #[test]
    fn names_are_the_same_in_settings_and_requests() {
        for dialect in Dialect::ALL {
            assert_eq!(Dialect::parse(dialect.as_str()), Some(dialect));
            assert_eq!(serde_json::to_value(dialect).unwrap(), dialect.as_str());
        }
        assert_eq!(Dialect::parse("Standard"), None);
        assert_eq!(Dialect::default(), Dialect::Standard);
    }

    #[test]
    fn schedules_and_timeouts_are_the_promised_ones() {
        let seconds =
            |dialect: Dialect| -> Vec<u64> { dialect.retries().iter().map(Duration::as_secs).collect() };
        let standard = vec![5, 300, 1800, 7200, 18_000, 36_000, 36_000];
        assert_eq!(seconds(Dialect::Standard), standard);
        assert_eq!(seconds(Dialect::Avycenna), [30, 300, 3600]);
        assert_eq!(seconds(Dialect::Avon), standard);
        assert_eq!(seconds(Dialect::Azodha), standard);
        assert_eq!(Dialect::ALL.map(Dialect::timeout_default_seconds), [15, 10, 15, 15]);
    }

    #[test]
    fn only_standard_speaks_open_wearables_words() {
        let own = Vocabulary::Own;
        assert_eq!(Dialect::ALL.map(Dialect::vocabulary), [Vocabulary::OpenWearables, own, own, own]);
    }
}
