//! The server as its users meet it: by HTTP and by the command line.
#![expect(clippy::unwrap_used, reason = "a test fails where it unwraps")]

mod auth;
mod buckets;
mod client;
mod deliveries;
mod erasure;
mod event_lines;
mod fixture;
mod formats;
mod ingest;
mod keys;
mod limits;
mod messages;
mod metrics;
mod operation;
mod process;
mod read;
mod receiver;
mod refusals;
mod rotation;
mod sql;
mod targets;
mod tls;
mod webhooks;
mod wishes;
