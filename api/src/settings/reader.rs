//! Looks a setting up where it may stand and says what is wrong with it.

use std::collections::BTreeMap;
use std::net::{SocketAddr, ToSocketAddrs};
use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::time::Duration;

use toml::Value;
use tracing::level_filters::LevelFilter;

use super::env::{Environment, variable};
use super::file::{self, Flat};
use super::{Flags, value};
use crate::auth::Secret;
use crate::nearest::{hint, nearest};

/// A setting that stops the start. The text is one line and names the setting.
#[derive(Debug, thiserror::Error)]
pub enum SettingFault {
    /// The file cannot be read.
    #[error("setting config: cannot read {}", path.display())]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// Why not.
        source: std::io::Error,
    },
    /// The file is not TOML.
    #[error("setting config: {} line {line}: {reason}", path.display())]
    Syntax {
        /// The file.
        path: PathBuf,
        /// Counted from 1.
        line: usize,
        /// What the parser says.
        reason: String,
    },
    /// The file has a name that is no setting.
    #[error("unknown setting {name} in {}{}", path.display(), hint(*nearest))]
    Unknown {
        /// The dotted name.
        name: String,
        /// The file.
        path: PathBuf,
        /// The setting that was meant, if the name is like one.
        nearest: Option<&'static str>,
    },
    /// The value cannot be.
    #[error("setting {name}: {reason}")]
    Wrong {
        /// The name as it was given: a flag, a variable or a dotted name.
        name: String,
        /// What is wrong.
        reason: String,
    },
}

/// One start's flags, variables and file.
pub(super) struct Reader<'a> {
    flags: BTreeMap<&'static str, String>,
    environment: &'a Environment,
    path: PathBuf,
    /// What nobody asked for yet; at the end the names nobody knows.
    file: Flat,
    asked: Vec<(&'static str, String)>,
}

impl<'a> Reader<'a> {
    pub(super) fn open(flags: &Flags, environment: &'a Environment) -> Result<Reader<'a>, SettingFault> {
        let named = environment.get(&variable("config")).filter(|path| !path.is_empty());
        let path = flags.config.clone().or_else(|| named.map(PathBuf::from));
        let file = path.as_deref().map(file::read).transpose()?.unwrap_or_default();
        let given = [("data_dir", &flags.data_dir), ("listen", &flags.listen)];
        let flags = given.into_iter().filter_map(|(name, value)| Some((name, value.clone()?)));
        let path = path.unwrap_or_default();
        Ok(Reader { flags: flags.collect(), environment, path, file, asked: Vec::new() })
    }

    /// Refuses what the file has and nobody asked for.
    pub(super) fn finish(self) -> Result<(), SettingFault> {
        match self.file.into_keys().next() {
            None => Ok(()),
            Some(name) => {
                let nearest = nearest(&name, self.asked.iter().map(|(asked, _)| *asked));
                Err(SettingFault::Unknown { name, path: self.path, nearest })
            }
        }
    }

    /// Names and printed defaults of all that was asked for.
    #[cfg(test)]
    pub(super) fn asked(&self) -> &[(&'static str, String)] {
        &self.asked
    }

    /// The value of `name` and what to call it in a fault. Empty variables are
    /// unset ones: that is how container files write them.
    fn look(&mut self, name: &'static str, default: String) -> Option<(Value, String)> {
        self.asked.push((name, default));
        let from_file = self.file.remove(name);
        if let Some(text) = self.flags.get(name) {
            return Some((Value::String(text.clone()), flag(name)));
        }
        let variable = variable(name);
        if let Some(text) = self.environment.get(&variable).filter(|text| !text.is_empty()) {
            return Some((Value::String(text.clone()), variable));
        }
        from_file.map(|value| (value, name.to_owned()))
    }

    fn set<T>(
        &mut self,
        name: &'static str,
        field: &mut T,
        default: String,
        parse: impl FnOnce(&Value) -> Result<T, String>,
    ) -> Result<(), SettingFault> {
        if let Some((value, name)) = self.look(name, default) {
            *field = parse(&value).map_err(|reason| SettingFault::Wrong { name, reason })?;
        }
        Ok(())
    }

    /// A fault of `name` that shows after it was read, named as it was given.
    pub(super) fn wrong(&self, name: &str, reason: String) -> SettingFault {
        if self.flags.contains_key(name) {
            return SettingFault::Wrong { name: flag(name), reason };
        }
        let variable = variable(name);
        let given = self.environment.get(&variable).is_some_and(|text| !text.is_empty());
        SettingFault::Wrong { name: if given { variable } else { name.to_owned() }, reason }
    }

    pub(super) fn count(
        &mut self,
        name: &'static str,
        field: &mut usize,
        range: RangeInclusive<usize>,
    ) -> Result<(), SettingFault> {
        self.set(name, field, field.to_string(), |value| {
            value::count(value).and_then(|number| within(number, &range, |number| number.to_string()))
        })
    }

    /// As [`count`](Self::count), for a default that is no number.
    pub(super) fn count_or(
        &mut self,
        name: &'static str,
        field: &mut usize,
        default: &str,
        range: RangeInclusive<usize>,
    ) -> Result<(), SettingFault> {
        self.set(name, field, default.to_owned(), |value| {
            value::count(value).and_then(|number| within(number, &range, |number| number.to_string()))
        })
    }

    pub(super) fn size(
        &mut self,
        name: &'static str,
        field: &mut usize,
        range: RangeInclusive<usize>,
    ) -> Result<(), SettingFault> {
        self.set(name, field, value::print_size(*field), |value| {
            value::size(value).and_then(|bytes| within(bytes, &range, value::print_size))
        })
    }

    /// As [`size`](Self::size), for a default that is no number.
    pub(super) fn size_or(
        &mut self,
        name: &'static str,
        field: &mut usize,
        default: &str,
        range: RangeInclusive<usize>,
    ) -> Result<(), SettingFault> {
        self.set(name, field, default.to_owned(), |value| {
            value::size(value).and_then(|bytes| within(bytes, &range, value::print_size))
        })
    }

    /// Texts: a list in the file, separated by commas in the environment.
    pub(super) fn list(&mut self, name: &'static str) -> Result<Vec<String>, SettingFault> {
        let mut list = Vec::new();
        self.set(name, &mut list, "none".to_owned(), |value| match value {
            Value::Array(values) => values.iter().map(string).collect(),
            Value::String(text) => Ok(text.split(',').map(|part| part.trim().to_owned()).collect()),
            other => Err(format!("must be a list of texts, not {}", value::show(other))),
        })?;
        Ok(list)
    }

    pub(super) fn seconds(&mut self, name: &'static str, field: &mut Duration) -> Result<(), SettingFault> {
        self.set(name, field, field.as_secs_f64().to_string(), value::seconds)
    }

    pub(super) fn text(&mut self, name: &'static str) -> Result<Option<String>, SettingFault> {
        let mut text = None;
        self.set(name, &mut text, "none".to_owned(), |value| string(value).map(Some))?;
        Ok(text)
    }

    pub(super) fn path(&mut self, name: &'static str, field: &mut PathBuf) -> Result<(), SettingFault> {
        self.set(name, field, format!("`{}`", field.display()), |value| string(value).map(PathBuf::from))
    }

    /// As [`text`](Self::text), but a fault does not show the value.
    pub(super) fn secret(&mut self, name: &'static str) -> Result<Option<Secret>, SettingFault> {
        let mut secret = None;
        self.set(name, &mut secret, "none".to_owned(), |value| match value {
            Value::String(text) if !text.is_empty() => Ok(Some(Secret::new(text.clone()))),
            _ => Err("must be a text that is not empty".to_owned()),
        })?;
        Ok(secret)
    }

    pub(super) fn address(&mut self, name: &'static str, field: &mut SocketAddr) -> Result<(), SettingFault> {
        self.set(name, field, format!("`{field}`"), |value| address(&string(value)?))
    }

    pub(super) fn level(&mut self, name: &'static str, field: &mut LevelFilter) -> Result<(), SettingFault> {
        self.set(name, field, format!("`{field}`"), |value| {
            let text = string(value)?;
            text.parse().map_err(|_| format!("must be off, error, warn, info, debug or trace, not {text:?}"))
        })
    }

    /// A list of tables, which only the file can hold.
    pub(super) fn tables(&mut self, name: &str) -> Result<Vec<toml::Table>, SettingFault> {
        let table = |value| match value {
            Value::Table(table) => Ok(table),
            other => Err(other),
        };
        match self.file.remove(name) {
            None => Ok(Vec::new()),
            Some(Value::Array(values)) => values.into_iter().map(table).collect::<Result<_, _>>(),
            Some(other) => Err(other),
        }
        .map_err(|_| self.wrong(name, format!("must be tables, each written as [[{name}]]")))
    }
}

/// What the flag of a setting is called.
fn flag(name: &str) -> String {
    format!("--{}", name.replace('_', "-"))
}

fn within(
    number: usize,
    range: &RangeInclusive<usize>,
    print: impl Fn(usize) -> String,
) -> Result<usize, String> {
    if range.contains(&number) {
        return Ok(number);
    }
    Err(format!("must be from {} to {}, not {}", print(*range.start()), print(*range.end()), print(number)))
}

pub(super) fn string(value: &Value) -> Result<String, String> {
    match value {
        Value::String(text) if !text.is_empty() => Ok(text.clone()),
        _ => Err(format!("must be a text that is not empty, not {}", value::show(value))),
    }
}

fn address(text: &str) -> Result<SocketAddr, String> {
    let shape = || format!("must be an address and a port such as 127.0.0.1:8080, not \"{text}\"");
    if let Ok(address) = text.parse() {
        return Ok(address);
    }
    text.to_socket_addrs().ok().and_then(|mut found| found.next()).ok_or_else(shape)
}
