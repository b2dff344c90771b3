//! A receiver that judges each request, and remembers what it saw.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use serde_json::Value;
use systole_dispatch::{EventKind, Place};
use tokio::runtime::{Builder, Runtime};

use super::open;
use crate::receiver::{Manner, Receiver};

/// What it got, in the order of its answers.
pub(crate) type Deliveries = Mutex<Vec<Delivery>>;

/// A request and what was answered.
#[derive(Clone, Debug)]
pub(crate) struct Delivery {
    /// `webhook-id`
    pub(crate) id: String,
    /// The event type in its body.
    pub(crate) name: String,
    /// The key in its body's data; of a batch the first event's.
    pub(crate) key: u64,
    /// What it carries: one event, or those of a batch.
    pub(crate) events: Vec<Carried>,
    pub(crate) headers: BTreeMap<String, String>,
    pub(crate) body: String,
    /// How many requests with this id came before.
    pub(crate) earlier: usize,
    pub(crate) status: u16,
}

/// An event in a body.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Carried {
    pub(crate) id: String,
    pub(crate) name: String,
    pub(crate) key: u64,
    /// Sequences of the frames it was drawn together from, or of its own.
    pub(crate) sequences: Vec<u64>,
}

impl Carried {
    fn read(id: &str, name: &Value, data: &Value) -> Carried {
        let own = data.get("sequence").map(|sequence| vec![sequence.clone()]);
        let sequences = own.unwrap_or_else(|| data["sequences"].as_array().unwrap().clone());
        Carried {
            id: id.to_owned(),
            name: name.as_str().unwrap().to_owned(),
            key: data["key"].as_u64().unwrap(),
            sequences: sequences.iter().map(|sequence| sequence.as_u64().unwrap()).collect(),
        }
    }

    /// Where it comes from; what was drawn together has one event a frame.
    pub(crate) fn places(&self) -> Vec<Place> {
        match open(&self.id) {
            (place, 0) => vec![place],
            (place, _) => {
                let of = |sequence: &u64| Place {
                    sequence: *sequence,
                    group: 0,
                    chunk: 0,
                    kind: EventKind::Created,
                };
                assert_eq!(place.kind, EventKind::Coalesced);
                self.sequences.iter().map(of).collect()
            }
        }
    }
}

impl Delivery {
    pub(crate) fn is_success(&self) -> bool {
        (200..300).contains(&self.status)
    }

    /// Each key of its events once.
    fn keys(&self) -> BTreeSet<u64> {
        self.events.iter().map(|event| event.key).collect()
    }

    fn read(request: &str) -> Delivery {
        let (head, body) = request.split_once("\r\n\r\n").unwrap();
        let lines = head.lines().skip(1).filter_map(|line| line.split_once(": "));
        let headers: BTreeMap<String, String> =
            lines.map(|(name, value)| (name.to_owned(), value.to_owned())).collect();
        let parsed: Value = serde_json::from_str(body).unwrap();
        let name = parsed.get("type").or_else(|| parsed.get("event")).unwrap();
        let id = headers["webhook-id"].clone();
        let events = match parsed["events"].as_array() {
            Some(events) => {
                let read = |event: &Value| {
                    Carried::read(event["id"].as_str().unwrap(), &event["type"], &event["data"])
                };
                events.iter().map(read).collect()
            }
            None => vec![Carried::read(&id, name, &parsed["data"])],
        };
        Delivery {
            id,
            name: name.as_str().unwrap().to_owned(),
            key: events[0].key,
            events,
            headers,
            body: body.to_owned(),
            earlier: 0,
            status: 0,
        }
    }
}

/// The key of an event that is answered at once, so that its receiver is one that answers.
pub(crate) const FIRST: u64 = 1_000_000;
/// Requests in flight to a receiver that took that one.
pub(crate) const IN_FLIGHT: usize = 9;

/// What it answers, and after which time.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Reply {
    pub(crate) status: u16,
    pub(crate) retry_after: Option<u64>,
    pub(crate) pause: Duration,
}

impl Reply {
    pub(crate) fn status(status: u16) -> Reply {
        Reply { status, retry_after: None, pause: Duration::ZERO }
    }

    pub(crate) fn after(pause: Duration) -> Reply {
        Reply { pause, ..Reply::status(200) }
    }

    fn bytes(self) -> Vec<u8> {
        let wish = self.retry_after.map(|seconds| format!("retry-after: {seconds}\r\n")).unwrap_or_default();
        format!("HTTP/1.1 {} Told\r\n{wish}content-length: 0\r\n\r\n", self.status).into_bytes()
    }
}

/// Listens on a thread of its own until it is dropped.
pub(crate) struct Hook {
    receiver: Receiver,
    deliveries: Arc<Deliveries>,
    flights: Arc<Mutex<Flights>>,
    _runtime: Runtime,
}

/// Requests that were read and not answered.
#[derive(Default)]
struct Flights {
    by_key: HashMap<u64, usize>,
    seen_by_id: HashMap<String, usize>,
    now: usize,
    begun: usize,
    /// Most at a time.
    most: usize,
    /// Most at a time of one key.
    most_of_a_key: usize,
}

impl Flights {
    fn begin(&mut self, delivery: &mut Delivery) {
        let seen = self.seen_by_id.entry(delivery.id.clone()).or_default();
        delivery.earlier = *seen;
        *seen += 1;
        for key in delivery.keys() {
            let of_key = self.by_key.entry(key).or_default();
            *of_key += 1;
            self.most_of_a_key = self.most_of_a_key.max(*of_key);
        }
        self.now += 1;
        self.begun += 1;
        self.most = self.most.max(self.now);
    }

    fn end(&mut self, delivery: &Delivery) {
        for key in delivery.keys() {
            *self.by_key.get_mut(&key).unwrap() -= 1;
        }
        self.now -= 1;
    }
}

impl Hook {
    pub(crate) fn start(judge: impl Fn(&Delivery) -> Reply + Send + Sync + 'static) -> Hook {
        let runtime = Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let (deliveries, flights) = (Arc::<Deliveries>::default(), Arc::<Mutex<Flights>>::default());
        let (got, flying) = (deliveries.clone(), flights.clone());
        let manner = Manner::Ask(Arc::new(move |request| {
            let mut delivery = Delivery::read(&request);
            flying.lock().unwrap().begin(&mut delivery);
            let reply = judge(&delivery);
            let (got, flying) = (got.clone(), flying.clone());
            Box::pin(async move {
                if !reply.pause.is_zero() {
                    tokio::time::sleep(reply.pause).await;
                }
                flying.lock().unwrap().end(&delivery);
                got.lock().unwrap().push(Delivery { status: reply.status, ..delivery });
                reply.bytes()
            })
        }));
        let receiver = runtime.block_on(Receiver::start(manner));
        Hook { receiver, deliveries, flights, _runtime: runtime }
    }

    /// One that takes everything.
    pub(crate) fn willing() -> Hook {
        Hook::start(|_| Reply::status(200))
    }

    /// One that takes what is [`FIRST`] at once, and answers so to everything else.
    pub(crate) fn willing_at_first(then: Reply) -> Hook {
        Hook::start(move |delivery| if delivery.key == FIRST { Reply::status(200) } else { then })
    }

    pub(crate) fn url(&self) -> String {
        self.receiver.url()
    }

    pub(crate) fn deliveries(&self) -> Vec<Delivery> {
        self.deliveries.lock().unwrap().clone()
    }

    pub(super) fn deliveries_of(&self) -> Arc<Deliveries> {
        self.deliveries.clone()
    }

    /// Answers given.
    pub(crate) fn count(&self) -> usize {
        self.deliveries.lock().unwrap().len()
    }

    /// Requests read, whether they were answered or not.
    pub(crate) fn begun(&self) -> usize {
        self.flights.lock().unwrap().begun
    }

    /// Ids that were answered 2xx.
    pub(crate) fn taken(&self) -> BTreeSet<String> {
        let deliveries = self.deliveries.lock().unwrap();
        deliveries.iter().filter(|one| one.is_success()).map(|one| one.id.clone()).collect()
    }

    /// Places of events that were answered 2xx, each as often as it was.
    pub(crate) fn places(&self) -> Vec<Place> {
        let deliveries = self.deliveries.lock().unwrap();
        let taken = deliveries.iter().filter(|one| one.is_success());
        taken.flat_map(|one| &one.events).flat_map(Carried::places).collect()
    }

    /// Most requests at a time, over all and of one key.
    pub(crate) fn most(&self) -> (usize, usize) {
        let flights = self.flights.lock().unwrap();
        (flights.most, flights.most_of_a_key)
    }
}
