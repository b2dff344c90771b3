//! Taking samples in: `/ingest` and `/bulk-ingest`.
//!
//! 1. The byte budget is taken for the declared length, before a byte is read.
//! 2. The body is read into a buffer of the pool.
//! 3. On a thread for decoding it is inflated if it is compressed, and decoded, points
//!    that are written alike by comparing them, others by a tape: strings borrowed from
//!    the buffer, one push per point, nothing allocated per point.
//! 4. The frame goes to the committer together with the budget's permit; the
//!    answer waits for its acknowledgement. If the client is gone by then, the
//!    submission goes on and gives the permit back itself.

mod alike;
mod answer;
mod body;
mod decoders;
mod inflate;
mod json;
mod pool;
mod user;

use std::sync::Arc;

use hyper::StatusCode;
use systole_engine::{Draft, Permit};

use crate::app::App;
use crate::auth::Caller;
use crate::error::Refusal;
use crate::reply::Reply;
use crate::route::Call;
use inflate::Encoding;
use json::{Decoded, Shape};
use pool::BodyBuffer;

pub(crate) use decoders::Decoders;
pub(crate) use pool::Pool;
pub(crate) use user::UserRule;

/// `POST /api/v1/wearables/ingest`: the body is one point.
pub(crate) async fn one(call: Call<'_>) -> Result<Reply, Refusal> {
    ingest(call, Shape::One).await
}

/// `POST /api/v1/wearables/bulk-ingest`: the body is `{"data_points":[...]}`.
pub(crate) async fn bulk(call: Call<'_>) -> Result<Reply, Refusal> {
    ingest(call, Shape::Bulk).await
}

/// What the parameters behind the `?` ask for.
#[derive(Clone, Copy)]
struct Options {
    /// Store the good points though others are bad.
    partial: bool,
    /// The batch is history.
    backfill: bool,
}

/// A body that was decoded: what is wrong with it, and the frame to commit, if
/// there is one.
struct Prepared {
    decoded: Decoded,
    draft: Option<Draft>,
}

async fn ingest(call: Call<'_>, shape: Shape) -> Result<Reply, Refusal> {
    let encoding = body::check_headers(&call.head.headers)?;
    let options = Options { partial: call.query.flag("partial")?, backfill: call.query.flag("backfill")? };
    let named = call.query.get("user_id");
    UserRule::of(call.caller.user.as_deref(), named)?;
    let mut buffer = call.app.pool.body();
    let permit = body::read(call.app, call.body, &mut buffer).await?;
    let bytes = buffer.len();
    let job = Job {
        app: Arc::clone(call.app),
        caller: Arc::clone(&call.caller),
        org: Arc::clone(&call.org),
        named: named.map(str::to_owned),
        shape,
        options,
        encoding,
        buffer,
        permit,
    };
    let (prepared, permit) = call.app.decoders.run(bytes, move || job.run()).await?;
    finish(&call, prepared, permit, options.partial).await
}

/// A body that was read, with all that decoding it needs.
struct Job {
    app: Arc<App>,
    caller: Arc<Caller>,
    org: Arc<str>,
    /// The user in the query.
    named: Option<String>,
    shape: Shape,
    options: Options,
    encoding: Option<Encoding>,
    buffer: BodyBuffer,
    permit: Permit,
}

impl Job {
    fn run(mut self) -> Result<(Prepared, Permit), Refusal> {
        let settings = &self.app.settings.ingest;
        if let Some(encoding) = self.encoding {
            inflate::inflate(encoding, &self.app.pool, &mut self.buffer, settings, &mut self.permit)?;
        }
        let users = UserRule::of(self.caller.user.as_deref(), self.named.as_deref())?;
        let limits = json::Limits { points_max: settings.points_max };
        let registry = self.app.engine.registry(&self.org);
        let mut scratch = self.app.pool.scratch();
        let blocked = self.app.engine.blocked_users(&self.org);
        let decoded =
            json::decode(self.shape, &mut self.buffer, &mut scratch, &registry, users, limits, blocked)?;
        self.app.observe.points_rejected(decoded.rejected);
        let keep = decoded.accepted > 0 && (decoded.rejected == 0 || self.options.partial);
        let draft = keep.then(|| scratch.batch.encode(&self.org, self.options.backfill));
        self.app.pool.give(scratch);
        Ok((Prepared { decoded, draft }, self.permit))
    }
}

async fn finish(
    call: &Call<'_>,
    prepared: Prepared,
    permit: Permit,
    partial: bool,
) -> Result<Reply, Refusal> {
    let Prepared { decoded, draft } = prepared;
    if decoded.rejected > 0 && !partial {
        return Err(Refusal::Invalid { detail: decoded.detail, rejected: Some(decoded.rejected) });
    }
    if let Some(draft) = draft {
        let samples = u32::try_from(decoded.accepted).map_err(Refusal::internal)?;
        call.app.engine.submit(draft, samples, permit)?.await?;
    }
    Ok(crate::reply::json(StatusCode::OK, answer::render(&decoded, partial)))
}
