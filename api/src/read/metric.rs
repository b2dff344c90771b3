//! `GET /api/v1/wearables/metric/{metric}`: a series, newest first.

use hyper::StatusCode;
use systole_engine::{Order, Position, SampleChunk, SampleStream, SeriesQuery};
use tokio::time::timeout;

use super::cursor::{self, Cursor};
use super::render::Page;
use super::stream::{Running, SampleBody, render_whole};
use super::window::Window;
use crate::error::{Entry, Quoted, Refusal};
use crate::ingest::UserRule;
use crate::reply::{self, Reply};
use crate::route::{Call, Query};

/// Largest page. Without `limit` the whole window streams, however long.
const LIMIT_MAX: usize = 100_000;
/// Parameters of the contract that a later version brings. Ignoring them would
/// answer another question than was asked.
const LATER: [&str; 4] = ["resolution", "agg", "tz", "combine"];

pub(crate) async fn metric(call: Call<'_>) -> Result<Reply, Refusal> {
    super::check_accept(&call)?;
    refuse_later(&call.query)?;
    let user = UserRule::of(call.caller.user.as_deref(), call.query.get("user_id"))?.only()?;
    let registry = call.app.engine.registry(&call.org);
    let (_, metric) = registry.resolve(&call.parameter).ok_or_else(|| unknown(&call))?;
    let limit = call.query.limit(LIMIT_MAX)?;
    let window = Window::of(&call.query)?;
    let mut query = SeriesQuery {
        org: call.org.to_string(),
        user: user.to_owned(),
        metric: metric.key.clone(),
        source: call.query.get("source").map(str::to_owned),
        start: window.start,
        end: window.end,
        order: order(&call.query)?,
        limit: limit.map(|limit| limit + 1),
        after: None,
    };
    let fingerprint = cursor::fingerprint(&query, &window);
    go_on(&mut query, call.query.get("cursor"), fingerprint)?;
    let nowhere = Position { recorded_at: 0, source: String::new(), device: None };
    let cursor = Cursor { fingerprint, start: query.start, end: query.end, after: nowhere };
    let page = Page::new(&metric.key, &metric.unit, limit, cursor);
    answer(&call, query, page).await
}

/// Puts the query behind the page that `cursor` ended.
fn go_on(query: &mut SeriesQuery, cursor: Option<&str>, fingerprint: [u8; 8]) -> Result<(), Refusal> {
    let Some(text) = cursor else { return Ok(()) };
    let refuse = |kind, message| Refusal::invalid(Entry::query("cursor", kind, message));
    let cursor = Cursor::decode(text)
        .ok_or_else(|| refuse("malformed", "is no cursor of this server; take next_cursor as it came"))?;
    if cursor.fingerprint != fingerprint {
        return Err(refuse("other_query", "belongs to another question; send the same parameters again"));
    }
    query.start = cursor.start;
    query.end = cursor.end;
    query.after = Some(cursor.after);
    Ok(())
}

fn refuse_later(query: &Query) -> Result<(), Refusal> {
    match LATER.into_iter().find(|name| query.get(name).is_some()) {
        None => Ok(()),
        Some(name) => {
            let message = "comes with a later version; this one answers the samples as they are";
            Err(Refusal::invalid(Entry::query(name, "not_supported", message)))
        }
    }
}

/// The key of the metric in the path.
pub(crate) fn known_metric(call: &Call<'_>) -> Result<String, Refusal> {
    let registry = call.app.engine.registry(&call.org);
    let found = registry.resolve(&call.parameter);
    Ok(found.ok_or_else(|| unknown(call))?.1.key.clone())
}

fn order(query: &Query) -> Result<Order, Refusal> {
    match query.get("order") {
        None | Some("desc") => Ok(Order::Descending),
        Some("asc") => Ok(Order::Ascending),
        Some(other) => {
            let message = format!("must be asc or desc, not {}", Quoted(other));
            Err(Refusal::invalid(Entry::query("order", "wrong_type", message)))
        }
    }
}

fn unknown(call: &Call<'_>) -> Refusal {
    let registry = call.app.engine.registry(&call.org);
    let nearest = registry.nearest(&call.parameter);
    let hint = match nearest.split_last() {
        None => "GET /api/v1/metrics lists them".to_owned(),
        Some((last, [])) => format!("did you mean {last}?"),
        Some((last, others)) => format!("did you mean {} or {last}?", others.join(", ")),
    };
    Refusal::UnknownMetric { name: call.parameter.clone(), hint }
}

/// A window of one chunk is answered whole; a longer one streams.
async fn answer(call: &Call<'_>, query: SeriesQuery, page: Page) -> Result<Reply, Refusal> {
    let wait = call.app.settings.query.timeout;
    let begin = async {
        let mut stream = call.app.engine.samples(query).await?;
        let first = next(&mut stream).await?;
        let second = if first.is_some() { next(&mut stream).await? } else { None };
        Ok::<_, Refusal>((stream, first, second))
    };
    let begun = timeout(wait, begin).await;
    let begun = begun.map_err(|_| Refusal::QueryTimeout { seconds: wait.as_secs_f64() })?;
    match begun? {
        (stream, Some(first), Some(second)) => {
            let running = Running { timeout: wait, request_id: call.request_id.clone() };
            Ok(reply::samples(SampleBody::new(page, first, second, stream, running)))
        }
        (_, first, _) => Ok(reply::json(StatusCode::OK, render_whole(page, first.as_ref()))),
    }
}

/// The next chunk that holds a row.
async fn next(stream: &mut SampleStream) -> Result<Option<SampleChunk>, Refusal> {
    while let Some(chunk) = stream.next().await {
        let chunk = chunk?;
        if !chunk.is_empty() {
            return Ok(Some(chunk));
        }
    }
    Ok(None)
}
