//! The journal's events, as tests append them.

use std::sync::{Arc, Condvar, Mutex};
use std::time::Duration;

use systole_dispatch::clock::Clock;
use systole_dispatch::event::{
    Cursor, Event, EventKind, EventLog, EventReader, Place, ReadFault, Settled, Step, Wanted,
};
use systole_dispatch::topic::TopicId;

use super::{ORG, RESTING, now_micros};

/// Short, because the router looks whether it is to stop between two waits.
const WAIT: Duration = Duration::from_millis(50);

/// An event before it has a place.
#[derive(Clone)]
pub(crate) struct Draft {
    pub(crate) org: &'static str,
    pub(crate) user: Option<&'static str>,
    pub(crate) topic: TopicId,
    pub(crate) kind: EventKind,
    pub(crate) key: u64,
    pub(crate) samples: u32,
    pub(crate) backfill: bool,
    pub(crate) about: Option<&'static str>,
}

impl Draft {
    pub(crate) fn of(key: u64) -> Draft {
        Draft {
            org: ORG,
            user: Some("u_1"),
            topic: RESTING,
            kind: EventKind::Created,
            key,
            samples: 1,
            backfill: false,
            about: None,
        }
    }
}

/// Readers share it.
#[derive(Debug)]
pub(crate) struct Log {
    clock: Clock,
    state: Arc<Mutex<State>>,
    grown: Condvar,
}

#[derive(Debug, Default)]
struct State {
    /// By place.
    events: Vec<Event>,
    /// When each frame was appended.
    times: Vec<i64>,
    head: u64,
    ordering: u64,
    dropped: u64,
    failures: usize,
    /// How long each read takes.
    pause: Duration,
    /// How often the next calls to settle panic.
    panics: usize,
    /// Calls to readers of lanes.
    reads: usize,
    /// The users that those are for, in the order they were made.
    users: Vec<Option<String>>,
}

impl Log {
    pub(super) fn new(clock: Clock) -> Log {
        Log { clock, state: Arc::default(), grown: Condvar::new() }
    }

    /// Appends a frame.
    pub(crate) fn append(&self, drafts: &[Draft]) -> Vec<Event> {
        let mut state = self.state.lock().unwrap();
        state.head += 1;
        state.ordering = (state.ordering + 1).max(now_micros());
        state.times.push(self.clock.now_ms());
        let sequence = state.head;
        let event = |(ordinal, draft): (u32, &Draft)| Event {
            org: draft.org.into(),
            user: draft.user.map(Into::into),
            topic: draft.topic,
            place: Place { sequence, group: ordinal * 2, chunk: 0, kind: draft.kind },
            ordinal,
            decided_at: sequence,
            key: draft.key,
            ordering: state.ordering,
            samples: draft.samples,
            bytes: 64,
            backfill: draft.backfill,
            about: draft.about.map(Into::into),
        };
        let events: Vec<Event> = (0..).zip(drafts).map(event).collect();
        state.events.extend(events.iter().cloned());
        self.grown.notify_all();
        events
    }

    /// Appends frames of one event each, whose keys go round.
    pub(crate) fn append_many(&self, count: u64, keys: u64) -> Vec<Event> {
        (0..count).flat_map(|number| self.append(&[Draft::of(number % keys)])).collect()
    }

    pub(crate) fn events(&self) -> Vec<Event> {
        self.state.lock().unwrap().events.clone()
    }

    pub(crate) fn head(&self) -> u64 {
        self.state.lock().unwrap().head
    }

    /// The event at a place.
    pub(crate) fn get(&self, place: Place) -> Option<Event> {
        let state = self.state.lock().unwrap();
        let index = state.events.binary_search_by_key(&place, |event| event.place).ok()?;
        Some(state.events[index].clone())
    }

    /// Frames up to this can no longer be read.
    pub(crate) fn drop_through(&self, sequence: u64) {
        self.state.lock().unwrap().dropped = sequence;
    }

    /// This many of the next reads fail.
    pub(crate) fn fail(&self, reads: usize) {
        self.state.lock().unwrap().failures = reads;
    }

    /// Each read takes so long from now on.
    pub(crate) fn slow_down(&self, pause: Duration) {
        self.state.lock().unwrap().pause = pause;
    }

    /// How often lanes have read.
    pub(crate) fn reads(&self) -> usize {
        self.state.lock().unwrap().reads
    }

    /// The users that lanes have made readers for.
    pub(crate) fn users(&self) -> Vec<Option<String>> {
        self.state.lock().unwrap().users.clone()
    }

    /// This many of the next calls to settle panic.
    pub(crate) fn panic(&self, calls: usize) {
        self.state.lock().unwrap().panics = calls;
    }
}

impl EventLog for Log {
    fn reader(&self, from: Cursor) -> Box<dyn EventReader> {
        Box::new(Reader { state: self.state.clone(), at: from, seen: 0, of: None })
    }

    fn reader_of(&self, from: Cursor, org: &str, user: Option<&str>) -> Box<dyn EventReader> {
        self.state.lock().unwrap().users.push(user.map(str::to_owned));
        let of = Some((org.to_owned(), user.map(str::to_owned)));
        Box::new(Reader { state: self.state.clone(), at: from, seen: 0, of })
    }

    fn wait(&self, seen: u64) -> bool {
        let state = self.state.lock().unwrap();
        drop(self.grown.wait_timeout_while(state, WAIT, |state| state.head <= seen).unwrap());
        true
    }

    fn settle(&self) -> Settled {
        let mut state = self.state.lock().unwrap();
        if state.panics > 0 {
            state.panics -= 1;
            drop(state);
            panic!("told to panic");
        }
        state.ordering = state.ordering.max(now_micros());
        Settled { head: state.head, ordering: state.ordering }
    }

    fn committed_ms(&self, sequence: u64) -> Result<Option<i64>, ReadFault> {
        let state = self.state.lock().unwrap();
        let at = sequence.max(state.dropped + 1).saturating_sub(1);
        Ok(state.times.get(usize::try_from(at).unwrap()).copied())
    }
}

struct Reader {
    state: Arc<Mutex<State>>,
    at: Cursor,
    seen: u64,
    /// The organisation, and perhaps its user, to which it is held.
    of: Option<(String, Option<String>)>,
}

/// Whether an event is for a reader of an organisation, or of one of its users.
fn concerns(event: &Event, (org, user): &(String, Option<String>)) -> bool {
    *event.org == **org && (user.is_none() || event.user.as_deref() == user.as_deref())
}

impl EventReader for Reader {
    fn next(&mut self, wanted: Wanted<'_>, through: Cursor) -> Result<Step, ReadFault> {
        let pause = self.state.lock().unwrap().pause;
        if !pause.is_zero() {
            std::thread::sleep(pause);
        }
        let mut state = self.state.lock().unwrap();
        state.reads += usize::from(self.of.is_some());
        self.seen = state.head;
        if state.failures > 0 {
            state.failures -= 1;
            return Err(ReadFault::Failed("told to fail".into()));
        }
        if self.at >= through {
            return Ok(Step::Pause);
        }
        if self.at.sequence <= state.dropped {
            self.at = Cursor::behind(state.dropped);
            return Err(ReadFault::Dropped { through: state.dropped });
        }
        let first = state.events.partition_point(|event| event.cursor() < self.at);
        let is_wanted = |event: &&Event| {
            wanted(&event.org).is_some_and(|since| event.place.sequence > since)
                && self.of.as_ref().is_none_or(|of| concerns(event, of))
        };
        match state.events[first..].iter().find(is_wanted).filter(|event| event.cursor() < through) {
            Some(event) => {
                self.at = Cursor { ordinal: event.ordinal + 1, ..event.cursor() };
                Ok(Step::Event(event.clone()))
            }
            None => {
                self.at = self.at.max(Cursor::behind(state.head).min(through));
                Ok(Step::Pause)
            }
        }
    }

    fn cursor(&self) -> Cursor {
        self.at
    }

    fn seen(&self) -> u64 {
        self.seen
    }
}
