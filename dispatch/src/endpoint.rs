//! What a subscriber asked for.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::RangeInclusive;
use std::time::Duration;

use hyper::HeaderMap;
use hyper::header::{HeaderName, HeaderValue};
use serde::{Deserialize, Serialize};

use crate::client::OURS;
use crate::dialect::Dialect;
use crate::vault::{SEALED_PREFIX, is_sealed};

/// Begins an endpoint's id.
pub const ENDPOINT_ID_PREFIX: &str = "ep_";

/// An endpoint's settings, as the catalog keeps them. The secret lies beside them,
/// so that it is in no listing by mistake.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct EndpointSettings {
    /// Where deliveries go.
    pub url: String,
    /// For people.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub description: Option<String>,
    /// For people.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// Only events of these names; everything if it is `None`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub filter_types: Option<BTreeSet<String>>,
    /// Only events about this user.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub user_id: Option<String>,
    /// How bodies, headers and retries look.
    pub dialect: Dialect,
    /// Sent with each request.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub headers: BTreeMap<String, String>,
    /// Whether it takes events.
    pub active: bool,
    /// What a configuration of Azodha's says beside; sent with its bodies.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub attributes: Option<serde_json::Map<String, serde_json::Value>>,
    /// Whether Azodha's bodies carry `attributes.organizationCode`.
    #[serde(default)]
    pub send_organization_code: bool,
    /// How long a whole exchange may take.
    pub timeout_seconds: u32,
    /// Under which names events of samples come.
    pub timeseries: Timeseries,
    /// Whether bodies carry the samples.
    pub payload: PayloadSize,
    /// Events of one series that come within so many milliseconds are sent as one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub coalesce_ms: Option<u32>,
    /// Up to so many waiting events go into one signed request.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub batch_events: Option<u32>,
    /// Most requests a second.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rate_limit_per_second: Option<u32>,
    /// With which kind of key deliveries are signed.
    #[serde(default, skip_serializing_if = "SignatureKind::is_default")]
    pub signature: SignatureKind,
}

/// Milliseconds within which events may be sent as one: below it nothing is won, beyond
/// it a value is no longer fresh.
pub const COALESCE_MS: RangeInclusive<u32> = 100..=60_000;
/// Events in one request: one is no batch, and more than a hundred of an event's usual
/// size are more than most receivers take.
pub const BATCH_EVENTS: RangeInclusive<u32> = 2..=100;
/// Requests a second that an endpoint may ask to be held to.
pub const RATE_LIMIT_PER_SECOND: RangeInclusive<u32> = 1..=10_000;

impl EndpointSettings {
    /// Everything to this url, as the dialect has it by default.
    #[must_use]
    pub fn new(url: String, dialect: Dialect) -> EndpointSettings {
        EndpointSettings {
            url,
            description: None,
            name: None,
            filter_types: None,
            user_id: None,
            dialect,
            headers: BTreeMap::new(),
            active: true,
            attributes: None,
            send_organization_code: false,
            timeout_seconds: dialect.timeout_default_seconds(),
            timeseries: Timeseries::default(),
            payload: PayloadSize::default(),
            coalesce_ms: None,
            batch_events: None,
            rate_limit_per_second: None,
            signature: SignatureKind::default(),
        }
    }

    /// Whether its fields fit their ranges and each other.
    ///
    /// # Errors
    /// [`SettingsFault`] with the first that does not.
    pub fn check(&self) -> Result<(), SettingsFault> {
        let ranges = [
            ("coalesce_ms", self.coalesce_ms, &COALESCE_MS),
            ("batch_events", self.batch_events, &BATCH_EVENTS),
            ("rate_limit_per_second", self.rate_limit_per_second, &RATE_LIMIT_PER_SECOND),
        ];
        for (field, value, range) in ranges {
            if let Some(value) = value.filter(|value| !range.contains(value)) {
                return Err(SettingsFault::Range { field, value, range: range.clone() });
            }
        }
        if self.dialect == Dialect::Standard {
            return Ok(());
        }
        let dialect = self.dialect.as_str();
        if self.batch_events.is_some() {
            return Err(SettingsFault::StandardOnly { field: "batch_events", dialect });
        }
        if self.signature == SignatureKind::V1a {
            return Err(SettingsFault::StandardOnly { field: "signature", dialect });
        }
        Ok(())
    }

    /// How long a whole exchange may take.
    #[must_use]
    pub fn timeout(&self) -> Duration {
        Duration::from_secs(self.timeout_seconds.into())
    }
}

/// Why an endpoint's fields do not fit.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SettingsFault {
    /// A number outside its range.
    #[error("must be a whole number from {} to {}, not {value}", range.start(), range.end())]
    Range {
        /// Which field.
        field: &'static str,
        /// What it is.
        value: u32,
        /// What it may be.
        range: RangeInclusive<u32>,
    },
    /// Something that only receivers of Standard Webhooks understand.
    #[error("is for the dialect standard only; the endpoint's dialect is {dialect}")]
    StandardOnly {
        /// Which field.
        field: &'static str,
        /// The endpoint's dialect.
        dialect: &'static str,
    },
}

impl SettingsFault {
    /// The field it is about.
    #[must_use]
    pub fn field(&self) -> &'static str {
        match self {
            SettingsFault::Range { field, .. } | SettingsFault::StandardOnly { field, .. } => field,
        }
    }
}

/// Most headers of an endpoint's own.
pub const HEADERS_MAX: usize = 20;
/// Longest value of one.
pub const HEADER_VALUE_BYTES_MAX: usize = 4096;
/// Names that would make a body or its signature look like what it is not; those that
/// would break the request are the client's own.
const RESERVED_HEADERS: [&str; 9] = [
    "avon-signature",
    "avon-signature-next",
    "content-encoding",
    "content-type",
    "proxy-authorization",
    "x-avycenna-signature",
    "x-avycenna-signature-next",
    "x-azodha-signature",
    "x-azodha-signature-next",
];

/// Why an endpoint's headers cannot be sent.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum HeaderFault {
    /// Too many.
    #[error("are {count}, at most {HEADERS_MAX} are sent")]
    TooMany {
        /// How many.
        count: usize,
    },
    /// Not a header's name.
    #[error("has a name that no header can have: {name:?}")]
    Name {
        /// The name.
        name: String,
    },
    /// A name that is ours or the connection's.
    #[error("cannot set {name}: it belongs to the request or to its signature")]
    Reserved {
        /// The name.
        name: String,
    },
    /// A value with characters that a header cannot carry, or too long.
    #[error(
        "has a value of {name} that a header cannot carry, longer than {HEADER_VALUE_BYTES_MAX} bytes, or beginning with `sealed.`"
    )]
    Value {
        /// Whose value.
        name: String,
    },
}

impl HeaderFault {
    /// Whether there are more than are sent.
    #[must_use]
    pub fn is_too_many(&self) -> bool {
        matches!(self, HeaderFault::TooMany { .. })
    }
}

/// Why a header's value is not taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum HeaderValueFault {
    /// Longer than anybody needs.
    #[error("has {bytes} bytes, at most {HEADER_VALUE_BYTES_MAX} are sent")]
    TooLong {
        /// How many it has.
        bytes: usize,
    },
    /// A receiver would get it without.
    #[error("begins or ends with white space, which HTTP takes away; leave it out")]
    Edge,
    /// One that would end the header, or that HTTP forbids.
    #[error("has a control character or a line end, which a header cannot carry")]
    Control,
    /// It would be taken for what the catalog has encrypted.
    #[error("begins with {SEALED_PREFIX}, which is kept for encrypted values")]
    Sealed,
}

impl EndpointSettings {
    /// Whether a header may be given this value. Those an endpoint has are sent as they are.
    ///
    /// # Errors
    /// [`HeaderValueFault`].
    pub fn check_header_value(value: &str) -> Result<(), HeaderValueFault> {
        if value.len() > HEADER_VALUE_BYTES_MAX {
            return Err(HeaderValueFault::TooLong { bytes: value.len() });
        }
        if HeaderValue::from_str(value).is_err() {
            return Err(HeaderValueFault::Control);
        }
        if value.trim_ascii() != value {
            return Err(HeaderValueFault::Edge);
        }
        if is_sealed(value) { Err(HeaderValueFault::Sealed) } else { Ok(()) }
    }

    /// The endpoint's own headers, as they are sent.
    ///
    /// # Errors
    /// [`HeaderFault`] if one of them would break the request.
    pub fn header_map(&self) -> Result<HeaderMap, HeaderFault> {
        if self.headers.len() > HEADERS_MAX {
            return Err(HeaderFault::TooMany { count: self.headers.len() });
        }
        let mut map = HeaderMap::new();
        for (name, value) in &self.headers {
            let parsed = HeaderName::from_bytes(name.as_bytes());
            let parsed = parsed.map_err(|_| HeaderFault::Name { name: name.clone() })?;
            let text = parsed.as_str();
            let signed = text.starts_with("webhook-") || text.starts_with("svix-");
            if signed || RESERVED_HEADERS.contains(&text) || OURS.contains(&parsed) {
                return Err(HeaderFault::Reserved { name: name.clone() });
            }
            let mut value = match HeaderValue::from_str(value) {
                // What begins so would be taken for what the catalog has encrypted.
                Ok(parsed) if parsed.len() <= HEADER_VALUE_BYTES_MAX && !is_sealed(value) => parsed,
                _ => return Err(HeaderFault::Value { name: name.clone() }),
            };
            value.set_sensitive(true);
            map.insert(parsed, value);
        }
        Ok(map)
    }
}

/// Under which names events of samples come.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Timeseries {
    /// `heart_rate.created`
    #[default]
    Group,
    /// `series.resting_heart_rate.created`
    Granular,
}

/// Whether bodies carry the samples.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum PayloadSize {
    /// They do.
    #[default]
    Full,
    /// They say what arrived, and the receiver asks for it.
    Thin,
}

/// With which kind of key deliveries are signed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum SignatureKind {
    /// HMAC-SHA256: receiver and sender share a secret.
    #[default]
    V1,
    /// Ed25519: the receiver needs the public key alone.
    V1a,
}

impl SignatureKind {
    /// Its name in settings and requests.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            SignatureKind::V1 => "v1",
            SignatureKind::V1a => "v1a",
        }
    }

    #[expect(clippy::trivially_copy_pass_by_ref, reason = "serde hands a reference")]
    fn is_default(&self) -> bool {
        *self == SignatureKind::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn standard() -> EndpointSettings {
        EndpointSettings::new("https://example.com/".to_owned(), Dialect::Standard)
    }

    #[test]
    fn settings_of_before_these_fields_still_read_and_print_as_they_did() {
        let stored = r#"{"url":"https://example.com/","dialect":"standard","active":true,"send_organization_code":false,"timeout_seconds":15,"timeseries":"group","payload":"full"}"#;
        let read: EndpointSettings = serde_json::from_str(stored).unwrap();
        assert_eq!(read, standard());
        assert_eq!(serde_json::to_string(&read).unwrap(), stored);
    }

    #[test]
    fn every_field_survives_being_stored() {
        let full = EndpointSettings {
            coalesce_ms: Some(100),
            batch_events: Some(100),
            rate_limit_per_second: Some(10_000),
            signature: SignatureKind::V1a,
            ..standard()
        };
        full.check().unwrap();
        let text = serde_json::to_string(&full).unwrap();
        assert!(text.contains(r#""signature":"v1a""#), "{text}");
        assert_eq!(serde_json::from_str::<EndpointSettings>(&text).unwrap(), full);
    }

    #[test]
    fn a_number_outside_its_range_is_named_with_the_range() {
        let cases = [
            (
                EndpointSettings { coalesce_ms: Some(99), ..standard() },
                "coalesce_ms",
                "from 100 to 60000, not 99",
            ),
            (
                EndpointSettings { coalesce_ms: Some(60_001), ..standard() },
                "coalesce_ms",
                "from 100 to 60000, not 60001",
            ),
            (
                EndpointSettings { batch_events: Some(1), ..standard() },
                "batch_events",
                "from 2 to 100, not 1",
            ),
            (EndpointSettings { batch_events: Some(101), ..standard() }, "batch_events", "not 101"),
            (
                EndpointSettings { rate_limit_per_second: Some(0), ..standard() },
                "rate_limit_per_second",
                "from 1 to 10000, not 0",
            ),
        ];
        for (settings, field, text) in cases {
            let fault = settings.check().unwrap_err();
            assert_eq!(fault.field(), field);
            assert!(fault.to_string().contains(text), "{fault}");
        }
    }

    #[test]
    fn a_value_that_a_header_is_not_given_is_refused_for_its_own_reason() {
        let cases = [
            ("Bearer a\tb~".to_owned(), None),
            (String::new(), None),
            ("Jürgen".to_owned(), None),
            ("v".repeat(4096), None),
            ("v".repeat(4097), Some(HeaderValueFault::TooLong { bytes: 4097 })),
            (" a".to_owned(), Some(HeaderValueFault::Edge)),
            ("a\t".to_owned(), Some(HeaderValueFault::Edge)),
            ("a\r\nb: c".to_owned(), Some(HeaderValueFault::Control)),
            ("a\n".to_owned(), Some(HeaderValueFault::Control)),
            ("a\u{7f}".to_owned(), Some(HeaderValueFault::Control)),
            ("sealed.1.AAAA".to_owned(), Some(HeaderValueFault::Sealed)),
        ];
        for (value, expected) in cases {
            assert_eq!(EndpointSettings::check_header_value(&value).err(), expected, "{value:?}");
        }
    }

    #[test]
    fn batches_and_v1a_are_for_standard_alone() {
        for dialect in [Dialect::Avycenna, Dialect::Avon, Dialect::Azodha] {
            let plain = EndpointSettings::new(String::new(), dialect);
            plain.check().unwrap();
            let batch = EndpointSettings { batch_events: Some(2), ..plain.clone() };
            assert_eq!(batch.check().unwrap_err().field(), "batch_events");
            let v1a = EndpointSettings { signature: SignatureKind::V1a, ..plain };
            let fault = v1a.check().unwrap_err();
            assert_eq!(fault.field(), "signature");
            assert!(fault.to_string().contains(dialect.as_str()), "{fault}");
        }
    }
}
