//! Events out of the journal, in commit order, with the classifier's verdicts.
//!
//! An event is one (user, source, metric) of one frame, in parts of at most
//! [`EVENT_SAMPLES_MAX`] samples; new and corrected samples are two events. A frame
//! whose `look` groups are not decided yet holds up the reader, so events come in the
//! order of commits. Verdicts stand behind their frames: a second cursor looks ahead
//! for them and holds at most one changes frame.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use systole_dispatch::event::{Cursor, EventLog, EventReader, ReadFault, Settled, Step, Wanted};
use systole_dispatch::notice::is_notice;
use systole_dispatch::{Event, EventKind, Place};
use systole_storage::Sequence;
use systole_storage::frame::{
    Change, Changes, EventFrame, Frame, Group, GroupChange, Mark, SamplesFrame, Verdict,
};
use systole_storage::journal::{FrameFilter, Log, LogCursor, LogError};
use xxhash_rust::xxh3::Xxh3;

use super::erased::ErasedNow;
use super::payload::{BACKFILL_AGE_MS, data_bytes, names_bytes};
use super::topics::EventTopics;
use crate::registry::Registries;

/// Most samples of one event's body: Open Wearables' limit, about 500 KB.
pub(super) const EVENT_SAMPLES_MAX: usize = 2500;
/// Frames read at a time.
const READ_BYTES: usize = 256 * 1024;
/// How long a waiting reader sleeps at most.
const WAIT: Duration = Duration::from_millis(500);

/// The journal as a log of events.
#[derive(Clone, Debug)]
pub(crate) struct JournalEvents {
    pub(crate) log: Arc<Log>,
    pub(crate) erased: ErasedNow,
    pub(crate) registries: Arc<Registries>,
    pub(crate) topics: Arc<EventTopics>,
}

impl EventLog for JournalEvents {
    fn reader(&self, from: Cursor) -> Box<dyn EventReader> {
        Box::new(self.reader_over(from, self.log.cursor(before(from)).keeping()))
    }

    fn reader_of(&self, from: Cursor, org: &str, user: Option<&str>) -> Box<dyn EventReader> {
        let filter = match user {
            Some(user) => FrameFilter::user(org, user),
            None => FrameFilter::org(org),
        };
        Box::new(self.reader_over(from, self.log.cursor_of(before(from), filter).keeping()))
    }

    fn wait(&self, seen: u64) -> bool {
        self.log.wait_beyond(Sequence(seen), WAIT);
        !self.log.is_stopped()
    }

    fn settle(&self) -> Settled {
        // It is asked all the time.
        self.log.let_go();
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let (head, ordering) = self.log.settle(u64::try_from(now.as_micros()).unwrap_or(u64::MAX));
        Settled { head: head.0, ordering }
    }

    fn committed_ms(&self, sequence: u64) -> Result<Option<i64>, ReadFault> {
        match self.log.frame(Sequence(sequence)) {
            Ok(frame) => Ok(Some(committed_ms(&frame))),
            // Dropped, or not there: the next one that is.
            Err(LogError::Gone { .. }) => {
                let after = self.log.removed().0.max(sequence.saturating_sub(1));
                let frames = self.log.cursor(Sequence(after)).next(1).map_err(fault)?;
                Ok(frames.first().map(committed_ms))
            }
            Err(other) => Err(fault(other)),
        }
    }
}

/// By the order of commits, so that it rises also over steps of the clock.
fn committed_ms(frame: &Frame) -> i64 {
    i64::try_from(frame.header().stamp.ordering / 1000).unwrap_or(i64::MAX)
}

/// One reader.
struct Reader {
    source: JournalEvents,
    frames: LogCursor,
    verdicts: Verdicts,
    /// Frames that were read and not looked at.
    ahead: VecDeque<Frame>,
    /// Events of the frame at `at`.
    events: VecDeque<Event>,
    at: Cursor,
    /// The head when it was asked last.
    seen: Sequence,
}

impl EventReader for Reader {
    fn next(&mut self, wanted: Wanted<'_>, through: Cursor) -> Result<Step, ReadFault> {
        if self.events.is_empty() {
            self.seen = self.source.log.head();
        }
        if !self.source.log.is_watched() && self.ahead.is_empty() && self.events.is_empty() {
            // Nobody has an endpoint, so nothing until here is an event.
            let head = self.source.log.head();
            self.frames.seek(head);
            self.at = self.at.max(Cursor::behind(head.0));
            return Ok(Step::Pause);
        }
        loop {
            if self.at >= through || self.source.log.is_stopped() {
                return Ok(Step::Pause);
            }
            if let Some(event) = self.events.pop_front() {
                self.at = Cursor { ordinal: event.ordinal + 1, ..event.cursor() };
                return Ok(Step::Event(event));
            }
            if self.ahead.is_empty() {
                self.ahead = self.frames.next(READ_BYTES).map_err(fault)?.into();
            }
            let Some(frame) = self.ahead.front() else {
                // Everything up to `through`, or to the head, was read.
                let end = Cursor::behind(self.frames.position().0).min(through);
                self.at = self.at.max(end);
                return Ok(Step::Pause);
            };
            let sequence = frame.sequence();
            let begin = Cursor { sequence: sequence.0, ordinal: 0 };
            if begin >= through {
                self.at = self.at.max(through);
                return Ok(Step::Pause);
            }
            if !self.read_frame(wanted)? {
                return Ok(Step::Pause);
            }
        }
    }

    fn cursor(&self) -> Cursor {
        self.at
    }

    fn seen(&self) -> u64 {
        self.seen.0
    }
}

impl Reader {
    /// Takes the next frame apart; false if its verdict is not there yet.
    fn read_frame(&mut self, wanted: Wanted<'_>) -> Result<bool, ReadFault> {
        let Some(frame) = self.ahead.front() else { return Ok(true) };
        let sequence = frame.sequence();
        let is_wanted = |org: &str| wanted(org).is_some_and(|since| sequence.0 > since);
        let mut events = VecDeque::new();
        match frame {
            Frame::Samples(samples) if is_wanted(samples.org()) => {
                let looks = samples.groups().any(|group| group.mark == Mark::Look);
                if looks && !self.verdicts.reach(sequence).map_err(fault)? {
                    return Ok(false);
                }
                let changes = if looks { self.verdicts.of(sequence) } else { None };
                self.source.events_of(samples, changes, &mut events);
            }
            Frame::Event(event) if is_wanted(event.org()) => {
                events.extend(self.source.event_of(event));
            }
            _ => {}
        }
        self.ahead.pop_front();
        // Those that were read before.
        if self.at.sequence == sequence.0 {
            let taken = self.at.ordinal;
            events.retain(|event| event.ordinal >= taken);
        }
        if events.is_empty() {
            self.at = Cursor::behind(sequence.0);
        }
        self.events = events;
        Ok(true)
    }
}

/// A look-ahead for changes frames.
#[derive(Debug)]
pub(super) struct Verdicts {
    cursor: LogCursor,
    found: VecDeque<Arc<Changes>>,
    /// Everything up to this is decided.
    through: Sequence,
}

impl Verdicts {
    /// Verdicts that stand behind a frame.
    pub(super) fn behind(log: &Arc<Log>, sequence: Sequence) -> Verdicts {
        Verdicts::of_cursor(log.cursor_of(sequence, FrameFilter::verdicts()))
    }

    fn of_cursor(cursor: LogCursor) -> Verdicts {
        Verdicts { cursor, found: VecDeque::new(), through: Sequence::ZERO }
    }

    /// Looks ahead until a frame is decided; false if it is not yet.
    pub(super) fn reach(&mut self, sequence: Sequence) -> Result<bool, LogError> {
        self.found.retain(|changes| changes.through >= sequence);
        while self.through < sequence {
            if self.cursor.position() < sequence {
                // Verdicts on it stand behind it.
                self.cursor.seek(sequence);
            }
            let frames = self.cursor.next(READ_BYTES)?;
            if frames.is_empty() {
                return Ok(false);
            }
            for frame in frames {
                if let Frame::Changes(_, changes) = frame {
                    self.through = self.through.max(changes.through);
                    self.found.push_back(changes);
                }
            }
        }
        Ok(true)
    }

    /// The changes frame that decided on a frame.
    pub(super) fn of(&self, sequence: Sequence) -> Option<Arc<Changes>> {
        let has = |changes: &&Arc<Changes>| {
            changes.groups.binary_search_by_key(&sequence, |group| group.sequence).is_ok()
        };
        self.found.iter().find(has).cloned()
    }
}

impl JournalEvents {
    fn reader_over(&self, from: Cursor, frames: LogCursor) -> Reader {
        let verdicts = self.log.cursor_of(before(from), FrameFilter::verdicts()).keeping();
        Reader {
            frames,
            verdicts: Verdicts::of_cursor(verdicts),
            source: self.clone(),
            ahead: VecDeque::new(),
            events: VecDeque::new(),
            at: from,
            seen: Sequence::ZERO,
        }
    }

    /// The events of a samples frame. `changes` is the verdict on its `look` groups.
    pub(super) fn events_of(
        &self,
        frame: &SamplesFrame,
        changes: Option<Arc<Changes>>,
        events: &mut VecDeque<Event>,
    ) {
        let stamp = frame.header().stamp;
        let org: Arc<str> = frame.org().into();
        let registry = self.registries.of(&org);
        let mut ordinal = 0;
        let mut first = 0;
        while first < frame.group_count() {
            let end = frame.event_groups(first).end;
            let group = frame.group(first);
            let metric = registry.resolve(group.metric).map(|(metric, _)| metric);
            if let Some(topic) = metric.and_then(|metric| self.topics.of_metric(&registry, metric)) {
                let user: Arc<str> = group.user.into();
                let backfill = is_history(frame, first..end);
                for (kind, change) in KINDS {
                    let rows = (first..end)
                        .map(|index| changed_rows(frame, index, changes.as_deref(), change))
                        .sum::<usize>();
                    let parts = rows.div_ceil(EVENT_SAMPLES_MAX);
                    if group.erased_rows > 0 {
                        // Counted, so that the frame's other events keep their ordinals.
                        ordinal += u32::try_from(parts).expect("a frame is at most 64 MiB");
                        continue;
                    }
                    let names = names_bytes(&group);
                    for chunk in 0..parts {
                        let samples = (rows - chunk * EVENT_SAMPLES_MAX).min(EVENT_SAMPLES_MAX);
                        events.push_back(Event {
                            org: org.clone(),
                            user: Some(user.clone()),
                            topic,
                            place: Place {
                                sequence: stamp.sequence.0,
                                group: u32::try_from(first).expect("a frame is at most 64 MiB"),
                                chunk: u16::try_from(chunk).unwrap_or(u16::MAX),
                                kind,
                            },
                            ordinal,
                            decided_at: changes.as_ref().map_or(stamp.sequence, |changes| changes.sequence).0,
                            key: key_of(&group),
                            ordering: stamp.ordering,
                            samples: u32::try_from(samples).expect("at most 2,500"),
                            bytes: u32::try_from(data_bytes(samples, names)).unwrap_or(u32::MAX),
                            backfill,
                            about: None,
                        });
                        ordinal += 1;
                    }
                }
            }
            first = end;
        }
    }

    /// The event of a published frame.
    pub(super) fn event_of(&self, frame: &EventFrame) -> Option<Event> {
        let sequence = frame.header().stamp.sequence.0;
        let topic = self.topics.of_event(frame.name())?;
        let about = if is_notice(frame.name()) { endpoint_of(frame.data()) } else { None };
        Some(Event {
            org: frame.org().into(),
            user: frame.user().map(Into::into),
            topic,
            place: Place { sequence, group: 0, chunk: 0, kind: EventKind::Published },
            ordinal: 0,
            decided_at: sequence,
            key: xxhash_rust::xxh3::xxh3_64(&sequence.to_le_bytes()),
            ordering: frame.header().stamp.ordering,
            samples: 0,
            bytes: u32::try_from(frame.data_bytes().len()).unwrap_or(u32::MAX),
            backfill: false,
            about,
        })
    }
}

/// The last sequence before a cursor's frame.
fn before(from: Cursor) -> Sequence {
    Sequence(from.sequence.saturating_sub(1))
}

const KINDS: [(EventKind, Change); 2] =
    [(EventKind::Created, Change::Created), (EventKind::Updated, Change::Updated)];

/// The verdict on a group of a frame.
pub(super) fn verdict_of(frame: &SamplesFrame, index: usize, changes: Option<&Changes>) -> Verdict {
    if frame.group(index).mark == Mark::New {
        return Verdict::All(Change::Created);
    }
    let sequence = frame.header().stamp.sequence;
    let Some(changes) = changes else { return Verdict::All(Change::Unchanged) };
    let key = |group: &GroupChange| (group.sequence, group.group as usize);
    match changes.groups.binary_search_by_key(&(sequence, index), key) {
        Ok(found) => changes.groups[found].verdict.clone(),
        Err(_) => Verdict::All(Change::Unchanged),
    }
}

fn changed_rows(frame: &SamplesFrame, index: usize, changes: Option<&Changes>, change: Change) -> usize {
    let group = frame.group(index);
    verdict_of(frame, index, changes).count(group.count.max(group.erased_rows), change)
}

/// Whether groups are history: marked so, or all their samples old when they came.
fn is_history(frame: &SamplesFrame, mut groups: std::ops::Range<usize>) -> bool {
    let header = frame.header();
    let oldest_ms = header.stamp.committed_at.div_euclid(1000) - BACKFILL_AGE_MS;
    header.is_backfill() || groups.all(|index| frame.group(index).latest < oldest_ms)
}

/// The endpoint that a notice is about.
fn endpoint_of(data: &str) -> Option<Arc<str>> {
    let data: serde_json::Value = serde_json::from_str(data).ok()?;
    data.get("endpoint_id")?.as_str().map(Into::into)
}

/// What is delivered one at a time.
fn key_of(group: &Group<'_>) -> u64 {
    let mut hasher = Xxh3::new();
    for part in [group.user, group.metric, group.source] {
        hasher.update(part.as_bytes());
        hasher.update(&[0]);
    }
    hasher.digest()
}

fn fault(error: LogError) -> ReadFault {
    match error {
        LogError::Gone { removed } => ReadFault::Dropped { through: removed.0 },
        other => ReadFault::Failed(Box::new(other)),
    }
}
