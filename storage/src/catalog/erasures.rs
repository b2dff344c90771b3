//! Orders to erase with their receipts, users that are blocked, how long samples are kept,
//! and what may have been dropped by that.
//!
//! An order names its user only until it was carried out: then the receipt stays, the
//! names go. Of a blocked user a hash stays. An order about all users names none, one about
//! all metrics [`EVERY_METRIC`], one about a user as a whole no metric.

use std::sync::Arc;

use rusqlite::{Connection, OptionalExtension, Row};

use super::{Catalog, CatalogError, from_hex, now_ms, to_hex};
use crate::frame::{Erased, Sequence, Tombstone};
use crate::hidden::{EVERY_METRIC, RetentionRule, UserHash, blocked_hash};

/// What an erasure took away.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Removed {
    /// Samples that could be seen before it; `None` unless they were counted in time.
    pub samples: Option<u64>,
    /// Data files that were rewritten or removed.
    pub files: u64,
    /// Journal segments that were rewritten.
    pub segments: u64,
    /// Deliveries that waited for another attempt.
    pub deliveries: u64,
    /// Entries of the delivery log.
    pub attempts: u64,
}

/// The receipt of an erasure.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ErasureRecord {
    /// `era_...`
    pub id: String,
    /// What it took away; final once it is completed.
    pub removed: Removed,
    /// Milliseconds since 1970.
    pub created_at: i64,
    /// When the bytes were gone, milliseconds since 1970.
    pub completed_at: Option<i64>,
}

/// Samples that may have been dropped because of their age, under rules that were replaced.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Dropped {
    /// Whose; empty for those of every organisation.
    pub org: String,
    /// Canonical metric key, or [`EVERY_METRIC`].
    pub metric: String,
    /// Those recorded before this, milliseconds since 1970.
    pub before: i64,
}

/// In the place of a number of samples: they may still be counted, and they will not be.
const UNCOUNTED: i64 = -1;
const NEVER_COUNTED: i64 = -2;

const RECEIPT: &str = "id, samples, files, segments, deliveries, attempts, created_at, completed_at";

impl Catalog {
    /// Stores orders that are durable in the journal. Those that are there already
    /// stay as they are.
    ///
    /// # Errors
    /// [`CatalogError::Sql`].
    pub fn put_tombstones(&self, tombstones: &[Arc<Tombstone>]) -> Result<(), CatalogError> {
        let mut connection = self.connection.lock();
        let transaction = connection.transaction()?;
        for tombstone in tombstones {
            let (metric, start, end) = match &tombstone.erased {
                Erased::User { .. } => (None, 0, 0),
                Erased::Range { metric, start, end, .. } => {
                    (Some(metric.as_deref().unwrap_or(EVERY_METRIC)), *start, *end)
                }
            };
            transaction.execute(
                "INSERT INTO erasures (id, org, user_id, metric, time_start, time_end, block, sequence,
                     samples, files, segments, deliveries, attempts, created_at, completed_at)
                 VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?10, 0, 0, 0, 0, ?9, NULL)
                 ON CONFLICT (id) DO NOTHING",
                (
                    &tombstone.id,
                    &tombstone.org,
                    tombstone.erased.user().unwrap_or_default(),
                    metric,
                    start,
                    end,
                    tombstone.erased.blocks(),
                    tombstone.sequence.0.cast_signed(),
                    tombstone.created_at,
                    UNCOUNTED,
                ),
            )?;
            if let Erased::User { user, block: true } = &tombstone.erased {
                transaction.execute(
                    "INSERT INTO blocked_users (org, hash, created_at) VALUES (?1, ?2, ?3)
                     ON CONFLICT (org, hash) DO NOTHING",
                    (&tombstone.org, to_hex(&blocked_hash(&tombstone.org, user)), now_ms()),
                )?;
            }
        }
        transaction.commit()?;
        Ok(())
    }

    /// Orders that were not carried out yet, in commit order.
    ///
    /// # Errors
    /// [`CatalogError::Sql`], [`CatalogError::Malformed`].
    pub fn waiting_tombstones(&self) -> Result<Vec<Tombstone>, CatalogError> {
        let connection = self.connection.lock();
        let mut statement = connection.prepare_cached(
            "SELECT id, org, user_id, metric, time_start, time_end, block, sequence, created_at
             FROM erasures WHERE completed_at IS NULL ORDER BY sequence",
        )?;
        let mut rows = statement.query([])?;
        let mut waiting = Vec::new();
        while let Some(row) = rows.next()? {
            waiting.push(tombstone(row)?);
        }
        Ok(waiting)
    }

    /// Users from whom nothing is taken, by organisation.
    ///
    /// # Errors
    /// [`CatalogError::Sql`], [`CatalogError::Malformed`].
    pub fn blocked_users(&self) -> Result<Vec<(String, UserHash)>, CatalogError> {
        let connection = self.connection.lock();
        let mut statement = connection.prepare_cached("SELECT org, hash FROM blocked_users")?;
        let mut rows = statement.query([])?;
        let mut blocked = Vec::new();
        while let Some(row) = rows.next()? {
            let hash = from_hex(&row.get::<_, String>(1)?).and_then(|bytes| bytes.try_into().ok());
            blocked.push((row.get(0)?, hash.ok_or(CatalogError::Malformed { what: "hash of a user" })?));
        }
        Ok(blocked)
    }

    /// The receipt of an organisation's erasure.
    ///
    /// # Errors
    /// [`CatalogError::Sql`].
    pub fn erasure(&self, org: &str, id: &str) -> Result<Option<ErasureRecord>, CatalogError> {
        let connection = self.connection.lock();
        let sql = format!("SELECT {RECEIPT} FROM erasures WHERE org = ?1 AND id = ?2");
        let mut statement = connection.prepare_cached(&sql)?;
        Ok(statement.query_row((org, id), receipt).optional()?)
    }

    /// Notes how many samples an erasure took out of sight, unless it is being carried out.
    ///
    /// # Errors
    /// [`CatalogError::Sql`].
    pub fn set_erased_samples(&self, id: &str, samples: u64) -> Result<(), CatalogError> {
        let connection = self.connection.lock();
        let mut statement =
            connection.prepare_cached("UPDATE erasures SET samples = ?2 WHERE id = ?1 AND samples = ?3")?;
        statement.execute((id, samples.cast_signed(), UNCOUNTED))?;
        Ok(())
    }

    /// Ends the counting of samples for erasures that are going to be carried out: what is
    /// counted from then on may be too few.
    ///
    /// # Errors
    /// [`CatalogError::Sql`].
    pub fn end_counts(&self, ids: &[String]) -> Result<(), CatalogError> {
        let mut connection = self.connection.lock();
        let transaction = connection.transaction()?;
        for id in ids {
            let mut statement = transaction
                .prepare_cached("UPDATE erasures SET samples = ?2 WHERE id = ?1 AND samples = ?3")?;
            statement.execute((id, NEVER_COUNTED, UNCOUNTED))?;
        }
        transaction.commit()?;
        Ok(())
    }

    /// Adds to what erasures took away; they go on.
    ///
    /// # Errors
    /// [`CatalogError::Sql`].
    pub fn add_removed(&self, removed: &[(String, Removed)]) -> Result<(), CatalogError> {
        let mut connection = self.connection.lock();
        let transaction = connection.transaction()?;
        for (id, removed) in removed {
            let mut statement = transaction.prepare_cached(
                "UPDATE erasures SET files = files + ?2, segments = segments + ?3,
                     deliveries = deliveries + ?4, attempts = attempts + ?5 WHERE id = ?1",
            )?;
            let Removed { files, segments, deliveries, attempts, .. } = *removed;
            let counts = [files, segments, deliveries, attempts].map(u64::cast_signed);
            statement.execute((id, counts[0], counts[1], counts[2], counts[3]))?;
        }
        transaction.commit()?;
        Ok(())
    }

    /// Completes erasures: their receipts stay, the names in them go, also out of the
    /// file's free pages and its write-ahead log.
    ///
    /// # Errors
    /// [`CatalogError::Sql`].
    pub fn finish_erasures(&self, ids: &[String]) -> Result<(), CatalogError> {
        let mut connection = self.connection.lock();
        let transaction = connection.transaction()?;
        for id in ids {
            let mut statement = transaction.prepare_cached(
                "UPDATE erasures SET user_id = '', completed_at = ?2 WHERE id = ?1 AND completed_at IS NULL",
            )?;
            statement.execute((id, now_ms()))?;
        }
        transaction.commit()?;
        Ok(())
    }

    /// Brings the write-ahead log into the file and empties it, so that what was
    /// overwritten there is gone. False if another process was reading.
    ///
    /// # Errors
    /// [`CatalogError::Sql`].
    pub fn empty_log(&self) -> Result<bool, CatalogError> {
        let connection = self.connection.lock();
        let busy: i64 = connection.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |row| row.get(0))?;
        Ok(busy == 0)
    }

    /// How long organisations keep what.
    ///
    /// # Errors
    /// [`CatalogError::Sql`].
    pub fn retention(&self) -> Result<Vec<(String, RetentionRule)>, CatalogError> {
        let connection = self.connection.lock();
        let mut statement =
            connection.prepare_cached("SELECT org, metric, days FROM retention ORDER BY org, metric")?;
        let rows = statement.query_map([], |row| {
            Ok((row.get(0)?, RetentionRule { metric: row.get(1)?, days: row.get(2)? }))
        })?;
        Ok(rows.collect::<Result<_, _>>()?)
    }

    /// Replaces an organisation's rules, and notes what those of before may have dropped.
    ///
    /// # Errors
    /// [`CatalogError::Sql`].
    pub fn put_retention(
        &self,
        org: &str,
        rules: &[RetentionRule],
        dropped: &[Dropped],
    ) -> Result<(), CatalogError> {
        let mut connection = self.connection.lock();
        let transaction = connection.transaction()?;
        transaction.execute("DELETE FROM retention WHERE org = ?1", [org])?;
        for rule in rules {
            transaction.execute(
                "INSERT INTO retention (org, metric, days) VALUES (?1, ?2, ?3)",
                (org, &rule.metric, rule.days),
            )?;
        }
        put_dropped(&transaction, dropped)?;
        transaction.commit()?;
        Ok(())
    }

    /// How many days samples were kept at the last start where no rule says; `None` for ever.
    ///
    /// # Errors
    /// [`CatalogError::Sql`].
    pub fn default_days(&self) -> Result<Option<u32>, CatalogError> {
        let connection = self.connection.lock();
        let mut statement = connection.prepare("SELECT value FROM instance WHERE name = 'default_days'")?;
        let days: Option<String> = statement.query_row([], |row| row.get(0)).optional()?;
        let malformed = |_| CatalogError::Malformed { what: "number of days" };
        days.map(|days| days.parse().map_err(malformed)).transpose()
    }

    /// Replaces how many days samples are kept where no rule says, and notes what may have
    /// been dropped under the number of before.
    ///
    /// # Errors
    /// [`CatalogError::Sql`].
    pub fn put_default_days(&self, days: Option<u32>, dropped: &[Dropped]) -> Result<(), CatalogError> {
        let mut connection = self.connection.lock();
        let transaction = connection.transaction()?;
        transaction.execute("DELETE FROM instance WHERE name = 'default_days'", [])?;
        if let Some(days) = days {
            transaction.execute(
                "INSERT INTO instance (name, value) VALUES ('default_days', ?1)",
                [days.to_string()],
            )?;
        }
        put_dropped(&transaction, dropped)?;
        transaction.commit()?;
        Ok(())
    }

    /// What rules that were replaced may have dropped.
    ///
    /// # Errors
    /// [`CatalogError::Sql`].
    pub fn dropped(&self) -> Result<Vec<Dropped>, CatalogError> {
        let connection = self.connection.lock();
        let mut statement = connection.prepare("SELECT org, metric, time_before FROM dropped")?;
        let rows = statement.query_map([], |row| {
            Ok(Dropped { org: row.get(0)?, metric: row.get(1)?, before: row.get(2)? })
        })?;
        Ok(rows.collect::<Result<_, _>>()?)
    }
}

/// Notes what may have been dropped; what was noted before stays if it reaches further.
fn put_dropped(connection: &Connection, dropped: &[Dropped]) -> Result<(), CatalogError> {
    for Dropped { org, metric, before } in dropped {
        connection.execute(
            "INSERT INTO dropped (org, metric, time_before) VALUES (?1, ?2, ?3)
             ON CONFLICT (org, metric) DO UPDATE SET time_before = excluded.time_before
             WHERE excluded.time_before > dropped.time_before",
            (org, metric, before),
        )?;
    }
    Ok(())
}

fn tombstone(row: &Row<'_>) -> Result<Tombstone, CatalogError> {
    let (user, metric): (String, Option<String>) = (row.get(2)?, row.get(3)?);
    let erased = match metric {
        None => Erased::User { user, block: row.get(6)? },
        Some(metric) => Erased::Range {
            user: Some(user).filter(|user| !user.is_empty()),
            metric: Some(metric).filter(|metric| metric != EVERY_METRIC),
            start: row.get(4)?,
            end: row.get(5)?,
        },
    };
    Ok(Tombstone {
        id: row.get(0)?,
        org: row.get(1)?,
        erased,
        sequence: Sequence(row.get::<_, i64>(7)?.cast_unsigned()),
        created_at: row.get(8)?,
    })
}

fn receipt(row: &Row<'_>) -> rusqlite::Result<ErasureRecord> {
    let count = |index: usize| row.get::<_, i64>(index).map(i64::cast_unsigned);
    Ok(ErasureRecord {
        id: row.get(0)?,
        removed: Removed {
            samples: u64::try_from(row.get::<_, i64>(1)?).ok(),
            files: count(2)?,
            segments: count(3)?,
            deliveries: count(4)?,
            attempts: count(5)?,
        },
        created_at: row.get(6)?,
        completed_at: row.get(7)?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn samples_are_noted_once_and_not_while_an_erasure_is_carried_out() {
        let dir = tempfile::tempdir().unwrap();
        let catalog = Catalog::open(dir.path()).unwrap();
        let ids = ["counted", "late", "never"].map(str::to_owned);
        let order = |id: &String| {
            Arc::new(Tombstone {
                id: id.clone(),
                org: "acme".to_owned(),
                erased: Erased::Range { user: None, metric: None, start: 0, end: 1 },
                sequence: Sequence(1),
                created_at: 0,
            })
        };
        catalog.put_tombstones(&ids.each_ref().map(order)).unwrap();
        let samples = |id: &str| catalog.erasure("acme", id).unwrap().unwrap().removed.samples;
        assert_eq!(ids.each_ref().map(|id| samples(id)), [None; 3]);
        for number in [0, 7] {
            catalog.set_erased_samples("counted", number).unwrap();
        }
        catalog.end_counts(&ids).unwrap();
        catalog.set_erased_samples("late", 7).unwrap();
        catalog.finish_erasures(&ids).unwrap();
        assert_eq!(ids.each_ref().map(|id| samples(id)), [Some(0), None, None]);
    }
}
