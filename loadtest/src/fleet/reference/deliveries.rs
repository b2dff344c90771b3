//! What arrives in one hour, in the order of its arrival.
//!
//! The users take their turns in an order that looks random and costs nothing: by
//! strides around the circle of all users, with a stride that has no factor in
//! common with their number, so that each comes once.

use super::{
    CORRECTED_PER_MILLE, Delivery, Draw, HOURS_PER_DAY, Kind, LATE_PER_MILLE, Person, RESENT_PER_MILLE,
    ReferenceFleet, SECONDS_PER_HOUR,
};

/// Live, late, resent (two), corrected (two) or backfill: more never meet.
const AT_ONCE_MAX: usize = 6;

/// The deliveries of one hour.
#[derive(Debug)]
pub struct Deliveries<'a> {
    fleet: &'a ReferenceFleet,
    cursor: DeliveryCursor,
}

/// Where in an hour's deliveries one stands; keeps no hold of the fleet.
#[derive(Debug)]
pub(crate) struct DeliveryCursor {
    hour: u64,
    users: u64,
    stride: u64,
    /// How many users had their turn.
    turns: u64,
    user: u64,
    /// Of the user whose turn it is, the last first.
    waiting: Vec<Delivery>,
}

impl ReferenceFleet {
    /// Everything that arrives in this hour since 1970.
    pub fn deliveries(&self, hour: u64) -> Deliveries<'_> {
        Deliveries { fleet: self, cursor: DeliveryCursor::new(self, hour) }
    }

    /// What a user sends in this hour, oldest cause first.
    pub(super) fn deliveries_of(&self, user: u64, hour: u64, at_second: u64, into: &mut Vec<Delivery>) {
        let person = self.person(user);
        if hour < person.since_hour {
            return;
        }
        let mut add = |kind, hours| into.push(Delivery { user, kind, hours, at_second });
        if hour == person.since_hour && user >= self.users {
            add(Kind::Backfill, hour - self.backfill_hours(user)..hour);
            return;
        }
        if let Some(hours) = person.sync(hour).filter(|_| !self.is_late(&person, hour)) {
            add(Kind::Live, hours);
        }
        let days = |days: u64| days * HOURS_PER_DAY;
        let late = hour - days(person.late_days);
        if let Some(hours) = self.late_sync(&person, late) {
            add(Kind::Late, hours);
        }
        let chance = |draw, sync, per_mille| self.chance(draw, user, sync, per_mille);
        for (kind, draw, per_mille, after) in [
            (Kind::Resent, Draw::Resent, RESENT_PER_MILLE, 1),
            (Kind::Corrected, Draw::CorrectedSync, CORRECTED_PER_MILLE, days(person.corrected_after_days)),
        ] {
            let in_time = hour - after;
            if chance(draw, in_time, per_mille)
                && let Some(hours) = person.sync(in_time).filter(|_| !self.is_late(&person, in_time))
            {
                add(kind, hours);
            }
            let late = in_time - days(person.late_days);
            if chance(draw, late, per_mille)
                && let Some(hours) = self.late_sync(&person, late)
            {
                add(kind, hours);
            }
        }
    }

    fn is_late(&self, person: &Person, sync: u64) -> bool {
        self.chance(Draw::Late, person.user, sync, LATE_PER_MILLE)
    }

    fn late_sync(&self, person: &Person, sync: u64) -> Option<std::ops::Range<u64>> {
        let late = self.is_late(person, sync);
        late.then(|| person.sync(sync)).flatten()
    }
}

impl DeliveryCursor {
    pub(crate) fn new(fleet: &ReferenceFleet, hour: u64) -> Self {
        let users = fleet.users_at(hour);
        let waiting = Vec::with_capacity(AT_ONCE_MAX);
        Self { hour, users, stride: stride(users), turns: 0, user: 0, waiting }
    }

    /// The next delivery; `fleet` is the one that the cursor was made for.
    pub(crate) fn next(&mut self, fleet: &ReferenceFleet) -> Option<Delivery> {
        while self.waiting.is_empty() {
            if self.turns == self.users {
                return None;
            }
            let second = u128::from(self.turns) * u128::from(SECONDS_PER_HOUR) / u128::from(self.users);
            let at_second = self.hour * SECONDS_PER_HOUR + second as u64;
            fleet.deliveries_of(self.user, self.hour, at_second, &mut self.waiting);
            self.waiting.reverse();
            self.turns += 1;
            self.user = (self.user + self.stride) % self.users;
        }
        self.waiting.pop()
    }
}

impl Iterator for Deliveries<'_> {
    type Item = Delivery;

    fn next(&mut self) -> Option<Delivery> {
        self.cursor.next(self.fleet)
    }
}

/// Near the golden section of the circle, where neighbours in time lie far apart
/// in number; without a common factor.
fn stride(users: u64) -> u64 {
    let golden = (users as f64 * 0.618_033_988_75) as u64;
    (golden.max(1)..).find(|stride| common_factor(*stride, users) == 1).expect("users + 1 has none")
}

fn common_factor(left: u64, right: u64) -> u64 {
    if right == 0 { left } else { common_factor(right, left % right) }
}
