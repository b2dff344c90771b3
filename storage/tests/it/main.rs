//! What the store promises, tried from outside.

#![allow(
    clippy::unwrap_used,
    unreachable_pub,
    reason = "a test that cannot go on fails; its modules are its own"
)]

mod attempting;
mod attempts;
mod attempts_check;
#[cfg(feature = "query")]
mod attempts_sql;
#[cfg(feature = "query")]
mod buckets;
mod catalog_disabled;
mod catalog_lanes;
mod catalog_secrets;
mod catalog_webhooks;
mod check;
mod check_figures;
mod check_series;
mod compaction;
mod damage;
mod erasing;
mod files;
mod fixture;
mod journal_crashes;
mod journal_damage;
mod journal_index;
mod journal_retained;
mod log;
mod machine;
#[cfg(feature = "query")]
mod model;
#[cfg(feature = "query")]
mod reads;
mod recovery;
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
mod store_crashes;
mod store_model;
mod writer;
mod writer_figures;
