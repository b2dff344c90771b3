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

use hashbrown::HashMap;

use crate::endpoint::{EndpointSettings, Timeseries};
use crate::event::EventKind;

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
    },
}

impl Topic {
    /// The name under which an endpoint gets an event, if it wants it.
    #[must_use]
    pub fn name_for(&self, endpoint: &EndpointSettings, kind: EventKind) -> Option<&str> {
        match self {
            Topic::Published { name } => wants(endpoint.filter_types.as_ref(), name).then_some(name),
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

    /// Every name it has.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        let names: Vec<&str> = match self {
            Topic::Published { name } => vec![name],
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

/// Every topic there is.
#[derive(Debug, Default)]
pub struct Topics {
    topics: Vec<Topic>,
    by_name: HashMap<String, Vec<TopicId>>,
}

impl Topics {
    /// Numbers topics in their order.
    ///
    /// # Panics
    /// If there are 4 billion of them.
    #[must_use]
    pub fn new(topics: Vec<Topic>) -> Topics {
        let mut by_name: HashMap<String, Vec<TopicId>> = HashMap::new();
        for (number, topic) in (0u32..).zip(&topics) {
            for name in topic.names() {
                by_name.entry_ref(name).or_default().push(TopicId(number));
            }
        }
        Topics { topics, by_name }
    }

    /// A topic.
    ///
    /// # Panics
    /// If the number comes from other topics.
    #[must_use]
    pub fn get(&self, id: TopicId) -> &Topic {
        &self.topics[id.0 as usize]
    }

    /// The topics that have this name: several for a group's.
    #[must_use]
    pub fn named(&self, name: &str) -> &[TopicId] {
        self.by_name.get(name).map_or(&[], Vec::as_slice)
    }

    /// Every name, in no order.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.by_name.keys().map(String::as_str)
    }
}
