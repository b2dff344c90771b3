//! Pushing events to subscribers: endpoints, the router, lanes, dialects, the
//! signer and the connection pool.
//!
//! It does not know what a sample is. It gets [`Event`]s (whose, about whom, which
//! topic, which place in the journal) and asks a [`PayloadSource`] for the body when
//! one is due; what must survive a crash it hands to a [`ledger::Ledger`]. Only this crate
//! names hmac and the outgoing HTTP client.
//!
//! In reading order, which is the way of an event:
//!
//! - [`event`]: events, their places, and the traits their owner implements
//! - [`id`]: places as ids, enciphered
//! - [`topic`]: what events are called, and what filters make of it
//! - [`endpoint`]: what a subscriber asked for
//! - [`target`]: which addresses may be called
//! - [`dialect`]: body, headers and retries of each system that is replaced
//! - [`signer`]: secrets and prepared keys
//! - [`vault`]: secrets at rest
//! - [`client`]: the pooled connections
//! - [`clock`]: the time, which tests move
//! - [`lane`]: one endpoint's window, retries and cursor
//! - [`attempt`]: what is told of each attempt
//! - [`notice`]: what is announced of deliveries and endpoints
//! - [`router`]: from an event to the lanes that want it
//! - [`trie`]: a map whose versions share what they have in common
//! - [`ledger`]: what is kept over restarts, saved in batches
//! - [`dispatcher`]: all of it together

pub mod attempt;
mod call;
pub mod client;
pub mod clock;
mod connection;
mod counters;
mod crew;
pub mod dialect;
mod dialer;
pub mod dispatcher;
pub mod endpoint;
pub mod event;
mod forbidden;
mod hosts;
pub mod id;
mod keeper;
pub mod lane;
pub mod ledger;
mod look_up;
mod memory;
pub mod notice;
mod pool;
mod promise;
mod request_body;
mod room;
pub mod router;
mod saver;
mod secret;
pub mod signer;
mod stream;
pub mod target;
pub mod topic;
pub mod trie;
pub mod vault;

pub use crew::offer_core;
pub use event::{Event, EventKind, Payload, PayloadFault, PayloadSource, Place};
