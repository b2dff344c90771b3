//! What keeps attempts and notices: vectors.

use std::collections::BTreeMap;
use std::ops::RangeInclusive;
use std::sync::Mutex;
use std::sync::atomic::{AtomicI64, AtomicUsize, Ordering};

use systole_dispatch::Place;
use systole_dispatch::attempt::{Attempt, DeliveryLog, DeliveryLogFault, Outcomes};
use systole_dispatch::notice::{Notice, Notices};

/// Every attempt, in order.
#[derive(Debug, Default)]
pub(crate) struct Diary {
    attempts: Mutex<Vec<Attempt>>,
    /// How many of them are durable.
    settled: AtomicUsize,
    /// Frames that it was asked about, each time.
    asked: Mutex<Vec<RangeInclusive<u64>>>,
    /// Outcomes of one answer, fewer than whoever asks allows.
    most: Mutex<Option<usize>>,
}

impl Diary {
    /// Answers with so many outcomes at most from now on.
    pub(crate) fn answer_at_most(&self, outcomes: usize) {
        *self.most.lock().unwrap() = Some(outcomes);
    }

    /// Frames that it was asked about, each time.
    pub(crate) fn asked(&self) -> Vec<RangeInclusive<u64>> {
        self.asked.lock().unwrap().clone()
    }

    /// How many attempts somebody has waited for.
    pub(crate) fn settled(&self) -> usize {
        self.settled.load(Ordering::SeqCst)
    }

    pub(crate) fn attempts(&self) -> Vec<Attempt> {
        self.attempts.lock().unwrap().clone()
    }
}

impl DeliveryLog for Diary {
    fn record(&self, attempts: &mut dyn Iterator<Item = Attempt>) {
        self.attempts.lock().unwrap().extend(attempts);
    }

    fn settle(&self) -> bool {
        self.settled.store(self.attempts.lock().unwrap().len(), Ordering::SeqCst);
        true
    }

    fn outcomes(
        &self,
        org: &str,
        endpoint: &str,
        sequences: RangeInclusive<u64>,
        most: usize,
    ) -> Result<Outcomes, DeliveryLogFault> {
        self.asked.lock().unwrap().push(sequences.clone());
        let most = self.most.lock().unwrap().unwrap_or(most);
        let mut outcomes: BTreeMap<Place, bool> = BTreeMap::new();
        for attempt in self.attempts.lock().unwrap().iter() {
            let place = attempt.place.filter(|place| sequences.contains(&place.sequence));
            if let Some(place) = place.filter(|_| &*attempt.org == org && &*attempt.endpoint == endpoint) {
                *outcomes.entry(place).or_default() |= attempt.success;
            }
        }
        let sequence_of = |index| outcomes.keys().nth(index).map(|place| place.sequence);
        let through = match (sequence_of(0), sequence_of(most)) {
            (Some(first), Some(over)) => first.max(over - 1),
            _ => *sequences.end(),
        };
        let told = outcomes.into_iter().filter(|(place, _)| place.sequence <= through);
        Ok(Outcomes { by_place: told.collect(), through })
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
