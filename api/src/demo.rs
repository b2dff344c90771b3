//! `systole demo`: the whole product in one command.
//!
//! A server of this process on a temporary folder, a fleet that pushes to it over HTTP
//! and a receiver that verifies what comes back; what they do is `loadtest`'s.

use std::io::{self, IsTerminal as _};

use loadtest::demo::{DemoError, DemoOutcome, DemoSettings};
use loadtest::{ApiKey, demo};
use systole_engine::events::webhooks::Targets;
use tempfile::TempDir;
use tokio::runtime::{Builder, Runtime};
use tracing::level_filters::LevelFilter;

use crate::auth::{RandomFault, Secret, random_key};
use crate::cli::DemoArgs;
use crate::server::{Server, StartFault};
use crate::settings::Settings;

/// Where the demo's receiver may listen.
const THIS_MACHINE: &str = "127.0.0.0/8";

/// Why there was no demo.
#[derive(Debug, thiserror::Error)]
pub enum DemoFault {
    /// No temporary folder.
    #[error("cannot make a temporary data folder")]
    Folder(#[source] io::Error),
    /// No random numbers.
    #[error("cannot make a key")]
    Random(#[from] RandomFault),
    /// The server did not start.
    #[error("the server did not start")]
    Start(#[from] StartFault),
    /// The fleet, the receiver or the comparison failed.
    #[error("the demo broke off")]
    Demo(#[from] DemoError),
    /// The system gives no threads.
    #[error("cannot start the threads of the fleet")]
    Threads(#[source] io::Error),
    /// The fleet's task panicked.
    #[error("the demo was cut off: {0}")]
    CutOff(tokio::task::JoinError),
}

/// What the server of a demo logs: faults only, the figures are for the screen.
#[must_use]
pub fn log_level() -> LevelFilter {
    LevelFilter::ERROR
}

/// Runs a demo until `stop` completes or its time is over.
///
/// # Errors
/// [`DemoFault`]; an outcome that does not agree is none.
pub async fn run(
    args: &DemoArgs,
    stop: impl Future<Output = ()> + Send + 'static,
) -> Result<DemoOutcome, DemoFault> {
    let folder = tempfile::Builder::new().prefix("systole-demo-").tempdir().map_err(DemoFault::Folder)?;
    let key = random_key()?;
    let server = Server::start(settings(&folder, &key)).await?;
    let terminal = io::stdout().is_terminal();
    let settings = DemoSettings {
        seconds: args.seconds,
        users: args.users,
        rate_samples_per_second: args.rate,
        terminal,
        ..DemoSettings::new(server.url(), ApiKey::new(key.expose()))
    };
    // Threads of their own, as a fleet of real devices has.
    let fleet = fleet_runtime().map_err(DemoFault::Threads)?;
    let running = fleet.spawn(async move { demo::run(settings, &mut io::stdout(), stop).await });
    let outcome = running.await.map_err(DemoFault::CutOff)?;
    fleet.shutdown_background();
    server.stop().await;
    Ok(outcome?)
}

fn settings(folder: &TempDir, key: &Secret) -> Settings {
    let mut settings = Settings { admin_key: Some(key.clone()), ..Settings::default() };
    settings.listen.set_port(0);
    settings.data_dir = folder.path().to_owned();
    settings.dispatch.allow_targets = Targets::parse(&[THIS_MACHINE]).unwrap_or_default();
    settings
}

fn fleet_runtime() -> io::Result<Runtime> {
    Builder::new_multi_thread().worker_threads(1).thread_name("fleet").enable_all().build()
}
