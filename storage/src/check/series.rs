//! The checkpoints of the series map: each for itself, then what they say together
//! against the samples.
//!
//! Spans may be too wide and a checkpoint may hold more than its position says; what
//! must not be is a sample that it does not know, and a newest value without a sample.

use super::catalog::Known;
use super::{Context, Fault};
use crate::series::{SeriesError, Told, verify};

/// Checks the files; what they say, if all of them are sound.
pub(super) fn check(context: &Context<'_>, known: &Known) -> Option<Told> {
    let (records, position) = &known.checkpoints;
    let mut sound = true;
    for record in records {
        let at = context.data_dir.join(&record.path);
        let found = match context.disk.byte_len(&at) {
            Ok(actual) if actual != record.bytes => {
                let path = record.path.clone();
                context.fault(Fault::Length { path, expected: record.bytes, actual });
                sound = false;
                None
            }
            _ => match verify(context.disk.as_ref(), context.data_dir, record) {
                Ok(None) => None,
                Ok(Some(what)) => Some(Fault::Checkpoint { path: record.path.clone(), what }),
                Err(error) => Some(fault_of(&record.path, &error)),
            },
        };
        context.read(record.bytes);
        context.done();
        sound &= found.is_none();
        found.into_iter().for_each(|fault| context.fault(fault));
    }
    if !sound || records.is_empty() {
        return None;
    }
    match Told::load(context.disk.as_ref(), context.data_dir, records, *position, &context.hidden) {
        Ok(told) => Some(told),
        Err(error) => {
            context.fault(fault_of(crate::series::LATEST_DIR, &error));
            None
        }
    }
}

fn fault_of(path: &str, error: &SeriesError) -> Fault {
    let path = path.to_owned();
    match error {
        SeriesError::Io { source, .. } if source.kind() == std::io::ErrorKind::NotFound => {
            Fault::Missing { path }
        }
        SeriesError::Damaged { offset, .. } => {
            Fault::Checkpoint { path, what: format!("is damaged at byte {offset}") }
        }
        other => Fault::Unreadable { path, what: super::fault::chain(other) },
    }
}

/// Says how many newest values have no sample, once all samples were read.
pub(super) fn check_newest(context: &Context<'_>) {
    let Some(told) = &context.told else { return };
    let unmet = told.unmet();
    if unmet > 0 {
        let what = format!("{unmet} newest values have no sample");
        context.fault(Fault::Checkpoint { path: crate::series::LATEST_DIR.to_owned(), what });
    }
}
