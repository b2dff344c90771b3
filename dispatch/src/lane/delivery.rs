//! One attempt: render, sign, send, judge, record.

use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use hyper::HeaderMap;

use super::job::Job;
use super::render::{ENVELOPE_BYTES, render};
use super::{Lane, LaneConfig};
use crate::attempt::{Attempt, SUCCESS_BODY_BYTES_MAX, Trigger};
use crate::client::{Answer, PostFault};
use crate::dispatcher::Shared;
use crate::event::{Payload, PayloadFault, Place};

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
    /// The payload cannot be read now, which says nothing of the receiver.
    Unreadable,
    /// The server is stopping; the event stays undecided.
    Parked,
}

/// What came of an attempt, and why, if it failed.
pub(super) struct Delivered {
    pub(super) outcome: Outcome,
    pub(super) failure: Option<Box<Failure>>,
}

/// What is announced of a failure that is the last.
#[derive(Debug, Default)]
pub(super) struct Failure {
    pub(super) event_type: Option<String>,
    pub(super) user: Option<Arc<str>>,
    pub(super) status_code: Option<u16>,
    pub(super) error: Option<String>,
}

impl Delivered {
    fn of(outcome: Outcome) -> Delivered {
        Delivered { outcome, failure: None }
    }

    pub(super) fn parked() -> Delivered {
        Delivered::of(Outcome::Parked)
    }

    fn gone() -> Delivered {
        let failure = Failure { error: Some("payload_gone".to_owned()), ..Failure::default() };
        Delivered { outcome: Outcome::Gone, failure: Some(Box::new(failure)) }
    }
}

pub(super) async fn deliver(shared: &Shared, lane: &Lane, job: &Job, trigger: Trigger) -> Delivered {
    let payload = match open(shared, job).await {
        Ok(payload) => payload,
        Err(PayloadFault::Gone) => return Delivered::gone(),
        Err(PayloadFault::Unreadable) => return Delivered::of(Outcome::Unreadable),
    };
    let config = lane.config.load_full();
    if config.settings.user_id.as_deref().is_some_and(|user| payload.user() != Some(user)) {
        // The endpoint was bound to another user since.
        return Delivered::of(Outcome::Unwanted);
    }
    let topic = shared.topics.get(payload.topic());
    let Some(name) = topic.name_for(&config.settings, job.place.kind) else {
        return Delivered::of(Outcome::Unwanted);
    };
    let id = shared.ids.seal(job.place, 0);
    // Taken before the body is made: bodies in flight are what deliveries hold.
    let bytes = payload.data_bytes() + ENVELOPE_BYTES;
    let Some(_memory) = shared.memory(bytes, lane.is_failing()).await else {
        return Delivered::parked();
    };
    if payload.is_erased() {
        // While it waited for memory.
        return Delivered::gone();
    }
    let body = render(lane, &config, &id, name, payload.as_ref());
    let exchange = post(shared, &config, &id, body).await;
    let outcome = judge(&exchange.answer);
    shared.counters.observe(exchange.duration, &outcome);
    let told = Told {
        place: Some(job.place),
        user: payload.user().map(Into::into),
        message: id,
        event_type: name,
        number: job.attempts + 1,
        trigger,
    };
    let failure = record(shared, lane, &config, told, exchange);
    Delivered { outcome, failure }
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

/// A request and what came back.
struct Exchange {
    started_at_ms: i64,
    duration: Duration,
    answer: Result<Answer, PostFault>,
}

async fn post(shared: &Shared, config: &LaneConfig, id: &str, body: Vec<u8>) -> Exchange {
    let mut headers = config.headers.clone();
    let started_at_ms = shared.clock.now_ms();
    let unix_seconds = u64::try_from(started_at_ms / 1000).unwrap_or_default();
    config.signer.sign(id, unix_seconds, &body, &mut headers);
    let started = Instant::now();
    let timeout = config.settings.timeout();
    let answer = shared.client.post(&config.target, headers, Bytes::from(body), timeout).await;
    Exchange { started_at_ms, duration: started.elapsed(), answer }
}

fn judge(answer: &Result<Answer, PostFault>) -> Outcome {
    let Ok(answer) = answer else {
        return Outcome::Failed { retry_after: None };
    };
    match answer.status.as_u16() {
        200..=299 => Outcome::Delivered,
        410 => Outcome::SwitchedOff,
        429 | 503 => {
            Outcome::Failed { retry_after: answer.retry_after.map(|pause| pause.min(RETRY_AFTER_MAX)) }
        }
        _ => Outcome::Failed { retry_after: None },
    }
}

/// What an attempt was about.
struct Told<'a> {
    place: Option<Place>,
    user: Option<Arc<str>>,
    message: String,
    event_type: &'a str,
    number: u32,
    trigger: Trigger,
}

/// Logs and records an attempt; what is to be said if it was the last and failed.
fn record(
    shared: &Shared,
    lane: &Lane,
    config: &LaneConfig,
    told: Told<'_>,
    exchange: Exchange,
) -> Option<Box<Failure>> {
    let Exchange { started_at_ms, duration, answer } = exchange;
    let success = judge(&answer) == Outcome::Delivered;
    let (status_code, error, response_headers, response_body) = match answer {
        Ok(answer) => {
            (Some(answer.status.as_u16()), None, texts(&answer.headers), head(answer.body, success))
        }
        Err(fault) => (None, Some(fault.to_string()), Vec::new(), Bytes::new()),
    };
    let ms = duration.as_secs_f64() * 1e3;
    let (endpoint, id, attempt, trigger) = (&*lane.id, &*told.message, told.number, told.trigger.as_str());
    if success {
        tracing::debug!(endpoint, id, attempt, trigger, status = status_code, ms, "delivered");
    } else {
        tracing::info!(endpoint, id, attempt, trigger, status = status_code, error, ms, "delivery failed");
    }
    let failure = (!success).then(|| {
        Box::new(Failure {
            event_type: Some(told.event_type.to_owned()),
            user: told.user.clone(),
            status_code,
            error: error.clone(),
        })
    });
    shared.deliveries.record(Attempt {
        endpoint: lane.id.clone(),
        org: lane.org.clone(),
        user: told.user,
        place: told.place,
        delivery: told.message.clone(),
        message: told.message,
        event_type: told.event_type.to_owned(),
        number: told.number,
        trigger: told.trigger,
        success,
        status_code,
        error,
        started_at_ms,
        duration,
        url: config.settings.url.clone(),
        response_headers,
        response_body,
    });
    failure
}

/// Headers whose values are text.
fn texts(headers: &HeaderMap) -> Vec<(String, String)> {
    let text = |value: &hyper::header::HeaderValue| value.to_str().ok().map(str::to_owned);
    headers.iter().filter_map(|(name, value)| Some((name.as_str().to_owned(), text(value)?))).collect()
}

/// What is kept of a body. A part of a success is copied, so that it does not hold the
/// whole in memory.
fn head(body: Bytes, success: bool) -> Bytes {
    if success && body.len() > SUCCESS_BODY_BYTES_MAX {
        return Bytes::copy_from_slice(&body[..SUCCESS_BODY_BYTES_MAX]);
    }
    body
}

/// Sends an example to one endpoint, once, whatever it subscribes to.
pub(super) async fn deliver_example(
    shared: &Shared,
    lane: &Lane,
    id: String,
    name: Option<String>,
    payload: Box<dyn Payload>,
) -> Outcome {
    let config = lane.config();
    let topic = shared.topics.get(payload.topic());
    let own = topic.name_for(&config.settings, crate::event::EventKind::Created);
    let name = name.as_deref().or(own).or_else(|| topic.names().next()).unwrap_or_default();
    let body = render(lane, &config, &id, name, payload.as_ref());
    let exchange = post(shared, &config, &id, body).await;
    let outcome = judge(&exchange.answer);
    let user = payload.user().map(Into::into);
    let told = Told { place: None, user, message: id, event_type: name, number: 1, trigger: Trigger::Test };
    record(shared, lane, &config, told, exchange);
    outcome
}
