//! The keeper: it looks at the lanes of which something is due.
//!
//! It wakes when the next of them is, so that retries that were spread stay spread: all
//! of a tenth of a second at once would hold up whoever has an event just then. Many that
//! are due at once are looked at a few at a time.
//!
//! What panics under it is said and looked at again: it ends with the server alone.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::Duration;

use crate::dispatcher::Shared;

/// How late something is at most that was not known when the keeper went to rest.
const REST_MAX: Duration = Duration::from_millis(100);
/// How long it rests at least: what is due within it is looked at together.
const REST_MIN: Duration = Duration::from_millis(5);
/// Lanes looked at before whoever has something to send has its turn.
const LANES_AT_ONCE: usize = 32;

/// Looks at lanes until the server stops.
pub(crate) async fn keep(shared: Arc<Shared>) {
    while !shared.is_stopping() {
        keep_once(&shared).await;
        let next = shared.agenda.next_due().unwrap_or(REST_MAX);
        tokio::time::sleep(next.clamp(REST_MIN, REST_MAX)).await;
    }
}

async fn keep_once(shared: &Arc<Shared>) {
    if catch_unwind(AssertUnwindSafe(|| shared.settle())).is_err() {
        tracing::error!("asking how far events have come panicked, trying again");
    }
    for lanes in shared.agenda.due().chunks(LANES_AT_ONCE) {
        for lane in lanes {
            if catch_unwind(AssertUnwindSafe(|| lane.tend(shared))).is_err() {
                tracing::error!(endpoint = &*lane.id, "tending a lane panicked, trying again");
                lane.put_off();
            }
        }
        tokio::task::yield_now().await;
    }
}
