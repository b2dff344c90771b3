//! Ids of delivery attempts and iterators over them, enciphered as those of events are:
//! they show neither order nor volume.

use systole_dispatch::id::{EVENT_ID_PREFIX, IdCipher};
use systole_dispatch::{EventKind, Place};
use systole_storage::{AttemptQuery, AttemptStep, Sequence};

use super::webhooks::Webhooks;

/// Begins the id of an attempt.
const ATTEMPT_PREFIX: &str = "att_";
/// Begins an iterator over attempts.
const ITERATOR_PREFIX: &str = "itr_";
/// Marks places that are ids of attempts, where the endpoint of an event's own id stands.
const ATTEMPT: u32 = 3;
/// Kinds of places that stand for the direction of an iterator.
const OLDER: EventKind = EventKind::Updated;
const NEWER: EventKind = EventKind::Created;
/// Bits of a time that stand in a place's group, and in its chunk.
const GROUP_BITS: u32 = 24;
const CHUNK_BITS: u32 = 12;

impl Webhooks {
    /// What finds the attempts of a message, or of the messages that were sent together
    /// under an id, which leads to the first of them. Without a place, as of a test, none of
    /// it leads to the files.
    #[must_use]
    pub fn attempts_under(&self, id: &str) -> AttemptQuery {
        let opened = self.ids.open(id).filter(|(place, _)| Sequence(place.sequence) <= self.log.head());
        let id = Some(id.to_owned());
        match opened {
            Some((place, endpoint)) if is_of_several(place.kind, endpoint) => {
                // That of its first message, before which none of it comes unless it was cut.
                let carried = Some(place.sequence);
                let from_sequence = carried.filter(|_| place.cuts() == 0);
                AttemptQuery { delivery: id, carried, from_sequence, ..AttemptQuery::default() }
            }
            Some((place, _)) => {
                AttemptQuery { message: id, sequence: Some(place.sequence), ..AttemptQuery::default() }
            }
            None => AttemptQuery { message: id, sequence: Some(0), ..AttemptQuery::default() },
        }
    }

    /// The id of an attempt, by what orders it among those of the same time.
    #[must_use]
    pub fn attempt_id(&self, tie: u64) -> String {
        let place = Place { sequence: tie, group: 0, chunk: 0, kind: EventKind::Published };
        self.ids.seal(place, ATTEMPT).replacen(EVENT_ID_PREFIX, ATTEMPT_PREFIX, 1)
    }

    /// Leads to a page of attempts.
    #[must_use]
    pub fn attempt_iterator(&self, step: AttemptStep) -> String {
        seal(&self.ids, step)
    }

    /// The page of attempts that an iterator leads to.
    #[must_use]
    pub fn open_attempt_iterator(&self, text: &str) -> Option<AttemptStep> {
        open(&self.ids, text)
    }
}

/// Whether an id is of events that one endpoint got together, coalesced or as a batch.
pub(super) fn is_of_several(kind: EventKind, endpoint: u32) -> bool {
    endpoint != 0 || matches!(kind, EventKind::Coalesced | EventKind::Batch)
}

fn seal(ids: &IdCipher, step: AttemptStep) -> String {
    let (kind, (at_ms, tie)) = match step {
        AttemptStep::Older(place) => (OLDER, place),
        AttemptStep::Newer(place) => (NEWER, place),
    };
    let time = at_ms.unsigned_abs();
    let group = u32::try_from(time & ((1 << GROUP_BITS) - 1)).unwrap_or_default();
    let chunk = u16::try_from(time >> GROUP_BITS & ((1 << CHUNK_BITS) - 1)).unwrap_or_default();
    let rest = u32::try_from(time >> (GROUP_BITS + CHUNK_BITS)).unwrap_or_default();
    let place = Place { sequence: tie, group, chunk, kind };
    ids.seal(place, rest << 2 | ATTEMPT).replacen(EVENT_ID_PREFIX, ITERATOR_PREFIX, 1)
}

fn open(ids: &IdCipher, text: &str) -> Option<AttemptStep> {
    let id = text.strip_prefix(ITERATOR_PREFIX)?;
    let (place, rest) = ids.open(&format!("{EVENT_ID_PREFIX}{id}"))?;
    if rest & 3 != ATTEMPT {
        return None;
    }
    let low = u64::from(place.group) | u64::from(place.chunk) << GROUP_BITS;
    let time = low | u64::from(rest >> 2) << (GROUP_BITS + CHUNK_BITS);
    let key = (i64::try_from(time).ok()?, place.sequence);
    match place.kind {
        OLDER => Some(AttemptStep::Older(key)),
        NEWER => Some(AttemptStep::Newer(key)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn iterators_come_back_and_other_ids_are_none() {
        let ids = IdCipher::new([7; 16]);
        for key in [(1_782_805_501_123, 7 << 16 | 3), (1_782_805_501_123, u64::MAX), (0, 0)] {
            for step in [AttemptStep::Older(key), AttemptStep::Newer(key)] {
                let text = seal(&ids, step);
                assert!(text.starts_with("itr_") && text.len() == 30, "{text}");
                assert_eq!(open(&ids, &text), Some(step));
                assert_eq!(open(&ids, &text.replace("itr_", "att_")), None);
                assert_ne!(open(&IdCipher::new([8; 16]), &text), Some(step));
            }
        }
        let place = Place { sequence: 3, group: 0, chunk: 0, kind: EventKind::Created };
        assert_eq!(open(&ids, &ids.seal(place, 0).replace("evt_", "itr_")), None);
    }
}
