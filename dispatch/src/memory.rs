//! The memory that bodies in flight may hold.

use tokio::sync::{Semaphore, SemaphorePermit};

/// Bodies are counted by this unit, as a semaphore counts to 2^29 or so.
const MEMORY_UNIT: usize = 1024;

/// A share of the bytes that bodies may hold.
pub(crate) struct Memory {
    permits: Semaphore,
    units: u32,
}

/// Units of memory for so many bytes.
pub(crate) fn memory_units(bytes: usize) -> u32 {
    u32::try_from(bytes.div_ceil(MEMORY_UNIT)).unwrap_or(u32::MAX)
}

impl Memory {
    pub(crate) fn new(bytes: usize) -> Memory {
        let units = (bytes / MEMORY_UNIT).clamp(1, Semaphore::MAX_PERMITS.min(u32::MAX as usize));
        Memory { permits: Semaphore::new(units), units: u32::try_from(units).unwrap_or(u32::MAX) }
    }

    /// Room for a body; one that is longer than all there is takes all of it. Full waits.
    pub(crate) async fn take(&self, bytes: usize) -> Option<SemaphorePermit<'_>> {
        self.permits.acquire_many(memory_units(bytes).min(self.units)).await.ok()
    }
}
