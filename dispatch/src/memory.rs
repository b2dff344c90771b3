//! The memory that bodies in flight may hold.

use std::sync::Arc;

use bytes::Bytes;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// Bodies are counted by this unit, as a semaphore counts to 2^29 or so.
const MEMORY_UNIT: usize = 1024;

/// A share of the bytes that bodies may hold.
#[derive(Debug)]
pub(crate) struct Memory {
    permits: Arc<Semaphore>,
    units: u32,
}

impl Memory {
    pub(crate) fn new(bytes: usize) -> Memory {
        let units = (bytes / MEMORY_UNIT).clamp(1, Semaphore::MAX_PERMITS.min(u32::MAX as usize));
        let permits = Arc::new(Semaphore::new(units));
        Memory { permits, units: u32::try_from(units).unwrap_or(u32::MAX) }
    }

    /// Room for a body; one that is longer than all there is takes all of it. Full waits,
    /// before which `waits` is called; `None` once it is closed.
    pub(crate) async fn take(&self, bytes: usize, waits: impl FnOnce()) -> Option<OwnedSemaphorePermit> {
        let units = u32::try_from(bytes.div_ceil(MEMORY_UNIT)).unwrap_or(u32::MAX).min(self.units);
        if let Ok(room) = self.permits.clone().try_acquire_many_owned(units) {
            return Some(room);
        }
        waits();
        self.permits.clone().acquire_many_owned(units).await.ok()
    }
}

/// A body with the room that it holds, in its lane's share and in everybody's: given
/// back once it is written, however long its answer takes, or its connection or exchange
/// has ended: some seconds after that at the latest (see `hosts`).
pub(crate) struct Body {
    bytes: Vec<u8>,
    _room: [OwnedSemaphorePermit; 2],
}

impl Body {
    pub(crate) fn holding(room: [OwnedSemaphorePermit; 2], bytes: Vec<u8>) -> Bytes {
        Bytes::from_owner(Body { bytes, _room: room })
    }
}

impl AsRef<[u8]> for Body {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_body_holds_its_room_until_the_last_of_it_is_dropped() {
        let memory = Memory::new(8 * MEMORY_UNIT);
        let free = || memory.permits.available_permits();
        let room = [memory.take(MEMORY_UNIT + 1, || ()).await.unwrap(), memory.take(1, || ()).await.unwrap()];
        let mut body = Body::holding(room, vec![7; MEMORY_UNIT + 1]);
        assert_eq!(free(), 5);
        let rest = body.split_off(MEMORY_UNIT);
        drop(body);
        assert_eq!(free(), 5);
        drop(rest);
        assert_eq!(free(), 8);
        assert_eq!(memory.take(100 * MEMORY_UNIT, || ()).await.unwrap().num_permits(), 8);
    }
}
