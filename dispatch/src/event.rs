//! Events and their places, and who gives them a body.

use std::fmt;
use std::sync::Arc;

use sha2::{Digest as _, Sha256};

use crate::topic::TopicId;

/// The place of an event in the journal: all that is needed to find it again and
/// to make its id.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Place {
    /// Sequence of the frame.
    pub sequence: u64,
    /// First group of the frame that belongs to the event; 24 bits.
    pub group: u32,
    /// Which part of a split event; 12 bits.
    pub chunk: u16,
    /// What kind of event it is.
    pub kind: EventKind,
}

/// Bits of a place's group and chunk that no frame needs: it has at most 64 MiB, a
/// group at least 32 bytes and 2,500 samples at least 40,000.
const GROUP_BITS_USED: u32 = 21;
const CHUNK_BITS_USED: u32 = 11;
/// How often the same can be cut anew and get another number: more often than it is tried.
const CUTS_MAX: u32 = 7;
/// Bits for how many events were drawn together, less one: at most 256.
const COUNT_BITS: u32 = 8;

impl Place {
    /// The place of events of one series that were drawn together, in their order.
    ///
    /// ```text
    /// sequence   the first event's
    /// group      cuts 3 | the first event's 21
    /// chunk      corrected 1 | events less one 8, hash 3, or if it was cut anew: hash 11
    /// ```
    ///
    /// It leads back to the first event and stands for all of them: what is drawn together
    /// are neighbours in their series, so others that begin with the same event are more
    /// or fewer. The hash is over all of them, for what erasures leave.
    ///
    /// # Panics
    /// If there are none, or the first event's place is beyond what a frame can have.
    #[must_use]
    pub fn of_drawn(members: &[Member]) -> Place {
        let Member { place: first, cut, .. } = members[0];
        assert!(first.group >> GROUP_BITS_USED == 0, "no frame has {first:?}");
        let [low, high, ..] = hash_of(members);
        let hash = u16::from_le_bytes([low, high]) & ((1 << CHUNK_BITS_USED) - 1);
        let more = u16::try_from(members.len() - 1).unwrap_or(u16::MAX).min((1 << COUNT_BITS) - 1);
        let hash_bits = CHUNK_BITS_USED - COUNT_BITS;
        let tail = if cut == 0 { more << hash_bits | hash & ((1 << hash_bits) - 1) } else { hash };
        Place {
            sequence: first.sequence,
            group: first.group | u32::from(cut).min(CUTS_MAX) << GROUP_BITS_USED,
            chunk: tail | u16::from(first.kind == EventKind::Updated) << CHUNK_BITS_USED,
            kind: EventKind::Coalesced,
        }
    }

    /// The place of a batch of events, in their order: that of the first, with a part of
    /// a hash over all of them, so that an id stands for what is in it, also if a crash
    /// had others gathered behind the same first one. `cut` is how often it was cut anew.
    #[must_use]
    pub fn of_batch(members: &[Member], cut: u32) -> Place {
        let hash = hash_of(members);
        let group = u32::from_le_bytes([hash[0], hash[1], hash[2], 0]) & ((1 << GROUP_BITS_USED) - 1);
        let chunk = u16::from_le_bytes([hash[4], hash[5]]) & ((1 << CHUNK_BITS_USED) - 1);
        Place {
            sequence: members.first().map_or(0, |first| first.place.sequence),
            group: group | cut.min(CUTS_MAX) << GROUP_BITS_USED,
            chunk,
            kind: EventKind::Batch,
        }
    }

    /// How often it was cut anew, of a place that [`Place::of_drawn`] or
    /// [`Place::of_batch`] made.
    #[must_use]
    pub fn cuts(self) -> u32 {
        self.group >> GROUP_BITS_USED
    }
}

/// A hash over events and how they are drawn together.
fn hash_of(members: &[Member]) -> [u8; 32] {
    let mut hash = Sha256::new();
    for Member { place, joined, cut, .. } in members {
        hash.update(place.sequence.to_le_bytes());
        hash.update(place.group.to_le_bytes());
        hash.update(place.chunk.to_le_bytes());
        hash.update([place.kind as u8, u8::from(*joined), *cut]);
    }
    hash.finalize().into()
}

/// Why an event exists. The numbers are part of event ids; 4 bits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum EventKind {
    /// Samples that were not there before.
    Created = 1,
    /// Samples that replace others.
    Updated = 2,
    /// Several events of one endpoint drawn together.
    Coalesced = 3,
    /// Several events in one request.
    Batch = 4,
    /// Handed in by a publisher.
    Published = 5,
}

impl EventKind {
    /// The kind with this number, if there is one.
    #[must_use]
    pub fn from_number(number: u8) -> Option<EventKind> {
        Some(match number {
            1 => EventKind::Created,
            2 => EventKind::Updated,
            3 => EventKind::Coalesced,
            4 => EventKind::Batch,
            5 => EventKind::Published,
            _ => return None,
        })
    }
}

/// An event as the router sees it: whom it concerns, not what it says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Event {
    /// Whose it is; never crosses.
    pub org: Arc<str>,
    /// The user it is about, if it is about one.
    pub user: Option<Arc<str>>,
    /// What it is called.
    pub topic: TopicId,
    /// Where it comes from.
    pub place: Place,
    /// How many events of its frame come before it.
    pub ordinal: u32,
    /// The sequence of the frame that decided which of its samples changed: its
    /// own, or the classifier's.
    pub decided_at: u64,
    /// Hash of what is delivered one at a time: of samples (user, metric, source),
    /// of anything else the event itself.
    pub key: u64,
    /// Its frame's; rises from frame to frame.
    pub ordering: u64,
    /// Samples it holds; 0 for what is none.
    pub samples: u32,
    /// About how many bytes its data takes in a body.
    pub bytes: u32,
    /// It is history, and is sent behind what is not.
    pub backfill: bool,
    /// The endpoint that it announces something about, to which it never goes.
    pub about: Option<Arc<str>>,
}

impl Event {
    /// Where a reader stands that reads it next.
    #[must_use]
    pub fn cursor(&self) -> Cursor {
        Cursor { sequence: self.place.sequence, ordinal: self.ordinal }
    }
}

/// One of the events that a request carries, if it carries several or draws several
/// together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Member {
    /// Where it comes from.
    pub place: Place,
    /// How many events of its frame come before it.
    pub ordinal: u32,
    /// The frame that decided it.
    pub decided_at: u64,
    /// Hash of what is delivered one at a time.
    pub key: u64,
    /// It is one event with the member before it.
    pub joined: bool,
    /// How often its event was cut anew; of an event's first member.
    pub cut: u8,
}

/// A reader's place between events: the frame of the next one, and how many events
/// of that frame were read.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Cursor {
    /// The frame's sequence.
    pub sequence: u64,
    /// Events of the frame that were read.
    pub ordinal: u32,
}

impl Cursor {
    /// Behind everything up to a sequence.
    #[must_use]
    pub fn behind(sequence: u64) -> Cursor {
        Cursor { sequence: sequence + 1, ordinal: 0 }
    }
}

/// The events of the journal, in order.
pub trait EventLog: fmt::Debug + Send + Sync {
    /// A reader that begins at a cursor.
    fn reader(&self, from: Cursor) -> Box<dyn EventReader>;

    /// A reader for one organisation, or for one of its users, that may pass over what
    /// concerns others.
    fn reader_of(&self, from: Cursor, _org: &str, _user: Option<&str>) -> Box<dyn EventReader> {
        self.reader(from)
    }

    /// Waits until the log is longer than a reader has [seen](EventReader::seen) it,
    /// or something else changed; false once it has stopped. Blocks for at most a
    /// second.
    fn wait(&self, seen: u64) -> bool;

    /// A promise about what comes: every event behind the head that is returned will
    /// have a greater ordering.
    fn settle(&self) -> Settled;

    /// When a frame was committed, milliseconds since 1970, or the next one of which
    /// that is known; `None` if there is none. Rises with the sequence. May read disk.
    ///
    /// # Errors
    /// [`ReadFault`].
    fn committed_ms(&self, sequence: u64) -> Result<Option<i64>, ReadFault>;
}

/// Where the log stands.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Settled {
    /// The last sequence there is.
    pub head: u64,
    /// No event behind the head will have an ordering up to this.
    pub ordering: u64,
}

/// One reader with a place of its own. Calls may read from disk.
pub trait EventReader: Send {
    /// The next event before `through`, of the organisations for which `wanted`
    /// gives the sequence they are wanted from.
    ///
    /// # Errors
    /// [`ReadFault`]; the reader stays where it was, unless it says otherwise.
    fn next(&mut self, wanted: Wanted<'_>, through: Cursor) -> Result<Step, ReadFault>;

    /// Everything before this was read.
    fn cursor(&self) -> Cursor;

    /// How long the log was when it was read last, as a sequence.
    fn seen(&self) -> u64;
}

/// From which sequence on an organisation's events are wanted, if they are.
pub type Wanted<'a> = &'a dyn Fn(&str) -> Option<u64>;

/// What a reader came to.
#[derive(Debug)]
pub enum Step {
    /// An event.
    Event(Event),
    /// Nothing more for now.
    Pause,
}

/// Why a reader does not go on.
#[derive(Debug, thiserror::Error)]
pub enum ReadFault {
    /// Frames it had not read were dropped; it goes on behind them.
    #[error("frames up to {through} were dropped before they were delivered")]
    Dropped {
        /// The last that is gone.
        through: u64,
    },
    /// The journal cannot be read.
    #[error("the journal cannot be read")]
    Failed(#[source] Box<dyn std::error::Error + Send + Sync>),
}

/// Which words a body prints for metrics and units.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Vocabulary {
    /// Open Wearables' codes and units.
    OpenWearables,
    /// Our keys and units.
    Own,
}

/// Gives the bodies of events. A promise: the same place gives the same bytes as
/// long as the payload is retained.
pub trait PayloadSource: fmt::Debug + Send + Sync {
    /// The payload at a place.
    ///
    /// # Errors
    /// [`PayloadFault`].
    fn open(&self, place: Place, decided_at: u64) -> Result<Box<dyn Payload>, PayloadFault>;

    /// The payload of several events of one series, drawn together in their order:
    /// of samples with the same key the last stays. Each with the frame that decided
    /// it.
    ///
    /// # Errors
    /// [`PayloadFault`]; [`PayloadFault::Gone`] or [`PayloadFault::Dropped`] if one of them is.
    fn open_joined(&self, members: &[(Place, u64)]) -> Result<Box<dyn Payload>, PayloadFault>;

    /// Whether the payload of a frame lies in memory, so that opening it reads no
    /// disk.
    fn is_at_hand(&self, sequence: u64) -> bool;

    /// Rises when something was erased for good: a payload that was opened before may hold
    /// it, though it does not say so any more.
    fn erasures(&self) -> u64 {
        0
    }
}

/// What an event says.
pub trait Payload: Send {
    /// When it was committed, RFC 3339 in UTC with milliseconds.
    fn timestamp(&self) -> &str;

    /// The same in milliseconds since 1970.
    fn timestamp_ms(&self) -> i64;

    /// The id its publisher brought, if it did.
    fn publisher_id(&self) -> Option<&str>;

    /// What it is called.
    fn topic(&self) -> TopicId;

    /// The user it is about, if it is about one.
    fn user(&self) -> Option<&str>;

    /// Whether it was erased since it was opened: asked before it is sent.
    fn is_erased(&self) -> bool {
        false
    }

    /// About how many bytes [`Payload::write_data`] will append.
    fn data_bytes(&self) -> usize;

    /// Appends the event's data, one JSON value; `thin` leaves the samples out.
    fn write_data(&self, vocabulary: Vocabulary, thin: bool, out: &mut Vec<u8>);
}

/// Why there is no payload.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PayloadFault {
    /// It was erased, or there is none; trying again does not help.
    #[error("the payload is gone")]
    Gone,
    /// It is no longer retained, which does not change either.
    #[error("the payload is no longer kept")]
    Dropped,
    /// It cannot be read now.
    #[error("the payload cannot be read")]
    Unreadable,
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    fn member(place: Place, joined: bool, cut: u8) -> Member {
        Member { place, ordinal: 0, decided_at: place.sequence, key: 1, joined, cut }
    }

    /// Events of one series in frames behind each other.
    fn drawn(first: Place, count: u64, cut: u8) -> Vec<Member> {
        let at = |index: u64| Place { sequence: first.sequence + index, ..first };
        (0..count).map(|index| member(at(index), index > 0, if index == 0 { cut } else { 0 })).collect()
    }

    #[test]
    fn what_begins_at_different_events_or_was_cut_anew_has_different_places() {
        let mut places = BTreeSet::new();
        for kind in [EventKind::Created, EventKind::Updated] {
            let first = Place { sequence: 9, group: (1 << 21) - 1, chunk: 0, kind };
            for cut in 0..=7 {
                let members = drawn(first, 2, cut);
                for (place, kind) in [
                    (Place::of_batch(&members, u32::from(cut)), EventKind::Batch),
                    (Place::of_drawn(&members), EventKind::Coalesced),
                ] {
                    assert_eq!((place.kind, place.cuts(), place.sequence), (kind, u32::from(cut), 9));
                    assert!(places.insert(place) && place.group < 1 << 24 && place.chunk < 1 << 12);
                }
            }
        }
    }

    #[test]
    fn more_or_fewer_events_drawn_together_have_another_place_and_lead_back_to_the_first() {
        for kind in [EventKind::Created, EventKind::Updated] {
            let first = Place { sequence: 1 << 40, group: 77, chunk: 0, kind };
            let places: BTreeSet<Place> =
                (2..=256).map(|count| Place::of_drawn(&drawn(first, count, 0))).collect();
            assert_eq!(places.len(), 255);
            assert!(places.iter().all(|place| (place.sequence, place.group) == (1 << 40, 77)));
            assert!(places.iter().all(|place| place.chunk < 1 << 12));
        }
    }

    #[test]
    fn what_erasures_leave_has_a_place_of_its_own() {
        let first = Place { sequence: 5, group: 0, chunk: 0, kind: EventKind::Created };
        // Of three the last is gone, or the second.
        let mut three = drawn(first, 3, 1);
        let without_last = Place::of_drawn(&three[..2]);
        three.remove(1);
        let places = [without_last, Place::of_drawn(&three), Place::of_drawn(&drawn(first, 2, 0))];
        assert_eq!(BTreeSet::from(places).len(), 3, "{places:?}");
    }

    #[test]
    fn a_batchs_place_stands_for_what_is_in_it() {
        let at = |sequence| {
            let place = Place { sequence, group: 1, chunk: 0, kind: EventKind::Created };
            member(place, false, 0)
        };
        let batch = Place::of_batch(&[at(1), at(2), at(3)], 0);
        assert_eq!(batch, Place::of_batch(&[at(1), at(2), at(3)], 0));
        let of_another_group = Member { place: Place { group: 2, ..at(3).place }, ..at(3) };
        let others = [
            Place::of_batch(&[at(1), at(2), at(3), at(4)], 0),
            Place::of_batch(&[at(1), at(3), at(2)], 0),
            Place::of_batch(&[at(1), at(2)], 0),
            Place::of_batch(&[at(1), at(2), of_another_group], 0),
            Place::of_batch(&[at(1), Member { joined: true, ..at(2) }, at(3)], 0),
        ];
        assert!(others.iter().all(|other| *other != batch && other.sequence == 1), "{others:?}");
    }
}
