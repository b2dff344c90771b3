//! A long answer, rendered as the client reads it.
//!
//! A task pulls parts from the engine into a channel of [`PARTS_AHEAD`]; the body
//! renders from it when hyper polls for more. A full channel stops the task; the
//! body ends it, at the latest when the connection gives up on a client that does not
//! read. An answer that cannot be finished closes the connection: it never looks whole.

use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use hyper::header::HeaderValue;
use systole_engine::EncodeError;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio::time::timeout;

use super::page::{Page, ROW_BYTES};
use super::part::{Part, PartStream};
use crate::error::{Refusal, chain};
use crate::reply::CutOff;

/// Parts that wait for the client; full stops the reading of more.
const PARTS_AHEAD: usize = 2;

/// A question that is being answered: how long it may take to its next rows, and
/// the id its log line carries.
#[derive(Clone, Debug)]
pub(super) struct Running {
    pub(super) timeout: Duration,
    pub(super) request_id: HeaderValue,
}

enum Message {
    Part(Part),
    End,
}

/// The body of a long answer.
pub(crate) struct SampleBody {
    messages: mpsc::Receiver<Message>,
    /// The task; ended with the body.
    pump: JoinHandle<()>,
    page: Page,
    /// What was there at the start and is not rendered yet, the first at the end.
    begun: Vec<Part>,
    /// The part that is rendered and the row to go on with.
    part: Option<(Part, usize)>,
    /// Printed and not yet sent: the head at first.
    out: Vec<u8>,
    done: bool,
}

/// The whole answer, of all the parts there are.
pub(super) fn render_whole(page: &mut Page, parts: &[Part]) -> Result<Vec<u8>, Refusal> {
    let rows: usize = parts.iter().map(Part::len).sum();
    let mut out = Vec::with_capacity(128 + rows * ROW_BYTES);
    let mut render = || {
        page.head(&mut out)?;
        for part in parts {
            if !page.is_full() {
                page.rows(part, 0, part.len(), &mut out)?;
            }
        }
        page.tail(&mut out)
    };
    render().map_err(unencodable)?;
    Ok(out)
}

fn unencodable(fault: EncodeError) -> Refusal {
    Refusal::Internal { inside: chain(&fault) }
}

impl SampleBody {
    /// Goes on with `stream` behind the parts that were already taken from it.
    pub(super) fn new(
        mut page: Page,
        mut begun: Vec<Part>,
        stream: PartStream,
        running: Running,
    ) -> Result<SampleBody, Refusal> {
        let (sender, messages) = mpsc::channel(PARTS_AHEAD);
        let mut out = Vec::with_capacity(page.rows_at_once() * ROW_BYTES);
        page.head(&mut out).map_err(unencodable)?;
        let pump = tokio::spawn(pump(stream, sender, running));
        begun.reverse();
        Ok(SampleBody { messages, pump, page, begun, part: None, out, done: false })
    }

    pub(crate) fn poll_bytes(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Bytes, CutOff>>> {
        if self.done {
            return Poll::Ready(None);
        }
        if self.part.is_none() {
            self.part = match self.begun.pop() {
                Some(part) => Some((part, 0)),
                None => match ready!(self.messages.poll_recv(cx)) {
                    Some(Message::Part(part)) => Some((part, 0)),
                    Some(Message::End) => None,
                    None => return self.cut_off(),
                },
            };
        }
        match self.render() {
            Ok(()) => Poll::Ready(Some(Ok(self.take_out()))),
            Err(fault) => {
                tracing::error!(reason = chain(&fault), "answer cut off");
                self.cut_off()
            }
        }
    }

    /// Prints some rows of the part at hand, or the end if there is none.
    fn render(&mut self) -> Result<(), EncodeError> {
        let Some((part, from)) = self.part.take() else {
            return self.finish();
        };
        let next = self.page.rows(&part, from, self.page.rows_at_once(), &mut self.out)?;
        if self.page.is_full() {
            return self.finish();
        }
        if next < part.len() {
            self.part = Some((part, next));
        }
        Ok(())
    }

    fn finish(&mut self) -> Result<(), EncodeError> {
        self.done = true;
        self.pump.abort();
        self.page.tail(&mut self.out)
    }

    fn cut_off(&mut self) -> Poll<Option<Result<Bytes, CutOff>>> {
        self.done = true;
        self.pump.abort();
        Poll::Ready(Some(Err(CutOff)))
    }

    fn take_out(&mut self) -> Bytes {
        let room = if self.done { 0 } else { self.page.rows_at_once() * ROW_BYTES };
        std::mem::replace(&mut self.out, Vec::with_capacity(room)).into()
    }
}

impl Drop for SampleBody {
    fn drop(&mut self) {
        self.pump.abort();
    }
}

async fn pump(mut stream: PartStream, sender: mpsc::Sender<Message>, running: Running) {
    loop {
        let message = match timeout(running.timeout, stream.next()).await {
            Ok(Some(Ok(part))) => Message::Part(part),
            Ok(None) => Message::End,
            Ok(Some(Err(fault))) => {
                let refusal = Refusal::from(fault);
                return running.cut_off(refusal.inside().unwrap_or(refusal.status().1));
            }
            Err(_) => return running.cut_off("the query took too long"),
        };
        let is_end = matches!(message, Message::End);
        if sender.send(message).await.is_err() || is_end {
            return;
        }
    }
}

impl Running {
    fn cut_off(&self, reason: &str) {
        let request_id = self.request_id.to_str().unwrap_or_default();
        tracing::warn!(request_id, reason, "answer cut off");
    }
}
