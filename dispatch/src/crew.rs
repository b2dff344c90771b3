//! Crews: who works for lanes, and over which connections.
//!
//! ```text
//! lanes of receivers that answer    --> living     as many threads as the settings say
//! lanes of receivers that may not   --> doubtful   one thread, which gives way to others
//! ```
//!
//! A receiver is doubtful until it took something where it is now, and once it failed twice
//! in a row or its lane is paused (see `lane::doubt`). What it costs (dials, handshakes,
//! answers that are cut, retries) is done when the others have nothing to do. Its thread has a
//! lower priority, and offers its core all the time: a thread that runs keeps it for a slice of
//! a millisecond or more else, whoever wakes.
//!
//! Each crew keeps connections of its own, since a connection is woken by the threads it
//! was dialled on. A worker goes over to the other crew with its next delivery.

use std::cell::Cell;
use std::fmt;
use std::io;
use std::time::{Duration, Instant};

use tokio::runtime::{Builder, Handle, Runtime};

use crate::client::Client;
use crate::look_up::LOOK_UPS_MAX;
use crate::room::Standing;

/// Threads of each crew that may block: look-ups hold some for half a minute, and reading
/// and opening payloads find 256 beside them.
const BLOCKING_THREADS_MAX: usize = LOOK_UPS_MAX + 256;

/// Threads that render, sign and send, and their connections.
pub(crate) struct Crew {
    pub(crate) handle: Handle,
    /// For receivers that stand best of those it works for, and for those that fail.
    clients: [Client; 2],
    gives_way: bool,
}

impl Crew {
    fn new(runtime: &Runtime, clients: [Client; 2], gives_way: bool) -> Crew {
        Crew { handle: runtime.handle().clone(), clients, gives_way }
    }

    /// Whether it works for receivers that may not answer.
    pub(crate) fn is_doubtful(&self) -> bool {
        self.gives_way
    }

    /// How a receiver stands that it works for.
    pub(crate) fn standing(&self, is_failing: bool) -> Standing {
        match (self.gives_way, is_failing) {
            (_, true) => Standing::Fails,
            (true, false) => Standing::Unknown,
            (false, false) => Standing::Answers,
        }
    }

    /// What calls a receiver that stands so.
    pub(crate) fn client(&self, standing: Standing) -> &Client {
        &self.clients[usize::from(standing == Standing::Fails)]
    }

    /// Between two steps: whoever waits for the core of a thread that gives way has it.
    pub(crate) fn offer_core(&self) {
        if self.gives_way {
            offer_core();
        }
    }
}

/// How long a thread that gives way keeps its core, where others have little to do: about as
/// long as a system call to the network takes.
const KEPT_MIN: Duration = Duration::from_micros(50);
/// The same where they take all there is.
const KEPT_MAX: Duration = Duration::from_millis(1);
/// How much longer the others have had it then. So it has its part of a busy machine, though
/// whoever offers a core waits for milliseconds there.
const OTHERS: u32 = 4;

thread_local! {
    /// Since when the thread has its core, and for how long it keeps it.
    static KEPT: Cell<Option<(Instant, Duration)>> = const { Cell::new(None) };
}

/// Lets others have the core of the calling thread, which gives way, if it has had it for a
/// while.
pub fn offer_core() {
    let offered = Instant::now();
    if KEPT.get().is_some_and(|(since, kept)| offered.duration_since(since) < kept) {
        return;
    }
    std::thread::yield_now();
    let since = Instant::now();
    let waited = since.duration_since(offered);
    KEPT.set(Some((since, (waited / OTHERS).clamp(KEPT_MIN, KEPT_MAX))));
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
    pub(crate) doubtful: Crew,
}

impl Crews {
    /// Starts them; `give_way` lowers the calling thread's priority.
    pub(crate) fn start(threads: usize, client: Client, give_way: fn()) -> io::Result<(Crews, [Runtime; 2])> {
        let living = runtime(threads, "dispatch").build()?;
        let doubtful = runtime(1, "dispatch-doubt").on_thread_start(give_way).build()?;
        let doubted = [Standing::Unknown, Standing::Fails].map(|standing| client.of(standing));
        let crews = Crews {
            doubtful: Crew::new(&doubtful, doubted, true),
            living: Crew::new(&living, [client.clone(), client], false),
        };
        Ok((crews, [living, doubtful]))
    }

    pub(crate) fn of(&self, is_doubtful: bool) -> &Crew {
        if is_doubtful { &self.doubtful } else { &self.living }
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
