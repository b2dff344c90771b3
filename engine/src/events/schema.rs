//! JSON Schemas (2020-12) of event types, and an example of each.
//!
//! Both are of a whole body, as an endpoint gets it whose dialect is that of the system
//! the type comes from; types of Open Wearables and ours in `standard`. In another
//! dialect the data is the same, but for the words for metrics and units, and the
//! members around it are the dialect's.

use serde_json::{Value, json};
use systole_dispatch::dialect::{Dialect, Envelope};
use systole_dispatch::notice::{DisabledReason, ENDPOINT_DISABLED, MESSAGE_FAILED};

use super::example::example;
use super::fields::Fields;
use super::topics::{EventCatalogue, EventType};
use crate::registry::Metric;

/// 2026-06-30T07:45:01.123Z: examples do not change from call to call.
const EXAMPLE_TIME_MS: i64 = 1_782_805_501_123;
const EXAMPLE_ID: &str = "evt_24cr4d6ey69jxv0v2914ggnmrg";
const EXAMPLE_ORG: &str = "default";
const DRAFT: &str = "https://json-schema.org/draft/2020-12/schema";

impl EventCatalogue {
    /// The schema of a type's body.
    #[must_use]
    pub fn schema(&self, known: &EventType) -> Value {
        let metrics = self.metrics_of(&known.name);
        let data = match metrics.as_slice() {
            [] => notice(&known.name).unwrap_or_else(|| Fields::of(&known.system, &known.fields).schema()),
            metrics => samples(metrics),
        };
        envelope(known, &data)
    }

    /// An example of a type's body; it fits the schema.
    ///
    /// # Panics
    /// If a dialect writes what is not JSON.
    #[must_use]
    pub fn example(&self, known: &EventType) -> Value {
        let dialect = dialect_of(&known.system);
        let payload = example(self, &known.name, EXAMPLE_TIME_MS);
        let envelope = Envelope {
            id: EXAMPLE_ID,
            publisher_id: None,
            name: &known.name,
            timestamp: payload.timestamp(),
            timestamp_ms: payload.timestamp_ms(),
            org: EXAMPLE_ORG,
            attributes: None,
            send_organization_code: false,
        };
        let mut body = Vec::new();
        dialect.write_body(&envelope, |out| payload.write_data(dialect.vocabulary(), false, out), &mut body);
        serde_json::from_slice(&body).expect("dialects and payloads write JSON")
    }
}

fn dialect_of(system: &str) -> Dialect {
    Dialect::parse(system).unwrap_or_default()
}

fn envelope(known: &EventType, data: &Value) -> Value {
    let name = json!({ "const": known.name });
    let (properties, required) = match dialect_of(&known.system) {
        Dialect::Standard => {
            (json!({"type": name, "timestamp": time(), "data": data}), json!(["type", "timestamp", "data"]))
        }
        Dialect::Avycenna => (
            json!({"event": name, "event_id": {"type": "string"}, "timestamp": time(), "data": data}),
            json!(["event", "event_id", "timestamp", "data"]),
        ),
        Dialect::Avon => (
            json!({"event": name, "created_at": {"type": "integer"}, "object": data}),
            json!(["event", "created_at", "object"]),
        ),
        Dialect::Azodha => (
            json!({
                "eventName": name,
                "eventType": {"type": "string"},
                "eventSubType": {"type": "string"},
                "organizationId": {"type": "string"},
                "organizationCode": {},
                "attributes": {"type": "object"},
                "data": data,
            }),
            json!(["eventName", "organizationId", "data"]),
        ),
    };
    json!({
        "$schema": DRAFT,
        "title": known.name,
        "description": known.description,
        "type": "object",
        "properties": properties,
        "required": required,
    })
}

/// Data of samples of one of these metrics, in Open Wearables' words where it has some.
fn samples(metrics: &[&Metric]) -> Value {
    let codes = one_of(metrics.iter().map(|metric| metric.ow_code.as_deref().unwrap_or(&metric.key)));
    let units = one_of(metrics.iter().map(|metric| metric.ow_unit.as_deref().unwrap_or(&metric.unit)));
    let least = metrics.iter().map(|metric| metric.hard_min).fold(f64::INFINITY, f64::min);
    let most = metrics.iter().map(|metric| metric.hard_max).fold(f64::NEG_INFINITY, f64::max);
    let sample = json!({
        "type": "object",
        "properties": {
            "timestamp": time(),
            "zone_offset": {"type": ["string", "null"]},
            "type": codes,
            "value": {"type": "number", "minimum": least, "maximum": most},
            "unit": units,
            "source": {
                "type": "object",
                "properties": {"provider": {"type": "string"}, "device": {"type": ["string", "null"]}},
                "required": ["provider", "device"],
            },
            "is_daily_total": {"type": ["boolean", "null"]},
        },
        "required": ["timestamp", "zone_offset", "type", "value", "unit", "source", "is_daily_total"],
    });
    json!({
        "type": "object",
        "properties": {
            "user_id": {"type": "string"},
            "provider": {"type": "string"},
            "series_type": codes,
            "sample_count": {"type": "integer", "minimum": 1},
            "ordering": {"type": "integer", "minimum": 0},
            "start_time": time(),
            "end_time": time(),
            "backfill": {"const": true},
            "chunk_index": {"type": "integer", "minimum": 0},
            "total_chunks": {"type": "integer", "minimum": 2},
            "samples": {
                "type": "array",
                "items": sample,
                "description": "Absent at endpoints whose payload is thin.",
            },
        },
        "required": ["user_id", "provider", "series_type", "sample_count", "ordering", "start_time", "end_time"],
    })
}

/// Data of what the server publishes itself, as [`super::notices`] writes it.
fn notice(name: &str) -> Option<Value> {
    match name {
        MESSAGE_FAILED => Some(message_failed()),
        ENDPOINT_DISABLED => Some(endpoint_disabled()),
        _ => None,
    }
}

fn message_failed() -> Value {
    json!({
        "type": "object",
        "properties": {
            "endpoint_id": {"type": "string", "description": "The endpoint that did not take them."},
            "message_id": {
                "type": ["string", "null"],
                "description": "Null where several were given up as a range, and where it is not known or not to be named.",
            },
            "event_type": {
                "type": ["string", "null"],
                "description": "Null as `message_id` is, and where the payload is gone.",
            },
            "message_count": {
                "type": ["integer", "null"],
                "minimum": 1,
                "description": "How many events were given up; null where they were not counted.",
            },
            "status_code": {
                "type": ["integer", "null"],
                "minimum": 100,
                "maximum": 999,
                "description": "Of the last answer; null if there was none.",
            },
            "error": {"type": ["string", "null"], "description": "Why there was no answer, or no further attempt."},
            "attempt_count": {
                "type": "integer",
                "minimum": 0,
                "description": "Attempts made; 0 of a range, and where they are not known.",
            },
        },
        "required": [
            "endpoint_id",
            "message_id",
            "event_type",
            "message_count",
            "status_code",
            "error",
            "attempt_count",
        ],
    })
}

fn endpoint_disabled() -> Value {
    let reasons = [DisabledReason::Failing, DisabledReason::Gone].map(DisabledReason::as_str);
    json!({
        "type": "object",
        "properties": {
            "endpoint_id": {"type": "string", "description": "The endpoint that takes nothing any more."},
            "reason": {
                "enum": reasons,
                "description": "`failing`: it only failed for 5 days. `gone`: it answered 410.",
            },
            "failing_since": {
                "type": ["string", "null"],
                "format": "date-time",
                "description": "Null if the attempt before was answered 2xx.",
            },
        },
        "required": ["endpoint_id", "reason", "failing_since"],
    })
}

fn one_of<'a>(words: impl Iterator<Item = &'a str>) -> Value {
    let words: std::collections::BTreeSet<&str> = words.collect();
    json!({ "enum": words })
}

fn time() -> Value {
    json!({"type": "string", "format": "date-time"})
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use systole_dispatch::event::Cursor;
    use systole_dispatch::notice::{EndpointDisabled, FailedMessage, MessageFailed, Notice};

    use super::super::notices::event_of;
    use super::super::topics::EventTopics;
    use super::*;
    use crate::registry::Registry;
    use crate::timestamp::parse_rfc3339;

    fn catalogue() -> EventCatalogue {
        EventCatalogue::new(Arc::new(EventTopics::new()), Arc::new(Registry::builtin()))
    }

    /// What a value violates, by the keywords that the schemas use and no others.
    fn faults(schema: &Value, value: &Value, at: &str, out: &mut Vec<String>) {
        for (keyword, expected) in schema.as_object().unwrap() {
            let holds = match keyword.as_str() {
                "$schema" | "title" | "description" => true,
                "type" => {
                    let types = expected.as_array().cloned().unwrap_or_else(|| vec![expected.clone()]);
                    types.iter().any(|kind| is(kind.as_str().unwrap(), value))
                }
                "const" => value == expected,
                "enum" => expected.as_array().unwrap().contains(value),
                "minimum" => value.as_f64().is_none_or(|value| value >= expected.as_f64().unwrap()),
                "maximum" => value.as_f64().is_none_or(|value| value <= expected.as_f64().unwrap()),
                "format" => {
                    assert_eq!(expected, "date-time");
                    value.as_str().is_none_or(|text| parse_rfc3339(text).is_ok())
                }
                "required" => expected.as_array().unwrap().iter().all(|name| {
                    value.as_object().is_none_or(|object| object.contains_key(name.as_str().unwrap()))
                }),
                "properties" => {
                    for (name, schema) in expected.as_object().unwrap() {
                        if let Some(value) = value.get(name) {
                            faults(schema, value, &format!("{at}/{name}"), out);
                        }
                    }
                    true
                }
                "items" => {
                    value.as_array().into_iter().flatten().for_each(|item| {
                        faults(expected, item, &format!("{at}/[]"), out);
                    });
                    true
                }
                other => panic!("{other} is no keyword this test knows"),
            };
            if !holds {
                out.push(format!("{at}: {value} violates {keyword} {expected}"));
            }
        }
    }

    fn is(kind: &str, value: &Value) -> bool {
        match kind {
            "object" => value.is_object(),
            "array" => value.is_array(),
            "string" => value.is_string(),
            "number" => value.is_number(),
            "integer" => value.is_i64() || value.is_u64(),
            "boolean" => value.is_boolean(),
            "null" => value.is_null(),
            other => panic!("{other} is no type"),
        }
    }

    fn violations(schema: &Value, value: &Value) -> Vec<String> {
        let mut out = Vec::new();
        faults(schema, value, "", &mut out);
        out
    }

    #[test]
    fn every_example_fits_its_schema_and_has_every_documented_field() {
        let catalogue = catalogue();
        let types = catalogue.types();
        assert!(types.len() > 300, "{}", types.len());
        for known in &types {
            let (schema, example) = (catalogue.schema(known), catalogue.example(known));
            assert_eq!(violations(&schema, &example), Vec::<String>::new(), "{}", known.name);
            assert_eq!(schema["$schema"], DRAFT);
            for field in known.fields.iter().filter(|field| *field != "?" && !field.contains("chunk")) {
                let path = field.replace("[].", "/0/").replace("[]", "/0").replace('.', "/");
                // Azodha's page does not say where its names stand.
                let places = [format!("/{path}"), format!("/data/{path}")];
                let places = if known.system == "azodha" { &places[..] } else { &places[..1] };
                let found = places.iter().any(|place| example.pointer(place).is_some());
                assert!(found, "{}: {field} is not in {example}", known.name);
            }
        }
    }

    #[test]
    fn a_body_that_differs_does_not_fit() {
        let catalogue = catalogue();
        let types = catalogue.types();
        let known = types.iter().find(|known| known.name == "heart_rate.created").unwrap();
        let (schema, example) = (catalogue.schema(known), catalogue.example(known));
        let changes: [(&str, Value); 8] = [
            ("/type", json!("steps.created")),
            ("/timestamp", json!("yesterday")),
            ("/data/series_type", json!("weight")),
            ("/data/sample_count", json!(1.5)),
            ("/data/samples", json!({})),
            ("/data/samples/0/value", json!("62")),
            ("/data/samples/0/value", json!(1e6)),
            ("/data/samples/0/unit", json!("stone")),
        ];
        for (pointer, value) in changes {
            let mut changed = example.clone();
            *changed.pointer_mut(pointer).unwrap() = value;
            assert_eq!(violations(&schema, &changed).len(), 1, "{pointer}");
        }
        let mut cut = example.clone();
        cut["data"].as_object_mut().unwrap().remove("ordering");
        assert_eq!(violations(&schema, &cut).len(), 1);
    }

    /// The body of a notice, but for its time.
    fn body_of(catalogue: &EventCatalogue, notice: &Notice) -> (Value, Value) {
        let (_, _, name, data) = event_of(notice);
        let known = catalogue.types().into_iter().find(|known| known.name == name).unwrap();
        let body = json!({"type": name, "timestamp": "2026-06-30T07:45:01.123Z", "data": data});
        (catalogue.schema(&known), body)
    }

    fn failed(message: Option<FailedMessage>, count: Option<u64>) -> MessageFailed {
        let (from, through) = (Cursor::behind(6), Cursor::behind(7));
        let (endpoint, org, noted) = ("ep_1".into(), "acme".into(), Vec::new());
        let (user, status_code, error, attempts) = (None, None, None, 0);
        MessageFailed {
            endpoint,
            org,
            from,
            through,
            message,
            count,
            user,
            status_code,
            error,
            attempts,
            noted,
        }
    }

    #[test]
    fn what_the_server_publishes_itself_fits_its_schema_and_what_differs_does_not() {
        let catalogue = catalogue();
        let message = |event_type: Option<&str>| {
            Some(FailedMessage { id: "evt_1".to_owned(), event_type: event_type.map(str::to_owned) })
        };
        let answered = MessageFailed {
            status_code: Some(503),
            attempts: 8,
            ..failed(message(Some("steps.created")), Some(1))
        };
        let unanswered = MessageFailed {
            error: Some("timed out".to_owned()),
            attempts: 1,
            ..failed(message(None), Some(3))
        };
        let disabled = |reason, failing_since_ms| {
            let (endpoint, org) = ("ep_1".into(), "acme".into());
            Notice::EndpointDisabled(EndpointDisabled { endpoint, org, reason, failing_since_ms, at_ms: 9 })
        };
        let notices = [
            Notice::MessageFailed(answered.clone()),
            Notice::MessageFailed(unanswered),
            Notice::MessageFailed(failed(None, None)),
            disabled(DisabledReason::Failing, Some(1_782_805_501_123)),
            disabled(DisabledReason::Gone, None),
        ];
        for notice in &notices {
            let (schema, body) = body_of(&catalogue, notice);
            assert_eq!(violations(&schema, &body), Vec::<String>::new(), "{body}");
            // No field but those that are described.
            let described = schema["properties"]["data"]["properties"].as_object().unwrap();
            assert!(described.keys().eq(body["data"].as_object().unwrap().keys()), "{body}");
        }
        let changes = [
            (Notice::MessageFailed(answered.clone()), "/data/attempt_count", json!("8")),
            (Notice::MessageFailed(answered.clone()), "/data/attempt_count", Value::Null),
            (Notice::MessageFailed(answered.clone()), "/data/message_count", json!(0)),
            (Notice::MessageFailed(answered.clone()), "/data/status_code", json!(20)),
            (Notice::MessageFailed(answered), "/data/endpoint_id", Value::Null),
            (disabled(DisabledReason::Gone, None), "/data/reason", json!("tired")),
            (disabled(DisabledReason::Gone, None), "/data/failing_since", json!("yesterday")),
        ];
        for (notice, pointer, value) in changes {
            let (schema, mut body) = body_of(&catalogue, &notice);
            *body.pointer_mut(pointer).unwrap() = value;
            assert_eq!(violations(&schema, &body).len(), 1, "{body}");
        }
    }

    #[test]
    fn a_group_has_the_words_of_all_its_metrics_and_a_series_its_own() {
        let catalogue = catalogue();
        let types = catalogue.types();
        let codes = |name: &str| {
            let known = types.iter().find(|known| known.name == name).unwrap();
            let schema = catalogue.schema(known);
            schema["properties"]["data"]["properties"]["series_type"]["enum"].clone()
        };
        assert_eq!(codes("series.resting_heart_rate.created"), json!(["resting_heart_rate"]));
        let group = codes("heart_rate.updated");
        let group = group.as_array().unwrap();
        assert!(
            group.contains(&json!("heart_rate")) && group.contains(&json!("resting_heart_rate")),
            "{group:?}"
        );
    }
}
