//! The half of the engine that needs queries: questions, and webhooks, whose
//! classifier asks what was there before.

use std::sync::{Arc, mpsc};
use std::thread::JoinHandle;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use systole_dispatch::id::{RandomFault, random_id};
use systole_storage::frame::{Erased, Tombstone, encode_tombstone};
use systole_storage::hidden::{BlockedUsers, RetentionRule};
use systole_storage::journal::Log;
use systole_storage::query::{
    BucketQuery, BucketStream, ExportStream, QueryError, QueryPool, SampleStream, SeriesQuery, SqlAnswer,
    SqlError, SqlQuestion,
};
use systole_storage::{AttemptPage, AttemptQuery, ErasureRecord, LatestValue, Sequence, Store, StoreError};

use super::{Engine, EngineSettings, OpenError, PoisonOnPanic, Position, spawn};
use crate::commit::{CommitError, Intake};
use crate::erasure::{Eraser, EraserHandle};
use crate::event_ids::EventIds;
use crate::events::attempts::{AttemptQueue, AttemptWriter};
use crate::events::topics::EventTopics;
use crate::events::webhooks::{WebhookParts, WebhookStartError, Webhooks};
use crate::events::{
    Classifier, ErasedNow, JournalDeliveries, JournalEvents, NoticePublisher, NoticeQueue, Subscribed,
    notice_queue,
};
use crate::flusher::FlushError;
use crate::registry::Registries;

/// What runs beside the commit path.
pub(super) struct Parts {
    queries: Arc<QueryPool>,
    subscribed: Arc<Subscribed>,
    webhooks: Arc<Webhooks>,
    classifier: Classifier,
    pub(super) event_ids: Arc<EventIds>,
    attempts: AttemptQueue,
    publisher: NoticePublisher,
    notices: NoticeQueue,
}

impl Parts {
    /// Starts the query runtime and brings webhooks back; nothing is delivered yet.
    pub(super) fn start(
        settings: &EngineSettings,
        store: &Arc<Store>,
        log: &Arc<Log>,
        registries: &Arc<Registries>,
        intake: &Arc<Intake>,
    ) -> Result<Parts, OpenError> {
        let queries = QueryPool::start_with(
            store.clone(),
            settings.query_threads,
            settings.query_concurrency,
            settings.query_memory_bytes,
            settings.sql,
        );
        let queries = queries.map_err(|source| OpenError::Start { what: "query runtime", source })?;
        let queries = Arc::new(queries);
        let subscribed = Arc::new(Subscribed::new(log.clone()));
        let topics = Arc::new(EventTopics::new());
        topics.add_all_own(registries);
        let attempts = AttemptQueue::default();
        let (notices, publisher) = notice_queue(store.catalog().clone());
        let publisher = publisher.told(ErasedNow::of(store.clone()), attempts.clone());
        let webhooks = Webhooks::start(WebhookParts {
            settings: settings.webhooks.clone(),
            retention: settings.retention,
            catalog: store.catalog().clone(),
            events: JournalEvents {
                log: log.clone(),
                erased: ErasedNow::of(store.clone()),
                registries: registries.clone(),
                topics,
            },
            subscribed: subscribed.clone(),
            deliveries: Arc::new(JournalDeliveries::new(store.clone(), attempts.clone())),
            notices: Arc::new(notices.clone()),
        })?;
        let classified = webhooks.classified().map_err(WebhookStartError::from)?;
        let classifier =
            Classifier::new(log.clone(), queries.clone(), intake.clone(), subscribed.clone(), classified);
        let event_ids = EventIds::new();
        event_ids.load(log, now_ms())?;
        let webhooks = Arc::new(webhooks);
        Ok(Parts { queries, subscribed, webhooks, classifier, event_ids, attempts, publisher, notices })
    }

    /// Up to where nobody reads the journal, and up to where superseded rows may go.
    pub(super) fn positions(&self) -> (Position, Position) {
        let (floor, settled) = (self.subscribed.clone(), self.subscribed.clone());
        (Arc::new(move || floor.floor()), Arc::new(move || settled.settled()))
    }

    /// How long payloads stay that nobody waits for: as long as somebody has an endpoint.
    pub(super) fn retention(&self, retention: Duration) -> Box<dyn Fn() -> Option<Duration> + Send> {
        let subscribed = self.subscribed.clone();
        Box::new(move || subscribed.is_any().then_some(retention))
    }

    /// Starts the threads that read the journal along; they end with the log.
    pub(super) fn run(
        self,
        intake: &Arc<Intake>,
        threads: &mut Vec<(&'static str, JoinHandle<()>)>,
    ) -> Result<(Arc<QueryPool>, Arc<Webhooks>, AttemptQueue, NoticeQueue), OpenError> {
        let Parts { queries, webhooks, classifier, attempts, publisher, notices, .. } = self;
        let guard = PoisonOnPanic { intake: intake.clone(), thread: "classifier" };
        threads.insert(
            0,
            spawn("classifier", move || {
                let _guard = guard;
                classifier.run();
            })?,
        );
        let (to, guard) = (intake.clone(), PoisonOnPanic { intake: intake.clone(), thread: "notices" });
        let told = webhooks.clone();
        threads.push(spawn("notices", move || {
            let _guard = guard;
            publisher.run(&to, &|most| told.unannounced(most));
        })?);
        let (routed, guard) = (webhooks.clone(), PoisonOnPanic { intake: intake.clone(), thread: "router" });
        threads.insert(
            0,
            spawn("router", move || {
                let _guard = guard;
                routed.route();
            })?,
        );
        let writer = AttemptWriter::new(attempts.clone(), intake);
        let guard = PoisonOnPanic { intake: intake.clone(), thread: "attempts" };
        threads.insert(
            0,
            spawn("attempts", move || {
                let _guard = guard;
                writer.run();
            })?,
        );
        Ok((queries, webhooks, attempts, notices))
    }
}

/// Starts the thread that carries out erasures.
pub(super) fn start_eraser(
    eraser: Eraser,
    threads: &mut Vec<(&'static str, JoinHandle<()>)>,
) -> Result<EraserHandle, OpenError> {
    let (requests, received) = mpsc::channel();
    let guard = PoisonOnPanic { intake: eraser.intake.clone(), thread: "erasure" };
    let run = move || {
        let _guard = guard;
        eraser.run(&received);
    };
    threads.insert(0, spawn("erasure", run)?);
    Ok(EraserHandle(requests))
}

/// How long an order is not answered because what it takes is being counted.
const COUNT_WAIT: Duration = Duration::from_secs(10);

/// Counts what an order took out of sight and notes it in the receipt. If that fails the
/// receipt says no number.
async fn count_samples(
    queries: Arc<QueryPool>,
    store: Arc<Store>,
    tombstone: Tombstone,
    metrics: Vec<String>,
) {
    let samples = match queries.count_erased(&tombstone, metrics).await {
        Ok(samples) => samples,
        Err(error) => {
            tracing::warn!(%error, "the samples of an erasure could not be counted");
            return;
        }
    };
    let noted =
        tokio::task::spawn_blocking(move || store.catalog().set_erased_samples(&tombstone.id, samples));
    if let Ok(Err(error)) = noted.await {
        let error: &dyn std::error::Error = &error;
        tracing::warn!(error, "the samples of an erasure could not be noted");
    }
}

/// Why something was not erased.
#[derive(Debug, thiserror::Error)]
pub enum EraseError {
    /// The order was not committed.
    #[error(transparent)]
    Commit(#[from] CommitError),
    /// The order stands and hides, but its receipt could not be stored.
    #[error("the receipt could not be stored")]
    Store(#[from] StoreError),
    /// What there is could not be found out; nothing was erased.
    #[error("what there is to erase cannot be found")]
    Query(#[from] QueryError),
    /// No id could be made.
    #[error(transparent)]
    Random(#[from] RandomFault),
    /// The server stopped meanwhile.
    #[error("the server is stopping")]
    Stopping,
}

impl Engine {
    /// Takes delivery attempts for the log.
    #[must_use]
    pub fn attempt_queue(&self) -> &AttemptQueue {
        &self.inner.attempts
    }

    /// The page of delivery attempts that a query asks for, newest first. Reads files:
    /// for a thread that may wait.
    ///
    /// # Errors
    /// [`StoreError`].
    pub fn attempts(&self, query: &AttemptQuery) -> Result<AttemptPage, StoreError> {
        self.inner.store.attempts(query)
    }

    /// Erases a user, or a range of one user's samples or of all users': from the answer on
    /// nothing of it is seen any more, and within the deadline its bytes are gone. Returns the
    /// receipt's id.
    ///
    /// # Errors
    /// [`EraseError`].
    pub async fn erase(&self, org: &str, erased: Erased) -> Result<String, EraseError> {
        let metrics = self.metrics_before(org, &erased).await?;
        let (id, org) = (random_id("era_")?, org.to_owned());
        let tombstone = Tombstone { id, org, erased, sequence: Sequence::ZERO, created_at: 0 };
        // Before it is handed in: what is announced meanwhile must not name whom it is about.
        let leaving = self.inner.notices.leaving().note(&tombstone.org, &tombstone.erased);
        let ack = self.inner.intake.submit_internal(encode_tombstone(&tombstone));
        // Its own task, so that a caller that goes away does not end that before the order hides.
        let committing = tokio::spawn(async move {
            let committed = ack.await;
            drop(leaving);
            committed
        });
        let committed = committing.await.unwrap_or(Err(CommitError::Failed))?;
        let tombstone = Tombstone { sequence: committed.sequence, ..tombstone };
        self.on_store(|store| store.record_tombstones()).await?;
        let id = tombstone.id.clone();
        let (queries, store) = (self.inner.queries.clone(), self.inner.store.clone());
        // Its own task, so that a caller that goes away does not end it.
        let counting = tokio::spawn(count_samples(queries, store, tombstone, metrics));
        // What is not counted by then comes into the receipt later.
        let _ = tokio::time::timeout(COUNT_WAIT, counting).await;
        Ok(id)
    }

    /// The metrics of which an order about one user may take something.
    async fn metrics_before(&self, org: &str, erased: &Erased) -> Result<Vec<String>, EraseError> {
        Ok(match erased {
            Erased::Range { user: None, .. } => Vec::new(),
            Erased::Range { metric: Some(metric), .. } => vec![metric.clone()],
            Erased::User { user, .. } | Erased::Range { user: Some(user), metric: None, .. } => {
                self.metrics_of(org, user).await?
            }
        })
    }

    /// The receipt of an erasure.
    ///
    /// # Errors
    /// [`EraseError::Store`].
    pub async fn erasure(&self, org: &str, id: &str) -> Result<Option<ErasureRecord>, EraseError> {
        let (org, id) = (org.to_owned(), id.to_owned());
        self.on_store(move |store| Ok(store.catalog().erasure(&org, &id)?)).await
    }

    /// Carries out erasures that wait, now; returns how many.
    ///
    /// # Errors
    /// [`FlushError`]; then they go on waiting, and hide.
    pub async fn carry_out_erasures(&self) -> Result<usize, FlushError> {
        self.inner.eraser.carry_out().await
    }

    /// Users of an organisation from whom nothing is taken; `None` if there are none.
    #[must_use]
    pub fn blocked_users(&self, org: &str) -> Option<Arc<BlockedUsers>> {
        self.inner.store.hidden().blocked(org)
    }

    /// How long an organisation keeps what, and how long where no rule says.
    #[must_use]
    pub fn retention(&self, org: &str) -> (Vec<RetentionRule>, Option<u32>) {
        let hidden = self.inner.store.hidden();
        (hidden.retention(org).to_vec(), hidden.default_days())
    }

    /// Replaces an organisation's rules of how long it keeps what; they count at once.
    ///
    /// # Errors
    /// [`EraseError::Store`].
    pub async fn set_retention(&self, org: &str, rules: Vec<RetentionRule>) -> Result<(), EraseError> {
        let org = org.to_owned();
        self.on_store(move |store| store.set_retention(&org, rules)).await
    }

    /// Everything of a user as a Parquet file with the columns of data files.
    ///
    /// # Errors
    /// [`QueryError`].
    pub async fn export_parquet(&self, org: &str, user: &str) -> Result<ExportStream, QueryError> {
        let metrics = self.metrics_of(org, user).await?;
        self.inner.queries.export(org, user, metrics).await
    }

    /// Keys of the metrics that a user has samples of, sorted.
    ///
    /// # Errors
    /// [`QueryError`].
    pub async fn metrics_of(&self, org: &str, user: &str) -> Result<Vec<String>, QueryError> {
        let latest = self.latest(org, user).await?;
        Ok(latest.into_iter().map(|value| value.metric).collect())
    }

    /// Runs `work` where it may block.
    async fn on_store<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Store) -> Result<T, StoreError> + Send + 'static,
    ) -> Result<T, EraseError> {
        let store = self.inner.store.clone();
        let done = tokio::task::spawn_blocking(move || work(&store)).await;
        Ok(done.map_err(|_| EraseError::Stopping)??)
    }

    /// One user's samples of one metric, as a stream of chunks in the order
    /// asked for, over one snapshot.
    ///
    /// # Errors
    /// [`QueryError`].
    pub async fn samples(&self, query: SeriesQuery) -> Result<SampleStream, QueryError> {
        self.inner.queries.samples(query).await
    }

    /// One user's samples of one metric in buckets, as a stream in the order asked
    /// for, over one snapshot.
    ///
    /// # Errors
    /// [`QueryError`].
    pub async fn buckets(&self, query: BucketQuery) -> Result<BucketStream, QueryError> {
        self.inner.queries.buckets(query).await
    }

    /// The newest value of each metric of a user, sorted by metric.
    ///
    /// # Errors
    /// [`QueryError`].
    pub async fn latest(&self, org: &str, user: &str) -> Result<Vec<LatestValue>, QueryError> {
        self.inner.queries.latest(org, user).await
    }

    /// The answer of a read-only SQL statement over one organisation.
    ///
    /// # Errors
    /// [`SqlError`]; what fails behind the first bytes of a long answer comes through it.
    pub async fn sql(&self, question: SqlQuestion) -> Result<SqlAnswer, SqlError> {
        self.inner.queries.sql(question).await
    }

    /// SQL statements that run now.
    #[must_use]
    pub fn sql_running(&self) -> usize {
        self.inner.queries.sql_running()
    }

    /// Endpoints and what events are called.
    #[must_use]
    pub fn webhooks(&self) -> &Arc<Webhooks> {
        &self.inner.webhooks
    }
}

/// Milliseconds since 1970.
pub(super) fn now_ms() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_millis()).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::time::Instant;

    use systole_dispatch::event::Cursor;
    use systole_dispatch::notice::{FailedMessage, MESSAGE_FAILED, MessageFailed, Notice, Notices as _};
    use systole_storage::frame::{EventFrame, Frame, Published};
    use systole_storage::{Catalog, LaneChanges};
    use tempfile::TempDir;

    use super::*;
    use crate::events::webhooks::{Dialect, DispatchStats, EndpointSettings, Secret};

    const ORG: &str = "default";

    /// One whose journal segments are short.
    fn open(dir: &TempDir) -> Engine {
        let settings = EngineSettings { segment_bytes: 8 * 1024, ..EngineSettings::default() };
        Engine::open(EngineSettings { data_dir: dir.path().to_owned(), ..settings }).unwrap()
    }

    /// Publishes an event about a user; the head behind it.
    async fn publish(engine: &Engine, user: &str, data: &str) -> Sequence {
        let event =
            Published { org: ORG, user: Some(user), name: "check_in.created", id: None, bound: false, data };
        let permit = engine.budget().try_take(100).unwrap();
        engine.publish(&event, permit).await.unwrap();
        engine.inner.log.head()
    }

    /// Announces that an event about a user was given up.
    fn announce(engine: &Engine, user: &str, sequence: Sequence) {
        let from = Cursor { sequence: sequence.0, ordinal: 0 };
        let taken = engine.inner.notices.publish(Notice::MessageFailed(MessageFailed {
            endpoint: "ep_1".into(),
            org: ORG.into(),
            from,
            through: Cursor { ordinal: 1, ..from },
            message: Some(FailedMessage {
                id: "evt_1".to_owned(),
                event_type: Some("check_in.created".to_owned()),
            }),
            count: Some(1),
            user: Some(user.into()),
            status_code: Some(500),
            error: None,
            attempts: 8,
            noted: Vec::new(),
        }));
        assert!(taken);
    }

    /// What was announced behind a place, once there is as much.
    async fn announced(engine: &Engine, behind: Sequence, count: usize) -> Vec<EventFrame> {
        let deadline = Instant::now() + Duration::from_secs(30);
        loop {
            let (mut cursor, mut found) = (engine.inner.log.cursor(behind), Vec::new());
            loop {
                let frames = cursor.next(1024 * 1024).unwrap();
                if frames.is_empty() {
                    break;
                }
                found.extend(frames.into_iter().filter_map(|frame| match frame {
                    Frame::Event(event) if event.name() == MESSAGE_FAILED => Some(event),
                    _ => None,
                }));
            }
            if found.len() >= count {
                return found;
            }
            assert!(Instant::now() < deadline, "{} of {count}", found.len());
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn what_is_announced_behind_an_erasure_does_not_name_the_user() {
        let dir = tempfile::tempdir().unwrap();
        let engine = open(&dir);
        let sent = publish(&engine, "u_1", "{}").await;
        engine.erase(ORG, Erased::User { user: "u_1".to_owned(), block: false }).await.unwrap();
        for round in ["hidden", "carried out"] {
            let behind = engine.inner.log.head();
            announce(&engine, "u_1", sent);
            announce(&engine, "u_2", sent);
            // Of the new user of that name.
            announce(&engine, "u_1", behind.next());
            let told = announced(&engine, behind, 3).await;
            let users: Vec<Option<&str>> = told.iter().map(EventFrame::user).collect();
            assert_eq!(users, [None, Some("u_2"), Some("u_1")], "{round}");
            let data: serde_json::Value = serde_json::from_str(told[0].data()).unwrap();
            let expected = serde_json::json!({
                "endpoint_id": "ep_1", "message_id": null, "event_type": null, "message_count": 1,
                "status_code": 500, "error": null, "attempt_count": 8
            });
            assert_eq!(data, expected, "{round}");
            engine.carry_out_erasures().await.unwrap();
        }
        // An order that is on its way: it may come before the notice.
        let behind = engine.inner.log.head();
        let user = Erased::User { user: "u_3".to_owned(), block: false };
        let leaving = engine.inner.notices.leaving().note(ORG, &user);
        announce(&engine, "u_3", sent);
        assert_eq!(announced(&engine, behind, 1).await[0].user(), None);
        drop(leaving);
        announce(&engine, "u_3", sent);
        assert_eq!(announced(&engine, behind, 2).await[1].user(), Some("u_3"));
        engine.drain().await;
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn what_was_dropped_before_a_start_could_route_it_is_announced() {
        let dir = tempfile::tempdir().unwrap();
        let engine = open(&dir);
        // Public, and never called: it wants nothing of what is published.
        let settings = EndpointSettings {
            filter_types: Some(BTreeSet::from(["patient.created".to_owned()])),
            ..EndpointSettings::new("https://receiver.example.org/hook".to_owned(), Dialect::Standard)
        };
        let secret = Secret::generate(Dialect::Standard).unwrap();
        let endpoint = engine.webhooks().create(ORG, None, settings, &secret).unwrap();
        let routed = engine.inner.log.head();
        let long = format!("{{\"note\":\"{}\"}}", "x".repeat(2_000));
        let mut head = routed;
        for _ in 0..12 {
            head = publish(&engine, "u_1", &long).await;
        }
        let deadline = Instant::now() + Duration::from_secs(30);
        let follows = |stats: DispatchStats| stats.lanes_behind == 0 && stats.routed_sequence >= head.0;
        while !follows(engine.webhooks().stats()) {
            assert!(Instant::now() < deadline, "{:?}", engine.webhooks().stats());
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        engine.flush().await.unwrap();
        engine.drain().await;
        drop(engine);
        // As if room had been short while the router was far behind, and the server had died.
        std::fs::remove_file(dir.path().join("journal/0000000001.segment")).unwrap();
        let catalog = Catalog::open(dir.path()).unwrap();
        catalog.save_lanes(&LaneChanges { routed: Some(routed), ..LaneChanges::default() }).unwrap();
        drop(catalog);
        let engine = open(&dir);
        let removed = engine.inner.log.removed();
        assert!(removed > routed, "{removed} {routed}");
        let told = announced(&engine, removed, 1).await;
        let data: serde_json::Value = serde_json::from_str(told[0].data()).unwrap();
        let expected = serde_json::json!({
            "endpoint_id": endpoint.id, "message_id": null, "event_type": null, "message_count": null,
            "status_code": null, "error": "payload_gone", "attempt_count": 0
        });
        assert_eq!(data, expected);
        engine.drain().await;
    }
}
