//! What somebody asked for: an event once more, or an example. It waits for no pause,
//! goes beside the window, and its failure leaves the schedule of the event alone.
//!
//! Constraints: at most 16 such requests are in flight and 1,024 in flight or waiting,
//! of one endpoint 4 and 64. It takes four receivers that hang to hold up the others',
//! and then for no longer than a deadline: who waits for its own endpoint, or for that
//! one's rate, holds no turn of all.
//!
//! What was taken is promised to whoever asked, and nowhere written down: a stop takes no
//! more and waits for what was taken, also for what waits for its turn, as long as for
//! what is in flight.

use std::sync::Arc;

use tokio::sync::{OwnedSemaphorePermit, Semaphore, SemaphorePermit};

use super::Lane;
use super::delivery::{self, Outcome};
use super::job::{Job, Origin};
use crate::attempt::Trigger;
use crate::dispatcher::Shared;
use crate::event::{Payload, Place};
use crate::notice::DisabledReason;

/// Requests of this kind in flight, over all endpoints.
const TURNS: usize = 16;
/// Those of one endpoint: a part of all, and enough for somebody who waits for it.
const LANE_TURNS: usize = 4;
/// Requests of this kind in flight or waiting, over all endpoints.
const PLACES: usize = 1024;
/// Those of one endpoint.
const LANE_PLACES: usize = 64;

/// Room for what is sent by hand, of all endpoints or of one.
#[derive(Debug)]
pub(crate) struct ManualRoom {
    /// For what is in flight or waits; full or closed refuses.
    places: Arc<Semaphore>,
    /// How many there are.
    places_max: usize,
    /// For what is in flight; full waits.
    turns: Semaphore,
}

impl ManualRoom {
    /// Of all endpoints.
    pub(crate) fn of_all() -> ManualRoom {
        ManualRoom::with(PLACES, TURNS)
    }

    /// Of one endpoint.
    pub(super) fn of_lane() -> ManualRoom {
        ManualRoom::with(LANE_PLACES, LANE_TURNS)
    }

    fn with(places_max: usize, turns: usize) -> ManualRoom {
        ManualRoom { places: Arc::new(Semaphore::new(places_max)), places_max, turns: Semaphore::new(turns) }
    }

    /// Gives no more places; those that are taken stay until they are left.
    pub(crate) fn close(&self) {
        self.places.close();
    }

    /// Whether nobody has a place.
    pub(crate) fn is_free(&self) -> bool {
        self.places.available_permits() == self.places_max
    }

    fn place(&self) -> Option<OwnedSemaphorePermit> {
        self.places.clone().try_acquire_owned().ok()
    }
}

/// A place of one endpoint's and one of all; free again when it is dropped.
pub(crate) struct ManualPlace {
    _own: OwnedSemaphorePermit,
    _shared: OwnedSemaphorePermit,
}

impl Lane {
    /// A place for something to be sent by hand, if there is one.
    pub(crate) fn manual_place(&self, shared: &Shared) -> Option<ManualPlace> {
        let _own = self.manual.place()?;
        Some(ManualPlace { _own, _shared: shared.manual.place()? })
    }

    /// Its own turn first: whoever waits for that holds none of all. Turns are given while
    /// the server stops too, and never closed.
    async fn manual_turn<'a>(
        &'a self,
        shared: &'a Shared,
    ) -> Option<(SemaphorePermit<'a>, SemaphorePermit<'a>)> {
        let own = self.manual.turns.acquire().await.ok()?;
        self.turn().await;
        Some((own, shared.manual.turns.acquire().await.ok()?))
    }

    /// Sends an event once more, unless the lane was switched since `generation`.
    pub(crate) async fn resend(
        self: Arc<Lane>,
        shared: Arc<Shared>,
        generation: u64,
        place: Place,
        decided_at: u64,
    ) {
        let Some(_turn) = self.manual_turn(&shared).await else { return };
        let (attempts, moves) = {
            let state = self.state.lock();
            (state.exceptions.get(&place).map_or(0, |waiting| waiting.attempts), state.moves)
        };
        let mut job = Job {
            place,
            ordinal: 0,
            decided_at,
            key: 0,
            attempts,
            origin: Origin::Manual,
            generation,
            moves,
            behind: false,
            quiet: true,
            bytes: 0,
            keys_held: 0,
            carried: None,
        };
        let delivered =
            delivery::deliver(&shared, &self, &mut job, Trigger::Manual, &shared.crews.living).await;
        if let Some(succeeded) = delivered.outcome.succeeded() {
            self.with(|state, _| {
                state.attempted(&job, succeeded);
                // It need not be tried again.
                if succeeded && state.generation == generation {
                    state.end_exception(place);
                }
            });
        }
        self.end_manual(&shared, generation, job.moves, delivered.outcome);
    }

    /// Sends an example, also if the lane is off, but not if it was switched since
    /// `generation`.
    pub(crate) async fn send_example(
        self: Arc<Lane>,
        shared: Arc<Shared>,
        generation: u64,
        id: String,
        name: Option<String>,
        payload: Box<dyn Payload>,
    ) {
        let Some(_turn) = self.manual_turn(&shared).await else { return };
        let moves = {
            let state = self.state.lock();
            if state.generation != generation {
                return;
            }
            state.moves
        };
        let outcome = delivery::deliver_example(&shared, &self, id, name, payload).await;
        self.end_manual(&shared, generation, moves, outcome);
    }

    /// What came of a request says nothing of the receiver if the lane was switched since that
    /// generation, or the receiver moved since.
    fn end_manual(self: &Arc<Lane>, shared: &Arc<Shared>, generation: u64, moves: u32, outcome: Outcome) {
        match outcome {
            Outcome::Delivered => {
                shared.counters.delivered();
                self.with(|state, now_ms| state.answered(generation, moves, now_ms));
                self.pump(shared);
            }
            Outcome::SwitchedOff => {
                shared.counters.failed();
                if let Some(health) = self.deactivate(generation, moves) {
                    shared.switch_off(self, generation, DisabledReason::Gone, health.failing_since_ms);
                }
            }
            Outcome::Failed { .. } | Outcome::Unreadable | Outcome::Unsent => {
                shared.counters.failed();
                if outcome.succeeded() == Some(false) {
                    self.with(|state, now_ms| state.failed_by_hand(moves, now_ms));
                }
            }
            Outcome::Gone | Outcome::Dropped => shared.counters.payload_gone(),
            Outcome::Unwanted | Outcome::Parked => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_room_that_is_closed_gives_no_place_and_is_free_once_the_last_is_left() {
        let room = ManualRoom::of_all();
        let (first, second) = (room.place().unwrap(), room.place().unwrap());
        assert!(!room.is_free());
        room.close();
        drop(first);
        assert!(room.place().is_none() && !room.is_free());
        drop(second);
        assert!(room.place().is_none() && room.is_free());
    }
}
