//! The checkpoint files of the series map and the position they reach to.

use super::{Catalog, CatalogError, now_ms};
use crate::frame::Sequence;

/// A checkpoint file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CheckpointRecord {
    /// Below the data dir, with `/`; a later one counts before an earlier one.
    pub path: String,
    /// `base` holds everything up to its time, `delta` what changed since.
    pub kind: String,
    /// Every update up to this is in it or in files before it.
    pub sequence: Sequence,
    /// Users in it.
    pub users: u64,
    /// Series in it.
    pub series: u64,
    /// Length of the file.
    pub bytes: u64,
}

impl Catalog {
    /// Makes these the checkpoint files that count, and `position` what they
    /// reach to, in one transaction. What was listed before no longer is.
    ///
    /// # Errors
    /// [`CatalogError::Sql`].
    pub fn replace_checkpoints(
        &self,
        files: &[CheckpointRecord],
        position: Sequence,
    ) -> Result<(), CatalogError> {
        let mut connection = self.connection.lock();
        let transaction = connection.transaction()?;
        transaction.execute("DELETE FROM checkpoints", [])?;
        for file in files {
            transaction.execute(
                "INSERT INTO checkpoints (path, kind, sequence, user_count, series_count, byte_count, created_at)
                 VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)",
                rusqlite::params![
                    file.path,
                    file.kind,
                    file.sequence.0.cast_signed(),
                    file.users.cast_signed(),
                    file.series.cast_signed(),
                    file.bytes.cast_signed(),
                    now_ms(),
                ],
            )?;
        }
        transaction.execute(
            "INSERT INTO positions (name, sequence, ordering) VALUES ('checkpointed', ?1, 0)
             ON CONFLICT (name) DO UPDATE SET sequence = excluded.sequence",
            [position.0.cast_signed()],
        )?;
        transaction.commit()?;
        Ok(())
    }

    /// The checkpoint files, oldest first, and the position they reach to.
    ///
    /// # Errors
    /// [`CatalogError::Sql`].
    pub fn checkpoints(&self) -> Result<(Vec<CheckpointRecord>, Sequence), CatalogError> {
        let mut connection = self.connection.lock();
        let transaction = connection.transaction()?;
        let mut statement = transaction.prepare(
            "SELECT path, kind, sequence, user_count, series_count, byte_count FROM checkpoints ORDER BY path",
        )?;
        let files = statement.query_map([], |row| {
            let number = |index: usize| row.get::<_, i64>(index).map(i64::cast_unsigned);
            Ok(CheckpointRecord {
                path: row.get(0)?,
                kind: row.get(1)?,
                sequence: Sequence(number(2)?),
                users: number(3)?,
                series: number(4)?,
                bytes: number(5)?,
            })
        })?;
        let files = files.collect::<Result<Vec<_>, _>>()?;
        let mut statement =
            transaction.prepare("SELECT sequence FROM positions WHERE name = 'checkpointed'")?;
        let position = statement.query_map([], |row| row.get::<_, i64>(0))?.next().transpose()?;
        Ok((files, Sequence(position.unwrap_or(0).cast_unsigned())))
    }
}
