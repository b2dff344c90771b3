//! Who calls, and what they may do.
//!
//! `X-API-Key: avk_...`, or `Authorization: Bearer` with a JSON web token or such
//! a key. Both lead to a [`Caller`]: an organisation, perhaps the one user they are
//! bound to, and scopes. If both headers are there, `X-API-Key` is read.

mod jwt;
mod key;
mod keys;
mod name;
mod scope;
mod secret;

use std::sync::Arc;

use hyper::HeaderMap;
use hyper::header::AUTHORIZATION;
use systole_engine::{Catalog, KeyRecord};

use crate::error::Refusal;
use crate::settings::Settings;
use jwt::Issuers;
use keys::Keys;

pub(crate) use jwt::{TokenFault, check_public_key};
pub(crate) use key::random_key;
pub use key::{KEY_PREFIX, KeySpec, RandomFault, is_key_shaped, make_key};
pub use name::{is_org_id, is_user_id};
pub use scope::{Scope, Scopes};
pub use secret::Secret;

/// On whose behalf a request runs.
#[derive(Debug)]
pub(crate) struct Caller {
    /// Its organisation.
    pub(crate) org: Arc<str>,
    /// The only user it may name, if it is bound to one.
    pub(crate) user: Option<Arc<str>>,
    /// What it may do.
    pub(crate) scopes: Scopes,
}

/// Finds callers; one for the whole server.
pub(crate) struct Auth {
    keys: Keys,
    issuers: Issuers,
}

impl Auth {
    pub(crate) fn new(catalog: Arc<Catalog>, settings: &Settings) -> Result<Auth, String> {
        let issuers = Issuers::new(&settings.issuers)?;
        Ok(Auth { keys: Keys::new(catalog, settings.admin_key.as_ref()), issuers })
    }

    /// The caller of a request.
    pub(crate) async fn caller(&self, headers: &HeaderMap) -> Result<Arc<Caller>, Refusal> {
        let text = credentials(headers)?;
        if text.starts_with(KEY_PREFIX) {
            if !is_key_shaped(text) {
                return Err(Refusal::BadKey);
            }
            return self.keys.find(text).await?.ok_or(Refusal::BadKey);
        }
        if headers.contains_key("x-api-key") {
            return Err(Refusal::BadKey);
        }
        self.issuers.verify(text).map(Arc::new)
    }

    /// Makes a deleted key stop at once.
    pub(crate) fn forget(&self, record: &KeyRecord) {
        self.keys.forget(record);
    }
}

fn credentials(headers: &HeaderMap) -> Result<&str, Refusal> {
    if let Some(key) = headers.get("x-api-key") {
        return key.to_str().map(str::trim).map_err(|_| Refusal::BadKey);
    }
    let value = headers.get(AUTHORIZATION).ok_or(Refusal::NoCredentials)?;
    let text = value.to_str().map_err(|_| Refusal::NoCredentials)?;
    match text.split_once(' ') {
        Some((scheme, token)) if scheme.eq_ignore_ascii_case("bearer") => Ok(token.trim()),
        _ => Err(Refusal::NoCredentials),
    }
}
