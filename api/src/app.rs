//! What all requests of one running server share.

use std::collections::HashSet;
use std::sync::Arc;

use parking_lot::RwLock;
use systole_engine::{Catalog, Engine};

use crate::auth::Auth;
use crate::error::Refusal;
use crate::ingest::{Decoders, Pool};
use crate::manage::webhooks::EventTypes;
use crate::observe::{Observe, RequestIds};
use crate::settings::Settings;

/// One running server; shared by all its connections.
pub(crate) struct App {
    pub(crate) engine: Engine,
    pub(crate) settings: Settings,
    pub(crate) auth: Auth,
    pub(crate) organisations: Organisations,
    /// Buffers that requests take and give back.
    pub(crate) pool: Arc<Pool>,
    /// Where bodies are decoded.
    pub(crate) decoders: Decoders,
    pub(crate) event_types: EventTypes,
    pub(crate) observe: Observe,
    pub(crate) request_ids: RequestIds,
}

/// Which organisations exist. One that exists stays, so that is remembered.
pub(crate) struct Organisations {
    catalog: Arc<Catalog>,
    seen: RwLock<HashSet<Arc<str>>>,
}

impl Organisations {
    pub(crate) fn new(catalog: Arc<Catalog>) -> Organisations {
        Organisations { catalog, seen: RwLock::default() }
    }

    pub(crate) async fn has(&self, org: &Arc<str>) -> Result<bool, Refusal> {
        if self.seen.read().contains(org) {
            return Ok(true);
        }
        let (catalog, name) = (Arc::clone(&self.catalog), Arc::clone(org));
        let found = tokio::task::spawn_blocking(move || catalog.has_org(&name)).await;
        let found = found.map_err(Refusal::internal)?.map_err(Refusal::catalog)?;
        if found {
            self.seen.write().insert(Arc::clone(org));
        }
        Ok(found)
    }
}
