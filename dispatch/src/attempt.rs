//! What is told of each attempt, and who keeps it.
//!
//! A lane says of every request what it was and what came back, once for each event
//! that it carried. Whoever keeps it is asked later what became of an event: a
//! recovery sends again what failed, or what was never sent.

use std::fmt;
use std::ops::RangeInclusive;
use std::sync::Arc;
use std::time::Duration;

use hashbrown::HashMap;

use crate::event::Place;

/// Most bytes of an answer's body that are kept of a success; a failure keeps
/// [`crate::client::ANSWER_BYTES_MAX`].
pub const SUCCESS_BODY_BYTES_MAX: usize = 1024;

/// Most bytes of an answer's headers that are kept; one that is too long for what is left
/// is left out.
pub const HEADERS_BYTES_MAX: usize = 4 * 1024;

/// One attempt to deliver one event. What it has in common with those of the other events of
/// its request it shares with them.
#[derive(Clone, Debug)]
pub struct Attempt {
    /// Which endpoint it went to.
    pub endpoint: Arc<str>,
    /// Whose endpoint that is.
    pub org: Arc<str>,
    /// The user the event is about, if it is about one.
    pub user: Option<Arc<str>>,
    /// Where the event comes from; `None` for an example.
    pub place: Option<Place>,
    /// The event's id.
    pub message: Arc<str>,
    /// The `webhook-id` that was sent: the same, or that of the event or the batch
    /// that carried it.
    pub delivery: Arc<str>,
    /// The event type, as it was printed.
    pub event_type: Arc<str>,
    /// The first attempt is 1.
    pub number: u32,
    /// Why it was made.
    pub trigger: Trigger,
    /// Whether the answer was 2xx.
    pub success: bool,
    /// The answer's status, if there was an answer.
    pub status_code: Option<u16>,
    /// Why there was none.
    pub error: Option<Arc<str>>,
    /// Milliseconds since 1970.
    pub started_at_ms: i64,
    /// From the first look-up to the answer's last byte, but for what it waited for room for
    /// a connection, and for its body where that was made behind the look-up.
    pub duration: Duration,
    /// Where it went.
    pub url: Arc<str>,
    /// The answer's headers as a JSON object by name, `{}` if there was no answer; a value
    /// that is no text is left out, those of a name that comes twice are joined by `, `, and
    /// of all of them [`HEADERS_BYTES_MAX`] are kept.
    pub response_headers: Arc<str>,
    /// The beginning of the answer's body; what is no text there are replacement characters.
    pub response_body: Arc<str>,
}

/// Why an attempt was made.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Trigger {
    /// The event came, or its schedule said so.
    Scheduled,
    /// Somebody asked for it again.
    Manual,
    /// An example.
    Test,
}

impl Trigger {
    /// Its name in the delivery log.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Trigger::Scheduled => "scheduled",
            Trigger::Manual => "manual",
            Trigger::Test => "test",
        }
    }
}

/// Keeps attempts.
pub trait DeliveryLog: fmt::Debug + Send + Sync {
    /// Keeps what one request was for each event that it carried, all of it or nothing:
    /// whoever finds one event of a request finds the others. They are of one endpoint.
    /// Never blocks; holds a bounded number and says itself when it drops some.
    fn record(&self, attempts: &mut dyn Iterator<Item = Attempt>);

    /// Waits until what was recorded before the call is durable, or was dropped, which it says
    /// itself; false if that takes too long.
    fn settle(&self) -> bool;

    /// Of each event of these frames that was attempted to an endpoint, whether any
    /// attempt succeeded; those that were recorded before the call are among them. Ends
    /// before the frame with which there would be more than `most`, but not before the
    /// second. May read disk, and wait for it: for a thread that may block, about many
    /// frames at once.
    ///
    /// # Errors
    /// [`DeliveryLogFault`].
    fn outcomes(
        &self,
        org: &str,
        endpoint: &str,
        sequences: RangeInclusive<u64>,
        most: usize,
    ) -> Result<Outcomes, DeliveryLogFault>;
}

/// What became of the events of some frames.
#[derive(Clone, Debug, Default)]
pub struct Outcomes {
    /// Of each that was attempted, whether any attempt succeeded.
    pub by_place: HashMap<Place, bool>,
    /// The last frame of which that is told.
    pub through: u64,
}

/// The delivery log cannot be read.
#[derive(Debug, thiserror::Error)]
#[error("the delivery log cannot be read")]
pub struct DeliveryLogFault(#[source] pub Box<dyn std::error::Error + Send + Sync>);
