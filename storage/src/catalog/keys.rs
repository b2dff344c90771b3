//! API keys: hashed, scoped, of one organisation.

use std::fmt;

use rusqlite::Row;

use super::{Catalog, CatalogError, from_hex, to_hex};

const COLUMNS: &str = "id, org, user_id, name, scopes, hash, created_at";

/// An API key as it is stored; the key itself is known only to its holder.
#[derive(Clone, PartialEq, Eq)]
pub struct KeyRecord {
    /// `key_...`
    pub id: String,
    /// The organisation it acts for.
    pub org: String,
    /// The user it is bound to.
    pub user: Option<String>,
    /// What people call it.
    pub name: Option<String>,
    /// Scopes, separated by spaces.
    pub scopes: String,
    /// SHA-256 of the whole key.
    pub hash: [u8; 32],
    /// Milliseconds since 1970.
    pub created_at: i64,
}

impl fmt::Debug for KeyRecord {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("KeyRecord")
            .field("id", &self.id)
            .field("org", &self.org)
            .field("user", &self.user)
            .field("scopes", &self.scopes)
            .field("hash", &"[redacted]")
            .finish_non_exhaustive()
    }
}

impl Catalog {
    /// Stores a key.
    ///
    /// # Errors
    /// [`CatalogError::Sql`], also if id or hash exist.
    pub fn insert_key(&self, key: &KeyRecord) -> Result<(), CatalogError> {
        self.connection.lock().execute(
            "INSERT INTO api_keys (id, org, user_id, name, scopes, hash, created_at)
             VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)",
            (&key.id, &key.org, &key.user, &key.name, &key.scopes, to_hex(&key.hash), key.created_at),
        )?;
        Ok(())
    }

    /// The key with this hash.
    ///
    /// # Errors
    /// [`CatalogError::Sql`], [`CatalogError::Malformed`].
    pub fn find_key(&self, hash: &[u8; 32]) -> Result<Option<KeyRecord>, CatalogError> {
        let connection = self.connection.lock();
        let mut statement =
            connection.prepare_cached(&format!("SELECT {COLUMNS} FROM api_keys WHERE hash = ?1"))?;
        let mut rows = statement.query([to_hex(hash)])?;
        rows.next()?.map(record).transpose()
    }

    /// An organisation's keys, oldest first.
    ///
    /// # Errors
    /// [`CatalogError::Sql`], [`CatalogError::Malformed`].
    pub fn keys(&self, org: &str) -> Result<Vec<KeyRecord>, CatalogError> {
        let connection = self.connection.lock();
        let sql = format!("SELECT {COLUMNS} FROM api_keys WHERE org = ?1 ORDER BY created_at, id");
        let mut statement = connection.prepare_cached(&sql)?;
        let mut rows = statement.query([org])?;
        let mut keys = Vec::new();
        while let Some(row) = rows.next()? {
            keys.push(record(row)?);
        }
        Ok(keys)
    }

    /// How many keys there are, in all organisations.
    ///
    /// # Errors
    /// [`CatalogError::Sql`].
    pub fn key_count(&self) -> Result<u64, CatalogError> {
        let count: i64 =
            self.connection.lock().query_row("SELECT count(*) FROM api_keys", [], |row| row.get(0))?;
        Ok(count.unsigned_abs())
    }

    /// Deletes a key of an organisation and returns what it was.
    ///
    /// # Errors
    /// [`CatalogError::Sql`], [`CatalogError::Malformed`].
    pub fn delete_key(&self, org: &str, id: &str) -> Result<Option<KeyRecord>, CatalogError> {
        let connection = self.connection.lock();
        let sql = format!("DELETE FROM api_keys WHERE org = ?1 AND id = ?2 RETURNING {COLUMNS}");
        let mut statement = connection.prepare_cached(&sql)?;
        let mut rows = statement.query([org, id])?;
        let deleted = rows.next()?.map(record).transpose()?;
        // The statement has to run to its end to take effect.
        while rows.next()?.is_some() {}
        Ok(deleted)
    }
}

fn record(row: &Row<'_>) -> Result<KeyRecord, CatalogError> {
    let hash: String = row.get(5)?;
    let hash = from_hex(&hash).and_then(|bytes| bytes.try_into().ok());
    Ok(KeyRecord {
        id: row.get(0)?,
        org: row.get(1)?,
        user: row.get(2)?,
        name: row.get(3)?,
        scopes: row.get(4)?,
        hash: hash.ok_or(CatalogError::Malformed { what: "key hash" })?,
        created_at: row.get(6)?,
    })
}
