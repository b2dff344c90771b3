//! Answers out of buffer and files: one user among many.
//!
//! Nothing is cold: the files were just written and lie in the page cache, and
//! after the first question their footers are kept. Every question asks another
//! user.

use std::fmt;

use systole_engine::{Batch, Engine, Order, SampleStream, SeriesQuery};
use tempfile::TempDir;
use tokio::runtime::Runtime;

use crate::Size;
use crate::checksum::{Checksum, spread};
use crate::commit::{open, runtime, submit};
use crate::fleet::{Fleet, HEART_RATE, HRV, ORG, POINTS, SPO2, STEPS, draft, user_id};

const DAY_MS: i64 = 86_400_000;
/// Batches in flight while the engine is filled.
const IN_FLIGHT: usize = 64;
/// Flushes in [`Place::EightFiles`] and [`Place::FilesAndBuffer`], which leaves
/// the last eighth in the buffer.
const PARTS: usize = 8;

/// Where the samples lie.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// None is flushed.
    Buffer,
    /// All are flushed at once: a file a metric.
    OneFile,
    /// Flushed eight times, as time went on: a file a metric and flush.
    EightFiles,
    /// The same without the last flush: what a running server has.
    FilesAndBuffer,
}

impl Place {
    /// All of them.
    pub const ALL: [Place; 4] = [Place::Buffer, Place::OneFile, Place::EightFiles, Place::FilesAndBuffer];

    /// Its name in reports.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Place::Buffer => "buffer",
            Place::OneFile => "one_file",
            Place::EightFiles => "eight_files",
            Place::FilesAndBuffer => "files_and_buffer",
        }
    }
}

/// What is asked about a user.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Question {
    /// The first page of `/metric`: the newest 500 heart rates.
    Newest500,
    /// Seven days of heart rates, oldest first.
    SevenDays,
    /// `/latest`: the newest value of each metric.
    Latest,
}

impl Question {
    /// All of them.
    pub const ALL: [Question; 3] = [Question::Newest500, Question::SevenDays, Question::Latest];

    /// Its name in reports.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Question::Newest500 => "newest_500",
            Question::SevenDays => "seven_days",
            Question::Latest => "latest",
        }
    }
}

/// An answer, folded.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Answer {
    /// Rows it had.
    pub rows: u64,
    /// Over times and values.
    pub checksum: u64,
}

/// An engine that holds a fleet.
#[derive(Debug)]
pub struct Filled {
    place: Place,
    fleet: Fleet,
    engine: Engine,
    runtime: Runtime,
    /// Removed when the engine is drained.
    _dir: TempDir,
}

/// Fills an engine with eight days of heart rates, and a few of other metrics.
///
/// # Panics
/// If a batch is refused or a flush fails.
#[must_use]
pub fn filled(place: Place, size: Size) -> Filled {
    // A point every half minute makes a week of 20,160, in the small size 1,680.
    let fleet = Fleet {
        users: size.of(10, 200),
        windows: size.of(4, 48),
        points: POINTS,
        signals: &[HEART_RATE],
        step_s: if size == Size::Small { 360 } else { 30 },
    };
    let (engine, dir) = open();
    let filled = Filled { place, fleet, engine, runtime: runtime(), _dir: dir };
    filled.runtime.block_on(filled.fill());
    filled
}

impl Filled {
    async fn fill(&self) {
        let others = Fleet { windows: 1, signals: &[HRV, SPO2, STEPS], ..self.fleet };
        self.submit(others, 0..1).await;
        for part in 0..PARTS {
            let windows = self.fleet.windows * part / PARTS..self.fleet.windows * (part + 1) / PARTS;
            self.submit(self.fleet, windows).await;
            let last = part + 1 == PARTS;
            let flush = match self.place {
                Place::Buffer => false,
                Place::OneFile => last,
                Place::EightFiles => true,
                Place::FilesAndBuffer => !last,
            };
            if flush {
                self.engine.flush().await.expect("the disk takes the files");
            }
        }
    }

    async fn submit(&self, fleet: Fleet, windows: std::ops::Range<usize>) {
        let mut batch = Batch::new();
        let drafts =
            fleet.requests_of(windows).map(|request| draft(&mut batch, &self.engine.registry(ORG), &request));
        submit(&self.engine, drafts, IN_FLIGHT).await;
    }

    /// The users a bench asks about, in an order without pattern.
    pub fn users(&self) -> impl Iterator<Item = usize> {
        let users = self.fleet.users as u64;
        (0..).map(move |turn| (spread(turn) % users) as usize)
    }

    /// Asks about a user and reads the whole answer. This is what is timed.
    ///
    /// # Panics
    /// If the query fails.
    #[must_use]
    pub fn ask(&self, question: Question, user: usize) -> Answer {
        self.runtime.block_on(async {
            let end = self.fleet.end_ms();
            let week = everything(&user_id(user), HEART_RATE.metric);
            let week = SeriesQuery { start: end - 7 * DAY_MS, end, ..week };
            let query = match question {
                Question::Latest => return self.latest(user).await,
                Question::SevenDays => week,
                Question::Newest500 => SeriesQuery { order: Order::Descending, limit: Some(500), ..week },
            };
            read(self.engine.samples(query).await.expect("the query pool is free")).await
        })
    }

    async fn latest(&self, user: usize) -> Answer {
        let values = self.engine.latest(ORG, &user_id(user)).await.expect("the series map answers");
        let mut checksum = Checksum::default();
        for value in &values {
            checksum.add(value.recorded_at.cast_unsigned());
            checksum.add(value.value.to_bits());
        }
        Answer { rows: values.len() as u64, checksum: checksum.finish() }
    }

    /// Every user's answer to every question, and what the engine holds.
    #[must_use]
    pub fn outcome(&self) -> Answers {
        let stats = self.engine.stats();
        let mut checksum = Checksum::default();
        for question in Question::ALL {
            for user in 0..self.fleet.users {
                let answer = self.ask(question, user);
                checksum.add(answer.rows);
                checksum.add(answer.checksum);
            }
        }
        Answers {
            place: self.place,
            users: self.fleet.users,
            samples: stats.samples_accepted,
            buffered: stats.buffer_samples,
            files: stats.files,
            checksum: checksum.finish(),
        }
    }
}

impl Drop for Filled {
    fn drop(&mut self) {
        self.runtime.block_on(self.engine.drain());
    }
}

/// All of a user's samples of a metric, oldest first.
pub(crate) fn everything(user: &str, metric: &str) -> SeriesQuery {
    SeriesQuery {
        org: ORG.to_owned(),
        user: user.to_owned(),
        metric: metric.to_owned(),
        source: None,
        start: i64::MIN,
        end: i64::MAX,
        order: Order::Ascending,
        limit: None,
        after: None,
    }
}

/// Reads an answer to its end.
pub(crate) async fn read(mut stream: SampleStream) -> Answer {
    let (mut rows, mut checksum) = (0, Checksum::default());
    while let Some(chunk) = stream.next().await {
        let chunk = chunk.expect("the query succeeds");
        for row in (0..chunk.len()).map(|index| chunk.row(index)) {
            checksum.add(row.recorded_at.cast_unsigned() ^ row.value.to_bits());
        }
        rows += chunk.len() as u64;
    }
    Answer { rows, checksum: checksum.finish() }
}

/// What a filled engine answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Answers {
    /// Where the samples lie.
    pub place: Place,
    /// How many were asked about.
    pub users: usize,
    /// Samples in the engine.
    pub samples: u64,
    /// Of these in the buffer.
    pub buffered: u64,
    /// Data files.
    pub files: u64,
    /// Over all answers.
    pub checksum: u64,
}

impl fmt::Display for Answers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Answers { place, users, samples, buffered, files, checksum } = self;
        let name = place.name();
        write!(
            f,
            "query/{name}: {users} users, {samples} samples, {buffered} of them in the buffer, {files} files, \
             checksum {checksum:#018x}"
        )
    }
}
