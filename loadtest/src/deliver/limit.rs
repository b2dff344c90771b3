//! The limit of a run: a loop that only signs bodies and posts them to a receiver
//! like the run's, over as many connections as the server had open to it.
//!
//! What it does: takes the bodies that the server delivered in this run, gives each a
//! fresh id and time, signs it with the same key, posts it with hyper's HTTP/1.1
//! client, waits for the answer. What it does not: read a journal, find lanes, render,
//! keep a position, check addresses, share its cores with publishers and fsync. So it
//! is what delivery alone could reach here, not what a server that also takes
//! events in could: that is what it reaches once more beside a server that takes in as
//! much as it did in the run, and that nobody subscribes to.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use serde_json::{Value, json};
use tokio::task::JoinSet;
use tokio::time::Instant;

use super::books::{Books, Content, Counted};
use crate::client::{ClientError, Connection, Server};
use crate::receiver::ReceiverError;
use crate::signature::Key;
use crate::sink::Sink;

const PATH: &str = "/limit";

/// What to loop over.
#[derive(Debug, Clone)]
pub(super) struct LimitSettings {
    pub(super) key: Key,
    pub(super) bodies: Vec<Bytes>,
    pub(super) connections: usize,
    pub(super) duration: Duration,
    /// As the run's receiver.
    pub(super) receiver_threads: usize,
    pub(super) verify_every: u64,
    pub(super) remember_ids: usize,
}

/// What the loop reached.
#[derive(Debug, Clone)]
pub struct Limit {
    /// Connections, each with one delivery in flight.
    pub connections: usize,
    /// From the first delivery to the last answer.
    pub elapsed: Duration,
    /// Answered with 200.
    pub deliveries: u64,
    /// Bytes of their bodies.
    pub bytes: u64,
    /// What its receiver counted.
    pub counted: Counted,
}

/// What the loop reached beside a server that took events in.
#[derive(Debug, Clone)]
pub struct LimitBeside {
    /// The loop's.
    pub limit: Limit,
    /// Events that the server acknowledged a second meanwhile; of series, requests.
    pub taken_in: f64,
    /// The first thing that went wrong while they were sent.
    pub first_error: Option<String>,
}

/// Signs and posts until the time is over.
pub(super) async fn run(settings: LimitSettings) -> Result<Limit, LimitError> {
    let books = Arc::new(Books::new(
        settings.key.clone(),
        settings.verify_every,
        Content::Bare,
        settings.remember_ids,
    ));
    let sink = Sink::start(settings.receiver_threads, Arc::clone(&books) as _)?;
    let server = Server::without_key(&sink.url())?;
    let (connections, bodies) = (settings.connections.max(1), Arc::new(settings.bodies));
    let mut opened = Vec::new();
    for _ in 0..connections {
        opened.push(server.connect().await?);
    }
    let (mut senders, begin) = (JoinSet::new(), Instant::now());
    for (number, connection) in opened.into_iter().enumerate() {
        let (key, bodies) = (settings.key.clone(), Arc::clone(&bodies));
        senders.spawn(send(connection, number, key, bodies, begin + settings.duration));
    }
    let mut deliveries = 0;
    while let Some(ended) = senders.join_next().await {
        deliveries += ended.unwrap_or_else(|error| std::panic::resume_unwind(error.into_panic()))?;
    }
    let (elapsed, counted) = (begin.elapsed(), books.counted());
    Ok(Limit { connections, elapsed, deliveries, bytes: counted.bytes, counted })
}

/// Why there is no limit.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LimitError {
    /// There is no receiver.
    #[error("the receiver of the limit cannot be started")]
    Receiver(#[from] ReceiverError),
    /// A delivery has no answer.
    #[error("a delivery of the limit has no answer")]
    Client(#[from] ClientError),
}

async fn send(
    mut connection: Connection,
    number: usize,
    key: Key,
    bodies: Arc<Vec<Bytes>>,
    until: Instant,
) -> Result<u64, ClientError> {
    let mut delivered = 0;
    for (turn, body) in bodies.iter().cycle().skip(number % bodies.len().max(1)).enumerate() {
        if Instant::now() >= until {
            break;
        }
        let id = format!("evt_{number:06}{turn:020}");
        let headers = key.sign(&id, body, SystemTime::now());
        let answer = connection.post_with(PATH, headers, body.clone()).await?;
        delivered += u64::from(answer.status.is_success());
    }
    Ok(delivered)
}

impl Limit {
    /// Deliveries a second.
    pub fn per_second(&self) -> f64 {
        self.deliveries as f64 / self.elapsed.as_secs_f64().max(f64::MIN_POSITIVE)
    }

    /// Whether everything was received, and every signature that was looked at is good.
    pub fn is_sound(&self) -> bool {
        self.deliveries > 0 && self.counted.events == self.deliveries && self.counted.refused == 0
    }

    /// One JSON object.
    pub fn to_json(&self) -> Value {
        json!({
            "connections": self.connections,
            "seconds": self.elapsed.as_secs_f64(),
            "deliveries": self.deliveries,
            "deliveries_per_second": self.per_second().round(),
            "bytes": self.bytes,
            "verified": self.counted.verified,
            "refused": self.counted.refused,
        })
    }
}

impl LimitBeside {
    /// One JSON object.
    pub fn to_json(&self) -> Value {
        let mut json = self.limit.to_json();
        json["taken_in_per_second"] = json!(self.taken_in.round());
        json
    }
}
