//! What events are called, and what an endpoint's filter makes of it.
//!
//! A topic is what an event is about. Samples of one metric are one topic with up
//! to two base names: that of the metric's group (`heart_rate`) and its own
//! (`series.resting_heart_rate`), each with `.created` and `.updated`. A published
//! event's topic is its one name.
//!
//! An endpoint gets an event once, under one name: a granular name where its filter
//! has it or it asked for granular names, else the group's. Corrections come as
//! `.updated` to endpoints without a filter or whose filter has that name, as
//! `.created` to the others.

use std::collections::BTreeSet;
use std::sync::Arc;

use arc_swap::ArcSwap;
use parking_lot::Mutex;

use crate::endpoint::{EndpointSettings, Timeseries};
use crate::event::EventKind;
use crate::trie::Trie;

/// A topic's number; holds within one process only and never reaches the disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TopicId(pub u32);

/// A name of samples, for new ones and for corrections.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SeriesName {
    /// `heart_rate.created`
    pub created: String,
    /// `heart_rate.updated`
    pub updated: String,
}

impl SeriesName {
    /// Both names of a base, `heart_rate`.
    #[must_use]
    pub fn of(base: &str) -> SeriesName {
        SeriesName { created: format!("{base}.created"), updated: format!("{base}.updated") }
    }

    fn of_kind(&self, kind: EventKind) -> &str {
        if kind == EventKind::Updated { &self.updated } else { &self.created }
    }
}

/// What an event is about.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Topic {
    /// Samples of a metric.
    Series {
        /// Names of the metric's group, if it has one.
        group: Option<SeriesName>,
        /// The metric's own names.
        granular: SeriesName,
    },
    /// An event that a publisher hands in.
    Published {
        /// Its name.
        name: String,
        /// Goes only to endpoints whose filter names it.
        only_if_named: bool,
    },
}

impl Topic {
    /// The name under which an endpoint gets an event, if it wants it.
    #[must_use]
    pub fn name_for(&self, endpoint: &EndpointSettings, kind: EventKind) -> Option<&str> {
        match self {
            Topic::Published { name, only_if_named } => match &endpoint.filter_types {
                None if *only_if_named => None,
                filter => wants(filter.as_ref(), name).then_some(name),
            },
            Topic::Series { group, granular } => {
                let wanted = match &endpoint.filter_types {
                    None => (group.as_ref().unwrap_or(granular), kind),
                    Some(filter) => {
                        let named = |kind: EventKind| {
                            let names = [Some(granular), group.as_ref()].into_iter().flatten();
                            names.into_iter().find(|name| filter.contains(name.of_kind(kind)))
                        };
                        match named(kind) {
                            Some(name) => (name, kind),
                            None if kind == EventKind::Updated => {
                                (named(EventKind::Created)?, EventKind::Created)
                            }
                            None => return None,
                        }
                    }
                };
                let name = if endpoint.timeseries == Timeseries::Granular { granular } else { wanted.0 };
                Some(name.of_kind(wanted.1))
            }
        }
    }

    /// Its name where no endpoint says which: the group's, if there is one.
    #[must_use]
    pub fn name(&self, kind: EventKind) -> &str {
        match self {
            Topic::Published { name, .. } => name,
            Topic::Series { group, granular } => group.as_ref().unwrap_or(granular).of_kind(kind),
        }
    }

    /// Whether an event of this kind goes by a name.
    #[must_use]
    pub fn is_named(&self, kind: EventKind, name: &str) -> bool {
        match self {
            Topic::Published { name: own, .. } => own == name,
            Topic::Series { group, granular } => {
                let mut names = [group.as_ref(), Some(granular)].into_iter().flatten();
                names.any(|own| own.of_kind(kind) == name)
            }
        }
    }

    /// Whether it goes only to endpoints whose filter names it.
    #[must_use]
    pub fn is_only_if_named(&self) -> bool {
        matches!(self, Topic::Published { only_if_named: true, .. })
    }

    /// The name that it shares with the fewest: a metric's own, not its group's.
    fn own_name(&self) -> &str {
        match self {
            Topic::Published { name, .. } => name,
            Topic::Series { granular, .. } => &granular.created,
        }
    }

    /// Every name it has.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        let names: Vec<&str> = match self {
            Topic::Published { name, .. } => vec![name],
            Topic::Series { group, granular } => {
                let names = [group.as_ref(), Some(granular)].into_iter().flatten();
                names.flat_map(|name| [name.created.as_str(), name.updated.as_str()]).collect()
            }
        };
        names.into_iter()
    }
}

fn wants(filter: Option<&BTreeSet<String>>, name: &str) -> bool {
    filter.is_none_or(|filter| filter.contains(name))
}

/// Every topic there is: those known from the start, and those that came later, which
/// stay. Reads take no lock. What comes later is found by its name and shares the rest with
/// the version before, so it costs the same however many there are: an organisation has
/// metrics of its own, and there may be thousands of organisations.
#[derive(Debug, Default)]
pub struct Topics {
    known: Table,
    /// Their numbers go on where those of `known` end.
    added: ArcSwap<Table>,
    /// Held while some are added.
    adding: Mutex<()>,
}

/// Topics of a chunk. One more copies the links of the chunk that is not full, and one link
/// of each other chunk: with 20,000 topics at most 255 and 78.
const CHUNK: usize = 256;

/// A version of a table: a change makes a new one and shares what it does not copy.
#[derive(Clone, Debug, Default)]
struct Table {
    /// All of them full but the last.
    chunks: Vec<Arc<Vec<Arc<Topic>>>>,
    by_name: Trie<Arc<str>, Arc<[TopicId]>>,
}

impl Topics {
    /// Numbers topics in their order.
    ///
    /// # Panics
    /// If there are 4 billion of them.
    #[must_use]
    pub fn new(topics: Vec<Topic>) -> Topics {
        let mut known = Table::default();
        for topic in topics {
            known.push(0, topic);
        }
        Topics { known, added: ArcSwap::default(), adding: Mutex::default() }
    }

    /// Adds a topic, or finds the one that is there.
    ///
    /// # Panics
    /// If there are 4 billion of them.
    pub fn add(&self, topic: Topic) -> TopicId {
        let _adding = self.adding.lock();
        let added = self.added.load();
        if let Some(id) = added.find(self.known.len(), &topic) {
            return id;
        }
        let mut more = Table::clone(&added);
        let id = more.push(self.known.len(), topic);
        self.added.store(Arc::new(more));
        id
    }

    /// Adds topics, or finds those that are there, each as [`Topics::add`] does, in one
    /// version; returns their numbers in the same order.
    ///
    /// # Panics
    /// If there are 4 billion of them.
    pub fn add_all(&self, topics: impl IntoIterator<Item = Topic>) -> Vec<TopicId> {
        let _adding = self.adding.lock();
        let first = self.known.len();
        let mut more = Table::clone(&self.added.load());
        let add = |topic| more.find(first, &topic).unwrap_or_else(|| more.push(first, topic));
        let ids = topics.into_iter().map(add).collect();
        self.added.store(Arc::new(more));
        ids
    }

    /// A topic.
    ///
    /// # Panics
    /// If the number comes from other topics.
    #[must_use]
    pub fn get(&self, id: TopicId) -> Arc<Topic> {
        let place = id.0 as usize;
        match place.checked_sub(self.known.len()) {
            None => self.known.get(place).clone(),
            Some(place) => self.added.load().get(place).clone(),
        }
    }

    /// Whether a topic was there from the start.
    #[must_use]
    pub fn is_known_from_the_start(&self, id: TopicId) -> bool {
        (id.0 as usize) < self.known.len()
    }

    /// The topics that have this name: several for a group's.
    #[must_use]
    pub fn named(&self, name: &str) -> Vec<TopicId> {
        let added = self.added.load();
        let tables = [&self.known, &**added];
        tables.iter().flat_map(|table| table.named(name)).copied().collect()
    }

    /// Every name that was there from the start, in no order.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        let mut names = Vec::with_capacity(self.known.by_name.len());
        self.known.by_name.for_each(|name, _| names.push(&**name));
        names.into_iter()
    }
}

impl Table {
    fn len(&self) -> usize {
        self.chunks.last().map_or(0, |last| (self.chunks.len() - 1) * CHUNK + last.len())
    }

    fn get(&self, place: usize) -> &Arc<Topic> {
        &self.chunks[place / CHUNK][place % CHUNK]
    }

    fn named(&self, name: &str) -> &[TopicId] {
        self.by_name.get(name).map_or(&[], |ids| ids)
    }

    /// An equal topic; the first one has the number `first`. Few others have its own name.
    fn find(&self, first: usize, topic: &Topic) -> Option<TopicId> {
        let is_equal = |id: &&TopicId| **self.get(id.0 as usize - first) == *topic;
        self.named(topic.own_name()).iter().find(is_equal).copied()
    }

    /// Adds a topic behind the others; the first one has the number `first`. Copies the
    /// numbers of those that share a name with it, which are few: an own metric has no group.
    fn push(&mut self, first: usize, topic: Topic) -> TopicId {
        let id = number(first + self.len());
        for name in topic.names() {
            let named: Arc<[TopicId]> = self.named(name).iter().copied().chain([id]).collect();
            self.by_name = self.by_name.with(name.into(), named);
        }
        match self.chunks.last_mut().filter(|last| last.len() < CHUNK) {
            Some(last) => Arc::make_mut(last).push(Arc::new(topic)),
            None => self.chunks.push(Arc::new(vec![Arc::new(topic)])),
        }
        id
    }
}

fn number(place: usize) -> TopicId {
    TopicId(u32::try_from(place).expect("fewer than 4 billion topics"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dialect::Dialect;
    use crate::endpoint::Timeseries::{Granular, Group};
    use crate::event::EventKind::{Created, Published, Updated};

    fn endpoint(filter: Option<&[&str]>, timeseries: Timeseries) -> EndpointSettings {
        EndpointSettings {
            filter_types: filter.map(|names| names.iter().map(|name| (*name).to_owned()).collect()),
            timeseries,
            ..EndpointSettings::new(String::new(), Dialect::Standard)
        }
    }

    fn series(group: Option<&str>) -> Topic {
        Topic::Series { group: group.map(SeriesName::of), granular: SeriesName::of("series.g") }
    }

    type Case = (Option<&'static [&'static str]>, Timeseries, EventKind, Option<&'static str>);

    fn check(topic: &Topic, cases: &[Case]) {
        for (filter, timeseries, kind, expected) in cases {
            let endpoint = endpoint(*filter, *timeseries);
            assert_eq!(topic.name_for(&endpoint, *kind), *expected, "{filter:?} {timeseries:?} {kind:?}");
        }
    }

    const NONE: Option<&[&str]> = None;
    const GROUP_CREATED: Option<&[&str]> = Some(&["group.created"]);
    const GROUP_UPDATED: Option<&[&str]> = Some(&["group.updated"]);
    const GRANULAR_CREATED: Option<&[&str]> = Some(&["series.g.created"]);
    const GRANULAR_UPDATED: Option<&[&str]> = Some(&["series.g.updated"]);
    const BOTH_CREATED: Option<&[&str]> = Some(&["group.created", "series.g.created"]);
    const ELSE: Option<&[&str]> = Some(&["series.h.created"]);

    #[test]
    fn a_metric_of_a_group_has_the_name_that_filter_and_timeseries_give_it() {
        check(
            &series(Some("group")),
            &[
                (NONE, Group, Created, Some("group.created")),
                (NONE, Group, Updated, Some("group.updated")),
                (NONE, Granular, Created, Some("series.g.created")),
                (NONE, Granular, Updated, Some("series.g.updated")),
                (GROUP_CREATED, Group, Created, Some("group.created")),
                (GROUP_CREATED, Group, Updated, Some("group.created")),
                (GROUP_CREATED, Granular, Created, Some("series.g.created")),
                (GROUP_CREATED, Granular, Updated, Some("series.g.created")),
                (GRANULAR_CREATED, Group, Created, Some("series.g.created")),
                (GRANULAR_CREATED, Group, Updated, Some("series.g.created")),
                (GRANULAR_CREATED, Granular, Created, Some("series.g.created")),
                (GRANULAR_CREATED, Granular, Updated, Some("series.g.created")),
                (GROUP_UPDATED, Group, Created, None),
                (GROUP_UPDATED, Group, Updated, Some("group.updated")),
                (GROUP_UPDATED, Granular, Created, None),
                (GROUP_UPDATED, Granular, Updated, Some("series.g.updated")),
                (GRANULAR_UPDATED, Group, Created, None),
                (GRANULAR_UPDATED, Group, Updated, Some("series.g.updated")),
                (GRANULAR_UPDATED, Granular, Created, None),
                (GRANULAR_UPDATED, Granular, Updated, Some("series.g.updated")),
                (BOTH_CREATED, Group, Created, Some("series.g.created")),
                (BOTH_CREATED, Group, Updated, Some("series.g.created")),
                (BOTH_CREATED, Granular, Created, Some("series.g.created")),
                (BOTH_CREATED, Granular, Updated, Some("series.g.created")),
                (ELSE, Group, Created, None),
                (ELSE, Group, Updated, None),
                (ELSE, Granular, Created, None),
                (ELSE, Granular, Updated, None),
            ],
        );
    }

    /// The granular name asks for the granular name; the kind follows what is named.
    #[test]
    fn names_of_both_kinds_are_chosen_by_the_kind_first() {
        const CREATED_AND_UPDATED: Option<&[&str]> = Some(&["series.g.created", "group.updated"]);
        const GROUPS: Option<&[&str]> = Some(&["group.created", "group.updated"]);
        check(
            &series(Some("group")),
            &[
                (CREATED_AND_UPDATED, Group, Created, Some("series.g.created")),
                (CREATED_AND_UPDATED, Group, Updated, Some("group.updated")),
                (CREATED_AND_UPDATED, Granular, Updated, Some("series.g.updated")),
                (GROUPS, Group, Created, Some("group.created")),
                (GROUPS, Group, Updated, Some("group.updated")),
                (GROUPS, Granular, Updated, Some("series.g.updated")),
            ],
        );
    }

    #[test]
    fn a_metric_without_a_group_has_its_own_name_whatever_is_asked_for() {
        for timeseries in [Group, Granular] {
            check(
                &series(None),
                &[
                    (NONE, timeseries, Created, Some("series.g.created")),
                    (NONE, timeseries, Updated, Some("series.g.updated")),
                    (GRANULAR_CREATED, timeseries, Created, Some("series.g.created")),
                    (GRANULAR_CREATED, timeseries, Updated, Some("series.g.created")),
                    (GRANULAR_UPDATED, timeseries, Created, None),
                    (GRANULAR_UPDATED, timeseries, Updated, Some("series.g.updated")),
                    (GROUP_CREATED, timeseries, Created, None),
                    (GROUP_CREATED, timeseries, Updated, None),
                ],
            );
        }
    }

    #[test]
    fn a_published_event_has_its_one_name() {
        let topic = Topic::Published { name: "check_in.created".to_owned(), only_if_named: false };
        for timeseries in [Group, Granular] {
            check(
                &topic,
                &[
                    (NONE, timeseries, Published, Some("check_in.created")),
                    (Some(&["check_in.created", "x"]), timeseries, Published, Some("check_in.created")),
                    (ELSE, timeseries, Published, None),
                    (Some(&[]), timeseries, Published, None),
                ],
            );
        }
    }

    #[test]
    fn a_name_leads_to_every_topic_that_has_it() {
        let other =
            Topic::Series { group: Some(SeriesName::of("group")), granular: SeriesName::of("series.h") };
        let published = Topic::Published { name: "check_in.created".to_owned(), only_if_named: false };
        let topics = Topics::new(vec![series(Some("group")), other, published]);
        let cases: [(&str, &[u32]); 6] = [
            ("group.created", &[0, 1]),
            ("group.updated", &[0, 1]),
            ("series.g.created", &[0]),
            ("series.h.updated", &[1]),
            ("check_in.created", &[2]),
            ("check_in.updated", &[]),
        ];
        for (name, expected) in cases {
            let numbers: Vec<u32> = topics.named(name).iter().map(|topic| topic.0).collect();
            assert_eq!(numbers, expected, "{name}");
        }
        assert_eq!(topics.names().count(), 7);
    }

    #[test]
    fn topics_that_come_later_are_found_like_the_others_and_keep_their_numbers() {
        let topics = Topics::new(vec![series(Some("group"))]);
        let own = |name: &str| Topic::Series { group: None, granular: SeriesName::of(name) };
        let (first, second) = (topics.add(own("series.h")), topics.add(own("series.i")));
        assert_eq!((first, second), (TopicId(1), TopicId(2)));
        assert_eq!(topics.add(own("series.h")), first);
        assert_eq!(topics.named("series.i.updated"), [second]);
        assert_eq!(topics.named("group.created"), [TopicId(0)]);
        assert_eq!(*topics.get(second), own("series.i"));
        assert!(topics.is_known_from_the_start(TopicId(0)) && !topics.is_known_from_the_start(first));
        assert_eq!(topics.names().count(), 4);
    }

    fn own(number: usize) -> Topic {
        Topic::Series { group: None, granular: SeriesName::of(&format!("series.own_{number}")) }
    }

    #[test]
    fn topics_that_come_together_have_the_numbers_they_would_have_had_one_by_one() {
        let (one_by_one, together) = (Topics::new(vec![own(9_999)]), Topics::new(vec![own(9_999)]));
        let group = |number: usize| match own(number) {
            Topic::Series { granular, .. } => {
                Topic::Series { group: Some(SeriesName::of("group")), granular }
            }
            published @ Topic::Published { .. } => published,
        };
        // Each of the first comes again, and the last have the names of the first, in a group.
        let all = || (0..600).chain(0..300).map(own).chain((0..20).map(group)).chain([group(7)]);
        assert_eq!(together.add_all([own(3)]), [one_by_one.add(own(3))]);
        let ids: Vec<TopicId> = all().map(|topic| one_by_one.add(topic)).collect();
        assert_eq!(together.add_all(all()), ids);
        assert_eq!(ids.iter().max(), Some(&TopicId(620)));
        for (id, topic) in ids.into_iter().zip(all()) {
            assert_eq!((&*together.get(id), &*one_by_one.get(id)), (&topic, &topic));
        }
        for name in ["group.created", "series.own_7.updated", "series.own_9999.created", "series.own_600"] {
            assert_eq!(together.named(name), one_by_one.named(name), "{name}");
        }
        assert_eq!(together.named("group.created").len(), 20);
        assert_eq!(together.named("series.own_7.updated").len(), 2);
    }

    /// Entries and links of names that some work copies.
    fn copied(work: impl FnOnce()) -> usize {
        let before = crate::trie::copied();
        work();
        crate::trie::copied() - before
    }

    #[test]
    fn one_topic_more_costs_the_same_however_many_there_are() {
        const METRICS: usize = 20_000;
        let topics = Topics::default();
        // Two names each, a leaf and three branches a name, and now and then a leaf that is full.
        const EACH_MAX: usize = 2 * 4 * 16 + 16;
        let together = copied(|| drop(topics.add_all((0..METRICS).map(own))));
        assert!(together < METRICS * EACH_MAX, "{together}");
        let before = topics.added.load_full();
        assert_eq!(before.chunks.len(), METRICS.div_ceil(CHUNK));
        let again = copied(|| assert_eq!(topics.add(own(77)), TopicId(77)));
        assert_eq!(again, 0);
        assert!(Arc::ptr_eq(&before, &topics.added.load_full()));
        let one_more = copied(|| assert_eq!(topics.add(own(METRICS)).0 as usize, METRICS));
        assert!(one_more < 4 * EACH_MAX, "{one_more}");
        let after = topics.added.load_full();
        let shared = before.chunks.iter().zip(&after.chunks).filter(|(old, new)| Arc::ptr_eq(old, new));
        assert_eq!(shared.count(), before.chunks.len() - 1);
    }
}
