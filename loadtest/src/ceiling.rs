//! The most that deliveries could reach here: a loop that only signs a prepared
//! body and posts it to a receiver in the same process, over the same kind of
//! connection. No journal is read, no body is rendered, nothing is retried.
//!
//! A server that delivers is measured against it: what it falls short by is its
//! own work, what both cannot exceed is hashing, HTTP and the loopback. Sender and
//! receiver share the machine, as they do in [`crate::delivery`].

use std::fmt;
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use serde_json::{Value, json};
use tokio::task::JoinSet;
use tokio::time::Instant;

use crate::client::{ClientError, Connection, Server};
use crate::receiver::{Receiver, ReceiverCounts, ReceiverError, ReceiverSettings};
use crate::report::grouped;
use crate::signature::{Dialect, Key, Secret, SecretError};

const HOOK: &str = "/ceiling";
/// A secret like those that servers make: 32 bytes.
const SECRET: &str = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSwMfKQ9r8GKYo=";
/// One sample as events carry it.
const SAMPLE: &str = r#"{"timestamp":"2026-06-30T07:45:00Z","zone_offset":null,"type":"heart_rate","value":62.0,"unit":"bpm","source":{"provider":"garmin","device":"garmin-device-001"},"is_daily_total":null}"#;

/// What to run.
#[derive(Debug, Clone)]
pub struct CeilingSettings {
    /// How long.
    pub duration: Duration,
    /// Size of a body; it is filled with whole samples, at least one.
    pub body_bytes: usize,
    /// Connections, each with one delivery in flight.
    pub connections: usize,
    /// How bodies are signed.
    pub dialect: Dialect,
    /// Threads of the receiver; those of the sender are the caller's.
    pub receiver_threads: usize,
}

impl CeilingSettings {
    /// Bodies of 514 samples (95 KB) of `standard`, over 8 connections, to
    /// one receiver thread.
    pub fn new(duration: Duration) -> Self {
        Self { duration, body_bytes: 95_000, connections: 8, dialect: Dialect::Standard, receiver_threads: 1 }
    }
}

/// Why there is no ceiling.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CeilingError {
    /// There is no receiver.
    #[error("the receiver cannot be started")]
    Receiver(#[from] ReceiverError),
    /// A delivery has no answer.
    #[error("a delivery has no answer")]
    Client(#[from] ClientError),
    /// The built-in secret is none; a bug.
    #[error("the built-in secret signs nothing")]
    Secret(#[from] SecretError),
}

/// The figures of one run.
#[derive(Debug, Clone)]
pub struct CeilingReport {
    /// What was run.
    pub settings: CeilingSettings,
    /// Bytes of one body.
    pub body_bytes: u64,
    /// Samples of one body.
    pub body_samples: u64,
    /// From the first delivery to the last answer.
    pub elapsed: Duration,
    /// Answered with 200.
    pub deliveries: u64,
    /// What the receiver counted.
    pub counts: ReceiverCounts,
}

/// Signs and posts until the time is over.
pub async fn run(settings: &CeilingSettings) -> Result<CeilingReport, CeilingError> {
    let secret = Secret::new(SECRET);
    let key = Key::prepare(settings.dialect, &secret)?;
    let receiver = Receiver::start(&ReceiverSettings {
        threads: settings.receiver_threads,
        ..ReceiverSettings::default()
    })?;
    receiver.expect(HOOK, settings.dialect, &secret)?;
    let server = Server::without_key(&receiver.url())?;
    let (body, body_samples) = body(settings);
    let mut senders = JoinSet::new();
    let begin = Instant::now();
    for number in 0..settings.connections {
        let connection = server.connect().await?;
        senders.spawn(send(connection, number, key.clone(), body.clone(), begin + settings.duration));
    }
    let mut deliveries = 0;
    while let Some(ended) = senders.join_next().await {
        deliveries += ended.unwrap_or_else(|error| std::panic::resume_unwind(error.into_panic()))?;
    }
    let elapsed = begin.elapsed();
    let counts = receiver.live().counts();
    receiver.stop().await;
    let body_bytes = body.len() as u64;
    Ok(CeilingReport { settings: settings.clone(), body_bytes, body_samples, elapsed, deliveries, counts })
}

/// One connection: signs, posts, waits, again. Deliveries that were answered 200.
async fn send(
    mut connection: Connection,
    number: usize,
    key: Key,
    body: Bytes,
    until: Instant,
) -> Result<u64, ClientError> {
    let (mut deliveries, mut delivered) = (0_u64, 0);
    while Instant::now() < until {
        let id = format!("evt_{number:08}{deliveries:018}");
        let headers = key.sign(&id, &body, SystemTime::now());
        let answer = connection.post_with(HOOK, headers, body.clone()).await?;
        deliveries += 1;
        delivered += u64::from(answer.status.is_success());
    }
    Ok(delivered)
}

/// An event of about the wanted size, and its samples.
fn body(settings: &CeilingSettings) -> (Bytes, u64) {
    let names = match settings.dialect {
        Dialect::Standard => r#""type":"heart_rate.created""#,
        // Its receivers know events by this id, and all bodies here are one.
        Dialect::Avycenna => r#""event":"heart_rate.created","event_id":"evt_00000000000000000000000000""#,
    };
    let head = |samples| {
        format!(
            r#"{{{names},"timestamp":"2026-06-30T07:45:01.123Z","data":{{"user_id":"u_123","provider":"garmin","series_type":"heart_rate","sample_count":{samples},"ordering":1782805501123456,"start_time":"2026-06-30T07:45:00Z","end_time":"2026-06-30T07:45:00Z","samples":["#
        )
    };
    let room = settings.body_bytes.saturating_sub(head(0).len());
    let samples = (room / (SAMPLE.len() + 1)).max(1);
    let body = format!("{}{}]}}}}", head(samples), vec![SAMPLE; samples].join(","));
    (Bytes::from(body), samples as u64)
}

impl CeilingReport {
    /// Deliveries a second.
    pub fn deliveries_per_second(&self) -> f64 {
        self.deliveries as f64 / self.elapsed.as_secs_f64().max(f64::MIN_POSITIVE)
    }

    /// Whether every delivery was verified.
    pub fn is_sound(&self) -> bool {
        self.deliveries > 0 && self.counts.verified == self.deliveries && self.counts.refused() == 0
    }

    /// One JSON object; rates per second.
    pub fn to_json(&self) -> Value {
        let rate = self.deliveries_per_second();
        json!({
            "dialect": self.settings.dialect.as_str(),
            "connections": self.settings.connections,
            "receiver_threads": self.settings.receiver_threads,
            "seconds": self.elapsed.as_secs_f64(),
            "body_bytes": self.body_bytes,
            "body_samples": self.body_samples,
            "deliveries": self.deliveries,
            "deliveries_per_second": rate.round(),
            "bytes_per_second": (rate * self.body_bytes as f64).round(),
            "samples_per_second": (rate * self.body_samples as f64).round(),
            "verified": self.counts.verified,
            "refused": self.counts.refused(),
        })
    }
}

impl fmt::Display for CeilingReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let CeilingSettings { dialect, connections, receiver_threads, .. } = &self.settings;
        let rate = self.deliveries_per_second();
        writeln!(
            f,
            "ceiling   {connections} connections, {receiver_threads} receiver thread(s), {dialect}, bodies of \
             {} bytes with {} samples",
            grouped(self.body_bytes),
            grouped(self.body_samples)
        )?;
        writeln!(
            f,
            "rate      {} deliveries/s, {} MB/s, {} samples/s ({} deliveries in {:.1} s)",
            grouped(rate as u64),
            grouped((rate * self.body_bytes as f64) as u64 / 1_000_000),
            grouped((rate * self.body_samples as f64) as u64),
            grouped(self.deliveries),
            self.elapsed.as_secs_f64()
        )?;
        writeln!(
            f,
            "receiver  {} verified, {} refused",
            grouped(self.counts.verified),
            grouped(self.counts.refused())
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_body_has_the_size_it_is_asked_for_to_a_sample() {
        for body_bytes in [2_000, 95_000] {
            for dialect in [Dialect::Standard, Dialect::Avycenna] {
                let settings =
                    CeilingSettings { body_bytes, dialect, ..CeilingSettings::new(Duration::ZERO) };
                let (body, samples) = body(&settings);
                assert!(body.len().abs_diff(body_bytes) <= SAMPLE.len() + 4, "{} bytes", body.len());
                let parsed: Value = serde_json::from_slice(&body).expect("a body is JSON");
                assert_eq!(parsed["data"]["sample_count"], samples);
                assert_eq!(parsed["data"]["samples"].as_array().map(Vec::len), Some(samples as usize));
            }
        }
    }

    #[test]
    fn the_smallest_body_has_one_sample() {
        let settings = CeilingSettings { body_bytes: 0, ..CeilingSettings::new(Duration::ZERO) };
        assert_eq!(body(&settings).1, 1);
    }
}
