//! Every route there is. 404, 405 with `Allow`, `HEAD` and `OPTIONS` follow from
//! this table, and a test compares it with the OpenAPI document.

use std::borrow::Cow;

use hyper::Method;

use super::query::percent_decode;
use crate::auth::Scope;

/// Who may call a route.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Access {
    /// Anybody.
    Open,
    /// Anybody with a key or token.
    Caller,
    /// A caller with this scope.
    Scope(Scope),
}

/// What a route runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Endpoint {
    IngestOne,
    IngestBulk,
    Metric,
    Latest,
    Sql,
    Registry,
    AddMetric,
    CreateKey,
    ListKeys,
    DeleteKey,
    CreateWebhook,
    ListWebhooks,
    GetWebhook,
    PatchWebhook,
    DeleteWebhook,
    WebhookSecret,
    RotateSecret,
    ConfigureExternal,
    TestWebhook,
    EventTypes,
    Messages,
    Message,
    AttemptsTo,
    AttemptsOfMessage,
    Resend,
    Recover,
    ReplayMissing,
    WebhookStats,
    Publish,
    Flush,
    Compact,
    EraseUser,
    EraseRange,
    Erasure,
    ExportUser,
    Retention,
    SetRetention,
    Health,
    Ready,
    Scrape,
    OpenApi,
}

/// One line of the table. A `{name}` in the path stands for one segment; there are two at
/// most.
pub(crate) struct Route {
    pub(crate) method: Method,
    pub(crate) path: &'static str,
    pub(crate) access: Access,
    pub(crate) endpoint: Endpoint,
}

const fn route(method: Method, path: &'static str, access: Access, endpoint: Endpoint) -> Route {
    Route { method, path, access, endpoint }
}

/// The routes; the busiest first, as they are looked through in order.
pub(crate) static ROUTES: [Route; 41] = {
    const INGEST: Access = Access::Scope(Scope::Ingest);
    const READ: Access = Access::Scope(Scope::Read);
    const WEBHOOKS: Access = Access::Scope(Scope::Webhooks);
    const ADMIN: Access = Access::Scope(Scope::Admin);
    const OPERATOR: Access = Access::Scope(Scope::Operator);
    [
        route(Method::POST, "/api/v1/wearables/bulk-ingest", INGEST, Endpoint::IngestBulk),
        route(Method::POST, "/api/v1/wearables/ingest", INGEST, Endpoint::IngestOne),
        route(Method::GET, "/api/v1/wearables/metric/{metric}", READ, Endpoint::Metric),
        route(Method::GET, "/api/v1/wearables/latest", READ, Endpoint::Latest),
        route(Method::POST, "/api/v1/query", READ, Endpoint::Sql),
        route(Method::POST, "/api/v1/events", INGEST, Endpoint::Publish),
        route(Method::POST, "/api/v1/webhooks/endpoints", WEBHOOKS, Endpoint::CreateWebhook),
        route(Method::GET, "/api/v1/webhooks/endpoints", WEBHOOKS, Endpoint::ListWebhooks),
        route(Method::GET, "/api/v1/webhooks/endpoints/{id}", WEBHOOKS, Endpoint::GetWebhook),
        route(Method::PATCH, "/api/v1/webhooks/endpoints/{id}", WEBHOOKS, Endpoint::PatchWebhook),
        route(Method::DELETE, "/api/v1/webhooks/endpoints/{id}", WEBHOOKS, Endpoint::DeleteWebhook),
        route(Method::GET, "/api/v1/webhooks/endpoints/{id}/secret", WEBHOOKS, Endpoint::WebhookSecret),
        route(
            Method::POST,
            "/api/v1/webhooks/endpoints/{id}/secret/rotate",
            WEBHOOKS,
            Endpoint::RotateSecret,
        ),
        route(Method::POST, "/external-events/", WEBHOOKS, Endpoint::ConfigureExternal),
        route(Method::POST, "/api/v1/webhooks/endpoints/{id}/test", WEBHOOKS, Endpoint::TestWebhook),
        route(Method::GET, "/api/v1/webhooks/event-types", WEBHOOKS, Endpoint::EventTypes),
        route(Method::GET, "/api/v1/webhooks/messages", WEBHOOKS, Endpoint::Messages),
        route(Method::GET, "/api/v1/webhooks/messages/{id}", WEBHOOKS, Endpoint::Message),
        route(Method::GET, "/api/v1/webhooks/endpoints/{id}/attempts", WEBHOOKS, Endpoint::AttemptsTo),
        route(Method::GET, "/api/v1/webhooks/messages/{id}/attempts", WEBHOOKS, Endpoint::AttemptsOfMessage),
        route(
            Method::POST,
            "/api/v1/webhooks/messages/{id}/endpoints/{endpoint_id}/resend",
            WEBHOOKS,
            Endpoint::Resend,
        ),
        route(Method::POST, "/api/v1/webhooks/endpoints/{id}/recover", WEBHOOKS, Endpoint::Recover),
        route(
            Method::POST,
            "/api/v1/webhooks/endpoints/{id}/replay-missing",
            WEBHOOKS,
            Endpoint::ReplayMissing,
        ),
        route(Method::GET, "/api/v1/webhooks/endpoints/{id}/stats", WEBHOOKS, Endpoint::WebhookStats),
        route(Method::GET, "/api/v1/metrics", Access::Caller, Endpoint::Registry),
        route(Method::POST, "/api/v1/metrics", ADMIN, Endpoint::AddMetric),
        route(Method::POST, "/api/v1/api-keys", ADMIN, Endpoint::CreateKey),
        route(Method::GET, "/api/v1/api-keys", ADMIN, Endpoint::ListKeys),
        route(Method::DELETE, "/api/v1/api-keys/{id}", ADMIN, Endpoint::DeleteKey),
        route(Method::DELETE, "/api/v1/wearables/metric/{metric}", ADMIN, Endpoint::EraseRange),
        route(Method::GET, "/api/v1/users/{user_id}/export", READ, Endpoint::ExportUser),
        route(Method::DELETE, "/api/v1/users/{user_id}", ADMIN, Endpoint::EraseUser),
        route(Method::GET, "/api/v1/erasures/{id}", ADMIN, Endpoint::Erasure),
        route(Method::GET, "/api/v1/retention", ADMIN, Endpoint::Retention),
        route(Method::PUT, "/api/v1/retention", ADMIN, Endpoint::SetRetention),
        route(Method::POST, "/api/v1/admin/flush", OPERATOR, Endpoint::Flush),
        route(Method::POST, "/api/v1/admin/compact", OPERATOR, Endpoint::Compact),
        route(Method::GET, "/health", Access::Open, Endpoint::Health),
        route(Method::GET, "/ready", Access::Open, Endpoint::Ready),
        route(Method::GET, "/metrics", Access::Open, Endpoint::Scrape),
        route(Method::GET, "/openapi.json", Access::Open, Endpoint::OpenApi),
    ]
};

/// What the table says about a method and a path.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Match {
    /// Route `index`; `parameter` is what stands for its `{name}`, or for both, with a `/`
    /// between them.
    Found { index: usize, parameter: String },
    /// `OPTIONS` of a path that exists.
    Options { allow: String },
    /// The path exists, not with this method.
    WrongMethod { allow: String },
    /// No such path.
    Nothing,
}

pub(crate) fn find(method: &Method, path: &str) -> Match {
    let wanted = if method == Method::HEAD { &Method::GET } else { method };
    for (index, route) in ROUTES.iter().enumerate() {
        if route.method == *wanted
            && let Some(parameter) = matches(route.path, path)
        {
            return Match::Found { index, parameter: parameter.into_owned() };
        }
    }
    match allowed(path) {
        None => Match::Nothing,
        Some(allow) if method == Method::OPTIONS => Match::Options { allow },
        Some(allow) => Match::WrongMethod { allow },
    }
}

/// The methods of a path, as `Allow` prints them.
fn allowed(path: &str) -> Option<String> {
    let mut methods: Vec<&str> = Vec::new();
    for route in ROUTES.iter().filter(|route| matches(route.path, path).is_some()) {
        methods.push(route.method.as_str());
        if route.method == Method::GET {
            methods.push(Method::HEAD.as_str());
        }
    }
    if methods.is_empty() {
        return None;
    }
    methods.push(Method::OPTIONS.as_str());
    Some(methods.join(", "))
}

fn matches<'p>(pattern: &str, path: &'p str) -> Option<Cow<'p, str>> {
    let Some((prefix, behind)) = pattern.split_once('{') else {
        return (pattern == path).then_some(Cow::Borrowed(""));
    };
    let (_, suffix) = behind.split_once('}')?;
    let rest = path.strip_prefix(prefix)?;
    if suffix.contains('{') {
        let (first, behind) = rest.split_once('/')?;
        let first = matches("{}", first)?;
        let second = matches(suffix.strip_prefix('/')?, behind)?;
        return Some(Cow::Owned(format!("{first}/{second}")));
    }
    let rest = rest.strip_suffix(suffix)?;
    if rest.is_empty() || rest.contains('/') {
        return None;
    }
    percent_decode(rest, false)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_segments_of_a_path_are_found() {
        let pattern = "/messages/{id}/endpoints/{endpoint_id}/resend";
        for (path, expected) in [
            ("/messages/evt_1/endpoints/ep_2/resend", Some("evt_1/ep_2")),
            ("/messages/evt%201/endpoints/ep_2/resend", Some("evt 1/ep_2")),
            ("/messages//endpoints/ep_2/resend", None),
            ("/messages/evt_1/endpoints//resend", None),
            ("/messages/evt_1/endpoints/ep_2", None),
            ("/messages/evt_1/attempts/ep_2/resend", None),
            ("/messages/evt_1/x/endpoints/ep_2/resend", None),
        ] {
            assert_eq!(matches(pattern, path).as_deref(), expected, "{path}");
        }
    }

    #[test]
    fn the_table_answers_for_methods_and_paths() {
        let found = |index, parameter: &str| Match::Found { index, parameter: parameter.to_owned() };
        let cases = [
            (Method::POST, "/api/v1/wearables/bulk-ingest", found(0, "")),
            (Method::GET, "/api/v1/wearables/metric/heart_rate", found(2, "heart_rate")),
            (Method::HEAD, "/api/v1/wearables/metric/a%2Fb", found(2, "a/b")),
            (Method::GET, "/api/v1/wearables/metric/", Match::Nothing),
            (Method::GET, "/api/v1/wearables/metric/a/b", Match::Nothing),
            (Method::GET, "/api/v1/wearables/metric/%ff", Match::Nothing),
            (Method::GET, "/api/v1/webhooks/endpoints/ep_1/secret", found(11, "ep_1")),
            (Method::GET, "/api/v1/webhooks/endpoints/ep_1", found(8, "ep_1")),
            (Method::GET, "/api/v1/webhooks/endpoints//secret", Match::Nothing),
            (Method::GET, "/health/", Match::Nothing),
            (Method::PUT, "/health", Match::WrongMethod { allow: "GET, HEAD, OPTIONS".to_owned() }),
            (
                Method::PATCH,
                "/api/v1/api-keys",
                Match::WrongMethod { allow: "POST, GET, HEAD, OPTIONS".to_owned() },
            ),
            (
                Method::OPTIONS,
                "/api/v1/api-keys/key_1",
                Match::Options { allow: "DELETE, OPTIONS".to_owned() },
            ),
            (Method::OPTIONS, "/nothing", Match::Nothing),
        ];
        for (method, path, expected) in cases {
            assert_eq!(find(&method, path), expected, "{method} {path}");
        }
    }
}
