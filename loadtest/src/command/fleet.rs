//! `loadtest fleet`: the reference fleet against a server, its figures, and whether
//! what it stored is what was sent.

use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use clap::Args;
use loadtest::feed::{Fed, FeedReport, FleetSent, FleetSource};
use loadtest::fleet::reference::{ReferenceFleet, ReferenceSettings};
use loadtest::observe::{Exposition, Memory, StoreFigures, compact, flush};
use loadtest::report::{error_chain, grouped};
use loadtest::{Server, verify};
use serde_json::json;

use super::{Outcome, Target, date, runtime, share, today, write_json};

const HOURS_PER_DAY: u64 = 24;

#[derive(Debug, Args)]
pub(crate) struct Fleet {
    #[command(flatten)]
    target: Target,
    /// Users from the start; a hundredth joins each day in addition, with history.
    #[arg(long, default_value_t = 1_000_000, value_parser = clap::value_parser!(u64).range(1..=100_000_000))]
    users: u64,
    /// Simulated days.
    #[arg(long, default_value_t = 30, value_parser = clap::value_parser!(u64).range(1..=3_650))]
    days: u64,
    /// How much of every series is sent: 1 is about 4,400 samples a user and day,
    /// 0.001 about 4.
    #[arg(long, default_value_t = 0.001, value_parser = share)]
    density: f64,
    /// Simulated seconds a second (3600: an hour a second); without it, as fast as
    /// the server takes it.
    #[arg(long)]
    speed: Option<f64>,
    /// Connections, each with one request in flight.
    #[arg(long, default_value_t = 64)]
    connections: usize,
    /// Points of a body at most; a server takes 500 unless configured otherwise.
    #[arg(long, default_value_t = 500, value_parser = clap::value_parser!(u64).range(1..=10_000))]
    points: u64,
    /// Seed of everything.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Begins every user id; another one makes other users.
    #[arg(long, default_value = "fleet")]
    prefix: String,
    /// The first simulated day (2026-06-01), UTC; by default so that the last one
    /// is yesterday.
    #[arg(long, value_parser = date)]
    start_date: Option<u64>,
    /// Brings everything into its periods at the end (needs an operator's key).
    #[arg(long)]
    compact: bool,
    /// Users whose series are compared with what was sent, to the last value; 0 for none.
    #[arg(long, default_value_t = 200)]
    verify_users: u64,
    /// Compares only, after a run with the same settings that sent everything.
    #[arg(long)]
    verify_only: bool,
    /// The server's process, to report its memory.
    #[arg(long)]
    pid: Option<u32>,
    /// Seconds between two lines of progress.
    #[arg(long, default_value_t = 10, value_parser = clap::value_parser!(u64).range(1..=3_600))]
    progress_seconds: u64,
    /// Threads of the load generator.
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..=64))]
    threads: u16,
    /// Writes the report to this file as JSON.
    #[arg(long)]
    json: Option<PathBuf>,
}

impl Fleet {
    pub(crate) fn run(&self) -> Outcome {
        let server = self.target.server()?;
        let start_second = self.start_date.unwrap_or_else(|| today() - self.days * 86_400);
        let fleet = Arc::new(ReferenceFleet::new(&ReferenceSettings {
            users: self.users,
            density: self.density,
            seed: self.seed,
            start_hour: start_second / 3_600,
            prefix: self.prefix.clone(),
        })?);
        runtime(self.threads)?.block_on(self.drive(&fleet, &server))
    }

    async fn drive(&self, fleet: &Arc<ReferenceFleet>, server: &Server) -> Outcome {
        let mut report = json!({
            "users": self.users,
            "days": self.days,
            "density": self.density,
            "seed": self.seed,
            "start_hour": fleet.start_hour(),
        });
        if !self.verify_only {
            let (fed, sent) = self.push(fleet, server).await?;
            report["sent"] = sent_json(&fed, &sent);
            report["stores"] = self.stores(server, &sent).await?;
        }
        let verified = self.verify(fleet, server).await?;
        if let Some(memory) = self.pid.and_then(Memory::of) {
            println!("memory    {memory}");
            report["memory"] = memory.to_json();
        }
        report["verified"] = json!(verified);
        write_json(self.json.as_deref(), &report)?;
        Ok(if verified == Some(false) { ExitCode::FAILURE } else { ExitCode::SUCCESS })
    }

    async fn push(
        &self,
        fleet: &Arc<ReferenceFleet>,
        server: &Server,
    ) -> Result<(FeedReport, Arc<FleetSent>), Box<dyn std::error::Error>> {
        let hours = self.days * HOURS_PER_DAY;
        let source = FleetSource::new(Arc::clone(fleet), hours, self.points, self.speed);
        let sent = source.sent();
        let every = Duration::from_secs(self.progress_seconds);
        let mut before = Fed::default();
        let tick = |fed: &Fed, elapsed: Duration| {
            let done = sent.hours();
            println!(
                "day {:>4} {:02}:00  {} samples, {} samples/s, {} put off, {} s",
                done / HOURS_PER_DAY,
                done % HOURS_PER_DAY,
                grouped(fed.points),
                grouped((fed.points - before.points) / every.as_secs()),
                grouped(fed.put_off),
                elapsed.as_secs()
            );
            before = *fed;
        };
        let report = loadtest::feed::feed(source, server, self.connections, every, tick).await?;
        let users = fleet.users_at(fleet.start_hour() + hours - 1);
        println!(
            "sent      {} samples ({}) of {} users in {:.1} s, {}/s",
            grouped(report.fed.points),
            sent,
            grouped(users),
            report.elapsed.as_secs_f64(),
            grouped(report.points_per_second() as u64)
        );
        println!(
            "requests  {} bodies, {} MB; {} put off, {} connections lost; p50 {:.2} ms, p99 {:.2} ms",
            grouped(report.fed.bodies),
            grouped(report.fed.bytes / 1_000_000),
            grouped(report.fed.put_off),
            grouped(report.fed.connections_lost),
            report.latency.p50 as f64 / 1_000.0,
            report.latency.p99 as f64 / 1_000.0
        );
        Ok((report, sent))
    }

    /// What the store says after the load, after a flush, and after compaction.
    async fn stores(
        &self,
        server: &Server,
        sent: &FleetSent,
    ) -> Result<serde_json::Value, Box<dyn std::error::Error>> {
        let mut all = json!({});
        all["loaded"] = show(server, "loaded", sent).await?;
        match flush(server).await {
            Ok(()) => all["flushed"] = show(server, "flushed", sent).await?,
            Err(error) => println!("store     not flushed: {}", error_chain(&error)),
        }
        if self.compact {
            let begin = std::time::Instant::now();
            compact(server).await?;
            let seconds = begin.elapsed().as_secs_f64();
            println!("compact   took {seconds:.1} s");
            all["compacted"] = show(server, "compacted", sent).await?;
            all["compact_seconds"] = json!(seconds);
        }
        Ok(all)
    }

    /// Whether it is as it must be; `None` if nobody asked.
    async fn verify(
        &self,
        fleet: &Arc<ReferenceFleet>,
        server: &Server,
    ) -> Result<Option<bool>, Box<dyn std::error::Error>> {
        if self.verify_users == 0 {
            return Ok(None);
        }
        let (hours, count) = (self.days * HOURS_PER_DAY, self.verify_users);
        let verified =
            verify::verify(Arc::clone(fleet), hours, count, self.connections.min(8), server).await?;
        print!("{verified}");
        Ok(Some(verified.is_sound()))
    }
}

async fn show(
    server: &Server,
    name: &str,
    sent: &FleetSent,
) -> Result<serde_json::Value, loadtest::observe::ObserveError> {
    let store: StoreFigures = Exposition::fetch(server).await?.store();
    let each = store.bytes_a_sample(sent.distinct());
    let each_text = each.map_or("?".to_owned(), |bytes| format!("{bytes:.3}"));
    println!("store     {name}: {store}; {each_text} bytes for each sample of this run");
    let mut json = store.to_json();
    json["bytes_a_sample"] = json!(each);
    Ok(json)
}

fn sent_json(report: &FeedReport, sent: &FleetSent) -> serde_json::Value {
    let kinds: serde_json::Map<_, _> =
        sent.kinds().map(|(name, count)| (name.to_owned(), json!(count))).collect();
    json!({
        "samples": report.fed.points,
        "kinds": kinds,
        "distinct": sent.distinct(),
        "bytes": report.fed.bytes,
        "put_off": report.fed.put_off,
        "seconds": report.elapsed.as_secs_f64(),
        "samples_per_second": report.points_per_second().round(),
        "latency_us": { "p50": report.latency.p50, "p99": report.latency.p99 },
    })
}
