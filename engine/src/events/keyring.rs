//! Secrets between the catalog, which may hold them encrypted, and what signs.
//!
//! A record's secrets are in memory as they are in the catalog: with a master key
//! encrypted. They are opened where a signer is prepared or their owner asks for them.

use std::sync::Arc;

use systole_dispatch::id::RandomFault;
use systole_dispatch::vault::{MasterKey, OpenFault, is_sealed};
use systole_storage::{Catalog, CatalogError, EndpointRecord};

/// Why stored secrets cannot be used. One line, and nothing of a secret in it.
#[derive(Debug, thiserror::Error)]
pub enum KeyringFault {
    /// They are encrypted and there is no key.
    #[error(
        "is not set, but the secrets of webhook endpoints in the catalog are encrypted; set the key they were encrypted with"
    )]
    Missing,
    /// They are encrypted with another key.
    #[error("does not open the secret of webhook endpoint {endpoint}: {fault}")]
    Other {
        /// The first that does not open.
        endpoint: String,
        /// What is wrong with it.
        fault: OpenFault,
    },
}

/// Why secrets were not brought into their form.
#[derive(Debug, thiserror::Error)]
pub(super) enum PrepareFault {
    #[error("the master key does not fit")]
    Keyring(#[from] KeyringFault),
    #[error("the catalog failed")]
    Catalog(#[from] CatalogError),
    #[error("cannot encrypt")]
    Random(#[from] RandomFault),
}

/// Keeps and opens secrets.
#[derive(Clone, Debug, Default)]
pub(super) struct Keyring {
    master: Option<Arc<MasterKey>>,
}

impl Keyring {
    pub(super) fn new(master: Option<Arc<MasterKey>>) -> Keyring {
        Keyring { master }
    }

    /// A secret as the catalog is to hold it.
    pub(super) fn keep(&self, endpoint: &str, secret: &str) -> Result<String, RandomFault> {
        match &self.master {
            None => Ok(secret.to_owned()),
            Some(master) => master.seal(endpoint, secret),
        }
    }

    /// What the catalog holds, as a secret.
    pub(super) fn open(&self, endpoint: &str, stored: &str) -> Result<String, KeyringFault> {
        if !is_sealed(stored) {
            return Ok(stored.to_owned());
        }
        let master = self.master.as_ref().ok_or(KeyringFault::Missing)?;
        master
            .open(endpoint, stored)
            .map_err(|fault| KeyringFault::Other { endpoint: endpoint.to_owned(), fault })
    }

    /// Encrypts what is still plain, if there is a key, and sees that the rest opens.
    pub(super) fn prepare(
        &self,
        catalog: &Catalog,
        records: &mut [EndpointRecord],
    ) -> Result<(), PrepareFault> {
        let mut sealed = 0;
        for record in records.iter_mut() {
            let EndpointRecord { id, secret, previous, .. } = record;
            for stored in [Some(secret), previous.as_mut().map(|previous| &mut previous.secret)] {
                let Some(stored) = stored else { continue };
                let opened = self.open(id, stored)?;
                if self.master.is_some() && !is_sealed(stored) {
                    *stored = self.keep(id, &opened)?;
                    sealed += 1;
                }
            }
        }
        if sealed > 0 {
            catalog.keep_secrets(records.iter())?;
            tracing::info!(secrets = sealed, "secrets of webhook endpoints are now encrypted in the catalog");
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use systole_storage::{PreviousSecret, Sequence};

    use super::*;

    /// base64 of 32 zero bytes and of 32 others.
    const ZEROS: &str = "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=";
    const ONES: &str = "AQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQE=";

    fn keyring(key: Option<&str>) -> Keyring {
        Keyring::new(key.map(|key| Arc::new(MasterKey::parse(key).unwrap())))
    }

    fn record(id: &str) -> EndpointRecord {
        EndpointRecord {
            id: id.to_owned(),
            number: 0,
            org: "acme".to_owned(),
            settings: "{}".to_owned(),
            secret: "plain-secret".to_owned(),
            previous: Some(PreviousSecret { secret: "plain-previous".to_owned(), until: 7 }),
            start: Sequence(0),
            created_at: 1,
            updated_at: 1,
        }
    }

    #[test]
    fn a_start_with_a_key_encrypts_what_is_plain_and_the_next_one_needs_it() {
        let dir = tempfile::tempdir().unwrap();
        let catalog = Catalog::open(dir.path()).unwrap();
        for id in ["ep_a", "ep_b"] {
            catalog.insert_endpoint(&record(id)).unwrap();
        }
        let mut records = catalog.endpoints().unwrap();
        keyring(None).prepare(&catalog, &mut records).unwrap();
        assert_eq!(records[0].secret, "plain-secret");
        keyring(Some(ZEROS)).prepare(&catalog, &mut records).unwrap();
        let stored = catalog.endpoints().unwrap();
        assert_eq!(stored, records);
        for record in &stored {
            let previous = record.previous.as_ref().unwrap();
            assert!(is_sealed(&record.secret) && is_sealed(&previous.secret));
            assert_eq!(keyring(Some(ZEROS)).open(&record.id, &record.secret).unwrap(), "plain-secret");
            assert_eq!(keyring(Some(ZEROS)).open(&record.id, &previous.secret).unwrap(), "plain-previous");
        }
        // Another start changes nothing.
        keyring(Some(ZEROS)).prepare(&catalog, &mut records).unwrap();
        assert_eq!(records, stored);
        let missing = keyring(None).prepare(&catalog, &mut records).unwrap_err();
        assert!(matches!(missing, PrepareFault::Keyring(KeyringFault::Missing)), "{missing:?}");
        let other = keyring(Some(ONES)).prepare(&catalog, &mut records).unwrap_err();
        assert!(
            matches!(&other, PrepareFault::Keyring(KeyringFault::Other { endpoint, .. }) if endpoint == "ep_a"),
            "{other:?}"
        );
        assert_eq!(catalog.endpoints().unwrap(), stored);
    }
}
