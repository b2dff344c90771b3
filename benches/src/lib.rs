//! Benches by subject: what a batch costs on its way in, and what a question
//! costs afterwards, and on its way to a subscriber.
//!
//! Each subject prepares its input from a fixed seed, does the work that is
//! timed, and gives counts and a checksum of what came out. The files in
//! `benches/` only time it; `tests/small.rs` runs the small sizes and knows
//! their checksums. It measures no HTTP on the way in and no JSON: `loadtest` does.
//!
//! In reading order:
//!
//! - [`size`]: how much a run does
//! - [`fleet`]: users, devices and their points, from a seed
//! - [`decode`]: points into a draft
//! - [`commit`]: drafts into the journal
//! - [`flush`]: a buffer into Parquet
//! - [`query`]: answers out of buffer and files
//! - [`deliver`]: bodies to a receiver

mod checksum;
pub mod commit;
pub mod decode;
pub mod deliver;
pub mod fleet;
pub mod flush;
pub mod query;
pub mod size;

pub use size::Size;

/// What the server runs with.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;
