//! Compares what a server answers about users of the reference fleet with what they
//! must hold: count, exact sum and newest value of every metric, also of metrics
//! that they never sent.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use serde::Deserialize;
use tokio::task::JoinSet;

use crate::client::{ClientError, Connection, Server};
use crate::fleet::calendar::push_rfc3339;
use crate::fleet::reference::{Held, METRICS, ReferenceFleet};
use crate::report::{error_excerpt, grouped};
use crate::tally::SeriesTally;

const SECONDS_PER_HOUR: u64 = 3_600;
/// Further back than any history reaches.
const BEFORE_HOURS: u64 = 100 * 24;
/// Further on than any sample lies: a delayed one, a day's value.
const AFTER_HOURS: u64 = 48;
/// What a report prints of them.
const FAULTS_SHOWN: usize = 20;

/// What came of a comparison.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Verified {
    /// Users asked about.
    pub users: u64,
    /// Their series that hold samples.
    pub series: u64,
    /// The samples in them.
    pub samples: u64,
    /// Answers that differ.
    pub faults: u64,
    /// The first of them.
    pub first: Vec<String>,
}

/// Why a comparison did not end.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum VerifyError {
    /// The server went away.
    #[error("the server stopped answering")]
    Client(#[source] ClientError),
    /// Another answer than 200.
    #[error("{path} was answered {status}: {text}")]
    Refused {
        /// What was asked.
        path: String,
        /// The status.
        status: u16,
        /// The beginning of the answer.
        text: String,
    },
    /// Not the shape of an answer.
    #[error("the answer to {path} cannot be read")]
    Shape {
        /// What was asked.
        path: String,
        /// What is wrong.
        #[source]
        source: serde_json::Error,
    },
}

#[derive(Debug, Deserialize)]
struct Answer {
    data_points: Vec<Point>,
}

#[derive(Debug, Deserialize)]
struct Point {
    value: f64,
    recorded_at: String,
}

/// Asks about `count` users, spread evenly over all, after `hours` hours of the
/// fleet were acknowledged.
pub async fn verify(
    fleet: Arc<ReferenceFleet>,
    hours: u64,
    count: u64,
    connections: usize,
    server: &Server,
) -> Result<Verified, VerifyError> {
    let users: Arc<Vec<u64>> = Arc::new(spread_users(&fleet, hours, count));
    let turn = Arc::new(AtomicUsize::new(0));
    let mut tasks = JoinSet::new();
    for _ in 0..connections.max(1) {
        let (fleet, users, turn) = (Arc::clone(&fleet), Arc::clone(&users), Arc::clone(&turn));
        let mut connection = server.connect().await.map_err(VerifyError::Client)?;
        tasks.spawn(async move {
            let mut verified = Verified::default();
            while let Some(user) = users.get(turn.fetch_add(1, Ordering::Relaxed)) {
                user_against(&fleet, *user, hours, &mut connection, &mut verified).await?;
            }
            Ok(verified)
        });
    }
    let mut all = Verified::default();
    while let Some(ended) = tasks.join_next().await {
        all.merge(ended.unwrap_or_else(|error| std::panic::resume_unwind(error.into_panic()))?);
    }
    Ok(all)
}

/// Numbers of users, those who joined among them.
fn spread_users(fleet: &ReferenceFleet, hours: u64, count: u64) -> Vec<u64> {
    let users = fleet.users_at(fleet.start_hour() + hours.saturating_sub(1));
    let count = count.min(users);
    (0..count).map(|place| (u128::from(place) * u128::from(users) / u128::from(count)) as u64).collect()
}

async fn user_against(
    fleet: &ReferenceFleet,
    user: u64,
    hours: u64,
    connection: &mut Connection,
    verified: &mut Verified,
) -> Result<(), VerifyError> {
    let held: BTreeMap<&str, Held> = fleet.held(user, hours);
    verified.users += 1;
    for metric in &METRICS {
        let wanted = held.get(metric.key);
        let path = question(fleet, user, hours, metric.key);
        let points = ask(connection, path).await?;
        verified.series += u64::from(wanted.is_some());
        verified.samples += wanted.map_or(0, |held| held.tally.count);
        if let Some(difference) = difference(wanted, &points) {
            verified.fault(format!("{} of {}: {difference}", metric.key, fleet.user_id(user)));
        }
    }
    Ok(())
}

fn question(fleet: &ReferenceFleet, user: u64, hours: u64, metric: &str) -> String {
    let mut path =
        format!("/api/v1/wearables/metric/{metric}?user_id={}&start=", fleet.user_id(user)).into_bytes();
    push_rfc3339(&mut path, (fleet.start_hour() - BEFORE_HOURS) * SECONDS_PER_HOUR);
    path.extend(b"&end=");
    push_rfc3339(&mut path, (fleet.start_hour() + hours + AFTER_HOURS) * SECONDS_PER_HOUR);
    String::from_utf8(path).expect("all of it is ASCII")
}

async fn ask(connection: &mut Connection, path: String) -> Result<Vec<Point>, VerifyError> {
    let answer = connection.get(&path).await.map_err(VerifyError::Client)?;
    if answer.status != hyper::StatusCode::OK {
        let (status, text) = (answer.status.as_u16(), error_excerpt(&answer.body));
        return Err(VerifyError::Refused { path, status, text });
    }
    let answer: Result<Answer, _> = serde_json::from_slice(&answer.body);
    answer.map(|answer| answer.data_points).map_err(|source| VerifyError::Shape { path, source })
}

/// What is wrong with an answer, newest first as it came.
fn difference(wanted: Option<&Held>, points: &[Point]) -> Option<String> {
    let mut tally = SeriesTally::default();
    points.iter().for_each(|point| tally.add(point.value));
    let expected = wanted.map_or(SeriesTally::default(), |held| held.tally);
    if tally.count != expected.count {
        return Some(format!("{} samples instead of {}", tally.count, expected.count));
    }
    if tally.sum_millionths != expected.sum_millionths {
        let [is, should] = [tally, expected].map(|tally| tally.sum_millionths as f64 / 1e6);
        return Some(format!("{} samples add up to {is} instead of {should}", tally.count));
    }
    let (second, values) = &wanted?.newest;
    let mut time = Vec::new();
    push_rfc3339(&mut time, *second);
    let time = String::from_utf8(time).expect("times are ASCII");
    let newest = points.first()?;
    let known = values.iter().any(|tenths| (newest.value * 10.0).round() as i64 == *tenths);
    let wrong = newest.recorded_at != time || !known;
    wrong.then(|| format!("the newest is {} of {}, not of {time}", newest.value, newest.recorded_at))
}

impl Verified {
    /// Whether every answer was what was sent, and there was something to ask.
    pub fn is_sound(&self) -> bool {
        self.faults == 0 && self.samples > 0
    }

    fn fault(&mut self, text: String) {
        self.faults += 1;
        if self.first.len() < FAULTS_SHOWN {
            self.first.push(text);
        }
    }

    fn merge(&mut self, other: Self) {
        self.users += other.users;
        self.series += other.series;
        self.samples += other.samples;
        self.faults += other.faults;
        self.first.extend(other.first);
        self.first.truncate(FAULTS_SHOWN);
    }
}

impl fmt::Display for Verified {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "verified  {} users, {} series, {} samples: {} faults",
            grouped(self.users),
            grouped(self.series),
            grouped(self.samples),
            grouped(self.faults)
        )?;
        self.first.iter().try_for_each(|fault| writeln!(f, "fault     {fault}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn held() -> Held {
        let mut tally = SeriesTally::default();
        [600, 625].iter().for_each(|tenths| tally.add_tenths(*tenths));
        Held { tally, newest: (1_782_805_500, vec![625]), oldest: 1_782_805_440 }
    }

    fn points(values: [f64; 2]) -> Vec<Point> {
        let times = ["2026-06-30T07:45:00Z", "2026-06-30T07:44:00Z"];
        let point = |(value, time): (f64, &str)| Point { value, recorded_at: time.to_owned() };
        values.into_iter().zip(times).map(point).collect()
    }

    #[test]
    fn equal_answers_pass_and_each_difference_is_named() {
        assert_eq!(difference(Some(&held()), &points([62.5, 60.0])), None);
        assert_eq!(difference(None, &[]), None);
        let few = difference(Some(&held()), &points([62.5, 60.0])[..1]).expect("one is missing");
        assert_eq!(few, "1 samples instead of 2");
        let extra = difference(None, &points([1.0, 2.0])).expect("none were sent");
        assert_eq!(extra, "2 samples instead of 0");
        let sum = difference(Some(&held()), &points([62.4, 60.0])).expect("another sum");
        assert!(sum.contains("add up to 122.4 instead of 122.5"), "{sum}");
        // The sum is right, the values changed places.
        let newest = difference(Some(&held()), &points([60.0, 62.5])).expect("another newest");
        assert!(newest.contains("the newest is 60"), "{newest}");
    }
}
