//! The reference fleet: the population that files, memory and queries are measured
//! with. One million users unless scaled, in five classes ([`CLASSES`]), who measure
//! twenty metrics ([`METRICS`]) and sync them by the hour.
//!
//! Everything is a pure function of (seed, user, time): nothing is kept for a user,
//! so a million cost no memory, and who wants to know what one user must have sent
//! asks the same functions again ([`ReferenceFleet::held`]).
//!
//! **A day of a person.** They wake at 5 to 9 (most at 7), UTC, and sleep 8 hours.
//! A sync of hour `H` brings the clock hours before it that no sync brought yet:
//! one in waking hours, at waking the night's eight. So the load has a morning peak.
//!
//! ```text
//! hour of waking + 0       1       2    ..    16 | no syncs for seven hours
//! brings      8 hours   1 hour  1 hour  .. 1 hour|
//! ```
//!
//! **What goes wrong**, by syncs: 2 in 100 come late, by the person's own 1 to 7
//! days; 3 in 100 are sent again unchanged an hour after they came. One in 40 has
//! a fifth of its samples corrected, 1 to 3 days after it came: half a percent of
//! the samples. **New people**: a hundredth of the users joins each day, in
//! addition, each with 30 to 90 days of history in the first hour.
//!
//! Scaled down, samples are thinned and users are not: of each series every
//! `1/density`-th sample stays, evenly and from a place of its own.
//!
//! Not simulated: clock changes, people who stop, corrections of history, and
//! sub-second times.

mod classes;
mod deliveries;
mod expected;
mod metrics;
mod render;
mod samples;
#[cfg(test)]
mod tests;
mod values;

use std::ops::Range;

pub use classes::{CLASSES, Class, Device};
pub use deliveries::Deliveries;
pub(crate) use deliveries::DeliveryCursor;
pub use expected::Held;
pub use metrics::{METRICS, Metric, Stands};
pub(crate) use render::{push_point, push_tenths};
pub(crate) use samples::SampleCursor;
pub use samples::Samples;

use crate::random::spread;

const SECONDS_PER_HOUR: u64 = 3_600;
const HOURS_PER_DAY: u64 = 24;
/// Of each 100 users, so many join each day in addition.
const JOIN_PERCENT: u64 = 1;
const BACKFILL_DAYS: Range<u64> = 30..91;
/// Hours in which nothing syncs and the night's samples gather.
const SLEEP_HOURS: u64 = 8;
const LATE_PER_MILLE: u64 = 20;
const LATE_DAYS_MAX: u64 = 7;
const RESENT_PER_MILLE: u64 = 30;
/// With a fifth of their samples each: 5 in 1,000 samples.
const CORRECTED_PER_MILLE: u64 = 25;
const CORRECTED_ONE_IN: u64 = 5;
const CORRECTED_AFTER_DAYS_MAX: u64 = 3;
/// Hours of waking, from 5 on, in percent of the users.
const WAKING_PERCENT: [u64; 5] = [5, 20, 55, 15, 5];
const WAKING_FIRST: u64 = 5;
/// Unix hour of 1980: before it a history would begin before 1970.
const START_HOUR_MIN: u64 = 87_648;
/// Unix hour of 2200: beyond it index times density would not fit into 64 bits.
const START_HOUR_MAX: u64 = 2_016_192;

/// What the fleet is made from; equal settings make equal samples.
#[derive(Debug, Clone)]
pub struct ReferenceSettings {
    /// Users from the start; others join.
    pub users: u64,
    /// How much of each series is sent, above 0 and at most 1.
    pub density: f64,
    /// Seed of everything.
    pub seed: u64,
    /// The first hour, in hours since 1970; a midnight makes days whole.
    pub start_hour: u64,
    /// Begins every user id: 1-64 characters of `A-Z a-z 0-9 . _ : @ -`.
    pub prefix: String,
}

/// Why there is no such fleet.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum ReferenceError {
    /// Nobody would send.
    #[error("a fleet needs at least one user")]
    NoUsers,
    /// Nothing would be sent, or more than there is.
    #[error("a density is above 0 (0.000001 at least) and at most 1, not {density}")]
    Density {
        /// What was asked for.
        density: f64,
    },
    /// Times outside what the fleet can count.
    #[error("the fleet starts between 1980 and 2200, not in hour {start_hour} since 1970")]
    Start {
        /// What was asked for.
        start_hour: u64,
    },
    /// The prefix does not fit into a user id.
    #[error("the prefix {prefix:?} is not 1-64 characters of A-Z a-z 0-9 . _ : @ -")]
    Prefix {
        /// What was asked for.
        prefix: String,
    },
}

/// The fleet; a few numbers, and functions of them.
#[derive(Debug, Clone)]
pub struct ReferenceFleet {
    users: u64,
    /// New users a day.
    joiners: u64,
    /// Density as a fraction of 2^32.
    density: u64,
    seed: u64,
    start_hour: u64,
    prefix: String,
}

/// Why samples come.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    /// In their time.
    Live,
    /// Days later.
    Late,
    /// A new user's history.
    Backfill,
    /// Again, unchanged.
    Resent,
    /// Again, with other values.
    Corrected,
}

/// One user's part of one hour: samples of these clock hours.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Delivery {
    /// Whose.
    pub user: u64,
    /// Why.
    pub kind: Kind,
    /// The clock hours since 1970 whose samples it brings.
    pub hours: Range<u64>,
    /// When it arrives, in Unix seconds.
    pub at_second: u64,
}

/// One sample.
#[derive(Debug, Clone, Copy)]
pub struct Sample {
    /// Whose.
    pub user: u64,
    /// What.
    pub metric: &'static Metric,
    /// Measured by what.
    pub device: &'static Device,
    /// When, in Unix seconds.
    pub second: u64,
    /// How long it lasted, for [`Stands::Span`].
    pub span_seconds: u64,
    /// The value in tenths of the unit.
    pub tenths: i64,
    /// The person's zone, where the device says it.
    pub zone: Option<&'static str>,
}

/// What never changes about a user.
#[derive(Debug, Clone, Copy)]
struct Person {
    user: u64,
    class: &'static Class,
    /// Hour of the day.
    waking: u64,
    late_days: u64,
    corrected_after_days: u64,
    zone: Option<&'static str>,
    /// The first clock hour that is synced live.
    since_hour: u64,
}

/// Questions that are answered by a draw; each has a sequence of its own.
#[derive(Debug, Clone, Copy)]
#[repr(u64)]
enum Draw {
    Person = 1,
    Joining,
    Late,
    Resent,
    CorrectedSync,
    CorrectedSample,
    Series,
    Burst,
    Moment,
    Value,
}

impl ReferenceFleet {
    /// The fleet of these settings.
    pub fn new(settings: &ReferenceSettings) -> Result<Self, ReferenceError> {
        let &ReferenceSettings { users, density, seed, start_hour, ref prefix } = settings;
        if users == 0 {
            return Err(ReferenceError::NoUsers);
        }
        if !(1e-6..=1.0).contains(&density) {
            return Err(ReferenceError::Density { density });
        }
        if !(START_HOUR_MIN..=START_HOUR_MAX).contains(&start_hour) {
            return Err(ReferenceError::Start { start_hour });
        }
        if !super::is_plain_prefix(prefix) {
            return Err(ReferenceError::Prefix { prefix: prefix.clone() });
        }
        Ok(Self {
            users,
            joiners: users * JOIN_PERCENT / 100,
            density: (density * (1_u64 << 32) as f64).round() as u64,
            seed,
            start_hour,
            prefix: prefix.clone(),
        })
    }

    /// The first hour, in hours since 1970.
    pub fn start_hour(&self) -> u64 {
        self.start_hour
    }

    /// Users who joined up to the end of the day that this hour belongs to.
    pub fn users_at(&self, hour: u64) -> u64 {
        let days = (hour.saturating_sub(self.start_hour)) / HOURS_PER_DAY;
        self.users + self.joiners * (days + 1)
    }

    /// A user's id.
    pub fn user_id(&self, user: u64) -> String {
        format!("{}-{user:07}", self.prefix)
    }

    /// The samples of a delivery, hour by hour, within an hour series by series.
    pub fn samples(&self, delivery: &Delivery) -> Samples<'_> {
        Samples::new(self, delivery)
    }

    /// The class of a user.
    pub fn class_of(&self, user: u64) -> &'static Class {
        self.person(user).class
    }

    fn person(&self, user: u64) -> Person {
        let mut draws = self.draw(Draw::Person, user, 0);
        let mut below = |bound: u64| {
            let outcome = draws % bound;
            draws /= bound;
            outcome
        };
        let class = by_percent(below(100), CLASSES.iter().map(|class| class.percent));
        let waking = WAKING_FIRST + by_percent(below(100), WAKING_PERCENT.into_iter()) as u64;
        let class = &CLASSES[class];
        let late_days = 1 + below(LATE_DAYS_MAX);
        let corrected_after_days = 1 + below(CORRECTED_AFTER_DAYS_MAX);
        let zone = ["+00:00", "+01:00", "+02:00"][below(3) as usize];
        let zone = class.zoned.then_some(zone);
        let since_hour = self.since_hour(user, waking);
        Person { user, class, waking, late_days, corrected_after_days, zone, since_hour }
    }

    /// The start for those who were there; for others a waking hour of their first day.
    fn since_hour(&self, user: u64, waking: u64) -> u64 {
        if user < self.users {
            return self.start_hour;
        }
        let day = (user - self.users) / self.joiners;
        let hour_of_day = waking + 1 + self.draw(Draw::Joining, user, 0) % (HOURS_PER_DAY - 1 - waking);
        self.start_hour + day * HOURS_PER_DAY + hour_of_day
    }

    fn backfill_hours(&self, user: u64) -> u64 {
        let days = BACKFILL_DAYS.end - BACKFILL_DAYS.start;
        let extra = self.draw(Draw::Joining, user, 1) % days;
        (BACKFILL_DAYS.start + extra) * HOURS_PER_DAY
    }

    /// 64 bits for this question about this user and number.
    fn draw(&self, what: Draw, user: u64, number: u64) -> u64 {
        let salted = spread(self.seed ^ ((what as u64) << 56));
        spread(spread(salted ^ user).wrapping_add(number))
    }

    fn chance(&self, what: Draw, user: u64, number: u64, per_mille: u64) -> bool {
        self.draw(what, user, number) % 1_000 < per_mille
    }
}

impl Person {
    /// Whether a clock hour is one of sleep.
    fn sleeps_in(&self, hour: u64) -> bool {
        (hour + HOURS_PER_DAY - self.waking) % HOURS_PER_DAY >= HOURS_PER_DAY - SLEEP_HOURS
    }

    /// The clock hours that a sync in `hour` brings in its time; none at night.
    fn sync(&self, hour: u64) -> Option<Range<u64>> {
        let since_waking = (hour + HOURS_PER_DAY - self.waking) % HOURS_PER_DAY;
        let first = match since_waking {
            0 => hour - SLEEP_HOURS,
            1.. if since_waking <= HOURS_PER_DAY - SLEEP_HOURS => hour - 1,
            _ => return None,
        };
        let hours = first.max(self.since_hour)..hour;
        (!hours.is_empty()).then_some(hours)
    }
}

/// The place of `outcome` (of 0..100) among shares that add up to 100.
fn by_percent(outcome: u64, shares: impl Iterator<Item = u64>) -> usize {
    let mut end = 0;
    let mut ends = shares.map(|share| {
        end += share;
        end
    });
    ends.position(|end| outcome < end).expect("shares add up to 100")
}
