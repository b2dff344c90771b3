//! What a file holds of each metric, found out while it is written.

use std::collections::BTreeMap;

use super::layout::{DAY_MS, day_of};
use super::rows::{Names, Rows};
use crate::catalog::SectionRecord;
use crate::frame::Sequence;

/// The sections of a file so far.
#[derive(Debug, Default)]
pub(super) struct Sections {
    done: Vec<SectionRecord>,
    open: Option<Open>,
}

#[derive(Debug)]
struct Open {
    record: SectionRecord,
    days: BTreeMap<i32, u64>,
    /// The last row's, without the user, who is `user_max`.
    source: String,
    device: Option<String>,
    time: i64,
}

impl Sections {
    /// Whether a row of these names is of another section than the last row.
    pub(super) fn changes(&self, names: &Names<'_>) -> bool {
        self.open.as_ref().is_some_and(|open| !open.holds(names))
    }

    /// The last `added` rows of `rows` are of these names.
    pub(super) fn add(&mut self, names: &Names<'_>, rows: &Rows, added: usize) {
        if self.changes(names) {
            self.done.extend(self.open.take().map(Open::close));
            debug_assert!(
                self.done.last().is_none_or(|last| {
                    (last.org.as_str(), last.metric.as_str()) < (names.org, names.metric)
                }),
                "organisations and metrics come in byte order"
            );
        }
        let times = &rows.recorded_at[rows.len() - added..];
        let sequences = &rows.sequence[rows.len() - added..];
        let Some((first, last)) = times.first().copied().zip(times.last().copied()) else { return };
        let open = match &mut self.open {
            Some(open) => open,
            None => self.open.insert(Open::new(names)),
        };
        open.follow(names, first);
        open.time = last;
        open.count_days(times);
        let record = &mut open.record;
        debug_assert!(times.is_sorted(), "rows come in file order");
        record.unique = record.unique && times.windows(2).all(|pair| pair[0] != pair[1]);
        record.rows += added as u64;
        record.time_min = record.time_min.min(first);
        record.time_max = record.time_max.max(last);
        let (least, greatest) = sequences
            .iter()
            .fold((u64::MAX, 0), |(least, greatest), &number| (least.min(number), greatest.max(number)));
        record.sequence_first = record.sequence_first.min(Sequence(least));
        record.sequence_last = record.sequence_last.max(Sequence(greatest));
    }

    pub(super) fn finish(mut self) -> Vec<SectionRecord> {
        self.done.extend(self.open.map(Open::close));
        self.done
    }
}

impl Open {
    fn new(names: &Names<'_>) -> Open {
        Open {
            record: SectionRecord {
                org: names.org.to_owned(),
                metric: names.metric.to_owned(),
                user_min: names.user.to_owned(),
                user_max: names.user.to_owned(),
                time_min: i64::MAX,
                time_max: i64::MIN,
                rows: 0,
                sequence_first: Sequence(u64::MAX),
                sequence_last: Sequence::ZERO,
                unique: true,
                days: Vec::new(),
            },
            days: BTreeMap::new(),
            source: names.source.to_owned(),
            device: names.device.map(str::to_owned),
            time: i64::MIN,
        }
    }

    fn close(mut self) -> SectionRecord {
        self.record.days = self.days.into_iter().collect();
        self.record
    }

    /// Counts rows by UTC day; `times` are sorted, so a day is a slice.
    fn count_days(&mut self, mut times: &[i64]) {
        while let Some(&first) = times.first() {
            let day = day_of(first);
            let behind = (i64::from(day) + 1) * DAY_MS;
            // Mostly all rows are of one day.
            let count = match times.last() {
                Some(&last) if last < behind => times.len(),
                _ => times.partition_point(|&time| time < behind),
            };
            *self.days.entry(day).or_default() += count as u64;
            times = &times[count..];
        }
    }

    fn holds(&self, names: &Names<'_>) -> bool {
        self.record.metric == names.metric && self.record.org == names.org
    }

    /// Takes over the names of rows that begin at `time`.
    fn follow(&mut self, names: &Names<'_>, time: i64) {
        let same_user = self.record.user_max == names.user;
        let same = same_user && self.source == names.source && self.device.as_deref() == names.device;
        debug_assert!(self.record.user_max.as_str() <= names.user, "users come in byte order");
        debug_assert!(!same_user || self.time <= time, "a user's rows come in order of time");
        if same {
            self.record.unique &= self.record.rows == 0 || self.time != time;
            return;
        }
        names.user.clone_into(&mut self.record.user_max);
        names.source.clone_into(&mut self.source);
        self.device = names.device.map(str::to_owned);
    }
}
