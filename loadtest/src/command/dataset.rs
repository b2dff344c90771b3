//! `loadtest dataset`: the data set that reads are judged by.

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::Args;
use loadtest::dataset::{Dataset as Data, DatasetSettings};
use loadtest::feed::{Fed, Progress, feed, feed_on};
use loadtest::observe::{Exposition, compact};
use loadtest::report::grouped;
use serde_json::json;

use super::{Outcome, Target, date, runtime, today, write_json};

const TICK: Duration = Duration::from_secs(10);

#[derive(Debug, Args)]
pub(crate) struct Dataset {
    #[command(flatten)]
    target: Target,
    /// Users.
    #[arg(long, default_value_t = 20_000)]
    users: u64,
    /// Heart-rate samples of each, evenly over 30 days; 19 other metrics add a fifth.
    #[arg(long, default_value_t = 5_000)]
    samples: u64,
    /// Connections, each with one request in flight.
    #[arg(long, default_value_t = 64)]
    connections: usize,
    /// Seed of the values.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Begins every user id.
    #[arg(long, default_value = "data")]
    prefix: String,
    /// The day behind the last one (2026-07-01), UTC; by default today.
    #[arg(long, value_parser = date)]
    end_date: Option<u64>,
    /// Keeps in this file how far it came, and goes on from there.
    #[arg(long)]
    progress: Option<PathBuf>,
    /// Brings everything into its periods at the end (needs an operator's key).
    #[arg(long)]
    compact: bool,
    /// Threads of the load generator.
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..=64))]
    threads: u16,
    /// Writes the report to this file as JSON.
    #[arg(long)]
    json: Option<PathBuf>,
}

impl Dataset {
    pub(crate) fn run(&self) -> Outcome {
        runtime(self.threads)?.block_on(self.drive())
    }

    async fn drive(&self) -> Outcome {
        let server = self.target.server()?;
        let data = Data::new(DatasetSettings {
            users: self.users,
            samples: self.samples,
            seed: self.seed,
            end_second: self.end_date.unwrap_or_else(today),
            prefix: self.prefix.clone(),
        })?;
        let (bodies, points, identity) = (data.bodies(), data.points(), data.identity());
        println!("data set  {} samples in {} bodies", grouped(points), grouped(bodies));
        let progress = self.progress.as_deref().map(|path| Progress::open(path, identity.clone()));
        let progress = progress.transpose()?;
        let done = progress.as_ref().map_or(0, Progress::bodies_done);
        let mut before = Fed::default();
        let mut tick = |fed: &Fed, elapsed: Duration| {
            println!(
                "{:>3} %  {} samples, {} samples/s, {} put off, {} s",
                (done + fed.bodies) * 100 / bodies,
                grouped(fed.points),
                grouped((fed.points - before.points) / TICK.as_secs()),
                grouped(fed.put_off),
                elapsed.as_secs()
            );
            before = *fed;
        };
        let source = data.source(done);
        let report = match progress {
            Some(progress) => {
                println!("resumes   at body {}", grouped(done));
                feed_on(source, progress, &server, self.connections, TICK, &mut tick).await?
            }
            None => feed(source, &server, self.connections, TICK, &mut tick).await?,
        };
        println!(
            "sent      {} samples in {:.1} s, {}/s, {} MB; {} put off, {} connections lost",
            grouped(report.fed.points),
            report.elapsed.as_secs_f64(),
            grouped(report.points_per_second() as u64),
            grouped(report.fed.bytes / 1_000_000),
            grouped(report.fed.put_off),
            grouped(report.fed.connections_lost)
        );
        if self.compact {
            compact(&server).await?;
        }
        let store = Exposition::fetch(&server).await?.store();
        println!("store     {store}");
        let json = json!({
            "data_set": identity,
            "samples": report.fed.points,
            "seconds": report.elapsed.as_secs_f64(),
            "samples_per_second": report.points_per_second().round(),
            "put_off": report.fed.put_off,
            "store": store.to_json(),
        });
        write_json(self.json.as_deref(), &json)?;
        Ok(ExitCode::SUCCESS)
    }
}
