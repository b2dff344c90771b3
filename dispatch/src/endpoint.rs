//! What a subscriber asked for.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use hyper::HeaderMap;
use hyper::header::{HeaderName, HeaderValue};
use serde::{Deserialize, Serialize};

use crate::dialect::Dialect;

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
}

impl EndpointSettings {
    /// How long a whole exchange may take.
    #[must_use]
    pub fn timeout(&self) -> Duration {
        Duration::from_secs(self.timeout_seconds.into())
    }
}

/// Most headers of an endpoint's own.
pub const HEADERS_MAX: usize = 20;
/// Longest value of one.
pub const HEADER_VALUE_BYTES_MAX: usize = 4096;
/// Names that would break a request, or pretend to be what we sign.
const RESERVED_HEADERS: [&str; 20] = [
    "connection",
    "content-encoding",
    "content-length",
    "content-type",
    "expect",
    "host",
    "keep-alive",
    "proxy-authorization",
    "proxy-connection",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
    "x-avycenna-signature",
    "avon-signature",
    "x-azodha-signature",
    "x-avycenna-signature-next",
    "avon-signature-next",
    "x-azodha-signature-next",
    "http2-settings",
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
        "has a value of {name} that a header cannot carry, or longer than {HEADER_VALUE_BYTES_MAX} bytes"
    )]
    Value {
        /// Whose value.
        name: String,
    },
}

impl EndpointSettings {
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
            if signed || RESERVED_HEADERS.contains(&text) {
                return Err(HeaderFault::Reserved { name: name.clone() });
            }
            let mut value = match HeaderValue::from_str(value) {
                Ok(value) if value.len() <= HEADER_VALUE_BYTES_MAX => value,
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
