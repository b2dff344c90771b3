//! Connections that are kept, by the host they lead to and by how long they were idle.
//!
//! Every connection has a number, a greater one each time it becomes idle: so the one
//! with the least number was idle for longest.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use hashbrown::HashMap;
use hyper::client::conn::http2::SendRequest;
use hyper::http::uri::Authority;
use tokio::sync::Notify;
use tokio::time::Instant;

use crate::client::IDLE_TIMEOUT;
use crate::connection::Connection;
use crate::request_body::RequestBody;

/// Where a connection leads, and who uses it.
#[derive(Clone, PartialEq, Eq, Hash)]
pub(crate) struct Host {
    /// A name and a port.
    pub(crate) authority: Authority,
    pub(crate) is_https: bool,
    /// Its connections are kept apart from others to the same name and port.
    pub(crate) is_apart: bool,
}

/// Sends over a connection of HTTP/2.
pub(crate) type Sender = SendRequest<RequestBody>;

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
    /// Where those are that have no exchange, the one that had none for longest first.
    idle: BTreeMap<u64, Host>,
    /// Numbers given.
    numbers: u64,
}

/// Connections without an exchange, by their numbers.
pub(crate) type Idle = VecDeque<(u64, Box<Connection>)>;

/// What is kept of one host.
#[derive(Default)]
struct Kept {
    /// The one that was used last is at the end.
    idle: Idle,
    /// By HTTP/2. The first with room is used, so that those that are too many rest.
    shared: Vec<Http2>,
    /// Who dials is told that there is one.
    put_back: Arc<Notify>,
}

impl Kept {
    /// Who dials has a clone.
    fn is_dialled(&self) -> bool {
        Arc::strong_count(&self.put_back) > 1
    }
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
            self.idle.remove(&it.number);
            return Some(Taken::Shared(it.sender.clone(), it.number));
        }
        let (number, connection) = kept.idle.pop_back()?;
        self.idle.remove(&number);
        Some(Taken::Own(connection))
    }

    /// Takes the one that had no exchange for longest.
    pub(crate) fn take_longest_idle(&mut self) -> Option<Taken> {
        let (number, host) = self.idle.pop_first()?;
        let kept = self.kept.get_mut(&host)?;
        if let Some((_, connection)) = kept.idle.pop_front_if(|(it, _)| *it == number) {
            return Some(Taken::Own(connection));
        }
        let at = kept.shared.iter().position(|it| it.number == number)?;
        Some(Taken::Shared(kept.shared.remove(at).sender, number))
    }

    /// Keeps a connection that has no exchange any more; whether somebody dials its host.
    pub(crate) fn put_back(&mut self, host: &Host, connection: Box<Connection>) -> bool {
        let number = self.number();
        self.idle.insert(number, host.clone());
        let kept = self.kept.entry_ref(host).or_default();
        kept.idle.push_back((number, connection));
        kept.put_back.notify_one();
        kept.is_dialled()
    }

    /// Keeps a connection that exchanges share, and takes it for the first of them.
    pub(crate) fn share(&mut self, host: &Host, sender: Sender, streams_max: Arc<AtomicUsize>) -> Taken {
        let number = self.number();
        let kept = self.kept.entry_ref(host).or_default();
        let taken = Taken::Shared(sender.clone(), number);
        kept.shared.push(Http2 { number, sender, streams_max, exchanges: 1, used: Instant::now() });
        kept.put_back.notify_waiters();
        taken
    }

    /// One exchange less shares it; whether somebody dials its host.
    pub(crate) fn give_back(&mut self, host: &Host, number: u64) -> bool {
        let next = self.number();
        let Some(kept) = self.kept.get_mut(host) else { return false };
        let Some(it) = kept.shared.iter_mut().find(|it| it.number == number) else { return false };
        it.exchanges -= 1;
        if it.exchanges == 0 {
            it.used = Instant::now();
            it.number = next;
            self.idle.insert(next, host.clone());
        }
        kept.put_back.notify_one();
        kept.is_dialled()
    }

    fn number(&mut self) -> u64 {
        self.numbers += 1;
        self.numbers
    }

    pub(crate) fn names(&self) -> Vec<Host> {
        self.kept.keys().cloned().collect()
    }

    /// Takes out what has no exchange, to be looked at.
    pub(crate) fn take_out(&mut self, host: &Host) -> Idle {
        let idle = self.kept.get_mut(host).map(|kept| std::mem::take(&mut kept.idle)).unwrap_or_default();
        for (number, _) in &idle {
            self.idle.remove(number);
        }
        idle
    }

    /// Brings back what is left of it, and forgets a host of which nothing is.
    pub(crate) fn bring_back(&mut self, host: &Host, idle: Idle) {
        let kept = self.kept.entry_ref(host).or_default();
        // What was put back meanwhile was used last.
        for (number, connection) in idle.into_iter().rev() {
            self.idle.insert(number, host.clone());
            kept.idle.push_front((number, connection));
            kept.put_back.notify_one();
        }
        for ended in kept.shared.extract_if(.., |it| !it.is_usable()) {
            self.idle.remove(&ended.number);
        }
        if !kept.is_dialled() && kept.shared.is_empty() && kept.idle.is_empty() {
            self.kept.remove(host);
        }
    }
}
