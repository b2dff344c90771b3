//! What the store promises, tried from outside.

#![allow(
    clippy::unwrap_used,
    unreachable_pub,
    reason = "a test that cannot go on fails; its modules are its own"
)]

mod catalog_webhooks;
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
mod rewritten;
mod simulated_disk;
mod store;
mod writer;
mod writer_figures;
