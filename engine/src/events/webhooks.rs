//! Endpoints, as the front end manages them, and what publishers hand in.
//!
//! Promises: an endpoint gets every event committed after its creation returned;
//! nothing of one organisation is shown to, changed by or sent to another. Calls that
//! change something write the catalog and block.

mod known;

use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use parking_lot::Mutex;
use systole_dispatch::attempt::DeliveryLog;
use systole_dispatch::client::Client;
use systole_dispatch::clock::Clock;
use systole_dispatch::dispatcher::{DispatchParts, Dispatcher};
use systole_dispatch::endpoint::{ENDPOINT_ID_PREFIX, HeaderFault};
use systole_dispatch::event::Cursor;
use systole_dispatch::id::{IdCipher, RandomFault, random_id};
use systole_dispatch::lane::{Lane, LaneConfig};
use systole_dispatch::notice::{Notice, Notices};
use systole_dispatch::vault::is_sealed;
use systole_storage::frame::Frame;
use systole_storage::journal::Log;
use systole_storage::{
    Catalog, CatalogError, DisabledRecord, EndpointChange, EndpointRecord, GivenUpRecord, Sequence,
};

pub(super) use self::known::KnownEndpoints;
use super::example::example;
use super::keyring::{Keyring, PrepareFault};
use super::ledger::{CatalogLedger, disabled_of, given_up_of};
use super::settings::{StoredSettings as _, config, config_of, restore};
use super::topics::{EventCatalogue, EventTopics};
use super::{JournalEvents, Subscribed};
use crate::registry::Registries;

pub use systole_dispatch::client::CONNECTIONS_MAX;
pub use systole_dispatch::dialect::Dialect;
pub use systole_dispatch::dispatcher::{DispatchSettings, DispatchStats, ManualFault};
pub use systole_dispatch::endpoint::{
    BATCH_EVENTS, COALESCE_MS, EndpointSettings, PayloadSize, RATE_LIMIT_PER_SECOND, SettingsFault,
    SignatureKind, Timeseries,
};
pub use systole_dispatch::signer::{Secret, SecretFault, Signer};
pub use systole_dispatch::target::{TargetFault, Targets};
pub use systole_dispatch::vault::{MasterKey, MasterKeyFault};

pub use self::known::{ListFrom, ListPlace};
pub use super::keyring::KeyringFault;
pub use super::rotation::{GRACE_SECONDS_DEFAULT, GRACE_SECONDS_MAX};

/// Why an endpoint was not made, changed or found.
#[derive(Debug, thiserror::Error)]
pub enum WebhookError {
    /// No such endpoint in this organisation.
    #[error("there is no such endpoint")]
    Unknown,
    /// The URL may not be called.
    #[error("the url cannot be used")]
    Target(#[from] TargetFault),
    /// A field is out of its range or does not fit another.
    #[error("the settings cannot be used")]
    Settings(#[from] SettingsFault),
    /// The secret does not fit the dialect.
    #[error("the secret cannot be used")]
    Secret(#[from] SecretFault),
    /// A header may not be set.
    #[error("the headers cannot be used")]
    Header(#[from] HeaderFault),
    /// What the catalog holds as its secret cannot be opened.
    #[error("a secret in the catalog cannot be opened")]
    Keyring(#[from] KeyringFault),
    /// The catalog failed.
    #[error("the catalog failed")]
    Catalog(#[from] CatalogError),
    /// What the catalog holds cannot be read.
    #[error("an endpoint's settings in the catalog cannot be read")]
    Malformed(#[from] serde_json::Error),
    /// The organisation has as many as it may.
    #[error(
        "an organisation has at most {limit} endpoints (dispatch.endpoints_max); delete one that nobody needs"
    )]
    TooMany {
        /// How many.
        limit: usize,
    },
    /// The user who makes another has as many as a user may make.
    #[error("a user makes at most {ENDPOINTS_PER_USER_MAX} endpoints; delete one that is not needed")]
    TooManyOfUser,
    /// No random numbers.
    #[error("cannot make an id")]
    Random(#[from] RandomFault),
    /// Nothing is sent by hand now.
    #[error("cannot send it now")]
    Manual(#[from] ManualFault),
}

/// An endpoint as it is shown; never with its secret.
#[derive(Clone, Debug, PartialEq)]
pub struct Endpoint {
    /// `ep_...`
    pub id: String,
    /// What its owner asked for.
    pub settings: EndpointSettings,
    /// `whpk_...`, what `v1a` deliveries are verified with.
    pub public_key: Option<String>,
    /// Milliseconds since 1970.
    pub created_at: i64,
    /// Milliseconds since 1970.
    pub updated_at: i64,
}

/// Endpoints that a caller makes who is bound to a user: each costs a lane and an entry of
/// the index for as long as it is there, and a person has a few apps.
pub const ENDPOINTS_PER_USER_MAX: usize = 20;

/// What webhooks are run with.
#[derive(Clone, Debug)]
pub struct WebhookSettings {
    /// Addresses that may be called although they are not public.
    pub targets: Targets,
    /// Endpoints of one organisation.
    pub endpoints_max: usize,
    /// Sizes.
    pub dispatch: DispatchSettings,
    /// Encrypts secrets in the catalog; `None` keeps them in the clear.
    pub master_key: Option<Arc<MasterKey>>,
}

impl Default for WebhookSettings {
    fn default() -> WebhookSettings {
        WebhookSettings {
            targets: Targets::default(),
            // An endpoint of its own for each of a clinic's systems, and room.
            endpoints_max: 100_000,
            dispatch: DispatchSettings::default(),
            master_key: None,
        }
    }
}

/// All endpoints. Held while one is made or changed.
pub(super) type Endpoints = Arc<Mutex<KnownEndpoints>>;

/// Endpoints and their deliveries.
#[derive(Debug)]
pub struct Webhooks {
    pub(super) catalog: Arc<Catalog>,
    pub(super) log: Arc<Log>,
    registries: Arc<Registries>,
    pub(super) topics: Arc<EventTopics>,
    pub(super) subscribed: Arc<Subscribed>,
    pub(super) events: JournalEvents,
    pub(super) ids: IdCipher,
    targets: Arc<Targets>,
    /// Of one organisation.
    endpoints_max: usize,
    pub(super) keyring: Keyring,
    /// How long payloads are shown and sent again.
    pub(super) retention: Duration,
    /// When frames were committed that somebody asked about last.
    pub(super) ages: Mutex<[Option<(Sequence, i64)>; 2]>,
    pub(super) dispatcher: Dispatcher,
    pub(super) endpoints: Endpoints,
}

/// What webhooks are made of.
pub(crate) struct WebhookParts {
    pub(crate) settings: WebhookSettings,
    pub(crate) retention: Duration,
    pub(crate) catalog: Arc<Catalog>,
    pub(crate) events: JournalEvents,
    pub(crate) subscribed: Arc<Subscribed>,
    /// What keeps attempts.
    pub(crate) deliveries: Arc<dyn DeliveryLog>,
    /// What publishes notices.
    pub(crate) notices: Arc<dyn Notices>,
}

/// Why webhooks do not start.
#[derive(Debug, thiserror::Error)]
pub enum WebhookStartError {
    /// The catalog failed.
    #[error("the catalog failed")]
    Catalog(#[from] CatalogError),
    /// Secrets in the catalog do not open with the master key there is.
    #[error("the master key does not fit the catalog")]
    Keyring(#[from] KeyringFault),
    /// No random numbers to encrypt with.
    #[error("cannot encrypt secrets")]
    Encrypt(#[source] RandomFault),
    /// No random numbers.
    #[error("cannot make the key of event ids")]
    Random(#[source] getrandom::Error),
    /// The system gives no threads.
    #[error("cannot start the dispatch threads")]
    Threads(#[source] std::io::Error),
}

impl From<PrepareFault> for WebhookStartError {
    fn from(fault: PrepareFault) -> WebhookStartError {
        match fault {
            PrepareFault::Keyring(fault) => WebhookStartError::Keyring(fault),
            PrepareFault::Catalog(fault) => WebhookStartError::Catalog(fault),
            PrepareFault::Random(fault) => WebhookStartError::Encrypt(fault),
        }
    }
}

impl Webhooks {
    /// Brings the lanes of the last run back and starts what delivers; events come
    /// once [`Webhooks::route`] runs.
    pub(crate) fn start(parts: WebhookParts) -> Result<Webhooks, WebhookStartError> {
        let WebhookParts { settings, retention, catalog, events, subscribed, deliveries, notices } = parts;
        let targets = Arc::new(settings.targets);
        catalog.forget_previous_secrets(now_ms())?;
        let mut records = catalog.endpoints()?;
        let keyring = Keyring::new(settings.master_key);
        keyring.prepare(&catalog, &mut records)?;
        subscribed.set_floor(0);
        records.iter().for_each(|record| subscribed.add(&record.org, record.start.0));
        let lanes = restore(&catalog, &targets, &keyring, &records)?;
        // Without a saved position no lane ever went without a row. What was dropped behind
        // one the router meets, and says.
        let routed = catalog.routed()?.unwrap_or_else(|| events.log.head());
        let endpoints: Endpoints = Arc::new(Mutex::new(records.into_iter().collect()));
        let ledger = CatalogLedger {
            catalog: catalog.clone(),
            subscribed: subscribed.clone(),
            log: events.log.clone(),
            endpoints: endpoints.clone(),
            forgotten: Mutex::default(),
        };
        let mut fresh = [0; 16];
        getrandom::fill(&mut fresh).map_err(WebhookStartError::Random)?;
        let ids = IdCipher::new(catalog.instance_key(fresh)?);
        let dispatcher = Dispatcher::start(DispatchParts {
            settings: settings.dispatch,
            source: Arc::new(events.clone()),
            log: Arc::new(events.clone()),
            ledger: Arc::new(ledger),
            topics: events.topics.topics().clone(),
            client: Client::new(targets.clone(), settings.dispatch.connections_max),
            ids: ids.clone(),
            lanes,
            routed: Cursor::behind(routed.0),
            deliveries,
            notices,
            clock: Clock::default(),
            give_way: crate::priority::give_way,
        })
        .map_err(WebhookStartError::Threads)?;
        Ok(Webhooks {
            catalog,
            log: events.log.clone(),
            registries: events.registries.clone(),
            topics: events.topics.clone(),
            events,
            ids,
            subscribed,
            targets,
            endpoints_max: settings.endpoints_max,
            keyring,
            retention,
            ages: Mutex::default(),
            dispatcher,
            endpoints,
        })
    }

    /// Up to where verdicts are known to be durable.
    pub(crate) fn classified(&self) -> Result<Sequence, CatalogError> {
        let endpoints = self.endpoints.lock();
        let earliest = endpoints.records().map(|record| record.start).min();
        let Some(earliest) = earliest else { return Ok(self.log.head()) };
        // Before it was saved for the first time nothing before the first endpoint
        // can matter.
        Ok(self.catalog.classified()?.unwrap_or(earliest).max(self.log.removed()))
    }

    /// Routes events to lanes until the log stops. Blocks.
    pub(crate) fn route(&self) {
        self.dispatcher.route(|org| self.subscribed.since(org));
    }

    /// So many of what is not announced: endpoints that were switched off, then what was
    /// given up, each oldest first. May read disk.
    pub(crate) fn unannounced(&self, most: u32) -> Vec<Notice> {
        self.read_unannounced(most).unwrap_or_else(|error| {
            let error = crate::flusher::chain(&error);
            tracing::warn!(error, "what was not announced cannot be read, and comes with the next start");
            Vec::new()
        })
    }

    fn read_unannounced(&self, most: u32) -> Result<Vec<Notice>, CatalogError> {
        let mut notices = self.unannounced_disabled(most)?;
        let room = most.saturating_sub(u32::try_from(notices.len()).unwrap_or(u32::MAX));
        let records = self.catalog.unannounced(room)?;
        let told =
            |record: &GivenUpRecord| self.dispatcher.failed_before(&record.endpoint, given_up_of(record));
        notices.extend(records.iter().filter_map(told));
        Ok(notices)
    }

    fn unannounced_disabled(&self, most: u32) -> Result<Vec<Notice>, CatalogError> {
        let endpoints = self.endpoints.lock();
        let records = self.catalog.unannounced_disabled(most)?;
        let told = |record: &DisabledRecord| {
            let org = &endpoints.get(&record.endpoint)?.org;
            disabled_of(record, org).map(Notice::EndpointDisabled)
        };
        Ok(records.iter().filter_map(told).collect())
    }

    /// Parks deliveries. Blocks for some seconds at most.
    pub(crate) fn stop(&self) {
        self.dispatcher.stop();
    }

    /// What events are called in an organisation, now.
    #[must_use]
    pub fn catalogue(&self, org: &str) -> EventCatalogue {
        EventCatalogue::new(self.topics.clone(), self.registries.of(org))
    }

    /// Makes the names of a metric that an organisation is about to have.
    pub(crate) fn announce(&self, metric: &crate::registry::Metric) {
        self.topics.add_own(metric);
    }

    /// Makes an endpoint; it gets everything that is committed from now on. `maker` is the
    /// user that whoever makes it is bound to, who makes [`ENDPOINTS_PER_USER_MAX`].
    ///
    /// # Errors
    /// [`WebhookError`]; then nothing was made.
    pub fn create(
        &self,
        org: &str,
        maker: Option<&str>,
        settings: EndpointSettings,
        secret: &Secret,
    ) -> Result<Endpoint, WebhookError> {
        self.targets.check_url(&settings.url)?;
        // Its number is known once it is stored.
        let mut config = config(settings.clone(), secret, None, 0)?;
        let id = random_id(ENDPOINT_ID_PREFIX)?;
        let text = serde_json::to_string(&self.keyring.keep_headers(&id, settings.clone(), None)?)?;
        let kept = self.keyring.keep(&id, secret.expose())?;
        let mut endpoints = self.endpoints.lock();
        self.check_room(&endpoints, org, maker)?;
        // The classifier sees the organisation before the start is chosen, so every
        // frame behind the start is classified.
        let head = self.log.head();
        self.subscribed.lower_floor(head.0);
        self.subscribed.add(org, head.0);
        let start = self.log.head();
        let now = now_ms();
        let record = EndpointRecord {
            id,
            number: 0,
            org: org.to_owned(),
            settings: text,
            secret: kept,
            previous: None,
            start,
            created_at: now,
            updated_at: now,
        };
        let number = match self.catalog.insert_endpoint(&record) {
            Ok(number) => number,
            Err(error) => {
                self.subscribed.remove(org, head.0);
                return Err(error.into());
            }
        };
        config.number = number;
        let endpoint = self.shown(&record, settings)?;
        let lane = Lane::new(record.id.clone(), org.into(), config, Cursor::behind(start.0));
        endpoints.put(EndpointRecord { number, ..record });
        // What was committed between the two looks at the head is nobody's.
        self.subscribed.add(org, start.0);
        self.subscribed.remove(org, head.0);
        self.dispatcher.add(Arc::new(lane));
        Ok(endpoint)
    }

    /// Whether an organisation may have one more, and a user who makes it.
    fn check_room(
        &self,
        endpoints: &KnownEndpoints,
        org: &str,
        maker: Option<&str>,
    ) -> Result<(), WebhookError> {
        if endpoints.count(org, None) >= self.endpoints_max {
            return Err(WebhookError::TooMany { limit: self.endpoints_max });
        }
        if maker.is_some_and(|user| endpoints.count(org, Some(user)) >= ENDPOINTS_PER_USER_MAX) {
            return Err(WebhookError::TooManyOfUser);
        }
        Ok(())
    }

    /// Part of an organisation's endpoints, or of those for one of its users, by when they
    /// were made, then by id: the `limit` that `from` leads to, and one more on either side if
    /// there is one.
    ///
    /// # Errors
    /// [`WebhookError::Malformed`], [`WebhookError::Keyring`].
    pub fn list(
        &self,
        org: &str,
        user: Option<&str>,
        from: &ListFrom,
        limit: usize,
    ) -> Result<Vec<Endpoint>, WebhookError> {
        // They are read behind the lock.
        let page = self.endpoints.lock().page(org, user, from, limit);
        page.iter().map(|record| self.shown(record, record.settings()?)).collect()
    }

    /// One endpoint of an organisation.
    ///
    /// # Errors
    /// [`WebhookError::Unknown`], [`WebhookError::Malformed`].
    pub fn get(&self, org: &str, id: &str) -> Result<Endpoint, WebhookError> {
        let record = self.record(org, id)?;
        let settings = record.settings()?;
        self.shown(&record, settings)
    }

    /// What signs an endpoint's deliveries.
    ///
    /// # Errors
    /// [`WebhookError::Unknown`].
    pub fn secret(&self, org: &str, id: &str) -> Result<String, WebhookError> {
        Ok(self.keyring.open(id, &self.record(org, id)?.secret)?)
    }

    /// Changes an endpoint as `change` says, which may give a new secret. One that is
    /// switched off ends what waits for it; one that is switched on begins at the head. Its
    /// url is judged if it is another, or if the endpoint is switched on.
    ///
    /// # Errors
    /// What `change` says, or a [`WebhookError`]; then nothing changed.
    pub fn update<E: From<WebhookError>>(
        &self,
        org: &str,
        id: &str,
        change: impl FnOnce(&mut EndpointSettings) -> Result<Option<Secret>, E>,
    ) -> Result<Endpoint, E> {
        let mut endpoints = self.endpoints.lock();
        let record = endpoints.get(id).filter(|record| record.org == org).ok_or(WebhookError::Unknown)?;
        let record = record.clone();
        let before = record.settings().map_err(WebhookError::from)?;
        let mut settings = before.clone();
        let secret = change(&mut settings)?;
        Ok(self.store(&mut endpoints, &record, &before, settings, secret)?)
    }

    fn store(
        &self,
        endpoints: &mut KnownEndpoints,
        record: &EndpointRecord,
        before: &EndpointSettings,
        settings: EndpointSettings,
        secret: Option<Secret>,
    ) -> Result<Endpoint, WebhookError> {
        let mut changed = record.clone();
        let is_new = |(name, value): &(&String, &String)| before.headers.get(*name) != Some(*value);
        if let Some((name, _)) = settings.headers.iter().filter(is_new).find(|(_, value)| is_sealed(value)) {
            return Err(HeaderFault::Value { name: name.clone() }.into());
        }
        let settings = self.keyring.keep_headers(&record.id, settings, Some(before))?;
        if let Some(secret) = self.secret_for(&changed, before, &settings, secret)? {
            changed.secret = self.keyring.keep(&record.id, secret.expose())?;
            changed.previous = None;
        }
        let config = self.config_of(&changed, settings.clone())?;
        let lane = self.dispatcher.lane(&record.id);
        // A lane may be off although its record says otherwise, or not be there, if
        // its settings could not be used at the start.
        let stands = lane.as_ref().is_some_and(|lane| before.active && !lane.is_off());
        let begins = settings.active && !stands;
        if begins || before.url != settings.url {
            self.targets.check_url(&settings.url)?;
        }
        let toggled = before.active != settings.active || begins;
        // Until its lane is switched: a save that looked at it before would bring back what is
        // forgotten here, and a restart would find that.
        let _held = toggled.then(|| self.dispatcher.hold_saves());
        let head = self.log.head();
        changed.settings = serde_json::to_string(&settings)?;
        changed.updated_at = now_ms();
        changed.previous = changed.previous.filter(|previous| previous.until > changed.updated_at);
        self.catalog.change_endpoint(
            &record.id,
            &EndpointChange {
                settings: &changed.settings,
                secret: &changed.secret,
                previous: changed.previous.as_ref(),
                updated_at: changed.updated_at,
                restart: toggled.then_some(head),
            },
        )?;
        let record = endpoints.put(changed);
        let from = Cursor::behind(head.0);
        let Some(lane) = lane else {
            let lane = Lane::new(record.id.clone(), record.org.as_str().into(), config, from);
            self.dispatcher.add(Arc::new(lane));
            return self.shown(&record, settings);
        };
        lane.reconfigure(config);
        // Before it takes events: it may join the router at once.
        self.dispatcher.changed(&lane);
        match (toggled, settings.active) {
            (true, true) => lane.switch_on(from),
            (true, false) => lane.switch_off(),
            // Somewhere else there may be room for what waits.
            _ if before.url != settings.url => self.dispatcher.tend(&lane),
            _ => {}
        }
        self.shown(&record, settings)
    }

    /// The secret that a change gives an endpoint, if it gives one. Another kind of
    /// signature needs another key, which is made unless it was brought; a secret that
    /// took over from another under one dialect need not do so under the next.
    fn secret_for(
        &self,
        record: &EndpointRecord,
        before: &EndpointSettings,
        settings: &EndpointSettings,
        brought: Option<Secret>,
    ) -> Result<Option<Secret>, WebhookError> {
        if brought.is_some() {
            return Ok(brought);
        }
        settings.check()?;
        if before.signature != settings.signature {
            return Ok(Some(Secret::generate_for(settings.signature)?));
        }
        if before.dialect == settings.dialect {
            return Ok(None);
        }
        let kept = self.keyring.open(&record.id, &record.secret)?;
        Ok(Some(Secret::parse_for(&kept, settings.dialect, settings.signature)?))
    }

    /// An endpoint as it is shown.
    fn shown(&self, record: &EndpointRecord, settings: EndpointSettings) -> Result<Endpoint, WebhookError> {
        let public_key = match settings.signature {
            SignatureKind::V1 => None,
            SignatureKind::V1a => {
                let secret = self.keyring.open(&record.id, &record.secret)?;
                Secret::parse_for(&secret, settings.dialect, settings.signature)?.public_key()
            }
        };
        let EndpointRecord { id, created_at, updated_at, .. } = record;
        Ok(Endpoint {
            id: id.clone(),
            settings,
            public_key,
            created_at: *created_at,
            updated_at: *updated_at,
        })
    }

    /// What a lane needs of a record, whose settings these are.
    pub(super) fn config_of(
        &self,
        record: &EndpointRecord,
        settings: EndpointSettings,
    ) -> Result<LaneConfig, WebhookError> {
        config_of(&self.keyring, record, settings)
    }

    /// Deletes an endpoint and ends what waits for it.
    ///
    /// # Errors
    /// [`WebhookError::Unknown`], [`WebhookError::Catalog`].
    pub fn delete(&self, org: &str, id: &str) -> Result<(), WebhookError> {
        let mut endpoints = self.endpoints.lock();
        if endpoints.get(id).is_none_or(|record| record.org != org) {
            return Err(WebhookError::Unknown);
        }
        self.catalog.delete_endpoint(id)?;
        let removed = endpoints.remove(id);
        self.dispatcher.remove(id);
        if let Some(record) = removed {
            self.subscribed.remove(org, record.start.0);
        }
        Ok(())
    }

    /// Sends one example event to one endpoint, whatever its filter says; returns the
    /// message's id. `name` is one of the catalogue's.
    ///
    /// # Errors
    /// [`WebhookError::Unknown`], [`WebhookError::Random`], [`WebhookError::Manual`].
    pub fn send_example(&self, org: &str, id: &str, name: Option<&str>) -> Result<String, WebhookError> {
        let record = self.record(org, id)?;
        let lane = self.dispatcher.lane(&record.id).ok_or(WebhookError::Unknown)?;
        let message = random_id("evt_")?;
        let filter = lane.config().settings.filter_types.as_ref().and_then(|filter| filter.first().cloned());
        let name =
            name.map_or_else(|| filter.unwrap_or_else(|| "heart_rate.created".to_owned()), str::to_owned);
        let payload = example(&self.catalogue(org), &name, now_ms());
        self.dispatcher.send_example(lane, message.clone(), Some(name), payload)?;
        Ok(message)
    }

    /// Ends deliveries of an organisation that wait for another attempt and whose event
    /// is gone as `is_gone` says of its frame and first group; returns how many. Blocks.
    pub(crate) fn give_up(&self, org: &str, is_gone: &dyn Fn(&Frame, usize) -> bool) -> u64 {
        self.dispatcher.give_up(org, &|place| match self.log.frame(Sequence(place.sequence)) {
            Ok(frame) => is_gone(&frame, place.group as usize),
            // What cannot be read now is given up, or tried again, when it is due.
            Err(_) => false,
        })
    }

    /// The id of the event that was published with a frame.
    #[must_use]
    pub fn published_id(&self, sequence: Sequence) -> String {
        self.dispatcher.id_of(sequence.0)
    }

    /// What is counted, now.
    #[must_use]
    pub fn stats(&self) -> DispatchStats {
        self.dispatcher.stats()
    }

    /// What was committed behind this may be an endpoint's.
    pub(super) fn start_of(&self, org: &str, id: &str) -> Result<Sequence, WebhookError> {
        Ok(self.record(org, id)?.start)
    }

    fn record(&self, org: &str, id: &str) -> Result<Arc<EndpointRecord>, WebhookError> {
        let endpoints = self.endpoints.lock();
        endpoints.get(id).filter(|record| record.org == org).cloned().ok_or(WebhookError::Unknown)
    }
}

pub(super) fn now_ms() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_millis()).unwrap_or(i64::MAX)
}
