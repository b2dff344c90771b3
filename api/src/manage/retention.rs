//! `/api/v1/retention`: how long an organisation keeps what.
//!
//! A sample that was recorded longer ago than its metric is kept is not shown, from
//! the moment a rule says so, and leaves the disk with the files it stands in.

use hyper::StatusCode;
use serde::Serialize;
use serde_json::Value;
use systole_engine::{EVERY_METRIC, RetentionRule};

use super::fields::{fields, read_body};
use crate::error::{Entry, Refusal};
use crate::reply::{self, Reply};
use crate::route::Call;

/// Longest that can be asked for, in days: a century.
const DAYS_MAX: u32 = 36_500;

#[derive(Serialize)]
struct Shown<'a> {
    retention: Vec<ShownRule<'a>>,
    /// Where no rule says; the server's setting.
    default_days: Option<u32>,
}

#[derive(Serialize)]
struct ShownRule<'a> {
    metric: &'a str,
    days: Option<u32>,
}

pub(crate) fn retention(call: &Call<'_>) -> Result<Reply, Refusal> {
    whole_organisation(call)?;
    Ok(answer(call))
}

pub(crate) async fn set_retention(mut call: Call<'_>) -> Result<Reply, Refusal> {
    whole_organisation(&call)?;
    let body = read_body(&mut call).await?;
    let fields = fields(&body)?;
    let Some(Value::Array(list)) = fields.get("retention") else {
        let kind = if fields.contains_key("retention") { "wrong_type" } else { "missing" };
        return Err(refuse(kind, "must be an array of {\"metric\",\"days\"}".to_owned()));
    };
    let mut rules: Vec<RetentionRule> = Vec::with_capacity(list.len());
    for value in list {
        let rule = rule(&call, value)?;
        if rules.iter().any(|other| other.metric == rule.metric) {
            return Err(refuse("conflict", format!("names {} twice", rule.metric)));
        }
        rules.push(rule);
    }
    call.app.engine.set_retention(&call.org, rules).await?;
    Ok(answer(&call))
}

/// Rules are the organisation's, not one user's.
fn whole_organisation(call: &Call<'_>) -> Result<(), Refusal> {
    if call.caller.user.is_some() { Err(Refusal::OtherUser) } else { Ok(()) }
}

fn rule(call: &Call<'_>, value: &Value) -> Result<RetentionRule, Refusal> {
    let metric = value.get("metric").and_then(Value::as_str);
    let metric = metric.ok_or_else(|| refuse("missing", "each rule needs a metric".to_owned()))?;
    let metric = match metric {
        EVERY_METRIC => EVERY_METRIC.to_owned(),
        name => match call.app.engine.registry(&call.org).resolve(name) {
            Some((_, metric)) => metric.key.clone(),
            None => return Err(refuse("unknown_metric", format!("{name:?} is no metric"))),
        },
    };
    let days = match value.get("days") {
        Some(Value::Null) => None,
        Some(days) => {
            let days = days.as_u64().and_then(|days| u32::try_from(days).ok());
            let fits = days.filter(|days| (1..=DAYS_MAX).contains(days));
            let message = format!("days must be a whole number from 1 to {DAYS_MAX}, or null: for ever");
            Some(fits.ok_or_else(|| refuse("out_of_range", message))?)
        }
        None => return Err(refuse("missing", "each rule needs days; null keeps for ever".to_owned())),
    };
    Ok(RetentionRule { metric, days })
}

fn refuse(kind: &'static str, message: String) -> Refusal {
    Refusal::invalid(Entry::body("retention", kind, message))
}

fn answer(call: &Call<'_>) -> Reply {
    let (rules, default_days) = call.app.engine.retention(&call.org);
    let retention = rules.iter().map(|rule| ShownRule { metric: &rule.metric, days: rule.days }).collect();
    reply::json_of(StatusCode::OK, &Shown { retention, default_days })
}
