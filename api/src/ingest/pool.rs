//! Buffers that requests take and give back, so that a batch allocates nothing
//! but its frame.
//!
//! Two kinds, because they are held for different times: a body's bytes while the
//! body arrives, the parser's scratch only while it is decoded. So there are about
//! as many scratches as threads that decode. What a large body blew up is not kept.

use std::ops::{Deref, DerefMut};
use std::sync::Arc;

use parking_lot::Mutex;
use simd_json::{Buffers, Tape};
use systole_engine::{Batch, BlockedUsers};

/// Longest buffer that is kept. Bodies of 500 points are 52 to 78 KB.
const KEEP_BYTES_MAX: usize = 1024 * 1024;
/// Bodies kept: as many as usual load has in flight.
const KEEP_BODIES_MAX: usize = 128;
/// Scratches kept: as many as a large machine has workers.
const KEEP_SCRATCHES_MAX: usize = 128;
/// What a new parser expects; it grows by itself.
const USUAL_BODY_BYTES: usize = 128 * 1024;
/// Deepest JSON: a batch has three levels, fields we do not know may have some.
const DEPTH_MAX: usize = 64;

/// The buffers of one running server.
#[derive(Default)]
pub(crate) struct Pool {
    bodies: Mutex<Vec<Vec<u8>>>,
    scratches: Mutex<Vec<Scratch>>,
}

/// What decoding needs.
pub(super) struct Scratch {
    pub(super) buffers: Buffers,
    /// Empty between requests, with its allocation.
    pub(super) tape: Tape<'static>,
    pub(super) batch: Batch,
    /// The longest body it has seen: how large its buffers are.
    pub(super) longest_bytes: usize,
}

impl Scratch {
    /// Starts a request; points of these users are refused.
    pub(super) fn begin(&mut self, now_ms: i64, blocked: Option<Arc<BlockedUsers>>) {
        self.batch.clear(now_ms);
        self.batch.refuse(blocked);
    }
}

impl Pool {
    /// An empty buffer, given back when it is dropped.
    pub(super) fn body(self: &Arc<Self>) -> BodyBuffer {
        let bytes = self.bodies.lock().pop().unwrap_or_default();
        BodyBuffer { bytes, pool: Arc::clone(self) }
    }

    /// A scratch; [`give`](Self::give) it back, unless decoding panicked.
    pub(super) fn scratch(&self) -> Scratch {
        self.scratches.lock().pop().unwrap_or_else(|| Scratch {
            buffers: Buffers::with_max_depth(USUAL_BODY_BYTES, DEPTH_MAX),
            tape: Tape(Vec::new()),
            batch: Batch::new(),
            longest_bytes: 0,
        })
    }

    pub(super) fn give(&self, scratch: Scratch) {
        let mut scratches = self.scratches.lock();
        if scratch.longest_bytes <= KEEP_BYTES_MAX && scratches.len() < KEEP_SCRATCHES_MAX {
            scratches.push(scratch);
        }
    }
}

/// A body's bytes; belongs to the pool.
pub(super) struct BodyBuffer {
    bytes: Vec<u8>,
    pool: Arc<Pool>,
}

impl Deref for BodyBuffer {
    type Target = Vec<u8>;

    fn deref(&self) -> &Vec<u8> {
        &self.bytes
    }
}

impl DerefMut for BodyBuffer {
    fn deref_mut(&mut self) -> &mut Vec<u8> {
        &mut self.bytes
    }
}

impl Drop for BodyBuffer {
    fn drop(&mut self) {
        let mut bytes = std::mem::take(&mut self.bytes);
        if bytes.capacity() == 0 || bytes.capacity() > KEEP_BYTES_MAX {
            return;
        }
        bytes.clear();
        let mut bodies = self.pool.bodies.lock();
        if bodies.len() < KEEP_BODIES_MAX {
            bodies.push(bytes);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_buffer_comes_back_empty_unless_it_grew_large() {
        let pool = Arc::new(Pool::default());
        let mut body = pool.body();
        body.extend_from_slice(b"abc");
        drop(body);
        assert_eq!(pool.bodies.lock().len(), 1);
        let mut body = pool.body();
        assert!(body.is_empty() && body.capacity() >= 3);
        body.reserve(KEEP_BYTES_MAX + 1);
        drop(body);
        assert!(pool.bodies.lock().is_empty());
    }
}
