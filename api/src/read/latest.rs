//! `GET /api/v1/wearables/latest`: the newest value of every metric that has data.

use hyper::StatusCode;
use systole_engine::{LatestValue, Registry};
use tokio::time::timeout;

use super::Format;
use super::json::{put_number, put_text, put_time};
use crate::error::Refusal;
use crate::ingest::UserRule;
use crate::reply::{self, Reply};
use crate::route::Call;

/// Bytes a printed value usually takes.
const VALUE_BYTES: usize = 112;

pub(crate) async fn latest(call: Call<'_>) -> Result<Reply, Refusal> {
    Format::wanted(&call, &[Format::Json])?;
    let user = UserRule::of(call.caller.user.as_deref(), call.query.get("user_id"))?.only()?;
    let wait = call.app.settings.query.timeout;
    let values = timeout(wait, call.app.engine.latest(&call.org, user)).await;
    let values = values.map_err(|_| Refusal::QueryTimeout { seconds: wait.as_secs_f64() })??;
    Ok(reply::json(StatusCode::OK, render(&call.app.engine.registry(&call.org), &values)))
}

fn render(registry: &Registry, values: &[LatestValue]) -> Vec<u8> {
    let mut out = Vec::with_capacity(16 + values.len() * VALUE_BYTES);
    out.extend_from_slice(b"{\"latest\":{");
    for (index, value) in values.iter().enumerate() {
        if index > 0 {
            out.push(b',');
        }
        let unit = registry.resolve(&value.metric).map_or("", |(_, metric)| metric.unit.as_str());
        put_text(&mut out, &value.metric);
        out.extend_from_slice(b":{\"value\":");
        put_number(&mut out, value.value);
        out.extend_from_slice(b",\"unit\":");
        put_text(&mut out, unit);
        out.extend_from_slice(b",\"recorded_at\":");
        put_time(&mut out, value.recorded_at);
        out.push(b'}');
    }
    out.extend_from_slice(b"}}");
    out
}
