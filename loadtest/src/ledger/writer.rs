//! A writer: sends its next request to whichever server is there, until it is
//! acknowledged, and writes down what was.
//!
//! A request whose answer never came is sent again to the next server: samples are
//! the same again, an event has its `event_id`. So at the end everything that was ever
//! sent is acknowledged, once.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use serde_json::Value;
use tokio::sync::watch;
use tokio::time::{sleep, timeout};

use super::plan::Plan;
use crate::client::Server;
use crate::lean::{JSON, Lean};
use crate::random::Random;
use crate::report::error_excerpt;

const EVENTS: &str = "/api/v1/events";
const BULK: &str = "/api/v1/wearables/bulk-ingest";
/// Most samples of a request.
const BATCH_MAX: u64 = 60;
/// How long a full queue, or a server that stops, is waited out.
const REST: Duration = Duration::from_millis(5);
/// No server takes longer over a request that it answers at all.
const ANSWER_MAX: Duration = Duration::from_secs(30);

/// What all writers share.
#[derive(Debug)]
pub(super) struct Desk {
    pub(super) plan: Plan,
    /// The server that is there; `None` between a kill and the next start.
    pub(super) server: watch::Receiver<Option<Server>>,
    /// No further request is begun.
    pub(super) enough: AtomicBool,
    /// Pause after each request.
    pub(super) pause: Duration,
    pub(super) events: AtomicU64,
    pub(super) samples: AtomicU64,
    /// Requests that had no answer and were sent again.
    pub(super) unanswered: AtomicU64,
    /// Answers 429 and 503.
    pub(super) put_off: AtomicU64,
}

/// What a writer writes.
#[derive(Debug, Clone, Copy)]
pub(super) enum Kind {
    Events,
    Samples,
}

/// What was acknowledged to one writer.
#[derive(Debug)]
pub(super) struct Acknowledged {
    pub(super) writer: u64,
    /// Numbers, and the ids that the server gave them.
    pub(super) events: Vec<(u64, String)>,
    /// Samples of the places before this one.
    pub(super) samples: u64,
    /// Why the writer gave up, if it did.
    pub(super) fault: Option<String>,
}

/// A request, and what it stands for.
struct Pending {
    path: &'static str,
    body: String,
    /// The number of an event, the count of samples.
    of: u64,
}

pub(super) async fn write(desk: Arc<Desk>, writer: u64, kind: Kind) -> Acknowledged {
    let mut done = Acknowledged { writer, events: Vec::new(), samples: 0, fault: None };
    let (mut random, mut turn) = (Random::seeded(writer), 0);
    let mut servers = desk.server.clone();
    let mut pending: Option<Pending> = None;
    loop {
        if pending.is_none() && desk.enough.load(Ordering::Relaxed) {
            return done;
        }
        let Ok(server) = servers.wait_for(Option::is_some).await.map(|server| server.clone()) else {
            return done;
        };
        let Some(Ok(mut connection)) = connect(server).await else {
            sleep(REST).await;
            continue;
        };
        loop {
            if pending.is_none() && desk.enough.load(Ordering::Relaxed) {
                return done;
            }
            let request = pending.get_or_insert_with(|| {
                turn += 1;
                next(&desk.plan, kind, writer, turn - 1, done.samples, &mut random)
            });
            match send(&desk, &mut connection, request).await {
                Outcome::Acknowledged(id) => {
                    enter(&desk, kind, request.of, id, &mut done);
                    pending = None;
                    sleep(desk.pause).await;
                }
                Outcome::Later => sleep(REST).await,
                Outcome::Unanswered => {
                    desk.unanswered.fetch_add(1, Ordering::Relaxed);
                    sleep(REST).await;
                    break;
                }
                Outcome::Refused(fault) => {
                    done.fault = Some(fault);
                    return done;
                }
            }
        }
    }
}

async fn connect(server: Option<Server>) -> Option<Result<Lean, crate::lean::LeanError>> {
    Some(Lean::connect(&server?).await)
}

fn next(plan: &Plan, kind: Kind, writer: u64, turn: u64, samples: u64, random: &mut Random) -> Pending {
    match kind {
        Kind::Events => {
            let of = plan.number(writer, turn);
            Pending { path: EVENTS, body: plan.event(of), of }
        }
        Kind::Samples => {
            let (body, of) = plan.batch(writer, samples, 1 + random.below(BATCH_MAX));
            Pending { path: BULK, body, of }
        }
    }
}

fn enter(desk: &Desk, kind: Kind, of: u64, id: String, done: &mut Acknowledged) {
    match kind {
        Kind::Events => {
            done.events.push((of, id));
            desk.events.fetch_add(1, Ordering::Relaxed);
        }
        Kind::Samples => {
            done.samples += of;
            desk.samples.fetch_add(of, Ordering::Relaxed);
        }
    }
}

/// What the server made of a request.
enum Outcome {
    /// With the event's id, of an event.
    Acknowledged(String),
    Later,
    Unanswered,
    Refused(String),
}

async fn send(desk: &Desk, connection: &mut Lean, request: &Pending) -> Outcome {
    match timeout(ANSWER_MAX, connection.post(request.path, JSON, request.body.as_bytes())).await {
        Ok(Ok(answer)) => match answer.status {
            200..=299 => Outcome::Acknowledged(id_of(answer.body)),
            429 | 503 => {
                desk.put_off.fetch_add(1, Ordering::Relaxed);
                Outcome::Later
            }
            status => Outcome::Refused(format!(
                "{} was answered {status}: {}",
                request.path,
                error_excerpt(answer.body)
            )),
        },
        Ok(Err(_)) => Outcome::Unanswered,
        Err(_) => Outcome::Refused(format!("{} was not answered within {ANSWER_MAX:?}", request.path)),
    }
}

/// The id that an event was given; empty where there is none.
fn id_of(body: &[u8]) -> String {
    let answer: Option<Value> = serde_json::from_slice(body).ok();
    answer.as_ref().and_then(|answer| answer["id"].as_str()).unwrap_or_default().to_owned()
}
