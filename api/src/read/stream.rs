//! A long answer, rendered as the client reads it.
//!
//! A task pulls chunks from the engine into a channel of [`CHUNKS_AHEAD`]; the body
//! renders from it when hyper polls for more. A full channel stops the task; the
//! body ends it, at the latest when the connection gives up on a client that does not
//! read. An answer that cannot be finished closes the connection: it never looks whole.

use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use hyper::header::HeaderValue;
use systole_engine::{SampleChunk, SampleStream};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio::time::timeout;

use super::render::Page;
use crate::error::Refusal;
use crate::reply::CutOff;

/// Chunks that wait for the client; full stops the reading of more.
const CHUNKS_AHEAD: usize = 2;
/// Rows rendered at a time, about 48 KB.
const ROWS_PER_FRAME: usize = 512;
/// Bytes a printed row usually takes.
const ROW_BYTES: usize = 112;

/// A question that is being answered: how long it may take to its next rows, and
/// the id its log line carries.
#[derive(Clone, Debug)]
pub(super) struct Running {
    pub(super) timeout: Duration,
    pub(super) request_id: HeaderValue,
}

enum Message {
    Chunk(Box<SampleChunk>),
    End,
}

/// The body of a long answer.
pub(crate) struct SampleBody {
    messages: mpsc::Receiver<Message>,
    /// The task; ended with the body.
    pump: JoinHandle<()>,
    page: Page,
    /// The chunk that is rendered and the row to go on with.
    chunk: Option<(SampleChunk, usize)>,
    /// Printed and not yet sent: the head at first.
    out: Vec<u8>,
    done: bool,
}

/// The whole answer, of the only chunk there is.
pub(super) fn render_whole(mut page: Page, chunk: Option<&SampleChunk>) -> Vec<u8> {
    let rows = chunk.map_or(0, SampleChunk::len);
    let mut out = Vec::with_capacity(128 + rows * ROW_BYTES);
    page.head(&mut out);
    if let Some(chunk) = chunk {
        page.rows(chunk, 0, rows, &mut out);
    }
    page.tail(&mut out);
    out
}

impl SampleBody {
    /// Goes on with `stream` behind the chunks that were already taken from it.
    pub(super) fn new(
        page: Page,
        first: SampleChunk,
        second: SampleChunk,
        stream: SampleStream,
        running: Running,
    ) -> SampleBody {
        let (sender, messages) = mpsc::channel(CHUNKS_AHEAD);
        let pump = tokio::spawn(pump(second, stream, sender, running));
        let mut out = Vec::with_capacity(ROWS_PER_FRAME * ROW_BYTES);
        page.head(&mut out);
        SampleBody { messages, pump, page, chunk: Some((first, 0)), out, done: false }
    }

    pub(crate) fn poll_bytes(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Bytes, CutOff>>> {
        while !self.done {
            if let Some((chunk, from)) = self.chunk.take() {
                let next = self.page.rows(&chunk, from, ROWS_PER_FRAME, &mut self.out);
                if self.page.is_full() {
                    self.finish();
                } else if next < chunk.len() {
                    self.chunk = Some((chunk, next));
                }
                return Poll::Ready(Some(Ok(self.take_out())));
            }
            match ready!(self.messages.poll_recv(cx)) {
                Some(Message::Chunk(chunk)) => self.chunk = Some((*chunk, 0)),
                Some(Message::End) => {
                    self.finish();
                    return Poll::Ready(Some(Ok(self.take_out())));
                }
                None => {
                    self.done = true;
                    return Poll::Ready(Some(Err(CutOff)));
                }
            }
        }
        Poll::Ready(None)
    }

    fn finish(&mut self) {
        self.page.tail(&mut self.out);
        self.done = true;
        self.pump.abort();
    }

    fn take_out(&mut self) -> Bytes {
        let room = if self.done { 0 } else { ROWS_PER_FRAME * ROW_BYTES };
        std::mem::replace(&mut self.out, Vec::with_capacity(room)).into()
    }
}

impl Drop for SampleBody {
    fn drop(&mut self) {
        self.pump.abort();
    }
}

async fn pump(first: SampleChunk, mut stream: SampleStream, sender: mpsc::Sender<Message>, running: Running) {
    let mut message = Message::Chunk(Box::new(first));
    loop {
        let is_end = matches!(message, Message::End);
        if sender.send(message).await.is_err() || is_end {
            return;
        }
        message = match timeout(running.timeout, stream.next()).await {
            Ok(Some(Ok(chunk))) => Message::Chunk(Box::new(chunk)),
            Ok(None) => Message::End,
            Ok(Some(Err(fault))) => {
                let refusal = Refusal::from(fault);
                return running.cut_off(refusal.inside().unwrap_or(refusal.status().1));
            }
            Err(_) => return running.cut_off("the query took too long"),
        };
    }
}

impl Running {
    fn cut_off(&self, reason: &str) {
        let request_id = self.request_id.to_str().unwrap_or_default();
        tracing::warn!(request_id, reason, "answer cut off");
    }
}
