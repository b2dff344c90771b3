//! Metrics that organisations defined.

use rusqlite::{OptionalExtension, Row};

use super::{Catalog, CatalogError};

const COLUMNS: &str = "org, key, unit, unit_aliases, hard_min, hard_max, soft_min, soft_max, aggregate, kind, \
     description, created_at";

/// An organisation's own metric. What it means is its writer's business.
#[derive(Clone, Debug, PartialEq)]
pub struct MetricRecord {
    /// Whose it is.
    pub org: String,
    /// Its key, once in an organisation.
    pub key: String,
    /// The unit of stored values.
    pub unit: String,
    /// Other units and how they become the unit, as its writer spells it.
    pub unit_aliases: String,
    /// Lowest accepted value.
    pub hard_min: f64,
    /// Highest accepted value.
    pub hard_max: f64,
    /// Below it a value is unusual.
    pub soft_min: Option<f64>,
    /// Above it a value is unusual.
    pub soft_max: Option<f64>,
    /// How values of a bucket become one.
    pub aggregate: String,
    /// What a value stands for.
    pub kind: String,
    /// For people.
    pub description: String,
    /// Milliseconds since 1970.
    pub created_at: i64,
}

impl Catalog {
    /// Stores a metric and its organisation, if that is new. Doing it again for a
    /// definition whose commit failed is harmless: it may have become durable all the
    /// same.
    ///
    /// # Errors
    /// [`CatalogError::Sql`].
    pub fn put_metric(&self, metric: &MetricRecord) -> Result<(), CatalogError> {
        let mut connection = self.connection.lock();
        let transaction = connection.transaction()?;
        transaction.execute(
            "INSERT INTO organisations (id, created_at) VALUES (?1, ?2) ON CONFLICT (id) DO NOTHING",
            (&metric.org, metric.created_at),
        )?;
        let place: Option<i64> = transaction
            .query_row("SELECT max(place) FROM metrics WHERE org = ?1", [&metric.org], |row| row.get(0))
            .optional()?
            .flatten();
        transaction.execute(
            "INSERT INTO metrics (org, key, unit, unit_aliases, hard_min, hard_max, soft_min, soft_max, aggregate,
                                  kind, description, created_at, place)
             VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13)
             ON CONFLICT (org, key) DO UPDATE SET unit = excluded.unit, unit_aliases = excluded.unit_aliases,
                 hard_min = excluded.hard_min, hard_max = excluded.hard_max, soft_min = excluded.soft_min,
                 soft_max = excluded.soft_max, aggregate = excluded.aggregate, kind = excluded.kind,
                 description = excluded.description, created_at = excluded.created_at",
            rusqlite::params![
                metric.org,
                metric.key,
                metric.unit,
                metric.unit_aliases,
                metric.hard_min,
                metric.hard_max,
                metric.soft_min,
                metric.soft_max,
                metric.aggregate,
                metric.kind,
                metric.description,
                metric.created_at,
                place.unwrap_or(0) + 1,
            ],
        )?;
        transaction.commit()?;
        Ok(())
    }

    /// Every organisation's metrics, those of one in the order in which they came.
    ///
    /// # Errors
    /// [`CatalogError::Sql`].
    pub fn metrics(&self) -> Result<Vec<MetricRecord>, CatalogError> {
        let connection = self.connection.lock();
        let sql = format!("SELECT {COLUMNS} FROM metrics ORDER BY org, place");
        let mut statement = connection.prepare_cached(&sql)?;
        let rows = statement.query_map([], record)?;
        Ok(rows.collect::<Result<_, _>>()?)
    }
}

fn record(row: &Row<'_>) -> rusqlite::Result<MetricRecord> {
    Ok(MetricRecord {
        org: row.get(0)?,
        key: row.get(1)?,
        unit: row.get(2)?,
        unit_aliases: row.get(3)?,
        hard_min: row.get(4)?,
        hard_max: row.get(5)?,
        soft_min: row.get(6)?,
        soft_max: row.get(7)?,
        aggregate: row.get(8)?,
        kind: row.get(9)?,
        description: row.get(10)?,
        created_at: row.get(11)?,
    })
}
