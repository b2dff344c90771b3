//! What became of each batch, one byte a batch, so that everything that was sent
//! can be added up exactly at the end.
//!
//! Only batches that the server acknowledged, or may have stored, are written
//! down; one that it refused is as if it had never been sent.

use parking_lot::Mutex;

use crate::fleet::Fleet;
use crate::tally::{SeriesName, Tallies};

/// The fates of a run's batches.
#[derive(Debug, Default)]
pub struct Ledger {
    /// By batch number.
    fates: Mutex<Vec<Fate>>,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
enum Fate {
    /// Not sent, not decided yet, or refused.
    #[default]
    Nothing,
    Acknowledged,
    /// Sent, and the server's decision is not known.
    InDoubt,
}

impl Ledger {
    /// An empty one.
    pub fn new() -> Self {
        Self::default()
    }

    /// What was acknowledged, added up by series.
    pub fn acknowledged(&self, fleet: &Fleet) -> Tallies {
        self.add_up(fleet, Fate::Acknowledged)
    }

    /// What may have been stored or not, added up by series; each batch of it was
    /// stored as a whole or not at all.
    pub fn in_doubt(&self, fleet: &Fleet) -> Tallies {
        self.add_up(fleet, Fate::InDoubt)
    }

    pub(super) fn acknowledge(&self, batch: u64) {
        self.write(batch, Fate::Acknowledged);
    }

    pub(super) fn doubt(&self, batch: u64) {
        self.write(batch, Fate::InDoubt);
    }

    fn write(&self, batch: u64, fate: Fate) {
        let (mut fates, place) = (self.fates.lock(), batch as usize);
        if fates.len() <= place {
            fates.resize(place + 1, Fate::Nothing);
        }
        fates[place] = fate;
    }

    fn add_up(&self, fleet: &Fleet, fate: Fate) -> Tallies {
        let mut tallies = Tallies::new();
        for (number, _) in self.fates.lock().iter().enumerate().filter(|(_, f)| **f == fate) {
            let user_id = fleet.user_id_of_batch(number as u64);
            for (metric, tally) in fleet.tallies_of_batch(number as u64) {
                let name = SeriesName { user_id: user_id.clone(), metric: metric.to_owned() };
                tallies.entry(name).or_default().merge(&tally);
            }
        }
        tallies
    }
}

#[cfg(test)]
mod tests {
    use std::time::SystemTime;

    use super::*;
    use crate::fleet::{FleetSettings, Mix};

    #[test]
    fn acknowledged_batches_add_up_apart_from_those_in_doubt() {
        let settings = FleetSettings {
            users: 2,
            points: 32,
            mix: Mix::Fleet,
            ..FleetSettings::new("test", SystemTime::now())
        };
        let fleet = Fleet::prepare(&settings).expect("good settings");
        let ledger = Ledger::new();
        for batch in [0, 1, 2, 5] {
            ledger.acknowledge(batch);
        }
        ledger.doubt(3);
        ledger.doubt(5);
        ledger.acknowledge(5);
        let count = |tallies: &Tallies, user: usize| -> u64 {
            let user_id = fleet.user_id_of_batch(user as u64);
            tallies.iter().filter(|(name, _)| name.user_id == user_id).map(|(_, t)| t.count).sum()
        };
        let (sent, doubted) = (ledger.acknowledged(&fleet), ledger.in_doubt(&fleet));
        assert_eq!([count(&sent, 0), count(&sent, 1)], [64, 64]);
        assert_eq!([count(&doubted, 0), count(&doubted, 1)], [0, 32]);
        assert_eq!(sent.len(), 16);
    }
}
