//! What of a snapshot a scan reads, and which of it can hold the same keys.
//!
//! Rows of one key can lie in several files and in the buffers; only the latest is an
//! answer. So files of a metric that overlap in users, times and bucket are read
//! together, through a merge, as is what overlaps the buffers. A file that overlaps
//! nothing and holds each key once is read alone, in any order and by all threads:
//! after compaction that is every file.

use std::collections::BTreeMap;
use std::sync::Arc;

use datafusion::error::Result;

use super::wanted::{Extents, Wanted};
use crate::files::Section;
use crate::frame::{Group, SamplesFrame};
use crate::store::Snapshot;

/// The frames of one organisation that were in the buffers, in commit order.
pub(super) type Frames = Arc<[SamplesFrame]>;

/// A group of a frame, by its place.
#[derive(Clone, Copy, Debug)]
pub(super) struct GroupAt {
    pub(super) frame: u32,
    pub(super) group: u32,
}

impl GroupAt {
    pub(super) fn of<'a>(&self, frames: &'a [SamplesFrame]) -> (&'a SamplesFrame, Group<'a>) {
        let frame = &frames[self.frame as usize];
        (frame, frame.group(self.group as usize))
    }
}

/// The frames of `org` that a snapshot's buffers hold.
pub(super) fn frames_of(snapshot: &Snapshot, org: &str) -> Frames {
    snapshot.buffers().flat_map(|buffer| buffer.frames()).filter(|frame| frame.org() == org).collect()
}

/// Files and groups of one metric that are read together.
#[derive(Debug)]
pub(super) struct Part {
    pub(super) metric: Arc<str>,
    pub(super) files: Vec<Section>,
    /// Sorted by user, and by commit order within one.
    pub(super) groups: Vec<GroupAt>,
}

impl Part {
    /// Whether its rows are the answer's rows as they stand: one file, each key once.
    pub(super) fn is_direct(&self) -> bool {
        self.groups.is_empty() && matches!(self.files.as_slice(), [section] if is_plain(section))
    }

    /// How many rows are read, superseded ones counted.
    pub(super) fn rows(&self, frames: &[SamplesFrame]) -> u64 {
        let buffered: usize = self.groups.iter().map(|at| at.of(frames).1.count).sum();
        self.files.iter().map(|section| section.rows).sum::<u64>() + buffered as u64
    }
}

/// Whether a section is all of its file, and no two rows of it have one key. A flush keeps a
/// superseded row until it is decided what its successor changed, so a file may hold two.
fn is_plain(section: &Section) -> bool {
    section.unique && !section.file.is_run()
}

/// The parts of a scan, in the order of their metrics.
pub(super) fn parts_of(
    snapshot: &Snapshot,
    org: &str,
    frames: &[SamplesFrame],
    wanted: &Wanted,
) -> Result<Vec<Part>> {
    let mut groups = groups_by_metric(frames, wanted);
    for metric in snapshot.files.metrics_of(org) {
        groups.entry(metric).or_default();
    }
    let metrics: Vec<&str> = groups.keys().copied().collect();
    let held = wanted.metrics(org, &metrics)?;
    let mut parts = Vec::new();
    for ((metric, groups), _) in groups.into_iter().zip(held).filter(|(_, held)| *held) {
        let files = wanted_files(snapshot, org, metric, wanted);
        let groups = wanted_groups(org, metric, frames, groups, wanted);
        connect(metric, files, groups, frames, &mut parts);
    }
    Ok(parts)
}

fn groups_by_metric<'a>(frames: &'a [SamplesFrame], wanted: &Wanted) -> BTreeMap<&'a str, Vec<GroupAt>> {
    let mut found: BTreeMap<&str, Vec<GroupAt>> = BTreeMap::new();
    for (frame, content) in (0..).zip(frames) {
        for (group, content) in (0..).zip(content.groups()) {
            if wanted.user(content.user) {
                found.entry(content.metric).or_default().push(GroupAt { frame, group });
            }
        }
    }
    found
}

fn wanted_files(snapshot: &Snapshot, org: &str, metric: &str, wanted: &Wanted) -> Vec<Section> {
    let files = snapshot.files.of(org, metric);
    let records = || files.iter();
    let extents = Extents {
        org,
        metric,
        users: records().map(|record| (record.user_min.as_str(), record.user_max.as_str())).collect(),
        times: records().map(|record| (record.time_min, record.time_max)).collect(),
    };
    let named = |section: &Section| {
        let (first, last) = (section.user_min.as_str(), section.user_max.as_str());
        wanted.users().is_none_or(|users| users.iter().any(|user| (first..=last).contains(&user.as_str())))
    };
    let kept = wanted.prune(&extents).into_iter().zip(files);
    kept.filter(|(kept, file)| *kept && named(file)).map(|(_, file)| file.clone()).collect()
}

fn wanted_groups(
    org: &str,
    metric: &str,
    frames: &[SamplesFrame],
    groups: Vec<GroupAt>,
    wanted: &Wanted,
) -> Vec<GroupAt> {
    let spans = || groups.iter().map(|at| at.of(frames).1);
    let extents = Extents {
        org,
        metric,
        users: spans().map(|group| (group.user, group.user)).collect(),
        times: spans().map(|group| (group.earliest, group.latest)).collect(),
    };
    let kept = wanted.prune(&extents);
    let mut groups: Vec<GroupAt> =
        groups.into_iter().zip(kept).filter(|(_, kept)| *kept).map(|(at, _)| at).collect();
    // Stable, so that a user's groups stay in commit order.
    groups.sort_by(|a, b| a.of(frames).1.user.cmp(b.of(frames).1.user));
    groups
}

/// Puts together what can hold the same keys.
fn connect(
    metric: &str,
    files: Vec<Section>,
    groups: Vec<GroupAt>,
    frames: &[SamplesFrame],
    parts: &mut Vec<Part>,
) {
    let metric: Arc<str> = metric.into();
    // Which set each file is in; the last set is the buffers'.
    let mut sets: Vec<usize> = (0..=files.len()).collect();
    let buffered = files.len();
    for (at, file) in files.iter().enumerate() {
        let meets = |other: &&Section| may_share_keys(file, other);
        for other in files[..at].iter().enumerate().filter(|(_, other)| meets(other)).map(|(other, _)| other)
        {
            unite(&mut sets, at, other);
        }
        if groups.iter().any(|group| holds_keys_of(file, &group.of(frames).1)) {
            unite(&mut sets, at, buffered);
        }
    }
    let mut together: BTreeMap<usize, Vec<Section>> = BTreeMap::new();
    for (set, file) in sets.iter().zip(files) {
        together.entry(*set).or_default().push(file);
    }
    let with_groups = together.remove(&sets[buffered]).unwrap_or_default();
    parts.extend(together.into_values().map(|files| Part {
        metric: metric.clone(),
        files,
        groups: Vec::new(),
    }));
    if !with_groups.is_empty() || !groups.is_empty() {
        parts.push(Part { metric, files: with_groups, groups });
    }
}

fn unite(sets: &mut [usize], a: usize, b: usize) {
    let (keep, drop) = (sets[a], sets[b]);
    sets.iter_mut().filter(|set| **set == drop).for_each(|set| *set = keep);
}

/// Whether two files of a metric may hold the same key.
fn may_share_keys(a: &Section, b: &Section) -> bool {
    let (of_a, of_b) = (&a.file.record, &b.file.record);
    // A user is in the bucket that the first bits of its hash name.
    let bits = of_a.bucket_bits.min(of_b.bucket_bits);
    let first_bits = |bucket: u32, of: u32| bucket.checked_shr(of - bits).unwrap_or(0);
    a.time_min <= b.time_max
        && b.time_min <= a.time_max
        && a.user_min <= b.user_max
        && b.user_min <= a.user_max
        && first_bits(of_a.bucket, of_a.bucket_bits) == first_bits(of_b.bucket, of_b.bucket_bits)
}

fn holds_keys_of(section: &Section, group: &Group<'_>) -> bool {
    section.time_min <= group.latest
        && group.earliest <= section.time_max
        && *section.user_min <= *group.user
        && *group.user <= *section.user_max
}
