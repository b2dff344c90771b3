//! CPU priority of threads.
//!
//! Decoding and flushing take all the CPU there is under load; the threads that
//! answer (network, committer, queries) take little and must not wait for them.
//! So the former give way: under load the system runs an answering thread as
//! soon as it wakes, and they share what is left.

use std::time::Duration;

use rustix::time::{ClockId, clock_gettime};

/// Steps of niceness a yielding thread takes: a third of the weight of an
/// answering one, enough to be preempted at once, not enough to starve.
const NICENESS: i32 = 5;

/// CPU time that the calling thread has taken. Waiting for a disk, or for a turn on a
/// busy machine, is no part of it.
pub(crate) fn cpu_time() -> Duration {
    let taken = clock_gettime(ClockId::ThreadCPUTime);
    let seconds = u64::try_from(taken.tv_sec).unwrap_or_default();
    Duration::new(seconds, u32::try_from(taken.tv_nsec).unwrap_or_default())
}

/// Lets the calling thread give way to threads that answer. Where the system
/// refuses, it keeps its priority.
pub fn give_way() {
    if let Err(error) = rustix::process::nice(NICENESS) {
        tracing::debug!(%error, "a background thread keeps its priority");
    }
}
