//! A dispatcher among fakes: a log that tests append to, bodies made from places, a
//! ledger that remembers, receivers that answer as they are told.
//!
//! A [`World`] outlives its dispatchers: each [`World::start`] is a restart from what
//! the ledger has.

mod book;
mod hook;
mod kept;
mod log;
mod source;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicI64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use systole_dispatch::client::{CONNECTIONS_MAX, Client};
use systole_dispatch::clock::Clock;
use systole_dispatch::dialect::Dialect;
use systole_dispatch::dispatcher::{DispatchParts, DispatchSettings, DispatchStats, Dispatcher};
use systole_dispatch::endpoint::EndpointSettings;
use systole_dispatch::event::{Cursor, Event, EventKind, Place};
use systole_dispatch::id::IdCipher;
use systole_dispatch::lane::{Lane, LaneConfig};
use systole_dispatch::ledger::{Exception, LaneRecord};
use systole_dispatch::signer::{Secret, Signer};
use systole_dispatch::target::Targets;
use systole_dispatch::topic::{SeriesName, Topic, TopicId, Topics};

pub(crate) use book::{Book, Stored};
pub(crate) use hook::{Carried, Delivery, FIRST, Hook, IN_FLIGHT, Reply};
pub(crate) use kept::{Board, Diary};
pub(crate) use log::{Draft, Log};
pub(crate) use source::Source;

/// Whose events drafts are unless they say otherwise.
pub(crate) const ORG: &str = "org_1";
/// `heart_rate`, `series.resting_heart_rate`
pub(crate) const RESTING: TopicId = TopicId(0);
/// `heart_rate`, `series.heart_rate`
pub(crate) const HEART_RATE: TopicId = TopicId(1);
/// `series.glucose`, of no group
pub(crate) const GLUCOSE: TopicId = TopicId(2);
/// `check_in.created`, published
pub(crate) const CHECK_IN: TopicId = TopicId(3);
/// `message.failed`, for those that name it
pub(crate) const FAILED: TopicId = TopicId(4);

const SECRET: &str = "whsec_AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=";

/// The number of every endpoint.
pub(crate) const NUMBER: u32 = 77;

/// The five topics above.
pub(crate) fn topics() -> Topics {
    let series = |group: Option<&str>, granular| Topic::Series {
        group: group.map(SeriesName::of),
        granular: SeriesName::of(granular),
    };
    Topics::new(vec![
        series(Some("heart_rate"), "series.resting_heart_rate"),
        series(Some("heart_rate"), "series.heart_rate"),
        series(None, "series.glucose"),
        Topic::Published { name: "check_in.created".to_owned(), only_if_named: false },
        Topic::Published { name: "message.failed".to_owned(), only_if_named: true },
    ])
}

/// Settings that want everything.
pub(crate) fn settings(url: &str) -> EndpointSettings {
    EndpointSettings { timeout_seconds: 10, ..EndpointSettings::new(url.to_owned(), Dialect::Standard) }
}

pub(crate) fn filter(names: &[&str]) -> Option<BTreeSet<String>> {
    Some(names.iter().map(|name| (*name).to_owned()).collect())
}

pub(crate) fn targets() -> Targets {
    Targets::parse(&["127.0.0.0/8"]).unwrap()
}

pub(crate) fn signer(dialect: Dialect) -> Signer {
    Signer::new(dialect, &Secret::parse(SECRET, dialect).unwrap()).unwrap()
}

pub(crate) fn config(settings: EndpointSettings) -> LaneConfig {
    LaneConfig {
        target: targets().check_url(&settings.url).unwrap(),
        signer: signer(settings.dialect),
        headers: settings.header_map().unwrap(),
        number: NUMBER,
        settings,
    }
}

/// Waits for something; false if it does not come in time.
pub(crate) fn comes_within(time: Duration, mut come: impl FnMut() -> bool) -> bool {
    let deadline = Instant::now() + time;
    while !come() {
        if Instant::now() > deadline {
            return false;
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    true
}

pub(crate) fn now_ms() -> i64 {
    i64::try_from(now_micros() / 1000).unwrap()
}

pub(crate) fn now_micros() -> u64 {
    u64::try_from(SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_micros()).unwrap()
}

/// SplitMix64, so that a seed gives the same run everywhere.
pub(crate) struct Random(pub(crate) u64);

impl Random {
    pub(crate) fn below(&mut self, bound: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ mixed >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ mixed >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        (mixed ^ mixed >> 31) % bound
    }
}

/// Everything around a dispatcher.
pub(crate) struct World {
    pub(crate) log: Arc<Log>,
    pub(crate) source: Arc<Source>,
    pub(crate) book: Arc<Book>,
    pub(crate) diary: Arc<Diary>,
    pub(crate) board: Arc<Board>,
    clock: Clock,
    /// How far it was moved on, in milliseconds.
    passed_ms: Arc<AtomicI64>,
    endpoints: Mutex<BTreeMap<String, (Arc<str>, EndpointSettings)>>,
    /// Longest wait for a retry that a restart finds, in milliseconds.
    wait_ms_max: AtomicI64,
    /// Of bodies in flight.
    memory_bytes: AtomicUsize,
    /// Open to all receivers.
    connections_max: AtomicUsize,
}

impl World {
    /// One whose clock runs.
    pub(crate) fn new() -> World {
        World::by(now_ms)
    }

    /// One whose clock stands still but for what [`World::pass`] moves it on.
    pub(crate) fn still() -> World {
        let began_ms = now_ms();
        World::by(move || began_ms)
    }

    fn by(told_ms: impl Fn() -> i64 + Send + Sync + 'static) -> World {
        let passed_ms = Arc::<AtomicI64>::default();
        let passed = passed_ms.clone();
        let clock = Clock::new(move || told_ms() + passed.load(Ordering::Relaxed));
        let log = Arc::new(Log::new(clock.clone()));
        World {
            clock,
            passed_ms,
            diary: Arc::default(),
            board: Arc::default(),
            source: Arc::new(Source::of(log.clone())),
            log,
            book: Arc::default(),
            endpoints: Mutex::default(),
            wait_ms_max: AtomicI64::new(i64::MAX),
            memory_bytes: AtomicUsize::new(DispatchSettings::default().memory_bytes),
            connections_max: AtomicUsize::new(CONNECTIONS_MAX),
        }
    }

    /// From the next start on.
    pub(crate) fn limit_memory(&self, bytes: usize) {
        self.memory_bytes.store(bytes, Ordering::Relaxed);
    }

    /// From the next start on.
    pub(crate) fn limit_connections(&self, most: usize) {
        self.connections_max.store(most, Ordering::Relaxed);
    }

    /// Moves the clock on, of the log and of every dispatcher.
    pub(crate) fn pass(&self, time: Duration) {
        self.passed_ms.fetch_add(i64::try_from(time.as_millis()).unwrap(), Ordering::Relaxed);
    }

    /// Milliseconds since 1970, by the clock that is moved.
    pub(crate) fn now_ms(&self) -> i64 {
        self.clock.now_ms()
    }

    /// Restarts find every retry due within this time, as if hours had passed.
    pub(crate) fn hurry(&self, ms: i64) {
        self.wait_ms_max.store(ms, Ordering::Relaxed);
    }

    /// An endpoint of [`ORG`] that wants everything.
    pub(crate) fn endpoint(&self, id: &str, url: &str) -> &World {
        self.endpoint_with(id, ORG, settings(url))
    }

    pub(crate) fn endpoint_with(&self, id: &str, org: &str, settings: EndpointSettings) -> &World {
        self.endpoints.lock().unwrap().insert(id.to_owned(), (org.into(), settings));
        self
    }

    /// A lane as the ledger has it.
    fn restored(&self, id: &str) -> Arc<Lane> {
        let (org, mut settings) = self.endpoints.lock().unwrap()[id].clone();
        let stored = self.book.stored();
        settings.active &= !stored.switched_off.contains(id);
        let own = stored.exceptions.clone().into_iter().filter(|((endpoint, _), _)| endpoint == id);
        let latest = self.now_ms().saturating_add(self.wait_ms_max.load(Ordering::Relaxed));
        let exceptions = own.map(|(_, saved)| Exception { due_at_ms: saved.due_at_ms.min(latest), ..saved });
        let backlogs = stored.backlogs.iter().filter(|((endpoint, _), _)| endpoint == id);
        let record = LaneRecord {
            start: Cursor::default(),
            row: stored.rows.get(id).copied(),
            health: stored.health.get(id).copied().unwrap_or_default(),
            exceptions: exceptions.collect(),
            backlogs: backlogs.map(|(_, backlog)| *backlog).collect(),
        };
        Arc::new(Lane::restored(id, org, config(settings), record))
    }

    /// A dispatcher that is not routing yet.
    pub(crate) fn start_without_router(&self) -> Run {
        let ids: Vec<String> = self.endpoints.lock().unwrap().keys().cloned().collect();
        let dispatcher = Dispatcher::start(DispatchParts {
            settings: DispatchSettings {
                memory_bytes: self.memory_bytes.load(Ordering::Relaxed),
                ..DispatchSettings::default()
            },
            source: self.source.clone(),
            log: self.log.clone(),
            ledger: self.book.clone(),
            topics: Arc::new(topics()),
            client: Client::new(Arc::new(targets()), self.connections_max.load(Ordering::Relaxed)),
            ids: cipher(),
            lanes: ids.iter().map(|id| self.restored(id)).collect(),
            routed: Cursor::behind(self.book.stored().routed),
            deliveries: self.diary.clone(),
            notices: self.board.clone(),
            clock: self.clock.clone(),
            give_way: || (),
        });
        Run { dispatcher: Arc::new(dispatcher.unwrap()), router: None }
    }

    /// Starts from what the ledger has.
    pub(crate) fn start(&self) -> Run {
        let mut run = self.start_without_router();
        run.route();
        run
    }
}

fn cipher() -> IdCipher {
    IdCipher::new([7; 16])
}

/// An event's id.
pub(crate) fn id_of(place: Place) -> String {
    cipher().seal(place, 0)
}

/// The place of an id that was delivered, and its endpoint's number.
pub(crate) fn open(id: &str) -> (Place, u32) {
    let (place, endpoint) = cipher().open(id).unwrap();
    assert_eq!(
        endpoint,
        if matches!(place.kind, EventKind::Batch | EventKind::Coalesced) { NUMBER } else { 0 }
    );
    (place, endpoint)
}

/// The place of an event's id.
pub(crate) fn place_of(id: &str) -> Place {
    let (place, endpoint) = open(id);
    assert_eq!(endpoint, 0, "{id}");
    place
}

pub(crate) fn ids_of<'a>(events: impl IntoIterator<Item = &'a Event>) -> BTreeSet<String> {
    events.into_iter().map(|event| id_of(event.place)).collect()
}

/// One life of a dispatcher; dropping it stops it.
pub(crate) struct Run {
    pub(crate) dispatcher: Arc<Dispatcher>,
    router: Option<JoinHandle<()>>,
}

impl Run {
    pub(crate) fn route(&mut self) {
        let dispatcher = self.dispatcher.clone();
        self.router = Some(std::thread::spawn(move || dispatcher.route(|_| Some(0))));
    }

    pub(crate) fn lane(&self, id: &str) -> Arc<Lane> {
        self.dispatcher.lane(id).unwrap()
    }

    pub(crate) fn stats(&self) -> DispatchStats {
        self.dispatcher.stats()
    }

    /// Gives a lane other settings, as a PATCH does.
    pub(crate) fn reconfigure(&self, id: &str, settings: EndpointSettings) {
        self.lane(id).reconfigure(config(settings));
        self.dispatcher.changed(&self.lane(id));
    }

    pub(crate) fn stop(mut self) {
        self.end().unwrap();
    }

    fn end(&mut self) -> std::thread::Result<()> {
        self.dispatcher.stop();
        self.router.take().map_or(Ok(()), JoinHandle::join)
    }
}

impl Drop for Run {
    fn drop(&mut self) {
        // A router that panicked has said so; `stop` makes the test fail.
        drop(self.end());
    }
}
