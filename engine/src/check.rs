//! `systole check`, with what the registry knows of each metric.

use std::path::Path;

use systole_storage::check::{CheckParts, MetricRule, Rules, check};
use systole_storage::{Catalog, CatalogError};

use crate::registry::Registries;

pub use systole_storage::check::{CheckError, Checked, Fault, Finding, Note, Progress};

/// Verifies journal, catalog and data files of a stopped store against each other, on
/// `threads` threads. Changes nothing. Each finding goes to `found`, from any of them.
/// Samples are kept for `default_days` where no rule says.
///
/// # Errors
/// [`CheckError`] if there is nothing that can be checked.
pub fn check_store(
    data_dir: &Path,
    threads: usize,
    default_days: Option<u32>,
    progress: &Progress,
    found: &(dyn Fn(&Finding) + Sync),
) -> Result<Checked, CheckError> {
    check(&CheckParts { data_dir, rules: &rules, default_days, found, progress, threads })
}

fn rules(catalog: &Catalog) -> Result<Rules, CatalogError> {
    let registries = Registries::load(catalog)?;
    Ok(Box::new(move |org, key| {
        let registry = registries.of(org);
        let (_, metric) = registry.resolve(key).filter(|(_, metric)| metric.key == key)?;
        let (hard_min, hard_max) = (metric.hard_min, metric.hard_max);
        Some(MetricRule { unit: metric.unit.clone(), hard_min, hard_max })
    }))
}
