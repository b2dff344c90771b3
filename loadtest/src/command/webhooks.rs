//! `loadtest webhooks`: a fleet against a server, and the webhooks that come of it.

use std::future::pending;
use std::sync::Arc;
use std::time::Duration;

use clap::Args;
use loadtest::{DeliveryScenario, Dialect, Live, ReceiverSettings, delivery};

use super::ingest::Ingest;
use super::{Outcome, print, runtime, seconds};

#[derive(Debug, Args)]
pub(crate) struct Webhooks {
    #[command(flatten)]
    ingest: Ingest,
    /// Endpoints, each for everything: with n of them each sample is delivered n times.
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..=1_000))]
    endpoints: u16,
    /// How events are signed: standard or avycenna.
    #[arg(long, default_value_t = Dialect::Standard)]
    dialect: Dialect,
    /// Threads of the receiver.
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..=64))]
    receiver_threads: u16,
    /// How long deliveries may take once the load has ended.
    #[arg(long, default_value_t = 30.0, value_parser = seconds)]
    drain_seconds: f64,
}

impl Webhooks {
    pub(crate) fn run(&self) -> Outcome {
        let server = self.ingest.server()?;
        let defaults = DeliveryScenario::new(self.ingest.scenario()?);
        let scenario = DeliveryScenario {
            endpoints: self.endpoints.into(),
            dialect: self.dialect,
            receiver: ReceiverSettings { threads: self.receiver_threads.into(), ..defaults.receiver },
            patience: Duration::from_secs_f64(self.drain_seconds),
            ..defaults
        };
        let live = Arc::new(Live::new());
        let running = delivery::run(scenario, &server, &live, pending());
        let report = runtime(self.ingest.threads)?.block_on(running)?;
        Ok(print(&report, self.ingest.json.then(|| report.to_json()), report.is_sound()))
    }
}
