//! Drafts into the journal: ring, committer, one sync a group, buffer,
//! acknowledgement.
//!
//! The journal lies in a temporary folder: set `TMPDIR` to measure another disk.
//! A lone sender pays a sync for every batch; with more in flight a group forms
//! while the disk works, which is what the number of groups shows.

use std::collections::VecDeque;
use std::fmt;
use std::thread;
use std::time::Duration;

use systole_engine::{Batch, Draft, Engine, EngineSettings};
use tempfile::TempDir;
use tokio::runtime::{Builder, Runtime};

use crate::Size;
use crate::checksum::Checksum;
use crate::fleet::{Fleet, HEART_RATE, ORG, POINTS, draft, user_id};

/// A 500-point body of 72 KB, which is what a submission holds of the budget.
const BODY_BYTES: usize = 72 * 1024;
/// Far more than any size fills, so that nothing is flushed unasked.
const BUFFER_BYTES: usize = 8 * 1024 * 1024 * 1024;

/// Who submits at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Load {
    /// Its name in reports.
    pub name: &'static str,
    /// Threads that submit.
    pub senders: usize,
    /// Batches that each has in flight.
    pub in_flight: usize,
}

/// One batch after the other, then what 16 and 64 connections do.
pub const LOADS: [Load; 3] = [
    Load { name: "1_in_flight", senders: 1, in_flight: 1 },
    Load { name: "16_in_flight", senders: 4, in_flight: 4 },
    Load { name: "64_in_flight", senders: 4, in_flight: 16 },
];

/// An engine on an empty folder, and the drafts for each sender.
#[derive(Debug)]
pub struct Submissions {
    load: Load,
    fleet: Fleet,
    engine: Engine,
    drafts: Vec<Vec<Draft>>,
    /// Removed when the engine is drained.
    _dir: TempDir,
}

/// Opens an engine and encodes what will be submitted.
#[must_use]
pub fn submissions(load: Load, size: Size) -> Submissions {
    let users = size.of(8, if load.in_flight == 1 { 100 } else { 800 });
    let fleet = Fleet { users, windows: 4, points: POINTS, signals: &[HEART_RATE], step_s: 5 };
    let (engine, dir) = open();
    let mut batch = Batch::new();
    let mut drafts: Vec<Vec<Draft>> = (0..load.senders).map(|_| Vec::new()).collect();
    for (place, request) in fleet.requests().enumerate() {
        drafts[place % load.senders].push(draft(&mut batch, &engine.registry("default"), &request));
    }
    Submissions { load, fleet, engine, drafts, _dir: dir }
}

impl Submissions {
    /// Samples of all drafts.
    #[must_use]
    pub fn samples(&self) -> u64 {
        self.fleet.samples()
    }

    /// Submits all and waits for all acknowledgements. This is what is timed.
    ///
    /// # Panics
    /// If a batch is refused.
    pub fn commit(&mut self) {
        let engine = &self.engine;
        let in_flight = self.load.in_flight;
        thread::scope(|scope| {
            for drafts in self.drafts.drain(..) {
                scope.spawn(move || runtime().block_on(submit(engine, drafts, in_flight)));
            }
        });
    }

    /// What was committed. Ends the engine.
    #[must_use]
    pub fn outcome(self) -> Committed {
        let stats = self.engine.stats();
        let mut checksum = Checksum::default();
        runtime().block_on(async {
            for user in 0..self.fleet.users {
                let latest = self.engine.latest(ORG, &user_id(user)).await.expect("the series map answers");
                for value in latest {
                    checksum.add(value.recorded_at.cast_unsigned());
                    checksum.add(value.value.to_bits());
                }
            }
            self.engine.drain().await;
        });
        Committed {
            load: self.load,
            samples: stats.samples_accepted,
            batches: stats.batches_committed,
            groups: stats.commit_groups,
            journal_bytes: stats.journal_bytes,
            sync_mean: Duration::from_secs_f64(stats.fsync_seconds.sum / stats.commit_groups.max(1) as f64),
            checksum: checksum.finish(),
        }
    }
}

/// Submits drafts one behind the other, so many without an answer.
pub(crate) async fn submit(engine: &Engine, drafts: impl IntoIterator<Item = Draft>, in_flight: usize) {
    let mut waiting = VecDeque::new();
    for draft in drafts {
        if waiting.len() == in_flight
            && let Some(oldest) = waiting.pop_front()
        {
            let oldest: systole_engine::Ack = oldest;
            oldest.await.expect("the batch is committed");
        }
        let permit = engine.budget().try_take(BODY_BYTES).expect("the budget holds what is in flight");
        let ack = engine.submit(draft, POINTS as u32, permit).expect("the ring holds what is in flight");
        waiting.push_back(ack);
    }
    for ack in waiting {
        ack.await.expect("the batch is committed");
    }
}

/// An engine on an empty folder that flushes only when asked.
pub(crate) fn open() -> (Engine, TempDir) {
    let dir = tempfile::tempdir().expect("a temporary folder can be made");
    let settings = EngineSettings {
        data_dir: dir.path().to_owned(),
        flush_bytes: BUFFER_BYTES,
        flush_interval: Duration::from_secs(24 * 60 * 60),
        buffer_bytes_max: BUFFER_BYTES,
        // What is measured is what was written, not what became of it since.
        compaction_share: 0.0,
        ..EngineSettings::default()
    };
    (Engine::open(settings).expect("an empty folder opens"), dir)
}

/// Runs what waits on the calling thread.
pub(crate) fn runtime() -> Runtime {
    Builder::new_current_thread().enable_time().build().expect("a runtime without threads starts")
}

/// What was committed.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Committed {
    /// Under which load.
    pub load: Load,
    /// Samples acknowledged.
    pub samples: u64,
    /// Batches acknowledged.
    pub batches: u64,
    /// Groups written, which is the number of syncs; it depends on the disk.
    pub groups: u64,
    /// Bytes appended to the journal.
    pub journal_bytes: u64,
    /// Write and sync of a group.
    pub sync_mean: Duration,
    /// Over every user's newest value.
    pub checksum: u64,
}

impl fmt::Display for Committed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Committed { load, samples, batches, groups, journal_bytes, sync_mean, checksum } = self;
        let group = *batches as f64 / *groups as f64;
        let each = *journal_bytes as f64 / *samples as f64;
        let name = load.name;
        write!(
            f,
            "commit/{name}: {samples} samples, {batches} batches in {groups} groups ({group:.1} each, \
             {sync_mean:.0?} a sync), {each:.2} journal bytes a sample, checksum {checksum:#018x}"
        )
    }
}
