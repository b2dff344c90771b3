//! `/api/v1/api-keys`: make, list and delete the keys of an organisation.
//!
//! A caller can give no more than it has: an admin makes no operator key, and a
//! caller bound to a user makes, sees and deletes only keys of that user.

use hyper::StatusCode;
use serde::Serialize;
use serde_json::{Map, Value};
use systole_engine::KeyRecord;

use super::fields::{blocking, fields, now_ms, read_body, text, timestamp, user};
use super::page::{LIMIT_DEFAULT, LIMIT_MAX, Page, Place, Step};
use crate::auth::{KeySpec, Scope, Scopes, make_key};
use crate::error::{Entry, Quoted, Refusal};
use crate::reply::{self, Reply};
use crate::route::Call;

/// Longest name of a key.
const NAME_CHARS_MAX: usize = 128;

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

/// What the body of a `POST` asks for.
struct Wish {
    name: Option<String>,
    user: Option<String>,
    scopes: Scopes,
}

pub(crate) async fn create_key(mut call: Call<'_>) -> Result<Reply, Refusal> {
    let body = read_body(&mut call).await?;
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
    let places: Vec<Place<'_>> = keys.iter().map(place).collect();
    let page = Page::of(&places, step.as_ref(), limit);
    let data: Vec<_> = keys[page.rows.clone()].iter().map(|key| show(key, None)).collect();
    let listing = page.listing(data);
    Ok(reply::json_of(StatusCode::OK, &listing))
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

fn show<'a>(record: &'a KeyRecord, key: Option<&'a str>) -> Shown<'a> {
    Shown {
        id: &record.id,
        key,
        name: record.name.as_deref(),
        user_id: record.user.as_deref(),
        scopes: record.scopes.split_ascii_whitespace().collect(),
        created_at: timestamp(record.created_at),
    }
}

impl Wish {
    fn read(body: &[u8]) -> Result<Wish, Refusal> {
        let fields = fields(body)?;
        Ok(Wish { name: name(&fields)?, user: user(&fields)?, scopes: scopes(&fields)? })
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
fn place(key: &KeyRecord) -> Place<'_> {
    (key.created_at, &key.id)
}
