//! The keeper: every 100 ms it looks at the lanes of which something is due.
//!
//! What panics under it is said and looked at again: it ends with the server alone.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::Duration;

use crate::dispatcher::Shared;

/// How often lanes are looked at for what is due.
const KEEPER_INTERVAL: Duration = Duration::from_millis(100);

/// Looks at lanes until the server stops.
pub(crate) async fn keep(shared: Arc<Shared>) {
    let mut ticks = tokio::time::interval(KEEPER_INTERVAL);
    while !shared.is_stopping() {
        ticks.tick().await;
        keep_once(&shared);
    }
}

fn keep_once(shared: &Arc<Shared>) {
    if catch_unwind(AssertUnwindSafe(|| shared.settle())).is_err() {
        tracing::error!("asking how far events have come panicked, trying again");
    }
    for lane in shared.agenda.due() {
        if catch_unwind(AssertUnwindSafe(|| lane.tend(shared))).is_err() {
            tracing::error!(endpoint = &*lane.id, "tending a lane panicked, trying again");
            lane.put_off();
        }
    }
}
