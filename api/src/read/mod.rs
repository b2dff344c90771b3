//! Asking for samples: a metric's series, as it is or in buckets, the latest values,
//! everything of a user; as JSON, CSV or Arrow.

mod accept;
mod buckets;
mod csv;
mod cursor;
mod export;
mod json;
mod latest;
mod metric;
mod page;
mod part;
mod stream;
mod window;

pub(crate) use accept::Format;
pub(crate) use export::{ExportBody, export};
pub(crate) use latest::latest;
pub(crate) use metric::{known_metric, metric};
pub(crate) use stream::SampleBody;
pub(crate) use window::{Window, instant};

fn essence(wish: &str) -> &str {
    wish.split(';').next().unwrap_or_default().trim()
}
