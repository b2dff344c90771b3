//! The commands, one a file: their arguments, and what they run.

pub(crate) mod ingest;
pub(crate) mod receive;
pub(crate) mod sign_and_post;
pub(crate) mod webhooks;

use std::error::Error;
use std::fmt::Display;
use std::process::ExitCode;

use serde_json::Value;

/// What a command comes to; an error is printed with its causes.
pub(crate) type Outcome = Result<ExitCode, Box<dyn Error>>;

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
