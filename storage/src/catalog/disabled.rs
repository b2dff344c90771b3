//! Endpoints that the server switched off, until that is announced.
//!
//! A row is stored in the transaction that stores that the endpoint is off. It goes once
//! that is announced, when the endpoint is switched on again, and with the endpoint.

use rusqlite::Transaction;

use super::{Catalog, CatalogError, endpoints};
use crate::frame::Sequence;

/// An endpoint that was switched off, which is not announced yet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DisabledRecord {
    /// Which one.
    pub endpoint: String,
    /// Why, by name.
    pub reason: String,
    /// When it began to fail, milliseconds since 1970.
    pub failing_since: Option<i64>,
    /// When it was switched off, milliseconds since 1970.
    pub at: i64,
}

/// By an index, in its order: whoever asks holds what endpoints are made and changed under.
pub(super) const UNANNOUNCED: &str = "
    SELECT endpoint, reason, failing_since, disabled_at FROM disabled_unannounced
    ORDER BY disabled_at, endpoint LIMIT ?1";

impl Catalog {
    /// Switches an endpoint off by its new settings, ends what waits for it, and notes that
    /// this is not announced yet; false if there is none. `start` is where it begins.
    ///
    /// # Errors
    /// [`CatalogError::Sql`]; then nothing changed.
    pub fn disable_endpoint(
        &self,
        settings: &str,
        start: Sequence,
        disabled: &DisabledRecord,
    ) -> Result<bool, CatalogError> {
        let mut connection = self.connection.lock();
        let transaction = connection.transaction()?;
        let endpoint = disabled.endpoint.as_str();
        let changed = transaction.execute(
            "UPDATE endpoints SET settings = ?2, updated_at = ?3 WHERE id = ?1",
            (endpoint, settings, disabled.at),
        )?;
        endpoints::begin_anew(&transaction, endpoint, start)?;
        put(&transaction, disabled)?;
        transaction.commit()?;
        Ok(changed == 1)
    }

    /// Endpoints that were switched off, which is not announced yet, oldest first, at most
    /// so many.
    ///
    /// # Errors
    /// [`CatalogError::Sql`].
    pub fn unannounced_disabled(&self, most: u32) -> Result<Vec<DisabledRecord>, CatalogError> {
        let connection = self.connection.lock();
        let mut statement = connection.prepare_cached(UNANNOUNCED)?;
        let rows = statement.query_map([most], |row| {
            Ok(DisabledRecord {
                endpoint: row.get(0)?,
                reason: row.get(1)?,
                failing_since: row.get(2)?,
                at: row.get(3)?,
            })
        })?;
        Ok(rows.collect::<Result<_, _>>()?)
    }

    /// Whether it is to be announced that an endpoint was switched off at this time.
    ///
    /// # Errors
    /// [`CatalogError::Sql`].
    pub fn is_unannounced_disabled(&self, endpoint: &str, at: i64) -> Result<bool, CatalogError> {
        let connection = self.connection.lock();
        let mut statement = connection
            .prepare_cached("SELECT 1 FROM disabled_unannounced WHERE endpoint = ?1 AND disabled_at = ?2")?;
        Ok(statement.exists((endpoint, at))?)
    }
}

/// Only of an endpoint that is still there.
fn put(transaction: &Transaction<'_>, disabled: &DisabledRecord) -> Result<(), CatalogError> {
    let mut statement = transaction.prepare_cached(
        "INSERT INTO disabled_unannounced (endpoint, reason, failing_since, disabled_at)
         SELECT id, ?2, ?3, ?4 FROM endpoints WHERE id = ?1
         ON CONFLICT (endpoint) DO UPDATE
             SET reason = excluded.reason, failing_since = excluded.failing_since,
                 disabled_at = excluded.disabled_at",
    )?;
    statement.execute((&disabled.endpoint, &disabled.reason, disabled.failing_since, disabled.at))?;
    Ok(())
}

/// It was announced that an endpoint was switched off at this time; another time stands.
pub(super) fn announced(transaction: &Transaction<'_>, endpoint: &str, at: i64) -> Result<(), CatalogError> {
    let mut statement = transaction
        .prepare_cached("DELETE FROM disabled_unannounced WHERE endpoint = ?1 AND disabled_at = ?2")?;
    statement.execute((endpoint, at))?;
    Ok(())
}

/// Nothing of the endpoint is to be announced.
pub(super) fn forget(transaction: &Transaction<'_>, endpoint: &str) -> Result<(), CatalogError> {
    let mut statement = transaction.prepare_cached("DELETE FROM disabled_unannounced WHERE endpoint = ?1")?;
    statement.execute([endpoint])?;
    Ok(())
}
