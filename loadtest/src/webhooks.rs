//! Management of webhook endpoints over the server's API: make one, ask for its
//! secret, delete it. The key needs the scope `webhooks`.
//!
//! | | path under `/api/v1/webhooks` | answer |
//! |---|---|---|
//! | [`Webhooks::create`] | `POST /endpoints` | 201 `{"id":"ep_..."}`: it gets every event from here on |
//! | [`Webhooks::secret`] | `GET /endpoints/{id}/secret` | 200 `{"key":"whsec_..."}` |
//! | [`Webhooks::redirect`] | `PATCH /endpoints/{id}` | 200: its next attempts go there |
//! | [`Webhooks::delete`] | `DELETE /endpoints/{id}` | 204 |
//!
//! A connection for each call, since a run may lie between two of them, and no
//! retries: a run that cannot manage its endpoints does not begin.

use std::fmt;

use bytes::Bytes;
use hyper::StatusCode;
use serde_json::{Map, Value, json};

use crate::client::{Answer, ClientError, Connection, Server};
use crate::report::error_excerpt;
use crate::signature::{Dialect, Secret};

const ENDPOINTS: &str = "/api/v1/webhooks/endpoints";

/// What an endpoint is created with.
#[derive(Debug, Clone)]
pub struct EndpointSettings {
    /// Where events are posted.
    pub url: String,
    /// How they are signed.
    pub dialect: Dialect,
    /// Only events of these names; `None` for all.
    pub filter_types: Option<Vec<String>>,
    /// Only events about this user; `None` for all.
    pub user_id: Option<String>,
    /// Further fields of the request, as the server's API names them.
    pub more: Map<String, Value>,
}

/// The server's id of an endpoint.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct EndpointId(String);

/// The management side of a server.
#[derive(Debug, Clone)]
pub struct Webhooks {
    server: Server,
    /// `?org=...`, or nothing for the key's own organisation.
    query: String,
}

/// Why an endpoint is not managed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum WebhookError {
    /// There is no answer.
    #[error("{call} has no answer")]
    Client {
        /// What was asked for.
        call: &'static str,
        /// What went wrong.
        #[source]
        source: ClientError,
    },
    /// Another status than the one promised.
    #[error("{call} was answered with {status}, not {expected}: {body}")]
    Status {
        /// What was asked for.
        call: &'static str,
        /// What came.
        status: StatusCode,
        /// What should have come.
        expected: StatusCode,
        /// The beginning of the answer.
        body: String,
    },
    /// The right status, and not the field that it stands for.
    #[error("the answer to {call} has no {field:?}")]
    Field {
        /// What was asked for.
        call: &'static str,
        /// What is missing.
        field: &'static str,
    },
}

impl EndpointSettings {
    /// An endpoint of `standard` that gets everything.
    pub fn new(url: impl Into<String>) -> Self {
        Self {
            url: url.into(),
            dialect: Dialect::Standard,
            filter_types: None,
            user_id: None,
            more: Map::new(),
        }
    }

    fn to_json(&self) -> Value {
        let mut fields = self.more.clone();
        fields.insert("url".to_owned(), json!(self.url));
        fields.insert("dialect".to_owned(), json!(self.dialect.as_str()));
        if let Some(names) = &self.filter_types {
            fields.insert("filter_types".to_owned(), json!(names));
        }
        if let Some(user_id) = &self.user_id {
            fields.insert("user_id".to_owned(), json!(user_id));
        }
        Value::Object(fields)
    }
}

impl EndpointId {
    /// The id as the server prints it.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for EndpointId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl Webhooks {
    /// That of `server`.
    pub fn new(server: &Server) -> Self {
        Self { server: server.clone(), query: String::new() }
    }

    /// That of `server` in another organisation than the key's, which only an
    /// operator may name.
    pub fn of_org(server: &Server, org: &str) -> Self {
        Self { server: server.clone(), query: format!("?org={org}") }
    }

    /// Makes an endpoint.
    pub async fn create(&self, endpoint: &EndpointSettings) -> Result<EndpointId, WebhookError> {
        const CALL: &str = "creating an endpoint";
        let body = Bytes::from(endpoint.to_json().to_string());
        let answer = self.dial(CALL).await?.post(&format!("{ENDPOINTS}{}", self.query), body).await;
        let answer = expect(CALL, StatusCode::CREATED, answer)?;
        text(CALL, "id", &answer).map(EndpointId)
    }

    /// Asks for what the endpoint's events are signed with.
    pub async fn secret(&self, endpoint: &EndpointId) -> Result<Secret, WebhookError> {
        const CALL: &str = "asking for an endpoint's secret";
        let path = format!("{ENDPOINTS}/{endpoint}/secret{}", self.query);
        let answer = self.dial(CALL).await?.get(&path).await;
        let answer = expect(CALL, StatusCode::OK, answer)?;
        text(CALL, "key", &answer).map(Secret::new)
    }

    /// Gives the endpoint another URL.
    pub async fn redirect(&self, endpoint: &EndpointId, url: &str) -> Result<(), WebhookError> {
        const CALL: &str = "changing an endpoint";
        let path = format!("{ENDPOINTS}/{endpoint}{}", self.query);
        let body = Bytes::from(json!({ "url": url }).to_string());
        let answer = self.dial(CALL).await?.patch(&path, body).await;
        expect(CALL, StatusCode::OK, answer).map(drop)
    }

    /// Deletes an endpoint.
    pub async fn delete(&self, endpoint: &EndpointId) -> Result<(), WebhookError> {
        const CALL: &str = "deleting an endpoint";
        let path = format!("{ENDPOINTS}/{endpoint}{}", self.query);
        let answer = self.dial(CALL).await?.delete(&path).await;
        expect(CALL, StatusCode::NO_CONTENT, answer).map(drop)
    }

    async fn dial(&self, call: &'static str) -> Result<Connection, WebhookError> {
        self.server.connect().await.map_err(|source| WebhookError::Client { call, source })
    }
}

fn expect(
    call: &'static str,
    expected: StatusCode,
    answer: Result<Answer, ClientError>,
) -> Result<Answer, WebhookError> {
    let answer = answer.map_err(|source| WebhookError::Client { call, source })?;
    if answer.status == expected {
        return Ok(answer);
    }
    let (status, body) = (answer.status, error_excerpt(&answer.body));
    Err(WebhookError::Status { call, status, expected, body })
}

fn text(call: &'static str, field: &'static str, answer: &Answer) -> Result<String, WebhookError> {
    let body: Option<Value> = serde_json::from_slice(&answer.body).ok();
    let found = body.as_ref().and_then(|body| body[field].as_str());
    found.map(str::to_owned).ok_or(WebhookError::Field { call, field })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_endpoint_asks_only_for_what_it_was_given() {
        let plain = EndpointSettings::new("http://127.0.0.1:1/a");
        assert_eq!(plain.to_json(), json!({"url": "http://127.0.0.1:1/a", "dialect": "standard"}));
        let mut more = Map::new();
        more.insert("payload".to_owned(), json!("thin"));
        let full = EndpointSettings {
            dialect: Dialect::Avycenna,
            filter_types: Some(vec!["heart_rate.created".to_owned()]),
            user_id: Some("u_1".to_owned()),
            more,
            ..plain
        };
        let asked = json!({
            "url": "http://127.0.0.1:1/a", "dialect": "avycenna", "payload": "thin",
            "filter_types": ["heart_rate.created"], "user_id": "u_1",
        });
        assert_eq!(full.to_json(), asked);
    }
}
