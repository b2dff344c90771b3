//! A buffer into Parquet: groups sorted, rows encoded, files synced, catalog
//! committed.
//!
//! It runs on the store alone, without committer and journal, so that only the
//! flush is in the figure. The good shape is a fleet whose users send full
//! bodies; the others have runs of a few rows, rows that are sent twice, or rows
//! spread over months.

use std::fmt;
use std::sync::Arc;

use systole_engine::{Batch, Registry, Sequence};
use systole_storage::buffer::Buffer;
use systole_storage::frame::{Mark, SamplesFrame, Stamp};
use systole_storage::query::QueryPool;
use systole_storage::series::SeriesName;
use systole_storage::{FlushReport, Opened, Store, StoreSettings};
use tempfile::TempDir;

use crate::Size;
use crate::checksum::Checksum;
use crate::commit::runtime;
use crate::fleet::{Fleet, HEART_RATE, HRV, NOW_MS, POINTS, Request, SPO2, STEPS, draft, user_id};
use crate::query::{everything, read};

/// Frames published at once, as a committer's group would be.
const GROUP_FRAMES: usize = 64;
/// Memory for the queries behind the checksum.
const QUERY_BYTES: usize = 256 * 1024 * 1024;

/// What a buffer holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shape {
    /// 500 points of one metric a request.
    OneMetric,
    /// 500 points of four metrics a request.
    FourMetrics,
    /// 10 points a request: what a phone sends that syncs every minute.
    ShortRequests,
    /// Every request twice, hours apart: half of the rows are dropped.
    SentTwice,
    /// A point an hour: every request spans weeks.
    Hourly,
}

impl Shape {
    /// All of them, the good one first.
    pub const ALL: [Shape; 5] =
        [Shape::OneMetric, Shape::FourMetrics, Shape::ShortRequests, Shape::SentTwice, Shape::Hourly];

    /// Its name in reports.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Shape::OneMetric => "one_metric",
            Shape::FourMetrics => "four_metrics",
            Shape::ShortRequests => "short_requests",
            Shape::SentTwice => "sent_twice",
            Shape::Hourly => "hourly",
        }
    }

    fn fleet(self, size: Size) -> Fleet {
        let one = Fleet {
            users: size.of(10, 400),
            windows: size.of(4, 10),
            points: POINTS,
            signals: &[HEART_RATE],
            step_s: 5,
        };
        match self {
            Shape::OneMetric => one,
            Shape::FourMetrics => Fleet { signals: &[HEART_RATE, HRV, SPO2, STEPS], ..one },
            Shape::ShortRequests => Fleet { points: 10, windows: size.of(20, 100), ..one },
            Shape::SentTwice => Fleet { windows: one.windows / 2, ..one },
            Shape::Hourly => Fleet { step_s: 3600, ..one },
        }
    }
}

/// A store whose buffer is full.
pub struct Buffered {
    shape: Shape,
    fleet: Fleet,
    store: Arc<Store>,
    buffer: Arc<Buffer>,
    samples: u64,
    report: Option<FlushReport>,
    /// Removed at the end.
    _dir: TempDir,
}

/// Fills the buffer of an empty store.
///
/// # Panics
/// If the temporary folder cannot be used.
#[must_use]
pub fn buffered(shape: Shape, size: Size) -> Buffered {
    let dir = tempfile::tempdir().expect("a temporary folder can be made");
    let settings = StoreSettings {
        data_dir: dir.path().to_owned(),
        segment_bytes: 1024 * 1024,
        flush_bytes: usize::MAX,
        series_bytes: 1 << 30,
    };
    let Opened { store, .. } = Store::open(&settings).expect("an empty folder opens");
    let fleet = shape.fleet(size);
    let times_sent = if shape == Shape::SentTwice { 2 } else { 1 };
    let requests = (0..times_sent).flat_map(|_| fleet.requests());
    publish(&store, requests);
    let buffer = store.freeze().expect("the buffer is not empty");
    Buffered { shape, fleet, store, samples: buffer.sample_count(), buffer, report: None, _dir: dir }
}

/// Makes requests visible, as the committer does with durable ones.
fn publish(store: &Store, requests: impl Iterator<Item = Request>) {
    let (registry, mut batch) = (Registry::builtin(), Batch::new());
    let mut sequence = Sequence::ZERO;
    let mut frames = Vec::with_capacity(GROUP_FRAMES);
    for request in requests {
        let mut draft = draft(&mut batch, &registry, &request);
        draft.mark_groups(|org, group| widen(store, org, &group)).expect("drafts come from the encoder");
        sequence = sequence.next();
        let committed_at = NOW_MS * 1000 + sequence.0 as i64;
        let stamp =
            Stamp { sequence, synced: Sequence::ZERO, ordering: committed_at.unsigned_abs(), committed_at };
        frames.push(SamplesFrame::parse(draft.seal(stamp).into()).expect("a sealed draft is a frame"));
        if frames.len() == GROUP_FRAMES {
            store.publish(&frames);
            frames.clear();
        }
    }
    store.publish(&frames);
}

fn widen(store: &Store, org: &str, group: &systole_storage::frame::Group<'_>) -> Mark {
    let (user, metric, source, device) = (group.user, group.metric, group.source, group.device);
    store.series().widen(&SeriesName { org, user, metric, source, device }, group.earliest, group.latest)
}

impl Buffered {
    /// Samples in the buffer.
    #[must_use]
    pub fn samples(&self) -> u64 {
        self.samples
    }

    /// Brings the buffer into files. This is what is timed.
    ///
    /// # Panics
    /// If the disk refuses.
    pub fn flush(&mut self) {
        self.report =
            Some(self.store.flush(&self.buffer, Sequence(u64::MAX)).expect("the disk takes the files"));
    }

    /// What every user's questions answer now, over all metrics of the fleet.
    ///
    /// # Panics
    /// If a query fails.
    #[must_use]
    pub fn answers(&self) -> u64 {
        let pool = QueryPool::start(self.store.clone(), 1, 1, QUERY_BYTES).expect("a query thread starts");
        let mut checksum = Checksum::default();
        runtime().block_on(async {
            for user in 0..self.fleet.users {
                for signal in self.fleet.signals {
                    let query = everything(&user_id(user), signal.metric);
                    let stream = pool.samples(query).await.expect("the query pool is free");
                    checksum.add(read(stream).await.checksum);
                }
            }
        });
        checksum.finish()
    }

    /// What the flush made.
    ///
    /// # Panics
    /// If there was none.
    #[must_use]
    pub fn outcome(&self) -> Flushed {
        let report = self.report.expect("the buffer was flushed");
        let bytes = self.store.snapshot().files.iter().map(|file| file.record.bytes).sum();
        Flushed {
            shape: self.shape,
            samples: self.samples,
            rows: report.rows,
            files: report.files,
            bytes,
            checksum: self.answers(),
        }
    }
}

/// What a flush made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Flushed {
    /// Of what.
    pub shape: Shape,
    /// Samples in the buffer.
    pub samples: u64,
    /// Rows in the files.
    pub rows: u64,
    /// Files written.
    pub files: u64,
    /// Bytes of the files.
    pub bytes: u64,
    /// Over every row, as queries see it.
    pub checksum: u64,
}

impl fmt::Display for Flushed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Flushed { shape, samples, rows, files, bytes, checksum } = self;
        let each = *bytes as f64 / *rows as f64;
        let name = shape.name();
        write!(
            f,
            "flush/{name}: {samples} samples, {rows} rows in {files} files, {each:.2} bytes a row, \
             checksum {checksum:#018x}"
        )
    }
}
