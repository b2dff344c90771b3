//! Sending again: one message, what failed, what was never sent; and how an endpoint
//! stands.

use hyper::StatusCode;
use serde::Serialize;
use serde_json::{Map, Value, json};
use systole_engine::events::again::{Again, AgainError};
use systole_engine::timestamp::parse_rfc3339;

use super::endpoints::{found, on_endpoint, visible};
use super::messages::refuse_other_case;
use crate::error::{Entry, Refusal, chain};
use crate::manage::fields::{fields, now_ms, read_body, refuse_unknown, text, timestamp};
use crate::reply::{self, Reply};
use crate::route::Call;

/// An endpoint's figures. Counts are since the start of the server.
#[derive(Serialize)]
struct Shown {
    delivered: u64,
    failed: u64,
    given_up: u64,
    retries_waiting: u64,
    in_flight: u64,
    backlogs: u64,
    paused: bool,
    active: bool,
    lag_events: u64,
    lag_seconds: f64,
    last_success_at: Option<String>,
    last_failure_at: Option<String>,
    failing_since: Option<String>,
}

pub(crate) async fn resend(call: Call<'_>) -> Result<Reply, Refusal> {
    let (message, endpoint) = call.parameter.split_once('/').ok_or(Refusal::UnknownMessage)?;
    refuse_other_case(message)?;
    let (id, message) = (message.to_owned(), message.to_owned());
    let endpoint = visible(&call, endpoint).await?.id;
    let (org, user) = (call.org.clone(), call.caller.user.clone());
    let sent = on_endpoint(&call, endpoint, move |webhooks, endpoint| {
        webhooks.resend(&org, user.as_deref(), &message, endpoint)
    });
    sent.await.map(|()| reply::json_of(StatusCode::ACCEPTED, &json!({ "id": id })))
}

pub(crate) async fn recover(call: Call<'_>) -> Result<Reply, Refusal> {
    send_again(call, Again::Failed).await
}

pub(crate) async fn replay_missing(call: Call<'_>) -> Result<Reply, Refusal> {
    send_again(call, Again::Missing).await
}

async fn send_again(mut call: Call<'_>, which: Again) -> Result<Reply, Refusal> {
    let body = read_body(&mut call).await?;
    let fields = fields(&body)?;
    refuse_unknown(&fields, &["since", "until"], "recovery")?;
    let since = time(&fields, "since")?
        .ok_or_else(|| Refusal::invalid(Entry::body("since", "missing", "is missing")))?;
    let until = time(&fields, "until")?;
    if until.is_some_and(|until| until <= since) {
        return Err(Refusal::invalid(Entry::body("until", "out_of_range", "must be after since")));
    }
    let (org, endpoint) = (call.org.clone(), found(&call).await?.id);
    let id = endpoint.clone();
    on_endpoint(&call, endpoint, move |webhooks, endpoint| {
        webhooks.send_again(&org, endpoint, which, since, until)
    })
    .await?;
    let answer = json!({"endpoint_id": id, "since": timestamp(since), "until": until.map(timestamp)});
    Ok(reply::json_of(StatusCode::ACCEPTED, &answer))
}

pub(crate) async fn stats(call: Call<'_>) -> Result<Reply, Refusal> {
    let (org, endpoint) = (call.org.clone(), found(&call).await?.id);
    let stats =
        on_endpoint(&call, endpoint, move |webhooks, endpoint| webhooks.endpoint_stats(&org, endpoint))
            .await?;
    let oldest_ms = stats.oldest_undecided_ms.map_or(0, |oldest| (now_ms() - oldest).max(0));
    let shown = Shown {
        delivered: stats.delivered,
        failed: stats.failed,
        given_up: stats.given_up,
        retries_waiting: stats.retries_waiting,
        in_flight: stats.in_flight,
        backlogs: stats.backlogs,
        paused: stats.is_paused,
        active: !stats.is_off,
        lag_events: stats.lag_events,
        lag_seconds: oldest_ms as f64 / 1000.0,
        last_success_at: stats.last_success_ms.map(timestamp),
        last_failure_at: stats.last_failure_ms.map(timestamp),
        failing_since: stats.failing_since_ms.map(timestamp),
    };
    Ok(reply::json_of(StatusCode::OK, &shown))
}

fn time(fields: &Map<String, Value>, field: &'static str) -> Result<Option<i64>, Refusal> {
    let Some(text) = text(fields, field)? else { return Ok(None) };
    match parse_rfc3339(&text) {
        Ok(instant) => Ok(Some(instant.ms)),
        Err(fault) => {
            let message = format!("must be an RFC 3339 time with an offset: {fault}");
            Err(Refusal::invalid(Entry::body(field, "malformed", message)))
        }
    }
}

impl From<AgainError> for Refusal {
    fn from(fault: AgainError) -> Refusal {
        match fault {
            AgainError::Endpoint(fault) => fault.into(),
            AgainError::Message(fault) => fault.into(),
            AgainError::Unwanted => {
                Refusal::invalid(Entry::path("endpoint_id", "unwanted", fault.to_string()))
            }
            AgainError::Off => Refusal::EndpointOff,
            AgainError::Busy | AgainError::TooManyRanges => Refusal::EndpointBusy { text: fault.to_string() },
            AgainError::Unsaved => Refusal::NotStored { text: fault.to_string() },
            AgainError::DiskFull => Refusal::DiskFull,
            AgainError::Stopping => Refusal::Stopping,
            other => Refusal::Internal { inside: chain(&other) },
        }
    }
}

#[cfg(test)]
mod tests {
    use systole_engine::events::webhooks::{ManualFault, WebhookError};

    use super::*;

    #[test]
    fn what_is_not_stored_is_no_202_and_may_be_asked_for_again() {
        let cases = [
            (AgainError::Unsaved, 503, "catalog_failed"),
            (AgainError::from(ManualFault::DiskFull), 507, "disk_full"),
            (AgainError::Stopping, 503, "stopping"),
            (AgainError::Busy, 429, "endpoint_busy"),
            (AgainError::TooManyRanges, 429, "endpoint_busy"),
            (AgainError::Off, 409, "endpoint_off"),
        ];
        for (fault, status, code) in cases {
            let text = fault.to_string();
            let refusal = Refusal::from(fault);
            let found = refusal.status();
            assert_eq!((found.0.as_u16(), found.1), (status, code));
            assert_eq!(refusal.to_string(), text, "whoever asked reads what the engine said");
        }
    }

    #[test]
    fn a_test_that_finds_no_place_is_refused_as_any_other_message_by_hand() {
        let refusals =
            [Refusal::from(AgainError::Busy), Refusal::from(WebhookError::Manual(ManualFault::Busy))];
        for refusal in refusals {
            assert_eq!(refusal.status().1, "endpoint_busy");
            assert!(refusal.to_string().contains("sent by hand"), "{refusal}");
            let waits = refusal.response().headers()["retry-after"].to_str().unwrap().to_owned();
            assert!(waits.parse::<u32>().unwrap() >= 60, "{waits}");
        }
        let unknown = Refusal::from(WebhookError::Manual(ManualFault::Unknown));
        assert_eq!(unknown.status().1, "unknown_endpoint");
    }
}
