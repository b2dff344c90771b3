//! Connections: accepting them, within a limit, and serving each in its own task.
//!
//! A connection that sends no head, no handshake or nothing at all is closed after
//! the header timeout, one that does not read its answer after the write timeout. A stop tells every connection to finish the request it is
//! in; those that are not done at the deadline are cut.

use std::convert::Infallible;
use std::io;
use std::net::SocketAddr;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use hyper::header::{CONNECTION, HeaderValue};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};
use tokio_rustls::TlsAcceptor;

use super::drain::{Drained, finish};
use super::stall::Impatient;
use crate::app::App;
use crate::route;

/// How long accepting rests when the system has no descriptor or memory to give.
const ACCEPT_REST: Duration = Duration::from_millis(100);
/// How long a connection that is idle at a stop may still bring the request that is
/// on its way; the answer then says that it closes.
const LAST_REQUEST: Duration = Duration::from_millis(100);
/// Longest head of a request: a token of 16 KiB and room for the rest. Longer
/// ones are answered 431.
const HEAD_BYTES_MAX: usize = 32 * 1024;

/// Accepts and serves.
pub(super) struct Connections {
    app: Arc<App>,
    acceptor: Option<TlsAcceptor>,
    http: http1::Builder,
    /// One for each open connection.
    places: Arc<Semaphore>,
    stopped: watch::Receiver<bool>,
}

impl Connections {
    pub(super) fn new(
        app: Arc<App>,
        acceptor: Option<TlsAcceptor>,
        stopped: watch::Receiver<bool>,
    ) -> Connections {
        let mut http = http1::Builder::new();
        http.timer(TokioTimer::new())
            .header_read_timeout(app.settings.http.header_timeout)
            .max_header_size(HEAD_BYTES_MAX);
        let places = Arc::new(Semaphore::new(app.settings.http.connections_max));
        Connections { app, acceptor, http, places, stopped }
    }

    /// Accepts until the server stops, then waits for what is in flight.
    pub(super) async fn accept(self, listener: TcpListener) -> Drained {
        let mut open = JoinSet::new();
        let mut stopped = self.stopped.clone();
        loop {
            tokio::select! {
                biased;
                () = told(&mut stopped) => break,
                Some(_) = open.join_next(), if !open.is_empty() => {}
                accepted = self.next(&listener) => match accepted {
                    Ok((stream, peer, place)) => {
                        open.spawn(self.connection(stream, peer, place));
                    }
                    Err(fault) => {
                        tracing::warn!(%fault, "cannot accept a connection");
                        sleep(ACCEPT_REST).await;
                    }
                },
            }
        }
        drop(listener);
        finish(open, self.app.settings.http.drain).await
    }

    async fn next(
        &self,
        listener: &TcpListener,
    ) -> io::Result<(TcpStream, SocketAddr, OwnedSemaphorePermit)> {
        let place = Arc::clone(&self.places).acquire_owned().await;
        let place = place.map_err(|_| io::Error::other("no places"))?;
        let (stream, peer) = listener.accept().await?;
        // Fails only for a connection that is already gone.
        let _ = stream.set_nodelay(true);
        Ok((stream, peer, place))
    }

    fn connection(
        &self,
        stream: TcpStream,
        peer: SocketAddr,
        place: OwnedSemaphorePermit,
    ) -> impl Future<Output = ()> + Send + use<> {
        let (app, acceptor) = (Arc::clone(&self.app), self.acceptor.clone());
        let (http, stopped) = (self.http.clone(), self.stopped.clone());
        async move {
            let _place = place;
            let _counted = Counted::new(&app);
            let header_timeout = app.settings.http.header_timeout;
            let stream = Impatient::new(stream, app.settings.http.write_timeout);
            match acceptor {
                None => serve(&http, stream, Arc::clone(&app), stopped, peer).await,
                Some(acceptor) => match timeout(header_timeout, acceptor.accept(stream)).await {
                    Ok(Ok(stream)) => serve(&http, stream, Arc::clone(&app), stopped, peer).await,
                    Ok(Err(fault)) => tracing::debug!(%peer, %fault, "tls handshake failed"),
                    Err(_) => tracing::debug!(%peer, "tls handshake took too long"),
                },
            }
        }
    }
}

/// Counts a connection while it lives.
struct Counted<'a>(&'a App);

impl<'a> Counted<'a> {
    fn new(app: &'a App) -> Counted<'a> {
        app.observe.connection_opened();
        Counted(app)
    }
}

impl Drop for Counted<'_> {
    fn drop(&mut self) {
        self.0.observe.connection_closed();
    }
}

async fn serve(
    http: &http1::Builder,
    stream: impl AsyncRead + AsyncWrite + Send + Unpin,
    app: Arc<App>,
    mut stopped: watch::Receiver<bool>,
    peer: SocketAddr,
) {
    let stopping = stopped.clone();
    let service = service_fn(move |request| {
        let (app, stopping) = (Arc::clone(&app), stopping.clone());
        async move {
            let mut response = route::answer(app, request).await;
            if *stopping.borrow() {
                response.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
            }
            Ok::<_, Infallible>(response)
        }
    });
    let mut connection = pin!(http.serve_connection(TokioIo::new(stream), service));
    let served = tokio::select! {
        served = connection.as_mut() => served,
        () = told(&mut stopped) => match timeout(LAST_REQUEST, connection.as_mut()).await {
            Ok(served) => served,
            Err(_) => {
                connection.as_mut().graceful_shutdown();
                connection.await
            }
        }
    };
    if let Err(fault) = served {
        tracing::debug!(%peer, fault = crate::error::chain(&fault), "connection ended");
    }
}

/// Waits until the server stops.
async fn told(stopped: &mut watch::Receiver<bool>) {
    let _ = stopped.wait_for(|stop| *stop).await;
}
