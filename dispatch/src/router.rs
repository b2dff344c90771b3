//! From an event to the lanes that want it, by an index: organisation, then user,
//! then topic. An organisation without endpoints costs one lookup a frame.
//!
//! A change to one endpoint copies a path through the index and nothing else, so the
//! ten thousandth endpoint is made as fast as the first. Readers load one version and
//! see it whole: an endpoint that moves from one filter to another is never in both
//! nor in neither.

use std::sync::Arc;

use arc_swap::{ArcSwap, Guard};
use hashbrown::HashMap;
use parking_lot::Mutex;

use crate::event::{Event, EventKind};
use crate::lane::Lane;
use crate::topic::{TopicId, Topics};
use crate::trie::Trie;

/// The index that the router reads while endpoints come and go.
#[derive(Debug, Default)]
pub struct Router {
    routes: ArcSwap<Routes>,
    /// Where each lane stands in the index, by its id; held while that changes.
    places: Mutex<HashMap<String, Registration>>,
}

impl Router {
    /// An index of these lanes.
    #[must_use]
    pub fn new<'a>(lanes: impl IntoIterator<Item = &'a Arc<Lane>>, topics: &Topics) -> Router {
        let router = Router::default();
        {
            let mut places = router.places.lock();
            let mut routes = Routes::default();
            for lane in lanes {
                routes = moved(&routes, &mut places, lane, topics);
            }
            router.routes.store(Arc::new(routes));
        }
        router
    }

    /// Adds a lane, or puts it where its settings now want it.
    pub fn set(&self, lane: &Arc<Lane>, topics: &Topics) {
        let mut places = self.places.lock();
        let routes = moved(&self.routes.load(), &mut places, lane, topics);
        self.routes.store(Arc::new(routes));
    }

    /// Takes a lane out.
    pub fn remove(&self, id: &str) {
        let mut places = self.places.lock();
        if let Some(place) = places.remove(id) {
            self.routes.store(Arc::new(self.routes.load().without(id, &place)));
        }
    }

    /// The index as it is now.
    pub fn routes(&self) -> Guard<Arc<Routes>> {
        self.routes.load()
    }
}

/// Routes with a lane where its settings want it, and nowhere else.
fn moved(
    routes: &Routes,
    places: &mut HashMap<String, Registration>,
    lane: &Arc<Lane>,
    topics: &Topics,
) -> Routes {
    let before = places.remove(&lane.id);
    let routes = before.map_or_else(|| routes.clone(), |before| routes.without(&lane.id, &before));
    let Some(place) = Registration::of(lane, topics) else { return routes };
    let routes = routes.with(lane, &place);
    places.insert(lane.id.clone(), place);
    routes
}

/// Where a lane stands in the index.
#[derive(Debug)]
struct Registration {
    org: Arc<str>,
    user: Option<Arc<str>>,
    /// `None` for a lane without a filter.
    topics: Option<Vec<TopicId>>,
}

impl Registration {
    /// Where a lane's settings want it; nowhere if it takes nothing.
    fn of(lane: &Lane, topics: &Topics) -> Option<Registration> {
        let config = lane.config();
        let settings = &config.settings;
        let named = settings.filter_types.as_ref().map(|filter| {
            let mut named: Vec<TopicId> = filter.iter().flat_map(|name| topics.named(name)).collect();
            named.sort_unstable();
            named.dedup();
            named
        });
        settings.active.then(|| Registration {
            org: lane.org.clone(),
            user: settings.user_id.as_deref().map(Into::into),
            topics: named,
        })
    }
}

/// Which lanes want what, at one moment.
#[derive(Clone, Debug, Default)]
pub struct Routes {
    orgs: Trie<Arc<str>, OrgRoutes>,
}

#[derive(Clone, Debug, Default)]
struct OrgRoutes {
    /// Lanes for events of any user.
    everyone: Subscribers,
    users: Trie<Arc<str>, Subscribers>,
    /// Lanes of any kind.
    lanes: usize,
}

/// Lanes by the endpoint's id.
type Lanes = Trie<Arc<str>, Arc<Lane>>;

#[derive(Clone, Debug, Default)]
struct Subscribers {
    /// Lanes without a filter.
    everything: Lanes,
    topics: Trie<TopicId, Lanes>,
    /// Lanes of any kind.
    lanes: usize,
}

impl Routes {
    /// Whether an organisation has a lane that takes events.
    #[must_use]
    pub fn has_org(&self, org: &str) -> bool {
        self.orgs.get(org).is_some()
    }

    /// Calls `each` for the lanes that want an event, once each.
    pub fn for_each(&self, event: &Event, topics: &Topics, mut each: impl FnMut(&Arc<Lane>)) {
        let Some(org) = self.orgs.get(&*event.org) else { return };
        let of_user = event.user.as_deref().and_then(|user| org.users.get(user));
        for subscribers in [Some(&org.everyone), of_user].into_iter().flatten() {
            subscribers.everything.for_each(|_, lane| each(lane));
            let Some(named) = subscribers.topics.get(&event.topic) else { continue };
            named.for_each(|_, lane| {
                // A filter may name only what is new, or only corrections.
                let unnamed = event.place.kind != EventKind::Published
                    && topics.get(event.topic).name_for(&lane.config().settings, event.place.kind).is_none();
                if !unnamed {
                    each(lane);
                }
            });
        }
    }

    fn with(&self, lane: &Arc<Lane>, place: &Registration) -> Routes {
        let mut org = self.orgs.get(&*place.org).cloned().unwrap_or_default();
        org.lanes += 1;
        match &place.user {
            None => org.everyone = org.everyone.with(lane, place),
            Some(user) => {
                let subscribers = org.users.get(user).cloned().unwrap_or_default();
                org.users = org.users.with(user.clone(), subscribers.with(lane, place));
            }
        }
        Routes { orgs: self.orgs.with(place.org.clone(), org) }
    }

    /// Without a lane that was added at this place.
    fn without(&self, id: &str, place: &Registration) -> Routes {
        let Some(mut org) = self.orgs.get(&*place.org).cloned() else { return self.clone() };
        org.lanes -= 1;
        if org.lanes == 0 {
            return Routes { orgs: self.orgs.without(&*place.org) };
        }
        match &place.user {
            None => org.everyone = org.everyone.without(id, place),
            Some(user) => {
                if let Some(subscribers) = org.users.get(user).map(|known| known.without(id, place)) {
                    org.users = match subscribers.lanes {
                        0 => org.users.without(user),
                        _ => org.users.with(user.clone(), subscribers),
                    };
                }
            }
        }
        Routes { orgs: self.orgs.with(place.org.clone(), org) }
    }
}

impl Subscribers {
    fn with(&self, lane: &Arc<Lane>, place: &Registration) -> Subscribers {
        let id: Arc<str> = lane.id.as_str().into();
        let mut changed = Subscribers { lanes: self.lanes + 1, ..self.clone() };
        let Some(topics) = &place.topics else {
            changed.everything = self.everything.with(id, lane.clone());
            return changed;
        };
        for topic in topics {
            let lanes = changed.topics.get(topic).cloned().unwrap_or_default();
            changed.topics = changed.topics.with(*topic, lanes.with(id.clone(), lane.clone()));
        }
        changed
    }

    fn without(&self, id: &str, place: &Registration) -> Subscribers {
        let mut changed = Subscribers { lanes: self.lanes - 1, ..self.clone() };
        let Some(topics) = &place.topics else {
            changed.everything = self.everything.without(id);
            return changed;
        };
        for topic in topics {
            let Some(lanes) = changed.topics.get(topic).map(|lanes| lanes.without(id)) else { continue };
            changed.topics = match lanes.is_empty() {
                true => changed.topics.without(topic),
                false => changed.topics.with(*topic, lanes),
            };
        }
        changed
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
            number: 1,
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
            ordering: 0,
            samples: 1,
            bytes: 0,
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
        let router = Router::new(&lanes, &topics);
        let routes = router.routes();
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
        let router = Router::new(&lanes, &topics());
        let routes = router.routes();
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
        let router = Router::new(&lanes, &topics);
        let routes = router.routes();
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

    fn reconfigured(lane: &Arc<Lane>, user: Option<&str>, filter: &[&str], active: bool) {
        let mut config = LaneConfig::clone(&lane.config());
        let filter: BTreeSet<String> = filter.iter().map(|name| (*name).to_owned()).collect();
        config.settings.filter_types = Some(filter).filter(|filter| !filter.is_empty());
        config.settings.user_id = user.map(str::to_owned);
        config.settings.active = active;
        lane.reconfigure(config);
    }

    #[test]
    fn endpoints_that_come_change_and_go_leave_the_index_as_if_it_were_made_anew() {
        let topics = topics();
        let names: Vec<&str> = topics.names().collect();
        let (mut lanes, mut seed) = (std::collections::BTreeMap::<String, Arc<Lane>>::new(), 7u64);
        let mut below = |bound: u64| {
            seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (seed >> 33) % bound
        };
        let router = Router::default();
        for _ in 0..3000 {
            let id = format!("ep_{}", below(120));
            let org = if id.ends_with('7') { "p" } else { "o" };
            let user = [None, Some("u"), Some("v")][below(3) as usize];
            let filter: Vec<&str> = names.iter().filter(|_| below(3) == 0).copied().collect();
            let active = below(5) > 0;
            match (below(4), lanes.get(&id)) {
                (0, Some(_)) => {
                    lanes.remove(&id);
                    router.remove(&id);
                }
                (_, Some(known)) => {
                    reconfigured(known, user, &filter, active);
                    router.set(known, &topics);
                }
                (_, None) => {
                    let added = lane(&id, org, user, &filter, active);
                    router.set(&added, &topics);
                    lanes.insert(id, added);
                }
            }
        }
        let anew = Router::new(lanes.values(), &topics);
        for org in ["o", "p", "q"] {
            assert_eq!(router.routes().has_org(org), anew.routes().has_org(org));
            for user in [None, Some("u"), Some("v"), Some("w")] {
                for topic in [HEART_RATE, RESTING, GLUCOSE, CHECK_IN] {
                    let kind = if topic == CHECK_IN { EventKind::Published } else { EventKind::Created };
                    let event = event(org, user, topic, kind);
                    let expected = reached(&anew.routes(), &topics, &event);
                    assert_eq!(reached(&router.routes(), &topics, &event), expected, "{event:?}");
                }
            }
        }
        lanes.keys().for_each(|id| router.remove(id));
        assert!(router.routes().orgs.is_empty() && router.places.lock().is_empty());
    }

    /// What the thousandth and the ten thousandth endpoint cost, each in the worst of
    /// places: an organisation of its own, all in one, all of one user, all of one topic.
    #[test]
    fn ten_thousand_endpoints_cost_a_path_each() {
        type Make = fn(usize) -> Arc<Lane>;
        let makes: [Make; 4] = [
            |number| lane(&format!("ep_{number}"), &format!("o_{number}"), None, &[], true),
            |number| lane(&format!("ep_{number}"), "o", Some(&format!("u_{number}")), &[], true),
            |number| lane(&format!("ep_{number}"), "o", Some("u"), &["series.glucose.created"], true),
            |number| lane(&format!("ep_{number}"), "o", None, &[], true),
        ];
        let topics = topics();
        for make in makes {
            let router = Router::default();
            let cost = |router: &Router, lane: &Arc<Lane>| {
                let before = crate::trie::copied();
                router.set(lane, &topics);
                crate::trie::copied() - before
            };
            let costs: Vec<usize> = (0..10_000).map(|number| cost(&router, &make(number))).collect();
            let total: usize = costs.iter().sum();
            let most = costs.iter().max().copied().unwrap_or_default();
            assert!(total < 10_000 * 100 && most < 200, "{total} in all, {most} at most");
            let before = crate::trie::copied();
            router.remove("ep_5000");
            assert!(crate::trie::copied() - before < 200);
        }
    }
}
