//! What to merge next.
//!
//! Constraints: a row is written once by its flush, once or twice on its way into
//! its period, and about once for each sixfold growth of the period's files, which
//! keeps write amplification under 5; reads meet at most 7 runs of a level and a
//! few files of a period. A file that was found damaged is in no job.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use hashbrown::HashMap;

use super::output::{Place, Places};
use super::periods::choose;
use super::{FILE_BYTES_MAX, byte_len};
use crate::catalog::{FileRecord, SectionRecord};
use crate::files::{DAY_MS, DataFile, FileSet, Period, Section, day_of};

/// Most files a job reads: each is a reader with a batch of its own.
pub(super) const FILES_MAX: usize = 16;
/// Runs of a level that are merged.
const RUNS_MIN: usize = 8;
/// Files of a period, close in size, that are merged.
const FILES_MIN: usize = 6;
/// Files up to this size are close in size whatever they are.
const SMALL_BYTES: u64 = 512 * 1024;
/// Rows that make a file in their period worth while.
const WAITING_ROWS_MIN: u64 = 200_000;
/// A run this old has had all that will come: its rows go to their periods.
const RUN_AGE_MS_MAX: i64 = 7 * 86_400_000;
/// A file is written anew without its aged rows when they are one of so many: each row
/// that goes costs three that stay.
const AGED_PART: u64 = 4;
/// Fewer of them go when the first is aged since this long.
const AGED_MS_MAX: i64 = 30 * DAY_MS;
/// For its aged rows a file is written anew at most once in this time.
const AGED_PAUSE_MS: i64 = DAY_MS;
/// Most bits of a user's hash that choose a bucket: 4096 buckets of 512 MB are more
/// than a period has.
const BUCKET_BITS_MAX: u32 = 12;

/// Files to be merged, and to where.
#[derive(Clone, Debug)]
pub(crate) struct Job {
    pub(crate) inputs: Vec<Arc<DataFile>>,
    pub(crate) work: Work,
}

/// What a job does with its rows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Work {
    /// Rows of runs go to their periods where enough wait, or all of them; the
    /// others into a run of the next level.
    Runs {
        /// Whether all of them.
        all: bool,
    },
    /// Runs into one run.
    Gather,
    /// Files of one period into one a bucket.
    Period,
}

/// How much there is to do, for who decides how fast.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Backlog {
    /// Runs.
    pub runs: u64,
    /// Partitions: organisation, metric, period and bucket.
    pub partitions: u64,
    /// Files of the partition that has most.
    pub partition_files_max: u64,
}

impl Backlog {
    /// Counts a set of files.
    #[must_use]
    pub fn of(files: &FileSet) -> Backlog {
        let mut partitions: BTreeMap<&str, u64> = BTreeMap::new();
        let mut runs = 0;
        for file in files.iter() {
            match file.record.path.rsplit_once('/') {
                Some((folder, _)) if !file.is_run() => *partitions.entry(folder).or_default() += 1,
                _ => runs += 1,
            }
        }
        Backlog {
            runs,
            partitions: partitions.len() as u64,
            partition_files_max: partitions.values().copied().max().unwrap_or_default(),
        }
    }
}

impl Job {
    /// Levels of the files it writes, in periods and as a run.
    pub(crate) fn levels(&self) -> (u32, u32) {
        let highest = self.inputs.iter().map(|file| file.record.level).max().unwrap_or_default();
        match self.work {
            _ if self.cleans_run() => (1, highest.max(1)),
            Work::Runs { .. } | Work::Gather => (1, highest + 1),
            Work::Period => ((highest + 1).min(9), highest + 1),
        }
    }

    /// Whether it writes one run anew. That run stays where it was on its way: with
    /// another level it would not meet those it was to be merged with, with another age
    /// its rows would wait anew for their periods. Only a flush's files are of level 0.
    pub(crate) fn cleans_run(&self) -> bool {
        self.work == Work::Gather && self.inputs.len() == 1
    }

    /// Where the days of a metric go.
    pub(crate) fn places(&self, files: &FileSet, org: &str, metric: &str) -> Places {
        if self.work == Work::Gather {
            return Places::new();
        }
        let (mut days, mut bytes) = (BTreeMap::new(), 0.0);
        for file in &self.inputs {
            if let Some(section) = file.record.section(org, metric) {
                add_days(&mut days, section);
                bytes += file.record.bytes as f64 * section.rows as f64 / file.record.rows.max(1) as f64;
            }
        }
        let rows: u64 = days.values().sum();
        let existing = periods_of(files.of(org, metric));
        let chosen = choose(&days, &existing.keys().copied().collect());
        let mut waiting: BTreeMap<Period, u64> = BTreeMap::new();
        for (day, rows) in &days {
            *waiting.entry(chosen[day]).or_default() += rows;
        }
        let row_bytes = bytes / rows.max(1) as f64;
        let (bits_least, bits_most) = self.input_bits();
        let place = |(&day, &period): (&i32, &Period)| {
            let rows = waiting[&period];
            if self.work == (Work::Runs { all: false }) && rows < WAITING_ROWS_MIN {
                return (day, Place::Run);
            }
            let bytes = (rows as f64 * row_bytes) as u64;
            let known = existing.get(&period).copied().unwrap_or_default();
            let bits = match self.work {
                // The inputs are one bucket of their period, which may have to be cut.
                Work::Period if self.is_of(period) => bits_most.max(bits_least + bits_for(bytes)),
                _ => bits_for(known.bytes + bytes).max(known.bits),
            };
            (day, Place::Period(period, bits.min(BUCKET_BITS_MAX)))
        };
        chosen.iter().map(place).collect()
    }
}

impl Job {
    /// Fewest and most bits of the inputs' buckets.
    fn input_bits(&self) -> (u32, u32) {
        let bits = || self.inputs.iter().map(|file| file.record.bucket_bits);
        (bits().min().unwrap_or_default(), bits().max().unwrap_or_default())
    }

    /// Whether the inputs are files of this period.
    fn is_of(&self, period: Period) -> bool {
        self.inputs.iter().all(|file| Period::parse(&file.record.period) == Some(period))
    }
}

/// Bits of buckets so that each stays well under the most bytes of a file.
fn bits_for(bytes: u64) -> u32 {
    let files = bytes.div_ceil(FILE_BYTES_MAX / 4 * 3).max(1);
    files.next_power_of_two().trailing_zeros().min(BUCKET_BITS_MAX)
}

#[derive(Clone, Copy, Debug, Default)]
struct Known {
    bits: u32,
    bytes: u64,
}

/// The periods a metric has files of.
fn periods_of(sections: &[Section]) -> BTreeMap<Period, Known> {
    let mut periods: BTreeMap<Period, Known> = BTreeMap::new();
    for record in sections.iter().map(|section| &section.file.record) {
        if let Some(period) = Period::parse(&record.period) {
            let known = periods.entry(period).or_default();
            known.bits = known.bits.max(record.bucket_bits);
            known.bytes += record.bytes;
        }
    }
    periods
}

/// A section's rows by day. What was not counted is taken to lie evenly.
fn add_days(days: &mut BTreeMap<i32, u64>, section: &SectionRecord) {
    if !section.days.is_empty() {
        section.days.iter().for_each(|&(day, rows)| *days.entry(day).or_default() += rows);
        return;
    }
    let (first, last) = (day_of(section.time_min), day_of(section.time_max));
    let count = u64::from(last.abs_diff(first)) + 1;
    (first..=last).for_each(|day| *days.entry(day).or_default() += section.rows.div_ceil(count));
}

/// Files that can be merged: not those that were found damaged.
fn whole(files: &FileSet) -> impl Iterator<Item = &Arc<DataFile>> {
    files.iter().filter(|file| !file.is_damaged())
}

/// Samples of an organisation's metric recorded before this are aged, milliseconds.
pub(crate) type Cutoff<'a> = dyn Fn(&str, &str) -> i64 + 'a;

/// The most useful job of files that are whole, if there is one. `now` in milliseconds.
pub(crate) fn next_job(files: &FileSet, now: i64, cutoff: &Cutoff<'_>) -> Option<Job> {
    runs_by_level(files).into_values().find_map(|runs| job_of_runs(&runs, now)).or_else(|| {
        let crowded = |(_, files): (_, Vec<Arc<DataFile>>)| close_in_size(files);
        let partitions = partitions(files);
        let moved = || {
            let existing = Existing::of(files);
            partitions.values().find(|inputs| inputs.iter().any(|file| existing.is_misplaced(file)))
        };
        let inputs = partitions.clone().into_iter().find_map(crowded);
        let inputs = inputs.or_else(|| moved().map(|inputs| smallest(inputs.clone())));
        let worn = || whole(files).find(|file| is_worn(&file.record, now, cutoff));
        let inputs = inputs.or_else(|| worn().map(|file| vec![file.clone()]));
        inputs.map(|inputs| Job { inputs, work: Work::Period })
    })
}

/// Whether a file of a period is to be written anew for its aged rows, which nobody
/// sees any more: they are many, or the first of them is long aged. Runs go to their
/// periods before.
fn is_worn(file: &FileRecord, now: i64, cutoff: &Cutoff<'_>) -> bool {
    let [section] = file.sections.as_slice() else { return false };
    let cutoff = cutoff(&section.org, &section.metric);
    if section.time_min >= cutoff || file.period.is_empty() || now - file.created_at < AGED_PAUSE_MS {
        return false;
    }
    let mut days = BTreeMap::new();
    add_days(&mut days, section);
    // The day of the cutoff is aged in part.
    let aged: u64 = days.range(..day_of(cutoff)).map(|(_, rows)| rows).sum();
    aged.saturating_mul(AGED_PART) >= section.rows || section.time_min < cutoff.saturating_sub(AGED_MS_MAX)
}

/// As many files as a job reads, the smallest.
fn smallest(mut files: Vec<Arc<DataFile>>) -> Vec<Arc<DataFile>> {
    files.sort_by_key(|file| file.record.bytes);
    files.truncate(FILES_MAX);
    files
}

/// The periods that each organisation's metric has files of.
struct Existing<'a>(HashMap<(&'a str, &'a str), BTreeSet<Period>>);

impl<'a> Existing<'a> {
    fn of(files: &'a FileSet) -> Existing<'a> {
        let mut periods: HashMap<(&str, &str), BTreeSet<Period>> = HashMap::new();
        for record in files.iter().map(|file| &file.record) {
            if let Some(period) = Period::parse(&record.period) {
                periods.entry((&record.org, &record.metric)).or_default().insert(period);
            }
        }
        Existing(periods)
    }

    /// Whether a file has rows of a day for which there is a finer period by now: they
    /// came when nobody knew that so many would follow. While they lie here, two files
    /// may hold one key.
    fn is_misplaced(&self, file: &DataFile) -> bool {
        let record = &file.record;
        let Some(period) = Period::parse(&record.period) else { return false };
        let Some(existing) = self.0.get(&(record.org.as_str(), record.metric.as_str())) else { return false };
        let is_finer = |day: i32| match period {
            Period::Day(_) => false,
            Period::Month(..) => existing.contains(&Period::Day(day)),
            Period::Year(_) => {
                existing.contains(&Period::Day(day)) || existing.contains(&Period::month_of(day))
            }
        };
        record.sections.iter().any(|section| section.days.iter().any(|&(day, _)| is_finer(day)))
    }
}

fn job_of_runs(runs: &[Arc<DataFile>], now: i64) -> Option<Job> {
    let aged = |run: &&Arc<DataFile>| now - run.record.created_at > RUN_AGE_MS_MAX;
    let all = runs.iter().any(|run| aged(&run));
    if runs.len() < RUNS_MIN && !all {
        return None;
    }
    let inputs = runs.iter().take(FILES_MAX).cloned().collect();
    Some(Job { inputs, work: Work::Runs { all } })
}

/// Runs, the oldest of each level first.
fn runs_by_level(files: &FileSet) -> BTreeMap<u32, Vec<Arc<DataFile>>> {
    let mut levels: BTreeMap<u32, Vec<Arc<DataFile>>> = BTreeMap::new();
    for run in whole(files).filter(|file| file.is_run()) {
        levels.entry(run.record.level).or_default().push(run.clone());
    }
    levels.values_mut().for_each(|runs| runs.sort_by_key(|run| run.record.sequence_first));
    levels
}

/// Files that share users, by organisation, metric and period: those of one bucket,
/// or of all buckets that the coarsest of them overlaps.
type Shared = (String, String, Period, u32, u32);

fn partitions(files: &FileSet) -> BTreeMap<Shared, Vec<Arc<DataFile>>> {
    let mut periods: BTreeMap<(&str, &str, Period), Vec<&Arc<DataFile>>> = BTreeMap::new();
    for file in whole(files) {
        if let Some(period) = Period::parse(&file.record.period) {
            let key = (file.record.org.as_str(), file.record.metric.as_str(), period);
            periods.entry(key).or_default().push(file);
        }
    }
    let mut partitions: BTreeMap<Shared, Vec<Arc<DataFile>>> = BTreeMap::new();
    for ((org, metric, period), files) in periods {
        let bits = files.iter().map(|file| file.record.bucket_bits).min().unwrap_or_default();
        for file in files {
            let bucket = file.record.bucket >> (file.record.bucket_bits - bits);
            let key = (org.to_owned(), metric.to_owned(), period, bits, bucket);
            partitions.entry(key).or_default().push(file.clone());
        }
    }
    partitions
}

/// Files of a partition that are close in size, if they are enough: none is larger
/// than all the smaller ones together.
fn close_in_size(mut files: Vec<Arc<DataFile>>) -> Option<Vec<Arc<DataFile>>> {
    files.sort_by_key(|file| file.record.bytes);
    let sizes: Vec<u64> = files.iter().map(|file| file.record.bytes).collect();
    let range = (0..sizes.len())
        .map(|first| first..first + close_from(&sizes[first..]))
        .find(|range| range.len() >= FILES_MIN)?;
    Some(files.drain(range).collect())
}

/// How many of `sizes`, rising, are close to one another from the first on.
fn close_from(sizes: &[u64]) -> usize {
    let mut smaller = 0;
    let close = sizes.iter().take_while(|&&bytes| {
        let fits = smaller == 0 || bytes <= smaller.max(SMALL_BYTES);
        smaller += bytes;
        fits
    });
    close.count().min(FILES_MAX)
}

/// The next job on the way to one file in each partition, no run, and nothing
/// superseded; `None` when that is reached. `meant` says which runs count, since more
/// come all the time, `rewrite` which files have to be written anew in any case, `done`
/// which were written as well as they can be.
pub(crate) fn whole_store(
    files: &FileSet,
    meant: &dyn Fn(&DataFile) -> bool,
    rewrite: &dyn Fn(&DataFile) -> bool,
    done: &dyn Fn(&DataFile) -> bool,
) -> Option<Job> {
    let runs = runs_by_level(files).into_values().flatten();
    let runs: Vec<Arc<DataFile>> = runs.filter(|run| meant(run)).collect();
    if !runs.is_empty() {
        let mut inputs = runs;
        inputs.sort_by_key(|run| run.record.bytes);
        let few = inputs.len() <= FILES_MAX;
        inputs.truncate(FILES_MAX);
        let work = if few { Work::Runs { all: true } } else { Work::Gather };
        return Some(Job { inputs, work });
    }
    let existing = Existing::of(files);
    let unfinished = |of_partition: &Vec<Arc<DataFile>>| {
        let rolled = byte_len(of_partition) > FILE_BYTES_MAX;
        let many = of_partition.len() > 1
            && !(rolled && of_partition.iter().all(|file| is_whole(file)) && disjoint(of_partition));
        many || of_partition
            .iter()
            .any(|file| existing.is_misplaced(file) || !done(file) && (!is_whole(file) || rewrite(file)))
    };
    let (_, inputs) = partitions(files).into_iter().find(|(_, of_partition)| unfinished(of_partition))?;
    Some(Job { inputs: smallest(inputs), work: Work::Period })
}

/// Whether a file of a period has each key once.
fn is_whole(file: &DataFile) -> bool {
    file.record.sections.iter().all(|section| section.unique)
}

/// Whether no two of the files of a partition may hold the same user.
fn disjoint(files: &[Arc<DataFile>]) -> bool {
    let mut spans: Vec<(&str, &str)> =
        files.iter().map(|file| (file.record.user_min.as_str(), file.record.user_max.as_str())).collect();
    spans.sort_unstable();
    spans.windows(2).all(|pair| pair[0].1 < pair[1].0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buckets_keep_files_under_the_most_bytes() {
        assert_eq!(bits_for(0), 0);
        assert_eq!(bits_for(FILE_BYTES_MAX / 4 * 3), 0);
        assert_eq!(bits_for(FILE_BYTES_MAX), 1);
        assert_eq!(bits_for(4 * FILE_BYTES_MAX), 3);
    }

    #[test]
    fn files_are_merged_with_those_of_their_size() {
        let mib = 1024 * 1024;
        assert_eq!(close_from(&[mib, 100 * mib, 100 * mib]), 1);
        assert_eq!(close_from(&[100 * mib, 100 * mib, 100 * mib, 301 * mib]), 3);
        assert_eq!(close_from(&[1, 2, 3, 4, 5, 400_000]), 6);
    }

    fn section(days: Vec<(i32, u64)>) -> SectionRecord {
        SectionRecord {
            org: String::new(),
            metric: String::new(),
            rows: 10,
            sequence_first: crate::frame::Sequence(1),
            sequence_last: crate::frame::Sequence(2),
            user_min: String::new(),
            user_max: String::new(),
            time_min: 0,
            time_max: 2 * 86_400_000,
            unique: true,
            days,
        }
    }

    #[test]
    fn rows_that_were_not_counted_by_day_lie_evenly() {
        let section = section(Vec::new());
        let mut days: BTreeMap<i32, u64> = BTreeMap::new();
        add_days(&mut days, &section);
        assert_eq!(days.keys().collect::<BTreeSet<_>>().len(), 3);
        assert!(days.values().sum::<u64>() >= 10);
    }
}
