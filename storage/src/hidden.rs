//! What must not be seen any more although its bytes may still be there: erased
//! users, deleted parts of series, and what is older than it is kept.
//!
//! Constraints: immutable, swapped as a whole with the snapshot; asking costs two
//! look-ups without allocation, nothing where an organisation hides nothing. Its size
//! is that of the orders that wait to be carried out, plus 16 bytes a blocked user.
//!
//! ```text
//! tombstone durable -> here (hidden from every read) -> bytes rewritten -> gone from here
//! ```
//!
//! Who writes: the committer, and recovery before it, add tombstones in commit order;
//! whoever carries them out takes them away. Who asks: queries, merges, payloads.

use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use hashbrown::{HashMap, HashSet};
use sha2::{Digest, Sha256};

use crate::frame::{Erased, EventFrame, Group, SamplesFrame, Sequence, Tombstone};

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
    orgs: HashMap<String, Arc<OrgHidden>>,
    /// Where no rule says; `None` keeps samples for ever.
    default_days: Option<u32>,
}

#[derive(Clone, Debug, Default)]
struct OrgHidden {
    /// Orders that wait to be carried out, in commit order.
    users: HashMap<String, Vec<Arc<Tombstone>>>,
    blocked: Arc<BlockedUsers>,
    retention: Vec<RetentionRule>,
}

/// Users of one organisation from whom nothing is taken any more. Their names are
/// not kept, only hashes of them.
#[derive(Clone, Debug, Default)]
pub struct BlockedUsers {
    org: String,
    hashes: HashSet<UserHash>,
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
        !self.hashes.is_empty() && self.hashes.contains(&blocked_hash(&self.org, user))
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
            for tombstone in known.users.get(user).into_iter().flatten() {
                hiding.add(metric, tombstone);
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
        self.orgs.get(org).is_none_or(|known| known.users.is_empty() && known.blocked.hashes.is_empty())
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
        let rules = self.orgs.get(org).map_or(&[][..], |known| &known.retention);
        let rule = |metric: &str| rules.iter().find(|rule| rule.metric == metric);
        rule(metric).or_else(|| rule(EVERY_METRIC)).map_or(self.default_days, |rule| rule.days)
    }

    /// How long an organisation keeps what.
    #[must_use]
    pub fn retention(&self, org: &str) -> &[RetentionRule] {
        self.orgs.get(org).map_or(&[], |known| &known.retention)
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

    /// Metrics of a user of which parts were deleted.
    pub fn deleted_metrics(&self, org: &str, user: &str) -> impl Iterator<Item = &str> {
        let all = self.orgs.get(org).and_then(|known| known.users.get(user));
        all.into_iter().flatten().filter_map(|tombstone| match &tombstone.erased {
            Erased::Range { metric, .. } => Some(metric.as_str()),
            Erased::User { .. } => None,
        })
    }

    /// Users from whom nothing is taken; `None` if there are none.
    #[must_use]
    pub fn blocked(&self, org: &str) -> Option<Arc<BlockedUsers>> {
        let blocked = &self.orgs.get(org)?.blocked;
        (!blocked.hashes.is_empty()).then(|| blocked.clone())
    }

    /// Users of whom something waits to be erased.
    pub fn waiting_users(&self, org: &str) -> impl Iterator<Item = &str> {
        self.orgs.get(org).into_iter().flat_map(|known| known.users.keys().map(String::as_str))
    }

    /// Every order that waits to be carried out.
    #[must_use]
    pub fn waiting(&self) -> Vec<Arc<Tombstone>> {
        let all = self.orgs.values().flat_map(|known| known.users.values().flatten());
        let mut waiting: Vec<Arc<Tombstone>> = all.cloned().collect();
        waiting.sort_by_key(|tombstone| tombstone.sequence);
        waiting
    }

    /// This, and what a tombstone covers. One that is there already changes nothing.
    #[must_use]
    pub fn with(&self, tombstone: &Arc<Tombstone>) -> Hidden {
        self.changed(&tombstone.org, |known| {
            let all = known.users.entry_ref(tombstone.user.as_str()).or_default();
            if all.iter().all(|other| other.id != tombstone.id) {
                all.push(tombstone.clone());
            }
            if tombstone.erased == (Erased::User { block: true }) {
                known.block(blocked_hash(&tombstone.org, &tombstone.user), &tombstone.org);
            }
        })
    }

    /// This without orders that were carried out; who is blocked stays blocked.
    #[must_use]
    pub fn without(&self, done: &[Arc<Tombstone>]) -> Hidden {
        done.iter().fold(self.clone(), |hidden, tombstone| {
            hidden.changed(&tombstone.org, |known| {
                if let Some(all) = known.users.get_mut(&tombstone.user) {
                    all.retain(|other| other.id != tombstone.id);
                }
                known.users.retain(|_, all| !all.is_empty());
            })
        })
    }

    /// As it was before a tombstone: what the user could see then.
    #[must_use]
    pub fn before(&self, tombstone: &Tombstone) -> Hidden {
        self.changed(&tombstone.org, |known| {
            if let Some(all) = known.users.get_mut(&tombstone.user) {
                all.retain(|other| other.sequence < tombstone.sequence);
            }
            known.blocked = Arc::default();
        })
    }

    /// This with a user that is blocked.
    #[must_use]
    pub fn with_blocked(&self, org: &str, hash: UserHash) -> Hidden {
        self.changed(org, |known| known.block(hash, org))
    }

    /// This with other rules of how long an organisation keeps what.
    #[must_use]
    pub fn with_retention(&self, org: &str, rules: Vec<RetentionRule>) -> Hidden {
        self.changed(org, |known| known.retention = rules)
    }

    fn changed(&self, org: &str, change: impl FnOnce(&mut OrgHidden)) -> Hidden {
        let mut hidden = self.clone();
        let known = hidden.orgs.entry_ref(org).or_default();
        change(Arc::make_mut(known));
        hidden
    }
}

impl OrgHidden {
    fn block(&mut self, hash: UserHash, org: &str) {
        let blocked = Arc::make_mut(&mut self.blocked);
        org.clone_into(&mut blocked.org);
        blocked.hashes.insert(hash);
    }
}

impl Hiding {
    fn add(&mut self, metric: &str, tombstone: &Tombstone) {
        match &tombstone.erased {
            Erased::User { .. } => self.through = self.through.max(tombstone.sequence),
            Erased::Range { metric: of, start, end } if of == metric => {
                self.ranges.push(HiddenRange { start: *start, end: *end, through: tombstone.sequence });
            }
            Erased::Range { .. } => {}
        }
    }
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
            user: "u_1".into(),
            erased,
            sequence: Sequence(sequence),
            created_at: 0,
        })
    }

    #[test]
    fn an_erasure_hides_what_came_before_it_of_one_user_of_one_organisation() {
        let erasure = tombstone("e", 7, Erased::User { block: false });
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
        let range = Erased::Range { metric: "steps".into(), start: 10, end: 20 };
        let hidden = Hidden::default().with(&tombstone("e", 7, range));
        let hiding = hidden.of("acme", "steps", "u_1").unwrap();
        for (time, sequence, hides) in
            [(9, 1, false), (10, 1, true), (19, 7, true), (19, 8, false), (20, 1, false)]
        {
            assert_eq!(hiding.hides(time, Sequence(sequence)), hides, "{time} {sequence}");
        }
        assert_eq!(hidden.of("acme", "heart_rate", "u_1"), None);
        assert!(!hidden.hides_user("acme", "u_1", Sequence(1)));
        assert_eq!(hidden.deleted_metrics("acme", "u_1").collect::<Vec<_>>(), ["steps"]);
    }

    #[test]
    fn a_blocked_user_stays_blocked_and_hidden_when_the_erasure_is_done() {
        let erasure = tombstone("e", 7, Erased::User { block: true });
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
        let hidden = hidden.with_retention("acme", vec![rule(EVERY_METRIC, Some(30)), rule("steps", None)]);
        assert_eq!(hidden.cutoff("acme", "steps"), i64::MIN);
        assert!(hidden.cutoff("acme", "heart_rate") > hidden.cutoff("default", "heart_rate"));
        let hiding = hidden.of("acme", "heart_rate", "u_1").unwrap();
        assert!(hiding.hides(0, Sequence(9)) && !hiding.hides(i64::MAX, Sequence(1)));
    }
}
