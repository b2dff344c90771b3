//! Messages: an organisation's events, listed newest first and shown one by one.
//!
//! Constraints: nothing is kept for them, they are read out of the journal through its
//! indexes. An answer reads at most 16 MiB, so it may have fewer rows than
//! were asked for and not be the end. What was committed before the organisation's first
//! endpoint is no message, what was erased is none any more, and what is not classified
//! yet becomes one within milliseconds.
//!
//! An iterator is a place and a direction, enciphered as ids are: it shows neither order
//! nor volume, and stays good when rows go or come.

use std::collections::VecDeque;
use std::sync::Arc;

use systole_dispatch::dialect::{Dialect, Envelope};
use systole_dispatch::dispatcher::DispatchStats;
use systole_dispatch::event::{Cursor, ReadFault, Vocabulary};
use systole_dispatch::id::{EVENT_ID_PREFIX, IdCipher};
use systole_dispatch::{Event, EventKind, PayloadFault, PayloadSource, Place};
use systole_storage::Sequence;
use systole_storage::frame::{Changes, Frame, Mark};
use systole_storage::journal::{FrameFilter, LogError};

use super::attempt_ids::is_of_several;
use super::reader::{JournalEvents, Verdicts};
use super::webhooks::{Webhooks, now_ms};

/// Bytes of journal that one answer reads.
const READ_MAX: usize = 16 * 1024 * 1024;
/// Bytes read at a time.
const READ_BYTES: usize = 512 * 1024;
/// Begins an iterator.
const ITERATOR_PREFIX: &str = "itr_";
/// Marks places that are iterators, where the endpoint of an event's own id stands.
const OLDER: u32 = 1;
const NEWER: u32 = 2;

/// Which messages are asked for.
#[derive(Clone, Debug, Default)]
pub struct MessageQuery {
    /// Whose.
    pub org: String,
    /// About this user only.
    pub user: Option<String>,
    /// With this name only, the group's or the metric's own.
    pub event_type: Option<String>,
    /// Committed at or behind this, milliseconds since 1970.
    pub since_ms: Option<i64>,
    /// Committed before this, milliseconds since 1970.
    pub until_ms: Option<i64>,
    /// Rows at most.
    pub limit: usize,
    /// Where an earlier answer ended.
    pub iterator: Option<String>,
}

/// An event as it is listed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Message {
    /// `evt_...`
    pub id: String,
    /// The id its publisher gave it.
    pub event_id: Option<String>,
    /// The name of its group.
    pub event_type: String,
    /// The user it is about.
    pub user: Option<String>,
    /// When it was committed, milliseconds since 1970.
    pub created_at_ms: i64,
}

/// Some messages, newest first.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct MessagePage {
    /// The rows.
    pub messages: Vec<Message>,
    /// Leads to older ones.
    pub iterator: Option<String>,
    /// Leads to newer ones.
    pub prev_iterator: Option<String>,
    /// Whether there are no older ones.
    pub done: bool,
}

/// Why there is no message.
#[derive(Debug, thiserror::Error)]
pub enum MessageError {
    /// No such message in this organisation, or not for this caller.
    #[error("there is no such message")]
    Unknown,
    /// It was, and its payload is no longer kept.
    #[error("the message is older than payloads are kept")]
    Dropped,
    /// The id is of several events that one endpoint got together.
    #[error("this is the id of several events that were sent together; ask for the events in it")]
    Together,
    /// The iterator is none.
    #[error("this is no iterator of this list; take it as it came")]
    Iterator,
    /// The journal cannot be read.
    #[error("the journal cannot be read")]
    Journal(#[source] LogError),
    /// The payload cannot be read.
    #[error("the payload cannot be read")]
    Payload,
}

impl From<ReadFault> for MessageError {
    fn from(fault: ReadFault) -> MessageError {
        match fault {
            ReadFault::Dropped { .. } => MessageError::Dropped,
            ReadFault::Failed(_) => MessageError::Payload,
        }
    }
}

impl From<LogError> for MessageError {
    fn from(error: LogError) -> MessageError {
        match error {
            LogError::Gone { .. } => MessageError::Dropped,
            other => MessageError::Journal(other),
        }
    }
}

/// Where a page begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Step {
    /// With what comes before this.
    Older(Cursor),
    /// With this, going on to newer ones.
    Newer(Cursor),
}

impl Step {
    fn encode(self, ids: &IdCipher) -> String {
        let (cursor, direction) = match self {
            Step::Older(cursor) => (cursor, OLDER),
            Step::Newer(cursor) => (cursor, NEWER),
        };
        let place =
            Place { sequence: cursor.sequence, group: cursor.ordinal, chunk: 0, kind: EventKind::Published };
        ids.seal(place, direction).replacen(EVENT_ID_PREFIX, ITERATOR_PREFIX, 1)
    }

    fn decode(text: &str, ids: &IdCipher) -> Option<Step> {
        let id = text.strip_prefix(ITERATOR_PREFIX)?;
        let (place, direction) = ids.open(&format!("{EVENT_ID_PREFIX}{id}"))?;
        if place.kind != EventKind::Published || place.chunk != 0 {
            return None;
        }
        let cursor = Cursor { sequence: place.sequence, ordinal: place.group };
        match direction {
            OLDER => Some(Step::Older(cursor)),
            NEWER => Some(Step::Newer(cursor)),
            _ => None,
        }
    }
}

/// A message with what leads to its payload.
#[derive(Clone, Debug)]
pub struct FoundMessage {
    /// As it is listed.
    pub message: Message,
    /// As it is delivered.
    pub event: Event,
}

impl Webhooks {
    /// Messages of an organisation, newest first. Reads the journal: for a thread that
    /// may wait.
    ///
    /// # Errors
    /// [`MessageError::Iterator`], [`MessageError::Journal`].
    pub fn messages(&self, query: &MessageQuery) -> Result<MessagePage, MessageError> {
        let step = match &query.iterator {
            Some(text) => Some(Step::decode(text, &self.ids).ok_or(MessageError::Iterator)?),
            None => None,
        };
        let Some(since) = self.subscribed.since(&query.org) else {
            return Ok(MessagePage { done: true, ..MessagePage::default() });
        };
        // What was dropped may still lie in memory.
        let since = since.max(self.retained_behind()?.0);
        let end = self.subscribed.classified().min(self.log.head());
        let listing = Listing { webhooks: self, query, since, verdicts: None, rows: Vec::new() };
        match step {
            Some(Step::Newer(from)) => listing.newer(from, end),
            Some(Step::Older(before)) => listing.older(before.min(Cursor::behind(end.0)), true),
            None => listing.older(Cursor::behind(end.0), false),
        }
    }

    /// One message.
    ///
    /// # Errors
    /// [`MessageError`].
    pub fn message(&self, org: &str, user: Option<&str>, id: &str) -> Result<FoundMessage, MessageError> {
        let (place, endpoint) = self.ids.open(id).ok_or(MessageError::Unknown)?;
        let sequence = Sequence(place.sequence);
        let since = self.subscribed.since(org).ok_or(MessageError::Unknown)?;
        if sequence > self.log.head() || sequence.0 <= since {
            return Err(MessageError::Unknown);
        }
        if is_of_several(place.kind, endpoint) {
            return Err(MessageError::Together);
        }
        if sequence <= self.log.removed() {
            return Err(MessageError::Dropped);
        }
        let frame = match self.log.frame(sequence) {
            Ok(frame) => frame,
            Err(LogError::Gone { .. }) if sequence > self.log.removed() => return Err(MessageError::Unknown),
            Err(other) => return Err(other.into()),
        };
        if !FrameFilter::org(org).takes(&frame) {
            return Err(MessageError::Unknown);
        }
        let events = self.events.events_in(&frame, &mut None)?;
        let event = events.into_iter().find(|event| event.place == place && *event.org == *org);
        let event = event.ok_or(MessageError::Unknown)?;
        let others = user.is_some_and(|user| event.user.as_deref() != Some(user));
        if others || self.events.is_erased(&frame, &event) {
            return Err(MessageError::Unknown);
        }
        // Of what is young the rest need not be asked.
        if created_ms(&frame) < self.retained_since_ms() && sequence <= self.retained_behind()? {
            return Err(MessageError::Dropped);
        }
        Ok(FoundMessage { message: self.listed(&frame, &event), event })
    }

    /// What was committed before this is older than payloads are kept.
    pub(super) fn retained_since_ms(&self) -> i64 {
        now_ms().saturating_sub(i64::try_from(self.retention.as_millis()).unwrap_or(i64::MAX))
    }

    /// Payloads up to here are not retained: they were dropped, or are older than that and no
    /// delivery waits for them, though their segment may be there still. Where they go as soon
    /// as nobody waits for them, only what was dropped.
    pub(super) fn retained_behind(&self) -> Result<Sequence, ReadFault> {
        let (removed, floor) = (self.log.removed(), self.subscribed.floor());
        if self.retention.is_zero() || floor <= removed {
            return Ok(removed);
        }
        let first = self.committed_from(self.retained_since_ms())?;
        Ok(removed.max(floor.min(Sequence(first.sequence.saturating_sub(1)))))
    }

    /// What a receiver in the `standard` dialect gets of a message, all samples.
    ///
    /// # Errors
    /// [`MessageError`].
    pub fn message_body(&self, found: &FoundMessage) -> Result<Vec<u8>, MessageError> {
        let payload =
            self.events.open(found.event.place, found.event.decided_at).map_err(|fault| match fault {
                PayloadFault::Gone => MessageError::Unknown,
                PayloadFault::Dropped => MessageError::Dropped,
                PayloadFault::Unreadable => MessageError::Payload,
            })?;
        let envelope = Envelope {
            id: &found.message.id,
            publisher_id: payload.publisher_id(),
            name: &found.message.event_type,
            timestamp: payload.timestamp(),
            timestamp_ms: payload.timestamp_ms(),
            org: &found.event.org,
            attributes: None,
            send_organization_code: false,
        };
        let mut body = Vec::with_capacity(payload.data_bytes() + 256);
        let data = |out: &mut Vec<u8>| payload.write_data(Vocabulary::OpenWearables, false, out);
        Dialect::Standard.write_body(&envelope, data, &mut body);
        Ok(body)
    }

    /// How deliveries stand, and how far behind. Reads disk where somebody is far behind, once
    /// for as long as that one stays where it is.
    #[must_use]
    pub fn lag(&self) -> Lag {
        let stats = self.stats();
        let router_ms = self.age_ms(Sequence(stats.routed_sequence));
        let oldest = Sequence(stats.oldest_undecided.saturating_sub(1));
        Lag { stats, router_ms, lag_ms: self.age_ms(oldest) }
    }

    /// How long ago the first frame behind a position was committed, if there is one.
    fn age_ms(&self, position: Sequence) -> u64 {
        if position >= self.log.head() {
            return 0;
        }
        let position = position.max(self.log.removed());
        let mut known = self.ages.lock();
        let created = known.iter().flatten().find(|(at, _)| *at == position).map(|(_, created)| *created);
        let created = created.or_else(|| {
            let frames = self.log.cursor(position).next(1);
            let created = frames.ok().and_then(|frames| frames.first().map(created_ms))?;
            // Of the router and of the oldest lane.
            known.rotate_right(1);
            known[0] = Some((position, created));
            Some(created)
        });
        created.map_or(0, |created| u64::try_from(now_ms() - created).unwrap_or(0))
    }

    fn listed(&self, frame: &Frame, event: &Event) -> Message {
        let topic = self.topics.topics().get(event.topic);
        let event_id = match frame {
            Frame::Event(event) => event.id().map(str::to_owned),
            _ => None,
        };
        Message {
            id: self.ids.seal(event.place, 0),
            event_id,
            event_type: topic.name(event.place.kind).to_owned(),
            user: event.user.as_deref().map(str::to_owned),
            created_at_ms: created_ms(frame),
        }
    }
}

/// How deliveries stand, and how far behind.
#[derive(Clone, Copy, Debug)]
pub struct Lag {
    /// How they stand.
    pub stats: DispatchStats,
    /// How long ago the oldest frame was committed that is not routed yet, in milliseconds.
    pub router_ms: u64,
    /// The same of the oldest frame of which some endpoint has something that is neither
    /// delivered nor waits for a retry.
    pub lag_ms: u64,
}

/// One page on its way.
struct Listing<'a> {
    webhooks: &'a Webhooks,
    query: &'a MessageQuery,
    /// What the organisation's first endpoint begins behind, or what was dropped.
    since: u64,
    verdicts: Option<Verdicts>,
    rows: Vec<(Cursor, Message)>,
}

impl Listing<'_> {
    fn filter(&self) -> FrameFilter {
        let query = self.query;
        match &query.user {
            Some(user) => FrameFilter::user(&query.org, user),
            None => FrameFilter::org(&query.org),
        }
    }

    /// Messages before a place, from there back.
    fn older(mut self, before: Cursor, has_newer: bool) -> Result<MessagePage, MessageError> {
        let first = Sequence(before.sequence + u64::from(before.ordinal > 0));
        let until = self.query.until_ms.map_or(i64::MAX, |until| until.saturating_mul(1000));
        let mut cursor = self.webhooks.log.reversed(first, self.filter()).until(until);
        let (mut done, mut reads) = (false, READ_MAX / READ_BYTES);
        'reading: while !cursor.is_done() && reads > 0 && self.rows.len() < self.query.limit {
            reads -= 1;
            let frames = match cursor.next(READ_BYTES) {
                // What was dropped meanwhile is no more.
                Err(LogError::Gone { .. }) => {
                    done = true;
                    break;
                }
                read => read?,
            };
            for frame in frames {
                if frame.sequence().0 <= self.since {
                    done = true;
                    break 'reading;
                }
                let events = self.matching(&frame)?;
                for (at, message) in events.into_iter().rev().filter(|(at, _)| *at < before) {
                    if self.rows.len() == self.query.limit {
                        break 'reading;
                    }
                    self.rows.push((at, message));
                }
                if self.is_past(&frame) {
                    done = true;
                    break 'reading;
                }
            }
        }
        let full = self.rows.len() == self.query.limit;
        let ids = &self.webhooks.ids;
        let reached = Cursor { sequence: cursor.position().0, ordinal: 0 };
        let last = self.rows.last().map_or(before, |(at, _)| *at);
        let older = if full { last } else { reached.min(last) };
        let newest = self.rows.first().map_or(before, |(at, _)| Cursor { ordinal: at.ordinal + 1, ..*at });
        Ok(MessagePage {
            iterator: Some(Step::Older(older).encode(ids)),
            prev_iterator: has_newer.then(|| Step::Newer(newest).encode(ids)),
            done: !full && (done || cursor.is_done()) || full && self.is_last(last)?,
            messages: self.rows.into_iter().map(|(_, message)| message).collect(),
        })
    }

    /// Whether no frame of the organisation is kept before a full page's last row; false
    /// where that takes more than a look.
    fn is_last(&self, last: Cursor) -> Result<bool, MessageError> {
        if last.ordinal > 0 {
            return Ok(false);
        }
        let mut cursor = self.webhooks.log.reversed(Sequence(last.sequence), self.filter());
        let frames = match cursor.next(1) {
            // What came before was dropped meanwhile.
            Err(LogError::Gone { .. }) => return Ok(true),
            read => read?,
        };
        Ok(frames.first().map_or(cursor.is_done(), |frame| frame.sequence().0 <= self.since))
    }

    /// Messages from a place on, as far as a page goes.
    fn newer(mut self, from: Cursor, end: Sequence) -> Result<MessagePage, MessageError> {
        let after = Sequence(from.sequence.saturating_sub(1))
            .max(self.webhooks.log.removed())
            .max(Sequence(self.since));
        let mut cursor = self.webhooks.log.cursor_of(after, self.filter());
        let (mut reached, mut reads) = (from, READ_MAX / READ_BYTES);
        'reading: while reads > 0 && cursor.position() < end {
            reads -= 1;
            let frames = match cursor.next(READ_BYTES) {
                Err(LogError::Gone { removed }) => {
                    cursor.seek(removed);
                    continue;
                }
                read => read?,
            };
            if frames.is_empty() {
                break;
            }
            for frame in frames.into_iter().take_while(|frame| frame.sequence() <= end) {
                for (at, message) in self.matching(&frame)?.into_iter().filter(|(at, _)| *at >= from) {
                    if self.rows.len() == self.query.limit {
                        break 'reading;
                    }
                    reached = Cursor { ordinal: at.ordinal + 1, ..at };
                    self.rows.push((at, message));
                }
                reached = reached.max(Cursor::behind(frame.sequence().0));
            }
        }
        let ids = &self.webhooks.ids;
        let older = self.rows.first().map_or(from, |(at, _)| *at);
        Ok(MessagePage {
            iterator: Some(Step::Older(older).encode(ids)),
            prev_iterator: Some(Step::Newer(reached).encode(ids)),
            done: false,
            messages: self.rows.into_iter().rev().map(|(_, message)| message).collect(),
        })
    }

    /// The events of a frame that the query asks for, in their order.
    fn matching(&mut self, frame: &Frame) -> Result<Vec<(Cursor, Message)>, MessageError> {
        let query = self.query;
        let created = created_ms(frame);
        let too_old = query.since_ms.is_some_and(|since| created < since);
        if too_old || query.until_ms.is_some_and(|until| created >= until) {
            return Ok(Vec::new());
        }
        if !self.filter().takes(frame) {
            return Ok(Vec::new());
        }
        let webhooks = self.webhooks;
        let events = webhooks.events.events_in(frame, &mut self.verdicts)?;
        let topics = webhooks.topics.topics();
        let wanted = |event: &Event| {
            *event.org == *query.org
                && query.user.as_deref().is_none_or(|user| event.user.as_deref() == Some(user))
                && query
                    .event_type
                    .as_deref()
                    .is_none_or(|name| topics.get(event.topic).is_named(event.place.kind, name))
                && !webhooks.events.is_erased(frame, event)
        };
        let events = events.into_iter().filter(wanted);
        Ok(events.map(|event| (event.cursor(), webhooks.listed(frame, &event))).collect())
    }

    /// Whether no frame before this one can be asked for any more: an hour is left for
    /// clocks that were set back.
    fn is_past(&self, frame: &Frame) -> bool {
        const CLOCK_STEP_MS: i64 = 3_600_000;
        self.query.since_ms.is_some_and(|since| created_ms(frame) < since.saturating_sub(CLOCK_STEP_MS))
    }
}

impl JournalEvents {
    /// The events of a frame; none while its verdict is not there. `known` keeps verdicts
    /// from one call to the next.
    fn events_in(&self, frame: &Frame, known: &mut Option<Verdicts>) -> Result<VecDeque<Event>, LogError> {
        let mut events = VecDeque::new();
        match frame {
            Frame::Samples(samples) => {
                let looks = samples.groups().any(|group| group.mark == Mark::Look);
                let changes = if looks { self.verdict(frame.sequence(), known)? } else { None };
                if !looks || changes.is_some() {
                    self.events_of(samples, changes, &mut events);
                }
            }
            Frame::Event(event) => events.extend(self.event_of(event)),
            _ => {}
        }
        Ok(events)
    }

    fn verdict(
        &self,
        sequence: Sequence,
        known: &mut Option<Verdicts>,
    ) -> Result<Option<Arc<Changes>>, LogError> {
        if let Some(changes) = known.as_ref().and_then(|verdicts| verdicts.of(sequence)) {
            return Ok(Some(changes));
        }
        let verdicts = known.insert(Verdicts::behind(&self.log, sequence));
        Ok(if verdicts.reach(sequence)? { verdicts.of(sequence) } else { None })
    }

    /// Whether an event of a frame was erased.
    fn is_erased(&self, frame: &Frame, event: &Event) -> bool {
        match frame {
            Frame::Samples(samples) => self.erased.groups(samples, event.place.group as usize),
            Frame::Event(event) => self.erased.event(event),
            _ => true,
        }
    }
}

fn created_ms(frame: &Frame) -> i64 {
    frame.header().stamp.committed_at.div_euclid(1000)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn iterators_come_back_and_other_ids_are_none() {
        let ids = IdCipher::new([7; 16]);
        let cursor = Cursor { sequence: 1 << 40, ordinal: 12 };
        for step in [Step::Older(cursor), Step::Newer(cursor), Step::Older(Cursor::default())] {
            let text = step.encode(&ids);
            assert!(text.starts_with("itr_") && text.len() == 30, "{text}");
            assert_eq!(Step::decode(&text, &ids), Some(step));
            assert_eq!(Step::decode(&text.replace("itr_", "evt_"), &ids), None);
            assert_eq!(Step::decode(&text, &IdCipher::new([8; 16])), None);
        }
        let place = Place { sequence: 3, group: 0, chunk: 0, kind: EventKind::Published };
        let id = ids.seal(place, 0).replace("evt_", "itr_");
        assert_eq!(Step::decode(&id, &ids), None);
        for text in ["", "itr_", "itr_00000000000000000000000000"] {
            assert_eq!(Step::decode(text, &ids), None, "{text}");
        }
    }
}
