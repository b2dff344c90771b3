//! `POST /api/v1/events`: an upstream hands an event in, or many as lines. `GET
//! /api/v1/webhooks/event-types`: what there is.

use std::sync::{Arc, OnceLock};

use bytes::Bytes;
use hyper::StatusCode;
use serde::Serialize;
use serde_json::{Map, Value, json};
use systole_engine::events::topics::EventCatalogue;
use systole_engine::{PublishError, Published};

use super::event_body::EventBody;
use super::event_lines;
use super::messages::nearest;
use crate::error::{Entry, Quoted, Refusal};
use crate::ingest::UserRule;
use crate::manage::fields::{refuse_compressed, text, user};
use crate::reply::{self, Reply};
use crate::route::Call;
use crate::server::BodyLimits;

/// Longest event: what the hosted systems this replaces take, and more.
pub(super) const EVENT_BYTES_MAX: usize = 1024 * 1024;
/// Longest id that a publisher may bring.
const EVENT_ID_CHARS_MAX: usize = 256;

#[derive(Serialize)]
struct ShownType<'a> {
    name: &'a str,
    system: &'a str,
    description: &'a str,
    published: bool,
    schema: Value,
    example: Value,
}

#[derive(Serialize)]
struct Listing<'a> {
    data: Vec<ShownType<'a>>,
}

/// The list of event types of organisations without metrics of their own, which is the
/// same for all of them: made when it is first asked for.
#[derive(Default)]
pub(crate) struct EventTypes(OnceLock<Bytes>);

impl EventTypes {
    /// The list of an organisation. Making one takes long for a thread of the network.
    fn of(&self, catalogue: &EventCatalogue) -> Bytes {
        if catalogue.has_own_metrics() {
            return listing(catalogue);
        }
        self.0.get_or_init(|| listing(catalogue)).clone()
    }
}

pub(crate) async fn types(call: Call<'_>) -> Result<Reply, Refusal> {
    let (app, org) = (Arc::clone(call.app), Arc::clone(&call.org));
    let making =
        tokio::task::spawn_blocking(move || app.event_types.of(&app.engine.webhooks().catalogue(&org)));
    Ok(reply::json(StatusCode::OK, making.await.map_err(Refusal::internal)?))
}

fn listing(catalogue: &EventCatalogue) -> Bytes {
    let types = catalogue.types();
    let data: Vec<ShownType<'_>> = types
        .iter()
        .map(|known| ShownType {
            name: &known.name,
            system: &known.system,
            description: &known.description,
            published: known.published,
            schema: catalogue.schema(known),
            example: catalogue.example(known),
        })
        .collect();
    let listing = serde_json::to_vec(&Listing { data });
    listing.expect("names, schemas and examples always serialize").into()
}

/// An event that its caller may publish: what is wrong with another was refused.
pub(super) struct Event<'a> {
    name: String,
    user: Option<String>,
    id: Option<String>,
    data: &'a str,
}

impl<'a> Event<'a> {
    /// Reads one JSON object.
    pub(super) fn read(call: &Call<'_>, body: &'a [u8]) -> Result<Event<'a>, Refusal> {
        let submitted = EventBody::read(body)?;
        let fields = &submitted.fields;
        let name = event_type(call, fields)?;
        let user = user_rule(call)?.user_of_event(user(fields)?.as_deref())?.map(str::to_owned);
        let blocked = call.app.engine.blocked_users(&call.org);
        if user.as_deref().is_some_and(|user| blocked.is_some_and(|blocked| blocked.contains(user))) {
            return Err(Refusal::UserErased);
        }
        Ok(Event { name, user, id: event_id(fields)?, data: submitted.data()? })
    }

    /// As the engine takes it.
    pub(super) fn published<'e>(&'e self, call: &'e Call<'_>) -> Published<'e> {
        Published {
            org: &call.org,
            user: self.user.as_deref(),
            name: &self.name,
            id: self.id.as_deref(),
            bound: call.caller.user.is_some(),
            data: self.data,
        }
    }
}

/// One event as JSON under any Content-Type, but for that of many.
pub(crate) async fn publish(call: Call<'_>) -> Result<Reply, Refusal> {
    user_rule(&call)?;
    refuse_compressed(&call.head.headers)?;
    match event_lines::are_sent(&call.head.headers) {
        true => event_lines::publish(call).await,
        false => publish_one(call).await,
    }
}

async fn publish_one(call: Call<'_>) -> Result<Reply, Refusal> {
    let limits = BodyLimits { bytes_max: EVENT_BYTES_MAX, timeout: call.app.settings.http.body_timeout };
    call.body.check_declared(&limits)?;
    let declared = call.body.declared_bytes().and_then(|bytes| usize::try_from(bytes).ok());
    let budget = call.app.engine.budget();
    let permit = budget.try_take(declared.unwrap_or(EVENT_BYTES_MAX)).ok_or(Refusal::BudgetSpent)?;
    let mut body = Vec::new();
    call.body.read(&mut body, &limits, |_| Ok(())).await?;
    let event = Event::read(&call, &body)?;
    let made =
        call.app.engine.publish(&event.published(&call), permit).await.map_err(|fault| match fault {
            PublishError::Submit(fault) => Refusal::from(fault),
            PublishError::Commit(fault) => Refusal::from(fault),
        })?;
    Ok(reply::json_of(StatusCode::ACCEPTED, &json!({ "id": made })))
}

/// Whom events may be about that the caller hands in.
fn user_rule<'c>(call: &'c Call<'_>) -> Result<UserRule<'c>, Refusal> {
    UserRule::of(call.caller.user.as_deref(), call.query.get("user_id"))
}

fn event_type(call: &Call<'_>, fields: &Map<String, Value>) -> Result<String, Refusal> {
    let refuse = |kind, message: String| Err(Refusal::invalid(Entry::body("type", kind, message)));
    let Some(name) = text(fields, "type")? else {
        return refuse("missing", "is missing".to_owned());
    };
    let catalogue = call.app.engine.webhooks().catalogue(&call.org);
    if catalogue.is_published(&name) {
        return Ok(name);
    }
    if catalogue.is_notice(&name) {
        let message = format!("{} is published by the server itself", Quoted(&name));
        return refuse("not_publishable", message);
    }
    if catalogue.has(&name) {
        let message = format!("{} follows from samples and cannot be published", Quoted(&name));
        return refuse("not_publishable", message);
    }
    let message = format!("{} is no event type{}", Quoted(&name), nearest(&catalogue.nearest(&name)));
    refuse("unknown_event_type", message)
}

fn event_id(fields: &Map<String, Value>) -> Result<Option<String>, Refusal> {
    let id = text(fields, "event_id")?;
    let shaped = |id: &String| {
        (1..=EVENT_ID_CHARS_MAX).contains(&id.chars().count()) && !id.chars().any(char::is_control)
    };
    match id {
        Some(id) if !shaped(&id) => {
            let message = format!("must be 1 to {EVENT_ID_CHARS_MAX} printable characters");
            Err(Refusal::invalid(Entry::body("event_id", "malformed", message)))
        }
        id => Ok(id),
    }
}
