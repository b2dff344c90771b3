//! What a user's series must hold after so many hours: the fleet's own functions
//! asked again, for a few users.

use std::collections::BTreeMap;

use super::ReferenceFleet;
use crate::tally::SeriesTally;

/// One metric of one user, over all devices.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Held {
    /// Count and exact sum.
    pub tally: SeriesTally,
    /// The newest moment, in Unix seconds, and the values that samples of this
    /// moment have, in tenths (two devices may share it).
    pub newest: (u64, Vec<i64>),
    /// The oldest moment, in Unix seconds.
    pub oldest: u64,
}

type SampleKey = (&'static str, &'static str, u64);

impl ReferenceFleet {
    /// What `user` holds by metric once everything up to the end of `hours` hours
    /// from the start has arrived.
    pub fn held(&self, user: u64, hours: u64) -> BTreeMap<&'static str, Held> {
        let mut metrics: BTreeMap<&'static str, BTreeMap<SampleKey, i64>> = BTreeMap::new();
        let mut deliveries = Vec::new();
        for hour in self.start_hour..self.start_hour + hours {
            if user >= self.users_at(hour) {
                continue;
            }
            deliveries.clear();
            self.deliveries_of(user, hour, 0, &mut deliveries);
            for sample in deliveries.iter().flat_map(|delivery| self.samples(delivery)) {
                let key = (sample.device.source, sample.device.model, sample.second);
                metrics.entry(sample.metric.key).or_default().insert(key, sample.tenths);
            }
        }
        metrics.into_iter().map(|(metric, samples)| (metric, held(&samples))).collect()
    }
}

fn held(samples: &BTreeMap<SampleKey, i64>) -> Held {
    let mut tally = SeriesTally::default();
    samples.values().for_each(|tenths| tally.add_tenths(*tenths));
    let seconds = || samples.keys().map(|(.., second)| *second);
    let newest = seconds().max().expect("a metric is entered with a sample");
    let of_newest = samples.iter().filter(|((.., second), _)| *second == newest);
    Held {
        tally,
        newest: (newest, of_newest.map(|(_, tenths)| *tenths).collect()),
        oldest: seconds().min().expect("a metric is entered with a sample"),
    }
}
