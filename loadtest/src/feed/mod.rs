//! Feeds a server bodies that a [`Source`] makes on demand, over keep-alive
//! connections, until all of them are acknowledged.
//!
//! ```text
//! source (one, behind a lock) -- body, path, due --> worker (one per connection)
//!    ^  stages: nothing of the next one is handed out
//!    '-- before everything of this one is acknowledged
//! ```
//!
//! Other than a run of the [`crate::driver`] it ends with its data, not with its
//! time, and gives nothing up: 429 and 503 are waited out as `Retry-After` asks,
//! lost connections are opened again and their body is sent again (which is
//! harmless: the server knows samples by their key). Any other answer ends the
//! feed with an error, because a data set with a hole is none.
//!
//! Memory is a body a connection. Nothing is prepared ahead: a source that makes a
//! million samples a second is not what a run waits for.

mod fleet;
mod progress;
mod worker;

use std::collections::BTreeMap;
use std::panic::resume_unwind;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tokio::task::JoinSet;
use tokio::time::Instant;

use crate::client::{ClientError, Server};
use crate::histogram::{Histogram, Percentiles};
pub use fleet::{FleetSent, FleetSource};
pub use progress::{Progress, ProgressError};
use worker::{Shared, Worker};

/// Sockets of a run stay below the usual limits of ports and open files.
const CONNECTIONS_MAX: usize = 10_000;

/// Makes bodies.
pub trait Source: Send + 'static {
    /// The next body of this stage.
    fn next(&mut self) -> Next;
}

/// What a source says.
#[derive(Debug, Clone)]
pub enum Next {
    /// Send this.
    Body(Body),
    /// Ask again once everything handed out is acknowledged.
    Stage,
    /// There is nothing more.
    End,
}

/// One request.
#[derive(Debug, Clone)]
pub struct Body {
    /// Path with query.
    pub path: Arc<str>,
    /// `{"data_points":[...]}`.
    pub bytes: Bytes,
    /// Points in it; the server must accept as many.
    pub points: u64,
    /// Not to be sent before this, from the feed's start.
    pub due: Option<Duration>,
}

/// Counters at one moment.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Fed {
    /// Bodies acknowledged.
    pub bodies: u64,
    /// Points in them.
    pub points: u64,
    /// Bytes of bodies sent, repeated ones again.
    pub bytes: u64,
    /// Answers 429 and 503.
    pub put_off: u64,
    /// Connections that ended while a request was in flight.
    pub connections_lost: u64,
}

/// What came of a feed.
#[derive(Debug, Clone)]
pub struct FeedReport {
    /// Everything counted.
    pub fed: Fed,
    /// How long it took.
    pub elapsed: Duration,
    /// From sending a body to its 200, waits included.
    pub latency: Percentiles,
    /// Answers by status.
    pub statuses: BTreeMap<u16, u64>,
}

/// Why a feed did not end.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum FeedError {
    /// No connections, or more than a machine has ports for.
    #[error("a feed has 1 to {CONNECTIONS_MAX} connections, not {connections}")]
    Connections {
        /// What was asked for.
        connections: usize,
    },
    /// The server was not there at the start.
    #[error("no connection was opened")]
    Open(#[source] ClientError),
    /// An answer that waiting does not heal.
    #[error("body {number} was answered {status}: {text}")]
    Refused {
        /// Which one, from 0.
        number: u64,
        /// The status.
        status: u16,
        /// The beginning of the answer.
        text: String,
    },
    /// A 200 that does not acknowledge every point.
    #[error("body {number} of {points} points was acknowledged with {text}")]
    Acknowledgement {
        /// Which one, from 0.
        number: u64,
        /// Points in it.
        points: u64,
        /// The beginning of the answer.
        text: String,
    },
    /// Where it stands could not be kept.
    #[error("the progress file was not written")]
    Progress(#[source] ProgressError),
}

/// Sends everything of `source`; `tick` is called about once in `every` meanwhile.
pub async fn feed(
    source: impl Source,
    server: &Server,
    connections: usize,
    every: Duration,
    mut tick: impl FnMut(&Fed, Duration),
) -> Result<FeedReport, FeedError> {
    run(Box::new(source), server, connections, None, every, &mut tick).await
}

/// The same, keeping in a file how far it came. The source begins where
/// [`Progress::bodies_done`] says.
pub async fn feed_on(
    source: impl Source,
    progress: Progress,
    server: &Server,
    connections: usize,
    every: Duration,
    mut tick: impl FnMut(&Fed, Duration),
) -> Result<FeedReport, FeedError> {
    run(Box::new(source), server, connections, Some(progress), every, &mut tick).await
}

async fn run(
    source: Box<dyn Source>,
    server: &Server,
    connections: usize,
    progress: Option<Progress>,
    every: Duration,
    tick: &mut dyn FnMut(&Fed, Duration),
) -> Result<FeedReport, FeedError> {
    if !(1..=CONNECTIONS_MAX).contains(&connections) {
        return Err(FeedError::Connections { connections });
    }
    let first = progress.as_ref().map_or(0, Progress::bodies_done);
    let shared = Arc::new(Shared::new(source, progress, first));
    let mut workers = JoinSet::new();
    for _ in 0..connections {
        let connection = server.connect().await.map_err(FeedError::Open)?;
        workers.spawn(Worker::new(Arc::clone(&shared), server.clone(), connection).run());
    }
    let begin = Instant::now();
    let mut ticks = tokio::time::interval_at(begin + every, every);
    let (mut latency, mut statuses) = (Histogram::new(), BTreeMap::new());
    loop {
        let ended = tokio::select! {
            ended = workers.join_next() => ended,
            _ = ticks.tick() => {
                tick(&shared.fed(), begin.elapsed());
                continue;
            }
        };
        let Some(ended) = ended else { break };
        let tally = ended.unwrap_or_else(|error| resume_unwind(error.into_panic()))?;
        latency.merge(&tally.latency);
        for (status, count) in tally.statuses {
            *statuses.entry(status).or_default() += count;
        }
    }
    shared.save_progress().map_err(FeedError::Progress)?;
    let (fed, elapsed) = (shared.fed(), begin.elapsed());
    Ok(FeedReport { fed, elapsed, latency: latency.percentiles(), statuses })
}

impl FeedReport {
    /// Points acknowledged a second.
    pub fn points_per_second(&self) -> f64 {
        self.fed.points as f64 / self.elapsed.as_secs_f64().max(1e-9)
    }
}
