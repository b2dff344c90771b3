//! How a path answers: as a good receiver, or with one of the faults that a
//! sender has to live with.
//!
//! A behaviour that fails answers so whether or not the signature is good; one
//! that answers 200 in its own way still answers 401 to a bad signature.

use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use hyper::body::{Body, Frame, SizeHint};
use hyper::header::{HeaderName, HeaderValue, LOCATION, RETRY_AFTER};
use hyper::{Response, StatusCode};
use tokio::time::{Interval, interval, sleep};

/// Pieces of a huge body.
const PIECE_BYTES: usize = 64 * 1_024;
static PIECE: [u8; PIECE_BYTES] = [b'x'; PIECE_BYTES];

/// What a path answers to a request.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
#[non_exhaustive]
pub enum Behaviour {
    /// 200 at once.
    #[default]
    Accept,
    /// This status, always; a 2xx takes the event.
    Status(StatusCode),
    /// This status for so many requests from now on, then 200.
    FailFirst {
        /// How many fail.
        requests: u64,
        /// With what.
        status: StatusCode,
    },
    /// 200 after a pause; the event is taken before it, as a receiver that
    /// stores first and answers late.
    Sleep(Duration),
    /// 200 at once, its body one byte at a time.
    Drip {
        /// Before each byte.
        pause: Duration,
        /// How many.
        bytes: u64,
    },
    /// Reads the request and resets the connection.
    Reset,
    /// 302 to another address.
    Redirect {
        /// Where to.
        location: HeaderValue,
    },
    /// 410: the subscriber is gone.
    Gone,
    /// 429 with `Retry-After`.
    Busy {
        /// In seconds.
        retry_after_seconds: u64,
    },
    /// 200 with a body of so many bytes.
    Huge {
        /// How many.
        bytes: u64,
    },
}

/// A behaviour and how many requests it has seen.
#[derive(Debug, Default)]
pub(super) struct Conduct {
    behaviour: Behaviour,
    requests: AtomicU64,
}

/// What to do with one request.
#[derive(Debug)]
pub(super) enum Action {
    /// Answer 2xx: the event is taken.
    Take(Manner),
    /// Answer something else.
    TurnAway(StatusCode, Option<(HeaderName, HeaderValue)>),
    /// Answer nothing.
    Reset,
}

/// How a 2xx is answered.
#[derive(Debug)]
pub(super) enum Manner {
    AtOnce(StatusCode),
    After(Duration),
    Drip { pause: Duration, bytes: u64 },
    Huge { bytes: u64 },
}

impl Conduct {
    pub(super) fn new(behaviour: Behaviour) -> Self {
        Self { behaviour, requests: AtomicU64::new(0) }
    }

    /// Decides on the next request.
    pub(super) fn next(&self) -> Action {
        let earlier = self.requests.fetch_add(1, Ordering::Relaxed);
        match &self.behaviour {
            Behaviour::Accept => Action::Take(Manner::AtOnce(StatusCode::OK)),
            Behaviour::Status(status) => Action::of(*status),
            Behaviour::FailFirst { requests, status } if earlier < *requests => Action::of(*status),
            Behaviour::FailFirst { .. } => Action::Take(Manner::AtOnce(StatusCode::OK)),
            Behaviour::Sleep(pause) => Action::Take(Manner::After(*pause)),
            Behaviour::Drip { pause, bytes } => Action::Take(Manner::Drip { pause: *pause, bytes: *bytes }),
            Behaviour::Huge { bytes } => Action::Take(Manner::Huge { bytes: *bytes }),
            Behaviour::Reset => Action::Reset,
            Behaviour::Redirect { location } => {
                Action::TurnAway(StatusCode::FOUND, Some((LOCATION, location.clone())))
            }
            Behaviour::Gone => Action::of(StatusCode::GONE),
            Behaviour::Busy { retry_after_seconds } => {
                let pause = HeaderValue::from(*retry_after_seconds);
                Action::TurnAway(StatusCode::TOO_MANY_REQUESTS, Some((RETRY_AFTER, pause)))
            }
        }
    }
}

impl Action {
    fn of(status: StatusCode) -> Self {
        if status.is_success() { Self::Take(Manner::AtOnce(status)) } else { Self::TurnAway(status, None) }
    }
}

impl Manner {
    pub(super) async fn answer(self) -> Response<Answering> {
        match self {
            Self::AtOnce(status) => respond(status, Answering::Empty),
            Self::After(pause) => {
                sleep(pause).await;
                respond(StatusCode::OK, Answering::Empty)
            }
            Self::Drip { pause, bytes } => {
                let ticks = interval(pause.max(Duration::from_millis(1)));
                respond(StatusCode::OK, Answering::Drip { ticks: Box::new(ticks), left: bytes })
            }
            Self::Huge { bytes } => respond(StatusCode::OK, Answering::Huge { left: bytes }),
        }
    }
}

/// An answer with this status.
pub(super) fn respond(status: StatusCode, body: Answering) -> Response<Answering> {
    let mut response = Response::new(body);
    *response.status_mut() = status;
    response
}

/// The body of an answer.
#[derive(Debug)]
pub(super) enum Answering {
    Empty,
    Drip { ticks: Box<Interval>, left: u64 },
    Huge { left: u64 },
}

impl Body for Answering {
    type Data = Bytes;
    type Error = std::convert::Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        let piece = match &mut *self {
            Self::Empty | Self::Drip { left: 0, .. } | Self::Huge { left: 0 } => return Poll::Ready(None),
            Self::Drip { ticks, left } => {
                ready!(ticks.poll_tick(cx));
                *left -= 1;
                Bytes::from_static(b".")
            }
            Self::Huge { left } => {
                let bytes = (*left).min(PIECE_BYTES as u64);
                *left -= bytes;
                Bytes::from_static(&PIECE[..bytes as usize])
            }
        };
        Poll::Ready(Some(Ok(Frame::data(piece))))
    }

    fn is_end_stream(&self) -> bool {
        matches!(self, Self::Empty | Self::Drip { left: 0, .. } | Self::Huge { left: 0 })
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Empty => SizeHint::with_exact(0),
            Self::Drip { left, .. } | Self::Huge { left } => SizeHint::with_exact(*left),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_requests_fail_and_the_next_is_taken() {
        let status = StatusCode::INTERNAL_SERVER_ERROR;
        let conduct = Conduct::new(Behaviour::FailFirst { requests: 2, status });
        for _ in 0..2 {
            assert!(matches!(conduct.next(), Action::TurnAway(StatusCode::INTERNAL_SERVER_ERROR, None)));
        }
        assert!(matches!(conduct.next(), Action::Take(Manner::AtOnce(StatusCode::OK))));
    }

    #[test]
    fn only_a_status_of_success_takes_the_event() {
        for (status, taken) in [(200, true), (204, true), (302, false), (410, false), (500, false)] {
            let status = StatusCode::from_u16(status).expect("a status");
            let action = Conduct::new(Behaviour::Status(status)).next();
            assert_eq!(matches!(action, Action::Take(_)), taken, "{status}");
        }
    }
}
