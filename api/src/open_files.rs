//! How many files the system lets the process open, and how many of them may be
//! connections.
//!
//! Each connection is an open file. So are the data files that queries read, the
//! journal and the catalog: half of the limit is kept for them, because a server
//! that has run out can neither accept, nor flush, nor answer.

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use crate::settings::Settings;

/// Raises the soft limit of open files to the hard limit, and lowers
/// `http.connections_max` to half of it if it is more, with a line in the log.
pub fn fit(settings: &mut Settings) {
    let Some(open_files) = raise() else { return };
    let (wanted, most) = (settings.http.connections_max, connections_most(open_files));
    if wanted > most {
        tracing::warn!(
            open_files,
            "http.connections_max is lowered from {wanted} to {most}, half of the open files the system allows"
        );
        settings.http.connections_max = most;
    }
}

/// The limit as it is then; `None` is no limit.
fn raise() -> Option<u64> {
    let limit = getrlimit(Resource::Nofile);
    let raised = Rlimit { current: limit.maximum, maximum: limit.maximum };
    // A system that says no leaves the limit as it is.
    let _ = setrlimit(Resource::Nofile, raised);
    getrlimit(Resource::Nofile).current
}

fn connections_most(open_files: u64) -> usize {
    usize::try_from(open_files / 2).unwrap_or(usize::MAX).max(1)
}
