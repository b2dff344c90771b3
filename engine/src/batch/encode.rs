//! From points in the order of their arrival to the columns of a frame.
//!
//! A frame wants the points of a group side by side and strictly rising in time, and
//! the groups of one event side by side: those that differ only by device. A request of one device mostly arrives like that, and its columns are
//! encoded as they are. Otherwise a counting sort brings the points into their
//! groups, and a group that does not rise is sorted by time; of equal times the
//! last point stays.

use systole_storage::frame::{
    self, DAILY_UNKNOWN, Draft, ENDED_NONE, GroupSpec, ZONE_UNKNOWN, encode_samples,
};

use super::group::{Group, Names};
use super::validate::Row;

/// Most points whose columns are kept from one request to the next: 31 bytes
/// each, twice, 4 MiB in all.
pub(super) const POINTS_KEPT: usize = 64 * 1024;

/// Points, column by column.
#[derive(Debug, Default)]
pub(super) struct Columns {
    recorded_at: Vec<i64>,
    value: Vec<f64>,
    zone: Vec<i16>,
    ended_at: Vec<i64>,
    daily: Vec<u8>,
}

impl Columns {
    #[inline]
    pub(super) fn push(&mut self, row: Row) {
        self.recorded_at.push(row.recorded_at);
        self.value.push(row.value);
        self.zone.push(row.zone);
        self.ended_at.push(row.ended_at);
        self.daily.push(row.daily);
    }

    #[inline]
    pub(super) fn len(&self) -> usize {
        self.value.len()
    }

    pub(super) fn clear(&mut self) {
        if self.value.capacity() > POINTS_KEPT {
            *self = Columns::default();
            return;
        }
        self.recorded_at.clear();
        self.value.clear();
        self.zone.clear();
        self.ended_at.clear();
        self.daily.clear();
    }

    /// Becomes `rows` of `from`, in that order.
    fn gather(&mut self, from: &Columns, rows: &[u32]) {
        fn column<T: Copy>(to: &mut Vec<T>, from: &[T], rows: &[u32]) {
            to.extend(rows.iter().map(|&row| from[row as usize]));
        }
        self.clear();
        column(&mut self.recorded_at, &from.recorded_at, rows);
        column(&mut self.value, &from.value, rows);
        column(&mut self.zone, &from.zone, rows);
        column(&mut self.ended_at, &from.ended_at, rows);
        column(&mut self.daily, &from.daily, rows);
    }

    /// The columns of a frame, those left out in which no point has a value.
    fn of_frame(&self) -> frame::Columns<'_> {
        fn used<T: Copy + PartialEq>(column: &[T], absent: T) -> Option<&[T]> {
            column.iter().any(|value| *value != absent).then_some(column)
        }
        frame::Columns {
            recorded_at: &self.recorded_at,
            value: &self.value,
            zone: used(&self.zone, ZONE_UNKNOWN),
            ended_at: used(&self.ended_at, ENDED_NONE),
            daily: used(&self.daily, DAILY_UNKNOWN),
        }
    }
}

/// Encodes points that stand as the frame wants them.
pub(super) fn encode_as_is(org: &str, backfill: bool, names: &Names, columns: &Columns) -> Draft {
    let groups = names.groups().iter().map(|group| (group, group.count));
    encode(org, backfill, names, groups, columns)
}

/// The order of a frame's rows, made anew for each request that needs one.
#[derive(Debug, Default)]
pub(super) struct Order {
    /// Groups as the frame has them: those of one event side by side.
    groups: Vec<u32>,
    /// Rows of the points' columns, group by group.
    rows: Vec<u32>,
    /// Per group, the end of its rows.
    ends: Vec<u32>,
    /// In the frame's order, how many rows of a group stay when superseded ones are
    /// dropped.
    counts: Vec<u32>,
    /// The points in this order.
    sorted: Columns,
}

impl Order {
    pub(super) fn clear(&mut self) {
        self.sorted.clear();
        if self.rows.capacity() > POINTS_KEPT {
            *self = Order::default();
        }
    }

    /// Encodes points that stand in any order; `groups` are those of the points.
    pub(super) fn encode(
        &mut self,
        org: &str,
        backfill: bool,
        names: &Names,
        groups: &[u32],
        columns: &Columns,
    ) -> Draft {
        self.groups.clear();
        names.in_event_order(&mut self.groups);
        self.bring_together(names.groups(), groups);
        self.drop_superseded(names.groups(), &columns.recorded_at);
        self.sorted.gather(columns, &self.rows);
        let ordered = self.groups.iter().map(|&group| &names.groups()[group as usize]);
        encode(org, backfill, names, ordered.zip(self.counts.iter().copied()), &self.sorted)
    }

    /// Fills `rows` group by group, each in the order of arrival.
    fn bring_together(&mut self, groups: &[Group], group_of_row: &[u32]) {
        self.ends.clear();
        self.ends.resize(groups.len(), 0);
        let mut start = 0;
        for &group in &self.groups {
            self.ends[group as usize] = start;
            start += groups[group as usize].count;
        }
        self.rows.clear();
        self.rows.resize(group_of_row.len(), 0);
        for (row, group) in (0..).zip(group_of_row) {
            let end = &mut self.ends[*group as usize];
            self.rows[*end as usize] = row;
            *end += 1;
        }
    }

    /// Sorts the groups that do not rise, and closes the gaps that superseded
    /// points leave.
    fn drop_superseded(&mut self, groups: &[Group], recorded_at: &[i64]) {
        let time = |row: u32| recorded_at[row as usize];
        self.counts.clear();
        let (mut start, mut kept) = (0, 0);
        for &group in &self.groups {
            let end = self.ends[group as usize] as usize;
            if !groups[group as usize].rising {
                // The row as second key makes the sort stable without the
                // memory that a stable sort takes.
                self.rows[start..end].sort_unstable_by_key(|&row| (time(row), row));
            }
            let kept_before = kept;
            for at in start..end {
                let row = self.rows[at];
                if at + 1 == end || time(self.rows[at + 1]) != time(row) {
                    self.rows[kept] = row;
                    kept += 1;
                }
            }
            self.counts.push((kept - kept_before) as u32);
            start = end;
        }
        self.rows.truncate(kept);
    }
}

fn encode<'a>(
    org: &str,
    backfill: bool,
    names: &Names,
    groups: impl Iterator<Item = (&'a Group, u32)>,
    columns: &Columns,
) -> Draft {
    let mut specs = Vec::with_capacity(names.groups().len());
    let mut first = 0;
    for (group, count) in groups {
        specs.push(GroupSpec {
            user: names.text(group.user),
            metric: names.text(group.key),
            unit: names.text(group.unit),
            source: names.text(group.source),
            device: group.device.map(|device| names.text(device)),
            first,
            count,
        });
        first += count;
    }
    encode_samples(org, backfill, &specs, columns.of_frame())
}
