//! What keeps attempts and notices: vectors.

use std::ops::RangeInclusive;
use std::sync::Mutex;
use std::sync::atomic::{AtomicI64, Ordering};

use hashbrown::HashMap;
use systole_dispatch::Place;
use systole_dispatch::attempt::{Attempt, DeliveryLog, DeliveryLogFault};
use systole_dispatch::notice::{Notice, Notices};

/// Every attempt, in order.
#[derive(Debug, Default)]
pub(crate) struct Diary {
    attempts: Mutex<Vec<Attempt>>,
    /// Frames that it was asked about, each time.
    asked: Mutex<Vec<RangeInclusive<u64>>>,
}

impl Diary {
    /// Frames that it was asked about, each time.
    pub(crate) fn asked(&self) -> Vec<RangeInclusive<u64>> {
        self.asked.lock().unwrap().clone()
    }

    pub(crate) fn attempts(&self) -> Vec<Attempt> {
        self.attempts.lock().unwrap().clone()
    }
}

impl DeliveryLog for Diary {
    fn record(&self, attempt: Attempt) {
        self.attempts.lock().unwrap().push(attempt);
    }

    fn outcomes(
        &self,
        org: &str,
        endpoint: &str,
        sequences: RangeInclusive<u64>,
    ) -> Result<HashMap<Place, bool>, DeliveryLogFault> {
        self.asked.lock().unwrap().push(sequences.clone());
        let mut outcomes = HashMap::new();
        for attempt in self.attempts.lock().unwrap().iter() {
            let place = attempt.place.filter(|place| sequences.contains(&place.sequence));
            if let Some(place) = place.filter(|_| &*attempt.org == org && &*attempt.endpoint == endpoint) {
                *outcomes.entry(place).or_default() |= attempt.success;
            }
        }
        Ok(outcomes)
    }
}

/// Every notice, in order.
#[derive(Debug, Default)]
pub(crate) struct Board {
    notices: Mutex<Vec<Notice>>,
    /// How many of the next notices find no room.
    refusals: AtomicI64,
}

impl Board {
    pub(crate) fn notices(&self) -> Vec<Notice> {
        self.notices.lock().unwrap().clone()
    }

    /// This many of the next notices find no room.
    pub(crate) fn refuse(&self, notices: i64) {
        self.refusals.store(notices, Ordering::Relaxed);
    }
}

impl Notices for Board {
    fn publish(&self, notice: Notice) -> bool {
        let has_room = self.refusals.fetch_sub(1, Ordering::Relaxed) <= 0;
        if has_room {
            self.notices.lock().unwrap().push(notice);
        }
        has_room
    }
}
