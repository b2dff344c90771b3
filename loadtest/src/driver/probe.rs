//! Reads beside the load: one connection asks one question about a random user
//! whose batch was acknowledged, one request after the other, a pause apart.
//!
//! An answer without data is a fault of its own kind: what was acknowledged must
//! be visible. Latency counts from the sending; a slow answer delays the probes
//! behind it instead of piling them up.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use hyper::StatusCode;
use tokio::sync::watch;
use tokio::time::{Instant, MissedTickBehavior, interval};

use super::{Phase, Shared};
use crate::client::{Answer, ClientError, Connection};
use crate::histogram::Histogram;
use crate::random::Random;
use crate::report::{ProbeReport, error_chain, error_excerpt};

/// What a probe asks; it is also the seed of the users that it asks about.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Question {
    Latest,
    Metric,
}

impl Question {
    pub(super) const ALL: [Self; 2] = [Self::Latest, Self::Metric];

    fn name(self) -> &'static str {
        match self {
            Self::Latest => "latest",
            Self::Metric => "metric 7 days",
        }
    }

    fn path(self, user_id: &str) -> String {
        match self {
            Self::Latest => format!("/api/v1/wearables/latest?user_id={user_id}"),
            Self::Metric => {
                format!("/api/v1/wearables/metric/heart_rate?days=7&user_id={user_id}")
            }
        }
    }
}

pub(super) struct Probe {
    shared: Arc<Shared>,
    connection: Connection,
    phases: watch::Receiver<Phase>,
    random: Random,
    tally: ProbeTally,
}

/// What one probe counted.
#[derive(Debug)]
pub(super) struct ProbeTally {
    question: Question,
    /// Of answers with data, in the measured phase.
    latency: Histogram,
    statuses: BTreeMap<u16, u64>,
    answers_empty: u64,
    connections_lost: u64,
    first_error: Option<String>,
}

impl Probe {
    pub(super) fn new(
        shared: Arc<Shared>,
        question: Question,
        connection: Connection,
        phases: watch::Receiver<Phase>,
    ) -> Self {
        let tally = ProbeTally {
            question,
            latency: Histogram::new(),
            statuses: BTreeMap::new(),
            answers_empty: 0,
            connections_lost: 0,
            first_error: None,
        };
        Self { shared, connection, phases, random: Random::seeded(question as u64), tally }
    }

    pub(super) async fn run(mut self, pause: Duration) -> ProbeTally {
        let mut cut = self.phases.clone();
        tokio::select! {
            () = self.ask_on(pause) => {}
            _ = cut.wait_for(|phase| *phase == Phase::Cut) => {}
        }
        self.tally
    }

    async fn ask_on(&mut self, pause: Duration) {
        let mut phases = self.phases.clone();
        let mut ticks = interval(pause);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                _ = ticks.tick() => {}
                _ = phases.wait_for(|phase| *phase >= Phase::Draining) => return,
            }
            if let Some(batch) = self.shared.live.written_batch(&mut self.random) {
                let user_id = self.shared.scenario.fleet.user_id_of_batch(batch);
                self.ask(&user_id).await;
            }
        }
    }

    async fn ask(&mut self, user_id: &str) {
        let path = self.tally.question.path(user_id);
        let begin = Instant::now();
        match self.connection.get(&path).await {
            Ok(answer) => self.judge(&answer, user_id, begin.elapsed()),
            Err(error) => self.lose(&error).await,
        }
    }

    fn judge(&mut self, answer: &Answer, user_id: &str, latency: Duration) {
        let status = answer.status;
        *self.tally.statuses.entry(status.as_u16()).or_default() += 1;
        if status != StatusCode::OK {
            let text = || format!("{status}: {}", error_excerpt(&answer.body));
            self.tally.first_error.get_or_insert_with(text);
            return;
        }
        self.shared.live.probed();
        if !has_samples(&answer.body) {
            self.tally.answers_empty += 1;
            let text = || format!("{user_id} was acknowledged, but the answer has no samples");
            self.tally.first_error.get_or_insert_with(text);
            return;
        }
        if *self.phases.borrow() == Phase::Measured {
            self.tally.latency.record(latency);
        }
    }

    /// Opens the connection again; the next tick is the next attempt.
    async fn lose(&mut self, error: &ClientError) {
        self.tally.connections_lost += 1;
        self.tally.first_error.get_or_insert_with(|| error_chain(error));
        if let Ok(connection) = self.shared.server.connect().await {
            self.connection = connection;
        }
    }
}

impl ProbeTally {
    pub(super) fn question(&self) -> Question {
        self.question
    }

    pub(super) fn report(self) -> ProbeReport {
        ProbeReport {
            name: self.question.name(),
            latency: self.latency.percentiles(),
            statuses: self.statuses,
            answers_empty: self.answers_empty,
            connections_lost: self.connections_lost,
            first_error: self.first_error,
        }
    }
}

/// Both answers print the time of every sample that they hold.
fn has_samples(body: &[u8]) -> bool {
    let key = b"\"recorded_at\"";
    body.windows(key.len()).any(|window| window == key)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_with_and_without_samples_are_told_apart() {
        assert!(has_samples(br#"{"latest":{"heart_rate":{"value":62.0,"recorded_at":"x"}}}"#));
        assert!(!has_samples(br#"{"latest":{}}"#));
        assert!(!has_samples(br#"{"metric":"heart_rate","data_points":[]}"#));
    }
}
