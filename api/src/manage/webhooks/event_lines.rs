//! `POST /api/v1/events` with many events: one a line, each as it would be sent alone.
//!
//! ```text
//! part of the body -> lines -> event -> handed in -> waiting -> durable: its id
//! ```
//!
//! Lines are taken as they arrive and in their order, and no line waits for the
//! acknowledgement of the one before: so one group of the committer makes many durable.
//! At most [`WAITING_MAX`] are not acknowledged; behind them the body is not read on.
//!
//! **Memory** is a part of the body, a line that is not complete, what waits for the
//! committer and an id a line, and the byte budget has all of it. A body of known length has
//! its share before a byte is read, one of unknown length takes it as it comes. A line takes
//! its part of that share along to the committer, so none waits for bytes that its
//! own body holds.
//!
//! **What full does**: before the first line is taken, the request is refused. From then on it
//! waits, for up to [`WAIT_MAX`] in all, so that a client need not find out where to go on.
//!
//! It is no stream without an end: a body has at most `ingest.body_bytes_max`, and
//! [`EVENTS_MAX`] events.

use std::collections::VecDeque;
use std::ops::Range;
use std::time::{Duration, Instant};

use hyper::header::CONTENT_TYPE;
use hyper::{HeaderMap, StatusCode};
use serde::Serialize;
use systole_engine::{Permit, Publishing, Sequence};

use super::events::{EVENT_BYTES_MAX, Event};
use crate::error::{Entry, Place, Refusal};
use crate::reply::{self, Reply};
use crate::route::Call;
use crate::server::BodyLimits;

const NDJSON: &str = "application/x-ndjson";
/// Events of one body that wait for their acknowledgement: half of what the committer
/// writes at once, so that the next ones gather while these are written.
const WAITING_MAX: usize = 512;
/// Events of one body: their ids take some megabytes until the answer is read.
const EVENTS_MAX: usize = 100_000;
/// How long a body waits for room, from its first byte on.
const WAIT_MAX: Duration = Duration::from_secs(30);
/// How long a spent budget is given until it is asked again.
const BUDGET_REST: Duration = Duration::from_millis(5);
/// About what an id takes until the answer is written, as a text and in the answer: a line
/// leaves as much of its part of the share behind.
const ID_BYTES: usize = 128;

#[derive(Serialize)]
struct Ids {
    ids: Vec<String>,
}

/// A line that is refused.
struct Stopped {
    line: usize,
    why: Refusal,
}

/// Whether the body is one of lines.
pub(super) fn are_sent(headers: &HeaderMap) -> bool {
    let found = headers.get(CONTENT_TYPE).and_then(|found| found.to_str().ok()).unwrap_or_default();
    found.split(';').next().is_some_and(|essence| essence.trim().eq_ignore_ascii_case(NDJSON))
}

pub(super) async fn publish(mut call: Call<'_>) -> Result<Reply, Refusal> {
    let settings = &call.app.settings;
    let limits =
        BodyLimits { bytes_max: settings.ingest.body_bytes_max, timeout: settings.http.body_timeout };
    call.body.check_declared(&limits)?;
    let declared = call.body.declared_bytes().and_then(|bytes| usize::try_from(bytes).ok());
    let share = call.app.engine.budget().try_take(declared.unwrap_or(0)).ok_or(Refusal::BudgetSpent)?;
    let mut taken = Taken::new(share, declared.is_some());
    let read = take(&mut call, limits, &mut taken).await;
    let outcome = taken.settle().await.and(read);
    let webhooks = call.app.engine.webhooks();
    let ids: Vec<String> = taken.durable.iter().map(|sequence| webhooks.published_id(*sequence)).collect();
    match outcome {
        Ok(()) if ids.is_empty() => Err(no_event()),
        Ok(()) => Ok(reply::json_of(StatusCode::ACCEPTED, &Ids { ids })),
        Err(Stopped { line, why }) => Err(Refusal::AtLine { line, ids, why: Box::new(why) }),
    }
}

fn no_event() -> Refusal {
    let place = Place { root: "body", index: None, field: None };
    Refusal::invalid(Entry::new(place, "missing", "has no line with an event"))
}

/// Takes lines until the body ends or one is refused.
async fn take(call: &mut Call<'_>, limits: BodyLimits, taken: &mut Taken) -> Result<(), Stopped> {
    let (mut lines, mut left) = (Lines::default(), limits.left());
    loop {
        let part = match call.body.part(&mut left).await {
            Ok(Some(part)) => part,
            Ok(None) => break,
            Err(why) => return Err(lines.stop(why)),
        };
        taken.admit(part.len()).await.map_err(|why| lines.stop(why))?;
        lines.push(&part);
        while let Some(line) = lines.next_line() {
            taken.take(call, line).await?;
        }
        if lines.open_bytes() > EVENT_BYTES_MAX + b"\r".len() {
            return Err(lines.stop(Refusal::LineTooLong { limit: EVENT_BYTES_MAX }));
        }
        // Parts may lie ready for as long as there are any: other requests come in between.
        tokio::task::yield_now().await;
    }
    match lines.rest() {
        Some(line) => taken.take(call, line).await,
        None => Ok(()),
    }
}

/// What came of the lines so far.
struct Taken {
    /// Of the byte budget: what came and was not handed in, and the ids.
    share: Permit,
    /// Whether the share was taken for the whole body.
    is_whole: bool,
    /// Handed in, and not known to be durable, with their lines; at most [`WAITING_MAX`].
    waiting: VecDeque<(usize, Publishing)>,
    /// Those before, in the order of their lines.
    durable: Vec<Sequence>,
    /// Until when room is waited for.
    until: Instant,
}

impl Taken {
    fn new(share: Permit, is_whole: bool) -> Taken {
        let until = Instant::now() + WAIT_MAX;
        Taken { share, is_whole, waiting: VecDeque::new(), durable: Vec::new(), until }
    }

    /// How long room may be waited for now.
    fn patience(&self) -> Duration {
        if self.waiting.is_empty() && self.durable.is_empty() {
            return Duration::ZERO;
        }
        self.until.saturating_duration_since(Instant::now())
    }

    /// Takes the budget for a part that came.
    async fn admit(&mut self, bytes: usize) -> Result<(), Refusal> {
        while !self.is_whole && !self.share.grow(bytes) {
            if self.patience().is_zero() {
                return Err(Refusal::BudgetSpent);
            }
            tokio::time::sleep(BUDGET_REST).await;
        }
        Ok(())
    }

    async fn take(&mut self, call: &Call<'_>, line: Line<'_>) -> Result<(), Stopped> {
        if line.is_blank() {
            drop(self.share.split(line.bytes.len() + b"\n".len()));
            return Ok(());
        }
        if self.waiting.len() + self.durable.len() >= EVENTS_MAX {
            return Err(Stopped { line: line.number, why: Refusal::TooManyLines { limit: EVENTS_MAX } });
        }
        while self.waiting.len() >= WAITING_MAX {
            self.settle_first().await?;
        }
        let handed_in = self.hand_in(call, line.bytes).await;
        let publishing = handed_in.map_err(|why| Stopped { line: line.number, why })?;
        self.waiting.push_back((line.number, publishing));
        Ok(())
    }

    async fn hand_in(&mut self, call: &Call<'_>, line: &[u8]) -> Result<Publishing, Refusal> {
        if line.len() > EVENT_BYTES_MAX {
            return Err(Refusal::LineTooLong { limit: EVENT_BYTES_MAX });
        }
        let event = Event::read(call, line)?;
        let permit = self.share.split(line.len().saturating_sub(ID_BYTES));
        let patience = self.patience();
        Ok(call.app.engine.hand_in(&event.published(call), permit, patience).await?)
    }

    /// Waits until all are durable, or one cannot become so.
    async fn settle(&mut self) -> Result<(), Stopped> {
        while !self.waiting.is_empty() {
            self.settle_first().await?;
        }
        Ok(())
    }

    /// Waits for the oldest. If it cannot become durable nothing is known of those behind it.
    async fn settle_first(&mut self) -> Result<(), Stopped> {
        let Some((line, publishing)) = self.waiting.pop_front() else { return Ok(()) };
        match publishing.durable().await {
            Ok(sequence) => {
                self.durable.push(sequence);
                Ok(())
            }
            Err(fault) => {
                self.waiting.clear();
                Err(Stopped { line, why: fault.into() })
            }
        }
    }
}

/// A line without what ends it, and which it is, from 1.
struct Line<'a> {
    number: usize,
    bytes: &'a [u8],
}

impl Line<'_> {
    fn is_blank(&self) -> bool {
        self.bytes.trim_ascii().is_empty()
    }
}

/// Cuts what comes in parts into lines, which end with `\n` or `\r\n`.
#[derive(Default)]
struct Lines {
    /// What came; before `begin` it was given.
    bytes: Vec<u8>,
    begin: usize,
    /// Up to here no line ends.
    searched: usize,
    given: usize,
}

impl Lines {
    fn push(&mut self, part: &[u8]) {
        self.bytes.drain(..self.begin);
        self.searched -= self.begin;
        self.begin = 0;
        self.bytes.extend_from_slice(part);
    }

    /// The next line whose end is there.
    fn next_line(&mut self) -> Option<Line<'_>> {
        let Some(at) = self.bytes[self.searched..].iter().position(|byte| *byte == b'\n') else {
            self.searched = self.bytes.len();
            return None;
        };
        let line = self.begin..self.searched + at;
        self.searched = line.end + 1;
        self.begin = self.searched;
        Some(self.give(line))
    }

    /// What stands behind the end of the last line.
    fn rest(&mut self) -> Option<Line<'_>> {
        let line = self.begin..self.bytes.len();
        if line.is_empty() {
            return None;
        }
        self.begin = line.end;
        self.searched = line.end;
        Some(self.give(line))
    }

    fn give(&mut self, line: Range<usize>) -> Line<'_> {
        self.given += 1;
        let bytes = &self.bytes[line];
        Line { number: self.given, bytes: bytes.strip_suffix(b"\r").unwrap_or(bytes) }
    }

    /// Length of the line whose end did not come yet.
    fn open_bytes(&self) -> usize {
        self.bytes.len() - self.begin
    }

    /// What ends it before the next line.
    fn stop(&self, why: Refusal) -> Stopped {
        Stopped { line: self.given + 1, why }
    }
}

#[cfg(test)]
mod tests {
    use hyper::header::HeaderValue;

    use super::*;

    /// The lines of a body that comes in parts of a length, with their numbers.
    fn lines(body: &str, part_bytes: usize) -> Vec<(usize, String)> {
        let (mut lines, mut found) = (Lines::default(), Vec::new());
        let mut note = |line: Line<'_>| {
            let text = if line.is_blank() { "blank" } else { str::from_utf8(line.bytes).unwrap() };
            found.push((line.number, text.to_owned()));
        };
        for part in body.as_bytes().chunks(part_bytes) {
            lines.push(part);
            while let Some(line) = lines.next_line() {
                note(line);
            }
        }
        if let Some(line) = lines.rest() {
            note(line);
        }
        assert_eq!(lines.open_bytes(), 0);
        assert!(lines.rest().is_none() && lines.next_line().is_none());
        found
    }

    #[test]
    fn lines_are_the_same_however_the_body_is_cut_into_parts() {
        let cases: [(&str, &[&str]); 8] = [
            ("", &[]),
            ("{}", &["{}"]),
            ("{}\n", &["{}"]),
            ("{\"a\":1}\r\n{}\n\n{\"b\":2}", &["{\"a\":1}", "{}", "blank", "{\"b\":2}"]),
            ("\n \t\r\n\r\n{}\r\n", &["blank", "blank", "blank", "{}"]),
            ("a\rb\r\r\n\r", &["a\rb\r", "blank"]),
            ("\n", &["blank"]),
            ("first line\nsecond\n third ", &["first line", "second", " third "]),
        ];
        for (body, expected) in cases {
            let expected: Vec<(usize, String)> =
                (1..).zip(expected.iter().map(|line| (*line).to_owned())).collect();
            for part_bytes in 1..=body.len() + 1 {
                assert_eq!(lines(body, part_bytes), expected, "{body:?} in parts of {part_bytes}");
            }
        }
    }

    #[test]
    fn a_line_is_as_long_as_what_came_of_it() {
        let mut lines = Lines::default();
        lines.push(b"{}\n{\"a\"");
        assert_eq!(lines.next_line().map(|line| line.number), Some(1));
        assert!(lines.next_line().is_none());
        assert_eq!((lines.open_bytes(), lines.stop(Refusal::QueueFull).line), (4, 2));
        lines.push(b":1");
        assert!(lines.next_line().is_none());
        assert_eq!((lines.open_bytes(), lines.bytes.len()), (6, 6));
        assert_eq!(lines.rest().map(|line| line.bytes), Some(&b"{\"a\":1"[..]));
    }

    #[test]
    fn lines_are_told_by_their_content_type_alone() {
        let cases = [
            (None, false),
            (Some("application/x-ndjson"), true),
            (Some("Application/X-NDJSON; charset=utf-8"), true),
            (Some(" application/x-ndjson ;x"), true),
            (Some("application/x-ndjsonl"), false),
            (Some("application/json"), false),
            (Some("text/plain; application/x-ndjson"), false),
        ];
        for (content_type, expected) in cases {
            let mut headers = HeaderMap::new();
            if let Some(content_type) = content_type {
                headers.insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
            }
            assert_eq!(are_sent(&headers), expected, "{content_type:?}");
        }
    }
}
