//! Tables and their versions.

use std::time::Duration;

use rusqlite::Connection;

use super::{CatalogError, now_ms};

/// Raised with every change of the tables; each step is a transaction below.
pub(super) const VERSION: i64 = 13;

const TABLES: &str = "
CREATE TABLE organisations (
    id TEXT PRIMARY KEY,
    created_at BIGINT NOT NULL
);
CREATE TABLE api_keys (
    id TEXT PRIMARY KEY,
    org TEXT NOT NULL,
    user_id TEXT,
    name TEXT,
    scopes TEXT NOT NULL,
    hash TEXT NOT NULL UNIQUE,
    created_at BIGINT NOT NULL
);
CREATE INDEX api_keys_by_org ON api_keys (org, created_at, id);
CREATE TABLE files (
    path TEXT PRIMARY KEY,
    org TEXT NOT NULL,
    metric TEXT NOT NULL,
    period TEXT NOT NULL,
    bucket BIGINT NOT NULL,
    bucket_bits BIGINT NOT NULL,
    level BIGINT NOT NULL,
    sequence_first BIGINT NOT NULL,
    sequence_last BIGINT NOT NULL,
    row_count BIGINT NOT NULL,
    byte_count BIGINT NOT NULL,
    user_min TEXT NOT NULL,
    user_max TEXT NOT NULL,
    time_min BIGINT NOT NULL,
    time_max BIGINT NOT NULL,
    block_crc32c TEXT NOT NULL,
    created_at BIGINT NOT NULL
);
CREATE TABLE positions (
    name TEXT PRIMARY KEY,
    sequence BIGINT NOT NULL,
    ordering BIGINT NOT NULL
);
";

/// Version 2: webhooks.
const WEBHOOKS: &str = "
CREATE TABLE instance (
    name TEXT PRIMARY KEY,
    value TEXT NOT NULL
);
CREATE TABLE endpoints (
    id TEXT PRIMARY KEY,
    number BIGINT NOT NULL UNIQUE,
    org TEXT NOT NULL,
    settings TEXT NOT NULL,
    secret TEXT NOT NULL,
    start_sequence BIGINT NOT NULL,
    created_at BIGINT NOT NULL,
    updated_at BIGINT NOT NULL
);
CREATE TABLE lane_cursors (
    endpoint TEXT PRIMARY KEY,
    sequence BIGINT NOT NULL,
    ordinal BIGINT NOT NULL
);
CREATE TABLE exceptions (
    endpoint TEXT NOT NULL,
    sequence BIGINT NOT NULL,
    event_group BIGINT NOT NULL,
    chunk BIGINT NOT NULL,
    kind BIGINT NOT NULL,
    decided_at BIGINT NOT NULL,
    event_key BIGINT NOT NULL,
    attempts BIGINT NOT NULL,
    due_at BIGINT NOT NULL,
    PRIMARY KEY (endpoint, sequence, event_group, chunk, kind)
);
";

/// Version 3: runs, which hold several metrics, and what compactions leave. A file
/// of before has one section.
const SECTIONS: &str = "
CREATE TABLE sections (
    path TEXT NOT NULL,
    ordinal BIGINT NOT NULL,
    org TEXT NOT NULL,
    metric TEXT NOT NULL,
    row_count BIGINT NOT NULL,
    sequence_first BIGINT NOT NULL,
    sequence_last BIGINT NOT NULL,
    user_min TEXT NOT NULL,
    user_max TEXT NOT NULL,
    time_min BIGINT NOT NULL,
    time_max BIGINT NOT NULL,
    unique_keys BIGINT NOT NULL,
    days TEXT NOT NULL,
    PRIMARY KEY (path, ordinal)
);
INSERT INTO sections (path, ordinal, org, metric, row_count, sequence_first, sequence_last, user_min, user_max,
    time_min, time_max, unique_keys, days)
    SELECT path, 0, org, metric, row_count, sequence_first, sequence_last, user_min, user_max, time_min,
        time_max, 0, '' FROM files;
CREATE TABLE unfinished (
    number BIGINT PRIMARY KEY,
    created_at BIGINT NOT NULL
);
CREATE TABLE garbage (
    path TEXT PRIMARY KEY,
    created_at BIGINT NOT NULL
);
";

/// Version 4: checkpoints of the series map.
const CHECKPOINTS: &str = "
CREATE TABLE checkpoints (
    path TEXT PRIMARY KEY,
    kind TEXT NOT NULL,
    sequence BIGINT NOT NULL,
    user_count BIGINT NOT NULL,
    series_count BIGINT NOT NULL,
    byte_count BIGINT NOT NULL,
    created_at BIGINT NOT NULL
);
";

/// Version 5: erasure and retention.
const ERASURES: &str = "
CREATE TABLE erasures (
    id TEXT PRIMARY KEY,
    org TEXT NOT NULL,
    user_id TEXT NOT NULL,
    metric TEXT,
    time_start BIGINT NOT NULL,
    time_end BIGINT NOT NULL,
    block BIGINT NOT NULL,
    sequence BIGINT NOT NULL,
    samples BIGINT NOT NULL,
    files BIGINT NOT NULL,
    segments BIGINT NOT NULL,
    deliveries BIGINT NOT NULL,
    attempts BIGINT NOT NULL,
    created_at BIGINT NOT NULL,
    completed_at BIGINT
);
CREATE TABLE blocked_users (
    org TEXT NOT NULL,
    hash TEXT NOT NULL,
    created_at BIGINT NOT NULL,
    PRIMARY KEY (org, hash)
);
CREATE TABLE retention (
    org TEXT NOT NULL,
    metric TEXT NOT NULL,
    days BIGINT,
    PRIMARY KEY (org, metric)
);
";

/// Version 6: metrics that organisations defined.
const METRICS: &str = "
CREATE TABLE metrics (
    org TEXT NOT NULL,
    key TEXT NOT NULL,
    unit TEXT NOT NULL,
    unit_aliases TEXT NOT NULL,
    hard_min DOUBLE PRECISION NOT NULL,
    hard_max DOUBLE PRECISION NOT NULL,
    soft_min DOUBLE PRECISION,
    soft_max DOUBLE PRECISION,
    aggregate TEXT NOT NULL,
    kind TEXT NOT NULL,
    description TEXT NOT NULL,
    created_at BIGINT NOT NULL,
    place BIGINT NOT NULL,
    PRIMARY KEY (org, key)
);
";

/// Version 7: the secret that an endpoint's own took over from, and until when it signs.
const ROTATION: &str = "
ALTER TABLE endpoints ADD COLUMN previous_secret TEXT;
ALTER TABLE endpoints ADD COLUMN previous_until BIGINT;
";

/// Version 8: lanes that pause, and what they send later or not at all.
const LANES: &str = "
CREATE TABLE lane_health (
    endpoint TEXT PRIMARY KEY,
    failing_since BIGINT,
    paused_at BIGINT
);
CREATE TABLE backlogs (
    endpoint TEXT NOT NULL,
    number BIGINT NOT NULL,
    kind BIGINT NOT NULL,
    asked_sequence BIGINT NOT NULL,
    asked_ordinal BIGINT NOT NULL,
    from_sequence BIGINT NOT NULL,
    from_ordinal BIGINT NOT NULL,
    through_sequence BIGINT NOT NULL,
    through_ordinal BIGINT NOT NULL,
    PRIMARY KEY (endpoint, number)
);
CREATE TABLE given_up (
    endpoint TEXT NOT NULL,
    from_sequence BIGINT NOT NULL,
    from_ordinal BIGINT NOT NULL,
    through_sequence BIGINT NOT NULL,
    through_ordinal BIGINT NOT NULL,
    given_up_at BIGINT NOT NULL,
    PRIMARY KEY (endpoint, from_sequence, from_ordinal, through_sequence, through_ordinal)
);
ALTER TABLE exceptions ADD COLUMN ordinal BIGINT NOT NULL DEFAULT 0;
ALTER TABLE exceptions ADD COLUMN quiet BIGINT NOT NULL DEFAULT 0;
ALTER TABLE exceptions ADD COLUMN members BLOB;
";

/// Version 9: files of delivery attempts.
const ATTEMPT_FILES: &str = "
CREATE TABLE attempt_files (
    path TEXT PRIMARY KEY,
    org TEXT NOT NULL,
    day TEXT NOT NULL,
    level BIGINT NOT NULL,
    sequence_first BIGINT NOT NULL,
    sequence_last BIGINT NOT NULL,
    message_first BIGINT NOT NULL,
    message_last BIGINT NOT NULL,
    row_count BIGINT NOT NULL,
    byte_count BIGINT NOT NULL,
    user_min TEXT NOT NULL,
    user_max TEXT NOT NULL,
    time_min BIGINT NOT NULL,
    time_max BIGINT NOT NULL,
    block_crc32c TEXT NOT NULL,
    created_at BIGINT NOT NULL
);
";

/// Version 10: whether it was announced that events were given up. What was before
/// counts as announced.
const ANNOUNCED: &str = "
ALTER TABLE given_up ADD COLUMN announced BIGINT NOT NULL DEFAULT 1;
CREATE INDEX given_up_unannounced ON given_up (endpoint) WHERE announced = 0;
";

/// Version 11: before when samples may have been dropped because of their age, under rules
/// that are no longer there.
const DROPPED: &str = "
CREATE TABLE dropped (
    org TEXT NOT NULL,
    metric TEXT NOT NULL,
    time_before BIGINT NOT NULL,
    PRIMARY KEY (org, metric)
);
";

/// Version 12: endpoints that were switched off, which is not announced yet, and when
/// lanes failed last.
const DISABLED: &str = "
CREATE TABLE disabled_unannounced (
    endpoint TEXT PRIMARY KEY,
    reason TEXT NOT NULL,
    failing_since BIGINT,
    disabled_at BIGINT NOT NULL
);
ALTER TABLE lane_health ADD COLUMN failed_at BIGINT;
";

/// Version 13: what was given up is found by its end, when its frames are gone, and what is
/// not announced in the order it is announced in.
const GIVEN_UP: &str = "
CREATE INDEX given_up_by_end ON given_up (through_sequence);
DROP INDEX given_up_unannounced;
CREATE INDEX given_up_unannounced ON given_up (given_up_at, endpoint, from_sequence, from_ordinal)
    WHERE announced = 0;
CREATE INDEX disabled_unannounced_by_time ON disabled_unannounced (disabled_at, endpoint);
";

pub(super) fn prepare(connection: &mut Connection, busy: Duration) -> Result<(), CatalogError> {
    connection.busy_timeout(busy)?;
    connection.pragma_update(None, "journal_mode", "WAL")?;
    connection.pragma_update(None, "synchronous", "FULL")?;
    connection.pragma_update(None, "foreign_keys", "ON")?;
    // What is deleted is overwritten: names of erased users must not stay in free pages.
    connection.pragma_update(None, "secure_delete", "ON")?;
    // Immediate: two processes that open a new data dir at once must not both
    // find version 0.
    let transaction = connection.transaction_with_behavior(rusqlite::TransactionBehavior::Immediate)?;
    let found: i64 = transaction.query_row("PRAGMA user_version", [], |row| row.get(0))?;
    if !(0..=VERSION).contains(&found) {
        return Err(CatalogError::Version { found, known: VERSION });
    }
    if found < 1 {
        transaction.execute_batch(TABLES)?;
        transaction
            .execute("INSERT INTO organisations (id, created_at) VALUES ('default', ?1)", [now_ms()])?;
    }
    if found < 2 {
        transaction.execute_batch(WEBHOOKS)?;
    }
    if found < 3 {
        transaction.execute_batch(SECTIONS)?;
    }
    if found < 4 {
        transaction.execute_batch(CHECKPOINTS)?;
    }
    if found < 5 {
        transaction.execute_batch(ERASURES)?;
    }
    if found < 6 {
        transaction.execute_batch(METRICS)?;
    }
    if found < 7 {
        transaction.execute_batch(ROTATION)?;
    }
    if found < 8 {
        transaction.execute_batch(LANES)?;
    }
    if found < 9 {
        transaction.execute_batch(ATTEMPT_FILES)?;
    }
    if found < 10 {
        transaction.execute_batch(ANNOUNCED)?;
    }
    if found < 11 {
        transaction.execute_batch(DROPPED)?;
    }
    if found < 12 {
        transaction.execute_batch(DISABLED)?;
    }
    if found < 13 {
        transaction.execute_batch(GIVEN_UP)?;
    }
    if found < VERSION {
        transaction.pragma_update(None, "user_version", VERSION)?;
    }
    transaction.commit()?;
    Ok(())
}
