//! The batch: the points of one request, checked and put into columns.
//!
//! Constraints: a point that is accepted can be replayed for ever, so everything
//! about it is checked here, before the journal. Nothing is allocated per point,
//! and after the first requests nothing per request but the [`Draft`].
//!
//! ```text
//! Point --names--> spelling -> group        texts in one arena
//!       --row----> recorded_at, value, ...  one column each, order of arrival
//! encode: counting sort into groups, by time where a group does not rise
//! ```
//!
//! Life cycle: a batch belongs to a connection. [`Batch::clear`] starts a
//! request, [`Batch::push`] takes a point or refuses it, [`Batch::encode`]
//! makes the draft of a frame. What is kept for the next request is bounded.
//!
//! A batch does not know what is stored already: whether a sample is new or a
//! correction is found out at commit.

mod encode;
mod fault;
mod group;
mod validate;

use std::sync::Arc;

use encode::{Columns, Order, POINTS_KEPT};
use fault::Advice;
use group::{Found, Names};
use systole_storage::frame::Draft;
use systole_storage::hidden::BlockedUsers;

pub use fault::{Fault, FaultKind};

use crate::registry::Registry;
use crate::timestamp::Dates;

/// One data point as it was sent; its texts stay where the decoder left them.
#[derive(Clone, Copy, Debug)]
pub struct Point<'a> {
    /// Who wears the device.
    pub user: &'a str,
    /// Key or alias of a metric.
    pub metric: &'a str,
    /// The value in `unit`.
    pub value: f64,
    /// The metric's unit or one of its aliases.
    pub unit: &'a str,
    /// RFC 3339 with an offset.
    pub recorded_at: &'a str,
    /// Who made it.
    pub source: &'a str,
    /// Which device, `source_device_id` in the API.
    pub device: Option<&'a str>,
    /// `+02:00`; without it an offset of `recorded_at` other than `Z` counts.
    pub zone_offset: Option<&'a str>,
    /// RFC 3339 with an offset: the end of the span that the value covers.
    pub ended_at: Option<&'a str>,
    /// Whether the value stands for the whole day.
    pub is_daily_total: Option<bool>,
}

/// The points of one request.
#[derive(Debug, Default)]
pub struct Batch {
    now_ms: i64,
    names: Names,
    columns: Columns,
    /// The group of each point.
    groups: Vec<u32>,
    /// Whether the points of some group are not side by side, or not rising.
    unordered: bool,
    order: Order,
    dates: Dates,
    advice: Advice,
    /// Users whose points are refused.
    blocked: Option<Arc<BlockedUsers>>,
}

impl Batch {
    /// An empty batch. Its clock stands at 1970 until [`Batch::clear`].
    #[must_use]
    pub fn new() -> Batch {
        Batch::default()
    }

    /// Starts a request at `now_ms`, milliseconds since 1970. Drops the points
    /// of the request before and keeps their memory.
    pub fn clear(&mut self, now_ms: i64) {
        self.now_ms = now_ms;
        self.names.clear();
        self.columns.clear();
        self.groups.clear();
        self.groups.shrink_to(POINTS_KEPT);
        self.unordered = false;
        self.order.clear();
        self.advice.clear();
        self.blocked = None;
    }

    /// Refuses points of these users in this request.
    pub fn refuse(&mut self, blocked: Option<Arc<BlockedUsers>>) {
        self.blocked = blocked;
    }

    /// Takes a point. All points of a request are pushed with one registry.
    ///
    /// # Errors
    /// [`Fault`] with the first rule that the point breaks; the batch is then as
    /// if it had never been pushed.
    #[inline]
    pub fn push(&mut self, registry: &Registry, point: &Point<'_>) -> Result<(), Fault> {
        let (spelling, row) = match self.names.find(point) {
            Found::Seen(spelling, rule) => {
                (spelling, validate::row(registry, rule, point, self.now_ms, &mut self.dates)?)
            }
            Found::Unseen(hash) => self.enter(registry, point, hash)?,
        };
        let before = self.groups.last().copied();
        let group = self.names.count(spelling, row.recorded_at);
        let known = &self.names.groups()[group as usize];
        self.unordered |= !known.rising || (before != Some(group) && known.count > 1);
        self.groups.push(group);
        self.columns.push(row);
        Ok(())
    }

    /// Number of points taken, before those of equal keys are merged.
    #[must_use]
    pub fn len(&self) -> usize {
        self.columns.len()
    }

    /// Whether no point was taken.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The draft of a frame that holds the points as samples of `org`. Of points
    /// with equal user, metric, source, device and time, the last pushed stays.
    ///
    /// # Panics
    /// If the batch is empty: there is nothing to commit then, and the caller
    /// answers without a frame.
    #[must_use]
    pub fn encode(&mut self, org: &str, backfill: bool) -> Draft {
        assert!(!self.is_empty(), "an empty batch has no frame");
        if self.unordered || self.names.scatter_events() {
            self.order.encode(org, backfill, &self.names, &self.groups, &self.columns)
        } else {
            encode::encode_as_is(org, backfill, &self.names, &self.columns)
        }
    }

    /// Checks a point whose spelling is new, and enters the spelling.
    fn enter(
        &mut self,
        registry: &Registry,
        point: &Point<'_>,
        hash: u64,
    ) -> Result<(usize, validate::Row), Fault> {
        let (id, metric, rule) = validate::names(registry, point, &mut self.advice)?;
        if self.blocked.as_ref().is_some_and(|blocked| blocked.contains(point.user)) {
            let message = format_args!("this user was erased, and nothing is taken from it any more");
            return Err(Fault::new("user_id", FaultKind::UserErased, message));
        }
        let row = validate::row(registry, &rule, point, self.now_ms, &mut self.dates)?;
        Ok((self.names.enter(point, hash, (id, metric), rule), row))
    }
}
