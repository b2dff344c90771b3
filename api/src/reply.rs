//! Answers: a status, a type and a body that is whole or streams.

use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use hyper::body::{Body, Frame, SizeHint};
use hyper::header::{CONTENT_TYPE, HeaderValue};
use hyper::{Response, StatusCode};
use serde::Serialize;

use crate::read::{ExportBody, SampleBody};
use crate::sql::RowBody;

/// What hyper is given to write.
pub(crate) type Reply = Response<ReplyBody>;

const JSON: HeaderValue = HeaderValue::from_static("application/json");

/// JSON that lies ready as bytes.
pub(crate) fn json(status: StatusCode, body: impl Into<Bytes>) -> Reply {
    typed(status, JSON, body)
}

/// JSON made of a value.
pub(crate) fn json_of<T: Serialize>(status: StatusCode, value: &T) -> Reply {
    json(status, serde_json::to_vec(value).expect("the types of answers always serialize"))
}

/// A body of another type.
pub(crate) fn typed(status: StatusCode, content_type: HeaderValue, body: impl Into<Bytes>) -> Reply {
    let mut response = Response::new(ReplyBody::whole(body));
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, content_type);
    response
}

/// No body at all.
pub(crate) fn empty(status: StatusCode) -> Reply {
    let mut response = Response::new(ReplyBody::whole(Bytes::new()));
    *response.status_mut() = status;
    response
}

/// Samples as they come.
pub(crate) fn samples(content_type: HeaderValue, body: SampleBody) -> Reply {
    let mut response = Response::new(ReplyBody::Samples(Box::new(body)));
    response.headers_mut().insert(CONTENT_TYPE, content_type);
    response
}

/// Rows of an SQL statement as they come.
pub(crate) fn rows(content_type: HeaderValue, body: RowBody) -> Reply {
    let mut response = Response::new(ReplyBody::Rows(Box::new(body)));
    response.headers_mut().insert(CONTENT_TYPE, content_type);
    response
}

/// An export as it comes.
pub(crate) fn export(body: ExportBody, content_type: HeaderValue) -> Reply {
    let mut response = Response::new(ReplyBody::Export(body));
    response.headers_mut().insert(CONTENT_TYPE, content_type);
    response
}

/// The body of an answer.
pub(crate) enum ReplyBody {
    /// All of it, or nothing once it was taken.
    Whole(Bytes),
    /// Rendered as the client reads.
    Samples(Box<SampleBody>),
    /// Rows of an SQL statement, as it finds them.
    Rows(Box<RowBody>),
    /// Everything of a user.
    Export(ExportBody),
}

impl ReplyBody {
    pub(crate) fn whole(bytes: impl Into<Bytes>) -> ReplyBody {
        ReplyBody::Whole(bytes.into())
    }
}

/// The stream ended before its end; hyper closes the connection, so that a cut
/// document is never taken for a whole one.
#[derive(Debug, thiserror::Error)]
#[error("the answer was cut off")]
pub(crate) struct CutOff;

impl Body for ReplyBody {
    type Data = Bytes;
    type Error = CutOff;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, CutOff>>> {
        match self.get_mut() {
            ReplyBody::Whole(bytes) if bytes.is_empty() => Poll::Ready(None),
            ReplyBody::Whole(bytes) => Poll::Ready(Some(Ok(Frame::data(std::mem::take(bytes))))),
            ReplyBody::Samples(body) => {
                body.poll_bytes(cx).map(|bytes| bytes.map(|bytes| bytes.map(Frame::data)))
            }
            ReplyBody::Rows(body) => {
                body.poll_bytes(cx).map(|bytes| bytes.map(|bytes| bytes.map(Frame::data)))
            }
            ReplyBody::Export(body) => {
                body.poll_bytes(cx).map(|bytes| bytes.map(|bytes| bytes.map(Frame::data)))
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        matches!(self, ReplyBody::Whole(bytes) if bytes.is_empty())
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            ReplyBody::Whole(bytes) => SizeHint::with_exact(bytes.len() as u64),
            ReplyBody::Samples(_) | ReplyBody::Export(_) => SizeHint::default(),
            ReplyBody::Rows(body) => body.size_hint(),
        }
    }
}
