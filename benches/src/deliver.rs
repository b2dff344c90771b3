//! Bodies to a receiver: signed, posted over the server's own client and connections,
//! answered.
//!
//! No journal is read, no lane decides, nothing is rendered or recorded: what is left is
//! what deliveries cannot do without, so it is what `loadtest deliver` is compared with.
//! The receiver is that one's too, on a thread of this process.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use loadtest::sink::{Delivery, Sink, Take};
use systole_dispatch::client::{CONNECTIONS_MAX, Client};
use systole_dispatch::dialect::Dialect;
use systole_dispatch::id::IdCipher;
use systole_dispatch::signer::{Secret, Signer};
use systole_dispatch::target::{Target, Targets};
use systole_dispatch::{EventKind, Place};
use tokio::runtime::{Builder, Runtime};
use tokio::task::JoinSet;

use crate::Size;

/// Far longer than a loopback takes.
const TIMEOUT: Duration = Duration::from_secs(15);
/// What the server runs with by default.
const THREADS: usize = 2;
const SECRET: &str = "whsec_AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=";

/// What is posted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Load {
    /// Its name in reports.
    pub name: &'static str,
    /// Bytes of a body.
    pub body_bytes: usize,
    /// Deliveries in flight.
    pub in_flight: u32,
    /// Deliveries of the full size.
    deliveries: u32,
}

/// An event of 1 KB, and one of 500 samples.
pub const LOADS: [Load; 2] = [
    Load { name: "1_kb", body_bytes: 1_200, in_flight: 64, deliveries: 100_000 },
    Load { name: "500_samples", body_bytes: 92_000, in_flight: 64, deliveries: 10_000 },
];

/// A receiver, and what is posted to it.
pub struct Deliveries {
    load: Load,
    count: u32,
    poster: Arc<Poster>,
    received: Arc<Received>,
    runtime: Runtime,
    /// Ends when it is dropped.
    _sink: Sink,
}

impl fmt::Debug for Deliveries {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Deliveries").field("load", &self.load).finish_non_exhaustive()
    }
}

struct Poster {
    client: Client,
    target: Target,
    signer: Signer,
    ids: IdCipher,
    body: Bytes,
}

#[derive(Default)]
struct Received {
    deliveries: AtomicU64,
    bytes: AtomicU64,
}

impl Take for Received {
    fn take(&self, delivery: &Delivery<'_>) -> u16 {
        self.deliveries.fetch_add(1, Ordering::Relaxed);
        self.bytes.fetch_add(delivery.body.len() as u64, Ordering::Relaxed);
        200
    }
}

/// Starts a receiver; nothing is posted yet.
///
/// # Panics
/// If there are no threads or no port to be had.
#[must_use]
pub fn deliveries(load: Load, size: Size) -> Deliveries {
    let received = Arc::new(Received::default());
    let sink = Sink::start(1, Arc::clone(&received) as _).expect("a receiver on a free port");
    let targets = Targets::parse(&["127.0.0.0/8"]).expect("a range");
    let secret = Secret::parse(SECRET, Dialect::Standard).expect("a secret");
    let poster = Poster {
        target: targets.check_url(&format!("{}/hook", sink.url())).expect("a range that is allowed"),
        client: Client::new(Arc::new(targets), CONNECTIONS_MAX),
        signer: Signer::new(Dialect::Standard, &secret).expect("a secret of the dialect"),
        ids: IdCipher::new([7; 16]),
        body: vec![b'x'; load.body_bytes].into(),
    };
    let threads = Builder::new_multi_thread().worker_threads(THREADS).enable_all().build();
    let full = load.deliveries as usize;
    Deliveries {
        load,
        count: u32::try_from(size.of(full.min(640), full)).expect("it was one"),
        poster: Arc::new(poster),
        received,
        runtime: threads.expect("threads"),
        _sink: sink,
    }
}

impl Deliveries {
    /// How many are posted.
    #[must_use]
    pub fn count(&self) -> u64 {
        self.count.into()
    }

    /// Posts all and waits for all answers. This is what is timed.
    ///
    /// # Panics
    /// If one is not taken.
    pub fn post(&mut self) {
        let (count, in_flight, poster) = (self.count, self.load.in_flight, &self.poster);
        self.runtime.block_on(async {
            let mut posting = JoinSet::new();
            for first in 0..in_flight {
                let (poster, step) = (Arc::clone(poster), in_flight as usize);
                posting.spawn(async move {
                    for number in (first..count).step_by(step) {
                        poster.post(number).await;
                    }
                });
            }
            while let Some(posted) = posting.join_next().await {
                posted.expect("every delivery is taken");
            }
        });
    }

    /// What was received.
    #[must_use]
    pub fn outcome(&self) -> Delivered {
        Delivered {
            load: self.load,
            deliveries: self.received.deliveries.load(Ordering::Relaxed),
            bytes: self.received.bytes.load(Ordering::Relaxed),
            connections: self.poster.client.open_connections(),
        }
    }
}

impl Poster {
    async fn post(&self, number: u32) {
        let place = Place { sequence: number.into(), group: 0, chunk: 0, kind: EventKind::Published };
        let id = self.ids.seal(place, 0);
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
        let mut headers = Default::default();
        self.signer.sign(&id, now, &self.body, &mut headers);
        let answer = self.client.post(&self.target, headers, self.body.clone(), TIMEOUT).await;
        assert!(answer.is_ok_and(|answer| answer.status.is_success()), "delivery {number} was not taken");
    }
}

/// What came of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Delivered {
    /// What was posted.
    pub load: Load,
    /// Deliveries that were received.
    pub deliveries: u64,
    /// Bytes of their bodies.
    pub bytes: u64,
    /// Connections that were open then.
    pub connections: u64,
}

impl fmt::Display for Delivered {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{}: {} deliveries, {} bytes, {} connections",
            self.load.name, self.deliveries, self.bytes, self.connections
        )
    }
}
