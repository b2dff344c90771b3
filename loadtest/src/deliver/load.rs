//! What is offered: requests as data, by number.
//!
//! | | one request | comes out as |
//! |---|---|---|
//! | events | `POST /api/v1/events`, an event of the wanted size, or many as lines | each event, known again by its number |
//! | series | `POST /api/v1/wearables/bulk-ingest`, 500 samples of one user | one event with its samples |
//!
//! Numbers of events are `(turn * lines + line) * slots + slot`: a slot is a connection, a
//! turn is one of its requests, and the event's user is `number % users`, where `users` is a
//! multiple of the slots. So all events of a user come from one connection, each after the
//! answer to the one before, or behind it in the same request: they are ordered, and a
//! receiver can see whether they still are.

use std::fmt::Write;

use bytes::Bytes;

use crate::fleet::Fleet;
use crate::lean::{JSON, NDJSON};

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
    /// Events of a request.
    lines: u64,
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
    /// Of its first event.
    number: u64,
    /// From the number of an event to that of the next.
    step: u64,
    /// How many it has; samples are one.
    events: u64,
    pub(crate) path: String,
    pub(crate) content_type: &'static str,
    text: String,
    shared: Option<Bytes>,
}

impl Events {
    /// Events whose data takes about `bytes`, about at least `users` users.
    pub(crate) fn new(prefix: &str, users: u64, slots: u64, bytes: usize) -> Self {
        let slots = slots.max(1);
        let head = r#"{"number":,"filler":""}"#.len() + 12;
        let filler = "0123456789abcdef".chars().cycle().take(bytes.saturating_sub(head)).collect();
        let users = users.max(1).next_multiple_of(slots);
        Self { prefix: prefix.to_owned(), users, slots, lines: 1, filler }
    }

    /// So many of them in each request.
    pub(crate) fn in_lines(self, lines: u64) -> Self {
        Self { lines: lines.max(1), ..self }
    }

    fn write(&self, number: u64, text: &mut String) {
        let (prefix, user, filler) = (&self.prefix, number % self.users, &self.filler);
        let written = write!(
            text,
            r#"{{"type":"{EVENT_TYPE}","user_id":"{prefix}-{user}","data":{{"number":{number},"filler":"{filler}"}}}}"#
        );
        written.expect("a String takes everything");
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
                request.number = turn * events.lines * events.slots + slot;
                (request.step, request.events) = (events.slots, events.lines);
                request.path.push_str(EVENTS);
                request.content_type = if events.lines > 1 { NDJSON } else { JSON };
                for line in 0..events.lines {
                    if line > 0 {
                        request.text.push('\n');
                    }
                    events.write(request.number + line * events.slots, &mut request.text);
                }
            }
            Self::Series(series) => {
                let batch = series.fleet.batch(drawn);
                (request.number, request.step, request.events) = (drawn, 1, 1);
                request.content_type = JSON;
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

    /// Events of a request; samples are one.
    pub(crate) fn events(&self) -> u64 {
        match self {
            Self::Events(events) => events.lines,
            Self::Series(_) => 1,
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

    /// How many events it has.
    pub(crate) fn events(&self) -> u64 {
        self.events
    }

    /// The numbers of its first events.
    pub(crate) fn numbers(&self, events: u64) -> impl Iterator<Item = u64> + use<> {
        let (first, step) = (self.number, self.step);
        (0..events.min(self.events)).map(move |event| first + event * step)
    }

    /// Leaves its first events out, which the server has; at least one stays.
    pub(crate) fn leave_out(&mut self, events: u64) {
        let events = events.min(self.events.saturating_sub(1));
        let begin: usize = self.text.split_inclusive('\n').take(events as usize).map(str::len).sum();
        self.text.drain(..begin);
        self.number += events * self.step;
        self.events -= events;
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
            let number = request.numbers(1).next().expect("an event");
            assert!(numbers.insert(number));
            assert_eq!((request.events(), request.content_type), (1, JSON));
            let body: Value = serde_json::from_slice(request.body()).expect("JSON");
            assert_eq!(body["data"]["number"], number);
            let user = body["user_id"].as_str().and_then(|id| id.strip_prefix("p-"));
            let user: u64 = user.and_then(|user| user.parse().ok()).expect("a user");
            assert_eq!((user % 4, number % 12), (slot, user));
            assert!(body["data"].to_string().len().abs_diff(1_000) <= 12);
        }
        assert_eq!(numbers.len(), 36);
    }

    #[test]
    fn events_of_a_request_are_lines_with_the_next_numbers_of_its_slot() {
        let load = Load::Events(Events::new("p", 10, 4, 100).in_lines(5));
        assert_eq!(load.events(), 5);
        let (mut numbers, mut request) = (BTreeSet::new(), Request::default());
        for (slot, turn) in (0..4).flat_map(|slot| (0..3).map(move |turn| (slot, turn))) {
            load.write(slot, turn, 0, &mut request);
            let wanted: Vec<u64> = request.numbers(request.events()).collect();
            assert_eq!(sent(&request), wanted);
            assert!(wanted.is_sorted() && wanted.iter().all(|number| number % 4 == slot));
            assert!(wanted.iter().all(|number| numbers.insert(*number)), "{wanted:?}");
            assert_eq!((wanted.len(), request.content_type), (5, NDJSON));
            assert!(request.numbers(2).eq(wanted[..2].iter().copied()));
            request.leave_out(3);
            assert_eq!((request.events(), sent(&request)), (2, wanted[3..].to_vec()));
            request.leave_out(2);
            assert_eq!((request.events(), sent(&request)), (1, wanted[4..].to_vec()), "one stays");
        }
        assert!(numbers.into_iter().eq(0..60_u64), "each number once");
    }

    /// The numbers in the body of a request.
    fn sent(request: &Request) -> Vec<u64> {
        let lines = request.body().split(|byte| *byte == b'\n');
        let number = |line| serde_json::from_slice::<Value>(line).expect("JSON")["data"]["number"].as_u64();
        lines.map(|line| number(line).expect("a number")).collect()
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
