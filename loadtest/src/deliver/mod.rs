//! How fast a server delivers: a load that causes webhooks, a receiver in the same
//! process, and what a loop could reach that only signs and posts.
//!
//! ```text
//! warmup -> measured --------------> stopped -> draining -> endpoints deleted -> limits
//!           |- acknowledged here -|            |- backlog at its begin
//!           |- delivered here ----|
//! ```
//!
//! Two scenarios, [`Scenario::Events`] and [`Scenario::Series`]. Requests are sent by
//! a [`crate::lean`] client, deliveries taken by a [`crate::sink`]: what load and
//! receiver take of the machine is missing to the server.
//!
//! Time is from acknowledgement to receipt, by this process's clock: from when the
//! answer to the publisher had been read to when the delivery had been read; a
//! delivery that is there before that answer took no time. Events of samples do not
//! say which request they come of, so theirs is from commit (their `ordering`) to
//! receipt, which is longer.
//!
//! Several endpoints share the users: an endpoint's users are an organisation, since
//! an endpoint is for one user or for all of its organisation. The organisations are
//! made by an operator's key and stay, empty of keys and endpoints.

pub(crate) mod books;
mod limit;
pub(crate) mod load;
pub(crate) mod receipts;
mod report;
pub(crate) mod sender;

use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use hyper::StatusCode;
use serde_json::{Map, Value, json};
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep};

pub use books::Counted;
use books::{Books, Content, Timed};
use limit::LimitSettings;
pub use limit::{Limit, LimitBeside, LimitError};
use load::{Events, Load, Series};
use receipts::Receipts;
pub use report::{
    DELIVERIES_PER_SECOND_MIN, DeliverReport, INGEST_SHARE_MIN, LIMIT_SHARE_MIN, P50_MICROS_MAX,
    P99_MICROS_MAX, SAMPLES_PER_SECOND_MIN,
};
use sender::{Offer, Sent};

use crate::client::{ClientError, Server};
use crate::fleet::{Fleet, FleetError, FleetSettings};
use crate::lean::LeanError;
use crate::random::Random;
use crate::receiver::ReceiverError;
use crate::report::{error_chain, error_excerpt};
use crate::signature::{Dialect, Key, Secret, SecretError};
use crate::sink::Sink;
use crate::webhooks::{EndpointId, EndpointSettings, WebhookError, Webhooks};

const KEYS: &str = "/api/v1/api-keys";
/// How often the backlog is looked at.
const STEP: Duration = Duration::from_millis(10);
/// How long after the last expected event those that come twice may show.
const SETTLE: Duration = Duration::from_millis(200);
/// Ids that are remembered: 2 minutes of 30,000 a second, 280 MB once it is reached.
const REMEMBER_IDS: usize = 4_000_000;

/// What is offered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scenario {
    /// Published events, to one endpoint.
    Events {
        /// Size of an event's data.
        bytes: usize,
        /// Events of a request, one a line.
        lines: u64,
    },
    /// Live samples, a user a request, to one or more endpoints.
    Series {
        /// Samples of a request.
        points: usize,
    },
}

/// What to run.
#[derive(Debug, Clone)]
pub struct DeliverSettings {
    /// What is offered.
    pub scenario: Scenario,
    /// Endpoints that share the users; more than one only for [`Scenario::Series`].
    pub endpoints: usize,
    /// Connections that send, each one request at a time.
    pub connections: u64,
    /// Users of a pass, at least.
    pub users: u64,
    /// Load before the figures begin.
    pub warmup: Duration,
    /// Length of the measured phase.
    pub duration: Duration,
    /// Events, or samples, a second offered; `None` for as fast as they are answered.
    pub rate: Option<u64>,
    /// The signature of every so many deliveries is verified.
    pub verify_every: u64,
    /// Threads of the receiver.
    pub receiver_threads: usize,
    /// How long deliveries may take once the load has ended.
    pub patience: Duration,
    /// How long the limit loop runs, alone and with one endpoint once more while the server
    /// takes in as much as it did; `None` leaves it out.
    pub limit: Option<Duration>,
    /// Its connections; `None` for as many as the server had open.
    pub limit_connections: Option<usize>,
    /// Tells the users of one run from those of another.
    pub run_prefix: String,
}

impl DeliverSettings {
    /// 10 s after 2 s of warm-up over 64 connections, one endpoint, no limit loop.
    pub fn new(scenario: Scenario, run_prefix: impl Into<String>) -> Self {
        Self {
            scenario,
            endpoints: 1,
            connections: 64,
            users: 20_000,
            warmup: Duration::from_secs(2),
            duration: Duration::from_secs(10),
            rate: None,
            verify_every: 10,
            receiver_threads: 1,
            patience: Duration::from_secs(30),
            limit: None,
            limit_connections: None,
            run_prefix: run_prefix.into(),
        }
    }
}

/// Why there is no report.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DeliverError {
    /// Published events have no way to several endpoints of a share each.
    #[error("published events go to one endpoint, not {endpoints}")]
    Endpoints {
        /// What was asked for.
        endpoints: usize,
    },
    /// No such fleet.
    #[error("the load cannot be made")]
    Fleet(#[from] FleetError),
    /// There is no receiver.
    #[error("the receiver cannot be started")]
    Receiver(#[from] ReceiverError),
    /// An endpoint is not there.
    #[error("a webhook endpoint cannot be set up")]
    Webhook(#[from] WebhookError),
    /// The secret of this run signs nothing; a bug.
    #[error("the run's secret signs nothing")]
    Secret(#[from] SecretError),
    /// The server is not there.
    #[error("the server cannot be called")]
    Client(#[from] ClientError),
    /// An organisation could not be made; needs an operator's key.
    #[error("organisation {org:?} was not made: {status} {text}")]
    Org {
        /// Which one.
        org: String,
        /// The server's status.
        status: StatusCode,
        /// The beginning of its answer.
        text: String,
    },
    /// The load did not begin.
    #[error("a connection of the load was not opened")]
    Load(#[from] LeanError),
    /// The limit loop failed.
    #[error("there is no limit to compare with")]
    Limit(#[from] LimitError),
}

/// Runs it, against a server that may call 127.0.0.1.
pub async fn run(settings: &DeliverSettings, server: &Server) -> Result<DeliverReport, DeliverError> {
    let secret = made_secret();
    let key = Key::prepare(Dialect::Standard, &secret)?;
    let orgs = orgs(settings)?;
    let (load, content) = load(settings, &orgs)?;
    let books = Arc::new(Books::new(key.clone(), settings.verify_every, content, REMEMBER_IDS));
    let sink = Sink::start(settings.receiver_threads, Arc::clone(&books) as _)?;
    let mut set_up = SetUp::default();
    let driven = match set_up.make(server, &orgs, &sink, &secret).await {
        Ok(()) => drive(settings, server, load, &books, &sink).await,
        Err(error) => Err(error),
    };
    let left_behind = set_up.delete(server).await;
    let mut report = DeliverReport { left_behind, ..driven? };
    drop(sink);
    if let Some(duration) = settings.limit {
        let limit = LimitSettings {
            key,
            bodies: books.bodies(),
            connections: settings.limit_connections.unwrap_or(report.receiver_connections),
            duration,
            receiver_threads: settings.receiver_threads,
            verify_every: settings.verify_every,
            remember_ids: REMEMBER_IDS,
        };
        if !limit.bodies.is_empty() {
            report.limit = Some(limit::run(limit.clone()).await?);
            let rate = report.acknowledged_per_second();
            if orgs.is_empty() && rate >= 1.0 {
                report.limit_beside = Some(beside(settings, server, limit, rate).await?);
            }
        }
    }
    Ok(report)
}

/// The limit while the server takes in so many events a second, which nobody subscribes to.
async fn beside(
    settings: &DeliverSettings,
    server: &Server,
    limit: LimitSettings,
    rate: f64,
) -> Result<LimitBeside, DeliverError> {
    let run_prefix = format!("{}-beside", settings.run_prefix);
    let (load, _) = load(&DeliverSettings { run_prefix, ..settings.clone() }, &[])?;
    let requests = rate / load.events().max(1) as f64;
    let offer = Arc::new(Offer::new(load, server, Some(requests)));
    let sending = tokio::spawn(sender::join(sender::start(&offer, settings.connections, 0).await?));
    wait(settings.warmup, &sending).await;
    let (begin, before) = (Instant::now(), offer.acknowledged());
    let limit = limit::run(limit).await;
    let taken_in = (offer.acknowledged() - before) as f64 / begin.elapsed().as_secs_f64();
    offer.stop();
    let sent = sending.await.unwrap_or_else(|error| std::panic::resume_unwind(error.into_panic()));
    Ok(LimitBeside { limit: limit?, taken_in, first_error: sent.first_error })
}

/// A secret for this run alone.
pub(crate) fn made_secret() -> Secret {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let mut random = Random::seeded(now.as_nanos() as u64);
    let bytes: Vec<u8> = (0..4).flat_map(|_| random.next().to_le_bytes()).collect();
    Secret::new(format!("whsec_{}", STANDARD.encode(bytes)))
}

/// An endpoint that is signed for with the run's secret.
pub(crate) fn endpoint(url: String, secret: &Secret) -> EndpointSettings {
    let mut more = Map::new();
    more.insert("secret".to_owned(), json!(secret.reveal()));
    EndpointSettings { more, ..EndpointSettings::new(url) }
}

/// The organisations that share the users; none for the key's own.
fn orgs(settings: &DeliverSettings) -> Result<Vec<String>, DeliverError> {
    let endpoints = settings.endpoints;
    match settings.scenario {
        _ if endpoints == 1 => Ok(Vec::new()),
        Scenario::Events { .. } => Err(DeliverError::Endpoints { endpoints }),
        Scenario::Series { .. } => {
            let prefix: String =
                settings.run_prefix.chars().filter(char::is_ascii_alphanumeric).take(40).collect();
            let prefix = prefix.to_ascii_lowercase();
            Ok((0..endpoints).map(|number| format!("load-{prefix}-{number}")).collect())
        }
    }
}

fn load(settings: &DeliverSettings, orgs: &[String]) -> Result<(Load, Content), DeliverError> {
    match settings.scenario {
        Scenario::Events { bytes, lines } => {
            let prefix = format!("load-{}", settings.run_prefix);
            let events = Events::new(&prefix, settings.users, settings.connections, bytes).in_lines(lines);
            let (receipts, users) = (Arc::new(Receipts::new()), events.users);
            Ok((Load::Events(events), Content::Events { receipts, users, timed: Timed::ALL }))
        }
        Scenario::Series { points } => {
            let users = settings.users.max(1).next_multiple_of(settings.endpoints as u64);
            let of = FleetSettings::new(&settings.run_prefix, SystemTime::now());
            let fleet = Fleet::prepare(&FleetSettings { users, points, ..of })?;
            let series = Series { fleet, orgs: orgs.to_vec() };
            Ok((Load::Series(series), Content::Series { latency: Default::default() }))
        }
    }
}

/// What is made for a run and deleted behind it, whatever came of it.
#[derive(Debug, Default)]
struct SetUp {
    /// Organisation (empty for the key's own) and endpoint.
    endpoints: Vec<(String, EndpointId)>,
    /// Organisation and id of a key.
    keys: Vec<(String, String)>,
}

impl SetUp {
    async fn make(
        &mut self,
        server: &Server,
        orgs: &[String],
        sink: &Sink,
        secret: &Secret,
    ) -> Result<(), DeliverError> {
        if orgs.is_empty() {
            let made = Webhooks::new(server).create(&endpoint(format!("{}/0", sink.url()), secret)).await?;
            self.endpoints.push((String::new(), made));
        }
        for (number, org) in orgs.iter().enumerate() {
            self.keys.push((org.clone(), make_org(server, org).await?));
            let webhooks = Webhooks::of_org(server, org);
            let made = webhooks.create(&endpoint(format!("{}/{number}", sink.url()), secret)).await?;
            self.endpoints.push((org.clone(), made));
        }
        Ok(())
    }

    /// The first reason why something is left behind.
    async fn delete(&self, server: &Server) -> Option<String> {
        let mut left_behind = None;
        for (org, endpoint) in &self.endpoints {
            let webhooks = if org.is_empty() { Webhooks::new(server) } else { Webhooks::of_org(server, org) };
            if let Err(error) = webhooks.delete(endpoint).await {
                left_behind.get_or_insert_with(|| format!("{endpoint}: {}", error_chain(&error)));
            }
        }
        for (org, key) in &self.keys {
            if let Err(why) = delete_key(server, org, key).await {
                left_behind.get_or_insert(why);
            }
        }
        left_behind
    }
}

async fn delete_key(server: &Server, org: &str, key: &str) -> Result<(), String> {
    let path = format!("{KEYS}/{key}?org={org}");
    let deleted = async { server.connect().await?.delete(&path).await };
    match deleted.await {
        Ok(answer) if answer.status.is_success() => Ok(()),
        Ok(answer) => Err(format!("{key}: {}", answer.status)),
        Err(error) => Err(format!("{key}: {}", error_chain(&error))),
    }
}

/// Makes an organisation by its first key, and answers that key's id.
async fn make_org(server: &Server, org: &str) -> Result<String, DeliverError> {
    let body = Bytes::from_static(br#"{"name":"load","scopes":["ingest"]}"#);
    let answer = server.connect().await?.post(&format!("{KEYS}?org={org}"), body).await?;
    let made: Option<Value> = serde_json::from_slice(&answer.body).ok();
    let id = made.as_ref().and_then(|made| made["id"].as_str()).filter(|_| answer.status.is_success());
    id.map(str::to_owned).ok_or_else(|| DeliverError::Org {
        org: org.to_owned(),
        status: answer.status,
        text: error_excerpt(&answer.body),
    })
}

/// Leads the load through its phases.
async fn drive(
    settings: &DeliverSettings,
    server: &Server,
    load: Load,
    books: &Books,
    sink: &Sink,
) -> Result<DeliverReport, DeliverError> {
    let (samples_a_request, events_a_request) = (load.samples(), load.events());
    let a_request = samples_a_request.max(events_a_request);
    let requests = settings.rate.map(|rate| rate as f64 / a_request as f64);
    let mut offer = Offer::new(load, server, requests);
    offer.receipts = books.receipts();
    let offer = Arc::new(offer);
    let sending = tokio::spawn(sender::join(sender::start(&offer, settings.connections, 0).await?));
    wait(settings.warmup, &sending).await;
    let (begin, before, acknowledged_before) = (Instant::now(), books.counted(), offer.acknowledged());
    books.take_latency();
    wait(settings.duration, &sending).await;
    let (measured, after) = (begin.elapsed(), books.counted());
    let acknowledged_measured = offer.acknowledged() - acknowledged_before;
    let latency = books.take_latency().percentiles();
    offer.stop();
    let Sent { statuses, unsure, first_error, .. } =
        sending.await.unwrap_or_else(|error| std::panic::resume_unwind(error.into_panic()));
    let end = Instant::now();
    let acknowledged = offer.acknowledged();
    let backlog = books.open(acknowledged, samples_a_request).0;
    let drained = drain(books, acknowledged, samples_a_request, end + settings.patience).await;
    let drained = drained.then(|| end.elapsed());
    sleep(SETTLE).await;
    let (missing, unasked) = books.open(acknowledged, samples_a_request);
    let connections = sink.counts();
    Ok(DeliverReport {
        scenario: if samples_a_request == 0 { "events" } else { "series" },
        endpoints: settings.endpoints,
        connections: settings.connections,
        rate: requests,
        samples_a_request,
        events_a_request,
        measured,
        acknowledged_measured,
        received_measured: after.since(&before),
        latency,
        latency_whole: books.latency().percentiles(),
        acknowledged,
        missing,
        unasked,
        unsure,
        backlog,
        drained,
        counted: books.counted(),
        receiver_connections: connections.most(),
        receiver_connections_accepted: connections.accepted(),
        receiver_connections_broken: connections.broken(),
        statuses,
        first_error,
        limit: None,
        limit_beside: None,
        left_behind: None,
    })
}

/// Waits for `time`, or until every connection gave up.
pub(crate) async fn wait(time: Duration, sending: &JoinHandle<Sent>) {
    let until = Instant::now() + time;
    while Instant::now() < until && !sending.is_finished() {
        sleep(STEP.min(until - Instant::now())).await;
    }
}

/// Waits until nothing is missing; false if `until` came first.
async fn drain(books: &Books, acknowledged: u64, samples: u64, until: Instant) -> bool {
    loop {
        // The exact look goes over all events of the run.
        let enough = books.counted().reaches(acknowledged, samples);
        if enough && books.open(acknowledged, samples).0 == 0 {
            return true;
        }
        if Instant::now() >= until {
            return false;
        }
        sleep(if enough { STEP * 10 } else { STEP }).await;
    }
}
