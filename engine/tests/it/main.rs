//! The crate as its users see it.

mod allocations;
#[cfg(feature = "query")]
mod attempts;
mod batch;
mod registry;
mod timestamp;
