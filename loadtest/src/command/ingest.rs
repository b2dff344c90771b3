//! `loadtest ingest`: a fleet against a server.

use std::future::pending;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use clap::{Args, ValueEnum};
use loadtest::{ApiKey, ClientError, Fleet, FleetSettings, Live, Mix, Scenario, Server};

use super::{Outcome, print, runtime, seconds};

#[derive(Debug, Args)]
pub(crate) struct Ingest {
    /// Address of the server, http only.
    #[arg(long, default_value = "http://127.0.0.1:8080")]
    url: String,
    /// API key with the scope `ingest` (and `read` for --probe), not bound to a user.
    #[arg(long)]
    key: ApiKey,
    /// Connections, each with one request in flight.
    #[arg(long, default_value_t = 64)]
    connections: usize,
    /// Length of the measured run.
    #[arg(long, default_value_t = 10.0, value_parser = seconds)]
    seconds: f64,
    /// Load before that, not counted.
    #[arg(long, default_value_t = 1.0, value_parser = seconds)]
    warmup_seconds: f64,
    /// Ends the run after so many bodies.
    #[arg(long)]
    batches: Option<u64>,
    /// Points of a body; a server takes 500 unless configured otherwise.
    #[arg(long, default_value_t = 500)]
    points: usize,
    /// Users; each gets its next window of time when all had their turn.
    #[arg(long, default_value_t = 20_000)]
    users: u64,
    /// What a body holds.
    #[arg(long, value_enum, default_value_t = Metrics::HeartRate)]
    metrics: Metrics,
    /// Samples a second offered in total; without it the next body follows the
    /// last answer.
    #[arg(long)]
    rate: Option<u64>,
    /// Reads /latest and a 7-day /metric of written users beside the load.
    #[arg(long)]
    probe: bool,
    /// Pause between the reads of a probe.
    #[arg(long, default_value_t = 10)]
    probe_interval_ms: u64,
    /// Seed of the values.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Part of the user ids that tells runs apart; the start in Unix seconds
    /// unless given.
    #[arg(long)]
    run_prefix: Option<String>,
    /// Threads of the load generator; one offers more than a server on two cores takes.
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..=64))]
    pub(crate) threads: u16,
    /// Prints the report as one JSON line too, at the end.
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum Metrics {
    /// Heart rate of one watch.
    #[value(name = "heart_rate")]
    HeartRate,
    /// Eight metrics of a watch and a phone, mixed.
    #[value(name = "fleet")]
    Fleet,
}

impl Ingest {
    pub(crate) fn run(&self) -> Outcome {
        let server = self.server()?;
        let scenario = self.scenario()?;
        let live = Arc::new(Live::new());
        let report = runtime(self.threads)?.block_on(loadtest::run(scenario, &server, &live, pending()))?;
        Ok(print(&report, self.json.then(|| report.to_json()), report.is_sound()))
    }

    pub(crate) fn server(&self) -> Result<Server, ClientError> {
        Server::new(&self.url, &self.key)
    }

    pub(crate) fn scenario(&self) -> Result<Scenario, loadtest::FleetError> {
        let now = SystemTime::now();
        let start = now.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
        let run_prefix = self.run_prefix.clone().unwrap_or_else(|| start.to_string());
        let fleet = Fleet::prepare(&FleetSettings {
            users: self.users,
            points: self.points,
            mix: match self.metrics {
                Metrics::HeartRate => Mix::HeartRate,
                Metrics::Fleet => Mix::Fleet,
            },
            seed: self.seed,
            ..FleetSettings::new(run_prefix, now)
        })?;
        let duration = Duration::from_secs_f64(self.seconds);
        Ok(Scenario {
            warmup: Duration::from_secs_f64(self.warmup_seconds),
            batches_max: self.batches,
            rate_samples_per_second: self.rate,
            probe_interval: self.probe.then(|| Duration::from_millis(self.probe_interval_ms)),
            ..Scenario::new(fleet, self.connections, duration)
        })
    }
}
