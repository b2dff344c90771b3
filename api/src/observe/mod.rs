//! What can be seen from outside: health, counters, request ids.

mod health;
mod metrics;
mod request_id;

pub(crate) use health::{health, ready};
pub(crate) use metrics::{Observe, scrape};
pub(crate) use request_id::RequestIds;
