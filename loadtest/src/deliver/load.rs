//! What is offered: requests as data, by number.
//!
//! | | one request | comes out as |
//! |---|---|---|
//! | events | `POST /api/v1/events`, a body of the wanted size | one event, known again by its number |
//! | series | `POST /api/v1/wearables/bulk-ingest`, 500 samples of one user | one event with its samples |
//!
//! Numbers of events are `turn * slots + slot`: a slot is a connection, and the
//! event's user is `number % users`, where `users` is a multiple of the slots. So all
//! events of a user come from one connection, each after the answer to the one
//! before: they are ordered, and a receiver can see whether they still are.

use std::fmt::Write;

use bytes::Bytes;

use crate::fleet::Fleet;

/// The type of published events; any that may be published does.
pub(crate) const EVENT_TYPE: &str = "check_in.created";
/// Stands at the beginning of the published data, which is delivered byte for byte.
pub(crate) const NUMBER: &[u8] = b"\"number\":";
const EVENTS: &str = "/api/v1/events";
const BULK: &str = "/api/v1/wearables/bulk-ingest";

/// What a run offers.
#[derive(Debug)]
pub(crate) enum Load {
    /// Published events.
    Events(Events),
    /// Samples of a fleet.
    Series(Series),
}

/// Events of one size about many users.
#[derive(Debug, Clone)]
pub(crate) struct Events {
    /// Begins every user's id.
    pub(crate) prefix: String,
    /// A multiple of the slots.
    pub(crate) users: u64,
    /// Connections that publish.
    pub(crate) slots: u64,
    filler: String,
}

/// Samples, spread over organisations by their user.
#[derive(Debug)]
pub(crate) struct Series {
    /// Its users are a multiple of the organisations.
    pub(crate) fleet: Fleet,
    /// Empty for the key's own.
    pub(crate) orgs: Vec<String>,
}

/// A request to send; used again for the next one.
#[derive(Debug, Default)]
pub(crate) struct Request {
    pub(crate) number: u64,
    pub(crate) path: String,
    text: String,
    shared: Option<Bytes>,
}

impl Events {
    /// Events whose data takes about `bytes`, about at least `users` users.
    pub(crate) fn new(prefix: &str, users: u64, slots: u64, bytes: usize) -> Self {
        let slots = slots.max(1);
        let head = r#"{"number":,"filler":""}"#.len() + 12;
        let filler = "0123456789abcdef".chars().cycle().take(bytes.saturating_sub(head)).collect();
        Self { prefix: prefix.to_owned(), users: users.max(1).next_multiple_of(slots), slots, filler }
    }

    /// The id of a user.
    pub(crate) fn user_id(&self, user: u64) -> String {
        format!("{}-{user}", self.prefix)
    }
}

impl Load {
    /// Writes the request of this slot's `turn`; `drawn` is its place in the whole run.
    pub(crate) fn write(&self, slot: u64, turn: u64, drawn: u64, request: &mut Request) {
        request.path.clear();
        request.text.clear();
        match self {
            Self::Events(events) => {
                let number = turn * events.slots + slot;
                request.number = number;
                request.path.push_str(EVENTS);
                let (prefix, user, filler) = (&events.prefix, number % events.users, &events.filler);
                let written = write!(
                    request.text,
                    r#"{{"type":"{EVENT_TYPE}","user_id":"{prefix}-{user}","data":{{"number":{number},"filler":"{filler}"}}}}"#
                );
                written.expect("a String takes everything");
            }
            Self::Series(series) => {
                let batch = series.fleet.batch(drawn);
                request.number = drawn;
                let written = match series.orgs.len() {
                    0 => write!(request.path, "{BULK}?user_id={}", batch.user_id),
                    orgs => {
                        let org = &series.orgs[(drawn % orgs as u64) as usize];
                        write!(request.path, "{BULK}?user_id={}&org={org}", batch.user_id)
                    }
                };
                written.expect("a String takes everything");
                request.shared = Some(batch.body);
            }
        }
    }

    /// Samples of a request.
    pub(crate) fn samples(&self) -> u64 {
        match self {
            Self::Events(_) => 0,
            Self::Series(series) => series.fleet.points() as u64,
        }
    }
}

impl Request {
    pub(crate) fn body(&self) -> &[u8] {
        self.shared.as_deref().unwrap_or(self.text.as_bytes())
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::time::SystemTime;

    use serde_json::Value;

    use super::*;
    use crate::fleet::FleetSettings;

    #[test]
    fn events_have_the_wanted_size_a_number_of_their_own_and_a_user_of_their_slot() {
        let events = Events::new("p", 10, 4, 1_000);
        assert_eq!(events.users, 12);
        let load = Load::Events(events);
        let (mut numbers, mut request) = (BTreeSet::new(), Request::default());
        for (slot, turn) in (0..4).flat_map(|slot| (0..9).map(move |turn| (slot, turn))) {
            load.write(slot, turn, 0, &mut request);
            assert!(numbers.insert(request.number));
            let body: Value = serde_json::from_slice(request.body()).expect("JSON");
            assert_eq!(body["data"]["number"], request.number);
            let user = body["user_id"].as_str().and_then(|id| id.strip_prefix("p-"));
            let user: u64 = user.and_then(|user| user.parse().ok()).expect("a user");
            assert_eq!((user % 4, request.number % 12), (slot, user));
            assert!(body["data"].to_string().len().abs_diff(1_000) <= 12);
        }
        assert_eq!(numbers.len(), 36);
    }

    #[test]
    fn a_user_is_always_in_the_same_organisation() {
        let settings = FleetSettings { users: 10, points: 5, ..FleetSettings::new("p", SystemTime::now()) };
        let fleet = Fleet::prepare(&settings).expect("good settings");
        let orgs = vec!["a".to_owned(), "b".to_owned()];
        let load = Load::Series(Series { fleet, orgs });
        let (mut seen, mut request) = (BTreeSet::new(), Request::default());
        for drawn in 0..2_000 {
            load.write(0, 0, drawn, &mut request);
            seen.insert(request.path.clone());
            assert!(request.body().starts_with(b"{\"data_points\":["));
        }
        let users: BTreeSet<&str> = seen.iter().filter_map(|path| path.split('&').next()).collect();
        assert_eq!((users.len(), load.samples()), (seen.len(), 5), "a user with two organisations");
    }
}
