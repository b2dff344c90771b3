//! What the points of a request name, interned.
//!
//! A group is (user, metric, source, device): points that can replace each
//! other. A spelling is what leads to one, as it was sent: `HEART_RATE` in `Hz`
//! and `heart_rate` in `bpm` are two spellings of one group. Points of one
//! request mostly repeat the spelling of the point before them, or take turns
//! in a fixed order, so these two are compared before anything is hashed.
//!
//! All text lies in one arena. Nothing is allocated while a request holds no
//! more names than an earlier one.

use std::hash::BuildHasher;

use hashbrown::{DefaultHashBuilder, HashMap, HashTable};

use super::Point;
use super::validate::Rule;
use crate::registry::{Metric, MetricId};

/// Most bytes of names kept from one request to the next. A request of 500
/// points needs 500 KiB if each of them names everything anew, at full length.
const ARENA_BYTES_KEPT: usize = 1024 * 1024;

/// The spellings and groups of a request.
#[derive(Debug, Default)]
pub(super) struct Names {
    arena: String,
    spellings: Vec<Spelling>,
    groups: Vec<Group>,
    spelling_index: HashTable<u32>,
    group_index: HashTable<u32>,
    hasher: DefaultHashBuilder,
    /// The spelling of the last point.
    last: usize,
}

/// A spelling and what its points have to go through.
#[derive(Debug)]
struct Spelling {
    user: Span,
    metric: Span,
    unit: Span,
    source: Span,
    device: Option<Span>,
    hash: u64,
    /// The spelling that followed this one when it was used last.
    next: u32,
    group: u32,
    rule: Rule,
}

/// A group and its points so far.
#[derive(Debug)]
pub(super) struct Group {
    pub(super) user: Span,
    /// The metric's key and unit, not what was sent.
    pub(super) key: Span,
    pub(super) unit: Span,
    pub(super) source: Span,
    pub(super) device: Option<Span>,
    metric: MetricId,
    hash: u64,
    pub(super) count: u32,
    /// Time of its last point, milliseconds.
    latest: i64,
    /// Whether each of its points is later than the one before.
    pub(super) rising: bool,
}

/// A text in the arena.
#[derive(Clone, Copy, Debug)]
pub(super) struct Span {
    at: u32,
    bytes: u32,
}

/// What the names of a point lead to.
pub(super) enum Found<'a> {
    /// A spelling that was seen before.
    Seen(usize, &'a Rule),
    /// One that was not, and its hash.
    Unseen(u64),
}

impl Names {
    /// Forgets the names, keeps the memory unless it is unusually much.
    pub(super) fn clear(&mut self) {
        if self.arena.capacity() > ARENA_BYTES_KEPT {
            *self = Names::default();
            return;
        }
        self.arena.clear();
        self.spellings.clear();
        self.groups.clear();
        self.spelling_index.clear();
        self.group_index.clear();
        self.last = 0;
    }

    pub(super) fn groups(&self) -> &[Group] {
        &self.groups
    }

    /// Whether groups of one event, which differ only by device, stand apart.
    pub(super) fn scatter_events(&self) -> bool {
        let groups = &self.groups;
        if groups.len() < 3 || groups.iter().all(|group| group.device.is_none()) {
            return false;
        }
        let mut order = Vec::with_capacity(groups.len());
        self.in_event_order(&mut order);
        !order.is_sorted()
    }

    /// Appends the groups in the order in which their events came up first.
    pub(super) fn in_event_order(&self, order: &mut Vec<u32>) {
        order.extend(0..as_u32(self.groups.len()));
        if self.groups.iter().all(|group| group.device.is_none()) {
            return;
        }
        let mut firsts = HashMap::with_capacity(self.groups.len());
        for (index, group) in (0..).zip(&self.groups) {
            firsts.entry(self.event(group)).or_insert(index);
        }
        order.sort_by_key(|&index| firsts.get(&self.event(&self.groups[index as usize])).copied());
    }

    fn event(&self, group: &Group) -> (&str, u32, &str) {
        (self.text(group.user), group.metric.number(), self.text(group.source))
    }

    #[inline]
    pub(super) fn text(&self, span: Span) -> &str {
        &self.arena[span.at as usize..(span.at + span.bytes) as usize]
    }

    /// Looks for the spelling of `point`.
    #[inline]
    pub(super) fn find(&self, point: &Point<'_>) -> Found<'_> {
        if let Some(last) = self.spellings.get(self.last) {
            if self.is_spelt(last, point) {
                return Found::Seen(self.last, &last.rule);
            }
            let next = last.next as usize;
            if self.is_spelt(&self.spellings[next], point) {
                return Found::Seen(next, &self.spellings[next].rule);
            }
        }
        self.look_up(point)
    }

    /// Counts a point at `recorded_at` under a spelling that was found, and
    /// returns its group.
    #[inline]
    pub(super) fn count(&mut self, spelling: usize, recorded_at: i64) -> u32 {
        if spelling != self.last {
            self.spellings[self.last].next = as_u32(spelling);
            self.last = spelling;
        }
        let index = self.spellings[spelling].group;
        let group = &mut self.groups[index as usize];
        group.rising &= recorded_at > group.latest;
        group.latest = recorded_at;
        group.count += 1;
        index
    }

    /// Enters a spelling that was not seen before.
    pub(super) fn enter(
        &mut self,
        point: &Point<'_>,
        hash: u64,
        (id, metric): (MetricId, &Metric),
        rule: Rule,
    ) -> usize {
        let group = self.group(point, id, metric);
        let index = self.spellings.len();
        let Group { user, key, unit, source, device, .. } = self.groups[group as usize];
        let spelling = Spelling {
            user,
            metric: self.intern_like(point.metric, key),
            unit: self.intern_like(point.unit, unit),
            source,
            device,
            hash,
            next: as_u32(index),
            group,
            rule,
        };
        self.spellings.push(spelling);
        let spellings = &self.spellings;
        self.spelling_index.insert_unique(hash, as_u32(index), |&index| spellings[index as usize].hash);
        index
    }

    #[inline(never)]
    fn look_up(&self, point: &Point<'_>) -> Found<'_> {
        let Point { user, metric, unit, source, device, .. } = *point;
        let hash = self.hasher.hash_one((user, metric, unit, source, device));
        let same = |&index: &u32| self.is_spelt(&self.spellings[index as usize], point);
        match self.spelling_index.find(hash, same) {
            Some(&index) => Found::Seen(index as usize, &self.spellings[index as usize].rule),
            None => Found::Unseen(hash),
        }
    }

    #[inline]
    fn is_spelt(&self, spelling: &Spelling, point: &Point<'_>) -> bool {
        self.is(spelling.metric, point.metric)
            && self.is(spelling.user, point.user)
            && self.is(spelling.unit, point.unit)
            && self.is(spelling.source, point.source)
            && self.is_optional(spelling.device, point.device)
    }

    #[inline]
    fn is(&self, span: Span, text: &str) -> bool {
        let bytes = self.arena.as_bytes();
        span.bytes as usize == text.len()
            && bytes[span.at as usize..(span.at + span.bytes) as usize] == *text.as_bytes()
    }

    #[inline]
    fn is_optional(&self, span: Option<Span>, text: Option<&str>) -> bool {
        match (span, text) {
            (Some(span), Some(text)) => self.is(span, text),
            (None, None) => true,
            _ => false,
        }
    }

    /// The group of a point, entered if it is new.
    fn group(&mut self, point: &Point<'_>, id: MetricId, metric: &Metric) -> u32 {
        let Point { user, source, device, .. } = *point;
        let hash = self.hasher.hash_one((user, id, source, device));
        let same = |&index: &u32| {
            let group = &self.groups[index as usize];
            group.metric == id
                && self.is(group.user, user)
                && self.is(group.source, source)
                && self.is_optional(group.device, device)
        };
        if let Some(&index) = self.group_index.find(hash, same) {
            return index;
        }
        let index = as_u32(self.groups.len());
        let group = Group {
            user: self.intern(user),
            key: self.intern(&metric.key),
            unit: self.intern(&metric.unit),
            source: self.intern(source),
            device: device.map(|device| self.intern(device)),
            metric: id,
            hash,
            count: 0,
            latest: i64::MIN,
            rising: true,
        };
        self.groups.push(group);
        let groups = &self.groups;
        self.group_index.insert_unique(hash, index, |&index| groups[index as usize].hash);
        index
    }

    /// A span that reads `text`: `span` if it does, else a new one.
    fn intern_like(&mut self, text: &str, span: Span) -> Span {
        if self.is(span, text) { span } else { self.intern(text) }
    }

    fn intern(&mut self, text: &str) -> Span {
        let span = Span { at: as_u32(self.arena.len()), bytes: as_u32(text.len()) };
        self.arena.push_str(text);
        span
    }
}

fn as_u32(number: usize) -> u32 {
    u32::try_from(number).expect("a request's body is at most 64 MiB")
}
