//! One connection that sends batches, one at a time, until the run ends.
//!
//! It owns its connection, its histogram and its tally; the only things it
//! shares are the schedule, the live counters and the prepared bodies.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use hyper::StatusCode;
use tokio::sync::watch;
use tokio::time::{Instant, sleep_until};

use super::{Phase, Shared};
use crate::client::{Answer, ClientError, Connection};
use crate::fleet::Batch;
use crate::histogram::Histogram;
use crate::report::{error_chain, error_excerpt};

/// A server that asks for more patience is asked again after this.
const RETRY_AFTER_MAX: Duration = Duration::from_secs(1);
/// For a 429 or 503 without `Retry-After`.
const RETRY_AFTER_DEFAULT: Duration = Duration::from_millis(100);
/// For `Retry-After: 0`, so that a refusing server is not asked in a tight loop.
const RETRY_AFTER_MIN: Duration = Duration::from_millis(1);
/// After a rejected batch, for the same reason.
const REJECTED_PAUSE: Duration = Duration::from_millis(10);
/// Reconnecting begins with this pause and doubles it.
const RECONNECT_PAUSE_MIN: Duration = Duration::from_millis(10);
const RECONNECT_PAUSE_MAX: Duration = Duration::from_secs(1);

pub(super) struct Worker {
    shared: Arc<Shared>,
    connection: Connection,
    phases: watch::Receiver<Phase>,
    doubt: Doubt,
    tally: Tally,
}

/// What one worker counted; merged over all of them at the end.
#[derive(Debug, Default)]
pub(super) struct Tally {
    pub(super) latency: Histogram,
    /// Acknowledged in the measured phase.
    pub(super) samples_measured: u64,
    /// Sent, but neither acknowledged nor refused.
    pub(super) samples_unsure: u64,
    pub(super) statuses: BTreeMap<u16, u64>,
    pub(super) reconnects_failed: u64,
    /// Answers 200 that do not acknowledge the whole batch.
    pub(super) answers_wrong: u64,
    pub(super) first_error: Option<FirstError>,
}

/// The earliest failure.
#[derive(Debug, Clone)]
pub(super) struct FirstError {
    at: Instant,
    pub(super) text: String,
}

/// Whether the current batch may have been stored without an acknowledgement.
#[derive(Debug, Default)]
struct Doubt {
    /// The batch that it is about.
    batch: u64,
    in_flight: bool,
    /// An earlier sending of it ended without a decision.
    lost: bool,
}

/// What came of one request.
enum Outcome {
    Acknowledged,
    /// Again after this pause.
    PutOff(Duration),
    /// Decided against the batch; with the status.
    Rejected(StatusCode),
    Lost(ClientError),
}

/// What the worker does after a batch.
#[derive(Debug, PartialEq, Eq)]
enum Next {
    GoOn,
    End,
}

impl Worker {
    pub(super) fn new(shared: Arc<Shared>, connection: Connection, phases: watch::Receiver<Phase>) -> Self {
        Self { shared, connection, phases, doubt: Doubt::default(), tally: Tally::default() }
    }

    pub(super) async fn run(mut self) -> Tally {
        let mut cut = self.phases.clone();
        tokio::select! {
            biased;
            () = self.send_batches() => {}
            _ = cut.wait_for(|phase| *phase == Phase::Cut) => {}
        }
        self.settle();
        self.tally
    }

    async fn send_batches(&mut self) {
        while self.phase() < Phase::Draining {
            let Some(turn) = self.shared.schedule.take() else {
                return;
            };
            let Some(since) = self.await_turn(turn.due).await else {
                return;
            };
            let batch = self.shared.scenario.fleet.batch(turn.number);
            self.doubt.batch = batch.number;
            let next = self.deliver(&batch, since).await;
            self.settle();
            if next == Next::End {
                return;
            }
        }
    }

    fn phase(&self) -> Phase {
        *self.phases.borrow()
    }

    /// Waits until a batch is due. From when its latency counts: a late batch
    /// from its due time, one in time from its sending, so that the coarseness
    /// of our own timer is not charged to the server. `None` if the run ended.
    async fn await_turn(&mut self, due: Option<Instant>) -> Option<Instant> {
        let now = Instant::now();
        match due {
            Some(due) if due > now => self.rest_until(due).await.then(Instant::now),
            Some(due) => Some(due),
            None => Some(now),
        }
    }

    /// Sends one batch until the server decided on it, or the run ended.
    async fn deliver(&mut self, batch: &Batch, since: Instant) -> Next {
        let path = format!("/api/v1/wearables/bulk-ingest?user_id={}", batch.user_id);
        loop {
            match self.send(&path, batch).await {
                Outcome::Acknowledged => {
                    self.acknowledge(batch, since);
                    return Next::GoOn;
                }
                Outcome::PutOff(pause) => {
                    self.shared.live.put_off();
                    if !self.rest_until(Instant::now() + pause).await {
                        return Next::End;
                    }
                }
                Outcome::Rejected(status) => return self.reject(status).await,
                Outcome::Lost(error) => {
                    self.lose(&error);
                    if !self.reconnect().await {
                        return Next::End;
                    }
                }
            }
        }
    }

    async fn send(&mut self, path: &str, batch: &Batch) -> Outcome {
        self.shared.live.sent(batch.body.len());
        self.doubt.in_flight = true;
        let answer = self.connection.post(path, batch.body.clone()).await;
        self.doubt.in_flight = false;
        match answer {
            Ok(answer) => self.judge(&answer),
            Err(error) => Outcome::Lost(error),
        }
    }

    fn judge(&mut self, answer: &Answer) -> Outcome {
        let status = answer.status;
        *self.tally.statuses.entry(status.as_u16()).or_default() += 1;
        let points = self.shared.scenario.fleet.points() as u64;
        if status == StatusCode::OK && accepted(&answer.body) == Some(points) {
            return Outcome::Acknowledged;
        }
        self.tally.note(|| format!("{status}: {}", error_excerpt(&answer.body)));
        match status {
            StatusCode::TOO_MANY_REQUESTS | StatusCode::SERVICE_UNAVAILABLE => {
                let pause = answer.retry_after.unwrap_or(RETRY_AFTER_DEFAULT);
                return Outcome::PutOff(pause.clamp(RETRY_AFTER_MIN, RETRY_AFTER_MAX));
            }
            StatusCode::OK => self.tally.answers_wrong += 1,
            _ => {}
        }
        // 4xx stores nothing; anything else may have stored something.
        self.doubt.lost |= !status.is_client_error();
        Outcome::Rejected(status)
    }

    fn acknowledge(&mut self, batch: &Batch, since: Instant) {
        self.doubt.lost = false;
        let samples = self.shared.scenario.fleet.points() as u64;
        let latency = since.elapsed();
        if let Some(ledger) = &self.shared.scenario.ledger {
            ledger.acknowledge(batch.number);
        }
        self.shared.live.acknowledged(batch.number, samples, latency);
        if self.phase() == Phase::Measured {
            self.tally.samples_measured += samples;
            self.tally.latency.record(latency);
        }
    }

    async fn reject(&mut self, status: StatusCode) -> Next {
        self.shared.live.rejected();
        match status {
            StatusCode::UNAUTHORIZED
            | StatusCode::FORBIDDEN
            | StatusCode::NOT_FOUND
            | StatusCode::METHOD_NOT_ALLOWED => Next::End,
            _ => {
                self.rest_until(Instant::now() + REJECTED_PAUSE).await;
                Next::GoOn
            }
        }
    }

    fn lose(&mut self, error: &ClientError) {
        self.doubt.lost = true;
        self.shared.live.lost();
        self.tally.note(|| error_chain(error));
    }

    /// Opens the connection again, as often as it takes. False if the run ended.
    async fn reconnect(&mut self) -> bool {
        let mut pause = RECONNECT_PAUSE_MIN;
        while self.rest_until(Instant::now() + pause).await {
            match self.shared.server.connect().await {
                Ok(connection) => {
                    self.connection = connection;
                    return true;
                }
                Err(error) => {
                    self.tally.reconnects_failed += 1;
                    self.tally.note(|| error_chain(&error));
                }
            }
            pause = (pause * 2).min(RECONNECT_PAUSE_MAX);
        }
        false
    }

    /// Waits, but not beyond the run's end. False if that came first.
    async fn rest_until(&mut self, time: Instant) -> bool {
        tokio::select! {
            () = sleep_until(time) => true,
            _ = self.phases.wait_for(|phase| *phase >= Phase::Draining) => false,
        }
    }

    /// Closes the books on the current batch.
    fn settle(&mut self) {
        let doubt = std::mem::take(&mut self.doubt);
        if doubt.in_flight || doubt.lost {
            self.tally.samples_unsure += self.shared.scenario.fleet.points() as u64;
            if let Some(ledger) = &self.shared.scenario.ledger {
                ledger.doubt(doubt.batch);
            }
        }
    }
}

impl Tally {
    pub(super) fn merge(&mut self, other: Self) {
        self.latency.merge(&other.latency);
        self.samples_measured += other.samples_measured;
        self.samples_unsure += other.samples_unsure;
        self.reconnects_failed += other.reconnects_failed;
        self.answers_wrong += other.answers_wrong;
        for (status, count) in other.statuses {
            *self.statuses.entry(status).or_default() += count;
        }
        let errors = [self.first_error.take(), other.first_error];
        self.first_error = errors.into_iter().flatten().min_by_key(|error| error.at);
    }

    /// Keeps a failure if it is the first.
    fn note(&mut self, text: impl FnOnce() -> String) {
        self.first_error.get_or_insert_with(|| FirstError { at: Instant::now(), text: text() });
    }
}

/// The number behind `"accepted"` in an answer, without a JSON parser: answers
/// of a saturated run are many and this is all that is wanted of them.
pub(crate) fn accepted(body: &[u8]) -> Option<u64> {
    let key = b"\"accepted\"";
    let at = body.windows(key.len()).position(|window| window == key)?;
    let value = body[at + key.len()..].trim_ascii_start().strip_prefix(b":")?;
    let value = value.trim_ascii_start();
    let digits = value.iter().take_while(|byte| byte.is_ascii_digit()).count();
    str::from_utf8(&value[..digits]).ok()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_accepted_count_is_read_with_any_spacing() {
        for (body, count) in [
            (r#"{"accepted":500}"#, Some(500)),
            (r#"{ "accepted" : 498, "rejected": 2 }"#, Some(498)),
            (r#"{"accepted":"500"}"#, None),
            (r#"{"accepted""#, None),
            (r#"{"rejected":2}"#, None),
            ("", None),
        ] {
            assert_eq!(accepted(body.as_bytes()), count, "{body}");
        }
    }
}
