//! From a request to its answer: route, caller, handler, and around them the
//! request id, the counters, the log line and the catching of panics.
//!
//! The order of refusals: 404 and 405 by the table, 401, 403 by scope, then what
//! the handler finds. A body that an early answer left unread is read on and thrown
//! away for a while, so that the client gets to see the answer.

mod query;
mod table;

use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Instant;

use futures_util::FutureExt as _;
use hyper::body::Incoming;
use hyper::header::{ALLOW, HeaderName, HeaderValue};
use hyper::http::request::Parts;
use hyper::{Request, StatusCode};

use crate::app::App;
use crate::auth::{Caller, Scope, is_org_id};
use crate::error::{Entry, Refusal};
use crate::observe::Observe;
use crate::reply::{self, Reply};
use crate::server::RequestBody;
use crate::{ingest, manage, observe, openapi, read, sql};

pub(crate) use query::Query;
pub(crate) use table::{Access, Endpoint, ROUTES};
use table::{Match, Route};

const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

/// What a handler gets: a request whose caller may make it.
pub(crate) struct Call<'a> {
    pub(crate) app: &'a Arc<App>,
    pub(crate) head: &'a Parts,
    pub(crate) body: &'a mut RequestBody,
    pub(crate) query: Query,
    /// What stands for the `{name}` of the route's path.
    pub(crate) parameter: String,
    /// On whose behalf it runs.
    pub(crate) caller: Arc<Caller>,
    /// The organisation it is about: the caller's, or the one an operator named.
    pub(crate) org: Arc<str>,
    pub(crate) request_id: &'a HeaderValue,
}

/// Answers a request; every way leads to an answer.
pub(crate) async fn answer(app: Arc<App>, request: Request<Incoming>) -> Reply {
    let started = Instant::now();
    let (head, incoming) = request.into_parts();
    let request_id = app.request_ids.of(&head.headers);
    let mut body = RequestBody::new(incoming, &head.headers);
    let matched = table::find(&head.method, head.uri.path());
    let index = match &matched {
        Match::Found { index, .. } => Some(*index),
        _ => None,
    };
    let outcome = caught(&app.observe, run(&app, &head, &mut body, matched, &request_id)).await;
    body.linger();
    let (status, refusal) = match &outcome {
        Ok(response) => (response.status(), None),
        Err(refusal) => (refusal.status().0, Some(refusal)),
    };
    Ended { index, status, refusal, request_id: &request_id, started }.note(&app);
    let mut response = outcome.unwrap_or_else(|refusal| refusal.response());
    response.headers_mut().insert(REQUEST_ID, request_id);
    response
}

/// Makes a panic the failure of one request.
async fn caught(
    observe: &Observe,
    run: impl Future<Output = Result<Reply, Refusal>>,
) -> Result<Reply, Refusal> {
    AssertUnwindSafe(run).catch_unwind().await.unwrap_or_else(|_| {
        observe.panicked();
        Err(Refusal::internal("the handler panicked"))
    })
}

async fn run(
    app: &Arc<App>,
    head: &Parts,
    body: &mut RequestBody,
    matched: Match,
    request_id: &HeaderValue,
) -> Result<Reply, Refusal> {
    match matched {
        Match::Found { index, parameter } => {
            let route = &ROUTES[index];
            match route.access {
                Access::Open => open(app, route.endpoint),
                Access::Caller | Access::Scope(_) => {
                    let call = admit(app, head, body, route, parameter, request_id).await?;
                    serve(call, route.endpoint).await
                }
            }
        }
        Match::Options { allow } => {
            let mut response = reply::empty(StatusCode::NO_CONTENT);
            response.headers_mut().insert(ALLOW, HeaderValue::from_str(&allow).map_err(Refusal::internal)?);
            Ok(response)
        }
        Match::WrongMethod { allow } => Err(Refusal::MethodNotAllowed { method: head.method.clone(), allow }),
        Match::Nothing => Err(Refusal::UnknownPath { path: head.uri.path().to_owned() }),
    }
}

/// Finds the caller and checks scope and organisation.
async fn admit<'a>(
    app: &'a Arc<App>,
    head: &'a Parts,
    body: &'a mut RequestBody,
    route: &Route,
    parameter: String,
    request_id: &'a HeaderValue,
) -> Result<Call<'a>, Refusal> {
    let caller = app.auth.caller(&head.headers).await?;
    if let Access::Scope(needed) = route.access
        && !caller.scopes.allow(needed)
    {
        return Err(Refusal::ScopeMissing { needed });
    }
    let query = Query::parse(head.uri.query())?;
    let org = organisation(app, &caller, &query, route.endpoint).await?;
    Ok(Call { app, head, body, query, parameter, caller, org, request_id })
}

/// `?org=` is for operators; others may only name their own. An operator makes
/// an organisation by making its first key.
async fn organisation(
    app: &App,
    caller: &Caller,
    query: &Query,
    endpoint: Endpoint,
) -> Result<Arc<str>, Refusal> {
    let Some(org) = query.get("org").filter(|org| *org != &*caller.org) else {
        return Ok(Arc::clone(&caller.org));
    };
    if !caller.scopes.allow(Scope::Operator) {
        return Err(Refusal::OtherOrg);
    }
    if !is_org_id(org) {
        let message = "must be 1 to 64 characters of a-z 0-9 _ - and begin with a letter";
        return Err(Refusal::invalid(Entry::query("org", "malformed", message)));
    }
    let org: Arc<str> = Arc::from(org);
    if endpoint != Endpoint::CreateKey && !app.organisations.has(&org).await? {
        return Err(Refusal::UnknownOrg { org: org.to_string() });
    }
    Ok(org)
}

fn open(app: &App, endpoint: Endpoint) -> Result<Reply, Refusal> {
    match endpoint {
        Endpoint::Health => Ok(observe::health(app)),
        Endpoint::Scrape => observe::scrape(app),
        Endpoint::Ready => Ok(observe::ready(app)),
        Endpoint::OpenApi => Ok(openapi::serve()),
        other => Err(Refusal::internal(format!("{other:?} is not open"))),
    }
}

async fn serve(call: Call<'_>, endpoint: Endpoint) -> Result<Reply, Refusal> {
    match endpoint {
        Endpoint::IngestOne => ingest::one(call).await,
        Endpoint::IngestBulk => ingest::bulk(call).await,
        Endpoint::Metric => read::metric(call).await,
        Endpoint::Latest => read::latest(call).await,
        Endpoint::Sql => sql::query(call).await,
        Endpoint::Registry => Ok(manage::registry(&call)),
        Endpoint::AddMetric => manage::add_metric(call).await,
        Endpoint::CreateKey => manage::create_key(call).await,
        Endpoint::ListKeys => manage::list_keys(call).await,
        Endpoint::DeleteKey => manage::delete_key(call).await,
        Endpoint::CreateWebhook => manage::webhooks::create(call).await,
        Endpoint::ListWebhooks => manage::webhooks::list(call).await,
        Endpoint::GetWebhook => manage::webhooks::get(call).await,
        Endpoint::PatchWebhook => manage::webhooks::patch(call).await,
        Endpoint::DeleteWebhook => manage::webhooks::delete(call).await,
        Endpoint::WebhookSecret => manage::webhooks::secret(call).await,
        Endpoint::RotateSecret => manage::webhooks::rotate(call).await,
        Endpoint::ConfigureExternal => manage::webhooks::configure(call).await,
        Endpoint::TestWebhook => manage::webhooks::test(call).await,
        Endpoint::EventTypes => manage::webhooks::types(call).await,
        Endpoint::Messages => manage::webhooks::messages(call).await,
        Endpoint::Message => manage::webhooks::message(call).await,
        Endpoint::AttemptsTo => manage::webhooks::of_endpoint(call).await,
        Endpoint::AttemptsOfMessage => manage::webhooks::of_message(call).await,
        Endpoint::Resend => manage::webhooks::resend(call).await,
        Endpoint::Recover => manage::webhooks::recover(call).await,
        Endpoint::ReplayMissing => manage::webhooks::replay_missing(call).await,
        Endpoint::WebhookStats => manage::webhooks::stats(call).await,
        Endpoint::Publish => manage::webhooks::publish(call).await,
        Endpoint::EraseUser => manage::erase_user(call).await,
        Endpoint::EraseRange => manage::erase_range(call).await,
        Endpoint::Erasure => manage::erasure(call).await,
        Endpoint::ExportUser => read::export(call).await,
        Endpoint::Retention => manage::retention(&call),
        Endpoint::SetRetention => manage::set_retention(call).await,
        Endpoint::Flush => manage::flush(call).await,
        Endpoint::Compact => manage::compact(call).await,
        other => Err(Refusal::internal(format!("{other:?} needs no caller"))),
    }
}

/// A request that has its answer.
struct Ended<'a> {
    index: Option<usize>,
    status: StatusCode,
    refusal: Option<&'a Refusal>,
    request_id: &'a HeaderValue,
    started: Instant,
}

impl Ended<'_> {
    fn note(&self, app: &App) {
        let elapsed = self.started.elapsed();
        app.observe.answered(self.index, self.status, elapsed);
        if self.status == StatusCode::UNAUTHORIZED {
            app.observe.auth_rejected();
        }
        let route = self.index.map_or("none", |index| ROUTES[index].path);
        let request_id = self.request_id.to_str().unwrap_or_default();
        let code = self.refusal.map_or("", |refusal| refusal.status().1);
        let inside = self.refusal.and_then(Refusal::inside).unwrap_or_default();
        let (status, ms) = (self.status.as_u16(), elapsed.as_secs_f64() * 1e3);
        if self.status.is_server_error() {
            tracing::warn!(request_id, route, status, code, inside, ms, "request failed");
        } else if self.is_management() {
            tracing::info!(request_id, route, status, code, ms, "request");
        } else {
            tracing::debug!(request_id, route, status, code, ms, "request");
        }
    }

    fn is_management(&self) -> bool {
        let access = self.index.map(|index| ROUTES[index].access);
        matches!(access, Some(Access::Scope(Scope::Admin | Scope::Operator)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_panic_is_the_500_of_one_request() {
        let observe = Observe::default();
        let outcome = caught(&observe, async { panic!("a bug") }).await;
        assert_eq!(outcome.err().unwrap().status(), (StatusCode::INTERNAL_SERVER_ERROR, "internal"));
        let fine = caught(&observe, async { Ok(reply::empty(StatusCode::OK)) }).await;
        assert_eq!(fine.ok().unwrap().status(), StatusCode::OK);
    }
}
