//! Signatures of webhooks as a receiver verifies them, and as a sender makes them.
//!
//! | dialect | key | signed | header |
//! |---|---|---|---|
//! | `standard` | what the base64 behind `whsec_` decodes to | `id.timestamp.body` | `webhook-signature: v1,<base64>`, several separated by spaces |
//! | `avycenna` | the secret's bytes as they are | `body` | `x-avycenna-signature: sha256=<hex>` |
//!
//! Both are HMAC-SHA256, compared in constant time. A [`Key`] holds the hash with
//! the secret's block already in it and is cloned for each message, which saves
//! hashing two blocks and decoding the secret.
//!
//! Not here: ed25519 (`v1a`), the dialects of Avon and Azodha, `svix-*` headers
//! (they repeat the three of `standard`).

use std::fmt;
use std::str::FromStr;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use base64::Engine;
use base64::alphabet;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};
use hmac::{Hmac, KeyInit, Mac};
use hyper::HeaderMap;
use hyper::header::{HeaderName, HeaderValue};
use sha2::Sha256;

/// The id of an event, the same at every attempt and endpoint.
pub const ID: HeaderName = HeaderName::from_static("webhook-id");
/// When the attempt was made, in Unix seconds.
pub const TIMESTAMP: HeaderName = HeaderName::from_static("webhook-timestamp");
/// The signature of `standard`.
pub const STANDARD: HeaderName = HeaderName::from_static("webhook-signature");
/// The signature of `avycenna`.
pub const AVYCENNA: HeaderName = HeaderName::from_static("x-avycenna-signature");

/// What receivers of Standard Webhooks allow between an attempt and its arrival.
pub const TIMESTAMP_TOLERANCE: Duration = Duration::from_secs(5 * 60);

const SECRET_PREFIX: &str = "whsec_";
const SIGNATURE_BYTES: usize = 32;
/// Secrets are around with padding and without.
const BASE64: GeneralPurpose = GeneralPurpose::new(
    &alphabet::STANDARD,
    GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent),
);

/// How a body is signed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Dialect {
    /// Standard Webhooks: id, timestamp and body.
    #[default]
    Standard,
    /// AVYCENNA's: the body alone.
    Avycenna,
}

/// No dialect by this name.
#[derive(Debug, thiserror::Error)]
#[error("{name:?} is not a dialect: standard, avycenna")]
pub struct UnknownDialect {
    name: String,
}

/// An endpoint's secret; prints as `[redacted]`.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(String);

/// The secret of a dialect cannot be read.
#[derive(Debug, thiserror::Error)]
#[error("the secret is not whsec_ and base64")]
pub struct SecretError(#[source] base64::DecodeError);

/// A secret made ready for one dialect.
#[derive(Clone)]
pub struct Key {
    dialect: Dialect,
    prepared: Hmac<Sha256>,
}

/// Why a request is not what its sender signed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum SignatureFault {
    /// A header is missing or cannot be read.
    #[error("a header of the signature is missing")]
    HeaderMissing,
    /// The attempt is more than 5 minutes away.
    #[error("the timestamp is more than 5 minutes away")]
    Stale,
    /// Signed with another secret, or altered on the way.
    #[error("the signature is another one")]
    Mismatch,
}

impl Dialect {
    /// Its name in the server's API.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Standard => "standard",
            Self::Avycenna => "avycenna",
        }
    }
}

impl fmt::Display for Dialect {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for Dialect {
    type Err = UnknownDialect;

    fn from_str(name: &str) -> Result<Self, UnknownDialect> {
        let all = [Self::Standard, Self::Avycenna];
        let named = all.into_iter().find(|dialect| dialect.as_str() == name);
        named.ok_or_else(|| UnknownDialect { name: name.to_owned() })
    }
}

impl Secret {
    /// Takes the secret as the server printed it.
    pub fn new(secret: impl Into<String>) -> Self {
        Self(secret.into())
    }

    /// The text, for the server that is to sign with it.
    pub(crate) fn reveal(&self) -> &str {
        &self.0
    }
}

impl From<&str> for Secret {
    fn from(secret: &str) -> Self {
        Self::new(secret)
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("[redacted]")
    }
}

impl Key {
    /// Prepares `secret` for `dialect`; a secret of `standard` is base64, with
    /// `whsec_` before it or without.
    pub fn prepare(dialect: Dialect, secret: &Secret) -> Result<Self, SecretError> {
        let text = secret.0.as_str();
        let decoded;
        let bytes = match dialect {
            Dialect::Standard => {
                decoded = BASE64.decode(text.strip_prefix(SECRET_PREFIX).unwrap_or(text));
                decoded.as_deref().map_err(|error| SecretError(error.clone()))?
            }
            Dialect::Avycenna => text.as_bytes(),
        };
        let prepared = Hmac::new_from_slice(bytes).expect("HMAC takes keys of any length");
        Ok(Self { dialect, prepared })
    }

    /// How it signs.
    pub fn dialect(&self) -> Dialect {
        self.dialect
    }

    /// Whether the holder of the secret sent this body, about now.
    pub fn verify(&self, headers: &HeaderMap, body: &[u8], now: SystemTime) -> Result<(), SignatureFault> {
        match self.dialect {
            Dialect::Standard => self.verify_standard(headers, body, now),
            Dialect::Avycenna => self.verify_avycenna(headers, body),
        }
    }

    /// The headers under which `body` is sent at `now`; `id` is an event's id, of
    /// visible ASCII characters.
    pub fn sign(&self, id: &str, body: &[u8], now: SystemTime) -> HeaderMap {
        let seconds = unix_seconds(now).to_string();
        let mut headers = HeaderMap::with_capacity(3);
        headers.insert(ID, value(id));
        match self.dialect {
            Dialect::Standard => {
                let digest = self.mac_of(id.as_bytes(), seconds.as_bytes(), body).finalize();
                headers.insert(TIMESTAMP, value(&seconds));
                headers.insert(STANDARD, value(&format!("v1,{}", BASE64.encode(digest.into_bytes()))));
            }
            Dialect::Avycenna => {
                let digest = self.prepared.clone().chain_update(body).finalize();
                headers.insert(AVYCENNA, value(&format!("sha256={}", hex(&digest.into_bytes()))));
            }
        }
        headers
    }

    fn verify_standard(
        &self,
        headers: &HeaderMap,
        body: &[u8],
        now: SystemTime,
    ) -> Result<(), SignatureFault> {
        let id = header(headers, &ID)?;
        let timestamp = header(headers, &TIMESTAMP)?;
        let signatures = header(headers, &STANDARD)?;
        let seconds: u64 = timestamp.parse().map_err(|_| SignatureFault::HeaderMissing)?;
        if seconds.abs_diff(unix_seconds(now)) > TIMESTAMP_TOLERANCE.as_secs() {
            return Err(SignatureFault::Stale);
        }
        let mac = self.mac_of(id.as_bytes(), timestamp.as_bytes(), body);
        let mut claims = signatures.split(' ').filter_map(|claim| claim.strip_prefix("v1,"));
        let fits = claims.any(|claim| {
            let mut claimed = [0; SIGNATURE_BYTES + 2];
            let length = BASE64.decode_slice(claim, &mut claimed).unwrap_or(0);
            mac.clone().verify_slice(&claimed[..length]).is_ok()
        });
        if fits { Ok(()) } else { Err(SignatureFault::Mismatch) }
    }

    fn verify_avycenna(&self, headers: &HeaderMap, body: &[u8]) -> Result<(), SignatureFault> {
        let claim = header(headers, &AVYCENNA)?;
        let claimed = claim.strip_prefix("sha256=").and_then(unhex).ok_or(SignatureFault::Mismatch)?;
        let mac = self.prepared.clone().chain_update(body);
        mac.verify_slice(&claimed).map_err(|_| SignatureFault::Mismatch)
    }

    fn mac_of(&self, id: &[u8], timestamp: &[u8], body: &[u8]) -> Hmac<Sha256> {
        let mut mac = self.prepared.clone();
        for part in [id, b".", timestamp, b".", body] {
            mac.update(part);
        }
        mac
    }
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Key({}, [redacted])", self.dialect)
    }
}

fn header<'a>(headers: &'a HeaderMap, name: &HeaderName) -> Result<&'a str, SignatureFault> {
    let value = headers.get(name).and_then(|value| value.to_str().ok());
    value.filter(|text| !text.is_empty()).ok_or(SignatureFault::HeaderMissing)
}

fn value(text: &str) -> HeaderValue {
    HeaderValue::from_str(text).expect("ids and signatures are visible ASCII")
}

fn unix_seconds(time: SystemTime) -> u64 {
    time.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs()
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// The bytes of 64 hexadecimal digits of either case.
fn unhex(text: &str) -> Option<[u8; SIGNATURE_BYTES]> {
    let digits = text.as_bytes();
    let mut bytes = [0; SIGNATURE_BYTES];
    if digits.len() != 2 * SIGNATURE_BYTES {
        return None;
    }
    for (byte, pair) in bytes.iter_mut().zip(digits.chunks_exact(2)) {
        let [high, low] = [pair[0], pair[1]].map(|digit| char::from(digit).to_digit(16));
        *byte = (high? << 4 | low?) as u8;
    }
    Some(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: u64) -> SystemTime {
        UNIX_EPOCH + Duration::from_secs(seconds)
    }

    fn key(dialect: Dialect, secret: &str) -> Key {
        Key::prepare(dialect, &secret.into()).expect("a good secret")
    }

    fn standard() -> Key {
        key(Dialect::Standard, "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw")
    }

    fn headers(pairs: &[(HeaderName, &str)]) -> HeaderMap {
        pairs.iter().map(|(name, text)| (name.clone(), value(text))).collect()
    }

    #[test]
    fn published_vectors_of_standard_webhooks_verify_and_are_made() {
        for (secret, id, seconds, body, signature) in [
            (
                "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw",
                "msg_p5jXN8AQM9LWM0D4loKWxJek",
                1_614_265_330,
                "{\"test\": 2432232314}",
                "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=",
            ),
            (
                "whsec_C2FVsBQIhrscChlQIMV+b5sSYspob7oD",
                "msg_27UH4WbU6Z5A5EzD8u03UvzRbpk",
                1_649_367_553,
                "{\"email\":\"test@example.com\",\"username\":\"test_user\"}",
                "v1,tZ1I4/hDygAJgO5TYxiSd6Sd0kDW6hPenDe+bTa3Kkw=",
            ),
            (
                "whsec_MRuF3MW7YGwsZ+5FBGaY7NEoXIi78DaIIHbvtXZdMYA",
                "evt_2yTfMq7JtB0eV8kQwZ1aXd",
                1_782_804_601,
                "{}\n",
                "v1,WeAWN6T3Y73mW9sZjFARwYBx1/j3Pnwg5ZqZyKTP7U8=",
            ),
        ] {
            let key = key(Dialect::Standard, secret);
            let made = key.sign(id, body.as_bytes(), at(seconds));
            assert_eq!(made[&STANDARD], signature);
            assert_eq!(key.verify(&made, body.as_bytes(), at(seconds)), Ok(()));
        }
    }

    #[test]
    fn one_right_signature_among_several_is_enough() {
        let mut rotated = standard().sign("evt_1", b"{}", at(1_000));
        let right = rotated[&STANDARD].to_str().expect("text").to_owned();
        let both = format!("v1a,AAAA v1,AAAA v1,not-base64 {right}");
        rotated.insert(STANDARD, value(&both));
        assert_eq!(standard().verify(&rotated, b"{}", at(1_000)), Ok(()));
    }

    #[test]
    fn anything_altered_is_a_mismatch() {
        let signed = standard().sign("evt_1", b"{}", at(1_000));
        let faults = [
            standard().verify(&signed, b"{ }", at(1_000)),
            key(Dialect::Standard, "whsec_AAAA").verify(&signed, b"{}", at(1_000)),
            standard().verify(&with(&signed, ID, "evt_2"), b"{}", at(1_000)),
            standard().verify(&with(&signed, TIMESTAMP, "1001"), b"{}", at(1_000)),
            standard().verify(&with(&signed, STANDARD, "v1,"), b"{}", at(1_000)),
        ];
        assert_eq!(faults, [Err(SignatureFault::Mismatch); 5]);
    }

    fn with(headers: &HeaderMap, name: HeaderName, text: &str) -> HeaderMap {
        let mut changed = headers.clone();
        changed.insert(name, value(text));
        changed
    }

    #[test]
    fn timestamps_are_taken_five_minutes_around_now() {
        let signed = standard().sign("evt_1", b"{}", at(1_000));
        for (now, verdict) in [
            (700, Ok(())),
            (1_300, Ok(())),
            (699, Err(SignatureFault::Stale)),
            (1_301, Err(SignatureFault::Stale)),
        ] {
            assert_eq!(standard().verify(&signed, b"{}", at(now)), verdict, "at {now}");
        }
    }

    #[test]
    fn a_missing_header_is_told_from_a_wrong_one() {
        let signed = standard().sign("evt_1", b"{}", at(1_000));
        for name in [ID, TIMESTAMP, STANDARD] {
            let mut short = signed.clone();
            short.remove(&name);
            let verdict = standard().verify(&short, b"{}", at(1_000));
            assert_eq!(verdict, Err(SignatureFault::HeaderMissing), "{name}");
        }
        let bare = key(Dialect::Avycenna, "s").verify(&HeaderMap::new(), b"{}", at(0));
        assert_eq!(bare, Err(SignatureFault::HeaderMissing));
    }

    #[test]
    fn avycenna_signs_the_body_with_the_secret_as_text() {
        let key = key(Dialect::Avycenna, "key");
        let body = b"The quick brown fox jumps over the lazy dog";
        let digest = "f7bc83f430538424b13298e6aa6fb143ef4d59a14946175997479dbc2d1a3cd8";
        let signature = format!("sha256={digest}");
        assert_eq!(key.sign("evt_1", body, at(0))[&AVYCENNA], signature.as_str());
        for (claim, verdict) in [
            (signature.as_str(), Ok(())),
            (&signature.to_uppercase().replace("SHA", "sha"), Ok(())),
            (digest, Err(SignatureFault::Mismatch)),
            ("sha256=", Err(SignatureFault::Mismatch)),
            (&signature.replace('f', "0"), Err(SignatureFault::Mismatch)),
        ] {
            assert_eq!(key.verify(&headers(&[(AVYCENNA, claim)]), body, at(0)), verdict, "{claim}");
        }
    }

    #[test]
    fn secrets_and_keys_never_print() {
        let secret = Secret::new("whsec_c2VjcmV0");
        let key = Key::prepare(Dialect::Standard, &secret).expect("a good secret");
        assert_eq!(format!("{secret:?} {key:?}"), "[redacted] Key(standard, [redacted])");
        assert!(Key::prepare(Dialect::Standard, &"whsec_?".into()).is_err());
    }

    #[test]
    fn dialects_are_read_by_their_names() {
        for dialect in [Dialect::Standard, Dialect::Avycenna] {
            assert_eq!(dialect.to_string().parse::<Dialect>().ok(), Some(dialect));
        }
        assert!("svix".parse::<Dialect>().is_err());
    }
}
