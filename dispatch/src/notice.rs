//! What lanes announce: deliveries that were given up, endpoints that were switched
//! off. Whoever takes a notice publishes it as an event. The ledger has each one before,
//! so that none is lost: a crash may make it come twice.
//!
//! Such an event goes only to endpoints whose filter names it and never to the
//! endpoint it is [about](crate::event::Event::about); its own failure announces
//! nothing, so that no notice causes another.

use std::fmt;
use std::sync::Arc;

use crate::event::Cursor;

/// Name of the event that announces a delivery that was given up.
pub const MESSAGE_FAILED: &str = "message.failed";
/// Name of the event that announces an endpoint that was switched off.
pub const ENDPOINT_DISABLED: &str = "endpoint.disabled";

/// Whether events of this name announce something about an endpoint.
#[must_use]
pub fn is_notice(name: &str) -> bool {
    name == MESSAGE_FAILED || name == ENDPOINT_DISABLED
}

/// What is announced.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Notice {
    /// Events were given up.
    MessageFailed(MessageFailed),
    /// An endpoint was switched off.
    EndpointDisabled(EndpointDisabled),
}

/// Events that were given up.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MessageFailed {
    /// Whose deliveries they were.
    pub endpoint: Arc<str>,
    /// Whose endpoint that is.
    pub org: Arc<str>,
    /// The first that was given up.
    pub from: Cursor,
    /// They all come before this.
    pub through: Cursor,
    /// Which one it is, unless it is a range, or that is not known or not to be said.
    pub message: Option<FailedMessage>,
    /// How many there are, where they were counted.
    pub count: Option<u64>,
    /// The user a single one is about, if it is about one.
    pub user: Option<Arc<str>>,
    /// Status of the last answer, if there was one.
    pub status_code: Option<u16>,
    /// Why there was none.
    pub error: Option<String>,
    /// Attempts made of a single one; 0 for a range, and where that was forgotten.
    pub attempts: u32,
    /// What the ledger has of it, each from its first event to behind its last: whoever
    /// has published the notice says so there, or the next run publishes it again.
    pub noted: Vec<(Cursor, Cursor)>,
}

/// An event that was given up.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FailedMessage {
    /// Its id.
    pub id: String,
    /// What it is called; `None` if its payload is gone.
    pub event_type: Option<String>,
}

/// An endpoint takes no more events.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EndpointDisabled {
    /// The endpoint.
    pub endpoint: Arc<str>,
    /// Whose it is.
    pub org: Arc<str>,
    /// Why.
    pub reason: DisabledReason,
    /// When it began to fail, milliseconds since 1970; `None` if its last attempt
    /// before was answered 2xx.
    pub failing_since_ms: Option<i64>,
    /// When it was switched off, milliseconds since 1970. The ledger has it by this:
    /// whoever has published the notice says so there, or the next run publishes it again.
    pub at_ms: i64,
}

/// Why an endpoint was switched off. The names are part of the catalog.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum DisabledReason {
    /// It only failed, for days.
    Failing,
    /// It answered 410.
    Gone,
}

impl DisabledReason {
    /// Its name in what is published.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            DisabledReason::Failing => "failing",
            DisabledReason::Gone => "gone",
        }
    }

    /// The reason with this name, if there is one.
    #[must_use]
    pub fn from_name(name: &str) -> Option<DisabledReason> {
        [DisabledReason::Failing, DisabledReason::Gone].into_iter().find(|reason| reason.as_str() == name)
    }
}

/// Publishes what lanes announce.
pub trait Notices: fmt::Debug + Send + Sync {
    /// Takes a notice; false if there is no room for it now. Never blocks. What the ledger
    /// has noted of it is found there later.
    fn publish(&self, notice: Notice) -> bool;
}
