//! One path of a receiver: whose secret it expects, how it behaves, what it kept.

use parking_lot::{Mutex, RwLock};
use std::sync::Arc;
use xxhash_rust::xxh3::xxh3_64;

use super::behaviour::{Behaviour, Conduct};
use super::samples::Books;
use crate::signature::Key;

/// Belongs to its receiver; read by every connection, written by whoever holds the
/// receiver, at any time.
#[derive(Debug)]
pub(super) struct Route {
    /// Keeps the ids of one path from those of another.
    pub(super) seed: u64,
    key: RwLock<Option<Key>>,
    conduct: RwLock<Arc<Conduct>>,
    /// Filled where bodies are parsed.
    pub(super) books: Mutex<Books>,
}

impl Route {
    pub(super) fn new(path: &str) -> Self {
        Self {
            seed: xxh3_64(path.as_bytes()),
            key: RwLock::new(None),
            conduct: RwLock::default(),
            books: Mutex::default(),
        }
    }

    pub(super) fn expect(&self, key: Key) {
        *self.key.write() = Some(key);
    }

    pub(super) fn behave(&self, behaviour: Behaviour) {
        *self.conduct.write() = Arc::new(Conduct::new(behaviour));
    }

    pub(super) fn key(&self) -> Option<Key> {
        self.key.read().clone()
    }

    pub(super) fn conduct(&self) -> Arc<Conduct> {
        Arc::clone(&self.conduct.read())
    }
}
