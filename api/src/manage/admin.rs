//! `POST /api/v1/admin/flush`: everything acknowledged goes to Parquet now.
//! `POST /api/v1/admin/compact`: and into the files of its period, each key once.

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

#[derive(Serialize)]
struct Compacted {
    jobs: u64,
    inputs: u64,
    outputs: u64,
    rows: u64,
    dropped: u64,
    files: u64,
    file_bytes: u64,
}

pub(crate) async fn compact(call: Call<'_>) -> Result<Reply, Refusal> {
    let report = call.app.engine.compact().await?;
    let stats = call.app.engine.stats();
    let compacted = Compacted {
        jobs: report.jobs,
        inputs: report.inputs,
        outputs: report.outputs,
        rows: report.rows_written,
        dropped: report.rows_read - report.rows_written,
        files: stats.files,
        file_bytes: stats.file_bytes,
    };
    Ok(reply::json_of(StatusCode::OK, &compacted))
}
