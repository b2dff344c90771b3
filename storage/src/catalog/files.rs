//! Parquet files, what replaces them, and the journal position they reach to.

use std::fmt::Write;

use rusqlite::{Connection, Row, params};

use super::{Catalog, CatalogError, from_hex, now_ms, to_hex};
use crate::frame::Sequence;

const COLUMNS: &str = "path, org, metric, period, bucket, bucket_bits, level, sequence_first, sequence_last, \
     row_count, byte_count, user_min, user_max, time_min, time_max, block_crc32c, created_at";
const SECTION_COLUMNS: &str = "path, org, metric, row_count, sequence_first, sequence_last, user_min, user_max, \
     time_min, time_max, unique_keys, days";

/// A Parquet file with what a query needs to know before it opens it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FileRecord {
    /// Below the data dir, with `/`.
    pub path: String,
    /// Whose rows it holds; empty for a run, see `sections`.
    pub org: String,
    /// Canonical metric key of its rows; empty for a run.
    pub metric: String,
    /// `2026-06-30`, `2026-06` or `2026`; empty for a run.
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
    /// Its rows by (organisation, metric), in file order, which is that of their
    /// bytes; a file of a period has one section.
    pub sections: Vec<SectionRecord>,
    /// When it was written, milliseconds; of a run that was only written anew, when
    /// the first one was.
    pub created_at: i64,
}

/// The rows of one organisation's metric in a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SectionRecord {
    /// Whose rows.
    pub org: String,
    /// Canonical metric key.
    pub metric: String,
    /// Rows.
    pub rows: u64,
    /// Smallest sequence.
    pub sequence_first: Sequence,
    /// Greatest sequence.
    pub sequence_last: Sequence,
    /// First user in byte order.
    pub user_min: String,
    /// Last user in byte order.
    pub user_max: String,
    /// Earliest time, milliseconds.
    pub time_min: i64,
    /// Latest time, milliseconds.
    pub time_max: i64,
    /// No two of its rows have one key.
    pub unique: bool,
    /// Rows by UTC day (since 1970), rising; empty if it was not counted.
    pub days: Vec<(i32, u64)>,
}

impl FileRecord {
    /// The rows of an organisation's metric.
    #[must_use]
    pub fn section(&self, org: &str, metric: &str) -> Option<&SectionRecord> {
        let found = self
            .sections
            .binary_search_by(|section| (section.org.as_str(), section.metric.as_str()).cmp(&(org, metric)));
        found.ok().map(|at| &self.sections[at])
    }
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
        self.commit_flush_with(files, &[], flushed)
    }

    /// Takes a number for a compaction. Its files carry the number, and are known
    /// as leftovers until [`Catalog::replace_files`].
    ///
    /// # Errors
    /// [`CatalogError::Sql`].
    pub fn begin_compaction(&self) -> Result<u64, CatalogError> {
        let mut connection = self.connection.lock();
        let transaction = connection.transaction()?;
        transaction.execute(
            "INSERT INTO positions (name, sequence, ordering) VALUES ('compaction', 1, 0)
             ON CONFLICT (name) DO UPDATE SET sequence = sequence + 1",
            [],
        )?;
        let number: i64 =
            transaction.query_row("SELECT sequence FROM positions WHERE name = 'compaction'", [], |row| {
                row.get(0)
            })?;
        transaction
            .execute("INSERT INTO unfinished (number, created_at) VALUES (?1, ?2)", (number, now_ms()))?;
        transaction.commit()?;
        Ok(number.cast_unsigned())
    }

    /// Puts a compaction's files in the place of those it read, all or nothing;
    /// those are garbage from then on. Doing it again changes nothing.
    ///
    /// # Errors
    /// [`CatalogError::Sql`].
    pub fn replace_files(
        &self,
        numbers: &[u64],
        removed: &[&str],
        added: &[FileRecord],
    ) -> Result<(), CatalogError> {
        let mut connection = self.connection.lock();
        let transaction = connection.transaction()?;
        for path in removed {
            transaction.execute("DELETE FROM files WHERE path = ?1", [path])?;
            transaction.execute("DELETE FROM sections WHERE path = ?1", [path])?;
            transaction.execute(
                "INSERT INTO garbage (path, created_at) VALUES (?1, ?2) ON CONFLICT (path) DO NOTHING",
                (path, now_ms()),
            )?;
        }
        for file in added {
            insert_file(&transaction, file)?;
        }
        for number in numbers {
            transaction.execute("DELETE FROM unfinished WHERE number = ?1", [number.cast_signed()])?;
        }
        transaction.commit()?;
        Ok(())
    }

    /// The numbers of compactions that did not get to their end.
    ///
    /// # Errors
    /// [`CatalogError::Sql`].
    pub fn unfinished(&self) -> Result<Vec<u64>, CatalogError> {
        let connection = self.connection.lock();
        let mut statement = connection.prepare("SELECT number FROM unfinished")?;
        let numbers = statement.query_map([], |row| row.get(0).map(i64::cast_unsigned))?;
        Ok(numbers.collect::<Result<_, _>>()?)
    }

    /// Forgets unfinished compactions whose files are gone.
    ///
    /// # Errors
    /// [`CatalogError::Sql`].
    pub fn forget_unfinished(&self, numbers: &[u64]) -> Result<(), CatalogError> {
        let connection = self.connection.lock();
        for number in numbers {
            connection.execute("DELETE FROM unfinished WHERE number = ?1", [number.cast_signed()])?;
        }
        Ok(())
    }

    /// Files that were replaced and may still be there.
    ///
    /// # Errors
    /// [`CatalogError::Sql`].
    pub fn garbage(&self) -> Result<Vec<String>, CatalogError> {
        let connection = self.connection.lock();
        let mut statement = connection.prepare("SELECT path FROM garbage")?;
        let paths = statement.query_map([], |row| row.get(0))?;
        Ok(paths.collect::<Result<_, _>>()?)
    }

    /// Forgets replaced files that are gone, in one transaction.
    ///
    /// # Errors
    /// [`CatalogError::Sql`].
    pub fn forget_garbage(&self, paths: &[String]) -> Result<(), CatalogError> {
        let mut connection = self.connection.lock();
        let transaction = connection.transaction()?;
        for path in paths {
            transaction.execute("DELETE FROM garbage WHERE path = ?1", [path])?;
        }
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

    /// Every file with its sections.
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
        let sql = format!("SELECT {SECTION_COLUMNS} FROM sections ORDER BY path, ordinal");
        let mut statement = connection.prepare(&sql)?;
        let mut rows = statement.query([])?;
        // Both come by path, so each section belongs to this file or a later one.
        let mut at = 0;
        while let Some(row) = rows.next()? {
            let path: String = row.get(0)?;
            while files.get(at).is_some_and(|file: &FileRecord| file.path < path) {
                at += 1;
            }
            let Some(file) = files.get_mut(at).filter(|file| file.path == path) else {
                return Err(CatalogError::Malformed { what: "section of a file that is not there" });
            };
            file.sections.push(section(row)?);
        }
        Ok(files)
    }
}

/// Lists the files of a flush and moves the journal position.
pub(super) fn put_flush(
    connection: &Connection,
    files: &[FileRecord],
    flushed: Flushed,
) -> Result<(), CatalogError> {
    for file in files {
        insert_file(connection, file)?;
    }
    connection.execute(
        "INSERT INTO positions (name, sequence, ordering) VALUES ('flushed', ?1, ?2)
         ON CONFLICT (name) DO UPDATE SET sequence = excluded.sequence, ordering = excluded.ordering",
        (flushed.sequence.0.cast_signed(), flushed.ordering.cast_signed()),
    )?;
    Ok(())
}

fn insert_file(connection: &Connection, file: &FileRecord) -> Result<(), CatalogError> {
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
    statement.execute(params![
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
        file.created_at,
    ])?;
    connection.prepare_cached("DELETE FROM sections WHERE path = ?1")?.execute([&file.path])?;
    let mut statement = connection.prepare_cached(
        "INSERT INTO sections (path, ordinal, org, metric, row_count, sequence_first, sequence_last, user_min,
             user_max, time_min, time_max, unique_keys, days)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13)",
    )?;
    for (ordinal, section) in (0i64..).zip(&file.sections) {
        statement.execute(params![
            file.path,
            ordinal,
            section.org,
            section.metric,
            section.rows.cast_signed(),
            section.sequence_first.0.cast_signed(),
            section.sequence_last.0.cast_signed(),
            section.user_min,
            section.user_max,
            section.time_min,
            section.time_max,
            i64::from(section.unique),
            days_text(&section.days),
        ])?;
    }
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
        sections: Vec::new(),
        created_at: row.get(16)?,
    })
}

fn section(row: &Row<'_>) -> Result<SectionRecord, CatalogError> {
    let number = |index: usize| row.get::<_, i64>(index).map(i64::cast_unsigned);
    let days: String = row.get(11)?;
    Ok(SectionRecord {
        org: row.get(1)?,
        metric: row.get(2)?,
        rows: number(3)?,
        sequence_first: Sequence(number(4)?),
        sequence_last: Sequence(number(5)?),
        user_min: row.get(6)?,
        user_max: row.get(7)?,
        time_min: row.get(8)?,
        time_max: row.get(9)?,
        unique: row.get::<_, i64>(10)? != 0,
        days: days_of(&days).ok_or(CatalogError::Malformed { what: "list of days" })?,
    })
}

/// `20634:812 20635:77`.
fn days_text(days: &[(i32, u64)]) -> String {
    let mut text = String::new();
    for (day, rows) in days {
        let gap = if text.is_empty() { "" } else { " " };
        let _ = write!(text, "{gap}{day}:{rows}");
    }
    text
}

fn days_of(text: &str) -> Option<Vec<(i32, u64)>> {
    let day = |item: &str| {
        let (day, rows) = item.split_once(':')?;
        Some((day.parse().ok()?, rows.parse().ok()?))
    };
    text.split_whitespace().map(day).collect()
}
