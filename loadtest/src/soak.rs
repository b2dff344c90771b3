//! A long run at a fixed rate, minute by minute, and then a saturated one: does the
//! server keep up with what it is offered, does it forget or grow, and how much of
//! its first speed is left once flush and compaction run beside it.
//!
//! Two runs are compared by their JSON reports: one with compaction held, one with
//! it ([`SoakReport::against`]).

use std::fmt;
use std::future::pending;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use serde_json::{Value, json};
use tokio::time::{Instant, sleep_until};

use crate::client::Server;
use crate::driver::{DriverError, Live, LiveCounts, Phase, Scenario, run};
use crate::fleet::{Fleet, FleetError, FleetSettings};
use crate::histogram::Percentiles;
use crate::observe::Memory;
use crate::report::{Line, Report, grouped, percentiles_json};

/// What the acknowledgement's p99 may grow to, beside a run without compaction.
pub const P99_RATIO_MAX: f64 = 2.0;
/// What the server may take.
pub const MEMORY_MAX: u64 = 2 << 30;
/// What must be left of the first speed.
pub const SUSTAINED_RATIO_MIN: f64 = 0.7;
/// The first so many seconds of a saturated run are its burst.
const BURST: Duration = Duration::from_secs(30);
/// Below this share of the offer a run did not offer what it says.
const OFFERED_MIN: f64 = 0.99;
const WARMUP: Duration = Duration::from_secs(2);
const SATURATED_STRETCH: Duration = Duration::from_secs(10);

/// What to run.
#[derive(Debug, Clone)]
pub struct SoakSettings {
    /// Tells this run's report from another's.
    pub label: String,
    /// Samples a second.
    pub rate: u64,
    /// How long.
    pub duration: Duration,
    /// A line so often.
    pub stretch: Duration,
    /// How long saturated afterwards; zero for not at all.
    pub saturated: Duration,
    /// Connections.
    pub connections: usize,
    /// Users of a pass.
    pub users: u64,
    /// Tells the users of one run from those of another.
    pub run_prefix: String,
    /// The server's process, where its memory is to be watched.
    pub pid: Option<u32>,
}

/// A part of a run.
#[derive(Debug, Clone)]
pub struct Stretch {
    /// How long it took.
    pub elapsed: Duration,
    /// Samples acknowledged.
    pub acknowledged: u64,
    /// Answers 429 and 503.
    pub put_off: u64,
    /// From sending (or from when it was due) to 200.
    pub latency: Percentiles,
    /// The server's memory at its end.
    pub memory: Option<Memory>,
}

/// Everything.
#[derive(Debug, Clone)]
pub struct SoakReport {
    /// The run's name.
    pub label: String,
    /// Samples a second offered.
    pub rate: u64,
    /// The paced run, by stretches and whole.
    pub offered: Vec<Stretch>,
    /// The same as one report.
    pub whole: Report,
    /// The saturated run, by stretches; empty if there was none.
    pub saturated: Vec<Stretch>,
    /// The server's memory at the end.
    pub memory: Option<Memory>,
}

/// Why a soak did not begin.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SoakError {
    /// No such fleet.
    #[error("the fleet cannot be made")]
    Fleet(#[source] FleetError),
    /// No such run.
    #[error("the run did not begin")]
    Driver(#[source] DriverError),
}

/// Runs it; `done` is told of each stretch, with what kind of run it belongs to.
pub async fn soak(
    settings: &SoakSettings,
    server: &Server,
    mut done: impl FnMut(&'static str, &Stretch),
) -> Result<SoakReport, SoakError> {
    let prefix = &settings.run_prefix;
    let paced = Scenario {
        rate_samples_per_second: Some(settings.rate),
        warmup: WARMUP,
        ..scenario(settings, &format!("{prefix}-o"), settings.duration)?
    };
    let watch = |stretch| Watch { stretch, pid: settings.pid };
    let (whole, offered) =
        watched(paced, server, &watch(settings.stretch), |stretch| done("offered", stretch)).await?;
    let mut saturated = Vec::new();
    if !settings.saturated.is_zero() {
        let scenario = Scenario {
            warmup: Duration::ZERO,
            ..scenario(settings, &format!("{prefix}-s"), settings.saturated)?
        };
        let stretch = SATURATED_STRETCH.min(settings.saturated / 4);
        (_, saturated) =
            watched(scenario, server, &watch(stretch), |stretch| done("saturated", stretch)).await?;
    }
    let memory = settings.pid.and_then(Memory::of);
    Ok(SoakReport { label: settings.label.clone(), rate: settings.rate, offered, whole, saturated, memory })
}

fn scenario(settings: &SoakSettings, prefix: &str, duration: Duration) -> Result<Scenario, SoakError> {
    let fleet = FleetSettings { users: settings.users, ..FleetSettings::new(prefix, SystemTime::now()) };
    let fleet = Fleet::prepare(&fleet).map_err(SoakError::Fleet)?;
    Ok(Scenario::new(fleet, settings.connections, duration))
}

struct Watch {
    stretch: Duration,
    pid: Option<u32>,
}

/// A run, and what came of it by stretches of its measured phase.
async fn watched(
    scenario: Scenario,
    server: &Server,
    watch: &Watch,
    mut done: impl FnMut(&Stretch),
) -> Result<(Report, Vec<Stretch>), SoakError> {
    let live = Arc::new(Live::new());
    let mut stretches = Vec::new();
    let report = {
        let watching = watch.stretches(&live, |stretch| {
            done(&stretch);
            stretches.push(stretch);
        });
        let running = run(scenario, server, &live, pending());
        tokio::pin!(running, watching);
        tokio::select! {
            report = &mut running => report,
            () = &mut watching => running.await,
        }
    };
    Ok((report.map_err(SoakError::Driver)?, stretches))
}

impl Watch {
    /// Looks at the counters until the measured phase is over.
    async fn stretches(&self, live: &Live, mut done: impl FnMut(Stretch)) {
        let mut phases = live.phases();
        if phases.wait_for(|phase| *phase >= Phase::Measured).await.is_err() {
            return;
        }
        drop(live.take_latency());
        let (mut since, mut before) = (Instant::now(), live.counts());
        loop {
            let over = tokio::select! {
                () = sleep_until(since + self.stretch) => false,
                _ = phases.wait_for(|phase| *phase > Phase::Measured) => true,
            };
            let (now, counts) = (Instant::now(), live.counts());
            // What is left at the end may be too short to say anything.
            if !over || now - since > self.stretch / 2 {
                done(self.stretch_of(now - since, &before, &counts, live));
            }
            if over {
                return;
            }
            (since, before) = (now, counts);
        }
    }

    fn stretch_of(&self, elapsed: Duration, before: &LiveCounts, now: &LiveCounts, live: &Live) -> Stretch {
        Stretch {
            elapsed,
            acknowledged: now.samples_acknowledged - before.samples_acknowledged,
            put_off: now.requests_put_off - before.requests_put_off,
            latency: live.take_latency().percentiles(),
            memory: self.pid.and_then(Memory::of),
        }
    }
}

impl Stretch {
    /// Samples acknowledged a second.
    pub fn rate(&self) -> f64 {
        self.acknowledged as f64 / self.elapsed.as_secs_f64().max(1e-9)
    }

    fn to_json(&self) -> Value {
        json!({
            "seconds": self.elapsed.as_secs_f64(),
            "samples_per_second": self.rate().round(),
            "put_off": self.put_off,
            "latency_us": percentiles_json(&self.latency),
            "memory": self.memory.map(|memory| memory.to_json()),
        })
    }
}

impl fmt::Display for Stretch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{:>6.1} s  {:>10} samples/s  {:>5} put off  p50 {:>8.2} ms  p99 {:>8.2} ms",
            self.elapsed.as_secs_f64(),
            grouped(self.rate() as u64),
            grouped(self.put_off),
            self.latency.p50 as f64 / 1_000.0,
            self.latency.p99 as f64 / 1_000.0
        )?;
        self.memory.map_or(Ok(()), |memory| write!(f, "  {memory}"))
    }
}

impl SoakReport {
    /// Whether everything offered was acknowledged, without a 429.
    pub fn kept_up(&self) -> bool {
        let offered = self.rate as f64 * OFFERED_MIN;
        self.put_off() == 0 && self.whole.samples_per_second() >= offered && self.whole.is_sound()
    }

    /// Answers 429 and 503 of the paced run, warm-up included.
    pub fn put_off(&self) -> u64 {
        [429, 503].iter().filter_map(|status| self.whole.statuses.get(status)).sum()
    }

    /// Samples a second of the first 30 s of the saturated run, and of its second half.
    pub fn burst_and_sustained(&self) -> Option<(f64, f64)> {
        let total: Duration = self.saturated.iter().map(|stretch| stretch.elapsed).sum();
        let burst_end = BURST.min(total / 4);
        let mut at = Duration::ZERO;
        let (mut burst, mut sustained) = (Vec::new(), Vec::new());
        for stretch in &self.saturated {
            if at < burst_end {
                burst.push(stretch);
            }
            if at >= total / 2 {
                sustained.push(stretch);
            }
            at += stretch.elapsed;
        }
        let rate = |stretches: &[&Stretch]| {
            let seconds: f64 = stretches.iter().map(|stretch| stretch.elapsed.as_secs_f64()).sum();
            let acknowledged: u64 = stretches.iter().map(|stretch| stretch.acknowledged).sum();
            (seconds > 0.0).then(|| acknowledged as f64 / seconds)
        };
        rate(&burst).zip(rate(&sustained))
    }

    /// How this run's p99 stands to that of another's JSON report, with its label.
    pub fn against(&self, other: &Value) -> Option<(String, f64)> {
        let p99 = other["latency_us"]["p99"].as_f64().filter(|p99| *p99 > 0.0)?;
        let label = other["label"].as_str().unwrap_or("?").to_owned();
        Some((label, self.whole.latency.p99 as f64 / p99))
    }

    /// One JSON object; times in microseconds, lengths in seconds.
    pub fn to_json(&self) -> Value {
        let stretches = |of: &[Stretch]| of.iter().map(Stretch::to_json).collect::<Vec<_>>();
        let speeds = self.burst_and_sustained();
        json!({
            "label": self.label,
            "rate": self.rate,
            "samples_per_second": self.whole.samples_per_second().round(),
            "put_off": self.put_off(),
            "latency_us": percentiles_json(&self.whole.latency),
            "kept_up": self.kept_up(),
            "offered": stretches(&self.offered),
            "saturated": stretches(&self.saturated),
            "burst_samples_per_second": speeds.map(|(burst, _)| burst.round()),
            "sustained_samples_per_second": speeds.map(|(_, sustained)| sustained.round()),
            "memory": self.memory.map(|memory| memory.to_json()),
            "run": self.whole.to_json(),
        })
    }
}

impl fmt::Display for SoakReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mark = |kept: bool| if kept { "kept" } else { "MISSED" };
        writeln!(
            f,
            "soak      {}: {} samples/s offered, {} acknowledged; wanted all of it without 429: {}",
            self.label,
            grouped(self.rate),
            grouped(self.whole.samples_per_second() as u64),
            mark(self.kept_up())
        )?;
        writeln!(f, "latency   {}; {} put off", Line(&self.whole.latency), grouped(self.put_off()))?;
        if let Some(memory) = self.memory {
            writeln!(f, "memory    {memory}; wanted < 2048 MiB {}", mark(memory.peak < MEMORY_MAX))?;
        }
        if let Some((burst, sustained)) = self.burst_and_sustained() {
            writeln!(
                f,
                "saturated {} samples/s burst, {} sustained: {:.0} %; wanted >= {:.0} % {}",
                grouped(burst as u64),
                grouped(sustained as u64),
                sustained / burst * 100.0,
                SUSTAINED_RATIO_MIN * 100.0,
                mark(sustained >= burst * SUSTAINED_RATIO_MIN)
            )?;
        }
        self.whole.first_error.as_ref().map_or(Ok(()), |error| writeln!(f, "error     first: {error}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stretch(seconds: u64, rate: u64) -> Stretch {
        Stretch {
            elapsed: Duration::from_secs(seconds),
            acknowledged: rate * seconds,
            put_off: 0,
            latency: Percentiles::default(),
            memory: None,
        }
    }

    fn report(saturated: Vec<Stretch>) -> SoakReport {
        let whole = Report {
            url: "http://a:1".to_owned(),
            connections: 1,
            points: 500,
            mix: crate::Mix::HeartRate,
            rate_samples_per_second: Some(1_000),
            warmup: WARMUP,
            measured: Duration::from_secs(10),
            samples_measured: 10_000,
            latency: Percentiles { p99: 6_000, ..Percentiles::default() },
            samples_acknowledged: 12_000,
            samples_unsure: 0,
            statuses: [(200, 24)].into(),
            requests_sent: 24,
            bytes_sent: 1,
            connections_lost: 0,
            reconnects_failed: 0,
            answers_wrong: 0,
            first_error: None,
            probes: vec![],
        };
        SoakReport { label: "a".to_owned(), rate: 1_000, offered: vec![], whole, saturated, memory: None }
    }

    #[test]
    fn the_burst_is_the_first_30_seconds_and_the_second_half_is_sustained() {
        let mut stretches = vec![stretch(10, 3_000); 3];
        stretches.extend(vec![stretch(10, 2_500); 3]);
        stretches.extend(vec![stretch(10, 2_000); 6]);
        let report = report(stretches);
        assert_eq!(report.burst_and_sustained(), Some((3_000.0, 2_000.0)));
        assert!(report.to_string().contains("67 %; wanted >= 70 % MISSED"), "{report}");
    }

    #[test]
    fn a_run_is_compared_with_the_report_of_another() {
        let report = report(vec![]);
        let other = json!({ "label": "held", "latency_us": { "p99": 4_000 } });
        assert_eq!(report.against(&other), Some(("held".to_owned(), 1.5)));
        assert_eq!(report.against(&json!({})), None);
        assert_eq!(report.against(&report.to_json()), Some(("a".to_owned(), 1.0)));
    }

    #[test]
    fn a_run_with_a_429_or_less_than_its_offer_did_not_keep_up() {
        assert!(report(vec![]).kept_up());
        let mut busy = report(vec![]);
        busy.whole.statuses.insert(429, 1);
        let mut slow = report(vec![]);
        slow.whole.samples_measured = 9_000;
        assert!(!busy.kept_up() && !slow.kept_up());
    }
}
