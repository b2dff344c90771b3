//! Files of attempts merged with each other, and written anew without erased rows.
//!
//! Constraints: at most [`INPUTS_MAX`] files a job, of at most [`FILE_BYTES_MAX`]
//! together; memory of a batch of rows of each, and a row group of the output.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use hashbrown::HashMap;

use super::schema::{AttemptBlock, Blocks, Columns, blocks_of};
use super::{AttemptFile, AttemptSet, AttemptsWriter, place_of};
use crate::catalog::AttemptFileRecord;
use crate::compact::FILE_BYTES_MAX;
use crate::disk::Disk;
use crate::files::{FileReadError, FileWriteError, Period};
use crate::frame::{AttemptRow, Erased, Tombstone};

/// Files of one level and day that wait for each other; one more, and they are merged.
const LEVEL_FILES_MAX: usize = 8;
/// Most files of one job.
const INPUTS_MAX: usize = 32;
/// Rows of an input in memory: 4 MiB at the most.
const BATCH_ROWS: usize = 256;

/// The files of the next merge, if there is something to merge: of a day that is over
/// all that fit into one file, else those of a level that has too many.
pub(crate) fn due_merge(set: &AttemptSet, now_ms: i64) -> Option<Vec<AttemptFile>> {
    let mut days: BTreeMap<(&str, &str), Vec<&AttemptFile>> = BTreeMap::new();
    for file in set.iter().filter(|file| !file.data().is_damaged()) {
        days.entry((&file.record().org, &file.record().period)).or_default().push(file);
    }
    days.into_values().find_map(|files| due_of_day(&files, now_ms))
}

fn due_of_day(files: &[&AttemptFile], now_ms: i64) -> Option<Vec<AttemptFile>> {
    let day = Period::parse(&files.first()?.record().period)?;
    if day.times().end <= now_ms {
        return fitting(files);
    }
    let mut levels: BTreeMap<u32, Vec<&AttemptFile>> = BTreeMap::new();
    files.iter().for_each(|file| levels.entry(file.record().level).or_default().push(file));
    levels.into_values().filter(|files| files.len() > LEVEL_FILES_MAX).find_map(|files| fitting(&files))
}

/// The smallest of them that make one file, if these are two or more.
fn fitting(files: &[&AttemptFile]) -> Option<Vec<AttemptFile>> {
    let mut sorted = files.to_vec();
    sorted.sort_by_key(|file| (file.record().bytes, file.record().path.clone()));
    let mut bytes = 0;
    let fits = |file: &&&AttemptFile| {
        bytes += file.record().bytes;
        bytes <= FILE_BYTES_MAX
    };
    let chosen: Vec<AttemptFile> =
        sorted.iter().take(INPUTS_MAX).take_while(fits).map(|it| (*it).clone()).collect();
    (chosen.len() > 1).then_some(chosen)
}

/// What a merge read and wrote.
pub(crate) struct MergedRows {
    /// The file; `None` if no row was left.
    pub(crate) file: Option<AttemptFileRecord>,
    pub(crate) rows_read: u64,
}

/// Why there is no merged file.
#[derive(Debug)]
pub(crate) enum MergeHalt {
    Read(FileReadError),
    Write(FileWriteError),
    Stopped,
}

impl From<FileReadError> for MergeHalt {
    fn from(error: FileReadError) -> MergeHalt {
        MergeHalt::Read(error)
    }
}

impl From<FileWriteError> for MergeHalt {
    fn from(error: FileWriteError) -> MergeHalt {
        MergeHalt::Write(error)
    }
}

/// Writes the rows of files of one organisation and day that are `kept` into one of
/// another level, whose content is durable when this returns. `go_on` is asked for each
/// batch.
pub(crate) fn merge_files(
    (disk, root): (&dyn Disk, &Path),
    files: &[AttemptFile],
    (level, number): (u32, u64),
    kept: &dyn Fn(&AttemptRow<&str>) -> bool,
    go_on: &mut dyn FnMut(u64) -> bool,
) -> Result<MergedRows, MergeHalt> {
    let record = files[0].record();
    let mut inputs = Vec::with_capacity(files.len());
    for file in files {
        inputs.extend(Input::open(file)?);
    }
    let mut writer: Option<AttemptsWriter> = None;
    let mut rows_read = 0;
    while let Some(first) = (0..inputs.len()).min_by_key(|&input| inputs[input].key()) {
        let row = inputs[first].block.row(inputs[first].row);
        rows_read += 1;
        if kept(&row) {
            let writer = match &mut writer {
                Some(writer) => writer,
                None => writer.insert(AttemptsWriter::create(
                    disk,
                    root,
                    &record.org,
                    &record.period,
                    level,
                    number,
                )?),
            };
            writer.push(&row)?;
        }
        if rows_read % BATCH_ROWS as u64 == 0 && !go_on(BATCH_ROWS as u64) {
            return Err(MergeHalt::Stopped);
        }
        if !inputs[first].step()? {
            inputs.swap_remove(first);
        }
    }
    let file = writer.map(|writer| writer.finish(disk)).transpose()?;
    Ok(MergedRows { file, rows_read })
}

/// A file at one of its rows.
struct Input {
    blocks: Blocks,
    block: AttemptBlock,
    row: usize,
}

impl Input {
    /// At its first row; `None` if it has none.
    fn open(file: &AttemptFile) -> Result<Option<Input>, FileReadError> {
        let mut blocks = blocks_of(file, &Columns::all(), BATCH_ROWS)?;
        let block = blocks.next().transpose()?;
        Ok(block.map(|block| Input { blocks, block, row: 0 }))
    }

    fn key(&self) -> (i64, u64) {
        self.block.key(self.row)
    }

    /// Goes to the next row; false if there is none.
    fn step(&mut self) -> Result<bool, FileReadError> {
        self.row += 1;
        if self.row < self.block.rows() {
            return Ok(true);
        }
        let Some(block) = self.blocks.next().transpose()? else { return Ok(false) };
        (self.block, self.row) = (block, 0);
        Ok(true)
    }
}

/// Whether a file may have rows that an order covers, by what the catalog says of it. A
/// range of samples has no attempts.
#[must_use]
pub fn may_be_about(file: &AttemptFile, order: &Tombstone) -> bool {
    let record = file.record();
    let holds = |user: &str| *record.user_min <= *user && *user <= *record.user_max;
    matches!(&order.erased, Erased::User { user, .. } if order.org == record.org && holds(user))
}

/// How many rows of a file each of some orders to erase covers; nothing is read of a
/// file that can have none. A row is asked only of the orders about its user.
pub(crate) fn erased_rows(file: &AttemptFile, orders: &[Arc<Tombstone>]) -> Result<Vec<u64>, FileReadError> {
    let mut counts = vec![0; orders.len()];
    let mut by_user: HashMap<&str, Vec<usize>> = HashMap::new();
    for (at, order) in orders.iter().enumerate().filter(|(_, order)| may_be_about(file, order)) {
        by_user.entry(order.erased.user().unwrap_or_default()).or_default().push(at);
    }
    if by_user.is_empty() {
        return Ok(counts);
    }
    for block in blocks_of(file, &Columns::keys(), 8 * 1024)? {
        let block = block?;
        for row in (0..block.rows()).map(|row| block.row(row)) {
            let Some(of_user) = row.user.and_then(|user| by_user.get(user)) else { continue };
            let place = place_of(row.sequence, row.tie);
            for &at in of_user {
                counts[at] += u64::from(orders[at].erased.blocks() || place <= orders[at].sequence);
            }
        }
    }
    Ok(counts)
}
