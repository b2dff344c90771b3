//! What lanes announce, published as events: `message.failed`, `endpoint.disabled`.
//!
//! Constraints: a lane never waits for the journal; at most [`WAITING_MAX`] notices
//! wait, and beyond it they are dropped and said. What was announced before a stop is
//! published by it. The catalog knows of each delivery that was given up whether that
//! was announced, so what a crash or a full queue lost the next start announces; what
//! was published and not noted by a crash it announces twice. `endpoint.disabled` is
//! announced once at most.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, TrySendError, sync_channel};
use std::time::Duration;

use serde_json::{Value, json};
use systole_dispatch::event::Cursor;
use systole_dispatch::notice::{ENDPOINT_DISABLED, MESSAGE_FAILED, MessageFailed, Notice, Notices};
use systole_storage::frame::{Published, encode_published};
use systole_storage::{Catalog, CursorRecord};

use super::ledger::cursor_record;
use crate::commit::{CommitError, Intake, block_on_ack};

/// Notices that wait for the journal: some seconds of an endpoint whose deliveries are
/// all given up.
const WAITING_MAX: usize = 4096;
/// Notices published until the catalog is told.
const BATCH: usize = 64;
/// Pause after the disk was full.
const RETRY: Duration = Duration::from_millis(500);
/// How often the thread looks whether the queue is stopped.
const LOOK_EACH: Duration = Duration::from_millis(200);

/// Takes notices.
#[derive(Clone, Debug)]
pub(crate) struct NoticeQueue {
    sender: SyncSender<Notice>,
    /// Nothing more comes.
    ended: Arc<AtomicBool>,
}

/// Publishes what was taken, on a thread of its own.
#[derive(Debug)]
pub(crate) struct NoticePublisher {
    receiver: Receiver<Notice>,
    ended: Arc<AtomicBool>,
    /// Knows what was announced.
    catalog: Arc<Catalog>,
}

/// A queue, and what empties it.
pub(crate) fn notice_queue(catalog: Arc<Catalog>) -> (NoticeQueue, NoticePublisher) {
    let (sender, receiver) = sync_channel(WAITING_MAX);
    let ended = Arc::new(AtomicBool::new(false));
    (NoticeQueue { sender, ended: ended.clone() }, NoticePublisher { receiver, ended, catalog })
}

impl NoticeQueue {
    /// Lets the publisher end once what waits is published.
    pub(crate) fn stop(&self) {
        self.ended.store(true, Ordering::Release);
    }
}

impl Notices for NoticeQueue {
    fn publish(&self, notice: Notice) {
        match self.sender.try_send(notice) {
            Ok(()) => {}
            Err(TrySendError::Full(notice)) => {
                tracing::warn!(endpoint = endpoint_of(&notice), "a notice was dropped: too many wait");
            }
            Err(TrySendError::Disconnected(notice)) => {
                tracing::warn!(endpoint = endpoint_of(&notice), "a notice was dropped: the server stops");
            }
        }
    }
}

impl NoticePublisher {
    /// Publishes until the queue is stopped and empty. Blocks.
    pub(crate) fn run(self, intake: &Arc<Intake>) {
        // The committer takes frames until the last notice is one.
        let _open = intake.keep_open();
        loop {
            // Asked first: what was announced before the stop is in the queue then.
            let ended = self.ended.load(Ordering::Acquire);
            match self.receiver.recv_timeout(LOOK_EACH) {
                Ok(first) => {
                    let batch = std::iter::once(first).chain(self.receiver.try_iter()).take(BATCH);
                    let published: Vec<Notice> =
                        batch.filter(|notice| self.publish(intake, notice)).collect();
                    self.note(&published);
                }
                Err(RecvTimeoutError::Timeout) if !ended => {}
                Err(RecvTimeoutError::Timeout | RecvTimeoutError::Disconnected) => return,
            }
        }
    }

    /// Notes in the catalog that these are durable.
    fn note(&self, published: &[Notice]) {
        let ranges: Vec<_> = published.iter().flat_map(noted).collect();
        if ranges.is_empty() {
            return;
        }
        if let Err(error) = self.catalog.mark_announced(&ranges) {
            let error = crate::flusher::chain(&error);
            tracing::warn!(error, "what was announced could not be noted, and will be announced again");
        }
    }

    /// Publishes a notice, and tries again while the disk is full; whether it did.
    fn publish(&self, intake: &Arc<Intake>, notice: &Notice) -> bool {
        let (org, user, name, data) = event_of(notice);
        let data = data.to_string();
        let event = Published { org, user, name, id: None, bound: false, data: &data };
        loop {
            match block_on_ack(intake.submit_internal(encode_published(&event))) {
                Ok(_) => return true,
                Err(CommitError::DiskFull) if !self.ended.load(Ordering::Acquire) => {
                    std::thread::sleep(RETRY);
                }
                Err(error) => {
                    let error = crate::flusher::chain(&error);
                    tracing::warn!(endpoint = endpoint_of(notice), error, "a notice was not published");
                    return false;
                }
            }
        }
    }
}

/// What the catalog has of it.
fn noted(notice: &Notice) -> Vec<(&str, CursorRecord, CursorRecord)> {
    let Notice::MessageFailed(failed) = notice else { return Vec::new() };
    let range = |(from, through): &(Cursor, Cursor)| {
        (&*failed.endpoint, cursor_record(*from), cursor_record(*through))
    };
    failed.noted.iter().map(range).collect()
}

fn endpoint_of(notice: &Notice) -> &str {
    match notice {
        Notice::MessageFailed(failed) => &failed.endpoint,
        Notice::EndpointDisabled { endpoint, .. } => endpoint,
    }
}

/// Whose event it is, about whom, what it is called and what it says.
fn event_of(notice: &Notice) -> (&str, Option<&str>, &'static str, Value) {
    match notice {
        Notice::MessageFailed(failed) => {
            (&*failed.org, failed.user.as_deref(), MESSAGE_FAILED, failed_data(failed))
        }
        Notice::EndpointDisabled { endpoint, org, reason, failing_since_ms } => {
            let data = json!({
                "endpoint_id": &**endpoint,
                "reason": reason.as_str(),
                "failing_since": failing_since_ms.map(rfc3339),
            });
            (&**org, None, ENDPOINT_DISABLED, data)
        }
    }
}

fn failed_data(failed: &MessageFailed) -> Value {
    let message = failed.message.as_ref();
    json!({
        "endpoint_id": &*failed.endpoint,
        "message_id": message.map(|message| message.id.as_str()),
        "event_type": message.and_then(|message| message.event_type.as_deref()),
        "message_count": failed.count,
        "status_code": failed.status_code,
        "error": failed.error.as_deref(),
        "attempt_count": failed.attempts,
    })
}

fn rfc3339(ms: i64) -> String {
    let mut text = Vec::with_capacity(24);
    crate::timestamp::write_rfc3339(ms, &mut text);
    String::from_utf8(text).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use systole_dispatch::notice::{DisabledReason, FailedMessage};

    use super::*;

    #[test]
    fn a_notice_says_which_endpoint_it_is_about_and_what_happened() {
        let failed = Notice::MessageFailed(MessageFailed {
            endpoint: "ep_1".into(),
            org: "acme".into(),
            from: Cursor { sequence: 7, ordinal: 0 },
            through: Cursor { sequence: 7, ordinal: 1 },
            message: Some(FailedMessage {
                id: "evt_1".to_owned(),
                event_type: Some("steps.created".to_owned()),
            }),
            count: Some(1),
            user: Some("u_1".into()),
            status_code: Some(500),
            error: None,
            attempts: 8,
            noted: vec![(Cursor { sequence: 7, ordinal: 0 }, Cursor { sequence: 7, ordinal: 1 })],
        });
        let (org, user, name, data) = event_of(&failed);
        assert_eq!((org, user, name), ("acme", Some("u_1"), "message.failed"));
        assert_eq!(
            data,
            json!({"endpoint_id": "ep_1", "message_id": "evt_1", "event_type": "steps.created",
                "message_count": 1, "status_code": 500, "error": null, "attempt_count": 8})
        );
        let of = |sequence, ordinal| CursorRecord { sequence, ordinal };
        assert_eq!(noted(&failed), [("ep_1", of(7, 0), of(7, 1))]);
        let disabled = Notice::EndpointDisabled {
            endpoint: "ep_1".into(),
            org: "acme".into(),
            reason: DisabledReason::Failing,
            failing_since_ms: Some(1_782_805_501_123),
        };
        let (org, user, name, data) = event_of(&disabled);
        assert_eq!((org, user, name), ("acme", None, "endpoint.disabled"));
        assert_eq!(
            data,
            json!({"endpoint_id": "ep_1", "reason": "failing", "failing_since": "2026-06-30T07:45:01.123Z"})
        );
    }

    #[test]
    fn a_full_queue_drops_and_never_waits() {
        let dir = tempfile::tempdir().unwrap();
        let (queue, publisher) = notice_queue(Arc::new(Catalog::open(dir.path()).unwrap()));
        let notice = Notice::EndpointDisabled {
            endpoint: "ep_1".into(),
            org: "acme".into(),
            reason: DisabledReason::Gone,
            failing_since_ms: None,
        };
        (0..WAITING_MAX + 10).for_each(|_| queue.publish(notice.clone()));
        drop(queue);
        assert_eq!(publisher.receiver.iter().count(), WAITING_MAX);
    }
}
