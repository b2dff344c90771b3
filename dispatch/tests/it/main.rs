//! Signatures as receivers verify them, posts to receivers of every manner, and a
//! dispatcher among fakes.
#![expect(clippy::unwrap_used, reason = "a test fails where it unwraps")]

mod announcing;
mod attempts;
mod batches;
mod by_hand;
mod client;
mod early;
mod headers;
mod http2;
mod lagging;
mod patience;
mod pausing;
mod receiver;
mod restarts;
mod routing;
mod switching;
mod told;
mod vectors;
mod world;
