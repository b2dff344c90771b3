//! Looking at a catalog without changing it.

use std::path::Path;

use parking_lot::Mutex;
use rusqlite::{Connection, OpenFlags};

use super::schema::VERSION;
use super::{CATALOG_FILE, Catalog, CatalogError};
use crate::frame::Sequence;

/// Most lines SQLite is asked for.
const LINES_MAX: u32 = 100;

/// Rows that name a row of another table: what they are, their table, what they are
/// called, what they name, and where that must stand.
const REFERENCES: [(&str, &str, &str, &str, &str, &str); 11] = [
    ("API key", "api_keys", "id", "org", "organisations", "id"),
    ("endpoint", "endpoints", "id", "org", "organisations", "id"),
    ("metric", "metrics", "key", "org", "organisations", "id"),
    ("file", "attempt_files", "path", "org", "organisations", "id"),
    ("section of", "sections", "path", "org", "organisations", "id"),
    ("section of", "sections", "path", "path", "files", "path"),
    ("erasure", "erasures", "id", "org", "organisations", "id"),
    ("blocked user", "blocked_users", "hash", "org", "organisations", "id"),
    ("retention of", "retention", "metric", "org", "organisations", "id"),
    ("cursor", "lane_cursors", "endpoint", "endpoint", "endpoints", "id"),
    ("exception", "exceptions", "endpoint", "endpoint", "endpoints", "id"),
];

/// A row that names something that is not there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Dangling {
    pub(crate) what: &'static str,
    pub(crate) name: String,
    pub(crate) owner: String,
}

impl Catalog {
    /// Opens a catalog for reading only; nothing is made or brought up to date.
    ///
    /// # Errors
    /// [`CatalogError::Open`], [`CatalogError::Version`], [`CatalogError::Outdated`].
    pub fn open_to_read(data_dir: &Path) -> Result<Catalog, CatalogError> {
        let path = data_dir.join(CATALOG_FILE);
        let open = || -> Result<(Connection, i64), rusqlite::Error> {
            let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
            let connection = Connection::open_with_flags(&path, flags)?;
            connection.busy_timeout(super::BUSY_TIMEOUT)?;
            let found = connection.query_row("PRAGMA user_version", [], |row| row.get(0))?;
            Ok((connection, found))
        };
        let (connection, found) =
            open().map_err(|error| CatalogError::Open { path: path.clone(), source: error.into() })?;
        match found {
            VERSION => Ok(Catalog { connection: Mutex::new(connection) }),
            found if found < VERSION => Err(CatalogError::Outdated { found, known: VERSION }),
            found => Err(CatalogError::Version { found, known: VERSION }),
        }
    }

    /// What SQLite finds wrong with the file; nothing if it is whole.
    ///
    /// # Errors
    /// [`CatalogError::Sql`].
    pub(crate) fn integrity(&self) -> Result<Vec<String>, CatalogError> {
        let connection = self.connection.lock();
        let mut statement = connection.prepare(&format!("PRAGMA integrity_check({LINES_MAX})"))?;
        let lines = statement.query_map([], |row| row.get(0))?.collect::<Result<Vec<String>, _>>()?;
        Ok(lines.into_iter().filter(|line| line != "ok").collect())
    }

    /// Rows that name something that is not there.
    ///
    /// # Errors
    /// [`CatalogError::Sql`].
    pub(crate) fn dangling(&self) -> Result<Vec<Dangling>, CatalogError> {
        let connection = self.connection.lock();
        let mut all = Vec::new();
        for (what, table, name, owner, owners, id) in REFERENCES {
            let sql = format!(
                "SELECT DISTINCT {name}, {owner} FROM {table}
                 WHERE {owner} NOT IN (SELECT {id} FROM {owners}) ORDER BY 1, 2 LIMIT {LINES_MAX}"
            );
            let mut statement = connection.prepare(&sql)?;
            let rows = statement
                .query_map([], |row| Ok(Dangling { what, name: row.get(0)?, owner: row.get(1)? }))?;
            for row in rows {
                all.push(row?);
            }
        }
        Ok(all)
    }

    /// The places in the commit order that the catalog names.
    ///
    /// # Errors
    /// [`CatalogError::Sql`].
    pub(crate) fn places(&self) -> Result<Vec<(String, Sequence)>, CatalogError> {
        let connection = self.connection.lock();
        let mut statement = connection.prepare(
            "SELECT name, sequence FROM positions WHERE name IN ('flushed', 'routed', 'classified')
             UNION ALL SELECT 'start of ' || id, start_sequence FROM endpoints
             UNION ALL SELECT 'erasure ' || id, sequence FROM erasures
             UNION ALL SELECT 'exception of ' || endpoint, max(sequence) FROM exceptions GROUP BY endpoint
             ORDER BY 1",
        )?;
        let rows = statement
            .query_map([], |row| Ok((row.get(0)?, Sequence(row.get::<_, i64>(1)?.cast_unsigned()))))?;
        Ok(rows.collect::<Result<_, _>>()?)
    }
}
