//! Erasing a user, or a range of one user's samples or of all users', and the receipts of it.
//!
//! 202 means: durable, and from now on no read, export, query or delivery shows it. A
//! caller that is bound to a user erases only of that user.

use hyper::StatusCode;
use serde::Serialize;
use serde_json::json;
use systole_engine::{EVERY_METRIC, Erased, ErasureRecord};

use super::fields::timestamp;
use crate::auth::is_user_id;
use crate::error::{Entry, Refusal};
use crate::ingest::UserRule;
use crate::read::{Window, known_metric};
use crate::reply::{self, Reply};
use crate::route::Call;

#[derive(Serialize)]
struct Shown<'a> {
    erasure_id: &'a str,
    status: &'static str,
    removed: ShownRemoved,
    requested_at: String,
    completed_at: Option<String>,
}

#[derive(Serialize)]
struct ShownRemoved {
    /// `null` unless they were counted.
    samples: Option<u64>,
    files: u64,
    segments: u64,
    deliveries: u64,
    attempts: u64,
}

/// `DELETE /api/v1/users/{user_id}`
pub(crate) async fn erase_user(call: Call<'_>) -> Result<Reply, Refusal> {
    let user = path_user(&call)?.to_owned();
    let block = call.query.flag("block")?;
    order(&call, Erased::User { user, block }).await
}

/// `DELETE /api/v1/wearables/metric/{metric}`
pub(crate) async fn erase_range(call: Call<'_>) -> Result<Reply, Refusal> {
    let user = one_or_all(&call)?.map(str::to_owned);
    let metric = match call.parameter.as_str() {
        EVERY_METRIC => None,
        _ => Some(known_metric(&call)?),
    };
    // Whoever names no time must say so with open eyes: `days` and defaults are not
    // for deleting.
    let (start, end) = Window::span(&call.query)?;
    order(&call, Erased::Range { user, metric, start, end }).await
}

/// The user whose samples are meant, `None` if those of all users are. Nobody means all by
/// leaving something out.
fn one_or_all<'a>(call: &'a Call<'_>) -> Result<Option<&'a str>, Refusal> {
    let (bound, named) = (call.caller.user.as_deref(), call.query.get("user_id"));
    match (call.query.flag("all_users")?, bound, named) {
        (false, ..) => UserRule::of(bound, named)?.only().map(Some),
        (true, Some(_), _) => Err(Refusal::KeyBound),
        (true, None, Some(_)) => {
            let message = "cannot stand beside user_id: one user is meant, or all";
            Err(Refusal::invalid(Entry::query("all_users", "conflict", message)))
        }
        (true, None, None) => Ok(None),
    }
}

/// `GET /api/v1/erasures/{id}`
pub(crate) async fn erasure(call: Call<'_>) -> Result<Reply, Refusal> {
    let found = call.app.engine.erasure(&call.org, &call.parameter).await?;
    let record = found.ok_or(Refusal::UnknownErasure { id: call.parameter })?;
    Ok(reply::json_of(StatusCode::OK, &shown(&record)))
}

async fn order(call: &Call<'_>, erased: Erased) -> Result<Reply, Refusal> {
    let id = call.app.engine.erase(&call.org, erased).await?;
    Ok(reply::json_of(StatusCode::ACCEPTED, &json!({ "erasure_id": id })))
}

/// The user in the path, whom the caller may name.
pub(crate) fn path_user<'a>(call: &'a Call<'_>) -> Result<&'a str, Refusal> {
    let user = call.parameter.as_str();
    if !is_user_id(user) {
        let message = "must be 1 to 128 characters of A-Z a-z 0-9 . _ : @ -";
        return Err(Refusal::invalid(Entry::path("user_id", "malformed", message)));
    }
    match call.caller.user.as_deref() {
        Some(bound) if bound != user => Err(Refusal::OtherUser),
        _ => Ok(user),
    }
}

fn shown(record: &ErasureRecord) -> Shown<'_> {
    let removed = record.removed;
    Shown {
        erasure_id: &record.id,
        status: if record.completed_at.is_some() { "done" } else { "running" },
        removed: ShownRemoved {
            samples: removed.samples,
            files: removed.files,
            segments: removed.segments,
            deliveries: removed.deliveries,
            attempts: removed.attempts,
        },
        requested_at: timestamp(record.created_at),
        completed_at: record.completed_at.map(timestamp),
    }
}
