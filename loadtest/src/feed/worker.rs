//! One connection that asks for bodies and sends each until it is acknowledged.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use hyper::StatusCode;
use parking_lot::Mutex;
use tokio::sync::Notify;
use tokio::time::{Instant, sleep, sleep_until};

use super::{Body, Fed, FeedError, Next, Progress, ProgressError, Source};
use crate::client::{Answer, Connection, Server};
use crate::driver::accepted;
use crate::histogram::Histogram;
use crate::report::error_excerpt;

/// A server that asks for more patience is asked again after this.
const RETRY_AFTER_MAX: Duration = Duration::from_secs(5);
/// For a 429 or 503 without `Retry-After`.
const RETRY_AFTER_DEFAULT: Duration = Duration::from_millis(100);
/// For `Retry-After: 0`, so that a refusing server is not asked in a tight loop.
const RETRY_AFTER_MIN: Duration = Duration::from_millis(1);
const RECONNECT_PAUSE_MIN: Duration = Duration::from_millis(10);
/// Reconnecting goes on without end: a server that restarts is waited for.
const RECONNECT_PAUSE_MAX: Duration = Duration::from_secs(1);

pub(super) struct Worker {
    shared: Arc<Shared>,
    server: Server,
    connection: Connection,
    tally: Tally,
}

/// What one worker counted.
#[derive(Debug, Default)]
pub(super) struct Tally {
    pub(super) latency: Histogram,
    pub(super) statuses: BTreeMap<u16, u64>,
}

/// What all workers share.
pub(super) struct Shared {
    turns: Mutex<Turns>,
    /// Told when the last body of a stage is acknowledged, or the source ended.
    stage: Notify,
    begin: Instant,
    bodies: AtomicU64,
    points: AtomicU64,
    bytes: AtomicU64,
    put_off: AtomicU64,
    connections_lost: AtomicU64,
}

struct Turns {
    source: Box<dyn Source>,
    progress: Option<Progress>,
    next: u64,
    /// Numbers of bodies that are handed out and not acknowledged.
    open: BTreeSet<u64>,
    waits: bool,
    ended: bool,
}

enum Turn {
    Send(u64, Body),
    Wait,
    End,
}

impl Shared {
    pub(super) fn new(source: Box<dyn Source>, progress: Option<Progress>, first: u64) -> Self {
        let open = BTreeSet::new();
        let turns = Turns { source, progress, next: first, open, waits: false, ended: false };
        let zero = || AtomicU64::new(0);
        Self {
            turns: Mutex::new(turns),
            stage: Notify::new(),
            begin: Instant::now(),
            bodies: zero(),
            points: zero(),
            bytes: zero(),
            put_off: zero(),
            connections_lost: zero(),
        }
    }

    pub(super) fn fed(&self) -> Fed {
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        Fed {
            bodies: read(&self.bodies),
            points: read(&self.points),
            bytes: read(&self.bytes),
            put_off: read(&self.put_off),
            connections_lost: read(&self.connections_lost),
        }
    }

    pub(super) fn save_progress(&self) -> Result<(), ProgressError> {
        let mut turns = self.turns.lock();
        let done = turns.open.first().copied().unwrap_or(turns.next);
        turns.progress.as_mut().map_or(Ok(()), |progress| progress.save(done))
    }

    fn turn(&self) -> Turn {
        let mut turns = self.turns.lock();
        if turns.waits && turns.open.is_empty() {
            turns.waits = false;
        }
        if turns.ended {
            return Turn::End;
        }
        if turns.waits {
            return Turn::Wait;
        }
        match turns.source.next() {
            Next::Body(body) => {
                let number = turns.next;
                turns.next += 1;
                turns.open.insert(number);
                Turn::Send(number, body)
            }
            Next::Stage => {
                turns.waits = true;
                if turns.open.is_empty() {
                    self.stage.notify_waiters();
                }
                Turn::Wait
            }
            Next::End => {
                turns.ended = true;
                self.stage.notify_waiters();
                Turn::End
            }
        }
    }

    fn done(&self, number: u64, points: u64) -> Result<(), ProgressError> {
        add(&self.bodies, 1);
        add(&self.points, points);
        let mut turns = self.turns.lock();
        turns.open.remove(&number);
        if turns.waits && turns.open.is_empty() {
            self.stage.notify_waiters();
        }
        let done = turns.open.first().copied().unwrap_or(turns.next);
        turns.progress.as_mut().map_or(Ok(()), |progress| progress.note(done))
    }

    /// Nothing more is handed out.
    fn end(&self) {
        self.turns.lock().ended = true;
        self.stage.notify_waiters();
    }
}

impl Worker {
    pub(super) fn new(shared: Arc<Shared>, server: Server, connection: Connection) -> Self {
        Self { shared, server, connection, tally: Tally::default() }
    }

    pub(super) async fn run(mut self) -> Result<Tally, FeedError> {
        let shared = Arc::clone(&self.shared);
        let outcome = self.send_all().await;
        if outcome.is_err() {
            shared.end();
        }
        outcome.map(|()| self.tally)
    }

    async fn send_all(&mut self) -> Result<(), FeedError> {
        let shared = Arc::clone(&self.shared);
        loop {
            // Registered before the turn is asked for, so that no notice is missed.
            let mut notice = std::pin::pin!(shared.stage.notified());
            notice.as_mut().enable();
            match shared.turn() {
                Turn::Send(number, body) => self.deliver(number, &body).await?,
                Turn::Wait if shared.turns.lock().open.is_empty() => {}
                Turn::Wait => notice.await,
                Turn::End => return Ok(()),
            }
        }
    }

    async fn deliver(&mut self, number: u64, body: &Body) -> Result<(), FeedError> {
        if let Some(due) = body.due {
            sleep_until(self.shared.begin + due).await;
        }
        let since = Instant::now();
        loop {
            add(&self.shared.bytes, body.bytes.len() as u64);
            match self.connection.post(&body.path, body.bytes.clone()).await {
                Ok(answer) => match self.judge(number, body, &answer)? {
                    None => {
                        self.tally.latency.record(since.elapsed());
                        return self.shared.done(number, body.points).map_err(FeedError::Progress);
                    }
                    Some(pause) => sleep(pause).await,
                },
                Err(_) => {
                    add(&self.shared.connections_lost, 1);
                    self.reconnect().await;
                }
            }
        }
    }

    /// `None` for an acknowledgement, or how long to wait before sending again.
    fn judge(&mut self, number: u64, body: &Body, answer: &Answer) -> Result<Option<Duration>, FeedError> {
        let status = answer.status;
        *self.tally.statuses.entry(status.as_u16()).or_default() += 1;
        match status {
            StatusCode::OK if accepted(&answer.body) == Some(body.points) => Ok(None),
            StatusCode::OK => {
                let text = error_excerpt(&answer.body);
                Err(FeedError::Acknowledgement { number, points: body.points, text })
            }
            StatusCode::TOO_MANY_REQUESTS | StatusCode::SERVICE_UNAVAILABLE => {
                add(&self.shared.put_off, 1);
                let pause = answer.retry_after.unwrap_or(RETRY_AFTER_DEFAULT);
                Ok(Some(pause.clamp(RETRY_AFTER_MIN, RETRY_AFTER_MAX)))
            }
            _ => {
                let text = error_excerpt(&answer.body);
                Err(FeedError::Refused { number, status: status.as_u16(), text })
            }
        }
    }

    async fn reconnect(&mut self) {
        let mut pause = RECONNECT_PAUSE_MIN;
        loop {
            sleep(pause).await;
            if let Ok(connection) = self.server.connect().await {
                self.connection = connection;
                return;
            }
            pause = (pause * 2).min(RECONNECT_PAUSE_MAX);
        }
    }
}

fn add(counter: &AtomicU64, more: u64) {
    counter.fetch_add(more, Ordering::Relaxed);
}
