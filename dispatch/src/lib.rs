//! Events and their place: the words that deliveries will be spoken in.
//!
//! This crate does not know what a sample is. It gets events (type, organisation,
//! user, time, place in the journal) and will ask a [`PayloadSource`] for the body
//! when one is due; endpoints, lanes, dialects and the signer come with webhooks
//! and live here.

use std::fmt;

/// The place of an event in the journal: all that is needed to find it again and
/// to make its id.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Place {
    /// Sequence of the frame.
    pub sequence: u64,
    /// First group of the frame that belongs to the event; 24 bits.
    pub group: u32,
    /// Which part of a split event; 12 bits.
    pub chunk: u16,
    /// What kind of event it is.
    pub kind: EventKind,
}

/// Why an event exists. The numbers are part of event ids; 4 bits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum EventKind {
    /// Samples that were not there before.
    Created = 1,
    /// Samples that replace others.
    Updated = 2,
    /// Several events of one endpoint drawn together.
    Coalesced = 3,
    /// Several events in one request.
    Batch = 4,
    /// Handed in by a publisher.
    Published = 5,
}

/// An event as the router sees it: whom it concerns, not what it says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Event {
    /// Whose it is; never crosses.
    pub org: String,
    /// The user it is about, if it is about one.
    pub user: Option<String>,
    /// `heart_rate.created`
    pub name: String,
    /// Where it comes from.
    pub place: Place,
    /// Microseconds, strictly rising from request to request.
    pub ordering: u64,
}

/// Gives an event's body. A promise: the same place gives the same bytes as long
/// as the payload is retained.
pub trait PayloadSource: fmt::Debug + Send + Sync {
    /// Appends the `data` of an event to `out`.
    ///
    /// # Errors
    /// [`PayloadGone`] if it was erased or is no longer retained.
    fn render(&self, event: &Event, out: &mut Vec<u8>) -> Result<(), PayloadGone>;
}

/// The payload was erased or is no longer retained.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the payload is gone")]
pub struct PayloadGone;
