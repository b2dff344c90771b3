//! Frames and stores for the tests.

use std::path::Path;

use std::sync::Arc;
use systole_storage::frame::{Columns, GroupSpec, SamplesFrame, Stamp, encode_samples};
use systole_storage::journal::JournalWriter;
use systole_storage::series::SeriesName;
use systole_storage::{Draft, Opened, Sequence, Store, StoreError, StoreSettings};

/// Samples of one series, as a request would bring them.
#[derive(Clone, Debug)]
pub struct Samples {
    pub org: &'static str,
    pub user: String,
    pub metric: &'static str,
    pub source: &'static str,
    pub device: Option<&'static str>,
    /// (milliseconds, value), strictly rising in time.
    pub rows: Vec<(i64, f64)>,
}

/// `count` samples of a user's heart rate, a second apart from `start`.
pub fn heart_rate(user: &str, start: i64, count: usize) -> Samples {
    Samples {
        org: "default",
        user: user.to_owned(),
        metric: "heart_rate",
        source: "garmin",
        device: None,
        rows: (0..count).map(|at| (start + 1000 * at as i64, 60.0 + (at % 40) as f64)).collect(),
    }
}

impl Samples {
    pub fn draft(&self) -> Draft {
        let (times, values): (Vec<i64>, Vec<f64>) = self.rows.iter().copied().unzip();
        let group = GroupSpec {
            user: &self.user,
            metric: self.metric,
            unit: "bpm",
            source: self.source,
            device: self.device,
            first: 0,
            count: u32::try_from(times.len()).unwrap(),
        };
        let columns =
            Columns { recorded_at: &times, value: &values, zone: None, ended_at: None, daily: None };
        encode_samples(self.org, false, &[group], columns)
    }
}

/// A sealed frame of `bytes` bytes or a little more.
pub fn frame(sequence: u64, synced: u64, samples: usize) -> Vec<u8> {
    let stamp = Stamp {
        sequence: Sequence(sequence),
        synced: Sequence(synced),
        ordering: 1_000_000 + sequence,
        committed_at: 1_782_805_500_000_000,
    };
    heart_rate("u_1", sequence as i64 * 1_000_000, samples).draft().seal(stamp)
}

/// A store with the committer's part played by the test.
pub struct TestStore {
    pub store: Arc<Store>,
    writer: JournalWriter,
    last: Sequence,
}

impl TestStore {
    pub fn open(data_dir: &Path) -> TestStore {
        TestStore::try_open(data_dir).unwrap()
    }

    pub fn try_open(data_dir: &Path) -> Result<TestStore, StoreError> {
        TestStore::open_with(data_dir, 64 * 1024 * 1024)
    }

    pub fn open_with(data_dir: &Path, flush_bytes: usize) -> Result<TestStore, StoreError> {
        let settings = StoreSettings { data_dir: data_dir.to_owned(), segment_bytes: 64 * 1024, flush_bytes };
        let Opened { store, writer, last, .. } = Store::open(&settings)?;
        Ok(TestStore { store, writer, last })
    }

    /// Commits one request's samples.
    pub fn commit(&mut self, samples: &Samples) -> Sequence {
        let synced = self.last;
        self.last = self.last.next();
        let stamp =
            Stamp { sequence: self.last, synced, ordering: self.last.0, committed_at: 1_782_805_500_000_000 };
        let mut draft = samples.draft();
        let series = self.store.series();
        draft
            .mark_groups(|org, group| {
                series.widen(&SeriesName::of(org, &group), group.earliest, group.latest)
            })
            .unwrap();
        let bytes = draft.seal(stamp);
        self.writer.append(&[&bytes]).unwrap();
        self.store.publish(&[SamplesFrame::parse(bytes.into()).unwrap()]);
        self.last
    }

    /// Brings everything committed into files.
    pub fn flush(&mut self) {
        if let Some(frozen) = self.store.freeze() {
            self.store.flush(&frozen, Sequence(u64::MAX)).unwrap();
        }
        let flushed = self.store.catalog().flushed().unwrap();
        self.writer.remove_through(flushed.sequence).unwrap();
    }
}
