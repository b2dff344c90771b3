//! Files of delivery attempts: their place, statistics and checksums.

use rusqlite::{Connection, Row, params};

use super::{Catalog, CatalogError, FileRecord, Flushed, files, from_hex, now_ms, to_hex};
use crate::frame::Sequence;

const COLUMNS: &str = "path, org, day, level, sequence_first, sequence_last, message_first, message_last, row_count, \
     byte_count, user_min, user_max, time_min, time_max, block_crc32c, created_at";

/// A file of attempts with what a query needs to know before it opens it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AttemptFileRecord {
    /// As for any data file; `period` is the day, `sequence_first` and `sequence_last`
    /// are of the frames its rows came with, users are those of the rows that have one.
    /// It has no metric, bucket or section.
    pub file: FileRecord,
    /// Smallest and greatest sequence of the messages that have a place; the first is
    /// greater if none has.
    pub messages: (u64, u64),
}

impl Catalog {
    /// As [`Catalog::commit_flush`], with files of attempts beside those of samples.
    ///
    /// # Errors
    /// [`CatalogError::Sql`].
    pub fn commit_flush_with(
        &self,
        files: &[FileRecord],
        attempts: &[AttemptFileRecord],
        flushed: Flushed,
    ) -> Result<(), CatalogError> {
        let mut connection = self.connection.lock();
        let transaction = connection.transaction()?;
        files::put_flush(&transaction, files, flushed)?;
        for file in attempts {
            insert(&transaction, file)?;
        }
        transaction.commit()?;
        Ok(())
    }

    /// Puts files of attempts in the place of others, all or nothing; those are garbage
    /// from then on. Doing it again changes nothing.
    ///
    /// # Errors
    /// [`CatalogError::Sql`].
    pub fn replace_attempt_files(
        &self,
        numbers: &[u64],
        removed: &[&str],
        added: &[AttemptFileRecord],
    ) -> Result<(), CatalogError> {
        let mut connection = self.connection.lock();
        let transaction = connection.transaction()?;
        for path in removed {
            transaction.execute("DELETE FROM attempt_files WHERE path = ?1", [path])?;
            transaction.execute(
                "INSERT INTO garbage (path, created_at) VALUES (?1, ?2) ON CONFLICT (path) DO NOTHING",
                (path, now_ms()),
            )?;
        }
        for file in added {
            insert(&transaction, file)?;
        }
        for number in numbers {
            transaction.execute("DELETE FROM unfinished WHERE number = ?1", [number.cast_signed()])?;
        }
        transaction.commit()?;
        Ok(())
    }

    /// Every file of attempts.
    ///
    /// # Errors
    /// [`CatalogError::Sql`], [`CatalogError::Malformed`].
    pub fn attempt_files(&self) -> Result<Vec<AttemptFileRecord>, CatalogError> {
        let connection = self.connection.lock();
        let mut statement =
            connection.prepare(&format!("SELECT {COLUMNS} FROM attempt_files ORDER BY path"))?;
        let mut rows = statement.query([])?;
        let mut files = Vec::new();
        while let Some(row) = rows.next()? {
            files.push(record(row)?);
        }
        Ok(files)
    }
}

fn insert(connection: &Connection, attempts: &AttemptFileRecord) -> Result<(), CatalogError> {
    let file = &attempts.file;
    let crcs: Vec<u8> = file.block_crc32c.iter().flat_map(|crc| crc.to_be_bytes()).collect();
    let mut statement = connection.prepare_cached(
        "INSERT INTO attempt_files (path, org, day, level, sequence_first, sequence_last, message_first, message_last,
             row_count, byte_count, user_min, user_max, time_min, time_max, block_crc32c, created_at)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13, ?14, ?15, ?16)
         ON CONFLICT (path) DO UPDATE SET sequence_first = excluded.sequence_first,
             sequence_last = excluded.sequence_last, message_first = excluded.message_first,
             message_last = excluded.message_last, row_count = excluded.row_count,
             byte_count = excluded.byte_count, user_min = excluded.user_min, user_max = excluded.user_max,
             time_min = excluded.time_min, time_max = excluded.time_max,
             block_crc32c = excluded.block_crc32c, created_at = excluded.created_at",
    )?;
    statement.execute(params![
        file.path,
        file.org,
        file.period,
        file.level,
        file.sequence_first.0.cast_signed(),
        file.sequence_last.0.cast_signed(),
        attempts.messages.0.cast_signed(),
        attempts.messages.1.cast_signed(),
        file.rows.cast_signed(),
        file.bytes.cast_signed(),
        file.user_min,
        file.user_max,
        file.time_min,
        file.time_max,
        to_hex(&crcs),
        file.created_at,
    ])?;
    Ok(())
}

fn record(row: &Row<'_>) -> Result<AttemptFileRecord, CatalogError> {
    let crcs: String = row.get(14)?;
    let crcs = from_hex(&crcs).ok_or(CatalogError::Malformed { what: "list of block checksums" })?;
    let number = |index: usize| row.get::<_, i64>(index).map(i64::cast_unsigned);
    let file = FileRecord {
        path: row.get(0)?,
        org: row.get(1)?,
        metric: String::new(),
        period: row.get(2)?,
        bucket: 0,
        bucket_bits: 0,
        level: row.get(3)?,
        sequence_first: Sequence(number(4)?),
        sequence_last: Sequence(number(5)?),
        rows: number(8)?,
        bytes: number(9)?,
        user_min: row.get(10)?,
        user_max: row.get(11)?,
        time_min: row.get(12)?,
        time_max: row.get(13)?,
        block_crc32c: crcs
            .chunks_exact(4)
            .map(|crc| u32::from_be_bytes([crc[0], crc[1], crc[2], crc[3]]))
            .collect(),
        sections: Vec::new(),
        created_at: row.get(15)?,
    };
    Ok(AttemptFileRecord { file, messages: (number(6)?, number(7)?) })
}
