//! One attempt: open, sign, send, judge.

use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;

use super::render::{ENVELOPE_BYTES, render};
use super::{Job, Lane, LaneConfig, now_ms};
use crate::client::Answer;
use crate::dispatcher::Shared;
use crate::event::{EventKind, Payload, PayloadFault};

/// Longest pause that a receiver may ask for: the last of the standard schedule.
const RETRY_AFTER_MAX: Duration = Duration::from_secs(10 * 3600);

/// What came of an attempt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// 2xx.
    Delivered,
    /// Anything else; perhaps with a wish for patience.
    Failed {
        /// What the receiver asked for.
        retry_after: Option<Duration>,
    },
    /// 410: the receiver wants nothing any more.
    SwitchedOff,
    /// The endpoint's settings no longer want the event.
    Unwanted,
    /// The payload is no longer there.
    Gone,
    /// The server is stopping; the event stays undecided.
    Parked,
}

pub(super) async fn deliver(shared: &Shared, lane: &Lane, job: &Job) -> Outcome {
    let payload = match open(shared, job).await {
        Ok(payload) => payload,
        Err(PayloadFault::Gone) => return Outcome::Gone,
        Err(PayloadFault::Unreadable) => return Outcome::Failed { retry_after: None },
    };
    let config = lane.config.load_full();
    if config.settings.user_id.as_deref().is_some_and(|user| payload.user() != Some(user)) {
        // The endpoint was bound to another user since.
        return Outcome::Unwanted;
    }
    let topic = shared.topics.get(payload.topic());
    let Some(name) = topic.name_for(&config.settings, job.place.kind) else {
        return Outcome::Unwanted;
    };
    let id = shared.ids.seal(job.place, 0);
    // Taken before the body is made: bodies in flight are what deliveries hold.
    let bytes = payload.data_bytes() + ENVELOPE_BYTES;
    let Some(_memory) = shared.memory(bytes, lane.is_failing()).await else {
        return Outcome::Parked;
    };
    if payload.is_erased() {
        // While it waited for memory.
        return Outcome::Gone;
    }
    let body = render(lane, &config, &id, name, payload.as_ref());
    let started = Instant::now();
    let answer = post(shared, &config, &id, body).await;
    let (outcome, status) = judge(&answer);
    shared.counters.observe(started.elapsed(), &outcome);
    let ms = started.elapsed().as_secs_f64() * 1e3;
    let (endpoint, attempt) = (&*lane.id, job.attempts + 1);
    match answer {
        Err(fault) => tracing::info!(endpoint, id, attempt, ms, %fault, "delivery failed"),
        Ok(_) if outcome == Outcome::Delivered => {
            tracing::debug!(endpoint, id, attempt, status, ms, "delivered");
        }
        Ok(_) => tracing::info!(endpoint, id, attempt, status, ms, "delivery failed"),
    }
    outcome
}

/// Reads the payload, on a thread that may block unless it lies in memory.
async fn open(shared: &Shared, job: &Job) -> Result<Box<dyn Payload>, PayloadFault> {
    let (place, decided_at) = (job.place, job.decided_at);
    let at_hand = |sequence| shared.source.is_at_hand(sequence);
    if at_hand(place.sequence) && (decided_at == place.sequence || at_hand(decided_at)) {
        return shared.source.open(place, decided_at);
    }
    let source = shared.source.clone();
    let opened = tokio::task::spawn_blocking(move || source.open(place, decided_at)).await;
    opened.unwrap_or(Err(PayloadFault::Unreadable))
}

async fn post(
    shared: &Shared,
    config: &LaneConfig,
    id: &str,
    body: Vec<u8>,
) -> Result<Answer, crate::client::PostFault> {
    let mut headers = config.headers.clone();
    let unix_seconds = u64::try_from(now_ms() / 1000).unwrap_or_default();
    config.signer.sign(id, unix_seconds, &body, &mut headers);
    shared.client.post(&config.target, headers, Bytes::from(body), config.settings.timeout()).await
}

fn judge(answer: &Result<Answer, crate::client::PostFault>) -> (Outcome, u16) {
    let Ok(answer) = answer else {
        return (Outcome::Failed { retry_after: None }, 0);
    };
    let status = answer.status.as_u16();
    let outcome = match status {
        200..=299 => Outcome::Delivered,
        410 => Outcome::SwitchedOff,
        429 | 503 => {
            Outcome::Failed { retry_after: answer.retry_after.map(|pause| pause.min(RETRY_AFTER_MAX)) }
        }
        _ => Outcome::Failed { retry_after: None },
    };
    (outcome, status)
}

/// Sends an example to one endpoint, once, whatever it subscribes to.
pub(crate) async fn post_example(
    shared: &Shared,
    lane: &Arc<Lane>,
    id: String,
    name: Option<String>,
    payload: Box<dyn Payload>,
) {
    let config = lane.config();
    let topic = shared.topics.get(payload.topic());
    let own = topic.name_for(&config.settings, EventKind::Created).map(str::to_owned);
    let name = name.or(own).or_else(|| topic.names().next().map(str::to_owned)).unwrap_or_default();
    let body = render(lane, &config, &id, &name, payload.as_ref());
    let answer = post(shared, &config, &id, body).await;
    let endpoint = &*lane.id;
    match answer {
        Ok(answer) => tracing::info!(endpoint, id, status = answer.status.as_u16(), "test event sent"),
        Err(fault) => tracing::info!(endpoint, id, %fault, "test event failed"),
    }
}
