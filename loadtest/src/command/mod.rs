//! The commands, one a file: their arguments, and what they run.

pub(crate) mod compare_duckdb;
pub(crate) mod dataset;
pub(crate) mod deliver;
pub(crate) mod fleet;
pub(crate) mod ingest;
pub(crate) mod isolate;
pub(crate) mod ledger;
pub(crate) mod mixed;
pub(crate) mod query;
pub(crate) mod receive;
pub(crate) mod sign_and_post;
pub(crate) mod soak;
pub(crate) mod webhooks;

use std::error::Error;
use std::fmt::Display;
use std::fs;
use std::path::Path;
use std::process::ExitCode;
use std::time::{SystemTime, UNIX_EPOCH};

use clap::Args;
use loadtest::{ApiKey, ClientError, Server};
use serde_json::Value;

/// What a command comes to; an error is printed with its causes.
pub(crate) type Outcome = Result<ExitCode, Box<dyn Error>>;

/// Which server, and who calls it.
#[derive(Debug, Args)]
pub(crate) struct Target {
    /// Address of the server, http only.
    #[arg(long, default_value = "http://127.0.0.1:8080")]
    url: String,
    /// API key with the scopes `ingest` and `read`, not bound to a user; an
    /// operator's where something is flushed or compacted.
    #[arg(long)]
    key: ApiKey,
}

impl Target {
    pub(crate) fn server(&self) -> Result<Server, ClientError> {
        Server::new(&self.url, &self.key)
    }
}

/// A runtime with so many threads.
pub(crate) fn runtime(threads: u16) -> std::io::Result<tokio::runtime::Runtime> {
    tokio::runtime::Builder::new_multi_thread().worker_threads(threads.into()).enable_all().build()
}

/// Prints a report, as JSON too if it is wanted.
pub(crate) fn print(report: &impl Display, json: Option<Value>, sound: bool) -> ExitCode {
    print!("{report}");
    if let Some(json) = json {
        println!("{json}");
    }
    if sound { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// Seconds from 0 to a day, with a fraction.
pub(crate) fn seconds(text: &str) -> Result<f64, String> {
    let day = 0.0..=86_400.0;
    let number: f64 = text.parse().map_err(|_| "not a number of seconds".to_owned())?;
    if day.contains(&number) { Ok(number) } else { Err("not within 0 and 86400 seconds".to_owned()) }
}

/// A part of a whole, above 0 and at most 1.
pub(crate) fn share(text: &str) -> Result<f64, String> {
    let number: f64 = text.parse().map_err(|_| "not a number".to_owned())?;
    if number > 0.0 && number <= 1.0 { Ok(number) } else { Err("not above 0 and at most 1".to_owned()) }
}

/// A day as the Unix seconds of its midnight in UTC.
pub(crate) fn date(text: &str) -> Result<u64, String> {
    loadtest::fleet::second_of_date(text).ok_or_else(|| "not a date like 2026-06-01".to_owned())
}

/// The last midnight, UTC.
pub(crate) fn today() -> u64 {
    since_1970() / 86_400 * 86_400
}

/// Tells the users of this run from those of earlier ones.
pub(crate) fn run_prefix() -> String {
    since_1970().to_string()
}

fn since_1970() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs()
}

/// Writes a report to a file, if there is one to write to.
pub(crate) fn write_json(path: Option<&Path>, json: &Value) -> std::io::Result<()> {
    path.map_or(Ok(()), |path| fs::write(path, format!("{json:#}\n")))
}
