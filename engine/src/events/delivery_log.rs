//! The delivery log as dispatch sees it: attempts go to the queue, outcomes come from
//! the store.

use std::fmt;
use std::ops::RangeInclusive;
use std::sync::Arc;
use std::time::Duration;

use systole_dispatch::attempt::{
    Attempt, DeliveryLog, DeliveryLogFault, Outcomes, Trigger as DispatchTrigger,
};
use systole_dispatch::event::{EventKind, Place};
use systole_storage::{Store, Trigger};

use super::attempts::{AttemptQueue, Row};

/// How long outcomes and positions wait for what was recorded before them: that takes a tenth
/// of a second in peace, and without end on a disk that is full.
const SETTLE_MAX: Duration = Duration::from_secs(1);

/// Attempts wait for the journal for too long.
#[derive(Debug, thiserror::Error)]
#[error("attempts have not reached the journal within {SETTLE_MAX:?}")]
struct Unsettled;

/// Keeps attempts in the journal. Outcomes wait, a tenth of a second at most in peace, for
/// what was recorded before they were asked for.
#[derive(Clone)]
pub struct JournalDeliveries {
    store: Arc<Store>,
    queue: AttemptQueue,
}

impl JournalDeliveries {
    /// Over a store and the queue that leads into its journal.
    #[must_use]
    pub fn new(store: Arc<Store>, queue: AttemptQueue) -> JournalDeliveries {
        JournalDeliveries { store, queue }
    }
}

impl fmt::Debug for JournalDeliveries {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("JournalDeliveries").finish_non_exhaustive()
    }
}

impl DeliveryLog for JournalDeliveries {
    fn record(&self, attempts: &mut dyn Iterator<Item = Attempt>) {
        let Some(first) = attempts.next() else { return };
        let (org, first) = (first.org.clone(), row_of(first));
        // Before the queue is locked. Of an event alone it is empty, and takes no memory.
        let others: Vec<Row> = attempts.map(row_of).collect();
        self.queue.record(&org, std::iter::once(first).chain(others));
    }

    fn settle(&self) -> bool {
        self.queue.settle_within(SETTLE_MAX)
    }

    fn outcomes(
        &self,
        org: &str,
        endpoint: &str,
        sequences: RangeInclusive<u64>,
        most: usize,
    ) -> Result<Outcomes, DeliveryLogFault> {
        if !self.queue.settle_within(SETTLE_MAX) {
            return Err(DeliveryLogFault(Box::new(Unsettled)));
        }
        let found = self.store.attempt_outcomes(org, endpoint, sequences, most);
        let found = found.map_err(|error| DeliveryLogFault(Box::new(error)))?;
        let known = found.by_place.into_iter().filter_map(|((sequence, group, chunk, kind), success)| {
            let kind = EventKind::from_number(kind)?;
            Some((Place { sequence, group, chunk, kind }, success))
        });
        Ok(Outcomes { by_place: known.collect(), through: found.through })
    }
}

fn row_of(attempt: Attempt) -> Row {
    let place = attempt.place;
    Row {
        at_ms: attempt.started_at_ms,
        tie: 0,
        endpoint: attempt.endpoint,
        message: attempt.message,
        delivery: attempt.delivery,
        sequence: place.map_or(0, |place| place.sequence),
        group: place.map_or(0, |place| place.group),
        chunk: place.map_or(0, |place| place.chunk),
        kind: place.map_or(0, |place| place.kind as u8),
        user: attempt.user,
        event_type: attempt.event_type,
        number: attempt.number,
        trigger: match attempt.trigger {
            DispatchTrigger::Scheduled => Trigger::Scheduled,
            DispatchTrigger::Manual => Trigger::Manual,
            DispatchTrigger::Test => Trigger::Test,
        },
        success: attempt.success,
        status_code: attempt.status_code,
        error: attempt.error,
        duration_us: u64::try_from(attempt.duration.as_micros()).unwrap_or(u64::MAX),
        url: attempt.url,
        response_headers: attempt.response_headers,
        response_body: attempt.response_body,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn attempt() -> Attempt {
        Attempt {
            endpoint: "ep_1".into(),
            org: "acme".into(),
            user: Some("u_1".into()),
            place: Some(Place { sequence: 7, group: 3, chunk: 2, kind: EventKind::Updated }),
            message: "evt_1".into(),
            delivery: "evt_2".into(),
            event_type: "steps.created".into(),
            number: 4,
            trigger: DispatchTrigger::Manual,
            success: true,
            status_code: Some(200),
            error: None,
            started_at_ms: 123,
            duration: Duration::from_micros(1500),
            url: "https://example.org".into(),
            response_headers: "{}".into(),
            response_body: "fine".into(),
        }
    }

    #[test]
    fn an_attempt_becomes_a_row_with_its_place() {
        let row = row_of(attempt());
        assert_eq!((row.sequence, row.group, row.chunk), (7, 3, 2));
        assert_eq!(EventKind::from_number(row.kind), Some(EventKind::Updated));
        assert_eq!((&*row.message, &*row.delivery), ("evt_1", "evt_2"));
        assert_eq!((row.at_ms, row.duration_us, row.trigger), (123, 1500, Trigger::Manual));
        assert_eq!((&*row.response_headers, &*row.response_body), ("{}", "fine"));
        let example = Attempt { place: None, user: None, ..attempt() };
        let row = row_of(example);
        assert_eq!((row.sequence, row.group, row.chunk, row.kind, row.user), (0, 0, 0, 0, None));
    }
}
