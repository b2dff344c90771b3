//! Writing files of attempts.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use arrow::array::{
    ArrayRef, BooleanBuilder, PrimitiveBuilder, RecordBatch, StringArray, StringBuilder,
    TimestampMillisecondBuilder,
};
use arrow::datatypes::{UInt8Type, UInt16Type, UInt32Type, UInt64Type};
use parquet::arrow::ArrowWriter;
use parquet::basic::{Compression, Encoding, ZstdLevel};
use parquet::file::metadata::SortingColumn;
use parquet::file::properties::{EnabledStatistics, WriterProperties};

use super::schema::{column, file_columns};
use super::set::attempt_path;
use super::{ROW_GROUP_BYTES, ROW_GROUP_ROWS};
use crate::catalog::AttemptFileRecord;
use crate::disk::Disk;
use crate::files::{BlockWriter, FileWriteError, Period, day_of, no_rows, sync_folders_of, temporary};
use crate::frame::{AttemptRow, AttemptsFrame, Sequence, frame_of_tie};

/// Rows that are encoded at once, unless their texts are long.
const BATCH_ROWS: usize = 4096;
/// Bytes of texts from which fewer are.
const BATCH_BYTES: usize = 1024 * 1024;

/// A file of one organisation's attempts of one day being written; rows must come by
/// (time, tie). It holds one row group, encoded, and a batch of rows.
pub(crate) struct AttemptsWriter {
    root: PathBuf,
    record: AttemptFileRecord,
    output: ArrowWriter<BlockWriter>,
    rows: Rows,
}

impl AttemptsWriter {
    /// Starts a file.
    pub(crate) fn create(
        disk: &dyn Disk,
        root: &Path,
        org: &str,
        day: &str,
        level: u32,
        number: u64,
    ) -> Result<AttemptsWriter, FileWriteError> {
        let path = attempt_path(org, day, level, number);
        let mut file = no_rows(&path, level);
        org.clone_into(&mut file.org);
        day.clone_into(&mut file.period);
        let blocks = BlockWriter::create(disk, root, &path)?;
        let output = ArrowWriter::try_new(blocks, file_columns(), Some(properties(level)))
            .map_err(|source| FileWriteError::Parquet { path: root.join(temporary(&path)), source })?;
        let record = AttemptFileRecord { file, messages: (u64::MAX, 0) };
        Ok(AttemptsWriter { root: root.to_owned(), record, output, rows: Rows::default() })
    }

    /// Adds a row.
    pub(crate) fn push(&mut self, row: &AttemptRow<&str>) -> Result<(), FileWriteError> {
        self.count(row);
        self.rows.push(row);
        if self.rows.len >= BATCH_ROWS || self.rows.text_bytes >= BATCH_BYTES {
            self.encode()?;
        }
        Ok(())
    }

    fn count(&mut self, row: &AttemptRow<&str>) {
        let AttemptFileRecord { file, messages } = &mut self.record;
        debug_assert!(file.time_max <= row.at_ms, "rows come by time");
        let frame = frame_of_tie(row.tie);
        file.sequence_first = file.sequence_first.min(frame);
        file.sequence_last = file.sequence_last.max(frame);
        file.time_min = file.time_min.min(row.at_ms);
        file.time_max = file.time_max.max(row.at_ms);
        file.rows += 1;
        if row.sequence > 0 {
            *messages = (messages.0.min(row.sequence), messages.1.max(row.sequence));
        }
        if let Some(user) = row.user {
            if file.user_min.is_empty() || user < file.user_min.as_str() {
                user.clone_into(&mut file.user_min);
            }
            if user > file.user_max.as_str() {
                user.clone_into(&mut file.user_max);
            }
        }
    }

    fn encode(&mut self) -> Result<(), FileWriteError> {
        if self.rows.len == 0 {
            return Ok(());
        }
        let batch = self.rows.finish(&self.record.file.org);
        let (path, root) = (&self.record.file.path, &self.root);
        let failed = |source| FileWriteError::Parquet { path: root.join(temporary(path)), source };
        self.output.write(&batch).map_err(failed)?;
        if self.output.in_progress_size() >= ROW_GROUP_BYTES {
            self.output.flush().map_err(failed)?;
        }
        Ok(())
    }

    /// Ends the file and makes its content durable under its final name; the name itself
    /// is after [`sync_names`].
    pub(crate) fn finish(mut self, disk: &dyn Disk) -> Result<AttemptFileRecord, FileWriteError> {
        self.encode()?;
        let mut record = self.record;
        let path = &record.file.path;
        let failed = |source| FileWriteError::Parquet { path: self.root.join(temporary(path)), source };
        let mut blocks = self.output.into_inner().map_err(failed)?;
        (record.file.bytes, record.file.block_crc32c) = blocks.finish(disk, &self.root, path)?;
        Ok(record)
    }
}

/// Makes the names of files durable.
pub(crate) fn sync_names(
    disk: &dyn Disk,
    root: &Path,
    files: &[AttemptFileRecord],
) -> Result<(), FileWriteError> {
    sync_folders_of(disk, root, files.iter().map(|file| file.file.path.as_str()))
}

/// Writes the rows of frames into files of their organisations and days, durable when
/// this returns. `number` is the flush's last sequence.
pub(crate) fn write_frames(
    disk: &dyn Disk,
    root: &Path,
    frames: &[AttemptsFrame],
    number: Sequence,
) -> Result<Vec<AttemptFileRecord>, FileWriteError> {
    let mut places: BTreeMap<(&str, i32), Vec<(&AttemptsFrame, usize)>> = BTreeMap::new();
    for frame in frames {
        for (index, row) in frame.iter().enumerate() {
            places.entry((frame.org(), day_of(row.at_ms))).or_default().push((frame, index));
        }
    }
    let mut written = Vec::with_capacity(places.len());
    for ((org, day), mut rows) in places {
        rows.sort_by_cached_key(|(frame, index)| {
            let row = frame.row(*index);
            (row.at_ms, row.tie)
        });
        let day = Period::Day(day).to_string();
        let file = write_file(disk, root, (org, &day), number, &rows);
        if file.is_err() {
            // Best effort, and room where it may be short. Whole files stay: a commit of
            // this flush that seemed to fail may list them.
            let _ = disk.remove(&root.join(temporary(&attempt_path(org, &day, 0, number.0))));
        }
        written.push(file?);
    }
    sync_names(disk, root, &written)?;
    Ok(written)
}

fn write_file(
    disk: &dyn Disk,
    root: &Path,
    (org, day): (&str, &str),
    number: Sequence,
    rows: &[(&AttemptsFrame, usize)],
) -> Result<AttemptFileRecord, FileWriteError> {
    let mut writer = AttemptsWriter::create(disk, root, org, day, 0, number.0)?;
    for (frame, index) in rows {
        writer.push(&frame.row(*index))?;
    }
    writer.finish(disk)
}

/// First files are read little before they are merged.
fn properties(level: u32) -> WriterProperties {
    let codec = ZstdLevel::try_new(if level == 0 { 1 } else { 3 }).expect("a level zstd has");
    let sorting = ["created_at", "tie"].map(|name| SortingColumn {
        column_idx: i32::try_from(column(name)).expect("21 columns"),
        descending: false,
        nulls_first: true,
    });
    let mut builder = WriterProperties::builder()
        .set_compression(Compression::ZSTD(codec))
        .set_statistics_enabled(EnabledStatistics::Chunk)
        .set_max_row_group_row_count(Some(ROW_GROUP_ROWS))
        .set_created_by(concat!("systole ", env!("CARGO_PKG_VERSION")).to_owned())
        .set_sorting_columns(Some(sorting.to_vec()));
    for name in ["created_at", "tie", "sequence", "duration_us"] {
        builder = builder
            .set_column_dictionary_enabled(name.into(), false)
            .set_column_encoding(name.into(), Encoding::DELTA_BINARY_PACKED);
    }
    builder.build()
}

/// Rows that are not encoded yet, column by column.
#[derive(Default)]
struct Rows {
    len: usize,
    text_bytes: usize,
    at_ms: TimestampMillisecondBuilder,
    endpoint: StringBuilder,
    message: StringBuilder,
    delivery: StringBuilder,
    user: StringBuilder,
    event_type: StringBuilder,
    number: PrimitiveBuilder<UInt32Type>,
    trigger: PrimitiveBuilder<UInt8Type>,
    success: BooleanBuilder,
    status_code: PrimitiveBuilder<UInt16Type>,
    error: StringBuilder,
    duration_us: PrimitiveBuilder<UInt64Type>,
    url: StringBuilder,
    response_headers: StringBuilder,
    response_body: StringBuilder,
    sequence: PrimitiveBuilder<UInt64Type>,
    group: PrimitiveBuilder<UInt32Type>,
    chunk: PrimitiveBuilder<UInt16Type>,
    kind: PrimitiveBuilder<UInt8Type>,
    tie: PrimitiveBuilder<UInt64Type>,
}

impl Rows {
    fn push(&mut self, row: &AttemptRow<&str>) {
        self.len += 1;
        self.text_bytes += row.response_body.len() + row.response_headers.len() + row.url.len();
        self.at_ms.append_value(row.at_ms);
        self.endpoint.append_value(row.endpoint);
        self.message.append_value(row.message);
        self.delivery.append_value(row.delivery);
        self.user.append_option(row.user);
        self.event_type.append_value(row.event_type);
        self.number.append_value(row.number);
        self.trigger.append_value(row.trigger as u8);
        self.success.append_value(row.success);
        self.status_code.append_option(row.status_code);
        self.error.append_option(row.error);
        self.duration_us.append_value(row.duration_us);
        self.url.append_value(row.url);
        self.response_headers.append_value(row.response_headers);
        self.response_body.append_value(row.response_body);
        self.sequence.append_value(row.sequence);
        self.group.append_value(row.group);
        self.chunk.append_value(row.chunk);
        self.kind.append_value(row.kind);
        self.tie.append_value(row.tie);
    }

    /// The rows so far, all of one organisation; it starts anew.
    fn finish(&mut self, org: &str) -> RecordBatch {
        let orgs = StringArray::from_iter_values(std::iter::repeat_n(org, self.len));
        let columns: Vec<ArrayRef> = vec![
            Arc::new(orgs),
            Arc::new(self.at_ms.finish().with_timezone("UTC")),
            Arc::new(self.endpoint.finish()),
            Arc::new(self.message.finish()),
            Arc::new(self.delivery.finish()),
            Arc::new(self.user.finish()),
            Arc::new(self.event_type.finish()),
            Arc::new(self.number.finish()),
            Arc::new(self.trigger.finish()),
            Arc::new(self.success.finish()),
            Arc::new(self.status_code.finish()),
            Arc::new(self.error.finish()),
            Arc::new(self.duration_us.finish()),
            Arc::new(self.url.finish()),
            Arc::new(self.response_headers.finish()),
            Arc::new(self.response_body.finish()),
            Arc::new(self.sequence.finish()),
            Arc::new(self.group.finish()),
            Arc::new(self.chunk.finish()),
            Arc::new(self.kind.finish()),
            Arc::new(self.tie.finish()),
        ];
        (self.len, self.text_bytes) = (0, 0);
        RecordBatch::try_new(file_columns(), columns).expect("columns are built to the schema")
    }
}
