//! How many files the system lets the process open, and how many of them may be
//! connections.
//!
//! Each connection is an open file. So are the data files that queries read, the
//! journal and the catalog: a quarter of the limit is kept for them, because a server
//! that has run out can neither accept, nor flush, nor answer. Half of it is for clients,
//! a quarter for connections to receivers.

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use systole_engine::events::webhooks::CONNECTIONS_MAX;

use crate::settings::Settings;

/// Raises the soft limit of open files to the hard limit, and lowers
/// `http.connections_max` to half of it and `dispatch.connections_max` to a quarter if
/// they are more, with a line in the log for each that somebody set.
pub fn fit(settings: &mut Settings) {
    let Some(open_files) = raise() else { return };
    let (wanted, most) = (settings.http.connections_max, part(open_files, 2));
    if wanted > most {
        tracing::warn!(
            open_files,
            "http.connections_max is lowered from {wanted} to {most}, half of the open files the system allows"
        );
        settings.http.connections_max = most;
    }
    let most = part(open_files, 4);
    if let Some(wanted) = settings.dispatch.connections_max.filter(|wanted| *wanted > most) {
        tracing::warn!(
            open_files,
            "dispatch.connections_max is lowered from {wanted} to {most}, a quarter of the open files the \
             system allows"
        );
    }
    let wanted = settings.dispatch.connections_max.unwrap_or(CONNECTIONS_MAX);
    settings.dispatch.connections_max = Some(wanted.min(most));
}

/// The limit as it is then; `None` is no limit.
fn raise() -> Option<u64> {
    let limit = getrlimit(Resource::Nofile);
    let raised = Rlimit { current: limit.maximum, maximum: limit.maximum };
    // A system that says no leaves the limit as it is.
    let _ = setrlimit(Resource::Nofile, raised);
    getrlimit(Resource::Nofile).current
}

fn part(open_files: u64, of: u64) -> usize {
    usize::try_from(open_files / of).unwrap_or(usize::MAX).max(1)
}
