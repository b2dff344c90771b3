//! The library part of `systole demo`: a fleet pushes samples to a server that is
//! already running, a receiver takes the webhooks that come of them, the figures
//! are shown while it goes on, and at the end three tallies must be one.
//!
//! ```text
//! fleet -- 500-point bodies, 100,000 samples/s --> server -- signed events --> receiver
//!   |            8 connections, 500 users             |        one endpoint       |
//!   '- sent: what was acknowledged                    |     delivered: parsed,   -'
//!      (ledger)                     stored: read back '     per series (books)
//!                                   over /metric
//! ```
//!
//! Life: register the endpoint, send until the stop signal or the time, wait for
//! the deliveries, read back, compare, delete the endpoint.
//!
//! Each series (user, metric) is compared by its count and by the sum of its
//! values. A batch whose answer was lost may be stored or not; its series agree if
//! what is stored is what was delivered and lies between the sums with and without
//! it. Reading back costs as much as the samples are many, so above
//! [`DemoSettings::samples_read_back_max`] only an even part of the users is read
//! back, and the table says which.
//!
//! It starts no server and knows its clock to be that of this machine: the time
//! from commit to receipt means nothing otherwise.

mod compare;
mod look;
mod screen;

use std::future::Future;
use std::io;
use std::pin::pin;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use hyper::StatusCode;
use serde::Deserialize;
use tokio::time::{Instant, MissedTickBehavior, interval, sleep};

use crate::client::{ApiKey, ClientError, Connection, Server};
use crate::driver::{self, DriverError, Ledger, Live, Scenario};
use crate::fleet::{Fleet, FleetError, FleetSettings, Mix};
use crate::receiver::{Detail, Receiver, ReceiverError, ReceiverLive, ReceiverSettings};
use crate::report::{Report, error_chain, error_excerpt};
use crate::signature::{Dialect, SecretError};
use crate::tally::Tallies;
use crate::webhooks::{EndpointId, EndpointSettings, WebhookError, Webhooks};
pub use compare::DemoOutcome;
use compare::{Comparison, Vocabulary};
use look::Looker;
use screen::{Moment, Screen};

/// Where the endpoint posts to.
const HOOK: &str = "/demo";
/// The server's limit of a bulk body.
const POINTS: usize = 500;
/// How often the figures change.
const TICK: Duration = Duration::from_secs(1);
/// How often the waiting for deliveries looks.
const WAIT_STEP: Duration = Duration::from_millis(50);

/// What a demo runs with.
#[derive(Debug, Clone)]
pub struct DemoSettings {
    /// The server, `http://HOST:PORT`. It must allow webhooks to 127.0.0.1.
    pub server_url: String,
    /// A key with the scopes `ingest`, `read` and `webhooks`, not bound to a user.
    pub key: ApiKey,
    /// How long samples are sent; `None` until the stop signal.
    pub seconds: Option<u64>,
    /// Users of a pass.
    pub users: u64,
    /// What the fleet offers.
    pub rate_samples_per_second: u64,
    /// Connections that send.
    pub connections: usize,
    /// The address of the server's page, to show.
    pub page_url: Option<String>,
    /// Figures in place, with ANSI sequences; otherwise a line a second.
    pub terminal: bool,
    /// How long deliveries may take once the last sample was sent.
    pub patience: Duration,
    /// Above this, only an even part of the users is read back.
    pub samples_read_back_max: u64,
}

impl DemoSettings {
    /// 500 users and 100,000 samples/s over 8 connections until the stop signal, a
    /// line a second, 30 s for the last deliveries, 20 million samples read back.
    pub fn new(server_url: impl Into<String>, key: ApiKey) -> Self {
        Self {
            server_url: server_url.into(),
            key,
            seconds: None,
            users: 500,
            rate_samples_per_second: 100_000,
            connections: 8,
            page_url: None,
            terminal: false,
            patience: Duration::from_secs(30),
            samples_read_back_max: 20_000_000,
        }
    }
}

/// Why a demo has no outcome.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DemoError {
    /// The server cannot be asked.
    #[error("the server has no answer")]
    Client(#[from] ClientError),
    /// The server answered a question of the demo's with something else.
    #[error("GET {path} was answered with {status}: {body}")]
    Answer {
        /// What was asked for.
        path: String,
        /// What came.
        status: StatusCode,
        /// Its beginning.
        body: String,
    },
    /// An answer is not of the shape that the API promises.
    #[error("the answer to GET {path} has another shape")]
    Shape {
        /// What was asked for.
        path: String,
        /// What is wrong with it.
        #[source]
        source: serde_json::Error,
    },
    /// There is no fleet.
    #[error("the fleet cannot be made")]
    Fleet(#[from] FleetError),
    /// There is no receiver.
    #[error("the receiver cannot be started")]
    Receiver(#[from] ReceiverError),
    /// The endpoint is not there.
    #[error("the webhook endpoint cannot be set up")]
    Webhook(#[from] WebhookError),
    /// The endpoint's secret is none.
    #[error("the webhook endpoint has a secret that signs nothing")]
    Secret(#[from] SecretError),
    /// Nothing could be sent.
    #[error("the fleet cannot send")]
    Driver(#[from] DriverError),
    /// The figures cannot be shown.
    #[error("the figures cannot be written")]
    Output(#[from] io::Error),
}

/// Runs the demo against a running server, writing to `out`, until `stop`
/// completes or the time is over; then compares. The outcome says whether sent,
/// stored and delivered agree.
///
/// The endpoint is deleted after an error too, if the server still answers.
pub async fn run(
    settings: DemoSettings,
    out: &mut (dyn io::Write + Send),
    stop: impl Future<Output = ()>,
) -> Result<DemoOutcome, DemoError> {
    let server = Server::new(&settings.server_url, &settings.key)?;
    let fleet = Arc::new(fleet(&settings)?);
    let vocabulary = Vocabulary::ask(&server, &fleet).await?;
    let receiver = Receiver::start(&ReceiverSettings {
        detail: Detail::Full,
        latency: true,
        ..ReceiverSettings::default()
    })?;
    let webhooks = Webhooks::new(&server);
    let endpoint = webhooks.create(&EndpointSettings::new(format!("{}{HOOK}", receiver.url()))).await?;
    let mut stage = Stage {
        screen: Screen::new(out, &settings),
        settings,
        server,
        fleet,
        ledger: Arc::default(),
        live: Arc::default(),
        receiver: receiver.live(),
        vocabulary,
    };
    let shown = stage.play(&webhooks, &endpoint, &receiver, stop).await;
    if let Err(error) = webhooks.delete(&endpoint).await {
        stage.screen.line(&format!("{endpoint} stays behind: {}", error_chain(&error)))?;
    }
    receiver.stop().await;
    shown
}

fn fleet(settings: &DemoSettings) -> Result<Fleet, FleetError> {
    let now = SystemTime::now();
    let seconds = now.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
    Fleet::prepare(&FleetSettings {
        users: settings.users,
        points: POINTS,
        mix: Mix::Fleet,
        ..FleetSettings::new(format!("demo-{seconds}"), now)
    })
}

/// Everything that one demo holds.
struct Stage<'a> {
    settings: DemoSettings,
    server: Server,
    fleet: Arc<Fleet>,
    /// What became of each batch; written by the driver.
    ledger: Arc<Ledger>,
    live: Arc<Live>,
    receiver: Arc<ReceiverLive>,
    vocabulary: Vocabulary,
    screen: Screen<'a>,
}

impl Stage<'_> {
    async fn play(
        &mut self,
        webhooks: &Webhooks,
        endpoint: &EndpointId,
        receiver: &Receiver,
        stop: impl Future<Output = ()>,
    ) -> Result<DemoOutcome, DemoError> {
        let secret = webhooks.secret(endpoint).await?;
        receiver.expect(HOOK, Dialect::Standard, &secret)?;
        self.screen.open()?;
        let looker = Looker::start(&self.server, &self.fleet, &self.live);
        let report = self.send(&looker, stop).await?;
        let until = Instant::now() + self.settings.patience;
        self.await_deliveries(&looker, report.samples_acknowledged, until).await?;
        drop(looker);
        let comparison = self.compare(until).await?;
        let outcome = DemoOutcome::new(&report, comparison, self.receiver.counts());
        self.screen.close(&report, &outcome)?;
        Ok(outcome)
    }

    /// Sends until the end, showing the figures each second.
    async fn send(&mut self, looker: &Looker, stop: impl Future<Output = ()>) -> Result<Report, DemoError> {
        let scenario = Scenario {
            warmup: Duration::ZERO,
            duration: self.settings.seconds.map(Duration::from_secs),
            rate_samples_per_second: Some(self.settings.rate_samples_per_second),
            ledger: Some(Arc::clone(&self.ledger)),
            ..Scenario::new(Arc::clone(&self.fleet), self.settings.connections, Duration::ZERO)
        };
        let (server, live) = (self.server.clone(), Arc::clone(&self.live));
        let mut driving = pin!(driver::run(scenario, &server, &live, stop));
        let mut ticks = interval(TICK);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        ticks.tick().await;
        loop {
            tokio::select! {
                report = &mut driving => return Ok(report?),
                _ = ticks.tick() => self.screen.show(&self.moment(looker))?,
            }
        }
    }

    fn moment(&self, looker: &Looker) -> Moment {
        Moment {
            sent: self.live.counts(),
            commit: self.live.take_latency().percentiles(),
            delivered: self.receiver.counts(),
            receipt: self.receiver.take_latency().percentiles(),
            look: looker.last(),
        }
    }

    /// Shows the figures until so many samples were delivered, or it takes too long.
    async fn await_deliveries(&mut self, looker: &Looker, samples: u64, until: Instant) -> io::Result<()> {
        while self.receiver.counts().samples < samples && Instant::now() < until {
            let next = Instant::now() + TICK;
            while self.receiver.counts().samples < samples && Instant::now() < next.min(until) {
                sleep(WAIT_STEP).await;
            }
            self.screen.show(&self.moment(looker))?;
        }
        Ok(())
    }

    async fn compare(&mut self, until: Instant) -> Result<Comparison, DemoError> {
        let sent = self.ledger.acknowledged(&self.fleet);
        let in_doubt = self.ledger.in_doubt(&self.fleet);
        let mut comparison = Comparison::new(sent, in_doubt, self.settings.samples_read_back_max);
        self.screen.line(&format!("reading back {}", comparison.reads()))?;
        comparison.read_back(&self.server, &self.fleet).await?;
        comparison.deliver(self.delivered());
        // What was in doubt may have been stored and still be on its way.
        while !comparison.agrees() && Instant::now() < until {
            sleep(WAIT_STEP).await;
            comparison.deliver(self.delivered());
        }
        Ok(comparison)
    }

    /// What the fleet's users were delivered, by our metrics' keys.
    fn delivered(&self) -> Tallies {
        let mut delivered = self.vocabulary.translate(self.receiver.tallies(HOOK));
        delivered.retain(|name, _| self.fleet.has_user(&name.user_id));
        delivered
    }
}

/// Asks for `path`; anything but 200 is an error.
async fn ask(connection: &mut Connection, path: &str) -> Result<Bytes, DemoError> {
    let answer = connection.get(path).await?;
    if answer.status == StatusCode::OK {
        return Ok(answer.body);
    }
    let (path, status) = (path.to_owned(), answer.status);
    Err(DemoError::Answer { path, status, body: error_excerpt(&answer.body) })
}

/// Reads an answer as JSON of a known shape.
fn shaped<'a, T: Deserialize<'a>>(path: &str, body: &'a [u8]) -> Result<T, DemoError> {
    serde_json::from_slice(body).map_err(|source| DemoError::Shape { path: path.to_owned(), source })
}
