//! `/api/v1/webhooks/messages`: an organisation's events, listed newest first, and one
//! with its payload.

use hyper::StatusCode;
use serde::Serialize;
use systole_engine::events::messages::{Message, MessageError, MessagePage, MessageQuery};

use super::blocking;
use crate::auth::is_user_id;
use crate::error::{Entry, Quoted, Refusal, chain};
use crate::manage::fields::timestamp;
use crate::manage::page::{LIMIT_DEFAULT, LIMIT_MAX};
use crate::read::instant;
use crate::reply::{self, Reply};
use crate::route::Call;

/// How the events are found that were sent together under one id.
const EVENTS_OF_SEVERAL: &str = "GET /api/v1/webhooks/messages/{id}/attempts with the `webhook-id` of the request names them as `message_id`, \
     as do the endpoint's attempts with that `delivery_id`, and SELECT message_id FROM attempts WHERE delivery_id = '...'";

/// A message as it is shown.
#[derive(Serialize)]
struct Shown<'a> {
    id: &'a str,
    event_id: Option<&'a str>,
    #[serde(rename = "type")]
    event_type: &'a str,
    user_id: Option<&'a str>,
    created_at: String,
}

#[derive(Serialize)]
struct Listing<'a> {
    data: Vec<Shown<'a>>,
    iterator: Option<&'a str>,
    prev_iterator: Option<&'a str>,
    done: bool,
}

pub(crate) async fn messages(call: Call<'_>) -> Result<Reply, Refusal> {
    let query = MessageQuery {
        org: call.org.to_string(),
        user: user(&call)?,
        event_type: event_type(&call)?,
        since_ms: instant(&call.query, "since")?,
        until_ms: instant(&call.query, "until")?,
        limit: call.query.limit(LIMIT_MAX)?.unwrap_or(LIMIT_DEFAULT),
        iterator: call.query.get("iterator").map(str::to_owned),
    };
    let page = blocking(&call, move |webhooks| webhooks.messages(&query)).await?;
    let MessagePage { messages, iterator, prev_iterator, done } = &page;
    let data = messages.iter().map(show).collect();
    let (iterator, prev_iterator) = (iterator.as_deref(), prev_iterator.as_deref());
    Ok(reply::json_of(StatusCode::OK, &Listing { data, iterator, prev_iterator, done: *done }))
}

pub(crate) async fn message(call: Call<'_>) -> Result<Reply, Refusal> {
    refuse_other_case(&call.parameter)?;
    let (org, id, user) = (call.org.clone(), call.parameter.clone(), call.caller.user.clone());
    let (found, payload) = blocking(&call, move |webhooks| {
        let found = webhooks.message(&org, user.as_deref(), &id)?;
        let payload = webhooks.message_body(&found)?;
        Ok::<_, MessageError>((found, payload))
    })
    .await?;
    let mut body = serde_json::to_vec(&show(&found.message)).map_err(Refusal::internal)?;
    // The payload is JSON already, byte for byte what a receiver gets.
    body.pop();
    body.extend_from_slice(b",\"payload\":");
    body.extend_from_slice(&payload);
    body.push(b'}');
    Ok(reply::json(StatusCode::OK, body))
}

/// Refuses an id with upper case letters: ids are lower case, and are told apart by that
/// wherever they are kept.
pub(super) fn refuse_other_case(id: &str) -> Result<(), Refusal> {
    let is_other = id.bytes().any(|byte| byte.is_ascii_uppercase());
    if is_other { Err(Refusal::UnknownMessage) } else { Ok(()) }
}

/// Whose messages are asked for: the user the caller is bound to, or the one it names.
pub(super) fn user(call: &Call<'_>) -> Result<Option<String>, Refusal> {
    let named = call.query.get("user_id");
    if named.is_some_and(|named| !is_user_id(named)) {
        let message = "must be 1 to 128 characters of A-Z a-z 0-9 . _ : @ -";
        return Err(Refusal::invalid(Entry::query("user_id", "malformed", message)));
    }
    match (call.caller.user.as_deref(), named) {
        (Some(bound), Some(named)) if bound != named => Err(Refusal::OtherUser),
        (bound, named) => Ok(bound.or(named).map(str::to_owned)),
    }
}

/// The parameter `event_type`: a name of the catalogue.
pub(super) fn event_type(call: &Call<'_>) -> Result<Option<String>, Refusal> {
    let Some(name) = call.query.get("event_type") else { return Ok(None) };
    let catalogue = call.app.engine.webhooks().catalogue(&call.org);
    if catalogue.has(name) {
        return Ok(Some(name.to_owned()));
    }
    let message = format!("{} is no event type{}", Quoted(name), nearest(&catalogue.nearest(name)));
    Err(Refusal::invalid(Entry::query("event_type", "unknown_event_type", message)))
}

/// What follows the name of a type that is not known.
pub(super) fn nearest(names: &[String]) -> String {
    if names.is_empty() {
        return "; GET /api/v1/webhooks/event-types lists them".to_owned();
    }
    format!("; did you mean {}?", names.join(", "))
}

fn show(message: &Message) -> Shown<'_> {
    Shown {
        id: &message.id,
        event_id: message.event_id.as_deref(),
        event_type: &message.event_type,
        user_id: message.user.as_deref(),
        created_at: timestamp(message.created_at_ms),
    }
}

impl From<MessageError> for Refusal {
    fn from(fault: MessageError) -> Refusal {
        match fault {
            MessageError::Unknown => Refusal::UnknownMessage,
            MessageError::Dropped => Refusal::MessageDropped,
            MessageError::Together => {
                let message = format!("{fault}: {EVENTS_OF_SEVERAL}");
                Refusal::invalid(Entry::path("id", "several_events", message))
            }
            MessageError::Iterator => {
                Refusal::invalid(Entry::query("iterator", "malformed", fault.to_string()))
            }
            other => Refusal::Internal { inside: chain(&other) },
        }
    }
}
