//! The newest samples of many users and metrics, found by plans over the organisation.
//!
//! Constraints: a plan reads the metrics that are asked for in one window of time. Windows go
//! backwards and grow, what was found is not asked for again, and the last one is all the
//! past: there are at most [`WINDOWS_MS`] and one more. Memory is that of what is asked for.

use std::collections::BTreeSet;
use std::ops::Range;
use std::sync::Arc;

use arrow::array::{AsArray, RecordBatch};
use arrow::datatypes::{Float64Type, TimestampMillisecondType, UInt64Type};
use datafusion::catalog::{Session, TableProvider};
use datafusion::common::ScalarValue;
use datafusion::error::Result;
use datafusion::execution::TaskContext;
use datafusion::logical_expr::{Expr, col, lit};
use datafusion::physical_plan::execute_stream;
use futures_util::StreamExt;
use hashbrown::HashMap;

use super::OrgSamples;
use super::schema::table_schema;
use crate::frame::Sequence;
use crate::series::LatestValue;

/// Widths of the windows.
const WINDOWS_MS: [i64; 3] = [86_400_000, 16 * 86_400_000, 256 * 86_400_000];
/// Users that a plan is given by name; of more it reads all there are.
const USERS_NAMED_MAX: usize = 1000;
/// What is read, in this order.
const COLUMNS: [&str; 5] = ["user_id", "metric", "recorded_at", "value", "sequence"];

/// A newest value whose sample does not show, and whose it is.
#[derive(Debug)]
pub(super) struct Missing {
    pub(super) user: String,
    pub(super) value: LatestValue,
}

/// What shows instead of some values, in their order: the newest sample of each user and
/// metric that is not newer than the value.
pub(super) async fn newest_of(
    samples: &OrgSamples,
    session: &dyn Session,
    context: &Arc<TaskContext>,
    missing: &[Missing],
) -> Result<Vec<Option<LatestValue>>> {
    let mut found = Found { places: HashMap::new(), newest: vec![None; missing.len()] };
    for (place, Missing { user, value }) in missing.iter().enumerate() {
        found.places.entry_ref(value.metric.as_str()).or_default().insert(user.clone(), place);
    }
    let last = missing.iter().map(|missing| missing.value.recorded_at).max().unwrap_or(i64::MIN);
    let mut end = last.saturating_add(1);
    for width in WINDOWS_MS.into_iter().chain([i64::MAX]) {
        let start = end.saturating_sub(width);
        let conditions = conditions(found.places.iter(), start, end);
        let projection: Vec<usize> =
            COLUMNS.iter().map(|name| table_schema().index_of(name)).collect::<Result<_, _>>()?;
        let plan = samples.scan(session, Some(&projection), &conditions, None).await?;
        let mut rows = execute_stream(plan, context.clone())?;
        while let Some(batch) = rows.next().await {
            found.take(&batch?, start..end);
        }
        found.forget();
        if found.places.is_empty() {
            break;
        }
        end = start;
    }
    Ok(found.newest)
}

/// What a scan is told to look for. It may give other rows too, of which some are superseded:
/// what supersedes a row is read only if the conditions hold of it.
fn conditions<'a>(
    places: impl Iterator<Item = (&'a String, &'a HashMap<String, usize>)> + Clone,
    start: i64,
    end: i64,
) -> Vec<Expr> {
    let texts = |texts: BTreeSet<&str>| texts.into_iter().map(lit).collect::<Vec<Expr>>();
    let time = |time: i64| lit(ScalarValue::TimestampMillisecond(Some(time), Some("UTC".into())));
    let metrics = texts(places.clone().map(|(metric, _)| metric.as_str()).collect());
    let users: BTreeSet<&str> = places.flat_map(|(_, users)| users.keys()).map(String::as_str).collect();
    let mut conditions = vec![
        col("metric").in_list(metrics, false),
        col("recorded_at").gt_eq(time(start)),
        col("recorded_at").lt(time(end)),
    ];
    if users.len() <= USERS_NAMED_MAX {
        conditions.push(col("user_id").in_list(texts(users), false));
    }
    conditions
}

struct Found {
    /// By metric and user the places of those that are not found yet.
    places: HashMap<String, HashMap<String, usize>>,
    newest: Vec<Option<LatestValue>>,
}

impl Found {
    /// Takes in the rows of a window.
    fn take(&mut self, batch: &RecordBatch, window: Range<i64>) {
        let (users, metrics) = (batch.column(0).as_string_view(), batch.column(1).as_string_view());
        let times = batch.column(2).as_primitive::<TimestampMillisecondType>().values();
        let values = batch.column(3).as_primitive::<Float64Type>().values();
        let sequences = batch.column(4).as_primitive::<UInt64Type>().values();
        for row in (0..batch.num_rows()).filter(|&row| window.contains(&times[row])) {
            let of_metric = self.places.get(metrics.value(row));
            let Some(&place) = of_metric.and_then(|users_of| users_of.get(users.value(row))) else {
                continue;
            };
            let (recorded_at, sequence) = (times[row], Sequence(sequences[row]));
            let newest = &mut self.newest[place];
            if newest.as_ref().is_none_or(|best| (best.recorded_at, best.sequence) < (recorded_at, sequence))
            {
                let metric = metrics.value(row).to_owned();
                *newest = Some(LatestValue { metric, value: values[row], recorded_at, sequence });
            }
        }
    }

    /// Asks no longer for what was found.
    fn forget(&mut self) {
        let Found { places, newest } = self;
        places.retain(|_, users| {
            users.retain(|_, place| newest[*place].is_none());
            !users.is_empty()
        });
    }
}
