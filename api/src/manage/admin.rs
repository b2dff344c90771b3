//! `POST /api/v1/admin/flush`: everything acknowledged goes to Parquet now.

use hyper::StatusCode;
use serde::Serialize;

use crate::error::Refusal;
use crate::reply::{self, Reply};
use crate::route::Call;

#[derive(Serialize)]
struct Flushed {
    files: u64,
    rows: u64,
    sequence: u64,
}

pub(crate) async fn flush(call: Call<'_>) -> Result<Reply, Refusal> {
    let report = call.app.engine.flush().await?;
    let flushed = Flushed { files: report.files, rows: report.rows, sequence: report.sequence.0 };
    Ok(reply::json_of(StatusCode::OK, &flushed))
}
