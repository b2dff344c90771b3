//! Asking for samples: a metric's series, as it is or in buckets, and the latest
//! values; as JSON, CSV or Arrow.

mod accept;
mod buckets;
mod csv;
mod cursor;
mod json;
mod latest;
mod metric;
mod page;
mod part;
mod stream;
mod window;

pub(crate) use accept::Format;
pub(crate) use latest::latest;
pub(crate) use metric::metric;
pub(crate) use stream::SampleBody;
