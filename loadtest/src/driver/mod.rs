//! Runs a fleet against a server: up to 10,000 connections, one task and one
//! request in flight each, until a time, a number of batches or a stop signal.
//!
//! ```text
//! schedule -- batch number, due time --> worker -- POST, 200 --> live counters
//!  (one)                                 (one per connection)    written batches
//!                                                                      |
//!                                        probe x 2 <-- a written user -'
//! ```
//!
//! A run opens every connection, then goes through four phases; rate and
//! percentiles are those of the second alone, everything else is of the whole.
//!
//! ```text
//! warmup -> measured -> draining (what is in flight, 5 s at most) -> cut
//! ```
//!
//! A batch is sent until the server decided on it: 200 acknowledges it, 429 and
//! 503 are waited out (`Retry-After`, 1 s at most), a lost connection is opened
//! again, any other status rejects it. A status that repeating cannot heal (401,
//! 403, 404, 405) ends the worker.
//!
//! Latency is what the sender of a batch waits for: from its first sending (or
//! from its due time, where a paced run is late) to its 200, waits and
//! reconnects included.

mod ledger;
mod live;
mod probe;
mod schedule;
mod worker;

use std::future::Future;
use std::panic::resume_unwind;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, timeout};

use crate::client::{ClientError, Connection, Server};
use crate::fleet::Fleet;
use crate::report::Report;
pub use ledger::Ledger;
pub use live::{Live, LiveCounts};
use probe::{Probe, ProbeTally, Question};
use schedule::Schedule;
pub(crate) use worker::accepted;
use worker::{Tally, Worker};

/// Sockets of a run stay below the usual limits of ports and open files.
const CONNECTIONS_MAX: usize = 10_000;
/// Longer than a loaded server takes to answer what it has begun.
const DRAIN_DEFAULT: Duration = Duration::from_secs(5);

/// What to run.
#[derive(Debug)]
pub struct Scenario {
    /// Users and bodies.
    pub fleet: Arc<Fleet>,
    /// Connections that send, 1 to 10,000.
    pub connections: usize,
    /// Load before the figures begin.
    pub warmup: Duration,
    /// Length of the measured phase; `None` runs until the stop signal.
    pub duration: Option<Duration>,
    /// How long requests in flight may still be answered after the end.
    pub drain: Duration,
    /// Ends the run after so many batches.
    pub batches_max: Option<u64>,
    /// Samples a second offered by all connections together; `None` sends the
    /// next batch as soon as the last one was answered.
    pub rate_samples_per_second: Option<u64>,
    /// Reads beside the load, one such pause after the other; `None` for none.
    pub probe_interval: Option<Duration>,
    /// Where the fate of each batch is written down; `None` for nowhere.
    pub ledger: Option<Arc<Ledger>>,
}

impl Scenario {
    /// A saturating run of `duration` after 1 s of warm-up, without probes.
    pub fn new(fleet: impl Into<Arc<Fleet>>, connections: usize, duration: Duration) -> Self {
        Self {
            fleet: fleet.into(),
            connections,
            warmup: Duration::from_secs(1),
            duration: Some(duration),
            drain: DRAIN_DEFAULT,
            batches_max: None,
            rate_samples_per_second: None,
            probe_interval: None,
            ledger: None,
        }
    }
}

/// Why a run did not begin.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DriverError {
    /// No connections, or more than a machine has ports for.
    #[error("a run has 1 to {CONNECTIONS_MAX} connections, not {connections}")]
    Connections {
        /// What was asked for.
        connections: usize,
    },
    /// A rate of nothing would never send.
    #[error("a rate is at least 1 sample a second")]
    Rate,
    /// Time between probes.
    #[error("a probe interval is at least 1 ms")]
    ProbeInterval,
    /// The server was not there at the start.
    #[error("connection {number} of {connections} was not opened")]
    Open {
        /// Which one, from 1.
        number: usize,
        /// Of how many, probes included.
        connections: usize,
        /// What went wrong.
        #[source]
        source: ClientError,
    },
}

/// Where a run stands; phases only follow each other.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum Phase {
    /// Sending, not measured. A run that was not begun stands here too.
    #[default]
    Warmup,
    /// Sending and measured.
    Measured,
    /// Waiting for what is in flight.
    Draining,
    /// Leaving what is still in flight.
    Cut,
}

/// What every task of a run reads.
struct Shared {
    scenario: Scenario,
    server: Server,
    schedule: Schedule,
    live: Arc<Live>,
}

/// Runs `scenario` against `server` until its end or until `stop` completes,
/// whichever is first, and reports. `live` counts meanwhile; it should be new.
///
/// An error means that nothing was sent: what goes wrong later is in the report.
pub async fn run(
    scenario: Scenario,
    server: &Server,
    live: &Arc<Live>,
    stop: impl Future<Output = ()>,
) -> Result<Report, DriverError> {
    check(&scenario)?;
    let connections = open(&scenario, server).await?;
    let shared = Arc::new(Shared {
        schedule: Schedule::new(&scenario),
        scenario,
        server: server.clone(),
        live: Arc::clone(live),
    });
    let mut crew = Crew::start(&shared, connections, &live.phases());
    let measured = crew.conduct(&shared.scenario, live, pin!(stop)).await;
    Ok(crew.report(&shared, measured))
}

fn check(scenario: &Scenario) -> Result<(), DriverError> {
    let connections = scenario.connections;
    if !(1..=CONNECTIONS_MAX).contains(&connections) {
        return Err(DriverError::Connections { connections });
    }
    if scenario.rate_samples_per_second == Some(0) {
        return Err(DriverError::Rate);
    }
    let interval = scenario.probe_interval;
    if interval.is_some_and(|pause| pause < Duration::from_millis(1)) {
        return Err(DriverError::ProbeInterval);
    }
    Ok(())
}

/// Opens the connections of the workers, and behind them those of the probes.
async fn open(scenario: &Scenario, server: &Server) -> Result<Vec<Connection>, DriverError> {
    let probes = scenario.probe_interval.map_or(0, |_| Question::ALL.len());
    let connections = scenario.connections + probes;
    let mut opened = Vec::with_capacity(connections);
    for number in 1..=connections {
        let connection =
            server.connect().await.map_err(|source| DriverError::Open { number, connections, source })?;
        opened.push(connection);
    }
    Ok(opened)
}

/// The tasks of a run, and what those that ended brought home.
struct Crew {
    workers: JoinSet<Tally>,
    probes: JoinSet<ProbeTally>,
    tally: Tally,
    probe_tallies: Vec<ProbeTally>,
}

impl Crew {
    fn start(
        shared: &Arc<Shared>,
        mut connections: Vec<Connection>,
        phases: &watch::Receiver<Phase>,
    ) -> Self {
        let mut crew = Self {
            workers: JoinSet::new(),
            probes: JoinSet::new(),
            tally: Tally::default(),
            probe_tallies: Vec::new(),
        };
        let of_probes = connections.split_off(shared.scenario.connections);
        for connection in connections {
            let worker = Worker::new(Arc::clone(shared), connection, phases.clone());
            crew.workers.spawn(worker.run());
        }
        let pause = shared.scenario.probe_interval.unwrap_or_default();
        for (question, connection) in Question::ALL.into_iter().zip(of_probes) {
            let probe = Probe::new(Arc::clone(shared), question, connection, phases.clone());
            crew.probes.spawn(probe.run(pause));
        }
        crew
    }

    /// Leads the tasks through the phases; returns the length of the measured one.
    async fn conduct(
        &mut self,
        scenario: &Scenario,
        live: &Live,
        mut stop: Pin<&mut impl Future<Output = ()>>,
    ) -> Duration {
        let mut measured = Duration::ZERO;
        if self.goes_on(Some(scenario.warmup), stop.as_mut()).await {
            live.enter(Phase::Measured);
            let begin = Instant::now();
            self.goes_on(scenario.duration, stop).await;
            measured = begin.elapsed();
        }
        live.enter(Phase::Draining);
        if timeout(scenario.drain, self.gather()).await.is_err() {
            live.enter(Phase::Cut);
            self.gather().await;
        }
        measured
    }

    /// Waits for `time`. False if the run ended before: by its stop signal, or
    /// because every worker is done.
    async fn goes_on(&mut self, time: Option<Duration>, stop: Pin<&mut impl Future<Output = ()>>) -> bool {
        if time == Some(Duration::ZERO) {
            return true;
        }
        tokio::select! {
            () = sleep(time.unwrap_or(Duration::MAX)) => true,
            () = stop => false,
            () = self.gather_workers() => false,
        }
    }

    async fn gather(&mut self) {
        self.gather_workers().await;
        while let Some(ended) = self.probes.join_next().await {
            let tally = ended.unwrap_or_else(|error| resume_unwind(error.into_panic()));
            self.probe_tallies.push(tally);
        }
    }

    async fn gather_workers(&mut self) {
        while let Some(ended) = self.workers.join_next().await {
            let tally = ended.unwrap_or_else(|error| resume_unwind(error.into_panic()));
            self.tally.merge(tally);
        }
    }

    fn report(mut self, shared: &Shared, measured: Duration) -> Report {
        self.probe_tallies.sort_by_key(|tally| tally.question());
        let counts = shared.live.counts();
        let scenario = &shared.scenario;
        Report {
            url: shared.server.url(),
            connections: scenario.connections,
            points: scenario.fleet.points(),
            mix: scenario.fleet.mix(),
            rate_samples_per_second: scenario.rate_samples_per_second,
            warmup: scenario.warmup,
            measured,
            samples_measured: self.tally.samples_measured,
            latency: self.tally.latency.percentiles(),
            samples_acknowledged: counts.samples_acknowledged,
            samples_unsure: self.tally.samples_unsure,
            statuses: self.tally.statuses,
            requests_sent: counts.requests_sent,
            bytes_sent: counts.bytes_sent,
            connections_lost: counts.connections_lost,
            reconnects_failed: self.tally.reconnects_failed,
            answers_wrong: self.tally.answers_wrong,
            first_error: self.tally.first_error.map(|error| error.text),
            probes: self.probe_tallies.into_iter().map(ProbeTally::report).collect(),
        }
    }
}
