//! The body of a request, and whether all of it was written.
//!
//! It is one chunk. Whoever writes it holds it until the last of it was taken, by the
//! system or by TLS before it, and drops it before that where the connection ends, or the
//! exchange is reset by HTTP/2. One that was answered whole is not reset: its body is held
//! until the receiver takes it or the connection is cut, which `hosts` sees to.
//! Over a connection of HTTP/2, which others share, nothing else tells that of one exchange.

use std::convert::Infallible;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::{Buf, Bytes};
use hyper::body::{Body, Frame, SizeHint};
use tokio::sync::oneshot;

/// The body of a request; none once it was handed over, or if it is empty.
pub(crate) struct RequestBody(Option<Chunk>);

/// What is left of a body.
pub(crate) struct Chunk {
    bytes: Bytes,
    /// Who waits until nothing is left.
    written: Option<oneshot::Sender<()>>,
}

impl RequestBody {
    pub(crate) fn new(bytes: Bytes) -> RequestBody {
        RequestBody((!bytes.is_empty()).then_some(Chunk { bytes, written: None }))
    }

    /// Ends once all of it was taken; fails where it was dropped before.
    pub(crate) fn written(&mut self) -> oneshot::Receiver<()> {
        let (sender, written) = oneshot::channel();
        match &mut self.0 {
            Some(chunk) => chunk.written = Some(sender),
            None => tell(sender),
        }
        written
    }
}

impl Body for RequestBody {
    type Data = Chunk;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Chunk>, Infallible>>> {
        Poll::Ready(self.0.take().map(|chunk| Ok(Frame::data(chunk))))
    }

    fn is_end_stream(&self) -> bool {
        self.0.is_none()
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.0.as_ref().map_or(0, |chunk| chunk.bytes.len() as u64))
    }
}

impl Buf for Chunk {
    fn remaining(&self) -> usize {
        self.bytes.len()
    }

    fn chunk(&self) -> &[u8] {
        &self.bytes
    }

    fn advance(&mut self, count: usize) {
        self.bytes.advance(count);
        if self.bytes.is_empty()
            && let Some(written) = self.written.take()
        {
            tell(written);
        }
    }
}

/// Nobody may wait any more.
fn tell(written: oneshot::Sender<()>) {
    let _ = written.send(());
}

#[cfg(test)]
mod tests {
    use std::task::Waker;

    use tokio::sync::oneshot::error::TryRecvError;

    use super::*;

    fn chunk_of(body: &mut RequestBody) -> Chunk {
        let mut context = Context::from_waker(Waker::noop());
        let Poll::Ready(Some(Ok(frame))) = Pin::new(body).poll_frame(&mut context) else {
            panic!("it has one");
        };
        frame.into_data().ok().unwrap()
    }

    #[test]
    fn it_is_written_once_the_last_of_it_was_taken_and_never_where_it_was_dropped_before() {
        for taken in 0..=4 {
            let mut body = RequestBody::new(Bytes::from_static(b"body"));
            let mut written = body.written();
            assert_eq!((body.size_hint().exact(), body.is_end_stream()), (Some(4), false));
            let mut chunk = chunk_of(&mut body);
            assert_eq!((body.size_hint().exact(), body.is_end_stream()), (Some(0), true));
            chunk.advance(taken);
            let expected = if taken == 4 { Ok(()) } else { Err(TryRecvError::Empty) };
            assert_eq!((written.try_recv(), chunk.remaining()), (expected, 4 - taken));
            drop(chunk);
            assert_eq!(written.try_recv(), Err(TryRecvError::Closed), "{taken}");
        }
    }

    #[test]
    fn of_an_empty_one_nothing_is_to_be_written() {
        let mut body = RequestBody::new(Bytes::new());
        assert!(body.is_end_stream());
        assert_eq!(body.written().try_recv(), Ok(()));
    }
}
