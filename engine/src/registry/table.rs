//! Reading a table of metrics.
//!
//! Tab-separated, UTF-8, one header row, no quoting; lists inside a cell are
//! separated by `|`. A table is accepted whole or not at all.

use hashbrown::HashMap;

use super::nearest::fold;
use super::{Aggregate, Metric, MetricId, MetricKind, UnitAlias};

const HEADER: [&str; 16] = [
    "key",
    "unit",
    "ucum",
    "unit_aliases",
    "hard_min",
    "hard_max",
    "soft_min",
    "soft_max",
    "aggregate",
    "kind",
    "loinc",
    "event_group",
    "aliases",
    "ow_code",
    "ow_unit",
    "description",
];

/// Metrics and every name that leads to them.
#[derive(Clone, Debug, Default)]
pub(super) struct Table {
    pub(super) metrics: Vec<Metric>,
    /// The number of the first one.
    first: u32,
    /// Keys and aliases as they are written.
    names: HashMap<Box<str>, MetricId>,
    /// The same, folded for the search of near ones; see [`fold`].
    pub(super) folded: Vec<(Box<str>, MetricId)>,
}

/// A line that is no metric.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("line {line}: {cause}")]
pub(super) struct TableFault {
    line: usize,
    #[source]
    cause: Cause,
}

/// What is wrong with the line.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum Cause {
    #[error("{actual} columns, expected {}", HEADER.len())]
    Columns { actual: usize },
    #[error("the header is not the expected one")]
    Header,
    #[error("{column} is {cell:?}")]
    Cell { column: &'static str, cell: String },
    #[error("the name {name:?} is empty or leads to two metrics")]
    Name { name: String },
}

impl Cause {
    pub(super) fn unit(cell: &str) -> Cause {
        cell_fault("unit_aliases", cell)
    }
}

impl Table {
    /// An empty table whose metrics are numbered from `first` on.
    pub(super) fn numbered_from(first: usize) -> Table {
        Table { first: number_of(first), ..Table::default() }
    }

    pub(super) fn parse(text: &str) -> Result<Table, TableFault> {
        let mut table = Table::default();
        let mut lines = text.lines().enumerate().map(|(index, line)| (index + 1, line));
        let (_, header) = lines.next().unwrap_or_default();
        if !header.split('\t').eq(HEADER) {
            return Err(TableFault { line: 1, cause: Cause::Header });
        }
        for (line, text) in lines {
            parse_line(text)
                .and_then(|metric| table.add(metric))
                .map_err(|cause| TableFault { line, cause })?;
        }
        Ok(table)
    }

    #[inline]
    pub(super) fn id(&self, name: &str) -> Option<MetricId> {
        self.names.get(name).copied()
    }

    /// The metric with this number, if it is one of the table's.
    #[inline]
    pub(super) fn metric(&self, id: MetricId) -> Option<&Metric> {
        self.metrics.get(id.0.checked_sub(self.first)? as usize)
    }

    /// The metric whose key, alias or name in Open Wearables is `name`, or can be taken
    /// for it.
    pub(super) fn alike(&self, name: &str) -> Option<&Metric> {
        let folded = fold(name);
        let named = self.folded.iter().find(|(other, _)| **other == *folded);
        match named {
            Some((_, id)) => self.metric(*id),
            None => self.metrics.iter().find(|metric| metric.ow_code.as_deref() == Some(name)),
        }
    }

    /// Adds a metric of an organisation. Its key may be spelt like another but for an
    /// underscore; only the same key is refused.
    pub(super) fn add_own(&mut self, metric: Metric) -> MetricId {
        let id = MetricId(self.first + number_of(self.metrics.len()));
        self.names.insert(metric.key.as_str().into(), id);
        self.folded.push((fold(&metric.key).into(), id));
        self.metrics.push(metric);
        id
    }

    fn add(&mut self, metric: Metric) -> Result<(), Cause> {
        let id = MetricId(self.first + number_of(self.metrics.len()));
        for name in std::iter::once(&metric.key).chain(&metric.aliases) {
            let folded = fold(name);
            // Two metrics whose names differ by case, or by an underscore only
            // would be taken for each other.
            let elsewhere = self.folded.iter().any(|(other, owner)| **other == *folded && *owner != id);
            if name.is_empty() || elsewhere || self.names.insert(name.as_str().into(), id).is_some() {
                return Err(Cause::Name { name: name.clone() });
            }
            self.folded.push((folded.into(), id));
        }
        self.metrics.push(metric);
        Ok(())
    }
}

fn number_of(place: usize) -> u32 {
    u32::try_from(place).expect("a table is a few hundred lines")
}

fn parse_line(line: &str) -> Result<Metric, Cause> {
    let cells: Vec<&str> = line.split('\t').collect();
    let Ok(cells) = <[&str; HEADER.len()]>::try_from(cells.as_slice()) else {
        return Err(Cause::Columns { actual: cells.len() });
    };
    let [key, unit, ucum, units, hard_min, hard_max, soft_min, soft_max, aggregate, kind, loinc, group, ..] =
        cells;
    let [.., aliases, ow_code, ow_unit, description] = cells;
    let metric = Metric {
        key: key.to_owned(),
        unit: unit.to_owned(),
        ucum: ucum.to_owned(),
        unit_aliases: list(units).map(UnitAlias::parse).collect::<Result<_, _>>()?,
        hard_min: number("hard_min", hard_min)?,
        hard_max: number("hard_max", hard_max)?,
        soft_min: optional(soft_min).map(|cell| number("soft_min", &cell)).transpose()?,
        soft_max: optional(soft_max).map(|cell| number("soft_max", &cell)).transpose()?,
        aggregate: one_of("aggregate", aggregate, &Aggregate::ALL, Aggregate::as_str)?,
        kind: one_of("kind", kind, &MetricKind::ALL, MetricKind::as_str)?,
        loinc: list(loinc).map(str::to_owned).collect(),
        event_group: optional(group),
        aliases: list(aliases).map(str::to_owned).collect(),
        ow_code: optional(ow_code),
        ow_unit: optional(ow_unit),
        description: description.to_owned(),
    };
    check(&metric)?;
    Ok(metric)
}

fn check(metric: &Metric) -> Result<(), Cause> {
    let first_is_letter = metric.key.starts_with(|first: char| first.is_ascii_lowercase());
    let rest_fits = metric.key.bytes().all(|byte| matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'_'));
    if !first_is_letter || !rest_fits {
        return Err(cell_fault("key", &metric.key));
    }
    for (column, cell) in [("unit", &metric.unit), ("ucum", &metric.ucum)] {
        if cell.is_empty() {
            return Err(cell_fault(column, cell));
        }
    }
    if metric.hard_min >= metric.hard_max {
        return Err(cell_fault("hard_max", &metric.hard_max.to_string()));
    }
    // A spelling that stands twice could mean two factors; the search of a
    // scale would find only one of them.
    for (index, alias) in metric.unit_aliases.iter().enumerate() {
        if metric.unit_aliases[..index].iter().any(|before| before.name == alias.name)
            || metric.scale(&alias.name) != Some(alias.scale)
        {
            return Err(Cause::unit(&alias.name));
        }
    }
    Ok(())
}

fn list(cell: &str) -> impl Iterator<Item = &str> {
    cell.split('|').filter(move |_| !cell.is_empty())
}

fn optional(cell: &str) -> Option<String> {
    (!cell.is_empty()).then(|| cell.to_owned())
}

fn number(column: &'static str, cell: &str) -> Result<f64, Cause> {
    let number = cell.parse().ok().filter(|number: &f64| number.is_finite());
    number.ok_or_else(|| cell_fault(column, cell))
}

fn one_of<T: Copy>(
    column: &'static str,
    cell: &str,
    all: &[T],
    name: impl Fn(T) -> &'static str,
) -> Result<T, Cause> {
    all.iter().copied().find(|one| name(*one) == cell).ok_or_else(|| cell_fault(column, cell))
}

fn cell_fault(column: &'static str, cell: &str) -> Cause {
    Cause::Cell { column, cell: cell.to_owned() }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LINE: [&str; 16] = [
        "pulse",
        "bpm",
        "/min",
        "/min|Hz=60",
        "1",
        "300",
        "",
        "230",
        "mean",
        "spot",
        "8867-4|1-2",
        "",
        "PULSE|hr",
        "",
        "",
        "Beats",
    ];

    /// A table of `LINE` with one cell replaced.
    fn table(column: &str, cell: &str) -> Result<Table, String> {
        let mut line = LINE;
        let index = HEADER.iter().position(|name| *name == column).expect("a column of the header");
        line[index] = cell;
        parse(&format!("{}\n{}\n", HEADER.join("\t"), line.join("\t")))
    }

    fn parse(text: &str) -> Result<Table, String> {
        Table::parse(text).map_err(|fault| fault.to_string())
    }

    #[test]
    fn a_line_becomes_a_metric() {
        let table = table("key", "pulse").expect("the line is right");
        let [metric] = table.metrics.as_slice() else { panic!("one metric") };
        assert_eq!(
            (metric.key.as_str(), metric.unit.as_str(), metric.ucum.as_str()),
            ("pulse", "bpm", "/min")
        );
        assert_eq!((metric.hard_min, metric.hard_max), (1.0, 300.0));
        assert_eq!((metric.soft_min, metric.soft_max), (None, Some(230.0)));
        assert_eq!((metric.aggregate, metric.kind), (Aggregate::Mean, MetricKind::Spot));
        assert_eq!(metric.loinc, ["8867-4", "1-2"]);
        assert_eq!((&metric.event_group, &metric.ow_code, &metric.ow_unit), (&None, &None, &None));
        assert_eq!(metric.aliases, ["PULSE", "hr"]);
        assert_eq!(metric.description, "Beats");
        assert_eq!(metric.units().collect::<Vec<_>>(), ["bpm", "/min", "Hz"]);
    }

    #[test]
    fn a_malformed_cell_is_named_with_its_line() {
        for (column, cell, expected) in [
            ("key", "Pulse", r#"line 2: key is "Pulse""#),
            ("key", "", r#"line 2: key is """#),
            ("key", "1st", r#"line 2: key is "1st""#),
            ("unit", "", r#"line 2: unit is """#),
            ("unit_aliases", "Hz=x", r#"line 2: unit_aliases is "Hz=x""#),
            ("unit_aliases", "/min||Hz=60", r#"line 2: unit_aliases is """#),
            ("unit_aliases", "Hz=60|Hz", r#"line 2: unit_aliases is "Hz""#),
            ("unit_aliases", "bpm=2", r#"line 2: unit_aliases is "bpm""#),
            ("hard_min", "", r#"line 2: hard_min is """#),
            ("hard_min", "-inf", r#"line 2: hard_min is "-inf""#),
            ("hard_max", "0", r#"line 2: hard_max is "0""#),
            ("soft_max", "high", r#"line 2: soft_max is "high""#),
            ("aggregate", "median", r#"line 2: aggregate is "median""#),
            ("kind", "", r#"line 2: kind is """#),
            ("aliases", "hr|", r#"line 2: the name "" is empty or leads to two metrics"#),
            ("aliases", "hr|hr", r#"line 2: the name "hr" is empty or leads to two metrics"#),
            ("description", "a\tb", "line 2: 17 columns, expected 16"),
        ] {
            assert_eq!(table(column, cell).err().as_deref(), Some(expected), "{column} {cell:?}");
        }
    }

    #[test]
    fn names_of_two_metrics_differ_by_more_than_letter_case() {
        let mut other = LINE;
        (other[0], other[12]) = ("heart", "HR");
        let text = [HEADER, LINE, other].map(|line| line.join("\t")).join("\n");
        assert_eq!(
            parse(&text).err().as_deref(),
            Some(r#"line 3: the name "HR" is empty or leads to two metrics"#)
        );
    }

    #[test]
    fn a_table_begins_with_its_header() {
        for text in ["", "\n", &LINE.join("\t")] {
            assert_eq!(parse(text).err().as_deref(), Some("line 1: the header is not the expected one"));
        }
    }
}
