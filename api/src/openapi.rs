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
    use std::collections::BTreeSet;

    use serde_json::Value;

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
            assert_eq!(body.get("security") == Some(&serde_json::json!([])), open, "{method} {path}");
            assert_eq!(body["responses"].get("401").is_none(), open, "{method} {path}");
        }
    }

    #[test]
    fn every_reference_leads_somewhere() {
        let document = document();
        let mut open = vec![&document];
        while let Some(value) = open.pop() {
            match value {
                Value::Object(fields) => {
                    if let Some(Value::String(reference)) = fields.get("$ref") {
                        let pointer = reference.strip_prefix('#').unwrap();
                        assert!(document.pointer(pointer).is_some(), "{reference}");
                    }
                    open.extend(fields.values());
                }
                Value::Array(values) => open.extend(values),
                _ => {}
            }
        }
    }
}
