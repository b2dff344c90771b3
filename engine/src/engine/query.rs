//! The half of the engine that needs queries: questions, and webhooks, whose
//! classifier asks what was there before.

use std::sync::Arc;
use std::thread::JoinHandle;

use systole_storage::journal::Log;
use systole_storage::query::{BucketQuery, BucketStream, QueryError, QueryPool, SampleStream, SeriesQuery};
use systole_storage::{LatestValue, Sequence, Store};

use super::{Engine, EngineSettings, OpenError, PoisonOnPanic, spawn};
use crate::budget::Permit;
use crate::commit::{CommitError, Intake, SubmitError};
use crate::events::topics::EventCatalogue;
use crate::events::webhooks::{WebhookParts, WebhookStartError, Webhooks};
use crate::events::{Classifier, JournalEvents, Subscribed};
use crate::registry::Registry;

/// What runs beside the commit path.
pub(super) struct Parts {
    queries: Arc<QueryPool>,
    subscribed: Arc<Subscribed>,
    webhooks: Arc<Webhooks>,
    classifier: Classifier,
}

/// A question for a position.
type Position = Box<dyn Fn() -> Sequence + Send>;

impl Parts {
    /// Starts the query runtime and brings webhooks back; nothing is delivered yet.
    pub(super) fn start(
        settings: &EngineSettings,
        store: &Arc<Store>,
        log: &Arc<Log>,
        registry: &Arc<Registry>,
        intake: &Arc<Intake>,
    ) -> Result<Parts, OpenError> {
        let queries = QueryPool::start(
            store.clone(),
            settings.query_threads,
            settings.query_concurrency,
            settings.query_memory_bytes,
        );
        let queries = queries.map_err(|source| OpenError::Start { what: "query runtime", source })?;
        let queries = Arc::new(queries);
        let subscribed = Arc::new(Subscribed::new(log.clone()));
        let catalogue = Arc::new(EventCatalogue::new(registry));
        let webhooks = Webhooks::start(WebhookParts {
            settings: settings.webhooks.clone(),
            catalog: store.catalog().clone(),
            events: JournalEvents { log: log.clone(), registry: registry.clone(), catalogue },
            subscribed: subscribed.clone(),
        })?;
        let classified = webhooks.classified().map_err(WebhookStartError::from)?;
        let classifier =
            Classifier::new(log.clone(), queries.clone(), intake.clone(), subscribed.clone(), classified);
        Ok(Parts { queries, subscribed, webhooks: Arc::new(webhooks), classifier })
    }

    /// Up to where nobody reads the journal, and up to where superseded rows may go.
    pub(super) fn positions(&self) -> (Position, Position) {
        let (floor, settled) = (self.subscribed.clone(), self.subscribed.clone());
        (Box::new(move || floor.floor()), Box::new(move || settled.settled()))
    }

    /// Starts the threads that read the journal along; they end with the log.
    pub(super) fn run(
        self,
        intake: &Arc<Intake>,
        threads: &mut Vec<(&'static str, JoinHandle<()>)>,
    ) -> Result<(Arc<QueryPool>, Arc<Webhooks>), OpenError> {
        let Parts { queries, webhooks, classifier, .. } = self;
        let guard = PoisonOnPanic { intake: intake.clone(), thread: "classifier" };
        threads.insert(
            0,
            spawn("classifier", move || {
                let _guard = guard;
                classifier.run();
            })?,
        );
        let (routed, guard) = (webhooks.clone(), PoisonOnPanic { intake: intake.clone(), thread: "router" });
        threads.insert(
            0,
            spawn("router", move || {
                let _guard = guard;
                routed.route();
            })?,
        );
        Ok((queries, webhooks))
    }
}

/// Why an event was not published.
#[derive(Debug, thiserror::Error)]
pub enum PublishError {
    /// It was not taken; nothing of it was kept.
    #[error(transparent)]
    Submit(#[from] SubmitError),
    /// It was taken and not committed.
    #[error(transparent)]
    Commit(#[from] CommitError),
}

impl Engine {
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

    /// Endpoints and what events are called.
    #[must_use]
    pub fn webhooks(&self) -> &Arc<Webhooks> {
        &self.inner.webhooks
    }

    /// Hands in an event of a published type; returns its id once it is durable.
    ///
    /// # Errors
    /// [`PublishError`].
    pub async fn publish(
        &self,
        event: &systole_storage::frame::Published<'_>,
        permit: Permit,
    ) -> Result<String, PublishError> {
        let draft = systole_storage::frame::encode_published(event);
        let committed = self.submit(draft, 0, permit)?.await?;
        Ok(self.inner.webhooks.published_id(committed.sequence))
    }
}
