//! Secrets between the catalog, which may hold them encrypted, and what signs and sends.
//!
//! A record's secrets, and the values of its headers, which may be credentials, are in memory
//! as they are in the catalog: with a master key encrypted. They are opened where a lane is
//! prepared, and secrets where their owner asks for them.

use std::sync::Arc;

use systole_dispatch::endpoint::EndpointSettings;
use systole_dispatch::id::RandomFault;
use systole_dispatch::vault::{MasterKey, OpenFault, is_sealed};
use systole_storage::{Catalog, CatalogError, EndpointRecord};

use super::settings::StoredSettings as _;

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

    /// Settings as the catalog is to hold them. Values of headers that stand in `before` are
    /// in that form already.
    pub(super) fn keep_headers(
        &self,
        endpoint: &str,
        mut settings: EndpointSettings,
        before: Option<&EndpointSettings>,
    ) -> Result<EndpointSettings, RandomFault> {
        for (name, value) in &mut settings.headers {
            let is_kept = before.is_some_and(|before| before.headers.get(name) == Some(value));
            if !is_kept {
                *value = self.keep(endpoint, value)?;
            }
        }
        Ok(settings)
    }

    /// What the catalog holds, as settings.
    pub(super) fn open_headers(
        &self,
        endpoint: &str,
        mut settings: EndpointSettings,
    ) -> Result<EndpointSettings, KeyringFault> {
        for value in settings.headers.values_mut() {
            *value = self.open(endpoint, value)?;
        }
        Ok(settings)
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
            sealed += self.prepare_headers(record)?;
        }
        if sealed > 0 {
            catalog.keep_secrets(records.iter())?;
            tracing::info!(secrets = sealed, "secrets of webhook endpoints are now encrypted in the catalog");
        }
        Ok(())
    }
}

impl Keyring {
    /// The same of the values of an endpoint's headers; how many were encrypted.
    fn prepare_headers(&self, record: &mut EndpointRecord) -> Result<usize, PrepareFault> {
        // Settings that cannot be read are named where its lane is made.
        let Ok(settings) = record.settings() else { return Ok(0) };
        self.open_headers(&record.id, settings.clone())?;
        let plain = settings.headers.values().filter(|value| !is_sealed(value)).count();
        if self.master.is_none() || plain == 0 {
            return Ok(0);
        }
        let mut kept = settings;
        for value in kept.headers.values_mut().filter(|value| !is_sealed(value)) {
            *value = self.keep(&record.id, value)?;
        }
        match serde_json::to_string(&kept) {
            Ok(text) => record.settings = text,
            Err(_) => return Ok(0),
        }
        Ok(plain)
    }
}

#[cfg(test)]
mod tests {
    use systole_dispatch::dialect::Dialect;
    use systole_storage::{PreviousSecret, Sequence};

    use super::*;

    /// base64 of 32 zero bytes and of 32 others.
    const ZEROS: &str = "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=";
    const ONES: &str = "AQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQE=";

    fn keyring(key: Option<&str>) -> Keyring {
        Keyring::new(key.map(|key| Arc::new(MasterKey::parse(key).unwrap())))
    }

    fn settings() -> EndpointSettings {
        let headers =
            [("authorization", "Bearer plain-header")].map(|(name, value)| (name.into(), value.into()));
        let settings = EndpointSettings::new("https://example.org".to_owned(), Dialect::Standard);
        EndpointSettings { headers: headers.into(), ..settings }
    }

    fn record(id: &str) -> EndpointRecord {
        EndpointRecord {
            id: id.to_owned(),
            number: 0,
            org: "acme".to_owned(),
            settings: serde_json::to_string(&settings()).unwrap(),
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
            assert!(!record.settings.contains("plain-header"));
            let kept = record.settings().unwrap();
            assert_eq!(keyring(Some(ZEROS)).open_headers(&record.id, kept).unwrap(), settings());
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

    #[test]
    fn values_of_headers_that_stay_are_kept_as_they_are_and_others_encrypted() {
        let ring = keyring(Some(ZEROS));
        let before = ring.keep_headers("ep_a", settings(), None).unwrap();
        assert!(before.headers.values().all(|value| is_sealed(value)));
        let mut changed = before.clone();
        changed.headers.insert("x-api-key".to_owned(), "plain-key".to_owned());
        let kept = ring.keep_headers("ep_a", changed, Some(&before)).unwrap();
        assert_eq!(kept.headers["authorization"], before.headers["authorization"]);
        let opened = ring.open_headers("ep_a", kept).unwrap();
        assert_eq!(opened.headers["authorization"], "Bearer plain-header");
        assert_eq!(opened.headers["x-api-key"], "plain-key");
        // What only looks encrypted is encrypted too.
        let mut odd = settings();
        odd.headers.insert("x-odd".to_owned(), before.headers["authorization"].clone());
        let kept = ring.keep_headers("ep_a", odd.clone(), None).unwrap();
        assert_eq!(ring.open_headers("ep_a", kept).unwrap(), odd);
    }
}
