//! Everything a request can be refused with, and the one mapping to HTTP.
//!
//! A refusal's text is what the caller reads; what only we may know (`inside`)
//! goes to the log beside the request id. Codes are stable: clients branch on them,
//! `docs/http-api.md` lists them.

use std::borrow::Cow;
use std::error::Error;
use std::fmt::{self, Display};

use hyper::header::{ALLOW, CONTENT_TYPE, HeaderValue, RETRY_AFTER, WWW_AUTHENTICATE};
use hyper::{Method, Response, StatusCode};
use serde::Serialize;
use serde::ser::{SerializeSeq, Serializer};
use serde_json::Value;
use systole_engine::{CatalogError, CommitError, EraseError, FlushError, QueryError, SqlError, SubmitError};

use crate::auth::{Scope, TokenFault};
use crate::reply::ReplyBody;

/// How long a caller should wait for a queue to get shorter.
const RETRY_SOON_SECONDS: u32 = 1;
/// How long a caller should wait for an endpoint whose receiver may take its time: at 4
/// at once, and 15 s each, 16 of 64 messages by hand are over by then.
const RETRY_ENDPOINT_SECONDS: u32 = 60;
/// How long a caller should wait for what takes a restart or a cleaned disk.
const RETRY_LATER_SECONDS: u32 = 10;
/// Longest piece of a sent text that an answer repeats, in characters: room for
/// every path, metric and id there is.
const QUOTED_CHARS_MAX: usize = 48;

/// Why a request does not get what it asks for.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Refusal {
    #[error("malformed JSON at byte {offset}: {reason}")]
    MalformedJson { offset: usize, reason: String },
    #[error("the body is no {encoding} stream: {reason}")]
    MalformedEncoding { encoding: &'static str, reason: String },
    #[error("the body ended before it was complete")]
    BodyIncomplete,

    #[error("no credentials: send X-API-Key, or Authorization: Bearer")]
    NoCredentials,
    #[error("this API key does not exist")]
    BadKey,
    #[error("the token is not accepted: {0}")]
    BadToken(TokenFault),

    #[error("this needs the scope {needed}")]
    ScopeMissing { needed: Scope },
    #[error("this key is bound to another user")]
    OtherUser,
    #[error("this concerns the whole organisation, and this key is bound to one user")]
    KeyBound,
    #[error("this user was erased, and nothing is taken from it any more")]
    UserErased,
    #[error("this organisation is not yours")]
    OtherOrg,
    #[error("the scope {scope} can only be given by a caller who has it")]
    NotGrantable { scope: Scope },

    #[error("no such path: {}", Quoted(.path))]
    UnknownPath { path: String },
    #[error("unknown metric {}; {hint}", Quoted(.name))]
    UnknownMetric { name: String, hint: String },
    #[error("no such API key: {}", Quoted(.id))]
    UnknownKey { id: String },
    #[error("no such endpoint: {}", Quoted(.id))]
    UnknownEndpoint { id: String },
    #[error("no such message here; ids of events lead to messages while they are kept")]
    UnknownMessage,
    #[error("no such erasure: {}", Quoted(.id))]
    UnknownErasure { id: String },
    #[error("no such organisation: {org}")]
    UnknownOrg { org: String },
    #[error("{} is not allowed here; allowed: {allow}", Quoted(.method.as_str()))]
    MethodNotAllowed { method: Method, allow: String },

    #[error("{} is a name of the built-in metric {builtin}; choose another key", Quoted(.key))]
    MetricBuiltIn { key: String, builtin: String },
    #[error("{} is defined otherwise here, and a metric is never changed; choose another key", Quoted(.key))]
    MetricDefined { key: String },
    #[error("an organisation has at most {limit} metrics of its own")]
    TooManyMetrics { limit: usize },

    #[error("{text}")]
    TooManyEndpoints { text: String },
    #[error("the message is gone: payloads are kept for a time and up to a size, which it is past")]
    MessageDropped,

    #[error("the endpoint is switched off; switch it on first")]
    EndpointOff,
    #[error("the body did not arrive within {seconds} s")]
    BodyTimeout { seconds: f64 },
    #[error("the query took longer than {seconds} s; ask for a shorter window")]
    QueryTimeout { seconds: f64 },
    #[error("{text}")]
    SqlTimeout { text: String },

    #[error("the body is longer than {limit} bytes")]
    BodyTooLarge { limit: usize },
    #[error("the inflated body is longer than {limit} bytes")]
    InflatedTooLarge { limit: usize },
    #[error("the body inflates to more than {limit} times its length")]
    RatioTooLarge { limit: usize },
    #[error("the body holds more than {limit} JSON values")]
    TooManyValues { limit: usize },
    #[error("the line is longer than {limit} bytes")]
    LineTooLong { limit: usize },
    #[error("the body holds more than {limit} events")]
    TooManyLines { limit: usize },

    #[error("Content-Type {} is not taken here; send {wanted}", Quoted(.found))]
    ContentType { found: String, wanted: &'static str },
    #[error("Content-Encoding {} is not taken here; send {wanted}", Quoted(.found))]
    ContentEncoding { found: String, wanted: &'static str },
    #[error("Accept {} cannot be answered; offered: {offered}", Quoted(.found))]
    Accept { found: String, offered: String },

    #[error("the request is invalid")]
    Invalid { detail: Vec<Entry>, rejected: Option<usize> },
    #[error("the query needs more memory than there is for queries; ask for less at once")]
    QueryTooLarge,
    #[error("{text}")]
    SqlInvalid { text: String },
    #[error("{text}")]
    SqlNotAllowed { text: String },
    #[error("{text}")]
    SqlTooManyRows { text: String },

    #[error("the server's queue is full; send the same again")]
    QueueFull,
    #[error("too many bodies are in flight; send the same again")]
    BudgetSpent,
    #[error("{text}")]
    EndpointBusy { text: String },

    #[error("the server failed; the request id leads to its log")]
    Internal { inside: String },
    #[error("the journal failed to reach its disk; nothing is taken until the server is restarted")]
    Poisoned { inside: String },
    #[error("the server is stopping")]
    Stopping,
    #[error("too many queries are running")]
    QueriesBusy,
    #[error("the server ended before the batch was known to be safe; send the same again")]
    CommitFailed { inside: String },
    #[error("the catalog cannot be read or written")]
    CatalogFailed { inside: String },
    #[error("{text}")]
    NotStored { text: String },
    #[error("the flush failed; what was acknowledged is safe in the journal")]
    FlushFailed { inside: String },
    #[error("the disk is full; nothing was stored")]
    DiskFull,

    /// A body of lines was taken up to one that is refused.
    #[error("{why}")]
    AtLine {
        /// The first line that was not taken, from 1.
        line: usize,
        /// What was made of those before it.
        ids: Vec<String>,
        why: Box<Refusal>,
    },
}

impl Refusal {
    pub(crate) fn internal(fault: impl Display) -> Refusal {
        Refusal::Internal { inside: fault.to_string() }
    }

    /// The catalog did not do what was asked: nothing of it was done. A full disk heals by
    /// itself, and is told as it is wherever something is stored.
    pub(crate) fn catalog(fault: CatalogError) -> Refusal {
        if fault.is_full() { Refusal::DiskFull } else { Refusal::CatalogFailed { inside: chain(&fault) } }
    }

    /// One thing that is wrong with the request.
    pub(crate) fn invalid(entry: Entry) -> Refusal {
        Refusal::Invalid { detail: vec![entry], rejected: None }
    }

    /// Status and stable code.
    pub(crate) fn status(&self) -> (StatusCode, &'static str) {
        use StatusCode as S;
        match self {
            Refusal::MalformedJson { .. } => (S::BAD_REQUEST, "malformed_json"),
            Refusal::MalformedEncoding { .. } => (S::BAD_REQUEST, "malformed_encoding"),
            Refusal::BodyIncomplete => (S::BAD_REQUEST, "body_incomplete"),
            Refusal::NoCredentials => (S::UNAUTHORIZED, "no_credentials"),
            Refusal::BadKey => (S::UNAUTHORIZED, "invalid_key"),
            Refusal::BadToken(_) => (S::UNAUTHORIZED, "invalid_token"),
            Refusal::ScopeMissing { .. } => (S::FORBIDDEN, "scope_missing"),
            Refusal::OtherUser => (S::FORBIDDEN, "other_user"),
            Refusal::KeyBound => (S::FORBIDDEN, "key_bound"),
            Refusal::UserErased => (S::FORBIDDEN, "user_erased"),
            Refusal::OtherOrg => (S::FORBIDDEN, "other_organisation"),
            Refusal::NotGrantable { .. } => (S::FORBIDDEN, "scope_not_grantable"),
            Refusal::UnknownPath { .. } => (S::NOT_FOUND, "unknown_path"),
            Refusal::UnknownMetric { .. } => (S::NOT_FOUND, "unknown_metric"),
            Refusal::UnknownKey { .. } => (S::NOT_FOUND, "unknown_key"),
            Refusal::UnknownEndpoint { .. } => (S::NOT_FOUND, "unknown_endpoint"),
            Refusal::UnknownMessage => (S::NOT_FOUND, "unknown_message"),
            Refusal::UnknownErasure { .. } => (S::NOT_FOUND, "unknown_erasure"),
            Refusal::UnknownOrg { .. } => (S::NOT_FOUND, "unknown_organisation"),
            Refusal::MethodNotAllowed { .. } => (S::METHOD_NOT_ALLOWED, "method_not_allowed"),
            Refusal::MetricBuiltIn { .. } => (S::CONFLICT, "metric_built_in"),
            Refusal::MetricDefined { .. } => (S::CONFLICT, "metric_defined"),
            Refusal::TooManyMetrics { .. } => (S::CONFLICT, "too_many_metrics"),
            Refusal::TooManyEndpoints { .. } => (S::CONFLICT, "too_many_endpoints"),
            Refusal::EndpointOff => (S::CONFLICT, "endpoint_off"),
            Refusal::MessageDropped => (S::GONE, "message_dropped"),
            Refusal::BodyTimeout { .. } => (S::REQUEST_TIMEOUT, "body_timeout"),
            Refusal::QueryTimeout { .. } => (S::REQUEST_TIMEOUT, "query_timeout"),
            Refusal::SqlTimeout { .. } => (S::REQUEST_TIMEOUT, "query_timeout"),
            Refusal::BodyTooLarge { .. } => (S::PAYLOAD_TOO_LARGE, "body_too_large"),
            Refusal::InflatedTooLarge { .. } => (S::PAYLOAD_TOO_LARGE, "inflated_too_large"),
            Refusal::RatioTooLarge { .. } => (S::PAYLOAD_TOO_LARGE, "ratio_too_large"),
            Refusal::TooManyValues { .. } => (S::PAYLOAD_TOO_LARGE, "too_many_values"),
            Refusal::LineTooLong { .. } => (S::PAYLOAD_TOO_LARGE, "line_too_long"),
            Refusal::TooManyLines { .. } => (S::PAYLOAD_TOO_LARGE, "too_many_lines"),
            Refusal::ContentType { .. } => (S::UNSUPPORTED_MEDIA_TYPE, "unsupported_content_type"),
            Refusal::ContentEncoding { .. } => (S::UNSUPPORTED_MEDIA_TYPE, "unsupported_content_encoding"),
            Refusal::Accept { .. } => (S::UNSUPPORTED_MEDIA_TYPE, "unsupported_accept"),
            Refusal::Invalid { .. } => (S::UNPROCESSABLE_ENTITY, "invalid"),
            Refusal::QueryTooLarge => (S::UNPROCESSABLE_ENTITY, "query_too_large"),
            Refusal::SqlInvalid { .. } => (S::UNPROCESSABLE_ENTITY, "sql_invalid"),
            Refusal::SqlNotAllowed { .. } => (S::UNPROCESSABLE_ENTITY, "sql_not_allowed"),
            Refusal::SqlTooManyRows { .. } => (S::UNPROCESSABLE_ENTITY, "too_many_rows"),
            Refusal::QueueFull => (S::TOO_MANY_REQUESTS, "queue_full"),
            Refusal::BudgetSpent => (S::TOO_MANY_REQUESTS, "budget_spent"),
            Refusal::EndpointBusy { .. } => (S::TOO_MANY_REQUESTS, "endpoint_busy"),
            Refusal::Internal { .. } => (S::INTERNAL_SERVER_ERROR, "internal"),
            Refusal::Poisoned { .. } => (S::SERVICE_UNAVAILABLE, "journal_failed"),
            Refusal::Stopping => (S::SERVICE_UNAVAILABLE, "stopping"),
            Refusal::QueriesBusy => (S::SERVICE_UNAVAILABLE, "queries_busy"),
            Refusal::CommitFailed { .. } => (S::SERVICE_UNAVAILABLE, "commit_failed"),
            Refusal::CatalogFailed { .. } => (S::SERVICE_UNAVAILABLE, "catalog_failed"),
            Refusal::NotStored { .. } => (S::SERVICE_UNAVAILABLE, "catalog_failed"),
            Refusal::FlushFailed { .. } => (S::SERVICE_UNAVAILABLE, "flush_failed"),
            Refusal::DiskFull => (S::INSUFFICIENT_STORAGE, "disk_full"),
            Refusal::AtLine { why, .. } => why.status(),
        }
    }

    /// What the log says beyond the code.
    pub(crate) fn inside(&self) -> Option<&str> {
        match self {
            Refusal::Internal { inside }
            | Refusal::Poisoned { inside }
            | Refusal::CommitFailed { inside }
            | Refusal::CatalogFailed { inside }
            | Refusal::FlushFailed { inside } => Some(inside),
            Refusal::AtLine { why, .. } => why.inside(),
            _ => None,
        }
    }

    /// When to try again, if trying again can help by itself.
    fn retry_after_seconds(&self) -> Option<u32> {
        match self {
            Refusal::QueueFull | Refusal::BudgetSpent | Refusal::QueriesBusy => Some(RETRY_SOON_SECONDS),
            Refusal::EndpointBusy { .. } => Some(RETRY_ENDPOINT_SECONDS),
            Refusal::Stopping
            | Refusal::CommitFailed { .. }
            | Refusal::CatalogFailed { .. }
            | Refusal::NotStored { .. }
            | Refusal::FlushFailed { .. }
            | Refusal::DiskFull => Some(RETRY_LATER_SECONDS),
            Refusal::AtLine { why, .. } => why.retry_after_seconds(),
            _ => None,
        }
    }

    /// The answer.
    pub(crate) fn response(&self) -> Response<ReplyBody> {
        let (status, code) = self.status();
        let taken = self.taken();
        let document = Document {
            code,
            accepted: taken.map(|(_, ids)| ids.len()),
            line: taken.map(|(line, _)| line),
            ids: taken.map(|(_, ids)| ids),
            detail: self.detail(),
            rejected: self.rejected(),
        };
        let body = serde_json::to_vec(&document).expect("strings and numbers always serialize");
        let mut response = Response::new(ReplyBody::whole(body));
        *response.status_mut() = status;
        let headers = response.headers_mut();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        if let Some(seconds) = self.retry_after_seconds() {
            headers.insert(RETRY_AFTER, HeaderValue::from(seconds));
        }
        if let Some(challenge) = self.challenge() {
            headers.insert(WWW_AUTHENTICATE, HeaderValue::from_static(challenge));
        }
        if let Refusal::MethodNotAllowed { allow, .. } = self
            && let Ok(allow) = HeaderValue::from_str(allow)
        {
            headers.insert(ALLOW, allow);
        }
        response
    }

    fn detail(&self) -> Detail<'_> {
        match self {
            Refusal::Invalid { detail, .. } => Detail::Entries(detail),
            // The lines before it were stored.
            Refusal::AtLine { why, .. } if matches!(**why, Refusal::DiskFull) => {
                Detail::Text("the disk is full; nothing of this line was stored".to_owned())
            }
            Refusal::AtLine { why, .. } => why.detail(),
            other => Detail::Text(other.to_string()),
        }
    }

    /// The line that a body of lines is refused at, and what was made of those before it.
    fn taken(&self) -> Option<(usize, &[String])> {
        match self {
            Refusal::AtLine { line, ids, .. } => Some((*line, ids.as_slice())),
            _ => None,
        }
    }

    fn rejected(&self) -> Option<usize> {
        match self {
            Refusal::Invalid { rejected, .. } => *rejected,
            _ => None,
        }
    }

    fn challenge(&self) -> Option<&'static str> {
        match self {
            Refusal::NoCredentials | Refusal::BadKey => Some("Bearer realm=\"systole\""),
            Refusal::BadToken(_) => Some("Bearer realm=\"systole\", error=\"invalid_token\""),
            _ => None,
        }
    }
}

impl From<SubmitError> for Refusal {
    fn from(fault: SubmitError) -> Refusal {
        match fault {
            SubmitError::Full => Refusal::QueueFull,
            SubmitError::DiskFull => Refusal::DiskFull,
            SubmitError::Stopping => Refusal::Stopping,
            SubmitError::Poisoned { reason } => Refusal::Poisoned { inside: reason },
        }
    }
}

impl From<CommitError> for Refusal {
    fn from(fault: CommitError) -> Refusal {
        match fault {
            CommitError::Poisoned { reason } => Refusal::Poisoned { inside: reason },
            CommitError::DiskFull => Refusal::DiskFull,
            CommitError::Failed => Refusal::CommitFailed { inside: chain(&fault) },
        }
    }
}

impl From<QueryError> for Refusal {
    fn from(fault: QueryError) -> Refusal {
        match fault {
            QueryError::Busy => Refusal::QueriesBusy,
            QueryError::Stopping => Refusal::Stopping,
            QueryError::Memory(_) => Refusal::QueryTooLarge,
            QueryError::Failed(_) => Refusal::Internal { inside: chain(&fault) },
        }
    }
}

impl From<SqlError> for Refusal {
    fn from(fault: SqlError) -> Refusal {
        let text = fault.to_string();
        match fault {
            SqlError::Invalid(_) => Refusal::SqlInvalid { text },
            SqlError::NotAllowed(_) => Refusal::SqlNotAllowed { text },
            SqlError::Rows { .. } => Refusal::SqlTooManyRows { text },
            SqlError::Timeout { .. } => Refusal::SqlTimeout { text },
            SqlError::Memory(_) => Refusal::QueryTooLarge,
            SqlError::Busy => Refusal::QueriesBusy,
            SqlError::Stopping => Refusal::Stopping,
            SqlError::Failed(_) => Refusal::Internal { inside: chain(&fault) },
        }
    }
}

impl From<EraseError> for Refusal {
    fn from(fault: EraseError) -> Refusal {
        match fault {
            EraseError::Commit(fault) => Refusal::from(fault),
            EraseError::Stopping => Refusal::Stopping,
            // The order stands, so a full disk is not told as one on which nothing was stored.
            EraseError::Store(fault) => Refusal::CatalogFailed { inside: chain(&fault) },
            EraseError::Query(fault) => Refusal::from(fault),
            EraseError::Random(fault) => Refusal::internal(fault),
        }
    }
}

impl From<FlushError> for Refusal {
    fn from(fault: FlushError) -> Refusal {
        match fault {
            FlushError::DiskFull => Refusal::DiskFull,
            FlushError::Stopping => Refusal::Stopping,
            FlushError::Failed { .. } => Refusal::FlushFailed { inside: chain(&fault) },
        }
    }
}

/// A fault and what caused it, in one line.
pub(crate) fn chain(fault: &dyn Error) -> String {
    let mut text = fault.to_string();
    let mut source = fault.source();
    while let Some(fault) = source {
        text.push_str(": ");
        text.push_str(&fault.to_string());
        source = fault.source();
    }
    text
}

/// A sent text in quotes, without control characters and not longer than a
/// person would read.
pub(crate) struct Quoted<'a>(pub(crate) &'a str);

impl Display for Quoted<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0.char_indices().nth(QUOTED_CHARS_MAX) {
            None => write!(f, "{:?}", self.0),
            Some((end, _)) => write!(f, "{:?} (cut)", &self.0[..end]),
        }
    }
}

/// A sent JSON value, a text in quotes, others as they are; cut as [`Quoted`] is.
pub(crate) struct Sent<'a>(pub(crate) &'a Value);

impl Display for Sent<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Value::String(text) = self.0 {
            return Quoted(text).fmt(f);
        }
        let text = self.0.to_string();
        match text.char_indices().nth(QUOTED_CHARS_MAX) {
            None => f.write_str(&text),
            Some((end, _)) => write!(f, "{} (cut)", &text[..end]),
        }
    }
}

/// One entry of `detail`: where, what, which kind.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(crate) struct Entry {
    /// Where.
    #[serde(rename = "loc")]
    pub(crate) place: Place,
    /// For people.
    #[serde(rename = "msg")]
    pub(crate) message: String,
    /// For programs.
    #[serde(rename = "type")]
    pub(crate) kind: &'static str,
}

impl Entry {
    pub(crate) fn new(place: Place, kind: &'static str, message: impl Into<String>) -> Entry {
        Entry { place, message: message.into(), kind }
    }

    /// An entry about a parameter behind the `?`.
    pub(crate) fn query(name: &'static str, kind: &'static str, message: impl Into<String>) -> Entry {
        Entry::new(Place::of("query", name), kind, message)
    }

    /// An entry about a part of the path.
    pub(crate) fn path(name: &'static str, kind: &'static str, message: impl Into<String>) -> Entry {
        Entry::new(Place::of("path", name), kind, message)
    }

    /// An entry about a field of a body.
    pub(crate) fn body(field: &'static str, kind: &'static str, message: impl Into<String>) -> Entry {
        Entry::new(Place::of("body", field), kind, message)
    }

    /// An entry about a field of a body that nobody knows.
    pub(crate) fn unknown_field(name: &str, message: impl Into<String>) -> Entry {
        let cut = name.chars().take(QUOTED_CHARS_MAX).collect();
        let place = Place { root: "body", index: None, field: Some(Cow::Owned(cut)) };
        Entry::new(place, "unknown_field", message)
    }
}

/// A place in a request; prints as `["body","data_points",3,"value"]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Place {
    /// `body`, `query` or `path`.
    pub(crate) root: &'static str,
    /// Which of `data_points`.
    pub(crate) index: Option<usize>,
    /// Which field; the whole if absent.
    pub(crate) field: Option<Cow<'static, str>>,
}

impl Place {
    fn of(root: &'static str, field: &'static str) -> Place {
        Place { root, index: None, field: Some(Cow::Borrowed(field)) }
    }
}

impl Serialize for Place {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut list = serializer.serialize_seq(None)?;
        list.serialize_element(self.root)?;
        if let Some(index) = self.index {
            list.serialize_element("data_points")?;
            list.serialize_element(&index)?;
        }
        if let Some(field) = &self.field {
            list.serialize_element(field)?;
        }
        list.end()
    }
}

#[derive(Serialize)]
struct Document<'a> {
    code: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    accepted: Option<usize>,
    #[serde(skip_serializing_if = "Option::is_none")]
    line: Option<usize>,
    #[serde(skip_serializing_if = "Option::is_none")]
    ids: Option<&'a [String]>,
    detail: Detail<'a>,
    #[serde(skip_serializing_if = "Option::is_none")]
    rejected: Option<usize>,
}

#[derive(Serialize)]
#[serde(untagged)]
enum Detail<'a> {
    Text(String),
    Entries(&'a [Entry]),
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_heals_by_itself_says_when_to_come_back() {
        let cases = [
            (Refusal::from(SubmitError::Full), 429, true),
            (Refusal::from(SubmitError::Stopping), 503, true),
            (Refusal::from(SubmitError::DiskFull), 507, true),
            (Refusal::from(SubmitError::Poisoned { reason: String::new() }), 503, false),
            (Refusal::from(CommitError::Poisoned { reason: String::new() }), 503, false),
            (Refusal::from(CommitError::Failed), 503, true),
            (Refusal::from(CommitError::DiskFull), 507, true),
            (Refusal::from(QueryError::Busy), 503, true),
            (Refusal::from(QueryError::Stopping), 503, true),
            (Refusal::from(FlushError::DiskFull), 507, true),
            (Refusal::catalog(CatalogError::Malformed { what: "key" }), 503, true),
        ];
        for (refusal, status, retry) in cases {
            let response = refusal.response();
            assert_eq!(response.status().as_u16(), status, "{refusal}");
            assert_eq!(response.headers().contains_key(RETRY_AFTER), retry, "{refusal}");
        }
    }

    #[test]
    fn a_refused_line_says_where_and_what_was_taken_beside_what_its_cause_says() {
        let at_line = |why| Refusal::AtLine { line: 3, ids: vec!["evt_1".to_owned()], why: Box::new(why) };
        let cases = [
            Refusal::invalid(Entry::body("type", "missing", "is missing")),
            Refusal::OtherUser,
            Refusal::QueueFull,
            Refusal::TooManyLines { limit: 3 },
            Refusal::Poisoned { inside: "sync".to_owned() },
        ];
        let fields = |refusal: &Refusal| match refusal.response().into_body() {
            ReplyBody::Whole(body) => serde_json::from_slice::<serde_json::Value>(&body).unwrap(),
            _ => panic!("refusals are whole"),
        };
        for why in cases {
            let (alone, status, inside) = (fields(&why), why.status(), why.inside().map(str::to_owned));
            let retry = why.retry_after_seconds();
            let refusal = at_line(why);
            assert_eq!((refusal.status(), refusal.inside()), (status, inside.as_deref()));
            assert_eq!(refusal.retry_after_seconds(), retry);
            let expected = serde_json::json!({
                "code": alone["code"], "detail": alone["detail"], "accepted": 1, "line": 3, "ids": ["evt_1"]
            });
            assert_eq!(fields(&refusal), expected);
        }
    }

    #[test]
    fn the_api_page_lists_every_code() {
        let page = include_str!("../../docs/http-api.md");
        let lines =
            include_str!("error.rs").lines().filter(|line| line.trim_start().starts_with("Refusal::"));
        let lines = lines.filter(|line| line.contains("(S::"));
        let codes: Vec<_> = lines.filter_map(|line| line.split('"').nth(1)).collect();
        assert!(codes.len() > 30);
        for code in codes {
            assert!(page.contains(&format!("`{code}`")), "docs/http-api.md lacks `{code}`");
        }
    }

    #[test]
    fn an_entry_prints_its_place_as_a_path() {
        let place = Place { root: "body", index: Some(3), field: Some("value".into()) };
        let entry = serde_json::to_value(Entry::new(place, "out_of_range", "too much")).unwrap();
        let expected = serde_json::json!({"loc":["body","data_points",3,"value"],"msg":"too much","type":"out_of_range"});
        assert_eq!(entry, expected);
    }
}
