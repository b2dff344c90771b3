//! What events are called: the metrics' names and the published types, from the
//! registry and `data/event-types.tsv`.

use std::sync::Arc;

use arc_swap::ArcSwap;
use hashbrown::HashMap;
use systole_dispatch::notice::{ENDPOINT_DISABLED, MESSAGE_FAILED};
use systole_dispatch::topic::{SeriesName, Topic, TopicId, Topics};
use systole_dispatch::trie::Trie;

use crate::registry::{Metric, MetricId, Registries, Registry};

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

/// Topics and how metrics and names lead to them, of all organisations.
#[derive(Debug)]
pub(crate) struct EventTopics {
    topics: Arc<Topics>,
    /// Types that every organisation has.
    types: Vec<EventType>,
    /// Fields of a body of samples.
    sample_fields: Vec<String>,
    published: HashMap<String, TopicId>,
    /// What the server publishes itself about endpoints; nobody hands it in.
    notices: HashMap<String, TopicId>,
    /// By key. Organisations that define the same key share the topic: it is a name.
    own: ArcSwap<Trie<Arc<str>, TopicId>>,
}

impl EventTopics {
    /// The topics of the built-in metrics and of the published types.
    ///
    /// # Panics
    /// If the embedded table is malformed: our bug.
    pub(crate) fn new() -> EventTopics {
        let builtin = Registry::builtin();
        let mut types = parse(TYPES);
        let mut topics: Vec<Topic> = builtin.metrics().iter().map(series_topic).collect();
        let metrics = topics.len();
        let mut published = HashMap::new();
        for known in types.iter().filter(|known| known.published) {
            let id = TopicId(u32::try_from(topics.len()).expect("a few hundred topics"));
            published.insert(known.name.clone(), id);
            topics.push(Topic::Published { name: known.name.clone(), only_if_named: false });
        }
        let mut notices = HashMap::new();
        for name in [ENDPOINT_DISABLED, MESSAGE_FAILED] {
            let id = TopicId(u32::try_from(topics.len()).expect("a few hundred topics"));
            notices.insert(name.to_owned(), id);
            topics.push(Topic::Published { name: name.to_owned(), only_if_named: true });
            types.push(notice_type(name));
        }
        let samples = types.iter().find(|known| known.name == "heart_rate.created");
        let sample_fields = samples.map(|known| known.fields.clone()).unwrap_or_default();
        complete(&mut types, builtin.metrics(), &topics[..metrics], &sample_fields);
        let topics = Arc::new(Topics::new(topics));
        EventTopics { topics, types, sample_fields, published, notices, own: ArcSwap::default() }
    }

    /// Makes the topic of an organisation's own metric. Before samples of it can come.
    pub(crate) fn add_own(&self, metric: &Metric) {
        let id = self.topics.add(series_topic(metric));
        self.own.rcu(|own| own.with(metric.key.as_str().into(), id));
    }

    /// Makes the topics of all metrics that organisations have of their own. Before samples
    /// of them can come.
    pub(crate) fn add_all_own(&self, registries: &Registries) {
        let (mut keys, mut topics) = (Vec::<Arc<str>>::new(), Vec::new());
        registries.for_each_own(|metric| {
            keys.push(metric.key.as_str().into());
            topics.push(series_topic(metric));
        });
        let ids = self.topics.add_all(topics);
        self.own.rcu(|own| {
            let all = keys.iter().cloned().zip(ids.iter().copied());
            all.fold(Trie::clone(own), |own, (key, id)| own.with(key, id))
        });
    }

    /// All topics.
    pub(crate) fn topics(&self) -> &Arc<Topics> {
        &self.topics
    }

    /// The topic of a metric's samples.
    pub(crate) fn of_metric(&self, registry: &Registry, metric: MetricId) -> Option<TopicId> {
        if registry.is_own(metric) {
            return self.own.load().get(registry.metric(metric).key.as_str()).copied();
        }
        Some(TopicId(metric.number()))
    }

    /// The topic of a type that a publisher hands in.
    pub(crate) fn of_published(&self, name: &str) -> Option<TopicId> {
        self.published.get(name).copied()
    }

    /// The topic of a frame that holds one event.
    pub(crate) fn of_event(&self, name: &str) -> Option<TopicId> {
        self.of_published(name).or_else(|| self.notices.get(name).copied())
    }
}

/// What events are called in one organisation.
#[derive(Debug)]
pub struct EventCatalogue {
    topics: Arc<EventTopics>,
    registry: Arc<Registry>,
}

impl EventCatalogue {
    pub(crate) fn new(topics: Arc<EventTopics>, registry: Arc<Registry>) -> EventCatalogue {
        EventCatalogue { topics, registry }
    }

    /// Every type there is: documented ones first, those of the organisation's own
    /// metrics last.
    #[must_use]
    pub fn types(&self) -> Vec<EventType> {
        let own = self.registry.own_metrics();
        let topics: Vec<Topic> = own.iter().map(series_topic).collect();
        let mut types = self.topics.types.clone();
        complete(&mut types, own, &topics, &self.topics.sample_fields);
        types
    }

    /// Whether the organisation has metrics of its own; if not, its types, their schemas
    /// and their examples are those of any other that has none.
    #[must_use]
    pub fn has_own_metrics(&self) -> bool {
        !self.registry.own_metrics().is_empty()
    }

    /// The documented names of one system, in its document's order.
    #[must_use]
    pub fn names_of(&self, system: &str) -> Vec<&str> {
        let types = self.topics.types.iter().filter(|known| known.system == system);
        types.map(|known| known.name.as_str()).collect()
    }

    /// Whether an event of this type is handed in by a publisher.
    #[must_use]
    pub fn is_published(&self, name: &str) -> bool {
        self.topics.of_published(name).is_some()
    }

    /// Whether only the server itself publishes events of this type.
    #[must_use]
    pub fn is_notice(&self, name: &str) -> bool {
        self.topics.notices.contains_key(name)
    }

    /// Whether an endpoint's filter may name this type.
    #[must_use]
    pub fn has(&self, name: &str) -> bool {
        let topics = self.topics.topics();
        topics.named(name).iter().any(|topic| topics.is_known_from_the_start(*topic))
            || self.own_metric_of(name).is_some()
    }

    /// Up to three names close to one that is not known.
    #[must_use]
    pub fn nearest(&self, name: &str) -> Vec<String> {
        let own: Vec<Topic> = self.registry.own_metrics().iter().map(series_topic).collect();
        let names = self.topics.topics.names().chain(own.iter().flat_map(Topic::names));
        let mut close: Vec<(f64, &str)> = names
            .map(|known| (strsim::normalized_damerau_levenshtein(name, known), known))
            .filter(|(likeness, _)| *likeness > 0.6)
            .collect();
        close.sort_by(|a, b| b.0.total_cmp(&a.0).then(a.1.cmp(b.1)));
        close.into_iter().take(3).map(|(_, known)| known.to_owned()).collect()
    }

    /// A metric whose samples have this name.
    #[must_use]
    pub(crate) fn metric_of(&self, name: &str) -> Option<&Metric> {
        let topics = self.topics.topics.named(name);
        let builtin = topics.first().and_then(|topic| self.registry.metrics().get(topic.0 as usize));
        builtin.or_else(|| self.own_metric_of(name))
    }

    /// Every metric whose samples have this name, in the registry's order.
    pub(crate) fn metrics_of(&self, name: &str) -> Vec<&Metric> {
        let named = self.topics.topics.named(name);
        let builtin = named.iter().filter_map(|topic| self.registry.metrics().get(topic.0 as usize));
        let mut metrics: Vec<&Metric> = builtin.collect();
        metrics.extend(self.own_metric_of(name));
        metrics
    }

    /// A type whose events are not of samples, with its fields.
    pub(crate) fn event_type(&self, name: &str) -> Option<(TopicId, &EventType)> {
        let topic = self.topics.of_event(name)?;
        Some((topic, self.topics.types.iter().find(|known| known.name == name)?))
    }

    /// What names and numbers metrics.
    pub(crate) fn parts(&self) -> (Arc<Registry>, &EventTopics) {
        (self.registry.clone(), &self.topics)
    }

    fn own_metric_of(&self, name: &str) -> Option<&Metric> {
        let base = name.strip_suffix(".created").or_else(|| name.strip_suffix(".updated"))?;
        let (id, metric) = self.registry.resolve(base.strip_prefix("series.")?)?;
        self.registry.is_own(id).then_some(metric)
    }
}

/// A type that the server publishes itself.
fn notice_type(name: &str) -> EventType {
    let (description, fields): (&str, &[&str]) = if name == MESSAGE_FAILED {
        (
            "Deliveries to an endpoint were given up",
            &["message_id", "event_type", "message_count", "status_code", "error", "attempt_count"],
        )
    } else {
        ("An endpoint was switched off", &["reason", "failing_since"])
    };
    let own = fields.iter().map(|field| format!("data.{field}"));
    let fields = ["type", "timestamp", "data.endpoint_id"].map(str::to_owned).into_iter().chain(own);
    EventType {
        name: name.to_owned(),
        system: "systole".to_owned(),
        description: description.to_owned(),
        fields: fields.collect(),
        published: false,
    }
}

fn series_topic(metric: &Metric) -> Topic {
    let group = metric.event_group.as_deref().map(|name| name.strip_suffix(".created").unwrap_or(name));
    let own = metric.ow_code.as_deref().unwrap_or(&metric.key);
    Topic::Series { group: group.map(SeriesName::of), granular: SeriesName::of(&format!("series.{own}")) }
}

/// Adds the names that no documented system has: `.updated` of all, and
/// `.created` of metrics that Open Wearables lacks.
fn complete(types: &mut Vec<EventType>, metrics: &[Metric], topics: &[Topic], fields: &[String]) {
    let mut known: std::collections::HashSet<String> = types.iter().map(|known| known.name.clone()).collect();
    for (metric, topic) in metrics.iter().zip(topics) {
        let about = if metric.description.is_empty() { &metric.key } else { &metric.description };
        for name in topic.names() {
            if known.insert(name.to_owned()) {
                let what = if name.ends_with(".updated") { "Corrected" } else { "New" };
                types.push(EventType {
                    name: name.to_owned(),
                    system: "systole".to_owned(),
                    description: format!("{what} samples: {about}"),
                    fields: fields.to_vec(),
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
    use systole_storage::Catalog;

    use super::*;
    use crate::registry::Aggregate;

    #[test]
    fn every_documented_type_is_known_and_every_metric_has_its_names() {
        let (topics, registry) = (Arc::new(EventTopics::new()), Arc::new(Registry::builtin()));
        let catalogue = EventCatalogue::new(topics.clone(), registry.clone());
        let types = catalogue.types();
        let documented = types.iter().filter(|known| known.system != "systole");
        assert_eq!(documented.count(), 136);
        let unknown: Vec<&str> =
            types.iter().map(|known| known.name.as_str()).filter(|name| !catalogue.has(name)).collect();
        assert_eq!(unknown, Vec::<&str>::new());
        let (id, _) = registry.resolve("heart_rate").unwrap();
        let topic = topics.topics().get(topics.of_metric(&registry, id).unwrap());
        let names: Vec<&str> = topic.names().collect();
        assert!(names.contains(&"heart_rate.created") && names.contains(&"heart_rate.updated"), "{names:?}");
        assert_eq!(catalogue.nearest("heartrate.created").first().unwrap(), "heart_rate.created");
        assert!(catalogue.is_published("check_in.created"));
        assert!(!catalogue.is_published("heart_rate.created"));
        for notice in [ENDPOINT_DISABLED, MESSAGE_FAILED] {
            assert!(catalogue.has(notice) && catalogue.is_notice(notice) && !catalogue.is_published(notice));
        }
        assert!(catalogue.is_published("activity.created"));
    }

    #[test]
    fn own_metrics_of_a_start_have_the_topics_they_would_have_had_one_by_one() {
        let dir = tempfile::tempdir().unwrap();
        let catalog = Catalog::open(dir.path()).unwrap();
        let registries = Registries::load(&catalog).unwrap();
        let one_by_one = EventTopics::new();
        for (org, key) in [("acme", "mood_swing"), ("acme", "grip"), ("other", "mood_swing")] {
            let metric = Metric::own(key, "1", (0.0, 9.0), Aggregate::Mean);
            registries.add(&catalog, org, metric, |metric| one_by_one.add_own(metric)).unwrap();
        }
        let together = EventTopics::new();
        together.add_all_own(&registries);
        for topics in [&one_by_one, &together] {
            let of = |org: &str, key: &str| {
                let registry = registries.of(org);
                let (id, _) = registry.resolve(key).unwrap();
                topics.of_metric(&registry, id).unwrap()
            };
            // It is a name, and both have it.
            assert_eq!(of("acme", "mood_swing"), of("other", "mood_swing"));
            let topic = topics.topics().get(of("acme", "grip"));
            assert!(topic.names().any(|name| name == "series.grip.updated"));
            assert_eq!(topics.topics().named("series.mood_swing.created"), [of("other", "mood_swing")]);
            assert!(!topics.topics().is_known_from_the_start(of("acme", "grip")));
        }
    }
}
