//! One attempt: render, sign, send, judge, record.

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use hyper::HeaderMap;

use super::carried::event_place;
use super::job::{Job, Origin};
use super::pause::ms;
use super::render::{Opened, body_bytes, render, render_batch};
use super::{Lane, LaneConfig};
use crate::attempt::{Attempt, HEADERS_BYTES_MAX, SUCCESS_BODY_BYTES_MAX, Trigger};
use crate::call::Call;
use crate::client::{ANSWER_BYTES_MAX, Answer, PostFault};
use crate::crew::Crew;
use crate::dispatcher::Shared;
use crate::event::{EventKind, Member, Payload, PayloadFault, PayloadSource, Place};
use crate::memory::Body;
use crate::room::Standing;

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
    /// The endpoint no longer wants the event, or takes none.
    Unwanted,
    /// There is no payload any more: it was erased.
    Gone,
    /// The payload is no longer kept.
    Dropped,
    /// The payload cannot be read now, which says nothing of the receiver.
    Unreadable,
    /// There was no connection to be had now, which says nothing of the receiver either.
    Unsent,
    /// The server is stopping; the event stays undecided.
    Parked,
}

impl Outcome {
    /// Whether the attempt that was recorded succeeded, if one was.
    pub(super) fn succeeded(self) -> Option<bool> {
        match self {
            Outcome::Delivered => Some(true),
            Outcome::Failed { .. } | Outcome::SwitchedOff => Some(false),
            Outcome::Unwanted
            | Outcome::Gone
            | Outcome::Dropped
            | Outcome::Unreadable
            | Outcome::Unsent
            | Outcome::Parked => None,
        }
    }

    /// Whether there was nothing to send any more.
    pub(super) fn is_gone(self) -> bool {
        matches!(self, Outcome::Gone | Outcome::Dropped)
    }

    fn of_fault(fault: PayloadFault) -> Outcome {
        match fault {
            PayloadFault::Gone => Outcome::Gone,
            PayloadFault::Dropped => Outcome::Dropped,
            PayloadFault::Unreadable => Outcome::Unreadable,
        }
    }
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

    pub(super) fn unreadable() -> Delivered {
        Delivered::of(Outcome::Unreadable)
    }

    fn gone(outcome: Outcome) -> Delivered {
        let failure = Failure { error: Some("payload_gone".to_owned()), ..Failure::default() };
        Delivered { outcome, failure: Some(Box::new(failure)) }
    }
}

pub(super) async fn deliver(
    shared: &Shared,
    lane: &Lane,
    job: &mut Job,
    trigger: Trigger,
    crew: &Crew,
) -> Delivered {
    let is_failing = if crew.is_doubtful() { lane.fails_again() } else { lane.is_failing() };
    let standing = crew.standing(is_failing);
    let (config, mut call, events, room) = loop {
        let config = lane.config_for(job);
        let mut call = crew.client(standing).call(config.settings.timeout());
        // Whoever may not answer is called before there is a body, which would hold its
        // memory for as long as nobody takes the call.
        let connected = if crew.is_doubtful() { call.connect(&config.target).await } else { Ok(()) };
        if let Err(fault) = &connected
            && fault.is_ours()
        {
            return unsent(lane, crew, job, fault);
        }
        let erasures = shared.source.erasures();
        let events = match open_wanted(shared, &config, job).await {
            Ok(events) => events,
            Err(outcome) if outcome.is_gone() => return Delivered::gone(outcome),
            Err(outcome) => return Delivered::of(outcome),
        };
        if let Err(fault) = connected {
            break (config, call, events, Err(fault));
        }
        // Taken before the body is made: bodies are what deliveries hold. Its own share
        // first: a receiver that does not read holds no more than that of everybody's.
        let bytes = body_bytes(&events);
        // Nobody waits for it who has a connection.
        let Some(own) = lane.share.take(bytes, || call.hang_up()).await else { return Delivered::parked() };
        let all = shared.memory(standing).take(bytes, || call.hang_up()).await;
        let Some(all) = all else { return Delivered::parked() };
        // While it waited for payload and memory.
        if !lane.is_at(job.generation) {
            return Delivered::of(Outcome::Unwanted);
        }
        let is_as_it_was = Arc::ptr_eq(&config, &lane.config()) && shared.source.erasures() == erasures;
        if is_as_it_was && !events.iter().any(|event| event.payload.is_erased()) {
            break (config, call, events, Ok([own, all]));
        }
    };
    let id: Arc<str> = shared.ids.seal(job.place, if job.is_own() { config.number } else { 0 }).into();
    let about = about(shared, &config, job, &id, &events);
    let exchange = match room {
        Ok(room) => {
            let body = match events.as_slice() {
                [event] if job.place.kind != EventKind::Batch => {
                    let name = event.name(&config.settings);
                    let Some(name) = name else { return Delivered::of(Outcome::Unwanted) };
                    render(lane, &config, &id, name, event.payload.as_ref())
                }
                events => render_batch(shared, &config, events),
            };
            // Nothing long is held while the receiver thinks.
            drop(events);
            post(shared, &mut call, &config, &id, Body::holding(room, body)).await
        }
        Err(fault) => Exchange::failed(shared, &call, fault),
    };
    let mut outcome = judge(&exchange.answer);
    if let (Outcome::Unsent, Err(fault)) = (outcome, &exchange.answer) {
        if job.origin != Origin::Manual {
            return unsent(lane, crew, job, fault);
        }
        // Nobody tries it again: whoever asked for it finds it in the log.
        outcome = Outcome::Failed { retry_after: None };
    }
    shared.counters.observe(exchange.duration);
    let failure =
        record(shared, lane, &config, Told { id, about, number: job.attempts + 1, trigger }, exchange);
    Delivered { outcome, failure }
}

/// There was no connection to be had.
fn unsent(lane: &Lane, crew: &Crew, job: &Job, fault: &PostFault) -> Delivered {
    let (endpoint, sequence) = (&*lane.id, job.place.sequence);
    if crew.is_doubtful() {
        // Those that hang may be many more than the connections they have together.
        tracing::debug!(endpoint, sequence, error = %fault, "a delivery is not sent, to be tried again");
    } else {
        tracing::warn!(endpoint, sequence, error = %fault, "a delivery is not sent, to be tried again");
    }
    Delivered::of(Outcome::Unsent)
}

/// The committed events that a request carries, as attempts are told of.
fn about(shared: &Shared, config: &LaneConfig, job: &Job, id: &Arc<str>, events: &[Opened]) -> Vec<About> {
    let event_type = |event: &Opened| Arc::from(event.name(&config.settings).unwrap_or_default());
    if let (false, [event]) = (job.is_own(), events) {
        let user = event.payload.user().map(Into::into);
        let (place, message) = (Some(job.place), id.clone());
        return vec![About { place, message, event_type: event_type(event), user }];
    }
    let carried = job.members();
    let members = carried.chunk_by(|_, next| next.joined);
    let of_event = |(event, members): (&Opened, &[Member])| {
        let (event_type, user) = (event_type(event), event.payload.user().map(Arc::<str>::from));
        let about = |member: &Member| About {
            place: Some(member.place),
            message: shared.ids.seal(member.place, 0).into(),
            event_type: event_type.clone(),
            user: user.clone(),
        };
        members.iter().map(about).collect::<Vec<_>>()
    };
    events.iter().zip(members).flat_map(of_event).collect()
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
            Err(PayloadFault::Unreadable) => return Err(Outcome::Unreadable),
            Err(fault @ (PayloadFault::Gone | PayloadFault::Dropped)) => {
                // Of which some was dropped, not only erased, that is said.
                nothing = if nothing == Outcome::Dropped { nothing } else { Outcome::of_fault(fault) };
                for (index, (place, decided_at)) in (first..).zip(&places) {
                    if let Err(PayloadFault::Gone | PayloadFault::Dropped) =
                        open(shared, &[(*place, *decided_at)]).await
                    {
                        out.insert(index);
                    }
                }
                // What is left of it is opened with its new id.
                if out.range(first..first + members.len()).next().is_none() {
                    return Err(Outcome::Unreadable);
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

/// A request and what came back.
struct Exchange {
    started_at_ms: i64,
    duration: Duration,
    answer: Result<Answer, PostFault>,
}

impl Exchange {
    /// One for which there was no connection.
    fn failed(shared: &Shared, call: &Call<'_>, fault: PostFault) -> Exchange {
        let duration = call.took();
        Exchange { started_at_ms: shared.clock.now_ms() - ms(duration), duration, answer: Err(fault) }
    }
}

async fn post(shared: &Shared, call: &mut Call<'_>, config: &LaneConfig, id: &str, body: Bytes) -> Exchange {
    let mut headers = config.headers.clone();
    let now_ms = shared.clock.now_ms();
    let started_at_ms = now_ms - ms(call.took());
    config.signer.sign(id, u64::try_from(now_ms / 1000).unwrap_or_default(), &body, &mut headers);
    let answer = call.send(&config.target, headers, body).await;
    Exchange { started_at_ms, duration: call.took(), answer }
}

fn judge(answer: &Result<Answer, PostFault>) -> Outcome {
    let answer = match answer {
        Ok(answer) => answer,
        Err(fault) if fault.is_ours() => return Outcome::Unsent,
        Err(_) => return Outcome::Failed { retry_after: None },
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
struct Told {
    /// The request's id.
    id: Arc<str>,
    /// Each event that it carried.
    about: Vec<About>,
    number: u32,
    trigger: Trigger,
}

/// An event of an attempt.
struct About {
    place: Option<Place>,
    /// The event's own id.
    message: Arc<str>,
    event_type: Arc<str>,
    user: Option<Arc<str>>,
}

/// Logs an attempt, and records it for each event that it carried; what is to be said if it was the last and failed.
fn record(
    shared: &Shared,
    lane: &Lane,
    config: &LaneConfig,
    told: Told,
    exchange: Exchange,
) -> Option<Box<Failure>> {
    let Exchange { started_at_ms, duration, answer } = exchange;
    let success = judge(&answer) == Outcome::Delivered;
    let (status_code, error, response_headers, response_body) = match answer {
        Ok(answer) => {
            let body = body_text(&answer.body, success);
            (Some(answer.status.as_u16()), None, headers_json(&answer.headers), body)
        }
        Err(fault) => (None, Some(fault.to_string()), "{}".to_owned(), "".into()),
    };
    let ms = duration.as_secs_f64() * 1e3;
    let (endpoint, id, attempt, trigger) = (&*lane.id, &*told.id, told.number, told.trigger.as_str());
    if success {
        tracing::debug!(endpoint, id, attempt, trigger, status = status_code, ms, "delivered");
    } else if lane.fails_again() {
        // Thousands of endpoints that are down would write as many lines a second.
        tracing::debug!(
            endpoint,
            id,
            attempt,
            trigger,
            status = status_code,
            error,
            ms,
            "delivery failed again"
        );
    } else {
        tracing::info!(endpoint, id, attempt, trigger, status = status_code, error, ms, "delivery failed");
    }
    let failure = (!success).then(|| {
        let first = told.about.first();
        Box::new(Failure {
            event_type: first.map(|about| about.event_type.to_string()),
            user: first.and_then(|about| about.user.clone()),
            status_code,
            error: error.clone(),
        })
    });
    let (error, response_headers) = (error.map(Arc::<str>::from), Arc::<str>::from(response_headers));
    let url: Arc<str> = config.settings.url.as_str().into();
    let attempt = |About { place, message, event_type, user }| Attempt {
        endpoint: lane.id.clone(),
        org: lane.org.clone(),
        user,
        place,
        delivery: told.id.clone(),
        message,
        event_type,
        number: told.number,
        trigger: told.trigger,
        success,
        status_code,
        error: error.clone(),
        started_at_ms,
        duration,
        url: url.clone(),
        response_headers: response_headers.clone(),
        response_body: response_body.clone(),
    };
    shared.deliveries.record(&mut told.about.into_iter().map(attempt));
    failure
}

/// Headers whose values are text, as an object by name; the values of a name that comes
/// twice are joined as HTTP joins them.
fn headers_json(headers: &HeaderMap) -> String {
    let mut by_name: BTreeMap<&str, Cow<'_, str>> = BTreeMap::new();
    let mut room = HEADERS_BYTES_MAX;
    for (name, value) in headers {
        let Ok(value) = value.to_str() else { continue };
        let Some(left) = room.checked_sub(name.as_str().len() + value.len()) else { continue };
        room = left;
        let add = |values: &mut Cow<'_, str>| {
            let values = values.to_mut();
            values.push_str(", ");
            values.push_str(value);
        };
        by_name.entry(name.as_str()).and_modify(add).or_insert(Cow::Borrowed(value));
    }
    serde_json::to_string(&by_name).unwrap_or_default()
}

/// The beginning of an answer as text; what is no text becomes replacement characters.
fn body_text(body: &[u8], success: bool) -> Arc<str> {
    let bytes_max = if success { SUCCESS_BODY_BYTES_MAX } else { ANSWER_BYTES_MAX };
    let text = String::from_utf8_lossy(&body[..body.len().min(bytes_max)]);
    text[..text.floor_char_boundary(bytes_max)].into()
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
    let own = topic.name_for(&config.settings, EventKind::Created);
    let name = name.as_deref().or(own).or_else(|| topic.names().next()).unwrap_or_default();
    let body = render(lane, &config, &id, name, payload.as_ref());
    let mut call = shared.crews.living.client(Standing::Answers).call(config.settings.timeout());
    let exchange = post(shared, &mut call, &config, &id, body.into()).await;
    let outcome = judge(&exchange.answer);
    // Who may see the endpoint alone may see its tests.
    let user = config.settings.user_id.as_deref().or(payload.user()).map(Into::into);
    let id: Arc<str> = id.into();
    let about = vec![About { place: None, message: id.clone(), event_type: name.into(), user }];
    let told = Told { id, about, number: 1, trigger: Trigger::Test };
    record(shared, lane, &config, told, exchange);
    outcome
}

#[cfg(test)]
mod tests {
    use hyper::header::HeaderValue;

    use super::*;

    #[test]
    fn headers_become_an_object_by_name_without_what_is_no_text() {
        let mut headers = HeaderMap::new();
        headers.append("b", HeaderValue::from_static("1"));
        headers.append("a", HeaderValue::from_static("\"x\""));
        headers.append("b", HeaderValue::from_static("2"));
        headers.append("c", HeaderValue::from_bytes(b"\xff").unwrap());
        assert_eq!(headers_json(&headers), r#"{"a":"\"x\"","b":"1, 2"}"#);
        assert_eq!(headers_json(&HeaderMap::new()), "{}");
        let long = HeaderValue::from_str(&"x".repeat(HEADERS_BYTES_MAX)).unwrap();
        headers.append("d", long);
        headers.append("e", HeaderValue::from_static("3"));
        assert_eq!(headers_json(&headers), r#"{"a":"\"x\"","b":"1, 2","e":"3"}"#);
    }

    #[test]
    fn of_a_body_the_beginning_is_kept_as_text() {
        let long = vec![b'x'; 100_000];
        assert_eq!(body_text(&long, true).len(), SUCCESS_BODY_BYTES_MAX);
        assert_eq!(body_text(&long, false).len(), ANSWER_BYTES_MAX);
        assert_eq!(&*body_text(b"a\xffb", false), "a\u{fffd}b");
        // Cut in the middle of a character, and longer as text than as bytes.
        assert!(body_text(&[0xff; SUCCESS_BODY_BYTES_MAX], true).len() <= SUCCESS_BODY_BYTES_MAX);
        let uneven = format!("x{}", "é".repeat(SUCCESS_BODY_BYTES_MAX));
        assert!(uneven.starts_with(body_text(uneven.as_bytes(), true).trim_end_matches('\u{fffd}')));
    }
}
