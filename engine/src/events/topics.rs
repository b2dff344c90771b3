//! What events are called: the metrics' names and the published types, from the
//! registry and `data/event-types.tsv`.

use std::sync::Arc;

use hashbrown::HashMap;
use systole_dispatch::topic::{SeriesName, Topic, TopicId, Topics};

use crate::registry::{Metric, MetricId, Registry};

const TYPES: &str = include_str!("../../data/event-types.tsv");

/// An event type as the catalogue lists it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EventType {
    /// Unique name.
    pub name: String,
    /// Which documented system it comes from; `systole` for ours.
    pub system: String,
    /// What it is.
    pub description: String,
    /// Fields of its body, as paths.
    pub fields: Vec<String>,
    /// Whether an upstream hands it in; the others follow from samples.
    pub published: bool,
}

/// Topics and how metrics and names lead to them.
#[derive(Debug)]
pub struct EventCatalogue {
    topics: Arc<Topics>,
    types: Vec<EventType>,
    published: HashMap<String, TopicId>,
    metrics: usize,
}

impl EventCatalogue {
    /// The topics of a registry's metrics and of the published types.
    ///
    /// # Panics
    /// If the embedded table is malformed: our bug.
    #[must_use]
    pub fn new(registry: &Registry) -> EventCatalogue {
        let mut types = parse(TYPES);
        let mut topics: Vec<Topic> = registry.metrics().iter().map(series_topic).collect();
        let metrics = topics.len();
        let mut published = HashMap::new();
        for known in types.iter().filter(|known| known.published) {
            let id = TopicId(u32::try_from(topics.len()).expect("a few hundred topics"));
            published.insert(known.name.clone(), id);
            topics.push(Topic::Published { name: known.name.clone() });
        }
        complete(&mut types, registry, &topics[..metrics]);
        EventCatalogue { topics: Arc::new(Topics::new(topics)), types, published, metrics }
    }

    /// All topics.
    #[must_use]
    pub fn topics(&self) -> &Arc<Topics> {
        &self.topics
    }

    /// Every type there is, documented ones first.
    #[must_use]
    pub fn types(&self) -> &[EventType] {
        &self.types
    }

    /// The topic of a metric's samples.
    #[must_use]
    pub fn of_metric(&self, metric: MetricId) -> TopicId {
        TopicId(metric.number())
    }

    /// The topic of a published type.
    #[must_use]
    pub fn of_published(&self, name: &str) -> Option<TopicId> {
        self.published.get(name).copied()
    }

    /// The metric whose samples a topic is about.
    #[must_use]
    pub fn metric_of<'a>(&self, topic: TopicId, registry: &'a Registry) -> Option<&'a Metric> {
        registry.metrics()[..self.metrics].get(topic.0 as usize)
    }

    /// Whether an endpoint's filter may name this type.
    #[must_use]
    pub fn has(&self, name: &str) -> bool {
        !self.topics.named(name).is_empty()
    }

    /// Up to three names close to one that is not known.
    #[must_use]
    pub fn nearest(&self, name: &str) -> Vec<&str> {
        let mut close: Vec<(f64, &str)> = self
            .topics
            .names()
            .map(|known| (strsim::normalized_damerau_levenshtein(name, known), known))
            .filter(|(likeness, _)| *likeness > 0.6)
            .collect();
        close.sort_by(|a, b| b.0.total_cmp(&a.0).then(a.1.cmp(b.1)));
        close.into_iter().take(3).map(|(_, known)| known).collect()
    }
}

fn series_topic(metric: &Metric) -> Topic {
    let group = metric.event_group.as_deref().map(|name| name.strip_suffix(".created").unwrap_or(name));
    let own = metric.ow_code.as_deref().unwrap_or(&metric.key);
    Topic::Series { group: group.map(SeriesName::of), granular: SeriesName::of(&format!("series.{own}")) }
}

/// Adds the names that no documented system has: `.updated` of all, and
/// `.created` of metrics that Open Wearables lacks.
fn complete(types: &mut Vec<EventType>, registry: &Registry, topics: &[Topic]) {
    let mut known: std::collections::HashSet<String> = types.iter().map(|known| known.name.clone()).collect();
    let fields: Vec<String> = types
        .iter()
        .find(|known| known.name == "heart_rate.created")
        .map(|known| known.fields.clone())
        .unwrap_or_default();
    for (metric, topic) in registry.metrics().iter().zip(topics) {
        for name in topic.names() {
            if known.insert(name.to_owned()) {
                let what = if name.ends_with(".updated") { "Corrected" } else { "New" };
                types.push(EventType {
                    name: name.to_owned(),
                    system: "systole".to_owned(),
                    description: format!("{what} samples: {}", metric.description),
                    fields: fields.clone(),
                    published: false,
                });
            }
        }
    }
}

fn parse(table: &str) -> Vec<EventType> {
    let line = |line: &str| {
        let cells: Vec<&str> = line.split('\t').collect();
        let [name, system, _kind, trigger, fields, description] = cells[..] else {
            panic!("data/event-types.tsv: a line has {} cells", cells.len());
        };
        EventType {
            name: name.to_owned(),
            system: system.to_owned(),
            description: description.to_owned(),
            fields: fields.split(',').map(str::to_owned).collect(),
            published: trigger == "published",
        }
    };
    table.lines().skip(1).map(line).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_documented_type_is_known_and_every_metric_has_its_names() {
        let registry = Registry::builtin();
        let catalogue = EventCatalogue::new(&registry);
        let documented = catalogue.types().iter().filter(|known| known.system != "systole");
        assert_eq!(documented.count(), 136);
        let unknown: Vec<&str> = catalogue
            .types()
            .iter()
            .map(|known| known.name.as_str())
            .filter(|name| !catalogue.has(name))
            .collect();
        assert_eq!(unknown, Vec::<&str>::new());
        let (id, _) = registry.resolve("heart_rate").unwrap();
        let names: Vec<&str> = catalogue.topics().get(catalogue.of_metric(id)).names().collect();
        assert!(names.contains(&"heart_rate.created") && names.contains(&"heart_rate.updated"), "{names:?}");
        assert_eq!(catalogue.nearest("heartrate.created").first(), Some(&"heart_rate.created"));
        assert!(catalogue.of_published("check_in.created").is_some());
        assert!(catalogue.of_published("heart_rate.created").is_none());
    }
}
