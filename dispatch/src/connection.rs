//! One connection of HTTP/1.1, driven by whoever has an exchange on it.
//!
//! It has no task of its own: the exchange polls it, and between two exchanges nobody
//! does. So an answer wakes one task, the one that waits for it, and what the receiver
//! does to an idle connection is found when it is wanted again or looked at.

use std::future::{Future, poll_fn};
use std::pin::{Pin, pin};
use std::task::{Context, Poll, Waker};

use bytes::{Bytes, BytesMut};
use http_body_util::BodyExt as _;
use hyper::body::Incoming;
use hyper::client::conn::http1;
use hyper::client::conn::http1::SendRequest;
use hyper::http::response::Parts;
use hyper::{Request, Response};
use tokio::time::Instant;

use crate::client::{ANSWER_BYTES_MAX, IDLE_TIMEOUT, READ_BUFFER_BYTES_MAX};
use crate::request_body::RequestBody;
use crate::stream::{Stream, Unwritten};

/// A request with its body.
pub(crate) type Outgoing = Request<RequestBody>;
/// An answer, its body cut.
pub(crate) type Incame = (Parts, Bytes);

/// Why there is no answer.
pub(crate) enum Unanswered {
    /// Nothing was sent: the request may go out on another connection.
    Unsent(Box<Outgoing>, hyper::Error),
    /// The receiver may have it.
    Broken(hyper::Error),
    /// The receiver said it has it, and the connection ended before it was written.
    Cut,
}

/// A connection that is kept.
pub(crate) struct Connection {
    sender: SendRequest<RequestBody>,
    driver: Pin<Box<http1::Connection<Stream, RequestBody>>>,
    ended: bool,
    /// Of the last request.
    unwritten: Unwritten,
    /// Exchanges begun.
    exchanges: u32,
    /// Since when nobody has an exchange on it.
    idle_since: Instant,
}

impl Connection {
    pub(crate) async fn over(stream: Stream) -> Result<Connection, hyper::Error> {
        let unwritten = stream.unwritten();
        let mut builder = http1::Builder::new();
        let (sender, driver) = builder.max_buf_size(READ_BUFFER_BYTES_MAX).handshake(stream).await?;
        let driver = Box::pin(driver);
        Ok(Connection { sender, driver, ended: false, unwritten, exchanges: 0, idle_since: Instant::now() })
    }

    /// Sends a request and reads the answer; a success is one only with the whole
    /// request. Dropped before its end, it leaves a connection that is not ready any
    /// more.
    pub(crate) async fn exchange(&mut self, request: Outgoing) -> Result<Incame, Unanswered> {
        self.exchanges += 1;
        self.unwritten.set(true);
        let sent = self.sender.try_send_request(request);
        let response = self.drive(sent).await.map_err(|mut fault| match fault.take_message() {
            Some(request) => Unanswered::Unsent(Box::new(request), fault.into_error()),
            None => Unanswered::Broken(fault.into_error()),
        })?;
        let (head, mut body) = Response::into_parts(response);
        let read = self.drive(read_body(&mut body)).await.map_err(Unanswered::Broken)?;
        // What is left of it is not waited for.
        drop(body);
        if head.status.is_success() {
            self.write_out().await?;
        }
        Ok((head, read))
    }

    /// Writes what is left of a request that was answered before it was read.
    async fn write_out(&mut self) -> Result<(), Unanswered> {
        poll_fn(|context| {
            if self.unwritten.is_left() {
                self.poll(context);
            }
            match (self.unwritten.is_left(), self.ended) {
                (false, _) => Poll::Ready(Ok(())),
                (true, true) => Poll::Ready(Err(Unanswered::Cut)),
                (true, false) => Poll::Pending,
            }
        })
        .await
    }

    /// Polls what waits for the connection, and the connection with it.
    async fn drive<F: Future>(&mut self, waiting: F) -> F::Output {
        let mut waiting = pin!(waiting);
        poll_fn(|context| {
            // What it asks for is there at the connection's poll.
            if let ready @ Poll::Ready(_) = waiting.as_mut().poll(context) {
                return ready;
            }
            self.poll(context);
            waiting.as_mut().poll(context)
        })
        .await
    }

    /// Lets it read and write; what comes of its end is told to who waits for it.
    fn poll(&mut self, context: &mut Context<'_>) {
        self.ended = self.ended || self.driver.as_mut().poll(context).is_ready();
    }

    /// Whether another exchange may follow: all is written, and the receiver has closed
    /// nothing, and said no more than was asked.
    pub(crate) fn is_ready(&mut self) -> bool {
        // Who polls it next brings a waker.
        self.poll(&mut Context::from_waker(Waker::noop()));
        !self.ended && !self.unwritten.is_left() && self.sender.is_ready()
    }

    /// Exchanges that it had.
    pub(crate) fn exchanges(&self) -> u32 {
        self.exchanges
    }

    /// Nobody has an exchange on it from now on.
    pub(crate) fn rest(&mut self) {
        self.idle_since = Instant::now();
    }

    /// Whether one that rests is to be kept.
    pub(crate) fn is_usable(&mut self) -> bool {
        self.idle_since.elapsed() < IDLE_TIMEOUT && self.is_ready()
    }
}

/// Reads to the end, so that the connection can be kept, or to the limit; then the
/// rest is dropped with the connection, or the exchange.
pub(crate) async fn read_body(body: &mut Incoming) -> Result<Bytes, hyper::Error> {
    let mut read = BytesMut::new();
    while read.len() < ANSWER_BYTES_MAX
        && let Some(frame) = body.frame().await
    {
        if let Ok(data) = frame?.into_data() {
            let room = ANSWER_BYTES_MAX - read.len();
            read.extend_from_slice(&data[..data.len().min(room)]);
        }
    }
    Ok(read.freeze())
}
