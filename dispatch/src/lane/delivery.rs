//! One attempt: open, sign, send, judge.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;

use super::job::event_place;
use super::render::{Opened, body_bytes, render, render_batch};
use super::{Job, Lane, LaneConfig, now_ms};
use crate::client::Answer;
use crate::dispatcher::Shared;
use crate::event::{EventKind, Payload, PayloadFault, PayloadSource, Place};

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

impl Outcome {
    fn of_fault(fault: PayloadFault) -> Outcome {
        match fault {
            PayloadFault::Gone => Outcome::Gone,
            PayloadFault::Unreadable => Outcome::Failed { retry_after: None },
        }
    }
}

pub(super) async fn deliver(shared: &Shared, lane: &Lane, job: &mut Job) -> Outcome {
    let config = lane.config.load_full();
    let (events, _memory) = loop {
        let events = match open_wanted(shared, &config, job).await {
            Ok(events) => events,
            Err(outcome) => return outcome,
        };
        // Taken before the body is made: bodies in flight are what deliveries hold.
        let Some(memory) = shared.memory(body_bytes(&events), lane.is_failing()).await else {
            return Outcome::Parked;
        };
        // While it waited for memory.
        if !events.iter().any(|event| event.payload.is_erased()) {
            break (events, memory);
        }
    };
    let is_own = job.carried.is_some();
    let id = shared.ids.seal(job.place, if is_own { config.number } else { 0 });
    let body = match events.as_slice() {
        [event] if job.place.kind != EventKind::Batch => {
            let Some(name) = event.name(&config.settings) else { return Outcome::Unwanted };
            render(lane, &config, &id, name, event.payload.as_ref())
        }
        events => render_batch(shared, &config, events),
    };
    let started = Instant::now();
    let answer = post(shared, &config, &id, body).await;
    let (outcome, status) = judge(&answer);
    shared.counters.observe(started.elapsed(), &outcome);
    let ms = started.elapsed().as_secs_f64() * 1e3;
    let (endpoint, attempt) = (lane.id.as_str(), job.attempts + 1);
    match answer {
        Err(fault) => tracing::info!(endpoint, id, attempt, ms, %fault, "delivery failed"),
        Ok(_) if outcome == Outcome::Delivered => {
            tracing::debug!(endpoint, id, attempt, status, ms, "delivered");
        }
        Ok(_) => tracing::info!(endpoint, id, attempt, status, ms, "delivery failed"),
    }
    outcome
}

/// What a job carries and the endpoint still wants; what is gone or unwanted is cut
/// out of it. If nothing is left, what comes of the attempt.
async fn open_wanted(shared: &Shared, config: &LaneConfig, job: &mut Job) -> Result<Vec<Opened>, Outcome> {
    let Some(carried) = &job.carried else {
        let event = open_event(shared, (job.place, false), &[(job.place, job.decided_at)]).await;
        let event = event.map_err(Outcome::of_fault)?;
        return if event.name(&config.settings).is_some() { Ok(vec![event]) } else { Err(Outcome::Unwanted) };
    };
    let carried = carried.clone();
    let (mut events, mut out, mut nothing) = (Vec::new(), BTreeSet::new(), Outcome::Unwanted);
    for (first, members) in carried.events() {
        let places: Vec<(Place, u64)> =
            members.iter().map(|member| (member.place, member.decided_at)).collect();
        match open_event(shared, event_place(members), &places).await {
            Ok(event) if event.name(&config.settings).is_some() => events.push(event),
            Ok(_) => out.extend(first..first + members.len()),
            Err(PayloadFault::Unreadable) => return Err(Outcome::Failed { retry_after: None }),
            Err(PayloadFault::Gone) => {
                nothing = Outcome::Gone;
                for (index, (place, decided_at)) in (first..).zip(&places) {
                    if let Err(PayloadFault::Gone) = open(shared, &[(*place, *decided_at)]).await {
                        out.insert(index);
                    }
                }
                // What is left of it is opened with its new id.
                if out.range(first..first + members.len()).next().is_none() {
                    return Err(Outcome::Failed { retry_after: None });
                }
            }
        }
    }
    if out.is_empty() {
        return Ok(events);
    }
    if out.len() == carried.members.len() {
        return Err(nothing);
    }
    tracing::info!(
        sequence = job.place.sequence,
        events = out.len(),
        "a delivery is cut anew without some events"
    );
    job.cut_anew(&out);
    Box::pin(open_wanted(shared, config, job)).await
}

async fn open_event(
    shared: &Shared,
    (place, is_own): (Place, bool),
    members: &[(Place, u64)],
) -> Result<Opened, PayloadFault> {
    let payload = open(shared, members).await?;
    let topic = shared.topics.get(payload.topic());
    let kind = members.first().map_or(place.kind, |(place, _)| place.kind);
    Ok(Opened { place, is_own, kind, topic, payload })
}

/// Reads a payload, on a thread that may block unless all of it lies in memory.
async fn open(shared: &Shared, members: &[(Place, u64)]) -> Result<Box<dyn Payload>, PayloadFault> {
    let read = |source: &dyn PayloadSource, members: &[(Place, u64)]| match members {
        [(place, decided_at)] => source.open(*place, *decided_at),
        members => source.open_joined(members),
    };
    let at_hand = |sequence| shared.source.is_at_hand(sequence);
    let is_at_hand = |(place, decided_at): &(Place, u64)| {
        at_hand(place.sequence) && (*decided_at == place.sequence || at_hand(*decided_at))
    };
    if members.iter().all(is_at_hand) {
        return read(shared.source.as_ref(), members);
    }
    let (source, members) = (shared.source.clone(), members.to_vec());
    let opened = tokio::task::spawn_blocking(move || read(source.as_ref(), &members)).await;
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
    lane.turn().await;
    let answer = post(shared, &config, &id, body).await;
    let endpoint = lane.id.as_str();
    match answer {
        Ok(answer) => tracing::info!(endpoint, id, status = answer.status.as_u16(), "test event sent"),
        Err(fault) => tracing::info!(endpoint, id, %fault, "test event failed"),
    }
}
