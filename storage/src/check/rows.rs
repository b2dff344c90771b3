//! The rows of one data file against the catalog's description of them.
//!
//! Rows come in runs in which no text changes, so texts are compared once a run and
//! only numbers row by row. Each kind of fault is named once a file, at its first row.

use std::collections::{BTreeMap, HashSet};
use std::ops::Range;

use super::{Context, Fault, MetricRule};
use crate::catalog::SectionRecord;
use crate::files::{Block, DAY_MS, DataFile, Period, bucket_of, day_of};
use crate::frame::Sequence;
use crate::series::{SeriesName, user_hash};

/// See the module; takes a file's blocks in order.
pub(super) struct RowCheck<'a> {
    context: &'a Context<'a>,
    file: &'a DataFile,
    /// Times of the file's period; all times in a run.
    period: Range<i64>,
    /// Rows before the block at hand.
    before: u64,
    /// Which section is next.
    next: usize,
    section: Option<Section<'a>>,
    named: HashSet<&'static str>,
    /// The sections are not those of the catalog, so nothing more can be compared.
    lost: bool,
}

/// The section whose rows come.
struct Section<'a> {
    record: &'a SectionRecord,
    rule: Option<MetricRule>,
    previous: Option<Previous>,
    rows: u64,
    user_min: String,
    sequences: (u64, u64),
    times: (i64, i64),
    days: BTreeMap<i32, u64>,
}

/// The row before, in the words of the order.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Previous {
    user: String,
    time: i64,
    source: String,
    device: Option<String>,
    sequence: u64,
}

impl<'a> RowCheck<'a> {
    pub(super) fn new(context: &'a Context<'a>, file: &'a DataFile) -> RowCheck<'a> {
        let period = if file.is_run() { None } else { Period::parse(&file.record.period) };
        RowCheck {
            context,
            file,
            period: period.map_or(i64::MIN..i64::MAX, Period::times),
            before: 0,
            next: 0,
            section: None,
            named: HashSet::new(),
            lost: false,
        }
    }

    pub(super) fn block(&mut self, block: &Block) {
        let mut row = 0;
        while row < block.rows() && !self.lost {
            let end = block.text_run_end(row);
            self.enter_section(block, row);
            self.run(block, row..end);
            row = end;
        }
        self.before += block.rows() as u64;
        self.context.rows.fetch_add(block.rows() as u64, std::sync::atomic::Ordering::Relaxed);
    }

    /// Ends the last section.
    pub(super) fn finish(mut self) {
        self.leave_section();
        let sections = &self.file.record.sections;
        if !self.lost && self.next < sections.len() {
            let missing = &sections[self.next];
            self.statistics(missing, "rows", missing.rows, 0);
        }
    }

    /// Goes to the section of a row, if it is another than the one at hand.
    fn enter_section(&mut self, block: &Block, row: usize) {
        let (org, metric) = (block.org(row), block.metric(row));
        let is_it = |section: &SectionRecord| section.org == org && section.metric == metric;
        if self.section.as_ref().is_some_and(|section| is_it(section.record)) {
            return;
        }
        self.leave_section();
        let Some(record) = self.file.record.sections.get(self.next).filter(|record| is_it(record)) else {
            self.lost = true;
            self.context.unread.store(true, std::sync::atomic::Ordering::Relaxed);
            return self.name("section", row, || {
                format!(
                    "is of organisation {org} and metric {metric}, which is not the catalog's next section"
                )
            });
        };
        self.next += 1;
        let rule = (self.context.rules)(org, metric);
        if rule.is_none() {
            self.name("metric", row, || format!("is of {metric}, which organisation {org} has no metric of"));
        }
        self.section = Some(Section {
            record,
            rule,
            previous: None,
            rows: 0,
            user_min: block.user(row).to_owned(),
            sequences: (u64::MAX, 0),
            times: (i64::MAX, i64::MIN),
            days: BTreeMap::new(),
        });
    }

    /// Compares what came with what the catalog says.
    fn leave_section(&mut self) {
        let Some(section) = self.section.take() else { return };
        let record = section.record;
        self.statistics(record, "rows", record.rows, section.rows);
        let (first, last) = section.sequences;
        self.statistics(record, "first sequence", record.sequence_first, Sequence(first));
        self.statistics(record, "last sequence", record.sequence_last, Sequence(last));
        self.statistics(record, "earliest time", record.time_min, section.times.0);
        self.statistics(record, "latest time", record.time_max, section.times.1);
        // Who they are is nobody's business here.
        let user_max = section.previous.map(|previous| previous.user).unwrap_or_default();
        let same = |same: bool| if same { "the catalog's" } else { "another" };
        self.statistics(record, "first user", "the catalog's", same(record.user_min == section.user_min));
        self.statistics(record, "last user", "the catalog's", same(record.user_max == user_max));
        if !record.days.is_empty() {
            let days: Vec<(i32, u64)> = section.days.into_iter().collect();
            let counted = same(days == record.days);
            self.statistics(record, "rows by day", "the catalog's", counted);
        }
    }

    /// Rows in which no text changes.
    fn run(&mut self, block: &Block, rows: Range<usize>) {
        let Some(mut section) = self.section.take() else { return };
        let first = rows.start;
        self.check_texts(block, first, &section);
        self.check_order(block, rows.clone(), &section);
        self.check_numbers(block, rows.clone(), &mut section);
        self.check_series(block, rows.clone());
        let last = rows.end - 1;
        let previous = section.previous.get_or_insert_with(|| Previous::of(block, last));
        previous.set(block, last);
        section.rows += rows.len() as u64;
        self.section = Some(section);
    }

    fn check_texts(&mut self, block: &Block, row: usize, section: &Section<'_>) {
        let user = block.user(row);
        let record = &self.file.record;
        let known = section.previous.as_ref().is_some_and(|previous| previous.user == user);
        if !known && !self.file.is_run() {
            let bucket = bucket_of(user_hash(block.org(row), user), record.bucket_bits);
            if bucket != record.bucket {
                self.name("bucket", row, || {
                    format!("is of a user of bucket {bucket}, not {}", record.bucket)
                });
            }
        }
        if let Some(rule) = &section.rule
            && rule.unit != block.unit(row)
        {
            self.name("unit", row, || format!("has the unit {:?}, not {:?}", block.unit(row), rule.unit));
        }
    }

    fn check_order(&mut self, block: &Block, rows: Range<usize>, section: &Section<'_>) {
        let (times, sequences) = (block.times(), block.sequences());
        let first = rows.start;
        let mut twice = None;
        if let Some(previous) = &section.previous {
            let here = Previous::of(block, first);
            if *previous >= here {
                self.name("order", first, || "is not in the order of the file".to_owned());
            }
            let same_key = (&previous.user, previous.time, &previous.source, &previous.device)
                == (&here.user, here.time, &here.source, &here.device);
            twice = same_key.then_some(first);
        }
        for row in first + 1..rows.end {
            if times[row - 1] < times[row] {
                continue;
            }
            if times[row - 1] > times[row] || sequences[row - 1] >= sequences[row] {
                self.name("order", row, || "is not in the order of the file".to_owned());
            } else {
                twice = twice.or(Some(row));
            }
        }
        if let Some(row) = twice.filter(|_| section.record.unique) {
            self.name("unique", row, || {
                "has the key of the row before, in a section without such".to_owned()
            });
        }
    }

    fn check_numbers(&mut self, block: &Block, rows: Range<usize>, section: &mut Section<'_>) {
        let times = &block.times()[rows.clone()];
        for &time in times {
            section.times = (section.times.0.min(time), section.times.1.max(time));
        }
        if let Some(at) = times.iter().position(|time| !self.period.contains(time)) {
            let period = &self.file.record.period;
            self.name("period", rows.start + at, || format!("was not recorded in {period}"));
        }
        count_days(times, &mut section.days);
        let sequences = &block.sequences()[rows.clone()];
        for &sequence in sequences {
            section.sequences = (section.sequences.0.min(sequence), section.sequences.1.max(sequence));
        }
        if let Some(flushed) = self.context.flushed
            && let Some(at) = sequences.iter().position(|sequence| *sequence > flushed.0)
        {
            let sequence = sequences[at];
            self.name("flushed", rows.start + at, || {
                format!("has sequence {sequence}, but files reach to {flushed} only")
            });
        }
        let (min, max) =
            section.rule.as_ref().map_or((f64::MIN, f64::MAX), |rule| (rule.hard_min, rule.hard_max));
        let values = &block.values()[rows.clone()];
        // False of what is no number, too.
        if let Some(at) = values.iter().position(|value| !(min <= *value && *value <= max)) {
            self.name("value", rows.start + at, || format!("has a value that is not within {min} and {max}"));
        }
        let ended = |row: &usize| block.ended_at(*row).is_some_and(|end| end < block.times()[*row]);
        if let Some(row) = rows.clone().find(ended) {
            self.name("ended_at", row, || "ended before it was recorded".to_owned());
        }
    }

    /// Compares rows of one series with what the checkpoints say of it.
    fn check_series(&mut self, block: &Block, rows: Range<usize>) {
        let Some(told) = &self.context.told else { return };
        let first = rows.start;
        let (org, user, metric) = (block.org(first), block.user(first), block.metric(first));
        if !told.compares(org, user) {
            return;
        }
        let row = |row: usize| (block.times()[row], Sequence(block.sequences()[row]));
        let newest = told.newest(org, user, metric);
        if let Some(newest) = newest {
            rows.clone().map(row).for_each(|(time, sequence)| newest.meet(time, sequence));
        }
        let hiding = self.context.hidden.of(org, metric, user);
        let is_told = |at: &usize| {
            let (time, sequence) = row(*at);
            sequence <= told.position && hiding.as_ref().is_none_or(|hiding| !hiding.erases(time, sequence))
        };
        let (Some(earliest), Some(latest)) = (rows.clone().find(is_told), rows.rev().find(is_told)) else {
            return;
        };
        let (source, device) = (block.source(first), block.device(first));
        let span = told.span(&SeriesName { org, user, metric, source, device });
        let outside = |at: usize| span.is_none_or(|(from, to)| row(at).0 < from || row(at).0 > to);
        if let Some(at) = [earliest, latest].into_iter().find(|at| outside(*at)) {
            let what = || "was not recorded within what the checkpoints know of its series".to_owned();
            self.name("span", at, what);
        }
        let (time, sequence) = row(latest);
        if newest.is_some_and(|newest| newest.is_older_than(time, sequence)) {
            self.name("newest", latest, || "is newer than the newest value in the checkpoints".to_owned());
        }
    }

    /// Names a fault at a row of the block, unless one of its kind was named.
    fn name(&mut self, kind: &'static str, row: usize, what: impl FnOnce() -> String) {
        if self.named.insert(kind) {
            let path = self.file.record.path.clone();
            self.context.fault(Fault::Row { path, row: self.before + row as u64, what: what() });
        }
    }

    fn statistics<T: ToString + PartialEq>(
        &self,
        section: &SectionRecord,
        what: &str,
        expected: T,
        actual: T,
    ) {
        if expected != actual {
            self.context.fault(Fault::Statistics {
                path: self.file.record.path.clone(),
                what: format!("{what} of {}/{}", section.org, section.metric),
                expected: expected.to_string(),
                actual: actual.to_string(),
            });
        }
    }
}

impl Previous {
    fn of(block: &Block, row: usize) -> Previous {
        Previous {
            user: block.user(row).to_owned(),
            time: block.times()[row],
            source: block.source(row).to_owned(),
            device: block.device(row).map(str::to_owned),
            sequence: block.sequences()[row],
        }
    }

    /// Becomes this row, in the memory it has.
    fn set(&mut self, block: &Block, row: usize) {
        block.user(row).clone_into(&mut self.user);
        block.source(row).clone_into(&mut self.source);
        match (block.device(row), &mut self.device) {
            (Some(device), Some(kept)) => device.clone_into(kept),
            (device, kept) => *kept = device.map(str::to_owned),
        }
        (self.time, self.sequence) = (block.times()[row], block.sequences()[row]);
    }
}

/// Counts rows by day; times of a run rise, so a day is a stretch of them.
fn count_days(times: &[i64], days: &mut BTreeMap<i32, u64>) {
    let mut rest = times;
    while let Some(&first) = rest.first() {
        let day = day_of(first);
        let from = i64::from(day) * DAY_MS;
        let rows = rest.iter().take_while(|time| (from..from + DAY_MS).contains(time)).count();
        *days.entry(day).or_default() += rows as u64;
        rest = &rest[rows..];
    }
}
