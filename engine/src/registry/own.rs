//! What an organisation may define, and how the catalog keeps it.

use systole_storage::MetricRecord;

use super::{Aggregate, Metric, MetricKind, Scale, UnitAlias};

/// Longest key: it is a part of paths and event names.
const KEY_BYTES_MAX: usize = 64;
/// Longest unit, or spelling of one.
const UNIT_CHARS_MAX: usize = 64;
/// Most further spellings of a unit: they are looked through one by one.
const UNIT_ALIASES_MAX: usize = 32;
/// Longest description.
const DESCRIPTION_CHARS_MAX: usize = 1024;

/// What is wrong with a definition.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{field} {message}")]
pub struct DefinitionFault {
    /// The field.
    pub field: &'static str,
    /// What it must be.
    pub message: String,
}

impl Metric {
    /// A metric as an organisation defines it, with what it must say; the rest can be
    /// set before it is added.
    #[must_use]
    pub fn own(key: &str, unit: &str, hard: (f64, f64), aggregate: Aggregate) -> Metric {
        Metric {
            key: key.to_owned(),
            unit: unit.to_owned(),
            ucum: unit.to_owned(),
            unit_aliases: Vec::new(),
            hard_min: hard.0,
            hard_max: hard.1,
            soft_min: None,
            soft_max: None,
            aggregate,
            kind: MetricKind::Spot,
            loinc: Vec::new(),
            event_group: None,
            aliases: Vec::new(),
            ow_code: None,
            ow_unit: None,
            description: String::new(),
        }
    }

    /// Whether an organisation may define it so.
    pub(super) fn check_own(&self) -> Result<(), DefinitionFault> {
        if !is_key(&self.key) {
            let rule = format!("must match [a-z][a-z0-9_]{{0,{}}}", KEY_BYTES_MAX - 1);
            return Err(fault("key", rule));
        }
        let unit_rule =
            || format!("must be 1 to {UNIT_CHARS_MAX} printable characters, without spaces around");
        if !is_unit(&self.unit) {
            return Err(fault("unit", unit_rule()));
        }
        self.check_range()?;
        if self.unit_aliases.len() > UNIT_ALIASES_MAX {
            return Err(fault("unit_aliases", format!("must be at most {UNIT_ALIASES_MAX}")));
        }
        for (index, alias) in self.unit_aliases.iter().enumerate() {
            let twice = self.unit_aliases[..index].iter().any(|before| before.name == alias.name);
            if twice || alias.name == self.unit {
                return Err(fault("unit_aliases", format!("has {:?} twice", alias.name)));
            }
            if !is_unit(&alias.name) {
                return Err(fault("unit_aliases", format!("has a unit that is none: each {}", unit_rule())));
            }
            let Scale { factor, offset } = alias.scale;
            if !factor.is_finite() || factor == 0.0 || !offset.is_finite() {
                let message = "must have a finite scale that is not 0, and a finite offset";
                return Err(fault("unit_aliases", message.to_owned()));
            }
        }
        if !is_text(&self.description, DESCRIPTION_CHARS_MAX) {
            let rule = format!("must be at most {DESCRIPTION_CHARS_MAX} characters, none of them a control");
            return Err(fault("description", rule));
        }
        Ok(())
    }

    fn check_range(&self) -> Result<(), DefinitionFault> {
        let bounds = [
            ("hard_min", Some(self.hard_min)),
            ("hard_max", Some(self.hard_max)),
            ("soft_min", self.soft_min),
            ("soft_max", self.soft_max),
        ];
        if let Some((field, _)) =
            bounds.iter().find(|(_, bound)| bound.is_some_and(|bound| !bound.is_finite()))
        {
            return Err(fault(field, "must be a finite number".to_owned()));
        }
        if self.hard_min >= self.hard_max {
            return Err(fault("hard_max", "must be greater than hard_min".to_owned()));
        }
        for (field, bound) in &bounds[2..] {
            if bound.is_some_and(|bound| !self.allows(bound)) {
                return Err(fault(field, "must lie from hard_min to hard_max".to_owned()));
            }
        }
        match (self.soft_min, self.soft_max) {
            (Some(low), Some(high)) if low >= high => {
                Err(fault("soft_max", "must be greater than soft_min".to_owned()))
            }
            _ => Ok(()),
        }
    }

    /// As the catalog keeps it.
    pub(super) fn to_record(&self, org: &str, created_at: i64) -> MetricRecord {
        MetricRecord {
            org: org.to_owned(),
            key: self.key.clone(),
            unit: self.unit.clone(),
            unit_aliases: self.unit_aliases.iter().map(alias_line).collect(),
            hard_min: self.hard_min,
            hard_max: self.hard_max,
            soft_min: self.soft_min,
            soft_max: self.soft_max,
            aggregate: self.aggregate.as_str().to_owned(),
            kind: self.kind.as_str().to_owned(),
            description: self.description.clone(),
            created_at,
        }
    }

    /// What the catalog kept, if it can be read.
    pub(super) fn of_record(record: &MetricRecord) -> Option<Metric> {
        let aggregate = Aggregate::parse(&record.aggregate)?;
        let mut metric =
            Metric::own(&record.key, &record.unit, (record.hard_min, record.hard_max), aggregate);
        metric.unit_aliases = record.unit_aliases.lines().map(parse_alias).collect::<Option<_>>()?;
        (metric.soft_min, metric.soft_max) = (record.soft_min, record.soft_max);
        metric.kind = MetricKind::parse(&record.kind)?;
        metric.description.clone_from(&record.description);
        metric.check_own().ok()?;
        Some(metric)
    }
}

/// `factor offset name` and an end of line: no name has one.
fn alias_line(alias: &UnitAlias) -> String {
    format!("{} {} {}\n", alias.scale.factor, alias.scale.offset, alias.name)
}

fn parse_alias(line: &str) -> Option<UnitAlias> {
    let mut parts = line.splitn(3, ' ');
    let scale = Scale { factor: parts.next()?.parse().ok()?, offset: parts.next()?.parse().ok()? };
    Some(UnitAlias { name: parts.next()?.to_owned(), scale })
}

fn is_key(key: &str) -> bool {
    key.len() <= KEY_BYTES_MAX
        && key.starts_with(|first: char| first.is_ascii_lowercase())
        && key.bytes().all(|byte| matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'_'))
}

fn is_unit(unit: &str) -> bool {
    !unit.is_empty() && unit.trim() == unit && is_text(unit, UNIT_CHARS_MAX)
}

fn is_text(text: &str, chars_max: usize) -> bool {
    text.chars().count() <= chars_max && !text.chars().any(char::is_control)
}

fn fault(field: &'static str, message: String) -> DefinitionFault {
    DefinitionFault { field, message }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn salivary() -> Metric {
        let mut metric = Metric::own("salivary_cortisol", "nmol/L", (0.0, 500.0), Aggregate::Mean);
        metric.unit_aliases = vec![
            UnitAlias {
                name: "ug/dL".to_owned(),
                scale: Scale { factor: 27.586_206_896_551_722, offset: -0.1 },
            },
            UnitAlias { name: "nano mol".to_owned(), scale: Scale::SAME },
        ];
        metric.soft_max = Some(35.0);
        metric.kind = MetricKind::Daily;
        metric.description = "Speichel-Cortisol, morgens".to_owned();
        metric
    }

    #[test]
    fn a_definition_survives_the_catalog_bit_for_bit() {
        let metric = salivary();
        assert_eq!(metric.check_own(), Ok(()));
        assert_eq!(Metric::of_record(&metric.to_record("acme", 1)), Some(metric));
        let plain = Metric::own("a", "1", (-1e-300, 1e300), Aggregate::Last);
        assert_eq!(Metric::of_record(&plain.to_record("acme", 1)), Some(plain));
    }

    #[test]
    fn a_record_that_is_no_definition_is_not_read() {
        let good = salivary().to_record("acme", 1);
        for bad in [
            MetricRecord { aggregate: "median".to_owned(), ..good.clone() },
            MetricRecord { kind: String::new(), ..good.clone() },
            MetricRecord { unit_aliases: "1 x\n".to_owned(), ..good.clone() },
            MetricRecord { unit_aliases: "one 0 x\n".to_owned(), ..good.clone() },
            MetricRecord { hard_min: 1e9, ..good.clone() },
            MetricRecord { key: "../x".to_owned(), ..good },
        ] {
            assert_eq!(Metric::of_record(&bad), None, "{bad:?}");
        }
    }

    #[test]
    fn a_wrong_definition_names_its_field() {
        let with = |change: fn(&mut Metric)| {
            let mut metric = salivary();
            change(&mut metric);
            metric.check_own().err().map(|fault| fault.field)
        };
        assert_eq!(with(|metric| metric.key = "a".repeat(64)), None);
        assert_eq!(with(|metric| metric.key = "a".repeat(65)), Some("key"));
        for key in ["", "A", "1a", "_a", "a-b", "a b", "ä", "a/b"] {
            let metric = Metric { key: key.to_owned(), ..salivary() };
            assert_eq!(metric.check_own().err().map(|fault| fault.field), Some("key"), "{key:?}");
        }
        assert_eq!(with(|metric| metric.unit = String::new()), Some("unit"));
        assert_eq!(with(|metric| metric.unit = " g".to_owned()), Some("unit"));
        assert_eq!(with(|metric| metric.unit = "g\n".to_owned()), Some("unit"));
        assert_eq!(with(|metric| metric.hard_min = f64::NAN), Some("hard_min"));
        assert_eq!(with(|metric| metric.hard_max = f64::INFINITY), Some("hard_max"));
        assert_eq!(with(|metric| metric.hard_max = 0.0), Some("hard_max"));
        assert_eq!(with(|metric| metric.soft_max = Some(501.0)), Some("soft_max"));
        assert_eq!(with(|metric| metric.soft_min = Some(36.0)), Some("soft_max"));
        assert_eq!(with(|metric| metric.unit_aliases[0].scale.factor = 0.0), Some("unit_aliases"));
        assert_eq!(with(|metric| metric.unit_aliases[0].name = "nmol/L".to_owned()), Some("unit_aliases"));
        assert_eq!(with(|metric| metric.unit_aliases[1].name = "ug/dL".to_owned()), Some("unit_aliases"));
        assert_eq!(with(|metric| metric.description = "a\u{7}".to_owned()), Some("description"));
    }
}
