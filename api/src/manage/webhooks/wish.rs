//! What the body of a `POST` or `PATCH` asks of an endpoint.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::RangeInclusive;

use serde_json::{Map, Value};
use systole_engine::events::topics::EventCatalogue;
use systole_engine::events::webhooks::{
    BATCH_EVENTS, COALESCE_MS, Dialect, EndpointSettings, PayloadSize, RATE_LIMIT_PER_SECOND, SignatureKind,
    Timeseries, WebhookError,
};

use crate::error::{Entry, Quoted, Refusal, Sent};
use crate::manage::fields::{Faults, flag, text, user};

/// What stands for the value of a header where an endpoint is shown.
pub(super) const REDACTED: &str = "[redacted]";

/// Longest description or name.
const TEXT_CHARS_MAX: usize = 1024;
/// Most names of a filter.
const FILTER_NAMES_MAX: usize = 1024;
/// How long an exchange may be asked to take.
const TIMEOUT_SECONDS: RangeInclusive<u32> = 1..=60;

/// Every field an endpoint has.
const KNOWN: [&str; 18] = [
    "url",
    "description",
    "name",
    "filter_types",
    "user_id",
    "dialect",
    "signature",
    "secret",
    "headers",
    "active",
    "attributes",
    "send_organization_code",
    "timeout_seconds",
    "timeseries",
    "payload",
    "coalesce_ms",
    "batch_events",
    "rate_limit_per_second",
];

/// The settings of a new endpoint.
pub(super) fn new_settings(
    fields: &Map<String, Value>,
    catalogue: &EventCatalogue,
) -> Result<EndpointSettings, Refusal> {
    // What is wrong with it is told with the rest.
    let dialect = dialect(fields).ok().flatten().unwrap_or_default();
    let mut settings = EndpointSettings::new(String::new(), dialect);
    let mut faults = read(fields, &mut settings, catalogue)?;
    // Behind the field that may be its name, misspelt.
    if fields.get("url").is_none_or(Value::is_null) {
        faults.push(Entry::body("url", "missing", "is missing"));
    }
    faults.end()?;
    settings.check().map_err(WebhookError::from)?;
    Ok(settings)
}

/// Changes what a body names; `null` takes a value away.
pub(super) fn apply(
    fields: &Map<String, Value>,
    settings: &mut EndpointSettings,
    catalogue: &EventCatalogue,
) -> Result<(), Refusal> {
    read(fields, settings, catalogue)?.end()?;
    settings.check().map_err(WebhookError::from)?;
    Ok(())
}

/// Reads every field, each by itself, and says what is wrong with them.
fn read(
    fields: &Map<String, Value>,
    settings: &mut EndpointSettings,
    catalogue: &EventCatalogue,
) -> Result<Faults, Refusal> {
    let mut faults = Faults::of_unknown(fields, &KNOWN, "endpoint");
    if let Some(Some(url)) = faults.note(text(fields, "url"))? {
        settings.url = url;
    }
    if let Some(Some(dialect)) = faults.note(dialect(fields))? {
        settings.dialect = dialect;
    }
    for (field, value) in [("description", &mut settings.description), ("name", &mut settings.name)] {
        if fields.contains_key(field) {
            *value = faults.note(short_text(fields, field))?.flatten();
        }
    }
    if fields.contains_key("filter_types") {
        settings.filter_types = faults.note(filter_types(fields, catalogue))?.flatten();
    }
    if fields.contains_key("user_id") {
        settings.user_id = faults.note(user(fields))?.flatten();
    }
    if fields.contains_key("headers") {
        settings.headers = faults.note(headers(fields, &settings.headers))?.unwrap_or_default();
    }
    if fields.contains_key("attributes") {
        settings.attributes = faults.note(attributes(fields))?.flatten();
    }
    // Whether it fits is for whoever takes it.
    faults.note(text(fields, "secret"))?;
    read_flags(fields, settings, &mut faults)?;
    read_numbers(fields, settings, &mut faults)?;
    read_choices(fields, settings, &mut faults)?;
    Ok(faults)
}

fn read_flags(
    fields: &Map<String, Value>,
    settings: &mut EndpointSettings,
    faults: &mut Faults,
) -> Result<(), Refusal> {
    for (field, value) in
        [("active", &mut settings.active), ("send_organization_code", &mut settings.send_organization_code)]
    {
        if let Some(Some(flag)) = faults.note(flag(fields, field))? {
            *value = flag;
        }
    }
    Ok(())
}

fn read_numbers(
    fields: &Map<String, Value>,
    settings: &mut EndpointSettings,
    faults: &mut Faults,
) -> Result<(), Refusal> {
    if let Some(Some(seconds)) = faults.note(number(fields, "timeout_seconds", &TIMEOUT_SECONDS))? {
        settings.timeout_seconds = seconds;
    }
    for (field, range, value) in [
        ("coalesce_ms", &COALESCE_MS, &mut settings.coalesce_ms),
        ("batch_events", &BATCH_EVENTS, &mut settings.batch_events),
        ("rate_limit_per_second", &RATE_LIMIT_PER_SECOND, &mut settings.rate_limit_per_second),
    ] {
        if fields.contains_key(field) {
            *value = faults.note(number(fields, field, range))?.flatten();
        }
    }
    Ok(())
}

fn read_choices(
    fields: &Map<String, Value>,
    settings: &mut EndpointSettings,
    faults: &mut Faults,
) -> Result<(), Refusal> {
    let timeseries =
        choice(fields, "timeseries", [("group", Timeseries::Group), ("granular", Timeseries::Granular)]);
    if let Some(Some(choice)) = faults.note(timeseries)? {
        settings.timeseries = choice;
    }
    let payload = choice(fields, "payload", [("full", PayloadSize::Full), ("thin", PayloadSize::Thin)]);
    if let Some(Some(choice)) = faults.note(payload)? {
        settings.payload = choice;
    }
    let signature = choice(fields, "signature", [("v1", SignatureKind::V1), ("v1a", SignatureKind::V1a)]);
    if let Some(Some(choice)) = faults.note(signature)? {
        settings.signature = choice;
    }
    Ok(())
}

fn short_text(fields: &Map<String, Value>, field: &'static str) -> Result<Option<String>, Refusal> {
    let value = text(fields, field)?;
    if value.as_ref().is_some_and(|value| value.chars().count() > TEXT_CHARS_MAX) {
        let message = format!("must be at most {TEXT_CHARS_MAX} characters");
        return Err(Refusal::invalid(Entry::body(field, "too_long", message)));
    }
    Ok(value)
}

fn dialect(fields: &Map<String, Value>) -> Result<Option<Dialect>, Refusal> {
    let Some(name) = text(fields, "dialect")? else { return Ok(None) };
    match Dialect::parse(&name) {
        Some(dialect) => Ok(Some(dialect)),
        None => {
            let message = format!("must be standard, avycenna, avon or azodha, not {}", Quoted(&name));
            Err(Refusal::invalid(Entry::body("dialect", "unknown_dialect", message)))
        }
    }
}

/// The names of a filter; none and an empty list mean everything.
fn filter_types(
    fields: &Map<String, Value>,
    catalogue: &EventCatalogue,
) -> Result<Option<BTreeSet<String>>, Refusal> {
    let refuse = |kind, message: String| Err(Refusal::invalid(Entry::body("filter_types", kind, message)));
    let list = match fields.get("filter_types") {
        None | Some(Value::Null) => return Ok(None),
        Some(Value::Array(list)) if list.len() <= FILTER_NAMES_MAX => list,
        Some(Value::Array(list)) => {
            let message = format!("are {}, at most {FILTER_NAMES_MAX} event types are taken", list.len());
            return refuse("too_many", message);
        }
        Some(_) => return refuse("wrong_type", "must be an array of event types".to_owned()),
    };
    let mut names = BTreeSet::new();
    for value in list {
        let Some(name) = value.as_str() else {
            return refuse("wrong_type", "must be an array of texts".to_owned());
        };
        if !catalogue.has(name) {
            let near = catalogue.nearest(name);
            let hint = match near.as_slice() {
                [] => "GET /api/v1/webhooks/event-types lists them".to_owned(),
                near => format!("perhaps {}", near.join(" or ")),
            };
            return refuse("unknown_event_type", format!("{} is no event type; {hint}", Quoted(name)));
        }
        names.insert(name.to_owned());
    }
    Ok((!names.is_empty()).then_some(names))
}

/// The endpoint's own headers. `kept` are those it has: one that is sent as it is shown keeps
/// its value.
fn headers(
    fields: &Map<String, Value>,
    kept: &BTreeMap<String, String>,
) -> Result<BTreeMap<String, String>, Refusal> {
    let refuse = |kind, message: String| Err(Refusal::invalid(Entry::body("headers", kind, message)));
    let wrong_type = || refuse("wrong_type", "must be an object of texts".to_owned());
    let Some(value) = fields.get("headers").filter(|value| !value.is_null()) else {
        return Ok(BTreeMap::new());
    };
    let Some(object) = value.as_object() else { return wrong_type() };
    let mut headers: BTreeMap<String, String> = BTreeMap::new();
    for (name, value) in object {
        let Some(value) = value.as_str() else { return wrong_type() };
        if let Some(other) = headers.keys().find(|other| other.eq_ignore_ascii_case(name)) {
            let message = format!("name {} and {}, which are one header", Quoted(other), Quoted(name));
            return refuse("forbidden_header", message);
        }
        if value == REDACTED {
            // As it is written there: by name and value it is known to be the same.
            match kept.iter().find(|(kept, _)| kept.eq_ignore_ascii_case(name)) {
                Some((name, value)) => headers.insert(name.clone(), value.clone()),
                None => return refuse("forbidden_header", nothing_kept(name)),
            };
            continue;
        }
        if let Err(fault) = EndpointSettings::check_header_value(value) {
            return refuse("forbidden_header", format!("have a value of {} that {fault}", Quoted(name)));
        }
        headers.insert(name.clone(), value.to_owned());
    }
    Ok(headers)
}

fn nothing_kept(name: &str) -> String {
    format!(
        "have the value {REDACTED} of {}, which stands for a value that is kept and not shown; \
         the endpoint has no header of this name, send its value",
        Quoted(name)
    )
}

fn attributes(fields: &Map<String, Value>) -> Result<Option<Map<String, Value>>, Refusal> {
    match fields.get("attributes") {
        None | Some(Value::Null) => Ok(None),
        Some(Value::Object(attributes)) => Ok(Some(attributes.clone())),
        Some(_) => Err(Refusal::invalid(Entry::body("attributes", "wrong_type", "must be an object"))),
    }
}

/// A whole number of a range; `null` is as good as absent.
pub(super) fn number(
    fields: &Map<String, Value>,
    field: &'static str,
    range: &RangeInclusive<u32>,
) -> Result<Option<u32>, Refusal> {
    let value = match fields.get(field) {
        None | Some(Value::Null) => return Ok(None),
        Some(value) => value,
    };
    let refuse = |kind| {
        let (least, most) = (range.start(), range.end());
        let message = format!("must be a whole number from {least} to {most}, not {}", Sent(value));
        Err(Refusal::invalid(Entry::body(field, kind, message)))
    };
    if !value.is_i64() && !value.is_u64() {
        return refuse("wrong_type");
    }
    let number = value.as_u64().and_then(|number| u32::try_from(number).ok());
    match number.filter(|number| range.contains(number)) {
        Some(number) => Ok(Some(number)),
        None => refuse("out_of_range"),
    }
}

fn choice<T: Copy>(
    fields: &Map<String, Value>,
    field: &'static str,
    known: [(&str, T); 2],
) -> Result<Option<T>, Refusal> {
    let Some(name) = text(fields, field)? else { return Ok(None) };
    match known.iter().find(|(known, _)| *known == name) {
        Some((_, value)) => Ok(Some(*value)),
        None => {
            let message = format!("must be {} or {}, not {}", known[0].0, known[1].0, Quoted(&name));
            Err(Refusal::invalid(Entry::body(field, "unknown_value", message)))
        }
    }
}
