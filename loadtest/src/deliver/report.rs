//! What a run says: rates of the measured phase, times, what is missing, the limit.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use serde_json::{Value, json};

use super::books::Counted;
use super::limit::{Limit, LimitBeside};
use crate::histogram::Percentiles;
use crate::report::{Line, grouped, percentiles_json, statuses_json, statuses_text};

/// Wanted of signed deliveries of 1 KB a second.
pub const DELIVERIES_PER_SECOND_MIN: f64 = 15_000.0;
/// Wanted of samples a second, from live ingest to one endpoint.
pub const SAMPLES_PER_SECOND_MIN: f64 = 2_000_000.0;
/// Wanted of the limit.
pub const LIMIT_SHARE_MIN: f64 = 0.6;
/// Wanted at a quarter of the full load, in microseconds.
pub const P50_MICROS_MAX: u64 = 5_000;
/// Wanted at a quarter of the full load, in microseconds.
pub const P99_MICROS_MAX: u64 = 50_000;
/// Wanted of ingest with ten endpoints, of what it is with one.
pub const INGEST_SHARE_MIN: f64 = 0.9;

/// The figures of one run.
#[derive(Debug, Clone)]
pub struct DeliverReport {
    /// `events` or `series`.
    pub scenario: &'static str,
    /// Endpoints of it.
    pub endpoints: usize,
    /// Connections that sent.
    pub connections: u64,
    /// Requests a second offered; `None` for as fast as they are answered.
    pub rate: Option<f64>,
    /// Samples of a request.
    pub samples_a_request: u64,
    /// Events of a request; samples are one.
    pub events_a_request: u64,
    /// Length of the measured phase.
    pub measured: Duration,
    /// Events acknowledged in it; of series, requests.
    pub acknowledged_measured: u64,
    /// What the receiver counted in it.
    pub received_measured: Counted,
    /// From acknowledgement (events) or commit (series) to receipt, in it.
    pub latency: Percentiles,
    /// The same of the whole run.
    pub latency_whole: Percentiles,
    /// Events acknowledged in the whole run; of series, requests.
    pub acknowledged: u64,
    /// Events, or samples, that were acknowledged and not delivered.
    pub missing: u64,
    /// The same that were delivered and not acknowledged: at most what is unsure.
    pub unasked: u64,
    /// Requests without an answer.
    pub unsure: u64,
    /// Acknowledged and not delivered when the load had ended.
    pub backlog: u64,
    /// How long it took to deliver them; `None` if the patience ended first.
    pub drained: Option<Duration>,
    /// What the receiver counted in the whole run.
    pub counted: Counted,
    /// The most connections that the server had open to the receiver.
    pub receiver_connections: usize,
    /// Connections that the server opened to it in all.
    pub receiver_connections_accepted: u64,
    /// Connections that the receiver ended for what they sent.
    pub receiver_connections_broken: u64,
    /// Answers by status.
    pub statuses: BTreeMap<u16, u64>,
    /// The first thing that went wrong while sending.
    pub first_error: Option<String>,
    /// What signing and posting alone reached.
    pub limit: Option<Limit>,
    /// What it reached while the server took in as much as in the run.
    pub limit_beside: Option<LimitBeside>,
    /// Why an endpoint could not be deleted, if one could not.
    pub left_behind: Option<String>,
}

/// A figure with what is wanted of it.
struct Judged {
    what: &'static str,
    found: String,
    wanted: String,
    kept: bool,
}

impl DeliverReport {
    /// Deliveries a second of the measured phase.
    pub fn deliveries_per_second(&self) -> f64 {
        self.per_second(self.received_measured.events)
    }

    /// Delivered samples a second of the measured phase.
    pub fn samples_per_second(&self) -> f64 {
        self.per_second(self.received_measured.samples)
    }

    /// Events acknowledged a second of the measured phase; of series, requests.
    pub fn acknowledged_per_second(&self) -> f64 {
        self.per_second(self.acknowledged_measured)
    }

    /// Deliveries of the limit's.
    pub fn limit_share(&self) -> Option<f64> {
        self.limit.as_ref().map(|limit| self.share_of(limit))
    }

    /// The same of the limit beside as much that is taken in: what a delivery costs the loop,
    /// of what it costs the server.
    pub fn limit_beside_share(&self) -> Option<f64> {
        self.limit_beside.as_ref().map(|beside| self.share_of(&beside.limit))
    }

    fn share_of(&self, limit: &Limit) -> f64 {
        self.deliveries_per_second() / limit.per_second().max(1.0)
    }

    /// Whether the server kept its word: what it acknowledged was delivered, once,
    /// genuine, in order, and nothing else.
    pub fn is_sound(&self) -> bool {
        self.acknowledged > 0 && self.faults().is_empty()
    }

    /// Whether it is as fast as wanted.
    pub fn kept_up(&self) -> bool {
        self.judged().iter().all(|judged| judged.kept)
    }

    /// Ingest of another run's, from its JSON: both as acknowledged a second.
    pub fn ingest_share(&self, other: &Value) -> Option<f64> {
        let theirs = other["acknowledged_per_second"].as_f64().filter(|rate| *rate > 0.0)?;
        Some(self.acknowledged_per_second() / theirs)
    }

    /// One JSON object; times in microseconds, lengths in seconds.
    pub fn to_json(&self) -> Value {
        let counted = &self.counted;
        json!({
            "scenario": self.scenario,
            "endpoints": self.endpoints,
            "connections": self.connections,
            "rate": self.rate,
            "events_a_request": self.events_a_request,
            "measured_seconds": self.measured.as_secs_f64(),
            "acknowledged_per_second": self.acknowledged_per_second().round(),
            "samples_acknowledged_per_second":
                (self.acknowledged_per_second() * self.samples_a_request as f64).round(),
            "deliveries_per_second": self.deliveries_per_second().round(),
            "samples_per_second": self.samples_per_second().round(),
            "bytes_per_second": self.per_second(self.received_measured.bytes).round(),
            "latency_us": percentiles_json(&self.latency),
            "latency_whole_us": percentiles_json(&self.latency_whole),
            "acknowledged": self.acknowledged,
            "events": counted.events,
            "samples": counted.samples,
            "missing": self.missing,
            "unasked": self.unasked,
            "unsure": self.unsure,
            "backlog": self.backlog,
            "drained_seconds": self.drained.map(|time| time.as_secs_f64()),
            "verified": counted.verified,
            "duplicates": counted.duplicates,
            "disordered": counted.disordered,
            "receiver_connections": self.receiver_connections,
            "receiver_connections_accepted": self.receiver_connections_accepted,
            "statuses": statuses_json(&self.statuses),
            "limit": self.limit.as_ref().map(Limit::to_json),
            "limit_share": self.limit_share(),
            "limit_beside": self.limit_beside.as_ref().map(LimitBeside::to_json),
            "limit_beside_share": self.limit_beside_share(),
            "faults": self.faults(),
            "sound": self.is_sound(),
        })
    }

    fn per_second(&self, count: u64) -> f64 {
        let seconds = self.measured.as_secs_f64();
        if seconds > 0.0 { count as f64 / seconds } else { 0.0 }
    }

    /// What is counted: events, or their samples.
    fn unit(&self) -> &'static str {
        if self.samples_a_request == 0 { "events" } else { "samples" }
    }

    fn faults(&self) -> Vec<String> {
        let unit = self.unit();
        let each = self.samples_a_request.max(self.events_a_request);
        let unasked = self.unasked.saturating_sub(self.unsure * each);
        let own = [
            (self.missing, format!("{unit} acknowledged and not delivered")),
            (unasked, format!("{unit} delivered that nobody can have sent")),
            (self.receiver_connections_broken, "connections with requests that are none".to_owned()),
        ];
        let counted = self.counted.faults().map(|(count, what)| (count, what.to_owned()));
        let mut faults: Vec<String> = own
            .into_iter()
            .chain(counted)
            .filter(|(count, _)| *count > 0)
            .map(|(count, what)| format!("{} {what}", grouped(count)))
            .collect();
        faults.extend(self.first_error.iter().map(|error| format!("sending: {error}")));
        faults.extend(self.left_behind.iter().map(|why| format!("endpoint not deleted: {why}")));
        let beside = self.limit_beside.as_ref();
        if self.limit.iter().chain(beside.map(|beside| &beside.limit)).any(|limit| !limit.is_sound()) {
            faults.push("the limit's receiver did not get what was posted".to_owned());
        }
        let error = beside.and_then(|beside| beside.first_error.as_ref());
        faults.extend(error.map(|error| format!("sending beside the limit: {error}")));
        faults
    }

    /// Full speed is judged by rates, an offered rate by times.
    fn judged(&self) -> Vec<Judged> {
        let mut judged = Vec::new();
        // Of lines that share an answer many are delivered before it: their times say little.
        if self.rate.is_some() && self.events_a_request <= 1 {
            for (what, found, wanted) in
                [("p50", self.latency.p50, P50_MICROS_MAX), ("p99", self.latency.p99, P99_MICROS_MAX)]
            {
                let millis = |micros: u64| format!("{:.2} ms", micros as f64 / 1_000.0);
                let kept = found < wanted;
                judged.push(Judged {
                    what,
                    found: millis(found),
                    wanted: format!("< {}", millis(wanted)),
                    kept,
                });
            }
            return judged;
        }
        let (what, found, wanted) = match self.samples_a_request {
            0 => ("deliveries/s", self.deliveries_per_second(), DELIVERIES_PER_SECOND_MIN),
            _ => ("samples/s", self.samples_per_second(), SAMPLES_PER_SECOND_MIN),
        };
        judged.push(Judged {
            what,
            found: grouped(found as u64),
            wanted: format!(">= {}", grouped(wanted as u64)),
            kept: found >= wanted,
        });
        let shares = [
            ("of the limit", self.limit_share()),
            ("of the limit beside as much taken in", self.limit_beside_share()),
        ];
        for (what, share) in shares {
            let Some(share) = share else { continue };
            let (found, wanted) = (format!("{share:.2}"), format!(">= {LIMIT_SHARE_MIN}"));
            judged.push(Judged { what, found, wanted, kept: share >= LIMIT_SHARE_MIN });
        }
        judged
    }
}

impl fmt::Display for DeliverReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (measured, counted) = (&self.received_measured, &self.counted);
        let rate = self.rate.map_or("as fast as answered".to_owned(), |rate| format!("{rate:.0} requests/s"));
        writeln!(
            f,
            "deliver   {}, {} endpoint(s), {} connections, {rate}, measured {:.1} s",
            self.scenario,
            self.endpoints,
            self.connections,
            self.measured.as_secs_f64()
        )?;
        let taken_in = self.acknowledged_per_second();
        match self.samples_a_request {
            0 => {
                let requests = taken_in / self.events_a_request.max(1) as f64;
                let (events, requests) = (grouped(taken_in as u64), grouped(requests as u64));
                writeln!(f, "taken in  {events} events/s, {requests} requests/s")?;
            }
            samples => {
                let samples = grouped((taken_in * samples as f64) as u64);
                writeln!(f, "taken in  {} requests/s, {samples} samples/s", grouped(taken_in as u64))?;
            }
        }
        writeln!(
            f,
            "delivered {} deliveries/s, {} samples/s, {} MB/s of bodies, over {} connections at most",
            grouped(self.deliveries_per_second() as u64),
            grouped(self.samples_per_second() as u64),
            grouped(self.per_second(measured.bytes) as u64 / 1_000_000),
            self.receiver_connections
        )?;
        let since = if self.samples_a_request == 0 { "acknowledgement" } else { "commit" };
        writeln!(f, "receipt   {}, after {since}, while measured", Line(&self.latency))?;
        writeln!(f, "receipt   {}, after {since}, whole run", Line(&self.latency_whole))?;
        let drained = match self.drained {
            Some(time) => format!("delivered {:.2} s after the load's end", time.as_secs_f64()),
            None => "not delivered in time".to_owned(),
        };
        writeln!(f, "backlog   {} {} at the load's end, {drained}", grouped(self.backlog), self.unit())?;
        writeln!(
            f,
            "whole run {} {} acknowledged, {} events and {} samples delivered, {} missing; {} signatures \
             verified, {} duplicates, {} out of order; answers {}",
            grouped(self.acknowledged),
            if self.samples_a_request == 0 { "events" } else { "requests" },
            grouped(counted.events),
            grouped(counted.samples),
            grouped(self.missing),
            grouped(counted.verified),
            grouped(counted.duplicates),
            grouped(counted.disordered),
            statuses_text(&self.statuses)
        )?;
        if let Some(limit) = &self.limit {
            writeln!(
                f,
                "limit     {} deliveries/s signed and posted over {} connections ({} in {:.1} s)",
                grouped(limit.per_second() as u64),
                limit.connections,
                grouped(limit.deliveries),
                limit.elapsed.as_secs_f64()
            )?;
        }
        if let Some(LimitBeside { limit, taken_in, .. }) = &self.limit_beside {
            let unit = if self.samples_a_request == 0 { "events" } else { "requests" };
            writeln!(
                f,
                "limit     {} deliveries/s beside {} {unit}/s taken in",
                grouped(limit.per_second() as u64),
                grouped(*taken_in as u64)
            )?;
        }
        for Judged { what, found, wanted, kept } in self.judged() {
            let mark = if kept { "kept" } else { "MISSED" };
            writeln!(f, "judged    {found} {what}; wanted {wanted} {mark}")?;
        }
        self.faults().iter().try_for_each(|fault| writeln!(f, "fault     {fault}"))
    }
}
