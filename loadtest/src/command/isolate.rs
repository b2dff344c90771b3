//! `loadtest isolate`: whether dead receivers harm the living.

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::Args;
use loadtest::isolate::{IsolateSettings, Shares, isolate};

use super::{Outcome, Target, run_prefix, runtime, seconds, write_json};

#[derive(Debug, Args)]
pub(crate) struct Isolate {
    #[command(flatten)]
    target: Target,
    /// Endpoints of one organisation, a user each
    #[arg(long, default_value_t = 10_000, value_parser = clap::value_parser!(u64).range(1..=1_000_000))]
    endpoints: u64,
    /// How many of each hundred die.
    #[arg(long, default_value_t = 50, value_parser = clap::value_parser!(u64).range(0..=99))]
    dead_percent: u64,
    /// How they are dead, with shares: refused, hanging, dripping, huge, redirecting,
    /// resetting, failing.
    #[arg(long, default_value_t = Shares::even())]
    kinds: Shares,
    /// Events a second, about all users in turn.
    #[arg(long, default_value_t = 1_000, value_parser = clap::value_parser!(u64).range(1..))]
    rate: u64,
    /// Size of an event's data.
    #[arg(long, default_value_t = 1_000)]
    event_bytes: usize,
    /// Connections that publish.
    #[arg(long, default_value_t = 16, value_parser = clap::value_parser!(u64).range(1..=10_000))]
    connections: u64,
    /// Load before each measured phase; the dead fail in it.
    #[arg(long, default_value_t = 20.0, value_parser = seconds)]
    settle_seconds: f64,
    /// Length of each measured phase.
    #[arg(long, default_value_t = 20.0, value_parser = seconds)]
    seconds: f64,
    /// How long deliveries to the living may take once a load has ended.
    #[arg(long, default_value_t = 30.0, value_parser = seconds)]
    drain_seconds: f64,
    /// The server's process, to report its memory; else /metrics is asked.
    #[arg(long)]
    pid: Option<u32>,
    /// Part of the user ids that tells runs apart; the start in Unix seconds
    /// unless given.
    #[arg(long)]
    run_prefix: Option<String>,
    /// Exits with 1 too if the wanted ratio is missed.
    #[arg(long)]
    strict: bool,
    /// Writes the report to this file as JSON.
    #[arg(long)]
    json: Option<PathBuf>,
}

impl Isolate {
    pub(crate) fn run(&self) -> Outcome {
        let server = self.target.server()?;
        let settings = IsolateSettings {
            endpoints: self.endpoints,
            dead_percent: self.dead_percent,
            kinds: self.kinds.clone(),
            rate: self.rate,
            event_bytes: self.event_bytes,
            connections: self.connections,
            settle: Duration::from_secs_f64(self.settle_seconds),
            duration: Duration::from_secs_f64(self.seconds),
            patience: Duration::from_secs_f64(self.drain_seconds),
            pid: self.pid,
            ..IsolateSettings::new(self.run_prefix.clone().unwrap_or_else(run_prefix))
        };
        let told = |what: &str, count: u64| eprintln!("{count} endpoints {what}");
        let report = runtime(1)?.block_on(isolate(&settings, &server, told))?;
        print!("{report}");
        write_json(self.json.as_deref(), &report.to_json())?;
        let good = report.is_sound() && (!self.strict || report.kept_up());
        Ok(if good { ExitCode::SUCCESS } else { ExitCode::FAILURE })
    }
}
