//! The journal as its readers see it: frames behind a position, in order, up to
//! what is acknowledged.
//!
//! Constraints: the newest [`TAIL_BYTES`] of frames are kept in memory while
//! somebody reads along, so that a reader that keeps up touches no disk; one that
//! lags reads segments, at most [`READ_BYTES`] at a time, and may keep what it read for
//! whoever opens it next (see `recent`). A reader never sees a frame before its group is
//! durable and visible.
//!
//! ```text
//! committer --publish--> tail (memory) --.
//! segments (disk) -----------------------+--> cursor.next() --> classifier, router, lanes
//! ```
//!
//! Who writes: the committer. Who reads: any number of cursors, each with a
//! position of its own. Who keeps segments from being removed: whoever owns a
//! position, by the floor it hands to the committer.

use std::collections::VecDeque;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use parking_lot::{Condvar, Mutex};

use super::index::{JournalIndex, MARK_BYTES, Mark, Start};
use super::indexes::{Indexes, SegmentIndexer};
use super::read_ahead::Reads;
use super::recent::{Era, Recent};
use super::rewrite::SegmentRewriter;
use super::segment::SegmentId;
use super::segment_index::FrameFilter;
use crate::disk::{Disk, DiskFile};
use crate::frame::{FRAME_HEADER_BYTES, Frame, FrameFault, Header, Sequence, Stamp, verify};

/// Frames kept in memory: some seconds of a saturated server, whose frames take 16
/// bytes a sample.
const TAIL_BYTES: usize = 64 * 1024 * 1024;
/// Bytes read from a segment at a time; a longer frame is read whole.
const READ_BYTES: usize = 1024 * 1024;

/// Why frames cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum LogError {
    /// A segment cannot be read.
    #[error("cannot read the journal file {}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// A frame that was durable is broken.
    #[error("the journal is damaged: {} at byte {offset}: {fault}", path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
        /// Where the frame begins.
        offset: u64,
        /// What is wrong with it.
        fault: FrameFault,
    },
    /// The frames asked for are no longer kept.
    #[error("frames up to {removed} are no longer kept")]
    Gone {
        /// The last that may be gone.
        removed: Sequence,
    },
}

/// The journal, to be read.
#[derive(Debug)]
pub struct Log {
    disk: Arc<dyn Disk>,
    dir: PathBuf,
    index: Arc<JournalIndex>,
    /// What is kept of sealed segments for readers of one organisation.
    indexes: Indexes,
    tail: Mutex<Tail>,
    /// What readers keep of what they read from segments.
    recent: Recent,
    pub(super) reads: Reads,
    /// Told when the tail grows and somebody watches.
    grown: Condvar,
    /// The last sequence that is acknowledged.
    head: AtomicU64,
    watched: AtomicBool,
    stopped: AtomicBool,
    stamps: Mutex<Stamps>,
}

/// What is known about the `ordering` of frames to come.
#[derive(Debug, Default)]
struct Stamps {
    /// A group has its stamps and is not published.
    busy: bool,
    /// Of the last frame that was published or refused.
    last: u64,
    /// No frame to come has an ordering up to this.
    promised: u64,
}

#[derive(Debug, Default)]
struct Tail {
    frames: VecDeque<Frame>,
    bytes: usize,
    /// Every frame behind this is in `frames`.
    floor: Sequence,
}

impl Log {
    pub(crate) fn new(disk: Arc<dyn Disk>, dir: PathBuf, index: Arc<JournalIndex>, head: Sequence) -> Log {
        Log {
            indexes: Indexes::new(disk.clone(), &dir, index.clone()),
            disk,
            dir,
            index,
            tail: Mutex::new(Tail { floor: head, ..Tail::default() }),
            recent: Recent::default(),
            reads: Reads::default(),
            grown: Condvar::new(),
            head: AtomicU64::new(head.0),
            watched: AtomicBool::new(false),
            stopped: AtomicBool::new(false),
            stamps: Mutex::default(),
        }
    }

    /// The committer is about to stamp a group; its frames' orderings must be greater
    /// than what is returned.
    pub fn begin_group(&self) -> u64 {
        let mut stamps = self.stamps.lock();
        stamps.busy = true;
        stamps.promised
    }

    /// The group was published or refused; `last` is the greatest ordering it used.
    pub fn end_group(&self, last: u64) {
        let mut stamps = self.stamps.lock();
        stamps.busy = false;
        stamps.last = last;
    }

    /// The head, and an ordering that every frame behind it will exceed: `now`
    /// (microseconds since 1970) if nothing is being committed, else the last
    /// group's. From then on the promise binds the committer.
    pub fn settle(&self, now: u64) -> (Sequence, u64) {
        let mut stamps = self.stamps.lock();
        if !stamps.busy {
            stamps.promised = stamps.promised.max(stamps.last).max(now);
        }
        // What was published has an ordering up to `last`, and is up to the head.
        (self.head(), stamps.promised.max(stamps.last))
    }

    /// The last sequence that is durable and visible.
    #[must_use]
    pub fn head(&self) -> Sequence {
        Sequence(self.head.load(Ordering::Acquire))
    }

    /// Whether frames are kept in memory for readers.
    #[must_use]
    pub fn is_watched(&self) -> bool {
        self.watched.load(Ordering::Acquire)
    }

    /// Keeps frames in memory from now on, or no longer.
    pub fn watch(&self, watched: bool) {
        let mut tail = self.tail.lock();
        self.watched.store(watched, Ordering::Release);
        *tail = Tail { floor: self.head(), ..Tail::default() };
        self.grown.notify_all();
    }

    /// Takes in a committed group: its last sequence, and its frames if somebody
    /// watches. The committer's.
    pub fn publish(&self, head: Sequence, frames: impl IntoIterator<Item = Frame>) {
        if !self.is_watched() {
            self.head.store(head.0, Ordering::Release);
            // Somebody may have begun to watch meanwhile: the tail then lacks this
            // group, which its floor has to say.
            let mut tail = self.tail.lock();
            if tail.floor < head && self.is_watched() {
                *tail = Tail { floor: head, ..Tail::default() };
            }
            return;
        }
        let mut tail = self.tail.lock();
        for frame in frames {
            tail.bytes += frame.byte_len();
            tail.frames.push_back(frame);
        }
        while tail.bytes > TAIL_BYTES
            && let Some(oldest) = tail.frames.pop_front()
        {
            tail.bytes -= oldest.byte_len();
            tail.floor = oldest.sequence();
        }
        self.head.store(head.0, Ordering::Release);
        self.grown.notify_all();
    }

    /// Waits until the head is beyond `position`, at most `timeout` long. False if
    /// it is not, or if the log was stopped.
    pub fn wait_beyond(&self, position: Sequence, timeout: Duration) -> bool {
        let mut tail = self.tail.lock();
        if self.head() <= position && !self.is_stopped() {
            self.grown.wait_for(&mut tail, timeout);
        }
        self.head() > position && !self.is_stopped()
    }

    /// Wakes who waits, for good.
    pub fn stop(&self) {
        let _tail = self.tail.lock();
        self.stopped.store(true, Ordering::Release);
        self.grown.notify_all();
    }

    /// Wakes who waits, once: something beside the journal changed.
    pub fn nudge(&self) {
        let _tail = self.tail.lock();
        self.grown.notify_all();
    }

    /// Whether it was stopped.
    #[must_use]
    pub fn is_stopped(&self) -> bool {
        self.stopped.load(Ordering::Acquire)
    }

    /// The last sequence whose frame may be gone.
    #[must_use]
    pub fn removed(&self) -> Sequence {
        self.index.removed()
    }

    /// A reader of the frames behind `after`.
    #[must_use]
    pub fn cursor(self: &Arc<Log>, after: Sequence) -> LogCursor {
        LogCursor { log: self.clone(), after, open: None, filter: None, keeps: false, era: None }
    }

    /// A reader of the frames behind `after` that a filter asks for: where segments are
    /// sealed it reads no others. Where they are not it gives the others, too.
    #[must_use]
    pub fn cursor_of(self: &Arc<Log>, after: Sequence, filter: FrameFilter) -> LogCursor {
        LogCursor { log: self.clone(), after, open: None, filter: Some(filter), keeps: false, era: None }
    }

    /// Makes indexes of segments as they are sealed, and forgets ids of events that are
    /// gone after `keys_kept`; give it a thread of its own.
    #[must_use]
    pub fn indexer(self: &Arc<Log>, keys_kept: Duration) -> SegmentIndexer {
        SegmentIndexer { log: self.clone(), keys_kept }
    }

    /// Waits until the log is stopped, at most `timeout` long.
    pub fn wait_stopped(&self, timeout: Duration) {
        let deadline = Instant::now() + timeout;
        let mut tail = self.tail.lock();
        while !self.is_stopped() && !self.grown.wait_until(&mut tail, deadline).timed_out() {}
    }

    pub(super) fn indexes(&self) -> &Indexes {
        &self.indexes
    }

    pub(super) fn journal_index(&self) -> &Arc<JournalIndex> {
        &self.index
    }

    /// Forgets the frames in memory: what was erased from segments must not be read
    /// from there. Readers go on from the segments.
    pub fn forget_tail(&self) {
        let forgotten = {
            let mut tail = self.tail.lock();
            std::mem::replace(&mut *tail, Tail { floor: self.head(), ..Tail::default() })
        };
        // Outside the lock, which the committer takes.
        drop(forgotten);
        self.recent.forget();
    }

    /// How often frames were [forgotten](Log::forget_tail): what was read before the last
    /// time may hold what was erased.
    #[must_use]
    pub fn erasures(&self) -> u64 {
        self.recent.era().0
    }

    /// Lets go what readers kept and nobody has used lately; to be called now and then.
    pub fn let_go(&self) {
        self.recent.let_go(Instant::now());
    }

    /// Writes segments anew without what is erased.
    #[must_use]
    pub fn rewriter(&self) -> SegmentRewriter {
        SegmentRewriter::new(self.disk.clone(), self.dir.clone(), self.index.clone())
    }

    /// Whether the frame with this sequence lies in memory.
    #[must_use]
    pub fn is_in_memory(&self, sequence: Sequence) -> bool {
        let is_in_tail = self.tail.lock().position(sequence).is_some();
        is_in_tail || sequence > self.removed() && self.recent.has(sequence)
    }

    /// The frame with this sequence.
    ///
    /// # Errors
    /// [`LogError`]; [`LogError::Gone`] also if there never was one.
    pub fn frame(self: &Arc<Log>, sequence: Sequence) -> Result<Frame, LogError> {
        if let Some(frame) = self.tail.lock().find(sequence) {
            return Ok(frame);
        }
        if sequence > self.removed()
            && let Some(frame) = self.recent.find(sequence)
        {
            return Ok(frame);
        }
        let mut cursor = self.cursor(Sequence(sequence.0.saturating_sub(1)));
        let found = cursor.read_one()?;
        found.filter(|frame| frame.sequence() == sequence).ok_or(LogError::Gone { removed: sequence })
    }
}

impl Log {
    /// Frames in memory before `before` that a filter asks for, newest first, about
    /// `bytes_max` of them, and the sequence before which one has to look on; `None` if
    /// none of those before it is in memory.
    pub(super) fn tail_before(
        &self,
        before: Sequence,
        filter: FrameFilter,
        bytes_max: usize,
    ) -> Option<(Vec<Frame>, Sequence)> {
        let tail = self.tail.lock();
        if !self.is_watched() || before <= tail.floor.next() {
            return None;
        }
        let end = tail.frames.partition_point(|frame| frame.sequence() < before);
        let (mut found, mut bytes, mut reached) = (Vec::new(), 0, tail.floor.next());
        for frame in tail.frames.range(..end).rev() {
            if bytes >= bytes_max {
                break;
            }
            bytes += frame.byte_len();
            reached = frame.sequence();
            if filter.takes(frame) {
                found.push(frame.clone());
            }
        }
        // All of them were looked at.
        let all = tail.frames.front().is_none_or(|first| first.sequence() >= reached);
        Some((found, if all { tail.floor.next() } else { reached }))
    }
}

impl Tail {
    fn find(&self, sequence: Sequence) -> Option<Frame> {
        self.frames.get(self.position(sequence)?).cloned()
    }

    /// Where a frame is. Sequences have gaps only where a write was refused, so mostly it
    /// is as far from the first as its sequence is.
    fn position(&self, sequence: Sequence) -> Option<usize> {
        let first = self.frames.front()?.sequence();
        let guess = usize::try_from(sequence.0.checked_sub(first.0)?).ok()?;
        match self.frames.get(guess) {
            Some(frame) if frame.sequence() == sequence => Some(guess),
            _ => self.frames.binary_search_by_key(&sequence, Frame::sequence).ok(),
        }
    }

    /// Frames behind `after`, if all of them are here.
    fn behind(&self, after: Sequence, bytes_max: usize) -> Option<Vec<Frame>> {
        if after < self.floor {
            return None;
        }
        let from = self.frames.partition_point(|frame| frame.sequence() <= after);
        let mut bytes = 0;
        let within = |frame: &&Frame| {
            let fits = bytes < bytes_max;
            bytes += frame.byte_len();
            fits
        };
        Some(self.frames.range(from..).take_while(within).cloned().collect())
    }
}

/// A reader with a position of its own.
#[derive(Debug)]
pub struct LogCursor {
    pub(super) log: Arc<Log>,
    pub(super) after: Sequence,
    /// The segment it reads while it lags.
    pub(super) open: Option<OpenSegment>,
    /// Which frames it asks sealed segments for, if not for all.
    pub(super) filter: Option<FrameFilter>,
    /// What it reads from segments is opened soon.
    keeps: bool,
    /// When one that keeps opened its file.
    era: Option<Era>,
}

#[derive(Debug)]
pub(super) struct OpenSegment {
    pub(super) id: SegmentId,
    path: PathBuf,
    file: Box<dyn DiskFile>,
    pub(super) bytes: u64,
    /// Of the next frame.
    pub(super) offset: u64,
    /// The frame before it, if it was read.
    last: Option<Last>,
}

/// What a frame says about the one behind it.
#[derive(Clone, Copy, Debug)]
struct Last {
    sequence: Sequence,
    synced: Sequence,
}

impl Last {
    /// Whether a frame cannot follow: sequences rise, and have gaps only between
    /// groups, where a write was refused.
    fn skips_to(self, sequence: Sequence, synced: Sequence) -> bool {
        let same_group = synced == self.synced && self.sequence > synced;
        sequence <= self.sequence || same_group && sequence > self.sequence.next()
    }
}

impl LogCursor {
    /// The same reader, for one who soon asks [`Log::frame`] for the events and verdicts that
    /// it has found.
    #[must_use]
    pub fn keeping(self) -> LogCursor {
        LogCursor { keeps: true, ..self }
    }

    /// Everything up to this was read.
    #[must_use]
    pub fn position(&self) -> Sequence {
        self.after
    }

    /// Goes on behind `after`.
    pub fn seek(&mut self, after: Sequence) {
        if after != self.after {
            self.after = after;
            self.open = None;
        }
    }

    /// The next frames, about `bytes_max` of them; none at the head.
    ///
    /// # Errors
    /// [`LogError`]; the position stays where it was.
    pub fn next(&mut self, bytes_max: usize) -> Result<Vec<Frame>, LogError> {
        let frames = match self.log.tail.lock().behind(self.after, bytes_max) {
            Some(frames) => {
                self.open = None;
                frames
            }
            None => Vec::new(),
        };
        let frames = if frames.is_empty() && self.after < self.log.head() {
            let era = self.log.recent.era();
            if self.keeps && self.era.replace(era) != Some(era) {
                // Its file may be one of which something was erased since.
                self.open = None;
            }
            let mut frames = self.read_disk(bytes_max)?;
            if self.keeps {
                let is_asked_for = |frame: &&Frame| match self.filter {
                    Some(filter) => filter.takes(frame),
                    None => matches!(frame, Frame::Samples(_) | Frame::Event(_) | Frame::Changes(..)),
                };
                self.log.recent.keep(era, frames.iter().filter(is_asked_for));
            }
            if frames.is_empty() {
                // Everything up to the head was looked through.
                frames = self.log.tail.lock().behind(self.after, bytes_max).unwrap_or_default();
            }
            frames
        } else {
            frames
        };
        if let Some(last) = frames.last() {
            self.after = last.sequence();
        }
        Ok(frames)
    }

    /// Frames from segments, read through their indexes as far as they have some.
    fn read_disk(&mut self, bytes_max: usize) -> Result<Vec<Frame>, LogError> {
        match self.filter {
            Some(filter) => self.read_filtered(filter, bytes_max.min(READ_BYTES)),
            None => self.read_all(bytes_max),
        }
    }

    fn read_one(&mut self) -> Result<Option<Frame>, LogError> {
        Ok(self.read_all(MARK_BYTES as usize)?.into_iter().next())
    }

    /// Frames from segments: those behind the position, up to the head.
    pub(super) fn read_all(&mut self, bytes_max: usize) -> Result<Vec<Frame>, LogError> {
        let (head, bytes_max) = (self.log.head(), bytes_max.min(READ_BYTES));
        let mut frames = Vec::new();
        while frames.is_empty() {
            let found = match self.open.take() {
                Some(open) => Some(open),
                None => self.find()?,
            };
            let Some(mut open) = found else { break };
            self.log.reads.note(open.id, Instant::now());
            // Asked before reading: what a sealed segment shows does not change.
            let following = self.log.index.following(open.id);
            match (open.read(self.after, head, bytes_max, &mut frames)?, following) {
                // Looked for anew from behind what was read.
                (End::Segment, Some(_)) if !frames.is_empty() => {}
                (End::Segment, Some((id, offset))) => {
                    let removed = self.log.index.removed();
                    if self.after < removed {
                        // Segments between this one and that are gone.
                        return Err(LogError::Gone { removed });
                    }
                    self.open = Some(self.log.open(id, offset)?);
                }
                (End::Block, _) => self.open = Some(open),
                (End::Segment, None) if frames.is_empty() && self.after < head => {
                    // What is acknowledged was written before it was.
                    return Err(open.damaged(FrameFault::Payload { what: "a durable frame is missing" }));
                }
                (End::Segment, None) | (End::Head, _) => {
                    self.open = Some(open);
                    break;
                }
            }
        }
        Ok(frames)
    }

    fn find(&self) -> Result<Option<OpenSegment>, LogError> {
        let index = &self.log.index;
        loop {
            // A place holds as long as the file is not replaced by another.
            let names = index.names.read();
            match index.start(self.after) {
                Start::At(id, offset) => return self.log.open(id, offset).map(Some),
                Start::Unscanned(id, generation) => {
                    let mut open = self.log.open(id, super::SEGMENT_HEADER_BYTES)?;
                    // Removals and replacements need not wait for a whole scan.
                    drop(names);
                    index.note_scan(id, generation, open.scan()?);
                }
                Start::Gone(removed) => return Err(LogError::Gone { removed }),
                Start::Nothing => return Ok(None),
            }
        }
    }
}

impl Log {
    pub(super) fn open(&self, id: SegmentId, offset: u64) -> Result<OpenSegment, LogError> {
        let path = id.path(&self.dir);
        let opened = self.disk.open(&path).and_then(|file| Ok((file.byte_len()?, file)));
        match opened {
            Ok((bytes, file)) => Ok(OpenSegment { id, path, file, bytes, offset, last: None }),
            // Removed between the look into the index and here.
            Err(source) if source.kind() == io::ErrorKind::NotFound => {
                Err(LogError::Gone { removed: self.index.removed() })
            }
            Err(source) => Err(LogError::Io { path, source }),
        }
    }
}

impl OpenSegment {
    /// Reads frames from the offset on, about `bytes_max` of them; those behind
    /// `after` go to `frames`.
    pub(super) fn read(
        &mut self,
        after: Sequence,
        head: Sequence,
        bytes_max: usize,
        frames: &mut Vec<Frame>,
    ) -> Result<End, LogError> {
        let mut block = self.block(self.offset, bytes_max.max(FRAME_HEADER_BYTES))?;
        let mut at = 0;
        let mut previous = after;
        while self.offset + FRAME_HEADER_BYTES as u64 <= self.bytes {
            if block.len() - at < FRAME_HEADER_BYTES {
                return Ok(End::Block);
            }
            let Some(header) = frame_at(&block, at) else { return Ok(End::Segment) };
            let Stamp { sequence, synced, .. } = header.stamp;
            if previous >= head {
                // What follows is not acknowledged yet, or being written at this moment.
                return Ok(End::Head);
            }
            let length = header.frame_bytes();
            if block.len() - at < length {
                if at > 0 {
                    return Ok(End::Block);
                }
                block = self.block(self.offset, length)?;
            }
            // Frames that were read before are checked as well: a broken length would
            // lead astray.
            let skips = sequence > head
                || sequence > after && synced > previous
                || self.last.is_some_and(|last| last.skips_to(sequence, synced));
            match read_frame(&block[at..], length, skips) {
                Ok(frame) if sequence > after => {
                    frames.push(frame);
                    previous = sequence;
                }
                Ok(_) => {}
                // What came before it is given first.
                Err(_) if !frames.is_empty() => return Ok(End::Block),
                Err(fault) => return Err(self.damaged(fault)),
            }
            self.last = Some(Last { sequence, synced });
            at += length;
            self.offset += length as u64;
        }
        Ok(End::Segment)
    }

    pub(super) fn damaged(&self, fault: FrameFault) -> LogError {
        LogError::Damaged { path: self.path.clone(), offset: self.offset, fault }
    }

    /// Marks for the whole segment, from its headers.
    fn scan(&mut self) -> Result<Vec<Mark>, LogError> {
        let mut marks: Vec<Mark> = Vec::new();
        let mut offset = self.offset;
        while offset + FRAME_HEADER_BYTES as u64 <= self.bytes {
            let block = self.block(offset, FRAME_HEADER_BYTES)?;
            let Some(header) = frame_at(&block, 0) else { break };
            if marks.last().is_none_or(|last| offset - last.offset >= MARK_BYTES) {
                marks.push(Mark { sequence: header.stamp.sequence, offset });
            }
            offset += header.frame_bytes() as u64;
        }
        Ok(marks)
    }

    pub(super) fn block(&self, offset: u64, bytes: usize) -> Result<Vec<u8>, LogError> {
        let left = usize::try_from(self.bytes.saturating_sub(offset)).unwrap_or(usize::MAX);
        let mut block = vec![0; bytes.min(left)];
        let read = self.file.read_exact_at(&mut block, offset);
        read.map_err(|source| LogError::Io { path: self.path.clone(), source })?;
        Ok(block)
    }
}

/// Why a read of a segment ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum End {
    /// What was read at once is used up.
    Block,
    /// The next frame is not acknowledged yet.
    Head,
    /// No frame follows in this segment.
    Segment,
}

/// The frame of `length` bytes at the start of `bytes`, if it is whole and follows on
/// what was read before.
pub(super) fn read_frame(bytes: &[u8], length: usize, skips: bool) -> Result<Frame, FrameFault> {
    if skips {
        return Err(FrameFault::Payload { what: "durable frames before it are missing" });
    }
    verify(bytes)?;
    let whole = bytes.get(..length).ok_or(FrameFault::Payload { what: "cut short" })?;
    Frame::parse(Bytes::copy_from_slice(whole))
}

/// The header of the frame at `at`; `None` where zeros or the end are.
fn frame_at(block: &[u8], at: usize) -> Option<Header> {
    let header = Header::read(block.get(at..)?)?;
    (header.payload_bytes > 0).then_some(header)
}
