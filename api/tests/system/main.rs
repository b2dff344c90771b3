//! The server as its users run it: the real binary in a process of its own, asked by
//! HTTP only, stopped by signals.
//!
//! Reading order: a [`server`] is started, killed and restarted on its data, a
//! [`client`] speaks HTTP/1.1 with it, [`samples`] are what it answers; a [`ledger`]
//! knows what was acknowledged and [`load`] fills it. The other files are the claims.
//!
//! Variables: `SYSTOLE_ACCEPTANCE_DATA` (the folder of the real input),
//! `SYSTOLE_ACCEPTANCE_REQUIRED=1` (its absence is a failure), `SYSTOLE_KILL_CYCLES`
//! and `SYSTOLE_KILL_SEED`.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod acceptance;
mod check;
mod disk_full;
mod drain;
mod erasure;
mod isolation;
mod kills;
mod metrics;
mod webhooks;

mod client;
mod ledger;
mod load;
mod receiver;
mod samples;
mod server;
