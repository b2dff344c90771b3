//! The registry of metrics: which names are understood, in which units, within
//! which bounds.
//!
//! 131 metrics are built in. They come from `data/metrics.tsv`, which is
//! embedded and read once at start. A lookup of a name or a unit allocates
//! nothing; names and units are compared with their letter case, because `Cal`
//! and `cal` are different things.
//!
//! The registry converts and bounds values. It does not know users, samples or
//! time.
//!
//! This material contains content from LOINC (<http://loinc.org>). LOINC is
//! copyright Regenstrief Institute, Inc. and the Logical Observation
//! Identifiers Names and Codes (LOINC) Committee and is available at no cost
//! under the license at <http://loinc.org/license>.

mod nearest;
mod table;
mod unit;

use table::Table;

pub use unit::{Scale, UnitAlias};

const BUILTIN: &str = include_str!("../../data/metrics.tsv");

/// Everything a point's `metric` can name.
#[derive(Debug)]
pub struct Registry {
    // An organisation's own metrics will be a second table, asked after this
    // one; its ids then continue where the ids of this one end.
    builtin: Table,
}

impl Registry {
    /// The metrics that every organisation has.
    ///
    /// # Panics
    /// If the embedded table is malformed: our bug.
    #[must_use]
    pub fn builtin() -> Registry {
        match Table::parse(BUILTIN) {
            Ok(builtin) => Registry { builtin },
            Err(fault) => panic!("data/metrics.tsv: {fault}"),
        }
    }

    /// All metrics, in the order of the table.
    #[must_use]
    pub fn metrics(&self) -> &[Metric] {
        &self.builtin.metrics
    }

    /// The metric whose key or alias is `name`, letter case included.
    #[inline]
    #[must_use]
    pub fn resolve(&self, name: &str) -> Option<(MetricId, &Metric)> {
        let id = self.builtin.id(name)?;
        Some((id, self.metric(id)))
    }

    /// Keys of up to three metrics whose key or alias is close to `name`, the
    /// closest first. For messages: it takes up to some 100 microseconds.
    #[must_use]
    pub fn nearest(&self, name: &str) -> Vec<&str> {
        let ids = nearest::nearest(name, &self.builtin.folded);
        ids.into_iter().map(|id| self.metric(id).key.as_str()).collect()
    }

    /// The metric with this id.
    ///
    /// # Panics
    /// If the id comes from another registry.
    #[inline]
    #[must_use]
    pub fn metric(&self, id: MetricId) -> &Metric {
        &self.builtin.metrics[id.0 as usize]
    }
}

/// A metric's place in the registry. It holds within one process only and never
/// reaches the disk: frames carry the key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct MetricId(u32);

impl MetricId {
    /// Its place in the registry's order.
    #[must_use]
    pub fn number(self) -> u32 {
        self.0
    }
}

/// One metric.
#[derive(Clone, Debug, PartialEq)]
pub struct Metric {
    /// Unique `lower_snake_case` name.
    pub key: String,
    /// The unit in which values are stored and printed.
    pub unit: String,
    /// UCUM code of the same magnitude.
    pub ucum: String,
    /// Further spellings and units that are accepted.
    pub unit_aliases: Vec<UnitAlias>,
    /// Lowest accepted value, in `unit`.
    pub hard_min: f64,
    /// Highest accepted value, in `unit`.
    pub hard_max: f64,
    /// Below it a value is unusual, if such a bound is known.
    pub soft_min: Option<f64>,
    /// Above it a value is unusual, if such a bound is known.
    pub soft_max: Option<f64>,
    /// How the values of a bucket become one.
    pub aggregate: Aggregate,
    /// What a value stands for.
    pub kind: MetricKind,
    /// LOINC codes, the preferred one first.
    pub loinc: Vec<String>,
    /// Name of the group event, if there is one.
    pub event_group: Option<String>,
    /// Other systems' names of the same metric.
    pub aliases: Vec<String>,
    /// Open Wearables' code.
    pub ow_code: Option<String>,
    /// Open Wearables' unit.
    pub ow_unit: Option<String>,
    /// A few words for people.
    pub description: String,
}

impl Metric {
    /// How a value sent in `unit` becomes canonical, or `None` if the metric
    /// does not know this spelling; it is never guessed.
    #[inline]
    #[must_use]
    pub fn scale(&self, unit: &str) -> Option<Scale> {
        if unit == self.unit || unit == self.ucum {
            return Some(Scale::SAME);
        }
        self.unit_aliases.iter().find(|alias| alias.name == unit).map(|alias| alias.scale)
    }

    /// Whether a canonical value lies within the hard bounds; never true of NaN.
    #[inline]
    #[must_use]
    pub fn allows(&self, value: f64) -> bool {
        self.hard_min <= value && value <= self.hard_max
    }

    /// Every accepted spelling of a unit, the canonical one first.
    pub fn units(&self) -> impl Iterator<Item = &str> {
        let ucum = (self.ucum != self.unit && self.unit_aliases.iter().all(|alias| alias.name != self.ucum))
            .then_some(self.ucum.as_str());
        let aliases = self.unit_aliases.iter().map(|alias| alias.name.as_str());
        std::iter::once(self.unit.as_str()).chain(ucum).chain(aliases)
    }
}

/// How the values of a bucket become one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Aggregate {
    /// Their mean.
    Mean,
    /// Their sum.
    Sum,
    /// The highest.
    Max,
    /// The lowest.
    Min,
    /// The latest.
    Last,
}

impl Aggregate {
    const ALL: [Aggregate; 5] =
        [Aggregate::Mean, Aggregate::Sum, Aggregate::Max, Aggregate::Min, Aggregate::Last];

    /// Its name in the table and in answers.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Aggregate::Mean => "mean",
            Aggregate::Sum => "sum",
            Aggregate::Max => "max",
            Aggregate::Min => "min",
            Aggregate::Last => "last",
        }
    }
}

/// What a value stands for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MetricKind {
    /// A moment.
    Spot,
    /// A span of time.
    Interval,
    /// A day or a night.
    Daily,
}

impl MetricKind {
    const ALL: [MetricKind; 3] = [MetricKind::Spot, MetricKind::Interval, MetricKind::Daily];

    /// Its name in the table and in answers.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            MetricKind::Spot => "spot",
            MetricKind::Interval => "interval",
            MetricKind::Daily => "daily",
        }
    }
}
