//! The server: listen, open the engine, serve, drain.
//!
//! ```text
//! Server::start -> bind -> open -> accept task -> one task per connection -> route::answer
//! Server::stop  -> stop accepting -> requests in flight end -> engine drains
//! ```
//!
//! Whoever spawns keeps the handle: the server that of the accept task, the accept
//! task those of all connections.

mod body;
mod connection;
mod drain;
mod stall;
mod tls;

use std::io::Write as _;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use systole_engine::events::webhooks::WebhookStartError;
use systole_engine::{Catalog, CatalogError, Engine, OpenError};
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::task::JoinHandle;

use crate::app::{App, Organisations};
use crate::auth::{Auth, KeySpec, RandomFault, Scope, Scopes, Secret, make_key};
use crate::ingest::{Decoders, Pool};
use crate::manage::webhooks::EventTypes;
use crate::observe::{Observe, RequestIds};
use crate::settings::{DEFAULT_ORG, Settings};

pub(crate) use body::{BodyLimits, RequestBody};
pub use drain::Drained;

/// Why the server did not start.
#[derive(Debug, thiserror::Error)]
pub enum StartFault {
    /// The engine cannot open its data.
    #[error("cannot open the data in {}", path.display())]
    Open {
        /// The data directory.
        path: PathBuf,
        /// Why not.
        source: OpenError,
    },
    /// The catalog cannot be read or written.
    #[error("cannot prepare the catalog")]
    Catalog(#[from] CatalogError),
    /// No random numbers for the first key.
    #[error("cannot make the first key")]
    Random(#[from] RandomFault),
    /// The address cannot be listened on.
    #[error("cannot listen on {address}")]
    Listen {
        /// The address asked for.
        address: SocketAddr,
        /// Why not.
        source: std::io::Error,
    },
    /// A setting that only shows to be wrong at the start.
    #[error("setting {name}: {reason}")]
    Setting {
        /// The dotted name.
        name: &'static str,
        /// What is wrong.
        reason: String,
    },
    /// The system gives no threads.
    #[error("cannot start the decoding threads")]
    Threads(#[source] std::io::Error),
    /// The task that opened the engine panicked.
    #[error("the start was cut off: {0}")]
    CutOff(tokio::task::JoinError),
}

/// A running server.
pub struct Server {
    app: Arc<App>,
    address: SocketAddr,
    tls: bool,
    /// Told once, when the server stops.
    stop: watch::Sender<bool>,
    /// Ends when all connections have; holds their handles.
    accepting: JoinHandle<Drained>,
}

impl Server {
    /// Listens, recovers the data, and serves in the background of this runtime.
    /// What connects meanwhile waits. The operator key of a data directory that has
    /// no key at all is printed on stderr, and shown nowhere else.
    ///
    /// # Errors
    /// [`StartFault`] if the data cannot be opened or the address not be listened on.
    pub async fn start(settings: Settings) -> Result<Server, StartFault> {
        let acceptor = settings.tls.as_ref().map(tls::acceptor).transpose()?;
        // Before the data is touched: a port that is taken must not cost the start
        // that shows the first key.
        let asked = settings.listen;
        let listen_fault = |source| StartFault::Listen { address: asked, source };
        let listener = TcpListener::bind(asked).await.map_err(listen_fault)?;
        let address = listener.local_addr().map_err(listen_fault)?;
        let opening = settings.clone();
        let opened = tokio::task::spawn_blocking(move || open(&opening)).await;
        let engine = opened.map_err(StartFault::CutOff)??;
        let app = Arc::new(app(engine, settings)?);
        let (stop, stopped) = watch::channel(false);
        let tls = acceptor.is_some();
        let connections = connection::Connections::new(Arc::clone(&app), acceptor, stopped);
        let accepting = tokio::spawn(connections.accept(listener));
        Ok(Server { app, address, tls, stop, accepting })
    }

    /// The address it listens on, with the real port.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Its address as a URL.
    #[must_use]
    pub fn url(&self) -> String {
        let scheme = if self.tls { "https" } else { "http" };
        format!("{scheme}://{}", self.address)
    }

    /// Whether the engine says that it can go on.
    #[must_use]
    pub fn is_alive(&self) -> bool {
        self.app.engine.health().alive
    }

    /// Drains: stops accepting, lets requests in flight end within the drain
    /// deadline, then the engine commits and syncs what it took.
    pub async fn stop(self) -> Drained {
        drain::stop(&self.app.engine, &self.stop, self.accepting).await
    }
}

/// Opens the engine, makes the organisations of the settings, and a first key if
/// there is none and the settings bring none.
fn open(settings: &Settings) -> Result<Engine, StartFault> {
    let opened = Engine::open(settings.engine());
    let engine = opened.map_err(|source| match source {
        OpenError::Webhooks(WebhookStartError::Keyring(fault)) => {
            StartFault::Setting { name: "dispatch.master_key", reason: fault.to_string() }
        }
        source => StartFault::Open { path: settings.data_dir.clone(), source },
    })?;
    let catalog = engine.catalog();
    catalog.ensure_org(DEFAULT_ORG)?;
    for org in settings.issuers.iter().flat_map(|issuer| &issuer.organisations) {
        catalog.ensure_org(org)?;
    }
    if settings.admin_key.is_none()
        && let Some(key) = first_key(catalog)?
    {
        // At once, whatever the rest of the start may run into. A stderr that is
        // closed is no reason not to serve.
        let _ = writeln!(std::io::stderr(), "operator key, shown this once: {}", key.expose());
    }
    Ok(engine)
}

/// Makes and stores an operator key if there is no key at all.
fn first_key(catalog: &Catalog) -> Result<Option<Secret>, StartFault> {
    if catalog.key_count()? > 0 {
        return Ok(None);
    }
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let (key, record) = make_key(KeySpec {
        org: DEFAULT_ORG.to_owned(),
        user: None,
        name: Some("first operator".to_owned()),
        scopes: Scopes::of(&[Scope::Operator]),
        created_at: i64::try_from(since.as_millis()).unwrap_or(i64::MAX),
    })?;
    catalog.insert_key(&record)?;
    Ok(Some(key))
}

fn app(engine: Engine, settings: Settings) -> Result<App, StartFault> {
    let auth = Auth::new(Arc::clone(engine.catalog()), &settings);
    let auth = auth.map_err(|reason| StartFault::Setting { name: "jwt.issuers", reason })?;
    Ok(App {
        organisations: Organisations::new(Arc::clone(engine.catalog())),
        engine,
        settings,
        auth,
        pool: Arc::new(Pool::default()),
        decoders: Decoders::start().map_err(StartFault::Threads)?,
        event_types: EventTypes::default(),
        observe: Observe::default(),
        request_ids: RequestIds::new(),
    })
}
