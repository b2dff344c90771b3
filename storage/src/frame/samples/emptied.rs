//! A samples frame without some of its groups.
//!
//! An erased group stays as an empty one that knows how many rows it had: so the other
//! groups keep their numbers, events their places, and readers that count a frame's
//! events count as before. In the place of its user stands `~` and the number of the
//! user's first group, which is no user id and tells users apart.

use std::ops::Range;

use hashbrown::HashMap;

use super::{
    ABSENT, COLUMN_DAILY, COLUMN_ENDED, COLUMN_ZONE, ERASED, Group, HEAD_BYTES, Layout, SamplesFrame,
    Strings, as_u32,
};
use crate::frame::{Draft, Kind, padded};

/// Begins what stands for an erased user; no user id begins so.
const ERASED_USER: char = '~';

impl SamplesFrame {
    /// This frame, at its place and with its marks, without the groups for which `gone`
    /// is true: they stay as empty ones, so that the others keep their numbers, and
    /// know how many rows they had. Neighbours that differ only by device are one
    /// event and go together. `None` if nothing goes.
    #[must_use]
    pub fn without(&self, mut gone: impl FnMut(&Group<'_>) -> bool) -> Option<Vec<u8>> {
        let mut erased = vec![false; self.group_count()];
        let mut first = 0;
        while first < erased.len() {
            let event = self.event_groups(first);
            // Each is asked, also behind one that goes: whoever is asked may count.
            let goes = event.clone().fold(false, |goes, index| {
                let group = self.group(index);
                goes | (group.count > 0 && gone(&group))
            });
            erased[event.clone()].fill(goes);
            first = event.end;
        }
        erased.contains(&true).then(|| self.emptied(&erased))
    }

    /// The groups that belong to one event with group `first`: neighbours that differ
    /// only by device.
    #[must_use]
    pub fn event_groups(&self, first: usize) -> Range<usize> {
        let names = |index: usize| {
            let group = self.group(index);
            (group.user, group.metric, group.source)
        };
        let behind = first + 1..self.group_count();
        let same = behind.take_while(|&index| names(index) == names(first)).count();
        first..first + 1 + same
    }

    fn emptied(&self, erased: &[bool]) -> Vec<u8> {
        let kept: Vec<usize> = (0..erased.len())
            .filter(|&index| !erased[index])
            .flat_map(|index| self.group(index).rows())
            .collect();
        let layout = Layout::new(erased.len(), kept.len(), self.layout.columns);
        let (mut strings, firsts) = (Strings::default(), self.first_groups());
        let org = strings.add(self.org());
        let draft = Draft::build(Kind::Samples, self.header.is_backfill(), layout.strings_at, |out| {
            let start = out.len();
            out.resize(start + HEAD_BYTES, 0);
            let mut row = 0;
            for (index, &erased) in erased.iter().enumerate() {
                let group = self.group(index);
                let first = if erased || group.count == 0 { 0 } else { row };
                row += if erased { 0 } else { group.count };
                let standing = (erased && !group.user.starts_with(ERASED_USER))
                    .then(|| format!("{ERASED_USER}{}", firsts[group.user]));
                let user = standing.as_deref().unwrap_or(group.user);
                put_emptied(out, &mut strings, &group, (user, first, erased));
            }
            self.put_kept(out, start, &kept);
            debug_assert_eq!(out.len() - start, layout.strings_at);
            out.extend_from_slice(strings.bytes.as_bytes());
            for (at, number) in [
                (0, as_u32(layout.groups)),
                (4, as_u32(layout.samples)),
                (8, layout.columns),
                (12, as_u32(strings.bytes.len())),
                (16, org.0),
                (20, org.1),
            ] {
                out[start + at..start + at + 4].copy_from_slice(&number.to_le_bytes());
            }
        });
        draft.seal(self.header.stamp)
    }

    /// The number of each user's first group.
    fn first_groups(&self) -> HashMap<&str, usize> {
        let mut firsts = HashMap::new();
        for (index, group) in self.groups().enumerate() {
            firsts.entry(group.user).or_insert(index);
        }
        firsts
    }

    fn put_kept(&self, out: &mut Vec<u8>, start: usize, rows: &[usize]) {
        let payload = self.payload();
        let mut column = |at: usize, width: usize| {
            for row in rows {
                let from = at + row * width;
                out.extend_from_slice(&payload[from..from + width]);
            }
            out.resize(start + padded(out.len() - start), 0);
        };
        column(self.layout.recorded_at, 8);
        column(self.layout.value, 8);
        for (bit, at, width) in [
            (COLUMN_ZONE, self.layout.zone, 2),
            (COLUMN_ENDED, self.layout.ended_at, 8),
            (COLUMN_DAILY, self.layout.daily, 1),
        ] {
            if self.layout.columns & bit != 0 {
                column(at, width);
            }
        }
    }
}

/// A group as it was, or as an empty one.
fn put_emptied(
    out: &mut Vec<u8>,
    strings: &mut Strings,
    group: &Group<'_>,
    (user, first, erased): (&str, usize, bool),
) {
    let empty = erased || group.count == 0;
    let device = group.device.filter(|_| !empty).map_or((ABSENT, 0), |device| strings.add(device));
    for (at, bytes) in [
        strings.add(user),
        strings.add(group.metric),
        strings.add(group.unit),
        strings.add(group.source),
        device,
    ] {
        out.extend_from_slice(&at.to_le_bytes());
        out.extend_from_slice(&bytes.to_le_bytes());
    }
    let (count, earliest, latest) =
        if empty { (0, i64::MAX, i64::MIN) } else { (group.count, group.earliest, group.latest) };
    out.extend_from_slice(&as_u32(first).to_le_bytes());
    out.extend_from_slice(&as_u32(count).to_le_bytes());
    out.extend_from_slice(&earliest.to_le_bytes());
    out.extend_from_slice(&latest.to_le_bytes());
    let mark = group.mark as u8 | if empty { ERASED } else { 0 };
    out.extend_from_slice(&[mark, 0, 0, 0]);
    let rows = if empty { group.count.max(group.erased_rows) } else { 0 };
    out.extend_from_slice(&as_u32(rows).to_le_bytes());
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::frame::{Columns, ENDED_NONE, GroupSpec, Mark, Sequence, Stamp, ZONE_UNKNOWN, encode_samples};

    #[test]
    fn an_erased_group_stays_as_an_empty_one_and_the_others_as_they_were() {
        let group = |user, device, first, count| GroupSpec {
            user,
            metric: "steps",
            unit: "count",
            source: "apple",
            device,
            first,
            count,
        };
        let groups = [
            group("secret-user", Some("watch"), 0, 2),
            group("secret-user", None, 2, 1),
            group("u_2", Some("ring"), 3, 2),
            group("other-secret", None, 5, 1),
        ];
        let columns = Columns {
            recorded_at: &[10, 20, 30, 40, 50, 60],
            value: &[1.0, 2.0, 3.0, 4.0, 5.0, 6.0],
            zone: Some(&[0, 60, ZONE_UNKNOWN, 120, ZONE_UNKNOWN, 180]),
            ended_at: Some(&[11, 21, 31, 41, ENDED_NONE, 61]),
            daily: Some(&[0, 1, 2, 0, 1, 2]),
        };
        let stamp = Stamp { sequence: Sequence(7), synced: Sequence(6), ordering: 9, committed_at: 5 };
        let mut draft = encode_samples("acme", true, &groups, columns);
        draft.mark_groups(|_, group| if group.user == "u_2" { Mark::Look } else { Mark::New }).unwrap();
        let frame = SamplesFrame::parse(draft.seal(stamp).into()).unwrap();
        assert!(frame.without(|group| group.user == "nobody").is_none());
        // Of the first event only one group is asked for; both go.
        let bytes = frame.without(|group| group.device == Some("watch")).unwrap();
        assert!(!bytes.windows(11).any(|window| window == b"secret-user"));
        crate::frame::verify(&bytes).unwrap();
        let once = SamplesFrame::parse(bytes.into()).unwrap();
        let bytes = once.without(|group| group.user == "other-secret").unwrap();
        let twice = SamplesFrame::parse(bytes.into()).unwrap();
        assert_eq!(twice.header().stamp, stamp);
        assert!(twice.header().is_backfill() && twice.org() == "acme");
        let erased: Vec<usize> = twice.groups().map(|group| group.erased_rows).collect();
        assert_eq!((erased, twice.sample_count()), (vec![2, 1, 0, 1], 2));
        let users: Vec<&str> = (0..4).map(|index| twice.group(index).user).collect();
        assert_eq!(users, ["~0", "~0", "u_2", "~3"]);
        let kept = twice.group(2);
        assert_eq!((kept.mark, kept.device, kept.rows()), (Mark::Look, Some("ring"), 0..2));
        assert_eq!((kept.earliest, kept.latest), (40, 50));
        let row = |row| (twice.recorded_at(row), twice.value(row), twice.zone(row), twice.ended_at(row));
        assert_eq!([row(0), row(1)], [(40, 4.0, Some(120), Some(41)), (50, 5.0, None, None)]);
        assert_eq!((twice.is_daily_total(0), twice.is_daily_total(1)), (None, Some(false)));
        assert!(twice.without(|group| group.user.starts_with('~')).is_none());
    }
}
