//! Appending: frames in, durable when the call returns.

use std::io::{self, IoSlice};
use std::path::PathBuf;
use std::sync::Arc;

use parking_lot::{Condvar, Mutex};

use super::index::{JournalIndex, Mark};
use super::segment::{SEGMENT_HEADER_BYTES, SealedSegment, Segment, SegmentId};
use crate::disk::{Disk, is_full};
use crate::frame::{Header, Sequence};

/// Why frames were not appended. None of the group's frames is kept.
#[derive(Debug, thiserror::Error)]
pub enum AppendError {
    /// The disk is full. What was written of the group is cut back; the next
    /// append tries again.
    #[error("no room on the disk for the journal")]
    Full(#[source] io::Error),
    /// No next segment can be made, for another reason than space: too many open
    /// files, say. The group is cut back; the next append tries again.
    #[error("the journal cannot begin its next segment")]
    NoSegment(#[source] io::Error),
    /// A write or sync failed, now or earlier. Nothing is known about the file's
    /// tail, so nothing is appended until a restart has read it again.
    #[error("the journal is closed after a failed write or sync: {reason}")]
    Poisoned {
        /// The first failure.
        reason: String,
    },
}

/// The one writer of a journal.
#[derive(Debug)]
pub struct JournalWriter {
    disk: Arc<dyn Disk>,
    dir: PathBuf,
    segment_bytes: u64,
    current: Segment,
    /// Offset of the next frame in `current`.
    at: u64,
    /// Last sequence in `current`.
    last: Sequence,
    /// When it was committed, microseconds since 1970.
    committed_at: i64,
    sealed: Vec<SealedSegment>,
    /// Shared with the readers.
    index: Arc<JournalIndex>,
    spare: Arc<Spare>,
    poisoned: Option<String>,
}

/// The segment that waits to become current. The writer takes it, the preparer
/// refills it; if it is empty when needed, the writer makes one itself.
#[derive(Debug, Default)]
struct Spare {
    slot: Mutex<Slot>,
    changed: Condvar,
}

#[derive(Debug, Default)]
enum Slot {
    #[default]
    Empty,
    Wanted(SegmentId),
    Preparing,
    Ready(Segment),
    Stopped,
}

enum Failure {
    /// No next segment could be had; the current one is whole and synced.
    Segment(io::Error),
    Write(io::Error),
    Sync(io::Error),
}

impl JournalWriter {
    pub(super) fn new(
        disk: Arc<dyn Disk>,
        dir: PathBuf,
        segment_bytes: u64,
        tail: (Segment, u64, Sequence, i64),
        sealed: Vec<SealedSegment>,
        index: Arc<JournalIndex>,
    ) -> JournalWriter {
        let (current, at, last, committed_at) = tail;
        let writer = JournalWriter {
            disk,
            dir,
            segment_bytes,
            current,
            at,
            last,
            committed_at,
            sealed,
            index,
            spare: Arc::default(),
            poisoned: None,
        };
        writer.want_spare();
        writer
    }

    /// Writes sealed `frames` one behind the other and syncs once.
    ///
    /// # Errors
    /// [`AppendError`]; then none of the frames is in the journal, and their
    /// sequences must not be used again.
    pub fn append(&mut self, frames: &[&[u8]]) -> Result<(), AppendError> {
        if let Some(reason) = &self.poisoned {
            return Err(AppendError::Poisoned { reason: reason.clone() });
        }
        let before = (self.current.id, self.at, self.last);
        match self.write_and_sync(frames) {
            Ok(()) => Ok(()),
            Err(Failure::Segment(error)) if self.current.id == before.0 => {
                self.cut_back(before.1, before.2)?;
                Err(if is_full(&error) { AppendError::Full(error) } else { AppendError::NoSegment(error) })
            }
            Err(Failure::Write(error)) if is_full(&error) && self.current.id == before.0 => {
                self.cut_back(before.1, before.2)?;
                Err(AppendError::Full(error))
            }
            Err(Failure::Segment(error) | Failure::Write(error) | Failure::Sync(error)) => {
                Err(self.poison(&error))
            }
        }
    }

    /// Seals the current segment if it holds frames; returns the one that frames go to
    /// from now on.
    ///
    /// # Errors
    /// [`AppendError`].
    pub fn seal(&mut self) -> Result<SegmentId, AppendError> {
        if let Some(reason) = &self.poisoned {
            return Err(AppendError::Poisoned { reason: reason.clone() });
        }
        if self.at > SEGMENT_HEADER_BYTES {
            self.roll(0).map_err(|failure| match failure {
                Failure::Segment(error) if is_full(&error) => AppendError::Full(error),
                Failure::Segment(error) => AppendError::NoSegment(error),
                Failure::Write(error) | Failure::Sync(error) => self.poison(&error),
            })?;
        }
        Ok(self.current.id)
    }

    /// Where frames stand, for readers.
    #[must_use]
    pub fn index(&self) -> &Arc<JournalIndex> {
        &self.index
    }

    /// Bytes of all segments, the current one as far as it is written.
    #[must_use]
    pub fn byte_len(&self) -> u64 {
        self.sealed.iter().map(|segment| segment.bytes).sum::<u64>() + self.at
    }

    /// Bytes of frames in the current segment.
    #[must_use]
    pub fn filled_bytes(&self) -> u64 {
        self.at - SEGMENT_HEADER_BYTES
    }

    /// What a segment takes of the disk, however little is in it.
    #[must_use]
    pub fn segment_bytes(&self) -> u64 {
        self.segment_bytes
    }

    /// Segments that take no more frames, oldest first.
    #[must_use]
    pub fn sealed(&self) -> &[SealedSegment] {
        &self.sealed
    }

    /// Removes sealed segments whose frames are all at or below `position`.
    ///
    /// # Errors
    /// The disk's; the segment stays listed and is tried again at the next call.
    pub fn remove_through(&mut self, position: Sequence) -> io::Result<usize> {
        let mut removed = 0;
        while let Some(oldest) = self.sealed.first() {
            if oldest.last > position {
                break;
            }
            let _names = self.index.names.write();
            // Before the file, so that a reader that finds none knows why.
            self.index.remove(oldest.id, oldest.last);
            match self.disk.remove(&oldest.id.path(&self.dir)) {
                // An earlier call removed it, and failed to sync the folder.
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                _ => {}
            }
            // One by one: a crash must not bring back an older segment than one
            // that stayed away, which recovery would take for a gap.
            self.disk.sync_dir(&self.dir)?;
            if self.index.take_indexed(oldest.id) {
                // Best effort: a start removes an index without its segment.
                let _ = self.disk.remove(&oldest.id.index_path(&self.dir));
            }
            self.sealed.remove(0);
            removed += 1;
        }
        Ok(removed)
    }

    /// The half that prepares segments ahead; give it a thread of its own.
    #[must_use]
    pub fn preparer(&self) -> SparePreparer {
        SparePreparer {
            disk: self.disk.clone(),
            dir: self.dir.clone(),
            segment_bytes: self.segment_bytes,
            spare: self.spare.clone(),
        }
    }

    fn write_and_sync(&mut self, frames: &[&[u8]]) -> Result<(), Failure> {
        let mut rest = frames;
        while let Some(first) = rest.first() {
            let fitting = self.fitting(rest);
            if fitting == 0 {
                self.roll(first.len() as u64)?;
                continue;
            }
            let (now, later) = rest.split_at(fitting);
            let mut slices: Vec<IoSlice<'_>> = now.iter().map(|frame| IoSlice::new(frame)).collect();
            let at = self.at;
            self.at += now.iter().map(|frame| frame.len() as u64).sum::<u64>();
            self.current.file.write_all_at(&mut slices, at).map_err(Failure::Write)?;
            self.note(now, at);
            rest = later;
        }
        self.current.file.sync_data().map_err(Failure::Sync)
    }

    /// Enters frames that were written from offset `at` on.
    fn note(&mut self, frames: &[&[u8]], mut offset: u64) {
        for frame in frames {
            if let Some(header) = Header::read(frame) {
                self.last = header.stamp.sequence;
                self.committed_at = header.stamp.committed_at;
                self.index.note(self.current.id, Mark { sequence: self.last, offset });
            }
            offset += frame.len() as u64;
        }
    }

    /// How many of `frames` fit into what is left of the current segment.
    fn fitting(&self, frames: &[&[u8]]) -> usize {
        let mut end = self.at;
        let fits = |frame: &&&[u8]| {
            end += frame.len() as u64;
            end <= self.current.bytes
        };
        frames.iter().take_while(fits).count()
    }

    /// Seals the current segment and goes on in one with room for at least
    /// `frame_bytes`. What was written before is synced first, so that only a
    /// journal's last segment can have a torn tail.
    fn roll(&mut self, frame_bytes: u64) -> Result<(), Failure> {
        self.current.file.sync_data().map_err(Failure::Sync)?;
        let next = self.take_segment(frame_bytes).map_err(Failure::Segment)?;
        let old = std::mem::replace(&mut self.current, next);
        self.sealed.push(SealedSegment {
            id: old.id,
            last: self.last,
            bytes: old.bytes,
            committed_at: self.committed_at,
        });
        self.at = SEGMENT_HEADER_BYTES;
        self.want_spare();
        Ok(())
    }

    fn take_segment(&self, frame_bytes: u64) -> io::Result<Segment> {
        let id = self.current.id.next();
        let mut slot = self.spare.slot.lock();
        while matches!(*slot, Slot::Preparing) {
            self.spare.changed.wait(&mut slot);
        }
        if let Slot::Ready(spare) = std::mem::take(&mut *slot) {
            if Segment::capacity(spare.bytes) >= frame_bytes {
                return Ok(spare);
            }
            self.disk.remove(&spare.id.path(&self.dir))?;
        }
        let bytes = self.segment_bytes.max(frame_bytes + SEGMENT_HEADER_BYTES);
        Segment::prepare(self.disk.as_ref(), &self.dir, id, bytes)
    }

    /// Asks the preparer for the segment behind the current one.
    fn want_spare(&self) {
        let mut slot = self.spare.slot.lock();
        if !matches!(*slot, Slot::Stopped) {
            *slot = Slot::Wanted(self.current.id.next());
            self.spare.changed.notify_all();
        }
    }

    /// Takes a half-written group out again, so that a later recovery cannot
    /// meet frames whose senders were told that they were refused.
    fn cut_back(&mut self, at: u64, last: Sequence) -> Result<(), AppendError> {
        let written = std::mem::replace(&mut self.at, at);
        self.last = last;
        self.index.cut_back(self.current.id, at);
        self.current.erase(at, written).map_err(|failure| self.poison(&failure))
    }

    fn poison(&mut self, error: &io::Error) -> AppendError {
        let reason = error.to_string();
        tracing::error!(reason, "journal closed after a failed write or sync");
        self.poisoned = Some(reason.clone());
        AppendError::Poisoned { reason }
    }
}

impl Drop for JournalWriter {
    fn drop(&mut self) {
        *self.spare.slot.lock() = Slot::Stopped;
        self.spare.changed.notify_all();
    }
}

/// Prepares the next segment while the current one fills, so that a roll costs
/// the committer no disk time.
#[derive(Debug)]
pub struct SparePreparer {
    disk: Arc<dyn Disk>,
    dir: PathBuf,
    segment_bytes: u64,
    spare: Arc<Spare>,
}

impl SparePreparer {
    /// Prepares segments as they are wanted, until the writer is dropped. A
    /// failure is left to the writer, which tries again and answers for it.
    pub fn run(self) {
        while let Some(id) = self.next_wanted() {
            let prepared = Segment::prepare(self.disk.as_ref(), &self.dir, id, self.segment_bytes);
            let mut slot = self.spare.slot.lock();
            if matches!(*slot, Slot::Stopped) {
                return;
            }
            *slot = match prepared {
                Ok(segment) => Slot::Ready(segment),
                Err(error) => {
                    tracing::warn!(%error, "could not prepare the next journal segment ahead");
                    Slot::Empty
                }
            };
            self.spare.changed.notify_all();
        }
    }

    fn next_wanted(&self) -> Option<SegmentId> {
        let mut slot = self.spare.slot.lock();
        loop {
            match *slot {
                Slot::Wanted(id) => {
                    *slot = Slot::Preparing;
                    return Some(id);
                }
                Slot::Stopped => return None,
                _ => self.spare.changed.wait(&mut slot),
            }
        }
    }
}
