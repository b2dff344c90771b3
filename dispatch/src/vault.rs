//! Secrets at rest.
//!
//! With a master key (`dispatch.master_key`) the catalog holds what signs deliveries
//! encrypted: AES-256-GCM under the master key, a random nonce of 12 bytes each, the
//! endpoint's id as associated data, so that a stored secret opens for its own endpoint
//! only.
//!
//! ```text
//! sealed.1.<base64 of nonce (12) | ciphertext | tag (16)>
//! ```
//!
//! No secret begins so in the clear: [`Secret::parse`](crate::signer::Secret::parse)
//! refuses it. Random nonces are safe for 2^32 secrets under one key.
//!
//! It protects copies of the catalog (backups, disks, snapshots); whoever reads the
//! server's memory or its settings has the keys.

use std::fmt;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use ring::aead::{AES_256_GCM, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};

use crate::id::{RandomFault, random_bytes};

/// Begins a secret that is encrypted, in every version of the form.
pub const SEALED_PREFIX: &str = "sealed.";
/// Bytes of a master key.
pub const MASTER_KEY_BYTES: usize = 32;

const VERSION_1: &str = "sealed.1.";

/// Encrypts and opens secrets of the catalog.
pub struct MasterKey(LessSafeKey);

impl MasterKey {
    /// Reads a key as the setting has it.
    ///
    /// # Errors
    /// [`MasterKeyFault`] if it is not base64 of 32 bytes.
    ///
    /// # Panics
    /// If AES-256 does not take 32 bytes; it does.
    pub fn parse(text: &str) -> Result<MasterKey, MasterKeyFault> {
        let bytes = STANDARD.decode(text.trim()).map_err(|_| MasterKeyFault)?;
        if bytes.len() != MASTER_KEY_BYTES {
            return Err(MasterKeyFault);
        }
        let key = UnboundKey::new(&AES_256_GCM, &bytes).expect("AES-256 takes keys of 32 bytes");
        Ok(MasterKey(LessSafeKey::new(key)))
    }

    /// Encrypts an endpoint's secret.
    ///
    /// # Errors
    /// [`RandomFault`].
    ///
    /// # Panics
    /// If a secret has 64 GiB.
    pub fn seal(&self, endpoint: &str, secret: &str) -> Result<String, RandomFault> {
        let nonce = random_bytes::<NONCE_LEN>()?;
        let mut text = secret.as_bytes().to_vec();
        let associated = Aad::from(endpoint.as_bytes());
        self.0
            .seal_in_place_append_tag(Nonce::assume_unique_for_key(nonce), associated, &mut text)
            .expect("secrets are a few hundred bytes");
        Ok(format!("{VERSION_1}{}", STANDARD.encode([nonce.as_slice(), &text].concat())))
    }

    /// Opens what [`MasterKey::seal`] made for the same endpoint.
    ///
    /// # Errors
    /// [`OpenFault`] if it was made with another key or for another endpoint, or was
    /// changed since.
    pub fn open(&self, endpoint: &str, sealed: &str) -> Result<String, OpenFault> {
        let encoded = sealed.strip_prefix(VERSION_1).ok_or(OpenFault)?;
        let bytes = STANDARD.decode(encoded).map_err(|_| OpenFault)?;
        let (nonce, text) = bytes.split_at_checked(NONCE_LEN).ok_or(OpenFault)?;
        let nonce = Nonce::try_assume_unique_for_key(nonce).map_err(|_| OpenFault)?;
        let mut text = text.to_vec();
        let associated = Aad::from(endpoint.as_bytes());
        let opened = self.0.open_in_place(nonce, associated, &mut text).map_err(|_| OpenFault)?;
        String::from_utf8(opened.to_vec()).map_err(|_| OpenFault)
    }
}

impl fmt::Debug for MasterKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("[redacted]")
    }
}

/// A setting that is no master key. It does not print it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("must be base64 of {MASTER_KEY_BYTES} random bytes, as `openssl rand -base64 32` prints them")]
pub struct MasterKeyFault;

/// A stored secret that does not open.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("it was encrypted with another key, for another endpoint, or was changed since")]
pub struct OpenFault;

/// Whether a stored secret is encrypted.
#[must_use]
pub fn is_sealed(stored: &str) -> bool {
    stored.starts_with(SEALED_PREFIX)
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECRET: &str = "whsec_AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=";

    fn key(byte: u8) -> MasterKey {
        MasterKey::parse(&STANDARD.encode([byte; 32])).unwrap()
    }

    #[test]
    fn a_sealed_secret_opens_with_its_key_for_its_endpoint_alone() {
        let sealed = key(1).seal("ep_a", SECRET).unwrap();
        assert!(is_sealed(&sealed) && !is_sealed(SECRET));
        assert!(!sealed.contains(SECRET));
        assert_eq!(key(1).open("ep_a", &sealed).unwrap(), SECRET);
        assert_eq!(key(1).open("ep_b", &sealed), Err(OpenFault));
        assert_eq!(key(2).open("ep_a", &sealed), Err(OpenFault));
    }

    #[test]
    fn what_was_changed_or_cut_does_not_open() {
        let sealed = key(1).seal("ep_a", SECRET).unwrap();
        for at in 0..sealed.len() {
            let mut bytes = sealed.clone().into_bytes();
            bytes[at] = if bytes[at] == b'A' { b'B' } else { b'A' };
            let changed = String::from_utf8(bytes).unwrap();
            assert_eq!(key(1).open("ep_a", &changed), Err(OpenFault), "{at}");
            assert_eq!(key(1).open("ep_a", &sealed[..at]), Err(OpenFault), "{at}");
        }
    }

    #[test]
    fn the_same_secret_never_looks_the_same() {
        let key = key(1);
        assert_ne!(key.seal("ep_a", SECRET).unwrap(), key.seal("ep_a", SECRET).unwrap());
    }

    #[test]
    fn a_master_key_is_base64_of_32_bytes_and_never_shown() {
        for text in ["", "hunter2", &STANDARD.encode([0; 31]), &STANDARD.encode([0; 33])] {
            let fault = MasterKey::parse(text).unwrap_err();
            assert!(text.is_empty() || !format!("{fault} {fault:?}").contains(text));
        }
        assert!(MasterKey::parse(&format!("{}\n", STANDARD.encode([0; 32]))).is_ok());
        assert_eq!(format!("{:?}", key(7)), "[redacted]");
    }
}
