//! What the body of a `POST` or `PATCH` asks of an endpoint.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::RangeInclusive;

use serde_json::{Map, Value};
use systole_engine::events::topics::EventCatalogue;
use systole_engine::events::webhooks::{
    BATCH_EVENTS, COALESCE_MS, Dialect, EndpointSettings, PayloadSize, RATE_LIMIT_PER_SECOND, SignatureKind,
    Timeseries, WebhookError,
};

use crate::error::{Entry, Place, Quoted, Refusal};
use crate::manage::fields::{flag, text, user};

/// Longest description or name.
const TEXT_CHARS_MAX: usize = 1024;
/// Most names of a filter.
const FILTER_NAMES_MAX: usize = 1024;
/// Longer names of fields are like none: the longest has 22 bytes.
const NAME_BYTES_MAX: usize = 64;
/// From 0 to 1; below it another word was meant.
const LIKENESS_MIN: f64 = 0.6;
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
    let Some(url) = text(fields, "url")? else {
        // What is no field at all may be its name, misspelt.
        let unknown = first_unknown(fields, &KNOWN).map(|name| unknown_entry(name, &KNOWN, "endpoint"));
        let missing = Entry::body("url", "missing", "is missing");
        let detail = unknown.into_iter().chain([missing]).collect();
        return Err(Refusal::Invalid { detail, rejected: None });
    };
    let dialect = dialect(fields)?.unwrap_or_default();
    let mut settings = EndpointSettings::new(url, dialect);
    apply(fields, &mut settings, catalogue)?;
    Ok(settings)
}

/// Changes what a body names; `null` takes a value away.
pub(super) fn apply(
    fields: &Map<String, Value>,
    settings: &mut EndpointSettings,
    catalogue: &EventCatalogue,
) -> Result<(), Refusal> {
    refuse_unknown(fields, &KNOWN, "endpoint")?;
    if let Some(url) = text(fields, "url")? {
        settings.url = url;
    }
    if let Some(dialect) = dialect(fields)? {
        settings.dialect = dialect;
    }
    for (field, value) in [("description", &mut settings.description), ("name", &mut settings.name)] {
        if fields.contains_key(field) {
            *value = short_text(fields, field)?;
        }
    }
    if fields.contains_key("filter_types") {
        settings.filter_types = filter_types(fields, catalogue)?;
    }
    if fields.contains_key("user_id") {
        settings.user_id = user(fields)?;
    }
    if fields.contains_key("headers") {
        settings.headers = headers(fields)?;
    }
    if fields.contains_key("attributes") {
        settings.attributes = attributes(fields)?;
    }
    if let Some(active) = flag(fields, "active")? {
        settings.active = active;
    }
    if let Some(send) = flag(fields, "send_organization_code")? {
        settings.send_organization_code = send;
    }
    if let Some(seconds) = number(fields, "timeout_seconds", &TIMEOUT_SECONDS)? {
        settings.timeout_seconds = seconds;
    }
    for (field, range, value) in [
        ("coalesce_ms", &COALESCE_MS, &mut settings.coalesce_ms),
        ("batch_events", &BATCH_EVENTS, &mut settings.batch_events),
        ("rate_limit_per_second", &RATE_LIMIT_PER_SECOND, &mut settings.rate_limit_per_second),
    ] {
        if fields.contains_key(field) {
            *value = number(fields, field, range)?;
        }
    }
    if let Some(choice) =
        choice(fields, "timeseries", [("group", Timeseries::Group), ("granular", Timeseries::Granular)])?
    {
        settings.timeseries = choice;
    }
    if let Some(choice) =
        choice(fields, "payload", [("full", PayloadSize::Full), ("thin", PayloadSize::Thin)])?
    {
        settings.payload = choice;
    }
    if let Some(choice) =
        choice(fields, "signature", [("v1", SignatureKind::V1), ("v1a", SignatureKind::V1a)])?
    {
        settings.signature = choice;
    }
    settings.check().map_err(WebhookError::from)?;
    Ok(())
}

/// `what` is what has these fields.
pub(super) fn refuse_unknown(fields: &Map<String, Value>, known: &[&str], what: &str) -> Result<(), Refusal> {
    match first_unknown(fields, known) {
        None => Ok(()),
        Some(name) => Err(unknown_field(name, known, what)),
    }
}

/// The first field that is not known, if there is one.
fn first_unknown<'a>(fields: &'a Map<String, Value>, known: &[&str]) -> Option<&'a str> {
    fields.keys().map(String::as_str).find(|name| !known.contains(name))
}

/// The refusal of a body with a field that no `what` has; names the one that was meant, if
/// it is like one.
pub(super) fn unknown_field(name: &str, known: &[&str], what: &str) -> Refusal {
    Refusal::invalid(unknown_entry(name, known, what))
}

fn unknown_entry(name: &str, known: &[&str], what: &str) -> Entry {
    let hint = nearest_field(name, known).map_or_else(String::new, |near| format!("; did you mean {near}?"));
    let message = format!("has a field that no {what} has: {}{hint}", Quoted(name));
    let place = Place { root: "body", index: None, field: None };
    Entry::new(place, "unknown_field", message)
}

/// The known name that is most like another; letter case and separators do not count.
fn nearest_field<'a>(name: &str, known: &[&'a str]) -> Option<&'a str> {
    // The cost grows with the length of what was sent.
    if name.len() > NAME_BYTES_MAX {
        return None;
    }
    let folded = |name: &str| name.replace(['_', '-'], "").to_ascii_lowercase();
    let name = folded(name);
    let likeness = |known: &str| strsim::normalized_damerau_levenshtein(&name, &folded(known));
    let rated = known.iter().map(|known| (likeness(known), *known));
    let best = rated.max_by(|a, b| a.0.total_cmp(&b.0))?;
    (best.0 > LIKENESS_MIN).then_some(best.1)
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
        Some(_) => {
            return refuse(
                "wrong_type",
                format!("must be an array of at most {FILTER_NAMES_MAX} event types"),
            );
        }
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

fn headers(fields: &Map<String, Value>) -> Result<BTreeMap<String, String>, Refusal> {
    let refuse = || Err(Refusal::invalid(Entry::body("headers", "wrong_type", "must be an object of texts")));
    let Some(value) = fields.get("headers").filter(|value| !value.is_null()) else {
        return Ok(BTreeMap::new());
    };
    let Some(object) = value.as_object() else { return refuse() };
    let mut headers = BTreeMap::new();
    for (name, value) in object {
        let Some(value) = value.as_str() else { return refuse() };
        headers.insert(name.clone(), value.to_owned());
    }
    Ok(headers)
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
    let number = value.as_u64().and_then(|number| u32::try_from(number).ok());
    match number.filter(|number| range.contains(number)) {
        Some(number) => Ok(Some(number)),
        None => {
            let shown = value.to_string();
            let message = format!(
                "must be a whole number from {} to {}, not {}",
                range.start(),
                range.end(),
                Quoted(&shown)
            );
            Err(Refusal::invalid(Entry::body(field, "out_of_range", message)))
        }
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_field_that_is_like_a_known_one_is_told_which() {
        let cases = [
            ("timeoutSeconds", Some("timeout_seconds")),
            ("URL", Some("url")),
            ("ulr", Some("url")),
            ("filter_type", Some("filter_types")),
            ("rate-limit", None),
            ("colour", None),
            ("", None),
        ];
        for (name, expected) in cases {
            assert_eq!(nearest_field(name, &KNOWN), expected, "{name}");
        }
        assert_eq!(nearest_field(&"x".repeat(65), &["x"]), None);
    }
}
