//! Admitting and reading a batch's body.

use hyper::HeaderMap;
use hyper::header::{CONTENT_ENCODING, CONTENT_TYPE};
use systole_engine::Permit;

use super::inflate::Encoding;
use crate::app::App;
use crate::error::Refusal;
use crate::server::{BodyLimits, RequestBody};

/// What a body of unknown length takes from the budget at a time.
const STEP_BYTES: usize = 64 * 1024;

/// Checks Content-Type (JSON, or none) and Content-Encoding.
pub(super) fn check_headers(headers: &HeaderMap) -> Result<Option<Encoding>, Refusal> {
    if let Some(found) = headers.get(CONTENT_TYPE) {
        let text = found.to_str().unwrap_or("?");
        let essence = text.split(';').next().unwrap_or_default().trim();
        if !essence.is_empty() && !essence.eq_ignore_ascii_case("application/json") {
            return Err(Refusal::ContentType { found: essence.to_owned(), wanted: "application/json" });
        }
    }
    let Some(found) = headers.get(CONTENT_ENCODING) else { return Ok(None) };
    let text = found.to_str().unwrap_or("?").trim();
    match text.to_ascii_lowercase().as_str() {
        "" | "identity" => Ok(None),
        "gzip" | "x-gzip" => Ok(Some(Encoding::Gzip)),
        "zstd" => Ok(Some(Encoding::Zstd)),
        _ => Err(Refusal::ContentEncoding { found: text.to_owned(), wanted: "gzip, zstd or none" }),
    }
}

/// Takes the budget and reads the body into `buffer`.
pub(super) async fn read(app: &App, body: &mut RequestBody, buffer: &mut Vec<u8>) -> Result<Permit, Refusal> {
    let limits =
        BodyLimits { bytes_max: app.settings.ingest.body_bytes_max, timeout: app.settings.http.body_timeout };
    body.check_declared(&limits)?;
    let declared = body.declared_bytes().and_then(|bytes| usize::try_from(bytes).ok());
    let mut taken = declared.unwrap_or(STEP_BYTES);
    let mut permit = app.engine.budget().try_take(taken).ok_or(Refusal::BudgetSpent)?;
    let mut read = 0;
    body.read(buffer, &limits, |bytes| {
        read += bytes;
        if read > taken {
            let more = (read - taken).next_multiple_of(STEP_BYTES);
            grow(&mut permit, more)?;
            taken += more;
        }
        Ok(())
    })
    .await?;
    Ok(permit)
}

/// Takes more of the budget for a body that is longer than it seemed.
pub(super) fn grow(permit: &mut Permit, bytes: usize) -> Result<(), Refusal> {
    if permit.grow(bytes) { Ok(()) } else { Err(Refusal::BudgetSpent) }
}
