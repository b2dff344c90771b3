//! Taking samples in: `/ingest` and `/bulk-ingest`.
//!
//! 1. The byte budget is taken for the declared length, before a byte is read.
//! 2. The body is read into a buffer of the pool and inflated if it is compressed.
//! 3. It is decoded in place on this worker: tape, strings borrowed from the
//!    buffer, one push per point, nothing allocated per point.
//! 4. The frame goes to the committer together with the budget's permit; the
//!    answer waits for its acknowledgement. If the client is gone by then, the
//!    submission goes on and gives the permit back itself.

mod answer;
mod body;
mod inflate;
mod json;
mod pool;
mod user;

use hyper::StatusCode;
use systole_engine::{Draft, Permit};

use crate::error::Refusal;
use crate::reply::Reply;
use crate::route::Call;
use json::{Decoded, Shape};

pub(crate) use user::UserRule;

pub(crate) use pool::Pool;

/// `POST /api/v1/wearables/ingest`: the body is one point.
pub(crate) async fn one(call: Call<'_>) -> Result<Reply, Refusal> {
    ingest(call, Shape::One).await
}

/// `POST /api/v1/wearables/bulk-ingest`: the body is `{"data_points":[...]}`.
pub(crate) async fn bulk(call: Call<'_>) -> Result<Reply, Refusal> {
    ingest(call, Shape::Bulk).await
}

/// What the parameters behind the `?` ask for.
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
    let users = UserRule::of(call.caller.user.as_deref(), call.query.get("user_id"))?;
    let limits = &call.app.settings.ingest;
    let mut buffer = call.app.pool.body();
    let mut permit = body::read(call.app, call.body, &mut buffer).await?;
    if let Some(encoding) = encoding {
        inflate::inflate(encoding, &call.app.pool, &mut buffer, limits, &mut permit)?;
    }
    let prepared = prepare(&call, shape, &mut buffer, users, &options)?;
    drop(buffer);
    finish(&call, prepared, permit, options.partial).await
}

fn prepare(
    call: &Call<'_>,
    shape: Shape,
    buffer: &mut Vec<u8>,
    users: UserRule<'_>,
    options: &Options,
) -> Result<Prepared, Refusal> {
    let mut scratch = call.app.pool.scratch();
    let limits = json::Limits { points_max: call.app.settings.ingest.points_max };
    let registry = call.app.engine.registry();
    let decoded = json::decode(shape, buffer, &mut scratch, registry, users, limits)?;
    call.app.observe.points_rejected(decoded.rejected);
    let keep = decoded.accepted > 0 && (decoded.rejected == 0 || options.partial);
    let draft = keep.then(|| scratch.batch.encode(&call.org, options.backfill));
    call.app.pool.give(scratch);
    Ok(Prepared { decoded, draft })
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
