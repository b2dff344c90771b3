//! `loadtest deliver`: how fast a server delivers, and how near the limit.

use std::fs;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::{Args, ValueEnum};
use loadtest::deliver::{DeliverSettings, INGEST_SHARE_MIN, Scenario, run};
use serde_json::Value;

use super::{Outcome, Target, run_prefix, runtime, seconds, write_json};

#[derive(Debug, Args)]
pub(crate) struct Deliver {
    /// What is offered.
    #[arg(value_enum)]
    scenario: Kind,
    #[command(flatten)]
    target: Target,
    /// Endpoints that share the users, an organisation each (series only); more than
    /// one needs an operator's key.
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..=1_000))]
    endpoints: u16,
    /// Connections that send, each one request at a time.
    #[arg(long, default_value_t = 64, value_parser = clap::value_parser!(u16).range(1..=10_000))]
    connections: u16,
    /// Users, at least.
    #[arg(long, default_value_t = 20_000, value_parser = clap::value_parser!(u64).range(1..=10_000_000))]
    users: u64,
    /// Size of an event's data (events).
    #[arg(long, default_value_t = 1_000)]
    event_bytes: usize,
    /// Events of a request, one a line (events).
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u64).range(1..=10_000))]
    lines: u64,
    /// Samples of a request (series).
    #[arg(long, default_value_t = 500)]
    points: usize,
    /// Length of the measured phase.
    #[arg(long, default_value_t = 10.0, value_parser = seconds)]
    seconds: f64,
    /// Load before that, not counted.
    #[arg(long, default_value_t = 2.0, value_parser = seconds)]
    warmup_seconds: f64,
    /// Events, or samples, a second offered; without it the next request follows the
    /// last answer. With it the times are judged, not the rate.
    #[arg(long, value_parser = clap::value_parser!(u64).range(1..))]
    rate: Option<u64>,
    /// The signature of every so many deliveries is verified; 1 for all.
    #[arg(long, default_value_t = 10, value_parser = clap::value_parser!(u64).range(1..))]
    verify_every: u64,
    /// How long deliveries may take once the load has ended.
    #[arg(long, default_value_t = 30.0, value_parser = seconds)]
    drain_seconds: f64,
    /// Afterwards signs and posts the same bodies in a loop: the limit of it; alone, and with
    /// one endpoint once more while as much is taken in as in the run.
    #[arg(long)]
    limit: bool,
    /// How long that loop runs.
    #[arg(long, default_value_t = 5.0, value_parser = seconds)]
    limit_seconds: f64,
    /// Connections of that loop; as many as the server had open unless given.
    #[arg(long, value_parser = clap::value_parser!(u16).range(1..=10_000))]
    limit_connections: Option<u16>,
    /// The JSON report of a run with one endpoint, to compare its ingest with.
    #[arg(long)]
    against: Option<PathBuf>,
    /// Part of the user ids that tells runs apart; the start in Unix seconds
    /// unless given.
    #[arg(long)]
    run_prefix: Option<String>,
    /// Threads of the load and of the limit loop.
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..=64))]
    threads: u16,
    /// Threads of the receiver.
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..=64))]
    receiver_threads: u16,
    /// Exits with 1 too if a wanted figure is missed.
    #[arg(long)]
    strict: bool,
    /// Writes the report to this file as JSON.
    #[arg(long)]
    json: Option<PathBuf>,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum Kind {
    /// Published events, to one endpoint.
    Events,
    /// Live samples, a user a request.
    Series,
}

impl Deliver {
    pub(crate) fn run(&self) -> Outcome {
        let server = self.target.server()?;
        let other: Option<Value> = match &self.against {
            Some(path) => Some(serde_json::from_slice(&fs::read(path)?)?),
            None => None,
        };
        let report = runtime(self.threads)?.block_on(run(&self.settings(), &server))?;
        print!("{report}");
        let (mut json, mut kept) = (report.to_json(), report.kept_up());
        if let Some(share) = other.as_ref().and_then(|other| report.ingest_share(other)) {
            let mark = if share >= INGEST_SHARE_MIN { "kept" } else { "MISSED" };
            println!("against   ingest {share:.2} of the other run's; wanted >= {INGEST_SHARE_MIN} {mark}");
            json["against"] = serde_json::json!({ "ingest_share": share });
            kept &= share >= INGEST_SHARE_MIN;
        }
        write_json(self.json.as_deref(), &json)?;
        let good = report.is_sound() && (!self.strict || kept);
        Ok(if good { ExitCode::SUCCESS } else { ExitCode::FAILURE })
    }

    fn settings(&self) -> DeliverSettings {
        let scenario = match self.scenario {
            Kind::Events => Scenario::Events { bytes: self.event_bytes, lines: self.lines },
            Kind::Series => Scenario::Series { points: self.points },
        };
        DeliverSettings {
            endpoints: self.endpoints.into(),
            connections: self.connections.into(),
            users: self.users,
            warmup: Duration::from_secs_f64(self.warmup_seconds),
            duration: Duration::from_secs_f64(self.seconds),
            rate: self.rate,
            verify_every: self.verify_every,
            receiver_threads: self.receiver_threads.into(),
            patience: Duration::from_secs_f64(self.drain_seconds),
            limit: self.limit.then(|| Duration::from_secs_f64(self.limit_seconds)),
            limit_connections: self.limit_connections.map(usize::from),
            ..DeliverSettings::new(scenario, self.run_prefix.clone().unwrap_or_else(run_prefix))
        }
    }
}
