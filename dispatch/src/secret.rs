//! What signs, as text: secrets, and how they are made and checked.
//!
//! | dialect | `signature` | secret |
//! |---|---|---|
//! | `standard` | `v1` | `whsec_` and base64 of 24 to 64 bytes |
//! | `standard` | `v1a` | `whsk_` and base64 of an ed25519 seed (32 bytes), or of seed and public key (64 bytes) |
//! | the others | `v1` | any printable text |
//!
//! Base64 is taken with and without padding. Neither `Debug` nor a fault prints a
//! secret.

use std::fmt;

use base64::Engine as _;
use base64::alphabet;
use base64::engine::DecodePaddingMode;
use base64::engine::general_purpose::{GeneralPurpose, GeneralPurposeConfig, STANDARD};
use ring::signature::{Ed25519KeyPair, KeyPair as _};

use crate::dialect::{Dialect, Scheme};
use crate::endpoint::SignatureKind;
use crate::id::{RandomFault, random_bytes};
use crate::vault::SEALED_PREFIX;

/// Begins a secret of Standard Webhooks.
pub const SECRET_PREFIX: &str = "whsec_";
/// Begins a private key of Standard Webhooks, which signs as `v1a`.
pub const PRIVATE_KEY_PREFIX: &str = "whsk_";
/// Begins the public key that belongs to it.
pub const PUBLIC_KEY_PREFIX: &str = "whpk_";
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
const SEED_BYTES: usize = 32;
const KEY_PAIR_BYTES: usize = 64;

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
        Secret::generate_for(SignatureKind::V1)
    }

    /// A new one for this kind of signature, which every dialect that has the kind takes.
    ///
    /// # Errors
    /// [`RandomFault`].
    ///
    /// # Panics
    /// If 32 random bytes are no ed25519 seed; any are.
    pub fn generate_for(signature: SignatureKind) -> Result<Secret, RandomFault> {
        let bytes = random_bytes::<KEY_BYTES_GENERATED>()?;
        Ok(Secret(match signature {
            SignatureKind::V1 => format!("{SECRET_PREFIX}{}", STANDARD.encode(bytes)),
            SignatureKind::V1a => {
                let pair = Ed25519KeyPair::from_seed_unchecked(&bytes).expect("any 32 bytes are a seed");
                let whole = [bytes.as_slice(), pair.public_key().as_ref()].concat();
                format!("{PRIVATE_KEY_PREFIX}{}", STANDARD.encode(whole))
            }
        }))
    }

    /// One that a caller brings. In `standard` its prefix says which kind of signature
    /// it makes.
    ///
    /// # Errors
    /// [`SecretFault`] if the dialect cannot sign with it.
    pub fn parse(text: &str, dialect: Dialect) -> Result<Secret, SecretFault> {
        let secret = Secret(text.to_owned());
        KeyMaterial::of(dialect, &secret).map(|_| secret)
    }

    /// The same for an endpoint that asks for this kind of signature.
    ///
    /// # Errors
    /// [`SecretFault`] if the dialect cannot sign with it, or makes another kind.
    pub fn parse_for(text: &str, dialect: Dialect, signature: SignatureKind) -> Result<Secret, SecretFault> {
        let prefixes = [(SignatureKind::V1, SECRET_PREFIX), (SignatureKind::V1a, PRIVATE_KEY_PREFIX)];
        let other =
            prefixes.into_iter().find(|(kind, prefix)| *kind != signature && text.starts_with(prefix));
        match (dialect.scheme(), other, signature) {
            (Scheme::Standard { .. }, Some(_), SignatureKind::V1) => Err(SecretFault::PrivateKey),
            (Scheme::Standard { .. }, _, SignatureKind::V1a) if !text.starts_with(PRIVATE_KEY_PREFIX) => {
                Err(SecretFault::NoPrivateKey)
            }
            _ => Secret::parse(text, dialect),
        }
    }

    /// The text itself, for the catalog and for whoever may ask for it.
    #[must_use]
    pub fn expose(&self) -> &str {
        &self.0
    }

    /// The public key, `whpk_...`, if it is a private key of Standard Webhooks.
    #[must_use]
    pub fn public_key(&self) -> Option<String> {
        let pair = decode_pair(self.0.strip_prefix(PRIVATE_KEY_PREFIX)?).ok()?;
        Some(format!("{PUBLIC_KEY_PREFIX}{}", STANDARD.encode(pair.public_key())))
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
    /// A private key where a shared one is asked for.
    #[error(
        "the secret is a private key (whsk_), which signs as v1a; send `signature` v1a with it, or a secret with whsec_"
    )]
    PrivateKey,
    /// No private key where one is asked for.
    #[error(
        "the secret does not begin with whsk_; v1a signs with whsk_ and base64 of an ed25519 key, leave it out to get one"
    )]
    NoPrivateKey,
    /// What follows `whsk_` is no key.
    #[error(
        "what follows whsk_ in the secret is no ed25519 key; send base64 of its 32 bytes, or of these and the 32 of its public key"
    )]
    KeyPair,
    /// The text is too short or too long.
    #[error("the secret has {chars} characters; send {SECRET_CHARS_MIN} to {SECRET_CHARS_MAX}")]
    TextLength {
        /// How many it has.
        chars: usize,
    },
    /// There is a character that nobody can see, most likely from copying.
    #[error("the secret has a control character or a line end; send printable characters only")]
    Unprintable,
    /// It looks like one that the catalog holds encrypted.
    #[error("the secret begins with {SEALED_PREFIX}, which is kept for encrypted ones; send another")]
    Reserved,
}

/// A checked secret's bytes.
pub(crate) enum KeyMaterial {
    /// For HMAC-SHA256.
    Shared(Vec<u8>),
    /// For ed25519.
    Pair(Box<Ed25519KeyPair>),
}

impl KeyMaterial {
    pub(crate) fn of(dialect: Dialect, secret: &Secret) -> Result<KeyMaterial, SecretFault> {
        let text = secret.expose();
        match (dialect.scheme(), text.strip_prefix(PRIVATE_KEY_PREFIX)) {
            (Scheme::Standard { .. }, Some(encoded)) => {
                decode_pair(encoded).map(|pair| KeyMaterial::Pair(Box::new(pair)))
            }
            (Scheme::Standard { .. }, None) => decode_key(text).map(KeyMaterial::Shared),
            (Scheme::Body { .. }, _) => Ok(KeyMaterial::Shared(check_text(text)?.as_bytes().to_vec())),
        }
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

/// A seed alone, or with the public key, which then must be the seed's own.
fn decode_pair(encoded: &str) -> Result<Ed25519KeyPair, SecretFault> {
    let bytes = EITHER_PADDING.decode(encoded).map_err(|_| SecretFault::KeyPair)?;
    let pair = match bytes.len() {
        SEED_BYTES => Ed25519KeyPair::from_seed_unchecked(&bytes),
        KEY_PAIR_BYTES => {
            let (seed, public) = bytes.split_at(SEED_BYTES);
            Ed25519KeyPair::from_seed_and_public_key(seed, public)
        }
        _ => return Err(SecretFault::KeyPair),
    };
    pair.map_err(|_| SecretFault::KeyPair)
}

fn check_text(text: &str) -> Result<&str, SecretFault> {
    if text.contains(char::is_control) {
        return Err(SecretFault::Unprintable);
    }
    if text.starts_with(SEALED_PREFIX) {
        return Err(SecretFault::Reserved);
    }
    match text.chars().count() {
        SECRET_CHARS_MIN..=SECRET_CHARS_MAX => Ok(text),
        chars => Err(SecretFault::TextLength { chars }),
    }
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
            (key_of(32).replace("whsec_", "whpk_"), Some(SecretFault::Prefix)),
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
    fn a_private_key_is_a_seed_alone_or_with_its_own_public_key() {
        let made = Secret::generate_for(SignatureKind::V1a).unwrap();
        let whole = STANDARD.decode(made.expose().strip_prefix("whsk_").unwrap()).unwrap();
        assert_eq!(whole.len(), 64);
        let private = |bytes: &[u8]| format!("whsk_{}", STANDARD.encode(bytes));
        let seed = Secret::parse(&private(&whole[..32]), Dialect::Standard).unwrap();
        assert_eq!(seed.public_key(), made.public_key());
        assert_eq!(made.public_key().unwrap(), format!("whpk_{}", STANDARD.encode(&whole[32..])));
        let mut other = whole.clone();
        other[40] ^= 1;
        for wrong in [private(&other), private(&whole[..31]), private(&whole[..48]), "whsk_?".to_owned()] {
            assert_eq!(fault(&wrong, Dialect::Standard), Some(SecretFault::KeyPair), "{wrong}");
        }
        assert_eq!(Secret(key_of(32)).public_key(), None);
    }

    #[test]
    fn a_secret_of_the_other_kind_is_refused() {
        let (shared, private) = (key_of(32), Secret::generate_for(SignatureKind::V1a).unwrap().0);
        let cases = [
            (&shared, SignatureKind::V1, None),
            (&shared, SignatureKind::V1a, Some(SecretFault::NoPrivateKey)),
            (&private, SignatureKind::V1, Some(SecretFault::PrivateKey)),
            (&private, SignatureKind::V1a, None),
        ];
        for (text, kind, expected) in cases {
            assert_eq!(Secret::parse_for(text, Dialect::Standard, kind).err(), expected, "{kind:?}");
        }
        // To the other dialects both are texts.
        assert!(Secret::parse_for(&private, Dialect::Avon, SignatureKind::V1).is_ok());
    }

    #[test]
    fn what_looks_encrypted_is_no_secret() {
        assert_eq!(fault("sealed.1.AAAAAAAAAAAA", Dialect::Avon), Some(SecretFault::Reserved));
    }

    #[test]
    fn neither_debug_nor_faults_show_a_secret() {
        let secret = Secret::parse(&key_of(32), Dialect::Standard).unwrap();
        assert_eq!(format!("{secret:?}"), "[redacted]");
        for text in ["whsec_?hunter2", "whsk_?hunter2"] {
            let fault = fault(text, Dialect::Standard).unwrap();
            assert!(!format!("{fault} {fault:?}").contains("hunter2"));
        }
    }
}
