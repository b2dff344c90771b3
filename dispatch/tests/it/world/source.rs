//! Bodies made from places.

use std::collections::{HashMap, HashSet};
use std::io::Write as _;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex};

use systole_dispatch::event::{Event, Payload, PayloadFault, PayloadSource, Place, Vocabulary};
use systole_dispatch::topic::TopicId;

use super::Log;

#[derive(Debug)]
pub(crate) struct Source {
    log: Arc<Log>,
    faults: Mutex<HashMap<Place, PayloadFault>>,
    opens: Mutex<HashMap<Place, usize>>,
    panics: Mutex<HashSet<Place>>,
    /// What is erased as soon as somebody has opened it.
    erased: Mutex<HashSet<Place>>,
    erasures: AtomicU64,
    /// What is added to the data of every event.
    filler_bytes: AtomicUsize,
    /// Opening waits, and how many do.
    held: Mutex<Option<usize>>,
    let_go: Condvar,
}

impl Source {
    pub(super) fn of(log: Arc<Log>) -> Source {
        Source {
            log,
            faults: Mutex::default(),
            opens: Mutex::default(),
            panics: Mutex::default(),
            erased: Mutex::default(),
            erasures: AtomicU64::new(0),
            filler_bytes: AtomicUsize::new(0),
            held: Mutex::default(),
            let_go: Condvar::new(),
        }
    }

    /// From now on opening waits: of odd sequences, for others are opened by threads that
    /// may not.
    pub(crate) fn hold(&self) {
        *self.held.lock().unwrap() = Some(0);
    }

    /// How many wait.
    pub(crate) fn held(&self) -> usize {
        self.held.lock().unwrap().unwrap_or_default()
    }

    pub(crate) fn let_go(&self) {
        *self.held.lock().unwrap() = None;
        self.let_go.notify_all();
    }

    fn wait(&self) {
        let mut held = self.held.lock().unwrap();
        if let Some(held) = held.as_mut() {
            *held += 1;
        }
        drop(self.let_go.wait_while(held, |held| held.is_some()).unwrap());
    }

    /// Whether opening a payload panics from now on.
    pub(crate) fn panic(&self, place: Place, panics: bool) {
        let mut all = self.panics.lock().unwrap();
        if panics {
            all.insert(place)
        } else {
            all.remove(&place)
        };
    }

    /// Makes every event so much longer.
    pub(crate) fn fill(&self, bytes: usize) {
        self.filler_bytes.store(bytes, Ordering::Relaxed);
    }

    /// What opening a payload comes to from now on.
    pub(crate) fn tell(&self, place: Place, fault: Option<PayloadFault>) {
        let mut faults = self.faults.lock().unwrap();
        match fault {
            Some(fault) => faults.insert(place, fault),
            None => faults.remove(&place),
        };
    }

    /// Has a payload erased for good as soon as it was opened once.
    pub(crate) fn erase_once_opened(&self, place: Place) {
        self.erased.lock().unwrap().insert(place);
    }

    /// How often a payload was opened.
    pub(crate) fn opens(&self, place: Place) -> usize {
        self.opens.lock().unwrap().get(&place).copied().unwrap_or_default()
    }
}

impl Source {
    fn told(&self, place: Place, decided_at: u64) -> Result<Told, PayloadFault> {
        *self.opens.lock().unwrap().entry(place).or_default() += 1;
        let panics = self.panics.lock().unwrap().contains(&place);
        assert!(!panics, "told to");
        if let Some(fault) = self.faults.lock().unwrap().get(&place) {
            return Err(*fault);
        }
        if self.erased.lock().unwrap().remove(&place) {
            self.tell(place, Some(PayloadFault::Gone));
            self.erasures.fetch_add(1, Ordering::AcqRel);
        }
        let event = self.log.get(place).ok_or(PayloadFault::Gone)?;
        assert_eq!(event.decided_at, decided_at, "{place:?}");
        let timestamp = format!("2026-06-30T07:45:01.{:03}Z", place.sequence % 1000);
        Ok(Told { event, timestamp, filler: "x".repeat(self.filler_bytes.load(Ordering::Relaxed)) })
    }
}

impl PayloadSource for Source {
    fn open(&self, place: Place, decided_at: u64) -> Result<Box<dyn Payload>, PayloadFault> {
        self.wait();
        self.told(place, decided_at).map(|told| -> Box<dyn Payload> { Box::new(told) })
    }

    fn open_joined(&self, members: &[(Place, u64)]) -> Result<Box<dyn Payload>, PayloadFault> {
        let events: Vec<Told> = members
            .iter()
            .map(|(place, decided_at)| self.told(*place, *decided_at))
            .collect::<Result<_, _>>()?;
        Ok(Box::new(Joined { events }))
    }

    /// Every other one, so that both ways are gone.
    fn is_at_hand(&self, sequence: u64) -> bool {
        sequence.is_multiple_of(2)
    }

    fn erasures(&self) -> u64 {
        self.erasures.load(Ordering::Acquire)
    }
}

struct Told {
    event: Event,
    timestamp: String,
    filler: String,
}

impl Payload for Told {
    fn timestamp(&self) -> &str {
        &self.timestamp
    }

    fn timestamp_ms(&self) -> i64 {
        1_782_805_501_000 + i64::try_from(self.event.place.sequence % 1000).unwrap()
    }

    fn publisher_id(&self) -> Option<&str> {
        None
    }

    fn topic(&self) -> TopicId {
        self.event.topic
    }

    fn user(&self) -> Option<&str> {
        self.event.user.as_deref()
    }

    fn data_bytes(&self) -> usize {
        64 + self.filler.len()
    }

    fn write_data(&self, _: Vocabulary, _: bool, out: &mut Vec<u8>) {
        let (sequence, key, filler) = (self.event.place.sequence, self.event.key, &self.filler);
        write!(out, r#"{{"sequence":{sequence},"key":{key},"filler":"{filler}"}}"#).unwrap();
    }
}

/// Several of one key; the data names all their sequences.
struct Joined {
    events: Vec<Told>,
}

impl Payload for Joined {
    fn timestamp(&self) -> &str {
        self.events.last().unwrap().timestamp()
    }

    fn timestamp_ms(&self) -> i64 {
        self.events.last().unwrap().timestamp_ms()
    }

    fn publisher_id(&self) -> Option<&str> {
        None
    }

    fn topic(&self) -> TopicId {
        self.events[0].topic()
    }

    fn user(&self) -> Option<&str> {
        self.events[0].user()
    }

    fn data_bytes(&self) -> usize {
        64 * self.events.len()
    }

    fn write_data(&self, _: Vocabulary, _: bool, out: &mut Vec<u8>) {
        let sequences: Vec<u64> = self.events.iter().map(|told| told.event.place.sequence).collect();
        write!(out, r#"{{"sequences":{sequences:?},"key":{}}}"#, self.events[0].event.key).unwrap();
    }
}
