//! Room for connections, and who has how much of it.
//!
//! ```text
//! |----------------------- of all ----------------------|
//! |------- apart: half ------|
//! |- failing: a quarter -|
//! ```
//!
//! Whoever calls a receiver that may hang holds a connection until the timeout, which the
//! others must not wait for. So those of which nobody knows that they answer have half of all
//! together, and of those the ones that failed before half again, that whoever is new waits
//! behind no more than the first attempts of others.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::Instant;

/// What is known of a receiver that is called. Unless it answers it is called apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Standing {
    /// It took something lately.
    Answers = 0,
    /// It has neither taken anything nor failed.
    Unknown = 1,
    /// It failed when it was called last.
    Fails = 2,
}

/// Room for connections that are open or dialled; full waits.
pub(crate) struct Rooms {
    pub(crate) of_all: Room,
    /// The part of it for those who are apart.
    pub(crate) apart: Room,
    /// The part of that for those who failed before.
    pub(crate) failing: Room,
}

impl Rooms {
    pub(crate) fn for_connections(most: usize) -> Rooms {
        Rooms { of_all: Room::of(most), apart: Room::of(most / 2), failing: Room::of(most / 4) }
    }

    /// Places for a connection to a receiver that stands so. `make_room` is called once it
    /// waits for one.
    pub(crate) async fn places(&self, standing: Standing, wait: &Wait, make_room: impl Fn()) -> Places {
        let Rooms { of_all, apart, failing } = self;
        // The smallest first, so that whoever waits there holds none of the others' places.
        let rooms: &[&Room] = match standing {
            Standing::Answers => &[of_all],
            Standing::Unknown => &[apart, of_all],
            Standing::Fails => &[failing, apart, of_all],
        };
        let mut places = Places::default();
        for (room, place) in rooms.iter().zip(&mut places.0) {
            *place = Some(room.place(wait, &make_room).await);
        }
        places
    }
}

/// Room for so many connections.
pub(crate) struct Room {
    places: Arc<Semaphore>,
    /// Exchanges that wait for one.
    waiting: AtomicUsize,
}

impl Room {
    fn of(most: usize) -> Room {
        let places = Arc::new(Semaphore::new(most.clamp(1, Semaphore::MAX_PERMITS)));
        Room { places, waiting: AtomicUsize::new(0) }
    }

    pub(crate) fn is_waited_for(&self) -> bool {
        self.waiting.load(Ordering::SeqCst) > 0
    }

    async fn place(&self, wait: &Wait, make_room: impl Fn()) -> OwnedSemaphorePermit {
        if let Ok(place) = self.places.clone().try_acquire_owned() {
            return place;
        }
        wait.begin();
        let _waiting = Waiting::new(&self.waiting);
        make_room();
        let place = self.places.clone().acquire_owned().await.expect("it is never closed");
        wait.end();
        place
    }
}

/// A connection's places; given back once it is closed.
#[derive(Default)]
pub(crate) struct Places([Option<OwnedSemaphorePermit>; 3]);

/// Whether an exchange waits for room, and how long it did.
#[derive(Default)]
pub(crate) struct Wait(Mutex<Waits>);

#[derive(Default)]
struct Waits {
    /// Since when it waits.
    since: Option<Instant>,
    /// How long it did before.
    before: Duration,
}

impl Wait {
    fn begin(&self) {
        self.0.lock().since.get_or_insert_with(Instant::now);
    }

    pub(crate) fn end(&self) {
        let mut waits = self.0.lock();
        if let Some(since) = waits.since.take() {
            waits.before += since.elapsed();
        }
    }

    pub(crate) fn goes_on(&self) -> bool {
        self.0.lock().since.is_some()
    }

    /// How long it waited until now.
    pub(crate) fn total(&self) -> Duration {
        let waits = self.0.lock();
        waits.before + waits.since.map(|since| since.elapsed()).unwrap_or_default()
    }
}

/// Counts an exchange while it waits.
struct Waiting<'a>(&'a AtomicUsize);

impl Waiting<'_> {
    fn new(waiting: &AtomicUsize) -> Waiting<'_> {
        waiting.fetch_add(1, Ordering::SeqCst);
        Waiting(waiting)
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::SeqCst);
    }
}
