//! `POST /api/v1/webhooks/endpoints/{id}/secret/rotate`: another key, and a grace in
//! which the one before signs beside it.

use hyper::StatusCode;
use serde_json::{Map, json};
use systole_engine::events::webhooks::{GRACE_SECONDS_DEFAULT, GRACE_SECONDS_MAX, WebhookError};

use super::endpoints::{found, on_endpoint};
use super::wish::number;
use crate::error::{Entry, Refusal};
use crate::manage::fields::{fields, read_body, refuse_unknown, text};
use crate::reply::{self, Reply};
use crate::route::Call;

const KNOWN: [&str; 2] = ["grace_seconds", "key"];

pub(crate) async fn rotate(mut call: Call<'_>) -> Result<Reply, Refusal> {
    let body = read_body(&mut call).await?;
    let fields = if body.trim_ascii().is_empty() { Map::new() } else { fields(&body)? };
    refuse_unknown(&fields, &KNOWN, "rotation")?;
    let grace = number(&fields, "grace_seconds", &(0..=GRACE_SECONDS_MAX))?.unwrap_or(GRACE_SECONDS_DEFAULT);
    let brought = text(&fields, "key")?;
    let (org, id) = (call.org.clone(), found(&call).await?.id);
    let rotated = on_endpoint(&call, id, move |webhooks, id| {
        match webhooks.rotate_secret(&org, id, grace, brought.as_deref()) {
            Err(WebhookError::Secret(fault)) => {
                Err(Refusal::invalid(Entry::body("key", "malformed", fault.to_string())))
            }
            other => other.map_err(Refusal::from),
        }
    });
    Ok(reply::json_of(StatusCode::OK, &json!({ "key": rotated.await? })))
}
