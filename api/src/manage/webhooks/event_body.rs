//! The body of `POST /api/v1/events`: a few short fields, and data that is only passed on.
//!
//! Data must not be parsed into a tree and printed again: that would sort its members
//! and round its numbers. It is looked at twice, once for where it ends and once for
//! whether every parser takes it, and neither keeps anything.

use std::fmt;

use serde::Deserialize;
use serde::de::{Deserializer, MapAccess, SeqAccess, Visitor};
use serde_json::value::RawValue;
use serde_json::{Map, Value};

use crate::error::{Entry, Refusal};
use crate::manage::fields::{malformed, not_an_object, unknown_entry};

/// Every field an event has. Another is refused: a misspelt `event_id` would be an event
/// that comes twice.
const KNOWN: [&str; 4] = ["type", DATA, "user_id", "event_id"];
/// The one that is passed on.
const DATA: &str = "data";

/// An event as it was handed in.
pub(super) struct EventBody<'a> {
    /// All but its data.
    pub(super) fields: Map<String, Value>,
    /// As it was sent, if it is there.
    data: Option<&'a str>,
}

impl<'a> EventBody<'a> {
    pub(super) fn read(body: &'a [u8]) -> Result<EventBody<'a>, Refusal> {
        let members: Members<'a> = serde_json::from_slice(body).map_err(|fault| match fault.is_data() {
            true => not_an_object(),
            false => malformed(body, body, &fault),
        })?;
        let data = members.data.map(RawValue::get).filter(|data| *data != "null");
        if let Some(data) = data {
            serde_json::from_str::<Sound>(data).map_err(|fault| malformed(body, data.as_bytes(), &fault))?;
        }
        if let Some(name) = &members.unknown {
            return Err(Refusal::invalid(unknown_entry(name, &KNOWN, "event")));
        }
        Ok(EventBody { fields: members.fields, data })
    }

    /// Its data, which is an object.
    pub(super) fn data(&self) -> Result<&'a str, Refusal> {
        let refuse = |kind, message: &str| Err(Refusal::invalid(Entry::body("data", kind, message)));
        match self.data {
            None => refuse("missing", "is missing"),
            Some(data) if !data.starts_with('{') => refuse("wrong_type", "must be an object"),
            Some(data) => Ok(data),
        }
    }
}

/// The members of an object; of those that come twice the last.
struct Members<'a> {
    fields: Map<String, Value>,
    data: Option<&'a RawValue>,
    /// The first that no event has.
    unknown: Option<String>,
}

impl<'de> Deserialize<'de> for Members<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Members<'de>, D::Error> {
        struct Object;
        impl<'de> Visitor<'de> for Object {
            type Value = Members<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Members<'de>, A::Error> {
                let mut members = Members { fields: Map::new(), data: None, unknown: None };
                while let Some(name) = map.next_key::<String>()? {
                    if name == DATA {
                        members.data = Some(map.next_value()?);
                    } else if KNOWN.contains(&name.as_str()) {
                        members.fields.insert(name, map.next_value()?);
                    } else {
                        map.next_value::<Sound>()?;
                        members.unknown.get_or_insert(name);
                    }
                }
                Ok(members)
            }
        }
        deserializer.deserialize_map(Object)
    }
}

/// A value that a parser takes whole: texts are Unicode, numbers are in range, and it
/// is not nested deeper than parsers go. Nothing is kept of it.
struct Sound;

impl<'de> Deserialize<'de> for Sound {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Sound, D::Error> {
        // Asked for any value the parser checks it, asked to ignore one it does not.
        deserializer.deserialize_any(Sound)
    }
}

impl<'de> Visitor<'de> for Sound {
    type Value = Sound;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a value")
    }

    fn visit_bool<E>(self, _: bool) -> Result<Sound, E> {
        Ok(self)
    }

    fn visit_i64<E>(self, _: i64) -> Result<Sound, E> {
        Ok(self)
    }

    fn visit_u64<E>(self, _: u64) -> Result<Sound, E> {
        Ok(self)
    }

    fn visit_f64<E>(self, _: f64) -> Result<Sound, E> {
        Ok(self)
    }

    fn visit_str<E>(self, _: &str) -> Result<Sound, E> {
        Ok(self)
    }

    fn visit_unit<E>(self) -> Result<Sound, E> {
        Ok(self)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Sound, A::Error> {
        while seq.next_element::<Sound>()?.is_some() {}
        Ok(self)
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Sound, A::Error> {
        while map.next_entry::<Sound, Sound>()?.is_some() {}
        Ok(self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn data(body: &str) -> Option<&str> {
        EventBody::read(body.as_bytes()).ok()?.data().ok()
    }

    #[test]
    fn data_is_given_as_it_was_sent() {
        let sent = r#"{"z":1,"a":12345678901234567890123,"f":1.10, "u":"\u00e9\\\ud83d\ude00" }"#;
        let body = format!(r#" {{ "user_id" : "}}\", data" ,"type":"t","data":{sent},"event_id":"data" }} "#);
        let read = EventBody::read(body.as_bytes()).ok().unwrap();
        assert_eq!((read.data, read.fields["type"].as_str()), (Some(sent), Some("t")));
        assert_eq!(data(r#"{"data":{"a":1},"data":{"a":2}}"#), Some(r#"{"a":2}"#));
        assert_eq!(data(r#"{"d\u0061ta":{}}"#), Some("{}"));
    }

    #[test]
    fn a_field_that_no_event_has_is_refused_with_the_one_that_was_meant() {
        let cases = [
            (r#"{"type":"t","eventId":"1","data":{}}"#, Some("event_id")),
            (r#"{"type":"t","data":{},"userid":null}"#, Some("user_id")),
            (r#"{"Type":"t","data":{}}"#, Some("type")),
            (r#"{"type":"t","data":{"eventId":1},"mood":{"type":[1]}}"#, None),
        ];
        for (body, meant) in cases {
            let Refusal::Invalid { detail, .. } = EventBody::read(body.as_bytes()).err().unwrap() else {
                panic!("{body}");
            };
            let Entry { place, message, kind } = &detail[0];
            assert_eq!((place.root, *kind), ("body", "unknown_field"), "{body}");
            let field = place.field.as_deref().unwrap();
            assert!(body.contains(&format!("\"{field}\":")), "{body}: {field}");
            assert!(message.contains("no event has"), "{message}");
            let hint = meant.map(|meant| format!("did you mean {meant}?"));
            assert_eq!(message.contains("did you mean"), hint.is_some(), "{message}");
            assert!(hint.is_none_or(|hint| message.ends_with(&hint)), "{message}");
        }
        assert_eq!(data(r#"{"type":"t","data":{"eventId":1}}"#), Some(r#"{"eventId":1}"#));
    }

    #[test]
    fn what_a_parser_would_not_take_is_refused_with_its_place() {
        let deep = format!(r#"{{"data":{{"a":{}{}}}}}"#, "[".repeat(200), "]".repeat(200));
        let wild = [
            r#"{"data":{"a":nul}}"#,
            r#"{"data":{"a":"\ud800"}}"#,
            r#"{"data":{"a":1e999}}"#,
            r#"{"data":{"a":1,}}"#,
            r#"{"data":{}} x"#,
            r#"{"data":{},"b":"\ud800"}"#,
            deep.as_str(),
            "",
        ];
        for body in wild {
            match EventBody::read(body.as_bytes()).err().unwrap() {
                Refusal::MalformedJson { offset, reason } => {
                    assert!(offset <= body.len() && !reason.contains("line"), "{offset} {reason}");
                    assert!(body.is_empty() || offset > 8, "{body}: {offset} {reason}");
                }
                other => panic!("{body}: {other:?}"),
            }
        }
        let invalid = ["[1]", "7", r#"{"data":[]}"#, r#"{"data":null}"#, r#"{"data":7}"#, "{}"];
        for body in invalid {
            let refused = EventBody::read(body.as_bytes()).and_then(|body| body.data()).err().unwrap();
            assert!(matches!(refused, Refusal::Invalid { .. }), "{body}: {refused:?}");
        }
    }
}
