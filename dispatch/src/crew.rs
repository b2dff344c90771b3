//! Crews: who works for lanes, and over which connections.
//!
//! ```text
//! lanes that answer      --> living    as many threads as the settings say
//! lanes that only fail   --> failing   one thread, which gives way to all others
//! ```
//!
//! Each crew keeps connections of its own, since a connection is woken by the threads it
//! was dialled on. A worker whose lane comes back, or begins to fail, goes over to the
//! other crew with its next delivery.

use std::fmt;
use std::io;

use tokio::runtime::{Builder, Handle, Runtime};

use crate::client::Client;
use crate::look_up::LOOK_UPS_MAX;

/// Threads of each crew that may block: look-ups hold some for half a minute, and reading
/// and opening payloads find 256 beside them.
const BLOCKING_THREADS_MAX: usize = LOOK_UPS_MAX + 256;

/// Threads that render, sign and send, and their connections.
pub(crate) struct Crew {
    pub(crate) handle: Handle,
    pub(crate) client: Client,
}

impl fmt::Debug for Crew {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Crew").finish_non_exhaustive()
    }
}

/// Those of a dispatcher.
#[derive(Debug)]
pub(crate) struct Crews {
    pub(crate) living: Crew,
    pub(crate) failing: Crew,
}

impl Crews {
    /// Starts them; `give_way` lowers the calling thread's priority.
    pub(crate) fn start(threads: usize, client: Client, give_way: fn()) -> io::Result<(Crews, [Runtime; 2])> {
        let living = runtime(threads, "dispatch").build()?;
        let failing = runtime(1, "dispatch-failing").on_thread_start(give_way).build()?;
        let crews = Crews {
            failing: Crew { handle: failing.handle().clone(), client: client.apart() },
            living: Crew { handle: living.handle().clone(), client },
        };
        Ok((crews, [living, failing]))
    }

    pub(crate) fn of(&self, is_failing: bool) -> &Crew {
        if is_failing { &self.failing } else { &self.living }
    }
}

fn runtime(threads: usize, name: &str) -> Builder {
    let mut builder = Builder::new_multi_thread();
    builder
        .worker_threads(threads.max(1))
        .thread_name(name)
        .max_blocking_threads(BLOCKING_THREADS_MAX)
        .enable_all();
    builder
}
