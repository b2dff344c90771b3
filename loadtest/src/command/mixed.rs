//! `loadtest mixed`: ingest with and without a heavy SQL scan beside it.

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::Args;
use loadtest::mixed::{HEAVY_SQL, MixedSettings, P99_RATIO_MAX, mixed};

use super::{Outcome, Target, run_prefix, runtime, seconds, write_json};

#[derive(Debug, Args)]
pub(crate) struct Mixed {
    #[command(flatten)]
    target: Target,
    /// Samples a second offered; half of what the server takes saturated says most.
    #[arg(long, default_value_t = 500_000, value_parser = clap::value_parser!(u64).range(1..))]
    rate: u64,
    /// Length of one run.
    #[arg(long, default_value_t = 20.0, value_parser = seconds)]
    seconds: f64,
    /// Pairs of runs: one without SQL, one with.
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u16).range(1..=100))]
    rounds: u16,
    /// Connections that ingest.
    #[arg(long, default_value_t = 64)]
    connections: usize,
    /// What is asked again and again; by default a scan of all samples.
    #[arg(long)]
    sql: Option<String>,
    /// Part of the user ids that tells runs apart; the start in Unix seconds
    /// unless given.
    #[arg(long)]
    run_prefix: Option<String>,
    /// Exits with 1 too if the wanted ratio is missed.
    #[arg(long)]
    strict: bool,
    /// Threads of the load generator.
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..=64))]
    threads: u16,
    /// Writes the report to this file as JSON.
    #[arg(long)]
    json: Option<PathBuf>,
}

impl Mixed {
    pub(crate) fn run(&self) -> Outcome {
        let server = self.target.server()?;
        let settings = MixedSettings {
            rate: self.rate,
            duration: Duration::from_secs_f64(self.seconds),
            rounds: self.rounds.into(),
            connections: self.connections,
            sql: self.sql.clone().unwrap_or_else(|| HEAVY_SQL.to_owned()),
            run_prefix: self.run_prefix.clone().unwrap_or_else(run_prefix),
        };
        let running = mixed(&settings, &server, |round| print!("{round}"));
        let report = runtime(self.threads)?.block_on(running)?;
        print!("{report}");
        write_json(self.json.as_deref(), &report.to_json())?;
        let good = report.is_sound() && (!self.strict || report.ratio() <= P99_RATIO_MAX);
        Ok(if good { ExitCode::SUCCESS } else { ExitCode::FAILURE })
    }
}
