//! Where a merge's rows go: the files of their periods and buckets, or a run.
//!
//! Constraints: one metric's files are open at a time, and the run; together they
//! hold at most [`OPEN_ROWS_MAX`] rows that are not encoded. Beyond that the fullest
//! ends its row group early.

use std::collections::BTreeMap;
use std::ops::Range;
use std::path::Path;
use std::sync::Arc;

use super::FILE_BYTES_MAX;
use crate::catalog::{Catalog, CatalogError, FileRecord};
use crate::disk::Disk;
use crate::files::{
    Block, DAY_MS, FileKind, FileReadError, FileWriteError, Partition, Period, SamplesFileWriter,
    WrittenFile, bucket_of, day_of, run_file, sync_folders,
};
use crate::series::user_hash;

/// About 200 MB.
const OPEN_ROWS_MAX: usize = 4 * 1024 * 1024;
/// A file that has this many bytes ends with its user. Less than the most, because
/// a user's rows may still come.
const FILE_BYTES_FULL: u64 = FILE_BYTES_MAX - FILE_BYTES_MAX / 8;

/// Why a merge did not get to its end.
#[derive(Debug, thiserror::Error)]
pub(crate) enum MergeError {
    /// An input cannot be read.
    #[error(transparent)]
    Read(#[from] FileReadError),
    /// An output cannot be written.
    #[error(transparent)]
    Write(#[from] FileWriteError),
    /// The catalog gave no number.
    #[error(transparent)]
    Catalog(#[from] CatalogError),
    /// It was asked to stop.
    #[error("the compaction was stopped")]
    Stopped,
}

/// Where a day's rows go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Place {
    /// Into a run, with others for whom no file of a period is worth it yet.
    Run,
    /// Into their period, in the bucket that this many bits of the user's hash name.
    Period(Period, u32),
}

/// A metric's places by day; a day that is missing goes to the run.
pub(crate) type Places = BTreeMap<i32, Place>;

/// Numbers for names of files, each known to the catalog as a leftover before a
/// file has it.
pub(crate) struct Numbers<'a> {
    catalog: &'a Catalog,
    taken: Vec<u64>,
}

impl<'a> Numbers<'a> {
    pub(crate) fn new(catalog: &'a Catalog) -> Numbers<'a> {
        Numbers { catalog, taken: Vec::new() }
    }

    /// The `index`th of this compaction: a folder's first file has the first.
    fn nth(&mut self, index: usize) -> Result<u64, CatalogError> {
        while self.taken.len() <= index {
            self.taken.push(self.catalog.begin_compaction()?);
        }
        Ok(self.taken[index])
    }
}

/// See the module.
pub(crate) struct Outputs<'a> {
    disk: &'a dyn Disk,
    root: &'a Path,
    numbers: Numbers<'a>,
    /// Of the files of periods; a run's is one more than its inputs'.
    level: u32,
    run_level: u32,
    places: &'a dyn Fn(&str, &str) -> Places,
    /// The metric whose rows come now.
    metric: Option<Metric>,
    run: Option<Open>,
    /// Files that were begun in each folder, to number them.
    begun: BTreeMap<String, usize>,
    written: Vec<WrittenFile>,
    rows: u64,
}

struct Metric {
    org: String,
    name: String,
    places: Places,
    open: BTreeMap<(Period, u32, u32), Open>,
    /// The user whose rows came last, with the hash that finds the bucket.
    user: (String, u64),
}

struct Open {
    writer: SamplesFileWriter,
    partition: Option<(Partition, u32)>,
}

impl<'a> Outputs<'a> {
    /// `places` says where a metric's days go.
    pub(crate) fn new(
        disk: &'a dyn Disk,
        root: &'a Path,
        numbers: Numbers<'a>,
        levels: (u32, u32),
        places: &'a dyn Fn(&str, &str) -> Places,
    ) -> Outputs<'a> {
        Outputs {
            disk,
            root,
            numbers,
            level: levels.0,
            run_level: levels.1,
            places,
            metric: None,
            run: None,
            begun: BTreeMap::new(),
            written: Vec::new(),
            rows: 0,
        }
    }

    /// Takes the next rows, all of one user and metric.
    pub(crate) fn push(&mut self, block: &Arc<Block>, rows: Range<usize>) -> Result<(), MergeError> {
        self.rows += rows.len() as u64;
        self.turn_to(block, rows.start)?;
        let mut start = rows.start;
        while start < rows.end {
            let day = day_of(block.recorded_at(start));
            let place = self.place_of(day);
            let mut end = start;
            // Neighbouring days mostly go to the same place.
            let mut next_day = day;
            while end < rows.end && self.place_of(next_day) == place {
                let behind = (i64::from(next_day) + 1) * DAY_MS;
                end += block.times()[end..rows.end].partition_point(|&at| at < behind);
                if end < rows.end {
                    next_day = day_of(block.recorded_at(end));
                }
            }
            self.write(place, block, start..end)?;
            start = end;
        }
        Ok(())
    }

    /// Ends all files and makes them and their names durable. Returns them and
    /// the numbers they were given.
    pub(crate) fn finish(mut self) -> Result<(Vec<FileRecord>, Vec<u64>, u64), MergeError> {
        match self.end() {
            Ok(()) => {
                let records = self.written.into_iter().map(|file| file.record).collect();
                Ok((records, self.numbers.taken, self.rows))
            }
            Err(error) => {
                self.discard();
                Err(error)
            }
        }
    }

    /// Removes what was written. Best effort: a start removes what bears an
    /// unfinished number.
    pub(crate) fn discard(self) -> Vec<u64> {
        for file in &self.written {
            let _ = self.disk.remove(&self.root.join(&file.record.path));
        }
        self.numbers.taken
    }

    fn end(&mut self) -> Result<(), MergeError> {
        self.end_metric()?;
        if let Some(run) = self.run.take() {
            self.end_file(run)?;
        }
        Ok(sync_folders(self.disk, self.root, &self.written)?)
    }

    fn place_of(&self, day: i32) -> Place {
        let metric = self.metric.as_ref().expect("rows have a metric");
        metric.places.get(&day).copied().unwrap_or(Place::Run)
    }

    /// Ends what belongs to the metric and user before.
    fn turn_to(&mut self, block: &Block, row: usize) -> Result<(), MergeError> {
        let (org, name, user) = (block.org(row), block.metric(row), block.user(row));
        let same = self.metric.as_ref().is_some_and(|metric| metric.name == name && metric.org == org);
        if !same {
            self.end_metric()?;
            self.metric = Some(Metric {
                org: org.to_owned(),
                name: name.to_owned(),
                places: (self.places)(org, name),
                open: BTreeMap::new(),
                user: (String::new(), 0),
            });
        }
        if !same || self.metric.as_ref().is_some_and(|metric| metric.user.0 != user) {
            self.end_full()?;
            if let Some(metric) = &mut self.metric {
                metric.user = (user.to_owned(), user_hash(org, user));
            }
        }
        Ok(())
    }

    /// Between two users: ends files that are full, and row groups if too many rows
    /// wait in them.
    fn end_full(&mut self) -> Result<(), MergeError> {
        if self.run.as_ref().is_some_and(Open::is_full)
            && let Some(run) = self.run.take()
        {
            self.end_file(run)?;
        }
        let Some(metric) = &mut self.metric else { return Ok(()) };
        let full: Vec<_> =
            metric.open.iter().filter(|(_, open)| open.is_full()).map(|(key, _)| *key).collect();
        let full: Vec<Open> = full.iter().filter_map(|key| metric.open.remove(key)).collect();
        for open in full {
            self.end_file(open)?;
        }
        self.end_row_groups()
    }

    fn end_row_groups(&mut self) -> Result<(), MergeError> {
        let Some(metric) = &mut self.metric else { return Ok(()) };
        while metric.open.values().map(|open| open.writer.waiting_rows()).sum::<usize>() > OPEN_ROWS_MAX {
            let fullest = metric.open.values_mut().max_by_key(|open| open.writer.waiting_rows());
            if let Some(open) = fullest {
                open.writer.end_row_group()?;
            }
        }
        Ok(())
    }

    fn end_metric(&mut self) -> Result<(), MergeError> {
        let Some(metric) = self.metric.take() else { return Ok(()) };
        for open in metric.open.into_values() {
            self.end_file(open)?;
        }
        Ok(())
    }

    fn end_file(&mut self, open: Open) -> Result<(), MergeError> {
        let mut file = open.writer.finish(self.disk)?;
        match open.partition {
            Some((partition, bits)) => {
                file.record.org = partition.org;
                file.record.metric = partition.metric;
                file.record.period = partition.period.to_string();
                file.record.bucket = partition.bucket;
                file.record.bucket_bits = bits;
            }
            None => {
                file.record.org.clear();
                file.record.metric.clear();
            }
        }
        self.written.push(file);
        Ok(())
    }

    fn write(&mut self, place: Place, block: &Block, rows: Range<usize>) -> Result<(), MergeError> {
        let open = match place {
            Place::Run => match &mut self.run {
                Some(run) => run,
                None => {
                    let index = next_index(&mut self.begun, "");
                    let path = run_file(self.run_level, self.numbers.nth(index)?);
                    let writer = SamplesFileWriter::create_at(
                        self.disk,
                        self.root,
                        &path,
                        FileKind::Run,
                        self.run_level,
                    )?;
                    self.run.insert(Open { writer, partition: None })
                }
            },
            Place::Period(period, bits) => {
                let metric = self.metric.as_mut().expect("rows have a metric");
                let key = (period, bits, bucket_of(metric.user.1, bits));
                match metric.open.entry(key) {
                    std::collections::btree_map::Entry::Occupied(open) => open.into_mut(),
                    std::collections::btree_map::Entry::Vacant(vacant) => {
                        let partition = Partition {
                            org: metric.org.clone(),
                            metric: metric.name.clone(),
                            period,
                            bucket: key.2,
                        };
                        let index = next_index(&mut self.begun, &partition.folder());
                        let path = partition.file(self.level, self.numbers.nth(index)?);
                        let writer = SamplesFileWriter::create_at(
                            self.disk,
                            self.root,
                            &path,
                            FileKind::Period,
                            self.level,
                        )?;
                        vacant.insert(Open { writer, partition: Some((partition, bits)) })
                    }
                }
            }
        };
        Ok(open.writer.push_rows(block, rows)?)
    }
}

impl Open {
    fn is_full(&self) -> bool {
        self.writer.written_bytes() >= FILE_BYTES_FULL
    }
}

fn next_index(begun: &mut BTreeMap<String, usize>, folder: &str) -> usize {
    let count = begun.entry(folder.to_owned()).or_default();
    *count += 1;
    *count - 1
}
