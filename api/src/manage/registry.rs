//! `/api/v1/metrics`: every metric an organisation can name, with its units and
//! ranges; and adding one of its own.
//!
//! A metric is never changed or deleted: samples in its unit may lie in files, in
//! answers and in receivers' databases.

use hyper::StatusCode;
use serde::Serialize;
use serde_json::{Map, Value};
use systole_engine::registry::{Aggregate, DefinitionFault, MetricKind, OWN_METRICS_MAX, Scale, UnitAlias};
use systole_engine::{AddMetricError, Added, Metric};

use super::fields::{fields, read_body, refuse_unknown, text};
use crate::error::{Entry, Quoted, Refusal};
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
    /// Whether the organisation defined it.
    own: bool,
    unit: &'a str,
    /// An own metric's unit is in the organisation's words.
    ucum: Option<&'a str>,
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

/// Fields of a definition; the ones that are `null` are as good as absent.
const FIELDS: [&str; 10] = [
    "key",
    "unit",
    "unit_aliases",
    "hard_min",
    "hard_max",
    "soft_min",
    "soft_max",
    "aggregate",
    "kind",
    "description",
];

/// `GET /api/v1/metrics`: built-in ones first.
pub(crate) fn registry(call: &Call<'_>) -> Reply {
    let registry = call.app.engine.registry(&call.org);
    let own = registry.own_metrics();
    // One that was built in after the organisation had defined it is the organisation's.
    let hidden = |metric: &Metric| own.iter().any(|own| own.key == metric.key);
    let builtin = registry.metrics().iter().filter(|metric| own.is_empty() || !hidden(metric));
    let data = builtin.map(|metric| show(metric, false)).chain(own.iter().map(|metric| show(metric, true)));
    let listing = Listing { data: data.collect(), iterator: None, prev_iterator: None, done: true };
    reply::json_of(StatusCode::OK, &listing)
}

/// `POST /api/v1/metrics`: 201 with the new metric, 200 with one that was there in the
/// same words.
pub(crate) async fn add_metric(mut call: Call<'_>) -> Result<Reply, Refusal> {
    if call.caller.user.is_some() {
        return Err(Refusal::KeyBound);
    }
    let body = read_body(&mut call).await?;
    let metric = read(&fields(&body)?)?;
    let (engine, org, wanted) = (call.app.engine.clone(), call.org.clone(), metric.clone());
    let added = tokio::task::spawn_blocking(move || engine.add_metric(&org, wanted)).await;
    let status = match added.map_err(Refusal::internal)?? {
        Added::New => StatusCode::CREATED,
        Added::Already => StatusCode::OK,
    };
    Ok(reply::json_of(status, &show(&metric, true)))
}

impl From<AddMetricError> for Refusal {
    fn from(fault: AddMetricError) -> Refusal {
        match fault {
            AddMetricError::Definition(DefinitionFault { field, message }) => {
                Refusal::invalid(Entry::body(field, "malformed", message))
            }
            AddMetricError::BuiltIn { key, builtin } => Refusal::MetricBuiltIn { key, builtin },
            AddMetricError::Defined { key } => Refusal::MetricDefined { key },
            AddMetricError::TooMany => Refusal::TooManyMetrics { limit: OWN_METRICS_MAX },
            AddMetricError::Catalog(fault) => Refusal::catalog(fault),
        }
    }
}

fn read(fields: &Map<String, Value>) -> Result<Metric, Refusal> {
    refuse_unknown(fields, &FIELDS, "own metric")?;
    let (key, unit) = (needed(text(fields, "key")?, "key")?, needed(text(fields, "unit")?, "unit")?);
    let hard_min = needed(number(fields, "hard_min")?, "hard_min")?;
    let hard_max = needed(number(fields, "hard_max")?, "hard_max")?;
    let aggregate = needed(text(fields, "aggregate")?, "aggregate")?;
    // What `agg=` calls it.
    let name = if aggregate == "avg" { "mean" } else { &aggregate };
    let aggregate = Aggregate::parse(name)
        .ok_or_else(|| unknown("aggregate", &aggregate, "mean (or avg), sum, max, min or last"))?;
    let mut metric = Metric::own(&key, &unit, (hard_min, hard_max), aggregate);
    metric.soft_min = number(fields, "soft_min")?;
    metric.soft_max = number(fields, "soft_max")?;
    if let Some(kind) = text(fields, "kind")? {
        metric.kind =
            MetricKind::parse(&kind).ok_or_else(|| unknown("kind", &kind, "spot, interval or daily"))?;
    }
    metric.description = text(fields, "description")?.unwrap_or_default();
    metric.unit_aliases = unit_aliases(fields)?;
    Ok(metric)
}

fn needed<T>(value: Option<T>, field: &'static str) -> Result<T, Refusal> {
    value.ok_or_else(|| Refusal::invalid(Entry::body(field, "missing", "is missing")))
}

fn unknown(field: &'static str, value: &str, known: &str) -> Refusal {
    Refusal::invalid(Entry::body(field, "unknown_value", format!("must be {known}, not {}", Quoted(value))))
}

fn number(fields: &Map<String, Value>, field: &'static str) -> Result<Option<f64>, Refusal> {
    match fields.get(field) {
        None | Some(Value::Null) => Ok(None),
        Some(Value::Number(number)) => Ok(number.as_f64()),
        Some(_) => Err(Refusal::invalid(Entry::body(field, "wrong_type", "must be a number"))),
    }
}

/// Entries as the listing prints them, `{"unit","scale"?,"offset"?}`, or plain texts for
/// further spellings of the unit.
fn unit_aliases(fields: &Map<String, Value>) -> Result<Vec<UnitAlias>, Refusal> {
    let refuse = |message: &str| Refusal::invalid(Entry::body("unit_aliases", "wrong_type", message));
    let list = match fields.get("unit_aliases") {
        None | Some(Value::Null) => return Ok(Vec::new()),
        Some(Value::Array(list)) => list,
        Some(_) => return Err(refuse("must be an array")),
    };
    let one = |value: &Value| match value {
        Value::String(name) => Some(UnitAlias { name: name.clone(), scale: Scale::SAME }),
        Value::Object(entry) => unit_alias(entry),
        _ => None,
    };
    let read: Option<Vec<UnitAlias>> = list.iter().map(one).collect();
    read.ok_or_else(|| refuse("must hold texts, or objects of unit, scale and offset"))
}

fn unit_alias(entry: &Map<String, Value>) -> Option<UnitAlias> {
    if entry.keys().any(|name| !["unit", "scale", "offset"].contains(&name.as_str())) {
        return None;
    }
    let number = |field, absent| entry.get(field).map_or(Some(absent), Value::as_f64);
    let scale = Scale { factor: number("scale", 1.0)?, offset: number("offset", 0.0)? };
    Some(UnitAlias { name: entry.get("unit")?.as_str()?.to_owned(), scale })
}

fn show(metric: &Metric, own: bool) -> Shown<'_> {
    let units = metric.unit_aliases.iter();
    Shown {
        key: &metric.key,
        own,
        unit: &metric.unit,
        ucum: (!own).then_some(&metric.ucum),
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
