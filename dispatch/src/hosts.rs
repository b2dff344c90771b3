//! Connections that are kept, by the host they lead to and by how long they were idle.
//!
//! Every connection has a number, a greater one each time it becomes idle: so the one
//! with the least number was idle for longest.
//!
//! Over HTTP/2 a receiver may answer whole and never take the rest of a body, which is
//! then held for as long as the connection is there: nothing is left to reset. So what
//! an exchange that ended left unwritten is noted; once it is so for [`WRITE_TIMEOUT`],
//! or there is too much of it, no exchange begins on that connection any more, and when
//! the last one has ended, at the next look, it is cut, which drops the bodies.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use hashbrown::HashMap;
use hyper::client::conn::http2::SendRequest;
use hyper::http::uri::Authority;
use tokio::sync::oneshot::error::TryRecvError;
use tokio::sync::{Notify, oneshot};
use tokio::task::AbortHandle;
use tokio::time::Instant;

use crate::client::IDLE_TIMEOUT;
use crate::connection::Connection;
use crate::request_body::RequestBody;
use crate::room::Standing;
use crate::target::Target;

/// Where a connection leads, and who uses it.
#[derive(Clone, PartialEq, Eq, Hash)]
pub(crate) struct Host {
    /// A name and a port.
    pub(crate) authority: Authority,
    pub(crate) is_https: bool,
    /// Its connections are kept apart from others to the same name and port: they hold other
    /// places.
    pub(crate) standing: Standing,
}

impl Host {
    /// Where a target is, for a receiver that stands so.
    pub(crate) fn of(target: &Target, standing: Standing) -> Host {
        Host { authority: target.authority().clone(), is_https: target.is_https(), standing }
    }
}

/// Sends over a connection of HTTP/2.
pub(crate) type Sender = SendRequest<RequestBody>;

/// Exchanges that share a connection at a time, as many as a lane has at its widest:
/// what one lost packet holds up.
const STREAMS_MAX: usize = 64;

/// Bodies that a connection holds of exchanges that ended, until no more begin on it:
/// a few, as a receiver that refuses early needs a moment to reset or to read.
const UNWRITTEN_MAX: usize = 4;

/// How long a receiver that has answered may take to read what is left of the body,
/// which the memory of all deliveries is short of meanwhile: many round trips.
const WRITE_TIMEOUT: Duration = Duration::from_secs(2);

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
            // It was a moment ago; and it counts an exchange, which gives it back.
            Taken::Shared(..) => true,
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
    /// Of exchanges that ended, the first that ended first.
    unwritten: Vec<Unwritten>,
    /// What runs it.
    tasks: [AbortHandle; 2],
}

/// A body that is still held though its exchange ended.
struct Unwritten {
    /// Comes, or fails, once it is not held any more.
    written: oneshot::Receiver<()>,
    /// When its exchange ended.
    since: Instant,
}

impl Http2 {
    /// What is unwritten is a stream to the receiver still.
    fn has_room(&mut self) -> bool {
        self.forget_written();
        let is_late = self.unwritten.first().is_some_and(|it| it.since.elapsed() >= WRITE_TIMEOUT);
        let streams = self.exchanges + self.unwritten.len();
        !is_late
            && self.unwritten.len() < UNWRITTEN_MAX
            && streams < STREAMS_MAX.min(self.streams_max.load(Ordering::Relaxed))
    }

    /// Whether it is to be kept: always under an exchange, which would end with it. What
    /// was written last may be in TLS still, so that it rests for a while before it is cut.
    fn is_usable(&mut self) -> bool {
        self.forget_written();
        if self.exchanges > 0 {
            return true;
        }
        if !self.unwritten.is_empty() {
            return self.used.elapsed() < WRITE_TIMEOUT;
        }
        !self.sender.is_closed() && self.used.elapsed() < IDLE_TIMEOUT
    }

    fn forget_written(&mut self) {
        self.unwritten.retain_mut(|it| it.written.try_recv() == Err(TryRecvError::Empty));
    }
}

impl Drop for Http2 {
    /// Without its sender it closes once all is written; what never will be goes with it.
    fn drop(&mut self) {
        self.forget_written();
        if !self.unwritten.is_empty() {
            self.tasks.iter().for_each(AbortHandle::abort);
        }
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
        let with_room = kept.shared.iter_mut().position(|it| !it.sender.is_closed() && it.has_room());
        if let Some(at) = with_room {
            let it = &mut kept.shared[at];
            it.exchanges += 1;
            self.idle.remove(&it.number);
            return Some(Taken::Shared(it.sender.clone(), it.number));
        }
        let (number, connection) = kept.idle.pop_back()?;
        self.idle.remove(&number);
        Some(Taken::Own(connection))
    }

    /// Takes the one that had no exchange for longest, to be closed.
    pub(crate) fn take_longest_idle(&mut self) -> Option<Taken> {
        let (number, host) = self.idle.pop_first()?;
        let kept = self.kept.get_mut(&host)?;
        if let Some((_, connection)) = kept.idle.pop_front_if(|(it, _)| *it == number) {
            return Some(Taken::Own(connection));
        }
        let at = kept.shared.iter().position(|it| it.number == number)?;
        let ended = kept.shared.remove(at);
        Some(Taken::Shared(ended.sender.clone(), number))
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
    pub(crate) fn share(
        &mut self,
        host: &Host,
        sender: Sender,
        streams_max: Arc<AtomicUsize>,
        tasks: [AbortHandle; 2],
    ) -> Taken {
        let number = self.number();
        let kept = self.kept.entry_ref(host).or_default();
        let taken = Taken::Shared(sender.clone(), number);
        kept.shared.push(Http2 {
            number,
            sender,
            streams_max,
            exchanges: 1,
            used: Instant::now(),
            unwritten: Vec::new(),
            tasks,
        });
        kept.put_back.notify_waiters();
        taken
    }

    /// One exchange less shares it, whose body may be held still; whether somebody dials
    /// its host.
    pub(crate) fn give_back(
        &mut self,
        host: &Host,
        number: u64,
        written: Option<oneshot::Receiver<()>>,
    ) -> bool {
        let next = self.number();
        let Some(kept) = self.kept.get_mut(host) else { return false };
        let Some(it) = kept.shared.iter_mut().find(|it| it.number == number) else { return false };
        it.exchanges -= 1;
        it.unwritten.extend(written.map(|written| Unwritten { written, since: Instant::now() }));
        it.forget_written();
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
