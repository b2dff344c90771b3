//! What a run under kills came to.

use std::fmt;
use std::time::Duration;

use serde_json::{Value, json};

use super::books::Received;
use crate::report::grouped;

/// The figures of one run.
#[derive(Debug, Clone)]
pub struct LedgerReport {
    /// Kills of a server under load.
    pub kills: u64,
    /// Kills of one that recovered.
    pub recoveries_killed: u64,
    /// Seed of their moments.
    pub seed: u64,
    /// From the first start to the last kill.
    pub elapsed: Duration,
    /// Published events that were acknowledged.
    pub events: u64,
    /// Samples that were acknowledged.
    pub samples: u64,
    /// Requests whose answer never came; sent again until they were acknowledged.
    pub unanswered: u64,
    /// Answers 429 and 503.
    pub put_off: u64,
    /// Events acknowledged and not received when the server was killed, over all kills.
    pub pending_events: u64,
    /// The same of samples.
    pub pending_samples: u64,
    /// Acknowledged events that did not come.
    pub events_missing: u64,
    /// Acknowledged samples that did not come.
    pub samples_missing: u64,
    /// How long the last ones took; `None` if the patience ended first.
    pub drained: Option<Duration>,
    /// What was received.
    pub received: Received,
    /// The first writer that gave up, and why.
    pub fault: Option<String>,
    /// What `check` says of the data at the end.
    pub check: Result<(), String>,
}

impl LedgerReport {
    /// Whether everything that was acknowledged came, as it was, once.
    pub fn is_sound(&self) -> bool {
        self.events + self.samples > 0 && self.faults().is_empty()
    }

    /// One JSON object.
    pub fn to_json(&self) -> Value {
        let received = &self.received;
        json!({
            "kills": self.kills,
            "recoveries_killed": self.recoveries_killed,
            "seed": self.seed,
            "seconds": self.elapsed.as_secs_f64(),
            "events": self.events,
            "samples": self.samples,
            "unanswered": self.unanswered,
            "put_off": self.put_off,
            "pending_events_at_kills": self.pending_events,
            "pending_samples_at_kills": self.pending_samples,
            "events_missing": self.events_missing,
            "samples_missing": self.samples_missing,
            "drained_seconds": self.drained.map(|time| time.as_secs_f64()),
            "deliveries": received.deliveries,
            "ids": received.ids,
            "delivered_again": received.again,
            "failed_on_purpose": received.failed,
            "faults": self.faults(),
            "sound": self.is_sound(),
        })
    }

    fn faults(&self) -> Vec<String> {
        let missing = [
            (self.events_missing, "events acknowledged and not delivered"),
            (self.samples_missing, "samples acknowledged and not delivered"),
        ];
        let mut faults: Vec<String> = missing
            .into_iter()
            .chain(self.received.faults())
            .filter(|(count, _)| *count > 0)
            .map(|(count, what)| format!("{} {what}", grouped(count)))
            .collect();
        faults.extend(self.fault.clone());
        faults.extend(self.check.as_ref().err().map(|text| format!("check: {}", text.trim())));
        faults
    }
}

impl fmt::Display for LedgerReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let received = &self.received;
        writeln!(
            f,
            "ledger    {} kills under load and {} of recoveries, seed {}, {:.0} s",
            self.kills,
            self.recoveries_killed,
            self.seed,
            self.elapsed.as_secs_f64()
        )?;
        writeln!(
            f,
            "taken in  {} events and {} samples acknowledged; {} requests without an answer, sent again; {} put off",
            grouped(self.events),
            grouped(self.samples),
            grouped(self.unanswered),
            grouped(self.put_off)
        )?;
        writeln!(
            f,
            "pending   {} events and {} samples at the moments of the kills",
            grouped(self.pending_events),
            grouped(self.pending_samples)
        )?;
        writeln!(
            f,
            "received  {} deliveries of {} ids; {} again with the same bytes, {} failed on purpose first",
            grouped(received.deliveries),
            grouped(received.ids),
            grouped(received.again),
            grouped(received.failed)
        )?;
        let drained = match self.drained {
            Some(time) => format!("everything was there {:.1} s after the load's end", time.as_secs_f64()),
            None => "not everything came in time".to_owned(),
        };
        writeln!(
            f,
            "missing   {} events, {} samples; {drained}",
            grouped(self.events_missing),
            grouped(self.samples_missing)
        )?;
        self.faults().iter().try_for_each(|fault| writeln!(f, "fault     {fault}"))
    }
}
