//! Prepared keys, and how they sign.
//!
//! A [`Signer`] is an endpoint's secret ready to sign: an HMAC-SHA256 state that has
//! already taken the key in, cloned for each message, so that signing costs the body's
//! bytes and no more (about 1.8 GB/s a core); or an ed25519 key pair.
//!
//! | dialect | key | signed |
//! |---|---|---|
//! | `standard`, `v1` | the bytes that base64 behind `whsec_` gives | `id.timestamp.body` |
//! | `standard`, `v1a` | the ed25519 key that base64 behind `whsk_` gives | `id.timestamp.body` |
//! | the others | the secret's own text, `whsec_` and all, UTF-8 | `body` |
//!
//! The bytes signed are the bytes sent; nothing is serialised twice.
//!
//! While a new key takes over from an old one (the grace of a rotation), `standard`
//! sends both signatures, the new one first: its receivers take any that fits. The
//! receivers of the others compare one value, so theirs is the old key's, and the new
//! key's stands in `<header>-next`. Which of the two times it is follows from the time
//! that an attempt is signed at, so a grace ends by itself.

use std::fmt;
use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use hmac::{Hmac, KeyInit as _, Mac as _};
use hyper::HeaderMap;
use hyper::header::{HeaderName, HeaderValue};
use ring::signature::Ed25519KeyPair;
use sha2::Sha256;

use crate::dialect::{Dialect, Scheme, StandardHeaders};
use crate::secret::KeyMaterial;

pub use crate::secret::{
    KEY_BYTES_MAX, KEY_BYTES_MIN, PRIVATE_KEY_PREFIX, PUBLIC_KEY_PREFIX, SECRET_CHARS_MAX, SECRET_CHARS_MIN,
    SECRET_PREFIX, Secret, SecretFault,
};

/// `v1,` and 32 bytes in base64.
const SIGNATURE_CHARS: usize = 47;

const WEBHOOK_ID: HeaderName = HeaderName::from_static("webhook-id");

/// An endpoint's key, ready to sign, and the one it takes over from.
#[derive(Clone)]
pub struct Signer {
    scheme: &'static Scheme,
    key: Key,
    previous: Option<Previous>,
}

/// The key that was before, for as long as receivers may still have it.
#[derive(Clone)]
struct Previous {
    key: Key,
    /// Unix seconds; from then on it signs nothing.
    until: u64,
}

impl Signer {
    /// Prepares an endpoint's key.
    ///
    /// # Errors
    /// [`SecretFault`] if the dialect cannot sign with the secret.
    pub fn new(dialect: Dialect, secret: &Secret) -> Result<Signer, SecretFault> {
        let key = Key::new(KeyMaterial::of(dialect, secret)?);
        Ok(Signer { scheme: dialect.scheme(), key, previous: None })
    }

    /// The same taking over from another secret, which goes on signing until a time
    /// in Unix seconds.
    ///
    /// # Errors
    /// [`SecretFault`] if the dialect cannot sign with one of them.
    pub fn taking_over(
        dialect: Dialect,
        secret: &Secret,
        previous: &Secret,
        until: u64,
    ) -> Result<Signer, SecretFault> {
        let key = Key::new(KeyMaterial::of(dialect, previous)?);
        Ok(Signer { previous: Some(Previous { key, until }), ..Signer::new(dialect, secret)? })
    }

    /// Signs a body, and inserts the id and everything the receiver checks it by.
    /// `unix_seconds` is the attempt's time: receivers refuse what is older than 5
    /// minutes, and a grace that is over by then does not count.
    ///
    /// # Panics
    /// If the id cannot stand in a header; ours can.
    pub fn sign(&self, id: &str, unix_seconds: u64, body: &[u8], headers: &mut HeaderMap) {
        let id = HeaderValue::from_str(id).expect("ids are visible ASCII");
        let previous = self.previous.as_ref().filter(|previous| unix_seconds < previous.until);
        let previous = previous.map(|previous| &previous.key);
        match self.scheme {
            Scheme::Standard { headers: names } => {
                let values = StandardValues::new(&self.key, previous, id, unix_seconds, body);
                names.iter().for_each(|names| values.insert(names, headers));
            }
            Scheme::Body { header, next, prefix } => {
                headers.insert(WEBHOOK_ID, id);
                let signature =
                    |key: &Key| visible(key.with_tag(&[body], |tag| format!("{prefix}{}", hex(tag))));
                headers.insert(header, signature(previous.unwrap_or(&self.key)));
                match previous {
                    Some(_) => headers.insert(next, signature(&self.key)),
                    None => headers.remove(next),
                };
            }
        }
    }
}

impl fmt::Debug for Signer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Signer([redacted])")
    }
}

/// The three header values of Standard Webhooks.
struct StandardValues {
    id: HeaderValue,
    timestamp: HeaderValue,
    signature: HeaderValue,
}

impl StandardValues {
    fn new(
        key: &Key,
        previous: Option<&Key>,
        id: HeaderValue,
        unix_seconds: u64,
        body: &[u8],
    ) -> StandardValues {
        let timestamp = HeaderValue::from(unix_seconds);
        let parts = [id.as_bytes(), b".", timestamp.as_bytes(), b".", body];
        let mut signature = String::with_capacity(SIGNATURE_CHARS);
        key.sign_to(&parts, &mut signature);
        if let Some(previous) = previous {
            signature.push(' ');
            previous.sign_to(&parts, &mut signature);
        }
        StandardValues { signature: visible(signature), id, timestamp }
    }

    fn insert(&self, names: &StandardHeaders, headers: &mut HeaderMap) {
        headers.insert(&names.id, self.id.clone());
        headers.insert(&names.timestamp, self.timestamp.clone());
        headers.insert(&names.signature, self.signature.clone());
    }
}

/// What signs, set up once.
#[derive(Clone)]
enum Key {
    /// HMAC-SHA256 that has taken its key in.
    Shared(Hmac<Sha256>),
    Pair(Arc<Ed25519KeyPair>),
}

impl Key {
    fn new(material: KeyMaterial) -> Key {
        match material {
            KeyMaterial::Shared(bytes) => {
                Key::Shared(Hmac::new_from_slice(&bytes).expect("HMAC takes keys of any length"))
            }
            KeyMaterial::Pair(pair) => Key::Pair(Arc::from(pair)),
        }
    }

    /// Makes something of the raw signature of the parts, one behind the other.
    fn with_tag<T>(&self, parts: &[&[u8]], make: impl FnOnce(&[u8]) -> T) -> T {
        match self {
            Key::Shared(prepared) => {
                let mut mac = prepared.clone();
                parts.iter().for_each(|part| mac.update(part));
                make(&mac.finalize().into_bytes())
            }
            // Ed25519 reads its message twice, so it wants it whole.
            Key::Pair(pair) => make(pair.sign(&parts.concat()).as_ref()),
        }
    }

    /// Adds the signature as Standard Webhooks prints it.
    fn sign_to(&self, parts: &[&[u8]], text: &mut String) {
        text.push_str(match self {
            Key::Shared(_) => "v1,",
            Key::Pair(_) => "v1a,",
        });
        self.with_tag(parts, |tag| STANDARD.encode_string(tag, text));
    }
}

fn hex(bytes: &[u8]) -> String {
    let digit = |nibble: u8| char::from(b"0123456789abcdef"[usize::from(nibble)]);
    bytes.iter().flat_map(|byte| [digit(byte >> 4), digit(byte & 15)]).collect()
}

fn visible(text: String) -> HeaderValue {
    HeaderValue::try_from(text).expect("base64 and hex are visible ASCII")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::endpoint::SignatureKind;

    const NEW: &str = "whsec_AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=";
    const OLD: &str = "whsec_AQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQE=";
    const UNTIL: u64 = 1_700_000_000;

    fn secret(text: &str, dialect: Dialect) -> Secret {
        Secret::parse(text, dialect).unwrap()
    }

    fn signed(signer: &Signer, unix_seconds: u64) -> HeaderMap {
        let mut headers = HeaderMap::new();
        signer.sign("evt_1", unix_seconds, b"{}", &mut headers);
        headers
    }

    fn alone(dialect: Dialect, text: &str) -> Signer {
        Signer::new(dialect, &secret(text, dialect)).unwrap()
    }

    fn rotating(dialect: Dialect) -> Signer {
        Signer::taking_over(dialect, &secret(NEW, dialect), &secret(OLD, dialect), UNTIL).unwrap()
    }

    #[test]
    fn debug_shows_no_key() {
        assert_eq!(format!("{:?}", rotating(Dialect::Standard)), "Signer([redacted])");
    }

    #[test]
    fn every_dialect_sends_its_id_and_its_own_headers() {
        let names = |dialect| {
            let headers = signed(&alone(dialect, NEW), UNTIL);
            assert_eq!(headers["webhook-id"], "evt_1");
            let mut names: Vec<String> = headers.keys().map(ToString::to_string).collect();
            names.sort();
            names.join(" ")
        };
        assert_eq!(
            names(Dialect::Standard),
            "svix-id svix-signature svix-timestamp webhook-id webhook-signature webhook-timestamp"
        );
        assert_eq!(names(Dialect::Avycenna), "webhook-id x-avycenna-signature");
        assert_eq!(names(Dialect::Avon), "avon-signature webhook-id");
        assert_eq!(names(Dialect::Azodha), "webhook-id x-azodha-signature");
    }

    #[test]
    fn a_second_attempt_replaces_the_headers_of_the_first() {
        let signer = alone(Dialect::Standard, NEW);
        let mut headers = signed(&signer, UNTIL);
        let first = headers.clone();
        signer.sign("evt_1", UNTIL + 5, b"{}", &mut headers);
        assert_eq!(headers.len(), 6);
        assert_eq!(headers["svix-timestamp"], "1700000005");
        assert_eq!(headers["svix-signature"], headers["webhook-signature"]);
        assert_ne!(headers["webhook-signature"], first["webhook-signature"]);
    }

    #[test]
    fn in_a_grace_standard_sends_both_signatures_the_new_one_first() {
        let both = signed(&rotating(Dialect::Standard), UNTIL - 1);
        let [new, old] = [NEW, OLD].map(|text| {
            let headers = signed(&alone(Dialect::Standard, text), UNTIL - 1);
            headers["webhook-signature"].to_str().unwrap().to_owned()
        });
        assert_eq!(both["webhook-signature"], format!("{new} {old}"));
        assert_eq!(both["svix-signature"], both["webhook-signature"]);
        assert_eq!(both.len(), 6);
    }

    #[test]
    fn in_a_grace_the_others_sign_with_the_old_key_and_announce_the_new_one() {
        for (dialect, name) in [
            (Dialect::Avycenna, "x-avycenna-signature"),
            (Dialect::Avon, "avon-signature"),
            (Dialect::Azodha, "x-azodha-signature"),
        ] {
            let both = signed(&rotating(dialect), UNTIL - 1);
            let [new, old] = [NEW, OLD].map(|text| signed(&alone(dialect, text), 0)[name].clone());
            assert_eq!(both[name], old, "{name}");
            assert_eq!(both[format!("{name}-next").as_str()], new, "{name}");
            assert_eq!(both.len(), 3);
        }
    }

    #[test]
    fn behind_a_grace_only_the_new_key_signs_whatever_an_attempt_before_left() {
        for dialect in Dialect::ALL {
            let signer = rotating(dialect);
            let mut headers = signed(&signer, UNTIL - 1);
            signer.sign("evt_1", UNTIL, b"{}", &mut headers);
            assert_eq!(headers, signed(&alone(dialect, NEW), UNTIL), "{dialect:?}");
        }
    }

    #[test]
    fn a_grace_may_lead_from_one_kind_of_key_to_the_other() {
        let private = Secret::generate_for(SignatureKind::V1a).unwrap();
        let old = secret(OLD, Dialect::Standard);
        let signer = Signer::taking_over(Dialect::Standard, &private, &old, UNTIL).unwrap();
        let headers = signed(&signer, 0);
        let signatures: Vec<&str> = headers["webhook-signature"].to_str().unwrap().split(' ').collect();
        assert!(signatures[0].starts_with("v1a,") && signatures[1].starts_with("v1,"), "{signatures:?}");
    }
}
