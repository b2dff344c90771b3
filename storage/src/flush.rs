//! A frozen buffer into a run: one Parquet file, whatever it holds.
//!
//! Constraints: one pass over the buffer, memory of one user's rows of one
//! metric plus one row group. A flush makes one file, however many organisations,
//! metrics, users and years it meets; compaction brings its rows into their
//! periods.
//!
//! ```text
//! groups sorted by (org, metric, user) -> per user: rows in file order,
//!     superseded ones dropped -> the run
//! ```
//!
//! A flush that fails leaves no file behind and changes nothing: the buffer
//! stays readable and is flushed again.

use std::path::Path;

use crate::disk::Disk;
use crate::files::{
    FileKind, FileWriteError, SamplesFileWriter, WrittenFile, run_file, sync_folders, temporary,
};
use crate::frame::{SamplesFrame, Sequence};
use crate::merge::{Part, in_file_order};

/// Writes the samples of `frames` into a run, durable when this returns; no frames
/// are no file. `settled` is the position up to which it is decided what each row
/// changed: a row is dropped as superseded only by one at or below it.
pub(crate) fn write_run(
    disk: &dyn Disk,
    root: &Path,
    frames: &[SamplesFrame],
    settled: Sequence,
) -> Result<Option<WrittenFile>, FileWriteError> {
    let Some(last) = frames.iter().map(|frame| frame.header().stamp.sequence).max() else {
        return Ok(None);
    };
    let path = run_file(0, last.0);
    let written = write_file(disk, root, &path, frames, settled);
    if written.is_err() {
        // Best effort, and room where it may be short. A whole file stays: a commit of
        // this flush that seemed to fail may list it.
        let _ = disk.remove(&root.join(temporary(&path)));
    }
    written.map(Some)
}

fn write_file(
    disk: &dyn Disk,
    root: &Path,
    path: &str,
    frames: &[SamplesFrame],
    settled: Sequence,
) -> Result<WrittenFile, FileWriteError> {
    let mut writer = SamplesFileWriter::create_at(disk, root, path, FileKind::Run, 0)?;
    let groups = sorted_groups(frames);
    for user in groups.chunk_by(|a, b| (a.org, a.metric, a.user) == (b.org, b.metric, b.user)) {
        let mut parts: Vec<Part<'_>> = user.iter().map(Piece::part).collect();
        in_file_order(&mut parts, settled, |run| writer.push(run))?;
    }
    let mut written = writer.finish(disk)?;
    // A run of one metric is still a run.
    written.record.org.clear();
    written.record.metric.clear();
    sync_folders(disk, root, std::slice::from_ref(&written))?;
    Ok(written)
}

/// A group of a frame with the names it is sorted by.
struct Piece<'a> {
    org: &'a str,
    metric: &'a str,
    user: &'a str,
    frame: &'a SamplesFrame,
    group: usize,
}

impl<'a> Piece<'a> {
    fn part(&self) -> Part<'a> {
        let group = self.frame.group(self.group);
        Part { frame: self.frame, rows: group.rows(), group }
    }
}

fn sorted_groups(frames: &[SamplesFrame]) -> Vec<Piece<'_>> {
    let mut pieces: Vec<Piece<'_>> = Vec::new();
    for frame in frames {
        let org = frame.org();
        let groups = frame.groups().enumerate().filter(|(_, group)| group.count > 0);
        pieces.extend(groups.map(|(index, group)| Piece {
            org,
            metric: group.metric,
            user: group.user,
            frame,
            group: index,
        }));
    }
    // Stable, so that a user's pieces stay in commit order.
    pieces.sort_by(|a, b| (a.org, a.metric, a.user).cmp(&(b.org, b.metric, b.user)));
    pieces
}
