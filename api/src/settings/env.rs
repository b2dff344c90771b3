//! Settings in the environment: `section.name` is `SYSTOLE_SECTION_NAME`.

use std::collections::BTreeMap;

const PREFIX: &str = "SYSTOLE_";

/// Variables by name, so that tests can bring their own.
pub type Environment = BTreeMap<String, String>;

/// The variables of this process that begin with `SYSTOLE_`.
///
/// Those that name no setting are ignored: container platforms add such names
/// of their own (`SYSTOLE_SERVICE_HOST`).
#[must_use]
pub fn process_environment() -> Environment {
    std::env::vars_os()
        .filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)))
        .filter(|(name, _)| name.starts_with(PREFIX))
        .collect()
}

/// The variable of a setting.
pub(crate) fn variable(name: &str) -> String {
    let upper = name.chars().map(|c| if c == '.' { '_' } else { c.to_ascii_uppercase() });
    PREFIX.chars().chain(upper).collect()
}
