//! `POST /api/v1/query`: a read-only SQL statement over one organisation.
//!
//! The statement is read under the byte budget, and answered by the engine, which plans,
//! runs and writes it out on threads of its own; here bytes pass through. Up to some
//! mebibytes an answer is held until it is whole, so its errors have a status. A longer
//! one streams as the client reads; if it cannot be finished the connection is closed, so
//! that it never looks whole. A client that leaves ends its statement.

mod accept;

use std::task::{Context, Poll};

use bytes::Bytes;
use hyper::body::SizeHint;
use hyper::header::HeaderValue;
use systole_engine::{Permit, SqlAnswer, SqlError, SqlFormat, SqlQuestion};

use crate::app::App;
use crate::error::{Entry, Refusal, chain};
use crate::manage::fields::{fields, refuse_compressed, text};
use crate::reply::{self, CutOff, Reply};
use crate::route::Call;
use crate::server::{BodyLimits, RequestBody};

/// Longest body: a statement of a mebibyte, and as much again for escapes.
const BODY_BYTES_MAX: usize = 2 * 1024 * 1024;
/// What a body of unknown length takes from the budget at a time.
const STEP_BYTES: usize = 64 * 1024;

pub(crate) async fn query(call: Call<'_>) -> Result<Reply, Refusal> {
    if call.caller.user.is_some() {
        return Err(Refusal::KeyBound);
    }
    let format = accept::format(&call.head.headers)?;
    refuse_compressed(&call.head.headers)?;
    let mut body = Vec::new();
    let _permit = read(call.app, call.body, &mut body).await?;
    let statement = statement(&body)?;
    drop(body);
    let question = SqlQuestion { org: call.org.to_string(), text: statement, format };
    let answer = call.app.engine.sql(question).await?;
    let body = RowBody { whole: answer.whole(), answer, request_id: call.request_id.clone() };
    Ok(reply::rows(content_type(format), body))
}

fn content_type(format: SqlFormat) -> HeaderValue {
    HeaderValue::from_static(match format {
        SqlFormat::Json => accept::JSON,
        SqlFormat::Csv => "text/csv; charset=utf-8; header=present",
        SqlFormat::Arrow => accept::ARROW,
    })
}

/// The field `sql`.
fn statement(body: &[u8]) -> Result<String, Refusal> {
    let mut fields = fields(body)?;
    match text(&fields, "sql")? {
        Some(_) => match fields.remove("sql") {
            Some(serde_json::Value::String(statement)) => Ok(statement),
            _ => Err(Refusal::internal("a text became another type")),
        },
        None => Err(Refusal::invalid(Entry::body("sql", "missing", "is required: one SELECT statement"))),
    }
}

/// Reads the body; it counts against the budget of all bodies while it is here.
async fn read(app: &App, body: &mut RequestBody, out: &mut Vec<u8>) -> Result<Permit, Refusal> {
    let limits = BodyLimits { bytes_max: BODY_BYTES_MAX, timeout: app.settings.http.body_timeout };
    body.check_declared(&limits)?;
    let mut permit = app.engine.budget().try_take(STEP_BYTES).ok_or(Refusal::BudgetSpent)?;
    let mut read = 0;
    body.read(out, &limits, |bytes| {
        read += bytes;
        let missing = read.saturating_sub(permit.bytes());
        if missing > 0 && !permit.grow(missing.next_multiple_of(STEP_BYTES)) {
            return Err(Refusal::BudgetSpent);
        }
        Ok(())
    })
    .await?;
    Ok(permit)
}

/// The body of an answer.
pub(crate) struct RowBody {
    answer: SqlAnswer,
    /// Its length, if it is here whole.
    whole: Option<usize>,
    request_id: HeaderValue,
}

impl RowBody {
    pub(crate) fn poll_bytes(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Bytes, CutOff>>> {
        self.answer.poll_next(cx).map(|bytes| {
            bytes.map(|bytes| {
                bytes.map_err(|fault| {
                    self.cut_off(&fault);
                    CutOff
                })
            })
        })
    }

    pub(crate) fn size_hint(&self) -> SizeHint {
        self.whole.map_or_else(SizeHint::default, |bytes| SizeHint::with_exact(bytes as u64))
    }

    fn cut_off(&self, fault: &SqlError) {
        let (request_id, reason) = (self.request_id.to_str().unwrap_or_default(), chain(fault));
        tracing::warn!(request_id, reason, "answer cut off");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_statement_is_the_field_sql() {
        assert_eq!(statement(br#"{"sql":"SELECT '\u00e9'"}"#).ok().unwrap(), "SELECT 'é'");
        for (body, status) in [
            ("{}", 422),
            (r#"{"sql":null}"#, 422),
            (r#"{"sql":1}"#, 422),
            (r#"["SELECT 1"]"#, 422),
            ("SELECT 1", 400),
            ("", 400),
        ] {
            let refusal = statement(body.as_bytes()).unwrap_err();
            assert_eq!(refusal.status().0.as_u16(), status, "{body}: {refusal}");
        }
    }
}
