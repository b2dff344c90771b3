//! `loadtest ledger`: nothing is lost however often the server is killed.

use std::fs;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::Args;
use loadtest::ledger::{LedgerSettings, ledger};

use super::{Outcome, run_prefix, runtime, seconds, write_json};

#[derive(Debug, Args)]
pub(crate) struct Ledger {
    /// The server's program; it is started here, on a data folder of its own.
    binary: PathBuf,
    /// How often the server is killed under load.
    #[arg(long, default_value_t = 20, value_parser = clap::value_parser!(u64).range(1..=100_000))]
    kills: u64,
    /// Seed of the moments.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Writers of events, and as many of samples.
    #[arg(long, default_value_t = 4, value_parser = clap::value_parser!(u64).range(1..=256))]
    writers: u64,
    /// Pause of a writer after each request.
    #[arg(long, default_value_t = 2)]
    pause_ms: u64,
    /// The first attempt of every so many events is answered 500; 0 for none.
    #[arg(long, default_value_t = 50)]
    fail_every: u64,
    /// A further setting of the server, NAME=VALUE; may be given again.
    #[arg(long = "set", value_parser = setting)]
    settings: Vec<(String, String)>,
    /// Where data and log of the server go, an empty folder; it is kept. A temporary
    /// one unless given, which is kept only if something is wrong.
    #[arg(long)]
    work_dir: Option<PathBuf>,
    /// How long the last deliveries may take.
    #[arg(long, default_value_t = 60.0, value_parser = seconds)]
    drain_seconds: f64,
    /// Writes the report to this file as JSON.
    #[arg(long)]
    json: Option<PathBuf>,
}

impl Ledger {
    pub(crate) fn run(&self) -> Outcome {
        let temporary = std::env::temp_dir().join(format!("loadtest-ledger-{}", run_prefix()));
        let work_dir = self.work_dir.clone().unwrap_or(temporary);
        fs::create_dir_all(&work_dir)?;
        let mut settings = LedgerSettings {
            kills: self.kills,
            seed: self.seed,
            writers: self.writers,
            pause: Duration::from_millis(self.pause_ms),
            fail_every: self.fail_every,
            patience: Duration::from_secs_f64(self.drain_seconds),
            ..LedgerSettings::new(self.binary.clone(), work_dir.clone())
        };
        settings.settings.extend(self.settings.iter().cloned());
        let told = |kill: u64, events: u64, samples: u64| {
            if kill.is_multiple_of(10) {
                eprintln!("kill {kill} of {}: {events} events, {samples} samples pending", self.kills);
            }
        };
        let report = runtime(2)?.block_on(ledger(&settings, told))?;
        print!("{report}");
        write_json(self.json.as_deref(), &report.to_json())?;
        if !report.is_sound() {
            println!("kept      {}", work_dir.display());
            return Ok(ExitCode::FAILURE);
        }
        if self.work_dir.is_none() {
            fs::remove_dir_all(&work_dir)?;
        }
        Ok(ExitCode::SUCCESS)
    }
}

fn setting(text: &str) -> Result<(String, String), String> {
    let pair = text.split_once('=').filter(|(name, _)| name.starts_with("SYSTOLE_"));
    let (name, value) = pair.ok_or("not SYSTOLE_NAME=VALUE")?;
    Ok((name.to_owned(), value.to_owned()))
}
