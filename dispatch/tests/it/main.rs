//! Signatures as receivers verify them, and posts to receivers of every manner.
#![expect(clippy::unwrap_used, reason = "a test fails where it unwraps")]

mod client;
mod receiver;
mod vectors;
