//! What is asked of the log of attempts, and a page of it.

use super::AttemptFile;
use super::read::Extent;
use crate::frame::AttemptRow;

/// A row's place in the order of all: its time in milliseconds, and its tie.
pub type AttemptKey = (i64, u64);

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
    /// Behind this row, in the order of the answer.
    pub before: Option<AttemptKey>,
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
    /// What a query is [`before`](AttemptQuery::before) that goes on; `None` if there was
    /// no row.
    pub before: Option<AttemptKey>,
    /// Whether there are no older rows.
    pub done: bool,
    /// Rows of files that were looked at, and what opening files counts for.
    pub looked_at: usize,
}

impl AttemptQuery {
    /// Times that rows of the answer may have, first and last; the first is greater if
    /// there are none.
    pub(super) fn times(&self) -> (i64, i64) {
        let before = self.before.map_or(i64::MAX, |before| just_before(before).0);
        let until = self.until_ms.map_or(i64::MAX, |until| until.saturating_sub(1));
        (self.since_ms.unwrap_or(i64::MIN), before.min(until))
    }

    /// Orders rows as they are read: what is less comes first. The rank of a rank is the
    /// key again.
    pub(super) fn rank(&self, (at_ms, tie): AttemptKey) -> AttemptKey {
        // With all bits turned over the greatest is the least.
        (!at_ms, !tie)
    }

    /// The rank of a time.
    pub(super) fn rank_of(&self, at_ms: i64) -> i64 {
        self.rank((at_ms, 0)).0
    }

    /// What a query is before that goes on with the time of this rank.
    pub(super) fn going_on_with(&self, rank: i64) -> AttemptKey {
        (self.rank_of(rank).saturating_add(1), 0)
    }

    pub(super) fn asks_for(&self, row: &AttemptRow<&str>) -> bool {
        let (first, last) = self.times();
        let is = |asked: &Option<String>, actual: &str| asked.as_deref().is_none_or(|it| it == actual);
        (first..=last).contains(&row.at_ms)
            && self.before.is_none_or(|before| (row.at_ms, row.tie) < before)
            && is(&self.endpoint, row.endpoint)
            && is(&self.message, row.message)
            && is(&self.event_type, row.event_type)
            && self.sequence.is_none_or(|sequence| row.sequence == sequence)
            && self.success.is_none_or(|success| row.success == success)
            && self.user.as_deref().is_none_or(|user| row.user == Some(user))
    }

    /// Whether a file may hold rows that are asked for.
    pub(super) fn may_be_in(&self, file: &AttemptFile) -> bool {
        let record = file.record();
        self.may_be_between(record.time_min, record.time_max)
            // Files do not say whether they hold rows without a place.
            && self.sequence.is_none_or(|it| it == 0 || file.may_hold(it, it))
            && self.user.as_deref().is_none_or(|it| *record.user_min <= *it && *it <= *record.user_max)
    }

    /// Whether a row group with rows from `earliest` to `latest` may.
    pub(super) fn may_be_in_group(&self, extent: &Extent<'_>, earliest: i64, latest: i64) -> bool {
        self.may_be_between(earliest, latest)
            && self.endpoint.as_deref().is_none_or(|it| extent.may_hold_text("endpoint_id", it))
            && self.sequence.is_none_or(|it| extent.may_hold_number("sequence", it, it))
    }

    fn may_be_between(&self, earliest: i64, latest: i64) -> bool {
        let (first, last) = self.times();
        earliest <= last && first <= latest
    }
}

/// The last place before another.
fn just_before((at_ms, tie): AttemptKey) -> AttemptKey {
    match tie.checked_sub(1) {
        Some(tie) => (at_ms, tie),
        None => (at_ms.saturating_sub(1), u64::MAX),
    }
}
