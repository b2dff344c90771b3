//! What came of a run: as text for people, as one JSON object for machines.
//!
//! Rate and percentiles are those of the measured phase. Requests, bytes, losses
//! and errors are those of the whole run, warm-up and drain included, so that
//! `samples_acknowledged` can be compared with what the server stored.

use std::collections::BTreeMap;
use std::error::Error;
use std::fmt;
use std::time::Duration;

use serde_json::{Value, json};

use crate::fleet::Mix;
use crate::histogram::Percentiles;

/// An error body is kept up to this many bytes: one bad point fits, 100 do not.
const ERROR_BYTES_MAX: usize = 500;

/// The figures of one run.
#[derive(Debug, Clone)]
pub struct Report {
    /// The server.
    pub url: String,
    /// Connections that sent.
    pub connections: usize,
    /// Points of a body.
    pub points: usize,
    /// Which metrics a body held.
    pub mix: Mix,
    /// What was offered, in a paced run.
    pub rate_samples_per_second: Option<u64>,
    /// Load before the measured phase.
    pub warmup: Duration,
    /// Length of the measured phase.
    pub measured: Duration,
    /// Samples acknowledged in the measured phase.
    pub samples_measured: u64,
    /// From sending a batch to its 200, in the measured phase.
    pub latency: Percentiles,
    /// Samples acknowledged in the whole run.
    pub samples_acknowledged: u64,
    /// Samples that were sent and neither acknowledged nor refused: the server
    /// may have stored them.
    pub samples_unsure: u64,
    /// Answers by status.
    pub statuses: BTreeMap<u16, u64>,
    /// Batches put on the wire, repeated ones again.
    pub requests_sent: u64,
    /// Bytes of their bodies.
    pub bytes_sent: u64,
    /// Connections that ended while a request was in flight.
    pub connections_lost: u64,
    /// Attempts to open them again that failed.
    pub reconnects_failed: u64,
    /// Answers 200 that did not acknowledge the whole batch.
    pub answers_wrong: u64,
    /// The first failure of any kind.
    pub first_error: Option<String>,
    /// The reads beside the load.
    pub probes: Vec<ProbeReport>,
}

/// The figures of one probe.
#[derive(Debug, Clone)]
pub struct ProbeReport {
    /// What it asked for.
    pub name: &'static str,
    /// From sending to answer, of answers with samples in the measured phase.
    pub latency: Percentiles,
    /// Answers by status.
    pub statuses: BTreeMap<u16, u64>,
    /// Answers 200 without a sample, about users whose samples were acknowledged.
    pub answers_empty: u64,
    /// Requests that ended with their connection.
    pub connections_lost: u64,
    /// The first failure of any kind.
    pub first_error: Option<String>,
}

impl Report {
    /// Acknowledged samples a second of the measured phase; 0 if there was none.
    pub fn samples_per_second(&self) -> f64 {
        let seconds = self.measured.as_secs_f64();
        if seconds > 0.0 { self.samples_measured as f64 / seconds } else { 0.0 }
    }

    /// Whether the server kept its word: samples were acknowledged, every 200
    /// acknowledged all of them, and every acknowledged user could be read.
    pub fn is_sound(&self) -> bool {
        let visible = self.probes.iter().all(|probe| probe.answers_empty == 0);
        self.samples_acknowledged > 0 && self.answers_wrong == 0 && visible
    }

    /// One JSON object; times in microseconds, lengths in seconds.
    pub fn to_json(&self) -> Value {
        json!({
            "url": self.url,
            "connections": self.connections,
            "points": self.points,
            "metrics": mix_name(self.mix),
            "rate_samples_per_second": self.rate_samples_per_second,
            "warmup_seconds": self.warmup.as_secs_f64(),
            "measured_seconds": self.measured.as_secs_f64(),
            "samples_per_second": self.samples_per_second().round(),
            "samples_measured": self.samples_measured,
            "latency_us": percentiles_json(&self.latency),
            "samples_acknowledged": self.samples_acknowledged,
            "samples_unsure": self.samples_unsure,
            "statuses": statuses_json(&self.statuses),
            "requests_sent": self.requests_sent,
            "bytes_sent": self.bytes_sent,
            "connections_lost": self.connections_lost,
            "reconnects_failed": self.reconnects_failed,
            "answers_wrong": self.answers_wrong,
            "first_error": self.first_error,
            "probes": self.probes.iter().map(ProbeReport::to_json).collect::<Vec<_>>(),
        })
    }

    fn write_load(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let pace = match self.rate_samples_per_second {
            Some(rate) => format!("{} samples/s offered", grouped(rate)),
            None => "saturated".to_owned(),
        };
        writeln!(
            f,
            "load      {}, {} connections, {} points of {} a body, {pace}",
            self.url,
            self.connections,
            self.points,
            mix_name(self.mix)
        )
    }

    fn write_faults(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (count, what) in [
            (self.samples_unsure, "samples without a decision"),
            (self.connections_lost, "connections lost"),
            (self.reconnects_failed, "reconnects failed"),
            (self.answers_wrong, "answers 200 that did not acknowledge the batch"),
        ] {
            if count > 0 {
                writeln!(f, "fault     {} {what}", grouped(count))?;
            }
        }
        write_error(f, self.first_error.as_deref())
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.write_load(f)?;
        writeln!(
            f,
            "measured  {:.1} s after {:.1} s of warm-up",
            self.measured.as_secs_f64(),
            self.warmup.as_secs_f64()
        )?;
        writeln!(
            f,
            "rate      {} samples/s acknowledged ({} in all)",
            grouped(self.samples_per_second() as u64),
            grouped(self.samples_measured)
        )?;
        writeln!(f, "latency   {}", Line(&self.latency))?;
        writeln!(
            f,
            "whole run {} samples acknowledged, {} requests, {} MB of bodies; answers {}",
            grouped(self.samples_acknowledged),
            grouped(self.requests_sent),
            grouped(self.bytes_sent / 1_000_000),
            statuses_text(&self.statuses)
        )?;
        self.write_faults(f)?;
        self.probes.iter().try_for_each(|probe| probe.fmt(f))
    }
}

impl ProbeReport {
    fn to_json(&self) -> Value {
        json!({
            "name": self.name,
            "latency_us": percentiles_json(&self.latency),
            "statuses": statuses_json(&self.statuses),
            "answers_empty": self.answers_empty,
            "connections_lost": self.connections_lost,
            "first_error": self.first_error,
        })
    }
}

impl fmt::Display for ProbeReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "probe     {}: {}; answers {}",
            self.name,
            Line(&self.latency),
            statuses_text(&self.statuses)
        )?;
        for (count, what) in [
            (self.answers_empty, "answers without the acknowledged samples"),
            (self.connections_lost, "connections lost"),
        ] {
            if count > 0 {
                writeln!(f, "fault     {} {what}", grouped(count))?;
            }
        }
        write_error(f, self.first_error.as_deref())
    }
}

/// An error with its causes, the outermost first.
pub fn error_chain(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(inner) = cause {
        text.push_str(": ");
        text.push_str(&inner.to_string());
        cause = inner.source();
    }
    text
}

/// The beginning of an error body, on one line.
pub(crate) fn error_excerpt(body: &[u8]) -> String {
    let head = &body[..body.len().min(ERROR_BYTES_MAX)];
    let cut = if head.len() < body.len() { " ..." } else { "" };
    let text = String::from_utf8_lossy(head).replace(char::is_control, " ");
    format!("{}{cut}", text.trim())
}

/// Percentiles as a person reads them.
pub(crate) struct Line<'a>(pub(crate) &'a Percentiles);

impl fmt::Display for Line<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Percentiles { count, p50, p90, p95, p99, p99_9, max } = *self.0;
        for (name, micros) in [("p50", p50), ("p90", p90), ("p95", p95), ("p99", p99), ("p99.9", p99_9)] {
            write!(f, "{name} {:.2} ms  ", micros as f64 / 1_000.0)?;
        }
        write!(f, "max {:.2} ms  of {}", max as f64 / 1_000.0, grouped(count))
    }
}

fn write_error(f: &mut fmt::Formatter<'_>, error: Option<&str>) -> fmt::Result {
    error.map_or(Ok(()), |text| writeln!(f, "error     first: {text}"))
}

fn mix_name(mix: Mix) -> &'static str {
    match mix {
        Mix::HeartRate => "heart_rate",
        Mix::Fleet => "fleet",
    }
}

pub(crate) fn percentiles_json(of: &Percentiles) -> Value {
    json!({
        "count": of.count,
        "p50": of.p50,
        "p90": of.p90,
        "p95": of.p95,
        "p99": of.p99,
        "p99_9": of.p99_9,
        "max": of.max,
    })
}

pub(crate) fn statuses_json(statuses: &BTreeMap<u16, u64>) -> Value {
    let pair = |(status, count): (&u16, &u64)| (status.to_string(), json!(count));
    Value::Object(statuses.iter().map(pair).collect())
}

pub(crate) fn statuses_text(statuses: &BTreeMap<u16, u64>) -> String {
    if statuses.is_empty() {
        return "none".to_owned();
    }
    let pairs = statuses.iter();
    let texts: Vec<String> = pairs.map(|(s, n)| format!("{s}: {}", grouped(*n))).collect();
    texts.join(", ")
}

/// `1234567` as `1,234,567`.
pub fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::with_capacity(digits.len() * 4 / 3);
    for (place, digit) in digits.chars().enumerate() {
        if place > 0 && (digits.len() - place).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report() -> Report {
        let latency = Percentiles {
            count: 2_400,
            p50: 3_100,
            p90: 5_000,
            p95: 7_000,
            p99: 9_990,
            p99_9: 12_000,
            max: 12_345,
        };
        let statuses = BTreeMap::from([(200, 2_500), (429, 7)]);
        Report {
            url: "http://127.0.0.1:8080".to_owned(),
            connections: 64,
            points: 500,
            mix: Mix::HeartRate,
            rate_samples_per_second: None,
            warmup: Duration::from_secs(1),
            measured: Duration::from_secs(2),
            samples_measured: 1_200_000,
            latency,
            samples_acknowledged: 1_250_000,
            samples_unsure: 500,
            statuses: statuses.clone(),
            requests_sent: 2_508,
            bytes_sent: 180_576_000,
            connections_lost: 1,
            reconnects_failed: 0,
            answers_wrong: 0,
            first_error: Some("429: busy".to_owned()),
            probes: vec![ProbeReport {
                name: "latest",
                latency,
                statuses,
                answers_empty: 0,
                connections_lost: 0,
                first_error: None,
            }],
        }
    }

    #[test]
    fn the_text_names_rate_percentiles_statuses_and_faults() {
        let text = report().to_string();
        for part in [
            "600,000 samples/s acknowledged (1,200,000 in all)",
            "p50 3.10 ms  p90 5.00 ms  p95 7.00 ms  p99 9.99 ms  p99.9 12.00 ms  max 12.35 ms",
            "1,250,000 samples acknowledged, 2,508 requests, 180 MB of bodies",
            "200: 2,500, 429: 7",
            "500 samples without a decision",
            "1 connections lost",
            "first: 429: busy",
            "probe     latest",
        ] {
            assert!(text.contains(part), "{part:?} is not in\n{text}");
        }
    }

    #[test]
    fn the_json_is_one_line_with_the_same_figures() {
        let json = report().to_json();
        assert_eq!(json["samples_per_second"], 600_000.0);
        assert_eq!(json["latency_us"]["p99_9"], 12_000);
        assert_eq!(json["statuses"]["429"], 7);
        assert_eq!(json["probes"][0]["name"], "latest");
        assert!(!json.to_string().contains('\n'));
    }

    #[test]
    fn a_run_is_sound_only_if_the_server_kept_its_word() {
        assert!(report().is_sound());
        assert!(!Report { samples_acknowledged: 0, ..report() }.is_sound());
        assert!(!Report { answers_wrong: 1, ..report() }.is_sound());
        let mut blind = report();
        blind.probes[0].answers_empty = 1;
        assert!(!blind.is_sound());
    }

    #[test]
    fn a_run_without_a_measured_phase_has_no_rate() {
        let unmeasured = Report { measured: Duration::ZERO, ..report() };
        assert_eq!(unmeasured.samples_per_second(), 0.0);
    }

    #[test]
    fn long_error_bodies_are_cut_and_kept_on_one_line() {
        let excerpt = error_excerpt("line\nline ".repeat(200).as_bytes());
        assert!(excerpt.len() <= ERROR_BYTES_MAX + 4);
        assert!(excerpt.starts_with("line line") && excerpt.ends_with(" ..."));
    }
}
