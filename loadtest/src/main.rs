//! `loadtest ingest`: drives a running server and prints what it acknowledged.
//!
//! Exit 0 if samples were acknowledged and every answer was right, 1 if not or if
//! the server was not there, 2 for a wrong command line.

use std::future::pending;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use clap::{Args, Parser, Subcommand, ValueEnum};
use loadtest::report::error_chain;
use loadtest::{ApiKey, Fleet, FleetSettings, Live, Mix, Report, Scenario, Server};

/// Load for a Systole server.
#[derive(Debug, Parser)]
#[command(version)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Pushes prepared bulk-ingest bodies over keep-alive connections.
    Ingest(Ingest),
}

#[derive(Debug, Args)]
struct Ingest {
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
    threads: u16,
    /// Prints the report as one JSON line too, at the end.
    #[arg(long)]
    json: bool,
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

fn main() -> ExitCode {
    let Command::Ingest(ingest) = Cli::parse().command;
    match drive(&ingest) {
        Ok(report) => print(&report, ingest.json),
        Err(error) => {
            eprintln!("loadtest: {}", error_chain(&*error));
            ExitCode::FAILURE
        }
    }
}

fn drive(ingest: &Ingest) -> Result<Report, Box<dyn std::error::Error>> {
    let server = Server::new(&ingest.url, &ingest.key)?;
    let scenario = scenario(ingest)?;
    let live = Arc::new(Live::new());
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(ingest.threads.into())
        .enable_all()
        .build()?;
    let report = runtime.block_on(loadtest::run(scenario, &server, &live, pending()))?;
    Ok(report)
}

fn scenario(ingest: &Ingest) -> Result<Scenario, loadtest::FleetError> {
    let now = SystemTime::now();
    let start = now.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
    let run_prefix = ingest.run_prefix.clone().unwrap_or_else(|| start.to_string());
    let fleet = Fleet::prepare(&FleetSettings {
        users: ingest.users,
        points: ingest.points,
        mix: match ingest.metrics {
            Metrics::HeartRate => Mix::HeartRate,
            Metrics::Fleet => Mix::Fleet,
        },
        seed: ingest.seed,
        ..FleetSettings::new(run_prefix, now)
    })?;
    let duration = Duration::from_secs_f64(ingest.seconds);
    Ok(Scenario {
        warmup: Duration::from_secs_f64(ingest.warmup_seconds),
        batches_max: ingest.batches,
        rate_samples_per_second: ingest.rate,
        probe_interval: ingest.probe.then(|| Duration::from_millis(ingest.probe_interval_ms)),
        ..Scenario::new(fleet, ingest.connections, duration)
    })
}

fn print(report: &Report, json: bool) -> ExitCode {
    print!("{report}");
    if json {
        println!("{}", report.to_json());
    }
    if report.is_sound() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// Seconds from 0 to a day, with a fraction.
fn seconds(text: &str) -> Result<f64, String> {
    let day = 0.0..=86_400.0;
    let number: f64 = text.parse().map_err(|_| "not a number of seconds".to_owned())?;
    if day.contains(&number) { Ok(number) } else { Err("not within 0 and 86400 seconds".to_owned()) }
}
