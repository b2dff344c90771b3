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
//! next start removes. Readers that have the old file open read it to its end. What is
//! broken in it stays as it is, so that whoever meets it names it.

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
    /// A frame in it is broken, and stays as it is.
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

/// What became of a segment.
#[derive(Debug)]
pub struct Rewritten {
    /// Whether it is another file now.
    pub changed: bool,
    /// What in it is no frame that can be read.
    pub broken: Option<Broken>,
}

/// What a segment holds that nobody can read.
#[derive(Debug)]
pub struct Broken {
    /// The first fault: [`RewriteError::Damaged`].
    pub fault: RewriteError,
    /// All of it, one part behind the other.
    pub bytes: Vec<u8>,
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
    /// must have the same stamps and not be longer. Nothing changed if the segment was
    /// removed meanwhile.
    ///
    /// # Errors
    /// [`RewriteError::Io`]; then the segment is as it was, or whole and new.
    pub fn rewrite(
        &self,
        id: SegmentId,
        mut change: impl FnMut(&Header, &[u8]) -> Result<Option<Vec<u8>>, FrameFault>,
    ) -> Result<Rewritten, RewriteError> {
        let path = id.path(&self.dir);
        let at = |source| RewriteError::Io { path: path.clone(), source };
        let bytes = self.read(id).map_err(at)?.unwrap_or_default();
        let end = bytes.iter().rposition(|&byte| byte != 0).map_or(0, |last| last + 1);
        let (mut frames, mut marks, mut changed) = (Vec::with_capacity(bytes.len()), Vec::new(), false);
        let mut broken: Option<Broken> = None;
        let mut offset = SEGMENT_HEADER_BYTES as usize;
        while offset + FRAME_ALIGN <= bytes.len() && offset < end {
            let rest = &bytes[offset..];
            match changed_frame(rest, &mut change) {
                Ok((header, whole, other)) => {
                    // Readers of the whole segment begin at what is broken before its first frame.
                    let before = if marks.is_empty() { 0 } else { frames.len() as u64 };
                    note(&mut marks, &header, SEGMENT_HEADER_BYTES + before);
                    changed |= other.is_some();
                    frames.extend_from_slice(other.as_deref().unwrap_or(whole));
                    offset += whole.len();
                }
                Err(fault) => {
                    let broken = broken.get_or_insert_with(|| Broken {
                        fault: RewriteError::Damaged { path: path.clone(), offset: offset as u64, fault },
                        bytes: Vec::new(),
                    });
                    // The next frame may begin at any alignment behind it.
                    frames.extend_from_slice(&rest[..FRAME_ALIGN]);
                    broken.bytes.extend_from_slice(&rest[..FRAME_ALIGN]);
                    offset += FRAME_ALIGN;
                }
            }
        }
        let changed = changed && self.put(id, bytes.len() as u64, &frames, marks).map_err(at)?;
        Ok(Rewritten { changed, broken })
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

/// A frame as it stands, and what is to stand in its place, if that is something else.
type Changed<'a> = (Header, &'a [u8], Option<Vec<u8>>);

/// The frame at the start of `rest`.
fn changed_frame<'a>(
    rest: &'a [u8],
    change: &mut impl FnMut(&Header, &[u8]) -> Result<Option<Vec<u8>>, FrameFault>,
) -> Result<Changed<'a>, FrameFault> {
    let header = verify(rest)?;
    let whole = rest.get(..header.frame_bytes()).ok_or(FrameFault::Payload { what: "cut short" })?;
    let other = change(&header, whole)?;
    if other.as_ref().is_some_and(|other| other.len() > whole.len()) {
        return Err(FrameFault::Payload { what: "longer without what was erased" });
    }
    Ok((header, whole, other))
}

fn note(marks: &mut Vec<Mark>, header: &Header, offset: u64) {
    if marks.last().is_none_or(|last: &Mark| offset - last.offset >= MARK_BYTES) {
        marks.push(Mark { sequence: header.stamp.sequence, offset });
    }
}
