//! Load for a Systole server: a fleet of simulated wearables that pushes
//! prepared bulk-ingest bodies over HTTP/1.1 and reports what was acknowledged.
//!
//! It knows the server by its HTTP contract only, and links none of its crates.
//! It sends plain HTTP, never TLS, and one request at a time per connection.
//!
//! Reading order: a [`fleet`] is data (users, windows, bodies), a [`client`] is
//! one keep-alive connection, the [`driver`] sends the one over many of the
//! other, a [`histogram`] keeps the latencies, a [`report`] says what came of it.
//! On the other side [`webhooks`] makes endpoints, and a [`receiver`] takes what is
//! sent to them, checks each [`signature`] and keeps a [`tally`] of the samples. A
//! [`demo`] runs both and compares, [`delivery`] measures both, and [`ceiling`] is
//! what deliveries could reach if a server did nothing but sign and post.
//!
//! Years of data have their own: the [`fleet::reference`] fleet as data, a [`feed`]
//! that sends all of a source, what the server must then hold ([`verify`]) and says
//! of itself ([`observe`]); the [`dataset`] for reads, the reads ([`query`]) over a
//! [`lean`] client, the same SQL by [`duckdb`], a long run ([`soak`]) and one with
//! SQL beside it ([`mixed`]).
//!
//! Delivery at full speed has its own: a lean receiver ([`sink`]), events and samples
//! as fast as they are delivered beside the limit of it ([`deliver`]), dead receivers
//! beside living ones ([`mod@isolate`]), and what must
//! not be lost while the server's [`process`] is killed again and again ([`mod@ledger`]).
//!
//! ```no_run
//! use std::sync::Arc;
//! use std::time::{Duration, SystemTime};
//!
//! use loadtest::{ApiKey, Fleet, FleetSettings, Live, Mix, Scenario, Server};
//!
//! # async fn demo() -> Result<(), Box<dyn std::error::Error>> {
//! let server = Server::new("http://127.0.0.1:8080", &ApiKey::new("avk_0123456789abcdef"))?;
//! let now = SystemTime::now();
//! let settings = FleetSettings { users: 500, mix: Mix::Fleet, ..FleetSettings::new("demo", now) };
//! let fleet = Fleet::prepare(&settings)?;
//! let scenario = Scenario {
//!     rate_samples_per_second: Some(100_000),
//!     ..Scenario::new(fleet, 8, Duration::from_secs(30))
//! };
//! let live = Arc::new(Live::new());
//! let report = loadtest::run(scenario, &server, &live, std::future::pending()).await?;
//! println!("{report}");
//! # Ok(())
//! # }
//! ```

pub mod fleet;

pub mod client;

pub mod driver;

pub mod histogram;

pub mod report;

pub mod lean;

pub mod feed;

pub mod dataset;

pub mod query;

pub mod duckdb;

pub mod soak;

pub mod mixed;

pub mod observe;

pub mod verify;

pub mod signature;

pub mod tally;

pub mod receiver;

pub mod webhooks;

pub mod demo;

pub mod delivery;

pub mod ceiling;

pub mod sink;

pub mod deliver;

pub mod isolate;

pub mod process;

pub mod ledger;

mod random;

pub use ceiling::{CeilingError, CeilingReport, CeilingSettings};
pub use client::{Answer, ApiKey, ClientError, Connection, Server};
pub use delivery::{DeliveryError, DeliveryReport, DeliveryScenario, Window};
pub use demo::{DemoError, DemoOutcome, DemoSettings};
pub use driver::{DriverError, Ledger, Live, LiveCounts, Phase, Scenario, run};
pub use fleet::{Batch, Fleet, FleetError, FleetSettings, Mix, Span};
pub use histogram::{Histogram, Percentiles};
pub use receiver::{
    Behaviour, Detail, Receiver, ReceiverCounts, ReceiverError, ReceiverLive, ReceiverSettings,
};
pub use report::{ProbeReport, Report};
pub use signature::{Dialect, Key, Secret, SecretError, SignatureFault};
pub use tally::{SeriesName, SeriesTally, Tallies};
pub use webhooks::{EndpointId, EndpointSettings, WebhookError, Webhooks};
