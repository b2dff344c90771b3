//! Webhook endpoints.

use rusqlite::{OptionalExtension, Row, Transaction};

use super::webhooks::put_cursor;
use super::{Catalog, CatalogError, CursorRecord, disabled, lanes};
use crate::frame::Sequence;

const COLUMNS: &str = "id, number, org, settings, secret, previous_secret, previous_until, start_sequence, created_at, updated_at";

/// An endpoint as it is stored.
#[derive(Clone, PartialEq, Eq)]
pub struct EndpointRecord {
    /// `ep_...`
    pub id: String,
    /// Part of the ids of events that are one endpoint's own; 24 bits, given by
    /// [`Catalog::insert_endpoint`], never used again.
    pub number: u32,
    /// Whose it is.
    pub org: String,
    /// What its owner asked for, as JSON.
    pub settings: String,
    /// What signs its deliveries, as the catalog's owner chose to keep it.
    pub secret: String,
    /// What signed before and may still do.
    pub previous: Option<PreviousSecret>,
    /// It gets what was committed behind this.
    pub start: Sequence,
    /// Milliseconds since 1970.
    pub created_at: i64,
    /// Milliseconds since 1970.
    pub updated_at: i64,
}

/// A secret that another took over from.
#[derive(Clone, PartialEq, Eq)]
pub struct PreviousSecret {
    /// Kept as the one that took over.
    pub secret: String,
    /// Milliseconds since 1970; from then on it is of no use.
    pub until: i64,
}

impl std::fmt::Debug for PreviousSecret {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("PreviousSecret").field("until", &self.until).finish_non_exhaustive()
    }
}

/// What an endpoint is from now on.
#[derive(Clone, Copy)]
pub struct EndpointChange<'a> {
    /// As [`EndpointRecord::settings`].
    pub settings: &'a str,
    /// As [`EndpointRecord::secret`].
    pub secret: &'a str,
    /// As [`EndpointRecord::previous`].
    pub previous: Option<&'a PreviousSecret>,
    /// Milliseconds since 1970.
    pub updated_at: i64,
    /// Its owner switched it on or off: ends what waits for it and begins anew at a
    /// position. That it was switched off before is not announced any more.
    pub restart: Option<Sequence>,
}

impl std::fmt::Debug for EndpointRecord {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("EndpointRecord")
            .field("id", &self.id)
            .field("org", &self.org)
            .field("secret", &"[redacted]")
            .finish_non_exhaustive()
    }
}

impl Catalog {
    /// Stores a new endpoint and the cursor it begins at; returns its number.
    ///
    /// # Errors
    /// [`CatalogError::Sql`].
    pub fn insert_endpoint(&self, endpoint: &EndpointRecord) -> Result<u32, CatalogError> {
        let mut connection = self.connection.lock();
        let transaction = connection.transaction()?;
        let number = next_number(&transaction)?;
        transaction.execute(
            "INSERT INTO endpoints (id, number, org, settings, secret, previous_secret, previous_until,
                 start_sequence, created_at, updated_at)
             VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10)",
            (
                &endpoint.id,
                number,
                &endpoint.org,
                &endpoint.settings,
                &endpoint.secret,
                endpoint.previous.as_ref().map(|previous| &previous.secret),
                endpoint.previous.as_ref().map(|previous| previous.until),
                endpoint.start.0.cast_signed(),
                endpoint.created_at,
                endpoint.updated_at,
            ),
        )?;
        put_cursor(&transaction, &endpoint.id, begin(endpoint.start))?;
        transaction.commit()?;
        Ok(number)
    }

    /// Changes an endpoint as a whole; false if there is none.
    ///
    /// # Errors
    /// [`CatalogError::Sql`].
    pub fn change_endpoint(&self, id: &str, change: &EndpointChange<'_>) -> Result<bool, CatalogError> {
        let mut connection = self.connection.lock();
        let transaction = connection.transaction()?;
        put_secrets(&transaction, id, change.secret, change.previous)?;
        let changed = transaction.execute(
            "UPDATE endpoints SET settings = ?2, updated_at = ?3 WHERE id = ?1",
            (id, change.settings, change.updated_at),
        )?;
        if let Some(start) = change.restart {
            begin_anew(&transaction, id, start)?;
            disabled::forget(&transaction, id)?;
        }
        transaction.commit()?;
        Ok(changed == 1)
    }

    /// Keeps secrets, and settings, in another form, of all these endpoints or of none. What was
    /// there before is overwritten in the file, and in the log beside it.
    ///
    /// # Errors
    /// [`CatalogError::Sql`].
    pub fn keep_secrets<'a>(
        &self,
        endpoints: impl IntoIterator<Item = &'a EndpointRecord>,
    ) -> Result<(), CatalogError> {
        let mut connection = self.connection.lock();
        let transaction = connection.transaction()?;
        for endpoint in endpoints {
            put_secrets(&transaction, &endpoint.id, &endpoint.secret, endpoint.previous.as_ref())?;
            let mut statement =
                transaction.prepare_cached("UPDATE endpoints SET settings = ?2 WHERE id = ?1")?;
            statement.execute((&endpoint.id, &endpoint.settings))?;
        }
        transaction.commit()?;
        connection.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |_| Ok(()))?;
        Ok(())
    }

    /// Forgets secrets that others took over from whose time is over; returns of how
    /// many endpoints.
    ///
    /// # Errors
    /// [`CatalogError::Sql`].
    pub fn forget_previous_secrets(&self, now_ms: i64) -> Result<usize, CatalogError> {
        let connection = self.connection.lock();
        let mut statement = connection.prepare_cached(
            "UPDATE endpoints SET previous_secret = NULL, previous_until = NULL WHERE previous_until <= ?1",
        )?;
        Ok(statement.execute([now_ms])?)
    }

    /// Deletes an endpoint with all that waits for it; false if there was none.
    ///
    /// # Errors
    /// [`CatalogError::Sql`].
    pub fn delete_endpoint(&self, id: &str) -> Result<bool, CatalogError> {
        let mut connection = self.connection.lock();
        let transaction = connection.transaction()?;
        transaction.execute("DELETE FROM exceptions WHERE endpoint = ?1", [id])?;
        transaction.execute("DELETE FROM lane_cursors WHERE endpoint = ?1", [id])?;
        lanes::forget(&transaction, id)?;
        disabled::forget(&transaction, id)?;
        let deleted = transaction.execute("DELETE FROM endpoints WHERE id = ?1", [id])?;
        transaction.commit()?;
        Ok(deleted == 1)
    }

    /// Every endpoint, in the order they were made.
    ///
    /// # Errors
    /// [`CatalogError::Sql`], [`CatalogError::Malformed`].
    pub fn endpoints(&self) -> Result<Vec<EndpointRecord>, CatalogError> {
        let connection = self.connection.lock();
        let sql = format!("SELECT {COLUMNS} FROM endpoints ORDER BY number");
        let mut statement = connection.prepare_cached(&sql)?;
        let mut rows = statement.query([])?;
        let mut endpoints = Vec::new();
        while let Some(row) = rows.next()? {
            endpoints.push(endpoint(row)?);
        }
        Ok(endpoints)
    }
}

/// Ends what waits for an endpoint; it begins at a position.
pub(super) fn begin_anew(
    transaction: &Transaction<'_>,
    id: &str,
    start: Sequence,
) -> Result<(), CatalogError> {
    transaction.execute("DELETE FROM exceptions WHERE endpoint = ?1", [id])?;
    lanes::restart(transaction, id)?;
    put_cursor(transaction, id, begin(start))
}

fn begin(start: Sequence) -> CursorRecord {
    CursorRecord { sequence: start.next().0, ordinal: 0 }
}

/// Numbers are never given twice, also after the newest endpoint was deleted. Ids hold 24
/// bits of one, so behind the last there is none.
fn next_number(transaction: &Transaction<'_>) -> Result<u32, CatalogError> {
    let given: Option<String> = transaction
        .query_row("SELECT value FROM instance WHERE name = 'endpoint_number'", [], |row| row.get(0))
        .optional()?;
    let given: u32 = match given {
        None => 0,
        Some(text) => text.parse().map_err(|_| CatalogError::Malformed { what: "endpoint number" })?,
    };
    const NUMBERS: u32 = 1 << 24;
    let number = given.saturating_add(1);
    if number >= NUMBERS {
        return Err(CatalogError::Malformed { what: "endpoint number: the last one was given already" });
    }
    transaction.execute(
        "INSERT INTO instance (name, value) VALUES ('endpoint_number', ?1)
         ON CONFLICT (name) DO UPDATE SET value = excluded.value",
        [number.to_string()],
    )?;
    Ok(number)
}

fn put_secrets(
    transaction: &Transaction<'_>,
    id: &str,
    secret: &str,
    previous: Option<&PreviousSecret>,
) -> Result<(), CatalogError> {
    let mut statement = transaction.prepare_cached(
        "UPDATE endpoints SET secret = ?2, previous_secret = ?3, previous_until = ?4 WHERE id = ?1",
    )?;
    let (previous, until) = previous.map(|previous| (previous.secret.as_str(), previous.until)).unzip();
    statement.execute((id, secret, previous, until))?;
    Ok(())
}

fn previous(row: &Row<'_>) -> Result<Option<PreviousSecret>, CatalogError> {
    let (secret, until): (Option<String>, Option<i64>) = (row.get(5)?, row.get(6)?);
    Ok(secret.zip(until).map(|(secret, until)| PreviousSecret { secret, until }))
}

fn endpoint(row: &Row<'_>) -> Result<EndpointRecord, CatalogError> {
    Ok(EndpointRecord {
        id: row.get(0)?,
        number: row.get(1)?,
        org: row.get(2)?,
        settings: row.get(3)?,
        secret: row.get(4)?,
        previous: previous(row)?,
        start: Sequence(row.get::<_, i64>(7)?.cast_unsigned()),
        created_at: row.get(8)?,
        updated_at: row.get(9)?,
    })
}
