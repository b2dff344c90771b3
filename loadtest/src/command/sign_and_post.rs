//! `loadtest sign-and-post`: the most that deliveries could reach here.

use std::time::Duration;

use clap::Args;
use loadtest::{CeilingSettings, Dialect, ceiling};

use super::{Outcome, print, runtime, seconds};

#[derive(Debug, Args)]
pub(crate) struct SignAndPost {
    /// How long.
    #[arg(long, default_value_t = 5.0, value_parser = seconds)]
    seconds: f64,
    /// Size of a body; it is filled with whole samples.
    #[arg(long, default_value_t = 95_000)]
    body_bytes: usize,
    /// Connections, each with one delivery in flight.
    #[arg(long, default_value_t = 8, value_parser = clap::value_parser!(u16).range(1..=10_000))]
    connections: u16,
    /// How bodies are signed: standard or avycenna.
    #[arg(long, default_value_t = Dialect::Standard)]
    dialect: Dialect,
    /// Threads that sign and post.
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..=64))]
    threads: u16,
    /// Threads of the receiver.
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..=64))]
    receiver_threads: u16,
    /// Prints the report as one JSON line too, at the end.
    #[arg(long)]
    json: bool,
}

impl SignAndPost {
    pub(crate) fn run(&self) -> Outcome {
        let settings = CeilingSettings {
            body_bytes: self.body_bytes,
            connections: self.connections.into(),
            dialect: self.dialect,
            receiver_threads: self.receiver_threads.into(),
            ..CeilingSettings::new(Duration::from_secs_f64(self.seconds))
        };
        let report = runtime(self.threads)?.block_on(ceiling::run(&settings))?;
        Ok(print(&report, self.json.then(|| report.to_json()), report.is_sound()))
    }
}
