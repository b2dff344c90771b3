//! `/api/v1/webhooks/endpoints`: make, list, show, change, delete; the secret; a test.

use std::collections::{BTreeMap, BTreeSet};

use hyper::StatusCode;
use serde::Serialize;
use serde_json::{Map, Value, json};
use systole_engine::events::again::AgainError;
use systole_engine::events::webhooks::{
    Endpoint, EndpointSettings, ListFrom, PayloadSize, Secret, SettingsFault, TargetFault, Timeseries,
    WebhookError, Webhooks,
};

use super::wish::{REDACTED, apply, new_settings};
use crate::error::{Entry, Quoted, Refusal};
use crate::manage::fields::{fields, read_body, refuse_unknown, text, timestamp};
use crate::manage::page::{LIMIT_DEFAULT, LIMIT_MAX, Page, Place, Step};
use crate::reply::{self, Reply};
use crate::route::Call;

/// What is said where a change of the dialect would keep a secret that only another one takes.
const KEPT_SECRET: &str = "the endpoint's secret does not fit this dialect; send `secret` with it, \
     whsec_ and base64 of 24 to 64 bytes";

/// An endpoint as it is shown: all it was made with, never its secret. Values of its
/// own headers may be credentials, so only their names are shown.
#[derive(Serialize)]
pub(super) struct Shown<'a> {
    id: &'a str,
    url: &'a str,
    description: Option<&'a str>,
    name: Option<&'a str>,
    filter_types: Option<&'a BTreeSet<String>>,
    user_id: Option<&'a str>,
    dialect: &'static str,
    signature: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    public_key: Option<&'a str>,
    headers: BTreeMap<&'a str, &'static str>,
    active: bool,
    attributes: Option<&'a Map<String, Value>>,
    send_organization_code: bool,
    timeout_seconds: u32,
    timeseries: &'static str,
    payload: &'static str,
    coalesce_ms: Option<u32>,
    batch_events: Option<u32>,
    rate_limit_per_second: Option<u32>,
    created_at: String,
    updated_at: String,
}

pub(crate) async fn create(mut call: Call<'_>) -> Result<Reply, Refusal> {
    let body = read_body(&mut call).await?;
    let fields = fields(&body)?;
    let mut settings = new_settings(&fields, &call.app.engine.webhooks().catalogue(&call.org))?;
    settings.user_id = grant(call.caller.user.as_deref(), settings.user_id.take())?;
    let brought = text(&fields, "secret")?;
    Ok(reply::json_of(StatusCode::CREATED, &show(&make(&call, settings, brought).await?)))
}

/// Makes an endpoint, with a secret of its own unless one was brought.
pub(super) async fn make(
    call: &Call<'_>,
    settings: EndpointSettings,
    brought: Option<String>,
) -> Result<Endpoint, Refusal> {
    let secret = match brought {
        Some(brought) => parse_secret(&brought, &settings)?,
        None => Secret::generate_for(settings.signature).map_err(Refusal::internal)?,
    };
    let (org, maker) = (call.org.clone(), call.caller.user.clone());
    blocking(call, move |webhooks| webhooks.create(&org, maker.as_deref(), settings, &secret)).await
}

pub(crate) async fn list(call: Call<'_>) -> Result<Reply, Refusal> {
    let limit = call.query.limit(LIMIT_MAX)?.unwrap_or(LIMIT_DEFAULT);
    let step = call.query.get("iterator").map(Step::decode).transpose()?;
    let (org, user, from) = (call.org.clone(), call.caller.user.clone(), list_from(step.as_ref()));
    // With one more on either side, by which the page knows whether the list goes on there.
    let endpoints =
        blocking(&call, move |webhooks| webhooks.list(&org, user.as_deref(), &from, limit)).await?;
    let places: Vec<Place<'_>> = endpoints.iter().map(place).collect();
    let page = Page::of(&places, step.as_ref(), limit);
    let data: Vec<_> = endpoints[page.rows.clone()].iter().map(show).collect();
    Ok(reply::json_of(StatusCode::OK, &page.listing(data)))
}

pub(crate) async fn get(call: Call<'_>) -> Result<Reply, Refusal> {
    Ok(reply::json_of(StatusCode::OK, &show(&found(&call).await?)))
}

pub(crate) async fn patch(mut call: Call<'_>) -> Result<Reply, Refusal> {
    let body = read_body(&mut call).await?;
    let fields = fields(&body)?;
    let (org, id) = (call.org.clone(), found(&call).await?.id);
    let bound = call.caller.user.clone();
    let changed = on_endpoint(&call, id, move |webhooks, id| {
        webhooks.update(&org, id, |settings| {
            apply(&fields, settings, &webhooks.catalogue(&org))?;
            settings.user_id = grant(bound.as_deref(), settings.user_id.take())?;
            let brought = text(&fields, "secret")?;
            brought.map(|brought| parse_secret(&brought, settings)).transpose()
        })
    })
    .await?;
    Ok(reply::json_of(StatusCode::OK, &show(&changed)))
}

pub(crate) async fn delete(call: Call<'_>) -> Result<Reply, Refusal> {
    let (org, id) = (call.org.clone(), found(&call).await?.id);
    on_endpoint(&call, id, move |webhooks, id| webhooks.delete(&org, id)).await?;
    Ok(reply::empty(StatusCode::NO_CONTENT))
}

pub(crate) async fn secret(call: Call<'_>) -> Result<Reply, Refusal> {
    let (org, id) = (call.org.clone(), found(&call).await?.id);
    let key = on_endpoint(&call, id, move |webhooks, id| webhooks.secret(&org, id)).await?;
    Ok(reply::json_of(StatusCode::OK, &json!({ "key": key })))
}

pub(crate) async fn test(mut call: Call<'_>) -> Result<Reply, Refusal> {
    let body = read_body(&mut call).await?;
    let fields = if body.trim_ascii().is_empty() { Map::new() } else { fields(&body)? };
    refuse_unknown(&fields, &["event_type"], "test")?;
    let (org, id) = (call.org.clone(), found(&call).await?.id);
    let name = text(&fields, "event_type")?;
    let catalogue = call.app.engine.webhooks().catalogue(&call.org);
    if let Some(name) = name.as_ref().filter(|name| !catalogue.has(name)) {
        let message =
            format!("{} is no event type; GET /api/v1/webhooks/event-types lists them", Quoted(name));
        return Err(Refusal::invalid(Entry::body("event_type", "unknown_event_type", message)));
    }
    let sent =
        on_endpoint(&call, id, move |webhooks, id| webhooks.send_example(&org, id, name.as_deref())).await?;
    Ok(reply::json_of(StatusCode::ACCEPTED, &json!({ "id": sent })))
}

/// The endpoint that the path names, if the caller may see it.
pub(super) async fn found(call: &Call<'_>) -> Result<Endpoint, Refusal> {
    visible(call, &call.parameter).await
}

/// An endpoint, if the caller may see it.
pub(super) async fn visible(call: &Call<'_>, id: &str) -> Result<Endpoint, Refusal> {
    let org = call.org.clone();
    let endpoint = on_endpoint(call, id.to_owned(), move |webhooks, id| webhooks.get(&org, id)).await?;
    if sees(call, &endpoint) { Ok(endpoint) } else { Err(Refusal::UnknownEndpoint { id: id.to_owned() }) }
}

/// Whose events an endpoint may ask for: those of the user its maker is bound to.
pub(super) fn grant(bound: Option<&str>, asked: Option<String>) -> Result<Option<String>, Refusal> {
    match (bound, &asked) {
        (Some(bound), Some(user)) if bound != user => Err(Refusal::OtherUser),
        (Some(bound), _) => Ok(Some(bound.to_string())),
        (None, _) => Ok(asked),
    }
}

fn sees(call: &Call<'_>, endpoint: &Endpoint) -> bool {
    call.caller.user.as_deref().is_none_or(|bound| endpoint.settings.user_id.as_deref() == Some(bound))
}

fn parse_secret(text: &str, settings: &EndpointSettings) -> Result<Secret, Refusal> {
    Secret::parse_for(text, settings.dialect, settings.signature)
        .map_err(|fault| Refusal::invalid(Entry::body("secret", "malformed", fault.to_string())))
}

/// Runs `work` where it may wait for the catalog.
pub(super) async fn blocking<T: Send + 'static, E: Into<Refusal> + Send + 'static>(
    call: &Call<'_>,
    work: impl FnOnce(&Webhooks) -> Result<T, E> + Send + 'static,
) -> Result<T, Refusal> {
    let webhooks = call.app.engine.webhooks().clone();
    let done = tokio::task::spawn_blocking(move || work(&webhooks)).await;
    done.map_err(Refusal::internal)?.map_err(Into::into)
}

/// As [`blocking`], of one endpoint, which the refusal names if it is not there.
pub(super) async fn on_endpoint<T: Send + 'static, E: Into<Refusal> + Send + 'static>(
    call: &Call<'_>,
    id: String,
    work: impl FnOnce(&Webhooks, &str) -> Result<T, E> + Send + 'static,
) -> Result<T, Refusal> {
    let named = id.clone();
    blocking(call, move |webhooks| work(webhooks, &id)).await.map_err(|refusal| match refusal {
        Refusal::UnknownEndpoint { .. } => Refusal::UnknownEndpoint { id: named },
        other => other,
    })
}

impl From<WebhookError> for Refusal {
    fn from(fault: WebhookError) -> Refusal {
        let invalid = |field, kind, message: String| Refusal::invalid(Entry::body(field, kind, message));
        match fault {
            WebhookError::Unknown => Refusal::UnknownEndpoint { id: String::new() },
            WebhookError::Target(fault) => {
                // Only what the operator could open is a matter of where it leads.
                let kind = match fault {
                    TargetFault::Forbidden { .. } | TargetFault::PlainHttp { .. } => "forbidden_target",
                    TargetFault::TooLong { .. } => "too_long",
                    _ => "malformed",
                };
                invalid("url", kind, fault.to_string())
            }
            WebhookError::Settings(fault) => {
                let kind = match fault {
                    SettingsFault::Range { .. } => "out_of_range",
                    SettingsFault::StandardOnly { .. } => "standard_only",
                };
                invalid(fault.field(), kind, fault.to_string())
            }
            // One that is brought was read before: this is the one that the endpoint has.
            WebhookError::Secret(_) => invalid("secret", "malformed", KEPT_SECRET.to_owned()),
            WebhookError::Header(fault) => {
                let kind = if fault.is_too_many() { "too_many" } else { "forbidden_header" };
                invalid("headers", kind, fault.to_string())
            }
            WebhookError::Manual(fault) => AgainError::from(fault).into(),
            WebhookError::TooMany { .. } | WebhookError::TooManyOfUser => {
                Refusal::TooManyEndpoints { text: fault.to_string() }
            }
            WebhookError::Catalog(fault) => Refusal::catalog(fault),
            other => Refusal::Internal { inside: crate::error::chain(&other) },
        }
    }
}

fn list_from(step: Option<&Step>) -> ListFrom {
    match step {
        None => ListFrom::Start,
        Some(Step::Behind(place)) => ListFrom::Behind(place.clone()),
        Some(Step::Before(place)) => ListFrom::Before(place.clone()),
    }
}

fn place(endpoint: &Endpoint) -> Place<'_> {
    (endpoint.created_at, &endpoint.id)
}

pub(super) fn show(endpoint: &Endpoint) -> Shown<'_> {
    let settings = &endpoint.settings;
    Shown {
        id: &endpoint.id,
        url: &settings.url,
        description: settings.description.as_deref(),
        name: settings.name.as_deref(),
        filter_types: settings.filter_types.as_ref(),
        user_id: settings.user_id.as_deref(),
        dialect: settings.dialect.as_str(),
        signature: settings.signature.as_str(),
        public_key: endpoint.public_key.as_deref(),
        headers: settings.headers.keys().map(|name| (name.as_str(), REDACTED)).collect(),
        active: settings.active,
        attributes: settings.attributes.as_ref(),
        send_organization_code: settings.send_organization_code,
        timeout_seconds: settings.timeout_seconds,
        timeseries: match settings.timeseries {
            Timeseries::Group => "group",
            Timeseries::Granular => "granular",
        },
        payload: match settings.payload {
            PayloadSize::Full => "full",
            PayloadSize::Thin => "thin",
        },
        coalesce_ms: settings.coalesce_ms,
        batch_events: settings.batch_events,
        rate_limit_per_second: settings.rate_limit_per_second,
        created_at: timestamp(endpoint.created_at),
        updated_at: timestamp(endpoint.updated_at),
    }
}
