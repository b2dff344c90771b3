//! What dead receivers did to the living.

use std::fmt;
use std::time::Duration;

use serde_json::{Value, json};

use crate::deliver::Counted;
use crate::histogram::Percentiles;
use crate::report::{Line, grouped, percentiles_json};

/// How much longer the living may wait, wanted.
pub const P99_RATIO_MAX: f64 = 1.2;
const MIB: f64 = 1_048_576.0;

/// One load.
#[derive(Debug, Clone)]
pub struct Phase {
    /// Events acknowledged in the measured part.
    pub acknowledged: u64,
    /// Its length.
    pub measured: Duration,
    /// From acknowledgement to receipt of the living, in it.
    pub latency: Percentiles,
    /// How long the last deliveries to the living took; `None` if not in time.
    pub drained: Option<Duration>,
    /// Requests without an answer.
    pub unsure: u64,
    /// The first thing that went wrong while publishing.
    pub first_error: Option<String>,
    /// The most memory of the server, in bytes; `None` if nobody tells.
    pub memory_most: Option<u64>,
    /// What the server says of itself at the end.
    pub retries_waiting: Option<f64>,
    /// What the server says of itself at the end.
    pub lanes_behind: Option<f64>,
}

/// Both, and what is around them.
#[derive(Debug, Clone)]
pub struct IsolateReport {
    /// Endpoints, a user each.
    pub endpoints: u64,
    /// Of them dead in the second load.
    pub dead: u64,
    /// In which ways.
    pub kinds: String,
    /// Events a second offered.
    pub rate: u64,
    /// How long it took to make the endpoints.
    pub set_up: Duration,
    /// The server's memory before, in bytes.
    pub memory_before: Option<u64>,
    /// The same when the endpoints were made.
    pub memory_made: Option<u64>,
    /// With every receiver alive.
    pub alive: Phase,
    /// With dead ones.
    pub with_dead: Phase,
    /// Events to the living that were acknowledged and not delivered.
    pub missing: u64,
    /// Attempts that reached a dead receiver.
    pub dead_attempts: u64,
    /// Redirects that the server followed; it must not.
    pub redirects_followed: u64,
    /// What the living receiver counted.
    pub counted: Counted,
    /// Why an endpoint could not be deleted, if one could not.
    pub left_behind: Option<String>,
}

impl IsolateReport {
    /// p99 of the living with dead ones beside them, by that of the same without.
    pub fn ratio(&self) -> Option<f64> {
        let [alive, with_dead] = [&self.alive, &self.with_dead].map(|phase| phase.latency.p99 as f64);
        (alive > 0.0).then(|| with_dead / alive)
    }

    /// Whether the living wait no longer than wanted.
    pub fn kept_up(&self) -> bool {
        self.ratio().is_some_and(|ratio| ratio <= P99_RATIO_MAX)
    }

    /// Whether everything to the living was delivered, once, genuine and in order.
    pub fn is_sound(&self) -> bool {
        self.alive.latency.count > 0 && self.with_dead.latency.count > 0 && self.faults().is_empty()
    }

    /// One JSON object; times in microseconds.
    pub fn to_json(&self) -> Value {
        json!({
            "endpoints": self.endpoints,
            "dead": self.dead,
            "kinds": self.kinds,
            "rate": self.rate,
            "set_up_seconds": self.set_up.as_secs_f64(),
            "memory_before": self.memory_before,
            "memory_made": self.memory_made,
            "alive": self.alive.to_json(),
            "with_dead": self.with_dead.to_json(),
            "p99_ratio": self.ratio(),
            "missing": self.missing,
            "dead_attempts": self.dead_attempts,
            "faults": self.faults(),
            "sound": self.is_sound(),
        })
    }

    fn faults(&self) -> Vec<String> {
        let own = [
            (self.missing, "events to the living acknowledged and not delivered"),
            (self.redirects_followed, "redirects followed"),
        ];
        let counted = own.into_iter().chain(self.counted.faults());
        let mut faults: Vec<String> = counted
            .filter(|(count, _)| *count > 0)
            .map(|(count, what)| format!("{} {what}", grouped(count)))
            .collect();
        for phase in [&self.alive, &self.with_dead] {
            faults.extend(phase.first_error.iter().map(|error| format!("publishing: {error}")));
        }
        faults.extend(self.left_behind.iter().map(|why| format!("endpoint not deleted: {why}")));
        faults
    }
}

impl Phase {
    fn to_json(&self) -> Value {
        json!({
            "acknowledged": self.acknowledged,
            "measured_seconds": self.measured.as_secs_f64(),
            "latency_us": percentiles_json(&self.latency),
            "drained_seconds": self.drained.map(|time| time.as_secs_f64()),
            "unsure": self.unsure,
            "memory_most": self.memory_most,
            "retries_waiting": self.retries_waiting,
            "lanes_behind": self.lanes_behind,
        })
    }

    fn write(&self, f: &mut fmt::Formatter<'_>, name: &str) -> fmt::Result {
        let rate = self.acknowledged as f64 / self.measured.as_secs_f64().max(f64::MIN_POSITIVE);
        writeln!(
            f,
            "{name} {} events/s, {}, after acknowledgement",
            grouped(rate as u64),
            Line(&self.latency)
        )?;
        let told = |gauge: Option<f64>| gauge.map_or("?".to_owned(), |gauge| grouped(gauge as u64));
        writeln!(
            f,
            "          {} MiB of memory at most, {} retries waiting, {} lanes behind",
            mib(self.memory_most),
            told(self.retries_waiting),
            told(self.lanes_behind)
        )
    }
}

impl fmt::Display for IsolateReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "isolate   {} endpoints made in {:.1} s, then {} of them dead ({}), {} events/s offered",
            grouped(self.endpoints),
            self.set_up.as_secs_f64(),
            grouped(self.dead),
            self.kinds,
            grouped(self.rate)
        )?;
        writeln!(
            f,
            "memory    {} MiB before, {} MiB with the endpoints",
            mib(self.memory_before),
            mib(self.memory_made)
        )?;
        self.alive.write(f, "alive    ")?;
        self.with_dead.write(f, "with dead")?;
        writeln!(
            f,
            "whole run {} events delivered to the living, {} missing; {} attempts reached the dead",
            grouped(self.counted.events),
            grouped(self.missing),
            grouped(self.dead_attempts)
        )?;
        if let Some(ratio) = self.ratio() {
            let mark = if self.kept_up() { "kept" } else { "MISSED" };
            writeln!(f, "judged    p99 of the living {ratio:.2} times; wanted <= {P99_RATIO_MAX} {mark}")?;
        }
        self.faults().iter().try_for_each(|fault| writeln!(f, "fault     {fault}"))
    }
}

fn mib(bytes: Option<u64>) -> String {
    bytes.map_or("?".to_owned(), |bytes| format!("{:.0}", bytes as f64 / MIB))
}
