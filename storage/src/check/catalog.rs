//! The catalog: its pages, and what its rows say of each other.

use std::collections::HashSet;

use super::journal::JournalState;
use super::{CheckError, Context, Fault};
use crate::catalog::{
    AttemptFileRecord, CATALOG_FILE, Catalog, CatalogError, CheckpointRecord, FileRecord, SectionRecord,
};
use crate::files::{BLOCK_BYTES, Partition, Period, is_run, run_file};
use crate::frame::Sequence;

/// What the catalog says, as far as it could be read.
pub(super) struct Known {
    pub(super) flushed: Sequence,
    pub(super) files: Vec<FileRecord>,
    pub(super) attempts: Vec<AttemptFileRecord>,
    pub(super) garbage: HashSet<String>,
    pub(super) unfinished: HashSet<u64>,
    /// Oldest first, and the position they reach to.
    pub(super) checkpoints: (Vec<CheckpointRecord>, Sequence),
    positions: Vec<(String, Sequence)>,
}

/// Opens it; `None` if it is lost or damaged, which is reported.
pub(super) fn open(context: &Context<'_>) -> Result<Option<Catalog>, CheckError> {
    if !context.data_dir.join(CATALOG_FILE).exists() {
        context.fault(Fault::Missing { path: CATALOG_FILE.to_owned() });
        return Ok(None);
    }
    match Catalog::open_to_read(context.data_dir) {
        Ok(catalog) => Ok(Some(catalog)),
        Err(error @ (CatalogError::Version { .. } | CatalogError::Outdated { .. })) => {
            Err(CheckError::Version(error))
        }
        Err(error) => {
            context.fault(Fault::catalog(&error));
            Ok(None)
        }
    }
}

/// Checks the catalog for itself; `None` if its files cannot be read, which is reported.
pub(super) fn check(context: &Context<'_>, catalog: &Catalog) -> Option<Known> {
    report(context, catalog.integrity(), |line| Fault::Catalog { what: line });
    report(context, catalog.dangling(), |row| Fault::Orphan {
        what: row.what,
        name: row.name,
        owner: row.owner,
    });
    match read(catalog) {
        Ok(known) => {
            let garbage = &known.garbage;
            for file in &known.files {
                check_record(context, file);
                if garbage.contains(&file.path) {
                    record_fault(context, file, "listing", "garbage too", "a file or garbage");
                }
            }
            for attempts in &known.attempts {
                super::attempts::check_record(context, attempts);
                if garbage.contains(&attempts.file.path) {
                    record_fault(context, &attempts.file, "listing", "garbage too", "a file or garbage");
                }
            }
            Some(known)
        }
        Err(error) => {
            context.fault(Fault::catalog(&error));
            None
        }
    }
}

fn read(catalog: &Catalog) -> Result<Known, CatalogError> {
    Ok(Known {
        flushed: catalog.flushed()?.sequence,
        files: catalog.files()?,
        attempts: catalog.attempt_files()?,
        garbage: catalog.garbage()?.into_iter().collect(),
        unfinished: catalog.unfinished()?.into_iter().collect(),
        checkpoints: catalog.checkpoints()?,
        positions: catalog.places()?,
    })
}

fn report<T>(context: &Context<'_>, found: Result<Vec<T>, CatalogError>, fault: impl Fn(T) -> Fault) {
    match found {
        Ok(found) => found.into_iter().map(fault).for_each(|fault| context.fault(fault)),
        Err(error) => context.fault(Fault::catalog(&error)),
    }
}

/// Checks that no position lies behind the end of everything.
pub(super) fn check_positions(context: &Context<'_>, known: &Known, journal: &JournalState) {
    let last = journal.last.max(known.flushed);
    for (name, actual) in known.positions.iter().filter(|(_, position)| *position > last) {
        context.fault(Fault::PositionBeyond { name: name.clone(), actual: *actual, last });
    }
    let (_, checkpointed) = known.checkpoints;
    if checkpointed > known.flushed {
        let name = "checkpointed".to_owned();
        context.fault(Fault::PositionBeyond { name, actual: checkpointed, last: known.flushed });
    }
    // Without a frame the journal says nothing of its end.
    if journal.frames > 0 && journal.damaged == 0 && journal.last < known.flushed {
        let name = "flushed".to_owned();
        context.fault(Fault::PositionBeyond { name, actual: known.flushed, last: journal.last });
    }
}

/// Checks what the catalog says of a file against itself.
fn check_record(context: &Context<'_>, file: &FileRecord) {
    let fault = |what, actual: &dyn ToString, expected: &dyn ToString| {
        record_fault(context, file, what, &actual.to_string(), &expected.to_string());
    };
    let blocks = file.bytes.div_ceil(BLOCK_BYTES as u64);
    if file.block_crc32c.len() as u64 != blocks {
        fault("number of block checksums", &file.block_crc32c.len(), &blocks);
    }
    if file.sections.is_empty() {
        fault("list of sections", &"empty", &"a section or more");
        return;
    }
    let rows: u64 = file.sections.iter().map(|section| section.rows).sum();
    if rows != file.rows {
        fault("number of rows in sections", &rows, &file.rows);
    }
    let first = file.sections.iter().map(|section| section.sequence_first).min().unwrap_or_default();
    let last = file.sections.iter().map(|section| section.sequence_last).max().unwrap_or_default();
    if (first, last) != (file.sequence_first, file.sequence_last) {
        let stated = format!("{} to {}", file.sequence_first, file.sequence_last);
        fault("range of sequences", &stated, &format!("{first} to {last}"));
    }
    if !file.sections.is_sorted_by(|a, b| (&a.org, &a.metric) < (&b.org, &b.metric)) {
        fault("order of sections", &"another", &"organisation, metric");
    }
    file.sections.iter().for_each(|section| check_section(context, file, section));
    check_place(context, file);
}

fn check_section(context: &Context<'_>, file: &FileRecord, section: &SectionRecord) {
    let ordered = section.sequence_first <= section.sequence_last
        && section.time_min <= section.time_max
        && section.user_min <= section.user_max
        && section.rows > 0;
    if !ordered {
        record_fault(context, file, "range of a section", "empty", "a row or more");
    }
    let days: u64 = section.days.iter().map(|(_, rows)| rows).sum();
    if !section.days.is_empty() && days != section.rows {
        record_fault(context, file, "rows by day", &days.to_string(), &section.rows.to_string());
    }
}

/// Checks that a file lies where its rows belong.
fn check_place(context: &Context<'_>, file: &FileRecord) {
    let number = crate::files::level_and_number(file.path.as_ref()).map(|(_, number)| number);
    let number = number.unwrap_or_default();
    if is_run(&file.path) {
        let place = run_file(file.level, number);
        if place != file.path {
            record_fault(context, file, "path", &file.path, &place);
        }
        return;
    }
    let Some(period) = Period::parse(&file.period) else {
        return record_fault(context, file, "period", &file.period, "a day, month or year");
    };
    let partition =
        Partition { org: file.org.clone(), metric: file.metric.clone(), period, bucket: file.bucket };
    let place = partition.file(file.level, number);
    if place != file.path {
        record_fault(context, file, "path", &file.path, &place);
    }
    let of_it = |section: &SectionRecord| section.org == file.org && section.metric == file.metric;
    if file.sections.len() != 1 || !file.sections.iter().all(of_it) {
        record_fault(context, file, "list of sections", "another", "one, of its organisation and metric");
    }
    if file.bucket_bits > 32 || u64::from(file.bucket) >> file.bucket_bits > 0 {
        record_fault(context, file, "bucket", &file.bucket.to_string(), "one of its number of buckets");
    }
}

fn record_fault(context: &Context<'_>, file: &FileRecord, what: &'static str, actual: &str, expected: &str) {
    context.fault(Fault::Record {
        path: file.path.clone(),
        what,
        actual: actual.to_owned(),
        expected: expected.to_owned(),
    });
}
