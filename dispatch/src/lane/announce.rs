//! What a lane announces of deliveries that it gave up: once that is durable, so that no
//! crash makes it try again what was announced, or forgets to announce it.
//!
//! ```text
//! given up --noted with its notice--> saved --> published --> announced, says the ledger
//!                                       '-- no room, or a crash: announced out of the ledger
//! ```

use super::Lane;
use super::carried::cursor_of;
use super::delivery::{Failure, Outcome};
use super::job::Job;
use super::state::Mode;
use crate::dispatcher::Shared;
use crate::event::{Cursor, Event, ReadFault, Step};
use crate::ledger::GivenUp;
use crate::notice::{FailedMessage, MessageFailed, is_notice};

/// Why a range was given up, and what was given up before a crash.
pub(super) const SCHEDULE_OVER: &str = "the schedule of their attempts was over";
/// Why events of a range are not sent that were dropped.
pub(super) const PAYLOAD_GONE: &str = "payload_gone";

impl Lane {
    /// A delivery's last attempt failed.
    pub(super) fn failed_delivery(
        &self,
        shared: &Shared,
        job: &Job,
        outcome: Outcome,
        failure: Option<Box<Failure>>,
    ) -> MessageFailed {
        let failure = failure.map(|failure| *failure).unwrap_or_default();
        let members = job.members();
        let last = members.iter().map(cursor_of).max();
        MessageFailed {
            endpoint: self.id.clone(),
            org: self.org.clone(),
            from: job.cursor(),
            through: last.map_or(job.next_cursor(), next),
            message: Some(FailedMessage {
                id: shared.ids.seal(job.place, if job.is_own() { self.config.load().number } else { 0 }),
                event_type: failure.event_type,
            }),
            count: Some(members.len() as u64),
            user: failure.user,
            status_code: failure.status_code,
            error: failure.error,
            attempts: job.attempts + u32::from(!outcome.is_gone()),
            noted: members.iter().map(cursor_of).map(|from| (from, next(from))).collect(),
        }
    }

    /// Whether a range of its events can only be notices, so that nothing is announced of
    /// it.
    pub(super) fn takes_only_notices(&self) -> bool {
        let config = self.config.load();
        let filter = config.settings.filter_types.as_ref();
        filter.is_some_and(|filter| filter.iter().all(|name| is_notice(name)))
    }

    /// Events of a range will not be sent.
    pub(super) fn failed_range(&self, from: Cursor, through: Cursor, error: &str) -> MessageFailed {
        MessageFailed {
            endpoint: self.id.clone(),
            org: self.org.clone(),
            from,
            through,
            message: None,
            count: None,
            user: None,
            status_code: None,
            error: Some(error.to_owned()),
            attempts: 0,
            noted: vec![(from, through)],
        }
    }

    /// The router passes over what was dropped: gives it up if the router was to offer it.
    /// False if this lane takes nothing, or reads what is its own by itself.
    pub(crate) fn miss(&self, from: Cursor, through: Cursor) -> bool {
        let quiet = self.takes_only_notices();
        self.with(|state, now_ms| {
            let is_offered = match &state.mode {
                Mode::Live => true,
                Mode::Paused(pause) => pause.from.is_none(),
                Mode::Behind(_) | Mode::Off => false,
            };
            let from = from.max(state.from);
            if !is_offered || from >= through {
                return false;
            }
            state.give_up_range(GivenUp { from, through, at_ms: now_ms, quiet });
            if !quiet {
                state.unsaved.notices.push(self.failed_range(from, through, PAYLOAD_GONE));
            }
            true
        })
    }

    /// What was given up and may not have been announced: what can be said of it now. May
    /// read disk.
    pub(crate) fn failed_before(&self, shared: &Shared, given_up: GivenUp) -> MessageFailed {
        let GivenUp { from, through, .. } = given_up;
        let found = self.event_at(shared, from);
        if through != next(from) {
            let is_gone = matches!(found, Err(ReadFault::Dropped { .. }));
            return self.failed_range(from, through, if is_gone { PAYLOAD_GONE } else { SCHEDULE_OVER });
        }
        let range = self.failed_range(from, through, SCHEDULE_OVER);
        let Ok(Some(event)) = found else {
            return MessageFailed { count: Some(1), ..range };
        };
        let settings = &self.config.load().settings;
        let name = shared.topics.get(event.topic).name_for(settings, event.place.kind).map(str::to_owned);
        let message = FailedMessage { id: shared.ids.seal(event.place, 0), event_type: name };
        MessageFailed { message: Some(message), count: Some(1), user: event.user, ..range }
    }

    /// The event at a cursor, if there is one.
    fn event_at(&self, shared: &Shared, at: Cursor) -> Result<Option<Event>, ReadFault> {
        let mut reader = shared.log.reader_of(at, &self.org, None);
        Ok(match reader.next(&|org| (*org == *self.org).then_some(0), next(at))? {
            Step::Event(event) if event.cursor() == at => Some(event),
            _ => None,
        })
    }

    pub(super) fn warn_of_range(&self, from: Cursor, through: Cursor, error: &str) {
        tracing::warn!(
            endpoint = &*self.id,
            from = from.sequence,
            through = through.sequence,
            error,
            "events were given up"
        );
    }
}

/// Behind the event at a cursor.
fn next(at: Cursor) -> Cursor {
    Cursor { ordinal: at.ordinal + 1, ..at }
}
