//! The answer to a batch that was stored.

use serde::Serialize;

use super::json::Decoded;
use crate::error::Entry;

#[derive(Serialize)]
struct Partial<'a> {
    accepted: usize,
    rejected: usize,
    detail: &'a [Entry],
}

/// `{"accepted":500}`, with `?partial=true` also what was not.
pub(super) fn render(decoded: &Decoded, partial: bool) -> Vec<u8> {
    let Decoded { accepted, rejected, detail } = decoded;
    if partial {
        let answer = Partial { accepted: *accepted, rejected: *rejected, detail };
        return serde_json::to_vec(&answer).expect("strings and numbers always serialize");
    }
    let mut out = Vec::with_capacity(32);
    out.extend_from_slice(b"{\"accepted\":");
    out.extend_from_slice(itoa::Buffer::new().format(*accepted).as_bytes());
    out.push(b'}');
    out
}
