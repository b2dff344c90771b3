//! Connections that are kept, by the host they lead to.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use bytes::Bytes;
use hashbrown::HashMap;
use http_body_util::Full;
use hyper::client::conn::http2::SendRequest;
use hyper::http::uri::Authority;
use tokio::sync::Notify;
use tokio::time::Instant;

use crate::client::{IDLE_PER_HOST_MAX, IDLE_TIMEOUT};
use crate::connection::Connection;

/// A name and a port, and whether it is called by TLS.
pub(crate) type Host = (bool, Authority);

/// Sends over a connection of HTTP/2.
pub(crate) type Sender = SendRequest<Full<Bytes>>;

/// Exchanges that share a connection at a time, as many as a lane has at its widest:
/// what one lost packet holds up.
const STREAMS_MAX: usize = 64;

/// A connection for an exchange.
pub(crate) enum Taken {
    Own(Box<Connection>),
    /// With its number: it is to be given back.
    Shared(Sender, u64),
}

impl Taken {
    /// Whether it is still open.
    pub(crate) fn is_usable(&mut self) -> bool {
        match self {
            Taken::Own(connection) => connection.is_usable(),
            Taken::Shared(sender, _) => !sender.is_closed(),
        }
    }
}

/// Connections by host, under one lock that every exchange takes: whoever holds it
/// neither polls nor closes one.
#[derive(Default)]
pub(crate) struct Hosts {
    kept: HashMap<Host, Kept>,
    /// Numbers given.
    numbers: u64,
}

/// What is kept of one host.
#[derive(Default)]
struct Kept {
    /// The one that was used last is at the end.
    idle: VecDeque<Connection>,
    /// By HTTP/2. The first with room is used, so that those that are too many rest.
    shared: Vec<Http2>,
    /// Who dials is told that there is one.
    put_back: Arc<Notify>,
}

/// A connection that exchanges share.
struct Http2 {
    number: u64,
    sender: Sender,
    /// Exchanges that the receiver allows at a time, as far as is known.
    streams_max: Arc<AtomicUsize>,
    exchanges: usize,
    /// When the last of them ended.
    used: Instant,
}

impl Http2 {
    fn has_room(&self) -> bool {
        self.exchanges < STREAMS_MAX.min(self.streams_max.load(Ordering::Relaxed))
    }

    fn is_usable(&self) -> bool {
        !self.sender.is_closed() && (self.exchanges > 0 || self.used.elapsed() < IDLE_TIMEOUT)
    }
}

impl Hosts {
    /// Where who dials a host is told that there is a connection.
    pub(crate) fn put_back_to(&mut self, host: &Host) -> Arc<Notify> {
        self.kept.entry_ref(host).or_default().put_back.clone()
    }

    /// One that was there when somebody looked last.
    pub(crate) fn take(&mut self, host: &Host) -> Option<Taken> {
        let kept = self.kept.get_mut(host)?;
        if let Some(it) = kept.shared.iter_mut().find(|it| !it.sender.is_closed() && it.has_room()) {
            it.exchanges += 1;
            return Some(Taken::Shared(it.sender.clone(), it.number));
        }
        kept.idle.pop_back().map(|connection| Taken::Own(Box::new(connection)))
    }

    /// Keeps a connection that has no exchange any more, if there is room.
    pub(crate) fn put_back(&mut self, host: &Host, connection: Connection) {
        let kept = self.kept.entry_ref(host).or_default();
        if kept.idle.len() < IDLE_PER_HOST_MAX {
            kept.idle.push_back(connection);
            kept.put_back.notify_one();
        }
    }

    /// Keeps a connection that exchanges share, and takes it for the first of them.
    pub(crate) fn share(&mut self, host: &Host, sender: Sender, streams_max: Arc<AtomicUsize>) -> Taken {
        self.numbers += 1;
        let number = self.numbers;
        let kept = self.kept.entry_ref(host).or_default();
        let taken = Taken::Shared(sender.clone(), number);
        kept.shared.push(Http2 { number, sender, streams_max, exchanges: 1, used: Instant::now() });
        kept.put_back.notify_waiters();
        taken
    }

    /// One exchange less shares it.
    pub(crate) fn give_back(&mut self, host: &Host, number: u64) {
        let Some(kept) = self.kept.get_mut(host) else { return };
        if let Some(it) = kept.shared.iter_mut().find(|it| it.number == number) {
            it.exchanges -= 1;
            it.used = Instant::now();
            kept.put_back.notify_one();
        }
    }

    pub(crate) fn names(&self) -> Vec<Host> {
        self.kept.keys().cloned().collect()
    }

    /// Takes out what has no exchange, to be looked at.
    pub(crate) fn take_out(&mut self, host: &Host) -> VecDeque<Connection> {
        self.kept.get_mut(host).map(|kept| std::mem::take(&mut kept.idle)).unwrap_or_default()
    }

    /// Brings back what is left of it, and forgets a host of which nothing is.
    pub(crate) fn bring_back(&mut self, host: &Host, idle: VecDeque<Connection>) {
        let kept = self.kept.entry_ref(host).or_default();
        // What was put back meanwhile was used last.
        for connection in idle.into_iter().rev() {
            kept.idle.push_front(connection);
            kept.put_back.notify_one();
        }
        kept.shared.retain(Http2::is_usable);
        let is_dialled = Arc::strong_count(&kept.put_back) > 1;
        if !is_dialled && kept.shared.is_empty() && kept.idle.is_empty() {
            self.kept.remove(host);
        }
    }
}
