//! Workers: each delivers until nothing is ready or the window has shrunk.

use std::future::poll_fn;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::pin;
use std::sync::Arc;
use std::task::Poll;

use super::Lane;
use super::delivery::{self, Delivered, Outcome};
use super::job::{Job, Origin};
use super::judge::After;
use crate::attempt::Trigger;
use crate::crew::Crew;
use crate::dispatcher::Shared;

/// What is to be done behind an attempt.
struct End {
    /// The worker's next job, and whether it is for the crew for doubtful receivers.
    next: Option<(Job, bool)>,
    /// There is room for another worker, and something for it to do.
    has_room: bool,
    /// The lane wants to read on.
    reads: bool,
}

impl Lane {
    /// Runs workers for what is ready.
    pub(super) fn pump(self: &Arc<Lane>, shared: &Arc<Shared>) {
        while !shared.is_stopping() {
            let job = self.with(|state, now_ms| {
                let is_doubtful = state.is_doubtful(now_ms);
                let job = if state.wants_worker(now_ms) { state.next_job(now_ms) } else { None };
                state.workers += usize::from(job.is_some());
                job.map(|job| (job, is_doubtful))
            });
            let Some((job, is_doubtful)) = job else { return };
            self.employ(shared, job, is_doubtful);
        }
    }

    /// Has a worker begin with a job, in the crew for doubtful receivers or in the other.
    fn employ(self: &Arc<Lane>, shared: &Arc<Shared>, first: Job, is_doubtful: bool) {
        let (lane, shared_too) = (self.clone(), shared.clone());
        let crew = shared.crews.of(is_doubtful);
        crew.handle.spawn(async move { lane.work(&shared_too, first, is_doubtful).await });
    }

    async fn work(self: Arc<Lane>, shared: &Arc<Shared>, first: Job, is_doubtful: bool) {
        let mut job = first;
        let crew = shared.crews.of(is_doubtful);
        loop {
            let trigger = match job.origin {
                Origin::Backlog { is_manual: true, .. } => Trigger::Manual,
                _ => Trigger::Scheduled,
            };
            let delivered = if shared.is_stopping() {
                Delivered::parked()
            } else {
                self.deliver(shared, crew, &mut job, trigger).await
            };
            let End { next, has_room, reads } = self.end(shared, &job, delivered);
            if reads {
                self.fill_soon(shared);
            }
            if has_room {
                // The window has grown, or it is not doubtful any more.
                self.pump(shared);
            }
            match next {
                Some((next, doubtful)) if doubtful != is_doubtful => {
                    return self.employ(shared, next, doubtful);
                }
                Some((next, _)) => job = next,
                None => break,
            }
        }
        // What came between the last look and the end.
        self.pump(shared);
    }

    /// An attempt; one that panics is none, so that its worker and its keys go on.
    async fn deliver(&self, shared: &Arc<Shared>, crew: &Crew, job: &mut Job, trigger: Trigger) -> Delivered {
        let sequence = job.place.sequence;
        // Pinned where it is made: it is some kilobytes, which nobody needs to move.
        let mut delivery = pin!(delivery::deliver(shared, self, job, trigger, crew));
        let delivered = poll_fn(|context| {
            let polled = catch_unwind(AssertUnwindSafe(|| delivery.as_mut().poll(context)));
            crew.offer_core();
            match polled {
                Ok(polled) => polled.map(Some),
                Err(_) => Poll::Ready(None),
            }
        });
        delivered.await.unwrap_or_else(|| {
            tracing::error!(endpoint = &*self.id, sequence, "a delivery panicked");
            Delivered::unreadable()
        })
    }

    /// Tells what came of a job.
    fn end(self: &Arc<Lane>, shared: &Arc<Shared>, job: &Job, delivered: Delivered) -> End {
        let Delivered { outcome, failure } = delivered;
        self.count(shared, job, outcome);
        let retries = self.config.load().settings.dialect.retries();
        let (after, failing_since_ms, pauses) = self.with(|state, now_ms| {
            let (since_ms, was_paused) = (state.health.failing_since_ms, state.is_paused());
            let after = state.finish(job, outcome, retries, now_ms);
            if matches!(after, After::SwitchOff(_)) {
                // With it, so that no other worker begins anything behind it.
                self.begin_end(state, job.generation);
            }
            if after == After::GaveUp && !job.quiet {
                // With it, so that both are durable or neither.
                state.unsaved.notices.push(self.failed_delivery(shared, job, outcome, failure));
            }
            (after, since_ms, !was_paused && state.is_paused())
        });
        if pauses {
            tracing::info!(endpoint = &*self.id, "endpoint fails too often: its lane pauses");
        }
        match after {
            After::Nothing => {}
            After::SwitchOff(reason) => shared.switch_off(self, job.generation, reason, failing_since_ms),
            After::GaveUp if outcome.is_gone() => {}
            After::GaveUp => {
                shared.counters.given_up();
                tracing::warn!(endpoint = &*self.id, attempts = job.attempts + 1, "delivery given up");
            }
        }
        self.with(|state, now_ms| {
            let is_doubtful = state.is_doubtful(now_ms);
            let next = if state.workers > state.window(now_ms) { None } else { state.next_job(now_ms) };
            if next.is_none() {
                state.workers -= 1;
                state.trim();
            }
            let has_room = next.is_some() && state.wants_worker(now_ms);
            End { next: next.map(|next| (next, is_doubtful)), has_room, reads: state.wants_fill(now_ms) }
        })
    }

    fn count(&self, shared: &Shared, job: &Job, outcome: Outcome) {
        let counters = &shared.counters;
        match outcome {
            Outcome::Delivered => counters.delivered(),
            Outcome::Failed { .. } | Outcome::SwitchedOff | Outcome::Unreadable => counters.failed(),
            // One line for each would fill the log: what was dropped is counted, announced and
            // stands in the delivery log.
            Outcome::Gone | Outcome::Dropped => {
                counters.payload_gone();
                tracing::debug!(
                    endpoint = &*self.id,
                    sequence = job.place.sequence,
                    "payload gone, given up"
                );
            }
            Outcome::Unwanted | Outcome::Unsent | Outcome::Parked => {}
        }
    }
}
