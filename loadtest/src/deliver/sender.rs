//! Connections that send what a [`Load`] has, each one request at a time, as fast as
//! they are answered or at even distances.
//!
//! 429 and 503 are waited out; of lines, those that the server took before it said so are
//! not sent again. A connection that is lost leaves its request unsure: it
//! is not sent again, since an event would be another one. Any other answer than 2xx
//! is a fault; one that repeating cannot heal ends the connection's work.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use serde_json::Value;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, sleep_until, timeout};

use super::load::{Load, Request};
use super::receipts::Receipts;
use crate::client::Server;
use crate::lean::{Lean, LeanError};
use crate::report::{error_chain, error_excerpt};

/// How long a full queue is waited out.
const REST: Duration = Duration::from_millis(2);
/// No server takes longer over a request that it answers at all.
const ANSWER_MAX: Duration = Duration::from_secs(30);

/// What all connections share.
#[derive(Debug)]
pub(crate) struct Offer {
    pub(crate) load: Load,
    pub(crate) server: Server,
    /// From one request to the next of all connections together; `None` for none.
    pub(crate) interval: Option<Duration>,
    /// Told of every acknowledged event.
    pub(crate) receipts: Option<Arc<Receipts>>,
    pub(crate) counts: Counts,
    pub(crate) stop: AtomicBool,
    pub(crate) begin: Instant,
}

/// What the server answered so far.
#[derive(Debug, Default)]
pub(crate) struct Counts {
    drawn: AtomicU64,
    pub(crate) acknowledged: AtomicU64,
    pub(crate) put_off: AtomicU64,
}

/// What came of one connection, or of all.
#[derive(Debug, Default)]
pub(crate) struct Sent {
    /// Answers by status.
    pub(crate) statuses: BTreeMap<u16, u64>,
    /// Requests without an answer.
    pub(crate) unsure: u64,
    /// The first answer that is none of 2xx, 429 and 503, or the first lost connection.
    pub(crate) first_error: Option<String>,
    /// Turns that this slot has used.
    pub(crate) turns: u64,
}

impl Offer {
    pub(crate) fn new(load: Load, server: &Server, requests_per_second: Option<f64>) -> Self {
        Self {
            load,
            server: server.clone(),
            interval: requests_per_second.map(|rate| Duration::from_secs_f64(1.0 / rate.max(0.001))),
            receipts: None,
            counts: Counts::default(),
            stop: AtomicBool::new(false),
            begin: Instant::now(),
        }
    }

    /// Events that were acknowledged; the samples of a request are one.
    pub(crate) fn acknowledged(&self) -> u64 {
        self.counts.acknowledged.load(Ordering::Relaxed)
    }

    /// Notes that the server has the first events of a request.
    fn acknowledge(&self, request: &Request, events: u64) {
        if let Some(receipts) = &self.receipts {
            request.numbers(events).for_each(|number| receipts.acknowledged(number));
        }
        self.counts.acknowledged.fetch_add(events, Ordering::Relaxed);
    }

    /// From now on no further request is begun.
    pub(crate) fn stop(&self) {
        self.stop.store(true, Ordering::Relaxed);
    }
}

/// Opens the connections, of which every slot begins with this turn, and sends until
/// the offer is stopped.
pub(crate) async fn start(
    offer: &Arc<Offer>,
    connections: u64,
    first_turn: u64,
) -> Result<JoinSet<Sent>, LeanError> {
    let mut opened = Vec::new();
    for _ in 0..connections {
        opened.push(Lean::connect(&offer.server).await?);
    }
    let mut senders = JoinSet::new();
    for (slot, connection) in opened.into_iter().enumerate() {
        senders.spawn(send(Arc::clone(offer), connection, slot as u64, first_turn));
    }
    Ok(senders)
}

/// Waits for all of them.
pub(crate) async fn join(mut senders: JoinSet<Sent>) -> Sent {
    let mut all = Sent::default();
    while let Some(ended) = senders.join_next().await {
        let sent = ended.unwrap_or_else(|error| std::panic::resume_unwind(error.into_panic()));
        for (status, count) in sent.statuses {
            *all.statuses.entry(status).or_default() += count;
        }
        all.unsure += sent.unsure;
        all.turns = all.turns.max(sent.turns);
        all.first_error = all.first_error.or(sent.first_error);
    }
    all
}

async fn send(offer: Arc<Offer>, mut connection: Lean, slot: u64, first_turn: u64) -> Sent {
    let (mut sent, mut request) = (Sent { turns: first_turn, ..Sent::default() }, Request::default());
    loop {
        let drawn = offer.counts.drawn.fetch_add(1, Ordering::Relaxed);
        if let Some(interval) = offer.interval {
            sleep_until(offer.begin + interval.mul_f64(drawn as f64)).await;
        }
        if offer.stop.load(Ordering::Relaxed) {
            return sent;
        }
        offer.load.write(slot, sent.turns, drawn, &mut request);
        sent.turns += 1;
        match deliver(&offer, &mut connection, &mut request, &mut sent).await {
            Next::On => {}
            Next::Reconnect => match Lean::connect(&offer.server).await {
                Ok(opened) => connection = opened,
                Err(_) => return sent,
            },
            Next::End => return sent,
        }
    }
}

/// How a connection goes on.
enum Next {
    On,
    Reconnect,
    End,
}

/// Sends one request until the server decided on it.
async fn deliver(offer: &Offer, connection: &mut Lean, request: &mut Request, sent: &mut Sent) -> Next {
    loop {
        let posted = connection.post(&request.path, request.content_type, request.body());
        let (status, taken, text) = match timeout(ANSWER_MAX, posted).await {
            Ok(Ok(answer)) => match answer.status {
                status @ 200..=299 => (status, request.events(), String::new()),
                status @ (429 | 503) => (status, taken(answer.body), String::new()),
                status => (status, taken(answer.body), error_excerpt(answer.body)),
            },
            Ok(Err(error)) => return sent.lost(error_chain(&error)),
            Err(_) => return sent.lost(format!("no answer within {ANSWER_MAX:?}")),
        };
        *sent.statuses.entry(status).or_default() += 1;
        offer.acknowledge(request, taken);
        match status {
            200..=299 => return Next::On,
            429 | 503 if !offer.stop.load(Ordering::Relaxed) => {
                request.leave_out(taken);
                offer.counts.put_off.fetch_add(1, Ordering::Relaxed);
                sleep(REST).await;
            }
            429 | 503 => return Next::End,
            _ => {
                sent.first_error.get_or_insert_with(|| format!("{status}: {text}"));
                return if matches!(status, 401 | 403 | 404 | 405) { Next::End } else { Next::On };
            }
        }
    }
}

/// How many lines a server took before one that it refuses.
fn taken(answer: &[u8]) -> u64 {
    let answer: Option<Value> = serde_json::from_slice(answer).ok();
    answer.and_then(|answer| answer["accepted"].as_u64()).unwrap_or(0)
}

impl Sent {
    fn lost(&mut self, error: String) -> Next {
        self.unsure += 1;
        self.first_error.get_or_insert(error);
        Next::Reconnect
    }
}
