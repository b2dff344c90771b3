//! The journal: one log of frames, written by one thread, synced once a group.
//!
//! Constraints: an append returns only when its frames are on the medium; a
//! segment is preallocated and durable, name and content, before its first
//! frame; memory while recovering is bounded by one segment.
//!
//! ```text
//! journal/0000000001.segment   header (64 bytes), frames, zeros to the end
//! journal/0000000001.index     which of its frames concern whom, once it is sealed
//! journal/0000000001.keys      ids that publishers gave its events, if they did
//! journal/0000000002.segment   ...
//! ```
//!
//! Life cycle of a segment: prepared (zeros, header, synced with its folder),
//! current (appended to), sealed (no frame will follow), removed once every
//! reader's position is past its last sequence. A sealed one may be replaced by one
//! without what was erased: the same frames with the same stamps, shorter.
//!
//! Damage: a group that was being written when the power went is torn, which is
//! normal: it was never acknowledged and is cut off. Any other broken frame is an
//! error that names file and offset. Each frame carries the last sequence that
//! was durable before its group (`synced`), so a whole frame behind a broken one
//! proves which of the two it is. What cannot be told apart: a flipped bit inside
//! the very last group looks like a torn group, and zeros from the first frame of
//! a group that goes on in the next segment look like the room of a refused one.

mod filtered;
mod index;
mod indexes;
mod keys;
mod log;
mod read_ahead;
mod recent;
mod recovery;
mod rewrite;
mod segment;
mod segment_index;
mod writer;

pub use filtered::ReverseCursor;
pub use index::JournalIndex;
pub use indexes::SegmentIndexer;
pub use keys::EventKey;
pub use log::{Log, LogCursor, LogError};
pub use recovery::{RecoverError, Recovered, recover};
pub use rewrite::{Broken, RewriteError, Rewritten, SegmentRewriter};
pub(crate) use segment::{HeaderState, read_header};
pub use segment::{SEGMENT_HEADER_BYTES, SealedSegment, SegmentId};
pub use segment_index::FrameFilter;
pub use writer::{AppendError, JournalWriter, SparePreparer};
