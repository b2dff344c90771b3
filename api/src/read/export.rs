//! `GET /api/v1/users/{user_id}/export`: everything of a user, as it comes.
//!
//! NDJSON (default): a data point a line, in the shape `/bulk-ingest` takes. Parquet:
//! the columns of data files. Both come metric by metric, each oldest first, and read no
//! further ahead than two chunks. An export that cannot be finished closes the
//! connection: it never looks whole.

use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use hyper::header::{ACCEPT, HeaderValue};
use systole_engine::{Engine, ExportStream, Order, QueryError, SampleChunk, SampleRow, SeriesQuery};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio::time::timeout;

use super::json::{put_number, put_optional, put_text, put_time};
use crate::error::Refusal;
use crate::manage::path_user;
use crate::reply::{self, CutOff, Reply};
use crate::route::Call;

/// Parts that wait for the client; full stops the reading of more.
const PARTS_AHEAD: usize = 2;
/// Rows rendered at a time.
const ROWS_PER_PART: usize = 512;
/// Bytes a line usually takes.
const LINE_BYTES: usize = 192;

const NDJSON: &str = "application/x-ndjson";
const PARQUET: &str = "application/vnd.apache.parquet";

pub(crate) async fn export(call: Call<'_>) -> Result<Reply, Refusal> {
    let format = format(&call)?;
    let (org, user) = (call.org.to_string(), path_user(&call)?.to_owned());
    let (engine, wait) = (call.app.engine.clone(), call.app.settings.query.timeout);
    let (sender, parts) = mpsc::channel(PARTS_AHEAD);
    let running = Running { sender, wait, request_id: call.request_id.clone() };
    let pump = if format == PARQUET {
        let begun = timeout(wait, engine.export_parquet(&org, &user)).await;
        let stream = begun.map_err(|_| Refusal::QueryTimeout { seconds: wait.as_secs_f64() })??;
        tokio::spawn(async move { running.end(parquet(stream, &running).await) })
    } else {
        let metrics = engine.metrics_of(&org, &user).await?;
        tokio::spawn(async move { running.end(lines(&engine, &org, &user, metrics, &running).await) })
    };
    Ok(reply::export(ExportBody { parts, pump, done: false }, HeaderValue::from_static(format)))
}

/// Which format the caller takes.
fn format(call: &Call<'_>) -> Result<&'static str, Refusal> {
    let wishes = call.head.headers.get_all(ACCEPT).iter().filter_map(|wish| wish.to_str().ok());
    let texts: Vec<&str> = wishes.collect();
    if texts.is_empty() {
        return Ok(NDJSON);
    }
    let essences = texts.iter().flat_map(|text| text.split(',')).map(super::essence);
    let takes = |essence: &str| match essence {
        "" | "*/*" | "application/*" | NDJSON | "application/json" => Some(NDJSON),
        PARQUET => Some(PARQUET),
        _ => None,
    };
    let format = essences.into_iter().find_map(takes);
    format.ok_or_else(|| {
        let offered = format!("{NDJSON}, {PARQUET}");
        Refusal::Accept { found: texts.join(", "), offered }
    })
}

enum Part {
    Bytes(Bytes),
    End,
}

/// Why an export ends before its end.
enum Halt {
    /// The client is gone.
    Gone,
    Failed(String),
}

impl From<QueryError> for Halt {
    fn from(fault: QueryError) -> Halt {
        let refusal = Refusal::from(fault);
        Halt::Failed(refusal.inside().unwrap_or(refusal.status().1).to_owned())
    }
}

/// An export that is being made.
struct Running {
    sender: mpsc::Sender<Part>,
    wait: Duration,
    request_id: HeaderValue,
}

impl Running {
    async fn send(&self, part: Part) -> Result<(), Halt> {
        self.sender.send(part).await.map_err(|_| Halt::Gone)
    }

    async fn within<T>(&self, work: impl Future<Output = T>) -> Result<T, Halt> {
        timeout(self.wait, work).await.map_err(|_| Halt::Failed("the query took too long".to_owned()))
    }

    fn end(&self, outcome: Result<(), Halt>) {
        if let Err(Halt::Failed(reason)) = outcome {
            let request_id = self.request_id.to_str().unwrap_or_default();
            tracing::warn!(request_id, reason, "export cut off");
        }
    }
}

async fn parquet(mut stream: ExportStream, running: &Running) -> Result<(), Halt> {
    while let Some(bytes) = running.within(stream.next()).await? {
        running.send(Part::Bytes(bytes?)).await?;
    }
    running.send(Part::End).await
}

async fn lines(
    engine: &Engine,
    org: &str,
    user: &str,
    metrics: Vec<String>,
    running: &Running,
) -> Result<(), Halt> {
    let registry = engine.registry(org);
    for metric in metrics {
        let unit = registry.resolve(&metric).map_or("", |(_, metric)| metric.unit.as_str());
        let names = Names { user, metric: &metric, unit };
        let query = SeriesQuery {
            org: org.to_owned(),
            user: user.to_owned(),
            metric: metric.clone(),
            source: None,
            start: i64::MIN,
            end: i64::MAX,
            order: Order::Ascending,
            limit: None,
            after: None,
        };
        let mut stream = running.within(engine.samples(query)).await??;
        while let Some(chunk) = running.within(stream.next()).await? {
            let chunk = chunk?;
            for from in (0..chunk.len()).step_by(ROWS_PER_PART) {
                running.send(Part::Bytes(names.render(&chunk, from))).await?;
            }
        }
    }
    running.send(Part::End).await
}

/// What all lines of a metric share.
struct Names<'a> {
    user: &'a str,
    metric: &'a str,
    unit: &'a str,
}

impl Names<'_> {
    fn render(&self, chunk: &SampleChunk, from: usize) -> Bytes {
        let rows = from..chunk.len().min(from + ROWS_PER_PART);
        let mut out = Vec::with_capacity(rows.len() * LINE_BYTES);
        for row in rows {
            self.put_line(&mut out, &chunk.row(row));
        }
        out.into()
    }

    fn put_line(&self, out: &mut Vec<u8>, row: &SampleRow<'_>) {
        out.extend_from_slice(b"{\"user_id\":");
        put_text(out, self.user);
        out.extend_from_slice(b",\"metric\":");
        put_text(out, self.metric);
        out.extend_from_slice(b",\"value\":");
        put_number(out, row.value);
        out.extend_from_slice(b",\"unit\":");
        put_text(out, self.unit);
        out.extend_from_slice(b",\"recorded_at\":");
        put_time(out, row.recorded_at);
        out.extend_from_slice(b",\"source\":");
        put_text(out, row.source);
        put_optional(out, row);
        out.extend_from_slice(b"}\n");
    }
}

/// The body of an export.
pub(crate) struct ExportBody {
    parts: mpsc::Receiver<Part>,
    /// The task; ended with the body.
    pump: JoinHandle<()>,
    done: bool,
}

impl ExportBody {
    pub(crate) fn poll_bytes(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Bytes, CutOff>>> {
        if self.done {
            return Poll::Ready(None);
        }
        let part = ready!(self.parts.poll_recv(cx));
        self.done = !matches!(part, Some(Part::Bytes(_)));
        Poll::Ready(match part {
            Some(Part::Bytes(bytes)) => Some(Ok(bytes)),
            Some(Part::End) => None,
            None => Some(Err(CutOff)),
        })
    }
}

impl Drop for ExportBody {
    fn drop(&mut self) {
        self.pump.abort();
    }
}
