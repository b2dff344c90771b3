//! `POST /external-events/`: Azodha's call that configures a webhook. It makes an
//! endpoint of the dialect `azodha` for one of its events.

use hyper::StatusCode;
use serde_json::{Map, Value, json};
use systole_engine::events::topics::EventCatalogue;

use super::endpoints::{grant, make, show};
use super::wish::new_settings;
use crate::error::{Entry, Quoted, Refusal};
use crate::manage::fields::{fields, flag, read_body, refuse_unknown, text};
use crate::reply::{self, Reply};
use crate::route::Call;

const KNOWN: [&str; 8] = [
    "organizationId",
    "secret",
    "attributes",
    "webhookEventId",
    "name",
    "url",
    "active",
    "sendOrganizationCode",
];

pub(crate) async fn configure(mut call: Call<'_>) -> Result<Reply, Refusal> {
    let body = read_body(&mut call).await?;
    let fields = fields(&body)?;
    refuse_unknown(&fields, &KNOWN, "configuration")?;
    // It may only say again what the key says.
    if text(&fields, "organizationId")?.is_some_and(|org| *org != *call.org) {
        return Err(Refusal::OtherOrg);
    }
    let catalogue = call.app.engine.webhooks().catalogue(&call.org);
    let mut wish = Map::new();
    wish.insert("dialect".to_owned(), json!("azodha"));
    wish.insert("filter_types".to_owned(), json!([event(&fields, &catalogue)?]));
    wish.insert("send_organization_code".to_owned(), json!(flag(&fields, "sendOrganizationCode")?));
    for same in ["url", "name", "active", "attributes"] {
        if let Some(value) = fields.get(same) {
            wish.insert(same.to_owned(), value.clone());
        }
    }
    let mut settings = new_settings(&wish, &catalogue)?;
    settings.user_id = grant(call.caller.user.as_deref(), None)?;
    let made = make(&call, settings, text(&fields, "secret")?).await?;
    Ok(reply::json_of(StatusCode::OK, &show(&made)))
}

/// The event's name, which may be given by its place in Azodha's document, from 1.
fn event(fields: &Map<String, Value>, catalogue: &EventCatalogue) -> Result<String, Refusal> {
    let names = catalogue.names_of("azodha");
    let refuse = |kind, message: String| Err(Refusal::invalid(Entry::body("webhookEventId", kind, message)));
    let given = match fields.get("webhookEventId") {
        None | Some(Value::Null) => return refuse("missing", "is missing".to_owned()),
        Some(Value::String(text)) => text.clone(),
        Some(other) => other.to_string(),
    };
    let place = given.parse::<usize>().ok().and_then(|number| number.checked_sub(1));
    let name = place.and_then(|place| names.get(place)).or_else(|| names.iter().find(|name| **name == given));
    match name {
        Some(name) => Ok((*name).to_owned()),
        None => {
            let message = format!(
                "must be 1 to {} or the name of an Azodha event, not {}",
                names.len(),
                Quoted(&given)
            );
            refuse("unknown_event_type", message)
        }
    }
}
