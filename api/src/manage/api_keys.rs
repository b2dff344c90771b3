//! `/api/v1/api-keys`: make, list and delete the keys of an organisation.
//!
//! A caller can give no more than it has: an admin makes no operator key, and a
//! caller bound to a user makes, sees and deletes only keys of that user.

use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use hyper::StatusCode;
use serde::Serialize;
use serde_json::{Map, Value};
use systole_engine::timestamp::write_rfc3339;
use systole_engine::{Catalog, CatalogError, KeyRecord};

use crate::app::App;
use crate::auth::{KeySpec, Scope, Scopes, is_user_id, make_key};
use crate::error::{Entry, Place, Quoted, Refusal};
use crate::reply::{self, Reply};
use crate::route::Call;
use crate::server::BodyLimits;

/// Longest body of a management call.
const BODY_BYTES_MAX: usize = 64 * 1024;
/// Longest name of a key.
const NAME_CHARS_MAX: usize = 128;
/// Keys on a page, if the caller does not say.
const LIMIT_DEFAULT: usize = 50;
/// Most keys on a page.
const LIMIT_MAX: usize = 250;

/// A key as it is shown; `key` only to the one who made it.
#[derive(Serialize)]
struct Shown<'a> {
    id: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    key: Option<&'a str>,
    name: Option<&'a str>,
    user_id: Option<&'a str>,
    scopes: Vec<&'a str>,
    created_at: String,
}

#[derive(Serialize)]
struct Listing<'a> {
    data: Vec<Shown<'a>>,
    iterator: Option<String>,
    prev_iterator: Option<String>,
    done: bool,
}

/// What the body of a `POST` asks for.
struct Wish {
    name: Option<String>,
    user: Option<String>,
    scopes: Scopes,
}

pub(crate) async fn create_key(call: Call<'_>) -> Result<Reply, Refusal> {
    let mut body = Vec::new();
    let limits = BodyLimits { bytes_max: BODY_BYTES_MAX, timeout: body_timeout(call.app) };
    call.body.read(&mut body, &limits, |_| Ok(())).await?;
    let wish = Wish::read(&body)?;
    let user = grant(&call, &wish)?;
    let spec = KeySpec {
        org: call.org.to_string(),
        user,
        name: wish.name,
        scopes: wish.scopes,
        created_at: now_ms(),
    };
    let (key, record) = make_key(spec).map_err(Refusal::internal)?;
    let stored = record.clone();
    blocking(call.app, move |catalog| {
        catalog.ensure_org(&stored.org)?;
        catalog.insert_key(&stored)
    })
    .await?;
    Ok(reply::json_of(StatusCode::CREATED, &show(&record, Some(key.expose()))))
}

/// Checks that the caller has what it gives, and says whom the key is bound to.
fn grant(call: &Call<'_>, wish: &Wish) -> Result<Option<String>, Refusal> {
    if let Some(scope) = wish.scopes.iter().find(|scope| !call.caller.scopes.allow(*scope)) {
        return Err(Refusal::NotGrantable { scope });
    }
    match (&call.caller.user, &wish.user) {
        (Some(bound), Some(user)) if **bound != **user => Err(Refusal::OtherUser),
        (Some(bound), _) => Ok(Some(bound.to_string())),
        (None, user) => Ok(user.clone()),
    }
}

pub(crate) async fn list_keys(call: Call<'_>) -> Result<Reply, Refusal> {
    let limit = call.query.limit(LIMIT_MAX)?.unwrap_or(LIMIT_DEFAULT);
    let step = call.query.get("iterator").map(Step::decode).transpose()?;
    let org = call.org.to_string();
    let mut keys = blocking(call.app, move |catalog| catalog.keys(&org)).await?;
    keys.retain(|key| sees(&call, key));
    keys.sort_by(|a, b| place(a).cmp(&place(b)));
    let range = page(&keys, step.as_ref(), limit);
    let data: Vec<_> = keys[range.clone()].iter().map(|key| show(key, None)).collect();
    let listing = Listing {
        data,
        iterator: keys[range.clone()].last().map(|key| Step::Behind(owned_place(key)).encode()),
        prev_iterator: (range.start > 0).then(|| Step::Before(owned_place(&keys[range.start])).encode()),
        done: range.end == keys.len(),
    };
    Ok(reply::json_of(StatusCode::OK, &listing))
}

fn page(keys: &[KeyRecord], step: Option<&Step>, limit: usize) -> std::ops::Range<usize> {
    match step {
        None => 0..limit.min(keys.len()),
        Some(Step::Behind((at, id))) => {
            let start = keys.partition_point(|key| place(key) <= (*at, id.as_str()));
            start..(start + limit).min(keys.len())
        }
        Some(Step::Before((at, id))) => {
            let end = keys.partition_point(|key| place(key) < (*at, id.as_str()));
            end.saturating_sub(limit)..end
        }
    }
}

pub(crate) async fn delete_key(call: Call<'_>) -> Result<Reply, Refusal> {
    let (org, id) = (call.org.to_string(), call.parameter.clone());
    let bound = call.caller.user.as_deref().map(str::to_owned);
    let deleted = blocking(call.app, move |catalog| {
        if let Some(user) = bound {
            let keys = catalog.keys(&org)?;
            if !keys.iter().any(|key| key.id == id && key.user.as_ref() == Some(&user)) {
                return Ok(None);
            }
        }
        catalog.delete_key(&org, &id)
    })
    .await?;
    let record = deleted.ok_or(Refusal::UnknownKey { id: call.parameter })?;
    call.app.auth.forget(&record);
    Ok(reply::empty(StatusCode::NO_CONTENT))
}

fn sees(call: &Call<'_>, key: &KeyRecord) -> bool {
    call.caller.user.as_deref().is_none_or(|bound| key.user.as_deref() == Some(bound))
}

fn body_timeout(app: &App) -> Duration {
    app.settings.http.body_timeout
}

fn now_ms() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_millis()).unwrap_or(i64::MAX)
}

/// Runs `work` on the catalog where it may block.
async fn blocking<T: Send + 'static>(
    app: &App,
    work: impl FnOnce(&Catalog) -> Result<T, CatalogError> + Send + 'static,
) -> Result<T, Refusal> {
    let catalog = Arc::clone(app.engine.catalog());
    let done = tokio::task::spawn_blocking(move || work(&catalog)).await;
    done.map_err(Refusal::internal)?.map_err(Refusal::catalog)
}

fn show<'a>(record: &'a KeyRecord, key: Option<&'a str>) -> Shown<'a> {
    let mut created_at = Vec::new();
    write_rfc3339(record.created_at, &mut created_at);
    Shown {
        id: &record.id,
        key,
        name: record.name.as_deref(),
        user_id: record.user.as_deref(),
        scopes: record.scopes.split_ascii_whitespace().collect(),
        created_at: String::from_utf8(created_at).unwrap_or_default(),
    }
}

impl Wish {
    fn read(body: &[u8]) -> Result<Wish, Refusal> {
        let fields: Map<String, Value> = match serde_json::from_slice(body) {
            Ok(Value::Object(fields)) => fields,
            Ok(_) => {
                let place = Place { root: "body", index: None, field: None };
                return Err(Refusal::invalid(Entry::new(place, "wrong_type", "must be an object")));
            }
            Err(fault) => {
                return Err(Refusal::MalformedJson {
                    offset: offset(body, &fault),
                    reason: reason(&fault.to_string()),
                });
            }
        };
        Ok(Wish { name: name(&fields)?, user: user(&fields)?, scopes: scopes(&fields)? })
    }
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

fn text(fields: &Map<String, Value>, field: &'static str) -> Result<Option<String>, Refusal> {
    match fields.get(field) {
        None | Some(Value::Null) => Ok(None),
        Some(Value::String(text)) => Ok(Some(text.clone())),
        Some(_) => Err(Refusal::invalid(Entry::body(field, "wrong_type", "must be a text"))),
    }
}

fn name(fields: &Map<String, Value>) -> Result<Option<String>, Refusal> {
    let name = text(fields, "name")?;
    match &name {
        Some(name) if !is_key_name(name) => {
            let message = format!("must be 1 to {NAME_CHARS_MAX} printable characters");
            Err(Refusal::invalid(Entry::body("name", "malformed", message)))
        }
        _ => Ok(name),
    }
}

/// Whether a key may be called so.
pub(crate) fn is_key_name(name: &str) -> bool {
    let length = name.chars().count();
    (1..=NAME_CHARS_MAX).contains(&length) && !name.chars().any(char::is_control)
}

fn user(fields: &Map<String, Value>) -> Result<Option<String>, Refusal> {
    let user = text(fields, "user_id")?;
    match &user {
        Some(user) if !is_user_id(user) => {
            let message = "must be 1 to 128 characters of A-Z a-z 0-9 . _ : @ -";
            Err(Refusal::invalid(Entry::body("user_id", "malformed", message)))
        }
        _ => Ok(user),
    }
}

fn scopes(fields: &Map<String, Value>) -> Result<Scopes, Refusal> {
    let refuse = |kind, message: String| Refusal::invalid(Entry::body("scopes", kind, message));
    let list = match fields.get("scopes") {
        Some(Value::Array(list)) if !list.is_empty() => list,
        None | Some(Value::Null) => return Err(refuse("missing", "is missing".to_owned())),
        Some(_) => return Err(refuse("wrong_type", "must be an array with a scope or more".to_owned())),
    };
    let mut scopes = Scopes::default();
    for value in list {
        let scope = value.as_str().and_then(Scope::parse).ok_or_else(|| {
            let shown = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
            let message = format!("{} is none of ingest, read, webhooks, admin, operator", Quoted(&shown));
            refuse("unknown_scope", message)
        })?;
        scopes.insert(scope);
    }
    Ok(scopes)
}

/// Keys are listed by the time they were made, then by id.
fn place(key: &KeyRecord) -> (i64, &str) {
    (key.created_at, &key.id)
}

fn owned_place(key: &KeyRecord) -> (i64, String) {
    (key.created_at, key.id.clone())
}

/// Where a page begins: behind a key or before one, which may be gone by then.
#[derive(Debug, PartialEq, Eq)]
enum Step {
    Behind((i64, String)),
    Before((i64, String)),
}

impl Step {
    fn encode(&self) -> String {
        let (sign, (at, id)) = match self {
            Step::Behind(place) => ('+', place),
            Step::Before(place) => ('-', place),
        };
        URL_SAFE_NO_PAD.encode(format!("{sign}{at} {id}"))
    }

    fn decode(text: &str) -> Result<Step, Refusal> {
        Step::parse(text).ok_or_else(|| {
            let message = "is no iterator of this list; take it as it came";
            Refusal::invalid(Entry::query("iterator", "malformed", message))
        })
    }

    fn parse(text: &str) -> Option<Step> {
        let text = String::from_utf8(URL_SAFE_NO_PAD.decode(text).ok()?).ok()?;
        let (at, id) = text.get(1..)?.split_once(' ')?;
        let place = (at.parse().ok()?, id.to_owned());
        match text.as_bytes().first()? {
            b'+' => Some(Step::Behind(place)),
            b'-' => Some(Step::Before(place)),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn keys(count: usize) -> Vec<KeyRecord> {
        let key = |number: usize| KeyRecord {
            id: format!("key_{number}"),
            org: "default".to_owned(),
            user: None,
            name: None,
            scopes: "read".to_owned(),
            hash: [0; 32],
            created_at: i64::try_from(number / 2).unwrap(),
        };
        (0..count).map(key).collect()
    }

    #[test]
    fn pages_go_forth_and_back_also_over_deleted_keys() {
        let mut keys = keys(7);
        assert_eq!(page(&keys, None, 3), 0..3);
        let behind = Step::Behind(owned_place(&keys[2]));
        assert_eq!(page(&keys, Some(&behind), 3), 3..6);
        let before = Step::Before(owned_place(&keys[3]));
        assert_eq!(page(&keys, Some(&before), 2), 1..3);
        keys.remove(2);
        assert_eq!(page(&keys, Some(&behind), 3), 2..5);
        assert_eq!(page(&keys, Some(&Step::Behind(owned_place(&keys[5]))), 3), 6..6);
        for step in [behind, before] {
            assert_eq!(Step::parse(&step.encode()), Some(step));
        }
        assert!(["", "x", "AAAA"].iter().all(|text| Step::parse(text).is_none()));
    }

    #[test]
    fn a_parsers_place_becomes_a_byte() {
        let body = b"{\n \"a\": nul }";
        let fault = serde_json::from_slice::<Value>(body).unwrap_err();
        assert!((8..=12).contains(&offset(body, &fault)), "{}", offset(body, &fault));
        assert_eq!(reason("expected ident at line 2 column 10"), "expected ident");
    }
}
