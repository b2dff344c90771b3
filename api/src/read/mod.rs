//! Asking for samples: a metric's series, the latest values, everything of a user.

mod cursor;
mod export;
mod latest;
mod metric;
mod render;
mod stream;
mod window;

use hyper::header::ACCEPT;

use crate::error::Refusal;
use crate::route::Call;

pub(crate) use export::{ExportBody, export};
pub(crate) use latest::latest;
pub(crate) use metric::{known_metric, metric};
pub(crate) use stream::SampleBody;
pub(crate) use window::Window;

/// Refuses a caller who takes anything but JSON.
fn check_accept(call: &Call<'_>) -> Result<(), Refusal> {
    let mut wishes = call.head.headers.get_all(ACCEPT).iter().peekable();
    if wishes.peek().is_none() {
        return Ok(());
    }
    let texts: Vec<&str> = wishes.filter_map(|wish| wish.to_str().ok()).collect();
    let essences = texts.iter().flat_map(|text| text.split(',')).map(essence);
    let takes = |essence: &str| matches!(essence, "" | "*/*" | "application/*" | "application/json");
    if essences.into_iter().any(takes) {
        return Ok(());
    }
    Err(Refusal::Accept { found: texts.join(", ") })
}

fn essence(wish: &str) -> &str {
    wish.split(';').next().unwrap_or_default().trim()
}
