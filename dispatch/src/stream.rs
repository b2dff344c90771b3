//! What goes over the network, and whether it went.
//!
//! Something is written once the system has it. TLS takes bytes before that: up to
//! 64 KiB wait in it until the system takes more.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll};

use hyper::rt::{Read, ReadBufCursor, Write};
use hyper_rustls::MaybeHttpsStream;
use hyper_util::client::legacy::connect::Connection as _;

use crate::dialer::Dialled;
use crate::room::Places;

/// A connection that was dialled, by TLS or in the clear.
pub(crate) struct Stream {
    dialled: MaybeHttpsStream<Dialled>,
    unwritten: Unwritten,
    _places: Places,
}

/// Whether something is still to be written: set by who has something, and at each
/// write; taken back once all of it went.
#[derive(Clone, Default)]
pub(crate) struct Unwritten(Arc<AtomicBool>);

impl Unwritten {
    pub(crate) fn set(&self, is_left: bool) {
        self.0.store(is_left, Ordering::Relaxed);
    }

    pub(crate) fn is_left(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }
}

impl Stream {
    pub(crate) fn over(dialled: MaybeHttpsStream<Dialled>, places: Places) -> Stream {
        Stream { dialled, unwritten: Unwritten::default(), _places: places }
    }

    /// For whoever waits until all is written.
    pub(crate) fn unwritten(&self) -> Unwritten {
        self.unwritten.clone()
    }

    /// Whether the receiver chose HTTP/2.
    pub(crate) fn is_http2(&self) -> bool {
        self.dialled.connected().is_negotiated_h2()
    }

    fn dialled(self: Pin<&mut Self>) -> Pin<&mut MaybeHttpsStream<Dialled>> {
        Pin::new(&mut self.get_mut().dialled)
    }
}

impl Read for Stream {
    fn poll_read(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: ReadBufCursor<'_>,
    ) -> Poll<io::Result<()>> {
        self.dialled().poll_read(context, buffer)
    }
}

impl Write for Stream {
    fn poll_write(self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.unwritten.set(true);
        self.dialled().poll_write(context, bytes)
    }

    /// hyper flushes once it has handed over all it holds.
    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let flushed = self.as_mut().dialled().poll_flush(context);
        if let Poll::Ready(Ok(())) = flushed {
            self.unwritten.set(false);
        }
        flushed
    }

    fn poll_shutdown(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.dialled().poll_shutdown(context)
    }

    fn is_write_vectored(&self) -> bool {
        self.dialled.is_write_vectored()
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.unwritten.set(true);
        self.dialled().poll_write_vectored(context, slices)
    }
}
