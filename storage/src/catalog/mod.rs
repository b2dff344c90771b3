//! The catalog: everything that is not samples, in one SQLite file.
//!
//! Constraints: WAL mode with `synchronous=FULL`, so a committed transaction
//! survives power loss; several processes may open it (the command line makes
//! keys beside a running server); statements are plain SQL that PostgreSQL takes
//! as well. It is never on the path of a sample: a flush is one transaction.
//!
//! ```text
//! organisations   id, created_at
//! api_keys        id, org, user_id, name, scopes, hash, created_at
//! files           path, org, metric, period, bucket, ..., block checksums
//! sections        path, ordinal, org, metric, ...  a file's rows by metric
//! unfinished      number of a compaction whose files are not listed yet
//! garbage         path of a file that was replaced and is not removed yet
//! positions       name, sequence, ordering         ("flushed", "routed", "classified", "checkpointed")
//! checkpoints     path, kind, sequence, ...        of the series map
//! instance        name, value                      (key of event ids, last endpoint number, default days)
//! endpoints       id, number, org, settings, secret, previous_secret and _until, start_sequence, ...
//! lane_cursors    endpoint, sequence, ordinal      of lanes that lag, pause or draw together
//! lane_health     endpoint, failing_since, failed_at, paused_at  only of lanes that fail
//! backlogs        endpoint, number, kind, from, through  sent behind live events
//! given_up        endpoint, from, through, given_up_at, announced
//! disabled_unannounced  endpoint, reason, failing_since, disabled_at
//! exceptions      endpoint, place of the event, attempts, due_at
//! erasures        id, org, user_id until it is done, part, sequence, what was removed
//! blocked_users   org, hash of the user
//! retention       org, metric, days
//! dropped         org, metric, time_before         what rules of before may have taken
//! attempt_files   path, org, day, level, ...       what `files` says, of delivery attempts
//! metrics         org, key, unit, ..., aggregate   an organisation's own, never changed
//! ```

mod attempts;
mod checkpoints;
mod commits;
mod disabled;
mod endpoints;
mod erasures;
mod files;
mod inspect;
mod keys;
mod lanes;
mod metrics;
mod schema;
mod webhooks;

use std::path::{Path, PathBuf};
use std::time::Duration;

use parking_lot::Mutex;
use rusqlite::Connection;

pub use attempts::AttemptFileRecord;
pub use checkpoints::CheckpointRecord;
pub use commits::Commits;
pub use disabled::DisabledRecord;
pub use endpoints::{EndpointChange, EndpointRecord, PreviousSecret};
pub use erasures::{Dropped, ErasureRecord, Removed};
pub use files::{FileRecord, Flushed, SectionRecord};
pub use keys::KeyRecord;
pub use lanes::{BacklogRecord, GivenUpRecord, HealthRecord, LaneRanges};
pub use metrics::MetricRecord;
pub use webhooks::{CursorRecord, ExceptionRecord, LaneChanges};

/// The catalog's file below the data dir.
pub const CATALOG_FILE: &str = "catalog.db";
/// How long a statement waits for another process's transaction.
const BUSY_TIMEOUT: Duration = Duration::from_secs(5);

/// An open catalog. Calls block; a mutex lets one statement run at a time.
#[derive(Debug)]
pub struct Catalog {
    connection: Mutex<Connection>,
}

/// Why the catalog did not do what was asked.
#[derive(Debug, thiserror::Error)]
pub enum CatalogError {
    /// The file cannot be opened or made.
    #[error("cannot open the catalog {}", path.display())]
    Open {
        /// The file.
        path: PathBuf,
        /// What SQLite or the system said.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// The file was written by a later program.
    #[error("the catalog has schema version {found}, this program knows up to {known}")]
    Version {
        /// In the file.
        found: i64,
        /// In this program.
        known: i64,
    },
    /// The file was written by an earlier program and is only read.
    #[error(
        "the catalog has schema version {found}, this program reads version {known}; starting the server once brings it up to date"
    )]
    Outdated {
        /// In the file.
        found: i64,
        /// In this program.
        known: i64,
    },
    /// A statement failed.
    #[error("the catalog refused a statement")]
    Sql(#[from] rusqlite::Error),
    /// A stored value is not what it must be.
    #[error("the catalog holds a malformed {what}")]
    Malformed {
        /// Which value.
        what: &'static str,
    },
}

impl CatalogError {
    /// Whether the disk was full, which heals.
    #[must_use]
    pub fn is_full(&self) -> bool {
        match self {
            CatalogError::Sql(error) => error.sqlite_error_code() == Some(rusqlite::ErrorCode::DiskFull),
            _ => false,
        }
    }
}

/// Makes the file, if it is new, so that its owner alone reads it: secrets may lie in it. What
/// SQLite puts beside it takes over its mode.
fn make_private(path: &Path) -> std::io::Result<()> {
    let mut options = std::fs::OpenOptions::new();
    options.write(true).create_new(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    match options.open(path) {
        Err(error) if error.kind() != std::io::ErrorKind::AlreadyExists => Err(error),
        _ => Ok(()),
    }
}

impl Catalog {
    /// Opens the catalog of a data dir, making folder and schema if they are new.
    ///
    /// # Errors
    /// [`CatalogError::Open`], [`CatalogError::Version`].
    pub fn open(data_dir: &Path) -> Result<Catalog, CatalogError> {
        let path = data_dir.join(CATALOG_FILE);
        let failed = |source: Box<dyn std::error::Error + Send + Sync>| CatalogError::Open {
            path: path.clone(),
            source,
        };
        std::fs::create_dir_all(data_dir).map_err(|error| failed(error.into()))?;
        make_private(&path).map_err(|error| failed(error.into()))?;
        let mut connection = Connection::open(&path).map_err(|error| failed(error.into()))?;
        schema::prepare(&mut connection, BUSY_TIMEOUT).map_err(|error| match error {
            CatalogError::Sql(error) => failed(error.into()),
            other => other,
        })?;
        // The file's own name must survive a power loss before anything in it
        // is acknowledged.
        std::fs::File::open(data_dir).and_then(|dir| dir.sync_all()).map_err(|error| failed(error.into()))?;
        Ok(Catalog { connection: Mutex::new(connection) })
    }

    /// Makes an organisation if it is new; says whether it was.
    ///
    /// # Errors
    /// [`CatalogError::Sql`].
    pub fn ensure_org(&self, org: &str) -> Result<bool, CatalogError> {
        let inserted = self.connection.lock().execute(
            "INSERT INTO organisations (id, created_at) VALUES (?1, ?2) ON CONFLICT (id) DO NOTHING",
            (org, now_ms()),
        )?;
        Ok(inserted == 1)
    }

    /// Whether an organisation exists.
    ///
    /// # Errors
    /// [`CatalogError::Sql`].
    pub fn has_org(&self, org: &str) -> Result<bool, CatalogError> {
        let connection = self.connection.lock();
        let mut statement = connection.prepare_cached("SELECT 1 FROM organisations WHERE id = ?1")?;
        Ok(statement.exists([org])?)
    }
}

pub(crate) fn now_ms() -> i64 {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_millis()).unwrap_or(i64::MAX)
}

fn to_hex(bytes: &[u8]) -> String {
    use std::fmt::Write;
    bytes.iter().fold(String::with_capacity(bytes.len() * 2), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}

fn from_hex(text: &str) -> Option<Vec<u8>> {
    if !text.is_ascii() {
        return None;
    }
    (0..text.len()).step_by(2).map(|at| u8::from_str_radix(text.get(at..at + 2)?, 16).ok()).collect()
}
