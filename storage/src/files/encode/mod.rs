//! A row group's columns into Parquet pages.
//!
//! parquet's own writer takes texts row by row into a hash table, also where they
//! come as dictionaries, which was most of a flush. Texts, positions and times of
//! arrival are runs of hundreds of rows, so they are encoded here from their
//! runs, and values by a dictionary of their own; what is left (times, ends, daily
//! totals) goes through parquet's encoders. Every chunk is then spliced in.

mod chunk;
mod hybrid;
mod runs;
mod values;

use std::io::Write;
use std::sync::Arc;

use parquet::column::writer::{ColumnWriter, get_column_writer, get_typed_column_writer_mut};
use parquet::data_type::{BoolType, DataType, Int64Type};
use parquet::errors::Result;
use parquet::file::properties::WriterProperties;
use parquet::file::statistics::Statistics;
use parquet::file::writer::{SerializedFileWriter, SerializedPageWriter, TrackedWrite};
use parquet::schema::types::{ColumnDescPtr, SchemaDescriptor};

use self::chunk::{Chunk, Zstd};
use self::runs::Kept;
use super::rows::{MayLack, Rows, Sparse};
use super::schema::{FileKind, zstd_level};
use crate::frame::DAILY_TRUE;

/// A number column is encoded by its runs if there are this many rows to one,
/// or else as compressed differences.
const ROWS_PER_RUN_MIN: usize = 64;

/// Encodes the row groups of one file.
pub(super) struct Encoder {
    schema: Arc<SchemaDescriptor>,
    properties: Arc<WriterProperties>,
    kind: FileKind,
    zstd: Zstd,
}

impl Encoder {
    pub(super) fn new<W: Write + Send>(
        file: &SerializedFileWriter<W>,
        kind: FileKind,
        level: u32,
    ) -> Result<Encoder> {
        Ok(Encoder {
            schema: Arc::new(file.schema_descr().clone()),
            properties: file.properties().clone(),
            kind,
            zstd: Zstd::new(zstd_level(level))?,
        })
    }

    /// Adds `rows` to the file as a row group.
    pub(super) fn write<W: Write + Send>(
        &mut self,
        rows: &Rows,
        file: &mut SerializedFileWriter<W>,
    ) -> Result<()> {
        let mut group = file.next_row_group()?;
        for at in 0..self.schema.num_columns() {
            let Chunk { bytes, close } = self.chunk(at, rows)?;
            group.append_column(&bytes, close)?;
        }
        group.close()?;
        Ok(())
    }

    fn chunk(&mut self, at: usize, rows: &Rows) -> Result<Chunk> {
        let descr = self.schema.column(at);
        // Constant in a period's file, where the path says it too.
        let of_run = if self.kind == FileKind::Run { Kept::OfPages } else { Kept::No };
        let zstd = &mut self.zstd;
        match descr.name() {
            "org" => runs::texts(descr, &rows.org, of_run, zstd),
            "user_id" => runs::texts(descr, &rows.user, Kept::OfPages, zstd),
            "metric" => runs::texts(descr, &rows.metric, of_run, zstd),
            "recorded_at" => self.differences(descr, &rows.recorded_at),
            "value" => values::values(descr, &rows.value, zstd),
            "unit" => runs::texts(descr, &rows.unit, Kept::No, zstd),
            "source" => runs::texts(descr, &rows.source, Kept::OfChunk, zstd),
            "device" => runs::texts(descr, &rows.device, Kept::No, zstd),
            "zone_offset_minutes" => zones(descr, &rows.zone_minutes, rows.len()),
            "ended_at" => self.ends(descr, &rows.ended_at, rows.len()),
            "is_daily_total" => self.daily(descr, &rows.is_daily_total, rows.len()),
            "sequence" => match few_runs(&rows.sequence) {
                Some(runs) => runs::numbers(descr, &runs),
                None => {
                    let signed: Vec<i64> = rows.sequence.iter().map(|number| number.cast_signed()).collect();
                    self.differences(descr, &signed)
                }
            },
            "received_at" => match few_runs(&rows.received_at) {
                Some(runs) => runs::numbers(descr, &runs),
                None => self.differences(descr, &rows.received_at),
            },
            other => unreachable!("the schema has no column {other}"),
        }
    }

    fn differences(&self, descr: ColumnDescPtr, numbers: &[i64]) -> Result<Chunk> {
        encoded::<Int64Type>(descr, &self.properties, numbers, None)
    }

    fn ends(&self, descr: ColumnDescPtr, ends: &Sparse<i64>, rows: usize) -> Result<Chunk> {
        let Some(values) = ends.values() else {
            let none = Statistics::int64(None, None, None, Some(rows as u64), false);
            return runs::nothing(descr, rows, none);
        };
        let (present, levels) = present(values);
        encoded::<Int64Type>(descr, &self.properties, &present, Some(&levels))
    }

    fn daily(&self, descr: ColumnDescPtr, daily: &Sparse<u8>, rows: usize) -> Result<Chunk> {
        let Some(values) = daily.values() else {
            let none = Statistics::boolean(None, None, None, Some(rows as u64), false);
            return runs::nothing(descr, rows, none);
        };
        let (present, levels) = present(values);
        let present: Vec<bool> = present.iter().map(|&daily| daily == DAILY_TRUE).collect();
        encoded::<BoolType>(descr, &self.properties, &present, Some(&levels))
    }
}

/// Numbers that are the same in all rows of a request, if requests are long.
fn few_runs<T: Copy + PartialEq>(numbers: &[T]) -> Option<Vec<(Option<T>, usize)>> {
    runs::runs_of(numbers, None, numbers.len() / ROWS_PER_RUN_MIN + 1)
}

fn zones(descr: ColumnDescPtr, zones: &Sparse<i16>, rows: usize) -> Result<Chunk> {
    match zones.values().and_then(|zones| runs::runs_of(zones, Some(i16::NONE), usize::MAX)) {
        Some(runs) => runs::numbers(descr, &runs),
        None => runs::nothing(descr, rows, Statistics::int32(None, None, None, Some(rows as u64), false)),
    }
}

/// The values there are, and for each row whether there is one.
fn present<T: MayLack>(values: &[T]) -> (Vec<T>, Vec<i16>) {
    let present = values.iter().copied().filter(|value| *value != T::NONE).collect();
    (present, values.iter().map(|value| i16::from(*value != T::NONE)).collect())
}

/// A chunk by parquet's own encoder for the column.
fn encoded<T: DataType>(
    descr: ColumnDescPtr,
    properties: &Arc<WriterProperties>,
    values: &[T::T],
    levels: Option<&[i16]>,
) -> Result<Chunk> {
    let mut sink = TrackedWrite::new(Vec::new());
    let pages = Box::new(SerializedPageWriter::new(&mut sink));
    let mut writer = get_column_writer(descr, properties.clone(), pages);
    let typed = get_typed_column_writer_mut::<T>(&mut writer);
    typed.write_batch(values, levels, None)?;
    let close = ColumnWriter::close(writer)?;
    Ok(Chunk { bytes: sink.into_inner()?.into(), close })
}
