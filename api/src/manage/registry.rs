//! `GET /api/v1/metrics`: every metric there is, with its units and ranges.

use hyper::StatusCode;
use serde::Serialize;
use systole_engine::Metric;

use crate::reply::{self, Reply};
use crate::route::Call;

#[derive(Serialize)]
struct Listing<'a> {
    data: Vec<Shown<'a>>,
    iterator: Option<&'static str>,
    prev_iterator: Option<&'static str>,
    done: bool,
}

#[derive(Serialize)]
struct Shown<'a> {
    key: &'a str,
    unit: &'a str,
    ucum: &'a str,
    unit_aliases: Vec<ShownUnit<'a>>,
    hard_min: f64,
    hard_max: f64,
    soft_min: Option<f64>,
    soft_max: Option<f64>,
    aggregate: &'static str,
    kind: &'static str,
    loinc: &'a [String],
    event_group: Option<&'a str>,
    aliases: &'a [String],
    ow_code: Option<&'a str>,
    ow_unit: Option<&'a str>,
    description: &'a str,
}

/// `value in unit = value in alias * scale + offset`.
#[derive(Serialize)]
struct ShownUnit<'a> {
    unit: &'a str,
    scale: f64,
    offset: f64,
}

pub(crate) fn registry(call: &Call<'_>) -> Reply {
    let data = call.app.engine.registry().metrics().iter().map(show).collect();
    let listing = Listing { data, iterator: None, prev_iterator: None, done: true };
    reply::json_of(StatusCode::OK, &listing)
}

fn show(metric: &Metric) -> Shown<'_> {
    let units = metric.unit_aliases.iter();
    Shown {
        key: &metric.key,
        unit: &metric.unit,
        ucum: &metric.ucum,
        unit_aliases: units
            .map(|alias| ShownUnit {
                unit: &alias.name,
                scale: alias.scale.factor,
                offset: alias.scale.offset,
            })
            .collect(),
        hard_min: metric.hard_min,
        hard_max: metric.hard_max,
        soft_min: metric.soft_min,
        soft_max: metric.soft_max,
        aggregate: metric.aggregate.as_str(),
        kind: metric.kind.as_str(),
        loinc: &metric.loinc,
        event_group: metric.event_group.as_deref(),
        aliases: &metric.aliases,
        ow_code: metric.ow_code.as_deref(),
        ow_unit: metric.ow_unit.as_deref(),
        description: &metric.description,
    }
}
