//! The crate as its users see it.

mod allocations;
mod batch;
mod registry;
mod timestamp;
