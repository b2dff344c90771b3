//! `loadtest query`: the judged reads over the data set.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::Args;
use loadtest::query::{QuerySettings, READS, run};

use super::{Outcome, Target, runtime, seconds, write_json};

#[derive(Debug, Args)]
pub(crate) struct Query {
    #[command(flatten)]
    target: Target,
    /// Users of the data set.
    #[arg(long, default_value_t = 20_000, value_parser = clap::value_parser!(u64).range(1..))]
    users: u64,
    /// Heart-rate samples of each, as it was made.
    #[arg(long, default_value_t = 5_000)]
    samples: u64,
    /// Begins every user id, as it was made.
    #[arg(long, default_value = "data")]
    prefix: String,
    /// Length of each read but the cold one (64 requests; start the server anew
    /// for it).
    #[arg(long, default_value_t = 5.0, value_parser = seconds)]
    seconds: f64,
    /// The same before it, not counted.
    #[arg(long, default_value_t = 1.0, value_parser = seconds)]
    warmup_seconds: f64,
    /// Only reads whose name contains this (latest, newest, hour, cold, warm).
    #[arg(long)]
    only: Option<String>,
    /// Seed of the users' order.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Exits with 1 too if a wanted figure is missed.
    #[arg(long)]
    strict: bool,
    /// Threads of the load generator.
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..=64))]
    threads: u16,
    /// Writes the report to this file as JSON.
    #[arg(long)]
    json: Option<PathBuf>,
}

impl Query {
    pub(crate) fn run(&self) -> Outcome {
        let server = self.target.server()?;
        let settings = QuerySettings {
            users: self.users,
            samples: self.samples,
            prefix: self.prefix.clone(),
            seed: self.seed,
            seconds: self.seconds,
            warmup_seconds: self.warmup_seconds,
        };
        let wanted = |name: &str| self.only.as_ref().is_none_or(|part| name.contains(part.as_str()));
        let reads: Vec<_> = READS.into_iter().filter(|read| wanted(read.name)).collect();
        let reading = run(&reads, &settings, &server, |report| println!("{report}"));
        let report = runtime(self.threads)?.block_on(reading)?;
        write_json(self.json.as_deref(), &report.to_json())?;
        let good = report.is_sound() && (!self.strict || report.keeps_all());
        Ok(if good { ExitCode::SUCCESS } else { ExitCode::FAILURE })
    }
}
