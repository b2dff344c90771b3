//! What the store promises, tried from outside.

#![allow(
    clippy::unwrap_used,
    unreachable_pub,
    reason = "a test that cannot go on fails; its modules are its own"
)]

#[cfg(feature = "query")]
mod buckets;
mod catalog_webhooks;
mod files;
mod fixture;
mod journal_crashes;
mod journal_damage;
mod journal_retained;
mod log;
#[cfg(feature = "query")]
mod model;
#[cfg(feature = "query")]
mod reads;
#[cfg(feature = "query")]
mod series_arrow;
mod simulated_disk;
mod store;
