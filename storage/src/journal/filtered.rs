//! Reading sealed segments through their indexes: forwards for lanes that lag,
//! backwards for whoever asks for the newest first.
//!
//! Constraints: of a sealed segment only the section of its index and the frames that
//! were asked for are read; memory of one answer, which the caller bounds. The segment
//! that is being written has no index, so there the frames of others are read as well.

use std::sync::Arc;
use std::time::Instant;

use super::index::Located;
use super::log::{End, Log, LogCursor, LogError, OpenSegment, read_frame};
use super::segment::{SEGMENT_HEADER_BYTES, SegmentId};
use super::segment_index::{Entry, FrameFilter};
use crate::frame::{FRAME_ALIGN, Frame, FrameFault, Header, Sequence};

/// Frames are read together if no more than this lies between them.
const GAP_BYTES: u64 = 4096;
/// Bytes read from a segment at a time.
const BLOCK_BYTES: usize = 1024 * 1024;
/// What looking into a segment's index counts for, beside the frames.
const LOOK_BYTES: usize = 4096;

impl LogCursor {
    pub(super) fn read_filtered(
        &mut self,
        filter: FrameFilter,
        bytes_max: usize,
    ) -> Result<Vec<Frame>, LogError> {
        let head = self.log.head();
        while self.after < head {
            let index = self.log.journal_index();
            let located = index.locate_behind(self.after).map_err(|removed| LogError::Gone { removed })?;
            let Some(located) = located else { return Ok(Vec::new()) };
            let Some(last) = located.last else { return self.read_all(bytes_max) };
            self.open = None;
            let entries = self.log.entries(&located, filter, |section| {
                bounded(
                    section.behind(self.after, filter).take_while(|entry| entry.sequence <= head),
                    bytes_max,
                )
            })?;
            // Replaced or removed meanwhile.
            let Some(entries) = entries else { continue };
            if entries.is_empty() {
                self.after = self.after.max(last.min(head));
                continue;
            }
            if let Some(frames) = self.log.read_entries(&located, &entries)? {
                return Ok(frames);
            }
        }
        Ok(Vec::new())
    }
}

/// As many as make up `bytes_max`, but at least one.
fn bounded(entries: impl Iterator<Item = Entry>, bytes_max: usize) -> Vec<Entry> {
    let mut bytes = 0;
    let fits = |entry: &Entry| {
        let fits = bytes < bytes_max.max(1);
        bytes += entry.bytes as usize;
        fits
    };
    entries.take_while(fits).collect()
}

impl Log {
    /// What `choose` takes of a sealed segment's section; `None` if the segment's file is
    /// another by now.
    fn entries(
        &self,
        located: &Located,
        filter: FrameFilter,
        choose: impl FnOnce(&super::segment_index::Section) -> Vec<Entry>,
    ) -> Result<Option<Vec<Entry>>, LogError> {
        let section = self.section(located.id, located.generation, filter)?;
        Ok(section.map(|section| choose(&section)))
    }

    /// The frames at some places of a segment, in the order of the places, which lie in
    /// rising order; `None` if the segment's file is another by now.
    fn read_entries(&self, located: &Located, entries: &[Entry]) -> Result<Option<Vec<Frame>>, LogError> {
        self.reads.note(located.id, Instant::now());
        let Some(mut open) = self.open_version(located.id, located.generation)? else { return Ok(None) };
        let mut frames = Vec::with_capacity(entries.len());
        let mut rest = entries;
        while let Some(first) = rest.first() {
            let (mut end, mut count) = (first.offset + u64::from(first.bytes), 1);
            while let Some(next) = rest.get(count) {
                let next_end = next.offset + u64::from(next.bytes);
                if next.offset > end + GAP_BYTES || next_end - first.offset > BLOCK_BYTES as u64 {
                    break;
                }
                (end, count) = (next_end, count + 1);
            }
            let length = usize::try_from(end - first.offset).unwrap_or(usize::MAX);
            let block = open.block(first.offset, length)?;
            for entry in &rest[..count] {
                open.offset = entry.offset;
                frames.push(frame_of(&open, &block, first.offset, entry)?);
            }
            rest = &rest[count..];
        }
        Ok(Some(frames))
    }

    /// A segment's file, if it is of this generation.
    fn open_version(&self, id: SegmentId, generation: u32) -> Result<Option<OpenSegment>, LogError> {
        let index = self.journal_index();
        let _names = index.names.read();
        if index.generation(id) != Some(generation) {
            return Ok(None);
        }
        self.open(id, SEGMENT_HEADER_BYTES).map(Some)
    }

    /// Calls `visit` with every frame of a segment and its offset; false if the file is
    /// another by now. The segment may be the one that is being written: then up to what
    /// is there.
    pub(super) fn scan_segment(
        &self,
        id: SegmentId,
        generation: u32,
        mut visit: impl FnMut(&Frame, u64),
    ) -> Result<bool, LogError> {
        let Some(mut open) = self.open_version(id, generation)? else { return Ok(false) };
        let (mut block, mut at) = (Vec::new(), 0);
        loop {
            let left = block.len() - at;
            let header = Header::read(&block[at..]).filter(|header| header.payload_bytes > 0);
            let needed = header.map_or(0, |header| header.frame_bytes());
            if left < FRAME_ALIGN.max(needed) || header.is_none() && left < BLOCK_BYTES / 2 {
                let more = open.block(open.offset, BLOCK_BYTES.max(needed))?;
                let grown = more.len() > left;
                (block, at) = (more, 0);
                if grown {
                    continue;
                }
            }
            let Some(header) = header else { return Ok(true) };
            let frame = read_frame(&block[at..], header.frame_bytes(), false);
            visit(&frame.map_err(|fault| open.damaged(fault))?, open.offset);
            at += header.frame_bytes();
            open.offset += header.frame_bytes() as u64;
        }
    }

    /// A reader of the frames before `before` that a filter asks for, newest first.
    #[must_use]
    pub fn reversed(self: &Arc<Log>, before: Sequence, filter: FrameFilter) -> ReverseCursor {
        let before = before.min(self.head().next());
        ReverseCursor { log: self.clone(), before, filter, until: i64::MAX, is_done: false }
    }
}

/// The frame of an entry in a block that begins at `begin`.
fn frame_of(open: &OpenSegment, block: &[u8], begin: u64, entry: &Entry) -> Result<Frame, LogError> {
    let missing = FrameFault::Payload { what: "the frame that its index names is not there" };
    let at = usize::try_from(entry.offset - begin).unwrap_or(usize::MAX);
    let bytes = block.get(at..at.saturating_add(entry.bytes as usize)).ok_or(missing);
    let frame = bytes.and_then(|bytes| read_frame(bytes, bytes.len(), false));
    let frame = frame.and_then(|frame| {
        let same = frame.sequence() == entry.sequence;
        if same { Ok(frame) } else { Err(missing) }
    });
    frame.map_err(|fault| open.damaged(fault))
}

/// A reader that goes back in time.
#[derive(Debug)]
pub struct ReverseCursor {
    log: Arc<Log>,
    before: Sequence,
    filter: FrameFilter,
    /// Segments all of whose frames were committed at or behind this are passed over.
    until: i64,
    is_done: bool,
}

impl ReverseCursor {
    /// Passes over segments that hold nothing committed before `until`, in microseconds.
    #[must_use]
    pub fn until(mut self, until: i64) -> ReverseCursor {
        self.until = until;
        self
    }

    /// Everything from here on was looked at.
    #[must_use]
    pub fn position(&self) -> Sequence {
        self.before
    }

    /// Whether it came to the oldest frame that is kept.
    #[must_use]
    pub fn is_done(&self) -> bool {
        self.is_done
    }

    /// The next frames, newest first. About `bytes_max` are read for them, so there may
    /// be none although older ones follow.
    ///
    /// # Errors
    /// [`LogError`]; the position stays where it was.
    pub fn next(&mut self, bytes_max: usize) -> Result<Vec<Frame>, LogError> {
        let mut left = bytes_max;
        while !self.is_done {
            if let Some((frames, before)) = self.log.tail_before(self.before, self.filter, bytes_max) {
                self.before = before;
                return Ok(frames);
            }
            let Some(located) = self.log.journal_index().locate_before(self.before) else {
                self.is_done = true;
                break;
            };
            let frames = match located.last {
                Some(_) => self.sealed(&located, left)?,
                None => self.unsealed(&located)?,
            };
            left = left.saturating_sub(LOOK_BYTES);
            if !frames.is_empty() || left == 0 {
                return Ok(frames);
            }
        }
        Ok(Vec::new())
    }

    fn sealed(&mut self, located: &Located, bytes_max: usize) -> Result<Vec<Frame>, LogError> {
        let (filter, before) = (self.filter, self.before);
        let Some(index) = self.log.segment_index(located.id, located.generation)? else {
            return Ok(Vec::new());
        };
        if index.span.0 >= self.until {
            self.before = located.first;
            return Ok(Vec::new());
        }
        let choose =
            |section: &super::segment_index::Section| bounded(section.before(before, filter), bytes_max);
        // Replaced or removed meanwhile: the next look finds what is there.
        let Some(mut entries) = self.log.entries(located, filter, choose)? else { return Ok(Vec::new()) };
        if entries.is_empty() {
            self.before = located.first;
            return Ok(Vec::new());
        }
        entries.reverse();
        let Some(mut frames) = self.log.read_entries(located, &entries)? else { return Ok(Vec::new()) };
        self.before = entries[0].sequence;
        frames.reverse();
        Ok(frames)
    }

    /// The frames from the last mark before the position up to it.
    fn unsealed(&mut self, located: &Located) -> Result<Vec<Frame>, LogError> {
        let (before, head) = (self.before, self.log.head());
        let Some((mark, next)) = self.log.journal_index().mark_before(located.id, before) else {
            return Ok(Vec::new());
        };
        let Some(mut open) = self.log.open_version(located.id, located.generation)? else {
            return Ok(Vec::new());
        };
        open.offset = mark.offset;
        let (mut frames, mut after) = (Vec::new(), Sequence(mark.sequence.0 - 1));
        while next.is_none_or(|next| open.offset < next) {
            let length = next.map_or(BLOCK_BYTES, |next| usize::try_from(next - open.offset).unwrap_or(0));
            let (begin, known) = (open.offset, frames.len());
            let end = open.read(after, head, length, &mut frames)?;
            after = frames.last().map_or(after, Frame::sequence);
            let stuck = open.offset == begin && frames.len() == known;
            if end != End::Block || after.next() >= before || stuck {
                break;
            }
        }
        frames.retain(|frame| frame.sequence() < before && self.filter.takes(frame));
        frames.reverse();
        self.before = mark.sequence;
        Ok(frames)
    }
}
