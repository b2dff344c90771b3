//! A stand-in for the server: keeps samples in a map, answers the questions that a
//! demo asks, and posts signed events. One event per (user, source, metric) of a
//! request, no retries, no disk. A flaw makes it break one promise.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use loadtest::{Connection, Dialect, Key, Server};
use serde_json::{Value, json};
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use tokio::task::JoinHandle;

use crate::server::{Reply, Seen, TestServer};

pub(crate) const SECRET: &str = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";

/// Which promise is broken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Flaw {
    None,
    /// The seventh event is never sent.
    EventLost,
    /// Every event is sent twice.
    EventsRepeated,
    /// The seventh event is sent behind the eighth.
    EventsSwapped,
    /// The seventh event is signed with another secret first.
    SignatureWrong,
    /// Every answer about steps is one sample short.
    SampleMissing,
    /// The first heart rate of a user reads 1 higher than it was sent.
    ValueAltered,
    /// The first value of a sample stays, whatever comes later.
    CorrectionLost,
    /// The connection of the third batch ends before its answer, every time.
    AnswerLost,
    /// Of several events in one request two are taken, each second time.
    LinesPutOff,
}

pub(crate) struct Systole {
    pub(crate) server: TestServer,
    world: Arc<Mutex<World>>,
    delivering: JoinHandle<()>,
}

#[derive(Debug, Default)]
struct World {
    /// By user and metric, then by time and device.
    samples: BTreeMap<(String, String), BTreeMap<(String, String), f64>>,
    /// By path under the API.
    endpoints: BTreeMap<String, Subscriber>,
    endpoints_made: usize,
    /// Published so far.
    published: usize,
    /// Requests of several events so far.
    requests_of_lines: usize,
    ordering: u64,
    ingests: usize,
}

/// An endpoint, as far as events go to it.
#[derive(Debug, Clone)]
struct Subscriber {
    dialect: Dialect,
    url: String,
    secret: String,
    user_id: Option<String>,
    /// Which it is in; empty for the key's own.
    org: String,
}

/// One event on its way.
struct Event {
    to: Subscriber,
    id: String,
    body: String,
}

impl Systole {
    pub(crate) async fn start(flaw: Flaw) -> Self {
        let world: Arc<Mutex<World>> = Arc::default();
        let (events, waiting) = unbounded_channel();
        let delivering = tokio::spawn(deliver(waiting, flaw));
        let answering = Arc::clone(&world);
        let script = move |seen: &Seen| lock(&answering).answer(seen, flaw, &events);
        let server = TestServer::start(script).await;
        Self { server, world, delivering }
    }

    pub(crate) fn endpoints_left(&self) -> usize {
        lock(&self.world).endpoints.len()
    }

    pub(crate) fn samples(&self) -> u64 {
        lock(&self.world).samples.values().map(|series| series.len() as u64).sum()
    }
}

impl Drop for Systole {
    fn drop(&mut self) {
        self.delivering.abort();
    }
}

impl World {
    fn answer(&mut self, seen: &Seen, flaw: Flaw, events: &UnboundedSender<Event>) -> Reply {
        let (path, query) = seen.path.split_once('?').unwrap_or((&seen.path, ""));
        let user_id = query.split('&').find_map(|pair| pair.strip_prefix("user_id=")).unwrap_or_default();
        let org = query.split('&').find_map(|pair| pair.strip_prefix("org=")).unwrap_or_default();
        match (seen.method.as_str(), path) {
            ("POST", "/api/v1/wearables/bulk-ingest") => self.ingest(seen, org, flaw, events),
            ("POST", "/api/v1/events") => self.publish(seen, flaw, events),
            ("POST", "/api/v1/webhooks/endpoints") => self.create(seen, org),
            ("POST", "/api/v1/api-keys") => Reply::json(201, r#"{"id":"key_1","key":"avk_1"}"#),
            ("DELETE", "/api/v1/api-keys/key_1") => Reply::json(204, ""),
            ("PATCH", _) => self.change(seen, path),
            ("DELETE", _) => match self.endpoints.remove(path) {
                Some(_) => Reply::json(204, ""),
                None => Reply::json(404, "{}"),
            },
            ("GET", "/api/v1/metrics") => Reply::json(200, registry()),
            ("GET", "/metrics") => Reply::json(200, self.exposition()),
            ("POST", "/api/v1/admin/flush" | "/api/v1/admin/compact") => Reply::json(200, "{}"),
            ("POST", "/api/v1/query") => Reply::json(200, r#"{"rows":[["u_1",12.5]]}"#),
            ("GET", "/api/v1/wearables/latest") => Reply::json(200, self.latest(user_id)),
            ("GET", _) if path.ends_with("/secret") => Reply::json(200, json!({ "key": SECRET }).to_string()),
            ("GET", _) => match path.strip_prefix("/api/v1/wearables/metric/") {
                Some(metric) => Reply::json(200, self.metric(user_id, metric, flaw)),
                None => Reply::json(404, "{}"),
            },
            _ => Reply::json(405, "{}"),
        }
    }

    fn create(&mut self, seen: &Seen, org: &str) -> Reply {
        let asked: Value = serde_json::from_slice(&seen.body).expect("JSON");
        let text = |field: &str| asked[field].as_str().map(str::to_owned);
        self.endpoints_made += 1;
        let id = format!("ep_{}", self.endpoints_made);
        let subscriber = Subscriber {
            dialect: text("dialect").expect("a dialect").parse().expect("a known one"),
            url: text("url").expect("a URL"),
            secret: text("secret").unwrap_or_else(|| SECRET.to_owned()),
            user_id: text("user_id"),
            org: org.to_owned(),
        };
        self.endpoints.insert(format!("/api/v1/webhooks/endpoints/{id}"), subscriber);
        Reply::json(201, json!({ "id": id }).to_string())
    }

    fn change(&mut self, seen: &Seen, path: &str) -> Reply {
        let asked: Value = serde_json::from_slice(&seen.body).expect("JSON");
        let Some(endpoint) = self.endpoints.get_mut(path) else { return Reply::json(404, "{}") };
        endpoint.url = asked["url"].as_str().expect("a URL").to_owned();
        Reply::json(200, "{}")
    }

    fn publish(&mut self, seen: &Seen, flaw: Flaw, events: &UnboundedSender<Event>) -> Reply {
        let lines: Vec<&str> = str::from_utf8(&seen.body).expect("text").lines().collect();
        if let [line] = lines.as_slice() {
            let id = self.publish_one(line, events);
            return Reply::json(202, json!({ "id": id }).to_string());
        }
        self.requests_of_lines += 1;
        let refuses = flaw == Flaw::LinesPutOff && self.requests_of_lines.is_multiple_of(2);
        let taken = if refuses { &lines[..2] } else { &lines[..] };
        let ids: Vec<String> = taken.iter().map(|line| self.publish_one(line, events)).collect();
        if refuses {
            let refused = json!({ "code": "queue_full", "detail": "", "accepted": 2, "line": 3, "ids": ids });
            return Reply::json(429, refused.to_string());
        }
        Reply::json(202, json!({ "ids": ids }).to_string())
    }

    /// Sends the data on as it came, to the endpoints of its user.
    fn publish_one(&mut self, text: &str, events: &UnboundedSender<Event>) -> String {
        let asked: Value = serde_json::from_str(text).expect("JSON");
        let (_, data) = text.split_once("\"data\":").expect("data, at the end");
        let data = data.strip_suffix('}').expect("an object");
        self.published += 1;
        let id = format!("evt_p{}", self.published);
        let body = format!(r#"{{"type":{},"timestamp":"t","data":{data}}}"#, asked["type"]);
        for to in self.endpoints.values() {
            if to.user_id.as_deref().is_none_or(|user_id| asked["user_id"] == user_id) {
                let event = Event { to: to.clone(), id: id.clone(), body: body.clone() };
                events.send(event).expect("the deliverer lives");
            }
        }
        id
    }

    fn ingest(&mut self, seen: &Seen, org: &str, flaw: Flaw, events: &UnboundedSender<Event>) -> Reply {
        self.ingests += 1;
        let since_1970 = SystemTime::now().duration_since(UNIX_EPOCH).expect("after 1970");
        self.ordering = (since_1970.as_micros() as u64).max(self.ordering + 1);
        let named = seen.path.contains("user_id=").then(|| seen.user_id());
        let mut groups: BTreeMap<(String, String), Vec<String>> = BTreeMap::new();
        for point in seen.points() {
            let text = |field: &str| point[field].as_str().expect("a text field").to_owned();
            let (metric, time) = (text("metric"), text("recorded_at"));
            let value = point["value"].as_f64().expect("a number");
            let device = point["source_device_id"].as_str().unwrap_or_default().to_owned();
            let user_id = named.clone().unwrap_or_else(|| text("user_id"));
            let series = self.samples.entry((user_id.clone(), metric.clone())).or_default();
            let key = (time.clone(), device);
            if flaw == Flaw::CorrectionLost && series.contains_key(&key) {
                continue;
            }
            if series.insert(key, value) != Some(value) {
                let sample = format!(r#"{{"timestamp":"{time}","value":{value:?}}}"#);
                groups.entry((user_id, metric)).or_default().push(sample);
            }
        }
        for ((user_id, metric), samples) in groups {
            self.announce(org, (&user_id, &metric), &samples, events);
        }
        if flaw == Flaw::AnswerLost && self.ingests >= 3 {
            return Reply::Hangup;
        }
        Reply::accepted(seen)
    }

    fn announce(
        &self,
        org: &str,
        (user_id, metric): (&str, &str),
        samples: &[String],
        events: &UnboundedSender<Event>,
    ) {
        let id = format!("evt_{}_{metric}", self.ordering);
        for to in self.endpoints.values().filter(|to| to.org == org) {
            let (series_type, names) = match to.dialect {
                Dialect::Standard => (code(metric).unwrap_or(metric), r#""type":"x.created""#.to_owned()),
                Dialect::Avycenna => (metric, format!(r#""event":"x.created","event_id":"{id}""#)),
            };
            let body = format!(
                r#"{{{names},"timestamp":"t","data":{{"user_id":"{user_id}","provider":"p","series_type":"{series_type}","sample_count":{},"ordering":{},"samples":[{}]}}}}"#,
                samples.len(),
                self.ordering,
                samples.join(",")
            );
            let event = Event { to: to.clone(), id: id.clone(), body };
            events.send(event).expect("the deliverer lives");
        }
    }

    fn exposition(&self) -> String {
        let rows: usize = self.samples.values().map(BTreeMap::len).sum();
        format!("# TYPE systole_files gauge\nsystole_files 3\nsystole_file_bytes {}\n", rows * 2)
    }

    fn latest(&self, user_id: &str) -> String {
        let mut latest = serde_json::Map::new();
        for ((user, metric), series) in &self.samples {
            if let Some(((time, _), value)) = series.last_key_value()
                && user == user_id
            {
                let answer = json!({ "value": value, "unit": "bpm", "recorded_at": time });
                latest.insert(metric.clone(), answer);
            }
        }
        json!({ "latest": latest }).to_string()
    }

    fn metric(&self, user_id: &str, metric: &str, flaw: Flaw) -> String {
        let series = self.samples.get(&(user_id.to_owned(), metric.to_owned()));
        let points = series.into_iter().flatten().rev();
        let mut points: Vec<Value> =
            points.map(|((time, _), value)| json!({ "value": value, "recorded_at": time })).collect();
        match (flaw, metric) {
            (Flaw::SampleMissing, "steps") => drop(points.pop()),
            (Flaw::ValueAltered, "heart_rate") => {
                if let Some(first) = points.first_mut() {
                    first["value"] = json!(first["value"].as_f64().expect("a number") + 1.0);
                }
            }
            _ => {}
        }
        json!({ "metric": metric, "unit": "x", "data_points": points }).to_string()
    }
}

/// Open Wearables' codes of three metrics; the others print our keys.
fn code(metric: &str) -> Option<&'static str> {
    match metric {
        "heart_rate" => Some("heart_rate"),
        "hrv" => Some("heart_rate_variability_rmssd"),
        "spo2" => Some("oxygen_saturation"),
        _ => None,
    }
}

fn registry() -> String {
    let metrics = ["heart_rate", "hrv", "spo2", "steps", "stress_score", "weight"];
    let shown: Vec<Value> =
        metrics.into_iter().map(|key| json!({ "key": key, "ow_code": code(key) })).collect();
    json!({ "data": shown, "iterator": null, "prev_iterator": null, "done": true }).to_string()
}

/// Posts events one after the other, over one connection to each receiver.
async fn deliver(mut waiting: UnboundedReceiver<Event>, flaw: Flaw) {
    let mut connections: BTreeMap<String, Connection> = BTreeMap::new();
    let mut number = 0;
    while let Some(mut event) = waiting.recv().await {
        number += 1;
        if flaw == Flaw::EventsSwapped && number == 7 {
            let Some(next) = waiting.recv().await else { return };
            let seventh = std::mem::replace(&mut event, next);
            let key =
                Key::prepare(event.to.dialect, &event.to.secret.as_str().into()).expect("a good secret");
            post(&mut connections, &event, &key).await;
            event = seventh;
        }
        let key = Key::prepare(event.to.dialect, &event.to.secret.as_str().into()).expect("a good secret");
        let wrong = Key::prepare(event.to.dialect, &"whsec_AAAA".into()).expect("a good secret");
        let attempts = match flaw {
            Flaw::EventLost if number == 7 => vec![],
            Flaw::EventsRepeated => vec![&key, &key],
            Flaw::SignatureWrong if number == 7 => vec![&wrong, &key],
            _ => vec![&key],
        };
        for key in attempts {
            post(&mut connections, &event, key).await;
        }
    }
}

async fn post(connections: &mut BTreeMap<String, Connection>, event: &Event, key: &Key) {
    let path = event.to.url.find('/').and_then(|_| event.to.url.splitn(4, '/').nth(3)).expect("a path");
    let base = event.to.url.strip_suffix(&format!("/{path}")).expect("it was split there");
    let headers = key.sign(&event.id, event.body.as_bytes(), SystemTime::now());
    if !connections.contains_key(base) {
        let server = Server::without_key(base).expect("a good address");
        let Ok(connection) = server.connect().await else { return };
        connections.insert(base.to_owned(), connection);
    }
    let connection = connections.get_mut(base).expect("it was put there");
    let body = Bytes::from(event.body.clone());
    if connection.post_with(&format!("/{path}"), headers, body).await.is_err() {
        // A receiver that is gone is no fault of the server's.
        connections.remove(base);
    }
}

fn lock(world: &Mutex<World>) -> MutexGuard<'_, World> {
    world.lock().expect("no test panics while it holds the lock")
}
