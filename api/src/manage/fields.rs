//! Reading the JSON of management calls, field by field, with errors that name the
//! field.

use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use hyper::HeaderMap;
use hyper::header::CONTENT_ENCODING;
use serde_json::{Map, Value};
use systole_engine::timestamp::write_rfc3339;
use systole_engine::{Catalog, CatalogError};

use crate::app::App;
use crate::auth::is_user_id;
use crate::error::{Entry, Place, Quoted, Refusal};
use crate::nearest::{folded, hint, nearest};
use crate::route::Call;
use crate::server::BodyLimits;

/// Longest body of a management call.
const BODY_BYTES_MAX: usize = 64 * 1024;
/// Most entries of a refusal; what is behind them shows once these are put right.
const FAULTS_MAX: usize = 100;
/// What other systems call a field, where there is the second.
const OTHER_WORDS: [(&str, &str); 2] = [("channels", "filter_types"), ("eventtypes", "filter_types")];

/// What is wrong with a body, all of it.
#[derive(Debug, Default)]
pub(super) struct Faults(Vec<Entry>);

impl Faults {
    /// Those of fields that no `what` has.
    pub(super) fn of_unknown(fields: &Map<String, Value>, known: &[&str], what: &str) -> Faults {
        let unknown = fields.keys().filter(|name| !known.contains(&name.as_str())).take(FAULTS_MAX);
        Faults(unknown.map(|name| unknown_entry(name, known, what)).collect())
    }

    pub(super) fn push(&mut self, entry: Entry) {
        if self.0.len() < FAULTS_MAX {
            self.0.push(entry);
        }
    }

    /// What was read, unless it is one fault more; any other refusal is one of the whole body.
    pub(super) fn note<T>(&mut self, read: Result<T, Refusal>) -> Result<Option<T>, Refusal> {
        match read {
            Ok(value) => Ok(Some(value)),
            Err(Refusal::Invalid { detail, .. }) => {
                detail.into_iter().for_each(|entry| self.push(entry));
                Ok(None)
            }
            Err(other) => Err(other),
        }
    }

    /// The refusal, if there is a fault.
    pub(super) fn end(self) -> Result<(), Refusal> {
        if self.0.is_empty() { Ok(()) } else { Err(Refusal::Invalid { detail: self.0, rejected: None }) }
    }
}

/// Refuses fields that no `what` has.
pub(super) fn refuse_unknown(fields: &Map<String, Value>, known: &[&str], what: &str) -> Result<(), Refusal> {
    Faults::of_unknown(fields, known, what).end()
}

/// An entry about a field that no `what` has; names the one that was meant, if it is like one.
pub(super) fn unknown_entry(name: &str, known: &[&str], what: &str) -> Entry {
    let word = |(word, _): &&(&str, &str)| folded(name) == *word;
    let meant = OTHER_WORDS.iter().find(word).map(|(_, meant)| *meant);
    let meant = meant.filter(|meant| known.contains(meant)).or_else(|| nearest(name, known.iter().copied()));
    let message = format!("is a field that no {what} has: {}{}", Quoted(name), hint(meant));
    Entry::unknown_field(name, message)
}

/// Refuses a body that is compressed: only those of samples are worth it.
pub(crate) fn refuse_compressed(headers: &HeaderMap) -> Result<(), Refusal> {
    let Some(found) = headers.get(CONTENT_ENCODING) else { return Ok(()) };
    let text = found.to_str().unwrap_or("?").trim();
    if text.is_empty() || text.eq_ignore_ascii_case("identity") {
        return Ok(());
    }
    Err(Refusal::ContentEncoding { found: text.to_owned(), wanted: "the body as it is" })
}

/// The body of a management call.
pub(super) async fn read_body(call: &mut Call<'_>) -> Result<Vec<u8>, Refusal> {
    refuse_compressed(&call.head.headers)?;
    let mut body = Vec::new();
    let limits = BodyLimits { bytes_max: BODY_BYTES_MAX, timeout: call.app.settings.http.body_timeout };
    call.body.read(&mut body, &limits, |_| Ok(())).await?;
    Ok(body)
}

/// The fields of a body that is one object.
pub(crate) fn fields(body: &[u8]) -> Result<Map<String, Value>, Refusal> {
    match serde_json::from_slice(body) {
        Ok(Value::Object(fields)) => Ok(fields),
        Ok(_) => Err(not_an_object()),
        Err(fault) => Err(malformed(body, body, &fault)),
    }
}

/// The refusal of a body that is another value than an object.
pub(super) fn not_an_object() -> Refusal {
    let place = Place { root: "body", index: None, field: None };
    Refusal::invalid(Entry::new(place, "wrong_type", "must be an object"))
}

/// The refusal of a body that is no JSON, as a parser of `part` of it found.
pub(super) fn malformed(body: &[u8], part: &[u8], fault: &serde_json::Error) -> Refusal {
    let begin = part.as_ptr().addr() - body.as_ptr().addr();
    Refusal::MalformedJson { offset: begin + offset(part, fault), reason: reason(&fault.to_string()) }
}

/// The byte a parser's line and column lead to.
fn offset(body: &[u8], fault: &serde_json::Error) -> usize {
    let lines = body.split_inclusive(|byte| *byte == b'\n').take(fault.line().saturating_sub(1));
    (lines.map(<[u8]>::len).sum::<usize>() + fault.column().saturating_sub(1)).min(body.len())
}

/// A parser's text without its own way to name the place.
fn reason(text: &str) -> String {
    text.split(" at line ").next().unwrap_or(text).to_owned()
}

/// A field that is a text; `null` is as good as absent.
pub(crate) fn text(fields: &Map<String, Value>, field: &'static str) -> Result<Option<String>, Refusal> {
    match fields.get(field) {
        None | Some(Value::Null) => Ok(None),
        Some(Value::String(text)) => Ok(Some(text.clone())),
        Some(_) => Err(Refusal::invalid(Entry::body(field, "wrong_type", "must be a text"))),
    }
}

/// A field that is true or false.
pub(super) fn flag(fields: &Map<String, Value>, field: &'static str) -> Result<Option<bool>, Refusal> {
    match fields.get(field) {
        None | Some(Value::Null) => Ok(None),
        Some(Value::Bool(flag)) => Ok(Some(*flag)),
        Some(_) => Err(Refusal::invalid(Entry::body(field, "wrong_type", "must be true or false"))),
    }
}

/// The field `user_id`.
pub(super) fn user(fields: &Map<String, Value>) -> Result<Option<String>, Refusal> {
    let user = text(fields, "user_id")?;
    match &user {
        Some(user) if !is_user_id(user) => {
            let message = "must be 1 to 128 characters of A-Z a-z 0-9 . _ : @ -";
            Err(Refusal::invalid(Entry::body("user_id", "malformed", message)))
        }
        _ => Ok(user),
    }
}

/// Milliseconds since 1970.
pub(super) fn now_ms() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_millis()).unwrap_or(i64::MAX)
}

/// A time as it is printed.
pub(super) fn timestamp(ms: i64) -> String {
    let mut text = Vec::new();
    write_rfc3339(ms, &mut text);
    String::from_utf8(text).unwrap_or_default()
}

/// Runs `work` on the catalog where it may block.
pub(super) async fn blocking<T: Send + 'static>(
    app: &App,
    work: impl FnOnce(&Catalog) -> Result<T, CatalogError> + Send + 'static,
) -> Result<T, Refusal> {
    let catalog = Arc::clone(app.engine.catalog());
    let done = tokio::task::spawn_blocking(move || work(&catalog)).await;
    done.map_err(Refusal::internal)?.map_err(Refusal::catalog)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_unknown_fields_are_named_with_those_that_were_meant() {
        let known = ["url", "filter_types"];
        let body = br#"{"ulr":1,"channels":[],"eventTypes":[],"url":"x","colour":"red"}"#;
        let refused = refuse_unknown(&fields(body).unwrap(), &known, "endpoint").unwrap_err();
        let Refusal::Invalid { detail, .. } = refused else { panic!("{refused:?}") };
        let hints: Vec<_> = detail
            .iter()
            .map(|entry| (entry.place.field.as_deref().unwrap(), entry.message.split("; ").nth(1)))
            .collect();
        let filter = Some("did you mean filter_types?");
        let expected = [
            ("channels", filter),
            ("colour", None),
            ("eventTypes", filter),
            ("ulr", Some("did you mean url?")),
        ];
        assert_eq!(hints, expected);
        let many: Map<String, Value> = (0..200).map(|number| (format!("{number}"), Value::Null)).collect();
        assert_eq!(Faults::of_unknown(&many, &known, "endpoint").0.len(), FAULTS_MAX);
        assert!(unknown_entry("channels", &["url"], "test").message.ends_with('"'));
        let long = unknown_entry(&"x".repeat(5000), &known, "test");
        assert!(long.message.len() < 100 && long.place.field.unwrap().len() < 100);
    }

    #[test]
    fn a_parsers_place_becomes_a_byte() {
        let body = b"{\n \"a\": nul }";
        let fault = serde_json::from_slice::<Value>(body).unwrap_err();
        assert!((8..=12).contains(&offset(body, &fault)), "{}", offset(body, &fault));
        assert_eq!(reason("expected ident at line 2 column 10"), "expected ident");
    }
}
