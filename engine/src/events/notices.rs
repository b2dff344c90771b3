//! What lanes announce, published as events: `message.failed`, `endpoint.disabled`.
//!
//! Constraints: a lane never waits for the journal; at most [`WAITING_MAX`] notices
//! wait. What was announced before a stop is published by it. The catalog knows of each
//! delivery that was given up, and of each endpoint that was switched off, whether that
//! was announced: what found no room is read from there once there is some, and what a
//! crash lost by the next start; what was published and not noted by a crash comes twice.
//! That an endpoint was switched off is forgotten when it is switched on again or deleted,
//! and not announced from then on.
//!
//! A notice about a user stands behind the event that it is about, and so perhaps behind an
//! order to erase that user, which does not cover it. Then it names neither the user nor
//! the message.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, TrySendError, sync_channel};
use std::time::Duration;

use serde_json::{Value, json};
use systole_dispatch::event::Cursor;
use systole_dispatch::notice::{
    DisabledReason, ENDPOINT_DISABLED, EndpointDisabled, FailedMessage, MESSAGE_FAILED, MessageFailed,
    Notice, Notices,
};
use systole_storage::frame::{Published, encode_published};
use systole_storage::{Catalog, CursorRecord, Draft, Sequence};

use super::attempts::AttemptQueue;
use super::erased::{ErasedNow, Leaving, LeavingNow};
use super::ledger::cursor_record;
use crate::commit::{Ack, CommitError, Intake, block_on_ack};

/// Notices that wait for the journal: some seconds of an endpoint whose deliveries are
/// all given up.
const WAITING_MAX: usize = 4096;
/// Notices handed in before one is waited for, and published until the catalog is told.
const BATCH: usize = 64;
/// Notices that are read from the catalog at once.
const PAGE: u32 = 4096;
/// Pause after the disk was full.
const RETRY: Duration = Duration::from_millis(500);
/// How often the thread looks whether the queue is stopped.
const LOOK_EACH: Duration = Duration::from_millis(200);
/// What examples are about.
const EXAMPLE_ENDPOINT: &str = "ep_4rgsgba1akf6dqfvgtj13h1cc5";
const EXAMPLE_MESSAGE: &str = "evt_7d6zzbwj1babq07mnwsk8nt9w1";
/// Five days: an endpoint that only failed for as long is switched off.
const EXAMPLE_FAILING_MS: i64 = 5 * 24 * 3_600_000;

/// Takes notices.
#[derive(Clone, Debug)]
pub(crate) struct NoticeQueue {
    sender: SyncSender<Notice>,
    /// Nothing more comes.
    ended: Arc<AtomicBool>,
    /// Some found no room, or are of the last run.
    overflowed: Arc<AtomicBool>,
    leaving: Leaving,
}

/// Publishes what was taken, on a thread of its own.
#[derive(Debug)]
pub(crate) struct NoticePublisher {
    receiver: Receiver<Notice>,
    ended: Arc<AtomicBool>,
    overflowed: Arc<AtomicBool>,
    /// Knows what was announced.
    catalog: Arc<Catalog>,
    /// What was announced out of the catalog last: its own notice may come behind.
    announced: BTreeSet<Noted>,
    /// Who must not be named: those who were erased, and those who are about to be.
    erased: ErasedNow,
    leaving: Leaving,
    /// Remembers for a while whose orders were carried out.
    attempts: AttemptQueue,
}

/// What the catalog has of events that were given up: the endpoint, and its events from the
/// first to behind the last.
type Noted = (Arc<str>, Cursor, Cursor);

/// A queue, and what empties it.
pub(crate) fn notice_queue(catalog: Arc<Catalog>) -> (NoticeQueue, NoticePublisher) {
    let (sender, receiver) = sync_channel(WAITING_MAX);
    let (ended, overflowed) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicBool::new(true)));
    let leaving = Leaving::default();
    let publisher = NoticePublisher {
        receiver,
        ended: ended.clone(),
        overflowed: overflowed.clone(),
        catalog,
        announced: BTreeSet::new(),
        erased: ErasedNow::default(),
        leaving: leaving.clone(),
        attempts: AttemptQueue::default(),
    };
    (NoticeQueue { sender, ended, overflowed, leaving }, publisher)
}

impl NoticeQueue {
    /// Lets the publisher end once what waits is published.
    pub(crate) fn stop(&self) {
        self.ended.store(true, Ordering::Release);
    }

    /// For whoever orders to erase a user.
    pub(crate) fn leaving(&self) -> &Leaving {
        &self.leaving
    }
}

impl Notices for NoticeQueue {
    fn publish(&self, notice: Notice) -> bool {
        match self.sender.try_send(notice) {
            Ok(()) => true,
            Err(TrySendError::Full(notice)) => {
                self.overflowed.store(true, Ordering::Release);
                tracing::warn!(endpoint = endpoint_of(&notice), "a notice comes later: too many wait");
                false
            }
            Err(TrySendError::Disconnected(notice)) => {
                tracing::warn!(endpoint = endpoint_of(&notice), "a notice comes later: the server stops");
                false
            }
        }
    }
}

impl NoticePublisher {
    /// One that knows whom it must not name.
    pub(crate) fn told(self, erased: ErasedNow, attempts: AttemptQueue) -> NoticePublisher {
        NoticePublisher { erased, attempts, ..self }
    }

    /// Publishes until the queue is stopped and empty; `unannounced` gives so many of what
    /// the catalog has as not announced. Blocks.
    pub(crate) fn run(mut self, intake: &Arc<Intake>, unannounced: &dyn Fn(u32) -> Vec<Notice>) {
        // The committer takes frames until the last notice is one.
        let _open = intake.keep_open();
        loop {
            // Asked first: what was announced before the stop is in the queue then.
            let ended = self.ended.load(Ordering::Acquire);
            let is_empty = match self.receiver.recv_timeout(LOOK_EACH) {
                Ok(first) => {
                    let batch = std::iter::once(first).chain(self.receiver.try_iter()).take(BATCH);
                    let batch: Vec<Notice> = batch.collect();
                    let is_empty = batch.len() < BATCH;
                    let new = batch.into_iter().filter(|notice| self.is_due(notice)).collect();
                    let published = self.publish(intake, new);
                    self.note(&published);
                    is_empty
                }
                Err(RecvTimeoutError::Timeout) if !ended => {
                    // Whatever was behind its row is here by now.
                    self.announced.clear();
                    true
                }
                Err(RecvTimeoutError::Timeout | RecvTimeoutError::Disconnected) => return,
            };
            // Not before: what waits in the queue is in the catalog too.
            if is_empty && !ended && self.overflowed.swap(false, Ordering::AcqRel) {
                self.catch_up(intake, unannounced(PAGE));
            }
        }
    }

    /// Publishes what the catalog has as not announced.
    fn catch_up(&mut self, intake: &Arc<Intake>, mut page: Vec<Notice>) {
        let count = page.len();
        let (mut published_count, mut is_noted) = (0, true);
        self.announced.clear();
        while !page.is_empty() {
            let rest = page.split_off(page.len().min(BATCH));
            let published = self.publish(intake, std::mem::replace(&mut page, rest));
            is_noted &= self.note(&published);
            published_count += published.len();
            self.announced.extend(published.iter().flat_map(noted));
        }
        // Else the same ones would come again.
        if count == PAGE as usize && published_count == count && is_noted {
            self.overflowed.store(true, Ordering::Release);
        }
    }

    /// Whether it is still to be announced: the catalog had it before it came here, and it
    /// may have been announced out of there.
    fn is_due(&self, notice: &Notice) -> bool {
        match notice {
            Notice::MessageFailed(_) => {
                let noted = noted(notice);
                noted.is_empty() || !noted.iter().all(|noted| self.announced.contains(noted))
            }
            Notice::EndpointDisabled(EndpointDisabled { endpoint, at_ms, .. }) => {
                let found = self.catalog.is_unannounced_disabled(endpoint, *at_ms);
                found.unwrap_or_else(|error| {
                    let error = crate::flusher::chain(&error);
                    tracing::warn!(error, "what was announced cannot be read, and may be announced again");
                    true
                })
            }
        }
    }

    /// Notes in the catalog that these are durable; false if that failed.
    fn note(&self, published: &[Notice]) -> bool {
        let noted: Vec<Noted> = published.iter().flat_map(noted).collect();
        let switched_off: Vec<(&str, i64)> = published.iter().filter_map(switched_off).collect();
        if noted.is_empty() && switched_off.is_empty() {
            return true;
        }
        let ranges: Vec<(&str, CursorRecord, CursorRecord)> = noted
            .iter()
            .map(|(endpoint, from, through)| (&**endpoint, cursor_record(*from), cursor_record(*through)))
            .collect();
        let marked = self.catalog.mark_announced(&ranges, &switched_off);
        if let Err(error) = &marked {
            let error = crate::flusher::chain(error);
            tracing::warn!(error, "what was announced could not be noted, and will be announced again");
        }
        marked.is_ok()
    }

    /// Publishes notices, and tries again while the disk is full; returns those that it did.
    /// All are handed in before one is waited for.
    fn publish(&self, intake: &Arc<Intake>, notices: Vec<Notice>) -> Vec<Notice> {
        let (mut published, mut waiting) = (Vec::with_capacity(notices.len()), notices);
        loop {
            let hand_in = |notice: Notice| (self.hand_in(intake, &notice), notice);
            let handed_in: Vec<_> = waiting.drain(..).map(hand_in).collect();
            for (ack, notice) in handed_in {
                match block_on_ack(ack) {
                    Ok(_) => published.push(notice),
                    Err(CommitError::DiskFull) if !self.ended.load(Ordering::Acquire) => waiting.push(notice),
                    Err(error) => {
                        let error = crate::flusher::chain(&error);
                        tracing::warn!(endpoint = endpoint_of(&notice), error, "a notice was not published");
                    }
                }
            }
            if waiting.is_empty() {
                return published;
            }
            std::thread::sleep(RETRY);
        }
    }

    /// Hands a notice in, without the names if it is about an erased user.
    fn hand_in(&self, intake: &Intake, notice: &Notice) -> Ack {
        let leaving = self.leaving.hold();
        match notice {
            Notice::MessageFailed(failed) if self.is_erased(&leaving, failed) => {
                let nameless = MessageFailed { user: None, message: None, ..failed.clone() };
                intake.submit_internal(draft_of(&Notice::MessageFailed(nameless)))
            }
            _ => intake.submit_internal(draft_of(notice)),
        }
    }

    /// Whether it is about a user who is erased, or about to be.
    fn is_erased(&self, leaving: &LeavingNow<'_>, failed: &MessageFailed) -> bool {
        let Some(user) = failed.user.as_deref() else { return false };
        let (org, sequence) = (&*failed.org, Sequence(failed.from.sequence));
        // In this order: each knows of an order before the one before it forgets it.
        leaving.has(org, user)
            || self.erased.user(org, user, sequence)
            || self.attempts.has_forgotten(org, user, sequence)
    }
}

fn draft_of(notice: &Notice) -> Draft {
    let (org, user, name, data) = event_of(notice);
    let data = data.to_string();
    encode_published(&Published { org, user, name, id: None, bound: false, data: &data })
}

/// What the catalog has of events that were given up.
fn noted(notice: &Notice) -> Vec<Noted> {
    let Notice::MessageFailed(failed) = notice else { return Vec::new() };
    let range = |(from, through): &(Cursor, Cursor)| (failed.endpoint.clone(), *from, *through);
    failed.noted.iter().map(range).collect()
}

/// By what the catalog has an endpoint that was switched off.
fn switched_off(notice: &Notice) -> Option<(&str, i64)> {
    match notice {
        Notice::MessageFailed(_) => None,
        Notice::EndpointDisabled(disabled) => Some((&*disabled.endpoint, disabled.at_ms)),
    }
}

fn endpoint_of(notice: &Notice) -> &str {
    match notice {
        Notice::MessageFailed(failed) => &failed.endpoint,
        Notice::EndpointDisabled(disabled) => &disabled.endpoint,
    }
}

/// What an example of a notice says, if one is called so.
pub(super) fn example_data(name: &str, now_ms: i64) -> Option<Value> {
    let (endpoint, org) = (EXAMPLE_ENDPOINT.into(), "example".into());
    let notice = match name {
        MESSAGE_FAILED => Notice::MessageFailed(MessageFailed {
            endpoint,
            org,
            from: Cursor::behind(0),
            through: Cursor::behind(0),
            message: Some(FailedMessage {
                id: EXAMPLE_MESSAGE.to_owned(),
                event_type: Some("heart_rate.created".to_owned()),
            }),
            count: Some(1),
            user: None,
            status_code: Some(503),
            error: None,
            attempts: 8,
            noted: Vec::new(),
        }),
        ENDPOINT_DISABLED => Notice::EndpointDisabled(EndpointDisabled {
            endpoint,
            org,
            reason: DisabledReason::Failing,
            failing_since_ms: Some(now_ms - EXAMPLE_FAILING_MS),
            at_ms: now_ms,
        }),
        _ => return None,
    };
    Some(event_of(&notice).3)
}

/// Whose event it is, about whom, what it is called and what it says.
pub(super) fn event_of(notice: &Notice) -> (&str, Option<&str>, &'static str, Value) {
    match notice {
        Notice::MessageFailed(failed) => {
            (&*failed.org, failed.user.as_deref(), MESSAGE_FAILED, failed_data(failed))
        }
        Notice::EndpointDisabled(disabled) => {
            let data = json!({
                "endpoint_id": &*disabled.endpoint,
                "reason": disabled.reason.as_str(),
                "failing_since": disabled.failing_since_ms.map(rfc3339),
            });
            (&*disabled.org, None, ENDPOINT_DISABLED, data)
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
    use systole_storage::{DisabledRecord, EndpointRecord, Sequence};

    use super::*;

    const FROM: Cursor = Cursor { sequence: 7, ordinal: 0 };
    const THROUGH: Cursor = Cursor { sequence: 7, ordinal: 1 };

    fn failed(noted: Vec<(Cursor, Cursor)>) -> Notice {
        Notice::MessageFailed(MessageFailed {
            endpoint: "ep_1".into(),
            org: "acme".into(),
            from: FROM,
            through: THROUGH,
            message: Some(FailedMessage {
                id: "evt_1".to_owned(),
                event_type: Some("steps.created".to_owned()),
            }),
            count: Some(1),
            user: Some("u_1".into()),
            status_code: Some(500),
            error: None,
            attempts: 8,
            noted,
        })
    }

    fn disabled(reason: DisabledReason, failing_since_ms: Option<i64>, at_ms: i64) -> Notice {
        let (endpoint, org) = ("ep_1".into(), "acme".into());
        Notice::EndpointDisabled(EndpointDisabled { endpoint, org, reason, failing_since_ms, at_ms })
    }

    #[test]
    fn a_notice_says_which_endpoint_it_is_about_and_what_happened() {
        let failed = failed(vec![(FROM, THROUGH)]);
        let (org, user, name, data) = event_of(&failed);
        assert_eq!((org, user, name), ("acme", Some("u_1"), "message.failed"));
        assert_eq!(
            data,
            json!({"endpoint_id": "ep_1", "message_id": "evt_1", "event_type": "steps.created",
                "message_count": 1, "status_code": 500, "error": null, "attempt_count": 8})
        );
        assert_eq!(noted(&failed), [(Arc::<str>::from("ep_1"), FROM, THROUGH)]);
        let disabled = disabled(DisabledReason::Failing, Some(1_782_805_501_123), 9);
        let (org, user, name, data) = event_of(&disabled);
        assert_eq!((org, user, name), ("acme", None, "endpoint.disabled"));
        assert_eq!(
            data,
            json!({"endpoint_id": "ep_1", "reason": "failing", "failing_since": "2026-06-30T07:45:01.123Z"})
        );
        assert_eq!((noted(&disabled), switched_off(&disabled)), (vec![], Some(("ep_1", 9))));
    }

    fn queue() -> (tempfile::TempDir, NoticeQueue, NoticePublisher) {
        let dir = tempfile::tempdir().unwrap();
        let (queue, publisher) = notice_queue(Arc::new(Catalog::open(dir.path()).unwrap()));
        (dir, queue, publisher)
    }

    #[test]
    fn a_full_queue_never_waits_and_has_the_catalog_read_again() {
        let (_dir, queue, publisher) = queue();
        let notice = disabled(DisabledReason::Gone, None, 9);
        // A start reads it too.
        assert!(publisher.overflowed.swap(false, Ordering::Relaxed));
        let taken = (0..WAITING_MAX + 10).filter(|_| queue.publish(notice.clone())).count();
        assert_eq!(taken, WAITING_MAX);
        assert!(publisher.overflowed.load(Ordering::Relaxed));
        drop(queue);
        assert_eq!(publisher.receiver.iter().count(), WAITING_MAX);
    }

    #[test]
    fn what_was_announced_out_of_the_catalog_is_known_when_its_own_notice_comes() {
        let (_dir, _queue, mut publisher) = queue();
        let later = Cursor { ordinal: 2, ..THROUGH };
        publisher.announced.extend(noted(&failed(vec![(FROM, THROUGH)])));
        let told = [vec![(FROM, THROUGH)], vec![(FROM, THROUGH), (THROUGH, later)], Vec::new()];
        assert_eq!(told.map(|noted| publisher.is_due(&failed(noted))), [false, true, true]);
    }

    #[test]
    fn who_was_switched_off_is_announced_while_the_catalog_says_so_and_until_it_is_noted_there() {
        let (_dir, _queue, publisher) = queue();
        let catalog = &publisher.catalog;
        let endpoint = EndpointRecord {
            id: "ep_1".to_owned(),
            number: 0,
            org: "acme".to_owned(),
            settings: "{}".to_owned(),
            secret: "whsec_x".to_owned(),
            previous: None,
            start: Sequence(3),
            created_at: 1,
            updated_at: 1,
        };
        catalog.insert_endpoint(&endpoint).unwrap();
        let store = |at| {
            let (endpoint, reason) = ("ep_1".to_owned(), "gone".to_owned());
            let disabled = DisabledRecord { endpoint, reason, failing_since: None, at };
            assert!(catalog.disable_endpoint("{}", Sequence(3), &disabled).unwrap());
        };
        let [early, late] = [5, 9].map(|at_ms| disabled(DisabledReason::Gone, None, at_ms));
        assert!(!publisher.is_due(&early));
        store(5);
        assert!(publisher.is_due(&early) && !publisher.is_due(&late));
        // It was switched on and off again before the first notice was noted.
        store(9);
        assert!(publisher.note(std::slice::from_ref(&early)));
        assert!(!publisher.is_due(&early) && publisher.is_due(&late));
        assert!(publisher.note(std::slice::from_ref(&late)));
        assert!(!publisher.is_due(&late));
        store(9);
        catalog.delete_endpoint("ep_1").unwrap();
        assert!(!publisher.is_due(&late));
    }
}
