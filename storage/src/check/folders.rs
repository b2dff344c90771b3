//! What lies in the folders of data files and is in no row of the catalog.

use std::collections::HashSet;

use super::catalog::Known;
use super::journal::JournalState;
use super::{Context, Fault, Note};
use crate::attempts::ATTEMPTS_DIR;
use crate::files::{RUNS_DIR, SAMPLES_DIR, is_temporary, level_and_number};
use crate::series::{LATEST_DIR, is_checkpoint};

pub(super) fn check(context: &Context<'_>, known: &Known, journal: &JournalState) {
    let files = known.files.iter().map(|file| file.path.as_str());
    let attempts = known.attempts.iter().map(|attempts| attempts.file.path.as_str());
    let checkpoints = known.checkpoints.0.iter().map(|checkpoint| checkpoint.path.as_str());
    let listed: HashSet<&str> = files.chain(attempts).chain(checkpoints).collect();
    for folder in [RUNS_DIR, SAMPLES_DIR, ATTEMPTS_DIR, LATEST_DIR] {
        let at = context.data_dir.join(folder);
        let paths = match context.disk.list(&at) {
            Ok(paths) => paths,
            Err(error) => {
                context.fault(Fault::Unreadable { path: folder.to_owned(), what: error.to_string() });
                continue;
            }
        };
        for path in paths {
            let name = path.strip_prefix(context.data_dir).unwrap_or(&path).to_string_lossy().into_owned();
            if !listed.contains(name.as_str()) {
                explain(context, known, journal, name);
            }
        }
    }
}

fn explain(context: &Context<'_>, known: &Known, journal: &JournalState, path: String) {
    let name = std::path::Path::new(&path);
    let leftover = |what| context.note(Note::Leftover { path: path.clone(), what });
    if known.garbage.contains(&path) {
        return leftover("was replaced by a compaction");
    }
    if is_checkpoint(name) {
        return leftover("is a checkpoint of the series map that the catalog does not list");
    }
    if is_temporary(name) {
        return leftover("was being written");
    }
    match level_and_number(name) {
        None => context.note(Note::Foreign { path }),
        Some((0, number)) if known.flushed.0 < number && number <= journal.last.0 => {
            leftover("was written by a flush that did not end, and the journal has its samples");
        }
        Some((level, number)) if level > 0 && known.unfinished.contains(&number) => {
            leftover("was written by a compaction that did not end");
        }
        Some(_) => context.fault(Fault::Unlisted { path }),
    }
}
