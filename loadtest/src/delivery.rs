//! A load run with its webhooks: the same fleet and connections as any run, one or
//! more endpoints without a filter, and a receiver on threads of its own that
//! counts what comes.
//!
//! ```text
//! warmup -> measured ------------> in flight -> draining (30 s at most) -> deleted
//!           |- delivered in here -|            |- backlog at its begin
//! ```
//!
//! Delivered samples are those of verified events, each event once for each
//! endpoint; with `n` endpoints everything acknowledged is expected `n` times.
//! The rate of deliveries is that of the measured phase, whenever their samples
//! were acknowledged, so a receiver that falls behind shows as a lower rate and as
//! a backlog. Latency is from commit to receipt on one machine's clock: of what
//! was received in the measured phase, and of everything.
//!
//! The load, the receiver and the server share the machine here: what the first
//! two take is missing to the third.

use std::fmt;
use std::future::Future;
use std::panic::resume_unwind;
use std::sync::Arc;
use std::time::Duration;

use serde_json::{Value, json};
use tokio::time::{Instant, sleep};

use crate::client::Server;
use crate::driver::{self, DriverError, Live, Phase, Scenario};
use crate::histogram::Percentiles;
use crate::receiver::{Receiver, ReceiverCounts, ReceiverError, ReceiverLive, ReceiverSettings};
use crate::report::{Line, Report, error_chain, grouped, percentiles_json};
use crate::signature::{Dialect, SecretError};
use crate::webhooks::{EndpointId, EndpointSettings, WebhookError, Webhooks};

/// How long the last deliveries may take unless told.
const PATIENCE_DEFAULT: Duration = Duration::from_secs(30);
/// How often the backlog is looked at.
const WAIT_STEP: Duration = Duration::from_millis(5);
/// How long after the last expected sample events that come twice may show.
const SETTLE: Duration = Duration::from_millis(200);

/// What to run.
#[derive(Debug)]
pub struct DeliveryScenario {
    /// The load.
    pub load: Scenario,
    /// Endpoints, each for everything.
    pub endpoints: usize,
    /// How their events are signed.
    pub dialect: Dialect,
    /// The receiver of all of them.
    pub receiver: ReceiverSettings,
    /// How long deliveries may take once the load has ended.
    pub patience: Duration,
}

impl DeliveryScenario {
    /// One endpoint of `standard`, one receiver thread, 30 s for the backlog.
    pub fn new(load: Scenario) -> Self {
        Self {
            load,
            endpoints: 1,
            dialect: Dialect::Standard,
            receiver: ReceiverSettings { latency: true, ..ReceiverSettings::default() },
            patience: PATIENCE_DEFAULT,
        }
    }
}

/// Why a run did not begin.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DeliveryError {
    /// There is no receiver.
    #[error("the receiver cannot be started")]
    Receiver(#[from] ReceiverError),
    /// An endpoint is not there.
    #[error("a webhook endpoint cannot be set up")]
    Webhook(#[from] WebhookError),
    /// An endpoint's secret is none.
    #[error("a webhook endpoint has a secret that signs nothing")]
    Secret(#[from] SecretError),
    /// Nothing could be sent.
    #[error("the load did not begin")]
    Driver(#[from] DriverError),
}

/// The figures of one run.
#[derive(Debug, Clone)]
pub struct DeliveryReport {
    /// Those of the load.
    pub load: Report,
    /// Endpoints that everything was expected at.
    pub endpoints: u64,
    /// How events were signed.
    pub dialect: Dialect,
    /// Threads of the receiver.
    pub receiver_threads: usize,
    /// What was received in the measured phase.
    pub measured: Window,
    /// Samples acknowledged and not delivered when the load had ended.
    pub backlog_samples: u64,
    /// How long it took to deliver them; `None` if the patience ended first.
    pub drained: Option<Duration>,
    /// What the receiver counted in the whole run.
    pub counts: ReceiverCounts,
    /// From commit to receipt, of everything.
    pub latency: Percentiles,
    /// Why an endpoint could not be deleted, if one could not.
    pub left_behind: Option<String>,
}

/// What was received between two moments.
#[derive(Debug, Clone, Copy, Default)]
pub struct Window {
    /// From the one to the other.
    pub length: Duration,
    /// Samples of verified events.
    pub samples: u64,
    /// Verified events.
    pub events: u64,
    /// Bytes of bodies.
    pub bytes: u64,
    /// From commit to receipt.
    pub latency: Percentiles,
}

/// Runs `scenario` against `server`, as [`crate::run`] does its load, and waits
/// for the deliveries. An error means that the load did not begin.
pub async fn run(
    scenario: DeliveryScenario,
    server: &Server,
    live: &Arc<Live>,
    stop: impl Future<Output = ()>,
) -> Result<DeliveryReport, DeliveryError> {
    let receiver = Receiver::start(&scenario.receiver)?;
    let mut endpoints = Endpoints { webhooks: Webhooks::new(server), made: Vec::new() };
    let driven = match endpoints.make(&scenario, &receiver).await {
        Ok(()) => drive(scenario, server, live, stop, receiver.live()).await,
        Err(error) => Err(error),
    };
    let left_behind = endpoints.delete().await;
    receiver.stop().await;
    Ok(DeliveryReport { left_behind, ..driven? })
}

/// Runs the load, waits for its deliveries, reads the counters.
async fn drive(
    scenario: DeliveryScenario,
    server: &Server,
    live: &Arc<Live>,
    stop: impl Future<Output = ()>,
    received: Arc<ReceiverLive>,
) -> Result<DeliveryReport, DeliveryError> {
    let watching = tokio::spawn(watch(Arc::clone(live), Arc::clone(&received)));
    let driven = driver::run(scenario.load, server, live, stop).await;
    let end = Instant::now();
    let load = driven.inspect_err(|_| watching.abort())?;
    let expected = load.samples_acknowledged * scenario.endpoints as u64;
    let backlog_samples = expected.saturating_sub(received.counts().samples);
    let drained = drain(&received, expected, end + scenario.patience).await.then(|| end.elapsed());
    sleep(SETTLE).await;
    Ok(DeliveryReport {
        load,
        endpoints: scenario.endpoints as u64,
        dialect: scenario.dialect,
        receiver_threads: scenario.receiver.threads,
        measured: watching.await.unwrap_or_else(|error| resume_unwind(error.into_panic())),
        backlog_samples,
        drained,
        counts: received.counts(),
        latency: received.latency().percentiles(),
        left_behind: None,
    })
}

/// The endpoints of a run.
struct Endpoints {
    webhooks: Webhooks,
    /// Deleted at the end, whatever came of the run.
    made: Vec<EndpointId>,
}

impl Endpoints {
    async fn make(&mut self, scenario: &DeliveryScenario, receiver: &Receiver) -> Result<(), DeliveryError> {
        for number in 0..scenario.endpoints {
            let path = format!("/endpoint/{number}");
            let url = format!("{}{path}", receiver.url());
            let asked = EndpointSettings { dialect: scenario.dialect, ..EndpointSettings::new(url) };
            let id = self.webhooks.create(&asked).await?;
            self.made.push(id.clone());
            receiver.expect(&path, scenario.dialect, &self.webhooks.secret(&id).await?)?;
        }
        Ok(())
    }

    /// Deletes every endpoint; the first reason why one is left behind.
    async fn delete(&self) -> Option<String> {
        let mut left_behind = None;
        for endpoint in &self.made {
            if let Err(error) = self.webhooks.delete(endpoint).await {
                left_behind.get_or_insert_with(|| format!("{endpoint}: {}", error_chain(&error)));
            }
        }
        left_behind
    }
}

/// What is received from the begin to the end of the measured phase.
async fn watch(live: Arc<Live>, received: Arc<ReceiverLive>) -> Window {
    let mut phases = live.phases();
    // `live` owns the sender, so that waiting cannot fail.
    phases.wait_for(|phase| *phase >= Phase::Measured).await.ok();
    let (begin, before) = (Instant::now(), received.counts());
    received.take_latency();
    phases.wait_for(|phase| *phase > Phase::Measured).await.ok();
    let (length, after) = (begin.elapsed(), received.counts());
    Window {
        length,
        samples: after.samples - before.samples,
        events: after.events - before.events,
        bytes: after.bytes - before.bytes,
        latency: received.take_latency().percentiles(),
    }
}

/// Waits until so many samples were delivered; false if `until` came first.
async fn drain(received: &ReceiverLive, expected: u64, until: Instant) -> bool {
    while received.counts().samples < expected {
        if Instant::now() >= until {
            return false;
        }
        sleep(WAIT_STEP).await;
    }
    true
}

impl Window {
    fn per_second(&self, count: u64) -> f64 {
        let seconds = self.length.as_secs_f64();
        if seconds > 0.0 { count as f64 / seconds } else { 0.0 }
    }

    fn to_json(self) -> Value {
        json!({
            "seconds": self.length.as_secs_f64(),
            "samples": self.samples,
            "samples_per_second": self.per_second(self.samples).round(),
            "events": self.events,
            "events_per_second": self.per_second(self.events).round(),
            "bytes": self.bytes,
            "latency_us": percentiles_json(&self.latency),
        })
    }
}

impl DeliveryReport {
    /// Samples expected: everything acknowledged, at every endpoint.
    pub fn samples_expected(&self) -> u64 {
        self.load.samples_acknowledged * self.endpoints
    }

    /// Delivered samples a second of the measured phase.
    pub fn samples_per_second(&self) -> f64 {
        self.measured.per_second(self.measured.samples)
    }

    /// Whether the server kept its word: the load is sound, and everything
    /// acknowledged was delivered, verified, each event once. Where sendings were
    /// in doubt they may be delivered or not.
    pub fn is_sound(&self) -> bool {
        let ReceiverCounts { samples, .. } = self.counts;
        let most = self.samples_expected() + self.load.samples_unsure * self.endpoints;
        self.load.is_sound()
            && (self.samples_expected()..=most).contains(&samples)
            && self.faults().iter().all(|(count, _)| *count == 0)
            && self.left_behind.is_none()
    }

    /// One JSON object; times in microseconds, lengths in seconds.
    pub fn to_json(&self) -> Value {
        let counts = &self.counts;
        json!({
            "load": self.load.to_json(),
            "endpoints": self.endpoints,
            "dialect": self.dialect.as_str(),
            "receiver_threads": self.receiver_threads,
            "measured": self.measured.to_json(),
            "backlog_samples": self.backlog_samples,
            "drained_seconds": self.drained.map(|time| time.as_secs_f64()),
            "samples_expected": self.samples_expected(),
            "samples_delivered": counts.samples,
            "events_delivered": counts.events,
            "duplicates": counts.duplicates,
            "bodies_changed": counts.bodies_changed,
            "events_unkept": counts.events_unkept,
            "refused": counts.refused(),
            "latency_us": percentiles_json(&self.latency),
            "left_behind": self.left_behind,
            "sound": self.is_sound(),
        })
    }

    fn faults(&self) -> [(u64, &'static str); 6] {
        let counts = &self.counts;
        [
            (counts.duplicates, "events delivered again"),
            (counts.bodies_changed, "attempts with other bytes than the first of their event"),
            (counts.events_unkept, "events beyond the ids that are remembered: duplicates would not show"),
            (counts.unnamed, "events without an id"),
            (counts.refused_signature, "requests refused for their signature"),
            (counts.refused() - counts.refused_signature, "requests refused for another reason"),
        ]
    }
}

impl fmt::Display for DeliveryReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let measured = &self.measured;
        self.load.fmt(f)?;
        writeln!(
            f,
            "webhooks  {} endpoint(s) of {}, {} receiver thread(s)",
            self.endpoints, self.dialect, self.receiver_threads
        )?;
        writeln!(
            f,
            "delivered {} samples/s, {} events/s, {} MB/s of bodies ({} samples in all)",
            grouped(self.samples_per_second() as u64),
            grouped(measured.per_second(measured.events) as u64),
            grouped(measured.per_second(measured.bytes) as u64 / 1_000_000),
            grouped(measured.samples)
        )?;
        writeln!(f, "receipt   {}, after commit, while measured", Line(&measured.latency))?;
        writeln!(f, "receipt   {}, after commit, whole run", Line(&self.latency))?;
        let drained = match self.drained {
            Some(time) => format!("delivered {:.2} s after the load's end", time.as_secs_f64()),
            None => "not delivered in time".to_owned(),
        };
        writeln!(f, "backlog   {} samples at the load's end, {drained}", grouped(self.backlog_samples))?;
        writeln!(
            f,
            "whole run {} of {} samples delivered in {} events, {} duplicates, {} refused",
            grouped(self.counts.samples),
            grouped(self.samples_expected()),
            grouped(self.counts.events),
            grouped(self.counts.duplicates),
            grouped(self.counts.refused())
        )?;
        for (count, what) in self.faults().into_iter().filter(|(count, _)| *count > 0) {
            writeln!(f, "fault     {} {what}", grouped(count))?;
        }
        let left_behind = self.left_behind.iter();
        left_behind.into_iter().try_for_each(|why| writeln!(f, "fault     endpoint not deleted: {why}"))
    }
}
