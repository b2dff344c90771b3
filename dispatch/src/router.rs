//! From an event to the lanes that want it, by an index: organisation, then user,
//! then topic. An organisation without endpoints costs one lookup a frame.

use std::sync::Arc;

use hashbrown::HashMap;

use crate::event::{Event, EventKind};
use crate::lane::Lane;
use crate::topic::{TopicId, Topics};

/// Which lanes want what; immutable, replaced as a whole.
#[derive(Debug, Default)]
pub struct Routes {
    orgs: HashMap<Arc<str>, OrgRoutes>,
}

#[derive(Debug, Default)]
struct OrgRoutes {
    /// Lanes for events of any user.
    everyone: Subscribers,
    users: HashMap<String, Subscribers>,
}

#[derive(Debug, Default)]
struct Subscribers {
    /// Lanes without a filter.
    everything: Vec<Arc<Lane>>,
    topics: HashMap<TopicId, Vec<Arc<Lane>>>,
}

impl Routes {
    /// An index of the lanes that take events.
    #[must_use]
    pub fn new<'a>(lanes: impl IntoIterator<Item = &'a Arc<Lane>>, topics: &Topics) -> Routes {
        let mut routes = Routes::default();
        for lane in lanes {
            let config = lane.config();
            let settings = &config.settings;
            if !settings.active {
                continue;
            }
            let org = routes.orgs.entry(lane.org.clone()).or_default();
            let subscribers = match &settings.user_id {
                Some(user) => org.users.entry_ref(user.as_str()).or_default(),
                None => &mut org.everyone,
            };
            subscribers.add(lane, settings.filter_types.as_ref(), topics);
        }
        routes
    }

    /// Whether an organisation has a lane that takes events.
    #[must_use]
    pub fn has_org(&self, org: &str) -> bool {
        self.orgs.contains_key(org)
    }

    /// Calls `each` for the lanes that want an event, once each.
    pub fn for_each(&self, event: &Event, topics: &Topics, mut each: impl FnMut(&Arc<Lane>)) {
        let Some(org) = self.orgs.get(&*event.org) else { return };
        let of_user = event.user.as_deref().and_then(|user| org.users.get(user));
        for subscribers in [Some(&org.everyone), of_user].into_iter().flatten() {
            subscribers.everything.iter().for_each(&mut each);
            for lane in subscribers.topics.get(&event.topic).into_iter().flatten() {
                // A filter may name only what is new, or only corrections.
                let unnamed = event.place.kind != EventKind::Published
                    && topics.get(event.topic).name_for(&lane.config().settings, event.place.kind).is_none();
                if !unnamed {
                    each(lane);
                }
            }
        }
    }
}

impl Subscribers {
    fn add(
        &mut self,
        lane: &Arc<Lane>,
        filter: Option<&std::collections::BTreeSet<String>>,
        topics: &Topics,
    ) {
        let Some(filter) = filter else {
            self.everything.push(lane.clone());
            return;
        };
        for topic in filter.iter().flat_map(|name| topics.named(name)) {
            let lanes = self.topics.entry(topic).or_default();
            if !lanes.last().is_some_and(|last| Arc::ptr_eq(last, lane)) {
                lanes.push(lane.clone());
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use hyper::HeaderMap;

    use super::*;
    use crate::dialect::Dialect;
    use crate::endpoint::EndpointSettings;
    use crate::event::{Cursor, Place};
    use crate::lane::LaneConfig;
    use crate::signer::{Secret, Signer};
    use crate::target::Targets;
    use crate::topic::{SeriesName, Topic};

    const HEART_RATE: TopicId = TopicId(0);
    const RESTING: TopicId = TopicId(1);
    const GLUCOSE: TopicId = TopicId(2);
    const CHECK_IN: TopicId = TopicId(3);

    fn topics() -> Topics {
        let series = |group: Option<&str>, granular| Topic::Series {
            group: group.map(SeriesName::of),
            granular: SeriesName::of(granular),
        };
        Topics::new(vec![
            series(Some("heart_rate"), "series.heart_rate"),
            series(Some("heart_rate"), "series.resting_heart_rate"),
            series(None, "series.glucose"),
            Topic::Published { name: "check_in.created".to_owned() },
        ])
    }

    fn lane(id: &str, org: &str, user: Option<&str>, filter: &[&str], active: bool) -> Arc<Lane> {
        let filter: BTreeSet<String> = filter.iter().map(|name| (*name).to_owned()).collect();
        let settings = EndpointSettings {
            filter_types: Some(filter).filter(|filter| !filter.is_empty()),
            user_id: user.map(str::to_owned),
            active,
            ..EndpointSettings::new("https://example.com/".to_owned(), Dialect::Standard)
        };
        let config = LaneConfig {
            target: Targets::default().check_url(&settings.url).unwrap(),
            signer: Signer::new(Dialect::Standard, &Secret::generate(Dialect::Standard).unwrap()).unwrap(),
            headers: HeaderMap::new(),
            settings,
        };
        Arc::new(Lane::new(id.to_owned(), org.into(), config, Cursor::default()))
    }

    fn event(org: &str, user: Option<&str>, topic: TopicId, kind: EventKind) -> Event {
        Event {
            org: org.into(),
            user: user.map(Into::into),
            topic,
            place: Place { sequence: 1, group: 0, chunk: 0, kind },
            ordinal: 0,
            decided_at: 1,
            key: 0,
        }
    }

    fn reached(routes: &Routes, topics: &Topics, event: &Event) -> Vec<String> {
        let mut reached = Vec::new();
        routes.for_each(event, topics, |lane| reached.push(lane.id.clone()));
        reached.sort_unstable();
        reached
    }

    /// Organisation, user, topic and kind of an event, and the lanes that want it.
    type Case<'a> = (&'a str, Option<&'a str>, TopicId, EventKind, &'a [&'a str]);

    #[test]
    fn an_event_reaches_the_lanes_that_want_it_once_each() {
        let topics = topics();
        let lanes = [
            lane("all", "o", None, &[], true),
            lane("bound", "o", Some("u"), &[], true),
            lane("both", "o", None, &["heart_rate.created", "series.heart_rate.created"], true),
            lane("corrections", "o", None, &["heart_rate.updated", "series.glucose.updated"], true),
            lane("named", "o", Some("u"), &["check_in.created", "series.glucose.created"], true),
            lane("nothing", "o", None, &["unheard_of.created"], true),
            lane("off", "o", None, &[], false),
            lane("other", "p", None, &[], true),
        ];
        let routes = Routes::new(&lanes, &topics);
        let (created, updated) = (EventKind::Created, EventKind::Updated);
        let cases: [Case<'_>; 12] = [
            ("o", None, HEART_RATE, created, &["all", "both"]),
            ("o", Some("u"), HEART_RATE, created, &["all", "both", "bound"]),
            ("o", Some("v"), RESTING, created, &["all", "both"]),
            ("o", Some("u"), RESTING, updated, &["all", "both", "bound", "corrections"]),
            ("o", Some("v"), GLUCOSE, created, &["all"]),
            ("o", Some("u"), GLUCOSE, created, &["all", "bound", "named"]),
            ("o", Some("u"), GLUCOSE, updated, &["all", "bound", "corrections", "named"]),
            ("o", Some("u"), CHECK_IN, EventKind::Published, &["all", "bound", "named"]),
            ("o", None, CHECK_IN, EventKind::Published, &["all"]),
            ("p", Some("u"), HEART_RATE, created, &["other"]),
            ("p", None, CHECK_IN, EventKind::Published, &["other"]),
            ("q", Some("u"), HEART_RATE, created, &[]),
        ];
        for (org, user, topic, kind, expected) in cases {
            let event = event(org, user, topic, kind);
            assert_eq!(reached(&routes, &topics, &event), expected, "{event:?}");
        }
    }

    #[test]
    fn only_organisations_with_a_lane_that_takes_events_are_looked_at() {
        let lanes = [lane("on", "o", Some("u"), &[], true), lane("off", "p", None, &[], false)];
        let routes = Routes::new(&lanes, &topics());
        assert_eq!(["o", "p", "q"].map(|org| routes.has_org(org)), [true, false, false]);
    }

    #[test]
    fn the_index_and_the_lanes_own_settings_agree() {
        let topics = topics();
        let names: Vec<&str> = topics.names().collect();
        let lanes: Vec<Arc<Lane>> = (0..1u32 << names.len())
            .map(|set| {
                let filter: Vec<&str> = names
                    .iter()
                    .enumerate()
                    .filter(|(bit, _)| set >> bit & 1 == 1)
                    .map(|(_, name)| *name)
                    .collect();
                lane(&format!("{set:03}"), "o", None, &filter, true)
            })
            .collect();
        let routes = Routes::new(&lanes, &topics);
        for topic in (0..4).map(TopicId) {
            for kind in [EventKind::Created, EventKind::Updated, EventKind::Published] {
                if (kind == EventKind::Published) != (topic == CHECK_IN) {
                    continue;
                }
                let wanting = lanes
                    .iter()
                    .filter(|lane| topics.get(topic).name_for(&lane.config().settings, kind).is_some());
                let wanting: Vec<String> = wanting.map(|lane| lane.id.clone()).collect();
                let event = event("o", None, topic, kind);
                assert_eq!(reached(&routes, &topics, &event), wanting, "{event:?}");
            }
        }
    }
}
