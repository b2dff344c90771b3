//! The registry of metrics: which names are understood, in which units, within
//! which bounds.
//!
//! 131 metrics are built in. They come from `data/metrics.tsv`, which is
//! embedded and read once at start. An organisation adds up to
//! [`OWN_METRICS_MAX`] of its own, which only it sees; they stand in the catalog and
//! are never changed or taken away, because samples in their unit may lie in files.
//! A lookup of a name or a unit takes no lock and allocates nothing; names and units
//! are compared with their letter case, because `Cal` and `cal` are different things.
//!
//! ```text
//! Registries   organisation -> Arc<Registry>, replaced as a whole when one adds a metric
//! Registry     what one organisation can name: its own metrics, then the built-in ones
//! ```
//!
//! The registry converts and bounds values. It does not know users, samples or
//! time.
//!
//! This material contains content from LOINC (<http://loinc.org>). LOINC is
//! copyright Regenstrief Institute, Inc. and the Logical Observation
//! Identifiers Names and Codes (LOINC) Committee and is available at no cost
//! under the license at <http://loinc.org/license>.

mod nearest;
mod organisations;
mod own;
mod table;
mod unit;

use std::sync::{Arc, LazyLock};

use table::Table;

pub use organisations::{AddMetricError, Added, OWN_METRICS_MAX, Registries};
pub use own::DefinitionFault;
pub use unit::{Scale, UnitAlias};

const BUILTIN: &str = include_str!("../../data/metrics.tsv");

/// Everything a point's `metric` can name in one organisation.
#[derive(Clone, Debug)]
pub struct Registry {
    builtin: Arc<Table>,
    /// The organisation's own metrics; their numbers go on where those of `builtin`
    /// end.
    own: Table,
}

/// The built-in table; read once.
static BUILTIN_TABLE: LazyLock<Arc<Table>> = LazyLock::new(|| match Table::parse(BUILTIN) {
    Ok(table) => Arc::new(table),
    Err(fault) => panic!("data/metrics.tsv: {fault}"),
});

impl Registry {
    /// The metrics that every organisation has.
    ///
    /// # Panics
    /// If the embedded table is malformed: our bug.
    #[must_use]
    pub fn builtin() -> Registry {
        let builtin = BUILTIN_TABLE.clone();
        let own = Table::numbered_from(builtin.metrics.len());
        Registry { builtin, own }
    }

    /// The metrics that every organisation has, in the order of the table.
    #[must_use]
    pub fn metrics(&self) -> &[Metric] {
        &self.builtin.metrics
    }

    /// The organisation's own metrics, in the order in which they were added.
    #[must_use]
    pub fn own_metrics(&self) -> &[Metric] {
        &self.own.metrics
    }

    /// The metric whose key or alias is `name`, letter case included.
    ///
    /// No own metric has a built-in one's name when it is added. If a later version
    /// builds in a name that an organisation already uses, its samples keep the unit
    /// they were stored in: the own metric stays the one that is found.
    #[inline]
    #[must_use]
    pub fn resolve(&self, name: &str) -> Option<(MetricId, &Metric)> {
        let own = if self.own.metrics.is_empty() { None } else { self.own.id(name) };
        let id = own.or_else(|| self.builtin.id(name))?;
        Some((id, self.metric(id)))
    }

    /// Keys of up to three metrics whose key or alias is close to `name`, the
    /// closest first. For messages: it takes up to some 100 microseconds.
    #[must_use]
    pub fn nearest(&self, name: &str) -> Vec<&str> {
        let ids = nearest::nearest(name, self.builtin.folded.iter().chain(&self.own.folded));
        ids.into_iter().map(|id| self.metric(id).key.as_str()).collect()
    }

    /// The metric with this id.
    ///
    /// # Panics
    /// If the id comes from another organisation's registry.
    #[inline]
    #[must_use]
    pub fn metric(&self, id: MetricId) -> &Metric {
        let metric = self.builtin.metric(id).or_else(|| self.own.metric(id));
        metric.expect("an id of this registry")
    }

    /// Whether a metric is the organisation's own.
    #[must_use]
    pub fn is_own(&self, id: MetricId) -> bool {
        self.builtin.metric(id).is_none()
    }
}

/// A metric's place in its organisation's registry. It holds within one process and
/// organisation only and never reaches the disk: frames carry the key.
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

    /// The one with this name.
    #[must_use]
    pub fn parse(name: &str) -> Option<Aggregate> {
        Aggregate::ALL.into_iter().find(|one| one.as_str() == name)
    }

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

    /// The one with this name.
    #[must_use]
    pub fn parse(name: &str) -> Option<MetricKind> {
        MetricKind::ALL.into_iter().find(|one| one.as_str() == name)
    }

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
