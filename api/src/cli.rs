//! The command line.

use std::path::{PathBuf, absolute};
use std::time::{SystemTime, UNIX_EPOCH};

use clap::{Args, Parser, Subcommand};
use systole_engine::{CATALOG_FILE, Catalog, CatalogError};

use crate::auth::{KeySpec, RandomFault, Scope, Scopes, Secret, is_org_id, is_user_id, make_key};
use crate::manage::is_key_name;
use crate::settings::{DEFAULT_ORG, Environment, Flags, SettingFault, Settings};

/// Systole, a server for wearable data
///
/// Takes samples in by the million, keeps them in open Parquet files, answers metric
/// queries, and pushes what arrived to subscribers as signed webhooks.
#[derive(Debug, Parser)]
#[command(name = "systole", version, arg_required_else_help = true)]
pub struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// What to do.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Runs the server until SIGTERM or Ctrl-C, then drains
    ///
    /// Prints one line on stdout once it accepts: "listening on http://ADDR". The log
    /// goes to stderr. Settings: flags over environment (SYSTOLE_LISTEN, ...) over the
    /// TOML file over defaults; docs/configuration.md lists them. A wrong setting ends
    /// it with one line that names it, exit code 64.
    Serve(ServeArgs),
    /// Shows the whole product: a server, a fleet that pushes, a receiver that verifies
    ///
    /// Runs a server on a temporary data folder and a free port, a simulated fleet that
    /// pushes samples over HTTP, and a receiver that verifies the signature of each
    /// webhook. Figures are shown live; at the end what was sent, stored and delivered
    /// is compared. Exit 0 only if they agree. The folder is removed.
    Demo(DemoArgs),
    /// Manages API keys, beside a running server too
    #[command(subcommand)]
    Key(KeyCommand),
    /// Verifies journal, catalog and Parquet files of a stopped server against each other
    ///
    /// Reads everything and changes nothing. A line per fault on stdout, exit code 1 if
    /// there is one; progress, notes on what the next start puts right, and a summary on
    /// stderr. A data directory that a server uses is refused, exit code 2.
    Check(CheckArgs),
    /// Prints the OpenAPI 3.1 document that is served at /openapi.json
    Openapi,
}

/// Flags of `serve`.
#[derive(Args, Debug)]
pub struct ServeArgs {
    /// Settings as TOML [env: SYSTOLE_CONFIG]
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// Where the data lies [env: SYSTOLE_DATA_DIR] [default: ./data]
    #[arg(long, value_name = "DIR")]
    pub data_dir: Option<String>,
    /// Address and port; port 0 takes a free one [env: SYSTOLE_LISTEN] [default: 127.0.0.1:8080]
    #[arg(long, value_name = "ADDR")]
    pub listen: Option<String>,
}

/// Flags of `demo`.
#[derive(Args, Debug)]
pub struct DemoArgs {
    /// Ends the load after so many seconds; without it Ctrl-C does
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..=86_400))]
    pub seconds: Option<u64>,
    /// Samples a second that the fleet offers
    #[arg(long, value_name = "N", default_value_t = 100_000, value_parser = clap::value_parser!(u64).range(1000..=100_000_000))]
    pub rate: u64,
    /// Users of the fleet
    #[arg(long, value_name = "N", default_value_t = 500, value_parser = clap::value_parser!(u64).range(1..=1_000_000))]
    pub users: u64,
}

/// Flags of `check`.
#[derive(Args, Debug)]
pub struct CheckArgs {
    /// Where the data lies [env: SYSTOLE_DATA_DIR] [default: ./data]
    #[arg(long, value_name = "DIR")]
    pub data_dir: Option<String>,
    /// No progress and no summary
    #[arg(long, short)]
    pub quiet: bool,
}

/// What to do with keys.
#[derive(Debug, Subcommand)]
pub enum KeyCommand {
    /// Makes a key and prints it on stdout; it cannot be shown again
    Create(KeyArgs),
}

/// Flags of `key create`.
#[derive(Args, Debug)]
pub struct KeyArgs {
    /// Where the data lies [env: SYSTOLE_DATA_DIR] [default: ./data]
    #[arg(long, value_name = "DIR")]
    pub data_dir: Option<String>,
    /// The organisation; made if it is new
    #[arg(long, value_name = "ORG", default_value = DEFAULT_ORG)]
    pub org: String,
    /// Binds the key to one user, who then need not be named in requests
    #[arg(long, value_name = "USER")]
    pub user: Option<String>,
    /// What it may do: ingest, read, webhooks, admin, operator
    #[arg(long, value_name = "SCOPES", value_delimiter = ',', default_value = "ingest,read")]
    pub scope: Vec<String>,
    /// A name for people
    #[arg(long, value_name = "NAME")]
    pub name: Option<String>,
}

/// A key that was made.
#[derive(Debug)]
pub struct MadeKey {
    /// The key itself.
    pub key: Secret,
    /// The data directory, if there was none before: perhaps a typing error.
    pub new_folder: Option<PathBuf>,
}

/// Why no key was made.
#[derive(Debug, thiserror::Error)]
pub enum KeyFault {
    /// A flag or variable is wrong.
    #[error(transparent)]
    Setting(#[from] SettingFault),
    /// The catalog cannot be opened or written.
    #[error("cannot write the catalog")]
    Catalog(#[from] CatalogError),
    /// No random numbers.
    #[error("cannot make a key")]
    Random(#[from] RandomFault),
}

impl ServeArgs {
    /// The flags as settings read them.
    #[must_use]
    pub fn flags(self) -> Flags {
        Flags { config: self.config, data_dir: self.data_dir, listen: self.listen }
    }
}

/// Makes a key in the catalog of the data directory; a server that runs on it
/// knows the key at once.
///
/// # Errors
/// [`KeyFault`] if a flag is wrong or the catalog cannot be written.
pub fn create_key(args: KeyArgs, environment: &Environment) -> Result<MadeKey, KeyFault> {
    let flags = Flags { data_dir: args.data_dir.clone(), ..Flags::default() };
    let spec = args.spec()?;
    let settings = Settings::load(&flags, environment)?;
    // A directory without a catalog is no data directory yet.
    let is_new = !settings.data_dir.join(CATALOG_FILE).exists();
    let catalog = Catalog::open(&settings.data_dir)?;
    catalog.ensure_org(&spec.org)?;
    let (key, record) = make_key(spec)?;
    catalog.insert_key(&record)?;
    let new_folder = is_new.then(|| absolute(&settings.data_dir).unwrap_or(settings.data_dir));
    Ok(MadeKey { key, new_folder })
}

impl KeyArgs {
    fn spec(self) -> Result<KeySpec, SettingFault> {
        let wrong = |name: &str, reason: &str| {
            Err(SettingFault::Wrong { name: name.to_owned(), reason: reason.to_owned() })
        };
        if !is_org_id(&self.org) {
            return wrong("--org", "must be 1 to 64 characters of a-z 0-9 _ - and begin with a letter");
        }
        if self.user.as_deref().is_some_and(|user| !is_user_id(user)) {
            return wrong("--user", "must be 1 to 128 characters of A-Z a-z 0-9 . _ : @ -");
        }
        if self.name.as_deref().is_some_and(|name| !is_key_name(name)) {
            return wrong("--name", "must be 1 to 128 printable characters");
        }
        let mut scopes = Scopes::default();
        for name in &self.scope {
            match Scope::parse(name.trim()) {
                Some(scope) => scopes.insert(scope),
                None => return wrong("--scope", "must be of ingest, read, webhooks, admin, operator"),
            }
        }
        let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let created_at = i64::try_from(since.as_millis()).unwrap_or(i64::MAX);
        Ok(KeySpec { org: self.org, user: self.user, name: self.name, scopes, created_at })
    }
}
