//! Reading the journal back at start: every durable frame in order, the torn
//! tail cut off, damage reported.

use std::collections::BTreeSet;
use std::io::{self, IoSlice};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;

use super::index::{JournalIndex, Mark};
use super::segment::{HeaderState, SEGMENT_HEADER_BYTES, SealedSegment, Segment, SegmentId, read_header};
use super::writer::JournalWriter;
use crate::disk::Disk;
use crate::frame::{FRAME_ALIGN, FRAME_HEADER_BYTES, FrameFault, Header, Sequence, Stamp, verify};

/// What recovery found beside the frames.
#[derive(Debug)]
pub struct Recovered {
    /// The writer, ready to append behind the last frame.
    pub writer: JournalWriter,
    /// The last frame's sequence, or where the caller said it starts.
    pub last: Sequence,
    /// The greatest `ordering` seen, 0 if there was no frame.
    pub ordering: u64,
    /// Frames given to the visitor.
    pub frames: u64,
    /// Bytes of a torn group that were cut off.
    pub torn_bytes: u64,
}

/// Why a journal could not be read back.
#[derive(Debug, thiserror::Error)]
pub enum RecoverError {
    /// A file could not be read or repaired.
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
        /// Where the broken frame begins.
        offset: u64,
        /// What is wrong with it.
        fault: FrameFault,
    },
    /// A segment's header is broken although it holds frames.
    #[error("the journal is damaged: the header of {} is broken, but frames follow", path.display())]
    Header {
        /// The file.
        path: PathBuf,
    },
    /// Written by a later program.
    #[error("{} has format version {version}, which this program does not know", path.display())]
    Version {
        /// The file.
        path: PathBuf,
        /// Its version.
        version: u32,
    },
    /// A segment between two others is missing.
    #[error("the journal is damaged: segment {missing} is missing before {}", path.display())]
    Gap {
        /// The missing number.
        missing: u64,
        /// The file behind the gap.
        path: PathBuf,
    },
    /// The visitor refused a frame.
    #[error("frame {sequence} in {} at byte {offset} cannot be applied: {fault}", path.display())]
    Refused {
        /// Its sequence.
        sequence: Sequence,
        /// The file.
        path: PathBuf,
        /// Where it begins.
        offset: u64,
        /// What is wrong with it.
        fault: FrameFault,
    },
}

/// Reads every frame behind `from` in order and hands it to `visit`; cuts off a
/// torn tail; opens the journal for appending. Memory: one segment at a time.
/// Segments that lie wholly at or below `from` are kept for readers and not read:
/// only their first frame is.
///
/// # Errors
/// [`RecoverError`]; nothing on disk was changed then, except that never-used
/// segments may be gone.
pub fn recover(
    disk: &Arc<dyn Disk>,
    dir: &Path,
    segment_bytes: u64,
    from: Sequence,
    mut visit: impl FnMut(Header, Bytes) -> Result<(), FrameFault>,
) -> Result<Recovered, RecoverError> {
    let at = |path: &Path| {
        let path = path.to_owned();
        move |source| RecoverError::Io { path, source }
    };
    disk.create_dir_all(dir).map_err(at(dir))?;
    if let Some(parent) = dir.parent() {
        disk.sync_dir(parent).map_err(at(parent))?;
    }
    remove_temporary(disk.as_ref(), dir)?;
    let ids = segment_ids(disk.as_ref(), dir)?;
    let index = Arc::new(JournalIndex::default());
    index.note_indexed(kept_indexes(disk.as_ref(), dir, &ids)?);
    let mut sealed: Vec<SealedSegment> = Vec::new();
    let firsts = first_frames(disk.as_ref(), dir, &ids).map_err(at(dir))?;
    let skipped = settled_segments(&firsts, from);
    for (place, &id) in ids.iter().enumerate().take(skipped) {
        let (Some(first), Some(next)) = (firsts[place], firsts[place + 1]) else { break };
        index.note_first(id, first.mark);
        let last = Sequence(next.mark.sequence.0 - 1);
        sealed.push(SealedSegment { id, last, bytes: first.segment_bytes, committed_at: next.committed_at });
    }
    // What was durable before the oldest frame that is still here; in the middle of a
    // group, the frame before it.
    index.set_removed(match firsts.iter().flatten().next() {
        // Nothing was ever removed.
        _ if ids.first() == Some(&SegmentId(1)) => Sequence::ZERO,
        Some(first) if first.mark.sequence == first.synced.next() => first.synced,
        Some(first) => Sequence(first.mark.sequence.0 - 1),
        None => from,
    });
    let mut scan = Scan {
        index: &index,
        last: from,
        committed_at: 0,
        group_synced: None,
        visit: &mut visit,
        from,
        ordering: 0,
        frames: 0,
        torn_bytes: 0,
    };
    let mut tail: Option<(Segment, u64, Sequence, i64)> = None;
    for (place, &id) in ids.iter().enumerate().skip(skipped) {
        let path = id.path(dir);
        let file = disk.open(&path).map_err(at(&path))?;
        let bytes = read_whole(file.as_ref()).map_err(at(&path))?;
        match read_header(&bytes, id) {
            HeaderState::Valid => {}
            HeaderState::Version(version) => return Err(RecoverError::Version { path, version }),
            HeaderState::Broken if frames_in(&bytes, 0).next().is_some() => {
                return Err(RecoverError::Header { path });
            }
            HeaderState::Broken => {
                disk.remove(&path).map_err(at(&path))?;
                continue;
            }
        }
        let segment = Segment { id, file, bytes: bytes.len() as u64 };
        let bytes = Bytes::from(bytes);
        let end = scan.segment(id, &path, &bytes, || later_frame(disk.as_ref(), dir, &ids[place + 1..]))?;
        if let Some((old, _, last, committed_at)) = tail.take() {
            sealed.push(SealedSegment { id: old.id, last, bytes: old.bytes, committed_at });
        }
        settle(&segment, &bytes, &end).map_err(at(&path))?;
        tail = Some((segment, end.offset, scan.last, scan.committed_at));
    }
    disk.sync_dir(dir).map_err(at(dir))?;
    let tail = match tail {
        Some(tail) => tail,
        None => {
            let id = SegmentId(1);
            let fresh = Segment::prepare(disk.as_ref(), dir, id, segment_bytes).map_err(at(&id.path(dir)))?;
            (fresh, SEGMENT_HEADER_BYTES, from, 0)
        }
    };
    let (last, ordering, frames, torn_bytes) = (scan.last, scan.ordering, scan.frames, scan.torn_bytes);
    let writer = JournalWriter::new(disk.clone(), dir.to_owned(), segment_bytes, tail, sealed, index);
    Ok(Recovered { writer, last, ordering, frames, torn_bytes })
}

struct Scan<'a, V> {
    index: &'a JournalIndex,
    visit: &'a mut V,
    from: Sequence,
    last: Sequence,
    /// When the frame read last was committed.
    committed_at: i64,
    /// `synced` of the frame read last: which group it is of.
    group_synced: Option<Sequence>,
    ordering: u64,
    frames: u64,
    torn_bytes: u64,
}

/// Where a segment's frames end.
struct End {
    /// Where the last group begins.
    group: usize,
    /// Where the next frame would begin.
    offset: u64,
    /// Where the remains of a torn group end.
    torn: u64,
}

/// Brings a segment into the state its frames say. The last group may have been
/// written but not synced, or its sync may have failed and the system forgotten
/// it; its frames count from now on, so they are written once more and synced.
/// The remains of a torn group are overwritten.
fn settle(segment: &Segment, bytes: &Bytes, end: &End) -> io::Result<()> {
    let frames_end = usize::try_from(end.offset).map_err(io::Error::other)?;
    if end.group < frames_end {
        let group = &bytes[end.group..frames_end];
        segment.file.write_all_at(&mut [IoSlice::new(group)], end.group as u64)?;
        segment.file.sync_data()?;
    }
    if end.torn > end.offset {
        segment.erase(end.offset, end.torn)?;
    }
    Ok(())
}

impl<V: FnMut(Header, Bytes) -> Result<(), FrameFault>> Scan<'_, V> {
    fn segment(
        &mut self,
        id: SegmentId,
        path: &Path,
        bytes: &Bytes,
        later: impl FnOnce() -> Result<bool, RecoverError>,
    ) -> Result<End, RecoverError> {
        let mut at = SEGMENT_HEADER_BYTES as usize;
        // Frames at or below `from` are read again and must rise, too.
        let mut previous = Sequence::ZERO;
        let mut group = (at, Sequence::ZERO);
        let fault = loop {
            if at + FRAME_ALIGN > bytes.len() {
                break None;
            }
            match verify(&bytes[at..]) {
                Ok(header) if self.skips(&header) => {
                    let fault = FrameFault::Payload { what: "durable frames before it are missing" };
                    return Err(RecoverError::Damaged { path: path.to_owned(), offset: at as u64, fault });
                }
                Ok(header) if header.stamp.sequence > previous => {
                    previous = header.stamp.sequence;
                    if header.stamp.synced != group.1 {
                        group = (at, header.stamp.synced);
                    }
                    self.index.note(id, Mark { sequence: previous, offset: at as u64 });
                    self.frame(path, bytes, at, &header)?;
                    at += header.frame_bytes();
                }
                // A frame from before, met again: remains of an older group.
                Ok(_) => break Some(FrameFault::Payload { what: "its sequence does not rise" }),
                Err(fault) => break Some(fault),
            }
        };
        let remains = bytes[at..].iter().rposition(|&byte| byte != 0).map_or(at, |last| at + last + 1);
        if let Some(fault) = fault.filter(|_| remains > at) {
            // Something lies where a frame should begin. It is damage if a whole
            // frame behind it was written after a sync that covered this place;
            // otherwise it is a group that was cut short.
            if synced_beyond(bytes, at + FRAME_ALIGN, self.last) || later()? {
                return Err(RecoverError::Damaged { path: path.to_owned(), offset: at as u64, fault });
            }
        }
        self.torn_bytes += (remains - at) as u64;
        Ok(End { group: group.0, offset: at as u64, torn: remains as u64 })
    }

    /// Whether durable frames between the last one and this are missing: this one
    /// was written when more was durable, or it is not the next of its group.
    /// Sequences have gaps only between groups, where a write was refused.
    fn skips(&self, header: &Header) -> bool {
        let stamp = header.stamp;
        let same_group = self.group_synced == Some(stamp.synced) && self.last > stamp.synced;
        stamp.synced > self.last || same_group && stamp.sequence.0 > self.last.0 + 1
    }

    fn frame(&mut self, path: &Path, bytes: &Bytes, at: usize, header: &Header) -> Result<(), RecoverError> {
        let sequence = header.stamp.sequence;
        self.ordering = self.ordering.max(header.stamp.ordering);
        self.last = self.last.max(sequence);
        self.committed_at = header.stamp.committed_at;
        self.group_synced = Some(header.stamp.synced);
        if sequence <= self.from {
            return Ok(());
        }
        self.frames += 1;
        // A copy, so that a buffered frame does not keep its whole segment.
        let frame = Bytes::copy_from_slice(&bytes[at..at + header.frame_bytes()]);
        (self.visit)(*header, frame).map_err(|fault| RecoverError::Refused {
            sequence,
            path: path.to_owned(),
            offset: at as u64,
            fault,
        })
    }
}

/// A segment's first frame.
#[derive(Clone, Copy, Debug)]
struct First {
    mark: Mark,
    synced: Sequence,
    committed_at: i64,
    segment_bytes: u64,
}

/// The first frame of each segment; `None` where there is no whole one.
fn first_frames(disk: &dyn Disk, dir: &Path, ids: &[SegmentId]) -> io::Result<Vec<Option<First>>> {
    let first = |id: &SegmentId| {
        let file = disk.open(&id.path(dir))?;
        let segment_bytes = file.byte_len()?;
        let read = |bytes: usize| {
            let mut block = vec![0; bytes.min(usize::try_from(segment_bytes).unwrap_or(usize::MAX))];
            file.read_exact_at(&mut block, 0).map(|()| block)
        };
        let begin = SEGMENT_HEADER_BYTES as usize;
        let head = read(begin + FRAME_HEADER_BYTES)?;
        if read_header(&head, *id) != HeaderState::Valid {
            return Ok(None);
        }
        let Some(header) = head.get(begin..).and_then(Header::read) else { return Ok(None) };
        let whole = read(begin + header.frame_bytes())?;
        let mark = Mark { sequence: header.stamp.sequence, offset: SEGMENT_HEADER_BYTES };
        let verified = whole.get(begin..).is_some_and(|frame| verify(frame).is_ok());
        let Stamp { synced, committed_at, .. } = header.stamp;
        Ok(verified.then_some(First { mark, synced, committed_at, segment_bytes }))
    };
    ids.iter().map(first).collect()
}

/// How many of the oldest segments hold nothing behind `from`: the next one begins
/// at or below it.
fn settled_segments(firsts: &[Option<First>], from: Sequence) -> usize {
    let known = firsts.iter().take_while(|first| first.is_some()).flatten();
    let begun = known.take_while(|first| first.mark.sequence <= from.next()).count();
    begun.saturating_sub(1)
}

/// Segments with an index beside them; indexes without a segment are removed. What is
/// in them is looked at when they are used.
fn kept_indexes(disk: &dyn Disk, dir: &Path, ids: &[SegmentId]) -> Result<BTreeSet<SegmentId>, RecoverError> {
    let paths = disk.list(dir).map_err(|source| RecoverError::Io { path: dir.to_owned(), source })?;
    let mut kept = BTreeSet::new();
    for path in paths {
        let Some(id) = SegmentId::of_index_path(&path) else { continue };
        // The last one is appended to.
        if ids.binary_search(&id).is_ok() && ids.last() != Some(&id) {
            kept.insert(id);
        } else {
            disk.remove(&path).map_err(|source| RecoverError::Io { path, source })?;
        }
    }
    Ok(kept)
}

/// Removes what an unfinished rewriting of a segment left.
fn remove_temporary(disk: &dyn Disk, dir: &Path) -> Result<(), RecoverError> {
    let paths = disk.list(dir).map_err(|source| RecoverError::Io { path: dir.to_owned(), source })?;
    for path in paths.into_iter().filter(|path| path.extension().is_some_and(|it| it == "tmp")) {
        disk.remove(&path).map_err(|source| RecoverError::Io { path, source })?;
    }
    Ok(())
}

fn segment_ids(disk: &dyn Disk, dir: &Path) -> Result<Vec<SegmentId>, RecoverError> {
    let paths = disk.list(dir).map_err(|source| RecoverError::Io { path: dir.to_owned(), source })?;
    let mut ids: Vec<SegmentId> = paths.iter().filter_map(|path| SegmentId::of_path(path)).collect();
    ids.sort();
    for pair in ids.windows(2) {
        if pair[1] != pair[0].next() {
            return Err(RecoverError::Gap { missing: pair[0].next().0, path: pair[1].path(dir) });
        }
    }
    Ok(ids)
}

fn read_whole(file: &dyn crate::disk::DiskFile) -> io::Result<Vec<u8>> {
    let len = usize::try_from(file.byte_len()?).map_err(io::Error::other)?;
    let mut bytes = vec![0; len];
    file.read_exact_at(&mut bytes, 0)?;
    Ok(bytes)
}

/// Whether a whole frame at or behind `from`, looked for at every alignment, was
/// written when something after `last` was durable. Frames of the broken one's
/// own group prove nothing, so the search goes on behind them.
fn synced_beyond(bytes: &[u8], from: usize, last: Sequence) -> bool {
    frames_in(bytes, from).any(|header| header.stamp.synced > last)
}

/// The whole frames at or behind `from`, looked for at every alignment.
fn frames_in(bytes: &[u8], from: usize) -> impl Iterator<Item = Header> {
    let mut at = from.next_multiple_of(FRAME_ALIGN);
    std::iter::from_fn(move || {
        while at + FRAME_ALIGN <= bytes.len() {
            let here = at;
            at += FRAME_ALIGN;
            if bytes[here..at] != [0; FRAME_ALIGN]
                && let Ok(header) = verify(&bytes[here..])
            {
                at = here + header.frame_bytes();
                return Some(header);
            }
        }
        None
    })
}

/// Whether later segments hold any whole frame. A segment is synced before a
/// frame goes to the next, so one is proof that this one was durable to its end.
fn later_frame(disk: &dyn Disk, dir: &Path, ids: &[SegmentId]) -> Result<bool, RecoverError> {
    for id in ids {
        let path = id.path(dir);
        let read = disk.open(&path).and_then(|file| read_whole(file.as_ref()));
        let bytes = read.map_err(|source| RecoverError::Io { path, source })?;
        if frames_in(&bytes, SEGMENT_HEADER_BYTES as usize).next().is_some() {
            return Ok(true);
        }
    }
    Ok(false)
}
