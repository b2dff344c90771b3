//! API keys: how they look, how they are made, what is kept of them.
//!
//! A key is `avk_` and 43 characters of URL-safe base64, which are 32 random
//! bytes. Only its SHA-256 is kept: the key has as many bits as the hash, so
//! nothing slower is needed.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use sha2::{Digest, Sha256};
use systole_engine::KeyRecord;

use super::{Scopes, Secret};

/// What every key begins with.
pub const KEY_PREFIX: &str = "avk_";

/// The shortest and the longest text that is looked up at all.
const KEY_CHARS: std::ops::RangeInclusive<usize> = 16..=256;
const KEY_RANDOM_BYTES: usize = 32;
const ID_RANDOM_BYTES: usize = 16;

/// What identifies a key in memory and in the catalog.
pub(crate) type KeyHash = [u8; 32];

/// The system's random numbers are not to be had.
#[derive(Debug, thiserror::Error)]
#[error("no random numbers: {0}")]
pub struct RandomFault(getrandom::Error);

/// Whose a new key is.
#[derive(Clone, Debug)]
pub struct KeySpec {
    /// Organisation.
    pub org: String,
    /// The user it is bound to.
    pub user: Option<String>,
    /// A name for people.
    pub name: Option<String>,
    /// What it may do.
    pub scopes: Scopes,
    /// Milliseconds since 1970.
    pub created_at: i64,
}

/// A key that is nowhere stored.
pub(crate) fn random_key() -> Result<Secret, RandomFault> {
    Ok(Secret::new(format!("{KEY_PREFIX}{}", random_text::<KEY_RANDOM_BYTES>()?)))
}

/// Makes a key; the record is for the catalog, the secret for its owner.
///
/// # Errors
/// [`RandomFault`] if the system gives no random numbers.
pub fn make_key(spec: KeySpec) -> Result<(Secret, KeyRecord), RandomFault> {
    let key = random_key()?;
    let record = KeyRecord {
        id: format!("key_{}", random_text::<ID_RANDOM_BYTES>()?),
        org: spec.org,
        user: spec.user,
        name: spec.name,
        scopes: spec.scopes.to_string(),
        hash: hash_key(key.expose()),
        created_at: spec.created_at,
    };
    Ok((key, record))
}

/// Whether a text could be a key: then it is worth looking up.
#[must_use]
pub fn is_key_shaped(text: &str) -> bool {
    text.starts_with(KEY_PREFIX)
        && KEY_CHARS.contains(&text.len())
        && text.bytes().all(|b| b.is_ascii_graphic())
}

pub(crate) fn hash_key(text: &str) -> KeyHash {
    Sha256::digest(text.as_bytes()).into()
}

fn random_text<const BYTES: usize>() -> Result<String, RandomFault> {
    let mut bytes = [0; BYTES];
    getrandom::fill(&mut bytes).map_err(RandomFault)?;
    Ok(URL_SAFE_NO_PAD.encode(bytes))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::auth::Scope;

    #[test]
    fn a_made_key_has_its_documented_shape_and_never_shows_itself() {
        let spec = KeySpec {
            org: "default".to_owned(),
            user: None,
            name: None,
            scopes: Scopes::of(&[Scope::Read]),
            created_at: 0,
        };
        let (key, record) = make_key(spec).unwrap();
        assert_eq!(key.expose().len(), 4 + 43);
        assert!(is_key_shaped(key.expose()));
        assert_eq!(record.id.len(), 4 + 22);
        assert_eq!(record.hash, hash_key(key.expose()));
        assert_eq!(format!("{key:?}"), "[redacted]");
    }
}
