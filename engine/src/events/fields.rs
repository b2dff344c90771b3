//! What the fields of published events hold, as far as their names say.
//!
//! The documented systems name their fields and rarely their types. What a name says
//! plainly (`is_nap`, `checked_in_at`, `sleep_hours`) is typed, all else is a text. Any
//! field may be null: publishers leave out what they do not know, and nothing is checked
//! when an event is handed in.

use serde_json::{Map, Value, json};

/// The leaf of a path, and what it holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Text,
    Number,
    Flag,
    /// RFC 3339.
    Time,
    /// Milliseconds since 1970, as Avon prints times.
    Millis,
    Object,
    /// The documents say what it means and not what it is.
    Free,
}

/// Endings and whole names of numbers.
const NUMBERS: [&str; 22] = [
    "_bpm",
    "_hours",
    "_kcal",
    "_meters",
    "_minutes",
    "_percent",
    "_seconds",
    "attempts",
    "avg_pace_sec_per_km",
    "count",
    "cycle_length",
    "day",
    "day_in_cycle",
    "durationInMinutes",
    "energy",
    "focus",
    "items_processed",
    "month",
    "mood",
    "status_code",
    "steps",
    "year",
];
const FLAGS: [&str; 3] = ["caregiver_only", "is_nap", "is_predicted_cycle"];
const TIMES: [&str; 6] = ["_at", "_since", "_time", "since", "until", "timestamp"];
const OBJECTS: [&str; 10] = [
    "appointment",
    "assessment",
    "assessmentQuestionnaireObject",
    "assessmentResponseObject",
    "assignedServiceProviders",
    "file",
    "inputData",
    "metadata",
    "patient",
    "prompts",
];

/// A system's documented fields of a body's data.
pub(super) struct Fields {
    members: Map<String, Value>,
    examples: Map<String, Value>,
}

impl Fields {
    /// Of paths from the top of a body. What stands beside the data belongs to the
    /// dialect; names without a parent (Azodha's) are members of the data.
    pub(super) fn of(system: &str, paths: &[String]) -> Fields {
        let mut fields = Fields { members: Map::new(), examples: Map::new() };
        for path in paths {
            if let Some(path) = within_data(system, path) {
                put(system, &mut fields.members, &mut fields.examples, path);
            }
        }
        fields
    }

    /// A JSON Schema of the data.
    pub(super) fn schema(&self) -> Value {
        json!({"type": "object", "properties": self.members})
    }

    /// Data with every field.
    pub(super) fn example(&self) -> Value {
        Value::Object(self.examples.clone())
    }
}

fn within_data<'p>(system: &str, path: &'p str) -> Option<&'p str> {
    if let Some(path) = path.strip_prefix("data.").or_else(|| path.strip_prefix("object.")) {
        return Some(path);
    }
    let envelope = ["?", "data", "eventName", "eventSubType", "eventType"];
    (system == "azodha" && !envelope.contains(&path)).then_some(path)
}

/// Adds a path to a schema's properties and to an example.
fn put(system: &str, members: &mut Map<String, Value>, examples: &mut Map<String, Value>, path: &str) {
    let (name, rest) = path.split_once('.').map_or((path, None), |(name, rest)| (name, Some(rest)));
    let (name, list) = name.strip_suffix("[]").map_or((name, false), |name| (name, true));
    let Some(rest) = rest else {
        let (schema, example) = leaf(system, name);
        // A path may name a field again that another one has gone through already.
        members.entry(name).or_insert_with(|| if list { array(&schema) } else { schema });
        examples.entry(name).or_insert_with(|| if list { json!([example]) } else { example });
        return;
    };
    let object = || json!({"type": ["object", "null"], "properties": {}});
    let schema = members.entry(name).or_insert_with(|| if list { array(&object()) } else { object() });
    let schema = if list { &mut schema["items"] } else { schema };
    // An object that was named alone has no properties yet.
    if schema.get("properties").is_none() {
        schema["properties"] = json!({});
    }
    let example = examples.entry(name).or_insert_with(|| if list { json!([{}]) } else { json!({}) });
    let example = if list { &mut example[0] } else { example };
    if let (Some(Value::Object(members)), Value::Object(examples)) = (schema.get_mut("properties"), example) {
        put(system, members, examples, rest);
    }
}

fn array(items: &Value) -> Value {
    json!({"type": ["array", "null"], "items": items})
}

fn leaf(system: &str, name: &str) -> (Value, Value) {
    match kind(system, name) {
        Kind::Text => (json!({"type": ["string", "null"]}), json!("example")),
        Kind::Number => (json!({"type": ["number", "null"]}), json!(4)),
        Kind::Flag => (json!({"type": ["boolean", "null"]}), json!(false)),
        Kind::Time => {
            (json!({"type": ["string", "null"], "format": "date-time"}), json!("2026-06-30T07:45:00Z"))
        }
        Kind::Millis => (json!({"type": ["integer", "null"]}), json!(1_782_805_500_000_i64)),
        Kind::Free => (json!({}), json!("30 days")),
        Kind::Object => (json!({"type": ["object", "array", "null"]}), json!({})),
    }
}

fn kind(system: &str, name: &str) -> Kind {
    let among = |names: &[&str]| {
        names.iter().any(|known| if known.starts_with('_') { name.ends_with(known) } else { name == *known })
    };
    if among(&TIMES) {
        if system == "avon" { Kind::Millis } else { Kind::Time }
    } else if among(&NUMBERS) {
        Kind::Number
    } else if among(&FLAGS) {
        Kind::Flag
    } else if among(&OBJECTS) {
        Kind::Object
    } else if name == "duration" {
        Kind::Free
    } else {
        Kind::Text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(system: &str, paths: &[&str]) -> Fields {
        let paths: Vec<String> = paths.iter().map(|path| (*path).to_owned()).collect();
        Fields::of(system, &paths)
    }

    #[test]
    fn paths_become_members_of_the_data_alone() {
        let fields =
            of("avycenna", &["event", "event_id", "timestamp", "data.mood", "data.checked_in_at", "?"]);
        assert_eq!(fields.example(), json!({"mood": 4, "checked_in_at": "2026-06-30T07:45:00Z"}));
        let schema = fields.schema();
        assert_eq!(schema["properties"]["mood"], json!({"type": ["number", "null"]}));
    }

    #[test]
    fn lists_and_objects_nest_in_either_order_of_their_paths() {
        for paths in [
            ["object.a[].b", "object.a[].c_at", "object.d.year", "object.e[]"],
            ["object.e[]", "object.d.year", "object.a[].c_at", "object.a[].b"],
        ] {
            let expected = json!({"a": [{"b": "example", "c_at": 1_782_805_500_000_i64}], "d": {"year": 4}, "e": ["example"]});
            assert_eq!(of("avon", &paths).example(), expected);
        }
        let both = of("azodha", &["data.assessment", "data.assessment.assessmentResponseObject"]);
        assert_eq!(both.example(), json!({"assessment": {"assessmentResponseObject": {}}}));
    }

    #[test]
    fn names_without_a_parent_are_data_of_azodhas_events() {
        let fields = of("azodha", &["count", "eventName", "patientId", "data", "data.patientName", "?"]);
        assert_eq!(fields.example(), json!({"count": 4, "patientId": "example", "patientName": "example"}));
    }
}
