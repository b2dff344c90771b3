//! What must not be seen any more although its bytes may still be there: erased
//! users, deleted ranges of one user or of all, and what is older than it is kept.
//!
//! Constraints: immutable, swapped as a whole with the snapshot; asking costs two
//! look-ups without allocation, nothing where an organisation hides nothing; each order
//! that waits for all users of an organisation costs a comparison more. Its size
//! is that of the orders that wait to be carried out, plus 16 bytes a blocked user. An
//! order more copies a 256th of those of its organisation; building it from many copies none.
//!
//! ```text
//! tombstone durable -> here (hidden from every read) -> bytes rewritten -> gone from here
//! ```
//!
//! Who writes: the committer, and recovery before it, add tombstones in commit order;
//! whoever carries them out takes them away. Who asks: queries, merges, payloads.

mod shards;

use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use hashbrown::{HashMap, HashSet};
use sha2::{Digest, Sha256};

use self::shards::Shards;
use crate::catalog::Dropped;
use crate::frame::{Erased, EventFrame, Group, SamplesFrame, Sequence, Tombstone};
use crate::series::LatestValue;

const DAY_MS: i64 = 86_400_000;
/// The metric of a rule for all metrics without one of their own.
pub const EVERY_METRIC: &str = "*";

/// How long an organisation keeps a metric.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RetentionRule {
    /// Canonical metric key, or [`EVERY_METRIC`].
    pub metric: String,
    /// Samples recorded longer ago are not shown; `None` keeps them for ever.
    pub days: Option<u32>,
}

/// What is hidden, by organisation.
#[derive(Clone, Debug, Default)]
pub struct Hidden {
    orgs: Shards<String, Arc<OrgHidden>>,
    /// Where no rule says; `None` keeps samples for ever.
    default_days: Option<u32>,
    /// Of any organisation samples recorded before this may have been dropped, when
    /// `default_days` was another number.
    dropped: Option<i64>,
}

#[derive(Clone, Debug, Default)]
struct OrgHidden {
    /// Orders that wait to be carried out, by the user whom they are about, in commit order.
    users: Shards<String, Vec<Arc<Tombstone>>>,
    /// Those about every user, in commit order.
    everyone: Vec<Arc<Tombstone>>,
    blocked: Arc<BlockedUsers>,
    retention: Arc<[RetentionRule]>,
    /// By metric, before when samples may have been dropped under rules of before.
    dropped: Arc<HashMap<String, i64>>,
}

/// Users of one organisation from whom nothing is taken any more. Their names are
/// not kept, only hashes of them.
#[derive(Clone, Debug, Default)]
pub struct BlockedUsers {
    org: String,
    hashes: Shards<UserHash, ()>,
}

/// What is kept of a blocked user's name.
pub type UserHash = [u8; 16];

/// The hash of a user's name. Not a secret: whoever guesses the name can check it.
#[must_use]
pub fn blocked_hash(org: &str, user: &str) -> UserHash {
    let mut hash = Sha256::new();
    for part in ["systole blocked user", org, user] {
        hash.update(part.as_bytes());
        hash.update([0]);
    }
    hash.finalize()[..16].try_into().expect("a hash is longer than its beginning")
}

impl BlockedUsers {
    /// Whether this user is one of them.
    #[must_use]
    pub fn contains(&self, user: &str) -> bool {
        !self.hashes.is_empty() && self.hashes.get(&blocked_hash(&self.org, user)).is_some()
    }
}

/// What is hidden of one user's metric; never empty.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hiding {
    /// Everything up to this sequence.
    through: Sequence,
    /// Parts of it.
    ranges: Vec<HiddenRange>,
    /// Everything recorded before this, milliseconds.
    cutoff: i64,
}

/// A part of a series that was deleted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HiddenRange {
    /// First millisecond.
    pub start: i64,
    /// First millisecond behind.
    pub end: i64,
    /// What came later is not covered.
    pub through: Sequence,
}

impl HiddenRange {
    /// Whether it covers a sample.
    #[must_use]
    pub fn hides(&self, recorded_at: i64, sequence: Sequence) -> bool {
        sequence <= self.through && self.start <= recorded_at && recorded_at < self.end
    }
}

impl Hiding {
    /// Whether a sample is hidden.
    #[must_use]
    pub fn hides(&self, recorded_at: i64, sequence: Sequence) -> bool {
        recorded_at < self.cutoff || self.erases(recorded_at, sequence)
    }

    /// Whether a sample is hidden for another reason than its age.
    #[must_use]
    pub fn erases(&self, recorded_at: i64, sequence: Sequence) -> bool {
        sequence <= self.through || self.ranges.iter().any(|range| range.hides(recorded_at, sequence))
    }

    /// Everything up to this sequence is hidden.
    #[must_use]
    pub fn through(&self) -> Sequence {
        self.through
    }

    /// Parts that were deleted.
    #[must_use]
    pub fn ranges(&self) -> &[HiddenRange] {
        &self.ranges
    }

    /// Everything recorded before this is hidden; `i64::MIN` if samples are kept for
    /// ever.
    #[must_use]
    pub fn cutoff(&self) -> i64 {
        self.cutoff
    }
}

impl Hidden {
    /// What some tombstones hide together.
    #[must_use]
    pub fn of_all(tombstones: &[Arc<Tombstone>]) -> Hidden {
        let mut hidden = Hidden::default();
        tombstones.iter().for_each(|tombstone| hidden.add(tombstone));
        hidden
    }

    /// This with another age of samples where no rule says.
    #[must_use]
    pub fn with_default_days(&self, default_days: Option<u32>) -> Hidden {
        Hidden { default_days, ..self.clone() }
    }

    /// What is hidden of a user's metric, `None` if nothing is.
    #[must_use]
    pub fn of(&self, org: &str, metric: &str, user: &str) -> Option<Hiding> {
        let cutoff = self.cutoff(org, metric);
        let mut hiding = Hiding { through: Sequence::ZERO, ranges: Vec::new(), cutoff };
        if let Some(known) = self.orgs.get(org) {
            for tombstone in known.about(user) {
                hiding.add(user, metric, tombstone);
            }
            if known.blocked.contains(user) {
                hiding.through = Sequence(u64::MAX);
            }
        }
        let hides = hiding.through > Sequence::ZERO || !hiding.ranges.is_empty() || hiding.cutoff > i64::MIN;
        hides.then_some(hiding)
    }

    /// Whether nothing but age hides samples of an organisation.
    #[must_use]
    pub fn is_empty(&self, org: &str) -> bool {
        self.orgs.get(org).is_none_or(|known| known.erases_nothing())
    }

    /// Samples of a metric recorded before this are hidden, milliseconds; `i64::MIN`
    /// if they are kept for ever.
    #[must_use]
    pub fn cutoff(&self, org: &str, metric: &str) -> i64 {
        match self.days(org, metric) {
            Some(days) => now_ms().saturating_sub(i64::from(days) * DAY_MS),
            None => i64::MIN,
        }
    }

    fn days(&self, org: &str, metric: &str) -> Option<u32> {
        let rules = self.orgs.get(org).map_or(&[][..], |known| &*known.retention);
        let rule = |metric: &str| rules.iter().find(|rule| rule.metric == metric);
        rule(metric).or_else(|| rule(EVERY_METRIC)).map_or(self.default_days, |rule| rule.days)
    }

    /// How long an organisation keeps what.
    #[must_use]
    pub fn retention(&self, org: &str) -> &[RetentionRule] {
        self.orgs.get(org).map_or(&[], |known| &*known.retention)
    }

    /// Whether a sample recorded then may have been dropped because of its age, now or under
    /// rules of before. It may also be there, hidden or not.
    #[must_use]
    pub fn may_be_dropped(&self, org: &str, metric: &str, recorded_at: i64) -> bool {
        let of_org = self.orgs.get(org).map(|known| &known.dropped);
        let of = |metric: &str| of_org.and_then(|dropped| dropped.get(metric)).copied();
        let before = [of(metric), of(EVERY_METRIC), self.dropped].into_iter().flatten().max();
        recorded_at < self.cutoff(org, metric) || before.is_some_and(|before| recorded_at < before)
    }

    /// Whether samples of an organisation may have been dropped because of their age.
    #[must_use]
    pub fn drops(&self, org: &str) -> bool {
        self.drops_by_default() || self.orgs.get(org).is_some_and(|known| known.drops())
    }

    /// Whether samples of any organisation may have been.
    #[must_use]
    pub fn drops_some(&self) -> bool {
        self.drops_by_default() || self.orgs.values().any(|known| known.drops())
    }

    fn drops_by_default(&self) -> bool {
        self.default_days.is_some() || self.dropped.is_some()
    }

    /// What may have been dropped under the present rules of an organisation.
    #[must_use]
    pub fn dropped_now(&self, org: &str) -> Vec<Dropped> {
        let rules = self.retention(org);
        let has_default = !rules.iter().any(|rule| rule.metric == EVERY_METRIC);
        let default = has_default.then_some((EVERY_METRIC, self.default_days));
        let all = rules.iter().map(|rule| (rule.metric.as_str(), rule.days)).chain(default);
        all.filter_map(|(metric, days)| Some(dropped_within(org, metric, days?))).collect()
    }

    /// Notes what may have been dropped. What was noted before stays if it reaches further.
    pub fn note_dropped(&mut self, all: &[Dropped]) {
        for Dropped { org, metric, before } in all {
            if org.is_empty() {
                self.dropped = self.dropped.max(Some(*before));
                continue;
            }
            let known = Arc::make_mut(&mut self.org_mut(org).dropped).entry_ref(metric).or_insert(*before);
            *known = (*known).max(*before);
        }
    }

    /// This as if samples were kept for ever.
    #[must_use]
    pub fn of_any_age(&self, org: &str) -> Hidden {
        let mut hidden = self.with_default_days(None);
        hidden.set_retention(org, &[]);
        hidden
    }

    /// How long samples are kept where no rule says.
    #[must_use]
    pub fn default_days(&self) -> Option<u32> {
        self.default_days
    }

    /// Whether a frame's content about a user, committed at `sequence`, was erased.
    #[must_use]
    pub fn hides_user(&self, org: &str, user: &str, sequence: Sequence) -> bool {
        let Some(known) = self.orgs.get(org) else { return false };
        let erases = |tombstone: &Arc<Tombstone>| {
            matches!(tombstone.erased, Erased::User { .. }) && sequence <= tombstone.sequence
        };
        known.users.get(user).is_some_and(|all| all.iter().any(erases)) || known.blocked.contains(user)
    }

    /// Whether a published event is about a user who was erased before or is blocked.
    #[must_use]
    pub fn hides_event(&self, frame: &EventFrame) -> bool {
        let sequence = frame.header().stamp.sequence;
        frame.user().is_some_and(|user| self.hides_user(frame.org(), user, sequence))
    }

    /// Whether a sample of a group is hidden for another reason than its age.
    #[must_use]
    pub fn hides_group(&self, frame: &SamplesFrame, group: &Group<'_>) -> bool {
        let Some(hiding) = self.of(frame.org(), group.metric, group.user) else { return false };
        let sequence = frame.header().stamp.sequence;
        let deleted = |row: usize| {
            let time = frame.recorded_at(row);
            hiding.ranges.iter().any(|range| range.hides(time, sequence))
        };
        sequence <= hiding.through || group.rows().any(deleted)
    }

    /// Whether the newest value of a user's metric lies in a range that is being deleted. The
    /// newest one that is left is then to be looked for.
    #[must_use]
    pub fn deletes(&self, org: &str, user: &str, newest: &LatestValue) -> bool {
        let covers = |tombstone: &Arc<Tombstone>| {
            matches!(tombstone.erased, Erased::Range { .. })
                && newest.sequence <= tombstone.sequence
                && tombstone.erased.covers(user, &newest.metric, newest.recorded_at)
        };
        self.orgs.get(org).is_some_and(|known| known.about(user).any(covers))
    }

    /// Users from whom nothing is taken; `None` if there are none.
    #[must_use]
    pub fn blocked(&self, org: &str) -> Option<Arc<BlockedUsers>> {
        let blocked = &self.orgs.get(org)?.blocked;
        (!blocked.hashes.is_empty()).then(|| blocked.clone())
    }

    /// Whether an order that waits to be carried out is about this user and no other.
    #[must_use]
    pub fn waits_for(&self, org: &str, user: &str) -> bool {
        self.orgs.get(org).is_some_and(|known| known.users.get(user).is_some())
    }

    /// An organisation's orders that wait to be carried out.
    pub fn waiting_of(&self, org: &str) -> impl Iterator<Item = &Arc<Tombstone>> {
        self.orgs.get(org).into_iter().flat_map(|known| known.waiting())
    }

    /// Every order that waits to be carried out.
    #[must_use]
    pub fn waiting(&self) -> Vec<Arc<Tombstone>> {
        let all = self.orgs.values().flat_map(|known| known.waiting());
        let mut waiting: Vec<Arc<Tombstone>> = all.cloned().collect();
        waiting.sort_by_key(|tombstone| tombstone.sequence);
        waiting
    }

    /// Hides what a tombstone covers. One that is there already changes nothing.
    pub fn add(&mut self, tombstone: &Arc<Tombstone>) {
        let known = self.org_mut(&tombstone.org);
        let all = match tombstone.erased.user() {
            Some(user) => known.users.or_default(user.to_owned()),
            None => &mut known.everyone,
        };
        if all.iter().all(|other| other.id != tombstone.id) {
            all.push(tombstone.clone());
        }
        if let Erased::User { user, block: true } = &tombstone.erased {
            known.block(blocked_hash(&tombstone.org, user), &tombstone.org);
        }
    }

    /// This, and what a tombstone covers.
    #[must_use]
    pub fn with(&self, tombstone: &Arc<Tombstone>) -> Hidden {
        let mut hidden = self.clone();
        hidden.add(tombstone);
        hidden
    }

    /// This without orders that were carried out; who is blocked stays blocked.
    #[must_use]
    pub fn without(&self, done: &[Arc<Tombstone>]) -> Hidden {
        let ids: HashSet<&str> = done.iter().map(|tombstone| tombstone.id.as_str()).collect();
        let orgs: HashSet<&str> = done.iter().map(|tombstone| tombstone.org.as_str()).collect();
        let mut hidden = self.clone();
        for org in orgs {
            hidden.org_mut(org).keep(|other| !ids.contains(other.id.as_str()));
        }
        hidden
    }

    /// As it was before a tombstone: what could be seen then of what it covers.
    #[must_use]
    pub fn before(&self, tombstone: &Tombstone) -> Hidden {
        let mut hidden = self.clone();
        let known = hidden.org_mut(&tombstone.org);
        known.keep(|other| other.sequence < tombstone.sequence);
        // It may be the one that blocks its user; one about all users blocks nobody.
        if tombstone.erased.user().is_some() {
            known.blocked = Arc::default();
        }
        hidden
    }

    /// Blocks a user.
    pub fn block(&mut self, org: &str, hash: UserHash) {
        self.org_mut(org).block(hash, org);
    }

    /// Sets how long an organisation keeps what.
    pub fn set_retention(&mut self, org: &str, rules: &[RetentionRule]) {
        self.org_mut(org).retention = rules.into();
    }

    /// This with other rules of how long an organisation keeps what.
    #[must_use]
    pub fn with_retention(&self, org: &str, rules: &[RetentionRule]) -> Hidden {
        let mut hidden = self.clone();
        hidden.set_retention(org, rules);
        hidden
    }

    fn org_mut(&mut self, org: &str) -> &mut OrgHidden {
        Arc::make_mut(self.orgs.or_default(org.to_owned()))
    }
}

impl OrgHidden {
    /// Orders that may cover something of a user.
    fn about(&self, user: &str) -> impl Iterator<Item = &Arc<Tombstone>> {
        self.users.get(user).into_iter().flatten().chain(&self.everyone)
    }

    fn erases_nothing(&self) -> bool {
        self.users.is_empty() && self.everyone.is_empty() && self.blocked.hashes.is_empty()
    }

    fn drops(&self) -> bool {
        !self.dropped.is_empty() || self.retention.iter().any(|rule| rule.days.is_some())
    }

    fn waiting(&self) -> impl Iterator<Item = &Arc<Tombstone>> {
        self.users.values().flatten().chain(&self.everyone)
    }

    /// Keeps of the orders those that are wanted.
    fn keep(&mut self, wanted: impl Fn(&Tombstone) -> bool) {
        let stays = |all: &Vec<Arc<Tombstone>>| all.iter().all(|tombstone| wanted(tombstone));
        self.users.retain(stays, |all| {
            all.retain(|tombstone| wanted(tombstone));
            !all.is_empty()
        });
        self.everyone.retain(|tombstone| wanted(tombstone));
    }

    fn block(&mut self, hash: UserHash, org: &str) {
        let blocked = Arc::make_mut(&mut self.blocked);
        org.clone_into(&mut blocked.org);
        blocked.hashes.or_default(hash);
    }
}

impl Hiding {
    fn add(&mut self, user: &str, metric: &str, tombstone: &Tombstone) {
        if !tombstone.erased.is_about(user, metric) {
            return;
        }
        match tombstone.erased {
            Erased::User { .. } => self.through = self.through.max(tombstone.sequence),
            Erased::Range { start, end, .. } => {
                self.ranges.push(HiddenRange { start, end, through: tombstone.sequence });
            }
        }
    }
}

/// What may be dropped where samples are kept for some days. A merge that began with a rule
/// goes on with it for a while when it is replaced: a day longer is long enough.
pub(crate) fn dropped_within(org: &str, metric: &str, days: u32) -> Dropped {
    let before = now_ms().saturating_sub((i64::from(days) - 1) * DAY_MS);
    Dropped { org: org.to_owned(), metric: metric.to_owned(), before }
}

fn now_ms() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_millis()).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tombstone(id: &str, sequence: u64, erased: Erased) -> Arc<Tombstone> {
        Arc::new(Tombstone {
            id: id.into(),
            org: "acme".into(),
            erased,
            sequence: Sequence(sequence),
            created_at: 0,
        })
    }

    fn user(block: bool) -> Erased {
        Erased::User { user: "u_1".into(), block }
    }

    fn range(user: Option<&str>, metric: Option<&str>) -> Erased {
        let owned = |text: Option<&str>| text.map(str::to_owned);
        Erased::Range { user: owned(user), metric: owned(metric), start: 10, end: 20 }
    }

    fn newest(metric: &str, recorded_at: i64, sequence: u64) -> LatestValue {
        LatestValue { metric: metric.into(), value: 0.0, recorded_at, sequence: Sequence(sequence) }
    }

    #[test]
    fn an_erasure_hides_what_came_before_it_of_one_user_of_one_organisation() {
        let erasure = tombstone("e", 7, user(false));
        let hidden = Hidden::default().with(&erasure);
        let hiding = hidden.of("acme", "steps", "u_1").unwrap();
        assert!(hiding.hides(0, Sequence(7)) && !hiding.hides(0, Sequence(8)));
        assert!(hidden.hides_user("acme", "u_1", Sequence(7)));
        assert!(!hidden.hides_user("acme", "u_1", Sequence(8)));
        for (org, user) in [("acme", "u_2"), ("default", "u_1")] {
            assert_eq!(hidden.of(org, "steps", user), None);
            assert!(!hidden.hides_user(org, user, Sequence(1)));
        }
        assert!(hidden.blocked("acme").is_none());
        assert_eq!(hidden.without(&[erasure]).of("acme", "steps", "u_1"), None);
    }

    #[test]
    fn a_deletion_hides_a_part_of_one_metric() {
        let hidden = Hidden::default().with(&tombstone("e", 7, range(Some("u_1"), Some("steps"))));
        let hiding = hidden.of("acme", "steps", "u_1").unwrap();
        for (time, sequence, hides) in
            [(9, 1, false), (10, 1, true), (19, 7, true), (19, 8, false), (20, 1, false)]
        {
            assert_eq!(hiding.hides(time, Sequence(sequence)), hides, "{time} {sequence}");
        }
        assert_eq!(hidden.of("acme", "heart_rate", "u_1"), None);
        assert_eq!(hidden.of("acme", "steps", "u_2"), None);
        assert!(!hidden.hides_user("acme", "u_1", Sequence(1)));
        for (newest, deletes) in [
            (newest("steps", 10, 7), true),
            (newest("steps", 10, 8), false),
            (newest("steps", 20, 1), false),
            (newest("heart_rate", 10, 7), false),
        ] {
            assert_eq!(hidden.deletes("acme", "u_1", &newest), deletes, "{newest:?}");
            assert!(!hidden.deletes("acme", "u_2", &newest), "{newest:?}");
        }
    }

    #[test]
    fn a_deletion_of_all_users_hides_a_range_of_each_until_it_is_done() {
        let steps = tombstone("e", 7, range(None, Some("steps")));
        let everything = tombstone("f", 9, range(None, None));
        let hidden = Hidden::default().with(&steps).with(&steps);
        assert_eq!((hidden.waiting().len(), hidden.is_empty("acme")), (1, false));
        for name in ["u_1", "u_2"] {
            let hiding = hidden.of("acme", "steps", name).unwrap();
            assert!(hiding.hides(10, Sequence(7)) && !hiding.hides(10, Sequence(8)), "{name}");
            assert!(!hiding.hides(9, Sequence(7)) && !hiding.hides(20, Sequence(7)), "{name}");
            assert!(hidden.deletes("acme", name, &newest("steps", 19, 7)), "{name}");
            assert_eq!(hidden.of("acme", "heart_rate", name), None);
            assert_eq!(hidden.of("default", "steps", name), None);
            assert!(!hidden.hides_user("acme", name, Sequence(1)) && !hidden.waits_for("acme", name));
        }
        let both = hidden.with(&everything).with(&tombstone("g", 11, user(false)));
        assert!(both.of("acme", "heart_rate", "u_2").unwrap().hides(10, Sequence(9)));
        assert_eq!(both.before(&everything).waiting(), std::slice::from_ref(&steps));
        assert_eq!(both.without(&[steps]).waiting().len(), 2);
    }

    #[test]
    fn what_rules_of_before_may_have_dropped_is_known_of_their_metrics() {
        let rule = |metric: &str, days| RetentionRule { metric: metric.into(), days };
        let rules = [rule("weight", None), rule("steps", Some(10)), rule(EVERY_METRIC, Some(100))];
        let mut hidden = Hidden::default().with_retention("acme", &rules);
        let noted = hidden.dropped_now("acme");
        assert_eq!(noted.iter().map(|it| it.metric.as_str()).collect::<Vec<_>>(), ["steps", EVERY_METRIC]);
        hidden.set_retention("acme", &[]);
        assert!(!hidden.drops("acme") && !hidden.may_be_dropped("acme", "steps", 0));
        hidden.note_dropped(&noted);
        // Less is known later, and changes nothing.
        hidden.note_dropped(&[Dropped { before: 0, ..noted[0].clone() }]);
        let days_ago = |days: i64| now_ms() - days * DAY_MS;
        for (metric, days, dropped) in
            [("steps", 8, false), ("steps", 10, true), ("heart_rate", 98, false), ("heart_rate", 100, true)]
        {
            assert_eq!(hidden.may_be_dropped("acme", metric, days_ago(days)), dropped, "{metric} {days}");
            assert!(!hidden.may_be_dropped("default", metric, days_ago(days)), "{metric} {days}");
        }
        assert!(hidden.drops("acme") && !hidden.drops("default"));
        hidden.note_dropped(&[dropped_within("", EVERY_METRIC, 1000)]);
        assert!(hidden.drops("default") && hidden.may_be_dropped("default", "steps", days_ago(1000)));
    }

    #[test]
    fn an_order_more_copies_little_and_what_is_built_nothing() {
        const ORDERS: usize = 10_000;
        let order = |number: usize| {
            let user = format!("u_{number}");
            tombstone(&format!("e_{number}"), number as u64, Erased::User { user, block: true })
        };
        let (mut built, mut one_by_one, mut copied) = (Hidden::default(), Hidden::default(), 0);
        built.add(&order(0));
        let place = Arc::as_ptr(built.orgs.get("acme").unwrap());
        for number in 0..ORDERS {
            built.add(&order(number));
            let next = one_by_one.with(&order(number));
            if let Some(before) = one_by_one.orgs.get("acme") {
                let known = next.orgs.get("acme").unwrap();
                copied += known.users.unshared(&before.users);
                copied += known.blocked.hashes.unshared(&before.blocked.hashes);
            }
            one_by_one = next;
        }
        assert_eq!(Arc::as_ptr(built.orgs.get("acme").unwrap()), place, "it was copied");
        // All of them each time would be 100 million.
        assert!(copied < 1_000_000, "{copied}");
        for hidden in [built, one_by_one] {
            assert_eq!(hidden.waiting().len(), ORDERS);
            assert!(hidden.hides_user("acme", "u_9999", Sequence(9999)));
            assert!(hidden.blocked("acme").unwrap().contains("u_77"));
        }
    }

    #[test]
    fn a_blocked_user_stays_blocked_and_hidden_when_the_erasure_is_done() {
        let erasure = tombstone("e", 7, user(true));
        let hidden = Hidden::default().with(&erasure).without(&[erasure]);
        let blocked = hidden.blocked("acme").unwrap();
        assert!(blocked.contains("u_1") && !blocked.contains("u_2"));
        assert!(hidden.hides_user("acme", "u_1", Sequence(1_000)));
        assert!(hidden.waiting().is_empty() && hidden.blocked("default").is_none());
    }

    #[test]
    fn the_rule_of_a_metric_counts_before_that_for_all_and_that_before_the_default() {
        let rule = |metric: &str, days| RetentionRule { metric: metric.into(), days };
        let hidden = Hidden::default().with_default_days(Some(1000));
        assert!(hidden.cutoff("acme", "steps") > 0);
        let hidden = hidden.with_retention("acme", &[rule(EVERY_METRIC, Some(30)), rule("steps", None)]);
        assert_eq!(hidden.cutoff("acme", "steps"), i64::MIN);
        assert!(hidden.cutoff("acme", "heart_rate") > hidden.cutoff("default", "heart_rate"));
        let hiding = hidden.of("acme", "heart_rate", "u_1").unwrap();
        assert!(hiding.hides(0, Sequence(9)) && !hiding.hides(i64::MAX, Sequence(1)));
    }
}
