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
            let lanes = self.topics.entry(*topic).or_default();
            if !lanes.last().is_some_and(|last| Arc::ptr_eq(last, lane)) {
                lanes.push(lane.clone());
            }
        }
    }
}
