//! Ingest at a fixed rate, with and without a heavy SQL scan that is asked again and
//! again: how much longer does an acknowledgement take. The two alternate, so that
//! what else the machine does falls on both.

use std::collections::BTreeMap;
use std::fmt;
use std::future::pending;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use serde_json::{Value, json};
use tokio::time::{Instant, sleep};

use crate::client::{ClientError, Server};
use crate::driver::{DriverError, Live, Phase, Scenario, run};
use crate::fleet::{Fleet, FleetError, FleetSettings};
use crate::histogram::{Histogram, Percentiles};
use crate::report::{Line, Report, error_excerpt, grouped, percentiles_json};

/// What the acknowledgement's p99 may grow to.
pub const P99_RATIO_MAX: f64 = 2.0;
const WARMUP: Duration = Duration::from_secs(2);
/// After an answer that was no answer, so that a refusing server is not pestered.
const REFUSED_PAUSE: Duration = Duration::from_millis(200);
/// Reads every row of the organisation.
pub const HEAVY_SQL: &str = "SELECT metric, count(*) AS samples, avg(value) AS mean, min(value) AS low, \
     max(value) AS high FROM samples GROUP BY metric ORDER BY metric";

/// What to run.
#[derive(Debug, Clone)]
pub struct MixedSettings {
    /// Samples a second.
    pub rate: u64,
    /// Length of one run.
    pub duration: Duration,
    /// Pairs of runs.
    pub rounds: usize,
    /// Connections that ingest.
    pub connections: usize,
    /// What is asked.
    pub sql: String,
    /// Tells the users of one run from those of another.
    pub run_prefix: String,
}

/// The scans beside one run.
#[derive(Debug, Clone, Default)]
pub struct Scans {
    /// From asking to the whole answer, of answers 200.
    pub latency: Histogram,
    /// Answers by status.
    pub statuses: BTreeMap<u16, u64>,
    /// The first failure.
    pub first_error: Option<String>,
}

/// One pair of runs.
#[derive(Debug, Clone)]
pub struct Round {
    /// Without scans.
    pub alone: Report,
    /// With them.
    pub beside: Report,
    /// The scans.
    pub scans: Scans,
}

/// Everything.
#[derive(Debug, Clone)]
pub struct MixedReport {
    /// By rounds.
    pub rounds: Vec<Round>,
}

/// Why a run did not begin.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum MixedError {
    /// No such fleet.
    #[error("the fleet cannot be made")]
    Fleet(#[source] FleetError),
    /// No such run.
    #[error("the run did not begin")]
    Driver(#[source] DriverError),
    /// Nobody to ask.
    #[error("no connection for SQL")]
    Client(#[source] ClientError),
}

/// Runs it; `done` is told of each round.
pub async fn mixed(
    settings: &MixedSettings,
    server: &Server,
    mut done: impl FnMut(&Round),
) -> Result<MixedReport, MixedError> {
    let mut rounds = Vec::new();
    for number in 0..settings.rounds {
        let prefix = |what| format!("{}-{number}{what}", settings.run_prefix);
        let (alone, _) = one(settings, &prefix('a'), server, false).await?;
        let (beside, scans) = one(settings, &prefix('b'), server, true).await?;
        let round = Round { alone, beside, scans };
        done(&round);
        rounds.push(round);
    }
    Ok(MixedReport { rounds })
}

async fn one(
    settings: &MixedSettings,
    prefix: &str,
    server: &Server,
    scanned: bool,
) -> Result<(Report, Scans), MixedError> {
    let fleet = Fleet::prepare(&FleetSettings::new(prefix, SystemTime::now())).map_err(MixedError::Fleet)?;
    let scenario = Scenario {
        rate_samples_per_second: Some(settings.rate),
        warmup: WARMUP,
        ..Scenario::new(fleet, settings.connections, settings.duration)
    };
    let live = Arc::new(Live::new());
    let mut scans = Scans::default();
    let report = {
        let running = run(scenario, server, &live, pending());
        tokio::pin!(running);
        if scanned {
            let scanning = scans.repeat(&settings.sql, server, &live);
            tokio::select! {
                report = &mut running => report,
                scanned = scanning => match scanned {
                    Ok(()) => running.await,
                    Err(error) => return Err(MixedError::Client(error)),
                },
            }
        } else {
            running.await
        }
    };
    Ok((report.map_err(MixedError::Driver)?, scans))
}

impl Scans {
    /// Asks one after the other until the measured phase ends.
    async fn repeat(&mut self, sql: &str, server: &Server, live: &Live) -> Result<(), ClientError> {
        let body = Bytes::from(json!({ "sql": sql }).to_string());
        let phases = live.phases();
        let mut connection = server.connect().await?;
        while *phases.borrow() <= Phase::Measured {
            let since = Instant::now();
            match connection.post("/api/v1/query", body.clone()).await {
                Ok(answer) => {
                    *self.statuses.entry(answer.status.as_u16()).or_default() += 1;
                    if answer.status.is_success() {
                        self.latency.record(since.elapsed());
                    } else {
                        let text = || format!("{}: {}", answer.status, error_excerpt(&answer.body));
                        self.first_error.get_or_insert_with(text);
                        sleep(REFUSED_PAUSE).await;
                    }
                }
                Err(error) => {
                    self.first_error.get_or_insert_with(|| crate::report::error_chain(&error));
                    sleep(REFUSED_PAUSE).await;
                    connection = server.connect().await?;
                }
            }
        }
        Ok(())
    }

    fn to_json(&self) -> Value {
        json!({
            "latency_us": percentiles_json(&self.latency.percentiles()),
            "statuses": self.statuses.iter().map(|(status, count)| (status.to_string(), json!(count)))
                .collect::<serde_json::Map<_, _>>(),
            "first_error": self.first_error,
        })
    }
}

impl Round {
    /// p99 with scans by p99 without.
    pub fn ratio(&self) -> f64 {
        self.beside.latency.p99 as f64 / (self.alone.latency.p99 as f64).max(1.0)
    }
}

impl MixedReport {
    /// The middle one of the rounds' ratios.
    pub fn ratio(&self) -> f64 {
        let mut ratios: Vec<f64> = self.rounds.iter().map(Round::ratio).collect();
        ratios.sort_by(f64::total_cmp);
        ratios.get(ratios.len() / 2).copied().unwrap_or(f64::NAN)
    }

    /// Whether the runs were sound and there was a scan beside each second one.
    pub fn is_sound(&self) -> bool {
        let sound = |round: &Round| {
            round.alone.is_sound() && round.beside.is_sound() && round.scans.latency.count() > 0
        };
        !self.rounds.is_empty() && self.rounds.iter().all(sound)
    }

    /// One JSON object.
    pub fn to_json(&self) -> Value {
        let round = |round: &Round| {
            json!({
                "alone": round.alone.to_json(),
                "beside": round.beside.to_json(),
                "scans": round.scans.to_json(),
                "ratio": round.ratio(),
            })
        };
        let rounds: Vec<Value> = self.rounds.iter().map(round).collect();
        json!({ "rounds": rounds, "ratio": self.ratio(), "sound": self.is_sound() })
    }
}

impl fmt::Display for Round {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let rate = |report: &Report| grouped(report.samples_per_second() as u64);
        writeln!(f, "alone     {} samples/s  {}", rate(&self.alone), Line(&self.alone.latency))?;
        writeln!(f, "with SQL  {} samples/s  {}", rate(&self.beside), Line(&self.beside.latency))?;
        let scans: Percentiles = self.scans.latency.percentiles();
        writeln!(f, "scans     {}; answers {:?}", Line(&scans), self.scans.statuses)?;
        self.scans.first_error.as_ref().map_or(Ok(()), |error| writeln!(f, "error     first: {error}"))
    }
}

impl fmt::Display for MixedReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mark = if self.ratio() <= P99_RATIO_MAX { "kept" } else { "MISSED" };
        let ratios: Vec<String> = self.rounds.iter().map(|round| format!("{:.2}", round.ratio())).collect();
        writeln!(
            f,
            "ratio     p99 with SQL by p99 alone: median {:.2} of {}; wanted <= {P99_RATIO_MAX} {mark}",
            self.ratio(),
            ratios.join(", ")
        )
    }
}
