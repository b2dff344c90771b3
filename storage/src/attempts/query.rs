//! What is asked of the log of attempts, and a page of it.

use super::AttemptFile;
use super::read::Extent;
use super::schema::Columns;
use crate::frame::AttemptRow;

/// A row's place in the order of all: its time in milliseconds, and its tie.
pub type AttemptKey = (i64, u64);

/// Where a page begins; the place itself is not on it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AttemptStep {
    /// With the last row before this place, from there back.
    Older(AttemptKey),
    /// With the first row behind this place, from there on.
    Newer(AttemptKey),
}

/// Which attempts.
#[derive(Clone, Debug, Default)]
pub struct AttemptQuery {
    /// Whose.
    pub org: String,
    /// Of this endpoint.
    pub endpoint: Option<String>,
    /// Of this message.
    pub message: Option<String>,
    /// The sequence of the message's place, if it is known: leads to the files.
    pub sequence: Option<u64>,
    /// Sent under this id: a message's, or that of several that were sent together.
    pub delivery: Option<String>,
    /// Of messages with places from this sequence on: leads to the files.
    pub from_sequence: Option<u64>,
    /// The sequence of a message that is known to have been sent under `delivery`: leads to
    /// when that was, and so to the others.
    pub carried: Option<u64>,
    /// Made at one of these times, milliseconds, if they are known: leads to the files.
    pub made_at_ms: Option<Vec<i64>>,
    /// About this user.
    pub user: Option<String>,
    /// With this outcome.
    pub success: Option<bool>,
    /// Made then or later, milliseconds.
    pub since_ms: Option<i64>,
    /// Made before, milliseconds.
    pub until_ms: Option<i64>,
    /// Of this type.
    pub event_type: Option<String>,
    /// Where the page begins; with the newest row, going back, if it does not say.
    pub step: Option<AttemptStep>,
    /// At most so many.
    pub limit: usize,
    /// From about so many rows of files that were looked at on, the page ends early;
    /// `None` looks at as many as it takes.
    pub look_max: Option<usize>,
}

/// Some attempts, newest first.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct AttemptPage {
    /// The rows: fewer than asked for at the end, or where enough was looked at.
    pub rows: Vec<AttemptRow>,
    /// Leads to older rows; `None` if there was no row and no older one.
    pub older: Option<AttemptStep>,
    /// Leads to newer rows; `None` where the page is known to be the newest.
    pub newer: Option<AttemptStep>,
    /// Whether there are no older rows.
    pub done: bool,
    /// Rows of files that were looked at, and what opening files counts for.
    pub looked_at: usize,
}

impl AttemptQuery {
    /// Whether the page goes on to newer rows.
    fn is_newer(&self) -> bool {
        matches!(self.step, Some(AttemptStep::Newer(_)))
    }

    /// Times that rows of the answer may have, first and last; the first is greater if
    /// there are none.
    pub(super) fn times(&self) -> (i64, i64) {
        let (first, last) = match self.step {
            None => (i64::MIN, i64::MAX),
            Some(AttemptStep::Older(place)) => (i64::MIN, just_before(place).0),
            Some(AttemptStep::Newer(place)) => (just_behind(place).0, i64::MAX),
        };
        let until = self.until_ms.map_or(i64::MAX, |until| until.saturating_sub(1));
        (first.max(self.since_ms.unwrap_or(i64::MIN)), last.min(until))
    }

    /// Orders rows as they are read: what is less comes first. The rank of a rank is the
    /// key again.
    pub(super) fn rank(&self, (at_ms, tie): AttemptKey) -> AttemptKey {
        // With all bits turned over the greatest is the least.
        if self.is_newer() { (at_ms, tie) } else { (!at_ms, !tie) }
    }

    /// The rank of the time that comes first in a span.
    pub(super) fn first_rank(&self, (earliest, latest): (i64, i64)) -> i64 {
        let first = if self.is_newer() { earliest } else { latest };
        self.rank((first, 0)).0
    }

    /// The page of these rows, newest first. `more` tells that others follow on the last
    /// one read, `left` the rank of the time where it ended early.
    pub(super) fn page(&self, rows: Vec<AttemptRow>, more: bool, left: Option<i64>) -> AttemptPage {
        let key = |row: &AttemptRow| (row.at_ms, row.tie);
        let (newest, oldest) = (rows.first().map(key), rows.last().map(key));
        let left = left.filter(|_| !more).map(|rank| self.rank((rank, 0)).0);
        let (older, newer) = match self.step {
            None => (left.map(all_up_to).or(oldest), None),
            Some(AttemptStep::Older(place)) => {
                (left.map(all_up_to).or(oldest), Some(newest.unwrap_or_else(|| just_before(place))))
            }
            Some(AttemptStep::Newer(place)) => (
                Some(oldest.unwrap_or_else(|| just_behind(place))),
                left.map(all_from).or(newest.filter(|_| more)),
            ),
        };
        AttemptPage {
            rows,
            older: older.map(AttemptStep::Older),
            newer: newer.map(AttemptStep::Newer),
            done: !self.is_newer() && !more && left.is_none(),
            looked_at: 0,
        }
    }

    /// The columns that its rows are found by.
    pub(super) fn columns(&self) -> Columns {
        // Hardly two rows share it: it is read where it is asked for.
        Columns::keys_and(self.delivery.iter().map(|_| "delivery_id").collect())
    }

    pub(super) fn asks_for(&self, row: &AttemptRow<&str>) -> bool {
        let (first, last) = self.times();
        let is = |asked: &Option<String>, actual: &str| asked.as_deref().is_none_or(|it| it == actual);
        (first..=last).contains(&row.at_ms)
            && self.made_at_ms.as_ref().is_none_or(|times| times.contains(&row.at_ms))
            && self.step.is_none_or(|step| step.leads_to((row.at_ms, row.tie)))
            && is(&self.endpoint, row.endpoint)
            && is(&self.message, row.message)
            && is(&self.delivery, row.delivery)
            && is(&self.event_type, row.event_type)
            && self.sequence.is_none_or(|sequence| row.sequence == sequence)
            && self.from_sequence.is_none_or(|first| row.sequence >= first)
            && self.success.is_none_or(|success| row.success == success)
            && self.user.as_deref().is_none_or(|user| row.user == Some(user))
    }

    /// Whether a file may hold rows that are asked for.
    pub(super) fn may_be_in(&self, file: &AttemptFile) -> bool {
        let record = file.record();
        self.may_be_between((record.time_min, record.time_max))
            // Files do not say whether they hold rows without a place.
            && self.sequence.is_none_or(|it| it == 0 || file.may_hold(it, it))
            && self.from_sequence.is_none_or(|first| first == 0 || file.may_hold(first, u64::MAX))
            && self.user.as_deref().is_none_or(|it| *record.user_min <= *it && *it <= *record.user_max)
    }

    /// Whether a row group with rows of these times may.
    pub(super) fn may_be_in_group(&self, extent: &Extent<'_>, times: (i64, i64)) -> bool {
        self.may_be_between(times)
            && self.endpoint.as_deref().is_none_or(|it| extent.may_hold_text("endpoint_id", it))
            && self.delivery.as_deref().is_none_or(|it| extent.may_hold_text("delivery_id", it))
            && self.sequence.is_none_or(|it| extent.may_hold_number("sequence", it, it))
            && self.from_sequence.is_none_or(|first| extent.may_hold_number("sequence", first, u64::MAX))
    }

    fn may_be_between(&self, (earliest, latest): (i64, i64)) -> bool {
        let (first, last) = self.times();
        let is_between = |time: &i64| (earliest..=latest).contains(time);
        earliest <= last
            && first <= latest
            && self.made_at_ms.as_ref().is_none_or(|times| times.iter().any(is_between))
    }
}

impl AttemptStep {
    fn leads_to(self, key: AttemptKey) -> bool {
        match self {
            AttemptStep::Older(place) => key < place,
            AttemptStep::Newer(place) => key > place,
        }
    }
}

/// The place behind all rows of a time and before.
fn all_up_to(at_ms: i64) -> AttemptKey {
    just_behind((at_ms, u64::MAX))
}

/// The place before all rows of a time and behind.
fn all_from(at_ms: i64) -> AttemptKey {
    just_before((at_ms, 0))
}

/// The last place before another.
fn just_before((at_ms, tie): AttemptKey) -> AttemptKey {
    match tie.checked_sub(1) {
        Some(tie) => (at_ms, tie),
        None => (at_ms.saturating_sub(1), u64::MAX),
    }
}

/// The first place behind another.
fn just_behind((at_ms, tie): AttemptKey) -> AttemptKey {
    match tie.checked_add(1) {
        Some(tie) => (at_ms, tie),
        None => (at_ms.saturating_add(1), 0),
    }
}
