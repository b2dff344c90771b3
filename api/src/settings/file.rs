//! The TOML file, flattened to dotted names.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use toml::{Table, Value};

use super::SettingFault;

/// Values by dotted name. Arrays stay values; tables become part of the names.
pub(super) type Flat = BTreeMap<String, Value>;

pub(super) fn read(path: &Path) -> Result<Flat, SettingFault> {
    let text = fs::read_to_string(path)
        .map_err(|source| SettingFault::Unreadable { path: path.to_owned(), source })?;
    let table = text.parse::<Table>().map_err(|fault| SettingFault::Syntax {
        path: path.to_owned(),
        line: fault.span().map_or(1, |span| 1 + text[..span.start].matches('\n').count()),
        reason: fault.message().replace('\n', " "),
    })?;
    let mut flat = Flat::new();
    flatten("", table, &mut flat);
    Ok(flat)
}

fn flatten(prefix: &str, table: Table, flat: &mut Flat) {
    for (key, value) in table {
        let name = if prefix.is_empty() { key } else { format!("{prefix}.{key}") };
        match value {
            Value::Table(inner) => flatten(&name, inner, flat),
            value => {
                flat.insert(name, value);
            }
        }
    }
}
