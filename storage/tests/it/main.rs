//! What the store promises, tried from outside.

#![allow(
    clippy::unwrap_used,
    unreachable_pub,
    reason = "a test that cannot go on fails; its modules are its own"
)]

#[cfg(feature = "query")]
mod buckets;
mod catalog_webhooks;
mod check;
mod check_figures;
#[cfg(feature = "query")]
mod compaction;
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
mod rewritten;
mod series;
#[cfg(feature = "query")]
mod series_arrow;
mod series_crashes;
mod series_memory;
mod series_model;
mod simulated_disk;
#[cfg(feature = "query")]
mod sql;
mod store;
mod writer;
mod writer_figures;
