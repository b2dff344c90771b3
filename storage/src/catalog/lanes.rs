//! What lanes keep beside cursors and exceptions: how they fare, the ranges they send
//! behind live events, and what they gave up.

use rusqlite::{Row, Transaction};

use super::{Catalog, CatalogError, CursorRecord, disabled};
use crate::frame::Sequence;

/// How a lane has fared; one that fares well has no row.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct HealthRecord {
    /// Whose lane it is.
    pub endpoint: String,
    /// When it began to fail, milliseconds since 1970.
    pub failing_since: Option<i64>,
    /// When it failed last, milliseconds since 1970, as exactly as the catalog's owner
    /// chose; not known of what was stored before version 12.
    pub failed_at: Option<i64>,
    /// When it was paused, milliseconds since 1970.
    pub paused_at: Option<i64>,
}

/// A range of events that a lane sends behind live ones.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BacklogRecord {
    /// Whose lane it is.
    pub endpoint: String,
    /// Which of its ranges.
    pub number: u64,
    /// Number of the range's kind.
    pub kind: u8,
    /// The first event that was asked for.
    pub asked_from: CursorRecord,
    /// The first that is not decided.
    pub from: CursorRecord,
    /// All of them come before this.
    pub through: CursorRecord,
}

/// A range of events that a lane gave up.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GivenUpRecord {
    /// Whose lane it is.
    pub endpoint: String,
    /// The first event.
    pub from: CursorRecord,
    /// All of them come before this.
    pub through: CursorRecord,
    /// Milliseconds since 1970.
    pub at: i64,
    /// That it was given up was announced, or need not be.
    pub announced: bool,
}

/// What changed of these since the last save.
#[derive(Clone, Debug, Default)]
pub struct LaneRanges {
    /// How lanes fare from now on.
    pub health: Vec<HealthRecord>,
    /// Ranges that are new or moved.
    pub backlogs: Vec<BacklogRecord>,
    /// Ranges that are over, by endpoint and number.
    pub finished: Vec<(String, u64)>,
    /// What was given up.
    pub given_up: Vec<GivenUpRecord>,
    /// Frames up to this are gone, and what was given up of them is forgotten.
    pub removed: Option<Sequence>,
}

const OF_FRAMES: &str = "
    SELECT endpoint, from_sequence, from_ordinal, through_sequence, through_ordinal, given_up_at, announced
    FROM given_up WHERE endpoint = ?1 AND from_sequence <= ?3 AND through_sequence >= ?2
    ORDER BY from_sequence, from_ordinal";

/// By an index, in its order: there may be as many as lanes give up in a day.
const UNANNOUNCED: &str = "
    SELECT endpoint, from_sequence, from_ordinal, through_sequence, through_ordinal, given_up_at, announced
    FROM given_up WHERE announced = 0
    ORDER BY given_up_at, endpoint, from_sequence, from_ordinal LIMIT ?1";

/// By an index: everything else that is saved waits for it. What is not announced yet stays until
/// it is, also of frames that are gone.
const FORGET_REMOVED: &str = "DELETE FROM given_up WHERE through_sequence <= ?1 AND announced = 1";

impl LaneRanges {
    pub(super) fn len(&self) -> usize {
        self.health.len()
            + self.backlogs.len()
            + self.finished.len()
            + self.given_up.len()
            + usize::from(self.removed.is_some())
    }
}

impl Catalog {
    /// How lanes fare that do not fare well.
    ///
    /// # Errors
    /// [`CatalogError::Sql`].
    pub fn lane_health(&self) -> Result<Vec<HealthRecord>, CatalogError> {
        let connection = self.connection.lock();
        let mut statement = connection.prepare_cached(
            "SELECT endpoint, failing_since, failed_at, paused_at FROM lane_health ORDER BY endpoint",
        )?;
        let rows = statement.query_map([], |row| {
            Ok(HealthRecord {
                endpoint: row.get(0)?,
                failing_since: row.get(1)?,
                failed_at: row.get(2)?,
                paused_at: row.get(3)?,
            })
        })?;
        Ok(rows.collect::<Result<_, _>>()?)
    }

    /// Ranges that lanes send behind live events.
    ///
    /// # Errors
    /// [`CatalogError::Sql`].
    pub fn backlogs(&self) -> Result<Vec<BacklogRecord>, CatalogError> {
        let connection = self.connection.lock();
        let mut statement = connection.prepare_cached(
            "SELECT endpoint, number, kind, asked_sequence, asked_ordinal, from_sequence, from_ordinal,
                 through_sequence, through_ordinal
             FROM backlogs ORDER BY endpoint, number",
        )?;
        let rows = statement.query_map([], |row| {
            Ok(BacklogRecord {
                endpoint: row.get(0)?,
                number: row.get::<_, i64>(1)?.cast_unsigned(),
                kind: row.get(2)?,
                asked_from: cursor(row, 3)?,
                from: cursor(row, 5)?,
                through: cursor(row, 7)?,
            })
        })?;
        Ok(rows.collect::<Result<_, _>>()?)
    }

    /// What an endpoint's lane gave up of the frames from `first` to `last`.
    ///
    /// # Errors
    /// [`CatalogError::Sql`].
    pub fn given_up(
        &self,
        endpoint: &str,
        first: Sequence,
        last: Sequence,
    ) -> Result<Vec<GivenUpRecord>, CatalogError> {
        let connection = self.connection.lock();
        let mut statement = connection.prepare_cached(OF_FRAMES)?;
        let parameters = (endpoint, first.0.cast_signed(), last.0.cast_signed());
        let rows = statement.query_map(parameters, given_up)?;
        Ok(rows.collect::<Result<_, _>>()?)
    }

    /// What was given up and not announced, oldest first, at most so many.
    ///
    /// # Errors
    /// [`CatalogError::Sql`].
    pub fn unannounced(&self, most: u32) -> Result<Vec<GivenUpRecord>, CatalogError> {
        let connection = self.connection.lock();
        let mut statement = connection.prepare_cached(UNANNOUNCED)?;
        let rows = statement.query_map([most], given_up)?;
        Ok(rows.collect::<Result<_, _>>()?)
    }

    /// Notes that it was announced: of each endpoint the ranges with exactly these ends,
    /// and that it was switched off at exactly this time.
    ///
    /// # Errors
    /// [`CatalogError::Sql`]; then nothing was noted.
    pub fn mark_announced(
        &self,
        ranges: &[(&str, CursorRecord, CursorRecord)],
        switched_off: &[(&str, i64)],
    ) -> Result<(), CatalogError> {
        let mut connection = self.connection.lock();
        let transaction = connection.transaction()?;
        for (endpoint, from, through) in ranges {
            let mut statement = transaction.prepare_cached(
                "UPDATE given_up SET announced = 1
                 WHERE endpoint = ?1 AND from_sequence = ?2 AND from_ordinal = ?3
                     AND through_sequence = ?4 AND through_ordinal = ?5",
            )?;
            statement.execute((
                endpoint,
                from.sequence.cast_signed(),
                from.ordinal,
                through.sequence.cast_signed(),
                through.ordinal,
            ))?;
        }
        for (endpoint, at) in switched_off {
            disabled::announced(&transaction, endpoint, *at)?;
        }
        transaction.commit()?;
        Ok(())
    }
}

fn given_up(row: &Row<'_>) -> rusqlite::Result<GivenUpRecord> {
    Ok(GivenUpRecord {
        endpoint: row.get(0)?,
        from: cursor(row, 1)?,
        through: cursor(row, 3)?,
        at: row.get(5)?,
        announced: row.get(6)?,
    })
}

fn cursor(row: &Row<'_>, at: usize) -> rusqlite::Result<CursorRecord> {
    Ok(CursorRecord { sequence: row.get::<_, i64>(at)?.cast_unsigned(), ordinal: row.get(at + 1)? })
}

/// Forgets what a lane waits for and how it fares; what it gave up stays.
pub(super) fn restart(transaction: &Transaction<'_>, endpoint: &str) -> Result<(), CatalogError> {
    for table in ["lane_health", "backlogs"] {
        let sql = format!("DELETE FROM {table} WHERE endpoint = ?1");
        transaction.prepare_cached(&sql)?.execute([endpoint])?;
    }
    Ok(())
}

/// Forgets all of a lane.
pub(super) fn forget(transaction: &Transaction<'_>, endpoint: &str) -> Result<(), CatalogError> {
    restart(transaction, endpoint)?;
    transaction.prepare_cached("DELETE FROM given_up WHERE endpoint = ?1")?.execute([endpoint])?;
    Ok(())
}

/// Saves what changed, and calls `between_rows` before each row. Only of endpoints that are
/// still there: a save may come behind a deletion.
pub(super) fn save(
    transaction: &Transaction<'_>,
    ranges: &LaneRanges,
    between_rows: &mut dyn FnMut(),
) -> Result<(), CatalogError> {
    for health in &ranges.health {
        between_rows();
        put_health(transaction, health)?;
    }
    for backlog in &ranges.backlogs {
        between_rows();
        put_backlog(transaction, backlog)?;
    }
    for (endpoint, number) in &ranges.finished {
        between_rows();
        let mut statement =
            transaction.prepare_cached("DELETE FROM backlogs WHERE endpoint = ?1 AND number = ?2")?;
        statement.execute((endpoint, number.cast_signed()))?;
    }
    for given_up in &ranges.given_up {
        between_rows();
        put_given_up(transaction, given_up)?;
    }
    if let Some(removed) = ranges.removed {
        let mut statement = transaction.prepare_cached(FORGET_REMOVED)?;
        statement.execute([removed.0.cast_signed()])?;
    }
    Ok(())
}

fn put_health(transaction: &Transaction<'_>, health: &HealthRecord) -> Result<(), CatalogError> {
    if health.failing_since.is_none() && health.failed_at.is_none() && health.paused_at.is_none() {
        let mut statement = transaction.prepare_cached("DELETE FROM lane_health WHERE endpoint = ?1")?;
        statement.execute([&health.endpoint])?;
        return Ok(());
    }
    let mut statement = transaction.prepare_cached(
        "INSERT INTO lane_health (endpoint, failing_since, failed_at, paused_at)
         SELECT id, ?2, ?3, ?4 FROM endpoints WHERE id = ?1
         ON CONFLICT (endpoint) DO UPDATE
             SET failing_since = excluded.failing_since, failed_at = excluded.failed_at,
                 paused_at = excluded.paused_at",
    )?;
    statement.execute((&health.endpoint, health.failing_since, health.failed_at, health.paused_at))?;
    Ok(())
}

fn put_backlog(transaction: &Transaction<'_>, backlog: &BacklogRecord) -> Result<(), CatalogError> {
    let mut statement = transaction.prepare_cached(
        "INSERT INTO backlogs (endpoint, number, kind, asked_sequence, asked_ordinal, from_sequence,
             from_ordinal, through_sequence, through_ordinal)
         SELECT id, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9 FROM endpoints WHERE id = ?1
         ON CONFLICT (endpoint, number) DO UPDATE
             SET from_sequence = excluded.from_sequence, from_ordinal = excluded.from_ordinal,
                 through_sequence = excluded.through_sequence, through_ordinal = excluded.through_ordinal",
    )?;
    statement.execute((
        &backlog.endpoint,
        backlog.number.cast_signed(),
        backlog.kind,
        backlog.asked_from.sequence.cast_signed(),
        backlog.asked_from.ordinal,
        backlog.from.sequence.cast_signed(),
        backlog.from.ordinal,
        backlog.through.sequence.cast_signed(),
        backlog.through.ordinal,
    ))?;
    Ok(())
}

fn put_given_up(transaction: &Transaction<'_>, given_up: &GivenUpRecord) -> Result<(), CatalogError> {
    let mut statement = transaction.prepare_cached(
        "INSERT INTO given_up (endpoint, from_sequence, from_ordinal, through_sequence, through_ordinal,
             given_up_at, announced)
         SELECT id, ?2, ?3, ?4, ?5, ?6, ?7 FROM endpoints WHERE id = ?1
         ON CONFLICT (endpoint, from_sequence, from_ordinal, through_sequence, through_ordinal) DO UPDATE
             SET given_up_at = excluded.given_up_at, announced = excluded.announced",
    )?;
    statement.execute((
        &given_up.endpoint,
        given_up.from.sequence.cast_signed(),
        given_up.from.ordinal,
        given_up.through.sequence.cast_signed(),
        given_up.through.ordinal,
        given_up.at,
        given_up.announced,
    ))?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// How SQLite finds the rows of a statement.
    fn plan(catalog: &Catalog, sql: &str) -> Vec<String> {
        let connection = catalog.connection.lock();
        let mut statement = connection.prepare(&format!("EXPLAIN QUERY PLAN {sql}")).unwrap();
        // What the parameters are does not matter to a plan.
        let mut rows = statement.raw_query();
        let mut steps = Vec::new();
        while let Some(row) = rows.next().unwrap() {
            steps.push(row.get("detail").unwrap());
        }
        steps
    }

    #[test]
    fn what_was_given_up_is_found_by_an_index_and_never_sorted() {
        let dir = tempfile::tempdir().unwrap();
        let catalog = Catalog::open(dir.path()).unwrap();
        let cases = [
            (UNANNOUNCED, "SCAN given_up USING INDEX given_up_unannounced"),
            (FORGET_REMOVED, "SEARCH given_up USING INDEX given_up_by_end (through_sequence<?)"),
            (
                OF_FRAMES,
                "SEARCH given_up USING INDEX sqlite_autoindex_given_up_1 (endpoint=? AND from_sequence<?)",
            ),
            (disabled::UNANNOUNCED, "SCAN disabled_unannounced USING INDEX disabled_unannounced_by_time"),
        ];
        for (sql, expected) in cases {
            assert_eq!(plan(&catalog, sql), [expected], "{sql}");
        }
    }
}
