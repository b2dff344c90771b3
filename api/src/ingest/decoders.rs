//! Threads that decode.
//!
//! Decoding a body of 500 points takes about a hundred times as long as reading
//! it. On the threads of the network a question that takes microseconds would
//! wait behind every body that arrived before it; so bodies are decoded on
//! threads of their own, as many as there are cores, and the network's threads
//! only move bytes. Small bodies are decoded where they are: the way there and
//! back would cost more.

use tokio::runtime::{Builder, Runtime};

use crate::error::Refusal;

/// Bodies up to this length are decoded where they were read, in a few
/// microseconds.
const INLINE_BYTES_MAX: usize = 4 * 1024;

/// Runs decoding; in the order of arrival, as many at once as it has threads.
/// What waits here holds its share of the byte budget, which bounds it.
pub(crate) struct Decoders {
    /// `None` only while it is dropped.
    runtime: Option<Runtime>,
}

impl Decoders {
    /// Starts a thread for each core.
    pub(crate) fn start() -> std::io::Result<Decoders> {
        let threads = std::thread::available_parallelism().map_or(1, usize::from);
        let runtime = Builder::new_multi_thread()
            .worker_threads(threads)
            .thread_name("decode")
            .on_thread_start(systole_engine::priority::give_way)
            .build()?;
        Ok(Decoders { runtime: Some(runtime) })
    }

    /// Runs `job` for a body of `bytes` bytes. A panic in it is the caller's.
    pub(super) async fn run<T: Send + 'static>(
        &self,
        bytes: usize,
        job: impl FnOnce() -> Result<T, Refusal> + Send + 'static,
    ) -> Result<T, Refusal> {
        let Some(runtime) = self.runtime.as_ref().filter(|_| bytes > INLINE_BYTES_MAX) else {
            return job();
        };
        match runtime.spawn(async move { job() }).await {
            Ok(outcome) => outcome,
            Err(fault) if fault.is_panic() => std::panic::resume_unwind(fault.into_panic()),
            Err(_) => Err(Refusal::Stopping),
        }
    }
}

impl Drop for Decoders {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            // May be dropped on a thread of another runtime, which must not block.
            runtime.shutdown_background();
        }
    }
}
