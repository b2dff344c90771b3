//! What somebody asked for: an event once more, or an example. It waits for no pause,
//! goes beside the window, and its failure leaves the schedule of the event alone.

use std::sync::Arc;

use super::Lane;
use super::delivery::{self, Outcome};
use super::job::{Job, Origin};
use crate::attempt::Trigger;
use crate::dispatcher::Shared;
use crate::event::{Payload, Place};
use crate::notice::DisabledReason;

/// Requests of this kind in flight, over all endpoints; others wait.
pub(crate) const MANUAL_AT_ONCE: usize = 16;
/// Requests of this kind in flight or waiting; more are refused.
pub(crate) const MANUAL_MAX: usize = 1024;

impl Lane {
    /// Sends an event once more.
    pub(crate) async fn resend(self: Arc<Lane>, shared: Arc<Shared>, place: Place, decided_at: u64) {
        let (attempts, generation) = {
            let state = self.state.lock();
            (state.exceptions.get(&place).map_or(0, |waiting| waiting.attempts), state.generation)
        };
        let mut job = Job {
            place,
            ordinal: 0,
            decided_at,
            key: 0,
            attempts,
            origin: Origin::Manual,
            generation,
            behind: false,
            quiet: true,
            bytes: 0,
            keys_held: 0,
            carried: None,
        };
        self.turn().await;
        let delivered = delivery::deliver(&shared, &self, &mut job, Trigger::Manual).await;
        if delivered.outcome == Outcome::Delivered {
            // It need not be tried again.
            self.with(|state, _| {
                if state.generation == generation {
                    state.end_exception(place);
                }
            });
        }
        self.end_manual(&shared, generation, delivered.outcome);
    }

    /// Sends an example.
    pub(crate) async fn send_example(
        self: Arc<Lane>,
        shared: Arc<Shared>,
        id: String,
        name: Option<String>,
        payload: Box<dyn Payload>,
    ) {
        let generation = self.state.lock().generation;
        self.turn().await;
        let outcome = delivery::deliver_example(&shared, &self, id, name, payload).await;
        self.end_manual(&shared, generation, outcome);
    }

    fn end_manual(self: &Arc<Lane>, shared: &Arc<Shared>, generation: u64, outcome: Outcome) {
        match outcome {
            Outcome::Delivered => {
                shared.counters.delivered();
                // Who answers again need not wait for the next probe.
                self.with(|state, now_ms| state.hurry(now_ms));
            }
            Outcome::SwitchedOff => {
                shared.counters.failed();
                let since_ms = {
                    let state = self.state.lock();
                    (state.generation == generation).then_some(state.health.failing_since_ms)
                };
                if let Some(since_ms) = since_ms {
                    shared.switch_off(self, DisabledReason::Gone, since_ms);
                }
            }
            Outcome::Failed { .. } | Outcome::Unreadable => shared.counters.failed(),
            Outcome::Gone => shared.counters.payload_gone(),
            Outcome::Unwanted | Outcome::Parked => {}
        }
    }
}
