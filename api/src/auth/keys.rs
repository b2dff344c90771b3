//! Who a key belongs to: a cache over the catalog.
//!
//! A known key costs one SHA-256 and one look under a read lock. An unknown one
//! asks the catalog on a blocking thread, at most [`LOOKUPS_MAX`] at a time, and
//! is remembered as unknown for [`UNKNOWN_TTL`], so that a client with a wrong
//! key does not keep SQLite busy, and a key made a moment later works.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::RwLock;
use subtle::ConstantTimeEq;
use systole_engine::{Catalog, KeyRecord};
use tokio::sync::Semaphore;

use super::key::{KeyHash, hash_key};
use super::{Caller, Scope, Scopes, Secret};
use crate::error::Refusal;
use crate::settings::DEFAULT_ORG;

/// Keys kept in memory. An instance with more callers at once forgets and asks again.
const KNOWN_MAX: usize = 100_000;
/// Unknown keys kept in memory.
const UNKNOWN_MAX: usize = 10_000;
/// How long a key stays unknown without asking again.
const UNKNOWN_TTL: Duration = Duration::from_secs(1);
/// Questions to the catalog at once; one takes microseconds.
const LOOKUPS_MAX: usize = 4;

/// The keys of one running server.
pub(crate) struct Keys {
    catalog: Arc<Catalog>,
    /// The key of the settings; the catalog does not know it.
    admin: Option<Entry>,
    cache: RwLock<Cache>,
    /// Held while the catalog is asked; first come, first served.
    lookups: Semaphore,
}

#[derive(Default)]
struct Cache {
    /// By the first bytes of the hash; two keys that share them take turns.
    known: HashMap<u64, Entry>,
    /// When each was asked for.
    unknown: HashMap<u64, Instant>,
    /// Rises with each deletion: an answer from before one is not remembered.
    deletions: u64,
}

#[derive(Clone)]
struct Entry {
    hash: KeyHash,
    caller: Arc<Caller>,
}

impl Entry {
    fn caller_of(&self, hash: &KeyHash) -> Option<Arc<Caller>> {
        bool::from(self.hash.ct_eq(hash)).then(|| Arc::clone(&self.caller))
    }
}

impl Keys {
    pub(crate) fn new(catalog: Arc<Catalog>, admin: Option<&Secret>) -> Keys {
        let admin = admin.map(|key| Entry {
            hash: hash_key(key.expose()),
            caller: Arc::new(Caller {
                org: Arc::from(DEFAULT_ORG),
                user: None,
                scopes: Scopes::of(&[Scope::Operator]),
            }),
        });
        Keys { catalog, admin, cache: RwLock::default(), lookups: Semaphore::new(LOOKUPS_MAX) }
    }

    /// The caller a key stands for; `None` if there is no such key.
    pub(crate) async fn find(&self, key: &str) -> Result<Option<Arc<Caller>>, Refusal> {
        let hash = hash_key(key);
        if let Some(caller) = self.remembered(&hash) {
            return Ok(Some(caller));
        }
        if self.is_unknown(&hash) {
            return Ok(None);
        }
        self.look_up(hash).await
    }

    fn remembered(&self, hash: &KeyHash) -> Option<Arc<Caller>> {
        let cache = self.cache.read();
        let known = cache.known.get(&prefix(hash)).and_then(|entry| entry.caller_of(hash));
        known.or_else(|| self.admin.as_ref().and_then(|entry| entry.caller_of(hash)))
    }

    fn is_unknown(&self, hash: &KeyHash) -> bool {
        let asked = self.cache.read().unknown.get(&prefix(hash)).copied();
        asked.is_some_and(|asked| asked.elapsed() < UNKNOWN_TTL)
    }

    async fn look_up(&self, hash: KeyHash) -> Result<Option<Arc<Caller>>, Refusal> {
        let _turn = self.lookups.acquire().await.map_err(|_| Refusal::Stopping)?;
        let deletions = self.cache.read().deletions;
        let catalog = Arc::clone(&self.catalog);
        let found = tokio::task::spawn_blocking(move || catalog.find_key(&hash)).await;
        let record = found.map_err(Refusal::internal)?.map_err(Refusal::catalog)?;
        let caller = record.map(|record| Arc::new(caller(&record)));
        self.remember(hash, caller.as_ref(), deletions);
        Ok(caller)
    }

    fn remember(&self, hash: KeyHash, caller: Option<&Arc<Caller>>, deletions: u64) {
        let mut cache = self.cache.write();
        match caller {
            Some(caller) if cache.deletions == deletions => {
                if cache.known.len() >= KNOWN_MAX {
                    cache.known.clear();
                }
                cache.known.insert(prefix(&hash), Entry { hash, caller: Arc::clone(caller) });
            }
            Some(_) => {}
            None => {
                if cache.unknown.len() >= UNKNOWN_MAX {
                    cache.unknown.clear();
                }
                cache.unknown.insert(prefix(&hash), Instant::now());
            }
        }
    }

    /// Forgets a deleted key; call it after the catalog has.
    pub(crate) fn forget(&self, record: &KeyRecord) {
        let mut cache = self.cache.write();
        cache.known.remove(&prefix(&record.hash));
        cache.deletions += 1;
    }
}

fn caller(record: &KeyRecord) -> Caller {
    Caller {
        org: Arc::from(record.org.as_str()),
        user: record.user.as_deref().map(Arc::from),
        scopes: Scopes::parse_known(&record.scopes),
    }
}

fn prefix(hash: &KeyHash) -> u64 {
    hash.iter().take(8).fold(0, |number, byte| number << 8 | u64::from(*byte))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::auth::{KeySpec, make_key};

    fn catalog() -> (tempfile::TempDir, Arc<Catalog>) {
        let dir = tempfile::tempdir().unwrap();
        let catalog = Arc::new(Catalog::open(dir.path()).unwrap());
        catalog.ensure_org("default").unwrap();
        (dir, catalog)
    }

    fn spec() -> KeySpec {
        KeySpec {
            org: "default".to_owned(),
            user: Some("u1".to_owned()),
            name: None,
            scopes: Scopes::of(&[Scope::Read]),
            created_at: 1,
        }
    }

    #[tokio::test]
    async fn a_deleted_key_stops_at_once_also_when_an_old_answer_arrives_late() {
        let (_dir, catalog) = catalog();
        let (key, record) = make_key(spec()).unwrap();
        catalog.insert_key(&record).unwrap();
        let keys = Keys::new(Arc::clone(&catalog), None);
        let caller = keys.find(key.expose()).await.unwrap().unwrap();
        assert_eq!(caller.user.as_deref(), Some("u1"));
        catalog.delete_key("default", &record.id).unwrap();
        keys.forget(&record);
        keys.remember(record.hash, Some(&caller), 0);
        assert!(keys.find(key.expose()).await.unwrap().is_none());
    }

    #[tokio::test]
    async fn an_unknown_key_is_asked_for_again_after_its_time() {
        let (_dir, catalog) = catalog();
        let (key, record) = make_key(spec()).unwrap();
        let keys = Keys::new(Arc::clone(&catalog), None);
        assert!(keys.find(key.expose()).await.unwrap().is_none());
        catalog.insert_key(&record).unwrap();
        assert!(keys.find(key.expose()).await.unwrap().is_none());
        let long_ago = Instant::now().checked_sub(UNKNOWN_TTL).unwrap();
        keys.cache.write().unknown.insert(prefix(&record.hash), long_ago);
        assert!(keys.find(key.expose()).await.unwrap().is_some());
    }

    #[tokio::test]
    async fn memory_stays_bounded_under_keys_that_do_not_exist() {
        let (_dir, catalog) = catalog();
        let keys = Keys::new(catalog, None);
        for number in 0..UNKNOWN_MAX + 10 {
            keys.remember(hash_key(&number.to_string()), None, 0);
        }
        assert!(keys.cache.read().unknown.len() <= UNKNOWN_MAX);
    }

    #[tokio::test]
    async fn the_key_of_the_settings_is_an_operator_of_the_default_organisation() {
        let (_dir, catalog) = catalog();
        let keys = Keys::new(catalog, Some(&Secret::new("avk_of-the-settings".to_owned())));
        let caller = keys.find("avk_of-the-settings").await.unwrap().unwrap();
        assert!(caller.scopes.allow(Scope::Operator));
        assert_eq!(&*caller.org, "default");
        assert!(keys.find("avk_of-the-settingz").await.unwrap().is_none());
    }
}
