//! `GET /health`: is it alive. `GET /ready`: has it recovered, can it write.

use hyper::StatusCode;
use serde::Serialize;

use crate::app::App;
use crate::reply::{self, Reply};

#[derive(Serialize)]
struct Shown<'a> {
    status: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    fault: Option<&'a str>,
    version: &'static str,
}

pub(crate) fn health(app: &App) -> Reply {
    let health = app.engine.health();
    let status = if health.alive { "alive" } else { "failed" };
    show(health.alive, status, health.fault.as_deref())
}

pub(crate) fn ready(app: &App) -> Reply {
    let health = app.engine.health();
    let status = if health.ready { "ready" } else { "not_ready" };
    show(health.ready, status, health.fault.as_deref())
}

fn show(good: bool, status: &'static str, fault: Option<&str>) -> Reply {
    let code = if good { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    let shown = Shown { status, fault, version: env!("CARGO_PKG_VERSION") };
    reply::json_of(code, &shown)
}
