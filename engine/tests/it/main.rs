//! The crate as its users see it.

mod allocations;
#[cfg(feature = "query")]
#[expect(clippy::unwrap_used, reason = "a test fails where it unwraps")]
mod attempts;
mod batch;
#[cfg(feature = "query")]
#[expect(clippy::unwrap_used, reason = "a test fails where it unwraps")]
mod event_ids;
#[cfg(feature = "query")]
#[expect(clippy::unwrap_used, reason = "a test fails where it unwraps")]
mod notices;
mod registry;
mod timestamp;
