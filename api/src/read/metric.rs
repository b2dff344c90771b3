//! `GET /api/v1/wearables/metric/{metric}`: a series, newest first.

use hyper::header::{HeaderName, HeaderValue, VARY};
use systole_engine::{BucketQuery, Metric, Order, Position, SeriesQuery};
use tokio::time::timeout;

use super::Format;
use super::buckets::Buckets;
use super::cursor::{self, Cursor, Place};
use super::page::{Asked, Page};
use super::part::{Part, PartStream};
use super::stream::{Running, SampleBody, render_whole};
use super::window::Window;
use crate::error::{Entry, Quoted, Refusal};
use crate::ingest::UserRule;
use crate::reply::{self, Reply};
use crate::route::{Call, Query};

/// Largest page. Without `limit` the whole window streams, however long.
const LIMIT_MAX: usize = 100_000;
/// Largest page that is not JSON: its cursor is a header, so it is held until its
/// end, about 1 MB.
const LIMIT_HELD_MAX: usize = 10_000;
/// The cursor of the next page, where the body has no place for it.
const NEXT_CURSOR: HeaderName = HeaderName::from_static("x-next-cursor");

pub(crate) async fn metric(call: Call<'_>) -> Result<Reply, Refusal> {
    let format = Format::wanted(&call, &Format::ALL)?;
    let user = UserRule::of(call.caller.user.as_deref(), call.query.get("user_id"))?.only()?;
    let registry = call.app.engine.registry(&call.org);
    let (_, metric) = registry.resolve(&call.parameter).ok_or_else(|| unknown(&call))?;
    let limit = call.query.limit(if format == Format::Json { LIMIT_MAX } else { LIMIT_HELD_MAX })?;
    let window = Window::of(&call.query)?;
    let series = SeriesQuery {
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
    let buckets = Buckets::of(&call.query, metric)?;
    let fingerprint = cursor::fingerprint(&series, &window, buckets.as_ref());
    let cursor = page_before(call.query.get("cursor"), fingerprint, buckets.is_some())?;
    let question = Question { series, buckets, limit, format };
    let (page, wanted) = question.prepare(metric, cursor, fingerprint);
    let mut reply = answer(&call, wanted, page).await?;
    reply.headers_mut().insert(VARY, HeaderValue::from_static("accept"));
    Ok(reply)
}

struct Question {
    series: SeriesQuery,
    buckets: Option<Buckets>,
    limit: Option<usize>,
    format: Format,
}

/// What the engine is asked.
enum Wanted {
    Samples(SeriesQuery),
    Buckets(BucketQuery),
}

impl Question {
    /// The question behind the page that `cursor` ended, and its answer's frame.
    fn prepare(mut self, metric: &Metric, cursor: Option<Cursor>, fingerprint: [u8; 8]) -> (Page, Wanted) {
        if let Some(cursor) = &cursor {
            (self.series.start, self.series.end) = (cursor.start, cursor.end);
        }
        let (start, end) = (self.series.start, self.series.end);
        let after = cursor.map(|cursor| cursor.after);
        let nowhere = Place::Sample(Position { recorded_at: 0, source: String::new(), device: None });
        let page = Page::new(Asked {
            metric: &metric.key,
            unit: self.buckets.as_ref().map_or(metric.unit.as_str(), |buckets| buckets.unit(metric)),
            buckets: self.buckets.clone(),
            format: self.format,
            limit: self.limit,
            cursor: Cursor { fingerprint, start, end, after: nowhere },
        });
        let mut series = self.series;
        let wanted = match (self.buckets, after) {
            (None, after) => {
                series.after = after.and_then(|after| match after {
                    Place::Sample(position) => Some(position),
                    Place::Bucket(_) => None,
                });
                Wanted::Samples(series)
            }
            (Some(buckets), after) => {
                let after = after.and_then(|after| match after {
                    Place::Bucket(position) => Some(position),
                    Place::Sample(_) => None,
                });
                Wanted::Buckets(BucketQuery { series, bucketing: buckets.bucketing, after })
            }
        };
        (page, wanted)
    }
}

/// The cursor of a parameter, if it is one of this question.
fn page_before(
    cursor: Option<&str>,
    fingerprint: [u8; 8],
    of_buckets: bool,
) -> Result<Option<Cursor>, Refusal> {
    let Some(text) = cursor else { return Ok(None) };
    let refuse = |kind, message| Refusal::invalid(Entry::query("cursor", kind, message));
    let cursor = Cursor::decode(text)
        .ok_or_else(|| refuse("malformed", "is no cursor of this server; take next_cursor as it came"))?;
    if cursor.fingerprint != fingerprint || matches!(cursor.after, Place::Bucket(_)) != of_buckets {
        return Err(refuse("other_query", "belongs to another question; send the same parameters again"));
    }
    Ok(Some(cursor))
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

/// A window of one part is answered whole, as is a page whose cursor is a header;
/// a longer one streams.
async fn answer(call: &Call<'_>, wanted: Wanted, page: Page) -> Result<Reply, Refusal> {
    let wait = call.app.settings.query.timeout;
    let held = page.is_limited() && page.format() != Format::Json;
    let begin = async {
        let mut stream = begin(call, wanted).await?;
        let mut parts: Vec<Part> = Vec::new();
        while held || parts.len() < 2 {
            match stream.next().await {
                Some(part) => parts.push(part?),
                None => return Ok::<_, Refusal>((None, parts)),
            }
        }
        Ok((Some(stream), parts))
    };
    let begun = timeout(wait, begin).await;
    let begun = begun.map_err(|_| Refusal::QueryTimeout { seconds: wait.as_secs_f64() })?;
    match begun? {
        (Some(stream), parts) => {
            let running = Running { timeout: wait, request_id: call.request_id.clone() };
            let content_type = page.format().content_type();
            Ok(reply::samples(content_type, SampleBody::new(page, parts, stream, running)?))
        }
        (None, parts) => whole(page, &parts),
    }
}

async fn begin(call: &Call<'_>, wanted: Wanted) -> Result<PartStream, Refusal> {
    let engine = &call.app.engine;
    Ok(match wanted {
        Wanted::Samples(query) => PartStream::Samples(engine.samples(query).await?),
        Wanted::Buckets(query) => PartStream::Buckets(engine.buckets(query).await?),
    })
}

fn whole(mut page: Page, parts: &[Part]) -> Result<Reply, Refusal> {
    let body = render_whole(&mut page, parts)?;
    let mut reply = reply::typed(hyper::StatusCode::OK, page.format().content_type(), body);
    if page.format() != Format::Json
        && let Some(cursor) = page.next_cursor()
    {
        let cursor = HeaderValue::from_str(&cursor).map_err(Refusal::internal)?;
        reply.headers_mut().insert(NEXT_CURSOR, cursor);
    }
    Ok(reply)
}
