//! The reads that a server is judged by, over the [`crate::dataset`]: the newest
//! values of a user, the newest 500 samples, and 30 days by the hour, always of
//! users at random.
//!
//! The first read is the cold one: it is worth its name only if the server was just
//! started and nobody asked it anything. Every answer is looked at: a status other
//! than 200, or fewer samples than there must be, is a fault.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use memchr::memmem;
use serde_json::{Value, json};
use tokio::task::JoinSet;
use tokio::time::Instant;

use crate::client::{ClientError, Server};
use crate::dataset::{DAYS, user_id};
use crate::histogram::{Histogram, Percentiles};
use crate::lean::{Lean, LeanError};
use crate::random::Random;
use crate::report::{error_excerpt, grouped, percentiles_json};

/// What is read, with what is wanted of it.
#[derive(Debug, Clone, Copy)]
pub struct Read {
    /// How it is called in reports.
    pub name: &'static str,
    /// What is asked for.
    pub question: Question,
    /// Connections, each with one request in flight.
    pub connections: usize,
    /// When it ends.
    pub length: Length,
    /// What it is judged by.
    pub wanted: &'static [Wanted],
}

/// What is asked about a user.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Question {
    /// `/latest`.
    Latest,
    /// The newest 500 samples of heart rate.
    Newest,
    /// 30 days of heart rate by the hour.
    Hours,
}

/// When a read ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Length {
    /// After the time that is given to each read.
    Time,
    /// After so many requests.
    Requests(u64),
}

/// A limit.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Wanted {
    /// Half of the requests take less than so many microseconds.
    P50Below(u64),
    /// 99 % of them.
    P99Below(u64),
    /// So many requests a second.
    RateAtLeast(u64),
}

/// The reads of issue 4, in their order.
pub const READS: [Read; 6] = [
    Read {
        name: "newest 500, cold, 1 connection",
        question: Question::Newest,
        connections: 1,
        length: Length::Requests(64),
        wanted: &[Wanted::P99Below(20_000)],
    },
    Read {
        name: "newest 500, warm, 4 connections",
        question: Question::Newest,
        connections: 4,
        length: Length::Time,
        wanted: &[Wanted::P50Below(2_000), Wanted::P99Below(10_000)],
    },
    Read {
        name: "30 days by hour, 1 connection",
        question: Question::Hours,
        connections: 1,
        length: Length::Time,
        wanted: &[Wanted::P50Below(5_000)],
    },
    Read {
        name: "30 days by hour, 4 connections",
        question: Question::Hours,
        connections: 4,
        length: Length::Time,
        wanted: &[Wanted::P50Below(5_000)],
    },
    Read {
        name: "latest, 1 connection",
        question: Question::Latest,
        connections: 1,
        length: Length::Time,
        wanted: &[Wanted::P50Below(300)],
    },
    Read {
        name: "latest, 16 connections",
        question: Question::Latest,
        connections: 16,
        length: Length::Time,
        wanted: &[Wanted::RateAtLeast(15_000), Wanted::P99Below(2_000)],
    },
];

/// Whom to ask about, and how long.
#[derive(Debug, Clone)]
pub struct QuerySettings {
    /// Users of the data set.
    pub users: u64,
    /// Heart-rate samples of each.
    pub samples: u64,
    /// The beginning of their ids.
    pub prefix: String,
    /// Seed of the users' order.
    pub seed: u64,
    /// Length of each timed read.
    pub seconds: f64,
    /// Warm-up before each timed read.
    pub warmup_seconds: f64,
}

/// The figures of one read.
#[derive(Debug, Clone)]
pub struct ReadReport {
    /// What was read.
    pub read: Read,
    /// Requests answered, all of them whole and 200.
    pub requests: u64,
    /// How long it took.
    pub elapsed: Duration,
    /// From the request's first byte to the answer's last.
    pub latency: Percentiles,
    /// Answers that were not what they must be.
    pub faults: u64,
    /// The first of them.
    pub first_fault: Option<String>,
}

/// Everything.
#[derive(Debug, Clone)]
pub struct QueryReport {
    /// In the order in which they were made.
    pub reads: Vec<ReadReport>,
}

/// Why reads did not begin or end.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum QueryError {
    /// The server went away.
    #[error("the server stopped answering")]
    Lean(#[source] LeanError),
    /// The server was not there.
    #[error("the server was not asked")]
    Client(#[source] ClientError),
    /// The data set is not there.
    #[error("user {user_id} has no heart rate: {text}")]
    NoData {
        /// Who was asked about.
        user_id: String,
        /// The beginning of the answer.
        text: String,
    },
}

/// Makes every read of `reads`; `done` is told of each.
pub async fn run(
    reads: &[Read],
    settings: &QuerySettings,
    server: &Server,
    mut done: impl FnMut(&ReadReport),
) -> Result<QueryReport, QueryError> {
    let settings = Arc::new(settings.clone());
    let mut reports = Vec::new();
    let mut window = None;
    for (place, read) in reads.iter().enumerate() {
        if read.question == Question::Hours && window.is_none() {
            window = Some(Arc::from(discover(&settings, server).await?));
        }
        let job = Job {
            read: *read,
            settings: Arc::clone(&settings),
            window: window.clone().unwrap_or_default(),
            seed: settings.seed.wrapping_add((place as u64) << 32),
        };
        if read.length == Length::Time {
            job.make(server, Duration::from_secs_f64(settings.warmup_seconds)).await?;
        }
        let report = job.make(server, Duration::from_secs_f64(settings.seconds)).await?;
        done(&report);
        reports.push(report);
    }
    Ok(QueryReport { reads: reports })
}

/// The query string of the 30 days that end with the hour of the newest sample.
async fn discover(settings: &QuerySettings, server: &Server) -> Result<String, QueryError> {
    let user_id = user_id(&settings.prefix, 0);
    let mut connection = server.connect().await.map_err(QueryError::Client)?;
    let path = format!("/api/v1/wearables/metric/heart_rate?user_id={user_id}&days=36500&limit=1");
    let answer = connection.get(&path).await.map_err(QueryError::Client)?;
    let value: Option<Value> = serde_json::from_slice(&answer.body).ok();
    let newest = value.as_ref().and_then(|value| value["data_points"][0]["recorded_at"].as_str());
    let window = newest.and_then(|time| {
        let end = (crate::fleet::calendar::parse_rfc3339(time.as_bytes())? / 3_600 + 1) * 3_600;
        let span = crate::fleet::Span { start_second: end.checked_sub(DAYS * 86_400)?, end_second: end };
        Some(span.query())
    });
    window.ok_or_else(|| QueryError::NoData { user_id, text: error_excerpt(&answer.body) })
}

#[derive(Debug, Clone)]
struct Job {
    read: Read,
    settings: Arc<QuerySettings>,
    window: Arc<str>,
    seed: u64,
}

#[derive(Debug, Default)]
struct Tally {
    latency: Histogram,
    faults: u64,
    first_fault: Option<String>,
}

impl Job {
    async fn make(&self, server: &Server, time: Duration) -> Result<ReadReport, QueryError> {
        let turns = Arc::new(AtomicU64::new(0));
        let mut connections = Vec::new();
        for _ in 0..self.read.connections {
            connections.push(Lean::connect(server).await.map_err(QueryError::Lean)?);
        }
        let begin = Instant::now();
        let mut tasks = JoinSet::new();
        for (place, connection) in connections.into_iter().enumerate() {
            let (job, turns) = (self.clone(), Arc::clone(&turns));
            tasks.spawn(async move { job.ask_on(connection, place as u64, &turns, begin + time).await });
        }
        let mut all = Tally::default();
        while let Some(ended) = tasks.join_next().await {
            let tally = ended.unwrap_or_else(|error| std::panic::resume_unwind(error.into_panic()))?;
            all.latency.merge(&tally.latency);
            all.faults += tally.faults;
            all.first_fault = all.first_fault.or(tally.first_fault);
        }
        Ok(ReadReport {
            read: self.read,
            requests: all.latency.count(),
            elapsed: begin.elapsed(),
            latency: all.latency.percentiles(),
            faults: all.faults,
            first_fault: all.first_fault,
        })
    }

    async fn ask_on(
        &self,
        mut connection: Lean,
        place: u64,
        turns: &AtomicU64,
        end: Instant,
    ) -> Result<Tally, QueryError> {
        let mut random = Random::seeded(self.seed ^ (place << 48));
        let mut tally = Tally::default();
        while self.goes_on(turns, end) {
            let path = self.path(random.below(self.settings.users));
            let since = Instant::now();
            let answer = connection.get(&path).await.map_err(QueryError::Lean)?;
            let latency = since.elapsed();
            match self.fault(answer.status, answer.body) {
                None => tally.latency.record(latency),
                Some(fault) => {
                    tally.faults += 1;
                    tally.first_fault.get_or_insert_with(|| format!("{path}: {fault}"));
                }
            }
        }
        Ok(tally)
    }

    fn goes_on(&self, turns: &AtomicU64, end: Instant) -> bool {
        match self.read.length {
            Length::Time => Instant::now() < end,
            Length::Requests(count) => turns.fetch_add(1, Ordering::Relaxed) < count,
        }
    }

    fn path(&self, user: u64) -> String {
        let user_id = user_id(&self.settings.prefix, user);
        match self.read.question {
            Question::Latest => format!("/api/v1/wearables/latest?user_id={user_id}"),
            Question::Newest => {
                format!("/api/v1/wearables/metric/heart_rate?limit=500&days=3650&user_id={user_id}")
            }
            Question::Hours => {
                format!("/api/v1/wearables/metric/heart_rate?resolution=1h&user_id={user_id}&{}", self.window)
            }
        }
    }

    /// What is wrong with an answer. Each sample in it prints its time.
    fn fault(&self, status: u16, body: &[u8]) -> Option<String> {
        if status != 200 {
            return Some(format!("{status}: {}", error_excerpt(body)));
        }
        let wanted = match self.read.question {
            Question::Latest => 1,
            Question::Newest => self.settings.samples.min(500),
            Question::Hours => self.settings.samples.min(DAYS * 24),
        };
        let found = memmem::find_iter(body, b"\"recorded_at\"").count() as u64;
        (found < wanted).then(|| format!("{found} samples instead of {wanted}"))
    }
}

impl ReadReport {
    /// Requests a second.
    pub fn rate(&self) -> f64 {
        self.requests as f64 / self.elapsed.as_secs_f64().max(1e-9)
    }

    /// Whether a limit is kept.
    pub fn keeps(&self, wanted: Wanted) -> bool {
        match wanted {
            Wanted::P50Below(micros) => self.requests > 0 && self.latency.p50 < micros,
            Wanted::P99Below(micros) => self.requests > 0 && self.latency.p99 < micros,
            Wanted::RateAtLeast(rate) => self.rate() >= rate as f64,
        }
    }

    /// One JSON object; times in microseconds.
    pub fn to_json(&self) -> Value {
        let wanted = |wanted: &Wanted| json!({ "limit": wanted.to_string(), "kept": self.keeps(*wanted) });
        json!({
            "name": self.read.name,
            "connections": self.read.connections,
            "requests": self.requests,
            "seconds": self.elapsed.as_secs_f64(),
            "requests_per_second": self.rate().round(),
            "latency_us": percentiles_json(&self.latency),
            "wanted": self.read.wanted.iter().map(wanted).collect::<Vec<_>>(),
            "faults": self.faults,
            "first_fault": self.first_fault,
        })
    }
}

impl QueryReport {
    /// Whether every answer was whole; limits are for the reader to judge.
    pub fn is_sound(&self) -> bool {
        self.reads.iter().all(|read| read.faults == 0 && read.requests > 0)
    }

    /// Whether every limit was kept.
    pub fn keeps_all(&self) -> bool {
        self.reads.iter().all(|report| report.read.wanted.iter().all(|wanted| report.keeps(*wanted)))
    }

    /// One JSON object.
    pub fn to_json(&self) -> Value {
        let reads: Vec<Value> = self.reads.iter().map(ReadReport::to_json).collect();
        json!({ "reads": reads, "sound": self.is_sound(), "kept": self.keeps_all() })
    }
}

impl fmt::Display for Wanted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let millis = |micros: u64| micros as f64 / 1_000.0;
        match *self {
            Self::P50Below(micros) => write!(f, "p50 < {} ms", millis(micros)),
            Self::P99Below(micros) => write!(f, "p99 < {} ms", millis(micros)),
            Self::RateAtLeast(rate) => write!(f, "{}/s", grouped(rate)),
        }
    }
}

impl fmt::Display for ReadReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let millis = |micros: u64| micros as f64 / 1_000.0;
        let limit = |wanted: &Wanted| {
            let mark = if self.keeps(*wanted) { "kept" } else { "MISSED" };
            format!("{wanted} {mark}")
        };
        let limits: Vec<String> = self.read.wanted.iter().map(limit).collect();
        write!(
            f,
            "{:<32} {:>9}/s  p50 {:>8.3}  p99 {:>8.3}  max {:>8.3} ms  of {:>9}  wanted {}",
            self.read.name,
            grouped(self.rate() as u64),
            millis(self.latency.p50),
            millis(self.latency.p99),
            millis(self.latency.max),
            grouped(self.requests),
            limits.join(", ")
        )?;
        match &self.first_fault {
            Some(fault) => write!(f, "\n{} faults, the first: {fault}", grouped(self.faults)),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report(read: Read) -> ReadReport {
        let latency =
            Percentiles { count: 30_000, p50: 200, p99: 2_500, max: 9_000, ..Percentiles::default() };
        let elapsed = Duration::from_secs(2);
        ReadReport { read, requests: 30_000, elapsed, latency, faults: 0, first_fault: None }
    }

    #[test]
    fn limits_are_kept_or_missed_and_printed_so() {
        let report = report(READS[5]);
        assert!(report.keeps(Wanted::RateAtLeast(15_000)) && !report.keeps(Wanted::P99Below(2_000)));
        let text = report.to_string();
        assert!(text.contains("15,000/s kept, p99 < 2 ms MISSED"), "{text}");
        let all = QueryReport { reads: vec![report] };
        assert!(all.is_sound() && !all.keeps_all());
        assert_eq!(all.to_json()["reads"][0]["wanted"][1]["kept"], false);
    }

    #[test]
    fn the_first_read_is_the_cold_one_and_every_read_has_a_limit() {
        assert_eq!(READS[0].length, Length::Requests(64));
        assert!(READS[1..].iter().all(|read| read.length == Length::Time));
        assert!(READS.iter().all(|read| !read.wanted.is_empty()));
    }
}
