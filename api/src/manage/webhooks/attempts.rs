//! `/api/v1/webhooks/endpoints/{id}/attempts` and `/messages/{id}/attempts`: the delivery
//! log, newest first.

use hyper::StatusCode;
use serde::Serialize;
use serde_json::Value;
use systole_engine::{AttemptPage, AttemptQuery, AttemptRow};

use super::endpoints::found;
use super::messages::{event_type, refuse_other_case};
use crate::error::{Entry, Quoted, Refusal};
use crate::manage::fields::timestamp;
use crate::manage::page::{LIMIT_DEFAULT, LIMIT_MAX};
use crate::read::instant;
use crate::reply::{self, Reply};
use crate::route::Call;

/// Attempts that one answer looks at, about, for those it is asked for: a fraction of a
/// second. Who wants them all for a few goes on page by page, or asks in SQL.
const LOOK_MAX: usize = 512 * 1024;

/// An attempt as it is shown.
#[derive(Serialize)]
struct Shown<'a> {
    id: String,
    message_id: &'a str,
    delivery_id: &'a str,
    endpoint_id: &'a str,
    event_type: &'a str,
    attempt_number: u32,
    trigger: &'static str,
    status: &'static str,
    status_code: Option<u16>,
    error: Option<&'a str>,
    duration_ms: u64,
    url: &'a str,
    response_headers: Value,
    response_body: &'a str,
    created_at: String,
}

#[derive(Serialize)]
struct Listing<'a> {
    data: Vec<Shown<'a>>,
    iterator: Option<String>,
    prev_iterator: Option<String>,
    done: bool,
}

pub(crate) async fn of_endpoint(call: Call<'_>) -> Result<Reply, Refusal> {
    let endpoint = Some(found(&call).await?.id);
    list(&call, AttemptQuery { endpoint, ..AttemptQuery::default() }).await
}

pub(crate) async fn of_message(call: Call<'_>) -> Result<Reply, Refusal> {
    refuse_other_case(&call.parameter)?;
    let wanted = call.app.engine.webhooks().attempts_under(&call.parameter);
    list(&call, wanted).await
}

async fn list(call: &Call<'_>, wanted: AttemptQuery) -> Result<Reply, Refusal> {
    let limit = call.query.limit(LIMIT_MAX)?.unwrap_or(LIMIT_DEFAULT);
    let webhooks = call.app.engine.webhooks();
    let step = match call.query.get("iterator") {
        None => None,
        Some(text) => Some(webhooks.open_attempt_iterator(text).ok_or_else(|| {
            let message = "this is no iterator of this list; take it as it came";
            Refusal::invalid(Entry::query("iterator", "malformed", message))
        })?),
    };
    let query = AttemptQuery {
        org: call.org.to_string(),
        user: call.caller.user.as_deref().map(str::to_owned),
        success: success(call)?,
        since_ms: instant(&call.query, "since")?,
        until_ms: instant(&call.query, "until")?,
        event_type: event_type(call)?,
        step,
        limit,
        look_max: Some(LOOK_MAX),
        ..wanted
    };
    let engine = call.app.engine.clone();
    let read = tokio::task::spawn_blocking(move || engine.attempts(&query)).await;
    let AttemptPage { rows, older, newer, done, .. } = read
        .map_err(Refusal::internal)?
        .map_err(|fault| Refusal::Internal { inside: crate::error::chain(&fault) })?;
    let data = rows.iter().map(|row| show(row, webhooks.attempt_id(row.tie))).collect();
    let iterator = older.map(|step| webhooks.attempt_iterator(step));
    let prev_iterator = newer.map(|step| webhooks.attempt_iterator(step));
    Ok(reply::json_of(StatusCode::OK, &Listing { data, iterator, prev_iterator, done }))
}

fn success(call: &Call<'_>) -> Result<Option<bool>, Refusal> {
    match call.query.get("status") {
        None => Ok(None),
        Some("success") => Ok(Some(true)),
        Some("failed") => Ok(Some(false)),
        Some(other) => {
            let message = format!("must be success or failed, not {}", Quoted(other));
            Err(Refusal::invalid(Entry::query("status", "unknown_value", message)))
        }
    }
}

fn show(row: &AttemptRow, id: String) -> Shown<'_> {
    Shown {
        id,
        message_id: &row.message,
        delivery_id: &row.delivery,
        endpoint_id: &row.endpoint,
        event_type: &row.event_type,
        attempt_number: row.number,
        trigger: row.trigger.as_str(),
        status: if row.success { "success" } else { "failed" },
        status_code: row.status_code,
        error: row.error.as_deref(),
        duration_ms: row.duration_us / 1000,
        url: &row.url,
        response_headers: serde_json::from_str(&row.response_headers).unwrap_or_default(),
        response_body: &row.response_body,
        created_at: timestamp(row.at_ms),
    }
}
