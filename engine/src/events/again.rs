//! Events sent again because somebody asked for them, and how an endpoint stands.
//!
//! Promises: what is sent again has the bytes and the id it had. Nothing is sent to an
//! endpoint that was committed before the endpoint was made, and nothing that is about
//! another user than the one whose caller asks.

use systole_dispatch::dispatcher::ManualFault;
use systole_dispatch::event::{Cursor, EventLog, ReadFault};
use systole_dispatch::lane::LaneStats;

use super::messages::MessageError;
use super::webhooks::{WebhookError, Webhooks};

/// Why nothing is sent again.
#[derive(Debug, thiserror::Error)]
pub enum AgainError {
    /// The endpoint is not there.
    #[error("there is no such endpoint")]
    Endpoint(#[from] WebhookError),
    /// The message is not there.
    #[error(transparent)]
    Message(#[from] MessageError),
    /// The endpoint is not to get the message.
    #[error(
        "the endpoint does not take this message: its filter or its user is another, or it was made later"
    )]
    Unwanted,
    /// The endpoint is switched off.
    #[error("the endpoint is switched off; switch it on first")]
    Off,
    /// As many messages are sent by hand as may be: those of this endpoint wait for
    /// answers, or those of all.
    #[error(
        "as many messages are being sent by hand to this endpoint, or to all, as may be; ask again in a while"
    )]
    Busy,
    /// As many ranges of the endpoint wait as may.
    #[error(
        "as many recoveries and replays of this endpoint wait as may; ask again once some are sent (`backlogs` of its stats counts them)"
    )]
    TooManyRanges,
    /// The catalog cannot be written: nothing is promised, and asking again is safe.
    #[error("what is to be sent again could not be stored; ask again in a while")]
    Unsaved,
    /// The same, because the disk is full.
    #[error("the disk is full; nothing was stored")]
    DiskFull,
    /// The server stops.
    #[error("the server is stopping")]
    Stopping,
    /// The journal cannot be read.
    #[error("the journal cannot be read")]
    Journal(#[source] ReadFault),
}

impl From<ManualFault> for AgainError {
    fn from(fault: ManualFault) -> AgainError {
        match fault {
            ManualFault::Unknown => AgainError::Endpoint(WebhookError::Unknown),
            ManualFault::Off => AgainError::Off,
            ManualFault::Busy => AgainError::Busy,
            ManualFault::Unsaved => AgainError::Unsaved,
            ManualFault::DiskFull => AgainError::DiskFull,
            ManualFault::Stopping => AgainError::Stopping,
        }
    }
}

/// Which of an endpoint's events are sent again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Again {
    /// Those that were attempted, or given up, and never succeeded.
    Failed,
    /// Those that were never attempted.
    Missing,
}

impl Webhooks {
    /// Sends one message to one endpoint once more. Reads the journal: for a thread that
    /// may wait.
    ///
    /// # Errors
    /// [`AgainError`].
    pub fn resend(
        &self,
        org: &str,
        user: Option<&str>,
        message: &str,
        endpoint: &str,
    ) -> Result<(), AgainError> {
        let start = self.start_of(org, endpoint)?;
        let found = self.message(org, user, message)?;
        let is_its_own = found.event.place.sequence > start.0;
        if !is_its_own || !self.dispatcher.wants(endpoint, &found.event) {
            return Err(AgainError::Unwanted);
        }
        Ok(self.dispatcher.resend(endpoint, found.event.place, found.event.decided_at)?)
    }

    /// Sends an endpoint's events of a span of time once more, behind live ones. That they
    /// are to come is durable when this returns. Blocks.
    ///
    /// # Errors
    /// [`AgainError`]; [`MessageError::Dropped`] if nothing of the span is kept.
    pub fn send_again(
        &self,
        org: &str,
        endpoint: &str,
        which: Again,
        since_ms: i64,
        until_ms: Option<i64>,
    ) -> Result<(), AgainError> {
        let start = self.start_of(org, endpoint)?;
        // Also where nothing is to be sent.
        if self.dispatcher.lane(endpoint).is_some_and(|lane| lane.is_off()) {
            return Err(AgainError::Off);
        }
        let kept = Cursor::behind(self.retained_behind().map_err(AgainError::Journal)?.0);
        let through = match until_ms {
            Some(until) => self.cursor_at(until)?,
            None => Cursor::behind(self.log.head().0),
        };
        // Where nothing was committed for long, nothing of a span that is young was dropped.
        let is_young = !self.retention.is_zero() && since_ms >= self.retained_since_ms();
        let begins = Cursor::behind(start.0);
        if through <= kept && through > begins && !(is_young && until_ms.is_none()) {
            return Err(MessageError::Dropped.into());
        }
        let from = self.cursor_at(since_ms)?.max(begins).max(kept);
        if from >= through {
            return Ok(());
        }
        let asked = match which {
            Again::Failed => self.dispatcher.recover(endpoint, from, through),
            Again::Missing => self.dispatcher.replay_missing(endpoint, from, through),
        };
        match asked {
            Ok(_) => Ok(()),
            Err(ManualFault::Busy) => Err(AgainError::TooManyRanges),
            Err(fault) => Err(fault.into()),
        }
    }

    /// How an endpoint stands. May read disk.
    ///
    /// # Errors
    /// [`WebhookError::Unknown`].
    pub fn endpoint_stats(&self, org: &str, endpoint: &str) -> Result<LaneStats, WebhookError> {
        self.get(org, endpoint)?;
        self.dispatcher.endpoint_stats(endpoint).ok_or(WebhookError::Unknown)
    }

    fn cursor_at(&self, ms: i64) -> Result<Cursor, AgainError> {
        self.committed_from(ms).map_err(AgainError::Journal)
    }

    /// The first frame that was committed at or behind a time. Commits rise in time.
    pub(super) fn committed_from(&self, ms: i64) -> Result<Cursor, ReadFault> {
        let (mut low, mut high) = (self.log.removed().0 + 1, self.log.head().0 + 1);
        while low < high {
            let middle = low + (high - low) / 2;
            match self.events.committed_ms(middle) {
                Ok(Some(committed)) if committed < ms => low = middle + 1,
                Ok(_) => high = middle,
                // Dropped meanwhile: what was asked for lies behind.
                Err(ReadFault::Dropped { through }) => low = low.max(through + 1),
                Err(fault) => return Err(fault),
            }
        }
        Ok(Cursor { sequence: low, ordinal: 0 })
    }
}
