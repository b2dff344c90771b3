//! Requests that carry several events, or several drawn together.

use std::collections::BTreeSet;
use std::sync::Arc;

use super::job::{Job, Origin};
use crate::event::{Cursor, EventKind, Member, Place};
use crate::ledger::Exception;

/// The events of a request that carries several, or several drawn together.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Carried {
    pub(super) members: Arc<[Member]>,
    /// Each key of the members once.
    keys: Vec<u64>,
    /// Of a first attempt: where its events come from, and how many of each.
    origins: Vec<(Origin, u32)>,
    /// The exception it was before something of it went.
    was: Option<Place>,
}

impl Job {
    /// One request of several first attempts; of one it is that one.
    ///
    /// # Panics
    /// If there are none.
    pub(super) fn batch(mut jobs: Vec<Job>) -> Job {
        if jobs.len() == 1 {
            return jobs.swap_remove(0);
        }
        // So the first is the one that needs the journal the longest.
        jobs.sort_by_key(Job::begins_at);
        let first = jobs[0].clone();
        let members: Vec<Member> = jobs.iter().flat_map(Job::members).collect();
        let place = Place::of_batch(&members, 0);
        let origins = jobs.iter().flat_map(Job::origins).collect();
        let quiet = jobs.iter().all(|job| job.quiet);
        let carried = Carried { origins, ..Carried::of(members.into()) };
        let keys_held = carried.keys.len();
        Job { place, keys_held, quiet, carried: Some(Box::new(carried)), ..first }
    }

    /// The first event's place.
    pub(super) fn begins_at(&self) -> Place {
        self.carried.as_ref().map_or(self.place, |carried| carried.members[0].place)
    }

    /// The exception that it becomes if it is to be tried again, after so many attempts.
    pub(super) fn exception(&self, attempts: u32, due_at_ms: i64) -> Exception {
        Exception {
            place: self.place,
            ordinal: self.ordinal,
            decided_at: self.decided_at,
            key: self.key,
            attempts,
            due_at_ms,
            quiet: self.quiet,
            members: self.carried.as_ref().map(|carried| carried.members.clone()).unwrap_or_default(),
        }
    }

    /// The exception that it is, if it is one.
    pub(super) fn excepted_at(&self) -> Place {
        self.carried.as_ref().and_then(|carried| carried.was).unwrap_or(self.place)
    }

    /// What must not be in flight elsewhere.
    pub(super) fn keys(&self) -> &[u64] {
        match &self.carried {
            Some(carried) => &carried.keys,
            None => std::slice::from_ref(&self.key),
        }
    }

    /// Where its events come from, and how many of each.
    pub(super) fn origins(&self) -> Vec<(Origin, u32)> {
        match &self.carried {
            Some(carried) if !carried.origins.is_empty() => carried.origins.clone(),
            _ => vec![(self.origin, 1)],
        }
    }

    /// The committed events that it carries.
    pub(super) fn members(&self) -> Vec<Member> {
        match &self.carried {
            Some(carried) => carried.members.to_vec(),
            None => {
                let Job { place, ordinal, decided_at, key, .. } = *self;
                vec![Member { place, ordinal, decided_at, key, joined: false, cut: 0 }]
            }
        }
    }

    /// How many committed events it carries.
    pub(super) fn count(&self) -> usize {
        self.carried.as_ref().map_or(1, |carried| carried.members.len())
    }

    /// Whether it is the endpoint's own: a batch, or drawn together for it.
    pub(super) fn is_own(&self) -> bool {
        self.carried.is_some()
    }

    /// Cuts it anew without the members at these indices, which must not be all:
    /// under a new id, and so does each event of which something went.
    pub(super) fn cut_anew(&mut self, gone: &BTreeSet<usize>) {
        let Some(carried) = &mut self.carried else { return };
        let mut left: Vec<Member> = Vec::with_capacity(carried.members.len());
        let mut index = 0;
        for event in carried.members.chunk_by(|_, next| next.joined) {
            let indices = index..index + event.len();
            index = indices.end;
            let cut = event[0].cut + u8::from(gone.range(indices.clone()).next().is_some());
            let kept = indices.zip(event).filter(|(index, _)| !gone.contains(index));
            let kept = kept.enumerate().map(|(place, (_, member))| Member {
                joined: place > 0,
                cut: if place == 0 { cut } else { 0 },
                ..*member
            });
            left.extend(kept);
        }
        let Member { ordinal, decided_at, key, .. } = left[0];
        let was = carried.was.unwrap_or(self.place);
        self.place = match self.place.kind {
            EventKind::Batch => Place::of_batch(&left, self.place.cuts() + 1),
            _ => Place::of_drawn(&left),
        };
        (self.ordinal, self.decided_at, self.key) = (ordinal, decided_at, key);
        // The keys stay in flight together, so they stay as they are.
        carried.members = left.into();
        carried.was = Some(was);
    }
}

impl Carried {
    fn of(members: Arc<[Member]>) -> Carried {
        let mut keys: Vec<u64> = members.iter().map(|member| member.key).collect();
        keys.sort_unstable();
        keys.dedup();
        Carried { members, keys, origins: Vec::new(), was: None }
    }

    /// What was drawn together under one ticket.
    pub(super) fn drawn(members: Vec<Member>, origin: Origin) -> Carried {
        let count = u32::try_from(members.len()).unwrap_or(u32::MAX);
        Carried { origins: vec![(origin, count)], ..Carried::of(members.into()) }
    }

    /// What an exception carries.
    pub(super) fn of_exception(exception: &Exception) -> Option<Box<Carried>> {
        let members = &exception.members;
        (!members.is_empty()).then(|| Box::new(Carried::of(members.clone())))
    }

    /// Its events, each with the index of its first member.
    pub(super) fn events(&self) -> impl Iterator<Item = (usize, &[Member])> {
        let mut index = 0;
        self.members.chunk_by(|_, next| next.joined).map(move |event| {
            let first = index;
            index += event.len();
            (first, event)
        })
    }
}

/// The place of an event that a request carries, and whether it is the endpoint's
/// own.
pub(super) fn event_place(members: &[Member]) -> (Place, bool) {
    let first = members[0];
    if members.len() == 1 && first.cut == 0 { (first.place, false) } else { (Place::of_drawn(members), true) }
}

/// Where a reader stands that reads a member next.
pub(super) fn cursor_of(member: &Member) -> Cursor {
    Cursor { sequence: member.place.sequence, ordinal: member.ordinal }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn member(sequence: u64, joined: bool) -> Member {
        let place = Place { sequence, group: 0, chunk: 0, kind: EventKind::Created };
        Member { place, ordinal: 0, decided_at: sequence, key: sequence % 2, joined, cut: 0 }
    }

    fn job(kind: EventKind, members: &[Member]) -> Job {
        let place = match kind {
            EventKind::Batch => Place::of_batch(members, 0),
            _ => Place::of_drawn(members),
        };
        let exception = Exception {
            place,
            ordinal: 0,
            decided_at: 1,
            key: 1,
            attempts: 2,
            due_at_ms: 0,
            quiet: false,
            members: members.into(),
        };
        Job::retry(&exception, 0)
    }

    #[test]
    fn what_is_cut_anew_has_another_place_each_time_and_keeps_what_is_whole() {
        // Two drawn together, one alone, three drawn together.
        let flags = [false, true, false, false, true, true];
        let members: Vec<Member> =
            (1..).zip(flags).map(|(sequence, joined)| member(sequence, joined)).collect();
        let mut job = job(EventKind::Batch, &members);
        let before = job.place;
        let ids = |job: &Job| -> Vec<(Place, bool)> {
            job.carried.as_ref().unwrap().events().map(|(_, members)| event_place(members)).collect()
        };
        let first = ids(&job);
        job.cut_anew(&BTreeSet::from([4]));
        let (second_place, second) = (job.place, ids(&job));
        assert_eq!((second.len(), &second[..2]), (3, &first[..2]));
        assert!(second[2] != first[2] && second[2].1);
        job.cut_anew(&BTreeSet::from([2, 3]));
        // One is left of the last event: it has the event's new id, not its own.
        let third = ids(&job);
        assert_eq!((third.len(), &third[0]), (2, &first[0]));
        assert!(third[1].1 && third[1] != second[2]);
        let places = BTreeSet::from([before, second_place, job.place]);
        assert_eq!((places.len(), job.excepted_at(), job.keys()), (3, before, [0, 1].as_slice()));
        let left = job.exception(3, 5).members;
        assert_eq!(left.iter().map(|member| member.place.sequence).collect::<Vec<_>>(), [1, 2, 6]);
    }

    #[test]
    fn events_drawn_together_keep_their_kind_when_they_are_cut_anew() {
        let mut job = job(EventKind::Coalesced, &[member(1, false), member(2, true), member(3, true)]);
        let before = job.place;
        job.cut_anew(&BTreeSet::from([2]));
        assert_eq!((job.place.kind, job.place.cuts(), job.place.sequence), (EventKind::Coalesced, 1, 1));
        assert_ne!(job.place, before);
        let carried = job.carried.as_ref().unwrap();
        let (_, event) = carried.events().next().unwrap();
        assert_eq!(event_place(event), (job.place, true));
    }
}
