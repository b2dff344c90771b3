//! Reading a request's body.

use std::time::{Duration, Instant};

use bytes::Bytes;
use http_body_util::BodyExt as _;
use hyper::HeaderMap;
use hyper::body::{Body as _, Incoming};
use hyper::header::EXPECT;

use crate::error::Refusal;

/// How long a body is read on and thrown away after an early answer. A client
/// that still sends would meet a reset and might never see the answer.
const LINGER: Duration = Duration::from_secs(5);
/// How much of it at most.
const LINGER_BYTES_MAX: usize = 256 * 1024 * 1024;

/// A request's body, read by its handler or lingered over by the router.
pub(crate) struct RequestBody {
    incoming: Incoming,
    /// The client waits for `100 Continue` before it sends.
    asked_first: bool,
    /// Nothing more is to be read: it ended, or it is not worth waiting for.
    done: bool,
}

/// How much is read and for how long.
pub(crate) struct BodyLimits {
    pub(crate) bytes_max: usize,
    pub(crate) timeout: Duration,
}

/// What may still come of a body that is read part by part, and within which time; only
/// the time in which a part is waited for counts.
pub(crate) struct BodyLeft {
    bytes: usize,
    time: Duration,
    limits: BodyLimits,
}

impl BodyLimits {
    /// All of it.
    pub(crate) fn left(self) -> BodyLeft {
        BodyLeft { bytes: self.bytes_max, time: self.timeout, limits: self }
    }

    fn too_large(&self) -> Refusal {
        Refusal::BodyTooLarge { limit: self.bytes_max }
    }

    fn too_slow(&self) -> Refusal {
        Refusal::BodyTimeout { seconds: self.timeout.as_secs_f64() }
    }
}

impl RequestBody {
    pub(crate) fn new(incoming: Incoming, headers: &HeaderMap) -> RequestBody {
        let done = incoming.is_end_stream();
        RequestBody { incoming, asked_first: headers.contains_key(EXPECT), done }
    }

    /// The length the client declared; `None` for a chunked body.
    pub(crate) fn declared_bytes(&self) -> Option<u64> {
        self.incoming.size_hint().exact()
    }

    /// Refuses a body whose declared length is over the limit.
    pub(crate) fn check_declared(&self, limits: &BodyLimits) -> Result<(), Refusal> {
        match self.declared_bytes() {
            Some(bytes) if bytes > limits.bytes_max as u64 => Err(limits.too_large()),
            _ => Ok(()),
        }
    }

    /// Appends the whole body to `out`. `grow` is asked before each part is kept.
    pub(crate) async fn read(
        &mut self,
        out: &mut Vec<u8>,
        limits: &BodyLimits,
        grow: impl FnMut(usize) -> Result<(), Refusal>,
    ) -> Result<(), Refusal> {
        self.check_declared(limits)?;
        let read = self.read_parts(out, limits, grow);
        match tokio::time::timeout(limits.timeout, read).await {
            Ok(result) => result,
            Err(_) => {
                self.done = true;
                Err(limits.too_slow())
            }
        }
    }

    async fn read_parts(
        &mut self,
        out: &mut Vec<u8>,
        limits: &BodyLimits,
        mut grow: impl FnMut(usize) -> Result<(), Refusal>,
    ) -> Result<(), Refusal> {
        while let Some(part) = self.next().await? {
            if out.len() + part.len() > limits.bytes_max {
                return Err(limits.too_large());
            }
            grow(part.len())?;
            out.extend_from_slice(&part);
        }
        Ok(())
    }

    /// The next part; `None` behind the last one.
    pub(crate) async fn part(&mut self, left: &mut BodyLeft) -> Result<Option<Bytes>, Refusal> {
        let asked = Instant::now();
        let came = tokio::time::timeout(left.time, self.next()).await;
        left.time = left.time.saturating_sub(asked.elapsed());
        let Ok(part) = came else {
            self.done = true;
            return Err(left.limits.too_slow());
        };
        let part = part?;
        let bytes = part.as_ref().map_or(0, Bytes::len);
        left.bytes = left.bytes.checked_sub(bytes).ok_or_else(|| left.limits.too_large())?;
        Ok(part)
    }

    async fn next(&mut self) -> Result<Option<Bytes>, Refusal> {
        while !self.done {
            self.asked_first = false;
            match self.incoming.frame().await {
                None => self.done = true,
                Some(Ok(frame)) => {
                    if let Ok(part) = frame.into_data() {
                        return Ok(Some(part));
                    }
                }
                Some(Err(_)) => {
                    self.done = true;
                    return Err(Refusal::BodyIncomplete);
                }
            }
        }
        Ok(None)
    }

    /// Reads on for a while if the answer came before the body's end. A client
    /// that asked first has sent nothing and is simply not told to continue.
    pub(crate) fn linger(mut self) {
        if self.done || self.asked_first || self.incoming.is_end_stream() {
            return;
        }
        // Nobody waits for this task: it ends by itself, with the connection or
        // after `LINGER`.
        tokio::spawn(async move {
            let discard = async {
                let mut left = LINGER_BYTES_MAX;
                while let Ok(Some(part)) = self.next().await {
                    left = left.saturating_sub(part.len());
                    if left == 0 {
                        break;
                    }
                }
            };
            let _ = tokio::time::timeout(LINGER, discard).await;
        });
    }
}
