//! A look at the data while it comes in: once a second, the latest of everything
//! and one day of heart rate of a user whose samples were acknowledged.

use std::sync::Arc;
use std::time::Duration;

use serde_json::Value;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep};

use super::compare::Points;
use super::{DemoError, ask, shaped};
use crate::client::{Connection, Server};
use crate::driver::Live;
use crate::fleet::{Fleet, Span};
use crate::random::Random;
use crate::report::error_chain;

const PAUSE: Duration = Duration::from_secs(1);
/// Until something was acknowledged.
const FIRST_PAUSE: Duration = Duration::from_millis(20);
const DAY_SECONDS: u64 = 86_400;

/// What was seen last.
#[derive(Debug, Clone)]
pub(super) enum Look {
    Seen(Sight),
    Failed(String),
}

#[derive(Debug, Clone)]
pub(super) struct Sight {
    pub(super) user_id: String,
    /// Metrics that have data.
    pub(super) metrics: usize,
    /// `heart_rate 62.0 bpm`
    pub(super) latest: String,
    pub(super) latest_time: Duration,
    /// Points of heart rate in the fleet's first day.
    pub(super) points: usize,
    pub(super) points_time: Duration,
}

/// The task that looks; ends when it is dropped.
pub(super) struct Looker {
    last: watch::Receiver<Option<Look>>,
    looking: JoinHandle<()>,
}

impl Looker {
    pub(super) fn start(server: &Server, fleet: &Arc<Fleet>, live: &Arc<Live>) -> Self {
        let (seen, last) = watch::channel(None);
        let (server, fleet, live) = (server.clone(), Arc::clone(fleet), Arc::clone(live));
        Self { last, looking: tokio::spawn(look_on(server, fleet, live, seen)) }
    }

    /// `None` until something was acknowledged.
    pub(super) fn last(&self) -> Option<Look> {
        self.last.borrow().clone()
    }
}

impl Drop for Looker {
    fn drop(&mut self) {
        self.looking.abort();
    }
}

async fn look_on(server: Server, fleet: Arc<Fleet>, live: Arc<Live>, seen: watch::Sender<Option<Look>>) {
    let mut random = Random::seeded(1);
    let mut connection = None;
    loop {
        let Some(batch) = live.written_batch(&mut random) else {
            sleep(FIRST_PAUSE).await;
            continue;
        };
        let look = match look(&server, &mut connection, &fleet, batch).await {
            Ok(sight) => Look::Seen(sight),
            Err(error) => {
                connection = None;
                Look::Failed(error_chain(&error))
            }
        };
        seen.send_replace(Some(look));
        sleep(PAUSE).await;
    }
}

/// Looks at the user of `batch`, over an open connection if there is one.
async fn look(
    server: &Server,
    connection: &mut Option<Connection>,
    fleet: &Fleet,
    batch: u64,
) -> Result<Sight, DemoError> {
    let connection = match connection {
        Some(open) => open,
        none => none.insert(server.connect().await?),
    };
    let user_id = fleet.user_id_of_batch(batch);
    let path = format!("/api/v1/wearables/latest?user_id={user_id}");
    let begin = Instant::now();
    let body = ask(connection, &path).await?;
    let latest_time = begin.elapsed();
    let answer: Value = shaped(&path, &body)?;
    let path = format!("/api/v1/wearables/metric/heart_rate?{}&user_id={user_id}", first_day(fleet).query());
    let begin = Instant::now();
    let body = ask(connection, &path).await?;
    let points_time = begin.elapsed();
    let points = shaped::<Points>(&path, &body)?.data_points.len();
    let metrics = answer["latest"].as_object().map_or(0, serde_json::Map::len);
    let latest = heart_rate(&answer);
    Ok(Sight { user_id, metrics, latest, latest_time, points, points_time })
}

/// The windows begin 44 hours back, so the last 24 hours fill up late.
fn first_day(fleet: &Fleet) -> Span {
    let Span { start_second, .. } = fleet.span();
    Span { start_second, end_second: start_second + DAY_SECONDS }
}

fn heart_rate(answer: &Value) -> String {
    let latest = &answer["latest"]["heart_rate"];
    match (latest["value"].as_f64(), latest["unit"].as_str()) {
        (Some(value), Some(unit)) => format!("heart_rate {value:.1} {unit}"),
        _ => "no heart_rate".to_owned(),
    }
}
