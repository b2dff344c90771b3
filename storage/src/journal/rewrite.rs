//! Sealed segments written anew, without what was erased.
//!
//! Constraints: memory of one segment; every frame keeps its stamp, so sequences and
//! the places of events stay; the file keeps its length, zeros behind the frames.
//!
//! ```text
//! read -> change frame by frame -> <id>.segment.tmp, synced -> renamed -> folder synced
//! ```
//!
//! A crash leaves the old file or the new one, and perhaps a temporary one, which the
//! next start removes. Readers that have the old file open read it to its end.

use std::io;
use std::path::PathBuf;
use std::sync::Arc;

use super::index::{JournalIndex, MARK_BYTES, Mark};
use super::segment::{SEGMENT_HEADER_BYTES, Segment, SegmentId};
use crate::disk::{Disk, is_full};
use crate::frame::{FRAME_ALIGN, FrameFault, Header, verify};

/// Why a segment was not written anew.
#[derive(Debug, thiserror::Error)]
pub enum RewriteError {
    /// It cannot be read or written.
    #[error("cannot rewrite the journal file {}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// A frame in it is broken; the file stays as it is.
    #[error("the journal is damaged: {} at byte {offset}: {fault}", path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
        /// Where the frame begins.
        offset: u64,
        /// What is wrong with it.
        fault: FrameFault,
    },
}

impl RewriteError {
    /// Whether the disk was full, which heals.
    #[must_use]
    pub fn is_full(&self) -> bool {
        matches!(self, RewriteError::Io { source, .. } if is_full(source))
    }
}

/// Writes sealed segments anew; the committer goes on meanwhile.
#[derive(Debug)]
pub struct SegmentRewriter {
    disk: Arc<dyn Disk>,
    dir: PathBuf,
    index: Arc<JournalIndex>,
}

impl SegmentRewriter {
    pub(super) fn new(disk: Arc<dyn Disk>, dir: PathBuf, index: Arc<JournalIndex>) -> SegmentRewriter {
        SegmentRewriter { disk, dir, index }
    }

    /// The sealed segments before `current`, oldest first.
    #[must_use]
    pub fn before(&self, current: SegmentId) -> Vec<SegmentId> {
        self.index.before(current)
    }

    /// Replaces the frames of a sealed segment for which `change` gives others, which
    /// must have the same stamps and not be longer. False if nothing changed, or if the
    /// segment was removed meanwhile.
    ///
    /// # Errors
    /// [`RewriteError`]; then the segment is as it was, or whole and new.
    pub fn rewrite(
        &self,
        id: SegmentId,
        mut change: impl FnMut(&Header, &[u8]) -> Result<Option<Vec<u8>>, FrameFault>,
    ) -> Result<bool, RewriteError> {
        let path = id.path(&self.dir);
        let at = |source| RewriteError::Io { path: path.clone(), source };
        let Some(bytes) = self.read(id).map_err(at)? else { return Ok(false) };
        let (mut frames, mut marks, mut changed) = (Vec::with_capacity(bytes.len()), Vec::new(), false);
        let mut offset = SEGMENT_HEADER_BYTES as usize;
        while offset + FRAME_ALIGN <= bytes.len() && bytes[offset..].iter().any(|&byte| byte != 0) {
            let damaged = |fault| RewriteError::Damaged { path: path.clone(), offset: offset as u64, fault };
            let header = verify(&bytes[offset..]).map_err(damaged)?;
            let whole = bytes
                .get(offset..offset + header.frame_bytes())
                .ok_or(FrameFault::Payload { what: "cut short" })
                .map_err(damaged)?;
            note(&mut marks, &header, SEGMENT_HEADER_BYTES + frames.len() as u64);
            match change(&header, whole).map_err(damaged)? {
                Some(other) => {
                    if other.len() > whole.len() {
                        return Err(damaged(FrameFault::Payload { what: "longer without what was erased" }));
                    }
                    frames.extend_from_slice(&other);
                    changed = true;
                }
                None => frames.extend_from_slice(whole),
            }
            offset += whole.len();
        }
        if !changed {
            return Ok(false);
        }
        self.put(id, bytes.len() as u64, &frames, marks).map_err(at)
    }

    /// A segment's bytes; `None` if it was removed.
    fn read(&self, id: SegmentId) -> io::Result<Option<Vec<u8>>> {
        let file = match self.disk.open(&id.path(&self.dir)) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            opened => opened?,
        };
        let mut bytes = vec![0; usize::try_from(file.byte_len()?).map_err(io::Error::other)?];
        file.read_exact_at(&mut bytes, 0)?;
        Ok(Some(bytes))
    }

    fn put(&self, id: SegmentId, bytes: u64, frames: &[u8], marks: Vec<Mark>) -> io::Result<bool> {
        let temporary = id.temporary(&self.dir);
        Segment::write_beside(self.disk.as_ref(), &temporary, id, bytes, frames)?;
        // Nobody removes it, or looks a place up in it, meanwhile.
        let _names = self.index.names.write();
        if !self.index.contains(id) {
            self.disk.remove(&temporary)?;
            return Ok(false);
        }
        // Before the segment, for good: they are made of the old file.
        let mut is_gone = false;
        for path in [id.index_path(&self.dir), id.keys_path(&self.dir)] {
            match self.disk.remove(&path) {
                Ok(()) => is_gone = true,
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => return Err(error),
            }
        }
        if is_gone {
            self.index.take_indexed(id);
            self.disk.sync_dir(&self.dir)?;
        }
        self.disk.rename(&temporary, &id.path(&self.dir))?;
        self.index.replace(id, marks);
        self.disk.sync_dir(&self.dir)?;
        Ok(true)
    }
}

fn note(marks: &mut Vec<Mark>, header: &Header, offset: u64) {
    if marks.last().is_none_or(|last: &Mark| offset - last.offset >= MARK_BYTES) {
        marks.push(Mark { sequence: header.stamp.sequence, offset });
    }
}
