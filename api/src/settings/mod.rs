//! What can be set, with which defaults, and who wins: a flag over the
//! environment over the TOML file over the default.
//!
//! Every setting has one dotted name (`ingest.points_max`), which is its place in
//! the file and, as `SYSTOLE_INGEST_POINTS_MAX`, its name in the environment. A
//! name the file does not know, or a value that cannot be, stops the start with
//! one line that names it. `docs/configuration.md` lists them all; a test keeps
//! that page and this module together.

mod env;
mod file;
mod issuer;
mod reader;
mod value;

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use systole_engine::events::webhooks::{
    CONNECTIONS_MAX, DispatchSettings as EngineDispatch, MasterKey, Targets, WebhookSettings,
};
use systole_engine::{EngineSettings, SqlLimits};
use tracing::level_filters::LevelFilter;

use crate::auth::Secret;
use reader::Reader;

pub use env::{Environment, process_environment};
pub use issuer::{IssuerKey, IssuerSettings};
pub use reader::SettingFault;

/// The organisation that exists from the start.
pub const DEFAULT_ORG: &str = "default";

const KIB: usize = 1024;
const MIB: usize = 1024 * KIB;

/// Everything the server can be told.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Where it listens.
    pub listen: SocketAddr,
    /// Where everything it keeps lies.
    pub data_dir: PathBuf,
    /// A key that is an operator key of [`DEFAULT_ORG`] while it is set; never stored.
    pub admin_key: Option<Secret>,
    /// What the log shows.
    pub log: LogSettings,
    /// Limits of what comes in.
    pub ingest: IngestSettings,
    /// Journal, buffer and flush.
    pub storage: StorageSettings,
    /// Limits of what is asked.
    pub query: QuerySettings,
    /// Timeouts and limits of connections.
    pub http: HttpSettings,
    /// Webhook deliveries.
    pub dispatch: DispatchSettings,
    /// Certificate and key, if the server speaks TLS itself.
    pub tls: Option<TlsSettings>,
    /// Whose JSON web tokens are accepted.
    pub issuers: Vec<IssuerSettings>,
}

/// What the log shows.
#[derive(Clone, Debug)]
pub struct LogSettings {
    /// Lines below this level are left out.
    pub level: LevelFilter,
}

/// Limits of what comes in.
#[derive(Clone, Debug)]
pub struct IngestSettings {
    /// Most points of one bulk request: AVYCENNA's documented limit.
    pub points_max: usize,
    /// Longest body as it is sent.
    pub body_bytes_max: usize,
    /// Longest body once it is inflated.
    pub inflated_bytes_max: usize,
    /// How many times longer than itself a body may become; counted once it has
    /// become longer than a mebibyte, because small bodies compress well.
    pub inflate_ratio_max: usize,
    /// Bytes of all bodies that are read or wait for their commit; beyond it 429.
    pub body_budget_bytes: usize,
    /// Frames that wait for the committer; beyond it 429.
    pub ring_slots: usize,
}

/// Journal, buffer and flush.
#[derive(Clone, Debug)]
pub struct StorageSettings {
    /// Length of a journal segment.
    pub segment_bytes: usize,
    /// A flush starts when the buffer holds this much.
    pub flush_bytes: usize,
    /// A flush starts at the latest after this long.
    pub flush_interval: Duration,
    /// The buffer takes no more than this; beyond it commits wait for the flush.
    pub buffer_bytes_max: usize,
    /// Per cent of one core that compaction takes while few files wait; 0 holds it.
    pub compaction_percent: usize,
    /// Memory of newest values and spans; users beyond it are read from disk.
    pub series_bytes: usize,
    /// Within this the bytes of what was erased are gone.
    pub erasure_deadline: Duration,
    /// Days that samples are kept where an organisation has no rule; 0 for ever.
    pub retention_days: usize,
}

/// Limits of what is asked.
#[derive(Clone, Debug)]
pub struct QuerySettings {
    /// Threads of the query runtime.
    pub threads: usize,
    /// Queries that run at once; beyond it 503.
    pub concurrency: usize,
    /// Memory of all queries together; beyond it 422.
    pub memory_bytes: usize,
    /// How long a query may take to its next rows; beyond it 408.
    pub timeout: Duration,
    /// What an SQL statement may take.
    pub sql: SqlLimits,
}

/// Timeouts and limits of connections.
#[derive(Clone, Debug)]
pub struct HttpSettings {
    /// How long a request's head, a TLS handshake or an idle connection may take.
    pub header_timeout: Duration,
    /// How long a whole body may take; beyond it 408.
    pub body_timeout: Duration,
    /// How long a write waits for a client that does not read.
    pub write_timeout: Duration,
    /// How long a stop waits for requests in flight.
    pub drain: Duration,
    /// Open connections; beyond it new ones wait to be accepted.
    pub connections_max: usize,
}

/// Webhook deliveries.
#[derive(Clone, Debug)]
pub struct DispatchSettings {
    /// Addresses that may be called although they are not public, and by http too.
    pub allow_targets: Targets,
    /// Endpoints of one organisation; beyond it 409.
    pub endpoints_max: usize,
    /// Threads that render, sign and send.
    pub threads: usize,
    /// Bodies that are not written yet, to all receivers; beyond it deliveries wait.
    pub memory_bytes: usize,
    /// Open connections to all receivers; beyond it idle ones are closed, then
    /// deliveries wait. `None` is a quarter of the open files, up to the engine's.
    pub connections_max: Option<usize>,
    /// Journal kept for deliveries that wait; beyond it the oldest payloads are given
    /// up. `None` is a tenth of the disk.
    pub retention_bytes: Option<usize>,
    /// How long payloads stay that no delivery waits for, so that they can be asked for
    /// again.
    pub retention_hours: usize,
    /// Encrypts the secrets of endpoints in the catalog.
    pub master_key: Option<Arc<MasterKey>>,
}

/// Certificate and key in PEM files.
#[derive(Clone, Debug)]
pub struct TlsSettings {
    /// The certificate chain.
    pub cert: PathBuf,
    /// The private key.
    pub key: PathBuf,
}

/// What the command line says.
#[derive(Clone, Debug, Default)]
pub struct Flags {
    /// The TOML file.
    pub config: Option<PathBuf>,
    /// See [`Settings::data_dir`].
    pub data_dir: Option<String>,
    /// See [`Settings::listen`].
    pub listen: Option<String>,
}

impl Default for Settings {
    fn default() -> Settings {
        let engine = EngineSettings::default();
        Settings {
            listen: SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 8080),
            data_dir: PathBuf::from("./data"),
            admin_key: None,
            log: LogSettings { level: LevelFilter::INFO },
            ingest: IngestSettings {
                points_max: 500,
                body_bytes_max: 16 * MIB,
                inflated_bytes_max: 16 * MIB,
                inflate_ratio_max: 200,
                body_budget_bytes: engine.body_budget_bytes,
                ring_slots: engine.ring_slots,
            },
            storage: StorageSettings {
                segment_bytes: usize::try_from(engine.segment_bytes).unwrap_or(usize::MAX),
                flush_bytes: engine.flush_bytes,
                flush_interval: engine.flush_interval,
                buffer_bytes_max: engine.buffer_bytes_max,
                compaction_percent: 50,
                series_bytes: engine.series_bytes,
                erasure_deadline: engine.erasure_deadline,
                retention_days: 0,
            },
            query: QuerySettings {
                threads: engine.query_threads,
                concurrency: engine.query_concurrency,
                memory_bytes: engine.query_memory_bytes,
                timeout: Duration::from_secs(30),
                sql: engine.sql,
            },
            http: HttpSettings {
                header_timeout: Duration::from_secs(60),
                body_timeout: Duration::from_secs(30),
                write_timeout: Duration::from_secs(30),
                drain: Duration::from_secs(20),
                connections_max: 4096,
            },
            dispatch: DispatchSettings {
                allow_targets: Targets::default(),
                endpoints_max: engine.webhooks.endpoints_max,
                threads: engine.webhooks.dispatch.threads,
                memory_bytes: engine.webhooks.dispatch.memory_bytes,
                connections_max: None,
                retention_bytes: None,
                retention_hours: 72,
                master_key: None,
            },
            tls: None,
            issuers: Vec::new(),
        }
    }
}

impl Settings {
    /// Reads flags, environment and file, in this order of precedence.
    ///
    /// # Errors
    /// [`SettingFault`], whose text is one line that names the setting.
    pub fn load(flags: &Flags, environment: &Environment) -> Result<Settings, SettingFault> {
        let mut reader = Reader::open(flags, environment)?;
        let settings = Settings::read(&mut reader)?;
        reader.finish()?;
        Ok(settings)
    }

    fn read(reader: &mut Reader<'_>) -> Result<Settings, SettingFault> {
        let mut settings = Settings::default();
        reader.address("listen", &mut settings.listen)?;
        reader.path("data_dir", &mut settings.data_dir)?;
        // One that is not there yet is made.
        if settings.data_dir.exists() && !settings.data_dir.is_dir() {
            let reason = format!("{} is not a directory", settings.data_dir.display());
            return Err(reader.wrong("data_dir", reason));
        }
        settings.admin_key = reader.secret("admin_key")?;
        if let Some(key) = &settings.admin_key {
            check_admin_key(key).map_err(|reason| reader.wrong("admin_key", reason))?;
        }
        reader.level("log.level", &mut settings.log.level)?;
        settings.ingest.read(reader)?;
        settings.storage.read(reader)?;
        settings.query.read(reader)?;
        settings.http.read(reader)?;
        settings.dispatch.read(reader)?;
        settings.tls = TlsSettings::read(reader)?;
        settings.issuers = issuer::read(reader)?;
        Ok(settings)
    }

    /// What of it concerns the engine.
    #[must_use]
    pub fn engine(&self) -> EngineSettings {
        EngineSettings {
            data_dir: self.data_dir.clone(),
            ring_slots: self.ingest.ring_slots,
            body_budget_bytes: self.ingest.body_budget_bytes,
            buffer_bytes_max: self.storage.buffer_bytes_max,
            flush_bytes: self.storage.flush_bytes,
            flush_interval: self.storage.flush_interval,
            segment_bytes: self.storage.segment_bytes as u64,
            compaction_share: self.storage.compaction_percent as f64 / 100.0,
            series_bytes: self.storage.series_bytes,
            query_threads: self.query.threads,
            query_concurrency: self.query.concurrency,
            query_memory_bytes: self.query.memory_bytes,
            sql: self.query.sql,
            retention_bytes: self.dispatch.retention_bytes.map(|bytes| bytes as u64),
            retention: Duration::from_secs(self.dispatch.retention_hours as u64 * 3600),
            erasure_deadline: self.storage.erasure_deadline,
            retention_days: u32::try_from(self.storage.retention_days).ok().filter(|days| *days > 0),
            webhooks: WebhookSettings {
                targets: self.dispatch.allow_targets.clone(),
                endpoints_max: self.dispatch.endpoints_max,
                master_key: self.dispatch.master_key.clone(),
                dispatch: EngineDispatch {
                    threads: self.dispatch.threads,
                    memory_bytes: self.dispatch.memory_bytes,
                    connections_max: self.dispatch.connections_max.unwrap_or(CONNECTIONS_MAX),
                },
            },
        }
    }
}

impl IngestSettings {
    fn read(&mut self, reader: &mut Reader<'_>) -> Result<(), SettingFault> {
        reader.count("ingest.points_max", &mut self.points_max, 1..=1_000_000)?;
        reader.size("ingest.body_bytes_max", &mut self.body_bytes_max, KIB..=1024 * MIB)?;
        reader.size("ingest.inflated_bytes_max", &mut self.inflated_bytes_max, KIB..=1024 * MIB)?;
        reader.count("ingest.inflate_ratio_max", &mut self.inflate_ratio_max, 1..=100_000)?;
        reader.size("ingest.body_budget_bytes", &mut self.body_budget_bytes, KIB..=1024 * 1024 * MIB)?;
        reader.count("ingest.ring_slots", &mut self.ring_slots, 1..=1 << 20)?;
        if self.body_budget_bytes < self.body_bytes_max.max(self.inflated_bytes_max) {
            let reason = "must not be less than ingest.body_bytes_max or ingest.inflated_bytes_max, \
                          or the longest body could never be taken";
            return Err(reader.wrong("ingest.body_budget_bytes", reason.to_owned()));
        }
        Ok(())
    }
}

impl StorageSettings {
    fn read(&mut self, reader: &mut Reader<'_>) -> Result<(), SettingFault> {
        reader.size("storage.segment_bytes", &mut self.segment_bytes, MIB..=16 * 1024 * MIB)?;
        reader.size("storage.flush_bytes", &mut self.flush_bytes, KIB..=1024 * 1024 * MIB)?;
        reader.seconds("storage.flush_interval_seconds", &mut self.flush_interval)?;
        reader.size("storage.buffer_bytes_max", &mut self.buffer_bytes_max, MIB..=1024 * 1024 * MIB)?;
        reader.count("storage.compaction_percent", &mut self.compaction_percent, 0..=100)?;
        reader.size("storage.series_bytes", &mut self.series_bytes, MIB..=1024 * 1024 * MIB)?;
        let mut hours = usize::try_from(self.erasure_deadline.as_secs() / 3600).unwrap_or(usize::MAX);
        reader.count("storage.erasure_hours", &mut hours, 1..=24 * 365)?;
        self.erasure_deadline = Duration::from_secs(hours as u64 * 3600);
        reader.count("storage.retention_days", &mut self.retention_days, 0..=36_500)
    }
}

impl QuerySettings {
    fn read(&mut self, reader: &mut Reader<'_>) -> Result<(), SettingFault> {
        reader.count("query.threads", &mut self.threads, 1..=1024)?;
        reader.count("query.concurrency", &mut self.concurrency, 1..=4096)?;
        reader.size("query.memory_bytes", &mut self.memory_bytes, MIB..=1024 * 1024 * MIB)?;
        reader.seconds("query.timeout_seconds", &mut self.timeout)?;
        reader.count("query.sql_concurrency", &mut self.sql.concurrency, 1..=1024)?;
        reader.seconds("query.sql_timeout_seconds", &mut self.sql.timeout)?;
        let mut rows_max = usize::try_from(self.sql.rows_max).unwrap_or(usize::MAX);
        reader.count("query.sql_rows_max", &mut rows_max, 1..=1_000_000_000_000)?;
        self.sql.rows_max = rows_max as u64;
        Ok(())
    }
}

impl HttpSettings {
    fn read(&mut self, reader: &mut Reader<'_>) -> Result<(), SettingFault> {
        reader.seconds("http.header_timeout_seconds", &mut self.header_timeout)?;
        reader.seconds("http.body_timeout_seconds", &mut self.body_timeout)?;
        reader.seconds("http.write_timeout_seconds", &mut self.write_timeout)?;
        reader.seconds("http.drain_seconds", &mut self.drain)?;
        reader.count("http.connections_max", &mut self.connections_max, 1..=1 << 20)
    }
}

impl DispatchSettings {
    fn read(&mut self, reader: &mut Reader<'_>) -> Result<(), SettingFault> {
        let ranges = reader.list("dispatch.allow_targets")?;
        self.allow_targets = Targets::parse(&ranges)
            .map_err(|fault| reader.wrong("dispatch.allow_targets", fault.to_string()))?;
        if let Some(text) = reader.secret("dispatch.master_key")? {
            let key = MasterKey::parse(text.expose());
            let key = key.map_err(|fault| reader.wrong("dispatch.master_key", fault.to_string()))?;
            self.master_key = Some(Arc::new(key));
        }
        // Their numbers have 24 bits, over all organisations.
        reader.count("dispatch.endpoints_max", &mut self.endpoints_max, 1..=(1 << 24) - 1)?;
        reader.count("dispatch.threads", &mut self.threads, 1..=1024)?;
        reader.size("dispatch.memory_bytes", &mut self.memory_bytes, MIB..=1024 * 1024 * MIB)?;
        let mut connections = 0;
        reader.count_or(
            "dispatch.connections_max",
            &mut connections,
            "a quarter of the open files, at most 16384",
            1..=1 << 20,
        )?;
        self.connections_max = (connections > 0).then_some(connections);
        let mut retained = 0;
        reader.size_or(
            "dispatch.retention_bytes",
            &mut retained,
            "a tenth of the disk",
            64 * MIB..=1 << 50,
        )?;
        self.retention_bytes = (retained > 0).then_some(retained);
        reader.count("dispatch.retention_hours", &mut self.retention_hours, 0..=24 * 365)?;
        Ok(())
    }
}

impl TlsSettings {
    fn read(reader: &mut Reader<'_>) -> Result<Option<TlsSettings>, SettingFault> {
        let (cert, key) = (reader.text("tls.cert")?, reader.text("tls.key")?);
        match (cert, key) {
            (None, None) => Ok(None),
            (Some(cert), Some(key)) => Ok(Some(TlsSettings { cert: cert.into(), key: key.into() })),
            (Some(_), None) => Err(reader.wrong("tls.key", "is needed beside tls.cert".to_owned())),
            (None, Some(_)) => Err(reader.wrong("tls.cert", "is needed beside tls.key".to_owned())),
        }
    }
}

/// Shortest admin key: the contract's 16 characters, `avk_` included.
const ADMIN_KEY_CHARS_MIN: usize = 16;

fn check_admin_key(key: &Secret) -> Result<(), String> {
    let text = key.expose();
    if !text.starts_with(crate::auth::KEY_PREFIX) {
        return Err("must begin with `avk_`".to_owned());
    }
    if text.chars().count() < ADMIN_KEY_CHARS_MIN {
        return Err(format!("must have at least {ADMIN_KEY_CHARS_MIN} characters"));
    }
    if !crate::auth::is_key_shaped(text) {
        return Err("must be at most 256 printable ASCII characters without spaces".to_owned());
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    /// A file, variables, and the name that the fault shows.
    type Case<'a> = (&'a str, &'a [(&'a str, &'a str)], &'a str);

    fn load(file: &str, environment: &[(&str, &str)]) -> Result<Settings, SettingFault> {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("systole.toml");
        fs::write(&path, file).unwrap();
        let environment = environment.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
        Settings::load(&Flags { config: Some(path), ..Flags::default() }, &environment.collect())
    }

    #[test]
    fn a_flag_wins_over_the_environment_over_the_file() {
        let file = "listen = \"127.0.0.1:1\"\ndata_dir = \"from-file\"\n[ingest]\npoints_max = 7\n";
        let environment = [("SYSTOLE_LISTEN", "127.0.0.1:2"), ("SYSTOLE_INGEST_POINTS_MAX", "9")];
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("systole.toml");
        fs::write(&path, file).unwrap();
        let flags = Flags { config: Some(path), listen: Some("127.0.0.1:3".to_owned()), data_dir: None };
        let environment = environment.map(|(name, value)| (name.to_owned(), value.to_owned()));
        let settings = Settings::load(&flags, &environment.into_iter().collect()).unwrap();
        assert_eq!(settings.listen.port(), 3);
        assert_eq!(settings.ingest.points_max, 9);
        assert_eq!(settings.data_dir, PathBuf::from("from-file"));
        assert_eq!(settings.ingest.body_bytes_max, 16 * MIB);
    }

    #[test]
    fn a_wrong_setting_is_one_line_that_names_it() {
        let cases: &[Case<'_>] = &[
            ("[ingest]\npoints_maxx = 7\n", &[], "ingest.points_maxx"),
            ("[ingest]\npoints_max = \"many\"\n", &[], "ingest.points_max"),
            ("[ingest]\npoints_max = 0\n", &[], "ingest.points_max"),
            ("[ingest]\nbody_bytes_max = \"16 pounds\"\n", &[], "ingest.body_bytes_max"),
            ("[ingest]\nbody_budget_bytes = \"1 MiB\"\n", &[], "ingest.body_budget_bytes"),
            ("ingest = 3\n", &[], "ingest"),
            ("nonsense = 1\n", &[], "nonsense"),
            ("listen = 8080\n", &[], "listen"),
            ("listen = \"8080\"\n", &[], "listen"),
            ("[tls]\ncert = \"a.pem\"\n", &[], "tls.key"),
            ("[log]\nlevel = \"loud\"\n", &[], "log.level"),
            ("[http]\ndrain_seconds = -1\n", &[], "http.drain_seconds"),
            ("[[jwt.issuers]]\nissuer = \"a\"\n", &[], "jwt.issuers[0]"),
            ("[[jwt.issuers]]\nhs256_secret = \"a\"\nsecrets = 1\n", &[], "jwt.issuers[0].secrets"),
            ("[[jwt.issuers]]\npublic_key = \"/nowhere.pem\"\n", &[], "jwt.issuers[0].public_key"),
            (
                "[[jwt.issuers]]\nhs256_secret = \"a\"\norganisations = [\"9x\"]\n",
                &[],
                "jwt.issuers[0].organisations",
            ),
            ("= 3", &[], "line 1"),
            ("", &[("SYSTOLE_ADMIN_KEY", "secret-secret-secret")], "SYSTOLE_ADMIN_KEY"),
            ("", &[("SYSTOLE_ADMIN_KEY", "avk_short")], "SYSTOLE_ADMIN_KEY"),
            ("", &[("SYSTOLE_QUERY_THREADS", "two")], "SYSTOLE_QUERY_THREADS"),
        ];
        for (file, environment, name) in cases {
            let fault = load(file, environment).unwrap_err().to_string();
            assert!(fault.contains(name), "{file:?} {environment:?}: {fault}");
            assert!(!fault.contains('\n'), "{fault:?}");
            assert!(!fault.contains("secret-secret"), "{fault:?}");
        }
    }

    #[test]
    fn sizes_and_seconds_may_be_written_as_people_do() {
        let settings = load(
            "[ingest]\nbody_bytes_max = \"2 MiB\"\n[storage]\nflush_interval_seconds = 0.5\n",
            &[("SYSTOLE_INGEST_INFLATED_BYTES_MAX", "1048576"), ("SYSTOLE_HTTP_DRAIN_SECONDS", "")],
        )
        .unwrap();
        assert_eq!(settings.ingest.body_bytes_max, 2 * MIB);
        assert_eq!(settings.ingest.inflated_bytes_max, MIB);
        assert_eq!(settings.storage.flush_interval, Duration::from_millis(500));
        assert_eq!(settings.http.drain, Duration::from_secs(20));
    }

    #[test]
    fn the_secret_of_the_environment_is_an_issuer_of_the_default_organisation() {
        let settings = load("", &[("SYSTOLE_JWT_SECRET", "s3cret")]).unwrap();
        assert_eq!(settings.issuers.len(), 1);
        assert_eq!(settings.issuers[0].organisations, [DEFAULT_ORG]);
        assert!(!format!("{settings:?}").contains("s3cret"));
    }

    #[test]
    fn the_configuration_page_names_every_setting_and_its_default() {
        let page = include_str!("../../../docs/configuration.md");
        let environment = Environment::new();
        let mut reader = Reader::open(&Flags::default(), &environment).unwrap();
        Settings::read(&mut reader).unwrap();
        for (name, default) in reader.asked() {
            let row = format!("| `{name}` | `{}` | {default} |", env::variable(name));
            assert!(page.contains(&row), "docs/configuration.md lacks a row that begins with {row}");
        }
    }
}
