//! Which of some tombstones a file still holds rows of.
//!
//! Constraints: row groups whose users cannot be one of those asked for are not read;
//! of the others only names, times and sequences are.

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
    if asked.by_user.is_empty() {
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
        asked.look(tombstones, &batch, &mut found);
    }
    Ok(found)
}

/// Tombstones that a file may hold rows of, by user.
struct Asked<'a> {
    by_user: HashMap<&'a str, Vec<usize>>,
}

impl<'a> Asked<'a> {
    fn of(file: &DataFile, tombstones: &'a [Arc<Tombstone>]) -> Asked<'a> {
        let mut by_user: HashMap<&str, Vec<usize>> = HashMap::new();
        for (index, tombstone) in tombstones.iter().enumerate() {
            let may_hold = file.record.sections.iter().any(|section| {
                let covered = match &tombstone.erased {
                    Erased::User { .. } => true,
                    Erased::Range { metric, start, end } => {
                        section.metric == *metric && section.time_min < *end && section.time_max >= *start
                    }
                };
                covered
                    && section.org == tombstone.org
                    && section.user_min <= tombstone.user
                    && tombstone.user <= section.user_max
                    && section.sequence_first <= through(tombstone)
            });
            if may_hold {
                by_user.entry(&tombstone.user).or_default().push(index);
            }
        }
        Asked { by_user }
    }

    /// Whether a row group may hold one of the users, by its statistics.
    fn may_lie_in(&self, group: &RowGroupMetaData) -> bool {
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

    fn look(&self, tombstones: &[Arc<Tombstone>], batch: &RecordBatch, found: &mut BTreeSet<usize>) {
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
        for row in 0..batch.num_rows() {
            let Some(asked) = wanted[place(users.0.value(row))] else { continue };
            let (org, metric) =
                (orgs.1.value(place(orgs.0.value(row))), metrics.1.value(place(metrics.0.value(row))));
            for &index in asked {
                let tombstone = &tombstones[index];
                if *tombstone.org == *org
                    && covers(tombstone, metric, times.value(row), Sequence(sequences.value(row)))
                {
                    found.insert(index);
                }
            }
        }
    }
}

/// Whether a tombstone covers a row of its user.
fn covers(tombstone: &Tombstone, metric: &str, recorded_at: i64, sequence: Sequence) -> bool {
    sequence <= through(tombstone)
        && match &tombstone.erased {
            Erased::User { .. } => true,
            Erased::Range { metric: of, start, end } => {
                of == metric && *start <= recorded_at && recorded_at < *end
            }
        }
}

/// The last sequence that a tombstone covers. Of a blocked user nothing is kept, also
/// not what was on its way in the moment of the order.
fn through(tombstone: &Tombstone) -> Sequence {
    match tombstone.erased {
        Erased::User { block: true } => Sequence(u64::MAX),
        _ => tombstone.sequence,
    }
}
