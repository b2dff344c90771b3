//! What the lanes of webhook endpoints need over restarts.
//!
//! A lane that keeps up has no row: one position stands for all of them. A lane that
//! lags, or draws events together, has its cursor, a delivery that failed its exception.

use rusqlite::{OptionalExtension, Row, Transaction};

use super::{Catalog, CatalogError, LaneRanges, from_hex, lanes, to_hex};
use crate::frame::Sequence;

/// The position that stands for every lane without a row.
const ROUTED: &str = "routed";
/// Up to where `look` groups have their verdicts.
const CLASSIFIED: &str = "classified";

/// The first event that a lane has not taken yet: its frame, and how many events
/// of that frame came before it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct CursorRecord {
    /// The frame's sequence.
    pub sequence: u64,
    /// Events of the frame that were taken.
    pub ordinal: u32,
}

/// A delivery that failed and is tried again.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ExceptionRecord {
    /// Whose delivery it is.
    pub endpoint: String,
    /// Sequence of the event's frame.
    pub sequence: u64,
    /// First group of the event.
    pub group: u32,
    /// Part of the event.
    pub chunk: u16,
    /// Number of the event's kind.
    pub kind: u8,
    /// Sequence of the frame that decided the event.
    pub decided_at: u64,
    /// Hash of what is delivered one at a time.
    pub key: u64,
    /// Attempts made.
    pub attempts: u32,
    /// When the next one is due, milliseconds since 1970.
    pub due_at: i64,
    /// The events it carries, in the dispatcher's form, if they are several; else
    /// empty.
    pub members: Vec<u8>,
    /// Events of its frame before it.
    pub ordinal: u32,
    /// That it is given up is not announced.
    pub quiet: bool,
}

/// What changed since the last save.
#[derive(Clone, Debug, Default)]
pub struct LaneChanges {
    /// Every lane without a row has decided everything up to here.
    pub routed: Option<Sequence>,
    /// Up to where verdicts are durable.
    pub classified: Option<Sequence>,
    /// Lanes that began anew: what is stored of them is forgotten first.
    pub wiped: Vec<String>,
    /// Lanes with a cursor of their own from now on, or one that moved.
    pub cursors: Vec<(String, CursorRecord)>,
    /// Lanes that need none any more.
    pub caught_up: Vec<String>,
    /// Deliveries that failed, or failed again.
    pub failed: Vec<ExceptionRecord>,
    /// Exceptions that are over, by endpoint and place.
    pub settled: Vec<(String, u64, u32, u16, u8)>,
    /// What else changed.
    pub ranges: LaneRanges,
}

impl LaneChanges {
    /// Whether there is nothing to save.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.routed.is_none()
            && self.classified.is_none()
            && self.wiped.is_empty()
            && self.cursors.is_empty()
            && self.caught_up.is_empty()
            && self.failed.is_empty()
            && self.settled.is_empty()
            && self.ranges.len() == 0
    }

    /// Statements that saving takes.
    #[must_use]
    pub fn statement_count(&self) -> u64 {
        let positions = usize::from(self.routed.is_some()) + usize::from(self.classified.is_some());
        let rows = self.wiped.len()
            + self.cursors.len()
            + self.caught_up.len()
            + self.failed.len()
            + self.settled.len()
            + self.ranges.len();
        (positions + rows) as u64
    }
}

impl Catalog {
    /// Cursors of the lanes that have one.
    ///
    /// # Errors
    /// [`CatalogError::Sql`].
    pub fn lane_cursors(&self) -> Result<Vec<(String, CursorRecord)>, CatalogError> {
        let connection = self.connection.lock();
        let mut statement =
            connection.prepare_cached("SELECT endpoint, sequence, ordinal FROM lane_cursors")?;
        let rows = statement.query_map([], |row| {
            let sequence = row.get::<_, i64>(1)?.cast_unsigned();
            Ok((row.get(0)?, CursorRecord { sequence, ordinal: row.get(2)? }))
        })?;
        Ok(rows.collect::<Result<_, _>>()?)
    }

    /// Deliveries that wait for another attempt.
    ///
    /// # Errors
    /// [`CatalogError::Sql`].
    pub fn exceptions(&self) -> Result<Vec<ExceptionRecord>, CatalogError> {
        let connection = self.connection.lock();
        let mut statement = connection.prepare_cached(
            "SELECT endpoint, sequence, event_group, chunk, kind, decided_at, event_key, attempts, due_at,
                 ordinal, quiet, members
             FROM exceptions ORDER BY endpoint, sequence, event_group, chunk, kind",
        )?;
        let number = |row: &Row<'_>, at: usize| row.get::<_, i64>(at).map(i64::cast_unsigned);
        let rows = statement.query_map([], |row| {
            Ok(ExceptionRecord {
                endpoint: row.get(0)?,
                sequence: number(row, 1)?,
                group: row.get(2)?,
                chunk: row.get(3)?,
                kind: row.get(4)?,
                decided_at: number(row, 5)?,
                key: number(row, 6)?,
                attempts: row.get(7)?,
                due_at: row.get(8)?,
                ordinal: row.get(9)?,
                quiet: row.get(10)?,
                members: row.get::<_, Option<Vec<u8>>>(11)?.unwrap_or_default(),
            })
        })?;
        Ok(rows.collect::<Result<_, _>>()?)
    }

    /// Saves what changed in the lanes, all or nothing.
    ///
    /// # Errors
    /// [`CatalogError::Sql`].
    pub fn save_lanes(&self, changes: &LaneChanges) -> Result<(), CatalogError> {
        self.save_lanes_row_by_row(changes, &mut || {})
    }

    /// The same for thousands of rows: `between_rows` is called before each, while others
    /// wait for the catalog.
    ///
    /// # Errors
    /// [`CatalogError::Sql`].
    pub fn save_lanes_row_by_row(
        &self,
        changes: &LaneChanges,
        between_rows: &mut dyn FnMut(),
    ) -> Result<(), CatalogError> {
        let mut connection = self.connection.lock();
        let transaction = connection.transaction()?;
        for (name, position) in [(ROUTED, changes.routed), (CLASSIFIED, changes.classified)] {
            if let Some(position) = position {
                put_position(&transaction, name, position)?;
            }
        }
        for endpoint in &changes.wiped {
            between_rows();
            let mut statement = transaction.prepare_cached("DELETE FROM exceptions WHERE endpoint = ?1")?;
            statement.execute([endpoint])?;
            lanes::restart(&transaction, endpoint)?;
        }
        for (endpoint, cursor) in &changes.cursors {
            between_rows();
            put_cursor(&transaction, endpoint, *cursor)?;
        }
        for endpoint in &changes.caught_up {
            between_rows();
            let mut statement = transaction.prepare_cached("DELETE FROM lane_cursors WHERE endpoint = ?1")?;
            statement.execute([endpoint])?;
        }
        for failed in &changes.failed {
            between_rows();
            put_exception(&transaction, failed)?;
        }
        for (endpoint, sequence, group, chunk, kind) in &changes.settled {
            between_rows();
            let mut statement = transaction.prepare_cached(
                "DELETE FROM exceptions WHERE endpoint = ?1 AND sequence = ?2 AND event_group = ?3
                     AND chunk = ?4 AND kind = ?5",
            )?;
            statement.execute((endpoint, sequence.cast_signed(), group, chunk, kind))?;
        }
        lanes::save(&transaction, &changes.ranges, between_rows)?;
        transaction.commit()?;
        Ok(())
    }

    /// Up to where every lane without a row has decided everything.
    ///
    /// # Errors
    /// [`CatalogError::Sql`].
    pub fn routed(&self) -> Result<Option<Sequence>, CatalogError> {
        self.position(ROUTED)
    }

    /// Up to where verdicts were durable when this was saved.
    ///
    /// # Errors
    /// [`CatalogError::Sql`].
    pub fn classified(&self) -> Result<Option<Sequence>, CatalogError> {
        self.position(CLASSIFIED)
    }

    /// Up to where rows that were superseded may be dropped: everywhere, unless an
    /// endpoint may still be told what they were.
    ///
    /// # Errors
    /// [`CatalogError::Sql`].
    pub fn settled(&self) -> Result<Sequence, CatalogError> {
        let endpoints: i64 =
            self.connection.lock().query_row("SELECT count(*) FROM endpoints", [], |row| row.get(0))?;
        if endpoints == 0 {
            return Ok(Sequence(u64::MAX));
        }
        Ok(self.classified()?.unwrap_or_default())
    }

    /// The 16 bytes that event ids of this instance are made with; made once.
    ///
    /// # Errors
    /// [`CatalogError::Sql`], [`CatalogError::Malformed`].
    pub fn instance_key(&self, fresh: [u8; 16]) -> Result<[u8; 16], CatalogError> {
        let connection = self.connection.lock();
        connection.execute(
            "INSERT INTO instance (name, value) VALUES ('id_key', ?1) ON CONFLICT (name) DO NOTHING",
            [to_hex(&fresh)],
        )?;
        let text: String =
            connection.query_row("SELECT value FROM instance WHERE name = 'id_key'", [], |row| row.get(0))?;
        let key = from_hex(&text).and_then(|bytes| bytes.try_into().ok());
        key.ok_or(CatalogError::Malformed { what: "id key" })
    }

    fn position(&self, name: &str) -> Result<Option<Sequence>, CatalogError> {
        let connection = self.connection.lock();
        let mut statement = connection.prepare_cached("SELECT sequence FROM positions WHERE name = ?1")?;
        let found: Option<i64> = statement.query_row([name], |row| row.get(0)).optional()?;
        Ok(found.map(|sequence| Sequence(sequence.cast_unsigned())))
    }
}

fn put_position(transaction: &Transaction<'_>, name: &str, position: Sequence) -> Result<(), CatalogError> {
    let mut statement = transaction.prepare_cached(
        "INSERT INTO positions (name, sequence, ordering) VALUES (?1, ?2, 0)
         ON CONFLICT (name) DO UPDATE SET sequence = excluded.sequence",
    )?;
    statement.execute((name, position.0.cast_signed()))?;
    Ok(())
}

pub(super) fn put_cursor(
    transaction: &Transaction<'_>,
    endpoint: &str,
    cursor: CursorRecord,
) -> Result<(), CatalogError> {
    // Only of an endpoint that is still there: a save may come behind a deletion.
    let mut statement = transaction.prepare_cached(
        "INSERT INTO lane_cursors (endpoint, sequence, ordinal)
         SELECT id, ?2, ?3 FROM endpoints WHERE id = ?1
         ON CONFLICT (endpoint) DO UPDATE SET sequence = excluded.sequence, ordinal = excluded.ordinal",
    )?;
    statement.execute((endpoint, cursor.sequence.cast_signed(), cursor.ordinal))?;
    Ok(())
}

fn put_exception(transaction: &Transaction<'_>, failed: &ExceptionRecord) -> Result<(), CatalogError> {
    let mut statement = transaction.prepare_cached(
        "INSERT INTO exceptions (endpoint, sequence, event_group, chunk, kind, decided_at, event_key,
             attempts, due_at, ordinal, quiet, members)
         SELECT id, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12 FROM endpoints WHERE id = ?1
         ON CONFLICT (endpoint, sequence, event_group, chunk, kind) DO UPDATE
             SET attempts = excluded.attempts, due_at = excluded.due_at",
    )?;
    statement.execute((
        &failed.endpoint,
        failed.sequence.cast_signed(),
        failed.group,
        failed.chunk,
        failed.kind,
        failed.decided_at.cast_signed(),
        failed.key.cast_signed(),
        failed.attempts,
        failed.due_at,
        failed.ordinal,
        failed.quiet,
        (!failed.members.is_empty()).then_some(failed.members.as_slice()),
    ))?;
    Ok(())
}
