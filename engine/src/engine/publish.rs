//! Events that publishers hand in.
//!
//! ```text
//! hand in: id claimed -> ring -> Publishing -> durable
//!            '-- it came before ----^
//! ```
//!
//! An event has its place before [`Engine::hand_in`] returns: events that are handed in one
//! after the other stand in the journal in that order, whenever their acknowledgements
//! are waited for. What full does: an event waits for the ring as long as its caller says.

use std::time::{Duration, Instant};

use systole_storage::Sequence;
use systole_storage::frame::{Frame, Published, encode_published};
use tokio::task::JoinHandle;

use super::query::now_ms;
use super::{Engine, Inner};
use crate::budget::Permit;
use crate::commit::{Ack, CommitError, Submission, SubmitError};
use crate::event_ids::{Claim, Claimed};

/// How long a full ring is given to be drained: about as long as a group takes.
const FULL_REST: Duration = Duration::from_millis(2);

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

/// An event that was taken and has its place. Dropping it does not take the event back.
#[derive(Debug)]
pub struct Publishing(Stage);

#[derive(Debug)]
enum Stage {
    /// Its id came before.
    Durable(Sequence),
    Submitted(Ack),
    /// A task waits for the acknowledgement, as others may wait for what becomes of the id.
    Deciding(JoinHandle<Result<Sequence, CommitError>>),
}

/// What is decided of an id.
enum Decided {
    /// It is that of an event in the journal.
    Known(Sequence),
    Mine(Claimed),
}

impl Publishing {
    /// Its sequence, once it is durable.
    ///
    /// # Errors
    /// [`CommitError`].
    pub async fn durable(self) -> Result<Sequence, CommitError> {
        match self.0 {
            Stage::Durable(sequence) => Ok(sequence),
            Stage::Submitted(ack) => Ok(ack.await?.sequence),
            Stage::Deciding(kept) => kept.await.unwrap_or(Err(CommitError::Failed)),
        }
    }
}

impl Engine {
    /// Hands in an event of a published type; returns its id once it is durable. One whose
    /// own id came within the last day already is that event: from a publisher bound to
    /// the same user, or else from any that is bound to none.
    ///
    /// # Errors
    /// [`PublishError`].
    pub async fn publish(&self, event: &Published<'_>, permit: Permit) -> Result<String, PublishError> {
        let taken = self.hand_in(event, permit, Duration::ZERO).await?;
        Ok(self.inner.webhooks.published_id(taken.durable().await?))
    }

    /// Hands in an event as [`Engine::publish`] does, and returns once it has its place. If
    /// there is no room it waits for it as long as `patience`. An event whose own id is just being
    /// published waits for what becomes of that.
    ///
    /// # Errors
    /// [`SubmitError`]; then nothing of it was kept.
    pub async fn hand_in(
        &self,
        event: &Published<'_>,
        permit: Permit,
        patience: Duration,
    ) -> Result<Publishing, SubmitError> {
        let claimed = match event.scoped_id() {
            None => None,
            Some(id) => match self.decide(event.org, &id).await {
                Decided::Known(sequence) => return Ok(Publishing(Stage::Durable(sequence))),
                Decided::Mine(claimed) => Some(claimed),
            },
        };
        let (submission, ack) = Submission::new(encode_published(event), 0, Some(permit));
        self.offer(submission, patience).await?;
        let Some(claimed) = claimed else { return Ok(Publishing(Stage::Submitted(ack))) };
        // Its own task, so that a caller that goes away does not leave the id undecided.
        let kept = tokio::spawn(async move {
            let committed = ack.await?;
            claimed.keep(committed.sequence, now_ms());
            Ok::<Sequence, CommitError>(committed.sequence)
        });
        Ok(Publishing(Stage::Deciding(kept)))
    }

    async fn offer(&self, mut submission: Submission, patience: Duration) -> Result<(), SubmitError> {
        let buffer_bytes_max = self.inner.settings.buffer_bytes_max as u64;
        let begun = Instant::now();
        loop {
            // Who can wait leaves half of the ring to those who cannot.
            let waits = begun.elapsed() < patience;
            if !(waits && self.inner.intake.is_half_full()) {
                submission = match self.inner.intake.offer(submission, buffer_bytes_max) {
                    Ok(()) => return Ok(()),
                    Err((SubmitError::Full, back)) if waits => back,
                    Err((fault, _)) => return Err(fault),
                };
            }
            tokio::time::sleep(FULL_REST).await;
            // It is handed in from now on: what came before is not the committer's time.
            submission.submitted = Instant::now();
        }
    }

    /// Waits until nobody else publishes an event with this id.
    async fn decide(&self, org: &str, id: &str) -> Decided {
        let mut other = None;
        loop {
            match self.inner.event_ids.claim(org, id, other, now_ms()) {
                Claim::Mine(claimed) => return Decided::Mine(claimed),
                Claim::Known(sequence) if self.is_event(org, id, sequence).await => {
                    return Decided::Known(sequence);
                }
                Claim::Known(sequence) => other = Some(sequence),
                // An error says that it is decided.
                Claim::Pending(mut decided) => while decided.changed().await.is_ok() {},
            }
        }
    }

    /// Whether the event at a place has this id, or is gone and so cannot be asked. One
    /// that was erased has none.
    async fn is_event(&self, org: &str, id: &str, sequence: Sequence) -> bool {
        if self.inner.log.is_in_memory(sequence) {
            return self.inner.is_event(org, id, sequence);
        }
        let (inner, org, id) = (self.inner.clone(), org.to_owned(), id.to_owned());
        let found = tokio::task::spawn_blocking(move || inner.is_event(&org, &id, sequence));
        found.await.unwrap_or(true)
    }
}

impl Inner {
    /// The same; reads a segment unless the frame lies in memory.
    fn is_event(&self, org: &str, id: &str, sequence: Sequence) -> bool {
        match self.log.frame(sequence) {
            Ok(Frame::Event(event)) => {
                event.org() == org
                    && event.scoped_id().as_deref() == Some(id)
                    && !self.store.hidden().hides_event(&event)
            }
            Ok(_) => false,
            Err(_) => true,
        }
    }
}
