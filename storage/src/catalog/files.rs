//! Parquet files and the journal position they reach to.

use rusqlite::Row;

use super::{Catalog, CatalogError, from_hex, now_ms, to_hex};
use crate::frame::Sequence;

const COLUMNS: &str = "path, org, metric, period, bucket, bucket_bits, level, sequence_first, sequence_last, \
     row_count, byte_count, user_min, user_max, time_min, time_max, block_crc32c";

/// A Parquet file with what a query needs to know before it opens it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FileRecord {
    /// Below the data dir, with `/`.
    pub path: String,
    /// Whose rows it holds.
    pub org: String,
    /// Canonical metric key of its rows.
    pub metric: String,
    /// `2026-06-30`, `2026-06` or `2026`.
    pub period: String,
    /// Number of the bucket.
    pub bucket: u32,
    /// Bits of the user's hash that choose the bucket.
    pub bucket_bits: u32,
    /// 0 for a flush's files.
    pub level: u32,
    /// Smallest sequence of its rows.
    pub sequence_first: Sequence,
    /// Greatest sequence of its rows.
    pub sequence_last: Sequence,
    /// Rows.
    pub rows: u64,
    /// Length of the file.
    pub bytes: u64,
    /// First user in byte order.
    pub user_min: String,
    /// Last user in byte order.
    pub user_max: String,
    /// Earliest time, milliseconds.
    pub time_min: i64,
    /// Latest time, milliseconds.
    pub time_max: i64,
    /// CRC-32C of each block of 64 KiB; the last may be shorter.
    pub block_crc32c: Vec<u32>,
}

/// How far the files reach.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Flushed {
    /// Everything up to this is in files.
    pub sequence: Sequence,
    /// The greatest `ordering` up to there.
    pub ordering: u64,
}

impl Catalog {
    /// Adds the files of a flush and moves the journal position, both or neither.
    /// Doing it again for the same flush changes nothing: a commit that failed
    /// may have become durable all the same.
    ///
    /// # Errors
    /// [`CatalogError::Sql`].
    pub fn commit_flush(&self, files: &[FileRecord], flushed: Flushed) -> Result<(), CatalogError> {
        let mut connection = self.connection.lock();
        let transaction = connection.transaction()?;
        for file in files {
            insert_file(&transaction, file)?;
        }
        transaction.execute(
            "INSERT INTO positions (name, sequence, ordering) VALUES ('flushed', ?1, ?2)
             ON CONFLICT (name) DO UPDATE SET sequence = excluded.sequence, ordering = excluded.ordering",
            (flushed.sequence.0.cast_signed(), flushed.ordering.cast_signed()),
        )?;
        transaction.commit()?;
        Ok(())
    }

    /// How far the files reach.
    ///
    /// # Errors
    /// [`CatalogError::Sql`].
    pub fn flushed(&self) -> Result<Flushed, CatalogError> {
        let connection = self.connection.lock();
        let mut statement =
            connection.prepare("SELECT sequence, ordering FROM positions WHERE name = 'flushed'")?;
        let mut rows = statement.query([])?;
        let Some(row) = rows.next()? else {
            return Ok(Flushed::default());
        };
        Ok(Flushed {
            sequence: Sequence(row.get::<_, i64>(0)?.cast_unsigned()),
            ordering: row.get::<_, i64>(1)?.cast_unsigned(),
        })
    }

    /// Every file.
    ///
    /// # Errors
    /// [`CatalogError::Sql`], [`CatalogError::Malformed`].
    pub fn files(&self) -> Result<Vec<FileRecord>, CatalogError> {
        let connection = self.connection.lock();
        let mut statement = connection.prepare(&format!("SELECT {COLUMNS} FROM files ORDER BY path"))?;
        let mut rows = statement.query([])?;
        let mut files = Vec::new();
        while let Some(row) = rows.next()? {
            files.push(record(row)?);
        }
        Ok(files)
    }
}

fn insert_file(connection: &rusqlite::Connection, file: &FileRecord) -> Result<(), CatalogError> {
    let crcs: Vec<u8> = file.block_crc32c.iter().flat_map(|crc| crc.to_be_bytes()).collect();
    let mut statement = connection.prepare_cached(
        "INSERT INTO files (path, org, metric, period, bucket, bucket_bits, level, sequence_first, sequence_last,
             row_count, byte_count, user_min, user_max, time_min, time_max, block_crc32c, created_at)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13, ?14, ?15, ?16, ?17)
         ON CONFLICT (path) DO UPDATE SET sequence_first = excluded.sequence_first,
             sequence_last = excluded.sequence_last, row_count = excluded.row_count,
             byte_count = excluded.byte_count, user_min = excluded.user_min, user_max = excluded.user_max,
             time_min = excluded.time_min, time_max = excluded.time_max,
             block_crc32c = excluded.block_crc32c, created_at = excluded.created_at",
    )?;
    statement.execute(rusqlite::params![
        file.path,
        file.org,
        file.metric,
        file.period,
        file.bucket,
        file.bucket_bits,
        file.level,
        file.sequence_first.0.cast_signed(),
        file.sequence_last.0.cast_signed(),
        file.rows.cast_signed(),
        file.bytes.cast_signed(),
        file.user_min,
        file.user_max,
        file.time_min,
        file.time_max,
        to_hex(&crcs),
        now_ms(),
    ])?;
    Ok(())
}

fn record(row: &Row<'_>) -> Result<FileRecord, CatalogError> {
    let crcs: String = row.get(15)?;
    let crcs = from_hex(&crcs).ok_or(CatalogError::Malformed { what: "list of block checksums" })?;
    let number = |index: usize| row.get::<_, i64>(index).map(i64::cast_unsigned);
    Ok(FileRecord {
        path: row.get(0)?,
        org: row.get(1)?,
        metric: row.get(2)?,
        period: row.get(3)?,
        bucket: row.get(4)?,
        bucket_bits: row.get(5)?,
        level: row.get(6)?,
        sequence_first: Sequence(number(7)?),
        sequence_last: Sequence(number(8)?),
        rows: number(9)?,
        bytes: number(10)?,
        user_min: row.get(11)?,
        user_max: row.get(12)?,
        time_min: row.get(13)?,
        time_max: row.get(14)?,
        block_crc32c: crcs
            .chunks_exact(4)
            .map(|crc| u32::from_be_bytes([crc[0], crc[1], crc[2], crc[3]]))
            .collect(),
    })
}
