//! Connections that are kept, by the host they lead to.

use std::collections::VecDeque;
use std::sync::Arc;

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

/// A connection for an exchange.
pub(crate) enum Taken {
    Own(Box<Connection>),
    Shared(SendRequest<Full<Bytes>>),
}

impl Taken {
    /// Whether it is still open.
    pub(crate) fn is_usable(&mut self) -> bool {
        match self {
            Taken::Own(connection) => connection.is_usable(),
            Taken::Shared(sender) => !sender.is_closed(),
        }
    }
}

/// Connections by host, under one lock that every exchange takes: whoever holds it
/// neither polls nor closes one.
#[derive(Default)]
pub(crate) struct Hosts(HashMap<Host, Kept>);

/// What is kept of one host.
#[derive(Default)]
struct Kept {
    /// The one that was used last is at the end.
    idle: VecDeque<Connection>,
    /// By HTTP/2, and when it was used last.
    shared: Option<(SendRequest<Full<Bytes>>, Instant)>,
    /// Who dials is told that there is one.
    put_back: Arc<Notify>,
}

impl Hosts {
    /// Where who dials a host is told that there is a connection.
    pub(crate) fn put_back_to(&mut self, host: &Host) -> Arc<Notify> {
        self.0.entry_ref(host).or_default().put_back.clone()
    }

    /// One that was there when somebody looked last.
    pub(crate) fn take(&mut self, host: &Host) -> Option<Taken> {
        let kept = self.0.get_mut(host)?;
        if let Some((sender, used)) = &mut kept.shared
            && !sender.is_closed()
        {
            *used = Instant::now();
            return Some(Taken::Shared(sender.clone()));
        }
        kept.idle.pop_back().map(|connection| Taken::Own(Box::new(connection)))
    }

    /// Keeps a connection that has no exchange any more, if there is room.
    pub(crate) fn put_back(&mut self, host: &Host, connection: Connection) {
        let kept = self.0.entry_ref(host).or_default();
        if kept.idle.len() < IDLE_PER_HOST_MAX {
            kept.idle.push_back(connection);
            kept.put_back.notify_one();
        }
    }

    /// Keeps a connection that all exchanges share.
    pub(crate) fn share(&mut self, host: &Host, sender: SendRequest<Full<Bytes>>) {
        let kept = self.0.entry_ref(host).or_default();
        kept.shared = Some((sender, Instant::now()));
        kept.put_back.notify_waiters();
    }

    pub(crate) fn names(&self) -> Vec<Host> {
        self.0.keys().cloned().collect()
    }

    /// Takes out what has no exchange, to be looked at.
    pub(crate) fn take_out(&mut self, host: &Host) -> VecDeque<Connection> {
        self.0.get_mut(host).map(|kept| std::mem::take(&mut kept.idle)).unwrap_or_default()
    }

    /// Brings back what is left of it, and forgets a host of which nothing is.
    pub(crate) fn bring_back(&mut self, host: &Host, idle: VecDeque<Connection>) {
        let kept = self.0.entry_ref(host).or_default();
        // What was put back meanwhile was used last.
        for connection in idle.into_iter().rev() {
            kept.idle.push_front(connection);
            kept.put_back.notify_one();
        }
        let is_usable = |(sender, used): &(SendRequest<Full<Bytes>>, Instant)| {
            !sender.is_closed() && used.elapsed() < IDLE_TIMEOUT
        };
        kept.shared = kept.shared.take().filter(is_usable);
        let is_dialled = Arc::strong_count(&kept.put_back) > 1;
        if !is_dialled && kept.shared.is_none() && kept.idle.is_empty() {
            self.0.remove(host);
        }
    }
}
