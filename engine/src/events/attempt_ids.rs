//! Ids of delivery attempts and iterators over them, enciphered as those of events are:
//! they show neither order nor volume.

use systole_dispatch::id::EVENT_ID_PREFIX;
use systole_dispatch::{EventKind, Place};
use systole_storage::{AttemptKey, Sequence};

use super::webhooks::Webhooks;

/// Begins the id of an attempt.
const ATTEMPT_PREFIX: &str = "att_";
/// Begins an iterator over attempts.
const ITERATOR_PREFIX: &str = "itr_";
/// Marks places that are ids of attempts, where the endpoint of an event's own id stands.
const ATTEMPT: u32 = 3;
/// Bits of a time that stand in a place's group, and in its chunk.
const GROUP_BITS: u32 = 24;
const CHUNK_BITS: u32 = 12;

impl Webhooks {
    /// Where the frame of a message would be, if its id leads to a place that may be.
    #[must_use]
    pub fn sequence_of(&self, message: &str) -> Option<u64> {
        let (place, endpoint) = self.ids.open(message)?;
        (endpoint == 0 && Sequence(place.sequence) <= self.log.head()).then_some(place.sequence)
    }

    /// The id of an attempt, by what orders it among those of the same time.
    #[must_use]
    pub fn attempt_id(&self, tie: u64) -> String {
        let place = Place { sequence: tie, group: 0, chunk: 0, kind: EventKind::Published };
        self.ids.seal(place, ATTEMPT).replacen(EVENT_ID_PREFIX, ATTEMPT_PREFIX, 1)
    }

    /// Leads to the attempts before one.
    #[must_use]
    pub fn attempt_iterator(&self, (at_ms, tie): AttemptKey) -> String {
        let time = at_ms.unsigned_abs();
        let group = u32::try_from(time & ((1 << GROUP_BITS) - 1)).unwrap_or_default();
        let chunk = u16::try_from(time >> GROUP_BITS & ((1 << CHUNK_BITS) - 1)).unwrap_or_default();
        let rest = u32::try_from(time >> (GROUP_BITS + CHUNK_BITS)).unwrap_or_default();
        let place = Place { sequence: tie, group, chunk, kind: EventKind::Updated };
        self.ids.seal(place, rest << 2 | ATTEMPT).replacen(EVENT_ID_PREFIX, ITERATOR_PREFIX, 1)
    }

    /// The time and tie of the attempt that an iterator begins behind.
    #[must_use]
    pub fn open_attempt_iterator(&self, text: &str) -> Option<AttemptKey> {
        let id = text.strip_prefix(ITERATOR_PREFIX)?;
        let (place, rest) = self.ids.open(&format!("{EVENT_ID_PREFIX}{id}"))?;
        if place.kind != EventKind::Updated || rest & 3 != ATTEMPT {
            return None;
        }
        let low = u64::from(place.group) | u64::from(place.chunk) << GROUP_BITS;
        let time = low | u64::from(rest >> 2) << (GROUP_BITS + CHUNK_BITS);
        Some((i64::try_from(time).ok()?, place.sequence))
    }
}
