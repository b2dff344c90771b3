//! One connection to a receiver: reads a request whole, judges it, answers.

use std::future::{Future, poll_fn};
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use http_body_util::BodyExt;
use hyper::body::{Body, Incoming};
use hyper::header::HeaderMap;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use parking_lot::Mutex;
use tokio::net::TcpStream;
use tokio::sync::watch;

use super::behaviour::{Action, Answering, respond};
use super::ids::{Ids, Sighting};
use super::live::{ReceiverLive, add};
use super::route::Route;
use super::samples::Scan;
use super::{BODY_BYTES_MAX, Detail};
use crate::signature::{Dialect, ID, Key, SignatureFault};

/// What every connection of a receiver reads.
#[derive(Debug)]
pub(super) struct Shared {
    pub(super) detail: Detail,
    /// Its threads offer their core after each step.
    pub(super) gives_way: bool,
    pub(super) latency: bool,
    pub(super) live: Arc<ReceiverLive>,
    pub(super) ids: Ids,
    pub(super) scan: Scan,
}

/// No answer is to be given.
#[derive(Debug, thiserror::Error)]
enum Broken {
    #[error("the path resets its connections")]
    Reset,
    #[error("the request ended early")]
    Request(#[source] hyper::Error),
}

type Answer = Pin<Box<dyn Future<Output = Result<Response<Answering>, Broken>> + Send>>;

/// Serves one connection until its peer or the receiver ends it.
pub(super) async fn serve(stream: TcpStream, shared: Arc<Shared>, mut stopping: watch::Receiver<bool>) {
    // One request at a time, so that the buffer is free whenever one begins.
    let buffer = Arc::new(Mutex::new(Vec::new()));
    let gives_way = shared.gives_way;
    let service = service_fn(move |request| -> Answer {
        Box::pin(take(Arc::clone(&shared), request, Arc::clone(&buffer)))
    });
    let mut connection = http1::Builder::new().serve_connection(TokioIo::new(stream), service);
    let ended = {
        let mut served = pin!(poll_fn(|cx| {
            let served = connection.poll_without_shutdown(cx);
            if gives_way {
                // Else its thread keeps the core for a slice of a millisecond or more.
                std::thread::yield_now();
            }
            served
        }));
        tokio::select! {
            ended = &mut served => Some(ended),
            _ = stopping.wait_for(|stop| *stop) => None,
        }
    };
    let ended = match ended {
        Some(ended) => ended,
        None => {
            Pin::new(&mut connection).graceful_shutdown();
            poll_fn(|cx| connection.poll_without_shutdown(cx)).await
        }
    };
    if ended.is_err_and(|error| error.is_user()) {
        // Closing with a linger of zero is what sends a reset. Where it cannot be
        // set the peer sees an end instead, which is no answer either.
        connection.into_parts().io.into_inner().set_zero_linger().ok();
    }
}

async fn take(
    shared: Arc<Shared>,
    request: Request<Incoming>,
    buffer: Arc<Mutex<Vec<u8>>>,
) -> Result<Response<Answering>, Broken> {
    let (head, incoming) = request.into_parts();
    if head.method != Method::POST {
        return Ok(respond(StatusCode::METHOD_NOT_ALLOWED, Answering::Empty));
    }
    let mut body = std::mem::take(&mut *buffer.lock());
    body.clear();
    if !read(incoming, &mut body).await? {
        add(&shared.live.counters.refused_size, 1);
        return Ok(respond(StatusCode::PAYLOAD_TOO_LARGE, Answering::Empty));
    }
    let route = shared.live.routes.read().get(head.uri.path()).cloned();
    let action = shared.judge(route.as_deref(), &head.headers, &body);
    *buffer.lock() = body;
    match action {
        Action::Take(manner) => Ok(manner.answer().await),
        Action::TurnAway(status, header) => {
            let mut response = respond(status, Answering::Empty);
            response.headers_mut().extend(header);
            Ok(response)
        }
        Action::Reset => Err(Broken::Reset),
    }
}

/// Reads a body to its end; false if it is too long.
async fn read(mut incoming: Incoming, body: &mut Vec<u8>) -> Result<bool, Broken> {
    let announced = incoming.size_hint().lower();
    if announced > BODY_BYTES_MAX as u64 {
        return Ok(false);
    }
    body.reserve(announced as usize);
    while let Some(frame) = incoming.frame().await {
        let frame = frame.map_err(Broken::Request)?;
        if let Some(data) = frame.data_ref() {
            body.extend_from_slice(data);
        }
        if body.len() > BODY_BYTES_MAX {
            return Ok(false);
        }
    }
    Ok(true)
}

impl Shared {
    /// Counts a request and says what to do with it.
    fn judge(&self, route: Option<&Route>, headers: &HeaderMap, body: &[u8]) -> Action {
        let now = SystemTime::now();
        let counters = &self.live.counters;
        add(&counters.requests, 1);
        add(&counters.bytes, body.len() as u64);
        let Some(route) = route else {
            add(&counters.refused_path, 1);
            return Action::TurnAway(StatusCode::UNAUTHORIZED, None);
        };
        let action = route.conduct().next();
        let taking = matches!(action, Action::Take(_));
        match self.verify(route, headers, body, now) {
            Some(key) if taking => self.enter(route, &key, headers, body, now),
            Some(key) => self.turn_away(route, &key, headers, body),
            None if taking => return Action::TurnAway(StatusCode::UNAUTHORIZED, None),
            None => {}
        }
        action
    }

    /// The key that a request was signed with; `None` if it is refused.
    fn verify(&self, route: &Route, headers: &HeaderMap, body: &[u8], now: SystemTime) -> Option<Key> {
        let counters = &self.live.counters;
        let verdict = match route.key() {
            Some(key) => key.verify(headers, body, now).map(|()| key).map_err(|fault| match fault {
                SignatureFault::HeaderMissing => &counters.refused_header,
                SignatureFault::Stale => &counters.refused_stale,
                SignatureFault::Mismatch => &counters.refused_signature,
            }),
            None => Err(&counters.refused_path),
        };
        match verdict {
            Ok(key) => {
                add(&counters.verified, 1);
                Some(key)
            }
            Err(counter) => {
                add(counter, 1);
                None
            }
        }
    }

    /// An attempt that the path's behaviour fails.
    fn turn_away(&self, route: &Route, key: &Key, headers: &HeaderMap, body: &[u8]) {
        add(&self.live.counters.turned_away, 1);
        self.sight(route, key, headers, body, false);
    }

    /// An attempt that is answered with 2xx.
    fn enter(&self, route: &Route, key: &Key, headers: &HeaderMap, body: &[u8], now: SystemTime) {
        let counters = &self.live.counters;
        let sighting = self.sight(route, key, headers, body, true);
        if matches!(sighting, Sighting::Again { taken: true, .. }) {
            add(&counters.duplicates, 1);
            add(&counters.samples_duplicate, self.scan.samples(body));
            return;
        }
        let samples = match self.detail {
            Detail::Fast => self.scan.samples(body),
            Detail::Full => self.enter_in_books(route, body),
        };
        if self.latency {
            self.time(body, now);
        }
        add(&counters.events, 1);
        add(&counters.samples, samples);
    }

    fn enter_in_books(&self, route: &Route, body: &[u8]) -> u64 {
        let counters = &self.live.counters;
        match route.books.lock().enter(body) {
            Ok(entered) => {
                add(&counters.sample_counts_wrong, entered.counts_wrong);
                entered.samples
            }
            Err(_) => {
                add(&counters.unreadable, 1);
                0
            }
        }
    }

    /// Remembers an attempt.
    fn sight(&self, route: &Route, key: &Key, headers: &HeaderMap, body: &[u8], taken: bool) -> Sighting {
        let counters = &self.live.counters;
        let Some(id) = self.event_id(key.dialect(), headers, body) else {
            add(&counters.unnamed, 1);
            return Sighting::First;
        };
        let sighting = self.ids.note(route.seed, id, body, taken);
        match sighting {
            Sighting::First | Sighting::Again { same_body: true, .. } => {}
            Sighting::Again { same_body: false, .. } => add(&counters.bodies_changed, 1),
            Sighting::Unkept => add(&counters.events_unkept, u64::from(taken)),
        }
        sighting
    }

    /// The id that the signature covers.
    fn event_id<'a>(&self, dialect: Dialect, headers: &'a HeaderMap, body: &'a [u8]) -> Option<&'a [u8]> {
        match dialect {
            Dialect::Standard => headers.get(ID).map(|id| id.as_bytes()),
            Dialect::Avycenna => self.scan.event_id(body),
        }
    }

    fn time(&self, body: &[u8], now: SystemTime) {
        let Some(ordering) = self.scan.ordering(body) else {
            return;
        };
        let micros = now.duration_since(UNIX_EPOCH).unwrap_or_default().as_micros() as u64;
        self.live.latency.lock().record_micros(micros.saturating_sub(ordering));
    }
}
