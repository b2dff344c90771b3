//! Buckets as they are asked for: `resolution`, `agg`, `tz`, `combine`.

use systole_engine::registry::Aggregate;
use systole_engine::{Aggregation, Bucketing, Metric, Resolution, Zone};

use crate::error::{Entry, Quoted, Refusal};
use crate::route::Query;

/// Parameters that say something about buckets only.
const OF_BUCKETS: [&str; 3] = ["agg", "tz", "combine"];

/// What was asked for, and its own words for the answer.
#[derive(Clone, Debug)]
pub(super) struct Buckets {
    pub(super) bucketing: Bucketing,
    pub(super) resolution: String,
    pub(super) zone: String,
}

impl Buckets {
    /// `None` where samples are wanted as they are.
    pub(super) fn of(query: &Query, metric: &Metric) -> Result<Option<Buckets>, Refusal> {
        let Some(text) = query.get("resolution") else {
            return match OF_BUCKETS.into_iter().find(|name| query.get(name).is_some()) {
                None => Ok(None),
                Some(name) => {
                    let message = "says how buckets are made; it needs resolution";
                    Err(Refusal::invalid(Entry::query(name, "conflict", message)))
                }
            };
        };
        let resolution = Resolution::parse(text).map_err(|fault| {
            Refusal::invalid(Entry::query(
                "resolution",
                "malformed",
                format!("{fault}, not {}", Quoted(text)),
            ))
        })?;
        let zone = query.get("tz").unwrap_or("UTC");
        let bucketing = Bucketing {
            resolution,
            zone: Zone::parse(zone).ok_or_else(|| unknown_zone(zone))?,
            aggregation: aggregation(query, metric)?,
            combine: combine(query)?,
        };
        Ok(Some(Buckets { bucketing, resolution: text.to_owned(), zone: zone.to_owned() }))
    }

    /// The unit of the values.
    pub(super) fn unit<'a>(&self, metric: &'a Metric) -> &'a str {
        match self.bucketing.aggregation {
            Aggregation::Count => "count",
            _ => &metric.unit,
        }
    }
}

/// Its name in questions and answers.
pub(super) fn name(aggregation: Aggregation) -> &'static str {
    match aggregation {
        Aggregation::Avg => "avg",
        Aggregation::Min => "min",
        Aggregation::Max => "max",
        Aggregation::Sum => "sum",
        Aggregation::Count => "count",
        Aggregation::Last => "last",
    }
}

fn aggregation(query: &Query, metric: &Metric) -> Result<Aggregation, Refusal> {
    Ok(match query.get("agg") {
        None => match metric.aggregate {
            Aggregate::Mean => Aggregation::Avg,
            Aggregate::Sum => Aggregation::Sum,
            Aggregate::Max => Aggregation::Max,
            Aggregate::Min => Aggregation::Min,
            Aggregate::Last => Aggregation::Last,
        },
        Some("avg") => Aggregation::Avg,
        Some("min") => Aggregation::Min,
        Some("max") => Aggregation::Max,
        Some("sum") => Aggregation::Sum,
        Some("count") => Aggregation::Count,
        Some("last") => Aggregation::Last,
        Some(other) => {
            let message = format!("must be avg, min, max, sum, count or last, not {}", Quoted(other));
            return Err(Refusal::invalid(Entry::query("agg", "unknown_value", message)));
        }
    })
}

fn combine(query: &Query) -> Result<bool, Refusal> {
    match query.get("combine") {
        None => Ok(false),
        Some("all") => Ok(true),
        Some(other) => {
            let message = format!("must be all, not {}; without it buckets are per source", Quoted(other));
            Err(Refusal::invalid(Entry::query("combine", "unknown_value", message)))
        }
    }
}

fn unknown_zone(text: &str) -> Refusal {
    let hint = match Zone::nearest(text) {
        Some(name) => format!("did you mean {name}?"),
        None => "must be a zone of the IANA database (Europe/Berlin), UTC or recorded".to_owned(),
    };
    let message = format!("unknown zone {}; {hint}", Quoted(text));
    Refusal::invalid(Entry::query("tz", "unknown_value", message))
}
