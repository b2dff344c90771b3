//! Stopping, in the order of the data: no new connections, then the requests in
//! flight, then the engine.

use std::time::Duration;

use systole_engine::Engine;
use tokio::sync::watch;
use tokio::task::{JoinHandle, JoinSet};
use tokio::time::{Instant, sleep_until};

/// How often the log says who is still waited for.
const REPORT_EVERY: Duration = Duration::from_secs(2);

/// What a stop left behind.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Drained {
    /// Connections that were cut because they did not end in time.
    pub connections_cut: usize,
}

pub(super) async fn stop(
    engine: &Engine,
    stop: &watch::Sender<bool>,
    accepting: JoinHandle<Drained>,
) -> Drained {
    tracing::info!("draining: no longer accepting connections");
    let _ = stop.send(true);
    let drained = accepting.await.unwrap_or_else(|fault| {
        tracing::error!(%fault, "draining: the accept task failed");
        Drained::default()
    });
    tracing::info!(connections_cut = drained.connections_cut, "draining: requests in flight have ended");
    engine.drain().await;
    tracing::info!("draining: journal synced, engine stopped");
    drained
}

/// Waits until all connections have ended, at most `patience`, then cuts the rest.
pub(super) async fn finish(mut open: JoinSet<()>, patience: Duration) -> Drained {
    let deadline = Instant::now() + patience;
    let mut report = Instant::now() + REPORT_EVERY;
    while !open.is_empty() {
        tokio::select! {
            _ = open.join_next() => {}
            () = sleep_until(deadline) => break,
            () = sleep_until(report) => {
                tracing::info!(connections = open.len(), "draining: waiting for requests in flight");
                report += REPORT_EVERY;
            }
        }
    }
    let drained = Drained { connections_cut: open.len() };
    open.shutdown().await;
    drained
}
