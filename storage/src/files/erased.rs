//! Which of some tombstones a file still holds rows of.
//!
//! Constraints: row groups whose users and times cannot be those asked for are not read;
//! of the others only names, times and sequences are, until each order was found.

use std::collections::BTreeSet;
use std::sync::Arc;

use arrow::array::{Array, AsArray, RecordBatch};
use arrow::datatypes::{Int32Type, TimestampMillisecondType, UInt64Type};
use hashbrown::HashMap;
use parquet::arrow::ProjectionMask;
use parquet::arrow::arrow_reader::{ArrowReaderOptions, ParquetRecordBatchReaderBuilder};
use parquet::file::metadata::RowGroupMetaData;
use parquet::file::statistics::Statistics;

use super::schema::column;
use super::{CheckedFile, DataFile, FileReadError, block_schema};
use crate::catalog::SectionRecord;
use crate::frame::{Erased, Sequence, Tombstone};

/// The places in `tombstones` of those that cover a row of the file.
///
/// # Errors
/// [`FileReadError`].
pub fn erased_in(
    file: &Arc<DataFile>,
    tombstones: &[Arc<Tombstone>],
) -> Result<BTreeSet<usize>, FileReadError> {
    let mut found = BTreeSet::new();
    let asked = Asked::of(file, tombstones);
    if asked.is_empty() {
        return Ok(found);
    }
    let parquet = |source| FileReadError::Parquet { path: file.record.path.clone(), source };
    let reader = CheckedFile::open(file)?;
    let options = ArrowReaderOptions::new().with_schema(block_schema());
    let builder = ParquetRecordBatchReaderBuilder::try_new_with_options(reader, options).map_err(parquet)?;
    let groups = builder.metadata().row_groups().iter().enumerate();
    let groups: Vec<usize> =
        groups.filter(|(_, group)| asked.may_lie_in(group)).map(|(index, _)| index).collect();
    let names = ["org", "user_id", "metric", "recorded_at", "sequence"];
    let mask = ProjectionMask::columns(builder.parquet_schema(), names);
    let batches = builder
        .with_projection(mask)
        .with_row_groups(groups)
        .with_batch_size(64 * 1024)
        .build()
        .map_err(parquet)?;
    for batch in batches {
        let batch = batch.map_err(|error| parquet(error.into()))?;
        asked.look(&batch, &mut found);
        if found.len() == asked.count {
            break;
        }
    }
    Ok(found)
}

/// Whether a tombstone may cover a row of a file, by what the catalog says of that.
#[must_use]
pub fn may_hold(file: &DataFile, tombstone: &Tombstone) -> bool {
    file.record.sections.iter().any(|section| may_cover(tombstone, section))
}

/// Whether a tombstone may cover a row of a section, by what the catalog says of that.
pub(crate) fn may_cover(tombstone: &Tombstone, section: &SectionRecord) -> bool {
    let within = match &tombstone.erased {
        Erased::User { .. } => true,
        Erased::Range { metric, start, end, .. } => {
            metric.as_ref().is_none_or(|metric| *metric == section.metric)
                && section.time_min < *end
                && section.time_max >= *start
        }
    };
    let holds = |user: &str| *section.user_min <= *user && *user <= *section.user_max;
    within
        && section.org == tombstone.org
        && tombstone.erased.user().is_none_or(holds)
        && section.sequence_first <= through(tombstone)
}

/// Tombstones that a file may hold rows of, by their places.
struct Asked<'a> {
    tombstones: &'a [Arc<Tombstone>],
    by_user: HashMap<&'a str, Vec<usize>>,
    everyone: Vec<usize>,
    /// How many they are.
    count: usize,
}

impl<'a> Asked<'a> {
    fn of(file: &DataFile, tombstones: &'a [Arc<Tombstone>]) -> Asked<'a> {
        let mut asked = Asked { tombstones, by_user: HashMap::new(), everyone: Vec::new(), count: 0 };
        for (index, tombstone) in tombstones.iter().enumerate() {
            if !may_hold(file, tombstone) {
                continue;
            }
            asked.count += 1;
            match tombstone.erased.user() {
                Some(user) => asked.by_user.entry(user).or_default().push(index),
                None => asked.everyone.push(index),
            }
        }
        asked
    }

    fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// Whether a row group may hold what is asked for, by its statistics.
    fn may_lie_in(&self, group: &RowGroupMetaData) -> bool {
        self.may_hold_users(group) || self.may_hold_times(group)
    }

    /// Whether it may hold times of an order about every user.
    fn may_hold_times(&self, group: &RowGroupMetaData) -> bool {
        let Some(Statistics::Int64(times)) = group.column(column("recorded_at")).statistics() else {
            return !self.everyone.is_empty();
        };
        let bounds = times.min_opt().zip(times.max_opt());
        self.everyone.iter().any(|&index| match &self.tombstones[index].erased {
            Erased::Range { start, end, .. } => bounds.is_none_or(|(min, max)| min < end && max >= start),
            Erased::User { .. } => true,
        })
    }

    /// Whether it may hold one of the users.
    fn may_hold_users(&self, group: &RowGroupMetaData) -> bool {
        let Some(Statistics::ByteArray(users)) = group.column(column("user_id")).statistics() else {
            return true;
        };
        let (Some(min), Some(max)) = (users.min_opt(), users.max_opt()) else { return true };
        // A bound that was cut short says less.
        let max_is_exact = users.max_is_exact();
        self.by_user.keys().any(|user| {
            let user = user.as_bytes();
            min.data() <= user && (!max_is_exact || user <= max.data())
        })
    }

    fn look(&self, batch: &RecordBatch, found: &mut BTreeSet<usize>) {
        let texts = |index: usize| {
            let column = batch.column(index).as_dictionary::<Int32Type>();
            (column.keys(), column.values().as_string::<i32>())
        };
        let (orgs, users, metrics) = (texts(0), texts(1), texts(2));
        let times = batch.column(3).as_primitive::<TimestampMillisecondType>();
        let sequences = batch.column(4).as_primitive::<UInt64Type>();
        let place = |key: i32| key.cast_unsigned() as usize;
        // Asked once a text, not once a row.
        let wanted: Vec<Option<&Vec<usize>>> = (0..users.1.len())
            .map(|key| users.1.is_valid(key).then(|| self.by_user.get(users.1.value(key))).flatten())
            .collect();
        // A wide range is soon found, and then no longer asked for.
        let mut everyone: Vec<usize> =
            self.everyone.iter().copied().filter(|index| !found.contains(index)).collect();
        for row in 0..batch.num_rows() {
            let of_user = wanted[place(users.0.value(row))].map_or(&[][..], Vec::as_slice);
            if of_user.is_empty() && everyone.is_empty() {
                continue;
            }
            let [org, user, metric] =
                [orgs, users, metrics].map(|(keys, values)| values.value(place(keys.value(row))));
            let (time, sequence) = (times.value(row), Sequence(sequences.value(row)));
            let covers = |index: &usize| {
                let tombstone = &self.tombstones[*index];
                tombstone.org == org
                    && sequence <= through(tombstone)
                    && tombstone.erased.covers(user, metric, time)
            };
            found.extend(of_user.iter().filter(|index| covers(index)));
            everyone.retain(|index| {
                let holds = covers(index);
                if holds {
                    found.insert(*index);
                }
                !holds
            });
        }
    }
}

/// The last sequence that a tombstone covers. Of a blocked user nothing is kept, also
/// not what was on its way in the moment of the order.
fn through(tombstone: &Tombstone) -> Sequence {
    if tombstone.erased.blocks() { Sequence(u64::MAX) } else { tombstone.sequence }
}
