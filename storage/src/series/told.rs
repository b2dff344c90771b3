//! What the checkpoints say, for who compares it with the samples.
//!
//! Constraints: 24 bytes a series and 32 a newest value beside the tables' slack, at
//! most for [`SERIES_MAX`] series; beyond that only a part of the users is compared,
//! chosen by their hash. Names are not kept, only hashes of them.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use hashbrown::HashMap;
use xxhash_rust::xxh3::xxh3_64;

use super::file::Layer;
use super::layers::Merge;
use super::record::{VAGUE, View};
use super::{Newest, SeriesError, SeriesName, user_hash};
use crate::catalog::CheckpointRecord;
use crate::disk::Disk;
use crate::frame::Sequence;
use crate::hidden::Hidden;

/// Series that are compared at once: about 700 MB.
const SERIES_MAX: u64 = 10_000_000;

/// What all checkpoints together say of the series.
#[derive(Debug, Default)]
pub(crate) struct Told {
    /// Every update through this is in them.
    pub(crate) position: Sequence,
    spans: HashMap<u64, (i64, i64)>,
    newest: HashMap<u64, ToldNewest>,
    /// One user of so many is compared.
    every: u64,
}

/// A newest value, and whether its sample was met.
#[derive(Debug)]
pub(crate) struct ToldNewest {
    recorded_at: i64,
    sequence: Sequence,
    met: AtomicBool,
}

/// Opens a checkpoint and reads all of it; what is wrong with it, if something is.
pub(crate) fn verify(
    disk: &dyn Disk,
    data_dir: &Path,
    record: &CheckpointRecord,
) -> Result<Option<String>, SeriesError> {
    Layer::open(disk, data_dir, record.clone())?.verify()
}

impl Told {
    /// What sound checkpoints say, oldest first. Of users whom orders to erase are about
    /// that wait to be carried out newest values are not compared, nor are those that orders
    /// about all users cover, nor those whose samples age may have taken.
    pub(crate) fn load(
        disk: &dyn Disk,
        data_dir: &Path,
        records: &[CheckpointRecord],
        position: Sequence,
        hidden: &Hidden,
    ) -> Result<Told, SeriesError> {
        let layers = records.iter().map(|record| Layer::open(disk, data_dir, record.clone()).map(Arc::new));
        let layers: Vec<Arc<Layer>> = layers.collect::<Result<_, _>>()?;
        let series: u64 = records.iter().map(|record| record.series).sum();
        let mut told = Told { position, every: series / SERIES_MAX + 1, ..Told::default() };
        let mut merge = Merge::new(&layers, Vec::new(), 0, u64::MAX)?;
        while let Some(record) = merge.next()? {
            if record.view().hash().is_multiple_of(told.every) {
                told.take(record.view(), hidden);
            }
        }
        Ok(told)
    }

    fn take(&mut self, view: View<'_>, hidden: &Hidden) {
        let text = |bytes| std::str::from_utf8(bytes).unwrap_or_default();
        let (org, user) = (text(view.org()), text(view.user()));
        for (key, earliest, latest) in view.spans() {
            let (metric, source, device) = key.parts();
            // A vague record may have forgotten too much, and knows it.
            let span = if view.has(VAGUE) { (i64::MIN, i64::MAX) } else { (earliest, latest) };
            let name = SeriesName {
                org,
                user,
                metric: text(metric),
                source: text(source),
                device: device.map(text),
            };
            self.spans.insert(series_hash(&name), span);
        }
        if hidden.waits_for(org, user) || hidden.hides_user(org, user, LAST) {
            return;
        }
        for (metric, newest) in view.newest() {
            let metric = text(metric);
            if !hidden.may_be_dropped(org, metric, newest.recorded_at)
                && !is_erased(hidden, org, user, metric, newest)
            {
                let Newest { recorded_at, sequence, .. } = newest;
                let newest = ToldNewest { recorded_at, sequence, met: AtomicBool::new(false) };
                self.newest.insert(metric_hash(org, user, metric), newest);
            }
        }
    }

    /// Whether a user is one of those that are compared.
    pub(crate) fn compares(&self, org: &str, user: &str) -> bool {
        user_hash(org, user).is_multiple_of(self.every)
    }

    /// The span of a series, or of all those of its metric that are not told apart.
    pub(crate) fn span(&self, name: &SeriesName<'_>) -> Option<(i64, i64)> {
        let rest = || series_hash(&SeriesName { source: "", device: None, ..*name });
        let own = self.spans.get(&series_hash(name));
        own.or_else(|| self.spans.get(&rest())).copied()
    }

    /// The newest value of a user's metric, if it is compared.
    pub(crate) fn newest(&self, org: &str, user: &str, metric: &str) -> Option<&ToldNewest> {
        self.newest.get(&metric_hash(org, user, metric))
    }

    /// How many newest values have no sample.
    pub(crate) fn unmet(&self) -> usize {
        self.newest.values().filter(|newest| !newest.met.load(Ordering::Relaxed)).count()
    }
}

impl ToldNewest {
    /// A sample is there; it may be the one, or what corrected it.
    pub(crate) fn meet(&self, recorded_at: i64, sequence: Sequence) {
        if recorded_at == self.recorded_at && sequence >= self.sequence {
            self.met.store(true, Ordering::Relaxed);
        }
    }

    /// Whether a sample should be in its place.
    pub(crate) fn is_older_than(&self, recorded_at: i64, sequence: Sequence) -> bool {
        (self.recorded_at, self.sequence) < (recorded_at, sequence)
    }
}

/// Whether a newest value waits for what is left to be looked for.
fn is_erased(hidden: &Hidden, org: &str, user: &str, metric: &str, newest: Newest) -> bool {
    hidden.of(org, metric, user).is_some_and(|hiding| hiding.erases(newest.recorded_at, newest.sequence))
}

const LAST: Sequence = Sequence(u64::MAX);

fn series_hash(name: &SeriesName<'_>) -> u64 {
    let device = name.device.map_or(0, |device| !xxh3_64(device.as_bytes()));
    metric_hash(name.org, name.user, name.metric)
        ^ xxh3_64(name.source.as_bytes()).rotate_left(21)
        ^ device.rotate_left(42)
}

fn metric_hash(org: &str, user: &str, metric: &str) -> u64 {
    user_hash(org, user).wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ xxh3_64(metric.as_bytes())
}
