//! The OpenAPI 3.1 document, kept as a file that people read too.

use bytes::Bytes;
use hyper::StatusCode;

use crate::reply::{self, Reply};

/// The document that is served at `/openapi.json` and printed by `systole openapi`.
pub const DOCUMENT: &str = include_str!("openapi.json");

pub(crate) fn serve() -> Reply {
    reply::json(StatusCode::OK, Bytes::from_static(DOCUMENT.as_bytes()))
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, BTreeSet};

    use serde_json::{Map, Value, json};

    use super::*;
    use crate::route::{Access, ROUTES};

    fn document() -> Value {
        serde_json::from_str(DOCUMENT).unwrap()
    }

    fn operations(document: &Value) -> Vec<(String, String, Value)> {
        let paths = document["paths"].as_object().unwrap();
        let of_path = |(path, item): (&String, &Value)| {
            let methods = item.as_object().unwrap().iter();
            let methods = methods.filter(|(method, _)| *method != "parameters");
            methods
                .map(|(method, body)| (method.to_uppercase(), path.clone(), body.clone()))
                .collect::<Vec<_>>()
        };
        paths.iter().flat_map(of_path).collect()
    }

    #[test]
    fn the_document_has_every_route_and_no_other() {
        let table: BTreeSet<_> =
            ROUTES.iter().map(|route| (route.method.to_string(), route.path.to_owned())).collect();
        let written: BTreeSet<_> =
            operations(&document()).into_iter().map(|(method, path, _)| (method, path)).collect();
        assert_eq!(table, written);
    }

    #[test]
    fn routes_that_need_a_caller_say_so() {
        for (method, path, body) in operations(&document()) {
            let route = ROUTES.iter().find(|route| route.path == path && route.method.as_str() == method);
            let open = route.unwrap().access == Access::Open;
            assert_eq!(body.get("security") == Some(&json!([])), open, "{method} {path}");
            assert_eq!(body["responses"].get("401").is_none(), open, "{method} {path}");
        }
    }

    /// Calls `visit` with what a value holds that is an object, itself included.
    fn for_each_object<'a>(value: &'a Value, visit: &mut impl FnMut(&'a Map<String, Value>)) {
        match value {
            Value::Object(fields) => {
                visit(fields);
                fields.values().for_each(|value| for_each_object(value, visit));
            }
            Value::Array(values) => values.iter().for_each(|value| for_each_object(value, visit)),
            _ => {}
        }
    }

    fn references(value: &Value) -> BTreeSet<String> {
        let mut found = BTreeSet::new();
        for_each_object(value, &mut |fields| {
            found.extend(fields.get("$ref").and_then(Value::as_str).map(str::to_owned));
        });
        found
    }

    /// What a value refers to, and what that refers to, and so on.
    fn reached<'a>(document: &'a Value, from: &Value) -> BTreeMap<String, &'a Value> {
        let (mut found, mut open) = (BTreeMap::new(), references(from));
        while let Some(reference) = open.pop_first() {
            let pointer = reference.strip_prefix('#').unwrap();
            let value = document.pointer(pointer).unwrap_or_else(|| panic!("{reference} leads nowhere"));
            if found.insert(reference, value).is_none() {
                open.extend(references(value));
            }
        }
        found
    }

    fn is_described(value: &Value) -> bool {
        value["description"].is_string() || value["$ref"].is_string()
    }

    #[test]
    fn every_field_and_parameter_of_webhooks_is_described() {
        let document = document();
        let mut bare = BTreeSet::new();
        for (method, path, body) in operations(&document) {
            if body["tags"] != json!(["webhooks"]) {
                continue;
            }
            for parameter in body["parameters"].as_array().into_iter().flatten() {
                if !is_described(parameter) {
                    bare.insert(format!("{method} {path} {}", parameter["name"]));
                }
            }
            for (reference, schema) in reached(&document, &body) {
                if !is_described(schema) {
                    bare.insert(reference.clone());
                }
                for_each_object(schema, &mut |fields| {
                    for (name, field) in
                        fields.get("properties").and_then(Value::as_object).into_iter().flatten()
                    {
                        if !is_described(field) {
                            bare.insert(format!("{reference} {name}"));
                        }
                    }
                });
            }
        }
        assert_eq!(bare, BTreeSet::new());
    }

    #[test]
    fn every_reference_leads_somewhere() {
        let document = document();
        assert!(reached(&document, &document).len() > 50);
    }
}
