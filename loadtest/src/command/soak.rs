//! `loadtest soak`: a long run at a fixed rate, then a saturated one.

use std::fs;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::Args;
use loadtest::soak::{P99_RATIO_MAX, SoakSettings, soak};
use serde_json::Value;

use super::{Outcome, Target, run_prefix, runtime, seconds, write_json};

#[derive(Debug, Args)]
pub(crate) struct Soak {
    #[command(flatten)]
    target: Target,
    /// Samples a second offered.
    #[arg(long, default_value_t = 1_000_000, value_parser = clap::value_parser!(u64).range(1..))]
    rate: u64,
    /// How long.
    #[arg(long, default_value_t = 600.0, value_parser = seconds)]
    seconds: f64,
    /// Seconds of a line.
    #[arg(long, default_value_t = 60.0, value_parser = seconds)]
    stretch_seconds: f64,
    /// How long saturated afterwards: its first 30 s are the burst, its second half
    /// is sustained.
    #[arg(long, default_value_t = 0.0, value_parser = seconds)]
    saturated_seconds: f64,
    /// Connections, each with one request in flight.
    #[arg(long, default_value_t = 64)]
    connections: usize,
    /// Users of a pass.
    #[arg(long, default_value_t = 20_000)]
    users: u64,
    /// The server's process, to report its memory.
    #[arg(long)]
    pid: Option<u32>,
    /// Names this run in its report: "compaction held", say.
    #[arg(long, default_value = "soak")]
    label: String,
    /// The JSON report of another run to compare the p99 with.
    #[arg(long)]
    against: Option<PathBuf>,
    /// Part of the user ids that tells runs apart; the start in Unix seconds
    /// unless given.
    #[arg(long)]
    run_prefix: Option<String>,
    /// Threads of the load generator.
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..=64))]
    threads: u16,
    /// Writes the report to this file as JSON.
    #[arg(long)]
    json: Option<PathBuf>,
}

impl Soak {
    pub(crate) fn run(&self) -> Outcome {
        let server = self.target.server()?;
        // Read before the run: a file that is not there should not cost ten minutes.
        let other: Option<Value> = match &self.against {
            Some(path) => Some(serde_json::from_slice(&fs::read(path)?)?),
            None => None,
        };
        let settings = SoakSettings {
            label: self.label.clone(),
            rate: self.rate,
            duration: Duration::from_secs_f64(self.seconds),
            stretch: Duration::from_secs_f64(self.stretch_seconds.max(0.1)),
            saturated: Duration::from_secs_f64(self.saturated_seconds),
            connections: self.connections,
            users: self.users,
            run_prefix: self.run_prefix.clone().unwrap_or_else(run_prefix),
            pid: self.pid,
        };
        let running = soak(&settings, &server, |kind, stretch| println!("{kind:<9} {stretch}"));
        let report = runtime(self.threads)?.block_on(running)?;
        print!("{report}");
        let mut json = report.to_json();
        if let Some((label, ratio)) = other.as_ref().and_then(|other| report.against(other)) {
            let mark = if ratio <= P99_RATIO_MAX { "kept" } else { "MISSED" };
            println!("against   {label}: p99 {ratio:.2} times; wanted <= {P99_RATIO_MAX} {mark}");
            json["against"] = serde_json::json!({ "label": label, "p99_ratio": ratio });
        }
        write_json(self.json.as_deref(), &json)?;
        Ok(if report.kept_up() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
    }
}
