//! Secrets and prepared keys.
//!
//! A [`Secret`] is what the subscriber knows, as text; a [`Signer`] is the same ready
//! to sign: an HMAC-SHA256 state that has already taken the key in, cloned for each
//! message, so that signing costs the body's bytes and no more (about 1.8 GB/s a
//! core).
//!
//! | dialect | key | signed |
//! |---|---|---|
//! | `standard` | the bytes that base64 behind `whsec_` gives | `id.timestamp.body` |
//! | the others | the secret's own text, `whsec_` and all, UTF-8 | `body` |
//!
//! The bytes signed are the bytes sent; nothing is serialised twice. What it does not
//! do yet: sign with an old key beside the new one during a rotation, and `v1a`
//! (ed25519). Both are a second `Key` in [`Signer`], and a second signature where
//! [`Signer::sign`] writes the first.

use std::fmt;

use base64::Engine as _;
use base64::alphabet;
use base64::engine::DecodePaddingMode;
use base64::engine::general_purpose::{GeneralPurpose, GeneralPurposeConfig, STANDARD};
use hmac::{Hmac, KeyInit as _, Mac as _};
use hyper::HeaderMap;
use hyper::header::{HeaderName, HeaderValue};
use sha2::Sha256;

use crate::dialect::{Dialect, Scheme, StandardHeaders};
use crate::id::{RandomFault, random_bytes};

/// Begins a secret of Standard Webhooks.
pub const SECRET_PREFIX: &str = "whsec_";
/// Fewest bytes of a `standard` key, by Standard Webhooks.
pub const KEY_BYTES_MIN: usize = 24;
/// Most bytes of a `standard` key, by Standard Webhooks; also a block of SHA-256,
/// behind which longer keys gain nothing.
pub const KEY_BYTES_MAX: usize = 64;
/// Fewest characters of any other secret. Low, because a receiver that moves here
/// keeps the secret it has, and those in the field have as few as 12.
pub const SECRET_CHARS_MIN: usize = 8;
/// Most characters of any other secret; bounds what is stored.
pub const SECRET_CHARS_MAX: usize = 256;

const KEY_BYTES_GENERATED: usize = 32;
const WEBHOOK_ID: HeaderName = HeaderName::from_static("webhook-id");

/// Receivers write keys with and without padding.
const EITHER_PADDING: GeneralPurpose = GeneralPurpose::new(
    &alphabet::STANDARD,
    GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent),
);

/// What a subscriber and we know, and nobody else.
#[derive(Clone)]
pub struct Secret(String);

impl Secret {
    /// A new one: `whsec_` and base64 of 32 random bytes, which every dialect takes.
    ///
    /// # Errors
    /// [`RandomFault`].
    pub fn generate(_dialect: Dialect) -> Result<Secret, RandomFault> {
        let bytes = random_bytes::<KEY_BYTES_GENERATED>()?;
        Ok(Secret(format!("{SECRET_PREFIX}{}", STANDARD.encode(bytes))))
    }

    /// One that a caller brings.
    ///
    /// # Errors
    /// [`SecretFault`] if the dialect cannot sign with it.
    pub fn parse(text: &str, dialect: Dialect) -> Result<Secret, SecretFault> {
        let secret = Secret(text.to_owned());
        Signer::new(dialect, &secret).map(|_| secret)
    }

    /// The text itself, for the catalog and for whoever may ask for it.
    #[must_use]
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("[redacted]")
    }
}

/// Why a secret cannot sign. None of them prints it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SecretFault {
    /// It does not begin as keys of Standard Webhooks do.
    #[error(
        "the secret does not begin with whsec_; send whsec_ and base64 of 24 to 64 bytes, or leave it out to get one"
    )]
    Prefix,
    /// What follows the prefix cannot be decoded.
    #[error(
        "what follows whsec_ in the secret is not base64; send base64 of 24 to 64 bytes in the alphabet with + and /"
    )]
    Base64,
    /// The key is too short or too long.
    #[error(
        "the secret's key has {bytes} bytes; send base64 of {KEY_BYTES_MIN} to {KEY_BYTES_MAX} bytes behind whsec_"
    )]
    KeyLength {
        /// How many it has.
        bytes: usize,
    },
    /// The text is too short or too long.
    #[error("the secret has {chars} characters; send {SECRET_CHARS_MIN} to {SECRET_CHARS_MAX}")]
    TextLength {
        /// How many it has.
        chars: usize,
    },
    /// There is a character that nobody can see, most likely from copying.
    #[error("the secret has a control character or a line end; send printable characters only")]
    Unprintable,
}

/// An endpoint's key, ready to sign.
#[derive(Clone)]
pub struct Signer {
    scheme: &'static Scheme,
    key: Key,
}

impl Signer {
    /// Prepares an endpoint's key.
    ///
    /// # Errors
    /// [`SecretFault`] if the dialect cannot sign with the secret.
    pub fn new(dialect: Dialect, secret: &Secret) -> Result<Signer, SecretFault> {
        let scheme = dialect.scheme();
        let key = match scheme {
            Scheme::Standard { .. } => Key::new(&decode_key(&secret.0)?),
            Scheme::Body { .. } => Key::new(check_text(&secret.0)?.as_bytes()),
        };
        Ok(Signer { scheme, key })
    }

    /// Signs a body, and inserts the id and everything the receiver checks it by.
    /// `unix_seconds` is the attempt's time: receivers refuse what is older than 5
    /// minutes.
    ///
    /// # Panics
    /// If the id cannot stand in a header; ours can.
    pub fn sign(&self, id: &str, unix_seconds: u64, body: &[u8], headers: &mut HeaderMap) {
        let id_value = HeaderValue::from_str(id).expect("ids are visible ASCII");
        match self.scheme {
            Scheme::Standard { headers: names } => {
                let values = StandardValues::new(&self.key, id_value, unix_seconds, body);
                names.iter().for_each(|names| values.insert(names, headers));
            }
            Scheme::Body { header, prefix } => {
                headers.insert(WEBHOOK_ID, id_value);
                headers.insert(header, visible(format!("{prefix}{}", hex(&self.key.tag(&[body])))));
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
    fn new(key: &Key, id: HeaderValue, unix_seconds: u64, body: &[u8]) -> StandardValues {
        let timestamp = HeaderValue::from(unix_seconds);
        let tag = key.tag(&[id.as_bytes(), b".", timestamp.as_bytes(), b".", body]);
        let signature = visible(format!("v1,{}", STANDARD.encode(tag)));
        StandardValues { id, timestamp, signature }
    }

    fn insert(&self, names: &StandardHeaders, headers: &mut HeaderMap) {
        headers.insert(&names.id, self.id.clone());
        headers.insert(&names.timestamp, self.timestamp.clone());
        headers.insert(&names.signature, self.signature.clone());
    }
}

/// HMAC-SHA256 that has taken its key in.
#[derive(Clone)]
struct Key(Hmac<Sha256>);

impl Key {
    fn new(bytes: &[u8]) -> Key {
        Key(Hmac::new_from_slice(bytes).expect("HMAC takes keys of any length"))
    }

    fn tag(&self, parts: &[&[u8]]) -> [u8; 32] {
        let mut mac = self.0.clone();
        parts.iter().for_each(|part| mac.update(part));
        mac.finalize().into_bytes().into()
    }
}

fn decode_key(text: &str) -> Result<Vec<u8>, SecretFault> {
    let encoded = text.strip_prefix(SECRET_PREFIX).ok_or(SecretFault::Prefix)?;
    // The decoder's own error would print a character of the key.
    let key = EITHER_PADDING.decode(encoded).map_err(|_| SecretFault::Base64)?;
    match key.len() {
        KEY_BYTES_MIN..=KEY_BYTES_MAX => Ok(key),
        bytes => Err(SecretFault::KeyLength { bytes }),
    }
}

fn check_text(text: &str) -> Result<&str, SecretFault> {
    if text.contains(char::is_control) {
        return Err(SecretFault::Unprintable);
    }
    match text.chars().count() {
        SECRET_CHARS_MIN..=SECRET_CHARS_MAX => Ok(text),
        chars => Err(SecretFault::TextLength { chars }),
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

    /// base64 of this many zero bytes, behind the prefix.
    fn key_of(bytes: usize) -> String {
        format!("whsec_{}", STANDARD.encode(vec![0; bytes]))
    }

    fn fault(text: &str, dialect: Dialect) -> Option<SecretFault> {
        Secret::parse(text, dialect).err()
    }

    #[test]
    fn standard_takes_keys_of_24_to_64_bytes_and_no_other() {
        let cases = [
            (key_of(23), Some(SecretFault::KeyLength { bytes: 23 })),
            (key_of(24), None),
            (key_of(25).trim_end_matches('=').into(), None),
            (key_of(64), None),
            (key_of(65), Some(SecretFault::KeyLength { bytes: 65 })),
            ("whsec_".into(), Some(SecretFault::KeyLength { bytes: 0 })),
            ("whsec_-_-_".into(), Some(SecretFault::Base64)),
            (format!("{}\n", key_of(32)), Some(SecretFault::Base64)),
            (key_of(32).replace("whsec_", "whsk_"), Some(SecretFault::Prefix)),
            (String::new(), Some(SecretFault::Prefix)),
        ];
        for (text, expected) in cases {
            assert_eq!(fault(&text, Dialect::Standard), expected, "{text}");
        }
    }

    #[test]
    fn the_other_dialects_take_any_printable_text() {
        let cases = [
            ("k".repeat(7), Some(SecretFault::TextLength { chars: 7 })),
            ("s3cr3t-ñandú".into(), None),
            ("ключ-🔑 ключ".into(), None),
            (key_of(32), None),
            ("é".repeat(256), None),
            ("é".repeat(257), Some(SecretFault::TextLength { chars: 257 })),
            ("a secret with a line end\n".into(), Some(SecretFault::Unprintable)),
        ];
        for dialect in [Dialect::Avycenna, Dialect::Avon, Dialect::Azodha] {
            for (text, expected) in &cases {
                assert_eq!(fault(text, dialect), *expected, "{text}");
            }
        }
    }

    #[test]
    fn generated_secrets_differ_and_serve_every_dialect() {
        let secret = Secret::generate(Dialect::Standard).unwrap();
        assert_ne!(secret.expose(), Secret::generate(Dialect::Standard).unwrap().expose());
        assert_eq!(secret.expose().len(), 6 + 44);
        for dialect in Dialect::ALL {
            assert_eq!(fault(secret.expose(), dialect), None);
        }
    }

    #[test]
    fn neither_debug_nor_faults_show_a_secret() {
        let secret = Secret::parse(&key_of(32), Dialect::Standard).unwrap();
        let signer = Signer::new(Dialect::Standard, &secret).unwrap();
        assert_eq!(format!("{secret:?} {signer:?}"), "[redacted] Signer([redacted])");
        let fault = fault("whsec_?hunter2", Dialect::Standard).unwrap();
        assert!(!format!("{fault} {fault:?}").contains("hunter2"));
    }

    #[test]
    fn every_dialect_sends_its_id_and_its_own_headers() {
        let names = |dialect| {
            let signer = Signer::new(dialect, &Secret(key_of(32))).unwrap();
            let mut headers = HeaderMap::new();
            signer.sign("evt_1", 1_700_000_000, b"{}", &mut headers);
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
        let signer = Signer::new(Dialect::Standard, &Secret(key_of(32))).unwrap();
        let mut headers = HeaderMap::new();
        signer.sign("evt_1", 1_700_000_000, b"{}", &mut headers);
        let first = headers.clone();
        signer.sign("evt_1", 1_700_000_005, b"{}", &mut headers);
        assert_eq!(headers.len(), 6);
        assert_eq!(headers["svix-timestamp"], "1700000005");
        assert_eq!(headers["svix-signature"], headers["webhook-signature"]);
        assert_ne!(headers["webhook-signature"], first["webhook-signature"]);
    }
}
